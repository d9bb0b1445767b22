"""simulator/market.py: the same moment always has the same trades, and they look like a market's."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapewatch.records import E8, Market
from tapewatch.simulator import orders
from tapewatch.simulator.events import events
from tapewatch.simulator.hours import NEW_YORK, Hours, day_of, hours_at
from tapewatch.simulator.listing import UNIVERSE
from tapewatch.simulator.market import HISTORY_START_MS, MINUTE_MS, SeededMarket
from tapewatch.simulator.tape import NS_PER_MS, Prints, decimal_text
from trials import examples

STOCK, COIN = (Market.STOCKS, "AAPL"), (Market.CRYPTO, "BTC-USD")
MINUTE_NS = MINUTE_MS * NS_PER_MS


def new_york(text: str) -> int:
    """Unix ms of a moment on New York's clock."""
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


MIDDAY = new_york("2025-11-20T12:00")
SATURDAY = new_york("2025-11-22T12:00")
minutes = st.integers(HISTORY_START_MS // MINUTE_MS, 1_900_000_000_000 // MINUTE_MS)


def minute(market: SeededMarket, which: tuple[Market, str], start_ms: int, count: int = 1) -> Prints:
    return market.trades(*which, start_ms * NS_PER_MS, start_ms * NS_PER_MS + count * MINUTE_NS)


def rows(which: tuple[Market, str], prints: Prints) -> list[object]:
    return list(events(*which, prints))


@settings(max_examples=examples(8))
@given(minutes, st.sampled_from([STOCK, COIN, (Market.STOCKS, "ZZZ.A")]), st.sampled_from([0.5, 4.0, 90.0]))
def test_every_minute_is_the_same_again_sorted_unique_and_positive(
    index: int, which: tuple[Market, str], rate: float
) -> None:
    start_ms = index * MINUTE_MS
    prints = minute(SeededMarket(7, rate), which, start_ms)
    assert rows(which, prints) == rows(which, minute(SeededMarket(7, rate), which, start_ms))  # a restart
    keys = list(zip(prints.time_ns.tolist(), prints.sequence.tolist(), strict=True))
    assert keys == sorted(set(keys))
    assert np.all(np.diff(prints.sequence) > 0)
    assert np.all((prints.time_ns >= start_ms * NS_PER_MS) & (prints.time_ns < start_ms * NS_PER_MS + MINUTE_NS))
    assert np.all(prints.participant_ns <= prints.time_ns)
    assert np.all(prints.price > 0)
    assert np.all(prints.size_e8 > 0)
    assert len(set(prints.ids)) == len(prints)


@pytest.mark.parametrize("which", [STOCK, COIN])
def test_another_seed_or_symbol_is_another_market(which: tuple[Market, str]) -> None:
    one = rows(which, minute(SeededMarket(1, 4), which, MIDDAY))
    assert one != rows(which, minute(SeededMarket(2, 4), which, MIDDAY))
    other = (which[0], "TSLA" if which is STOCK else "ETH-USD")
    assert minute(SeededMarket(1, 4), which, MIDDAY).time_ns[0] != minute(SeededMarket(1, 4), other, MIDDAY).time_ns[0]


@settings(max_examples=examples(5))
@given(st.lists(st.integers(0, 10 * MINUTE_NS), min_size=1, max_size=5), st.sampled_from([STOCK, COIN]))
def test_any_cut_of_a_stretch_gives_the_same_trades(cuts: list[int], which: tuple[Market, str]) -> None:
    market, start = SeededMarket(3, 4), MIDDAY * NS_PER_MS + 17
    whole = rows(which, market.trades(*which, start, start + 10 * MINUTE_NS))
    edges = [0, *sorted(cuts), 10 * MINUTE_NS]
    parts = [market.trades(*which, start + a, start + b) for a, b in pairwise(edges)]
    due = [market.due(which[0], [which[1]], start + a - 1, start + b - 1) for a, b in pairwise(edges)]
    pieces = [market.trades(*which, a, b) for a, b in market.pieces(*which, start, start + 10 * MINUTE_NS, False)]
    # Compared apart from the assertions: pytest would take minutes to show how thousands of trades differ.
    are_same = {
        "parts": [row for part in parts for row in rows(which, part)] == whole,
        "due": [d.event for part in due for d in part] == whole,
        "pieces": [row for piece in pieces for row in rows(which, piece)] == whole,
    }
    assert are_same == dict.fromkeys(are_same, True)


def test_pieces_go_back_too_and_only_as_far_as_history() -> None:
    market = SeededMarket(1, 4)
    there = list(market.pieces(*STOCK, 0, (HISTORY_START_MS + 3 * MINUTE_MS) * NS_PER_MS, False))
    assert there == list(market.pieces(*STOCK, 0, (HISTORY_START_MS + 3 * MINUTE_MS) * NS_PER_MS, True))[::-1]
    assert len(there) == 3
    assert there[0][1] - there[0][0] > 0


@pytest.mark.slow
def test_the_price_is_continuous_over_the_minutes_seams() -> None:
    for which in (STOCK, COIN):
        prints = minute(SeededMarket(1, 4), which, MIDDAY, 240)
        regular = [n for n, codes in enumerate(prints.condition_table) if not set(codes) & {2, 10, 53} or which is COIN]
        keep = np.isin(prints.conditions, regular)
        time_ns, price = prints.time_ns[keep], np.log(prints.price[keep])
        step = np.abs(np.diff(price))
        seam = np.diff(time_ns // MINUTE_NS) > 0
        assert seam.sum() > 200
        assert step[seam].max() < 0.002
        # The wait that holds a given moment is twice the usual one, so its step is larger, but not by much.
        assert step[seam].mean() < 3 * step[~seam].mean()


def test_the_stream_merges_symbols_by_time() -> None:
    market, start = SeededMarket(1, 4), MIDDAY * NS_PER_MS
    due = market.due(Market.STOCKS, ["AAPL", "MSFT", "TSLA"], start, start + MINUTE_NS)
    assert [d.time_ns for d in due] == sorted(d.time_ns for d in due)
    assert {d.symbol for d in due} == {"AAPL", "MSFT", "TSLA"}


def test_what_is_made_ready_is_made_once_and_dropped_later(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = SeededMarket.chunk
    monkeypatch.setattr(SeededMarket, "chunk", lambda self, *key: made.append(key[2]) or original(self, *key))  # type: ignore[func-returns-value]
    market, start = SeededMarket(1, 60), MIDDAY * NS_PER_MS
    symbols = list(UNIVERSE[Market.STOCKS])[:4]
    while market.prepare(Market.STOCKS, symbols, start - MINUTE_NS):
        pass
    assert len(made) == 4
    for n in range(30):  # two and a half minutes, five seconds at a time
        at = start + n * 5_000 * NS_PER_MS
        market.due(Market.STOCKS, symbols, at, at + 5_000 * NS_PER_MS - 1)
    assert len(made) == len(symbols) * 3  # more than may be kept, but what is needed is not made twice
    assert len(market._ready) == len(symbols) * 2
    assert market._ready_trades == sum(len(ready.times_ns) for ready in market._ready.values())


@pytest.mark.slow
def test_ids_are_unique_over_a_whole_day_and_begin_again_on_the_next() -> None:
    market = SeededMarket(1, 4)
    first, following = day_of(MIDDAY)
    start = following * NS_PER_MS
    day = market.trades(*STOCK, first * NS_PER_MS, start)
    assert len(set(day.ids)) == len(day) > 100_000
    assert np.all(np.diff(day.sequence) > 0)
    assert market.trades(*STOCK, start, start + MINUTE_NS).sequence[0] < day.sequence[-1]
    assert day_of(new_york("2025-11-02T12:00")) == (new_york("2025-11-02T00:00"), new_york("2025-11-03T00:00"))


def test_a_stock_market_has_lots_sweeps_blocks_and_odd_conditions() -> None:
    prints = minute(SeededMarket(1, 4), STOCK, new_york("2025-11-20T11:00"), 180)
    codes = Counter(code for number in prints.conditions.tolist() for code in prints.condition_table[number])
    assert {2, 4, 10, 14, 37, 41, 53} <= set(codes)
    assert not {12, 15, 16} & set(codes)
    shares = prints.size_e8 / E8
    odd = np.isin(prints.conditions, [n for n, c in enumerate(prints.condition_table) if 37 in c])
    assert np.array_equal(odd, shares < 100)
    assert 0.4 < odd.mean() < 0.65
    assert (shares < 1).any()
    assert (shares >= 1_000).any()
    finra = prints.exchange == 4
    assert set(prints.trf[finra]) == {201, 202, 203}
    assert not prints.trf[~finra].any()
    assert np.all((prints.trf_ns[finra] > 0) & (prints.trf_ns[finra] <= prints.time_ns[finra]))
    cents = prints.price * 100
    assert np.allclose(cents, np.round(cents), atol=1e-6)
    # A sweep: prints of one millisecond, all with code 14, on different exchanges.
    sweep = np.isin(prints.conditions, [n for n, c in enumerate(prints.condition_table) if 14 in c])
    in_ms = Counter((prints.time_ns[sweep] // NS_PER_MS).tolist())
    assert max(in_ms.values()) >= 4
    some = max(in_ms, key=lambda ms: in_ms[ms])
    assert len(set(prints.exchange[sweep & (prints.time_ns // NS_PER_MS == some)].tolist())) >= 3


def test_a_fractional_trade_shows_no_whole_share() -> None:
    fractions = [e for e in rows(STOCK, minute(SeededMarket(1, 4), STOCK, MIDDAY, 30)) if e.s == 0]  # type: ignore[attr-defined]
    assert fractions
    assert all(0 < float(e.ds) < 1 and 37 in e.c for e in fractions)  # type: ignore[attr-defined]
    assert [decimal_text(n) for n in (E8, 25_000_000, 1, 0)] == ["1.0", "0.25", "0.00000001", "0.0"]


def test_the_day_is_u_shaped_thin_outside_and_form_t() -> None:
    market = SeededMarket(1, 4)
    counts = {
        name: len(minute(market, STOCK, new_york(f"2025-11-20T{at}"), 30))
        for name, at in [("pre", "07:00"), ("open", "09:30"), ("noon", "12:30"), ("close", "15:30"), ("post", "18:00")]
    }
    assert counts["open"] > 1.5 * counts["noon"]
    assert counts["close"] > 1.5 * counts["noon"]
    assert 0 < counts["pre"] < 0.3 * counts["noon"]
    assert abs(counts["noon"] / (30 * 60 * 4) - 1) < 0.35
    for at in ("05:00", "17:30"):
        prints = minute(market, STOCK, new_york(f"2025-11-20T{at}"), 5)
        assert all(12 in prints.condition_table[n] for n in prints.conditions)
    opening = minute(market, STOCK, new_york("2025-11-20T09:30"))
    closing = minute(market, STOCK, new_york("2025-11-20T16:00"))
    assert [opening.condition_table[n] for n in opening.conditions[:2]] == [(17,), (16,)]
    assert [closing.condition_table[n] for n in closing.conditions[:2]] == [(8,), (15,)]


def test_nights_and_weekends_are_silent_or_as_midday() -> None:
    for at in (SATURDAY, new_york("2025-11-20T02:00"), new_york("2025-11-20T20:00")):
        assert hours_at(at) is Hours.CLOSED
        assert len(minute(SeededMarket(1, 4, "real"), STOCK, at, 10)) == 0
        always = minute(SeededMarket(1, 4), STOCK, at, 10)
        assert len(always) > 1_500
        assert not any(12 in always.condition_table[n] for n in always.conditions)
    assert len(minute(SeededMarket(1, 4, "real"), COIN, SATURDAY)) > 100


def test_crypto_has_fractions_sides_and_no_sequence_on_the_wire() -> None:
    made = rows(COIN, minute(SeededMarket(1, 4), COIN, MIDDAY, 10))
    assert {e.c for e in made} == {(1,), (2,)}  # type: ignore[attr-defined]
    assert all(isinstance(e.i, str) and e.s > 0 and e.r >= e.t for e in made)  # type: ignore[attr-defined]
    assert np.median([e.s for e in made]) < 0.1  # type: ignore[attr-defined]


@pytest.mark.slow
def test_prices_cross_their_average_a_few_times_an_hour_and_volume_surges() -> None:
    """What makes the demonstration worth watching: about one cross of MA(5 x 1m) in 10 to 30 minutes."""
    market = SeededMarket(1, 2)
    crosses = surges = 0
    for symbol in ("AAPL", "MSFT", "GOOGL", "TSLA"):
        prints = minute(market, (Market.STOCKS, symbol), SATURDAY, 480)
        plain = np.isin(
            prints.conditions, [n for n, c in enumerate(prints.condition_table) if not {2, 10, 37, 53} & set(c)]
        )
        index = (prints.time_ns // MINUTE_NS - prints.time_ns[0] // MINUTE_NS).astype(int)
        closes = np.array([prints.price[plain & (index == m)][-1] for m in range(480)])
        line = np.convolve(closes, np.ones(5) / 5, "valid")
        side = np.where(closes[4:] >= line * 1.0005, 1, np.where(closes[4:] <= line * 0.9995, -1, 0))
        known = side[side != 0]
        crosses += int((np.diff(known) != 0).sum())
        volume = np.bincount(index, prints.size_e8)
        surges += sum(volume[m] > 3 * volume[m - 20 : m].mean() for m in range(20, 480))
    assert 480 * 4 / 40 < crosses < 480 * 4 / 6
    assert 15 < surges < 100


def test_symbols_that_are_none_have_no_trades() -> None:
    market = SeededMarket(1, 4)
    for which in ((Market.STOCKS, "aapl"), (Market.STOCKS, ""), (Market.CRYPTO, "BTCUSD"), (Market.STOCKS, "BTC-USD")):
        assert len(minute(market, which, MIDDAY)) == 0
        assert list(market.pieces(*which, 0, MIDDAY * NS_PER_MS, True)) == []


@pytest.mark.slow
def test_the_simulator_stays_small() -> None:
    """Nothing heavy is imported by its process."""
    code = (
        "import sys, tapewatch.simulator.__main__; "
        "print([m for m in ('pydantic', 'numba', 'pandas', 'prometheus_client', 'fastapi') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_canary_a_generator_shared_between_chunks_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = np.random.Generator(np.random.PCG64(1))
    original = orders.stock_prints

    def broken(listing: object, _: object, *rest: object) -> Prints:
        return original(listing, shared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(orders, "stock_prints", broken)
    with pytest.raises(AssertionError):
        test_any_cut_of_a_stretch_gives_the_same_trades.hypothesis.inner_test(cuts=[MINUTE_NS], which=STOCK)
