"""Every kind of rule: examples a trader can read, and the oracle against whatever rules hypothesis can think of."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapewatch.records import Market, Tables
from tapewatch.rules.check import RuleError, check_rule
from tapewatch.rules.model import (
    CrossRule,
    ExtremeRule,
    LevelRule,
    MoveRule,
    Rule,
    Rules,
    ThresholdRule,
    VolumeRule,
)
from test_engine import (
    ALL_DAYS,
    MINUTE,
    NO_DAYS,
    SHAPES,
    START,
    STOCK_DAYS,
    Days,
    Spec,
    change,
    gap,
    minutes,
    nearly_sorted,
    new_engine,
    run_both,
    tapes,
    tick,
    to_batch,
    trade,
)
from trials import TIMES, examples

HOUR = 60 * MINUTE


def only(**rules: Rule) -> Rules:
    """These rules, and none of the ones that are always there."""
    off = {
        "golden_cross": CrossRule(enabled=False),
        "death_cross": CrossRule(enabled=False, direction="below"),
        "high_volume": VolumeRule(enabled=False),
    }
    return Rules(**(off | rules))


def told(specs: list[Spec], rules: Rules, days: Any = NO_DAYS) -> list[str]:
    """What engine and oracle, which must agree, make of it: ``rule minute direction status``."""
    store = run_both([*specs, tick(HOUR), tick(HOUR, Market.CRYPTO)], rules, days, random.Random(1))
    alerts = sorted(store.alerts.items(), key=lambda item: (item[1].triggered, item[0]))
    return [f"{k.rule} {(k.pane - START) // MINUTE} {k.direction:+} {a.status}" for k, a in alerts]


# --- examples ----------------------------------------------------------------------------------------------------


def test_a_level_is_told_when_the_price_comes_through_it():
    rules = only(high=LevelRule(level=11.0))
    assert told(minutes([10, 10.5, 11, 11.2, 11.5]), rules) == ["high 3 +1 confirmed"]
    assert told(minutes([11.2, 11.5, 12]), rules) == []  # above from the start


def test_a_level_is_armed_again_by_a_price_that_is_far_enough_back():
    rules = only(high=LevelRule(level=100.0, rearm_bps=100.0, cooldown_ms=0))
    assert told(minutes([99, 101, 99.5, 101]), rules) == ["high 1 +1 confirmed"]
    assert told(minutes([99, 101, 99, 101]), rules) == ["high 1 +1 confirmed", "high 3 +1 confirmed"]


def test_a_level_outlives_the_night_and_a_cross_does_not():
    #  Days: the market closes at minute 15 and opens again at minute 20
    evening = [trade("AAPL", k * MINUTE, 10) for k in range(5, 15)]
    morning = [trade("AAPL", 20 * MINUTE, 12)]
    rules = only(high=LevelRule(level=11.0), through=CrossRule(right="sma(3)"))
    assert told([*evening, *morning], rules, STOCK_DAYS) == ["high 20 +1 confirmed"]


def test_a_move_is_measured_against_the_close_so_many_minutes_ago():
    rules = only(jump=MoveRule(percent=5.0, within_ms=2 * MINUTE))
    assert told(minutes([100, 101, 102, 104, 107.2]), rules) == ["jump 4 +1 confirmed"]
    assert told(minutes([100, 99, 98, 94, 92]), rules) == ["jump 3 -1 confirmed"]
    assert told(minutes([100, 106]), rules) == []  # nobody knows what it was two minutes ago


def test_a_new_high_of_so_many_bars_counts_minutes_that_traded():
    rules = only(high=ExtremeRule(of="3", direction="above"))
    quiet = [trade("AAPL", k * MINUTE, p) for k, p in ((0, 12), (1, 11), (2, 10.8), (9, 10.5), (30, 11.5), (31, 12))]
    assert told(quiet, rules) == ["high 30 +1 confirmed"]


def test_a_new_high_of_the_day_is_above_every_trade_of_the_day_before_it():
    rules = only(high=ExtremeRule(direction="above", cooldown_ms=0))
    day = [trade("AAPL", 5 * MINUTE + k * 20_000, p) for k, p in enumerate((10, 12, 11, 12, 12.5, 12.4, 12.6, 11, 13))]
    assert told(day, rules, STOCK_DAYS) == ["high 6 +1 confirmed", "high 7 +1 confirmed"]


def test_a_new_high_of_days_needs_so_many_days():
    #  ALL_DAYS: crypto's days begin at minutes 0, 9 and 21
    one, two = (ExtremeRule(of=f"{n}d", direction="above", cooldown_ms=0) for n in (1, 2))
    rules = only(one=one, two=two)
    prices = ((1, 10), (2, 12), (10, 11), (11, 12.5), (22, 12.2), (23, 12.6))
    specs = [trade("BTC", k * MINUTE, p) for k, p in prices]
    assert told(specs, rules, ALL_DAYS) == ["one 11 +1 confirmed", "one 23 +1 confirmed", "two 23 +1 confirmed"]


def test_an_indicator_crosses_its_threshold():
    rules = only(strong=ThresholdRule(indicator="rsi(3)", value=70.0))
    assert told(minutes([10, 9.9, 9.8, 9.7, 9.6, 10.4, 11]), rules) == ["strong 5 +1 confirmed"]


def test_any_line_against_any_other():
    rules = only(fast=CrossRule(left="ema(2)", right="sma(4)"))
    assert told(minutes([10, 10, 10, 10, 9, 9, 11, 12]), rules) == ["fast 6 +1 confirmed"]


def test_closes_in_a_row_confirm_and_one_on_the_old_side_retracts():
    rules = only(through=LevelRule(level=10.5, confirm_bars=3))
    assert told(minutes([10, 11, 12, 13, 14]), rules) == ["through 1 +1 confirmed"]
    assert told(minutes([10, 11, 12, 9, 14]), rules)[0] == "through 1 +1 retracted"
    tables = Tables()
    engine = new_engine(tables, rules)
    engine.step(to_batch(minutes([10, 11, 12, 13]), tables))
    for at, statuses in ((4 * MINUTE + 1_999, ["provisional"]), (4 * MINUTE + 2_000, ["confirmed"])):
        engine.step(to_batch([tick(at)], tables, engine.position or 0))
        assert [str(alert.status) for alert in engine.drain().alerts] == statuses


@pytest.mark.parametrize(("size", "status"), [(150, "retracted"), (300, "confirmed")])
def test_a_breakout_without_volume_is_retracted(size: int, status: str):
    rules = only(high=LevelRule(level=10.5, volume_multiple=2.0))
    calm = [trade("AAPL", k * MINUTE, 10, size=100) for k in range(6)]
    assert told([*calm, trade("AAPL", 6 * MINUTE, 11, size=size)], rules) == [f"high 6 +1 {status}"]


def test_volume_is_compared_with_the_same_time_on_other_days():
    #  ALL_DAYS: crypto's days begin at minutes 0, 9 and 21
    rules = only(usual=VolumeRule(multiple=2.0, days=2, days_min=2, symbols=("BTC",)))
    days = [trade("BTC", (9, 0, 21)[d] * MINUTE + 3 * MINUTE, 10, size=(100, 100, 201)[d]) for d in (1, 0, 2)]
    busy = [trade("BTC", k * MINUTE, 10, size=900) for k in (1, 10, 22)]
    specs = sorted([*days, *busy], key=lambda spec: int(spec[2]))
    assert told(specs, rules, ALL_DAYS) == ["usual 24 +0 confirmed"]


@pytest.mark.parametrize(("session", "alerts"), [("any", 1), ("regular", 0), ("extended", 1)])
def test_a_session_filter_lets_the_side_move_and_makes_no_alert(session: Any, alerts: int):
    #  Days: pre-market from minute 3, regular session from minute 5 to 12
    rules = only(high=LevelRule(level=11.0, session=session))
    specs = [trade("AAPL", 3 * MINUTE, 10), trade("AAPL", 4 * MINUTE, 12), trade("AAPL", 6 * MINUTE, 12.5)]
    assert len(told(specs, rules, STOCK_DAYS)) == alerts


def test_scope_and_expiry():
    rules = only(
        b=LevelRule(level=11.0, symbols=("B*",)),
        not_b=LevelRule(level=11.0, symbols=("!B*",)),
        over=LevelRule(level=11.0, expires_ms=START + MINUTE),
    )
    specs = [trade(s, k * MINUTE, 10 + 2 * k) for k in range(2) for s in ("AAPL", "BTC")]
    store = run_both(specs, rules, NO_DAYS, random.Random(1))
    assert sorted((key.rule, key.symbol) for key in store.alerts) == [("b", "BTC"), ("not_b", "AAPL")]


def test_a_changed_rule_begins_anew_and_an_unchanged_one_goes_on():
    def at(level: float, text: str = "") -> LevelRule:
        return LevelRule(level=level, symbols=("AAPL",), text=text)

    before = only(stays=at(10.5), goes=at(10.6))
    after = only(stays=at(10.5, "the same"), comes=at(11.5), goes=at(10.7))
    specs = [trade("AAPL", 30_000, 10), change(45_000, before), trade("AAPL", 50_000, 11), change(55_000, after)]
    assert told([*specs, *[trade("AAPL", k * MINUTE, p) for k, p in ((1, 10), (2, 12))]], before) == [
        "goes 0 +1 retracted", "stays 0 +1 confirmed", "comes 2 +1 confirmed", "goes 2 +1 confirmed",
    ]  # fmt: skip


def test_a_rule_makes_no_alert_in_the_minute_in_which_it_came():
    rules = only(high=LevelRule(level=10.5, symbols=("AAPL",)))
    specs = [trade("AAPL", 50, 10), change(100, rules), trade("AAPL", 1_000, 10), trade("AAPL", 2_000, 11)]
    assert told(specs, only()) == []
    assert told([*specs, trade("AAPL", 61_000, 10), trade("AAPL", 62_000, 11)], only()) == ["high 1 +1 confirmed"]


def test_what_is_said_before_the_first_trade_held_from_the_beginning():
    rules = only(high=LevelRule(level=10.5, symbols=("AAPL",)))
    specs = [change(500, rules), trade("AAPL", 1_000, 10), trade("AAPL", 2_000, 11)]
    assert told(specs, only()) == told(specs[1:], rules) == ["high 0 +1 confirmed"]


def test_a_rule_that_was_there_before_a_symbol_knows_all_of_its_past():
    """Whatever others traded before: each lane of Kafka has symbols of its own. And what is watched later is warm."""
    rules = only(high=LevelRule(level=10.5, symbols=("AAPL",)), mean=CrossRule(right="sma(3)", symbols=("AAPL",)))
    others = [trade("BTC", 50, 10), trade("MSFT", 60, 10)]
    before = [trade("AAPL", k * MINUTE, p) for k, p in ((-30, 12), (-20, 11), (-10, 10))]  # recorded after the rule
    tape = [change(100, rules), *before, trade("AAPL", 1_000, 10), trade("AAPL", 2_000, 11), trade("AAPL", MINUTE, 11)]
    assert told([*others, *tape], only()) == told(tape, only()) == told(tape[1:], rules)
    assert told(tape, only()) == ["high 0 +1 confirmed", "mean 0 +1 confirmed"]


def test_evidence_says_which_lines_were_crossed():
    rules = only(fast=CrossRule(left="ema(2)", right="sma(4)"))
    tables = Tables()
    engine = new_engine(tables, rules)
    engine.step(to_batch(minutes([10, 10, 10, 10, 9, 9, 11]), tables))
    (alert,) = engine.drain().alerts
    evidence = alert.evidence["provisional"]
    assert (alert.rule, alert.kind, alert.price) == ("fast", "cross", 11)
    assert (evidence["lines"], evidence["band_bps"]) == (["EMA 2", "SMA 4"], 5.0)
    assert evidence["line"] == alert.line == (10 + 9 + 9 + 11) / 4
    assert evidence["price"] > alert.line
    assert evidence["price_before"] < evidence["line_before"]


def test_one_record_may_decide_more_alerts_than_there_was_room_for():
    names = [f"S{n}" for n in range(400)]
    rules = only(**{f"level_{k}": LevelRule(level=11.0 + k / 100, symbols=tuple(names)) for k in range(6)})
    specs = [trade(name, at, price) for at, price in ((0, 10), (1_000, 12)) for name in names]
    tables = Tables()
    engine = new_engine(tables, rules)
    engine.step(to_batch([*specs, tick(2 * MINUTE)], tables))
    alerts = engine.drain().alerts
    assert [str(alert.status) for alert in alerts] == ["provisional"] * 2_400 + ["confirmed"] * 2_400
    assert len({alert.alert_id for alert in alerts}) == 2_400


# --- properties --------------------------------------------------------------------------------------------------


def _is_allowed(rule: Rule) -> bool:
    try:
        check_rule(rule)
    except RuleError:
        return False
    return True


lengths = st.integers(1, 6)
longer = st.integers(2, 30)
price_lines = st.one_of(
    st.sampled_from(["price", "price", "average", "vwap", "high", "low", "10", "high(1d)", "low(2d)"]),
    *(st.builds(f"{name}({{}})".format, lengths) for name in ("sma", "ema", "vwap", "high", "low", "close")),
    st.builds("{}({}, {})".format, st.sampled_from(["upper", "lower"]), st.integers(2, 6), st.sampled_from([1, 2.5])),
    st.builds("sma({})".format, longer),
    st.builds("ema({})".format, longer),
)
indicators = st.one_of(
    st.tuples(st.builds("rsi({})".format, st.integers(2, 6)), st.sampled_from([30.0, 50.0, 70.0])),
    st.tuples(st.builds("stochastic({})".format, st.integers(2, 6)), st.sampled_from([20.0, 50.0, 80.0])),
    st.tuples(st.builds(lambda a, b: f"macd({a}, {a + b})", lengths, lengths), st.sampled_from([0.0, -0.01, 0.01])),
)
common = {
    "enabled": st.sampled_from([True] * 9 + [False]),
    "symbols": st.sampled_from([(), (), ("AAPL",), ("B*",), ("!MSFT",)]),
    "session": st.sampled_from(["any", "any", "regular", "extended"]),
    "cooldown_ms": st.sampled_from([0, 0, 90_000, 600_000]),
    "expires_ms": st.sampled_from([None, None, START + 20 * MINUTE]),
}
crossing = common | {
    "direction": st.sampled_from(["above", "below", "either"]),
    "band_bps": st.sampled_from([0.0, 0.0, 5.0, 20.0]),
    "rearm_bps": st.sampled_from([None, 0.0, 50.0]),
    "confirm_bars": st.sampled_from([1, 1, 2, 4]),
    "volume_multiple": st.sampled_from([None, None, 1.0]),
}
percents, within = st.sampled_from([0.1, 1.0, 5.0]), st.sampled_from([180_000, 360_000])
spans = st.sampled_from(["session", "1", "3", "20", "1d", "2d"])
named = st.sampled_from([("AAPL",), ("BTC", "AAPL", "MSFT")])
any_rule = st.one_of(
    st.builds(CrossRule, left=price_lines, right=price_lines, **crossing),
    st.builds(CrossRule, right=price_lines, **crossing),
    st.builds(LevelRule, level=st.sampled_from([9.95, 10.0, 10.01, 10.5]), **crossing | {"symbols": named}),
    st.builds(MoveRule, percent=percents, within_ms=within, **crossing),
    st.builds(ExtremeRule, of=spans, **crossing),
    indicators.flatmap(lambda x: st.builds(ThresholdRule, indicator=st.just(x[0]), value=st.just(x[1]), **crossing)),
    st.builds(
        VolumeRule, multiple=st.sampled_from([1.0, 2.0]), panes=st.sampled_from([3, 20]), panes_min=st.just(2),
        absolute=st.sampled_from([None, None, 500.0]), **common,
    ),
    st.builds(
        VolumeRule, multiple=st.sampled_from([1.0, 2.0]), days=st.sampled_from([1, 2]), days_min=st.just(1),
        **common | {"symbols": named},
    ),
).filter(_is_allowed)  # fmt: skip
rule_sets = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "golden_cross"]), any_rule, max_size=4).map(
    lambda found: Rules(**{n: r for n, r in found.items() if n != "golden_cross" or isinstance(r, CrossRule)})
)


MANY = [HealthCheck.large_base_example, HealthCheck.data_too_large, HealthCheck.too_slow]


@pytest.mark.timeout(600 * TIMES)
@settings(max_examples=examples(6), deadline=None, suppress_health_check=MANY)
@given(
    tapes,
    st.sampled_from([0, 1_000, 40_000, 200_000]),
    st.sampled_from(SHAPES),
    rule_sets,
    st.lists(st.tuples(st.integers(0, 45).map(lambda k: k * 60_500), rule_sets), max_size=2),
    st.sampled_from([NO_DAYS, STOCK_DAYS, ALL_DAYS]),
    st.integers(0, 10**6),
)
def test_engine_agrees_with_the_oracle_about_any_rules(
    specs: Any, shuffle_ms: int, changed: Any, rules: Rules, changes: Any, days: Any, seed: int
):
    rng = random.Random(seed)
    tape = nearly_sorted(specs, shuffle_ms, rng)
    for at, later in sorted(changes, key=lambda found: found[0]):
        place = next((i for i, spec in enumerate(tape) if spec[2] > START + at), len(tape))
        tape.insert(place, change(at, later))
    run_both(tape, rules, days, rng, **changed)


EVERYTHING = Rules(
    a=CrossRule(left="ema(5)", right="sma(30)", direction="either", cooldown_ms=0),
    b=ThresholdRule(indicator="rsi(14)", value=60.0, direction="either", cooldown_ms=0, rearm_bps=500.0),
    c=CrossRule(right="vwap", direction="either", band_bps=10.0, confirm_bars=2),
    d=ExtremeRule(of="60", cooldown_ms=0),
    e=ExtremeRule(),
    f=MoveRule(percent=0.5, within_ms=10 * MINUTE),
    g=CrossRule(right="upper(20, 2)"),
    h=ThresholdRule(indicator="macd(12, 26)", value=0.0, direction="either"),
    i=ThresholdRule(indicator="stochastic(14)", value=80.0),
    j=CrossRule(left="price", right="vwap(10)", direction="below", volume_multiple=1.5),
)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_engine_agrees_with_the_oracle_about_long_lines(seed: int):
    """Enough minutes that bars leave the panes, with a change of rules on the way."""
    rng = random.Random(seed)
    price, at, specs = {"AAPL": 100.0, "BTC": 60_000.0}, 0, []
    for _ in range(3_000):
        at += rng.choice((2_000, 9_000, 20_000)) if rng.random() < 0.995 else rng.randint(0, 40 * MINUTE)
        symbol = rng.choice(("AAPL", "AAPL", "BTC"))
        price[symbol] *= 1 + rng.gauss(0, 0.0008)
        size = rng.choice((1, 100, 100, 200, 0.5))
        code = rng.choice((0,) * 9 + (1, 2, 3))
        specs.append(trade(symbol, at - rng.choice((0, 0, 0, 900, 70_000)), round(price[symbol], 2), size, code))
    specs.insert(1_500, change(specs[1_500][2] - START, EVERYTHING.changed(a=CrossRule(right="sma(40)"))))
    specs.insert(2_000, gap(at, at + 1_000))
    store = run_both(specs, EVERYTHING, NO_DAYS, rng)
    assert {key.rule for key in store.alerts} >= set(EVERYTHING) - {"system_down", "high_volume"}
    assert {a.status for a in store.alerts.values()} >= {"confirmed", "retracted"}


@pytest.mark.timeout(600 * TIMES)
@settings(max_examples=examples(6), deadline=None, suppress_health_check=MANY)
@given(tapes, rule_sets, st.sampled_from([NO_DAYS, ALL_DAYS]), st.integers(0, 10**6))
def test_what_was_told_of_a_beginning_is_what_the_whole_tells(specs: Any, rules: Rules, days: Any, seed: int):
    """No rule looks ahead: of any beginning of the tape the alerts are the same, in the same order."""
    tape = nearly_sorted(specs, 40_000, random.Random(seed))
    cut = random.Random(seed).randint(0, len(tape))

    def states(part: list[Spec]) -> list[tuple[Any, ...]]:
        tables = Tables()
        engine = new_engine(tables, rules, days)
        engine.step(to_batch(part, tables))
        return [(a.alert_id, str(a.status), a.decided_ms, a.price, a.line, a.offset) for a in engine.drain().alerts]

    whole = [state for state in states(tape) if state[-1] < cut]
    assert states(tape[:cut]) == whole


def test_days_of_the_examples_are_as_the_comments_say():
    assert [int(x - START) // MINUTE for x in (*Days.day_open, *Days.day_close)] == [3, 20, 15, 40]
