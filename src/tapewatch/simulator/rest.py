"""The simulator's REST side, from the same tape as the stream.

    GET /v3/trades/{ticker}                  stocks, crypto, options; with corrections      rest_trades.py
    GET /futures/v1/trades/{ticker}          futures
    GET /v3/quotes/{ticker}                  forex
    GET /v2/last/trade/{ticker}
    GET /v2/aggs/ticker/{ticker}/range/{n}/{second|minute|hour|day}/{from}/{to}             rest_bars.py
    GET /v3/reference/conditions, exchanges, tickers, tickers/{ticker}                      reference.py
    GET /v1/marketstatus/now, upcoming

Nothing later than the tape's position is ever given, less the plan's delay; so what the stream has not sent is not here
either. What the plan lacks is answered with 403, and a plan with so many calls a minute with 429 and Retry-After.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tapewatch.records import Market
from tapewatch.simulator import reference
from tapewatch.simulator.corrections import NO_CORRECTIONS, Corrections
from tapewatch.simulator.hours import NEW_YORK, Hours, hours_at, market_hours
from tapewatch.simulator.rest_bars import bars_page
from tapewatch.simulator.rest_query import Problem, whole
from tapewatch.simulator.rest_trades import last_trade, trades_page
from tapewatch.simulator.session import Rules
from tapewatch.simulator.tape import NS_PER_MS, Tape, listed, ticker_of

__all__ = ["Problem", "Reply", "RestSide"]

_MINUTE_S: Final = 60.0
CONDITIONS_LIMIT: Final = 10
"""So many conditions are given to who does not ask for more, as by the real service."""
TICKERS_LIMIT: Final = 100
REFERENCE_LIMIT_MAX: Final = 1_000
NOT_ENTITLED: Final = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
TOO_MANY: Final = (
    "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue."
)


class Reply(NamedTuple):
    """What is answered. ``headers`` are those beside the usual ones."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class _Request(NamedTuple):
    rest: str
    """What follows the route's own path."""
    parameters: dict[str, str]
    request_id: str
    address: str
    """This server's, with the path: for the next page's link."""


