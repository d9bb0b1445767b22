"""Why a rule that compares two lines told nothing of a minute, or what it told. See `explanation.py`.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

from tapewatch.explanation_words import (
    WAYS,
    Minute,
    bps_of,
    known,
    lines_of,
    name_of,
    number,
    price,
    step_facts,
    value,
)
from tapewatch.oracle_alerts import AlertKey, AlertState, Leg
from tapewatch.oracle_trace import Entry, Step, TraceOracle
from tapewatch.rules.lines import LineKind

__all__ = ["cross_facts", "fired", "no_cross", "not_told"]


def fired(minute: Minute, leg: Leg, key: AlertKey, state: AlertState) -> str:
    """What became of an alert."""
    step = next(s for s in minute.trace.steps[leg.id] if s.outcome == "fired" and s.pane == key.pane)
    when = f"Fired at {minute.at(state.triggered)} {minute.mark}"
    if leg.direction == 0:
        text = f"{when}: the minute's volume reached {number(step.price)}, above the limit of {number(step.line)}."
        held, fell = "was above the limit at the end", "was not above the limit any more at the end"
    else:
        there, back, _ = WAYS[leg.direction]
        left, right = lines_of(leg)
        text = (
            f"{when}: {left} {value(leg, step.price)} came from {back} {right} {value(leg, step.line)} to {there} it "
            f"by {abs(bps_of(step.price, step.line)):.1f} bps (the band is {leg.definition.band_bps:g} bps)."
        )
        close = f"closed at {price(minute.trace.close(key.symbol, key.pane))}"
        its = "its average" if leg.right.kind is LineKind.AVERAGE else right
        held, fell = f"{close}, still {there} {its}", f"{close}, no longer {there} {its}"
        if leg.left.kind is not LineKind.PRICE:
            held, fell = f"ended with {left} still {there} {its}", f"ended with {left} no longer {there} {its}"
        if (bars := leg.definition.confirm_bars) > 1:
            held, fell = f"and {bars - 1} more {held}", f"or one of {bars - 1} more {fell}"
        if leg.definition.volume_multiple is not None:
            fell += f", or had less than {leg.definition.volume_multiple:g} times the mean volume of the 20 before"
    if state.status == "confirmed":
        return f"{text} Confirmed at {minute.at(state.decided)}: the minute {held}."
    if key in minute.trace.withdrawn:
        return f"{text} Retracted at {minute.at(state.decided)}: the rule was changed before the minute was decided."
    if state.status == "retracted":
        return f"{text} Retracted at {minute.at(state.decided)}: the minute {fell}."
    return f"{text} It is provisional until the minute has ended."


def not_told(minute: Minute, leg: Leg, step: Step) -> str | None:
    """Why a step that would have been an alert was none; None for any other step."""
    left, right = lines_of(leg)
    what = "The volume was above its limit"
    if leg.direction:
        what = f"{_cap(left)} crossed to {WAYS[leg.direction][0]}"
    at, rule = minute.at(step.time), leg.definition
    match step.outcome:
        case "cooling":
            alert = minute.trace.alerts[minute.trace.cooling[leg.id]]
            return (
                f"{what} at {at}, but within the cooldown of {rule.cooldown_ms / 60_000:g} min after the "
                f"alert of {minute.at(alert.triggered)} {minute.mark}, in which no second one is made."
            )
        case "again":  # only a pane of the minute before may have one: each pane tells its own
            return f"{_cap(left)} crossed at {at}, but this minute had its alert already."
        case "spent":
            return (
                f"{what} at {at}, but since the alert before, {left} had not come {rule.rearm_bps:g} bps back to the "
                f"other side of {right}: until then no second one is made."
            )
        case "over":
            return f"{what} at {at}, but the rule was over by then (expires)."
        case "new":
            return f"{what} at {at}, but the rule came in this minute: it may make alerts from the next one on."
        case "session":
            return f"{what} at {at}, but the rule is for another session ({rule.session})."
    return None


def no_cross(minute: Minute, leg: Leg) -> str:
    """Why nothing was told, of a minute in which prices decided."""
    trace, steps = minute.trace, minute.trace.steps[leg.id]
    for step in steps:
        if (why := not_told(minute, leg, step)) is not None:
            return why
    left, right = lines_of(leg)
    if not steps:
        return f"The rule {leg.rule} does not look at {trace.symbol}: it is none of its symbols."
    if all(step.line != step.line or step.price != step.price for step in steps):
        return _not_warm(minute, leg, steps[-1])
    entry, there, back = trace.entries[leg.id], *WAYS[leg.direction][:2]
    first = next((s for s in steps if s.outcome == "first"), None)
    if first is not None:
        return (
            f"{_cap(left)} went {there} {right} at {minute.at(first.time)} ({value(leg, first.price)} against "
            f"{value(leg, first.line)}), but on which side it had been was not known: {_unknown(minute, leg, entry)}. "
            "The first side that is decided is no cross."
        )
    if entry.side == leg.direction:
        text = f"{_cap(left)} was {there} {right} already, since {minute.at(entry.since)} {minute.mark}"
        gone = next((s for s in steps if s.after == -leg.direction), None)
        if gone is not None:
            return f"{text}; it went {back} it at {minute.at(gone.time)}, and did not come back in this minute."
        article = "an" if name_of(leg.rule)[0] == "a" else "a"
        return f"{text}: {article} {name_of(leg.rule)} needs {_a(left)} that comes from {back}."
    near = _nearest(trace, leg)
    assert near is not None, leg
    text = _distance(minute, leg, near)
    if entry.side == 0 and not any(s.after for s in steps):
        return f"The side was not known ({_unknown(minute, leg, entry)}), and no price left the band: {text}"
    return f"{_cap(left)} stayed {back} {right}, or within its band: {text}"


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


def _a(left: str) -> str:
    return "a price" if left == "the price" else left


def _not_warm(minute: Minute, leg: Leg, step: Step) -> str:
    if LineKind.AVERAGE not in (leg.left.kind, leg.right.kind):
        lines = [text for text, x in zip(lines_of(leg), (step.price, step.line), strict=True) if x != x]
        return (
            f"{_cap(' and '.join(lines))} had no value yet: {minute.trace.symbol} has not traded for long enough since "
            "the log, the rule or the day began."
        )
    closes = minute.trace.pane_closes(step.pane)
    lacking = [minute.clock(start) for start, close, _ in closes if close != close]
    which = lacking[0] if len(lacking) == 1 else f"{lacking[0]} to {lacking[-1]}"
    return (
        f"The average was not warm: it needs a close for each of its {len(closes)} minutes, and before "
        f"{minute.trace.symbol}'s first price there is none (lacking: {which})."
    )


def _unknown(minute: Minute, leg: Leg, entry: Entry) -> str:
    at = minute.at(entry.since)
    if entry.why == "closed":
        return "the market had been closed before"
    if entry.why == "gap":
        return f"a gap in the data, longer than the window, ended at {at}"
    if entry.why == "line":
        if LineKind.AVERAGE in (leg.left.kind, leg.right.kind):
            return f"the average was not warm before (the last time at {at})"
        return f"the lines had no value before (the last time at {at})"
    if entry.why == "rule":
        return f"the rule came at {at}"
    return "no price had left the band before"


def _nearest(trace: TraceOracle, leg: Leg) -> tuple[float, Step, float] | None:
    """Distance in bps from the band's edge, of the step that came nearest, and the edge."""
    up, band = leg.direction, leg.definition.band_bps / 1e4
    found = [
        (up * bps_of(edge, s.price), s, edge)
        for s in trace.steps[leg.id]
        if s.line == s.line and s.price == s.price
        for edge in (s.line * (1 + up * band if s.line >= 0 else 1 - up * band),)
    ]
    return min(found, key=lambda x: (x[0], x[1].time)) if found else None


