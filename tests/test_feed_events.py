"""Events of every market to trades: which fields are read, what stands for an id, and what is no trade at all."""

from __future__ import annotations

import doctest
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch import values
from tapewatch.feed import events
from tapewatch.feed.conditions import ALL, OUTSIDE_SHIFT, PART_HIGH_LOW, PART_PRICE, PART_VOLUME, eligibility
from tapewatch.feed.decode import Decoded, Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.symbols import market_of
from tapewatch.records import Market, Refused, Tables
from tapewatch.values import OWN_CODES, TIME_MS_MAX, TIME_MS_MIN, time_ms_of

T_MS = 1_788_877_046_310
NOW_NS = 1_788_877_047_000_000_000
OPTION = {"ev": "T", "sym": "O:SPY251219C00650000", "x": 65, "p": 12.05, "s": 20, "c": [227], "t": T_MS, "q": 128_456}
FUTURE = {"ev": "T", "sym": "ESZ5", "p": 6_850.25, "s": 3, "t": T_MS * 1_000_000 + 5, "q": 3_681_328}
QUOTE = {"ev": "C", "p": "EUR/USD", "x": 48, "a": 1.15915, "b": 1.1591, "t": T_MS}
VALUE = {"ev": "V", "T": "I:SPX", "val": 6_850.12, "t": T_MS}
BAR = {"o": 10, "h": 11, "l": 9, "c": 10.5, "s": T_MS, "e": T_MS + 60_000}
BARS: dict[Market, dict[str, Any]] = {
    Market.OPTIONS: BAR | {"ev": "AM", "sym": OPTION["sym"], "v": 7, "vw": 10.25},
    Market.FUTURES: BAR | {"ev": "AM", "sym": "ESZ5", "v": 7, "dv": 2_397_587.5, "n": 3},
    Market.FOREX: BAR | {"ev": "CA", "pair": "EUR/USD", "v": 512},
    Market.INDICES: BAR | {"ev": "AM", "sym": "I:SPX", "op": 10},
}


def read(market: Market, *sent: Any, wanted: set[str] | None = None) -> tuple[list[tuple[Any, ...]], Decoded]:
    """(symbol, time, price, size, exchange, codes, id) of each record, and all there is."""
    tables = Tables()
    decoder = Decoder(tables, wanted)
    found = [decoder.decode([(market, json.dumps(sent).encode(), NOW_NS)]) for _ in range(2)][1]  # its names are known
    b = found.batch
    assert b.market.tolist() == [market] * len(b)
    names = [tables.symbols.values[n] for n in b.symbol.tolist()]
    codes = [tables.conditions.values[n] for n in b.conditions.tolist()]
    numbers = (b.time_ms.tolist(), b.price.tolist(), b.size_e8.tolist(), b.exchange.tolist())
    return list(zip(names, *numbers, codes, b.ids, strict=True)), found


@pytest.mark.parametrize(
    ("market", "event", "row"),
    [
        (Market.OPTIONS, OPTION, (OPTION["sym"], T_MS, 12.05, 20 * 10**8, 65, (), f"{T_MS}q128456")),
        (Market.FUTURES, FUTURE, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), f"{T_MS}q3681328")),
        (Market.FUTURES, FUTURE | {"i": "x7"}, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), "x7")),
        (Market.FUTURES, FUTURE | {"q": 12.0}, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), f"{T_MS}q12")),
        (Market.FUTURES, FUTURE | {"q": 0, "t": T_MS}, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), "")),
        (Market.OPTIONS, OPTION | {"q": -1}, (OPTION["sym"], T_MS, 12.05, 20 * 10**8, 65, (), "")),
        (Market.FUTURES, FUTURE | {"q": None}, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), "")),
        (Market.FUTURES, FUTURE | {"q": 2**64}, ("ESZ5", T_MS, 6_850.25, 3 * 10**8, 0, (), "")),
        (Market.FOREX, QUOTE, ("C:EURUSD", T_MS, (1.1591 + 1.15915) / 2, 0, 48, (), f"{T_MS}b1.1591a1.15915")),
        (Market.INDICES, VALUE, ("I:SPX", T_MS, 6_850.12, 0, 0, (), f"{T_MS}v6850.12")),
    ],
)
def test_a_market_has_its_own_fields(market: Market, event: dict[str, Any], row: tuple[Any, ...]) -> None:
    rows, found = read(market, event)
    assert rows == [row]
    assert found.refused == Counter()
    assert market_of(row[0]) is market


@pytest.mark.parametrize("market", BARS)
def test_a_bar_of_a_market_without_volume_counts_none(market: Market) -> None:
    rows, _ = read(market, BARS[market])
    assert [(time_ms, price) for _, time_ms, price, *_ in rows] == [
        (T_MS, 10.0), (T_MS, 11.0), (T_MS, 9.0), (T_MS + 59_999, 10.5), (T_MS + 59_999, BARS[market].get("vw", 10.5)),
    ]  # fmt: skip
    traded = 7 * 10**8 if market in (Market.OPTIONS, Market.FUTURES) else 0
    assert [size for _, _, _, size, *_ in rows] == [0, 0, 0, 0, traded]
    assert {market_of(name) for name, *_ in rows} == {market}


