"""What becomes of a message before it is sent: sent now, held, told by another one, or not told at all.

                   follow-up of what was told, log, system ─────────────────────────────► waiting
                  /
    new ──► older than NEWS_AGE_MAX? ─► dead
             \\
              muted? acknowledged? ─► muted        quiet hours? ─► held until they end ──► one digest
                  \\
                   grade D? ─► held, looked at again, muted in the end      a notice says so
                    \\
                     same rule and symbol just told? ─► held ──► one message: "7 times more, last …"
                      \\
                       more than the limit? ─► held ──► one digest                        else waiting

What a rule decides is decided by event time, in the engine. This is decided by the clock on the wall, by what people
have muted, and by what was told before; so it is no part of what a replay must repeat.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from tapewatch.notify.messages import Payload, digest_payload, finished, name_of
from tapewatch.notify.outbox import LOG
from tapewatch.notify.quiet import quiet_until
from tapewatch.records import AlertStatus, Notification, Origin
from tapewatch.rules.channels import NotifyOptions
from tapewatch.rules.model import Rules

__all__ = ["Fresh", "Memory", "Move", "Mute", "Plan", "Policy"]

State = Literal["held", "folded", "muted", "waiting", "dead"]

GRADE, QUIET, BURST, LIMIT = "grade D", "quiet hours", "burst", "limit"
"""Why a message is held."""
GRADE_LOOK: Final = timedelta(seconds=15)
GRADE_HELD_MAX: Final = timedelta(minutes=10)
"""A message that was held for longer because of its data is not sent any more."""
NOTICE_EVERY: Final = timedelta(minutes=5)
"""How often at most one channel is told that alerts are held."""
DIGEST_WAIT: Final = timedelta(seconds=10)
"""A first digest collects for this long."""
_STATES: Final = frozenset(status.value for status in AlertStatus)
_TOLD: Final = frozenset(("waiting", "delivered"))


@dataclass(frozen=True, slots=True)
class Fresh:
    """A message that is new, or held and due. ``before`` is the state of its alert's provisional message there."""

    id: str
    alert_id: str
    channel: str
    event: str
    rule: str
    symbol: str
    payload: Payload
    created_at: datetime
    reason: str | None = None
    """Why it is held; None while it is new."""
    before: str | None = None
    grade: str | None = None
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Mute:
    """What people do not want to be told for a while; None means any."""

    rule: str | None
    symbol: str | None
    channel: str | None
    until: datetime
    by: str

    def covers(self, message: Fresh) -> bool:
        """Whether it is about this message."""
        return (
            self.rule in (None, message.rule)
            and self.symbol in (None, message.symbol)
            and self.channel in (None, message.channel)
        )


@dataclass(frozen=True, slots=True)
class Move:
    """The next state of one message. ``payload`` is None where it stays."""

    id: str
    state: State
    channel: str
    reason: str | None = None
    held_until: datetime | None = None
    told_by: str | None = None
    payload: Payload | None = None


@dataclass(slots=True)
class Plan:
    """What is to be written in one transaction: moves, and the messages that tell of several."""

    moves: list[Move] = field(default_factory=list)
    made: list[Notification] = field(default_factory=list)

    @property
    def channels(self) -> set[str]:
        """Those that have something to send now."""
        return {m.channel for m in self.moves if m.state == "waiting"} | {n.channel for n in self.made}


@dataclass(slots=True)
class Memory:
    """What was let through lately: for the limit, the bursts and the digests of each channel."""

    passed: dict[str, list[datetime]] = field(default_factory=dict)
    told: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    """When channel, rule and symbol were told last."""
    digested: dict[str, datetime] = field(default_factory=dict)
    due: dict[str, datetime] = field(default_factory=dict)
    """When the channel's next digest is due."""
    noticed: dict[str, datetime] = field(default_factory=dict)

    def copy(self) -> Memory:
        """One that may be changed without changing this one."""
        passed = {channel: list(times) for channel, times in self.passed.items()}
        return Memory(passed, dict(self.told), dict(self.digested), dict(self.due), dict(self.noticed))

    def note(self, channel: str, event: str, rule: str, symbol: str, at: datetime) -> None:
        """A message was let through."""
        if event == "digest":
            self.digested[channel] = at
        elif event == "held":
            self.noticed[channel] = at
        elif event in _STATES or event == "burst":
            self.passed.setdefault(channel, []).append(at)
            self.told[channel, rule, symbol] = at

    def forget(self, options: NotifyOptions, now: datetime) -> None:
        """Let go of what matters no more."""
        since = now - timedelta(milliseconds=options.limit.period_ms)
        for channel, times in self.passed.items():
            self.passed[channel] = [at for at in times if at > since]
        since = now - timedelta(milliseconds=options.burst_ms)
        self.told = {key: at for key, at in self.told.items() if at > since}


