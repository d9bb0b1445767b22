"""The outbox in a real PostgreSQL, and a sender that is killed between delivery and mark."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from notify_parts import START, MemoryOutbox, endpoint, message
from postgres import end_sessions, none_left
from tapewatch.errors import StoreUnavailable
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.postgres import PostgresOutbox
from tapewatch.notify.sender import Counts, Delivered, OutboxStore, Waiting
from tapewatch.notify.target import FollowUp, Outcome
from tapewatch.notify.webhook import Webhook
from tapewatch.records import AlertStatus, Notification
from tapewatch.store.connect import Dsn

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

INSERT = """
    INSERT INTO notifications (id, alert_id, channel, event, payload, created_at, next_attempt_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s)"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def outbox(postgres: Dsn) -> AsyncIterator[PostgresOutbox]:
    found = PostgresOutbox(postgres.conninfo)
    yield found
    await found.close()


def add(dsn: Dsn, notification: Notification, at: datetime = START) -> None:
    """As the engine's commit does it."""
    n = notification
    with psycopg.connect(dsn.conninfo) as connection:
        connection.execute(INSERT, (n.id, n.alert_id, n.channel, n.event, Jsonb(n.payload), at, at))


def replace_message(notification: Notification, event: str, **payload: Any) -> Notification:
    """The same alert's message of another event."""
    changed = notification.payload | payload
    return msgspec.structs.replace(notification, id=f"{notification.id}:{event}", event=event, payload=changed)


def row(dsn: Dsn, notification_id: str) -> tuple[Any, ...]:
    """State, attempts, next attempt, delivery and last error of one message."""
    with psycopg.connect(dsn.conninfo) as connection:
        found = connection.execute(
            "SELECT state, attempts, next_attempt_at, delivered_at, last_error FROM notifications WHERE id = %s",
            (notification_id,),
        ).fetchone()
    assert found is not None
    return found


async def test_a_message_comes_back_as_it_was_written(postgres: Dsn, outbox: PostgresOutbox) -> None:
    add(postgres, message())
    add(postgres, message(channel="log"))
    assert await outbox.claim("webhook", 10, START) == [Waiting(message(), 0, START, announced=False)]
    assert await outbox.claim("webhook", 10, START - timedelta(seconds=1)) == []


async def test_the_life_of_a_message(postgres: Dsn, outbox: PostgresOutbox) -> None:
    later = START + timedelta(seconds=30)
    add(postgres, message())
    await outbox.failed(message().id, 1, "it answered 500", later)
    assert row(postgres, message().id) == ("waiting", 1, later, None, "it answered 500")
    assert await outbox.claim("webhook", 10, later - timedelta(milliseconds=1)) == []
    assert [w.attempts for w in await outbox.claim("webhook", 10, later)] == [1]
    counts = await outbox.counts()
    assert counts[:2] == (1, 0)
    assert counts.oldest_s > 0
    for _ in range(2):  # saying it again changes nothing
        await outbox.delivered(Delivered(message().id, 2, later, Outcome()))
        assert row(postgres, message().id) == ("delivered", 2, later, later, None)
    assert await outbox.claim("webhook", 10, later) == []
    add(postgres, message("a2"))
    await outbox.dead(message("a2").id, 8, "it answered 500 (attempt 8, the last)")
    assert row(postgres, message("a2").id)[:2] == ("dead", 8)
    assert await outbox.counts() == Counts(waiting=0, dead=1, oldest_s=0.0)


async def test_the_memory_outbox_of_the_other_tests_behaves_alike(postgres: Dsn, outbox: PostgresOutbox) -> None:
    memory = MemoryOutbox()
    stores: list[OutboxStore] = [outbox, memory]
    for number, name in enumerate(("a3", "a1", "a2")):
        for status in AlertStatus:
            if name != "a2" or status is not AlertStatus.PROVISIONAL:
                add(postgres, message(name, status), START + timedelta(seconds=number))
                memory.add(message(name, status), START + timedelta(seconds=number))
    now = START + timedelta(seconds=5)
    first = [await store.claim("webhook", 4, now) for store in stores]
    assert first[0] == first[1]
    assert [w.notification.id.split(":", 1)[0] for w in first[0]] == ["a3", "a1", "a2", "a2"]
    for store in stores:
        await store.delivered(
            Delivered(message("a3", AlertStatus.PROVISIONAL).id, 1, now, Outcome(receipt={"ts": "1"}))
        )
        await store.dead(message("a1", AlertStatus.PROVISIONAL).id, 8, "given up")
        await store.failed(message("a2", AlertStatus.RETRACTED).id, 1, "no", now + timedelta(seconds=1))
    second = [await store.claim("webhook", 50, now) for store in stores]
    assert second[0] == second[1]
    assert {(w.notification.alert_id, w.announced) for w in second[0]} == {("a3", True), ("a1", False), ("a2", False)}
    assert (await outbox.counts())[:2] == (await memory.counts())[:2] == (6, 1)


