"""The trading calendar in few bytes, as it goes to Spark's workers with every task of every batch.

The days of decades are a megabyte of evenly spaced 64-bit times; the differences of their bytes, compressed, are 20 kB.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from tapewatch.records import Market
from tapewatch.sessions import COLUMNS, Calendar, Sessions

__all__ = ["packed", "unpacked"]

_FILTERS: Final[list[Mapping[str, Any]]] = [
    {"id": lzma.FILTER_DELTA, "dist": 8},
    {"id": lzma.FILTER_LZMA2, "preset": 6},
]
_DECODER: Final = msgspec.msgpack.Decoder(dict[int, list[bytes]])


def packed(calendar: Calendar) -> bytes:
    """As bytes."""
    columns = {int(market): [getattr(days, name).tobytes() for name in COLUMNS] for market, days in calendar.items()}
    return lzma.compress(msgspec.msgpack.encode(columns), lzma.FORMAT_RAW, filters=_FILTERS)


@lru_cache(maxsize=1)
def unpacked(data: bytes) -> Calendar:
    """Inverse of `packed`; computed once in a worker, not once in a task."""
    columns = _DECODER.decode(lzma.decompress(data, lzma.FORMAT_RAW, filters=_FILTERS))
    return {
        Market(market): Sessions(*(np.frombuffer(one, np.int64).copy() for one in days))
        for market, days in columns.items()
    }
