"""From a channel to its target: the program's own log always, and whatever alerts.toml and `WEBHOOK_URL` say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
from dotenv import dotenv_values

from tapewatch.errors import SettingsError
from tapewatch.notify.addresses import Unfit, check_url
from tapewatch.notify.apprise_target import AppriseTarget
from tapewatch.notify.channels import Channel, ChannelError, filled
from tapewatch.notify.kinds import KINDS, LOG
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.pagerduty import REGIONS, PagerDuty
from tapewatch.notify.services import APPRISE_KINDS, service_of
from tapewatch.notify.signing import key_of
from tapewatch.notify.slack import API, Slack, SlackWebhook
from tapewatch.notify.target import Outcome, Receipt, Target
from tapewatch.notify.webhook import Webhook
from tapewatch.records import Notification
from tapewatch.settings import NOTIFY_DEADLINE_S, Settings

__all__ = [
    "LOG",
    "WEBHOOK",
    "LogTarget",
    "channel_names",
    "channels_of",
    "confirmed_only",
    "environment",
    "outlet_of",
    "target_of",
]

WEBHOOK: Final = "webhook"
"""The channel that `WEBHOOK_URL` makes."""

_logger = structlog.get_logger("tapewatch.notify")


class LogTarget:
    """One structured line per message in the program's log."""

    in_order = False
    parallel = 1

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Always succeeds."""
        _logger.info("alert", **notification.payload)
        return Outcome()

    async def close(self) -> None:
        """Nothing is held."""


def environment(dotenv: Path = Path(".env")) -> dict[str, str]:
    """Where the secrets of channels are looked up: `.env`, and the environment, which wins."""
    found = {name: value for name, value in dotenv_values(dotenv).items() if value is not None}
    return found | os.environ


def channels_of(
    settings: Settings, written: Mapping[str, Channel], known: Mapping[str, str] | None = None
) -> dict[str, Channel]:
    """All channels by name, ready for use: the log, `WEBHOOK_URL`'s and those that are written in alerts.toml.

    Raises:
        SettingsError: a secret is missing, or the values do not make a channel; none is shown.
    """
    known = environment() if known is None else known
    channels = {LOG: Channel(name=LOG, kind=LOG)}
    if settings.webhook_url is not None:
        if WEBHOOK in written:
            raise SettingsError(
                f"[channels.{WEBHOOK}] of {settings.alerts_file} and WEBHOOK_URL are both set: leave one out"
            )
        channels[WEBHOOK] = _from_settings(settings)
    for channel in written.values():
        if not channel.enabled:
            continue
        try:
            channels[channel.name] = ready = filled(channel, known)
            _check(ready)
        except ChannelError as error:
            raise SettingsError(f"{settings.alerts_file}: {error}") from None
    return channels


def channel_names(settings: Settings, written: Mapping[str, Channel] | None = None) -> tuple[str, ...]:
    """The channels that messages are written for: no secret is looked up."""
    hook = () if settings.webhook_url is None else (WEBHOOK,)
    return (LOG, *hook, *(channel.name for channel in (written or {}).values() if channel.enabled))


def confirmed_only(written: Mapping[str, Channel]) -> frozenset[str]:
    """The channels that take no provisional alerts."""
    return frozenset(channel.name for channel in written.values() if not channel.provisional)


def _from_settings(settings: Settings) -> Channel:
    assert settings.webhook_url is not None
    url = settings.webhook_url.get_secret_value()
    try:
        check_url(url, ("http", "https"), userinfo=True)
    except Unfit as why:
        raise SettingsError(f"WEBHOOK_URL=(not shown): {why}") from None
    values = {"url": url}
    if settings.webhook_secret is not None:
        values["secret"] = settings.webhook_secret.get_secret_value()
        try:
            key_of(values["secret"])
        except ValueError as why:
            raise SettingsError(f"WEBHOOK_SECRET=(not shown): {why}") from None
    return Channel(
        name=WEBHOOK,
        kind="webhook",
        values=values,
        limit=KINDS["webhook"].limit,
        private=settings.webhook_private == "on",
    )


def _check(channel: Channel) -> None:
    """What is only known when the secrets are there. Raises ChannelError."""
    if channel.kind in APPRISE_KINDS:
        service_of(channel)
    if channel.kind == "webhook" and "secret" in channel.values:
        try:
            key_of(channel.values["secret"])
        except ValueError as error:
            raise ChannelError(f"channels.{channel.name}", "secret", f"the value does not do: {error}") from None


def target_of(channel: Channel, *, deadline_s: float = NOTIFY_DEADLINE_S) -> Target:
    """The target of a channel whose secrets are filled in. `Target.close` lets go of it."""
    v = channel.values
    if channel.kind in APPRISE_KINDS:
        return AppriseTarget(channel, deadline_s=deadline_s)
    if channel.kind == LOG:
        return LogTarget()
    private = channel.private
    if channel.kind == "webhook":
        key = key_of(v["secret"]) if "secret" in v else None
        return Webhook(v["url"], private=private, key=key, deadline_s=deadline_s)
    if channel.kind == "pagerduty":
        api = v.get("api") or REGIONS[v.get("region", "us")]
        after = v.get("resolve_after")
        return PagerDuty(v["routing_key"], api=api, resolve_after_ms=after, private=private, deadline_s=deadline_s)
    assert channel.kind == "slack", channel.kind
    if "url" in v:
        return SlackWebhook(v["url"], private=private, deadline_s=deadline_s)
    return Slack(v["token"], v["channel"], api=v.get("api", API), private=private, deadline_s=deadline_s)


def outlet_of(channel: Channel, *, deadline_s: float = NOTIFY_DEADLINE_S) -> Outlet:
    """The channel's target with its limit."""
    target = target_of(channel, deadline_s=deadline_s)
    return Outlet(channel.name, channel.kind, target, limit=channel.limit, max_age_ms=channel.max_age_ms)
