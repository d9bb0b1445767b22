"""Repeats: against a plain set, over days, generations and growth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.dedupe import Seen
from tapewatch.records import Batch, Kind, Market

DAY_MS = 86_400_000
NOON_MS = 20_000 * DAY_MS + 17 * 3_600_000  # 12:00 at UTC-5


def trade(
    trade_id: str,
    *,
    market: Market = Market.STOCKS,
    symbol: int = 0,
    time_ms: int = NOON_MS,
    exchange: int = 4,
    trf: int = 0,
) -> tuple[Any, ...]:
    return (Kind.TRADE, market, symbol, time_ms, NOON_MS * 1_000_000, 1.0, 1, exchange, trf, 0, trade_id)


def new(seen: Seen, *rows: tuple[Any, ...]) -> list[bool]:
    return [bool(value) for value in seen.filter(Batch.of(rows))]


def test_a_repeat_is_found_in_its_batch_and_later() -> None:
    seen = Seen()
    assert new(seen, trade("1"), trade("2"), trade("1")) == [True, True, False]
    assert new(seen, trade("2"), trade("3")) == [False, True]
    assert new(seen) == []


def test_what_makes_another_trade() -> None:
    seen = Seen()
    seen.add(Batch.of([trade("1")]))
    others = [
        trade("2"),
        trade("1", symbol=1),
        trade("1", exchange=5),
        trade("1", trf=1),
        trade("1", market=Market.CRYPTO),
        trade("1", time_ms=NOON_MS + DAY_MS),
    ]
    assert new(seen, *others) == [True] * 6
    assert new(seen, trade("1"), *others) == [False] * 7
    # price, size, receipt and conditions are no part of it
    assert new(seen, (Kind.TRADE, 0, 0, NOON_MS + 5, 7, 9.0, 9, 4, 0, 9, "1")) == [False]


def test_what_is_never_a_repeat() -> None:
    tick = (Kind.TICK, 0, -1, NOON_MS, 0, 0.0, 0, 0, 0, 0, "")
    gap = (Kind.GAP, 0, -1, NOON_MS, 0, 0.0, 0, 0, 0, 0, "{}")
    assert new(Seen(), *[trade(""), tick, gap] * 2) == [True] * 6


def test_the_day_of_stocks_ends_at_utc_minus_5_and_that_of_crypto_at_utc() -> None:
    #  UTC     00:00                05:00
    #  crypto    | new day
    #  stocks                         | new day
    midnight = 20_001 * DAY_MS
    seen = Seen()
    for market, boundary in ((Market.CRYPTO, midnight), (Market.STOCKS, midnight + 5 * 3_600_000)):
        assert new(seen, trade("x", market=market, time_ms=boundary - 1)) == [True]
        assert new(seen, trade("x", market=market, time_ms=boundary)) == [True]
        assert new(seen, trade("x", market=market, time_ms=boundary - DAY_MS)) == [False]
        assert new(seen, trade("x", market=market, time_ms=boundary + DAY_MS - 1)) == [False]


def test_it_grows_and_forgets_nothing() -> None:
    seen = Seen()
    rows = [trade(str(n), symbol=n % 7) for n in range(40_000)]
    batch = Batch.of(rows)
    assert seen.filter(batch).all()
    assert not seen.filter(batch).any()
    assert seen.slots < 100_000


def test_it_starts_small() -> None:
    assert Seen().slots * 8 < 1_000_000


def test_the_older_generation_is_forgotten_when_the_newer_is_full() -> None:
    seen = Seen(keys_max=10)
    for n in range(25):  # generations 0..9, 10..19, 20..24
        assert new(seen, trade(str(n))) == [True]
    assert new(seen, *[trade(str(n)) for n in range(10, 25)]) == [False] * 15
    assert new(seen, trade("0")) == [True]


def test_a_batch_larger_than_a_generation() -> None:
    seen = Seen(keys_max=10)
    rows = [trade(str(n)) for n in range(35)]
    assert new(seen, *rows) == [True] * 35
    assert new(seen, *rows[-5:]) == [False] * 5


def test_a_new_day_of_receipt_begins_a_generation() -> None:
    def received(day: int, *ids: str) -> Batch:
        rows = [(*trade(one)[:4], day * DAY_MS * 1_000_000, *trade(one)[5:]) for one in ids]
        return Batch.of(rows)

    seen = Seen()
    seen.add(received(1, "a"))
    seen.add(received(2, "b"))
    assert seen.filter(received(2, "a", "b")).tolist() == [False, False]
    seen.add(received(3, "c"))
    assert seen.filter(received(3, "b", "c", "a")).tolist() == [False, False, True]


_rows = st.builds(
    trade,
    st.sampled_from(["", "1", "2", "3", "é"]),
    market=st.sampled_from(Market),
    symbol=st.integers(0, 2),
    time_ms=st.sampled_from([NOON_MS - DAY_MS, NOON_MS, NOON_MS + 1, NOON_MS + DAY_MS]),
    exchange=st.sampled_from([0, 1, 32767]),
    trf=st.sampled_from([0, 201]),
)


@given(st.lists(_rows, max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_it_agrees_with_a_plain_set_however_the_rows_are_cut(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    known: set[tuple[Any, ...]] = set()
    expected = []
    for row in rows:
        shift = 5 * 3_600_000 if row[1] == Market.STOCKS else 0
        identity = ((row[3] - shift) // DAY_MS, row[1], row[2], row[7], row[8], row[10])
        expected.append(row[10] == "" or identity not in known)
        known.add(identity)
    seen = Seen()
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    found = [seen.filter(Batch.of(rows[a:b])) for a, b in itertools.pairwise(edges)]
    assert np.concatenate(found).tolist() == expected
