"""Rows that the exchange's later word has changed: rewritten, with what they were, in one transaction.

    price_bars, stock_aggregates     the row, at a higher revision than before
    row_revisions                    the row before and after

Only final rows: the engine writes the others still, and would take the correction back. A lower revision never
overwrites a higher one, so no engine that starts again undoes it; computing everything anew from the log does
(`tapewatch rebuild`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.types.json import Jsonb

from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.records import BAR_ROW, WINDOW_ROW
from tapewatch.store.connect import open_connection, place

__all__ = ["NewRow", "revise_rows"]

_STARTS: Final[dict[str, LiteralString]] = {"stock_aggregates": "window_start", "price_bars": "bar_start"}
_COLUMNS: Final = {
    "stock_aggregates": [n for n in WINDOW_ROW.names or () if n not in ("symbol", "window_start_ms")],
    "price_bars": [n for n in BAR_ROW.names or () if n not in ("symbol", "bar_start_ms")],
}
_OLD: Final = """
SELECT to_jsonb(t), t.is_final, t.revision FROM {table} t WHERE symbol = %s AND {start} = {moment} FOR UPDATE
"""
_DELETE: Final = "DELETE FROM {table} WHERE symbol = %s AND {start} = {moment}"
_PUT: Final = """
INSERT INTO {table} AS t (symbol, {start}, {columns}) VALUES (%s, {moment}, {values})
ON CONFLICT (symbol, {start}) DO UPDATE SET {assignments} RETURNING to_jsonb(t)
"""
_KEEP: Final = """
INSERT INTO row_revisions (table_name, symbol, row_start, number, reason, old_row, new_row)
SELECT %(table)s, %(symbol)s, to_timestamp(%(start_ms)s::int8 / 1000.0),
       COALESCE((SELECT max(number) FROM row_revisions r WHERE r.table_name = %(table)s AND r.symbol = %(symbol)s
                 AND r.row_start = to_timestamp(%(start_ms)s::int8 / 1000.0)), 0) + 1,
       %(reason)s, %(old)s::jsonb, %(new)s::jsonb
"""


@dataclass(frozen=True, slots=True)
class NewRow:
    """What a row is to be: its values by column, without its key; None: there is to be none.

    ``reason`` is for people.
    """

    table: str
    symbol: str
    start_ms: int
    values: dict[str, Any] | None
    reason: str


def revise_rows(conninfo: str, rows: Iterable[NewRow]) -> tuple[int, int]:
    """Rewrite them all, or none; how many were, and how many were left since they are not final yet.

    ``revision`` of ``values`` holds for a row that is new; one that was there gets its own and one more.

    Raises:
        StoreUnavailable: no answer; nothing was written.
        StoreError: this user may not, or the row is refused; nothing was written.
    """
    revised = left = 0
    try:
        with closing(open_connection(conninfo, "tapewatch reconcile")) as connection, connection.transaction():
            for row in rows:
                done = _revise(connection, row)
                revised += done is True
                left += done is False
    except pg.InsufficientPrivilege as error:
        raise StoreError(
            f"The database at {place(conninfo)} does not let us correct its rows ({str(error).splitlines()[0]}): run "
            "this as the owner of the tables; nothing was changed."
        ) from None
    except psycopg.OperationalError as error:
        raise StoreUnavailable(
            f"The database at {place(conninfo)} does not answer: {str(error).splitlines()[0]}; nothing was changed."
        ) from error
    return revised, left


def _revise(connection: psycopg.Connection, row: NewRow) -> bool | None:
    """True when it was rewritten, None when it says this already, False when it is not final."""
    key = (row.symbol, row.start_ms)
    found = connection.execute(_statement(_OLD, row.table), key).fetchone()
    old, is_final, revision = found if found is not None else (None, True, 0)
    if not is_final:
        return False
    if old is not None and row.values is not None and all(old[name] == row.values[name] for name in _said(row.table)):
        return None
    new = None
    if row.values is None:
        connection.execute(_statement(_DELETE, row.table), key)
    else:
        values = row.values | {"is_final": True}
        values["revision"] = revision + 1 if old is not None else row.values["revision"]
        given = (*key, *(values[name] for name in _COLUMNS[row.table]))
        put = connection.execute(_statement(_PUT, row.table), given).fetchone()
        assert put is not None, "it was put just now"
        new = put[0]
    if old is None and new is None:
        return None
    both = {name: None if one is None else Jsonb(one) for name, one in (("old", old), ("new", new))}
    where = {"table": row.table, "symbol": row.symbol, "start_ms": row.start_ms, "reason": row.reason}
    connection.execute(_KEEP, both | where)
    return True


def _said(table: str) -> list[str]:
    """The columns that are numbers about the market."""
    return [name for name in _COLUMNS[table] if name not in ("is_final", "revision")]


def _statement(text: LiteralString, table: str) -> sql.Composed:
    columns = [sql.Identifier(name) for name in _COLUMNS[table]]
    return sql.SQL(text).format(
        table=sql.Identifier(table),
        start=sql.Identifier(_STARTS[table]),
        moment=sql.SQL("to_timestamp(%s::int8 / 1000.0)"),
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
        assignments=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(column) for column in columns),
    )
