"""What is watched, and its change at run time: `/api/v1/watchlist`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, HTTPException, Query, Response, Security
from fastapi.security import HTTPBearer

from tapewatch.errors import InputError, MachineError, SettingsError
from tapewatch.serve import models
from tapewatch.serve.answers import Json

__all__ = ["Watched", "watchlist_routes"]

CHANGE_SYMBOLS_MAX: Final = 1_000
"""Symbols in one change; more are sent in parts."""
_ERRORS: Final = models.refusals({
    400: "Wrong host name", 401: "A token is needed", 403: "From another site", 409: "Nothing is watched here",
    413: "Too large", 422: "No symbol, or one that is not watched", 503: "The change cannot be kept",
})  # fmt: skip
_NOBODY: Final = "What is watched here is given by the recording or by another process, and cannot be changed."


Change = Callable[[Sequence[str]], Awaitable[dict[str, Any]]]


class Watched(Protocol):
    """What is watched; `profiles.watching.Watching`."""

    def shown(self) -> dict[str, Any]:
        """A `models.Watchlist`."""

    async def add(self, names: Sequence[str]) -> dict[str, Any]:
        """Watch these too; what is watched then. Raises InputError, SettingsError and MachineError."""

    async def remove(self, names: Sequence[str]) -> dict[str, Any]:
        """Watch these no more; what is watched then. Raises InputError and MachineError."""


def watchlist_routes(watched: Watched | None) -> APIRouter:
    """The routes; without anything ``watched`` each says why it cannot."""
    bearer = Security(HTTPBearer(auto_error=False, description="API_TOKEN, where one is set"))
    router = APIRouter(prefix="/api/v1/watchlist", responses=_ERRORS, dependencies=[bearer])

    @router.get("", response_model=models.Watchlist, summary="What is watched, and what the exchange says of it")
    async def shown() -> Response:
        return Json(_here(watched).shown())

    @router.post("", response_model=models.Watchlist, summary="Watch more symbols")
    async def add(change: models.WatchlistChange) -> Response:
        """They are subscribed to on the connection that is there, and kept for the next start."""
        return Json(await _changed(_here(watched).add, change.symbols))

    @router.delete("", response_model=models.Watchlist, summary="Watch some symbols no more")
    async def remove(
        symbols: Annotated[str, Query(max_length=16_384, description="symbols, separated by commas")],
    ) -> Response:
        """Their rows and alerts stay."""
        return Json(await _changed(_here(watched).remove, symbols.split(",")))

    return router


def _here(watched: Watched | None) -> Watched:
    if watched is None:
        raise HTTPException(409, _NOBODY)
    return watched


async def _changed(change: Change, symbols: Sequence[str]) -> dict[str, Any]:
    if len(symbols) > CHANGE_SYMBOLS_MAX:
        raise HTTPException(422, f"At most {CHANGE_SYMBOLS_MAX} symbols in one change; this has {len(symbols)}.")
    try:
        return await change(symbols)
    except (InputError, SettingsError) as error:
        raise HTTPException(422, str(error)) from None
    except MachineError as error:
        raise HTTPException(503, str(error)) from None
