"""`tapewatch alerts`, against a real server over the fake market."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_fake import FakeMarket, many_symbols, running
from tapewatch.cli import execute
from tapewatch.profiles.instance import Instance, Role
from tapewatch.records import Origin


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs commands one after the other beside a running server; their exit codes."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("API_TOKEN", raising=False)

    def run(market: FakeMarket, *commands: list[str]) -> list[int]:
        async def play() -> list[int]:
            async with running(market) as (server, _):
                with Instance(tmp_path / "simulated", Origin.SIMULATED, Role.RUN) as instance:
                    instance.announce(server.url)
                    return [await asyncio.to_thread(execute, ["alerts", *command]) for command in commands]

        return asyncio.run(play())

    return run


def test_acknowledge_mute_and_test(told: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    market = FakeMarket(many_symbols(2))
    market.life.down("store", "The database does not answer.")
    alert_id = list(market.alert_rows)[-1]
    codes = told(
        market,
        ["ack", alert_id, "--by", "ann", "--note", "sold"],
        ["list", "--limit", "100"],
        ["mute", "--symbol", "tsla", "--for", "1h", "--note", "earnings"],
        ["mutes"],
        ["unmute", "m1"],
        ["test"],
        ["unack", alert_id],
    )
    assert codes == [0] * 7
    said = capsys.readouterr().out
    assert f"{alert_id} is acknowledged." in said
    assert "SYSTEM DOWN  The database does not answer." in said
    assert f"seen by ann  ({alert_id})" in said
    assert said.count("TSLA until ") == 2
    assert ", by command: earnings" in said
    assert "Nothing is muted." in said
    assert "test-1 is on its way." in said
    assert market.alert_rows[alert_id]["acknowledged_at"] is None


def test_what_is_refused_is_said(told: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    codes = told(FakeMarket(many_symbols(1)), ["ack", "nothing"], ["mute", "--for", "1h"], ["unmute", "m9"])
    assert 0 not in codes
    said = capsys.readouterr().err
    assert "There is no alert nothing" in said
    assert "to mute everything, say all: true" in said
    assert "There is no mute m9, or it is over" in said


def test_without_a_pipeline_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert execute(["alerts", "mutes"]) != 0
    assert "Tapewatch is not running here" in capsys.readouterr().err
