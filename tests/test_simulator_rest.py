"""simulator/rest*.py, reference.py, plans.py, corrections.py, holidays.py: one store of events behind every address."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

import exchange_calendars
import msgspec
import pytest

from tapewatch.feed.conditions import HIGH_LOW, PRICE, VOLUME, eligibility
from tapewatch.records import Market
from tapewatch.simulator.bars import bars
from tapewatch.simulator.corrections import KNOWN_AFTER_NS, Corrections
from tapewatch.simulator.events import events
from tapewatch.simulator.holidays import early_closes, holidays
from tapewatch.simulator.hours import Hours, hours_at, market_hours
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.plans import DELAY_NS, PLANS, Plan
from tapewatch.simulator.rest import RestSide
from tapewatch.simulator.session import End, Rules, Session, State

NOW_NS = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
MINUTE_NS = 60_000_000_000
SEED = 11
SYMBOLS = {
    Market.STOCKS: ("AAPL", "AAPL"),
    Market.CRYPTO: ("BTC-USD", "X:BTCUSD"),
    Market.OPTIONS: ("O:SPY261218C00650000", "O:SPY261218C00650000"),
    Market.FUTURES: ("ESZ6", "ESZ6"),
    Market.FOREX: ("EUR/USD", "C:EURUSD"),
    Market.INDICES: ("I:SPX", "I:SPX"),
}
"""What the stream and what REST calls one of each market."""


class Rest:
    """The REST side without a port; its clock is the test's."""

    def __init__(self, plan: Plan | None = None, share: float = 0.0) -> None:
        self.market = SeededMarket(SEED, 4)
        self.now_s = 0.0
        rules = Rules() if plan is None else Rules(plan=plan)
        self.side = RestSide(
            self.market, rules, lambda: NOW_NS, corrections=Corrections(share), clock_s=lambda: self.now_s
        )

    def ask(self, target: str) -> tuple[int, Any, dict[str, str]]:
        reply = asyncio.run(self.side.answer(target, {"Authorization": "Bearer key"}, "http://host"))
        return int(reply.status), msgspec.json.decode(reply.body), dict(reply.headers)

    def get(self, target: str) -> Any:
        status, body, _ = self.ask(target)
        assert status == 200, body
        return body

    def every(self, target: str) -> list[Any]:
        """The results of all pages."""
        found: list[Any] = []
        while target:
            body = self.get(target)
            found += body["results"]
            target = body.get("next_url", "").removeprefix("http://host")
        return found


def trades_path(market: Market, ticker: str) -> str:
    path = {Market.FUTURES: "/futures/v1/trades", Market.FOREX: "/v3/quotes"}.get(market, "/v3/trades")
    order = "sort=timestamp.asc" if market is Market.FUTURES else "order=asc"
    return f"{path}/{ticker}?timestamp.gte={NOW_NS - 3 * MINUTE_NS}&{order}"


# --- one store: REST has what the stream had -------------------------------------------------------------------


