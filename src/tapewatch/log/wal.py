"""Is SQLite's write-ahead log torn, as a crash leaves it, or damaged?

SQLite reads its `-wal` file up to the first frame whose checksum fails and drops the rest without a word. That is right
after a crash, where only the transaction in flight can be torn, and wrong after damage, where acknowledged
transactions follow. So the log looks for itself, before SQLite may recover the file and write over it.

A frame's checksum continues the one stored in the frame before it. So a frame can be told to be whole although
an earlier one is not:

    frame      0   1   2   3   4   5
    commit         c       c       c
    whole      +   +   -   +   +   +      3 ends the damaged transaction, 5 is a later, acknowledged one: damaged
    whole      +   +   -   +              the transaction in flight, or the last acknowledged one: see below

A transaction begins only when the one before it is durable. So a bad frame with a whole later transaction behind it is
damage. What cannot be told apart here: a torn and a damaged *last* transaction (and the last two, if the damage hit
the head of the frame that ends the first of them). The end mark (`files`) and the caller's ``expect_end`` can.

The file's header is synced before any frame is written, so a bad header with whole frames behind it is damage too.

Pure: no I/O, no clock, no random number. The format is https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES: Final = 4096
"""The page size the log's database is made with."""
HEADER_BYTES: Final = 32
FRAME_BYTES: Final = 24 + PAGE_BYTES
_MAGIC_LITTLE: Final = 0x377F0682
_MAGIC_BIG: Final = 0x377F0683
_CHUNK_FRAMES: Final = 1024


class WalReport(NamedTuple):
    """What a `-wal` file holds."""

    frames: int
    """Frames up to the last whole commit: what SQLite will recover."""
    torn: int
    """Frames of the same generation after it: a transaction cut short, which SQLite will drop."""
    damaged: int | None
    """The first bad frame (-1: the header) that acknowledged transactions follow; None without damage."""


def inspect(wal: bytes) -> WalReport:
    """Judge the content of a `-wal` file; an empty one is in order."""
    if len(wal) < HEADER_BYTES:
        return WalReport(0, 0, None)
    frames = _Frames.read(wal)
    if not frames.header_is_whole:
        return WalReport(0, len(frames.whole), -1 if frames.whole.any() else None)
    bad = _first(~frames.whole)
    committed = int(np.flatnonzero(frames.commits[:bad])[-1]) + 1 if frames.commits[:bad].any() else 0
    boundary = bad + _first(frames.commits[bad:])
    later = (frames.whole & frames.commits)[boundary + 1 :].any()
    return WalReport(committed, int(frames.same[committed:].sum()), bad if later else None)


def committed_pages(wal: bytes) -> dict[int, list[memoryview]]:
    """The pages of all whole frames of transactions that were committed, by page number, oldest first.

    A transaction counts if its last frame is whole; an append that failed never got that far.
    """
    pages: dict[int, list[memoryview]] = {}
    if len(wal) < HEADER_BYTES:
        return pages
    frames = _Frames.read(wal)
    content = memoryview(wal)
    start = 0
    for stop in (np.flatnonzero(frames.commits) + 1).tolist():
        if frames.whole[stop - 1]:
            for i in range(start, stop):
                if frames.whole[i]:
                    at = HEADER_BYTES + i * FRAME_BYTES + 24
                    pages.setdefault(int(frames.numbers[i]), []).append(content[at : at + PAGE_BYTES])
        start = stop
    return pages


def generation(header: bytes) -> bytes:
    """The salts: they change whenever the writer starts the file anew."""
    return header[16:24]


class _Frames(NamedTuple):
    """The frames of a `-wal` file, column by column."""

    header_is_whole: bool
    numbers: NDArray[np.uint32]
    """Page numbers."""
    same: NDArray[np.bool_]
    """It is of the file's present generation, not left over from the one before."""
    whole: NDArray[np.bool_]
    """And its checksum continues the one stored before it."""
    commits: NDArray[np.bool_]
    """And it says that it is the last of a transaction."""

    @staticmethod
    def read(wal: bytes) -> _Frames:
        header = np.frombuffer(wal, ">u4", 8).astype(np.uint32)
        big = int(header[0]) == _MAGIC_BIG
        sums = _checksums(wal[:24], 1, 24, np.zeros((1, 2), np.uint32), big)[0]
        header_is_whole = int(header[0]) in (_MAGIC_LITTLE, _MAGIC_BIG) and np.array_equal(sums, header[6:8])
        fields = _fields(wal)
        whole = _whole(wal, fields, header[6:8], big)
        salts = header[4:6]
        if not header_is_whole:
            whole |= _whole(wal, fields, header[6:8], not big)
            salts = fields[_first(whole), 2:4] if whole.any() else salts
        same = (fields[:, 2:4] == salts).all(axis=1)
        return _Frames(header_is_whole, fields[:, 0], same, whole & same, same & (fields[:, 1] != 0))


def _fields(wal: bytes) -> NDArray[np.uint32]:
    """Page number, size after commit (0: no commit), two salts and two checksums of every frame."""
    count = (len(wal) - HEADER_BYTES) // FRAME_BYTES
    frames = np.frombuffer(wal, np.uint8, count * FRAME_BYTES, HEADER_BYTES).reshape(count, FRAME_BYTES)
    return np.ascontiguousarray(frames[:, :24]).view(">u4").astype(np.uint32)


def _whole(wal: bytes, fields: NDArray[np.uint32], first: Any, big: bool) -> NDArray[np.bool_]:
    """Which frames have the checksum that continues the one stored before them."""
    count = len(fields)
    seeds = np.concatenate([first[None], fields[:-1, 4:6]]) if count else np.zeros((0, 2), np.uint32)
    result = np.zeros(count, bool)
    frames = np.frombuffer(wal, np.uint8, count * FRAME_BYTES, HEADER_BYTES).reshape(count, FRAME_BYTES)
    for start in range(0, count, _CHUNK_FRAMES):
        rows = slice(start, min(start + _CHUNK_FRAMES, count))
        summed = np.concatenate([frames[rows, :8], frames[rows, 24:]], axis=1)
        sums = _checksums(summed.tobytes(), len(summed), summed.shape[1], seeds[rows], big)
        result[rows] = (sums == fields[rows, 4:6]).all(axis=1)
    return result


def _checksums(data: bytes, count: int, size: int, seeds: NDArray[np.uint32], big: bool) -> NDArray[np.uint32]:
    """SQLite's checksum of each of ``count`` rows of ``size`` bytes, continuing its seed.

    One step takes two words x, y: s0 += x + s1; s1 += y + s0 (modulo 2**32). It is linear, so the sum is
    a product with weights that depend on the place of a word alone.
    """
    words = np.frombuffer(data, ">u4" if big else "<u4").astype(np.uint32).reshape(count, size // 4)
    weights, power = _weights(size // 8)
    return words @ weights + seeds @ power


@cache
def _weights(steps: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """For words (2 * steps, 2) and for the seed (2, 2)."""
    step = np.array([[1, 1], [1, 2]], np.uint32)  # row vector (s0, s1) times this is one step without words
    words = np.array([[1, 1], [0, 1]], np.uint32)  # and what x and y add to (s0, s1)
    weights = np.empty((steps, 2, 2), np.uint32)
    power = np.eye(2, dtype=np.uint32)
    for i in range(steps - 1, -1, -1):
        weights[i] = words @ power
        power = step @ power
    return weights.reshape(2 * steps, 2), power


def _first(flags: NDArray[np.bool_]) -> int:
    """Place of the first true one; the length if there is none."""
    return int(np.argmax(flags)) if flags.any() else len(flags)
