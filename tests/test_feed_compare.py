"""Our bars beside the exchange's: by hand, and of a whole simulated hour through decoder and engine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from tapewatch.feed import compare
from tapewatch.feed.compare import Comparison
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, TickDue
from tapewatch.profiles.parts import Parts
from tapewatch.records import BAR_ROW, LATEST_ROW, QUALITY_ROW, WINDOW_ROW, Changes, Gap, Market, Refused, Tables
from tapewatch.rules.model import Rules
from tapewatch.sessions import Calendar
from tapewatch.settings import load_settings
from tapewatch.simulator.bars import bars
from tapewatch.simulator.events import events
from tapewatch.simulator.hours import NEW_YORK
from tapewatch.simulator.market import SeededMarket

MINUTE = 60_000
START = 1_788_877_020_000
LATER = START + 16 * MINUTE


def theirs(start_ms: int = START, symbol: str = "AAPL", **changed: Any) -> tuple[Market, dict[str, Any]]:
    bar = {"ev": "AM", "sym": symbol, "s": start_ms, "e": start_ms + MINUTE, "o": 10.0, "h": 12.0, "l": 9.0, "c": 11.0}
    return Market.STOCKS, bar | {"v": 5, "dv": "5.25", "vw": 10.5} | changed


def ours(start_ms: int = START, symbol: str = "AAPL", gaps: tuple[Gap, ...] = (), **changed: Any) -> Changes:
    row = np.zeros(1, BAR_ROW)
    values = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.25, "vwap": 10.5, "is_final": True}
    for name, value in (values | {"bar_start_ms": start_ms} | changed).items():
        row[name] = value
    empty = {"windows": WINDOW_ROW, "latest": LATEST_ROW, "quality": QUALITY_ROW}
    none = {name: np.zeros(0, dtype) for name, dtype in empty.items()}
    return Changes(symbols=[symbol], bars=row, alerts=[], gaps=list(gaps), **none)


def compared(their: list[Any], mine: list[Changes]) -> dict[str, Any]:
    comparison = Comparison()
    comparison.theirs([theirs(START - MINUTE)])
    comparison.ours(ours(START - MINUTE))
    comparison.theirs(their)
    for one in mine:
        comparison.ours(one)
    comparison.theirs([theirs(LATER)])
    (report,) = comparison.report()
    report["compared"] -= 1  # the first, which is the same
    return report


def test_equal_bars() -> None:
    report = compared([theirs()], [ours()])
    assert (report["compared"], report["different"], set(report["rates"].values())) == (1, 0, {0.0})


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"o": 10.01}, ["open"]),
        ({"h": 12.000001, "l": 8.5}, ["high", "low"]),
        ({"c": 11.5}, ["close"]),
        ({"dv": "5.25000001"}, ["volume"]),
        ({"dv": None, "v": 5}, []),
        ({"dv": None, "v": 4}, ["volume"]),
        ({"dv": None, "v": 6}, ["volume"]),
        ({"vw": 10.501}, []),
        ({"vw": 10.502}, ["vwap"]),
        ({"vw": None}, []),
    ],
)
def test_each_number_has_its_own_measure(changed: dict[str, Any], fields: list[str]) -> None:
    report = compared([theirs(**changed)], [ours()])
    assert (report["compared"], report["different"]) == (1, bool(fields))
    assert {name for name, rate in report["rates"].items() if rate} == set(fields)
    assert [one["fields"] for one in report["examples"]] == ([fields] if fields else [])


def test_a_bar_that_only_one_of_us_has() -> None:
    report = compared([theirs()], [])
    assert [(one["fields"], one["ours"]) for one in report["examples"]] == [(["missing"], None)]
    report = compared([], [ours()])
    assert [(one["fields"], one["theirs"]) for one in report["examples"]] == [(["extra"], None)]
    assert report["rates"]["extra"] == 0.5, "of two bars one"


def test_the_last_of_what_is_sent_again_counts_and_so_does_our_own() -> None:
    report = compared([theirs(o=1.0), theirs()], [ours(close=1.0), ours()])
    assert (report["different"], report["sent_again"]) == (0, 1)


def test_nothing_is_compared_before_its_time_nor_twice() -> None:
    comparison = Comparison()
    comparison.theirs([theirs(), theirs(START + 15 * MINUTE)])
    assert comparison.report()[0]["compared"] == 0
    comparison.theirs([theirs(LATER)])
    assert comparison.report()[0]["compared"] == 1
    comparison.theirs([theirs(c=99.0)])
    comparison.theirs([theirs(LATER + MINUTE)])
    assert comparison.report()[0]["compared"] == 1
    assert comparison.report()[0]["rates"]["missing"] == 1.0


def test_minutes_in_a_gap_are_not_compared() -> None:
    gap = Gap(market=Market.STOCKS, from_ms=START + 59_000, to_ms=START + MINUTE + 1, cause="cut", symbols=[])
    report = compared([theirs(o=1.0), theirs(START + MINUTE, o=1.0), theirs(START + 2 * MINUTE)], [ours(gaps=(gap,))])
    # The third minute is not due yet.
    assert (report["compared"], report["in_gaps"], report["different"]) == (0, 1, 0)


def test_our_bars_of_before_theirs_and_those_not_final_are_left_alone() -> None:
    comparison = Comparison()
    comparison.ours(ours(START - 5 * MINUTE))
    comparison.theirs([theirs()])
    comparison.ours(ours(START - MINUTE))
    comparison.ours(ours(is_final=False))
    comparison.theirs([theirs(LATER)])
    (report,) = comparison.report()
    assert (report["compared"], report["rates"]["missing"]) == (1, 1.0)


def test_what_is_no_bar_is_counted_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison()
    assert comparison.theirs([theirs(o="x"), theirs(s=None), theirs(sym=5), theirs(ev="A"), theirs(v=-1, dv=None)]) == 4
    monkeypatch.setattr(compare, "BARS_MAX", 10)
    comparison.theirs([theirs(START + n * MINUTE, symbol=f"S{n}{m}") for n in range(3) for m in range(6)])
    (report,) = comparison.report()
    assert (report["left_out"], report["compared"]) == (12, 0)


def new_york(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


# The second goes over the close, the third over that of a half day.
@pytest.mark.parametrize(
    "start",
    [
        "2025-11-20T09:00",
        pytest.param("2025-11-20T15:40", marks=pytest.mark.slow),
        pytest.param("2025-11-28T12:40", marks=pytest.mark.slow),
    ],
)
def test_bars_of_a_simulated_market_agree_whole_and_a_lost_trade_shows(start: str, days: Calendar) -> None:
    """Pre-market into the regular session, and out of it; odd lots, Form T and all. Then one trade is lost."""
    start_ms, minutes = new_york(start), 60
    market = SeededMarket(5, 6.0)
    prints = market.trades(Market.STOCKS, "AAPL", start_ms * 10**6, (start_ms + minutes * MINUTE) * 10**6)
    their = [msgspec.to_builtins(bar) for bar in bars("AM", Market.STOCKS, "AAPL", prints)]
    sent = [msgspec.to_builtins(event) for event in events(Market.STOCKS, "AAPL", prints)]
    eligible = next(i for i, one in enumerate(sent) if not one.get("c") and i > 200)
    settings = load_settings(_env_file=None)
    for lost in (None, eligible):
        tables, comparison = Tables(), Comparison()
        ingest = Ingest(tables, Seen(), aside=set(Market), on_bars=comparison.theirs)
        engine = Parts(settings, Rules(), days).engine(tables)
        trades = [one for i, one in enumerate(sent) if i != lost]
        at = 0
        for bar in [*their, None]:
            stop_ms = start_ms + minutes * MINUTE if bar is None else bar["e"]
            stop = next((i for i in range(at, len(trades)) if trades[i]["t"] >= stop_ms), len(trades))
            items: list[Any] = []
            if stop > at:
                items.append(Frame(Market.STOCKS, msgspec.json.encode(trades[at:stop]), stop_ms * 10**6))
            if bar is not None:
                items.append(Frame(Market.STOCKS, msgspec.json.encode([bar]), (stop_ms + 2_000) * 10**6))
            items.append(TickDue(Market.STOCKS, stop_ms + 61_000, stop_ms * 10**6))
            at = stop
            engine.step(ingest.step(items))
            comparison.ours(engine.drain())
        (report,) = comparison.report()
        assert ingest.refused == {}, "bars are no records beside trades, and no refused ones"
        assert report["compared"] > 35
        assert report["different"] == (0 if lost is None else 1), report["examples"]
        if lost is not None:
            assert report["rates"]["volume"] > 0


def test_bars_that_are_put_aside_are_no_records_and_bad_ones_are_refused() -> None:
    tables, comparison = Tables(), Comparison()
    aside = {Market.STOCKS}
    ingest = Ingest(tables, Seen(), aside=aside, on_bars=comparison.theirs)
    trade = {"ev": "T", "sym": "AAPL", "p": 10.0, "ds": "1", "t": START, "x": 4, "i": "1"}

    def step(*sent: dict[str, Any]) -> list[str]:
        return list(ingest.step([Frame(Market.STOCKS, msgspec.json.encode(sent), START * 10**6)]).ids)

    assert step(theirs()[1], trade, theirs(h=None)[1]) == ["1"]
    assert ingest.refused == {Refused.BAD_VALUE: 1}
    # a market that falls back to bars takes them as its prices
    aside.discard(Market.STOCKS)
    assert len(step(theirs(START + MINUTE)[1])) == 5
