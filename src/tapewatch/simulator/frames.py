"""Raw captures, served: the frames of a real feed, byte for byte, at their own pace, N times it, or as fast as can be.

The player speaks the protocol of the capture's exchange (Massive's, or Coinbase's) as far as a client needs it: it
greets, takes any key, acknowledges any topic, and then sends all that the capture holds for the client's market.
The play begins when every market of the capture has a listener, and waits for one that went and for one that is slow.
A frame that only told of the capture's own connection is not played, since the play has connections of its own.

    client  subscribes to `recorded` too ─► gets a mark before each frame, which says when it was received, and marks of
                                            ticks, gaps and endings (`capturefile.mark`)

After the last line each connection is closed with 1000 and "replay finished".
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tapewatch.capturefile import (
    MARK,
    CaptureReader,
    Ended,
    Framed,
    Line,
    Status,
    captures_in_order,
    lines_of,
    mark,
    markets_of,
)
from tapewatch.errors import MachineError
from tapewatch.records import Market
from tapewatch.simulator.listening import listen, port_of
from tapewatch.simulator.session import status_frame

__all__ = ["COINBASE", "FINISHED", "FramePlayer"]

FINISHED: Final = "replay finished"
COINBASE: Final = "coinbase"
SETTLE_S: Final = 0.25
"""The play begins when no subscription has come for this long."""
CLOSE_TIMEOUT_S: Final = 300.0
"""How long a client may take to read what is on the way when the play has ended; then it is cut off."""


class _Control(msgspec.Struct):
    """A client's message: Massive's have an action, Coinbase's a type."""

    action: str = ""
    params: str = ""
    type: str = ""
    product_ids: list[str] = []
    channels: list[Any] = []


@dataclass(slots=True, eq=False)
class _Listener:
    socket: ServerConnection
    is_marked: bool = False
    listens: bool = False


@dataclass(slots=True)
class _Pace:
    """When a moment of the capture is due, in the event loop's time. ``speed`` None: at once."""

    speed: float | None
    first_ns: int | None = None
    started_s: float = 0.0
    held_s: float = field(default=0.0)
    """How long the play has waited for listeners: all that follows is later by it."""

    def due_s(self, at_ns: int, now_s: float) -> float:
        """The moment to send what was received at ``at_ns``."""
        if self.speed is None:
            return now_s
        if self.first_ns is None:
            self.first_ns, self.started_s = at_ns, now_s
        return self.started_s + self.held_s + (at_ns - self.first_ns) / 1e9 / self.speed


