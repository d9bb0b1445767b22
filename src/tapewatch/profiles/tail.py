"""What was just made durable, for the engine next door: the newest batches of the log, in memory.

The recorder adds each batch after the log has it; the engine takes them in order. An engine that is further behind
than what is kept here (after a restart, or while the database is away) reads the log itself.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from tapewatch.records import Batch

TAIL_RECORDS_MAX: Final = 200_000


class Tail:
    """Thread-safe; one thread adds, one takes."""

    def __init__(self, end: int) -> None:
        self._batches: deque[Batch] = deque()
        self._records = 0
        self._end = end
        self._wanted = end + 1  # the end that the reader waits for: one before it does not wake it
        self._changed = threading.Condition()

    @property
    def end(self) -> int:
        """Offset after the newest durable record."""
        return self._end

    def add(self, batch: Batch) -> None:
        """``batch`` is durable."""
        with self._changed:
            self._batches.append(batch)
            self._records += len(batch)
            self._end = batch.offset + len(batch)
            while self._records > TAIL_RECORDS_MAX and len(self._batches) > 1:
                self._records -= len(self._batches.popleft())
            if self._end >= self._wanted:
                self._changed.notify()

    def wait(self, end: int, timeout_s: float) -> bool:
        """Whether the log reaches ``end``; waits for it for a while."""
        with self._changed:
            self._wanted = end
            return self._changed.wait_for(lambda: self._end >= end, timeout_s)

    def take(self, position: int) -> list[Batch] | None:
        """All batches from ``position`` on, or None when the first of them is not kept here any more."""
        with self._changed:
            while self._batches and self._batches[0].offset + len(self._batches[0]) <= position:
                self._records -= len(self._batches.popleft())
            if not self._batches:
                return None if self._end > position else []
            if self._batches[0].offset > position:
                return None
            taken = list(self._batches)
            self._batches.clear()
            self._records = 0
        if taken[0].offset < position:
            taken[0] = taken[0].slice(position - taken[0].offset, len(taken[0]))
        return taken
