"""simulator/server.py, rest.py and replay.py over real sockets, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tapewatch.errors import MachineError
from tapewatch.records import Market
from tapewatch.simulator.__main__ import main
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.replay import Play, RecordedTape
from tapewatch.simulator.server import Options, Simulator
from tapewatch.simulator.session import Rules
from tapewatch.simulator.tape import crypto_events, stock_events
from tapewatch.tapefile import read_tape
from virtual_time import run_virtual

T0 = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
SECOND = 1_000_000_000
DEADLINE_S = 120.0


@dataclass
class Clock:
    now_ns: int = T0

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(bounded())


@asynccontextmanager
async def client(
    simulator: Simulator, *topics: str, cluster: str = "stocks", key: str = "key"
) -> AsyncIterator[ClientConnection]:
    """Connected, authenticated and, with ``topics``, subscribed and acknowledged."""
    # A small receive buffer, so that what is not read is soon the server's.
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    tcp.setblocking(False)
    await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", simulator.port))
    url = f"ws://127.0.0.1:{simulator.port}/{cluster}"
    async with connect(url, sock=tcp, proxy=None, compression=None) as connection:
        assert (await statuses(connection)) == ["connected"]
        await connection.send(json.dumps({"action": "auth", "params": key}))
        assert (await statuses(connection)) == ["auth_success"]
        if topics:
            await connection.send(json.dumps({"action": "subscribe", "params": ",".join(topics)}))
            assert (await statuses(connection)) == ["success"] * len(topics)
        yield connection


async def frame(socket: ClientConnection) -> list[dict[str, Any]]:
    found = json.loads(await socket.recv())
    assert isinstance(found, list)
    return found


async def statuses(socket: ClientConnection) -> list[str]:
    return [event["status"] for event in await frame(socket)]


async def events(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += await frame(socket)
    assert len(found) == count
    return found


async def get(simulator: Simulator, target: str, key: str | None = "key") -> tuple[int, Any]:
    def call() -> tuple[int, Any]:
        url = target if target.startswith("http") else f"http://127.0.0.1:{simulator.port}{target}"
        request = urllib.request.Request(url, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(call)


def stock_rows(market: SeededMarket, symbol: str, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    """What the stream shows of the market's trades with ``from < time <= to``."""
    prints = market.trades(Market.STOCKS, symbol, from_ns + 1, to_ns + 1)
    return [on_the_wire(event) for event in stock_events(symbol, prints)]


def on_the_wire(event: Any) -> Any:
    return json.loads(msgspec.json.encode(event))


# --- the stream ------------------------------------------------------------------------------------------------


def test_a_subscriber_gets_exactly_the_markets_trades_as_their_time_comes() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        async with Simulator(market, clock=clock) as simulator, client(simulator, "T.AAPL", "T.TSLA") as socket:
            for seconds in (5, 0.5, 40):
                before = clock.now_ns
                clock.pass_s(seconds)
                wanted = [r for s in ("AAPL", "TSLA") for r in stock_rows(market, s, before, clock.now_ns)]
                found = await events(socket, len(wanted))
                assert sorted(found, key=lambda e: (e["sym"], e["q"])) == wanted
                assert [e["t"] for e in found] == sorted(e["t"] for e in found)

    run(test)


def test_clusters_wildcards_and_unsubscribing() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        async with (
            Simulator(market, clock=clock) as simulator,
            client(simulator, "T.*") as every,
            client(simulator, "XT.BTC-USD", cluster="crypto") as coin,
        ):
            clock.pass_s(3)
            coins = crypto_events("BTC-USD", market.trades(Market.CRYPTO, "BTC-USD", T0 + 1, clock.now_ns + 1))
            assert await events(coin, len(coins)) == [on_the_wire(event) for event in coins]
            wanted = [r for s in market.universe(Market.STOCKS) for r in stock_rows(market, s, T0, clock.now_ns)]
            assert len({e["sym"] for e in await events(every, len(wanted))}) == len(market.universe(Market.STOCKS))
            await every.send('{"action":"unsubscribe","params":"T.*"}')
            assert await statuses(every) == ["success"]
            await every.send('{"action":"subscribe","params":"T.ZZZ"}')
            assert await statuses(every) == ["success"]
            before = clock.now_ns
            clock.pass_s(10)
            wanted = stock_rows(market, "ZZZ", before, clock.now_ns)
            assert await events(every, len(wanted)) == wanted

    run(test)


