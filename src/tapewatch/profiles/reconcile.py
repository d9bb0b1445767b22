"""A day as it was logged against what the exchange says of it now; and its rows corrected, when asked.

    log ─► the day's trades ─┐
                             ├─► differences ─► panes touched ─► oracle without and with them ─► rows that differ
    REST ─► the day's trades ┘

The log stays as it is: it says what was known when. Corrected rows are kept in `row_revisions` with what they were, so
`tapewatch verify` proves them too: from what the log says, to what they are now.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np

from tapewatch.errors import FeedError, InputError
from tapewatch.feed.backfill import History
from tapewatch.feed.decode import Decoder
from tapewatch.feed.reconcile import Compared, Difference, compare_day, late_difference
from tapewatch.feed.rest import Pace
from tapewatch.feed.symbols import market_of
from tapewatch.log.reader import LogReader
from tapewatch.oracle import PRICE, Oracle, Row, bars
from tapewatch.oracle import Settings as OracleSettings
from tapewatch.oracle_alerts import AlertKey, AlertOracle
from tapewatch.profiles.market import KEY, SimulatorProcess
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rooms import Rooms
from tapewatch.profiles.said import rules_before
from tapewatch.profiles.verify import BAR_NAMES, oracle_rows
from tapewatch.records import BAR_ROW, WINDOW_ROW, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import Rules
from tapewatch.settings import Settings
from tapewatch.store.revise import NewRow, revise_rows

__all__ = ["DayReport", "SymbolDay", "day_of", "reconcile", "revise"]

BEFORE_MS: Final = 3 * 3_600_000
"""So much before the day is computed too: averages, sides and volumes reach back."""
CLOSES_MS: Final = 4 * 86_400_000
"""The close before the day is looked for so far back: over a long weekend."""
CLOSES_KEPT: Final = 500
"""Trades of a symbol that are kept from before; the last one that may set a price is among them."""
AFTER_MS: Final = 6 * 3_600_000
"""Trades of the day that were logged later than this after its end are not looked for."""
_NEW_YORK: Final = ZoneInfo("America/New_York")
_NOT_YET_MS: Final = 20 * 60_000
"""Of the last minutes REST does not tell everything yet."""
_WORDS: Final = ("is_final", "revision")


@dataclass(slots=True)
class SymbolDay:
    """One symbol's day. ``why`` says why it could not be compared."""

    symbol: str
    compared: Compared = field(default_factory=Compared)
    rows: list[NewRow] = field(default_factory=list)
    vanished: list[AlertKey] = field(default_factory=list)
    """Alerts that would not have come."""
    appeared: list[AlertKey] = field(default_factory=list)
    """Alerts that would have come too."""
    why: str = ""


@dataclass(slots=True)
class DayReport:
    """What was found."""

    day: date
    symbols: list[SymbolDay] = field(default_factory=list)

    @property
    def differs(self) -> bool:
        """Whether anything differs, or could not be compared."""
        return any(one.compared.differences or one.why for one in self.symbols)

    def rows(self) -> Iterator[NewRow]:
        """All rows that would be others."""
        return (row for one in self.symbols for row in one.rows)


def day_of(text: str) -> date:
    """``2026-11-20``, or ``yesterday`` (in New York).

    Raises:
        InputError: it is none.
    """
    today = datetime.now(_NEW_YORK).date()
    if text == "yesterday":
        return today - timedelta(days=1)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text}: expected a day such as 2026-11-20, or yesterday") from None
    if day > today:
        raise InputError(f"{text}: this day has not been yet")
    return day


