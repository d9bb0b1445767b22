"""A day as logged against a day as told: every kind of difference, with and without ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.reconcile import Compared, Told, What, compare_day, counts
from tapewatch.records import E8, Batch, Kind, Market, Tables

T_MS = 1_788_877_046_300
Trade = tuple[str, float, int]
"""Id, price, seconds after T_MS."""


def batch(tables: Tables, *trades: Trade, codes: tuple[int, ...] = ()) -> Batch:
    symbol, conditions = tables.symbols.index("AAPL"), tables.conditions.index(codes)
    rows = [
        (Kind.TRADE, Market.STOCKS, symbol, T_MS + s * 1_000, 10**18, price, E8, 4, 202, conditions, one)
        for one, price, s in trades
    ]
    return Batch.of(rows)


def compared(logged: list[Trade], **told: list[Trade]) -> Compared:
    tables = Tables()
    parts = {name: batch(tables, *told.get(name, [])) for name in ("normal", "corrected", "replaced", "cancelled")}
    return compare_day("AAPL", batch(tables, *logged), Told(**parts), tables)


def kinds(found: Compared) -> list[tuple[str, str]]:
    return [(d.what.value, d.trade_id) for d in found.differences]


def test_the_same_day_has_no_difference() -> None:
    day: list[Trade] = [("1", 10.0, 0), ("2", 11.0, 1), ("", 11.0, 1), ("", 11.0, 1)]
    found = compared(day, normal=day)
    assert (kinds(found), found.gone, len(found.new)) == ([], set(), 0)
    assert (found.logged, found.told) == (4, 4)


def test_every_kind() -> None:
    logged: list[Trade] = [
        ("1", 10.0, 1),
        ("2", 10.0, 2),
        ("3", 10.0, 3),
        ("4", 10.0, 4),
        ("5", 10.0, 5),
        ("6", 10.0, 6),
    ]
    found = compared(
        logged,
        normal=[("1", 10.0, 1), ("5", 10.5, 5), ("9", 10.0, 9)],
        corrected=[("3", 12.0, 3), ("77", 13.0, 6)],
        replaced=[("3", 10.0, 3), ("6", 10.0, 6)],
        cancelled=[("4", 10.0, 4)],
    )
    assert kinds(found) == [
        ("extra", "2"),
        ("corrected", "3"),
        ("cancelled", "4"),
        ("corrected", "5"),
        ("corrected", "6"),
        ("missing", "77"),
        ("missing", "9"),
    ]
    assert found.gone == {2, 3, 4, 5}, "an extra trade stays: the exchange has not withdrawn it"
    assert sorted(found.new.ids) == ["3", "5", "77", "9"]
    assert counts(found.differences) == {
        What.MISSING: 2, What.EXTRA: 1, What.CANCELLED: 1, What.CORRECTED: 3, What.LATE: 0,
    }  # fmt: skip
    assert [(d.logged, d.told) for d in found.differences[1:3]] == [((10.0, 1.0), (12.0, 1.0)), ((10.0, 1.0), None)]


def test_what_was_logged_after_its_correction_is_no_difference() -> None:
    found = compared([("3", 12.0, 3)], corrected=[("3", 12.0, 3)], replaced=[("3", 10.0, 3)])
    assert kinds(found) == []


def test_what_was_cancelled_and_never_logged_is_no_difference() -> None:
    assert kinds(compared([], cancelled=[("4", 10.0, 4)], replaced=[("5", 1.0, 5)], normal=[])) == []


def test_other_conditions_are_a_correction_and_our_own_verdicts_are_not() -> None:
    tables = Tables()
    none = batch(tables)
    told = Told(batch(tables, ("1", 10.0, 1), codes=(37,)), none, none, none)
    assert kinds(compare_day("AAPL", batch(tables, ("1", 10.0, 1)), told, tables)) == [("corrected", "1")]
    assert kinds(compare_day("AAPL", batch(tables, ("1", 10.0, 1), codes=(37, 32_036)), told, tables)) == []


def test_bars_are_no_trades() -> None:
    tables = Tables()
    none = batch(tables)
    found = compare_day("AAPL", batch(tables, ("AM:1:o", 10.0, 1), codes=(-1,)), Told(none, none, none, none), tables)
    assert (found.logged, kinds(found)) == (0, [])


trades = st.lists(
    st.tuples(st.sampled_from(["", "", "1", "2", "3", "4", "5"]), st.sampled_from([10.0, 11.0]), st.integers(0, 3)),
    max_size=8,
)


def _once(day: list[Trade]) -> list[Trade]:
    """Each id once, as the log and the exchange hold them."""
    seen: set[str] = set()
    return [one for one in day if not one[0] or not (one[0] in seen or seen.add(one[0]))]  # type: ignore[func-returns-value]


@given(trades, trades)
def test_the_corrected_day_is_the_told_one_and_what_was_not_withdrawn(a: list[Trade], b: list[Trade]) -> None:
    logged, told = _once(a), _once(b)
    tables = Tables()
    none, mine, theirs = batch(tables), batch(tables, *logged), batch(tables, *told)
    found = compare_day("AAPL", mine, Told(theirs, none, none, none), tables)
    kept = mine.take(np.array([i for i in range(len(mine)) if i not in found.gone], np.intp))

    def shape(part: Batch) -> list[Any]:
        return [*zip(part.ids, part.price.tolist(), part.time_ms.tolist(), strict=True)]

    extra = [(d.trade_id, d.logged[0], d.time_ms) for d in found.differences if d.what is What.EXTRA and d.logged]
    assert sorted(shape(kept) + shape(found.new)) == sorted(shape(theirs) + extra)
