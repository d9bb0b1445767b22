"""The smallest pieces of JSON, read from bytes by compiled code: names, strings, numbers, and values to pass over.

A position of -1 means: not one of ours. Reading never passes a NUL, so it stays in its frame.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final

from tapewatch.compiled import inlined
from tapewatch.feed.names import word

__all__ = ["EXPONENT", "FAIL", "MANTISSA", "name_at", "number", "packed", "skip", "space", "string"]

FAIL: Final = -1
MANTISSA, EXPONENT = range(2)
"""Where `number` puts what it has read, in a row of notes."""
_DIGITS_MAX: Final = 18
_QUOTE, _COMMA, _BACKSLASH, _OPEN_LIST, _CLOSE_LIST = 34, 44, 92, 91, 93
_TRUE, _FALSE, _NULL = word("true"), word("false"), word("null")
_Array = Any  # whose elements are plain numbers in compiled code


@inlined
def space(data: _Array, pos: int) -> int:
    while data[pos] == 32 or data[pos] == 10 or data[pos] == 13 or data[pos] == 9:
        pos += 1
    return pos


@inlined
def name_at(data: _Array, pos: int) -> tuple[int, int]:
    """A string's last 8 bytes as one number, and the position behind it. Those we know have 4 bytes at most."""
    if data[pos] != _QUOTE:
        return 0, FAIL
    word = 0
    pos += 1
    while data[pos] != _QUOTE:
        if data[pos] < 32 or data[pos] > 126 or data[pos] == _BACKSLASH:
            return 0, FAIL
        word = word << 8 | data[pos]
        pos += 1
    return word, pos + 1


@inlined
def packed(data: _Array, start: int, stop: int) -> int:
    """The last 8 of some bytes as one number."""
    word = 0
    for at in range(start, stop):
        word = word << 8 | data[at]
    return word


@inlined
def string(data: _Array, pos: int) -> int:
    """From a string's opening quote to its closing one; nothing but printable ASCII and no escape between them."""
    if data[pos] != _QUOTE:
        return FAIL
    pos += 1
    while data[pos] != _QUOTE:
        if data[pos] < 32 or data[pos] > 126 or data[pos] == _BACKSLASH:
            return FAIL
        pos += 1
    return pos


@inlined
def number(data: _Array, pos: int, notes: _Array, row: int) -> int:
    """A JSON number without a sign, as mantissa and power of ten."""
    first = pos
    mantissa = 0
    while 48 <= data[pos] <= 57:
        mantissa = mantissa * 10 + data[pos] - 48
        pos += 1
    digits = pos - first
    if digits == 0 or (digits > 1 and data[first] == 48):
        return FAIL
    exponent = 0
    if data[pos] == 46:  # a point
        point = pos
        pos += 1
        while 48 <= data[pos] <= 57:
            mantissa = mantissa * 10 + data[pos] - 48
            pos += 1
        exponent = point + 1 - pos
        digits -= exponent
        if exponent == 0:
            return FAIL
    if digits > _DIGITS_MAX:
        return FAIL
    if data[pos] == 101 or data[pos] == 69:  # e, E
        pos += 1
        sign = -1 if data[pos] == 45 else 1
        if data[pos] == 45 or data[pos] == 43:
            pos += 1
        first, power = pos, 0
        while 48 <= data[pos] <= 57:
            power = power * 10 + data[pos] - 48
            pos += 1
        if not 1 <= pos - first <= 2:
            return FAIL
        exponent += sign * power
    notes[row, MANTISSA], notes[row, EXPONENT] = mantissa, exponent
    return pos


@inlined
def skip(data: _Array, pos: int, notes: _Array, row: int) -> int:
    """A value that is not read: a scalar, or a flat list of such."""
    if data[pos] != _OPEN_LIST:
        return _skip_scalar(data, pos, notes, row)
    pos = space(data, pos + 1)
    if data[pos] == _CLOSE_LIST:
        return pos + 1
    while True:
        pos = _skip_scalar(data, pos, notes, row)
        if pos < 0:
            return FAIL
        pos = space(data, pos)
        if data[pos] == _CLOSE_LIST:
            return pos + 1
        if data[pos] != _COMMA:
            return FAIL
        pos = space(data, pos + 1)


@inlined
def _skip_scalar(data: _Array, pos: int, notes: _Array, row: int) -> int:
    if data[pos] == _QUOTE:
        stop = string(data, pos)
        return stop + 1 if stop >= 0 else FAIL
    first = pos
    while 97 <= data[pos] <= 122:
        pos += 1
    if pos > first:
        word = packed(data, first, pos)
        return pos if word in (_TRUE, _FALSE, _NULL) else FAIL
    return number(data, pos + 1 if data[pos] == 45 else pos, notes, row)
