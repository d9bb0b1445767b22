"""The whole pipeline as a person meets it: start, look, stop, start again; and what it says when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from health_checks import check_health
from page_checks import check_page
from pipeline_runs import END_S, Pipeline, until
from tapes import write_tape

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NERVOUS = """
golden_cross = { band_bps = 0.1, cooldown = "1s" }
death_cross = { band_bps = 0.1, cooldown = "1s" }
"""
EACH_BY_ITSELF = """
[notify]
limit = "1000/s"
burst = "0s"
hold_grade_d = false
"""
NOBODY = 65_534


def is_good(pipeline: Pipeline) -> bool:
    """Every room is well, and the past was fetched."""
    status = pipeline.status()
    rooms = [*status["feeds"], status["log"], status["engine"], status["store"]]
    return {(r["state"], r.get("detail")) for r in rooms} <= {("live", None), ("ok", None)} and pipeline.is_caught_up()


def everything_ended(pipeline: Pipeline) -> None:
    until(lambda: not pipeline.processes(), "every process of the pipeline has ended")


def kill_all(pipeline: Pipeline) -> None:
    """kill -9 of all processes at once: pipeline, simulator, database."""
    processes = pipeline.processes()
    assert len(processes) > 5
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()  # so that none can act on the end of another
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    everything_ended(pipeline)


# --- from start to stop ---------------------------------------------------------------------------------------------


def test_start_look_stop_start_again_and_after_a_kill_of_everything(tmp_path: Path) -> None:
    with Pipeline(tmp_path, WARMUP="20m") as pipeline:
        start_in_background(pipeline)
        until(lambda: is_good(pipeline), "all rooms are well")
        look_at_the_page(pipeline)
        look_into_the_database(pipeline)
        check_health(pipeline, "simulated")
        again = pipeline.command("run", "--detach")
        assert (again.returncode, again.stdout.splitlines()[0]) == (0, f"Tapewatch is already running: {pipeline.url}")
        until(lambda: pipeline.command("status").returncode == 0, "the command says that all is well")
        beside = pipeline.command("verify")
        assert (beside.returncode, beside.stdout.splitlines()[-1]) == (
            0,
            "The database is exactly what the log says.",
        ), beside.stdout

        stopped = pipeline.command("stop")
        assert stopped.returncode == 0
        assert re.fullmatch(r"Stopped the SIMULATED pipeline \(process \d+\)\.\n", stopped.stdout)
        assert pipeline.processes() == []
        assert pipeline.command("stop").stdout == "Nothing was running.\n"

        start_in_background(pipeline)
        kill_all(pipeline)
        start_in_background(pipeline)
        until(lambda: is_good(pipeline), "all rooms are well")
        assert pipeline.command("stop").returncode == 0
        assert pipeline.processes() == []
        verdict = pipeline.verify()
        assert verdict.is_good, verdict
        assert verdict.rows["feed_gaps"] > 0


def start_in_background(pipeline: Pipeline) -> None:
    done = pipeline.command("run", "--detach")
    assert done.returncode == 0, done.stderr
    said = re.match(r"Tapewatch is running: (http://127\.0\.0\.1:\d+/)\nData is SIMULATED: .*\.\n", done.stdout)
    assert said, done.stdout
    pipeline.url = said[1]


def look_at_the_page(pipeline: Pipeline) -> None:
    assert pipeline.status()["origin"] == "SIMULATED"
    page = pipeline.get("")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert pipeline.get("healthz").json() == {"status": "ok"}
    assert pipeline.ask("readyz") == {"ready": True, "reasons": []}
    assert {row["symbol"] for row in pipeline.ask("api/v1/stocks")} == {"AAPL", "TSLA", "GOOGL", "MSFT", "BTC"}


def look_into_the_database(pipeline: Pipeline) -> None:
    """The queries of a typical user."""
    with psycopg.connect(pipeline.conninfo("simulated")) as connection:
        latest = connection.execute("SELECT * FROM latest_stock_data")
        assert [c.name for c in latest.description or []] == [
            "symbol", "timestamp", "current_price", "ma_5min", "total_volume", "trend"
        ]  # fmt: skip
        rows = latest.fetchall()
        assert len(rows) == 5
        for _, _, price, average, _, trend in rows:
            assert trend == ("BULLISH" if price > average else "BEARISH" if price < average else "NEUTRAL")
        windows = connection.execute(
            "SELECT window_start, avg_price, ma_5min, total_volume FROM stock_aggregates"
            " WHERE symbol='AAPL' AND window_start > now() - interval '1 day' ORDER BY 1 DESC"
        ).fetchall()
        assert len(windows) > 15
        crosses = connection.execute(
            "SELECT symbol, (SELECT count(*) FROM get_golden_crosses(symbol, 24)),"
            " (SELECT count(*) FROM breakout_alerts a WHERE a.symbol = l.symbol AND kind = 'golden_cross'"
            "   AND status <> 'retracted') FROM latest_prices l"
        ).fetchall()
        assert [found for _, found, _ in crosses] == [there for _, _, there in crosses]
    until(lambda: psql_agrees(pipeline), "the command psql counts as we do")


def psql_agrees(pipeline: Pipeline) -> bool:
    """Whether both count the same; an alert may come between them."""
    question = "SELECT count(*) FROM get_golden_crosses('AAPL', 24)"
    with psycopg.connect(pipeline.conninfo("simulated"), autocommit=True) as connection:
        (number,) = connection.execute(question).fetchone() or (None,)
    asked = pipeline.command("psql", "-Atc", question)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.strip() == str(number)


def test_stop_ends_what_a_killed_pipeline_left_running(tmp_path: Path) -> None:
    with Pipeline(tmp_path, WARMUP="0s") as pipeline:
        pipeline.start()
        until(lambda: is_good(pipeline), "all rooms are well")
        pipeline.kill()
        assert pipeline.command("stop").returncode == 0
        everything_ended(pipeline)
        assert pipeline.verify().is_good


# --- what cannot be -------------------------------------------------------------------------------------------------


def refused(pipeline: Pipeline, code: int, says: str, *arguments: str, **more: Any) -> None:
    """`tapewatch run` ends with ``code`` and nothing but one sentence that matches; and leaves nothing running."""
    done = pipeline.command(*(arguments or ("run",)), **more)
    assert (done.returncode, done.stdout) == (code, ""), (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(rf"^tapewatch: .*{says}", done.stderr), done.stderr
    assert pipeline.processes() == []


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (("run",), {"SLIDE_DURATION": "7s"}, r"WINDOW_DURATION=5m must be a whole number .* of SLIDE_DURATION=7s"),
        (("run",), {"SIMULATOR_RATE": "fast"}, r"SIMULATOR_RATE='fast': "),
        (("run",), {"HTTP_HOST": "0.0.0.0"}, r"HTTP_HOST=0\.0\.0\.0 .*API_TOKEN"),
        (("run", "--replay", "missing.csv.gz"), {}, r"missing\.csv\.gz: there is no such file"),
        (("run", "--detach", "--replay", "missing.csv.gz"), {}, r"missing\.csv\.gz: there is no such file"),
        (("replay", "missing.csv.gz", "--out", "out"), {}, r"missing\.csv\.gz"),
        (("run", "--speed", "fast"), {}, r"--speed fast: expected a number above 0"),
    ],
)
def test_a_wrong_setting_or_argument(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    with Pipeline(tmp_path) as pipeline:
        refused(pipeline, 2, says, *arguments, **settings)


def test_a_file_that_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "day.csv.gz").write_bytes(b"not gzip")
    with Pipeline(tmp_path) as pipeline:
        refused(pipeline, 2, r"day\.csv\.gz: ", "run", "--replay", "day.csv.gz")


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_busy_port(tmp_path: Path, detach: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, Pipeline(tmp_path, WARMUP="0s") as pipeline:
        port = str(other.getsockname()[1])
        refused(
            pipeline, 6, rf"Cannot listen on HTTP_HOST=127\.0\.0\.1 HTTP_PORT={port}", "run", *detach, HTTP_PORT=port
        )


@pytest.mark.parametrize("detach", [(), ("--detach",)])
@pytest.mark.parametrize("rights", [0o555, 0o000])
def test_a_folder_that_cannot_be_written(tmp_path: Path, detach: tuple[str, ...], rights: int) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        works = subprocess.run([*prefix, sys.executable, "-c", "import tapewatch"], cwd="/", check=False)
        if works.returncode:
            pytest.skip("an ordinary user cannot run this Python")
    for parent in (tmp_path, *tmp_path.parents):
        if (mode := parent.stat().st_mode & 0o777) & 0o011 != 0o011:
            parent.chmod(mode | 0o011)
    place = tmp_path / "place"
    place.mkdir(mode=rights)
    with Pipeline(tmp_path) as pipeline:
        pipeline.data_dir = place / "data"
        says = r"DATA_DIR: .* cannot be written"
        refused(pipeline, 6, says, "run", *detach, prefix=prefix, DATA_DIR=str(pipeline.data_dir))
    place.chmod(0o755)


def test_a_database_that_refuses_connections(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        port = str(unused.getsockname()[1])
        with Pipeline(tmp_path, DB_HOST="127.0.0.1", DB_PORT=port, DB_PASSWORD="x") as pipeline:
            says = rf"Cannot reach the database at 127\.0\.0\.1:{port}/stockdb: .*refused"
            refused(pipeline, 5, says)


# --- trouble on the way ---------------------------------------------------------------------------------------------


def test_the_database_falls_silent_and_dies_and_nothing_is_lost(tmp_path: Path) -> None:
    with Pipeline(tmp_path, WARMUP="0s", SIMULATOR_RATE="50") as pipeline:
        pipeline.start()
        until(lambda: is_good(pipeline), "all rooms are well")
        server = database_server(pipeline)
        frozen = [server, *server.children()]
        for process in frozen:
            process.suspend()
        try:
            expect_store_down(pipeline)
        finally:
            for process in frozen:
                process.resume()
        until(lambda: is_good(pipeline), "the store is back")

        server.kill()
        until(lambda: database_server(pipeline).pid != server.pid, "the database was started again")
        until(lambda: is_good(pipeline), "the store is back")
        until(lambda: pipeline.get("readyz").status_code == 200, "it is ready")
        database_server(pipeline).kill()
        pipeline.stop()  # at once: the log holds what the database did not get
        verdict = pipeline.verify()
        assert verdict.is_good, verdict
        assert verdict.rows["feed_gaps"] == 0


def database_server(pipeline: Pipeline) -> psutil.Process:
    """The postmaster."""
    pid_file = pipeline.origin_folder("simulated") / "postgres" / "postmaster.pid"
    return until(lambda: running_process(pid_file), "the database runs")


def running_process(pid_file: Path) -> psutil.Process | None:
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def expect_store_down(pipeline: Pipeline) -> None:
    """The status says so within seconds, and the log goes on."""
    room = until(lambda: (r := pipeline.status()["store"])["state"] == "down" and r, "the store is shown as down")
    assert "New trades are kept in the log until it is back." in room["detail"]
    ready = pipeline.get("readyz")
    assert ready.status_code == 503
    assert any(reason.startswith("The store is down: ") for reason in ready.json()["reasons"])
    assert pipeline.get("api/v1/stocks").status_code == 503
    assert pipeline.get("healthz").status_code == 200
    end = pipeline.status()["log"]["end"]
    until(lambda: pipeline.status()["log"]["end"] > end + 300, "the log goes on")


# --- what is shown and told -----------------------------------------------------------------------------------------


def test_the_page_in_a_real_browser(tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text(NERVOUS)
    settings = {"WINDOW_DURATION": "50s", "SLIDE_DURATION": "10s", "ALERTS_FILE": str(tmp_path / "alerts.toml")}
    with Pipeline(tmp_path, WARMUP="5m", SIMULATOR_RATE="30", **settings) as pipeline:
        pipeline.start()
        until(lambda: is_good(pipeline), "all rooms are well")
        # A busy machine's database may be too slow for the server: the page asks again.
        asyncio.run(check_page(pipeline.url, forgiven="status of 503"))
        pipeline.stop()


@contextlib.contextmanager
def endpoint() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """An address that takes messages, and the list of them: key and body."""
    taken: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.headers["Idempotency-Key"], json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_is_told_every_confirmed_alert_once(tmp_path: Path) -> None:
    tape = write_tape(tmp_path, trades=3_000, minutes=30)
    (tmp_path / "alerts.toml").write_text(EACH_BY_ITSELF)
    settings = {"WEBHOOK_PRIVATE": "on", "ALERTS_FILE": str(tmp_path / "alerts.toml")}
    with endpoint() as (address, taken), Pipeline(tmp_path, WEBHOOK_URL=address, **settings) as pipeline:
        pipeline.start(*(word for path in tape for word in ("--replay", str(path))), "--speed", "max")
        until(pipeline.is_finished, "the recording is finished and stored")
        confirmed = pipeline.ask("api/v1/alerts?status=confirmed&limit=1000")
        assert len(confirmed) > 3
        until(lambda: set(notifications(pipeline, "webhook")) == {"delivered"}, "all are delivered")
        assert notifications(pipeline, "webhook") == {"delivered": len(confirmed)}
        assert pipeline.ask("api/v1/notifications?state=dead") == []
        pipeline.stop()
        times = Counter(body["alert_id"] for _, body in taken)
        assert times == Counter(alert["alert_id"] for alert in confirmed)
        assert len({key for key, _ in taken}) == len(taken)
        assert {(body["status"], body["origin"]) for _, body in taken} == {("confirmed", "REPLAYED")}
        assert all(body["text"].startswith("REPLAYED: ") for _, body in taken)


def notifications(pipeline: Pipeline, channel: str) -> dict[str, int]:
    """How many are in each state."""
    question = "SELECT state, count(*) FROM notifications WHERE channel = %s GROUP BY state"
    with psycopg.connect(pipeline.conninfo("replayed")) as connection:
        return dict(connection.execute(question, [channel]).fetchall())


MOMENTS = (
    "run.lock", "simulator.log", "postgres.lock", "postgres", "postgres/postmaster.pid", "log/log.db", "run.json",
)  # fmt: skip
"""Files of a first start, in the order of their making."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_of_the_start_ends_it_in_order(tmp_path: Path, moment: str) -> None:
    with Pipeline(tmp_path) as pipeline:
        had_database = signal_at(pipeline, moment, signal.SIGTERM)
        assert "Traceback" not in pipeline.last_words()
        assert "tapewatch: " not in pipeline.last_words()
        assert had_database or pipeline.last_words() == ""
        signal_at(pipeline, "run.json", signal.SIGTERM)
        assert pipeline.verify().is_good


