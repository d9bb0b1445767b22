"""The feed with its log: a burst, a long steady load, and very many reconnects.

    python bench/feed.py [--quick]

    sender process ══ socket ══► FeedClient ─► queue ─► Recorder ─► log      (this process: no engine, no database)

*burst*: a million trades as fast as the sender can; nothing may be lost. The queue's peak is what it held at most, the
drain time is from the last frame's handing over until all of it was in the log.
*steady*: 100,000 trades a second; a frame's lag is from its handing over until its last trade was in the log.
*reconnects*: the server greets, sends a trade, and ends the connection in one of five ways; the client's waits are left
out. The slope is a straight line through its memory, over all but the first fifth.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import structlog
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pipeline import SenderProcess
from report import Figure, main, print_figures
from sender import Sent
from tape import names
from tapewatch.feed.client import FeedClient
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import FrameQueue
from tapewatch.log.local import LogWriter
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Kind, Market, Origin, Tables
from tapewatch.settings import load_settings

SYMBOLS = 500
BURST_TRADES = 1_000_000
STEADY_RATE = 100_000
STEADY_S = 300
LAG_TARGET_MS = 100.0
RECONNECTS = 10_000
DRAIN_S_MAX = 120.0
ENDINGS = 5


class Watched:
    """A log that notes how many trades it holds by when."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self.trades = 0
        self.counts: list[int] = [0]
        self.times_ns: list[int] = [0]
        self.is_waiting = False

    def append(self, batch: Batch) -> Batch:
        """Append, and note."""
        appended = self._log.append(batch)
        self.trades += int(np.count_nonzero(batch.kind == Kind.TRADE))
        self.counts.append(self.trades)
        self.times_ns.append(time.time_ns())
        return appended

    def stop_waiting(self) -> None:
        """It never waits."""

    def size_bytes(self) -> int:
        """Of its files."""
        return self._log.size_bytes()

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        """Nothing is dropped here."""
        return 0


class Feed:
    """A client, its queue and its recorder. ``run`` until so many trades are in the log."""

    def __init__(self, url: str, folder: Path) -> None:
        tables = Tables()
        symbols = names(SYMBOLS)
        self.queue = FrameQueue()
        self.log = LogWriter.open(folder / "log.db", tables, origin=Origin.SIMULATED)
        self.watched = Watched(self.log)
        self.recorder = Recorder(
            load_settings(_env_file=None), self.queue, Ingest(tables, Seen(), symbols), self.watched, Tail(0),
            past=None, consumed=lambda: 0, on_end=self._ended,
        )  # fmt: skip
        self.client = FeedClient(Market.STOCKS, url, "key", [f"T.{name}" for name in symbols], self.queue)
        self._failure: BaseException | None = None

    def _ended(self, error: BaseException | None) -> None:
        self._failure = error

    async def run(self, sent: asyncio.Future[Sent]) -> Sent:
        """Receive all that the sender says it has sent."""
        self.recorder.start()
        running = asyncio.create_task(self.client.run())
        try:
            said = await sent
            deadline_s = time.monotonic() + DRAIN_S_MAX
            while self.watched.trades < said.trades:
                assert self._failure is None, self._failure
                assert time.monotonic() < deadline_s, f"{self.watched.trades} of {said.trades} trades are in the log"
                await asyncio.sleep(0.02)
        finally:
            await self.client.stop()
            await running
            await asyncio.to_thread(self.recorder.stop)
            self.log.close()
        return said

    def lags_ms(self, sent: Sent) -> NDArray[np.float64]:
        """Of every frame, from its handing over until its last trade was in the log."""
        handed_ns = np.array(sent.frames_ns)
        at = np.searchsorted(self.watched.counts, sent.per_frame * np.arange(1, len(handed_ns) + 1))
        lags: NDArray[np.float64] = (np.array(self.watched.times_ns)[at] - handed_ns) / 1e6
        return lags


def receive(rate: float, seconds: float) -> tuple[Feed, Sent]:
    """A feed that has received this load."""
    with tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as folder:
        sender = SenderProcess(str(SYMBOLS), rate, seconds)
        try:

            async def all_of_it() -> tuple[Feed, Sent]:
                loop = asyncio.get_running_loop()
                feed = Feed(sender.url, Path(folder))
                sent = loop.create_future()
                threading.Thread(
                    target=lambda: loop.call_soon_threadsafe(sent.set_result, sender.wait()), daemon=True
                ).start()
                return feed, await feed.run(sent)

            return asyncio.run(all_of_it())
        finally:
            sender.close()


def measure_burst(trades: int) -> list[Figure]:
    """As fast as it goes."""
    feed, sent = receive(float(trades), 1.0)
    lags_ms = feed.lags_ms(sent)
    note = f"{sent.trades:,} trades"
    received = feed.watched.trades
    assert received == sent.trades, f"{received} of {sent.trades} trades arrived"
    return [
        Figure(
            name="burst: sent", note=note, unit="trades/s", values=[sent.trades / sent.seconds], more_is_better=True
        ),
        Figure(name="burst: lost", note=note, unit="trades", values=[sent.trades - received], target=0),
        Figure(name="burst: the queue's peak", note=note, unit="MiB", values=[feed.queue.bytes_peak / 2**20]),
        Figure(name="burst: the queue was full", note=note, unit="times", values=[feed.queue.times_full]),
        Figure(name="burst: drained after the last frame", note=note, unit="s", values=[float(lags_ms[-1]) / 1e3]),
    ]