class Policy:
    """Decides for one set of options and rules. ``link`` is the address of the page, for the links in messages."""

    def __init__(
        self,
        options: NotifyOptions,
        rules: Rules,
        *,
        link: str = "",
        origin: Origin = Origin.LIVE,
        news_age_ms: int = 600_000,
    ) -> None:
        self._news_age_ms = news_age_ms
        self._options = options
        self._rules = rules
        self._link = options.link or link
        self._origin = origin

    def plan(self, messages: Sequence[Fresh], mutes: Sequence[Mute], memory: Memory, now: datetime) -> Plan:
        """What becomes of ``messages``, which are in order of their creation. ``memory`` is brought up to date."""
        memory.forget(self._options, now)
        return _Round(self, mutes, memory, now).run(messages)

    def finish(self, message: Fresh, now: datetime) -> Payload | None:
        """The payload of an alert's message as it is sent now; None where it stays as it is."""
        if message.event not in _STATES or "decided_ms" not in message.payload:
            return None
        late_s = None
        if self._origin is not Origin.REPLAYED:
            late_s = now.timestamp() - message.payload["decided_ms"] / 1_000
        return finished(message.payload, grade=message.grade, late_s=late_s, link=self._link)

    def age_s(self, message: Fresh, now: datetime) -> float | None:
        """How old the news is if it is too old to be told as new; None if it is not. A recording's is never old."""
        received_ms = message.payload.get("received_ms")
        if self._origin is Origin.REPLAYED or received_ms is None:
            return None
        age_s = now.timestamp() - received_ms / 1_000
        return age_s if age_s * 1_000 > self._news_age_ms else None

    def quiet_until(self, rule: str, now: datetime) -> datetime | None:
        """When the quiet hours of a rule end; None if it is not quiet now, or there is no such rule any more."""
        found = self._rules.get(rule)
        return None if found is None else quiet_until(found.quiet, now)

    @property
    def options(self) -> NotifyOptions:
        """The table `[notify]`."""
        return self._options

    @property
    def link(self) -> str:
        """Where the page is."""
        return self._link

    @property
    def origin(self) -> Origin:
        """The kind of data."""
        return self._origin


