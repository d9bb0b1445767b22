"""What a database holds of one day's alerts, all of one moment: for the day's card.

A day is the exchange's: of coins it is that of UTC, of everything else that of New York.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import class_row

from tapewatch.errors import StoreMismatch
from tapewatch.records import Alert, AlertStatus
from tapewatch.store.connect import open_connection

__all__ = ["DayRows", "GapRow", "MessageRow", "StoredAlert", "SystemRow", "read_day"]

_NEW_YORK: Final = ZoneInfo("America/New_York")
_UTC: Final = ZoneInfo("UTC")
_ALERTS: Final = """
SELECT a.alert_id, a.rule, a.rule_version, a.kind, a.symbol, a.direction::int4, a.status,
       (extract(epoch FROM a.pane_start) * 1000)::int8, (extract(epoch FROM a.triggered_at) * 1000)::int8,
       (extract(epoch FROM a.decided_at) * 1000)::int8, COALESCE(a.price, 'NaN'), COALESCE(a.line, 'NaN'), a.late,
       a.log_offset, COALESCE(l.market, 'stocks'), a.stored_at,
       (a.evidence->'provisional'->'passport'->>'received_ns')::int8
  FROM breakout_alerts a LEFT JOIN latest_prices l ON l.symbol = a.symbol
 WHERE a.triggered_at >= LEAST(%(from)s, %(utc_from)s) AND a.triggered_at < GREATEST(%(to)s, %(utc_to)s)
   AND CASE WHEN l.market = 'crypto' THEN a.triggered_at >= %(utc_from)s AND a.triggered_at < %(utc_to)s
            ELSE a.triggered_at >= %(from)s AND a.triggered_at < %(to)s END
 ORDER BY a.triggered_at, a.alert_id COLLATE "C"
"""
_MESSAGES: Final = """
SELECT alert_id, channel, event, state, reason, created_at, delivered_at
  FROM notifications
 WHERE alert_id = ANY (%(ids)s)
    OR (created_at >= %(from)s AND created_at < %(to)s AND event NOT IN ('provisional', 'confirmed', 'retracted'))
 ORDER BY created_at, id COLLATE "C"
"""
_SYSTEM: Final = """
SELECT room, state, began_at, recovered_at, detail FROM system_alerts
 WHERE began_at >= %(from)s AND began_at < %(to)s ORDER BY began_at, system_id
"""
_GAPS: Final = """
SELECT market, GREATEST(gap_from, bounds.since) AS gap_from, LEAST(gap_to, bounds.until) AS gap_to, state
  FROM feed_gaps, LATERAL (
    SELECT CASE WHEN market = 'crypto' THEN %(utc_from)s ELSE %(from)s END AS since,
           CASE WHEN market = 'crypto' THEN %(utc_to)s ELSE %(to)s END AS until) bounds
 WHERE gap_from < bounds.until AND gap_to > bounds.since ORDER BY gap_from, market, gap_to
"""


class StoredAlert(NamedTuple):
    """An alert in its present state, without its evidence."""

    alert: Alert
    market: str
    stored_at: datetime
    """When its first state was written."""
    received_ns: int | None
    """When the trade that made it was received, if its evidence says so."""


class MessageRow(NamedTuple):
    """A row of `notifications`."""

    alert_id: str
    channel: str
    event: str
    state: str
    reason: str | None
    created_at: datetime
    delivered_at: datetime | None


class SystemRow(NamedTuple):
    """A row of `system_alerts`."""

    room: str
    state: str
    began_at: datetime
    recovered_at: datetime | None
    detail: str


class GapRow(NamedTuple):
    """A gap, as far as it lies in the day."""

    market: str
    gap_from: datetime
    gap_to: datetime
    state: str


@dataclass(frozen=True, slots=True)
class DayRows:
    """One day. ``messages`` are those of its alerts, and all others that were written on it."""

    alerts: list[StoredAlert]
    messages: list[MessageRow]
    system: list[SystemRow]
    gaps: list[GapRow]


def read_day(conninfo: str, day: date) -> DayRows:
    """Everything of ``day``.

    Raises:
        StoreUnavailable, StoreError: the database does not answer, or refuses us.
        StoreMismatch: it has no such tables.
    """
    (first, last), (utc_first, utc_last) = _bounds(day, _NEW_YORK), _bounds(day, _UTC)
    bounds: dict[str, Any] = {"from": first, "to": last, "utc_from": utc_first, "utc_to": utc_last}
    with closing(open_connection(conninfo, "tapewatch report")) as connection:
        try:
            return _read(connection, bounds)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            told = "The database has no alerts and messages as this version keeps them; run the pipeline on it first."
            raise StoreMismatch(told) from None


def _read(connection: psycopg.Connection, bounds: dict[str, Any]) -> DayRows:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with connection.transaction():
        alerts = [_stored(row) for row in connection.execute(_ALERTS, bounds)]
        values = bounds | {"ids": [one.alert.alert_id for one in alerts]}
        with connection.cursor(row_factory=class_row(MessageRow)) as cursor:
            messages = cursor.execute(_MESSAGES, values).fetchall()
        with connection.cursor(row_factory=class_row(SystemRow)) as cursor:
            system = cursor.execute(_SYSTEM, bounds).fetchall()
        with connection.cursor(row_factory=class_row(GapRow)) as cursor:
            gaps = cursor.execute(_GAPS, bounds).fetchall()
    return DayRows(alerts, messages, system, gaps)


def _bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    next_day = day + timedelta(days=1)
    return (
        datetime(day.year, day.month, day.day, tzinfo=zone),
        datetime(next_day.year, next_day.month, next_day.day, tzinfo=zone),
    )


def _stored(row: tuple[Any, ...]) -> StoredAlert:
    *columns, market, stored_at, received_ns = row
    names = [name for name in Alert.__struct_fields__ if name != "evidence"]
    values = dict(zip(names, columns, strict=True)) | {"evidence": {}}
    values["status"] = AlertStatus(values["status"])
    return StoredAlert(Alert(**values), market, stored_at, received_ns)
