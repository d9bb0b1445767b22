"""The rules' routes: what is answered, and what is refused and with which words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from serve_fake import FakeMarket
from tapewatch.profiles.rulebook import Rulebook
from tapewatch.records import Origin
from tapewatch.rules.model import LevelRule
from tapewatch.serve.app import create_app
from tapewatch.serve.rules import Rules
from tapewatch.serve.stream import StreamHub
from tapewatch.settings import Settings

PATH = "/api/v1/rules"
APPLE = {"rule": "apple", "kind": "level", "level": 200, "symbols": ["AAPL"]}


@pytest.fixture
def book(tmp_path: Path) -> Rulebook:
    return Rulebook(Settings(_env_file=None, alerts_file=tmp_path / "alerts.toml", data_dir=tmp_path))


def ask(book: Rulebook | None, method: str, path: str = PATH, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        market = FakeMarket([], minutes=0)
        app = create_app(market, StreamHub(), market.status, origin=Origin.SIMULATED, ruled=book)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={"Sec-Fetch-Site": "same-origin"}, **options)

    return asyncio.run(run())


def sentence(answer: httpx.Response) -> str:
    return str(answer.json()["detail"])


def test_the_rules_are_shown_added_changed_and_removed(book: Rulebook) -> None:
    shown = ask(book, "GET").json()
    TypeAdapter(Rules).validate_python(shown)
    assert [rule["rule"] for rule in shown["rules"]] == ["golden_cross", "death_cross", "high_volume", "system_down"]
    assert (shown["changed_by"], shown["problem"]) == ("start", None)
    added = ask(book, "POST", json=APPLE)
    assert added.status_code == 200
    TypeAdapter(Rules).validate_python(added.json())
    assert added.json()["rules"][-1]["keys"] == {"kind": "level", "level": 200.0, "symbols": ["AAPL"]}
    assert ask(book, "POST", json={"rule": "apple", "level": 210, "cooldown": "1h"}).status_code == 200
    assert book.rules["apple"] == LevelRule(level=210.0, symbols=("AAPL",), cooldown_ms=3_600_000)
    assert ask(book, "POST", json={"rule": "apple", "cooldown": None}).status_code == 200
    assert book.rules["apple"] == LevelRule(level=210.0, symbols=("AAPL",))
    assert ask(book, "POST", json={"rule": "golden_cross", "enabled": False}).status_code == 200
    assert not book.rules.golden_cross.enabled
    assert len(ask(book, "DELETE", f"{PATH}?rule=apple").json()["rules"]) == 4
    assert ask(book, "DELETE", f"{PATH}?rule=golden_cross").status_code == 200
    assert book.rules.golden_cross.enabled


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"rule": "mine"}, "kind is missing: expected one of cross, "),
        (APPLE | {"level": "high"}, "level = 'high': expected a number from"),
        (APPLE | {"colour": 5}, "has no colour; expected one of "),
        ({"rule": "golden_cross", "kind": "level"}, "this rule is always a cross rule"),
        ({"rule": "x" * 61}, "rule: "),
        ({"kind": "level"}, "rule: "),
    ],
)
def test_what_is_no_rule_is_told_in_a_sentence(book: Rulebook, body: dict[str, Any], words: str) -> None:
    answer = ask(book, "POST", json=body)
    assert answer.status_code == 422
    assert words in sentence(answer)
    assert len(book.rules) == 4


def test_a_rule_that_is_not_there_is_not_removed(book: Rulebook) -> None:
    answer = ask(book, "DELETE", f"{PATH}?rule=pear")
    assert (answer.status_code, "there is no rule pear; expected one of " in sentence(answer)) == (422, True)


def test_a_change_that_cannot_be_kept_says_so(book: Rulebook, tmp_path: Path) -> None:
    (tmp_path / ".alerts.toml.part").mkdir()
    answer = ask(book, "POST", json=APPLE)
    assert (answer.status_code, "the rules are as before" in sentence(answer)) == (503, True)


def test_where_nobody_has_the_rules_every_route_says_so() -> None:
    for method, path in (("GET", PATH), ("DELETE", f"{PATH}?rule=x")):
        assert ask(None, method, path).status_code == 409
    assert ask(None, "POST", json=APPLE).status_code == 409


def test_a_mistake_in_the_file_is_shown(book: Rulebook, tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text("[golden_cross]\nband_bps = -1\n")
    book.look()
    assert "line 2: [golden_cross] band_bps = -1" in ask(book, "GET").json()["problem"]
    answer = ask(book, "POST", json=APPLE)
    assert (answer.status_code, "band_bps = -1" in sentence(answer)) == (422, True)
