"""From the decision of an alert to the receiver that has accepted it; and what a storm of alerts does to the data.

    python bench/notify.py [--quick]

*Delivery*: a database, the gate and the sender's process, as a pipeline has them. An alert is stamped; after the
longest wait for a commit (COMMIT_INTERVAL) its message is written in a transaction, and the gate is woken as the
engine's commit does it. A webhook in a process of its own notes when each message is there.

*Storm*: a whole pipeline at a steady rate of trades. Three times half a minute without and one with 1,000 alerts
written at its beginning; each frame's way from the socket to the committed row is measured, as in latency.py. All must
be told, in messages of their own or in a digest, and the channel gets no more than its limit.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing as mp
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psycopg

from latency import Milliseconds, Seen, watch_rows
from pipeline import Pipeline, SenderProcess
from report import Figure, main, print_figures
from tapewatch.notify.outbox import notifications_for
from tapewatch.profiles.telling import Telling
from tapewatch.records import Alert, AlertStatus, Changes, Notification, Origin
from tapewatch.rules.channels import NotifyOptions, Rate
from tapewatch.rules.model import Rules
from tapewatch.settings import Settings
from tapewatch.store.arrays import register
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.pieces import pieces_of
from tapewatch.store.writer import StoreWriter

RATE = 10
COMMIT_S = 0.025
TARGET_MS = 200
STORM = 1_000
STRETCH_S = 30.0
TRADES_RATE = 2_000
SYMBOLS = "AAPL,TSLA,GOOGL,MSFT,NVDA"
CHANNEL_LIMIT = 20
ALERTS = f"""
[channels.desk]
kind = "webhook"
url = "URL"
private = true
limit = "{CHANNEL_LIMIT}/s"

[notify]
limit = "20/m"
hold_grade_d = false
digest = "10s"
"""


def _receive(port: Connection) -> None:
    """A webhook; gives its port, then, when asked, when each message came, in ns."""
    came: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.headers["Idempotency-Key"], time.time_ns()))
            self.send_response(204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port.send(server.server_address[1])
    while port.recv():
        port.send(list(came))


class Webhook:
    """The receiver, in its own process."""

    def __init__(self) -> None:
        self._pipe, other = mp.Pipe()
        self._process = mp.get_context("spawn").Process(target=_receive, args=(other,), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}/"

    def came(self) -> list[tuple[str, int]]:
        """Every message so far."""
        self._pipe.send(True)
        return list(self._pipe.recv())

    def close(self) -> None:
        """End it."""
        self._pipe.send(False)
        self._process.join(5)


@contextmanager
def webhook() -> Iterator[Webhook]:
    """One that goes with the block."""
    found = Webhook()
    try:
        yield found
    finally:
        found.close()


def notification(name: str, symbol: str, channel: str) -> Notification:
    """A confirmed golden cross, as the engine's commit writes it."""
    now_ms = time.time_ns() // 1_000_000
    alert = Alert(
        alert_id=name, rule="golden_cross", rule_version="1", kind="golden_cross", symbol=symbol, direction=1,
        status=AlertStatus.CONFIRMED, pane_start_ms=now_ms // 60_000 * 60_000, triggered_ms=now_ms, decided_ms=now_ms,
        price=190.12, line=190.0, late=False, offset=7, evidence={},
    )  # fmt: skip
    (found,) = notifications_for(alert, [channel], "confirmed", Origin.LIVE)
    return found


def write(connection: psycopg.Connection[tuple[object, ...]], notifications: list[Notification]) -> None:
    """In one transaction, as the engine's commit does."""
    none = np.empty(0)
    register(connection)
    with connection.transaction(), connection.cursor() as cursor:
        for piece in pieces_of(Changes((), none, none, none, none, [], []), notifications, 0):
            piece.write(cursor)


async def _deliver(seconds: float) -> Milliseconds:
    """Milliseconds from each decision to its arrival."""
    with webhook() as hook, tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as folder:
        settings = Settings(_env_file=None, DATA_DIR=folder, WEBHOOK_URL=hook.url, WEBHOOK_PRIVATE="on")
        place = Path(folder) / "live"
        place.mkdir()
        postgres = EmbeddedPostgres(place, settings.db_name)
        await asyncio.to_thread(postgres.start)
        try:
            store = StoreWriter.connect(postgres.dsn.conninfo)
            store.initialise()
            store.close()
            return await _timed(settings, postgres.dsn.conninfo, hook, round(seconds * RATE))
        finally:
            await asyncio.to_thread(postgres.stop)


async def _timed(settings: Settings, info: str, hook: Webhook, number: int) -> Milliseconds:
    decided: dict[str, int] = {}
    loose = NotifyOptions(limit=Rate(100_000, 60_000), burst_ms=0)
    async with AsyncExitStack() as undo:
        telling = Telling(
            settings, info, Origin.LIVE, rules=Rules, options=lambda: loose, link="", on_end=lambda _: None
        )  # fmt: skip
        await telling.start(undo)
        connection = undo.enter_context(psycopg.connect(info, autocommit=True))
        warm = 20
        for count in range(-warm, number):
            if count == 0:
                await _arrived(hook, warm)  # the process of the channels has come up
            began = time.monotonic()
            n = notification(f"b{count}", f"S{count % 50}", "webhook")
            decided[n.id] = time.time_ns()
            await asyncio.sleep(COMMIT_S)
            await asyncio.to_thread(write, connection, [n])
            telling.wake()
            await asyncio.sleep(max(0.0, 1 / RATE - (time.monotonic() - began)))
        await _arrived(hook, warm + number)
    came = dict(hook.came())
    return np.array([(came[key] - at) / 1e6 for key, at in list(decided.items())[warm:]])


