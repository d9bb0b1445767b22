"""The log as its callers see it: append, read, who may write, what it refuses, merging and forgetting."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from log_making import any_batch, rows, some_tables, trades
from tapewatch.errors import LogBusy, LogCorrupt, LogError, LogLost
from tapewatch.log import local
from tapewatch.log.local import LogReader, LogWriter
from tapewatch.records import Batch, Origin, Tables
from tapewatch.settings import BATCH_RECORDS_MAX
from trials import examples

HOUR_NS = 3_600 * 10**9


def open_writer(path: Path, **options: object) -> LogWriter:
    return LogWriter.open(path, some_tables(), origin=Origin.SIMULATED, **options)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.db"


@pytest.fixture
def writer(path: Path) -> Iterator[LogWriter]:
    with open_writer(path) as writer:
        yield writer


@pytest.fixture
def reader(writer: LogWriter, path: Path) -> Iterator[LogReader]:
    with LogReader.open(path, some_tables()) as reader:
        yield reader


def read_all(reader: LogReader, step: int = BATCH_RECORDS_MAX) -> list[Batch]:
    batches = []
    at = reader.first
    while len(batch := reader.read(at, step)):
        batches.append(batch)
        at = batch.offset + len(batch)
    assert at == reader.end
    return batches


def everything(path: Path) -> list[tuple[object, ...]]:
    tables = Tables()
    with LogReader.open(path, tables) as reader:
        return rows(read_all(reader), tables)


def test_append_gives_offsets_and_a_reader_sees_them_at_once(writer: LogWriter, reader: LogReader) -> None:
    first = writer.append(trades(10))
    second = writer.append(trades(5, 10))
    assert (first.offset, second.offset, writer.end) == (0, 10, 15)
    assert 0 < first.logged_ns <= second.logged_ns
    got = reader.read(0)
    assert rows([got], some_tables()) == rows([first, second], some_tables())
    assert got.logged_ns == second.logged_ns
    assert reader.read(3, 4).ids == ["3", "4", "5", "6"]
    assert reader.read(9, 2).ids == ["9", "10"]


def test_an_empty_batch_changes_nothing(writer: LogWriter) -> None:
    writer.append(trades(3))
    assert writer.append(Batch.empty()).offset == 3
    assert writer.end == 3


def test_reading_at_the_end_gives_an_empty_batch_with_the_end_as_offset(writer: LogWriter, reader: LogReader) -> None:
    assert (reader.first, reader.end, len(reader.read(0))) == (0, 0, 0)
    writer.append(trades(2))
    assert (len(reader.read(2)), reader.read(2).offset) == (0, 2)


@settings(max_examples=examples(5))
@given(st.data())
def test_what_was_appended_is_read_in_any_steps_after_reopening(data: st.DataObject) -> None:
    tables = Tables()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        appended: list[Batch] = []
        for _ in range(data.draw(st.integers(1, 3), "openings")):
            with LogWriter.open(path, tables, origin=Origin.LIVE) as writer:
                appended += [writer.append(b) for b in data.draw(st.lists(any_batch(tables), max_size=5), "batches")]
                if data.draw(st.booleans(), "compact"):
                    writer.compact()
        elsewhere = Tables()
        with LogReader.open(path, elsewhere) as reader:
            read = read_all(reader, data.draw(st.integers(1, 20), "step"))
        assert rows(read, elsewhere) == rows(appended, tables)


def test_a_batch_larger_than_a_block_is_one_append(writer: LogWriter, reader: LogReader) -> None:
    count = BATCH_RECORDS_MAX + 3
    given_back = writer.append(trades(count))
    assert (given_back.offset, len(given_back), writer.end) == (0, count, count)
    assert reader.read(BATCH_RECORDS_MAX - 1, 3).ids == [str(BATCH_RECORDS_MAX + i) for i in (-1, 0, 1)]


def test_identity_is_made_once_and_kept(path: Path) -> None:
    with open_writer(path) as writer:
        log_id = writer.log_id
        writer.append(trades(1))
    with open_writer(path) as writer:
        assert (writer.log_id, writer.origin, writer.end) == (log_id, Origin.SIMULATED, 1)
    with LogReader.open(path, Tables()) as reader:
        assert (reader.log_id, reader.origin, reader.lost_ranges) == (log_id, Origin.SIMULATED, ())


def test_another_origin_is_refused_by_name(path: Path) -> None:
    open_writer(path).close()
    with pytest.raises(LogError, match="holds SIMULATED data and the feed gives LIVE"):
        LogWriter.open(path, Tables(), origin=Origin.LIVE)


def test_a_second_writer_is_told_who_has_it(writer: LogWriter, path: Path) -> None:
    with pytest.raises(LogBusy, match=rf"log.db is being written by process {os.getpid()};"):
        open_writer(path)
    writer.append(trades(1))


def test_a_closed_writer_takes_nothing_and_lets_the_next_in(path: Path) -> None:
    writer = open_writer(path)
    writer.close()
    with pytest.raises(LogError, match="closed"):
        writer.append(trades(1))
    open_writer(path).close()


def test_no_log_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no log here yet"):
        LogReader.open(tmp_path / "log.db", Tables())


def test_an_unusable_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="choose another DATA_DIR"):
        open_writer(tmp_path / "file" / "log.db")


def test_offsets_outside_are_lost(writer: LogWriter, reader: LogReader) -> None:
    writer.append(trades(4))
    with pytest.raises(LogLost, match=r"offset 5 was asked for, but it holds \[0, 4\)"):
        reader.read(5)
    with pytest.raises(LogLost):
        reader.read(-1)


# --- the end ---------------------------------------------------------------------------------------------------


def test_a_log_shorter_than_expected_is_corrupt(path: Path) -> None:
    with pytest.raises(LogCorrupt, match="records up to 3 were acknowledged"):
        open_writer(path, expect_end=3)
    with open_writer(path) as writer:
        writer.append(trades(3))
    open_writer(path, expect_end=3).close()
    with pytest.raises(LogCorrupt, match="ends at offset 3, but records up to 4"):
        open_writer(path, expect_end=4)


def test_a_deleted_log_or_an_old_copy_put_back_is_noticed(path: Path, tmp_path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(trades(3))
    shutil.copy(path, tmp_path / "copy")
    with open_writer(path) as writer:
        writer.append(trades(3, 3))
    shutil.copy(tmp_path / "copy", path)
    for opening in (open_writer, lambda p: LogReader.open(p, Tables())):
        with pytest.raises(LogCorrupt, match="records up to 6 were acknowledged"):
            opening(path)
    path.unlink()
    for opening in (open_writer, lambda p: LogReader.open(p, Tables())):
        with pytest.raises(LogCorrupt, match=r"the file is missing, but log\.end"):
            opening(path)


def test_another_logs_file_is_noticed(path: Path, tmp_path: Path) -> None:
    for folder in ("data", "other"):
        with open_writer(tmp_path / folder / "log.db") as writer:
            writer.append(trades(3))
    shutil.copy(tmp_path / "other" / "log.db", path)
    with pytest.raises(LogCorrupt, match="belongs to another log"):
        open_writer(path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_log_is_refused_or_begun(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    if not content:  # as left by a start that was cut short
        open_writer(path).close()
        return
    with pytest.raises(LogCorrupt):
        open_writer(path)
    assert path.read_bytes() == content


# --- merging and forgetting ------------------------------------------------------------------------------------


def test_small_blocks_are_merged_and_nothing_else_changes(path: Path) -> None:
    with open_writer(path) as writer, LogReader.open(path, some_tables()) as reader:
        appended = [writer.append(trades(20, 20 * i)) for i in range(200)]
        before = reader.read(0)
        assert writer.compact() == 200
        assert writer.compact() == 0
        merged = reader._blocks("ORDER BY first", ())
        assert [b.records for b in merged] == [2_500, 1_500]
        after = reader.read(0)
        assert rows([after], some_tables()) == rows(appended, some_tables()) == rows([before], some_tables())
        assert writer.state.compacted == 2_500
    assert rows(appended, some_tables()) == everything(path)


def test_append_merges_by_itself(path: Path) -> None:
    blocks_seen = 0
    with open_writer(path) as writer, LogReader.open(path, some_tables()) as reader:
        for i in range(600):
            writer.append(trades(1, i))
            if i % 100 == 0:
                [(blocks,)] = reader._connection.execute("SELECT count(*) FROM blocks")
                blocks_seen = max(blocks_seen, blocks)
        assert blocks_seen <= local.COMPACT_BLOCKS_MAX + 5
    assert [row[-1] for row in everything(path)] == [str(i) for i in range(600)]


def test_blocks_that_are_not_small_stay(writer: LogWriter) -> None:
    for size in (3_000, 10, 3_000, 10, 10, 3_000):
        writer.append(trades(size))
    assert writer.compact() == 2
    writer.append(trades(10))
    assert writer.compact() == 0


def test_retention_goes_by_the_time_of_logging_and_keeps_offsets(path: Path) -> None:
    clock = count(HOUR_NS, HOUR_NS)
    with open_writer(path, clock_ns=lambda: next(clock)) as writer, LogReader.open(path, some_tables()) as reader:
        for i in range(100):
            writer.append(trades(10, 10 * i))
        assert writer.retain(71 * HOUR_NS // 10**6, keep_from=15) == 10
        assert writer.retain(71 * HOUR_NS // 10**6) == 690
        assert (writer.first, reader.first, reader.read(700).ids[0]) == (700, 700, "700")
        with pytest.raises(LogLost, match=r"it holds \[700, 1000\)"):
            reader.read(699)
        assert writer.retain(10**15) == 300
        assert (reader.first, reader.end, len(reader.read(1000))) == (1000, 1000, 0)
    with open_writer(path) as writer:
        assert writer.append(trades(1, 1000)).offset == 1000
    assert [row[-1] for row in everything(path)] == ["1000"]


@settings(max_examples=examples(8))
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=5), min_size=1, max_size=12), st.integers(-1, 62))
def test_find_time_never_starts_too_late(times: list[list[int]], wanted: int) -> None:
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / "log.db") as writer:
        for block in times:
            writer.append(Batch.of([(1, 0, -1, t, 0, 0.0, 0, 0, 0, 0, "") for t in block]))
        flat = [t for block in times for t in block]
        with LogReader.open(Path(folder) / "log.db", Tables()) as reader:
            found = reader.find_time(wanted)
        exact = next((i for i, t in enumerate(flat) if t >= wanted), len(flat))
        assert found <= exact
        starts = [sum(map(len, times[:i])) for i in range(len(times) + 1)]
        assert found == max(s for s in starts if s <= exact)


def test_readers_see_whole_data_while_it_is_merged_and_deleted(path: Path) -> None:
    with open_writer(path, clock_ns=count(HOUR_NS, HOUR_NS).__next__) as writer:
        readers = [LogReader.open(path, some_tables()) for _ in range(4)]
        at = [0] * 4
        for i in range(200):
            writer.append(trades(7, 7 * i))
            if i % 11 == 0:
                writer.compact()
            if i % 37 == 0:
                writer.retain((i - 80) * HOUR_NS // 10**6)
            for n, reader in enumerate(readers):
                at[n] = max(at[n], reader.first)
                batch = reader.read(at[n], 5 * (n + 1))
                assert batch.ids == [str(k) for k in range(at[n], at[n] + len(batch))]
                at[n] += len(batch)
        assert at[3] > 1_300
        for reader in readers:
            reader.close()


def test_a_missing_block_is_named(path: Path) -> None:
    with open_writer(path) as writer:
        for i in range(4):
            writer.append(trades(10, 10 * i))
        writer._connection.execute("DELETE FROM blocks WHERE first = 10")
    with LogReader.open(path, Tables()) as reader:
        assert len(reader.read(0, 10)) == 10
        with pytest.raises(LogCorrupt, match=r"no block holds offset 10.*tapewatch repair"):
            reader.read(0)


def test_the_last_block_missing_stops_the_start(path: Path) -> None:
    with open_writer(path) as writer:
        writer.append(trades(10))
        writer.append(trades(10, 10))
        writer._connection.execute("DELETE FROM blocks WHERE first = 10")
    with pytest.raises(LogCorrupt, match="no block holds offset 19"):
        open_writer(path)
    with LogReader.open(path, Tables()) as reader, pytest.raises(LogCorrupt):
        reader.read(10)


@pytest.mark.slow
def test_another_process_reads_while_this_one_writes(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tapewatch.log.local import LogReader;"
        "from tapewatch.records import Tables\n"
        "reader = LogReader.open(Path(sys.argv[1]), Tables()); at = 0\n"
        "for line in sys.stdin:\n"
        "    batch = reader.read(at); at += len(batch); print(at, batch.ids[-1], flush=True)\n"
    )
    with (
        open_writer(path) as writer,
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(1, 30):
            writer.append(trades(10, 10 * i - 10))
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{10 * i} {10 * i - 1}\n"
        process.stdin.close()
