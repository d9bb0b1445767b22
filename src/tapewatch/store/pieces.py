"""What a commit is made of.

A commit is a list of pieces, each one statement. When the database refuses one, the writer asks the piece for its
halves until the guilty symbol stands alone: so one odd row costs that row, not its lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray

from tapewatch.records import Alert, Changes, Gap, Market, Notification
from tapewatch.rules.change import RuleVersion
from tapewatch.store import statements
from tapewatch.store.arrays import Bools, Column, Float8s, Int8s, Texts, Times, times_from_ms, times_from_ns

__all__ = ["Piece", "Refused", "pieces_of"]

Cursor = psycopg.Cursor[Any]
Refused = tuple[str, str, str]
"""Symbol, table, the row as JSON text: in a form that PostgreSQL takes, whatever was in it."""

_MARKETS: Final = tuple(market.name.lower() for market in sorted(Market))


class Piece(Protocol):
    """Rows of one table, written by one statement."""

    table: str

    def __len__(self) -> int:
        """Rows in it."""

    def write(self, cursor: Cursor) -> None:
        """Send its statement."""

    def halves(self) -> Sequence[Piece]:
        """The same rows as two pieces; empty when they belong to one symbol."""

    def refused(self) -> Iterator[Refused]:
        """Its rows, for `refused_rows`."""


def pieces_of(changes: Changes, notifications: Sequence[Notification], new_position: int) -> list[Piece]:
    """All that a commit writes, beside the position; nothing for empty tables. Alerts keep their order."""
    symbols = changes.symbols
    pieces: list[Piece] = [
        RowsPiece("stock_aggregates", statements.UPSERT_WINDOWS, changes.windows, symbols),
        RowsPiece("price_bars", statements.UPSERT_BARS, changes.bars, symbols),
        RowsPiece("latest_prices", statements.UPSERT_LATEST, changes.latest, symbols),
        RowsPiece("minute_quality", statements.ADD_QUALITY, changes.quality, symbols),
    ]
    pieces = [piece for piece in pieces if len(piece)]
    pieces += [RecordsPiece("breakout_alerts", statements.UPSERT_ALERTS, _ALERT, run) for run in _runs(changes.alerts)]
    pieces += [
        RecordPiece("feed_gaps", statements.INSERT_GAP, _gap_values(gap, new_position), "", gap) for gap in changes.gaps
    ]
    pieces += [
        RecordPiece("alert_rules", statements.INSERT_RULE, _rule_values(rule), "", rule) for rule in changes.rules
    ]
    if notifications:
        pieces.append(RecordsPiece("notifications", statements.INSERT_NOTIFICATIONS, _NOTIFICATION, notifications))
    return pieces


class RowsPiece:
    """Rows of a structured array; its first field is the symbol."""

    def __init__(self, table: str, statement: str, rows: NDArray[Any], symbols: Sequence[str]) -> None:
        self.table = table
        self._statement = statement
        self._rows = rows
        self._symbols = symbols

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, cursor: Cursor) -> None:
        columns = [_column(name, self._rows[name], self._symbols) for name in self._rows.dtype.names or ()]
        cursor.execute(self._statement, columns, prepare=True)

    def halves(self) -> Sequence[Piece]:
        numbers = np.unique(self._rows["symbol"])
        if len(numbers) < 2:
            return ()
        first = self._rows["symbol"] < numbers[len(numbers) // 2]
        return [RowsPiece(self.table, self._statement, self._rows[part], self._symbols) for part in (first, ~first)]

    def refused(self) -> Iterator[Refused]:
        names = self._rows.dtype.names or ()
        for values in self._rows.tolist():
            row = dict(zip(names, values, strict=True))
            row["symbol"] = self._symbols[row["symbol"]]
            yield storable(row["symbol"]), self.table, _storable_json(row)


class RecordsPiece:
    """Alerts or notifications, of which a thousand may come at once. ``columns`` says how each field is sent."""

    def __init__(
        self,
        table: str,
        statement: str,
        columns: Mapping[str, Callable[[Any], Column]],
        records: Sequence[Alert] | Sequence[Notification],
    ) -> None:
        self.table = table
        self._statement = statement
        self._columns = columns
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def write(self, cursor: Cursor) -> None:
        columns = [column([getattr(one, name) for one in self._records]) for name, column in self._columns.items()]
        cursor.execute(self._statement, columns, prepare=True)

    def halves(self) -> Sequence[Piece]:
        if len(self) < 2:
            return ()
        middle = len(self) // 2
        parts = (self._records[:middle], self._records[middle:])
        return [RecordsPiece(self.table, self._statement, self._columns, part) for part in parts]

    def refused(self) -> Iterator[Refused]:
        for one in self._records:
            symbol = one.symbol if isinstance(one, Alert) else ""
            yield storable(symbol), self.table, _storable_json(msgspec.to_builtins(one))


def _runs(alerts: Sequence[Alert]) -> Iterator[list[Alert]]:
    """In order, cut before an alert that is in the run already."""
    run: dict[str, Alert] = {}
    for alert in alerts:
        if alert.alert_id in run:
            yield list(run.values())
            run = {}
        run[alert.alert_id] = alert
    if run:
        yield list(run.values())


class RecordPiece:
    """One gap, or version of a rule."""

    def __init__(self, table: str, statement: str, values: Any, symbol: str, record: msgspec.Struct) -> None:
        self.table = table
        self._statement = statement
        self._values = values
        self._symbol = symbol
        self._record = record

    def __len__(self) -> int:
        return 1

    def write(self, cursor: Cursor) -> None:
        cursor.execute(self._statement, self._values, prepare=True)

    def halves(self) -> Sequence[Piece]:
        return ()

    def refused(self) -> Iterator[Refused]:
        yield storable(self._symbol), self.table, _storable_json(msgspec.to_builtins(self._record))


def storable(text: str) -> str:
    """``text`` with what PostgreSQL cannot hold as text replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