def _distance(minute: Minute, leg: Leg, near: tuple[float, Step, float]) -> str:
    away, step, edge = near
    _, right = lines_of(leg)
    return (
        f"it came no nearer than {max(away, 0):.1f} bps to the band's {WAYS[leg.direction][2]} edge "
        f"({value(leg, step.price)} at {minute.at(step.time)} against {value(leg, edge)}, which is {right} "
        f"{value(leg, step.line)} {'plus' if leg.direction > 0 else 'minus'} {leg.definition.band_bps:g} bps)."
    )


def cross_facts(minute: Minute, leg: Leg) -> dict[str, Any]:
    """Plain JSON values; times in Unix ms end in ``_ms``."""
    trace, rule = minute.trace, leg.definition
    steps, near = trace.steps[leg.id], _nearest(trace, leg)
    entry = trace.entries.get(leg.id, Entry(0, 0, "new"))
    facts: dict[str, Any] = {
        "band_bps": rule.band_bps,
        "cooldown_ms": rule.cooldown_ms,
        "rearm_bps": rule.band_bps if rule.rearm_bps is None else rule.rearm_bps,
        "confirm_bars": rule.confirm_bars,
        "side_before": entry.side,
        "side_since_ms": entry.since or None,
        "side_why": entry.why,
        "side_after": steps[-1].after if steps else entry.side,
        "prices": len(steps),
        "lowest": _extreme(steps, min),
        "highest": _extreme(steps, max),
        "nearest": None,
    }
    if near is not None:
        facts["nearest"] = step_facts(near[1]) | {"edge": near[2], "bps": near[0]}
    if LineKind.AVERAGE not in (leg.left.kind, leg.right.kind):
        facts["lines"] = [text.removeprefix("the ") for text in lines_of(leg)]
    elif steps:
        closes = trace.pane_closes(steps[-1].pane)
        facts["window"] = [{"minute_ms": m, "close": known(c), "own": own} for m, c, own in closes]
    return facts


def _extreme(steps: list[Step], which: Any) -> dict[str, Any] | None:
    return step_facts(which(steps, key=lambda s: s.price)) if steps else None
