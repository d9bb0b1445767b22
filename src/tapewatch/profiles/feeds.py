"""The feeds of one pipeline: a client for each market of which something is watched, and what became of each.

    prepare ─► lock (with a key) ─► client ─► start ─► task ─► refused: given up       bug: the pipeline ends
                                                            └► recording over: the recorder settles it

With a key and FEED_CHANNEL=auto each client first asks the exchange what the plan allows; what it takes, host, channel
and delay, is kept here for whoever needs it: the topics, the history by REST, the status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog

from tapewatch import metrics
from tapewatch.errors import FeedRefused, MachineError
from tapewatch.feed.client import FeedClient
from tapewatch.feed.coinbase import topic_of
from tapewatch.feed.endings import Ending
from tapewatch.feed.entitlement import BEHIND_MS, INPUTS, Host, find
from tapewatch.feed.state import Terms
from tapewatch.feed.subscriptions import of_market, topics_of
from tapewatch.profiles.feedlock import FeedLock
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market
from tapewatch.settings import DELAYED_PLAN_MS, Settings

__all__ = ["Feeds", "Given", "MakeClient", "hosts_of"]

_REAL_TIME: Final = "socket.massive.com"
_DELAYED: Final = "delayed.massive.com"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """What a market's client is given, beside its address and what stands between it and the queue."""

    delay_ms: int
    behind_ms: int = 0
    terms: Callable[[], Awaitable[Terms | Ending]] | None = None


MakeClient = Callable[[Market, Sequence[str], Given], FeedClient]


