"""The four roles of `init_db.sql`: what each may do, and that it may do nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from store_rows import alert, bar, changes, notification, window
from store_users import EVERYTHING, ON_BOTH, TABLES, VIEWS, ask, fill, may, place, run, user, writing
from tapewatch.errors import StoreError
from tapewatch.notify.gate import Gate
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.policy import Policy
from tapewatch.notify.postgres import PostgresOutbox
from tapewatch.notify.postgres_gate import PostgresGate
from tapewatch.notify.sender import Counts, Delivered
from tapewatch.notify.target import Outcome
from tapewatch.notify.targets import LogTarget
from tapewatch.records import AlertStatus, Origin
from tapewatch.rules.channels import NotifyOptions
from tapewatch.rules.model import Rules
from tapewatch.store import statements
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres, psql_path
from tapewatch.store.writer import INIT_SQL, StoreWriter

__all__ = ["place"]  # a fixture

AS_IT_IS = (5, "673a812255eedeea")
"""The version of init_db.sql, and the hash of its statements."""
ROLES = {"tapewatch_owner", "tapewatch_writer", "tapewatch_reader", "tapewatch_grafana"}
READ_FUNCTIONS = (
    "SELECT * FROM get_indicators('AAPL', '-infinity', 'infinity', 10)",
    "SELECT * FROM get_golden_crosses('AAPL', 24)",
    "SELECT * FROM get_death_crosses('AAPL', 24)",
)
OWNERS_ALONE = ("CREATE TABLE mine (n int)", "DROP TABLE feed_gaps", "ALTER TABLE price_bars ADD COLUMN n int")
PROCEDURES = (
    "CALL keep_rows(false)",
    "CALL prune_old_rows(30)",
    "SELECT advance_position('embedded', 'log', 10, 20, NULL)",
)
COLUMNS = {
    **{"feed_gaps": "cause", "engine_state": "log_id", "alert_rules": "kind", "alert_marks": "note"},
    **{"alert_mutes": "note", "channel_health": "kind", "system_alerts": "detail"},
}
"""A column of those tables that have no symbol."""
DASHBOARD = {
    *("latest_stock_data", "stock_aggregates", "price_bars", "price_bars_1h", "price_bars_1d"),
    *("breakout_alerts", "feed_gaps", "quality_grades", "minute_quality"),
}


def writes(table: str) -> list[str]:
    """Every way to change a table; for the rights alone, as no row is touched."""
    change = f"{COLUMNS.get(table, 'symbol')} = NULL"
    return [" ".join(words) for words in (
        ("INSERT INTO", table, "TABLE", table, "LIMIT 0"),
        ("UPDATE", table, "SET", change, "WHERE false"),
        ("DELETE FROM", table, "WHERE false"),
        ("TRUNCATE", table),
    )]  # fmt: skip


# --- writer -----------------------------------------------------------------------------------------------------


@ON_BOTH
def test_the_writer_may_do_all_that_the_pipeline_does(place: Dsn) -> None:
    fresh = user(place, "just_a_writer", "tapewatch_writer")
    StoreWriter(fresh.conninfo, "embedded").initialise()
    with writing(fresh) as writer:
        writer.commit(changes(**EVERYTHING), 0, 10, snapshot=b"state", notifications=[notification()])
        writer.commit(
            changes(
                symbols=["AAPL", "B\0TC"],  # NUL, which no text of PostgreSQL holds
                windows=[window(revision=2)],
                bars=[bar(revision=4), bar(1)],
                alerts=[alert(AlertStatus.CONFIRMED)],
            ),
            10,
            20,
        )
        assert writer.recover("log", Origin.SIMULATED).snapshot == b"state"
        assert writer.owner() == ("log", Origin.SIMULATED)
        assert ask(place, "SELECT status FROM breakout_alerts") == [("confirmed",)]
        assert ask(place, "SELECT table_name FROM refused_rows") == [("price_bars",)]
        asyncio.run(send_all(fresh))
        assert ask(place, "SELECT state FROM notifications") == [("delivered",)]
        writer.prune(86_400_000)
        assert ask(place, "SELECT count(*) FROM feed_gaps") == [(0,)]
        writer.reset(outbox=True)
    for table in TABLES:
        assert ask(place, f"TABLE {table}") == []


async def send_all(dsn: Dsn) -> None:
    outbox = PostgresOutbox(dsn.conninfo)
    now = datetime(2100, 1, 1, tzinfo=UTC)
    store = PostgresGate(dsn.conninfo)
    gate = Gate(store, lambda: Policy(NotifyOptions(), Rules()), lambda _: None, now=lambda: now)
    assert await gate.step()
    await store.close()
    for waiting in await outbox.claim("log", 10, now):
        await outbox.failed(waiting.notification.id, 1, "busy", now)
        await outbox.delivered(Delivered(waiting.notification.id, 2, now, Outcome()))
    outlet = Outlet("log", "log", LogTarget())
    outlet.note(Outcome(), now, now)
    await outbox.tell_health(outlet)
    assert await outbox.counts() == Counts(waiting=0, dead=0, oldest_s=0.0)
    await outbox.close()


@ON_BOTH
def test_the_writer_may_not_do_more(place: Dsn) -> None:
    writer = user(place, "just_a_writer", "tapewatch_writer")
    deletions = [" ".join(("DELETE FROM", table)) for table in TABLES]
    assert [s for s in (*OWNERS_ALONE, *deletions) if may(writer, s)] == []


# --- reader and Grafana -----------------------------------------------------------------------------------------


@ON_BOTH
def test_the_reader_may_read_everything_and_change_nothing(place: Dsn) -> None:
    fill(place)
    reader = user(place, "just_a_reader", "tapewatch_reader")
    for statement in (*(f"TABLE {relation}" for relation in (*TABLES, *VIEWS)), *READ_FUNCTIONS):
        ask(reader, statement)
    forbidden = [statement for table in TABLES for statement in writes(table)]
    assert [s for s in (*forbidden, *PROCEDURES, *OWNERS_ALONE) if may(reader, s)] == []


@pytest.mark.slow
@ON_BOTH
def test_grafana_may_read_what_dashboards_show_and_nothing_else(place: Dsn) -> None:
    fill(place)
    grafana = user(place, "just_grafana", "tapewatch_grafana")
    may_read = {relation for relation in (*TABLES, *VIEWS) if may(grafana, f"TABLE {relation}")}
    assert may_read == DASHBOARD
    for statement in READ_FUNCTIONS:
        ask(grafana, statement)
    forbidden = [statement for table in TABLES for statement in writes(table)]
    assert [s for s in (*forbidden, *PROCEDURES, *OWNERS_ALONE) if may(grafana, s)] == []


def test_the_look_at_rights_bites(postgres: Dsn) -> None:
    """Canary: with one right too many it is seen."""
    grafana = user(postgres, "just_grafana", "tapewatch_grafana")
    assert not may(grafana, "DELETE FROM feed_gaps")
    run(postgres, "GRANT DELETE ON feed_gaps TO tapewatch_grafana")
    try:
        assert may(grafana, "DELETE FROM feed_gaps")
    finally:
        run(postgres, "REVOKE DELETE ON feed_gaps FROM tapewatch_grafana")


@pytest.mark.slow
def test_nobody_else_may_do_anything(postgres: Dsn) -> None:
    stranger = user(postgres, "stranger")
    forbidden = [statement for table in TABLES for statement in writes(table)]
    forbidden += [f"TABLE {relation}" for relation in (*TABLES, *VIEWS)]
    assert [s for s in (*forbidden, *PROCEDURES, *OWNERS_ALONE) if may(stranger, s)] == []


def test_who_only_reads_is_held_to_it_by_settings_too(postgres: Dsn) -> None:
    rows = ask(postgres, "SELECT rolname, rolcanlogin, rolconfig FROM pg_roles WHERE rolname LIKE 'tapewatch_%%'")
    found = {name: (can_login, settings) for name, can_login, settings in rows}
    assert found.keys() == ROLES
    assert found["tapewatch_grafana"] == (False, ["default_transaction_read_only=on", "statement_timeout=10s"])
    assert found["tapewatch_writer"] == found["tapewatch_owner"] == (False, None)
    # the embedded database's own reader, whom the server's start makes, is of the same name and may log in
    assert found["tapewatch_reader"] == (True, ["default_transaction_read_only=on", "statement_timeout=10000"])


# --- owner ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(place: Dsn) -> Iterator[Dsn]:
    """A database of alice, who owns it alone; bob is one of the owners."""
    alice = user(place, "alice")
    user(place, "bob", "tapewatch_owner")
    run(place, "CREATE DATABASE shared OWNER alice", "ALTER ROLE tapewatch_owner LOGIN")  # for TimescaleDB's policies
    yield replace(alice, dbname="shared")
    run(place, "REVOKE tapewatch_owner FROM alice", "ALTER ROLE tapewatch_owner NOLOGIN")
    run(place, "DROP DATABASE shared WITH (FORCE)")


@ON_BOTH
def test_owners_take_turns(place: Dsn, shared: Dsn) -> None:
    run(place, "GRANT tapewatch_owner TO alice")
    take_turns(place, shared)


@ON_BOTH
def test_what_one_made_alone_can_be_given_to_all_owners(
    request: pytest.FixtureRequest, place: Dsn, shared: Dsn
) -> None:
    StoreWriter(shared.conninfo, "tests").initialise()
    fill(shared)
    assert owners(shared) == {"alice"}
    assert not may(replace(shared, user="bob"), "ALTER TABLE price_bars ADD COLUMN n int")
    run(place, "GRANT tapewatch_owner TO alice")
    if "timescale" in request.node.name:
        StoreWriter(shared.conninfo, "tests").initialise()
        assert owners(shared) == {"alice"}
        run(replace(place, dbname="shared"), "REASSIGN OWNED BY alice TO tapewatch_owner")
    take_turns(place, shared)


def take_turns(place: Dsn, shared: Dsn) -> None:
    """Any owner may complete the tables, and a writer may go on writing."""
    for name in ("alice", "bob"):
        StoreWriter(replace(shared, user=name).conninfo, "tests").initialise()
        assert owners(shared) == {"tapewatch_owner"}
        assert may(replace(shared, user=name), "ALTER TABLE price_bars ADD COLUMN n int")
    with writing(replace(user(place, "just_a_writer", "tapewatch_writer"), dbname="shared")) as writer:
        at = writer.recover("log", Origin.SIMULATED).position
        writer.commit(changes(**EVERYTHING), at, at + 10)
        writer.commit(changes(bars=[bar(1)]), at + 10, at + 20)


def owners(dsn: Dsn) -> set[str]:
    rows = ask(
        dsn,
        """
        SELECT relowner::regrole::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s)
        UNION SELECT proowner::regrole::text FROM pg_proc
        WHERE proname IN ('keep_rows', 'prune_old_rows', 'advance_position', 'schema_version', 'get_golden_crosses')
        """,
        [*TABLES, *VIEWS],
    )
    return {row[0] for row in rows}


# --- the version of the tables ----------------------------------------------------------------------------------


def test_older_tables_are_refused_by_who_may_not_renew_them(postgres: Dsn) -> None:
    writer = user(postgres, "just_a_writer", "tapewatch_writer")
    of_one = "CREATE OR REPLACE FUNCTION schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1'"
    run(postgres, of_one)
    with pytest.raises(StoreError, match=r"are of version 1, expected \d, and user just_a_writer .* tapewatch init-db"):
        StoreWriter(writer.conninfo, "tests").initialise()
    StoreWriter(postgres.conninfo, "tests").initialise()
    StoreWriter(writer.conninfo, "tests").initialise()
    assert ask(writer, "SELECT schema_version()") == [(statements.SCHEMA_VERSION,)]


def test_a_change_of_the_tables_raises_their_version() -> None:
    said = re.sub(rb"\s+", b" ", re.sub(rb"(?m)--.*$", b"", INIT_SQL.read_bytes()))
    found = (statements.SCHEMA_VERSION, hashlib.sha256(said).hexdigest()[:16])
    assert found == AS_IT_IS, (
        "init_db.sql has changed: raise its schema_version() and SCHEMA_VERSION, unless the one that stands here was "
        "never released, and write the new pair here"
    )


# --- making the roles -------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Dsn]:
    """A server of its own, on which nobody has made the roles yet but the reader that it begins with."""
    server = EmbeddedPostgres(tmp_path, durable=False)
    yield server.start()
    server.stop()


def start_psql(dsn: Dsn) -> subprocess.Popen[str]:
    command = [psql_path(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(INIT_SQL), dsn.conninfo]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_databases_of_one_server_share_the_roles_and_do_not_meet(cluster: Dsn) -> None:
    names = [f"stocks{number}" for number in range(4)]
    run(cluster, *(f"CREATE DATABASE {name}" for name in names))
    starters = [start_psql(replace(cluster, dbname=name)) for name in names]
    assert [starter.communicate()[1] for starter in starters] == [""] * 4
    assert [starter.returncode for starter in starters] == [0] * 4
    for name in names:
        with writing(replace(user(cluster, "just_a_writer", "tapewatch_writer"), dbname=name)) as writer:
            writer.commit(changes(**EVERYTHING), 0, 10)


@pytest.mark.slow
def test_who_may_not_create_roles_gets_tables_and_a_warning(cluster: Dsn) -> None:
    owner = replace(user(cluster, "landlord"), dbname="stocks")
    run(cluster, "CREATE DATABASE stocks OWNER landlord")
    for _ in range(2):
        psql = start_psql(owner)
        said = psql.communicate()[1]
        assert psql.returncode == 0
        assert re.search(
            r"WARNING:  this role may not create roles; without "
            r"tapewatch_owner, tapewatch_writer, tapewatch_grafana only the owner", said
        )  # fmt: skip
    fill(owner)
    with psycopg.connect(owner.conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM price_bars").fetchone() == (1,)
