"""The two halves of a distributed pipeline around the engine, which is `tapewatch spark`.

    run_feed       feed clients ─► queue ─► recorder thread ─► Kafka
    run_serve      database ─► follower thread ─► live stream      HTTP server, notifications
    run_both       both in one process: `tapewatch run` with KAFKA_BOOTSTRAP_SERVERS

The feed needs no database and the page needs no feed: either may be away, stop, and start again, and nothing is lost
that Kafka has acknowledged. What was not is fetched again, after the gap that the next start writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from tapewatch.errors import SettingsError, StoreMismatch
from tapewatch.feed.client import FeedClient
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace, open_lanes
from tapewatch.profiles.board import Board, LaneWatch, SeenFeeds, mismatch
from tapewatch.profiles.explain import source_of
from tapewatch.profiles.follower import Follower
from tapewatch.profiles.front import Front, Replay, origin_of
from tapewatch.profiles.instance import Role
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.status import FeedRooms
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Origin
from tapewatch.settings import Settings
from tapewatch.store.connect import conninfo
from tapewatch.store.writer import StoreWriter

__all__ = ["Say", "run_both", "run_feed", "run_serve"]

_DAY_MS: Final = 86_400_000
_WATCH_DEADLINE_MS: Final = 2_000
_FOLLOW_S: Final = 1.0
Say = Callable[[str, Origin], None]


async def run_feed(settings: Settings, replay: Replay | None, say: Say) -> None:
    """Record into Kafka until SIGTERM or SIGINT. ``say`` is told the topic's place and the kind of data, once.

    Raises:
        TapewatchError: it could not start, or a room failed; the sentence says what to do.
    """
    place = _kafka(settings, "tapewatch feed")
    async with AsyncExitStack() as undo:
        front = _Distributed(settings, replay, undo, roles=(Role.FEED,))
        await front.run(front.feed(place, say))


async def run_serve(settings: Settings, origin: Origin | None, say: Say) -> None:
    """Show what the database gets, until SIGTERM or SIGINT; of the kind of data that it holds, if none is named.

    Raises: as `run_feed`.
    """
    info = _database(settings)
    async with AsyncExitStack() as undo:
        origin = origin or await asyncio.to_thread(_found_origin, settings)
        front = _Distributed(settings, None, undo, origin, roles=(Role.SERVE,))
        await front.run(front.serve(info, say))


async def run_both(settings: Settings, replay: Replay | None, say: Say) -> None:
    """Both, until SIGTERM or SIGINT. Raises: as `run_feed`."""
    place, info = _kafka(settings, "tapewatch run"), _database(settings)
    async with AsyncExitStack() as undo:
        front = _Distributed(settings, replay, undo, roles=tuple(Role))
        await front.run(front.both(place, info, say))


def _kafka(settings: Settings, command: str) -> KafkaPlace:
    if settings.kafka_servers is None:
        raise SettingsError(
            f"{command} writes to Kafka: set KAFKA_BOOTSTRAP_SERVERS, or start a broker on this machine: "
            "tapewatch cluster up"
        )
    return KafkaPlace.of(settings)


def _database(settings: Settings) -> str:
    if settings.db_host is None:
        raise SettingsError(
            "DB_HOST is not set: in the distributed profile the database is one that Spark can reach too. Set DB_HOST "
            "(with DB_PORT, DB_NAME, DB_USER, DB_PASSWORD), or start one on this machine: tapewatch cluster up"
        )
    return conninfo(settings)


class _Distributed(Front):
    async def feed(self, place: KafkaPlace, say: Say) -> None:
        """Start recording; then ``say``."""
        await self._start_recording(place)
        following = asyncio.create_task(self._follow_watchlist(), name="watchlist")
        self._undo.callback(following.cancel)
        following.add_done_callback(lambda t: None if t.cancelled() else self._end(t.exception()))
        self._instance.announce("")
        say(f"topic {place.topic} of Kafka at {place.servers}", self._origin)

    async def serve(self, info: str, say: Say) -> None:
        """Start the page; then ``say``."""
        parts = await asyncio.to_thread(Parts.load, self._settings)
        follower = await self._start_follower(info, None)
        watch = self._start_watch(KafkaPlace.of(self._settings), follower) if self._settings.kafka_servers else None
        self._watch(None)
        self._rulebook.start(self._undo, self._end, None, self._people.change_channels)
        feeds = SeenFeeds(self._settings, self._origin, parts.calendar, follower)
        board = Board(self._settings, self._origin, self._folder, feeds=feeds, shown=follower, watch=watch)
        await self._open_page(info, board, parts, say)

    async def both(self, place: KafkaPlace, info: str, say: Say) -> None:
        """Start both; then ``say``."""
        parts = await asyncio.to_thread(Parts.load, self._settings)
        log, recorder, feeds = await self._start_recording(place)
        follower = await self._start_follower(info, log)
        rooms = FeedRooms(
            self._settings, self._origin, parts.calendar, feeds, recorder, self._feeds.why_given_up,
            self._alarm(recorder),
        )  # fmt: skip
        board = Board(
            self._settings, self._origin, self._folder, feeds=rooms,
            shown=follower, watch=self._start_watch(place, follower), log_id=log.log_id,
            is_waiting=lambda: log.is_waiting, queue_bytes=lambda: self._queue.bytes_waiting,
        )  # fmt: skip
        await self._open_page(info, board, parts, say)

    # --- the feed --------------------------------------------------------------------------------------------------

    async def _start_recording(self, place: KafkaPlace) -> tuple[KafkaLogWriter, Recorder, list[FeedClient]]:
        """Everything up to Kafka, at work."""
        self._claim()
        wanted = self._wanted()
        simulator = self._start_simulator()
        codec = Codec(wire_symbol, market_of)
        log = await asyncio.to_thread(KafkaLogWriter.open, place, self._tables, origin=self._origin, codec=codec)
        self._undo.push_async_callback(asyncio.to_thread, log.close)
        self._go_on()
        ingest = self._ingest()
        await asyncio.to_thread(self._recover, log, ingest)
        recorder = Recorder(
            self._settings, self._queue, ingest, log, _NoTail(0), past=self._past(simulator),
            rules=self._rulebook.rules, consumed=lambda: 0, on_end=self._thread_ended,
        )  # fmt: skip
        self._rulebook.start(self._undo, self._end, recorder.say_rules, self._people.change_channels)
        recorder.start()
        self._undo.push_async_callback(asyncio.to_thread, recorder.stop)
        if simulator is not None:
            await asyncio.to_thread(simulator.wait_ready)
        self._go_on()
        feeds = self._prepare_feeds(wanted, simulator)
        self._start_feeds(recorder)
        return log, recorder, feeds

    def _recover(self, log: KafkaLogWriter, ingest: Ingest) -> None:
        """Learn from the last day of the topic what was recorded before."""
        batches = log.recent(time.time_ns() // 1_000_000 - _DAY_MS)
        ingest.recover(self._each(batches), upto=log.known_ms)

    async def _follow_watchlist(self) -> None:
        """The page is another process: what is changed there is in the data folder, if that is the same one."""
        while self._watching is not None:
            await asyncio.sleep(_FOLLOW_S)
            self._watching.take_over()

    # --- the page --------------------------------------------------------------------------------------------------

    async def _start_follower(self, info: str, log: KafkaLogWriter | None) -> Follower:
        """Follow the database, which gets its tables now if it has none.

        Raises:
            StoreMismatch: it holds rows of another log or kind of data.
        """
        await asyncio.to_thread(self._check_store, info, log)
        self._go_on()
        follower = Follower(
            self._settings, info, self._hub, on_alerts=self._wake_sender, on_end=self._thread_ended
        )  # fmt: skip
        follower.start()
        self._undo.push_async_callback(asyncio.to_thread, follower.stop)
        return follower

    def _check_store(self, info: str, log: KafkaLogWriter | None) -> None:
        store = self._connect_store(info)
        try:
            owner = store.owner()
        finally:
            store.close()
        if owner is not None and (owner[1] is not self._origin or (log is not None and owner[0] != log.log_id)):
            ours = (self._origin.value, None if log is None else log.log_id)
            raise StoreMismatch(mismatch((owner[1].value, owner[0]), ours, self._settings.db_name))

    def _start_watch(self, place: KafkaPlace, follower: Follower) -> LaneWatch:
        lanes = open_lanes(replace(place, deadline_ms=_WATCH_DEADLINE_MS), market_of)
        watch = LaneWatch(lanes, follower, on_end=self._thread_ended)
        watch.start()
        self._undo.push_async_callback(asyncio.to_thread, watch.stop)
        return watch

    async def _open_page(self, info: str, board: Board, parts: Parts, say: Say) -> None:
        log = source_of(self._settings, self._folder) if self._settings.kafka_servers is not None else None
        server = await self._start_server(info, board, parts, log)
        self._go_on()
        await self._start_people(info, server.url, board, parts.calendar)
        self._instance.announce(server.url)
        say(server.url, self._origin)


class _NoTail(Tail):
    """Nobody computes here, so nothing is kept."""

    def add(self, batch: Batch) -> None:
        pass


def _found_origin(settings: Settings) -> Origin:
    """The kind of data that the database holds; where there is none yet, the kind that a feed here would write."""
    store = StoreWriter.connect(_database(settings))
    try:
        store.initialise()
        owner = store.owner()
    finally:
        store.close()
    return owner[1] if owner is not None else origin_of(settings, None)