def reconcile(settings: Settings, rooms: Rooms, parts: Parts, day: date, symbols: Sequence[str]) -> DayReport:
    """Compare a day (New York's; for crypto UTC's) of ``symbols``, or of all that the log holds of it.

    Raises:
        InputError: it is a recording, or the log holds nothing of that day.
        FeedRefused: no key.
        LogLost, LogCorrupt, MachineError: the log cannot be read, or the simulator not started.
    """
    if rooms.origin is Origin.REPLAYED:
        raise InputError("this is a recording: nobody can be asked what has become of it")
    tables = Tables()
    with closing(LogReader.open(rooms.log_path, tables)) as reader:
        logged = _Logged(reader, tables, day, symbols, parts.rules)
    parts = replace(parts, rules=logged.rules)
    if not logged.symbols:
        whose = f" of {', '.join(symbols)}" if symbols else ""
        raise InputError(f"{day}: the log holds no trade of this day{whose}")
    with ExitStack() as undo:
        url, key = _server(settings, rooms, undo)
        found = asyncio.run(_ask(settings, url, key, logged, tables))
    report = DayReport(day)
    for symbol, told in found.items():
        if isinstance(told, str):
            report.symbols.append(SymbolDay(symbol, why=told))
        else:
            report.symbols.append(_judge(symbol, told, logged, tables, parts))
    return report


def revise(rooms: Rooms, report: DayReport) -> tuple[int, int]:
    """Write the rows that differ; how many were rewritten, and how many were left since they are not final.

    Raises: as `revise_rows`.
    """
    return revise_rows(rooms.conninfo, report.rows())


def bounds_ms(day: date, market: Market) -> tuple[int, int]:
    """The day of a market, Unix ms."""
    zone = UTC if market is Market.CRYPTO else _NEW_YORK
    starts = (datetime(d.year, d.month, d.day, tzinfo=zone) for d in (day, day + timedelta(days=1)))
    first, end = (int(start.timestamp()) * 1_000 for start in starts)
    return first, end


class _Logged:
    """What the log holds of a day, and of the time around it that its rows are computed from."""

    def __init__(self, reader: LogReader, tables: Tables, day: date, symbols: Sequence[str], rules: Rules) -> None:
        self.bounds = {market: bounds_ms(day, market) for market in Market}
        first_ms = min(start for start, _ in self.bounds.values())
        last_ms = max(end for _, end in self.bounds.values())
        self._cut_ms = first_ms - BEFORE_MS
        self._older: dict[int, list[Batch]] = {}
        parts: list[Batch] = []
        at = max(reader.first, reader.find_time(first_ms - CLOSES_MS))
        self.rules = rules_before(reader, at, rules)
        """Those that held before the first record."""
        for batch in reader.batches(at):
            ticks = batch.time_ms[batch.kind == Kind.TICK]
            if len(ticks) and ticks.min() > last_ms + AFTER_MS:
                break
            parts.append(self._kept(batch))
        older = [batch for batches in self._older.values() for batch in batches]
        self._all = Batch.join([*older, *parts]) if parts else Batch.empty()
        inside = np.zeros(len(self._all), np.bool_)
        for market, (start, end) in self.bounds.items():
            inside |= (self._all.market == market) & (self._all.time_ms >= start) & (self._all.time_ms < end)
        numbers = np.unique(self._all.symbol[inside & (self._all.kind == Kind.TRADE)])
        names = sorted(str(tables.symbols.values[number]) for number in numbers.tolist())
        self.symbols = [name for name in names if not symbols or name in symbols]
        ticks = self._all.time_ms[self._all.kind == Kind.TICK]
        self.newest_ms = int(self._all.time_ms.max()) if not len(ticks) else int(ticks.max())

    def _kept(self, batch: Batch) -> Batch:
        """What is near the day; of what is before, the newest trades of each symbol are kept aside."""
        is_old = batch.time_ms < self._cut_ms
        for i in np.flatnonzero(is_old & (batch.kind == Kind.RULES)).tolist():
            self.rules = RuleChange.decode(batch.ids[i]).rules
        old = np.flatnonzero(is_old & (batch.kind == Kind.TRADE))
        for number in np.unique(batch.symbol[old]).tolist():
            mine = batch.take(old[batch.symbol[old] == number][-CLOSES_KEPT:])
            kept = Batch.join([*self._older.get(number, ()), mine])
            self._older[number] = [kept.slice(max(0, len(kept) - CLOSES_KEPT), len(kept))]
        return batch.take(np.flatnonzero(~is_old))

    def of(self, symbol: str, tables: Tables) -> Batch:
        """The records that a symbol's rows come from: its trades, and its market's ticks and new gaps."""
        number, market = tables.symbols.find(symbol), market_of(symbol)
        batch = self._all
        others = np.flatnonzero((batch.kind == Kind.RULES) | ((batch.kind != Kind.TRADE) & (batch.market == market)))
        told = [i for i in others.tolist() if batch.kind[i] == Kind.GAP and not Gap.decode(batch.ids[i]).is_open]
        mine = ((batch.kind == Kind.TRADE) & (batch.symbol == number)) | np.isin(np.arange(len(batch)), others)
        mine[told] = False
        return batch.take(np.flatnonzero(mine))


