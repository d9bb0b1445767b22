"""The page in a real browser: how soon a chart is there, how smooth it stays, and what it keeps in memory.

    python bench/page.py [--quick]

    first chart   a cold page on loopback, over a database with 30 days of 50 symbols, until the frame with candles;
                  in a browser of its own that has settled, for its start page keeps a core busy for half a second
    smoothness    500 symbols with 1,000 updates a second: frames a second of one minute, as the page itself counts them
    heap          the same for ten minutes: JavaScript's heap after a forced collection, and its slope

Debian's chromium, headless, without a graphics card; server, database, browser and the market share the machine.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np

from filled import filled_database
from report import ROOT, Figure, main
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.server import HttpServer
from tapewatch.serve.stream import StreamHub
from tapewatch.store.queries import Queries

sys.path.insert(0, str(ROOT / "tests"))
from page_checks import browser, until
from serve_fake import FakeMarket, Moving, many_symbols, running

SYMBOLS = 500
UPDATES_S = 1_000
STEP_S = 0.1
SETTLED_S = 2.0
MIB = 2**20
_PAINTED = """
    const looking = () => {
        if (window.tapewatch?.bars > 0) requestAnimationFrame(() => { window.paintedMs ??= performance.now(); });
        else requestAnimationFrame(looking);
    };
    requestAnimationFrame(looking);
"""
_FRAMES = """seconds => new Promise(done => {
    const times = [], end = performance.now() + 1000 * seconds;
    const frame = now => { times.push(now); now < end ? requestAnimationFrame(frame) : done(times); };
    requestAnimationFrame(frame);
})"""


async def first_chart(url: str, times: int) -> list[float]:
    """Milliseconds from the beginning of the navigation to the frame that has candles, each in a browser of its own."""
    taken = []
    for _ in range(times):
        async with browser() as chromium:
            page = await chromium.new_page(viewport={"width": 1440, "height": 900})
            await page.add_init_script(_PAINTED)
            await asyncio.sleep(SETTLED_S)
            await page.goto(url)
            await until(page, "window.paintedMs !== undefined")
            taken.append(float(await page.evaluate("window.paintedMs")))
    return taken


async def over_a_database(times: int) -> list[Figure]:
    """The first chart, over 30 days of real rows."""
    with filled_database() as (dsn, _):
        queries = Queries(dsn.conninfo)
        market = FakeMarket([], minutes=0)
        app = create_app(queries, StreamHub(), market.status, origin=Origin.SIMULATED)
        server = HttpServer(app, "127.0.0.1", 0)
        await server.start()
        try:
            taken = await first_chart(server.url, times + 1)
        finally:
            await server.stop()
            await queries.close()
    note = "30 days of 50 symbols"
    return [Figure(name="first chart painted", unit="ms", values=taken[1:], note=note, target=1_000.0)]


async def under_load(seconds: float, minutes: float) -> list[Figure]:
    """Frames, and then the heap, of one page that stays open."""
    market = FakeMarket(many_symbols(SYMBOLS), minutes=60)
    async with running(market) as (server, hub), browser() as chromium:
        page = await chromium.new_page(viewport={"width": 1440, "height": 900})
        await page.goto(server.url)
        await until(page, f"tapewatch.symbols.length === {SYMBOLS} && tapewatch.bars > 0")
        session = await page.context.new_cdp_session(page)
        with Moving(market, hub, share=UPDATES_S * STEP_S / SYMBOLS, every_s=STEP_S):
            times = np.array(await page.evaluate(_FRAMES, seconds))
            heaps = [await heap(session)]
            for _ in range(max(2, round(minutes * 2))):
                await asyncio.sleep(30.0 if minutes > 1 else 5.0)
                heaps.append(await heap(session))
    frames = np.diff(times)
    step_min = 0.5 if minutes > 1 else 5 / 60
    late = heaps[len(heaps) // 4 :]  # the first minutes fill caches
    slope = float(np.polyfit(step_min * np.arange(len(late)), late, 1)[0])
    note = f"{SYMBOLS} symbols, {UPDATES_S:,} updates/s"
    return [
        Figure(
            name="frames a second", unit="/s", values=[1_000 * len(frames) / float(frames.sum())], note=note,
            target=50.0, more_is_better=True,
        ),
        Figure(name="the slowest frame in twenty takes at least", unit="ms", values=[float(np.percentile(frames, 95))]),
        Figure(name="JavaScript's heap at the end", unit="MiB", values=[heaps[-1]], note=f"after {minutes:g} min"),
        Figure(name="slope of the heap", unit="MiB/min", values=[slope], note="the first quarter left out", target=0.1),
    ]  # fmt: skip


async def heap(session: Any) -> float:
    """MiB in use after a collection."""
    await session.send("HeapProfiler.collectGarbage")
    return float((await session.send("Runtime.getHeapUsage"))["usedSize"]) / MIB


def measure(quick: bool) -> list[Figure]:
    """All three."""
    figures = asyncio.run(over_a_database(1 if quick else 5))
    return figures + asyncio.run(under_load(3.0 if quick else 60.0, 0.2 if quick else 10.0))


if __name__ == "__main__":
    main("The page in a browser", measure)
