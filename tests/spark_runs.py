"""`tapewatch spark` run as a person runs it, on a broker, a database and folders of its own, and the proof of its rows.

    with Cluster(tmp_path) as cluster:
        cluster.produce(seed=1)               # a process that publishes a chaos log
        cluster.start()                       # `tapewatch spark`, until it says that it runs
        cluster.kill_driver()                 # kill -9 of the Python process alone
        …
        assert cluster.verdict().is_good

Leaving the block ends everything, however the test went.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import pyspark
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline_runs import clean_environment, until
from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import KafkaPlace, ensure_topic, open_lanes
from tapewatch.log.messages import MessageDecoder
from tapewatch.profiles.broker import Broker
from tapewatch.profiles.jars import ensure_jars
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rows import RunRows
from tapewatch.profiles.verify import Verdict
from tapewatch.profiles.verify_lanes import verify_lanes
from tapewatch.records import Batch, Changes, Tables
from tapewatch.settings import Settings
from tapewatch.store.embedded import EmbeddedPostgres
from trading_days import give_days

WITHIN_S = 600.0
TOPIC = "raw-trades"
SPARK = ("-m", "tapewatch", "spark")
RUNS = "The Spark job is running."
JAVA = {"SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""Java compiles quickly rather than well: none of its processes lives long here."""


@dataclass
class LaneLog:
    """All that one partition still holds: records, and how many messages were none."""

    lane: int
    batch: Batch
    tables: Tables
    rejected: list[str]


