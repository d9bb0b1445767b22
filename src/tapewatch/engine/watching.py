"""What a trade is to a symbol's rules: the sides of their lines, and what it makes of their alerts.

    left line, right line ──► side ──► known, flipped to the rule's direction, and not spent? ──► fire
                                └───► spent, and back far enough on the old side? ──► it may fire again

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import numpy as np

from tapewatch.compiled import compiled, inlined
from tapewatch.engine.alerts import fire, is_back, volume_limit
from tapewatch.engine.crosses import side_of
from tapewatch.engine.lines import live
from tapewatch.engine.panes import E8
from tapewatch.engine.state import Output, Params, State

REGULAR, EXTENDED, CLOSED = 1, 2, 4
"""Bits of a machine's sessions."""


@inlined
def forget(state: State, s: int, params: Params) -> None:
    """Nobody knows any more on which side the price is."""
    symbol = state.symbols[s]
    symbol["side"] = 0
    for k in range(symbol["price_legs"]):
        if params.machines[state.legs[s, k]["machine"]]["forgets"]:
            state.legs[s, k]["side"] = 0
            state.legs[s, k]["spent"] = 0


@inlined
def watch(state: State, s: int, k: int, i: int, row: int, time_ms: int, session: int, price: float, average: float,
           params: Params, out: Output) -> None:  # fmt: skip
    """What the newest price is to leg ``k``: on which side its lines are now, and perhaps an alert."""
    leg = state.legs[s, k]
    machine = params.machines[leg["machine"]]
    if not machine["is_plain"]:
        _watch_lines(state, s, k, i, row, time_ms, session, price, average, params, out)
        return
    before = leg["side"]
    after = side_of(price, average, machine["band"], before) if average == average else 0
    if after != before or leg["spent"]:
        _turn(state, s, k, i, row, time_ms, session, price, price, average, after, params, out)


@compiled
def _watch_lines(state: State, s: int, k: int, i: int, row: int, time_ms: int, session: int, price: float,
                  average: float, params: Params, out: Output) -> None:  # fmt: skip
    """The same for any lines."""
    leg = state.legs[s, k]
    left = live(state, s, k, 0, i, price, average, params)
    right = live(state, s, k, 1, i, price, average, params)
    before = leg["side"]
    band = params.machines[leg["machine"]]["band"]
    after = side_of(left, right, band, before) if left == left and right == right else 0
    if after != before or leg["spent"]:
        _turn(state, s, k, i, row, time_ms, session, price, left, right, after, params, out)
    state.marks[s, k]["left"] = left
    state.marks[s, k]["right"] = right


@compiled
def _turn(state: State, s: int, k: int, i: int, row: int, time_ms: int, session: int, price: float, left: float,
           right: float, after: int, params: Params, out: Output) -> None:  # fmt: skip
    """Leg ``k`` is on the side ``after`` now: another one, or it has made an alert and may make one again."""
    leg = state.legs[s, k]
    machine = params.machines[leg["machine"]]
    before = leg["side"]
    leg["side"] = after
    direction = machine["direction"]
    if leg["spent"] and (after == 0 or is_back(left, right, machine["rearm"], direction)):
        leg["spent"] = 0
    if (
        after == direction and before == -direction and not leg["spent"]
        and fire(state, s, k, i, row, time_ms, session, price, left, right, params, out)
    ):  # fmt: skip
        leg["spent"] = 1


@inlined
def least_limit(state: State, s: int, i: int, day: int, cell: int, params: Params) -> float:
    """Volume (in 1e-8) above which the pane in slot ``i`` is a surge to one of the symbol's legs."""
    least = np.inf
    symbol = state.symbols[s]
    for k in range(symbol["price_legs"], symbol["legs"]):
        least = min(least, volume_limit(state, s, k, 1, i, day, cell, params))
    return least


@compiled
def surge(state: State, s: int, i: int, row: int, time_ms: int, session: int, day: int, cell: int, price: float,
          params: Params, out: Output) -> None:  # fmt: skip
    """The volume of the pane in slot ``i`` is above the least limit of the symbol's legs."""
    symbol = state.symbols[s]
    pane = state.panes[s, i]
    for k in range(symbol["price_legs"], symbol["legs"]):
        if pane["fired"] & (1 << k):
            continue
        limit = volume_limit(state, s, k, 1, i, day, cell, params)
        if pane["volume_e8"] > limit:
            now = pane["volume_e8"] / E8
            fire(state, s, k, i, row, time_ms, session, price, now, limit / E8, params, out)
