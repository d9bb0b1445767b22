"""`init_db.sql` and the writer on the real TimescaleDB: hypertables, policies, aggregates, compressed chunks.

The policies do not run by themselves here (`timescale.py`); a test calls them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from store_rows import MINUTE, START, bar, changes, gap, notification, quality, window
from store_users import EVERYTHING, ask, fill, run, writing
from tapewatch.errors import StoreUnavailable
from tapewatch.records import Changes, Origin
from tapewatch.store.connect import Dsn
from tapewatch.store.following import Following
from tapewatch.store.writer import INIT_SQL, StoreWriter

pytestmark = pytest.mark.slow

HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
HYPERTABLES = ["breakout_alerts", "minute_quality", "price_bars", "stock_aggregates"]
IN_COLUMNS = ["minute_quality", "price_bars", "stock_aggregates"]
JOBS = """
SELECT proc_name, config - ARRAY['mat_hypertable_id', 'hypertable_id'], job_id FROM timescaledb_information.jobs
WHERE job_id >= 1000 ORDER BY job_id
"""
BARS = "SELECT * FROM {} ORDER BY symbol, bucket"


@pytest.fixture
def place(timescale: Dsn) -> Dsn:
    """A database with our tables."""
    StoreWriter(timescale.conninfo, "tests").initialise()
    return timescale


def jobs(dsn: Dsn, kind: str) -> list[tuple[dict[str, Any], int]]:
    """Settings and numbers of the policies of one kind."""
    return [(config, number) for name, config, number in ask(dsn, JOBS) if name == f"policy_{kind}"]


def run_jobs(dsn: Dsn) -> None:
    """Every policy once, as the background worker does it."""
    for _, _, number in ask(dsn, JOBS):
        run(dsn, f"CALL run_job({number})")


def compress(dsn: Dsn) -> None:
    """Every chunk into the columnstore."""
    for table in IN_COLUMNS:
        ask(dsn, "SELECT compress_chunk(c) FROM show_chunks(%s::regclass) c", table)


def now_ms() -> int:
    return int(time.time()) * 1000 // DAY * DAY


# --- what init_db.sql makes ------------------------------------------------------------------------------------------


def test_hypertables_policies_and_aggregates_are_there_and_a_second_run_changes_nothing(place: Dsn) -> None:
    def found() -> list[list[tuple[Any, ...]]]:
        return [
            ask(place, "SELECT hypertable_name, num_dimensions FROM timescaledb_information.hypertables ORDER BY 1"),
            ask(
                place,
                "SELECT view_name, materialized_only FROM timescaledb_information.continuous_aggregates ORDER BY 1",
            ),
            ask(place, JOBS),
        ]

    first = found()
    assert first[0] == [(name, 1) for name in HYPERTABLES]
    assert first[1] == [("price_bars_1d", False), ("price_bars_1h", False)]
    assert [config["compress_after"] for config, _ in jobs(place, "compression")] == ["7 days"] * 3
    assert jobs(place, "retention") == jobs(place, "refresh_continuous_aggregate") == []  # these depend on the data
    StoreWriter(place.conninfo, "tests").initialise()
    assert found() == first


def test_plain_tables_are_taken_over_with_their_rows(timescale: Dsn) -> None:
    plain = INIT_SQL.read_bytes().replace(b"CREATE EXTENSION IF NOT EXISTS timescaledb;", b"NULL;")
    with psycopg.connect(timescale.conninfo, autocommit=True) as connection:
        connection.execute(plain)
    fill(timescale)
    relations = [
        "stock_aggregates",
        "price_bars",
        "minute_quality",
        "breakout_alerts",
        "price_bars_1h",
        "price_bars_1d",
    ]
    before = [ask(timescale, f"TABLE {relation}") for relation in relations]
    assert all(len(rows) == 1 for rows in before)
    assert ask(timescale, "SELECT extname FROM pg_extension WHERE extname = 'timescaledb'") == []
    StoreWriter(timescale.conninfo, "tests").initialise()
    assert [ask(timescale, f"TABLE {relation}") for relation in relations] == before
    rows = ask(timescale, "SELECT hypertable_name FROM timescaledb_information.chunks ORDER BY 1")
    assert [name for (name,) in rows] == HYPERTABLES
    with writing(timescale) as writer:
        assert writer.recover("log", Origin.SIMULATED).position == 10
        writer.commit(changes(bars=[bar(revision=4, close=7.0)]), 10, 20)
    assert ask(timescale, "SELECT close FROM price_bars") == [(7.0,)]


def refreshed_since(dsn: Dsn) -> list[str | None]:
    return [config["start_offset"] for config, _ in jobs(dsn, "refresh_continuous_aggregate")]


def test_policies_are_those_of_the_data(place: Dsn) -> None:
    """Also after an earlier version's, which reached back three days."""
    run(
        place,
        "SELECT add_continuous_aggregate_policy('price_bars_1h', INTERVAL '3 days', INTERVAL '1 hour', '15 minutes')",
    )
    for _ in range(2):
        with writing(place, origin=Origin.LIVE) as writer:
            assert refreshed_since(place) == ["29 days"] * 2
            assert len(jobs(place, "retention")) == 4
            writer.reset(outbox=True)
    for _ in range(2):
        with writing(place, origin=Origin.REPLAYED) as writer:
            assert refreshed_since(place) == [None] * 2
            assert jobs(place, "retention") == []
            writer.reset(outbox=True)


