"""From the log through the engine into the database: one thread, which alone writes the database.

    tail or log ─► engine.step ─► drain ─► one transaction: rows, alerts, outbox, position ─► published

While the database is away the same commit is tried again and the engine stands still; the log is the buffer. After a
restart the engine goes on from its last snapshot and repeats, without giving anything out, what was stored since.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import structlog

from tapewatch import metrics
from tapewatch.engine.engine import Engine
from tapewatch.errors import LogCorrupt, MachineError, StoreUnavailable
from tapewatch.log.reader import LogReader
from tapewatch.notify.outbox import notifications_for
from tapewatch.profiles.alertsfile import Audience
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Changes, Decision, Notification, Origin
from tapewatch.settings import BATCH_RECORDS_MAX, Settings
from tapewatch.store.writer import StoreWriter

_log = structlog.get_logger(__name__)
_WAIT_S: Final = 0.2
_RETRY_S: Final = (0.1, 2.0)
_PRUNE_EVERY_S: Final = 3_600.0
_SILENT_S: Final = 3.0
"""A commit that waits longer for its answer is shown as a database that is down."""


class Computer:
    """Runs in its own thread. ``on_commit`` is called there with what was just committed.

    ``audience`` gives whom alerts are told, each time anew. ``revive`` starts the database again if it is our own and
    has died.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        reader: LogReader,
        tail: Tail,
        store: StoreWriter,
        *,
        audience: Callable[[], Audience],
        origin: Origin,
        revive: Callable[[], bool],
        on_commit: Callable[[Changes, list[Notification]], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._reader = reader
        self._tail = tail
        self._store = store
        self._audience = audience
        self._origin = origin
        self._revive = revive
        self._on_commit = on_commit
        self._on_end = on_end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="computer", daemon=True)
        self._due_s = 0.0
        self._snapshot_s = time.monotonic()
        self._pruned_s = time.monotonic()
        self.position = 0
        """Offset up to which everything is in the database."""
        self.trades = 0
        self.gaps = 0
        """Gaps stored since the start."""
        self.lag_ms: float | None = None
        self._store_error = ""
        self._asked_s: float | None = None

    def recover(self) -> None:
        """Bring engine and database to the same position.

        Raises:
            StoreMismatch, StoreUnavailable, LogLost, LogCorrupt, LogError: see `StoreWriter.recover`, `LogReader.read`.
        """
        found = self._store.recover(self._reader.log_id, self._reader.origin)
        if found.position > self._reader.end:
            raise LogCorrupt(
                f"the log ends at record {self._reader.end}, but the database has consumed it up to {found.position}: "
                "acknowledged records are missing; restore the log's folder, or run `tapewatch rebuild`"
            )
        at = max(found.snapshot_position, self._reader.first if found.snapshot is None else 0)
        if found.snapshot is not None:
            self._engine.restore(found.snapshot, found.snapshot_position)
        for batch in self._reader.batches(at, found.position):
            self._engine.step(batch)
            self._engine.drain()
        self.position = found.position
        if found.position < self._reader.first:
            _log.warning("records before the log's first are gone", position=found.position, first=self._reader.first)

    @property
    def store_problem(self) -> str:
        """Why the database cannot be written just now; empty while it can."""
        asked_s = self._asked_s
        if asked_s is not None and (waited_s := time.monotonic() - asked_s) > _SILENT_S:
            return f"The database has not answered a commit for {waited_s:.0f} s."
        return self._store_error

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what the log holds, with a snapshot, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not (self._stopping.is_set() and self._tail.end <= self.position):
                self._commit_next()
                if self._store_error and self._stopping.is_set():
                    break
            if not self._store_error:
                self._snapshot_only()
        except BaseException as error:
            _log.error("computing stopped", why=str(error), exc_info=not isinstance(error, Exception))
            self._on_end(error)
            raise
        self._on_end(None)

    def _commit_next(self) -> None:
        """Wait until the next commit is due or there is a lot; step through what the log has got, and commit it."""
        if not self._tail.wait(self.position + 1, _WAIT_S):
            return
        if (left_s := self._due_s - time.monotonic()) > 0 and not self._stopping.is_set():
            self._tail.wait(self.position + BATCH_RECORDS_MAX, left_s)
        self._due_s = time.monotonic() + self._settings.commit_ms / 1_000
        batches = self._next(self.position)
        for batch in batches:
            self._step(batch)
        if batches:
            self._commit(batches[-1].offset + len(batches[-1]), batches[-1])

    def _next(self, at: int) -> list[Batch]:
        taken = self._tail.take(at)
        if taken is None:
            taken = [self._reader.read(max(at, self._reader.first), BATCH_RECORDS_MAX)]
        return taken

    def _step(self, batch: Batch) -> None:
        if self._engine.position is not None and batch.offset > self._engine.position:
            self._engine.skip_to(batch.offset)
        counts = np.bincount(self._engine.step(batch), minlength=len(Decision))
        for decision in Decision:
            if number := int(counts[decision]):
                self.trades += number
                metrics.ENGINE_DECISIONS.labels(decision.name.lower()).inc(number)

    def _commit(self, position: int, newest: Batch) -> None:
        changes = self._engine.drain()
        now_ns = time.time_ns()
        for alert in changes.alerts:
            alert.evidence[alert.status]["passport"]["decided_ns"] = now_ns
            metrics.ENGINE_ALERTS.labels(alert.kind, str(alert.status)).inc()
        channels, confirmed_only = self._audience()
        rules = self._engine.rules
        notes = [
            note
            for alert in changes.alerts
            for note in notifications_for(alert, channels, self._settings.notify, self._origin, rules, confirmed_only)
        ]
        snapshot = None
        if time.monotonic() - self._snapshot_s >= self._settings.snapshot_ms / 1_000:
            snapshot = self._engine.snapshot()
            self._snapshot_s = time.monotonic()
        if not self._store_it(changes, position, snapshot=snapshot, notifications=notes):
            return
        self.position = position
        self.gaps += sum(gap.is_open for gap in changes.gaps)
        metrics.ENGINE_POSITION.set(position)
        self.lag_ms = (time.time_ns() - int(newest.received_ns[-1])) / 1e6
        metrics.STORE_LAG.set(self.lag_ms / 1_000)
        self._on_commit(changes, notes)
        if time.monotonic() - self._pruned_s >= _PRUNE_EVERY_S and self._origin is not Origin.REPLAYED:
            self._pruned_s = time.monotonic()
            try:
                self._store.prune(self._settings.log_retention_ms)
            except StoreUnavailable as error:
                _log.warning("old rows stay for now", why=str(error))

    def _store_it(self, changes: Changes, position: int, **more: Any) -> bool:
        """Commit, again and again while the database is away; False when stopped before it came back."""
        wait_s = _RETRY_S[0]
        while True:
            try:
                self._asked_s = time.monotonic()
                self._store.commit(changes, self.position, position, **more)
            except StoreUnavailable as error:
                if not self._store_error:
                    _log.error("database away", why=str(error))
                self._store_error = str(error)
                self._try_to_revive()
                if self._stopping.wait(wait_s):
                    return False
                wait_s = min(2 * wait_s, _RETRY_S[1])
            else:
                if self._store_error:
                    _log.info("database back")
                self._store_error = ""
                return True
            finally:
                self._asked_s = None

    def _try_to_revive(self) -> None:
        """A server of ours that does not start now (no room, no memory) may start later: the log keeps the trades."""
        try:
            if self._revive():
                _log.info("database started again")
        except MachineError as error:
            _log.error("database does not start", why=str(error))
            self._store_error = str(error)

    def _snapshot_only(self) -> None:
        """At an orderly end: a snapshot at the position, so that the next start repeats nothing."""
        if self._engine.position is not None:
            changes = self._engine.drain()
            assert changes.is_empty(), "the last commit left something"
            try:
                self._store.commit(changes, self.position, self.position, snapshot=self._engine.snapshot())
            except StoreUnavailable as error:
                _log.warning("no last snapshot: the next start repeats some records", why=str(error))
