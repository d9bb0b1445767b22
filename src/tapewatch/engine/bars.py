"""The bars of one symbol, and the averages without end over them. A *bar* is a pane that has a price.

A symbol's bars are found by their position: 0 and up in its panes, and below that in `bars`, which holds what has left
the panes, newest first:

    bars    … 2   1   0 │ panes   0   1   2   3 …
    position -3  -2  -1 │         0   1   2   3

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.state import NEVER, Params, State
from tapewatch.rules.lines import LineKind

EMA, RSI, MACD = int(LineKind.EMA), int(LineKind.RSI), int(LineKind.MACD)
NONE: Final = -(2**31)
"""No position."""


@inlined
def find_pane(state: State, s: int, pane_ms: int) -> int:
    """Slot of the newest touched pane that starts at or before ``pane_ms``; -1 without one."""
    i: int = state.symbols[s]["panes"] - 1
    while i >= 0 and state.panes[s, i]["start_ms"] > pane_ms:
        i -= 1
    return i


@inlined
def since_of(state: State, s: int, k: int, params: Params) -> int:
    """The pane before which leg ``k`` knows no bar; one that was there before the symbol's first trade knows all."""
    since_ms: int = params.machines[state.legs[s, k]["machine"]]["since_ms"]
    return since_ms if state.marks[s, k]["since_day"] != NEVER else NEVER


@compiled
def bar_at(state: State, s: int, at: int, since_ms: int) -> int:
    """Position of the newest bar at or before position ``at``; NONE if there is none since ``since_ms``."""
    while at >= 0:
        pane = state.panes[s, at]
        if pane["start_ms"] < since_ms:
            return NONE
        if pane["n"] > 0:
            return at
        at -= 1
    row = state.symbols[s]["deep"] - 1
    if row < 0 or -1 - at >= state.deep[row]["bars"] or state.bars[row, -1 - at]["start_ms"] < since_ms:
        return NONE
    return at


@compiled
def nth_bar(state: State, s: int, pane_ms: int, count: int, since_ms: int) -> int:
    """Position of the ``count``-th newest bar before the pane; NONE if there are fewer."""
    at = find_pane(state, s, pane_ms - 1) + 1
    for _ in range(count):
        at = bar_at(state, s, at - 1, since_ms)
        if at == NONE:
            return NONE
    return at


@compiled
def next_bar(state: State, s: int, at: int, pane_ms: int) -> int:
    """Position of the bar after ``at``; NONE when that is not before the pane."""
    at += 1
    if at < 0:
        return at
    while at < state.symbols[s]["panes"] and state.panes[s, at]["start_ms"] < pane_ms:
        if state.panes[s, at]["n"] > 0:
            return at
        at += 1
    return NONE


@compiled
def close_at(state: State, s: int, at: int) -> float:
    """The bar's close."""
    close: float = (
        state.panes[s, at]["close"] if at >= 0 else state.bars[state.symbols[s]["deep"] - 1, -1 - at]["close"]
    )
    return close


@compiled
def sum_at(state: State, s: int, at: int, pane_ms: int) -> float:
    """Sum of the closes from the bar ``at`` on, oldest first, before the pane."""
    total = 0.0
    while at != NONE:
        total += close_at(state, s, at)
        at = next_bar(state, s, at, pane_ms)
    return total


@compiled
def range_at(state: State, s: int, at: int, pane_ms: int) -> Any:
    """Highest high and lowest low from the bar ``at`` on, before the pane; NaN without any."""
    high = np.nan
    low = np.nan
    while at != NONE:
        if at >= 0:
            bar_high, bar_low = state.panes[s, at]["high"], state.panes[s, at]["low"]
        else:
            bar = state.bars[state.symbols[s]["deep"] - 1, -1 - at]
            bar_high, bar_low = bar["high"], bar["low"]
        if not high >= bar_high and bar_high == bar_high:
            high = bar_high
        if not low <= bar_low and bar_low == bar_low:
            low = bar_low
        at = next_bar(state, s, at, pane_ms)
    return high, low


@compiled
def traded_at(state: State, s: int, at: int, pane_ms: int) -> Any:
    """Notional and volume (in 1e-8) from the bar ``at`` on, oldest first, before the pane."""
    notional = 0.0
    volume_e8 = 0.0
    while at != NONE:
        if at >= 0:
            notional += state.panes[s, at]["notional"]
            volume_e8 += state.panes[s, at]["volume_e8"]
        else:
            bar = state.bars[state.symbols[s]["deep"] - 1, -1 - at]
            notional += bar["notional"]
            volume_e8 += bar["volume_e8"]
        at = next_bar(state, s, at, pane_ms)
    return notional, volume_e8


# --- averages without end ----------------------------------------------------------------------------------------


@inlined
def _smoothed(average: float, value: float, count: int, length: int, weight: float) -> float:
    """The average after one more value; the first ``length`` of them are added up, and their mean is the first one."""
    if count < length:
        total = average + value
        return total / length if count + 1 == length else total
    return average + (value - average) * weight


@compiled
def step(
    kind: int, length: int, length2: int, count: int, a: float, b: float, close_before: float, close: float
) -> Any:
    """What an EMA (a), the two of a MACD (a, b) or the gains and losses of an RSI (a, b) are after one more bar.

    ``count`` bars were before it. MACD's fast average begins late, with the bar that makes both known at once.
    """
    if kind == EMA:
        a = _smoothed(a, close, count, length, 2.0 / (length + 1))
    elif kind == MACD:
        late = count - (length2 - length)
        if late >= 0:
            a = _smoothed(a, close, late, length, 2.0 / (length + 1))
        b = _smoothed(b, close, count, length2, 2.0 / (length2 + 1))
    elif count > 0:
        change = close - close_before
        gain = change if change > 0.0 else 0.0
        loss = -change if change < 0.0 else 0.0
        if count <= length:
            a = _smoothed(a, gain, count - 1, length, 0.0)
            b = _smoothed(b, loss, count - 1, length, 0.0)
        else:
            a = (a * (length - 1) + gain) / length
            b = (b * (length - 1) + loss) / length
    return a, b


@compiled
def keep_bar(state: State, s: int, pane: Any, params: Params) -> None:
    """A pane with a price leaves the panes: it goes on in `bars`, and in the averages without end."""
    symbol = state.symbols[s]
    row = symbol["deep"] - 1
    places = state.bars.shape[1]
    if places > 0:
        deep = state.deep[row]
        deep["bars"] = min(deep["bars"] + 1, places)
        for i in range(deep["bars"] - 1, 0, -1):
            state.bars[row, i] = state.bars[row, i - 1]
        bar = state.bars[row, 0]
        bar["start_ms"] = pane["start_ms"]
        bar["high"] = pane["high"]
        bar["low"] = pane["low"]
        bar["close"] = pane["close"]
        bar["volume_e8"] = pane["volume_e8"]
        bar["notional"] = pane["notional"]
    if state.bases.shape[1] == 0:
        return
    for k in range(symbol["price_legs"]):
        machine = state.legs[s, k]["machine"]
        if pane["start_ms"] < since_of(state, s, k, params):
            continue
        for which in range(2):
            line = params.lines[machine, which]
            kind = line["kind"]
            if kind in (EMA, MACD, RSI):
                base = state.bases[s, k, which]
                base["a"], base["b"] = step(
                    kind, line["length"], line["length2"], base["count"], base["a"], base["b"], base["close"],
                    pane["close"],
                )  # fmt: skip
                base["close"] = pane["close"]
                base["count"] += 1
