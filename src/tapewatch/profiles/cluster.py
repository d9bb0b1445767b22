"""`tapewatch cluster`: all that the distributed profile stands on, on this machine, for development and tests.

    DATA_DIR/cluster/kafka/                   a Kafka broker                    (broker.py)
    DATA_DIR/cluster/postgres/, timescale/    PostgreSQL, and its keeper        (keeper.py); not where DB_HOST is set
    DATA_DIR/cluster/spark.log, spark.json    the job: `tapewatch spark`
    DATA_DIR/cluster/cluster.env              their addresses and passwords, to be sourced; readable by the owner alone

`up` starts what does not run, and leaves what does: after a crash of anything it heals. Everything listens on loopback,
goes on when the command has returned, and ends with `down`; the data stays. One broker, one database, no copies: it is
no place for data that must not be lost.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from tapewatch.errors import MachineError, SettingsError
from tapewatch.profiles.broker import Broker
from tapewatch.profiles.jars import ensure_jars, java
from tapewatch.profiles.processes import end, find, spawn
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn, conninfo
from tapewatch.store.embedded import saved_dsn, stop_orphan

__all__ = ["Cluster", "Part"]

_READY_S: Final = 90.0
_POLL_S: Final = 0.05
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Part(NamedTuple):
    """One line of the status."""

    name: str
    is_well: bool
    says: str


@dataclass(frozen=True, slots=True)
class _Database:
    """A PostgreSQL of the cluster's own: its folder and, with TimescaleDB, its programs."""

    folder: Path
    programs: Path | None


