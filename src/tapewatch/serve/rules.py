"""The alert rules in force, and their change at run time: `/api/v1/rules`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, HTTPException, Query, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from tapewatch.errors import InputError, MachineError
from tapewatch.serve import models
from tapewatch.serve.answers import Json

__all__ = ["Ruled", "Rules", "rules_routes"]

_ERRORS: Final = models.refusals({
    400: "Wrong host name", 401: "A token is needed", 403: "From another site", 409: "The rules are not here",
    413: "Too large", 422: "No rule, or not one that there is", 503: "The change cannot be kept",
})  # fmt: skip
_NOBODY: Final = "The alert rules are another process's; they are not known here."


class ShownRule(BaseModel):
    """One rule, as it is in force."""

    rule: str = Field(description="its name: the table of alerts.toml")
    kind: str = Field(description="cross, volume, level, move, extreme, threshold or system")
    version: str = Field(description="changes with all that decides its alerts; every alert names it")
    enabled: bool
    is_default: bool = Field(description="exists without being written; can be switched off, not removed")
    keys: dict[str, Any] = Field(description="what alerts.toml must say for it; what is not there has its default")


class Rules(BaseModel):
    """The rules in force."""

    rules: list[ShownRule]
    changed_by: str = Field(description="start, file, api or command")
    since: int = Field(description="since when they are in force, by the server's clock: Unix ms")
    problem: str | None = Field(description="why alerts.toml, as it is now, is not in force; null when it is")


class RuleChange(BaseModel):
    """A rule to be added or changed; beside its name, the keys of its table in alerts.toml."""

    model_config = ConfigDict(extra="allow")

    rule: str = Field(max_length=60, description="its name")
    kind: str | None = Field(None, max_length=20, description="of a new rule; or another one, for a rule made anew")


class Ruled(Protocol):
    """The rules of a pipeline; `profiles.rulebook.Rulebook`."""

    def shown(self) -> dict[str, Any]:
        """A `Rules`."""

    def write(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Add a rule, or change these keys of it; what is in force then. Raises InputError and MachineError."""

    def remove(self, name: str) -> dict[str, Any]:
        """Take a rule out; what is in force then. Raises InputError and MachineError."""


def rules_routes(ruled: Ruled | None) -> APIRouter:
    """The routes; without anybody who has the rules each says that they are not here."""
    bearer = Security(HTTPBearer(auto_error=False, description="API_TOKEN, where one is set"))
    router = APIRouter(prefix="/api/v1/rules", responses=_ERRORS, dependencies=[bearer])

    @router.get("", response_model=Rules, summary="The alert rules in force")
    async def shown() -> Response:
        return Json(_here(ruled).shown())

    @router.post("", response_model=Rules, summary="Add an alert rule, or change some keys of one")
    async def write(change: RuleChange) -> Response:
        """Keys that are not named stay as they are, or have their defaults; null gives a key its default again.

        The change is written into alerts.toml, and holds from the next record of the log on.
        """
        kind = {} if change.kind is None else {"kind": change.kind}
        keys = kind | (change.model_extra or {})
        return Json(_changed(lambda book: book.write(change.rule, keys), ruled))

    @router.delete("", response_model=Rules, summary="Remove an alert rule")
    async def remove(rule: Annotated[str, Query(max_length=60, description="its name")]) -> Response:
        """Its alerts stay. One that exists without being written has its defaults again."""
        return Json(_changed(lambda book: book.remove(rule), ruled))

    return router


def _here(ruled: Ruled | None) -> Ruled:
    if ruled is None:
        raise HTTPException(409, _NOBODY)
    return ruled


def _changed(change: Callable[[Ruled], dict[str, Any]], ruled: Ruled | None) -> dict[str, Any]:
    try:
        return change(_here(ruled))
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    except MachineError as error:
        raise HTTPException(503, str(error)) from None