@pytest.mark.parametrize("market", [market for market in Market if market is not Market.INDICES])
def test_every_trade_of_the_stream_is_there_by_rest_page_by_page(market: Market) -> None:
    rest, (symbol, ticker) = Rest(), SYMBOLS[market]
    prints = rest.market.trades(market, symbol, NOW_NS - 3 * MINUTE_NS, NOW_NS + 1)
    stream = [msgspec.to_builtins(event) for event in events(market, symbol, prints)]
    rows = rest.every(f"{trades_path(market, ticker)}&limit=77")
    assert len(rows) == len(stream) > 200
    time_name = {Market.CRYPTO: "participant_timestamp", Market.FOREX: "participant_timestamp"}
    time_name |= {Market.FUTURES: "timestamp"}
    assert [row[time_name.get(market, "sip_timestamp")] // 10**6 for row in rows] == [one["t"] for one in stream]
    if market is Market.FOREX:
        assert [(row["bid_price"], row["ask_price"]) for row in rows] == [(one["b"], one["a"]) for one in stream]
    else:
        assert [row["price"] for row in rows] == [one["p"] for one in stream]


def test_indices_have_values_and_no_trades() -> None:
    rest = Rest()
    prints = rest.market.trades(Market.INDICES, "I:SPX", NOW_NS - MINUTE_NS, NOW_NS)
    found = [msgspec.to_builtins(event) for event in events(Market.INDICES, "I:SPX", prints)]
    assert {tuple(sorted(one)) for one in found} == {("T", "ev", "t", "val")}
    assert rest.ask("/v3/trades/I:SPX")[0] == 400


@pytest.mark.parametrize("market", list(Market))
@pytest.mark.parametrize("unit", ["second", "minute"])
def test_the_bars_are_those_of_the_stream(market: Market, unit: str) -> None:
    rest, (symbol, ticker) = Rest(), SYMBOLS[market]
    from_ns = NOW_NS - 3 * MINUTE_NS
    prints = rest.market.trades(market, symbol, from_ns, NOW_NS)
    channel = {Market.CRYPTO: ("XAS", "XA"), Market.FOREX: ("CAS", "CA")}.get(market, ("A", "AM"))[unit == "minute"]
    stream = [msgspec.to_builtins(bar) for bar in bars(channel, market, symbol, prints)]
    span = f"{from_ns // 10**6}/{NOW_NS // 10**6 - 1}"
    rows = rest.every(f"/v2/aggs/ticker/{ticker}/range/1/{unit}/{span}?adjusted=false&sort=asc&limit=50")
    assert len(rows) == len(stream) > 2
    for row, bar in zip(rows, stream, strict=True):
        assert [row[name] for name in "ohlc"] == [bar[name] for name in "ohlc"]
        assert row["t"] == bar["s"]
        if "dv" in bar and market is Market.STOCKS:
            assert row["v"] == float(bar["dv"])
        assert ("v" in row) == (market is not Market.INDICES)


def test_a_bar_that_has_not_ended_is_not_given_and_longer_units_are_sums() -> None:
    rest = Rest()
    from_ms = NOW_NS // 10**6 - 2 * 3_600_000
    day = rest.get(f"/v2/aggs/ticker/AAPL/range/1/hour/{from_ms}/2025-11-20")["results"]
    assert len(day) == 2
    assert day[-1]["t"] == (NOW_NS // 10**6) - 3_600_000
    minutes = rest.every(f"/v2/aggs/ticker/AAPL/range/1/minute/{day[-1]['t']}/{day[-1]['t'] + 3_599_999}?limit=7")
    assert len(minutes) == 60
    assert (day[-1]["o"], day[-1]["c"]) == (minutes[0]["o"], minutes[-1]["c"])
    assert day[-1]["h"] == max(row["h"] for row in minutes)
    assert day[-1]["n"] == sum(row["n"] for row in minutes)
    assert day[-1]["v"] == pytest.approx(sum(row["v"] for row in minutes))
    newest = rest.get(
        f"/v2/aggs/ticker/AAPL/range/5/minute/{NOW_NS // 10**6 - 10**6}/{NOW_NS // 10**6}?sort=desc&limit=1"
    )
    assert newest["results"][0]["t"] == NOW_NS // 10**6 - 300_000


def test_the_last_trade_is_the_newest_of_the_stream() -> None:
    rest = Rest()
    last = rest.get("/v2/last/trade/AAPL")["results"]
    newest = rest.get("/v3/trades/AAPL?limit=1")["results"][0]
    assert (last["T"], last["p"], last["t"], last["i"]) == (
        "AAPL", newest["price"], newest["sip_timestamp"], newest["id"]
    )  # fmt: skip
    assert rest.ask("/v2/last/trade/not-listed")[0] == 404


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("/v2/aggs/ticker/AAPL/range/1/month/1/2", "expected /v2/aggs/ticker/TICKER/range/N"),
        ("/v2/aggs/ticker/AAPL/range/0/minute/1/2", "expected a whole number from 1 to 1000"),
        ("/v2/aggs/ticker/AAPL/range/1/minute/soon/2", "expected Unix milliseconds or YYYY-MM-DD"),
        ("/v2/aggs/ticker/AAPL/range/1/minute/1/2?sort=up", "expected asc or desc"),
        ("/v2/aggs/ticker/AAPL/range/1/minute/1/2?limit=50001", "expected a whole number from 1 to 50000"),
        ("/futures/v1/trades/ESZ6?sort=price.asc", "expected timestamp.asc or timestamp.desc"),
        ("/v3/trades/C:EURUSD", "expected a ticker of stocks, crypto, options"),
        ("/v3/reference/conditions?limit=0", "expected a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_question_is_answered_with_a_sentence(target: str, part: str) -> None:
    status, body, _ = Rest().ask(target)
    assert status == 400
    assert part in body["error"]


# --- corrections -----------------------------------------------------------------------------------------------


def test_rest_takes_trades_back_that_the_stream_has_shown() -> None:
    rest, from_ns = Rest(share=0.05), NOW_NS - 15 * MINUTE_NS
    rows = rest.every(f"/v3/trades/AAPL?timestamp.gte={from_ns}&order=asc&limit=100")
    shown = Counter(row.get("correction", 0) for row in rows)
    assert shown[8] > 20
    assert shown[1] == shown[12] > 10
    plain = Rest().every(f"/v3/trades/AAPL?timestamp.gte={from_ns}&order=asc&limit=50000")
    assert [row["id"] for row in rows if row.get("correction") != 12] == [row["id"] for row in plain]
    by_id = {row["id"]: row["price"] for row in plain}
    right = [row for row in rows if row.get("correction") == 12]
    assert all(row["price"] != by_id[row["id"]] for row in right)
    # Nothing is taken back before it can be known, and backwards tells the same.
    fresh = [row for row in rows if row["sip_timestamp"] > NOW_NS - KNOWN_AFTER_NS]
    assert fresh
    assert not any("correction" in row for row in fresh)
    back = rest.every(f"/v3/trades/AAPL?timestamp.gte={from_ns}&order=desc&limit=50000")
    assert Counter(row.get("correction", 0) for row in back) == shown


# --- reference -------------------------------------------------------------------------------------------------


def test_conditions_are_ten_by_default_and_ids_are_unique_among_trades_alone() -> None:
    rest = Rest()
    body = rest.get("/v3/reference/conditions?asset_class=stocks")
    assert len(body["results"]) == 10
    assert "next_url" in body
    rows = rest.every("/v3/reference/conditions?asset_class=stocks&data_type=trade&limit=1000")
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids)) == 56
    everything = rest.every("/v3/reference/conditions?asset_class=stocks")
    assert len(everything) > len({row["id"] for row in everything})


def test_the_simulators_conditions_and_the_feeds_are_of_one_mind() -> None:
    """They are written down twice, on purpose."""
    for row in Rest().every("/v3/reference/conditions?asset_class=stocks&data_type=trade&limit=1000"):
        rules = row.get("update_rules", {}).get("consolidated")
        if rules is None or row["id"] in (0, 12):
            continue
        found = eligibility((row["id"],))
        wanted = (rules["updates_open_close"], rules["updates_high_low"], rules["updates_volume"])
        assert tuple(bool(found & bit) for bit in (PRICE, HIGH_LOW, VOLUME)) == wanted, row


def test_exchanges_and_tickers() -> None:
    rest = Rest()
    assert Counter(row["id"] for row in rest.every("/v3/reference/exchanges?asset_class=stocks"))[4] == 4
    assert [row["ticker"] for row in rest.every("/v3/reference/tickers?market=fx")] == [
        "C:EURUSD", "C:GBPUSD", "C:USDCHF", "C:USDJPY",
    ]  # fmt: skip
    assert len(rest.every("/v3/reference/tickers?limit=7")) > 50
    assert rest.get("/v3/reference/tickers/AAPL")["results"]["market"] == "stocks"
    assert rest.ask("/v3/reference/tickers/NONE")[0] == 404


def test_the_holidays_are_the_exchanges() -> None:
    calendar = exchange_calendars.get_calendar("XNYS", start="2022-01-01", end="2026-12-31")
    sessions = {day.date() for day in calendar.sessions}
    closed = {day for year in range(2022, 2027) for day in holidays(year)}
    special = {date(2025, 1, 9)}  # a day of mourning follows no rule
    every = {
        day for n in range(5 * 365 + 1) if (day := date.fromordinal(date(2022, 1, 1).toordinal() + n)).weekday() < 5
    }
    assert every - closed - special == sessions
    early = {day.date() for day in calendar.early_closes}
    assert {day for year in range(2022, 2027) for day in early_closes(year)} == early


def test_the_next_days_with_other_hours_are_told() -> None:
    body = Rest().get("/v1/marketstatus/upcoming")
    assert [(row["date"], row["status"], row.get("close")) for row in body if row["exchange"] == "NYSE"][:3] == [
        ("2025-11-27", "closed", None),
        ("2025-11-28", "early-close", "2025-11-28T18:00:00.000Z"),
        ("2025-12-24", "early-close", "2025-12-24T18:00:00.000Z"),
    ]


@pytest.mark.parametrize(
    ("market", "when", "is_open"),
    [
        (Market.STOCKS, "2025-11-27T17:00", False),  # Thanksgiving
        (Market.OPTIONS, "2025-11-20T13:00", False),  # 08:00 in New York
        (Market.OPTIONS, "2025-11-20T15:00", True),
        (Market.INDICES, "2025-11-28T18:30", False),  # a half day
        (Market.FUTURES, "2025-11-20T22:30", False),  # the hour from 17:00
        (Market.FUTURES, "2025-11-20T23:30", True),
        (Market.FUTURES, "2025-11-23T22:30", False),  # Sunday 17:30
        (Market.FUTURES, "2025-11-23T23:30", True),
        (Market.FOREX, "2025-11-23T22:30", True),
        (Market.FOREX, "2025-11-21T22:30", False),  # Friday 17:30
        (Market.FOREX, "2025-11-22T12:00", False),
        (Market.CRYPTO, "2025-11-22T12:00", True),
    ],
)
def test_each_market_has_its_hours(market: Market, when: str, is_open: bool) -> None:
    ms = int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp() * 1000)
    assert (market_hours(market, ms) is not Hours.CLOSED) == is_open
    real = SeededMarket(SEED, 4, "real")
    prints = real.trades(market, SYMBOLS[market][0], ms * 10**6, ms * 10**6 + MINUTE_NS)
    assert bool(len(prints)) == is_open
    assert len(SeededMarket(SEED, 4).trades(market, SYMBOLS[market][0], ms * 10**6, ms * 10**6 + MINUTE_NS))


