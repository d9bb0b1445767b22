"""The official Massive client, unchanged, against the simulator: it receives exactly the market's trades.

And our own client against every known behaviour of the service. The clock is the test's, so a minute of trading takes
no time; everything else is real: sockets, client, REST.
"""

from __future__ import annotations

import asyncio
import json
import logging
from random import Random
from typing import Any

import pytest
from massive import RESTClient, WebSocketClient
from massive.exceptions import AuthError

from tapewatch.feed.client import FeedClient, FeedState
from tapewatch.feed.queue import Frame, FrameQueue
from tapewatch.feed.wire import Phase
from tapewatch.records import Market
from tapewatch.simulator.chaos import Script, read_act
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.sent import SentTrade
from tapewatch.simulator.server import Options, Simulator
from tapewatch.simulator.session import Rules
from tapewatch.simulator.tape import Prints
from tapewatch.simulator.trouble import Trouble
from virtual_time import run_virtual

T0 = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
SECOND = 1_000_000_000
DEADLINE_S = 120.0


def key_of_stock(trade: Any) -> tuple[Any, ...]:
    return (
        trade.symbol, trade.id, trade.exchange, trade.tape, trade.price, trade.size, trade.fractional_shares,
        tuple(trade.conditions or ()), trade.timestamp, trade.sequence_number, trade.trf_id, trade.trf_timestamp,
    )  # fmt: skip


def stock_keys(symbol: str, prints: Prints) -> list[tuple[Any, ...]]:
    """The same of the market's own columns, worked out anew and not by the simulator's encoder."""
    found = []
    for n in range(len(prints)):
        whole, part = divmod(int(prints.size_e8[n]), 10**8)
        decimal = f"{whole}.{part:08d}".rstrip("0")
        trf = int(prints.trf[n])
        found.append(
            (
                symbol, prints.ids[n], prints.exchange[n], prints.tape[n], prints.price[n], whole,
                decimal + "0" if decimal.endswith(".") else decimal,
                tuple(prints.condition_table[prints.conditions[n]]), prints.time_ns[n] // 10**6, prints.sequence[n],
                trf or None, prints.trf_ns[n] // 10**6 if trf else None,
            )
        )  # fmt: skip
    return found


async def collect(
    cluster: str, topics: list[str], options: Options, market: SeededMarket, seconds: int, count: int
) -> list[Any]:
    """Everything the official client gives to its callback while ``seconds`` pass, until ``count`` have come."""
    now_ns = T0
    received: list[Any] = []
    enough = asyncio.Event()

    async def take(messages: list[Any]) -> None:
        received.extend(messages)
        if len(received) >= count:
            enough.set()

    async with Simulator(market, options, clock=lambda: now_ns) as simulator:
        client = WebSocketClient(
            api_key="key", feed=f"127.0.0.1:{simulator.port}", market=cluster, secure=False, subscriptions=topics
        )
        running = asyncio.create_task(client.connect(take, proxy=None))
        while len(simulator._audiences()) < 1:
            await asyncio.sleep(0.001)
        now_ns += seconds * SECOND
        async with asyncio.timeout(DEADLINE_S):
            await enough.wait()
        await client.close()
        await running
    return received


@pytest.mark.parametrize("options", [Options(), Options(rules=Rules(single_acks=True), compression=True)])
def test_stocks(options: Options) -> None:
    market = SeededMarket(11, 4)
    wanted = [
        key
        for symbol in ("AAPL", "BRK.B", "SPY")
        for key in stock_keys(symbol, market.trades(Market.STOCKS, symbol, T0 + 1, T0 + 60 * SECOND + 1))
    ]
    assert len(wanted) > 500
    found = asyncio.run(collect("stocks", ["T.AAPL", "T.BRK.B", "T.SPY"], options, market, 60, len(wanted)))
    assert sorted(map(key_of_stock, found)) == sorted(wanted)
    assert [t.timestamp for t in found] == sorted(t.timestamp for t in found)


