"""What becomes of a message before it is sent."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify_parts import alert
from tapewatch.notify.outbox import notifications_for
from tapewatch.notify.policy import GRADE_HELD_MAX, Fresh, Memory, Mute, Plan, Policy
from tapewatch.records import AlertStatus, Origin
from tapewatch.rules.channels import NotifyOptions, Rate
from tapewatch.rules.model import LevelRule, Rules

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
QUIET = LevelRule(level=1.0, quiet="22:00-07:00 America/New_York")
OPTIONS = NotifyOptions(limit=Rate(3, 60_000), burst_ms=60_000, digest_ms=300_000)


def message(
    alert_id: str = "a1", status: str = "confirmed", *, channel: str = "phone", at: datetime = NOW, **changes: Any
) -> Fresh:
    """A message of a golden cross of AAPL."""
    values = {name: changes.pop(name) for name in ("symbol", "rule", "kind") if name in changes}
    made = notifications_for(
        alert(alert_id, AlertStatus(status), **({"rule": "golden_cross"} | values)), [channel], "provisional",
        Origin.LIVE,
    )  # fmt: skip
    n = made[0]
    p = n.payload
    first = Fresh(n.id, n.alert_id, n.channel, n.event, p["rule"], p["symbol"], p, at, grade="A")
    return replace(first, **changes)


class Room:
    """One policy, its memory, and a clock."""

    def __init__(self, options: NotifyOptions = OPTIONS, **rules: Any) -> None:
        self.policy = Policy(options, Rules(**rules), link="http://here")
        self.memory = Memory()
        self.now = NOW
        self.mutes: list[Mute] = []

    def plan(self, *messages: Fresh) -> Plan:
        return self.policy.plan(messages, self.mutes, self.memory, self.now)

    def states(self, *messages: Fresh) -> dict[str, tuple[str, str | None]]:
        return {move.id: (move.state, move.reason) for move in self.plan(*messages).moves}

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_a_message_is_sent_with_grade_lateness_and_link() -> None:
    room = Room()
    plan = room.plan(message(grade="C"))
    (move,) = plan.moves
    assert (move.state, plan.channels) == ("waiting", {"phone"})
    assert move.payload is not None
    assert (move.payload["grade"], move.payload["url"]) == ("C", "http://here/#/alerts/a1")
    assert "Data of grade C (a gap of under 10 s)" in move.payload["text"]


def test_the_same_rule_and_symbol_within_the_burst_is_one_message() -> None:
    room = Room()
    assert room.states(message("a1")) == {"a1:phone:confirmed": ("waiting", None)}
    held = []
    for number in range(2, 9):
        room.pass_s(5)
        one = message(f"a{number}", at=room.now)
        assert room.states(one) == {one.id: ("held", "burst")}
        held.append(replace(one, reason="burst"))
    room.pass_s(30)
    plan = room.plan(*held)
    assert {move.state for move in plan.moves} == {"folded"}
    (made,) = plan.made
    assert {move.told_by for move in plan.moves} == {made.id}
    assert made.event == "burst"
    assert (made.payload["incident"], made.payload["resolves"]) == (
        "golden_cross:AAPL:above", ["death_cross:AAPL:below"],
    )  # fmt: skip
    assert made.payload["text"].startswith("AAPL golden cross 7 times more, last 190.12 is 6.3 bps above the average")
    assert room.states(message("b1", symbol="MSFT")) == {"b1:phone:confirmed": ("waiting", None)}
    assert room.states(message("a9")) == {"a9:phone:confirmed": ("held", "burst")}


def test_one_alone_after_a_burst_is_sent_itself() -> None:
    room = Room()
    room.plan(message("a1"))
    (move,) = room.plan(message("a2")).moves
    assert move.held_until == NOW + timedelta(seconds=60)
    room.pass_s(60)
    assert room.states(replace(message("a2"), reason="burst")) == {"a2:phone:confirmed": ("waiting", "burst")}


def test_what_is_more_than_the_limit_comes_in_one_digest() -> None:
    room = Room()
    storm = [message(f"a{n}", symbol=f"S{n}") for n in range(1_000)]
    plan = room.plan(*storm)
    assert [m.state for m in plan.moves] == ["waiting"] * 3 + ["held"] * 997
    assert len({m.held_until for m in plan.moves[3:]}) == 1
    assert not plan.made
    room.pass_s(10)
    plan = room.plan(*(replace(m, reason="limit") for m in storm[3:]))
    (made,) = plan.made
    assert (made.event, made.payload["count"], len(plan.moves)) == ("digest", 997, 997)
    assert made.payload["text"].startswith("997 alerts more than 3 in 60 s: S3 golden cross, S4 golden cross")
    assert "and 987 more" in made.payload["text"]
    room.pass_s(10)
    again = room.plan(*(message(f"b{n}", symbol=f"T{n}") for n in range(4)))
    assert again.moves[-1].held_until == NOW + timedelta(seconds=310)  # not sooner than digest_ms after the one before


def test_the_limit_is_of_each_channel_and_not_of_the_log() -> None:
    room = Room()
    room.plan(*(message(f"a{n}", symbol=f"S{n}") for n in range(5)))
    assert room.states(message("b", channel="team", symbol="X")) == {"b:team:confirmed": ("waiting", None)}
    logged = [message(f"c{n}", channel="log") for n in range(50)]
    assert {m.state for m in room.plan(*logged).moves} == {"waiting"}


def test_what_follows_up_a_message_that_was_told_is_always_sent() -> None:
    room = Room()
    room.plan(*(message(f"a{n}", symbol=f"S{n}") for n in range(5)))
    room.mutes = [Mute(None, None, None, NOW + timedelta(hours=1), "page")]
    for status in ("confirmed", "retracted"):
        for before in ("waiting", "delivered"):
            one = message("a1", status, before=before, grade="D")
            assert room.states(one) == {one.id: ("waiting", None)}


def test_an_alert_that_is_over_before_it_was_told_is_not_told() -> None:
    for before in ("new", "held"):
        assert Room().states(message("a1", "retracted", before=before)) == {
            "a1:phone:retracted": ("muted", "retracted before it was told"),
            "a1:phone:provisional": ("muted", "retracted before it was told"),
        }
    assert Room().states(message("a1", "provisional"), message("a1", "retracted", before="new")) == {
        "a1:phone:retracted": ("muted", "retracted before it was told"),
        "a1:phone:provisional": ("muted", "retracted before it was told"),
    }
    assert Room().states(message("a1", "provisional"), message("a1", before="new")) == {
        "a1:phone:provisional": ("folded", "confirmed before it was told"),
        "a1:phone:confirmed": ("waiting", None),
    }


@pytest.mark.parametrize(
    ("mute", "covers"),
    [
        ((None, None, None), True), (("golden_cross", None, None), True), (("other", None, None), False),
        ((None, "AAPL", "phone"), True), ((None, "AAPL", "team"), False), ((None, "MSFT", None), False),
    ],
)  # fmt: skip
def test_what_is_muted(mute: tuple[str | None, str | None, str | None], covers: bool) -> None:
    room = Room()
    room.mutes = [Mute(*mute, NOW + timedelta(hours=1), "page")]
    state, reason = room.states(message())["a1:phone:confirmed"]
    assert (state == "muted") is covers
    assert reason == ("muted by page until 2026-03-02 16:00 UTC" if covers else None)
    room.pass_s(3_600)
    assert room.states(message("a2"))["a2:phone:confirmed"] == ("waiting", None)


def test_an_acknowledged_alert_is_not_told_again() -> None:
    assert Room().states(message(acknowledged=True))["a1:phone:confirmed"] == ("muted", "acknowledged")


def test_quiet_hours_end_in_one_digest() -> None:
    room = Room(mine=QUIET)
    room.now = datetime(2026, 3, 3, 4, 0, tzinfo=UTC)  # 23:00 in New York
    night = [message(f"a{n}", rule="mine", kind="level", at=room.now) for n in range(4)]
    plan = room.plan(*night)
    assert {(m.state, m.reason, m.held_until) for m in plan.moves} == {
        ("held", "quiet hours", datetime(2026, 3, 3, 12, 0, tzinfo=UTC))
    }
    room.now = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
    plan = room.plan(*(replace(m, reason="quiet hours") for m in night))
    assert plan.made[0].payload["text"].startswith("4 alerts in your quiet hours: AAPL mine 4 times.")
    assert {m.state for m in plan.moves} == {"folded"}


def test_data_of_grade_d_holds_an_alert_and_says_so() -> None:
    room = Room()
    plan = room.plan(message(grade="D"))
    (move,), (made,) = plan.moves, plan.made
    assert (move.state, move.reason, made.event) == ("held", "grade D", "held")
    assert made.payload["text"].startswith("1 alert is held: the data of AAPL is of grade D, ")
    room.pass_s(15)
    plan = room.plan(replace(message(grade="D"), reason="grade D"), message("a2", grade="D", symbol="MSFT"))
    assert [m.state for m in plan.moves] == ["held", "held"]
    assert plan.made == []  # said a moment ago
    assert room.states(replace(message(grade="B"), reason="grade D")) == {"a1:phone:confirmed": ("waiting", "grade D")}
    room.pass_s(GRADE_HELD_MAX.total_seconds())
    late = replace(message("a2", grade="D", symbol="MSFT"), reason="grade D")
    assert room.states(late) == {"a2:phone:confirmed": ("muted", "grade D")}


def test_old_news_is_not_told_as_new_but_what_follows_up_is() -> None:
    room = Room()
    old = message()
    old = replace(old, payload=old.payload | {"received_ms": int(NOW.timestamp() * 1_000) - 601_000})
    assert room.states(old) == {old.id: ("dead", "too old: 601 s after it was received")}
    assert room.states(replace(old, before="delivered")) == {old.id: ("waiting", None)}
    assert room.states(replace(old, reason="quiet hours")) == {old.id: ("waiting", "quiet hours")}
    room.policy = Policy(OPTIONS, Rules(), origin=Origin.REPLAYED)
    assert Room().states(replace(old, channel="log")) == {old.id: ("waiting", None)}
    assert {move.state for move in room.plan(old).moves} == {"held"}  # of the same burst as the one before


def test_grade_d_holds_nothing_where_that_is_off() -> None:
    room = Room(NotifyOptions(hold_grade_d=False))
    assert room.states(message(grade="D")) == {"a1:phone:confirmed": ("waiting", None)}


def test_a_burst_over_the_limit_joins_the_digest() -> None:
    room = Room()
    room.plan(*(message(f"a{n}", symbol=f"S{n}") for n in range(3)))
    due = [replace(message(f"b{n}", symbol="S0"), reason="burst") for n in range(2)]
    assert set(room.states(*due).values()) == {("held", "limit")}


steps = st.lists(
    st.tuples(
        st.sampled_from(["S1", "S2", "S3"]), st.sampled_from(["phone", "team", "log"]),
        st.sampled_from(["provisional", "confirmed"]), st.sampled_from([None, "A", "D"]), st.integers(0, 90),
    ),
    max_size=60,
)  # fmt: skip


@given(steps=steps, mute=st.booleans())
def test_no_message_is_lost_and_no_channel_gets_more_than_its_limit(
    steps: list[tuple[str, str, str, str | None, int]], mute: bool
) -> None:
    room = Room()
    room.mutes = [Mute(None, "S3", None, NOW + timedelta(minutes=10), "x")] if mute else []
    rows: dict[str, tuple[Fresh, str, datetime | None]] = {}
    sent: dict[str, list[datetime]] = {}
    quiet_end = itertools.chain(steps, [(None, "", "", None, 700)] * 8)
    for number, (symbol, channel, status, grade, wait_s) in enumerate(quiet_end):
        if symbol is not None:
            one = message(f"a{number}", status, channel=channel, symbol=symbol, grade=grade, at=room.now)
            rows[one.id] = (one, "new", None)
        due = [m for m, state, until in rows.values() if state == "new" or (until is not None and until <= room.now)]
        plan = room.plan(*due)
        assert {move.id for move in plan.moves} == {m.id for m in due}
        made = {n.id for n in plan.made}
        for move in plan.moves:
            assert move.state != "folded" or move.told_by in made
            assert move.state != "held" or (move.held_until is not None and move.held_until > room.now)
            rows[move.id] = (replace(rows[move.id][0], reason=move.reason), move.state, move.held_until)
            if move.state == "waiting":
                sent.setdefault(move.channel, []).append(room.now)
        for n in plan.made:
            if n.event == "burst":
                sent.setdefault(n.channel, []).append(room.now)
        room.pass_s(wait_s)
    assert all(state in ("waiting", "folded", "muted") for _, state, _ in rows.values())
    for channel, times in sent.items():
        for at in times:
            within = sum(at - timedelta(seconds=60) < other <= at for other in times)
            # one that was alone in a digest is sent itself, at most once for each digest
            assert channel == "log" or within <= OPTIONS.limit.count + 1
