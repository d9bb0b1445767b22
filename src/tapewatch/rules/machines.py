"""The one form in which the engine runs a market rule: a left line against a right one, with its conditions.

    cross        left        against right
    level        price       against a number
    move         price       against close(n) × (1 ± percent)
    extreme      price       against high/low of the session, of panes, of days
    threshold    indicator   against a number
    volume       volume      against volume_mean or volume_same_time        (only above; direction of its alerts 0)

A rule with ``direction = "either"`` is two machines. `system` rules are none.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tapewatch.errors import SettingsError
from tapewatch.rules.lines import Line, LineKind, line_of
from tapewatch.rules.model import (
    CrossRule,
    ExtremeRule,
    LevelRule,
    MoveRule,
    Rule,
    Rules,
    Session,
    SystemRule,
    ThresholdRule,
    VolumeRule,
    kind_of,
)
from tapewatch.settings import duration_text

__all__ = ["Machine", "machines_of"]

_GATE_PANES, _GATE_PANES_MIN = 20, 5


class Machine(NamedTuple):
    """One side of one rule, in the kernel's numbers. Bands are fractions of the right line."""

    rule: str
    version: str
    kind: str
    direction: int
    """Of its alerts: +1 above, -1 below, 0 for volume (which is above)."""
    enabled: bool
    left: Line
    right: Line
    band: float
    rearm: float
    confirm_bars: int
    gate: Line | None
    """The pane's volume must be above this too."""
    cooldown_ms: int
    session: Session
    expires_ms: int | None
    symbols: tuple[str, ...]


def machines_of(rules: Rules, *, slide_ms: int) -> list[Machine]:
    """Every market rule's machines, in the order of the rules; rules that are off too.

    Raises:
        SettingsError: a rule's time is no whole number of panes.
    """
    return [machine for name, rule in rules.items() for machine in _machines(name, rule, rules.version(name), slide_ms)]


def _machines(name: str, rule: Rule, version: str, slide_ms: int) -> list[Machine]:
    if isinstance(rule, SystemRule):
        return []
    if isinstance(rule, VolumeRule):
        limit = math.inf if rule.absolute is None else rule.absolute
        right = (
            Line(LineKind.VOLUME_MEAN, rule.panes, rule.panes_min, rule.multiple, limit)
            if rule.days is None
            else Line(LineKind.VOLUME_SAME_TIME, rule.days, min(rule.days_min, rule.days), rule.multiple, limit)
        )
        return [
            Machine(
                name, version, kind_of(rule), 0, rule.enabled, Line(LineKind.VOLUME), right, 0.0, 0.0, 1, None,
                rule.cooldown_ms, rule.session, rule.expires_ms, rule.symbols,
            )
        ]  # fmt: skip
    band = rule.band_bps / 1e4
    rearm = band if rule.rearm_bps is None else rule.rearm_bps / 1e4
    gate = None
    if rule.volume_multiple is not None:
        gate = Line(LineKind.VOLUME_MEAN, _GATE_PANES, _GATE_PANES_MIN, rule.volume_multiple)
    return [
        Machine(
            name, version, kind_of(rule), direction, rule.enabled, *_lines(name, rule, direction, slide_ms), band,
            rearm, rule.confirm_bars, gate, rule.cooldown_ms, rule.session, rule.expires_ms, rule.symbols,
        )
        for direction in {"above": (1,), "below": (-1,), "either": (1, -1)}[rule.direction]
    ]  # fmt: skip


def _lines(
    name: str, rule: CrossRule | LevelRule | MoveRule | ExtremeRule | ThresholdRule, direction: int, slide_ms: int
) -> tuple[Line, Line]:
    price = Line(LineKind.PRICE)
    match rule:
        case CrossRule():
            return line_of(rule.left), line_of(rule.right)
        case LevelRule():
            return price, Line(LineKind.CONST, value=rule.level)
        case ThresholdRule():
            return line_of(rule.indicator), Line(LineKind.CONST, value=rule.value)
        case MoveRule():
            if rule.within_ms % slide_ms:
                raise SettingsError(
                    f'[{name}] within = "{duration_text(rule.within_ms)}": expected a whole number of '
                    f"SLIDE_DURATION={duration_text(slide_ms)}"
                )
            factor = 1 + direction * rule.percent / 100
            return price, Line(LineKind.CLOSE, rule.within_ms // slide_ms, factor=factor)
        case ExtremeRule():
            side = "high" if direction > 0 else "low"
            return price, line_of(side if rule.of == "session" else f"{side}({rule.of})")
