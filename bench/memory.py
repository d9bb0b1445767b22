"""How much memory the whole system takes but PostgreSQL, and how many bytes a trade takes where it is kept.

    python bench/memory.py [--quick]

Memory is the sum of the pipeline's process and of all that it started but PostgreSQL: RSS as `top` shows it, PSS with
shared pages counted once. The pipeline has taken trades for some minutes. With 11,000 symbols each has traded, at
2,000 trades a second from the simulator. The log's bytes are those of its file after an orderly end, and the
database's those of its tables and indexes; a real day is measured if `../shared/data` has one.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from path import SYMBOLS
from pipeline import Pipeline, SenderProcess
from report import ROOT, Figure, main, print_figures

MIB = 2**20
TABLES = """
SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
REAL_DAYS = sorted((ROOT.parent / "shared" / "data").glob("*trades*.csv.gz"))
REPLAY_S = 900.0


def memory_mib(pipeline: Pipeline) -> dict[str, float]:
    """RSS and PSS of the pipeline, of its simulator, and of all processes but PostgreSQL's."""
    found: dict[str, float] = {}
    simulator, databases = pipeline.simulator(), pipeline.postgres()
    for process in (pipeline.process, *pipeline.process.children(recursive=True)):
        if process in databases:
            continue
        info = process.memory_full_info()
        for kind in ("rss", "pss"):
            used = getattr(info, kind) / MIB
            found[f"all {kind}"] = found.get(f"all {kind}", 0) + used
            if process in (pipeline.process, simulator):
                found[f"{'simulator' if process == simulator else 'pipeline'} {kind}"] = used
    return found


def simulated(symbols: str, rate: float, seconds: float) -> dict[str, float]:
    """Memory after so many seconds of the built-in simulator."""
    # Each by its name: the simulator's whole market is much smaller than what it trades when it is asked.
    with Pipeline(
        symbols=symbols, SIMULATOR_RATE=str(rate), WARMUP="1h" if rate > 1 else "0s", FEED_WILDCARD_ABOVE="11000"
    ) as pipeline:
        time.sleep(seconds)
        found = memory_mib(pipeline)
        found["trades"] = pipeline.stored_trades()
        found["symbols"] = pipeline.row("SELECT count(*) FROM latest_prices")[0]
    return found


def kept(pipeline: Pipeline) -> dict[str, float]:
    """Trades and bytes of the tables; the log's are known when it is closed."""
    return {"trades": pipeline.stored_trades(), "tables": int(pipeline.row(TABLES)[0])}


def kept_simulated(seconds: float) -> dict[str, float]:
    """Bytes of five symbols at 10,000 trades a second."""
    with tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as name:
        sender = SenderProcess(SYMBOLS, 10_000, seconds)
        try:
            with Pipeline(url=sender.url, symbols=SYMBOLS, folder=Path(name)) as pipeline:
                pipeline.wait_stored(sender.wait().trades)
                found = kept(pipeline)
        finally:
            sender.close()
        return found | {"log": (Path(name) / "live" / "log" / "log.db").stat().st_size}


def kept_replayed(file: Path) -> dict[str, float]:
    """Bytes of a recorded day."""
    with tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as name:
        with Pipeline(folder=Path(name), arguments=("--replay", str(file), "--speed", "max")) as pipeline:
            pipeline.wait_quiet(REPLAY_S)
            found = kept(pipeline)
        return found | {"log": (Path(name) / "replayed" / "log" / "log.db").stat().st_size}


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    figures: list[Figure] = []

    def add(*mine: Figure) -> None:
        print_figures(mine)
        figures.extend(mine)

    for symbols, rate, target, label in ((SYMBOLS, 4.0, 300, "5 symbols"), ("11000", 0.2, 600, "11,000 symbols")):
        found = simulated(symbols, rate, 15 if quick else 180)
        if not quick and found["symbols"] != int(label.split()[0].replace(",", "")):
            raise RuntimeError(f"of {label} only {found['symbols']:,.0f} have traded")
        note = f"{label}, {found['trades']:,.0f} trades"
        add(
            Figure(name="memory, RSS", note=note, unit="MiB", values=[found["all rss"]], target=target),
            Figure(name="memory, PSS", note=note, unit="MiB", values=[found["all pss"]], target=target),
            Figure(name="of it the pipeline, PSS", note=label, unit="MiB", values=[found["pipeline pss"]]),
            Figure(name="of it the simulator, PSS", note=label, unit="MiB", values=[found["simulator pss"]]),
        )
    runs = [("synthetic, 10,000 trades/s", kept_simulated(5 if quick else 60))]
    if REAL_DAYS and not quick:
        runs.append((f"real day, {REAL_DAYS[0].name}", kept_replayed(REAL_DAYS[0])))
    for label, bytes_of in runs:
        note = f"{label}, {bytes_of['trades']:,.0f} trades"
        add(
            Figure(name="log", note=note, unit="bytes/trade", values=[bytes_of["log"] / bytes_of["trades"]]),
            Figure(name="database", note=note, unit="bytes/trade", values=[bytes_of["tables"] / bytes_of["trades"]]),
        )
    return figures


if __name__ == "__main__":
    main("Memory, and bytes a trade", measure)
