"""Slack: a bot that edits its message when the alert is confirmed or retracted, or a plain incoming webhook.

    token and channel    chat.postMessage; a follow-up edits that message (chat.update), by the `ts` that Slack gave
    url                  an incoming webhook, which cannot edit: a follow-up is a message of its own

Slack answers 200 also when it refuses, with the reason as a word (`channel_not_found`); only such a word is shown.
A message carries the notification's id as metadata, so a repeat after a crash can be told.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tapewatch.notify.posting import Answer, Poster, Resolve
from tapewatch.notify.target import Outcome, Receipt
from tapewatch.records import Notification
from tapewatch.settings import NOTIFY_DEADLINE_S

__all__ = ["Slack", "SlackWebhook"]

API: Final = "https://slack.com/api"
_EDITS: Final = ("confirmed", "retracted", "expired")
_GONE: Final = {"message_not_found", "edit_window_closed", "cant_update_message", "channel_not_found", "is_inactive"}
"""The message cannot be edited: then the news is posted anew rather than lost."""
_WORD: Final = re.compile(r"[a-z_]{1,60}")
_TEXT_CHARACTERS_MAX: Final = 3_000


class _Reply(msgspec.Struct):
    ok: bool
    error: str = ""
    channel: str = ""
    ts: str = ""


class Slack:
    """Posts and edits as a bot."""

    in_order = False
    parallel = 1

    def __init__(
        self,
        token: str,
        channel: str,
        *,
        api: str = API,
        private: bool = False,
        deadline_s: float = NOTIFY_DEADLINE_S,
        resolve: Resolve | None = None,
    ) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
        self._channel = channel
        self._poster = Poster(api, private=private, deadline_s=deadline_s, resolve=resolve)

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Post, or edit what ``earlier`` names."""
        text = text_of(notification)
        if earlier is not None and notification.event in _EDITS and "ts" in earlier:
            named = {"channel": earlier["channel"], "ts": earlier["ts"]}
            outcome, error = await self._call("/chat.update", {**named, **self._content(notification, text)})
            if error not in _GONE:
                return outcome
        outcome, _ = await self._call(
            "/chat.postMessage", {"channel": self._channel, **self._content(notification, text), "unfurl_links": False}
        )
        return outcome

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()

    def _content(self, notification: Notification, text: str) -> dict[str, Any]:
        marks = {"event_type": "tapewatch_alert", "event_payload": {"id": notification.id}}
        return {"text": text, "metadata": marks}

    async def _call(self, method: str, arguments: dict[str, Any]) -> tuple[Outcome, str]:
        """What became of it, and Slack's word for what is wrong."""
        answer = await self._poster.post(msgspec.json.encode(arguments), self._headers, method)
        if answer.error:
            return Outcome(answer.error, answer.pause_s), ""
        try:
            reply = msgspec.json.decode(answer.body, type=_Reply)
        except (msgspec.MsgspecError, RecursionError):
            return Outcome(f"{self._poster.host} answered {answer.status}, but not as Slack does"), ""
        if not reply.ok:
            word = reply.error if _WORD.fullmatch(reply.error) else "an unknown error"
            return Outcome(f"Slack refused it: {word}", answer.pause_s), word
        return Outcome(receipt={"channel": reply.channel, "ts": reply.ts}), ""


class SlackWebhook:
    """Posts to an incoming webhook."""

    in_order = False
    parallel = 1

    def __init__(
        self, url: str, *, private: bool = False, deadline_s: float = NOTIFY_DEADLINE_S, resolve: Resolve | None = None
    ) -> None:
        self._poster = Poster(url, private=private, deadline_s=deadline_s, resolve=resolve)

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Post once."""
        answer: Answer = await self._poster.post(msgspec.json.encode({"text": text_of(notification)}), {})
        return Outcome(answer.error, answer.pause_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()


def text_of(notification: Notification) -> str:
    """The message in Slack's markup; what comes from elsewhere can open no link and call nobody."""
    payload = notification.payload
    title, text, link = payload.get("title"), str(payload["text"]), payload.get("url")
    parts = [
        f"*{_escaped(str(title))}*" if title else "",
        _escaped(text),
        f"<{_escaped(str(link))}|Evidence>" if link else "",
    ]
    return "\n".join(part for part in parts if part)[:_TEXT_CHARACTERS_MAX]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
