"""A budget of alerts: quieter settings of the same rules that keep to it, and what they would have left untold.

    loudest rule ─► one step tighter ─► loudest rule ─► … until all together keep to the budget
    then every rule, most tightened first: one step back, as long as the budget holds

Three ways of tightening give three proposals. Only the number of alerts chooses, never what the price did afterwards:
on a few recorded days some setting looks good by chance. The same files, rules and budget give the same proposals.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tapewatch.errors import InputError
from tapewatch.profiles.backtest import Made, Outcome, Recording
from tapewatch.profiles.knobs import WAYS, Knob, knobs_of, ladder, told_as, turned

__all__ = ["Proposal", "propose", "read_budget"]

LATER_MS_MAX: Final = 3_600_000
"""An alert that comes at most this much later is the same one told later; after that the first one is lost."""
_BUDGET: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)/day")


def read_budget(text: str) -> float:
    """Alerts a day: of ``5/day`` 5.0.

    Raises:
        InputError: it is none.
    """
    found = _BUDGET.fullmatch(text.strip().lower())
    if found is None or not float(found[1]):
        raise InputError(f"--noise-budget {text}: expected alerts a day, such as 5/day or 0.5/day")
    return float(found[1])


@dataclass(frozen=True, slots=True)
class Proposal:
    """One way to fewer alerts. ``is_enough``: it keeps to the budget; else it is as quiet as this way can be."""

    way: str
    is_enough: bool
    before: list[Knob]
    after: list[Knob]
    outcome: Outcome
    kept: list[Made]
    """Told as before."""
    later: list[tuple[Made, Made]]
    """Told before, and told later now."""
    lost: list[Made]
    """Told before, and not now."""
    new: list[Made]
    """Told now, and not before: where it had been taken back, or another alert's cooldown had hidden it."""

    def fates(self) -> dict[str, str]:
        """By the id of each alert that was told: ``kept``, ``later`` or ``lost``."""
        words = {"kept": self.kept, "later": [old for old, _ in self.later], "lost": self.lost}
        return {one.alert.alert_id: word for word, some in words.items() for one in some}

    def toml(self) -> list[str]:
        """The lines for alerts.toml."""
        pairs = zip(self.after, self.before, strict=True)
        return [line for after, before in pairs for line in after.toml(before)]


def propose(recording: Recording, budget: float, usual: str) -> list[Proposal]:
    """A proposal for each of the `WAYS`; ``usual`` is the setting NOTIFY."""
    present = recording.present
    knobs = [k for k in knobs_of(present.rules) if told_as(present.rules[k.rule], usual) != "never"]
    limit = budget * len(recording.days)
    found = []
    for way in WAYS:
        search = _Search(recording, [ladder(knob, way) for knob in knobs])
        is_enough = search.tighten(limit)
        if is_enough:
            search.loosen(limit)
        after = search.knobs
        outcome = recording.run(turned(present.rules, after))
        found.append(Proposal(way, is_enough, knobs, after, outcome, *compare(present.told, outcome.told)))
    return found


class _Search:
    """Where each rule stands on its ladder. What a rule tells depends on its own numbers alone."""

    def __init__(self, recording: Recording, ladders: Sequence[Sequence[Knob]]) -> None:
        self._recording = recording
        self._ladders = ladders
        self._at = [0] * len(ladders)
        self._told: dict[Knob, int] = {}
        self._count(recording.present, [steps[0] for steps in ladders])

    @property
    def knobs(self) -> list[Knob]:
        """The rules as they stand."""
        return [steps[at] for steps, at in zip(self._ladders, self._at, strict=True)]

    def tighten(self, limit: float) -> bool:
        """Until no more than ``limit`` are told; False if that cannot be."""
        while self._total() > limit:
            rules = range(len(self._ladders))
            left = [i for i in rules if self._at[i] + 1 < len(self._ladders[i]) and self._number(i)]
            if not left:
                return False
            self._at[max(left, key=self._number)] += 1
        return True

    def loosen(self, limit: float) -> None:
        """Every rule as far back as the others leave room for."""
        for i in sorted(range(len(self._at)), key=lambda i: -self._at[i]):
            while self._at[i]:
                self._at[i] -= 1
                if self._total() > limit:
                    self._at[i] += 1
                    break

    def _total(self) -> int:
        return sum(map(self._number, range(len(self._ladders))))

    def _number(self, i: int) -> int:
        """How many the rule tells where it stands; one run tries the same step of all rules."""
        step = self._at[i]
        if self._ladders[i][step] not in self._told:
            knobs = [steps[min(step, len(steps) - 1)] for steps in self._ladders]
            self._count(self._recording.run(turned(self._recording.present.rules, knobs)), knobs)
        return self._told[self._ladders[i][step]]

    def _count(self, outcome: Outcome, knobs: Sequence[Knob]) -> None:
        told: dict[str, int] = defaultdict(int)
        for one in outcome.told:
            told[one.alert.rule] += 1
        for knob in knobs:
            self._told[knob] = told[knob.rule]


def compare(
    before: Sequence[Made], after: Sequence[Made]
) -> tuple[list[Made], list[tuple[Made, Made]], list[Made], list[Made]]:
    """What has become of the alerts told before: kept, told later, lost; and which are new. All by their time."""
    unmatched = defaultdict(list)
    for one in sorted(before, key=_moment):
        unmatched[_stream(one)].append(one)
    panes = {(_stream(one), one.alert.pane_start_ms) for one in after}
    kept = [one for one in before if (_stream(one), one.alert.pane_start_ms) in panes]
    for one in kept:
        unmatched[_stream(one)].remove(one)
    same = {(_stream(one), one.alert.pane_start_ms) for one in kept}
    later, new = [], []
    for one in sorted(after, key=_moment):
        if (_stream(one), one.alert.pane_start_ms) in same:
            continue
        earlier = [old for old in unmatched[_stream(one)] if 0 <= _moment(one) - _moment(old) <= LATER_MS_MAX]
        if earlier:
            later.append((earlier[-1], one))
            unmatched[_stream(one)].remove(earlier[-1])
        else:
            new.append(one)
    lost = [one for rest in unmatched.values() for one in rest]
    return sorted(kept, key=_moment), later, sorted(lost, key=_order), new


def _stream(one: Made) -> tuple[str, str, int]:
    return one.alert.rule, one.alert.symbol, one.alert.direction


def _moment(one: Made) -> int:
    assert one.told_ms is not None, "only told ones are compared"
    return one.told_ms


def _order(one: Made) -> tuple[int, str]:
    return _moment(one), one.alert.alert_id
