"""A symbol's minute, replayed from the log through the oracle that notes what it decides.

The log is read from so far before the minute that nothing earlier can matter: first from two hours before, and if that
was too late (`TraceOracle.is_sure`), from a day before, the trading days before, and at last from its first record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from tapewatch.errors import LogError, UnknownSymbol
from tapewatch.explanation_words import Minute
from tapewatch.feed.conditions import eligibility
from tapewatch.feed.symbols import market_of
from tapewatch.oracle import Row, Settings
from tapewatch.oracle_trace import Span, TraceOracle
from tapewatch.profiles.explain_source import OpenSources, Source
from tapewatch.profiles.parts import Parts
from tapewatch.records import Batch, Gap, Kind, Market
from tapewatch.rules.change import RuleChange
from tapewatch.sessions import sessions_of
from tapewatch.settings import EXPLAIN_S_MAX

__all__ = ["MINUTE_MS", "ZONES", "Traced", "trace_minute"]

MINUTE_MS: Final = 60_000
LATE_MS: Final = 300_000
"""Late trades of the minute are looked for in the log's next five minutes."""
HOURS_BEFORE = (2.0, 24.0)
DAYS_BEFORE: Final = (1, 4)
_NEW_YORK: Final = ZoneInfo("America/New_York")
ZONES: Final = dict.fromkeys(Market, _NEW_YORK) | {Market.CRYPTO: ZoneInfo("UTC")}
_MARKS: Final = dict.fromkeys(Market, "ET") | {Market.CRYPTO: "UTC"}
_BITS: Final = 7
DAY_MS: Final = 86_400_000
REGULAR, EXTENDED, CLOSED = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Traced:
    minute: Minute
    market: Market
    session: str
    begins: int | None
    """From where the log was read: event time, Unix ms."""
    is_settled: bool
    """The log goes on for so long after the minute that the database has all of it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The log, opened, and until when an answer has to be there (monotonic)."""

    source: Source
    parts: Parts
    symbol: str
    market: Market
    deadline_s: float

    def since(self, time_ms: int | None) -> Iterator[Batch]:
        """As `Source.since`, until the deadline."""
        for batch in self.source.since(time_ms):
            if time.monotonic() > self.deadline_s:
                raise LogError(
                    f"Explaining {self.symbol} took longer than {EXPLAIN_S_MAX:g} s: so much of the log would have to "
                    "be read; try a later minute, or again when the machine is less busy"
                )
            yield batch


def trace_minute(open_sources: OpenSources, parts: Parts, symbol: str, start: int) -> Traced:
    nowhere: UnknownSymbol | None = None
    with open_sources(symbol) as sources:
        deadline_s = time.monotonic() + EXPLAIN_S_MAX
        for source in sources:
            try:
                return _trace(_Reading(source, parts, symbol, market_of(symbol), deadline_s), start)
            except UnknownSymbol as error:
                nowhere = nowhere or error
    assert nowhere is not None
    raise nowhere


def _trace(log: _Reading, start: int) -> Traced:
    parts, symbol, market, slide = log.parts, log.symbol, log.market, log.parts.settings.slide_ms
    span = Span(start - start % slide, max(start - start % slide + slide, start + MINUTE_MS))
    kept_since = log.source.first_ms()
    trace = None
    for since in _beginnings(parts, market, span.start):
        if since is not None:
            since -= since % slide  # whole panes
            if kept_since is None or since <= kept_since:
                continue
        trace = _run(log, span, since)
        if trace.is_sure() and trace.first is not None:
            break
    assert trace is not None
    first_trade = trace.first if since is None else None
    if trace.first is None:
        first_trade = _first_trade(log)
        if first_trade is None:
            raise UnknownSymbol(f"{symbol}: the log holds no trade of it{_since(kept_since, market)}")
    sessions = sessions_of(parts.calendar, market)
    session = sessions.state(start) if len(sessions.day_open) else "open"
    state = "future" if trace.reached < span.start else "running" if trace.reached < span.stop else "past"
    first_trade = first_trade if first_trade is not None and first_trade >= span.stop else None
    zone: tzinfo = ZONES[market]
    minute = Minute(trace, zone, _MARKS[market], state, session == "closed", kept_since, first_trade)
    return Traced(minute, market, session, kept_since if since is None else since, trace.reached >= span.stop + LATE_MS)


def _since(time_ms: int | None, market: Market) -> str:
    """Since when the log is kept, in the exchange's zone."""
    if time_ms is None:
        return ", and is empty"
    return f" (kept since {datetime.fromtimestamp(time_ms // 1000, ZONES[market]):%Y-%m-%d %H:%M} {_MARKS[market]})"


