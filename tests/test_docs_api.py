"""docs/api-reference.md is what the API answers: its examples are asked, its routes and fields are those there are.

An example is an indented block: `GET` and an address in its first line, the answer's JSON below. `"…"` at the end of a
list stands for the rest of it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from serve_fake import FakeMarket, calendar
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.stream import StreamHub
from test_serve_app import through

PAGE = (Path(__file__).parent.parent / "docs" / "api-reference.md").read_text(encoding="utf-8")
BLOCKS = [re.sub(r"(?m)^ {4}", "", block) for block in re.findall(r"(?m)(?:^ {4}.*\n)+", PAGE)]
EXAMPLES = dict(block.split("\n", 1) for block in BLOCKS if block.startswith("GET "))
WORDS = set(re.findall(r"\w+", re.sub(r"(?m)^ {4}.*\n", "", PAGE)))
WITHIN = 1e-9
"""Relative; the fake's numbers are the same on every machine but for their last bits."""


@cache
def application() -> Any:
    market = FakeMarket(["AAPL", "BTC"], minutes=90)
    return create_app(
        market, StreamHub(), market.status, origin=Origin.SIMULATED, calendar=calendar(), explain=market.explain
    )


def answer(path: str) -> Any:
    """The answer of the fake market that the page's examples were taken from."""
    return through(application(), path)


def difference(page: Any, answered: Any, at: str = "answer") -> str | None:
    """Where an answer is not what the page says, or None."""
    if isinstance(page, dict) and isinstance(answered, dict):
        if page.keys() != answered.keys():
            return f"{at} has other fields: {sorted(page.keys() ^ answered.keys())}"
        pairs = [(name, page[name], answered[name]) for name in page if name != "request_id"]
    elif isinstance(page, list) and isinstance(answered, list):
        is_cut = page[-1:] == ["…"]
        shown = page[:-1] if is_cut else page
        if len(answered) != len(shown) and not (is_cut and len(answered) > len(shown)):
            return f"{at} has {len(answered)} entries"
        pairs = [(str(i), mine, answered[i]) for i, mine in enumerate(shown)]
    elif isinstance(page, float) and isinstance(answered, float):
        return None if answered == pytest.approx(page, rel=WITHIN) else f"{at} is {answered}, the page says {page}"
    else:
        same = type(page) is type(answered) and page == answered
        return None if same else f"{at} is {answered!r}, the page says {page!r}"
    found = (difference(mine, theirs, f"{at}.{name}") for name, mine, theirs in pairs)
    return next((text for text in found if text), None)


def test_the_page_has_an_example_of_each_kind_of_answer() -> None:
    assert len(EXAMPLES) >= 9
    assert any("error" in text for text in EXAMPLES.values())


@pytest.mark.parametrize("request_line", EXAMPLES)
def test_an_example_is_answered_as_the_page_says(request_line: str) -> None:
    answered = answer(request_line.removeprefix("GET "))
    page = json.loads(EXAMPLES[request_line].replace("\n", " "))
    assert difference(page, answered.json()) is None, f"the answer is now:\n{answered.text}"


@pytest.mark.parametrize("request_line", EXAMPLES)
def test_every_field_of_an_example_is_explained(request_line: str) -> None:
    page = json.loads(EXAMPLES[request_line].replace("\n", " "))
    row = page[0] if isinstance(page, list) else page
    assert sorted(set(row) - WORDS) == []


def test_every_curl_asks_for_something_there_is() -> None:
    addresses = re.findall(r"http://127\.0\.0\.1:8787(/[^\s']*)", PAGE)
    assert len(addresses) >= 4
    for path in addresses:
        if path.endswith("/stream"):  # never ends: the tests of the stream read it
            assert path in answer("/openapi.json").json()["paths"]
        else:
            assert answer(path).status_code == 200, path


def test_every_route_is_on_the_page() -> None:
    missing = []
    for path, methods in answer("/openapi.json").json()["paths"].items():
        missing += [f"{m.upper()} {path}" for m in methods if not re.search(f"{m.upper()} {re.escape(path)}[?`]", PAGE)]
    assert missing == []


@pytest.mark.parametrize(
    ("page", "where"),
    [
        ([{"price": 1.0}], "answer.0.price is 2.0"),
        ([{"cost": 2.0}], "answer.0 has other fields"),
        ([], "answer has 1 entries"),
        ([{"price": 2.0}, {"price": 2.0}, "…"], "answer has 1 entries"),
        ([{"price": None}], "answer.0.price is 2.0"),
    ],
)
def test_a_stale_example_would_be_noticed(page: Any, where: str) -> None:
    assert (difference(page, [{"price": 2.0}]) or "").startswith(where)
    assert difference([{"price": 2.0}], [{"price": 2.0}]) is None
