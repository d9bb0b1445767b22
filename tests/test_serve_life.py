"""Acknowledge, mute, channels, System Down and the test alert: what is answered, refused and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from serve_fake import FakeMarket
from store_rows import START, alert, changes, latest
from store_users import ask, run, writing
from tapewatch.errors import StoreUnavailable
from tapewatch.records import Origin
from tapewatch.serve import life
from tapewatch.serve.app import create_app
from tapewatch.serve.life import Life
from tapewatch.serve.stream import StreamHub
from tapewatch.store.connect import Dsn
from tapewatch.store.marks import Marks
from tapewatch.store.queries import Queries
from tapewatch.store.writer import StoreWriter

Scenario = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]
DOWN = """
    INSERT INTO system_alerts (system_id, rule, room, state, began_at, detail)
    VALUES ('s1', 'system_down', 'feed stocks', 'down', '2026-03-02 14:00Z', 'The stocks feed is stale.')"""
HEALTH = "INSERT INTO channel_health (channel, kind, failures, last_error) VALUES ('desk', 'slack', 2, 'answered 500')"


@pytest.fixture
def dsn(postgres: Dsn) -> Dsn:
    """A database with an alert, something that is down, and a channel."""
    StoreWriter(postgres.conninfo, "tests").initialise()
    with writing(postgres) as writer:
        writer.commit(changes(latest=[latest()], alerts=[alert()]), 0, 1)
    run(postgres, DOWN, HEALTH)
    return postgres


def served(dsn: Dsn, scenario: Scenario, *, is_writing: bool = True, **options: Any) -> Any:
    async def play() -> Any:
        queries, marks = Queries(dsn.conninfo), Marks(dsn.conninfo)
        market = FakeMarket([], minutes=0)
        made = Life(marks if is_writing else None, **options)
        app = create_app(queries, StreamHub(), market.status, origin=Origin.SIMULATED, life=made)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            try:
                return await scenario(client)
            finally:
                await marks.close()
                await queries.close()

    return asyncio.run(play())


def test_an_alert_is_acknowledged_and_that_is_taken_back(dsn: Dsn) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        path = "/api/v1/alerts/a1/acknowledgement"
        assert (await client.post(path, json={"by": "ann", "note": "sold"})).status_code == 204
        row = (await client.get("/api/v1/alerts/a1")).json()
        assert (row["acknowledged_by"], row["note"]) == ("ann", "sold")
        assert row["acknowledged_at"] is not None
        assert (await client.delete(path)).status_code == 204
        assert (await client.get("/api/v1/alerts/a1")).json()["acknowledged_at"] is None
        assert (await client.post(path)).status_code == 204  # no words are needed
        assert (await client.post("/api/v1/alerts/none/acknowledgement")).json()["detail"] == "There is no alert none."
        assert (await client.post("/api/v1/alerts/s1/acknowledgement")).status_code == 204
        (down,) = (await client.get("/api/v1/system-alerts")).json()
        assert (down["state"], down["acknowledged_by"]) == ("down", "api")
        TypeAdapter(life.SystemAlert).validate_python(down)

    served(dsn, scenario)


def test_mutes_are_made_listed_and_ended(dsn: Dsn) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/api/v1/mutes")).json() == []
        made = await client.post("/api/v1/mutes", json={"symbol": "tsla", "for": "1h", "note": "earnings"})
        (mute,) = TypeAdapter(list[life.Mute]).validate_json(made.text)
        assert (mute.symbol, mute.rule, mute.channel, mute.muted_by, mute.note) == (
            "TSLA", None, None, "api", "earnings",
        )  # fmt: skip
        assert len((await client.post("/api/v1/mutes", json={"all": True, "for": "15m"})).json()) == 2
        left = await client.delete(f"/api/v1/mutes/{mute.mute_id}")
        assert [m["symbol"] for m in left.json()] == [None]
        assert (await client.delete(f"/api/v1/mutes/{mute.mute_id}")).status_code == 404

    served(dsn, scenario)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"for": "1h"}, "Name a rule, a symbol or a channel"),
        ({"symbol": "TSLA"}, "for: field required"),
        ({"symbol": "TSLA", "for": "soon"}, "expected a duration such as 250ms"),
        ({"symbol": "TSLA", "for": "31d"}, "expected 1s to 30d"),
        ({"symbol": "'; DROP", "for": "1h"}, "symbol"),
        ({"symbol": "TSLA", "for": "1h", "why": "x"}, "why"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_words(dsn: Dsn, wish: dict[str, Any], words: str) -> None:
    answer = served(dsn, lambda client: client.post("/api/v1/mutes", json=wish))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_channels_tell_how_they_do(dsn: Dsn) -> None:
    (desk,) = TypeAdapter(list[life.Channel]).validate_json(
        served(dsn, lambda client: client.get("/api/v1/channels")).text
    )
    assert (desk.channel, desk.kind, desk.failures, desk.last_error, desk.waiting) == (
        "desk", "slack", 2, "answered 500", 0,
    )  # fmt: skip


def test_a_test_alert_is_sent_on_request(dsn: Dsn) -> None:
    async def test(channels: list[str] | None) -> str:
        if channels == ["nowhere"]:
            raise ValueError("There is no channel nowhere.")
        return "test-1"

    async def scenario(client: httpx.AsyncClient) -> None:
        path = "/api/v1/system-alerts/test"
        assert (await client.post(path)).json() == {"system_id": "test-1"}
        answer = await client.post(path, json={"channels": ["nowhere"]})
        assert (answer.status_code, answer.json()["detail"]) == (422, "There is no channel nowhere.")

    served(dsn, scenario, test=test)


def test_who_only_reads_says_so(dsn: Dsn) -> None:
    async def scenario(client: httpx.AsyncClient) -> list[int]:
        answers = [
            await client.post("/api/v1/alerts/a1/acknowledgement"),
            await client.post("/api/v1/mutes", json={"all": True, "for": "1h"}),
            await client.delete("/api/v1/mutes/abc"),
            await client.post("/api/v1/system-alerts/test"),
        ]
        return [answer.status_code for answer in answers]

    assert served(dsn, scenario, is_writing=False) == [409] * 4
    assert ask(dsn, "SELECT count(*) FROM alert_marks") == [(0,)]


def test_a_page_of_another_site_may_not_mute(dsn: Dsn) -> None:
    answer = served(
        dsn,
        lambda client: client.post(
            "/api/v1/mutes", json={"all": True, "for": "1h"}, headers={"Sec-Fetch-Site": "cross-site"}
        ),
    )
    assert answer.status_code == 403


def test_a_database_that_is_away_is_told() -> None:
    async def play() -> None:
        marks = Marks("host=127.0.0.1 port=1 dbname=none user=none")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await marks.mute(rule=None, symbol=None, channel=None, for_ms=START, by="", note="")

    asyncio.run(play())
