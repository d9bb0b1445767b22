"""What tells people of alerts, in the front's process: the gate that decides what is sent, and what sends it.

commit ─► wake ─► Gate (outbox: new ─► waiting) ─► Sender of the log
                                               └► process of the other channels
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tapewatch.notify.channels import Channel
from tapewatch.notify.gate import Gate
from tapewatch.notify.policy import Policy
from tapewatch.notify.postgres_gate import PostgresGate
from tapewatch.notify.senders import Senders
from tapewatch.notify.targets import LOG, channel_names, channels_of
from tapewatch.profiles.instance import folder_of
from tapewatch.records import Origin
from tapewatch.rules.channels import NotifyOptions
from tapewatch.rules.model import Rules
from tapewatch.settings import Settings

__all__ = ["Telling", "notices_of"]


def notices_of(folder: Path) -> Path:
    """Where a pipeline's folder keeps what is told of the system itself."""
    return folder / "notices.db"


class Telling:
    """Of one pipeline. To be made in the event loop; ``on_end`` is told of an error of a task."""

    def __init__(
        self,
        settings: Settings,
        info: str,
        origin: Origin,
        *,
        rules: Callable[[], Rules],
        options: Callable[[], NotifyOptions],
        link: str,
        on_end: Callable[[BaseException | None], None],
        channels: Callable[[], Mapping[str, Channel]] = dict,
    ) -> None:
        """``info`` is how to reach the database for writing, ``link`` where the page is.

        ``channels`` gives those that alerts.toml says, as they are written there.
        """
        self._settings = settings
        self._info = info
        self._origin = origin
        self._rules = rules
        self._options = options
        self._link = link
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._gate = Gate(PostgresGate(info), self._policy, self.passed)
        self._channels = channels
        self._folder = folder_of(settings.data_dir, origin)
        self._senders: Senders | None = None

    @property
    def notices(self) -> Path:
        """The file of what is told of the system itself."""
        return notices_of(self._folder)

    @property
    def channels(self) -> list[str]:
        """Every channel that reaches out."""
        return [name for name in channel_names(self._settings, self._channels()) if name != LOG]

    def health(self) -> Mapping[str, Mapping[str, Any]]:
        """How each of them does, as far as is known."""
        return {} if self._senders is None else self._senders.health()

    def passed(self, channels: set[str]) -> None:
        """In the event loop: these channels have something to send."""
        if self._senders is not None:
            self._senders.passed(channels)

    def wake(self) -> None:
        """From any thread: there may be something to tell."""
        self._loop.call_soon_threadsafe(self._gate.wake)

    async def change_channels(self) -> None:
        """The channels of alerts.toml are others now.

        Raises:
            SettingsError: they cannot be used; those of before go on.
        """
        if self._senders is not None:
            await self._senders.change(channels_of(self._settings, self._channels()))

    async def start(self, undo: AsyncExitStack) -> None:
        """Begin; ``undo`` stops it, the sender last."""
        self._start_senders(undo)
        self._task("gate", self._gate.run(), undo)

    def _policy(self) -> Policy:
        return Policy(
            self._options(), self._rules(), link=self._link, origin=self._origin,
            news_age_ms=self._settings.news_age_ms,
        )  # fmt: skip

    def _start_senders(self, undo: AsyncExitStack) -> None:
        """Raises SettingsError: a channel's secret is missing, or its values make no channel."""
        says = self._folder / "notify.log"
        channels = channels_of(self._settings, self._channels())
        self._senders = Senders(self._settings, self._info, channels, says, self._on_end, notices=self.notices)
        undo.push_async_callback(self._senders.stop)
        self._senders.start()

    def _task(self, name: str, work: Coroutine[None, None, None], undo: AsyncExitStack) -> None:
        task = asyncio.create_task(work, name=name)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        undo.push_async_callback(stop)
        task.add_done_callback(lambda t: None if t.cancelled() else self._on_end(t.exception()))
