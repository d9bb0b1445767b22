"""`/api/v1/health`: everything the Health view shows, in one answer, also while the database is away.

What this process does itself it notes in memory (`Pulse`, `metrics.RECENT`); the rest is asked of the database, at most
every few seconds, however many pages are open.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from tapewatch import metrics
from tapewatch.errors import LogError, StoreError, StoreUnavailable
from tapewatch.metrics import RECENT
from tapewatch.serve.answers import Json
from tapewatch.serve.connections import connections
from tapewatch.serve.models import Feed, Time, parse_time_ms
from tapewatch.serve.problems import STORE_SILENT, further, problems
from tapewatch.serve.queries import Queries, Row, ask
from tapewatch.serve.shapes import iso
from tapewatch.sessions import Calendar
from tapewatch.settings import ALERTS_ROWS_MAX, DISK_FREE_BYTES_MIN, QUEUE_BYTES_MAX

__all__ = ["Asked", "HealthReport", "Pulse", "health_routes", "report"]

_log = structlog.get_logger(__name__)
_STEP_S: Final = 5
_STEPS: Final = 720
"""An hour."""
_VITALS_S: Final = 5.0
_ROWS_S: Final = 1.0
_OLDEST_S: Final = 60.0
_EMPTY_S: Final = 2.0
_SERIES: Final = ("trades_per_second", "lag_ms", "queue_bytes", "commit_ms")
_COUNTERS: Final = (
    "symbol", "market", "watermark", "timestamp", "trades", "late", "future", "ineligible", "unknown_conditions",
)  # fmt: skip


class Pulse:
    """The last hour of this process in steps of `_STEP_S`, and the age of its log. For one event loop."""

    def __init__(self, oldest: Callable[[], int | None] = lambda: None, feed: Callable[[], Row] = dict) -> None:
        """``oldest`` gives the event time (Unix ms) of the log's oldest record, or None; it is called in a thread.

        ``feed`` gives what the feed of this process knows: ``bars`` and ``conditions`` of a `HealthReport`.
        """
        self.feed = feed
        self._oldest = oldest
        self._oldest_ms: int | None = None
        self._lock = asyncio.Lock()
        self._asked_s = -_OLDEST_S
        self._series = {name: deque[float | None](maxlen=_STEPS) for name in _SERIES}
        self._newest_ms = 0

    async def run(self, status: Callable[[], Row]) -> None:
        """Note how things are, every few seconds, for ever."""
        while True:
            found = status()
            self.note(found, time.time_ns() // 1_000_000)
            metrics.DISK_FREE.set(found["log"]["disk_free_bytes"])
            if (oldest_ms := await self.oldest_ms()) is not None:
                metrics.LOG_OLDEST.set(oldest_ms / 1_000)
            await asyncio.sleep(_STEP_S)

    def note(self, status: Row, now_ms: int) -> None:
        """One more step."""
        values = {name: status.get(name) for name in _SERIES} | {"commit_ms": RECENT.summary("commit")["last_ms"]}
        for name, value in values.items():
            self._series[name].append(value)
        self._newest_ms = now_ms

    def series(self) -> Row:
        """The steps, oldest first: ``step_s``, ``from`` (of the first), and a list for each number."""
        steps = len(self._series["lag_ms"])
        start = iso(self._newest_ms - (steps - 1) * _STEP_S * 1_000) if steps else None
        return {"step_s": _STEP_S, "from": start, **{name: list(values) for name, values in self._series.items()}}

    async def oldest_ms(self) -> int | None:
        """Event time of the log's oldest record, Unix ms; looked up once a minute, sooner while there is none."""
        async with self._lock:  # Whoever asks meanwhile gets the same answer.
            kept_s = _EMPTY_S if self._oldest_ms is None else _OLDEST_S
            if time.monotonic() - self._asked_s > kept_s:
                try:
                    self._oldest_ms = await asyncio.to_thread(self._oldest)
                except LogError as error:
                    _log.warning("the log's oldest record cannot be read", why=str(error))
                self._asked_s = time.monotonic()
        return self._oldest_ms


class Trouble(BaseModel):
    """One room that is not well."""

    room: str
    state: str = Field(description="bad, or warn")
    sentence: str
    advice: str


class Durations(BaseModel):
    """Of the newest thousand of a kind; null where there was none here."""

    name: str
    count: int
    p50_ms: float | None
    p99_ms: float | None
    last_ms: float | None


class Stage(BaseModel):
    """One step of a trade's path, and how long the newest one took or waits in it."""

    name: str
    lag_ms: float | None = Field(description="null where it cannot be seen from here")
    detail: str


class Connection(BaseModel):
    """A stretch of the last day in which a market's data was whole or not."""

    market: str
    start: Time = Field(alias="from")
    end: Time | None = Field(alias="to", description="null: until now")
    state: str = Field(description="live, closed, gap, filled (a gap that was backfilled), or that of the feed now")
    cause: str | None