async def test_a_lost_connection_is_one_failure_and_then_opened_again(postgres: Dsn, outbox: PostgresOutbox) -> None:
    add(postgres, message())
    await outbox.claim("webhook", 10, START)
    end_sessions(postgres, "tapewatch sender")
    with pytest.raises(StoreUnavailable, match="database with the notifications does not answer"):
        await outbox.claim("webhook", 10, START)
    assert len(await outbox.claim("webhook", 10, START)) == 1


async def test_of_two_servers_one_delivers_until_it_goes(postgres: Dsn, outbox: PostgresOutbox) -> None:
    other = PostgresOutbox(postgres.conninfo)
    try:
        add(postgres, message())
        assert len(await outbox.claim("webhook", 10, START)) == 1
        assert await other.claim("webhook", 10, START) == []
        assert (await other.counts()).waiting == 1
        await outbox.close()
        async with asyncio.timeout(120):
            while not await other.claim("webhook", 10, START):  # until the server has ended the session
                pass
        assert await outbox.claim("webhook", 10, START) == []
    finally:
        await other.close()


async def test_a_database_that_is_not_there_is_a_sentence(postgres: Dsn) -> None:
    nowhere = PostgresOutbox(replace(postgres, dbname="no_such_database").conninfo)
    with pytest.raises(StoreUnavailable, match="no_such_database"):
        await nowhere.counts()


async def test_channels_may_ask_at_the_same_time(postgres: Dsn, outbox: PostgresOutbox) -> None:
    for number in range(20):
        add(postgres, message(f"a{number:02}"))
    answers = await asyncio.gather(*(outbox.claim("webhook", 50, START) for _ in range(10)))
    assert [len(answer) for answer in answers] == [20] * 10
    with psycopg.connect(postgres.conninfo) as connection:
        (connections,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tapewatch sender'"
        ).fetchone() or (0,)
    assert connections == 1


SENDER = """
import asyncio, sys
from tapewatch.notify.postgres import PostgresOutbox
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.sender import Sender
from tapewatch.notify.webhook import Webhook

conninfo, url = sys.stdin.read().splitlines()
outlets = {"webhook": Outlet("webhook", "webhook", Webhook(url, private=True))}
asyncio.run(Sender(PostgresOutbox(conninfo), outlets, attempts_max=8, news_age_ms=10**14).step("webhook"))
"""


