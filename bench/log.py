"""What keeping a trade costs: CPU and time per durable append, bytes on disk, and how fast the log is read back.

    python bench/log.py [--dir FOLDER]

The log is written with its real fsyncs, in a temporary folder of FOLDER (the system's by default). CPU time is user and
system together, so the kernel's share of writing and syncing is in it. "data" is the blocks alone, "file" the whole
database; small blocks are merged as they come, so "before" is measured with merging put off. Compare figures of one
run only; where the disk is shared, wall times say little.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tapewatch.feed.flatfile import read_flatfile
from tapewatch.log.local import LogReader, LogWriter
from tapewatch.records import E8, Batch, Origin, Tables

REAL_DAY = Path(__file__).parents[2] / "shared/data/us-equities-trades-2013-10-07.csv.gz"
TRADES = 200_000
APPENDS_SMALL = 3_000


class Written(NamedTuple):
    """What writing took, per trade and per append."""

    cpu_us: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def as_if_live(batch: Batch) -> Batch:
    """The trades of a recording with receipt times as a live feed has them: 1 to 9 ms late, never going back."""
    delay_ns = np.random.default_rng(1).integers(1_000_000, 9_000_000, len(batch))
    return replace(batch, received_ns=np.maximum.accumulate(batch.time_ms * 1_000_000 + delay_ns))


def generated(tables: Tables, symbols: int, trades: int) -> Batch:
    """Random walks of ``symbols`` with skewed weights; odd lots, a dozen venues, several conditions."""
    rng = np.random.default_rng(2)
    weights = 1 / np.arange(1, symbols + 1)
    symbol = rng.choice(symbols, trades, p=weights / weights.sum())
    numbers = np.array([tables.symbols.index(f"S{n}") for n in range(symbols)], np.int32)
    conditions = np.array([tables.conditions.index(c) for c in ((), (37,), (14, 41), (12, 37))], np.int32)
    cents = rng.integers(1_000, 50_000, symbols)[symbol] + np.cumsum(rng.integers(-1, 2, trades)) % 200
    return as_if_live(
        Batch(
            kind=np.zeros(trades, np.uint8),
            market=np.zeros(trades, np.uint8),
            symbol=numbers[symbol],
            time_ms=1_788_877_046_310 + np.cumsum(rng.integers(0, 3, trades)),
            received_ns=np.zeros(trades, np.int64),
            price=cents / 100,
            size_e8=rng.choice([1, 5, 37, 100, 100, 100, 200, 1_000], trades) * np.int64(E8),
            exchange=rng.integers(1, 13, trades).astype(np.int16),
            trf=np.zeros(trades, np.int16),
            conditions=conditions[rng.choice(4, trades, p=[0.5, 0.3, 0.1, 0.1])],
            ids=[str(52_983_525 + i) for i in range(trades)],
        )
    )


def write(writer: LogWriter, batch: Batch, size: int, appends: int) -> Written:
    """Append ``size`` trades at a time; the batches are cut before the clock starts."""
    parts = [batch.slice(at, at + size) for at in range(0, min(len(batch), size * appends), size)]
    waits = []
    cpu_ns = time.process_time_ns()
    for part in parts:
        started = time.perf_counter()
        writer.append(part)
        waits.append(time.perf_counter() - started)
    cpu_ns = time.process_time_ns() - cpu_ns
    p50, p99, most = np.percentile(waits, [50, 99, 100]) * 1_000
    return Written(cpu_ns / 1_000 / sum(map(len, parts)), p50, p99, most)


def data_bytes(path: Path) -> int:
    """Bytes of all blocks, without SQLite's own."""
    connection = sqlite3.connect(path)
    [(size,)] = connection.execute("SELECT sum(length(data)) FROM blocks")
    connection.close()
    return int(size)


def read_through(path: Path) -> Iterator[int]:
    """Read the whole log; how many records each read gave."""
    with LogReader.open(path, Tables()) as reader:
        at = reader.first
        while count := len(reader.read(at)):
            at += count
            yield count


def measure(folder: Path, name: str, tables: Tables, batch: Batch, size: int) -> None:
    """One row: writing with merging as it comes, then bytes without and with merging, then reading."""
    appends = APPENDS_SMALL if size < 100 else len(batch) // size
    merging, plain = folder / f"{name}-{size}-merging" / "log.db", folder / f"{name}-{size}" / "log.db"
    with LogWriter.open(merging, tables, origin=Origin.REPLAYED) as writer:
        written = write(writer, batch, size, appends)
    with LogWriter.open(plain, tables, origin=Origin.REPLAYED) as writer:
        count = 0
        for at in range(0, min(len(batch), size * appends), size):
            writer._small_blocks = 0  # puts merging off
            count += len(writer.append(batch.slice(at, at + size)))
    before = (data_bytes(plain) / count, plain.stat().st_size / count)
    with LogWriter.open(plain, tables, origin=Origin.REPLAYED) as writer:
        while writer.compact():
            pass
    connection = sqlite3.connect(plain)
    connection.execute("VACUUM")  # the pages that merging has freed are used again by the next appends
    connection.close()
    after = (data_bytes(plain) / count, plain.stat().st_size / count)
    cpu, wall = time.process_time(), time.perf_counter()
    read = sum(read_through(plain))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{name:<14}{size:>7}{written.cpu_us:>9.2f}{written.p50_ms:>8.2f}{written.p99_ms:>8.2f}{written.max_ms:>8.1f}"
        f"{before[0]:>9.1f}{before[1]:>7.1f}{after[0]:>9.1f}{after[1]:>7.1f}"
        f"{read / cpu / 1e6:>10.2f}{read / wall / 1e6:>7.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=None, help="where the temporary log is written")
    chosen = parser.parse_args()
    print(
        f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, load {os.getloadavg()[0]:.1f}"
    )
    heads = ("", "trades", "CPU us", "append, ms", "bytes a trade", "merged", "read, M trades/s")
    print("{:<14}{:>7}{:>9}{:>24}{:>16}{:>16}{:>17}".format(*heads))
    heads = ("", "/commit", "/trade", "p50", "p99", "max", "data", "file", "data", "file", "CPU", "wall")
    print("{:<14}{:>7}{:>9}{:>8}{:>8}{:>8}{:>9}{:>7}{:>9}{:>7}{:>10}{:>7}".format(*heads))
    tables = Tables()
    inputs = {f"generated {n}": generated(tables, n, TRADES) for n in (5, 500)}
    if REAL_DAY.exists():
        inputs["real day"] = as_if_live(read_flatfile(REAL_DAY, tables).batch.slice(0, TRADES))
    else:
        print(f"no {REAL_DAY.name} beside the checkout: the real day is left out")
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        for name, batch in inputs.items():
            for size in (20, 1_000):
                measure(Path(folder), name, tables, batch, size)


if __name__ == "__main__":
    main()
