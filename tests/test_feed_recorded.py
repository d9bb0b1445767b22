"""Captured, then replayed: the same records, whether from the file or through the simulator and the real client.

The live side is a real client on a local server; the property uses items as the client would put them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from tapewatch.capturefile import (
    MARK,
    CaptureReader,
    CaptureWriter,
    Ended,
    FeedHead,
    Framed,
    Head,
    Line,
    Lost,
    Ticked,
    mark,
)
from tapewatch.feed.capture import Capture, CapturingSink, OneFile
from tapewatch.feed.client import FeedClient
from tapewatch.feed.coinbase import CoinbaseSession
from tapewatch.feed.coinbase_trades import CoinbaseSink
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, FrameQueue, GapEnd, Item, TickDue
from tapewatch.feed.recorded import RecordedSink, items
from tapewatch.records import COLUMNS, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.simulator.frames import FramePlayer
from test_feed_coinbase import heartbeat, match, subscriptions
from virtual_time import run_virtual

T0_MS = 1_788_877_046_000
T0_NS = T0_MS * 1_000_000
DEADLINE_S = 120.0
HEAD = Head(
    source="massive",
    origin=Origin.LIVE,
    started_ns=T0_NS,
    feeds={"stocks": FeedHead(topics=["T.*"]), "crypto": FeedHead(topics=["XT.*"], delay_ms=1_000)},
)


def rows(found: Sequence[Item]) -> list[tuple[object, ...]]:
    """Every record of some items, as values that can be compared, by market."""
    tables = Tables()
    batch = Ingest(tables, Seen()).step(found)
    columns = [getattr(batch, name).tolist() for name in COLUMNS]
    columns[COLUMNS.index("symbol")] = [tables.symbols.values[i] if i >= 0 else "" for i in batch.symbol.tolist()]
    columns[COLUMNS.index("conditions")] = [tables.conditions.values[i] for i in batch.conditions.tolist()]
    made = list(zip(*columns, batch.ids, strict=True))
    return sorted(made, key=lambda row: row[1])  # type: ignore[arg-type, return-value]  # stable: order within a market


def trade(number: int, market: Market = Market.STOCKS) -> bytes:
    at_ms = T0_MS + 37 * number
    event: dict[str, object] = {
        "ev": "T",
        "sym": f"S{number % 3}",
        "x": 4,
        "i": str(number // 2),
        "p": 10 + number / 100,
    }
    event |= {"s": number, "ds": f"{number}.0", "t": at_ms, "c": [37] if number % 5 == 0 else []}
    if market is Market.CRYPTO:
        event = {"ev": "XT", "pair": "BTC-USD", "p": 60_000.5, "s": 0.25, "t": at_ms, "i": str(number), "x": 1}
    return json.dumps([event]).encode()


MARKETS = st.sampled_from([Market.STOCKS, Market.CRYPTO])
NUMBERS = st.integers(0, 200)
FRAMES = st.builds(
    lambda market, number, junk: Frame(market, junk or trade(number, market), T0_NS + number * 40_000_000),
    MARKETS,
    NUMBERS,
    st.just(b"") | st.just(b"") | st.binary(max_size=20) | st.just(b'[{"ev":"status","status":"x"},{"ev":"T"}]'),
)
TICKS = st.builds(lambda market, n: TickDue(market, T0_MS + n * 1_000, T0_NS + n * 10**9), MARKETS, NUMBERS)
GAPS = st.builds(
    lambda market, n, cause, since: GapEnd(
        market, T0_MS + n * 1_000, cause, ("S0",), T0_NS + n * 10**9, from_ms=T0_MS if since else None
    ),
    MARKETS,
    NUMBERS,
    st.sampled_from(["restart", "cut", "sequence"]),
    st.booleans(),
)
ITEMS = st.lists(FRAMES | TICKS | GAPS, min_size=1, max_size=30)


def capture_of(path: Path, found: Sequence[Item], head: Head = HEAD) -> list[Item]:
    """Capture what the queue takes; give what it took."""
    path.unlink(missing_ok=True)
    queue = FrameQueue()
    capture = Capture(head, OneFile(path))
    capture.start()
    sink = CapturingSink(capture, queue)
    assert all(sink.put(item) for item in found)
    capture.stop()
    return queue.take(1_000_000, 0)


def from_file(path: Path) -> list[Item]:
    reader = CaptureReader(path)
    delays = {Market[name.upper()]: feed.delay_ms for name, feed in reader.head.feeds.items()}
    return list(items(reader, delays))


async def from_player(player: FramePlayer, head: Head) -> list[Item]:
    """What real clients of the player put into their queues."""
    found: list[Item] = []
    queue = FrameQueue()
    clients = []
    for name, feed in head.feeds.items():
        market, url = Market[name.upper()], f"ws://127.0.0.1:{player.port}"
        if head.source == "coinbase":
            sink = RecordedSink(CoinbaseSink(queue), feed.delay_ms)
            clients.append(
                FeedClient(
                    market, url, "", feed.topics, sink, replay=True, on_status=sink.told,
                    session=lambda topics, now_ns: CoinbaseSession(topics, now_ns, marked=True),
                )
            )  # fmt: skip
        else:
            sink = RecordedSink(queue, feed.delay_ms)
            topics = [*feed.topics, f"{MARK}.*"]
            clients.append(FeedClient(market, url, "key", topics, sink, replay=True, on_status=sink.told))
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(client.run() for client in clients))
    while taken := queue.take(1_000, 0):
        found += taken
    return found


def played(path: Path, head: Head = HEAD, speed: float | None = None) -> list[Item]:
    async def main() -> list[Item]:
        async with FramePlayer([path], speed=speed) as player:
            return await from_player(player, head)

    return run_virtual(main())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures") / "capture.gz"


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(ITEMS)
def test_captured_then_replayed_gives_the_same_records(path: Path, found: list[Item]) -> None:
    live = rows(capture_of(path, found))
    assert rows(from_file(path)) == live


def test_through_the_simulator_and_the_real_client_too(path: Path) -> None:
    rng = random.Random(6)
    found: list[Item] = [GapEnd(Market.STOCKS, T0_MS, "restart", (), T0_NS)]
    for number in range(150):
        market = rng.choice([Market.STOCKS, Market.CRYPTO])
        found.append(Frame(market, trade(number, market), T0_NS + number * 40_000_000 + rng.randrange(10**6)))
        if number % 10 == 0:
            found.append(TickDue(market, T0_MS + number * 40, T0_NS + number * 40_000_000))
        if number == 70:
            found.append(GapEnd(Market.STOCKS, T0_MS + 3_500, "cut", ("S0",), T0_NS + 10**10, from_ms=T0_MS + 9))
            found.append(Frame(Market.STOCKS, b"\xff\x00 no text", T0_NS + 10**10))
    live = rows(capture_of(path, found))
    assert rows(played(path)) == live
    assert {row[0] for row in live} == {Kind.TRADE, Kind.TICK, Kind.GAP}
    assert len(live) > 100


def test_canary_without_the_marks_the_records_would_differ(path: Path) -> None:
    """The receipt is the recording's: a client without marks stamps its own."""
    live = rows(capture_of(path, [Frame(Market.STOCKS, trade(1), T0_NS)]))
    head = msgspec.structs.replace(HEAD, feeds={"stocks": FeedHead(topics=["T.*"])})
    capture_of(path, [Frame(Market.STOCKS, trade(1), T0_NS)], head)

    async def main() -> list[Item]:
        queue = FrameQueue()
        async with FramePlayer([path], speed=None) as player, asyncio.timeout(DEADLINE_S):
            await FeedClient(Market.STOCKS, f"ws://127.0.0.1:{player.port}", "key", ["T.*"], queue, replay=True).run()
        return queue.take(1_000, 0)

    other = rows(run_virtual(main()))
    assert other != live
    assert [row[3] for row in other] == [row[3] for row in live], "the trade itself is the same"


