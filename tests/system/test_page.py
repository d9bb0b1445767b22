"""The page in Debian's chromium, on a real server over the fake market."""

from __future__ import annotations

import asyncio
import time

import pytest

from page_checks import LOST_MS_MAX, PATIENCE_MS, SCENARIO_S, WATCH_MS, check_page, drawn, opened, run, until
from serve_fake import FakeMarket, Moving, Row, broken, many_symbols, running
from tapewatch.serve.shapes import iso

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]


def five() -> FakeMarket:
    return FakeMarket(many_symbols(5))


def test_prices_candles_and_alerts_are_live() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, hub):
            with Moving(market, hub):
                await check_page(server.url, cause_alert=lambda: market.alert_now(hub, "AAPL"))

    run(scenario())


def test_a_page_that_stands_still_is_noticed() -> None:
    """The canary of `check_page`: nothing moves, so it must fail."""

    async def scenario() -> None:
        async with running(five()) as (server, _):
            with pytest.raises(Exception, match="Timeout"):
                await check_page(server.url, within_s=3)

    run(scenario())


def test_a_new_minute_is_a_new_candle_and_an_alert_is_confirmed_in_its_place() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, hub), opened(server.url) as (page, complaints):
            await until(page, "tapewatch.bars > 0 && tapewatch.alertsLoaded")
            bars, alerts = await page.evaluate("[tapewatch.bars, tapewatch.alerts.length]")
            market.step(hub, 61_000)
            await until(page, "tapewatch.bars === given", bars + 1)
            market.alert_now(hub, "AAPL", "golden_cross", "provisional")
            await page.wait_for_selector("#alerts li[data-status=provisional] >> text=AAPL")
            assert await page.evaluate("tapewatch.alerts.length") == alerts + 1
            marks = await page.evaluate("tapewatch.marks")
            market.alert_now(hub, "AAPL", "golden_cross", "confirmed")
            await page.wait_for_selector("#alerts li:first-child[data-status=confirmed] >> text=AAPL")
            assert await page.evaluate("tapewatch.alerts.length") == alerts + 1
            assert await page.evaluate("tapewatch.marks") == marks
            assert complaints == []

    run(scenario())


def test_a_cold_page_asks_for_each_thing_once() -> None:
    async def scenario() -> None:
        async with running(five()) as (server, _), opened("about:blank") as (page, complaints):
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url.removeprefix(server.url).split("?")[0]))
            await page.goto(server.url)
            await until(page, "tapewatch.connected && tapewatch.bars > 0 && tapewatch.alertsLoaded")
            await until(page, "performance.getEntriesByType('resource').some(e => e.name.endsWith('limit=3'))")
            for path in ("api/v1/stocks", "api/v1/overview", "api/v1/stream", "static/chart.js"):
                assert [one.strip("/") for one in asked].count(path) == 1, (path, asked)
            assert sum(one.endswith("/history") for one in asked) == 2, "all candles, and the newest once the stream is"
            assert complaints == []

    run(scenario())


def test_a_lost_server_is_told_within_three_seconds_and_mends_itself() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market) as (server, hub), opened(server.url) as (page, complaints):
            await until(page, "tapewatch.connected && tapewatch.bars > 0")
            port = int(server.url.rsplit(":", 1)[1].strip("/"))
            assert await page.evaluate("tapewatch.silenceMs") + WATCH_MS < LOST_MS_MAX
            await server.stop()
            await page.wait_for_selector("#banner:not([hidden])")
            assert "server has not answered" in (await page.text_content("#banner") or "")
            market.step(hub, 180_000)
            market.alert_now(hub, "AAPL", "death_cross")
            market.step(hub, 61_000)
            async with running(market, port):
                await page.wait_for_selector("#banner[hidden]", state="attached")
                await until(page, "tapewatch.bars === given", len(market.bars["AAPL"]))
                await until(page, "tapewatch.alerts.length === given", len(market.alert_rows))
                price = market.rows["AAPL"]["price"]
                await until(page, "tapewatch.stock('AAPL').price === given", price)
            assert [c for c in complaints if "net::ERR_" not in c] == []

    run(scenario())


