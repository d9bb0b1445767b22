"""The tables `[notify]` and `[system]` of alerts.toml, read and checked.

    [notify]
    limit = "20/m"              more messages to one channel are told in a digest
    digest = "5m"
    burst = "1m"
    hold_grade_d = true
    link = "https://tape.example.org"

    [system]
    ping_url = "env:PING_URL"
    ping_every = "1m"
    test_at_open = true
    test_channels = ["phone"]

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from tapewatch.notify.kinds import parse_limit
from tapewatch.rules.channels import NotifyOptions, SystemOptions
from tapewatch.settings import DURATION_HELP, parse_duration_ms

__all__ = ["OptionError", "notify_options", "system_options"]

CHANNELS_MAX: Final = 50


class OptionError(ValueError):
    """A key of one of the tables is wrong. ``table`` and ``key`` say where; the text says what is allowed."""

    def __init__(self, table: str, key: str | None, message: str) -> None:
        super().__init__(f"[{table}]{f' {key}' if key else ''}: {message}")
        self.table = table
        self.key = key
        self.message = message


def notify_options(table: Mapping[str, Any]) -> NotifyOptions:
    """What `[notify]` says; what it does not name keeps its default. Raises `OptionError`."""
    return NotifyOptions(**_read("notify", table, _NOTIFY))


def system_options(table: Mapping[str, Any]) -> SystemOptions:
    """What `[system]` says; what it does not name keeps its default. Raises `OptionError`."""
    return SystemOptions(**_read("system", table, _SYSTEM))


Check = Callable[[Any], Any]


def _read(name: str, table: Any, keys: Mapping[str, tuple[str, Check]]) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise OptionError(name, None, "expected a table")
    values = {}
    for key, value in table.items():
        if key not in keys:
            raise OptionError(name, str(key), f"there is no such key; expected one of {', '.join(sorted(keys))}")
        field, check = keys[key]
        try:
            values[field] = check(value)
        except ValueError as error:
            raise OptionError(name, key, str(error)) from None
    return values


def _duration(least_ms: int, most_ms: int, allowed: str) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, str):
            raise ValueError(f'expected {DURATION_HELP}, in quotes: "5m"')
        ms = parse_duration_ms(value)
        if not least_ms <= ms <= most_ms:
            raise ValueError(f"expected {allowed}")
        return ms

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _link(value: Any) -> str:
    parts = urlsplit(value) if isinstance(value, str) and value.isprintable() and " " not in value else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected the page's address, such as https://tape.example.org")
    if parts.username is not None:
        raise ValueError("expected an address without a password: everyone who gets a message reads it")
    return str(value).rstrip("/")


def _ping(value: Any) -> str:
    if isinstance(value, str) and value.startswith("env:") and value[4:].isidentifier():
        return value
    raise ValueError('expected "env:NAME": the address is a secret, and this names the variable that holds it')


def _names(value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= CHANNELS_MAX
        or not all(isinstance(name, str) for name in value)
    ):
        raise ValueError('expected names of channels, such as ["phone", "desk"]')
    return tuple(value)


_NOTIFY: Final[dict[str, tuple[str, Check]]] = {
    "limit": ("limit", parse_limit),
    "digest": ("digest_ms", _duration(10_000, 86_400_000, "10s to 1d")),
    "burst": ("burst_ms", _duration(0, 3_600_000, "0s to 1h")),
    "hold_grade_d": ("hold_grade_d", _flag),
    "link": ("link", _link),
}
_SYSTEM: Final[dict[str, tuple[str, Check]]] = {
    "ping_url": ("ping_url", _ping),
    "ping_every": ("ping_every_ms", _duration(10_000, 86_400_000, "10s to 1d")),
    "test_at_open": ("test_at_open", _flag),
    "test_channels": ("test_channels", _names),
}
