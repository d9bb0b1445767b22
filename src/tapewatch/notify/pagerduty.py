"""PagerDuty's Events API v2: an incident is opened by an alert, and closed by what ends it.

    payload["incident"]    a stable key such as "golden_cross:AAPL:above": this message opens that incident
    payload["resolves"]    the keys that are over with it: the opposite cross's, its own when it is retracted

The same key, however often it is sent, is the same incident: that is what makes a repeat harmless. Messages go in
order, so that an incident is not closed before it is opened. With `resolve_after` an incident that nothing else ends is
closed after that time, by a follow-up that is written when the incident is opened. What can have no other end (high
volume, a digest) is closed after an hour, if nothing else is said.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from tapewatch.notify.posting import Poster, Resolve
from tapewatch.notify.target import FollowUp, Outcome, Receipt
from tapewatch.records import Notification
from tapewatch.settings import NOTIFY_DEADLINE_S

__all__ = ["PagerDuty", "dedup_key"]

REGIONS: Final = {"us": "https://events.pagerduty.com", "eu": "https://events.eu.pagerduty.com"}
_PATH: Final = "/v2/enqueue"
_SEVERITIES: Final = {"info": "info", "success": "info", "warning": "warning", "critical": "critical"}
_ALONE_MS: Final = 3_600_000
_KEY_CHARACTERS_MAX: Final = 255
_SUMMARY_CHARACTERS_MAX: Final = 1_024


class PagerDuty:
    """Opens and closes incidents of one service."""

    in_order = True
    parallel = 1

    def __init__(
        self,
        routing_key: str,
        *,
        api: str = REGIONS["us"],
        resolve_after_ms: int | None = None,
        private: bool = False,
        deadline_s: float = NOTIFY_DEADLINE_S,
        resolve: Resolve | None = None,
    ) -> None:
        self._routing_key = routing_key
        self._resolve_after_ms = resolve_after_ms
        self._poster = Poster(api, private=private, deadline_s=deadline_s, resolve=resolve)

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Close what is over, then open what is new. What closes or opens nothing opens an incident of its own."""
        incident, over = notification.payload.get("incident"), notification.payload.get("resolves") or []
        for key in over:
            if key != incident:
                outcome = await self._send({"event_action": "resolve", "dedup_key": dedup_key(key)})
                if outcome.error:
                    return outcome
        if over and not incident:
            return Outcome()
        own = incident or f"{notification.alert_id}:{notification.event}"
        outcome = await self._send(self._trigger(key := dedup_key(own), notification.payload))
        if outcome.error:
            return outcome
        after_ms = self._resolve_after_ms or (None if incident else _ALONE_MS)
        follow_up = None if after_ms is None else FollowUp(_expiry(notification, own), after_ms / 1_000)
        return Outcome(receipt={"dedup_key": key}, follow_up=follow_up)

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    def _trigger(self, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        link = payload.get("url")
        return {
            "event_action": "trigger",
            "dedup_key": key,
            "client": "Tapewatch",
            "payload": {
                "summary": str(payload.get("title") or payload["text"])[:_SUMMARY_CHARACTERS_MAX],
                "source": str(payload.get("symbol") or "tapewatch"),
                "severity": _SEVERITIES.get(str(payload.get("severity")), "warning"),
                **({"timestamp": payload["time"]} if payload.get("time") else {}),
                "component": str(payload.get("symbol") or "tapewatch"),
                "class": str(payload.get("kind") or "alert"),
                "custom_details": {name: value for name, value in payload.items() if value is not None},
            },
            **({"links": [{"href": link, "text": "Evidence"}]} if link else {}),
        }

    async def _send(self, event: dict[str, Any]) -> Outcome:
        content = msgspec.json.encode({"routing_key": self._routing_key, **event})
        answer = await self._poster.post(content, {}, _PATH)
        return Outcome(answer.error, answer.pause_s)


def dedup_key(incident: str) -> str:
    """PagerDuty's key for an incident: the same for ever, never empty, at most 255 characters."""
    assert incident, "an incident without a name would be joined with others"
    key = f"tapewatch:{incident}"
    if len(key) <= _KEY_CHARACTERS_MAX:
        return key
    return f"tapewatch:{hashlib.sha256(incident.encode()).hexdigest()}"


def _expiry(notification: Notification, incident: str) -> Notification:
    """What closes an incident that nothing else has ended."""
    message_id = f"{notification.alert_id}:{notification.channel}:expired"
    payload = {
        "id": message_id,
        "alert_id": notification.alert_id,
        "status": "expired",
        "text": f"{notification.payload['text']} Nothing ended it, so it is closed.",
        "incident": None,
        "resolves": [incident],
    }
    return msgspec.structs.replace(notification, id=message_id, event="expired", payload=payload)
