"""simulator/chaos.py, disturb.py, trouble.py, sent.py: what goes wrong is what was asked for, and is listed rightly."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tapewatch.errors import MachineError
from tapewatch.simulator.chaos import DATA_FAULTS, FAULTS, Act, Fault, Script, read_act, seconds_of
from tapewatch.simulator.disturb import Disturber
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.sent import SentFile, SentTrade
from tapewatch.simulator.server import Options, Simulator
from tapewatch.simulator.tape import Due
from tapewatch.simulator.trouble import Trouble
from virtual_time import run_virtual

START_NS = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
SECOND_NS = 1_000_000_000


# --- the script ------------------------------------------------------------------------------------------------


def test_every_fault_is_explained_and_can_be_asked_for() -> None:
    assert set(FAULTS) == set(Fault)
    for fault in Fault:
        assert read_act(f"{fault}@2.5+3") == Act(2.5, fault, 3.0)
        assert seconds_of(fault)[0] <= read_act(f"{fault}@0").seconds <= seconds_of(fault)[1]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("cutt@1", "'cutt' is no fault; expected one of close, going-away"),
        ("cut", "expected NAME@SECONDS"),
        ("cut@-1", "expected NAME@SECONDS"),
        ("cut@soon", "expected NAME@SECONDS"),
        ("cut@1+x", "expected NAME@SECONDS"),
        ("cut@inf", "expected NAME@SECONDS"),
    ],
)
def test_a_fault_that_cannot_be_read_is_refused_with_a_sentence(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part.replace("(", r"\(")):
        read_act(text)


def test_a_round_of_a_script_has_every_fault_once_and_the_seed_decides_all() -> None:
    acts = Script(random.Random(5), every_s=10).due(100_000)
    rounds = [acts[n : n + len(Fault)] for n in range(0, len(acts) - len(Fault), len(Fault))]
    assert len(rounds) > 100
    assert all({act.fault for act in one} == set(Fault) for one in rounds)
    assert [act.fault for act in rounds[0]] != [act.fault for act in rounds[1]]
    assert Script(random.Random(5), every_s=10).due(100_000) == acts
    assert Script(random.Random(6), every_s=10).due(100_000) != acts
    assert 9 < acts[-1].at_s / len(acts) < 11


@given(st.lists(st.floats(0, 1_000), max_size=20), st.integers(0, 5))
def test_any_cut_of_the_time_gives_the_same_script(moments: list[float], seed: int) -> None:
    fixed = [Act(3.0, Fault.CUT, 1.0), Act(500.0, Fault.LATE, 2.0)]
    one = Script(random.Random(seed), fixed).due(1_000)
    script = Script(random.Random(seed), fixed)
    assert [act for moment in [*sorted(moments), 1_000] for act in script.due(moment)] == one


def test_a_script_of_fixed_faults_ends_and_so_does_one_with_a_limit() -> None:
    script = Script(None, [read_act("cut@1")])
    assert not script.is_over
    assert [act.fault for act in script.due(1.0)] == [Fault.CUT]
    assert script.is_over
    limited = Script(random.Random(1), until_s=100.0)
    assert max(act.at_s for act in limited.due(1e6)) <= 100
    assert limited.is_over


# --- what is sent ----------------------------------------------------------------------------------------------


def trades(from_s: int, count: int) -> list[Due]:
    """One trade a tenth of a second."""
    return [
        Due(START_NS + from_s * SECOND_NS + n * SECOND_NS // 10, n, "AAPL", {"ev": "T", "i": f"{from_s}-{n}", "t": n})
        for n in range(count)
    ]


@pytest.mark.parametrize("fault", sorted(DATA_FAULTS))
@pytest.mark.parametrize("seed", range(3))
def test_no_fault_of_the_data_loses_or_invents_a_trade(fault: Fault, seed: int) -> None:
    """And each of them does something: the canary of this whole file."""
    disturber, calm = Disturber(random.Random(seed)), Disturber(random.Random(seed))
    disturber.begin(Act(0.0, fault, 5.0), START_NS)
    out: list[Due] = []
    frames: list[bytes] = []
    plain: list[Due] = []
    for second in range(120):
        now_ns = START_NS + (second + 1) * SECOND_NS
        due = trades(second, 10) if second < 10 else []
        found = disturber.pass_on(due, now_ns)
        out += found.events
        frames += found.frames
        plain += calm.pass_on(due, now_ns).events
    assert not disturber.is_holding
    ids = Counter(one.event["i"] for one in out if one.symbol)
    wanted = {one.event["i"] for second in range(10) for one in trades(second, 10)}
    assert set(ids) == wanted
    assert {one.event["i"] for one in plain} == wanted
    repeats = {key for key, number in ids.items() if number > 1}
    assert not repeats or fault is Fault.REPEAT
    if fault not in (Fault.REPEAT_BARS, Fault.REPEAT, Fault.SEQUENCE):
        assert repr((out, frames)) != repr((plain, []))  # 5 and 5.0 are equal


def test_bars_are_sent_again_with_another_volume() -> None:
    disturber = Disturber(random.Random(1))
    bar = {"ev": "AM", "sym": "AAPL", "v": 10, "s": 1}
    assert disturber.bars([bar], START_NS) == [bar]
    disturber.begin(Act(0.0, Fault.REPEAT_BARS, 5.0), START_NS)
    assert [one["v"] for one in disturber.bars([bar], START_NS + 1)] == [10, 11]


def test_what_will_not_arrive_is_in_order_and_what_was_held_back_waits() -> None:
    disturber = Disturber(random.Random(1))
    disturber.begin(Act(0.0, Fault.BURST, 2.0), START_NS)
    assert disturber.pass_on(trades(0, 10), START_NS + SECOND_NS).events == []
    lost = disturber.pass_on(trades(3, 10), START_NS + 4 * SECOND_NS, lossy=True)
    assert [one.event["i"] for one in lost.events] == [f"3-{n}" for n in range(10)]
    later = disturber.pass_on([], START_NS + 5 * SECOND_NS)
    assert [one.event["i"] for one in later.events] == [f"0-{n}" for n in range(10)]


def test_the_sent_trades_are_listed_line_by_line_and_a_wrong_place_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    one = SentTrade("stocks", "T", "AAPL", "5", 7, 11, 0)
    for _ in range(2):
        with SentFile(path) as sent:
            sent([one])
    assert [msgspec.json.decode(line, type=SentTrade) for line in path.read_bytes().splitlines()] == [one, one]
    with pytest.raises(MachineError, match=r"--sent .*cannot be written"):
        SentFile(tmp_path / "none" / "sent.jsonl")


# --- what happens to connections -------------------------------------------------------------------------------

Story = Callable[[Simulator, "Client"], Coroutine[Any, Any, None]]


class Client:
    """A plain client of the test's own, subscribed to everything of the stocks."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: list[Any] = []
        self.raw: list[bytes] = []

    async def open(self, acks: bool = True) -> ClientConnection:
        socket = await connect(
            f"{self.url}/stocks", proxy=None, compression=None, ping_interval=None, max_size=1 << 20, close_timeout=1
        )
        await self.expect(socket, "connected")
        await socket.send('{"action":"auth","params":"key"}')
        await self.expect(socket, "auth_success")
        await socket.send('{"action":"subscribe","params":"T.AAPL,T.TSLA"}')
        if acks:
            await self.expect(socket, "success")
        return socket

    async def expect(self, socket: ClientConnection, status: str) -> None:
        said = json.loads(await socket.recv())
        assert said[0]["status"] == status, said

    async def read(self, socket: ClientConnection) -> ConnectionClosed:
        """All until the end, and how it ended."""
        try:
            while True:
                data = await socket.recv(decode=False)
                self.raw.append(data)
                try:
                    found = json.loads(data)
                except (ValueError, RecursionError):
                    continue
                self.events += found if isinstance(found, list) else []
        except ConnectionClosed as closed:
            return closed

    def statuses(self) -> list[str]:
        return [e.get("status") for e in self.events if isinstance(e, dict) and e.get("ev") == "status"]