def test_bars_agree_with_the_trades_of_the_same_stream() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        async with Simulator(market, clock=clock) as simulator, client(simulator, "AM.AAPL") as socket:
            clock.pass_s(62.1)
            _, bar = await events(socket, 2)  # the first is of the minute before the test
            trades = stock_rows(market, "AAPL", T0 - 1, T0 + 60 * SECOND - 1)
            plain = [e["p"] for e in trades if not {2, 10, 37, 53} & set(e.get("c", []))]
            assert (bar["ev"], bar["s"], bar["e"]) == ("AM", T0 // 10**6, T0 // 10**6 + 60_000)
            assert (bar["o"], bar["c"]) == (plain[0], plain[-1])
            assert float(bar["dv"]) == pytest.approx(sum(float(e["ds"]) for e in trades))

    run(test)


def test_control_messages_may_be_pipelined_and_frames_are_bounded() -> None:
    async def test() -> None:
        clock = Clock()
        options = Options(frame_events_max=7)
        async with (
            Simulator(SeededMarket(1, 50), options, clock=clock) as simulator,
            connect(f"ws://127.0.0.1:{simulator.port}/stocks", proxy=None) as socket,
        ):
            await socket.send('{"action":"auth","params":"key"}')
            await socket.send('{"action":"subscribe","params":"T.A"}')
            assert [await statuses(socket) for _ in range(3)] == [["connected"], ["auth_success"], ["success"]]
            clock.pass_s(2)
            assert [len(await frame(socket)) for _ in range(5)] == [7] * 5

    run(test)


def test_a_restarted_simulator_sends_the_same_trades() -> None:
    async def test() -> None:
        found = []
        for _ in range(2):
            clock = Clock()
            async with Simulator(SeededMarket(5, 4), clock=clock) as simulator, client(simulator, "T.F") as socket:
                clock.pass_s(20)
                found.append(await events(socket, len(stock_rows(SeededMarket(5, 4), "F", T0, clock.now_ns))))
        assert found[0] == found[1]

    run(test)


def test_a_clock_that_jumps_is_followed() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        async with Simulator(market, clock=clock) as simulator, client(simulator, "T.A") as socket:
            for jump in (86_400, -3_600):
                clock.pass_s(jump)
                while simulator.sent_ns != clock.now_ns:
                    await asyncio.sleep(0)
                before = clock.now_ns
                clock.pass_s(5)
                wanted = stock_rows(market, "A", before, clock.now_ns)
                assert (await events(socket, len(wanted)))[-1] == wanted[-1]

    run(test)


# --- endings ---------------------------------------------------------------------------------------------------


async def ending(socket: ClientConnection) -> tuple[list[str], int | None, str | None]:
    """The statuses up to the end, the close code and the reason; None if there was no close."""
    seen: list[str] = []
    try:
        while True:
            seen += [e["status"] for e in await frame(socket) if e["ev"] == "status"]
    except ConnectionClosed as error:
        return seen, error.rcvd and error.rcvd.code, error.rcvd and error.rcvd.reason


@pytest.mark.parametrize(("policy", "goes"), [("oldest", 0), ("newest", 1)])
def test_a_second_connection_of_a_key_evicts_one(policy: Any, goes: int) -> None:
    async def test() -> None:
        options = Options(evict=policy)
        async with (
            Simulator(SeededMarket(1, 4), options, clock=Clock()) as simulator,
            client(simulator, "T.A") as first,
            client(simulator, cluster="crypto"),
            client(simulator, key="another"),
            client(simulator) as second,
        ):
            leaves, stays = [(first, second), (second, first)][goes]
            assert await ending(leaves) == (["max_connections"], 1008, "max_connections")
            await stays.send('{"action":"subscribe","params":"T.B"}')
            assert await statuses(stays) == ["success"]

    run(test)


def test_keys_plans_and_the_deadline() -> None:
    async def test() -> None:
        rules = Rules(keys=frozenset(["key"]), no_plan_keys=frozenset(["poor"]))
        async with Simulator(SeededMarket(1, 4), Options(rules=rules, auth_deadline_s=0.05)) as simulator:
            for key, end in (("wrong", 1008), ("poor", None)):
                async with connect(f"ws://127.0.0.1:{simulator.port}/stocks", proxy=None) as socket:
                    await socket.send(json.dumps({"action": "auth", "params": key}))
                    seen, code, _ = await ending(socket)
                    assert (seen, code) == (["connected", "auth_failed"], end)
            async with connect(f"ws://127.0.0.1:{simulator.port}/stocks", proxy=None) as socket:
                assert await ending(socket) == (
                    ["connected", "auth_timeout"], 1008, "No authentication request received."
                )  # fmt: skip

    run_virtual(test())  # so that no key comes after the deadline


def test_a_slow_consumer_is_told_and_closed() -> None:
    async def test() -> None:
        clock = Clock()
        options = Options(buffer_bytes_max=100_000)
        async with (
            Simulator(SeededMarket(1, 3000), options, clock=clock) as simulator,
            client(simulator, "T.A") as socket,
        ):
            socket.transport.pause_reading()
            while simulator._connections[0].ending is None:
                clock.pass_s(1)
                while simulator.sent_ns < clock.now_ns:
                    await asyncio.sleep(0)
            socket.transport.resume_reading()
            assert await ending(socket) == (["slow_consumer"], 1008, "slow_consumer")

    run(test)


def test_unknown_clusters_and_busy_ports() -> None:
    async def test() -> None:
        async with Simulator(SeededMarket(1, 4)) as simulator:
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"ws://127.0.0.1:{simulator.port}/bonds", proxy=None):
                    pass
            assert refused.value.response.status_code == 404
            with pytest.raises(MachineError, match=f"cannot listen on 127.0.0.1:{simulator.port}"):
                async with Simulator(SeededMarket(1, 4), Options(port=simulator.port)):
                    pass

    run(test)


