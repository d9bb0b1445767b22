"""Whole tables in key order, a few thousand rows in memory at a time: to be compared with the log, or exported.

Rows are tuples in the order of `records.WINDOW_ROW` and `records.BAR_ROW`, the symbol by name, times in Unix ms, null
as None. All rows of one `Reading` are of one moment. Symbols are ordered by their bytes, as Python orders them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, Final, LiteralString, Self

import msgspec
import psycopg

from tapewatch.records import Alert, AlertStatus
from tapewatch.store.connect import open_connection

__all__ = ["Reading", "Revision", "read_alerts", "read_bars", "read_windows"]

ROWS_AT_ONCE: Final = 5_000

_WINDOWS: Final = """
SELECT symbol, (extract(epoch FROM window_start) * 1000)::int8, avg_price, ma_5min, vwap, max_price, min_price,
       open_price, close_price, total_volume, trade_count, is_final, revision
FROM stock_aggregates ORDER BY symbol COLLATE "C", window_start
"""
_QUALITY: Final = """
SELECT symbol, (extract(epoch FROM minute) * 1000)::int8, trades, excluded, late, future, gap_ms
FROM minute_quality ORDER BY symbol COLLATE "C", minute
"""
_GAPS: Final = """
SELECT market, (extract(epoch FROM gap_from) * 1000)::int8, (extract(epoch FROM gap_to) * 1000)::int8,
       state, trades, later, missing
FROM feed_gaps ORDER BY market COLLATE "C", gap_from, gap_to
"""
_REVISIONS: Final = """
SELECT symbol, (extract(epoch FROM row_start) * 1000)::int8, (array_agg(old_row ORDER BY number))[1],
       (array_agg(new_row ORDER BY number DESC))[1]
FROM row_revisions WHERE table_name = %s GROUP BY symbol, row_start
"""
_COUNTERS: Final = """
SELECT symbol, trades, ineligible, late, future FROM latest_prices ORDER BY symbol COLLATE "C"
"""
_POSITION: Final = "SELECT position, log_id FROM engine_state WHERE lane = %s"
_BARS: Final = """
SELECT symbol, (extract(epoch FROM bar_start) * 1000)::int8, open, high, low, close, volume, vwap, trade_count,
       is_final, revision
FROM price_bars ORDER BY symbol COLLATE "C", bar_start
"""
_ALERTS: Final = """
SELECT alert_id, rule, rule_version, kind, symbol, direction::int4, status,
       (extract(epoch FROM pane_start) * 1000)::int8, (extract(epoch FROM triggered_at) * 1000)::int8,
       (extract(epoch FROM decided_at) * 1000)::int8, COALESCE(price, 'NaN'), COALESCE(line, 'NaN'), late, log_offset,
       evidence::text
FROM breakout_alerts ORDER BY pane_start, alert_id COLLATE "C"
"""


Revision = tuple[str, int, dict[str, Any] | None, dict[str, Any] | None]


class Reading:
    """The database as it is at one moment, whoever writes meanwhile. A context manager; one iteration at a time."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        """
        Raises:
            StoreUnavailable, StoreError: it does not answer, or refuses us.
        """
        with ExitStack() as undo:
            self._connection = undo.enter_context(closing(open_connection(self._conninfo, "tapewatch reading")))
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
            undo.enter_context(self._connection.transaction())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def position(self, lane: str) -> tuple[int, str] | None:
        """How far the lane has come, and in which log; None for an unknown lane."""
        return self._connection.execute(_POSITION, (lane,)).fetchone()

    def windows(self) -> Iterator[tuple[Any, ...]]:
        """Rows of `stock_aggregates` by (symbol, window_start)."""
        return self._rows(_WINDOWS)

    def bars(self) -> Iterator[tuple[Any, ...]]:
        """Rows of `price_bars` by (symbol, bar_start)."""
        return self._rows(_BARS)

    def alerts(self) -> Iterator[Alert]:
        """`breakout_alerts` by (pane_start, alert_id), each in its present state, with the evidence of all states."""
        for row in self._rows(_ALERTS):
            values = dict(zip(Alert.__struct_fields__, row, strict=True))
            values["status"] = AlertStatus(values["status"])
            values["evidence"] = msgspec.json.decode(values["evidence"])
            yield Alert(**values)

    def quality(self) -> Iterator[tuple[Any, ...]]:
        """Rows of `minute_quality` by (symbol, minute): both, then the five counts."""
        return self._rows(_QUALITY)

    def gaps(self) -> Iterator[tuple[Any, ...]]:
        """Rows of `feed_gaps` by (market, gap_from, gap_to): market's small name, both times, and the gap's fate."""
        return self._rows(_GAPS)

    def revisions(self, table: str) -> list[Revision]:
        """The corrected rows of a table: symbol, start, the row before the first correction and after the last."""
        return self._connection.execute(_REVISIONS, (table,)).fetchall()

    def counters(self) -> Iterator[tuple[Any, ...]]:
        """Of `latest_prices` by symbol: the symbol, and its trades applied, ineligible, late and future."""
        return self._rows(_COUNTERS)

    def _rows(self, query: LiteralString) -> Iterator[tuple[Any, ...]]:
        cursor: psycopg.ServerCursor[tuple[Any, ...]]
        with self._connection.cursor("rows", binary=True) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(query)
            yield from cursor


def read_windows(conninfo: str) -> Iterator[tuple[Any, ...]]:
    """`Reading.windows` of now."""
    with Reading(conninfo) as reading:
        yield from reading.windows()


def read_bars(conninfo: str) -> Iterator[tuple[Any, ...]]:
    """`Reading.bars` of now."""
    with Reading(conninfo) as reading:
        yield from reading.bars()


def read_alerts(conninfo: str) -> Iterator[Alert]:
    """`Reading.alerts` of now."""
    with Reading(conninfo) as reading:
        yield from reading.alerts()
