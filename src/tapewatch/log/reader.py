"""Reading the embedded log, from any process, while its writer writes.

Every read verifies what it gives: each block's checksum, that blocks follow one another without a hole, and that
the last one reaches the recorded end. From the outside in: end mark, write-ahead log, state, blocks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, LiteralString, Self

from tapewatch.errors import LogCorrupt, LogError, LogLost
from tapewatch.log.blocks import Block, BlockCodec, Damage, State
from tapewatch.log.files import LogFiles
from tapewatch.log.sqlite import SELECT_BLOCKS, Connection, connect_reading, corrupt, sqlite_errors
from tapewatch.log.wal import PAGE_BYTES
from tapewatch.records import Batch, Origin, Tables
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["LogReader", "is_blank"]

READ_BLOCKS: Final = 16
"""Blocks fetched at once."""


class LogReader:
    """Reads a log, from any process, while a writer writes. For one thread at a time.

    Decoding adds the names it meets to ``tables`` (see `records.Tables` on threads).
    """

    def __init__(self, files: LogFiles, tables: Tables, connection: Connection) -> None:
        self._files = files
        self._connection = connection
        self._codec = BlockCodec(tables)
        self._ahead: Batch | None = None  # the last block decoded: the next read mostly continues in it

    @classmethod
    def open(cls, path: Path, tables: Tables) -> Self:
        """Open the log whose database is ``path``.

        Raises:
            LogError: there is no log, or it cannot be opened.
            LogCorrupt: acknowledged records are missing at its end, or it is no log at all.
        """
        files = LogFiles(path)
        mark = files.read_mark()
        if mark is None and is_blank(files):
            raise LogError(f"{path}: there is no log here yet")
        if not path.exists():
            raise corrupt(path, f"the file is missing, but {files.mark.name} says that it held a log")
        if (damaged := files.inspect_wal().damaged) is not None:
            where = f"frame {damaged}" if damaged >= 0 else "its header"
            raise corrupt(files.wal, f"{where} is damaged, and acknowledged records follow it")
        with sqlite_errors(path):
            reader = cls(files, tables, connect_reading(path))
        try:
            reader._compare(mark)
        except BaseException:
            reader.close()
            raise
        return reader

    @property
    def log_id(self) -> str:
        """Identity of the log, made with it."""
        return self.state().log_id

    @property
    def origin(self) -> Origin:
        """Where its data came from."""
        return self.state().origin

    @property
    def first(self) -> int:
        """Offset of the first record kept."""
        return self.state().first

    @property
    def end(self) -> int:
        """Offset after the last record, now."""
        return self.state().end

    @property
    def lost_ranges(self) -> tuple[tuple[int, int], ...]:
        """Offset ranges [from, to) that a repair could not bring back; `read` steps over them."""
        return self.state().lost

    def state(self) -> State:
        """All of the above, of one moment."""
        with sqlite_errors(self._files.path):
            rows = self._connection.execute("SELECT state FROM log")
        try:
            return State.decode(rows[0][0] if len(rows) == 1 else None)
        except Damage as damage:
            raise corrupt(self._files.path, str(damage)) from None

    def read(self, offset: int, max_records: int = BATCH_RECORDS_MAX) -> Batch:
        """At most ``max_records`` records from ``offset`` on; none at the end.

        The batch's ``offset`` is greater than asked for when it steps over a lost range; go on at
        ``batch.offset + len(batch)``. Its ``logged_ns`` is its last block's: by then all its records were logged.

        Raises:
            LogLost: ``offset`` is no longer kept (`retain`), or not yet written.
            LogCorrupt: a block is damaged or missing.
        """
        with self._snapshot() as state:
            if not state.first <= offset <= state.end:
                raise LogLost(
                    f"{self._files.path}: offset {offset} was asked for, but it holds [{state.first}, {state.end})"
                )
            offset = _after_lost(state, offset)
            pieces = list(self._pieces(offset, min(offset + max_records, _end_of_stretch(state, offset))))
        return replace(Batch.join(pieces), offset=offset, logged_ns=pieces[-1].logged_ns if pieces else 0)

    def batches(self, start: int, stop: int | None = None, size: int = BATCH_RECORDS_MAX) -> Iterator[Batch]:
        """The records from ``start`` to ``stop`` (None: to the present end), at most ``size`` at once.

        Lost ranges are stepped over. Raises: as `read`.
        """
        stop = self.end if stop is None else stop
        while start < stop and len(batch := self.read(start, min(size, stop - start))):
            yield batch
            start = batch.offset + len(batch)

    def find_time(self, time_ms: int) -> int:
        """An offset before which no record has an event time of ``time_ms`` or later; a block's start, or the end."""
        with self._snapshot() as state:
            low, high = state.first, state.end
            while low < high:
                middle = (low + high) // 2
                block = self._before(middle)
                if block is None or block.stop <= low:
                    low = middle + 1
                elif block.reached_ms >= time_ms:
                    high = max(block.first, low)
                else:
                    low = max(block.stop, middle + 1)
            return low

    def verify_end(self, acknowledged: int | None = None) -> State:
        """Raise LogCorrupt unless the last block is whole, reaches the end, and the end reaches ``acknowledged``."""
        state = self.state()
        if acknowledged is not None and state.end < acknowledged:
            raise self._too_short(state.end, acknowledged)
        at = state.end - 1
        if at >= state.first and _after_lost(state, at) == at:
            list(self._pieces(at, state.end))
        return state

    def verify(self) -> tuple[int, list[LogCorrupt]]:
        """Read every block: how many records are whole, and everything that is not."""
        at, whole = 0, 0
        problems: list[LogCorrupt] = []
        while True:
            with self._snapshot() as state:
                at = _after_lost(state, max(at, state.first))
                if at >= state.end:
                    return whole, problems
                try:
                    piece = next(self._pieces(at, _end_of_stretch(state, at)))
                    at, whole = at + len(piece), whole + len(piece)
                except LogCorrupt as problem:
                    problems.append(problem)
                    at = self._start_after(at) or state.end

    def size_bytes(self) -> int:
        """Bytes of the log's files."""
        return self._files.size_bytes()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _snapshot(self) -> Iterator[State]:
        """All reads within see one moment of the log."""
        with sqlite_errors(self._files.path):
            self._connection.execute("BEGIN")
        try:
            yield self.state()
        finally:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _pieces(self, at: int, stop: int) -> Iterator[Batch]:
        """The records [at, stop), block by block."""
        fetched: list[Block] = []
        while at < stop:
            batch = self._ahead
            if batch is None or not 0 <= at - batch.offset < len(batch):
                fetched = fetched or self._fetch(at, stop)
                batch = self._ahead = self._decode(fetched.pop(), at)
            yield batch.slice(at - batch.offset, min(len(batch), stop - batch.offset))
            at = batch.offset + len(batch)

    def _decode(self, block: Block, at: int) -> Batch:
        try:
            batch = self._codec.decode(block)
        except Damage as damage:
            raise corrupt(self._files.path, f"block [{block.first}, +{block.records}) is damaged: {damage}") from None
        if not block.first <= at < block.stop:
            raise corrupt(
                self._files.path, f"no block holds offset {at}: the next one is [{block.first}, {block.stop})"
            )
        return batch

    def _fetch(self, at: int, stop: int) -> list[Block]:
        """The block that holds ``at`` and the next ones needed, in reverse."""
        blocks = self._blocks(
            "WHERE first >= ifnull((SELECT max(first) FROM blocks WHERE first <= ?), ?) AND first < ?"
            " ORDER BY first LIMIT ?",
            (at, at, stop, READ_BLOCKS),
        )
        if not blocks:
            raise corrupt(self._files.path, f"no block holds offset {at}")
        return blocks[::-1]

    def _start_after(self, offset: int) -> int | None:
        """Where the first block after ``offset`` starts; None if none can be found."""
        with suppress(sqlite3.Error):
            [(first,)] = self._connection.execute("SELECT min(first) FROM blocks WHERE first > ?", (offset,))
            return int(first) if first is not None else None
        return None

    def _before(self, offset: int) -> Block | None:
        """The block that holds ``offset``, or the last one before it."""
        blocks = self._blocks("WHERE first <= ? ORDER BY first DESC LIMIT 1", (offset,))
        if blocks:
            self._decode(blocks[0], blocks[0].first)
        return blocks[0] if blocks else None

    def _blocks(self, where: LiteralString, values: tuple[int, ...]) -> list[Block]:
        with sqlite_errors(self._files.path):
            return [Block(*row) for row in self._connection.execute(SELECT_BLOCKS + where, values)]

    def _compare(self, mark: State | None) -> None:
        state = self.state()
        if mark is None:
            return
        if mark.log_id != state.log_id:
            raise corrupt(self._files.path, f"{self._files.mark.name} belongs to another log ({mark.log_id})")
        if mark.end > state.end:
            raise self._too_short(state.end, mark.end)

    def _too_short(self, end: int, acknowledged: int) -> LogCorrupt:
        return corrupt(self._files.path, f"it ends at offset {end}, but records up to {acknowledged} were acknowledged")


def is_blank(files: LogFiles) -> bool:
    """No log was ever begun here, or its making was cut short before it could hold anything."""
    if not files.path.exists() or files.path.stat().st_size == 0:
        return True
    if files.path.stat().st_size > PAGE_BYTES:
        return False
    if files.path.with_name(files.path.name + "-journal").exists():
        return True  # still on its way into the WAL mode
    with sqlite_errors(files.path):
        connection = connect_reading(files.path)
        try:
            return not connection.execute("SELECT 1 FROM sqlite_master")
        finally:
            connection.close()


def _after_lost(state: State, offset: int) -> int:
    """``offset``, or the end of the lost range it is in."""
    return next((stop for first, stop in state.lost if first <= offset < stop), offset)


def _end_of_stretch(state: State, offset: int) -> int:
    """Where the next lost range begins, or the log ends."""
    return next((first for first, _ in state.lost if first >= offset), state.end)
