"""Raw captures of the feeds: by themselves (`tapewatch record`), or beside a pipeline (CAPTURE_DIR).

    record     feed clients ─► capture ─► one file, until SIGTERM or SIGINT       no log, no engine, no database
    CAPTURE_DIR                feed clients ─► [capture] ─► queue ─► ...          files of a folder, the oldest go

What is recorded is what `tapewatch run` would watch, with the same locks: of a key with one connection for each market
either the pipeline or a recording has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tapewatch.capturefile import FeedHead, Head
from tapewatch.feed.capture import Capture, CaptureFolder, OneFile
from tapewatch.feed.client import FeedClient
from tapewatch.feed.symbols import market_of
from tapewatch.profiles.feeds import Feeds, Given
from tapewatch.profiles.instance import folder_of
from tapewatch.profiles.lifetime import Lifetime
from tapewatch.profiles.market import SimulatorProcess
from tapewatch.profiles.sources import address_of, check_symbols, plumbing
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market, Origin
from tapewatch.settings import Settings

__all__ = ["Recorded", "folder_capture", "record", "record_place"]

_MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording has written."""

    path: Path
    frames: int
    bytes: int


def record_place(out: Path | None, source: str) -> OneFile:
    """The file to record into: ``out``, or one named by the moment, in this folder."""
    return OneFile(out or Path(time.strftime(f"{source}-%Y%m%dT%H%M%SZ.jsonl.gz", time.gmtime())))


def folder_capture(settings: Settings, origin: Origin, wanted: Mapping[Market, Sequence[str]]) -> Capture | None:
    """The capture beside a pipeline, started; None without CAPTURE_DIR. Raises as `Capture.start`."""
    if settings.capture_dir is None:
        return None
    place = CaptureFolder(settings.capture_dir, settings.capture_mb_max * _MB)
    capture = Capture(_head(settings, origin, wanted), place)
    capture.start()
    return capture


async def record(settings: Settings, place: OneFile, say: Callable[[Path, Origin], None]) -> Recorded:
    """Record the feeds of ``settings`` until SIGTERM or SIGINT. ``say`` is told the file and the kind of data, once.

    Raises:
        InputError: the file is there already, or cannot be made.
        SettingsError: the source does not have a symbol's market.
        FeedRefused: the exchange refused every market.
        MachineError: the file cannot be written any more.
    """
    async with AsyncExitStack() as undo:
        recording = _Recording(settings, place, undo)
        await recording.run(recording.start(say))
        await undo.aclose()
        return recording.written()


class _Recording(Lifetime):
    def __init__(self, settings: Settings, place: OneFile, undo: AsyncExitStack) -> None:
        super().__init__()
        self._settings = settings
        self._place = place
        self._undo = undo
        self._origin = Origin.SIMULATED if settings.is_simulated else Origin.LIVE
        self._watchlist = Watchlist(settings.symbols, folder_of(settings.data_dir, self._origin))
        self._feeds = Feeds(settings, self._watchlist, self._client, on_end=self._end)
        self._capture: Capture | None = None
        self._simulator: SimulatorProcess | None = None

    async def start(self, say: Callable[[Path, Origin], None]) -> None:
        """Begin to record; then ``say``."""
        symbols = self._watchlist.symbols
        check_symbols(self._settings, symbols)
        wanted = {market: self._feeds.topics(market) for market in sorted(map(market_of, symbols))}
        head = _head(self._settings, self._origin, wanted)
        self._capture = capture = Capture(head, self._place, on_fail=self._thread_ended)
        capture.start()
        self._undo.push_async_callback(asyncio.to_thread, capture.stop)
        await self._start_simulator(self._place)
        self._go_on()
        self._undo.push_async_callback(self._feeds.stop)
        for market, mine in wanted.items():
            self._feeds.prepare(market, mine)
        self._feeds.start()
        say(self._place.path, self._origin)

    def written(self) -> Recorded:
        """What was recorded, after the end."""
        assert self._capture is not None
        return Recorded(self._place.path, self._capture.frames, self._capture.bytes_written)

    async def _start_simulator(self, place: OneFile) -> None:
        if not self._settings.is_simulated:
            return
        says = place.path.with_name(f"{place.path.name}.simulator.log")
        self._simulator = SimulatorProcess.seeded(self._settings.simulator_seed, self._settings.simulator_rate, says)
        self._undo.callback(says.unlink, missing_ok=True)
        self._undo.push_async_callback(asyncio.to_thread, self._simulator.stop)
        await asyncio.to_thread(self._simulator.wait_ready)

    def _client(self, market: Market, topics: Sequence[str], given: Given) -> FeedClient:
        url, key = address_of(self._settings, self._simulator)
        pipe = plumbing(market, None, self._settings.feed, capture=self._capture)
        return FeedClient(
            market, url, key, topics, pipe.sink, delay_ms=given.delay_ms, behind_ms=given.behind_ms, terms=given.terms,
            silence_ms=self._settings.feed_silence_ms, session=pipe.session, on_status=pipe.on_status,
            on_state=pipe.on_state,
        )  # fmt: skip


def _head(settings: Settings, origin: Origin, wanted: Mapping[Market, Sequence[str]]) -> Head:
    feeds = {
        market.name.lower(): FeedHead(topics=list(mine), delay_ms=settings.feed_delay_ms)
        for market, mine in wanted.items()
    }
    return Head(source=settings.feed, origin=origin, started_ns=0, feeds=feeds)
