"""Take the pictures of the page: the kept ones for README and docs/page.md, and all others for looking at.

.venv/bin/python scripts/screenshots.py [--keep] [--out FOLDER]

The page is the real one, on the real server, over the tests' seeded market; its clock stands still, so the same
sources give the same pictures (the Health view alone shows the present hour). All go to a new folder, which is printed;
with --keep those that README and docs show also go to docs/images, with fewer colours. Needs the development
environment (./run_tests.sh makes it) and chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


from playwright.async_api import Browser  # noqa: E402
from small_png import reduced  # noqa: E402

from page_checks import browser, until  # noqa: E402
from serve_fake import KNOWN, MINUTE, START_MS, FakeMarket, Row, broken, many_symbols, running  # noqa: E402
from tapewatch.metrics import RECENT  # noqa: E402
from tapewatch.serve.health import Pulse  # noqa: E402

NOW_MS = START_MS + 3 * 3_600_000
"""Friday 20 November 2026, 13:00 in New York."""
IMAGES = ROOT / "docs" / "images"
KEPT = ("overview-dark", "overview-light", "technical-dark", "health-dark", "alerts-dark", "overview-phone")
BYTES_MAX = 200_000
SYMBOLS = [*KNOWN, "AMD", "AMZN", "INTC", "JPM", "META", "NFLX", "NVDA", "ORCL"]
DESK, PHONE = (1440, 860), (390, 844)


@dataclass(frozen=True)
class Picture:
    """One picture: the address, when what it shows is there, and what is particular about it."""

    name: str
    address: str
    is_there: str
    size: tuple[int, int] = DESK
    scheme: str = "dark"
    scene: str = "usual"


SESSION = "document.body.innerText.includes('Regular session')"
OVERVIEW = ("#/overview/AAPL/1m", f"tapewatch.bars > 0 && tapewatch.alertsLoaded && {SESSION}")
TECHNICAL = ("#/technical/AAPL", "tapewatch.probe('technical')?.rows > 0")
HEALTH = ("#/health", "tapewatch.probe('health')?.report")
ALERTS = ("#/alerts", "tapewatch.probe('alerts')?.isLoaded")
VIEWS = {"overview": OVERVIEW, "technical": TECHNICAL, "health": HEALTH, "alerts": ALERTS}
CONNECTED = "document.querySelector('#watch-empty:not([hidden])')"


def pictures() -> list[Picture]:
    """All of them."""
    found = []
    for name, (address, is_there) in VIEWS.items():
        found += [Picture(f"{name}-{scheme}", address, is_there, scheme=scheme) for scheme in ("dark", "light")]
        found.append(Picture(f"{name}-phone", address, is_there, size=PHONE))
        found.append(Picture(f"{name}-broken", address, is_there, scene="broken"))
        found.append(Picture(f"{name}-many", address, is_there, scene="many"))
    empty = {"overview": CONNECTED, "technical": "true", "health": HEALTH[1], "alerts": ALERTS[1]}
    return found + [Picture(f"{name}-empty", VIEWS[name][0], there, scene="empty") for name, there in empty.items()]


class ShownMarket(FakeMarket):
    """The fake market with troubles in some minutes, and an hour of its own pipeline's figures."""

    def __init__(self, symbols: list[str], minutes: int, is_broken: bool) -> None:
        super().__init__(symbols, minutes=minutes, now_ms=NOW_MS)
        self.is_broken = is_broken
        self.trouble = {"TSLA": {"grade": "B", "late": 4}, "MSFT": {"grade": "C", "gap_ms": 4_000}}
        if minutes:
            self._mark("AAPL")
        now_ms = time.time_ns() // 1_000_000
        self.pulse = Pulse(lambda: now_ms - 20 * 3_600_000)
        busy = 1 + np.convolve(self.random.normal(0, 0.9, 779), np.ones(60) / 60, "valid")
        for i, share in enumerate(busy.tolist()):
            step = {"trades_per_second": 21 * share, "lag_ms": 11 * share, "queue_bytes": int(1_200 * share)}
            self.pulse.note(step, now_ms - 5_000 * (720 - i))

    def _mark(self, symbol: str) -> None:
        """An alert of each status in the last hour, so that the chart shows all three marks."""
        bars = self.bars[symbol]
        told = (
            (12, "golden_cross", "provisional"),
            (31, "death_cross", "retracted"),
            (52, "golden_cross", "confirmed"),
        )
        for minutes, kind, status in told:
            at_ms = NOW_MS - minutes * MINUTE
            self._alert(symbol, kind, status, at_ms, at_ms + 31_000, bars[-1 - minutes]["close"])

    async def quality(self, symbol: str, from_ms: int, to_ms: int) -> list[Row]:
        rows = await super().quality(symbol, from_ms, to_ms)
        for i, row in enumerate(rows):
            if i in (14, 15):
                row |= {"gap_ms": 21_000, "grade": "D"}
            elif i in (27, 28, 44):
                row |= {"late": 5, "grade": "B"}
        return rows

    def status(self) -> Row:
        if not self.is_broken:
            return super().status()
        self.is_broken = False
        try:
            return broken(self)
        finally:
            self.is_broken = True


