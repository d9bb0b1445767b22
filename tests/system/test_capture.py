"""Raw captures and Coinbase as a person uses them: commands as processes, a kill, a replay, the same log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pipeline_runs import END_S, START_S, Pipeline, clean_environment, until
from tapewatch.capturefile import CaptureReader, Framed, captures_in_order, is_capture
from tapewatch.profiles.captured import captured_log
from tapewatch.records import COLUMNS, Batch, Kind, Market, Tables
from test_feed_coinbase import heartbeat, match, subscriptions
from test_feed_coinbase_history import Exchange

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def rows(batches: list[Batch], tables: Tables) -> dict[Market, list[tuple[Any, ...]]]:
    """Every column of every record, as values, by market; in a log the markets may be mixed in any way.

    But for the rules, which are of every market and of no capture.
    """
    found: dict[Market, list[tuple[Any, ...]]] = {}
    for batch in batches:
        columns = [getattr(batch, name).tolist() for name in COLUMNS]
        columns[COLUMNS.index("symbol")] = [tables.symbols.values[i] if i >= 0 else "" for i in batch.symbol.tolist()]
        columns[COLUMNS.index("conditions")] = [tables.conditions.values[i] for i in batch.conditions.tolist()]
        for row in zip(*columns, batch.ids, strict=True):
            if row[0] != Kind.RULES:
                found.setdefault(Market(row[1]), []).append(row)
    return found


def captured(*paths: Path) -> dict[Market, list[tuple[Any, ...]]]:
    """The records of captures, computed without sockets."""
    tables = Tables()
    return rows([captured_log(paths, tables, 60_000).batch], tables)


def logged(pipeline: Pipeline, origin: str) -> dict[Market, list[tuple[Any, ...]]]:
    """The records of a pipeline's log."""
    batches, tables = pipeline.records(origin)
    return rows(batches, tables)


def replayed(pipeline: Pipeline, *paths: Path) -> None:
    """Play captures through the whole pipeline, and compare its log with what they hold."""
    pipeline.start(*(word for path in paths for word in ("--replay", str(path))), "--speed", "max")
    until(pipeline.is_finished, "the recording is finished, logged and stored")
    pipeline.stop()
    verdict = pipeline.verify("replayed")
    assert verdict.is_good, verdict
    expected = captured(*paths)
    assert all(logged(pipeline, "replayed")[market][: len(expected[market])] == expected[market] for market in expected)
    for market, found in logged(pipeline, "replayed").items():
        assert {row[0] for row in found[len(expected[market]) :]} == {Kind.TICK}, "only the ticks that settle its end"


