"""The gate's view of the table `notifications`, in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg
from psycopg.types.json import Jsonb, set_json_loads

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.gate import Look
from tapewatch.notify.policy import Fresh, Memory, Plan, mutes_of
from tapewatch.ownconnection import OwnConnection

__all__ = ["PostgresGate"]

MESSAGES_MAX: Final = 2_000
"""Messages that are decided about together."""
PORTION: Final = 100
"""Rows that are taken from the database, or given to it, before the path of the data in this process has its turn."""
REMEMBERED: Final = timedelta(hours=1)
_ANSWER_S_MAX: Final = 5

_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('tapewatch gate')) AS held"
_MUTES: Final = "SELECT rule, symbol, channel, muted_to, muted_by FROM alert_mutes WHERE muted_to > %(now)s"
_LOOK: Final = """
    SELECT n.id, n.alert_id, n.channel, n.event, n.rule, n.symbol, n.payload, n.created_at,
           CASE WHEN n.state = 'held' THEN n.reason END AS reason, p.state AS before, g.grade,
           m.acknowledged_at IS NOT NULL AS acknowledged
      FROM (SELECT * FROM notifications
             WHERE state IN ('new', 'held') AND (state = 'new' OR held_until <= %(now)s)
             ORDER BY created_at, id LIMIT %(limit)s) n
      LEFT JOIN notifications p ON p.id = n.alert_id || ':' || n.channel || ':provisional' AND p.id <> n.id
      LEFT JOIN alert_marks m ON m.alert_id = n.alert_id
      LEFT JOIN LATERAL (
        SELECT CASE WHEN gap.ms >= 10000 THEN 'D' WHEN gap.ms > 0 THEN 'C' WHEN q.late * 100 > q.trades THEN 'B'
                    ELSE 'A' END AS grade
          FROM (SELECT to_timestamp((n.payload->>'window_from_ms')::float8 / 1000) AS from_time,
                       to_timestamp((n.payload->>'window_to_ms')::float8 / 1000) AS to_time, l.market
                  FROM latest_prices l WHERE l.symbol = n.symbol) w,
          LATERAL (
            SELECT COALESCE(sum(extract(epoch FROM LEAST(f.gap_to, w.to_time) - GREATEST(f.gap_from, w.from_time))), 0)
                   * 1000 AS ms
              FROM feed_gaps f
             WHERE f.market = w.market AND f.state <> 'filled' AND f.gap_from < w.to_time AND f.gap_to > w.from_time
               AND (f.symbols = '{}' OR n.symbol = ANY (f.symbols)) AND (f.missing = '{}' OR n.symbol = ANY (f.missing))
          ) gap,
          LATERAL (
            SELECT COALESCE(sum(late), 0) AS late, COALESCE(sum(trades), 0) AS trades
              FROM minute_quality WHERE symbol = n.symbol AND minute >= w.from_time AND minute < w.to_time
          ) q
         WHERE n.event IN ('provisional', 'confirmed', 'retracted')
      ) g ON true
     ORDER BY n.created_at, n.id"""
"""Graded by what is still missing in the alert's window: a gap that was filled counts no more."""
_REMEMBERED: Final = """
    SELECT channel, event, rule, symbol, passed_at FROM notifications
     WHERE passed_at > %(since)s AND channel <> 'log'
       AND (event IN ('digest', 'burst', 'held') OR event IN ('provisional', 'confirmed'))
     ORDER BY passed_at"""
_MOVE: Final = """
    UPDATE notifications n
       SET state = m.state, reason = COALESCE(m.reason, n.reason), held_until = m.held_until,
           last_error = CASE WHEN m.state = 'dead' THEN m.reason ELSE n.last_error END,
           told_by = COALESCE(m.told_by, n.told_by), payload = COALESCE(m.payload, n.payload),
           passed_at = CASE WHEN m.state = 'waiting' THEN %(now)s ELSE n.passed_at END,
           next_attempt_at = CASE WHEN m.state = 'waiting' THEN %(now)s ELSE n.next_attempt_at END
      FROM jsonb_to_recordset(%(moves)s::jsonb)
           AS m (id text, state text, reason text, held_until timestamptz, told_by text, payload jsonb)
     WHERE n.id = m.id AND n.state IN ('new', 'held')"""
_MAKE: Final = """
    INSERT INTO notifications (id, alert_id, channel, event, payload, rule, kind, symbol, state, created_at, passed_at,
                               next_attempt_at)
    VALUES (%(id)s, %(alert_id)s, %(channel)s, %(event)s, %(payload)s, %(rule)s, %(event)s, %(symbol)s, 'waiting',
            %(now)s, %(now)s, %(now)s)
    ON CONFLICT (id) DO NOTHING"""


class PostgresGate(OwnConnection):
    """A `GateStore` with one connection of its own, opened when needed and again after it was lost."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo, "gate", _ANSWER_S_MAX)
        self._is_gate = False
        self._knows = False

    async def look(self, now: datetime) -> Look | None:
        """See `GateStore`."""
        async with self._answering() as connection:
            if not self._is_gate:
                answer = await (await connection.execute(_LOCK)).fetchone()
                self._is_gate = answer is not None and bool(answer["held"])
            if not self._is_gate:
                return None
            values = {"now": now, "limit": MESSAGES_MAX}
            found = await connection.execute(_LOOK, values)
            messages: list[Fresh] = []
            while rows := await found.fetchmany(PORTION):
                messages += [Fresh(**row) for row in rows]
                await asyncio.sleep(0)
            mutes = await (await connection.execute(_MUTES, values)).fetchall() if messages else []
        return Look(messages, mutes_of(mutes))

    async def remembered(self, now: datetime) -> Memory | None:
        """See `GateStore`."""
        if self._knows:
            return None
        memory = Memory()
        async with self._answering() as connection:
            rows = await (await connection.execute(_REMEMBERED, {"since": now - REMEMBERED})).fetchall()
        for row in rows:
            memory.note(row["channel"], row["event"], row["rule"], row["symbol"], row["passed_at"])
        self._knows = True
        return memory

    async def write(self, plan: Plan, now: datetime) -> None:
        """See `GateStore`. After a lost answer it is unknown whether it was written: then all is asked anew."""
        async with self._answering() as connection, connection.transaction():
            for first in range(0, len(plan.moves), PORTION):
                moves = _json(plan.moves[first : first + PORTION])
                await connection.execute(_MOVE, {"moves": moves, "now": now}, prepare=True)
            for made in plan.made:
                values = msgspec.structs.asdict(made) | {"payload": Jsonb(made.payload, _json), "now": now}
                values |= {"rule": made.payload["rule"], "symbol": made.payload["symbol"]}
                await connection.execute(_MAKE, values)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        try:
            yield await self._connected()
        except psycopg.OperationalError as error:
            await self.close()
            raise StoreUnavailable(f"The database with the notifications does not answer: {error}") from error

    async def _opened(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self._is_gate = self._knows = False  # the lock went with the session
        set_json_loads(msgspec.json.decode, connection)  # a thousand at once hold up the path of the data


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
