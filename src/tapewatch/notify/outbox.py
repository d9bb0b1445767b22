"""Which states of an alert become messages, and for which channels.

    alert                      notify = confirmed      notify = provisional      notify = never
    provisional                                        message
    confirmed                  message                 message, as its follow-up
    retracted                                          message, as its follow-up
    any, more than NEWS_AGE_MAX old when received:     no message: it is history, not news

A rule says its own ``notify`` and its channels; what it does not say is the setting NOTIFY, and every channel. The
program's log is told whatever channels a rule names. A channel that takes no provisional alerts is told confirmed ones.

The messages are written in the transaction that writes the alert, so neither can exist without the other. Whether one
is sent at once is decided afterwards, by the clock on the wall: see `policy`.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from tapewatch.notify.messages import NEW_YORK, incident_of, opposites, sentence, severity_of, title
from tapewatch.records import Alert, AlertStatus, Notification, Origin
from tapewatch.rules.model import Rules, words_of

__all__ = ["LOG", "NotifyMode", "notifications_for"]

NotifyMode = Literal["confirmed", "provisional"]
LOG: Final = "log"
"""The channel that is the program's own log."""
_WINDOW_MS: Final = 300_000


def notifications_for(
    alert: Alert,
    channels: Sequence[str],
    notify_mode: NotifyMode,
    origin: Origin,
    rules: Rules | None = None,
    confirmed_only: Collection[str] = (),
) -> list[Notification]:
    """The messages for this state of ``alert``, one per channel; none when it is not news.

    The same state always gives the same ids. ``rules`` are those in force; ``confirmed_only`` names the channels that
    take no provisional alerts.
    """
    rule = None if rules is None else rules.get(alert.rule)
    mode = rule.notify if rule is not None and rule.notify is not None else notify_mode
    is_confirmed = alert.status is AlertStatus.CONFIRMED
    if alert.late or mode == "never" or not (mode == "provisional" or is_confirmed):
        return []
    wanted = None if rule is None else rule.channels
    told = [
        channel
        for channel in channels
        if (channel == LOG or wanted is None or channel in wanted) and (is_confirmed or channel not in confirmed_only)
    ]
    if not told:
        return []
    left, right = ("price", "average") if rule is None else words_of(rule)
    payload = _payload(alert, origin, left, right, "" if rule is None else rule.text)
    return [
        Notification(
            id=(key := f"{alert.alert_id}:{channel}:{alert.status.value}"),
            alert_id=alert.alert_id,
            channel=channel,
            event=alert.status.value,
            payload={"id": key} | payload,
        )
        for channel in told
    ]


def _payload(alert: Alert, origin: Origin, left: str, right: str, words: str) -> dict[str, Any]:
    triggered = datetime.fromtimestamp(alert.triggered_ms / 1000, UTC)
    status = alert.status.value
    evidence = alert.evidence.get(status)
    evidence = evidence if isinstance(evidence, dict) else {}
    window = evidence.get("window") or {}
    lines = [str(words) for words in evidence.get("lines") or (left, right)]
    direction = {1: "above", -1: "below"}.get(alert.direction)
    is_volume = alert.direction == 0
    incident = incident_of(alert.rule, alert.symbol, direction)
    is_over = alert.status is AlertStatus.RETRACTED
    payload: dict[str, Any] = {
        "alert_id": alert.alert_id,
        "kind": alert.kind,
        "symbol": alert.symbol,
        "status": status,
        "direction": direction,
        "is_volume": is_volume,
        "price": _finite(alert.price),
        "line": _finite(alert.line),
        "left": (left := lines[0]),
        "right": lines[1],
        "value": (value := _finite(alert.price) if left == "price" else _number(evidence.get("price"))),
        "difference_bps": _difference_bps(alert, value),
        "time": triggered.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "time_new_york": triggered.astimezone(NEW_YORK).isoformat(timespec="milliseconds"),
        "triggered_ms": alert.triggered_ms,
        "decided_ms": alert.decided_ms,
        "received_ms": _received_ms(evidence),
        "window_from_ms": int(window.get("from_ms") or alert.pane_start_ms - _WINDOW_MS),
        "window_to_ms": int(window.get("to_ms") or alert.pane_start_ms + 60_000),
        "origin": origin.value,
        "rule": alert.rule,
        "rule_version": alert.rule_version,
        "evidence": f"/api/v1/alerts/{alert.alert_id}",
        "url": None,
        "severity": severity_of(status, is_volume=is_volume),
        "grade": None,
        "late_s": None,
        "incident": None if is_over else incident,
        "resolves": [incident] if is_over and incident else opposites(alert.rule, alert.symbol, direction),
        "words": words,
    }
    return payload | {"title": title(payload), "text": sentence(payload)}


def _difference_bps(alert: Alert, value: float | None) -> float | None:
    """How far the left line is from the right one, in 1/100 percent; None where they are no prices."""
    if alert.direction == 0 or alert.kind == "threshold" or value is None or not alert.line > 0:
        return None
    return _finite(round((value / alert.line - 1) * 10_000, 2))


def _received_ms(evidence: dict[str, Any]) -> int | None:
    """When the record that decided this state was received: how old the news is, whatever a plan's delay."""
    received_ns = (evidence.get("passport") or {}).get("received_ns")
    return None if not received_ns else int(received_ns) // 1_000_000


def _number(value: Any) -> float | None:
    return _finite(float(value)) if isinstance(value, int | float) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
