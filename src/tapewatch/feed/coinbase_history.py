"""Coinbase's trades of the past by its public REST, as the same records that the stream would have given.

    GET /products/{product}/trades?limit=1000&after=ID     newest first; the next page is the header CB-AFTER

There is no asking by time: the pages are gone through backwards until one is older than what is wanted. The exchange
allows some ten calls a second to anybody, so calls here keep to `CALLS_PER_MINUTE`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from tapewatch.errors import FeedError
from tapewatch.feed.backfill import AFTER_MS, BEFORE_MS, Fill, gathered
from tapewatch.feed.coinbase_trades import stream_event
from tapewatch.feed.decode import Decoder
from tapewatch.feed.rest import Rest
from tapewatch.feed.symbols import wire_symbol
from tapewatch.records import Batch, Market

__all__ = ["CALLS_PER_MINUTE", "PAGES_MAX", "coinbase_fill"]

CALLS_PER_MINUTE: Final = 300
PAGE_ROWS: Final = 1_000
PAGES_MAX: Final = 300
"""Pages of one product; what lies further back is left out."""

Rows = list[dict[str, Any]]
_ROWS: Final = msgspec.json.Decoder(Rows)
_PAGE_PARAMETER: Final = "CB-AFTER"


async def coinbase_fill(
    rest: Rest,
    decoder: Decoder,
    symbols: Sequence[str],
    from_ms: int,
    to_ms: int,
    *,
    within_s: float | None = None,
    pages_max: int = PAGES_MAX,
    clock_ns: Callable[[], int] = time.time_ns,
) -> Fill:
    """What the stream would have shown of ``symbols`` in [from_ms, to_ms), and a little around it.

    As `backfill.fill`: whatever comes is kept, an error of a symbol costs that symbol what was still to come, and a
    `FeedError` is never raised.
    """
    until_s = rest.deadline_s(within_s)

    async def fetch(symbol: str, batches: list[Batch]) -> str:
        product = wire_symbol(symbol)
        async for rows in _pages(rest, product, from_ms - BEFORE_MS, until_s, pages_max):
            events = list(_wanted(product, rows, from_ms - BEFORE_MS, to_ms + AFTER_MS))
            batches.append(decoder.decode_events(Market.CRYPTO, events, clock_ns()).batch)
        return ""

    return await gathered(symbols, fetch)


async def _pages(rest: Rest, product: str, from_ms: int, until_s: float, pages_max: int) -> AsyncIterator[Rows]:
    """The rows of each page, oldest first within it; pages come newest first, down to ``from_ms``."""
    what, query = f"the trades of {product}", {"limit": str(PAGE_ROWS)}
    for _ in range(pages_max):
        url = rest.url(f"/products/{quote(product, safe='')}/trades", query)
        headers, body = await rest.get(url, what, until_s)
        try:
            rows = _ROWS.decode(body)[::-1]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FeedError(f"The answer of {rest.host} for {what} cannot be read: {str(error)[:200]}.") from None
        yield rows
        after = headers.get(_PAGE_PARAMETER, "")
        if not rows or not after.isascii() or not after.isdigit() or _time_ms(product, rows[0]) < from_ms:
            return
        query = {"limit": str(PAGE_ROWS), "after": after}
    raise FeedError(f"The trades of {product} fill more than {pages_max} pages of {PAGE_ROWS}; ask for less (WARMUP).")


def _wanted(product: str, rows: Sequence[Mapping[str, Any]], from_ms: int, to_ms: int) -> Iterator[dict[str, Any]]:
    for row in rows:
        event = _event(product, row)
        if event is not None and from_ms <= event["t"] < to_ms:
            yield event


def _event(product: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    return stream_event(product, row.get("trade_id"), row.get("time"), row.get("price"), row.get("size"))


def _time_ms(product: str, row: Mapping[str, Any]) -> int:
    """Of the oldest row of a page; one that cannot be read ends the paging."""
    event = _event(product, row)
    return -1 if event is None else int(event["t"])
