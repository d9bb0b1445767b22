"""The rows of a damaged SQLite database, page by page.

SQLite finds a row by going down a tree; one damaged page near the root hides all that is below. `repair` must not
lose a month to one bit, so it asks every page by itself: a leaf of a table names its rows, and a row is believed when
its own checksum says so (`blocks`). Nothing else of the file's structure has to be whole.

    page     kind (13: leaf of a table) · number of cells at +3 · places of the cells from +8 on
    cell     length · rowid · as much of the record as fits · number of the page where it goes on
    record   length of its head · a type per column · the columns

A page may be there several times: in the database and, newer, in the write-ahead log. Each is asked; where rows go on
in other pages, the newest ones are tried first, then the database's own.

Pure: no I/O, no clock, no random number. The format is https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from tapewatch.log.wal import PAGE_BYTES

Value = int | bytes | None
Row = tuple[Value, ...]

_LEAF: Final = 13
_FIRST_PAGE_HEAD: Final = 100
_LOCAL_MAX: Final = PAGE_BYTES - 35
_LOCAL_MIN: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
_INTEGER_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
RECORD_BYTES_MAX: Final = 512 * 1024 * 1024


class _Unreadable(Exception):
    """Bytes that are no cell or record."""


class Pages(NamedTuple):
    """All there is of a database: its file, and whole frames of its write-ahead log by page number, oldest first."""

    main: memoryview
    frames: Mapping[int, Sequence[memoryview]]

    def versions(self, number: int) -> list[memoryview]:
        """Every version of page ``number`` (from 1), newest first."""
        own = self.main[(number - 1) * PAGE_BYTES : number * PAGE_BYTES] if number > 0 else self.main[:0]
        return [*reversed(self.frames.get(number, ())), *([own] if len(own) == PAGE_BYTES else [])]

    def numbers(self) -> Iterator[int]:
        """Every page number there is."""
        count = len(self.main) // PAGE_BYTES
        yield from range(1, count + 1)
        yield from (n for n in self.frames if n > count)


def find_rows(pages: Pages) -> Iterator[Row]:
    """Every row of every table of every version of every page, as far as it can be read: (rowid, columns…).

    A row may come several times, in different versions and with bytes that are not its own: check each.
    """
    for number in pages.numbers():
        for page in pages.versions(number):
            yield from _rows_of_page(page, _FIRST_PAGE_HEAD if number == 1 else 0, pages)


def _rows_of_page(page: memoryview, head: int, pages: Pages) -> Iterator[Row]:
    if page[head] != _LEAF:
        return
    cells = int.from_bytes(page[head + 3 : head + 5], "big")
    for i in range(min(cells, PAGE_BYTES // 4)):
        at = head + 8 + 2 * i
        place = int.from_bytes(page[at : at + 2], "big")
        for newest in (True, False):
            try:
                yield _row(page, place, partial(_continuation, pages, newest))
            except _Unreadable:
                continue


def _continuation(pages: Pages, newest: bool, number: int) -> memoryview:
    versions = pages.versions(number)
    if not versions:
        raise _Unreadable
    return versions[0 if newest else -1]


def _row(page: memoryview, place: int, follow: Callable[[int], memoryview]) -> Row:
    length, at = _varint(page, place)
    rowid, at = _varint(page, at)
    if length > RECORD_BYTES_MAX:
        raise _Unreadable
    local = length
    if length > _LOCAL_MAX:
        local = _LOCAL_MIN + (length - _LOCAL_MIN) % (PAGE_BYTES - 4)
        local = local if local <= _LOCAL_MAX else _LOCAL_MIN
    record = bytearray(page[at : at + local])
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    while len(record) < length:
        overflow = follow(following)
        record += overflow[4 : 4 + length - len(record)]
        following = int.from_bytes(overflow[:4], "big")
    return (_signed(rowid), *_columns(memoryview(record)))


def _columns(record: memoryview) -> list[Value]:
    size, at = _varint(record, 0)
    if size > len(record):
        raise _Unreadable
    place = size
    values: list[Value] = []
    while at < size:
        kind, at = _varint(record, at)
        length = _INTEGER_BYTES.get(kind, max(kind - 12, 0) // 2)
        content = bytes(record[place : place + length])
        if len(content) < length:
            raise _Unreadable
        place += length
        if kind in _INTEGER_BYTES:
            values.append(int.from_bytes(content, "big", signed=True))
        elif kind in (8, 9):
            values.append(kind - 8)
        else:
            values.append(content if kind >= 12 and kind % 2 == 0 else None)
    return values


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer at ``at`` and the place after it."""
    value = 0
    for i in range(9):
        if at + i >= len(data):
            raise _Unreadable
        byte = data[at + i]
        if i == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    raise AssertionError("a varint has nine bytes at most")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
