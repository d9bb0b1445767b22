"""The engine: records in, changed rows and alerts out.

The engine opens no file, reads no clock and draws no random number: equal records give equal rows, after a crash,
in a test, on Spark. `step` takes records in log order; `drain` gives what changed since the drain before it;
`snapshot` is the whole state, right after a drain.

    records  ----step----ooo----step----oooo----
    rows                      drain            drain      (each row at most once, as it is at that moment)

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.engine import kernel
from tapewatch.engine.alerts import withdraw
from tapewatch.engine.days import TradingDays, days_of
from tapewatch.engine.evidence import alert_of
from tapewatch.engine.panes import rows_per_symbol
from tapewatch.engine.scope import Legs, Scope, machine_rows, moved, shape_for
from tapewatch.engine.snapshot import Remembered, dump, load
from tapewatch.engine.state import NEVER, NO_TRADE, Output, Params, new_output, new_state, shape_of
from tapewatch.records import (
    BAR_ROW,
    LATEST_ROW,
    QUALITY_ROW,
    WINDOW_ROW,
    Alert,
    Batch,
    Changes,
    Gap,
    GapState,
    Kind,
    Market,
    Tables,
)
from tapewatch.rules.change import RuleChange, RuleVersion
from tapewatch.rules.machines import machines_of
from tapewatch.rules.model import Rules

GAPS_KEPT: Final = 64
GAP_MINUTES_MAX: Final = 60
"""Minutes of one gap that are marked per symbol; `feed_gaps` holds the gap itself, whole."""
MINUTE_MS: Final = 60_000


def engine_params(
    rules: Rules,
    *,
    window_ms: int,
    slide_ms: int,
    watermark_delay_ms: int,
    confirm_delay_ms: int,
    future_limit_ms: int,
) -> Params:
    """The kernel's numbers from settings and rules."""
    assert window_ms % slide_ms == 0, (window_ms, slide_ms)
    assert confirm_delay_ms <= slide_ms, (confirm_delay_ms, slide_ms)
    machines, lines = machine_rows(machines_of(rules, slide_ms=slide_ms), {}, window_ms)
    return Params(
        slide_ms=slide_ms,
        window_panes=window_ms // slide_ms,
        delay_ms=watermark_delay_ms,
        confirm_ms=confirm_delay_ms,
        future_ms=future_limit_ms,
        side_band=rules.golden_cross.band_bps / 1e4,
        machines=machines,
        lines=lines,
    )


