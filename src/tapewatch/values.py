"""What a value from outside may be: prices, times, sizes, ids and condition codes, read from any JSON value.

Nothing here raises on what it is given: a value that cannot be used is None. As narrow as the tables, so that nothing
that is taken here is refused by the database later.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Container
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from tapewatch.records import SIZE_E8_MAX

TIME_MS_MIN: Final = 10**11
TIME_MS_MAX: Final = 10**13 - 1
"""Event times are Unix milliseconds between 1973 and 2286."""
_SECONDS_MIN: Final = TIME_MS_MIN // 1_000
_SECONDS_STOP: Final = (TIME_MS_MAX + 1) // 1_000
ID_LENGTH_MAX: Final = 64
CONDITIONS_MAX: Final = 16
OWN_CODES: Final = (-1, -2, -3)
"""Condition codes of our own in the log, for the parts of bars (`feed.conditions`). Never on the wire."""
PRICE_MAX: Final = 1e15
_INT16_MAX: Final = 2**15 - 1
_SIZE_TEXT_MAX: Final = 40
_SIZE: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?")


def parse_size_e8(size: str | int | float) -> int:
    """A size, exactly as printed, in units of 1e-8 (more digits are rounded); -1 if it is none or out of range.

    >>> parse_size_e8("100.0"), parse_size_e8("0.00000001"), parse_size_e8(0.1), parse_size_e8("-1"), parse_size_e8("x")
    (10000000000, 1, 10000000, -1, -1)
    """
    text = size if isinstance(size, str) else repr(size)
    if len(text) > _SIZE_TEXT_MAX or _SIZE.fullmatch(text) is None:
        return -1
    number = Decimal(text)
    if number.adjusted() > 12:
        return -1
    size_e8 = int(number.scaleb(8).to_integral_value(ROUND_HALF_EVEN))
    return size_e8 if size_e8 <= SIZE_E8_MAX else -1


def whole_of(value: Any) -> int | None:
    """A JSON number without a fraction, however it was printed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value // 1 else None


def small_of(value: Any) -> int | None:
    number = 0 if value is None else whole_of(value)
    return number if number is not None and 0 <= number <= _INT16_MAX else None


def price_of(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= PRICE_MAX:
        return None
    return float(value)


def time_ms_of(value: Any) -> int | None:
    """Unix milliseconds. Seconds, microseconds and nanoseconds are told by their size, and rounded down.

    The four units' numbers of the years 1973 to 2286 have no number in common; one between them is no time.

    >>> [time_ms_of(t) for t in (1767362400123, 1767362400123456789, 1767362400.123, 1767362400, 10**10, "1767362400")]
    [1767362400123, 1767362400123, 1767362400123, 1767362400000, None, None]
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and _SECONDS_MIN <= value < _SECONDS_STOP:
        return int(Decimal(repr(value)) * 1_000)
    number = whole_of(value)
    if number is None:
        return None
    for unit in (1, 1_000, 1_000_000):
        if TIME_MS_MIN <= number // unit <= TIME_MS_MAX:
            return number // unit
    return None


def size_e8_of(exact: Any, rounded: Any) -> int | None:
    """The size in 1e-8 units, from the exact decimal string (or a number in its place), else from the number."""
    size = rounded if exact is None else exact
    if isinstance(size, bool) or not isinstance(size, str | int | float):
        return None
    size_e8 = parse_size_e8(size)
    return size_e8 if size_e8 >= 0 else None


def trade_id_of(value: Any) -> str | None:
    if value is None:
        return ""
    if not isinstance(value, str):
        number = whole_of(value)
        if number is None or not -(2**63) <= number < 2**64:
            return None
        return str(number)
    return value if len(value) <= ID_LENGTH_MAX and (value == "" or value.isprintable()) else None


def condition_codes(value: Any, own: Container[int | None] = ()) -> tuple[int, ...] | None:
    """A condition list; a single number is a list of one. ``own`` codes of ours are taken too."""
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    codes = [number if (number := whole_of(item)) in own else small_of(item) for item in items if item is not None]
    if len(items) > CONDITIONS_MAX or None in codes:
        return None
    return tuple(code for code in codes if code is not None)
