"""Names of things: the product's own symbols, and the topics and tickers Massive knows them by.

    the person writes       product symbol          stream topic              REST ticker             market
    AAPL                    AAPL                    T.AAPL                    AAPL                    stocks
    BTC, X:BTC-USD,         BTC                     XT.BTC-USD                X:BTC-USD               crypto
      BTC-USD, X:BTCUSD
    BTC-EUR, X:BTC-EUR      BTC-EUR                 XT.BTC-EUR                X:BTC-EUR               crypto
    LINK                    LINK                    T.LINK                    LINK                    stocks
    LINK-USD                LINK-USD                XT.LINK-USD               X:LINK-USD              crypto
    O:SPY251219C00650000    O:SPY251219C00650000    T.O:SPY251219C00650000    O:SPY251219C00650000    options
    ESZ5, 6CH5, NQZ25       ESZ5, 6CH5, NQZ25       T.ESZ5                    ESZ5                    futures
    EUR/USD, C:EURUSD,      C:EURUSD                C.EUR/USD                 C:EURUSD                forex
      C:EUR-USD
    I:SPX                   I:SPX                   V.I:SPX                   I:SPX                   indices

A coin in `COINS` is meant by its bare name, and its dollar pair is shown under that name. Any other coin is written
with its currency, so that it is never taken for the stock of the same name. A pair with a dash is always a coin's, one
with a slash always two currencies. A futures contract ends with its month's letter and one or two digits of its year;
no stock of the US exchanges has a digit in its name. All functions are pure and idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tapewatch.records import Market

COINS: Final = frozenset(
    ["BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "LTC", "BCH", "AVAX", "DOT", "XLM", "TRX", "SHIB", "USDT", "USDC"]
)
"""Coins that are meant when their bare name is written."""
CHANNELS: Final[dict[Market, dict[str, str]]] = {
    Market.STOCKS: {"T": "T", "Q": "Q", "A": "A", "AM": "AM"},
    Market.CRYPTO: {"T": "XT", "Q": "XQ", "A": "XAS", "AM": "XA"},
    Market.OPTIONS: {"T": "T", "Q": "Q", "A": "A", "AM": "AM"},
    Market.FUTURES: {"T": "T", "Q": "Q", "A": "A", "AM": "AM"},
    Market.FOREX: {"T": "C", "Q": "C", "A": "CAS", "AM": "CA"},
    Market.INDICES: {"T": "V", "A": "A", "AM": "AM"},
}
"""Each cluster's own name for a channel of stocks. Forex has quotes in the place of trades, indices have values."""

_CURRENCIES: Final = "USD|EUR|GBP|JPY|CHF|CAD|AUD"
_PAIR: Final = re.compile(r"[A-Z0-9]{1,16}-[A-Z]{3,4}")
_JOINED: Final = re.compile(rf"([A-Z0-9]{{1,16}}?)-?({_CURRENCIES})")
_TWO_CURRENCIES: Final = re.compile(r"(?:C:([A-Z]{3})[/-]?|([A-Z]{3})/)([A-Z]{3})")
_CONTRACT: Final = re.compile(r"[A-Z0-9]{1,4}[FGHJKMNQUVXZ][0-9]{1,2}(?:-[A-Z0-9]{1,4}[FGHJKMNQUVXZ][0-9]{1,2})?")
"""Product, month, year; two of them are a spread."""
_PREFIXES: Final = {"X:": Market.CRYPTO, "O:": Market.OPTIONS, "C:": Market.FOREX, "I:": Market.INDICES}


def product_symbol(wire: str) -> str:
    """The product's name of what Massive calls ``wire``: an event's ``sym`` or ``pair``, or a ticker.

    >>> [product_symbol(w) for w in ("AAPL", "BRK.B", "BTC-USD", "X:BTC-USD", "X:BTCUSD", "BTC-EUR", "X:LINKUSD")]
    ['AAPL', 'BRK.B', 'BTC', 'BTC', 'BTC', 'BTC-EUR', 'LINK-USD']
    >>> [product_symbol(w) for w in ("O:SPY251219C00650000", "ESZ5", "EUR/USD", "C:EUR-USD", "I:SPX")]
    ['O:SPY251219C00650000', 'ESZ5', 'C:EURUSD', 'C:EURUSD', 'I:SPX']
    """
    if (two := _TWO_CURRENCIES.fullmatch(wire)) is not None:
        return f"C:{two[1] or two[2]}{two[3]}"
    pair = wire.removeprefix("X:")
    if pair != wire and (joined := _JOINED.fullmatch(pair)) is not None:
        pair = f"{joined[1]}-{joined[2]}"
    coin = pair.removesuffix("-USD")
    if coin in COINS:
        return coin
    return pair if _PAIR.fullmatch(pair) else wire


def market_of(symbol: str) -> Market:
    """The cluster that trades ``symbol``, in any of the forms above."""
    name = product_symbol(symbol)
    if (market := _PREFIXES.get(name[:2])) is not None:
        return market
    if name in COINS or _PAIR.fullmatch(name):
        return Market.CRYPTO
    return Market.FUTURES if _CONTRACT.fullmatch(name) else Market.STOCKS


def wire_symbol(symbol: str) -> str:
    """What the stream calls ``symbol``: ``BTC`` -> ``BTC-USD``, ``C:EURUSD`` -> ``EUR/USD``, ``AAPL`` -> ``AAPL``."""
    name = product_symbol(symbol)
    if (two := _TWO_CURRENCIES.fullmatch(name)) is not None:
        return f"{two[1]}/{two[3]}"
    return f"{name}-USD" if name in COINS else name.removeprefix("X:")


def rest_ticker(symbol: str) -> str:
    """What the REST side calls ``symbol``: ``BTC`` -> ``X:BTC-USD``, ``AAPL`` -> ``AAPL``."""
    return f"X:{wire_symbol(symbol)}" if market_of(symbol) is Market.CRYPTO else product_symbol(symbol)


def topics(symbols: Iterable[str], channel: str = "T") -> dict[Market, list[str]]:
    """The topics to subscribe to, by cluster, in the order given and without repeats; no empty cluster.

    ``channel`` is the stock channel (`T` trades, `A` second bars, `AM` minute bars); others take their equal of it.

    >>> topics(["AAPL", "BTC", "X:BTC-USD"])
    {<Market.STOCKS: 0>: ['T.AAPL'], <Market.CRYPTO: 1>: ['XT.BTC-USD']}
    """
    found: dict[Market, dict[str, None]] = {}
    for symbol in symbols:
        market = market_of(symbol)
        found.setdefault(market, {})[f"{CHANNELS[market][channel]}.{wire_symbol(symbol)}"] = None
    return {market: list(names) for market, names in found.items()}


def every_topic(market: Market, channel: str = "T") -> str:
    """The topic of all symbols of ``market``.

    >>> every_topic(Market.CRYPTO), every_topic(Market.FOREX, "AM")
    ('XT.*', 'CA.*')
    """
    return f"{CHANNELS[market][channel]}.*"
