"""What the engine remembers: flat arrays, one row per symbol, so that a kernel can run over them.

    panes     the newest panes that hold an eligible trade, oldest first, a fixed number per symbol
    legs      a symbol's part in each machine (one side of one rule, `rules.machines`) that covers it: those that look
              at prices first, then those that look at volumes; `marks` holds what is seldom asked of them
    pending   provisional alerts that wait for the end of their panes: per leg a place for every pane that may have one
    deep      what is older than the panes, for symbols whose rules look so far back: `bars`, `ranges`, `same`
    bases     averages without end (EMA, Wilder) over the bars that have left the panes
    caches    a line's part before the current pane, which changes less often than prices come: not remembered
    dirty     symbols with rows to write since the last drain

The arrays are plain data: a snapshot (`snapshot.py`) is their bytes, and equal records give equal bytes.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import BAR_ROW, QUALITY_ROW, WINDOW_ROW, Market

LEGS_MAX: Final = 60
"""Machines that may cover one symbol: each has a bit in a pane."""
NEVER: Final = -(2**62)
"""A time before all times."""
PRICE, HIGH_LOW, VOLUME, UNKNOWN = 1, 2, 4, 64
"""Bits of eligibility, in the regular session; shifted by 3 outside it."""
APPLIED, INELIGIBLE, LATE, FUTURE, NO_TRADE = 0, 1, 2, 3, 255
"""What becomes of a record: `records.Decision`, and one more for ticks and gaps."""
WINDOWS, BARS, QUALITY, EVENTS = 0, 1, 2, 3
"""Places in `Output.counts`."""

PANE: Final = np.dtype(
    [
        ("start_ms", "i8"),
        ("n", "i8"),  # price-eligible trades
        ("sum_price", "f8"),
        ("open", "f8"),
        ("high", "f8"),
        ("low", "f8"),
        ("close", "f8"),
        ("open_ms", "i8"),
        ("close_ms", "i8"),
        ("volume_e8", "f8"),  # whole numbers: exact up to 2**53 units of 1e-8
        ("notional", "f8"),
        ("trades", "i8"),  # volume-eligible trades
        ("records", "i8"),  # eligible trades: the pane's part of a row's revision
        ("fired", "i8"),  # one bit per leg that has made an alert in this pane
    ]
)

SYMBOL: Final = np.dtype(
    [
        ("known", "i1"),
        ("market", "i1"),
        ("is_dirty", "i1"),
        ("side", "i1"),  # of the price against its average, by the golden cross's band
        ("price_legs", "i2"),  # so many legs look at prices
        ("legs", "i2"),  # and so many there are
        ("deep", "i4"),  # its row of what is older, plus 1; 0 without one
        ("panes", "i4"),  # how many of the symbol's pane slots are in use
        ("max_ms", "i8"),  # greatest event time seen: the watermark is this less the delay
        ("final_next_ms", "i8"),  # first pane whose row was not yet given out as final
        ("dirty_from_ms", "i8"),  # rows of this pane and later ones changed since the last drain
        ("due_ms", "i8"),  # earliest moment at which a pending alert must be resolved
        ("base_close", "f8"),  # close of the newest pane that has left the slots
        ("price", "f8"),  # last price in event order, with its time, receipt and line
        ("price_ms", "i8"),
        ("price_received_ns", "i8"),
        ("line", "f8"),
        ("line_pane_ms", "i8"),  # pane for which line_sum holds
        ("line_sum", "f8"),  # closes of the panes before it in its window, oldest first
        ("volume_pane_ms", "i8"),  # pane for which volume_limit holds: the least of its legs'
        ("volume_limit", "f8"),
        ("changes", "i8"),  # counts what happens to panes before the newest: caches hold as long as it stays
        ("stretch", "i8"),
        ("stretch_pane_ms", "i8"),  # pane of the stretch's first price
        ("day", "i8"),
        ("day_open", "f8"),
        ("day_high", "f8"),
        ("day_low", "f8"),
        ("high_before", "f8"),  # of the day before its newest trade, where there is a row of `deep`
        ("low_before", "f8"),
        ("day_volume_e8", "f8"),
        ("day_notional", "f8"),
        ("day_close", "f8"),  # last regular-session price of the day so far
        ("previous_close", "f8"),
        ("trades", "i8"),
        ("ineligible", "i8"),
        ("late", "i8"),
        ("future", "i8"),
        ("unknown_conditions", "i8"),
        ("q_minute_ms", "i8"),  # quality of the minute being counted, not yet given out
        ("q_trades", "i8"),
        ("q_excluded", "i8"),
        ("q_late", "i8"),
        ("q_future", "i8"),
    ]
)

LEG: Final = np.dtype(
    [
        ("machine", "i2"),  # row of Params.machines
        ("side", "i1"),  # of the left line against the right one: 0 unknown
        ("spent", "i1"),  # has made an alert, and its left line was not back far enough since
    ]
)
"""What every price looks at: small, so that the legs of many symbols stay near the processor."""

MARK: Final = np.dtype(
    [
        ("last_alert_ms", "i8"),
        ("since_day", "i8"),  # trading day in which it was given: it knows none before. NEVER: before the first trade
        ("left", "f8"),  # the lines as they were at the price before
        ("right", "f8"),
    ]
)

PENDING: Final = np.dtype(
    [
        ("pane_ms", "i8"),  # NEVER: free
        ("closes", "i8"),  # so many closes were on the new side
        ("triggered_ms", "i8"),
        ("price", "f8"),
        ("left", "f8"),
        ("line", "f8"),  # the right line
    ]
)

DEEP: Final = np.dtype([("bars", "i4"), ("ranges", "i4")])
"""How many places of `bars` and `ranges` are in use; a row for each symbol whose rules look back further than its panes
reach, or on whole days."""

BAR: Final = np.dtype(
    [("start_ms", "i8"), ("high", "f8"), ("low", "f8"), ("close", "f8"), ("volume_e8", "f8"), ("notional", "f8")]
)
"""A pane that had a price, and has left the panes. Newest first."""

RANGE: Final = np.dtype([("day", "i8"), ("high", "f8"), ("low", "f8")])
"""Of a trading day that is over. Newest first."""

BASE: Final = np.dtype([("count", "i8"), ("a", "f8"), ("b", "f8"), ("close", "f8")])
"""An average without end after ``count`` bars: see `lines.step`."""

CACHE: Final = np.dtype([("changes", "i8"), ("pane_ms", "i8"), ("a", "f8"), ("b", "f8"), ("c", "f8"), ("count", "i8")])
"""Of one line of one leg, for a pane; ``changes`` is the symbol's plus 1 when it was made."""

