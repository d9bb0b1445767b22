"""The Technical view in Debian's chromium: what it shows is what the API says, newest and older, live, or explained."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from playwright.async_api import Page

from page_checks import PATIENCE_MS, SCENARIO_S, drawn, opened, run, until
from serve_fake import FakeMarket, many_symbols, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]

PROBE = "tapewatch.probe('technical')"
PANES = ["Price", "RSI 14", "MACD 12 26 9", "ATR 14", "Relative volume"]


async def newest(url: str, symbol: str) -> dict[str, Any]:
    """The newest indicators of the API."""

    def get() -> Any:
        address = f"{url}api/v1/stocks/{symbol}/indicators?limit=1"
        with urllib.request.urlopen(address, timeout=PATIENCE_MS / 1000) as response:
            return json.load(response)[0]

    row: dict[str, Any] = await asyncio.to_thread(get)
    return row


async def shows(page: Page, row: dict[str, Any]) -> None:
    """The page's newest row is this one, number for number, and so are its words."""
    await until(page, f"Object.entries(given).every(([name, value]) => {PROBE}?.newest?.[name] === value)", row)
    await until(page, "document.querySelector('.tiles dd').textContent.startsWith(given)", f"{row['rsi_14']:.1f} ")
    await drawn(page)
    legends = await page.locator("#view-technical .pane-legend").all_inner_texts()
    assert [legend.split("   ")[0] for legend in legends] == PANES
    assert legends[0].split("   ")[1:4] == [
        f"Upper {row['bollinger_upper']:,.2f}",
        f"Mean of 20 {row['bollinger_middle']:,.2f}",
        f"Lower {row['bollinger_lower']:,.2f}",
    ]
    assert legends[1].endswith(f"RSI {row['rsi_14']:.1f}")
    assert f"MACD {row['macd']:+.4f}".replace("-", "\u2212") in legends[2].replace("-", "\u2212")
    assert legends[3].endswith(f"ATR {row['atr_14']:.4f}")
    assert legends[4].endswith(f"times usual {row['relative_volume']:.2f}×")


def test_values_are_the_apis_and_stay_so_while_bars_change() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(5))
        async with running(market) as (server, hub), opened(f"{server.url}#/technical/AAPL") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {PROBE}?.rows === 390")
            await shows(page, await newest(server.url, "AAPL"))
            assert await page.locator("#view-technical canvas").count() >= 2 * len(PANES)
            market.step(hub, 1_000)
            await shows(page, await newest(server.url, "AAPL"))
            market.step(hub, 61_000)
            await until(page, f"{PROBE}.rows === 391")
            await shows(page, await newest(server.url, "AAPL"))
            await page.keyboard.press("1")  # What happens while another view is shown is there afterwards.
            await until(page, "tapewatch.view === 'overview'")
            for _ in range(5):
                market.step(hub, 61_000)
            await page.keyboard.press("2")
            await until(page, f"{PROBE}.rows === 396")
            await shows(page, await newest(server.url, "AAPL"))
            await page.locator("#view-technical select").select_option("TSLA")
            await until(page, f"{PROBE}.symbol === 'TSLA' && {PROBE}.rows > 0 && location.hash === '#/technical/TSLA'")
            await shows(page, await newest(server.url, "TSLA"))
            assert complaints == []

    run(scenario())


def test_older_bars_come_by_themselves_until_there_are_none() -> None:
    async def scenario() -> None:
        market = FakeMarket(["AAPL"], minutes=2_300)
        async with running(market) as (server, _), opened(f"{server.url}#/technical/AAPL") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {PROBE}?.rows === 1000")
            box = await page.locator("#view-technical .chart").bounding_box()
            assert box is not None
            await page.mouse.move(box["x"] + 300, box["y"] + 100)
            for rows in (2_000, 2_300):
                while await page.evaluate(f"{PROBE}.rows") < rows:
                    await page.mouse.wheel(-400, 0)
            await until(page, f"{PROBE}.isAtStart && {PROBE}.rows === 2300")
            assert complaints == []

    run(scenario())


def test_what_is_not_there_is_explained() -> None:
    async def scenario() -> None:
        market = FakeMarket(["AAPL"], minutes=12)
        async with running(market) as (server, hub), opened(f"{server.url}#/technical/AAPL") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {PROBE}?.rows === 12")
            await page.locator(".pane-legend", has_text="MACD needs 26 bars, has 12").wait_for()
            market.step(hub, 61_000)
            await page.locator(".pane-legend", has_text="RSI needs 15 bars, has 13").wait_for()
            assert complaints == []
            market.down = True
            await page.reload()
            await page.locator("#view-technical .empty", has_text="does not answer").wait_for()
            market.down = False
            market.step(hub, 1_000)
            await until(page, f"{PROBE}?.rows === 13")
            await page.locator("#view-technical .empty").wait_for(state="hidden")

    run(scenario())
