"""How Apprise is told of a channel: from the keys of its table to the arguments of Apprise's own class.

Never by an address put together as text, in which a value could become an option. Of `kind = "apprise"` the person
writes the address; its scheme must be one of `SCHEMES`, and it may have no options: those of Apprise can lengthen its
deadlines, turn off the check of certificates, follow redirects, or read a file of this machine.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from tapewatch.notify.channels import Channel, ChannelError

__all__ = ["APPRISE_KINDS", "SCHEMES", "Service", "service_of"]

APPRISE_KINDS: Final = frozenset({"email", "telegram", "ntfy", "pushover", "discord", "teams", "apprise"})
"""Kinds that go through Apprise."""

SCHEMES: Final = frozenset({
    "bark", "barks", "dingtalk", "fcm", "feishu", "gchat", "gotifys", "ifttt", "join", "lark", "line", "mailgun",
    "mastodons", "matrixs", "mmosts", "msgbird", "nctalks", "opsgenie", "pagertree", "pbul", "prowl", "psafers", "push",
    "pushdeers", "pushy", "resend", "revolt", "rockets", "sendgrid", "signals", "signl4", "simplepush", "sinch",
    "spike", "splunk", "spugpush", "squadcast", "synologys", "telnyx", "threema", "twilio", "victorops", "vonage",
    "webex", "wecombot", "whatsapp", "wxteams", "zulip",
})  # fmt: skip
"""Schemes of Apprise that a person may write: services elsewhere, over TLS. Not: those that act on this machine
(syslog, dbus, gnome), those of other kinds of channel, plain HTTP, and what is new in Apprise until somebody looked."""

_DISCORD: Final = re.compile(
    r"(?P<base>https?://[^/]+(?:/api)?/webhooks)/(?P<id>[0-9]{1,30})/(?P<token>[A-Za-z0-9_-]{1,200})/?"
)
_TEAMS: Final = re.compile(r"(?P<before>.*)/workflows/(?P<id>[A-Za-z0-9_-]{1,100})/triggers/manual/paths/invoke/?")


class Service(dict[str, Any]):
    """Arguments of Apprise's class; ``notify_url``, where there is one, replaces the address that the class knows."""

    notify_url: str | None = None


def service_of(channel: Channel) -> Service:
    """The arguments for a channel whose secrets are filled in.

    Raises:
        ChannelError: the values do not make one; no secret is shown.
    """
    assert channel.kind in APPRISE_KINDS, channel.kind
    return _MAKERS[channel.kind](channel, channel.values)


def _email(channel: Channel, v: Mapping[str, Any]) -> Service:
    security = v.get("security", "starttls")
    found = Service(
        schema="mailto" if security == "none" else "mailtos",
        host=v["host"].strip("[]"),
        smtp_host=v["host"].strip("[]"),
        port=v.get("port", {"starttls": 587, "tls": 465, "none": 25}[security]),
        secure_mode={"starttls": "starttls", "tls": "ssl", "none": "insecure"}[security],
        from_addr=v["from"],
        targets=list(v["to"]),
        secure=security != "none",
    )
    if "user" in v:
        found |= {"user": quote(v["user"], safe=""), "password": quote(v.get("password", ""), safe="")}
    return found


def _telegram(channel: Channel, v: Mapping[str, Any]) -> Service:
    found = Service(schema="tgram", bot_token=v["token"], targets=list(v["chats"]), detect_owner=False)
    if "api" in v:
        found.notify_url = v["api"].rstrip("/") + "/bot"
    return found


def _ntfy(channel: Channel, v: Mapping[str, Any]) -> Service:
    parts = urlsplit(v.get("server", "https://ntfy.sh"))
    found = Service(
        schema="ntfys" if parts.scheme == "https" else "ntfy",
        host=parts.hostname,
        port=parts.port,
        secure=parts.scheme == "https",
        targets=[v["topic"]],
        mode="private",
        include_image=False,
    )
    return found if "token" not in v else Service(found | {"token": v["token"], "auth": "token"})


def _pushover(channel: Channel, v: Mapping[str, Any]) -> Service:
    found = Service(schema="pover", user_key=v["user"], token=v["token"], targets=list(v.get("devices", [])))
    if "api" in v:
        found.notify_url = v["api"].rstrip("/") + "/1/messages.json"
    return found


def _discord(channel: Channel, v: Mapping[str, Any]) -> Service:
    match = _DISCORD.fullmatch(v["url"])
    if match is None:
        raise _unlike(channel, "https://discord.com/api/webhooks/NUMBER/TOKEN")
    found = Service(schema="discord", webhook_id=match["id"], webhook_token=match["token"], avatar=False)
    found.notify_url = match["base"]
    return found


def _teams(channel: Channel, v: Mapping[str, Any]) -> Service:
    parts = urlsplit(v["url"])
    match, asked = _TEAMS.fullmatch(parts.path), parse_qs(parts.query)
    if match is None or parts.scheme != "https" or not asked.get("sig"):
        raise _unlike(channel, "https://HOST/workflows/ID/triggers/manual/paths/invoke?...&sig=SIGNATURE")
    if match["before"] not in ("", "/powerautomate/automations/direct"):
        raise _unlike(
            channel, "https://HOST/workflows/ID/... or https://HOST/powerautomate/automations/direct/workflows/ID/..."
        )
    return Service(
        schema="workflows", host=parts.hostname, port=parts.port, workflow=match["id"], signature=asked["sig"][0],
        power_automate=bool(match["before"]), include_image=False, secure=True,
    )  # fmt: skip


def _apprise(channel: Channel, v: Mapping[str, Any]) -> Service:
    url = v["url"]
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        shown = f"{scheme[:20]}://" if separator and scheme.isalnum() else "this"
        raise ChannelError(
            f"channels.{channel.name}", "url", f"{shown} is not allowed; expected one of {', '.join(sorted(SCHEMES))}, "
            "each followed by :// (Slack, mail, Telegram, ... have a kind of their own)",
        )  # fmt: skip
    if "?" in rest or "#" in rest:
        told = "options after ? are not allowed: they can lengthen deadlines, skip certificates, or read files"
        raise ChannelError(f"channels.{channel.name}", "url", told)
    return Service(url=url)


def _unlike(channel: Channel, example: str) -> ChannelError:
    return ChannelError(f"channels.{channel.name}", "url", f"the address (not shown) does not look like {example}")


_MAKERS: Final = {
    "email": _email, "telegram": _telegram, "ntfy": _ntfy, "pushover": _pushover, "discord": _discord,
    "teams": _teams, "apprise": _apprise,
}  # fmt: skip
