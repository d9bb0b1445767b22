"""The judge of write-ahead logs, against SQLite itself."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.log.wal import FRAME_BYTES, HEADER_BYTES, committed_pages, generation, inspect


@pytest.fixture(scope="module")
def transactions(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The `-wal` file after each of eight transactions of SQLite's own, of two to five pages."""
    path = tmp_path_factory.mktemp("wal") / "db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = []
    for i in range(8):
        connection.execute("INSERT INTO t VALUES (?)", (bytes([i + 1]) * (3_000 * (1 + i % 4)),))
        found.append(path.with_name("db-wal").read_bytes())
    shutil.copy(path, path.with_name("main"))
    connection.close()
    return found


def frames_of(wal: bytes) -> int:
    return (len(wal) - HEADER_BYTES) // FRAME_BYTES


def test_a_whole_file_is_in_order(transactions: list[bytes]) -> None:
    for wal in transactions:
        assert inspect(wal) == (frames_of(wal), 0, None)


def test_an_empty_or_begun_file_is_in_order(transactions: list[bytes]) -> None:
    assert inspect(b"") == inspect(transactions[0][:HEADER_BYTES]) == (0, 0, None)


def test_cut_anywhere_the_torn_transaction_is_dropped(transactions: list[bytes]) -> None:
    ends = [len(wal) for wal in transactions]
    for size in range(HEADER_BYTES, ends[-1], 509):
        report = inspect(transactions[-1][:size])
        whole = max((end for end in ends if end <= size), default=HEADER_BYTES)
        assert report.damaged is None
        assert report.frames == (whole - HEADER_BYTES) // FRAME_BYTES
        assert report.torn == (size - HEADER_BYTES) // FRAME_BYTES - report.frames


@given(st.data())
def test_a_flip_before_the_last_transaction_is_damage(transactions: list[bytes], data: st.DataObject) -> None:
    wal = bytearray(transactions[-1])
    at = data.draw(st.integers(0, len(transactions[-3]) - 1))
    wal[at] ^= 1 << data.draw(st.integers(0, 7))
    frame = (at - HEADER_BYTES) // FRAME_BYTES if at >= HEADER_BYTES else -1
    assert inspect(bytes(wal)).damaged == frame


@given(st.data())
def test_sectors_missing_from_the_last_transaction_are_a_tear(transactions: list[bytes], data: st.DataObject) -> None:
    """Whatever of it reached the disk, in whatever order."""
    wal = bytearray(transactions[-1])
    start = len(transactions[-2])
    for at in range(start, len(wal), 512):
        if data.draw(st.booleans()):
            wal[at : at + 512] = bytes(len(wal[at : at + 512]))
    report = inspect(bytes(wal))
    assert report.damaged is None
    assert report.frames in (frames_of(transactions[-2]), frames_of(transactions[-1]))


def test_a_file_started_anew_is_judged_by_its_own_generation(tmp_path: Path) -> None:
    path = tmp_path / "db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (a)")
    for i in range(20):
        connection.execute("INSERT INTO t VALUES (?)", (i,))
    wal = path.with_name("db-wal")
    before = wal.read_bytes()
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.execute("INSERT INTO t VALUES (99)")
    after = wal.read_bytes()
    connection.close()
    assert len(after) == len(before)
    assert generation(after) != generation(before)
    assert inspect(after) == (1, 0, None)
    assert sum(map(len, committed_pages(after).values())) == 1


def test_the_pages_of_committed_transactions_are_found(transactions: list[bytes]) -> None:
    pages = committed_pages(transactions[-1])
    assert sum(map(len, pages.values())) == frames_of(transactions[-1])
    torn = transactions[-1][: len(transactions[-2]) + FRAME_BYTES]
    assert sum(map(len, committed_pages(torn).values())) == frames_of(transactions[-2])
    bad = bytearray(transactions[-1])
    bad[len(transactions[2]) + 1_000] ^= 1
    assert sum(map(len, committed_pages(bytes(bad)).values())) == frames_of(transactions[-1]) - 1


@given(st.binary(max_size=64), st.integers(0, 3))
def test_any_bytes_are_judged(data: bytes, frames: int) -> None:
    rng = np.random.default_rng(len(data))
    inspect(data + rng.bytes(frames * FRAME_BYTES))
    committed_pages(data + rng.bytes(frames * FRAME_BYTES))
