"""How the pipeline is, in words and numbers: for the page, `/readyz` and `tapewatch status`."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tapewatch.feed.client import FeedClient, FeedState
from tapewatch.feed.protocol import Phase
from tapewatch.feed.queue import FrameQueue
from tapewatch.log.local import LogWriter
from tapewatch.profiles.computer import Computer
from tapewatch.profiles.lag_alarm import LagAlarm
from tapewatch.profiles.recorder import Recorder
from tapewatch.records import Market, Origin
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import DISK_FREE_BYTES_MIN, Settings, duration_text

__all__ = ["Disk", "FeedRooms", "Rate", "StatusBoard", "iso"]

_RATE_S: Final = 5.0
_REFRESH_S: Final = 0.5


class FeedRooms:
    """How the feeds of this process are. ``stopped`` says why a market's feed was given up; empty while it was not."""

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        calendar: Calendar,
        feeds: Sequence[FeedClient],
        recorder: Recorder,
        stopped: Callable[[Market], str],
        alarm: LagAlarm,
    ) -> None:
        self._settings = settings
        self._alarm = alarm
        self._origin = origin
        self._calendar = calendar
        self._feeds = feeds
        self._recorder = recorder
        self._stopped = stopped

    def __call__(self) -> list[dict[str, Any]]:
        """A `serve.models.Feed` for each market."""
        return [self._feed(client.state) for client in self._feeds]

    def _feed(self, state: FeedState) -> dict[str, Any]:
        market = state.market
        last_ns = self._recorder.last_trade_ns.get(market, 0)
        word, detail = self._feed_words(state, last_ns)
        return {
            "market": market.name.lower(),
            "state": word,
            "detail": detail,
            "last_trade_at": iso(last_ns) if last_ns else None,
            "age_s": round((time.time_ns() - last_ns) / 1e9, 1) if last_ns and not self._is_replay else None,
            "reconnects": state.reconnects,
            "unconfirmed": list(state.unconfirmed[:20]),
            "refused": list(state.refused[:20]),
            "notices": list(state.notices),
            "delay_ms": state.delay_ms,
            "lag_ms": None if self._is_replay else self._alarm.lag_ms(state),
            "since": iso(state.since_ns),
            "warming": self._recorder.warming,
        }

    @property
    def _is_replay(self) -> bool:
        return self._origin is Origin.REPLAYED

    def _feed_words(self, state: FeedState, last_ns: int) -> tuple[str, str | None]:
        """One word of `serve.models.Feed`, and a sentence when something is to be said."""
        if why := self._stopped(state.market):
            return ("closed" if self._is_replay else "stopped"), why
        if state.phase is Phase.LIVE:
            return self._live_words(state, last_ns)
        if state.phase is Phase.STALE:
            return "stale", "Nothing at all was heard; connecting again."
        if not state.reconnects:
            return "connecting", None
        return "reconnecting", f"Connecting again: {state.last_ending}."

    def _live_words(self, state: FeedState, last_ns: int) -> tuple[str, str | None]:
        now_ns = time.time_ns()
        if self._recorder.warming:
            return "live", "Fetching the trades missed before the start."
        if self._is_replay:
            return "live", None
        sessions = sessions_of(self._calendar, state.market)
        is_simulated = self._origin is Origin.SIMULATED
        if not is_simulated and not sessions.is_open(now_ns // 1_000_000 - state.delay_ms):
            return "closed", "The market is closed."
        # What was quiet before the market opened is no silence; with the first trade of the day it is live anyway.
        opened_ns = 0 if is_simulated else sessions.opened_ms(now_ns // 1_000_000 - state.delay_ms) * 1_000_000
        quiet_ns = now_ns - max(last_ns, state.since_ns, opened_ns + state.delay_ms * 1_000_000 if opened_ns else 0)
        if why := self._alarm.sentence(state):
            return "lagging", why[0].upper() + why[1:] + "."
        if quiet_ns <= self._settings.feed_stall_ms * 1_000_000:
            return "live", " ".join(f"{said[0].upper()}{said[1:]}." for said in state.notices) or None
        stall = duration_text(self._settings.feed_stall_ms)
        if not last_ns:
            return "stale", f"Connected, but no trade has ever come, for longer than {stall} (FEED_STALL)."
        return "stale", f"Connected, but no trade has come for longer than {stall} (FEED_STALL)."


class Rate:
    """Trades a second, over the last seconds, of a total that is asked for now and then."""

    def __init__(self, trades: int) -> None:
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), trades)])

    def __call__(self, trades: int) -> float:
        """The rate, now that the total is ``trades``."""
        now = time.monotonic()
        if now - self._seen[-1][0] >= _REFRESH_S:
            self._seen.append((now, trades))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return round((trades - before) / (now - then), 1) if now - then > _REFRESH_S / 2 else 0.0


class Disk:
    """Room left on a folder's disk; it is not asked more often than twice a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: tuple[float, int] = (0.0, 0)

    def free_bytes(self) -> int:
        """As the system says."""
        now = time.monotonic()
        if now - self._asked[0] > _REFRESH_S:
            self._asked = (now, shutil.disk_usage(self._folder).free)
        return self._asked[1]


class StatusBoard:
    """Asks every room how it is. To be called in the event loop; answers within a millisecond."""

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        calendar: Calendar,
        folder: Path,
        *,
        feeds: Sequence[FeedClient],
        queue: FrameQueue,
        recorder: Recorder,
        computer: Computer,
        log: LogWriter,
        stopped: Callable[[Market], str],
        alarm: LagAlarm,
    ) -> None:
        self._origin = origin
        self._folder = folder
        self._feeds = FeedRooms(settings, origin, calendar, feeds, recorder, stopped, alarm)
        self._queue = queue
        self._recorder = recorder
        self._computer = computer
        self._log = log
        self._rate = Rate(computer.trades)
        self._disk = Disk(folder)

    def __call__(self) -> dict[str, Any]:
        """A `serve.models.Status`."""
        return {
            "origin": self._origin.value,
            "server_time": iso(time.time_ns()),
            "feeds": self._feeds(),
            "log": self._log_room(),
            "engine": {
                "state": "ok",
                "position": self._computer.position,
                "behind": max(0, self._log.end - self._computer.position),
            },
            "store": self._store_room(),
            "trades_per_second": self._rate(self._computer.trades),
            "lag_ms": None
            if self._origin is Origin.REPLAYED
            else self._computer.lag_ms,  # a recording's own times are of another day
            "gaps": self._computer.gaps,
            "queue_bytes": self._queue.bytes_waiting,
        }

    def _log_room(self) -> dict[str, Any]:
        free = self._disk.free_bytes()
        room: dict[str, Any] = {
            "state": "ok",
            "first": self._log.first,
            "end": self._log.end,
            "bytes": self._log.size_bytes(),
            "disk_free_bytes": free,
        }
        if self._recorder.is_full:
            room |= {"state": "full", "detail": f"The disk of {self._folder} is full: recording waits for room."}
        elif free < DISK_FREE_BYTES_MIN:
            room |= {"state": "low", "detail": f"The disk of {self._folder} has only {free // 2**20} MiB left."}
        return room

    def _store_room(self) -> dict[str, Any]:
        if problem := self._computer.store_problem:
            return {"state": "down", "detail": f"{problem} New trades are kept in the log until it is back."}
        return {"state": "ok"}


def iso(time_ns: int) -> str:
    """Unix ns as the answers show a time."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
