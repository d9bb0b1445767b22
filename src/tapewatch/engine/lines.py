"""The values of a rule's lines inside the kernel: `rules.lines` says what each means.

A line's value at a pane comes in two steps, of which only the second is done for every price:

    bars before the pane ──► prepare ──► a, b, c, count ──┐
    the pane and the price ───────────────────────────────┴──► finish ──► the value

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.bars import (
    EMA,
    MACD,
    NONE,
    RSI,
    bar_at,
    close_at,
    find_pane,
    next_bar,
    nth_bar,
    range_at,
    since_of,
    step,
    sum_at,
    traded_at,
)
from tapewatch.engine.panes import E8, line_sum
from tapewatch.engine.state import NEVER, Params, State
from tapewatch.rules.lines import LineKind

PRICE, CONST, AVERAGE, SMA = int(LineKind.PRICE), int(LineKind.CONST), int(LineKind.AVERAGE), int(LineKind.SMA)
SESSION_VWAP, VWAP, CLOSE = int(LineKind.SESSION_VWAP), int(LineKind.VWAP), int(LineKind.CLOSE)
HIGH, LOW, STOCHASTIC = int(LineKind.HIGH), int(LineKind.LOW), int(LineKind.STOCHASTIC)
SESSION_HIGH, SESSION_LOW = int(LineKind.SESSION_HIGH), int(LineKind.SESSION_LOW)
DAYS_HIGH, DAYS_LOW = int(LineKind.DAYS_HIGH), int(LineKind.DAYS_LOW)
UPPER, LOWER = int(LineKind.UPPER), int(LineKind.LOWER)


@inlined
def _reading(kind: int, length: int, length2: int, count: int, a: float, b: float) -> float:
    """The line's value after ``count`` bars; NaN while it is not warm."""
    if kind == EMA:
        return a if count >= length else np.nan
    if kind == MACD:
        return a - b if count >= length2 else np.nan
    return 100.0 * a / (a + b) if count > length and a + b > 0.0 else np.nan


@compiled
def prepare(state: State, s: int, k: int, which: int, pane_ms: int, params: Params, into: Any) -> None:
    """What bars before the pane bring to one line of leg ``k``; NaN in ``a`` when they are too few."""
    machine = state.legs[s, k]["machine"]
    line = params.lines[machine, which]
    since_ms = since_of(state, s, k, params)
    kind = line["kind"]
    length = line["length"]
    into["a"] = np.nan
    if kind in (EMA, MACD, RSI):
        base = state.bases[s, k, which]
        a, b, close, count = base["a"], base["b"], base["close"], base["count"]
        for i in range(state.symbols[s]["panes"]):
            pane = state.panes[s, i]
            if pane["start_ms"] >= pane_ms:
                break
            if pane["n"] > 0 and pane["start_ms"] >= since_ms:
                a, b = step(kind, length, line["length2"], count, a, b, close, pane["close"])
                close = pane["close"]
                count += 1
        into["a"], into["b"], into["c"], into["count"] = a, b, close, count
    elif kind == CLOSE:
        past_ms = pane_ms - length * params.slide_ms
        if past_ms >= state.symbols[s]["stretch_pane_ms"]:
            at = bar_at(state, s, find_pane(state, s, past_ms), since_ms)
            if at != NONE:
                into["a"] = close_at(state, s, at) * line["factor"]
    elif kind in (HIGH, LOW):
        at = nth_bar(state, s, pane_ms, length, since_ms)
        if at != NONE:
            high, low = range_at(state, s, at, pane_ms)
            into["a"] = high if kind == HIGH else low
    elif length == 1:
        into["a"] = 0.0
        into["b"] = 0.0
    else:
        at = nth_bar(state, s, pane_ms, length - 1, since_ms)
        if at == NONE:
            return
        if kind == VWAP:
            into["a"], into["b"] = traded_at(state, s, at, pane_ms)
        elif kind == STOCHASTIC:
            into["a"], into["b"] = range_at(state, s, at, pane_ms)
        else:
            into["a"] = sum_at(state, s, at, pane_ms)


@compiled
def finish(
    state: State, s: int, k: int, which: int, i: int, pane_ms: int, price: float, params: Params, have: Any
) -> float:
    """The line's value with ``price`` as the close of the pane, which is in slot ``i`` unless it is only carried."""
    machine = state.legs[s, k]["machine"]
    line = params.lines[machine, which]
    kind = line["kind"]
    length: int = line["length"]
    a: float = have["a"]
    if kind in (EMA, MACD, RSI):
        x, y = step(kind, length, line["length2"], have["count"], a, have["b"], have["c"], price)
        return _reading(kind, length, line["length2"], have["count"] + 1, x, y)
    if kind == SMA:
        return (a + price) / length
    if kind in (UPPER, LOWER):
        return _band(state, s, k, which, pane_ms, price, a, params)
    if kind == VWAP:
        notional: float = a + state.panes[s, i]["notional"]
        volume_e8: float = have["b"] + state.panes[s, i]["volume_e8"]
        return notional / (volume_e8 / E8) if a == a and volume_e8 > 0.0 else np.nan
    if kind == STOCHASTIC:
        between: float = _stochastic(a, have["b"], state.panes[s, i], price)
        return between
    return a