SCENES: dict[str, dict[str, Any]] = {
    "usual": {"symbols": SYMBOLS, "minutes": 2_300, "is_broken": False},
    "broken": {"symbols": SYMBOLS, "minutes": 390, "is_broken": True},
    "many": {"symbols": many_symbols(500), "minutes": 90, "is_broken": False},
    "empty": {"symbols": [], "minutes": 0, "is_broken": False},
}


@contextlib.asynccontextmanager
async def served(scene: str) -> AsyncIterator[str]:
    """The address of a server that shows this scene."""
    market = ShownMarket(**SCENES[scene])
    if scene == "usual":
        for name, kind, failures in (("phone", "ntfy", 0), ("desk", "slack", 0), ("on-call", "pagerduty", 1)):
            market.life.channel(name, kind, failures)
        await market.life.mute(rule=None, symbol="TSLA", channel="phone", for_ms=3_600_000, by="ann", note="earnings")
    if scene == "broken":
        market.life.channel("desk", "slack", 4, waiting=3)
        market.life.down("feed stocks", "No trade of the stocks feed for 2m, though its market is open.")
    async with running(market, pulse=market.pulse, status=lambda: market.status()) as (server, _):
        yield server.url


async def take(chromium: Browser, url: str, picture: Picture, folder: Path) -> Path:
    """Take one picture."""
    width, height = picture.size
    page = await chromium.new_page(
        viewport={"width": width, "height": height},
        color_scheme=picture.scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    if not picture.name.startswith("health"):
        await page.clock.set_fixed_time((NOW_MS + 300) / 1000)
    await page.goto(url + picture.address)
    await until(page, f"window.tapewatch?.connected && ({picture.is_there})")
    if picture.name.startswith("alerts") and picture.scene in ("usual", "many") and width > 390:
        await page.locator("#view-alerts tr[data-status=confirmed] .pick").first.click()
        await page.wait_for_selector(".alert-side .passport")
    await page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 600)))")
    path = folder / f"{picture.name}.png"
    await page.screenshot(path=path)
    await page.close()
    return path


async def take_all(folder: Path, keep: bool) -> None:
    """Scene by scene."""
    for i in range(200):
        RECENT.note("commit", 0.004 + 0.00001 * i)
        RECENT.note("query history", 0.002 + 0.0001 * (i % 9))
    async with browser() as chromium:
        for scene in SCENES:
            async with served(scene) as url:
                for picture in [picture for picture in pictures() if picture.scene == scene]:
                    path = await take(chromium, url, picture, folder)
                    print(f"{path}  {path.stat().st_size:,} bytes", flush=True)
                    if keep and picture.name in KEPT:
                        small = await reduced(chromium, path.read_bytes())
                        if len(small) > BYTES_MAX:
                            raise SystemExit(f"{path} has {len(small):,} bytes even with fewer colours.")
                        IMAGES.mkdir(exist_ok=True)
                        (IMAGES / path.name).write_bytes(small)
                        print(f"{IMAGES / path.name}  {len(small):,} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="also renew docs/images")
    parser.add_argument("--out", type=Path, help="where the pictures go; else a new folder below the system's")
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="tapewatch-pictures-"))
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(folder, options.keep))
    print(f"All pictures: {folder}")


if __name__ == "__main__":
    main()
