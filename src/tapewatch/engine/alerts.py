"""The life of an alert inside the kernel: provisional the moment a rule fires, confirmed or retracted at pane end.

    _____ pane _____|_ CONFIRM_DELAY _|
       ▲ fire                         ▲ resolve, at the symbol's own trade or a tick

A rule that asks for more closes than one is decided at the first that is not on the new side, or at the last of them.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.bars import find_pane
from tapewatch.engine.crosses import side_of
from tapewatch.engine.days import same_time
from tapewatch.engine.lines import at_close
from tapewatch.engine.panes import E8
from tapewatch.engine.state import EVENTS, NEVER, Output, Params, State
from tapewatch.rules.lines import LineKind

PROVISIONAL, CONFIRMED, RETRACTED = 0, 1, 2
GATE = 2
"""Column of `Params.lines`."""
SAME_TIME = int(LineKind.VOLUME_SAME_TIME)


@compiled
def _event(
    state: State, s: int, machine: int, status: int, row: int, now_ms: int, slot: Any, params: Params, out: Output
) -> Any:
    """A new alert event from the pending ``slot``, with the quality of its window; the caller fills the rest."""
    event = out.events[out.counts[EVENTS]]
    out.counts[EVENTS] += 1
    event["symbol"] = s
    event["machine"] = machine
    event["status"] = status
    event["row"] = row
    event["pane_ms"] = slot["pane_ms"]
    event["triggered_ms"] = slot["triggered_ms"]
    event["decided_ms"] = now_ms
    event["price"] = slot["price"]
    event["line"] = slot["line"]
    event["price_before"] = np.nan
    event["line_before"] = np.nan
    event["window_trades"] = 0
    event["window_excluded"] = 0
    i = find_pane(state, s, slot["pane_ms"])
    oldest = slot["pane_ms"] - (params.window_panes - 1) * params.slide_ms
    while i >= 0 and state.panes[s, i]["start_ms"] >= oldest:
        event["window_trades"] += state.panes[s, i]["records"]
        event["window_excluded"] += state.panes[s, i]["records"] - state.panes[s, i]["n"]
        i -= 1
    return event


@compiled
def fire(
    state: State, s: int, k: int, i: int, row: int, time_ms: int, session: int, price: float, left: float, right: float,
    params: Params, out: Output,
) -> bool:  # fmt: skip
    """Make a provisional alert of leg ``k`` in the pane of slot ``i``; False when the rule is cooling, over, too new,
    not for this ``session``, or has made one there."""
    symbol = state.symbols[s]
    pane = state.panes[s, i]
    mark = state.marks[s, k]
    number = state.legs[s, k]["machine"]
    machine = params.machines[number]
    bit = 1 << k
    if pane["fired"] & bit or not machine["sessions"] & session:
        return False
    last = mark["last_alert_ms"]
    if machine["cooldown_ms"] > 0 and time_ms - last < machine["cooldown_ms"]:
        return False
    is_new = pane["start_ms"] < machine["begins_ms"] and mark["since_day"] != NEVER
    if is_new or time_ms >= machine["expires_ms"]:
        return False
    slot = state.pending[s, k, 0]
    for place in range(state.pending.shape[2]):
        slot = state.pending[s, k, place]
        if slot["pane_ms"] == NEVER:
            break
    pane["fired"] |= bit
    mark["last_alert_ms"] = max(last, time_ms)
    state.counts[1] += slot["pane_ms"] == NEVER
    due = pane["start_ms"] + params.slide_ms + params.confirm_ms
    slot["pane_ms"] = pane["start_ms"]
    slot["closes"] = 0
    slot["triggered_ms"] = time_ms
    slot["price"] = price
    slot["left"] = left
    slot["line"] = right
    symbol["due_ms"] = min(symbol["due_ms"], due)
    market = state.markets[symbol["market"]]
    market["due_ms"] = min(market["due_ms"], due)
    event = _event(state, s, number, PROVISIONAL, row, time_ms, slot, params, out)
    if machine["is_plain"] or k >= symbol["price_legs"]:
        event["price_before"] = symbol["price"]
        event["line_before"] = symbol["line"]
    else:
        event["price_before"] = mark["left"]
        event["line_before"] = mark["right"]
    event["price_now"] = left
    event["line_now"] = right
    return True


@compiled
def resolve(state: State, s: int, now_ms: int, row: int, params: Params, out: Output) -> None:
    """Confirm or retract every provisional alert whose panes have ended long enough before ``now_ms``."""
    symbol = state.symbols[s]
    next_due = -NEVER
    for k in range(symbol["legs"]):
        for place in range(state.pending.shape[2]):
            slot = state.pending[s, k, place]
            while slot["pane_ms"] != NEVER:
                due = slot["pane_ms"] + (slot["closes"] + 1) * params.slide_ms + params.confirm_ms
                if now_ms < due:
                    next_due = min(next_due, due)
                    break
                _decide(state, s, k, slot, now_ms, row, params, out)
    symbol["due_ms"] = next_due


@compiled
def _decide(state: State, s: int, k: int, slot: Any, now_ms: int, row: int, params: Params, out: Output) -> None:
    """The next close of the alert's: it is retracted, confirmed, or waits for another one."""
    number = state.legs[s, k]["machine"]
    machine = params.machines[number]
    if k < state.symbols[s]["price_legs"]:
        pane_ms = slot["pane_ms"] + slot["closes"] * params.slide_ms
        left = at_close(state, s, k, 0, pane_ms, slot, params)
        right = at_close(state, s, k, 1, pane_ms, slot, params)
        held = left == left and side_of(left, right, machine["band"], machine["direction"]) == machine["direction"]
        held = held and right == right
        if machine["asks_volume"] and slot["closes"] == 0:
            i = find_pane(state, s, slot["pane_ms"])
            held = held and state.panes[s, i]["volume_e8"] > volume_limit(state, s, k, GATE, i, 0, -1, params)
        slot["closes"] += 1
    else:
        i = find_pane(state, s, slot["pane_ms"])
        left = state.panes[s, i]["volume_e8"] / E8
        right = slot["line"]
        if params.lines[number, 1]["kind"] != SAME_TIME:
            right = volume_limit(state, s, k, 1, i, 0, -1, params) / E8
        held = left > right
        slot["closes"] = machine["confirm_bars"]
    if held and slot["closes"] < machine["confirm_bars"]:
        return
    event = _event(state, s, number, CONFIRMED if held else RETRACTED, row, now_ms, slot, params, out)
    event["price_now"] = left
    event["line_now"] = right
    slot["pane_ms"] = NEVER
    state.counts[1] -= 1