@compiled
def _band(state: State, s: int, k: int, which: int, pane_ms: int, price: float, total: float, params: Params) -> float:
    """Bollinger's upper or lower band."""
    line = params.lines[state.legs[s, k]["machine"], which]
    length = line["length"]
    at = nth_bar(state, s, pane_ms, length - 1, since_of(state, s, k, params))
    mean = (total + price) / length
    squares = 0.0
    while at != NONE:
        away = close_at(state, s, at) - mean
        squares += away * away
        at = next_bar(state, s, at, pane_ms)
    squares += (price - mean) * (price - mean)
    width = line["factor"] * np.sqrt(squares / length)
    return float(mean + width if line["kind"] == UPPER else mean - width)


@inlined
def _stochastic(high: float, low: float, pane: Any, price: float) -> float:
    """Where the price is between lowest and highest, the pane's own and the price itself among them."""
    for value in (pane["high"], price):
        if not high >= value and value == value:
            high = value
    for value in (pane["low"], price):
        if not low <= value and value == value:
            low = value
    return float(100.0 * (price - low) / (high - low)) if high > low else np.nan


@compiled
def day_value(state: State, s: int, k: int, kind: int, length: int) -> float:
    """A line of the trading day, or of the days before it, as it is now."""
    symbol = state.symbols[s]
    if kind == SESSION_VWAP:
        volume = symbol["day_volume_e8"] / E8
        return symbol["day_notional"] / volume if volume > 0.0 else np.nan
    if kind == SESSION_HIGH:
        high: float = symbol["high_before"]
        return high
    if kind == SESSION_LOW:
        low: float = symbol["low_before"]
        return low
    row = symbol["deep"] - 1
    if state.deep[row]["ranges"] < length or state.ranges[row, length - 1]["day"] < state.marks[s, k]["since_day"]:
        return np.nan
    extreme: float = state.ranges[row, 0]["high"] if kind == DAYS_HIGH else state.ranges[row, 0]["low"]
    for day in range(1, length):
        found = state.ranges[row, day]
        extreme = max(extreme, found["high"]) if kind == DAYS_HIGH else min(extreme, found["low"])
    return extreme


@inlined
def is_of_days(kind: int) -> bool:
    """Whether the line is one of the trading day or of days: `day_value` knows it."""
    return kind == SESSION_VWAP or SESSION_HIGH <= kind <= DAYS_LOW


@inlined
def is_fixed(kind: int) -> bool:
    """Whether an alert is decided by the line as it was when it was made, and not as it is at the pane's end."""
    return kind == SESSION_VWAP or HIGH <= kind <= DAYS_LOW


@compiled
def live(state: State, s: int, k: int, which: int, i: int, price: float, average: float, params: Params) -> float:
    """A line of leg ``k`` with the current price, a trade of the pane in slot ``i``."""
    line = params.lines[state.legs[s, k]["machine"], which]
    kind = line["kind"]
    if kind == PRICE:
        return price
    if kind == CONST:
        value: float = line["value"]
        return value
    if kind == AVERAGE:
        return average
    if is_of_days(kind):
        return day_value(state, s, k, kind, line["length"])
    cache = state.caches[s, k, which]
    pane_ms = state.panes[s, i]["start_ms"]
    if cache["changes"] != state.symbols[s]["changes"] + 1 or cache["pane_ms"] != pane_ms:
        cache["changes"] = state.symbols[s]["changes"] + 1
        cache["pane_ms"] = pane_ms
        prepare(state, s, k, which, pane_ms, params, cache)
    return finish(state, s, k, which, i, pane_ms, price, params, cache)


@compiled
def at_close(state: State, s: int, k: int, which: int, pane_ms: int, slot: Any, params: Params) -> float:
    """A line of leg ``k`` when the pane has ended; ``slot`` is the alert it is to decide.

    A pane without a price is no bar: the last one before it stands.
    """
    line = params.lines[state.legs[s, k]["machine"], which]
    kind = line["kind"]
    if kind == CONST:
        value: float = line["value"]
        return value
    if is_fixed(kind):
        then: float = slot["left"] if which == 0 else slot["line"]
        return then
    if kind == AVERAGE:
        return line_sum(state, s, pane_ms, params.window_panes, params) / params.window_panes
    i = bar_at(state, s, find_pane(state, s, pane_ms), NEVER)
    price: float = state.panes[s, i]["close"]
    if kind == PRICE:
        return price
    cache = state.caches[s, k, which]
    cache["changes"] = 0
    if kind != CLOSE:
        pane_ms = state.panes[s, i]["start_ms"]
    prepare(state, s, k, which, pane_ms, params, cache)
    return finish(state, s, k, which, i, pane_ms, price, params, cache)