def test_a_real_feed_of_coinbase_captured_and_replayed(path: Path) -> None:
    """Live from a local server, through capture and queue; then the same client from the simulator."""

    async def exchange(connection: ServerConnection) -> None:
        asked = json.loads(await connection.recv())
        await connection.send(subscriptions(*asked["product_ids"]), text=True)
        await connection.send(match(7, kind="last_match", second=1), text=True)
        for number in (8, 9, 12, 13):  # with a hole
            await connection.send(match(number, second=number), text=True)
            await connection.send(heartbeat(number, second=number), text=True)
        await connection.wait_closed()

    path.unlink(missing_ok=True)
    topics = ["matches.BTC-USD"]
    head = Head(source="coinbase", origin=Origin.LIVE, started_ns=1, feeds={"crypto": FeedHead(topics=topics)})

    async def live() -> list[Item]:
        queue, capture = FrameQueue(), Capture(head, OneFile(path))
        capture.start()
        found: list[Item] = []
        async with serve(exchange, "127.0.0.1", 0, close_timeout=0.2) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = FeedClient(
                Market.CRYPTO, url, "", topics, CapturingSink(capture, CoinbaseSink(queue)),
                session=CoinbaseSession, on_status=capture.told,
            )  # fmt: skip
            running = asyncio.create_task(client.run())
            async with asyncio.timeout(DEADLINE_S):
                while sum(isinstance(item, Frame) for item in found) < 5:
                    found += queue.take(1_000, 0)
                    await asyncio.sleep(0.005)
            await client.stop()
            await running
        found += queue.take(1_000, 0)
        await asyncio.to_thread(capture.stop)
        return found

    was = asyncio.run(live())
    assert rows(played(path, head)) == rows(was)
    gaps = [Gap.decode(str(row[-1])) for row in rows(was) if row[0] == Kind.GAP]
    assert [(gap.cause, gap.symbols) for gap in gaps] == [("sequence", ["BTC"])]