def test_a_half_day_ends_at_one() -> None:
    noon = int(datetime(2025, 11, 28, 17, 30, tzinfo=UTC).timestamp() * 1000)
    assert [hours_at(noon + hours * 3_600_000) for hours in (0, 1, 5)] == [Hours.REGULAR, Hours.POST, Hours.CLOSED]


# --- plans -----------------------------------------------------------------------------------------------------


def test_the_free_plan_has_five_calls_a_minute_and_no_trades() -> None:
    rest = Rest(PLANS["free"])
    bar = "/v2/aggs/ticker/AAPL/range/1/minute/2025-11-20/2025-11-20?limit=1"
    assert rest.ask("/v3/trades/AAPL")[0] == 403
    for _ in range(4):
        rest.get(bar)
        rest.now_s += 5
    status, body, headers = rest.ask(bar)
    assert (status, headers) == (429, {"Retry-After": "41"})
    assert "exceeded the maximum requests per minute" in body["error"]
    rest.now_s += int(headers["Retry-After"])
    rest.get(bar)


@pytest.mark.parametrize(("plan", "trades", "late"), [("starter", 403, 1), ("developer", 200, 1), ("advanced", 200, 0)])
def test_what_a_plan_has_by_rest(plan: str, trades: int, late: int) -> None:
    rest = Rest(PLANS[plan])
    status, body, _ = rest.ask("/v3/trades/AAPL?limit=1")
    assert status == trades
    if status == 403:
        assert body["status"] == "NOT_AUTHORIZED"
    else:
        assert 0 <= NOW_NS - late * DELAY_NS - body["results"][0]["sip_timestamp"] < MINUTE_NS
    newest = rest.get(f"/v2/aggs/ticker/AAPL/range/1/minute/1/{NOW_NS // 10**6}?sort=desc&limit=1")["results"]
    assert newest[0]["t"] == (NOW_NS - late * DELAY_NS) // 10**6 - 60_000


