"""Check a log, and repair a damaged one as far as it can be. Neither ever runs by itself.

`repair` copies every readable block to a new file, at its old offset, and moves the damaged file aside. What could
not be read becomes a *lost range*: recorded in the new log, reported exactly, and stepped over by readers.

    damaged   [0 ··· 90) [90 ···· damaged ···· 140) [140 ···· 200)
    repaired  [0 ··· 90)                            [140 ···· 200)      lost: [90, 140)
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tapewatch.errors import LogError
from tapewatch.log.blocks import Block, BlockCodec, Damage, State
from tapewatch.log.files import EndMark, LogFiles, WriterLock, sync_folder
from tapewatch.log.reader import LogReader
from tapewatch.log.salvage import Pages, find_rows
from tapewatch.log.sqlite import INSERT_BLOCK, SCHEMA, Connection, connect_writing, corrupt, sqlite_errors
from tapewatch.log.wal import committed_pages
from tapewatch.records import Origin, Tables

_PIECES_PER_COMMIT: Final = 256
_FOUND: Final = (
    "CREATE TABLE found.blocks (first INTEGER, records INTEGER, reached_ms INTEGER, logged_ns INTEGER,"
    " checksum BLOB, data BLOB)"
)
"""Whole blocks, as they are found; ``found`` is a database on disk that goes with its connection."""
_FOUND_EXTENT: Final = "CREATE UNIQUE INDEX found.extent ON blocks (first, records)"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found."""

    path: Path
    log_id: str
    origin: Origin
    first: int
    end: int
    records: int
    """Records that are whole."""
    size_bytes: int
    torn_frames: int
    """Frames of a transaction that a crash cut short; the next start drops them."""
    lost: tuple[tuple[int, int], ...]
    """Offset ranges an earlier repair could not bring back."""
    problems: tuple[str, ...]
    """Everything that is wrong, a sentence each."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` did."""

    path: Path
    """The repaired log."""
    aside: Path | None
    """Where the damaged database was moved; None when the repaired log was written elsewhere."""
    log_id: str
    first: int
    end: int
    records: int
    """Records kept."""
    records_lost: int
    """Records lost by this damage."""
    lost: tuple[tuple[int, int], ...]
    """All offset ranges [from, to) the repaired log lacks, those of earlier repairs included."""


def check(path: Path) -> CheckReport:
    """Read and verify every block. Raises LogError or LogCorrupt when the log cannot even be opened."""
    files = LogFiles(path)
    torn_frames = files.inspect_wal().torn
    with LogReader.open(path, Tables()) as reader:
        records, problems = reader.verify()
        state = reader.state()
    return CheckReport(
        path=path,
        log_id=state.log_id,
        origin=state.origin,
        first=state.first,
        end=state.end,
        records=records,
        size_bytes=files.size_bytes(),
        torn_frames=torn_frames,
        lost=state.lost,
        problems=tuple(map(str, problems)),
    )


def repair(path: Path, out: Path | None = None) -> RepairReport:
    """Write a log of all that is readable, to ``out`` or in place of the damaged one, which is then kept aside.

    The damaged database becomes `log.db.damaged-1` (or -2, …), its write-ahead log `log.db.damaged-1-wal`.

    Raises:
        LogBusy: a process writes the log; stop it first.
        LogFull: no room for the copy; nothing was changed.
        LogCorrupt: nothing says which log this was: neither its state nor its end mark can be read.
        LogError: there is nothing to repair, or ``out`` exists.
    """
    files = LogFiles(path)
    target = LogFiles(out or path.with_name(path.name + ".repaired"))
    if not path.exists():
        raise LogError(f"{path}: there is no file to repair; restore it, or the newest {path.name}.damaged-*, first")
    if out is not None and out.exists():
        raise LogError(f"{out} exists; choose a file that does not")
    lock = WriterLock(files)
    try:
        _remove(target)
        state, records, lost_before = _copy(files, target)
        aside = None if out else _exchange(files, target)
        mark = EndMark(files if out is None else target)
        mark.write(state)
        mark.close()
    finally:
        lock.release()
    lost = sum(stop - first for first, stop in state.lost)
    return RepairReport(
        out or path, aside, state.log_id, state.first, state.end, records, lost - lost_before, state.lost
    )


class Piece(NamedTuple):
    """Records [first, stop) taken from the block ``source``."""

    first: int
    stop: int
    source: tuple[int, int]


