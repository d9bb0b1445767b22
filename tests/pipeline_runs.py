"""`tapewatch` run as a person runs it: in processes of its own, on a folder and on ports of its own.

with Pipeline(tmp_path, SYMBOLS="AAPL,BTC") as pipeline:
    pipeline.start()                  # `tapewatch run`, until it says where it answers
    pipeline.kill()                   # kill -9 of that process alone
    assert pipeline.verify().is_good

Leaving the block ends everything that the folder's pipelines have started, however the test went.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil

from tapewatch.log.reader import LogReader
from tapewatch.profiles.instance import RunInfo, running
from tapewatch.profiles.market import SimulatorProcess
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rooms import open_rooms
from tapewatch.profiles.verify import Verdict, verify
from tapewatch.records import Batch, Tables
from tapewatch.settings import Settings
from tapewatch.store.embedded import saved_dsn
from trading_days import give_days

START_S = 240.0
END_S = 180.0
ANSWER_S = 120.0
"""How long one HTTP answer may take, on a busy machine too."""
_POLL_S = 0.05
_T = TypeVar("_T")


def until(condition: Callable[[], _T], what: str, within_s: float = 180.0) -> _T:
    """Ask again and again until the answer is true, and give it back; fails when time is up."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(_POLL_S)
    return answer


def clean_environment(**settings: str) -> dict[str, str]:
    """Ours without any setting of Tapewatch, and with ``settings``; files are meant from where a command starts."""
    names = {str(field.alias) for field in Settings.model_fields.values()} | {"TAPEWATCH_CALLED_FROM"}
    return {name: value for name, value in os.environ.items() if name not in names} | settings


class Pipeline:
    """One folder's pipeline. ``settings`` are environment variables; the page's port is any free one."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.settings = {"DATA_DIR": str(self.data_dir), "HTTP_PORT": "0", **settings}
        self.said = folder / "said.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(END_S)

    # --- commands -----------------------------------------------------------------------------------------------

    def command(
        self, *arguments: str, within_s: float = START_S, prefix: tuple[str, ...] = (), **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `tapewatch` with these arguments to its end. ``prefix`` is put before, such as `setpriv …`."""
        return subprocess.run(
            [*prefix, sys.executable, "-m", "tapewatch", *arguments],
            cwd=self.folder, env=clean_environment(**self.settings | settings), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=within_s, check=False,
        )  # fmt: skip

    def spawn(self, *arguments: str, program: tuple[str, ...] = ("-m", "tapewatch", "run")) -> None:
        """Start `tapewatch run` and do not wait for it."""
        if not self.data_dir.exists():
            give_days(self.data_dir)
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments], cwd=self.folder, env=clean_environment(**self.settings),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0,
            )  # fmt: skip

    def start(self, *arguments: str) -> None:
        """Start `tapewatch run`; until it answers."""
        self.spawn(*arguments)
        self.wait_announced()

    def wait_announced(self) -> None:
        """Until the process that was spawned says where it answers."""
        process = self.process
        assert process is not None

        def announced() -> RunInfo | None:
            assert process.poll() is None, f"it ended with {process.returncode}:\n{self.last_words()}"
            return next((info for _, info in running(self.data_dir) if info.pid == process.pid), None)

        self.url = until(announced, "it answers", START_S).url

    def is_running(self) -> bool:
        """The process that was started last has not ended."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of the pipeline's process, which must be at work."""
        assert self.process is not None
        assert self.is_running(), f"it ended by itself, with {self.process.returncode}:\n{self.last_words()}"
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; it has to end in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(END_S) == 0, self.last_words()

    def last_words(self) -> str:
        """The end of what it has said."""
        return self.said.read_text(errors="replace")[-3_000:] if self.said.exists() else ""

    # --- what can be seen ------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on our folder, by its command line or its environment; and what that has started."""
        mine, found = str(self.data_dir), dict[int, psutil.Process]()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get("DATA_DIR") == mine or any(mine in word for word in process.cmdline()):
                    found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        return list(found.values())

    def get(self, path: str) -> httpx.Response:
        """GET ``path`` of the page's server."""
        return httpx.get(f"{self.url}{path}", timeout=ANSWER_S, trust_env=False)

    def ask(self, path: str) -> Any:
        """What ``path`` answers; asked again where a busy machine's database was too slow for the server (503)."""

        def answered() -> httpx.Response | None:
            answer = self.get(path)
            assert answer.status_code in (200, 503), answer.text
            return answer if answer.status_code == 200 else None

        return until(answered, f"{path} is answered").json()

    def status(self) -> dict[str, Any]:
        """`/api/v1/status`."""
        answer = self.get("api/v1/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def is_live(self) -> bool:
        """All feeds are live. (Subscribed while the real market is closed, it says so.)"""
        return all(feed["state"] in ("live", "closed") for feed in self.status()["feeds"])

    def is_filled(self) -> bool:
        """All feeds are live, what was missed was fetched, and nothing waits for that any more."""
        status = self.status()
        is_fetching = any("Fetching" in (feed["detail"] or "") for feed in status["feeds"])
        return self.is_live() and not is_fetching and not status["queue_bytes"]

    def is_caught_up(self) -> bool:
        """The database holds what the log held a moment ago."""
        return bool(self.status()["engine"]["behind"] < 500)

    def is_finished(self) -> bool:
        """Every market's recording is over, and the database holds all of it."""
        status = self.status()
        said = {feed["detail"] for feed in status["feeds"]}
        return said == {"The recording is finished."} and not status["engine"]["behind"]

    def origin_folder(self, origin: str) -> Path:
        """Where the pipeline of that kind of data keeps everything."""
        return self.data_dir / origin

    def conninfo(self, origin: str) -> str:
        """The embedded database, as its owner."""
        dsn = saved_dsn(self.origin_folder(origin))
        assert dsn is not None
        return dsn.conninfo

    def loaded(self) -> Settings:
        """The settings as the pipeline reads them."""
        fields = {str(field.alias): name for name, field in Settings.model_fields.items()}
        return Settings(_env_file=None, **{fields[name]: value for name, value in self.settings.items()})

    def verify(self, origin: str = "") -> Verdict:
        """What `tapewatch verify` finds; with the pipeline at work or not."""
        settings = self.loaded()
        with open_rooms(settings, origin) as rooms:
            return verify(rooms.log_path, rooms.conninfo, Parts.load(settings))

    def records(self, origin: str) -> tuple[list[Batch], Tables]:
        """The whole log."""
        tables = Tables()
        with LogReader.open(self.origin_folder(origin) / "log" / "log.db", tables) as reader:
            return list(reader.batches(reader.first)), tables


@contextlib.contextmanager
def market(folder: Path, seed: int, rate: float) -> Iterator[SimulatorProcess]:
    """The simulated market as a process of its own, as if it were the exchange."""
    options = ["--seed", str(seed), "--rate", str(rate), "--connections", "0"]
    simulator = SimulatorProcess(options, folder / "simulator.txt")
    try:
        simulator.wait_ready()
        yield simulator
    finally:
        simulator.stop()
