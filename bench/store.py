"""What a commit costs, and why rows go by `unnest` and not by COPY.

    python bench/store.py

A real embedded PostgreSQL with fsync, in a folder that is deleted afterwards. Wall time is what the engine waits;
client CPU is ours alone, the server has its own. Medians; compare figures of one run only.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg

from tapewatch.records import BAR_ROW, LATEST_ROW, QUALITY_ROW, WINDOW_ROW, Changes, Origin
from tapewatch.store import arrays, statements
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.pieces import RowsPiece
from tapewatch.store.writer import StoreWriter

START_MS = 1_772_461_800_000
MINUTE_MS = 60_000
COPY_TYPES = ["text", "timestamptz", *["float8"] * 8, "int8", "bool", "int8"]
FROM_UNNEST = statements.UPSERT_WINDOWS[
    statements.UPSERT_WINDOWS.index("FROM unnest") : statements.UPSERT_WINDOWS.index("ON CONFLICT")
]


def make_changes(symbols: int, revision: int, minute: int) -> Changes:
    """One window, bar, latest price and quality row of each symbol."""
    rng = np.random.default_rng(revision)

    def rows(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        array = np.zeros(symbols, dtype)
        for name in dtype.names or ():
            if dtype[name].kind == "f":
                array[name] = rng.normal(100, 1, symbols).round(4)
            elif name.endswith("_ms") and name != "gap_ms":
                array[name] = START_MS + minute * MINUTE_MS
        array["symbol"] = np.arange(symbols)
        return array

    windows, bars, latest = rows(WINDOW_ROW), rows(BAR_ROW), rows(LATEST_ROW)
    for array in (windows, bars):
        array["revision"] = revision
    latest["received_ns"] = latest["time_ms"] * 1_000_000
    names = [f"S{number:05}" for number in range(symbols)]
    return Changes(names, windows, bars, latest, rows(QUALITY_ROW), [], [])


def median_ms(work: Callable[[int], None], repetitions: int) -> tuple[float, float, float]:
    """Wall, 99th percentile of it, and client CPU of ``work(number)``, in ms."""
    wall, cpu = [], []
    for number in range(repetitions):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        work(number)
        wall.append(1e3 * (time.perf_counter() - wall_start))
        cpu.append(1e3 * (time.process_time() - cpu_start))
    return statistics.median(wall), float(np.percentile(wall, 99)), statistics.median(cpu)


def measure_commits(conninfo: str) -> None:
    """Whole commits: windows, bars, latest prices and quality of so many symbols."""
    writer = StoreWriter.connect(conninfo)
    position = writer.recover("bench", Origin.SIMULATED).position
    print(f"{'symbols':>8} {'rows are':>8} {'wall ms':>9} {'p99 ms':>9} {'client CPU ms':>14}")
    for symbols, repetitions in ((5, 400), (500, 40), (11_000, 8)):
        for is_new, kind in ((True, "new"), (False, "changed")):
            given = [make_changes(symbols, n + 1, n if is_new else 0) for n in range(repetitions)]

            def commit(number: int, given: list[Changes] = given, first: int = position) -> None:
                writer.commit(given[number], first + number, first + number + 1)

            wall, p99, cpu = median_ms(commit, repetitions)
            position += repetitions
            print(f"{symbols:>8} {kind:>8} {wall:>9.2f} {p99:>9.2f} {cpu:>14.2f}")
    writer.close()


def measure_ways(conninfo: str) -> None:
    """The same windows by unnest and by binary COPY into a temporary table; new rows, then changed ones."""
    print(f"\n{'rows':>8} {'way':>8} {'new rows/s':>12} {'changed rows/s':>15} {'client µs/row':>14}")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        arrays.register(connection)
        connection.execute("CREATE TEMP TABLE n (LIKE stock_aggregates) ON COMMIT DELETE ROWS")
        minute = 10_000
        for rows in (1_000, 11_000, 44_000):
            for name, way in (("unnest", by_unnest), ("copy", by_copy)):
                rates, client_us = [], []
                minute += 10
                for revision in (0, 10):
                    given = [make_changes(rows, revision + n + 1, minute + n) for n in range(5)]
                    wall, _, cpu = median_ms(lambda n, way=way, given=given: way(connection, given[n]), len(given))
                    rates.append(1e3 * rows / wall)
                    client_us.append(1e3 * cpu / rows)
                print(f"{rows:>8} {name:>8} {rates[0]:>12,.0f} {rates[1]:>15,.0f} {min(client_us):>14.2f}")


def by_unnest(connection: psycopg.Connection, changes: Changes) -> None:
    """As the writer does it."""
    with connection.transaction(), connection.cursor() as cursor:
        RowsPiece("stock_aggregates", statements.UPSERT_WINDOWS, changes.windows, changes.symbols).write(cursor)


def by_copy(connection: psycopg.Connection, changes: Changes) -> None:
    """The other way: COPY, then the same INSERT from the temporary table."""
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy("COPY n FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(COPY_TYPES)
            for symbol, start_ms, *values in changes.windows.tolist():
                start = datetime.datetime.fromtimestamp(start_ms / 1000, datetime.UTC)
                copy.write_row((changes.symbols[symbol], start, *values))
        cursor.execute(statements.UPSERT_WINDOWS.replace(FROM_UNNEST, "FROM n\n"))


def memory_mib(pid: int) -> float:
    """Memory of the server and its sessions, shared pages counted once."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes) / 2**20


def main() -> None:
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "var")
        started = time.perf_counter()
        dsn = server.start()
        print(f"first start {time.perf_counter() - started:.2f} s")
        server.stop()
        started = time.perf_counter()
        dsn = server.start()
        print(f"next start  {time.perf_counter() - started:.2f} s")
        try:
            writer = StoreWriter.connect(dsn.conninfo)
            writer.initialise()
            writer.close()
            assert server.pid is not None
            print(f"memory, idle {memory_mib(server.pid):.0f} MiB\n")
            measure_commits(dsn.conninfo)
            print(f"memory, afterwards {memory_mib(server.pid):.0f} MiB")
            measure_ways(dsn.conninfo)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
