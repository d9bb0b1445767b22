"""The two numbers of a rule that make it quieter: its size (band, multiple or percent) and its cooldown.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

import msgspec

from tapewatch.rules.model import MoveRule, Rule, Rules, SystemRule, VolumeRule
from tapewatch.settings import duration_text

__all__ = ["WAYS", "Knob", "knobs_of", "ladder", "told_as", "turned"]

BANDS_BPS: Final = (1, 2, 3, 4, 5, 7.5, 10, 12.5, 15, 20, 25, 30, 40, 50, 60, 75, 100, 125, 150, 200, 300, 500, 1_000)
TIMES: Final = (1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12.5, 15, 20, 25, 30, 40, 50, 75, 100)
"""A multiple or a percentage becomes so many times what it is."""
TIMES_MAX: Final = 1_000.0
COOLDOWNS_MIN: Final = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1_440)
WAYS: Final = {
    "both": "greater moves and longer cooldowns, in turn",
    "size": "greater moves alone",
    "cooldown": "longer cooldowns alone",
}


@dataclass(frozen=True, slots=True)
class Knob:
    """Of one rule. ``size`` is the number that alerts.toml calls ``size_name``: the greater, the fewer alerts."""

    rule: str
    size_name: str
    size: float
    cooldown_ms: int

    def toml(self, before: Knob) -> list[str]:
        """The lines for alerts.toml that differ from ``before``, each with what it was."""
        lines = []
        if self.size != before.size:
            lines.append(f"{self.size_name} = {self.size:g}  # was {before.size:g}")
        if self.cooldown_ms != before.cooldown_ms:
            was = duration_text(before.cooldown_ms)
            lines.append(f'cooldown = "{duration_text(self.cooldown_ms)}"  # was "{was}"')
        return [f"[{self.rule}]", *lines] if lines else []


def knobs_of(rules: Rules) -> Iterator[Knob]:
    """Those of every rule that looks at the market, in the order of the set."""
    for name, rule in rules.items():
        if not isinstance(rule, SystemRule):
            size_name = _size_name(rule)
            yield Knob(name, size_name, getattr(rule, size_name), rule.cooldown_ms)


def turned(rules: Rules, knobs: Iterable[Knob]) -> Rules:
    """The same rules with these numbers."""
    changed: dict[str, Any] = {
        k.rule: msgspec.structs.replace(rules[k.rule], **{k.size_name: k.size, "cooldown_ms": k.cooldown_ms})
        for k in knobs
    }
    return rules.changed(**changed)


def told_as(rule: Rule, usual: str) -> str:
    """When the rule's alerts are told: ``confirmed``, ``provisional`` or ``never``; ``usual`` is the setting NOTIFY."""
    return (rule.notify or usual) if rule.enabled else "never"


def ladder(knob: Knob, way: str) -> list[Knob]:
    """The knob as it is, and ever tighter in one of the `WAYS`."""
    sizes, cooldowns = _sizes(knob), _cooldowns(knob)
    if way == "size":
        pairs = [(size, knob.cooldown_ms) for size in sizes]
    elif way == "cooldown":
        pairs = [(knob.size, cooldown) for cooldown in cooldowns]
    else:
        sizes += sizes[-1:] * (len(cooldowns) - len(sizes))
        cooldowns += cooldowns[-1:] * (len(sizes) - len(cooldowns))
        steps = list(zip(sizes, cooldowns, strict=True))
        turns = ([(step[0], before[1]), step] for before, step in zip(steps, islice(steps, 1, None), strict=False))
        pairs = list(dict.fromkeys([steps[0], *chain.from_iterable(turns)]))
    return [Knob(knob.rule, knob.size_name, size, cooldown) for size, cooldown in pairs]


def _size_name(rule: Rule) -> str:
    if isinstance(rule, VolumeRule):
        return "multiple"
    return "percent" if isinstance(rule, MoveRule) else "band_bps"


def _sizes(knob: Knob) -> list[float]:
    if knob.size_name == "band_bps":
        return [knob.size, *(float(band) for band in BANDS_BPS if band > knob.size)]
    greater = (float(f"{knob.size * times:.3g}") for times in TIMES)
    return [knob.size, *dict.fromkeys(size for size in greater if knob.size < size <= TIMES_MAX)]


def _cooldowns(knob: Knob) -> list[int]:
    return [knob.cooldown_ms, *(m * 60_000 for m in COOLDOWNS_MIN if m * 60_000 > knob.cooldown_ms)]
