"""Decode, columns, windows and crosses on one core: how many trades a second.

    python bench/engine.py [--quick]

Frames of 100 trades, joined as the feed joins waiting frames; CPU time of one pinned thread. The engine is drained
each 25 ms of that time, as the pipeline commits. A second of event time, with its tick, goes by with 4,000 trades, as
on an average day of the whole US market: far more minutes end for each trade than if so many really came in a second.
Stamping the frames is not counted.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

from report import Figure, main, print_figures
from tape import SEED, Tape, names
from tapewatch.feed.decode import Decoder
from tapewatch.feed.ticks import tick_row
from tapewatch.profiles.parts import Parts
from tapewatch.records import Batch, Market, Tables
from tapewatch.settings import DECODE_EVENTS_MAX, Settings

PER_FRAME = 100
TRADES_PER_SECOND = 4_000
START_MS = 1_788_877_040_000
DRAIN_NS = 25_000_000
TARGET = 1_500_000
LIMIT = "a hand-written native one-pass engine, of four fields: 5 to 7.7 million a second"


@dataclass(slots=True)
class Spent:
    """CPU ns of one repetition, by part."""

    trades: int
    decode_ns: int = 0
    step_ns: int = 0
    drain_ns: int = 0
    drains: int = 0
    alerts: int = 0
    snapshot_ns: int = 0

    @property
    def total_ns(self) -> int:
        """All but the snapshot."""
        return self.decode_ns + self.step_ns + self.drain_ns


def run_once(parts: Parts, symbols: list[str], tape: Tape, trades: int) -> Spent:
    """Play so many trades through a new engine."""
    tables = Tables()
    decoder = Decoder(tables, symbols)
    engine = parts.engine(tables)
    together = DECODE_EVENTS_MAX // PER_FRAME
    spent = Spent(trades // (together * PER_FRAME) * together * PER_FRAME)
    now_ns = time.thread_time_ns
    second = START_MS // 1_000
    drained_ns = 0
    for done in range(0, spent.trades, together * PER_FRAME):
        time_ms = START_MS + 1_000 * done // TRADES_PER_SECOND
        frames = [(Market.STOCKS, tape.next_frame(time_ms), time_ms * 1_000_000) for _ in range(together)]
        started = now_ns()
        batch = decoder.decode(frames).batch
        decoded = now_ns()
        if time_ms // 1_000 > second:
            second = time_ms // 1_000
            engine.step(Batch.of([tick_row(Market.STOCKS, second * 1_000, second * 1_000_000_000)]))
        engine.step(batch)
        stepped = now_ns()
        spent.decode_ns += decoded - started
        spent.step_ns += stepped - decoded
        if spent.decode_ns + spent.step_ns - drained_ns >= DRAIN_NS:
            drained_ns = spent.decode_ns + spent.step_ns
            spent.alerts += len(engine.drain().alerts)
            spent.drains += 1
            spent.drain_ns += now_ns() - stepped
        assert len(batch) == together * PER_FRAME, "a trade was refused"
    engine.drain()
    started = now_ns()
    engine.snapshot()
    spent.snapshot_ns = now_ns() - started
    return spent


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    trades, repetitions = (100_000, 2) if quick else (1_000_000, 5)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    parts = Parts.load(Settings(_env_file=None))  # type: ignore[call-arg]
    figures: list[Figure] = []
    print(f"seed {SEED}; {trades:,} trades, {repetitions} repetitions; for comparison: {LIMIT}")
    for symbols in (3, 500, 11_000):
        wanted = names(symbols)
        tape = Tape(wanted, PER_FRAME, trades=40_000 if quick else 200_000)
        run_once(parts, wanted, tape, 40_000)  # loads what was compiled, warms the memory
        runs = [run_once(parts, wanted, tape, trades) for _ in range(repetitions)]
        rates = [1e9 * run.trades / run.total_ns for run in runs]
        undrained = [1e9 * run.trades / (run.decode_ns + run.step_ns) for run in runs]
        alone = [run.step_ns / run.trades for run in runs]
        decoding = [run.decode_ns / run.trades for run in runs]
        drains = [run.drain_ns / max(run.drains, 1) / 1e6 for run in runs]
        label = f"{symbols:,} symbols"
        mine = [
            Figure(
                name="decode to rows", note=label, unit="trades/s", values=rates, target=TARGET, more_is_better=True
            ),
            Figure(
                name="the same without draining", note=label, unit="trades/s", values=undrained, more_is_better=True
            ),
            Figure(name="decode and columns", note=label, unit="ns/trade", values=decoding),
            Figure(name="engine alone", note=label, unit="ns/trade", values=alone),
            Figure(name="one drain", note=label, unit="ms", values=drains),
            Figure(name="one snapshot", note=label, unit="ms", values=[run.snapshot_ns / 1e6 for run in runs]),
        ]
        print_figures(mine)
        print(f"  alerts {statistics.median(run.alerts for run in runs):.0f}, drains {runs[0].drains}")
        figures += mine
    return figures


if __name__ == "__main__":
    main("Decode, columns, windows and crosses on one core", measure)
