"""System Down in the database: for the page and the day's card, beside the file that it is told from.

    watchdog ─► system_alerts
    test alert ─► system_alerts and notifications, in one transaction: it goes the way of every alert

While the database is away the file knows it, and the database is told afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from tapewatch.records import Notification
from tapewatch.store.marks import Writing

__all__ = ["SystemRow", "SystemStore"]

_PUT: Final = """
INSERT INTO system_alerts (system_id, rule, room, state, began_at, announced_at, recovered_at, detail)
VALUES (%(system_id)s, %(rule)s, %(room)s, %(state)s, %(began)s, %(announced)s, %(recovered)s, %(detail)s)
ON CONFLICT (system_id) DO UPDATE SET
  state = excluded.state, recovered_at = excluded.recovered_at, detail = excluded.detail
WHERE system_alerts.state = 'down'
"""
_SEND: Final = """
INSERT INTO notifications (id, alert_id, channel, event, payload, rule, kind, state)
VALUES (%(id)s, %(alert_id)s, %(channel)s, %(event)s, %(payload)s::jsonb, %(rule)s, 'system', 'new')
ON CONFLICT (id) DO NOTHING
"""
_UNDELIVERED: Final = """
SELECT channel FROM notifications WHERE alert_id = %(alert_id)s AND state <> 'delivered' ORDER BY channel
"""


class SystemRow(Protocol):
    """A row of `system_alerts`; `notify.notices.Down`. Times are Unix seconds."""

    @property
    def system_id(self) -> str:
        """Its key."""

    @property
    def rule(self) -> str:
        """The rule that said so."""

    @property
    def room(self) -> str:
        """What is not well."""

    @property
    def state(self) -> str:
        """down, recovered or test."""

    @property
    def began(self) -> float:
        """Since when."""

    @property
    def announced(self) -> float | None:
        """When it was told."""

    @property
    def recovered(self) -> float | None:
        """When it was well again."""

    @property
    def detail(self) -> str:
        """What was wrong."""


class SystemStore(Writing):
    """Writes these rows. Every method raises `StoreUnavailable` when there is no answer."""

    async def put(self, rows: Sequence[SystemRow]) -> None:
        """Alerts of the system in their newest state; repeating it changes nothing."""
        async with self._answering() as connection:
            for row in rows:
                await connection.execute(_PUT, _values(row))

    async def send(self, row: SystemRow, messages: Sequence[Notification]) -> None:
        """A test alert and its messages: both, or neither."""
        async with self._answering() as connection, connection.transaction():
            await connection.execute(_PUT, _values(row))
            for message in messages:
                values = msgspec.structs.asdict(message)
                values |= {"rule": row.rule, "payload": msgspec.json.encode(message.payload).decode()}
                await connection.execute(_SEND, values)

    async def undelivered(self, system_id: str) -> list[str]:
        """The channels that a test alert has not reached."""
        async with self._answering() as connection:
            rows = await (await connection.execute(_UNDELIVERED, {"alert_id": system_id})).fetchall()
        return [row["channel"] for row in rows]


def _values(row: SystemRow) -> dict[str, Any]:
    return {
        "system_id": row.system_id,
        "rule": row.rule,
        "room": row.room,
        "state": row.state,
        "began": _time(row.began),
        "announced": _time(row.announced),
        "recovered": _time(row.recovered),
        "detail": row.detail,
    }


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
