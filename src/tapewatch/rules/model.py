"""The alert rules as every room knows them: what is told, when, how sure we want to be, and to whom.

    id             [a-z][a-z0-9_]*; `golden_cross`, `death_cross`, `high_volume` and `system_down` always exist
    version        a hash of all that decides an alert: equal versions decide alike; to whom it is told is not in it
    Rules          all rules by their ids, as they hold at one place of the log (a RULES record changes them)

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Final, Literal

import msgspec

from tapewatch.rules.lines import line_words

__all__ = [
    "CONDITIONS",
    "DEFAULTS",
    "KINDS",
    "CrossRule",
    "ExtremeRule",
    "LevelRule",
    "MoveRule",
    "Rule",
    "Rules",
    "SystemRule",
    "ThresholdRule",
    "VolumeRule",
    "alert_key",
    "covers",
    "words_of",
]

ID: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
Direction = Literal["above", "below", "either"]
"""The side that the left line comes to. ``either`` is two machines of one rule, one for each side."""
Session = Literal["any", "regular", "extended"]
"""Where a market has sessions: ``extended`` is what is open and not regular. A market that never closes is regular."""
Notify = Literal["confirmed", "provisional", "never"]
CONDITIONS: Final = ("no_data", "no_trades", "connection", "lag", "log", "engine", "store", "notify", "disk")
"""What a system rule watches: see docs/alerts.md."""
Condition = Literal["no_data", "no_trades", "connection", "lag", "log", "engine", "store", "notify", "disk"]


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every rule has."""

    enabled: bool = True
    symbols: tuple[str, ...] = ()
    """Names and patterns (``B*``), ``!X`` excludes; empty: every symbol. Read by `covers`."""
    session: Session = "any"
    cooldown_ms: int = 900_000
    """Event time in which the same rule, symbol and direction makes no second alert."""
    expires_ms: int | None = None
    """Event time from which on it makes no new alert."""
    notify: Notify | None = None
    """None: as the setting NOTIFY says."""
    channels: tuple[str, ...] | None = None
    """None: every channel."""
    quiet: str = ""
    """``22:00-07:00 America/New_York``: nothing is sent then (by the wall clock); empty: never quiet."""
    text: str = ""
    """A person's own words for the message."""


