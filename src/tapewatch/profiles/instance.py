"""One running pipeline per kind of data and folder: who it is, where it answers, and how to end it.

DATA_DIR/live | simulated | replayed /
    run.lock      held while a pipeline runs there, from its first moment; holds its process id
    start.lock    held while one is being started in the background
    run.json      its process id, address and origin, for `tapewatch stop` and `tapewatch status`
    feed.*, serve.*   the same of the two halves of a distributed pipeline, where they run by themselves
    tapewatch.log what it says when it runs in the background
    log/          the durable log
    postgres*     the embedded database
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import msgspec
import psutil

from tapewatch.errors import MachineError
from tapewatch.records import Origin
from tapewatch.store.embedded import stop_orphan

__all__ = ["Instance", "Role", "RunInfo", "folder_of", "running", "stop_all"]

STOP_S: Final = 60.0
"""On a busy machine the database alone may need twenty, and as long again where it has to be told twice."""


class Role(StrEnum):
    """What of a pipeline a process is; each has files of its own in the folder."""

    RUN = "run"
    """All of it; in the distributed profile, feed and page."""
    FEED = "feed"
    SERVE = "serve"

    @property
    def noun(self) -> str:
        """As sentences name it."""
        return {"run": "pipeline", "feed": "feed", "serve": "server"}[self]


class RunInfo(msgspec.Struct, kw_only=True):
    """A running pipeline, as it wrote itself down."""

    pid: int
    started: float
    """Of the process, as the system counts it: together with the id it names one process for ever."""
    origin: Origin
    url: str
    role: Role = Role.RUN


def folder_of(data_dir: Path, origin: Origin) -> Path:
    """Where the pipeline of that kind of data keeps everything."""
    return data_dir / origin.value.lower()


class Instance:
    """Holds the folder of one pipeline, or of a part of one. A context manager."""

    def __init__(self, folder: Path, origin: Origin, role: Role = Role.RUN) -> None:
        self.folder = folder
        self._origin = origin
        self._role = role
        self._lock = -1

    def __enter__(self) -> Self:
        """
        Raises:
            MachineError: the folder cannot be used, or another pipeline runs there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / f"{self._role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MachineError(
                f"DATA_DIR: {self.folder} cannot be written ({error.strerror}); choose another folder or its owner"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            info = _read(self.folder / f"{self._role}.json")
            where = f" (process {info.pid}{info.url and ', '}{info.url})" if info else ""
            what = "" if self._role is Role.RUN else f", as {self._role.noun}"
            raise MachineError(
                f"Tapewatch is already running on {self.folder}{what}{where}; stop it with ./stop_pipeline.sh"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, self._entry(""), 0)
        return self

    def announce(self, url: str) -> None:
        """Tell the other commands where this pipeline answers."""
        path = self.folder / f"{self._role}.json"
        part = path.with_suffix(".part")
        part.write_bytes(self._entry(url))
        part.replace(path)

    def _entry(self, url: str) -> bytes:
        pid = os.getpid()
        info = RunInfo(pid=pid, started=_started(pid), origin=self._origin, url=url, role=self._role)
        return msgspec.json.encode(info)

    def __exit__(self, *_: object) -> None:
        (self.folder / f"{self._role}.json").unlink(missing_ok=True)
        os.close(self._lock)


def running(data_dir: Path, *roles: Role) -> list[tuple[Path, RunInfo]]:
    """The pipelines that run now, with their folders; or the parts of some that play these ``roles``."""
    found = []
    for origin in Origin:
        folder = folder_of(data_dir, origin)
        for role in roles or (Role.RUN,):
            info = _read(folder / f"{role}.json")
            if info is not None and _process(info) is not None:
                found.append((folder, info))
    return found


def stop_all(data_dir: Path) -> list[str]:
    """Stop every pipeline of the folder, and what a killed one left behind; what was stopped, as sentences.

    Raises:
        MachineError: a process belongs to another user.
    """
    said = []
    for origin in Origin:
        for role in Role:
            info = _read(folder_of(data_dir, origin) / f"{role}.lock")  # also one that is still starting
            if info is not None and (sentence := _stop(info)):
                said.append(sentence)
    for origin in Origin:
        folder = folder_of(data_dir, origin)
        if folder.exists() and stop_orphan(folder):
            said.append(f"Stopped a database that a killed {origin} pipeline had left running.")
        with contextlib.suppress(OSError):
            for role in Role:
                if not any(f == folder for f, _ in running(data_dir, role)):
                    (folder / f"{role}.json").unlink(missing_ok=True)
    return said


def _stop(info: RunInfo) -> str:
    """End the process of that entry; what was done, or nothing if it does not live."""
    process = _process(info)
    if process is None:
        return ""
    what = f"the {info.origin} {info.role.noun} (process {info.pid})"
    try:
        process.send_signal(signal.SIGTERM)
        if not _has_ended(process, STOP_S):
            process.kill()
            _has_ended(process, 5)
            return f"Killed {what}: it did not end within {STOP_S:g} s; nothing that the log had acknowledged is lost."
    except psutil.AccessDenied:
        raise MachineError(f"Process {info.pid} belongs to another user; stop it as that user or as root.") from None
    except psutil.NoSuchProcess:
        return ""
    return f"Stopped {what}."


def _has_ended(process: psutil.Process, within_s: float) -> bool:
    """Wait for its end. One whose parent does not ask how it ended stays in the table, and has ended too."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            process.wait(0.1)
            return True
        except psutil.TimeoutExpired:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    continue
            return True
    return False


def _read(path: Path) -> RunInfo | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunInfo)
    except (OSError, msgspec.MsgspecError):
        return None


def _started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def _process(info: RunInfo) -> psutil.Process | None:
    """The process the entry speaks of, if it lives: not another one that got the same number."""
    try:
        process = psutil.Process(info.pid)
        if abs(process.create_time() - info.started) < 0.1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None
