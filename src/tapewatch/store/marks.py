"""What people do with alerts: acknowledge them, and mute what they do not want to be told of for a while.

Few and small writes, each in a transaction of its own, with a connection of its own. Everything here is kept when
alerts are computed anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import psycopg

from tapewatch.errors import StoreUnavailable
from tapewatch.ownconnection import OwnConnection
from tapewatch.store.connect import place

__all__ = ["Marks", "Writing"]

_ANSWER_S_MAX: Final = 5.0
_CONNECT_S_MAX: Final = 2

_KNOWN: Final = """
SELECT EXISTS (SELECT FROM breakout_alerts WHERE alert_id = %(alert_id)s)
    OR EXISTS (SELECT FROM system_alerts WHERE system_id = %(alert_id)s) AS known
"""
_MARK: Final = """
INSERT INTO alert_marks (alert_id, acknowledged_at, acknowledged_by, note)
VALUES (%(alert_id)s, CASE WHEN %(seen)s THEN clock_timestamp() END, %(by)s, %(note)s)
ON CONFLICT (alert_id) DO UPDATE SET
  acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by, note = excluded.note
"""
_MUTE: Final = """
INSERT INTO alert_mutes (mute_id, rule, symbol, channel, muted_to, muted_by, note)
VALUES (%(mute_id)s, %(rule)s, %(symbol)s, %(channel)s, clock_timestamp() + %(for_ms)s * INTERVAL '1 ms', %(by)s,
        %(note)s)
"""
_UNMUTE: Final = """
UPDATE alert_mutes SET muted_to = clock_timestamp() WHERE mute_id = %(mute_id)s AND muted_to > clock_timestamp()
"""


class Writing(OwnConnection):
    """A connection for few and small writes, opened when needed and again after it was lost. For one event loop."""

    def __init__(self, conninfo: str) -> None:
        """``conninfo`` is of a user who may write."""
        super().__init__(conninfo, "marks", _CONNECT_S_MAX)
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        async with self._one_at_a_time:
            try:
                async with asyncio.timeout(_ANSWER_S_MAX):
                    yield await self._connected()
            except (psycopg.OperationalError, TimeoutError) as error:
                await self.close()
                raise StoreUnavailable(f"The database at {place(self._conninfo)} does not answer: {error}") from None


class Marks(Writing):
    """The `serve.life.Marks` of a database."""

    async def acknowledge(self, alert_id: str, by: str, note: str, *, seen: bool) -> bool:
        """Note that somebody has seen an alert, or (``seen`` is false) has not; False if there is no such alert.

        Raises:
            StoreUnavailable: no answer.
        """
        async with self._answering() as connection:
            answer = await (await connection.execute(_KNOWN, {"alert_id": alert_id})).fetchone()
            if answer is None or not answer["known"]:
                return False
            await connection.execute(_MARK, {"alert_id": alert_id, "seen": seen, "by": by, "note": note})
        return True

    async def mute(
        self, *, rule: str | None, symbol: str | None, channel: str | None, for_ms: int, by: str, note: str
    ) -> str:
        """Do not tell of these for so long; the id of the mute. Raises: as `acknowledge`."""
        mute_id = uuid4().hex[:12]
        values = {"rule": rule, "symbol": symbol, "channel": channel, "for_ms": for_ms, "by": by, "note": note}
        async with self._answering() as connection:
            await connection.execute(_MUTE, values | {"mute_id": mute_id})
        return mute_id

    async def unmute(self, mute_id: str) -> bool:
        """End a mute; False if there is none. Raises: as `acknowledge`."""
        async with self._answering() as connection:
            cursor = await connection.execute(_UNMUTE, {"mute_id": mute_id})
        return cursor.rowcount > 0
