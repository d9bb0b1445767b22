"""Keys of lanes that Spark's hash spreads evenly: each to a task of its own.

Keys 0, 1 and 2 of three lanes would come to two tasks, and one lane would wait for another in every batch.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from itertools import count
from typing import Final

__all__ = ["lane_keys"]

_SEED: Final = 42


def lane_keys(lanes: int) -> list[int]:
    """A key for each lane, of which Spark's hash sends one to each of ``lanes`` tasks.

    >>> lane_keys(3)
    [0, 1, 11]
    """
    keys: dict[int, int] = {}
    for key in count():
        keys.setdefault(_hash(key) % lanes, key)
        if len(keys) == lanes:
            return [keys[task] for task in range(lanes)]
    raise AssertionError("count() never ends")


def _hash(key: int) -> int:
    """Spark's `hash` of an INT: Murmur3 of its four bytes, as a signed number."""
    mixed = _rotated(key * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF
    mixed = (_rotated(_SEED ^ mixed, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    mixed ^= 4
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    mixed ^= mixed >> 16
    return mixed - (mixed >> 31 << 32)


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> 32 - bits) & 0xFFFFFFFF