def tell(story: Story, *faults: str, seconds: float = 200.0) -> tuple[list[SentTrade], list[Fault]]:
    """Let a story happen, in leaping time, beside these faults."""
    trouble = Trouble(Script(None, [read_act(text) for text in faults]), random.Random(1), repeats=False)
    sent: list[SentTrade] = []

    async def all_of_it() -> None:
        loop = asyncio.get_running_loop()
        async with (
            asyncio.timeout(seconds),
            Simulator(
                SeededMarket(1, 4),
                Options(tick_s=0.1),
                clock=lambda: START_NS + int(loop.time() * 1e9),
                trouble=trouble,
                witness=sent.extend,
            ) as simulator,
        ):
            await story(simulator, Client(f"ws://127.0.0.1:{simulator.port}"))

    started = time.monotonic()
    run_virtual(all_of_it())
    print(f"{faults}: {time.monotonic() - started:.2f} s")
    return sent, [fault for _, fault, _ in trouble.done]


def ids_of(events: list[Any]) -> list[str]:
    return [e["i"] for e in events if isinstance(e, dict) and e.get("ev") == "T" and "i" in e]


@pytest.mark.parametrize(
    ("fault", "statuses", "code"),
    [
        (Fault.CLOSE, [], 1000),
        (Fault.GOING_AWAY, [], 1001),
        (Fault.CUT, [], None),
        (Fault.CUT_FRAME, [], None),
        (Fault.SILENCE, [], None),
        (Fault.SLOW_CONSUMER, ["slow_consumer"], 1008),
        (Fault.FORCE_DISCONNECT, ["force_disconnect"], 1008),
        (Fault.MAX_CONNECTIONS, ["max_connections"], 1008),
    ],
)
def test_each_ending_is_as_it_is_told(fault: Fault, statuses: list[str], code: int | None) -> None:
    got: list[str] = []

    async def story(simulator: Simulator, client: Client) -> None:
        closed = await client.read(await client.open())
        got.extend(ids_of(client.events))
        assert client.statuses() == statuses
        assert (closed.rcvd and closed.rcvd.code) == code
        again = await client.open()  # it may come back at once
        await again.close()

    sent, done = tell(story, f"{fault}@5+3")
    assert done == [fault]
    ids = [one.id for one in sent]
    assert ids[: len(got)] == got
    # What a broken connection lost was sent none the less.
    assert (len(ids) > len(got)) == (fault in (Fault.CUT_FRAME, Fault.SILENCE))


