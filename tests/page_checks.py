"""What the page must do in a real browser, whatever is behind it: the fake market or the whole pipeline.

asyncio.run(check_page("http://127.0.0.1:8787/"))  raises AssertionError with what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 120_000
"""How long something that must come may take, on a busy machine too."""
SCENARIO_S = 280.0
"""How long a whole test of a page may take there."""
LOST_MS_MAX = 3_000
WATCH_MS = 200
"""How often the page looks whether the stream is silent."""


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """A test that awaits, to its end."""
    asyncio.run(asyncio.wait_for(scenario, SCENARIO_S))


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Debian's chromium, headless."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            await chromium.close()


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """The page, and the list that fills with whatever its console complains about."""
    async with browser() as chromium:
        page = await chromium.new_page(**{"viewport": {"width": 1440, "height": 900}} | options)
        page.set_default_timeout(PATIENCE_MS)
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        try:
            await page.goto(url)
            yield page, complaints
        except BaseException:
            print("The page's console:", complaints)
            raise


async def until(page: Page, condition: str, given: Any = None) -> None:
    """Wait for an expression to be true. (As a function: the page's security policy allows no strings as code.)"""
    await page.wait_for_function(f"given => ({condition})", arg=given)


async def drawn(page: Page) -> None:
    """Until all that the page knows is drawn: it draws in the frame after the news."""
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


async def check_page(
    url: str,
    cause_alert: Callable[[], object] | None = None,
    within_s: float = PATIENCE_MS / 1000,
    forgiven: str | None = None,
) -> None:
    """A price moves, the chart has points and grows with them, an alert comes without a reload, the console is clean.

    ``cause_alert`` makes an alert happen; without it one must happen by itself ``within_s``. A complaint that holds
    ``forgiven`` is none of the page.
    """
    async with opened(url) as (page, complaints):
        page.set_default_timeout(within_s * 1000)
        await until(page, "window.tapewatch?.connected && tapewatch.symbols.length > 0")
        await until(page, "tapewatch.bars > 0")
        symbol = (await page.evaluate("tapewatch.selected"))["symbol"]

        shown = await page.text_content("#price")
        await until(page, "document.querySelector('#price').textContent !== given", shown)
        assert await page.locator("#origin").text_content() in ("SIMULATED", "REPLAYED", "LIVE")
        assert await page.locator("#watch tr").count() == len(await page.evaluate("tapewatch.symbols"))
        assert await page.locator("#watch tr[aria-current]").count() == 1
        await until(page, "document.querySelectorAll('#chart canvas').length > 0")

        def states(alerts: list[dict[str, Any]]) -> list[list[str]]:
            return [[alert["alert_id"], alert["status"]] for alert in alerts]

        await until(page, "tapewatch.alertsLoaded")
        known = states(await page.evaluate("tapewatch.alerts"))
        if cause_alert is not None:
            cause_alert()
        news = "tapewatch.alerts.some(a => !given.some(k => k[0] === a.alert_id && k[1] === a.status))"
        await until(page, news, known)
        assert await page.locator("#alerts li").count() > 0

        for interval in ("5m", "1h", "1d", "1m"):
            await page.locator("#intervals button", has_text=interval).click()
            await until(page, "tapewatch.selected.interval === given && tapewatch.bars > 0", interval)
        await check_keyboard(page, symbol)
        await page.wait_for_selector("#banner", state="hidden")
        assert [one for one in complaints if forgiven is None or forgiven not in one] == []


async def check_keyboard(page: Page, symbol: str) -> None:
    """The watchlist can be used without a mouse."""
    if len(await page.evaluate("tapewatch.symbols")) < 2:
        return
    await page.locator("#watch tr[aria-current] button").focus()
    await page.keyboard.press("ArrowDown" if await page.evaluate("tapewatch.symbols[0]") == symbol else "ArrowUp")
    await until(page, "tapewatch.selected.symbol !== given", symbol)
    chosen = (await page.evaluate("tapewatch.selected"))["symbol"]
    await until(page, "document.querySelector('#symbol').textContent === given", chosen)
    assert await page.locator("#watch tr[aria-current]").inner_text() != ""
    assert await page.evaluate("document.activeElement.textContent") == chosen
