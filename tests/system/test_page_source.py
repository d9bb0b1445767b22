"""The page's badge in a real browser: whose data it is, wherever that is not the usual source."""

from __future__ import annotations

from typing import Any

import pytest

from page_checks import SCENARIO_S, opened, run, until
from serve_fake import FakeMarket, many_symbols, running
from tapewatch.records import Origin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SCENARIO_S + 20)]


@pytest.mark.parametrize(
    ("origin", "source", "badge", "title"),
    [
        (Origin.LIVE, "Coinbase", "LIVE · Coinbase", "Real trades, as they happen, from Coinbase"),
        (Origin.LIVE, "Massive", "LIVE", "Real trades, as they happen, from Massive"),
        (Origin.REPLAYED, "Coinbase", "REPLAYED · Coinbase", "Real trades of another day, played again, from Coinbase"),
        (Origin.SIMULATED, None, "SIMULATED", "Made up by the built-in simulator: no real prices"),
    ],
)
def test_the_badge_says_whose_data_it_is(origin: Origin, source: str | None, badge: str, title: str) -> None:
    async def scenario() -> None:
        market = FakeMarket(many_symbols(2))

        def status() -> dict[str, Any]:
            return market.status() | {"origin": origin.value, "source": source}

        async with (
            running(market, origin=origin, status=status) as (server, _),
            opened(server.url) as (page, complaints),
        ):
            await until(page, "document.querySelector('#origin').textContent === given", badge)
            await until(page, "document.querySelector('#origin').title === given", title)
            assert complaints == []

    run(scenario())
