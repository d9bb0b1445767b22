"""The tables `[notify]` and `[system]` of `alerts.toml`, as every room knows them; the channels are notify's own.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import msgspec

__all__ = ["NotifyOptions", "Rate", "SystemOptions"]


class Rate(msgspec.Struct, frozen=True):
    """At most ``count`` in ``period_ms``, written ``1/s``, ``30/m``, ``100/h``."""

    count: int
    period_ms: int


class NotifyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[notify]`."""

    limit: Rate = Rate(20, 60_000)
    """Messages of all rules to one channel; what is more is told in a digest."""
    digest_ms: int = 300_000
    """How often at most a digest is sent."""
    burst_ms: int = 60_000
    """Alerts of one rule and symbol within this are one message: "7 times, last …". 0: never."""
    hold_grade_d: bool = True
    """Whether alerts of a minute of grade D are held and said to be."""
    link: str = ""
    """How people reach the page: the start of the links to the evidence. Empty: HTTP_HOST and HTTP_PORT."""


class SystemOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[system]`."""

    ping_url: str = ""
    """A dead man's switch: this address (or ``env:NAME`` of it) is fetched as long as all is well. Empty: none."""
    ping_every_ms: int = 60_000
    test_at_open: bool = False
    """Whether a test alert goes the whole way at each opening of the market."""
    test_channels: tuple[str, ...] | None = None
    """To whom; None: every channel."""
