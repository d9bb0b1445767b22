"""Ticks from a recording's own time."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.ticks import closing_ticks, with_ticks
from tapewatch.records import Batch, Kind, Market


def trades(*times_ms: int) -> Batch:
    rows = [(Kind.TRADE, 1, 3, time_ms, 77, 1.5, 9, 2, 201, 4, str(n)) for n, time_ms in enumerate(times_ms)]
    return Batch.of(rows)


def shape(batch: Batch) -> list[tuple[str, int]]:
    """(kind, time) of each row, and that every row is as it should be otherwise."""
    names = {Kind.TRADE: "trade", Kind.TICK: "tick"}
    assert (batch.received_ns == batch.time_ms * 1_000_000).all()
    assert (batch.market == 1).all()
    ticks = batch.kind == Kind.TICK
    assert (batch.symbol[ticks] == -1).all()
    assert (batch.symbol[~ticks] == 3).all()
    assert [one for one in batch.ids if one] == [str(n) for n in range(int((~ticks).sum()))]
    assert [one == "" for one in batch.ids] == ticks.tolist()
    return [
        (names[Kind(kind)], time_ms) for kind, time_ms in zip(batch.kind.tolist(), batch.time_ms.tolist(), strict=True)
    ]


def test_a_tick_comes_before_the_trade_that_passes_a_whole_second() -> None:
    #  10.2  10.9  |11| 11.1  |13| 13.4  12.7  |14| 14.0
    assert shape(with_ticks(trades(10_200, 10_900, 11_100, 13_400, 12_700, 14_000), None)) == [
        ("trade", 10_200),
        ("trade", 10_900),
        ("tick", 11_000),
        ("trade", 11_100),
        ("tick", 13_000),
        ("trade", 13_400),
        ("trade", 12_700),
        ("tick", 14_000),
        ("trade", 14_000),
    ]


def test_what_was_known_before_counts() -> None:
    assert shape(with_ticks(trades(10_200), 10_100)) == [("trade", 10_200)]
    assert shape(with_ticks(trades(10_200), 9_999)) == [("tick", 10_000), ("trade", 10_200)]
    assert shape(with_ticks(trades(10_200), 99_999)) == [("trade", 10_200)]
    assert len(with_ticks(Batch.empty(), 5)) == 0


def test_types_are_kept() -> None:
    before, after = trades(10_000, 11_000), with_ticks(trades(10_000, 11_000), None)
    for name in (
        "kind",
        "market",
        "symbol",
        "time_ms",
        "received_ns",
        "price",
        "size_e8",
        "exchange",
        "trf",
        "conditions",
    ):
        assert getattr(after, name).dtype == getattr(before, name).dtype


@given(st.lists(st.integers(0, 12_000), max_size=30), st.none() | st.integers(0, 12_000), st.data())
def test_it_agrees_with_the_plain_way_however_the_trades_are_cut(
    times: list[int], last_ms: int | None, data: st.DataObject
) -> None:
    expected: list[tuple[str, int]] = []
    greatest = last_ms
    for time_ms in times:
        if greatest is not None and time_ms // 1_000 > greatest // 1_000:
            expected.append(("tick", time_ms // 1_000 * 1_000))
        expected.append(("trade", time_ms))
        greatest = time_ms if greatest is None else max(greatest, time_ms)
    whole = with_ticks(trades(*times), last_ms)
    assert shape(whole) == expected
    cut = data.draw(st.integers(0, len(times)))
    known = [last_ms] * (last_ms is not None) + times[:cut]
    parts = [with_ticks(trades(*times[:cut]), last_ms), with_ticks(trades(*times[cut:]), max(known) if known else None)]
    assert [row for part in parts for row in zip(part.kind.tolist(), part.time_ms.tolist(), strict=True)] == list(
        zip(whole.kind.tolist(), whole.time_ms.tolist(), strict=True)
    )


def test_closing_ticks() -> None:
    ticks = closing_ticks(Market.CRYPTO, 10_999, 13_000)
    assert shape(ticks) == [("tick", 11_000), ("tick", 12_000), ("tick", 13_000)]
    assert len(closing_ticks(Market.CRYPTO, 11_000, 11_999)) == 0
    assert len(closing_ticks(Market.CRYPTO, 13_000, 11_000)) == 0
    many = closing_ticks(Market.STOCKS, 0, 100_000).time_ms.tolist()
    assert all(b - a == 1_000 for a, b in itertools.pairwise(many))
