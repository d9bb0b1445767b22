"""The outermost gate: what every answer carries, and the last resort.

Adds the security headers and a request id, refuses bodies that are too large, measures, and turns a failure nobody
foresaw into a 500 without its details (those go to the log, under the same request id).
"""

from __future__ import annotations

import secrets
import time
import traceback
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapewatch.metrics import HTTP_SECONDS
from tapewatch.serve.answers import error_answer
from tapewatch.settings import REQUEST_BYTES_MAX

__all__ = ["SECURITY_HEADERS", "Edge"]

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_HSTS: Final = "max-age=31536000"
_TOO_LARGE: Final = f"The body is larger than the {REQUEST_BYTES_MAX} bytes allowed."

log = structlog.get_logger()


class Edge:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every answer leaves through here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _dress(MutableHeaders(scope=message), scope, request_id)
            await send(message)

        try:
            if _length(scope) > REQUEST_BYTES_MAX:
                answer = error_answer(413, "too_large", _TOO_LARGE, request_id, {"Connection": "close"})
                await answer(scope, receive, dressed)
            else:
                await self._app(scope, _limited(receive), dressed)
        except Exception:  # The top of the request's task: log, answer, go on with the next.
            # As text, not as an exception: a renderer that prints local variables would print tokens.
            where = {"request_id": request_id, "method": scope["method"], "path": scope["path"][:200]}
            log.error("request failed", **where, traceback=traceback.format_exc())
            if status:
                raise  # The answer has begun; the server cuts the connection.
            answer = error_answer(500, "internal", "The server failed; its log says why, under this id.", request_id)
            await answer(scope, receive, dressed)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            HTTP_SECONDS.labels(route, str(status)).observe(time.monotonic() - started)


def _dress(headers: MutableHeaders, scope: Scope, request_id: str) -> None:
    headers.update(SECURITY_HEADERS)
    headers["X-Request-Id"] = request_id
    headers.setdefault("Cache-Control", "no-store")
    if scope["scheme"] == "https":
        headers["Strict-Transport-Security"] = _HSTS


def _length(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _limited(receive: Receive) -> Receive:
    """The same, but a body sent in pieces without a stated length ends in 413 as well."""
    total = 0

    async def limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > REQUEST_BYTES_MAX:
            raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})
        return message

    return limited