@compiled
def withdraw(
    state: State, gone: NDArray[np.bool_], used: int, now_ms: int, row: int, params: Params, out: Output
) -> None:
    """Retract what waits of the machines that are ``gone``: their rules are no more what they were."""
    for s in range(used):
        for k in range(state.symbols[s]["legs"]):
            machine = state.legs[s, k]["machine"]
            for place in range(state.pending.shape[2]):
                slot = state.pending[s, k, place]
                if slot["pane_ms"] != NEVER and gone[machine]:
                    event = _event(state, s, machine, RETRACTED, row, now_ms, slot, params, out)
                    event["price_now"] = np.nan
                    event["line_now"] = np.nan
                    slot["pane_ms"] = NEVER
                    state.counts[1] -= 1


@inlined
def volume_limit(state: State, s: int, k: int, which: int, slot: int, day: int, cell: int, params: Params) -> float:
    """Volume (in 1e-8) above which the pane in ``slot`` is a surge; infinity while nothing can be said."""
    line = params.lines[state.legs[s, k]["machine"], which]
    limit: float = line["value"] * E8
    total = 0.0
    seen = 0
    if line["kind"] == SAME_TIME:
        total, seen = same_time(state, s, state.marks[s, k]["since_day"], day, cell, line["length"])
    else:
        i = slot - 1
        while i >= 0 and seen < line["length"]:
            if state.panes[s, i]["trades"] > 0:
                total += state.panes[s, i]["volume_e8"]
                seen += 1
            i -= 1
    if seen >= line["length2"] and total > 0.0:
        limit = min(limit, line["factor"] * (total / seen))
    return limit


@inlined
def is_back(left: float, right: float, rearm: float, direction: int) -> bool:
    """Whether a spent leg may fire again: its left line is as far back on the old side as it has to be."""
    return side_of(left, right, rearm, 0) == -direction
