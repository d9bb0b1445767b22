"""Who may ask: the token, sessions, host names, other sites."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import httpx
import pytest

from serve_fake import FakeMarket
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.auth import LOOPBACK, Sessions, allowed_hosts
from tapewatch.serve.stream import StreamHub
from tapewatch.settings import SESSION_S

TOKEN = "a-token-of-forty-three-characters-as-made-by-secrets"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MARKET = FakeMarket(["AAPL"], minutes=5)
GUARDED = [
    "/api/v1/stocks",
    "/api/v1/stocks/AAPL/latest",
    "/api/v1/alerts",
    "/api/v1/status",
    "/api/v1/stream",
    "/api/v1/nothing",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/nothing",
]
OPEN = ["/healthz", "/", "/static/main.js", "/vendor/lightweight-charts.js"]


@cache
def app_with(token: str | None, hosts: frozenset[str] | None) -> Any:
    return create_app(MARKET, StreamHub(), MARKET.status, origin=Origin.SIMULATED, api_token=token, hosts=hosts)


def call(method: str, path: str, token: str | None = TOKEN, base: str = "http://localhost", **options: Any) -> Any:
    app = app_with(token, options.pop("hosts", LOOPBACK))

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": f"tapewatch={TOKEN}"},
        {"Cookie": "tapewatch=99999999999.00"},
        {"Cookie": "tapewatch=.; tapewatch="},
    ],
)
def test_without_the_token_nothing_is_shown(path: str, headers: dict[str, str]) -> None:
    answer = call("GET", path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"] == "not_authenticated"


@pytest.mark.parametrize("path", OPEN)
def test_the_page_and_the_health_check_need_no_token(path: str) -> None:
    assert call("GET", path).status_code == 200


def test_a_token_in_the_address_is_no_token() -> None:
    assert call("GET", f"/api/v1/stocks?token={TOKEN}&api_token={TOKEN}&access_token={TOKEN}").status_code == 401


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_browser_exchanges_the_token_for_a_cookie(scheme: str) -> None:
    base = f"{scheme}://localhost"
    signed_in = call("POST", "/api/v1/session", base=base, json={"token": TOKEN})
    assert signed_in.status_code == 204
    cookie = signed_in.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert ("Secure" in cookie) == cookie.startswith("__Host-") == (scheme == "https")
    header = {"Cookie": cookie.split(";")[0]}
    assert call("GET", "/api/v1/stocks", base=base, headers=header).status_code == 200
    assert call("GET", "/api/v1/stocks", token="another" * 6, base=base, headers=header).status_code == 401
    signed_out = call("DELETE", "/api/v1/session", base=base, headers=header)
    assert "Max-Age=0" in signed_out.headers["set-cookie"]


def test_a_wrong_token_makes_no_session_and_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call("POST", "/api/v1/session", json={"token": "wrong-but-not-logged"})
    logged = capsys.readouterr().out
    assert "sign-in" in logged
    assert "wrong-but" not in logged
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert call("POST", "/api/v1/session", token=None, json={"token": "x"}).status_code == 404


def test_a_session_ends() -> None:
    now = [1_000_000.0]
    sessions = Sessions(TOKEN, clock=lambda: now[0])
    cookie = sessions.cookie(secure=False).split(";")[0]
    assert sessions.accepts_cookie(cookie, secure=False)
    assert not sessions.accepts_cookie(cookie, secure=True), "a cookie made without https is not one of https"
    later = cookie.replace(str(1_000_000 + SESSION_S), str(2_000_000 + SESSION_S))
    assert later != cookie
    assert not sessions.accepts_cookie(later, secure=False)
    now[0] += SESSION_S
    assert not sessions.accepts_cookie(cookie, secure=False)


CROSS_SITE = [
    # method, headers, refused
    ("POST", {"Sec-Fetch-Site": "cross-site"}, True),
    ("POST", {"Sec-Fetch-Site": "same-site"}, True),
    ("POST", {"Sec-Fetch-Site": "same-origin"}, False),
    ("POST", {"Sec-Fetch-Site": "none"}, False),
    ("POST", {"Origin": "http://evil.example"}, True),
    ("POST", {"Origin": "null"}, True),
    ("POST", {"Origin": "http://localhost"}, False),
    ("POST", {"Origin": "http://localhost:81"}, True),
    ("POST", {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ("POST", {}, False),
    ("DELETE", {"Sec-Fetch-Site": "cross-site"}, True),
    ("PUT", {"Sec-Fetch-Site": "cross-site"}, True),
    ("GET", {"Sec-Fetch-Site": "cross-site"}, False),
    ("POST", {"Sec-Fetch-Site": "cross-site", **BEARER}, False),
]


@pytest.mark.parametrize(("method", "headers", "refused"), CROSS_SITE)
def test_other_sites_cannot_make_a_browser_act(method: str, headers: dict[str, str], refused: bool) -> None:
    answer = call(method, "/api/v1/session", headers=headers, json={"token": TOKEN})
    assert (answer.status_code == 403) == refused
    if refused:
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8787", True),
        ("127.0.0.1:8787", True),
        ("[::1]:8787", True),
        ("LOCALHOST.", True),
        ("tape.example.org", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("[", False),
        ("", False),
    ],
)
def test_on_loopback_only_this_machines_names_are_answered(host: str, allowed: bool) -> None:
    hosts = allowed_hosts("127.0.0.1", ["tape.example.org"])
    answer = call("GET", "/api/v1/stocks", token=None, headers={"Host": host}, hosts=hosts)
    assert answer.status_code == (200 if allowed else 400)
    if not allowed:
        assert answer.json()["error"] == "wrong_host"


def test_elsewhere_the_token_decides() -> None:
    assert allowed_hosts("0.0.0.0", []) is None
    assert call("GET", "/api/v1/stocks", headers={"Host": "any.example", **BEARER}, hosts=None).status_code == 200
    assert call("GET", "/api/v1/stocks", headers={"Host": "any.example"}, hosts=None).status_code == 401
