"""A disk that fails on request and forgets what was not synced, under a real SQLite.

`Disk` is a SQLite VFS (through `apsw`) that keeps a folder's files in memory. A write reaches the *content*, which is
what reads see; a sync makes it durable. `Disk.crash` writes to the folder what a power cut leaves: all that is durable,
and of every unsynced write any subset of its 512-byte sectors. The next start then runs on the folder's real files.

    disk = Disk(folder, Random(seed), crash_at=17)     the 17th write, sync, truncation or deletion kills the process
    writer = LogWriter.open(path, …, connect=disk.connect)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import apsw

from tapewatch.log.sqlite import prepare

SECTOR_BYTES = 512
_serial = count()


class Crash(apsw.IOError):
    """The process dies here."""


def failure(kind: type[apsw.Error], code: int) -> apsw.Error:
    """An error of SQLite's, with its extended code, for `Disk.fail` to return."""
    error = kind("injected")
    error.extendedresult = code  # type: ignore[attr-defined]
    return error


def disk_full() -> apsw.Error:
    """ENOSPC while writing."""
    return failure(apsw.FullError, sqlite3.SQLITE_FULL)


def sync_failed() -> apsw.Error:
    """EIO from fsync."""
    return failure(apsw.IOError, sqlite3.SQLITE_IOERR_FSYNC)


class File:
    """One file: what reads see, what is durable, and the writes between."""

    def __init__(self, disk: Disk, name: str, durable: bytes | None) -> None:
        self.disk = disk
        self.name = name
        self.content = bytearray(durable or b"")
        self.durable = None if durable is None else bytearray(durable)
        self.pending: list[tuple[int, bytes]] = []
        """(offset, bytes), or (size, b"") for a truncation."""

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.step("write", self.name)
        write(self.content, bytes(data), offset)
        self.pending.append((offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        self.disk.step("truncate", self.name)
        del self.content[size:]
        self.pending.append((size, b""))

    def xSync(self, flags: int) -> None:
        try:
            self.disk.step("sync", self.name)
        except apsw.Error:
            self.pending.clear()  # as Linux does: the pages count as clean, and are lost
            raise
        if self.disk.honest and not self.disk.dead:
            if self.durable is None and self.name.endswith(("-wal", "-journal")):
                self.disk.sync_folder()  # as SQLite's own file layer does for these
            self.durable = bytearray(self.durable or b"")
            for offset, data in self.pending:
                apply(self.durable, offset, data)
            self.pending.clear()

    def survivor(self, random: Random) -> bytes | None:
        """What a power cut leaves of it."""
        if self.durable is None and random.random() < 0.5:
            return None
        image = bytearray(self.durable or b"")
        kept = random.choice([0.0, 0.5, 0.9, 1.0])
        for offset, data in self.pending:
            if not data and random.random() < kept:
                apply(image, offset, data)
            at = 0
            while at < len(data):
                size = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
                if random.random() < kept:
                    write(image, data[at : at + size], offset + at)
                at += size
        return bytes(image)

    def xFileSize(self) -> int:
        return len(self.content)

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE  # as SQLite assumes on Linux

    def xClose(self) -> None:
        pass


class Disk(apsw.VFS):
    """A folder's files, loaded when it is made and put back by `crash`."""

    def __init__(
        self,
        folder: Path,
        random: Random,
        *,
        crash_at: int | None = None,
        fail: Callable[[str, str], apsw.Error | None] = lambda operation, name: None,
        honest: bool = True,
    ) -> None:
        """``honest=False`` is a disk that ignores syncs. ``fail`` may return an error for any operation."""
        self.vfs = f"faulty-{next(_serial)}"
        super().__init__(self.vfs, "")
        self._folder = folder
        self._random = random
        self._crash_at = crash_at
        self._fail = fail
        self.honest = honest
        self.steps = 0
        self.failures = 0
        self.dead = False
        self._marks = [path.read_bytes() for path in folder.glob("*.end")]
        self._unsynced_deletions: list[File] = []
        self._files = {
            str(path): File(self, str(path), path.read_bytes())
            for path in folder.glob("log.db*")
            if not path.name.endswith("-shm")
        }

    def connect(self, path: Path) -> FaultyConnection:
        """What `LogWriter.open` takes as ``connect``."""
        return FaultyConnection(self, path)

    def step(self, operation: str, name: str) -> None:
        """Count an operation; die or fail if it is the one to."""
        if self.dead:
            return
        self.steps += 1
        if self.steps == self._crash_at:
            self.dead = True
            raise failure(Crash, sqlite3.SQLITE_IOERR)
        if (error := self._fail(operation, name)) is not None:
            self.failures += 1
            raise error

    def sync_folder(self) -> None:
        """Make deletions durable."""
        self._unsynced_deletions.clear()

    def crash(self) -> None:
        """Cut the power: leave in the folder what survives. The end mark, never synced, may be old or gone."""
        self.dead = True
        for path in self._folder.glob("log.db*"):
            path.unlink()
        for file in self._unsynced_deletions:
            if file.name not in self._files and self._random.random() < 0.5:
                self._files[file.name] = file
        for file in self._files.values():
            image = file.survivor(self._random)
            if image is not None:
                Path(file.name).write_bytes(image)
        if self._random.random() < 0.5:
            for path in self._folder.glob("*.end"):
                path.unlink()
            for mark in self._marks:
                (self._folder / "log.end").write_bytes(mark)

    def xOpen(self, name: Any, flags: list[int]) -> File:  # type: ignore[override]
        key = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        if key not in self._files:
            self._files[key] = File(self, key, None)
        return self._files[key]

    def xDelete(self, name: str, sync_folder: bool) -> None:
        self.step("delete", name)
        if not self.dead:
            file = self._files.pop(name)
            if not sync_folder and file.durable is not None:
                self._unsynced_deletions.append(file)

    def xAccess(self, name: str, flags: int) -> bool:
        return name in self._files

    def xFullPathname(self, name: str) -> str:
        return name

    def xRandomness(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def xSleep(self, microseconds: int) -> int:
        return microseconds

    def xCurrentTime(self) -> float:
        return 2_460_000.5


class FaultyConnection:
    """The `Connection` of a `Disk`. Alone on it, so it needs no shared memory (exclusive locking)."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._connection = apsw.Connection(str(path), vfs=disk.vfs)
        self.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            prepare(self)
        except BaseException:
            self.close()
            raise

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        try:
            return list(self._connection.execute(sql, tuple(values)))
        except apsw.Error as error:
            translated = sqlite3.OperationalError(str(error))
            translated.sqlite_errorcode = getattr(error, "extendedresult", sqlite3.SQLITE_ERROR)
            raise translated from error

    def close(self) -> None:
        with suppress(apsw.Error):  # as the standard library does: the last checkpoint's failure is not told
            self._connection.close()


def write(image: bytearray, data: bytes, offset: int) -> None:
    """Put ``data`` at ``offset``, filling a hole before it with zeros."""
    image.extend(bytes(max(offset - len(image), 0)))
    image[offset : offset + len(data)] = data


def apply(image: bytearray, offset: int, data: bytes) -> None:
    """One pending write, or truncation."""
    if data:
        write(image, data, offset)
    else:
        del image[offset:]
