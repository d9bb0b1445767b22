"""What the price did afterwards: the moves that followed an alert, measured on the trades the engine took.

The price at a moment is that of the price-eligible trade with the greatest event time up to it. A move is not known
when the market is closed then (it does not reach over a night), when the records have ended, or when a gap lies there.

    told ●────── 5m ──────●────────── 30m ─────────────●── … ── 60m ──●
       price              price                        price          none: the bell has rung
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.feed.conditions import eligibility
from tapewatch.records import Batch, Decision, Gap, Kind, Market, Tables
from tapewatch.sessions import Calendar, Sessions, sessions_of

__all__ = ["HORIZONS_MIN", "Prices", "Spread"]

HORIZONS_MIN: Final = (5, 30, 60)
MINUTE_MS: Final = 60_000
_PRICE: Final = 1
_OUTSIDE: Final = 3
"""Bits of `feed.conditions.eligibility`: the price in the regular session; outside it they are shifted by three."""


@dataclass(frozen=True, slots=True)
class _Tape:
    """One symbol's prices by event time."""

    market: Market
    time_ms: NDArray[np.int64]
    price: NDArray[np.float64]


class Prices:
    """The prices of all symbols of a log. ``decisions`` are the engine's, one per record."""

    def __init__(self, log: Batch, decisions: NDArray[np.uint8], tables: Tables, calendar: Calendar) -> None:
        self._calendar = calendar
        self._ends: dict[Market, int] = {}
        self._gaps: dict[Market, list[Gap]] = defaultdict(list)
        real = decisions != Decision.FUTURE
        for market in map(Market, np.unique(log.market[real]).tolist()):
            self._ends[market] = int(log.time_ms[real & (log.market == market)].max())
        for row in np.flatnonzero(log.kind == Kind.GAP).tolist():
            if (gap := Gap.decode(log.ids[row])).is_open:
                self._gaps[gap.market].append(gap)
        self._tapes: dict[str, _Tape] = {}
        self._any: dict[tuple[str, int], NDArray[np.float64]] = {}
        rows = np.flatnonzero((log.kind == Kind.TRADE) & (decisions == Decision.APPLIED))
        rows = rows[_sets_price(log, rows, tables, calendar)]
        rows = rows[np.lexsort((log.time_ms[rows], log.symbol[rows]))]  # stable: of one moment, the last logged is last
        symbols, starts = np.unique(log.symbol[rows], return_index=True)
        for symbol, start, stop in zip(symbols.tolist(), starts, np.append(starts, len(rows))[1:], strict=True):
            mine = rows[start:stop]
            market = Market(int(log.market[mine[0]]))
            self._tapes[tables.symbols.values[symbol]] = _Tape(market, log.time_ms[mine], log.price[mine])

    def move_bps(self, symbol: str, from_ms: int, minutes: int) -> float | None:
        """How far the price went in so many minutes, in hundredths of a percent; None where that is not known."""
        if (tape := self._tapes.get(symbol)) is None:
            return None
        (move,) = self._moves(symbol, tape, np.array([from_ms], np.int64), minutes).tolist()
        return None if move != move else move

    def any_minute_bps(self, symbol: str, minutes: int) -> NDArray[np.float64]:
        """The same from the end of every minute in which the symbol had a price, where it is known."""
        if (tape := self._tapes.get(symbol)) is None:
            return np.zeros(0)
        if (found := self._any.get((symbol, minutes))) is None:
            moves = self._moves(symbol, tape, (np.unique(tape.time_ms // MINUTE_MS) + 1) * MINUTE_MS, minutes)
            found = self._any[symbol, minutes] = moves[~np.isnan(moves)]
        return found

    def _moves(self, symbol: str, tape: _Tape, from_ms: NDArray[np.int64], minutes: int) -> NDArray[np.float64]:
        """The moves from all these moments; NaN where one is not known."""
        to_ms = from_ms + minutes * MINUTE_MS
        before = np.searchsorted(tape.time_ms, from_ms, side="right") - 1
        after = np.searchsorted(tape.time_ms, to_ms, side="right") - 1
        sessions = sessions_of(self._calendar, tape.market)
        known = (before >= 0) & (to_ms <= self._ends[tape.market])
        known &= _stretches(sessions, from_ms) == _stretches(sessions, to_ms)
        for gap in self._gaps.get(tape.market, ()):
            if not gap.symbols or symbol in gap.symbols:
                known &= (to_ms < gap.from_ms) | (to_ms >= gap.to_ms)
        return np.where(known, (tape.price[after] / tape.price[before] - 1) * 10_000, np.nan)


def _stretches(sessions: Sessions, time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """`Sessions.stretch` of each."""
    opened = np.searchsorted(sessions.day_open, time_ms, side="right")
    if not len(sessions.day_open):
        return opened
    day = opened - 1
    is_open = (day >= 0) & (time_ms < sessions.day_close[day])
    return np.where(is_open, sessions.first_of_stretch[day], -opened - 1)


def _sets_price(log: Batch, rows: NDArray[np.intp], tables: Tables, calendar: Calendar) -> NDArray[np.bool_]:
    """Which of the trades set a price, as the kernel decides it."""
    bits = np.array([eligibility(codes) for codes in tables.conditions.values], np.int64)[log.conditions[rows]]
    for market in map(Market, np.unique(log.market[rows]).tolist()):
        mine = log.market[rows] == market
        bits[mine] >>= np.where(_regular(sessions_of(calendar, market), log.time_ms[rows][mine]), 0, _OUTSIDE)
    may: NDArray[np.bool_] = (bits & _PRICE) != 0
    return may


def _regular(sessions: Sessions, time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(sessions.day_open):
        return np.ones(len(time_ms), np.bool_)
    day = np.searchsorted(sessions.regular_open, time_ms, side="right") - 1
    return (day >= 0) & (time_ms < sessions.regular_close[day])


@dataclass(frozen=True, slots=True)
class Spread:
    """Some moves in a few numbers, in hundredths of a percent; without any, all but ``number`` are None."""

    number: int
    mean: float | None = None
    error: float | None = None
    """Standard error of the mean; None for less than two moves."""
    median: float | None = None
    right: float | None = None
    """Share of the moves above 0: of an alert, those that went its way."""
    size: float | None = None
    """Mean of the moves without their sign."""

    @classmethod
    def of(cls, moves: Sequence[float | None]) -> Spread:
        """Those that are known."""
        known: NDArray[Any] = np.array([move for move in moves if move is not None], np.float64)
        if not len(known):
            return cls(0)
        error = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
        return cls(
            number=len(known),
            mean=float(known.mean()),
            error=error,
            median=float(np.median(known)),
            right=float((known > 0).mean()),
            size=float(np.abs(known).mean()),
        )
