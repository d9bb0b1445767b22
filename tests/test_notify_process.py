"""The sender's own process: woken, watched, started again, told of other channels, and gone with its starter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg.types.json import Jsonb

from notify_parts import answer, endpoint, message
from tapewatch.notify.channels import Channel
from tapewatch.notify.letters import channel_rows, dead_letters, resend
from tapewatch.notify.process import Plan, SenderProcess
from tapewatch.notify.senders import Senders
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]

SECRET = "s3cr3t-of-the-channel-not-to-be-seen"
INSERT = "INSERT INTO notifications (id, alert_id, channel, event, payload) VALUES (%s, %s, %s, %s, %s)"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def hook(port: int, name: str = "webhook", path: str = "") -> Channel:
    values = {"url": f"http://127.0.0.1:{port}/{path}", "secret": SECRET}
    return Channel(name=name, kind="webhook", values=values, private=True)


def plan(dsn: Dsn, *channels: Channel, **changes: Any) -> Plan:
    usual: dict[str, Any] = {"attempts_max": 2, "news_age_ms": 600_000, "first_backoff_s": 0.05}
    return Plan(conninfo=dsn.conninfo, channels=list(channels), **usual | changes)


def add(dsn: Dsn, alert_id: str, channel: str = "webhook") -> str:
    n = message(alert_id, channel=channel)
    with psycopg.connect(dsn.conninfo) as connection:
        connection.execute(INSERT, (n.id, n.alert_id, n.channel, n.event, Jsonb(n.payload)))
    return n.id


def states(dsn: Dsn) -> dict[str, str]:
    with psycopg.connect(dsn.conninfo) as connection:
        return dict(connection.execute("SELECT id, state FROM notifications").fetchall())


async def until(so: Callable[[], bool], seconds: float = 80.0) -> None:
    async with asyncio.timeout(seconds):
        while not so():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(of: Plan, says: Path, **options: Any) -> AsyncIterator[SenderProcess]:
    process = SenderProcess(of, says, **options)
    process.start()
    try:
        yield process
    finally:
        await process.stop()
        assert process.pid is None


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def deliveries() -> float:
    return metric("tapewatch_notify_deliveries_total", channel="webhook", result="delivered")


async def test_it_sends_when_it_is_woken_and_says_how_it_goes(postgres: Dsn, tmp_path: Path) -> None:
    async with (
        endpoint(answer(200)) as (port, requests),
        running(plan(postgres, hook(port), poll_s=3_600.0), tmp_path / "log") as sender,
    ):
        before = deliveries()
        await until(lambda: "webhook" in sender.channels)  # it is there
        ids = []
        for count in (1, 2):  # before the second one it waits to be woken, and would look by itself in an hour
            ids.append(add(postgres, f"a{count}"))
            sender.wake()
            await until(lambda count=count: (len(requests), deliveries()) == (count, before + count))
        await until(lambda: sender.channels["webhook"]["accepted_at"] is not None)
        await until(lambda: states(postgres) == dict.fromkeys(ids, "delivered"))
    (row,) = channel_rows(postgres.conninfo)
    assert (row.channel, row.delivered, row.failures, row.dead) == ("webhook", 2, 0, 0)
    assert row.accepted_at is not None


async def test_its_secrets_are_in_no_argument_no_environment_and_no_log(postgres: Dsn, tmp_path: Path) -> None:
    says = tmp_path / "log"
    async with endpoint(answer(500)) as (port, requests):
        quiet = plan(postgres, hook(port, path=SECRET), log_level="debug")
        async with running(quiet, says) as sender:
            add(postgres, "a1")
            await until(lambda: "dead" in states(postgres).values())
            process = psutil.Process(sender.pid)
            assert SECRET not in " ".join(process.cmdline())
            assert SECRET not in str(process.environ())
            assert postgres.conninfo not in " ".join(process.cmdline())
    assert len(requests) == 2
    assert SECRET not in says.read_text()
    (letter,) = dead_letters(postgres.conninfo)
    assert letter.reason == "127.0.0.1 answered 500 (attempt 2, the last)"


async def test_a_dead_letter_is_sent_again_with_its_old_id_however_old_it_is(postgres: Dsn, tmp_path: Path) -> None:
    notification_id, began_s = add(postgres, "a1"), time.monotonic()
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute("UPDATE notifications SET created_at = now() - INTERVAL '2 hours'")
    async with endpoint(answer(200)) as (port, requests), running(plan(postgres, hook(port)), tmp_path / "log"):
        await until(lambda: "dead" in states(postgres).values())
        assert requests == []
        assert resend(postgres.conninfo, ["another"]) == []
        assert resend(postgres.conninfo, None, "another") == []
        assert resend(postgres.conninfo, [notification_id]) == [notification_id]
        await until(lambda: "delivered" in states(postgres).values())
    (request,) = requests
    assert request.signed_headers["idempotency-key"] == notification_id
    late, _, _ = json.loads(request.body)["text"].partition(" min late: ")
    assert 120 <= int(late) <= 120 + (time.monotonic() - began_s) / 60 + 1
    assert resend(postgres.conninfo, None) == []


async def test_killed_it_is_started_again_and_goes_on(postgres: Dsn, tmp_path: Path) -> None:
    starts = metric("tapewatch_notify_starts_total")
    async with endpoint(answer(200)) as (port, _), running(plan(postgres, hook(port)), tmp_path / "log") as sender:
        await until(lambda: sender.channels != {})
        assert sender.pid is not None
        os.kill(sender.pid, signal.SIGKILL)
        add(postgres, "a1")
        await until(lambda: "delivered" in states(postgres).values())
        assert metric("tapewatch_notify_starts_total") == starts + 2


async def test_one_that_says_nothing_is_killed_and_started_again(postgres: Dsn, tmp_path: Path) -> None:
    async with (
        endpoint(answer(200)) as (port, _),
        running(plan(postgres, hook(port)), tmp_path / "log", silence_s=15.0) as sender,
    ):
        await until(lambda: sender.channels != {})
        first = sender.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        add(postgres, "a1")
        await until(lambda: sender.pid not in (first, None))
        await until(lambda: "delivered" in states(postgres).values())


async def test_other_channels_from_now_on(postgres: Dsn, tmp_path: Path) -> None:
    async with endpoint(answer(200)) as (port, requests):
        first, second = hook(port, "one", "1"), hook(port, "two", "2")
        async with running(plan(postgres, first), tmp_path / "log") as sender:
            add(postgres, "a1", "one")
            add(postgres, "a1", "two")
            await until(lambda: len(requests) == 1)
            await sender.change([second])
            await until(lambda: len(requests) == 2)
    assert [request.line.split(" ")[1] for request in requests] == ["/1", "/2"]


STARTER = """
import asyncio, sys
from pathlib import Path
import msgspec
from tapewatch.notify.process import Plan, SenderProcess