def measure_steady(rate: int, seconds: float) -> list[Figure]:
    """Lag under a long load; the last second's is what it has returned to."""
    feed, sent = receive(float(rate), seconds)
    lags_ms = feed.lags_ms(sent)
    handed_ns = np.array(sent.frames_ns)
    last = lags_ms[handed_ns >= handed_ns[-1] - 1_000_000_000]
    note = f"{rate:,} trades/s, {seconds:g} s"
    figures = [
        Figure(name=f"steady: lag to the log, {words}", note=note, unit="ms", values=[float(np.percentile(lags_ms, p))])
        for words, p in (("p50", 50), ("p99", 99), ("max", 100))
    ]
    last_ms = float(np.percentile(last, 99))
    figures.append(
        Figure(name="steady: lag in the last second, p99", note=note, unit="ms", values=[last_ms], target=LAG_TARGET_MS)
    )
    achieved = sent.trades / sent.seconds
    figures.append(Figure(name="steady: sent", note=note, unit="trades/s", values=[achieved], more_is_better=True))
    figures.append(
        Figure(name="steady: the queue's peak", note=note, unit="MiB", values=[feed.queue.bytes_peak / 2**20])
    )
    return figures


# --- reconnects ------------------------------------------------------------------------------------------------


def drop_everybody(address: Connection) -> None:
    """A server, in a process of its own, that ends each connection soon after its first trade."""

    def status(name: str, message: str = "") -> bytes:
        return msgspec.json.encode([{"ev": "status", "status": name, "message": message}])

    numbers = itertools.count()

    async def handle(socket: ServerConnection) -> None:
        number = next(numbers)
        with suppress(ConnectionClosed):
            await socket.send(status("connected"), text=True)
            await socket.recv()
            await socket.send(status("auth_success"), text=True)
            await socket.recv()
            await socket.send(status("success", "subscribed to: T.AAPL"), text=True)
            trade: dict[str, Any] = {"ev": "T", "sym": "AAPL", "p": 1.5, "s": 1, "x": 1, "i": str(number)}
            await socket.send(msgspec.json.encode([trade | {"t": time.time_ns() // 1_000_000}]), text=True)
            match number % ENDINGS:
                case 0:
                    socket.transport.abort()
                case 1:
                    await socket.close(1000)
                case 2:
                    await socket.close(1001, "going away")
                case 3:
                    await socket.send(status("slow_consumer"), text=True)
                    await socket.close(1008)
                case _:
                    await socket.send(b"[" * 1_000, text=True)
                    socket.transport.abort()

    async def run() -> None:
        async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            address.send(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(address.recv)

    asyncio.run(run())


def measure_reconnects(count: int) -> list[Figure]:
    """The client's memory over ``count`` connections."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=drop_everybody, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    memory: list[tuple[int, float]] = []
    started_s = time.monotonic()
    try:
        asyncio.run(asyncio.wait_for(reconnect(f"ws://127.0.0.1:{port}", count, memory), 3_600))
    finally:
        ours.send("end")
        server.join(10)
    at, rss = np.array([a for a, _ in memory]), np.array([b for _, b in memory])
    settled = at >= count / 5
    slope = float(np.polyfit(at[settled], rss[settled], 1)[0]) * 1_000
    note = f"{count:,} connections in {time.monotonic() - started_s:.0f} s"
    return [
        Figure(name="reconnects: slope of RSS", note=note, unit="KiB per 1,000", values=[slope / 1024], target=100.0),
        Figure(name="reconnects: RSS at the end", note=note, unit="MiB", values=[float(rss[-1]) / 2**20]),
    ]


async def reconnect(url: str, count: int, memory: list[tuple[int, float]]) -> None:
    """Connect so often; note the memory a hundred times."""
    process = psutil.Process()
    queue = FrameQueue()
    ingest = Ingest(Tables(), Seen(), ["AAPL"])

    async def at_once(seconds: float) -> None:
        if (made := client.state.reconnects) % max(1, count // 100) == 0:
            memory.append((made, process.memory_info().rss))
        ingest.step(queue.take(10_000, 0.0))

    client = FeedClient(Market.STOCKS, url, "key", ["T.AAPL"], queue, rng=random.Random(1), sleep=at_once)
    running = asyncio.create_task(client.run())
    while client.state.reconnects < count:
        await asyncio.wait([running], timeout=0.2)
        if running.done():
            running.result()
    await client.stop()
    await running


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    figures: list[Figure] = []
    parts = (
        lambda: measure_burst(BURST_TRADES // 10 if quick else BURST_TRADES),
        lambda: measure_steady(STEADY_RATE // 5 if quick else STEADY_RATE, 3 if quick else STEADY_S),
        lambda: measure_reconnects(RECONNECTS // 20 if quick else RECONNECTS),
    )
    for part in parts:
        mine = part()
        print_figures(mine)
        figures += mine
    sys.stdout.flush()
    return figures


if __name__ == "__main__":
    main("The feed with its log: a burst, a steady load, reconnects", measure)
