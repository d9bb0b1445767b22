"""The proof of delivery: a thousand alerts, an endpoint that does all that receivers do wrong, a sender that is killed.

Nothing may be lost; a message comes twice only if a kill lies between, and with the same key. The canary is a sender
that marks a message before it is sent: it must be found out.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from notify_parts import answer, endpoint, message
from tapewatch.notify.channels import Channel
from tapewatch.notify.process import Plan
from tapewatch.rules.channels import Rate
from tapewatch.store.connect import Dsn

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]

LULL_S: Final = 6.0
"""While the endpoint answers 500 to all, it is left alone more and more: then a sender lives so long at most."""
PARALLEL: Final = 8
INSERT = "INSERT INTO notifications (id, alert_id, channel, event, payload) VALUES (%s, %s, %s, %s, %s)"
MARKS_FIRST = """
from tapewatch.notify import __main__ as program
from tapewatch.notify.sender import Delivered, Sender
from tapewatch.notify.target import Outcome

async def settle(self, outlet, waiting):
    told = Delivered(waiting.notification.id, waiting.attempts + 1, self._now(), Outcome())
    await self._outbox.delivered(told)
    await outlet.target.deliver(waiting.notification)
    return True

Sender._settle = settle
program.main()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Receiver:
    """The endpoint. A message counts as accepted when the whole answer 200 was written."""

    chance: random.Random
    """Of the answers, and of nothing else: so the same answers are among them in every run."""
    elsewhere: int
    """Port of a server that a redirect leads to."""
    requests: int = 0
    accepted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By key, each request that was accepted, whether its sender lived to hear of it or not. Its line names which of
    the processes it is from: each has an address of its own."""
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    did: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    down_until: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    before_answer: list[asyncio.Event] = field(default_factory=list)
    """Each is set by the next request, which then waits a moment before it answers: time to be killed."""

    @property
    def is_down(self) -> bool:
        """It answers 500 to all."""
        return time.monotonic() < self.down_until

    async def respond(self, writer: asyncio.StreamWriter, line: str, headers: dict[str, str], body: bytes) -> None:
        self.requests += 1
        self.arrived.set()
        key = headers["idempotency-key"]
        self.bodies[key].add(body)
        if self.before_answer:
            self.before_answer.pop().set()
            await asyncio.sleep(0.05)
        if self.is_down:
            return await self._wrong("500", writer)
        kinds = ["hang", "drip", "redirect", "429", "close", "garbage", "ok"]
        kind = self.chance.choices(kinds, [2, 2, 8, 3, 12, 6, 967])[0]
        if kind != "ok":
            return await self._wrong(kind, writer)
        await answer(200)(writer)
        await writer.drain()
        self.accepted[key].append(line)
        return None

    async def _wrong(self, kind: str, writer: asyncio.StreamWriter) -> None:
        self.did[kind] += 1
        match kind:
            case "500":
                await answer(500, b"down")(writer)
            case "hang":
                await asyncio.Event().wait()
            case "drip":
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(3)
            case "redirect":
                await answer(307, Location=f"http://127.0.0.1:{self.elsewhere}/")(writer)
            case "429":
                await answer(429, Retry_After="1")(writer)
            case "garbage":
                writer.write(b"\x00\xff no HTTP\r\n\r\n")
            case "close":
                writer.close()


@dataclass
class Run:
    """What came of it."""

    lost: list[str]
    twice: list[str]
    unexplained: list[str]
    """Came twice from the same process: without a kill between."""
    states: dict[str, int]
    kills: int
    receiver: Receiver
    redirected: int


async def run(
    dsn: Dsn, alerts: int, kills: int, command: list[str], seed: int, *, down_s: float, patience_s: float
) -> Run:
    """``alerts`` at once, ``kills`` kills, from the middle one on 500 for so long, and then until nothing waits."""
    ids, moments = _write(dsn, alerts), random.Random(seed)
    async with endpoint(answer(200)) as (elsewhere, strayed):
        receiver = Receiver(random.Random(seed), elsewhere)
        async with endpoint(receiver.respond) as (port, _):
            killed = 0
            for number in range(kills):
                if number == kills // 2:
                    receiver.down_until = time.monotonic() + down_s
                process = await _start(command, _plan(dsn, f"http://127.0.0.1:{port}/{number}"))
                await _some_requests(receiver, moments.randint(1, 2 * alerts // (3 * kills)))
                if number % 2:  # between the delivery and its mark
                    caught = asyncio.Event()
                    receiver.before_answer.append(caught)
                    await asyncio.wait_for(caught.wait(), 240)
                process.send_signal(signal.SIGKILL)
                killed += 1
                await process.wait()
            process = await _start(command, _plan(dsn, f"http://127.0.0.1:{port}/last"), asyncio.subprocess.PIPE)
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readline(), 240)  # it is there, and can be told
            reading = asyncio.create_task(process.stdout.read())
            await _settled(dsn, patience_s)
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 120) == 0, "it ends in good order when it is told to"
            await reading
    twice = {key: lines for key, lines in receiver.accepted.items() if len(lines) > 1}
    return Run(
        lost=[key for key in ids if key not in receiver.accepted],
        twice=list(twice),
        unexplained=[key for key, lines in twice.items() if len(set(lines)) < len(lines)],
        states=_states(dsn),
        kills=killed,
        receiver=receiver,
        redirected=len(strayed),
    )


def _plan(dsn: Dsn, url: str) -> Plan:
    channel = Channel(
        name="webhook",
        kind="webhook",
        values={"url": url},
        private=True,
        limit=Rate(500, 1_000),
    )
    return Plan(
        conninfo=dsn.conninfo, channels=[channel], attempts_max=40, news_age_ms=10**12, deadline_s=8.0,
        first_backoff_s=0.2,
    )  # fmt: skip


def _write(dsn: Dsn, alerts: int) -> list[str]:
    made = [message(f"a{number:04}") for number in range(alerts)]
    with psycopg.connect(dsn.conninfo) as connection, connection.cursor() as cursor:
        cursor.executemany(INSERT, [(n.id, n.alert_id, n.channel, n.event, Jsonb(n.payload)) for n in made])
    return [n.id for n in made]


async def _start(
    command: list[str], plan: Plan, stdout: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=stdout, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(plan) + b"\n")
    return process


async def _some_requests(receiver: Receiver, number: int) -> None:
    """Until so many more came, and at least one."""
    wanted = receiver.requests + 1
    async with asyncio.timeout(240):
        while receiver.requests < wanted:
            receiver.arrived.clear()
            await receiver.arrived.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(LULL_S if receiver.is_down else 240):
            while receiver.requests < wanted + number - 1:
                receiver.arrived.clear()
                await receiver.arrived.wait()


async def _settled(dsn: Dsn, patience_s: float) -> None:
    async with asyncio.timeout(patience_s):
        while "waiting" in _states(dsn):
            await asyncio.sleep(0.2)


def _states(dsn: Dsn) -> dict[str, int]:
    with psycopg.connect(dsn.conninfo) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM notifications GROUP BY state").fetchall())


async def test_a_thousand_alerts_and_twenty_kills(postgres: Dsn) -> None:
    command = [sys.executable, "-m", "tapewatch.notify"]
    found = await run(postgres, 1_000, 20, command, seed=7, down_s=60.0, patience_s=400)
    assert found.kills == 20
    assert found.lost == []
    assert found.states == {"delivered": 1_000}
    assert found.unexplained == [], "came twice without a kill between"
    assert 0 < len(found.twice) <= 20 * PARALLEL, "no kill fell between delivery and mark: this proves nothing"
    assert all(len(bodies) == 1 for bodies in found.receiver.bodies.values()), "a repeat is the same message"
    assert found.redirected == 0
    assert set(found.receiver.did) == {"500", "hang", "drip", "redirect", "429", "close", "garbage"}
    print(f"accepted twice after a kill: {len(found.twice)}; the endpoint's answers: {dict(found.receiver.did)}")


async def test_canary_a_sender_that_marks_before_it_sends_is_found_out(postgres: Dsn) -> None:
    found = await run(postgres, 100, 4, [sys.executable, "-c", MARKS_FIRST], seed=7, down_s=4.0, patience_s=300)
    assert found.lost != []
