"""The Health view in a real browser, over a made-up pipeline: it shows what the API says, also when that is bad."""

from __future__ import annotations

import time
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from playwright.async_api import Page

from page_checks import SCENARIO_S, opened, run, until
from serve_fake import FakeMarket, Row, broken, many_symbols, running
from tapewatch.metrics import RECENT
from tapewatch.serve.health import Pulse
from tapewatch.serve.shapes import iso

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]
SHOWN = "tapewatch.probe('health')?.report"
HOUR = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Pipeline(FakeMarket):
    """The fake market with an hour behind it, gaps in its day, and troubles to switch on."""

    def __init__(self, symbols: int = 5, minutes: int = 10) -> None:
        super().__init__(many_symbols(symbols), minutes=minutes, now_ms=now_ms())
        self.is_broken = False
        self.began_ms = now_ms()
        self.pulse = Pulse(lambda: now_ms() - 20 * HOUR)
        for i in range(720):
            rate = None if 300 < i < 320 else 20.0 + i % 37
            step = {"trades_per_second": rate, "lag_ms": 9.0 + i % 5, "queue_bytes": 40_000 if 300 < i < 320 else 1_200}
            self.pulse.note(step, now_ms() - 5_000 * (720 - i))
        for i in range(200):
            RECENT.note("commit", 0.004 + 0.00001 * i)
            RECENT.note("query history", 0.002 + 0.0001 * (i % 9))

    async def gaps(self, limit: int) -> list[Row]:
        await self.ping()
        gap = {"cause": "disconnected", "symbols": [], "backfilled": False, "log_position": 12}
        at = self.began_ms
        return [
            gap | {"market": "stocks", "gap_from": iso(at - 2 * HOUR), "gap_to": iso(at - 2 * HOUR + 1_300_000)},
            gap
            | {"market": "crypto", "gap_from": iso(at - 9 * HOUR), "gap_to": iso(at - 8 * HOUR), "backfilled": True},
        ]

    def status(self) -> Row:
        return super().status() if not self.is_broken else broken_status(self)


def broken_status(market: Pipeline) -> Row:
    """The fake's own troubles, without asking this class again."""
    market.is_broken = False
    try:
        return broken(market)
    finally:
        market.is_broken = True


async def looked_at(page: Page) -> dict[str, Any]:
    """The report that is drawn just now."""
    report: dict[str, Any] = await page.evaluate(SHOWN)
    return report


async def text(page: Page, selector: str) -> str:
    return (await page.locator(selector).inner_text()).replace("\n", " ")


def milliseconds(value: float) -> str:
    """As people read it, with places only where they say something; halves go up, as in the browser."""
    places = "0.01" if value < 1 else "0.1" if value < 10 else "1"
    return f"{Decimal(value).quantize(Decimal(places), ROUND_HALF_UP)} ms"