def _beginnings(parts: Parts, market: Market, start: int) -> Iterator[int | None]:
    """From where to try, latest first; None is the log's beginning."""
    for hours in HOURS_BEFORE:
        yield start - int(hours * 60) * MINUTE_MS
    if len(opens := sessions_of(parts.calendar, market).day_open):
        day = int(np.searchsorted(opens, start, side="right")) - 1
        for days in DAYS_BEFORE:
            if day - days >= 0:
                yield int(opens[day - days])
    yield None


def _first_trade(log: _Reading) -> int | None:
    """Event time of the symbol's first trade in the log; None without any."""
    for batch in log.since(None):
        number = log.source.tables.symbols.find(log.symbol)
        if number is not None and len(found := np.flatnonzero(batch.symbol == number)):
            return int(batch.time_ms[found[0]])
    return None


def _run(log: _Reading, span: Span, since: int | None) -> TraceOracle:
    """Replay the symbol from event time ``since`` until nothing of the span can change."""
    s = log.parts.settings
    durations = (s.window_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms, s.future_limit_ms)
    rules = log.source.rules_before(since, log.parts.rules)
    trace = TraceOracle(Settings(*durations, rules), log.symbol, span, since)
    confirm_bars = max((leg.definition.confirm_bars for leg in trace.legs if leg.direction), default=1)
    done = span.stop + (confirm_bars - 1) * s.slide_ms + max(s.watermark_delay_ms, s.confirm_delay_ms) + LATE_MS
    bits: dict[int, int] = {}
    for batch in log.since(since):
        for row in _rows(batch, log, since, bits):
            trace.take(row)
        if trace.reached >= done:
            break
    trace.finish()
    return trace


def _rows(batch: Batch, log: _Reading, since: int | None, bits: dict[int, int]) -> Iterator[Row]:
    """The symbol's trades and its market's ticks and gaps, as the oracle takes them."""
    number = log.source.tables.symbols.find(log.symbol)
    mine = (batch.symbol == (-2 if number is None else number)) | (batch.kind == Kind.RULES)
    mine |= (batch.kind != Kind.TRADE) & (batch.market == log.market)
    if since is not None:
        mine &= batch.time_ms >= since
    rows = np.flatnonzero(mine)
    times = batch.time_ms[rows]
    places = _places(times, log)
    received = batch.received_ns[rows] // 1_000_000
    columns = (
        rows, batch.kind[rows], times, received, batch.price[rows], batch.size_e8[rows], batch.conditions[rows],
        *places,
    )  # fmt: skip
    for i, kind, time_ms, received_ms, price, size, codes, *place in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        if kind == Kind.RULES:
            rules = RuleChange.decode(batch.ids[i]).rules
            yield Row(kind, log.market, "", time_ms, received_ms, 0.0, 0, 0, 0, rules=rules)
            continue
        if kind != Kind.TRADE:
            length = 0.0
            if kind == Kind.GAP:
                gap = Gap.decode(batch.ids[i])
                if not gap.is_open:
                    continue
                length = float(gap.to_ms - gap.from_ms)
            yield Row(kind, log.market, "", time_ms, received_ms, length, 0, 0, 0)
            continue
        if codes not in bits:
            bits[codes] = eligibility(log.source.tables.conditions.values[codes])
        may = bits[codes] if place[1] == REGULAR else bits[codes] >> 3
        yield Row(kind, log.market, log.symbol, time_ms, received_ms, price, size, may & _BITS, *place)


def _places(times: Any, log: _Reading) -> tuple[Any, ...]:
    """Of each time the stretch, the session, the trading day and its opening, as `oracle.Row` has them."""
    sessions = sessions_of(log.parts.calendar, log.market)
    if not len(sessions.day_open):
        return np.zeros(len(times), np.int64), np.full(len(times), REGULAR), times // DAY_MS, times - times % DAY_MS
    opened = np.searchsorted(sessions.day_open, times, side="right")
    last = np.maximum(opened - 1, 0)
    is_open = (opened > 0) & (times < sessions.day_close[last])
    regular = is_open & (times >= sessions.regular_open[last]) & (times < sessions.regular_close[last])
    closed = -(opened + 1)
    return (
        np.where(is_open, sessions.first_of_stretch[last], closed),
        np.where(regular, REGULAR, np.where(is_open, EXTENDED, CLOSED)),
        np.where(is_open, last, closed),
        np.where(is_open, sessions.day_open[last], 0),
    )