@pytest.mark.parametrize(
    ("market", "event"),
    [
        (Market.OPTIONS, OPTION | {"s": None}),
        (Market.OPTIONS, OPTION | {"sym": 5}),
        (Market.FUTURES, FUTURE | {"p": -37.63}),
        (Market.FUTURES, BARS[Market.FUTURES] | {"v": None}),
        (Market.FOREX, QUOTE | {"p": 1.15}),
        (Market.FOREX, QUOTE | {"b": 0}),
        (Market.FOREX, QUOTE | {"a": None}),
        (Market.FOREX, QUOTE | {"t": None}),
        (Market.INDICES, VALUE | {"val": "6850"}),
        (Market.INDICES, VALUE | {"T": None}),
    ],
)
def test_a_bad_value_is_refused_alone(market: Market, event: dict[str, Any]) -> None:
    good = {Market.OPTIONS: OPTION, Market.FUTURES: FUTURE, Market.FOREX: QUOTE, Market.INDICES: VALUE}[market]
    rows, found = read(market, good, event, good)
    assert len(rows) == 2
    assert found.refused == Counter({Refused.BAD_VALUE: 1})


@pytest.mark.parametrize(
    ("market", "event"),
    [
        (Market.STOCKS, {"ev": "T", "sym": "ESZ5", "p": 1, "s": 1, "t": T_MS}),
        (Market.STOCKS, {"ev": "T", "sym": OPTION["sym"], "p": 1, "s": 1, "t": T_MS}),
        (Market.CRYPTO, {"ev": "XT", "pair": "AAPL", "p": 1, "s": 1, "t": T_MS}),
        (Market.OPTIONS, OPTION | {"sym": "SPY"}),
        (Market.FUTURES, FUTURE | {"sym": "AAPL"}),
        (Market.FOREX, QUOTE | {"p": "BTC-USD"}),
        (Market.INDICES, VALUE | {"T": "SPX"}),
    ],
)
def test_a_name_of_another_market_is_not_taken_for_it(market: Market, event: dict[str, Any]) -> None:
    known = {"AAPL", "BTC", "SPY", "SPX", "ESZ5", OPTION["sym"]}
    rows, found = read(market, event, wanted=known)
    assert rows == []
    assert found.refused == Counter({Refused.UNKNOWN_SYMBOL: 1})


@pytest.mark.parametrize(
    ("market", "kind"),
    [(m, kind) for m in Market for kind in ("T", "XT", "C", "V", "AM", "XA", "CA", "Q")],
)
def test_an_event_of_another_market_is_unknown(market: Market, kind: str) -> None:
    own = {
        Market.STOCKS: {"T", "AM"}, Market.CRYPTO: {"XT", "XA"}, Market.OPTIONS: {"T", "AM"},
        Market.FUTURES: {"T", "AM"}, Market.FOREX: {"C", "CA"}, Market.INDICES: {"V", "AM"},
    }[market]  # fmt: skip
    _, found = read(market, {"ev": kind})
    assert found.refused == Counter({Refused.BAD_VALUE if kind in own else Refused.UNKNOWN_EVENT: 1})


def test_what_comes_twice_is_a_repeat_in_every_market() -> None:
    sent = {Market.OPTIONS: OPTION, Market.FUTURES: FUTURE, Market.FOREX: QUOTE, Market.INDICES: VALUE}
    seen = Seen()
    for market, event in sent.items():
        price = {"val": 1.5} if market is Market.INDICES else {"a": 1.5} if market is Market.FOREX else {"q": 9}
        _, found = read(market, event, event, event | price)
        assert seen.filter(found.batch).tolist() == [True, False, True]


def test_there_every_trade_is_eligible_whatever_its_codes() -> None:
    for market, event in ((Market.OPTIONS, OPTION), (Market.FUTURES, FUTURE), (Market.CRYPTO, None)):
        coin = {"ev": "XT", "pair": "BTC-USD", "p": 1, "s": 1, "t": T_MS}
        rows, _ = read(market, (event or coin) | {"c": [2, 12, 37]})
        assert [eligibility(codes) for *_, codes, _ in rows] == [ALL | ALL << OUTSIDE_SHIFT]


@given(st.decimals(0, 1_000_000, places=8, allow_nan=False))
def test_a_fractional_contract_is_exact(size: Decimal) -> None:
    rows, _ = read(Market.FUTURES, FUTURE | {"ds": f"{size:f}"})
    assert rows[0][3] == int(size * 10**8)


@given(st.integers(TIME_MS_MIN, TIME_MS_MAX), st.integers(0, 999_999))
def test_the_unit_of_a_time_is_told_by_its_size(time_ms: int, rest_ns: int) -> None:
    assert time_ms_of(time_ms) == time_ms_of(float(time_ms)) == time_ms
    assert time_ms_of(time_ms * 1_000 + rest_ns // 1_000) == time_ms
    assert time_ms_of(time_ms * 1_000_000 + rest_ns) == time_ms
    assert time_ms_of(time_ms // 1_000) == time_ms // 1_000 * 1_000
    assert time_ms_of(time_ms / 1_000) == time_ms


@given(st.integers(-(10**20), 10**21) | st.floats())
def test_a_number_that_is_no_time_of_any_unit_is_none(number: float) -> None:
    found = time_ms_of(number)
    assert found is None or TIME_MS_MIN <= found <= TIME_MS_MAX


def test_the_examples_in_the_texts_are_true() -> None:
    assert doctest.testmod(events).failed == doctest.testmod(values).failed == 0


def test_the_codes_of_a_bars_parts_are_those_that_messages_may_hold() -> None:
    assert (PART_PRICE, PART_HIGH_LOW, PART_VOLUME) == OWN_CODES
