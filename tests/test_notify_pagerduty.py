"""PagerDuty, against a server that keeps incidents by their key as PagerDuty does, and checks what it is asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify_parts import Clock, MemoryOutbox, alert, endpoint, outlets
from tapewatch.notify.outbox import notifications_for
from tapewatch.notify.pagerduty import PagerDuty, dedup_key
from tapewatch.notify.sender import Sender
from tapewatch.records import AlertStatus, Notification, Origin

pytestmark = pytest.mark.anyio

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class FakePagerDuty:
    """The Events API v2. ``refuse`` are the statuses of the next calls."""

    open: dict[str, str] = field(default_factory=dict)
    """Incidents by key: the newest summary."""
    incidents: int = 0
    """How many were ever opened."""
    resolved: list[str] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    async def respond(self, writer: asyncio.StreamWriter, line: str, headers: dict[str, str], body: bytes) -> None:
        assert line == "POST /v2/enqueue HTTP/1.1"
        assert headers["content-type"] == "application/json"
        event = json.loads(body)
        status = self.refuse.pop(0) if self.refuse else self._take(event)
        self.calls.append(f"{event['event_action']} {status}")
        answer = json.dumps(
            {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]}
        ).encode()
        extra = "Retry-After: 7\r\n" if status == 429 else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)

    def _take(self, event: dict[str, object]) -> int:
        """The checks are those of PagerDuty's documentation."""
        key, action = event["dedup_key"], event["event_action"]
        if event["routing_key"] != KEY or not isinstance(key, str) or not 0 < len(key) <= 255:
            return 400
        if action == "resolve":
            if self.open.pop(key, None) is not None:
                self.resolved.append(key)
            return 202
        payload = event["payload"]
        assert action == "trigger"
        assert isinstance(payload, dict)
        if not payload["summary"] or len(payload["summary"]) > 1_024 or not payload["source"]:
            return 400
        if payload["severity"] not in ("critical", "error", "warning", "info"):
            return 400
        datetime.fromisoformat(payload["timestamp"])
        self.incidents += key not in self.open
        self.open[key] = payload["summary"]
        return 202


def told(alert_id: str, status: AlertStatus, *, above: bool = True, symbol: str = "AAPL") -> Notification:
    kind = "golden_cross" if above else "death_cross"
    found = alert(alert_id, status, symbol=symbol, rule=kind, kind=kind, direction=1 if above else -1)
    (notification,) = notifications_for(found, ["duty"], "provisional", Origin.LIVE)
    return notification


class Desk:
    """A sender with PagerDuty as its only channel."""

    def __init__(self, fake: FakePagerDuty, resolve_after_ms: int | None = None) -> None:
        self.fake, self.outbox, self.clock = fake, MemoryOutbox(), Clock()
        self._resolve_after_ms = resolve_after_ms

    async def tell(self, *notifications: Notification, minutes: float = 1) -> None:
        """These, and then so much time."""
        for number, notification in enumerate(notifications):
            self.outbox.add(notification, self.clock.now)
            self.clock.pass_s(0.001 * number)
        async with endpoint(self.fake.respond) as (port, _):
            target = PagerDuty(
                KEY, api=f"http://127.0.0.1:{port}", private=True, resolve_after_ms=self._resolve_after_ms
            )
            running = Sender(self.outbox, outlets(duty=target), attempts_max=8, news_age_ms=600_000, now=self.clock)
            for _ in range(round(6 * minutes)):
                await running.step("duty")
                self.clock.pass_s(10)
            await target.close()


ABOVE, BELOW = "tapewatch:golden_cross:AAPL:above", "tapewatch:death_cross:AAPL:below"


async def test_an_alert_is_one_incident_from_provisional_to_confirmed() -> None:
    desk = Desk(FakePagerDuty())
    await desk.tell(told("a1", AlertStatus.PROVISIONAL), told("a1", AlertStatus.CONFIRMED))
    assert desk.fake.incidents == 1
    assert list(desk.fake.open) == [ABOVE]
    assert "confirmed" in desk.fake.open[ABOVE]


