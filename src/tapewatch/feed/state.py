"""What is known of one market's feed, and on what terms it can be had.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tapewatch.feed.wire import Phase
from tapewatch.records import Market

__all__ = ["FeedState", "Terms", "Topics"]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a market can be had: where, which topics, and how late."""

    url: str
    topics: Sequence[str]
    delay_ms: int = 0
    """How late the data is by the plan."""
    behind_ms: int = 0
    """How much later a bar comes than it began, where bars are all that can be had."""
    notices: tuple[str, ...] = ()
    """What the person must know of it, a sentence each."""


@dataclass(frozen=True, slots=True)
class Topics:
    """What is known of the topics on this connection."""

    asked: tuple[str, ...] = ()
    acked: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedState:
    """What the status page shows of one market's feed. Times are Unix ns of the feed's clock, 0 for never."""

    market: Market
    phase: Phase
    since_ns: int
    """When the phase was entered."""
    last_ending: str
    """Why the connection before ended, in one sentence; empty if none has."""
    reconnects: int
    """Connections that ended since the start."""
    acked: int
    """Topics confirmed on this connection."""
    unconfirmed: tuple[str, ...]
    """Topics without an answer: they may still bring data."""
    not_authorized: int
    """Answers that the plan lacks a topic; the exchange does not say which."""
    last_frame_ns: int
    delay_ms: int = 0
    """How late the data is by the plan."""
    behind_ms: int = 0
    """How late bars are beside that, where bars are all that can be had."""
    refused: tuple[str, ...] = ()
    """Topics that the plan lacks, as far as that is known."""
    notices: tuple[str, ...] = ()
    """What troubles the feed without ending it, a sentence each."""