MARKET: Final = np.dtype([("tick_ms", "i8"), ("due_ms", "i8")])
"""Per market: the greatest tick, and a time before which no tick can change anything."""

EVENT: Final = np.dtype(
    [
        ("symbol", "i4"),
        ("machine", "i4"),
        ("status", "i4"),  # 0 provisional, 1 confirmed, 2 retracted
        ("row", "i8"),  # of the batch: the record that decided
        ("pane_ms", "i8"),
        ("triggered_ms", "i8"),
        ("decided_ms", "i8"),
        ("price", "f8"),
        ("line", "f8"),
        ("price_before", "f8"),
        ("line_before", "f8"),
        ("price_now", "f8"),  # what decided: the trade's price, at the end the pane's close, or a volume
        ("line_now", "f8"),
        ("window_trades", "i8"),
        ("window_excluded", "i8"),
    ]
)


MACHINE: Final = np.dtype(
    [
        ("direction", "i1"),  # +1 above, -1 below; the volume's too is above
        ("is_plain", "i1"),  # compares the price with its average, `ma_5min`
        ("forgets", "i1"),  # its side over a closed market and a long gap
        ("sessions", "i1"),  # bits: 1 regular, 2 pre and post, 4 closed
        ("asks_volume", "i1"),
        ("confirm_bars", "i4"),
        ("band", "f8"),
        ("rearm", "f8"),
        ("cooldown_ms", "i8"),
        ("expires_ms", "i8"),
        ("since_ms", "i8"),  # pane before which it knows no bar
        ("begins_ms", "i8"),  # first pane that it may make an alert in
    ]
)

LINE: Final = np.dtype([("kind", "i4"), ("length", "i4"), ("length2", "i4"), ("factor", "f8"), ("value", "f8")])
"""A `rules.lines.Line`."""


class Params(NamedTuple):
    """The numbers the kernel works with; times in ms, bands as fractions."""

    slide_ms: int
    window_panes: int
    delay_ms: int
    confirm_ms: int
    future_ms: int
    side_band: float
    """That of `latest_prices.side`: the golden cross's."""
    machines: NDArray[Any]
    """One `MACHINE` for each that the rules come to."""
    lines: NDArray[Any]
    """Of each machine a left `LINE`, a right one, and the volume it asks for."""


class Days(NamedTuple):
    """Trading days in ms, as `tapewatch.sessions.Sessions` has them, of one market after another.

    Rows ``first[m]`` to ``first[m + 1]`` are market m's; one without rows never closes.
    """

    day_open: NDArray[np.int64]
    regular_open: NDArray[np.int64]
    regular_close: NDArray[np.int64]
    day_close: NDArray[np.int64]
    stretch: NDArray[np.int64]
    """Of each day, the day of its market that its stretch begins with."""
    first: NDArray[np.int64]


