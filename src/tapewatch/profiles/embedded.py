"""The whole pipeline on one machine: every room in this process, beside it a database and perhaps a simulator.

    event loop        feed clients ─► queue      HTTP server, live stream, notifications
    recorder thread                   queue ─► log
    computer thread                            log ─► engine ─► database ─► stream, outbox

What ends the pipeline: a signal, or an error of one of the threads; then everything is stopped in the order of a
trade's path, so that what was received is recorded, and what was recorded is committed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Final

from tapewatch.errors import StoreError
from tapewatch.feed.ingest import Ingest
from tapewatch.log.local import LogWriter
from tapewatch.log.reader import LogReader
from tapewatch.profiles.computer import Computer
from tapewatch.profiles.explain_source import local_source
from tapewatch.profiles.front import Front, Replay
from tapewatch.profiles.market import SimulatorProcess
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.status import StatusBoard
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Changes, Notification, Origin, Tables
from tapewatch.settings import Settings
from tapewatch.spare import give_back
from tapewatch.store.connect import conninfo
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.writer import StoreWriter

__all__ = ["run_pipeline"]

_DAY_MS: Final = 86_400_000
_SETTLED_S: Final = 60.0
"""After the start: what it needed alone is given back then. History is read, and the engine has run, if trades came."""


@dataclass(frozen=True, slots=True)
class _Database:
    """How to reach the database, for writing and for reading, and how to start it again if it is ours and died."""

    writing: str
    reading: str
    revive: Callable[[], bool]


async def run_pipeline(settings: Settings, replay: Replay | None, say: Callable[[str, Origin], None]) -> None:
    """Run until SIGTERM or SIGINT. When it answers, ``say`` is told the page's address and the kind of data, once.

    Raises:
        TapewatchError: it could not start, or a room failed; the sentence says what to do.
    """
    async with AsyncExitStack() as undo:
        pipeline = _Pipeline(settings, replay, undo)
        await pipeline.run(pipeline.start(say))


class _Pipeline(Front):
    async def start(self, say: Callable[[str, Origin], None]) -> None:
        """Everything; then ``say``."""
        wanted = self._wanted()
        self._claim()
        simulator = self._start_simulator()
        parts = await asyncio.to_thread(Parts.load, self._settings)
        self._go_on()
        database = await self._start_store()
        self._go_on()
        log = self._open_log()
        recorder, computer = await self._start_threads(parts, log, database, simulator)
        self._rulebook.start(self._undo, self._end, recorder.say_rules, self._people.change_channels)
        if simulator is not None:
            await asyncio.to_thread(simulator.wait_ready)
        self._go_on()
        feeds = self._prepare_feeds(wanted, simulator)
        status = StatusBoard(
            self._settings, self._origin, parts.calendar, self._folder, feeds=feeds, queue=self._queue,
            recorder=recorder, computer=computer, log=log, stopped=self._feeds.why_given_up,
            alarm=self._alarm(recorder),
        )  # fmt: skip
        server = await self._start_server(
            database.reading, status, parts, local_source(self._folder / "log" / "log.db")
        )
        self._go_on()
        await self._start_people(database.writing, server.url, status, parts.calendar)
        self._start_feeds(recorder)
        self._undo.callback(self._loop.call_later(_SETTLED_S, give_back).cancel)
        self._instance.announce(server.url)
        say(server.url, self._origin)

    # --- the parts, in the order of a trade's path; each is stopped by the exit stack in the opposite order ------

    async def _start_store(self) -> _Database:
        if self._settings.db_host is not None:
            info = conninfo(self._settings)
            return _Database(info, info, revive=lambda: False)
        postgres = EmbeddedPostgres(self._folder, self._settings.db_name)
        await asyncio.to_thread(postgres.start)
        self._undo.push_async_callback(asyncio.to_thread, postgres.stop)
        dsn = postgres.dsn

        def revive() -> bool:
            revived = postgres.revive()
            if postgres.dsn != dsn:
                raise StoreError(
                    f"The database died, and came back on port {postgres.dsn.port}: another program took "
                    f"its port {dsn.port}. Start tapewatch again: nothing that the log holds is lost."
                )
            return revived

        return _Database(dsn.conninfo, postgres.reader.conninfo, revive)

    def _open_log(self) -> LogWriter:
        folder = self._folder / "log"
        if self._replay is not None and folder.exists():
            shutil.rmtree(folder)  # a replay starts from nothing; its log can be made again from its files
        log = LogWriter.open(folder / "log.db", self._tables, origin=self._origin)
        self._undo.callback(log.close)
        return log

    async def _start_threads(
        self, parts: Parts, log: LogWriter, database: _Database, simulator: SimulatorProcess | None
    ) -> tuple[Recorder, Computer]:
        reader = LogReader.open(self._folder / "log" / "log.db", self._tables)
        self._undo.callback(reader.close)
        store = await asyncio.to_thread(self._open_store, database.writing)
        self._undo.callback(store.close)
        tail = Tail(log.end)
        computer = Computer(
            self._settings, parts.of_log(reader).engine(self._tables), reader, tail, store,
            audience=lambda: self._rulebook.now.audience(self._settings), origin=self._origin, revive=database.revive,
            on_commit=self._committed, on_end=self._thread_ended,
        )  # fmt: skip
        ingest = self._ingest()
        await asyncio.to_thread(self._recover, computer, ingest)
        recorder = Recorder(
            self._settings, self._queue, ingest, log, tail, past=self._past(simulator),
            rules=self._rulebook.rules, consumed=lambda: computer.position, on_end=self._thread_ended,
        )  # fmt: skip
        computer.start()
        self._undo.push_async_callback(asyncio.to_thread, computer.stop)
        recorder.start()
        self._undo.push_async_callback(asyncio.to_thread, recorder.stop)
        return recorder, computer

    def _oldest_ms(self) -> int | None:
        with LogReader.open(self._folder / "log" / "log.db", Tables()) as reader:
            return int(reader.read(reader.first, 1).time_ms[0]) if reader.end > reader.first else None

    def _open_store(self, info: str) -> StoreWriter:
        store = self._connect_store(info)
        if self._replay is not None and (owner := store.owner()) is not None and owner[1] is Origin.REPLAYED:
            store.reset(outbox=True)
        return store

    def _recover(self, computer: Computer, ingest: Ingest) -> None:
        computer.recover()
        with ExitStack() as undo:
            reader = LogReader.open(self._folder / "log" / "log.db", self._tables)
            undo.callback(reader.close)
            ingest.recover(self._each(_last_day(reader)))

    def _committed(self, changes: Changes, notes: list[Notification]) -> None:
        """In the computer's thread, after a commit."""
        if self._facts.compares:
            self._facts.comparison.ours(changes)
        self._hub.publish_changes(changes, self._settings.window_ms, self._settings.slide_ms)
        if notes:
            self._wake_sender()


def _last_day(reader: LogReader) -> Iterator[Batch]:
    """What was logged within about a day before the log's end: repeats are looked for among it."""
    at = reader.first
    if reader.end > at:
        newest = reader.read(reader.end - 1, 1)
        at = reader.find_time(int(newest.time_ms[0]) - _DAY_MS)
    return reader.batches(at)
