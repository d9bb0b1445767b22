"""The API's reads against a real PostgreSQL, and what a person asks in psql."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import psycopg
import pytest

from ports import held_port
from postgres import end_sessions
from store_rows import MINUTE, START, alert, bar, changes, gap, latest, notification, quality, window
from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.records import AlertStatus, Changes, Market, Origin
from tapewatch.settings import STORE_READERS_MAX
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.queries import Queries
from tapewatch.store.reading import read_alerts, read_bars, read_windows
from tapewatch.store.writer import StoreWriter

T = TypeVar("T")
HOUR = 60 * MINUTE
WINDOW = 5 * MINUTE


class Store:
    """A database to fill and to ask."""

    def __init__(self, dsn: Dsn) -> None:
        self.dsn = dsn
        self._writer = StoreWriter.connect(dsn.conninfo)
        self._position = self._writer.recover("log", Origin.SIMULATED).position

    def fill(self, given: Changes, **others: Any) -> None:
        self._writer.commit(given, self._position, self._position + 1, **others)
        self._position += 1

    def ask(self, question: Callable[[Queries], Awaitable[T]]) -> T:
        async def answer() -> T:
            queries = Queries(self.dsn.conninfo)
            try:
                return await question(queries)
            finally:
                await queries.close()

        return asyncio.run(answer())

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn.conninfo, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def history(self, symbol: str, interval: str, limit: int = 1_000, **times: int | None) -> list[dict[str, Any]]:
        span = {"from_ms": None, "to_ms": None} | times
        return self.ask(
            lambda q: q.history(symbol, interval=interval, limit=limit, window_ms=WINDOW, slide_ms=MINUTE, **span)
        )

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def store(postgres: Dsn) -> Iterator[Store]:
    store = Store(postgres)
    yield store
    store.close()


def test_stocks_have_every_column_the_trend_and_json_ready_values(store: Store) -> None:
    store.fill(changes(latest=[latest(2), latest(0, ma_5min=102.0), latest(1, ma_5min=np.nan, market=Market.CRYPTO)]))
    rows = store.ask(lambda q: q.stocks())
    assert [(row["symbol"], row["market"], row["trend"]) for row in rows] == [
        ("AAPL", "stocks", "BEARISH"),
        ("BTC", "crypto", "NEUTRAL"),
        ("MSFT", "stocks", "BULLISH"),
    ]
    aapl = rows[0]
    assert aapl["timestamp"] == "2026-03-02T14:30:00Z"
    assert aapl["received_at"] == "2026-03-02T14:30:00.005123Z"
    assert aapl["previous_close"] is None
    assert msgspec.json.decode(msgspec.json.encode(rows)) == rows
    assert store.ask(lambda q: q.latest("AAPL")) == aapl
    assert store.ask(lambda q: q.latest("NONE")) is None


def five_minutes(store: Store) -> None:
    """Five bars of AAPL; each has the window that ends with it."""
    starts = [START + i * MINUTE for i in range(5)]
    store.fill(
        changes(
            bars=[
                bar(
                    0,
                    t,
                    open=100.0 + i,
                    high=110.0 + i,
                    low=90.0 - i,
                    close=101.0 + i,
                    volume=10.0 * (i + 1),
                    vwap=100.0 + i,
                )
                for i, t in enumerate(starts)
            ],
            windows=[window(0, t + MINUTE - WINDOW, ma_5min=50.0 + i) for i, t in enumerate(starts)],
            latest=[latest(0, watermark_ms=START + 10 * MINUTE)],
        )
    )


def test_history_of_minutes_joins_each_bar_with_the_window_that_ends_with_it(store: Store) -> None:
    five_minutes(store)
    rows = store.history("AAPL", "1m")
    assert [row["time"] for row in rows] == [f"2026-03-02T14:3{i}:00Z" for i in range(5)]
    assert [row["ma_5min"] for row in rows] == [50.0, 51.0, 52.0, 53.0, 54.0]
    assert [row["vwap"] for row in rows] == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert all(row["is_final"] and not row["partial"] for row in rows)


def test_history_of_five_minutes_is_first_last_highest_lowest_and_weighted(store: Store) -> None:
    five_minutes(store)
    (row,) = store.history("AAPL", "5m")
    volumes = [10.0, 20.0, 30.0, 40.0, 50.0]
    assert row == {
        "time": "2026-03-02T14:30:00Z",
        "open": 100.0,
        "high": 114.0,
        "low": 86.0,
        "close": 105.0,
        "volume": 150.0,
        "vwap": pytest.approx(sum((100.0 + i) * v for i, v in enumerate(volumes)) / 150.0),
        "trade_count": 15,
        "ma_5min": 54.0,
        "is_final": True,
        "partial": False,
    }


def test_history_gives_the_newest_rows_of_the_time_asked_for_oldest_first(store: Store) -> None:
    five_minutes(store)
    closes = [row["close"] for row in store.history("AAPL", "1m", limit=2)]
    assert closes == [104.0, 105.0]
    times = {"from_ms": START + MINUTE, "to_ms": START + 4 * MINUTE}
    assert [row["close"] for row in store.history("AAPL", "1m", **times)] == [102.0, 103.0, 104.0]
    assert [row["close"] for row in store.history("AAPL", "1m", limit=1, **times)] == [104.0]
    assert store.history("AAPL", "1m", limit=0) == []
    assert store.history("NONE", "1d") == []


def test_an_hour_is_final_when_the_watermark_has_passed_its_end(store: Store) -> None:
    hour = START - 30 * MINUTE
    for watermark, is_final in ((hour + HOUR - 1, False), (hour + HOUR, True)):
        store.fill(changes(bars=[bar(0, hour)], latest=[latest(0, watermark_ms=watermark)]))
        assert [row["is_final"] for row in store.history("AAPL", "1h")] == [is_final]


def test_limited_days_are_whole(store: Store) -> None:
    hours = [bar(0, START + i * HOUR, volume=1.0) for i in range(24 * 4)]
    store.fill(changes(bars=hours))
    days = store.history("AAPL", "1d")
    assert [row["volume"] for row in days] == [15.0, 24.0, 24.0, 24.0, 9.0]
    assert store.history("AAPL", "1d", limit=3) == days[-3:]


@pytest.mark.parametrize("interval", ["5m", "1h", "1d"])
def test_a_span_of_time_gives_the_bars_that_the_newest_of_all_are(store: Store, interval: str) -> None:
    bars = [bar(0, START + i * 7 * MINUTE, open=i + 0.25, close=i + 0.5, volume=1.0) for i in range(400)]
    store.fill(changes(bars=bars))
    newest = store.history("AAPL", interval)
    assert len(newest) > 2, "few rows prove nothing"
    assert store.history("AAPL", interval, from_ms=START, to_ms=START + 3_000 * MINUTE) == newest
    assert store.history("AAPL", interval, from_ms=START, to_ms=START + 3_000 * MINUTE, limit=2) == newest[-2:]


@pytest.mark.parametrize(
    ("market", "times"),
    [
        # 01:00 UTC belongs to the evening before in New York; the clocks change there on 8 March
        (Market.STOCKS, ["2026-03-07T05:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"]),
        (Market.CRYPTO, ["2026-03-08T00:00:00Z", "2026-03-09T00:00:00Z", "2026-03-10T00:00:00Z"]),
    ],
)
def test_days_are_cut_where_the_market_lives(store: Store, market: Market, times: list[str]) -> None:
    one_o_clock = 1_772_931_600_000  # 2026-03-08 01:00 UTC
    bars = [bar(0, one_o_clock + i * 24 * HOUR) for i in range(3)]
    store.fill(changes(bars=bars, latest=[latest(0, market=market)]))
    assert [row["time"] for row in store.history("AAPL", "1d")] == times


@pytest.mark.parametrize(
    ("hole", "partial"),
    [
        ({}, [False, True, True, False]),
        ({"symbols": []}, [False, True, True, False]),
        ({"symbols": ["MSFT"]}, [False] * 4),
        ({"market": Market.CRYPTO}, [False] * 4),
    ],
)
def test_bars_over_a_gap_are_partial(store: Store, hole: dict[str, Any], partial: list[bool]) -> None:
    bars = [bar(0, START + i * MINUTE) for i in range(4)]
    # |   0   |   1   |   2   |   3   |
    #             xxxxxxxxxxxx            the gap ends exactly where bar 3 begins
    a_gap = gap(START + MINUTE + 30_000, START + 3 * MINUTE, **hole)
    store.fill(changes(bars=bars, latest=[latest(0)], gaps=[a_gap]))
    assert [row["partial"] for row in store.history("AAPL", "1m")] == partial
    store.sql("UPDATE feed_gaps SET backfilled = true")
    assert not any(row["partial"] for row in store.history("AAPL", "1m"))


def test_alerts_come_newest_first_with_their_delivery_and_can_be_narrowed(store: Store) -> None:
    many = [
        alert(alert_id=f"a{i}", triggered_ms=START + i, symbol=symbol, kind=kind)
        for i, (symbol, kind) in enumerate([("AAPL", "golden_cross"), ("AAPL", "death_cross"), ("BTC", "high_volume")])
    ]
    end = alert(AlertStatus.CONFIRMED, "a0", decided_ms=START + 62_000, evidence={"after": {"line": 101.5}})
    store.fill(changes(alerts=[*many, end]), notifications=[notification("a0")])
    ids = lambda **narrow: [row["alert_id"] for row in store.ask(lambda q: q.alerts(**narrow))]  # noqa: E731
    assert ids() == ["a2", "a1", "a0"]
    assert ids(limit=1) == ["a2"]
    assert ids(symbol="AAPL") == ["a1", "a0"]
    assert ids(kind="high_volume") == ["a2"]
    assert ids(status="confirmed") == ["a0"]
    assert ids(before_ms=START + 2) == ["a1", "a0"]
    assert ids(symbol="'; DROP TABLE breakout_alerts; --") == []
    row = store.ask(lambda q: q.alert("a0"))
    assert row is not None
    assert row["evidence"] == {"before": 1, "after": {"line": 101.5}}
    assert row["deliveries"] == [
        {
            "channel": "log", "event": "confirmed", "state": "new", "attempts": 0, "last_error": None,
            "delivered_at": None, "reason": None, "held_until": None, "told_by": None,
        }
    ]  # fmt: skip
    assert (row["confirmed_at"], row["retracted_at"]) == ("2026-03-02T14:31:02Z", None)
    assert store.ask(lambda q: q.alert("none")) is None


def test_gaps_quality_notifications_lanes_and_counts(store: Store) -> None:
    store.fill(
        changes(
            quality=[quality(0, START, late=5), quality(0, START + MINUTE), quality(1)],
            gaps=[gap(), gap(START + HOUR, START + HOUR + 1)],
        ),
        notifications=[notification()],
    )
    assert [row["gap_to"] for row in store.ask(lambda q: q.gaps(10))] == [
        "2026-03-02T15:30:00.001Z",
        "2026-03-02T14:30:10Z",
    ]
    graded = store.ask(lambda q: q.quality("AAPL", START, START + 2 * MINUTE))
    assert [(row["minute"], row["grade"]) for row in graded] == [
        ("2026-03-02T14:30:00Z", "B"),
        ("2026-03-02T14:31:00Z", "A"),
    ]
    (waiting,) = store.ask(lambda q: q.notifications("new", 10))
    assert (waiting["id"], waiting["payload"]) == ("a1:log:confirmed", {"text": "crossed"})
    assert store.ask(lambda q: q.notifications("dead", 10)) == []
    (lane,) = store.ask(lambda q: q.lanes())
    assert (lane["lane"], lane["log_id"], lane["origin"], lane["position"]) == ("embedded", "log", "SIMULATED", 1)
    counts = store.ask(lambda q: q.counts())
    assert (counts["minute_quality"], counts["feed_gaps"], counts["notifications_waiting"]) == (3, 2, 1)


def test_times_beyond_all_calendars_are_no_error(store: Store) -> None:
    five_minutes(store)
    assert len(store.history("AAPL", "1m", from_ms=-(2**63), to_ms=2**63 - 1)) == 5
    assert store.ask(lambda q: q.alerts(before_ms=-(2**63))) == []


def test_a_nul_in_a_question_is_an_error_of_the_question(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot look for that"):
        store.ask(lambda q: q.latest("A\0"))


def test_the_session_cannot_write(store: Store, postgres_server: EmbeddedPostgres) -> None:
    async def write(queries: Queries) -> None:
        await queries._rows("DELETE FROM feed_gaps")

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        store.ask(write)
    with psycopg.connect(postgres_server.reader.conninfo, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM price_bars").fetchone() == (0,)
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM price_bars")


def test_more_questions_than_connections_wait_for_one(store: Store) -> None:
    async def many(queries: Queries) -> int:
        await asyncio.gather(*(queries.ping() for _ in range(5 * STORE_READERS_MAX)))
        return len(queries._idle)

    assert 1 <= store.ask(many) <= STORE_READERS_MAX


def test_connections_that_died_are_replaced_at_once(store: Store) -> None:
    async def survive(queries: Queries) -> None:
        await asyncio.gather(*(queries.ping() for _ in range(STORE_READERS_MAX)))
        end_sessions(store.dsn, "tapewatch api")
        await queries.ping()

    store.ask(survive)


@pytest.mark.slow
def test_a_database_that_is_down_or_silent_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the program's own patience
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent, held_port() as free:
        for port, reason in (
            (silent.getsockname()[1], "did not take our connection within 1 s"),
            (free, "Connection refused"),
        ):
            with pytest.raises(StoreUnavailable, match=reason):
                asyncio.run(Queries(replace(store.dsn, port=port).conninfo).open())


def test_a_wrong_password_is_no_outage(store: Store) -> None:
    with pytest.raises(StoreError, match="password of user tapewatch is wrong"):
        asyncio.run(Queries(replace(store.dsn, password="guess").conninfo).open())


# --- what a person asks in psql ---------------------------------------------------------------------------------


def test_latest_stock_data(store: Store) -> None:
    store.fill(changes(latest=[latest(0, price=101.0, ma_5min=101.0), latest(1, ma_5min=99.0)]))
    assert store.sql("SELECT symbol, current_price, ma_5min, trend FROM latest_stock_data ORDER BY symbol") == [
        ("AAPL", 101.0, 101.0, "NEUTRAL"),
        ("BTC", 101.0, 99.0, "BULLISH"),
    ]


def test_crosses_of_the_last_hours(store: Store) -> None:
    store.fill(
        changes(
            alerts=[
                alert(alert_id="old", triggered_ms=START - 3 * HOUR),
                alert(alert_id="edge", triggered_ms=START - 2 * HOUR),
                alert(alert_id="new", triggered_ms=START - 1),
                alert(AlertStatus.RETRACTED, "new", triggered_ms=START - 1),
                alert(alert_id="next", triggered_ms=START),
                alert(alert_id="after", triggered_ms=START + 1),
                alert(alert_id="death", triggered_ms=START - 5, kind="death_cross", direction=-1),
                alert(alert_id="other", triggered_ms=START - 5, symbol="MSFT"),
            ]
        )
    )
    as_of = "'2026-03-02 14:30+00'"
    golden = f"SELECT alert_id, status, price, ma_5min FROM get_golden_crosses('aapl', 2, {as_of})"  # noqa: S608
    assert store.sql(golden) == [("next", "provisional", 101.25, 101.0), ("new", "retracted", 101.25, 101.0)]
    assert store.sql(f"SELECT alert_id FROM get_death_crosses('AAPL', 2, {as_of})") == [("death",)]  # noqa: S608
    assert store.sql("SELECT * FROM get_golden_crosses('AAPL', 0)") == []


def test_crosses_do_not_depend_on_the_search_path(store: Store) -> None:
    store.fill(changes(alerts=[alert()]))
    with psycopg.connect(store.dsn.conninfo, autocommit=True) as connection:
        connection.execute("SET search_path = pg_temp; CREATE TEMP TABLE breakout_alerts (alert_id text)")
        query = "SELECT alert_id FROM public.get_golden_crosses('AAPL', 1, '2026-03-02 14:31+00')"
        assert connection.execute(query).fetchall() == [("a1",)]


def test_hours_and_days_as_views(store: Store) -> None:
    five_minutes(store)
    columns = "(bucket AT TIME ZONE 'UTC')::text, open, high, low, close, volume, trade_count"
    bars = (100.0, 114.0, 86.0, 105.0, 150.0, 15)
    assert store.sql(f"SELECT {columns} FROM price_bars_1h") == [("2026-03-02 14:00:00", *bars)]  # noqa: S608
    assert store.sql(f"SELECT {columns} FROM price_bars_1d") == [("2026-03-02 05:00:00", *bars)]  # noqa: S608


def test_old_rows_are_pruned_and_recent_ones_kept(store: Store) -> None:
    now = time.time_ns() // 1_000_000
    day = 24 * HOUR
    times = [now - 31 * day, now - 29 * day]
    store.fill(
        changes(
            bars=[bar(0, t) for t in times],
            windows=[window(0, t) for t in times],
            quality=[quality(0, t) for t in times],
            alerts=[alert(alert_id=f"a{i}", pane_start_ms=t) for i, t in enumerate(times)],
            gaps=[gap(t, t + 1) for t in times],
        ),
        notifications=[notification()],
    )
    store.sql("CALL prune_old_rows(30)")
    counts = store.ask(lambda q: q.counts())
    tables = ("stock_aggregates", "price_bars", "breakout_alerts", "feed_gaps", "minute_quality", "notifications")
    assert [counts[table] for table in tables] == [1] * 6
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="expected 1 day or more"):
        store.sql("CALL prune_old_rows(0)")


# --- whole tables -----------------------------------------------------------------------------------------------


def test_tables_are_read_in_key_order(store: Store) -> None:
    symbols = ["b", "A.B", "AB", "a"]
    every = [(i, START + minute * MINUTE) for i in range(4) for minute in (1, 0)]
    store.fill(
        changes(
            symbols=symbols,
            bars=[bar(i, t) for i, t in every],
            windows=[window(i, t) for i, t in every],
            alerts=[alert(alert_id=f"{i}", pane_start_ms=t, line=math.inf) for i, t in every],
        )
    )
    expected = sorted((symbols[i], t) for i, t in every)
    assert [row[:2] for row in read_bars(store.dsn.conninfo)] == expected
    assert [row[:2] for row in read_windows(store.dsn.conninfo)] == expected
    alerts = list(read_alerts(store.dsn.conninfo))
    assert [(a.pane_start_ms, a.alert_id) for a in alerts] == sorted((t, f"{i}") for i, t in every)
    assert all(math.isinf(a.line) for a in alerts)


# --- at a glance ------------------------------------------------------------------------------------------------


def test_the_overview_has_the_last_hour_of_closes_and_the_quality_of_the_window(store: Store) -> None:
    late = quality(0, START + 58 * MINUTE, trades=10, late=3, excluded=2)
    store.fill(
        changes(
            latest=[latest(0), latest(1, market=Market.CRYPTO)],
            bars=[bar(0, START - MINUTE, close=1.0), bar(0, START, close=2.0), bar(0, START + 59 * MINUTE, close=3.0)],
            quality=[quality(0, START + 54 * MINUTE, gap_ms=60_000), quality(0, START + 55 * MINUTE, future=1), late],
        )
    )
    store.fill(changes(quality=[quality(0, START + 59 * MINUTE)]))
    aapl, btc = store.ask(lambda q: q.overview(WINDOW, MINUTE))
    assert aapl == {
        "symbol": "AAPL", "market": "stocks", "from": "2026-03-02T14:30:00Z", "step_ms": MINUTE,
        "closes": [2.0, *[None] * 58, 3.0], "grade": "B", "trades": 210, "excluded": 2, "late": 3, "future": 1,
        "gap_ms": 0,
    }  # fmt: skip
    assert (btc["symbol"], btc["from"], btc["closes"], btc["grade"]) == ("BTC", None, [None] * 60, None)


def test_indicators_are_those_of_the_function_with_times_as_text(store: Store) -> None:
    store.fill(changes(bars=[bar(0, START + i * MINUTE, close=100.0 + i % 7) for i in range(40)]))
    rows = store.ask(lambda q: q.indicators("AAPL", START, START + 40 * MINUTE, 3))
    assert [row["time"] for row in rows] == [f"2026-03-02T15:{minute:02}:00Z" for minute in (7, 8, 9)]
    (expected,) = store.sql(
        "SELECT rsi_14, macd_signal, atr_14 FROM get_indicators('AAPL', '-infinity', 'infinity', 1)"
    )
    assert (rows[-1]["rsi_14"], rows[-1]["macd_signal"], rows[-1]["atr_14"]) == pytest.approx(expected, rel=1e-12)
    assert store.ask(lambda q: q.indicators("NONE", START, START + MINUTE, 3)) == []


def test_alerts_of_a_rule_and_since_a_time(store: Store) -> None:
    store.fill(changes(alerts=[alert(alert_id="a1", rule="mine"), alert(alert_id="a2", triggered_ms=START + 50_000)]))
    found = store.ask(lambda q: q.alerts(rule="mine"))
    assert [row["alert_id"] for row in found] == ["a1"]
    found = store.ask(lambda q: q.alerts(from_ms=START + 50_000))
    assert [row["alert_id"] for row in found] == ["a2"]