async def main():
    sender = SenderProcess(msgspec.json.decode(sys.stdin.readline(), type=Plan), Path(sys.argv[1]))
    sender.start()
    while not sender.channels:
        await asyncio.sleep(0.01)
    print(sender.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_ends_when_its_starter_is_killed(postgres: Dsn, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log")]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdin is not None
    assert starter.stdout is not None
    starter.stdin.write(msgspec.json.encode(plan(postgres, hook(9))) + b"\n")
    starter.stdin.flush()
    pid = int(await asyncio.to_thread(starter.stdout.readline))
    starter.kill()
    await asyncio.to_thread(starter.wait)
    await until(lambda: has_ended(pid))
    starter.stdin.close()
    starter.stdout.close()


async def test_the_log_is_written_here_and_the_rest_by_the_process(postgres: Dsn, tmp_path: Path) -> None:
    ended: list[BaseException | None] = []
    settings = Settings(_env_file=None)
    async with endpoint(answer(200)) as (port, requests):
        channels = {"log": Channel(name="log", kind="log"), "webhook": hook(port)}
        senders = Senders(settings, postgres.conninfo, channels, tmp_path / "log", ended.append)
        senders.start()
        ids = {add(postgres, "a1", "log"), add(postgres, "a1", "webhook")}
        senders.passed({"log", "webhook"})
        await until(lambda: states(postgres) == dict.fromkeys(ids, "delivered"))
        assert len(requests) == 1
        await senders.change({"log": channels["log"]})
        assert senders.pid is None, "without a channel that reaches out there is no process"
        add(postgres, "a2", "log")
        senders.passed({"log"})
        await until(lambda: list(states(postgres).values()).count("delivered") == 3)
        await senders.change(channels)
        add(postgres, "a3", "webhook")
        await until(lambda: len(requests) == 2)
        await senders.stop()
    assert ended == []
