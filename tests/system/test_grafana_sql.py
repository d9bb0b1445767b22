"""Every SQL query of Grafana's dashboards and alert rules, on a real database with 30 days of 50 symbols.

They run as a user who is a member of tapewatch_grafana and nothing else, filled as Grafana fills them. On plain
PostgreSQL always, on TimescaleDB where this machine has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from grafana_fill import fill_days, freshen, symbols
from grafana_macros import Fill, chosen, filled_sql, queries
from store_users import ask, user
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.writer import StoreWriter

from grafana import provision  # isort: skip  (grafana_macros puts deploy/ on the path)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

UNTIL = datetime(2026, 3, 2, 21, tzinfo=UTC)
SYMBOL = "S07"
RANGES = {"6 hours": timedelta(hours=6), "30 days": timedelta(days=30)}
TABLES = "stock_aggregates, price_bars, breakout_alerts, latest_prices, feed_gaps, minute_quality"

TIME, TEXT, NUMBER, TRUTH = "timestamptz", "text", "float8", "bool"
_MARKS = {"time": TIME, "text": TEXT, "tags": TEXT}
_FRESH = {"symbol": TEXT, "alerts": NUMBER}
_KINDS = dict.fromkeys(("golden_cross", "death_cross", "high_volume", "provisional", "confirmed", "retracted"), NUMBER)
_BANDS = dict.fromkeys(("close", "bollinger_middle", "bollinger_upper", "bollinger_lower", "rsi_14"), NUMBER)
_MACD = dict.fromkeys(("macd", "macd_signal", "macd_histogram", "atr_14", "relative_volume"), NUMBER)
_COUNTS = dict.fromkeys(("excluded", "late", "future", "gap_ms"), NUMBER)
COLUMNS: dict[str, dict[str, str]] = {
    "tapewatch-overview: $symbol: candles, moving average, VWAP, volume A": {"time": TIME}
    | dict.fromkeys(("open", "high", "low", "close", "volume", "vwap", "ma_5min"), NUMBER),
    "tapewatch-overview: Watchlist A": {"symbol": TEXT}
    | dict.fromkeys(("current_price", "ma_5min", "distance", "total_volume"), NUMBER)
    | {"trend": TEXT, "last_trade": TIME},
    "tapewatch-technical: $symbol: close and Bollinger bands A": {"time": TIME} | _BANDS | _MACD,
    "tapewatch-health: $symbol: grade of the minutes A": {"time": TIME, "grade": TEXT} | _COUNTS,
    "tapewatch-health: Gaps of the feeds A": {"gap_from": TIME, "gap_to": TIME, "market": TEXT, "seconds": NUMBER}
    | {"cause": TEXT, "backfilled": TRUTH, "symbols": TEXT},
    "tapewatch-health: Quality of each symbol A": {"symbol": TEXT, "worst": TEXT, "trades": NUMBER} | _COUNTS,
    "tapewatch-alerts: Alerts by kind A": {"time": TIME} | _KINDS,
    "tapewatch-alerts: Symbols with the most alerts A": {"symbol": TEXT, "alerts": NUMBER, "confirmed": NUMBER}
    | {"retracted": NUMBER, "last_alert": TIME},
    "tapewatch-alerts: Alerts A": {"triggered_at": TIME, "symbol": TEXT, "kind": TEXT, "status": TEXT}
    | dict.fromkeys(("price", "line", "distance", "decided_after"), NUMBER)
    | {"late": TRUTH, "rule": TEXT, "alert_id": TEXT},
    "rule Golden Cross A": _FRESH,
    "rule Death Cross A": _FRESH,
    "rule High Volume A": _FRESH,
}
for _name, _ in queries("rawSql"):
    if ": mark " in _name:
        COLUMNS[_name] = _MARKS
    elif ": variable " in _name:
        COLUMNS[_name] = {"symbol": TEXT}


@dataclass(frozen=True)
class Place:
    """A filled database: its owner, and the user that Grafana is."""

    owner: Dsn
    grafana: Dsn


@pytest.fixture(scope="module", params=["postgres", "timescale"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "postgres":
        server: EmbeddedPostgres = request.getfixturevalue("postgres_server")
        owner = server.dsn
    else:
        owner = request.getfixturevalue("timescale_server")
    StoreWriter(owner.conninfo, "tests").initialise()
    with psycopg.connect(owner.conninfo, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
        fill_days(owner, UNTIL, hours=6)
        yield Place(owner, user(owner, "grafana_alone", "tapewatch_grafana"))
        connection.execute(f"TRUNCATE {TABLES}".encode())


def fill(since: timedelta, interval: str = "1m") -> Fill:
    return Fill(UNTIL - since, UNTIL, chosen(symbols(), SYMBOL, interval))


def filled(since: timedelta, interval: str = "1m") -> dict[str, str]:
    """Every query; the Alerts dashboard's with all symbols chosen, the others with one."""
    one = fill(since, interval)
    every = Fill(one.since, one.until, one.variables | {"symbol": symbols()})
    texts = dict(filled_sql(one))
    return texts | {name: text for name, text in filled_sql(every) if name.startswith("tapewatch-alerts")}


