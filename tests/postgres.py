"""Fixtures: a real PostgreSQL, started once for all tests, with our tables, empty for each test.

`postgres` is the access (`Dsn`) to it. Emptying takes a few ms; a database of its own for every test would take 300.
A test that changes a table or function calls `StoreWriter.initialise` in the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

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
def postgres(postgres_server: EmbeddedPostgres) -> Dsn:
    """A database with our tables all empty."""
    with psycopg.connect(postgres_server.dsn.conninfo, autocommit=True) as connection:
        connection.execute(EMPTY)
    return postgres_server.dsn