class Counters(BaseModel):
    """What the engine has decided of a symbol's trades, over the whole log."""

    symbol: str
    market: str
    watermark: Time | None
    timestamp: Time | None
    trades: int
    late: int
    future: int
    ineligible: int
    unknown_conditions: int


class BarAgreement(BaseModel):
    """Our minute bars of one market beside the exchange's."""

    market: str
    compared: int
    different: int
    in_gaps: int = Field(description="not compared, since they lie in a gap")
    sent_again: int = Field(description="bars that the exchange corrected within 15 minutes")
    left_out: int = Field(description="not compared for want of room")
    rates: dict[str, float] = Field(
        description="share of those compared that differ in open, high, low, close, volume, vwap; missing: we have none"
    )
    examples: list[dict[str, Any]] = Field(description="the newest that differ, with both bars")


class Conditions(BaseModel):
    """The table of trade conditions in use."""

    date: str
    source: str
    codes: int
    unknown: dict[str, int] = Field(description="trades since the start with a code that is not in it, by code")


class HealthReport(BaseModel):
    """Everything the Health view shows."""

    as_of: Time
    sentence: str = Field(description="what is wrong first of all, or that nothing is")
    advice: str
    problems: list[Trouble]
    stages: list[Stage]
    commit: Durations
    append: Durations
    queries: list[Durations]
    queue: dict[str, int]
    log: dict[str, Any]
    database: dict[str, Any] | None = Field(description="null while it does not answer")
    feeds: list[Feed]
    connections: list[Connection]
    symbols: list[Counters]
    notifications: dict[str, Any] | None
    bars: list[BarAgreement] = Field(description="empty where the exchange's bars are not taken (COMPARE_BARS)")
    conditions: Conditions | None = Field(description="null where the feed is not in this process")
    series: dict[str, Any]


