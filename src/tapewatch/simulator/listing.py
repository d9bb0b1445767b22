"""What is traded in the simulated market: price level, volatility, tick and tape of every symbol. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from tapewatch.records import Market

_STOCK_LEVELS: Final = {
    "AAPL": 270.0, "AMD": 230.0, "AMZN": 225.0, "AVGO": 340.0, "BAC": 53.0, "BRK.B": 505.0, "COST": 905.0,
    "DIS": 105.0, "F": 13.0, "GOOG": 300.0, "GOOGL": 299.0, "IBM": 300.0, "INTC": 35.0, "IWM": 235.0, "JNJ": 203.0,
    "JPM": 300.0, "KO": 72.0, "LLY": 1050.0, "MA": 530.0, "META": 595.0, "MSFT": 475.0, "NFLX": 105.0, "NVDA": 180.0,
    "ORCL": 200.0, "PEP": 146.0, "PFE": 25.0, "PLTR": 155.0, "QQQ": 590.0, "SPY": 660.0, "TSLA": 395.0, "UNH": 320.0,
    "V": 328.0, "WMT": 105.0, "XOM": 117.0,
}  # fmt: skip
_CRYPTO_LEVELS: Final = {
    "ADA-USD": 0.41, "AVAX-USD": 13.2, "BCH-USD": 545.0, "BTC-USD": 86_000.0, "DOGE-USD": 0.14, "ETH-USD": 2_800.0,
    "LTC-USD": 83.0, "SOL-USD": 128.0, "XRP-USD": 2.05,
}  # fmt: skip
_NASDAQ: Final = frozenset(
    (
        "AAPL",
        "AMD",
        "AMZN",
        "AVGO",
        "COST",
        "GOOG",
        "GOOGL",
        "INTC",
        "META",
        "MSFT",
        "NFLX",
        "NVDA",
        "PEP",
        "PLTR",
        "TSLA",
    )
)
_FUNDS: Final = frozenset(["SPY", "QQQ", "IWM"])
_SIGMA: Final = 2.2e-5
"""Scale of the price noise: about 8 bps in five minutes, so that a price leaves its average a few times an hour."""
_LIVELY: Final = {"TSLA": 1.4, "NVDA": 1.2, "PLTR": 1.4, "AMD": 1.2, "SPY": 0.75, "QQQ": 0.8, "KO": 0.7, "JNJ": 0.7}

_STOCK: Final = re.compile(r"[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,3})?")
_PAIR: Final = re.compile(r"[A-Z0-9]{2,10}-[A-Z]{3,4}")

_FORM: Final = {
    Market.STOCKS: _STOCK,
    Market.CRYPTO: _PAIR,
    Market.OPTIONS: re.compile(r"O:[A-Z]{1,6}[0-9]{6}[CP][0-9]{8}"),
    Market.FUTURES: re.compile(r"[A-Z0-9]{1,4}[FGHJKMNQUVXZ][0-9]{1,2}"),
    Market.FOREX: re.compile(r"[A-Z]{3}/[A-Z]{3}"),
    Market.INDICES: re.compile(r"I:[A-Z0-9]{1,12}"),
}
_LEVELS: Final = {
    Market.STOCKS: _STOCK_LEVELS,
    Market.CRYPTO: _CRYPTO_LEVELS,
    Market.OPTIONS: {"O:SPY261218C00650000": 31.4, "O:AAPL261218P00250000": 12.7, "O:TSLA261218C00400000": 48.2},
    Market.FUTURES: {"ESZ6": 6_700.0, "NQZ6": 24_800.0, "6CH7": 0.731, "CLZ6": 59.0, "GCZ6": 4_080.0},
    Market.FOREX: {"EUR/USD": 1.1532, "USD/JPY": 156.8, "GBP/USD": 1.3085, "USD/CHF": 0.8066},
    Market.INDICES: {"I:SPX": 6_650.0, "I:NDX": 24_500.0, "I:DJI": 46_200.0, "I:VIX": 18.3},
}
_TICKS: Final = {Market.OPTIONS: 0.01, Market.FUTURES: 0.25, Market.FOREX: 1e-5, Market.INDICES: 0.01}
UNIVERSE: Final = {market: tuple(levels) for market, levels in _LEVELS.items()}
"""What ``*`` means."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What does not change about a symbol.

    ``key`` (64 bit) is what all its randomness starts from. ``spread`` and ``tick`` are in dollars; prices are
    rounded to ``decimals``.
    """

    market: Market
    symbol: str
    key: int
    level: float
    sigma: float
    tick: float
    decimals: int
    spread: float
    tape: int
    primary: int


def is_listed(market: Market, symbol: str) -> bool:
    """Whether ``symbol`` has the form of its market: a ticker, a pair, a contract."""
    return _FORM[market].fullmatch(symbol) is not None


def number(*parts: object) -> int:
    """A 64-bit number that looks random and depends on ``parts`` alone."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


@lru_cache(maxsize=1024)
def listing_of(seed: int, market: Market, symbol: str) -> Listing:
    """The facts of ``symbol`` in the market with this ``seed``."""
    assert is_listed(market, symbol), symbol
    key = number(seed, int(market), symbol)
    fraction = number("level", symbol) / 2**64
    level = _LEVELS[market].get(symbol, round(60.0 * 8.0**fraction, 2))
    if market in _TICKS:
        return _other(market, symbol, key, level)
    decimals = 2 if level >= 1 else 4 - math.floor(math.log10(level))
    tick = 10.0**-decimals
    if market is Market.CRYPTO:
        tape, primary, sigma, spread = 0, 1, _SIGMA * 1.2, max(tick, level * 1.0e-4)
    else:
        nasdaq = symbol in _NASDAQ or (symbol not in _STOCK_LEVELS and fraction > 0.5)
        tape = 2 if symbol in _FUNDS else 3 if nasdaq else 1
        primary = {1: 10, 2: 11, 3: 12}[tape]
        sigma, spread = _SIGMA * _LIVELY.get(symbol, 0.8 + 0.6 * fraction), max(tick, level * 0.8e-4)
    return Listing(market, symbol, key, level, sigma, tick, decimals, spread, tape, primary)


def _other(market: Market, symbol: str, key: int, level: float) -> Listing:
    """Prices are whole ticks; a tick is finer where the level is low."""
    tick = _TICKS[market]
    if market is Market.FUTURES and level < 500:
        tick = 0.01 if level > 5 else 0.00005
    if market is Market.FOREX and level > 20:
        tick = 1e-3
    decimals = max(0, -math.floor(math.log10(tick))) + (0 if str(tick)[-1] != "5" else 1)
    return Listing(market, symbol, key, level, _SIGMA, tick, decimals, max(tick, level * 0.5e-4), 0, 1)
