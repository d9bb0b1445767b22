"""What was noted about a minute, in one sentence and some facts for each rule. Times are told in the exchange's zone.

docs/explain.md says what each answer means.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any

from tapewatch.explanation_crosses import cross_facts, fired, no_cross
from tapewatch.explanation_volume import no_surge, volume_facts
from tapewatch.explanation_words import NAMES, Minute
from tapewatch.oracle_alerts import AlertKey, AlertState, Leg, legs_of
from tapewatch.rules.model import covers, kind_of

__all__ = ["Minute", "explain_rules"]


def explain_rules(minute: Minute) -> list[dict[str, Any]]:
    """For each direction of each rule: ``rule``, ``kind``, ``direction``, ``outcome``, ``alerts`` (keys of those it
    made), ``sentence``, ``facts``. Rules that do not look at the symbol are left out."""
    trace, nothing = minute.trace, _no_trades(minute)
    mine = [leg for leg in legs_of(trace.span_rules, trace.p.slide) if covers(leg.definition.symbols, trace.symbol)]
    return [_explained(minute, leg, nothing or (_nothing_prices(minute) if leg.direction else None)) for leg in mine]


def _explained(minute: Minute, leg: Leg, nothing: str | None) -> dict[str, Any]:
    made = {key: state for key, state in _alerts(minute) if (key.rule, key.direction) == leg.id}
    enabled = leg.definition.enabled
    facts = volume_facts(minute, leg) if leg.direction == 0 else cross_facts(minute, leg)
    key = minute.trace.cooling.get(leg.id)
    facts["cooled_by"] = key and {"pane_ms": key.pane, "triggered_ms": minute.trace.alerts[key].triggered}
    if made:
        sentence = " ".join(fired(minute, leg, key, state) for key, state in made.items())
    elif not enabled:
        sentence = f"The rule {leg.rule} is off: enabled = false in alerts.toml."
    elif nothing is not None:
        sentence = nothing
    else:
        sentence = no_surge(minute, leg) if leg.direction == 0 else no_cross(minute, leg)
    if minute.state == "running" and not made and enabled:
        sentence = f"Not yet: this minute is still running. {sentence}"
    return {
        "rule": leg.rule,
        "kind": leg.rule if leg.rule in NAMES else kind_of(leg.definition),
        "direction": leg.direction,
        "outcome": "fired" if made else "not fired" if enabled else "off",
        "alerts": list(made),
        "sentence": sentence,
        "facts": facts,
    }


def _alerts(minute: Minute) -> list[tuple[AlertKey, AlertState]]:
    span = minute.trace.span
    return [(key, state) for key, state in minute.trace.alerts.items() if span.start <= key.pane < span.stop]


# --- why nothing could be decided at all ---------------------------------------------------------------------------


def _no_trades(minute: Minute) -> str | None:
    """One sentence if the minute has no trade at all; None if it has."""
    trace = minute.trace
    if trace.trades:
        return None
    symbol, at = trace.symbol, f"{minute.clock(trace.span.start)} {minute.mark}"
    if minute.state == "future":
        reached = f"has come to {minute.at(trace.reached)} {minute.mark}" if trace.reached else "is empty"
        return f"This minute has not come yet: the log {reached}."
    if minute.kept_since is not None and trace.span.stop <= minute.kept_since:
        return f"Nothing is known of {at}: the log keeps records since {minute.at(minute.kept_since)} {minute.mark}."
    cut = [g for g in trace.gaps if g[0] < trace.span.stop and g[1] > trace.span.start]
    if cut:
        return (
            f"No data: the feed was cut from {minute.at(cut[0][0])} to {minute.at(cut[0][1])} {minute.mark}, and no "
            f"trade of {symbol} in this minute was received afterwards."
        )
    if minute.is_closed:
        return f"The market was closed at {at}, and {symbol} did not trade."
    if minute.first_trade is not None:
        return (
            f"{symbol} did not trade: its first trade in the log is of {minute.at(minute.first_trade)} {minute.mark}."
        )
    if not trace.span_ticks:
        return (
            f"No data: the log holds neither trades nor ticks of {at}: no feed was connected then, or Tapewatch did "
            "not run."
        )
    return f"No trades: the feed was connected, and {symbol} did not trade in this minute. Only a trade decides a rule."


def _nothing_prices(minute: Minute) -> str | None:
    """One sentence if no trade of the minute could set the price."""
    trace = minute.trace
    if trace.prices:
        return None
    counts = trace.counts()
    reasons = [
        (counts["unpriced"], "excluded by {its} conditions"),
        (counts["late"], "late: the minute was over by the symbol's watermark when {it} came"),
        (counts["future"], "stamped too far in the future"),
        (trace.stale, "older than the newest price when {it} came"),
    ]
    one, many = {"its": "its", "it": "it", "was": "was"}, {"its": "their", "it": "they", "was": "were"}
    parts = [f"{n} {{was}} {why}".format(**(one if n == 1 else many)) for n, why in reasons if n]
    total = len(trace.trades)
    which = "The one trade" if total == 1 else f"None of the {total} trades"
    verb = "did not decide" if total == 1 else "decided"
    return f"{which} of this minute {verb} a price: {', '.join(parts)}."
