"""System Down: what is told when, once each way; and the file that it is told from."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.errors import StoreUnavailable
from tapewatch.notify.downs import RECOVERY, Down, Downs, Trouble, system_payload
from tapewatch.notify.notices import Notices
from tapewatch.notify.sender import Delivered
from tapewatch.notify.target import Outcome
from tapewatch.records import Notification, Origin
from tapewatch.rules.model import Rules, SystemRule

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
STALL_MS = 60_000


def trouble(condition: str = "store", room: str = "store", ago_s: float = 0.0, **values: Any) -> Trouble:
    return Trouble(condition, room, f"{room} is down.", NOW - timedelta(seconds=ago_s), **values)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("condition", "after_s"),
    [("store", 8), ("log", 10), ("engine", 30), ("no_data", 60), ("connection", 60), ("disk", 0)],
)
def test_what_is_wrong_is_told_when_it_has_lasted(condition: str, after_s: int) -> None:
    downs = Downs([], STALL_MS)
    one = trouble(condition)
    if after_s:
        assert downs.look([one], Rules(), NOW + seconds(after_s - 0.1)) == []
    (down,) = downs.look([one], Rules(), NOW + seconds(after_s))
    assert (down.state, down.room, down.began) == ("down", "store", NOW.timestamp())
    assert downs.look([one], Rules(), NOW + seconds(1_000)) == []  # once


def test_recovery_is_told_once_and_only_when_it_lasts() -> None:
    downs = Downs([], STALL_MS)
    downs.look([trouble(ago_s=60)], Rules(), NOW)
    assert downs.look([], Rules(), NOW + seconds(1)) == []
    assert downs.look([trouble()], Rules(), NOW + seconds(5)) == []  # it came back: nothing is told
    assert downs.look([], Rules(), NOW + seconds(6)) == []
    (recovered,) = downs.look([], Rules(), NOW + seconds(6) + RECOVERY)
    assert (recovered.state, recovered.recovered) == ("recovered", (NOW + seconds(6) + RECOVERY).timestamp())
    assert downs.look([], Rules(), NOW + seconds(60)) == []
    assert downs.down == []


def test_a_restart_remembers_what_was_told() -> None:
    downs = Downs([], STALL_MS)
    known = downs.look([trouble(ago_s=60)], Rules(), NOW)
    again = Downs(known, STALL_MS)
    assert again.look([trouble(ago_s=60)], Rules(), NOW + seconds(5)) == []
    again.look([], Rules(), NOW + seconds(6))
    assert [down.state for down in again.look([], Rules(), NOW + seconds(20))] == ["recovered"]


def test_rules_say_what_is_watched_for_how_long_and_when_it_is_quiet() -> None:
    rules = Rules(
        system_down=SystemRule(enabled=False),
        disks=SystemRule(conditions=("disk",)),
        stores=SystemRule(conditions=("store",), after_ms=300_000, quiet="09:00-11:00 America/New_York"),
    )
    downs = Downs([], STALL_MS)
    both = [trouble(), trouble("disk", "disk")]
    assert [down.rule for down in downs.look(both, rules, NOW)] == ["disks"]
    assert downs.look(both, rules, NOW + seconds(300)) == []  # 10:05 in New York
    assert [down.rule for down in downs.look(both, rules, NOW + seconds(3_600))] == ["stores"]


def test_trades_may_be_rare_outside_the_regular_session() -> None:
    downs = Downs([], STALL_MS)
    one = trouble("no_trades", "feed stocks", patience=10)
    assert downs.look([one], Rules(), NOW + seconds(599)) == []
    assert len(downs.look([one], Rules(), NOW + seconds(600))) == 1


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_down_and_recovered_are_told_in_turn(steps: list[tuple[bool, int]]) -> None:
    downs, now, since, told = Downs([], STALL_MS), NOW, NOW, []
    for is_wrong, wait_s in steps:
        if not is_wrong:
            since = now + seconds(wait_s)
        now += seconds(wait_s)
        given_now = [Trouble("store", "store", "It is down.", min(since, now))] if is_wrong else []
        told += [down.state for down in downs.look(given_now, Rules(), now)]
    assert all(one != other for one, other in itertools.pairwise(told))
    assert told[:1] in ([], ["down"])


def test_what_is_told() -> None:
    (down,) = Downs([], STALL_MS).look([trouble("no_data", "feed stocks", 90)], Rules(), NOW)
    said = system_payload(down, Rules(), origin=Origin.LIVE, link="http://here", now=NOW)
    assert said["text"] == "System Down: feed stocks is down. Since 2026-03-02 09:58:30 in New York."
    assert (said["severity"], said["incident"], said["url"]) == (
        "critical", "system_down:feed_stocks", "http://here/#/health",
    )  # fmt: skip
    over = Down(**{name: getattr(down, name) for name in down.__struct_fields__} | {"state": "recovered"})
    said = system_payload(over, Rules(), origin=Origin.SIMULATED, link="", now=NOW)
    assert said["text"].startswith("SIMULATED: System recovered: feed stocks is well again, after 1.5 min.")
    assert said["resolves"] == ["system_down:feed_stocks"]


# --- the file ---------------------------------------------------------------------------------------------------


def message(channel: str = "phone") -> Notification:
    return Notification(id=f"s1:{channel}:down", alert_id="s1", channel=channel, event="down", payload={"text": "x"})


def down(state: str = "down") -> Down:
    return Down(
        system_id="s1", rule="system_down", room="store", state=state, began=NOW.timestamp(), detail="It is down."
    )


def test_the_file_is_an_outbox(tmp_path: Path) -> None:
    async def play() -> None:
        notices = Notices(tmp_path / "notices.db")
        notices.put(down(), [message(), message("team")], NOW)
        notices.put(down(), [message()], NOW)  # the same message is never written twice
        (one,) = await notices.claim("phone", 10, NOW)
        assert (one.notification, one.attempts, one.created_at) == (message(), 0, NOW)
        later = NOW + seconds(30)
        await notices.failed(message().id, 1, "busy", later)
        assert await notices.claim("phone", 10, NOW) == []
        assert [w.attempts for w in await notices.claim("phone", 10, later)] == [1]
        await notices.delivered(Delivered(message().id, 2, later, Outcome()))
        await notices.dead(message("team").id, 3, "refused")
        assert await notices.counts() == (0, 1, 0.0)
        assert await notices.sent_since("phone", NOW) == [later]
        await notices.close()

    asyncio.run(play())


def test_the_file_remembers_what_is_down_and_what_the_database_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "notices.db"
    Notices(path).put(down(), [], NOW)
    notices = Notices(path)
    assert notices.still_down() == notices.unstored() == [down()]
    notices.stored([down()])
    assert notices.unstored() == []
    notices.put(down("recovered"), [], NOW)
    assert notices.still_down() == []
    assert notices.unstored() == [down("recovered")]
    notices.note("day", "2026-03-02")
    assert (Notices(path).fact("day"), notices.fact("nothing")) == ("2026-03-02", "")


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "notices.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        Notices(tmp_path / "notices.db")