class Cluster:
    """The cluster of one DATA_DIR."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            SettingsError: KAFKA_BOOTSTRAP_SERVERS names a broker elsewhere.
        """
        self._settings = settings
        self._folder = settings.data_dir.absolute() / "cluster"
        self._known = _read(self.environment_file)
        self._broker = Broker(self._folder / "kafka", self._wanted_port(), outlives=True)
        self._spark = self._folder / "spark.json"
        self._keeper = self._folder / "keeper.json"
        self.spark_log = self._folder / "spark.log"

    @property
    def environment_file(self) -> Path:
        """What a shell may source."""
        return self._folder / "cluster.env"

    def up(self, *, spark: bool = True) -> Iterator[str]:
        """Start what does not run yet; a sentence for each part, as soon as it answers.

        Raises:
            MachineError: something is missing or does not start. What was started goes on: `down` ends it.
        """
        with self._alone():
            java()
            servers = self._broker.start()
            yield f"Kafka answers at {servers}."
            dsn = self._start_database()
            yield f"PostgreSQL answers at {dsn.host}:{dsn.port}."
            values = {
                "KAFKA_BOOTSTRAP_SERVERS": servers,
                "DB_HOST": dsn.host,
                "DB_PORT": str(dsn.port),
                "DB_NAME": dsn.dbname,
                "DB_USER": dsn.user,
                "DB_PASSWORD": dsn.password,
            }
            changed = values != self._known
            _write(self.environment_file, values)
            if spark:
                yield self._start_spark(values, again=changed)
            yield f"For other commands in this shell: source {self.environment_file}"

    def status(self) -> list[Part]:
        """How each part is, now."""
        found = [self._part("kafka", self._broker.pid, self._broker.answers(), self._broker.servers)]
        known = _read(self.environment_file)
        if known:
            dsn = _dsn(known)
            keeper = find(self._keeper)
            where = f"{dsn.host}:{dsn.port}"
            answers = _why_not(dsn.conninfo) is None
            if self._own_database() is None:
                found.append(Part("database", answers, f"{'answers' if answers else 'does NOT answer'} at {where}"))
            else:
                found.append(self._part("database", keeper.pid if keeper else None, answers, where))
        job = find(self._spark)
        if job is not None:
            found.append(Part("spark", True, f"runs (process {job.pid}); it logs to {self.spark_log}"))
        elif self._spark.exists():
            found.append(Part("spark", False, f"has ENDED: {_last_line(self.spark_log)} (all: {self.spark_log})"))
        else:
            found.append(Part("spark", True, "was not started"))
        return found

    @property
    def runs(self) -> bool:
        """Whether any process of it lives."""
        return any(find(entry) is not None for entry in (self._spark, self._keeper)) or self._broker.pid is not None

    def down(self) -> list[str]:
        """End all of it, the job first, and wait for that; what was ended, as sentences. The data stays."""
        if not self._folder.exists():
            return []
        said = []
        with self._alone():
            if end(self._spark):
                said.append("Stopped Spark.")
            kept = end(self._keeper)
            left = [stop_orphan(folder) for folder in self._database_folders() if folder.exists()]
            if kept or any(left):
                said.append("Stopped PostgreSQL.")
            if self._broker.stop():
                said.append("Stopped Kafka.")
        return said

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two that come at the same time go one after the other."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "cluster.lock").open("ab")
        except OSError as error:
            raise MachineError(
                f"DATA_DIR: {self._folder} cannot be written ({error.strerror}); choose another folder or its owner"
            ) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _wanted_port(self) -> int:
        """The broker's port as KAFKA_BOOTSTRAP_SERVERS says; 0 where that is not set, or comes from cluster.env."""
        servers = self._settings.kafka_servers
        if servers is None or servers == self._known.get("KAFKA_BOOTSTRAP_SERVERS"):
            return 0
        host, _, port = servers.rpartition(":")
        if host not in _LOOPBACK:
            raise SettingsError(
                f"KAFKA_BOOTSTRAP_SERVERS={servers} names a broker elsewhere, and `tapewatch cluster` runs one on this "
                "machine: unset it, or run the parts by themselves (tapewatch spark, feed, serve)"
            )
        return int(port)

    def _database_folders(self) -> tuple[Path, Path]:
        return self._folder / "postgres", self._folder / "timescale"

    def _own_database(self) -> _Database | None:
        """The cluster's own; None where DB_HOST names another, and does not merely come from cluster.env."""
        s = self._settings
        plain, timescale = self._database_folders()
        own = _Database(plain, None) if s.timescale_bin is None else _Database(timescale, s.timescale_bin)
        named = (s.db_host, str(s.db_port))
        ours = (self._known.get("DB_HOST"), self._known.get("DB_PORT"))
        is_ours = s.db_host is None or (named == ours and any(map(saved_dsn, self._database_folders())))
        return own if is_ours else None

    def _start_database(self) -> Dsn:
        s = self._settings
        own = self._own_database()
        if own is None:
            if (why := _why_not(conninfo(s))) is not None:
                raise MachineError(f"The database at DB_HOST={s.db_host}, DB_PORT={s.db_port} does not answer: {why}")
            password = "" if s.db_password is None else s.db_password.get_secret_value()
            return Dsn(host=str(s.db_host), port=s.db_port, user=s.db_user, password=password, dbname=s.db_name)
        says = self._folder / "keeper.log"
        if find(self._keeper) is None:
            own.folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "tapewatch.profiles.keeper", str(own.folder), s.db_name]
            if own.programs is not None:
                command.append(str(own.programs.absolute()))
            says.unlink(missing_ok=True)
            spawn(command, self._keeper, says, outlives=True, environment=os.environ)
        deadline = time.monotonic() + _READY_S
        while True:
            dsn = saved_dsn(own.folder)
            if dsn is not None and (why := _why_not(dsn.conninfo)) is None:
                return dsn
            if find(self._keeper) is None:
                raise MachineError(_last_line(says).removeprefix("tapewatch: "))
            if time.monotonic() > deadline:
                raise MachineError(f"The database in {own.folder} has not answered within {_READY_S:g} s: see {says}")
            threading.Event().wait(_POLL_S)

    def _start_spark(self, values: dict[str, str], *, again: bool) -> str:
        """``again``: addresses have changed, so one that runs knows wrong ones."""
        if (job := find(self._spark)) is not None and not again:
            return f"Spark runs already (process {job.pid})."
        if importlib.util.find_spec("pyspark") is None:
            raise MachineError(
                "Spark is not installed in this environment (some 700 MB): scripts/install_spark.sh, "
                "or start the rest alone: tapewatch cluster up --no-spark"
            )
        ensure_jars("spark")
        end(self._spark)
        if self.spark_log.exists():
            self.spark_log.replace(self.spark_log.with_name("spark.log.1"))
        environment = os.environ | values
        command = [sys.executable, "-m", "tapewatch", "spark"]
        pid = spawn(command, self._spark, self.spark_log, outlives=True, environment=environment)
        return f"Spark is starting (process {pid}); it logs to {self.spark_log}."

    @staticmethod
    def _part(name: str, pid: int | None, answers: bool, where: str) -> Part:
        if pid is None and not answers:
            return Part(name, False, "does not run")
        process = "" if pid is None else f" (process {pid})"
        return Part(
            name, answers and pid is not None, f"{'answers' if answers else 'does NOT answer'} at {where}{process}"
        )


def _dsn(values: dict[str, str]) -> Dsn:
    return Dsn(
        host=values["DB_HOST"],
        port=int(values["DB_PORT"]),
        user=values["DB_USER"],
        password=values["DB_PASSWORD"],
        dbname=values["DB_NAME"],
    )


def _why_not(info: str) -> str | None:
    """Why a database cannot be used; None if it can."""
    try:
        psycopg.connect(info, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        return str(error).strip().splitlines()[0]
    return None


def _read(path: Path) -> dict[str, str]:
    """The values of cluster.env; none if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    words = [shlex.split(line) for line in lines if line.startswith("export ")]
    return dict(word[1].partition("=")[::2] for word in words)


def _write(path: Path, values: dict[str, str]) -> None:
    """As a whole, readable by the owner alone."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("# Written by `tapewatch cluster up`, to be sourced by a shell. It holds a password.\n")
        file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    unfinished.replace(path)


def _last_line(path: Path) -> str:
    try:
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    telling = [line for line in lines if line.startswith("tapewatch: ")]
    return (telling or lines or ["it said nothing"])[-1]
