"""What sends, of one pipeline: the program's own log here, all that reaches out in a process of its own.

    outbox: waiting ─┬─► Sender(log), here
                     └─► python -m tapewatch.notify: Sender(webhook, slack, email, ...)

Without any channel but the log there is no such process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.channels import Channel
from tapewatch.notify.kinds import LOG
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.postgres import PostgresOutbox
from tapewatch.notify.process import Plan, SenderProcess
from tapewatch.notify.sender import Sender
from tapewatch.notify.targets import LogTarget
from tapewatch.settings import Settings

__all__ = ["Senders"]

_CLEAR_S: Final = 60.0

_logger = structlog.get_logger("tapewatch.notify")


class Senders:
    """To be used in the event loop; ``on_end`` is told of an error of this program."""

    def __init__(
        self,
        settings: Settings,
        info: str,
        channels: Mapping[str, Channel],
        says: Path,
        on_end: Callable[[BaseException | None], None],
        *,
        notices: Path | None = None,
    ) -> None:
        """``info`` reaches the database for writing, ``channels`` are ready for use, ``says`` is the process's log."""
        self._plan = Plan(
            conninfo=info,
            channels=_outside(channels),
            attempts_max=settings.notify_attempts_max,
            news_age_ms=settings.news_age_ms,
            notices=None if notices is None else str(notices),
            log_level=settings.log_level,
        )
        self._says = says
        self._on_end = on_end
        self._outbox = PostgresOutbox(info)
        log = {LOG: Outlet(LOG, LOG, LogTarget())}
        self._sender = Sender(
            self._outbox, log, attempts_max=settings.notify_attempts_max, news_age_ms=settings.news_age_ms
        )
        self._news_age = timedelta(milliseconds=settings.news_age_ms)
        self._task: asyncio.Task[None] | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._process: SenderProcess | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._sender.run(), name="sender")
        self._task.add_done_callback(self._ended)
        self._clearing = asyncio.create_task(self._clear(), name="stranded notifications")
        self._clearing.add_done_callback(self._ended)
        if self._plan.channels:
            self._start_process()

    def passed(self, channels: Iterable[str]) -> None:
        """These channels have something to send."""
        wanted = set(channels)
        if LOG in wanted:
            self._sender.wake()
        if wanted - {LOG} and self._process is not None:
            self._process.wake()

    async def change(self, channels: Mapping[str, Channel]) -> None:
        """Send to these from now on. What is under way is finished first."""
        self._plan.channels = _outside(channels)
        if self._process is None:
            if self._plan.channels:
                self._start_process()
        elif self._plan.channels:
            await self._process.change(self._plan.channels)
        else:
            process, self._process = self._process, None
            await process.stop()

    def health(self) -> Mapping[str, dict[str, Any]]:
        """How each channel does that reaches out, as far as is known."""
        return {} if self._process is None else self._process.channels

    @property
    def pid(self) -> int | None:
        """The process's id, if there is one and it runs."""
        return None if self._process is None else self._process.pid

    async def stop(self) -> None:
        """End in good order: what was delivered is marked."""
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.wait([self._clearing])
        if self._process is not None:
            await self._process.stop()
        self._sender.stop()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._outbox.close()

    async def _clear(self) -> None:
        """What waits for a channel that is not there any more would wait for ever."""
        while True:
            with suppress(StoreUnavailable):
                channels = {LOG, *(channel.name for channel in self._plan.channels)}
                if number := await self._outbox.strand(channels, datetime.now(UTC) - self._news_age):
                    _logger.warning("notifications of channels that are gone were given up", number=number)
            await asyncio.sleep(_CLEAR_S)

    def _start_process(self) -> None:
        self._process = SenderProcess(self._plan, self._says)
        self._process.start().add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_end(error)


def _outside(channels: Mapping[str, Channel]) -> list[Channel]:
    return [channel for channel in channels.values() if channel.kind != LOG]
