"""Coinbase's protocol by calling it, and the client against a local server with messages of the recorded shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from tapewatch.errors import FeedRefused
from tapewatch.feed.client import FeedClient
from tapewatch.feed.coinbase import CoinbaseSession, product_of, topic_of
from tapewatch.feed.coinbase_trades import CoinbaseSink
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.endings import Cause, ending
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.protocol import ACK_LIMIT_NS
from tapewatch.feed.queue import FrameQueue, Item
from tapewatch.feed.wire import STABLE_NS, Phase, WireSession
from tapewatch.records import Batch, Gap, Kind, Market, Tables
from virtual_time import run_virtual

TOPICS = ["matches.BTC-USD", "matches.ETH-EUR"]
DEADLINE_S = 600.0
NOW_NS = 1_795_701_900_000_000_000  # 14:05:00


def match(trade_id: int, *, product: str = "BTC-USD", kind: str = "match", second: float = 20.0, **other: Any) -> bytes:
    """A message as the exchange writes it, with all that it says and we do not read."""
    message = {
        "type": kind,
        "trade_id": trade_id,
        "maker_order_id": "e4a57f6a-1f3e-4c3b-9d2e-7a86d13c2d1f",
        "taker_order_id": "b7f0d8a7-0f8b-47f2-8a4d-3c3f1c2e5a60",
        "side": "sell",
        "size": "0.00013100",
        "price": "60000.10",
        "product_id": product,
        "sequence": 50_000_000_000 + 7 * trade_id,
        "time": f"2026-11-26T14:04:{second:09.6f}Z",
    }
    return json.dumps(message | other, separators=(",", ":")).encode()


def heartbeat(last_trade_id: int, *, product: str = "BTC-USD", second: float = 21.0) -> bytes:
    message = {
        "type": "heartbeat",
        "last_trade_id": last_trade_id,
        "product_id": product,
        "sequence": 50_000_000_000 + 7 * last_trade_id,
        "time": f"2026-11-26T14:04:{second:09.6f}Z",
    }
    return json.dumps(message, separators=(",", ":")).encode()


def subscriptions(*products: str) -> bytes:
    channels = [{"name": name, "product_ids": list(products), "account_ids": None} for name in ("matches", "heartbeat")]
    return json.dumps({"type": "subscriptions", "channels": channels}).encode()


def error(reason: str) -> bytes:
    return json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason}).encode()


def opened(topics: list[str] = TOPICS) -> CoinbaseSession:
    session: WireSession = CoinbaseSession(topics, 0)
    assert session.phase is Phase.CONNECTING
    (request,) = session.opened(0)
    assert json.loads(request) == {
        "type": "subscribe",
        "product_ids": [product_of(topic) for topic in topics],
        "channels": ["matches", "heartbeat"],
    }
    assert session.phase is Phase.SUBSCRIBING
    assert isinstance(session, CoinbaseSession)
    return session


def test_it_is_live_when_the_subscriptions_are_confirmed() -> None:
    session = opened()
    assert session.received(subscriptions("BTC-USD", "ETH-EUR", "XRP-USD"), 5) == ([], False)
    assert session.phase is Phase.LIVE
    assert (session.acked, session.unconfirmed, session.refused) == (TOPICS, [], [])
    assert session.was_live
    assert not session.is_stable(5 + STABLE_NS - 1)
    assert session.is_stable(5 + STABLE_NS)


def test_it_is_live_with_the_first_trade_too() -> None:
    session = opened()
    assert session.received(match(1, kind="last_match"), 5) == ([], True)
    assert session.phase is Phase.LIVE


@pytest.mark.parametrize(
    ("data", "is_status"),
    [
        (match(1), False),
        (match(1, kind="last_match"), False),
        (heartbeat(1), False),
        (subscriptions("BTC-USD"), True),
        (error("x"), True),
        (b'{"type": "match"}', True),  # written unusually: looked at, and then known
        (b"", True),
    ],
)
def test_only_what_is_no_trade_need_be_looked_at(data: bytes, is_status: bool) -> None:
    assert opened().is_status(data) is is_status


def test_a_product_that_is_not_traded_is_left_out_and_the_others_asked_for_again() -> None:
    session = opened()
    replies, has_data = session.received(error("ETH-EUR is not a valid product"), 7)
    assert not has_data
    (again,) = map(json.loads, replies)
    assert (again["type"], again["product_ids"]) == ("subscribe", ["BTC-USD"])
    assert session.ended is None
    session.received(subscriptions("BTC-USD"), 8)
    assert (session.acked, session.refused, session.not_authorized) == (["matches.BTC-USD"], ["matches.ETH-EUR"], 1)


def test_without_any_product_that_is_traded_it_gives_up_and_names_them() -> None:
    session = opened()
    session.received(error("BTC-USD is not a valid product"), 7)
    session.received(error("eth-eur is not a valid product"), 8)
    assert session.ended == ending(Cause.NOT_TRADED, "BTC-USD, ETH-EUR")
    assert session.ended.fatal
    assert "SYMBOLS" in session.ended.sentence


def test_any_other_error_ends_the_connection_with_its_words() -> None:
    session = opened()
    session.received(subscriptions("BTC-USD"), 5)
    session.received(b'{"type":"error","message":"Too many requests"}', 6)
    assert session.ended == ending(Cause.FORCE_DISCONNECT, "Too many requests")
    assert (session.phase, session.ended.fatal) == (Phase.CLOSED, False)


def test_no_answer_in_time_ends_a_connection_that_was_never_live() -> None:
    session = opened()
    session.overdue(ACK_LIMIT_NS - 1)
    assert session.ended is None
    session.overdue(ACK_LIMIT_NS)
    assert session.ended == ending(Cause.NO_ACK, "BTC-USD, ETH-EUR")


def test_a_topic_without_an_answer_is_unconfirmed() -> None:
    session = opened()
    session.received(subscriptions("BTC-USD"), 5)
    session.overdue(ACK_LIMIT_NS)
    assert session.ended is None
    assert session.unconfirmed == ["matches.ETH-EUR"]
    session.received(subscriptions("BTC-USD", "ETH-EUR"), ACK_LIMIT_NS + 1)
    assert session.unconfirmed == []


def test_the_wish_may_change_and_only_the_difference_is_sent() -> None:
    session = opened()
    session.received(subscriptions("BTC-USD", "ETH-EUR"), 5)
    gone, new = map(json.loads, session.change(["matches.BTC-USD", "matches.SOL-USD"], 6))
    assert (gone["type"], gone["product_ids"]) == ("unsubscribe", ["ETH-EUR"])
    assert (new["type"], new["product_ids"]) == ("subscribe", ["SOL-USD"])
    assert session.change(["matches.BTC-USD", "matches.SOL-USD"], 7) == []
    session.overdue(6 + ACK_LIMIT_NS)
    assert session.unconfirmed == ["matches.SOL-USD"]


def test_the_wish_before_the_socket_is_open_is_asked_for_when_it_is() -> None:
    session = CoinbaseSession(TOPICS, 0)
    assert session.change(["matches.SOL-USD"], 1) == []
    assert json.loads(session.opened(2)[0])["product_ids"] == ["SOL-USD"]


def test_silence_is_stale_and_the_first_ending_counts() -> None:
    session = opened()
    session.end(ending(Cause.SILENCE))
    session.end(ending(Cause.CUT))
    assert session.phase is Phase.STALE
    assert session.ended is not None
    assert session.ended.cause is Cause.SILENCE


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), lambda v: st.dictionaries(
    st.sampled_from(["type", "channels", "reason", "message", "product_ids", "name"]), v | st.lists(v))
).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_nothing_the_exchange_sends_can_raise(data: bytes) -> None:
    session = opened()
    session.is_status(data)
    replies, _ = session.received(data, 1)
    assert all(isinstance(json.loads(reply), dict) for reply in replies)


def test_topics_and_products() -> None:
    assert [topic_of(symbol) for symbol in ("BTC", "BTC-USD", "ETH-EUR")] == [
        "matches.BTC-USD",
        "matches.BTC-USD",
        "matches.ETH-EUR",
    ]


# --- the real client on a local server -------------------------------------------------------------------------


class Coinbase:
    """A local server that takes subscriptions as the exchange does, and then runs a script for each connection."""

    def __init__(self, *scripts: Callable[[ServerConnection], Coroutine[Any, Any, None]], traded: set[str]) -> None:
        self.scripts = scripts
        self.traded = traded
        self.connections = 0
        self.paths: list[str] = []

    async def __call__(self, connection: ServerConnection) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        assert connection.request is not None
        self.paths.append(connection.request.path)
        while True:
            asked = json.loads(await connection.recv())
            wrong = [name for name in asked["product_ids"] if name not in self.traded]
            if not wrong:
                break
            await connection.send(error(f"{wrong[0]} is not a valid product"), text=True)
        await connection.send(subscriptions(*asked["product_ids"]), text=True)
        await script(connection)
        await connection.wait_closed()


def run_client(coinbase: Coinbase, until: Callable[[list[Item]], bool], topics: list[str] = TOPICS) -> list[Item]:
    """What a real client with Coinbase's session and sink puts into the queue, until that is enough."""

    async def main() -> list[Item]:
        items: list[Item] = []
        queue = FrameQueue()
        async with serve(coinbase, "127.0.0.1", 0, close_timeout=0.2, ping_interval=None) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = FeedClient(
                Market.CRYPTO, url, "", topics, CoinbaseSink(queue), session=CoinbaseSession,
                clock_ns=lambda: NOW_NS, sleep=lambda seconds: asyncio.sleep(0.01),
            )  # fmt: skip
            running = asyncio.create_task(client.run())
            async with asyncio.timeout(DEADLINE_S):
                while not until(items):
                    if running.done():
                        running.result()
                    items += queue.take(1_000, 0)
                    await asyncio.sleep(0.005)
            await client.stop()
        return items

    return run_virtual(main())