def test_a_frozen_server_is_told_too() -> None:
    """The connection stands, but nothing comes: only the missing heartbeat tells."""

    async def scenario() -> None:
        async with running(five()) as (server, _), opened(server.url) as (page, _complaints):
            await until(page, "tapewatch.connected")
            await page.wait_for_selector("#banner", state="hidden")
            banner = asyncio.create_task(page.wait_for_selector("#banner:not([hidden])", timeout=PATIENCE_MS))
            while not (await asyncio.wait({banner}, timeout=0.3))[0]:  # again where the page itself stood still
                time.sleep(LOST_MS_MAX / 1000)  # The server's loop stands still: that is the fault under test.
            await banner

    run(scenario())


def test_trouble_is_one_sentence() -> None:
    async def scenario() -> None:
        market = five()
        async with running(market, status=lambda: broken(market)) as (server, _), opened(server.url) as (page, _log):
            await page.wait_for_selector("#banner:not([hidden])")
            assert await page.text_content("#banner") == "The database does not answer; 2,310 trades wait in the log."
            assert await page.locator("#feeds li[data-state=bad]").count() == 2

    run(scenario())


def test_nothing_yet_is_said_in_words() -> None:
    async def scenario() -> None:
        market = FakeMarket([], minutes=0)
        async with running(market) as (server, _), opened(server.url) as (page, complaints):
            for place in ("#watch-empty", "#chart-empty", "#alerts-empty"):
                await page.wait_for_selector(f"{place}:not([hidden])")
                assert (await page.text_content(place) or "").startswith("No ")
            assert complaints == []

    run(scenario())


def test_the_token_is_asked_for_once_and_never_in_an_address() -> None:
    async def scenario() -> None:
        token = "k" * 40
        market = five()
        async with running(market, api_token=token) as (server, _), opened(server.url) as (page, complaints):
            addresses: list[str] = []
            page.on("request", lambda request: addresses.append(request.url))
            await page.fill("#token", "wrong")
            await page.click("#login-form button")
            await until(page, "document.querySelector('#login-error').textContent === 'This is not the token.'")
            await page.fill("#token", token)
            await page.click("#login-form button")
            await until(page, "tapewatch.connected && tapewatch.bars > 0")
            await page.reload()
            await until(page, "tapewatch.connected && tapewatch.bars > 0")
            assert await page.locator("#login").is_hidden()
            assert len(addresses) > 5
            assert not [a for a in addresses if token in a]
            assert [c for c in complaints if "401" not in c] == []

    run(scenario())


@pytest.mark.parametrize("width", [390, 820])
def test_nothing_is_wider_than_a_small_screen(width: int) -> None:
    async def scenario() -> None:
        viewport = {"width": width, "height": 844}
        async with running(five()) as (server, _), opened(server.url, viewport=viewport) as (page, _complaints):
            await until(page, "tapewatch.bars > 0")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width

    run(scenario())


def test_five_hundred_symbols_go_on_being_painted() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(500), minutes=60)
        async with running(market) as (server, hub), opened(server.url) as (page, complaints):
            await until(page, "tapewatch.symbols.length === 500 && tapewatch.bars > 0")
            frames = """() => new Promise(done => {
                const times = [];
                const frame = now => times.push(now) < 90 ? requestAnimationFrame(frame) : done(times);
                requestAnimationFrame(frame);
            })"""
            with Moving(market, hub, share=0.5):
                times = await page.evaluate(frames)
            assert len(times) == 90
            await page.fill("#filter", "BT")
            visible = "[...document.querySelectorAll('#watch tr')].filter(row => !row.hidden)"
            await until(page, f"{visible}.length < 20")
            assert await page.evaluate(f"{visible}.every(row => row.textContent.includes('BT'))")
            assert complaints == []

    run(scenario())


class Flawed(FakeMarket):
    """AAPL's newest minutes have each kind of flaw once, and its gap was filled afterwards."""

    FLAWS = ("D", "C", "B", "A", "A")

    async def quality(self, symbol: str, from_ms: int, to_ms: int) -> list[Row]:
        rows = await super().quality(symbol, from_ms, to_ms)
        for row, grade in zip(rows[-5:], self.FLAWS, strict=True):
            row |= {"grade": grade, "late": 3 if grade == "B" else 0, "gap_ms": 12_000 if grade > "B" else 0}
        rows[-2] |= {"excluded": 38}
        return [row for row in rows if iso(from_ms) <= row["minute"] < iso(to_ms)]

    async def gaps(self, limit: int) -> list[Row]:
        rows = await super().gaps(limit)
        return [row | {"backfilled": True} for row in rows]


