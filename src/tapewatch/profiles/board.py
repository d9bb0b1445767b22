"""How a distributed pipeline is, in words and numbers: what this process does itself, what Kafka and the database say.

The engine is elsewhere (`tapewatch spark`), perhaps the feed too. So its state is judged by what can be seen from here:
the lanes' ends in Kafka, and how far the database has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from tapewatch import metrics
from tapewatch.errors import LogError
from tapewatch.profiles.status import Disk, Rate, iso
from tapewatch.records import Market, Origin
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import Settings, duration_text

__all__ = ["STALLED_S", "Board", "LaneWatch", "Lanes", "SeenFeeds", "Shown", "mismatch"]

_log = structlog.get_logger(__name__)
_EVERY_S: Final = 1.0
_SILENT_S: Final = 5.0
"""Kafka that does not answer for longer than this is told."""
STALLED_S: Final = 30.0
"""An engine that takes nothing for so long, though records wait, is told."""


class Lanes(Protocol):
    """What is asked of Kafka."""

    def extents(self) -> dict[int, tuple[int, int]]:
        """The first offset kept and the next one of each lane. Raises LogUnavailable."""

    def close(self) -> None:
        """Disconnect."""


class Shown(Protocol):
    """What a `Follower` knows of the database."""

    lanes: dict[str, int]
    log_id: str
    origin: str
    trades: int
    gaps: int
    lag_ms: float | None
    last_trade_ns: dict[Market, int]

    @property
    def position(self) -> int:
        """Records consumed, over all lanes."""

    @property
    def store_problem(self) -> str:
        """Why the database cannot be read; empty while it can."""


class LaneWatch:
    """Asks Kafka once a second how long the lanes are, in its own thread, and notes since when the engine stands."""

    def __init__(
        self,
        lanes: Lanes,
        shown: Shown | None,
        on_end: Callable[[BaseException | None], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``shown`` tells how far the engine is; None where nobody knows."""
        self._lanes = lanes
        self._shown = shown
        self._on_end = on_end
        self._now_s = now_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lanes", daemon=True)
        self._answered_s = now_s()
        self._position = -1
        self._moved_s = now_s()
        self.extents: dict[int, tuple[int, int]] = {}

    @property
    def end(self) -> int:
        """Records of all lanes: the sum of their next offsets."""
        return sum(end for _, end in self.extents.values())

    @property
    def first(self) -> int:
        """The same of those that are no longer kept."""
        return sum(first for first, _ in self.extents.values())

    @property
    def silent_s(self) -> float:
        """How long Kafka has not answered."""
        return self._now_s() - self._answered_s

    @property
    def behind(self) -> int:
        """Records that the engine has not taken. A lane that it has not begun counts from the first record kept."""
        return sum(self.waiting.values())

    @property
    def waiting(self) -> dict[int, int]:
        """The same of each lane."""
        taken = self._shown.lanes if self._shown is not None else {}
        return {lane: max(0, end - max(first, taken.get(str(lane), 0))) for lane, (first, end) in self.extents.items()}

    @property
    def stands_s(self) -> float:
        """How long the engine has taken nothing though records wait; 0 when it does, or when nothing waits."""
        return self._now_s() - self._moved_s if self.behind else 0.0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End. A broker that does not answer is not waited for long."""
        self._stopping.set()
        self._thread.join(_SILENT_S)

    def look(self) -> None:
        """Ask once."""
        try:
            self.extents = self._lanes.extents()
            self._answered_s = self._now_s()
        except LogError as error:
            _log.debug("kafka away", why=str(error))
        metrics.LOG_END.set(self.end)
        for lane, waiting in self.waiting.items():
            metrics.KAFKA_LAG.labels(str(lane)).set(waiting)
        if self._shown is None:
            return
        position = self._shown.position
        if position != self._position or not self.behind or self._shown.store_problem:
            self._position, self._moved_s = position, self._now_s()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.look()
                self._stopping.wait(_EVERY_S)
            self._lanes.close()
        except BaseException as error:
            self._on_end(error)
            raise
        self._on_end(None)


class SeenFeeds:
    """The feeds of another process, as far as the newest trades in the database tell."""

    def __init__(self, settings: Settings, origin: Origin, calendar: Calendar, shown: Shown) -> None:
        self._settings = settings
        self._origin = origin
        self._calendar = calendar
        self._shown = shown

    def __call__(self) -> list[dict[str, Any]]:
        """A `serve.models.Feed` for each market that has had a trade."""
        now_ns = time.time_ns()
        return [self._feed(market, last_ns, now_ns) for market, last_ns in sorted(self._shown.last_trade_ns.items())]

    def _feed(self, market: Market, last_ns: int, now_ns: int) -> dict[str, Any]:
        word, detail = self._words(market, last_ns, now_ns)
        return {
            "market": market.name.lower(),
            "state": word,
            "detail": detail,
            "last_trade_at": iso(last_ns),
            "age_s": None if self._origin is Origin.REPLAYED else round((now_ns - last_ns) / 1e9, 1),
            "reconnects": 0,
            "delay_ms": self._settings.feed_delay_ms,
        }

    def _words(self, market: Market, last_ns: int, now_ns: int) -> tuple[str, str | None]:
        stall_ms = self._settings.feed_stall_ms
        if self._origin is Origin.REPLAYED or now_ns - last_ns <= stall_ms * 1_000_000:
            return "live", None
        sessions = sessions_of(self._calendar, market)
        is_simulated = self._origin is Origin.SIMULATED
        if not is_simulated and not sessions.is_open(now_ns // 1_000_000 - self._settings.feed_delay_ms):
            return "closed", "The market is closed."
        return "stale", (
            f"No trade has reached the database for longer than {duration_text(stall_ms)} (FEED_STALL); whether the "
            "feed is connected, its own process knows: tapewatch feed."
        )


class Board:
    """Puts the rooms together. To be called in the event loop; answers within a millisecond.

    ``watch`` is None where Kafka is not known, and ``log_id`` then. ``is_waiting`` tells that a recording here waits.
    """

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        folder: Path,
        *,
        feeds: Callable[[], list[dict[str, Any]]],
        shown: Shown,
        watch: LaneWatch | None,
        log_id: str | None = None,
        is_waiting: Callable[[], bool] = lambda: False,
        queue_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._settings = settings
        self._origin = origin
        self._disk = Disk(folder)
        self._feeds = feeds
        self._shown = shown
        self._watch = watch
        self._log_id = log_id
        self._is_waiting = is_waiting
        self._queue_bytes = queue_bytes
        self._rate = Rate(shown.trades)

    def __call__(self) -> dict[str, Any]:
        """A `serve.models.Status`."""
        return {
            "origin": self._origin.value,
            "server_time": iso(time.time_ns()),
            "feeds": self._feeds(),
            "log": self._log_room(),
            "engine": self._engine_room(),
            "store": self._store_room(),
            "trades_per_second": max(0.0, self._rate(self._shown.trades)),
            "lag_ms": None if self._origin is Origin.REPLAYED else self._shown.lag_ms,
            "gaps": self._shown.gaps,
            "queue_bytes": self._queue_bytes(),
        }

    def _log_room(self) -> dict[str, Any]:
        room: dict[str, Any] = {"state": "ok", "bytes": None, "disk_free_bytes": self._disk.free_bytes()}
        if self._watch is None:
            return room | {"first": 0, "end": self._shown.position}
        watch, s = self._watch, self._settings
        room |= {
            "first": watch.first,
            "end": watch.end,
            "kafka": s.kafka_servers,
            "topic": s.kafka_topic,
            "lanes": {str(lane): end for lane, (_, end) in sorted(watch.extents.items())},
        }
        if watch.silent_s > _SILENT_S:
            room["state"] = "waiting"
            room["detail"] = f"Kafka at {s.kafka_servers} has not answered for {watch.silent_s:.0f} s: recording waits."
        elif self._is_waiting():
            room["state"] = "waiting"
            room["detail"] = f"Kafka at {s.kafka_servers} acknowledges nothing: recording waits."
        return room

    def _engine_room(self) -> dict[str, Any]:
        room: dict[str, Any] = {"state": "ok", "position": self._shown.position, "behind": None}
        room["lanes"] = dict(sorted(self._shown.lanes.items()))
        if self._watch is None:
            return room
        room["behind"] = behind = self._watch.behind
        if (stands_s := self._watch.stands_s) > STALLED_S:
            room["state"] = "stalled"
            room["detail"] = (
                f"The Spark job does not advance: {behind:,} records have waited for {stands_s:.0f} s. "
                "Nothing is lost; start it with `tapewatch spark`, or look at what it says."
            )
        return room

    def _store_room(self) -> dict[str, Any]:
        if problem := self._shown.store_problem:
            return {"state": "down", "detail": f"{problem} New trades are kept in Kafka until it is back."}
        if self._shown.log_id:
            theirs, ours = (self._shown.origin, self._shown.log_id), (self._origin.value, self._log_id)
            if theirs[0] != ours[0] or (ours[1] is not None and theirs[1] != ours[1]):
                return {"state": "mismatch", "detail": mismatch(theirs, ours, self._settings.db_name)}
        return {"state": "ok"}


def mismatch(theirs: tuple[str, str], ours: tuple[str, str | None], name: str) -> str:
    """The sentence for a database that holds another log's rows; (origin, log id) of both."""
    our_log = f" of log {ours[1]}" if ours[1] is not None else ""
    return (
        f"The database {name} holds {theirs[0]} data of log {theirs[1]}, but this process is for {ours[0]} data"
        f"{our_log}. Choose another DB_NAME or KAFKA_TOPIC_RAW_TRADES, or compute it anew from this topic: "
        "tapewatch spark --rebuild."
    )
