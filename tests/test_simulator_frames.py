"""The player of raw captures: byte for byte, at the capture's pace, to any client of the exchange's protocol."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tapewatch.capturefile import MARK, CaptureWriter, Ended, FeedHead, Framed, Head, Line, Lost, Status, Ticked, marked
from tapewatch.errors import InputError, MachineError
from tapewatch.records import Market, Origin
from tapewatch.simulator.frames import FINISHED, SETTLE_S, FramePlayer
from virtual_time import run_virtual

SECOND = 1_000_000_000
DEADLINE_S = 600.0
HEAD = Head(source="massive", origin=Origin.LIVE, started_ns=1, feeds={"stocks": FeedHead(topics=["T.*"])})
BOTH = msgspec.structs.replace(HEAD, feeds={"stocks": FeedHead(topics=[]), "crypto": FeedHead(topics=[])})
COINBASE = Head(source="coinbase", origin=Origin.LIVE, started_ns=1, feeds={"crypto": FeedHead(topics=[])})


def frame(number: int, market: Market = Market.STOCKS, at_ns: int | None = None) -> Framed:
    data = b'[{"ev":"T","sym":"AAPL",  "n":%d}]' % number
    return Framed.of(market, number * SECOND // 100 if at_ns is None else at_ns, data)


def written(path: Path, lines: Sequence[Line], head: Head = HEAD, *, torn: bool = False) -> Path:
    writer = CaptureWriter(path, head)
    writer.write(lines)
    writer.flush()
    if torn:
        writer._file.close()
    else:
        writer.close()
    return path


def run(scene: Coroutine[Any, Any, Any]) -> Any:
    """Time leaps, so that the play's pace is its own and not the machine's."""

    async def main() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await scene

    return run_virtual(main())


async def subscribed(port: int, *topics: str, path: str = "/stocks") -> ClientConnection:
    client = await connect(f"ws://127.0.0.1:{port}{path}", proxy=None)
    assert b'"connected"' in await client.recv(decode=False)
    await client.send('{"action":"auth","params":"any"}')
    assert b'"auth_success"' in await client.recv(decode=False)
    await client.send(json.dumps({"action": "subscribe", "params": ", ".join(topics)}))
    acks = json.loads(await client.recv())
    assert [ack["message"] for ack in acks] == [f"subscribed to: {topic}" for topic in topics]
    return client


async def rest_of(client: ClientConnection) -> list[bytes]:
    """Everything until the end, which is the play's."""
    found = []
    with suppress(ConnectionClosed):
        while True:
            found.append(await client.recv(decode=False))
    assert (client.close_code, client.close_reason) == (1000, FINISHED)
    return found


ODD = [b"[]", b"[ {}\n]", b'{"ev":"T"}', '["é\u2028"]'.encode(), b"\xff\x00", b"", b"[" + b"x" * 70_000]


def test_frames_come_byte_for_byte_without_statuses_and_marks(tmp_path: Path) -> None:
    lines: list[Line] = [Status.of(Market.STOCKS, 0, b'[{"ev":"status"}]'), Ticked(m="stocks", r=0, t=1)]
    for data in ODD:
        lines += [Framed.of(Market.STOCKS, 1, data), Ended(m="stocks", r=1, why="cut"), Lost(m="stocks", r=1, frames=1)]
    path = written(tmp_path / "a.gz", lines)

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            return await rest_of(await subscribed(player.port, "T.*"))

    assert run(scene()) == ODD


def test_marks_are_before_the_frames_for_who_subscribes_to_them(tmp_path: Path) -> None:
    lines: list[Line] = [frame(1), Ticked(m="stocks", r=5, t=1), frame(2), Ended(m="stocks", r=6, why="cut")]
    path = written(tmp_path / "a.gz", lines)

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            return await rest_of(await subscribed(player.port, "T.*", f"{MARK}.*"))

    found = run(scene())
    marks = []
    for data in found:
        for event in json.loads(data):
            if event["ev"] == "status":
                assert event["status"] == MARK
                marks.append(marked(event["message"]))
    assert [type(line) for line in marks] == [Framed, Ticked, Framed, Ended]
    assert [line.r for line in marks] == [line.r for line in lines]
    assert [data for data in found if b"AAPL" in data] == [line.data for line in lines if isinstance(line, Framed)]


@pytest.mark.parametrize("speed", [10.0, 1.0])
def test_frames_come_at_the_captures_pace(tmp_path: Path, speed: float) -> None:
    """Never before their time, and not after it."""
    moments_s = [0.0, 0.3, 0.35, 0.6]
    path = written(tmp_path / "a.gz", [frame(n, at_ns=int(7 * SECOND + s * SECOND)) for n, s in enumerate(moments_s)])

    async def scene() -> list[float]:
        loop = asyncio.get_running_loop()
        arrived = []
        async with FramePlayer([path], speed=speed) as player:
            client = await subscribed(player.port, "T.*")
            started = loop.time()
            for _ in moments_s:
                await client.recv(decode=False)
                arrived.append(loop.time() - started)
        return arrived

    arrived = run(scene())
    assert arrived == pytest.approx([SETTLE_S + moment_s / speed for moment_s in moments_s])


