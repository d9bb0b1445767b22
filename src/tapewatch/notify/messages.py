"""What a message says: its sentence, title, severity and incident, from the plain values of its payload.

    made with the alert        what, symbol, price, line, time in New York, path of the evidence
    added when let through     grade of the data, how late, link to the evidence

    incident    golden_cross:AAPL:above      one thing that is so, until the opposite cross, a retraction or its expiry
    resolves    death_cross:AAPL:below       those that are over with it

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from tapewatch.records import Origin

__all__ = [
    "Payload",
    "digest_payload",
    "finished",
    "incident_of",
    "new_york",
    "opposites",
    "sentence",
    "severity_of",
    "title",
]

Payload = dict[str, Any]
Severity = Literal["info", "warning", "critical"]

NEW_YORK: Final = ZoneInfo("America/New_York")
LISTED_MAX: Final = 50
"""Alerts that one digest lists; it counts them all."""
_PAIRS: Final = {"golden_cross": "death_cross", "death_cross": "golden_cross"}
_FIRST_KINDS: Final = frozenset(("golden_cross", "death_cross", "high_volume"))
_GRADES: Final = {
    "A": "no gap, and hardly a late trade",
    "B": "no gap, more than 1 % late",
    "C": "a gap of under 10 s",
    "D": "a gap of 10 s or more",
}


def new_york(ms: float) -> str:
    """``2024-01-02 10:31:05 in New York``."""
    return f"{datetime.fromtimestamp(ms / 1_000, UTC).astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} in New York"


def name_of(payload: Mapping[str, Any]) -> str:
    """What the alert is called: ``golden cross``; of rules that a person wrote, the rule's own name."""
    kind = str(payload.get("kind") or "")
    return (kind if kind in _FIRST_KINDS else str(payload.get("rule") or kind)).replace("_", " ")


def title(payload: Mapping[str, Any]) -> str:
    """One short line: ``AAPL golden cross confirmed``, with the origin in front where it is no live data."""
    return f"{_origin(payload)}{payload['symbol']} {name_of(payload)} {payload['status']}"


def sentence(payload: Mapping[str, Any]) -> str:
    """The whole message as one sentence, and what was added when it was let through as a second one."""
    said = f"{title(payload)}: {_what(payload)}, {new_york(payload['triggered_ms'])}."
    if payload.get("grade"):
        said += f" Data of grade {payload['grade']} ({_GRADES[payload['grade']]})"
        late_s = payload.get("late_s")
        said += f", {late_s:,.1f} s after it was decided." if late_s is not None else "."
    if payload.get("words"):
        said += f" {payload['words']}"
    return said


def _what(payload: Mapping[str, Any]) -> str:
    price, line, value = payload["price"], payload["line"], payload["value"]
    left, right = payload["left"], payload["right"]
    at = f"{price:.10g}" if price is not None else "an unknown price"
    if payload["is_volume"]:
        return f"volume above {line:,.10g} at a price of {at}" if line is not None else f"high volume at {at}"
    subject = at if left == "price" else f"{left} of {value:.10g}" if value is not None else left
    if line is None:
        return f"price {at}" if left == "price" else subject
    number = f"{line:.10g}"
    limit = (
        f"the average of {number}" if right == "average" else number if _is_number(right) else f"{right} of {number}"
    )
    bps = payload["difference_bps"]
    if bps is None:
        return f"{subject} is {payload['direction'] or 'at'} {limit}"
    return f"{subject} is {abs(bps):.1f} bps {'above' if bps >= 0 else 'below'} {limit}"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def finished(payload: Payload, *, grade: str | None, late_s: float | None, link: str) -> Payload:
    """The payload as it is sent: with grade, lateness and an absolute link, and the sentence that says so."""
    done = payload | {"grade": grade, "late_s": None if late_s is None else round(max(0.0, late_s), 1)}
    if link and payload.get("alert_id"):
        done["url"] = f"{link.rstrip('/')}/#/alerts/{payload['alert_id']}"
    return done | {"text": sentence(done)}


def severity_of(status: str, *, is_volume: bool) -> Severity:
    """A confirmed cross is a warning; what may go away again, or is only much, is information."""
    return "warning" if status == "confirmed" and not is_volume else "info"


def incident_of(rule: str, symbol: str, direction: str | None) -> str | None:
    """The stable key of what is so; None where a part is missing, or it is over in the moment that it is told."""
    return f"{rule}:{symbol}:{direction}" if rule and symbol and direction else None


def opposites(rule: str, symbol: str, direction: str | None) -> list[str]:
    """The incidents that this one ends: the other side of the same rule, or the other cross of the pair."""
    if not direction:
        return []
    other = "below" if direction == "above" else "above"
    found = incident_of(_PAIRS.get(rule, rule), symbol, other)
    return [found] if found else []


# --- several in one ---------------------------------------------------------------------------------------------


def digest_payload(folded: Sequence[Payload], *, key: str, event: str, why: str, link: str, origin: str) -> Payload:
    """One message in place of many: how many, of what, the last ones in full. ``folded`` is in order of time."""
    assert folded
    last = folded[-1]
    counts = Counter((str(p["symbol"]), name_of(p)) for p in folded)
    top = ", ".join(f"{symbol} {name}{f' {n} times' if n > 1 else ''}" for (symbol, name), n in counts.most_common(10))
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    prefix = "" if origin == Origin.LIVE else f"{origin}: "
    if event == "burst":
        head = f"{prefix}{last['symbol']} {name_of(last)} {_times(len(folded))} more"
        text = f"{head}, last {_what(last)}, {new_york(last['triggered_ms'])}."
    else:
        head = f"{prefix}{len(folded)} alert{'s' if len(folded) > 1 else ''} {why}"
        text = f"{head}: {top}{more}. The last: {last['symbol']} {name_of(last)}, {new_york(last['triggered_ms'])}."
    return {
        "id": key,
        "alert_id": key,
        "kind": event,
        "symbol": last["symbol"] if event == "burst" else "",
        "rule": last["rule"] if event == "burst" else "",
        "status": event,
        "count": len(folded),
        "alerts": [
            {name: p[name] for name in ("alert_id", "rule", "kind", "symbol", "status", "direction", "price", "time")}
            for p in folded[-LISTED_MAX:]
        ],
        "time": last["time"],
        "origin": origin,
        "title": head,
        "text": text,
        "url": f"{link.rstrip('/')}/#/alerts" if link else None,
        "severity": "info",
        "grade": None,
        # A burst is more of the same incident; a digest is of many, and stands for none of them.
        "incident": (incident := last.get("incident") if event == "burst" else None),
        "resolves": sorted(_over(folded) - {incident}) if event == "burst" else [],
    }


def _over(folded: Sequence[Payload]) -> set[str]:
    return {key for payload in folded for key in payload.get("resolves") or []}


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _origin(payload: Mapping[str, Any]) -> str:
    return "" if payload["origin"] == Origin.LIVE else f"{payload['origin']}: "