def records(items: list[Item]) -> tuple[Batch, list[Gap]]:
    """The trades and the gaps of the items, as the log gets them."""
    batch = Ingest(Tables(), Seen(), ["BTC", "ETH-EUR"]).step(items)
    gaps = [Gap.decode(batch.ids[i]) for i in np.flatnonzero(batch.kind == Kind.GAP).tolist()]
    return batch.take(np.flatnonzero(batch.kind == Kind.TRADE)), gaps


def trades_in(items: list[Item]) -> int:
    return len(records(items)[0])


async def says(connection: ServerConnection, *messages: bytes) -> None:
    for message in messages:
        await connection.send(message, text=True)


def test_real_trades_become_records_exactly() -> None:
    async def script(connection: ServerConnection) -> None:
        await says(connection, match(7, kind="last_match"), heartbeat(7), match(8, size="1", price="60001"))
        await says(connection, match(1, product="ETH-EUR", size="0.123456789", price="2000.01"))

    coinbase = Coinbase(script, traded={"BTC-USD", "ETH-EUR"})
    trades, gaps = records(run_client(coinbase, lambda items: trades_in(items) == 3))
    assert coinbase.paths == ["/"]
    assert trades.price.tolist() == [60000.1, 60001.0, 2000.01]
    assert trades.size_e8.tolist() == [13_100, 100_000_000, 12_345_679]
    assert trades.time_ms.tolist() == [1_795_701_860_000] * 3
    assert list(trades.ids) == ["7", "8", "1"]
    assert trades.exchange.tolist() == [1, 1, 1]
    assert set(trades.market.tolist()) == {Market.CRYPTO}
    assert gaps == []


