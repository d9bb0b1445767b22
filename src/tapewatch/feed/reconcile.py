"""A day's trades as they were logged, against what the exchange says of that day now.

The stream never tells of cancels and corrections; REST does, afterwards, by the number in `correction`:

    0 as it was     1 corrected by a later record (12)     7, 8 marked wrong, cancelled     10, 11 the words about it

    missing      REST has it, the log has not          cancelled    REST has withdrawn it
    extra        the log has it, REST has not          corrected    REST gives it other numbers
    late         it is in the log, but came when its bar had ended: in no row (the engine's decision)

Trades are the same when day, exchange, TRF and id agree; those without an id, when their numbers do.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np

from tapewatch.feed.conditions import wire_codes
from tapewatch.records import E8, Batch, Kind, Tables

__all__ = ["Compared", "Difference", "Told", "What", "compare_day"]

_Key = tuple[Any, ...]


class What(StrEnum):
    """How a logged trade differs from what the exchange says."""

    MISSING = "missing"
    EXTRA = "extra"
    CANCELLED = "cancelled"
    CORRECTED = "corrected"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Told:
    """What REST says of a symbol's day: valid trades, those that a correction gave (12), and those withdrawn by one."""

    normal: Batch
    corrected: Batch
    replaced: Batch
    """Withdrawn since a corrected record stands for them (1)."""
    cancelled: Batch
    """Withdrawn altogether (7, 8)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One trade. Price and size as logged and as told; None where there is none."""

    what: What
    symbol: str
    time_ms: int
    trade_id: str
    logged: tuple[float, float] | None
    told: tuple[float, float] | None


@dataclass(slots=True)
class Compared:
    """What came of it. ``gone`` are rows of the logged batch; ``new`` are the trades to put in for them, or beside."""

    logged: int = 0
    told: int = 0
    differences: list[Difference] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    new: Batch = field(default_factory=Batch.empty)


def compare_day(symbol: str, logged: Batch, told: Told, tables: Tables) -> Compared:
    """A symbol's logged trades of a day (bars, which are no trades, are left out) against what was told of it."""
    trades = _trades_only(logged, tables)
    found = Compared(len(trades), len(told.normal) + len(told.corrected))
    logged_by, normal, corrected = _by_key(logged, trades), _by_key(told.normal), _by_key(told.corrected)
    replaced, cancelled = _by_key(told.replaced), _by_key(told.cancelled)
    put: list[Batch] = []

    def note(what: What, key: _Key, row: int | None, batch: Batch | None, at: int | None) -> None:
        source, place = (logged, row) if row is not None else (batch, at)
        assert source is not None, key
        assert place is not None, key
        mine = None if row is None else _numbers(logged, row)
        theirs = None if batch is None or at is None else _numbers(batch, at)
        found.differences.append(Difference(what, symbol, int(source.time_ms[place]), source.ids[place], mine, theirs))
        if row is not None and what is not What.EXTRA:
            found.gone.add(row)
        if batch is not None and at is not None:
            put.append(batch.slice(at, at + 1))

    for key, rows in logged_by.items():
        for n, row in enumerate(rows):
            batch, at = _nth(told.corrected, corrected, key, n)
            if batch is None and not _has(replaced, key, n) and not _has(cancelled, key, n):
                batch, at = _nth(told.normal, normal, key, n)
            if batch is not None and at is not None:
                if not _is_same(logged, row, batch, at, tables):
                    note(What.CORRECTED, key, row, batch, at)
            elif _has(replaced, key, n):
                note(What.CORRECTED, key, row, None, None)
            elif _has(cancelled, key, n):
                note(What.CANCELLED, key, row, None, None)
            else:
                note(What.EXTRA, key, row, None, None)
    for batch, keys in ((told.normal, normal), (told.corrected, corrected)):
        for key, places in keys.items():
            for at in places[len(logged_by.get(key, ())) :]:
                if batch is told.corrected or not (_has(replaced, key, 0) or _has(cancelled, key, 0)):
                    note(What.MISSING, key, None, batch, at)
    found.differences.sort(key=lambda d: (d.time_ms, d.trade_id, d.what))
    found.new = Batch.join(put) if put else Batch.empty()
    return found


def late_difference(symbol: str, logged: Batch, row: int) -> Difference:
    """That a logged trade came too late for its rows."""
    numbers = _numbers(logged, row)
    return Difference(What.LATE, symbol, int(logged.time_ms[row]), logged.ids[row], numbers, numbers)


def counts(differences: Sequence[Difference]) -> dict[What, int]:
    """How many of each kind, every kind named."""
    number = Counter(d.what for d in differences)
    return {what: number[what] for what in What}


_FIELDS: Final = ("exchange", "trf")


def _trades_only(batch: Batch, tables: Tables) -> list[int]:
    bars = [bool(codes) and min(codes) < 0 for codes in tables.conditions.values]
    is_bar = np.array(bars, np.bool_)[batch.conditions] if len(batch) else np.zeros(0, np.bool_)
    return np.flatnonzero((batch.kind == Kind.TRADE) & ~is_bar).tolist()


def _by_key(batch: Batch, rows: Sequence[int] | None = None) -> dict[_Key, list[int]]:
    found: dict[_Key, list[int]] = defaultdict(list)
    for row in range(len(batch)) if rows is None else rows:
        exchange, trf = (int(getattr(batch, name)[row]) for name in _FIELDS)
        if batch.ids[row]:
            key: _Key = (exchange, trf, batch.ids[row])
        else:
            key = (exchange, trf, "", int(batch.time_ms[row]), float(batch.price[row]), int(batch.size_e8[row]))
        found[key].append(row)
    return found


def _has(keys: dict[_Key, list[int]], key: _Key, n: int) -> bool:
    return len(keys.get(key, ())) > n


def _nth(batch: Batch, keys: dict[_Key, list[int]], key: _Key, n: int) -> tuple[Batch | None, int | None]:
    return (batch, keys[key][n]) if _has(keys, key, n) else (None, None)


def _numbers(batch: Batch, row: int) -> tuple[float, float]:
    return float(batch.price[row]), int(batch.size_e8[row]) / E8


def _is_same(a: Batch, i: int, b: Batch, j: int, tables: Tables) -> bool:
    codes = tables.conditions.values
    return bool(
        a.price[i] == b.price[j]
        and a.size_e8[i] == b.size_e8[j]
        and a.time_ms[i] == b.time_ms[j]
        and wire_codes(codes[a.conditions[i]]) == wire_codes(codes[b.conditions[j]])
    )
