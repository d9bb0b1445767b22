"""The card of a day: what fired, what became of it, who was told, and when.

breakout_alerts ─┐
notifications   ─┼─► one alert: fired ─► confirmed | retracted ─► delivered | folded | waiting | held | muted | dead
system_alerts   ─┤
feed_gaps       ─┘
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np

from tapewatch.calendar import NEW_YORK
from tapewatch.errors import InputError
from tapewatch.profiles.explain_log import ZONES
from tapewatch.profiles.rows import alerts_sha256
from tapewatch.records import AlertStatus, Market, Origin
from tapewatch.store.day_card import DayRows, MessageRow, StoredAlert

__all__ = ["FATES", "HELD_FOR", "Card", "ChannelCard", "RuleCard", "card_of", "read_day_name"]

FATES: Final = ("delivered", "folded", "waiting", "held", "dead", "muted")
"""What may have become of an alert's messages; the first of these that holds for one of them is the alert's."""
HELD_FOR: Final = ("grade D", "quiet hours", "burst", "limit")
"""Why a message may have been held."""
_TELLING: Final = ("provisional", "confirmed")
_LOG: Final = "log"
"""This channel tells nobody: it is the program's own log."""


@dataclass(slots=True)
class Times:
    """Some durations in seconds."""

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        """``p50 0.012 s, p99 0.340 s, max 0.400 s``; empty without any."""
        if not self.seconds:
            return ""
        p50, p99 = np.percentile(self.seconds, (50, 99))
        return f"p50 {p50:.3f} s, p99 {p99:.3f} s, max {max(self.seconds):.3f} s"


@dataclass(slots=True)
class RuleCard:
    """One rule's day. ``fates`` counts its alerts by what became of their messages; those without any are in none."""

    rule: str
    versions: set[str] = field(default_factory=set)
    statuses: Counter[AlertStatus] = field(default_factory=Counter)
    late: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None

    @property
    def fired(self) -> int:
        """All its alerts."""
        return self.statuses.total()


@dataclass(slots=True)
class ChannelCard:
    """One channel's day: messages by their state, and those that were held by why, whether they are still or not."""

    channel: str
    states: Counter[str] = field(default_factory=Counter)
    held_for: Counter[str] = field(default_factory=Counter)
    delivery: Times = field(default_factory=Times)
    """From the commit that wrote the message until it was accepted."""


@dataclass(frozen=True, slots=True)
class Card:
    """The day."""

    day: date
    origin: Origin
    rows: DayRows
    rules: list[RuleCard]
    channels: list[ChannelCard]
    others: Counter[str]
    """Messages that are no alert's, by event: digests, bursts, notices, system messages."""
    receipt: Times
    """From a trade to its receipt, of the trades that made alerts. Nothing in a replay."""
    storing: Times
    """From its receipt to the database."""
    gap_s: float
    sha256: str
    """Of the day's alerts; a backtest of just this day has the same."""

    def moment(self, one: StoredAlert) -> datetime:
        """When it fired, by the exchange's clock."""
        return _local(one, one.alert.triggered_ms)

    def decided(self, one: StoredAlert) -> datetime:
        """When its present state was decided, by the exchange's clock."""
        return _local(one, one.alert.decided_ms)

    def told(self, alert_id: str) -> Iterator[MessageRow]:
        """The messages that told of an alert, or are to."""
        return (m for m in self.rows.messages if m.alert_id == alert_id and m.event in _TELLING and m.channel != _LOG)


def read_day_name(text: str, today: date | None = None) -> date:
    """``2026-11-20``, ``today`` or ``yesterday`` (in New York); ``today`` is the present one there.

    Raises:
        InputError: it is none, or has not been yet.
    """
    today = today or datetime.now(NEW_YORK).date()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text[:40]}: expected a day such as 2026-11-20, today or yesterday") from None
    if day > today + timedelta(days=1):  # in UTC it may be tomorrow already
        raise InputError(f"{text}: this day has not been yet")
    return day


def card_of(rows: DayRows, day: date, origin: Origin) -> Card:
    """Count a day's rows."""
    fates = _fates(rows.messages)
    rules: dict[str, RuleCard] = {}
    receipt, storing = Times(), Times()
    for one in rows.alerts:
        _count(rules.setdefault(one.alert.rule, RuleCard(one.alert.rule)), one, fates.get(one.alert.alert_id))
        if one.received_ns is not None and origin is not Origin.REPLAYED and not one.alert.late:
            receipt.seconds.append(one.received_ns / 1e9 - one.alert.triggered_ms / 1e3)
            storing.seconds.append(one.stored_at.timestamp() - one.received_ns / 1e9)
    alerts = [one.alert for one in rows.alerts]
    known = {alert.alert_id for alert in alerts}
    others = Counter(message.event for message in rows.messages if message.alert_id not in known)
    return Card(
        day=day,
        origin=origin,
        rows=rows,
        rules=[rules[name] for name in sorted(rules)],
        channels=list(_channels(rows.messages)),
        others=others,
        receipt=receipt,
        storing=storing,
        gap_s=sum((gap.gap_to - gap.gap_from).total_seconds() for gap in rows.gaps),
        sha256=alerts_sha256(alerts),
    )


def _count(card: RuleCard, one: StoredAlert, fate: str | None) -> None:
    card.versions.add(one.alert.rule_version)
    card.statuses[one.alert.status] += 1
    card.late += one.alert.late
    if fate is not None:
        card.fates[fate] += 1
    moment = _local(one, one.alert.triggered_ms)
    card.first = moment if card.first is None else min(card.first, moment)
    card.last = moment if card.last is None else max(card.last, moment)


def _fates(messages: Sequence[MessageRow]) -> dict[str, str]:
    """Of each alert that has messages which tell of it, the best that became of one."""
    found: dict[str, set[str]] = defaultdict(set)
    for message in messages:
        if message.event in _TELLING and message.channel != _LOG:
            found[message.alert_id].add(_state(message))
    return {alert_id: next(fate for fate in FATES if fate in states) for alert_id, states in found.items()}


def _state(message: MessageRow) -> str:
    """Its state; what is new waits."""
    return "waiting" if message.state == "new" else message.state


def _channels(messages: Sequence[MessageRow]) -> Iterator[ChannelCard]:
    cards: dict[str, ChannelCard] = {}
    for message in messages:
        card = cards.setdefault(message.channel, ChannelCard(message.channel))
        card.states[_state(message)] += 1
        if message.reason in HELD_FOR:
            card.held_for[message.reason] += 1
        elif message.delivered_at is not None and message.event != "expired":
            card.delivery.seconds.append((message.delivered_at - message.created_at).total_seconds())
    return (cards[name] for name in sorted(cards))


def _local(one: StoredAlert, time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).astimezone(ZONES[Market[one.market.upper()]])