def plan(extents: Iterable[tuple[int, int]], first: int, end: int) -> tuple[list[Piece], list[tuple[int, int]]]:
    """Cover [first, end) with blocks, given as (first, records), that may overlap; and what none of them covers."""
    pieces: list[Piece] = []
    lost: list[tuple[int, int]] = []
    at = first
    best = (first, 0)
    waiting = sorted(extents, reverse=True)
    while at < end:
        while waiting and waiting[-1][0] <= at:
            best = max(best, waiting.pop(), key=sum)
        if sum(best) > at:
            pieces.append(Piece(at, min(sum(best), end), best))
            at = sum(best)
        else:
            following = min(waiting[-1][0], end) if waiting else end
            lost.append((at, following))
            at = following
    return pieces, lost


def _copy(files: LogFiles, target: LogFiles) -> tuple[State, int, int]:
    """Fill ``target``; its state, the records in it, and how many had been lost before."""
    with sqlite_errors(target.path), closing(connect_writing(target.path)) as connection:
        for statement in (*SCHEMA, "ATTACH '' AS found", _FOUND, _FOUND_EXTENT):
            connection.execute(statement)
        state = _collect(files, connection)
        extents = [(first, records) for first, records in connection.execute("SELECT first, records FROM found.blocks")]
        end = max([state.end, *map(sum, extents)])
        pieces, lost = plan(extents, state.first, end)
        for start in range(0, len(pieces), _PIECES_PER_COMMIT):
            with _transaction(connection):
                reached_ms = _fill(connection, pieces[start : start + _PIECES_PER_COMMIT])
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            state = msgspec.structs.replace(state, reached_ms=max(state.reached_ms, reached_ms))
        lost_before = sum(stop - first for first, stop in state.lost)
        state = msgspec.structs.replace(state, end=end, lost=tuple(lost))
        connection.execute("INSERT INTO log VALUES (1, ?)", (state.encode(),))
    return state, sum(piece.stop - piece.first for piece in pieces), lost_before


def _collect(files: LogFiles, connection: Connection) -> State:
    """Put every whole block into ``found.blocks``; returns the newest state there is."""
    states: list[State] = []
    wal = files.wal.read_bytes() if files.wal.exists() else b""
    with _transaction(connection):
        for row in find_rows(Pages(_mapped(files.path), committed_pages(wal))):
            with suppress(Damage, TypeError):  # many rows are stale, or no rows at all: only whole ones count
                if len(row) == 3:
                    states.append(State.decode(row[2]))
                elif len(row) == 7:
                    block = Block(row[0], *row[2:])  # type: ignore[arg-type]  # verify looks at the types
                    block.verify()
                    connection.execute("INSERT OR IGNORE INTO found.blocks VALUES (?, ?, ?, ?, ?, ?)", block)
    if (mark := files.read_mark()) is not None:
        states.append(mark)
    if not states:
        raise corrupt(files.path, "nothing in it says which log it is, so it cannot be repaired")
    return max(states, key=lambda s: (s.end, s.first, s.compacted))


def _fill(connection: Connection, pieces: Sequence[Piece]) -> int:
    """Write the pieces as blocks; returns the last one's ``reached_ms``."""
    codec = BlockCodec(Tables())
    for piece in pieces:
        [row] = connection.execute("SELECT * FROM found.blocks WHERE first = ? AND records = ?", piece.source)
        block = Block(*row)
        if (block.first, block.stop) != (piece.first, piece.stop):
            part = codec.decode(block).slice(piece.first - block.first, piece.stop - block.first)
            block = codec.encode(part, first=piece.first, reached_ms=block.reached_ms, logged_ns=block.logged_ns)
        connection.execute(INSERT_BLOCK, block)
    return block.reached_ms


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _mapped(path: Path) -> memoryview:
    """The file's bytes, without reading all of them into memory."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")


def _exchange(files: LogFiles, target: LogFiles) -> Path:
    """Move the damaged files aside and the repaired one to their place. Cut short, nothing is lost, only moved."""
    aside = next(p for n in count(1) if not (p := files.path.with_name(f"{files.path.name}.damaged-{n}")).exists())
    os.rename(files.path, aside)
    if files.wal.exists():
        os.rename(files.wal, aside.with_name(aside.name + "-wal"))
    files.shm.unlink(missing_ok=True)
    os.rename(target.path, files.path)
    sync_folder(files.path.parent)
    return aside


def _remove(target: LogFiles) -> None:
    """What a repair that was cut short left behind."""
    for path in (target.path, target.wal, target.shm):
        path.unlink(missing_ok=True)
