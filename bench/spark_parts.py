"""What `spark.py` measures with: the job and the sender as processes, and when the database told of which commit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict
from pyspark.sql import SparkSession

from kafka_load import START_MS, Sent, append_times, ends, late_ms
from pipeline import KEEP
from report import ROOT
from tapewatch.log.kafka import KafkaPlace
from tapewatch.profiles.workshop import Workshop

READY_S = 180.0


def tree_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and all below it so far, those that have ended included."""
    total = sum(process.cpu_times()[:2])
    for child in process.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.Error:
            continue
    return float(total)


def spark_cpu_s(session: SparkSession) -> float:
    """Of a session's Java and its Python workers."""
    return tree_cpu_s(psutil.Process(session.sparkContext._gateway.proc.pid))  # type: ignore[union-attr]


class SparkProcess:
    """A `tapewatch spark` on the workshop's broker and database. A context manager."""

    def __init__(self, workshop: Workshop, place: KafkaPlace, **settings: str) -> None:
        dsn = conninfo_to_dict(workshop.conninfo)
        folder = workshop.folder / place.topic
        folder.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name in KEEP}
        environment |= {
            "PYTHONPATH": str(ROOT / "src"), "DATA_DIR": str(folder), "LOG_LEVEL": "warning",
            "KAFKA_BOOTSTRAP_SERVERS": place.servers, "KAFKA_TOPIC_RAW_TRADES": place.topic,
            "KAFKA_PARTITIONS": str(place.partitions), "DB_HOST": str(dsn["host"]), "DB_PORT": str(dsn["port"]),
            "DB_NAME": str(dsn["dbname"]), "DB_USER": str(dsn["user"]), "DB_PASSWORD": str(dsn.get("password", "")),
        } | settings  # fmt: skip
        self._said = (folder / f"spark-{time.monotonic_ns()}.out").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tapewatch", "spark"], cwd=folder, env=environment, stdout=self._said,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.process = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def wait_ready(self) -> None:
        """Until it says that it runs."""
        deadline = time.monotonic() + READY_S
        while b"The Spark job is running" not in (said := Path(self._said.name).read_bytes()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the Spark job does not run: {said.decode(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """CPU seconds of driver, Java and workers."""
        return tree_cpu_s(self.process)

    def memory_mib(self) -> dict[str, float]:
        """PSS of the driver's Python, Java, and the Python workers."""
        found = {"the driver's Python": 0.0, "Java": 0.0, "the Python workers": 0.0}
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                pss = process.memory_full_info().pss / 2**20
                name = "Java" if "java" in process.name() else "the Python workers"
            except psutil.Error:
                continue
            found["the driver's Python" if process.pid == self.process.pid else name] += pss
        return found


class SenderProcess:
    """`kafka_load.py` beside us."""

    def __init__(self, place: KafkaPlace, symbols: int, rate: int, seconds: float, start_ms: int = START_MS) -> None:
        command = [sys.executable, str(Path(__file__).parent / "kafka_load.py"), "--servers", place.servers]
        command += ["--topic", place.topic, "--symbols", str(symbols), "--rate", str(rate), "--seconds", str(seconds)]
        self._process = subprocess.Popen(
            [*command, "--start-ms", str(start_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        assert self._line().strip() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self) -> None:
        """Let it send."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> Sent:
        """Until everything is sent."""
        return msgspec.json.decode(self._line(), type=Sent)

    def run(self) -> Sent:
        """Both."""
        self.begin()
        return self.end()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the sender ended")
        return line


class Arrivals:
    """When which lane was committed up to which offset: what the database notifies of. A context manager."""

    def __init__(self, conninfo: str) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(conninfo, autocommit=True)
        self._connection.execute("LISTEN tapewatch_commit")
        self._told: dict[str, list[tuple[int, float]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._connection.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for told in self._connection.notifies(timeout=0.2, stop_after=1):
                lane, position = told.payload.split()
                self._told.setdefault(lane, []).append((int(position), 1e3 * time.time()))

    def positions(self) -> dict[str, int]:
        """How far each lane is known to be."""
        return {lane: told[-1][0] for lane, told in self._told.items()}

    def wait_level(self, place: KafkaPlace, seconds_max: float) -> None:
        """Until all that is in the topic is committed."""
        deadline, wanted = time.monotonic() + seconds_max, ends(place.servers, place.topic)
        while self.positions() != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the lanes are at {self.positions()}, and not at {wanted}")
            time.sleep(0.05)

    def latencies_ms(self, place: KafkaPlace, since_ms: float) -> NDArray[np.float64]:
        """Of all messages that were appended after ``since_ms``."""
        found = []
        for lane, told in self._told.items():
            appended = append_times(place.servers, place.topic, int(lane), told[-1][0])
            found.append(late_ms(appended, told)[appended >= since_ms])
        return np.concatenate(found)

    def level_after_s(self, place: KafkaPlace, began_s: float) -> float:
        """From ``began_s`` until the first moment at which nothing older than a second was not yet committed."""
        level = began_s
        for lane, told in self._told.items():
            appended = append_times(place.servers, place.topic, int(lane), told[-1][0])
            behind = np.flatnonzero(late_ms(appended, told) > LEVEL_MS)
            if len(behind):
                position = np.searchsorted([position for position, _ in told], behind[-1], side="right")
                level = max(level, told[position][1] / 1e3)
        return level - began_s


LEVEL_MS = 2_000
"""Level with the topic is who has committed a message so soon after its append."""
