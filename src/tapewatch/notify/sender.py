"""Takes what waits in the outbox and delivers it, apart from the path of the data.

                       accepted
    waiting ────────────────────────────► delivered
     ▲   │   refused, attempts left
     └───┤   (again after a back-off)
         │   refused for the last time, or too old
         └──────────────────────────────► dead        stays visible, with its reason; can be sent again

Promised: *at least once*. A message is marked delivered only after its receiver accepted it, so a crash in between
sends it again, with the same id; an orderly stop or a database that goes away in between does not. Not promised: order
between different alerts (but on a channel that asks for it), or exactly once.

Each channel has tasks of its own, so a webhook that hangs holds up neither the log nor the data. What is true of a
receiver (its limit, its pauses, its health) is its `Outlet`'s, which several senders may share.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from tapewatch.errors import StoreUnavailable
from tapewatch.metrics import NOTIFY_DEAD, NOTIFY_OLDEST, NOTIFY_SENT, NOTIFY_WAITING
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.target import Outcome, Receipt
from tapewatch.records import AlertStatus, Notification
from tapewatch.settings import NOTIFY_BACKOFF_S_MAX, NOTIFY_BATCH_MAX, NOTIFY_POLL_S, NOTIFY_STOP_S

_FIRST_BACKOFF_S: Final = 2.0
_PATIENCE: Final = 10
"""A receiver that says when to come back is come back to so many times more often; age ends that sooner."""

_logger = structlog.get_logger("tapewatch.notify")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message in the outbox."""

    notification: Notification
    attempts: int
    created_at: datetime
    """Since when it could have been sent."""
    announced: bool
    """The provisional one of its alert was delivered to this channel, by itself or as part of another."""
    resent: bool = False
    """A person sent it again, however old it is."""
    superseded: bool = False
    """What it would end has begun anew since."""
    earlier: Receipt | None = None
    """See `Target.deliver`."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the outbox is told of a message that was accepted."""

    notification_id: str
    attempts: int
    at: datetime
    outcome: Outcome


class Counts(NamedTuple):
    """How many messages of all channels are in each state that a person should know of."""

    waiting: int
    dead: int
    oldest_s: float
    """When the oldest of those that wait was written, Unix seconds; 0 when none waits."""


class OutboxStore(Protocol):
    """The table of messages. Every method may raise `StoreUnavailable`, and may then be called again.

    ``attempts`` is always the number so far, the one just made included.
    """

    async def claim(self, channel: str, limit: int, now: datetime, *, in_order: bool = False) -> Sequence[Waiting]:
        """Up to ``limit`` messages that are due, oldest first; a follow-up only after its provisional is settled.

        ``in_order``: none while an older one waits for its next attempt.
        """

    async def delivered(self, told: Delivered) -> None:
        """The receiver has accepted it; what is to follow is written with it."""

    async def failed(self, notification_id: str, attempts: int, error: str, next_attempt_at: datetime) -> None:
        """One more attempt went wrong; it is due again at ``next_attempt_at``."""

    async def dead(self, notification_id: str, attempts: int, error: str) -> None:
        """It is given up."""

    async def needless(self, notification_id: str, reason: str) -> None:
        """There is nothing left to say."""

    async def sent_since(self, channel: str, since: datetime) -> Sequence[datetime]:
        """When this channel's messages were accepted, oldest first."""

    async def counts(self) -> Counts:
        """For the metrics."""


