"""A Kafka broker for development and tests: one process (KRaft), on loopback, from jars that Maven brings.

    FOLDER/server.properties, log4j2.properties    made anew at each start
    FOLDER/broker.json     cluster id and ports     FOLDER/process.json   its process
    FOLDER/data            the topics               FOLDER/broker.log     what it says

What it has acknowledged survives `kill -9`, and it starts again on the same port if that is free. It does not sync to
the disk before it acknowledges, so a power cut may lose the newest records: production takes three brokers.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tapewatch.errors import MachineError
from tapewatch.ports import free_port
from tapewatch.profiles.jars import ensure_jars, java
from tapewatch.profiles.processes import end, find, spawn

__all__ = ["Broker"]

START_S_MAX: Final = 180.0
"""From starting it to its first answer; long on a busy machine, and after a crash, when it reads its files again."""
_POLL_S: Final = 0.05
_PORT_TRIES: Final = 3
_TAKEN: Final = "Address already in use"
_JVM: Final = ["-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true"]
_HEAP: Final = ["-Xms64m", "-Xmx256m"]
_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=3
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=400
log.cleaner.dedupe.buffer.size=2097152
num.io.threads=2
num.network.threads=2
"""
_LOG4J: Final = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd'T'HH:mm:ss.SSS}} %-5p %c{{1}} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 5MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""


class _Identity(msgspec.Struct, kw_only=True):
    cluster_id: str
    port: int = 0
    controller: int = 0
    is_formatted: bool = False


class Broker:
    """The broker of one folder. One thread at a time, and one owner."""

    def __init__(self, folder: Path, port: int = 0, *, outlives: bool = False) -> None:
        """``port`` 0 takes a free one at the first start. One that ``outlives`` us goes on when this process ends."""
        self._folder = folder.absolute()
        self._wanted = port
        self._outlives = outlives
        self._process = self._folder / "process.json"
        self._saved = self._folder / "broker.json"
        self.log = self._folder / "broker.log"
        """What it says: only what is wrong."""

    @property
    def servers(self) -> str:
        """Its address, for KAFKA_BOOTSTRAP_SERVERS; empty before the first `start`."""
        try:
            return f"127.0.0.1:{msgspec.json.decode(self._saved.read_bytes(), type=_Identity).port}"
        except (OSError, msgspec.MsgspecError):
            return ""

    @property
    def pid(self) -> int | None:
        """Its process id, if it runs."""
        process = find(self._process)
        return None if process is None else process.pid

    def start(self) -> str:
        """Start it, unless it runs already, and wait until it answers; its address.

        Raises:
            MachineError: Java or the jars are missing, the folder cannot be used, or it does not start.
        """
        for _ in range(_PORT_TRIES):
            said_before = self._said().count(_TAKEN)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                if self.pid is None:
                    self._launch()
            except OSError as error:
                raise MachineError(
                    f"Kafka's broker cannot be kept in {self._folder}: {error.strerror}; choose another DATA_DIR"
                ) from error
            if self._has_answered(said_before):
                return self.servers
        raise MachineError("Every port tried for Kafka was taken in the moment between choosing and using it.")

    def stop(self) -> bool:
        """Stop it and wait for its end; False if it did not run."""
        return end(self._process)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        end(self._process, signal.SIGKILL)

    def answers(self, seconds: float = 1.0) -> bool:
        """Whether it runs and answers; another broker that has taken its port does not count."""
        if self.pid is None:
            return False
        client: dict[str, Any] = {"bootstrap.servers": self.servers, "logger": _Silent()}
        try:
            found = AdminClient(client).list_topics(timeout=seconds)
        except KafkaException:
            return False
        return bool(found.cluster_id == self._identity().cluster_id)

    def _launch(self) -> None:
        jars = ":".join(map(str, ensure_jars("kafka")))
        identity = self._identity()
        identity.port = free_port(self._wanted or identity.port)
        if self._wanted and identity.port != self._wanted:
            raise MachineError(f"Port {self._wanted}, which Kafka's broker is to listen on, is taken; choose another")
        while (controller := free_port(identity.controller)) == identity.port:
            identity.controller = 0
        identity.controller = controller
        properties = self._folder / "server.properties"
        data = self._folder / "data"
        properties.write_text(
            _PROPERTIES.format(port=identity.port, controller=controller, data=data), encoding="utf-8"
        )
        log4j = self._folder / "log4j2.properties"
        log4j.write_text(_LOG4J.format(log=self.log), encoding="utf-8")
        command = [java(), *_HEAP, *_JVM, f"-Dlog4j2.configurationFile={log4j}", "-cp", jars]
        if not identity.is_formatted:
            shutil.rmtree(data, ignore_errors=True)  # of a start that was interrupted
            self._format(command, identity.cluster_id, properties)
            identity.is_formatted = True
        self._save(identity)
        arguments = [*command, "kafka.Kafka", str(properties)]
        spawn(arguments, self._process, self._out, outlives=self._outlives, environment=os.environ)

    def _format(self, command: list[str], cluster_id: str, properties: Path) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
        done = subprocess.run([*command, *tool], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(f"Kafka's folder {self._folder} cannot be made: {_last(done.stdout + done.stderr)}")

    def _has_answered(self, said_before: int) -> bool:
        """Wait until it answers; False if it has ended since its port was taken meanwhile, and another will do."""
        deadline = time.monotonic() + START_S_MAX
        while not self.answers():
            if self.pid is None:
                said = self._said()
                if not self._wanted and said.count(_TAKEN) > said_before:
                    return False
                raise MachineError(f"Kafka's broker has ended: {_last(said)} (all it said: {self.log}, {self._out})")
            if time.monotonic() > deadline:
                raise MachineError(f"Kafka's broker has not answered within {START_S_MAX:.0f} s; see {self.log}")
            threading.Event().wait(_POLL_S)
        return True

    def _said(self) -> str:
        return "".join(path.read_text(errors="replace") for path in (self._out, self.log) if path.exists())

    @property
    def _out(self) -> Path:
        return self._folder / "broker.out"

    def _identity(self) -> _Identity:
        if self._saved.exists():
            try:
                return msgspec.json.decode(self._saved.read_bytes(), type=_Identity)
            except msgspec.MsgspecError as error:
                raise MachineError(f"{self._saved} is damaged ({error}): delete {self._folder} to begin anew") from None
        made = "-"
        while made.startswith("-"):  # it would be taken for an option
            made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        return _Identity(cluster_id=made)

    def _save(self, identity: _Identity) -> None:
        unfinished = self._saved.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.encode(identity))
        unfinished.replace(self._saved)


class _Silent:
    """What the client says while the broker is starting: that it is not there yet."""

    def log(self, level: int, text: str, *values: object) -> None:
        pass


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("\tat ")]
    telling = [line for line in lines if "ERROR" in line or "Exception" in line or "Error" in line]
    return (telling or lines or ["it said nothing"])[-1][:400]
