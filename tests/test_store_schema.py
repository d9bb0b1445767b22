"""`init_db.sql` on a real PostgreSQL, and docs/tables.md against it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from store_rows import alert, bar, changes, gap, latest, notification, quality, window
from tapewatch.errors import StoreError
from tapewatch.records import Origin
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres, psql_path
from tapewatch.store.writer import INIT_SQL, StoreWriter

TABLES_PAGE = Path(__file__).parent.parent / "docs" / "tables.md"


@pytest.fixture
def connection(postgres: Dsn) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        yield connection


def everything(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Definitions of all our relations, columns, indexes, functions and comments."""
    return connection.execute(
        """
        SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
               col_description(c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
        UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'view', viewname, definition, '', '', '' FROM pg_views WHERE schemaname = 'public'
        UNION ALL SELECT 'function', proname, CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) END, '', '',
                         obj_description(p.oid)
        FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'aggregate', aggfnoid::text, aggtransfn::text, aggfinalfn::text, aggtranstype::regtype::text,
                         agginitval
        FROM pg_aggregate g JOIN pg_proc p ON p.oid = g.aggfnoid WHERE p.pronamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3
        """
    ).fetchall()


def test_running_it_again_changes_nothing_and_keeps_the_rows(postgres: Dsn, connection: psycopg.Connection) -> None:
    writer = StoreWriter.connect(postgres.conninfo)
    writer.recover("log", Origin.SIMULATED)
    writer.commit(
        changes(
            windows=[window()], bars=[bar()], latest=[latest()], quality=[quality()], alerts=[alert()], gaps=[gap()]
        ),
        0,
        10,
        notifications=[notification()],
    )
    before = everything(connection)
    writer.initialise()
    assert everything(connection) == before
    assert len(before) > 100
    assert writer.recover("log", Origin.SIMULATED).position == 10
    assert connection.execute("SELECT count(*) FROM price_bars").fetchone() == (1,)
    writer.close()


def test_psql_runs_it_too(postgres_server: EmbeddedPostgres) -> None:
    other = replace(postgres_server.dsn, dbname="by_psql")
    with psycopg.connect(replace(other, dbname="postgres").conninfo, autocommit=True) as admin:
        admin.execute("CREATE DATABASE by_psql")
    for _ in range(2):
        done = subprocess.run(
            [psql_path(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(INIT_SQL), other.conninfo],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    with (
        psycopg.connect(other.conninfo) as by_psql,
        psycopg.connect(postgres_server.dsn.conninfo) as by_us,
    ):
        StoreWriter(postgres_server.dsn.conninfo, "tests").initialise()
        assert everything(by_psql) == everything(by_us)


def test_two_starters_at_once_do_not_meet(postgres_server: EmbeddedPostgres) -> None:
    other = replace(postgres_server.dsn, dbname="twice")
    with psycopg.connect(replace(other, dbname="postgres").conninfo, autocommit=True) as admin:
        admin.execute("CREATE DATABASE twice")
    command = [psql_path(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(INIT_SQL), other.conninfo]
    starters = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [starter.wait() for starter in starters] == [0, 0, 0, 0]


def test_a_user_without_rights_is_told(postgres_server: EmbeddedPostgres) -> None:
    elsewhere = replace(postgres_server.reader, dbname="postgres").conninfo
    with pytest.raises(
        StoreError,
        match=r"does not let us create our tables .* run tapewatch init-db .* make user tapewatch_reader the owner",
    ):
        StoreWriter(elsewhere + " options='-c default_transaction_read_only=off'", "x").initialise()


def test_a_commit_is_announced_but_for_the_embedded_engine_s(postgres: Dsn, connection: psycopg.Connection) -> None:
    connection.execute("LISTEN tapewatch_commit")
    for lane in ("embedded", "2"):
        writer = StoreWriter.connect(postgres.conninfo, lane)
        writer.recover("log", Origin.SIMULATED)
        writer.commit(changes(bars=[bar()]), 0, 10)
        writer.close()
    said = [notify.payload for notify in connection.notifies(timeout=60, stop_after=1)]
    assert said == ["2 10"]


def test_every_relation_and_column_is_explained(connection: psycopg.Connection) -> None:
    silent = connection.execute(
        """
        SELECT c.relname, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace
          AND (c.relkind = 'r' AND col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)
          AND c.relkind IN ('r', 'v')
        UNION SELECT proname, '' FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND obj_description(oid) IS NULL
        """
    ).fetchall()
    assert silent == []


def test_the_page_about_the_tables_says_what_the_database_says(connection: psycopg.Connection) -> None:
    page = TABLES_PAGE.read_text("utf-8")
    missing = [line for line in table_lines(connection) if line not in page]
    assert missing == []


def table_lines(connection: psycopg.Connection) -> list[str]:
    """Headings and rows that the page must have: one per table and column."""
    rows = connection.execute(
        """
        SELECT c.relname, obj_description(c.oid), a.attname, format_type(a.atttypid, a.atttypmod),
               col_description(c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum
        """
    ).fetchall()
    short = {"timestamp with time zone": "timestamptz", "double precision": "float8"}
    lines = []
    for table, about, column, kind, meaning in rows:
        heading = f"### `{table}`\n\n{about}\n"
        if heading not in lines:
            lines.append(heading)
        lines.append(f"| `{column}` | {short.get(kind, kind)} | {meaning} |")
    return lines
