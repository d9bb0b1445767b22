"""One event of the exchange to trades, read with care: any JSON value may stand in any field.

Taken is what can be understood: integers printed as ``12.0``, times in seconds, microseconds or nanoseconds, ids that
are numbers, trades without ``ds``, sizes of any length, statuses, and the exchange's own bars. What a market's events
become:

    stocks            T    sym   a trade with its condition codes
    crypto            XT   pair  a trade; its codes say who bought, so they are dropped
    options, futures  T    sym   a trade; there are no rules for their codes, and `sequence_id` stands for the id
    forex             C    p     a price in the middle of bid and ask, of size 0: nothing was traded
    indices           V    T     a price, of size 0

A bar [s, e) is taken apart into trades, since the engine knows nothing else:

    at s          open (price only), high and low (high and low only)
    at e - 1 ms   close (price only), the volume at the average price ``vw`` (volume only; 0 where there is none)

Each part has an id made of the bar's channel and start, so a bar that is sent again is a repeat. So is a quote or a
value with the same numbers at the same time.

This is the measure of what a record is; `scan.py` is the quick way to the same.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from tapewatch.feed.conditions import PART_HIGH_LOW, PART_PRICE, PART_VOLUME
from tapewatch.records import Market, Refused
from tapewatch.values import condition_codes, price_of, size_e8_of, small_of, time_ms_of, trade_id_of, whole_of

__all__ = ["Trade", "read_event", "sequence_id"]

_SEQUENCE_STOP: Final = 2**64


class Trade(Struct, gc=False, kw_only=True):
    """A trade, or a part of a bar. ``symbol`` is the wire's; names and condition lists are not judged yet."""

    symbol: str
    price: float
    time_ms: int
    size_e8: int
    conditions: tuple[int, ...] = ()
    trade_id: str = ""
    exchange: int = 0
    trf: int = 0


_Event = Mapping[str, Any]
_Read = Sequence[Trade] | Refused


def read_event(market: Market, event: Any) -> _Read:
    """The trades in one event of a ``market``'s connection (none for a status), or why it is refused."""
    if not isinstance(event, dict):
        return Refused.MALFORMED
    match market, event.get("ev"):
        case _, "status":
            return ()
        case Market.STOCKS, "T":
            return _trade(event, event.get("sym"), condition_codes(event.get("c")))
        case Market.CRYPTO, "XT":
            return _trade(event, event.get("pair"), ())
        case Market.OPTIONS | Market.FUTURES, "T":
            return _trade(event, event.get("sym"), (), event.get("q"))
        case Market.FOREX, "C":
            return _quote(event)
        case Market.INDICES, "V":
            return _value(event)
        case Market.STOCKS | Market.OPTIONS, "A" | "AM":
            return _bar(event, event.get("sym"), event.get("dv"), event.get("v"))
        case Market.CRYPTO, "XAS" | "XA":
            return _bar(event, event.get("pair"), event.get("dv"), event.get("v"))
        case Market.FUTURES, "A" | "AM":
            return _bar(event, event.get("sym"), None, event.get("v"))  # its dv is in dollars
        case Market.FOREX, "CAS" | "CA":
            return _bar(event, event.get("pair"), None, 0)  # its v counts quotes
        case Market.INDICES, "A" | "AM":
            return _bar(event, event.get("sym"), None, 0)
        case _, str():
            return Refused.UNKNOWN_EVENT
        case _:
            return Refused.MALFORMED


def sequence_id(time_ms: int, sequence: Any) -> str:
    """What stands for the id of a trade without one: its time and its sequence number; "" without that either.

    A number of 0 says nothing, and would make one of all trades of a millisecond.

    >>> sequence_id(1767362400123, 3681328), sequence_id(1767362400123, 12.0), sequence_id(1767362400123, 0)
    ('1767362400123q3681328', '1767362400123q12', '')
    """
    number = whole_of(sequence)
    return f"{time_ms}q{number}" if number is not None and 0 < number < _SEQUENCE_STOP else ""


def _trade(event: _Event, symbol: Any, codes: tuple[int, ...] | None, sequence: Any = None) -> _Read:
    price = price_of(event.get("p"))
    time_ms = time_ms_of(event.get("t"))
    size = size_e8_of(event.get("ds"), event.get("s"))
    exchange = small_of(event.get("x"))
    trf = small_of(event.get("trfi"))
    trade_id = trade_id_of(event.get("i"))
    if (
        not isinstance(symbol, str)
        or price is None
        or time_ms is None
        or size is None
        or exchange is None
        or trf is None
        or trade_id is None
        or codes is None
    ):
        return Refused.BAD_VALUE
    return [
        Trade(
            symbol=symbol,
            price=price,
            time_ms=time_ms,
            size_e8=size,
            conditions=codes,
            trade_id=trade_id or sequence_id(time_ms, sequence),
            exchange=exchange,
            trf=trf,
        )
    ]


def _quote(event: _Event) -> _Read:
    symbol, time_ms, exchange = event.get("p"), time_ms_of(event.get("t")), small_of(event.get("x"))
    bid, ask = price_of(event.get("b")), price_of(event.get("a"))
    if not isinstance(symbol, str) or time_ms is None or exchange is None or bid is None or ask is None:
        return Refused.BAD_VALUE
    quote_id = f"{time_ms}b{bid!r}a{ask!r}"
    return [
        Trade(symbol=symbol, price=(bid + ask) / 2, time_ms=time_ms, size_e8=0, trade_id=quote_id, exchange=exchange)
    ]


def _value(event: _Event) -> _Read:
    symbol, time_ms, value = event.get("T"), time_ms_of(event.get("t")), price_of(event.get("val"))
    if not isinstance(symbol, str) or time_ms is None or value is None:
        return Refused.BAD_VALUE
    return [Trade(symbol=symbol, price=value, time_ms=time_ms, size_e8=0, trade_id=f"{time_ms}v{value!r}")]


def _bar(event: _Event, symbol: Any, exact_volume: Any, rounded_volume: Any) -> _Read:
    start_ms, end_ms = time_ms_of(event.get("s")), time_ms_of(event.get("e"))
    prices = [price_of(event.get(name)) for name in "ohlc"]
    volume = size_e8_of(exact_volume, rounded_volume)
    if not isinstance(symbol, str) or start_ms is None or end_ms is None or end_ms <= start_ms or volume is None:
        return Refused.BAD_VALUE
    if None in prices:
        return Refused.BAD_VALUE
    opened, high, low, close = (price for price in prices if price is not None)
    average = price_of(event.get("vw")) or close
    last_ms = end_ms - 1
    parts = (
        ("o", start_ms, opened, 0, PART_PRICE),
        ("h", start_ms, high, 0, PART_HIGH_LOW),
        ("l", start_ms, low, 0, PART_HIGH_LOW),
        ("c", last_ms, close, 0, PART_PRICE),
        ("v", last_ms, average, volume, PART_VOLUME),
    )
    bar = f"{event['ev']}:{start_ms}"
    return [
        Trade(symbol=symbol, price=price, time_ms=time_ms, size_e8=size, conditions=(code,), trade_id=f"{bar}:{name}")
        for name, time_ms, price, size, code in parts
    ]
