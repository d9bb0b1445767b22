"""A whole feed in leaping time against a simulator that misbehaves: what was sent, and what the log has of it.

    SeededMarket ─► Simulator + Trouble ══ sockets ══► FeedClient ─► queue ─► Recorder ─► log
                        │ witness                          REST ──────────────────┘
                        ▼                                                         ▼
                      sent                      compare                          read

All parts are the real ones. Time is the loop's (`virtual_time.py`); it stands still while the recorder is at work.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tapewatch.feed.backfill import Fill, History, fill
from tapewatch.feed.client import FeedClient
from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import FrameQueue, Item
from tapewatch.feed.symbols import market_of, product_symbol, topics, wire_symbol
from tapewatch.feed.wire import Phase
from tapewatch.log.local import LogReader, LogWriter
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.tail import Tail
from tapewatch.records import Gap, Kind, Market, Origin, Tables
from tapewatch.settings import load_settings
from tapewatch.simulator.chaos import Fault, Script
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.sent import SentTrade
from tapewatch.simulator.server import Options, Simulator
from tapewatch.simulator.trouble import Trouble
from virtual_time import run_virtual

START_NS = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
SYMBOLS = ("AAPL", "TSLA", "BRK.B", "BTC", "ETH")
RATE = 3.0
EVERY_S = 6.0
TROUBLE_S = 200.0
END_S = 4 * 3_600.0
MARGIN_MS = 1_000
"""How much before the last moment known a gap begins."""
FUTURE_MS = 60_000
SLACK_MS = 5_000
"""Between the first subscription and the moment a client calls itself live."""
FIRST = int(os.environ.get("TAPEWATCH_CHAOS_FIRST", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("TAPEWATCH_CHAOS_SEEDS", "20")))
SHOWN_MAX = 10
_MS_NS = 1_000_000

Key = tuple[str, int, int, str]
"""Product symbol, exchange, TRF and id: what makes a trade of one day itself."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One record of the log: a trade (``key``), or a gap."""

    key: Key | None
    time_ms: int
    received_ms: int
    price: float = 0.0
    size_e8: int = 0
    gap: Gap | None = None


@dataclass(slots=True)
class Run:
    """What a run has left behind."""

    seed: int
    sent: dict[Key, int] = field(default_factory=dict)
    """Every trade that was written to a socket, with its event time, ms."""
    log: list[Logged] = field(default_factory=list)
    market: dict[Key, tuple[int, float, int]] = field(default_factory=dict)
    """Every trade of the market from the first subscription to the end: time (ms), price, size."""
    faults: Counter[Fault] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    done: list[tuple[int, Fault, Market]] = field(default_factory=list)
    """What went wrong, when (Unix ns) and on which market."""
    seconds: float = 0.0
    """How long it took, in its own time."""

    def witness(self, trades: Iterable[SentTrade]) -> None:
        """Note what the simulator has sent."""
        for one in trades:
            self.sent[(product_symbol(one.symbol), one.x, one.trf, one.id)] = one.t


class WatchedQueue(FrameQueue):
    """Knows whether its consumer waits for more."""

    def __init__(self) -> None:
        super().__init__()
        self.consumer_waits = False

    def take(self, events_max: int, timeout_s: float, due_s: float = 0.0) -> list[Item]:
        self.consumer_waits = True
        taken = super().take(events_max, timeout_s, due_s)
        self.consumer_waits = not taken
        return taken


def run_chaos(
    seed: int, folder: Path, *, backfill: bool = False, seen: Seen | None = None, queue: WatchedQueue | None = None
) -> Run:
    """One run: trouble for `TROUBLE_S`, and then on until all is quiet and everybody is live."""
    waiting = WatchedQueue() if queue is None else queue
    waiting.consumer_waits = True
    run = _run(seed, folder, backfill, Seen() if seen is None else seen, waiting)
    return run_virtual(run, busy=lambda: len(waiting) > 0 or not waiting.consumer_waits)


