"""The page's files: how they are sent, and that they keep the rules the content security policy relies on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

import tapewatch.serve
from serve_fake import FakeMarket
from tapewatch.errors import MachineError
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.pages import chart_library
from tapewatch.serve.stream import StreamHub

WEB = Path(tapewatch.serve.__file__).parent / "web"
MARKET = FakeMarket([], minutes=0)
APP = create_app(MARKET, StreamHub(), MARKET.status, origin=Origin.SIMULATED)
SCRIPTS = sorted(WEB.glob("*.js"))


def get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(run())


def test_files_are_compressed_and_revalidated() -> None:
    packed = get("/vendor/lightweight-charts.js", **{"Accept-Encoding": "gzip"})
    plain = get("/vendor/lightweight-charts.js", **{"Accept-Encoding": "identity"})
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    assert packed.headers["content-type"] == "text/javascript; charset=utf-8"
    again = get("/vendor/lightweight-charts.js", **{"If-None-Match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get("/", method="HEAD").content == b""


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/index.html", "/vendor/x.js"])
def test_only_the_pages_own_files_are_served(path: str) -> None:
    assert get(path).status_code == 404


def test_a_missing_chart_library_stops_the_start() -> None:
    assert chart_library().is_file()
    with pytest.raises(MachineError, match=r"requirements/web\.lock"):
        chart_library("no_such_package")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_only_goes_in_as_text(script: Path) -> None:
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"style"
    assert not re.search(banned, script.read_text())


def test_the_page_holds_no_inline_script_or_style() -> None:
    html = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"(src|href)=\"(?!/|https://www\.tradingview\.com/)", html), (
        "everything comes from this server"
    )


def test_every_file_the_page_names_exists() -> None:
    named = re.findall(r"(?:src|href)=\"(/[^\"]+)\"", (WEB / "index.html").read_text())
    named += [f"/static/{name}" for s in SCRIPTS for name in re.findall(r"from \"\./([^\"]+)\"", s.read_text())]
    assert len(named) > 10
    for path in set(named):
        assert get(path).status_code == 200, path


def test_every_module_of_the_first_view_is_asked_for_at_once() -> None:
    """Without that a browser learns of each only from the one that imports it: a chain of questions."""
    wanted, found = ["main.js"], set[str]()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += re.findall(r'^(?:import|export) .*?from "\./([\w.]+)";', (WEB / name).read_text(), re.MULTILINE)
    listed = re.findall(r'rel="modulepreload" href="/static/([\w.]+)"', (WEB / "index.html").read_text())
    assert sorted(listed) == sorted(found - {"main.js"})