# --- continuous aggregates -------------------------------------------------------------------------------------------


def bars_of_days(first_ms: int, days: int) -> Changes:
    """Two symbols around the clock, with a bar in every seventh minute; some without volume."""
    rng = np.random.default_rng(7)
    bars = []
    for symbol in (0, 1):
        for start in range(first_ms, first_ms + days * DAY, 7 * MINUTE):
            volume = float(rng.integers(0, 5))
            low, *between, high = sorted(float(price) / 4 for price in rng.integers(100, 200, 4))
            bars.append(
                bar(symbol, start, open=between[0], close=between[1], high=high, low=low, volume=volume,
                    vwap=between[0] if volume else np.nan, trade_count=int(volume))
            )  # fmt: skip
    return changes(bars=bars)


def test_aggregates_say_the_same_as_the_plain_views(place: Dsn, postgres: Dsn) -> None:
    """Over the night in which New York puts its clocks forward; not yet materialised, half of it, and all of it."""
    given = bars_of_days(START + 4 * DAY, 6)
    for dsn in (place, postgres):
        with writing(dsn) as writer:
            writer.commit(given, 0, 10)
    for until in ("", "'2026-03-09'", "NULL"):
        for view in ("price_bars_1h", "price_bars_1d"):
            if until:
                run(place, f"CALL refresh_continuous_aggregate('{view}', NULL, {until})")
            ours, plain = (ask(dsn, BARS.format(view)) for dsn in (place, postgres))
            assert [row[:7] + row[8:] for row in ours] == [row[:7] + row[8:] for row in plain]
            assert [row[7] for row in ours] == pytest.approx([row[7] for row in plain], rel=1e-13, nan_ok=True)
            assert len(ours) == {"price_bars_1h": 2 * 6 * 24 + 2, "price_bars_1d": 2 * 7}[view]


def test_a_late_correction_reaches_the_aggregates_by_their_policies(place: Dsn) -> None:
    """Also of a row in a compressed chunk, so of one older than seven days."""
    day = now_ms() - 20 * DAY
    with writing(place) as writer:
        writer.commit(
            changes(bars=[bar(start=day, high=200.0), bar(start=day + DAY), bar(start=day + 19 * DAY)]), 0, 10
        )
        run_jobs(place)
        chunks = "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'price_bars'"
        assert ask(place, f"{chunks} ORDER BY range_start") == [(True,), (True,), (False,)]
        writer.commit(changes(bars=[bar(start=day, high=300.0, revision=4), bar(1, day + 5 * DAY)]), 10, 20)
    assert ask(place, "SELECT max(high), count(*) FROM price_bars_1d") == [(200.0, 3)]
    run_jobs(place)
    for view in ("price_bars_1h", "price_bars_1d"):
        rows = ask(place, f"TABLE {view}")
        assert (max(row[3] for row in rows), len(rows), sum(row[8] for row in rows)) == (300.0, 4, 12)


# --- compressed chunks -----------------------------------------------------------------------------------------------


def minutes_of(symbols: int, minutes: range, revision: int) -> Changes:
    """A window, a bar and a row of quality for each symbol and minute."""
    names = [f"S{number:03}" for number in range(symbols)]
    found = changes(
        symbols=names,
        windows=[window(start=START + minute * MINUTE, revision=revision) for minute in minutes],
        bars=[bar(start=START + minute * MINUTE, revision=revision) for minute in minutes],
        quality=[quality(minute=START + minute * MINUTE) for minute in minutes],
    )
    rows = []
    for array in (found.windows, found.bars, found.quality):
        wide = np.repeat(array, symbols)
        wide["symbol"] = np.tile(np.arange(symbols), len(minutes))
        rows.append(wide)
    found.windows, found.bars, found.quality = rows
    return found


@pytest.fixture
def compressed(place: Dsn) -> Iterator[StoreWriter]:
    """300 symbols' session, compressed: a change of one row of each must open more rows than TimescaleDB allows."""
    with writing(place) as writer:
        writer.commit(minutes_of(300, range(390), 1), 0, 10)
        compress(place)
        rows = ask(place, "SELECT DISTINCT is_compressed FROM timescaledb_information.chunks")
        assert rows == [(True,)]
        yield writer


