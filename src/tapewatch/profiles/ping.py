"""The dead man's switch: an address that is posted to as long as all is well, so that its owner notices our silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from tapewatch import metrics
from tapewatch.notify.addresses import Unfit
from tapewatch.notify.posting import Answer, Poster
from tapewatch.notify.targets import environment
from tapewatch.rules.channels import SystemOptions

__all__ = ["Ping"]

_log = structlog.get_logger(__name__)
_HEADERS: Final = {"Content-Type": "text/plain"}


class Posts(Protocol):
    """What is needed of a `notify.posting.Poster`."""

    async def post(self, content: bytes, headers: Mapping[str, str], path: str = "") -> Answer:
        """Post once."""

    async def close(self) -> None:
        """Let go of the connections."""


def _poster(url: str) -> Posts:
    return Poster(url, private=True)  # a switch often runs at home; metadata addresses stay refused


class Ping:
    """Of one process. A ping is never waited for: one that hangs holds up nothing, and no second one is begun."""

    def __init__(
        self, known: Callable[[], Mapping[str, str]] = environment, poster: Callable[[str], Posts] = _poster
    ) -> None:
        """``known`` is where the address is looked up; it is a secret."""
        self._known = known
        self._make = poster
        self._url = ""
        self._poster: Posts | None = None
        self._next: datetime | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def due(self, options: SystemOptions, now: datetime) -> None:
        """All is well: ping, if it is time."""
        if not options.ping_url or (self._next is not None and now < self._next):
            return
        if self._task is not None and not self._task.done():
            return
        self._next = now + timedelta(milliseconds=options.ping_every_ms)
        url = self._known().get(options.ping_url.removeprefix("env:"), "")
        if url != self._url:
            await self.close()
            self._url = url
            self._poster = self._open(options.ping_url, url)
        if self._poster is not None:
            self._task = asyncio.create_task(self._send(self._poster), name="ping")

    async def close(self) -> None:
        """Let go of the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._poster is not None:
            await self._poster.close()
            self._poster = None

    def _open(self, name: str, url: str) -> Posts | None:
        if not url:
            _log.error("no dead man's switch", why=f"the variable of [system] ping_url = {name} is not set")
            return None
        try:
            return self._make(url)
        except Unfit as why:
            _log.error("no dead man's switch", why=f"the address in {name.removeprefix('env:')} is wrong: {why}")
            return None

    async def _send(self, poster: Posts) -> None:
        answer = await poster.post(b"", _HEADERS)
        metrics.PINGS.labels("failed" if answer.error else "accepted").inc()
        if bool(answer.error) != self._failing:
            self._failing = bool(answer.error)
            if self._failing:
                _log.warning("the dead man's switch is not reached", why=answer.error)
            else:
                _log.info("the dead man's switch is reached again")
