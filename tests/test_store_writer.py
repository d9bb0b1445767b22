"""The writer against a real PostgreSQL: all or nothing, once, fenced, and never stopped by one odd row."""

from __future__ import annotations

import math
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from ports import held_port
from postgres import end_sessions
from store_rows import MINUTE, START, alert, bar, changes, gap, latest, notification, quality, window
from tapewatch.errors import StoreMismatch, StoreUnavailable
from tapewatch.records import AlertStatus, Market, Origin
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, LevelRule, Rules
from tapewatch.store import statements
from tapewatch.store.connect import Dsn
from tapewatch.store.reading import read_alerts, read_bars, read_windows
from tapewatch.store.writer import StoreWriter
from waiting import until

LONG = random.Random(1).randbytes(6_000).hex()  # hard to compress: a long plain text would still fit into an index


@contextmanager
def writing(dsn: Dsn, lane: str = "embedded", log_id: str = "log") -> Iterator[StoreWriter]:
    writer = StoreWriter.connect(dsn.conninfo, lane)
    writer.recover(log_id, Origin.SIMULATED)
    try:
        yield writer
    finally:
        writer.close()


@pytest.fixture
def writer(postgres: Dsn) -> Iterator[StoreWriter]:
    with writing(postgres) as writer:
        yield writer


