"""System Down in a file: what is told of the system itself, so that a database that is away can be told of too.

    watchdog ─► notices.db: alerts of the system, and a message for each channel ─► Sender, like any other outbox

One writes (the watchdog), one sends; SQLite lets both at it. What the file holds is small, and old rows are deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.downs import Down
from tapewatch.notify.letters import Letter
from tapewatch.notify.sender import Counts, Delivered, Waiting
from tapewatch.records import Notification

__all__ = ["Notices"]

KEPT_S: Final = 30 * 86_400
_BUSY_S: Final = 5.0
_MAKE: Final = """
CREATE TABLE IF NOT EXISTS downs (
  system_id TEXT PRIMARY KEY, rule TEXT NOT NULL, room TEXT NOT NULL, state TEXT NOT NULL, began REAL NOT NULL,
  announced REAL, recovered REAL, detail TEXT NOT NULL, stored INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (
  id TEXT PRIMARY KEY, alert_id TEXT NOT NULL, channel TEXT NOT NULL, event TEXT NOT NULL, payload BLOB NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, created REAL NOT NULL,
  delivered REAL, last_error TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS: Final = "SELECT system_id, rule, room, state, began, announced, recovered, detail FROM downs "
_STILL_DOWN: Final = _COLUMNS + "WHERE state = 'down' ORDER BY began"
_UNSTORED: Final = _COLUMNS + "WHERE NOT stored ORDER BY began"
_DELIVERED: Final = """
UPDATE notices SET state = 'delivered', attempts = ?, delivered = ?, last_error = NULL WHERE id = ?"""
_FAILED: Final = "UPDATE notices SET attempts = ?, last_error = ?, due = ? WHERE id = ?"
_DEAD: Final = "UPDATE notices SET state = 'dead', attempts = ?, last_error = ? WHERE id = ?"
_NEEDLESS: Final = "UPDATE notices SET state = 'muted', last_error = ? WHERE id = ?"
_LETTERS: Final = """
SELECT id, channel, event, payload, created, attempts, last_error FROM notices
WHERE state = 'dead' ORDER BY created DESC, id LIMIT ?"""
_RESEND: Final = """
UPDATE notices SET state = 'waiting', attempts = 0, due = ? WHERE state = 'dead' AND channel = ? AND id = ?"""
_CLAIM: Final = """
SELECT id, alert_id, channel, event, payload, attempts, created FROM notices
WHERE channel = ? AND state = 'waiting' AND due <= ?
  AND NOT (? AND EXISTS (SELECT 1 FROM notices o WHERE o.channel = notices.channel AND o.state = 'waiting'
                           AND o.created < notices.created))
ORDER BY created, id LIMIT ?
"""


class Notices:
    """The file, as watchdog and sender use it: an `OutboxStore`. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """The file is made if it is not there. Raises `StoreUnavailable`."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        with self._answering():
            pass

    # --- the watchdog -------------------------------------------------------------------------------------------

    def put(self, down: Down, messages: Sequence[Notification], now: datetime) -> None:
        """An alert of the system in its newest state, and what is to be sent of it: both, or neither."""
        at = now.timestamp()
        with self._answering() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO downs (system_id, rule, room, state, began, announced, recovered, detail)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    down.system_id, down.rule, down.room, down.state, down.began, down.announced, down.recovered,
                    down.detail,
                ),
            )  # fmt: skip
            connection.executemany(
                "INSERT OR IGNORE INTO notices (id, alert_id, channel, event, payload, due, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(n.id, n.alert_id, n.channel, n.event, msgspec.json.encode(n.payload), at, at) for n in messages],
            )
            connection.execute("DELETE FROM downs WHERE state <> 'down' AND stored AND began < ?", (at - KEPT_S,))
            connection.execute("DELETE FROM notices WHERE state <> 'waiting' AND created < ?", (at - KEPT_S,))

    def still_down(self) -> list[Down]:
        """What was announced and has not recovered: also from before this process began."""
        return self._downs(_STILL_DOWN)

    def unstored(self) -> list[Down]:
        """What the database has not been told in its newest state."""
        return self._downs(_UNSTORED)

    def stored(self, downs: Sequence[Down]) -> None:
        """The database knows them in this state."""
        with self._answering() as connection:
            connection.executemany(
                "UPDATE downs SET stored = 1 WHERE system_id = ? AND state = ?", [(d.system_id, d.state) for d in downs]
            )

    def fact(self, name: str) -> str:
        """What was noted under a name; empty if nothing was."""
        with self._answering() as connection:
            row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Remember it over a restart."""
        with self._answering() as connection:
            connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    def _downs(self, statement: str) -> list[Down]:
        with self._answering() as connection:
            rows = connection.execute(statement).fetchall()
        names = ("system_id", "rule", "room", "state", "began", "announced", "recovered", "detail")
        return [Down(**dict(zip(names, row, strict=True))) for row in rows]

    # --- people -------------------------------------------------------------------------------------------------

    def dead_letters(self, limit: int) -> list[Letter]:
        """The newest of those that were given up; as `letters.dead_letters`."""
        with self._answering() as connection:
            rows = connection.execute(_LETTERS, (limit,)).fetchall()
        return [
            Letter(
                id=name, channel=channel, event=event, symbol="", created_at=datetime.fromtimestamp(created, UTC),
                attempts=attempts, reason=error or "", text=str(msgspec.json.decode(payload).get("text", "")),
            )
            for name, channel, event, payload, created, attempts, error in rows
        ]  # fmt: skip

    def resend(self, ids: Collection[str] | None, channel: str | None, now: datetime) -> list[str]:
        """Let these wait again, or all with None; as `letters.resend`."""
        with self._answering() as connection:
            rows = connection.execute("SELECT id, channel FROM notices WHERE state = 'dead' ORDER BY id").fetchall()
            found = [row for row in rows if ids is None or row[0] in ids]
            found = [row for row in found if channel is None or row[1] == channel]
            connection.executemany(_RESEND, [(now.timestamp(), where, name) for name, where in found])
        return [name for name, _ in found]

    # --- the sender: see `OutboxStore` --------------------------------------------------------------------------

    async def claim(self, channel: str, limit: int, now: datetime, *, in_order: bool = False) -> list[Waiting]:
        """See `OutboxStore`."""
        with self._answering() as connection:
            rows = connection.execute(_CLAIM, (channel, now.timestamp(), in_order, limit)).fetchall()
        return [
            Waiting(
                Notification(
                    id=row[0], alert_id=row[1], channel=row[2], event=row[3], payload=msgspec.json.decode(row[4])
                ),
                attempts=row[5], created_at=datetime.fromtimestamp(row[6], UTC), announced=True,
            )
            for row in rows
        ]  # fmt: skip

    async def delivered(self, told: Delivered) -> None:
        """See `OutboxStore`. Nothing of these has a follow-up."""
        self._move(_DELIVERED, told.attempts, told.at.timestamp(), told.notification_id)

    async def failed(self, notification_id: str, attempts: int, error: str, next_attempt_at: datetime) -> None:
        """See `OutboxStore`."""
        self._move(_FAILED, attempts, error, next_attempt_at.timestamp(), notification_id)

    async def dead(self, notification_id: str, attempts: int, error: str) -> None:
        """See `OutboxStore`."""
        self._move(_DEAD, attempts, error, notification_id)

    async def needless(self, notification_id: str, reason: str) -> None:
        """See `OutboxStore`."""
        self._move(_NEEDLESS, reason, notification_id)

    async def sent_since(self, channel: str, since: datetime) -> list[datetime]:
        """See `OutboxStore`."""
        with self._answering() as connection:
            rows = connection.execute(
                "SELECT delivered FROM notices WHERE channel = ? AND delivered > ? ORDER BY delivered",
                (channel, since.timestamp()),
            ).fetchall()
        return [datetime.fromtimestamp(row[0], UTC) for row in rows]

    async def counts(self) -> Counts:
        """See `OutboxStore`."""
        with self._answering() as connection:
            row = connection.execute(
                "SELECT sum(state = 'waiting'), sum(state = 'dead'), min(CASE WHEN state = 'waiting' THEN created END)"
                " FROM notices"
            ).fetchone()
        return Counts(row[0] or 0, row[1] or 0, row[2] or 0.0)

    async def close(self) -> None:
        """Close the file; the next call would open it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _move(self, statement: str, *values: Any) -> None:
        with self._answering() as connection:
            connection.execute(statement, values)

    @contextmanager
    def _answering(self) -> Iterator[sqlite3.Connection]:
        """One transaction; a file that cannot be used is an outbox that is away."""
        try:
            if self._connection is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = sqlite3.connect(self._path, timeout=_BUSY_S)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.executescript(_MAKE)
            with self._connection:
                yield self._connection
        except (sqlite3.Error, OSError) as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            raise StoreUnavailable(f"{self._path} cannot be used: {error}") from None
