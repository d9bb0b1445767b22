"""The engine's inner loop: one record after another, in log order, over flat arrays.

What a record does depends on the record, on its symbol's own past and, for what ends, on its market's ticks;
never on another symbol, on how records were batched, or on a clock.

    trade   quarantine? -> late? -> time moves on -> eligible? -> pane -> volume surge -> price -> cross
    tick    time moves on for every symbol of the market: panes end, alerts are resolved, rows become final
    gap     longer than the window: the market's sides are unknown again

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.alerts import resolve
from tapewatch.engine.bars import find_pane
from tapewatch.engine.crosses import side_of
from tapewatch.engine.days import cell_of, count_day, day_of, end_day, is_regular, note_volume, stretch_of
from tapewatch.engine.panes import E8, give_rows, line_sum, open_pane, window_volume_e8
from tapewatch.engine.quality import count_quality, give_quality
from tapewatch.engine.state import (
    APPLIED,
    BARS,
    EVENTS,
    FUTURE,
    HIGH_LOW,
    INELIGIBLE,
    LATE,
    NEVER,
    NO_TRADE,
    PRICE,
    QUALITY,
    UNKNOWN,
    VOLUME,
    WINDOWS,
    Days,
    Output,
    Params,
    State,
)
from tapewatch.engine.watching import CLOSED, EXTENDED, REGULAR, forget, least_limit, surge, watch
from tapewatch.records import Kind

_TRADE, _TICK = int(Kind.TRADE), int(Kind.TICK)


@inlined
def mark_dirty(state: State, s: int, pane_ms: int) -> None:
    """Rows of ``pane_ms`` and later ones changed."""
    symbol = state.symbols[s]
    if pane_ms < symbol["dirty_from_ms"]:
        symbol["dirty_from_ms"] = pane_ms
    if symbol["is_dirty"] == 0:
        symbol["is_dirty"] = 1
        state.dirty[state.counts[0]] = s
        state.counts[0] += 1


@inlined
def _begin(symbol: Any, market: int) -> None:
    symbol["known"] = 1
    symbol["market"] = market
    symbol["max_ms"] = NEVER
    symbol["final_next_ms"] = -NEVER
    symbol["dirty_from_ms"] = -NEVER
    symbol["due_ms"] = -NEVER
    symbol["base_close"] = np.nan
    symbol["price"] = np.nan
    symbol["price_ms"] = NEVER
    symbol["line"] = np.nan
    symbol["line_pane_ms"] = NEVER
    symbol["volume_pane_ms"] = NEVER
    symbol["stretch"] = NEVER
    symbol["stretch_pane_ms"] = NEVER
    symbol["day"] = NEVER
    symbol["day_open"] = np.nan
    symbol["day_high"] = np.nan
    symbol["day_low"] = np.nan
    symbol["day_close"] = np.nan
    symbol["previous_close"] = np.nan


@inlined
def _finalise(state: State, s: int, clock: int, params: Params) -> None:
    """Mark the rows that the clock has passed for writing, so that they are written as final."""
    symbol = state.symbols[s]
    pane = symbol["final_next_ms"]
    if pane == -NEVER or pane + params.slide_ms > clock:
        return
    mark_dirty(state, s, pane)
    last = state.panes[s, symbol["panes"] - 1]["start_ms"]
    passed = clock - params.slide_ms
    passed -= passed % params.slide_ms
    symbol["final_next_ms"] = passed + params.slide_ms if passed < last else -NEVER


@inlined
def _pane_slot(state: State, s: int, pane_ms: int, params: Params, out: Output) -> int:
    """Slot of the trade's pane, opened if need be; what was remembered of changed panes is forgotten."""
    symbol = state.symbols[s]
    newest: int = symbol["panes"] - 1
    if newest >= 0 and state.panes[s, newest]["start_ms"] == pane_ms:
        mark_dirty(state, s, pane_ms)
        return newest
    symbol["line_pane_ms"] = NEVER
    symbol["volume_pane_ms"] = NEVER
    symbol["changes"] += 1
    i = find_pane(state, s, pane_ms)
    if i >= 0 and state.panes[s, i]["start_ms"] == pane_ms:
        mark_dirty(state, s, pane_ms)
        return i
    # Rows between the newest pane and this one begin to exist with it.
    since = state.panes[s, newest]["start_ms"] + params.slide_ms if newest >= 0 else pane_ms
    since = min(since, pane_ms)
    i = open_pane(state, s, i, pane_ms, params, out)
    mark_dirty(state, s, since)
    symbol["final_next_ms"] = min(symbol["final_next_ms"], since)
    market = state.markets[symbol["market"]]
    market["due_ms"] = min(market["due_ms"], since + params.slide_ms + params.delay_ms)
    return i