@pytest.mark.parametrize("moment", ["simulator.log", "log/log.db"])
def test_ctrl_c_in_the_start_is_no_error(tmp_path: Path, moment: str) -> None:
    """It reaches what was started too: the programs of the same terminal."""
    with Pipeline(tmp_path) as pipeline:
        signal_at(pipeline, moment, signal.SIGINT, is_of_all=True)
        assert "tapewatch: " not in pipeline.last_words()


def signal_at(pipeline: Pipeline, moment: str, number: signal.Signals, *, is_of_all: bool = False) -> bool:
    """Start, signal when that file is there, perhaps to its whole group as a terminal does, and see it end.

    Gives whether it had its database by then: on a busy machine we may look long after the moment.
    """
    pipeline.spawn()
    process = pipeline.process
    assert process is not None
    until(lambda: (pipeline.origin_folder("simulated") / moment).exists() or process.poll() is not None, moment)
    assert process.poll() is None, pipeline.last_words()
    process.send_signal(signal.SIGSTOP)
    had_database = (pipeline.origin_folder("simulated") / "postgres" / "postmaster.pid").exists()
    (os.killpg if is_of_all else os.kill)(process.pid, number)
    process.send_signal(signal.SIGCONT)
    assert process.wait(END_S) == 0, pipeline.last_words()
    everything_ended(pipeline)
    return had_database
