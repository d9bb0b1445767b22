"""Processes that outlive the command that started them: written down in a file, found again, and ended.

A process is known by its id together with the moment it was started, which names it for ever: an id alone may belong to
somebody else by now.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import psutil

from tapewatch.errors import MachineError

__all__ = ["Entry", "end", "find", "forget", "spawn"]

_END_S: Final = 30.0
LOG_BYTES_MAX: Final = 5_000_000


class Entry(msgspec.Struct, kw_only=True):
    """A process, as its file holds it."""

    pid: int
    started: float


def spawn(command: Sequence[str], entry: Path, says: Path, *, outlives: bool, environment: Mapping[str, str]) -> int:
    """Start a process in a session of its own, write it down in ``entry``, and give its id.

    What it says is added to ``says``; a file that is large already is kept once, as `….1`. Unless it ``outlives`` its
    starter, it is told to end when that ends, where the system can do so.
    """
    if says.exists() and says.stat().st_size > LOG_BYTES_MAX:
        says.replace(says.with_name(says.name + ".1"))
    leash = [] if outlives or shutil.which("setpriv") is None else ["setpriv", "--pdeathsig", "TERM"]
    with says.open("ab") as file:
        process = subprocess.Popen(
            [*leash, *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=dict(environment),
        )
    _children[process.pid] = process
    unfinished = entry.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(Entry(pid=process.pid, started=_started(process.pid))))
    unfinished.replace(entry)
    return process.pid


_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Those that this process has started: somebody must hear of their end."""


def find(entry: Path) -> psutil.Process | None:
    """The process that ``entry`` names, if it lives."""
    try:
        known = msgspec.json.decode(entry.read_bytes(), type=Entry)
        if (child := _children.get(known.pid)) is not None:
            child.poll()
        process = psutil.Process(known.pid)
        lives = abs(process.create_time() - known.started) < 0.1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, msgspec.MsgspecError, psutil.NoSuchProcess):
        return None
    return process if lives else None


def end(entry: Path, number: signal.Signals = signal.SIGTERM, seconds: float = _END_S) -> bool:
    """End the process that ``entry`` names, and all that it has started; False if there was none.

    It is asked first; what has not ended in that time is killed. Raises MachineError when it is another user's.
    """
    process = find(entry)
    if process is None:
        forget(entry)
        return False
    family = [process]
    try:
        family += process.children(recursive=True)
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise MachineError(f"Process {process.pid} belongs to another user; stop it as that user or as root.") from None
    _, alive = psutil.wait_procs(family[:1], seconds)
    _, left = psutil.wait_procs(family[1:], 0.5 if alive else 5.0)
    for survivor in [*alive, *left]:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs([*alive, *left], 5.0)
    if (child := _children.pop(process.pid, None)) is not None:
        child.wait()
    forget(entry)
    return True


def forget(entry: Path) -> None:
    """The process is over."""
    entry.unlink(missing_ok=True)


def _started(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0
