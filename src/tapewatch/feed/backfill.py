"""What the stream did not show, by REST: as the same records that the stream would have given.

    trades   GET /v3/trades/{ticker}?timestamp.gte&timestamp.lt&order=asc&limit=50000
    bars     GET /v2/aggs/ticker/{ticker}/range/1/{minute|second}/{from}/{to}       where the plan has no trades

Times are cut from nanoseconds to milliseconds as the stream does, ``received_ns`` is now. Trades that were cancelled or
corrected since (`correction` other than 0 and 12) are left out: the stream showed them, the history knows better.

A stretch is asked for with some overlap, since trades come a little out of order and repeats are dropped anyway. Bars
overlap nothing: beside trades a bar would count them twice, so only minutes that lie wholly in the stretch are filled.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import numpy as np

from tapewatch.errors import FeedError, FeedRefused
from tapewatch.feed.decode import Decoder
from tapewatch.feed.reconcile import Told
from tapewatch.feed.rest import PAGES_MAX, Pace, Page, PlanLacks, Rest
from tapewatch.feed.symbols import market_of, rest_ticker, wire_symbol
from tapewatch.records import Batch, Market, Refused
from tapewatch.settings import GAP_MARGIN_MS

__all__ = ["AFTER_MS", "BEFORE_MS", "Fill", "History", "fill", "gathered"]

PAGE_ROWS: Final = 50_000
AT_ONCE: Final = 4
"""Symbols asked for at the same time."""
BEFORE_MS: Final = 10_000
"""So much before a stretch is asked for too."""
AFTER_MS: Final = 1_000
"""And after it, but no more: if some symbols' later trades came by REST, and a crash before the others' from the
stream, no gap would name those."""
_MS_NS: Final = 1_000_000
_GOOD_CORRECTIONS: Final = (None, 0, 12)
_FATES: Final = ((None, 0), (12,), (1,), (7, 8))
"""The corrections of the parts of a `Told`."""
_BAR_MS: Final = {"second": 1_000, "minute": 60_000}
_PATHS: Final = {Market.FUTURES: "/futures/v1/trades", Market.FOREX: "/v3/quotes"}
"""Where a market's ticks are, if not at /v3/trades."""
_NO_TICKS: Final = frozenset({Market.INDICES})
"""Markets of which REST has bars only."""
_TIME_FIELDS: Final = {
    Market.CRYPTO: "participant_timestamp", Market.FOREX: "participant_timestamp", Market.FUTURES: "timestamp",
}  # fmt: skip
"""What the stream's time is called, where it is not the consolidated tape's."""


@dataclass(slots=True)
class Fill:
    """What was fetched for a stretch of a market, by event time; ``missing`` symbols lack some of it, and ``why``."""

    batch: Batch = field(default_factory=Batch.empty)
    missing: list[str] = field(default_factory=list)
    why: str = ""
    vain: bool = False
    """The plan has no more, so asking again changes nothing."""


