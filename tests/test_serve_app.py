"""The REST API over a fake store: answers, errors, bounds, and what every answer carries."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import TypeAdapter

from serve_fake import START_MS, FakeMarket, broken, calendar
from tapewatch.errors import StoreError
from tapewatch.records import Market, Origin
from tapewatch.serve import models
from tapewatch.serve.app import create_app
from tapewatch.serve.headers import SECURITY_HEADERS
from tapewatch.serve.health import HealthReport
from tapewatch.serve.queries import Queries
from tapewatch.serve.shapes import iso
from tapewatch.serve.stream import StreamHub
from tapewatch.settings import (
    ALERTS_ROWS_MAX,
    HISTORY_ROWS_MAX,
    REQUEST_BYTES_MAX,
    STORE_PATIENCE_S,
    STREAM_CLIENTS_MAX,
)

ANSWERS: dict[str, Any] = {
    "/api/v1/stocks": list[models.Stock],
    "/api/v1/stocks/AAPL/latest": models.Stock,
    "/api/v1/stocks/AAPL/history?limit=20": list[models.Bar],
    "/api/v1/stocks/AAPL/indicators": list[models.Indicators],
    "/api/v1/stocks/AAPL/quality": list[models.Quality],
    "/api/v1/overview": list[models.Overview],
    "/api/v1/alerts": list[models.Alert],
    "/api/v1/gaps": list[models.Gap],
    "/api/v1/notifications": list[models.Notification],
    "/api/v1/status": models.Status,
    "/api/v1/health": HealthReport,
    "/healthz": models.Health,
    "/readyz": models.Readiness,
}
PAGES = ["/", "/static/main.js", "/static/style.css", "/vendor/lightweight-charts.js", "/metrics", "/openapi.json"]
ERRORS = {
    ("GET", "/nothing"): 404,
    ("GET", "/static/nothing.js"): 404,
    ("GET", "/api/v1/stocks/ZZZ/latest"): 404,
    ("GET", "/api/v1/alerts/none"): 404,
    ("POST", "/api/v1/stocks"): 405,
    ("GET", "/api/v1/alerts?limit=0"): 422,
    ("DELETE", "/"): 405,
    ("POST", "/api/v1/session"): 422,
}

Scenario = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def grown() -> FakeMarket:
    return FakeMarket(["AAPL", "BTC"], minutes=90)


@pytest.fixture
def market(grown: FakeMarket) -> FakeMarket:
    """A market of one's own, to be changed."""
    return copy.deepcopy(grown)


class Behind:
    """What is behind the application: it takes longer to make one than to ask it."""

    queries: Any
    status: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queries, name)


@cache
def made(**options: Any) -> tuple[Behind, Any]:
    behind = Behind()
    return behind, create_app(
        cast(Queries, behind), StreamHub(), lambda: dict(behind.status()), origin=Origin.SIMULATED, **options
    )


def ask(market: FakeMarket, scenario: Scenario | str, status: Any = None, queries: Any = None, **options: Any) -> Any:
    """Run a scenario, or one GET, against the application without a network."""
    behind, app = made(**options)
    behind.queries, behind.status = queries or market, status or market.status
    return through(app, scenario)


@pytest.fixture
def shared(market: FakeMarket) -> Any:
    """The application over the market."""
    behind, app = made()
    behind.queries, behind.status = market, market.status
    return app


def through(app: Any, scenario: Scenario | str) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await (client.get(scenario) if isinstance(scenario, str) else scenario(client))

    return asyncio.run(run())


# --- answers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ANSWERS)
def test_answers_are_what_openapi_says(market: FakeMarket, path: str) -> None:
    answer = ask(market, path)
    assert answer.status_code == 200
    assert answer.json(), "an empty answer proves nothing"
    TypeAdapter(ANSWERS[path]).validate_python(answer.json(), strict=False)


def test_change_is_against_the_previous_close_and_else_the_open(market: FakeMarket) -> None:
    market.rows["BTC"]["previous_close"] = float("nan")
    aapl, btc = ask(market, "/api/v1/stocks").json()
    assert aapl["change_from"] == "previous_close"
    assert aapl["change"] == pytest.approx(aapl["price"] - aapl["previous_close"])
    assert aapl["change_percent"] == pytest.approx(100 * (aapl["price"] / aapl["previous_close"] - 1))
    assert btc["previous_close"] is None  # NaN has no word in JSON
    assert btc["change_from"] == "day_open"
    assert btc["change"] == pytest.approx(btc["price"] - btc["day_open"])


def test_history_is_newest_first_by_limit_and_oldest_first_in_order(market: FakeMarket) -> None:
    bars = ask(market, "/api/v1/stocks/aapl/history?limit=3").json()
    assert [b["time"] for b in bars] == [iso(START_MS - 2 * 60_000), iso(START_MS - 60_000), iso(START_MS)]
    assert {b["symbol"] for b in bars} == {"AAPL"}


