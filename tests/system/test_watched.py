"""What is watched, in a whole pipeline: changed while it runs, kept over a restart; and what a plan allows of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline_runs import ANSWER_S, Pipeline, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "k" * 32


def watchlist(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = pipeline.ask("api/v1/watchlist")
    return found


def stocks(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {row["symbol"]: row for row in pipeline.ask("api/v1/stocks")}


def test_a_symbol_is_added_and_another_removed_while_all_runs(tmp_path: Path) -> None:
    with Pipeline(tmp_path, SYMBOLS="AAPL,TSLA", WARMUP="20m") as pipeline:
        pipeline.start()
        until(lambda: set(watchlist(pipeline)["effective"]) == {"AAPL", "TSLA"}, "both are confirmed")
        address = f"{pipeline.url}api/v1/watchlist"
        answer = httpx.post(address, json={"symbols": ["nvda", "BTC"]}, timeout=ANSWER_S)
        assert (answer.status_code, answer.json()["wanted"]) == (200, ["AAPL", "TSLA", "NVDA", "BTC"]), answer.text
        until(lambda: set(watchlist(pipeline)["effective"]) >= {"NVDA", "BTC"}, "the new ones are confirmed")
        until(lambda: not watchlist(pipeline)["warming"], "their history is there")
        until(lambda: {"NVDA", "BTC"} <= stocks(pipeline).keys(), "they have rows")
        until(lambda: all(stocks(pipeline)[name]["ma_5min"] for name in ("NVDA", "BTC")), "their averages are warm")
        answer = httpx.delete(address, params={"symbols": "TSLA"}, timeout=ANSWER_S)
        assert (answer.status_code, answer.json()["removed"]) == (200, ["TSLA"])
        feeds = {feed["market"]: feed for feed in pipeline.status()["feeds"]}
        assert {market: feed["reconnects"] for market, feed in feeds.items()} == {"stocks": 0, "crypto": 0}
        until(lambda: "TSLA" not in watchlist(pipeline)["effective"], "it is given back")
        last = stocks(pipeline)["TSLA"]["timestamp"]
        until(lambda: stocks(pipeline)["NVDA"]["timestamp"] > last, "the others go on")
        wrong = httpx.post(address, json={"symbols": ["A B"]}, timeout=ANSWER_S)
        assert (wrong.status_code, "expected symbols" in wrong.json()["detail"]) == (422, True)
        pipeline.stop()

        pipeline.start()
        until(lambda: set(watchlist(pipeline)["effective"]) == {"AAPL", "NVDA", "BTC"}, "the changes outlive a restart")
        pipeline.stop()
        verdict = pipeline.verify()
        assert verdict.is_good, verdict


@contextmanager
def exchange(*arguments: str) -> Iterator[dict[str, str]]:
    """The simulator as a foreign service: its addresses, as settings of a pipeline with a key."""
    command = [sys.executable, "-m", "tapewatch.simulator", "--parent", str(os.getpid()), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        try:
            yield {
                "MASSIVE_API_KEY": KEY, "MASSIVE_WS_URL": ready["ws"], "MASSIVE_DELAYED_URL": ready["delayed"],
                "MASSIVE_REST_URL": ready["rest"],
            }  # fmt: skip
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("plan", "channel", "delay_ms", "words"),
    [
        ("advanced", "T", 0, []),
        ("developer", "T", 900_000, ["15 minutes late"]),
        ("starter", "A", 900_000, ["second bars (A)", "15 minutes late"]),
    ],
)
def test_what_the_plan_allows_is_found_taken_and_said(
    tmp_path: Path, plan: str, channel: str, delay_ms: int, words: list[str]
) -> None:
    tmp_path.chmod(0o700)
    with (
        exchange("--plan", plan) as given,
        Pipeline(tmp_path, SYMBOLS="AAPL", WARMUP="10m", XDG_RUNTIME_DIR=str(tmp_path), **given) as pipeline,
    ):
        pipeline.start()
        until(lambda: watchlist(pipeline)["effective"] == ["AAPL"], "it is confirmed")
        (market,) = watchlist(pipeline)["markets"]
        assert (market["channel"], market["delay_ms"]) == (channel, delay_ms)
        assert all(word in said for word, said in zip(words, market["notices"], strict=True))
        (feed,) = pipeline.status()["feeds"]
        assert feed["delay_ms"] == delay_ms
        until(lambda: "AAPL" in stocks(pipeline), "there are rows")
        pipeline.stop()


def test_a_second_program_with_the_same_key_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "other").mkdir()
    with exchange() as given:
        given |= {"SYMBOLS": "AAPL", "WARMUP": "0s", "XDG_RUNTIME_DIR": str(tmp_path)}
        with Pipeline(tmp_path, **given) as pipeline:
            pipeline.start()
            assert pipeline.process is not None
            with Pipeline(tmp_path / "other", **given) as other:
                done = other.command("run")
            assert done.returncode == 6, done.stderr
            assert "has the stocks feed" in done.stderr
            assert f"process {pipeline.process.pid}" in done.stderr
            assert KEY not in done.stderr
            pipeline.stop()