class Engine:
    """One lane's engine.

    Args:
        params: from `engine_params`.
        rules: those that hold before the log says others; a snapshot brings its own.
        calendar: trading days of each market; one that is not in it never closes.
        tables: the process's interners; the engine reads them.
        eligibility: condition codes -> bits (price 1, high/low 2, volume 4 in the regular session, the same three
            shifted by 3 outside it, 64 for an unknown code), as `feed.conditions.eligibility` gives them.
        news_age_ms: an alert whose trade was older than this at its receipt is marked late.
    """

    def __init__(
        self,
        params: Params,
        rules: Rules,
        calendar: Mapping[Market, TradingDays],
        tables: Tables,
        eligibility: Callable[[tuple[int, ...]], int],
        *,
        news_age_ms: int = 600_000,
    ) -> None:
        self.params = params
        self.position: int | None = None
        """Log offset up to which records were stepped; None before the first."""
        self.rules = rules
        """Those that hold at ``position``."""
        self._since: dict[str, int] = {}
        self._scope = Scope(machines_of(rules, slide_ms=params.slide_ms))
        self._legs: list[Legs] = []
        self._days = days_of(calendar)
        self._tables = tables
        self._eligibility_of = eligibility
        self._eligibility = np.zeros(0, np.int64)
        self._news_age_ms = news_age_ms
        self._shape = shape_for(self._scope.machines, params, self._days)
        self._room = rows_per_symbol(self._shape.slots, params.window_panes)
        self._state = new_state(64, self._shape)
        self._gaps: list[Gap] = []
        self._asked: list[Gap] = []
        self._out = new_output(max(4_096, 4 * self._room), 1_024)
        self._forget()

    # --- records in ------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> NDArray[np.uint8]:
        """Take the batch's records, in order; return a `Decision` per trade (255 for ticks and gaps)."""
        assert self.position is None or batch.offset < 0 or batch.offset == self.position, (batch.offset, self.position)
        self._make_room()
        decisions = np.full(len(batch), NO_TRADE, np.uint8)
        eligibility = self._eligibility[batch.conditions]
        row = 0
        while row < len(batch):
            row = kernel.run(
                self._state, len(self._tables.symbols), batch.kind, batch.market, batch.symbol, batch.time_ms,
                batch.received_ns, batch.price, batch.size_e8, eligibility, self.params, self._days, self._out,
                decisions, row, self._room,
            )  # fmt: skip
            if row < len(batch) and batch.kind[row] == Kind.GAP:
                self._gap(Gap.decode(batch.ids[row]))
                row += 1
            elif row < len(batch) and batch.kind[row] == Kind.RULES:
                self._collect(batch)
                offset = batch.offset + row if batch.offset >= 0 else -1
                self._change(RuleChange.decode(batch.ids[row], int(batch.time_ms[row]), offset), batch, row)
                row += 1
            self._collect(batch)
            self._make_events_room()
        if batch.offset >= 0:
            self.position = batch.offset + len(batch)
        return decisions

    def skip_to(self, offset: int) -> None:
        """Go on at ``offset``: the records before it are no longer kept by the log."""
        assert self.position is None or offset >= self.position, (self.position, offset)
        self.position = offset

    def newest_ms(self, market: Market) -> int | None:
        """The newest event time known of a market: of a trade that counted, or of a tick. None before any."""
        known = self._state.symbols[: len(self._tables.symbols)]
        mine = known["max_ms"][(known["known"] == 1) & (known["market"] == int(market))]
        newest = max([int(self._state.markets[int(market)]["tick_ms"]), *mine.tolist()])
        return newest if newest > NEVER else None

    def _make_room(self) -> None:
        codes = self._tables.conditions.values
        if len(codes) > len(self._eligibility):
            self._eligibility = np.array([self._eligibility_of(c) for c in codes], np.int64)
        new = [self._scope.legs_of(str(name)) for name in self._tables.symbols.values[len(self._legs) :]]
        if new:
            self._cover(self._scope, [()] * len(new), new, len(self._legs))
        self._make_events_room()

    def _make_events_room(self) -> None:
        """Room for the most events that one record can make."""
        most = int(self._state.counts[1]) + self._state.legs.shape[1]
        if most > len(self._out.events):
            self._out = new_output(len(self._out.windows), 2 * most)

    def _cover(self, scope: Scope, old: list[Legs], new: list[Legs], first: int = 0) -> None:
        """From now on symbol ``first`` has the legs ``new[0]`` of that scope, and had ``old[0]``; and so on."""
        self._state = moved(self._state, self._shape, self._scope, old, scope, new, first)
        self._scope = scope
        self._legs[first:] = new
        self._room = rows_per_symbol(self._state.panes.shape[1], self.params.window_panes)
        if self._room > len(self._out.windows):
            self._out = new_output(4 * self._room, len(self._out.events))

    def _change(self, change: RuleChange, batch: Batch, row: int) -> None:
        """Other rules hold from this record on. What waits of those that are no more is retracted.

        For a symbol that has not traded yet they are those that held from the beginning.
        """
        rules, time_ms = change.rules, change.time_ms
        if change.who != "repeat":
            self._new_rules += change.versions()
        same = {name for name in rules if name in self.rules and rules.version(name) == self.rules.version(name)}
        scope = Scope(machines_of(rules, slide_ms=self.params.slide_ms))
        gone = np.array([machine.rule not in same for machine in self._scope.machines], np.bool_)
        withdraw(self._state, gone, len(self._legs), time_ms, row, self.params, self._out)
        self._collect(batch)
        since_ms = time_ms - time_ms % self.params.slide_ms - (self.params.window_panes - 1) * self.params.slide_ms
        since = {name: since_ms for name in rules if name not in same}
        self._since = {name: before for name, before in self._since.items() if name in same} | since
        self.rules = rules
        self._follow(scope)
        self._cover(scope, self._legs, [scope.legs_of(str(n)) for n in self._tables.symbols.values[: len(self._legs)]])
        self._make_events_room()

    def _follow(self, scope: Scope) -> None:
        """Give the kernel the numbers of the present rules, whose machines are ``scope``'s."""
        window_ms = self.params.window_panes * self.params.slide_ms
        machines, lines = machine_rows(scope.machines, self._since, window_ms)
        band = self.rules.golden_cross.band_bps / 1e4
        self.params = self.params._replace(machines=machines, lines=lines, side_band=band)
        self._shape = shape_for(scope.machines, self.params, self._days).over(self._shape)

    def _gap(self, gap: Gap) -> None:
        symbols = len(self._tables.symbols)
        if gap.state is GapState.ASKED:
            self._asked = [*self._asked, gap][-GAPS_KEPT:]
            return
        self._new_gaps.append(gap)
        if not gap.is_open:
            return
        self._gaps = [*self._gaps, gap][-GAPS_KEPT:]
        if gap.to_ms - gap.from_ms > self.params.window_panes * self.params.slide_ms:
            kernel.forget_sides(self._state, int(gap.market), symbols, self.params)
        known = self._state.symbols[:symbols]
        rows = np.flatnonzero((known["known"] == 1) & (known["market"] == int(gap.market)))
        starts = np.arange(gap.from_ms - gap.from_ms % MINUTE_MS, gap.to_ms, MINUTE_MS)
        if len(starts) > GAP_MINUTES_MAX:
            half = GAP_MINUTES_MAX // 2
            starts = np.concatenate([starts[:half], starts[-half:]])
        inside = np.minimum(starts + MINUTE_MS, gap.to_ms) - np.maximum(starts, gap.from_ms)
        quality = np.zeros(len(rows) * len(starts), QUALITY_ROW)
        quality["symbol"] = np.repeat(rows, len(starts))
        quality["minute_ms"] = np.tile(starts, len(rows))
        quality["gap_ms"] = np.tile(inside, len(rows))
        self._quality.append(quality)

    # --- rows out --------------------------------------------------------------------------------------------

    def drain(self) -> Changes:
        """All rows that changed since the last drain, each once, and the alerts and gaps in log order."""
        symbols = len(self._tables.symbols)
        touched = np.sort(self._state.dirty[: self._state.counts[0]])
        self._state.dirty[: len(touched)] = touched
        # What the kernel gives now comes in order and once; what it had to give out before may come again.
        windows_before, bars_before, quality_before = len(self._windows), len(self._bars), len(self._quality)
        done = 0
        while done < len(touched):
            done = kernel.drain_rows(self._state, done, self.params, self._out, self._room)
            self._collect(None)
        windows, bars = _joined(self._windows, WINDOW_ROW), _joined(self._bars, BAR_ROW)
        quality = _joined(self._quality, QUALITY_ROW)
        changes = Changes(
            symbols=self._tables.symbols.values[:symbols],
            windows=_newest(windows, "window_start_ms") if windows_before else windows,
            bars=_newest(bars, "bar_start_ms") if bars_before else bars,
            latest=self._latest(touched),
            quality=_summed(quality) if quality_before else quality,
            alerts=self._alerts,
            gaps=self._new_gaps,
            rules=self._new_rules,
        )
        self._forget()
        return changes

    def _forget(self) -> None:
        self._windows: list[NDArray[Any]] = []
        self._bars: list[NDArray[Any]] = []
        self._quality: list[NDArray[Any]] = []
        self._alerts: list[Alert] = []
        self._new_gaps: list[Gap] = []
        self._new_rules: list[RuleVersion] = []

    def _collect(self, batch: Batch | None) -> None:
        """Take what the kernel put into its room, and empty the room."""
        windows, bars, quality, events = self._out.counts.tolist()
        if windows:
            self._windows.append(self._out.windows[:windows].copy())
        if bars:
            self._bars.append(self._out.bars[:bars].copy())
        if quality:
            self._quality.append(self._out.quality[:quality].copy())
        for event in self._out.events[:events]:
            assert batch is not None
            machine = self._scope.machines[event["machine"]]
            self._alerts.append(
                alert_of(
                    event, machine, self.rules, self.params, batch, self._tables, self._gaps, self._asked,
                    self._news_age_ms,
                )
            )  # fmt: skip
        self._out.counts[:] = 0

    def _latest(self, touched: NDArray[np.int32]) -> NDArray[Any]:
        rows = np.zeros(len(touched), LATEST_ROW)
        return rows[: kernel.give_latest(self._state, touched, self.params, rows)]

    # --- the whole state ------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """The state as bytes. Only right after `drain`, when nothing waits to be written."""
        assert self._state.counts[0] == 0, "drain before a snapshot"
        self._make_room()
        remembered = Remembered(rules=self.rules.encode(), since=self._since, gaps=[*self._gaps, *self._asked])
        return dump(self._state, list(self._tables.symbols.values), self.params, remembered)

    def restore(self, data: bytes, position: int) -> None:
        """Go on from a snapshot taken at ``position``, with the rules that held there.

        Raises:
            LogError: it was made with other settings.
        """
        self._state, names, remembered = load(data, self._tables.symbols, self.params)
        self._gaps = [gap for gap in remembered.gaps if gap.is_open]
        self._asked = [gap for gap in remembered.gaps if not gap.is_open]
        self.rules = Rules.decode(remembered.rules)
        self._since = remembered.since
        self._scope = Scope(machines_of(self.rules, slide_ms=self.params.slide_ms))
        known = set(names)
        self._legs = [self._scope.legs_of(str(name)) for name in self._tables.symbols.values]
        old = [
            legs if name in known else () for name, legs in zip(self._tables.symbols.values, self._legs, strict=True)
        ]
        self._shape = shape_of(self._state)
        self._follow(self._scope)
        self._cover(self._scope, old, self._legs)
        self.position = position
        self._make_room()


def _joined(parts: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    if not parts:
        return np.zeros(0, dtype)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _newest(rows: NDArray[Any], time: str) -> NDArray[Any]:
    """The last row of each (symbol, time), sorted by that key."""
    order = np.lexsort((rows[time], rows["symbol"]))  # stable: equal keys stay in order of arrival
    rows = rows[order]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = (rows["symbol"][1:] != rows["symbol"][:-1]) | (rows[time][1:] != rows[time][:-1])
    return rows[last]


def _summed(rows: NDArray[Any]) -> NDArray[Any]:
    """One row per (symbol, minute), with the sums of the others."""
    if len(rows) < 2:
        return rows
    rows = rows[np.lexsort((rows["minute_ms"], rows["symbol"]))]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows["symbol"][1:] != rows["symbol"][:-1]) | (rows["minute_ms"][1:] != rows["minute_ms"][:-1])
    starts = np.flatnonzero(first)
    result = rows[starts]
    for name in ("trades", "excluded", "late", "future", "gap_ms"):
        result[name] = np.add.reduceat(rows[name], starts)
    return result


__all__ = ["Engine", "Output", "engine_params"]
