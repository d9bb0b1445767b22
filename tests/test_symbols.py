"""feed/symbols.py: one name for each thing, whatever form it was written in."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed import symbols
from tapewatch.feed.symbols import COINS, every_topic, market_of, product_symbol, rest_ticker, topics, wire_symbol
from tapewatch.records import Market

TABLE = [
    # written, product, topic, REST ticker, market
    ("AAPL", "AAPL", "T.AAPL", "AAPL", Market.STOCKS),
    ("BRK.B", "BRK.B", "T.BRK.B", "BRK.B", Market.STOCKS),
    ("LINK", "LINK", "T.LINK", "LINK", Market.STOCKS),
    ("BTC", "BTC", "XT.BTC-USD", "X:BTC-USD", Market.CRYPTO),
    ("BTC-USD", "BTC", "XT.BTC-USD", "X:BTC-USD", Market.CRYPTO),
    ("X:BTC-USD", "BTC", "XT.BTC-USD", "X:BTC-USD", Market.CRYPTO),
    ("X:BTCUSD", "BTC", "XT.BTC-USD", "X:BTC-USD", Market.CRYPTO),
    ("BTC-EUR", "BTC-EUR", "XT.BTC-EUR", "X:BTC-EUR", Market.CRYPTO),
    ("X:BTCEUR", "BTC-EUR", "XT.BTC-EUR", "X:BTC-EUR", Market.CRYPTO),
    ("LINK-USD", "LINK-USD", "XT.LINK-USD", "X:LINK-USD", Market.CRYPTO),
    ("X:LINKUSD", "LINK-USD", "XT.LINK-USD", "X:LINK-USD", Market.CRYPTO),
    ("X:USDTUSD", "USDT", "XT.USDT-USD", "X:USDT-USD", Market.CRYPTO),
    ("X:1INCHUSD", "1INCH-USD", "XT.1INCH-USD", "X:1INCH-USD", Market.CRYPTO),
    ("X:EURUSD", "EUR-USD", "XT.EUR-USD", "X:EUR-USD", Market.CRYPTO),
    ("O:SPY251219C00650000", "O:SPY251219C00650000", "T.O:SPY251219C00650000", "O:SPY251219C00650000", Market.OPTIONS),
    ("O:SPXW251219P05500000", "O:SPXW251219P05500000", "T.O:SPXW251219P05500000", "O:SPXW251219P05500000",
     Market.OPTIONS),
    ("ESZ5", "ESZ5", "T.ESZ5", "ESZ5", Market.FUTURES),
    ("6CH5", "6CH5", "T.6CH5", "6CH5", Market.FUTURES),
    ("NQZ25", "NQZ25", "T.NQZ25", "NQZ25", Market.FUTURES),
    ("M2KU6", "M2KU6", "T.M2KU6", "M2KU6", Market.FUTURES),
    ("BTCX5", "BTCX5", "T.BTCX5", "BTCX5", Market.FUTURES),
    ("ESZ5-ESH6", "ESZ5-ESH6", "T.ESZ5-ESH6", "ESZ5-ESH6", Market.FUTURES),
    ("EUR/USD", "C:EURUSD", "C.EUR/USD", "C:EURUSD", Market.FOREX),
    ("C:EURUSD", "C:EURUSD", "C.EUR/USD", "C:EURUSD", Market.FOREX),
    ("C:EUR-USD", "C:EURUSD", "C.EUR/USD", "C:EURUSD", Market.FOREX),
    ("C:XAUUSD", "C:XAUUSD", "C.XAU/USD", "C:XAUUSD", Market.FOREX),
    ("I:SPX", "I:SPX", "V.I:SPX", "I:SPX", Market.INDICES),
    ("I:NDX", "I:NDX", "V.I:NDX", "I:NDX", Market.INDICES),
]  # fmt: skip


@pytest.mark.parametrize(("written", "product", "topic", "ticker", "market"), TABLE)
def test_every_form_of_a_name(written: str, product: str, topic: str, ticker: str, market: Market) -> None:
    assert product_symbol(written) == product
    assert topics([written]) == {market: [topic]}
    assert rest_ticker(written) == ticker
    assert market_of(written) is market
    # All forms lead to the same name, so a form made here can be read back here.
    assert product_symbol(wire_symbol(written)) == product
    assert product_symbol(rest_ticker(written)) == product


def test_bars_use_the_clusters_own_channels() -> None:
    assert topics(["AAPL", "BTC"], "A") == {Market.STOCKS: ["A.AAPL"], Market.CRYPTO: ["XAS.BTC-USD"]}
    assert topics(["AAPL", "BTC"], "AM") == {Market.STOCKS: ["AM.AAPL"], Market.CRYPTO: ["XA.BTC-USD"]}


def test_every_market_has_its_own_bars() -> None:
    written = ["O:SPY251219C00650000", "ESZ5", "EUR/USD", "I:SPX"]
    assert topics(written, "AM") == {
        Market.OPTIONS: ["AM.O:SPY251219C00650000"],
        Market.FUTURES: ["AM.ESZ5"],
        Market.FOREX: ["CA.EUR/USD"],
        Market.INDICES: ["AM.I:SPX"],
    }
    assert topics(["EUR/USD"], "A") == {Market.FOREX: ["CAS.EUR/USD"]}
    every = {market: (every_topic(market), every_topic(market, "AM")) for market in Market}
    assert every == {
        Market.STOCKS: ("T.*", "AM.*"),
        Market.CRYPTO: ("XT.*", "XA.*"),
        Market.OPTIONS: ("T.*", "AM.*"),
        Market.FUTURES: ("T.*", "AM.*"),
        Market.FOREX: ("C.*", "CA.*"),
        Market.INDICES: ("V.*", "AM.*"),
    }


def test_topics_keep_the_order_and_drop_repeats() -> None:
    written = ["TSLA", "X:BTC-USD", "AAPL", "BTC", "TSLA", "ETH"]
    assert topics(written) == {Market.STOCKS: ["T.TSLA", "T.AAPL"], Market.CRYPTO: ["XT.BTC-USD", "XT.ETH-USD"]}
    assert topics([]) == {}


@given(
    st.from_regex(r"(X:)?[A-Z0-9]{1,8}(-[A-Z]{3,4})?", fullmatch=True)
    | st.from_regex(r"([XOCI]:)?[A-Z]{1,4}[/-]?[A-Z0-9]{0,4}", fullmatch=True)
    | st.sampled_from(sorted(COINS))
)
def test_product_symbol_is_idempotent_and_keeps_the_market(name: str) -> None:
    product = product_symbol(name)
    assert product_symbol(product) == product
    assert market_of(product) is market_of(name)


def test_the_examples_in_the_text_are_true() -> None:
    assert doctest.testmod(symbols).failed == 0
