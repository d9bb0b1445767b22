"""The card of a day: every alert and message is counted where it belongs, and nothing of another day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from tapewatch.cli_report import card_lines
from tapewatch.errors import InputError, StoreMismatch
from tapewatch.profiles.report import Card, card_of, read_day_name
from tapewatch.profiles.rows import alerts_sha256
from tapewatch.records import AlertStatus, Origin
from tapewatch.store.connect import Dsn
from tapewatch.store.day_card import read_day
from tapewatch.store.reading import read_alerts

DAY = date(2026, 3, 2)
BELL = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)  # 09:30 in New York


class World:
    """Rows of a database, written one by one."""

    def __init__(self, dsn: Dsn) -> None:
        self.dsn = dsn
        self._symbol("AAPL", "stocks")
        self._symbol("BTC", "crypto")

    def sql(self, statement: str, values: dict[str, Any]) -> None:
        with psycopg.connect(self.dsn.conninfo, autocommit=True) as connection:
            connection.execute(statement, values)

    def _symbol(self, symbol: str, market: str) -> None:
        self.sql(
            "INSERT INTO latest_prices (symbol, market, side, trades, ineligible, late, future, unknown_conditions) "
            "VALUES (%(symbol)s, %(market)s, 0, 0, 0, 0, 0, 0)",
            {"symbol": symbol, "market": market},
        )

    def alert(self, alert_id: str, second: float = 0, **values: Any) -> None:
        at = BELL + timedelta(seconds=second)
        row = {
            "alert_id": alert_id, "rule": "golden_cross", "rule_version": "v1", "kind": "golden_cross",
            "symbol": "AAPL", "direction": 1, "status": "confirmed", "at": at, "decided": at + timedelta(seconds=62),
            "price": 190.5, "line": 190.0, "late": False, "stored": at + timedelta(milliseconds=150),
            "evidence": Jsonb({"provisional": {"passport": {"received_ns": int((at.timestamp() + 0.1) * 1e9)}}}),
        } | values  # fmt: skip
        self.sql(
            "INSERT INTO breakout_alerts (alert_id, rule, rule_version, kind, symbol, direction, status, pane_start, "
            "triggered_at, decided_at, price, line, late, log_offset, evidence, stored_at) VALUES (%(alert_id)s, "
            "%(rule)s, %(rule_version)s, %(kind)s, %(symbol)s, %(direction)s, %(status)s, date_trunc('minute', "
            "%(at)s::timestamptz), %(at)s, %(decided)s, %(price)s, %(line)s, %(late)s, 0, %(evidence)s, %(stored)s)",
            row,
        )

    def message(
        self, alert_id: str, state: str, event: str = "confirmed", channel: str = "slack", **values: Any
    ) -> None:
        created = values.pop("created", BELL + timedelta(minutes=2))
        took_s = values.pop("took_s", 0.25)
        row = {
            "id": f"{alert_id}:{channel}:{event}", "alert_id": alert_id, "channel": channel, "event": event,
            "state": state, "reason": None, "created": created,
            "delivered": created + timedelta(seconds=took_s) if state == "delivered" else None,
        } | values  # fmt: skip
        self.sql(
            "INSERT INTO notifications (id, alert_id, channel, event, payload, state, reason, created_at, "
            "delivered_at) VALUES (%(id)s, %(alert_id)s, %(channel)s, %(event)s, '{}', %(state)s, %(reason)s, "
            "%(created)s, %(delivered)s)",
            row,
        )

    def card(self, origin: Origin = Origin.LIVE, day: date = DAY) -> Card:
        return card_of(read_day(self.dsn.conninfo, day), day, origin)

    def lines(self, limit: int = 20, origin: Origin = Origin.LIVE) -> list[str]:
        return list(card_lines(self.card(origin), limit))


@pytest.fixture
def world(postgres: Dsn) -> World:
    return World(postgres)


def test_a_day_without_alerts(world: World) -> None:
    assert world.lines()[:2] == ["Monday, 2026-03-02. Data is LIVE.", "No alert fired."]


def test_a_database_without_tables(postgres: Dsn) -> None:
    with pytest.raises(StoreMismatch, match="run the pipeline on it first"):
        read_day(make_conninfo(postgres.conninfo, dbname="postgres"), DAY)


def test_alerts_are_counted_by_rule_and_state(world: World) -> None:
    world.alert("a1", 10)
    world.alert("a2", 700, status="retracted", rule_version="v2")
    world.alert("a3", 30, status="provisional", late=True)
    world.alert("a4", 5, rule="high_volume", kind="high_volume", direction=0)
    golden, volume = world.card().rules
    assert (golden.rule, golden.fired, golden.late, golden.versions) == ("golden_cross", 3, 1, {"v1", "v2"})
    assert golden.statuses == dict.fromkeys(AlertStatus, 1)
    assert (volume.rule, volume.fired) == ("high_volume", 1)
    assert (f"{golden.first:%H:%M:%S}", f"{golden.last:%H:%M:%S}") == ("09:30:10", "09:41:40")
    lines = world.lines()
    assert lines[2].split() == [
        "golden_cross",
        "3",
        "1",
        "1",
        "1",
        "1",
        *"000000",
        "09:30:10",
        "09:41:40",
        "in",
        "2",
        "versions",
    ]
    assert lines[3].split()[:6] == ["high_volume", "1", "1", "0", "0", "0"]


@pytest.mark.parametrize(
    ("states", "fate"),
    [
        (["delivered"], "delivered"),
        (["dead", "delivered"], "delivered"),
        (["folded", "waiting"], "folded"),
        (["new"], "waiting"),
        (["held", "dead"], "held"),
        (["muted", "dead"], "dead"),
        (["muted"], "muted"),
    ],
)
def test_an_alert_has_the_best_fate_of_its_messages(world: World, states: list[str], fate: str) -> None:
    world.alert("a1")
    for number, state in enumerate(states):
        world.message("a1", state, channel=f"c{number}")
    assert world.card().rules[0].fates == {fate: 1}


def test_the_log_tells_nobody_and_a_retraction_does_not_tell_of_an_alert(world: World) -> None:
    world.alert("a1")
    world.message("a1", "delivered", channel="log")
    world.message("a1", "delivered", event="retracted")
    card = world.card()
    assert card.rules[0].fates == {}
    assert [(c.channel, dict(c.states)) for c in card.channels] == [
        ("log", {"delivered": 1}),
        ("slack", {"delivered": 1}),
    ]


def test_channels_say_how_long_it_took_and_why_they_waited(world: World) -> None:
    for number in range(100):
        world.alert(f"a{number}", number)
        world.message(f"a{number}", "delivered", took_s=0.01 * (number + 1))
    world.alert("b1")
    world.message("b1", "delivered", took_s=500, reason="grade D")
    world.alert("b2")
    world.message("b2", "held", reason="quiet hours")
    world.alert("b3")
    world.message("b3", "muted", reason="muted by Ann until 2026-03-02 16:00 UTC")
    slack = world.card().channels[0]
    assert slack.states == {"delivered": 101, "held": 1, "muted": 1}
    assert slack.held_for == {"grade D": 1, "quiet hours": 1}
    assert str(slack.delivery) == "p50 0.505 s, p99 0.990 s, max 1.000 s", "what was held is not in it"
    lines = world.lines()
    assert "channel slack: 101 delivered, 1 held, 1 muted; were held or folded: 1 grade D, 1 quiet hours" in lines


def test_other_messages_are_counted_by_what_they_are(world: World) -> None:
    world.alert("a1")
    world.message("a1", "folded", reason="limit")
    world.message("digest-slack-1", "delivered", event="digest")
    world.message("held-slack-1", "delivered", event="held")
    world.message("digest-slack-2", "delivered", event="digest", created=BELL + timedelta(days=1))
    assert world.card().others == {"digest": 1, "held": 1}
    assert "other messages: 1 digest, 1 held" in world.lines()


def test_a_day_is_new_york_s_and_of_coins_that_of_utc(world: World) -> None:
    for hour in (-30, -12, -11, 12, 16):  # from the bell: 02:30 UTC of the 2nd is the evening of the 1st in New York
        world.alert(f"stock {hour}", hour * 3_600)
        world.alert(f"coin {hour}", hour * 3_600, symbol="BTC")
    world.alert("unknown", 60, symbol="GONE")
    found = {one.alert.alert_id for one in world.card().rows.alerts}
    assert found == {"stock 12", "coin -12", "coin -11", "unknown"}
    after = {one.alert.alert_id for one in world.card(day=date(2026, 3, 3)).rows.alerts}
    assert after == {"coin 12", "coin 16", "stock 16"}


def test_gaps_and_system_alerts_of_the_day(world: World) -> None:
    midnight = datetime(2026, 3, 2, 5, tzinfo=UTC)
    for market, start, seconds, state in (
        ("stocks", midnight - timedelta(seconds=30), 50, "filled"),
        ("stocks", BELL, 7, "open"),
        ("stocks", midnight - timedelta(hours=9), 60, "open"),
        ("crypto", midnight - timedelta(hours=3), 100, "partial"),
    ):
        world.sql(
            "INSERT INTO feed_gaps (market, gap_from, gap_to, cause, symbols, log_position, state) "
            "VALUES (%(market)s, %(from)s, %(to)s, 'cut', '{}', 0, %(state)s)",
            {"market": market, "from": start, "to": start + timedelta(seconds=seconds), "state": state},
        )
    world.sql(
        "INSERT INTO system_alerts (system_id, rule, room, state, began_at, recovered_at, detail) "
        "VALUES ('s1', 'system_down', 'feed', 'recovered', %(from)s, %(to)s, 'no trades for 60 s')",
        {"from": BELL, "to": BELL + timedelta(seconds=42)},
    )
    lines = world.lines()
    assert "gaps in the data: 3, 127 s together; 2 of them not filled" in lines
    assert "system: feed recovered, 2026-03-02 14:30:00 until 14:30:42 UTC: no trades for 60 s" in lines


def test_how_long_the_way_took_and_not_in_a_replay(world: World) -> None:
    world.alert("a1")
    world.alert("a2", 5, late=True)
    world.alert("a3", 5, evidence=Jsonb({}))
    card = world.card()
    assert card.receipt.seconds == pytest.approx([0.1], abs=1e-3)
    assert card.storing.seconds == pytest.approx([0.05], abs=1e-3)
    assert world.card(Origin.REPLAYED).receipt.seconds == []


def test_its_hash_is_that_of_its_alerts(world: World, postgres: Dsn) -> None:
    world.alert("a1")
    world.alert("a2", 90, status="retracted", line=float("nan"))
    assert world.card().sha256 == alerts_sha256(read_alerts(postgres.conninfo))
    assert f"alerts sha256 {world.card().sha256}" in world.lines()


def test_the_newest_alerts_by_name(world: World) -> None:
    world.alert("a1", 1)
    world.alert("a2", 61.25, status="provisional", late=True)
    world.message("a1", "delivered", took_s=1)
    world.message("a1", "dead", channel="email", reason="the server refused it")
    world.message("a1", "delivered", channel="log")
    lines = world.lines()
    assert lines[-2].split() == [
        "09:30:01.000", "AAPL", "golden_cross", "190.5", "confirmed", "09:31:03;", "email", "confirmed:", "dead",
        "(the", "server", "refused", "it);", "slack", "confirmed:", "delivered", "09:32:01",
    ]  # fmt: skip
    assert lines[-1].split() == [
        "09:31:01.250", "AAPL", "golden_cross", "190.5", "provisional,", "history", "when", "it", "came",
    ]  # fmt: skip
    assert world.lines(limit=1)[-2] == "The newest 1 of 2 alerts (--limit):"
    assert world.lines(limit=0)[-1].startswith("alerts sha256")


def test_a_day_by_name() -> None:
    today = date(2026, 3, 2)
    named = ("today", "yesterday", "2026-02-27", "2026-03-03")
    assert [read_day_name(text, today).day for text in named] == [2, 1, 27, 3]
    for text in ("2026-13-01", "tomorrow", "", "2026-03-04"):
        with pytest.raises(InputError):
            read_day_name(text, today)
