"""Kafka and the database away for a while at full load, with every part a process of its own.

    market ─► tapewatch run (feed and page) ─► Kafka ─► tapewatch spark ─► database ─► the same page
                                               away                         away

Nothing may be lost, memory stays within its bounds, and a person is told. TAPEWATCH_OUTAGE_S says how long each is
away (two minutes by hand, a few seconds here), TAPEWATCH_RATE how many trades a second each of the five symbols has.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from test_kill import NERVOUS, RATE, SEED, SHORT, sent, trades_in
from test_spark import check

from pipeline_runs import START_S, Pipeline, market, until
from spark_runs import WITHIN_S, Cluster
from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import ensure_topic, open_lanes
from tapewatch.records import Origin, Tables
from tapewatch.settings import KAFKA_QUEUE_KBYTES_MAX

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

OUTAGE_S = float(os.environ.get("TAPEWATCH_OUTAGE_S", "3"))
TRADES_S = float(os.environ.get("TAPEWATCH_RATE", str(RATE)))
FEED_BYTES_MAX = KAFKA_QUEUE_KBYTES_MAX * 1024 + 64 * 2**20
"""By how much the feed may grow: what waits in librdkafka at most, the trades of the outage, and a little."""
JOB_BYTES_MAX = 512 * 2**20
"""By how much Java and the Python workers may grow: Java's own limit here."""


class Memory:
    """Watches how much some processes hold, and their children's."""

    def __init__(self, **processes: int) -> None:
        self._processes = processes
        self.most: dict[str, int] = {}

    def look(self) -> dict[str, int]:
        """What each holds now, in bytes."""
        return {name: sum(map(_held, _family(pid))) for name, pid in self._processes.items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the most that each has held."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.5):
                for name, held in self.look().items():
                    self.most[name] = max(held, self.most.get(name, 0))

        self.most = self.look()
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _held(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def is_told(pipeline: Pipeline, room: str, state: str, sentence: str) -> None:
    """The page, `/readyz` and the command that ``monitor_pipeline.sh`` runs say what is away."""
    until(lambda: pipeline.status()[room]["state"] == state, f"{room} is {state}")
    ready = pipeline.get("readyz")
    assert ready.status_code == 503
    assert sentence in " ".join(ready.json()["reasons"])
    until(lambda: is_shown(pipeline, sentence), f"the command says {sentence}")


def is_shown(pipeline: Pipeline, sentence: str) -> bool:
    """Whether the command says so; it has little patience with a busy machine, and then says that instead."""
    shown = pipeline.command("status")
    assert shown.returncode == 1, shown.stdout
    return sentence in " ".join(shown.stdout.split())


def away(pipeline: Pipeline, stop: Callable[[], None], start: Callable[[], object], told: tuple[str, str, str]) -> None:
    """Away for `OUTAGE_S`, told meanwhile, and told no more afterwards."""
    began = time.monotonic()
    stop()
    is_told(pipeline, *told)
    threading.Event().wait(max(0.0, OUTAGE_S - (time.monotonic() - began)))
    is_told(pipeline, *told)
    start()
    until(lambda: pipeline.get("readyz").status_code == 200, "all is well again", WITHIN_S)


def test_kafka_and_the_database_are_away_at_full_load_and_nothing_is_lost(tmp_path: Path) -> None:
    print(f"TAPEWATCH_SEED={SEED}")
    (tmp_path / "alerts.toml").write_text(NERVOUS)
    rules = {"ALERTS_FILE": str(tmp_path / "alerts.toml")}
    with Cluster(tmp_path, **SHORT, **rules) as cluster, market(tmp_path, SEED, TRADES_S) as exchange:
        live = {
            "MASSIVE_API_KEY": "anything", "MASSIVE_WS_URL": exchange.ws_url, "MASSIVE_REST_URL": exchange.rest_url,
            "WARMUP": "0s", "KAFKA_DEADLINE": "10s",
        }  # fmt: skip
        ensure_topic(cluster.place)  # with patience: a busy machine makes one slowly
        folder = tmp_path / "page"
        folder.mkdir()
        shared = {name: value for name, value in cluster.settings.items() if name != "DATA_DIR"}
        with Pipeline(folder, **shared | live) as pipeline:
            pipeline.start()
            cluster.start()
            cluster.wait_messages(1_000)
            until(lambda: pipeline.get("readyz").status_code == 200, "all is well", START_S)
            assert pipeline.process is not None
            assert cluster.process is not None
            memory = Memory(feed=pipeline.process.pid, job=cluster.process.pid)
            before = memory.look()
            with memory.watched():
                kafka = ("log", "waiting", "Kafka at ")
                away(pipeline, cluster.broker.kill, cluster.broker.start, kafka)
                cluster.wait_messages(1_000)
                database = ("store", "down", "database")
                away(pipeline, cluster.kill_database, cluster.postgres.revive, database)
                cluster.wait_messages(1_000)
            grown = {name: memory.most[name] - before[name] for name in before}
            print("MiB before, and grown at most:", {n: (before[n] >> 20, grown[n] >> 20) for n in before})
            assert grown["feed"] < FEED_BYTES_MAX
            assert grown["job"] < JOB_BYTES_MAX
            pipeline.stop()
        cluster.wait_caught_up()
        check(cluster)
        cluster.stop()
        tables = Tables()
        with closing(open_lanes(cluster.place, market_of)) as lanes:
            batches = list(lanes.recent(0, tables, Origin.LIVE))
        logged = trades_in(batches, tables)
        assert len(set(logged)) == len(logged), "doubled"
        missing = sent(batches, SEED, TRADES_S) - set(logged)
        assert missing == set(), (len(missing), sorted(missing, key=lambda t: t[1])[:5])
        print(f"trades {len(logged)}, of which none is missing")
