"""The oracle's alerts: the life of every rule's alerts, in plain Python. See `oracle.py` and `oracle_lines.py`.

A *leg* is a rule and one direction of it. Everything is kept by symbol and leg.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from typing import Any, Final, NamedTuple

from tapewatch.oracle import NEVER, PRICE, VOLUME, Row, Settings
from tapewatch.oracle_lines import Lines
from tapewatch.rules.lines import Line, LineKind, line_of
from tapewatch.rules.model import (
    CrossRule,
    ExtremeRule,
    LevelRule,
    MoveRule,
    Rules,
    SystemRule,
    ThresholdRule,
    VolumeRule,
    covers,
)

__all__ = ["AlertKey", "AlertOracle", "AlertState", "Leg", "legs_of"]

SESSIONS: Final = {"any": 7, "regular": 1, "extended": 2}
FIXED: Final = (
    LineKind.SESSION_VWAP, LineKind.HIGH, LineKind.LOW, LineKind.SESSION_HIGH, LineKind.SESSION_LOW,
    LineKind.DAYS_HIGH, LineKind.DAYS_LOW,
)  # fmt: skip
"""An alert is decided by these lines as they were when it was made."""


class AlertKey(NamedTuple):
    """One alert of one rule; the pane by its start in ms, the direction +1, -1 or (of a volume) 0."""

    rule: str
    symbol: str
    pane: int
    direction: int


class AlertState(NamedTuple):
    """Event time of its trade in ms, that trade's price, the line (or volume limit) then, status, and when decided."""

    triggered: int
    price: float
    line: float
    status: str
    decided: int


class Leg(NamedTuple):
    """One direction of a rule; ``definition`` is the rule itself."""

    rule: str
    direction: int
    definition: Any
    left: Line
    right: Line

    @property
    def id(self) -> tuple[str, int]:
        """Rule and direction."""
        return self.rule, self.direction

    @property
    def forgets(self) -> bool:
        """Whether nobody knows its side after a closed market; levels and extremes stay what they were."""
        return isinstance(self.definition, CrossRule | MoveRule | ThresholdRule)

    def of(self, symbol: str) -> tuple[str, str, int]:
        """What is kept of it is kept by this."""
        return symbol, self.rule, self.direction


class Waiting(NamedTuple):
    """A provisional alert: how many closes were on the new side, and both lines when it was made."""

    closes: int
    left: float
    right: float


