"""The hand-off from the sockets to the one thread that decodes: bounded in bytes, in order of arrival.

    asyncio loop                                     consumer thread
    put(frame) ─► False when full                    take(events, timeout) ─► what has arrived, about `events` events
    await wait_room() ◄───────── room again ─────────┘

Overflow: when the queue is full the reader stops reading, so TCP slows the sender; no frame is dropped here. (If that
lasts, the exchange cuts the connection as that of a slow consumer, and the gap is recorded with its bounds.) A gap's
end and a change of what is wanted are always taken in; a tick is not when the queue is full, since the next one says
more. The fullest it has been, and how often it was full, are counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from tapewatch import metrics
from tapewatch.records import Market
from tapewatch.settings import QUEUE_BYTES_MAX

__all__ = ["Frame", "FrameQueue", "GapEnd", "Item", "Sink", "TickDue", "Wanted"]

EVENT_BYTES: Final = 150
"""What an event takes on the wire, about; to guess the number of events in a frame."""
_SMALL_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the exchange, as it came."""

    market: Market
    data: bytes
    received_ns: int


@dataclass(frozen=True, slots=True)
class TickDue:
    """The feed's clock has reached ``time_ms`` (event time) and the market's feed is live."""

    market: Market
    time_ms: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class GapEnd:
    """The market's feed is live again from ``to_ms`` (event time) on; what it missed before is a gap.

    It begins at ``from_ms`` where that is known, else at the last moment up to which everything had come.
    """

    market: Market
    to_ms: int
    cause: str
    symbols: tuple[str, ...]
    received_ns: int
    from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """From here on these product symbols are wanted, of all markets together, and no others (None: all)."""

    symbols: frozenset[str] | None
    received_ns: int


Item = Frame | TickDue | GapEnd | Wanted


class Sink(Protocol):
    """Where a client puts what arrives: the `FrameQueue`, or something in front of it."""

    def put(self, item: Item) -> bool:
        """Take the item in, or return False when there is no room; the same item is then given again."""

    async def wait_room(self) -> None:
        """Until it is worth trying again."""


class FrameQueue:
    """Thread-safe; any number of producers in asyncio loops, one consumer in a thread."""

    def __init__(self, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._is_full = False
        self.bytes_peak = 0
        """The most bytes that were in it at once since the start."""
        self.times_full = 0
        """How often it has become full since the start."""
        self._wanted = 1  # bytes that the consumer waits for: fewer do not wake it
        self._changed = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @property
    def bytes_waiting(self) -> int:
        """Bytes of what is in the queue."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Add at the end; False, and nothing is added, when the queue is full. An empty queue takes any item."""
        size = _size(item)
        with self._changed:
            if self._items and self._bytes + size > self._bytes_max and not isinstance(item, GapEnd | Wanted):
                self._note_full()
                return False
            self._items.append(item)
            self._bytes += size
            self.bytes_peak = max(self.bytes_peak, self._bytes)
            if self._bytes >= self._wanted:
                self._changed.notify()
        return True

    def _note_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            self.times_full += 1
            metrics.FEED_QUEUE_FULL.inc()

    async def wait_room(self) -> None:
        """Until the consumer has taken something."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if not self._items:
                return
            self._waiting.append((loop, taken))
        await taken

    def take(self, events_max: int, timeout_s: float, due_s: float = 0.0) -> list[Item]:
        """The oldest items, one at least and about ``events_max`` events; none if nothing came in time.

        Fewer events than that are not taken before ``due_s`` (`time.monotonic`), so that they come together.
        """
        with self._changed:
            if not self._items:
                self._changed.wait_for(lambda: bool(self._items), timeout_s)
            taken: list[Item] = []
            room = events_max * EVENT_BYTES
            if self._items and self._bytes < room and (left_s := due_s - time.monotonic()) > 0:
                self._wanted = room
                self._changed.wait_for(lambda: self._bytes >= room, left_s)
                self._wanted = 1
            while self._items and (not taken or room > 0):
                item = self._items.popleft()
                taken.append(item)
                size = _size(item)
                room -= size
                self._bytes -= size
            waiting, self._waiting = (self._waiting, []) if taken else ([], self._waiting)
            if taken:
                self._is_full = False
            metrics.FEED_QUEUE_BYTES.set(self._bytes)
            metrics.FEED_QUEUE_PEAK.set(self.bytes_peak)
        for loop, future in waiting:
            with suppress(RuntimeError):  # that loop has ended, and its reader with it
                loop.call_soon_threadsafe(_wake, future)
        return taken


def _size(item: Item) -> int:
    return len(item.data) if isinstance(item, Frame) else _SMALL_BYTES


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
