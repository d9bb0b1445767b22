"""What the log says of the alert rules: all of them at the start, at each change, and now and then again.

    records   ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
    RULES     ▲ start            ▲ file      ▲ repeat     (REPEAT_MS of event time after the last)

Repeated rules change nothing; they are for those who begin to read in the middle, and for a log whose beginning is no
longer kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import numpy as np

from tapewatch.records import Batch, Kind
from tapewatch.rules.change import RuleChange, Who
from tapewatch.rules.model import Rules
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["REPEAT_MS", "SEARCH_MS", "RulesSaid", "first_of", "first_rules", "rules_before"]

REPEAT_MS: Final = 600_000
SEARCH_MS: Final = 2 * REPEAT_MS
"""Within so much event time the rules are found, where the log says any; gaps of the recording aside."""


class RulesSaid:
    """`say` is for any thread, all else for the one that writes the log."""

    def __init__(self, rules: Rules | None) -> None:
        """``rules`` hold at the start; None: nothing is said before `say`."""
        self._waiting: SimpleQueue[tuple[Rules, Who]] = SimpleQueue()
        self._rules: Rules | None = None
        self._said_ms = 0
        if rules is not None:
            self.say(rules, "start")

    @property
    def is_waiting(self) -> bool:
        """Something is to be said."""
        return not self._waiting.empty()

    def say(self, rules: Rules, who: Who) -> None:
        """These rules hold from the next record on."""
        self._waiting.put((rules, who))

    def batch(self, batches: Sequence[Batch], known_ms: int | None, now_ns: int) -> Batch:
        """What is to be said before ``batches``; ``known_ms`` is the last event time known of any market before them.

        Where no time is known yet, it waits for the first records, and has the least of their times.
        """
        oldest = [int(batch.time_ms.min()) for batch in batches if len(batch)]
        time_ms = known_ms if known_ms is not None else min(oldest, default=None)
        if time_ms is None:
            return Batch.empty()
        changes: list[RuleChange] = []
        try:
            while True:
                self._rules, who = self._waiting.get_nowait()
                changes.append(RuleChange(self._rules, who, time_ms))
        except Empty:
            pass
        if not changes and self._rules is not None and time_ms - self._said_ms >= REPEAT_MS:
            changes.append(RuleChange(self._rules, "repeat", time_ms))
        if changes:
            self._said_ms = time_ms
        return Batch.of([change.row(Kind.RULES, now_ns) for change in changes]) if changes else Batch.empty()


class Records(Protocol):
    """What is needed of a log: `log.reader.LogReader`."""

    @property
    def first(self) -> int:
        """Offset of the first record kept."""

    @property
    def end(self) -> int:
        """Offset after the last record."""

    def batches(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        """The records from ``start`` to ``stop`` (None: to the present end); lost ones are stepped over."""


def first_of(batches: Iterable[Batch], otherwise: Rules) -> Rules:
    """The rules that hold at the beginning of a log: those it says first, if it says any soon; else ``otherwise``."""
    until_ms = None
    for batch in batches:
        if len(said := np.flatnonzero(batch.kind == Kind.RULES)):
            return RuleChange.decode(batch.ids[said[0]]).rules
        until_ms = int(batch.time_ms[0]) + SEARCH_MS if until_ms is None else until_ms
        if int(batch.time_ms.max()) > until_ms:
            break
    return otherwise


def first_rules(log: Records, otherwise: Rules) -> Rules:
    """See `first_of`."""
    return first_of(log.batches(log.first), otherwise)


def rules_before(log: Records, offset: int, otherwise: Rules) -> Rules:
    """The rules that hold before the record at ``offset``: those said last, if that is not long ago; else the first."""
    end, since_ms = min(offset, log.end), None
    while end > log.first:
        start = max(log.first, end - BATCH_RECORDS_MAX)
        said, newest_ms = "", None
        for batch in log.batches(start, end):
            if batch.offset >= end:
                break
            if len(rows := np.flatnonzero(batch.kind == Kind.RULES)):
                said = batch.ids[rows[-1]]
            newest_ms = int(batch.time_ms.max())
        if said:
            return RuleChange.decode(said).rules
        if newest_ms is not None:
            since_ms = newest_ms - SEARCH_MS if since_ms is None else since_ms
            if newest_ms < since_ms:
                break
        end = start
    return first_rules(log, otherwise)