def _server(settings: Settings, rooms: Rooms, undo: ExitStack) -> tuple[str, str]:
    """Address and key of the REST side that this data came from; the simulated market is simulated again."""
    if rooms.origin is Origin.SIMULATED:
        says = rooms.folder / "reconcile.log"
        simulator = SimulatorProcess.seeded(settings.simulator_seed, settings.simulator_rate, says)
        undo.callback(simulator.stop)
        simulator.wait_ready()
        return simulator.rest_url, KEY
    if settings.feed == "coinbase":
        raise InputError("FEED=coinbase: Coinbase tells of no corrections, so there is nothing to reconcile with")
    if settings.massive_api_key is None:
        raise InputError("MASSIVE_API_KEY is not set: the exchange cannot be asked")
    return settings.massive_rest_url, settings.massive_api_key.get_secret_value()


async def _ask(settings: Settings, url: str, key: str, logged: _Logged, tables: Tables) -> dict[str, Any]:
    """What REST says of each symbol's day, or why it says nothing; one symbol after the other."""
    found: dict[str, Any] = {}
    async with History(url, key, pace=Pace(settings.rest_calls_per_minute)) as history:
        for symbol in logged.symbols:
            start_ms, end_ms = logged.bounds[market_of(symbol)]
            try:
                until_ms = min(end_ms, logged.newest_ms - _NOT_YET_MS)
                told = await history.told(Decoder(tables), symbol, start_ms, max(start_ms, until_ms))
                found[symbol] = (told, (start_ms, until_ms))
            except FeedError as error:
                found[symbol] = str(error)
    return found


@dataclass(frozen=True, slots=True)
class _Judged:
    """A symbol's records as the oracle took them, and what is wrong with them."""

    symbol: str
    rows: list[Row]
    decisions: list[Any]
    gone: set[int]
    """Rows that should not be there, or not so."""
    late: set[int]
    """Rows that came too late for their pane."""
    new: list[Row]
    """Trades that should be there."""


def _judge(symbol: str, asked: Any, logged: _Logged, tables: Tables, parts: Parts) -> SymbolDay:
    told, (start_ms, end_ms) = asked
    records = logged.of(symbol, tables)
    inside = (records.kind == Kind.TRADE) & (records.time_ms >= start_ms) & (records.time_ms < end_ms)
    places = np.flatnonzero(inside)
    found = SymbolDay(symbol, compare_day(symbol, records.take(places), told, tables))
    differences = found.compared.differences
    rows, new = list(oracle_rows(records, tables, parts)), list(oracle_rows(found.compared.new, tables, parts))
    assert len(rows) == len(records), "every record is one row"
    oracle = _oracle(parts)
    decisions = [oracle.take(row) for row in rows]
    gone = {int(places[i]) for i in found.compared.gone}
    late = {int(i) for i in places if decisions[i] == "late"} - gone
    differences += [late_difference(symbol, records, i) for i in sorted(late)]
    differences.sort(key=lambda d: (d.time_ms, d.trade_id, d.what))
    if not gone and not late and not new:
        return found
    judged = _Judged(symbol, rows, decisions, gone, late, new)
    found.rows += _changed_rows(oracle, _corrected(oracle, judged), differences, parts)
    before, after = set(oracle.alerts), set(_again(parts, judged).alerts)
    found.vanished, found.appeared = (
        sorted(key for key in keys if start_ms <= key.pane < end_ms) for keys in (before - after, after - before)
    )
    return found


