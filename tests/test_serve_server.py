"""The server on a real socket: the live stream, slow readers, slow senders, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest

from serve_fake import FakeMarket, Moving, running
from tapewatch.errors import MachineError
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.headers import SECURITY_HEADERS
from tapewatch.serve.server import HttpServer
from tapewatch.serve.stream import StreamHub
from tapewatch.settings import STREAM_FLUSH_MS
from test_serve_stream import events


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket(["AAPL", "BTC", "MSFT"], minutes=30)


class Reader:
    """One client of the live stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self, wanted: str | None = None) -> tuple[str, Any]:
        """The next event, or the next of that name."""
        while True:
            block = ""
            while (line := await anext(self._lines)) != "":
                block += line + "\n"
            [(name, data)] = events((block + "\n").encode())
            if wanted in (None, name):
                return name, data


@contextlib.asynccontextmanager
async def listening(url: str, query: str = "", **options: Any) -> AsyncIterator[Reader]:
    async with (
        httpx.AsyncClient(timeout=120) as client,
        client.stream("GET", f"{url}api/v1/stream{query}", **options) as response,
    ):
        assert response.status_code == 200
        yield Reader(response)


def run(scenario: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(200):
            await scenario

    asyncio.run(limited())


def test_a_stream_opens_with_everything_and_goes_on_with_changes(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, hub), listening(server.url) as reader:
            for name, value in SECURITY_HEADERS.items():
                assert reader.response.headers[name] == value
            assert reader.response.headers["content-type"].startswith("text/event-stream")
            assert reader.response.headers["cache-control"] == "no-store"
            name, hello = await reader.next()
            assert (name, hello["origin"], hello["window_ms"]) == ("hello", "SIMULATED", 300_000)
            assert (await reader.next())[0] == "status"
            name, snapshot = await reader.next()
            assert (name, [s["symbol"] for s in snapshot]) == ("price", ["AAPL", "BTC", "MSFT"])
            await asyncio.to_thread(market.step, hub)
            assert {row["symbol"] for row in (await reader.next("price"))[1]} == {"AAPL", "BTC", "MSFT"}
            assert len((await reader.next("bar"))[1]) == 3
            await asyncio.to_thread(market.alert_now, hub, "AAPL")
            assert (await reader.next("alert"))[1]["status"] == "provisional"

    run(scenario())


@pytest.mark.slow
def test_a_busy_stream_keeps_its_pace(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, hub), listening(server.url, "?symbols=AAPL&bars=") as reader:
            await reader.next("price")
            started = time.monotonic()  # nothing moves yet, so nothing waits to be read
            with Moving(market, hub, share=1.0, every_s=0.002):
                for _ in range(11):
                    await reader.next("price")
                assert time.monotonic() - started > 8 * STREAM_FLUSH_MS / 1000

    run(scenario())


@pytest.mark.slow
def test_the_status_comes_every_second_without_a_change(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, _):
            started = time.monotonic()
            async with listening(server.url) as reader:
                await reader.next("price")
                await reader.next("status")
                await reader.next("status")
                assert time.monotonic() - started > 1.9

    run(scenario())


@pytest.mark.slow
def test_a_stream_works_while_the_database_is_away(market: FakeMarket) -> None:
    async def scenario() -> None:
        market.down = True
        async with running(market) as (server, hub), listening(server.url) as reader:
            assert [(await reader.next())[0] for _ in range(2)] == ["hello", "status"]
            market.step(hub)
            assert (await reader.next("price"))[1]

    run(scenario())


def test_one_stream_more_than_allowed_is_refused_until_one_leaves(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market, clients_max=1) as (server, _), httpx.AsyncClient(timeout=120) as client:
            async with listening(server.url) as reader:
                await reader.next("price")
                refused = await client.get(f"{server.url}api/v1/stream")
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "5"
                assert refused.json()["error"] == "unavailable"
            while True:  # The server notices the leaving by itself.
                with contextlib.suppress(AssertionError):
                    async with listening(server.url) as reader:
                        assert (await reader.next())[0] == "hello"
                        return

    run(scenario())


@pytest.mark.slow
def test_clients_that_never_read_cost_others_and_memory_nothing(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, hub), contextlib.AsyncExitStack() as stack:
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
            for _ in range(30):
                deaf = socket.create_connection(("127.0.0.1", port))
                stack.callback(deaf.close)
                deaf.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            reader = await stack.enter_async_context(listening(server.url))
            await reader.next("price")
            padding = "x" * 20_000  # large rows, so that the sockets' buffers are soon full
            gc.collect()
            before = psutil.Process().memory_info().rss
            for turn in range(60):
                hub.publish("price", "AAPL", {"symbol": "AAPL", "price": turn, "padding": padding})
                _, rows = await reader.next("price")
                assert rows[0]["price"] == turn
            assert psutil.Process().memory_info().rss - before < 30_000_000

    run(scenario())


@pytest.mark.slow
def test_a_slow_reader_then_gets_the_newest_value(market: FakeMarket) -> None:
    """The backlog that the kernel holds is bounded; what follows it is the last value, not the ones between."""

    async def scenario() -> None:
        async with running(market) as (server, hub), listening(server.url) as fast, listening(server.url) as slow:
            await fast.next("price")
            await slow.next("price")
            padding = "x" * 200_000
            turns = 60
            for turn in range(turns):
                hub.publish("price", "AAPL", {"symbol": "AAPL", "price": turn, "padding": padding})
                assert (await fast.next("price"))[1][0]["price"] == turn
            seen = [(await slow.next("price"))[1][0]["price"]]
            while seen[-1] != turns - 1:
                seen.append((await slow.next("price"))[1][0]["price"])
            assert seen == sorted(seen)
            assert len(seen) < turns, "every value was queued for a client that did not read"

    run(scenario())


def test_stopping_ends_open_streams_at_once(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, _), listening(server.url) as reader:
            await reader.next("price")
            await asyncio.wait_for(server.stop(), 120)
            with pytest.raises((StopAsyncIteration, httpx.RemoteProtocolError)):
                await reader.next("nothing by this name")

    run(scenario())


def test_a_busy_port_is_a_sentence(market: FakeMarket) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            app = create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED)
            with pytest.raises(MachineError, match=rf"HTTP_PORT={port}: Address already in use"):
                await HttpServer(app, "127.0.0.1", port).start()

    run(scenario())


