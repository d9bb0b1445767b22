"""The files of a log, the lock that admits one writer, and the end mark.

    log.db, log.db-wal, log.db-shm     SQLite's
    log.lock                           locked (flock) while a writer lives; holds its process id
    log.end                            the end mark: a copy of the log's state, written after each append

The end mark is not synced. So after a power cut it may be older than the log, but it never claims more than was
acknowledged, and after a mere crash it is exact. A log that ends before it has lost records: a damaged last
transaction, a `-wal` file left behind when the folder was copied, an old copy put back.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tapewatch.errors import LogBusy
from tapewatch.log.blocks import Damage, State
from tapewatch.log.wal import WalReport, generation, inspect

MARK_BYTES: Final = 512
"""The end mark is padded to one sector, so that it is written whole or not at all."""
_LENGTH: Final = struct.Struct("<H")
_WAL_READS_MAX: Final = 100


class LogFiles(NamedTuple):
    """Where a log's files are, from the path of its database (``…/log.db``)."""

    path: Path

    @property
    def wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    @property
    def shm(self) -> Path:
        return self.path.with_name(self.path.name + "-shm")

    @property
    def lock(self) -> Path:
        return self.path.with_suffix(".lock")

    @property
    def mark(self) -> Path:
        return self.path.with_suffix(".end")

    def size_bytes(self) -> int:
        """Bytes of the database and its write-ahead log."""
        return sum(p.stat().st_size for p in (self.path, self.wal) if p.exists())

    def inspect_wal(self) -> WalReport:
        """Judge the write-ahead log as it is, also while a writer adds to it or starts it anew."""
        seen: tuple[bytes, int] | None = None
        for _ in range(_WAL_READS_MAX):
            try:
                content = self.wal.read_bytes()
            except FileNotFoundError:
                return inspect(b"")
            report = inspect(content)
            if report.damaged is None or (generation(content), report.damaged) == seen:
                break  # in order, or damaged the same way twice: no frame caught half written
            seen = (generation(content), report.damaged)
        return report

    def read_mark(self) -> State | None:
        """The end mark, or None without a readable one."""
        try:
            data = self.mark.read_bytes()
            (length,) = _LENGTH.unpack_from(data)
            return State.decode(data[_LENGTH.size : _LENGTH.size + length])
        except (FileNotFoundError, struct.error, Damage):
            return None


class WriterLock:
    """The right to write a log, held until `release` or the end of the process."""

    def __init__(self, files: LogFiles) -> None:
        """Take it. Raises LogBusy, naming the process that has it."""
        self._file = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise LogBusy(
                f"{files.path} is being written by process {holder}; stop that one (`tapewatch stop`) "
                "or give this one another DATA_DIR"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another writer in."""
        os.close(self._file)


class EndMark:
    """The writer's hand on the end mark."""

    def __init__(self, files: LogFiles) -> None:
        self._file = os.open(files.mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, state: State) -> None:
        """Note how far the log goes, after that became durable."""
        data = (msgspec.structs.replace(state, lost=()) if state.lost else state).encode()
        with suppress(OSError):  # an additional witness: without it the log is as durable as before
            os.pwrite(self._file, (_LENGTH.pack(len(data)) + data).ljust(MARK_BYTES, b"\0"), 0)

    def close(self) -> None:
        os.close(self._file)


def make_folder(folder: Path) -> None:
    """Make a folder, durably."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