def _oracle(parts: Parts) -> AlertOracle:
    s = parts.settings
    durations = (s.window_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms, s.future_limit_ms)
    return AlertOracle(OracleSettings(*durations, parts.rules))


def _corrected(oracle: AlertOracle, judged: _Judged) -> Oracle:
    """The oracle as if the touched panes held what they should; all others are the same, bit for bit."""
    symbol, rows, slide = judged.symbol, judged.rows, oracle.p.slide

    def pane(row: Row) -> int:
        return int(row.time - row.time % slide)

    touched = {pane(rows[i]) for i in judged.gone | judged.late} | {pane(row) for row in judged.new}
    held: dict[int, list[Row]] = {start: [] for start in touched}
    for i, row in enumerate(rows):
        if judged.decisions[i] in ("applied", "late") and row.bits and i not in judged.gone and pane(row) in held:
            held[pane(row)].append(row)
    for row in judged.new:
        if row.bits:
            held[pane(row)].append(row)
    panes, closes = dict(oracle.panes[symbol]), dict(oracle.closes[symbol])
    for start, trades in held.items():
        trades.sort(key=lambda row: row.time)
        panes.pop(start, None)
        closes.pop(start, None)
        if trades:
            panes[start] = trades
        if prices := [(row.time, row.price) for row in trades if row.bits & PRICE]:
            closes[start] = prices[-1]
    better = copy(oracle)
    better.panes = defaultdict(dict, {symbol: panes} if panes else {})
    better.closes = defaultdict(dict, {**oracle.closes, symbol: closes})
    return better


def _again(parts: Parts, judged: _Judged) -> AlertOracle:
    """The oracle over the same records, with the right trades at their times."""
    wrong = judged.gone | judged.late
    kept = [row for i, row in enumerate(judged.rows) if i not in wrong]
    times = list(accumulate((row.time for row in kept), max))
    oracle, at = _oracle(parts), 0
    for row in sorted([*(judged.rows[i] for i in judged.late), *judged.new], key=lambda row: row.time):
        stop = bisect_right(times, row.time, lo=at)
        for before in kept[at:stop]:
            oracle.take(before)
        oracle.take(row._replace(received=max(row.received, row.time)))
        at = stop
    for row in kept[at:]:
        oracle.take(row)
    return oracle


_ByKey = dict[tuple[str, int], dict[str, Any]]
_WINDOWS: Final = {name: name for name in WINDOW_ROW.names or () if name not in ("symbol", "window_start_ms")}
_BARS: Final = {n: BAR_NAMES.get(n, n) for n in BAR_ROW.names or () if n not in ("symbol", "bar_start_ms")}


def _changed_rows(before: Oracle, after: Oracle, differences: Sequence[Difference], parts: Parts) -> Iterator[NewRow]:
    """The rows that are others, appear or vanish."""
    window, slide = parts.settings.window_ms, parts.settings.slide_ms
    windows: list[_ByKey] = [dict(one.rows(window)) for one in (before, after)]
    one_pane: list[_ByKey] = [dict(bars(one.rows(slide))) for one in (before, after)]
    for table, length, names, (old_rows, new_rows) in (
        ("stock_aggregates", window, _WINDOWS, windows),
        ("price_bars", slide, _BARS, one_pane),
    ):
        for key in sorted(old_rows.keys() | new_rows.keys()):
            old, new = (_values(rows.get(key), names) for rows in (old_rows, new_rows))
            if _said(old) != _said(new):
                reasons = {d.what.value for d in differences if key[1] <= d.time_ms < key[1] + length}
                yield NewRow(table, *key, new, ", ".join(sorted(reasons)) or "a close before it")


def _values(row: dict[str, Any] | None, names: dict[str, str]) -> dict[str, Any] | None:
    return None if row is None else {name: _null(row[of]) for name, of in names.items()}


def _said(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {name: value for name, value in row.items() if name not in _WORDS}


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
