"""How long a program runs that works until it is told to end: a signal ends it, or an error of one of its parts.

    run(start) ─► step ─► step ─► step ─► at work ──── signal or error ───► ended, in order
                    └──────┴──────┴─ the same between two steps of the start ─┘

What a start does not finish after a signal is no error: Ctrl-C reaches the programs that were started for it too, and
they end before it does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterable, Iterator
from typing import Final, TypeVar

from tapewatch.errors import TapewatchError

__all__ = ["Lifetime"]

_Item = TypeVar("_Item")
_SIGNAL_S: Final = 0.2
"""So long a failed start waits for a signal: that of a Ctrl-C may be heeded after the end of a program it ended too."""


class _Cut(Exception):
    """The end has come before the start was finished."""


class Lifetime:
    """To be made in the event loop; signals are heeded from then on.

    What ends it first counts: what follows is its consequence.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, None)

    async def run(self, start: Awaitable[object]) -> None:
        """Await ``start``, and return at SIGTERM or SIGINT. Raises what failed in the start, or later in a part."""
        try:
            await start
        except (TapewatchError, _Cut):
            await asyncio.wait([self._ended], timeout=_SIGNAL_S)
            if not self._ended.done():
                raise
        await self._ended

    def _go_on(self) -> None:
        """Between two steps of the start; from any thread. Raises when it is to end, and `run` understands."""
        if self._ended.done():
            raise _Cut

    def _each(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same between any two of ``items``."""
        for item in items:
            self._go_on()
            yield item

    def _end(self, error: BaseException | None) -> None:
        """Called in the loop: stop, with an error or without."""
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _thread_ended(self, error: BaseException | None) -> None:
        """As `_end`, from any thread; the orderly end of a thread ends nothing else."""
        if error is not None:
            self._loop.call_soon_threadsafe(self._end, error)