async def test_killed_between_delivery_and_mark_it_sends_again_with_the_same_key(postgres: Dsn) -> None:
    add(postgres, message())
    processes: list[subprocess.Popen[str]] = []

    async def respond(writer: asyncio.StreamWriter) -> None:
        if len(processes) == 1:
            processes[0].kill()
            processes[0].wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with endpoint(respond) as (port, requests):
        for expected_exit, expected_state in ((-signal.SIGKILL, "waiting"), (0, "delivered")):
            process = subprocess.Popen([sys.executable, "-c", SENDER], stdin=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(f"{postgres.conninfo}\nhttp://127.0.0.1:{port}/")
            process.stdin.close()
            assert await asyncio.to_thread(process.wait, 120) == expected_exit
            with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
                none_left(connection)  # the killed one's session has the channel until it ends
            assert row(postgres, message().id)[0] == expected_state
    assert [request.headers["idempotency-key"] for request in requests] == [message().id] * 2
    assert requests[0].body == requests[1].body


async def test_each_channel_has_its_own_sender(postgres: Dsn, outbox: PostgresOutbox) -> None:
    other = PostgresOutbox(postgres.conninfo)
    add(postgres, message())
    add(postgres, message(channel="log"))
    try:
        assert len(await outbox.claim("webhook", 10, START)) == 1
        assert len(await other.claim("log", 10, START)) == 1
        assert await other.claim("webhook", 10, START) == []
        assert await outbox.claim("log", 10, START) == []
    finally:
        await other.close()


async def test_what_is_to_follow_is_written_with_the_delivery_once(postgres: Dsn, outbox: PostgresOutbox) -> None:
    add(postgres, message())
    closing = replace_message(message(), event="expired", incident=None, resolves=["golden_cross:AAPL:above"])
    told = Delivered(message().id, 1, START, Outcome(receipt={"dedup_key": "k"}, follow_up=FollowUp(closing, 60)))
    for _ in range(2):
        await outbox.delivered(told)
    assert await outbox.claim("webhook", 10, START + timedelta(seconds=59)) == []
    (waiting,) = await outbox.claim("webhook", 10, START + timedelta(seconds=60))
    assert (waiting.notification, waiting.earlier, waiting.superseded) == (closing, {"dedup_key": "k"}, False)
    opened = replace_message(message("a2"), event="confirmed", incident="golden_cross:AAPL:above", resolves=[])
    add(postgres, opened, datetime.now(UTC) + timedelta(seconds=60))
    (waiting,) = await outbox.claim("webhook", 10, START + timedelta(seconds=60))
    assert waiting.superseded
    await outbox.needless(closing.id, "it began anew since")
    assert row(postgres, closing.id)[0] == "folded"


async def test_in_order_nothing_is_given_before_what_waits_for_its_next_attempt(
    postgres: Dsn, outbox: PostgresOutbox
) -> None:
    memory = MemoryOutbox()
    for number in range(3):
        add(postgres, message(f"a{number}"), START + timedelta(seconds=number))
        memory.add(message(f"a{number}"), START + timedelta(seconds=number))
    now = START + timedelta(seconds=10)
    stores: list[OutboxStore] = [outbox, memory]
    for store in stores:
        await store.failed(message("a1").id, 1, "no", now + timedelta(seconds=5))
        first = await store.claim("webhook", 10, now, in_order=True)
        later = await store.claim("webhook", 10, now + timedelta(seconds=5), in_order=True)
        assert [w.notification.alert_id for w in first] == ["a0"]
        assert [w.notification.alert_id for w in later] == ["a0", "a1", "a2"]


async def test_how_a_channel_does_is_written_down(postgres: Dsn, outbox: PostgresOutbox) -> None:
    webhook = Webhook("http://127.0.0.1:9/", private=True)
    outlet = Outlet("webhook", "webhook", webhook)
    for outcome, failures in ((Outcome(), 0), (Outcome("it answered 500"), 1), (Outcome("it answered 500"), 2)):
        outlet.note(outcome, START, START)
        await outbox.tell_health(outlet)
        with psycopg.connect(postgres.conninfo) as connection:
            found = connection.execute(
                "SELECT kind, accepted_at, failures, last_error, paused_until FROM channel_health"
            ).fetchone()
        assert found is not None
        assert found[:3] == ("webhook", START, failures)
    assert found[3:] == ("it answered 500", START + timedelta(seconds=1))
    await webhook.close()


async def test_what_waits_for_a_channel_that_is_gone_is_given_up_when_it_is_old(
    postgres: Dsn, outbox: PostgresOutbox
) -> None:
    add(postgres, message(channel="gone"), START)
    add(postgres, message("a2", channel="gone"), START + timedelta(minutes=10))
    add(postgres, message(channel="log"), START)
    assert await outbox.strand({"log"}, START + timedelta(minutes=5)) == 1
    assert row(postgres, message(channel="gone").id)[::4] == ("dead", "there is no such channel any more")
    assert row(postgres, message("a2", channel="gone").id)[0] == "waiting"
    assert row(postgres, message(channel="log").id)[0] == "waiting"


async def test_the_times_of_what_was_sent(postgres: Dsn, outbox: PostgresOutbox) -> None:
    for number in range(3):
        add(postgres, message(f"a{number}"))
        at = START + timedelta(seconds=number)
        await outbox.delivered(Delivered(message(f"a{number}").id, 1, at, Outcome()))
    assert await outbox.sent_since("webhook", START) == [START + timedelta(seconds=1), START + timedelta(seconds=2)]
    assert await outbox.sent_since("log", START) == []
