"""Which states of an alert become messages, and what they say."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify_parts import alert
from tapewatch.notify.messages import finished
from tapewatch.notify.outbox import NotifyMode, notifications_for
from tapewatch.records import AlertStatus, Origin
from tapewatch.rules.model import LevelRule, Rule, Rules, ThresholdRule


@pytest.mark.parametrize(
    ("mode", "status", "told"),
    [
        ("confirmed", AlertStatus.PROVISIONAL, False),
        ("confirmed", AlertStatus.CONFIRMED, True),
        ("confirmed", AlertStatus.RETRACTED, False),
        ("provisional", AlertStatus.PROVISIONAL, True),
        ("provisional", AlertStatus.CONFIRMED, True),
        ("provisional", AlertStatus.RETRACTED, True),
    ],
)
def test_what_is_told(mode: NotifyMode, status: AlertStatus, told: bool) -> None:
    found = notifications_for(alert(status=status), ["log", "webhook"], mode, Origin.LIVE)
    assert [n.channel for n in found] == (["log", "webhook"] if told else [])
    assert {n.event for n in found} == ({status.value} if told else set())
    assert notifications_for(alert(status=status, late=True), ["log", "webhook"], mode, Origin.LIVE) == []


def test_ids_are_unique_and_always_the_same() -> None:
    made = [
        notification
        for alert_id in ("a1", "a2")
        for status in AlertStatus
        for notification in notifications_for(
            alert(alert_id, status), ["log", "webhook"], "provisional", Origin.REPLAYED
        )
    ]
    assert len({n.id for n in made}) == len(made) == 12
    again = notifications_for(alert("a1", AlertStatus.RETRACTED), ["log"], "provisional", Origin.REPLAYED)
    assert again[0].id == "a1:log:retracted"
    assert again[0] in made


def test_what_a_message_says() -> None:
    (found,) = notifications_for(alert(), ["webhook"], "confirmed", Origin.SIMULATED)
    assert found.payload == {
        "id": "a1:webhook:confirmed",
        "alert_id": "a1",
        "kind": "golden_cross",
        "symbol": "AAPL",
        "status": "confirmed",
        "direction": "above",
        "is_volume": False,
        "price": 190.12,
        "line": 190.0,
        "left": "price",
        "right": "average",
        "value": 190.12,
        "difference_bps": 6.32,
        "time": "2024-01-02T15:31:05.250Z",
        "time_new_york": "2024-01-02T10:31:05.250-05:00",
        "triggered_ms": 1_704_209_465_250,
        "decided_ms": 1_704_209_522_000,
        "received_ms": None,
        "window_from_ms": 1_704_209_160_000,
        "window_to_ms": 1_704_209_520_000,
        "origin": "SIMULATED",
        "rule": "golden",
        "rule_version": "1",
        "evidence": "/api/v1/alerts/a1",
        "url": None,
        "severity": "warning",
        "grade": None,
        "late_s": None,
        "incident": "golden:AAPL:above",
        "resolves": ["golden:AAPL:below"],
        "words": "",
        "title": "SIMULATED: AAPL golden cross confirmed",
        "text": "SIMULATED: AAPL golden cross confirmed: 190.12 is 6.3 bps above the average of 190, "
        "2024-01-02 10:31:05 in New York.",
    }


def told(rule: Rule, status: AlertStatus = AlertStatus.CONFIRMED, **options: Any) -> list[str]:
    """The channels that are told of an alert of this rule, where NOTIFY is confirmed."""
    rules = Rules(mine=rule)
    found = notifications_for(
        alert(rule="mine", kind="level", status=status), ["log", "phone", "team"], "confirmed", Origin.LIVE, rules,
        **options,
    )  # fmt: skip
    return [n.channel for n in found]


def test_a_rule_says_its_own_channels_and_when() -> None:
    assert told(LevelRule(level=1.0)) == ["log", "phone", "team"]
    assert told(LevelRule(level=1.0, channels=("phone",))) == ["log", "phone"]
    assert told(LevelRule(level=1.0, channels=())) == ["log"]
    assert told(LevelRule(level=1.0, notify="never")) == []
    assert told(LevelRule(level=1.0), AlertStatus.PROVISIONAL) == []
    assert told(LevelRule(level=1.0, notify="provisional"), AlertStatus.PROVISIONAL) == ["log", "phone", "team"]


def test_a_channel_that_takes_no_provisional_alerts_is_told_confirmed_ones() -> None:
    rule = LevelRule(level=1.0, notify="provisional")
    assert told(rule, AlertStatus.PROVISIONAL, confirmed_only={"team"}) == ["log", "phone"]
    assert told(rule, AlertStatus.CONFIRMED, confirmed_only={"team"}) == ["log", "phone", "team"]
    assert told(rule, AlertStatus.RETRACTED, confirmed_only={"team"}) == ["log", "phone"]


def test_a_rule_of_a_person_is_told_by_its_name_its_lines_and_its_words() -> None:
    rules = Rules(apple_200=LevelRule(level=200.0, text="Sell half."))
    (found,) = notifications_for(
        alert(rule="apple_200", kind="level", price=200.3, line=200.0), ["log"], "confirmed", Origin.LIVE, rules
    )
    assert found.payload["text"] == (
        "AAPL apple 200 confirmed: 200.3 is 15.0 bps above 200, 2024-01-02 10:31:05 in New York. Sell half."
    )


def test_lines_are_named_as_the_evidence_names_them() -> None:
    rules = Rules(hot=ThresholdRule(indicator="rsi(14)", value=70.0))
    evidence = {"confirmed": {"lines": ["RSI 14", "70"], "price": 71.25}}
    (found,) = notifications_for(
        alert(rule="hot", kind="threshold", price=190.12, line=70.0, evidence=evidence), ["log"], "confirmed",
        Origin.LIVE, rules,
    )  # fmt: skip
    assert found.payload["text"].startswith("AAPL hot confirmed: RSI 14 of 71.25 is above 70, ")


def test_the_opposite_cross_and_a_retraction_end_an_incident() -> None:
    golden = notifications_for(alert(rule="golden_cross"), ["log"], "confirmed", Origin.LIVE)[0].payload
    death = notifications_for(
        alert(rule="death_cross", kind="death_cross", direction=-1), ["log"], "confirmed", Origin.LIVE
    )[0].payload
    assert golden["incident"] in death["resolves"]
    assert death["incident"] in golden["resolves"]
    gone = notifications_for(
        alert(rule="golden_cross", status=AlertStatus.RETRACTED), ["log"], "provisional", Origin.LIVE
    )[0].payload
    assert (gone["incident"], gone["resolves"]) == (None, [golden["incident"]])


def test_what_is_added_when_it_is_let_through() -> None:
    payload = notifications_for(alert(), ["log"], "confirmed", Origin.LIVE)[0].payload
    done = finished(payload, grade="B", late_s=0.44, link="https://tape.example.org/")
    assert done["url"] == "https://tape.example.org/#/alerts/a1"
    assert done["text"].endswith(
        " in New York. Data of grade B (no gap, more than 1 % late), 0.4 s after it was decided."
    )


def test_only_live_data_is_told_without_its_origin() -> None:
    texts = {origin: notifications_for(alert(), ["log"], "confirmed", origin)[0].payload["text"] for origin in Origin}
    assert texts[Origin.LIVE].startswith("AAPL golden cross")
    assert texts[Origin.REPLAYED].startswith("REPLAYED: AAPL")


def test_a_volume_alert_has_no_distance_from_a_line() -> None:
    surge = alert(kind="high_volume", direction=0, price=190.5, line=120_000.0)
    payload = notifications_for(surge, ["log"], "confirmed", Origin.LIVE)[0].payload
    assert (payload["direction"], payload["difference_bps"]) == (None, None)
    assert payload["text"].startswith("AAPL high volume confirmed: volume above 120,000 at a price of 190.5, ")


def test_a_death_cross_is_below() -> None:
    payload = notifications_for(
        alert(kind="death_cross", direction=-1, price=189.9), ["log"], "confirmed", Origin.LIVE
    )[0].payload
    assert payload["direction"] == "below"
    assert "189.9 is 5.3 bps below the average of 190" in payload["text"]


@given(price=st.floats(), line=st.floats(), direction=st.sampled_from([-1, 0, 1]))
def test_any_number_makes_a_message_that_is_plain_json(price: float, line: float, direction: int) -> None:
    odd = alert(price=price, line=line, direction=direction)
    made = notifications_for(odd, ["log"], "confirmed", Origin.LIVE)[0].payload
    assert msgspec.json.decode(msgspec.json.encode(made)) == made
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in made.values())
    assert "\n" not in made["text"]
