"""One test message to one channel, straight through its target: does it get there at all?"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import uuid4

from tapewatch.notify.channels import Channel
from tapewatch.notify.target import Outcome
from tapewatch.notify.targets import target_of
from tapewatch.records import Notification

__all__ = ["trial"]


async def trial(channel: Channel) -> tuple[Outcome, float]:
    """What became of it, and after how many seconds. An incident that it opens is closed again."""
    name = f"test:{uuid4()}"
    opening = _message(channel, name, "test", incident=name, resolves=[])
    target = target_of(channel)
    began_s = time.monotonic()
    try:
        outcome = await target.deliver(opening)
        seconds = time.monotonic() - began_s
        if not outcome.error and channel.kind == "pagerduty":
            await target.deliver(_message(channel, name, "recovered", incident=None, resolves=[name]))
    finally:
        await target.close()
    return outcome, seconds


def _message(channel: Channel, name: str, event: str, *, incident: str | None, resolves: list[str]) -> Notification:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message_id = f"{name}:{channel.name}:{event}"
    payload = {
        "id": message_id,
        "alert_id": name,
        "kind": "test",
        "symbol": "",
        "status": event,
        "time": now,
        "title": "Tapewatch: test message",
        "text": f"A test of the channel {channel.name}. If you read this, it works. Nothing happened on the market.",
        "url": None,
        "severity": "info",
        "grade": None,
        "incident": incident,
        "resolves": resolves,
    }
    return Notification(id=message_id, alert_id=name, channel=channel.name, event=event, payload=payload)
