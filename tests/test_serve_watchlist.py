"""The watchlist's routes: what is answered, and what is refused and with which words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from serve_fake import FakeMarket
from tapewatch.errors import InputError, MachineError, SettingsError
from tapewatch.records import Origin
from tapewatch.serve import models
from tapewatch.serve.app import create_app
from tapewatch.serve.stream import StreamHub
from tapewatch.serve.watchlist import CHANGE_SYMBOLS_MAX
from tapewatch.settings import read_symbols

PATH = "/api/v1/watchlist"
TOKEN = "t" * 40
Scenario = Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]


class FakeWatched:
    """A watchlist in memory."""

    def __init__(self, *symbols: str) -> None:
        self.symbols = list(symbols)
        self.full = False

    def shown(self) -> dict[str, Any]:
        kinds = ("added", "removed", "waiting", "unconfirmed", "refused", "warming", "markets")
        return {"wanted": self.symbols, "effective": self.symbols, **{kind: [] for kind in kinds}}

    async def add(self, names: Sequence[str]) -> dict[str, Any]:
        if self.full:
            raise MachineError("watchlist.json cannot be written (No space left on device); the watchlist is as before")
        if "NOWHERE" in names:
            raise SettingsError("FEED=coinbase has coins only")
        try:
            self.symbols += read_symbols(names)
        except ValueError as error:
            raise InputError(f"symbols: {error}") from None
        return self.shown()

    async def remove(self, names: Sequence[str]) -> dict[str, Any]:
        if strange := [name for name in names if name not in self.symbols]:
            raise InputError(f"{strange[0]} is not watched")
        self.symbols = [symbol for symbol in self.symbols if symbol not in names]
        return self.shown()


class Current:
    """The watchlist of the test that runs: it takes longer to make an application than to ask it."""

    watched: FakeWatched

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)


@cache
def application(**options: Any) -> Any:
    market = FakeMarket([], minutes=0)
    return create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED, **options)


CURRENT = Current()


def with_watched(watched: FakeWatched | None, scenario: Scenario, **options: Any) -> Any:
    async def run() -> Any:
        if watched is not None:
            CURRENT.watched = watched
        app = application(watched=None if watched is None else CURRENT, **options)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await scenario(client)

    return asyncio.run(run())


def test_it_is_shown_and_changed() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        shown = TypeAdapter(models.Watchlist).validate_json((await client.get(PATH)).content)
        assert shown.wanted == ["AAPL"]
        answer = await client.post(PATH, json={"symbols": ["nvda", "ETH"]})
        assert (answer.status_code, answer.json()["wanted"]) == (200, ["AAPL", "NVDA", "ETH"])
        answer = await client.delete(PATH, params={"symbols": "AAPL,NVDA"})
        assert (answer.status_code, answer.json()["wanted"]) == (200, ["ETH"])

    with_watched(FakeWatched("AAPL"), scenario)


@pytest.mark.parametrize(
    ("method", "given", "status", "words"),
    [
        ("POST", {"json": {"symbols": ["A B"]}}, 422, "expected symbols"),
        ("POST", {"json": {"symbols": ["NOWHERE"]}}, 422, "coins only"),
        ("POST", {"json": {"symbols": []}}, 422, "at least 1"),
        ("POST", {"json": {"symbols": "AAPL"}}, 422, "list"),
        ("POST", {"json": {"names": ["AAPL"]}}, 422, "symbols"),
        ("POST", {"content": b"{"}, 422, ""),
        ("POST", {"json": {"symbols": ["A"] * (CHANGE_SYMBOLS_MAX + 1)}}, 422, f"At most {CHANGE_SYMBOLS_MAX}"),
        ("POST", {"json": {"symbols": ["A" * 70_000]}}, 413, ""),
        ("DELETE", {"params": {"symbols": "MSFT"}}, 422, "MSFT is not watched"),
        ("DELETE", {}, 422, "symbols"),
        ("PUT", {"json": {"symbols": ["AAPL"]}}, 405, ""),
    ],
)
def test_what_is_wrong_is_a_sentence(method: str, given: dict[str, Any], status: int, words: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(method, PATH, **given)

    watched = FakeWatched("AAPL")
    answer = with_watched(watched, scenario)
    body = TypeAdapter(models.ErrorBody).validate_json(answer.content)
    assert (answer.status_code, watched.symbols) == (status, ["AAPL"])
    assert words in body.detail


def test_what_cannot_be_kept_is_503() -> None:
    async def scenario(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, json={"symbols": ["NVDA"]})

    watched = FakeWatched("AAPL")
    watched.full = True
    answer = with_watched(watched, scenario)
    assert (answer.status_code, watched.symbols) == (503, ["AAPL"])
    assert "No space left" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_recordings_symbols_cannot_be_changed(method: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> httpx.Response:
        given = {"json": {"symbols": ["NVDA"]}} if method == "POST" else {"params": {"symbols": "NVDA"}}
        return await client.request(method, PATH, **given)

    answer = with_watched(None, scenario)
    assert answer.status_code == 409
    assert "given by the recording" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_only_those_who_may_change_it(headers: dict[str, str], status: int) -> None:
    async def scenario(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(PATH, json={"symbols": ["NVDA"]}, headers=headers)

    watched = FakeWatched("AAPL")
    assert with_watched(watched, scenario, api_token=TOKEN).status_code == status
    assert watched.symbols == (["AAPL", "NVDA"] if status == 200 else ["AAPL"])
