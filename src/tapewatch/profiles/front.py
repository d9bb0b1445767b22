"""What is in front of the log and behind the database, in whatever profile: feeds, page, stream, notifications.

A profile is a `Front` of its own that adds what lies between. At its end (`lifetime.py`) everything is stopped by the
exit stack, in the opposite order of its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from tapewatch.capturefile import Head
from tapewatch.errors import StoreUnavailable
from tapewatch.feed.backfill import Fill, History, fill
from tapewatch.feed.capture import Capture
from tapewatch.feed.client import FeedClient
from tapewatch.feed.coinbase_history import CALLS_PER_MINUTE, coinbase_fill
from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.flatfile import peek_symbols
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import FrameQueue
from tapewatch.feed.rest import Pace, Rest
from tapewatch.feed.symbols import every_topic, market_of, product_symbol
from tapewatch.profiles.capture import folder_capture
from tapewatch.profiles.explain import Explainer, stored_by
from tapewatch.profiles.explain_source import OpenSources
from tapewatch.profiles.feed_facts import FeedFacts
from tapewatch.profiles.feeds import Feeds, Given
from tapewatch.profiles.instance import Instance, Role, folder_of
from tapewatch.profiles.lag_alarm import LagAlarm
from tapewatch.profiles.lifetime import Lifetime
from tapewatch.profiles.market import KEY, SimulatorProcess
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.people import People
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.refill import Found, Past
from tapewatch.profiles.rulebook import Rulebook
from tapewatch.profiles.sources import (
    COINBASE,
    Plumbing,
    address_of,
    check_symbols,
    claim,
    head_of,
    plumbing,
    recorded_topics,
    shown_source,
)
from tapewatch.profiles.watching import Watching
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market, Origin, Tables
from tapewatch.serve.app import create_app
from tapewatch.serve.auth import allowed_hosts
from tapewatch.serve.health import Pulse
from tapewatch.serve.server import HttpServer
from tapewatch.serve.stream import StreamHub
from tapewatch.sessions import Calendar
from tapewatch.settings import Settings
from tapewatch.store.queries import Queries
from tapewatch.store.writer import StoreWriter

__all__ = ["Front", "Replay", "origin_of"]

_STORE_PATIENCE_S: Final = 10.0
"""A database that does not answer at the start may just be starting; after this long it is an error."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded days, or raw captures, to play instead of a live feed; ``speed`` times their own pace, or ``max``."""

    files: Sequence[Path]
    speed: str

    def topics(self) -> dict[Market, list[str]]:
        """Everything of every market that the files hold.

        Raises:
            InputError: a file cannot be read.
        """
        if (head := self.head()) is not None:
            return recorded_topics(head)
        markets = {market_of(product_symbol(name)) for path in self.files for name in peek_symbols(path)}
        return {market: [every_topic(market)] for market in sorted(markets)}

    def head(self) -> Head | None:
        """What is played, if it is a raw capture; None for trades of a day. Raises: as `topics`."""
        return head_of(self.files)


def origin_of(settings: Settings, replay: object | None) -> Origin:
    """The kind of data that a pipeline with these settings has."""
    if replay is not None:
        return Origin.REPLAYED
    return Origin.SIMULATED if settings.is_simulated else Origin.LIVE