class Cluster:
    """Broker, database, producer and Spark job of one folder. ``settings`` are environment variables of the job."""

    def __init__(self, folder: Path, *, partitions: int = 3, **settings: str) -> None:
        folder.chmod(0o755)  # the database may run as another user
        self.folder = folder
        self.partitions = partitions
        self.broker = Broker(folder / "broker")
        self.postgres = EmbeddedPostgres(folder / "database", durable=False)
        self.data_dir = folder / "data"
        self.said = folder / "said.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.producer: subprocess.Popen[bytes] | None = None
        self.settings = settings
        self._feed: list[str] = []
        self._asking: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        try:
            servers = self.broker.start()
            dsn = self.postgres.start()
        except BaseException:
            self.__exit__()
            raise
        self.settings = {
            "DATA_DIR": str(self.data_dir), "CHECKPOINT_DIR": str(self.folder / "checkpoint"),
            "KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_PARTITIONS": str(self.partitions), "DB_HOST": dsn.host,
            "DB_PORT": str(dsn.port), "DB_NAME": dsn.dbname, "DB_USER": dsn.user, "DB_PASSWORD": dsn.password,
            "SPARK_MASTER": "local[2]", "SPARK_DRIVER_MEMORY": "512m", "SNAPSHOT_INTERVAL": "1s",
            "KAFKA_DEADLINE": "60s",
            **self.settings,
        }  # fmt: skip
        self.conninfo = dsn.conninfo
        give_days(self.data_dir)
        return self

    def __exit__(self, *_: object) -> None:
        self._ask_no_more()
        for process in (self.process, self.producer):
            if process is not None:
                process.kill()
                process.wait()
        for left in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        self.broker.kill()
        self.postgres.stop()

    # --- the job ---------------------------------------------------------------------------------------------------

    def spawn(self, *arguments: str, program: Sequence[str] = SPARK, **settings: str) -> None:
        """Start `tapewatch spark` and do not wait for it."""
        with self.said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, env=self._environment(settings),
            )  # fmt: skip

    def start(self, *arguments: str, program: Sequence[str] = SPARK, **settings: str) -> None:
        """Start it; until it says that it runs."""
        before = self.words().count(RUNS)
        self.spawn(*arguments, program=program, **settings)
        until(lambda: self._alive() and self.words().count(RUNS) > before, "the job runs", WITHIN_S)

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`tapewatch spark` to its end."""
        return subprocess.run(
            [sys.executable, *SPARK, *arguments], cwd=self.folder, env=self._environment(settings),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The packaged job, by `spark-submit`, to its end."""
        program = Path(pyspark.__file__).parent / "bin" / "spark-submit"
        job = Path(__file__).parents[1] / "deploy" / "spark" / "job.py"
        options = ["--master", "local[2]", "--driver-memory", "512m", "--driver-class-path"]
        return subprocess.run(
            [program, *options, ":".join(map(str, ensure_jars("spark"))), job, *arguments], cwd=self.folder,
            env=self._environment({"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return clean_environment(**JAVA, **self.settings | more)

    def words(self) -> str:
        """All that the job has said."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def kill_driver(self) -> None:
        """kill -9 of the Python process alone; Java and the workers notice."""
        assert self._alive()
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_worker(self, choose: int) -> None:
        """kill -9 of one of Spark's Python workers."""
        assert self.process is not None

        def workers() -> list[psutil.Process]:
            assert self._alive()
            return self.workers()

        found = until(workers, "a Python worker is there", WITHIN_S)
        with contextlib.suppress(psutil.NoSuchProcess):
            found[choose % len(found)].kill()

    def workers(self) -> list[psutil.Process]:
        """Spark's Python workers: forked by its daemon."""
        assert self.process is not None
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    parent = process.parent()
                    if _is_daemon(process) and parent is not None and _is_daemon(parent):
                        found.append(process)
        return found

    def stop(self) -> None:
        """SIGTERM; it has to end in order, and nothing be left."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WITHIN_S) == 0, self.words()[-3_000:]
        self.wait_gone()

    def wait_gone(self) -> None:
        """Until no process of the job is left: neither Java nor Python."""
        until(lambda: not self.left(), "nothing of the job is left", WITHIN_S)

    def wait_gone_but_producer(self) -> None:
        """The same, but for the producer, which goes on."""
        spared = {self.producer.pid} if self.producer else set()
        until(lambda: not [p for p in self.left() if p.pid not in spared], "nothing of the job is left", WITHIN_S)

    def left(self) -> list[psutil.Process]:
        """Every process of our jobs and producers: they have our folder in their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                is_other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
                if is_other and process.environ().get("DATA_DIR") == str(self.data_dir):
                    found.append(process)
        return found

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.words()[-3_000:]}"
        return True

    # --- broker, database, producer --------------------------------------------------------------------------------

    def restart_broker(self) -> None:
        """kill -9, and start again on the same port and data."""
        self.broker.kill()
        assert self.broker.start() == self.settings["KAFKA_BOOTSTRAP_SERVERS"]

    def kill_database(self) -> None:
        """kill -9 of the server and all its processes."""
        pid = self.postgres.pid
        assert pid is not None
        server = psutil.Process(pid)
        for process in [server, *server.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: self.postgres.pid is None, "the database is dead", WITHIN_S)

    def restart_database(self) -> None:
        """kill -9, and start again on the same port and data."""
        self.kill_database()
        self.postgres.revive()
        assert self.postgres.dsn.conninfo == self.conninfo, "the port was taken"

    def produce(self, seed: int, *, seconds: int, piece: int = 150, pause_s: float = 0.1) -> None:
        """Start a process that publishes a chaos log."""
        self._feed = [str(value) for value in (seed, seconds, piece, pause_s)]
        self.resume_producer()

    def resume_producer(self) -> None:
        """Start it again: it goes on after what the topic shows."""
        script = Path(__file__).with_name("log_producer.py")
        place = [self.settings["KAFKA_BOOTSTRAP_SERVERS"], TOPIC, str(self.partitions)]
        with (self.folder / "producer.txt").open("ab") as said:
            self.producer = subprocess.Popen(
                [sys.executable, str(script), *place, *self._feed], cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, env=clean_environment(DATA_DIR=str(self.data_dir)),
            )  # fmt: skip

    def kill_producer(self) -> None:
        """kill -9."""
        assert self.producer is not None
        self.producer.kill()
        self.producer.wait()

    def publish(self, *values: bytes, key: str = "AAPL", lane: int = -1) -> None:
        """Type messages by hand."""
        ensure_topic(self.place)
        producer = Producer({"bootstrap.servers": self.place.servers, "partitioner": "murmur2_random"})
        for value in values:
            producer.produce(TOPIC, value, key, lane)
        assert producer.flush(WITHIN_S) == 0

    # --- what can be seen ------------------------------------------------------------------------------------------

    @property
    def place(self) -> KafkaPlace:
        return KafkaPlace(self.settings["KAFKA_BOOTSTRAP_SERVERS"], TOPIC, self.partitions, deadline_ms=60_000)

    def extents(self) -> dict[int, tuple[int, int]]:
        """First and next offset of each lane in Kafka."""
        with contextlib.closing(open_lanes(self.place, market_of)) as lanes:
            return lanes.extents()

    def positions(self) -> dict[int, int]:
        """How far each lane is in the database; nothing while it does not answer."""
        try:
            if self._asking is None or self._asking.closed:
                self._asking = psycopg.connect(self.conninfo, connect_timeout=2, autocommit=True)
            query = "SELECT lane, position FROM engine_state"
            return {int(lane): at for lane, at in self._asking.execute(query)}
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            self._ask_no_more()
            return {}

    def _ask_no_more(self) -> None:
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def wait_messages(self, more: int) -> None:
        """Until so many more messages are computed."""
        self.positions()  # the connection may be of a server that was killed
        before = sum(self.positions().values())

        def is_there() -> bool:
            return (self.process is None or self._alive()) and sum(self.positions().values()) >= before + more

        until(is_there, f"{more} more messages are computed", WITHIN_S)

    def wait_caught_up(self) -> None:
        """Until the database holds all that Kafka holds now."""
        ends = {lane: end for lane, (_, end) in self.extents().items() if end}
        until(lambda: self._alive() and self.positions() == ends, "all is computed", WITHIN_S)

    def rows(self) -> RunRows:
        """What the database holds."""
        return RunRows.of_database(self.conninfo)

    def parts(self) -> Parts:
        fields = {str(field.alias): name for name, field in Settings.model_fields.items()}
        return Parts.load(Settings(_env_file=None, **{fields[name]: value for name, value in self.settings.items()}))

    def logs(self) -> list[LaneLog]:
        """All that Kafka holds, lane by lane."""
        return [_lane_log(self.place, lane, first, end) for lane, (first, end) in self.extents().items()]

    def expected(self) -> RunRows:
        """What the engine makes of the very messages that Kafka holds, each lane from its start."""
        parts, windows, bars, alerts = self.parts(), list[Any](), list[Any](), list[Any]()
        for log in self.logs():
            engine, results = parts.engine(log.tables), list[Changes]()
            for start in range(0, len(log.batch), 20_000):
                engine.step(log.batch.slice(start, min(start + 20_000, len(log.batch))))
                results.append(engine.drain())
            rows = RunRows.of_changes(results, log.tables)
            windows, bars, alerts = windows + rows.windows, bars + rows.bars, alerts + rows.alerts
        key = lambda row: row[:2]  # noqa: E731
        return RunRows(sorted(windows, key=key), sorted(bars, key=key), sorted(alerts, key=_moment))

    def verdict(self) -> Verdict:
        """`tapewatch verify`: every row against the plain oracle's, computed anew from Kafka's messages."""
        return verify_lanes(self.place, self.conninfo, self.parts())

    def check_unique(self) -> tuple[int, int]:
        """Alerts and outbox rows are there once each; how many."""
        with psycopg.connect(self.conninfo) as connection:
            alerts = connection.execute("SELECT count(*), count(DISTINCT alert_id) FROM breakout_alerts").fetchone()
            notes = connection.execute(
                "SELECT count(*), count(DISTINCT (alert_id, channel, event)) FROM notifications"
            ).fetchone()
        assert alerts is not None
        assert notes is not None
        assert alerts[0] == alerts[1]
        assert notes[0] == notes[1]
        return alerts[0], notes[0]


def _is_daemon(process: psutil.Process) -> bool:
    return any("pyspark.daemon" in word or "pyspark/daemon" in word for word in process.cmdline())


def _moment(alert: Any) -> tuple[int, str]:
    return alert.pane_start_ms, alert.alert_id


def messages(servers: str, topic: str, lane: int, first: int, end: int) -> Iterator[Any]:
    """Messages [first, end) of a lane, as they are."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "tests", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, lane, first)])
        deadline = time.monotonic() + WITHIN_S
        while first < end:
            assert time.monotonic() < deadline, f"lane {lane}: {end - first} messages cannot be read"
            for message in consumer.consume(10_000, 0.1):
                assert message.error() is None, message.error()
                if (offset := message.offset()) < end:
                    yield message
                first = max(first, offset + 1)
    finally:
        consumer.close()


def _lane_log(place: KafkaPlace, lane: int, first: int, end: int) -> LaneLog:
    tables = Tables()
    decoder = MessageDecoder(tables, market_of)
    found = list(messages(place.servers, place.topic, lane, first, end))
    decoded = decoder.decode([one.value() for one in found], [one.timestamp()[1] for one in found])
    return LaneLog(lane, decoded.batch, tables, [one.reason for one in decoded.rejected])