# --- the sink by itself ----------------------------------------------------------------------------------------


def told(*lines: Line) -> Frame:
    message = [{"ev": "status", "status": MARK, "message": mark(line)} for line in lines]
    return Frame(Market.STOCKS, msgspec.json.encode(message), 1)


def test_what_the_capture_had_left_out_is_a_gap() -> None:
    line = Lost(m="crypto", r=T0_NS, frames=4)
    gap = GapEnd(Market.CRYPTO, T0_MS - 900, "capture", (), T0_NS)
    assert list(items([line], {Market.CRYPTO: 900})) == [gap]
    queue = FrameQueue()
    RecordedSink(queue, 900).told(told(line))
    assert queue.take(9, 0) == [gap]


def test_the_clients_own_start_is_no_gap_and_a_broken_replay_is_one() -> None:
    queue = FrameQueue()
    sink = RecordedSink(queue, 0)
    assert sink.put(GapEnd(Market.STOCKS, 5, "restart", (), 5))
    assert queue.take(9, 0) == []
    assert sink.put(GapEnd(Market.STOCKS, 5, "cut", ("A",), 5))
    sink.told(told(Framed.of(Market.STOCKS, T0_NS, b"[]")))
    assert sink.put(Frame(Market.STOCKS, b"[]", 9))
    assert queue.take(9, 0) == [
        GapEnd(Market.STOCKS, T0_MS, "cut", ("A",), T0_NS),
        Frame(Market.STOCKS, b"[]", T0_NS),
    ]


def test_nothing_is_lost_in_a_full_queue() -> None:
    queue = FrameQueue(bytes_max=20)
    sink = RecordedSink(queue, 0)
    tick = TickDue(Market.STOCKS, T0_MS, T0_NS)
    frame = Frame(Market.STOCKS, b"[1234567890]", 9)
    sink.told(told(Framed.of(Market.STOCKS, T0_NS, b"")))
    assert sink.put(frame)
    due: list[Line] = [Ticked(m="stocks", r=T0_NS, t=T0_MS), Framed.of(Market.STOCKS, T0_NS + 1, b"")]
    sink.told(told(*due))
    assert not sink.put(frame), "the tick before it has no room either"
    taken: list[Item] = queue.take(1, 0)
    assert sink.put(frame) is False
    taken += queue.take(1, 0)
    assert sink.put(frame)
    taken += queue.take(9, 0)
    assert taken == [
        Frame(Market.STOCKS, frame.data, T0_NS), tick, Frame(Market.STOCKS, frame.data, T0_NS + 1)
    ]  # fmt: skip


def test_a_frame_without_its_mark_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="without its mark"):
        RecordedSink(FrameQueue(), 0).put(Frame(Market.STOCKS, b"[]", 1))


@pytest.mark.parametrize("data", [b"", b"[]", b'[{"ev":"status","status":"success","message":"subscribed to: T.A"}]'])
def test_other_statuses_say_nothing(data: bytes) -> None:
    queue = FrameQueue()
    RecordedSink(queue, 0).told(Frame(Market.STOCKS, data, 1))
    assert queue.take(9, 0) == []


def test_recorded_endings_are_no_items(path: Path) -> None:
    path.unlink(missing_ok=True)
    writer = CaptureWriter(path, HEAD)
    writer.write([Ended(m="stocks", r=1, why="cut")])
    writer.close()
    assert from_file(path) == []
    queue = FrameQueue()
    RecordedSink(queue, 0).told(told(Ended(m="stocks", r=1, why="cut")))
    assert queue.take(9, 0) == []


def test_the_batches_columns_are_all_compared() -> None:
    """`rows` looks at every column of a record."""
    batch = Batch.of([(Kind.TRADE, 0, 0, 1, 2, 3.0, 4, 5, 6, 0, "7")])
    assert len(COLUMNS) + 1 == len(batch.__dataclass_fields__) - 2
    assert np.array_equal(batch.kind, [0])
