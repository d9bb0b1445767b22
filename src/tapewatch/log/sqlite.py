"""The log's connections to SQLite, and SQLite's errors in the log's words.

The standard library's `sqlite3` is used as it is, in WAL mode with every commit synced. SQLite's own checkpoints are
off: they hide their errors, and a disk whose fsync fails has to stop the writer (`LogWriter` checkpoints itself).

Only one process ever writes or checkpoints, so the data race between two checkpointers that SQLite had until 3.51.3
cannot happen here, whatever the version. A read-only connection never checkpoints, not even as the last to close.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from tapewatch.errors import LogCorrupt, LogError, LogFull
from tapewatch.log.wal import PAGE_BYTES

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for a lock that another program holds on the database."""
WAL_BYTES_KEPT: Final = 16 * 1024 * 1024
"""A larger write-ahead log is cut back to this when it starts anew."""

_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)

SCHEMA: Final = (
    "CREATE TABLE blocks (first INTEGER PRIMARY KEY, records INTEGER, reached_ms INTEGER, logged_ns INTEGER,"
    " checksum BLOB, data BLOB)",
    "CREATE TABLE log (one INTEGER PRIMARY KEY CHECK (one = 1), state BLOB)",
)
"""Columns are the fields of `blocks.Block`; ``log`` has one row, an encoded `blocks.State`."""
SELECT_BLOCKS: Final = "SELECT first, records, reached_ms, logged_ns, checksum, data FROM blocks "
INSERT_BLOCK: Final = "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)"


class Connection(Protocol):
    """What the log needs of a database connection in autocommit mode. Failures are `sqlite3.Error`s."""

    @property
    def in_transaction(self) -> bool:
        """Between BEGIN and COMMIT or ROLLBACK."""
        ...

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement; all its rows."""
        ...

    def close(self) -> None:
        """Close; a writer's last act is a checkpoint."""
        ...


Connect = Callable[[Path], Connection]


class _Connection:
    """A connection of the standard library, in one of SQLite's opening modes."""

    def __init__(self, path: Path, mode: str) -> None:
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
        )

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except UnicodeDecodeError as error:  # a name in a damaged schema; all text of ours is plain
            damaged = sqlite3.DatabaseError(f"its schema is no text: {error}")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged from error

    def close(self) -> None:
        self._connection.close()


def connect_reading(path: Path) -> Connection:
    """A read-only connection. It sees what is committed and never writes or checkpoints."""
    connection = _Connection(path, "ro")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def connect_writing(path: Path) -> Connection:
    """The writing connection; makes the file if there is none."""
    connection = _Connection(path, "rwc")
    try:
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: Connection) -> None:
    """Set what a writing connection needs; the first two make the file what it is and are kept in it."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    if connection.execute("PRAGMA journal_mode = WAL") != [("wal",)]:
        raise sqlite3.OperationalError("this file system does not allow the WAL mode; use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA secure_delete = OFF")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as LogFull, LogCorrupt or LogError, naming the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(path, error) from error


def translated(path: Path, error: sqlite3.Error) -> LogError:
    """The log's error for SQLite's. All SQL here is constant, so an SQL error means that the schema is damaged."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_FULL:
        return LogFull(f"{path}: no room left on the disk; nothing was written, free some and it goes on")
    if code & 0xFF in _CORRUPT:
        return corrupt(path, f"SQLite says: {error}")
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogError(f"{path}: another program keeps it locked for over {BUSY_TIMEOUT_S:g} s; close that program")
    name = getattr(error, "sqlite_errorname", "no code")
    return LogError(f"{path}: SQLite says: {error} ({name}); look at the disk, its room and the folder's permissions")


def corrupt(path: Path, what: str) -> LogCorrupt:
    """``what`` is wrong with the log, and what to do."""
    return LogCorrupt(
        f"{path}: {what}; nothing is read past it and nothing written. "
        "Restore the file from a copy, or run `tapewatch repair` to keep what is readable"
    )