@dataclass(slots=True)
class RestSide:
    """Answers requests. ``position`` gives the moment up to which there is history, Unix ns."""

    tape: Tape
    rules: Rules
    position: Callable[[], int]
    hours: Callable[[int], Hours] = hours_at
    corrections: Corrections = NO_CORRECTIONS
    clock_s: Callable[[], float] = time.monotonic
    requests: int = 0
    _calls_s: dict[str, deque[float]] = field(init=False, default_factory=dict)

    async def answer(self, target: str, headers: Mapping[str, str], origin: str) -> Reply:
        """Status and JSON body for ``GET target``. ``origin`` is this server's address, for the next page's link."""
        self.requests += 1
        request_id = f"{self.requests:032x}"
        parts = urlsplit(target)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            prefix, route = self._route(parts.path)
            key = self._authorize(headers.get("Authorization", ""), parameters.pop("apiKey", ""))
            if (wait_s := self._wait_s(key)) > 0:
                raise Problem(HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY, retry_after_s=int(wait_s) + 1)
            rest = unquote(parts.path.removeprefix(prefix))
            found = await route(_Request(rest, parameters, request_id, origin + parts.path))
            return Reply(HTTPStatus.OK, found if isinstance(found, bytes) else msgspec.json.encode(found))
        except Problem as problem:
            body = {"status": problem.kind, "request_id": request_id, "error": str(problem)}
            after = problem.retry_after_s
            return Reply(
                problem.status, msgspec.json.encode(body), () if after is None else (("Retry-After", str(after)),)
            )

    def _route(self, path: str) -> tuple[str, Callable[[_Request], Awaitable[Any]]]:
        routes: dict[str, Callable[[_Request], Awaitable[Any]]] = {
            "/v3/trades/": self._trades,
            "/futures/v1/trades/": self._futures,
            "/v3/quotes/": self._quotes,
            "/v2/last/trade/": self._last,
            "/v2/aggs/ticker/": self._bars,
            "/v3/reference/tickers/": self._ticker,
            "/v3/reference/tickers": self._tickers,
            "/v3/reference/conditions": self._conditions,
            "/v3/reference/exchanges": self._exchanges,
            "/v1/marketstatus/now": self._status,
            "/v1/marketstatus/upcoming": self._upcoming,
        }
        for prefix, route in routes.items():
            rest = path.removeprefix(prefix)
            if path == prefix and not prefix.endswith("/"):
                return prefix, route
            is_below = prefix.endswith("/") and path != prefix and path.startswith(prefix)
            if is_below and (prefix == "/v2/aggs/ticker/" or "/" not in unquote(rest)):
                return prefix, route
        raise Problem(HTTPStatus.NOT_FOUND, f"{path} is not served here", "NOT_FOUND")

    def _authorize(self, header: str, parameter: str) -> str:
        key = header.removeprefix("Bearer ").strip() or parameter
        if key in self.rules.no_plan_keys:
            raise Problem(HTTPStatus.FORBIDDEN, NOT_ENTITLED, "NOT_AUTHORIZED")
        if not self.rules.accepts(key):
            raise Problem(HTTPStatus.UNAUTHORIZED, "Unknown API Key")
        return key

    def _wait_s(self, key: str) -> float:
        """How long the key has to wait for its next call; a call that need not wait is counted."""
        most = self.rules.plan.calls_a_minute
        if most is None:
            return 0.0
        now_s = self.clock_s()
        made = self._calls_s.setdefault(key, deque())
        while made and made[0] <= now_s - _MINUTE_S:
            made.popleft()
        if len(made) < most:
            made.append(now_s)
            return 0.0
        return made[0] + _MINUTE_S - now_s

    def _now_ns(self) -> int:
        return self.position() - self.rules.plan.rest_delay_ns

    def _listed(self, ticker: str, *markets: Market) -> tuple[Market, str]:
        """The market and symbol of a ticker, which must be of one of these markets; its trades must be in the plan."""
        if not self.rules.plan.rest_trades:
            raise Problem(HTTPStatus.FORBIDDEN, NOT_ENTITLED, "NOT_AUTHORIZED")
        market, symbol = listed(ticker)
        if markets and market not in markets:
            names = ", ".join(one.name.lower() for one in markets)
            raise Problem(HTTPStatus.BAD_REQUEST, f"{ticker!r}: expected a ticker of {names}")
        return market, symbol

    # --- trades and bars ------------------------------------------------------------------------------------

    async def _trades(self, request: _Request) -> bytes:
        place = self._listed(request.rest, Market.STOCKS, Market.CRYPTO, Market.OPTIONS)
        return await self._page(place, request)

    async def _futures(self, request: _Request) -> bytes:
        symbol = self._listed(request.rest)[1]
        parameters = dict(request.parameters)
        order, _, direction = parameters.pop("sort", "timestamp.desc").partition(".")
        if order != "timestamp":
            raise Problem(HTTPStatus.BAD_REQUEST, f"sort={order!r}: expected timestamp.asc or timestamp.desc")
        parameters |= {"order": direction}
        return await self._page((Market.FUTURES, symbol), request._replace(parameters=parameters))

    async def _quotes(self, request: _Request) -> bytes:
        return await self._page(self._listed(request.rest, Market.FOREX), request)

    async def _page(self, place: tuple[Market, str], request: _Request) -> bytes:
        return await trades_page(
            self.tape, self.corrections, self._now_ns(), *place, request.parameters, request.request_id,
            request.address,
        )  # fmt: skip

    async def _last(self, request: _Request) -> dict[str, Any]:
        market, symbol = self._listed(request.rest, Market.STOCKS, Market.CRYPTO, Market.OPTIONS)
        row = last_trade(self.tape, self._now_ns(), market, symbol)
        if row is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"{request.rest}: no trade", "NOT_FOUND")
        return {"status": "OK", "request_id": request.request_id, "results": {"T": request.rest, **row}}

    async def _bars(self, request: _Request) -> bytes:
        return await bars_page(
            self.tape, self._now_ns(), request.rest, request.parameters, request.request_id, request.address
        )

    # --- reference ------------------------------------------------------------------------------------------

    async def _conditions(self, request: _Request) -> dict[str, Any]:
        rows = reference.conditions(request.parameters.get("asset_class"), request.parameters.get("data_type"))
        return _listing(request, rows, CONDITIONS_LIMIT)

    async def _exchanges(self, request: _Request) -> dict[str, Any]:
        rows = reference.exchanges(request.parameters.get("asset_class"))
        return _listing(request, rows, REFERENCE_LIMIT_MAX)

    async def _tickers(self, request: _Request) -> dict[str, Any]:
        word = request.parameters.get("market")
        rows = [
            reference.ticker_row(market, ticker_of(market, symbol))
            for market in Market
            for symbol in sorted(self.tape.universe(market))
        ]
        ticker = request.parameters.get("ticker")
        rows = [row for row in rows if word in (None, row["market"]) and ticker in (None, row["ticker"])]
        return _listing(request, rows, TICKERS_LIMIT)

    async def _ticker(self, request: _Request) -> dict[str, Any]:
        market, symbol = listed(request.rest)
        if symbol not in self.tape.universe(market):
            raise Problem(HTTPStatus.NOT_FOUND, f"{request.rest}: Ticker not found.", "NOT_FOUND")
        row = reference.ticker_row(market, request.rest)
        return {"status": "OK", "request_id": request.request_id, "results": row}

    async def _status(self, request: _Request) -> dict[str, Any]:
        now_ms = self.position() // NS_PER_MS
        minute_ms = now_ms // 60_000 * 60_000
        hours = self.hours(minute_ms)
        market = {Hours.REGULAR: "open", Hours.CLOSED: "closed"}.get(hours, "extended-hours")
        forex = "closed" if market_hours(Market.FOREX, minute_ms) is Hours.CLOSED else "open"
        server_time = datetime.fromtimestamp(now_ms / 1000, NEW_YORK).isoformat(timespec="seconds")
        return {
            "afterHours": hours is Hours.POST,
            "currencies": {"crypto": "open", "fx": forex},
            "earlyHours": hours is Hours.PRE,
            "exchanges": {"nasdaq": market, "nyse": market, "otc": market},
            "market": market,
            "serverTime": server_time,
        }

    async def _upcoming(self, request: _Request) -> list[dict[str, Any]]:
        today = datetime.fromtimestamp(self.position() / 1e9, NEW_YORK).date()
        return reference.upcoming(today)


def _listing(request: _Request, rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of rows that do not change; ``cursor`` is the number of the first one."""
    limit = whole(request.parameters, "limit", limit, 1, REFERENCE_LIMIT_MAX)
    start = whole(request.parameters, "cursor", 0, 0, len(rows))
    found = rows[start : start + limit]
    body: dict[str, Any] = {
        "status": "OK", "request_id": request.request_id, "results": found, "count": len(found),
    }  # fmt: skip
    if start + limit < len(rows):
        kept = {k: v for k, v in request.parameters.items() if k not in ("cursor", "limit")}
        asked = "".join(f"&{name}={value}" for name, value in kept.items())
        body["next_url"] = f"{request.address}?cursor={start + limit}&limit={limit}{asked}"
    return body