def test_an_oversized_frame_holds_trades_and_ends_a_careful_client() -> None:
    async def story(simulator: Simulator, client: Client) -> None:
        closed = await client.read(await client.open())
        assert closed.rcvd is None
        assert closed.sent is not None
        assert closed.sent.code == 1009

    tell(story, "oversized-frame@3")


def test_what_befalls_the_next_connection() -> None:
    async def story(simulator: Simulator, client: Client) -> None:
        await client.read(await client.open())
        with pytest.raises(InvalidStatus, match="503"):
            await client.open()
        await asyncio.sleep(6)
        await client.read(await client.open())  # its fault is that the next one is not greeted
        silent = await connect(f"{client.url}/stocks", proxy=None)
        with pytest.raises(ConnectionClosed):
            await silent.recv()
        await client.read(await client.open())
        late = await connect(f"{client.url}/stocks", proxy=None)
        await client.expect(late, "connected")
        await late.send('{"action":"auth","params":"key"}')
        await client.expect(late, "auth_timeout")
        await client.read(await client.open())
        quiet = await client.open(acks=False)
        assert json.loads(await quiet.recv())[0]["ev"] == "T"
        await quiet.close()

    _, done = tell(story, "refuse@2+5", "no-greeting@15", "auth-timeout@90", "no-acks@95", seconds=400)
    assert done == [Fault.REFUSE, Fault.NO_GREETING, Fault.AUTH_TIMEOUT, Fault.NO_ACKS]


