"""The hub: newest wins, alerts in order, bounds, threads. (The stream on a socket is in test_serve_server.)"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.serve.stream import Client, StreamFull, StreamHub, encode_event
from tapewatch.settings import STREAM_ALERTS_MAX
from test_serve_shapes import MINUTE, changes


def events(frame: bytes) -> list[tuple[str, Any]]:
    """(event, data) of each event in a frame."""
    found = []
    for block in frame.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))))
    return found


def prices(hub: StreamHub, client: Client) -> dict[str, Any]:
    return {
        row["symbol"]: row["price"] for event, rows in events(hub.frame(client)) if event == "price" for row in rows
    }


def publish(hub: StreamHub, symbol: str, price: float) -> None:
    hub.publish("price", symbol, {"symbol": symbol, "price": price})


def in_loop(scenario: Any) -> Any:
    async def run() -> Any:
        return scenario(StreamHub())

    return asyncio.run(run())


def test_a_slow_client_gets_the_newest_and_a_fast_one_gets_all() -> None:
    def scenario(hub: StreamHub) -> None:
        fast, slow = hub.join(), hub.join()
        seen = []
        for price in range(1, 101):
            publish(hub, "AAPL", price)
            if price == 50:
                publish(hub, "BTC", 7)
            seen.append(prices(hub, fast)["AAPL"])
        assert seen == list(range(1, 101))
        assert prices(hub, slow) == {"BTC": 7, "AAPL": 100}
        assert hub.frame(slow) == hub.frame(fast) == b""

    in_loop(scenario)


def test_clients_that_have_seen_equally_much_share_one_frame() -> None:
    def scenario(hub: StreamHub) -> None:
        first, second = hub.join(), hub.join()
        publish(hub, "AAPL", 1)
        assert hub.frame(first) is hub.frame(second)

    in_loop(scenario)


def test_alerts_keep_their_order_and_every_state() -> None:
    def scenario(hub: StreamHub) -> None:
        client = hub.join()
        for alert_id, status in (("a", "provisional"), ("b", "provisional"), ("a", "confirmed")):
            row = {"alert_id": alert_id, "symbol": "AAPL", "status": status}
            hub.publish("alert", f"{alert_id} {status}", row)
        got = [(data["alert_id"], data["status"]) for _, data in events(hub.frame(client))]
        assert got == [("a", "provisional"), ("b", "provisional"), ("a", "confirmed")]

    in_loop(scenario)


def test_a_client_too_far_behind_is_told_to_fetch_again() -> None:
    def scenario(hub: StreamHub) -> None:
        slow = hub.join()
        for i in range(STREAM_ALERTS_MAX + 1):
            hub.publish("alert", str(i), {"symbol": "AAPL"})
        fresh = hub.join()
        publish(hub, "AAPL", 1)
        got = [event for event, _ in events(hub.frame(slow))]
        assert got[0] == "resync"
        assert got.count("alert") == STREAM_ALERTS_MAX
        assert [event for event, _ in events(hub.frame(fresh))] == ["price"]

    in_loop(scenario)


def test_a_client_gets_only_the_symbols_it_asked_for() -> None:
    def scenario(hub: StreamHub) -> None:
        client = hub.join(frozenset({"AAPL", "BTC"}), frozenset({"BTC"}))
        for symbol in ("AAPL", "BTC", "TSLA"):
            publish(hub, symbol, 1)
            hub.publish("bar", f"{symbol} 1", {"symbol": symbol}, symbol)
            hub.publish("alert", symbol, {"symbol": symbol})
        got = events(hub.frame(client))
        assert [r["symbol"] for event, rows in got if event == "price" for r in rows] == ["AAPL", "BTC"]
        assert [r["symbol"] for event, rows in got if event == "bar" for r in rows] == ["BTC"]
        assert [row["symbol"] for event, row in got if event == "alert"] == ["AAPL", "BTC"]

    in_loop(scenario)


def test_what_the_engine_changed_becomes_rows() -> None:
    def scenario(hub: StreamHub) -> None:
        client = hub.join()
        hub.publish_changes(changes(), 5 * MINUTE, MINUTE)
        got = events(hub.frame(client))
        assert [event for event, _ in got] == ["price", "bar", "alert"]
        assert got[0][1][0]["price"] == 101.5
        assert [bar["close"] for bar in got[1][1]] == [1.5, 1.5]
        assert got[2][1]["alert_id"] == "x"

    in_loop(scenario)


def test_nothing_is_kept_while_nobody_listens() -> None:
    def scenario(hub: StreamHub) -> None:
        publish(hub, "AAPL", 1)
        hub.publish_changes(changes(), 5 * MINUTE, MINUTE)
        client = hub.join()
        assert hub.frame(client) == b""
        publish(hub, "AAPL", 2)
        hub.leave(client)
        again = hub.join()
        assert hub.frame(again) == b""

    in_loop(scenario)


def test_clients_are_bounded_and_places_are_given_back() -> None:
    async def scenario() -> None:
        hub = StreamHub(clients_max=2)
        first, _ = hub.join(), hub.join()
        with pytest.raises(StreamFull):
            hub.join()
        hub.leave(first)
        hub.join()

    asyncio.run(scenario())


def test_closing_wakes_everyone_and_later_clients_end_at_once() -> None:
    async def scenario() -> None:
        hub = StreamHub()
        client = hub.join()
        hub.close()
        assert client.closed
        assert client.wake.is_set()
        assert hub.join().closed

    asyncio.run(scenario())


def test_publishing_from_another_thread_wakes_the_client() -> None:
    async def scenario() -> None:
        hub = StreamHub()
        client = hub.join()
        threads = [
            threading.Thread(target=lambda n=n: [publish(hub, f"S{n}", i) for i in range(500)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(120):
            latest: dict[str, float] = {}
            while latest != {f"S{n}": 499 for n in range(4)}:
                await client.wake.wait()
                client.wake.clear()
                latest |= prices(hub, client)
        for thread in threads:
            thread.join()

    asyncio.run(scenario())


def test_publishing_after_the_loop_has_gone_does_nothing() -> None:
    hub = StreamHub()

    async def scenario() -> None:
        hub.join()

    asyncio.run(scenario())
    publish(hub, "AAPL", 1)
    publish(hub, "AAPL", 2)


@given(st.lists(st.one_of(st.tuples(st.sampled_from("ABC"), st.integers(0, 9)), st.sampled_from([0, 1])), max_size=40))
def test_whenever_a_client_looks_it_knows_what_is_true(steps: list[Any]) -> None:
    """Steps are publications (symbol, price), or a client taking its frame. In the end both have the last values."""

    def scenario(hub: StreamHub) -> None:
        clients, known = (hub.join(), hub.join()), ({}, {})  # type: ignore[var-annotated]
        truth: dict[str, int] = {}
        for step in steps:
            if isinstance(step, tuple):
                publish(hub, *step)
                truth[step[0]] = step[1]
            else:
                known[step].update(prices(hub, clients[step]))
                assert known[step] == truth
        for client, knows in zip(clients, known, strict=True):
            knows.update(prices(hub, client))
            assert knows == truth

    in_loop(scenario)


def test_an_event_is_one_block_whatever_is_in_it() -> None:
    frame = encode_event("alert", {"text": "line\nbreak\r\n\n", "number": float("nan")})
    assert frame.count(b"\n\n") == 1
    assert events(frame) == [("alert", {"text": "line\nbreak\r\n\n", "number": None})]