class Feeds:
    """In one event loop; `stop` ends what `start` and `open_market` began."""

    def __init__(
        self,
        settings: Settings,
        watchlist: Watchlist | None,
        make: MakeClient,
        *,
        on_end: Callable[[BaseException], object],
        on_finished: Callable[[Market], object] | None = None,
        on_bars: Callable[[Market], object] = lambda market: None,
    ) -> None:
        """``watchlist`` is None in a replay, whose ends ``on_finished`` is told of.

        ``on_end`` is told when there is nothing left to run for. ``on_bars`` is told of a market of which bars are
        taken instead of trades.
        """
        self._settings = settings
        self._watchlist = watchlist
        self._make = make
        self._on_end = on_end
        self._on_finished = on_finished
        self._on_bars = on_bars
        self._key = _real_key(settings) if watchlist is not None else None
        self._locks: dict[Market, ExitStack] = {}
        self._tasks: dict[Market, asyncio.Task[None]] = {}
        self._channels: dict[Market, str] = {}
        self._allowed: dict[Market, tuple[str, ...]] = {}
        self.clients: list[FeedClient] = []
        self.given_up: dict[Market, str] = {}
        """Why a market's feed does not run any more, a sentence each."""

    def channel(self, market: Market) -> str:
        """The channel that a market's prices come from: T (trades), or A or AM, its bars."""
        chosen = self._settings.feed_channel
        return self._channels.get(market, INPUTS[0] if chosen == "auto" else chosen)

    def delay_ms(self, market: Market) -> int:
        """How late a market's data is by the plan."""
        known = next((client.state.delay_ms for client in self.clients if client.state.market is market), None)
        return self._settings.feed_delay_ms if known is None else known

    def why_given_up(self, market: Market) -> str:
        """Why the market's feed does not run any more; empty while it does."""
        return self.given_up.get(market, "")

    def topics(self, market: Market) -> list[str]:
        """What to ask for of the watched symbols of a market."""
        assert self._watchlist is not None, "a replay has topics of its own"
        symbols = self._watchlist.symbols
        if self._settings.feed == "coinbase":
            return [topic_of(symbol) for symbol in of_market(symbols, market)]
        channel = self.channel(market)
        has_bars = "AM" in self._allowed.get(market, ("AM",))
        beside = ["AM"] if self._settings.compares_bars and channel == "T" and has_bars else []
        return topics_of(symbols, market, channel, beside=beside, wildcard_above=self._settings.feed_wildcard_above)

    def prepare(self, market: Market, topics: Sequence[str]) -> None:
        """Make the market's client; `start` starts it.

        Raises:
            MachineError: another program on this machine has this feed.
        """
        s = self._settings
        if self._key is not None and market not in self._locks:
            with ExitStack() as undo:
                undo.enter_context(FeedLock(self._key, market, s.massive_ws_url))
                self._locks[market] = undo.pop_all()
        asks = self._key is not None and s.feed_channel == "auto"
        channel = self.channel(market)
        if channel != INPUTS[0]:
            self._on_bars(market)
        terms = partial(self._terms, market, self._key) if asks and self._key is not None else None
        delay_ms = s.feed_delay_ms if self._key is None else hosts_of(s)[0].delay_ms
        self.clients.append(self._make(market, topics, Given(delay_ms, BEHIND_MS[channel], terms)))

    def start(self) -> None:
        """Run all clients that do not run yet."""
        for client in self.clients:
            market = client.state.market
            if market not in self._tasks:
                self._tasks[market] = asyncio.create_task(self._keep(client, market), name="feed")

    def open_market(self, market: Market) -> None:
        """Make a client of a market of which nothing was watched, and start it."""
        try:
            self.prepare(market, self.topics(market))
        except MachineError as error:
            _log.error("feed refused", market=market.name.lower(), why=str(error))
            self.given_up[market] = str(error)
            return
        self.given_up.pop(market, None)
        self.start()

    async def close_market(self, market: Market) -> None:
        """Stop a market's client, give its connection and its lock back, and forget it."""
        for client in [client for client in self.clients if client.state.market is market]:
            await client.stop()
            self.clients.remove(client)
        if (task := self._tasks.pop(market, None)) is not None:
            await asyncio.wait([task])
        self.given_up.pop(market, None)
        if (lock := self._locks.pop(market, None)) is not None:
            lock.close()

    async def stop(self) -> None:
        """Say good-bye on every connection, so that the exchange frees the places."""
        for client in self.clients:
            await client.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    async def _keep(self, client: FeedClient, market: Market) -> None:
        """Run one market's client to its end; without any market left there is nothing to run for."""
        try:
            await client.run()
        except FeedRefused as error:
            _log.error("feed refused", market=market.name.lower(), why=str(error))
            self.given_up[market] = str(error)
            if all(other.state.market in self.given_up for other in self.clients):
                self._on_end(error)
            return
        except Exception as error:  # noqa: BLE001 - a bug, at a task's top: stop the process, recovery does its work
            self._on_end(error)
            return
        if self._on_finished is not None:
            metrics.FEED_CONNECTED.remove(market.name.lower())  # a recording at its end is no feed that is down
            self._on_finished(market)

    async def _terms(self, market: Market, key: str) -> Terms | Ending:
        """What the plan allows of the market."""
        assert self._watchlist is not None
        symbol = next(iter(of_market(self._watchlist.symbols, market)), None)
        if symbol is None:  # taken from the watchlist meanwhile: this client is about to be stopped
            return Terms(self._settings.massive_ws_url, [], self._settings.feed_delay_ms)
        found = await find(market, hosts_of(self._settings), key, symbol)
        if isinstance(found, Ending):
            return found
        self._channels[market], self._allowed[market] = found.channel, found.allowed
        if found.channel != INPUTS[0]:
            self._on_bars(market)
        return Terms(found.host.url, self.topics(market), found.host.delay_ms, found.behind_ms, found.notices)


def hosts_of(settings: Settings) -> list[Host]:
    """Where the plan may allow something, the best first: MASSIVE_WS_URL, then the delayed host that belongs to it."""
    url, late = settings.massive_ws_url, settings.massive_delayed_url
    name = urlsplit(url).hostname
    if late is None and name == _REAL_TIME:
        late = url.replace(_REAL_TIME, _DELAYED)
    delay_ms = settings.feed_delay_ms or (DELAYED_PLAN_MS if name == _DELAYED else 0)
    hosts = [Host(url, delay_ms)]
    if late is not None and late != url:
        hosts.append(Host(late, settings.feed_delay_ms or DELAYED_PLAN_MS))
    return hosts


def _real_key(settings: Settings) -> str | None:
    """The key that the exchange knows; None where no key is needed."""
    if settings.feed == "coinbase" or settings.massive_api_key is None:
        return None
    return settings.massive_api_key.get_secret_value()
