"""The client against a real WebSocket server that follows a script: endings, gaps, ticks, silence, back-pressure."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tapewatch.errors import FeedRefused
from tapewatch.feed.client import FeedClient, FeedState, Terms
from tapewatch.feed.endings import EVICTED_WAIT_S, RULES, Action, Cause, Ending, Notice, ending
from tapewatch.feed.protocol import Session
from tapewatch.feed.queue import Frame, FrameQueue, GapEnd, Item, TickDue
from tapewatch.feed.wire import Phase
from tapewatch.records import Market
from tapewatch.settings import TICK_HEARD_MS
from virtual_time import run_virtual

DEADLINE_S = 120.0
NOW_NS = 1_788_877_046_300_000_000
TRADE = b'[{"ev":"T","sym":"AAPL","p":1,"ds":"1","t":1788877046310}]'


def status(name: str, message: str = "") -> str:
    return json.dumps([{"ev": "status", "status": name, "message": message}])


Script = Callable[["Exchange", ServerConnection], Coroutine[Any, Any, object]]


class Exchange:
    """A server that runs one script for each connection, in turn; the last one again and again."""

    def __init__(self, *scripts: Script, refuse: HTTPStatus | None = None, retry_after: str = "") -> None:
        self.scripts = scripts
        self.refuse = refuse
        self.retry_after = retry_after
        self.connections = 0
        self.paths: list[str] = []
        self.heard: list[dict[str, str]] = []
        self.errors: list[BaseException] = []
        self.closed: list[int | None] = []

    async def __call__(self, connection: ServerConnection) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        assert connection.request is not None
        self.paths.append(connection.request.path)
        try:
            await script(self, connection)
            await connection.wait_closed()
        except AssertionError as error:
            self.errors.append(error)
        finally:
            self.closed.append(connection.close_code)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.refuse is None:
            return None
        self.connections += 1
        response = connection.respond(self.refuse, "no\n")
        if self.retry_after:
            response.headers["Retry-After"] = self.retry_after
        if self.refuse is HTTPStatus.FOUND:
            response.headers["Location"] = "/elsewhere"
        return response

    async def hear(self, connection: ServerConnection) -> dict[str, str]:
        said: dict[str, str] = json.loads(await connection.recv())
        self.heard.append(said)
        return said

    async def greet(self, connection: ServerConnection) -> None:
        await connection.send(status("connected", "Connected Successfully"))
        assert (await self.hear(connection)) == {"action": "auth", "params": "secret"}

    async def admit(self, connection: ServerConnection) -> list[str]:
        await self.greet(connection)
        await connection.send(status("auth_success", "authenticated"))
        return (await self.hear(connection))["params"].split(",")

    async def subscribe(self, connection: ServerConnection) -> None:
        for topic in await self.admit(connection):
            await connection.send(status("success", f"subscribed to: {topic}"))


async def live(exchange: Exchange, connection: ServerConnection) -> None:
    await exchange.subscribe(connection)
    await connection.send(TRADE.decode())


def then(script: Script, after: Callable[[ServerConnection], Awaitable[object]]) -> Script:
    async def both(exchange: Exchange, connection: ServerConnection) -> None:
        await script(exchange, connection)
        await after(connection)

    return both


def close(code: int, reason: str = "") -> Callable[[ServerConnection], Awaitable[object]]:
    return lambda connection: connection.close(code, reason)


async def cut(connection: ServerConnection) -> None:
    connection.transport.abort()


async def broken_frame(connection: ServerConnection) -> None:
    connection.transport.write(b"\xff\xff\xff\xff")


async def half_a_frame(connection: ServerConnection) -> None:
    connection.transport.write(b"\x81\x7e\x10\x00[")  # text of 4,096 bytes, of which one comes
    await cut(connection)


class Run:
    """A client of a running `Exchange`, with its queue, its states and the waits it asked for."""

    def __init__(self, url: str, **given: Any) -> None:
        self.queue = FrameQueue(given.pop("bytes_max", 1 << 20))
        self.states: list[FeedState] = []
        self.waits: list[float] = []
        self.taken: list[Item] = []
        options: dict[str, Any] = {
            "clock_ns": lambda: NOW_NS,
            "rng": random.Random(1),
            "topics": ["T.AAPL", "T.TSLA"],
        } | given
        topics = options.pop("topics")
        self.client = FeedClient(
            Market.STOCKS, url, "secret", topics, self.queue, sleep=self._sleep, on_state=self.states.append, **options
        )
        self.task = asyncio.create_task(self.client.run())

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0.01)  # a loop that is never idle would not let time leap

    async def items(self, number: int) -> list[Item]:
        """The next so many items."""
        while len(self.taken) < number:
            if self.task.done():
                self.task.result()
            if not (taken := self.queue.take(1, 0)):
                await asyncio.sleep(0.002)
            self.taken += taken
        items, self.taken = self.taken[:number], self.taken[number:]
        return items

    async def until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.002)


def play(
    exchange: Exchange, scene: Callable[[Run], Coroutine[Any, Any, None]], url: str | None = None, **options: Any
) -> Run:
    """Run ``scene`` with a client of ``exchange``; stop the client; return what there is to look at.

    Time leaps (`virtual_time.py`), so that no limit of the client is reached because the machine is slow.
    """

    async def main() -> Run:
        async with serve(
            exchange, "127.0.0.1", 0, process_request=exchange.answer, close_timeout=0.2, ping_interval=None
        ) as server:
            port = server.sockets[0].getsockname()[1]
            run = Run(url or f"ws://127.0.0.1:{port}", **options)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await scene(run)
            finally:
                await run.client.stop()
            assert exchange.errors == []
            return run

    return run_virtual(main())


def running_ns() -> int:
    """A clock that goes as the loop's time does."""
    return NOW_NS + int(asyncio.get_running_loop().time() * 1e9)


