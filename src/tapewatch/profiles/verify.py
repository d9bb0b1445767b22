"""The proof: every row of the database against the plain oracle's, computed anew from the log.

    lost     the log says there is such a row or alert, the database has none
    doubled  the database has it more than once
    wrong    it is there with other numbers, or should not be there at all

The rows and the position they stand at are read as they were at one moment, and the log up to that position; so it
may run beside a pipeline at work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, Final

import numpy as np

from tapewatch.errors import LogLost, StoreMismatch
from tapewatch.feed.conditions import eligibility
from tapewatch.log.reader import LogReader
from tapewatch.oracle import PRICE, Row, bars
from tapewatch.oracle import Settings as OracleSettings
from tapewatch.oracle_alerts import AlertKey, AlertOracle, AlertState
from tapewatch.profiles.parts import Parts
from tapewatch.records import BAR_ROW, WINDOW_ROW, Batch, Gap, GapState, Kind, Market, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.sessions import Sessions, sessions_of
from tapewatch.store.reading import Reading, Revision

__all__ = ["Expected", "Verdict", "expect_whole", "judge", "oracle_rows", "position_of", "verify"]

EXAMPLES_MAX: Final = 5
MINUTE_MS: Final = 60_000
GAP_MINUTES_MAX: Final = 60
"""Minutes of one gap that are marked per symbol: its first and last thirty."""
QUALITY_NAMES: Final = ("trades", "excluded", "late", "future", "gap_ms")
GAP_NAMES: Final = ("state", "trades", "later", "missing")
DECISIONS: Final = ("applied", "ineligible", "late", "future")
_BITS: Final = 7
_DAY_MS: Final = 86_400_000
BAR_NAMES: Final = {
    "open": "open_price", "high": "max_price", "low": "min_price", "close": "close_price", "volume": "total_volume",
}  # fmt: skip


@dataclass(slots=True)
class Verdict:
    """What was compared, and what was found; ``examples`` names some of each."""

    records: int = 0
    trades: int = 0
    repeated: int = 0
    """Trades that the log holds more than once."""
    rows: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    revised: Counter[str] = field(default_factory=Counter)
    """Rows that were corrected by what the exchange said afterwards, and are so in the database."""

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing doubled, nothing wrong."""
        return not (self.lost or self.doubled or self.wrong or self.repeated)

    def note(self, what: Counter[str], table: str, example: str) -> None:
        """Count one finding."""
        what[table] += 1
        if what[table] <= EXAMPLES_MAX:
            self.examples.append(f"{table}: {example}")


def oracle_rows(batch: Batch, tables: Tables, parts: Parts) -> Iterator[Row]:
    """The records as the oracle takes them."""
    bits: dict[int, int] = {}
    for i in range(len(batch)):
        kind, market, time_ms = int(batch.kind[i]), int(batch.market[i]), int(batch.time_ms[i])
        received_ms = int(batch.received_ns[i]) // 1_000_000
        if kind == Kind.GAP:
            if (gap := Gap.decode(batch.ids[i])).is_open:
                yield Row(kind, market, "", time_ms, received_ms, float(gap.to_ms - gap.from_ms), 0, 0, 0)
            continue
        if kind == Kind.TICK:
            yield Row(kind, market, "", time_ms, received_ms, 0.0, 0, 0, 0)
            continue
        if kind == Kind.RULES:
            rules = RuleChange.decode(batch.ids[i]).rules
            yield Row(kind, market, "", time_ms, received_ms, 0.0, 0, 0, 0, rules=rules)
            continue
        conditions = int(batch.conditions[i])
        if conditions not in bits:
            bits[conditions] = eligibility(tables.conditions.values[conditions])
        stretch, session, trading, opened = _place(sessions_of(parts.calendar, Market(market)), time_ms)
        may = bits[conditions] if session == 1 else bits[conditions] >> 3
        name = tables.symbols.values[batch.symbol[i]]
        price, size = float(batch.price[i]), int(batch.size_e8[i])
        yield Row(kind, market, name, time_ms, received_ms, price, size, may & _BITS, stretch, session, trading, opened)


def _place(sessions: Sessions, time_ms: int) -> tuple[int, int, int, int]:
    """Stretch, session, trading day and its opening, as `oracle.Row` has them."""
    if not len(sessions.day_open):
        day = time_ms // _DAY_MS
        return sessions.stretch(time_ms), 1, day, day * _DAY_MS
    day = sessions.day(time_ms)
    if day < 0:
        return day, 4, day, 0
    return sessions.stretch(time_ms), 1 if sessions.regular(time_ms) else 2, day, int(sessions.day_open[day])


def verify(log_path: Path, conninfo: str, parts: Parts, lane: str = "embedded") -> Verdict:
    """Recompute everything from the log and compare it with the database.

    Raises:
        LogLost: the log no longer holds its first records (retention), so nothing can be proved from it.
        LogCorrupt, StoreUnavailable, StoreMismatch: it cannot be read, or belongs to another log.
    """
    tables = Tables()
    with Reading(conninfo) as database, closing(LogReader.open(log_path, tables)) as reader:
        expected = Expected(parts.of_log(reader))
        position = position_of(database, lane, reader.log_id)
        expect_whole(str(log_path), reader.first)
        for batch in reader.batches(0, position, 20_000):
            expected.add(batch, tables)
        return judge([expected], database)


