"""Slack, against a server that answers as Slack does and checks what it is asked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from notify_parts import START, Clock, MemoryOutbox, endpoint, message, outlets
from tapewatch.notify.sender import Sender
from tapewatch.notify.slack import Slack, SlackWebhook, text_of
from tapewatch.notify.target import Outcome
from tapewatch.records import AlertStatus, Notification

pytestmark = pytest.mark.anyio

TOKEN = "xoxb-1-secret"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class FakeSlack:
    """Slack's API, as far as messages go. ``refuse`` are the errors of the next calls; ``limited`` those of 429."""

    messages: dict[str, list[str]] = field(default_factory=dict)
    """By `ts`, every text that the message has had."""
    refuse: list[str] = field(default_factory=list)
    limited: int = 0
    calls: list[str] = field(default_factory=list)

    async def respond(self, writer: asyncio.StreamWriter, line: str, headers: dict[str, str], body: bytes) -> None:
        method = line.split(" ")[1].removeprefix("/api/")
        self.calls.append(method)
        status, extra = "200 OK", ""
        if self.limited:
            self.limited -= 1
            status, extra = "429 Too Many Requests", "Retry-After: 30\r\n"
        answer = json.dumps(self._answer(method, headers, body)).encode()
        head = f"HTTP/1.1 {status}\r\n{extra}Content-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        writer.write(head.encode() + answer)

    def _answer(self, method: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        """The checks are those of Slack's documentation of chat.postMessage and chat.update."""
        if not headers["content-type"].startswith("application/json"):
            return {"ok": False, "error": "invalid_post_type"}
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return {"ok": False, "error": "invalid_auth"}
        asked = json.loads(body)
        if self.refuse:
            return {"ok": False, "error": self.refuse.pop(0)}
        if not asked.get("text"):
            return {"ok": False, "error": "no_text"}
        metadata = asked["metadata"]
        assert set(metadata) == {"event_type", "event_payload"}
        if method == "chat.postMessage":
            if asked["channel"] != "#desk":
                return {"ok": False, "error": "channel_not_found"}
            ts = f"1700000000.{len(self.messages):06}"
            self.messages[ts] = [asked["text"]]
            return {"ok": True, "channel": "C0DESK", "ts": ts, "message": {"text": asked["text"]}}
        assert method == "chat.update"
        if asked["channel"] != "C0DESK" or asked["ts"] not in self.messages:
            return {"ok": False, "error": "message_not_found"}
        self.messages[asked["ts"]].append(asked["text"])
        return {"ok": True, "channel": "C0DESK", "ts": asked["ts"], "text": asked["text"]}


async def tell(fake: FakeSlack, *told: Notification, channel: str = "#desk", token: str = TOKEN) -> MemoryOutbox:
    """All of these through a sender, with the outbox's help for the follow-ups."""
    outbox, clock = MemoryOutbox(), Clock()
    for notification in told:
        outbox.add(msgspec.structs.replace(notification, channel="desk"), START)
    async with endpoint(fake.respond) as (port, _):
        slack = Slack(token, channel, api=f"http://127.0.0.1:{port}/api", private=True)
        running = Sender(outbox, outlets(desk=slack), attempts_max=2, news_age_ms=600_000, now=clock)
        for _ in range(6):
            await running.step("desk")
            clock.pass_s(10)
        await slack.close()
    return outbox


def states(outbox: MemoryOutbox) -> set[tuple[str, str | None]]:
    return {(row.state, row.last_error) for row in outbox.rows.values()}


@pytest.mark.parametrize("end", [AlertStatus.CONFIRMED, AlertStatus.RETRACTED])
async def test_the_message_is_edited_when_the_alert_is_confirmed_or_retracted(end: AlertStatus) -> None:
    fake = FakeSlack()
    first, second = (message("a1", status, "desk") for status in (AlertStatus.PROVISIONAL, end))
    assert states(await tell(fake, first, second)) == {("delivered", None)}
    assert fake.calls == ["chat.postMessage", "chat.update"]
    assert list(fake.messages.values()) == [[text_of(first), text_of(second)]]
    assert end.value in text_of(second)


async def test_alerts_are_messages_of_their_own() -> None:
    fake = FakeSlack()
    await tell(fake, message("a1", channel="desk"), message("a2", channel="desk"))
    assert fake.calls == ["chat.postMessage"] * 2
    assert len(fake.messages) == 2


@pytest.mark.parametrize("error", ["message_not_found", "edit_window_closed"])
async def test_news_of_a_message_that_cannot_be_edited_is_posted(error: str) -> None:
    fake = FakeSlack()
    receipt = {"channel": "C0DESK", "ts": "1.5"}
    fake.refuse = [error]
    async with endpoint(fake.respond) as (port, _):
        slack = Slack(TOKEN, "#desk", api=f"http://127.0.0.1:{port}/api", private=True)
        outcome = await slack.deliver(message("a1", AlertStatus.RETRACTED, "desk"), receipt)
        await slack.close()
    assert fake.calls == ["chat.update", "chat.postMessage"]
    assert outcome == Outcome(receipt={"channel": "C0DESK", "ts": "1700000000.000000"})


async def test_slacks_own_word_says_what_is_wrong() -> None:
    assert states(await tell(FakeSlack(), message(channel="desk"), channel="#no")) == {
        ("dead", "Slack refused it: channel_not_found (attempt 2, the last)")
    }
    assert states(await tell(FakeSlack(), message(channel="desk"), token="xoxb-other")) == {
        ("dead", "Slack refused it: invalid_auth (attempt 2, the last)")
    }
    assert states(await tell(FakeSlack(refuse=["<script>"] * 2), message(channel="desk"))) == {
        ("dead", "Slack refused it: an unknown error (attempt 2, the last)")
    }


async def test_slacks_limit_is_honoured() -> None:
    fake = FakeSlack(limited=1)
    outbox = await tell(fake, message(channel="desk"))
    assert states(outbox) == {("delivered", None)}
    (row,) = outbox.rows.values()
    assert row.delivered_at is not None
    assert (row.delivered_at - START).total_seconds() >= 30
    assert len(fake.calls) == 2


async def test_what_does_not_answer_as_slack_does_has_not_accepted_it() -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with endpoint(respond) as (port, _):
        slack = Slack(TOKEN, "#desk", api=f"http://127.0.0.1:{port}/api", private=True)
        assert (await slack.deliver(message())).error == "127.0.0.1 answered 200, but not as Slack does"
        await slack.close()


async def test_an_incoming_webhook_gets_each_message_anew() -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with endpoint(respond) as (port, requests):
        hook = SlackWebhook(f"http://127.0.0.1:{port}/services/T/B/x", private=True)
        for status in AlertStatus:
            assert await hook.deliver(message("a1", status), {"ts": "1"}) == Outcome()
        await hook.close()
    assert [json.loads(request.body) for request in requests] == [
        {"text": text_of(message("a1", status))} for status in AlertStatus
    ]


def test_what_comes_from_elsewhere_opens_no_link_and_calls_nobody() -> None:
    evil = message()
    payload = {
        "title": "<!channel> & <https://evil.example|click>",
        "text": "a < b",
        "url": "https://tape.example.org/#/alerts/a1",
    }
    text = text_of(msgspec.structs.replace(evil, payload=payload))
    assert text == (
        "*&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;*\na &lt; b\n<https://tape.example.org/#/alerts/a1|Evidence>"
    )
