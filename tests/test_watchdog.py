"""The watchdog: what is wrong in each room, whom it tells, tests, and the dead man's switch."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.notices import Notices
from tapewatch.notify.posting import Answer
from tapewatch.profiles.ping import Ping
from tapewatch.profiles.troubles import Rooms
from tapewatch.profiles.watchdog import TEST_S, Watchdog
from tapewatch.records import Market, Notification, Origin
from tapewatch.rules.channels import SystemOptions
from tapewatch.rules.model import Rules, SystemRule
from tapewatch.sessions import Sessions
from tapewatch.settings import Settings

OPEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
NOW = OPEN + timedelta(hours=1)
DAY = [int((OPEN + timedelta(minutes=m)).timestamp() * 1_000) for m in (-330, 0, 390, 630)]
CALENDAR = {Market.STOCKS: Sessions(*(np.array([ms], np.int64) for ms in DAY))}
SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


def iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def feed(state: str = "live", **values: Any) -> dict[str, Any]:
    base = {"market": "stocks", "state": state, "detail": None, "delay_ms": 0, "last_trade_at": None}
    return base | {"since": iso(OPEN - timedelta(hours=9))} | values


def status(*feeds: dict[str, Any], **rooms: Any) -> dict[str, Any]:
    usual = {
        "log": {"state": "ok", "end": 7},
        "engine": {"state": "ok", "position": 7, "behind": 0},
        "store": {"state": "ok"},
    }
    return {"feeds": list(feeds)} | usual | rooms


def troubles(
    now: datetime, said: dict[str, Any], origin: Origin = Origin.LIVE, **channels: Any
) -> list[tuple[str, str]]:
    found = Rooms(SETTINGS, origin, CALENDAR).look(said, channels, now)
    return [(one.condition, one.room) for one in found]


def test_a_well_system_has_no_trouble() -> None:
    assert troubles(NOW, status(feed(), feed("closed"))) == []


def test_never_any_data_is_unhealthy_where_the_feeds_are_elsewhere_too() -> None:
    assert troubles(NOW, status()) == [("no_data", "feed")]
    assert troubles(NOW, status(), Origin.REPLAYED) == []
    seen = feed("stale", last_trade_at=None, since=None)
    assert troubles(NOW, status(seen), Origin.SIMULATED) == [("no_data", "feed stocks")]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status(feed("stale")), ("no_data", "feed stocks")),
        (status(feed("stale", last_trade_at=iso(NOW - timedelta(seconds=90)))), ("no_trades", "feed stocks")),
        (status(feed("reconnecting")), ("connection", "feed stocks")),
        (status(feed("stopped")), ("connection", "feed stocks")),
        (status(feed("lagging")), ("lag", "feed stocks")),
        (status(feed(), log={"state": "full", "end": 7}), ("disk", "disk")),
        (status(feed(), log={"state": "low", "end": 7}), ("disk", "disk")),
        (status(feed(), log={"state": "waiting", "end": 7}), ("log", "log")),
        (status(feed(), engine={"state": "stalled", "position": 7}), ("engine", "engine")),
        (status(feed(), store={"state": "down", "detail": "It is gone."}), ("store", "store")),
    ],
)
def test_every_room_is_watched(said: dict[str, Any], expected: tuple[str, str]) -> None:
    assert troubles(NOW, said) == [expected]


def test_a_channel_that_fails_again_and_again_is_a_trouble() -> None:
    assert troubles(NOW, status(feed()), desk={"failures": 2}) == []
    assert troubles(NOW, status(feed()), desk={"failures": 3}) == [("notify", "channel desk")]


def test_what_does_not_move_is_seen() -> None:
    rooms = Rooms(SETTINGS, Origin.LIVE, CALENDAR)
    behind = status(feed(), engine={"state": "ok", "position": 7, "behind": 5})
    assert rooms.look(behind, {}, NOW) == []
    found = rooms.look(behind, {}, NOW + timedelta(seconds=31))
    assert [(one.condition, one.since) for one in found] == [("log", NOW), ("engine", NOW)]
    moved = status(feed(), log={"state": "ok", "end": 9}, engine={"state": "ok", "position": 8, "behind": 1})
    assert rooms.look(moved, {}, NOW + timedelta(seconds=32)) == []


def test_standing_still_is_in_order_while_missed_trades_are_fetched() -> None:
    rooms = Rooms(SETTINGS, Origin.LIVE, CALENDAR)
    behind = {"engine": {"state": "ok", "position": 7, "behind": 5}}
    for s in (0, 300):
        assert rooms.look(status(feed(warming=True), **behind), {}, NOW + timedelta(seconds=s)) == []
    assert rooms.look(status(feed(), **behind), {}, NOW + timedelta(seconds=302)) == []
    found = rooms.look(status(feed(), **behind), {}, NOW + timedelta(seconds=340))
    assert {one.since for one in found} == {NOW + timedelta(seconds=302)}


def test_silence_is_counted_from_the_opening_and_patiently_outside_the_regular_session() -> None:
    rooms = Rooms(SETTINGS, Origin.LIVE, CALENDAR)
    yesterday = feed("stale", last_trade_at=iso(OPEN - timedelta(hours=14)))
    (one,) = rooms.look(status(yesterday), {}, OPEN + timedelta(seconds=5))
    assert (one.since, one.patience) == (OPEN, 1)
    before = OPEN - timedelta(hours=5)
    (one,) = rooms.look(status(yesterday), {}, before)
    assert (one.since, one.patience) == (OPEN - timedelta(minutes=330), 10)


def test_at_night_a_lost_connection_is_no_outage() -> None:
    night = OPEN - timedelta(hours=8)
    assert troubles(night, status(feed("reconnecting"))) == []
    assert troubles(night, status(feed("reconnecting")), Origin.SIMULATED) == [("connection", "feed stocks")]


# --- the whole watchdog -------------------------------------------------------------------------------------------


class FakeTold:
    """Those who are told."""

    def __init__(self) -> None:
        self.channels: Sequence[str] = ["phone", "team"]
        self.told: list[set[str]] = []
        self.woken = 0

    def health(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def passed(self, channels: set[str]) -> None:
        self.told.append(channels)

    def wake(self) -> None:
        self.woken += 1


class FakeStore:
    """The database."""

    def __init__(self) -> None:
        self.is_away = False
        self.rows: dict[str, str] = {}
        self.sent: list[Notification] = []
        self.missing: list[str] = []

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")

    async def put(self, rows: Sequence[Any]) -> None:
        self._answer()
        self.rows |= {row.system_id: row.state for row in rows}

    async def send(self, row: Any, messages: Sequence[Notification]) -> None:
        await self.put([row])
        self.sent += messages

    async def undelivered(self, system_id: str) -> list[str]:
        self._answer()
        return self.missing

    async def close(self) -> None:
        pass


class FakePost:
    """The dead man's switch."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pings = 0

    async def post(self, content: bytes, headers: Mapping[str, str], path: str = "") -> Answer:
        self.pings += 1
        return Answer()

    async def close(self) -> None:
        pass


