"""A channel as the sender sees it: its target, how much it may get, whether it is paused, and how it does.

    sound ── fails twice in a row ──► paused, for longer each time ── one message tries it ──► sound, or paused again
      │
      └── asks to be left alone (Retry-After) ──► paused for so long

A pause is of the channel, so a receiver that is down is not asked once for each of a thousand messages, and none of
these uses up its attempts meanwhile. Several senders may share an outlet: limit and pause are the receiver's.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tapewatch.notify.target import Outcome, Target
from tapewatch.rules.channels import Rate
from tapewatch.settings import NOTIFY_PAUSE_S_MAX

__all__ = ["Health", "Outlet", "Window"]

_SOUND_FAILURES: Final = 1
"""One failure is an accident; from the second in a row on the receiver is thought to be down."""


class Window:
    """At most `limit.count` in any `limit.period_ms`: the times of the newest ones."""

    def __init__(self, limit: Rate) -> None:
        self._period = timedelta(milliseconds=limit.period_ms)
        self._times: deque[datetime] = deque(maxlen=limit.count)
        self._count = limit.count

    @property
    def period(self) -> timedelta:
        """How far back it looks."""
        return self._period

    def wait_s(self, now: datetime) -> float:
        """How long until one more is allowed; 0 if it is now."""
        if len(self._times) < self._count:
            return 0.0
        return max((self._times[0] + self._period - now).total_seconds(), 0.0)

    def note(self, times: Iterable[datetime]) -> None:
        """So many more were sent."""
        self._times.extend(times)


@dataclass(slots=True)
class Health:
    """How a channel does, for people."""

    accepted_at: datetime | None = None
    failed_at: datetime | None = None
    last_error: str | None = None
    failures: int = 0
    """In a row."""
    paused_until: datetime | None = None


class Outlet:
    """One channel's target, with all that is true of the receiver whoever sends to it."""

    def __init__(
        self, name: str, kind: str, target: Target, *, limit: Rate | None = None, max_age_ms: int | None = None,
        first_pause_s: float = 1.0,
    ) -> None:  # fmt: skip
        self.name = name
        self.kind = kind
        self.target = target
        self.max_age_ms = max_age_ms
        self.health = Health()
        self.is_told = False
        """Whether its health, as it is now, has been written down."""
        self.window = None if limit is None else Window(limit)
        self.knows_past = limit is None
        """Whether the window holds what was sent before this process began."""
        self._first_pause_s = first_pause_s

    def told(self) -> dict[str, Any]:
        """What kind of channel it is, and how it does."""
        return {"kind": self.kind, **asdict(self.health)}

    def wait_s(self, now: datetime) -> float:
        """How long until something may be sent; 0 if it may be now."""
        until = self.health.paused_until
        paused_s = 0.0 if until is None else max((until - now).total_seconds(), 0.0)
        return max(paused_s, 0.0 if self.window is None else self.window.wait_s(now))

    def take(self, now: datetime) -> bool:
        """Whether one may be sent now; if so it counts as sent."""
        if self.wait_s(now) > 0:
            return False
        if self.window is not None:
            self.window.note([now])
        return True

    def note(self, outcome: Outcome, began: datetime, now: datetime) -> None:
        """How an attempt went that ``began`` at that time."""
        health, self.is_told = self.health, False
        if not outcome.error:
            health.accepted_at, health.failures, health.paused_until = now, 0, None
            return
        health.failed_at, health.last_error = now, outcome.error
        if health.paused_until is not None and began < health.paused_until and outcome.pause_s is None:
            return  # one of several that were under way when the first of them failed
        health.failures += 1
        pause_s = outcome.pause_s or 0.0
        if outcome.pause_s is None and health.failures > _SOUND_FAILURES:
            pause_s = min(self._first_pause_s * 2.0 ** min(health.failures - 2, 20), NOTIFY_PAUSE_S_MAX)
        if pause_s > 0:
            health.paused_until = max(now + timedelta(seconds=pause_s), health.paused_until or now)