_COLUMNS: Final[dict[str, Callable[[NDArray[Any]], Column]]] = {
    "market": lambda values: Texts(map(_MARKETS.__getitem__, values.tolist())),
    "received_ns": lambda values: Times(times_from_ns(values)),
}
_KINDS: Final[dict[str, type[Float8s | Int8s | Bools]]] = {"f": Float8s, "i": Int8s, "u": Int8s, "b": Bools}


def _jsons(values: Iterable[Any]) -> Texts:
    return Texts(map(_json, values))


_ALERT: Final[dict[str, Callable[[Any], Column]]] = {
    "alert_id": Texts, "rule": Texts, "rule_version": Texts, "kind": Texts, "symbol": Texts, "direction": Int8s,
    "status": Texts, "pane_start_ms": Int8s, "triggered_ms": Int8s, "decided_ms": Int8s, "price": Float8s,
    "line": Float8s, "late": Bools, "offset": Int8s, "evidence": _jsons,
}  # fmt: skip
_NOTIFICATION: Final[dict[str, Callable[[Any], Column]]] = {
    "id": Texts, "alert_id": Texts, "channel": Texts, "event": Texts, "payload": _jsons,
}  # fmt: skip


def _column(name: str, values: NDArray[Any], symbols: Sequence[str]) -> Column:
    if name == "symbol":
        return Texts(map(symbols.__getitem__, values.tolist()))
    if name in _COLUMNS:
        return _COLUMNS[name](values)
    if name.endswith("_ms") and name != "gap_ms":
        return Times(times_from_ms(values))
    return _KINDS[values.dtype.kind](values)


def _gap_values(gap: Gap, new_position: int) -> tuple[Any, ...]:
    fate = (gap.state.value, gap.trades, gap.later, gap.missing)
    return (_MARKETS[gap.market], gap.from_ms, gap.to_ms, gap.cause, gap.symbols, *fate, new_position)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _storable_json(row: Any) -> str:
    texts = {name: storable(value) if isinstance(value, str) else value for name, value in row.items()}
    return _json(texts).replace("\\u0000", "\\ufffd")


def _rule_values(rule: RuleVersion) -> tuple[Any, ...]:
    return (
        rule.rule, rule.version, rule.kind, storable(rule.definition), rule.since_ms, rule.changed_by, rule.offset,
    )  # fmt: skip