@pytest.mark.parametrize("text", ["{ms}", "{iso}", "{naive}", "{offset}"])
def test_times_may_be_iso_or_unix_milliseconds(market: FakeMarket, text: str) -> None:
    from_ms = START_MS - 3 * 60_000
    zulu = iso(from_ms)
    value = text.format(ms=from_ms, iso=zulu, naive=zulu[:-1], offset=zulu.replace("Z", "+00:00"))

    async def scenario(client: httpx.AsyncClient) -> Any:
        return await client.get("/api/v1/stocks/AAPL/history", params={"from": value, "to": START_MS})

    assert len(ask(market, scenario).json()) == 3


def test_alerts_can_be_chosen(market: FakeMarket) -> None:
    market.alert_now(StreamHub(), "AAPL", "high_volume", "provisional")
    found = ask(market, "/api/v1/alerts?symbol=aapl&kind=high_volume&status=provisional").json()
    assert [(a["symbol"], a["kind"], a["status"]) for a in found] == [("AAPL", "high_volume", "provisional")]
    one = ask(market, f"/api/v1/alerts/{found[0]['alert_id']}").json()
    assert one["evidence"]["provisional"]["line"] == found[0]["line"]
    assert ask(market, "/api/v1/alerts?rule=no-such-rule").json() == []
    since = ask(market, f"/api/v1/alerts?from={found[0]['triggered_at']}").json()
    assert {a["triggered_at"] for a in since} == {found[0]["triggered_at"]}


def test_sessions_are_the_days_that_lie_in_the_time_asked_for(market: FakeMarket) -> None:
    hour, noon = 3_600_000, START_MS + 2 * 3_600_000
    day = {"day_open": -6, "regular_open": -0.5, "regular_close": 6, "day_close": 10}
    expected = [{name: iso(START_MS + int(hours * hour)) for name, hours in day.items()}]
    path = "/api/v1/sessions"
    days = dict(calendar())
    app = create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED, calendar=days)
    assert through(app, f"{path}?from={noon}&to={noon + 1}").json() == expected
    assert len(through(app, f"{path}?from={noon - 26 * hour}").json()) == 2
    assert len(through(app, path).json()) == 45
    assert through(app, f"{path}?market=crypto").json() == []
    assert through(app, f"{path}?market=futures").json() == []
    days[Market.FUTURES] = days[Market.STOCKS]
    assert len(through(app, f"{path}?market=futures").json()) == 45
    assert through(app, f"{path}?market=bonds").status_code == 422


def test_readiness_says_why_not(market: FakeMarket) -> None:
    answer = ask(market, "/readyz", status=lambda: broken(market))
    assert answer.status_code == 503
    assert [r.split(":")[0] for r in answer.json()["reasons"]] == [
        "The stocks feed is reconnecting",
        "The crypto feed is stale.",
        "The store is down",
    ]


def test_metrics_name_routes_not_addresses(market: FakeMarket) -> None:
    async def scenario(client: httpx.AsyncClient) -> str:
        await client.get("/api/v1/stocks/AAPL/latest")
        await client.get("/secret-path-of-a-scanner")
        return (await client.get("/metrics")).text

    text = ask(market, scenario)
    assert 'route="/api/v1/stocks/{symbol:path}/latest",status="200"' in text
    assert 'route="unmatched",status="404"' in text
    assert "scanner" not in text


# --- errors -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("request_line", "status"), ERRORS.items())
def test_errors_have_one_shape(shared: Any, request_line: tuple[str, str], status: int) -> None:
    answer = through(shared, lambda client: client.request(*request_line))
    assert answer.status_code == status
    body = models.ErrorBody.model_validate(answer.json())
    assert body.request_id == answer.headers["x-request-id"]
    assert body.detail[-1] in ".'" or ":" in body.detail


def test_errors_name_what_is_wrong(market: FakeMarket) -> None:
    assert "ZZZ" in ask(market, "/api/v1/stocks/ZZZ/latest").json()["detail"]
    assert ask(market, "/api/v1/stocks/AAPL/history?from=soon").json()["detail"] == (
        "query parameter from: expected a time such as 2026-11-20T14:30:00Z, or Unix milliseconds, got 'soon'"
    )
    late = ask(market, "/api/v1/stocks/AAPL/history?from=2026-11-21&to=2026-11-20")
    assert late.status_code == 422
    assert "later than" in late.json()["detail"]