class _Crossing(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every rule has that compares two lines."""

    direction: Direction = "above"
    band_bps: float = 0.0
    """How far past the right line the left one must come, in 1/100 percent."""
    rearm_bps: float | None = None
    """How far back on the old side it must have been since the last alert; None: as far as the band."""
    confirm_bars: int = 1
    """Closes in a row on the new side, that of the alert's own pane the first of them."""
    volume_multiple: float | None = None
    """The pane must trade this many times the mean of the 20 before (5 at least). None: any volume."""


class CrossRule(_Crossing, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cross"):
    """One line crosses another; the price its moving average, by default."""

    left: str = "price"
    right: str = "average"
    band_bps: float = 5.0
    cooldown_ms: int = 300_000


class VolumeRule(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="volume"):
    """A pane's volume exceeds ``multiple`` times a mean, or ``absolute``.

    The mean is that of up to ``panes`` earlier panes that had trades; with ``days`` it is that of the panes at the same
    time of day on up to so many trading days before.
    """

    multiple: float = 3.0
    panes: int = 20
    panes_min: int = 5
    absolute: float | None = None
    days: int | None = None
    days_min: int = 5
    cooldown_ms: int = 0


class LevelRule(_Crossing, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="level"):
    """The price crosses a number."""

    level: float
    rearm_bps: float | None = 10.0
    cooldown_ms: int = 300_000


class MoveRule(_Crossing, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="move"):
    """The price is ``percent`` percent above or below what it was ``within_ms`` ago: a whole number of panes."""

    percent: float
    within_ms: int
    direction: Direction = "either"
    rearm_bps: float | None = 25.0


class ExtremeRule(_Crossing, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="extreme"):
    """A new high (``above``) or low (``below``): of the trading day so far, of ``n`` bars or of ``n`` days before."""

    of: str = "session"
    """``session``, a number of bars (``60``), or of trading days (``20d``)."""
    direction: Direction = "either"
    rearm_bps: float | None = 10.0


class ThresholdRule(_Crossing, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="threshold"):
    """An indicator comes above or below a number."""

    indicator: str
    value: float
    rearm_bps: float | None = 200.0


class SystemRule(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="system"):
    """A condition of Tapewatch itself; the engine knows nothing of these."""

    conditions: tuple[Condition, ...] = CONDITIONS
    after_ms: int | None = None
    """How long it must last; None: FEED_STALL for the feed, and what docs/alerts.md says for the others."""
    cooldown_ms: int = 0


Rule = CrossRule | VolumeRule | LevelRule | MoveRule | ExtremeRule | ThresholdRule | SystemRule
KINDS: Final[dict[str, type[Rule]]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (CrossRule, VolumeRule, LevelRule, MoveRule, ExtremeRule, ThresholdRule, SystemRule)
}
DEFAULTS: Final[dict[str, Rule]] = {
    "golden_cross": CrossRule(direction="above"),
    "death_cross": CrossRule(direction="below"),
    "high_volume": VolumeRule(),
    "system_down": SystemRule(),
}
"""The rules that exist without being written; what is written changes them."""
_TOLD: Final = frozenset(("notify", "channels", "quiet", "text"))
"""What does not decide: it is in no version."""
_FIRST: Final = {
    "cross": frozenset(("enabled", "band_bps", "cooldown_ms")),
    "volume": frozenset(("enabled", "multiple", "panes", "panes_min", "absolute", "cooldown_ms")),
}
"""What the first versions were made of; of these every value is in the hash, of others only what is not the default."""


class Rules(Mapping[str, "Rule"]):
    """All rules by their ids: those of `DEFAULTS` first, in that order, then the others by their ids. Never changed.

    >>> rules = Rules(golden_cross=CrossRule(band_bps=7.0), apple_200=LevelRule(level=200.0, symbols=("AAPL",)))
    >>> list(rules), rules["golden_cross"].band_bps
    (['golden_cross', 'death_cross', 'high_volume', 'system_down', 'apple_200'], 7.0)
    """

    NAMES: ClassVar[tuple[str, ...]] = tuple(DEFAULTS)

    def __init__(self, **given: Rule) -> None:
        for name, rule in given.items():
            assert ID.fullmatch(name), name
            assert type(rule) is type(DEFAULTS.get(name, rule)), name
        others = {name: given[name] for name in sorted(given.keys() - DEFAULTS.keys())}
        self._rules: dict[str, Rule] = {name: given.get(name, rule) for name, rule in DEFAULTS.items()} | others

    def __getitem__(self, name: str) -> Rule:
        return self._rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self._rules.items()))

    def __repr__(self) -> str:
        changed = {name: rule for name, rule in self.items() if rule != DEFAULTS.get(name)}
        return f"Rules({', '.join(f'{name}={rule!r}' for name, rule in changed.items())})"

    def version(self, name: str) -> str:
        """Eight hexadecimal digits that change whenever anything that decides the rule's alerts does."""
        return version_of(name, self[name])

    def changed(self, **given: Rule) -> Rules:
        """The same rules with these instead of those of the same ids, or besides."""
        return Rules(**(self._rules | given))

    def without(self, name: str) -> Rules:
        """The same rules without one; of `DEFAULTS` the default comes back."""
        return Rules(**{n: rule for n, rule in self.items() if n != name})

    def encode(self) -> str:
        """The one JSON text of these rules: equal rules, equal text."""
        return msgspec.json.encode(self._rules, order="sorted").decode()

    @staticmethod
    def decode(text: str | bytes) -> Rules:
        """Inverse of `encode`. Raises ValueError when it is no such text."""
        try:
            found = msgspec.json.decode(text, type=dict[str, Rule])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"these are no rules: {str(error)[:200]}") from None
        for name, rule in found.items():
            if not ID.fullmatch(name) or type(rule) is not type(DEFAULTS.get(name, rule)):
                raise ValueError(f"{name[:60]!r} is no rule's id, or its rule is of another kind")
        return Rules(**found)

    # The three rules that every version has known; for those who mean just these.
    @property
    def golden_cross(self) -> CrossRule:
        """The rule of that id."""
        return self._rules["golden_cross"]  # type: ignore[return-value]

    @property
    def death_cross(self) -> CrossRule:
        """The rule of that id."""
        return self._rules["death_cross"]  # type: ignore[return-value]

    @property
    def high_volume(self) -> VolumeRule:
        """The rule of that id."""
        return self._rules["high_volume"]  # type: ignore[return-value]


