"""Checking and repairing: nothing readable is left behind, and what is lost is told exactly."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log_making import rows, some_tables, trades
from tapewatch.errors import LogBusy, LogCorrupt, LogError
from tapewatch.log.files import LogFiles
from tapewatch.log.local import LogReader, LogWriter
from tapewatch.log.repair import check, plan, repair
from tapewatch.log.wal import PAGE_BYTES
from tapewatch.records import Origin

RECORDS = 3_000


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    """A log of 60 blocks, half of them merged, on about thirty pages."""
    files = LogFiles(tmp_path / "log" / "log.db")
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE) as writer:
        for _ in range(30):
            writer.append(trades(50, writer.end))
        writer.compact()
        for _ in range(30):
            writer.append(trades(50, writer.end))
    return files


def records_in(path: Path) -> dict[int, tuple[object, ...]]:
    """Every record the log gives, by offset."""
    tables = some_tables()
    found: dict[int, tuple[object, ...]] = {}
    with LogReader.open(path, tables) as reader:
        at = reader.first
        while len(batch := reader.read(at, 700)):
            found |= {int(str(row[0])): row for row in rows([batch], tables)}
            at = batch.offset + len(batch)
        assert at <= reader.end
        lost = {offset for first, stop in reader.lost_ranges for offset in range(first, stop)}
        assert set(found) == set(range(reader.first, reader.end)) - lost
    return found


def damage_block(files: LogFiles, first: int) -> None:
    with sqlite3.connect(files.path) as connection:
        connection.execute("UPDATE blocks SET data = zeroblob(40) WHERE first = ?", (first,))
    connection.close()


def test_check_of_a_whole_log(files: LogFiles) -> None:
    report = check(files.path)
    assert (report.first, report.end, report.records, report.problems, report.lost) == (0, RECORDS, RECORDS, (), ())
    assert report.size_bytes == files.size_bytes() > 20_000


def test_check_names_every_damaged_block_and_goes_on(files: LogFiles) -> None:
    damage_block(files, 1_600)
    damage_block(files, 2_950)
    with sqlite3.connect(files.path) as connection:
        connection.execute("DELETE FROM blocks WHERE first = 2000")
    connection.close()
    report = check(files.path)
    assert report.records == RECORDS - 150
    assert [problem.split(": ")[1] for problem in report.problems] == [
        "block [1600, +50) is damaged",
        "no block holds offset 2000",
        "block [2950, +50) is damaged",
    ]


def test_repair_keeps_offsets_tells_the_loss_and_the_log_goes_on(files: LogFiles) -> None:
    before = records_in(files.path)
    damage_block(files, 1_600)
    damage_block(files, 2_950)
    damaged = files.path.read_bytes()
    report = repair(files.path)
    assert report.lost == ((1_600, 1_650), (2_950, 3_000))
    assert (report.records, report.records_lost, report.end) == (RECORDS - 100, 100, RECORDS)
    assert report.aside is not None
    assert report.aside.name == "log.db.damaged-1"
    assert report.aside.read_bytes() == damaged
    after = records_in(files.path)
    assert after == {offset: before[offset] for offset in after}
    assert len(after) == report.records
    with LogReader.open(files.path, some_tables()) as reader:
        assert reader.read(1_590, 100).ids == [str(i) for i in range(1_590, 1_600)]
        assert reader.read(1_600, 2).offset == 1_650
        assert (len(reader.read(2_960)), reader.read(2_960).offset) == (0, RECORDS)
        assert reader.find_time(0) == 0
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE, expect_end=RECORDS) as writer:
        assert (writer.log_id, writer.append(trades(5, RECORDS)).offset) == (report.log_id, RECORDS)
        for _ in range(4):
            writer.compact()
        assert len(records_in(files.path)) == report.records + 5
        writer.retain(10**15)
        assert writer.state.lost == ()
    assert check(files.path).problems == ()


def test_a_second_repair_adds_to_the_first(files: LogFiles) -> None:
    damage_block(files, 1_600)
    repair(files.path)
    damage_block(files, 1_650)
    report = repair(files.path)
    assert (report.lost, report.records_lost) == (((1_600, 1_700),), 50)
    assert report.aside is not None
    assert report.aside.name == "log.db.damaged-2"


def test_repair_to_another_file_leaves_the_damaged_one(files: LogFiles, tmp_path: Path) -> None:
    damage_block(files, 1_600)
    damaged = files.path.read_bytes()
    out = tmp_path / "other" / "log.db"
    out.parent.mkdir()
    report = repair(files.path, out)
    assert (report.path, report.aside, files.path.read_bytes()) == (out, None, damaged)
    assert len(records_in(out)) == RECORDS - 50
    with pytest.raises(LogError, match="exists; choose a file that does not"):
        repair(files.path, out)


def test_a_whole_log_is_repaired_without_loss(files: LogFiles) -> None:
    before = records_in(files.path)
    report = repair(files.path)
    assert (report.records, report.records_lost, report.lost) == (RECORDS, 0, ())
    assert records_in(files.path) == before


def test_a_destroyed_page_costs_at_most_its_own_blocks(files: LogFiles) -> None:
    """Every page in turn is overwritten, those of SQLite's own structure too."""
    before = records_in(files.path)
    random = Random(5)
    original = files.path.read_bytes()
    mark = files.mark.read_bytes()
    losses = []
    for page in range(len(original) // PAGE_BYTES):
        damaged = bytearray(original)
        damaged[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = random.randbytes(PAGE_BYTES)
        files.path.write_bytes(damaged)
        files.mark.write_bytes(mark)
        report = repair(files.path)
        after = records_in(files.path)
        assert after == {offset: before[offset] for offset in after}
        assert len(after) == report.records == RECORDS - report.records_lost
        losses.append(report.records_lost)
    assert losses[0] == 0  # the first page is SQLite's alone
    assert max(losses) <= 1_600  # the page on which the merged block starts, and two small ones
    assert sorted(losses)[len(losses) // 2] <= 300


def test_a_killed_logs_write_ahead_log_is_used(files: LogFiles, tmp_path: Path) -> None:
    copy = LogFiles(tmp_path / "copy" / "log.db")
    copy.path.parent.mkdir()
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE) as writer:
        for _ in range(20):
            writer.append(trades(50, writer.end))
        for path in (files.path, files.wal, files.mark):
            shutil.copy(path, copy.path.parent)
    before = records_in(copy.path)
    wal = bytearray(copy.wal.read_bytes())
    wal[len(wal) // 2] ^= 1
    copy.wal.write_bytes(wal)
    with pytest.raises(LogCorrupt, match=r"log.db-wal: frame \d+ is damaged"):
        LogReader.open(copy.path, some_tables())
    report = repair(copy.path)
    assert report.records_lost <= 50
    after = records_in(copy.path)
    assert after == {offset: before[offset] for offset in after}
    assert len(after) >= RECORDS + 950
    assert report.aside is not None
    assert report.aside.with_name("log.db.damaged-1-wal").read_bytes() == bytes(wal)


def test_a_log_whose_identity_is_gone_is_not_repaired(files: LogFiles) -> None:
    files.path.write_bytes(bytes(8 * PAGE_BYTES))
    files.mark.unlink()
    with pytest.raises(LogCorrupt, match="nothing in it says which log it is"):
        repair(files.path)
    assert files.path.read_bytes() == bytes(8 * PAGE_BYTES)


def test_a_wholly_lost_log_keeps_its_identity_by_the_end_mark(files: LogFiles) -> None:
    files.path.write_bytes(b"")
    report = repair(files.path)
    assert (report.records, report.lost) == (0, ((0, RECORDS),))
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE) as writer:
        assert (writer.log_id, writer.end) == (report.log_id, RECORDS)


def test_a_missing_file_and_a_living_writer_are_refused(files: LogFiles, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no file to repair"):
        repair(tmp_path / "log.db")
    with LogWriter.open(files.path, some_tables(), origin=Origin.LIVE), pytest.raises(LogBusy):
        repair(files.path)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=12), st.integers(0, 20), st.integers(0, 50))
def test_a_plan_covers_what_can_be_covered_once(extents: list[tuple[int, int]], first: int, length: int) -> None:
    end = first + length
    pieces, lost = plan(extents, first, end)
    covered = {offset for start, size in extents for offset in range(start, start + size)} & set(range(first, end))
    planned = [offset for piece in pieces for offset in range(piece.first, piece.stop)]
    assert planned == sorted(covered)
    assert {offset for start, stop in lost for offset in range(start, stop)} == set(range(first, end)) - covered
    assert all(source in extents and source[0] <= start and stop <= sum(source) for start, stop, source in pieces)