def rows(dsn: Dsn, text: str) -> list[dict[str, Any]]:
    with psycopg.connect(dsn.conninfo, row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute(text.encode()).fetchall()


@pytest.mark.parametrize("span", RANGES)
def test_every_query_gives_rows_of_the_expected_columns(place: Place, span: str) -> None:
    texts = filled(RANGES[span])
    freshen(place.owner)
    assert set(texts) == set(COLUMNS)
    with psycopg.connect(place.grafana.conninfo, autocommit=True) as connection:
        for name, text in texts.items():
            cursor = connection.execute(text.encode())
            assert cursor.description is not None
            found = {
                column.name: psycopg.adapters.types[column.type_code].regtype or column.type_display
                for column in cursor.description
            }
            short = {"timestamp with time zone": TIME, "double precision": NUMBER, "boolean": TRUTH}
            assert {key: short.get(kind, kind) for key, kind in found.items()} == COLUMNS[name], name
            got = cursor.fetchall()
            assert got or ("mark" in name and span == "6 hours"), name
            assert len(got) <= 750, name
            if next(iter(found)) == "time" and ": mark " not in name:
                times = [row[0] for row in got]
                assert times == sorted(set(times)), name


def test_candles_are_the_hours_of_the_database(place: Place) -> None:
    name = "tapewatch-overview: $symbol: candles, moving average, VWAP, volume A"
    shown = rows(place.grafana, filled(timedelta(days=3), "1h")[name])
    wanted = ask(
        place.owner,
        """SELECT h.bucket, h.open, h.high, h.low, h.close, h.volume,
                  (SELECT a.ma_5min FROM stock_aggregates a WHERE a.symbol = h.symbol
                   AND a.window_start = h.bucket + INTERVAL '55 minutes')
           FROM price_bars_1h h WHERE h.symbol = %s AND h.bucket >= %s AND h.bucket < %s ORDER BY 1""",
        SYMBOL,
        UNTIL - timedelta(days=3),
        UNTIL,
    )
    columns = ("time", "open", "high", "low", "close", "volume", "ma_5min")
    assert len(shown) == len(wanted) == 18
    for row, hour in zip(shown, wanted, strict=True):
        assert row["time"] == hour[0]
        # sums in another order end in other digits
        assert [row[column] for column in columns[1:]] == pytest.approx(list(hour[1:]), rel=1e-12)


def test_indicators_are_those_of_the_function(place: Place) -> None:
    name = "tapewatch-technical: $symbol: close and Bollinger bands A"
    shown = rows(place.grafana, filled(timedelta(hours=6))[name])
    wanted = ask(
        place.owner,
        "SELECT bar_start, close, rsi_14, macd_signal, atr_14 FROM get_indicators(%s, %s, %s, 10000)",
        SYMBOL,
        UNTIL - timedelta(hours=6),
        UNTIL,
    )
    assert [(r["time"], r["close"], r["rsi_14"], r["macd_signal"], r["atr_14"]) for r in shown] == wanted
    assert len(shown) == 360


def test_alerts_are_counted_whole(place: Place) -> None:
    texts = filled(timedelta(days=30))
    wanted = dict(
        ask(
            place.owner,
            """SELECT word, count(*) FROM breakout_alerts, unnest(ARRAY[kind, status]) AS word
               WHERE triggered_at BETWEEN %s AND %s GROUP BY 1""",
            UNTIL - timedelta(days=30),
            UNTIL,
        )
    )
    shown = rows(place.grafana, texts["tapewatch-alerts: Alerts by kind A"])
    assert {word: sum(row[word] for row in shown) for word in _KINDS} == wanted
    of_symbols = rows(place.grafana, texts["tapewatch-alerts: Symbols with the most alerts A"])
    kinds = ("golden_cross", "death_cross", "high_volume")
    assert sum(row["alerts"] for row in of_symbols) == sum(wanted[kind] for kind in kinds)
    assert sum(row["confirmed"] for row in of_symbols) == wanted["confirmed"]


def test_quality_and_gaps_are_those_of_the_tables(place: Place) -> None:
    texts = filled(timedelta(days=30))
    points = rows(place.grafana, texts["tapewatch-health: $symbol: grade of the minutes A"])
    (late, gap_ms, worst) = ask(
        place.owner, "SELECT sum(late), sum(gap_ms), max(grade) FROM quality_grades WHERE symbol = %s", SYMBOL
    )[0]
    assert (sum(p["late"] for p in points), sum(p["gap_ms"] for p in points)) == (late, gap_ms)
    assert max(p["grade"] for p in points) == worst == "D"
    gaps = rows(place.grafana, texts["tapewatch-health: Gaps of the feeds A"])
    assert len(gaps) == ask(place.owner, "SELECT count(*) FROM feed_gaps")[0][0]
    assert {(gap["seconds"], gap["symbols"]) for gap in gaps} == {(12.0, "S01")}
    quality = rows(place.grafana, texts["tapewatch-health: Quality of each symbol A"])
    assert [row["symbol"] for row in quality] == symbols()
    assert {row["trades"] for row in quality} == {20.0 * 360}


def test_rules_see_fresh_alerts_and_no_others(place: Place) -> None:
    freshen(place.owner)
    for title in ("Golden Cross", "Death Cross", "High Volume"):
        text = filled(timedelta(hours=6))[f"rule {title} A"]
        assert rows(place.grafana, text) == [{"symbol": "S01", "alerts": 1.0}]
        late = text.replace("INTERVAL '5 minutes'", "INTERVAL '0 s'")
        assert rows(place.grafana, late) == []


def test_the_embedded_database_lets_grafana_in_to_read(postgres_server: EmbeddedPostgres) -> None:
    folder = postgres_server._files.data_dir
    for password in ("first password", "another 'password'"):
        dsn = provision.let_in(folder, password)
        assert len(ask(dsn, "SELECT count(*) FROM latest_stock_data")) == 1
        assert ask(dsn, "SHOW default_transaction_read_only") == [("on",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(replace(dsn, password="first password"), "SELECT 1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(dsn, "SELECT * FROM engine_state")


def test_grafana_can_change_nothing(place: Place) -> None:
    with psycopg.connect(place.grafana.conninfo, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM feed_gaps")
