"""Coinbase's messages in the words of the stream, and holes in their numbers as gaps with the right bounds."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.coinbase_trades import CoinbaseSink, CoinbaseTape, stream_event
from tapewatch.feed.decode import Decoder
from tapewatch.feed.queue import Frame, FrameQueue, GapEnd, Item, TickDue
from tapewatch.records import E8, Market, Refused, Tables
from tapewatch.values import parse_size_e8
from test_feed_coinbase import heartbeat, match

MINUTE_MS = 1_795_701_840_000  # 14:04:00


def frame(data: bytes) -> Frame:
    return Frame(Market.CRYPTO, data, 5)


def gaps_of(*messages: bytes, products: list[str] | None = None) -> list[tuple[tuple[str, ...], int, int]]:
    """Symbols and bounds of the gaps, in ms after 14:04."""
    tape = CoinbaseTape(products)
    found = [item for message in messages for item in tape.items(frame(message)) if isinstance(item, GapEnd)]
    assert all(gap.cause == "sequence" and gap.received_ns == 5 for gap in found)
    return [(gap.symbols, (gap.from_ms or 0) - MINUTE_MS, gap.to_ms - MINUTE_MS) for gap in found]


def test_a_match_becomes_the_streams_event() -> None:
    (item,) = CoinbaseTape().items(frame(match(12, second=20.123956)))
    assert item == frame(
        b'[{"ev":"XT","pair":"BTC-USD","p":60000.10,"ds":"0.00013100","t":1795701860123,"i":"12","x":1}]'
    )


def test_numbers_without_holes_are_no_gap() -> None:
    assert gaps_of(match(7), match(8), heartbeat(8), match(9), heartbeat(9), heartbeat(9)) == []


def test_a_hole_between_two_trades() -> None:
    assert gaps_of(match(7, second=1), match(8, second=2), match(11, second=5)) == [(("BTC",), 2_000, 5_001)]


def test_each_product_has_numbers_of_its_own() -> None:
    messages = match(7), match(100, product="BTC-EUR"), match(8), match(102, product="BTC-EUR", second=30)
    assert gaps_of(*messages) == [(("BTC-EUR",), 20_000, 30_001)]


def test_trades_missing_at_the_end_are_told_by_the_second_heartbeat() -> None:
    messages = match(7, second=1), heartbeat(9, second=2), heartbeat(9, second=3), heartbeat(9, second=4)
    assert gaps_of(*messages[:2]) == []
    assert gaps_of(*messages) == [(("BTC",), 1_000, 3_001)]
    assert gaps_of(*messages, match(10, second=5)) == [(("BTC",), 1_000, 3_001)], "its numbers are known again"


def test_a_trade_that_crosses_its_heartbeat_is_no_gap() -> None:
    assert gaps_of(match(7), heartbeat(8), match(8), heartbeat(8), heartbeat(8)) == []


def test_heartbeats_that_run_ahead_while_more_is_missing() -> None:
    messages = match(7, second=1), heartbeat(8, second=2), heartbeat(9, second=3), heartbeat(9, second=4)
    assert gaps_of(*messages) == [(("BTC",), 1_000, 3_001), (("BTC",), 3_000, 4_001)]


def test_the_newest_trade_of_a_new_connection_proves_nothing() -> None:
    """What the connection's ending cost is a gap already, of the client's."""
    assert gaps_of(match(7), match(12, kind="last_match"), match(13)) == []
    assert gaps_of(match(7), match(12, kind="last_match"), match(14, second=30)) == [(("BTC",), 20_000, 30_001)]


def test_a_repeat_and_a_late_trade_are_passed_on_and_are_no_gap() -> None:
    tape = CoinbaseTape()
    for number in (7, 8, 8, 7):
        assert len(tape.items(frame(match(number)))) == 1
    assert gaps_of(match(7), match(8), match(7), match(9)) == []


def test_products_nobody_asked_for_are_left_to_the_decoder() -> None:
    assert gaps_of(match(1), match(5), products=["ETH-USD"]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"price": "1e5"},
        {"price": "-1"},
        {"price": ""},
        {"price": 60000.1},
        {"size": "NaN"},
        {"size": None},
        {"time": "yesterday"},
        {"trade_id": "7"},
        {"trade_id": None},
        {"product_id": None},
    ],
)
def test_a_match_that_cannot_be_read_is_counted_and_moves_nothing(change: dict[str, object]) -> None:
    tape = CoinbaseTape()
    tape.items(frame(match(7)))
    bad = frame(json.dumps(json.loads(match(9)) | change).encode())
    assert tape.items(bad) == [bad]
    decoded = Decoder(Tables()).decode([(bad.market, bad.data, 5)])
    assert (len(decoded.batch), decoded.refused[Refused.MALFORMED]) == (0, 1)
    assert gaps_of(match(7), bad.data, match(8)) == []


@given(st.binary())
def test_nothing_can_raise(data: bytes) -> None:
    assert CoinbaseTape().items(frame(data)) == [frame(data)]


PRICES = st.decimals(min_value="0.00000001", max_value=10**6, places=8, allow_nan=False).map(lambda d: f"{d:f}")
SIZES = st.integers(0, 10**6 * E8).map(lambda e8: f"{e8 // E8}.{e8 % E8:08d}")


@given(PRICES, SIZES, st.integers(1, 2**53), st.integers(0, 59_999_999))
def test_prices_sizes_and_times_are_exact(price: str, size: str, number: int, microseconds: int) -> None:
    message = match(number, price=price, size=size, second=microseconds / 1e6)
    (item,) = CoinbaseTape().items(frame(message))
    assert isinstance(item, Frame)
    decoded = Decoder(Tables(), ["BTC"]).decode([(item.market, item.data, 5)]).batch
    time = json.loads(message)["time"]
    assert decoded.price.tolist() == [float(price)]
    assert decoded.size_e8.tolist() == [parse_size_e8(size)]
    assert decoded.time_ms.tolist() == [MINUTE_MS + int(time[17:19]) * 1_000 + int(time[20:23])]
    assert list(decoded.ids) == [str(number)]


@given(st.sets(st.integers(2, 58)))
def test_every_trade_that_is_missing_lies_in_a_gap(missing: set[int]) -> None:
    """Trade n at second n: whatever is left out, at the end too, lies in a gap; no gap is without cause or too long."""
    sent = [n for n in range(1, 59) if n not in missing]
    heartbeats = [heartbeat(58, second=second) for second in (58.5, 59.5)]
    gaps = gaps_of(*(match(n, second=n) for n in sent), *heartbeats)
    holes = [(a, b) for a, b in pairwise([*sent, 59]) if b > a + 1]
    assert [(from_ms, to_ms) for _, from_ms, to_ms in gaps] == [
        (a * 1_000, b * 1_000 + 1 if b < 59 else 59_501) for a, b in holes
    ]
    assert all(any(from_ms <= n * 1_000 < to_ms for _, from_ms, to_ms in gaps) for n in missing)


def test_a_frame_that_has_no_room_is_not_read_twice() -> None:
    queue = FrameQueue(bytes_max=150)
    sink = CoinbaseSink(queue)
    assert sink.put(frame(match(7)))
    hole = frame(match(9))
    assert not sink.put(hole)
    assert not sink.put(frame(match(9))), "an equal one is the same one"
    taken: list[Item] = queue.take(1_000, 0)
    assert [type(item) for item in taken] == [Frame, GapEnd], "a gap is always taken in"
    assert sink.put(hole)
    assert [type(item) for item in queue.take(1_000, 0)] == [Frame]
    assert sink.put(hole), "and this one comes once more"
    assert [type(item) for item in queue.take(1_000, 0)] == [Frame]


def test_ticks_pass_and_heartbeats_do_not() -> None:
    queue = FrameQueue()
    sink = CoinbaseSink(queue)
    tick = TickDue(Market.CRYPTO, 1_000, 1)
    assert sink.put(tick)
    assert sink.put(frame(heartbeat(1)))
    assert queue.take(1_000, 0) == [tick]
    asyncio.run(asyncio.wait_for(sink.wait_room(), 120))


def test_rest_rows_are_the_same_events() -> None:
    event = stream_event("BTC-USD", 12, "2026-11-26T14:04:20.123956Z", "60000.10", "0.00013100")
    (item,) = CoinbaseTape().items(frame(match(12, second=20.123956)))
    assert isinstance(item, Frame)
    assert [event] == json.loads(item.data)
    assert stream_event("BTC-USD", 12, "2026-11-26T14:04:20.123956", "60000.10", "1") is not None, "a time without zone"
    assert stream_event("BTC-USD", None, "2026-11-26T14:04:20Z", "1", "1") is None
    assert stream_event("BTC-USD", 12, 5, "1", "1") is None