async def _arrived(hook: Webhook, number: int) -> None:
    """Until so many messages are there."""
    async with asyncio.timeout(60):
        while len(hook.came()) < number:
            await asyncio.sleep(0.1)


def storm(stretches: int) -> tuple[Milliseconds, Milliseconds, float, int, int]:
    """Socket to row without and with a storm; the seconds until all was told; messages, and the most in any second."""
    seconds = 2 * stretches * STRETCH_S
    sender = SenderProcess(SYMBOLS, TRADES_RATE, 6 + seconds)
    try:
        with webhook() as hook, tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as folder:
            (Path(folder) / "alerts.toml").write_text(ALERTS.replace("URL", hook.url))
            with Pipeline(url=sender.url, symbols=SYMBOLS, folder=Path(folder)) as pipeline:
                seen = Seen()
                thread = threading.Thread(target=watch_rows, args=(seen, pipeline.conninfo))
                thread.start()
                time.sleep(6)
                edges = _stretches(pipeline, stretches)
                sent = sender.wait()
                pipeline.wait_stored(sent.trades)
                told = _until_told(pipeline)
                seen.stop.set()
                thread.join(10)
                came = [at for _, at in hook.came()]
    finally:
        sender.close()
    lags = seen.latencies_ms(sent.frames_ns, sent.per_frame, 0)
    frames = np.array(sent.frames_ns)
    parts = [lags[(frames >= first) & (frames < last)] for first, last in itertools.pairwise(edges)]
    most = max(sum(at <= other < at + 1_000_000_000 for other in came) for at in came)
    return np.concatenate(parts[::2]), np.concatenate(parts[1::2]), told, len(came), most


def _stretches(pipeline: Pipeline, stretches: int) -> list[int]:
    """When each stretch began and the last ended, in ns. Every second one begins with a storm, of as many symbols."""
    edges = [time.time_ns()]
    with psycopg.connect(pipeline.conninfo, autocommit=True) as connection:
        for number in range(stretches):
            made = [notification(f"s{number}-{i}", f"S{i}", "desk") for i in range(STORM)]
            time.sleep(STRETCH_S)
            edges.append(time.time_ns())
            write(connection, made)
            time.sleep(STRETCH_S)
            edges.append(time.time_ns())
    return edges


def _until_told(pipeline: Pipeline) -> float:
    """The longest time between the writing of a message and its telling, in seconds; waits until all are told."""
    deadline = time.monotonic() + 60
    question = "SELECT count(*) FROM notifications WHERE state IN ('new', 'held', 'waiting') AND channel = 'desk'"
    while pipeline.database.execute(question).fetchone() != (0,):
        assert time.monotonic() < deadline, "some were not told"
        time.sleep(0.2)
    rows = pipeline.database.execute(
        "SELECT n.created_at, COALESCE(n.delivered_at, t.delivered_at) FROM notifications n "
        "LEFT JOIN notifications t ON t.id = n.told_by WHERE n.channel = 'desk'"
    ).fetchall()
    assert all(told is not None for _, told in rows), "folded into something that was not sent"
    return max((told - made).total_seconds() for made, told in rows)


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    repetitions, seconds, stretches = (1, 5, 1) if quick else (3, 30, 3)
    runs = [asyncio.run(_deliver(seconds)) for _ in range(repetitions)]
    figures = [
        Figure(
            name=f"decision to accepted by a webhook, {words}", note=f"{RATE} alerts/s", unit="ms",
            values=[float(np.percentile(run, percent)) for run in runs], target=TARGET_MS if percent == 99 else None,
        )
        for words, percent in (("p50", 50), ("p99", 99), ("max", 100))
    ]  # fmt: skip
    quiet, stormy, told, messages, most = storm(stretches)
    p99s = [float(np.percentile(lags, 99)) for lags in (quiet, stormy)]
    note = f"{TRADES_RATE:,} trades/s"
    figures += [
        Figure(name="socket to row, p99, without alerts", note=note, unit="ms", values=p99s[:1]),
        Figure(name=f"socket to row, p99, {STORM:,} alerts at once", note=note, unit="ms", values=p99s[1:]),
        Figure(name="the same as a share of that without", unit="%", values=[100 * p99s[1] / p99s[0]], target=110),
        Figure(name="socket to row, max, without alerts", note=note, unit="ms", values=[float(quiet.max())]),
        Figure(name=f"socket to row, max, {STORM:,} at once", note=note, unit="ms", values=[float(stormy.max())]),
        Figure(name=f"until all of {STORM:,} at once are told", note="digest every 10 s", unit="s", values=[told]),
        Figure(name="messages that told them", note=f"{stretches} storms", unit="", values=[float(messages)]),
        Figure(
            name="most of them in a second", note="the channel's limit", unit="", values=[float(most)],
            target=CHANNEL_LIMIT,
        ),
    ]  # fmt: skip
    print_figures(figures)
    return figures


if __name__ == "__main__":
    print(f"  {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    main("From the decision of an alert to its receiver, and a storm of alerts", measure)
