"""Why a volume rule told nothing of a minute. See `explanation.py`.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

from tapewatch.explanation_crosses import not_told
from tapewatch.explanation_words import Minute, known, number
from tapewatch.oracle_alerts import Leg
from tapewatch.oracle_trace import Step

__all__ = ["no_surge", "volume_facts"]


def no_surge(minute: Minute, leg: Leg) -> str:
    trace = minute.trace
    steps = trace.steps[leg.id]
    if not steps:
        counts = trace.counts()
        parts = [f"{counts[name]} {name}" for name in ("applied", "ineligible", "late", "future") if counts[name]]
        return f"No trade of this minute counts for the volume ({', '.join(parts)})."
    for step in steps:
        if (why := not_told(minute, leg, step)) is not None:
            return why
    rule, last = leg.definition, steps[-1]
    if rule.days is not None:
        return _no_surge_by_time(leg, last)
    before = trace.volumes_before(leg, last.pane)
    if len(before) < rule.panes_min and rule.absolute is None:
        return (
            f"Too little to compare with: {len(before)} minutes with trades before this one, and the rule needs "
            f"{rule.panes_min}. The volume was {number(last.price)}."
        )
    if last.line == float("inf"):
        return f"There is no limit: the minutes before had no volume. The volume was {number(last.price)}."
    mean = sum(v for _, v in before) / len(before) if before else 0.0
    limit = f"{rule.multiple:g} times the mean {number(mean)} of the {len(before)} minutes with trades before"
    if rule.absolute is not None and last.line == rule.absolute:
        limit = "the absolute limit of the rule"
    return f"The volume {number(last.price)} did not come above {number(last.line)}, which is {limit}."


def volume_facts(minute: Minute, leg: Leg) -> dict[str, Any]:
    trace, rule = minute.trace, leg.definition
    steps = trace.steps[leg.id]
    pane = steps[-1].pane if steps else trace.span.start
    before = trace.volumes_before(leg, pane)
    limit = steps[-1].line if steps else float("nan")
    return {
        "volume": steps[-1].price if steps else 0.0,
        "limit": known(limit),
        "multiple": rule.multiple,
        "absolute": rule.absolute,
        "panes_min": rule.panes_min,
        "cooldown_ms": rule.cooldown_ms,
        "days": rule.days,
        "mean": sum(v for _, v in before) / len(before) if before else None,
        "before": [{"minute_ms": m, "volume": v} for m, v in before],
    }


def _no_surge_by_time(leg: Leg, last: Step) -> str:
    """The same, where the pane is compared with this time on other days."""
    rule = leg.definition
    if last.line == float("inf"):
        return (
            f"Too little to compare with: fewer than {min(rule.days_min, rule.days)} of the {rule.days} trading days "
            f"before had a volume at this time. The volume was {number(last.price)}."
        )
    limit = f"{rule.multiple:g} times the mean at this time on up to {rule.days} trading days before"
    if rule.absolute is not None and last.line == rule.absolute:
        limit = "the absolute limit of the rule"
    return f"The volume {number(last.price)} did not come above {number(last.line)}, which is {limit}."
