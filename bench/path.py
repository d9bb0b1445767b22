"""The whole path: a sender's socket, feed, log, engine and database, in a real `tapewatch run`.

    python bench/path.py [--quick]

Five symbols. The sender is a process of its own; its CPU and PostgreSQL's are told apart from the pipeline's. Nothing
may be lost: a run fails unless every trade sent is in the database's counters, and the engine is where the log ends.
"""

from __future__ import annotations

import time

from pipeline import Pipeline, SenderProcess
from report import Figure, main, print_figures

SYMBOLS = "AAPL,TSLA,GOOGL,MSFT,NVDA"
FLAT_OUT, FAST, STEADY, SLOW = 1_000_000, 240_000, 10_000, 1_000
TARGET = 200_000
WARM_S = 4.0


def run_once(rate: float, seconds: float, symbols: str = SYMBOLS, per_frame: int = 0) -> dict[str, float]:
    """Send at ``rate`` for so long; figures of the time after the first seconds."""
    sender = SenderProcess(symbols, rate, WARM_S + seconds, per_frame)
    try:
        with Pipeline(url=sender.url, symbols=symbols) as pipeline:
            time.sleep(WARM_S)  # what the first trades load and learn is no running cost
            began, before, first = time.monotonic(), _cpu_s(pipeline), pipeline.stored_trades()
            sent = sender.wait()
            ended = time.monotonic()
            stored = max(pipeline.wait_stored(sent.trades), ended)
            after = _cpu_s(pipeline)
            _expect_all(pipeline, sent.trades)
    finally:
        sender.close()
    pipeline_s, postgres_s = after[0] - before[0], after[1] - before[1]
    return {
        "rate": sent.trades / (sent.seconds + stored - ended),
        "cpu": 100 * pipeline_s / (stored - began),
        "cpu_ns": 1e9 * pipeline_s / (sent.trades - first),
        "postgres": 100 * postgres_s / (stored - began),
        "sender": 100 * sent.cpu_s / sent.seconds,
        "behind_ms": 1e3 * (stored - ended),
    }


def _cpu_s(pipeline: Pipeline) -> tuple[float, float]:
    return pipeline.cpu_s(), pipeline.postgres_cpu_s()


def _expect_all(pipeline: Pipeline, sent: int) -> None:
    """Every trade counted once in the database, none refused, and the engine where the log ends."""
    time.sleep(1.2)  # a tick goes by
    stored, refused = pipeline.stored_trades(), pipeline.metric("tapewatch_feed_refused_total")
    position = pipeline.row("SELECT position FROM engine_state")[0]
    end = pipeline.metric("tapewatch_log_end_offset")
    assert (stored, refused) == (sent, 0), f"sent {sent}, stored {stored}, refused {refused:g}"
    assert sent < position <= end <= position + 2, f"the log ends at {end:g}, the engine is at {position}"


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    figures: list[Figure] = []
    plans = [
        (FLAT_OUT, 2 if quick else 6, 1 if quick else 3),
        (FAST, 4 if quick else 21, 1 if quick else 3),
        (STEADY, 4 if quick else 20, 1 if quick else 3),
        (SLOW, 4 if quick else 20, 1 if quick else 3),
    ]
    for rate, seconds, repetitions in plans:
        runs = [run_once(rate, seconds) for _ in range(repetitions)]

        def of(name: str, runs: list[dict[str, float]] = runs) -> list[float]:
            return [run[name] for run in runs]

        note = f"{rate:,} trades/s" + (" offered" if rate > SLOW * 10 else "")
        mine = [
            Figure(name="sustained, nothing lost", note=note, unit="trades/s", values=of("rate"), more_is_better=True),
            Figure(name="pipeline's CPU", note=note, unit="% of a core", values=of("cpu")),
            Figure(name="pipeline's CPU a trade", note=note, unit="ns", values=of("cpu_ns")),
            Figure(name="PostgreSQL's CPU", note=note, unit="% of a core", values=of("postgres")),
            Figure(name="sender's CPU", note=note, unit="% of a core", values=of("sender")),
            Figure(name="last trade sent to last trade stored", note=note, unit="ms", values=of("behind_ms")),
        ]
        if rate == FAST:
            mine[0].target = TARGET
        if rate == STEADY:
            mine[1].target = 15
        print_figures(mine)
        figures += mine
    return figures


if __name__ == "__main__":
    main("The whole path", measure)