def test_corrections_of_many_symbols_go_into_compressed_chunks(place: Dsn, compressed: StoreWriter) -> None:
    compressed.commit(minutes_of(300, range(200, 201), 2), 10, 20)
    changed_once = [(1, 300 * 389), (2, 300)]
    assert ask(place, "SELECT revision, count(*) FROM price_bars GROUP BY 1 ORDER BY 1") == changed_once
    assert ask(place, "SELECT revision, count(*) FROM stock_aggregates GROUP BY 1 ORDER BY 1") == changed_once
    assert ask(place, "SELECT trades / 100, count(*) FROM minute_quality GROUP BY 1 ORDER BY 1") == changed_once
    assert ask(place, "SELECT count(*) FROM refused_rows") == [(0,)]
    compress(place)
    assert ask(place, "SELECT revision, count(*) FROM price_bars GROUP BY 1 ORDER BY 1") == changed_once


def test_without_the_sessions_setting_they_would_not(place: Dsn, compressed: StoreWriter) -> None:
    """Canary: TimescaleDB's own limit is reached."""
    compressed._connected().execute("RESET timescaledb.max_tuples_decompressed_per_dml_transaction")
    with pytest.raises(StoreUnavailable, match="tuple decompression limit exceeded"):
        compressed.commit(minutes_of(300, range(200, 201), 2), 10, 20)
    compressed.commit(minutes_of(300, range(200, 201), 2), 10, 20)  # its new connection has the setting again


# --- keeping and reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("origin", "left"), [(Origin.LIVE, 0), (Origin.REPLAYED, 1)])
def test_old_rows_are_dropped_unless_they_are_replayed(place: Dsn, origin: Origin, left: int) -> None:
    with writing(place, origin=origin) as writer:
        writer.commit(changes(**EVERYTHING), 0, 10, notifications=[notification()])
        dropping = [config["drop_after"] for config, _ in jobs(place, "retention")]
        assert dropping == ([] if origin is Origin.REPLAYED else ["30 days"] * 4)
        run_jobs(place)
        for relation in (*HYPERTABLES, *(("price_bars_1h", "price_bars_1d") if left else ())):
            assert len(ask(place, f"TABLE {relation}")) == left, relation
        assert len(ask(place, "TABLE feed_gaps")) == 1
        writer.commit(changes(windows=[window(revision=9)], bars=[bar(1)], gaps=[gap(START + HOUR)]), 10, 20)
        writer.prune(30 * DAY)
        assert len(ask(place, "TABLE feed_gaps")) == 0
        assert len(ask(place, "TABLE price_bars")) == 1 + left


def test_lanes_that_start_at_once_do_not_meet(place: Dsn) -> None:
    def start(lane: int) -> int:
        with writing(place, str(lane)) as writer:
            return writer.recover("log", Origin.SIMULATED).position

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(start, range(8))) == [0] * 8
    assert len(jobs(place, "retention")) == 4
    assert refreshed_since(place) == ["29 days"] * 2


def test_replayed_days_are_in_the_aggregates_however_old_they_are(place: Dsn) -> None:
    days = (START, now_ms() - 40 * DAY, now_ms() - 20 * DAY)
    with writing(place, origin=Origin.REPLAYED) as writer:
        writer.commit(changes(bars=[bar(start=day) for day in days]), 0, 10)
        run_jobs(place)
        assert ask(place, "SELECT count(*) FROM price_bars_1d") == [(3,)]
        writer.commit(changes(bars=[bar(1, start=day) for day in days]), 10, 20)
        run_jobs(place)
    assert ask(place, "SELECT count(*) FROM price_bars_1d") == [(6,)]


def test_emptied_tables_leave_nothing_in_the_aggregates(place: Dsn) -> None:
    fill(place)
    run(place, "CALL refresh_continuous_aggregate('price_bars_1h', NULL, NULL)")
    with writing(place) as writer:
        writer.reset()
    assert ask(place, "TABLE price_bars_1h") == []
    fill(place)
    assert len(ask(place, "TABLE price_bars_1h")) == 1


def test_what_was_committed_is_followed(place: Dsn) -> None:
    following = Following(place.conninfo, window_ms=5 * MINUTE, slide_ms=MINUTE, watermark_delay_ms=MINUTE)
    following.changes(following.state())
    fill(place)
    state = following.state()
    found = following.changes(state)
    assert state.lanes == {"embedded": 10}
    assert (len(found.prices), len(found.bars), len(found.alerts)) == (1, 1, 1)
    following.close()
