"""What the sender and the targets say to one another.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from tapewatch.records import Notification

__all__ = ["FollowUp", "Outcome", "Receipt", "Target"]

Receipt = Mapping[str, Any]
"""What a receiver gave back for a message, by which a follow-up finds it again."""


class FollowUp(msgspec.Struct, frozen=True):
    """A message that is to be sent later, because of one that was accepted: written in the same transaction."""

    notification: Notification
    after_s: float


class Outcome(msgspec.Struct, frozen=True):
    """How one attempt went. ``error`` is empty when the receiver has accepted the message.

    ``pause_s`` is how long the receiver asked to be left alone, if it did.
    """

    error: str = ""
    pause_s: float | None = None
    receipt: dict[str, Any] | None = None
    follow_up: FollowUp | None = None


class Target(Protocol):
    """Somewhere a message can be delivered."""

    @property
    def in_order(self) -> bool:
        """A message that failed is tried again before any after it."""

    @property
    def parallel(self) -> int:
        """How many messages may be under way at once."""

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Try once. Does not raise for anything a receiver does.

        ``earlier`` is the receipt of the newest accepted message of the same alert on this channel, if it has one.
        """

    async def close(self) -> None:
        """Let go of connections; the target is not used afterwards."""
