"""The embedded log: one SQLite file of compressed, checksummed blocks, in the one order everything else follows.

What `LogWriter.append` promises: when it returns, its records survive `kill -9` and a power cut, on a disk that keeps
what it has synced. What it does not promise: records it did not return from may be there, all of them, or none.

    blocks   first · records · reached_ms · logged_ns · checksum · data       a row per append, merged later (`compact`)
    log      state                                                          one row: identity, first, end, lost ranges

An append is one transaction with one fsync: its blocks, and the state that says where the log ends. So a log whose
blocks do not reach the recorded end has lost some, and says so (`LogCorrupt`); nothing damaged is ever skipped.
A torn last transaction, as a crash leaves it, is cut off without a question (`LogWriter.torn_frames`).

One limit: after a power cut, damage *within the very last transaction* looks like a torn one (`wal`), unless the end
mark (`files`) or the caller's ``expect_end`` knows that it was acknowledged.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, LiteralString, NamedTuple, Self

import msgspec

from tapewatch.errors import LogError, LogFull
from tapewatch.log.blocks import Block, BlockCodec, Damage, State
from tapewatch.log.files import EndMark, LogFiles, WriterLock, make_folder, sync_folder
from tapewatch.log.reader import LogReader, is_blank
from tapewatch.log.sqlite import (
    INSERT_BLOCK,
    SCHEMA,
    SELECT_BLOCKS,
    Connect,
    Connection,
    connect_writing,
    corrupt,
    sqlite_errors,
    translated,
)
from tapewatch.log.wal import PAGE_BYTES
from tapewatch.metrics import LOG_APPEND_SECONDS, LOG_BYTES, LOG_END, LOG_RECORDS, timed
from tapewatch.records import Batch, Origin, Tables
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["LogReader", "LogWriter"]

COMPACT_RECORDS: Final = BATCH_RECORDS_MAX // 4
"""Records in a merged block; blocks of less than half of it are small."""
COMPACT_BLOCKS_MAX: Final = 256
"""Small blocks merged in one transaction, and how many must have come before `append` merges them."""
COMPACT_LOOK_AHEAD: Final = 4_096
"""Blocks looked at for small ones in one transaction."""
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""About how much is written to the write-ahead log between two checkpoints."""
RETAIN_BLOCKS_MAX: Final = 64
"""Blocks deleted in one transaction."""
_TIME_MS_MIN: Final = -(2**63)