GAP = GapEnd(Market.STOCKS, NOW_NS // 1_000_000, "restart", ("AAPL", "TSLA"), NOW_NS)
FRAME = Frame(Market.STOCKS, TRADE, NOW_NS)
TICK = TickDue(Market.STOCKS, NOW_NS // 1_000_000_000 * 1_000, NOW_NS)


def no_ticks(items: list[Item]) -> list[Item]:
    return [item for item in items if not isinstance(item, TickDue)]


def test_the_first_connection_brings_a_gap_end_and_then_frames() -> None:
    async def scene(run: Run) -> None:
        assert await run.items(2) == [GAP, FRAME]
        await run.until(lambda: run.client.state.acked == 2)

    exchange = Exchange(live)
    run = play(exchange, scene, replay=True)
    assert exchange.paths == ["/stocks"]
    assert exchange.heard == [
        {"action": "auth", "params": "secret"},
        {"action": "subscribe", "params": "T.AAPL,T.TSLA"},
    ]
    assert [state.phase for state in run.states] == [
        Phase.CONNECTING,
        Phase.AUTHENTICATING,
        Phase.SUBSCRIBING,
        Phase.LIVE,
        Phase.CLOSED,
    ]
    assert exchange.closed == [1000], "stop() says good-bye"
    assert run.client.state.last_frame_ns == NOW_NS


def test_a_tick_each_second_of_the_feeds_clock_while_live() -> None:
    async def scene(run: Run) -> None:
        items = await run.items(3)
        assert [item for item in items if isinstance(item, TickDue)] == [
            TickDue(Market.STOCKS, (NOW_NS // 1_000_000_000 - 900) * 1_000, NOW_NS)
        ]
        gap = items[0]
        assert isinstance(gap, GapEnd)
        assert gap.to_ms == NOW_NS // 1_000_000 - 900_000

    play(Exchange(live), scene, delay_ms=900_000)


def test_no_tick_once_nothing_was_heard_for_a_while() -> None:
    """A tick says that there was no trade; of a dead connection nobody knows that."""

    async def scene(run: Run) -> None:
        await run.until(lambda: run.waits != [])
        items = await run.items(len(run.queue))
        heard_ns = next(item.received_ns for item in items if isinstance(item, Frame))
        ticks = [item.received_ns for item in items if isinstance(item, TickDue)]
        assert ticks != []
        assert max(ticks) - heard_ns < TICK_HEARD_MS * 1_000_000

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()  # answers no ping

    play(Exchange(then(live, deaf)), scene, clock_ns=running_ns)


def test_no_tick_before_the_feed_is_live() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: run.client.state.phase is Phase.SUBSCRIBING)
        await run.until(lambda: exchange.connections > 1)

    async def mute(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.admit(connection)
        connection.transport.pause_reading()  # answers no ping

    exchange = Exchange(mute, Exchange.admit)
    run = play(exchange, scene, silence_ms=200)
    assert len(run.queue) == 0


ENDINGS = [
    (then(live, close(1000)), Cause.CLOSED),
    (then(live, close(1001, "going away")), Cause.CLOSED),
    (then(live, close(1008, "policy")), Cause.CLOSED),
    (then(live, close(1011)), Cause.CLOSED),
    (then(live, close(1011, "keepalive ping timeout")), Cause.PING_TIMEOUT),
    (then(live, cut), Cause.CUT),
    (then(live, lambda c: c.send(status("slow_consumer"))), Cause.SLOW_CONSUMER),
    (then(live, lambda c: c.send(status("force_disconnect"))), Cause.FORCE_DISCONNECT),
    (then(live, lambda c: c.send("x" * (17 * 1024 * 1024))), Cause.TOO_LARGE),
    (then(live, close(1009)), Cause.TOO_LARGE),
    (then(live, broken_frame), Cause.UNREADABLE),
    (then(live, half_a_frame), Cause.CUT),
    (then(live, lambda c: c.send(status("auth_required"))), Cause.AUTH_REQUIRED),
    (then(live, lambda c: c.send(status("auth_timeout"))), Cause.AUTH_TIMEOUT),
]


@pytest.mark.parametrize(("script", "cause"), ENDINGS, ids=[f"{n}-{cause}" for n, (_, cause) in enumerate(ENDINGS)])
def test_after_every_ending_it_subscribes_again_and_ends_the_gap(script: Script, cause: Cause) -> None:
    async def scene(run: Run) -> None:
        items = no_ticks(await run.items(4))
        assert items[:2] == [GAP, FRAME]
        assert items[2:] == [GapEnd(Market.STOCKS, GAP.to_ms, cause, GAP.symbols, NOW_NS), FRAME]

    exchange = Exchange(script, live)
    run = play(exchange, scene, replay=True)
    assert [said["action"] for said in exchange.heard] == ["auth", "subscribe"] * 2
    assert len(run.waits) == 1
    assert 0.2 <= run.waits[0] <= 1.0
    assert run.states[-1].reconnects == 1
    assert run.client.state.last_ending != ""


HANDSHAKES: list[Script] = [
    then(lambda e, c: asyncio.sleep(0), cut),
    then(lambda e, c: c.send(status("connected")), cut),
    then(Exchange.greet, cut),
    then(Exchange.greet, close(1000)),
    then(Exchange.admit, cut),
    then(Exchange.greet, lambda c: c.send(status("auth_timeout", "No authentication request received."))),
]


def test_drops_in_the_handshake_lose_no_subscription_and_no_gap_cause() -> None:
    async def scene(run: Run) -> None:
        first = no_ticks(await run.items(2))
        assert first == [GAP, FRAME]
        second = no_ticks(await run.items(2))
        assert second == [GapEnd(Market.STOCKS, GAP.to_ms, Cause.CUT, GAP.symbols, NOW_NS), FRAME]

    exchange = Exchange(*HANDSHAKES, then(live, cut), *HANDSHAKES, live)
    run = play(exchange, scene, replay=True)
    subscriptions = [said["params"] for said in exchange.heard if said["action"] == "subscribe"]
    assert set(subscriptions) == {"T.AAPL,T.TSLA"}
    assert exchange.connections == 14
    assert len(run.waits) == 13
    # a connection that was not live for ten seconds does not make the waits short again
    assert all(
        wait >= low for wait, low in zip(run.waits, [0.2, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30], strict=True)
    )


def test_after_max_connections_it_waits_a_minute() -> None:
    async def scene(run: Run) -> None:
        await run.items(3)

    evicted = then(live, lambda c: c.send(status("max_connections", "Maximum number of connections exceeded.")))
    run = play(Exchange(then(evicted, close(1008)), live), scene, replay=True)
    assert run.waits[0] >= 60
    assert "stop the other program" in run.client.state.last_ending


def test_evicted_again_and_again_it_waits_longer_and_never_fights() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: len(run.waits) >= 3)

    words = "Maximum number of websocket connections exceeded."
    run = play(Exchange(then(live, close(1008, words))), scene, replay=True)
    assert all(wait >= EVICTED_WAIT_S * 2**n for n, wait in enumerate(run.waits[:3]))


@pytest.mark.parametrize(
    ("exchange", "words"),
    [
        (
            Exchange(then(Exchange.greet, lambda c: c.send(status("auth_failed", "authentication failed")))),
            "MASSIVE_API_KEY",
        ),
        (Exchange(live, refuse=HTTPStatus.UNAUTHORIZED), "HTTP 401"),
    ],
)
def test_a_refusal_ends_the_run(exchange: Exchange, words: str) -> None:
    async def scene(run: Run) -> None:
        with pytest.raises(FeedRefused, match=words) as refused:
            await run.task
        assert "secret" not in str(refused.value)

    run = play(exchange, scene)
    assert exchange.connections == 1
    assert run.waits == []


def test_an_auth_failure_with_a_dropped_connection_is_a_refusal_too() -> None:
    async def no_plan(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.greet(connection)
        await connection.send(status("auth_failed", "Your plan doesn't include websocket access."))
        connection.transport.abort()

    async def scene(run: Run) -> None:
        with pytest.raises(FeedRefused, match="Your plan"):
            await run.task

    play(Exchange(no_plan), scene)


@pytest.mark.parametrize("refuse", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.FOUND])
def test_an_http_error_is_tried_again_and_no_redirect_followed(refuse: HTTPStatus) -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: exchange.connections >= 3)

    exchange = Exchange(live, refuse=refuse)
    run = play(exchange, scene)
    assert f"HTTP {refuse.value}" in run.client.state.last_ending
    assert exchange.paths == []


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: run.waits != [])

    run = play(Exchange(live, refuse=HTTPStatus.SERVICE_UNAVAILABLE, retry_after="37"), scene)
    assert 37 <= run.waits[0] <= 38


def test_a_server_without_tls_is_no_encrypted_connection() -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), await asyncio.start_server(no_tls, "127.0.0.1", 0) as server:
            run = Run(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await run.until(lambda: run.waits != [])
            await run.client.stop()
            assert "no encrypted connection" in run.client.state.last_ending

    asyncio.run(main())


def test_a_closed_port_is_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def scene(run: Run) -> None:
            await run.until(lambda: len(run.waits) >= 3)

        run = play(Exchange(live), scene, url=f"ws://127.0.0.1:{port}")
    assert "nothing listens" in run.client.state.last_ending


def test_a_finished_recording_ends_the_run() -> None:
    async def scene(run: Run) -> None:
        await run.task

    run = play(Exchange(then(live, close(1000, "replay finished"))), scene, replay=True)
    assert run.queue.take(100, 0) == [GAP, FRAME]
    assert run.waits == []


def test_silence_is_noticed_and_ends_the_connection() -> None:
    async def deaf(exchange: Exchange, connection: ServerConnection) -> None:
        await live(exchange, connection)
        connection.transport.pause_reading()  # neither data nor pongs from now on

    async def scene(run: Run) -> None:
        items = await run.items(4)
        assert GapEnd(Market.STOCKS, GAP.to_ms, Cause.SILENCE, GAP.symbols, NOW_NS) in items

    run = play(Exchange(deaf, live), scene, replay=True)
    assert Phase.STALE in [state.phase for state in run.states]


def test_answers_to_pings_are_signs_of_life() -> None:
    async def scene(run: Run) -> None:
        await run.items(2)
        await asyncio.sleep(100)  # more than twice the limit, without data

    exchange = Exchange(live)
    run = play(exchange, scene, replay=True)
    assert exchange.connections == 1
    assert run.waits == []


def test_a_full_queue_holds_up_the_reader_and_loses_nothing() -> None:
    total = 1_000

    async def flood(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.subscribe(connection)
        for number in range(total):
            await connection.send(json.dumps([{"ev": "T", "i": str(number), "pad": "x" * 1_000}]))

    async def scene(run: Run) -> None:
        await run.until(lambda: run.queue.bytes_waiting > 8_000)
        await asyncio.sleep(60)  # longer than the silence that is allowed: a full queue is no silence
        assert run.queue.bytes_waiting <= 10_000
        items = no_ticks(await run.items(total + 1))
        numbers = [json.loads(item.data)[0]["i"] for item in items if isinstance(item, Frame)]
        assert numbers == [str(number) for number in range(total)]

    exchange = Exchange(flood)
    run = play(exchange, scene, bytes_max=10_000, replay=True)
    assert exchange.connections == 1
    assert run.waits == []


# --- what troubles a connection without ending it ------------------------------------------------------------------


def test_a_full_queue_is_said() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: any("reading waits" in said for said in run.client.state.notices))
        await run.items(4)
        await run.until(lambda: run.client.state.notices == ())

    async def flood(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.subscribe(connection)
        for _ in range(3):
            await connection.send(json.dumps([{"ev": "T", "pad": "x" * 1_000}]))

    play(Exchange(flood), scene, bytes_max=1_500, replay=True)


NUISANCES = {
    "no JSON": '[{"ev":"T"',
    "a bad event among good ones": '[{"ev":"T","sym":7,"p":"x"},' + TRADE.decode()[1:],
    "an unknown event": '[{"ev":"ZZ","x":1}]',
    "no array": '{"ev":"T"}',
    "an unknown status": status("weather", "fine"),
    "a topic that nobody asked for": status("success", "subscribed to: Q.MSFT"),
    "a topic confirmed twice": status("success", "subscribed to: T.AAPL"),
    "a status without words": '[{"ev":"status"}]',
    "nothing": "",
}


@pytest.mark.parametrize("nuisance", NUISANCES.values(), ids=NUISANCES)
def test_no_nuisance_ends_the_connection(nuisance: str) -> None:
    async def bothered(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.subscribe(connection)
        await connection.send(nuisance)
        await connection.send(TRADE.decode())

    async def scene(run: Run) -> None:
        while await run.items(1) != [FRAME]:
            pass
        assert run.client.state.phase is Phase.LIVE

    exchange = Exchange(bothered)
    run = play(exchange, scene, replay=True)
    assert (exchange.connections, run.waits) == (1, [])


def test_a_topic_without_an_answer_and_one_that_is_refused_are_said() -> None:
    async def picky(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.admit(connection)
        refusal = {"ev": "status", "status": "error", "message": "not authorized"}
        ack = {"ev": "status", "status": "success", "message": "subscribed to: T.AAPL"}
        await connection.send(json.dumps([refusal, ack]))

    def hurried(topics: Sequence[str], now_ns: int) -> Session:
        """Whose acknowledgements are overdue as soon as one has come."""
        session = Session(Market.STOCKS, "secret", topics, now_ns)
        overdue = session.overdue
        session.overdue = lambda at_ns: overdue(at_ns + 60_000_000_000 * bool(session.acked))  # type: ignore[method-assign]
        return session

    async def scene(run: Run) -> None:
        await run.until(lambda: run.client.topics.unconfirmed != ())
        known = run.client.topics
        assert (known.acked, known.unconfirmed, known.refused) == (("T.AAPL",), ("T.ZZZZ",), ("LULD.AAPL",))
        first, second = run.client.state.notices
        assert "LULD.AAPL" in first
        assert "T.ZZZZ" in second
        await run.until(lambda: run.states[-1].unconfirmed == ("T.ZZZZ",))

    play(
        Exchange(picky), scene, session=hurried, replay=True, topics=["T.AAPL", "T.ZZZZ", "LULD.AAPL"],
    )  # fmt: skip


# --- what is watched changes at run time ---------------------------------------------------------------------------


async def obey(exchange: Exchange, connection: ServerConnection) -> None:
    """Acknowledge whatever is asked for, again and again."""
    await exchange.subscribe(connection)
    while True:
        said = await exchange.hear(connection)
        word = "subscribed to: " if said["action"] == "subscribe" else "unsubscribed to: "
        for topic in said["params"].split(","):
            await connection.send(status("success", word + topic))


def test_what_is_watched_changes_without_a_new_connection() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: len(run.client.topics.acked) == 2)
        await run.client.watch(["T.TSLA", "T.NVDA"])
        await run.until(lambda: run.client.topics.acked == ("T.TSLA", "T.NVDA"))
        assert run.client.topics.asked == ("T.TSLA", "T.NVDA")

    exchange = Exchange(obey)
    run = play(exchange, scene, replay=True)
    assert exchange.heard[2:] == [
        {"action": "subscribe", "params": "T.NVDA"},
        {"action": "unsubscribe", "params": "T.AAPL"},
    ]
    assert (exchange.connections, run.waits) == (1, [])


@pytest.mark.parametrize("drop", [cut, close(1000)], ids=["cut", "closed"])
def test_the_next_connection_asks_for_what_is_watched_then(
    drop: Callable[[ServerConnection], Awaitable[object]],
) -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: len(run.client.topics.acked) == 2)
        await run.client.watch(["T.NVDA"])
        await run.until(lambda: exchange.connections == 2 and run.client.topics.acked == ("T.NVDA",))
        gaps = [item for item in await run.items(len(run.queue)) if isinstance(item, GapEnd)]
        assert [gap.symbols for gap in gaps] == [("AAPL", "TSLA"), ("NVDA",)]

    async def hear_and_drop(connection: ServerConnection) -> None:
        await exchange.hear(connection)
        await drop(connection)

    exchange = Exchange(then(Exchange.subscribe, hear_and_drop), obey)
    play(exchange, scene, replay=True)
    assert exchange.heard[-1] == {"action": "subscribe", "params": "T.NVDA"}


def test_a_change_during_the_handshake_is_in_the_subscription() -> None:
    async def scene(run: Run) -> None:
        await run.until(lambda: run.client.state.phase is Phase.AUTHENTICATING)
        await run.client.watch(["T.NVDA"])
        greeted.set()
        await run.until(lambda: run.client.topics.acked == ("T.NVDA",))

    greeted = asyncio.Event()

    async def patient(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.greet(connection)
        await greeted.wait()
        await connection.send(status("auth_success"))
        for topic in (await exchange.hear(connection))["params"].split(","):
            await connection.send(status("success", f"subscribed to: {topic}"))

    play(Exchange(patient), scene, replay=True)


def test_a_gap_of_the_whole_market_names_no_symbol() -> None:
    async def scene(run: Run) -> None:
        gap = (await run.items(1))[0]
        assert isinstance(gap, GapEnd)
        assert gap.symbols == ()

    play(Exchange(live), scene, topics=["T.*"], replay=True)


# --- the terms of the plan -----------------------------------------------------------------------------------------


def test_the_terms_take_the_place_of_address_topics_and_delay() -> None:
    async def scene(run: Run) -> None:
        gap = (await run.items(1))[0]
        assert isinstance(gap, GapEnd)
        assert (gap.to_ms, gap.symbols) == (NOW_NS // 1_000_000 - 900_000, ("AAPL",))
        state = run.client.state
        assert (state.delay_ms, state.behind_ms, state.notices) == (900_000, 62_000, ("The plan has bars only.",))
        assert asked == 3, "an exchange that cannot be reached is asked again"
        assert len(run.waits) == 2

    asked = 0
    address = ""

    async def terms() -> Terms | Ending:
        nonlocal asked
        asked += 1
        if asked < 3:
            return ending(Cause.UNREACHABLE, "no answer")
        return Terms(address, ["AM.AAPL"], 900_000, 62_000, ("The plan has bars only.",))

    async def main() -> None:
        nonlocal address
        exchange = Exchange(live)
        async with asyncio.timeout(DEADLINE_S), serve(exchange, "127.0.0.1", 0) as server:
            address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/delayed"
            run = Run("ws://127.0.0.1:1", terms=terms, replay=True)
            await scene(run)
            await run.client.stop()
        assert exchange.paths == ["/delayed/stocks"]
        assert exchange.heard[1]["params"] == "AM.AAPL"

    asyncio.run(main())


def test_refused_terms_end_the_run() -> None:
    async def terms() -> Ending:
        return ending(Cause.AUTH_FAILED, "Your plan doesn't include websocket access.")

    async def scene(run: Run) -> None:
        with pytest.raises(FeedRefused, match="Your plan"):
            await run.task

    exchange = Exchange(live)
    play(exchange, scene, terms=terms)
    assert exchange.connections == 0


# --- other exchanges -----------------------------------------------------------------------------------------------


def test_a_session_of_another_exchange_speaks_first_and_its_address_is_used_as_it_is() -> None:
    class Forward(Session):
        def opened(self, now_ns: int) -> list[str]:
            self.phase = Phase.SUBSCRIBING
            return ['{"action":"hello"}']

        def is_status(self, data: bytes) -> bool:
            return data.startswith(b"{")

    async def polite(exchange: Exchange, connection: ServerConnection) -> None:
        assert (await exchange.hear(connection)) == {"action": "hello"}
        await connection.send(TRADE.decode())
        await connection.send('{"type":"note"}')

    async def scene(run: Run) -> None:
        assert (await run.items(3))[:2] == [GAP, FRAME]

    exchange = Exchange(polite)
    play(exchange, scene, session=lambda topics, now_ns: Forward(Market.STOCKS, "", topics, now_ns), replay=True)
    assert exchange.paths == ["/"]


def test_frames_that_do_not_go_into_the_queue_are_shown_to_who_asks() -> None:
    shown: list[Frame] = []

    async def scene(run: Run) -> None:
        assert await run.items(2) == [GAP, FRAME]

    play(Exchange(live), scene, on_status=shown.append, replay=True)
    names = [json.loads(frame.data)[0]["status"] for frame in shown]
    assert names == ["connected", "auth_success", "success", "success"]
    assert {frame.received_ns for frame in shown} == {NOW_NS}


# --- every row of the table has a test -----------------------------------------------------------------------------

PROOFS: dict[Cause | Notice, str] = {
    Cause.AUTH_FAILED: "test_feed_client.py::test_a_refusal_ends_the_run",
    Cause.AUTH_TIMEOUT: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.AUTH_REQUIRED: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.NOT_AUTHORIZED: "test_feed_protocol.py::test_what_is_waited_for_in_vain",
    Cause.MAX_CONNECTIONS: "test_feed_client.py::test_after_max_connections_it_waits_a_minute",
    Cause.SLOW_CONSUMER: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.FORCE_DISCONNECT: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.HANDSHAKE: "test_feed_protocol.py::test_what_is_waited_for_in_vain",
    Cause.NO_ACK: "test_feed_protocol.py::test_what_is_waited_for_in_vain",
    Cause.SILENCE: "test_feed_client.py::test_silence_is_noticed_and_ends_the_connection",
    Cause.PING_TIMEOUT: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.CLOSED: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.CUT: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.TOO_LARGE: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.UNREADABLE: "test_feed_client.py::test_after_every_ending_it_subscribes_again_and_ends_the_gap",
    Cause.UNREACHABLE: "test_feed_sockets.py::test_what_an_error_says",
    Cause.NAME: "test_feed_sockets.py::test_what_an_error_says",
    Cause.REFUSED: "test_feed_client.py::test_a_closed_port_is_tried_again",
    Cause.TLS: "test_feed_client.py::test_a_server_without_tls_is_no_encrypted_connection",
    Cause.CERTIFICATE: "test_feed_client.py::test_only_a_genuine_certificate_is_accepted",
    Cause.HTTP: "test_feed_client.py::test_an_http_error_is_tried_again_and_no_redirect_followed",
    Cause.HTTP_REFUSED: "test_feed_client.py::test_a_refusal_ends_the_run",
    Cause.FINISHED: "test_feed_client.py::test_a_finished_recording_ends_the_run",
    Cause.STOPPED: "test_feed_client.py::test_stopping_while_it_waits_to_reconnect",
    Cause.RESTART: "test_feed_client.py::test_the_first_connection_brings_a_gap_end_and_then_frames",
    Notice.PARTLY_REFUSED: "test_feed_client.py::test_a_topic_without_an_answer_and_one_that_is_refused_are_said",
    Notice.UNCONFIRMED: "test_feed_client.py::test_a_topic_without_an_answer_and_one_that_is_refused_are_said",
    Notice.QUEUE_FULL: "test_feed_client.py::test_a_full_queue_is_said",
}
"""Coinbase's and a capture's own rows are proved beside them; `LAGGING` in test_feed_lag.py."""


@pytest.mark.parametrize(("what", "proof"), PROOFS.items())
def test_every_row_is_proved_by_a_test(what: Cause | Notice, proof: str) -> None:
    file, _, name = proof.partition("::")
    source = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert f"def {name}(" in source
    assert f"{type(what).__name__}.{what.name}" in source or RULES[what].action is Action.GIVE_UP


def test_no_row_is_without_a_test() -> None:
    elsewhere = {Cause.NOT_TRADED, Cause.SEQUENCE, Cause.CAPTURE, Notice.LAGGING}
    assert set(PROOFS) | elsewhere == set(RULES)


def test_data_and_statuses_in_one_frame() -> None:
    async def mixed(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.admit(connection)
        await connection.send('[{"ev":"T"},{"ev":"status","status":"success","message":"subscribed to: T.AAPL"}]')
        await connection.send('[{"ev":"status","status":"success","message":"subscribed to: T.TSLA"},{"ev":"T"}]')

    async def scene(run: Run) -> None:
        kinds = [type(item) for item in await run.items(3)]
        assert kinds == [GapEnd, Frame, Frame]
        assert run.client.state.acked == 2

    play(Exchange(mixed), scene, replay=True)


def test_binary_frames_are_read_like_text() -> None:
    async def binary(exchange: Exchange, connection: ServerConnection) -> None:
        await exchange.subscribe(connection)
        await connection.send(TRADE)

    async def scene(run: Run) -> None:
        assert await run.items(2) == [GAP, FRAME]

    play(Exchange(binary), scene, replay=True)


def test_stopping_while_it_waits_to_reconnect() -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        client = FeedClient(Market.CRYPTO, "ws://127.0.0.1:1", "k", ["XT.BTC-USD"], FrameQueue(), sleep=sleep)
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(DEADLINE_S):
            await waiting.wait()
            await client.stop()
            await task
        assert client.state.phase is Phase.CLOSED

    asyncio.run(main())


def test_one_that_is_stopped_before_it_began_never_connects() -> None:
    """A signal may come in the very moment of the start: then the task exists, and has not run yet."""

    async def scene(run: Run) -> None:
        await run.client.stop()
        await run.task
        assert run.client.state.phase is Phase.CLOSED

    exchange = Exchange(live)
    play(exchange, scene)
    assert exchange.connections == 0


def test_stopping_while_a_connection_is_given_up() -> None:
    """The run waits for its watcher just then, and the watcher's end must not hide that the run is stopped."""

    async def scene(run: Run) -> None:
        await run.items(2)
        watcher = next(task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_watch")
        ended.set()
        while not watcher.cancelling():
            await asyncio.sleep(0)
        await run.client.stop()
        await run.task
        assert run.waits == []

    ended = asyncio.Event()
    exchange = Exchange(then(then(live, lambda connection: ended.wait()), close(1001)))
    play(exchange, scene)
    assert exchange.connections == 1


def test_a_bug_in_the_watcher_stops_the_run() -> None:
    broken = asyncio.Event()

    def clock_ns() -> int:
        assert not broken.is_set(), "the clock is broken"
        return NOW_NS

    async def scene(run: Run) -> None:
        await run.items(2)
        broken.set()
        with pytest.raises(AssertionError, match="the clock is broken"):
            await run.task

    play(Exchange(live), scene, clock_ns=clock_ns, silence_ms=200)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_only_a_genuine_certificate_is_accepted(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tapewatch"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def main() -> None:
        exchange = Exchange(live)
        async with asyncio.timeout(DEADLINE_S), serve(exchange, "127.0.0.1", 0, ssl=identity) as server:
            url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(FeedRefused, match=r"certificate is not genuine .* MASSIVE_WS_URL"):
                await Run(url).task
            assert exchange.heard == [], "the key was not sent"
            run = Run(url, tls=trusting, replay=True)
            assert await run.items(2) == [GAP, FRAME]
            await run.client.stop()

    asyncio.run(main())
