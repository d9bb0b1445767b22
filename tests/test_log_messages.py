"""Records as Kafka's messages and back: exact, whatever they hold; and what is no record is told why, alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapewatch.feed.decode import Decoder
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.messages import SOURCES, Decoded, MessageDecoder, encode_messages, origin_of
from tapewatch.log.outgoing import volume_json
from tapewatch.records import COLUMNS, SIZE_E8_MAX, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange, Who
from tapewatch.rules.model import CrossRule, Rules
from tapewatch.settings import CONDITION_LISTS_MAX, MESSAGE_BYTES_MAX, SYMBOLS_MAX
from tapewatch.values import OWN_CODES, parse_size_e8
from trials import examples

T = 1_763_658_000_123
SYMBOLS = ("AAPL", "BRK.B", "BTC", "ETH-EUR", "BCpA", "A", "O:SPY251219C00650000", "ESZ5", "C:EURUSD", "I:SPX")


def decode(values: Sequence[bytes | None], tables: Tables | None = None, appended_ms: int = T) -> Decoded:
    return MessageDecoder(tables or Tables(), market_of).decode(values, [appended_ms + i for i in range(len(values))])


def spelled(batch: Batch, tables: Tables) -> list[tuple[Any, ...]]:
    """The records with their names, to compare across tables."""
    columns = {name: getattr(batch, name).tolist() for name in COLUMNS}
    columns["symbol"] = [tables.symbols.values[i] if i >= 0 else None for i in columns["symbol"]]
    columns["conditions"] = [tables.conditions.values[i] for i in columns["conditions"]]
    return list(zip(*columns.values(), batch.ids, strict=True))


def message(**changed: Any) -> bytes:
    """A good trade, but for what is ``changed``; None leaves a field out."""
    fields = {"symbol": "AAPL", "price": 190.12, "volume": 100, "timestamp": T} | changed
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


# --- there and back ---------------------------------------------------------------------------------------------

_times = st.integers(10**11, 10**13 - 1)
_received = st.integers(10**17, 10**19 // 2)
_sizes = st.integers(0, SIZE_E8_MAX) | st.integers(0, 10**6).map(lambda n: n * 10**8) | st.integers(0, 10**9)
_small = st.integers(0, 2**15 - 1)
_printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=64).filter(lambda s: not s or s.isprintable())
_own_codes = st.lists(st.sampled_from(OWN_CODES), max_size=16).map(tuple)
_codes = st.lists(_small, max_size=16).map(tuple) | _own_codes


_KINDS = (Kind.TRADE, Kind.TRADE, Kind.TRADE, Kind.TICK, Kind.GAP, Kind.RULES)
_rules = st.builds(
    lambda band, text, who: RuleChange(Rules(golden_cross=CrossRule(band_bps=band, text=text)), who),
    st.floats(0, 1_000),
    _printable,
    st.sampled_from(get_args(Who)),
)


@st.composite
def batches(draw: st.DrawFn, tables: Tables) -> Batch:
    rows: list[tuple[Any, ...]] = []
    for kind in draw(st.lists(st.sampled_from(_KINDS), max_size=60)):
        time_ms, received_ns = draw(_times), draw(_received)
        market = draw(st.sampled_from(Market))
        if kind == Kind.TRADE:
            name = draw(st.sampled_from(SYMBOLS))
            codes = tables.conditions.index(draw(_codes if market_of(name) is Market.STOCKS else _own_codes))
            price = draw(st.floats(min_value=5e-324, max_value=1e15))
            values = (price, draw(_sizes), draw(_small), draw(_small), codes, draw(_printable))
            rows.append((kind, market_of(name), tables.symbols.index(name), time_ms, received_ns, *values))
        elif kind == Kind.TICK:
            rows.append((kind, market, -1, time_ms, received_ns, 0.0, 0, 0, 0, 0, ""))
        elif kind == Kind.RULES:
            rows.append(draw(_rules)._replace(time_ms=time_ms).row(kind, received_ns))
        else:
            from_ms = draw(st.integers(10**11, time_ms))
            cause = draw(_printable)
            symbols = draw(st.lists(st.sampled_from(SYMBOLS)))
            gap = Gap(market=market, from_ms=from_ms, to_ms=time_ms, cause=cause, symbols=symbols)
            rows.append((kind, market, -1, time_ms, received_ns, 0.0, 0, 0, 0, 0, gap.encode()))
    return Batch.of(rows)


@settings(max_examples=examples(25))
@given(st.data(), st.sampled_from(Origin))
def test_every_record_comes_back_exactly(data: st.DataObject, origin: Origin) -> None:
    tables, others = Tables(), Tables()
    batch = data.draw(batches(tables))
    sent = list(encode_messages(batch, tables, origin, wire_symbol))
    assert [key is None for key, _ in sent] == [kind != Kind.TRADE for kind in batch.kind.tolist()]
    found = decode([value for _, value in sent], others)
    assert found.rejected == []
    assert found.rows.tolist() == list(range(len(batch)))
    assert spelled(found.batch, others) == spelled(batch, tables)
    if (batch.kind == Kind.TRADE).any():
        assert origin_of(found.source) is origin


@given(_sizes)
def test_a_volume_is_exact_as_a_number_or_as_text(size_e8: int) -> None:
    assert parse_size_e8(json.loads(volume_json(size_e8))) == size_e8


def test_a_message_looks_as_documented() -> None:
    tables = Tables()
    codes = tables.conditions.index((12, 37))
    ns = T * 10**6 + 7
    stock = (Kind.TRADE, 0, tables.symbols.index("AAPL"), T, ns, 190.12, 50_000_000, 4, 202, codes, "71")
    coin = (Kind.TRADE, 1, tables.symbols.index("BTC"), T, ns, 91_000.5, 12_345, 1, 0, 0, "x")
    tick = (Kind.TICK, 0, -1, T, ns, 0.0, 0, 0, 0, 0, "")
    rules = RuleChange(Rules(), "api", T).row(Kind.RULES, ns)
    batch = Batch.of([stock, coin, tick, rules])
    first, second, third, fourth = encode_messages(batch, tables, Origin.SIMULATED, wire_symbol)
    assert first[0] == "AAPL"
    assert json.loads(first[1]) == {
        "symbol": "AAPL", "price": 190.12, "volume": 0.5, "timestamp": T, "exchange": 4, "trf": 202, "trade_id": "71",
        "conditions": [12, 37], "received_at": ns, "source": "simulator",
    }  # fmt: skip
    assert json.loads(second[1])["raw"] == wire_symbol("BTC") != "BTC"
    assert third[0] is None
    assert json.loads(third[1]) == {
        "kind": "tick", "market": "stocks", "timestamp": T, "received_at": ns, "source": "simulator",
    }  # fmt: skip
    assert fourth[0] is None
    assert json.loads(fourth[1]) == {
        "kind": "rules", "timestamp": T, "received_at": ns, "source": "simulator", "who": "api",
        "rules": json.loads(Rules().encode()),
    }  # fmt: skip


def test_every_origin_has_a_source_and_an_unknown_one_is_somebodys_own_feed() -> None:
    assert [origin_of(SOURCES[origin]) for origin in Origin] == list(Origin)
    assert origin_of("") is origin_of("acme") is Origin.LIVE


@pytest.mark.parametrize(
    ("market", "bar"),
    [
        (Market.STOCKS, {"ev": "AM", "sym": "AAPL", "v": 10, "dv": "10.25", "vw": 1.2}),
        (Market.CRYPTO, {"ev": "XA", "pair": "BTC-USD", "v": 0.5}),
        (Market.OPTIONS, {"ev": "AM", "sym": "O:SPY251219C00650000", "v": 7}),
        (Market.FUTURES, {"ev": "A", "sym": "ESZ5", "v": 7, "dv": 1.5}),
        (Market.FOREX, {"ev": "CA", "pair": "EUR/USD", "v": 512}),
        (Market.INDICES, {"ev": "AM", "sym": "I:SPX"}),
    ],
)
def test_a_bar_of_the_exchange_comes_back_in_parts(market: Market, bar: dict[str, Any]) -> None:
    tables, others = Tables(), Tables()
    event = bar | {"o": 10, "h": 11, "l": 9, "c": 10.5, "s": T, "e": T + 60_000}
    batch = Decoder(tables).decode([(market, json.dumps([event]).encode(), T * 10**6)]).batch
    assert len(batch) == 5
    found = decode([value for _, value in encode_messages(batch, tables, Origin.LIVE, wire_symbol)], others)
    assert found.rejected == []
    assert spelled(found.batch, others) == spelled(batch, tables)


# --- what people and other programs write ------------------------------------------------------------------------


def test_the_four_fields_are_enough() -> None:
    tables = Tables()
    typed = b'{"symbol": "AAPL", "price": 190.12, "volume": 100, "timestamp": 1763658000123}'
    found = decode([typed], tables, appended_ms=T + 5)
    assert spelled(found.batch, tables) == [
        (Kind.TRADE, Market.STOCKS, "AAPL", T, (T + 5) * 10**6, 190.12, 100 * 10**8, 0, 0, (), "")
    ]
    assert found.source == ""


@pytest.mark.parametrize(
    ("symbol", "market"),
    [
        ("O:SPY251219C00650000", Market.OPTIONS), ("ESZ5", Market.FUTURES), ("C:EURUSD", Market.FOREX),
        ("I:SPX", Market.INDICES), ("BTC", Market.CRYPTO),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 40])
def test_codes_of_a_market_without_rules_are_dropped(symbol: str, market: Market, count: int) -> None:
    tables = Tables()
    typed = message(symbol=symbol, volume="0.00000001", conditions=[2, 227])
    found = decode([typed] * count, tables, appended_ms=T)
    assert found.rejected == []
    row = (Kind.TRADE, market, symbol, T, T * 10**6, 190.12, 1, 0, 0, (), "")
    assert spelled(found.batch, tables)[0] == row
    assert decode([message(conditions=[2, 227])] * count, Tables(), appended_ms=T).batch.conditions.all()


@pytest.mark.parametrize(
    "changed",
    [
        {"volume": "100"}, {"volume": 100.0}, {"volume": "1e2"}, {"timestamp": float(T)}, {"timestamp": T * 1_000},
        {"timestamp": T * 10**6}, {"conditions": []}, {"trade_id": ""}, {"kind": "trade"}, {"more": {"x": [1, "}"]}},
        {"exchange": 0.0},
    ],
)  # fmt: skip
def test_other_ways_to_say_the_same_are_read(changed: dict[str, Any]) -> None:
    tables = Tables()
    found = decode([message(), message(**changed)], tables)
    assert found.rejected == []
    one, other = spelled(found.batch, tables)
    assert one[:4] + one[5:] == other[:4] + other[5:]  # but for when Kafka got them


def test_fields_may_come_in_any_order_with_any_space_between() -> None:
    text = b' {"timestamp": 1763658000123,\n "volume":100, "price"\t:190.12, "symbol":"AAPL"} '
    assert len(decode([text, message()]).batch) == 2


# --- what is no record ---------------------------------------------------------------------------------------------


@dataclass
class Bad:
    value: bytes | None
    reason: str


def _gap(**changed: Any) -> bytes:
    fields = {"kind": "gap", "market": "stocks", "from": T, "to": T + 1, "cause": "drop", "symbols": ["A"]} | changed
    return json.dumps(fields).encode()


def _rules_message(**changed: Any) -> bytes:
    return json.dumps({"kind": "rules", "timestamp": T, "who": "file", "rules": {}} | changed).encode()


BAD = [
    Bad(None, "it has no value"),
    Bad(b"", "it is no JSON: "),
    Bad(b"\x00", "it is no JSON: "),
    Bad(b"\xff\xfe", "it is no JSON: "),
    Bad(b"AAPL 190", "it is no JSON: "),
    Bad(message() + message(), "it is no JSON: "),
    Bad(message() + b"\n" + message(), "it is no JSON: "),
    Bad(message()[:-1], "it is no JSON: "),
    Bad(b"[" * 100_000, "it is no JSON: "),
    Bad(b'{"a":' * 50_000, "it has 250000 bytes" if MESSAGE_BYTES_MAX < 250_000 else "it is no JSON: "),
    Bad(message(x="y" * MESSAGE_BYTES_MAX), f"bytes; at most {MESSAGE_BYTES_MAX} are read"),
    Bad(b"[1]", "it is no JSON object"),
    Bad(b"null", "it is no JSON object"),
    Bad(b'"AAPL"', "it is no JSON object"),
    Bad(b"{}", "symbol=None: expected a name"),
    Bad(message(symbol="$$"), "symbol='$$': expected a name"),
    Bad(message(symbol="'; DROP TABLE x"), "symbol="),
    Bad(message(symbol="A\x00B"), r"symbol='A\x00B': expected a name"),
    Bad(message(symbol="A" * 33), "symbol="),
    Bad(message(symbol=5), "symbol=5: expected a name"),
    Bad(message(symbol=["AAPL"]), "symbol=['AAPL']"),
    Bad(b'{"symbol":"\\ud800","price":1,"volume":1,"timestamp":1763658000123}', ""),
    Bad(message(price=0), "price=0: expected a number above 0"),
    Bad(message(price=-1.5), "price=-1.5"),
    Bad(message(price="190.12"), "price='190.12'"),
    Bad(message(price=True), "price=True"),
    Bad(message(price=1e16), "price=1e+16"),
    Bad(message().replace(b"190.12", b"1e400000"), ""),
    Bad(message().replace(b"190.12", b"NaN"), "it is no JSON"),
    Bad(message().replace(b"190.12", b"-0"), "price=0"),
    Bad(message().replace(b"190.12", b"9" * 5_000), ""),
    Bad(message(volume=-1), "volume=-1: expected a number of 0 or more"),
    Bad(message(volume="-1"), "volume='-1'"),
    Bad(message(volume="ten"), "volume='ten'"),
    Bad(message(volume=1e300), "volume=1e+300"),
    Bad(message(volume=2**70), f"volume={2**70}"),
    Bad(message(volume={}), "volume={}"),
    Bad(message(timestamp="now"), "timestamp='now': expected Unix milliseconds"),
    Bad(message(timestamp=0), "timestamp=0"),
    Bad(message(timestamp=-T), "timestamp="),
    Bad(message(timestamp=T + 0.5), "timestamp="),
    Bad(message(timestamp=2**65), "timestamp="),
    Bad(message(timestamp=10**30), "timestamp="),
    Bad(message(exchange=-1), "exchange=-1: expected a whole number from 0 to 32767"),
    Bad(message(exchange=40_000), "exchange=40000"),
    Bad(message(trf="x"), "trf='x'"),
    Bad(message(trade_id="x" * 65), "trade_id="),
    Bad(message(trade_id="a\nb"), "trade_id="),
    Bad(message(trade_id={"a": 1}), "trade_id="),
    Bad(message(conditions=list(range(17))), "conditions="),
    Bad(message(conditions=["x"]), "conditions=['x']: expected at most 16 whole numbers"),
    Bad(message(received_at=5), "received_at=5: expected Unix nanoseconds"),
    Bad(message(received_at="now"), "received_at='now'"),
    Bad(message(received_at=2**63), "received_at="),
    Bad(message(kind="quote"), "kind='quote': expected trade, tick, gap or rules"),
    Bad(message(kind=["tick"]), "kind=['tick']"),
    Bad(
        b'{"kind":"tick","market":"bonds","timestamp":1763658000123}',
        "market='bonds': expected stocks or crypto or options or futures or forex or indices",
    ),
    Bad(b'{"kind":"tick","market":["stocks"],"timestamp":1763658000123}', "market="),
    Bad(b'{"kind":"tick","market":"stocks","timestamp":"x"}', "timestamp='x': expected Unix milliseconds"),
    Bad(_gap(to=T - 1), "expected Unix milliseconds, in order"),
    Bad(_gap(cause=5), "cause=5: expected a text"),
    Bad(_gap(cause="x" * 201), "cause="),
    Bad(_gap(symbols="A"), "symbols: expected at most"),
    Bad(_gap(symbols=["A", "$$"]), "symbols: '$$' is no name"),
    Bad(_gap(symbols=[None]), "symbols: None is no name"),
    Bad(_rules_message(timestamp="x"), "timestamp='x': expected Unix milliseconds"),
    Bad(_rules_message(who="nobody"), "this is no change of rules: "),
    Bad(_rules_message(rules=None), "these are no rules: "),
    Bad(
        _rules_message(rules={"golden_cross": {"kind": "volume"}}), "'golden_cross' is no rule's id, or its rule is of"
    ),
    Bad(_rules_message(rules={"x": {"kind": "cross", "right": "sma(0)"}}), "x: right: expected 1 to 240 panes in sma"),
    Bad(
        _rules_message(rules={"x": {"kind": "cross", "band_bps": -1}}), "x: band_bps: expected a number from 0 to 1,000"
    ),
    Bad(_rules_message(rules={"x": {"kind": "cross", "bands": 1}}), "these are no rules: "),
    Bad(b'{"kind":"rules","timestamp":1763658000123,"who":"file","rules":' + b"[" * 50_000, "it is no JSON"),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_what_is_no_record_is_told_why_and_costs_its_neighbours_nothing(bad: Bad) -> None:
    values = [message(volume=i) for i in range(70)]
    values[35:35] = [bad.value]  # type: ignore[list-item]
    found = decode(values)
    assert len(found.batch) == 70
    assert [rejected.row for rejected in found.rejected] == [35]
    reason = found.rejected[0].reason
    assert bad.reason in reason
    assert len(reason) < 300
    assert reason.isprintable()
    reason.encode()


def test_parts_of_messages_do_not_make_up_for_one_another() -> None:
    """Joined, these three would be three good trades."""
    whole = message()
    for first, second in (
        (b'{"symbol":"A","x":[{}', b'{}],"price":1,"volume":1,"timestamp":1763658000123}'),
        (b'{"symbol":"A"', b'"price":1,"volume":1,"timestamp":1763658000123}'),
        (b'{"symbol":"A","x":"}', b'{","price":1,"volume":1,"timestamp":1763658000123}'),
        (b'{"symbol":"A","x":"}\n{', b'","price":1,"volume":1,"timestamp":1763658000123}'),
        (b'{"symbol":"A","x":{}\n{}', b'{"price":1,"volume":1,"timestamp":1763658000123}'),
    ):
        for two in (whole + b"," + whole, whole + b"\n" + whole, whole + whole):
            found = decode([first, second, two])
            assert len(found.batch) == 0, (first, second, two)
            assert [rejected.row for rejected in found.rejected] == [0, 1, 2]


def test_there_is_a_limit_to_new_symbols_and_condition_lists() -> None:
    tables = Tables()
    for i in range(SYMBOLS_MAX - len(tables.symbols)):
        tables.symbols.index(f"S{i}")
    for i in range(CONDITION_LISTS_MAX - len(tables.conditions)):
        tables.conditions.index((i, i))
    found = decode([message(symbol="NEW"), message(symbol="S7", conditions=[1, 2, 3]), message(symbol="S7")], tables)
    assert [rejected.row for rejected in found.rejected] == [0, 1]
    assert len(found.batch) == 1


# --- however they are cut -------------------------------------------------------------------------------------------

_wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
_names = ("symbol", "price", "volume", "timestamp", "exchange", "trf", "trade_id", "conditions", "received_at", "kind")
_some = st.sampled_from([None, 0, 1, -1, 1.0, 0.1, 1e300, "", "1", "AAPL", "tick", [], [1], [1.0], True, T, 10**18])


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """A good message, nearly one, or anything."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.none() | st.binary(max_size=20))
    fields: dict[str, Any] = {"symbol": draw(st.sampled_from(SYMBOLS)), "price": 1.5, "volume": 2, "timestamp": T}
    if kind == 1:
        fields = {"kind": "tick", "market": "crypto", "timestamp": T}
    for name in draw(st.lists(st.sampled_from((*_names, "source")), max_size=kind // 3)):
        fields[name] = draw(_some | _wild)
    return json.dumps(fields).encode()


@settings(max_examples=examples(25))
@given(st.lists(values(), max_size=80), st.integers(1, 80))
def test_the_quick_way_and_the_careful_way_agree(given_values: list[bytes | None], size: int) -> None:
    """All at once, in parts, and one by one: the same records, the same rejected, the same reasons."""
    found = []
    for step in (len(given_values) or 1, size, 1):
        tables = Tables()
        decoder = MessageDecoder(tables, market_of)
        rows: list[Any] = []
        rejected: list[tuple[int, str]] = []
        source = ""
        for start in range(0, len(given_values), step):
            part = given_values[start : start + step]
            out = decoder.decode(part, [T + start + i for i in range(len(part))])
            rows += zip((out.rows + start).tolist(), spelled(out.batch, tables), strict=True)
            rejected += [(each.row + start, each.reason) for each in out.rejected]
            source = out.source or source
        found.append((rows, rejected, source))
    careful = MessageDecoder(Tables(), market_of)
    alone = [careful._careful(value, T + i) for i, value in enumerate(given_values)]
    assert found[0] == found[1] == found[2]
    assert [i for i, each in enumerate(alone) if not isinstance(each, str)] == [row for row, _ in found[0][0]]
    assert [(i, each) for i, each in enumerate(alone) if isinstance(each, str)] == found[0][1]
    kept = [each[0] for each in alone if not isinstance(each, str)]
    assert spelled(Batch.of(kept), careful._tables) == [row for _, row in found[0][0]]


@pytest.mark.slow
def test_more_different_values_than_are_remembered_are_read_all_the_same() -> None:
    tables = Tables()
    values: list[bytes | None] = [message(volume=n + 0.5) for n in range(70_000)]
    found = decode(values, tables)
    assert found.rejected == []
    assert found.batch.size_e8.tolist() == [n * 10**8 + 5 * 10**7 for n in range(70_000)]
