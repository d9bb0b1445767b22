"""Rules on recorded days: the alerts that they would have made, and what the price did afterwards.

    files ─► log ─► the same engine as live, without a database ─► alerts ─► one hash; told ones by rule and day
                                                                     └────► moves of the price afterwards

The same records and rules give the same alerts as live and in a replay, with the same hash. Rules that a log recorded
are left out: the question is what these rules would have done.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.errors import InputError
from tapewatch.feed.symbols import product_symbol
from tapewatch.profiles.explain_log import ZONES
from tapewatch.profiles.forward import HORIZONS_MIN, Prices
from tapewatch.profiles.knobs import knobs_of, told_as
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import RecordedLog, no_trades, read_log
from tapewatch.profiles.rows import ALERT_COLUMNS, alert_row, alerts_sha256, iso
from tapewatch.records import Alert, AlertStatus, Batch, Decision, Kind, Market, Tables
from tapewatch.rules.model import Rules

__all__ = ["Made", "Outcome", "Recording", "RuleCount"]

RECORDS_AT_ONCE: Final = 200_000
QUARTER_MS: Final = 900_000
"""Every exchange's day begins on a quarter of an hour of UTC."""
MOVE_COLUMNS: Final = ("told_at", *(f"move_{minutes}m_bps" for minutes in HORIZONS_MIN))


@dataclass(frozen=True, slots=True)
class Made:
    """One alert that the rules made, in its last state."""

    alert: Alert
    moment: datetime
    """When its trade was, by the exchange's clock."""
    told_ms: int | None
    """When channels would have been told; None: never."""
    moves: tuple[float | None, ...]
    """For each of `HORIZONS_MIN` what the price did, in the alert's direction, from when it was told; in 1/100 %."""

    @property
    def day(self) -> date:
        """The exchange's."""
        return self.moment.date()

    @property
    def best_bps(self) -> float:
        """The greatest of its moves; of an alert without a direction whichever way."""
        known = [move for move in self.moves if move is not None]
        return max(known if self.alert.direction else map(abs, known), default=0.0)


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What one rule came to; ``days`` are the told ones by day."""

    rule: str
    fired: int
    confirmed: int
    retracted: int
    days: Counter[date]

    @property
    def retraction_rate(self) -> float | None:
        """Of the decided ones, the share that was taken back; None where none was decided."""
        decided = self.confirmed + self.retracted
        return self.retracted / decided if decided else None

    @classmethod
    def of(cls, rule: str, made: Sequence[Made]) -> RuleCount:
        """Count ``made``."""
        statuses = Counter(one.alert.status for one in made)
        days = Counter(one.day for one in made if one.told_ms is not None)
        return cls(rule, len(made), statuses[AlertStatus.CONFIRMED], statuses[AlertStatus.RETRACTED], days)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one set of rules came to; ``made`` is by pane and id."""

    rules: Rules
    made: list[Made]
    sha256: str
    """Of the alerts; equal to a replay's, and to a live pipeline's over the same records."""

    @property
    def told(self) -> list[Made]:
        """Those that channels would have been told."""
        return [one for one in self.made if one.told_ms is not None]

    def counts(self) -> Iterator[RuleCount]:
        """Every rule of the set, and all together as the rule ``all``."""
        for knob in knobs_of(self.rules):
            yield RuleCount.of(knob.rule, [one for one in self.made if one.alert.rule == knob.rule])
        yield RuleCount.of("all", self.made)

    def write(self, path: Path, fates: Mapping[str, Mapping[str, str]]) -> None:
        """All alerts with their moves as one CSV file; ``fates`` are further columns, each by alert id.

        Raises:
            InputError: it cannot be written.
        """
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow((*ALERT_COLUMNS, *MOVE_COLUMNS, *fates))
                for one in self.made:
                    told = "" if one.told_ms is None else iso(one.told_ms)
                    moves = ("" if move is None else f"{move:.4f}" for move in one.moves)
                    more = (column.get(one.alert.alert_id, "") for column in fates.values())
                    writer.writerow((*alert_row(one.alert), told, *moves, *more))
        except OSError as error:
            raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None