class History:
    """The exchange's past. An async context manager.

    ``pace`` is shared by all who use the key; ``barred`` are markets whose trades the plan refuses, learned here.
    ``sleep`` waits before a request; ``clock_ns`` stamps the receipt. ``refused`` counts the rows that became no
    record, by reason.
    """

    def __init__(
        self,
        rest_url: str,
        key: str,
        *,
        pace: Pace | None = None,
        barred: set[Market] | None = None,
        pages_max: int = PAGES_MAX,
        clock_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.refused: Counter[Refused] = Counter()
        self.barred = set() if barred is None else barred
        self.rest = Rest(rest_url, key, pace=pace, pages_max=pages_max, sleep=sleep)
        self._clock_ns = clock_ns

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.rest.__aexit__(kind, error, trace)

    async def trades(
        self, decoder: Decoder, symbol: str, from_ms: int, to_ms: int, batches: list[Batch], until_s: float
    ) -> None:
        """The trades of a product symbol with from_ms <= event time < to_ms, oldest first, page by page to ``batches``.

        What came before an error stays there. Raises as `Rest.pages`.
        """
        market = market_of(symbol)
        async for page in self._trade_pages(symbol, from_ms, to_ms, until_s):
            self._decode(decoder, market, _stream_events(market, symbol, page.results), batches)

    async def told(self, decoder: Decoder, symbol: str, from_ms: int, to_ms: int) -> Told:
        """All that REST says of a product symbol's trades in [from_ms, to_ms): also what was withdrawn.

        Raises: as `Rest.pages`.
        """
        market = market_of(symbol)
        found: list[list[Batch]] = [[] for _ in _FATES]
        async for page in self._trade_pages(symbol, from_ms, to_ms, float("inf")):
            for codes, batches in zip(_FATES, found, strict=True):
                self._decode(decoder, market, _stream_events(market, symbol, page.results, codes), batches)
        return Told(*(Batch.join([batch for batch in batches if len(batch)]) for batches in found))

    def _trade_pages(self, symbol: str, from_ms: int, to_ms: int, until_s: float) -> AsyncIterator[Page]:
        market, ticker = market_of(symbol), rest_ticker(symbol)
        path = f"{_PATHS.get(market, '/v3/trades')}/{quote(ticker, safe=':')}"
        query = {"timestamp.gte": str(from_ms * _MS_NS), "timestamp.lt": str(to_ms * _MS_NS), "order": "asc"}
        query |= {"sort": "timestamp", "limit": str(PAGE_ROWS)}
        if market is Market.FUTURES:
            query |= {"sort": "timestamp.asc"}
            del query["order"]
        return self.rest.pages(path, query, f"the trades of {ticker}", until_s)

    async def bars(
        self, decoder: Decoder, symbol: str, unit: str, from_ms: int, to_ms: int, batches: list[Batch], until_s: float
    ) -> None:
        """The same of bars of a ``unit`` that lie wholly in [from_ms, to_ms), as the stream's own bars."""
        market, ticker, length_ms = market_of(symbol), rest_ticker(symbol).replace("-", ""), _BAR_MS[unit]
        first_ms, last_ms = -(-from_ms // length_ms) * length_ms, to_ms // length_ms * length_ms - length_ms
        if first_ms > last_ms:
            return
        path = f"/v2/aggs/ticker/{quote(ticker, safe=':')}/range/1/{unit}/{first_ms}/{last_ms}"
        query = {"adjusted": "false", "sort": "asc", "limit": str(PAGE_ROWS)}
        async for page in self.rest.pages(path, query, f"the bars of {ticker}", until_s):
            rows = [row for row in page.results if _starts(row, first_ms, last_ms)]
            self._decode(decoder, market, _bar_events(market, symbol, unit, rows), batches)

    def _decode(self, decoder: Decoder, market: Market, events: Iterable[Any], batches: list[Batch]) -> None:
        decoded = decoder.decode_events(market, events, self._clock_ns())
        self.refused += decoded.refused
        batches.append(decoded.batch)


async def fill(
    history: History,
    decoder: Decoder,
    symbols: Sequence[str],
    from_ms: int,
    to_ms: int,
    *,
    within_s: float | None = None,
    bars: str = "minute",
    beside_trades: bool = True,
) -> Fill:
    """What the stream would have shown of ``symbols`` (one market's) in [from_ms, to_ms), and a little around it.

    ``bars`` is the unit to ask for where there are no trades; ``beside_trades`` says that the stream gives trades, so
    that bars may not overlap them. Where the stream gives bars, none but bars are asked for: trades beside them would
    count twice. ``within_s`` bounds the time. Whatever comes is kept: an error of a symbol costs that symbol what was
    still to come. Never raises a `FeedError`.
    """
    until_s = history.rest.deadline_s(within_s)

    async def fetch(symbol: str, batches: list[Batch]) -> str:
        if not beside_trades or await _only_bars(history, decoder, symbol, (from_ms, to_ms), batches, until_s):
            start_ms, stop_ms = (from_ms + GAP_MARGIN_MS, to_ms) if beside_trades else (0, to_ms + AFTER_MS)
            start_ms = start_ms or from_ms - from_ms % _BAR_MS[bars]
            await history.bars(decoder, symbol, bars, start_ms, stop_ms, batches, until_s)
            if beside_trades and not _is_whole(from_ms, to_ms, _BAR_MS[bars]):
                return "the plan has bars only, and they cannot fill a part of a minute"
        return ""

    return await gathered(symbols, fetch)


async def gathered(symbols: Sequence[str], fetch: Callable[[str, list[Batch]], Coroutine[Any, Any, str]]) -> Fill:
    """What ``fetch`` adds to the list of each symbol, some at a time; it answers with what is missing, or with nothing.

    A `FeedError` of a symbol says that too.
    """
    slots = asyncio.Semaphore(AT_ONCE)
    found: dict[str, list[Batch]] = {symbol: [] for symbol in symbols}
    failed: dict[str, str] = {}
    hopeful: set[str] = set()

    async def one(symbol: str) -> None:
        async with slots:
            try:
                if lack := await fetch(symbol, found[symbol]):
                    failed[symbol] = lack
            except FeedError as error:
                failed[symbol] = str(error)
                if not isinstance(error, FeedRefused):
                    hopeful.add(symbol)

    tasks = [asyncio.create_task(one(symbol)) for symbol in symbols]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    joined = Batch.join([batch for symbol in symbols for batch in found[symbol] if len(batch)])
    missing = [symbol for symbol in symbols if symbol in failed]
    why = failed[missing[0]] if missing else ""
    return Fill(joined.take(np.argsort(joined.time_ms, kind="stable")), missing, why, vain=not hopeful)


async def _only_bars(
    history: History, decoder: Decoder, symbol: str, stretch: tuple[int, int], batches: list[Batch], until_s: float
) -> bool:
    """Fetch the trades; True if the plan has none of this market."""
    market = market_of(symbol)
    if market in _NO_TICKS:
        return True
    if market not in history.barred:
        try:
            from_ms, to_ms = stretch
            await history.trades(decoder, symbol, from_ms - BEFORE_MS, to_ms + AFTER_MS, batches, until_s)
        except PlanLacks:
            history.barred.add(market)
    return market in history.barred


def _is_whole(from_ms: int, to_ms: int, length_ms: int) -> bool:
    """Whether the stretch, without the margin that it begins with, is made of whole bars."""
    return (from_ms + GAP_MARGIN_MS) % length_ms == 0 and to_ms % length_ms == 0


def _starts(row: Mapping[str, Any], first_ms: int, last_ms: int) -> bool:
    start_ms = row.get("t")
    return isinstance(start_ms, int | float) and first_ms <= start_ms <= last_ms


def _stream_events(
    market: Market, symbol: str, rows: Iterable[Mapping[str, Any]], corrections: Collection[Any] = _GOOD_CORRECTIONS
) -> Iterator[dict[str, Any]]:
    """REST rows with these corrections in the words of the stream; the reader of events then judges them alike."""
    wire, time_field = wire_symbol(symbol), _TIME_FIELDS.get(market, "sip_timestamp")
    for row in rows:
        if row.get("correction", 0) not in corrections:
            continue
        event = {"x": row.get("exchange"), "p": row.get("price"), "s": row.get("size"), "ds": row.get("decimal_size")}
        event |= {"t": row.get(time_field)}
        match market:
            case Market.STOCKS:
                event |= {"ev": "T", "sym": wire, "i": row.get("id"), "c": row.get("conditions")}
                event |= {"trfi": row.get("trf_id")}
            case Market.CRYPTO:
                event |= {"ev": "XT", "pair": wire, "i": row.get("id")}
            case Market.FOREX:
                exchange = row.get("ask_exchange", row.get("bid_exchange"))
                event = {"ev": "C", "p": wire, "x": exchange, "t": row.get(time_field)}
                event |= {"a": row.get("ask_price"), "b": row.get("bid_price")}
            case _:  # the stream gives these no id, so the sequence number is what they are known by
                event |= {"ev": "T", "sym": wire, "q": row.get("sequence_number")}
        yield event


def _bar_events(market: Market, symbol: str, unit: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same of bars."""
    prefix, name = {Market.CRYPTO: ("X", "pair"), Market.FOREX: ("C", "pair")}.get(market, ("", "sym"))
    channel = f"{prefix}A" + ("S" if unit == "second" else "") if prefix else ("A" if unit == "second" else "AM")
    wire = wire_symbol(symbol)
    for row in rows:
        start_ms = int(row["t"])
        event = {"ev": channel, name: wire, "s": start_ms, "e": start_ms + _BAR_MS[unit]}
        yield event | {field: row.get(field) for field in ("o", "h", "l", "c", "v", "vw")}
