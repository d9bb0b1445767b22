"""Bits flip anywhere in the log's files: what was acknowledged is read back identical, or the log says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from log_making import some_tables, trades
from tapewatch.errors import LogCorrupt, LogError
from tapewatch.log.files import LogFiles
from tapewatch.log.local import LogReader, LogWriter
from tapewatch.log.wal import FRAME_BYTES, HEADER_BYTES, PAGE_BYTES
from tapewatch.records import COLUMNS, Batch, Origin


class Stride(NamedTuple):
    """Every how many bytes one is tried. Where ``data`` is over 1, all bytes of headers are."""

    data: int
    zero: int


SMALL = (3, 1, 8)
LARGE = (60, 250, 2)
"""Records of each append; 250 do not fit into one page."""


def make_log(folder: Path, sizes: Sequence[int], *, killed: bool) -> LogFiles:
    """A log of a few appends and, if it was closed, a merge; or one as ``kill -9`` leaves it."""
    folder.mkdir(exist_ok=True)
    files = LogFiles(folder / "log.db")
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE) as writer:
        for size in sizes[:-1]:
            writer.append(trades(size, writer.end))
        if not killed:
            assert writer.compact() == len(sizes) - 1
        writer.append(trades(sizes[-1], writer.end))
        if killed:
            copy = folder / "killed"
            copy.mkdir()
            for path in (files.path, files.wal, files.mark):
                shutil.copy(path, copy)
            return LogFiles(copy / "log.db")
    return files


def read_all(path: Path) -> list[bytes]:
    """All records, verified, as one string of bytes a column; quick to compare, since thousands of times."""
    with LogReader.open(path, some_tables()) as reader:
        at = reader.first
        batches = []
        while len(batch := reader.read(at, 1_000)):
            assert batch.offset == at
            batches.append(batch)
            at += len(batch)
    whole = Batch.join(batches)
    return [*(getattr(whole, name).tobytes() for name in COLUMNS), "\n".join(whole.ids).encode()]


def good_records(count: int) -> list[bytes]:
    """What `read_all` gives for the first ``count`` records."""
    batch = trades(count)
    return [*(getattr(batch, name).tobytes() for name in COLUMNS), "\n".join(batch.ids).encode()]


def is_header(file: Path, place: int) -> bool:
    """Whether SQLite finds its way by that byte: a head of the file, of a frame or of a page."""
    if not file.name.endswith("-wal"):
        return place < 100 or place % PAGE_BYTES < 12
    return place < HEADER_BYTES or (place - HEADER_BYTES) % FRAME_BYTES < FRAME_BYTES - PAGE_BYTES + 12


def flips(file: Path, bit: int | None, stride: Stride) -> Iterator[int]:
    """Flip one bit of one byte after the other, as far apart as ``stride`` says. None: any bit."""
    original = file.read_bytes()
    for place, byte in enumerate(original):
        apart = 1 if is_header(file, place) and stride.data > 1 else stride.data if byte else stride.zero
        if place % apart == 0:
            flipped = bytearray(original)
            flipped[place] ^= 1 << (place * 5 % 8 if bit is None else bit)
            file.write_bytes(flipped)
            yield place
    file.write_bytes(original)


def contents(files: LogFiles) -> list[bytes]:
    """The bytes that hold the log; an empty write-ahead log is as good as none."""
    return [content for path in (files.path, files.wal) if path.exists() and (content := path.read_bytes())]


class Flipped:
    """Tries every flip on a log, reading it and (every ``write_every``-th time) writing to it."""

    def __init__(self, files: LogFiles, records: int, write_every: int) -> None:
        self.files = files
        self.records = records
        self.good = good_records(records)
        assert read_all(files.path) == self.good
        self.write_every = write_every
        self.tried = 0
        self.noticed: list[int] = []
        """The bytes whose flip was noticed while reading."""

    def run(self, file: Path, bit: int | None, stride: Stride) -> None:
        for place in flips(file, bit, stride):
            self.tried += 1
            try:
                assert read_all(self.files.path) == self.good, f"{file.name}: byte {place}, bit {bit}: wrong data"
            except LogError:
                self.noticed.append(place)
            if self.tried % self.write_every == 0:
                self.write(f"{file.name}: byte {place}, bit {bit}")

    def write(self, what: str) -> None:
        """Appending to the flipped log: refused without a trace, or everything is there and the new records too."""
        copy = LogFiles(self.files.path.parent.parent / f"{self.files.path.parent.name}-copy" / "log.db")
        shutil.rmtree(copy.path.parent, ignore_errors=True)
        shutil.copytree(self.files.path.parent, copy.path.parent)
        before = contents(copy)
        try:
            writer = LogWriter.open(copy.path, some_tables(), origin=Origin.LIVE, expect_end=self.records)
        except LogError:
            assert contents(copy) == before, what
            return
        with suppress(LogError):
            with writer:
                writer.append(trades(5, self.records))
            assert read_all(copy.path) == good_records(self.records + 5), what


SLOW = [pytest.mark.slow, pytest.mark.timeout(1_800)]
ALL = os.environ.get("TAPEWATCH_FLIPS") == "all"
CASES = [
    pytest.param(SMALL, None, Stride(29, 499), 40, id="fast"),
    pytest.param(SMALL, None, Stride(1, 1), 100, id="small", marks=SLOW),
    *(
        pytest.param(LARGE, bit, Stride(1, 1) if ALL else Stride(13, 97), 25, id=f"large-{bit}", marks=SLOW)
        for bit in (range(8) if ALL else [None])
    ),
]
"""Of every byte of a small log one bit is flipped, of the next the next, and of some bytes of a larger log.
`TAPEWATCH_FLIPS=all`: of the larger log every bit of every byte."""


@pytest.mark.parametrize(("sizes", "bit", "stride", "write_every"), CASES)
def test_flips_in_the_database(
    tmp_path: Path, sizes: Sequence[int], bit: int | None, stride: Stride, write_every: int
) -> None:
    files = make_log(tmp_path / "log", sizes, killed=False)
    trial = Flipped(files, sum(sizes), write_every)
    trial.run(files.path, bit, stride)
    assert trial.tried > 2_000 // stride.data
    assert len(trial.noticed) > 400 // stride.data


@pytest.mark.parametrize(("sizes", "bit", "stride", "write_every"), CASES)
def test_flips_in_the_write_ahead_log(
    tmp_path: Path, sizes: Sequence[int], bit: int | None, stride: Stride, write_every: int
) -> None:
    files = make_log(tmp_path, sizes, killed=True)
    trial = Flipped(files, sum(sizes), write_every)
    trial.run(files.wal, bit, stride)
    assert len(trial.noticed) == trial.tried > 4_000 // stride.data


@pytest.mark.slow
def test_flips_in_the_end_mark_change_nothing(tmp_path: Path) -> None:
    files = make_log(tmp_path / "log", SMALL, killed=False)
    trial = Flipped(files, sum(SMALL), 20)
    for bit in range(8):
        trial.run(files.mark, bit, Stride(1, 64))
    assert trial.tried > 500
    assert trial.noticed == []


@pytest.mark.slow
def test_without_the_end_mark_only_the_end_can_go_unnoticed(tmp_path: Path) -> None:
    """The limits that `log.wal` names, held to be no wider; ``expect_end`` closes them."""
    files = make_log(tmp_path, SMALL, killed=True)
    files.mark.unlink()
    wal = files.wal.read_bytes()
    heads = [wal[at : at + 24] for at in range(HEADER_BYTES, len(wal), FRAME_BYTES)]
    *_, ends_before_last, _ = (i for i, head in enumerate(heads) if any(head[4:8]))  # frames that end a transaction
    unnoticed = set()
    for place in flips(files.wal, None, Stride(1, 1024)):
        try:
            found = read_all(files.path)
        except LogError:
            continue
        frame, byte = divmod(place - HEADER_BYTES, FRAME_BYTES)
        unnoticed.add(frame)
        if frame == ends_before_last:
            assert 4 <= byte < 16
            assert found == good_records(SMALL[0])
        else:
            assert frame > ends_before_last
            assert found == good_records(SMALL[0] + SMALL[1])
        if place % 10 == 0:
            with pytest.raises(LogCorrupt, match=f"records up to {sum(SMALL)} were acknowledged"):
                LogWriter.open(files.path, some_tables(), origin=Origin.LIVE, expect_end=sum(SMALL))
    assert unnoticed