def expected_kind(row: Row, filled: tuple[str, str]) -> str:
    """What the ribbon must show of one minute, said anew."""
    if row["grade"] in "CD":
        return "gap"
    if row["grade"] == "B":
        return "late"
    if filled[0] <= row["minute"][:16] <= filled[1]:
        return "backfilled"
    return "excluded" if 10 * row["excluded"] > 9 * row["trades"] else "good"


def test_the_ribbon_shows_the_grade_of_each_minute() -> None:
    async def scenario() -> None:
        market = Flawed(many_symbols(3), minutes=50)
        async with running(market) as (server, _), opened(f"{server.url}#/overview/AAPL/1m") as (page, complaints):
            await until(page, "tapewatch.chart.ribbon.some(([, kind]) => kind !== 'none')")
            shown = dict((await page.evaluate("tapewatch.chart"))["ribbon"])
            quality = await page.evaluate("fetch('/api/v1/stocks/AAPL/quality?from=1795180000000').then(a => a.json())")
            gap = (await page.evaluate("fetch('/api/v1/gaps').then(a => a.json())"))[0]
            filled = (gap["gap_from"][:16], gap["gap_to"][:16])
            wanted = {row["minute"]: expected_kind(row, filled) for row in quality}
            assert set(wanted.values()) == {"gap", "late", "excluded", "backfilled", "good"}
            assert {minute: shown[minute] for minute in wanted} == wanted
            assert {kind for minute, kind in shown.items() if minute not in wanted} <= {"none"}
            assert "A · 40 trades" in (await page.evaluate("tapewatch.chart"))["legend"]
            assert complaints == []

    run(scenario())


def test_panning_back_brings_older_pages_and_keeps_the_view_still() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(2), minutes=3_300)
        oldest = market.bars["AAPL"][0]["time"]
        async with running(market) as (server, _), opened(f"{server.url}#/overview/AAPL/1m") as (page, complaints):
            await until(page, "tapewatch.bars === 1500")
            marks = await page.evaluate("tapewatch.marks")
            back = "tapewatch.bars - tapewatch.chart.places.to"
            await until(page, "tapewatch.chart.places.to > tapewatch.bars")
            place = await page.evaluate(back)
            await page.evaluate("tapewatch.pan(-1400)")
            await until(page, "tapewatch.bars === 3000")
            await until(page, f"Math.abs({back} - given) < 0.01", place + 1_400)
            await until(page, "tapewatch.marks > given", marks)
            assert await page.text_content("#history-start") == ""
            await page.evaluate("tapewatch.pan(-1600)")
            await until(page, "tapewatch.bars === 3300 && tapewatch.chart.isAtStart")
            await until(
                page, "document.querySelector('#history-start').textContent.startsWith('The record begins here')"
            )
            chart = await page.evaluate("tapewatch.chart")
            assert chart["ribbon"][0][0] == oldest
            assert [time for time, _ in chart["ribbon"]] == [bar["time"] for bar in market.bars["AAPL"]]
            assert complaints == []

    run(scenario())


def test_sessions_are_shaded_for_stocks_and_never_for_crypto() -> None:
    async def scenario() -> None:
        market = FakeMarket(["AAPL", "BTC"], minutes=900)
        async with running(market) as (server, _), opened(f"{server.url}#/overview/AAPL/1m") as (page, complaints):
            await until(page, "tapewatch.chart.sessions.length && tapewatch.chart.sessions.every(([, s]) => s)")
            shown = dict((await page.evaluate("tapewatch.chart"))["sessions"])
            days = await page.evaluate("fetch('/api/v1/sessions').then(a => a.json())")

            def session(time: str) -> str:
                for day in days:
                    if day["day_open"] <= time < day["day_close"]:
                        out = "pre" if time < day["regular_open"] else "post"
                        return "regular" if day["regular_open"] <= time < day["regular_close"] else out
                return "closed"

            assert shown == {bar["time"]: session(bar["time"]) for bar in market.bars["AAPL"]}
            assert {"pre", "regular", "closed"} <= set(shown.values())
            await page.click("#watch >> text=BTC")
            await until(page, "tapewatch.chart.symbol === 'BTC' && tapewatch.bars > 0")
            await until(page, "tapewatch.chart.sessions.every(([, session]) => session === 'open')")
            assert complaints == []

    run(scenario())


