"""Frames to records: what normally comes, what is odd but readable, and what is refused, alone and counted."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapewatch.feed import decode
from tapewatch.feed.decode import Decoded, Decoder
from tapewatch.records import COLUMNS, RECORD, SIZE_E8_MAX, Kind, Market, Refused, Tables
from tapewatch.settings import FRAME_BYTES_MAX
from tapewatch.values import parse_size_e8
from trials import examples

NOW_NS = 1_788_877_047_000_000_000
T_MS = 1_788_877_046_310
TRADE = {"ev": "T", "sym": "AAPL", "x": 4, "i": "52983525034825", "z": 3, "p": 210.5, "s": 100, "ds": "100.0"}
TRADE |= {"c": [14, 41], "t": T_MS, "pt": T_MS - 3, "q": 3681328, "trfi": 202, "trft": T_MS - 1}
COIN = {"ev": "XT", "pair": "BTC-USD", "p": 65_000.25, "t": T_MS, "s": 0.00012345, "c": [2], "i": "988", "x": 1}


class Feed:
    """A decoder with its tables, and one-line ways to use them."""

    def __init__(self, wanted: set[str] | None = None) -> None:
        self.tables = Tables()
        self.decoder = Decoder(self.tables, wanted)

    def bytes(self, data: bytes, market: Market = Market.STOCKS) -> Decoded:
        return self.decoder.decode([(market, data, NOW_NS)])

    def events(self, *events: Any, market: Market = Market.STOCKS) -> Decoded:
        return self.bytes(json.dumps(events).encode(), market)

    def rows(self, decoded: Decoded) -> list[tuple[Any, ...]]:
        """(symbol, time, price, size, exchange, trf, conditions, id) of each record."""
        b = decoded.batch
        symbols = [self.tables.symbols.values[n] for n in b.symbol.tolist()]
        codes = [self.tables.conditions.values[n] for n in b.conditions.tolist()]
        numbers = (b.time_ms.tolist(), b.price.tolist(), b.size_e8.tolist(), b.exchange.tolist(), b.trf.tolist())
        return list(zip(symbols, *numbers, codes, b.ids, strict=True))


def changed(**fields: Any) -> dict[str, Any]:
    """`TRADE` with other fields; None takes one away."""
    return {name: value for name, value in (TRADE | fields).items() if value is not None}


AAPL = ("AAPL", T_MS, 210.5, 10_000_000_000, 4, 202, (14, 41), "52983525034825")


def test_a_stock_trade() -> None:
    feed = Feed()
    decoded = feed.events(TRADE)
    assert feed.rows(decoded) == [AAPL]
    assert decoded.refused == Counter()
    batch = decoded.batch
    assert (batch.kind.tolist(), batch.market.tolist(), batch.received_ns.tolist()) == ([Kind.TRADE], [0], [NOW_NS])
    assert [getattr(batch, name).dtype for name in COLUMNS] == [RECORD[name] for name in COLUMNS]


def test_a_crypto_trade_has_its_product_symbol_and_no_condition() -> None:
    feed = Feed()
    decoded = feed.events(COIN, COIN | {"i": 989, "c": [0]}, market=Market.CRYPTO)
    assert feed.rows(decoded) == [
        ("BTC", T_MS, 65_000.25, 12_345, 1, 0, (), "988"),
        ("BTC", T_MS, 65_000.25, 12_345, 1, 0, (), "989"),
    ]
    assert decoded.batch.market.tolist() == [Market.CRYPTO] * 2


def test_what_may_be_absent() -> None:
    feed = Feed()
    least = {"ev": "T", "sym": "F", "p": 10, "t": T_MS}
    assert feed.rows(feed.events(least | {"ds": "0.25"})) == [("F", T_MS, 10.0, 25_000_000, 0, 0, (), "")]
    assert feed.rows(feed.events(least | {"s": 7})) == [("F", T_MS, 10.0, 700_000_000, 0, 0, (), "")]


def test_the_exact_size_wins() -> None:
    feed = Feed()
    assert feed.rows(feed.events(changed(s=0, ds="0.1234")))[0][3] == 12_340_000


@given(st.decimals(0, 90_000_000_000, places=8, allow_nan=False))
@example(Decimal("89999999999.99999999"))
@example(Decimal("20000000.00000001"))
@example(Decimal("19999999.99999999"))
def test_a_decimal_size_is_exact_at_any_length(size: Decimal) -> None:
    feed = Feed()
    assert feed.rows(feed.events(changed(ds=f"{size:f}")))[0][3] == int(size * 10**8)


@pytest.mark.parametrize(
    ("text", "size_e8"),
    [
        ("100", 10**10),
        ("1e-05", 1_000),
        (0.1, 10_000_000),
        (3, 300_000_000),
        ("90000000000", SIZE_E8_MAX),
        ("90000000000.00000001", -1),
        ("-1", -1),
        ("", -1),
        ("1_0", -1),
        (" 1", -1),
        ("٣", -1),
        ("NaN", -1),
        ("Infinity", -1),
        ("1e999999999", -1),
        (1e300, -1),
        ("9" * 1000, -1),
    ],
)
def test_sizes(text: str | float, size_e8: int) -> None:
    assert parse_size_e8(text) == size_e8


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"x": 4.0, "trfi": 202.0, "t": float(T_MS), "c": [14.0, 41.0], "s": 100.0}, AAPL),
        ({"t": T_MS * 1_000 + 999}, AAPL),
        ({"t": T_MS / 1_000}, AAPL),
        ({"t": T_MS // 1_000}, (AAPL[0], T_MS // 1_000 * 1_000, *AAPL[2:])),
        ({"t": T_MS * 1_000_000 + 999_999}, AAPL),
        ({"i": 52983525034825}, AAPL),
        ({"c": None}, (*AAPL[:6], (), AAPL[7])),
        ({"c": 37}, (*AAPL[:6], (37,), AAPL[7])),
        ({"i": None}, (*AAPL[:7], "")),
        ({"i": "ü"}, (*AAPL[:7], "ü")),
        ({"i": "a\\b"}, (*AAPL[:7], "a\\b")),
        ({"i": "x" * 64}, (*AAPL[:7], "x" * 64)),
        ({"x": 32767, "trfi": 0}, (*AAPL[:4], 32767, 0, *AAPL[6:])),
        ({"new_field": [{"deep": 1}]}, AAPL),
        ({"sym": "BRK.B"}, ("BRK.B", *AAPL[1:])),
    ],
)
def test_odd_but_readable(fields: dict[str, Any], row: tuple[Any, ...]) -> None:
    feed = Feed()
    decoded = feed.events(TRADE, changed(**fields))
    assert feed.rows(decoded) == [AAPL, row]
    assert decoded.refused == Counter()


BAD = [
    {"sym": None},
    {"sym": 5},
    {"sym": ""},
    {"sym": "aapl"},
    {"sym": "A\0B"},
    {"sym": "A" * 33},
    {"sym": "'; DROP TABLE x"},
    {"p": None},
    {"p": "x"},
    {"p": 0},
    {"p": -1},
    {"p": -0.0},
    {"p": 1e300},
    {"p": 10**400},
    {"p": True},
    {"t": None},
    {"t": 0},
    {"t": -T_MS},
    {"t": 10**10},
    {"t": 10**13},
    {"t": 10**16},
    {"t": 10**19},
    {"t": 10**30},
    {"t": T_MS + 0.5},
    {"t": "2026-01-01"},
    {"s": None, "ds": None},
    {"ds": "x"},
    {"ds": ""},
    {"ds": "-1"},
    {"ds": "1e40"},
    {"ds": {}},
    {"ds": None, "s": -1},
    {"ds": None, "s": 10**30},
    {"x": 32768},
    {"x": -1},
    {"x": 1.5},
    {"x": {}},
    {"trfi": 2**63},
    {"i": "x" * 65},
    {"i": "a\0"},
    {"i": "a\nb"},
    {"i": "\x7f"},
    {"i": "\x85"},
    {"i": [1]},
    {"i": 2**80},
    {"c": [-1]},
    {"c": ["x"]},
    {"c": {"a": 1}},
    {"c": [1] * 17},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_a_bad_value_is_refused_alone(fields: dict[str, Any]) -> None:
    feed = Feed()
    bad = changed(**fields)
    decoded = feed.events(TRADE, bad, TRADE)
    assert feed.rows(decoded) == [AAPL, AAPL]
    assert sum(decoded.refused.values()) == 1
    assert set(decoded.refused) <= {Refused.BAD_VALUE, Refused.MALFORMED}


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ev":"T","sym":"AAPL","p":NaN}',
        b'{"ev":"T","sym":"AAPL","p":-Infinity}',
        b'{"ev":"T","sym":"AAPL","p":1e400000}',
        b'{"ev":"T","sym":"A\xff","p":1}',
        b'{"ev":"T","sym":"\\ud800","p":1}',
        b'{"ev":"T","i":"a\x01"}',
        b'{"ev":"T",}',
        b'{"ev":"T","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"oops",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'{"ev":7}',
        b'{"ev":["T"]}',
    ],
    ids=lambda bad: repr(bad[:30]),
)
def test_what_is_no_event_is_refused_alone(bad: bytes) -> None:
    feed = Feed()
    good = json.dumps(TRADE).encode()
    decoded = feed.bytes(b"[" + good + b"," + bad + b", " + good + b"]")
    assert feed.rows(decoded) == [AAPL, AAPL]
    assert decoded.refused == Counter({Refused.MALFORMED: 1})


@pytest.mark.parametrize(
    "data", [b"", b" ", b"[", b"]", b"[}", b"hello", b'"', b"\xff\xfe", b"[" * 100_000, b"{" * 100_000]
)
def test_a_frame_of_junk_counts_once(data: bytes) -> None:
    decoded = Feed().bytes(data)
    assert len(decoded.batch) == 0
    assert decoded.refused == Counter({Refused.MALFORMED: 1})


def test_a_frame_that_was_cut_off_keeps_its_whole_events() -> None:
    feed = Feed()
    decoded = feed.bytes(json.dumps([TRADE, TRADE, TRADE]).encode()[:-20])
    assert feed.rows(decoded) == [AAPL, AAPL]
    assert decoded.refused == Counter({Refused.MALFORMED: 1})


def test_a_frame_over_the_limit_is_not_looked_at() -> None:
    decoded = Feed().bytes(b"[" + b" " * (64 * 1024 * 1024) + b"]")
    assert decoded.refused == Counter({Refused.TOO_LARGE: 1})
    at_limit = b"[" + b" " * (FRAME_BYTES_MAX - 2) + b"]"
    assert Feed().bytes(at_limit).refused == Counter()


def test_a_large_frame_with_a_bar_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_LOOSE_BYTES_MAX", 100)
    feed = Feed()
    decoded = feed.events(TRADE, {"ev": "Q"}, TRADE)
    assert feed.rows(decoded) == [AAPL, AAPL]
    assert decoded.refused == Counter({Refused.UNKNOWN_EVENT: 1})


def test_statuses_are_no_records_and_unknown_events_are_counted() -> None:
    feed = Feed()
    status = {"ev": "status", "status": "success", "message": "subscribed to: T.AAPL"}
    decoded = feed.events(status, TRADE, {"ev": "LULD", "T": "X"}, COIN)
    assert feed.rows(decoded) == [AAPL]
    assert decoded.refused == Counter({Refused.UNKNOWN_EVENT: 2})  # XT is none of the stocks' events


def test_one_object_without_its_array() -> None:
    feed = Feed()
    assert feed.rows(feed.bytes(json.dumps(TRADE).encode())) == [AAPL]


def test_unwanted_symbols_are_refused_and_take_no_number() -> None:
    feed = Feed({"AAPL", "BTC"})
    decoded = feed.events(changed(sym="TSLA"), TRADE, changed(sym="TSLA"))
    assert feed.rows(decoded) == [AAPL]
    assert decoded.refused == Counter({Refused.UNKNOWN_SYMBOL: 2})
    assert sorted(feed.tables.symbols.values) == ["AAPL", "BTC"]


def test_a_stock_named_like_a_coin_is_not_the_coin() -> None:
    decoded = Feed({"BTC"}).events(changed(sym="BTC"))
    assert decoded.refused == Counter({Refused.UNKNOWN_SYMBOL: 1})


def test_symbols_and_condition_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "SYMBOLS_MAX", 2)
    monkeypatch.setattr(decode, "CONDITION_LISTS_MAX", 2)
    monkeypatch.setattr(decode, "_CACHE_MAX", 3)
    feed = Feed()
    for _ in range(2):
        symbols = feed.events(*[changed(sym=name, c=None) for name in ("A", "B", "C", "D", "E", "A")])
        assert [row[0] for row in feed.rows(symbols)] == ["A", "B", "A"]
        assert symbols.refused == Counter({Refused.UNKNOWN_SYMBOL: 3})
        codes = feed.events(*[changed(sym="A", c=[code]) for code in (1, 2, 3, 1)])
        assert [row[6] for row in feed.rows(codes)] == [(1,), (1,)]
        assert codes.refused == Counter({Refused.BAD_VALUE: 2})


BAR = {"ev": "AM", "sym": "AAPL", "v": 1000, "dv": "1000.5", "av": 9, "vw": 10.4, "o": 10, "c": 10.6, "h": 11, "l": 9}
BAR |= {"s": T_MS, "e": T_MS + 60_000, "z": 12.0}


def test_a_bar_comes_apart_into_trades() -> None:
    feed = Feed()
    last = T_MS + 59_999
    assert feed.rows(feed.events(BAR)) == [
        ("AAPL", T_MS, 10.0, 0, 0, 0, (-1,), f"AM:{T_MS}:o"),
        ("AAPL", T_MS, 11.0, 0, 0, 0, (-2,), f"AM:{T_MS}:h"),
        ("AAPL", T_MS, 9.0, 0, 0, 0, (-2,), f"AM:{T_MS}:l"),
        ("AAPL", last, 10.6, 0, 0, 0, (-1,), f"AM:{T_MS}:c"),
        ("AAPL", last, 10.4, 100_050_000_000, 0, 0, (-3,), f"AM:{T_MS}:v"),
    ]


def test_a_crypto_bar_has_a_number_as_volume() -> None:
    feed = Feed()
    bar = {"ev": "XA", "pair": "BTC-USD", "o": 1, "h": 1, "l": 1, "c": 1, "v": 0.5, "s": T_MS, "e": T_MS + 60_000}
    rows = feed.rows(feed.events(bar, market=Market.CRYPTO))
    assert (rows[-1][0], rows[-1][2], rows[-1][3]) == ("BTC", 1.0, 50_000_000)


@pytest.mark.parametrize(
    "fields", [{"e": T_MS}, {"h": 0}, {"dv": "x"}, {"s": None}, {"sym": 1}, {"sym": "a"}, {"sym": "TSLA"}]
)
def test_a_bad_bar_is_refused_whole_and_once(fields: dict[str, Any]) -> None:
    feed = Feed({"AAPL"})
    decoded = feed.events(TRADE, BAR | fields)
    assert feed.rows(decoded) == [AAPL]
    assert sum(decoded.refused.values()) == 1


def test_frames_of_both_markets_keep_their_order() -> None:
    feed = Feed()
    stock, coin = json.dumps([TRADE]).encode(), json.dumps([COIN, COIN]).encode()
    decoded = feed.decoder.decode([(Market.STOCKS, stock, 1), (Market.CRYPTO, coin, 2), (Market.STOCKS, stock, 3)])
    assert [row[0] for row in feed.rows(decoded)] == ["AAPL", "BTC", "BTC", "AAPL"]
    assert decoded.batch.market.tolist() == [0, 1, 1, 0]
    assert decoded.batch.received_ns.tolist() == [1, 2, 2, 3]


# --- properties ------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_names = st.sampled_from(["ev", "sym", "pair", "p", "s", "ds", "t", "c", "x", "i", "trfi", "o", "e", "v", "dv"])
_kinds = st.sampled_from([TRADE, COIN, BAR, BAR | {"ev": "XA", "pair": "ETH-USD"}, {"ev": "status"}, {}])
_mutated = st.builds(lambda base, changes: base | changes, _kinds, st.dictionaries(_names, _json, max_size=2))


@given(st.lists(_mutated, max_size=6), st.sampled_from(Market))
def test_every_event_is_a_record_or_a_counted_refusal(events: list[dict[str, Any]], market: Market) -> None:
    feed = Feed()
    decoded = feed.events(*events, market=market)
    alone = [feed.events(event, market=market) for event in events]
    assert feed.rows(decoded) == [row for one in alone for row in feed.rows(one)]
    assert decoded.refused == sum((one.refused for one in alone), Counter())
    for event, one in zip(events, alone, strict=True):
        bar = event.get("ev") in ("A", "AM", "XA", "XAS", "CA", "CAS")
        accounted = len(one.batch) / (5 if bar else 1) + sum(one.refused.values())
        assert accounted == (event.get("ev") != "status")
    _assert_storable(feed, decoded)


@given(st.binary(max_size=200), st.sampled_from(Market))
def test_no_bytes_raise(data: bytes, market: Market) -> None:
    decoded = Feed().bytes(data, market)
    assert len(decoded.batch) or decoded.refused or data.strip() in (b"[]",)


@settings(max_examples=examples(60))
@given(st.data(), st.lists(st.sampled_from([TRADE, COIN, BAR]), min_size=1, max_size=4))
def test_no_damaged_frame_raises_or_brings_what_the_store_refuses(data: st.DataObject, events: list[Any]) -> None:
    frame = bytearray(json.dumps(events).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    feed = Feed()
    _assert_storable(feed, feed.bytes(bytes(frame)))


def _assert_storable(feed: Feed, decoded: Decoded) -> None:
    for symbol, time_ms, price, size_e8, exchange, trf, codes, trade_id in feed.rows(decoded):
        assert 1 <= len(symbol) <= 32
        assert symbol.isascii()
        assert symbol.isprintable()
        assert 10**11 <= time_ms < 10**13
        assert math.isfinite(price)
        assert price > 0
        assert 0 <= size_e8 <= SIZE_E8_MAX
        assert 0 <= exchange < 2**15
        assert 0 <= trf < 2**15
        assert all(-3 <= code < 2**15 for code in codes)
        assert len(trade_id) <= 64
        assert "\0" not in trade_id
        trade_id.encode()
