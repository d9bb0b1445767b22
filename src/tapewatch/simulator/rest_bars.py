"""Bars by REST: `/v2/aggs/ticker/{ticker}/range/{n}/{unit}/{from}/{to}`, from the very trades of the stream.

``from`` and ``to`` are Unix ms or days, both inclusive; a bar belongs to the answer if it starts between them. A bar
that has not ended is not given. ``limit`` counts bars; the next page begins where one ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tapewatch.records import E8, Market
from tapewatch.simulator.bars import Window, merged, windows
from tapewatch.simulator.rest_query import Problem, day_ns, whole
from tapewatch.simulator.tape import NS_PER_MS, Tape, listed

__all__ = ["bars_page"]

LIMIT_DEFAULT: Final = 5_000
LIMIT_MAX: Final = 50_000
_MINUTE_MS: Final = 60_000
_UNITS_MS: Final = {"second": 1_000, "minute": _MINUTE_MS, "hour": 3_600_000, "day": 86_400_000}
_SHAPE: Final = "expected /v2/aggs/ticker/TICKER/range/N/second|minute|hour|day/FROM/TO"


async def bars_page(
    tape: Tape, now_ns: int, path: str, parameters: dict[str, str], request_id: str, address: str
) -> bytes:
    """The body of an answer. Raises `Problem`."""
    ticker, unit_ms, from_ms, to_ms = _question(path)
    market, symbol = listed(ticker)
    limit = whole(parameters, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
    order = parameters.get("sort", "asc")
    if order not in ("asc", "desc"):
        raise Problem(HTTPStatus.BAD_REQUEST, f"sort={order!r}: expected asc or desc")
    start_ms = -(-from_ms // unit_ms) * unit_ms
    end_ms = min(to_ms + 1, now_ns // NS_PER_MS // unit_ms * unit_ms)
    end_ms = -(-end_ms // unit_ms) * unit_ms
    end_ms = min(end_ms, now_ns // NS_PER_MS // unit_ms * unit_ms)
    cursor = parameters.get("cursor")
    if cursor is not None:
        start_ms = whole(parameters, "cursor", 0, start_ms, end_ms)
    found: list[Window] = []
    async for window in _windows(tape, market, symbol, start_ms, end_ms, unit_ms, backwards=order == "desc"):
        found.append(window)
        if len(found) > limit:
            break
    page = found[:limit]
    body: dict[str, Any] = {
        "ticker": ticker, "queryCount": len(page), "resultsCount": len(page),
        "adjusted": parameters.get("adjusted", "true") != "false",
        "results": [_row(market, one) for one in page], "status": "OK", "request_id": request_id, "count": len(page),
    }  # fmt: skip
    if order == "asc" and len(found) > limit:
        body["next_url"] = f"{address}?cursor={found[limit].start_ms}&limit={limit}&sort=asc"
    return msgspec.json.encode(body)


def _question(path: str) -> tuple[str, int, int, int]:
    """Ticker, unit (ms), from and to (ms)."""
    parts = path.split("/")
    if len(parts) != 6 or parts[1] != "range" or parts[3] not in _UNITS_MS:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{path}: {_SHAPE}")
    ticker, _, many, unit, first, last = parts
    number = whole({"N": many}, "N", 1, 1, 1_000)
    market = listed(ticker)[0]
    return ticker, number * _UNITS_MS[unit], _moment_ms(first, market)[0], _moment_ms(last, market)[1]


def _moment_ms(text: str, market: Market) -> tuple[int, int]:
    """The first and the last millisecond that a bound means."""
    if text.isascii() and text.isdecimal() and len(text) < 16:
        return int(text), int(text)
    day = day_ns(text, market)
    if day is None:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{text!r}: expected Unix milliseconds or YYYY-MM-DD")
    return day[0] // NS_PER_MS, day[1] // NS_PER_MS - 1


async def _windows(
    tape: Tape, market: Market, symbol: str, start_ms: int, end_ms: int, unit_ms: int, *, backwards: bool
) -> AsyncIterator[Window]:
    """Window after window; a long one is put together from its minutes."""
    base_ms = min(unit_ms, _MINUTE_MS)
    step_ms = max(unit_ms, _MINUTE_MS)
    spans = tape.pieces(market, symbol, start_ms * NS_PER_MS, end_ms * NS_PER_MS, False)
    first_ms = next((max(start_ms, start // NS_PER_MS) for start, _ in spans), end_ms)
    steps = range(first_ms // step_ms * step_ms, end_ms, step_ms)
    for from_ms in reversed(steps) if backwards else steps:
        parts: list[Window] = []
        for minute_ms in range(from_ms // _MINUTE_MS * _MINUTE_MS, min(from_ms + step_ms, end_ms), _MINUTE_MS):
            at_ms, stop_ms = max(minute_ms, start_ms), min(minute_ms + _MINUTE_MS, end_ms)
            prints = tape.trades(market, symbol, at_ms * NS_PER_MS, stop_ms * NS_PER_MS)
            parts += windows(market, prints, base_ms) if len(prints) else ()
            await asyncio.sleep(0)  # the stream is not to wait for a long answer
        whole = list(merged(parts, unit_ms))
        for window in reversed(whole) if backwards else whole:
            yield window


def _row(market: Market, window: Window) -> dict[str, Any]:
    prices = {"o": window.open, "c": window.close, "h": window.high, "l": window.low, "t": window.start_ms}
    match market:
        case Market.INDICES:
            return prices
        case Market.FOREX:
            return {"v": window.trades, "n": window.trades, **prices}
        case Market.CRYPTO:
            return {"v": window.size_e8 / E8, "vw": window.vwap, "n": window.trades, **prices}
    size = window.size_e8 // E8 if window.size_e8 % E8 == 0 else window.size_e8 / E8
    return {"v": size, "vw": window.vwap, "n": window.trades, **prices}