class Sender:
    """Delivers what waits. ``news_age_ms``: a message that has waited longer is no news any more."""

    def __init__(
        self,
        outbox: OutboxStore,
        outlets: Mapping[str, Outlet],
        *,
        attempts_max: int,
        news_age_ms: int,
        first_backoff_s: float = _FIRST_BACKOFF_S,
        poll_s: float = NOTIFY_POLL_S,
        chance: random.Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._outbox = outbox
        self._outlets = outlets
        self._attempts_max = attempts_max
        self._news_age_ms = news_age_ms
        self._first_backoff_s = first_backoff_s
        self._poll_s = poll_s
        self._chance = chance or random.Random()
        self._now = now
        self._counted = False
        self._told_to_stop = asyncio.Event()
        self._accepted: dict[str, dict[str, Delivered]] = {channel: {} for channel in outlets}
        self._wakers = {channel: asyncio.Event() for channel in outlets}

    def wake(self) -> None:
        """There is something new in the outbox. Called from the event loop's thread."""
        for waker in self._wakers.values():
            waker.set()

    def stop(self) -> None:
        """Begin nothing new; `run` returns when what is under way has ended, or after `NOTIFY_STOP_S`."""
        self._told_to_stop.set()
        self.wake()

    async def run(self) -> None:
        """Deliver until stopped or cancelled. While the database is away, messages wait in it and this waits for it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for outlet in self._outlets.values():
                    tasks.create_task(self._channel(outlet), name=f"notify {outlet.name}")
        finally:
            for channel in self._outlets:
                with suppress(StoreUnavailable):  # then it is as after a crash: sent again, with the same id
                    await self._mark_accepted(channel)

    async def step(self, channel: str) -> int:
        """Try what is due on ``channel`` now, each message once; how many were taken from the outbox."""
        outlet = self._outlets[channel]
        await self._mark_accepted(channel)
        if not outlet.knows_past and outlet.window is not None:
            outlet.window.note(await self._outbox.sent_since(channel, self._now() - outlet.window.period))
            outlet.knows_past = True
        if outlet.wait_s(self._now()) > 0:
            return 0
        target = outlet.target
        due = deque(await self._outbox.claim(channel, NOTIFY_BATCH_MAX, self._now(), in_order=target.in_order))
        taken = len(due)
        at_once = min(target.parallel, taken)
        if at_once > 1:
            # All are let finish: one whose delivery is cut off because the database is away would be sent again.
            ends = await asyncio.gather(
                *(self._deliver_all(outlet, due) for _ in range(at_once)), return_exceptions=True
            )
            for error in filter(None, ends):
                raise error
        else:
            await self._deliver_all(outlet, due)
        if taken or not self._counted:
            counts = await self._outbox.counts()
            NOTIFY_WAITING.set(counts.waiting)
            NOTIFY_DEAD.set(counts.dead)
            NOTIFY_OLDEST.set(counts.oldest_s)
            self._counted = True
        return taken - len(due)

    async def _channel(self, outlet: Outlet) -> None:
        waker, answers = self._wakers[outlet.name], True
        while not self._told_to_stop.is_set():
            waker.clear()
            try:
                taken = await self._step_or_stop(outlet)
                answers = True
            except StoreUnavailable as error:
                if answers:
                    _logger.warning("notifications wait for the database", channel=outlet.name, error=str(error))
                answers, taken = False, 0
            if taken < NOTIFY_BATCH_MAX:
                wait_s = outlet.wait_s(self._now())
                await set_within(waker, min(wait_s, self._poll_s) if answers and wait_s else self._poll_s)

    async def _step_or_stop(self, outlet: Outlet) -> int:
        """A step; one that is under way when all is to stop is given a little time."""
        step = asyncio.ensure_future(self.step(outlet.name))
        stop = asyncio.ensure_future(self._told_to_stop.wait())
        try:
            await asyncio.wait([step, stop], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                await asyncio.wait([step], timeout=NOTIFY_STOP_S)
            return await step if step.done() else 0
        finally:
            for task in (step, stop):
                task.cancel()
            await asyncio.wait([step, stop])

    async def _deliver_all(self, outlet: Outlet, due: deque[Waiting]) -> None:
        while due and not self._told_to_stop.is_set():
            if reason := self._no_news(outlet, due[0]):
                await self._leave(outlet.name, due.popleft(), reason)
                continue
            if not outlet.take(self._now()):
                break
            accepted = await self._settle(outlet, due.popleft())
            if outlet.target.in_order and not accepted:
                break

    async def _settle(self, outlet: Outlet, waiting: Waiting) -> bool:
        """One attempt, and its outcome in the outbox; whether it was accepted."""
        channel, began = outlet.name, self._now()
        outcome = await outlet.target.deliver(self._as_sent(outlet, waiting, began), waiting.earlier)
        now = self._now()
        outlet.note(outcome, began, now)
        attempts = waiting.attempts + 1
        if not outcome.error:
            message_id = waiting.notification.id
            self._accepted[channel][message_id] = Delivered(message_id, attempts, now, outcome)
            NOTIFY_SENT.labels(channel, "delivered").inc()
            await self._mark_accepted(channel)
            return True
        pause_s = outcome.pause_s or 0.0
        last = self._attempts_max * (1 if outcome.pause_s is None else _PATIENCE)
        if attempts >= last:
            await self._give_up(channel, waiting, attempts, f"{outcome.error} (attempt {attempts}, the last)")
            return False
        wait_s = max(pause_s, backoff_s(attempts, self._chance.random(), self._first_backoff_s))
        NOTIFY_SENT.labels(channel, "failed").inc()
        _logger.info("notification not delivered", channel=channel, again_in_s=round(wait_s, 1), error=outcome.error)
        next_attempt_at = now + timedelta(seconds=wait_s)
        await self._outbox.failed(waiting.notification.id, attempts, outcome.error, next_attempt_at)
        return False

    def _as_sent(self, outlet: Outlet, waiting: Waiting, now: datetime) -> Notification:
        """What is too old for news and is sent all the same says how late it is."""
        n, late_s = waiting.notification, (now - waiting.created_at).total_seconds()
        if late_s <= self._news_age_s(outlet) or n.event == "expired" or "text" not in n.payload:
            return n
        text = f"{late_s / 60:,.0f} min late: {n.payload['text']}"
        return msgspec.structs.replace(n, payload=n.payload | {"text": text})

    def _news_age_s(self, outlet: Outlet) -> float:
        return (outlet.max_age_ms or self._news_age_ms) / 1_000

    async def _mark_accepted(self, channel: str) -> None:
        """Mark what was delivered. What the database has not heard yet is kept, and told before anything is sent."""
        accepted = self._accepted[channel]
        while accepted:
            notification_id, told = next(iter(accepted.items()))
            await self._outbox.delivered(told)
            accepted.pop(notification_id, None)

    def _no_news(self, outlet: Outlet, waiting: Waiting) -> str:
        """Why this message should not be sent at all; empty when it should."""
        event = waiting.notification.event
        if waiting.superseded:
            return "needless: it began anew since"
        if event == AlertStatus.RETRACTED and not waiting.announced:
            return "nothing to retract: the provisional notification was never delivered"
        age_s = (self._now() - waiting.created_at).total_seconds()
        if age_s > self._news_age_s(outlet) and not waiting.resent and not waiting.announced and event != "expired":
            tried = f", {waiting.attempts} tried in vain" if waiting.attempts else " at its first possible sending"
            return f"too old: {age_s:.0f} s{tried}"
        return ""

    async def _leave(self, channel: str, waiting: Waiting, reason: str) -> None:
        if waiting.superseded:
            await self._outbox.needless(waiting.notification.id, reason)
        else:
            await self._give_up(channel, waiting, waiting.attempts, reason)

    async def _give_up(self, channel: str, waiting: Waiting, attempts: int, reason: str) -> None:
        NOTIFY_SENT.labels(channel, "dead").inc()
        _logger.warning("notification given up", channel=channel, id=waiting.notification.id, reason=reason)
        await self._outbox.dead(waiting.notification.id, attempts, reason)


def backoff_s(attempts: int, chance: float, first_s: float = _FIRST_BACKOFF_S) -> float:
    """The wait after the ``attempts``-th failure: 2 s, doubled each time up to the limit, less up to half by chance."""
    assert attempts >= 1
    assert 0.0 <= chance <= 1.0
    full_s = min(first_s * 2.0 ** min(attempts - 1, 30), NOTIFY_BACKOFF_S_MAX)
    return full_s * (1.0 - chance / 2)


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait for ``event``, but not longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
