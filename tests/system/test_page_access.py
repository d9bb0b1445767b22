"""Every view for everybody: axe-core in light and dark, the keyboard alone, a phone's width, and 500 symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.async_api import Page

from page_checks import SCENARIO_S, opened, run, until
from serve_fake import FakeMarket, Moving, many_symbols, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
SERIOUS = ("serious", "critical")
HOUR_MS = 3_600_000
VIEWS = {
    "#/overview/AAPL/1m": "tapewatch.bars > 0 && tapewatch.alertsLoaded",
    "#/technical/AAPL": "tapewatch.probe('technical')?.rows > 0",
    "#/health": "tapewatch.probe('health')?.report",
    "#/alerts": "tapewatch.probe('alerts')?.isLoaded && document.querySelector('.life-line button')",
    "#/explain/AAPL/2026-11-20T09:42": "document.querySelector('.answer:not([aria-busy]) .rule-card')",
}
"""Each address, and when what it shows is there."""

FINDINGS = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const told = (nodes) => nodes.slice(0, 3).map((node) => [node.target.join(" "), node.failureSummary]);
  return violations.map(({ impact, id, nodes }) => [impact, id, told(nodes)]);
}"""
WIDER = """() => {
  const inside = (node) => {
    for (let box = node.parentElement; box; box = box.parentElement) {
      if (box !== document.body && /auto|scroll|hidden|clip/.test(getComputedStyle(box).overflowX)) return true;
    }
    return false;
  };
  const wide = [...document.querySelectorAll("body *")].filter((node) => {
    const { width, right } = node.getBoundingClientRect();
    return width > 0 && right > innerWidth + 0.5 && !inside(node);
  });
  return [document.documentElement.scrollWidth, wide.map((node) => node.id || node.className || node.tagName)];
}"""


async def go(page: Page, address: str, is_there: str) -> None:
    await page.evaluate("address => { location.hash = address }", address)
    await until(page, is_there)


async def findings(page: Page) -> list[Any]:
    """What axe-core calls serious or critical. It is put in by the browser itself, past the page's policy.

    What is said of a page that has lost its server does not count: it is faded on purpose.
    """
    await page.evaluate(AXE)
    while True:
        await until(page, "window.tapewatch.connected")
        found = await page.evaluate(FINDINGS)
        if await page.evaluate("tapewatch.connected"):
            return [one for one in found if one[0] in SERIOUS]


def test_axe_finds_nothing_serious_in_any_view_in_light_or_dark() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(5))
        for name, failures, dead in (("phone", 0, 0), ("desk", 1, 0), ("on-call", 4, 2)):
            market.life.channel(name, "slack", failures, dead=dead, waiting=failures)
        market.life.down("store", "The database does not answer.")
        await market.life.mute(rule=None, symbol="TSLA", channel="desk", for_ms=HOUR_MS, by="ann", note="earnings")
        async with running(market) as (server, _), opened(server.url) as (page, complaints):
            await until(page, "window.tapewatch?.connected")
            found = {}
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
                for address, is_there in VIEWS.items():
                    await go(page, address, is_there)
                    if serious := await findings(page):
                        found[f"{address}, {scheme}"] = serious
            assert found == {}
            assert complaints == []
            await page.evaluate("document.querySelector('#view-alerts').append(document.createElement('input'))")
            assert [rule for _, rule, _ in await findings(page)] == ["label"], "the check notices an input without name"

    run(scenario())


def test_every_view_can_be_used_with_the_keyboard_alone() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(5))
        async with running(market) as (server, _), opened(server.url) as (page, complaints):
            await until(page, "window.tapewatch?.connected && tapewatch.bars > 0")
            for key, view in (("2", "technical"), ("3", "health"), ("4", "alerts"), ("1", "overview")):
                await page.keyboard.press(key)
                await until(page, "tapewatch.view === given", view)
                await until(
                    page,
                    "document.querySelector('#views [aria-current=page]').textContent.toLowerCase() === given",
                    view,
                )
            await page.keyboard.press("/")
            await page.keyboard.type("TS2")
            assert await page.evaluate("tapewatch.view") == "overview", "a digit that is typed switches no view"
            await page.keyboard.press("Escape")
            await page.keyboard.press("2")
            await until(page, VIEWS["#/technical/AAPL"])
            await tab_to(page, "#view-technical select")
            before = await page.evaluate("tapewatch.probe('technical').symbol")
            await page.keyboard.press("ArrowDown")
            await until(page, "tapewatch.probe('technical').symbol !== given", before)
            await page.evaluate("document.activeElement.blur()")
            await page.keyboard.press("4")
            await until(page, VIEWS["#/alerts"])
            await tab_to(page, "#view-alerts tbody .pick")
            await page.keyboard.press("Enter")
            await page.wait_for_selector(".alert-side .passport")
            assert complaints == []

    run(scenario())


async def tab_to(page: Page, selector: str) -> None:
    """Tab until an element of ``selector`` has the focus, and see that a ring shows it."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            ring = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", f"{selector} does not show that it has the focus"
            return
    raise AssertionError(f"{selector} is not reached with the Tab key")


def test_nothing_is_wider_than_a_phone() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(5))
        small = {"viewport": {"width": 390, "height": 844}}
        async with running(market) as (server, _), opened(server.url, **small) as (page, complaints):
            await until(page, "window.tapewatch?.connected")
            for address, is_there in VIEWS.items():
                await go(page, address, is_there)
                assert await page.evaluate(WIDER) == [390, []], address
                links = await page.locator("#views a").all()
                boxes = [box for link in links if (box := await link.bounding_box())]
                assert len(boxes) == 4, address
                assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes), address
            assert complaints == []

    run(scenario())


def test_five_hundred_symbols_move_in_every_view() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(500), minutes=40)
        async with running(market) as (server, hub), opened(server.url) as (page, complaints):
            with Moving(market, hub, share=0.2):
                await until(page, "window.tapewatch?.connected && tapewatch.symbols.length === 500")
                for address, is_there in VIEWS.items():
                    await go(page, address, is_there)
                    before = await page.evaluate("tapewatch.priceEvents")
                    await until(page, "tapewatch.priceEvents > given + 5", before)
                assert await page.locator("#view-technical option").count() == 500
            assert complaints == []

    run(scenario())
