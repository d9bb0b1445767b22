"""`tapewatch spark`: what the driver does around the query.

    settings ─► topic ─► database ─► checkpoint: this job's? ─► where each lane begins ─► query, until a signal or error

An error of ours that was raised in a worker arrives here wrapped in Java's; it is unwrapped to its sentence. While
Kafka is away, or the database when a lane begins, the query is begun again and again: it goes on where it was.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyspark
import structlog
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from tapewatch import errors
from tapewatch.engine.state import fingerprint
from tapewatch.errors import (
    LogLost,
    LogUnavailable,
    MachineBusy,
    MachineError,
    StoreMismatch,
    StoreUnavailable,
    TapewatchError,
)
from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import KafkaPlace, TopicInfo, ensure_topic, open_lanes
from tapewatch.metrics_server import SHARED
from tapewatch.profiles.alertsfile import read_alerts_file
from tapewatch.profiles.checkpoint import Checkpoint, Made
from tapewatch.profiles.java_words import listening
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.spark import Job, LanePlan
from tapewatch.profiles.spark_watch import BatchWatch
from tapewatch.records import Tables
from tapewatch.settings import Settings
from tapewatch.store.connect import conninfo
from tapewatch.store.writer import Recovered, StoreWriter

__all__ = ["Choices", "run_spark", "spark_session"]

_log = structlog.get_logger(__name__)
EARLIEST: Final = -2
_NAKED: Final = "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem"
_OURS: Final = re.compile(r"tapewatch\.errors\.(\w+): (.+)")
_LOST: Final = re.compile(r"KAFKA_DATA_LOSS|some data may have been lost|OffsetOutOfRange", re.IGNORECASE)
_AWAY: Final = re.compile(
    r"org\.apache\.kafka\.common\.errors\.(Timeout|Disconnect|Network|BrokerNotAvailable|LeaderNotAvailable|"
    r"NotLeaderOrFollower|UnknownTopicOrPartition)Exception|TimeoutException: Cannot fetch record"
)
_BUSY: Final = "Python worker failed to connect back"
_LOCAL: Final = re.compile(r"local(?:\[([0-9]+|\*)\])?")
TASK_TRIES: Final = 4
_LOOK_S: Final = 0.25
_AGAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person may decide at the start."""

    accept_loss: bool = False
    """Messages that Kafka no longer keeps become a gap."""
    forget_checkpoint: bool = False
    """Begin at the database's snapshots."""
    rebuild: bool = False
    """Empty the computed tables and compute every row anew from what Kafka keeps."""
    once: bool = False
    """End when all that is there now is computed."""


def run_spark(settings: Settings, choices: Choices, jars: Sequence[Path]) -> None:
    """Run until SIGTERM or SIGINT, or with ``once`` to the end of what is there.

    Raises:
        TapewatchError: it could not start, or failed; the sentence says what to do.
    """
    checkpoint = Checkpoint(settings.checkpoint_dir)
    with _told_to_stop() as stop, checkpoint.held():
        place = KafkaPlace.of(settings)
        parts = Parts.load(settings)
        topic = ensure_topic(place)
        info = conninfo(settings)
        lanes = _prepare_store(info, topic, choices)
        if choices.forget_checkpoint or choices.accept_loss or choices.rebuild:
            checkpoint.forget()
        checkpoint.claim(_made(parts, topic))
        starting = {} if checkpoint.exists else _starting(place, lanes, choices)
        audience = read_alerts_file(settings).audience(settings)
        plan = LanePlan(
            parts, audience.channels, place, topic.log_id, info, choices.accept_loss, audience.confirmed_only
        )
        session = spark_session(settings, topic.partitions, jars)
        job = Job(
            session, plan, checkpoint=str(checkpoint.spark_folder.resolve()),
            starting=starting or {str(lane): EARLIEST for lane in range(topic.partitions)},
            batch_records_max=settings.spark_batch_records_max, interval_ms=settings.trigger_ms, once=choices.once,
        )  # fmt: skip
        try:
            _run(job, place, stop)
        except Py4JError:
            raise MachineError(
                "Spark's Java process has ended, or does not answer: was it killed, or is the memory full "
                "(SPARK_DRIVER_MEMORY)? Start again: tapewatch spark"
            ) from None
        finally:
            _end(session)