class State(NamedTuple):
    """All that is remembered. Of ``counts``, the first is how many symbols wait in ``dirty``; the second, how many
    alerts in ``pending``."""

    symbols: NDArray[Any]
    panes: NDArray[Any]
    legs: NDArray[Any]
    marks: NDArray[Any]
    pending: NDArray[Any]
    bases: NDArray[Any]
    caches: NDArray[Any]
    deep: NDArray[Any]
    bars: NDArray[Any]
    ranges: NDArray[Any]
    same: NDArray[Any]
    same_days: NDArray[Any]
    markets: NDArray[Any]
    dirty: NDArray[np.int32]
    counts: NDArray[np.int64]


class Output(NamedTuple):
    """Room for what a step gives out; ``counts`` says how much of windows, bars, quality, events is in use."""

    windows: NDArray[Any]
    bars: NDArray[Any]
    quality: NDArray[Any]
    events: NDArray[Any]
    counts: NDArray[np.int64]


def open_panes(slide_ms: int, delay_ms: int) -> int:
    """The most panes of one symbol that an on-time trade may still change."""
    return -(-delay_ms // slide_ms) + 2


class Shape(NamedTuple):
    """How much there is room for, beside the number of symbols: it only ever grows."""

    slots: int
    """Panes of a symbol: those an on-time trade may still change, and what their rows and rules look back on."""
    legs: int
    pending: int
    bases: int
    """Legs, if any of them has an average without end; else 0."""
    deep: int
    """Symbols that have a row of what is older, and how much of it each of them has."""
    bars: int
    ranges: int
    same_days: int
    same_panes: int

    def over(self, other: Shape) -> Shape:
        """Room for both."""
        return Shape(*map(max, self, other))


def shape_of(state: State) -> Shape:
    """What there is room for now."""
    return Shape(
        slots=state.panes.shape[1],
        legs=state.legs.shape[1],
        pending=state.pending.shape[2],
        bases=state.bases.shape[1],
        deep=state.bars.shape[0],
        bars=state.bars.shape[1],
        ranges=state.ranges.shape[1],
        same_days=state.same.shape[1],
        same_panes=state.same.shape[2],
    )


def new_state(symbols: int, shape: Shape) -> State:
    """Room for ``symbols`` symbols, all unknown yet."""
    markets = np.zeros(len(Market), MARKET)
    markets["tick_ms"] = NEVER
    markets["due_ms"] = -NEVER
    pending = np.zeros((symbols, shape.legs, shape.pending), PENDING)
    pending["pane_ms"] = NEVER
    return State(
        symbols=np.zeros(symbols, SYMBOL),
        panes=np.zeros((symbols, shape.slots), PANE),
        legs=np.zeros((symbols, shape.legs), LEG),
        marks=np.zeros((symbols, shape.legs), MARK),
        pending=pending,
        bases=np.zeros((symbols, shape.bases, 2), BASE),
        caches=np.zeros((symbols, shape.legs, 2), CACHE),
        deep=np.zeros(shape.deep, DEEP),
        bars=np.zeros((shape.deep, shape.bars), BAR),
        ranges=np.zeros((shape.deep, shape.ranges), RANGE),
        same=np.zeros((shape.deep, shape.same_days, shape.same_panes), np.float64),
        same_days=np.full((shape.deep, shape.same_days), NEVER, np.int64),
        markets=markets,
        dirty=np.zeros(symbols, np.int32),
        counts=np.zeros(2, np.int64),
    )


def grown(state: State, symbols: int, shape: Shape) -> State:
    """The same state with room for ``symbols`` symbols and at least ``shape``."""
    bigger = new_state(symbols, shape.over(shape_of(state)))
    for name in State._fields:
        old: NDArray[Any] = getattr(state, name)
        getattr(bigger, name)[tuple(map(slice, old.shape))] = old
    return bigger


def new_output(rows: int, events: int) -> Output:
    """Empty room for that many rows of each table and that many alert events."""
    return Output(
        windows=np.zeros(rows, WINDOW_ROW),
        bars=np.zeros(rows, BAR_ROW),
        quality=np.zeros(rows, QUALITY_ROW),
        events=np.zeros(events, EVENT),
        counts=np.zeros(4, np.int64),
    )


def fingerprint(params: Params) -> str:
    """Says which parameters and which layout a snapshot was made with. The rules travel in it."""
    numbers = (params.slide_ms, params.window_panes, params.delay_ms, params.confirm_ms, params.future_ms)
    layout = [dtype.descr for dtype in (PANE, SYMBOL, LEG, MARK, PENDING, BASE, DEEP, BAR, RANGE, MARKET)]
    return repr((numbers, layout))
