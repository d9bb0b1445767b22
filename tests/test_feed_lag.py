"""The lag alarm: the freshest trade counts, and silence is no lag."""

from __future__ import annotations

from tapewatch.feed.lag import FORGET_S, LAG_SPAN_S, Lag
from tapewatch.records import Batch, Kind, Market

START_S = 1_700_000_000


def trades(*pairs: tuple[float, float], kind: Kind = Kind.TRADE) -> Batch:
    """Records received at the first of each pair (s), with the second as lag (s)."""
    rows = []
    for at, lag in pairs:
        received_ns, time_ms = round((START_S + at) * 1e9), round((START_S + at - lag) * 1_000)
        rows.append((kind, Market.STOCKS, 0, time_ms, received_ns, 1.0, 1, 0, 0, 0, ""))
    return Batch.of(rows)


def freshest_s(lag: Lag, at: float, market: Market = Market.STOCKS) -> float | None:
    found = lag.freshest_ns(market, round((START_S + at) * 1e9))
    return None if found is None else round(found / 1e9, 3)


def test_late_prints_among_fresh_trades_are_no_lag() -> None:
    lag = Lag()
    lag.note(trades((0, 9), (0.1, 0.2), (0.2, 12)))
    assert freshest_s(lag, 1) == 0.2


def test_a_stamp_far_ahead_does_not_hide_a_lag() -> None:
    lag = Lag()
    lag.note(trades((0, 20), (0.1, -30), (0.2, 21)))
    assert freshest_s(lag, 1) == 20


def test_when_even_the_freshest_is_old_that_is_the_lag() -> None:
    lag = Lag()
    for second in range(3 * LAG_SPAN_S):
        lag.note(trades((second, 0.1 if second < LAG_SPAN_S else 9 + second / 10)))
    assert freshest_s(lag, 3 * LAG_SPAN_S) == 9 + (3 * LAG_SPAN_S - LAG_SPAN_S) / 10, "the first seconds are forgotten"


def test_one_fresh_trade_ends_it() -> None:
    lag = Lag()
    lag.note(trades((0, 30)))
    assert freshest_s(lag, 0) == 30
    lag.note(trades((0.5, 0.1)))
    assert freshest_s(lag, 1) == 0.1


def test_nothing_is_known_of_a_market_that_is_silent() -> None:
    lag = Lag()
    assert freshest_s(lag, 0) is None
    lag.note(trades((0, 30)))
    lag.note(trades((10, 50), kind=Kind.TICK))
    assert freshest_s(lag, FORGET_S) == 30
    assert freshest_s(lag, FORGET_S + 1) is None
    assert freshest_s(lag, 0, Market.CRYPTO) is None


def test_batches_out_of_order_do_no_harm_and_a_clock_ahead_is_negative() -> None:
    lag = Lag()
    lag.note(trades((5, 1)))
    lag.note(trades((4, -0.5)))
    assert freshest_s(lag, 5) == -0.5
