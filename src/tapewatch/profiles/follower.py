"""What the database has got, shown as it comes, by a process that does not compute: one thread, which only reads.

    commit (NOTIFY) ─► state: positions, totals ─► somebody listens? the changed rows ─► live stream

A live page sees the same events as beside the engine, with the newest value of each thing between two looks: at most
one look in `FOLLOW_MS_MIN`. While nobody listens only the totals are read. A database that is away is asked again and
again; ``store_problem`` says so meanwhile, and nothing ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from tapewatch import metrics
from tapewatch.errors import StoreError
from tapewatch.records import Market
from tapewatch.serve.stream import StreamHub
from tapewatch.settings import FOLLOW_MS_MAX, FOLLOW_MS_MIN, FOLLOW_MS_UNHEARD, Settings
from tapewatch.store.following import Following, State

__all__ = ["Follower"]

_log = structlog.get_logger(__name__)
_RETRY_S: Final = (0.1, 1.0)
_WAIT_S: Final = 0.25
"""How soon it notices that it is to stop, and that somebody has begun to listen."""
_SILENT_S: Final = 3.0
"""A look that waits longer for its answer is shown as a database that is down."""
_JOIN_S: Final = 5.0


class Follower:
    """Runs in its own thread. ``on_alerts`` is called there when alerts were written, ``on_end`` after a bug.

    What it has found may be read by any thread: positions by lane, totals, and when the positions moved last.
    """

    def __init__(
        self,
        settings: Settings,
        conninfo: str,
        hub: StreamHub,
        *,
        on_alerts: Callable[[], object],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._hub = hub
        self._on_alerts = on_alerts
        self._on_end = on_end
        self._following = Following(
            conninfo,
            window_ms=settings.window_ms,
            slide_ms=settings.slide_ms,
            watermark_delay_ms=settings.watermark_delay_ms,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._is_shown = False
        self._is_told = False
        self._alerted_us: int | None = None
        self._gaps_before: int | None = None
        self._error = ""
        self._asked_s: float | None = None
        self.looks = 0
        """Times that changed rows were looked for."""
        self.lanes: dict[str, int] = {}
        self.log_id = ""
        """Of the log that the rows were computed from; empty while there are none."""
        self.origin = ""
        """Of those rows, as `records.Origin` spells it."""
        self.trades = 0
        self.gaps = 0
        """Gaps stored since the start."""
        self.lag_ms: float | None = None
        """From the receipt of the newest trade until it was seen here."""
        self.last_trade_ns: dict[Market, int] = {}
        self.moved_s = time.monotonic()
        """When the position moved last, on the monotonic clock."""

    @property
    def position(self) -> int:
        """Records consumed, over all lanes."""
        return sum(self.lanes.values())

    @property
    def store_problem(self) -> str:
        """Why the database cannot be read just now; empty while it can."""
        asked_s = self._asked_s
        if asked_s is not None and (waited_s := time.monotonic() - asked_s) > _SILENT_S:
            return f"The database has not answered for {waited_s:.0f} s."
        return self._error

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End. A database that does not answer is not waited for long: nothing is written here."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:
            self._on_end(error)
            raise
        self._on_end(None)

    def _follow(self) -> None:
        wait_s = _RETRY_S[0]
        while not self._stopping.is_set():
            try:
                self._look()
                wait_s = _RETRY_S[0]
                self._wait()
            except StoreError as error:
                self._say(str(error))
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S[1])
        self._following.close()

    def _say(self, problem: str) -> None:
        if problem and not self._error:
            _log.error("database away", why=problem)
        elif self._error and not problem:
            _log.info("database back")
        self._error = problem
        metrics.STORE_UP.set(not problem)

    def _wait(self) -> None:
        """Until somebody has committed, or it is time to look without that; then the rest of the least pause."""
        started_s = time.monotonic()
        while not self._stopping.is_set():
            is_heard = self._hub.is_heard
            least_s = (FOLLOW_MS_MIN if is_heard else FOLLOW_MS_UNHEARD) / 1_000
            most_s = FOLLOW_MS_MAX / 1_000 if self._is_told or not is_heard else FOLLOW_MS_UNHEARD / 1_000
            left_s = started_s + most_s - time.monotonic()
            if is_heard is not self._is_shown or left_s <= 0:
                return
            if self._following.wait(min(left_s, _WAIT_S)):
                self._is_told = True
                self._stopping.wait(max(0.0, started_s + least_s - time.monotonic()))
                return

    def _look(self) -> None:
        """Read the totals; if rows have changed and somebody listens, read and publish those."""
        self._asked_s = time.monotonic()
        try:
            state = self._following.state()
            has_moved = state.lanes != self.lanes
            if not self._hub.is_heard or state.position < self.position:
                self._following.forget()
                self._is_shown = False
            if self._hub.is_heard and (has_moved or not self._is_shown):
                self.looks += 1
                found = self._following.changes(state)
                self._hub.publish_rows(found.prices, found.bars, found.alerts)
                self._is_shown = True
        finally:
            self._asked_s = None
        self._say("")
        self._note(state, has_moved)

    def _note(self, state: State, has_moved: bool) -> None:
        newest_ns = max(state.last_trade_ns.values(), default=0)
        if newest_ns > max(self.last_trade_ns.values(), default=newest_ns):
            self.lag_ms = (time.time_ns() - newest_ns) / 1e6
            metrics.STORE_LAG.set(self.lag_ms / 1_000)
        if self._gaps_before is None or state.gaps < self._gaps_before:
            self._gaps_before = state.gaps
        self.gaps = state.gaps - self._gaps_before
        self.trades, self.last_trade_ns = state.trades, state.last_trade_ns
        self.log_id, self.origin = state.log_id, state.origin
        if has_moved:
            self.moved_s = time.monotonic()
            metrics.ENGINE_POSITION.set(state.position)
        self.lanes = state.lanes
        for lane, position in state.lanes.items():
            metrics.LANE_POSITION.labels(lane).set(position)
        if self._alerted_us is not None and state.alerted_us != self._alerted_us:
            self._on_alerts()
        self._alerted_us = state.alerted_us
