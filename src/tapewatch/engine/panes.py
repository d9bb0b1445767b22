"""The panes of one symbol: find, open, read back as lines, windows and rows.

A symbol keeps its newest touched panes, oldest first, in ``panes[s, 0 : symbols[s].panes]``. A row of
`stock_aggregates` ends with a pane; rows exist for every pane from the first touched one to the last, as long as
the window holds an eligible trade.

    touched panes        #           #  #                       #
    rows (window of 3)   #  #  #     #  #  #  #                 #

Window sums are taken afresh from the panes, oldest first. These functions are compiled into the kernel.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.bars import keep_bar
from tapewatch.engine.state import BARS, NEVER, WINDOWS, Output, Params, State

E8 = 1e8


@inlined
def open_pane(state: State, s: int, at: int, pane_ms: int, params: Params, out: Output) -> int:
    """Put a new pane after slot ``at``; return its slot. The oldest leaves when there is no free slot."""
    symbol = state.symbols[s]
    slots = state.panes.shape[1]
    if symbol["panes"] == slots:
        give_rows(state, s, params, out)  # rows that look back on the pane that leaves
        leaving = state.panes[s, 0]
        if leaving["n"] > 0:
            symbol["base_close"] = leaving["close"]
            if symbol["deep"] > 0:
                keep_bar(state, s, leaving, params)
        for i in range(at):
            state.panes[s, i] = state.panes[s, i + 1]
        slot = at
    else:
        for i in range(symbol["panes"], at + 1, -1):
            state.panes[s, i] = state.panes[s, i - 1]
        symbol["panes"] += 1
        slot = at + 1
    pane = state.panes[s, slot]
    pane["start_ms"] = pane_ms
    pane["n"] = 0
    pane["sum_price"] = 0.0
    pane["open"] = np.nan
    pane["high"] = np.nan
    pane["low"] = np.nan
    pane["close"] = np.nan
    pane["open_ms"] = 0
    pane["close_ms"] = 0
    pane["volume_e8"] = 0.0
    pane["notional"] = 0.0
    pane["trades"] = 0
    pane["records"] = 0
    pane["fired"] = 0
    return slot


@inlined
def _first_since(state: State, s: int, since_ms: int) -> int:
    """Slot of the oldest pane that starts at ``since_ms`` or later. The newest are asked first: it is one of them."""
    i: int = state.symbols[s]["panes"]
    while i > 0 and state.panes[s, i - 1]["start_ms"] >= since_ms:
        i -= 1
    return i


@inlined
def line_sum(state: State, s: int, pane_ms: int, count: int, params: Params) -> float:
    """Sum of the closes of the ``count`` panes that end with ``pane_ms``'s, oldest first; NaN while not warm.

    A pane without a price-eligible trade takes the close before it.
    """
    if count == 0:
        return 0.0
    symbol = state.symbols[s]
    used = symbol["panes"]
    start = pane_ms - (count - 1) * params.slide_ms
    close = symbol["base_close"]
    i = _first_since(state, s, start)
    for before in range(i - 1, -1, -1):
        if state.panes[s, before]["n"] > 0:
            close = state.panes[s, before]["close"]
            break
    total = 0.0
    for k in range(count):
        if i < used and state.panes[s, i]["start_ms"] == start + k * params.slide_ms:
            if state.panes[s, i]["n"] > 0:
                close = state.panes[s, i]["close"]
            i += 1
        total += close
    return total


@inlined
def window_volume_e8(state: State, s: int, pane_ms: int, params: Params) -> float:
    """Volume (in 1e-8) of the window that ends with the pane."""
    oldest = pane_ms - (params.window_panes - 1) * params.slide_ms
    volume = 0.0
    for i in range(_first_since(state, s, oldest), state.symbols[s]["panes"]):
        if state.panes[s, i]["start_ms"] <= pane_ms:
            volume += state.panes[s, i]["volume_e8"]
    return volume


@inlined
def clock_of(state: State, s: int, params: Params) -> int:
    """Time up to which rows are final: the greater of the symbol's event time and its market's tick, less the delay."""
    symbol = state.symbols[s]
    latest: int = max(symbol["max_ms"], state.markets[symbol["market"]]["tick_ms"])
    return latest - params.delay_ms


@compiled
def give_rows(state: State, s: int, params: Params, out: Output) -> None:
    """Put every changed row and bar of the symbol into ``out``, and forget that they changed."""
    symbol = state.symbols[s]
    since = symbol["dirty_from_ms"]
    symbol["dirty_from_ms"] = -NEVER
    used = symbol["panes"]
    if since == -NEVER or used == 0:
        return
    clock = clock_of(state, s, params)
    slide = params.slide_ms
    reach = (params.window_panes - 1) * slide
    last = state.panes[s, used - 1]["start_ms"]
    end = since
    first = _first_since(state, s, since - reach)
    for i in range(first, used):
        start = state.panes[s, i]["start_ms"]
        if start >= since and state.panes[s, i]["n"] > 0:
            _give_bar(state.panes[s, i], s, slide, clock, out)
        end = max(end, start)
        while end <= start + reach and end <= last and (i + 1 == used or end < state.panes[s, i + 1]["start_ms"]):
            while state.panes[s, first]["start_ms"] < end - reach:
                first += 1
            _give_window(state, s, first, i, end, clock, params, out)
            end += slide


@inlined
def _give_bar(pane: Any, s: int, slide: int, clock: int, out: Output) -> None:
    row = out.bars[out.counts[BARS]]
    out.counts[BARS] += 1
    volume = pane["volume_e8"] / E8
    row["symbol"] = s
    row["bar_start_ms"] = pane["start_ms"]
    row["open"] = pane["open"]
    row["high"] = pane["high"]
    row["low"] = pane["low"]
    row["close"] = pane["close"]
    row["volume"] = volume
    row["vwap"] = pane["notional"] / volume if volume > 0.0 else np.nan
    row["trade_count"] = pane["trades"]
    row["is_final"] = pane["start_ms"] + slide <= clock
    row["revision"] = pane["records"]


@inlined
def _give_window(
    state: State, s: int, first: int, last: int, end: int, clock: int, params: Params, out: Output
) -> None:
    """The row of the window whose last pane starts at ``end``, from the panes in slots first..last."""
    row = out.windows[out.counts[WINDOWS]]
    out.counts[WINDOWS] += 1
    n = 0
    trades = 0
    records = 0
    total = 0.0
    volume_e8 = 0.0
    notional = 0.0
    high = np.nan
    low = np.nan
    opened = np.nan
    closed = np.nan
    for i in range(first, last + 1):
        pane = state.panes[s, i]
        n += pane["n"]
        total += pane["sum_price"]
        volume_e8 += pane["volume_e8"]
        notional += pane["notional"]
        trades += pane["trades"]
        records += pane["records"]
        if not (high >= pane["high"]) and pane["high"] == pane["high"]:
            high = pane["high"]
        if not (low <= pane["low"]) and pane["low"] == pane["low"]:
            low = pane["low"]
        if pane["n"] > 0:
            if opened != opened:
                opened = pane["open"]
            closed = pane["close"]
    volume = volume_e8 / E8
    row["symbol"] = s
    row["window_start_ms"] = end - (params.window_panes - 1) * params.slide_ms
    row["avg_price"] = total / n if n > 0 else np.nan
    row["ma_5min"] = line_sum(state, s, end, params.window_panes, params) / params.window_panes
    row["vwap"] = notional / volume if volume > 0.0 else np.nan
    row["max_price"] = high
    row["min_price"] = low
    row["open_price"] = opened
    row["close_price"] = closed
    row["total_volume"] = volume
    row["trade_count"] = trades
    row["is_final"] = end + params.slide_ms <= clock
    row["revision"] = records


def rows_per_symbol(slots: int, window_panes: int) -> int:
    """The most rows of one table that one call of `give_rows` can give."""
    return slots * window_panes + 1