class Room:
    """A watchdog over fakes, and a clock moved by hand."""

    def __init__(self, folder: Path, rules: Rules | None = None, options: SystemOptions | None = None) -> None:
        self.now = NOW
        self.told, self.store = FakeTold(), FakeStore()
        self.said = status(feed("closed"))
        self.posts: list[FakePost] = []
        self.notices = Notices(folder / "notices.db")
        self.options = options or SystemOptions()
        self.dog = Watchdog(
            SETTINGS, Origin.LIVE, CALENDAR, self.notices, self.store, self.told, status=lambda: self.said,
            rules=lambda: rules or Rules(), options=lambda: self.options, link="http://here",
            ping=Ping(lambda: {"SWITCH": "https://switch.example.org/uuid"}, self._post), clock=lambda: self.now,
        )  # fmt: skip

    def _post(self, url: str) -> FakePost:
        self.posts.append(FakePost(url))
        return self.posts[-1]

    async def look(self, seconds: float = 0.0) -> None:
        self.now += timedelta(seconds=seconds)
        await self.dog.look()

    async def messages(self, channel: str = "phone") -> list[str]:
        return [w.notification.event for w in await self.notices.claim(channel, 10, self.now)]


def test_a_database_that_is_down_is_told_of_without_it(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        room.store.is_away = True
        room.said = status(feed("closed"), store={"state": "down", "detail": "It does not answer."})
        await room.look()
        await room.look(11)
        assert await room.messages() == ["down"]
        assert room.told.told == [{"phone", "team"}]
        assert room.store.rows == {}
        room.store.is_away, room.said = False, status(feed("closed"))
        await room.look(1)
        assert list(room.store.rows.values()) == ["down"]  # told afterwards
        await room.look(10)
        assert await room.messages() == ["down", "recovered"]
        assert list(room.store.rows.values()) == ["recovered"]
        await room.dog.close()

    asyncio.run(play())


def test_a_rule_says_whom_it_tells(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path, Rules(system_down=SystemRule(channels=("team",))))
        room.said = status(feed("closed"), log={"state": "full", "end": 7})
        await room.look()
        assert (await room.messages("team"), await room.messages("phone")) == (["down"], [])
        await room.dog.close()

    asyncio.run(play())


def test_the_dead_man_s_switch_is_pinged_only_while_all_is_well(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path, options=SystemOptions(ping_url="env:SWITCH", ping_every_ms=30_000))
        for _ in range(4):
            await room.look(15)
            await asyncio.sleep(0)
        assert (room.posts[0].url, room.posts[0].pings) == ("https://switch.example.org/uuid", 2)
        room.said = status(feed("closed"), log={"state": "full", "end": 7})
        for _ in range(4):
            await room.look(30)
            await asyncio.sleep(0)
        assert room.posts[0].pings == 2
        await room.dog.close()

    asyncio.run(play())


def test_a_test_alert_goes_through_the_outbox_and_is_missed_where_it_does_not_arrive(tmp_path: Path) -> None:
    async def play() -> None:
        room = Room(tmp_path)
        with pytest.raises(ValueError, match="no channel nowhere; expected some of log, phone, team"):
            await room.dog.test(["nowhere"])
        system_id = await room.dog.test(["phone"])
        assert [(n.channel, n.event, n.alert_id) for n in room.store.sent] == [("phone", "test", system_id)]
        assert room.store.rows == {system_id: "test"}
        assert room.told.woken == 1
        await room.look(1)
        assert await room.messages() == []
        room.store.missing = ["phone"]
        await room.dog.test()
        room.dog._tests = {name: sent_s - TEST_S - 1 for name, sent_s in room.dog._tests.items()}
        await room.look(1)
        await room.look(1)
        assert await room.messages() == ["down"]
        await room.dog.close()

    asyncio.run(play())


def test_at_each_opening_one_test_alert_is_sent_if_wanted(tmp_path: Path) -> None:
    async def play() -> None:
        for _ in range(2):  # a restart sends no second one
            room = Room(tmp_path, options=SystemOptions(test_at_open=True, test_channels=("phone",)))
            room.now = OPEN - timedelta(seconds=2)
            for _ in range(5):
                await room.look(1)
            await room.dog.close()
            yield_count.append(len(room.store.sent))

    yield_count: list[int] = []
    asyncio.run(play())
    assert yield_count == [1, 0]
