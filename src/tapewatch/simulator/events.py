"""The stream's events of each market, made from columns of trades. Pure.

    stocks T   crypto XT   options T (no id)   futures T (no id)   forex C (bid and ask, no size)   indices V (a value)

Stocks' and crypto's own are in `tape.py`. The mean of a quote's bid and ask is the price of its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tapewatch.records import E8, Market
from tapewatch.simulator.tape import NS_PER_MS, Prints, crypto_events, rows, stock_events

__all__ = ["ForexQuote", "FutureTrade", "IndexValue", "OptionTrade", "events", "quote_of"]

HALF_SPREAD: Final = 2.0**-16
"""Of a forex price, about 0.15 basis points; a power of two, so that the mean of both sides is the price again."""


class OptionTrade(msgspec.Struct, omit_defaults=True, tag_field="ev", tag="T"):
    """The options' `T` event."""

    sym: str
    x: int
    p: float
    s: int
    t: int
    q: int
    c: tuple[int, ...] = ()


class FutureTrade(msgspec.Struct, tag_field="ev", tag="T"):
    """The futures' `T` event."""

    sym: str
    p: float
    s: int
    t: int
    q: int


class ForexQuote(msgspec.Struct, tag_field="ev", tag="C"):
    """The forex `C` event; its ``p`` is the pair."""

    p: str
    x: int
    a: float
    b: float
    t: int


class IndexValue(msgspec.Struct, tag_field="ev", tag="V"):
    """The indices' `V` event; its ``T`` is the index."""

    val: float
    T: str
    t: int


def quote_of(price: float) -> tuple[float, float]:
    """Bid and ask around a price.

    >>> sum(quote_of(1.16532)) / 2
    1.16532
    """
    half = price * HALF_SPREAD
    return price - half, price + half


def events(market: Market, symbol: str, prints: Prints) -> Sequence[Any]:
    """The stream's events of ``prints``, row by row."""
    match market:
        case Market.STOCKS:
            return stock_events(symbol, prints)
        case Market.CRYPTO:
            return crypto_events(symbol, prints)
        case Market.OPTIONS:
            table = prints.condition_table
            return [
                OptionTrade(symbol, x, p, size_e8 // E8, time_ns // NS_PER_MS, q, table[conditions])
                for time_ns, _, _, p, size_e8, x, _, _, q, conditions, _ in rows(prints)
            ]
        case Market.FUTURES:
            return [
                FutureTrade(symbol, p, size_e8 // E8, time_ns // NS_PER_MS, q)
                for time_ns, _, _, p, size_e8, _, _, _, q, _, _ in rows(prints)
            ]
        case Market.FOREX:
            return [
                ForexQuote(symbol, x, (both := quote_of(p))[1], both[0], time_ns // NS_PER_MS)
                for time_ns, _, _, p, _, x, _, _, _, _, _ in rows(prints)
            ]
        case Market.INDICES:
            return [IndexValue(p, symbol, time_ns // NS_PER_MS) for time_ns, _, _, p, *_ in rows(prints)]
