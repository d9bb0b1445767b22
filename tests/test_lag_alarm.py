"""The lag alarm of the feeds: less the plan's delay, by market, only while live, and shown."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from tapewatch.feed.client import FeedClient, FeedState
from tapewatch.feed.lag import Lag
from tapewatch.feed.wire import Phase
from tapewatch.profiles.lag_alarm import LagAlarm
from tapewatch.records import Batch, Kind, Market
from tapewatch.settings import load_settings

NOW_NS = 1_788_877_046_300_000_000


def lag_of(market: Market, lag_ms: int) -> Lag:
    lag = Lag()
    lag.note(Batch.of([(Kind.TRADE, market, 0, NOW_NS // 1_000_000 - lag_ms, NOW_NS, 1.0, 1, 0, 0, 0, "1")]))
    return lag


def state(market: Market = Market.STOCKS, phase: Phase = Phase.LIVE, **more: int) -> FeedState:
    return FeedState(market, phase, 0, "", 0, 0, (), 0, 0, **more)  # type: ignore[arg-type]


class Client(FeedClient):
    def __init__(self, market: Market) -> None:
        self.market = market

    @property
    def state(self) -> FeedState:
        return state(self.market)


def alarm(lag: Lag, *markets: Market) -> LagAlarm:
    settings = load_settings(feed_lag_max_ms=10_000)
    return LagAlarm(settings, [Client(market) for market in markets], lag, clock_ns=lambda: NOW_NS)


@pytest.mark.parametrize(
    ("lag_ms", "given", "is_alarm"),
    [
        (10_000, {}, False),
        (10_100, {}, True),
        (910_000, {"delay_ms": 900_000}, False),
        (910_100, {"delay_ms": 900_000}, True),
        (60_000, {"behind_ms": 62_000}, False),
        (80_000, {"behind_ms": 62_000}, True),
        (10_100, {"phase": Phase.CLOSED}, False),
        (10_100, {"market": Market.CRYPTO}, False),
    ],
)
def test_when_it_is_an_alarm(lag_ms: int, given: dict[str, int], is_alarm: bool) -> None:
    sentence = alarm(lag_of(Market.STOCKS, lag_ms)).sentence(state(**given))  # type: ignore[arg-type]
    assert bool(sentence) == is_alarm


def test_the_sentence_says_how_old_and_what_is_allowed() -> None:
    found = alarm(lag_of(Market.STOCKS, 12_340))
    assert found.lag_ms(state()) == 12_340
    assert found.sentence(state()).startswith("what arrives is old (12.3 s, FEED_LAG_MAX is 10s)")


def test_the_metric_tells_each_market_by_itself() -> None:
    alarm(lag_of(Market.CRYPTO, 60_000), Market.STOCKS, Market.CRYPTO).look()
    values = [REGISTRY.get_sample_value("tapewatch_feed_lagging", {"market": name}) for name in ("stocks", "crypto")]
    assert values == [0, 1]
    alarm(lag_of(Market.CRYPTO, 5), Market.STOCKS, Market.CRYPTO).look()
    assert REGISTRY.get_sample_value("tapewatch_feed_lagging", {"market": "crypto"}) == 0
