"""Batches for the log's tests: simple ones by number, and any at all by Hypothesis."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tapewatch.records import COLUMNS, RECORD, Batch, Gap, Kind, Market, Tables

SYMBOLS = ("AAPL", "BRK.B", "BTC")
CONDITIONS: tuple[tuple[int, ...], ...] = ((12,), (14, 37, 41))


def some_tables() -> Tables:
    """Tables that already hold `SYMBOLS` and `CONDITIONS`."""
    tables = Tables()
    for symbol in SYMBOLS:
        tables.symbols.index(symbol)
    for condition in CONDITIONS:
        tables.conditions.index(condition)
    return tables


def trades(count: int, start: int = 0) -> Batch:
    """``count`` different trades, numbered from ``start``, one a millisecond; for `some_tables`."""
    return Batch.of(
        [
            (Kind.TRADE, i % 2, i % 3, 1_000 + i, 10**18 + i, 100 + i / 100, i * 10**8, i % 20, i % 3, i % 3, str(i))
            for i in range(start, start + count)
        ]
    )


def rows(batches: Iterable[Batch], tables: Tables) -> list[tuple[object, ...]]:
    """Every record with its offset and its names spelled out, to compare across processes' tables."""
    found: list[tuple[object, ...]] = []
    for batch in batches:
        columns = {name: getattr(batch, name).tolist() for name in COLUMNS}
        columns["price"] = batch.price.view(np.int64).tolist()  # to the bit: NaN and -0.0 too
        columns["symbol"] = [tables.symbols.values[i] if i >= 0 else None for i in columns["symbol"]]
        columns["conditions"] = [tables.conditions.values[i] for i in columns["conditions"]]
        offsets = range(batch.offset, batch.offset + len(batch))
        found += zip(offsets, *columns.values(), batch.ids, strict=True)
    return found


def _integers(name: str) -> SearchStrategy[int]:
    limits = np.iinfo(RECORD[name])
    return st.integers(int(limits.min), int(limits.max)) | st.sampled_from([int(limits.min), 0, int(limits.max)])


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_gaps = st.builds(
    Gap,
    market=st.sampled_from(Market),
    from_ms=st.integers(-(2**62), 2**62),
    to_ms=st.integers(-(2**62), 2**62),
    cause=_texts,
    symbols=st.lists(_texts, max_size=3),
)


@st.composite
def any_batch(draw: st.DrawFn, tables: Tables, max_size: int = 12) -> Batch:
    """Any batch at all, with new names put into ``tables``."""
    symbols = st.builds(tables.symbols.index, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
    conditions = st.builds(tables.conditions.index, st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4).map(tuple))
    found = []
    for _ in range(draw(st.integers(1, max_size))):
        kind = draw(st.sampled_from(Kind))
        text = draw(_gaps).encode() if kind == Kind.GAP else draw(st.just("") | _texts)
        found.append(
            (
                kind,
                draw(st.sampled_from(Market)),
                draw(symbols) if kind == Kind.TRADE else -1,
                draw(_integers("time_ms")),
                draw(_integers("received_ns")),
                draw(st.floats()),
                draw(_integers("size_e8")),
                draw(_integers("exchange")),
                draw(_integers("trf")),
                draw(conditions),
                text,
            )
        )
    return Batch.of(found)