def ask(dsn: Dsn, query: str | sql.Composed, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()


def position(dsn: Dsn) -> int:
    return int(ask(dsn, "SELECT position FROM engine_state WHERE lane = 'embedded'")[0][0])


def test_a_commit_writes_rows_alerts_outbox_and_position_together(writer: StoreWriter, postgres: Dsn) -> None:
    everything = changes(
        windows=[window(0), window(1, ma_5min=99.5)],
        bars=[bar(0), bar(1, vwap=np.nan)],
        latest=[latest(0), latest(1, market=Market.CRYPTO, time_ms=-(2**62))],
        quality=[quality(0, late=2)],
        alerts=[alert()],
        gaps=[gap()],
    )
    writer.commit(everything, 0, 10, snapshot=b"state", notifications=[notification()])

    assert [row[:4] for row in read_windows(postgres.conninfo)] == [
        ("AAPL", START, 100.0, None),
        ("BTC", START, 100.0, 99.5),
    ]
    assert [(row[0], row[7]) for row in read_bars(postgres.conninfo)] == [("AAPL", 100.5), ("BTC", None)]
    assert ask(
        postgres, 'SELECT market, "timestamp", received_at::text, previous_close FROM latest_prices ORDER BY 1 DESC'
    )[1] == (
        "crypto",
        None,
        ask(postgres, "SELECT received_at::text FROM latest_prices WHERE symbol = 'AAPL'")[0][0],
        None,
    )
    assert list(read_alerts(postgres.conninfo)) == [alert()]
    assert ask(postgres, "SELECT market, cause, symbols, log_position FROM feed_gaps") == [
        ("stocks", "disconnected", ["AAPL", "MSFT"], 10)
    ]
    assert ask(postgres, "SELECT id, state, attempts, payload FROM notifications") == [
        ("a1:log:confirmed", "new", 0, {"text": "crossed"})
    ]
    assert ask(postgres, "SELECT trades, late, grade FROM quality_grades") == [(100, 2, "B")]
    recovered = writer.recover("log", Origin.SIMULATED)
    assert (recovered.position, recovered.snapshot, recovered.snapshot_position) == (10, b"state", 10)


def test_a_commit_without_a_snapshot_keeps_the_one_before(writer: StoreWriter) -> None:
    writer.commit(changes(), 0, 10, snapshot=b"\x00\xffstate")
    writer.commit(changes(), 10, 25)
    recovered = writer.recover("log", Origin.SIMULATED)
    assert (recovered.position, recovered.snapshot, recovered.snapshot_position) == (25, b"\x00\xffstate", 10)


finite = st.floats(allow_nan=True, allow_infinity=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(values=st.lists(finite, min_size=7, max_size=7), final=st.booleans(), count=st.integers(0, 2**62))
def test_numbers_come_back_bit_for_bit(
    writer: StoreWriter, postgres: Dsn, values: list[float], final: bool, count: int
) -> None:
    names = ["avg_price", "ma_5min", "vwap", "max_price", "min_price", "open_price", "close_price"]
    given_values = dict(zip(names, values, strict=True)) | {"total_volume": 0.1 + 0.2, "trade_count": count}
    step = position(postgres)
    writer.commit(changes(windows=[window(0, START + step * MINUTE, is_final=final, **given_values)]), step, step + 1)
    *_, row = read_windows(postgres.conninfo)
    for name, value in zip([*names, "total_volume"], row[2:10], strict=True):
        expected = given_values[name]
        assert (value is None and math.isnan(expected)) or (
            np.float64(value).tobytes() == np.float64(expected).tobytes()
        )
    assert row[10:] == (count, final, 1)


@pytest.mark.parametrize(
    ("revision", "final", "price"),
    [
        (4, True, 100.0),  # lower: ignored
        (5, False, 100.0),  # same log records, but the stored row is final already
        (5, True, 200.0),  # the same again
        (6, False, 200.0),  # higher: a backfill has opened it again
    ],
)
def test_a_lower_revision_never_overwrites_a_higher_one(
    writer: StoreWriter, postgres: Dsn, revision: int, final: bool, price: float
) -> None:
    stored = {"revision": 5, "is_final": True}
    later = {"revision": revision, "is_final": final}
    writer.commit(changes(windows=[window(avg_price=100.0, **stored)], bars=[bar(open=100.0, **stored)]), 0, 1)
    writer.commit(changes(windows=[window(avg_price=200.0, **later)], bars=[bar(open=200.0, **later)]), 1, 2)
    assert [row[2] for row in read_windows(postgres.conninfo)] == [price]
    assert [row[2] for row in read_bars(postgres.conninfo)] == [price]


def test_quality_adds_up(writer: StoreWriter, postgres: Dsn) -> None:
    one = quality(trades=10, excluded=1, late=2, future=3, gap_ms=4_000)
    for step in range(3):
        writer.commit(changes(quality=[one]), step, step + 1)
    assert ask(postgres, "SELECT trades, excluded, late, future, gap_ms FROM minute_quality") == [(30, 3, 6, 9, 12_000)]


@pytest.mark.parametrize(
    ("counts", "grade"),
    [
        ({"trades": 100, "late": 1}, "A"),
        ({"trades": 100, "late": 2}, "B"),
        ({"trades": 0, "late": 0}, "A"),
        ({"trades": 100, "late": 2, "gap_ms": 1}, "C"),
        ({"trades": 100, "gap_ms": 9_999}, "C"),
        ({"trades": 100, "gap_ms": 10_000}, "D"),
    ],
)
def test_grades(writer: StoreWriter, postgres: Dsn, counts: dict[str, int], grade: str) -> None:
    writer.commit(changes(quality=[quality(**counts)]), 0, 1)
    assert ask(postgres, "SELECT grade FROM quality_grades") == [(grade,)]


@pytest.mark.parametrize("final", [AlertStatus.CONFIRMED, AlertStatus.RETRACTED])
def test_an_alert_goes_from_provisional_to_its_end_and_stays(
    writer: StoreWriter, postgres: Dsn, final: AlertStatus
) -> None:
    decided = alert(final, decided_ms=START + 62_000, offset=99, evidence={"after": 2})
    writer.commit(changes(alerts=[alert(), decided]), 0, 1)  # both states in one commit
    writer.commit(changes(alerts=[alert()]), 1, 2)
    other_end = AlertStatus.RETRACTED if final is AlertStatus.CONFIRMED else AlertStatus.CONFIRMED
    writer.commit(changes(alerts=[alert(other_end)]), 2, 3)

    expected = msgspec.structs.replace(decided, evidence={"before": 1, "after": 2})
    assert list(read_alerts(postgres.conninfo)) == [expected]
    (ends,) = ask(postgres, "SELECT confirmed_at IS NOT NULL, retracted_at IS NOT NULL FROM breakout_alerts")
    assert ends == (final is AlertStatus.CONFIRMED, final is AlertStatus.RETRACTED)


def test_a_second_engine_is_fenced_off(writer: StoreWriter, postgres: Dsn) -> None:
    writer.commit(changes(), 0, 10)
    with writing(postgres) as zombie:
        writer.commit(changes(bars=[bar()]), 10, 20)
        with pytest.raises(StoreMismatch, match="not at position 10"):
            zombie.commit(changes(bars=[bar(1)], quality=[quality(1)]), 10, 15, notifications=[notification()])
        assert position(postgres) == 20
        assert [row[0] for row in read_bars(postgres.conninfo)] == ["AAPL"]
        assert ask(postgres, "SELECT count(*) FROM notifications") == [(0,)]
        writer.commit(changes(), 20, 30)


def test_the_fence_bites(writer: StoreWriter, postgres: Dsn) -> None:
    """Canary: the same zombie against a fence that only moves, without comparing, gets its rows in."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        (fence,) = connection.execute("SELECT pg_get_functiondef('advance_position'::regproc)").fetchone() or ("",)
        broken = fence.replace("AND s.position = old_position", "")
        assert broken != fence
        connection.execute(broken.encode())
    writer.commit(changes(), 0, 10)
    writer.commit(changes(bars=[bar(1)]), 3, 5)
    assert position(postgres) == 5
    writer.initialise()


def test_lanes_are_independent(writer: StoreWriter, postgres: Dsn) -> None:
    with writing(postgres, "other") as other:
        writer.commit(changes(), 0, 10)
        other.commit(changes(), 0, 3)
        assert other.recover("log", Origin.SIMULATED).position == 3
    assert position(postgres) == 10


@pytest.mark.parametrize(("log_id", "origin"), [("another", Origin.SIMULATED), ("log", Origin.LIVE)])
def test_a_database_of_another_log_is_refused(writer: StoreWriter, log_id: str, origin: Origin) -> None:
    with pytest.raises(StoreMismatch, match=r"holds SIMULATED data of log log, .* tapewatch rebuild"):
        writer.recover(log_id, origin)


def test_reset_empties_all_that_the_log_can_give_again(writer: StoreWriter, postgres: Dsn) -> None:
    full = changes(windows=[window()], bars=[bar()], latest=[latest()], alerts=[alert()], gaps=[gap()])
    writer.commit(full, 0, 10, notifications=[notification()])
    writer.reset()
    assert writer.recover("another", Origin.LIVE).position == 0
    for table in ("stock_aggregates", "price_bars", "latest_prices", "breakout_alerts", "feed_gaps"):
        assert ask(postgres, sql.SQL("SELECT FROM {}").format(sql.Identifier(table))) == []
    assert ask(postgres, "SELECT count(*) FROM notifications") == [(1,)]
    writer.reset(outbox=True)
    assert ask(postgres, "SELECT count(*) FROM notifications") == [(0,)]


def test_a_notification_is_written_once(writer: StoreWriter, postgres: Dsn) -> None:
    writer.commit(changes(), 0, 1, notifications=[notification(), notification()])
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE notifications SET state = 'delivered'")
    writer.commit(changes(), 1, 2, notifications=[notification()])
    assert ask(postgres, "SELECT state FROM notifications") == [("delivered",)]


def test_notifications_keep_their_order(writer: StoreWriter, postgres: Dsn) -> None:
    notes = [msgspec.structs.replace(notification(), id=f"n{number}") for number in range(300, 0, -1)]
    writer.commit(changes(), 0, 1, notifications=notes)
    found = ask(postgres, "SELECT id FROM notifications ORDER BY created_at, id")
    assert [name for (name,) in found] == [note.id for note in notes]


# --- rows that only the database refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad_symbol", "reason"),
    [("NUL\0", "invalid byte sequence"), ("HALF\ud800", "invalid byte sequence"), (LONG, "index row")],
    ids=["nul", "half a surrogate", "too long for an index"],
)
def test_a_bad_symbol_is_set_aside_and_the_rest_is_stored(
    writer: StoreWriter, postgres: Dsn, bad_symbol: str, reason: str
) -> None:
    symbols = ["AAPL", bad_symbol, "MSFT", "TSLA"]
    every = range(4)
    given_changes = changes(
        symbols=symbols,
        windows=[window(i) for i in every],
        bars=[bar(i) for i in every],
        latest=[latest(i) for i in every],
        quality=[quality(i) for i in every],
        alerts=[alert(), alert(alert_id="a2", evidence={"note": "\0"}), alert(alert_id="a3")],
    )
    writer.commit(given_changes, 0, 10, notifications=[notification()])
    assert position(postgres) == 10
    assert [row[0] for row in read_windows(postgres.conninfo)] == ["AAPL", "MSFT", "TSLA"]
    assert [row[0] for row in read_bars(postgres.conninfo)] == ["AAPL", "MSFT", "TSLA"]
    assert [a.alert_id for a in read_alerts(postgres.conninfo)] == ["a1", "a3"]
    refused = ask(postgres, "SELECT table_name, log_position, reason FROM refused_rows ORDER BY table_name")
    assert [row[0] for row in refused] == [
        "breakout_alerts",
        "latest_prices",
        "minute_quality",
        "price_bars",
        "stock_aggregates",
    ]
    assert all(row[1] == 10 for row in refused)
    assert all(reason in row[2] for row in refused[1:])
    writer.commit(changes(bars=[bar(0, START + MINUTE)]), 10, 20)  # and the lane goes on
    assert position(postgres) == 20


def test_a_row_without_a_time_is_set_aside_with_its_numbers(writer: StoreWriter, postgres: Dsn) -> None:
    writer.commit(changes(bars=[bar(0), bar(1, -5, close=3.5), bar(2)]), 0, 10)
    assert [row[0] for row in read_bars(postgres.conninfo)] == ["AAPL", "MSFT"]
    ((symbol, close),) = ask(postgres, "SELECT symbol, row_data->>'close' FROM refused_rows")
    assert (symbol, close) == ("BTC", "3.5")


def test_without_setting_aside_a_bad_row_would_block_the_lane(writer: StoreWriter, postgres: Dsn) -> None:
    """Canary: the plain write of the same commit fails every time."""
    from tapewatch.store import writer as module

    pieces = module.pieces_of(changes(bars=[bar(0), bar(1, -5)]), [], 10)
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        module.arrays.register(connection)
        for _ in range(2):
            with pytest.raises(psycopg.IntegrityError):
                module._write(connection, pieces, ("embedded", "log", 0, 10, None))
    assert position(postgres) == 0


# --- a database that goes away ----------------------------------------------------------------------------------


class Cutter:
    """A wire to the server that can lose the answer of a commit: all of it arrives there, nothing comes back."""

    def __init__(self, dsn: Dsn) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = (dsn.host, dsn.port)
        self.dsn = replace(dsn, port=self._listener.getsockname()[1])
        self.loses_answers = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        try:
            while data := source.recv(65_536):
                if is_answer and self.loses_answers.is_set():
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in [self._listener, *self._sockets]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join()


@pytest.fixture
def cutter(postgres: Dsn) -> Iterator[Cutter]:
    cutter = Cutter(postgres)
    yield cutter
    cutter.close()


def test_a_commit_whose_answer_was_lost_is_not_done_twice(cutter: Cutter, postgres: Dsn) -> None:
    with writing(cutter.dsn) as writer:
        once = changes(quality=[quality(trades=10)])
        writer.commit(once, 0, 10)
        cutter.loses_answers.set()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            writer.commit(once, 10, 20)
        until(lambda: position(postgres) == 20)
        cutter.loses_answers.clear()
        writer.commit(once, 10, 20)
        writer.commit(once, 20, 30)
    assert position(postgres) == 30
    assert ask(postgres, "SELECT trades FROM minute_quality") == [(30,)]


def test_a_commit_that_did_not_arrive_is_repeated(writer: StoreWriter, postgres: Dsn) -> None:
    once = changes(quality=[quality(trades=10)])
    writer.commit(once, 0, 10)
    cut_off(postgres)
    with pytest.raises(StoreUnavailable):
        writer.commit(once, 10, 20)
    writer.commit(once, 10, 20)
    assert ask(postgres, "SELECT trades FROM minute_quality") == [(20,)]


def test_a_repeat_waits_for_a_first_try_that_is_still_under_way(
    writer: StoreWriter, postgres: Dsn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapewatch.store.writer.STORE_LOCK_MS", 60_000)
    once = changes(quality=[quality(trades=10)])
    writer.commit(once, 0, 10)
    cut_off(postgres)
    with pytest.raises(StoreUnavailable):
        writer.commit(once, 10, 20)
    with psycopg.connect(postgres.conninfo) as first_try, ThreadPoolExecutor() as threads:
        first_try.execute("UPDATE minute_quality SET trades = 20")
        first_try.execute("SELECT advance_position('embedded', 'log', 10, 20, NULL)")
        repeat = threads.submit(writer.commit, once, 10, 20)
        waiting = "SELECT wait_event_type FROM pg_stat_activity WHERE application_name = 'tapewatch embedded'"
        until(lambda: ask(postgres, waiting) == [("Lock",)])
        first_try.commit()
        repeat.result()
    assert position(postgres) == 20
    assert ask(postgres, "SELECT trades FROM minute_quality") == [(20,)]


def test_a_held_lock_ends_as_unavailable_and_the_commit_can_be_repeated(writer: StoreWriter, postgres: Dsn) -> None:
    writer._connected().execute("SET lock_timeout = '50ms'")
    with psycopg.connect(postgres.conninfo) as holder:
        holder.execute("LOCK TABLE price_bars")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            writer.commit(changes(bars=[bar()]), 0, 10)
    writer.commit(changes(bars=[bar()]), 0, 10)
    assert position(postgres) == 10


def test_a_server_that_is_gone_is_unavailable(postgres: Dsn) -> None:
    with (
        held_port() as port,
        pytest.raises(StoreUnavailable, match=rf"Cannot reach the database at 127\.0\.0\.1:{port}/"),
    ):
        StoreWriter.connect(replace(postgres, port=port).conninfo)


def test_statements_name_every_column(writer: StoreWriter, postgres: Dsn) -> None:
    """A column added to a table and forgotten in its statement would stay null."""
    for table, statement in (
        ("stock_aggregates", statements.UPSERT_WINDOWS),
        ("price_bars", statements.UPSERT_BARS),
        ("latest_prices", statements.UPSERT_LATEST),
        ("minute_quality", statements.ADD_QUALITY),
    ):
        columns = ask(postgres, "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table)
        inserted = statement.split("(", 1)[1].split(")", 1)[0].replace('"', "")
        assert {name for (name,) in columns} == {name.strip() for name in inserted.split(",")}


def cut_off(dsn: Dsn) -> None:
    """End the writer's session."""
    end_sessions(dsn, "tapewatch embedded")


def test_a_version_of_a_rule_is_kept_with_its_first_moment(writer: StoreWriter, postgres: Dsn) -> None:
    mine = LevelRule(level=200.0, symbols=("AAPL",))
    first = RuleChange(Rules(mine=mine), "api", START, 7).versions()
    assert len(first) == 5
    writer.commit(replace(changes(), rules=first), 0, 8)
    later = RuleChange(Rules(mine=mine).changed(golden_cross=CrossRule(band_bps=7.0)), "file", START + MINUTE, 9)
    writer.commit(replace(changes(), rules=later.versions()), 8, 10)
    found = ask(
        postgres,
        "SELECT rule, rule_version, kind, (definition->>'level')::float8, extract(epoch FROM since)::int8 * 1000, "
        "changed_by, log_offset FROM alert_rules WHERE rule IN ('mine', 'golden_cross') ORDER BY rule, log_offset",
    )
    assert found == [
        ("golden_cross", "c6abd647", "cross", None, START, "api", 7),
        ("golden_cross", later.rules.version("golden_cross"), "cross", None, START + MINUTE, "file", 9),
        ("mine", later.rules.version("mine"), "level", 200.0, START, "api", 7),
    ]
    writer.reset()
    assert ask(postgres, "SELECT count(*) FROM alert_rules") == [(0,)]
