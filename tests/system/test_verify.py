"""`tapewatch verify` is a proof only if it notices damage: every kind of it, in every table that it compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tapes import write_tape
from tapewatch.errors import LogLost, StoreMismatch
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ticks import with_ticks
from tapewatch.log.local import LogWriter
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import recorded
from tapewatch.profiles.rooms import Rooms, rebuild_rows
from tapewatch.profiles.verify import verify
from tapewatch.records import Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from trading_days import give_days

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GOOD = "verify_good"
DAMAGED = "verify_damaged"
ONE_OF = "ctid = (SELECT min(ctid) FROM {})"


def some_trades(folder: Path, tables: Tables) -> Batch:
    """Of stocks, each once."""
    trades, _ = recorded(write_tape(folder, trades=2_000, minutes=20)[:1], tables)
    return trades.take(np.flatnonzero(Seen().filter(trades)))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    give_days(folder)
    return Parts.load(Settings(_env_file=None, data_dir=folder, alerts_file=folder / "none.toml"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with trades, ticks, a gap, late trades, one from the future, and a symbol of which only an odd lot came."""
    folder = tmp_path_factory.mktemp("log")
    tables = Tables()
    trades = some_trades(folder, tables)
    half = len(trades) // 2
    records = with_ticks(trades, None)
    end_ms = int(records.time_ms[half])
    gap = Gap(market=Market.STOCKS, from_ms=end_ms - 90_000, to_ms=end_ms, cause="cut", symbols=[])
    row = (Kind.GAP, Market.STOCKS, -1, end_ms, end_ms * 10**6, 0.0, 0, 0, 0, 0, gap.encode())
    late = trades.take(np.arange(5))
    late.ids = [f"late {i}" for i in range(5)]
    future = trades.slice(half, half + 1)
    future = replace(future, time_ms=future.time_ms + 3_600_000, ids=["future"])
    symbol, codes = tables.symbols.index("ODD"), tables.conditions.index((37,))
    odd = trades.slice(half, half + 1)
    odd = replace(odd, symbol=np.full(1, symbol, np.int32), conditions=np.full(1, codes, np.int32), ids=["odd"])
    pieces = [records.slice(0, half), Batch.of([row]), odd, records.slice(half, len(records)), late, future]
    with LogWriter.open(folder / "log.db", tables, origin=Origin.LIVE) as writer:
        for piece in pieces:
            writer.append(piece)
    return folder / "log.db"


