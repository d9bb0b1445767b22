"""What a channel is: the tables `[channels.NAME]` of alerts.toml, read and checked.

    [channels.desk]
    kind = "slack"
    token = "env:SLACK_TOKEN"        # secrets only so: the file names the variable, the environment holds the value
    channel = "#desk"
    limit = "1/s"

Every kind has keys of its own (`kinds.KINDS`); all have `limit`, `max_age` and `provisional`. Whatever a wrong table
says, the answer is a `ChannelError` that names table, key and what is allowed.

Pure: no I/O, no clock, no random number. The environment is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from tapewatch.notify.addresses import written_refusal
from tapewatch.notify.kinds import KINDS, LOG, Kind, duration, parse_limit
from tapewatch.rules.channels import Rate
from tapewatch.rules.check import shown

__all__ = ["Channel", "ChannelError", "filled", "parse_channels"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_ENV: Final = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]{0,99})")
CHANNELS_MAX: Final = 50


class ChannelError(ValueError):
    """A channel's table is wrong. ``table`` and ``key`` say where; the text says what is allowed."""

    def __init__(self, table: str, key: str | None, message: str) -> None:
        super().__init__(f"[{table}]{f' {key}' if key else ''}: {message}")
        self.table = table
        self.key = key
        self.message = message


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as its table says it. After `filled`, the values of secrets are in it; its repr never shows them."""

    name: str
    kind: str
    values: dict[str, Any] = {}
    """The kind's own keys."""
    enabled: bool = True
    limit: Rate | None = None
    max_age_ms: int | None = None
    """A message that has waited longer is no news any more; None: NEWS_AGE_MAX."""
    provisional: bool = True
    """Whether provisional alerts go here, of rules that tell them at all."""
    private: bool = False
    """Whether the address may be one of this machine or of a private network."""

    def __repr__(self) -> str:
        """Without values: any of them may have come from the environment, as a secret."""
        return f"Channel({self.name!r}, {self.kind!r}, {', '.join(self.values)})"


_COMMON: Final = ("kind", "enabled", "limit", "max_age", "provisional", "private")
_SHOWN: Final = frozenset((*_COMMON, "region", "resolve_after", "host", "port", "security", "from", "channel"))
"""Keys whose wrong value is shown; others may hold a secret by mistake."""


def parse_channels(tables: Mapping[str, Any]) -> dict[str, Channel]:
    """The channels of `[channels]`, by name.

    Raises:
        ChannelError: names the table, the key and what is allowed.
    """
    if not isinstance(tables, Mapping):
        raise ChannelError("channels", None, "expected tables such as [channels.desk]")
    if len(tables) > CHANNELS_MAX:
        raise ChannelError("channels", None, f"expected at most {CHANNELS_MAX} channels, got {len(tables)}")
    return {name: _channel(name, values) for name, values in tables.items()}


def _channel(name: str, values: Any) -> Channel:
    table = f"channels.{name}"
    if not _NAME.fullmatch(name):
        raise ChannelError(table, None, "expected a name of small letters, digits, _ and -, at most 40, a letter first")
    if not isinstance(values, Mapping):
        raise ChannelError(table, None, f"expected a table with a kind, one of {', '.join(KINDS)}")
    kind = KINDS.get(str(values.get("kind")))
    if kind is None or (name == LOG) != (values["kind"] == LOG):
        got = f", got {shown(values['kind'])}" if "kind" in values else ""
        raise ChannelError(table, "kind", f"expected one of {', '.join(_kinds_for(name))}{got}")
    common = [key for key in _COMMON if key != "private" or kind.private]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kind.keys and key not in common:
            raise ChannelError(table, key, f"no such key; expected one of {', '.join([*common, *kind.keys])}")
        try:
            checked[key] = _value(kind, key, value)
        except ValueError as error:
            got = f", got {shown(value)}" if key in _SHOWN else ""
            raise ChannelError(table, key, f"{error}{got}") from None
    _check_needed(table, kind, checked)
    _check_addresses(table, checked, private=checked.get("private", False))
    return Channel(
        name=name,
        kind=checked["kind"],
        values={key: value for key, value in checked.items() if key in kind.keys},
        enabled=checked.get("enabled", True),
        limit=checked.get("limit", kind.limit),
        max_age_ms=checked.get("max_age"),
        provisional=checked.get("provisional", True),
        private=checked.get("private", False),
    )


def _kinds_for(name: str) -> Iterable[str]:
    return [kind for kind in KINDS if (kind == LOG) == (name == LOG)]


def _value(kind: Kind, key: str, value: Any) -> Any:
    """The value as the channel holds it. Raises ValueError with what is allowed."""
    if key in ("enabled", "provisional", "private"):
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if key == "kind":
        return value
    if key == "limit":
        return parse_limit(value)
    if key == "max_age":
        return duration(value)
    is_named = isinstance(value, str) and value.startswith("env:")
    if is_named or key in kind.secrets:
        if not is_named:
            raise ValueError(
                f"this is a secret, so it may not stand in the file: put it into the environment (or .env) as a "
                f'variable of your own, and write its name here, such as {key} = "env:MY_{key.upper()}"'
            )
        if not _ENV.fullmatch(value):
            raise ValueError('expected the name of a variable of the environment, such as "env:MY_TOKEN"')
        return value
    return kind.keys[key](value)


def _check_needed(table: str, kind: Kind, checked: Mapping[str, Any]) -> None:
    for needed in kind.needed:
        ways = (needed,) if isinstance(needed, str) else needed
        given = [way for way in ways if way in checked]
        if len(given) != 1:
            told = "is missing" if len(ways) == 1 else f"expected one of {' and '.join(ways)}"
            raise ChannelError(table, ways[0], told)
    if "token" in checked and "channel" in kind.keys and "channel" not in checked:
        raise ChannelError(table, "channel", "is missing: to which of Slack's channels?")
    if "password" in checked and "user" not in checked:
        raise ChannelError(table, "user", "is missing: a password goes with a user")


def _check_addresses(table: str, values: Mapping[str, Any], *, private: bool) -> None:
    """Addresses that cannot be meant are told at once; all are looked at again when they are connected to."""
    for key in ("url", "api", "server"):
        value = values.get(key)
        if isinstance(value, str) and value.startswith("http") and (why := written_refusal(value, private=private)):
            raise ChannelError(table, key, f"nothing is sent to this address: it is {why}")


def filled(channel: Channel, environment: Mapping[str, str]) -> Channel:
    """The channel with the values of the variables that it names, each checked as if it had been written.

    Raises:
        ChannelError: a variable is not set, or holds what is not allowed. The value is not shown.
    """
    kind, values = KINDS[channel.kind], dict(channel.values)
    for key, value in values.items():
        match = _ENV.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            continue
        found = environment.get(match[1], "")
        if not found:
            told = f"the variable {match[1]} is not set, neither in the environment nor in .env"
            raise ChannelError(f"channels.{channel.name}", key, told)
        try:
            values[key] = kind.keys[key](found)
        except ValueError as error:
            told = (
                f"the value of the variable {match[1]}, which is not shown, does not fit: {_without(str(error), found)}"
            )
            raise ChannelError(f"channels.{channel.name}", key, told) from None
    _check_addresses(f"channels.{channel.name}", values, private=channel.private)
    return msgspec.structs.replace(channel, values=values)


def _without(text: str, secret: str) -> str:
    return text.replace(repr(secret), "it").replace(secret, "***")
