"""Fixtures: a real PostgreSQL, started once for all tests, with our tables, empty for each test.

`postgres` is the access (`Dsn`) to it. Emptying takes a few ms; a database of its own for every test would take 300.
A test that changes a table or function calls `StoreWriter.initialise` in the end.

A session ends a little after its client has closed it, and until then it holds its locks and is counted. So before a
test those of the one before have ended (`none_left`), and a test that ends one waits for that (`end_sessions`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import ModuleType

import psycopg
import pytest

import tapewatch.notify.postgres
import tapewatch.serve.queries
from tapewatch.notify import postgres_gate
from tapewatch.store import connect, marks, queries
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.writer import StoreWriter

EMPTY = """
DO $$
DECLARE name text;
BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('DELETE FROM %I', name);
  END LOOP;
END $$
"""
OTHERS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
NAMED = " AND application_name = %s"
END = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE pid = ANY (%s)"
CLOSING_S = 2.0
"""A session that its client has closed ends within this time, or is ended."""
WAITS: tuple[tuple[ModuleType, str], ...] = (
    (connect, "STORE_CONNECT_S"),
    (marks, "_ANSWER_S_MAX"),
    (marks, "_CONNECT_S_MAX"),
    (queries, "CONNECT_S_MAX"),
    (tapewatch.serve.queries, "STORE_PATIENCE_S"),
    (tapewatch.notify.postgres, "_ANSWER_S_MAX"),
    (postgres_gate, "_ANSWER_S_MAX"),
)
"""How long the program waits for a database that may be away. This one is there, only slow on a busy machine."""
WAIT_S = 60


def end_sessions(dsn: Dsn, name: str) -> None:
    """End the sessions of this ``application_name``, and return when their processes have ended."""
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        pids = [pid for (pid,) in connection.execute(OTHERS + NAMED, (name,))]
        assert pids, f"there is no session of {name}"
        connection.execute(END, (pids,))


def none_left(connection: psycopg.Connection) -> None:
    """Return when this is the server's only session. One that its test has left open is ended."""
    deadline = time.monotonic() + CLOSING_S
    while pids := [pid for (pid,) in connection.execute(OTHERS)]:
        if time.monotonic() > deadline:
            connection.execute(END, (pids,))
        threading.Event().wait(0.002)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The server; it does not fsync."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False)
    writer = StoreWriter.connect(server.start().conninfo)
    writer.initialise()
    writer.close()
    yield server
    server.stop()


@pytest.fixture
def postgres(postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Dsn:
    """A database with our tables all empty, and nobody else in it."""
    for module, name in WAITS:
        monkeypatch.setattr(module, name, WAIT_S)
    with psycopg.connect(postgres_server.dsn.conninfo, autocommit=True) as connection:
        none_left(connection)
        connection.execute(EMPTY)
    return postgres_server.dsn
