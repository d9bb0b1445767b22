"""Starting a pipeline in the background: a process of its own that outlives the terminal, and waiting for its page.

What it says goes to `tapewatch.log` in its folder; the file before that is kept once, as `tapewatch.log.1`.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tapewatch.errors import MachineError, TapewatchError
from tapewatch.profiles.instance import RunInfo, folder_of, running
from tapewatch.records import Origin
from tapewatch.settings import Settings

__all__ = ["Started", "start_in_background"]

READY_S: Final = 180.0
"""A first start makes a database and compiles the engine; on a slow machine that takes a minute or two."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Started:
    """A pipeline that answers. ``is_new`` is false when it ran already."""

    info: RunInfo
    log: Path
    is_new: bool


def start_in_background(settings: Settings, origin: Origin, arguments: Sequence[str]) -> Started:
    """Run `tapewatch` with ``arguments`` and wait until it answers; one that runs already is left as it is.

    Two that start at the same time go one after the other, and the second finds the first's pipeline.

    Raises:
        MachineError: the folder cannot be written, another pipeline has the port, or it did not answer in time.
        TapewatchError: it ended; its own sentence and exit code.
    """
    folder = folder_of(settings.data_dir, origin)
    log = (folder / "tapewatch.log").absolute()
    with _one_at_a_time(folder):
        if (info := _running(settings, folder)) is not None:
            return Started(info, log, is_new=False)
        _check_port(settings)
        process = _spawn(arguments, log)
        deadline = time.monotonic() + READY_S
        try:
            while process.poll() is None and time.monotonic() < deadline:
                info = _running(settings, folder)
                if info is not None and info.pid == process.pid:
                    return Started(info, log, is_new=True)
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    raise _failure(process, log)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "start.lock").open("ab")
    except OSError as error:
        raise MachineError(
            f"DATA_DIR: {folder} cannot be written ({error.strerror}); choose another folder, or run as its owner"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _spawn(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    command = [sys.executable, "-m", "tapewatch", *arguments]
    with log.open("ab") as says:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=says, stderr=says, start_new_session=True)


def _failure(process: subprocess.Popen[bytes], log: Path) -> TapewatchError:
    """Why it does not run, with its exit code. One that only takes too long is ended."""
    code = process.poll()
    if code is None:
        process.terminate()
        process.wait()
        return MachineError(f"it did not answer within {READY_S:g} s, and was stopped; what it said is in {log}")
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    own = next((line for line in reversed(said) if line.startswith("tapewatch: ")), "")
    sentence = own.removeprefix("tapewatch: ") or f"it ended with exit code {code}: {said[-1] if said else 'no word'}"
    error = TapewatchError(f"{sentence} (all it said: {log})")
    error.exit_code = code if code > 0 else 128 - code
    return error


def _check_port(settings: Settings) -> None:
    for _, info in running(settings.data_dir):
        if settings.http_port and urlsplit(info.url).port == settings.http_port:
            raise MachineError(
                f"the {info.origin} pipeline is running at {info.url}; stop it first with ./stop_pipeline.sh, "
                "or give this one another HTTP_PORT"
            )


def _running(settings: Settings, folder: Path) -> RunInfo | None:
    return next((info for found, info in running(settings.data_dir) if found == folder), None)
