"""What was missed, asked for once more: REST may show trades later than the stream, or may just have been away.

    gap filled ──► BACKFILL_REPEAT ──► asked for again ──► Recorder.offer ──► log (late, where the bar has ended)
                         ▲                   │ still missing
                         └── twice as long ──┘ at most REPEATS_MAX times

One thread with a loop of its own, one gap at a time: newer trades never wait for it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from tapewatch.feed.backfill import Fill
from tapewatch.records import Gap, Market

__all__ = ["Found", "Past", "Refill"]

REPEATS_MAX: Final = 5
FILL_S_MAX: Final = 1_800.0
"""One gap's repeat takes no longer; on a plan of 5 calls a minute that is 150 calls."""
STRETCH_MS_MAX: Final = 86_400_000
"""Repeats are recognised for about a day, so nothing older is asked for."""
_WAIT_S: Final = 0.2
_log = structlog.get_logger(__name__)


class Past(Protocol):
    """What a market's stream would have shown."""

    def __call__(
        self, market: Market, symbols: Sequence[str], from_ms: int, to_ms: int, within_s: float
    ) -> Coroutine[Any, Any, Fill]:
        """Of these symbols (none: all that are watched) in [from_ms, to_ms), oldest first. Raises no `FeedError`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was fetched beside the stream: for a gap, or (None) to make symbols warm. ``recorded`` is set afterwards."""

    market: Market
    symbols: tuple[str, ...]
    from_ms: int
    to_ms: int
    fill: Fill
    gap: Gap | None = None
    tries: int = 0
    recorded: threading.Event = field(default_factory=threading.Event)


class Refill:
    """Runs in its own thread, from the first gap on until `stop`. ``deliver`` is called there."""

    def __init__(self, past: Past, deliver: Callable[[Found], object], after_s: float) -> None:
        self._past = past
        self._deliver = deliver
        self._after_s = after_s
        self._due: list[tuple[float, int, Gap, int]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def later(self, gap: Gap, tries: int = 0) -> None:
        """Ask for the gap again in a while, unless it was asked for often enough. From any thread."""
        if self._after_s <= 0 or tries >= REPEATS_MAX:
            return
        with self._changed:
            due_s = time.monotonic() + self._after_s * 2**tries
            heapq.heappush(self._due, (due_s, next(self._numbers), gap, tries))
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="refill", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> None:
        """Give up what is being asked for; the next start asks again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            gap, tries = job
            start_ms = max(gap.from_ms, gap.to_ms - STRETCH_MS_MAX)
            try:
                fill = asyncio.run(self._unless_stopped(gap, start_ms))
            except asyncio.CancelledError:
                return
            found = Found(gap.market, tuple(gap.symbols), start_ms, gap.to_ms, fill, gap, tries + 1)
            _log.info("gap asked for again", market=gap.market.name.lower(), trades=len(fill.batch), why=fill.why)
            self._deliver(found)

    def _next(self) -> tuple[Gap, int] | None:
        """The next gap, when it is due; None: stop."""
        with self._changed:
            while not self._stopping:
                left_s = self._due[0][0] - time.monotonic() if self._due else None
                if left_s is not None and left_s <= 0:
                    _, _, gap, tries = heapq.heappop(self._due)
                    return gap, tries
                self._changed.wait(left_s)
        return None

    async def _unless_stopped(self, gap: Gap, start_ms: int) -> Fill:
        asking = asyncio.create_task(self._past(gap.market, gap.symbols, start_ms, gap.to_ms, FILL_S_MAX))
        while not asking.done():
            await asyncio.wait({asking}, timeout=_WAIT_S)
            if self._stopping:
                asking.cancel()
        return await asking
