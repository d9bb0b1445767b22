"""What each key of a rule may be: read from TOML or JSON, and checked again where rules come from elsewhere.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, get_args
from zoneinfo import ZoneInfo

from tapewatch.rules.lines import INDICATORS, LineKind, line_help, line_of, line_text
from tapewatch.rules.machines import machines_of
from tapewatch.rules.model import (
    CONDITIONS,
    CrossRule,
    Direction,
    LevelRule,
    Notify,
    Rule,
    Rules,
    Session,
    ThresholdRule,
    VolumeRule,
)
from tapewatch.settings import DURATION_HELP, duration_text, parse_duration_ms

__all__ = ["KEYS", "RuleError", "check_rule", "check_rules", "expires_text", "key_of", "read_key", "shown"]

SYMBOLS_MAX: Final = 1_000
DAYS_SYMBOLS_MAX: Final = 100
TEXT_MAX: Final = 200
RULES_MAX: Final = 1_000
RULES_BYTES_MAX: Final = 200_000
"""All rules as JSON: a message of the topic must hold them."""
COVERING_MAX: Final = 60
"""So many rules, those for either side counted twice, may look at one symbol."""
_NEW_YORK: Final = ZoneInfo("America/New_York")
_PATTERN: Final = re.compile(r"!?[A-Za-z0-9*?][A-Za-z0-9.:/_*?-]{0,31}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_QUIET: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)(?:\s+([A-Za-z0-9_+/-]{1,40}))?")
_OF: Final = re.compile(r"session|\d{1,4}d?")
DAY_MS: Final = 86_400_000


class RuleError(ValueError):
    """A key of a rule is wrong: which, and why."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


def key_of(field: str) -> str:
    """What a field is called in `alerts.toml`: ``cooldown_ms`` is ``cooldown``."""
    return field.removesuffix("_ms")


def shown(value: Any) -> str:
    """A value for a message: as TOML writes it, and short."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, date | time) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_key(key: str, value: Any) -> Any:
    """The value as the rule holds it. Raises ValueError with what is allowed."""
    return KEYS[key](value)


def check_rule(rule: Rule) -> None:
    """Raise `RuleError` unless every value of the rule is one that could have been read, and they go together."""
    for field in rule.__struct_fields__:
        value = getattr(rule, field)
        try:
            _check_field(field, value)
        except ValueError as error:
            raise RuleError(key_of(field), str(error)) from None
    _check_together(rule)


def _check_field(field: str, value: Any) -> None:
    if (
        value is None
        or (field in ("quiet", "text") and value == "")
        or (field in ("symbols", "channels") and not value)
    ):
        return
    if field == "expires_ms":
        _between(0, 2**53, whole=True)(value)
    elif field.endswith("_ms"):
        KEYS[key_of(field)](duration_text(value))
    else:
        read = KEYS[field](list(value) if isinstance(value, tuple) else value)
        if read != value:
            raise ValueError(f"expected {shown(read)}")


def _check_together(rule: Rule) -> None:
    if isinstance(rule, VolumeRule):
        if rule.panes_min > rule.panes:
            raise RuleError("panes_min", f"expected at most panes, which is {rule.panes}")
        is_plain = rule.symbols and not any(mark in name for name in rule.symbols for mark in "!*?")
        if rule.days is not None and not (is_plain and len(rule.symbols) <= DAYS_SYMBOLS_MAX):
            raise RuleError(
                "days", f"expected symbols with at most {DAYS_SYMBOLS_MAX} plain names, since it remembers days"
            )
    if isinstance(rule, LevelRule) and not rule.symbols:
        raise RuleError("symbols", 'expected the symbols that the level is for, such as ["AAPL"]')
    if isinstance(rule, CrossRule):
        if rule.left == rule.right:
            raise RuleError("right", "expected another line than left")
        if line_of(rule.left).kind is LineKind.CONST:
            raise RuleError("left", "expected a line; a number may stand on the right")
    if isinstance(rule, ThresholdRule) and not rule.indicator.startswith("macd") and not 0 < rule.value < 100:
        raise RuleError("value", "expected a number between 0 and 100")


def check_rules(rules: Rules) -> None:
    """Raise ValueError unless a log and an engine can hold all of these rules."""
    if len(rules) > RULES_MAX:
        raise ValueError(f"{len(rules):,} rules; expected at most {RULES_MAX:,}")
    if (size := len(rules.encode().encode())) > RULES_BYTES_MAX:
        raise ValueError(
            f"the rules take {size:,} bytes; expected at most {RULES_BYTES_MAX:,}: shorten symbols or text"
        )
    wide, of_name = 0, dict[str, int]()
    for machine in machines_of(rules, slide_ms=1):
        names = {name.upper() for name in machine.symbols if not name.startswith("!")}
        if not machine.enabled:
            continue
        if not names or any("*" in name or "?" in name for name in names):
            wide += 1
            continue
        for name in names:
            of_name[name] = of_name.get(name, 0) + 1
    most = max(of_name, key=of_name.__getitem__, default="")
    if (count := wide + of_name.get(most, 0)) > COVERING_MAX:
        raise ValueError(
            f"{count} rules look at {most or 'one symbol'} (those without symbols or with patterns, and those that "
            f"name it; one for either side counts twice); expected at most {COVERING_MAX}"
        )


# --- one reader for each kind of value ----------------------------------------------------------------------------


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _between(low: float, high: float, *, whole: bool = False) -> Callable[[Any], Any]:
    kinds = int if whole else int | float

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"expected a {'whole ' * whole}number from {low:,g} to {high:,g}")
        return value if whole else float(value)

    return read


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return value

    return read


def duration(low_ms: int, high_ms: int, example: str) -> Callable[[Any], int]:
    """A reader of durations within bounds."""

    def read(value: Any) -> int:
        if not isinstance(value, str):
            raise ValueError(f'expected {DURATION_HELP}, in quotes: "{example}"')
        ms = parse_duration_ms(value)
        if not low_ms <= ms:
            raise ValueError(f"expected at least {duration_text(low_ms)}")
        if ms > high_ms:
            raise ValueError(f"expected at most {duration_text(high_ms)}")
        return ms

    return read


def _listed(pattern: re.Pattern[str], most: int, example: str) -> Callable[[Any], tuple[str, ...]]:
    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not value or len(value) > most:
            raise ValueError(f"expected a list of 1 to {most:,} names, such as {example}")
        for name in value:
            if not isinstance(name, str) or not pattern.fullmatch(name):
                raise ValueError(f"cannot read {shown(name)}; expected names such as {example}")
        return tuple(dict.fromkeys(value))

    return read


def _conditions(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(name not in CONDITIONS for name in value):
        raise ValueError(f"expected a list of {', '.join(CONDITIONS)}")
    return tuple(name for name in CONDITIONS if name in value)


def _line(value: Any) -> str:
    """A line's text, or a number that stands for itself."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a number or one of {line_help()}, in quotes")
    return line_text(value if isinstance(value, str) else f"{value:.10f}".rstrip("0").rstrip("."))


