"""Moves after a moment: from the right trades, and unknown where nobody can know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapes import plain_records, write_tape
from tapewatch.oracle import PRICE
from tapewatch.profiles.forward import HORIZONS_MIN, Prices, Spread
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import read_log
from tapewatch.records import Batch, Decision, Gap, Kind, Market, Tables
from tapewatch.sessions import Calendar, Sessions, sessions_of
from tapewatch.settings import Settings
from trading_days import give_days

MINUTE = 60_000
OPEN = 1_763_649_000_000  # 2025-11-20 09:30 in New York
CLOSE = OPEN + 390 * MINUTE


def day(start: int) -> list[int]:
    return [start - 330 * MINUTE, start, start + 390 * MINUTE, start + 630 * MINUTE]


CALENDAR: Calendar = {Market.STOCKS: Sessions(*np.array([day(OPEN), day(OPEN + 1_440 * MINUTE)], np.int64).T.copy())}
FORM_T = (12,)
ODD_LOT = (37,)


def prices(
    *trades: tuple[int, float], market: Market = Market.STOCKS, codes: tuple[int, ...] = (), gap: Gap | None = None
) -> Prices:
    """Of trades of X at (ms after the bell, price), all applied."""
    tables = Tables()
    symbol, conditions = tables.symbols.index("X"), tables.conditions.index(codes)
    rows: list[tuple[object, ...]] = [
        (Kind.TRADE, market, symbol, OPEN + at, 0, price, 1, 0, 0, conditions, "") for at, price in trades
    ]
    if gap is not None:
        rows.append((Kind.GAP, gap.market, -1, gap.to_ms, 0, 0.0, 0, 0, 0, 0, gap.encode()))
    decisions = np.array([Decision.APPLIED] * len(trades) + [255] * (gap is not None), np.uint8)
    return Prices(Batch.of(rows), decisions, tables, CALENDAR)


def test_a_move_is_from_the_last_price_at_the_moment_to_the_last_price_then() -> None:
    found = prices((0, 100.0), (MINUTE, 101.0), (5 * MINUTE, 102.0), (6 * MINUTE, 103.02), (7 * MINUTE, 1.0))
    assert found.move_bps("X", OPEN, 5) == pytest.approx(200)
    assert found.move_bps("X", OPEN + MINUTE - 1, 5) == pytest.approx(200), "one millisecond before the next price"
    assert found.move_bps("X", OPEN + MINUTE, 5) == pytest.approx(200)


def test_of_two_trades_of_one_moment_the_last_logged_counts() -> None:
    found = prices((0, 100.0), (0, 50.0), (5 * MINUTE, 100.0))
    assert found.move_bps("X", OPEN, 5) == pytest.approx(10_000)


def test_a_trade_that_was_logged_late_is_in_its_place() -> None:
    found = prices((0, 100.0), (6 * MINUTE, 90.0), (4 * MINUTE, 101.0))
    assert found.move_bps("X", OPEN, 5) == pytest.approx(100)


@pytest.mark.parametrize(
    ("why", "at", "minutes"),
    [
        ("before the first price", -MINUTE, 5),
        ("after the records have ended", 7 * MINUTE, 5),
    ],
)
def test_what_cannot_be_known(why: str, at: int, minutes: int) -> None:
    found = prices((0, 100.0), (10 * MINUTE, 101.0))
    assert found.move_bps("X", OPEN + at, minutes) is None, why
    assert found.move_bps("Y", OPEN, minutes) is None, "never traded"


def test_a_move_does_not_reach_over_a_night() -> None:
    evening, morning = 600 * MINUTE, (1_440 - 60) * MINUTE
    found = prices((0, 100.0), (evening, 101.0), (morning, 120.0), (morning + 60 * MINUTE, 121.0))
    assert found.move_bps("X", OPEN + evening, 5) == pytest.approx(0), "post-market goes on"
    assert found.move_bps("X", OPEN + evening, 30) is None, "closed then"
    assert found.move_bps("X", OPEN + evening, 1_440 - 60 - 600) is None, "another day"
    assert found.move_bps("X", OPEN + 380 * MINUTE, 30) == pytest.approx(0), "the closing bell does not end the day"
    whole = prices((0, 100.0), (evening, 101.0), (morning, 120.0), market=Market.CRYPTO)
    assert whole.move_bps("X", OPEN + evening, 1_440 - 60 - 600) == pytest.approx((120 / 101 - 1) * 10_000)


def test_nothing_is_known_inside_a_gap() -> None:
    gap = Gap(market=Market.STOCKS, from_ms=OPEN + 5 * MINUTE, to_ms=OPEN + 7 * MINUTE, cause="cut", symbols=["X"])
    trades = ((0, 100.0), (MINUTE, 101.0), (2 * MINUTE, 102.0), (60 * MINUTE, 104.0))
    found = prices(*trades, gap=gap)
    assert [found.move_bps("X", OPEN + m * MINUTE, 5) is None for m in range(4)] == [True, True, False, False]
    elsewhere = Gap(market=Market.STOCKS, from_ms=gap.from_ms, to_ms=gap.to_ms, cause="cut", symbols=["Y"])
    assert prices(*trades, gap=elsewhere).move_bps("X", OPEN, 5) == pytest.approx(200)


@pytest.mark.parametrize(
    ("codes", "regular", "outside"), [((), True, True), (ODD_LOT, False, False), (FORM_T, False, True)]
)
def test_only_a_trade_that_may_set_a_price_is_one(codes: tuple[int, ...], regular: bool, outside: bool) -> None:
    for at, may in ((0, regular), (400 * MINUTE, outside)):
        found = prices((at, 100.0), (at + 5 * MINUTE, 101.0), codes=codes)
        assert (found.move_bps("X", OPEN + at, 5) is not None) is may


def test_any_minute_is_the_mean_of_all_that_have_a_price() -> None:
    found = prices((1, 100.0), (MINUTE + 1, 101.0), (MINUTE + 2, 102.0), (6 * MINUTE, 104.0), (8 * MINUTE, 104.0))
    # ends of minutes with a price: 1, 2, 7, 9; five minutes later 6, 7, and after the end of the records
    assert found.any_minute_bps("X", 5).tolist() == pytest.approx([400, (104 / 102 - 1) * 10_000])
    assert found.any_minute_bps("Y", 5).tolist() == []


def test_a_spread_says_it_in_numbers() -> None:
    spread = Spread.of([1.0, None, -2.0, 4.0])
    assert (spread.number, spread.mean, spread.median) == (3, 1.0, 1.0)
    assert spread.error == pytest.approx(np.sqrt(3))
    assert spread.right == pytest.approx(2 / 3)
    assert spread.size == pytest.approx(7 / 3)
    assert Spread.of([None]) == Spread(0)
    assert Spread.of([5.0]).error is None


def test_every_move_of_a_tape_of_oddities_is_what_plain_python_finds(tmp_path: Path) -> None:
    """Eligibility, repeats, late trades, two markets: against the records as the oracle takes them."""
    give_days(tmp_path)
    parts = Parts.load(Settings(_env_file=None, data_dir=tmp_path, alerts_file=tmp_path / "none.toml"))
    tape = write_tape(tmp_path, minutes=90, trades=2_000)
    tables = Tables()
    log = read_log(tape, tables, parts).batch
    found = Prices(log, parts.engine(tables).step(log), tables, parts.calendar)
    records = list(plain_records(tape, parts))
    newest: dict[str, int] = {}
    seen: dict[str, list[tuple[int, float]]] = {}
    markets: dict[str, int] = {}
    ends: dict[int, int] = {}
    for r in records:
        ends[r.market] = max(ends.get(r.market, 0), r.time)
        if r.kind != Kind.TRADE:
            continue
        pane_end = r.time - r.time % MINUTE + MINUTE
        late = pane_end <= newest.get(r.symbol, 0) - parts.settings.watermark_delay_ms
        newest[r.symbol] = max(newest.get(r.symbol, 0), r.time)
        markets[r.symbol] = r.market
        if r.bits & PRICE and not late:
            seen.setdefault(r.symbol, []).append((r.time, r.price))
    compared = 0
    for name, trades in seen.items():
        sessions = sessions_of(parts.calendar, Market(markets[name]))
        for start in range(trades[0][0], trades[-1][0], 37_001):
            for minutes in HORIZONS_MIN:
                end = start + minutes * MINUTE
                known = end <= ends[markets[name]] and sessions.stretch(start) == sessions.stretch(end)
                move = found.move_bps(name, start, minutes)
                assert (move is not None) is known
                if move is not None:
                    first, last = (max(t for t in trades if t[0] <= at) for at in (start, end))
                    before = [p for t, p in trades if t == first[0]][-1]
                    after = [p for t, p in trades if t == last[0]][-1]
                    assert move == pytest.approx((after / before - 1) * 10_000)
                    compared += 1
    assert compared > 300
