"""Topics of symbols, the messages that carry them, and what the exchange's answers say of each symbol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.state import Topics
from tapewatch.feed.subscriptions import Coverage, chunks, coverage, topics_of
from tapewatch.records import Market
from tapewatch.settings import SUBSCRIBE_BYTES_MAX, SUBSCRIBE_TOPICS_MAX

MIXED = ["AAPL", "BTC", "BRK.B", "X:BTC-USD", "EUR/USD", "I:SPX", "ESZ5", "O:SPY251219C00650000"]


@pytest.mark.parametrize(
    ("market", "channel", "topics"),
    [
        (Market.STOCKS, "T", ["T.AAPL", "T.BRK.B"]),
        (Market.STOCKS, "AM", ["AM.AAPL", "AM.BRK.B"]),
        (Market.CRYPTO, "T", ["XT.BTC-USD"]),
        (Market.CRYPTO, "A", ["XAS.BTC-USD"]),
        (Market.FOREX, "T", ["C.EUR/USD"]),
        (Market.INDICES, "T", ["V.I:SPX"]),
        (Market.FUTURES, "T", ["T.ESZ5"]),
        (Market.OPTIONS, "T", ["T.O:SPY251219C00650000"]),
    ],
)
def test_each_market_has_its_own_names(market: Market, channel: str, topics: list[str]) -> None:
    assert topics_of(MIXED, market, channel, wildcard_above=100) == topics


def test_bars_stand_beside_trades_and_never_twice() -> None:
    assert topics_of(MIXED, Market.STOCKS, beside=["AM"], wildcard_above=1) == ["T.*", "AM.*"]
    assert topics_of(["BTC"], Market.CRYPTO, beside=["AM"], wildcard_above=1) == ["XT.BTC-USD", "XA.BTC-USD"]
    assert topics_of(["AAPL"], Market.STOCKS, "AM", beside=["AM"], wildcard_above=1) == ["AM.AAPL"]


def test_the_whole_market_only_above_the_threshold() -> None:
    symbols = ["AAPL", "TSLA"]
    assert topics_of(symbols, Market.STOCKS, wildcard_above=2) == ["T.AAPL", "T.TSLA"]
    assert topics_of([*symbols, "NVDA"], Market.STOCKS, wildcard_above=2) == ["T.*"]
    assert topics_of(symbols, Market.CRYPTO, wildcard_above=0) == []


@given(st.lists(st.text("ABC.:", min_size=1, max_size=5_000), max_size=1_200))
def test_no_message_is_too_large_and_nothing_is_lost(names: list[str]) -> None:
    parts = list(chunks(names))
    assert [name for part in parts for name in part] == names
    assert all(0 < len(part) <= SUBSCRIBE_TOPICS_MAX for part in parts)
    assert all(len(",".join(part)) <= SUBSCRIBE_BYTES_MAX for part in parts)


def test_what_is_known_of_each_symbol() -> None:
    known = Topics(
        asked=("T.AAPL", "T.TSLA", "T.NVDA", "T.MSFT", "AM.AAPL", "AM.TSLA"),
        acked=("T.AAPL", "AM.TSLA"),
        unconfirmed=("T.NVDA",),
        refused=("T.MSFT",),
    )
    symbols = ["AAPL", "TSLA", "NVDA", "MSFT", "BTC"]
    assert coverage(symbols, Market.STOCKS, known) == Coverage(("AAPL",), ("TSLA",), ("NVDA",), ("MSFT",)), (
        "a bar beside the trades says nothing of the trades"
    )
    assert coverage(symbols, Market.CRYPTO, Topics()) == Coverage(waiting=("BTC",))


def test_the_whole_market_covers_every_symbol() -> None:
    known = Topics(asked=("XT.*",), acked=("XT.*",))
    assert coverage(["BTC", "ETH", "AAPL"], Market.CRYPTO, known) == Coverage(effective=("BTC", "ETH"))


def test_coinbases_topics_are_read_too() -> None:
    known = Topics(asked=("matches.BTC-USD", "matches.LINK-USD"), acked=("matches.BTC-USD",))
    found = coverage(["BTC", "LINK-USD"], Market.CRYPTO, known)
    assert (found.effective, found.waiting) == (("BTC",), ("LINK-USD",))