def test_crypto() -> None:
    market = SeededMarket(11, 4)
    prints = market.trades(Market.CRYPTO, "BTC-USD", T0 + 1, T0 + 60 * SECOND + 1)
    found = asyncio.run(collect("crypto", ["XT.BTC-USD"], Options(), market, 60, len(prints)))
    assert [(t.pair, t.id, t.exchange, t.price, t.size, t.conditions, t.timestamp) for t in found] == [
        (
            "BTC-USD", prints.ids[n], prints.exchange[n], prints.price[n], prints.size_e8[n] / 1e8,
            list(prints.condition_table[prints.conditions[n]]), prints.time_ns[n] // 10**6,
        )
        for n in range(len(prints))
    ]  # fmt: skip


def test_minute_bars() -> None:
    (first, second) = asyncio.run(collect("stocks", ["AM.AAPL"], Options(), SeededMarket(11, 4), 63, 2))
    assert (first.event_type, first.symbol, second.symbol) == ("AM", "AAPL", "AAPL")
    assert second.start_timestamp == first.end_timestamp == T0 // 10**6
    assert second.low <= second.open <= second.high


def test_a_bad_key_is_an_authentication_error() -> None:
    async def connect() -> None:
        options = Options(rules=Rules(keys=frozenset(["another"])))
        async with Simulator(SeededMarket(1, 4), options) as simulator:
            feed = f"127.0.0.1:{simulator.port}"
            client = WebSocketClient(api_key="key", feed=feed, market="stocks", secure=False, subscriptions=["T.A"])
            await asyncio.wait_for(client.connect(print, proxy=None), DEADLINE_S)

    with pytest.raises(AuthError, match="authentication failed"):
        asyncio.run(connect())


def test_rest_pages_the_same_trades() -> None:
    market = SeededMarket(11, 4)

    async def listed(ticker: str, **arguments: Any) -> list[Any]:
        async with Simulator(market, clock=lambda: T0) as simulator:
            client = RESTClient(
                "key",
                base=f"http://127.0.0.1:{simulator.port}",
                retries=0,
                connect_timeout=DEADLINE_S,
                read_timeout=DEADLINE_S,
            )
            return await asyncio.to_thread(lambda: list(client.list_trades(ticker, **arguments)))

    from_ns = T0 - 120 * SECOND
    prints = market.trades(Market.STOCKS, "AAPL", from_ns, T0 + 1)
    found = asyncio.run(listed("AAPL", timestamp_gte=from_ns, order="asc", limit=100))
    assert len(found) > 400
    assert [
        (t.id, t.sip_timestamp, t.participant_timestamp, t.price, t.sequence_number, tuple(t.conditions or ()))
        for t in found
    ] == [
        (
            prints.ids[n], prints.time_ns[n], prints.participant_ns[n], prints.price[n], prints.sequence[n],
            prints.condition_table[prints.conditions[n]],
        )
        for n in range(len(prints))
    ]  # fmt: skip
    coins = market.trades(Market.CRYPTO, "BTC-USD", from_ns, T0 + 1)
    found = asyncio.run(listed("X:BTC-USD", timestamp_gte=from_ns, limit=100))
    assert [t.id for t in reversed(found)] == list(coins.ids)


async def through_a_drop(fault: str) -> tuple[list[Any], list[SentTrade], bool]:
    """What the official client gives to its callback through a fault, what was sent, and whether it ended by itself."""
    loop = asyncio.get_running_loop()
    sent: list[SentTrade] = []
    received: list[Any] = []

    async def take(messages: list[Any]) -> None:
        received.extend(messages)

    trouble = Trouble(Script(None, [read_act(fault)]), Random(1), repeats=False)
    async with Simulator(
        SeededMarket(11, 4),
        Options(tick_s=0.1),
        clock=lambda: T0 + int(loop.time() * 1e9),
        trouble=trouble,
        witness=sent.extend,
    ) as simulator:
        client = WebSocketClient(
            api_key="key", feed=f"127.0.0.1:{simulator.port}", market="stocks", secure=False, subscriptions=["T.AAPL"]
        )
        running = asyncio.create_task(client.connect(take, proxy=None))
        while not running.done() and loop.time() < 60:
            await asyncio.sleep(1)
        has_ended = running.done()
        await client.close()
        await running
    return received, sent, has_ended


