"""All rows of one run: as three CSV files, and as one hash that says whether two runs came to the same.

Rows are tuples in the order of `records.WINDOW_ROW` and `records.BAR_ROW`, the symbol by name, times in Unix ms, null
as None; they are sorted by symbol (as Python orders names) and time. Alerts are in their last state, by pane and id.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import BAR_ROW, WINDOW_ROW, Alert, AlertStatus, Changes, Tables
from tapewatch.store.reading import Reading

__all__ = ["RunRows", "alert_row", "alerts_sha256", "iso"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
WINDOW_COLUMNS: Final = (
    "symbol", "window_start", "avg_price", "ma_5min", "vwap", "max_price", "min_price", "open_price", "close_price",
    "total_volume", "trade_count", "is_final", "revision",
)  # fmt: skip
BAR_COLUMNS: Final = (
    "symbol", "bar_start", "open", "high", "low", "close", "volume", "vwap", "trade_count", "is_final", "revision",
)  # fmt: skip
ALERT_COLUMNS: Final = (
    "alert_id", "rule", "rule_version", "kind", "symbol", "direction", "status", "pane_start", "triggered_at",
    "decided_at", "price", "line",
)  # fmt: skip
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RunRows:
    """What a run came to."""

    windows: list[_Row]
    bars: list[_Row]
    alerts: list[Alert]

    @classmethod
    def of_changes(cls, results: Sequence[Changes], tables: Tables) -> RunRows:
        """The newest row of each key, from all that an engine gave out."""
        last = {alert.alert_id: alert for changes in results for alert in changes.alerts}
        return cls(
            _newest([c.windows for c in results], WINDOW_ROW, "window_start_ms", tables),
            _newest([c.bars for c in results], BAR_ROW, "bar_start_ms", tables),
            sorted(last.values(), key=lambda a: (a.pane_start_ms, a.alert_id)),
        )

    @classmethod
    def of_database(cls, conninfo: str) -> RunRows:
        """As the database holds them at one moment.

        Raises:
            StoreUnavailable: it does not answer.
        """
        with Reading(conninfo) as reading:
            return cls(list(reading.windows()), list(reading.bars()), list(reading.alerts()))

    def tables(self) -> Iterator[tuple[str, Sequence[str], Iterator[_Row]]]:
        """Name, columns and rows of each table, ready to be written."""
        yield "stock_aggregates", WINDOW_COLUMNS, ((row[0], iso(row[1]), *row[2:]) for row in self.windows)
        yield "price_bars", BAR_COLUMNS, ((row[0], iso(row[1]), *row[2:]) for row in self.bars)
        yield "breakout_alerts", ALERT_COLUMNS, map(alert_row, self.alerts)

    def write(self, folder: Path) -> str:
        """The three CSV files; gives their `sha256`."""
        digest = hashlib.sha256()
        for name, columns, rows in self.tables():
            with (folder / f"{name}.csv").open("wb") as file:
                for line in _lines(columns, rows):
                    file.write(line)
                    digest.update(line)
        return digest.hexdigest()

    def sha256(self) -> str:
        """One hash over the bytes of the three files, whether they are written or not."""
        digest = hashlib.sha256()
        for _, columns, rows in self.tables():
            for line in _lines(columns, rows):
                digest.update(line)
        return digest.hexdigest()


def alerts_sha256(alerts: Iterable[Alert]) -> str:
    """One hash of alerts in their last state, in any order: over the bytes of their CSV file."""
    digest = hashlib.sha256()
    ordered = sorted(alerts, key=lambda a: (a.pane_start_ms, a.alert_id))
    for line in _lines(ALERT_COLUMNS, map(alert_row, ordered)):
        digest.update(line)
    return digest.hexdigest()


def iso(time_ms: int) -> str:
    """UTC, ISO 8601, to the millisecond.

    >>> iso(1381152600000)
    '2013-10-07T13:30:00.000Z'
    """
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _newest(parts: list[NDArray[Any]], dtype: np.dtype[Any], time_name: str, tables: Tables) -> list[_Row]:
    """The newest row of each key, ordered by symbol and time, with the symbol's name and None for null."""
    rows = np.concatenate([np.zeros(0, dtype), *parts])
    names = np.array(tables.symbols.values, dtype=object)
    rank = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    order = np.lexsort((rows[time_name], rank[rows["symbol"]]))
    rows = rows[order]
    is_last = np.ones(len(rows), np.bool_)
    is_last[:-1] = (rows["symbol"][1:] != rows["symbol"][:-1]) | (rows[time_name][1:] != rows[time_name][:-1])
    table = []
    for row in rows[is_last].tolist():
        table.append((names[row[0]], row[1], *(None if value != value else value for value in row[2:])))
    return table


def alert_row(a: Alert) -> _Row:
    """As in `ALERT_COLUMNS`."""
    return (
        a.alert_id, a.rule, a.rule_version, a.kind, a.symbol, a.direction, AlertStatus(a.status).value,
        iso(a.pane_start_ms), iso(a.triggered_ms), iso(a.decided_ms), a.price, a.line,
    )  # fmt: skip


class _Line:
    """A file for the csv module: keeps the line it was given."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text = text
        return len(text)


def _lines(columns: Sequence[str], rows: Iterable[_Row]) -> Iterator[bytes]:
    """A CSV file, line by line. Floats in their shortest round-trip form, null is empty."""
    line = _Line()
    writer = csv.writer(line, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow([_text(value) for value in row])
        yield line.text.encode()


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
