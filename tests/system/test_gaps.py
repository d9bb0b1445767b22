"""A cut connection in a whole pipeline with a key: its gap is filled to the trade, asked for again, and proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline_runs import Pipeline, until
from tapewatch.feed.conditions import wire_codes
from tapewatch.records import Kind, Market
from tapewatch.serve.models import parse_time_ms
from tapewatch.simulator.market import SeededMarket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEED, RATE = 11, 6.0


@contextmanager
def exchange(*arguments: str) -> Iterator[dict[str, str]]:
    """The simulator as a foreign service: its addresses, as settings of a pipeline with a key."""
    market = ["--seed", str(SEED), "--rate", str(RATE), "--parent", str(os.getpid()), *arguments]
    command = [sys.executable, "-m", "tapewatch.simulator", *market]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            yield {"MASSIVE_API_KEY": "k" * 32, "MASSIVE_WS_URL": ready["ws"], "MASSIVE_REST_URL": ready["rest"]}
        finally:
            process.terminate()


def gaps(pipeline: Pipeline) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pipeline.ask("api/v1/gaps")
    return found


def test_a_cut_is_filled_to_the_trade_and_asked_for_again(tmp_path: Path) -> None:
    begun = datetime.now(UTC)
    with (
        exchange(*(word for second in (15, 60, 110) for word in ("--fault", f"refuse@{second}"))) as addresses,
        Pipeline(
            tmp_path, SYMBOLS="AAPL,TSLA,BTC", WARMUP="10m", BACKFILL_REPEAT="1s", BACKFILL_DEADLINE="10m", **addresses
        ) as pipeline,
    ):
        pipeline.start()
        until(pipeline.is_filled, "it is live and warm")
        until(lambda: gaps(pipeline), "a connection was cut")
        found = until(
            lambda: pipeline.is_filled() and _all_filled(pipeline), "the gaps are filled, and it is live again"
        )
        assert all(gap["backfilled"] and gap["trades"] > 0 and gap["missing"] == [] for gap in found), found
        conditions = pipeline.ask("api/v1/health")["conditions"]
        assert conditions["source"] == "127.0.0.1", "the exchange's own table of conditions is in use"
        assert conditions["date"] in {day.date().isoformat() for day in (begun, datetime.now(UTC))}
        # said once when it was filled, and once more when it was asked for again
        told = until(lambda: _told(pipeline, 2), "every gap was asked for again")
        assert set(told.values()) == {"filled"}
        pipeline.stop()
        verdict = pipeline.verify("live")
        assert verdict.is_good, verdict.examples
        _compare_with_the_market(pipeline, found)


def _all_filled(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The gaps, if all are filled: on a busy machine the next cut may come before the last one's end."""
    found = gaps(pipeline)
    return found if all(gap["state"] == "filled" for gap in found) else []


def _told(pipeline: Pipeline, times: int) -> dict[tuple[str, int], str] | None:
    """The last state of each gap of which the log tells so often at least; None while it does of fewer."""
    counts: Counter[tuple[str, int]] = Counter()
    states: dict[tuple[str, int], str] = {}
    batches, _ = pipeline.records("live")
    for batch in batches:
        for kind, one in zip(batch.kind.tolist(), batch.ids, strict=True):
            gap = json.loads(one) if kind == Kind.GAP else {}
            if gap.get("state") in ("filled", "partial"):
                key = (str(gap["market"]), int(gap["from_ms"]))
                counts[key] += 1
                states[key] = gap["state"]
    return states if counts and min(counts.values()) >= times else None


def _compare_with_the_market(pipeline: Pipeline, found: list[dict[str, Any]]) -> None:
    """Around every gap the log holds each of the market's trades once."""
    market = SeededMarket(SEED, RATE)
    batches, tables = pipeline.records("live")
    logged: Counter[tuple[str, int, str]] = Counter()
    for batch in batches:
        for i in (batch.kind == Kind.TRADE).nonzero()[0].tolist():
            codes = wire_codes(tables.conditions.values[batch.conditions[i]])
            assert not codes or min(codes) >= 0, "the exchange's bars are no records beside trades"
            logged[tables.symbols.values[batch.symbol[i]], int(batch.time_ms[i]), batch.ids[i]] += 1
    for gap in found:
        start_ms, end_ms = (parse_time_ms(gap[name]) for name in ("gap_from", "gap_to"))
        start_ms -= 20_000
        wire = {"stocks": ["AAPL", "TSLA"], "crypto": ["BTC-USD"]}[gap["market"]]
        for name in wire:
            prints = market.trades(Market[gap["market"].upper()], name, start_ms * 10**6, end_ms * 10**6)
            symbol = name.removesuffix("-USD")
            times = (prints.time_ns // 10**6).tolist()
            expected = Counter((symbol, time_ms, one) for time_ms, one in zip(times, prints.ids, strict=True))
            mine = Counter({key: n for key, n in logged.items() if key[0] == symbol and start_ms <= key[1] < end_ms})
            assert len(expected) > 20
            assert mine == expected
