"""The engine against examples a trader can read, and against the oracle on anything hypothesis can think of."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapewatch.engine.engine import Engine, engine_params
from tapewatch.engine.state import MARKET
from tapewatch.errors import LogError
from tapewatch.oracle import Row, Settings
from tapewatch.oracle import bars as oracle_bars
from tapewatch.oracle_alerts import AlertKey, AlertOracle, AlertState
from tapewatch.records import AlertStatus, Batch, Changes, Gap, Market, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, Rules, VolumeRule
from trials import examples

MINUTE = 60_000
START = 1_700_000_040_000  # a whole minute
ALL, NONE = 0b111111, 0
# Made-up codes for the tests: code -> what it allows in the regular session, and shifted by 3 outside it.
BITS = {0: ALL, 1: 0b100100, 2: 0b110110, 3: 0b100111, 4: NONE, 5: 0b111100, 6: 0b011011}


def eligibility(codes: tuple[int, ...]) -> int:
    bits = ALL
    for code in codes:
        bits &= BITS[code]
    return bits


class Days:
    """Two trading days: the first half-way through the test's time, regular session in its middle."""

    day_open = np.array([START + 3 * MINUTE, START + 20 * MINUTE])
    regular_open = np.array([START + 5 * MINUTE, START + 22 * MINUTE])
    regular_close = np.array([START + 12 * MINUTE, START + 30 * MINUTE])
    day_close = np.array([START + 15 * MINUTE, START + 40 * MINUTE])
    first_of_stretch = np.arange(2)


class Week:
    """Three days of another market, the second of which begins where the first ends."""

    day_open = np.array([START, START + 9 * MINUTE, START + 21 * MINUTE])
    regular_open = day_open
    regular_close = np.array([START + 9 * MINUTE, START + 17 * MINUTE, START + 30 * MINUTE])
    day_close = regular_close
    first_of_stretch = np.array([0, 0, 2])


NO_DAYS: dict[Market, Any] = {}
STOCK_DAYS = {Market.STOCKS: Days}
ALL_DAYS = {Market.STOCKS: Days, Market.CRYPTO: Week}
QUICK = Rules(
    golden_cross=CrossRule(band_bps=0.0, cooldown_ms=0),
    death_cross=CrossRule(direction="below", band_bps=20.0, cooldown_ms=90_000),
    high_volume=VolumeRule(multiple=2.0, panes=4, panes_min=2, cooldown_ms=0),
)
NUMBERS = {"window": 300_000, "slide": 60_000, "delay": 60_000, "confirm": 2_000, "future": 60_000}


def new_engine(tables: Tables, rules: Rules = Rules(), calendar: Any = NO_DAYS, **changed: int) -> Engine:  # noqa: B008
    n = NUMBERS | changed
    params = engine_params(
        rules, window_ms=n["window"], slide_ms=n["slide"], watermark_delay_ms=n["delay"],
        confirm_delay_ms=n["confirm"], future_limit_ms=n["future"],
    )  # fmt: skip
    return Engine(params, rules, calendar, tables, eligibility)


Spec = tuple[Any, ...]


def key_of(rule: str, symbol: str, pane: int, direction: int | None = None) -> AlertKey:
    """Of one of the first three rules, unless a direction is given."""
    own = {"golden_cross": 1, "death_cross": -1, "high_volume": 0}
    return AlertKey(rule, symbol, pane, own[rule] if direction is None else direction)


def trade(symbol: str, at_ms: int, price: float, size: float = 100, code: int = 0, ahead_ms: int = 0) -> Spec:
    """A trade ``at_ms`` after START, received ``ahead_ms`` before its own stamp."""
    return ("trade", symbol, START + at_ms, price, round(size * 1e8), code, START + at_ms - ahead_ms)


def tick(at_ms: int, market: Market = Market.STOCKS) -> Spec:
    return ("tick", market, START + at_ms)


def change(at_ms: int, rules: Rules) -> Spec:
    return ("rules", rules, START + at_ms)


