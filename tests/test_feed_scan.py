"""The quick way through a frame takes what it should, and takes nothing otherwise than the careful way would."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapewatch.feed import decode
from tapewatch.feed.decode import Decoded, Decoder
from tapewatch.feed.names import NameTable, codes_key, symbol_key
from tapewatch.feed.scan import scan
from tapewatch.records import COLUMNS, Market, Tables
from trials import examples

T_MS = 1_788_877_046_310
TRADE = {"ev": "T", "sym": "AAPL", "x": 4, "i": "52983525034825", "z": 3, "p": 210.57, "s": 100, "ds": "100.0"}
TRADE |= {"c": [14, 41], "t": T_MS, "pt": T_MS - 3, "q": 3681328, "trfi": 202, "trft": T_MS - 1}
COIN = {"ev": "XT", "pair": "BTC-USD", "p": 65_000.25, "t": T_MS, "s": 0.00012345, "c": [2], "i": "988", "x": 1}
OPTION = {"ev": "T", "sym": "O:SPY251219C00650000", "x": 65, "p": 12.05, "s": 20, "c": [227], "t": T_MS, "q": 128_456}
FUTURE = {"ev": "T", "sym": "ESZ5", "p": 6_850.25, "s": 3, "t": T_MS, "q": 3681328, "z": 3}
EVENTS = {
    Market.STOCKS: TRADE,
    Market.CRYPTO: COIN,
    Market.OPTIONS: OPTION,
    Market.FUTURES: FUTURE,
    Market.FOREX: {"ev": "C", "p": "EUR/USD", "x": 48, "a": 1.15915, "b": 1.1591, "t": T_MS},
    Market.INDICES: {"ev": "V", "T": "I:SPX", "val": 6_850.12, "t": T_MS},
}
"""One of each market."""
KNOWN_SYMBOLS = ["AAPL", "BRK.B", "A", "ABCDEFGH", "ABCDEFGHI", "ABCDEFGHIJKLMNOP", "ABCDEFGHIJKLMNOPQRSTUVW"]
KNOWN = [(Market.STOCKS, name) for name in KNOWN_SYMBOLS]
KNOWN += [(Market.CRYPTO, "BTC-USD"), (Market.OPTIONS, OPTION["sym"]), (Market.FUTURES, "ESZ5")]
KNOWN_CODES = [(14, 41), (37,), (12, 37), (0,), (1, 2, 3, 4), (32766,)]


def take(frames: list[tuple[Market, bytes]]) -> list[int]:
    """The rows that `scan` finds in each frame, with the known symbols and condition lists."""
    symbols, codes = NameTable(), NameTable()
    for number, (market, symbol) in enumerate(KNOWN):
        key = symbol_key(market, symbol)
        assert key is not None
        symbols.add(key, number)
    for number, one in enumerate(KNOWN_CODES, 1):
        key = codes_key(one)
        assert key is not None
        codes.add(key, number)
    data = np.frombuffer(b"".join(data + b"\0" for _, data in frames), np.uint8)
    stops = np.cumsum([len(data) + 1 for _, data in frames]) - 1
    return scan(data, stops, np.array([market for market, _ in frames], np.uint8), symbols, codes).rows.tolist()


def text(*events: Any, spaces: bool = False) -> str:
    return json.dumps(events, separators=None if spaces else (",", ":"))


TAKEN: list[str] = [
    "[]",
    " [ ] \r\n",
    text(TRADE),
    text(TRADE, TRADE, spaces=True),
    text(dict(reversed(TRADE.items()))),
    text({"ev": "T", "sym": "A", "p": 1, "s": 1, "t": T_MS}),
    text({"ev": "T", "sym": "ABCDEFGHIJKLMNOP", "p": 1, "ds": "0", "t": T_MS, "c": [1, 2, 3, 4], "i": "x" * 64}),
    text({"ev": "T", "sym": "ABCDEFGHIJKLMNOPQRSTUVW", "p": 1, "ds": "0", "t": T_MS}),
    text(TRADE | {"new": [1, -2.5, "a", True, None], "other": None, "third": -1.5e-7, "a_long_name_of_a_field": False}),
    text(TRADE | {"c": []}),
    text(TRADE).replace('"p":210.57', '"p" : 2.1057e+2 '),
    text(TRADE).replace('"x":4', '"x":4e0'),
    text(TRADE | {"ds": "8999999999.99999999"}),
    text(TRADE).replace('"sym":"AAPL"', '"sym":"A","sym":"AAPL"'),
]
LEFT: list[str] = [
    "",
    "[",
    "{}",
    "[{}]",
    "[,]",
    text(TRADE) + "]",
    text(TRADE)[:-1],
    text(TRADE)[:-1] + ",]",
    text(TRADE).replace(":4,", ":04,"),
    text(TRADE).replace(":4,", ":+4,"),
    text(TRADE).replace(":4,", ":4.,"),
    text(TRADE).replace(":4,", ":.4,"),
    text(TRADE).replace(":4,", ":4e,"),
    text(TRADE).replace(":4,", ":4.5,"),
    text(TRADE).replace(":3,", ":tru,"),
    text(TRADE | {"x": None}),
    text(TRADE | {"x": -1}),
    text(TRADE | {"x": 32768}),
    text(TRADE | {"sym": "TSLA"}),
    text(TRADE | {"sym": ""}),
    text(TRADE | {"sym": "A" * 24}),
    text(TRADE | {"sym": "ABCDEFGHIJKLMNOPQRSTUVX"}),
    text(TRADE | {"sym": "ESZ5"}),
    text(TRADE | {"c": [99]}),
    text(TRADE | {"c": [1, 2, 3, 4, 5]}),
    text(TRADE | {"c": 37}),
    text(TRADE | {"i": 7}),
    text(TRADE | {"i": "x" * 65}),
    text(TRADE | {"i": 'a"b'}),
    text(TRADE | {"i": "é"}),
    text(TRADE).replace("529835", "\x7f"),
    text(TRADE).replace("529835", "\x1f"),
    text(TRADE).replace('"z"', '"\x7f"'),
    text(TRADE).replace('"z"', '"\x1f"'),
    text(TRADE).replace('"z"', '"\\\\"'),
    text(TRADE | {"p": 0}),
    text(TRADE | {"p": 9007199254740993}),
    text(TRADE | {"p": 1e-23}),
    text(TRADE | {"p": 1e16}),
    text(TRADE | {"ds": "0.000000001"}),
    text(TRADE | {"ds": "90000000000.00000001"}),
    text(TRADE | {"ds": "1x"}),
    text(TRADE | {"ds": 1}),
    text(TRADE | {"s": 12345678.123456789}),
    text(TRADE | {"t": T_MS * 1000}),
    text(TRADE | {"t": T_MS // 1000}),
    text(TRADE | {"new": {}}),
    text(TRADE | {"new": [[]]}),
    text(TRADE | {"new": 1234567890123456789}),
    text(TRADE, {"ev": "status"}),
    text(COIN),
    text({"ev": "XT", "sym": "AAPL", "p": 1, "s": 1, "t": T_MS}),
    *[text({name: value for name, value in TRADE.items() if name != left}) for left in ("ev", "sym", "p", "t")],
    text({name: value for name, value in TRADE.items() if name not in ("s", "ds")}),
]


@pytest.mark.parametrize("frame", TAKEN)
def test_it_takes(frame: str) -> None:
    good = text(TRADE).encode()
    taken = take([(Market.STOCKS, good), (Market.STOCKS, frame.encode()), (Market.STOCKS, good)])
    assert taken == [1, len(json.loads(frame)), 1]


@pytest.mark.parametrize("frame", LEFT)
def test_it_leaves(frame: str) -> None:
    good = text(TRADE, TRADE).encode()
    assert take([(Market.STOCKS, good), (Market.STOCKS, frame.encode()), (Market.STOCKS, good)]) == [2, -1, 2]


def test_it_takes_crypto() -> None:
    odd = COIN | {"c": 1, "sym": "X"}
    frames = [text(COIN), text(odd), text(COIN | {"s": 1e-05}), text(COIN | {"c": [[]]}), text(TRADE)]
    assert take([(Market.CRYPTO, frame.encode()) for frame in frames]) == [1, 1, 1, -1, -1]


def test_it_takes_options_and_futures() -> None:
    one = OPTION | {"c": 1}
    frames = [text(OPTION), text(one, one), text(OPTION | {"q": None}), text(OPTION | {"q": 1.5}), text(FUTURE)]
    assert take([(Market.OPTIONS, frame.encode()) for frame in frames]) == [1, 2, -1, -1, -1]
    frames = [text(FUTURE), text(FUTURE | {"q": "1"}), text(FUTURE | {"i": "7"}), text(OPTION)]
    assert take([(Market.FUTURES, frame.encode()) for frame in frames]) == [1, -1, 1, -1]


def test_it_leaves_quotes_and_values() -> None:
    assert take([(m, text(EVENTS[m]).encode()) for m in (Market.FOREX, Market.INDICES)]) == [-1, -1]
    assert take([(m, b"[]") for m in Market]) == [0, 0, 0, 0, -1, -1]


def test_a_table_of_names_grows_and_finds_each() -> None:
    names = [f"N{n}" for n in range(5_000)]
    symbols = NameTable()
    for number, name in enumerate(names):
        key = symbol_key(Market.STOCKS, name)
        assert key is not None
        symbols.add(key, number)
    assert len(symbols.rows) >= 2 * len(names)
    frame = text(*[{"ev": "T", "sym": name, "p": 1, "s": 1, "t": T_MS} for name in names]).encode()
    data = np.frombuffer(frame + b"\0", np.uint8)
    found = scan(data, np.array([len(frame)]), np.zeros(1, np.uint8), symbols, NameTable())
    assert found.symbol.tolist() == list(range(5_000))


def test_no_two_names_or_markets_have_one_key() -> None:
    names = [name[:n] for name in ("ABCDEFGHIJKLMNOPQRSTUVW", "O:SPY251219C00650000") for n in range(1, len(name) + 1)]
    keys = {(market, name): symbol_key(market, name) for market in Market for name in names}
    assert None not in keys.values()
    assert len(set(keys.values())) == len(keys)


def test_what_has_no_key() -> None:
    assert [symbol_key(Market.STOCKS, wire) for wire in ("", "A" * 24, "É")] == [None] * 3
    assert [codes_key(one) for one in ((), (1,) * 5, (-1,), (32767,))] == [None] * 4


# --- as the careful way ----------------------------------------------------------------------------------------


def content(decoded: Decoded, tables: Tables) -> Any:
    batch = decoded.batch
    columns = {name: getattr(batch, name).tolist() for name in COLUMNS}
    columns["symbol"] = [tables.symbols.values[n] for n in columns["symbol"]]
    columns["conditions"] = [tables.conditions.values[n] for n in columns["conditions"]]
    return columns, batch.ids, decoded.refused


def both_ways(data: bytes, market: Market) -> tuple[Any, Any]:
    """What a decoder that knows the names makes of a frame, and what `events.py` does."""
    tables = Tables()
    decoder = Decoder(tables)
    known = [
        TRADE | {"sym": symbol, "c": list(codes)} for symbol, codes in zip(KNOWN_SYMBOLS, KNOWN_CODES * 2, strict=False)
    ]
    decoder.decode_events(Market.STOCKS, known, 0)
    for other in Market:
        if other is not Market.STOCKS:
            decoder.decode_events(other, [EVENTS[other]], 0)
    quick = content(decoder.decode([(market, data, 5)]), tables)
    careful = content(decoder.decode_events(market, decode._events(data), 5), tables)
    return quick, careful


_digits = st.from_regex(r"(0|[1-9][0-9]{0,19})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
_floats = st.floats(0, 1e16).map(repr)
_number = st.one_of(_digits, _floats, st.integers(0, 2**70).map(str))
_event = st.fixed_dictionaries(
    {},
    optional={
        "p": _number,
        "s": _number,
        "ds": _number.map(lambda digits: f'"{digits}"'),
        "x": _number | st.integers(32_760, 32_770).map(str),
        "t": st.integers(10**11 - 2, 10**11 + 2).map(str) | st.integers(10**13 - 2, 10**13 + 2).map(str),
        "sym": st.sampled_from([name for _, name in KNOWN]).map(json.dumps),
        "pair": st.sampled_from([name for _, name in KNOWN]).map(json.dumps),
        "q": _number | st.just('"7"'),
        "c": st.sampled_from(KNOWN_CODES).map(lambda codes: json.dumps(codes)),
        "i": st.text(max_size=66).map(json.dumps),
        "new": st.sampled_from(["[]", "[1,[2]]", "-0", "-1.5e3", "null", "nul", "NaN", "01", '"a\\n"', "1e999"]),
    },
)


def written(changes: dict[str, str], base: dict[str, Any]) -> str:
    fields = {name: json.dumps(value) for name, value in base.items()} | changes
    return "[{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}]"


@settings(max_examples=examples(60))
@given(_event, st.sampled_from(Market))
@example({"p": "9007199254740992"}, Market.STOCKS)
@example({"p": "9007199254740993e-20"}, Market.STOCKS)
@example({"s": "999999999999999e-8"}, Market.CRYPTO)
@example({"s": "12345678.12345678"}, Market.CRYPTO)
@example({"q": "12.0"}, Market.OPTIONS)
@example({"q": "120e-1"}, Market.FUTURES)
@example({"i": '""', "q": "0"}, Market.FUTURES)
@example({"t": "100000000000"}, Market.OPTIONS)
@example({"t": "9999999999999"}, Market.OPTIONS)
def test_any_value_is_taken_as_by_the_careful_way(changes: dict[str, str], market: Market) -> None:
    quick, careful = both_ways(written(changes, EVENTS[market]).encode(), market)
    assert quick == careful


@settings(max_examples=examples(60))
@given(st.data(), st.sampled_from(Market))
def test_any_damage_is_taken_as_by_the_careful_way(data: st.DataObject, market: Market) -> None:
    base = EVENTS[market]
    frame = bytearray(text(base, base, spaces=data.draw(st.booleans())).encode())
    edit: Callable[[int, int], None] = data.draw(
        st.sampled_from([frame.__setitem__, frame.insert, lambda at, _: frame.pop(at)])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        byte = data.draw(st.sampled_from(b'{}[]",:.-+eE0123 \\\t\x00\x1f\x7f\xc3atfn') | st.integers(0, 255))
        edit(data.draw(st.integers(0, len(frame) - 1)), byte)
    quick, careful = both_ways(bytes(frame), market)
    assert quick == careful