async def check_numbers(page: Page) -> None:
    """What is drawn is what the API says: the first two numbers come by the stream, after the report at times."""
    await until(page, f"{SHOWN} != null && document.querySelectorAll('.by-symbol tbody tr').length === 5")
    await until(page, "document.querySelector('.vital').innerText.includes('/s')")
    report = await looked_at(page)
    assert await text(page, ".verdict-sentence") == report["sentence"] == "Everything is well."
    assert await page.locator(".verdict").get_attribute("data-state") == "good"
    vitals = await page.locator(".vital").all_inner_texts()
    commit, database = report["commit"], report["database"]
    assert [vital.split("\n")[1] for vital in vitals] == [
        "21.4/s", "11 ms", "0.0 %", milliseconds(commit["p50_ms"]), "18.4 MB", f"{database['bytes'] / 1e6:.1f} MB",
    ]  # fmt: skip
    assert f"99 % under {milliseconds(commit['p99_ms'])} · " in vitals[3]
    queries = await page.locator(".queries tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in queries] == [q["name"].replace("_", " ") for q in report["queries"]]
    stages = await page.locator(".stages tbody tr").all_inner_texts()
    assert len(stages) == len(report["stages"]) == 5
    rows = await page.locator(".by-symbol tbody tr").all_inner_texts()
    for row, said in zip(rows, report["symbols"], strict=True):
        cells = row.split("\t")
        assert (cells[0], cells[3], cells[4], cells[6]) == (
            said["symbol"], f"{said['trades']:,}", str(said["late"]), str(said["ineligible"]),
        )  # fmt: skip
    labels = [await plot.get_attribute("aria-label") for plot in await page.locator(".health-chart svg").all()]
    assert labels[0] == "Trades a second, last 60 min: now 36.0/s, between 20.0/s and 56.0/s"
    assert len(await page.locator(".health-chart .line").first.get_attribute("d") or "") > 1_000


async def check_timeline(page: Page) -> None:
    """Gaps can be reached with the keyboard, and say when and why; the same is a table."""
    gap = page.locator("button.piece[data-state='gap']")
    await gap.focus()
    says = await text(page, ".timeline-says")
    assert says.startswith("Stocks, gap: trades may be missing: "), says
    assert "22 min. Cause: disconnected." in says
    assert await page.locator("button.piece").count() == 2
    report = await looked_at(page)
    assert await page.locator(".timeline .unseen tbody tr").count() == len(report["connections"]) == 6


async def check_sorting(page: Page) -> None:
    head = page.locator(".by-symbol thead th", has_text="Trades")
    await head.locator("button").click()
    assert await head.get_attribute("aria-sort") == "descending"
    trades = [int(row["trades"]) for row in (await looked_at(page))["symbols"]]
    shown = [int(cell.replace(",", "")) for cell in await page.locator(".by-symbol td:nth-child(4)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    assert sorted(shown) == sorted(trades)


async def check_troubles(page: Page, market: Pipeline) -> None:
    """Each is told with what to do, and is gone when it is over. Nothing known is wiped out meanwhile."""
    market.is_broken = market.down = True
    await until(page, "document.querySelector('.verdict').dataset.state === 'bad'")
    assert (await text(page, ".verdict-sentence")).startswith("The stocks feed is reconnecting: connection refused")
    assert (await text(page, ".verdict-advice")).startswith("It tries again by itself")
    others = await page.locator(".verdict-others li").all_inner_texts()
    assert [other.split(":")[0].split(".")[0] for other in others] == ["The crypto feed is stale", "The store is down"]
    await until(page, "document.querySelector('.by-symbol').dataset.age === 'old'")
    assert await page.locator(".by-symbol tbody tr").count() == 5
    assert "does not answer" in await text(page, ".outbox")
    market.is_broken = market.down = False
    await until(page, "document.querySelector('.verdict').dataset.state === 'good'")
    assert await page.locator(".verdict-others").is_hidden()
    await until(page, "document.querySelector('.by-symbol').dataset.age === 'new'")


async def check_quiet_when_hidden(page: Page) -> None:
    """It asks only while it is looked at."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/health" in request.url else None)
    async with page.expect_request("**/api/v1/health"):
        pass
    await page.evaluate("location.hash = '#/overview'")
    await until(page, "!tapewatch.probe('health').isShown")
    asked.clear()
    async with page.expect_event("request", lambda request: "/overview" in request.url or "/alerts" in request.url):
        await page.evaluate("location.hash = '#/alerts'")
    assert asked == []
    await page.evaluate("location.hash = '#/health'")
    async with page.expect_request("**/api/v1/health"):
        pass


def test_it_shows_what_the_api_says_and_what_to_do_in_trouble() -> None:
    async def scenario() -> None:
        market = Pipeline()
        async with (
            running(market, pulse=market.pulse, status=lambda: market.status()) as (server, _),
            opened(f"{server.url}#/health") as (page, complaints),
        ):
            await check_numbers(page)
            await check_timeline(page)
            await check_sorting(page)
            assert complaints == []
            await check_troubles(page, market)
            complaints.clear()  # the browser notes each answer of 503 that the other views got
            await check_quiet_when_hidden(page)
            assert complaints == []

    run(scenario())


@pytest.mark.parametrize("symbols", [0, 500])
def test_a_narrow_screen_with_nothing_or_with_very_much(symbols: int) -> None:
    async def scenario() -> None:
        market = Pipeline(symbols, minutes=2 if symbols else 0)
        async with (
            running(market) as (server, _),
            opened(f"{server.url}#/health", viewport={"width": 390, "height": 844}) as (page, complaints),
        ):
            await until(page, f"{SHOWN} != null")
            await until(page, "document.querySelectorAll('.by-symbol tbody tr').length === given", symbols)
            assert await page.evaluate("document.documentElement.scrollWidth") == 390
            assert await page.locator(".by-symbol .empty").is_visible() == (symbols == 0)
            assert complaints == []

    run(scenario())
