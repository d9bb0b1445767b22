"""Watches every room of the pipeline, and tells when one is not well: System Down.

    status, each second ─► troubles ─► Downs ─► notices.db ─► sender ─► people
                                          └───► database, when it answers ─► page
    all well ─► ping of the dead man's switch: whoever misses it knows that nobody here can tell

It is part of the process that it watches, so it cannot tell of that one's death: the dead man's switch does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from tapewatch import metrics
from tapewatch.errors import StoreUnavailable
from tapewatch.notify.downs import Down, Downs, Trouble, system_payload
from tapewatch.notify.notices import Notices
from tapewatch.profiles.ping import Ping
from tapewatch.profiles.troubles import Rooms
from tapewatch.records import Market, Notification, Origin
from tapewatch.rules.channels import SystemOptions
from tapewatch.rules.model import Rules
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import Settings

__all__ = ["Told", "Watchdog"]

LOOK_S: Final = 1.0
TEST_S: Final = 60.0
"""A test alert that has not arrived after so long has failed."""
RULE: Final = "system_down"
_TESTED: Final = "tested_day"
_log = structlog.get_logger(__name__)


class Told(Protocol):
    """Those who are told: `profiles.telling.Telling`."""

    @property
    def channels(self) -> Sequence[str]:
        """Every channel that reaches out."""

    def health(self) -> Mapping[str, Mapping[str, Any]]:
        """How each of them does."""

    def passed(self, channels: set[str]) -> None:
        """These have something to send."""

    def wake(self) -> None:
        """There is something new in the outbox."""


class SystemStore(Protocol):
    """`store.system.SystemStore`. Every method may raise `StoreUnavailable`."""

    async def put(self, rows: Sequence[Any]) -> None:
        """Alerts of the system in their newest state."""

    async def send(self, row: Any, messages: Sequence[Notification]) -> None:
        """A test alert and its messages."""

    async def undelivered(self, system_id: str) -> list[str]:
        """The channels that a test alert has not reached."""

    async def close(self) -> None:
        """End the connection."""


class Watchdog:
    """In the front's event loop."""

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        calendar: Calendar,
        notices: Notices,
        store: SystemStore,
        told: Told,
        *,
        status: Callable[[], dict[str, Any]],
        rules: Callable[[], Rules],
        options: Callable[[], SystemOptions],
        link: str,
        ping: Ping | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``status`` gives a `serve.models.Status`; ``link`` is where the page is."""
        self._origin = origin
        self._calendar = calendar
        self._notices = notices
        self._store = store
        self._told = told
        self._status = status
        self._rules = rules
        self._options = options
        self._link = link
        self._ping = ping or Ping()
        self._clock = clock
        self._downs = Downs(notices.still_down(), settings.feed_stall_ms)
        self._rooms = Rooms(settings, origin, calendar)
        self._tests: dict[str, float] = {}
        """Test alerts that are on their way, and when they were sent."""
        self._failed_tests: dict[str, str] = {}

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once: tell what is down since now and what has recovered, and ping if nothing is."""
        now = self._clock()
        troubles = self._rooms.look(self._status(), self._told.health(), now)
        troubles += [
            Trouble("notify", f"channel {channel}", sentence, now, patience=0)
            for channel, sentence in self._failed_tests.items()
        ]
        for down in self._downs.look(troubles, self._rules(), now):
            self._tell(down, now)
        metrics.SYSTEM_DOWN.set(len(self._downs.down))
        await self._store_them()
        await self._look_at_tests(now)
        await self._test_at_open(now)
        if not self._downs.down:
            await self._ping.due(self._options(), now)

    async def close(self) -> None:
        """Let go of file and connections."""
        await self._ping.close()
        await self._store.close()
        await self._notices.close()

    async def test(self, channels: Sequence[str] | None = None) -> str:
        """Send a test alert by the database's outbox, to these channels or to all; its id.

        Raises:
            ValueError: there is no such channel.
            StoreUnavailable: the database does not answer.
        """
        known = ["log", *self._told.channels]
        wanted = known if channels is None else list(dict.fromkeys(channels))
        if strange := [channel for channel in wanted if channel not in known]:
            raise ValueError(f"There is no channel {strange[0]}; expected some of {', '.join(known)}.")
        now = self._clock()
        at = now.timestamp()
        down = Down(
            system_id=f"test-{int(at * 1_000)}", rule=RULE, room="all", state="test", began=at, announced=at,
            detail="nothing is wrong. It came through the outbox, the gate and the sender.",
        )  # fmt: skip
        await self._store.send(down, self._messages(down, wanted, now))
        self._tests[down.system_id] = time.monotonic()
        self._told.wake()
        return down.system_id

    def _tell(self, down: Down, now: datetime) -> None:
        """Into the log of the program and to the rule's channels."""
        rule = self._rules().get(down.rule)
        wanted = None if rule is None else rule.channels
        channels = [channel for channel in self._told.channels if wanted is None or channel in wanted]
        if rule is not None and rule.notify == "never":
            channels = []
        if down.state == "down":
            _log.error("system down", room=down.room, why=down.detail)
        else:
            _log.info("system recovered", room=down.room, was=down.detail)
        try:
            self._notices.put(down, self._messages(down, channels, now), now)
        except StoreUnavailable as error:  # a full disk: what is told is in the log of the program alone
            _log.error("system alert not sent", why=str(error))
            return
        self._told.passed(set(channels))

    def _messages(self, down: Down, channels: Sequence[str], now: datetime) -> list[Notification]:
        payload = system_payload(down, self._rules(), origin=self._origin, link=self._link, now=now)
        found = []
        for channel in channels:
            key = f"{down.system_id}:{channel}:{down.state}"
            found.append(
                Notification(
                    id=key, alert_id=down.system_id, channel=channel, event=down.state, payload={"id": key} | payload
                )
            )
        return found

    async def _store_them(self) -> None:
        """What the database does not know yet, as soon as it answers."""
        try:
            if waiting := self._notices.unstored():
                await self._store.put(waiting)
                self._notices.stored(waiting)
        except StoreUnavailable:
            pass  # the status says so

    # --- tests --------------------------------------------------------------------------------------------------

    async def _look_at_tests(self, now: datetime) -> None:
        for system_id, sent_s in list(self._tests.items()):
            is_over = time.monotonic() - sent_s > TEST_S
            try:
                missing = await self._store.undelivered(system_id)
            except StoreUnavailable:
                return
            if missing and not is_over:
                continue
            del self._tests[system_id]
            self._failed_tests = {
                channel: f"The test alert of {now:%H:%M} UTC did not reach {channel} within {TEST_S:.0f} s."
                for channel in missing
            }

    async def _test_at_open(self, now: datetime) -> None:
        options = self._options()
        if not options.test_at_open or self._origin is Origin.REPLAYED:
            return
        sessions = sessions_of(self._calendar, Market.STOCKS)
        now_ms = int(now.timestamp() * 1_000)
        day = sessions.day(now_ms)
        if day < 0 or not len(sessions.regular_open) or not sessions.regular(now_ms):
            return
        name = f"{datetime.fromtimestamp(sessions.regular_open[day] / 1_000, UTC):%Y-%m-%d}"
        try:
            if self._notices.fact(_TESTED) != name:
                await self.test(options.test_channels)
                self._notices.note(_TESTED, name)
        except (StoreUnavailable, ValueError) as error:
            _log.warning("no test alert at the open yet", why=str(error))