@pytest.mark.parametrize(
    ("path", "limit_max"),
    [
        ("/api/v1/stocks/AAPL/history", HISTORY_ROWS_MAX),
        ("/api/v1/stocks/AAPL/indicators", HISTORY_ROWS_MAX),
        ("/api/v1/alerts", ALERTS_ROWS_MAX),
        ("/api/v1/gaps", ALERTS_ROWS_MAX),
        ("/api/v1/notifications", ALERTS_ROWS_MAX),
    ],
)
def test_every_list_has_a_bound(shared: Any, path: str, limit_max: int) -> None:
    assert through(shared, f"{path}?limit={limit_max}").status_code == 200
    assert through(shared, f"{path}?limit={limit_max + 1}").status_code == 422


@pytest.mark.parametrize(
    ("path", "way"),
    [(p, "down") for p in ANSWERS if p not in ("/healthz", "/api/v1/status", "/api/v1/health")]
    + [("/readyz", "hangs"), pytest.param("/api/v1/stocks", "hangs", marks=pytest.mark.slow)],
)
def test_a_lost_database_is_told_without_waiting_for_it(market: FakeMarket, path: str, way: str) -> None:
    setattr(market, way, True)
    answer = ask(market, path)
    assert answer.status_code == 503
    assert "database" in answer.text
    assert 2 * STORE_PATIENCE_S < 1.0  # patience with a query, and with the question whether it answers at all


def test_a_slow_query_may_finish_while_the_database_answers(market: FakeMarket) -> None:
    class Slow(FakeMarket):
        async def gaps(self, limit: int) -> list[dict[str, Any]]:
            await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=0.7)
            return await super().gaps(limit)

    assert ask(market, "/api/v1/gaps", queries=Slow(["AAPL"], minutes=5)).status_code == 200


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("password=hunter2"), 500), (StoreError("Too slow."), 503)])
def test_a_failure_is_told_without_its_details(
    market: FakeMarket, error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(FakeMarket):
        async def gaps(self, limit: int) -> list[dict[str, Any]]:
            raise error

    answer = ask(market, "/api/v1/gaps", queries=Failing(["AAPL"], minutes=5))
    assert answer.status_code == status
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text
    assert (answer.json()["request_id"] in capsys.readouterr().out) == (status == 500)


# --- what every answer carries --------------------------------------------------------------------------------------
@pytest.mark.parametrize("request_line", [*(("GET", p) for p in [*ANSWERS, *PAGES]), *ERRORS])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_answer_has_the_security_headers(shared: Any, request_line: tuple[str, str], scheme: str) -> None:
    method, path = request_line
    answer = through(shared, lambda client: client.request(method, f"{scheme}://localhost{path}"))
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert len(answer.headers["x-request-id"]) == 16
    assert ("strict-transport-security" in answer.headers) == (scheme == "https")
    is_file = answer.status_code == 200 and (path == "/" or path.startswith(("/static", "/vendor")))
    assert answer.headers["cache-control"] == ("no-cache" if is_file else "no-store")


def test_bodies_are_limited_whether_or_not_they_say_their_length(market: FakeMarket) -> None:
    body = b" " * (REQUEST_BYTES_MAX + 1)

    async def in_pieces() -> Any:
        for start in range(0, len(body), 4096):
            yield body[start : start + 4096]

    for content in (body, in_pieces()):

        async def scenario(client: httpx.AsyncClient, content: Any = content) -> Any:
            headers = {"content-type": "application/json"}
            return await client.post("/api/v1/session", content=content, headers=headers)

        answer = ask(market, scenario, api_token="t" * 32)
        assert answer.status_code == 413
        assert answer.json()["error"] == "too_large"


def test_openapi_knows_every_route_and_the_error_shape(market: FakeMarket) -> None:
    schema = ask(market, "/openapi.json").json()
    paths = {p.split("?")[0].replace("AAPL", "{symbol}") for p in ANSWERS} | {"/api/v1/stream", "/metrics"}
    assert paths <= set(schema["paths"])
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for code, answer in operation["responses"].items():
                if code[0] in "45" and path != "/readyz":
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody"), (path, code)
    assert ask(market, "/docs").status_code == 404


def test_the_reference_names_every_route_parameter_and_field(market: FakeMarket) -> None:
    text = (Path(__file__).parent.parent / "docs" / "api-reference.md").read_text()
    schema = ask(market, "/openapi.json").json()
    for path, operations in schema["paths"].items():
        assert path.replace(":path", "") in text, path
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                assert parameter["name"] in text, (path, parameter["name"])
    every = (
        models.Stock,
        models.Bar,
        models.Indicators,
        models.Overview,
        models.TradingDay,
        models.Alert,
        models.Quality,
    )
    for model in every:
        for name, field in model.model_fields.items():
            assert (field.alias or name) in text, (model, name)
    for number in (HISTORY_ROWS_MAX, ALERTS_ROWS_MAX, STREAM_CLIENTS_MAX):
        assert f"{number:,}" in text
