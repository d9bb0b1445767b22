"""An event loop whose time leaps: when nothing is ready, it is at once the moment of the next timer.

    select(0) ── something came ──► handle it            real sockets, real bytes
        └─────── nothing, and nobody else is busy ──► the loop's time becomes that of the next timer

An hour of waiting takes no time, and every wait, deadline and time-out of asyncio and websockets keeps its order. Where
another thread takes part, ``busy`` says whether it is at work: time stands still meanwhile.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

LEAP_S_MAX = 0.25
"""One leap is no longer than this: bytes on the loopback device may need a moment."""
WAIT_S = 0.001
NAP_S = 0.000_2
"""A selector knows no wait so short, and the other thread is often ready sooner than in a millisecond."""
Result = TypeVar("Result")


class _Leaping(selectors.DefaultSelector):
    def __init__(self, busy: Callable[[], bool]) -> None:
        super().__init__()
        self.busy = busy
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:
            return super().select(WAIT_S)
        if self.busy():
            time.sleep(NAP_S)
            return super().select(0)
        self.now_s += min(timeout, LEAP_S_MAX)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0."""

    def __init__(self, busy: Callable[[], bool] = lambda: False) -> None:
        self._leaping = _Leaping(busy)
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now_s


def run_virtual(work: Coroutine[Any, Any, Result], busy: Callable[[], bool] = lambda: False) -> Result:
    """Run ``work`` to its end, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(busy)) as runner:
        return runner.run(work)