def gap(from_ms: int, to_ms: int, market: Market = Market.STOCKS) -> Spec:
    return ("gap", market, START + from_ms, START + to_ms)


def market_of(symbol: str) -> Market:
    return Market.CRYPTO if symbol == "BTC" else Market.STOCKS


def to_batch(specs: list[Spec], tables: Tables, offset: int = 0) -> Batch:
    rows = []
    for spec in specs:
        if spec[0] == "trade":
            _, symbol, time_ms, price, size, code, received = spec
            codes = tables.conditions.index((code,) if code else ())
            number = tables.symbols.index(symbol)
            rows.append((0, market_of(symbol), number, time_ms, received * 1_000_000, price, size, 1, 0, codes, "x"))
        elif spec[0] == "tick":
            rows.append((1, spec[1], -1, spec[2], spec[2] * 1_000_000, 0.0, 0, 0, 0, 0, ""))
        elif spec[0] == "rules":
            text = RuleChange(spec[1]).encode()
            rows.append((3, Market.STOCKS, -1, spec[2], spec[2] * 1_000_000, 0.0, 0, 0, 0, 0, text))
        else:
            text = Gap(market=spec[1], from_ms=spec[2], to_ms=spec[3], cause="test", symbols=[]).encode()
            rows.append((2, spec[1], -1, spec[3], spec[3] * 1_000_000, 0.0, 0, 0, 0, 0, text))
    batch = Batch.of(rows)
    batch.offset = offset
    return batch


DAY_MS = 86_400_000


def place_of(days: Any, time_ms: int) -> tuple[int, int, int, int]:
    """Stretch, session, trading day, and when that opened: as `oracle.Row` has them."""
    if days is None:
        return 0, 1, time_ms // DAY_MS, time_ms // DAY_MS * DAY_MS
    for i in range(len(days.day_open)):
        if days.day_open[i] <= time_ms < days.day_close[i]:
            session = 1 if days.regular_open[i] <= time_ms < days.regular_close[i] else 2
            return int(days.first_of_stretch[i]), session, i, int(days.day_open[i])
    closed = -1 - sum(1 for opened in days.day_open if opened <= time_ms)
    return closed, 4, closed, 0


def to_rows(specs: list[Spec], calendar: Any) -> list[Row]:
    rows = []
    for spec in specs:
        if spec[0] == "trade":
            _, symbol, time_ms, price, size, code, received = spec
            stretch, session, trading, opened = place_of(calendar.get(market_of(symbol)), time_ms)
            bits = BITS[code] if session == 1 else BITS[code] >> 3
            rows.append(
                Row(
                    0, market_of(symbol), symbol, time_ms, received, price, size, bits & 7, stretch, session, trading,
                    opened,
                )
            )  # fmt: skip
        elif spec[0] == "tick":
            rows.append(Row(1, spec[1], "", spec[2], spec[2], 0.0, 0, 0, 0))
        elif spec[0] == "rules":
            rows.append(Row(3, Market.STOCKS, "", spec[2], spec[2], 0.0, 0, 0, 0, rules=spec[1]))
        else:
            rows.append(Row(2, spec[1], "", spec[3], spec[3], float(spec[3] - spec[2]), 0, 0, 0))
    return rows


