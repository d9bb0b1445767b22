"""Items to records: repeats, ticks, gaps, restarts, replays; and that steps may be cut anywhere."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, GapEnd, Item, TickDue, Wanted
from tapewatch.records import COLUMNS, Batch, Gap, GapState, Kind, Market, Refused, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import Rules

T_MS = 1_788_877_046_300
NOW_NS = (T_MS + 50) * 1_000_000
STOCKS, CRYPTO = Market.STOCKS, Market.CRYPTO


def stock(number: int, time_ms: int = T_MS) -> dict[str, Any]:
    return {"ev": "T", "sym": "AAPL", "p": 210.5, "ds": "1.0", "t": time_ms, "x": 4, "i": str(number)}


def coin(number: int, time_ms: int = T_MS) -> dict[str, Any]:
    return {"ev": "XT", "pair": "BTC-USD", "p": 65_000, "s": 0.5, "t": time_ms, "x": 1, "i": str(number)}


def frame(*events: dict[str, Any], received_ns: int = NOW_NS) -> Frame:
    market = CRYPTO if events and events[0]["ev"] == "XT" else STOCKS
    return Frame(market, json.dumps(events).encode(), received_ns)


def tick(time_ms: int, market: Market = STOCKS) -> TickDue:
    return TickDue(market, time_ms, time_ms * 1_000_000 + 7)


def gap_end(to_ms: int, cause: str = "cut", market: Market = STOCKS) -> GapEnd:
    return GapEnd(market, to_ms, cause, ("AAPL",), to_ms * 1_000_000)


def make(**options: Any) -> Ingest:
    return Ingest(Tables(), Seen(), **options)


def shape(batch: Batch) -> list[tuple[str, int, str]]:
    """(kind, time, id) of each row; of a gap (kind, to, from)."""
    rows = []
    for kind, time_ms, one in zip(batch.kind.tolist(), batch.time_ms.tolist(), batch.ids, strict=True):
        what = str(Gap.decode(one).from_ms) if kind == Kind.GAP else one
        rows.append((Kind(kind).name.lower(), time_ms, what))
    return rows


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [*zip(*(getattr(batch, name).tolist() for name in COLUMNS), batch.ids, strict=True)]


def test_what_is_wanted_changes_between_two_frames() -> None:
    ingest = make(wanted=["TSLA"])
    items = [frame(stock(1)), Wanted(frozenset({"AAPL"}), NOW_NS), frame(stock(2)), Wanted(frozenset({"BTC"}), NOW_NS)]
    assert shape(ingest.step([*items, frame(stock(3)), frame(coin(4))])) == [("trade", T_MS, "2"), ("trade", T_MS, "4")]
    assert ingest.refused[Refused.UNKNOWN_SYMBOL] == 2
    assert shape(ingest.step([Wanted(None, NOW_NS), frame(stock(5))])) == [("trade", T_MS, "5")]


def test_a_gap_whose_beginning_is_known_begins_there() -> None:
    ingest = make()
    ingest.step([frame(stock(1)), tick(T_MS + 5_000)])
    end = GapEnd(STOCKS, T_MS + 9_000, "sequence", ("AAPL",), NOW_NS, from_ms=T_MS + 1_234)
    assert shape(ingest.step([end])) == [("gap", T_MS + 9_000, str(T_MS + 1_234))]


def test_the_lag_is_of_what_the_stream_brings() -> None:
    ingest = make()
    ingest.step([frame(stock(1)), frame(stock(2, T_MS - 3_000))])
    assert ingest.lag.freshest_ns(STOCKS, NOW_NS) == 50_000_000
    assert ingest.lag.freshest_ns(CRYPTO, NOW_NS) is None
    replayed = make(event_time=True)
    replayed.step([frame(stock(1))])
    assert replayed.lag.freshest_ns(STOCKS, NOW_NS) is None, "a recording has no lag"


def test_trades_and_ticks_come_in_order_of_arrival() -> None:
    ingest = make()
    batch = ingest.step(
        [frame(stock(1)), tick(T_MS + 700), frame(stock(2), stock(3)), frame(coin(1)), tick(T_MS, CRYPTO)]
    )
    assert shape(batch) == [
        ("trade", T_MS, "1"),
        ("tick", T_MS + 700, ""),
        ("trade", T_MS, "2"),
        ("trade", T_MS, "3"),
        ("trade", T_MS, "1"),
        ("tick", T_MS, ""),
    ]
    assert batch.market.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.received_ns.tolist()[:2] == [NOW_NS, (T_MS + 700) * 1_000_000 + 7]
    assert shape(ingest.step([])) == []


def test_repeats_are_dropped_and_counted() -> None:
    ingest = make()
    batch = Batch.join([ingest.step([frame(stock(1), stock(1))]), ingest.step([frame(stock(1)), frame(stock(2))])])
    assert shape(batch) == [("trade", T_MS, "1"), ("trade", T_MS, "2")]
    ingest.step([frame({"ev": "T"})])
    assert ingest.refused == {Refused.REPEATED: 2, Refused.BAD_VALUE: 1}


def test_unwanted_symbols_make_no_record() -> None:
    ingest = make(wanted={"TSLA"})
    assert shape(ingest.step([frame(stock(1))])) == []
    assert ingest.refused == {Refused.UNKNOWN_SYMBOL: 1}


def test_a_gap_begins_a_second_before_the_last_that_is_known() -> None:
    ingest = make()
    ingest.step([frame(stock(1, T_MS + 5_000), stock(2, T_MS), received_ns=NOW_NS + 5_000_000_000)])
    batch = ingest.step([gap_end(T_MS + 60_000)])
    assert shape(batch) == [("gap", T_MS + 60_000, str(T_MS + 4_000))]
    gap = Gap.decode(batch.ids[0])
    assert (gap.market, gap.to_ms, gap.cause, gap.symbols) == (STOCKS, T_MS + 60_000, "cut", ["AAPL"])
    # after a gap, its end; after ticks, as long before the last as a dead connection goes unnoticed
    ingest.step([tick(T_MS + 62_000)])
    assert shape(ingest.step([gap_end(T_MS + 80_000), tick(T_MS + 95_000), gap_end(T_MS + 99_000)])) == [
        ("gap", T_MS + 80_000, str(T_MS + 59_000)),
        ("tick", T_MS + 95_000, ""),
        ("gap", T_MS + 99_000, str(T_MS + 85_000 - 1_000)),
    ]


def test_no_gap_where_nothing_was_known_of_that_market() -> None:
    ingest = make()
    assert shape(ingest.step([gap_end(T_MS, "restart"), frame(coin(1)), gap_end(T_MS, "restart")])) == [
        ("trade", T_MS, "1")
    ]


def test_a_gap_never_ends_before_it_begins() -> None:
    ingest = make()
    ingest.step([tick(T_MS)])
    assert shape(ingest.step([gap_end(T_MS - 50_000)])) == [("gap", T_MS - 50_000, str(T_MS - 50_000))]


def test_a_trade_from_the_future_hides_no_gap() -> None:
    ingest = make(future_limit_ms=60_000)
    ingest.step([frame(stock(1), stock(2, T_MS + 10**9))])
    assert ingest.last_ms(STOCKS) == T_MS
    # ... nor does a clock that is a little ahead: what is known is known up to its receipt
    ingest.step([frame(stock(3, T_MS + 60_050))])
    assert ingest.last_ms(STOCKS) == T_MS + 50


def unfilled(ingest: Ingest, market: Market = STOCKS) -> list[int]:
    return [gap.from_ms for gap in ingest.unfilled(market)]


def fates(batch: Batch) -> list[tuple[str, int, int, int, list[str]]]:
    """State, beginning, trades, later ones and missing symbols of each word about a gap."""
    gaps = [Gap.decode(one) for kind, one in zip(batch.kind.tolist(), batch.ids, strict=True) if kind == Kind.GAP]
    return [(gap.state.value, gap.from_ms, gap.trades, gap.later, gap.missing) for gap in gaps]


def asked(from_ms: int, to_ms: int) -> Gap:
    return Gap(market=STOCKS, from_ms=from_ms, to_ms=to_ms, cause="", symbols=["AAPL"], state=GapState.ASKED)


def by_rest(tables: Tables, *events: dict[str, Any]) -> Batch:
    return Ingest(tables, Seen()).step([frame(*events)])


def test_a_gap_is_unfilled_until_its_trades_were_fetched_and_its_fate_is_told() -> None:
    tables = Tables()
    ingest = Ingest(tables, Seen())
    ingest.step([tick(T_MS), tick(T_MS, CRYPTO), frame(stock(1, T_MS - 2_000)), gap_end(T_MS + 60_000)])
    ingest.step([gap_end(T_MS + 90_000)])
    assert (unfilled(ingest), unfilled(ingest, CRYPTO)) == ([T_MS - 3_000, T_MS + 59_000], [])
    got = by_rest(
        tables, stock(1, T_MS - 2_000), stock(2, T_MS + 100), stock(3, T_MS + 60_500), stock(4, T_MS + 95_000)
    )
    told = ingest.fetched(asked(T_MS - 3_000, T_MS + 90_000), got, [], NOW_NS)
    assert shape(told)[1:4] == [
        ("trade", T_MS + 100, "2"),
        ("trade", T_MS + 60_500, "3"),
        ("trade", T_MS + 95_000, "4"),
    ]
    assert fates(told) == [
        ("asked", T_MS - 3_000, 0, 0, []),
        ("filled", T_MS - 3_000, 1, 0, []),
        ("filled", T_MS + 59_000, 1, 0, []),
    ]
    assert unfilled(ingest) == []
    assert shape(ingest.step([frame(stock(4, T_MS + 95_000))])) == [], "what came by REST is a repeat on the stream"


def test_what_could_not_be_had_stays_partial_and_says_whose_it_is() -> None:
    tables = Tables()
    ingest = Ingest(tables, Seen())
    ingest.step([frame(stock(1)), gap_end(T_MS + 60_000)])
    told = ingest.fetched(asked(T_MS, T_MS + 60_000), Batch.empty(), [], NOW_NS)
    assert fates(told) == [("partial", T_MS - 1_000, 0, 0, ["AAPL"])], "it begins before what was asked for"
    # ... which is so too where every symbol of the market is watched, so that none can be named
    ingest.step([GapEnd(STOCKS, T_MS + 70_000, "cut", (), (T_MS + 70_000) * 10**6)])
    everything = replace(asked(T_MS + 65_000, T_MS + 70_000), symbols=[])
    assert fates(ingest.fetched(everything, Batch.empty(), [], NOW_NS)) == [("partial", T_MS + 59_000, 0, 0, [])]
    ingest.step([gap_end(T_MS + 90_000)])
    told = ingest.fetched(asked(T_MS + 69_000, T_MS + 90_000), Batch.empty(), ["TSLA"], NOW_NS)
    assert fates(told) == [("partial", T_MS + 69_000, 0, 0, ["TSLA"])]
    # the repeat finds more: counted, and the windows stay as partial as they are
    gap = Gap.decode(told.ids[0])
    later, known = ingest.fetched_later(gap, by_rest(tables, stock(8, T_MS + 70_000), stock(1)), NOW_NS)
    assert shape(later)[0] == ("trade", T_MS + 70_000, "8")
    assert fates(later) == [("partial", T_MS + 69_000, 0, 1, ["TSLA"])]
    again, _ = ingest.fetched_later(known, Batch.empty(), NOW_NS)
    assert fates(again) == [("partial", T_MS + 69_000, 0, 1, ["TSLA"])]


def test_a_restart_fills_the_gap_whose_filling_was_cut_short() -> None:
    first = make()
    logged = [first.step([tick(T_MS), tick(T_MS, CRYPTO)])]
    logged.append(first.step([gap_end(T_MS + 60_000), gap_end(T_MS + 60_000, market=CRYPTO), tick(T_MS + 61_000)]))
    fetched = [first.step([frame(stock(1, T_MS + 30_000))])]
    for more in ([], fetched):
        again = make()
        again.recover([logged[0], logged[1].slice(0, 2), *more])
        assert (unfilled(again), unfilled(again, CRYPTO)) == ([T_MS - 11_000], [T_MS - 11_000])
        again.recover([logged[1].slice(2, 3)])  # the stocks' tick: nobody was to fetch anything
        assert (unfilled(again), unfilled(again, CRYPTO)) == ([], [T_MS - 11_000])


def test_a_restart_asks_again_for_what_was_asked_for_once_only() -> None:
    first = make()
    logged = [first.step([frame(stock(1)), gap_end(T_MS + 60_000)])]
    told = first.fetched(asked(T_MS - 1_000, T_MS + 60_000), Batch.empty(), [], NOW_NS)
    for more, repeats in (([], 1), ([first.fetched_later(Gap.decode(told.ids[0]), Batch.empty(), NOW_NS)[0]], 0)):
        again = make()
        again.recover([*logged, told, *more])
        assert unfilled(again) == []
        assert [gap.to_ms for gap in again.to_repeat()] == [T_MS + 60_000] * repeats


def test_a_restart_knows_what_the_log_knows() -> None:
    tables = Tables()
    first = Ingest(tables, Seen())
    logged = [first.step([frame(stock(1))]), first.step([tick(T_MS + 700), frame(coin(7, T_MS + 9))])]
    change = RuleChange(Rules(), "start", T_MS + 900)  # of every market, and no word of what was heard of one
    logged.append(Batch.of([change.row(Kind.RULES, NOW_NS)]))
    again = Ingest(tables, Seen())
    again.recover(logged)
    assert (again.last_ms(STOCKS), again.last_ms(CRYPTO)) == (T_MS + 700, T_MS + 9)
    assert shape(again.step([gap_end(T_MS + 5_000, "restart"), frame(stock(1), stock(2)), frame(coin(7))])) == [
        ("gap", T_MS + 5_000, str(T_MS - 1_000)),
        ("trade", T_MS, "2"),
    ]


def test_records_of_another_way_are_known_too() -> None:
    tables = Tables()
    warm = Ingest(tables, Seen()).step([frame(stock(1), stock(2))])
    ingest = Ingest(tables, Seen())
    ingest.step([frame(stock(1))])
    asking = asked(T_MS - 1_000, T_MS + 1_000)
    assert shape(ingest.fetched_for(asking, warm, NOW_NS))[1:] == [("trade", T_MS, "2")]
    assert shape(ingest.fetched_for(asking, warm, NOW_NS)) == []
    assert shape(ingest.step([frame(stock(2))])) == []


# --- replay ----------------------------------------------------------------------------------------------------


def test_a_replay_takes_every_time_from_the_recording() -> None:
    ingest = make(event_time=True)
    second = T_MS // 1_000 * 1_000
    batch = ingest.step([frame(stock(1, second)), frame(stock(2, second + 1_500)), frame(coin(3, second + 9_000))])
    batch = Batch.join([batch, ingest.step([frame(stock(4, second + 2_000)), frame(stock(2, second + 1_500))])])
    assert shape(batch) == [
        ("trade", second, "1"),
        ("tick", second + 1_000, ""),
        ("trade", second + 1_500, "2"),
        ("trade", second + 9_000, "3"),
        ("tick", second + 2_000, ""),
        ("trade", second + 2_000, "4"),
    ]
    assert (batch.received_ns == batch.time_ms * 1_000_000).all()


def test_a_replay_that_begins_again_has_no_gap_but_a_drop_has_one() -> None:
    ingest = make(event_time=True)
    ingest.step([gap_end(1, "restart"), frame(stock(1))])
    assert shape(ingest.step([gap_end(1, "restart"), frame(stock(1), stock(2, T_MS + 1))])) == [
        ("trade", T_MS + 1, "2")
    ]
    assert shape(ingest.step([gap_end(1, "cut"), frame(stock(2, T_MS + 1))])) == []
    later = T_MS + 5_000
    batch = ingest.step([frame(stock(3, later))])
    assert shape(batch) == [
        ("gap", later, str(T_MS + 1 - 1_000)),
        ("tick", later // 1_000 * 1_000, ""),
        ("trade", later, "3"),
    ]
    assert batch.received_ns[0] == later * 1_000_000


# --- properties ------------------------------------------------------------------------------------------------

_times = st.integers(0, 8).map(lambda n: T_MS + n * 400)
_events = st.one_of(
    st.builds(stock, st.integers(0, 5), _times),
    st.builds(stock, st.integers(0, 5), _times.map(lambda t: t * 10)),
    st.just({"ev": "T", "sym": 5}),
)
_items = st.one_of(
    st.lists(_events, max_size=3).map(lambda events: frame(*events)),
    st.lists(st.builds(coin, st.integers(0, 5), _times), min_size=1, max_size=3).map(lambda events: frame(*events)),
    st.builds(tick, _times, st.sampled_from(Market)),
    st.builds(gap_end, _times, st.sampled_from(["cut", "restart"]), st.sampled_from(Market)),
)


@given(st.lists(_items, max_size=12), st.lists(st.integers(0, 12), max_size=4), st.booleans())
def test_steps_may_be_cut_anywhere(items: list[Item], cuts: list[int], event_time: bool) -> None:
    if event_time:
        items = [item for item in items if not isinstance(item, TickDue)]
    whole, parts = make(event_time=event_time), make(event_time=event_time)
    edges = [0, *sorted(min(cut, len(items)) for cut in cuts), len(items)]
    batches = [parts.step(items[a:b]) for a, b in itertools.pairwise(edges)]
    expected = whole.step(items)
    assert rows(Batch.join([one for one in batches if len(one)])) == rows(expected)
    assert parts.refused == whole.refused
    # ... and a restart from the log knows the same
    again = make(event_time=event_time)
    again.recover(batches)
    for market in Market:
        assert again.last_ms(market) == whole.last_ms(market)


@given(st.lists(_items, max_size=12))
def test_every_event_is_a_record_or_counted(items: list[Item]) -> None:
    ingest = make()
    batch = ingest.step(items)
    events = sum(len(json.loads(item.data)) for item in items if isinstance(item, Frame))
    assert int((batch.kind == Kind.TRADE).sum()) + sum(ingest.refused.values()) == events


def test_after_a_torn_batch_the_gap_begins_where_all_lanes_were_whole() -> None:
    """What one lane has of later records is known as a repeat, but says nothing about the others."""
    before = make()
    whole = before.step([frame(stock(1)), tick(T_MS + 1_000)])
    torn = before.step([frame(stock(2, T_MS + 4_000), received_ns=NOW_NS + 4 * 10**9), tick(T_MS + 5_000)])
    for upto, from_ms in ((None, T_MS + 3_000), ({STOCKS: T_MS + 1_000, CRYPTO: 5}, T_MS)):
        again = make()
        again.recover([whole, torn], upto=None if upto is None else lambda upto=upto: upto)  # type: ignore[misc]
        assert again.last_ms(STOCKS) == (T_MS + 5_000 if upto is None else T_MS + 1_000)
        assert again.last_ms(CRYPTO) is None
        gap = Gap.decode(again.step([gap_end(T_MS + 9_000)]).ids[0])
        assert (gap.from_ms, gap.to_ms) == (from_ms, T_MS + 9_000)
        assert len(again.step([frame(stock(2, T_MS + 4_000))])) == 0