class LogWriter:
    """The one writer of a log. For one thread at a time."""

    _state: State

    def __init__(
        self,
        files: LogFiles,
        connection: Connection,
        tables: Tables,
        clock_ns: Callable[[], int],
        mark: EndMark,
        torn_frames: int,
    ) -> None:
        self._files = files
        self._connection = connection
        self._codec = BlockCodec(tables)
        self._clock_ns = clock_ns
        self._mark = mark
        self._undo = ExitStack()
        self._broken: str | None = None
        self._wal_bytes = 0
        self._small_blocks = COMPACT_BLOCKS_MAX  # as many may have been left behind
        self.torn_frames = torn_frames
        """Frames of a transaction cut short by a crash that were dropped when this writer started."""

    @classmethod
    def open(
        cls,
        path: Path,
        tables: Tables,
        *,
        origin: Origin,
        expect_end: int | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        connect: Connect = connect_writing,
    ) -> Self:
        """Open the log whose database is ``path`` (``…/log.db``) for writing; make it if there is none.

        ``expect_end`` is an offset up to which the caller knows records to have been acknowledged, if it does.
        Only the end is verified here; the other blocks are when they are read, and by `repair.check`.

        Raises:
            LogBusy: another process writes it.
            LogCorrupt: it is damaged, or ends before ``expect_end``. Nothing was written.
            LogFull: the disk has no room.
            LogError: it holds data of another origin, or cannot be opened.
        """
        files = LogFiles(path)
        with ExitStack() as undo:
            try:
                make_folder(path.parent)
                lock = WriterLock(files)
                undo.callback(lock.release)
                mark = EndMark(files)
                undo.callback(mark.close)
            except OSError as error:
                raise LogError(f"{path}: cannot be made: {error.strerror}; choose another DATA_DIR") from error
            state, torn_frames = _judge(files, origin, expect_end)
            with sqlite_errors(path):
                connection = connect(path)
            undo.callback(connection.close)
            writer = cls(files, connection, tables, clock_ns, mark, torn_frames)
            writer._start(state, origin)
            writer._undo = undo.pop_all()
        return writer

    @property
    def state(self) -> State:
        """Identity and extent of the log, now."""
        return self._state

    @property
    def log_id(self) -> str:
        """Identity of the log, made with it."""
        return self._state.log_id

    @property
    def origin(self) -> Origin:
        """Where its data comes from."""
        return self._state.origin

    @property
    def first(self) -> int:
        """Offset of the first record kept."""
        return self._state.first

    @property
    def end(self) -> int:
        """Offset after the last record: the next one's."""
        return self._state.end

    def append(self, batch: Batch) -> Batch:
        """Write all records of ``batch`` in one transaction; durable when it returns.

        Gives back the same rows with their offset and ``logged_ns``: the clock as the transaction began, which is
        also what the log keeps. Merges small blocks (`compact`) when 256 have come.

        Raises:
            LogFull: the disk is full. Nothing was written; the batch may be appended again later.
            LogError: writing or syncing failed. The batch may be in the log or not, and the writer refuses all
                further work: after a failed fsync the kernel may have dropped what it held, so trying again
                would lie. The process must stop; the next start says what survived.
        """
        self._expect_usable()
        if not len(batch):
            return replace(batch, offset=self.end, logged_ns=self._clock_ns())
        with timed(LOG_APPEND_SECONDS, "append"):
            self._tidy()
            logged_ns = self._clock_ns()
            blocks = self._encode(batch, logged_ns)
            last = blocks[-1]
            with self._transaction(msgspec.structs.replace(self._state, end=last.stop, reached_ms=last.reached_ms)):
                for block in blocks:
                    self._connection.execute(INSERT_BLOCK, block)
            self._mark.write(self._state)
        self._wal_bytes += sum(len(block.data) for block in blocks) + 3 * PAGE_BYTES
        self._small_blocks += _is_small(last.records)
        LOG_RECORDS.inc(len(batch))
        LOG_END.set(last.stop)
        return replace(batch, offset=blocks[0].first, logged_ns=logged_ns)

    def compact(self) -> int:
        """Merge the oldest small blocks, 256 at most, in one transaction; returns how many were merged.

        Offsets stay. A merged block's ``logged_ns`` is that of its last part. Raises as `append` does, and
        LogCorrupt when a block to be merged is damaged.
        """
        self._expect_usable()
        with sqlite_errors(self._files.path):
            extents = self._connection.execute(
                "SELECT first, records FROM blocks WHERE first >= ? ORDER BY first LIMIT ?",
                (self._state.compacted, COMPACT_LOOK_AHEAD),
            )
        if not all(isinstance(records, int) for _, records in extents):
            raise corrupt(self._files.path, "a block is damaged: its row is not one the log wrote")
        runs = _runs(extents)
        if not runs:
            return 0
        last = runs[-1]
        compacted = last.first if _is_small(last.stop - last.first) else last.stop  # a small one may still grow
        merged = [self._merge(run) for run in runs if run.parts > 1]
        with self._transaction(msgspec.structs.replace(self._state, compacted=compacted)):
            for block in merged:
                extent = (block.first, block.stop)
                self._connection.execute("DELETE FROM blocks WHERE first >= ? AND first < ?", extent)
                self._connection.execute(INSERT_BLOCK, block)
        self._wal_bytes += 2 * sum(len(block.data) for block in merged)
        self._small_blocks = max(sum(_is_small(count) for _, count in extents) - COMPACT_BLOCKS_MAX, 0)
        return sum(run.parts for run in runs if run.parts > 1)

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        """Delete the oldest blocks, those logged before ``before_ms`` (Unix ms); returns how many records.

        The time is that of logging, not of the events: a replay of an old day is kept as long as any other data.
        Records from offset ``keep_from`` on, such as those the engine has not consumed, are kept at any age.
        """
        self._expect_usable()
        removed = 0
        while True:
            old = []
            for block in self._blocks("ORDER BY first LIMIT ?", (RETAIN_BLOCKS_MAX,)):
                if block.logged_ns >= before_ms * 1_000_000 or (keep_from is not None and block.stop > keep_from):
                    break
                old.append(block)
            if not old:
                return removed
            first = old[-1].stop
            lost = tuple((start, stop) for start, stop in self._state.lost if stop > first)
            with self._transaction(msgspec.structs.replace(self._state, first=first, lost=lost)):
                self._connection.execute("DELETE FROM blocks WHERE first < ?", (first,))
            removed += sum(block.records for block in old)

    @property
    def is_waiting(self) -> bool:
        """Never: a disk answers or fails."""
        return False

    def stop_waiting(self) -> None:
        """Nothing to stop: see `is_waiting`."""

    def size_bytes(self) -> int:
        """Bytes of the log's files."""
        return self._files.size_bytes()

    def close(self) -> None:
        """Close the log and let another writer in."""
        self._undo.close()
        self._broken = self._broken or "it was closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, state: State | None, origin: Origin) -> None:
        if state is None:
            state = State(uuid.uuid4().hex, origin, 0, 0, _TIME_MS_MIN, 0)
            with self._transaction(state, save="INSERT INTO log VALUES (1, ?)"):
                for statement in SCHEMA:
                    self._connection.execute(statement)
            sync_folder(self._files.path.parent)
        self._state = state
        self._mark.write(state)
        LOG_END.set(state.end)
        LOG_BYTES.set(self.size_bytes())

    def _expect_usable(self) -> None:
        if self._broken is not None:
            raise LogError(f"{self._files.path}: takes no more until the process is started again: {self._broken}")

    @contextmanager
    def _transaction(self, state: State, save: str = "UPDATE log SET state = ?") -> Iterator[None]:
        """One transaction that ends with saving ``state``. Fails with LogFull and no effect, or for good."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute(save, (state.encode(),))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            failure = translated(self._files.path, error)
            if not (isinstance(failure, LogFull) and self._rolled_back()):
                self._broken = str(failure)
            raise failure from error
        except BaseException as error:  # such as KeyboardInterrupt: the transaction is left open, so it is over
            self._broken = repr(error)
            raise
        self._state = state

    def _rolled_back(self) -> bool:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return True
        return False

    def _tidy(self) -> None:
        """What is due between appends. On a full disk it waits: the append itself says so if there is no room."""
        if self._wal_bytes >= CHECKPOINT_BYTES:
            self._wal_bytes = 0
            self._checkpoint()
        if self._small_blocks >= COMPACT_BLOCKS_MAX:
            self._small_blocks = 0
            with suppress(LogFull):
                self.compact()

    def _checkpoint(self) -> None:
        """Bring the write-ahead log into the database, as far as readers allow."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            failure = translated(self._files.path, error)
            if not isinstance(failure, LogFull):
                self._broken = str(failure)
                raise failure from error
        LOG_BYTES.set(self.size_bytes())

    def _encode(self, batch: Batch, logged_ns: int) -> list[Block]:
        blocks: list[Block] = []
        first, reached_ms = self._state.end, self._state.reached_ms
        for start in range(0, len(batch), BATCH_RECORDS_MAX):
            part = batch.slice(start, min(start + BATCH_RECORDS_MAX, len(batch)))
            blocks.append(self._codec.encode(part, first=first, reached_ms=reached_ms, logged_ns=logged_ns))
            first, reached_ms = blocks[-1].stop, blocks[-1].reached_ms
        return blocks

    def _merge(self, run: _Run) -> Block:
        blocks = self._blocks("WHERE first >= ? AND first < ? ORDER BY first", (run.first, run.stop))
        batch = Batch.join([self._codec.decode(block) for block in blocks])
        last = blocks[-1]
        return self._codec.encode(batch, first=run.first, reached_ms=last.reached_ms, logged_ns=last.logged_ns)

    def _blocks(self, where: LiteralString, values: Sequence[int]) -> list[Block]:
        """Verified rows."""
        with sqlite_errors(self._files.path):
            blocks = [Block(*row) for row in self._connection.execute(SELECT_BLOCKS + where, values)]
        for block in blocks:
            try:
                block.verify()
            except Damage as damage:
                raise corrupt(self._files.path, f"the block at offset {block.first} is damaged: {damage}") from None
        return blocks