class Tablespace:
    """What the database would hold: rows by key, guarded by revision, and alerts by id."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, int], dict[str, Any]] = {}
        self.bars: dict[tuple[str, int], dict[str, Any]] = {}
        self.alerts: dict[AlertKey, AlertState] = {}
        self.quality: dict[tuple[str, int], list[int]] = {}
        self.latest: dict[str, dict[str, Any]] = {}

    def apply(self, changes: Changes) -> None:
        names = changes.symbols
        for table, rows, time in (
            (self.windows, changes.windows, "window_start_ms"),
            (self.bars, changes.bars, "bar_start_ms"),
        ):
            keys = [(names[r["symbol"]], int(r[time])) for r in rows]
            assert len(set(keys)) == len(keys), "a key came twice in one commit"
            for key, r in zip(keys, rows, strict=True):
                row = {n: value(r[n]) for n in rows.dtype.names if n not in ("symbol", time)}
                old = table.get(key)
                assert old is None or (row["revision"], row["is_final"]) >= (old["revision"], old["is_final"])
                table[key] = row
        for alert in changes.alerts:
            key = AlertKey(alert.rule, alert.symbol, alert.pane_start_ms, alert.direction)
            assert (key in self.alerts) == (alert.status is not AlertStatus.PROVISIONAL)
            assert key not in self.alerts or self.alerts[key][3] == "provisional"
            self.alerts[key] = AlertState(
                alert.triggered_ms, alert.price, alert.line, str(alert.status), alert.decided_ms
            )
        for q in changes.quality:
            counts = self.quality.setdefault((names[q["symbol"]], int(q["minute_ms"])), [0] * 5)
            for i, name in enumerate(("trades", "excluded", "late", "future", "gap_ms")):
                counts[i] += int(q[name])
        for r in changes.latest:
            self.latest[names[r["symbol"]]] = {n: value(r[n]) for n in changes.latest.dtype.names}

    def compare(self, oracle: AlertOracle) -> None:
        """Every row, bar and alert is what the oracle says, now."""
        windows = {k: {n: none_if_nan(v) for n, v in row.items()} for k, row in oracle.rows(oracle.p.window)}
        bars = {
            k: {n: v for n, v in row.items() if n not in ("avg_price", "ma_5min")}
            for k, row in oracle_bars(oracle.rows(oracle.p.slide))
        }
        assert self.windows == windows
        assert {k: {BAR_NAMES.get(n, n): v for n, v in row.items()} for k, row in self.bars.items()} == bars
        assert self.alerts == oracle.alerts


def value(x: Any) -> Any:
    x = x.item()
    return None if isinstance(x, float) and math.isnan(x) else x


BAR_NAMES = {
    "open": "open_price",
    "high": "max_price",
    "low": "min_price",
    "close": "close_price",
    "volume": "total_volume",
}


DECISIONS = {0: "applied", 1: "ineligible", 2: "late", 3: "future", 255: None}


def none_if_nan(v: Any) -> Any:
    return None if isinstance(v, float) and math.isnan(v) else v


def run_both(specs: list[Spec], rules: Rules, days: Any, rng: random.Random, **changed: int) -> Tablespace:
    """Run engine (in random batches, drains and restarts) and oracle; every row and alert must agree."""
    oracle = AlertOracle(Settings(**(NUMBERS | changed), rules=rules))
    rows = to_rows(specs, days)
    counts: Counter[tuple[str, str | None]] = Counter()
    tables, store = Tables(), Tablespace()
    engine = new_engine(tables, rules, days, **changed)
    at = 0
    while at < len(specs):
        size = rng.choice((1, 2, 3, 7, 40, 1_000))
        batch = to_batch(specs[at : at + size], tables, at)
        decisions = [oracle.take(row) for row in rows[at : at + size]]
        assert [DECISIONS[d] for d in engine.step(batch).tolist()] == decisions
        counts.update((row.symbol, decision) for row, decision in zip(rows[at:], decisions, strict=False))
        at += len(batch)
        if rng.random() < 0.5:
            store.apply(engine.drain())
            if rng.random() < 0.1:
                store.compare(oracle)
            if rng.random() < 0.3:  # a crash: a new process reads the snapshot; its symbols get other numbers
                data, tables = engine.snapshot(), Tables()
                tables.symbols.index("ZZZ")
                engine = new_engine(tables, rules, days, **changed)
                engine.restore(data, at)
    store.apply(engine.drain())
    store.compare(oracle)
    for name in oracle.markets:
        minutes = [c for (symbol, _), c in store.quality.items() if symbol == name]
        assert sum(c[2] for c in minutes) == counts[name, "late"]
        assert sum(c[3] for c in minutes) == counts[name, "future"]
        assert sum(c[0] for c in minutes) == sum(n for (symbol, _), n in counts.items() if symbol == name)
    return store


# --- examples ----------------------------------------------------------------------------------------------------


def run(specs: list[Spec], rules: Rules = Rules()) -> Tablespace:  # noqa: B008
    return run_both(specs, rules, NO_DAYS, random.Random(1))


def minutes(prices: list[float]) -> list[Spec]:
    """One trade a minute, at its 30th second."""
    return [trade("AAPL", k * MINUTE + 30_000, p) for k, p in enumerate(prices)]


def test_row_is_computed_as_the_design_says():
    #  minute       0            1      2 (none)   3
    #  price     100 102        104                110
    store = run(
        [trade("AAPL", 0, 100), trade("AAPL", 59_999, 102), trade("AAPL", 60_000, 104), trade("AAPL", 180_000, 110)]
    )
    assert len(store.windows) == 4  # a minute without trades has its row too
    row = store.windows["AAPL", START - MINUTE]  # the window ending with minute 3
    assert row["avg_price"] == (100 + 102 + 104 + 110) / 4
    assert row["ma_5min"] is None  # five closes are not known yet
    assert row["total_volume"] == 400
    assert row["trade_count"] == row["revision"] == 4
    assert (row["open_price"], row["close_price"], row["min_price"], row["max_price"]) == (100, 110, 100, 110)
    assert row["vwap"] == (100 + 102 + 104 + 110) * 100 / 400


def test_moving_average_carries_the_close_over_a_quiet_minute():
    store = run([*minutes([10, 11, 12, 13]), trade("AAPL", 5 * MINUTE, 20)])
    assert store.windows["AAPL", START]["ma_5min"] == (10 + 11 + 12 + 13 + 13) / 5
    assert store.windows["AAPL", START + MINUTE]["ma_5min"] == (11 + 12 + 13 + 13 + 20) / 5


def test_golden_cross_is_provisional_then_confirmed():
    specs = minutes([10, 10, 10, 10, 10, 9])  # a first decided side: below
    store = run([*specs, trade("AAPL", 6 * MINUTE, 12)])
    key = key_of("golden_cross", "AAPL", START + 6 * MINUTE)
    assert store.alerts[key][3] == "provisional"
    assert run([*specs, trade("AAPL", 6 * MINUTE, 12), tick(7 * MINUTE + 1_999)]).alerts[key][3] == "provisional"
    assert run([*specs, trade("AAPL", 6 * MINUTE, 12), tick(7 * MINUTE + 2_000)]).alerts[key][3] == "confirmed"


def test_cross_that_falls_back_is_retracted_by_the_next_trade():
    specs = [*minutes([10, 10, 10, 10, 10, 9]), trade("AAPL", 6 * MINUTE, 12), trade("AAPL", 6 * MINUTE + 9, 9)]
    store = run([*specs, trade("AAPL", 8 * MINUTE, 9)])
    assert store.alerts[key_of("golden_cross", "AAPL", START + 6 * MINUTE)][3] == "retracted"
    assert key_of("death_cross", "AAPL", START + 6 * MINUTE) in store.alerts


def test_late_trade_is_counted_and_changes_nothing():
    on_time = minutes([10, 11, 12, 13])
    store = run([*on_time, trade("AAPL", 30_000, 99)])
    assert store.windows == run(on_time).windows
    assert store.quality["AAPL", START][2] == 1
    assert store.latest["AAPL"]["late"] == 1


@pytest.mark.parametrize(("last_ms", "late"), [(2 * MINUTE - 1, 0), (2 * MINUTE, 1)])
def test_trade_is_late_when_its_pane_ended_at_the_watermark(last_ms: int, late: int):
    #  watermark = last - 1 minute; the pane of the trade ends at minute 1
    store = run([trade("AAPL", 0, 10), trade("AAPL", last_ms, 11), trade("AAPL", MINUTE - 1, 12)])
    assert store.latest["AAPL"]["late"] == late


def test_side_is_unknown_on_the_next_trading_day():
    #  Days: the market closes at minute 15 and opens again at minute 20
    below = [trade("AAPL", k * MINUTE, 10 if k < 14 else 9) for k in range(5, 15)]
    for at, alerts in ((14 * MINUTE + 30_000, 1), (20 * MINUTE, 0)):
        assert len(run_both([*below, trade("AAPL", at, 12)], Rules(), STOCK_DAYS, random.Random(1)).alerts) == alerts


def test_side_is_known_on_a_trading_day_that_begins_where_the_day_before_ended():
    #  Week: the first day ends at minute 9, where the second begins; it ends at minute 17, before the third
    below = [trade("BTC", k * MINUTE, 10 if k < 8 else 9) for k in range(9)]
    for at, alerts in ((9 * MINUTE, 1), (21 * MINUTE, 0)):
        assert len(run_both([*below, trade("BTC", at, 12)], Rules(), ALL_DAYS, random.Random(1)).alerts) == alerts


def test_a_price_without_volume_is_a_price_and_never_a_surge():
    #  quotes and values: of size 0
    rules = Rules(high_volume=VolumeRule(multiple=2.0, panes=4, panes_min=1, cooldown_ms=0, absolute=1.0))
    store = run_both(
        [trade("BTC", k * 20_000, 10 + k % 3, size=0) for k in range(60)], rules, NO_DAYS, random.Random(1)
    )
    row = store.windows["BTC", START + 5 * MINUTE]
    assert (row["total_volume"], row["trade_count"], row["max_price"], row["ma_5min"]) == (0, 15, 12, 12)
    assert row["vwap"] is None
    assert not [key for key in store.alerts if key.rule == "high_volume"]


def test_an_older_snapshot_that_knows_fewer_markets_is_read():
    tables = Tables()
    engine = new_engine(tables)
    engine.step(to_batch([trade("AAPL", 0, 10), tick(5_000)], tables))
    engine.drain()
    old = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(engine.snapshot()))
    old["markets"] = old["markets"][: 2 * MARKET.itemsize]
    again = new_engine(tables)
    again.restore(zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(old)), 2)
    assert again.newest_ms(Market.STOCKS) == START + 5_000
    assert again.newest_ms(Market.FUTURES) is None
    assert again.snapshot() == engine.snapshot()


def test_average_remembers_a_close_older_than_every_pane_it_keeps():
    """Forty minutes in which only odd lots trade: the close of the first minute is carried over all of them."""
    quiet = [trade("AAPL", k * MINUTE, 50, code=1) for k in range(1, 41)]
    store = run([trade("AAPL", 0, 10), *quiet])
    assert store.windows["AAPL", START + 36 * MINUTE]["ma_5min"] == 10


def test_future_stamp_is_quarantined_and_moves_no_watermark():
    store = run([trade("AAPL", 0, 10), trade("AAPL", 10 * MINUTE, 99, ahead_ms=60_001), trade("AAPL", 1, 11)])
    assert store.windows["AAPL", START - 4 * MINUTE]["trade_count"] == 2
    assert store.latest["AAPL"]["future"] == 1


def test_live_bitcoin_never_makes_delayed_apple_late():
    store = run([trade("AAPL", 0, 10), trade("BTC", 15 * MINUTE, 60_000), trade("AAPL", 1_000, 11)])
    assert store.latest["AAPL"]["late"] == 0


def test_out_of_order_trade_keeps_the_close_of_the_latest():
    store = run(
        [trade("AAPL", 50_000, 10), trade("AAPL", 61_000, 12), trade("AAPL", 59_000, 11), trade("AAPL", 58_000, 7)]
    )
    assert store.bars["AAPL", START]["close"] == 11
    assert store.bars["AAPL", START]["open"] == 10
    assert store.latest["AAPL"]["price"] == 12


def test_volume_surge_needs_five_panes_and_three_times_the_mean():
    calm = [trade("AAPL", k * MINUTE, 10, size=100) for k in range(5)]
    assert not run([*calm, trade("AAPL", 5 * MINUTE, 10, size=300)]).alerts
    key = key_of("high_volume", "AAPL", START + 5 * MINUTE)
    surge = [*calm, trade("AAPL", 5 * MINUTE, 10, size=300), trade("AAPL", 5 * MINUTE + 1, 10, size=0.25)]
    assert run(surge).alerts == {
        key: AlertState(START + 5 * MINUTE + 1, 10, 300, "provisional", START + 5 * MINUTE + 1)
    }
    assert run([*surge, tick(6 * MINUTE + 2_000)]).alerts[key][3] == "confirmed"
    assert not run([*calm[:4], trade("AAPL", 5 * MINUTE, 10, size=900)]).alerts


def test_cooldown_moves_the_side_but_makes_no_alert():
    flips = [trade("AAPL", (6 + k) * MINUTE, 12 if k % 2 else 9) for k in range(12)]
    store = run([*minutes([10] * 5), *flips])
    golden = sorted(key.pane for key in store.alerts if key.rule == "golden_cross")
    assert all(b - a >= 5 * MINUTE for a, b in pairwise(golden))
    assert len(golden) >= 2


@pytest.mark.parametrize(
    ("gap_minutes", "alerts"), [(5, 1), (6, 0)], ids=["not longer than the window", "longer than the window"]
)
def test_side_is_unknown_after_a_long_gap(gap_minutes: int, alerts: int):
    specs = [*minutes([10, 10, 10, 10, 10, 9]), gap(6 * MINUTE, (6 + gap_minutes) * MINUTE)]
    assert len(run([*specs, trade("AAPL", (6 + gap_minutes) * MINUTE, 12)]).alerts) == alerts


def test_fractional_sizes_add_up_exactly():
    store = run([trade("BTC", k, 60_000, size=0.1) for k in range(10)])
    assert store.bars["BTC", START]["volume"] == 1.0


def test_alert_names_its_evidence():
    tables = Tables()
    engine = new_engine(tables)
    engine.step(to_batch([*minutes([10, 10, 10, 10, 10, 9]), trade("AAPL", 6 * MINUTE, 12)], tables))
    (alert,) = engine.drain().alerts
    evidence = alert.evidence["provisional"]
    assert evidence["price_before"] == 9
    assert evidence["line_before"] == (10 + 10 + 10 + 10 + 9) / 5
    assert evidence["line"] == alert.line == (10 + 10 + 10 + 9 + 12) / 5
    assert evidence["trade"]["time_ms"] == alert.triggered_ms == START + 6 * MINUTE
    assert evidence["window"] == {
        "from_ms": START + 2 * MINUTE, "to_ms": START + 7 * MINUTE, "trades": 5, "excluded": 0, "gap_ms": 0,
    }  # fmt: skip
    assert alert.offset == 6


def test_snapshot_of_other_settings_is_refused():
    tables = Tables()
    engine = new_engine(tables)
    engine.step(to_batch(minutes([1, 2]), tables))
    engine.drain()
    with pytest.raises(LogError, match="tapewatch rebuild"):
        new_engine(Tables(), delay=0).restore(engine.snapshot(), 2)


# --- properties ----------------------------------------------------------------------------------------------------

# Half of all times are whole 30 s, so that boundaries and equal times are common.
times = st.one_of(st.integers(0, 90).map(lambda k: k * 30_000), st.integers(0, 45 * MINUTE))
trades = st.builds(
    trade,
    st.sampled_from(["AAPL", "MSFT", "BTC"]),
    times,
    st.sampled_from([10.0, 10.01, 10.02, 9.99, 9.9, 10.1, 11.0, 9.0]),
    st.sampled_from([0, 0.25, 1, 100, 100, 300, 1234.56789012]),
    st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]),
    st.sampled_from([0, 0, 0, -5_000, 60_000, 60_001, 10 * MINUTE]),
)
ticks = st.builds(tick, st.one_of(times, times.map(lambda t: t + 2_000)), st.sampled_from(list(Market)))
gaps = st.builds(
    lambda at, long, m: gap(at, at + long, m),
    times,
    st.sampled_from([1_000, 300_000, 300_001, 900_000]),
    st.sampled_from(list(Market)),
)
SHAPES = (
    {},
    {"delay": 0},
    {"delay": 180_000},
    {"delay": 420_000},
    {"window": 60_000},
    {"window": 180_000, "slide": 30_000, "delay": 45_000},
)


def nearly_sorted(specs: list[Spec], shuffle_ms: int, rng: random.Random) -> list[Spec]:
    """In event order, but each moved by up to ``shuffle_ms``: late and out of order, as a tape is."""
    return sorted(specs, key=lambda s: s[2] + rng.randint(-shuffle_ms, shuffle_ms))


records = st.one_of(trades, trades, trades, trades, ticks, gaps)
# Lists of their own accord stay short; most rules need some minutes of trades before they say anything.
tapes = st.one_of(st.lists(records, min_size=1, max_size=40), st.lists(records, min_size=120, max_size=300))


Run = tuple[list[Spec], int, dict[str, int], Rules, Any, int]


def runs(tapes: Any) -> Any:
    """Such records, in any order, with any settings, rules and calendar."""
    return st.tuples(
        tapes,
        st.sampled_from([0, 1_000, 40_000, 200_000, 10**9]),
        st.sampled_from(SHAPES),
        st.sampled_from([Rules(), QUICK]),
        st.sampled_from([NO_DAYS, STOCK_DAYS, ALL_DAYS]),
        st.integers(0, 10**6),
    )


def agree(run: Run) -> None:
    specs, shuffle_ms, changed, rules, days, seed = run
    rng = random.Random(seed)
    run_both(nearly_sorted(specs, shuffle_ms, rng), rules, days, rng, **changed)


large = [HealthCheck.large_base_example, HealthCheck.data_too_large, HealthCheck.too_slow]


@settings(max_examples=examples(15))
@given(runs(st.lists(records, min_size=1, max_size=60)))
def test_engine_agrees_with_the_oracle(run: Run) -> None:
    agree(run)


@pytest.mark.slow
@settings(max_examples=examples(100), suppress_health_check=large)
@given(runs(tapes))
def test_engine_agrees_with_the_oracle_on_many_and_on_long_tapes(run: Run) -> None:
    agree(run)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_engine_agrees_with_the_oracle_over_a_long_walk(seed: int):
    """Enough minutes that the oldest panes leave the engine, and prices that cross their average often."""
    rng = random.Random(seed)
    price, specs = {"AAPL": 100.0, "BTC": 60_000.0}, []
    at = 0
    for _ in range(3_000):
        at += rng.choice((50, 2_000, 9_000, 20_000)) if rng.random() < 0.995 else rng.randint(0, 40 * MINUTE)
        symbol = rng.choice(("AAPL", "AAPL", "BTC"))
        price[symbol] *= 1 + rng.gauss(0, 0.0008)
        size = rng.choice((1, 100, 100, 200, 0.5)) * (6 if rng.random() < 0.01 else 1)
        specs.append(
            trade(
                symbol,
                at - rng.choice((0, 0, 0, 900, 70_000)),
                round(price[symbol], 2),
                size,
                rng.choice((0,) * 9 + (1, 2, 3)),
            )
        )
        if rng.random() < 0.2:
            specs.append(tick(at, rng.choice(list(Market))))
    store = run_both(specs, QUICK if seed % 2 else Rules(), NO_DAYS, rng)
    assert len(store.alerts) > 20
    assert {a[3] for a in store.alerts.values()} >= {"confirmed", "retracted"}


@settings(max_examples=examples(8))
@given(st.lists(trades, min_size=1, max_size=50), st.integers(0, 10**6))
def test_symbols_do_not_depend_on_one_another(specs: list[Spec], seed: int):
    rng = random.Random(seed)
    together = run_both(specs, QUICK, NO_DAYS, rng)
    alone = run_both([s for s in specs if s[1] == "AAPL"], QUICK, NO_DAYS, rng)
    assert {k: v for k, v in together.windows.items() if k[0] == "AAPL"} == alone.windows
    assert {k: v for k, v in together.alerts.items() if k.symbol == "AAPL"} == alone.alerts
