"""The gate on a real PostgreSQL: what it finds, writes, remembers and grades."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from notify_parts import alert
from postgres import end_sessions
from store_rows import MINUTE, START, changes, gap, latest, quality
from store_users import ask, run, writing
from tapewatch.errors import StoreUnavailable
from tapewatch.notify.gate import Gate
from tapewatch.notify.outbox import notifications_for
from tapewatch.notify.policy import Policy
from tapewatch.notify.postgres_gate import PostgresGate
from tapewatch.records import AlertStatus, Gap, GapState, Notification, Origin
from tapewatch.rules.channels import NotifyOptions, Rate
from tapewatch.rules.model import Rules
from tapewatch.store.connect import Dsn
from tapewatch.store.writer import StoreWriter

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 3, 2, 14, 35, tzinfo=UTC)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Room:
    """A gate over a database, and a clock moved by hand."""

    def __init__(self, dsn: Dsn) -> None:
        self.dsn = dsn
        self.now = NOW
        self.woken: list[set[str]] = []
        self.store = PostgresGate(dsn.conninfo)
        options = NotifyOptions(limit=Rate(2, 60_000))
        self.gate = Gate(
            self.store, lambda: Policy(options, Rules(), link="http://here"), self.woken.append, now=lambda: self.now
        )
        self.position = 0

    def commit(self, *notes: Notification, gaps: list[Gap] | None = None) -> None:
        """As the engine's commit writes them."""
        with writing(self.dsn) as writer:
            at = writer.recover("log", Origin.SIMULATED).position
            writer.commit(
                changes(latest=[latest()], quality=[quality()], gaps=gaps or []), at, at + 1, notifications=notes
            )

    def rows(self, columns: str = "id, state") -> list[tuple[Any, ...]]:
        return ask(self.dsn, " ".join(("SELECT", columns, "FROM notifications ORDER BY created_at, id")))


def note(alert_id: str = "a1", status: str = "confirmed", channel: str = "phone", **values: Any) -> Notification:
    window = {"window": {"from_ms": START - 4 * MINUTE, "to_ms": START + MINUTE}}
    made = alert(
        alert_id, AlertStatus(status), evidence={status: window}, pane_start_ms=START, triggered_ms=START + 5,
        decided_ms=START + 1_000, **values,
    )  # fmt: skip
    return notifications_for(made, [channel], "provisional", Origin.LIVE)[0]


@pytest.fixture
async def room(postgres: Dsn) -> AsyncIterator[Room]:
    StoreWriter(postgres.conninfo, "tests").initialise()
    found = Room(postgres)
    yield found
    await found.store.close()


async def test_a_message_waits_for_the_gate_and_is_let_through(room: Room) -> None:
    room.commit(note())
    assert room.rows("id, state, rule, kind, symbol") == [
        ("a1:phone:confirmed", "new", "golden", "golden_cross", "AAPL")
    ]
    assert await room.gate.step()
    ((state, passed_at, due, payload),) = room.rows("state, passed_at, next_attempt_at, payload")
    assert (state, passed_at, due) == ("waiting", NOW, NOW)
    assert (payload["grade"], payload["url"], payload["late_s"]) == ("A", "http://here/#/alerts/a1", 299.0)
    assert room.woken == [{"phone"}]
    assert not await room.gate.step()


async def test_a_digest_is_written_with_what_it_tells(room: Room) -> None:
    room.commit(*(note(f"a{n}", symbol=f"S{n}") for n in range(6)))
    await room.gate.step()
    assert [state for _, state in room.rows()] == ["waiting"] * 2 + ["held"] * 4
    room.now += timedelta(seconds=10)
    await room.gate.step()
    rows = room.rows("event, state, told_by, payload->>'count'")
    digest = ask(room.dsn, "SELECT id FROM notifications WHERE event = 'digest'")[0][0]
    assert [row for row in rows if row[0] == "digest"] == [("digest", "waiting", None, "4")]
    assert [row for row in rows if row[1] == "folded"] == [("confirmed", "folded", digest, None)] * 4


async def test_another_gate_takes_over_and_remembers(room: Room, postgres: Dsn) -> None:
    room.commit(*(note(f"a{n}", symbol=f"S{n}") for n in range(2)))
    await room.gate.step()
    other = Room(postgres)
    try:
        room.commit(note("b", symbol="T"))
        assert not await other.gate.step()  # one at a time
        await room.store.close()
        async with asyncio.timeout(120):
            while not await other.gate.step():  # until the server has ended the session
                pass
        assert other.rows("id, state")[-1] == ("b:phone:confirmed", "held")  # the limit of the first still counts
    finally:
        await other.store.close()


async def test_grades_are_of_what_is_still_missing(room: Room) -> None:
    lost = gap(START - 30_000, START - 10_000)
    room.commit(note(), gaps=[lost])
    await room.gate.step()
    assert [(event, state) for event, state in room.rows("event, state") if event != "held"] == [("confirmed", "held")]
    assert ask(room.dsn, "SELECT payload->>'text' FROM notifications WHERE event = 'held'")[0][0].startswith("1 alert")
    room.commit(gaps=[gap(lost.from_ms, lost.to_ms, state=GapState.FILLED, trades=5)])
    room.now += timedelta(seconds=15)
    await room.gate.step()
    rows = room.rows("event, state, reason, payload->>'grade'")
    assert ("confirmed", "waiting", "grade D", "A") in rows


async def test_mutes_and_marks_count(room: Room) -> None:
    run(
        room.dsn,
        "INSERT INTO alert_mutes (mute_id, symbol, muted_to, muted_by) VALUES ('m', 'MSFT', '2026-03-02 15:00Z', 'me')",
        "INSERT INTO alert_marks (alert_id, acknowledged_at) VALUES ('a2', '2026-03-02 14:00Z'), ('a3', NULL)",
    )
    room.commit(note("a1", symbol="MSFT"), note("a2", symbol="X"), note("a3"))
    await room.gate.step()
    assert room.rows("state, reason") == [
        ("muted", "muted by me until 2026-03-02 15:00 UTC"), ("muted", "acknowledged"), ("waiting", None),
    ]  # fmt: skip


async def test_a_confirmation_follows_what_was_told(room: Room) -> None:
    room.commit(note("a1", "provisional"))
    await room.gate.step()
    room.commit(note("a1"), note("a2", symbol="B"), note("a3", symbol="C"))
    await room.gate.step()
    assert [state for _, state in room.rows()] == ["waiting", "waiting", "waiting", "held"]


async def test_a_database_that_goes_away_loses_nothing(room: Room) -> None:
    room.commit(note())
    await room.gate.step()
    end_sessions(room.dsn, "tapewatch gate")
    room.commit(note("a2", symbol="B"))
    with pytest.raises(StoreUnavailable):
        await room.gate.step()
    assert await room.gate.step()
    assert [state for _, state in room.rows()] == ["waiting", "waiting"]