@pytest.mark.slow
def test_the_same_port_serves_again_after_a_stop(market: FakeMarket) -> None:
    async def scenario() -> None:
        async with running(market) as (server, _), httpx.AsyncClient(timeout=120) as client:
            assert (await client.get(f"{server.url}healthz")).status_code == 200
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
        async with running(market, port) as (server, _), httpx.AsyncClient(timeout=120) as client:
            assert (await client.get(f"{server.url}healthz")).status_code == 200

    run(scenario())


@pytest.mark.parametrize(
    "request_start",
    [
        b"",
        b"GET / HT",
        b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 9\r\nContent-Type: application/json\r\n\r\n{",
    ],
)
def test_a_request_that_does_not_end_is_cut(market: FakeMarket, request_start: bytes) -> None:
    async def scenario() -> None:
        app = create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED)
        server = HttpServer(app, "127.0.0.1", 0, request_read_s=0.2)
        await server.start()
        try:
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_start)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 120) == b""
            writer.close()
        finally:
            await server.stop()

    run(scenario())


def test_the_address_shown_can_be_opened(market: FakeMarket) -> None:
    app = create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED)
    assert HttpServer(app, "0.0.0.0", 8787).url == "http://127.0.0.1:8787/"
    assert HttpServer(app, "::1", 8787).url == "http://[::1]:8787/"
