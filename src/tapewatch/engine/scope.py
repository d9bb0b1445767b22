"""Which machines (sides of rules) watch which symbols, and what the engine has to remember for them.

A symbol's legs are the machines that cover it, those that look at prices first. When the rules change, a machine that
is in both keeps what it knew; any other begins anew.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.engine.state import (
    LEGS_MAX,
    LINE,
    MACHINE,
    MARK,
    NEVER,
    PENDING,
    Days,
    Params,
    Shape,
    State,
    grown,
    open_panes,
    shape_of,
)
from tapewatch.rules.lines import Line, LineKind
from tapewatch.rules.machines import Machine
from tapewatch.rules.model import covers

Legs = tuple[int, ...]
SESSIONS: Final = {"any": 7, "regular": 1, "extended": 2}
FORGETFUL: Final = ("cross", "move", "threshold")
"""Kinds of rules that do not know their side after a closed market, or a gap longer than the window."""
_ENDLESS: Final = (LineKind.EMA, LineKind.RSI, LineKind.MACD)
_BARS: Final = (
    LineKind.SMA, LineKind.VWAP, LineKind.CLOSE, LineKind.HIGH, LineKind.LOW, LineKind.STOCHASTIC, LineKind.UPPER,
    LineKind.LOWER,
)  # fmt: skip
_DAYS: Final = (LineKind.SESSION_HIGH, LineKind.SESSION_LOW, LineKind.DAYS_HIGH, LineKind.DAYS_LOW)
_NO_LINE: Final = Line(LineKind.CONST)
DAY_MS: Final = 86_400_000


def machine_rows(
    machines: Sequence[Machine], since: Mapping[str, int], window_ms: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """`Params.machines` and `Params.lines`; ``since`` is `Remembered`'s: a window before a rule begins."""
    rows = np.zeros(len(machines), MACHINE)
    lines = np.zeros((len(machines), 3), LINE)
    for row, three, machine in zip(rows, lines, machines, strict=True):
        row["direction"] = machine.direction or 1
        row["is_plain"] = (machine.left.kind, machine.right.kind) == (LineKind.PRICE, LineKind.AVERAGE)
        row["forgets"] = machine.kind in FORGETFUL
        row["sessions"] = SESSIONS[machine.session]
        row["asks_volume"] = machine.gate is not None
        row["confirm_bars"] = machine.confirm_bars
        row["band"] = machine.band
        row["rearm"] = machine.rearm
        row["cooldown_ms"] = machine.cooldown_ms
        row["expires_ms"] = -NEVER if machine.expires_ms is None else machine.expires_ms
        row["since_ms"] = since.get(machine.rule, NEVER)
        row["begins_ms"] = since[machine.rule] + window_ms if machine.rule in since else NEVER
        for i, line in enumerate((machine.left, machine.right, machine.gate or _NO_LINE)):
            three[i] = tuple(line)
    return rows, lines


def shape_for(machines: Sequence[Machine], params: Params, days: Days) -> Shape:
    """What a symbol needs room for if all the machines cover it; without a row of what is older."""
    lines = [line for m in machines for line in (m.left, m.right, m.gate) if line is not None]

    def longest(*kinds: LineKind) -> int:
        return max((line.length for line in lines if line.kind in kinds), default=0)

    confirm_bars = max((m.confirm_bars for m in machines), default=1)
    opened = open_panes(params.slide_ms, params.delay_ms)
    same_days = longest(LineKind.VOLUME_SAME_TIME)
    return Shape(
        slots=max(params.window_panes, longest(LineKind.VOLUME_MEAN)) + opened + 1 + confirm_bars,
        legs=1,
        pending=max(opened, confirm_bars + 2),
        bases=int(any(line.kind in _ENDLESS for line in lines)),
        deep=0,
        bars=longest(*_BARS),
        ranges=longest(LineKind.DAYS_HIGH, LineKind.DAYS_LOW),
        same_days=same_days + 1 if same_days else 0,
        same_panes=_panes_a_day(days, params.slide_ms) if same_days else 0,
    )