async def _run(seed: int, folder: Path, backfill: bool, seen: Seen, queue: WatchedQueue) -> Run:
    loop = asyncio.get_running_loop()

    def clock() -> int:
        return START_NS + int(loop.time() * 1e9)

    run = Run(seed)
    market = SeededMarket(seed, RATE)
    trouble = Trouble(
        Script(random.Random(seed), every_s=EVERY_S, until_s=TROUBLE_S), random.Random(-seed), repeats=True
    )
    tables = Tables()
    ingest = Ingest(tables, seen, SYMBOLS)
    settings = load_settings(_env_file=None, log_commit_ms=1, backfill_repeat_ms=0, warmup_ms=120_000)
    options = Options(tick_s=0.25, ping_interval_s=5.0)
    failures: list[BaseException | None] = []
    with LogWriter.open(folder / "log.db", tables, origin=Origin.SIMULATED) as log:
        async with Simulator(market, options, clock=clock, trouble=trouble, witness=run.witness) as simulator:
            address = f"127.0.0.1:{simulator.port}"

            async def past(where: Market, symbols: Sequence[str], from_ms: int, to_ms: int, within_s: float) -> Fill:
                mine = list(symbols) or [s for s in SYMBOLS if market_of(s) is where]
                async with History(f"http://{address}", "key", clock_ns=clock) as history:
                    return await fill(history, Decoder(tables), mine, from_ms, to_ms)

            recorder = Recorder(
                settings, queue, ingest, log, Tail(0), past=past if backfill else None, consumed=lambda: 0,
                on_end=failures.append,
            )  # fmt: skip
            recorder.start()
            try:
                wanted = topics(SYMBOLS)
                feeds = [
                    FeedClient(
                        where, f"ws://{address}", "key", names, queue, clock_ns=clock, rng=random.Random(seed + where)
                    )
                    for where, names in wanted.items()
                ]
                running = [asyncio.create_task(feed.run()) for feed in feeds]
                while not (trouble.is_over and all(feed.state.phase is Phase.LIVE for feed in feeds)):
                    assert loop.time() < END_S, f"seed {seed}: still not quiet: {[feed.state for feed in feeds]}"
                    for task in running:
                        if task.done():
                            task.result()
                    await asyncio.sleep(1.0)
                await asyncio.sleep(15.0)
                end_ns = simulator.sent_ns
                for feed in feeds:
                    run.endings[feed.state.last_ending] += feed.state.reconnects
                    await feed.stop()
            finally:
                await asyncio.to_thread(recorder.stop)
    assert failures == [None], failures
    run.refused = sum(ingest.refused.values())
    run.seconds = loop.time()
    run.done = list(trouble.done)
    run.faults = Counter(fault for _, fault, _ in trouble.done)
    run.log = read_log(folder / "log.db")
    for symbol in SYMBOLS:
        prints = market.trades(market_of(symbol), wire_symbol(symbol), START_NS, end_ns + 1)
        for n in range(len(prints)):
            key = (symbol, int(prints.exchange[n]), int(prints.trf[n]), prints.ids[n])
            run.market[key] = (int(prints.time_ns[n]) // _MS_NS, float(prints.price[n]), int(prints.size_e8[n]))
    return run


def read_log(path: Path) -> list[Logged]:
    """The trades and the gaps, in the log's order."""
    found: list[Logged] = []
    tables = Tables()
    with LogReader.open(path, tables) as reader:
        at = reader.first
        while len(batch := reader.read(at)):
            at += len(batch)
            for n in range(len(batch)):
                time_ms, received_ms = int(batch.time_ms[n]), int(batch.received_ns[n]) // _MS_NS
                if batch.kind[n] == Kind.GAP:
                    found.append(Logged(None, time_ms, received_ms, gap=Gap.decode(batch.ids[n])))
                elif batch.kind[n] == Kind.TRADE:
                    name = tables.symbols.values[batch.symbol[n]]
                    key = (name, int(batch.exchange[n]), int(batch.trf[n]), batch.ids[n])
                    found.append(Logged(key, time_ms, received_ms, float(batch.price[n]), int(batch.size_e8[n])))
    return found


# --- the judgement ---------------------------------------------------------------------------------------------


def judge(run: Run, *, backfill: bool) -> None:
    """Print what happened, and fail with what is wrong."""
    gaps = open_gaps(run)
    print(
        f"seed {run.seed}: {len(run.market)} trades, {len(run.sent)} sent, {len(gaps)} gaps, "
        f"{sum(run.faults.values())} faults, {run.refused} events refused, {run.seconds:.0f} s of its own time"
    )
    wrong = faults_of(run, backfill=backfill)
    told = "\n".join(wrong[:SHOWN_MAX])
    assert not wrong, f"seed {run.seed}, {len(wrong)} wrong, of them:\n{told}\nfaults: {dict(run.faults)}"


def faults_of(run: Run, *, backfill: bool) -> list[str]:
    """Everything that is wrong with a run, in sentences; none if it is as promised."""
    return [*_doubled(run), *_invented(run), *_missing(run, backfill), *_gap_bounds(run)]


def _doubled(run: Run) -> list[str]:
    counts = Counter(one.key for one in run.log if one.key is not None)
    return [f"{key}: {number} times in the log" for key, number in counts.items() if number > 1]


def _invented(run: Run) -> list[str]:
    """What is in the log and was never traded, or not so."""
    wrong = []
    for one in run.log:
        if one.key is None or one.time_ms < START_NS // _MS_NS:
            continue
        if one.key not in run.market:
            wrong.append(f"{one.key}: in the log, but not traded")
        elif (one.price, one.size_e8) != run.market[one.key][1:]:
            wrong.append(f"{one.key}: {one.price}, {one.size_e8} in the log; {run.market[one.key]} traded")
    return wrong


def _missing(run: Run, backfill: bool) -> list[str]:
    """Trades that are neither in the log nor, where that is allowed, in a gap; sent ones and withheld ones alike."""
    logged = {one.key for one in run.log}
    gaps = open_gaps(run)
    first_ms = {
        where: min((t for key, t in run.sent.items() if market_of(key[0]) is where), default=0) for where in Market
    }
    wrong = []
    for key, (time_ms, _, _) in run.market.items():
        where = market_of(key[0])
        if key in logged or time_ms < first_ms[where]:
            continue
        excused = any(gap.market is where and gap.from_ms <= time_ms <= gap.to_ms for gap in gaps)
        if backfill or not excused:
            kind = "sent" if key in run.sent else "traded"
            wrong.append(f"{key}: {kind} at {time_ms}, not in the log{', though backfilled' if backfill else ''}")
    return wrong


def _gap_bounds(run: Run) -> list[str]:
    """A gap may not reach back over what was recorded before it, nor beyond the moment it was known."""
    wrong = []
    known_ms: dict[Market, int] = {}
    for one in run.log:
        if one.gap is None and one.key is not None:
            if one.time_ms > one.received_ms + FUTURE_MS:
                continue  # so far ahead it says nothing
            where = market_of(one.key[0])
            known_ms[where] = max(known_ms.get(where, 0), min(one.time_ms, one.received_ms))
        elif one.gap is not None and one.gap in open_gaps(run):
            gap = one.gap
            if gap.from_ms < known_ms.get(gap.market, 0) - MARGIN_MS:
                wrong.append(f"{gap}: begins before the last trade known, {known_ms[gap.market]}")
            if not one.received_ms - SLACK_MS <= gap.to_ms <= one.received_ms + 1:
                wrong.append(f"{gap}: ends at another time than it was known, {one.received_ms}")
            if set(gap.symbols) != {symbol for symbol in SYMBOLS if market_of(symbol) is gap.market}:
                wrong.append(f"{gap}: not of all symbols of its market")
    return wrong


def open_gaps(run: Run) -> list[Gap]:
    """The gaps themselves, without what was told of them later."""
    return [one.gap for one in run.log if one.gap is not None and one.gap.is_open]