def test_a_capture_beside_a_pipeline_is_its_log(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    settings = {"SYMBOLS": "AAPL,MSFT,BTC", "SIMULATOR_RATE": "100", "WARMUP": "0s", "CAPTURE_DIR": str(captures)}
    with Pipeline(tmp_path, **settings) as pipeline:
        pipeline.start()
        until(pipeline.is_live, "the feeds are live")
        until(lambda: sum(map(len, pipeline.records("simulated")[0])) > 3_000, "some thousand records")
        pipeline.stop()
        live = logged(pipeline, "simulated")
        files = sorted(captures.iterdir())
        assert all(reader.stopped == "" for reader in read_through(files))
        assert captured(*files) == live
        replayed(pipeline, *files)


def read_through(paths: list[Path]) -> list[CaptureReader]:
    readers = captures_in_order(paths)
    for reader in readers:
        for _ in reader:
            pass
    return readers


@contextmanager
def recording(out: str, folder: Path, frames_min: int, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tapewatch record`, once it has written some frames. What it says is in ``recording.txt``."""

    def frames() -> int:
        assert process.poll() is None, said.read_text()
        # The file is there a moment before its first line is.
        return sum(isinstance(line, Framed) for line in CaptureReader(folder / out)) if is_capture(folder / out) else 0

    said = folder / "recording.txt"
    command = [sys.executable, "-m", "tapewatch", "record", "--out", out]
    with (
        said.open("wb") as file,
        subprocess.Popen(command, cwd=folder, env=clean_environment(**settings), stdout=file, stderr=file) as process,
    ):
        try:
            until(lambda: frames() >= frames_min, f"{frames_min} frames", START_S)
            yield process
        finally:
            process.kill()


def test_a_recording_that_is_killed_is_played_to_its_last_line(tmp_path: Path) -> None:
    out = tmp_path / "killed.jsonl.gz"
    settings = {"DATA_DIR": str(tmp_path / "data"), "SIMULATOR_RATE": "100", "SYMBOLS": "AAPL,BTC"}
    with recording(str(out), tmp_path, 50, **settings) as process:
        process.kill()
    assert "Recording into" in (tmp_path / "recording.txt").read_text()
    reader = CaptureReader(out)
    assert len(list(reader)) >= 50
    assert "was not finished, as after a kill" in reader.stopped
    with Pipeline(tmp_path) as pipeline:
        replayed(pipeline, out)
        done = pipeline.command("replay", str(out), "--out", str(tmp_path / "rows"))
        assert done.returncode == 0, done.stderr
        assert "was not finished, as after a kill" in done.stdout
        assert "was not finished, as after a kill" in pipeline.last_words()


def test_a_recording_that_is_ended_is_whole_and_never_written_over(tmp_path: Path) -> None:
    with Pipeline(tmp_path, SYMBOLS="BTC") as pipeline:
        with recording("a.gz", tmp_path, 1, **pipeline.settings) as process:
            process.terminate()
            assert process.wait(END_S) == 0
        said = (tmp_path / "recording.txt").read_text()
        assert "frames" in said.splitlines()[-1]
        assert read_through([tmp_path / "a.gz"])[0].stopped == ""
        again = pipeline.command("record", "--out", "a.gz")
        assert again.returncode == 2
        assert "a capture is never written over" in again.stderr


class Coinbase(Exchange):
    """The exchange's stream, which goes on until its end, beside its REST."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = ""
        self.sent = 0


@contextmanager
def coinbase() -> Iterator[Coinbase]:
    exchange = Coinbase()
    ready, ended = threading.Event(), threading.Event()

    async def speak(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await speak_on(connection)

    async def speak_on(connection: ServerConnection) -> None:
        asked = json.loads(await connection.recv())
        await connection.send(subscriptions(*asked["product_ids"]), text=True)
        while True:
            exchange.sent += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            number = exchange.sent if exchange.sent < 20 else exchange.sent + 5  # with a hole
            await connection.send(match(number, price=f"{60_000 + exchange.sent}.25", time=now), text=True)
            await connection.send(heartbeat(number), text=True)
            await asyncio.sleep(0.05)

    async def listen() -> None:
        async with serve(speak, "127.0.0.1", 0, close_timeout=0.2) as server:
            exchange.stream = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()
            await asyncio.to_thread(ended.wait)

    with exchange.running():
        thread = threading.Thread(target=asyncio.run, args=(listen(),))
        thread.start()
        try:
            assert ready.wait(120)
            yield exchange
        finally:
            ended.set()
            thread.join()


def gaps(pipeline: Pipeline) -> list[str]:
    """Those that the log tells of."""
    batches, _ = pipeline.records("live")
    return [text for b in batches for kind, text in zip(b.kind.tolist(), b.ids, strict=True) if kind == Kind.GAP]


def test_one_setting_shows_real_coins(tmp_path: Path) -> None:
    with coinbase() as exchange:
        addresses = {"COINBASE_WS_URL": exchange.stream, "COINBASE_REST_URL": exchange.url}
        with Pipeline(tmp_path, FEED="coinbase", SYMBOLS="BTC", **addresses) as pipeline:
            pipeline.start()
            until(lambda: pipeline.get("api/v1/stocks/BTC/latest").status_code == 200, "a price")
            until(lambda: exchange.sent > 40, "trades behind the hole")
            until(pipeline.is_live, "the feed is live")
            status = pipeline.status()
            assert (status["origin"], status["source"]) == ("LIVE", "Coinbase")
            assert [feed["market"] for feed in status["feeds"]] == ["crypto"]
            assert pipeline.ask("api/v1/stocks/BTC/latest")["price"] > 60_000
            until(lambda: any('"sequence"' in text and '"BTC"' in text for text in gaps(pipeline)), "the hole is a gap")
            pipeline.stop()
            assert pipeline.verify("live").is_good
            assert any(path == "/products/BTC-USD/trades" for path, _, _ in exchange.asked)
            mixed = pipeline.command("run", FEED="massive", MASSIVE_API_KEY="x" * 8, SYMBOLS="BTC")
            assert mixed.returncode == 2
            assert "holds live data of Coinbase, and FEED=massive would be mixed into it" in mixed.stderr


def test_stocks_with_coinbase_end_the_start_with_a_sentence(tmp_path: Path) -> None:
    with Pipeline(tmp_path, FEED="coinbase", SYMBOLS="AAPL,BTC") as pipeline:
        for command in ("run", "record"):
            done = pipeline.command(command)
            assert done.returncode == 2
            assert "FEED=coinbase has coins only, and SYMBOLS names AAPL" in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
