"""Trading days inside the kernel: which day and stretch a moment is in, and the day's figures for the watchlist.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.state import HIGH_LOW, PRICE, VOLUME, Days, State
from tapewatch.records import Market

DAY_MS = 86_400_000


class TradingDays(Protocol):
    """What the engine needs of `tapewatch.sessions.Sessions`: four sorted columns in Unix ms, and of each day the one
    that its stretch begins with."""

    @property
    def day_open(self) -> NDArray[np.int64]: ...
    @property
    def regular_open(self) -> NDArray[np.int64]: ...
    @property
    def regular_close(self) -> NDArray[np.int64]: ...
    @property
    def day_close(self) -> NDArray[np.int64]: ...
    @property
    def first_of_stretch(self) -> NDArray[np.int64]: ...


def days_of(calendar: Mapping[Market, TradingDays]) -> Days:
    """The days of every market, as the kernel reads them; one that is not in ``calendar`` never closes."""
    of = [calendar[market] for market in Market if market in calendar]
    lengths = [len(calendar[market].day_open) if market in calendar else 0 for market in Market]

    def joined(columns: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *columns])

    return Days(
        day_open=joined(days.day_open for days in of),
        regular_open=joined(days.regular_open for days in of),
        regular_close=joined(days.regular_close for days in of),
        day_close=joined(days.day_close for days in of),
        stretch=joined(days.first_of_stretch for days in of),
        first=np.array([0, *accumulate(lengths)], np.int64),
    )


@inlined
def day_of(days: Days, market: int, time_ms: int, guess: int) -> int:
    """Which trading day of its market a moment is in, as `sessions.Sessions.day`; of UTC where it never closes.

    If it is ``guess``, as for nearly every trade it is the symbol's last one, nothing is searched.
    """
    begin: int = days.first[market]
    stop: int = days.first[market + 1]
    if begin == stop:
        return time_ms // DAY_MS
    if 0 <= guess < stop - begin and days.day_open[begin + guess] <= time_ms < days.day_close[begin + guess]:
        return guess
    i = begin
    while i < stop:  # the first day that opens later
        middle = (i + stop) // 2
        if days.day_open[middle] <= time_ms:
            i = middle + 1
        else:
            stop = middle
    if i > begin and time_ms < days.day_close[i - 1]:
        return i - 1 - begin
    return -(i - begin + 1)


@inlined
def stretch_of(days: Days, market: int, day: int) -> int:
    """Which stretch of an open market a trading day belongs to: one, where it never closes."""
    begin = days.first[market]
    if begin == days.first[market + 1]:
        return 0
    first: int = day if day < 0 else days.stretch[begin + day]
    return first


@inlined
def is_regular(days: Days, market: int, day: int, time_ms: int) -> bool:
    """Whether the moment is in the regular session, where Form T sets no price. Who never closes has no other."""
    begin = days.first[market]
    if begin == days.first[market + 1]:
        return True
    return bool(day >= 0 and days.regular_open[begin + day] <= time_ms < days.regular_close[begin + day])


@inlined
def count_day(
    symbol: Any, day: int, regular: bool, flags: int, time_ms: int, price: float, size: float, notional: float
) -> None:
    """The day's figures, for the watchlist. A day begins with a trade that is the newest in event time."""
    if day != symbol["day"]:
        if time_ms < symbol["max_ms"]:
            return
        if symbol["day_close"] == symbol["day_close"]:
            symbol["previous_close"] = symbol["day_close"]
        symbol["day"] = day
        symbol["day_open"] = np.nan
        symbol["day_high"] = np.nan
        symbol["day_low"] = np.nan
        symbol["day_close"] = np.nan
        symbol["day_volume_e8"] = 0.0
        symbol["day_notional"] = 0.0
    if flags & VOLUME:
        symbol["day_volume_e8"] += size
        symbol["day_notional"] += notional
    if flags & HIGH_LOW:
        if not symbol["day_high"] >= price:
            symbol["day_high"] = price
        if not symbol["day_low"] <= price:
            symbol["day_low"] = price
    if flags & PRICE:
        if symbol["day_open"] != symbol["day_open"]:
            symbol["day_open"] = price
        if regular and time_ms >= symbol["price_ms"]:
            symbol["day_close"] = price


# --- what rules remember of days, for symbols that have a row of `deep` -------------------------------------------


@compiled
def end_day(state: State, s: int, day: int, time_ms: int) -> None:
    """Before `count_day`: what the day came to before this trade; one of another day may end it."""
    symbol = state.symbols[s]
    if day == symbol["day"]:
        symbol["high_before"] = symbol["day_high"]
        symbol["low_before"] = symbol["day_low"]
        return
    symbol["high_before"] = np.nan
    symbol["low_before"] = np.nan
    places = state.ranges.shape[1]
    if time_ms < symbol["max_ms"] or places == 0 or symbol["day"] < 0 or symbol["day_high"] != symbol["day_high"]:
        return
    row = symbol["deep"] - 1
    deep = state.deep[row]
    deep["ranges"] = min(deep["ranges"] + 1, places)
    for i in range(deep["ranges"] - 1, 0, -1):
        state.ranges[row, i] = state.ranges[row, i - 1]
    state.ranges[row, 0]["day"] = symbol["day"]
    state.ranges[row, 0]["high"] = symbol["day_high"]
    state.ranges[row, 0]["low"] = symbol["day_low"]


@compiled
def note_volume(state: State, s: int, day: int, cell: int, size: float) -> None:
    """After `count_day`: a volume by its time of day."""
    symbol = state.symbols[s]
    if day == symbol["day"] and 0 <= cell < state.same.shape[2]:
        row = symbol["deep"] - 1
        state.same[row, _place(state, row, day), cell] += size


@compiled
def _place(state: State, row: int, day: int) -> int:
    """Where the volumes of the day are kept; it takes the place of the oldest one when it is new."""
    labels = state.same_days[row]
    oldest = 0
    for i in range(len(labels)):
        if labels[i] == day:
            return i
        if labels[i] < labels[oldest]:
            oldest = i
    labels[oldest] = day
    for cell in range(state.same.shape[2]):
        state.same[row, oldest, cell] = 0.0
    return oldest


@compiled
def same_time(state: State, s: int, since_day: int, day: int, cell: int, length: int) -> Any:
    """Volume (in 1e-8) at this time on the newest ``length`` days after ``since_day`` and before ``day``, and how many
    of them had any."""
    row = state.symbols[s]["deep"] - 1
    total = 0.0
    seen = 0
    before = day
    for _ in range(length):
        newest = -1
        for i in range(state.same_days.shape[1]):
            label = state.same_days[row, i]
            if since_day < label < before and (newest < 0 or label > state.same_days[row, newest]):
                newest = i
        if newest < 0:
            break
        before = state.same_days[row, newest]
        if 0 <= cell < state.same.shape[2] and state.same[row, newest, cell] > 0.0:
            total += state.same[row, newest, cell]
            seen += 1
    return total, seen


@inlined
def cell_of(days: Days, market: int, day: int, pane_ms: int, slide_ms: int) -> int:
    """Which pane of its trading day a pane is; -1 for one of a closed market, or one that began before the day."""
    begin = days.first[market]
    if begin == days.first[market + 1]:
        return int((pane_ms - day * DAY_MS) // slide_ms)
    if day < 0:
        return -1
    return int((pane_ms - days.day_open[begin + day]) // slide_ms)