@inlined
def _set_price(state: State, s: int, i: int, row: int, time_ms: int, price: float, session: int, stretch: int,
               params: Params, out: Output) -> None:  # fmt: skip
    """A price-eligible trade that is the newest in event time: the current price, and perhaps a cross."""
    symbol = state.symbols[s]
    pane_ms = state.panes[s, i]["start_ms"]
    if stretch != symbol["stretch"]:
        symbol["stretch"] = stretch
        symbol["stretch_pane_ms"] = pane_ms
        forget(state, s, params)
    if symbol["line_pane_ms"] != pane_ms:
        symbol["line_pane_ms"] = pane_ms
        before = params.window_panes - 1
        symbol["line_sum"] = line_sum(state, s, pane_ms - params.slide_ms, before, params)
    line = (symbol["line_sum"] + price) / params.window_panes
    symbol["side"] = side_of(price, line, params.side_band, symbol["side"]) if line == line else 0
    for k in range(symbol["price_legs"]):
        watch(state, s, k, i, row, time_ms, session, price, line, params, out)
    symbol["price"] = price
    symbol["price_ms"] = time_ms
    symbol["line"] = line


@inlined
def _apply(state: State, s: int, row: int, time_ms: int, received_ns: int, price: float, size: float, flags: int,
           day: int, stretch: int, session: int, params: Params, days: Days, out: Output) -> None:  # fmt: skip
    """An on-time, eligible trade enters its pane."""
    symbol = state.symbols[s]
    i = _pane_slot(state, s, time_ms - time_ms % params.slide_ms, params, out)
    pane = state.panes[s, i]
    pane["records"] += 1
    cell = -1
    if symbol["deep"] > 0:
        cell = cell_of(days, symbol["market"], day, pane["start_ms"], params.slide_ms)
        end_day(state, s, day, time_ms)
    notional = price * (size / E8)
    count_day(symbol, day, session == REGULAR, flags, time_ms, price, size, notional)
    if symbol["deep"] > 0 and flags & VOLUME:
        note_volume(state, s, day, cell, size)
    if flags & HIGH_LOW:
        if not pane["high"] >= price:
            pane["high"] = price
        if not pane["low"] <= price:
            pane["low"] = price
    if flags & VOLUME:
        pane["volume_e8"] += size
        pane["notional"] += notional
        pane["trades"] += 1
        if symbol["volume_pane_ms"] != pane["start_ms"]:
            symbol["volume_pane_ms"] = pane["start_ms"]
            symbol["volume_limit"] = least_limit(state, s, i, day, cell, params)
        if pane["volume_e8"] > symbol["volume_limit"]:
            surge(state, s, i, row, time_ms, session, day, cell, price, params, out)
    if flags & PRICE:
        if pane["n"] == 0 or time_ms < pane["open_ms"]:
            pane["open"] = price
            pane["open_ms"] = time_ms
        if pane["n"] == 0 or time_ms >= pane["close_ms"]:
            pane["close"] = price
            pane["close_ms"] = time_ms
        pane["n"] += 1
        pane["sum_price"] += price
        if time_ms >= symbol["price_ms"]:
            symbol["price_received_ns"] = received_ns
            _set_price(state, s, i, row, time_ms, price, session, stretch, params, out)


@inlined
def _trade(state: State, s: int, market: int, row: int, time_ms: int, received_ns: int, price: float, size_e8: int,
           eligibility: int, params: Params, days: Days, out: Output) -> int:  # fmt: skip
    """Decide about one trade and apply it; return the decision."""
    symbol = state.symbols[s]
    if symbol["known"] == 0:
        _begin(symbol, market)
    if eligibility & UNKNOWN:
        symbol["unknown_conditions"] += 1
    if time_ms - params.future_ms > received_ns // 1_000_000:
        symbol["future"] += 1
        mark_dirty(state, s, -NEVER)
        count_quality(state, s, time_ms, FUTURE, False, out)
        return FUTURE
    pane_ms = time_ms - time_ms % params.slide_ms
    if pane_ms + params.slide_ms <= symbol["max_ms"] - params.delay_ms:
        symbol["late"] += 1
        mark_dirty(state, s, -NEVER)
        count_quality(state, s, time_ms, LATE, False, out)
        return LATE
    if time_ms > symbol["max_ms"]:
        symbol["max_ms"] = time_ms
        if time_ms - params.delay_ms >= symbol["final_next_ms"] + params.slide_ms:
            _finalise(state, s, time_ms - params.delay_ms, params)
    if time_ms >= symbol["due_ms"]:
        resolve(state, s, time_ms, row, params, out)
    day = day_of(days, market, time_ms, symbol["day"])
    regular = is_regular(days, market, day, time_ms)
    flags = (eligibility if regular else eligibility >> 3) & (PRICE | HIGH_LOW | VOLUME)
    count_quality(state, s, time_ms, APPLIED, flags & PRICE != 0, out)
    if flags == 0:
        symbol["ineligible"] += 1
        mark_dirty(state, s, -NEVER)
        return INELIGIBLE
    symbol["trades"] += 1
    stretch = stretch_of(days, market, day)
    session = REGULAR if regular else EXTENDED if day >= 0 else CLOSED
    _apply(state, s, row, time_ms, received_ns, price, float(size_e8), flags, day, stretch, session, params, days, out)
    return APPLIED


