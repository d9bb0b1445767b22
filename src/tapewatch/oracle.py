"""The oracle: what every row means, once more, in plain Python with nothing clever.

Tests compare the engine with it, and `tapewatch verify` compares the database with it. It shares no code with the
engine: a symbol is a dictionary of panes, a pane is the list of its trades in log order, and a row is computed from
those lists. Sums are plain additions from left to right (newer Pythons' built-in `sum` compensates rounding).
`oracle_alerts.py` adds the alerts.

A `Row` is one record; its times are in ms, ``bits`` say what a trade may set, ``day`` is its stretch of open market.
Its ``kind`` is 0 for a trade, 1 for a tick, 2 for a gap, whose ``price`` is its length in ms, 3 for a change of rules.
Only rules ask for more: ``session`` is 1 in the regular session, 2 before and after it, 4 when the market is closed;
``trading`` is the trading day (below 0 when closed: -1 - how many had opened before) and ``opened`` when it began.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import defaultdict, namedtuple
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import add
from typing import Any

NEVER = -(2**62)
PRICE, HIGH_LOW, VOLUME = 1, 2, 4

Row = namedtuple(
    "Row",
    "kind market symbol time received price size_e8 bits day session trading opened rules",
    defaults=(1, 0, 0, None),
)
Settings = namedtuple("Settings", "window slide delay confirm future rules")


class Oracle:
    """Feed it every record with `take`, in log order; then read `rows`. Durations are in ms."""

    def __init__(self, settings: Settings) -> None:
        self.p = settings
        self.panes: dict[str, dict[int, list[Row]]] = defaultdict(dict)
        self.closes: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)
        self.newest: dict[str, int] = defaultdict(lambda: NEVER)  # event time, by symbol
        self.ticks: dict[int, int] = defaultdict(lambda: NEVER)
        self.markets: dict[str, int] = {}

    def decide(self, r: Row) -> str:
        """What becomes of a trade."""
        if r.time - self.p.future > r.received:
            return "future"
        is_late = r.time - r.time % self.p.slide + self.p.slide <= self.newest[r.symbol] - self.p.delay
        return "late" if is_late else "applied" if r.bits else "ineligible"

    def take(self, r: Row) -> str | None:
        """Take one record; the decision on a trade, None for others."""
        if r.kind == 1:
            self.ticks[r.market] = max(r.time, self.ticks[r.market])
        decision, pane = self.decide(r) if r.kind == 0 else None, r.time - r.time % self.p.slide
        if decision in ("applied", "ineligible"):
            self.newest[r.symbol], self.markets[r.symbol] = max(r.time, self.newest[r.symbol]), r.market
        if decision == "applied":
            self.panes[r.symbol].setdefault(pane, []).append(r)
            if r.bits & PRICE and r.time >= self.closes[r.symbol].get(pane, (NEVER,))[0]:
                self.closes[r.symbol][pane] = (r.time, r.price)
        return decision

    def line(self, symbol: str, last: int) -> float:
        """Mean of the closes of the window's panes, oldest first; a pane without one takes the one before it."""
        panes = range(last - self.p.window + self.p.slide, last + 1, self.p.slide)
        return reduce(add, (self.close(symbol, pane) for pane in panes)) / len(panes)

    def close(self, symbol: str, pane: int) -> float:
        """Close of the pane, or of the newest one before it that has one; NaN before the first."""
        closes = self.closes[symbol]
        if pane not in closes:
            first = min(self.panes[symbol])
            while pane not in closes and pane >= first:
                pane -= self.p.slide
        return closes.get(pane, (0, float("nan")))[1]

    def rows(self, window: int) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """(symbol, start) and columns: of `stock_aggregates` with the window's length; with the slide's, of bars."""
        for symbol, panes in sorted(self.panes.items()):
            for last in range(min(panes), max(panes) + 1, self.p.slide):
                start = last + self.p.slide - window
                if inside := [panes[x] for x in range(start, last + 1, self.p.slide) if x in panes]:
                    yield (symbol, start), self.row(symbol, inside, last)

    def row(self, symbol: str, panes: list[list[Row]], last: int) -> dict[str, Any]:
        """The columns computed from some panes, of which ``last`` is the last's start."""
        trades = [r for pane in panes for r in pane]
        prices = [(r.time, i, r.price) for i, r in enumerate(trades) if r.bits & PRICE]
        extremes = [r.price for r in trades if r.bits & HIGH_LOW]
        volume = sum(r.size_e8 for r in trades if r.bits & VOLUME) / 1e8
        notional = plain_sum(plain_sum(r.price * (r.size_e8 / 1e8) for r in x if r.bits & VOLUME) for x in panes)
        total = plain_sum(plain_sum(r.price for r in x if r.bits & PRICE) for x in panes)
        clock = max(self.newest[symbol], self.ticks[self.markets[symbol]]) - self.p.delay
        return {
            "avg_price": total / len(prices) if prices else None,
            "ma_5min": self.line(symbol, last),
            "vwap": notional / volume if volume else None,
            "max_price": max(extremes, default=None),
            "min_price": min(extremes, default=None),
            "open_price": min(prices)[2] if prices else None,
            "close_price": max(prices)[2] if prices else None,
            "total_volume": volume,
            "trade_count": sum(1 for r in trades if r.bits & VOLUME),
            "is_final": last + self.p.slide <= clock,
            "revision": len(trades),
        }


def plain_sum(values: Iterable[float]) -> float:
    """Left to right, each addition rounded."""
    return reduce(add, values, 0.0)


def bars(rows: Iterable[tuple[tuple[str, int], dict[str, Any]]]) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """Those of one-pane rows that are bars: the ones with a price."""
    return ((key, row) for key, row in rows if row["close_price"] is not None)
