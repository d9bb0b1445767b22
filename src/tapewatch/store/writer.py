"""The writer: what the engine changed, and how far it has read, in one transaction.

    one round trip    upserts … | alerts, gaps, outbox | advance_position(old -> new) | COMMIT

Promised:
  * All of a commit is there, or nothing of it: rows, alerts, outbox rows and position.
  * A commit is there once. The position is compared and moved in the transaction, so a second engine, an older one that
    wakes up, or a repeat after a lost answer changes nothing.
  * A row with a lower revision never overwrites a higher one; an alert never goes back to provisional.
  * A row that only the database refuses is set aside in `refused_rows` and logged; the rest of the commit is stored.
Not promised: that a commit which raised `StoreUnavailable` did not happen. Repeat it with the same arguments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Self

import psycopg
import structlog
from psycopg import errors as pg

from tapewatch.errors import StoreError, StoreMismatch, StoreUnavailable
from tapewatch.metrics import RECENT, STORE_COMMIT_SECONDS, STORE_REFUSED, STORE_ROWS, STORE_UP
from tapewatch.records import Changes, Notification, Origin
from tapewatch.settings import STORE_LOCK_MS, STORE_STATEMENT_MS
from tapewatch.store import arrays, statements
from tapewatch.store.connect import open_connection, place
from tapewatch.store.pieces import Piece, pieces_of, storable

__all__ = ["INIT_SQL", "Recovered", "StoreWriter"]

INIT_SQL: Final = files("tapewatch.store") / "init_db.sql"
_FENCED: Final = "TW001"
_REFUSALS: Final = ("22", "23", "54")
"""SQLSTATE classes that name the data, not the server: bad value, broken constraint, too large for an index."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a lane stands.

    To continue: restore ``snapshot`` (None: the empty state, at 0), read the log from ``snapshot_position`` to
    ``position`` and throw away what the engine gives out, since it is stored already; then go on.
    """

    position: int
    snapshot: bytes | None
    snapshot_position: int


class StoreWriter:
    """One lane's connection for writing. Not for several threads at once."""

    def __init__(self, conninfo: str, lane: str) -> None:
        self._conninfo = conninfo
        self._lane = lane
        self._log_id = ""
        self._connection: psycopg.Connection | None = None
        self._in_doubt: tuple[int, int] | None = None

    @classmethod
    def connect(cls, conninfo: str, lane: str = "embedded") -> Self:
        """Open the connection now, so that a wrong setting is told at the start.

        Raises:
            StoreUnavailable, StoreError: see `connect.open_connection`.
        """
        writer = cls(conninfo, lane)
        with writer._answering():
            return writer

    def initialise(self) -> None:
        """Create or complete tables, views and functions (`init_db.sql`). Safe to repeat.

        A user who is not their owner only looks whether they are as this program expects them.

        Raises:
            StoreUnavailable: no answer.
            StoreError: they are missing or older, and the user may not create them.
        """
        connection = open_connection(self._conninfo, "tapewatch init")
        try:
            if not self._is_complete(connection):
                connection.execute(INIT_SQL.read_bytes())
        except pg.InsufficientPrivilege as error:
            raise StoreError(
                f"The database at {place(self._conninfo)} does not let us create our tables ({_first_line(error)}): "
                f"run tapewatch init-db as their owner, or make user {connection.info.user} the owner of the database "
                "or of its schema public."
            ) from None
        except psycopg.OperationalError as error:
            raise _unavailable(error, self._conninfo) from error
        finally:
            connection.close()

    def _is_complete(self, connection: psycopg.Connection) -> bool:
        """Whether somebody else's tables are there and as we expect them; ours are completed without a look."""
        found = connection.execute(statements.FIND_VERSION).fetchone()
        if found is None or found[0]:
            return False
        row = connection.execute(statements.READ_VERSION).fetchone()
        version = row[0] if row else 0
        if version < statements.SCHEMA_VERSION:
            raise StoreError(
                f"The tables in the database at {place(self._conninfo)} are of version {version}, expected "
                f"{statements.SCHEMA_VERSION}, and user {connection.info.user} is not their owner: "
                "run tapewatch init-db as their owner."
            )
        return True

    def owner(self) -> tuple[str, Origin] | None:
        """Log id and origin of what the database holds; None when it was never used.

        Raises:
            StoreUnavailable: no answer.
        """
        with self._answering() as connection:
            row = connection.execute(statements.READ_OWNER).fetchone()
        return None if row is None else (row[0], Origin(row[1]))

    def recover(self, log_id: str, origin: Origin) -> Recovered:
        """Claim the lane for this log, or find where it stands.

        Raises:
            StoreMismatch: the database holds data of another log or origin.
            StoreUnavailable: no answer.
        """
        with self._answering() as connection:
            owner = connection.execute(statements.READ_OWNER).fetchone()
            if owner is not None and owner != (log_id, origin.value):
                raise StoreMismatch(
                    f"The database at {place(self._conninfo)} holds {owner[1]} data of log {owner[0]}, but this run "
                    f"reads {origin.value} data of log {log_id}. Choose another DB_NAME or DATA_DIR, or empty it and "
                    "compute it anew from this log: tapewatch rebuild."
                )
            connection.execute(statements.CLAIM_LANE, (self._lane, log_id, origin.value))
            connection.execute(statements.KEEP_ROWS, (origin is not Origin.REPLAYED,))
            row = connection.execute(statements.READ_LANE, (self._lane,), binary=True).fetchone()
        assert row is not None, "the lane was claimed just now"
        self._log_id = log_id
        position, snapshot, snapshot_position = row
        return Recovered(position, snapshot, snapshot_position or 0)

    def peek(self, log_id: str) -> Recovered | None:
        """Where the lane stands in this log, without claiming it; None if it was never written.

        Raises:
            StoreMismatch: the lane holds data of another log.
            StoreUnavailable: no answer.
        """
        with self._answering() as connection:
            row = connection.execute(statements.READ_LANE, (self._lane,), binary=True).fetchone()
            owner = connection.execute(statements.READ_LANE_LOG, (self._lane,)).fetchone()
        if row is None or owner is None:
            return None
        if owner[0] != log_id:
            raise StoreMismatch(
                f"The database at {place(self._conninfo)} holds lane {self._lane} of log {owner[0]}, but this run "
                f"reads log {log_id}. Choose another DB_NAME, or empty it and compute it anew."
            )
        position, snapshot, snapshot_position = row
        return Recovered(position, snapshot, snapshot_position or 0)

    def reset(self, *, outbox: bool = False) -> None:
        """Empty everything that can be computed anew from the log, the position included.

        The outbox stays unless ``outbox`` is true: its messages were sent, and computing their alerts again must not
        send them again. For another log (a replay) there is nothing to remember.
        """
        with self._answering() as connection, connection.transaction():
            connection.execute(statements.EMPTY_DERIVED)
            if outbox:
                connection.execute(statements.EMPTY_OUTBOX)
            if _has_timescale(connection):
                connection.execute(statements.EMPTY_AGGREGATES)

    def prune(self, keep_ms: int) -> None:
        """Delete rows older than ``keep_ms``. Not for replayed data, which is old on purpose.

        Raises:
            StoreUnavailable: no answer; it is tried again with the next call.
        """
        with self._answering() as connection:
            connection.execute(statements.PRUNE, (max(1, keep_ms // 86_400_000),))

    def commit(
        self,
        changes: Changes,
        old_position: int,
        new_position: int,
        *,
        snapshot: bytes | None = None,
        notifications: Sequence[Notification] = (),
    ) -> None:
        """Write ``changes`` and move the lane from ``old_position`` to ``new_position``, in one transaction.

        ``snapshot`` is the engine's state at ``new_position``; None leaves the one before.

        Raises:
            StoreUnavailable: no answer, and it is unknown whether it was written. Call again with the same arguments.
            StoreMismatch: the lane is not at ``old_position``: another engine owns it. Nothing was written.
        """
        assert self._log_id, "recover() comes first"
        assert 0 <= old_position <= new_position, (old_position, new_position)
        has_rows = bool(notifications) or not changes.is_empty()
        assert old_position < new_position or not has_rows, "nothing was read, so nothing can have changed"
        started = time.perf_counter()
        pieces = pieces_of(changes, notifications, new_position)
        advance = (self._lane, self._log_id, old_position, new_position, snapshot)
        move = (old_position, new_position)
        with self._answering() as connection:
            is_repeat, self._in_doubt = self._in_doubt == move, move
            if not (is_repeat and self._is_at(connection, new_position)):
                try:
                    _write(connection, pieces, advance)
                except psycopg.Error as error:
                    if _is_refusal(error):
                        self._write_without_refused(connection, pieces, advance)
                    # or the first try was still under way, and this one has waited for it to go through
                    elif not (is_repeat and error.sqlstate == _FENCED and self._is_at(connection, new_position)):
                        raise
            self._in_doubt = None
        for piece in pieces:
            STORE_ROWS.labels(piece.table).inc(len(piece))
            STORE_REFUSED.labels(piece.table)  # from 0 on: Prometheus sees no increase in a number that is new
        took_s = time.perf_counter() - started
        STORE_COMMIT_SECONDS.observe(took_s)
        RECENT.note("commit", took_s)

    def close(self) -> None:
        """End the connection; nothing waits in it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_at(self, connection: psycopg.Connection, position: int) -> bool:
        row = connection.execute(statements.READ_POSITION, (self._lane, self._log_id)).fetchone()
        return row is not None and row[0] == position

    def _write_without_refused(
        self, connection: psycopg.Connection, pieces: Sequence[Piece], advance: tuple[Any, ...]
    ) -> None:
        """The slow way, after a refusal: each piece behind a savepoint, halved until the refused rows stand alone."""
        with connection.transaction(), connection.cursor() as cursor:
            waiting = list(reversed(pieces))
            while waiting:
                piece = waiting.pop()
                try:
                    with connection.transaction():
                        piece.write(cursor)
                except psycopg.Error as error:
                    if not _is_refusal(error):
                        raise
                    if halves := piece.halves():
                        waiting.extend(reversed(halves))
                    else:
                        self._set_aside(cursor, piece, error, advance[3])
            cursor.execute(statements.ADVANCE, advance)

    def _set_aside(self, cursor: psycopg.Cursor[Any], piece: Piece, error: psycopg.Error, position: int) -> None:
        reason = storable(_first_line(error))
        for symbol, table, row in piece.refused():
            cursor.execute(statements.INSERT_REFUSED, (self._lane, position, symbol, table, reason, row))
            STORE_REFUSED.labels(table).inc()
            _log.error("row refused by the database", table=table, symbol=symbol, position=position, reason=reason)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            connection = open_connection(self._conninfo, f"tapewatch {self._lane}")
            arrays.register(connection)
            connection.execute(statements.SESSION, (str(STORE_LOCK_MS), str(STORE_STATEMENT_MS)))
            if _has_timescale(connection):
                connection.execute(statements.SESSION_TIMESCALE)
            self._connection = connection
        return self._connection

    @contextmanager
    def _answering(self) -> Iterator[psycopg.Connection]:
        """A live connection; what goes wrong with it becomes one of our errors, and the connection is thrown away."""
        try:
            yield self._connected()
        except psycopg.Error as error:
            self.close()
            if error.sqlstate == _FENCED:
                self._in_doubt = None
                raise StoreMismatch(
                    f"The database at {place(self._conninfo)} says: {_first_line(error)}. Another engine has moved it; "
                    "nothing was written and this one must stop."
                ) from None
            STORE_UP.set(0)
            raise _unavailable(error, self._conninfo) from error
        except StoreUnavailable:
            STORE_UP.set(0)
            raise
        STORE_UP.set(1)


def _write(connection: psycopg.Connection, pieces: Sequence[Piece], advance: tuple[Any, ...]) -> None:
    """All statements in one round trip; the first that fails undoes all.

    BEGIN and COMMIT are written out because `Connection.transaction` waits for the server before either.
    """
    try:
        with connection.pipeline(), connection.cursor() as cursor:
            cursor.execute(statements.BEGIN)
            for piece in pieces:
                piece.write(cursor)
            cursor.execute(statements.ADVANCE, advance, prepare=True)
            cursor.execute(statements.COMMIT)
    except psycopg.Error:
        if not connection.closed:
            connection.rollback()
        raise


def _is_refusal(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)  # psycopg itself could not send the value
    return error.sqlstate[:2] in _REFUSALS


def _has_timescale(connection: psycopg.Connection) -> bool:
    row = connection.execute(statements.HAS_TIMESCALE).fetchone()
    return row is not None and bool(row[0])


def _unavailable(error: psycopg.Error, conninfo: str) -> StoreError:
    if error.sqlstate is not None and error.sqlstate[:2] == "42":
        return StoreError(
            f"The database at {place(conninfo)} lacks something of ours: {_first_line(error)}. "
            "Start tapewatch again to complete its tables."
        )
    return StoreUnavailable(f"The database at {place(conninfo)} does not answer: {_first_line(error)}.")


def _first_line(error: psycopg.Error) -> str:
    said = str(error).strip()
    return said.splitlines()[0].rstrip(".") if said else type(error).__name__