@pytest.fixture(scope="module")
def good(postgres_server: EmbeddedPostgres, log: Path, parts: Parts) -> Iterator[Dsn]:
    """A database of its own with the log's rows."""
    with psycopg.connect(postgres_server.dsn.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {GOOD}")
        dsn = replace(postgres_server.dsn, dbname=GOOD)
        rebuild_rows(Rooms(Origin.LIVE, log.parent, log, dsn.conninfo, False), parts)
        yield dsn
        connection.execute(f"DROP DATABASE {GOOD} WITH (FORCE)")


@pytest.fixture
def copy(good: Dsn) -> Iterator[str]:
    """A copy of it, to be damaged."""
    with psycopg.connect(make_conninfo(good.conninfo, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DAMAGED} TEMPLATE {GOOD}")
        yield make_conninfo(good.conninfo, dbname=DAMAGED)
        connection.execute(f"DROP DATABASE {DAMAGED} WITH (FORCE)")


def damaged(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, f"this damages nothing: {statement}"


def test_an_undamaged_database_is_good(good: Dsn, log: Path, parts: Parts) -> None:
    verdict = verify(log, good.conninfo, parts)
    assert verdict.is_good, verdict
    assert set(verdict.rows) == {
        "stock_aggregates", "price_bars", "breakout_alerts", "minute_quality", "latest_prices", "feed_gaps"
    }  # fmt: skip
    assert verdict.rows["stock_aggregates"] > 30
    assert verdict.rows["breakout_alerts"] > 2
    with psycopg.connect(good.conninfo) as connection:
        counts = connection.execute("SELECT sum(late), sum(future), sum(excluded), sum(gap_ms) FROM minute_quality")
        assert min(counts.fetchone() or (0,)) > 0
        odd = "SELECT (SELECT trades FROM minute_quality WHERE symbol = 'ODD'), count(*) FROM latest_prices"
        assert connection.execute(f"{odd} WHERE symbol = 'ODD'").fetchone() == (1, 0)  # without a price, no last price


@pytest.mark.parametrize(
    "table", ["stock_aggregates", "price_bars", "breakout_alerts", "minute_quality", "feed_gaps", "latest_prices"]
)
def test_a_lost_row_is_found(log: Path, parts: Parts, copy: str, table: str) -> None:
    damaged(copy, f"DELETE FROM {table} WHERE {ONE_OF.format(table)}")  # noqa: S608 - names of ours
    verdict = verify(log, copy, parts)
    assert (verdict.lost[table], verdict.is_good) == (1, False), verdict
    assert verdict.examples[0].startswith(table)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("stock_aggregates", "total_volume = total_volume * float8 '1.0000000000000002'"),
        ("stock_aggregates", "revision = revision + 1"),
        ("stock_aggregates", "is_final = NOT is_final"),
        ("stock_aggregates", "vwap = NULL"),
        ("price_bars", "close = close - 0.01"),
        ("price_bars", "bar_start = bar_start + interval '1 year'"),
        ("breakout_alerts", "status = CASE status WHEN 'confirmed' THEN 'retracted' ELSE 'confirmed' END"),
        ("breakout_alerts", "decided_at = decided_at + interval '1 second'"),
        ("breakout_alerts", "line = line + 0.01"),
        ("minute_quality", "trades = 2 * trades"),
        ("minute_quality", "late = late + 1"),
        ("minute_quality", "gap_ms = gap_ms + 1"),
        ("latest_prices", "trades = trades - 1"),
        ("feed_gaps", "gap_to = gap_to + interval '1 second'"),
    ],
)
def test_a_wrong_row_is_found(log: Path, parts: Parts, copy: str, table: str, change: str) -> None:
    damaged(copy, f"UPDATE {table} SET {change} WHERE {ONE_OF.format(table)}")  # noqa: S608 - names of ours
    verdict = verify(log, copy, parts)
    assert (verdict.wrong[table], verdict.is_good) == (1, False), verdict
    assert verdict.examples[-1].startswith(table)


def test_a_row_too_many_is_found(log: Path, parts: Parts, copy: str) -> None:
    damaged(
        copy,
        "INSERT INTO price_bars SELECT 'ZZZ', bar_start, open, high, low, close, volume, vwap, trade_count, is_final,"
        " revision FROM price_bars LIMIT 1",
    )
    verdict = verify(log, copy, parts)
    assert (verdict.wrong["price_bars"], verdict.is_good) == (1, False), verdict


def test_rows_ahead_of_their_position_are_found(log: Path, parts: Parts, copy: str) -> None:
    damaged(copy, "UPDATE engine_state SET position = position - 1500")
    verdict = verify(log, copy, parts)
    assert verdict.wrong["stock_aggregates"] > 0, verdict


@pytest.mark.parametrize("table", ["stock_aggregates", "price_bars", "minute_quality", "feed_gaps", "breakout_alerts"])
def test_a_doubled_row_is_found(log: Path, parts: Parts, copy: str, table: str) -> None:
    without_key = f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey"
    damaged(copy, without_key, f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1")  # noqa: S608 - names of ours
    verdict = verify(log, copy, parts)
    assert (verdict.doubled[table], verdict.is_good) == (1, False), verdict


def test_a_trade_twice_in_the_log_is_found(tmp_path: Path, parts: Parts, copy: str) -> None:
    tables = Tables()
    trades = some_trades(tmp_path, tables)
    path = tmp_path / "log.db"
    with LogWriter.open(path, tables, origin=Origin.LIVE) as writer:
        writer.append(trades.slice(0, 300))
        again = trades.slice(299, 300)
        for _ in range(2):
            writer.append(again)
    rebuild_rows(Rooms(Origin.LIVE, tmp_path, path, copy, False), parts)
    verdict = verify(path, copy, parts)
    assert (verdict.repeated, verdict.is_good) == (2, False)


def test_another_log_is_refused(tmp_path: Path, parts: Parts, copy: str) -> None:
    with LogWriter.open(tmp_path / "log.db", Tables(), origin=Origin.LIVE):
        pass
    with pytest.raises(StoreMismatch, match="holds no rows of log"):
        verify(tmp_path / "log.db", copy, parts)


def test_a_log_without_its_beginning_proves_nothing(tmp_path: Path, parts: Parts, copy: str) -> None:
    tables = Tables()
    trades = some_trades(tmp_path, tables)
    path = tmp_path / "log.db"
    with LogWriter.open(path, tables, origin=Origin.LIVE) as writer:
        writer.append(trades.slice(0, 100))
        writer.append(trades.slice(100, 200))
        cut_ms = writer.append(trades.slice(200, 300)).logged_ns // 1_000_000 + 1
        assert writer.retain(cut_ms, keep_from=200) > 0
    rebuild_rows(Rooms(Origin.LIVE, tmp_path, path, copy, False), parts)
    with pytest.raises(LogLost, match="verify proves logs that are whole"):
        verify(path, copy, parts)