class Front(Lifetime):
    """Feeds, page and notifications of one pipeline. To be made in the event loop.

    ``undo`` stops, in the opposite order, what the methods start.
    """

    def __init__(
        self, settings: Settings, replay: Replay | None, undo: AsyncExitStack, origin: Origin | None = None,
        *, roles: Sequence[Role] = (Role.RUN,),
    ) -> None:  # fmt: skip
        """The folder is held from here on, before anything of it is read; ``roles`` are what this process is there.

        ``origin`` is the kind of data, where it is not what a feed with these settings has.

        Raises:
            MachineError: the folder cannot be used, or another process has the role there.
            InputError: what it keeps, or what is to be played, cannot be read.
        """
        super().__init__()
        self._settings = settings
        self._replay = replay
        self._undo = undo
        self._origin = origin or origin_of(settings, replay)
        self._folder = folder_of(settings.data_dir, self._origin)
        self._instance, *_ = [undo.enter_context(Instance(self._folder, self._origin, role)) for role in roles]
        self._queue = FrameQueue()
        self._tables = Tables()
        self._hub = StreamHub()
        self._rulebook = Rulebook(settings)
        self._recorder: Recorder | None = None
        self._fetch: Past | None = None
        self._simulator: SimulatorProcess | None = None
        self._facts = FeedFacts(settings)
        self._aside: set[Market] = set(Market) if self._facts.compares and replay is None else set()
        """Markets whose bars are only compared with ours, and not recorded."""
        self._watching: Watching | None = None
        self._people = People(settings, self._origin, self._rulebook, self._end)
        self._watchlist = Watchlist(settings.symbols, self._folder) if replay is None else None
        self._feeds = Feeds(
            settings, self._watchlist, self._client, on_end=self._end, on_bars=self._take_bars,
            on_finished=None if replay is None else self._over,
        )  # fmt: skip
        self._recorded = None if replay is None else replay.head()
        self._source = settings.feed if self._recorded is None else self._recorded.source
        self._capture: Capture | None = None

    # --- what comes before the log ---------------------------------------------------------------------------------

    def _wanted(self) -> dict[Market, list[str]]:
        """What to subscribe to, by market."""
        if self._replay is not None:
            return self._replay.topics()
        symbols = self._symbols()
        check_symbols(self._settings, symbols)
        return {market: self._feeds.topics(market) for market in sorted({market_of(symbol) for symbol in symbols})}

    def _symbols(self, market: Market | None = None) -> list[str]:
        """All that is watched, or that of one market; nothing in a replay, which takes all."""
        symbols = () if self._watchlist is None else self._watchlist.symbols
        return [symbol for symbol in symbols if market is None or market_of(symbol) is market]

    def _claim(self) -> None:
        """The folder is now this source's. Raises SettingsError when it holds another's data."""
        if self._origin is Origin.LIVE:
            claim(self._folder, self._settings)

    def _start_simulator(self) -> SimulatorProcess | None:
        says = self._folder / "simulator.log"
        if self._replay is not None:
            simulator = SimulatorProcess.replaying(self._replay.files, self._replay.speed, says)
        elif self._settings.is_simulated:
            simulator = SimulatorProcess.seeded(self._settings.simulator_seed, self._settings.simulator_rate, says)
        else:
            return None
        self._undo.push_async_callback(asyncio.to_thread, simulator.stop)
        return simulator

    def _ingest(self) -> Ingest:
        wanted = None if self._replay is not None else self._symbols()
        # A recording says the same whenever it is played: by the frozen table of conditions.
        conditions = self._facts.conditions if self._replay is None else None
        self._facts.ingest = ingest = Ingest(
            self._tables, Seen(), wanted, event_time=self._replay is not None and self._recorded is None,
            future_limit_ms=self._settings.future_limit_ms, conditions=conditions, aside=self._aside,
            on_bars=self._facts.comparison.theirs,
        )  # fmt: skip
        return ingest

    def _past(self, simulator: SimulatorProcess | None) -> Past | None:
        """What fills gaps and makes symbols warm: the exchange's REST side."""
        if self._replay is not None:
            return None
        if self._settings.feed == COINBASE:
            self._fetch = self._coinbase_past()
            return self._fetch
        pace, barred = Pace(self._settings.rest_calls_per_minute), set[Market]()

        async def past(market: Market, symbols: Sequence[str], from_ms: int, to_ms: int, within_s: float) -> Fill:
            url, key = self._rest(simulator)
            mine = list(symbols) or self._symbols(market)
            channel = self._feeds.channel(market)
            async with History(url, key, pace=pace, barred=barred) as history:
                return await fill(
                    history, Decoder(self._tables, None, self._facts.conditions), mine, from_ms, to_ms,
                    within_s=within_s, bars="second" if channel == "A" else "minute", beside_trades=channel == "T",
                )  # fmt: skip

        self._fetch = past
        return past

    def _coinbase_past(self) -> Past:
        pace, url = Pace(CALLS_PER_MINUTE), self._settings.coinbase_rest_url

        async def past(market: Market, symbols: Sequence[str], from_ms: int, to_ms: int, within_s: float) -> Fill:
            mine = list(symbols) or self._symbols(market)
            async with Rest(url, "", pace=pace) as rest:
                return await coinbase_fill(rest, Decoder(self._tables, None), mine, from_ms, to_ms, within_s=within_s)

        return past

    def _rest(self, simulator: SimulatorProcess | None) -> tuple[str, str]:
        """Address and key of the REST side."""
        if simulator is not None:
            return simulator.rest_url, KEY
        key = self._settings.massive_api_key
        return self._settings.massive_rest_url, KEY if key is None else key.get_secret_value()

    async def warm(self, symbols: Sequence[str]) -> None:
        """Fetch WARMUP of symbols that are to be watched from now on; returns when it is recorded, or cannot be had.

        To be called before their first trade can come by the stream, or that trade makes their past late.
        """
        recorder, fetch, s = self._recorder, self._fetch, self._settings
        if recorder is None or fetch is None or s.warmup_ms == 0:
            return
        for market in sorted({market_of(symbol) for symbol in symbols}):
            now_ms = time.time_ns() // 1_000_000 - self._feeds.delay_ms(market)
            mine = tuple(product_symbol(symbol) for symbol in symbols if market_of(symbol) is market)
            got = await fetch(market, mine, now_ms - s.warmup_ms, now_ms, s.backfill_deadline_ms / 1_000)
            if got.missing:
                _log.warning("symbols are not warm", symbols=got.missing, why=got.why)
            found = Found(market, mine, now_ms - s.warmup_ms, now_ms, got)
            recorder.offer(found)
            await asyncio.to_thread(found.recorded.wait, s.backfill_deadline_ms / 1_000)

    def _prepare_feeds(self, wanted: dict[Market, list[str]], simulator: SimulatorProcess | None) -> list[FeedClient]:
        """The clients, one for each market; the list is the feeds' own, and changes with what is watched."""
        self._simulator = simulator
        self._watch(self._feeds)
        if self._replay is None and (capture := folder_capture(self._settings, self._origin, wanted)) is not None:
            self._capture = capture
            self._undo.push_async_callback(asyncio.to_thread, capture.stop)
        self._undo.push_async_callback(self._feeds.stop)  # what holds locks from now on
        for market, mine in wanted.items():
            self._feeds.prepare(market, mine)
        return self._feeds.clients

    def _client(self, market: Market, topics: Sequence[str], given: Given) -> FeedClient:
        s = self._settings
        url, key = address_of(s, self._simulator)
        pipe = self._plumbing(market)
        return FeedClient(
            market, url, key, topics, pipe.sink, delay_ms=given.delay_ms, behind_ms=given.behind_ms, terms=given.terms,
            silence_ms=s.feed_silence_ms, replay=self._replay is not None, session=pipe.session,
            on_status=pipe.on_status, on_state=pipe.on_state,
        )  # fmt: skip

    def _plumbing(self, market: Market) -> Plumbing:
        """What stands between a market's client and the queue."""
        return plumbing(market, self._queue, self._source, capture=self._capture, recorded=self._recorded)

    def _watch(self, feeds: Feeds | None) -> None:
        """What is watched can be asked for and changed from now on; ``feeds`` follow it, where they are here."""
        if self._watchlist is not None:
            self._watching = Watching(
                self._watchlist, feeds, self._queue, warm=self.warm, check=partial(check_symbols, self._settings),
                on_bug=self._end,
            )  # fmt: skip

    def _start_feeds(self, recorder: Recorder) -> None:
        self._recorder = recorder
        if self._replay is None and self._settings.feed != COINBASE and not self._settings.is_simulated:
            refreshing = asyncio.create_task(self._facts.keep_fresh(*self._rest(None)), name="conditions")
            self._undo.callback(refreshing.cancel)
            refreshing.add_done_callback(lambda t: None if t.cancelled() else self._end(t.exception()))
        self._feeds.start()
        if self._replay is None:
            looking = asyncio.create_task(self._alarm(recorder).run(), name="lag")
            self._undo.callback(looking.cancel)
            looking.add_done_callback(lambda t: None if t.cancelled() else self._end(t.exception()))
        self._undo.push_async_callback(self._feeds.stop)
        if self._watching is not None:
            self._undo.push_async_callback(self._watching.stop)

    def _alarm(self, recorder: Recorder) -> LagAlarm:
        return LagAlarm(self._settings, self._feeds.clients, recorder.lag)

    def _take_bars(self, market: Market) -> None:
        """Bars are what a market's prices come from: they are recorded, and compared with nothing."""
        self._aside.discard(market)

    def _over(self, market: Market) -> None:
        """A market's recording has come to its end."""
        assert self._recorder is not None
        self._feeds.given_up[market] = "The recording is over; the last of it is being computed."
        self._recorder.finish(market, partial(self._loop.call_soon_threadsafe, self._finished, market))

    def _finished(self, market: Market) -> None:
        self._feeds.given_up[market] = "The recording is finished."
        _log.info("recording finished", market=market.name.lower())

    # --- what comes after the database ---------------------------------------------------------------------------

    def _connect_store(self, info: str) -> StoreWriter:
        """Wait a while for a database that is just starting; a wrong setting is told at once."""
        deadline = time.monotonic() + _STORE_PATIENCE_S
        while True:
            try:
                store = StoreWriter.connect(info)
                break
            except StoreUnavailable:
                if time.monotonic() > deadline or self._ended.done():
                    raise
                time.sleep(0.5)
        store.initialise()
        return store

    async def _start_server(
        self, info: str, status: Callable[[], dict[str, Any]], parts: Parts, log: OpenSources | None
    ) -> HttpServer:
        """``parts`` are those of the engine; minutes are explained from ``log``, if this process knows it."""
        s = self._settings
        source = shown_source(s, self._recorded, self._origin)

        def told() -> dict[str, Any]:
            return status() | {"source": source}

        queries = Queries(info)
        await queries.open()
        self._undo.push_async_callback(queries.close)
        pulse = Pulse(oldest=self._oldest_ms, feed=self._facts.told)
        sampling = asyncio.create_task(pulse.run(told), name="pulse")
        self._undo.callback(sampling.cancel)
        sampling.add_done_callback(lambda t: None if t.cancelled() else self._end(t.exception()))
        token = s.api_token.get_secret_value() if s.api_token else None
        explainer = Explainer(log, parts, stored_by(queries)) if log is not None else None
        app = create_app(
            queries, self._hub, told, origin=self._origin, api_token=token,
            hosts=allowed_hosts(s.http_host, s.http_names), delay_ms=s.feed_delay_ms,
            window_ms=s.window_ms, slide_ms=s.slide_ms, calendar=parts.calendar, pulse=pulse,
            explain=explainer.explain if explainer is not None else None, watched=self._watching,
            ruled=self._rulebook, life=self._people.life,
        )  # fmt: skip
        server = HttpServer(app, s.http_host, s.http_port)
        await server.start()
        self._undo.push_async_callback(server.stop)
        return server

    def _oldest_ms(self) -> int | None:
        """Event time of the oldest record of a log that is here; None where it is elsewhere, or empty."""
        return None

    def _wake_sender(self) -> None:
        """From any thread: there may be something to send."""
        self._people.wake()

    async def _start_people(
        self, info: str, link: str, status: Callable[[], dict[str, Any]], calendar: Calendar
    ) -> None:
        """``info`` may write; ``link`` is where the page is, unless alerts.toml says where."""
        await self._people.start(info, link, status, calendar, self._undo)
