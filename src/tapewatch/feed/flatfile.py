"""Records from a Massive trades flat file: what a replay feeds to the log.

A recording has no receipt of its own, so each trade is received at its own time. Rows are in the order in which the
stream would have sent them: by (SIP time, sequence number, row in the file). As the decoder does, the condition codes
of all but stocks are dropped, and trades of options and futures get their ids.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tapewatch.feed.events import sequence_id
from tapewatch.feed.symbols import market_of, product_symbol
from tapewatch.records import Batch, Kind, Market, Tables
from tapewatch.tapefile import read_tape, tickers_in

_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class FlatFile:
    """The trades of a file, and how many rows were left out, by reason (cancelled, corrected, without a price)."""

    batch: Batch
    skipped: dict[str, int]


def read_flatfile(path: Path, tables: Tables, symbols: Collection[str] | None = None) -> FlatFile:
    """Read ``path`` (csv or csv.gz); with ``symbols``, in any form, only those.

    Raises:
        InputError: the file cannot be used; names file, line, column and value.
    """
    chosen = None if symbols is None else {product_symbol(symbol) for symbol in symbols}
    tape = read_tape([path], None if chosen is None else lambda ticker: product_symbol(ticker) in chosen)
    tickers = tape.tickers.values
    symbol = np.array([tables.symbols.index(product_symbol(ticker)) for ticker in tickers], np.int32)
    market = np.array([market_of(ticker) for ticker in tickers], np.uint8)
    conditions = np.array([tables.conditions.index(codes) for codes in tape.condition_sets.values], np.int32)
    markets, time_ms = market[tape.ticker], tape.time_ns // _NS_PER_MS
    for row in np.flatnonzero((markets == Market.OPTIONS) | (markets == Market.FUTURES)).tolist():
        if not tape.ids[row]:
            tape.ids[row] = sequence_id(int(time_ms[row]), int(tape.sequence[row]))
    batch = Batch(
        kind=np.full(len(tape), Kind.TRADE, np.uint8),
        market=markets,
        symbol=symbol[tape.ticker],
        time_ms=time_ms,
        received_ns=tape.time_ns,
        price=tape.price,
        size_e8=tape.size_e8,
        exchange=tape.exchange,
        trf=tape.trf,
        conditions=np.where(markets == Market.STOCKS, conditions[tape.conditions], 0).astype(np.int32),
        ids=tape.ids,
    )
    return FlatFile(batch, tape.skipped)


def peek_symbols(path: Path) -> list[str]:
    """The product symbols in a file, sorted. Raises as `read_flatfile`."""
    return sorted({product_symbol(ticker) for ticker in tickers_in(path)})
