"""Why a database cannot be reached, in sentences; and the arrays that carry numbers to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from ports import held_port
from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.settings import load_settings
from tapewatch.store import arrays
from tapewatch.store.connect import Dsn, check_version, conninfo, open_connection
from tapewatch.store.embedded import EmbeddedPostgres


def test_settings_name_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    found = conninfo(load_settings(db_host="db.example.org", db_name="prices", db_password="it's \\ secret"))
    assert psycopg.conninfo.conninfo_to_dict(found) == {
        "host": "db.example.org",
        "port": "5432",
        "dbname": "prices",
        "user": "tapewatch",
        "password": "it's \\ secret",
    }


def refused(dsn: Dsn, kind: type[StoreError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        open_connection(dsn.conninfo, "test")
    assert type(caught.value) is kind
    assert dsn.password not in str(caught.value)


def test_each_refusal_says_what_to_do(postgres_server: EmbeddedPostgres) -> None:
    dsn = postgres_server.dsn
    refused(replace(dsn, password="guess"), StoreError, r"password of user tapewatch is wrong: set DB_PASSWORD\.$")
    refused(replace(dsn, dbname="none"), StoreError, "has no database none: create it .* or set DB_NAME")
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE idle NOLOGIN PASSWORD {}").format(sql.Literal(dsn.password)))
    refused(replace(dsn, user="idle"), StoreError, "user idle may not log in")


def test_nobody_there_is_unavailable(postgres_server: EmbeddedPostgres) -> None:
    dsn = postgres_server.dsn
    with held_port() as port:
        said = f"Cannot reach the database at 127.0.0.1:{port}/stockdb: .*refused"
        refused(replace(dsn, port=port), StoreUnavailable, said)
    refused(replace(dsn, host="no.such.invalid"), StoreUnavailable, "Cannot reach .*no.such.invalid")


def test_an_old_server_is_refused() -> None:
    check_version(140_000, "db:5432/x")
    with pytest.raises(StoreError, match="db:5432/x is PostgreSQL 13; expected 14 or newer"):
        check_version(130_011, "db:5432/x")


# --- arrays -----------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(postgres_server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_server.dsn.conninfo) as connection:
        arrays.register(connection)
        yield connection


many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


def back(connection: psycopg.Connection, column: arrays.Column) -> list[object]:
    row = connection.execute("SELECT %b", (column,), binary=True).fetchone()
    assert row is not None
    return list(row[0])


@many
@given(st.lists(st.floats(allow_nan=False)))
def test_floats_arrive_bit_for_bit(connection: psycopg.Connection, values: list[float]) -> None:
    found = back(connection, arrays.Float8s(np.array(values, np.float64)))
    assert np.array(found, np.float64).tobytes() == np.array(values, np.float64).tobytes()


@many
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.booleans()))
def test_integers_and_booleans_arrive(connection: psycopg.Connection, numbers: list[int], truths: list[bool]) -> None:
    assert back(connection, arrays.Int8s(np.array(numbers, np.int64))) == numbers
    assert back(connection, arrays.Bools(np.array(truths, np.bool_))) == truths


@many
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_texts_arrive(connection: psycopg.Connection, values: list[str]) -> None:
    assert back(connection, arrays.Texts(values)) == values


@many
@given(st.lists(st.integers(1, 9_224_318_015_999_999)))
def test_times_arrive_and_nonsensical_ones_are_unknown(connection: psycopg.Connection, values: list[int]) -> None:
    odd = [0, -1, -(2**62), 9_224_318_016_000_000, 2**63 - 1]
    column = arrays.Times(arrays.times_from_ms(np.array(values + odd, np.int64)))
    query = "SELECT (extract(epoch FROM NULLIF(t, '-infinity')) * 1000)::int8 FROM unnest(%b) t"
    assert [row[0] for row in connection.execute(query, (column,))] == values + [None] * len(odd)


def test_nanoseconds_are_cut_to_microseconds(connection: psycopg.Connection) -> None:
    column = arrays.Times(arrays.times_from_ns(np.array([1_772_461_800_000_001_999, 0], np.int64)))
    row = connection.execute("SELECT (%b)[1] AT TIME ZONE 'UTC'", (column,)).fetchone()
    assert row is not None
    assert row[0].isoformat() == "2026-03-02T14:30:00.000001"