def test_the_play_begins_when_every_market_has_a_listener(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [frame(1), frame(2, Market.CRYPTO), frame(3)], BOTH)

    async def scene() -> tuple[list[bytes], list[bytes]]:
        async with FramePlayer([path], speed=None) as player:
            stocks = await subscribed(player.port, "T.*")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * SETTLE_S):
                    await stocks.recv()
            crypto = await subscribed(player.port, "XT.*", path="/crypto")
            return await rest_of(stocks), await rest_of(crypto)

    assert run(scene()) == ([frame(1).data, frame(3).data], [frame(2).data])


def test_the_play_waits_for_a_listener_that_went(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [frame(n) for n in range(100)])

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=1.0) as player:
            client = await subscribed(player.port, "T.*")
            before = [await client.recv(decode=False) for _ in range(5)]
            client.transport.abort()
            await client.wait_closed()
            await asyncio.sleep(0.2)
            return before + await rest_of(await subscribed(player.port, "T.*"))

    found = [json.loads(data)[0]["n"] for data in run(scene())]
    # What was on the way to the first listener is gone with it; the play went on where its sending had failed.
    assert found[:5] == [0, 1, 2, 3, 4]
    assert found[-1] == 99
    assert all(b > a for a, b in pairwise(found))
    assert len(found) > 50


def test_who_comes_after_the_end_is_told_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [frame(1)])

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            assert await rest_of(await subscribed(player.port, "T.*")) == [frame(1).data]
            return await rest_of(await subscribed(player.port, "T.*"))

    assert run(scene()) == []


def test_a_second_listener_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [frame(1)])

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            first = await connect(f"ws://127.0.0.1:{player.port}/stocks", proxy=None)
            await first.recv()
            second = await subscribed(player.port, "T.*")
            await first.wait_closed()
            return await rest_of(second)

    assert run(scene()) == [frame(1).data]


def test_a_torn_capture_is_played_to_its_end_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.gz", [frame(1), frame(2)], torn=True)

    async def scene() -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            return await rest_of(await subscribed(player.port, "T.*", f"{MARK}.*"))

    found = run(scene())
    assert [data for data in found if b"AAPL" in data] == [frame(1).data, frame(2).data]
    assert b"was not finished, as after a kill" in found[-1]
    assert "was not finished, as after a kill; its 3 whole lines are read" in capsys.readouterr().err


def test_coinbases_own_protocol(tmp_path: Path) -> None:
    data = b'{"type":"match","trade_id":1}'
    path = written(tmp_path / "a.gz", [Framed.of(Market.CRYPTO, 1, data), Ticked(m="crypto", r=2, t=3)], COINBASE)

    async def scene(*channels: object) -> list[bytes]:
        async with FramePlayer([path], speed=None) as player:
            client = await connect(f"ws://127.0.0.1:{player.port}", proxy=None)
            await client.send("no JSON")
            await client.send(json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": channels}))
            answer = json.loads(await client.recv())
            assert answer == {
                "type": "subscriptions",
                "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}],
            }
            return await rest_of(client)

    assert run(scene("matches")) == [data]
    first, second, third = run(scene({"name": "matches"}, MARK))
    assert (json.loads(first)["type"], second, json.loads(third)["type"]) == (MARK, data, MARK)
    assert marked(json.loads(third)["message"]) == Ticked(m="crypto", r=2, t=3)


@pytest.mark.parametrize("path", ["/forex", "/elsewhere", "/"])
def test_a_market_that_the_capture_lacks_is_not_there(tmp_path: Path, path: str) -> None:
    file = written(tmp_path / "a.gz", [frame(1)])

    async def scene() -> None:
        async with FramePlayer([file]) as player:
            with pytest.raises(InvalidStatus, match="HTTP 404"):
                await connect(f"ws://127.0.0.1:{player.port}{path}", proxy=None)

    run(scene())


@pytest.mark.parametrize(
    "message", ["", "[]", "{}", '{"action":"subscribe"}', '{"action":"dance"}', "\x00", '{"type":1}']
)
def test_nonsense_is_not_answered(tmp_path: Path, message: str) -> None:
    path = written(tmp_path / "a.gz", [frame(1)])

    async def scene() -> None:
        async with FramePlayer([path], speed=None) as player:
            client = await connect(f"ws://127.0.0.1:{player.port}/stocks", proxy=None)
            await client.recv()
            await client.send(message)
            await client.send('{"action":"auth","params":"k"}')
            assert "auth_success" in str(await client.recv())
            await client.close()

    run(scene())


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be played together"):
        FramePlayer([written(tmp_path / "a.gz", []), written(tmp_path / "b.gz", [], COINBASE)])


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [])

    async def scene(port: int) -> None:
        async with FramePlayer([path], port=port):
            raise AssertionError("it listens on a port that is taken")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError, match=f"cannot listen on 127.0.0.1:{port}"):
            run(scene(port))