def _judge(files: LogFiles, origin: Origin, expect_end: int | None) -> tuple[State | None, int]:
    """The state of the log as it was left, None if there is none yet; and its torn frames. Writes nothing."""
    if files.read_mark() is None and is_blank(files):
        if expect_end:
            raise corrupt(files.path, f"there is no log, but records up to {expect_end} were acknowledged")
        return None, 0
    torn = files.inspect_wal().torn
    with LogReader.open(files.path, Tables()) as reader:
        state = reader.verify_end(expect_end)
    if state.origin != origin:
        raise LogError(
            f"{files.path} holds {state.origin} data and the feed gives {origin}: they are never mixed; "
            "choose another DATA_DIR"
        )
    return state, torn


def _is_small(count: int) -> bool:
    return count < COMPACT_RECORDS // 2


class _Run(NamedTuple):
    """Adjacent blocks [first, stop) to become one."""

    first: int
    stop: int
    parts: int


def _runs(extents: Sequence[tuple[int, int]]) -> list[_Run]:
    """Cut the blocks, given as (first, count), into runs; a run grows by small blocks until it is not small itself."""
    runs: list[_Run] = []
    small_blocks = 0
    for first, count in extents:
        if small_blocks == COMPACT_BLOCKS_MAX:
            break
        small_blocks += _is_small(count)
        last = runs[-1] if runs else None
        if last and last.stop == first and _is_small(count) and _is_small(last.stop - last.first):
            runs[-1] = _Run(last.first, first + count, last.parts + 1)
        else:
            runs.append(_Run(first, first + count, 1))
    return runs
