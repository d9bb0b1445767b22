"""Names to numbers for compiled code: a hash table of three-word keys, and the keys of symbols and condition lists.

A key is the name itself, not a hash of it, so two names are never taken for one; a symbol's key has its market too,
since two markets may know one name. Names that do not fit have no key.

    symbol        bytes 1 to 8        bytes 9 to 16        market, bytes 17 to 23
    conditions    up to four codes    0                    0

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined

__all__ = [
    "CODES_MAX",
    "MARKET_SHIFT",
    "NUMBER",
    "SYMBOL_BYTES_MAX",
    "NameTable",
    "codes_key",
    "find",
    "symbol_key",
    "word",
]

CODES_MAX: Final = 4
"""Longer condition lists have no key."""
SYMBOL_BYTES_MAX: Final = 23
"""Longer symbols have no key: as long as the name of an option."""
MARKET_SHIFT: Final = 56
"""Where a symbol's market is in the last word of its key."""
NUMBER: Final = 3
"""Where a row of a table has its number, behind the key."""
Key = tuple[int, int, int]


class NameTable:
    """Numbers by key, in an array that compiled code can read: each row a key and its number. At most half full."""

    def __init__(self) -> None:
        self.rows: NDArray[np.int64] = np.zeros((1 << 10, 4), np.int64)
        self._count = 0

    def add(self, key: Key, number: int) -> None:
        """Give a new key, whose first word is not 0, its number."""
        if 2 * self._count >= len(self.rows):
            rows = np.zeros((2 * len(self.rows), 4), np.int64)
            _put_all(rows, self.rows)
            self.rows = rows
        _put(self.rows, key[0], key[1], key[2], number)
        self._count += 1


def word(text: str) -> int:
    """Up to 8 ASCII characters as one positive number."""
    return int.from_bytes(text.encode(), "big")


def symbol_key(market: int, wire: str) -> Key | None:
    """The key of what a market calls ``wire``; None if it has none."""
    if not 0 < len(wire) <= SYMBOL_BYTES_MAX or not wire.isascii():
        return None
    return word(wire[:8]), word(wire[8:16]), market << MARKET_SHIFT | word(wire[16:])


def codes_key(codes: tuple[int, ...]) -> Key | None:
    """A condition list's key; None if it has none, as the empty list."""
    if not 0 < len(codes) <= CODES_MAX or not all(0 <= code < 2**15 - 1 for code in codes):
        return None
    return sum((code + 1) << 16 * at for at, code in enumerate(codes)), 0, 0


@inlined
def find(rows: NDArray[np.int64], first: int, second: int, third: int) -> int:
    """The slot that holds the key, or the free one where it would go. For compiled code."""
    mixed = first * 0x1E3779B97F4A7C15 ^ second * 0x42B2AE3D27D4EB4F ^ third * 0x165667B19E3779F9
    slot = (mixed ^ mixed >> 32) & (len(rows) - 1)
    while rows[slot, 0] != 0 and (rows[slot, 0] != first or rows[slot, 1] != second or rows[slot, 2] != third):
        slot = (slot + 1) & (len(rows) - 1)
    return slot


@compiled
def _put(rows: NDArray[np.int64], first: int, second: int, third: int, number: int) -> None:
    _set(rows, first, second, third, number)


@compiled
def _put_all(rows: NDArray[np.int64], old: NDArray[np.int64]) -> None:
    for at in range(len(old)):
        if old[at, 0] != 0:
            _set(rows, old[at, 0], old[at, 1], old[at, 2], old[at, NUMBER])


@inlined
def _set(rows: NDArray[np.int64], first: int, second: int, third: int, number: int) -> None:
    slot = find(rows, first, second, third)
    rows[slot, 0] = first
    rows[slot, 1] = second
    rows[slot, 2] = third
    rows[slot, NUMBER] = number