class _Round:
    """One plan in the making."""

    def __init__(self, policy: Policy, mutes: Sequence[Mute], memory: Memory, now: datetime) -> None:
        self._policy = policy
        self._options = policy.options
        self._mutes = mutes
        self._memory = memory
        self._now = now
        self._plan = Plan()
        self._groups: dict[tuple[str, str, str, str], list[Fresh]] = {}
        self._held: dict[str, list[Fresh]] = {}

    def run(self, messages: Sequence[Fresh]) -> Plan:
        followed = {(m.alert_id, m.channel): m for m in messages if m.event in ("confirmed", "retracted")}
        for message in messages:
            follower = followed.get((message.alert_id, message.channel))
            if message.event == "provisional" and follower is not None and message.channel != LOG:
                self._overtaken(message, follower)
            else:
                self._look(message)
        for (channel, reason, *_), group in self._groups.items():
            self._tell_together(channel, reason, group)
        for channel, group in self._held.items():
            self._notice(channel, group)
        return self._plan

    def _look(self, message: Fresh) -> None:
        if message.channel == LOG or message.event not in _STATES:
            self._pass(message, counts=False)
        elif message.before in _TOLD and message.event != "provisional":
            self._pass(message, counts=False)  # into the same thread or incident
        elif message.event == "retracted":
            self._move(message, "muted", "retracted before it was told")
            if message.before in ("new", "held"):
                self._move_provisional(message, "muted", "retracted before it was told", None)
        else:
            if message.event == "confirmed" and message.before in ("new", "held"):
                self._move_provisional(message, "folded", "confirmed before it was told", message.id)
            self._announce(message)

    def _overtaken(self, message: Fresh, follower: Fresh) -> None:
        """A provisional message whose alert is decided already."""
        if follower.event == "confirmed":
            self._move(message, "folded", "confirmed before it was told", told_by=follower.id)
        else:
            self._move(message, "muted", "retracted before it was told")

    def _announce(self, message: Fresh) -> None:
        now = self._now
        if message.reason is None and (age_s := self._policy.age_s(message, now)) is not None:
            self._move(message, "dead", f"too old: {age_s:,.0f} s after it was received")
            return
        mute = next((mute for mute in self._mutes if mute.until > now and mute.covers(message)), None)
        if mute is not None:
            self._move(message, "muted", f"muted by {mute.by or 'somebody'} until {_clock(mute.until)}")
        elif message.acknowledged:
            self._move(message, "muted", "acknowledged")
        elif (until := self._policy.quiet_until(message.rule, now)) is not None:
            self._hold(message, QUIET, until)
        elif message.grade == "D" and self._options.hold_grade_d:
            self._hold_grade(message)
        elif message.reason in (QUIET, BURST, LIMIT):
            own = (message.rule, message.symbol) if message.reason == BURST else ("", "")
            self._groups.setdefault((message.channel, message.reason, *own), []).append(message)
        elif (until := self._burst_until(message)) is not None:
            self._hold(message, BURST, until)
        elif self._is_full(message.channel):
            self._hold(message, LIMIT, self._digest_due(message.channel))
        else:
            self._pass(message)

    def _hold_grade(self, message: Fresh) -> None:
        if self._now - message.created_at >= GRADE_HELD_MAX:
            self._move(message, "muted", GRADE)
            return
        self._hold(message, GRADE, self._now + GRADE_LOOK)
        if message.reason is None:
            self._held.setdefault(message.channel, []).append(message)

    def _burst_until(self, message: Fresh) -> datetime | None:
        told = self._memory.told.get((message.channel, message.rule, message.symbol))
        if told is None or not self._options.burst_ms:
            return None
        until = told + timedelta(milliseconds=self._options.burst_ms)
        return until if until > self._now else None

    def _is_full(self, channel: str) -> bool:
        since = self._now - timedelta(milliseconds=self._options.limit.period_ms)
        return sum(at > since for at in self._memory.passed.get(channel, ())) >= self._options.limit.count

    def _digest_due(self, channel: str) -> datetime:
        due = self._memory.due.get(channel)
        if due is None or due <= self._now:
            before = self._memory.digested.get(channel)
            due = self._now + DIGEST_WAIT
            if before is not None:
                due = max(due, before + timedelta(milliseconds=self._options.digest_ms))
            self._memory.due[channel] = due
        return due

    def _tell_together(self, channel: str, reason: str, group: list[Fresh]) -> None:
        """What was held for one reason, and is due: itself if it is alone, else one message for all."""
        if reason == BURST and self._is_full(channel):
            due = self._digest_due(channel)
            for message in group:
                self._hold(message, LIMIT, due)
            return
        if len(group) == 1:
            self._pass(group[0])
            return
        event, why = ("burst", "") if reason == BURST else ("digest", _why(reason, self._options))
        key = f"{event}-{channel}-{int(self._now.timestamp() * 1_000)}-{len(self._plan.made)}"
        made = digest_payload(
            [m.payload for m in group], key=key, event=event, why=why, link=self._policy.link,
            origin=self._policy.origin,
        )  # fmt: skip
        self._make(channel, event, key, made)
        for message in group:
            self._move(message, "folded", reason, told_by=key)

    def _notice(self, channel: str, group: list[Fresh]) -> None:
        """Say that alerts are held because of their data."""
        noticed = self._memory.noticed.get(channel)
        if noticed is not None and self._now - noticed < NOTICE_EVERY:
            return
        symbols = sorted({m.symbol for m in group})
        named = ", ".join(symbols[:10]) + (f" and {len(symbols) - 10} more" if len(symbols) > 10 else "")
        alerts = ", ".join(f"{m.symbol} {name_of(m.payload)}" for m in group[:10])
        held = f"{len(group)} alert{' is' if len(group) == 1 else 's are'} held"
        prefix = "" if self._policy.origin is Origin.LIVE else f"{self._policy.origin.value}: "
        key = f"held-{channel}-{int(self._now.timestamp() * 1_000)}"
        made: dict[str, Any] = {
            "id": key, "alert_id": key, "kind": "held", "symbol": "", "rule": "", "status": "held",
            "count": len(group), "origin": self._policy.origin.value, "title": f"{prefix}{held}",
            "text": f"{prefix}{held}: the data of {named} is of grade D, trades of 10 s or more are missing. {alerts}. "
            "It is sent if what is missing comes within 10 minutes; see the page meanwhile.",
            "url": f"{self._policy.link.rstrip('/')}/#/alerts" if self._policy.link else None,
            "severity": "warning", "grade": "D", "incident": None, "resolves": [],
            "time": self._now.isoformat(timespec="milliseconds"),
        }  # fmt: skip
        self._make(channel, "held", key, made)

    def _make(self, channel: str, event: str, key: str, payload: Payload) -> None:
        self._plan.made.append(Notification(id=key, alert_id=key, channel=channel, event=event, payload=payload))
        self._memory.note(channel, event, payload["rule"], payload["symbol"], self._now)

    def _pass(self, message: Fresh, *, counts: bool = True) -> None:
        payload = self._policy.finish(message, self._now)
        self._plan.moves.append(Move(message.id, "waiting", message.channel, reason=message.reason, payload=payload))
        if counts:
            self._memory.note(message.channel, message.event, message.rule, message.symbol, self._now)

    def _hold(self, message: Fresh, reason: str, until: datetime) -> None:
        self._plan.moves.append(Move(message.id, "held", message.channel, reason=reason, held_until=until))

    def _move(self, message: Fresh, state: State, reason: str, told_by: str | None = None) -> None:
        self._plan.moves.append(Move(message.id, state, message.channel, reason=reason, told_by=told_by))

    def _move_provisional(self, message: Fresh, state: State, reason: str, told_by: str | None) -> None:
        earlier = f"{message.alert_id}:{message.channel}:provisional"
        self._plan.moves.append(Move(earlier, state, message.channel, reason=reason, told_by=told_by))


def _why(reason: str, options: NotifyOptions) -> str:
    if reason == QUIET:
        return "in your quiet hours"
    return f"more than {options.limit.count} in {options.limit.period_ms // 1_000} s"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def mutes_of(rows: Sequence[Mapping[str, Any]]) -> list[Mute]:
    """From rows of `alert_mutes`."""
    return [Mute(r["rule"], r["symbol"], r["channel"], r["muted_to"], r["muted_by"]) for r in rows]