@compiled
def _tick(state: State, market: int, time_ms: int, row: int, used: int, params: Params, out: Output) -> None:
    """Time moves on for every symbol of the market."""
    clock = state.markets[market]
    if time_ms > clock["tick_ms"]:
        clock["tick_ms"] = time_ms
    if time_ms < clock["due_ms"]:
        return
    due = -NEVER
    for s in range(used):
        symbol = state.symbols[s]
        if symbol["known"] == 0 or symbol["market"] != market:
            continue
        if time_ms >= symbol["due_ms"]:
            resolve(state, s, time_ms, row, params, out)
        _finalise(state, s, max(symbol["max_ms"], clock["tick_ms"]) - params.delay_ms, params)
        due = min(due, symbol["due_ms"])
        if symbol["final_next_ms"] != -NEVER:
            due = min(due, symbol["final_next_ms"] + params.slide_ms + params.delay_ms)
    clock["due_ms"] = due


@inlined
def _has_room(out: Output, room: int) -> bool:
    """Whether ``room`` more rows of each table fit in ``out``, and one more minute."""
    if max(out.counts[WINDOWS], out.counts[BARS]) + room > len(out.windows):
        return False
    return bool(out.counts[QUALITY] + 1 <= len(out.quality))


@compiled
def forget_sides(state: State, market: int, used: int, params: Params) -> None:
    """After a gap longer than the window nobody knows on which side the prices are."""
    for s in range(used):
        if state.symbols[s]["known"] and state.symbols[s]["market"] == market:
            forget(state, s, params)


@compiled
def run(state: State, used: int, kind: NDArray[np.uint8], market: NDArray[np.uint8], symbol: NDArray[np.int32],
        time_ms: NDArray[np.int64], received_ns: NDArray[np.int64], price: NDArray[np.float64],
        size_e8: NDArray[np.int64], eligibility: NDArray[np.int64], params: Params, days: Days, out: Output,
        decisions: NDArray[np.uint8], start: int, room: int) -> int:  # fmt: skip
    """Run trades and ticks from row ``start``; stop before another record, or when ``out`` may have no room for one.

    Returns the row it stopped before, ``len(kind)`` at the end. ``room`` is how many rows of each table one trade
    can give. A record can decide each alert that waits, and make one of each leg.
    """
    legs = state.legs.shape[1]
    for row in range(start, len(kind)):
        if not _has_room(out, room):
            return row
        if out.counts[EVENTS] + state.counts[1] + legs > len(out.events):
            return row
        if kind[row] == _TRADE:
            decisions[row] = _trade(
                state, symbol[row], market[row], row, time_ms[row], received_ns[row], price[row], size_e8[row],
                eligibility[row], params, days, out,
            )  # fmt: skip
        elif kind[row] == _TICK:
            decisions[row] = NO_TRADE
            _tick(state, market[row], time_ms[row], row, used, params, out)
        else:
            return row
    return len(kind)


@compiled
def drain_rows(state: State, start: int, params: Params, out: Output, room: int) -> int:
    """Give what changed in dirty symbols from number ``start`` on, while there is room; return where it stopped."""
    for i in range(start, state.counts[0]):
        if max(out.counts[WINDOWS], out.counts[BARS]) + room > len(out.windows) or out.counts[QUALITY] + 1 > len(
            out.quality
        ):
            return i
        s = state.dirty[i]
        give_rows(state, s, params, out)
        give_quality(state, s, out)
        state.symbols[s]["is_dirty"] = 0
    done: int = state.counts[0]
    state.counts[0] = 0
    return done


@compiled
def give_latest(state: State, touched: NDArray[np.int32], params: Params, rows: NDArray[Any]) -> int:
    """The current price and the day of each touched symbol that has a price, into ``rows``; returns how many."""
    n = 0
    for s in touched:
        symbol = state.symbols[s]
        if symbol["price_ms"] == NEVER:
            continue
        row = rows[n]
        n += 1
        end = state.panes[s, symbol["panes"] - 1]["start_ms"]
        row["symbol"] = s
        row["market"] = symbol["market"]
        row["time_ms"] = symbol["price_ms"]
        row["received_ns"] = symbol["price_received_ns"]
        row["price"] = symbol["price"]
        row["ma_5min"] = line_sum(state, s, end, params.window_panes, params) / params.window_panes
        row["total_volume"] = window_volume_e8(state, s, end, params) / E8
        row["side"] = symbol["side"]
        row["day_open"] = symbol["day_open"]
        row["day_high"] = symbol["day_high"]
        row["day_low"] = symbol["day_low"]
        row["day_volume"] = symbol["day_volume_e8"] / E8
        row["previous_close"] = symbol["previous_close"]
        row["watermark_ms"] = symbol["max_ms"] - params.delay_ms
        row["trades"] = symbol["trades"]
        row["ineligible"] = symbol["ineligible"]
        row["late"] = symbol["late"]
        row["future"] = symbol["future"]
        row["unknown_conditions"] = symbol["unknown_conditions"]
    return n
