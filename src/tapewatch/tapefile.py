"""A Massive trades flat file (csv or csv.gz), column by column.

The feed makes a batch of records from it and the simulator plays it; both read it here, so both mean the same trades.

Columns are found by the header's names, in any order. Needed: ticker, price, size, and sip_timestamp or (crypto has no
SIP) participant_timestamp. The others may be missing. Rows come out sorted by (time, sequence number, row in the file).

A row that cannot be read stops the reading with `InputError`, which names file, line, column and value. Two kinds of
row are read and left out, and counted by reason: what was cancelled or corrected away, and what carries no price.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapewatch.errors import InputError
from tapewatch.records import E8, SIZE_E8_MAX, Interner

ROWS_PER_BLOCK: Final = 16_384
"""Rows read at a time: bounds the memory that their text needs, whatever the file's size."""
TIME_NS_MIN: Final = 100_000_000_000_000_000
"""March 1973. A smaller number is not in nanoseconds."""
_I64_MAX: Final = 2**63 - 1
_I16_MAX: Final = 2**15 - 1
_KEPT_CORRECTIONS: Final = (0, 12)
"""A normal trade, and the record that replaces a corrected one."""


@dataclass(slots=True)
class TapeFile:
    """Trades of one or more files, sorted by (time, sequence, place in the files).

    ``ticker`` and ``conditions`` are numbers of values of the two interners. Times are Unix ns, sizes 1e-8 units.
    What the file does not say is 0, and ``participant_ns`` the row's own time. ``skipped`` counts the rows left out.
    """

    tickers: Interner
    condition_sets: Interner
    ticker: NDArray[np.int32]
    conditions: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    participant_ns: NDArray[np.int64]
    trf_ns: NDArray[np.int64]
    sequence: NDArray[np.int64]
    price: NDArray[np.float64]
    size_e8: NDArray[np.int64]
    exchange: NDArray[np.int16]
    trf: NDArray[np.int16]
    tape: NDArray[np.int16]
    ids: list[str]
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.time_ns)


def read_tape(paths: Iterable[Path], wanted: Callable[[str], bool] | None = None) -> TapeFile:
    """Read ``paths`` into one sorted tape, only the tickers for which ``wanted`` is true.

    Raises:
        InputError: a file is missing, is not what its name says, or holds a row that cannot be read.
    """
    reading = _Reading()
    for path in paths:
        with _opened(path) as rows:
            header = _header(path, rows)
            for cells, lines in _blocks(path, rows, header, wanted or (lambda ticker: True)):
                reading.add(path, header, cells, lines)
    return reading.finish()


def tickers_in(path: Path) -> list[str]:
    """The tickers of a file, sorted. Reads all of the file, but only this column. Raises as `read_tape`."""
    found: set[str] = set()

    def note(ticker: str) -> bool:
        found.add(ticker)
        return False

    with _opened(path) as rows:
        for _ in _blocks(path, rows, _header(path, rows), note):
            pass
    return sorted(found)


# --- values ----------------------------------------------------------------------------------------------------


def _time_or_none(text: str) -> int:
    if text in ("", "0"):
        return 0
    value = int(text)
    if not TIME_NS_MIN <= value <= _I64_MAX:
        raise ValueError(text)
    return value


def _small(text: str) -> int:
    value = int(text or 0)
    if not 0 <= value <= _I16_MAX:
        raise ValueError(text)
    return value


def _price(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value >= 0):
        raise ValueError(text)
    return value


def _size(text: str) -> int:
    """Exact to the last of eight decimals; a ninth is cut off."""
    try:
        size = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not (size.is_finite() and 0 <= size * E8 <= SIZE_E8_MAX):
        raise ValueError(text)
    return int(size * E8)


def _conditions(text: str) -> tuple[int, ...]:
    return tuple(_small(code) for code in text.split(",") if code)


