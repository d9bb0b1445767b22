"""From `tapewatch run` to the first live row in the database.

    python bench/start.py [--quick]

Everything is as a user has it: the built-in simulator, five symbols, the past hour fetched first. A row is live when
its trade happened after the command was given. The first start makes the database's folder, the later ones find it. The
machine code was compiled ahead (`tapewatch.warm`), as the installation does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from pipeline import KEEP
from report import Figure, main, print_figures
from tapewatch.store.embedded import saved_dsn
from tapewatch.warm import warm

TARGET_S = 5
GIVE_UP_S = 60.0
QUERY = "SELECT 1 FROM latest_prices WHERE timestamp BETWEEN to_timestamp(%s) AND now() LIMIT 1"


def start_once(data_dir: Path) -> tuple[float, float]:
    """Seconds to the first live row, and the CPU seconds that the pipeline and its children that ended took for it."""
    environment = {name: value for name, value in os.environ.items() if name in KEEP}
    environment |= {"DATA_DIR": str(data_dir), "HTTP_PORT": "0", "LOG_LEVEL": "warning"}
    began_s, started = time.time(), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tapewatch", "run"], cwd=data_dir, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        with _connect(data_dir / "simulated", started) as connection:
            while True:
                try:
                    if connection.execute(QUERY, (began_s,)).fetchone() is not None:
                        break
                except psycopg.errors.UndefinedTable:
                    pass  # a first start: the tables are being made
                _expect_time(started)
        taken = time.monotonic() - started
        return taken, sum(_cpu_s(process.pid))
    finally:
        process.terminate()
        process.wait(60)


def _connect(folder: Path, started: float) -> psycopg.Connection:
    while True:
        _expect_time(started)
        try:
            if (dsn := saved_dsn(folder)) is not None:
                return psycopg.connect(dsn.conninfo, autocommit=True, connect_timeout=2)
        except psycopg.OperationalError:
            pass  # it is starting


def _expect_time(started: float) -> None:
    time.sleep(0.01)
    if time.monotonic() - started > GIVE_UP_S:
        raise RuntimeError(f"no live row within {GIVE_UP_S:g} s")


def _cpu_s(pid: int) -> tuple[float, float]:
    """Of the process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return sum(map(int, fields[11:13])) / tick, sum(map(int, fields[13:15])) / tick


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    warm()
    first, later, cpu = [], [], []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as name:
            first.append(start_once(Path(name))[0])
            for _ in range(1 if quick else 3):
                seconds, cpu_s = start_once(Path(name))
                later.append(seconds)
                cpu.append(cpu_s)
    figures = [
        Figure(name="start to the first live row", note="first time: new database", unit="s", values=first),
        Figure(name="start to the first live row", note="once installed", unit="s", values=later, target=TARGET_S),
        Figure(name="CPU of it", note="pipeline and its helpers", unit="s", values=cpu),
    ]
    print_figures(figures)
    return figures


if __name__ == "__main__":
    main("From `tapewatch run` to the first live row", measure)
