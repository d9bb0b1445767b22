"""What people and the pipeline have to do with one another.

    Telling (gate, senders)      Watchdog (System Down, dead man's switch)      Life (acknowledge, mute, test)

All three follow the rulebook: a change of alerts.toml holds at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from tapewatch.notify.notices import Notices
from tapewatch.profiles.rulebook import Rulebook
from tapewatch.profiles.telling import Telling
from tapewatch.profiles.watchdog import Watchdog
from tapewatch.records import Origin
from tapewatch.serve.life import Life
from tapewatch.sessions import Calendar
from tapewatch.settings import Settings
from tapewatch.store.marks import Marks
from tapewatch.store.system import SystemStore

__all__ = ["People"]


class People:
    """Of one pipeline. To be made in the event loop; ``life`` may be served before `start`."""

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        rulebook: Rulebook,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """``on_end`` is told of an error of a task."""
        self._settings = settings
        self._origin = origin
        self._rulebook = rulebook
        self._on_end = on_end
        self._telling: Telling | None = None
        self.life = Life()

    def wake(self) -> None:
        """From any thread: there may be something to tell."""
        if self._telling is not None:
            self._telling.wake()

    async def start(
        self, info: str, link: str, status: Callable[[], dict[str, Any]], calendar: Calendar, undo: AsyncExitStack
    ) -> None:
        """Begin; ``undo`` ends it. ``info`` is how to reach the database for writing, ``link`` where the page is.

        Raises:
            SettingsError: a channel cannot be used.
        """
        rulebook = self._rulebook
        telling = Telling(
            self._settings, info, self._origin, rules=lambda: rulebook.rules, options=lambda: rulebook.now.notify,
            link=link, on_end=self._on_end, channels=lambda: rulebook.now.channels,
        )  # fmt: skip
        await telling.start(undo)
        self._telling = telling
        marks = Marks(info)
        undo.push_async_callback(marks.close)
        watchdog = Watchdog(
            self._settings, self._origin, calendar, Notices(telling.notices), SystemStore(info), telling,
            status=status, rules=lambda: rulebook.rules, options=lambda: rulebook.now.system,
            link=rulebook.now.notify.link or link,
        )  # fmt: skip
        self._watch(watchdog, undo)
        self.life.marks, self.life.test = marks, watchdog.test

    async def change_channels(self) -> None:
        """The channels of alerts.toml are others now. Raises SettingsError: they cannot be used."""
        if self._telling is not None:
            await self._telling.change_channels()

    def _watch(self, watchdog: Watchdog, undo: AsyncExitStack) -> None:
        task = asyncio.create_task(watchdog.run(), name="watchdog")

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])
            await watchdog.close()

        undo.push_async_callback(stop)
        task.add_done_callback(lambda t: None if t.cancelled() else self._on_end(t.exception()))
