"""The Alerts view in Debian's chromium: the list, one alert in full, and why nothing fired, over the fake market."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from playwright.async_api import Page

from page_checks import PATIENCE_MS, SCENARIO_S, opened, run, until
from serve_fake import MINUTE, FakeMarket, many_symbols, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]

ROWS = "[...document.querySelectorAll('#view-alerts .alert-list tbody tr')]"
LISTED = "tapewatch.probe('alerts')?.isLoaded"


def five() -> FakeMarket:
    return FakeMarket(many_symbols(5))


async def answer(url: str) -> Any:
    def get() -> Any:
        with urllib.request.urlopen(url, timeout=PATIENCE_MS / 1000) as response:
            return json.load(response)

    return await asyncio.to_thread(get)


async def go(page: Page, address: str) -> None:
    await page.evaluate("address => { location.hash = address }", address)


async def pair(page: Page, name: str) -> str:
    """The value beside a name of what is open."""
    found = page.locator(".alert-side .pairs > div", has=page.locator(f"dt:text-is('{name}')")).first
    return await found.locator("dd").inner_text()


def test_the_list_and_an_alert_show_what_the_api_says() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, _), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            listed = await answer(f"{server.url}api/v1/alerts?limit=100")
            await until(page, f"{ROWS}.length === given", len(listed))
            shown = await page.evaluate(f"{ROWS}.map(r => [r.dataset.id, r.dataset.status, r.cells[4].textContent])")
            assert shown == [[a["alert_id"], a["status"], f"{a['price']:,.2f}"] for a in listed]
            newest = next(a for a in listed if a["status"] == "confirmed" and a["kind"] == "golden_cross")
            await page.locator(f"tr[data-id='{newest['alert_id']}'] .pick").click()
            await page.wait_for_selector(".alert-side .passport")
            assert page.url.endswith(f"#/alerts/{newest['alert_id']}")
            assert await pair(page, "Price") == f"{newest['price']:,.2f}"
            assert await pair(page, "Average") == f"{newest['line']:,.2f}"
            assert await pair(page, "Distance") == f"+{(newest['price'] / newest['line'] - 1) * 1e4:.1f} bps"
            assert await page.locator(".life li b").all_inner_texts() == ["Provisional", "Confirmed"]
            stages = await page.evaluate("tapewatch.probe('alerts').detail.passport.confirmed.map(s => [s.key, s.ms])")
            keys = ["event", "received", "logged", "decided", "stored", "delivered"]
            assert [key for key, _ in stages] == keys
            assert [round(ms - stages[0][1]) for _, ms in stages] == [0, 18, 26, 41, 47, 131]
            texts = await page.locator(".passport-list").last.locator("b").all_inner_texts()
            assert texts == ["18 ms", "8.0 ms", "15 ms", "6.0 ms", "84 ms"]
            assert "delivered" in await page.locator(".detail .state").inner_text()
            await until(page, "document.querySelectorAll('.moment canvas').length > 0")
            assert complaints == []

    run(scenario())


def test_filters_narrow_the_list_and_say_when_nothing_matches() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, _), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            for label, value, asked in (
                ("Kind", "death_cross", "kind=death_cross"),
                ("Status", "confirmed", "kind=death_cross&status=confirmed"),
                ("Rule", "death-cross", "kind=death_cross&status=confirmed&rule=death-cross"),
            ):
                await page.locator(f"#view-alerts select[aria-label={label}]").select_option(value)
                wanted = [a["alert_id"] for a in await answer(f"{server.url}api/v1/alerts?{asked}")]
                assert wanted, "a filter that leaves nothing proves nothing"
                await until(page, f"{LISTED} && {ROWS}.map(r => r.dataset.id).join() === given", ",".join(wanted))
            symbol = page.locator("#view-alerts input[aria-label=Symbol]")
            await symbol.fill("nosuch")
            await symbol.press("Enter")
            await page.locator("#view-alerts .empty", has_text="Nothing matches. Clear a filter").wait_for()
            await page.locator("#view-alerts .clear").click()
            await until(page, f"{ROWS}.length === given", len(market.alert_rows))
            newest = max(market.alert_rows.values(), key=lambda a: a["triggered_at"])
            await page.locator(".alert-filters input[type=datetime-local]").fill("2026-11-20T09:00")  # New York
            wanted = [a["alert_id"] for a in await answer(f"{server.url}api/v1/alerts?from=2026-11-20T14:00Z")]
            assert 0 < len(wanted) < len(market.alert_rows)
            assert newest["alert_id"] in wanted
            await page.locator(".alert-filters input[type=datetime-local]").blur()
            await until(page, f"{LISTED} && {ROWS}.map(r => r.dataset.id).join() === given", ",".join(wanted))
            await page.locator("#view-alerts th button").click()
            await until(page, f"{ROWS}.map(r => r.dataset.id).join() === given", ",".join(reversed(wanted)))
            assert complaints == []

    run(scenario())


def test_a_live_alert_appears_and_is_confirmed_in_its_place() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, hub), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            market.step(hub, 30_000)
            made = market.alert_now(hub, "AAPL", "golden_cross", "provisional")["alert_id"]
            await page.wait_for_selector(f"tbody tr:first-child[data-id='{made}'][data-status=provisional]")
            count = await page.evaluate(f"{ROWS}.length")
            await go(page, f"#/alerts/{made}")
            await page.locator(".life .waiting").wait_for()
            market.step(hub, 61_000)
            market.now_ms -= MINUTE  # its pane is the one that has just ended
            market.alert_now(hub, "AAPL", "golden_cross", "confirmed")
            await page.wait_for_selector(f"tr[data-id='{made}'][data-status=confirmed]")
            await page.locator(".alert-side .panel-head .pill", has_text="confirmed").wait_for()
            assert await page.evaluate(f"{ROWS}.length") == count
            assert complaints == []

    run(scenario())


def test_older_alerts_are_fetched_page_by_page_and_none_is_missing() -> None:
    async def scenario() -> None:
        market = five()
        for i in range(230):  # several of one millisecond, where pages meet too
            market._alert(
                "MSFT", "golden_cross", "confirmed", market.now_ms - i * MINUTE, market.now_ms - i // 3 * 1_000, 400.0
            )
        async with running(market) as (server, _), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            # Not the mouse's click: it scrolls to the button, and scrolling asks by itself.
            await page.evaluate("document.querySelector('#view-alerts .more').click()")
            await until(page, f"{ROWS}.length > 100")
            assert not await page.evaluate("tapewatch.probe('alerts').isLast"), "too few alerts to scroll for more"
            while not await page.evaluate("tapewatch.probe('alerts').isLast"):
                before = await page.evaluate(f"{ROWS}.length")
                await page.evaluate(f"{ROWS}.at(-1).scrollIntoView()")
                await until(page, f"tapewatch.probe('alerts').isLast || {ROWS}.length > given", before)
            await until(page, f"{ROWS}.length === given", len(market.alert_rows))
            assert complaints == []

    run(scenario())


def test_the_keyboard_opens_and_closes_an_alert() -> None:
    async def scenario() -> None:
        async with running(five()) as (server, _), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED} && {ROWS}.length > 3")
            ids = await page.evaluate(f"{ROWS}.map(r => r.dataset.id)")
            await page.locator("#view-alerts .alert-list tbody tr:first-child .pick").focus()
            for key in ("ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
                await page.keyboard.press(key)
            await until(page, "tapewatch.probe('alerts').open === given", ids[1])
            await page.locator(".alert-side .passport").first.wait_for()
            await page.keyboard.press("Escape")
            await until(page, "tapewatch.probe('alerts').open === null")
            assert await page.evaluate("document.activeElement.closest('tr')?.dataset.id") == ids[1]
            assert complaints == []

    run(scenario())


def test_a_minute_is_explained_and_what_cannot_be_is_said() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, _), opened(f"{server.url}#/alerts") as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            await page.locator("#explain-symbol").fill("aapl")
            await page.locator("#explain-minute").fill("2026-11-20T09:48")
            await page.locator(".explain-form button").click()
            await page.locator(".rule-card").first.wait_for()
            said = await answer(f"{server.url}api/v1/explain?symbol=AAPL&minute=2026-11-20T09:48")
            assert await page.locator(".sentence").all_inner_texts() == [rule["sentence"] for rule in said["rules"]]
            assert await page.locator(".outcome").all_inner_texts() == [rule["outcome"] for rule in said["rules"]]
            assert await page.locator(".agreement").inner_text() == said["agreement"]
            assert await pair(page, "Close") == f"{said['bar']['close']:,.2f}"
            await page.locator("button[aria-label='The minute after']").click()
            await page.locator(".answer-head h3", has_text="AAPL 09:49 ET").wait_for()
            fired = next(a for a in market.alert_rows.values() if a["symbol"] == "AAPL")
            await go(page, f"#/explain/AAPL/{fired['pane_start'][:16]}Z")
            await page.locator(".rule-card[data-outcome=fired] a").click()
            await until(page, "tapewatch.probe('alerts').open === given", fired["alert_id"])
            assert complaints == []
            await go(page, "#/explain/ZZZ/2026-11-20T09:48")
            await page.locator(".explain-error", has_text="ZZZ: the log holds no trade of it").wait_for()
            await go(page, "#/alerts/nosuch")
            await page.locator(".detail .empty", has_text="There is no alert nosuch.").wait_for()
            assert all("404" in complaint for complaint in complaints)

    run(scenario())


def test_without_alerts_or_database_it_says_so_and_mends() -> None:
    async def scenario() -> None:
        market = FakeMarket([], minutes=0)
        async with running(market) as (server, _), opened(f"{server.url}#/alerts") as (page, _complaints):
            empty = page.locator("#view-alerts .empty").first
            await page.locator("#view-alerts .empty", has_text="No alerts yet").wait_for()
            market.down = True
            await page.reload()
            await page.locator("#view-alerts .empty", has_text="does not answer").wait_for()
            market.down = False
            await page.evaluate("location.reload()")
            await page.locator("#view-alerts .empty", has_text="No alerts yet").wait_for()
            assert await empty.is_visible()

    run(scenario())


@pytest.mark.parametrize("address", ["#/alerts", "#/alerts/{id}", "#/explain/AAPL/2026-11-20T09:48"])
def test_it_fits_a_phone(address: str) -> None:
    async def scenario() -> None:
        market, viewport = five(), {"width": 390, "height": 844}
        wanted = address.format(id=next(iter(market.alert_rows)))
        for name in ("phone", "desk", "a channel of a long name"):
            market.life.channel(name, "slack", failures=4, waiting=3, dead=2)
        market.life.down("feed stocks", "No trade of the stocks feed for 2m, though its market is open.")
        await market.life.mute(
            rule="golden_cross", symbol="AAPL", channel="a channel of a long name", for_ms=MINUTE, by="ann", note=""
        )
        async with running(market) as (server, _), opened(server.url + wanted, viewport=viewport) as (page, complaints):
            await until(page, f"window.tapewatch?.connected && {LISTED}")
            shown = {"#/a": "#view-alerts .alert-list tbody tr", "#/e": ".rule-card"}[wanted[:3]]
            await page.locator(".passport" if "{id}" in address else shown).first.wait_for()
            if wanted == "#/alerts":
                await page.get_by_role("button", name="Mute …").click()
                await page.locator(".mute-form").wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390
            rights = "[...document.querySelectorAll('#view-alerts *')].map(e => e.getBoundingClientRect().right)"
            assert max(await page.evaluate(rights)) <= 390
            assert complaints == []

    run(scenario())


def test_what_people_do_with_alerts() -> None:
    async def scenario() -> None:
        market = five()
        market.life.channel("desk", "slack", failures=4)
        market.life.down("feed stocks", "No trade of the stocks feed for 2m, though its market is open.")
        newest = list(market.alert_rows.values())[-1]
        address = f"#/alerts/{newest['alert_id']}"
        async with running(market) as (server, _), opened(f"{server.url}{address}") as (page, said):
            await until(page, f"{LISTED} && tapewatch.probe('alerts').life.channels.length === 1")
            strip = page.locator(".life-strip")
            assert "4 failures in a row" in await strip.inner_text()
            await strip.locator(".life-down").get_by_role("button", name="Acknowledge").click()
            await strip.get_by_text("seen by page").wait_for()
            await page.locator(".alert-actions").get_by_role("button", name="Acknowledge").click()
            await page.locator(".alert-actions").get_by_text("Seen by page").wait_for()
            assert newest["acknowledged_at"] is not None
            await page.locator(".alert-actions").get_by_role("button", name="Take back").click()
            await page.locator(".alert-actions").get_by_role("button", name="Acknowledge").wait_for()
            await page.locator(".alert-actions select").select_option("8h")
            await strip.locator(".tag.mute").wait_for()
            (mute,) = market.life.muted
            assert (mute["symbol"], mute["rule"], mute["muted_by"]) == (newest["symbol"], newest["rule"], "page")
            await strip.locator(".tag.mute .end").click()
            await until(page, "tapewatch.probe('alerts').life.mutes.length === 0")
            await strip.get_by_role("button", name="Mute …").click()
            await strip.get_by_role("combobox", name="Channel to mute").select_option("desk")
            await strip.get_by_role("button", name="Mute", exact=True).click()
            await strip.get_by_text("on desk muted until").wait_for()
            await strip.get_by_role("button", name="Send a test").click()
            await strip.get_by_text("A test alert is on its way").wait_for()
            assert market.life.tests == 1
            assert said == []

    run(scenario())
