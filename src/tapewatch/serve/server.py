"""The HTTP server inside the pipeline's own loop: it starts, says where it is, and stops at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tapewatch.errors import MachineError
from tapewatch.settings import REQUEST_READ_S, STREAM_CLIENTS_MAX, STREAM_SOCKET_BYTES

__all__ = ["HttpServer"]

_HEADER_BYTES_MAX: Final = 16 * 1024
_STOP_S: Final = 2
_OTHER_FILES: Final = 500


class HttpServer:
    """Serves ``app`` on ``host``:``port`` (0 = any free port) in the running loop.

    The caller owns signals: this server takes none.
    """

    def __init__(self, app: FastAPI, host: str, port: int, request_read_s: float = REQUEST_READ_S) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._request_read_s = request_read_s
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where a browser finds the page, ending in a slash."""
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{name}]' if ':' in name else name}:{self._port}/"

    async def start(self) -> None:
        """Returns when the server answers.

        Raises:
            MachineError: the address cannot be used.
        """
        _allow_streams()
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=type("Protocol", (_PatientProtocol,), {"request_read_s": self._request_read_s}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_S,
            h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """End all streams, finish the answers under way, close. Does nothing if it is not running."""
        if self._server is None or self._task is None:
            return
        self._app.state.hub.close()
        self._server.should_exit = True
        await self._task
        self._server = self._task = None


class _Server(uvicorn.Server):
    """uvicorn, without its signal handlers, and with a moment at which it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _PatientProtocol(H11Protocol):
    """Closes a connection that does not send a whole request within ``request_read_s``."""

    request_read_s = REQUEST_READ_S
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.request_read_s, self._too_slow)

    def _too_slow(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.abort()


def _allow_streams() -> None:
    """Each stream is an open file: allow this process as many as there may be, or as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = STREAM_CLIENTS_MAX + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _listen(host: str, port: int) -> socket.socket:
    """Our own listening socket: a busy port becomes a sentence, and slow readers get a small kernel buffer."""
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_SOCKET_BYTES)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise MachineError(
            f"Cannot listen on HTTP_HOST={host} HTTP_PORT={port}: {error.strerror or error}. "
            "Stop what uses that port (perhaps another tapewatch: ./stop_pipeline.sh), or choose another HTTP_PORT."
        ) from None
    return listener