def test_marks_are_hollow_filled_or_crossed_as_their_alert_stands() -> None:
    async def scenario() -> None:
        market = FakeMarket(["AAPL", "MSFT"], minutes=120)
        async with running(market) as (server, hub), opened(f"{server.url}#/overview/AAPL/1m") as (page, complaints):
            await until(page, "tapewatch.bars > 0 && tapewatch.alertsLoaded")
            pictures = []
            for status in ("provisional", "confirmed", "retracted"):
                row = market.alert_now(hub, "AAPL", "high_volume", status)
                mark = "tapewatch.chart.marks.find(({ id }) => id === given[0])?.status === given[1]"
                await until(page, mark, [row["alert_id"], status])
                await drawn(page)
                pictures.append(await page.locator("#chart").screenshot())
            assert len(set(pictures)) == 3, "each state looks different"
            assert complaints == []

    run(scenario())


def test_the_watchlist_shows_and_sorts_what_the_overview_says() -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(6), minutes=90)
        market.trouble = {"MSFT": {"grade": "D", "gap_ms": 31_000}, "TSLA": {"grade": "B", "late": 9}}
        async with running(market) as (server, _), opened(server.url) as (page, complaints):
            await until(page, "tapewatch.bars > 0 && tapewatch.glance('MSFT')?.grade === 'D'")
            overview = await page.evaluate("fetch('/api/v1/overview').then(a => a.json())")
            for row in overview:
                shown = await page.evaluate("symbol => tapewatch.glance(symbol)", row["symbol"])
                assert shown["closes"] == row["closes"]
                assert shown["grade"] == row["grade"]
            await page.click("#watch-head th.grade button")
            assert (await page.evaluate("tapewatch.order"))[:2] == ["MSFT", "TSLA"]
            await page.click("#watch-head th.grade button")
            assert (await page.evaluate("tapewatch.order"))[-2:] == ["TSLA", "MSFT"]
            for name in await page.locator("#watch-head th").evaluate_all("all => all.map(th => th.dataset.column)"):
                await page.evaluate("name => document.querySelector(`th[data-column=${name}] button`).click()", name)
                assert sorted(await page.evaluate("tapewatch.order")) == market.symbols
            assert complaints == []

    run(scenario())


def test_the_price_moves_only_the_candle_it_belongs_to() -> None:
    async def scenario() -> None:
        market = FakeMarket(["AAPL"], minutes=61)  # the newest bar begins an hour
        async with running(market) as (server, hub), opened(f"{server.url}#/overview/AAPL/5m") as (page, complaints):
            await until(page, "tapewatch.bars > 0")
            market.step(hub, 20_000)
            price = market.rows["AAPL"]["price"]
            await until(page, "tapewatch.chart.newest.close === given", price)
            before = await page.evaluate("tapewatch.chart")
            market.step(hub, 300_000)
            await until(page, "tapewatch.chart.newest.time > given", before["newest"]["time"])
            newest = (await page.evaluate("tapewatch.chart"))["newest"]
            assert newest["close"] == market.rows["AAPL"]["price"]
            asked = "fetch('/api/v1/stocks/AAPL/history?interval=5m&limit=2').then(a => a.json())"
            assert (await page.evaluate(asked))[0]["close"] == price
            assert complaints == []

    run(scenario())


def test_addresses_and_keys_lead_to_each_view() -> None:
    async def scenario() -> None:
        async with running(five()) as (server, _), opened(f"{server.url}#AAPL/5m") as (page, complaints):
            await until(page, "tapewatch.bars > 0")
            assert await page.evaluate("location.hash") == "#/overview/AAPL/5m"
            for key, view in (("2", "technical"), ("3", "health"), ("4", "alerts"), ("1", "overview")):
                await page.keyboard.press(key)
                await until(page, "tapewatch.view === given", view)
                await page.wait_for_selector(f"#view-{view}:not([hidden]) >> nth=0")
                assert await page.locator("#views [aria-current=page]").text_content() == view.title()
                assert await page.locator("section.view:visible").count() == 1
            await page.go_back()
            await until(page, "tapewatch.view === 'alerts'")
            await page.goto(f"{server.url}#/nowhere")
            await until(page, "tapewatch.view === 'overview'")
            await page.keyboard.press("/")
            await page.keyboard.type("ms")
            await until(page, "tapewatch.order.join() === 'MSFT'")
            await page.keyboard.press("Escape")
            await until(page, "tapewatch.order.length === 5")
            await page.keyboard.press("?")
            await page.wait_for_selector("#help[open]")
            await page.keyboard.press("Escape")
            await until(page, "!document.querySelector('#help').open")
            assert complaints == []

    run(scenario())
