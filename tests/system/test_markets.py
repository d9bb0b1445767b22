"""Six markets in one pipeline: from the exchange's frames to the page's answers, and proved anew from the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_runs import Pipeline, until
from tapewatch.feed.symbols import market_of
from tapewatch.records import Market

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPTION = "O:SPY251219C00650000"
WATCHED = {
    "AAPL": Market.STOCKS, "BTC": Market.CRYPTO, OPTION: Market.OPTIONS, "ESZ6": Market.FUTURES,
    "C:EURUSD": Market.FOREX, "I:SPX": Market.INDICES,
}  # fmt: skip
WITHOUT_VOLUME = ("C:EURUSD", "I:SPX")


def rows(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {row["symbol"]: row for row in pipeline.ask("api/v1/stocks")}


def test_every_market_comes_from_frame_to_page(tmp_path: Path) -> None:
    written = "AAPL,BTC,EUR/USD,ESZ6,I:SPX," + OPTION
    with Pipeline(tmp_path, SYMBOLS=written, WARMUP="15m", SIMULATOR_RATE="5") as pipeline:
        pipeline.start()
        until(lambda: rows(pipeline).keys() == WATCHED.keys(), "each symbol has a row")
        found = rows(pipeline)
        assert {name: row["market"] for name, row in found.items()} == {
            name: market.name.lower() for name, market in WATCHED.items()
        }
        assert all(market_of(name) is market for name, market in WATCHED.items())
        until(lambda: len(pipeline.status()["feeds"]) == len(Market), "each market has its feed")
        for name in WITHOUT_VOLUME:
            assert (rows(pipeline)[name]["total_volume"], rows(pipeline)[name]["day_volume"]) == (0, 0)
            bars = until(lambda name=name: pipeline.ask(f"api/v1/stocks/{name}/history"), "it has bars")
            assert all(bar["volume"] == 0 and bar["vwap"] is None and bar["high"] >= bar["low"] > 0 for bar in bars)
        for name in WATCHED:
            days = pipeline.ask(f"api/v1/sessions?market={WATCHED[name].name.lower()}")
            assert (days == []) == (WATCHED[name] is Market.CRYPTO)
        pipeline.stop()
        verdict = pipeline.verify()
        assert verdict.is_good, verdict
        batches, tables = pipeline.records("simulated")
        names = {tables.symbols.values[n]: int(b.market[i]) for b in batches for i, n in enumerate(b.symbol) if n >= 0}
        assert names == WATCHED
