"""Why an alert fired, and for any symbol and minute why nothing did. docs/explain.md describes it for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException, Query, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from tapewatch.errors import InputError, LogError, UnknownSymbol
from tapewatch.serve import models
from tapewatch.serve.answers import Json
from tapewatch.serve.models import MarketName, Time
from tapewatch.serve.queries import Row

__all__ = ["Explain", "Explanation", "explain_routes"]

Explain = Callable[[str, str], Awaitable[Row]]
"""Symbol and minute, as a person writes them. Raises InputError, UnknownSymbol, LogError."""

RETRY_S: Final = 5
NOT_HERE: Final = (
    "Minutes are explained from the log, and this server does not know it: set KAFKA_BOOTSTRAP_SERVERS for it too. "
    "What an alert was decided from is in its evidence."
)


class ExplainedBar(BaseModel):
    """The minute's candle, as the log gives it."""

    open: float | None
    high: float | None
    low: float | None
    close: float | None
    vwap: float | None
    volume: float
    trade_count: int
    ma_5min: float | None = Field(description="of the window that ends with the minute")
    is_final: bool


class ExplainedCounts(BaseModel):
    """What of the minute's trades could not count, and how much of it lies in a gap."""

    excluded: int = Field(description="may not set a price, by their conditions")
    late: int
    future: int
    stale: int = Field(description="older than the newest price when they came, so they decided nothing")
    gap_ms: int


class ExplainedRule(BaseModel):
    """One rule in that minute."""

    rule: str
    kind: str = Field(description="`golden_cross`, `death_cross`, `high_volume`, or the kind of any other rule")
    direction: int = Field(description="1 above, -1 below; a rule for either is told twice; 0 for a volume")
    outcome: Literal["fired", "not fired", "off"]
    alert_id: str | None
    sentence: str = Field(description="for people; times in the exchange's zone")
    facts: dict[str, Any] = Field(description="the numbers behind it; times in Unix ms end in `_ms`")


class Explanation(BaseModel):
    """What each rule decided about a symbol's minute, and why, computed anew from the log."""

    symbol: str
    market: MarketName
    minute: Time
    text: str = Field(description="the minute in the exchange's zone", examples=["2026-11-20 15:42 ET"])
    session: Literal["pre", "regular", "post", "closed", "open"]
    state: Literal["past", "running", "future"]
    grade: Literal["A", "B", "C", "D"] | None = Field(description="null where nothing came and nothing was missed")
    bar: ExplainedBar | None
    trades: int
    counts: ExplainedCounts
    rules: list[ExplainedRule]
    computed_from: Time = Field(description="the log was read from here on")
    agrees: bool | None = Field(description="whether the database has stored the same; null if it does not answer")
    agreement: str = Field(description="the same as a sentence")


def explain_routes(explain: Explain | None) -> APIRouter:
    """`GET /api/v1/explain`; without ``explain`` it says where it can be had."""
    router = APIRouter(prefix="/api/v1", dependencies=[Security(HTTPBearer(auto_error=False))])
    errors = models.refusals({
        400: "Wrong host name", 401: "A token is needed", 404: "The log holds no trade of the symbol",
        422: "A parameter has a wrong value", 503: "The log cannot be read now, or too many ask",
    })  # fmt: skip

    @router.get("/explain", response_model=Explanation, responses=errors, summary="Why it fired, or why nothing did")
    async def of_minute(
        symbol: Annotated[models.Symbol, Query(description="case does not matter")],
        minute: Annotated[
            str,
            Query(
                min_length=1,
                max_length=40,
                description="ISO 8601; without an offset in the exchange's zone: New York for stocks, UTC for crypto",
                examples=["2026-11-20T15:42"],
            ),
        ],
    ) -> Response:
        if explain is None:
            raise HTTPException(503, NOT_HERE)
        try:
            return Json(await explain(symbol, minute))
        except UnknownSymbol as error:
            raise HTTPException(404, f"{error}.") from None
        except InputError as error:
            raise HTTPException(422, f"{error}.") from None
        except LogError as error:
            raise HTTPException(503, f"{error}.", {"Retry-After": str(RETRY_S)}) from None

    return router
