"""Feeds that are broken on purpose, each in one of the ways that feeds are: the chaos proof must catch every one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chaos_feed import WatchedQueue
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.queue import Frame, GapEnd, Item
from tapewatch.records import Batch


class Forgetful(Seen):
    """No de-duplication: every trade is new."""

    def filter(self, batch: Batch) -> NDArray[np.bool_]:
        return np.ones(len(batch), np.bool_)


class Proud(WatchedQueue):
    """Never admits that it missed anything: gaps are left out."""

    def put(self, item: Item) -> bool:
        return True if isinstance(item, GapEnd) else super().put(item)


class Careless(WatchedQueue):
    """Loses one frame in fifty, as a queue does that drops what is new when it is full."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def put(self, item: Item) -> bool:
        self._count += isinstance(item, Frame)
        if isinstance(item, Frame) and self._count % 50 == 0:
            return True
        return super().put(item)