def _indicator(value: Any) -> str:
    text = _line(value)
    if text.partition("(")[0] not in INDICATORS:
        raise ValueError(f"expected one of {line_help(INDICATORS)}")
    return text


def _of(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _OF.fullmatch(text):
        raise ValueError('expected "session", a number of bars such as 60, or of trading days such as "20d"')
    if text != "session":
        line_of(f"high({text})")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX or not (value == "" or value.isprintable()):
        raise ValueError(f"expected a text of at most {TEXT_MAX} characters, on one line")
    return value


def _quiet(value: Any) -> str:
    if value == "":
        return ""
    found = _QUIET.fullmatch(value) if isinstance(value, str) else None
    zone = (found[5] or "America/New_York") if found else ""
    if found is None or found.group(1, 2) == found.group(3, 4) or not _is_zone(zone):
        raise ValueError('expected hours and a time zone, such as "22:00-07:00 America/New_York"')
    return f"{found[1]}:{found[2]}-{found[3]}:{found[4]} {zone}"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _expires(value: Any) -> int:
    """A day means its end in New York; a time without a zone is New York's too."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) <= 10 else datetime.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=_NEW_YORK)
    elif isinstance(value, date):
        moment = datetime.combine(value + timedelta(days=1), time(), _NEW_YORK)
    else:
        raise ValueError("expected a day or a time, such as 2026-12-31 or 2026-12-31T16:00:00-05:00")
    return int(moment.timestamp() * 1_000)


def expires_text(expires_ms: int) -> str:
    """How a rule's expiry is written: in UTC."""
    return datetime.fromtimestamp(expires_ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "enabled": _flag,
    "symbols": _listed(_PATTERN, SYMBOLS_MAX, '["AAPL", "B*", "!BTC"]'),
    "session": _one_of(*get_args(Session)),
    "cooldown": duration(0, DAY_MS, "5m"),
    "expires": _expires,
    "notify": _one_of(*get_args(Notify)),
    "channels": _listed(_NAME, 100, '["log", "phone"]'),
    "quiet": _quiet,
    "text": _text,
    "direction": _one_of(*get_args(Direction)),
    "band_bps": _between(0, 1_000),
    "rearm_bps": _between(0, 1_000),
    "confirm_bars": _between(1, 20, whole=True),
    "volume_multiple": _between(0.01, 1_000),
    "left": _line,
    "right": _line,
    "multiple": _between(1, 1_000),
    "panes": _between(1, 100, whole=True),
    "panes_min": _between(1, 100, whole=True),
    "absolute": _between(0, 1e15),
    "days": _between(1, 30, whole=True),
    "days_min": _between(1, 30, whole=True),
    "level": _between(1e-8, 1e15),
    "percent": _between(0.01, 1_000),
    "within": duration(1_000, DAY_MS, "10m"),
    "of": _of,
    "indicator": _indicator,
    "value": _between(-1e15, 1e15),
    "conditions": _conditions,
    "after": duration(1_000, DAY_MS, "60s"),
}
"""How each key of a rule is read."""
