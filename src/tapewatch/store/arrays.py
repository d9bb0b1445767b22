"""NumPy columns as PostgreSQL arrays in binary form, made by NumPy itself.

psycopg turns a list into an array one Python object at a time (about 0.5 µs an element); here a column of numbers is
one structured array of (length, big-endian value) pairs, copied once. So the values reach the server bit for bit.

    header   dimensions, has nulls, element type, elements, lower bound     5 x int32
    element  length in bytes, value                                         int32, bytes

Numbers never hold nulls: unknown is NaN, which the statements turn into null (``NULLIF(x, 'NaN')``), and a time that is
not known is `NO_TIME`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper, PyFormat
from psycopg.pq import Format

__all__ = ["Bools", "Column", "Float8s", "Int8s", "Texts", "Times", "register", "times_from_ms", "times_from_ns"]

_HEADER: Final = struct.Struct("!iiIii")
_EPOCH_2000_US: Final = 946_684_800_000_000
_END_US: Final = 9_224_318_016_000_000_000
"""The first Unix µs that PostgreSQL cannot hold."""
_NO_TIME_US: Final = np.iinfo(np.int64).min
"""What PostgreSQL holds for ``'-infinity'``; the statements turn it into null."""


class Column:
    """One array parameter: ``data`` is its binary form, whole."""

    __slots__ = ("data",)
    array_oid = 0
    element_oid = 0
    wire = ""

    def __init__(self, values: NDArray[Any]) -> None:
        elements = np.empty(len(values), dtype=[("length", ">i4"), ("value", self.wire)])
        elements["length"] = elements.dtype["value"].itemsize
        elements["value"] = values
        self.data = _HEADER.pack(1, 0, self.element_oid, len(values), 1) + elements.tobytes()


class Float8s(Column):
    """``float8[]``"""

    __slots__ = ()
    array_oid, element_oid, wire = 1022, 701, ">f8"


class Int8s(Column):
    """``int8[]``"""

    __slots__ = ()
    array_oid, element_oid, wire = 1016, 20, ">i8"


class Bools(Column):
    """``bool[]``"""

    __slots__ = ()
    array_oid, element_oid, wire = 1000, 16, "?"


class Times(Column):
    """``timestamptz[]``, from `times_from_ms` or `times_from_ns`."""

    __slots__ = ()
    array_oid, element_oid, wire = 1185, 1184, ">i8"


class Texts(Column):
    """``text[]``, from strings. What is no text for PostgreSQL (a NUL, half a surrogate) is refused there, not here."""

    __slots__ = ()
    array_oid, element_oid = 1009, 25

    def __init__(self, values: Iterable[str]) -> None:
        packed: dict[str, bytes] = {}
        elements = [packed.get(value) or packed.setdefault(value, _pack_text(value)) for value in values]
        self.data = _HEADER.pack(1, 0, self.element_oid, len(elements), 1) + b"".join(elements)


def times_from_ms(unix_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """PostgreSQL's µs since 2000. A time at or before 1970, or beyond PostgreSQL's year 294276, is not known."""
    return _since_2000(unix_ms, 1_000)


def times_from_ns(unix_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same from ns, cut to whole µs."""
    return _since_2000(unix_ns // 1_000, 1)


def _since_2000(unix: NDArray[np.int64], us_per_unit: int) -> NDArray[np.int64]:
    known = (unix > 0) & (unix < _END_US // us_per_unit)
    since = np.where(known, unix, 0) - _EPOCH_2000_US // us_per_unit
    return np.where(known, since * us_per_unit, _NO_TIME_US)


def _pack_text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("!i", len(data)) + data


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> Buffer | None:
        return obj.data

    def get_key(self, obj: Column, format: PyFormat) -> type:
        return type(obj)


def register(context: AdaptContext) -> None:
    """Teach a connection the columns of this module."""
    for kind in (Float8s, Int8s, Bools, Times, Texts):
        dumper = type(f"{kind.__name__}Dumper", (_ColumnDumper,), {"oid": kind.array_oid})
        context.adapters.register_dumper(kind, dumper)