def _panes_a_day(days: Days, slide_ms: int) -> int:
    longest: int = max([DAY_MS, *(days.day_close - days.day_open).tolist()])
    return -(-longest // slide_ms)


class Scope:
    """The machines of one set of rules, and the legs they come to."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = machines
        self._patterns = list(dict.fromkeys(m.symbols for m in machines if m.symbols))
        self._found: dict[tuple[bool, ...], Legs] = {}

    def legs_of(self, symbol: str) -> Legs:
        """The machines that cover the symbol and are not off, as rows of ``machines``; those for prices first."""
        inside = tuple(covers(patterns, symbol) for patterns in self._patterns)
        if (found := self._found.get(inside)) is None:
            known = {(): True} | dict(zip(self._patterns, inside, strict=True))
            mine = [i for i, machine in enumerate(self.machines) if machine.enabled and known[machine.symbols]]
            found = tuple(sorted(mine, key=lambda i: self.machines[i].direction == 0))
            assert len(found) <= LEGS_MAX, (symbol, len(found))
            self._found[inside] = found
        return found

    def looks_back(self, legs: Legs) -> bool:
        """Whether any of them needs what is older than a symbol's panes."""
        lines = [line for i in legs for line in (self.machines[i].left, self.machines[i].right)]
        return any(line.kind in (*_ENDLESS, *_BARS, *_DAYS, LineKind.VOLUME_SAME_TIME) for line in lines)


def moved(
    state: State, shape: Shape, before: Scope, old: Sequence[Legs], after: Scope, new: Sequence[Legs], first: int = 0
) -> State:
    """The state with the legs of symbol ``first`` changed from ``old[0]`` to ``new[0]``, and so on.

    What neither scope knew begins anew.
    """
    legs = max([state.legs.shape[1], *map(len, set(new))])
    looking = {legs for legs in set(new) if after.looks_back(legs)}
    have = state.symbols["deep"]
    known = have[first : first + len(new)].tolist() + [0] * (first + len(new) - len(have))
    lacking = sum(legs in looking and not row for legs, row in zip(new, known, strict=False)) if looking else 0
    deep = int(have.max(initial=0)) + lacking
    shape = shape._replace(
        legs=legs,
        bases=legs if shape.bases or state.bases.shape[1] else 0,
        deep=deep if deep <= state.deep.shape[0] else 2 * deep,
    )
    symbols = len(have) if first + len(new) <= len(have) else 2 * (first + len(new))
    if symbols > len(have) or shape.over(shape_of(state)) != shape_of(state):
        state = grown(state, symbols, shape)
    groups: dict[tuple[Legs, Legs], list[int]] = {}
    for s, both in enumerate(zip(old, new, strict=True), first):
        groups.setdefault(both, []).append(s)
    for (was, now), rows in groups.items():
        if before is not after or was != now:
            _move(state, np.array(rows), before, was, after, now)
    return state


def _move(state: State, rows: NDArray[np.int64], before: Scope, was: Legs, after: Scope, now: Legs) -> None:
    """Give the symbols ``rows``, which all had the same legs, their new ones."""
    known = {_key(before.machines[machine]): k for k, machine in enumerate(was)}
    if was:
        legs, marks, pending, bases = (part[rows] for part in (state.legs, state.marks, state.pending, state.bases))
        fired = state.panes["fired"][rows]
        state.legs[rows] = np.zeros((), legs.dtype)
        state.pending[rows] = _no_pending(pending)
        state.bases[rows] = np.zeros((), bases.dtype)
        state.caches[rows] = np.zeros((), state.caches.dtype)
        state.panes["fired"][rows] = 0
        state.symbols["volume_pane_ms"][rows] = NEVER
    fresh = _new_marks(state.symbols["known"][rows], state.symbols["day"][rows])
    for k, machine in enumerate(now):
        if (then := known.get(_key(after.machines[machine]))) is not None:
            state.legs[rows, k] = legs[:, then]
            state.marks[rows, k] = marks[:, then]
            state.pending[rows, k] = pending[:, then]
            if bases.shape[1]:
                state.bases[rows, k] = bases[:, then]
            state.panes["fired"][rows] |= (fired >> then & 1) << k
        else:
            state.marks[rows, k] = fresh
        state.legs["machine"][rows, k] = machine
    state.symbols["legs"][rows] = len(now)
    state.symbols["price_legs"][rows] = sum(after.machines[i].direction != 0 for i in now)
    if after.looks_back(now):
        deep = state.symbols["deep"]
        lacking = rows[deep[rows] == 0]
        deep[lacking] = int(deep.max()) + 1 + np.arange(len(lacking))


def _new_marks(known: NDArray[np.int8], day: NDArray[np.int64]) -> NDArray[Any]:
    """Of a leg that begins now: in the trading day each symbol is in, or the next one while its market is closed."""
    marks = np.zeros(len(day), MARK)
    marks["last_alert_ms"] = NEVER
    marks["since_day"] = np.where(day >= 0, day, -1 - day)
    marks["since_day"][(known == 0) | (day == NEVER)] = NEVER  # before its first trade
    marks["left"] = marks["right"] = np.nan
    return marks


def _key(machine: Machine) -> tuple[str, str, int]:
    return machine.rule, machine.version, machine.direction


def _no_pending(pending: NDArray[Any]) -> NDArray[Any]:
    empty = np.zeros_like(pending)
    empty["pane_ms"] = NEVER
    return empty


__all__ = ["PENDING", "Legs", "Scope", "machine_rows", "moved", "shape_for"]
