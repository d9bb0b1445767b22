"""The oracle's lines: what a rule compares, computed from the panes' trades in plain Python. See `oracle.py`.

`rules.lines` says what each line means. A bar is a pane that has a price.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from math import nan, sqrt
from typing import NamedTuple

from tapewatch.oracle import HIGH_LOW, NEVER, PRICE, VOLUME, Oracle, Row, plain_sum
from tapewatch.rules.lines import Line, LineKind

ENDLESS = (LineKind.EMA, LineKind.RSI, LineKind.MACD)


class Pane:
    """What a pane's trades come to."""

    def __init__(self) -> None:
        self.high = self.low = nan
        self.notional = 0.0
        self.volume_e8 = 0


class Day:
    """A symbol's trading day: ``high`` and ``low`` so far, and as they were before its newest trade."""

    def __init__(self, day: int, opened: int = NEVER) -> None:
        self.day = day
        self.opened = opened
        self.high = self.low = self.high_before = self.low_before = nan
        self.notional = 0.0
        self.volume_e8 = 0


class Average(NamedTuple):
    """After some bars: sums, then averages, and the newest close."""

    a: float
    b: float
    close: float


class Past:
    """All that lines look back on, of one symbol."""

    def __init__(self) -> None:
        self.panes: dict[int, Pane] = defaultdict(Pane)
        self.bars: list[int] = []
        self.day = Day(NEVER)
        self.days: list[Day] = []
        """Those that are over and had a high, oldest first."""
        self.same: dict[int, dict[int, int]] = {}
        """Volume by trading day and time since it opened."""
        self.stretch = NEVER
        """Pane of the first price since the market was last closed."""
        self.averages: dict[tuple[Line, int], list[Average]] = {}
        """By line and since when it knows bars: what it is after so many of them."""

    def note(self, r: Row, pane: int, newest: int, slide: int) -> None:
        """An applied trade; ``newest`` is the symbol's newest event time, with it."""
        facts = self.panes[pane]
        if r.bits & PRICE:
            if self.bars[bisect_left(self.bars, pane) :][:1] != [pane]:
                insort(self.bars, pane)
            for (_, since), known in self.averages.items():
                del known[max(0, bisect_left(self.bars, pane) - bisect_left(self.bars, since)) :]
        if r.bits & HIGH_LOW:
            facts.high, facts.low = _most(facts.high, r.price), _least(facts.low, r.price)
        if r.bits & VOLUME:
            facts.notional += r.price * (r.size_e8 / 1e8)
            facts.volume_e8 += r.size_e8
        self._note_day(r, pane, newest, slide)

    def _note_day(self, r: Row, pane: int, newest: int, slide: int) -> None:
        day = self.day
        if r.trading != day.day:
            day.high_before = day.low_before = nan
            if r.time < newest:
                return
            if day.day >= 0 and day.high == day.high:
                self.days.append(day)
            day = self.day = Day(r.trading, r.opened)
        else:
            day.high_before, day.low_before = day.high, day.low
        if r.bits & HIGH_LOW:
            day.high, day.low = _most(day.high, r.price), _least(day.low, r.price)
        if r.bits & VOLUME:
            day.notional += r.price * (r.size_e8 / 1e8)
            day.volume_e8 += r.size_e8
            if r.trading >= 0 and pane >= r.opened:
                volumes = self.same.setdefault(r.trading, defaultdict(int))
                volumes[(pane - r.opened) // slide] += r.size_e8

    def same_time(self, since_day: int, day: int, cell: int, length: int) -> list[int]:
        """Volumes at this time on the newest ``length`` days before, of those that had any."""
        days = sorted(d for d in self.same if since_day < d < day)[-length:]
        return [v for d in days if (v := self.same[d].get(cell, 0))]


class Lines(Oracle):
    """The oracle with lines."""

    def __init__(self, settings: object) -> None:
        super().__init__(settings)  # type: ignore[arg-type]
        self.past: dict[str, Past] = defaultdict(Past)

    def value(self, symbol: str, line: Line, pane: int, since: int, since_day: int) -> float:
        """The line at the pane, with its present close; NaN while it is not known.

        ``since`` is the pane before which it knows no bar, and ``since_day`` the trading day before which no day.
        """
        past = self.past[symbol]
        match line.kind:
            case LineKind.PRICE:
                return self.close(symbol, pane)
            case LineKind.CONST:
                return line.value
            case LineKind.AVERAGE:
                return self.line(symbol, pane)
            case LineKind.CLOSE:
                before = pane - line.length * self.p.slide
                at = bisect_right(past.bars, before)
                if before < past.stretch or not at or past.bars[at - 1] < since:
                    return nan
                return float(self.closes[symbol][past.bars[at - 1]][1] * line.factor)
            case LineKind.SESSION_VWAP:
                return past.day.notional / (past.day.volume_e8 / 1e8) if past.day.volume_e8 else nan
            case LineKind.SESSION_HIGH:
                return past.day.high_before
            case LineKind.SESSION_LOW:
                return past.day.low_before
            case LineKind.DAYS_HIGH | LineKind.DAYS_LOW:
                days = past.days[-line.length :]
                if len(days) < line.length or days[0].day < since_day:
                    return nan
                return max(d.high for d in days) if line.kind is LineKind.DAYS_HIGH else min(d.low for d in days)
        return self._of_bars(symbol, line, pane, since)

    def _of_bars(self, symbol: str, line: Line, pane: int, since: int) -> float:
        """A line of so many bars, the newest at or before the pane the last of them."""
        past, n = self.past[symbol], line.length
        first, stop = bisect_left(past.bars, since), bisect_right(past.bars, pane)
        if line.kind in (LineKind.HIGH, LineKind.LOW):
            if stop - 1 - first < n:
                return nan
            before = [past.panes[x] for x in past.bars[stop - 1 - n : stop - 1]]
            return _highest(before) if line.kind is LineKind.HIGH else _lowest(before)
        if line.kind in ENDLESS:
            return self._endless(symbol, line, since, past.bars[first:stop])
        if stop - first < n:
            return nan
        bars = past.bars[stop - n : stop]
        closes = [float(self.closes[symbol][x][1]) for x in bars]
        panes = [past.panes[x] for x in bars]
        mean = plain_sum(closes) / n
        match line.kind:
            case LineKind.SMA:
                return mean
            case LineKind.UPPER | LineKind.LOWER:
                width = line.factor * sqrt(plain_sum((c - mean) * (c - mean) for c in closes) / n)
                return mean + width if line.kind is LineKind.UPPER else mean - width
            case LineKind.VWAP:
                volume = sum(x.volume_e8 for x in panes) / 1e8
                return plain_sum(x.notional for x in panes) / volume if volume else nan
        assert line.kind is LineKind.STOCHASTIC, line
        high, low = _most(_highest(panes), closes[-1]), _least(_lowest(panes), closes[-1])
        return 100.0 * (closes[-1] - low) / (high - low) if high > low else nan

    def _endless(self, symbol: str, line: Line, since: int, bars: list[int]) -> float:
        """EMA, MACD or RSI after these bars: all that it knows."""
        known = self.past[symbol].averages.setdefault((line, since), [])
        for i in range(len(known), len(bars)):
            close = float(self.closes[symbol][bars[i]][1])
            known.append(_after(line, i, known[-1] if known else Average(0.0, 0.0, nan), close))
        count = len(bars)
        if line.kind is LineKind.EMA:
            return known[count - 1].a if count >= line.length else nan
        if line.kind is LineKind.MACD:
            return known[count - 1].a - known[count - 1].b if count >= line.length2 else nan
        if count <= line.length:
            return nan
        gain, loss, _ = known[count - 1]
        return 100.0 * gain / (gain + loss) if gain + loss > 0 else nan


def _after(line: Line, bars: int, now: Average, close: float) -> Average:
    """The averages after one more bar than ``bars``. They begin as TA-Lib's do: with the mean of their first values."""
    if line.kind is LineKind.RSI:
        if not bars:
            return Average(0.0, 0.0, close)
        change, n = close - now.close, line.length
        both = []
        for average, move in ((now.a, max(change, 0.0)), (now.b, max(-change, 0.0))):
            if bars <= n:  # the first n changes
                both.append((average + move) / n if bars == n else average + move)
            else:
                both.append((average * (n - 1) + move) / n)
        return Average(both[0], both[1], close)
    if line.kind is LineKind.EMA:
        return Average(_ema(now.a, close, bars, line.length), 0.0, close)
    late = bars - (line.length2 - line.length)  # the fast one begins so that both are known at the same bar
    fast = _ema(now.a, close, late, line.length) if late >= 0 else 0.0
    return Average(fast, _ema(now.b, close, bars, line.length2), close)


def _ema(average: float, close: float, bars: int, n: int) -> float:
    if bars < n:
        return (average + close) / n if bars == n - 1 else average + close
    return average + (close - average) * (2 / (n + 1))


def _most(a: float, b: float) -> float:
    """The greater of two, one of which may be unknown."""
    return b if a != a or b > a else a


def _least(a: float, b: float) -> float:
    return b if a != a or b < a else a


def _highest(panes: list[Pane]) -> float:
    return max((x.high for x in panes if x.high == x.high), default=nan)


def _lowest(panes: list[Pane]) -> float:
    return min((x.low for x in panes if x.low == x.low), default=nan)
