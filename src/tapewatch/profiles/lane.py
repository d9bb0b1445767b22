"""One lane of the distributed engine: messages of one Kafka partition in, one commit out.

    messages ─► records ─► engine.step ─► drain ─► `Commit`: rows, alerts, outbox, position; and the engine's state

The same engine as everywhere; its rows depend on the lane's records in their order and on nothing else, so neither
the size of a batch nor the process that computes it can change them. The caller keeps the state that `take` gives, and
gives it back to `load`; offsets are Kafka's.

    start of a lane        from the caller's state          its batch comes again after a crash: the same commit again
                           from the database's snapshot     passes over what is in that; repeats, without giving
                                                            anything out, what was stored after it
                           from nothing                     at the first message that Kafka still keeps

A message that cannot be read takes its offset and makes no record. A hole in the offsets is lost records (`LogLost`),
unless the caller says that a person has accepted the loss: then it is a gap.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapewatch.errors import LogError, LogLost
from tapewatch.feed.symbols import market_of
from tapewatch.log.messages import MessageDecoder, origin_of
from tapewatch.notify.outbox import notifications_for
from tapewatch.profiles.commit import Commit, RejectedMessage
from tapewatch.profiles.parts import Parts
from tapewatch.records import Batch, Decision, Gap, Kind, Market, Origin, Tables
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["Lane", "LaneState", "Start", "Taken"]

LOST_CAUSE = "lost in Kafka"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a lane without a state of its own begins.

    ``snapshot`` is the engine's as of ``snapshot_position`` (None: nothing, at the first message there is);
    what is before ``stored`` is in the database already, as data of ``origin``. ``accepts_loss``: messages that are
    missing after it are a gap.
    """

    snapshot: bytes | None = None
    snapshot_position: int = 0
    stored: int = 0
    origin: Origin | None = None
    accepts_loss: bool = False