class Asked:
    """What the database says, kept for a moment, however many ask; one question at a time."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._lock = asyncio.Lock()
        self._rows_s = -_ROWS_S
        self._vitals_s = -_VITALS_S
        self._vitals: Row = {}
        self._answer: tuple[Row, list[Row], list[Row]] | None = None

    async def __call__(self) -> tuple[Row, list[Row], list[Row]] | None:
        """Vitals, symbols and gaps; None while it does not answer."""
        async with self._lock:
            if time.monotonic() - self._rows_s > _ROWS_S:
                self._answer = await self._ask()
                self._rows_s = time.monotonic()
            return self._answer

    async def _ask(self) -> tuple[Row, list[Row], list[Row]] | None:
        queries = self._queries
        try:
            if not self._vitals or time.monotonic() - self._vitals_s > _VITALS_S:
                self._vitals = await ask(queries, queries.vitals())
                self._vitals_s = time.monotonic()
            stocks = await ask(queries, queries.stocks())
            vitals = self._vitals | {"lanes": await ask(queries, queries.lanes())}
            return vitals, stocks, await ask(queries, queries.gaps(ALERTS_ROWS_MAX))
        except (StoreError, StoreUnavailable):
            self._vitals = {}
            return None


def health_routes(
    router: APIRouter, queries: Queries, status: Callable[[], Row], pulse: Pulse, calendar: Calendar | None = None
) -> None:
    """Add the route. ``calendar`` says when markets are closed."""
    asked = Asked(queries)

    @router.get("/health", response_model=HealthReport, summary="How everything is, with numbers and what to do")
    async def health() -> Response:
        """Answers while the database is away too, with what is known without it."""
        said, oldest_ms, now_ms = await asked(), await pulse.oldest_ms(), time.time_ns() // 1_000_000
        return Json(report(status(), said, pulse.series(), oldest_ms, now_ms, calendar, pulse.feed()))


def report(
    status: Row,
    asked: tuple[Row, list[Row], list[Row]] | None,
    series: Row,
    oldest_ms: int | None,
    now_ms: int,
    calendar: Calendar | None = None,
    feed: Row | None = None,
) -> Row:
    """A `HealthReport`. ``asked`` is what the database said: vitals, symbols and gaps. ``feed``: see `Pulse`.

    ``oldest_ms`` is the event time of the log's oldest record, None where it is not known.
    """
    vitals, stocks, gaps = asked or (None, [], [])
    found = _found(status, vitals, now_ms)
    log, origin = status["log"], status.get("origin")
    commit, append = RECENT.summary("commit"), RECENT.summary("append")
    known_ms = None if origin == "REPLAYED" else oldest_ms  # a recording's own times are of another day
    days = calendar if origin == "LIVE" else None
    return {
        "as_of": iso(now_ms),
        "sentence": found[0]["sentence"] if found else "Everything is well.",
        "advice": found[0]["advice"] if found else _facts(status),
        "problems": found,
        "stages": _stages(status, stocks, commit, append, _committed((vitals or {}).get("lanes", []), now_ms)),
        "commit": commit,
        "append": append,
        "queries": [RECENT.summary(kind) | {"name": kind.split(" ", 1)[1]} for kind in RECENT.kinds("query ")],
        "queue": {"bytes": status.get("queue_bytes", 0), "bytes_max": QUEUE_BYTES_MAX},
        "log": {
            "bytes": log.get("bytes"),
            "records": max(0, log["end"] - log["first"]) if "end" in log else None,
            "first": log.get("first"),
            "end": log.get("end"),
            "oldest_at": None if oldest_ms is None else iso(oldest_ms),
            "disk_free_bytes": log.get("disk_free_bytes"),
            "disk_free_bytes_min": DISK_FREE_BYTES_MIN,
        },
        "database": vitals and {name: vitals[name] for name in ("bytes", "postgres", "timescaledb", "rows", "lanes")},
        "feeds": status["feeds"],
        "connections": connections(status["feeds"], gaps, now_ms, known_ms, days),
        "symbols": [{name: row[name] for name in _COUNTERS} for row in stocks],
        "notifications": vitals
        and {name: vitals[name] for name in ("waiting", "dead", "delivered_24h", "oldest_waiting_at")},
        "bars": (feed or {}).get("bars", []),
        "conditions": (feed or {}).get("conditions"),
        "series": series,
    }


def _found(status: Row, vitals: Row | None, now_ms: int) -> list[dict[str, str]]:
    """All problems, the worst first."""
    found = problems(status)
    if vitals is None and not any(problem["room"] == "store" for problem in found):
        found.append(STORE_SILENT)
    waiting_at = (vitals or {}).get("oldest_waiting_at")
    found += further(status, vitals, now_ms, parse_time_ms(waiting_at) if waiting_at else None)
    return sorted(found, key=lambda problem: problem["state"] != "bad")


def _facts(status: Row) -> str:
    """What can be said when all is well."""
    live = [feed["market"] for feed in status["feeds"] if feed["state"] == "live"]
    words = [" and ".join(live).capitalize() + (" is live" if len(live) == 1 else " are live")] if live else []
    if (rate := status.get("trades_per_second")) is not None:
        words.append(f"{rate:,.1f} trades a second come")
    if (lag_ms := status.get("lag_ms")) is not None:
        words.append(f"the newest was stored {lag_ms:,.0f} ms after it came")
    return ", ".join(words) + ". Nothing needs to be done." if words else "Nothing needs to be done."


def _stages(status: Row, stocks: list[Row], commit: Row, append: Row, committed: str) -> list[Row]:
    """The path of a trade: how long each step takes, as far as this process sees it.

    ``committed`` says when others did, for a process that commits nothing itself.
    """
    engine = status.get("engine") or {}
    behind = engine.get("behind")
    waits = "not seen from here" if behind is None else f"{behind:,} records wait"
    late_ms, symbol = _feed_lag(status, stocks)
    said = "not seen from here" if late_ms is None else f"the newest trade ({symbol}): made there to received here"
    stored = committed if commit["p50_ms"] is None and committed else "one commit, half of them are faster"
    return [
        {"name": "feed", "lag_ms": late_ms, "detail": said},
        {"name": "log", "lag_ms": append["p50_ms"], "detail": "one append, half of them are faster"},
        {"name": "engine", "lag_ms": None, "detail": waits},
        {"name": "store", "lag_ms": commit["p50_ms"], "detail": stored},
        {"name": "whole path", "lag_ms": status.get("lag_ms"), "detail": "receipt of the newest trade to its commit"},
    ]


def _committed(lanes: list[Row], now_ms: int) -> str:
    """When the lanes were committed last, in words; empty without any."""
    ages = sorted((max(0, now_ms - parse_time_ms(lane["updated_at"])) / 1_000, lane["lane"]) for lane in lanes)
    if not ages:
        return ""
    words = f"the newest commit was {_age(ages[0][0])} ago"
    return words if len(ages) == 1 else f"{words}, that of lane {ages[-1][1]} {_age(ages[-1][0])} ago"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"


def _feed_lag(status: Row, stocks: list[Row]) -> tuple[int | None, str]:
    """From the event to the receipt of the newest trade, in ms, and its symbol; None in a recording, or without any."""
    known = [row for row in stocks if row["received_at"] and row["timestamp"]]
    if not known or status.get("origin") == "REPLAYED":
        return None, ""
    newest = max(known, key=lambda row: str(row["received_at"]))
    return parse_time_ms(newest["received_at"]) - parse_time_ms(newest["timestamp"]), newest["symbol"]
