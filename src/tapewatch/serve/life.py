"""What people do with alerts, and how those who are told do: acknowledgement, mutes, channels, System Down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, Protocol

import structlog
from fastapi import APIRouter, HTTPException, Path, Query, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field, field_validator

from tapewatch.serve import models
from tapewatch.serve.answers import Json
from tapewatch.serve.models import Time
from tapewatch.serve.queries import Queries, ask
from tapewatch.settings import ALERTS_ROWS_MAX, duration_text, parse_duration_ms

__all__ = ["Life", "Marks", "TestAlert", "life_routes"]

MUTE_MS_MAX: Final = 30 * 86_400_000
_ERRORS: Final = models.refusals({
    400: "Wrong host name", 401: "A token is needed", 403: "From another site", 404: "No such thing",
    409: "Not possible here", 413: "Too large", 422: "A value is wrong", 503: "The database does not answer",
})  # fmt: skip
_NOBODY: Final = "This process may not write to the database, so nothing can be acknowledged or muted here."
_NO_TEST: Final = "Nobody is told of alerts by this process, so there is nothing to test."
_log = structlog.get_logger(__name__)

TestAlert = Callable[[list[str] | None], Awaitable[str]]
"""Sends a test alert to some channels, or all; its id. Raises ValueError when there is no such channel."""
AlertPath = Annotated[str, Path(pattern=r"^[0-9A-Za-z_.:-]{1,128}$")]
Words = Annotated[str, Field(max_length=500)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Marks(Protocol):
    """Where it is kept; `store.marks.Marks`. Every method may raise `StoreUnavailable`."""

    async def acknowledge(self, alert_id: str, by: str, note: str, *, seen: bool) -> bool:
        """Note that an alert is seen, or not; False if there is none."""

    async def mute(
        self, *, rule: str | None, symbol: str | None, channel: str | None, for_ms: int, by: str, note: str
    ) -> str:
        """Do not tell of these for so long; the id of the mute."""

    async def unmute(self, mute_id: str) -> bool:
        """End a mute; False if there is none."""


class Acknowledgement(BaseModel, extra="forbid"):
    """That somebody has seen an alert."""

    by: Words = "api"
    note: Words = ""


class MuteWish(BaseModel, extra="forbid"):
    """What is not to be told for a while. At least one of rule, symbol and channel is named, or ``all`` is true."""

    rule: Name | None = None
    symbol: models.Symbol | None = None
    channel: Name | None = None
    all: bool = False
    duration: int = Field(alias="for", json_schema_extra={"type": "string", "examples": ["1h"]})
    by: Words = "api"
    note: Words = ""

    @field_validator("duration", mode="before")
    @classmethod
    def _read(cls, value: Any) -> int:
        ms = parse_duration_ms(str(value))
        if not 1_000 <= ms <= MUTE_MS_MAX:
            raise ValueError(f"expected 1s to {duration_text(MUTE_MS_MAX)}")
        return ms


class Mute(BaseModel):
    """What is not told for now; null means any."""

    mute_id: str
    rule: str | None
    symbol: str | None
    channel: str | None
    muted_from: Time
    muted_to: Time
    muted_by: str
    note: str


class Channel(BaseModel):
    """How one channel for messages does."""

    channel: str
    kind: str
    accepted_at: Time | None = Field(description="when it accepted a message last")
    failed_at: Time | None
    last_error: str | None
    failures: int = Field(description="in a row; 0 after a success")
    paused_until: Time | None
    updated_at: Time
    waiting: int
    held: int
    dead: int = Field(description="given up")
    delivered_24h: int


class SystemAlert(BaseModel):
    """What of the system was not well, from when to when."""

    system_id: str
    rule: str
    room: str
    state: Literal["down", "recovered", "test"]
    began_at: Time
    announced_at: Time | None
    recovered_at: Time | None
    detail: str
    acknowledged_at: Time | None = None
    acknowledged_by: str | None = None
    note: str | None = None


class TestWish(BaseModel, extra="forbid"):
    """To whom a test alert goes; null: to every channel."""

    channels: list[Name] | None = None


class TestSent(BaseModel):
    """A test alert that is on its way; its deliveries are in the notifications of that alert."""

    system_id: str


class Life:
    """What the routes work with. ``marks`` and ``test`` are None where this process cannot do that."""

    def __init__(self, marks: Marks | None = None, test: TestAlert | None = None) -> None:
        self.marks = marks
        self.test = test

    def writing(self) -> Marks:
        """Raises 409 where nothing can be written."""
        if self.marks is None:
            raise HTTPException(409, _NOBODY)
        return self.marks


def life_routes(queries: Queries, life: Life) -> APIRouter:
    """Everything about the life of an alert after it was made."""
    bearer = Security(HTTPBearer(auto_error=False, description="API_TOKEN, where one is set"))
    router = APIRouter(prefix="/api/v1", responses=_ERRORS, dependencies=[bearer])
    _acknowledging(router, queries, life)
    _muting(router, queries, life)
    _watching(router, queries, life)
    return router


def _acknowledging(router: APIRouter, queries: Queries, life: Life) -> None:
    path = "/alerts/{alert_id}/acknowledgement"

    @router.post(path, status_code=204, summary="Say that an alert is seen")
    async def acknowledge(alert_id: AlertPath, said: Acknowledgement | None = None) -> Response:
        """What waits of its messages is not sent any more, but a retraction of what was told is."""
        said = said or Acknowledgement()
        await mark(alert_id, said.by, said.note, seen=True)
        return Response(status_code=204)

    @router.delete(path, status_code=204, summary="Take that back")
    async def forget(alert_id: AlertPath) -> Response:
        await mark(alert_id, "", "", seen=False)
        return Response(status_code=204)

    async def mark(alert_id: str, by: str, note: str, *, seen: bool) -> None:
        if not await life.writing().acknowledge(alert_id, by, note, seen=seen):
            raise HTTPException(404, f"There is no alert {alert_id}.")
        _log.info("alert acknowledged" if seen else "acknowledgement taken back", alert_id=alert_id, by=by)


def _muting(router: APIRouter, queries: Queries, life: Life) -> None:
    @router.get("/mutes", response_model=list[Mute], summary="What is muted now")
    async def mutes(limit: Annotated[int, Query(ge=1, le=ALERTS_ROWS_MAX)] = 100) -> Response:
        return Json(await ask(queries, queries.mutes(limit)))

    @router.post("/mutes", response_model=list[Mute], summary="Tell nobody of some alerts for a while")
    async def mute(wish: MuteWish) -> Response:
        """They are made, stored and shown all the same. Answers with all that is muted then."""
        if not wish.all and wish.rule is None and wish.symbol is None and wish.channel is None:
            raise HTTPException(422, "Name a rule, a symbol or a channel; to mute everything, say all: true.")
        symbol = None if wish.symbol is None else wish.symbol.upper()
        mute_id = await life.writing().mute(
            rule=wish.rule, symbol=symbol, channel=wish.channel, for_ms=wish.duration, by=wish.by, note=wish.note
        )
        _log.info("muted", mute_id=mute_id, rule=wish.rule, symbol=symbol, channel=wish.channel, by=wish.by)
        return Json(await ask(queries, queries.mutes(ALERTS_ROWS_MAX)))

    @router.delete("/mutes/{mute_id}", response_model=list[Mute], summary="End a mute")
    async def unmute(mute_id: Annotated[str, Path(pattern=r"^[0-9a-z]{1,64}$")]) -> Response:
        """Answers with all that is still muted."""
        if not await life.writing().unmute(mute_id):
            raise HTTPException(404, f"There is no mute {mute_id}, or it is over.")
        _log.info("unmuted", mute_id=mute_id)
        return Json(await ask(queries, queries.mutes(ALERTS_ROWS_MAX)))


def _watching(router: APIRouter, queries: Queries, life: Life) -> None:
    @router.get("/channels", response_model=list[Channel], summary="How each channel for messages does")
    async def channels() -> Response:
        return Json(await ask(queries, queries.channels()))

    @router.get("/system-alerts", response_model=list[SystemAlert], summary="System Down: what is or was not well")
    async def system_alerts(limit: Annotated[int, Query(ge=1, le=ALERTS_ROWS_MAX)] = 100) -> Response:
        return Json(await ask(queries, queries.system_alerts(limit)))

    @router.post("/system-alerts/test", response_model=TestSent, summary="Send a test alert the whole way")
    async def test(wish: TestWish | None = None) -> Response:
        """Through outbox, gate and sender to the channels: it is said to be a test."""
        if life.test is None:
            raise HTTPException(409, _NO_TEST)
        try:
            system_id = await life.test(None if wish is None else wish.channels)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        _log.info("test alert", system_id=system_id)
        return Json({"system_id": system_id})
