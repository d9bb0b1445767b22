"""Users who may log in, one of each role of `init_db.sql`, for the tests of their rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from store_rows import alert, bar, changes, gap, latest, notification, quality, window
from tapewatch.records import Origin
from tapewatch.store.connect import Dsn
from tapewatch.store.writer import StoreWriter

PASSWORD = "only for tests"
TABLES = (
    "stock_aggregates",
    "price_bars",
    "breakout_alerts",
    "latest_prices",
    "feed_gaps",
    "minute_quality",
    "notifications",
    "engine_state",
    "refused_rows",
    "row_revisions",
    "alert_rules",
    "alert_marks",
    "alert_mutes",
    "channel_health",
    "system_alerts",
)
VIEWS = ("latest_stock_data", "quality_grades", "price_bars_1h", "price_bars_1d")
ON_BOTH = pytest.mark.parametrize(
    "place", [pytest.param("postgres"), pytest.param("timescale", marks=pytest.mark.slow)], indirect=True
)
EVERYTHING: dict[str, Any] = {
    "windows": [window()],
    "bars": [bar()],
    "latest": [latest()],
    "quality": [quality()],
    "alerts": [alert()],
    "gaps": [gap()],
}


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Dsn:
    """The owner's access to a database with our tables: plain PostgreSQL, or TimescaleDB."""
    owner: Dsn = request.getfixturevalue(request.param)
    StoreWriter(owner.conninfo, "tests").initialise()
    return owner


def run(dsn: Dsn, *statements: str) -> None:
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(dsn: Dsn, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        return connection.execute(query.encode(), values).fetchall()


def user(owner: Dsn, name: str, role: str | None = None) -> Dsn:
    """A user who may log in and was granted ``role``; the server is shared by tests, so it may be there already."""
    with psycopg.connect(owner.conninfo, autocommit=True) as connection:
        with suppress(psycopg.errors.DuplicateObject):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD))
        if role is not None:
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
    return replace(owner, user=name, password=PASSWORD)


def may(dsn: Dsn, statement: str) -> bool:
    """Whether the server lets this user do it; nothing of it stays."""
    with psycopg.connect(dsn.conninfo) as connection:
        connection.execute("SET default_transaction_read_only = off")
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return False
        finally:
            connection.rollback()
    return True


@contextmanager
def writing(dsn: Dsn, lane: str = "embedded", origin: Origin = Origin.SIMULATED) -> Iterator[StoreWriter]:
    writer = StoreWriter.connect(dsn.conninfo, lane)
    try:
        writer.recover("log", origin)
        yield writer
    finally:
        writer.close()


def fill(dsn: Dsn) -> None:
    """One commit with a row in every table but refused_rows."""
    with writing(dsn) as writer:
        writer.commit(changes(**EVERYTHING), 0, 10, snapshot=b"state", notifications=[notification()])
