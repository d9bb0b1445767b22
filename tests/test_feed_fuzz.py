"""Whatever an exchange sends, of whatever market: nothing raises, every refused input is a counted reason, and memory
stays within a small multiple of what was sent.

The generator knows how frames look and breaks them at every level: a field's value, an event, the frame's brackets, its
bytes. ``TAPEWATCH_FUZZ_EXAMPLES`` sets how many frames each test tries; the suite tries few.
"""

from __future__ import annotations

import json
import os
import tracemalloc
from collections import Counter
from functools import cache
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tapewatch.feed import decode as module
from tapewatch.feed.decode import Decoded, Decoder
from tapewatch.feed.symbols import market_of
from tapewatch.records import SIZE_E8_MAX, Kind, Market, Refused, Tables
from tapewatch.settings import FRAME_BYTES_MAX
from tapewatch.values import ID_LENGTH_MAX, PRICE_MAX, TIME_MS_MAX, TIME_MS_MIN

EXAMPLES: Final = int(os.environ.get("TAPEWATCH_FUZZ_EXAMPLES", "15"))
DEEP: Final = 100_000
NOW_NS: Final = 1_788_877_047_000_000_000
T_MS: Final = 1_788_877_046_310
BAR = {"o": 10, "h": 11.5, "l": 9, "c": 10.5, "v": 7, "s": T_MS, "e": T_MS + 60_000}
TRADE = {"p": 210.5, "s": 100, "ds": "100.0", "c": [14, 41], "t": T_MS, "q": 3681328, "x": 4, "i": "529", "trfi": 202}
SENT: Final[dict[Market, list[dict[str, Any]]]] = {
    Market.STOCKS: [{"ev": "T", "sym": "AAPL"} | TRADE, {"ev": "AM", "sym": "AAPL"} | BAR],
    Market.CRYPTO: [{"ev": "XT", "pair": "BTC-USD"} | TRADE, {"ev": "XA", "pair": "BTC-USD"} | BAR],
    Market.OPTIONS: [
        {"ev": "T", "sym": "O:SPY251219C00650000"} | TRADE,
        {"ev": "A", "sym": "O:SPY251219C00650000"} | BAR,
    ],
    Market.FUTURES: [{"ev": "T", "sym": "ESZ5"} | TRADE, {"ev": "AM", "sym": "ESZ5"} | BAR],
    Market.FOREX: [
        {"ev": "C", "p": "EUR/USD", "a": 1.15915, "b": 1.1591, "t": T_MS, "x": 48},
        {"ev": "CA", "pair": "EUR/USD"} | BAR,
    ],
    Market.INDICES: [{"ev": "V", "T": "I:SPX", "val": 6850.12, "t": T_MS}, {"ev": "AM", "sym": "I:SPX"} | BAR],
}
"""Good events, from which bad ones are made."""
STATUS: Final = {"ev": "status", "status": "success", "message": "subscribed to: T.AAPL"}

