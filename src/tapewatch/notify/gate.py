"""Between the outbox and the sender: lets messages through, holds them, folds several into one.

    commit ─► notifications: new ─► Gate ─► waiting ─► Sender
                                     │ ▲
                                     ▼ │ due
                                     held

`policy` decides; this asks, writes the answer in one transaction, and wakes whoever sends. One gate at a time works on
a database. While the database is away everything stays as it is in it.

Promised: no message is lost here. What is not sent says why, in its row, for as long as the row is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import structlog

from tapewatch.errors import StoreUnavailable
from tapewatch.metrics import NOTIFY_GATE
from tapewatch.notify.policy import Fresh, Memory, Mute, Plan, Policy
from tapewatch.notify.sender import set_within

__all__ = ["Gate", "GateStore", "Look"]

LOOK_S: Final = 1.0
"""How often it looks when nobody says that there is something new."""

_logger = structlog.get_logger("tapewatch.notify")


class Look(NamedTuple):
    """What the gate has to decide about."""

    messages: Sequence[Fresh]
    mutes: Sequence[Mute]


class GateStore(Protocol):
    """The table of messages, as the gate sees it. Every method may raise `StoreUnavailable`."""

    async def look(self, now: datetime) -> Look | None:
        """The oldest messages that are new, or held and due; None while another process is the gate."""

    async def remembered(self, now: datetime) -> Memory | None:
        """What was let through lately; None unless it has to be learned anew (a new connection)."""

    async def write(self, plan: Plan, now: datetime) -> None:
        """All of it, or nothing."""

    async def close(self) -> None:
        """Let go of the connection."""


class Gate:
    """``on_passed`` is told the channels that have something to send, in the event loop."""

    def __init__(
        self,
        store: GateStore,
        policy: Callable[[], Policy],
        on_passed: Callable[[set[str]], object],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._policy = policy
        self._on_passed = on_passed
        self._now = now
        self._memory = Memory()
        self._waker = asyncio.Event()

    def wake(self) -> None:
        """There is something new. Called from the event loop's thread."""
        self._waker.set()

    async def run(self) -> None:
        """Look until cancelled."""
        answers = True
        try:
            while True:
                self._waker.clear()
                try:
                    has_more = await self.step()
                    answers = True
                except StoreUnavailable as error:
                    if answers:
                        _logger.warning("notifications wait for the database", error=str(error))
                    answers = has_more = False
                if not has_more:
                    await set_within(self._waker, LOOK_S)
        finally:
            await self._store.close()

    async def step(self) -> bool:
        """Decide about what is there now; whether there may be more."""
        now = self._now()
        look = await self._store.look(now)
        if look is None:
            return False
        if (learned := await self._store.remembered(now)) is not None:
            self._memory = learned
        if not look.messages:
            return False
        memory = self._memory.copy()
        plan = self._policy().plan(look.messages, look.mutes, memory, now)
        assert len(plan.moves) >= len(look.messages), "every message is decided about, or this would go on for ever"
        await self._store.write(plan, now)
        self._memory = memory
        for move in plan.moves:
            NOTIFY_GATE.labels(move.state).inc()
        if channels := plan.channels:
            self._on_passed(channels)
        return True
