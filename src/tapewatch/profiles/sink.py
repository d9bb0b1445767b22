"""Commits of lanes into the database: each in one transaction, each once, however often Spark gives it.

    the database is at …   commit [old, new)     what happens
    old                                          written
    new or further                               a batch that Spark repeats after a crash: skipped, it is all there
    anything else                                `StoreMismatch`: the checkpoint and the database are not of one past

While the database is away the commit is tried again; nothing is given up and nothing piles up, since Spark asks Kafka
for the next messages only when a batch is done. Messages that could not be read are told to the rejected topic first,
so none is ever passed in silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from tapewatch.errors import StoreError, StoreMismatch, StoreUnavailable
from tapewatch.profiles.commit import Commit
from tapewatch.records import Origin
from tapewatch.store.connect import place
from tapewatch.store.writer import StoreWriter

__all__ = ["Rejects", "Sink"]

_log = structlog.get_logger(__name__)
_RETRY_S: Final = (0.1, 2.0)
LANES_MAX: Final = 4
"""Connections that one sink keeps: there is a sink in every Python worker, and a server has a limit."""


class Rejects(Protocol):
    """Where messages go that are no records."""

    def put(self, lane: int, offset: int, key: bytes | None, value: bytes | None, reason: str) -> None:
        """Take one."""

    def flush(self) -> None:
        """Return when all that were put are kept. Raises LogUnavailable."""


class Sink:
    """Writes commits of any lanes. For one thread at a time; keeps the connections of the lanes written last."""

    def __init__(
        self, conninfo: str, log_id: str, rejects: Rejects, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._conninfo = conninfo
        self._log_id = log_id
        self._rejects = rejects
        self._sleep = sleep
        self._lanes: dict[str, tuple[StoreWriter, int]] = {}

    def write(self, commit: Commit) -> bool:
        """Write it, when the database answers; False if it was there already.

        Raises:
            StoreMismatch: the database is neither at its beginning nor past its end, or holds another log's data.
        """
        for offset, value, reason in ((one.offset, one.value, one.reason) for one in commit.rejected):
            self._rejects.put(int(commit.lane), offset, None, value, reason)
        if commit.rejected:
            self._rejects.flush()
        wait_s, told = _RETRY_S[0], False
        while True:
            try:
                written = self._try(commit)
            except StoreUnavailable as error:
                if not told:
                    _log.error("database away", lane=commit.lane, why=str(error))
                told = True
                self._sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S[1])
            else:
                if told:
                    _log.info("database back", lane=commit.lane)
                return written

    def _try(self, commit: Commit) -> bool:
        writer, position = self._lane(commit)
        if position >= commit.new:
            return False
        if position != commit.old:
            raise StoreMismatch(
                f"The database at {place(self._conninfo)} has lane {commit.lane} at {position}, but the checkpoint "
                f"goes on at {commit.old}: one of them was put back to an older state. To go on from the database: "
                "tapewatch spark --forget-checkpoint"
            )
        try:
            writer.commit(
                commit.changes(), position, commit.new, snapshot=commit.snapshot, notifications=commit.notifications
            )
        except StoreMismatch:
            del self._lanes[commit.lane]  # another worker has written it meanwhile: look again where the lane stands
            writer.close()
            if self._lane(commit)[1] >= commit.new:
                return False
            raise
        del self._lanes[commit.lane]  # to the end: it was written last
        self._lanes[commit.lane] = writer, commit.new
        return True

    def _lane(self, commit: Commit) -> tuple[StoreWriter, int]:
        """The lane's writer, and where the database stands; asked again unless it is where we left it."""
        known = self._lanes.get(commit.lane)
        if known is not None and known[1] == commit.old:
            return known
        while known is None and len(self._lanes) >= LANES_MAX:
            self._lanes.pop(next(iter(self._lanes)))[0].close()
        writer = known[0] if known else StoreWriter.connect(self._conninfo, commit.lane)
        try:
            owner = writer.owner()
            # Messages without a source may come beside others; alone they are somebody's own live feed.
            origin = commit.origin or (Origin.LIVE if owner is None else owner[1])
            found = writer.recover(self._log_id, origin)
        except StoreError:
            writer.close()  # one that is kept opens again by itself
            raise
        self._lanes[commit.lane] = writer, found.position
        return self._lanes[commit.lane]

    def close(self) -> None:
        """End all connections."""
        for writer, _ in self._lanes.values():
            writer.close()
        self._lanes.clear()
