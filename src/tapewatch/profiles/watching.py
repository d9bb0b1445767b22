"""What is watched changes at run time: the decoder, the history, the topics and the feeds follow, in this order.

    POST /api/v1/watchlist ─► watchlist.json ─► Wanted ─► queue ─► decoder keeps the new symbols from here on
                                             └► warm: WARMUP by REST ─► topics of each market ─► warm again

An answer does not wait for the history: a symbol is *warming* until it is there. The history comes before the first
trade of the stream, or that trade would make it late; and once more after the exchange has answered, for the trades
between. A market of which nothing was watched gets a connection, and one of which nothing is left gives it back; all
others keep theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from tapewatch.errors import InputError
from tapewatch.feed.client import FeedClient
from tapewatch.feed.queue import FrameQueue, Wanted
from tapewatch.feed.subscriptions import coverage
from tapewatch.feed.symbols import market_of, product_symbol
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market

__all__ = ["Markets", "Watching"]

ANSWER_S: Final = 12.0
"""The exchange answers within this time, or the topic is called unconfirmed."""
_POLL_S: Final = 0.1
_log = structlog.get_logger(__name__)


class Markets(Protocol):
    """What is needed of the pipeline that holds the feeds."""

    @property
    def clients(self) -> list[FeedClient]:
        """The feeds, one for each market; the list itself."""

    def topics(self, market: Market) -> list[str]:
        """What to ask for of the watched symbols of a market."""

    def channel(self, market: Market) -> str:
        """The channel that the market's prices come from: T, A or AM."""

    def open_market(self, market: Market) -> None:
        """Make a client of the market, add it to ``clients`` and start it."""

    async def close_market(self, market: Market) -> None:
        """Stop the market's client and take it out of ``clients``."""

    @property
    def given_up(self) -> Mapping[Market, str]:
        """Why a market's feed does not run any more."""


class Watching:
    """The `serve.watchlist.Watched` of a pipeline whose feeds are in this process. In one event loop."""

    def __init__(
        self,
        watchlist: Watchlist,
        markets: Markets | None,
        queue: FrameQueue,
        *,
        warm: Callable[[Sequence[str]], Awaitable[object]],
        check: Callable[[Sequence[str]], object],
        on_bug: Callable[[BaseException], object],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``markets`` is None where the feeds are in another process, which then follows by `take_over`.

        ``warm`` fetches the history of symbols, and returns when it is recorded or cannot be had.

        ``check`` raises a `TapewatchError` when the source has no such symbols. ``on_bug`` is told of an error that
        nobody waits for.
        """
        self._watchlist = watchlist
        self._markets = markets
        self._queue = queue
        self._warm = warm
        self._check = check
        self._on_bug = on_bug
        self._clock_ns = clock_ns
        self._unread = ""
        """Why the file of changes could not be read when it was looked at last."""
        self._warming: dict[str, None] = {}
        self._following = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def shown(self) -> dict[str, Any]:
        """A `serve.models.Watchlist`."""
        symbols = self._watchlist.symbols
        shown: dict[str, Any] = {
            "wanted": list(symbols),
            "added": list(self._watchlist.added),
            "removed": list(self._watchlist.removed),
            "warming": list(self._warming),
            "markets": [],
        }
        kinds = ("effective", "waiting", "unconfirmed", "refused")
        shown |= {kind: [] for kind in kinds}
        markets = self._markets
        known = {} if markets is None else {client.state.market: client for client in markets.clients}
        for market in sorted({market_of(symbol) for symbol in symbols}):
            client = known.get(market)
            if client is None or markets is None:
                shown["waiting"] += [symbol for symbol in symbols if market_of(symbol) is market]
                continue
            found, state = coverage(symbols, market, client.topics), client.state
            for kind in kinds:
                shown[kind] += getattr(found, kind)
            shown["markets"].append({
                "market": market.name.lower(),
                "channel": markets.channel(market),
                "whole_market": any(topic.endswith(".*") for topic in client.topics.asked),
                "delay_ms": state.delay_ms,
                "notices": list(state.notices),
            })  # fmt: skip
        return shown

    async def add(self, names: Sequence[str]) -> dict[str, Any]:
        """Watch these too.

        Raises:
            InputError: a name is no symbol, or there are too many.
            MachineError: the change cannot be kept.
            SettingsError: the source has no such symbols.
        """
        self._check(names)
        if new := self._watchlist.add(names):
            _log.info("watched", added=new)
            self._apply(new)
        return self.shown()

    async def remove(self, names: Sequence[str]) -> dict[str, Any]:
        """Watch these no more. Raises: as `add`; also InputError when one is not watched, or none would be left."""
        gone = self._watchlist.remove(names)
        _log.info("watched", removed=gone)
        for name in gone:
            self._warming.pop(name, None)
        self._apply([])
        return self.shown()

    def take_over(self) -> None:
        """Another process may have changed the watchlist: look, and follow. What cannot be read changes nothing."""
        before = self._watchlist.symbols
        try:
            is_changed = self._watchlist.reload()
        except InputError as error:
            if str(error) != self._unread:
                _log.error("the watchlist is as before", why=str(error))
            self._unread = str(error)
            return
        self._unread = ""
        if is_changed:
            self._apply([symbol for symbol in self._watchlist.symbols if symbol not in before])

    async def stop(self) -> None:
        """Give up what is under way; the watchlist is kept, and the next start takes it up."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _apply(self, new: Sequence[str]) -> None:
        if self._markets is None:
            return
        self._queue.put(Wanted(frozenset(self._watchlist.symbols), self._clock_ns()))
        self._warming |= dict.fromkeys(new)
        task = asyncio.create_task(self._follow(self._markets, list(new)), name="watchlist")
        self._tasks.add(task)
        task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)

    async def _follow(self, markets: Markets, new: Sequence[str]) -> None:
        """Make the feeds what the watchlist says, one change after the other."""
        async with self._following:
            if new:
                await self._warm(new)
            await self._tell_exchange(markets)
            if new:
                await self._answered(new)
                await self._warm(new)
        for name in new:
            self._warming.pop(name, None)

    async def _tell_exchange(self, markets: Markets) -> None:
        wanted = {market_of(symbol) for symbol in self._watchlist.symbols}
        for client in list(markets.clients):
            market = client.state.market
            if market not in wanted or market in markets.given_up:
                await markets.close_market(market)
            elif list(client.topics.asked) != (topics := markets.topics(market)):
                await client.watch(topics)
        for market in sorted(wanted - {client.state.market for client in markets.clients}):
            markets.open_market(market)

    async def _answered(self, new: Sequence[str]) -> None:
        """Until the exchange has answered for each of the new symbols, or will not any more."""
        clock = asyncio.get_running_loop()
        until_s = clock.time() + ANSWER_S
        mine = {product_symbol(name) for name in new}
        while clock.time() < until_s and not mine.isdisjoint(self.shown()["waiting"]):
            await asyncio.sleep(_POLL_S)