class FramePlayer:
    """The server. ``async with FramePlayer(paths) as player: ... player.port``.

    Raises:
        InputError: a file is no capture, or they are of different sources.
    """

    def __init__(
        self, paths: Sequence[Path], *, host: str = "127.0.0.1", port: int = 0, speed: float | None = 1.0
    ) -> None:
        self._readers = captures_in_order(paths)
        self._is_coinbase = self._readers[0].head.source == COINBASE
        self._markets = {market for reader in self._readers for market in markets_of(reader.head)}
        self._host, self._port = host, port
        self._pace = _Pace(speed)
        self._listeners: dict[Market, _Listener] = {}
        self._changed = asyncio.Event()
        self._is_over = False
        self._server: Server | None = None
        self._playing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FramePlayer:
        try:
            self._server = await listen(
                self._handle, self._host, self._port, process_request=self._process_request, compression=None,
                ping_interval=20, close_timeout=CLOSE_TIMEOUT_S,
            )  # fmt: skip
        except MachineError:
            self._close_files()
            raise
        self._playing = asyncio.create_task(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._playing is not None
        self._playing.cancel()
        for listener in self._listeners.values():
            listener.socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(self._playing, return_exceptions=True)
        self._close_files()

    def _close_files(self) -> None:
        for reader in self._readers:
            reader.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return port_of(self._server)

    async def failed(self) -> None:
        """Wait for the play; after its end for ever. What it ends with early is raised here."""
        assert self._playing is not None
        await self._playing
        await asyncio.Event().wait()

    # --- connections -------------------------------------------------------------------------------------------------

    def _process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return socket.respond(HTTPStatus.NOT_FOUND, "a capture is played here: there is no REST\n")
        if self._market_of(request.path) is None:
            return socket.respond(HTTPStatus.NOT_FOUND, "the capture holds nothing of this market\n")
        return None

    def _market_of(self, path: str) -> Market | None:
        if self._is_coinbase:
            return Market.CRYPTO
        name = urlsplit(path).path.strip("/").upper()
        market = Market.__members__.get(name)
        return market if market in self._markets else None

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        market = self._market_of(socket.request.path)
        assert market is not None
        listener = _Listener(socket)
        if (before := self._listeners.get(market)) is not None:
            before.socket.transport.abort()
        self._listeners[market] = listener
        with suppress(ConnectionClosed):
            if not self._is_coinbase:
                await socket.send(status_frame(("connected", "Connected Successfully")), text=True)
            async for message in socket:
                for answer in self._answers(listener, message):
                    await socket.send(answer, text=True)
                if listener.listens and self._is_over:
                    await socket.close(1000, FINISHED)
                self._changed.set()
        if self._listeners.get(market) is listener:
            del self._listeners[market]

    def _answers(self, listener: _Listener, message: str | bytes) -> list[bytes]:
        try:
            control = msgspec.json.decode(message, type=_Control)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        if self._is_coinbase and control.type == "subscribe":
            names = [c.get("name", "") if isinstance(c, dict) else str(c) for c in control.channels]
            listener.listens = True
            listener.is_marked = MARK in names
            channels = [{"name": name, "product_ids": control.product_ids} for name in names if name != MARK]
            return [msgspec.json.encode({"type": "subscriptions", "channels": channels})]
        if self._is_coinbase:
            return []
        if control.action == "auth":
            return [status_frame(("auth_success", "authenticated"))]
        topics = [topic.strip() for topic in control.params.split(",") if topic.strip()]
        if control.action != "subscribe" or not topics:
            return []
        listener.listens = True
        listener.is_marked = listener.is_marked or f"{MARK}.*" in topics
        return [status_frame(*(("success", f"subscribed to: {topic}") for topic in topics))]

    # --- the play ----------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        await self._everybody()
        loop = asyncio.get_running_loop()
        for line in lines_of(self._readers):
            if isinstance(line, Status):
                continue
            wait_s = self._pace.due_s(line.r, loop.time()) - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._send(line)
        for reader in self._readers:
            await self._tell_torn(reader)
        self._is_over = True
        for listener in list(self._listeners.values()):
            await listener.socket.close(1000, FINISHED)

    async def _everybody(self) -> None:
        """Until every market of the capture has its listener, and nothing more was subscribed to for a while."""
        while True:
            self._changed.clear()
            if all(self._listening(market) is not None for market in self._markets):
                try:
                    async with asyncio.timeout(SETTLE_S):
                        await self._changed.wait()
                except TimeoutError:
                    return
            else:
                await self._changed.wait()

    def _listening(self, market: Market) -> _Listener | None:
        listener = self._listeners.get(market)
        return listener if listener is not None and listener.listens else None

    async def _send(self, line: Line) -> None:
        """Send a line to its market's listener; to the next one, if this one goes meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            listener = self._listening(line.market)
            if listener is None:
                before_s = loop.time()
                self._changed.clear()
                await self._changed.wait()
                self._pace.held_s += loop.time() - before_s
                continue
            with suppress(ConnectionClosed):
                if listener.is_marked:
                    await listener.socket.send(self._mark(line), text=True)
                if isinstance(line, Framed):
                    await listener.socket.send(line.data, text=line.d is not None)
                return
            listener.listens = False

    def _mark(self, line: Line) -> bytes:
        if self._is_coinbase:
            return msgspec.json.encode({"type": MARK, "message": mark(line)})
        return status_frame((MARK, mark(line)))

    async def _tell_torn(self, reader: CaptureReader) -> None:
        if reader.stopped:
            print(f"tapewatch simulate: {reader.stopped}", file=sys.stderr, flush=True)
            for market in sorted(self._markets):
                await self._send(Ended(m=market.name.lower(), r=0, why=reader.stopped))