class Expected:
    """What one lane's records come to by the oracle."""

    def __init__(self, parts: Parts) -> None:
        s = parts.settings
        durations = (s.window_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms, s.future_limit_ms)
        self.oracle = AlertOracle(OracleSettings(*durations, parts.rules))
        self.counts = _Counts()
        self.gaps: dict[tuple[str, int, int], tuple[Any, ...]] = {}
        self.records = self.repeated = 0
        self._parts = parts
        self._seen: set[tuple[Any, ...]] = set()

    def add(self, batch: Batch, tables: Tables) -> None:
        """The next records, in order."""
        for row in oracle_rows(batch, tables, self._parts):
            self.counts.add(row, self.oracle.take(row))
        for i in np.flatnonzero(batch.kind == Kind.GAP).tolist():
            self._note_gap(Gap.decode(batch.ids[i]))
        self.records += len(batch)
        self.repeated += _repeats(batch, self._seen)

    def _note_gap(self, gap: Gap) -> None:
        key = (gap.market.name.lower(), gap.from_ms, gap.to_ms)
        if gap.state is not GapState.ASKED and (key not in self.gaps or not gap.is_open):
            self.gaps[key] = (gap.state.value, gap.trades, gap.later, gap.missing)


def judge(lanes: Sequence[Expected], database: Reading) -> Verdict:
    """All lanes against the tables, which they share."""
    verdict = Verdict(
        records=sum(lane.records for lane in lanes),
        repeated=sum(lane.repeated for lane in lanes),
        trades=sum(lane.counts.decisions.total() for lane in lanes),
    )
    names = [n for n in WINDOW_ROW.names or () if n not in ("symbol", "window_start_ms")]
    windows = ((key, tuple(row[n] for n in names)) for x in lanes for key, row in x.oracle.rows(x.oracle.p.window))
    _compare(verdict, "stock_aggregates", windows, database.windows(), names, database.revisions("stock_aggregates"))
    columns = [n for n in BAR_ROW.names or () if n not in ("symbol", "bar_start_ms")]
    bar_rows = (found for x in lanes for found in bars(x.oracle.rows(x.oracle.p.slide)))
    wanted = ((key, tuple(row[BAR_NAMES.get(n, n)] for n in columns)) for key, row in bar_rows)
    _compare(verdict, "price_bars", wanted, database.bars(), columns, database.revisions("price_bars"))
    minutes = (minute for x in lanes for minute in x.counts.minutes())
    _compare(verdict, "minute_quality", minutes, database.quality(), QUALITY_NAMES)
    symbols = (symbol for x in lanes for symbol in x.counts.symbols())
    _compare(verdict, "latest_prices", symbols, database.counters(), DECISIONS)
    gaps = {key: fate for x in lanes for key, fate in x.gaps.items()}
    _compare(verdict, "feed_gaps", sorted(gaps.items()), database.gaps(), GAP_NAMES)
    _compare_alerts(verdict, [found for x in lanes for found in x.oracle.alerts.items()], database)
    return verdict


def expect_whole(what: str, first: int) -> None:
    """Raise LogLost unless the log ``what`` still begins at its first record."""
    if first > 0:
        raise LogLost(
            f"{what}: the records before offset {first} are no longer kept (LOG_RETENTION), so the rows "
            "computed from them cannot be proved; verify proves logs that are whole"
        )


def position_of(database: Reading, lane: str, log_id: str) -> int:
    """Up to where the database has the lane. Raises StoreMismatch if it holds no rows of that log."""
    found = database.position(lane)
    if found is None or found[1] != log_id:
        raise StoreMismatch(f"The database holds no rows of log {log_id}; run the pipeline on it first.")
    return found[0]


def _repeats(batch: Batch, seen: set[tuple[Any, ...]]) -> int:
    """Trades of the batch that were in the log before; a trade without an id is never a repeat."""
    repeats = 0
    for i in range(len(batch)):
        if batch.kind[i] == Kind.TRADE and batch.ids[i]:
            hours = 5 if batch.market[i] == Market.STOCKS else 0
            day = (int(batch.time_ms[i]) - hours * 3_600_000) // _DAY_MS
            key = (day, int(batch.symbol[i]), int(batch.exchange[i]), int(batch.trf[i]), batch.ids[i])
            repeats += key in seen
            seen.add(key)
    return repeats


