"""Trades by REST, page by page: `/v3/trades`, `/v3/quotes`, `/futures/v1/trades`, and the last one.

    timestamp[.gte|.gt|.lte|.lt] (ns or a date), order, sort, limit, cursor

A page begins where one ended: at the last row's moment, without the rows of that moment already given.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tapewatch.records import E8, Market
from tapewatch.simulator.corrections import Corrections, Row
from tapewatch.simulator.events import quote_of
from tapewatch.simulator.rest_query import LATEST_NS, Problem, day_ns, whole
from tapewatch.simulator.tape import Prints, Tape, decimal_text, rows

__all__ = ["last_trade", "trades_page"]

LIMIT_DEFAULT: Final = 1_000
LIMIT_MAX: Final = 50_000
LAST_NS: Final = 7 * 86_400 * 1_000_000_000
"""The last trade is looked for so far back."""


class StockRow(msgspec.Struct, omit_defaults=True):
    """A result of `/v3/trades` for a stock."""

    exchange: int
    id: str
    participant_timestamp: int
    price: float
    sequence_number: int
    sip_timestamp: int
    size: int
    decimal_size: str
    tape: int
    conditions: tuple[int, ...] = ()
    trf_id: int = 0
    trf_timestamp: int = 0
    correction: int = 0


class CryptoRow(msgspec.Struct, omit_defaults=True):
    """A result of `/v3/trades` for a pair."""

    exchange: int
    id: str
    participant_timestamp: int
    price: float
    size: float
    conditions: tuple[int, ...] = ()


class OptionRow(msgspec.Struct, omit_defaults=True):
    """A result of `/v3/trades` for an option."""

    exchange: int
    participant_timestamp: int
    price: float
    sequence_number: int
    sip_timestamp: int
    size: int
    conditions: tuple[int, ...] = ()


class FutureRow(msgspec.Struct):
    """A result of `/futures/v1/trades`."""

    ticker: str
    timestamp: int
    price: float
    size: int
    sequence_number: int


class QuoteRow(msgspec.Struct):
    """A result of `/v3/quotes` for two currencies."""

    ask_exchange: int
    ask_price: float
    bid_exchange: int
    bid_price: float
    participant_timestamp: int


@dataclass(frozen=True, slots=True)
class _Query:
    """Trades in [from, to), and where a page begins: ``skip`` trades of the first moment are on the page before."""

    market: Market
    symbol: str
    from_ns: int
    to_ns: int
    backwards: bool
    limit: int
    skip: int = 0


async def trades_page(
    tape: Tape,
    corrections: Corrections,
    now_ns: int,
    market: Market,
    symbol: str,
    parameters: dict[str, str],
    request_id: str,
    address: str,
) -> bytes:
    """The body of an answer: trades up to ``now_ns``. Raises `Problem`."""
    query = _query(market, symbol, parameters)
    from_ns, to_ns = query.from_ns, min(query.to_ns, now_ns + 1)
    found: list[Row] = []
    # One row more than the page holds shows that there is a next page.
    wanted = query.skip + query.limit + 1
    table: Any = [()]
    for start, stop in tape.pieces(market, symbol, from_ns, to_ns, query.backwards):
        prints = tape.trades(market, symbol, start, stop)
        if len(prints):
            table = prints.condition_table
            part = _part(prints, wanted - len(found), query.backwards)
            shown = [one for row in part for one in corrections.of(market, symbol, row, now_ns)]
            found += shown[: wanted - len(found)]
        if len(found) >= wanted:
            break
        await asyncio.sleep(0)  # the stream is not to wait for a long answer
    page = found[query.skip : query.skip + query.limit]
    results = [_result(query, row, table) for row in page]
    body: dict[str, Any] = {"status": "OK", "request_id": request_id, "results": results}
    if len(found) >= wanted:
        body["next_url"] = f"{address}?cursor={_cursor(query, page)}"
    return msgspec.json.encode(body)


def last_trade(tape: Tape, now_ns: int, market: Market, symbol: str) -> dict[str, Any] | None:
    """The newest trade up to ``now_ns``, in the short words of `/v2/last/trade`; None if there is none for long."""
    for start, stop in tape.pieces(market, symbol, now_ns - LAST_NS, now_ns + 1, True):
        prints = tape.trades(market, symbol, start, stop)
        if not len(prints):
            continue
        time_ns, pt_ns, trf_ns, price, size_e8, x, trf, z, q, conditions, trade_id = next(
            rows(prints.slice(len(prints) - 1, len(prints)))
        )
        row = {"c": list(prints.condition_table[conditions]), "f": trf_ns, "i": trade_id, "p": price, "q": q, "r": trf}
        row |= {"s": size_e8 / E8, "ds": decimal_text(size_e8), "t": time_ns, "x": x, "y": pt_ns, "z": z}
        return {name: value for name, value in row.items() if value or name == "s"}
    return None


def _part(prints: Prints, most: int, backwards: bool) -> list[tuple[Any, ...]]:
    if backwards:
        part = list(rows(prints.slice(max(0, len(prints) - most), len(prints))))
        part.reverse()
        return part
    return list(rows(prints.slice(0, min(most, len(prints)))))


def _result(query: _Query, row: Row, table: Any) -> Any:
    (time_ns, pt_ns, trf_ns, _, size_e8, x, trf, tape, sequence, conditions, trade_id), correction, price = row
    match query.market:
        case Market.CRYPTO:
            return CryptoRow(x, trade_id, time_ns, price, size_e8 / E8, table[conditions])
        case Market.OPTIONS:
            return OptionRow(x, pt_ns, price, sequence, time_ns, size_e8 // E8, table[conditions])
        case Market.FUTURES:
            return FutureRow(query.symbol, time_ns, price, size_e8 // E8, sequence)
        case Market.FOREX:
            bid, ask = quote_of(price)
            return QuoteRow(x, ask, x, bid, time_ns)
        case _:
            return StockRow(
                x, trade_id, pt_ns, price, sequence, time_ns, size_e8 // E8, decimal_text(size_e8), tape,
                table[conditions], trf, trf_ns, correction,
            )  # fmt: skip


# --- the query -------------------------------------------------------------------------------------------------


def _query(market: Market, symbol: str, parameters: dict[str, str]) -> _Query:
    if "cursor" in parameters:
        return _from_cursor(market, symbol, parameters["cursor"])
    order = parameters.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Problem(HTTPStatus.BAD_REQUEST, f"order={order!r}: expected asc or desc")
    if (sort := parameters.get("sort", "timestamp")) != "timestamp":
        raise Problem(HTTPStatus.BAD_REQUEST, f"sort={sort!r}: expected timestamp")
    limit = whole(parameters, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
    from_ns, to_ns = 0, LATEST_NS
    for name, value in parameters.items():
        if name.partition(".")[0] == "timestamp":
            low, high = _bounds(name, value, market)
            from_ns, to_ns = max(from_ns, low), min(to_ns, high)
    return _Query(market, symbol, from_ns, to_ns, order == "desc", limit)


def _bounds(name: str, value: str, market: Market) -> tuple[int, int]:
    """The [from, to) in ns that one filter allows. A date means its whole day, in New York for stocks."""
    first, end = _moment(name, value, market)
    match name:
        case "timestamp":
            return first, end
        case "timestamp.gte":
            return first, LATEST_NS
        case "timestamp.gt":
            return end, LATEST_NS
        case "timestamp.lte":
            return 0, end
        case "timestamp.lt":
            return 0, first
    raise Problem(HTTPStatus.BAD_REQUEST, f"{name} is not a filter; expected timestamp, or it with .gte .gt .lte .lt")


def _moment(name: str, value: str, market: Market) -> tuple[int, int]:
    if value.isdecimal() and int(value) < LATEST_NS:
        return int(value), int(value) + 1
    day = day_ns(value, market)
    if day is None:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{name}={value!r}: expected Unix nanoseconds or YYYY-MM-DD")
    return day


def _cursor(query: _Query, page: list[Row]) -> str:
    """Where the next page begins: at the last trade's moment, without the trades of that moment already given."""
    last_ns = int(page[-1][0][0])
    given = sum(1 for row in page if row[0][0] == last_ns)
    boundary_ns = query.to_ns - 1 if query.backwards else query.from_ns
    if last_ns == boundary_ns:
        given += query.skip
    from_ns, to_ns = (query.from_ns, last_ns + 1) if query.backwards else (last_ns, query.to_ns)
    fields = [from_ns, to_ns, int(query.backwards), query.limit, given]
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


def _from_cursor(market: Market, symbol: str, cursor: str) -> _Query:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        from_ns, to_ns, backwards, limit, skip = msgspec.json.decode(text, type=tuple[int, int, int, int, int])
    except (ValueError, msgspec.MsgspecError):
        raise Problem(HTTPStatus.BAD_REQUEST, f"cursor={cursor!r}: not one of ours") from None
    if not (1 <= limit <= LIMIT_MAX and skip >= 0 and 0 <= from_ns <= to_ns <= LATEST_NS):
        raise Problem(HTTPStatus.BAD_REQUEST, f"cursor={cursor!r}: not one of ours")
    return _Query(market, symbol, from_ns, to_ns, bool(backwards), limit, skip)