def _ticker(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


class _Column(NamedTuple):
    """How to read a column whose texts repeat much: each different text of a block is read once."""

    parse: Callable[[str], Any]
    dtype: type[np.generic] | None
    allowed: str

    def values(self, texts: list[str]) -> list[Any]:
        """Raises ValueError if a text is not allowed."""
        read = {text: self.parse(text) for text in set(texts)}
        return list(map(read.__getitem__, texts))


class _Whole(NamedTuple):
    """How to read a column of whole numbers, hardly any of them twice."""

    low: int
    allowed: str
    dtype: type[np.generic] = np.int64

    def values(self, texts: list[str]) -> list[int]:
        """Raises ValueError if a text is not allowed."""
        read = list(map(int, texts))
        if min(read) < self.low or max(read) > _I64_MAX:
            raise ValueError(f"below {self.low}")
        return read


_NANOSECONDS: Final = "a time in Unix nanoseconds"
_SMALL: Final = f"a whole number from 0 to {_I16_MAX}"
_COLUMNS: Final[dict[str, _Column | _Whole]] = {
    "ticker": _Column(_ticker, None, "a ticker"),
    "conditions": _Column(_conditions, None, "condition codes separated by commas"),
    "correction": _Column(_small, np.int16, _SMALL),
    "exchange": _Column(_small, np.int16, _SMALL),
    "id": _Column(str, None, "a trade id"),
    "participant_timestamp": _Whole(TIME_NS_MIN, _NANOSECONDS),
    "price": _Column(_price, np.float64, "a number, 0 or more"),
    "sequence_number": _Whole(0, "a whole number"),
    "sip_timestamp": _Whole(TIME_NS_MIN, _NANOSECONDS),
    "size": _Column(_size, np.int64, f"a number from 0 to {SIZE_E8_MAX // E8}"),
    "tape": _Column(_small, np.int16, _SMALL),
    "trf_id": _Column(_small, np.int16, _SMALL),
    "trf_timestamp": _Column(_time_or_none, np.int64, f"{_NANOSECONDS}, 0 or nothing"),
}


# --- reading ---------------------------------------------------------------------------------------------------

Rows = Any
"""What `csv.reader` gives: an iterator of lists of strings that knows its ``line_num``."""


@contextmanager
def _opened(path: Path) -> Iterator[Rows]:
    """The rows of a file, header first."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a trades flat file") from None
    if path.suffix == ".gz" and not packed:
        raise InputError(f"{path}: is not a gzip file, though its name ends with .gz")
    opener: Any = gzip.open if packed else open
    with opener(path, "rt", encoding="utf-8", newline="") as text:
        rows = csv.reader(text)
        try:
            yield rows
        except EOFError:
            raise InputError(f"{path}: the gzip file is cut off after line {rows.line_num}; fetch it again") from None
        except (gzip.BadGzipFile, zlib.error, OSError) as error:
            raise InputError(f"{path}: the gzip file is damaged after line {rows.line_num} ({error})") from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: is not text in columns after line {rows.line_num} ({error})") from None


def _header(path: Path, rows: Rows) -> list[str]:
    header: list[str] = next(rows, [])
    missing = [name for name in ("ticker", "price", "size") if name not in header]
    if not {"sip_timestamp", "participant_timestamp"} & set(header):
        missing.append("sip_timestamp")
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; its first line is {','.join(header)[:200]!r}, "
            f"expected a trades flat file's header, such as {','.join(_COLUMNS)}"
        )
    return header


def _blocks(
    path: Path, rows: Rows, header: list[str], wanted: Callable[[str], bool]
) -> Iterator[tuple[list[str], list[int]]]:
    """The cells of the wanted rows, one after the other, and each row's line; a block of rows at a time.

    One flat list, since half a million short-lived lists would keep the garbage collector busier than the reading.
    """
    width, place = len(header), header.index("ticker")
    chosen: dict[str, bool] = {}
    cells: list[str] = []
    lines: list[int] = []
    for row in rows:
        if len(row) != width:
            if not row:
                continue
            raise InputError(f"{path}: line {rows.line_num} has {len(row)} columns, expected {width}")
        ticker = row[place]
        if ticker not in chosen:
            chosen[ticker] = wanted(ticker)
        if chosen[ticker]:
            cells += row
            lines.append(rows.line_num)
            if len(lines) == ROWS_PER_BLOCK:
                yield cells, lines
                cells, lines = [], []
    if lines:
        yield cells, lines


@dataclass(slots=True)
class _Reading:
    """The columns gathered so far, a list of arrays each."""

    tickers: Interner = field(default_factory=Interner)
    condition_sets: Interner = field(default_factory=lambda: Interner([()]))
    parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, path: Path, header: list[str], cells: list[str], lines: list[int]) -> None:
        """Read a block of rows."""
        width = len(header)
        texts = {name: cells[place::width] for place, name in enumerate(header)}
        try:
            columns = {
                name: texts[name] if name == "id" else how.values(texts[name])
                for name, how in _COLUMNS.items()
                if name in texts
            }
        except ValueError:
            raise _complaint(path, texts, lines) from None
        self._keep(len(lines), columns)

    def _keep(self, count: int, columns: dict[str, list[Any]]) -> None:
        none = np.zeros(count, np.int64)
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(columns[name], how.dtype) if name in columns else none
            for name, how in _COLUMNS.items()
            if how.dtype is not None
        }
        arrays["ticker"] = _numbered(self.tickers, columns["ticker"])
        conditions = columns.get("conditions") or [()] * count
        arrays["conditions"] = _numbered(self.condition_sets, conditions)
        if "sip_timestamp" not in columns:
            arrays["sip_timestamp"] = arrays["participant_timestamp"]
        if "participant_timestamp" not in columns:
            arrays["participant_timestamp"] = arrays["sip_timestamp"]
        ids = columns.get("id") or [""] * count

        corrected = ~np.isin(arrays["correction"], _KEPT_CORRECTIONS)
        priceless = (arrays["price"] == 0) & ~corrected
        self.skipped.update(f"correction {code}" for code in arrays["correction"][corrected].tolist())
        self.skipped.update({"no price": int(priceless.sum())} if priceless.any() else {})
        kept = np.flatnonzero(~(corrected | priceless))
        for name, array in arrays.items():
            self.parts.setdefault(name, []).append(array[kept])
        self.ids.extend(ids if len(kept) == count else [ids[row] for row in kept.tolist()])

    def finish(self) -> TapeFile:
        """All that was added, sorted."""
        columns = {
            name: np.concatenate(self.parts[name]) if self.parts else np.empty(0, np.int64)
            for name in [*(n for n, how in _COLUMNS.items() if how.dtype is not None), "ticker", "conditions"]
        }
        order = np.lexsort((columns["sequence_number"], columns["sip_timestamp"]))
        columns = {name: column[order] for name, column in columns.items()}
        return TapeFile(
            tickers=self.tickers,
            condition_sets=self.condition_sets,
            ticker=columns["ticker"].astype(np.int32, copy=False),
            conditions=columns["conditions"].astype(np.int32, copy=False),
            time_ns=columns["sip_timestamp"],
            participant_ns=columns["participant_timestamp"],
            trf_ns=columns["trf_timestamp"],
            sequence=columns["sequence_number"],
            price=columns["price"].astype(np.float64, copy=False),
            size_e8=columns["size"],
            exchange=columns["exchange"].astype(np.int16, copy=False),
            trf=columns["trf_id"].astype(np.int16, copy=False),
            tape=columns["tape"].astype(np.int16, copy=False),
            ids=[self.ids[row] for row in order.tolist()],
            skipped=dict(self.skipped),
        )


def _numbered(interner: Interner, values: list[Any]) -> NDArray[np.int32]:
    numbers = {value: interner.index(value) for value in dict.fromkeys(values)}
    return np.fromiter(map(numbers.__getitem__, values), np.int32, len(values))


def _complaint(path: Path, texts: dict[str, list[str]], lines: list[int]) -> InputError:
    """The error about the first cell of a block that cannot be read."""
    for row, line in enumerate(lines):
        for name in sorted(_COLUMNS.keys() & texts.keys()):
            how, text = _COLUMNS[name], texts[name][row]
            try:
                how.values([text])
            except ValueError:
                return InputError(f"{path}: line {line}, column {name}: {text!r} is not {how.allowed}")
    raise AssertionError(f"{path}: lines {lines[0]} to {lines[-1]} are refused, but every cell of them is good")
