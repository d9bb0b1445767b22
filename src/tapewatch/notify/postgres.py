"""The outbox in PostgreSQL: the table `notifications`, which `store/init_db.sql` makes.

The engine's commit writes the rows; this reads them and moves their state. Of all that have the database open, one at a
time is given a channel's messages, by a lock of its session; when it goes, another takes over. One that loses its
connection in the middle of a delivery may not know that yet: then a message is sent twice, with the same id.

What was delivered is marked without waiting for the disk: a power cut in that moment costs a repeat, as a crash does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.sender import Counts, Delivered, Waiting
from tapewatch.ownconnection import OwnConnection
from tapewatch.records import Notification

_ANSWER_S_MAX: Final = 5

_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('tapewatch sender'), hashtext(%(channel)s)) AS held"
_CLAIM: Final = """
    SELECT n.id, n.alert_id, n.channel, n.event, n.payload, n.attempts, n.resent > 0 AS resent,
           COALESCE(n.passed_at, n.created_at) AS created_at,
           EXISTS (SELECT 1 FROM notifications p
                    WHERE p.alert_id = n.alert_id AND p.channel = n.channel
                      AND p.event = 'provisional' AND p.state IN ('delivered', 'folded')) AS announced,
           (SELECT p.receipt FROM notifications p
             WHERE p.alert_id = n.alert_id AND p.channel = n.channel AND p.id <> n.id
               AND p.state = 'delivered' AND p.receipt IS NOT NULL
             ORDER BY p.delivered_at DESC LIMIT 1) AS earlier,
           n.event = 'expired' AND EXISTS (SELECT 1 FROM notifications l
                    WHERE l.channel = n.channel AND l.created_at > n.created_at AND l.alert_id <> n.alert_id
                      AND l.state IN ('waiting', 'delivered')
                      AND l.payload->>'incident' = n.payload->'resolves'->>0) AS superseded
      FROM notifications n
     WHERE n.state = 'waiting' AND n.channel = %(channel)s AND n.next_attempt_at <= %(now)s
       AND (n.event = 'provisional' OR NOT EXISTS (
              SELECT 1 FROM notifications p
               WHERE p.alert_id = n.alert_id AND p.channel = n.channel
                 AND p.event = 'provisional' AND p.state = 'waiting'))
       AND (NOT %(in_order)s OR n.created_at < COALESCE((
              SELECT min(o.created_at) FROM notifications o
               WHERE o.channel = %(channel)s AND o.state = 'waiting' AND o.attempts > 0
                 AND o.next_attempt_at > %(now)s), 'infinity'))
     ORDER BY n.created_at, n.id
     LIMIT %(limit)s"""
_DELIVERED: Final = """
    UPDATE notifications
       SET state = 'delivered', attempts = %(attempts)s, delivered_at = %(at)s, last_error = NULL,
           first_attempt_at = COALESCE(first_attempt_at, %(at)s), receipt = COALESCE(%(receipt)s, receipt)
     WHERE id = %(id)s"""
_FOLLOW_UP: Final = """
    INSERT INTO notifications (id, alert_id, channel, event, payload, rule, kind, symbol, state, next_attempt_at)
    SELECT %(id)s, n.alert_id, n.channel, %(event)s, %(payload)s, n.rule, n.kind, n.symbol, 'waiting', %(due)s
      FROM notifications n WHERE n.id = %(of)s
        ON CONFLICT (id) DO NOTHING"""
_FAILED: Final = """
    UPDATE notifications
       SET attempts = %(attempts)s, next_attempt_at = %(next_attempt_at)s, last_error = %(error)s,
           first_attempt_at = COALESCE(first_attempt_at, clock_timestamp())
     WHERE id = %(id)s"""
_DEAD: Final = """
    UPDATE notifications SET state = 'dead', attempts = %(attempts)s, last_error = %(error)s WHERE id = %(id)s"""
_NEEDLESS: Final = "UPDATE notifications SET state = 'folded', reason = %(reason)s WHERE id = %(id)s"
_STRANDED: Final = """
    UPDATE notifications SET state = 'dead', last_error = 'there is no such channel any more'
     WHERE state = 'waiting' AND channel <> ALL (%(channels)s) AND created_at < %(before)s
 RETURNING id"""
_SENT_SINCE: Final = """
    SELECT delivered_at FROM notifications
     WHERE channel = %(channel)s AND delivered_at > %(since)s ORDER BY delivered_at"""
_COUNTS: Final = """
    SELECT count(*) FILTER (WHERE state = 'waiting' AND event <> 'expired') AS waiting,
           count(*) FILTER (WHERE state = 'dead') AS dead,
           COALESCE(extract(epoch FROM min(created_at) FILTER (WHERE state = 'waiting' AND event <> 'expired')),
                    0)::float8 AS oldest_s
      FROM notifications WHERE state IN ('waiting', 'dead')"""
_HEALTH: Final = """
    INSERT INTO channel_health (channel, kind, accepted_at, failed_at, last_error, failures, paused_until)
    VALUES (%(channel)s, %(kind)s, %(accepted_at)s, %(failed_at)s, %(last_error)s, %(failures)s, %(paused_until)s)
        ON CONFLICT (channel) DO UPDATE
       SET kind = EXCLUDED.kind, accepted_at = COALESCE(EXCLUDED.accepted_at, channel_health.accepted_at),
           failed_at = COALESCE(EXCLUDED.failed_at, channel_health.failed_at),
           last_error = COALESCE(EXCLUDED.last_error, channel_health.last_error), failures = EXCLUDED.failures,
           paused_until = EXCLUDED.paused_until, updated_at = clock_timestamp()"""


class PostgresOutbox(OwnConnection):
    """An `OutboxStore` with one connection of its own, opened when needed and again after it was lost."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo, "sender", _ANSWER_S_MAX)
        self._one_at_a_time = asyncio.Lock()
        self._mine: set[str] = set()

    async def claim(self, channel: str, limit: int, now: datetime, *, in_order: bool = False) -> list[Waiting]:
        """See `OutboxStore`. Nothing while another process delivers this channel's messages."""
        async with self._cursor() as cursor:
            if channel not in self._mine:
                await cursor.execute(_LOCK, {"channel": channel})
                answer = await cursor.fetchone()
                if answer is None or not answer["held"]:
                    return []
                self._mine.add(channel)
            await cursor.execute(_CLAIM, {"channel": channel, "limit": limit, "now": now, "in_order": in_order})
            return [_waiting(row) for row in await cursor.fetchall()]

    async def delivered(self, told: Delivered) -> None:
        """See `OutboxStore`."""
        receipt, following = told.outcome.receipt, told.outcome.follow_up
        values = {"id": told.notification_id, "attempts": told.attempts, "at": told.at}
        values["receipt"] = None if receipt is None else Jsonb(receipt)
        if following is None:
            await self._execute(_DELIVERED, values)
            return
        n = following.notification
        later: dict[str, Any] = {"id": n.id, "event": n.event, "payload": Jsonb(n.payload), "of": told.notification_id}
        later["due"] = told.at + timedelta(seconds=following.after_s)
        async with self._cursor() as cursor, cursor.connection.transaction():
            await cursor.execute(_DELIVERED, values)
            await cursor.execute(_FOLLOW_UP, later)

    async def failed(self, notification_id: str, attempts: int, error: str, next_attempt_at: datetime) -> None:
        """See `OutboxStore`."""
        values = {"id": notification_id, "attempts": attempts, "error": error, "next_attempt_at": next_attempt_at}
        await self._execute(_FAILED, values)

    async def dead(self, notification_id: str, attempts: int, error: str) -> None:
        """See `OutboxStore`."""
        await self._execute(_DEAD, {"id": notification_id, "attempts": attempts, "error": error})

    async def needless(self, notification_id: str, reason: str) -> None:
        """See `OutboxStore`."""
        await self._execute(_NEEDLESS, {"id": notification_id, "reason": reason})

    async def sent_since(self, channel: str, since: datetime) -> list[datetime]:
        """See `OutboxStore`."""
        async with self._cursor() as cursor:
            await cursor.execute(_SENT_SINCE, {"channel": channel, "since": since})
            return [row["delivered_at"] for row in await cursor.fetchall()]

    async def counts(self) -> Counts:
        """See `OutboxStore`."""
        async with self._cursor() as cursor:
            await cursor.execute(_COUNTS)
            row = await cursor.fetchone()
        assert row is not None
        return Counts(**row)

    async def strand(self, channels: Collection[str], before: datetime) -> int:
        """Give up what waits for any other channel since before that time; how many. Raises `StoreUnavailable`."""
        async with self._cursor() as cursor:
            await cursor.execute(_STRANDED, {"channels": list(channels), "before": before})
            return len(await cursor.fetchall())

    async def tell_health(self, outlet: Outlet) -> None:
        """Write down how a channel does, for people. Raises `StoreUnavailable`."""
        await self._execute(_HEALTH, {"channel": outlet.name} | outlet.told())

    async def _execute(self, statement: LiteralString, values: Mapping[str, Any]) -> None:
        async with self._cursor() as cursor:
            await cursor.execute(statement, values)

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[psycopg.AsyncCursor[dict[str, Any]]]:
        """One statement at a time, however many channels ask."""
        async with self._one_at_a_time:
            try:
                async with (await self._connected()).cursor() as cursor:
                    yield cursor
            except psycopg.OperationalError as error:
                await self.close()
                raise StoreUnavailable(f"The database with the notifications does not answer: {error}") from error

    async def _opened(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self._mine.clear()  # the locks went with the session
        await connection.execute("SET synchronous_commit = off")


def _waiting(row: Mapping[str, Any]) -> Waiting:
    return Waiting(
        Notification(**{name: row[name] for name in Notification.__struct_fields__}),
        attempts=row["attempts"],
        created_at=row["created_at"],
        announced=row["announced"],
        resent=row["resent"],
        superseded=row["superseded"],
        earlier=row["earlier"],
    )
