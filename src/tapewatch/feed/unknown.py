"""Condition codes that no table knows, counted by code: whoever reads the counts knows what to look up.

Looks at each list of codes once, not at each trade. Moves the feed's metrics. No clock, no socket.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch import metrics
from tapewatch.feed.conditions import INSIDE, TABLE_DATE, UNKNOWN, ConditionTable, eligibility
from tapewatch.records import Batch, Tables

__all__ = ["UnknownCodes"]

CODES_MAX: Final = 100
"""Different codes that are counted by themselves; the exchange could send any number of them."""
_BASE: Final = ConditionTable(TABLE_DATE, "", {code: bits for code, bits in INSIDE.items() if code >= 0}, {})


class UnknownCodes:
    """Counts the trades of each unknown code; ``counts`` may be read from other threads. Beyond `CODES_MAX`: -1."""

    def __init__(self, tables: Tables) -> None:
        self.counts: Counter[int] = Counter()
        self.table: ConditionTable = _BASE
        self._conditions = tables.conditions
        self._is_unknown: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def count(self, batch: Batch) -> None:
        """New trades."""
        known = len(self._is_unknown)
        if len(self._conditions) > known:
            new = [bool(eligibility(codes) & UNKNOWN) for codes in self._conditions.values[known:]]
            self._is_unknown = np.concatenate([self._is_unknown, np.array(new, np.bool_)])
        if not self._is_unknown.any():
            return
        rows = np.flatnonzero(self._is_unknown[batch.conditions])
        for number, trades in zip(*np.unique(batch.conditions[rows], return_counts=True), strict=True):
            for code in dict.fromkeys(self.table.unknown(self._conditions.values[int(number)])):
                counted = code if code in self.counts or len(self.counts) < CODES_MAX else -1
                self.counts[counted] += int(trades)
                metrics.FEED_UNKNOWN_CONDITIONS.labels("others" if counted < 0 else str(counted)).inc(int(trades))
