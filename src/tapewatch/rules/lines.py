"""The lines a rule can compare: what each is called in `alerts.toml`, and what its numbers mean.

    left = "price"        right = "sma(50)"        right = "high(20d)"        right = "190.5"

A line has one value at any moment of a symbol. *Live* is its value with the current trade as the close of its pane;
at the end of a pane it is what the pane's close makes it. Lengths are *bars*: panes (SLIDE_DURATION, a minute by
default) that had a price, as on a chart, so a minute without trades is no step. Only `average` and `close(n)` count
panes by time, and only ``d`` means trading days. A line without enough past has no value, and a rule then has no side.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import math
import re
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["INDICATORS", "LINES", "Line", "LineKind", "line_help", "line_of", "line_words"]

LENGTH_MAX: Final = 240
"""Panes a line may look back on; a window may be as long."""
DAYS_MAX: Final = 250
"""Trading days a line may look back on."""
CONSTANT_MAX: Final = 1e15


class LineKind(IntEnum):
    """What a line is; numbers for the kernel."""

    PRICE = 0
    CONST = 1
    """``value``."""
    AVERAGE = 2
    """The window's average, `ma_5min`: an SMA of WINDOW_DURATION's panes."""
    SMA = 3
    """Mean of the closes of the last ``length`` bars, the current one among them."""
    EMA = 4
    """Exponential mean of closes, weight 2 / (length + 1), begun with the mean of the first ``length``."""
    SESSION_VWAP = 5
    """Notional / volume of this trading day so far."""
    VWAP = 6
    """Notional / volume of the last ``length`` bars, the current one among them."""
    CLOSE = 7
    """Close of the pane ``length`` panes before the current one (carried over panes without a price), × ``factor``.
    Never across a closed market."""
    HIGH = 8
    """Highest high of the ``length`` bars before the current pane."""
    LOW = 9
    SESSION_HIGH = 10
    """Highest high of this trading day's trades before this one."""
    SESSION_LOW = 11
    DAYS_HIGH = 12
    """Highest high of the ``length`` trading days before this one."""
    DAYS_LOW = 13
    RSI = 14
    """Wilder's relative strength index of ``length`` closes: 0 to 100."""
    STOCHASTIC = 15
    """Where the price is between the lowest low and the highest high of ``length`` bars: 0 to 100."""
    UPPER = 16
    """Bollinger's band: SMA of ``length`` + ``factor`` standard deviations (of the population) of its closes."""
    LOWER = 17
    MACD = 18
    """EMA(``length``) - EMA(``length2``)."""
    VOLUME = 19
    """Volume of the pane in progress."""
    VOLUME_MEAN = 20
    """``factor`` × mean volume of up to ``length`` panes before that traded (``length2`` at least), or ``value``."""
    VOLUME_SAME_TIME = 21
    """``factor`` × mean volume of the panes at the same time of day on up to ``length`` trading days before that had
    one, ``length2`` at least; ``value`` if less."""


class Line(NamedTuple):
    """A line as the kernel knows it. What a kind does not use is as it is here."""

    kind: LineKind
    length: int = 0
    length2: int = 0
    factor: float = 1.0
    value: float = math.inf


class _Form(NamedTuple):
    """How a line is written: its arguments (``n`` panes, ``d`` days, ``k`` a number, ``c`` a factor), and in words."""

    kind: LineKind
    arguments: str
    words: str
    defaults: tuple[float, ...] = ()


LINES: Final[dict[str, tuple[_Form, ...]]] = {
    "price": (_Form(LineKind.PRICE, "", "price"),),
    "average": (_Form(LineKind.AVERAGE, "", "moving average"),),
    "sma": (_Form(LineKind.SMA, "n", "SMA {}"),),
    "ema": (_Form(LineKind.EMA, "n", "EMA {}"),),
    "vwap": (_Form(LineKind.SESSION_VWAP, "", "VWAP of the day"), _Form(LineKind.VWAP, "n", "VWAP {}")),
    "close": (_Form(LineKind.CLOSE, "n", "close {} bars ago"),),
    "high": (
        _Form(LineKind.SESSION_HIGH, "", "high of the day"),
        _Form(LineKind.HIGH, "n", "high of {} bars"),
        _Form(LineKind.DAYS_HIGH, "d", "high of {} days"),
    ),
    "low": (
        _Form(LineKind.SESSION_LOW, "", "low of the day"),
        _Form(LineKind.LOW, "n", "low of {} bars"),
        _Form(LineKind.DAYS_LOW, "d", "low of {} days"),
    ),
    "upper": (_Form(LineKind.UPPER, "nk", "upper band {}"),),
    "lower": (_Form(LineKind.LOWER, "nk", "lower band {}"),),
    "rsi": (_Form(LineKind.RSI, "n", "RSI {}"),),
    "stochastic": (_Form(LineKind.STOCHASTIC, "n", "stochastic {}"),),
    "macd": (_Form(LineKind.MACD, "nn", "MACD {}"),),
}
"""Every line by its name; several forms of one name differ by their arguments."""
INDICATORS: Final = ("rsi", "stochastic", "macd")
"""Lines that are no prices: these are compared with a number, not with a price."""