def test_a_drop_is_one_gap_and_the_exchange_is_asked_again() -> None:
    async def first(connection: ServerConnection) -> None:
        await says(connection, match(7, kind="last_match"), match(8, second=21))
        await asyncio.sleep(0.05)
        connection.transport.abort()

    async def second(connection: ServerConnection) -> None:
        await says(connection, match(12, kind="last_match", second=22), match(13, second=23))

    coinbase = Coinbase(first, second, traded={"BTC-USD", "ETH-EUR"})
    trades, gaps = records(run_client(coinbase, lambda items: trades_in(items) == 4))
    assert list(trades.ids) == ["7", "8", "12", "13"]
    assert [gap.cause for gap in gaps] == ["cut"]
    assert gaps[0].symbols == ["BTC", "ETH-EUR"]


def test_a_hole_in_the_numbers_is_a_gap_of_its_symbol() -> None:
    async def script(connection: ServerConnection) -> None:
        await says(connection, match(7, kind="last_match"), match(3, product="ETH-EUR", second=20.5))
        await says(connection, match(10, second=22), match(4, product="ETH-EUR", second=23))

    items = run_client(Coinbase(script, traded={"BTC-USD", "ETH-EUR"}), lambda items: trades_in(items) == 4)
    _, gaps = records(items)
    assert [(gap.cause, gap.symbols, gap.from_ms, gap.to_ms) for gap in gaps] == [
        ("sequence", ["BTC"], 1_795_701_860_000, 1_795_701_862_001)
    ]


def test_symbols_that_coinbase_lacks_are_told_in_a_sentence() -> None:
    async def script(connection: ServerConnection) -> None:
        await says(connection, match(7, kind="last_match"))

    coinbase = Coinbase(script, traded={"BTC-USD"})
    assert trades_in(run_client(coinbase, lambda items: trades_in(items) == 1)) == 1
    with pytest.raises(FeedRefused, match=r"trades none of what was asked for \(FOO-USD\); correct SYMBOLS"):
        run_client(coinbase, lambda items: False, ["matches.FOO-USD"])