def kind_of(rule: Rule) -> str:
    """What the rule's table calls its kind: ``cross``, ``volume``, …"""
    return str(rule.__struct_config__.tag)


def version_of(name: str, rule: Rule) -> str:
    """The version of a rule of that id: see `Rules.version`."""
    fields: dict[str, Any] = msgspec.to_builtins(rule)
    kind = fields.pop("kind")
    usual = DEFAULTS.get(name)
    default = msgspec.to_builtins(usual) if usual is not None else _defaults(type(rule))
    always = _FIRST.get(kind, frozenset())
    decides = {
        key: value
        for key, value in fields.items()
        if key not in _TOLD and (key in always or key not in default or value != default[key])
    }
    if usual is None:
        decides["kind"] = kind
    return hashlib.sha256(msgspec.json.encode(decides, order="sorted")).hexdigest()[:8]


@cache
def _defaults(kind: type[Any]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    return {
        field.name: msgspec.to_builtins(field.default) for field in fields if field.default is not msgspec.NODEFAULT
    }


def alert_key(name: str, version: str, symbol: str, pane_ms: int, direction: int) -> str:
    """The key of an alert everywhere: a hash of rule id and version, symbol, pane start (Unix ms) and direction."""
    text = f"{name}|{version}|{symbol}|{pane_ms}|{direction}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def covers(patterns: tuple[str, ...], symbol: str) -> bool:
    """Whether a rule with these ``symbols`` looks at ``symbol``: named or matched (in any case), and not excluded.

    >>> [covers(("B*", "!BTC"), symbol) for symbol in ("BA", "BTC", "AAPL")], covers(("!BTC",), "AAPL"), covers((), "X")
    ([True, False, False], True, True)
    """
    wanted = [p for p in patterns if not p.startswith("!")]
    if any(_pattern(p[1:]).fullmatch(symbol) for p in patterns if p.startswith("!")):
        return False
    return not wanted or any(_pattern(p).fullmatch(symbol) for p in wanted)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in text), re.IGNORECASE)


def words_of(rule: Rule) -> tuple[str, str]:
    """Left and right line in words: ``("price", "SMA 50")``. For a system rule two empty texts."""
    match rule:
        case CrossRule():
            return line_words(rule.left), line_words(rule.right)
        case VolumeRule(days=None):
            return "volume", f"{rule.multiple:g} times the mean of the minutes before"
        case VolumeRule():
            return "volume", f"{rule.multiple:g} times the mean at this time of day"
        case LevelRule():
            return "price", f"{rule.level:.16g}"
        case MoveRule():
            return "price", f"{rule.percent:g} % in {rule.within_ms // 1000} s"
        case ExtremeRule(of="session"):
            return "price", "high or low of the day"
        case ExtremeRule():
            return "price", f"high or low of {rule.of.removesuffix('d')} {'days' if rule.of[-1] == 'd' else 'bars'}"
        case ThresholdRule():
            return line_words(rule.indicator), f"{rule.value:.16g}"
        case SystemRule():
            return "", ""