class Recording:
    """Some recorded days in memory, to try rules on."""

    def __init__(self, found: RecordedLog, tables: Tables, parts: Parts) -> None:
        self._log = _without_rules(found.batch)
        self._tables = tables
        self._parts = parts
        self.found = found
        alerts, decisions = self._pass(parts)
        self._markets = _markets(self._log, tables)
        self.prices = Prices(self._log, decisions, tables, parts.calendar)
        self.trades = int(np.count_nonzero(self._log.kind == Kind.TRADE))
        self.days = _days(self._log, decisions)
        """The exchanges' days on which a trade counted, in order."""
        self.present = self._outcome(parts.rules, alerts)
        """What the rules of ``parts`` come to."""

    @classmethod
    def read(cls, paths: Sequence[Path], parts: Parts, symbols: Collection[str] | None = None) -> Recording:
        """Flat files, raw captures, or one log; with ``symbols``, in any form, only those.

        Raises: as `read_log`; and InputError when no trade counted, or one of ``symbols`` has none.
        """
        tables = Tables()
        chosen = None if symbols is None else {product_symbol(name.upper()) for name in symbols}
        recording = cls(read_log(paths, tables, parts, chosen), tables, parts)
        if chosen and (missing := chosen.difference(recording.symbols)):
            raise no_trades(paths, missing)
        if not recording.days:
            raise InputError(f"{', '.join(map(str, paths))}: no trade in it may set a price or a volume")
        return recording

    @property
    def symbols(self) -> list[str]:
        """Those that have a trade, sorted."""
        return sorted(self._markets)

    def run(self, rules: Rules) -> Outcome:
        """What other rules would have come to."""
        alerts, _ = self._pass(replace(self._parts, rules=rules))
        return self._outcome(rules, alerts)

    def any_minute(self, made: Sequence[Made], minutes: int) -> tuple[float, float] | None:
        """What the price did after any minute: the mean in the direction of each of ``made``, and without sign.

        Every alert counts with the minutes of its own symbol. A market that only drifts shows these numbers too, so
        the moves after alerts are to be held against them. None where nothing is known.
        """
        means: list[tuple[float, float, int]] = []
        for (symbol, direction), times in sorted(Counter((m.alert.symbol, m.alert.direction) for m in made).items()):
            if len(moves := self.prices.any_minute_bps(symbol, minutes)):
                means.append((float(moves.mean()) * (direction or 1), float(np.abs(moves).mean()), times))
        total = sum(times for _, _, times in means)
        if not total:
            return None
        return sum(mean * n for mean, _, n in means) / total, sum(size * n for _, size, n in means) / total

    def _pass(self, parts: Parts) -> tuple[list[Alert], NDArray[np.uint8]]:
        """Each alert in its last state, by pane and id; and what was decided of each record."""
        engine = parts.engine(self._tables)
        last: dict[str, Alert] = {}
        decisions = []
        for start in range(0, len(self._log), RECORDS_AT_ONCE):
            decisions.append(engine.step(self._log.slice(start, min(start + RECORDS_AT_ONCE, len(self._log)))))
            last |= {alert.alert_id: alert for alert in engine.drain().alerts}
        alerts = sorted(last.values(), key=lambda a: (a.pane_start_ms, a.alert_id))
        return alerts, np.concatenate(decisions)

    def _outcome(self, rules: Rules, alerts: Sequence[Alert]) -> Outcome:
        modes = {name: told_as(rule, self._parts.settings.notify) for name, rule in rules.items()}
        made = []
        for alert in alerts:
            known_ms = _known_ms(alert, modes[alert.rule])
            told_ms = None if modes[alert.rule] == "never" or alert.late else known_ms
            made.append(Made(alert, self._moment(alert), told_ms, self._moves(alert, known_ms)))
        return Outcome(rules, made, alerts_sha256(alerts))

    def _moves(self, alert: Alert, from_ms: int | None) -> tuple[float | None, ...]:
        if from_ms is None:
            return (None,) * len(HORIZONS_MIN)
        found = (self.prices.move_bps(alert.symbol, from_ms, minutes) for minutes in HORIZONS_MIN)
        return tuple(None if move is None else move * (alert.direction or 1) for move in found)

    def _moment(self, alert: Alert) -> datetime:
        return datetime.fromtimestamp(alert.triggered_ms / 1_000, ZONES[self._markets[alert.symbol]])


def _known_ms(alert: Alert, mode: str) -> int | None:
    """When a person who is told by ``mode`` knows of it: with the trade, or once it is confirmed."""
    if mode == "provisional":
        return alert.triggered_ms
    return alert.decided_ms if alert.status is AlertStatus.CONFIRMED else None


def _without_rules(log: Batch) -> Batch:
    kept = np.flatnonzero(log.kind <= Kind.GAP)
    if len(kept) == len(log):
        return log
    log = log.take(kept)
    log.offset = 0
    return log


def _markets(log: Batch, tables: Tables) -> dict[str, Market]:
    """Of every symbol with a trade, its market."""
    rows = np.flatnonzero(log.kind == Kind.TRADE)
    symbols, first = np.unique(log.symbol[rows], return_index=True)
    markets = log.market[rows][first].tolist()
    return {tables.symbols.values[s]: Market(m) for s, m in zip(symbols.tolist(), markets, strict=True)}


def _days(log: Batch, decisions: NDArray[np.uint8]) -> list[date]:
    counted = decisions == Decision.APPLIED
    days = set()
    for market in map(Market, np.unique(log.market[counted]).tolist()):
        for quarter in np.unique(log.time_ms[counted & (log.market == market)] // QUARTER_MS).tolist():
            moment = datetime.fromtimestamp(quarter * QUARTER_MS / 1_000, UTC)
            days.add(moment.astimezone(ZONES[market]).date())
    return sorted(days)
