"""A real `tapewatch run` as a process of its own, fed by `sender.py`, and the means to look at it from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil
import psycopg

from report import ROOT
from sender import Sent
from tape import names
from tapewatch.profiles.instance import running
from tapewatch.store.embedded import saved_dsn

START_S = 90.0
SETTLE_S = 60.0
KEEP = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "VIRTUAL_ENV"}
"""What of our own environment a pipeline gets to see."""


class SenderProcess:
    """`sender.py` beside us."""

    def __init__(self, symbols: str, rate: float, seconds: float, per_frame: int = 0) -> None:
        command = [sys.executable, str(Path(__file__).parent / "sender.py"), "--symbols", symbols, "--rate", str(rate)]
        command += ["--seconds", str(seconds), "--per-frame", str(per_frame)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url: str = msgspec.json.decode(self._line())["url"]

    def wait(self) -> Sent:
        """Until everything is sent."""
        return msgspec.json.decode(self._line(), type=Sent)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sender ended")
        return line


class Pipeline:
    """A pipeline in a folder of its own that goes with it. A context manager; it answers when it is entered.

    With a sender's ``url`` it is LIVE data, else its own simulator's. ``symbols`` as `sender.py` takes them.
    """

    def __init__(
        self,
        *,
        url: str = "",
        symbols: str = "",
        folder: Path | None = None,
        arguments: Sequence[str] = (),
        **settings: str,
    ) -> None:
        if symbols.isdigit():
            symbols = ",".join(names(int(symbols)))
        self._settings = {"HTTP_PORT": "0", "LOG_LEVEL": "warning", "WARMUP": "0s"}
        if symbols:
            self._settings["SYMBOLS"] = symbols
        if url:
            self._settings |= {"MASSIVE_WS_URL": url, "MASSIVE_API_KEY": "bench"}
        self._settings |= settings
        self._folder = folder
        self._arguments = arguments
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            data_dir = self._folder or Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tapewatch-bench-")))
            environment = {name: value for name, value in os.environ.items() if name in KEEP}
            environment |= {"DATA_DIR": str(data_dir), "PYTHONPATH": str(ROOT / "src"), **self._settings}
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tapewatch", "run", *self._arguments],
                cwd=data_dir,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            undo.callback(self._stop)
            self.folder, info = self._wait_running(data_dir)
            self.url = info.url.rstrip("/")
            self.process = psutil.Process(info.pid)
            dsn = saved_dsn(self.folder)
            assert dsn is not None
            self.database = undo.enter_context(psycopg.connect(dsn.conninfo, autocommit=True))
            self.conninfo = dsn.conninfo
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _wait_running(self, data_dir: Path) -> Any:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if found := running(data_dir):
                return found[0]
            if self._process.poll() is not None:
                raise RuntimeError(f"the pipeline ended with exit code {self._process.returncode}")
            time.sleep(0.01)
        raise RuntimeError("the pipeline did not come up")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_s(self) -> float:
        """CPU seconds of the pipeline's process so far: user and system."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def simulator(self) -> psutil.Process:
        """Its simulator, which one without a sender has."""
        return next(child for child in self.process.children() if "tapewatch.simulator" in child.cmdline())

    def postgres(self) -> list[psutil.Process]:
        """The embedded server and its sessions."""
        pid = int((self._postgres_folder() / "postmaster.pid").read_text().split("\n")[0])
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def postgres_cpu_s(self) -> float:
        """CPU seconds of the server and of its present sessions."""
        return sum(sum(process.cpu_times()[:2]) for process in self.postgres())

    def _postgres_folder(self) -> Path:
        found: Path = next(self.folder.rglob("postmaster.pid"))
        return found.parent

    def row(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The only row of a query."""
        return self.database.execute(query, values).fetchone()

    def stored_trades(self) -> int:
        """Trades that are in the database's rows or counters."""
        return int(self.row("SELECT coalesce(sum(trades + ineligible + late + future), 0) FROM latest_prices")[0])

    def wait_stored(self, trades: int) -> float:
        """Until so many trades are in the database; the moment, as `time.monotonic` has it."""
        deadline = time.monotonic() + SETTLE_S
        while (stored := self.stored_trades()) < trades:
            if time.monotonic() > deadline:
                raise RuntimeError(f"of {trades} trades only {stored} are in the database")
            time.sleep(0.02)
        return time.monotonic()

    def wait_quiet(self, seconds_max: float) -> None:
        """Until nothing more comes into the database: a recording has come to its end."""
        deadline = time.monotonic() + seconds_max
        before, position = -1, 0
        while position == 0 or position != before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"still at work after {seconds_max:g} s")
            time.sleep(3)
            before, position = position, self.row("SELECT position FROM engine_state")[0]

    def metric(self, name: str) -> float:
        """One of its metrics, summed over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)