class LaneState(msgspec.Struct, frozen=True):
    """All that a lane remembers from batch to batch."""

    engine: bytes
    """`Engine.snapshot`."""
    position: int
    stored: int
    """What is before this offset was in the database when the lane began."""
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of some messages: what is to be written (None if all of it was stored before), and the new state."""

    commit: Commit | None
    state: LaneState


@dataclass(slots=True)
class _Out:
    """What is given out of one call."""

    rejected: list[RejectedMessage] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(Decision), np.int64))


class Lane:
    """The engine of one partition. For one thread at a time. ``channels`` are the outbox's; ``confirmed_only`` some."""

    def __init__(self, name: str, parts: Parts, channels: Sequence[str], confirmed_only: Collection[str] = ()) -> None:
        self.name = name
        self._parts = parts
        self._channels = channels
        self._confirmed_only = confirmed_only
        self._tables = Tables()
        self._decoder = MessageDecoder(self._tables, market_of)
        self._engine = parts.engine(self._tables)
        self._stored = 0
        self._accepts_loss = False
        self._origin: Origin | None = None
        self._snapshot_ms = 0
        self._gaps: list[Gap] = []
        """Accepted losses that no commit has told yet."""

    @property
    def position(self) -> int | None:
        """Offset of the next message; None before the first."""
        return self._engine.position

    def begin(self, start: Start) -> None:
        """Begin without a state of its own.

        Raises:
            LogError: the database's snapshot was made with other settings.
        """
        if start.snapshot is not None:
            self._engine.restore(start.snapshot, start.snapshot_position)
        self._stored = start.stored
        self._origin = start.origin
        self._accepts_loss = start.accepts_loss

    def load(self, state: LaneState) -> None:
        """Go on from the state of the batch before.

        Raises:
            LogError: it was made with other settings.
        """
        self._engine.restore(state.engine, state.position)
        self._stored = state.stored
        self._origin = state.origin

    def take(self, offsets: NDArray[np.int64], appended_ms: NDArray[np.int64], values: Sequence[bytes | None]) -> Taken:
        """Messages in any order, each once and one at least.

        Raises:
            LogLost: messages before them are missing.
            LogError: some between them are.
        """
        if (np.diff(offsets) < 0).any():
            order = np.argsort(offsets, kind="stable")
            offsets, appended_ms, values = offsets[order], appended_ms[order], [values[i] for i in order.tolist()]
        self._expect_no_holes(offsets)
        position = self._engine.position
        if position is not None and offsets[0] < position <= self._stored:  # the snapshot we began at knows them
            known = min(position - int(offsets[0]), len(values))
            offsets, appended_ms, values = offsets[known:], appended_ms[known:], values[known:]
            if not len(values):
                return Taken(None, LaneState(self._engine.snapshot(), position, self._stored, self._origin))
        first, new = int(offsets[0]), int(offsets[-1]) + 1
        out = _Out()
        old = max(self._expect(first, int(appended_ms[0])), self._stored)
        at = min(max(self._stored - first, 0), len(values))
        if at:  # in the database already: only for the engine's state
            self._step(offsets[:at], appended_ms[:at], values[:at], _Out())
            self._engine.drain()
        commit = None
        if at < len(values):
            self._step(offsets[at:], appended_ms[at:], values[at:], out)
            commit = self._commit(old, new, int(appended_ms[-1]), out)
        state = LaneState(self._engine.snapshot(), new, self._stored, self._origin)
        if commit is not None and commit.appended_ms - self._snapshot_ms >= self._parts.settings.snapshot_ms:
            self._snapshot_ms = commit.appended_ms
            commit.snapshot = state.engine
        return Taken(commit, state)

    def _expect_no_holes(self, offsets: NDArray[np.int64]) -> None:
        steps = np.diff(offsets)
        assert (steps > 0).all(), f"lane {self.name}: offsets repeat after {offsets[:-1][steps <= 0][:3].tolist()}"
        if (steps > 1).any():
            raise LogError(
                f"Lane {self.name}: offset {int(offsets[:-1][steps > 1][0]) + 1} is no message, though there are later "
                "ones: the topic is compacted, or a producer writes in transactions, so what is lost cannot be told "
                "from what never was. Set its cleanup.policy to delete, write without transactions, to a new topic"
            )

    def _expect(self, offset: int, appended_ms: int) -> int:
        """The next message is the one at ``offset``; gives back up to where the lane was before it."""
        position = self._engine.position
        at = self._stored if position is None else position
        if at == offset or (position is None and (at == 0 or offset < at)):
            return at
        assert at < offset, f"lane {self.name} is at {at}, and was given {offset} again"
        if not self._accepts_loss:
            raise LogLost(
                f"Lane {self.name}: the messages from offset {at} to {offset} are no longer kept by Kafka, and "
                "were never computed. To record them as a gap and go on: tapewatch spark --accept-loss"
            )
        self._accepts_loss = False
        for gap in self._lost(appended_ms):
            row = (Kind.GAP, gap.market, -1, gap.to_ms, appended_ms * 1_000_000, 0.0, 0, 0, 0, 0, gap.encode())
            self._engine.step(Batch.of([row]))
            self._gaps.append(gap)
        if position is not None:
            self._engine.skip_to(offset)
        return at

    def _lost(self, appended_ms: int) -> Iterator[Gap]:
        """A gap of each market that the lane knows, from its newest time to when the next message was appended."""
        for market in Market:
            if (known_ms := self._engine.newest_ms(market)) is not None and known_ms < appended_ms:
                yield Gap(market=market, from_ms=known_ms, to_ms=appended_ms, cause=LOST_CAUSE, symbols=[])

    def _step(
        self, offsets: NDArray[np.int64], appended_ms: NDArray[np.int64], values: Sequence[bytes | None], out: _Out
    ) -> None:
        decoded = self._decoder.decode(values, appended_ms.tolist())
        if decoded.source:
            self._origin = origin_of(decoded.source)
        out.rejected += [
            RejectedMessage(int(offsets[one.row]), one.reason, values[one.row] or b"") for one in decoded.rejected
        ]
        rows = decoded.rows
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)] if len(rows) else [0, 0]
        for start, stop in pairwise(cuts):
            for first in range(start, stop, BATCH_RECORDS_MAX):
                last = min(first + BATCH_RECORDS_MAX, stop)
                part = decoded.batch.slice(first, last)
                part.offset = int(offsets[rows[first]])
                part.logged_ns = int(appended_ms[rows[last - 1]]) * 1_000_000
                if self._engine.position is not None:
                    self._engine.skip_to(part.offset)  # over messages that are no records
                out.counts += np.bincount(self._engine.step(part), minlength=256)[: len(Decision)]
        if (end := int(offsets[-1]) + 1) != self._engine.position:
            self._engine.skip_to(end)

    def _commit(self, old: int, new: int, newest_ms: int, out: _Out) -> Commit:
        changes = self._engine.drain()
        changes.gaps = [gap for gap in self._gaps if gap not in changes.gaps] + changes.gaps
        self._gaps = []
        now_ns = time.time_ns()
        for alert in changes.alerts:
            alert.evidence[alert.status]["passport"]["decided_ns"] = now_ns
        rules = self._engine.rules
        notes = [
            note
            for alert in changes.alerts
            for note in notifications_for(
                alert, self._channels, self._parts.settings.notify, self._origin or Origin.LIVE, rules,
                self._confirmed_only,
            )
        ]  # fmt: skip
        return Commit.of(
            changes, lane=self.name, old=old, new=new, origin=self._origin, notifications=notes, rejected=out.rejected,
            decisions=out.counts.tolist(), appended_ms=newest_ms,
        )  # fmt: skip
