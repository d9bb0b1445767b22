"""What a connection needs of the protocol that is spoken on it: the seam between `client.py` and the exchanges.

The client owns the socket and the clock; a `WireSession` owns the meaning of the bytes. Massive's is
`protocol.Session`; another exchange brings its own, and the client treats it alike.

    socket open ─► opened() ─► messages to send
    frame ─► is_status()? ─► received() ─► messages to send      (else straight into the queue)
    about once a second ─► overdue()
    the watched symbols change ─► change() ─► messages to send
    socket ended ─► end(...)

Every method is called in the client's event loop, never blocks and never raises on what the exchange sent. Times are
ns of a monotonic clock that the client reads.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from tapewatch.feed.endings import Cause, Ending

__all__ = ["STABLE_NS", "Phase", "SessionLife", "WireSession"]

STABLE_NS: Final = 10_000_000_000
"""Live for so long, a connection counts as stable, and the back-off starts anew."""


class Phase(StrEnum):
    """Where a connection is."""

    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    SUBSCRIBING = "subscribing"
    LIVE = "live"
    STALE = "stale"
    CLOSED = "closed"


class WireSession(Protocol):
    """The state of one connection. ``ended`` is set once and says why; the client then closes the socket."""

    ended: Ending | None
    not_authorized: int
    """Times the exchange said that something asked for is not allowed."""
    phase: Phase
    """Where the connection is."""

    @property
    def acked(self) -> list[str]:
        """Topics the exchange has confirmed."""

    @property
    def unconfirmed(self) -> list[str]:
        """Topics that got no answer in time."""

    @property
    def refused(self) -> list[str]:
        """Topics that are not allowed, as far as that is known."""

    @property
    def was_live(self) -> bool:
        """It has been `LIVE`, whatever it is now."""

    def opened(self, now_ns: int) -> list[str]:
        """The socket is open: the messages to send at once (none where the exchange speaks first)."""

    def is_status(self, data: bytes) -> bool:
        """Cheaply, while `LIVE`: must ``received`` see this frame? When not, it goes straight into the queue."""

    def received(self, data: bytes, now_ns: int) -> tuple[list[str], bool]:
        """Take a frame: the messages to send in answer, and whether the frame holds data to be queued too."""

    def change(self, topics: Sequence[str], now_ns: int) -> list[str]:
        """These are the topics from now on: the messages that bring the difference; the connection is kept."""

    def overdue(self, now_ns: int) -> None:
        """Look whether something has been waited for too long. Called about once a second."""

    def end(self, how: Ending) -> None:
        """The connection is over. The first reason given is kept: what follows it is its consequence."""

    def is_stable(self, now_ns: int) -> bool:
        """It was live long enough for the back-off to start anew."""


class SessionLife:
    """How every exchange's session begins, goes live and ends: that part of a `WireSession`."""

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
        self.ended: Ending | None = None
        self._live_ns: int | None = None

    @property
    def was_live(self) -> bool:
        """It has been `LIVE`, whatever it is now."""
        return self._live_ns is not None

    def is_stable(self, now_ns: int) -> bool:
        """It was live long enough for the back-off to start anew."""
        return self._live_ns is not None and now_ns - self._live_ns >= STABLE_NS

    def end(self, how: Ending) -> None:
        """The connection is over. The first reason given is kept: what follows it is its consequence."""
        if self.ended is None:
            self.ended = how
            self.phase = Phase.STALE if how.cause is Cause.SILENCE else Phase.CLOSED

    def _live(self, now_ns: int) -> None:
        """The exchange has said or shown that it sends; only a session that has asked for it goes live."""
        if self.phase is Phase.SUBSCRIBING:
            self.phase = Phase.LIVE
            self._live_ns = now_ns
