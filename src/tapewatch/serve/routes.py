"""The REST API, version 1. Every answer is bounded; docs/api-reference.md describes it for people."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tapewatch.errors import StoreUnavailable
from tapewatch.records import AlertStatus, Market
from tapewatch.serve import models
from tapewatch.serve.answers import EventStream, Json
from tapewatch.serve.auth import Sessions
from tapewatch.serve.health import Pulse, health_routes
from tapewatch.serve.models import Interval, Responses, TimeMs, refusals
from tapewatch.serve.problems import problems
from tapewatch.serve.queries import Queries, Row, ask
from tapewatch.serve.shapes import iso, stock_row, trading_days
from tapewatch.serve.stream import StreamFull, StreamHub, encode_event
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import ALERTS_ROWS_MAX, HISTORY_ROWS_MAX, STREAM_STATUS_MS

__all__ = ["Source", "api_routes", "open_routes"]

log = structlog.get_logger()

HISTORY_ROWS: Final = 500
ALERTS_ROWS: Final = 100
QUALITY_SPAN_MS: Final = 7 * 86_400_000
"""The longest stretch of minutes one answer holds."""

_ERRORS: Final = refusals({
    400: "Wrong host name", 401: "A token is needed", 422: "A parameter has a wrong value",
    503: "The database does not answer, or too many streams are open",
})  # fmt: skip
_UNKNOWN: Final = refusals({404: "No such thing"})
_EVENTS: Final[Responses] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
SymbolPath = Annotated[models.Symbol, Path(description="case does not matter")]
SymbolQuery = Annotated[models.Symbol | None, Query()]
SymbolList = Annotated[str | None, Query(max_length=4_096, description="symbols, separated by commas; all if absent")]


@dataclass(frozen=True)
class Source:
    """What the routes answer from."""

    queries: Queries
    hub: StreamHub
    status: Callable[[], Row]
    sessions: Sessions | None
    origin: str
    delay_ms: int
    window_ms: int
    slide_ms: int
    calendar: Calendar
    """The days of the stock market."""
    pulse: Pulse
    """What this process has noted of its last hour."""

    async def stock(self, symbol: str) -> Row:
        """One symbol's row. Raises 404 if it is unknown."""
        row = await ask(self.queries, self.queries.latest(symbol))
        if row is None:
            raise HTTPException(
                404, f"The symbol {symbol} is not known; it has had no trade yet, or is not in SYMBOLS."
            )
        return stock_row(row)

    def hello(self) -> Row:
        """The first event of a stream."""
        return {
            "origin": self.origin,
            "delay_ms": max([self.delay_ms, *(feed.get("delay_ms") or 0 for feed in self.status()["feeds"])]),
            "window_ms": self.window_ms,
            "slide_ms": self.slide_ms,
            "heartbeat_ms": STREAM_STATUS_MS,
            "server_time": iso(time.time_ns() // 1_000_000),
            "version": version("tapewatch"),
        }


def api_routes(source: Source) -> APIRouter:
    """Everything under `/api/v1` that shows data."""
    bearer = Security(HTTPBearer(auto_error=False, description="API_TOKEN, where one is set"))
    router = APIRouter(prefix="/api/v1", responses=_ERRORS, dependencies=[bearer])
    _stock_routes(router, source)
    _bar_routes(router, source)
    _alert_routes(router, source)
    _state_routes(router, source)
    health_routes(router, source.queries, source.status, source.pulse, source.calendar)
    return router


def _stock_routes(router: APIRouter, source: Source) -> None:
    queries = source.queries

    @router.get("/stocks", response_model=list[models.Stock], summary="The newest of every symbol")
    async def stocks() -> Response:
        return Json([stock_row(row) for row in await ask(queries, queries.stocks())])

    @router.get(
        "/stocks/{symbol:path}/latest", response_model=models.Stock, responses=_UNKNOWN, summary="Of one symbol"
    )
    async def latest(symbol: SymbolPath) -> Response:
        return Json(await source.stock(symbol.upper()))

    @router.get("/overview", response_model=list[models.Overview], summary="Every symbol's last hour and data quality")
    async def overview() -> Response:
        return Json(await ask(queries, queries.overview(source.window_ms, source.slide_ms)))


def _bar_routes(router: APIRouter, source: Source) -> None:
    queries = source.queries

    @router.get("/stocks/{symbol:path}/history", response_model=list[models.Bar], responses=_UNKNOWN, summary="Candles")
    async def history(
        symbol: SymbolPath,
        from_ms: Annotated[TimeMs, Query(alias="from")] = 0,
        to_ms: Annotated[TimeMs, Query(alias="to")] = models.TIME_MS_MAX,
        interval: Interval = "1m",
        limit: Annotated[int, Query(ge=1, le=HISTORY_ROWS_MAX)] = HISTORY_ROWS,
    ) -> Response:
        """The newest ``limit`` bars that start at or after ``from`` and before ``to``, oldest first."""
        _check_order(from_ms, to_ms)
        name = symbol.upper()
        asking = queries.history(name, from_ms, to_ms, interval, limit, source.window_ms, source.slide_ms)
        if not (bars := await ask(queries, asking)):
            await source.stock(name)  # unknown, or none in that time
        return Json([{"symbol": name, **bar} for bar in bars])

    @router.get(
        "/stocks/{symbol:path}/indicators",
        response_model=list[models.Indicators],
        responses=_UNKNOWN,
        summary="RSI, MACD, Bollinger bands, ATR and relative volume",
    )
    async def indicators(
        symbol: SymbolPath,
        from_ms: Annotated[TimeMs, Query(alias="from")] = 0,
        to_ms: Annotated[TimeMs, Query(alias="to")] = models.TIME_MS_MAX,
        limit: Annotated[int, Query(ge=1, le=HISTORY_ROWS_MAX)] = HISTORY_ROWS,
    ) -> Response:
        """Of the newest ``limit`` bars of one slide that start at or after ``from`` and before ``to``, oldest first."""
        _check_order(from_ms, to_ms)
        name = symbol.upper()
        if not (rows := await ask(queries, queries.indicators(name, from_ms, to_ms, limit))):
            await source.stock(name)
        return Json(rows)

    @router.get(
        "/stocks/{symbol:path}/quality", response_model=list[models.Quality], responses=_UNKNOWN, summary="Data quality"
    )
    async def quality(
        symbol: SymbolPath,
        from_ms: Annotated[TimeMs | None, Query(alias="from")] = None,
        to_ms: Annotated[TimeMs, Query(alias="to")] = models.TIME_MS_MAX,
    ) -> Response:
        """What was received in each minute; at most seven days, and by default the last day before ``to``."""
        row = await source.stock(symbol.upper())
        newest_ms = models.parse_time_ms(row["timestamp"]) + 60_000 if row["timestamp"] else to_ms
        to_ms = min(to_ms, newest_ms)
        if from_ms is None:
            from_ms = max(0, to_ms - 86_400_000)
        from_ms = min(max(from_ms, to_ms - QUALITY_SPAN_MS), to_ms)
        return Json(await ask(queries, queries.quality(row["symbol"], from_ms, to_ms)))


def _alert_routes(router: APIRouter, source: Source) -> None:
    queries = source.queries

    @router.get("/alerts", response_model=list[models.Alert], summary="Alerts, newest first")
    async def alerts(
        symbol: SymbolQuery = None,
        kind: Annotated[str | None, Query(max_length=40, pattern="^[a-z_]+$")] = None,
        status: AlertStatus | None = None,
        rule: Annotated[str | None, Query(max_length=128, description="a rule's name")] = None,
        limit: Annotated[int, Query(ge=1, le=ALERTS_ROWS_MAX)] = ALERTS_ROWS,
        from_ms: Annotated[TimeMs | None, Query(alias="from", description="triggered then or later")] = None,
        before_ms: Annotated[TimeMs | None, Query(alias="before", description="triggered earlier than this")] = None,
    ) -> Response:
        name = symbol.upper() if symbol else None
        word = status and status.value
        return Json(await ask(queries, queries.alerts(name, kind, word, limit, before_ms, rule, from_ms)))

    @router.get("/alerts/{alert_id}", response_model=models.Alert, responses=_UNKNOWN, summary="One, with its evidence")
    async def alert(alert_id: Annotated[str, Path(pattern=r"^[0-9A-Za-z_-]{1,128}$")]) -> Response:
        row = await ask(queries, queries.alert(alert_id))
        if row is None:
            raise HTTPException(404, f"There is no alert {alert_id}.")
        return Json(row)

    @router.get("/notifications", response_model=list[models.Notification], summary="Deliveries, newest first")
    async def notifications(
        state: models.DeliveryState | None = None,
        limit: Annotated[int, Query(ge=1, le=ALERTS_ROWS_MAX)] = ALERTS_ROWS,
    ) -> Response:
        return Json(await ask(queries, queries.notifications(state, limit)))


def _state_routes(router: APIRouter, source: Source) -> None:
    queries, hub = source.queries, source.hub

    @router.get("/gaps", response_model=list[models.Gap], summary="Gaps in the data, newest first")
    async def gaps(limit: Annotated[int, Query(ge=1, le=ALERTS_ROWS_MAX)] = ALERTS_ROWS) -> Response:
        return Json(await ask(queries, queries.gaps(limit)))

    @router.get("/sessions", response_model=list[models.TradingDay], summary="When a market was and will be open")
    async def sessions(
        market: models.MarketName = "stocks",
        from_ms: Annotated[TimeMs, Query(alias="from")] = 0,
        to_ms: Annotated[TimeMs, Query(alias="to")] = models.TIME_MS_MAX,
    ) -> Response:
        """The trading days that lie in [from, to), at most the newest 400. Crypto never closes: none."""
        _check_order(from_ms, to_ms)
        days = sessions_of(source.calendar, Market[market.upper()])
        return Json(trading_days(days, from_ms, to_ms))

    @router.get("/status", response_model=models.Status, summary="The state of every room")
    async def status() -> Response:
        return Json(source.status())

    @router.get(
        "/stream", response_class=Response, responses=_EVENTS, summary="Changes as they happen, as server-sent events"
    )
    async def stream(symbols: SymbolList = None, bars: SymbolList = None) -> Response:
        """Events `hello`, `price`, `bar`, `alert`, `status` (every second) and `resync`: see docs/api-reference.md."""
        wanted = _symbols(symbols)
        try:
            client = hub.join(wanted, wanted if bars is None else _symbols(bars))
        except StreamFull:
            detail = "As many live streams are open as this server allows; try again in a few seconds."
            raise HTTPException(503, detail, {"Retry-After": "5"}) from None
        opening = encode_event("hello", source.hello()) + encode_event("status", source.status())
        try:
            rows = [
                stock_row(row) for row in await ask(queries, queries.stocks()) if client.wants("price", row["symbol"])
            ]
            opening += encode_event("price", rows)
        except StoreUnavailable:
            pass  # The status says so; prices come as they change.
        except BaseException:
            hub.leave(client)
            raise
        return EventStream(hub, client, opening, source.status)


def open_routes(source: Source) -> APIRouter:
    """Sessions, health and metrics."""
    router = APIRouter(responses={400: _ERRORS[400]})
    _health_routes(router, source)
    _session_routes(router, source)
    return router


def _health_routes(router: APIRouter, source: Source) -> None:
    secured: Responses = {401: _ERRORS[401]}
    unready: Responses = {503: {"model": models.Readiness, "description": "Something is not; the reasons say what"}}
    as_text: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get("/healthz", response_model=models.Health, summary="The process lives")
    async def healthz() -> Response:
        return Json({"status": "ok"})

    @router.get(
        "/readyz", response_model=models.Readiness, responses=unready | secured, summary="Log, store and feed are well"
    )
    async def readyz() -> Response:
        reasons = [problem["sentence"] for problem in problems(source.status())]
        try:
            await ask(source.queries, source.queries.ping())
        except StoreUnavailable as error:
            reasons.append(str(error))
        return Json({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    @router.get("/metrics", summary="For Prometheus", response_class=Response, responses=as_text | secured)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _session_routes(router: APIRouter, source: Source) -> None:
    refused = refusals({
        401: "Wrong token", 403: "From another site", 404: "No token is set", 413: "Too large", 422: "Not a login",
    })  # fmt: skip

    @router.post("/api/v1/session", status_code=204, responses=refused, summary="Sign a browser in")
    async def sign_in(login: models.Login, request: Request) -> Response:
        if source.sessions is None:
            raise HTTPException(404, "This server has no token, so there is nothing to sign in to.")
        known = source.sessions.accepts_token(login.token)
        log.info("sign-in", accepted=known, client=request.client.host if request.client else None)
        if not known:
            raise HTTPException(401, "This is not the token.", {"WWW-Authenticate": "Bearer"})
        secure = request.url.scheme == "https"
        return Response(status_code=204, headers={"Set-Cookie": source.sessions.cookie(secure)})

    @router.delete("/api/v1/session", status_code=204, responses={403: refused[403]}, summary="Sign out")
    async def sign_out(request: Request) -> Response:
        return Response(status_code=204, headers={"Set-Cookie": Sessions.forget(request.url.scheme == "https")})


def _symbols(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(s.strip().upper() for s in text.split(",") if s.strip())


def _check_order(from_ms: int, to_ms: int) -> None:
    if from_ms > to_ms:
        raise HTTPException(422, f"from ({iso(from_ms)}) is later than to ({iso(to_ms)}).")