def legs_of(rules: Rules, slide: int) -> list[Leg]:
    """Those of every market rule, in the order of the rules."""
    found = []
    price, volume = Line(LineKind.PRICE), Line(LineKind.VOLUME)
    for name, rule in rules.items():
        if isinstance(rule, VolumeRule):
            found.append(Leg(name, 0, rule, volume, volume))
        elif not isinstance(rule, SystemRule):
            for direction in {"above": (1,), "below": (-1,), "either": (1, -1)}[rule.direction]:
                match rule:
                    case CrossRule():
                        lines = line_of(rule.left), line_of(rule.right)
                    case LevelRule():
                        lines = price, Line(LineKind.CONST, value=rule.level)
                    case ThresholdRule():
                        lines = line_of(rule.indicator), Line(LineKind.CONST, value=rule.value)
                    case MoveRule():
                        factor = 1 + direction * rule.percent / 100
                        lines = price, Line(LineKind.CLOSE, rule.within_ms // slide, factor=factor)
                    case ExtremeRule():
                        of = "" if rule.of == "session" else f"({rule.of})"
                        lines = price, line_of(("high" if direction > 0 else "low") + of)
                found.append(Leg(name, direction, rule, *lines))
    return found


class AlertOracle(Lines):
    """The oracle with alerts: read ``alerts`` after the records."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.rules: Rules = settings.rules
        self.legs = legs_of(self.rules, settings.slide)
        self.alerts: dict[AlertKey, AlertState] = {}
        self.pending: dict[AlertKey, Waiting] = {}
        self.versions: dict[AlertKey, str] = {}
        """Of the rule that made the alert."""
        self.volumes: dict[str, Counter[int]] = defaultdict(Counter)
        self.order: dict[str, list[int]] = defaultdict(list)  # the panes of ``volumes``
        self.sides: dict[tuple[str, str, int], int] = {}
        self.spent: set[tuple[str, str, int]] = set()
        self.cooled: dict[tuple[str, str, int], int] = {}
        """Event time of the leg's newest alert."""
        self.last: dict[str, tuple[int, int | None]] = {}
        """Time and stretch of the newest price."""
        self.since: dict[str, int] = {}
        """Of rules that came while it ran: the first pane they may make an alert in, of symbols of ``since_day``."""
        self.since_day: dict[tuple[str, str], int] = {}
        """By symbol and rule, the trading day in which such a rule came; without symbols that had not traded then."""
        self._legs_of: dict[str, list[Leg]] = {}

    def take(self, r: Row) -> str | None:
        """As `Oracle.take`; before it time moves on, and after it the trade may flip a side or be one too many."""
        if r.kind == 0 and self.decide(r) in ("applied", "ineligible"):
            self.resolve([k for k in self.pending if k.symbol == r.symbol], r.time)
        decision = super().take(r)
        if r.kind == 1:
            self.resolve([k for k in self.pending if self.markets[k.symbol] == r.market], r.time)
        elif r.kind == 2 and r.price > self.p.window:
            for symbol in (name for name, market in self.markets.items() if market == r.market):
                self.forget(symbol)
        elif r.kind == 3:
            self.change(r.rules, r.time)
        elif decision == "applied":
            pane = r.time - r.time % self.p.slide
            self.past[r.symbol].note(r, pane, self.newest[r.symbol], self.p.slide)
            self.look(r, pane)
        return decision

    def look(self, r: Row, pane: int) -> None:
        """An applied trade: a surge of its pane? the newest price, and a flip?"""
        mine = self.legs_of(r.symbol)
        if r.bits & VOLUME:
            if pane not in self.volumes[r.symbol]:
                insort(self.order[r.symbol], pane)
            self.volumes[r.symbol][pane] += r.size_e8
            for leg in mine:
                volume = self.volumes[r.symbol][pane]
                if leg.direction == 0 and volume > (limit := self.limit(leg, r.symbol, pane, r)):
                    self.fire(leg, r, pane, volume / 1e8, limit / 1e8)
        last, day = self.last.get(r.symbol, (NEVER, None))
        if not r.bits & PRICE or r.time < last:
            return
        self.last[r.symbol] = (r.time, r.day)
        if day != r.day:
            self.past[r.symbol].stretch = pane
            self.forget(r.symbol)
        for leg in mine:
            if leg.direction:
                self.follow(leg, r, pane)

    def follow(self, leg: Leg, r: Row, pane: int) -> None:
        """The newest price: on which side the leg's lines are now, and whether that is news."""
        left, right = (self.line_of(leg, line, r.symbol, pane) for line in (leg.left, leg.right))
        self.step(leg, r, pane, left, right)

    def step(self, leg: Leg, r: Row, pane: int, left: float, right: float) -> None:
        """The leg's lines are these now."""
        key = leg.of(r.symbol)
        before = self.sides.get(key, 0)
        self.sides[key] = after = side(left, right, leg.definition.band_bps, before)
        if after == 0 or self.is_back(leg, left, right):
            self.spent.discard(key)
        flips = (before, after) == (-leg.direction, leg.direction)
        if flips and key not in self.spent and self.fire(leg, r, pane, left, right):
            self.spent.add(key)

    def is_back(self, leg: Leg, left: float, right: float) -> bool:
        """Whether it is far enough on the old side to make an alert again."""
        rule = leg.definition
        return side(left, right, rule.band_bps if rule.rearm_bps is None else rule.rearm_bps, 0) == -leg.direction

    def line_of(self, leg: Leg, line: Line, symbol: str, pane: int) -> float:
        """One of the leg's lines at the pane, as the leg knows the past."""
        begins = self.begins(leg, symbol)
        since = begins - self.p.window if begins != NEVER else NEVER
        return self.value(symbol, line, pane, since, self.since_day.get((symbol, leg.rule), NEVER))

    def begins(self, leg: Leg, symbol: str) -> int:
        """The first pane it may make an alert in. What was there before the symbol's first trade always was."""
        return self.since[leg.rule] if (symbol, leg.rule) in self.since_day else NEVER

    def forget(self, symbol: str) -> None:
        """Nobody knows any more on which side the price is."""
        for leg in self.legs:
            if leg.forgets:
                self.sides.pop(leg.of(symbol), None)
                self.spent.discard(leg.of(symbol))

    def fire(self, leg: Leg, r: Row, pane: int, left: float, right: float) -> bool:
        """A provisional alert, unless off, made in this pane already, cooling, over, too new, or in another session."""
        rule, key = leg.definition, AlertKey(leg.rule, r.symbol, pane, leg.direction)
        last = self.cooled.get(leg.of(r.symbol), NEVER)
        is_cooling = rule.cooldown_ms > 0 and r.time - last < rule.cooldown_ms
        is_over = rule.expires_ms is not None and r.time >= rule.expires_ms
        is_new = pane < self.begins(leg, r.symbol)
        if not rule.enabled or is_cooling or is_over or is_new or key in self.alerts:
            return False
        if not SESSIONS[rule.session] & r.session:
            return False
        self.alerts[key] = AlertState(r.time, r.price, right, "provisional", r.time)
        self.pending[key] = Waiting(0, left, right)
        self.versions[key] = self.rules.version(leg.rule)
        self.cooled[leg.of(r.symbol)] = max(last, r.time)
        return True

    def resolve(self, keys: list[AlertKey], now: int) -> None:
        """Confirm or retract those whose panes have ended long enough before ``now``."""
        legs = {(leg.rule, leg.direction): leg for leg in self.legs}
        for key in keys:
            leg = legs[key.rule, key.direction]
            bars = leg.definition.confirm_bars if leg.direction else 1
            while key in self.pending:
                waiting = self.pending[key]
                pane = key.pane + waiting.closes * self.p.slide
                if now < pane + self.p.slide + self.p.confirm:
                    break
                held = self.held(leg, key, pane)
                if held and waiting.closes + 1 < bars:
                    self.pending[key] = waiting._replace(closes=waiting.closes + 1)
                    continue
                self.alerts[key] = self.alerts[key]._replace(status="confirmed" if held else "retracted", decided=now)
                del self.pending[key]

    def held(self, leg: Leg, key: AlertKey, pane: int) -> bool:
        """Whether the pane's end is still what the alert says."""
        waiting = self.pending[key]
        volume = self.volumes[key.symbol][key.pane]
        if leg.direction == 0:
            by_time = leg.definition.days is not None
            return volume > (waiting.right * 1e8 if by_time else self.limit(leg, key.symbol, pane))
        left, right = (
            then if line.kind in FIXED else self.line_of(leg, line, key.symbol, pane)
            for line, then in ((leg.left, waiting.left), (leg.right, waiting.right))
        )
        if side(left, right, leg.definition.band_bps, leg.direction) != leg.direction:
            return False
        asked = leg.definition.volume_multiple
        return not (asked and waiting.closes == 0) or volume > self.mean_limit(key.symbol, key.pane, asked, 20, 5)

    def change(self, rules: Rules, time: int) -> None:
        """Other rules hold: one of the same id and version goes on, any other begins anew with the next pane."""
        same = self.unchanged(rules)
        for alert in [alert for alert in self.pending if alert.rule not in same]:
            self.alerts[alert] = self.alerts[alert]._replace(status="retracted", decided=time)
            del self.pending[alert]
        for kept in (self.sides, self.cooled):
            for key in [key for key in kept if key[1] not in same]:
                del kept[key]
        self.spent = {key for key in self.spent if key[1] in same}
        begins = time - time % self.p.slide + self.p.slide
        for name in [name for name in rules if name not in same]:
            self.since[name] = begins
            for symbol, past in self.past.items():
                if (day := past.day.day) != NEVER:
                    self.since_day[symbol, name] = day if day >= 0 else -1 - day
        self.since = {name: begins for name, begins in self.since.items() if name in rules}
        self.rules, self.legs = rules, legs_of(rules, self.p.slide)
        self._legs_of.clear()

    def unchanged(self, rules: Rules) -> set[str]:
        """The rules that hold now, and are the same in ``rules``."""
        return {name for name in rules if name in self.rules and rules.version(name) == self.rules.version(name)}

    def legs_of(self, symbol: str) -> list[Leg]:
        """Those of the rules that look at the symbol."""
        if symbol not in self._legs_of:
            self._legs_of[symbol] = [leg for leg in self.legs if covers(leg.definition.symbols, symbol)]
        return self._legs_of[symbol]

    def limit(self, leg: Leg, symbol: str, pane: int, r: Row | None = None) -> float:
        """Volume above which the pane is a surge, in 1e-8; by the time of day it is that of the trade ``r``."""
        rule = leg.definition
        most = float("inf") if rule.absolute is None else rule.absolute * 1e8
        if rule.days is None:
            return min(most, self.mean_limit(symbol, pane, rule.multiple, rule.panes, rule.panes_min))
        if r is None or r.trading < 0 or pane < r.opened:
            return most
        since_day, cell = self.since_day.get((symbol, leg.rule), NEVER), (pane - r.opened) // self.p.slide
        volumes = self.past[symbol].same_time(since_day, r.trading, cell, rule.days)
        if len(volumes) >= min(rule.days_min, rule.days) and sum(volumes):
            most = min(most, rule.multiple * (sum(volumes) / len(volumes)))
        return most

    def mean_limit(self, symbol: str, pane: int, multiple: float, panes: int, least: int) -> float:
        """So many times the mean volume of the panes before that had trades, in 1e-8."""
        at = bisect_left(self.order[symbol], pane)
        volumes = [self.volumes[symbol][x] for x in self.order[symbol][max(0, at - panes) : at]]
        known = len(volumes) >= least and sum(volumes) > 0
        return multiple * (sum(volumes) / len(volumes)) if known else float("inf")


def side(left: float, right: float, band_bps: float, before: int) -> int:
    """The truth table of docs/crosses.md."""
    band = band_bps / 1e4 if right >= 0 else -band_bps / 1e4
    if left != left or right != right:
        return 0
    if left > right and left >= right * (1 + band):
        return 1
    return -1 if left < right and left <= right * (1 - band) else before
