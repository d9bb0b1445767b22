"""The kinds of channels: which keys each has, what each key must be, which are secrets, what the receiver stands.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tapewatch.notify.addresses import Unfit, check_url
from tapewatch.rules.channels import Rate
from tapewatch.settings import DURATION_HELP, parse_duration_ms

__all__ = ["KINDS", "LOG", "Kind", "duration", "limit_text", "parse_limit"]

LOG: Final = "log"
LIMIT_HELP: Final = 'expected how many in a second, minute or hour, such as "1/s", "30/m" or "100/h"'
RECIPIENTS_MAX: Final = 50
_LIMIT: Final = re.compile(r"([1-9][0-9]{0,5})/([smh])")
_PER_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one kind of channel: what each must be, which are needed, which are secrets."""

    keys: Mapping[str, Callable[[Any], Any]]
    needed: tuple[str | tuple[str, ...], ...] = ()
    """Keys that must be there; of a tuple one."""
    secrets: frozenset[str] = frozenset()
    limit: Rate | None = None
    """What the receiver allows, where nothing else is said."""
    private: bool = True
    """Whether `private` may be said: its address can be chosen."""


def _words(value: Any, most: int = 500) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= most or not value.isprintable():
        raise ValueError(f"expected a text of at most {most} printable characters, in quotes")
    return value.strip()


def _url(value: Any) -> str:
    try:
        return check_url(_words(value, 2_000), ("http", "https"))
    except Unfit as why:
        raise ValueError(str(why)) from None


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return str(value)

    return check


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_535:
        raise ValueError("expected a port, a whole number from 1 to 65535")
    return value


def duration(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError(f'expected {DURATION_HELP}, in quotes: "5m"')
    ms = parse_duration_ms(value)
    if not 1_000 <= ms <= 30 * 86_400_000:
        raise ValueError("expected 1s to 30d")
    return ms


def _list_of(pattern: str, what: str) -> Callable[[Any], list[str]]:
    known = re.compile(pattern)

    def check(value: Any) -> list[str]:
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list) or not 0 < len(parts) <= RECIPIENTS_MAX:
            raise ValueError(f"expected {what}, or a list of at most {RECIPIENTS_MAX}")
        for part in parts:
            if not isinstance(part, str) or not known.fullmatch(part):
                raise ValueError(f"expected {what}, got {part!r}")
        return parts

    return check


def _matching(pattern: str, what: str) -> Callable[[Any], str]:
    known = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not known.fullmatch(value):
            raise ValueError(f"expected {what}")
        return value

    return check


_MAIL: Final = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,8}"
_MAIL_ADDRESS: Final = _matching(_MAIL, "a mail address such as tapewatch@example.org")
_CHATS: Final = _list_of(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{2,40}", "a chat such as -1001234 or @desk")
_DEVICES: Final = _list_of(r"[A-Za-z0-9_-]{1,25}", "a device's name")
_MAILS: Final = _list_of(_MAIL, "a mail address such as desk@example.org")
_HOST: Final = _matching(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\]", "a host name")

KINDS: Final[dict[str, Kind]] = {
    LOG: Kind(keys={}, private=False),
    "webhook": Kind(
        keys={"url": _url, "secret": _words}, needed=("url",), secrets=frozenset({"secret"}), limit=Rate(50, 1_000)
    ),
    "slack": Kind(
        keys={"token": _words, "channel": _words, "url": _url, "api": _url},
        needed=(("token", "url"),),
        secrets=frozenset({"token", "url"}),
        limit=Rate(1, 1_000),
    ),
    "pagerduty": Kind(
        keys={"routing_key": _words, "region": _one_of("us", "eu"), "resolve_after": duration, "api": _url},
        needed=("routing_key",),
        secrets=frozenset({"routing_key"}),
        limit=Rate(120, 60_000),
    ),
    "email": Kind(
        keys={
            "host": _HOST,
            "port": _port,
            "security": _one_of("starttls", "tls", "none"),
            "user": _words,
            "password": _words,
            "from": _MAIL_ADDRESS,
            "to": _MAILS,
        },
        needed=("host", "from", "to"),
        secrets=frozenset({"password"}),
        limit=Rate(30, 60_000),
    ),
    "telegram": Kind(
        keys={"token": _words, "chats": _CHATS, "api": _url},
        needed=("token", "chats"),
        secrets=frozenset({"token"}),
        limit=Rate(20, 60_000),
    ),
    "ntfy": Kind(
        keys={"server": _url, "topic": _words, "token": _words},
        needed=("topic",),
        secrets=frozenset({"token"}),
        limit=Rate(12, 60_000),
    ),
    "pushover": Kind(
        keys={"user": _words, "token": _words, "devices": _DEVICES, "api": _url},
        needed=("user", "token"),
        secrets=frozenset({"user", "token"}),
        limit=Rate(1, 1_000),
    ),
    "discord": Kind(keys={"url": _url}, needed=("url",), secrets=frozenset({"url"}), limit=Rate(30, 60_000)),
    "teams": Kind(keys={"url": _url}, needed=("url",), secrets=frozenset({"url"}), limit=Rate(1, 1_000)),
    "apprise": Kind(keys={"url": _words}, needed=("url",), secrets=frozenset({"url"}), limit=Rate(1, 1_000)),
}


def parse_limit(value: Any) -> Rate:
    """``"30/m"`` -> at most thirty in a minute. Raises ValueError with what is allowed."""
    match = _LIMIT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(LIMIT_HELP)
    return Rate(int(match[1]), _PER_MS[match[2]])


def limit_text(limit: Rate) -> str:
    """As it is written: ``30/m``."""
    return f"{limit.count}/{next(unit for unit, ms in _PER_MS.items() if ms == limit.period_ms)}"