@pytest.mark.parametrize("fault", ["cut@5", "cut-frame@5", "max-connections@5", "slow-consumer@5", "silence@5+20"])
def test_after_a_forced_drop_it_comes_back_and_has_every_trade_that_reached_it_once(fault: str) -> None:
    received, sent, has_ended = run_virtual(through_a_drop(fault))
    assert not has_ended
    ids, wanted = [trade.id for trade in received], [trade.id for trade in sent]
    assert len(ids) == len(set(ids)) > 100
    assert set(ids) <= set(wanted)
    assert ids == [one for one in wanted if one in set(ids)]
    times = [trade.timestamp for trade in received]
    assert min(times) < T0 // 10**6 + 5_000 < T0 // 10**6 + 50_000 < max(times)
    # What was on its way when the line broke is lost to it: the exchange sends nothing again.
    assert (ids != wanted) == (fault.startswith(("cut-frame", "silence")))


@pytest.mark.parametrize("fault", ["close@5", "going-away@5"])
def test_a_clean_close_ends_it_for_good(fault: str) -> None:
    """That is how the official client is: whoever uses it must start it again."""
    received, _, has_ended = run_virtual(through_a_drop(fault))
    assert has_ended
    assert received


# --- our client, against every behaviour that is known of the service -------------------------------------------


async def our_client(options: Options, seconds: float) -> tuple[list[str], list[str], FeedState]:
    """Ids sent and ids that came into the queue, and how the client is then."""
    loop = asyncio.get_running_loop()
    sent: list[SentTrade] = []
    queue = FrameQueue()

    def clock() -> int:
        return T0 + int(loop.time() * 1e9)

    async with Simulator(SeededMarket(11, 4), options, clock=clock, witness=sent.extend) as simulator:
        client = FeedClient(
            Market.STOCKS, f"ws://127.0.0.1:{simulator.port}", "key", ["T.AAPL", "T.TSLA"], queue, clock_ns=clock
        )
        running = asyncio.create_task(client.run())
        await asyncio.sleep(seconds)
        state = client.state
        await client.stop()
        await running
    frames = [item.data for item in queue.take(10**9, 0.0) if isinstance(item, Frame)]
    events = [event for data in frames for event in json.loads(data)]
    return [one.id for one in sent], [event["i"] for event in events if event["ev"] == "T"], state


@pytest.mark.parametrize(
    "options",
    [
        Options(tick_s=0.1),
        Options(tick_s=0.1, rules=Rules(single_acks=True)),
        Options(tick_s=0.1, compression=True),
        Options(tick_s=0.1, frame_events_max=1),
        Options(tick_s=0.1, ping_interval_s=None),
        Options(tick_s=0.1, ping_interval_s=0.5),
        Options(tick_s=0.1, answers_pings=False),
        Options(tick_s=0.1, rules=Rules(channels=frozenset(["T"]))),
    ],
    ids=["plain", "single acks", "compression", "small frames", "no pings", "many pings", "no pongs", "trades alone"],
)
def test_our_client_has_every_trade_however_the_service_is(options: Options) -> None:
    sent, received, state = run_virtual(our_client(options, 100))
    assert state.phase is Phase.LIVE
    assert state.reconnects == 0
    assert state.acked == 2
    assert len(received) > 500
    assert received == sent[: len(received)]
    assert len(sent) - len(received) <= 10  # on their way when it was stopped


def test_canary_one_lost_trade_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would see a simulator that drops a single trade and sends another one twice."""
    original = SeededMarket.due

    def broken(self: SeededMarket, *arguments: Any) -> Any:
        due = original(self, *arguments)
        return due[:5] + due[6:] + due[:1] if len(due) > 10 else due

    monkeypatch.setattr(SeededMarket, "due", broken)
    with pytest.raises(AssertionError):
        test_stocks(Options())


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """The client logs to standard output by itself."""
    logger = logging.getLogger("WebSocketClient")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
