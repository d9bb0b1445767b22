"""Bounded reads for the API: plain dicts of JSON-ready values.

Times are ISO 8601 text in UTC (``2026-03-02T14:30:00.123Z``), numbers are floats or None, never NaN. Every list has a
limit, every statement `STATEMENT_TIMEOUT_MS`, and the session cannot write. A database that takes no connection is told
within a second (`StoreUnavailable`), one that falls silent in the middle of a statement when that should have ended;
and it is found again as soon as it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import psycopg
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import make_conninfo
from psycopg.pq import Format
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.metrics import RECENT
from tapewatch.settings import ALERTS_ROWS_MAX, HISTORY_ROWS_MAX, STATEMENT_TIMEOUT_MS, STORE_READERS_MAX
from tapewatch.store import questions
from tapewatch.store.connect import connect_error, place

__all__ = ["INTERVALS_MS", "Interval", "Queries", "Row"]

Row = dict[str, Any]
Interval = Literal["1m", "5m", "1h", "1d"]
INTERVALS_MS: Final[dict[str, int]] = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}
OVERVIEW_PANES: Final = 60
"""An hour of minutes: what the small charts of the watchlist show."""
CONNECT_S_MAX: Final = 1.0
_ANSWER_S_MAX: Final = STATEMENT_TIMEOUT_MS / 1000 + 1
_NAMES: Final = {
    text: name.lower() for name, text in vars(questions).items() if name.isupper() and isinstance(text, str)
}
"""What each statement is called where its times are shown."""
_BEGINNING_MS: Final = 1
_END_MS: Final = 253_402_300_799_000  # the year 9999: what ISO 8601 can write
_YEAR_2000: Final = datetime(2000, 1, 1)

Connection = psycopg.AsyncConnection[Row]


class Queries:
    """Up to `STORE_READERS_MAX` connections, opened when needed. For one event loop."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = make_conninfo(conninfo, application_name="tapewatch api")
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(STORE_READERS_MAX)

    async def open(self) -> None:
        """Open the first connection now.

        Raises:
            StoreUnavailable, StoreError: it does not answer, or refuses us.
        """
        await self.ping()

    async def close(self) -> None:
        """End all idle connections."""
        while self._idle:
            await self._idle.pop().close()

    async def ping(self) -> None:
        """Returns if the database answers; raises `StoreUnavailable` if not."""
        await self._rows(questions.PING)

    async def stocks(self) -> list[Row]:
        """Every row of `latest_prices` with its ``trend``, by symbol."""
        return await self._rows(questions.STOCKS, {"symbol": None})

    async def latest(self, symbol: str) -> Row | None:
        """One such row, or None for a symbol never seen."""
        rows = await self._rows(questions.STOCKS, {"symbol": symbol})
        return rows[0] if rows else None

    async def history(
        self,
        symbol: str,
        from_ms: int | None,
        to_ms: int | None,
        interval: Interval | str,
        limit: int,
        window_ms: int,
        slide_ms: int,
    ) -> list[Row]:
        """The newest ``limit`` bars that start in [from_ms, to_ms), oldest first.

        Keys: time, open, high, low, close, volume, vwap, trade_count, ma_5min, is_final, partial. ``ma_5min`` is that
        of the window that ends with the bar, or with the bar's last minute; ``partial`` says that a gap which was not
        backfilled overlaps the bar. A day of stocks is a day of New York, a day of crypto one of UTC.
        """
        assert interval in INTERVALS_MS, interval
        limit = _bounded(limit, HISTORY_ROWS_MAX)
        step_ms = max(INTERVALS_MS[interval], slide_ms)
        bars_each = -(-step_ms // slide_ms)
        first_ms, end_ms = _time(from_ms, _BEGINNING_MS), _time(to_ms, _END_MS)
        values: Row = {
            "symbol": symbol,
            "from_ms": first_ms,
            "to_ms": end_ms,
            "is_day": interval == "1d",
            "step_ms": step_ms,
            "slide_ms": slide_ms,
            "window_ms": window_ms,
            "limit": limit,
            # enough bars for that many whole intervals, and for a day of 25 hours
            "bars_max": limit * bars_each + bars_each // 24 + 1,
        }
        if step_ms == slide_ms and interval != "1d":
            return await self._rows(questions.HISTORY_OF_PANES, values)
        has_all = (end_ms - first_ms) // step_ms + 2 <= limit
        return await self._rows(questions.HISTORY_OF_SPAN if has_all else questions.HISTORY_OF_NEWEST, values)

    async def indicators(self, symbol: str, from_ms: int | None, to_ms: int | None, limit: int) -> list[Row]:
        """Of the newest ``limit`` bars that start in [from_ms, to_ms), oldest first: see docs/indicators.md."""
        values = {
            "symbol": symbol,
            "from_ms": _time(from_ms, _BEGINNING_MS),
            "to_ms": _time(to_ms, _END_MS),
            "limit": _bounded(limit, HISTORY_ROWS_MAX),
        }
        return await self._rows(questions.INDICATORS, values)

    async def overview(self, window_ms: int, slide_ms: int) -> list[Row]:
        """Every symbol's last `OVERVIEW_PANES` closes, None where a pane has none, and the quality of its window."""
        values = {"panes": OVERVIEW_PANES, "window_ms": window_ms, "slide_ms": slide_ms}
        rows = await self._rows(questions.OVERVIEW, values)
        for row in rows:
            closes: list[float | None] = [None] * OVERVIEW_PANES
            for pane, close in zip(row.pop("places") or (), row["closes"] or (), strict=True):
                closes[pane] = close
            row |= {"step_ms": slide_ms, "closes": closes}
        return rows

    async def alerts(
        self,
        symbol: str | None = None,
        kind: str | None = None,
        status: str | None = None,
        limit: int = ALERTS_ROWS_MAX,
        before_ms: int | None = None,
        rule: str | None = None,
        from_ms: int | None = None,
    ) -> list[Row]:
        """Alerts triggered in [from_ms, before_ms), newest first: all columns, and ``deliveries`` from the outbox."""
        values = {
            "alert_id": None,
            "symbol": symbol,
            "kind": kind,
            "rule": rule,
            "status": status,
            "from_ms": _time(from_ms, _BEGINNING_MS),
            "before_ms": _time(before_ms, _END_MS),
            "limit": _bounded(limit, ALERTS_ROWS_MAX),
        }
        return await self._rows(questions.ALERTS, values)

    async def alert(self, alert_id: str) -> Row | None:
        """One alert, or None."""
        values = dict.fromkeys(("symbol", "kind", "rule", "status"), None)
        span = {"from_ms": _BEGINNING_MS, "before_ms": _END_MS, "limit": 1}
        rows = await self._rows(questions.ALERTS, values | span | {"alert_id": alert_id})
        return rows[0] if rows else None

    async def gaps(self, limit: int) -> list[Row]:
        """Gaps, newest first."""
        return await self._rows(questions.GAPS, {"limit": _bounded(limit, ALERTS_ROWS_MAX)})

    async def quality(self, symbol: str, from_ms: int, to_ms: int) -> list[Row]:
        """Graded minutes in [from_ms, to_ms), oldest first; at most `HISTORY_ROWS_MAX`, the newest ones."""
        values = {
            "symbol": symbol,
            "from_ms": _time(from_ms, _BEGINNING_MS),
            "to_ms": _time(to_ms, _END_MS),
            "limit": HISTORY_ROWS_MAX,
        }
        return await self._rows(questions.QUALITY, values)

    async def notifications(self, state: str | None, limit: int) -> list[Row]:
        """The outbox, newest first."""
        return await self._rows(questions.NOTIFICATIONS, {"state": state, "limit": _bounded(limit, ALERTS_ROWS_MAX)})

    async def mutes(self, limit: int) -> list[Row]:
        """What is muted now, that which ends first before."""
        return await self._rows(questions.MUTES, {"limit": _bounded(limit, ALERTS_ROWS_MAX)})

    async def channels(self) -> list[Row]:
        """How each channel for messages does."""
        return await self._rows(questions.CHANNELS)

    async def system_alerts(self, limit: int) -> list[Row]:
        """What of the system is or was not well: that which is first, then the newest."""
        return await self._rows(questions.SYSTEM_ALERTS, {"limit": _bounded(limit, ALERTS_ROWS_MAX)})

    async def vitals(self) -> Row:
        """The database's size in bytes and version, the rows of its tables, and what waits in the outbox."""
        return (await self._rows(questions.VITALS))[0] | {"rows": await self.counts()}

    async def lanes(self) -> list[Row]:
        """How far each lane is: lane, log_id, origin, position, updated_at."""
        return await self._rows(questions.LANES)

    async def counts(self) -> Row:
        """Rows per table; large tables as last estimated by the server."""
        return (await self._rows(questions.COUNTS))[0]

    async def _rows(self, query: str, values: Row | None = None) -> list[Row]:
        async with self._places:
            for is_last in (False, True):
                used_before = bool(self._idle)
                try:
                    async with asyncio.timeout(_ANSWER_S_MAX), self._connection() as connection:
                        started_s = time.monotonic()
                        cursor = await connection.execute(query, values, prepare=True, binary=True)
                        rows = await cursor.fetchall()
                        RECENT.note(f"query {_NAMES.get(query, 'other')}", time.monotonic() - started_s)
                        return rows
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    if error.sqlstate == "57014":
                        raise StoreError(
                            f"The database needed more than {STATEMENT_TIMEOUT_MS / 1000:.0f} s: ask for less."
                        ) from None
                    await self.close()  # the others are as dead as this one
                    if is_last or not used_before:
                        raise StoreUnavailable(
                            f"The database at {place(self._conninfo)} does not answer: {error}".strip()
                        ) from None
                except TimeoutError:
                    raise StoreUnavailable(
                        f"The database at {place(self._conninfo)} did not answer within {_ANSWER_S_MAX:.0f} s."
                    ) from None
                except psycopg.DataError as error:
                    raise StoreError(f"The database cannot look for that: {error}".strip()) from None
        raise AssertionError("the second round returns or raises")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """An idle connection or a new one; it is kept for the next unless anything happened to it."""
        connection = self._idle.pop() if self._idle else await self._new_connection()
        try:
            yield connection
        except BaseException:
            await connection.close()
            raise
        self._idle.append(connection)

    async def _new_connection(self) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                connection: Connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, row_factory=dict_row, tcp_user_timeout=10_000
                )
                await connection.execute(questions.SESSION, (str(STATEMENT_TIMEOUT_MS),))
        except TimeoutError:
            raise StoreUnavailable(
                f"The database at {place(self._conninfo)} did not take our connection within {CONNECT_S_MAX:.0f} s."
            ) from None
        except psycopg.OperationalError as error:
            raise connect_error(error, self._conninfo) from None
        connection.adapters.register_loader("timestamptz", _IsoLoader)
        set_json_loads(msgspec.json.decode, connection)
        return connection


class _IsoLoader(Loader):
    """Microseconds since 2000 -> ``2026-03-02T14:30:00.123Z``."""

    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        moment = _YEAR_2000 + timedelta(microseconds=int.from_bytes(data, "big", signed=True))
        text = moment.isoformat()
        return f"{text.rstrip('0') if moment.microsecond else text}Z"


def _bounded(limit: int, limit_max: int) -> int:
    return max(0, min(limit, limit_max))


def _time(ms: int | None, default: int) -> int:
    return default if ms is None else max(_BEGINNING_MS, min(ms, _END_MS))
