"""How an answer is written: JSON without NaN, errors in one shape, the event stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tapewatch.serve.stream import Client, StreamHub, encode_event
from tapewatch.settings import STREAM_FLUSH_MS, STREAM_STALL_S, STREAM_STATUS_MS

__all__ = ["EventStream", "Json", "error_answer"]


class Json(Response):
    """A JSON body; NaN and infinities become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode with the project's one JSON library."""
        return msgspec.json.encode(content)


def error_answer(
    status: int, error: str, detail: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Json:
    """The one shape of every error: a word for programs, a sentence for people, an id for the log."""
    body = {"error": error, "detail": detail, "request_id": request_id}
    return Json(body, status_code=status, headers=dict(headers or {}))


class EventStream(Response):
    """One client's stream: the opening events, then changes as they come, and the status every second.

    The first change after a pause goes out at once; a busy stream is sent at most every `STREAM_FLUSH_MS`.
    """

    media_type = "text/event-stream"

    def __init__(self, hub: StreamHub, client: Client, opening: bytes, status: Callable[[], Any]) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._client = client
        self._opening = opening
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the client leaves, stalls, or the server stops."""
        listener = asyncio.create_task(self._listen(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._write(send)
            await _within(send({"type": "http.response.body", "body": b"", "more_body": False}))
        except TimeoutError:
            pass  # It took nothing for STREAM_STALL_S: returning unfinished makes the server cut the connection.
        finally:
            listener.cancel()
            self._hub.leave(self._client)

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client.close()

    async def _write(self, send: Send) -> None:
        loop, client = asyncio.get_running_loop(), self._client
        await _within(send(_chunk(self._opening)))
        flushed = beaten = loop.time()
        while not client.closed:
            try:
                async with asyncio.timeout_at(beaten + STREAM_STATUS_MS / 1000):
                    await client.wake.wait()
                    client.wake.clear()
                    await asyncio.sleep(max(0.0, _next_flush(flushed) - loop.time()))
            except TimeoutError:
                pass
            if body := self._hub.frame(client):
                flushed = loop.time()
            if loop.time() >= beaten + STREAM_STATUS_MS / 1000:
                beaten = loop.time()
                body += encode_event("status", self._status())
            if body:
                await _within(send(_chunk(body)))


def _chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _next_flush(flushed: float) -> float:
    """The next multiple of `STREAM_FLUSH_MS`: busy clients are flushed together, so they share encoded frames."""
    step = STREAM_FLUSH_MS / 1000
    return (math.floor(flushed / step) + 1) * step


async def _within(sending: Any) -> None:
    async with asyncio.timeout(STREAM_STALL_S):
        await sending
