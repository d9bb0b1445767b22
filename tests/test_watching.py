"""What is watched changes at run time: what follows, in which order, and what is shown meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tapewatch.errors import InputError, SettingsError
from tapewatch.feed.client import FeedClient, FeedState, Topics
from tapewatch.feed.queue import FrameQueue, Wanted
from tapewatch.feed.subscriptions import topics_of
from tapewatch.feed.wire import Phase
from tapewatch.profiles.watching import Watching
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market
from virtual_time import run_virtual

DEADLINE_S = 600.0
"""In leaping time (`virtual_time.py`)."""


class FakeClient(FeedClient):
    """A client without a socket: what it is told is acknowledged when the test says so."""

    def __init__(self, market: Market, topics: Sequence[str], said: list[str]) -> None:
        self.market = market
        self.said = said
        self.asked = tuple(topics)
        self.known = Topics(self.asked, acked=self.asked)

    @property
    def state(self) -> FeedState:
        return FeedState(self.market, Phase.LIVE, 0, "", 0, 0, (), 0, 0, delay_ms=900_000, notices=("Late.",))

    @property
    def topics(self) -> Topics:
        return self.known

    async def watch(self, topics: Sequence[str]) -> None:
        self.said.append(f"watch {','.join(topics)}")
        self.asked = tuple(topics)
        acked = tuple(topic for topic in self.known.acked if topic in topics)
        self.known = Topics(self.asked, acked, self.known.unconfirmed, self.known.refused)

    def answer(self, *, refused: Sequence[str] = (), unconfirmed: Sequence[str] = ()) -> None:
        rest = [topic for topic in self.asked if topic not in {*refused, *unconfirmed}]
        self.known = Topics(self.asked, tuple(rest), tuple(unconfirmed), tuple(refused))


class Pipeline:
    """The `Markets` of a test; ``said`` is what happened, in order."""

    def __init__(self, folder: Path, *symbols: str) -> None:
        self.said: list[str] = []
        self.bugs: list[BaseException] = []
        self.watchlist = Watchlist(symbols, folder)
        self.clients: list[FeedClient] = []
        self.given_up: dict[Market, str] = {}
        self.queue = FrameQueue()
        self.wildcard_above = 1_000
        self.history = asyncio.Event()
        self.history.set()
        self.watching = Watching(
            self.watchlist, self, self.queue, warm=self.warm, check=self.check, on_bug=self.bugs.append,
            clock_ns=lambda: 7,
        )  # fmt: skip
        for market in Market:
            if self.topics(market):
                self.open_market(market)
        self.said.clear()

    def client(self, market: Market) -> FakeClient:
        found = next(client for client in self.clients if client.state.market is market)
        assert isinstance(found, FakeClient)
        return found

    def topics(self, market: Market) -> list[str]:
        return topics_of(self.watchlist.symbols, market, wildcard_above=self.wildcard_above)

    def channel(self, market: Market) -> str:
        return "T"

    def open_market(self, market: Market) -> None:
        self.said.append(f"open {market.name}")
        self.given_up.pop(market, None)
        self.clients.append(FakeClient(market, self.topics(market), self.said))

    async def close_market(self, market: Market) -> None:
        self.said.append(f"close {market.name}")
        self.clients.remove(self.client(market))

    async def warm(self, symbols: Sequence[str]) -> None:
        self.said.append(f"warm {','.join(symbols)}")
        await self.history.wait()

    def check(self, symbols: Sequence[str]) -> None:
        if "NOWHERE" in symbols:
            raise SettingsError("FEED has no NOWHERE.")

    async def until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            assert self.bugs == []
            await asyncio.sleep(0.002)


def play(folder: Path, scene: Callable[[Pipeline], Coroutine[Any, Any, None]], *symbols: str) -> Pipeline:
    async def main() -> Pipeline:
        pipeline = Pipeline(folder, *symbols)
        async with asyncio.timeout(DEADLINE_S):
            await scene(pipeline)
            await pipeline.watching.stop()
        assert pipeline.bugs == []
        return pipeline

    return run_virtual(main())


def test_history_comes_before_the_subscription_and_once_more_after_the_answer(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        p.history.clear()
        shown = await p.watching.add(["nvda"])
        assert (shown["wanted"], shown["added"], shown["warming"]) == (["AAPL", "NVDA"], ["NVDA"], ["NVDA"])
        assert (shown["effective"], shown["waiting"]) == (["AAPL"], ["NVDA"])
        await p.until(lambda: p.said == ["warm NVDA"])
        p.history.set()
        await p.until(lambda: p.said == ["warm NVDA", "watch T.AAPL,T.NVDA"])
        assert p.watching.shown()["warming"] == ["NVDA"]
        p.client(Market.STOCKS).answer()
        await p.until(lambda: p.watching.shown()["warming"] == [])
        assert p.said == ["warm NVDA", "watch T.AAPL,T.NVDA", "warm NVDA"]
        assert p.watching.shown()["effective"] == ["AAPL", "NVDA"]
        assert p.queue.take(10, 0) == [Wanted(frozenset({"AAPL", "NVDA"}), 7)]

    play(tmp_path, scene, "AAPL")


def test_a_symbol_that_is_watched_already_changes_nothing(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        await p.watching.add(["AAPL", "aapl"])
        assert len(p.queue) == 0

    assert play(tmp_path, scene, "AAPL").said == []


def test_a_new_market_gets_a_connection_and_an_empty_one_gives_it_back(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        await p.watching.add(["BTC"])
        await p.until(lambda: p.watching.shown()["warming"] == [])
        assert p.said == ["warm BTC", "open CRYPTO", "warm BTC"]
        shown = await p.watching.remove(["AAPL"])
        assert (shown["wanted"], shown["removed"]) == (["BTC"], ["AAPL"])
        await p.until(lambda: p.said[-1] == "close STOCKS")
        assert [one["market"] for one in p.watching.shown()["markets"]] == ["crypto"]

    play(tmp_path, scene, "AAPL")


def test_a_removed_symbol_is_given_back_and_no_history_is_fetched(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        await p.watching.remove(["TSLA"])
        await p.until(lambda: p.said == ["watch T.AAPL"])
        assert p.queue.take(10, 0) == [Wanted(frozenset({"AAPL"}), 7)]

    play(tmp_path, scene, "AAPL", "TSLA")


def test_refused_and_unconfirmed_symbols_are_shown_and_are_not_waited_for(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        await p.watching.add(["NVDA", "ZZZZ"])
        await p.until(lambda: "watch T.AAPL,T.NVDA,T.ZZZZ" in p.said)
        p.client(Market.STOCKS).answer(refused=["T.NVDA"], unconfirmed=["T.ZZZZ"])
        await p.until(lambda: p.watching.shown()["warming"] == [])
        shown = p.watching.shown()
        assert (shown["refused"], shown["unconfirmed"], shown["effective"]) == (["NVDA"], ["ZZZZ"], ["AAPL"])
        assert shown["markets"] == [
            {"market": "stocks", "channel": "T", "whole_market": False, "delay_ms": 900_000, "notices": ["Late."]}
        ]

    play(tmp_path, scene, "AAPL")


def test_many_symbols_are_watched_by_the_whole_market(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        p.wildcard_above = 2
        await p.watching.add(["NVDA", "MSFT"])
        await p.until(lambda: "watch T.*" in p.said)
        p.client(Market.STOCKS).answer()
        shown = p.watching.shown()
        assert shown["effective"] == ["AAPL", "NVDA", "MSFT"]
        assert shown["markets"][0]["whole_market"] is True

    play(tmp_path, scene, "AAPL")


def test_a_market_that_was_given_up_is_tried_again_with_another_wish(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        p.given_up[Market.STOCKS] = "The plan has none of them."
        await p.watching.add(["NVDA"])
        await p.until(lambda: p.said == ["warm NVDA", "close STOCKS", "open STOCKS", "warm NVDA"])

    play(tmp_path, scene, "AAPL")


@pytest.mark.parametrize(("name", "error"), [("A B", InputError), ("NOWHERE", SettingsError)])
def test_what_is_refused_changes_nothing(tmp_path: Path, name: str, error: type[Exception]) -> None:
    async def scene(p: Pipeline) -> None:
        with pytest.raises(error):
            await p.watching.add([name])
        assert (p.watching.shown()["wanted"], len(p.queue)) == (["AAPL"], 0)

    play(tmp_path, scene, "AAPL")


def test_another_process_changes_the_watchlist(tmp_path: Path) -> None:
    """The page without feeds keeps the change; the process with the feeds follows it."""

    async def scene(p: Pipeline) -> None:
        async def nothing(symbols: Sequence[str]) -> None:
            raise AssertionError("nothing is fetched where no feed is")

        page = Watching(
            Watchlist(["AAPL"], tmp_path), None, FrameQueue(), warm=nothing, check=p.check, on_bug=p.bugs.append
        )
        shown = await page.add(["NVDA"])
        assert (shown["wanted"], shown["waiting"], shown["markets"]) == (["AAPL", "NVDA"], ["AAPL", "NVDA"], [])
        p.watching.take_over()
        await p.until(lambda: "watch T.AAPL,T.NVDA" in p.said)
        p.client(Market.STOCKS).answer()
        await p.until(lambda: p.watching.shown()["warming"] == [])
        said = list(p.said)
        p.watching.take_over()
        await asyncio.sleep(0)
        assert p.said == said, "what is known already is not followed again"

    play(tmp_path, scene, "AAPL")


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    async def scene(p: Pipeline) -> None:
        (tmp_path / "watchlist.json").write_text('{"added": ["NVDA"')
        p.watching.take_over()
        assert (p.watching.shown()["wanted"], len(p.queue)) == (["AAPL"], 0)
        (tmp_path / "watchlist.json").write_text('{"added": ["NVDA"]}')
        p.watching.take_over()
        assert p.watching.shown()["wanted"] == ["AAPL", "NVDA"]

    play(tmp_path, scene, "AAPL")


def test_a_bug_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        pipeline = Pipeline(tmp_path, "AAPL")

        async def broken(symbols: Sequence[str]) -> None:
            raise AssertionError("a bug")

        watching = Watching(
            pipeline.watchlist, pipeline, pipeline.queue, warm=broken, check=pipeline.check,
            on_bug=pipeline.bugs.append,
        )  # fmt: skip
        await watching.add(["NVDA"])
        async with asyncio.timeout(DEADLINE_S):
            while not pipeline.bugs:
                await asyncio.sleep(0.002)
        assert str(pipeline.bugs[0]) == "a bug"

    run_virtual(main())
