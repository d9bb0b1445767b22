"""The words and numbers of an explanation: how times, prices and lines are written.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from tapewatch.oracle_alerts import Leg
from tapewatch.oracle_trace import Step, TraceOracle
from tapewatch.rules.lines import LineKind, line_words
from tapewatch.rules.model import CrossRule, ExtremeRule, LevelRule, MoveRule, ThresholdRule

__all__ = [
    "NAMES",
    "WAYS",
    "Minute",
    "bps_of",
    "known",
    "lines_of",
    "name_of",
    "number",
    "price",
    "step_facts",
    "value",
]

NAMES: Final = {"golden_cross": "golden cross", "death_cross": "death cross", "high_volume": "high volume"}
WAYS: Final = {1: ("above", "below", "upper"), -1: ("below", "above", "lower")}


@dataclass(frozen=True, slots=True)
class Minute:
    """What is known of the minute beside its trades. Times are Unix ms.

    ``state`` is ``past``, ``running`` (more may come) or ``future``; ``kept_since`` is the log's first event time.
    """

    trace: TraceOracle
    zone: tzinfo
    mark: str
    """How the zone is written after a time: ``ET``, ``UTC``."""
    state: str
    is_closed: bool
    kept_since: int | None
    first_trade: int | None
    """Event time of the symbol's first trade in the log, if that is after the minute."""

    def at(self, time_ms: int) -> str:
        """``15:42:07.123``, with the date where it is another than the minute's."""
        moment, own = self._moment(time_ms), self._moment(self.trace.span.start)
        text = moment.strftime("%H:%M:%S") + (f".{time_ms % 1000:03}" if time_ms % 1000 else "")
        return text if moment.date() == own.date() else f"{moment.date()} {text}"

    def clock(self, time_ms: int) -> str:
        """The same without seconds: of a minute."""
        moment, own = self._moment(time_ms), self._moment(self.trace.span.start)
        text = moment.strftime("%H:%M")
        return text if moment.date() == own.date() else f"{moment.date()} {text}"

    def _moment(self, time_ms: int) -> datetime:
        return datetime.fromtimestamp(time_ms // 1000, UTC).astimezone(self.zone)


# --- rules and lines -----------------------------------------------------------------------------------------------


def name_of(rule: str) -> str:
    """As it is said in a sentence."""
    return NAMES.get(rule, f"alert of {rule}")


def lines_of(leg: Leg) -> tuple[str, str]:
    """Left and right line with their article: ``the price``, ``the average``."""
    left, rule = "price", leg.definition
    match rule:
        case CrossRule():
            left, right = line_words(rule.left), line_words(rule.right)
            right = "average" if leg.right.kind is LineKind.AVERAGE else right
        case LevelRule():
            right = "level"
        case ThresholdRule():
            left, right = line_words(rule.indicator), "threshold"
        case MoveRule():
            way = "more" if leg.direction > 0 else "less"
            right = f"price {rule.percent:g} % {way} than {rule.within_ms / 60_000:g} min ago"
        case ExtremeRule():
            side = "high" if leg.direction > 0 else "low"
            right = line_words(side if rule.of == "session" else f"{side}({rule.of})")
        case _:
            left, right = "volume", "limit"
    return f"the {left}", f"the {right}"


def value(leg: Leg, amount: float) -> str:
    """A value of the leg's lines: a price, or an indicator's number."""
    return number(amount) if isinstance(leg.definition, ThresholdRule) else price(amount)


def step_facts(step: Step) -> dict[str, Any]:
    """As plain JSON values."""
    return {"time_ms": step.time, "price": step.price, "line": known(step.line)}


# --- numbers -------------------------------------------------------------------------------------------------------


def price(value: float) -> str:
    """With as many places as a price of its size has: the page's own rule."""
    places = 2 if abs(value) >= 1 else 4 if abs(value) >= 0.01 else 8
    if round(value, places) == value:
        return f"{value:,.{places}f}"
    return f"{value:,.{places + 2}f}"


def number(value: float) -> str:
    """A volume: whole where it is."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def bps_of(value: float, base: float) -> float:
    return (value / base - 1) * 1e4 if base else 0.0


def known(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