@pytest.mark.parametrize(
    ("plan", "delayed", "topics", "acked", "refused"),
    [
        ("starter", False, "T.A,AM.A,A.A", [], 3),
        ("starter", True, "T.A,AM.A,A.A", ["AM.A", "A.A"], 1),
        ("developer", False, "T.A,AM.A", [], 2),
        ("developer", True, "T.A,AM.A,Q.A", ["T.A", "AM.A"], 1),
        ("advanced", False, "T.A,AM.A,Q.A", ["T.A", "AM.A", "Q.A"], 0),
        ("advanced", True, "T.A", ["T.A"], 0),
    ],
)
def test_what_a_plan_has_by_stream(plan: str, delayed: bool, topics: str, acked: list[str], refused: int) -> None:
    session = Session(Market.STOCKS, Rules(plan=PLANS[plan]), delayed)
    assert not session.received('{"action":"auth","params":"key"}').end
    (frame,) = session.received(f'{{"action":"subscribe","params":"{topics}"}}').frames
    said = msgspec.json.decode(frame)
    assert [one["message"] for one in said] == ["not authorized"] * refused + [f"subscribed to: {t}" for t in acked]


def test_the_free_plan_has_no_stream() -> None:
    session = Session(Market.STOCKS, Rules(plan=PLANS["free"]))
    answer = session.received('{"action":"auth","params":"key"}')
    assert b"auth_failed" in answer.frames[0]
    assert b"doesn't include websocket access" in answer.frames[0]
    assert answer.end == End(None)
    assert session.state is State.ENDED


def test_a_forex_topic_may_be_written_with_a_dash() -> None:
    session = Session(Market.FOREX, Rules())
    session.received('{"action":"auth","params":"key"}')
    session.received('{"action":"subscribe","params":"C.EUR-USD"}')
    assert session.symbols("C") == {"EUR/USD"}