_odd = st.sampled_from(
    [
        None, True, False, 0, -0.0, -1, 1.5, 12.0, 1e300, -1e300, 5e-324, 10**400, 2**63, 2**64, T_MS, T_MS * 1000,
        T_MS * 10**6, T_MS // 1000, 10**10, "", "0", "-1", "1e999999999", "NaN", "9" * 5_000, "AAPL", "EUR/USD", "*",
        "A\0B", "\ud800", "é", [], [[]], [1] * 1_000, [None], {}, {"a": {"b": []}}, "T", "AM", "C", "V", "XL2",
    ]
)  # fmt: skip
_json = st.recursive(
    _odd | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def events(draw: st.DrawFn, market: Market) -> Any:
    """An event of the market: good, with some fields changed, taken away or added, another market's, or no event."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(_json)
    if kind == 1:
        return STATUS
    source = market if kind > 2 else draw(st.sampled_from(Market))
    event = dict(draw(st.sampled_from(SENT[source])))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*event, "ev", "sym", "pair", "new"]))
        if draw(st.booleans()):
            event.pop(name, None)
        else:
            event[name] = draw(_json)
    return event


def text_of(sent: list[Any]) -> bytes:
    return json.dumps(sent).encode("utf-8", "surrogatepass")


def expect_sound(decoded: Decoded, tables: Tables) -> None:
    """Every record is one that log, engine and database take, and belongs to the market it came from."""
    batch = decoded.batch
    assert all(isinstance(reason, Refused) and count > 0 for reason, count in decoded.refused.items())
    assert len(batch.ids) == len(batch)
    assert (batch.kind == Kind.TRADE).all()
    assert ((batch.time_ms >= TIME_MS_MIN) & (batch.time_ms <= TIME_MS_MAX)).all()
    assert ((batch.price > 0) & (batch.price <= PRICE_MAX)).all()
    assert ((batch.size_e8 >= 0) & (batch.size_e8 <= SIZE_E8_MAX)).all()
    assert ((batch.exchange >= 0) & (batch.trf >= 0)).all()
    assert (batch.conditions < len(tables.conditions)).all()
    for market, symbol, trade_id in zip(batch.market.tolist(), batch.symbol.tolist(), batch.ids, strict=True):
        assert market_of(tables.symbols.values[symbol]) == market
        assert len(trade_id) <= ID_LENGTH_MAX
        assert trade_id == "" or trade_id.isprintable()
    without = (batch.market == Market.FOREX) | (batch.market == Market.INDICES)
    assert (batch.size_e8[without] == 0).all()


def accounted(decoded: Decoded) -> int:
    """Events that became records or a reason: the five parts of a bar are one event."""
    parts = sum(1 for trade_id in decoded.batch.ids if trade_id.endswith((":o", ":h", ":l", ":c")))
    return len(decoded.batch) - parts + sum(decoded.refused.values())


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(Market))
def test_every_event_becomes_records_or_one_counted_reason(data: st.DataObject, market: Market) -> None:
    sent = data.draw(st.lists(events(market), max_size=6))
    tables = Tables()
    decoder = Decoder(tables)
    decoder.decode([(market, text_of(SENT[market]), NOW_NS)])  # names are known: the quick way may be taken
    decoded = decoder.decode([(market, text_of(sent), NOW_NS)])
    statuses = sum(isinstance(event, dict) and event.get("ev") == "status" for event in sent)
    assert accounted(decoded) == len(sent) - statuses
    expect_sound(decoded, tables)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.lists(st.sampled_from(Market), min_size=1, max_size=4))
def test_damaged_bytes_are_counted_and_cost_no_other_frame(data: st.DataObject, markets: list[Market]) -> None:
    tables = Tables()
    decoder = Decoder(tables)
    frames = []
    for market in markets:
        frame = bytearray(text_of(SENT[market] * data.draw(st.integers(1, 3))))
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(frame) - 1))
            change = data.draw(st.sampled_from(["set", "cut", "drop", "insert", "repeat"]))
            if change == "set":
                frame[at] = data.draw(st.integers(0, 255))
            elif change == "cut":
                del frame[max(at, 1) :]
            elif change == "drop":
                del frame[at : at + data.draw(st.integers(1, 40))]
                frame = frame or bytearray(b"[")
            elif change == "insert":
                frame[at:at] = data.draw(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b",", b"\\", b"\xff", b"\0"]))
            else:
                frame[at:at] = frame[at : at + data.draw(st.integers(1, 200))]
        frames.append((market, bytes(frame), NOW_NS))
    good = (Market.STOCKS, text_of(SENT[Market.STOCKS][:1]), NOW_NS + 1)
    decoded = decoder.decode([good, *frames, good])
    assert decoded.batch.received_ns.tolist()[:1] == [NOW_NS + 1] == decoded.batch.received_ns.tolist()[-1:]
    assert decoded.batch.received_ns.tolist().count(NOW_NS + 1) == 2
    expect_sound(decoded, tables)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=400) | st.text('[]{}",:0123456789.eE+-truefalsn\\ ', max_size=400).map(str.encode))
def test_any_bytes_are_counted(data: bytes) -> None:
    for market in (Market.STOCKS, Market.FOREX):
        tables = Tables()
        decoded = Decoder(tables).decode([(market, data, NOW_NS)])
        assert len(decoded.batch) or decoded.refused or json.loads(data) in ([], [STATUS])
        expect_sound(decoded, tables)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(Market))
def test_a_frame_read_whole_and_piece_by_piece_give_the_same(data: st.DataObject, market: Market) -> None:
    drawn = data.draw(st.lists(events(market), min_size=1, max_size=5))
    # What is neither an object nor an array is no event, and several side by side are one piece of junk.
    kept = [event for event in drawn if isinstance(event, dict | list)]
    assume(kept)
    sent, found = text_of(kept), []
    with pytest.MonkeyPatch.context() as patch:
        for limit in (module._LOOSE_BYTES_MAX, 0):  # whole, and as one that is too large for that
            patch.setattr(module, "_LOOSE_BYTES_MAX", limit)
            tables = Tables()
            decoded = Decoder(tables).decode([(market, sent, NOW_NS)])
            names = [tables.symbols.values[n] for n in decoded.batch.symbol.tolist()]
            found.append((names, decoded.batch.ids, decoded.batch.price.tolist(), decoded.refused))
    assert found[0] == found[1]


# --- depth and size ------------------------------------------------------------------------------------------------


@cache
def deep_frames() -> dict[str, bytes]:
    """Frames whose brackets are 100,000 deep."""
    trade = json.dumps(SENT[Market.STOCKS][0])
    good = [trade[:-1] + ',"new":', "}"]
    return {
        "arrays": b"[" * DEEP + b"]" * DEEP,
        "objects": b'[{"a":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}]",
        "never closed": b"[" * DEEP,
        "objects never closed": b'{"a":[' * DEEP,
        "only closed": b"]" * DEEP,
        "in an unread field": f"[{good[0]}{'[' * DEEP}{']' * DEEP}{good[1]}]".encode(),
        "in the price": ('[{"ev":"T","sym":"AAPL","p":' + "[" * DEEP + "]" * DEEP + "}]").encode(),
        "open quotes": b'["' * DEEP,
        "backslashes": b'["' + b"\\" * DEEP,
        "turns": b"[}" * DEEP,
    }


@pytest.mark.parametrize("name", deep_frames())
@pytest.mark.parametrize("market", [Market.STOCKS, pytest.param(Market.INDICES, marks=pytest.mark.slow)])
def test_depth_is_refused_and_costs_no_neighbour(name: str, market: Market) -> None:
    frame, good = deep_frames()[name], (market, text_of(SENT[market][:1]), NOW_NS)
    decoder = Decoder(Tables())
    decoded = decoder.decode([good, (market, frame, NOW_NS), good])
    assert len(decoded.batch) == 2
    assert sum(decoded.refused.values()) >= 1
    assert set(decoded.refused) <= {Refused.MALFORMED, Refused.BAD_VALUE, Refused.UNKNOWN_EVENT}


@pytest.mark.parametrize("limit", [2**18, pytest.param(FRAME_BYTES_MAX, marks=pytest.mark.slow)])
def test_a_frame_at_the_limit_is_read_and_one_beyond_it_is_one_refusal(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Sixteen megabytes of one event with a junk field are read; a byte more, or sixty-four megabytes, are not."""
    monkeypatch.setattr(module, "FRAME_BYTES_MAX", limit)
    monkeypatch.setattr(module, "_LOOSE_BYTES_MAX", module._LOOSE_BYTES_MAX * limit // FRAME_BYTES_MAX)
    market, one = Market.OPTIONS, json.dumps(SENT[Market.OPTIONS][0]).encode()
    good = (market, b"[" + one + b"]", NOW_NS)
    decoder = Decoder(Tables())
    filler = limit - len(one) - len(b'[,"new":""]')
    full = b"[" + one[:-1] + b',"new":"' + b"x" * filler + b'"}]'
    assert len(full) == limit
    decoded = decoder.decode([good, (market, full, NOW_NS), (market, full + b" ", NOW_NS), good])
    assert (len(decoded.batch), decoded.refused) == (3, Counter({Refused.TOO_LARGE: 1}))
    spaces = decoder.decode([(market, b" " * limit, NOW_NS), (market, b"x" * limit, NOW_NS)])
    assert (len(spaces.batch), spaces.refused) == (0, Counter({Refused.MALFORMED: 2}))
    for frame in (b"[" * (4 * limit), b" " * (4 * limit), (one + b",") * (4 * limit // len(one))):
        huge = decoder.decode([good, (market, frame, NOW_NS), good])
        assert (len(huge.batch), huge.refused) == (2, Counter({Refused.TOO_LARGE: 1}))


@pytest.mark.parametrize(
    ("kind", "count"),
    [("junk", 1_000), ("brackets", 1_000), ("bars", 1_000)]
    + [pytest.param(kind, 6_000, marks=pytest.mark.slow) for kind in ("junk", "brackets", "bars", "names", "codes")],
)
def test_memory_is_bounded_by_what_was_sent(kind: str, count: int) -> None:
    """Python's own memory while a frame of some megabytes is read, and what stays of it afterwards."""
    made: dict[str, list[str]] = {
        "junk": ['{"ev":"Z' + "x" * 80 + '"}'] * count,
        "brackets": ["[[[[]]]],{}," + '"x"'] * count,
        "bars": [json.dumps(SENT[Market.STOCKS][1])] * count,
        "names": [json.dumps(SENT[Market.STOCKS][0] | {"sym": f"A{n:X}"}) for n in range(count * 4)],
        "codes": [json.dumps(SENT[Market.STOCKS][0] | {"c": [n % 30_000, n // 7]}) for n in range(count * 4)],
    }
    frame = ("[" + ",".join(made[kind]) + "]").encode()
    del made
    decoder = Decoder(tables := Tables())
    decoder.decode([(Market.STOCKS, text_of(SENT[Market.STOCKS]), NOW_NS)])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decoded = decoder.decode([(Market.STOCKS, frame, NOW_NS)])
        assert bool(decoded.refused) == (kind != "bars")
        del decoded
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{kind}: frame {len(frame):,} bytes, peak {peak - before:,}, kept {after - before:,}")
    assert peak - before < 40 * len(frame)
    assert after - before < 40_000_000
    assert len(tables.symbols) <= module.SYMBOLS_MAX
    assert len(tables.conditions) <= module.CONDITION_LISTS_MAX


def test_what_is_remembered_does_not_grow_with_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """New names and lists for ever: the decoder forgets, and the tables stop at their limits."""
    for name, limit in (("_CACHE_MAX", 750), ("SYMBOLS_MAX", 500), ("CONDITION_LISTS_MAX", 175)):
        monkeypatch.setattr(module, name, limit)
    decoder = Decoder(tables := Tables())
    sizes = []
    for turn in range(6):
        trade = SENT[Market.STOCKS][0]
        sent = [trade | {"sym": f"{'ABCDEF'[turn]}{n:X}", "c": [turn * 5_000 + n]} for n in range(500)]
        decoder.decode([(Market.STOCKS, text_of(sent), NOW_NS)])
        sizes.append((len(decoder._symbols), len(decoder._codes)))
    assert max(max(pair) for pair in sizes) <= 750 + 500
    assert (len(tables.symbols), len(tables.conditions)) == (500, 175)