def _made(parts: Parts, topic: TopicInfo) -> Made:
    """What this job's checkpoint depends on."""
    return Made(
        spark=".".join(pyspark.__version__.split(".")[:2]), log_id=topic.log_id, partitions=topic.partitions,
        engine=fingerprint(parts.engine(Tables()).params),
    )  # fmt: skip


def _end(session: SparkSession) -> None:
    try:
        session.stop()
    except (Py4JError, OSError):  # Java has ended already
        _log.debug("the session was gone")


def spark_session(settings: Settings, lanes: int, jars: Sequence[Path]) -> SparkSession:
    """A session with what the job needs. ``jars`` are the Kafka connector's, and the local file system's.

    Without any, whoever starts Java has named them: `spark-submit`.

    Raises:
        MachineError: Java is missing, or Spark does not start.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    is_local = settings.spark_master.startswith("local")
    builder = SparkSession.builder.appName("tapewatch").master(_master(settings.spark_master, lanes))
    for name, value in _configuration(settings, lanes, jars, is_local=is_local).items():
        builder = builder.config(name, value)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what goes wrong is raised; it need not be logged too
    try:
        with listening():
            session = builder.getOrCreate()
    except PySparkException as error:
        raise MachineError(
            f"Spark does not start ({str(error).splitlines()[0]}): it needs Java 17 or newer (java on PATH, or "
            f"JAVA_HOME), and SPARK_MASTER={settings.spark_master} has to be reachable."
        ) from None
    session.sparkContext.setLogLevel("OFF")  # the same
    return session


def _master(name: str, lanes: int) -> str:
    """On this machine too, a task whose Python worker has died is tried again; and no lane waits for another's task.

    A task mostly waits for Python and the database, so more of them than cores do no harm.

    >>> _master("local[2]", 3), _master("local", 3), _master("spark://one:7077", 3)
    ('local[2,4]', 'local[1,4]', 'spark://one:7077')
    """
    found = _LOCAL.fullmatch(name)
    if found is None:
        return name
    slots = max(len(os.sched_getaffinity(0)), lanes) if found[1] == "*" else found[1] or 1
    return f"local[{slots},{TASK_TRIES}]"


def _configuration(settings: Settings, lanes: int, jars: Sequence[Path], *, is_local: bool) -> dict[str, str]:
    """Spark's settings, and why each is not Spark's own."""
    found = {
        "spark.driver.memory": settings.spark_driver_memory,
        "spark.executor.memory": settings.spark_executor_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        # one task a lane; the default of 200 would start 200 for three
        "spark.sql.shuffle.partitions": str(lanes),
        "spark.sql.adaptive.enabled": "false",
        # state outside Java's heap, of which each batch writes what changed
        "spark.sql.streaming.stateStore.providerClass":
            "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        "spark.sql.streaming.minBatchesToRetain": "10",
        # a lane's messages to Python in few pieces
        "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
        "spark.python.worker.reuse": "true",
        # Spark's own files for sockets are remembered by Java until its end (File.deleteOnExit): a few for every batch
        "spark.python.unix.domain.socket.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
    }  # fmt: skip
    if is_local and jars:
        # Hadoop's own local file system starts a program for each file it writes.
        found["spark.driver.extraClassPath"] = ":".join(map(str, jars))
        found["spark.hadoop.fs.file.impl"] = _NAKED
        found["spark.sql.streaming.checkpointFileManagerClass"] = (
            "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
        )
    if not is_local:
        del found["spark.driver.bindAddress"]
        if jars:
            found["spark.jars"] = ",".join(str(jar) for jar in jars if "naked" not in jar.name)
    return found


def _prepare_store(info: str, topic: TopicInfo, choices: Choices) -> dict[str, Recovered]:
    """Make the tables if they are missing; where each lane stands in the database."""
    found: dict[str, Recovered] = {}
    with closing(StoreWriter.connect(info)) as store:
        store.initialise()
        if choices.rebuild:
            store.reset()
        owner = store.owner()
        if owner is not None and owner[0] != topic.log_id:
            raise StoreMismatch(
                f"The database holds {owner[1]} data of log {owner[0]}, but the topic is log {topic.log_id} (it "
                "was deleted and made anew, or is another one). Choose another DB_NAME, or empty this one: "
                "tapewatch spark --rebuild"
            )
    for lane in range(topic.partitions):
        with closing(StoreWriter.connect(info, str(lane))) as store:
            if (at := store.peek(topic.log_id)) is not None:
                found[str(lane)] = at
    return found


def _starting(place: KafkaPlace, lanes: dict[str, Recovered], choices: Choices) -> dict[str, int]:
    """The first offset of each partition that a query without a checkpoint has to read."""
    starting: dict[str, int] = {}
    with closing(open_lanes(place, market_of)) as reader:
        extents = reader.extents()
    for lane, (first, end) in extents.items():
        at = lanes.get(str(lane), Recovered(0, None, 0))
        wanted = at.snapshot_position if at.snapshot is not None else 0
        if wanted > end:
            raise StoreMismatch(
                f"The database has lane {lane} at {wanted}, but Kafka's topic {place.topic} ends at {end}: "
                "messages that were acknowledged are gone. Restore the topic, or begin anew: tapewatch spark --rebuild"
            )
        if first > wanted and at.position and not choices.accept_loss:
            why = "were never computed" if first > at.position else "rows that are not final need them"
            raise LogLost(
                f"Lane {lane}: the messages from offset {max(wanted, at.position) if first > at.position else wanted} "
                f"to {first} are no longer kept by Kafka, and {why}. To record them as a gap and go on: "
                "tapewatch spark --accept-loss"
            )
        starting[str(lane)] = wanted if wanted >= first else EARLIEST
    return starting


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT. Nothing more is done in the handler: it may interrupt a talk with Java."""
    stop = threading.Event()
    before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(job: Job, place: KafkaPlace, stop: threading.Event) -> None:
    told, watch = False, BatchWatch(os.environ.get(SHARED) is not None)
    while not stop.is_set():
        try:
            job.start()
            if not told:
                print("The Spark job is running.", flush=True)
            told = True
            while not job.wait(_LOOK_S):
                watch.note(job)
                if stop.is_set():
                    job.stop()
                    return
            return
        except PySparkException as error:
            if stop.is_set():
                return
            ours = _ours(error, place)
            if not isinstance(ours, LogUnavailable | StoreUnavailable | MachineBusy):
                raise ours from None
            _log.error("waiting, then the query begins again", why=str(ours))
            stop.wait(_AGAIN_S)


def _ours(error: PySparkException, place: KafkaPlace) -> TapewatchError | PySparkException:
    """Our error, if one of ours is at the bottom of Spark's; Spark's own as it is, which is a bug."""
    text = str(error)
    for name, sentence in _OURS.findall(text):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, TapewatchError):
            return kind(sentence.strip())
    if _LOST.search(text):
        return LogLost(
            "Messages that were never computed are no longer kept by Kafka (its retention is shorter than the job "
            "was away). To record them as a gap and go on: tapewatch spark --accept-loss"
        )
    if _AWAY.search(text):
        return LogUnavailable(f"Kafka at {place.servers} does not answer: the job waits for it")
    if _BUSY in text:
        return MachineBusy("A Python worker of Spark was not ready within Spark's limit: this machine has much to do")
    return error