class _Counts:
    """What each record adds to its symbol and its minute, and each gap to all minutes of the symbols known then."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str]] = Counter()
        self._minutes: dict[tuple[str, int], list[int]] = {}
        self._markets: dict[str, int] = {}
        self._priced: set[str] = set()

    def add(self, row: Row, decision: str | None) -> None:
        """One record, and what the oracle decided about it."""
        if decision is not None:
            self._markets[row.symbol] = row.market
            self.decisions[row.symbol, decision] += 1
            unpriced = decision in ("applied", "ineligible") and not row.bits & PRICE
            if decision == "applied" and row.bits & PRICE:
                self._priced.add(row.symbol)
            minute = self._minute(row.symbol, row.time - row.time % MINUTE_MS)
            for i, more in enumerate((True, unpriced, decision == "late", decision == "future")):
                minute[i] += more
        elif row.kind == Kind.GAP:
            start = row.time - int(row.price)
            starts = list(range(start - start % MINUTE_MS, row.time, MINUTE_MS))
            if len(starts) > GAP_MINUTES_MAX:
                starts = starts[: GAP_MINUTES_MAX // 2] + starts[-GAP_MINUTES_MAX // 2 :]
            for symbol in (name for name, market in self._markets.items() if market == row.market):
                for minute_ms in starts:
                    inside = min(minute_ms + MINUTE_MS, row.time) - max(minute_ms, start)
                    self._minute(symbol, minute_ms)[4] += inside

    def minutes(self) -> Iterator[tuple[tuple[str, int], tuple[int, ...]]]:
        """Key and counts of every minute, as in `minute_quality`."""
        return ((key, tuple(counts)) for key, counts in sorted(self._minutes.items()))

    def symbols(self) -> Iterator[tuple[tuple[str], tuple[int, ...]]]:
        """Every symbol that has a price and its decisions, as in `latest_prices`."""
        return (((name,), tuple(self.decisions[name, d] for d in DECISIONS)) for name in sorted(self._priced))

    def _minute(self, symbol: str, minute_ms: int) -> list[int]:
        return self._minutes.setdefault((symbol, minute_ms), [0] * len(QUALITY_NAMES))


def _compare(
    verdict: Verdict,
    table: str,
    expected: Iterable[tuple[tuple[Any, ...], tuple[Any, ...]]],
    found: Iterable[tuple[Any, ...]],
    names: Sequence[str],
    revisions: Iterable[Revision] = (),
) -> None:
    """Rows by key: ``expected`` as (key, values), ``found`` as key and values in one; ``names`` are the values'.

    A row of ``revisions`` must have been what is expected before, and be now what it was corrected to.
    """
    revised = {(symbol, start_ms): (old, new) for symbol, start_ms, old, new in revisions}
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in found:
        key, values = row[: len(row) - len(names)], row[len(row) - len(names) :]
        if key in rows:
            verdict.note(verdict.doubled, table, f"{key} is there twice")
        rows[key] = values
    for key, values in expected:
        verdict.rows[table] += 1
        wanted: tuple[Any, ...] | None = tuple(map(_null, values))
        if key in revised:
            wanted = _revised(verdict, table, key, wanted, revised.pop(key), names)
        if key not in rows or wanted is None:
            if wanted is not None:
                verdict.note(verdict.lost, table, f"{key} is missing")
            continue
        got = rows.pop(key)
        if got != wanted:
            pairs = zip(names, got, wanted, strict=True)
            different = [f"{name} is {a!r}, should be {b!r}" for name, a, b in pairs if a != b]
            verdict.note(verdict.wrong, table, f"{key}: {'; '.join(different)}")
    for key, both in revised.items():
        wanted = _revised(verdict, table, key, None, both, names)
        if rows.pop(key, None) != wanted:
            verdict.note(verdict.wrong, table, f"{key} is not what it was corrected to")
    for key in rows:
        verdict.note(verdict.wrong, table, f"{key} should not be there")


def _revised(
    verdict: Verdict,
    table: str,
    key: tuple[Any, ...],
    expected: tuple[Any, ...] | None,
    both: tuple[dict[str, Any] | None, dict[str, Any] | None],
    names: Sequence[str],
) -> tuple[Any, ...] | None:
    """What a corrected row is to be now; noted as wrong if it was not corrected from what the log says."""
    old, new = (None if row is None else tuple(row[name] for name in names) for row in both)
    verdict.revised[table] += 1
    if old != expected:
        verdict.note(verdict.wrong, table, f"{key} was corrected from {old}, but the log says {expected}")
    return new


def _compare_alerts(verdict: Verdict, expected: Iterable[tuple[AlertKey, AlertState]], database: Reading) -> None:
    table = "breakout_alerts"
    found: dict[AlertKey, AlertState] = {}
    for a in database.alerts():
        key = AlertKey(a.rule, a.symbol, a.pane_start_ms, a.direction)
        if key in found:
            verdict.note(verdict.doubled, table, f"{key} is there twice")
        found[key] = AlertState(a.triggered_ms, a.price, a.line, a.status.value, a.decided_ms)
    for key, state in expected:
        verdict.rows[table] += 1
        if key not in found:
            verdict.note(verdict.lost, table, f"{tuple(key)} is missing")
        elif (row := found.pop(key)) != state:
            verdict.note(verdict.wrong, table, f"{tuple(key)} is {tuple(row)}, should be {tuple(state)}")
    for key in found:
        verdict.note(verdict.wrong, table, f"{tuple(key)} should not be there")


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value