# --- REST ------------------------------------------------------------------------------------------------------


def test_rest_pages_hold_exactly_the_markets_trades() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        from_ns = T0 - 600 * SECOND
        prints = market.trades(Market.STOCKS, "AAPL", from_ns, T0 + 1)
        async with Simulator(market, clock=clock) as simulator:
            for order in ("asc", "desc"):
                url = f"/v3/trades/AAPL?timestamp.gte={from_ns}&limit=333&order={order}&sort=timestamp"
                found: list[Any] = []
                pages = 0
                while url:
                    code, body = await get(simulator, url)
                    assert (code, body["status"]) == (200, "OK")
                    found += body["results"]
                    pages += 1
                    url = body.get("next_url", "")
                assert pages == -(-len(prints) // 333)
                ids = [row["id"] for row in found]
                assert (ids if order == "asc" else ids[::-1]) == list(prints.ids)
            row = found[-1]  # the oldest
            assert row["sip_timestamp"] == prints.time_ns[0]
            assert row["participant_timestamp"] == prints.participant_ns[0]
            assert (row["price"], row["sequence_number"]) == (prints.price[0], prints.sequence[0])
            assert float(row["decimal_size"]) == prints.size_e8[0] / 1e8

    run(test)


def test_rest_filters_dates_and_never_tells_the_future() -> None:
    async def test() -> None:
        market, clock = SeededMarket(1, 4), Clock()
        async with Simulator(market, clock=clock) as simulator:

            async def times(filters: str, ticker: str = "AAPL", limit: int = 50_000) -> list[int]:
                code, body = await get(simulator, f"/v3/trades/{ticker}?order=asc&limit={limit}&{filters}")
                assert code == 200
                return [row.get("sip_timestamp", row["participant_timestamp"]) for row in body["results"]]

            one = int(market.trades(Market.STOCKS, "AAPL", T0 - 60 * SECOND, T0).time_ns[5])
            assert set(await times(f"timestamp={one}")) == {one}
            assert (await times(f"timestamp.gt={one}"))[0] > one
            assert (await times(f"timestamp.gte={one}"))[0] == one
            assert (await times(f"timestamp.gte={one - SECOND * 60}&timestamp.lt={one}"))[-1] < one
            assert (await times(f"timestamp.gte={one - SECOND * 60}&timestamp.lte={one}"))[-1] == one
            assert await times(f"timestamp.gte={T0 - 60 * SECOND}&timestamp.lt={T0 + 3600 * SECOND}")
            assert max(await times(f"timestamp.gte={T0 - 60 * SECOND}")) <= T0
            day = await times("timestamp=2025-11-19", limit=500)
            assert len(day) == 500
            assert day[0] // SECOND >= 1_763_528_400  # midnight in New York
            assert await times("timestamp.gt=2025-11-20") == []
            assert len(await times(f"timestamp.gte={T0 - 60 * SECOND}", "X:BTC-USD")) > 100
            assert await times("timestamp=2025-11-19", "not-a-ticker") == []

    run(test)


@pytest.mark.parametrize(
    ("target", "key", "code", "part"),
    [
        ("/v3/trades/A", None, 401, "Unknown API Key"),
        ("/v3/trades/A", "poor", 403, "not entitled"),
        ("/v3/trades/A?limit=0", "key", 400, "limit='0': expected a whole number from 1 to 50000"),
        ("/v3/trades/A?limit=50001", "key", 400, "limit="),
        ("/v3/trades/A?order=up", "key", 400, "order='up': expected asc or desc"),
        ("/v3/trades/A?sort=price", "key", 400, "sort='price'"),
        ("/v3/trades/A?timestamp.gte=soon", "key", 400, "timestamp.gte='soon': expected Unix nanoseconds"),
        ("/v3/trades/A?timestamp.ge=1", "key", 400, "timestamp.ge is not a filter"),
        ("/v3/trades/A?cursor=xyz", "key", 400, "cursor='xyz': not one of ours"),
        ("/v3/quotes/A", "key", 400, "expected a ticker of forex"),
        ("/v3/snapshot/A", "key", 404, "/v3/snapshot/A is not served here"),
    ],
)
def test_rest_says_what_is_wrong(target: str, key: str | None, code: int, part: str) -> None:
    async def test() -> None:
        options = Options(rules=Rules(no_plan_keys=frozenset(["poor"])))
        async with Simulator(SeededMarket(1, 4), options, clock=Clock()) as simulator:
            found, body = await get(simulator, target, key)
            assert found == code
            assert part in body["error"]
            assert body["request_id"]
            assert (await get(simulator, "/v1/marketstatus/now?apiKey=key", None))[0] == 200

    run(test)


def test_the_markets_status_follows_the_clock() -> None:
    async def test() -> None:
        clock = Clock()
        async with Simulator(SeededMarket(1, 4), clock=clock) as simulator:
            _, body = await get(simulator, "/v1/marketstatus/now")
            assert (body["market"], body["serverTime"]) == ("open", "2025-11-20T12:00:00-05:00")
            clock.pass_s(6 * 3600)
            _, body = await get(simulator, "/v1/marketstatus/now")
            assert (body["market"], body["afterHours"], body["earlyHours"]) == ("extended-hours", True, False)
            clock.pass_s(6 * 3600)
            assert (await get(simulator, "/v1/marketstatus/now"))[1]["exchanges"]["nyse"] == "closed"

    run(test)


# --- replay ----------------------------------------------------------------------------------------------------

HEADER = (
    "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
    "trf_id,trf_timestamp"
)
R0 = 1_700_000_000_000_000_000


def recording(tmp_path: Path, count: int = 100) -> RecordedTape:
    """Two stocks in turn, a trade every 100 ms, two of each moment; and a coin every second."""
    rows = []
    for n in range(count):
        at = R0 + n // 2 * 200_000_000
        rows.append(f'{"AB"[n % 2]},"14,41",0,11,{n},{at},{10 + n / 100},{n},{at},{n}.5,1,0,0')
        if n % 10 == 0:
            rows.append(f"X:BTC-USD,2,0,1,c{n},{at},80000.5,0,{at},0.001,0,0,0")
    path = tmp_path / "day.csv.gz"
    path.write_bytes(gzip.compress("\n".join([HEADER, *reversed(rows)]).encode()))
    return RecordedTape(read_tape([path]))


def play_of(tape: RecordedTape, speed: float | None) -> Play:
    return Play(tape.first_ns, tape.last_ns + 62 * SECOND, speed)


def test_a_replay_sends_the_recording_in_order_and_ends_with_1000(tmp_path: Path) -> None:
    async def test() -> None:
        tape = recording(tmp_path)
        async with (
            Simulator(tape, play=play_of(tape, None)) as simulator,
            client(simulator, "T.A", "T.B") as socket,
            client(simulator, "XT.BTC-USD", cluster="crypto") as coin,
        ):
            found = await events(socket, 100)
            assert [int(e["i"]) for e in found] == list(range(100))
            first = found[1]
            assert (first["t"], first["s"], first["ds"], first["c"]) == (R0 // 10**6, 1, "1.5", [14, 41])
            assert [e["i"] for e in await events(coin, 10)] == [f"c{n}" for n in range(0, 100, 10)]
            assert await ending(socket) == ([], 1000, "replay finished")
            assert await ending(coin) == ([], 1000, "replay finished")
            async with client(simulator, "T.A") as late:
                assert await ending(late) == ([], 1000, "replay finished")

    run_virtual(test())  # so that the second one comes before the play begins


def test_a_replay_keeps_its_pace_and_goes_on_without_listeners(tmp_path: Path) -> None:
    async def test() -> None:
        tape, clock = recording(tmp_path), Clock()
        async with Simulator(tape, play=play_of(tape, 10.0), clock=clock) as simulator:
            async with client(simulator, "T.A") as socket:
                assert [e["i"] for e in await events(socket, 1)] == ["0"]
                clock.pass_s(0.1)  # a second of the recording
                assert [e["i"] for e in await events(socket, 5)] == ["2", "4", "6", "8", "10"]
                # REST knows what was played, and nothing else.
                _, body = await get(simulator, "/v3/trades/A?order=asc&limit=4")
                _, more = await get(simulator, body["next_url"])
                assert [r["id"] for r in body["results"] + more["results"]] == ["0", "2", "4", "6", "8", "10"]
                assert len((await get(simulator, "/v3/trades/X:BTCUSD"))[1]["results"]) == 2
            clock.pass_s(0.1)
            while simulator.sent_ns < R0 + 2 * SECOND:
                await asyncio.sleep(0)
            async with client(simulator, "T.A") as socket:
                clock.pass_s(0.02)
                assert [e["i"] for e in await events(socket, 1)] == ["22"]
                clock.pass_s(100)
                assert len(await events(socket, 38)) == 38
                assert await ending(socket) == ([], 1000, "replay finished")

    run(test)


@pytest.mark.slow
def test_a_replay_waits_for_a_slow_reader_and_loses_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        tape = recording(tmp_path, 40_000)
        options = Options(buffer_bytes_max=1)
        async with (
            Simulator(tape, options, play=play_of(tape, None)) as simulator,
            client(simulator, "T.*") as socket,
        ):
            socket.transport.pause_reading()
            while not simulator._connections[0].unread_bytes():
                await asyncio.sleep(0)
            socket.transport.resume_reading()
            assert [int(e["i"]) for e in await events(socket, 40_000)] == list(range(40_000))
            assert await ending(socket) == ([], 1000, "replay finished")

    run(test)


def test_bars_of_a_replay_come_to_the_last(tmp_path: Path) -> None:
    async def test() -> None:
        tape = recording(tmp_path, 2_000)  # 200 seconds
        async with Simulator(tape, play=play_of(tape, None)) as simulator, client(simulator, "AM.A") as socket:
            bars = await events(socket, 4)
            assert await ending(socket) == ([], 1000, "replay finished")
        first = R0 // 10**6 // 60_000 * 60_000
        assert [bar["s"] for bar in bars] == [first + n * 60_000 for n in range(4)]
        prints = tape.trades(Market.STOCKS, "A", 0, 2**62)
        assert (bars[0]["o"], bars[-1]["c"]) == (prints.price[0], prints.price[-1])
        assert sum(float(bar["dv"]) for bar in bars) == prints.size_e8.sum() / 1e8

    run(test)


# --- the program -----------------------------------------------------------------------------------------------


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tapewatch.simulator", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.slow
def test_the_program_says_where_it_is_and_ends_when_told() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        process, said = start("--seed", "3", "--parent", str(os.getpid()))
        with process:
            assert said["pid"] == process.pid
            with urllib.request.urlopen(f"{said['rest']}/v1/marketstatus/now?apiKey=k", timeout=DEADLINE_S) as answer:
                assert answer.status == 200
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_the_program_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process, _ = start("--parent", str(parent.pid))
    with process:
        parent.communicate(b"\n")
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_the_program_misbehaves_when_told_and_lists_what_it_sent(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    process, said = start("--rate", "50", "--fault", "going-away@3", "--sent", str(path), "--plan", "developer")

    async def listen() -> tuple[list[str], list[str]]:
        async with connect(f"{said['delayed']}/stocks", proxy=None) as socket:
            assert await statuses(socket) == ["connected"]
            await socket.send('{"action":"auth","params":"key"}')
            assert await statuses(socket) == ["auth_success"]
            await socket.send('{"action":"subscribe","params":"T.AAPL,Q.AAPL"}')
            assert await statuses(socket) == ["error", "success"]
            found: list[str] = []
            async for data in socket:  # until the clean close
                found += [event["i"] for event in json.loads(data)]
            assert socket.close_code == 1001
            return found, [json.loads(line)["id"] for line in path.read_text().splitlines()]

    with process:
        try:
            received, listed = asyncio.run(listen())
            assert received == listed
            assert received
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_the_program_refuses_what_it_cannot_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", str(tmp_path / "none.csv.gz")]) == 2
    assert "none.csv.gz: cannot be read" in capsys.readouterr().err
    empty = tmp_path / "empty.csv"
    empty.write_text(HEADER + "\n")
    assert main(["--replay", str(empty)]) == 2
    assert "no trades to play" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--speed", "0"])
    assert "expected a number above 0" in capsys.readouterr().err
