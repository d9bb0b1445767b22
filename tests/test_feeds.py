"""The feeds of a pipeline: which hosts are asked, which topics follow from the plan, locks, and who is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.server import ServerConnection, serve

from tapewatch.errors import FeedRefused, MachineError
from tapewatch.feed.client import FeedClient, Terms
from tapewatch.feed.endings import REPLAY_FINISHED
from tapewatch.feed.entitlement import QUIET_S, Host
from tapewatch.feed.queue import FrameQueue
from tapewatch.feed.wire import Phase
from tapewatch.profiles.feeds import Feeds, Given, hosts_of
from tapewatch.profiles.watchlist import Watchlist
from tapewatch.records import Market
from tapewatch.settings import DELAYED_PLAN_MS, Settings, load_settings

DEADLINE_S = 120.0
KEY = "k" * 32


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine, and locks of this test alone."""
    for name in Settings.model_fields.values():
        monkeypatch.delenv(str(name.alias), raising=False)
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, [("wss://socket.massive.com", 0), ("wss://delayed.massive.com", DELAYED_PLAN_MS)]),
        ({"massive_ws_url": "wss://delayed.massive.com"}, [("wss://delayed.massive.com", DELAYED_PLAN_MS)]),
        ({"massive_ws_url": "ws://127.0.0.1:9"}, [("ws://127.0.0.1:9", 0)]),
        (
            {"massive_ws_url": "ws://127.0.0.1:9", "massive_delayed_url": "ws://127.0.0.1:9/delayed"},
            [("ws://127.0.0.1:9", 0), ("ws://127.0.0.1:9/delayed", DELAYED_PLAN_MS)],
        ),
        ({"massive_ws_url": "wss://x.massive.com", "feed_delay_ms": 600_000}, [("wss://x.massive.com", 600_000)]),
    ],
)  # fmt: skip
def test_the_hosts_that_may_allow_something(given: dict[str, Any], hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(load_settings(**given)) == [Host(*host) for host in hosts]


def made(settings: Settings, folder: Path, clients: list[Given] | None = None, **more: Any) -> Feeds:
    """Feeds whose clients connect to nothing, or to ``more["url"]``."""
    url = more.pop("url", "ws://127.0.0.1:1")

    def make(market: Market, topics: Sequence[str], given: Given) -> FeedClient:
        if clients is not None:
            clients.append(given)
        return FeedClient(market, url, KEY, topics, FrameQueue(), delay_ms=given.delay_ms, terms=given.terms)

    options: dict[str, Any] = {"on_end": lambda error: None} | more
    return Feeds(settings, Watchlist(settings.symbols, folder), make, **options)


def test_the_topics_follow_from_the_channel(tmp_path: Path) -> None:
    feeds = made(load_settings(symbols="AAPL,BTC", feed_channel="AM"), tmp_path)
    assert (feeds.channel(Market.STOCKS), feeds.topics(Market.STOCKS)) == ("AM", ["AM.AAPL"])
    assert feeds.topics(Market.CRYPTO) == ["XA.BTC-USD"]
    feeds = made(load_settings(symbols="AAPL,BTC", compare_bars="on"), tmp_path)
    assert feeds.topics(Market.STOCKS) == ["T.AAPL", "AM.AAPL"]
    feeds = made(load_settings(symbols="BTC,ETH", feed="coinbase"), tmp_path)
    assert feeds.topics(Market.CRYPTO) == ["matches.BTC-USD", "matches.ETH-USD"]


def test_only_with_a_key_is_the_plan_asked_and_the_feed_locked(tmp_path: Path) -> None:
    given: list[Given] = []
    first = made(load_settings(symbols="AAPL", massive_api_key=KEY), tmp_path, given)
    first.prepare(Market.STOCKS, ["T.AAPL"])
    second = made(load_settings(symbols="AAPL", massive_api_key=KEY), tmp_path, given)
    with pytest.raises(MachineError, match="has the stocks feed"):
        second.prepare(Market.STOCKS, ["T.AAPL"])
    second.prepare(Market.CRYPTO, ["XT.BTC-USD"])
    made(load_settings(symbols="AAPL"), tmp_path, given).prepare(Market.STOCKS, ["T.AAPL"])
    made(load_settings(symbols="BTC", feed="coinbase", massive_api_key=KEY), tmp_path, given).prepare(Market.CRYPTO, [])
    assert [one.terms is not None for one in given] == [True, True, False, False]


def test_only_a_real_exchange_is_late(tmp_path: Path) -> None:
    given: list[Given] = []
    late: dict[str, Any] = {"symbols": "AAPL", "massive_ws_url": "wss://delayed.massive.com"}
    made(load_settings(**late), tmp_path, given).prepare(Market.STOCKS, [])
    made(load_settings(massive_api_key=KEY, feed_channel="T", **late), tmp_path, given).prepare(Market.STOCKS, [])
    assert [one.delay_ms for one in given] == [0, DELAYED_PLAN_MS]


@pytest.mark.parametrize(
    ("given", "delay_ms"),
    [
        ({}, 0),
        ({"massive_api_key": KEY}, DELAYED_PLAN_MS),
        ({"massive_api_key": KEY, "feed_delay_ms": 600_000}, 600_000),
        ({"massive_api_key": KEY, "feed_channel": "T"}, 0),
        ({"massive_api_key": KEY, "feed": "coinbase"}, 0),
    ],
)
def test_alerts_of_a_plan_that_may_be_late_stay_news_so_much_longer(given: dict[str, Any], delay_ms: int) -> None:
    """The engine must decide alike in every replay, so by the settings and not by what the plan turned out to be."""
    assert load_settings(**given).delay_ms_max == delay_ms


def test_a_channel_by_hand_asks_nothing(tmp_path: Path) -> None:
    given: list[Given] = []
    bars: list[Market] = []
    settings = load_settings(symbols="AAPL", massive_api_key=KEY, feed_channel="AM")
    made(settings, tmp_path, given, on_bars=bars.append).prepare(Market.STOCKS, ["AM.AAPL"])
    assert [(one.terms, one.behind_ms) for one in given] == [(None, 62_000)]
    assert bars == [Market.STOCKS]


# --- with an exchange ----------------------------------------------------------------------------------------------


class Loop(asyncio.SelectorEventLoop):
    """Its clock can be put on: whoever waits need not."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Exchange:
    """Allows the ``channels`` of each path's market; the first part of a path may be ``delayed``.

    When it has refused something, and its words were heard, the time is over in which more might come.
    """

    def __init__(self, **channels: Sequence[str]) -> None:
        self.channels = channels
        self.subscribed: list[tuple[str, str]] = []
        self.url = ""

    async def __call__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        place = connection.request.path.strip("/").replace("/", "_")
        await connection.send(_status("connected"))
        await connection.recv()
        if place not in self.channels:
            await connection.send(_status("auth_failed", "Your plan doesn't include websocket access."))
            return
        await connection.send(_status("auth_success"))
        async for message in connection:
            said = json.loads(message)
            if said["action"] == "subscribe":
                await self._subscribe(connection, place, said["params"])

    async def _subscribe(self, connection: ServerConnection, place: str, params: str) -> None:
        self.subscribed.append((place, params))
        topics = params.split(",")
        held = [topic for topic in topics if topic.partition(".")[0] in self.channels[place]]
        if len(held) < len(topics):
            await connection.send(_status("error", "not authorized"))
        for topic in held:
            await connection.send(_status("success", f"subscribed to: {topic}"))
        if len(held) < len(topics):
            await (await connection.ping())
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            loop.ahead_s += QUIET_S


def _status(name: str, message: str = "") -> str:
    return json.dumps([{"ev": "status", "status": name, "message": message}])


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await asyncio.sleep(0.01)


def play(exchange: Exchange, folder: Path, scene: Any, **given: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), serve(exchange, "127.0.0.1", 0) as server:
            exchange.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ends: list[BaseException] = []
            settings = load_settings(
                massive_ws_url=exchange.url, massive_delayed_url=f"{exchange.url}/delayed", massive_api_key=KEY, **given
            )
            feeds = made(settings, folder, on_end=ends.append, url=exchange.url)
            try:
                await scene(feeds, ends)
            finally:
                await feeds.stop()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def test_a_delayed_plan_of_bars_is_found_and_taken(tmp_path: Path) -> None:
    async def scene(feeds: Feeds, ends: list[BaseException]) -> None:
        feeds.prepare(Market.STOCKS, feeds.topics(Market.STOCKS))
        feeds.start()
        await until(lambda: feeds.clients[0].state.phase is Phase.LIVE)
        state = feeds.clients[0].state
        assert (feeds.channel(Market.STOCKS), feeds.delay_ms(Market.STOCKS)) == ("AM", DELAYED_PLAN_MS)
        assert (state.delay_ms, state.behind_ms) == (DELAYED_PLAN_MS, 62_000)
        assert "minute bars (AM)" in state.notices[0]
        assert "15 minutes late" in state.notices[1]
        assert exchange.subscribed[-1] == ("delayed_stocks", "AM.AAPL")

    exchange = Exchange(stocks=[], delayed_stocks=["AM"])
    play(exchange, tmp_path, scene, symbols="AAPL")


def test_a_real_time_plan_takes_its_bars_beside_for_comparison(tmp_path: Path) -> None:
    async def scene(feeds: Feeds, ends: list[BaseException]) -> None:
        feeds.prepare(Market.STOCKS, feeds.topics(Market.STOCKS))
        feeds.start()
        await until(lambda: feeds.clients[0].state.phase is Phase.LIVE)
        assert exchange.subscribed == [("stocks", "T.AAPL,A.AAPL,AM.AAPL"), ("stocks", "T.AAPL,AM.AAPL")]
        assert feeds.clients[0].state.notices == ()

    exchange = Exchange(stocks=["T", "A", "AM"])
    play(exchange, tmp_path, scene, symbols="AAPL")


def test_a_market_that_the_plan_lacks_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    async def scene(feeds: Feeds, ends: list[BaseException]) -> None:
        for market in (Market.STOCKS, Market.CRYPTO):
            feeds.prepare(market, feeds.topics(market))
        feeds.start()
        await until(lambda: feeds.clients[1].state.phase is Phase.LIVE and Market.STOCKS in feeds.given_up)
        assert "Your plan doesn't include" in feeds.why_given_up(Market.STOCKS)
        assert (feeds.why_given_up(Market.CRYPTO), ends) == ("", [])

    play(Exchange(crypto=["XT"]), tmp_path, scene, symbols="AAPL,BTC", compare_bars="off")


def test_without_any_market_left_there_is_nothing_to_run_for(tmp_path: Path) -> None:
    async def scene(feeds: Feeds, ends: list[BaseException]) -> None:
        feeds.prepare(Market.STOCKS, feeds.topics(Market.STOCKS))
        feeds.start()
        await until(lambda: ends != [])
        assert isinstance(ends[0], FeedRefused)

    play(Exchange(), tmp_path, scene, symbols="AAPL")


def test_a_market_is_opened_and_closed_and_its_lock_goes_with_it(tmp_path: Path) -> None:
    async def scene(feeds: Feeds, ends: list[BaseException]) -> None:
        feeds.open_market(Market.STOCKS)
        await until(lambda: feeds.clients[0].state.phase is Phase.LIVE)
        other = made(load_settings(symbols="AAPL", massive_ws_url=exchange.url, massive_api_key=KEY), tmp_path)
        other.open_market(Market.STOCKS)
        assert "has the stocks feed" in other.why_given_up(Market.STOCKS)
        await feeds.close_market(Market.STOCKS)
        assert feeds.clients == []
        other.prepare(Market.STOCKS, ["T.AAPL"])
        await other.stop()

    exchange = Exchange(stocks=["T", "A", "AM"])
    play(exchange, tmp_path, scene, symbols="AAPL")


def test_a_bug_ends_the_pipeline(tmp_path: Path) -> None:
    async def main() -> None:
        ends: list[BaseException] = []

        async def broken() -> Terms:
            raise AssertionError("a bug")

        def make(market: Market, topics: Sequence[str], given: Given) -> FeedClient:
            return FeedClient(market, "ws://127.0.0.1:1", KEY, topics, FrameQueue(), terms=broken)

        feeds = Feeds(load_settings(symbols="AAPL"), Watchlist(["AAPL"], tmp_path), make, on_end=ends.append)
        feeds.prepare(Market.STOCKS, ["T.AAPL"])
        feeds.start()
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: ends != [])
        assert str(ends[0]) == "a bug"
        await feeds.stop()

    asyncio.run(main())


def test_a_recording_at_its_end_is_no_feed_that_is_down(tmp_path: Path) -> None:
    """It is told, and its gauge goes: Prometheus would else call the feed down for ever."""
    exchange, finished = Exchange(stocks=["T"]), list[Market]()

    def connected() -> float | None:
        return REGISTRY.get_sample_value("tapewatch_feed_connected", {"market": "stocks"})

    async def recording(connection: ServerConnection) -> None:
        await connection.send(_status("connected"))
        await connection.recv()
        await connection.send(_status("auth_success"))
        await exchange._subscribe(connection, "stocks", json.loads(await connection.recv())["params"])
        await played.wait()
        await connection.close(1000, REPLAY_FINISHED)

    played = asyncio.Event()

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), serve(recording, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            feeds = made(load_settings(symbols="AAPL"), tmp_path, url=url, on_finished=finished.append)
            feeds.prepare(Market.STOCKS, ["T.AAPL"])
            feeds.start()
            await until(lambda: connected() == 1.0)
            played.set()
            await until(lambda: finished == [Market.STOCKS])
            assert connected() is None
            await feeds.stop()

    asyncio.run(main())