_WRITTEN: Final = re.compile(r"([a-z]+)(?:\(([^()]*)\))?")
_NUMBER: Final = re.compile(r"[+-]?\d{1,16}(?:\.\d{1,10})?")
_PANES: Final = re.compile(r"\d{1,4}")
_DAYS: Final = re.compile(r"(\d{1,4})d")
_SHOWN: Final = {"": "{0}", "n": "{0}(20)", "d": "{0}(20d)", "nk": "{0}(20, 2)", "nn": "{0}(12, 26)"}


def line_help(names: tuple[str, ...] = tuple(LINES)) -> str:
    """How the lines may be written, for a message: ``price, average, sma(20), …``."""
    return ", ".join(_SHOWN[form.arguments].format(name) for name in names for form in LINES[name])


def line_of(text: str) -> Line:
    """The line that ``text`` writes. Raises ValueError with what is allowed.

    >>> line_of("sma(50)").length, line_of("high(20d)").kind.name, line_of("190.5").value
    (50, 'DAYS_HIGH', 190.5)
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return Line(LineKind.CONST, value=float(text))
    written = _WRITTEN.fullmatch(text)
    if written is None or written[1] not in LINES:
        raise ValueError(f"expected a number or one of {line_help()}")
    name, inside = written[1], written[2]
    if inside is not None and not inside.strip():
        raise ValueError(f"expected {line_help((name,))}")
    arguments = [] if inside is None else [part.strip() for part in inside.split(",")]
    for form in LINES[name]:
        if len(form.arguments) == len(arguments) and all(map(_fits, form.arguments, arguments)):
            return _line(name, form, arguments)
    raise ValueError(f"expected {line_help((name,))}")


def line_text(text: str) -> str:
    """The one way to write the line that ``text`` writes: what rules hold. Raises ValueError as `line_of`.

    >>> line_text(" macd( 12,26 )"), line_text("+190.50"), line_text("high(20d)")
    ('macd(12, 26)', '190.5', 'high(20d)')
    """
    line = line_of(text)
    if line.kind is LineKind.CONST:
        return f"{line.value:.16g}"
    return re.sub(r"\s*,\s*", ", ", re.sub(r"\(\s+|\s+\)", lambda found: found[0].strip(), text.strip()))


def line_words(text: str) -> str:
    """The line in words, for a person.

    >>> line_words("sma(50)"), line_words("vwap"), line_words("190.5"), line_words("high(20d)")
    ('SMA 50', 'VWAP of the day', '190.5', 'high of 20 days')
    """
    line = line_of(text)
    if line.kind is LineKind.CONST:
        return f"{line.value:.16g}"
    name, _, inside = text.partition("(")
    form = next(form for form in LINES[name.strip()] if form.kind is line.kind)
    return form.words.format(inside.rstrip(") ").strip().removesuffix("d"))


def _fits(argument: str, written: str) -> bool:
    pattern = {"n": _PANES, "d": _DAYS, "k": _NUMBER}[argument]
    return pattern.fullmatch(written) is not None


def _line(name: str, form: _Form, arguments: list[str]) -> Line:
    """Raises ValueError when a number is out of its bounds."""
    if form.arguments == "":
        return Line(form.kind)
    if form.arguments == "d":
        return Line(form.kind, length=_bounded(name, "days", int(arguments[0][:-1]), 1, DAYS_MAX))
    least = 2 if form.kind in (LineKind.RSI, LineKind.STOCHASTIC, LineKind.UPPER, LineKind.LOWER) else 1
    length = _bounded(name, "panes", int(arguments[0]), least, LENGTH_MAX)
    if form.arguments == "nk":
        factor = float(arguments[1])
        if not 0 < factor <= 10:
            raise ValueError(f"expected more than 0 and at most 10 deviations in {name}")
        return Line(form.kind, length, factor=factor)
    if form.arguments == "nn":
        slow = _bounded(name, "panes", int(arguments[1]), 1, LENGTH_MAX)
        if slow <= length:
            raise ValueError(f"expected the second length of {name} to be the longer one")
        return Line(form.kind, length, slow)
    return Line(form.kind, length)


def _bounded(name: str, what: str, number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ValueError(f"expected {least} to {most} {what} in {name}")
    return number
