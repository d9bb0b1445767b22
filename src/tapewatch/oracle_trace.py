"""The oracle, noting what it decides about one symbol's minute, and why. See `oracle_alerts.py`.

It may begin in the middle of a log. What it does not know then it finds out: a side is known from the first price that
leaves the band, a cooldown is over once nothing could have fired for as long, a surge has its panes before it.
`is_sure` says whether that had happened before the minute began; if not, it has to begin earlier.

    log      ───────┬──────────────────────────┬────────┬──────┬───►
                    since                      start    stop   until nothing of the minute can change
                    sides and lines get known  every step is noted

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import reduce
from operator import add
from typing import Final, NamedTuple

from tapewatch.oracle import NEVER, PRICE, VOLUME, Row, Settings
from tapewatch.oracle_alerts import AlertKey, AlertOracle, Leg
from tapewatch.oracle_lines import ENDLESS
from tapewatch.rules.lines import Line, LineKind
from tapewatch.rules.model import Rules

__all__ = ["Entry", "LegId", "Span", "Step", "TraceOracle"]

LegId = tuple[str, int]
"""A rule and its direction."""
WEIGHTLESS: Final = 20
"""So many times its length, and what came before weighs nothing any more in an average without end."""


class Span(NamedTuple):
    """The panes asked about: event times in [start, stop), in ms."""

    start: int
    stop: int


class Step(NamedTuple):
    """One decision: a left line (mostly the price) against its right one, or a volume against its limit (both in whole
    units).

    ``outcome`` is ``""`` when nothing was to be told, ``first`` for a side decided for the first time, ``fired``, or
    why nothing was made: ``off``, ``again`` (one in this pane already), ``cooling``, ``spent`` (not far enough back
    since the last one), ``over``, ``new`` (the rule came in this pane), ``session``.
    """

    time: int
    pane: int
    price: float
    line: float
    before: int
    after: int
    outcome: str


class Entry(NamedTuple):
    """A leg's side before the minute's first price; since when, and what made it so.

    ``why`` is ``decided`` by a price, or why it is unknown: ``new`` (never decided), ``closed``, ``gap``, ``line``,
    ``rule`` (that was when the rule came).
    """

    side: int
    since: int
    why: str


class TraceOracle(AlertOracle):
    """Feed it one symbol's trades and its market's ticks and gaps; then call `finish`."""

    def __init__(self, settings: Settings, symbol: str, span: Span, since: int | None) -> None:
        """``since`` is the event time before which nothing is given to it; None if it sees the log from its begin."""
        super().__init__(settings)
        self.symbol = symbol
        self.span = span
        self.steps: dict[LegId, list[Step]] = defaultdict(list)
        self.prices: list[Step] = []
        """The minute's prices that decided, with the average of each."""
        self.trades: list[tuple[Row, str]] = []
        """The minute's trades, in log order, and the decision on each."""
        self.stale = 0
        """Those that may set a price, but were older than the newest one."""
        self.gaps: list[tuple[int, int]] = []
        self.span_ticks = 0
        self.cooling: dict[LegId, AlertKey] = {}
        """By leg, the alert in whose cooldown something in the minute fell."""
        self.withdrawn: set[AlertKey] = set()
        """Alerts whose rule was changed before they were decided."""
        self.entries: dict[LegId, Entry] = {}
        self.reached = 0
        """Newest event time of the market's ticks and the symbol's trades."""
        self.first: int | None = None
        """Event time of the symbol's first trade that it was given."""
        self._begins = since is None
        self._from = since or 0
        self._span_rules: Rules | None = None
        self._present: dict[LegId, Entry] = {}
        self._side_sure: set[LegId] = set()
        self._spent_sure: set[LegId] = set()
        self._cool_sure: set[LegId] = set()
        self._came: set[str] = set()
        self._maybe: dict[LegId, int] = {}
        self._entry_sure: dict[LegId, bool] = {}
        self._outcome: dict[LegId, str] = {}
        self._is_new_day = False
        self._pane: int | None = None
        self._sums: dict[int, float] = {}
        self._limits: dict[tuple[str, int], float] = {}

    @property
    def span_rules(self) -> Rules:
        """The rules that held in the minute."""
        return self.rules if self._span_rules is None else self._span_rules

    # --- what it sees ------------------------------------------------------------------------------------------

    def take(self, r: Row) -> str | None:
        """As `AlertOracle.take`; notes what happens in the span."""
        inside = self.span.start <= r.time < self.span.stop
        decision = super().take(r)
        if r.kind == 2:
            self.gaps.append((r.time - int(r.price), r.time))
            if r.price > self.p.window:
                self._present |= {leg.id: Entry(0, r.time, "gap") for leg in self.legs if leg.forgets}
            return decision
        if r.kind == 3:
            return decision
        if decision is not None and self.first is None:
            self.first = r.time
        if decision != "future":
            self.reached = max(self.reached, r.time)
        self.span_ticks += r.kind == 1 and inside
        if decision is not None and inside:
            self.trades.append((r, decision))
        elif decision == "applied":
            self.panes[r.symbol][r.time - r.time % self.p.slide].clear()  # only the span's are read again
        return decision

    def change(self, rules: Rules, time: int) -> None:
        """As `AlertOracle.change`; a rule that comes is known from its begin."""
        if time >= self.span.stop and self._span_rules is None:
            self._span_rules = self.rules
        same = self.unchanged(rules)
        self.withdrawn |= {key for key in self.pending if key.rule not in same}
        super().change(rules, time)
        for leg in self.legs:
            if leg.rule not in same:
                self._came.add(leg.rule)
                self._present[leg.id] = Entry(0, time, "rule")
                for known in (self._side_sure, self._spent_sure, self._cool_sure):
                    known.add(leg.id)

    def look(self, r: Row, pane: int) -> None:
        """As `AlertOracle.look`; notes what was decided."""
        if pane != self._pane:
            self._pane = pane
            self._sums.clear()
            self._limits.clear()
        last, day = self.last.get(r.symbol, (NEVER, None))
        decides = bool(r.bits & PRICE) and r.time >= last
        self._is_new_day = decides and day is not None and day != r.day
        if decides and r.time >= self.span.start and not self.entries:
            self._enter(r.time, pane)
        inside = self.span.start <= r.time < self.span.stop
        self.stale += inside and bool(r.bits & PRICE) and r.time < last
        self._outcome = {}
        super().look(r, pane)
        if inside and r.bits & VOLUME and (volume := self.volumes[r.symbol][pane]):
            for leg in self.legs_of(r.symbol):
                if leg.direction == 0:
                    limit = self.limit(leg, r.symbol, pane, r) / 1e8
                    self._note(leg, Step(r.time, pane, volume / 1e8, limit, 0, 0, ""))
        if inside and decides:
            self.prices.append(Step(r.time, pane, r.price, self.line(r.symbol, pane), 0, 0, ""))

    def step(self, leg: Leg, r: Row, pane: int, left: float, right: float) -> None:
        """As `AlertOracle.step`; notes what became of it."""
        key = leg.of(r.symbol)
        before, was_spent = self.sides.get(key, 0), key in self.spent
        super().step(leg, r, pane, left, right)
        after = self.sides[key]
        if (before, after) == (-leg.direction, leg.direction) and was_spent and leg.id not in self._outcome:
            self._outcome[leg.id] = "spent"
        if self.span.start <= r.time < self.span.stop:
            first = "first" if not before and after == leg.direction else ""
            self._note(leg, Step(r.time, pane, left, right, before, after, first))
        self._follow(leg, r.time, left, right, before)

    def fire(self, leg: Leg, r: Row, pane: int, left: float, right: float) -> bool:
        """As `AlertOracle.fire`; notes what became of it."""
        key, rule = AlertKey(leg.rule, r.symbol, pane, leg.direction), leg.definition
        known = key in self.alerts
        made = super().fire(leg, r, pane, left, right)
        outcome = "fired" if made else "off" if not rule.enabled else "again" if known else ""
        if not outcome and pane < self.begins(leg, r.symbol):
            outcome = "new"
        if not outcome and rule.expires_ms is not None and r.time >= rule.expires_ms:
            outcome = "over"
        last = self.cooled.get(leg.of(r.symbol), NEVER)
        if not outcome and rule.cooldown_ms > 0 and r.time - last < rule.cooldown_ms:
            outcome = "cooling"
            if self.span.start <= r.time < self.span.stop:
                mine = [(alert.triggered, k) for k, alert in self.alerts.items() if (k.rule, k.direction) == leg.id]
                self.cooling.setdefault(leg.id, max(mine)[1])
        self._outcome[leg.id] = outcome or "session"
        if leg.direction == 0:
            self._possible(leg, r.time)
        return made

    def finish(self) -> None:
        """After the last record: a minute without a price has its entry too."""
        self._is_new_day = False
        if not self.entries:
            self._enter(self.span.start, None)

    # --- what it knows -----------------------------------------------------------------------------------------

    def is_sure(self) -> bool:
        """Whether nothing before its first record can change what it says about the span."""
        if self._begins or not self.trades:
            return True
        legs = [leg for leg in self.legs_of(self.symbol) if leg.definition.enabled]
        return bool(self.entries) and all(self._entry_sure.get(leg.id, True) and self._has_past(leg) for leg in legs)

    def _has_past(self, leg: Leg) -> bool:
        """Whether enough was seen before the span for the leg's lines to be those of the whole log."""
        rule, past = leg.definition, self.past[self.symbol]
        pane = self.span.start - self.span.start % self.p.slide
        panes = sum(1 for x in self.order[self.symbol] if x < pane)
        if leg.direction == 0:
            return bool(panes >= rule.panes if rule.days is None else len(past.same) > rule.days + 1)
        if leg.rule in self._came:
            return True
        bars = sum(1 for x in past.bars if x < pane)
        return (rule.volume_multiple is None or panes >= 20) and all(
            bars >= self._bars_of(line) and self._days_of(line) for line in (leg.left, leg.right)
        )

    def _bars_of(self, line: Line) -> int:
        """How many bars before the span it takes to know the line."""
        if line.kind in ENDLESS:
            return WEIGHTLESS * max(line.length, line.length2)
        is_of_bars = line.kind not in (LineKind.DAYS_HIGH, LineKind.DAYS_LOW)
        return line.length + 1 if line.length and is_of_bars else 0

    def _days_of(self, line: Line) -> bool:
        """Whether the days that the line is of were seen, the first of them whole."""
        past = self.past[self.symbol]
        if line.kind in (LineKind.DAYS_HIGH, LineKind.DAYS_LOW):
            return len(past.days) > line.length
        is_of_day = line.kind in (LineKind.SESSION_VWAP, LineKind.SESSION_HIGH, LineKind.SESSION_LOW)
        return not is_of_day or bool(past.days) or self._from <= past.day.opened

    def pane_closes(self, pane: int) -> list[tuple[int, float, bool]]:
        """The window that ends with ``pane``: start, close (NaN before the first), and whether it is the pane's own."""
        panes = range(pane - self.p.window + self.p.slide, pane + 1, self.p.slide)
        if not self.panes[self.symbol]:
            return [(x, float("nan"), False) for x in panes]
        return [(x, self.close(self.symbol, x), x in self.closes[self.symbol]) for x in panes]

    def volumes_before(self, leg: Leg, pane: int) -> list[tuple[int, float]]:
        """The panes whose mean the pane's volume is held against, oldest first, and their volumes."""
        before = [x for x in self.order[self.symbol] if x < pane][-leg.definition.panes :]
        return [(x, self.volumes[self.symbol][x] / 1e8) for x in before]

    def line(self, symbol: str, last: int) -> float:
        """As `Oracle.line`; the closes before the pane are added up once, as long as the trades stay in one pane."""
        count: int = self.p.window // self.p.slide
        if count == 1:
            return float(super().line(symbol, last))
        if last not in self._sums:
            panes = range(last - self.p.window + self.p.slide, last, self.p.slide)
            self._sums[last] = reduce(add, (self.close(symbol, pane) for pane in panes))
        return float(self._sums[last] + self.close(symbol, last)) / count

    def limit(self, leg: Leg, symbol: str, pane: int, r: Row | None = None) -> float:
        """As `AlertOracle.limit`, once as long as the trades stay in one pane."""
        if (leg.rule, pane) not in self._limits:
            self._limits[leg.rule, pane] = super().limit(leg, symbol, pane, r)
        return self._limits[leg.rule, pane]

    def counts(self) -> Counter[str]:
        """The minute's trades by decision; ``unpriced`` are those counted that may not set a price."""
        found = Counter(decision for _, decision in self.trades)
        found["unpriced"] = sum(1 for r, d in self.trades if d in ("applied", "ineligible") and not r.bits & PRICE)
        return found

    # --- inside ------------------------------------------------------------------------------------------------

    def _note(self, leg: Leg, step: Step) -> None:
        self.steps[leg.id].append(step._replace(outcome=self._outcome.get(leg.id, step.outcome)))

    def _enter(self, time: int, pane: int | None) -> None:
        """The minute's first price comes, in that pane: what is known up to now."""
        start, is_new_day = self.span.start, self._is_new_day
        for leg in self.legs_of(self.symbol):
            entry = self._present.get(leg.id, Entry(0, self._from, "new"))
            self.entries[leg.id] = Entry(0, time, "closed") if is_new_day and leg.forgets else entry
            quiet = start - self._maybe.get(leg.id, self._from) >= leg.definition.cooldown_ms
            sure = self._begins or leg.id in self._cool_sure or quiet
            if leg.direction:
                known = leg.id in self._side_sure and (leg.id in self._spent_sure or not self._lags(leg))
                fresh = is_new_day and leg.forgets and pane is not None and self._is_warm(leg, pane)
                sure = sure and (self._begins or known or fresh)
            self._entry_sure[leg.id] = sure

    def _is_warm(self, leg: Leg, pane: int) -> bool:
        values = [self.line_of(leg, line, self.symbol, pane) for line in (leg.left, leg.right)]
        return all(value == value for value in values)

    def _lags(self, leg: Leg) -> bool:
        """Whether its side alone does not say if it is spent."""
        rule = leg.definition
        return rule.rearm_bps is not None and rule.rearm_bps > rule.band_bps

    def _follow(self, leg: Leg, time: int, left: float, right: float, before: int) -> None:
        """Which side the leg is on now, since when, and whether that is what a reader of the whole log knows."""
        after = self.sides[leg.of(self.symbol)]
        if left != left or right != right:
            self._maybe[leg.id] = time  # a whole log's line may be warm here, and cross
            self._present[leg.id] = Entry(0, time, "line")
            return
        if (after == leg.direction and before != after) or leg.id not in self._side_sure:
            self._possible(leg, time)
        forgot = self._is_new_day and leg.forgets
        if after and after != before:
            self._present[leg.id] = Entry(after, time, "decided")
        elif not after and forgot:
            self._present[leg.id] = Entry(0, time, "closed")
        if after or forgot:
            self._side_sure.add(leg.id)
        if forgot or self.is_back(leg, left, right):
            self._spent_sure.add(leg.id)

    def _possible(self, leg: Leg, time: int) -> None:
        """Here an alert might have been made, by a reader of the whole log too."""
        if time - self._maybe.get(leg.id, self._from) >= leg.definition.cooldown_ms:
            self._cool_sure.add(leg.id)
        self._maybe[leg.id] = time