def test_pings_are_not_answered_for_a_while_and_data_goes_on() -> None:
    async def story(simulator: Simulator, client: Client) -> None:
        socket = await client.open()
        reading = asyncio.create_task(client.read(socket))
        await asyncio.wait_for(await socket.ping(), 1)
        await asyncio.sleep(3)
        before = len(client.events)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await socket.ping(), 5)
        assert len(client.events) > before
        await asyncio.sleep(20)
        await asyncio.wait_for(await socket.ping(), 1)
        await socket.close()
        await reading

    tell(story, "no-pongs@2+20")


def test_rubbish_comes_beside_the_trades_and_every_one_of_them_is_there() -> None:
    names = ["status", "bad-event", "malformed", "unknown-event", "large-frame", "unknown-fields", "floats", "ping"]

    async def story(simulator: Simulator, client: Client) -> None:
        # The client of this test takes frames of 1 MiB at most: the large one is left out of it.
        socket = await client.open()
        reading = asyncio.create_task(client.read(socket))
        await asyncio.sleep(20)
        await socket.close()
        await reading
        assert "maintenance" in client.statuses() or None in client.statuses() or "" in client.statuses()
        assert any(isinstance(e, dict) and e.get("ev") == "ZZ" for e in client.events)
        assert any(not isinstance(e, dict) for e in client.events) or any(
            isinstance(e, dict) and e.get("ev") in (None, "T") and "i" not in e for e in client.events
        )
        got.extend(ids_of([e for e in client.events if isinstance(e, dict) and e.get("sym") in ("AAPL", "TSLA")]))

    got: list[str] = []
    sent, done = tell(story, *(f"{name}@{2 + n}+1" for n, name in enumerate(names) if name != "large-frame"))
    assert len(done) == len(names) - 1
    assert [one.id for one in sent] == [i for i in got if i != "1"]


def test_a_large_frame_is_two_mebibytes() -> None:
    async def story(simulator: Simulator, client: Client) -> None:
        closed = await client.read(await client.open())  # this client takes one
        assert closed.sent is not None
        assert closed.sent.code == 1009

    tell(story, "large-frame@2")


def test_a_delayed_host_has_the_same_trades_a_quarter_of_an_hour_later() -> None:
    async def story(simulator: Simulator, client: Client) -> None:
        client.url += "/delayed"
        socket = await client.open()
        reading = asyncio.create_task(client.read(socket))
        await asyncio.sleep(10)
        await socket.close()
        await reading
        times = [e["t"] for e in client.events]
        assert times
        begin_ms = START_NS // 10**6 - 900_000
        assert all(begin_ms <= t <= begin_ms + 11_000 for t in times)

    sent, _ = tell(story)
    assert {one.market for one in sent} == {"stocks"}


def test_the_markets_that_are_not_meant_are_left_alone() -> None:
    """A fault befalls one market: another one's connection lives on."""

    async def story(simulator: Simulator, client: Client) -> None:
        coin = await connect(f"{client.url}/crypto", proxy=None)
        await client.expect(coin, "connected")
        await coin.send('{"action":"auth","params":"key"}')
        await client.expect(coin, "auth_success")
        await coin.send('{"action":"subscribe","params":"XT.BTC-USD"}')
        await client.expect(coin, "success")
        socket = await client.open()
        readers = [asyncio.create_task(client.read(one)) for one in (coin, socket)]
        await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(1)
        assert sum(task.done() for task in readers) == 1
        for one in (coin, socket):
            await one.close()
        await asyncio.wait(readers)

    tell(story, "cut@5")
