"""The application: routes, gates and errors put together."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tapewatch.errors import StoreError
from tapewatch.records import Origin
from tapewatch.serve.answers import error_answer
from tapewatch.serve.auth import LOOPBACK, Gate, Sessions
from tapewatch.serve.explain import Explain, explain_routes
from tapewatch.serve.headers import Edge
from tapewatch.serve.health import Pulse
from tapewatch.serve.life import Life, life_routes
from tapewatch.serve.pages import load_page, page_routes
from tapewatch.serve.queries import Queries
from tapewatch.serve.routes import Source, api_routes, open_routes
from tapewatch.serve.rules import Ruled, rules_routes
from tapewatch.serve.stream import StreamHub
from tapewatch.serve.watchlist import Watched, watchlist_routes
from tapewatch.sessions import Calendar

__all__ = ["create_app"]

_WORDS: Final = {
    401: "not_authenticated",
    403: "cross_site",
    404: "not_found",
    405: "method_not_allowed",
    409: "not_possible",
    413: "too_large",
    422: "invalid",
    503: "unavailable",
}


def create_app(
    queries: Queries,
    hub: StreamHub,
    status: Callable[[], dict[str, Any]],
    *,
    origin: Origin,
    api_token: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK,
    delay_ms: int = 0,
    window_ms: int = 300_000,
    slide_ms: int = 60_000,
    calendar: Calendar | None = None,
    explain: Explain | None = None,
    pulse: Pulse | None = None,
    watched: Watched | None = None,
    ruled: Ruled | None = None,
    life: Life | None = None,
) -> FastAPI:
    """Everything the server answers.

    ``status`` returns a `models.Status`; it is called in the server's loop, about once a second, and must be quick.
    ``hosts`` are the `Host` names answered to (`auth.allowed_hosts`), None for any. ``delay_ms`` is the feed's known
    delay, shown wherever prices are; ``calendar`` holds each market's days, without which it never closes.
    ``explain`` answers `/api/v1/explain`; without it that says why it cannot. ``pulse`` is what this process has
    noted of its last hour. ``watched`` is what is watched, where that can be asked for and changed here. ``life`` is
    what acknowledges, mutes and tests.
    ``ruled`` has the alert rules, where they can be asked for and changed here.

    Raises:
        MachineError: the page's chart library is not installed.
    """
    sessions = Sessions(api_token) if api_token is not None else None
    days, pulse = calendar or {}, pulse or Pulse()
    source = Source(queries, hub, status, sessions, origin.value, delay_ms, window_ms, slide_ms, days, pulse)
    app = FastAPI(
        title="Tapewatch",
        version=version("tapewatch"),
        description="Every trade of the symbols you care about: prices, moving averages and breakouts as they happen.",
        docs_url=None,  # Its page needs inline scripts from elsewhere; docs/api-reference.md is the reference.
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.hub = hub
    app.include_router(api_routes(source))
    app.include_router(explain_routes(explain))
    app.include_router(watchlist_routes(watched))
    app.include_router(rules_routes(ruled))
    app.include_router(life_routes(queries, life or Life()))
    app.include_router(open_routes(source))
    app.include_router(page_routes(load_page()))
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_value)
    app.add_exception_handler(StoreError, _on_store_error)
    app.add_middleware(Gate, sessions=sessions, hosts=hosts)
    app.add_middleware(Edge)  # Added last, so outermost.
    return app


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = f"There is nothing at {request.url.path[:100]}."
    elif error.status_code == 405:
        detail = f"{request.method} is not allowed at {request.url.path[:100]}."
    word = _WORDS.get(error.status_code, "refused")
    return error_answer(error.status_code, word, detail, request.state.request_id, error.headers)


async def _on_wrong_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    sentences = [_sentence(e) for e in error.errors()[:5]]
    return error_answer(422, "invalid", "; ".join(sentences), request.state.request_id)


async def _on_store_error(request: Request, error: Exception) -> Response:
    return error_answer(503, "unavailable", str(error), request.state.request_id, {"Retry-After": "2"})


def _sentence(error: dict[str, Any]) -> str:
    place, *name = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    where = f"{place} parameter {name[0]}" if name and place != "body" else "the body" if not name else f"{name[0]}"
    value = error.get("input")
    shown = "" if place == "body" or not isinstance(value, str | int) else f", got {str(value)[:80]!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"
