"""What the Health view is told: in trouble the sentence and what to do, in numbers what was noted; never silence."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_fake import START_MS, FakeMarket, broken, calendar
from tapewatch.metrics import Recent
from tapewatch.records import Market, Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.connections import connections
from tapewatch.serve.health import Asked, Pulse, report
from tapewatch.serve.problems import problems
from tapewatch.serve.shapes import iso
from tapewatch.serve.stream import StreamHub

DAY_MS = 86_400_000
WELL: dict[str, Any] = {
    "feeds": [{"market": "stocks", "state": "live", "detail": None, "since": iso(START_MS)}],
    "log": {"state": "ok", "first": 10, "end": 110, "bytes": 5, "disk_free_bytes": 7},
    "engine": {"state": "ok", "behind": 3},
    "store": {"state": "ok"},
    "lag_ms": 12.5,
    "queue_bytes": 77,
    "trades_per_second": 9.0,
}
GAP = {"market": "stocks", "cause": "disconnected", "backfilled": False}
VITALS = {
    "bytes": 1, "postgres": "18.6", "timescaledb": None, "rows": {"price_bars": 4}, "waiting": 1, "dead": 0,
    "delivered_24h": 2, "oldest_waiting_at": None, "lanes": [],
}  # fmt: skip


def told(status: dict[str, Any], asked: Any = (VITALS, [], [])) -> dict[str, Any]:
    return report(status, asked, {}, None, START_MS)


def with_room(room: str, **state: Any) -> dict[str, Any]:
    return WELL | {room: WELL[room] | state}


def test_all_is_well_and_the_numbers_are_those_of_the_rooms() -> None:
    found = told(WELL)
    assert (found["sentence"], found["problems"]) == ("Everything is well.", [])
    assert found["log"]["records"] == 100
    assert found["queue"]["bytes"] == 77
    assert found["stages"][2] == {"name": "engine", "lag_ms": None, "detail": "3 records wait"}
    assert found["stages"][-1]["lag_ms"] == 12.5
    assert found["notifications"] == {"waiting": 1, "dead": 0, "delivered_24h": 2, "oldest_waiting_at": None}


def test_where_another_process_commits_the_store_says_when_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapewatch.serve.health.RECENT", Recent())
    lanes = [
        {"lane": str(lane), "position": 9, "updated_at": iso(START_MS - ago)} for lane, ago in ((0, 420_000), (1, 800))
    ]

    def stored(lanes: list[dict[str, Any]]) -> str:
        return str(told(WELL, (VITALS | {"lanes": lanes}, [], []))["stages"][3]["detail"])

    assert stored(lanes) == "the newest commit was 0.8 s ago, that of lane 0 7 min ago"
    assert stored(lanes[1:]) == "the newest commit was 0.8 s ago"
    assert stored([]) == "one commit, half of them are faster"


@pytest.mark.parametrize(
    ("status", "sentence", "advice"),
    [
        (with_room("log", state="full", detail="The disk is full."), "The log is full: The disk is full.", "DATA_DIR"),
        (with_room("log", state="waiting"), "The log is waiting.", "Kafka"),
        (with_room("engine", state="stalled"), "The engine is stalled.", "tapewatch spark"),
        (with_room("store", state="down", detail="Gone."), "The store is down: Gone.", "Nothing is lost"),
        (WELL | {"feeds": [WELL["feeds"][0] | {"state": "stale"}]}, "The stocks feed is stale.", "FEED_STALL"),
        (WELL | {"feeds": [WELL["feeds"][0] | {"state": "stopped"}]}, "The stocks feed is stopped.", "stop_pipeline"),
        (with_room("engine", state="no word we know"), "The engine is no word we know.", "its log"),
    ],
)
def test_each_trouble_is_one_sentence_and_what_to_do(status: dict[str, Any], sentence: str, advice: str) -> None:
    found = told(status)
    assert found["sentence"] == sentence
    assert advice in found["advice"]
    assert [problem["sentence"] for problem in problems(status)] == [sentence]


def test_the_database_away_and_notifications_given_up_are_trouble_too() -> None:
    found = told(WELL, None)
    assert found["sentence"] == "The database does not answer this page."
    assert (found["database"], found["notifications"], found["symbols"]) == (None, None, [])
    assert told(with_room("store", state="down"), None)["problems"] == problems(with_room("store", state="down"))
    assert told(WELL, (VITALS | {"dead": 3}, [], []))["sentence"] == "3 notifications were given up."


def gap(from_ms: int, to_ms: int, backfilled: bool = False) -> dict[str, Any]:
    return GAP | {"gap_from": iso(from_ms), "gap_to": iso(to_ms), "backfilled": backfilled}


def stretches(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["state"], one["from"], one["to"]) for one in found]


GAPS = [
    gap(START_MS - 60_000, START_MS - 50_000, backfilled=True),
    gap(START_MS - 2 * DAY_MS, START_MS - DAY_MS + 5),
    gap(START_MS - 3 * DAY_MS, START_MS - 2 * DAY_MS),
]


def test_connections_are_the_gaps_of_a_day_and_what_the_feeds_do_now() -> None:
    assert stretches(told(WELL, (VITALS, [], GAPS))["connections"]) == [
        ("gap", iso(START_MS - DAY_MS), iso(START_MS - DAY_MS + 5)),
        ("filled", iso(START_MS - 60_000), iso(START_MS - 50_000)),
        ("live", iso(START_MS), None),
    ]


def test_what_is_no_gap_was_received_since_the_log_began() -> None:
    feeds = [WELL["feeds"][0] | {"since": iso(START_MS - 50_000)}]
    assert stretches(connections(feeds, GAPS, START_MS, START_MS - 9 * DAY_MS, None)) == [
        ("gap", iso(START_MS - DAY_MS), iso(START_MS - DAY_MS + 5)),
        ("live", iso(START_MS - DAY_MS + 5), iso(START_MS - 60_000)),
        ("filled", iso(START_MS - 60_000), iso(START_MS - 50_000)),
        ("live", iso(START_MS - 50_000), None),
    ]
    assert stretches(connections(feeds, [], START_MS, START_MS - 70_000, None)) == [
        ("live", iso(START_MS - 70_000), None)
    ]


def test_the_exchanges_hours_cut_the_day_and_a_broken_feed_ends_it() -> None:
    hour = 3_600_000
    opened, now_ms = START_MS - 6 * hour, START_MS  # at 04:00 in New York
    feeds = [{"market": "stocks", "state": "reconnecting", "detail": "Refused.", "since": iso(now_ms - 9_000)}]
    found = connections(feeds, [], now_ms, now_ms - 9 * DAY_MS, calendar())
    assert stretches(found) == [
        ("live", iso(now_ms - DAY_MS), iso(opened - 8 * hour)),
        ("closed", iso(opened - 8 * hour), iso(opened)),
        ("live", iso(opened), iso(now_ms - 9_000)),
        ("reconnecting", iso(now_ms - 9_000), None),
    ]
    assert found[-1]["cause"] == "Refused."
    crypto = connections([feeds[0] | {"market": "crypto", "state": "live"}], [], now_ms, 0, calendar())
    assert stretches(crypto) == [("live", iso(now_ms - DAY_MS), None)]
    lagging = connections([feeds[0] | {"market": "crypto", "state": "lagging"}], [], now_ms, 0, calendar())
    assert lagging == crypto, "a feed that lags is connected"
    days = {Market.FUTURES: calendar()[Market.STOCKS]}
    futures = connections([feeds[0] | {"market": "futures", "state": "live"}], [], now_ms, 0, days)
    assert [state for state, _, _ in stretches(futures)] == ["live", "closed", "live"]


def test_a_full_queue_a_long_way_and_stuck_notifications_are_told_as_warnings() -> None:
    stuck = VITALS | {"dead": 1, "oldest_waiting_at": iso(START_MS - 700_000)}
    found = told(WELL | {"queue_bytes": 200_000_000, "lag_ms": 61_000.0}, (stuck, [], []))
    assert [(one["state"], one["sentence"]) for one in found["problems"]] == [
        ("warn", "The queue before the log is 75 % full: trades come faster than they are recorded."),
        ("warn", "The newest trades were stored 61 s after they came."),
        ("warn", "1 notification was given up."),
        ("warn", "A notification has waited for 12 min."),
    ]


def test_the_worst_comes_first_and_what_loses_trades_is_the_worst() -> None:
    stale = [WELL["feeds"][0] | {"state": "stale"}, WELL["feeds"][0] | {"market": "crypto", "state": "connecting"}]
    both = with_room("store", state="down") | {"feeds": stale, "log": WELL["log"] | {"state": "full"}}
    assert [problem["sentence"] for problem in told(both, None)["problems"]] == [
        "The log is full.", "The stocks feed is stale.", "The store is down.", "The crypto feed is connecting.",
    ]  # fmt: skip


def test_all_is_well_with_the_facts() -> None:
    assert told(WELL)["advice"] == (
        "Stocks is live, 9.0 trades a second come, the newest was stored 12 ms after it came. Nothing needs to be done."
    )


def test_the_feeds_lag_is_that_of_the_newest_trade_and_none_in_a_recording() -> None:
    counts = dict.fromkeys(("trades", "late", "future", "ineligible", "unknown_conditions"), 0)
    rows = [
        counts | {"symbol": name, "market": "stocks", "watermark": None}
        | {"timestamp": iso(START_MS), "received_at": iso(START_MS + lag_ms)}
        for name, lag_ms in (("A", 40), ("B", 70))
    ]  # fmt: skip
    stage = told(WELL, (VITALS, rows, []))["stages"][0]
    assert (stage["lag_ms"], "(B)" in stage["detail"]) == (70, True)
    assert told(WELL | {"origin": "REPLAYED"}, (VITALS, rows, []))["stages"][0]["lag_ms"] is None


def test_many_pages_ask_the_database_once() -> None:
    class Counting(FakeMarket):
        asked = 0

        async def stocks(self) -> list[dict[str, Any]]:
            self.asked += 1
            return await super().stocks()

    market = Counting(["AAPL"], minutes=5)

    async def run() -> list[Any]:
        asked = Asked(market)
        return await asyncio.gather(*(asked() for _ in range(50)))

    answers = asyncio.run(run())
    assert market.asked == 1
    assert all(answer == answers[0] for answer in answers)


def test_percentiles_are_those_of_the_newest() -> None:
    recent = Recent(most=100)
    for i in range(1, 201):
        recent.note("commit", i / 1_000)
    assert recent.summary("commit") == {
        "name": "commit", "count": 200, "p50_ms": 151.0, "p99_ms": 200.0, "last_ms": 200.0,
    }  # fmt: skip
    assert recent.summary("none")["p50_ms"] is None
    assert recent.kinds("com") == ["commit"]


def test_the_last_hour_is_kept_and_no_more() -> None:
    pulse = Pulse()
    assert pulse.series()["from"] is None
    for i in range(800):
        pulse.note({"lag_ms": float(i), "trades_per_second": None, "queue_bytes": 0}, START_MS + 5_000 * i)
    series = pulse.series()
    assert (len(series["lag_ms"]), series["lag_ms"][0], series["lag_ms"][-1]) == (720, 80.0, 799.0)
    assert series["from"] == iso(START_MS + 5_000 * 80)
    assert series["trades_per_second"] == [None] * 720


@pytest.mark.parametrize("trouble", ["", "down"])
def test_the_route_answers_with_and_without_the_database(trouble: str) -> None:
    market = FakeMarket(["AAPL", "BTC"], minutes=90)
    if trouble:
        setattr(market, trouble, True)
    app = create_app(
        market, StreamHub(), lambda: broken(market), origin=Origin.SIMULATED, pulse=Pulse(lambda: START_MS)
    )

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/api/v1/health")

    answer = asyncio.run(ask())
    assert answer.status_code == 200
    found = answer.json()
    assert found["sentence"].startswith("The stocks feed is reconnecting")
    assert len(found["problems"]) == 3
    assert found["log"]["oldest_at"] == iso(START_MS)
    assert [row["symbol"] for row in found["symbols"]] == ([] if trouble else ["AAPL", "BTC"])
