"""System Down: from what is wrong at this moment to what people are told, once each way.

            wrong for as long as the rule waits, and not in its quiet hours
    well ──────────────────────────────────────────────────────────────────► down        told
     ▲                                                                        │
     └────────────────────────────────────────────────────────────────────────┘  told
                              well for RECOVERY

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from tapewatch.notify.messages import Payload, new_york
from tapewatch.notify.quiet import quiet_until
from tapewatch.records import Origin
from tapewatch.rules.model import Rules, SystemRule

__all__ = ["AFTER_MS", "Down", "Downs", "Trouble", "system_payload"]

RECOVERY: Final = timedelta(seconds=10)
"""What is well for so long is well again: what comes and goes is told once."""
AFTER_MS: Final = {"store": 8_000, "log": 10_000, "engine": 30_000, "lag": 30_000, "notify": 60_000, "disk": 0}
"""How long each must last where the rule says nothing; of the feed, FEED_STALL."""


class Down(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `system_alerts`. Times are Unix seconds."""

    system_id: str
    rule: str
    room: str
    state: str
    began: float
    detail: str
    announced: float | None = None
    recovered: float | None = None


class Trouble(NamedTuple):
    """What is wrong at this moment, since when, and what to do about it."""

    condition: str
    room: str
    sentence: str
    since: datetime
    patience: int = 1
    """It is waited so many times longer: trades are rare outside the regular session."""


class Downs:
    """What is down, by rule and room. ``known`` is what was told before this process began."""

    def __init__(self, known: Sequence[Down], feed_stall_ms: int) -> None:
        self._feed_stall_ms = feed_stall_ms
        self._down = {(down.rule, down.room): down for down in known}
        self._well_since: dict[tuple[str, str], datetime] = {}
        self._recovered: dict[tuple[str, str], datetime] = {}

    @property
    def down(self) -> list[Down]:
        """What is down now, and was told."""
        return list(self._down.values())

    def look(self, troubles: Sequence[Trouble], rules: Rules, now: datetime) -> list[Down]:
        """What is down since now, and what has recovered."""
        changed = []
        wrong: set[tuple[str, str]] = set()
        for name, rule in rules.items():
            if not isinstance(rule, SystemRule) or not rule.enabled:
                continue
            for trouble in troubles:
                key = (name, trouble.room)
                if trouble.condition not in rule.conditions or key in wrong:
                    continue
                wrong.add(key)
                if key not in self._down and self._is_due(rule, trouble, key, now):
                    self._down[key] = down = _new(name, trouble, now)
                    changed.append(down)
        for key, down in list(self._down.items()):
            if key in wrong:
                self._well_since.pop(key, None)
            elif now - self._well_since.setdefault(key, now) >= RECOVERY:
                del self._down[key], self._well_since[key]
                self._recovered[key] = now
                changed.append(msgspec.structs.replace(down, state="recovered", recovered=now.timestamp()))
        return changed

    def _is_due(self, rule: SystemRule, trouble: Trouble, key: tuple[str, str], now: datetime) -> bool:
        after_ms = AFTER_MS.get(trouble.condition, self._feed_stall_ms) if rule.after_ms is None else rule.after_ms
        if now - trouble.since < timedelta(milliseconds=after_ms * trouble.patience):
            return False
        before = self._recovered.get(key)
        if before is not None and now - before < timedelta(milliseconds=rule.cooldown_ms):
            return False
        return quiet_until(rule.quiet, now) is None


def _new(rule: str, trouble: Trouble, now: datetime) -> Down:
    began = trouble.since.timestamp()
    slug = re.sub(r"[^0-9A-Za-z]+", "-", trouble.room).strip("-")
    return Down(
        system_id=f"{rule}-{slug}-{int(now.timestamp() * 1_000)}",
        rule=rule,
        room=trouble.room,
        state="down",
        began=began,
        announced=now.timestamp(),
        detail=trouble.sentence,
    )


def system_payload(down: Down, rules: Mapping[str, object], *, origin: Origin, link: str, now: datetime) -> Payload:
    """What is sent of it: see the keys of an alert's payload."""
    rule = rules.get(down.rule)
    words = rule.text if isinstance(rule, SystemRule) else ""
    prefix = "" if origin is Origin.LIVE else f"{origin.value}: "
    incident = f"{down.rule}:{down.room.replace(' ', '_')}"
    if down.state == "down":
        title, text = f"{prefix}System Down: {down.room}", f"{prefix}System Down: {down.detail}"
    elif down.state == "recovered":
        minutes = max(0.0, (down.recovered or now.timestamp()) - down.began) / 60
        title = f"{prefix}System recovered: {down.room}"
        text = f"{title} is well again, after {minutes:,.1f} min. It was: {down.detail}"
    else:
        title, text = f"{prefix}Test alert", f"{prefix}Test alert: {down.detail}"
    said = f"{text} Since {new_york(down.began * 1_000)}." if down.state == "down" else text
    return {
        "alert_id": down.system_id,
        "kind": "system",
        "rule": down.rule,
        "symbol": "",
        "status": down.state,
        "room": down.room,
        "origin": origin.value,
        "time": now.isoformat(timespec="milliseconds"),
        "title": title,
        "text": f"{said} {words}".strip(),
        "url": f"{link.rstrip('/')}/#/health" if link else None,
        "severity": "critical" if down.state == "down" else "info",
        "grade": None,
        "incident": incident if down.state == "down" else None,
        "resolves": [incident] if down.state == "recovered" else [],
    }