async def test_a_retraction_resolves_it() -> None:
    desk = Desk(FakePagerDuty())
    await desk.tell(told("a1", AlertStatus.PROVISIONAL), told("a1", AlertStatus.RETRACTED))
    assert (desk.fake.open, desk.fake.resolved, desk.fake.incidents) == ({}, [ABOVE], 1)


async def test_the_opposite_cross_resolves_it_and_opens_its_own() -> None:
    desk = Desk(FakePagerDuty())
    await desk.tell(told("a1", AlertStatus.CONFIRMED), told("m1", AlertStatus.CONFIRMED, symbol="MSFT"))
    await desk.tell(told("a2", AlertStatus.CONFIRMED, above=False))
    assert desk.fake.resolved == [ABOVE]
    assert set(desk.fake.open) == {BELOW, "tapewatch:golden_cross:MSFT:above"}, "another symbol's is left alone"
    await desk.tell(told("a3", AlertStatus.CONFIRMED))
    assert desk.fake.resolved == [ABOVE, BELOW]
    assert desk.fake.incidents == 4


async def test_what_nothing_ends_is_resolved_after_its_time() -> None:
    desk = Desk(FakePagerDuty(), resolve_after_ms=3_600_000)
    await desk.tell(told("a1", AlertStatus.CONFIRMED), minutes=59)
    assert list(desk.fake.open) == [ABOVE]
    await desk.tell(minutes=2)
    assert (desk.fake.open, desk.fake.resolved) == ({}, [ABOVE])


async def test_an_old_expiry_does_not_resolve_what_was_opened_anew() -> None:
    desk = Desk(FakePagerDuty(), resolve_after_ms=3_600_000)
    await desk.tell(told("a1", AlertStatus.CONFIRMED), minutes=40)
    await desk.tell(told("a2", AlertStatus.CONFIRMED), minutes=50)
    assert list(desk.fake.open) == [ABOVE], "the first one's hour is over, the second one's is not"
    await desk.tell(minutes=20)
    assert desk.fake.open == {}


async def test_a_resolve_never_overtakes_the_trigger_that_failed() -> None:
    desk = Desk(FakePagerDuty(refuse=[500, 429]))
    await desk.tell(told("a1", AlertStatus.CONFIRMED), told("a2", AlertStatus.CONFIRMED, above=False), minutes=5)
    assert list(desk.fake.open) == [BELOW]
    assert desk.fake.resolved == [ABOVE]
    assert desk.fake.calls[:2] == ["resolve 500", "resolve 429"], "each message ends its opposite first"


async def test_a_repeat_after_a_crash_is_the_same_incident() -> None:
    desk = Desk(FakePagerDuty())
    first = told("a1", AlertStatus.CONFIRMED)
    await desk.tell(first)
    del desk.outbox.rows[first.id]
    await desk.tell(first)
    assert desk.fake.incidents == 1


async def test_a_message_without_an_incident_gets_one_of_its_own_for_an_hour() -> None:
    desk = Desk(FakePagerDuty())
    volume = alert("v1", kind="high_volume", rule="high_volume", direction=0)
    (notification,) = notifications_for(volume, ["duty"], "provisional", Origin.LIVE)
    await desk.tell(notification)
    assert list(desk.fake.open) == ["tapewatch:v1:confirmed"]
    await desk.tell(minutes=60)
    assert desk.fake.open == {}, "nothing else could end it"


async def test_a_wrong_key_is_told() -> None:
    desk = Desk(FakePagerDuty(refuse=[400] * 20))
    await desk.tell(told("a1", AlertStatus.CONFIRMED), minutes=20)
    (row,) = desk.outbox.rows.values()
    assert row.state == "dead"
    assert row.last_error is not None
    assert row.last_error.startswith("127.0.0.1 answered 400")
    assert KEY not in row.last_error


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_keys_are_stable_bounded_and_never_joined(one: str, other: str) -> None:
    assert dedup_key(one) == dedup_key(one)
    assert len(dedup_key(one)) <= 255
    assert (dedup_key(one) == dedup_key(other)) == (one == other)
