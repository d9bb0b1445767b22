"""A PostgreSQL of our own: made at the first start, on loopback only, with a password nobody had to choose.

    DATA_DIR/postgres        the database cluster; postgres.new.… while it is being made
    DATA_DIR/postgres.json   address, users and passwords, readable by the owner alone
    DATA_DIR/postgres.log    what the server says; postgres.log.1 is the one before
    DATA_DIR/postgres.lock   held while somebody runs it

Promised: one server per folder. It ends with the process that started it, also after kill -9; one that did not is
found at the next start and taken over. A cluster whose making was interrupted is made anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil
import psycopg
from psycopg import sql

from tapewatch.errors import MachineError
from tapewatch.ports import free_port
from tapewatch.settings import STATEMENT_TIMEOUT_MS
from tapewatch.store.cluster import (
    READER,
    USER,
    ClusterFiles,
    Identity,
    dsn_of,
    read_identity,
    sync_folder,
    write_private,
)
from tapewatch.store.connect import Dsn
from tapewatch.store.launch import Runner, Server, program, psql_path

__all__ = ["EmbeddedPostgres", "psql_path", "saved_dsn", "stop_orphan"]

START_S_MAX: Final = 60.0
"""From starting the server to its first answer; long after a crash, when it repeats its journal."""
_POLL_S: Final = 0.02
_PORT_TRIES: Final = 3
_SINCE_18: Final = ("autovacuum_worker_slots", "io_method")
_SETTINGS: Final = {
    # few processes: it shares a small machine with us
    "max_connections": "30",
    "work_mem": "8MB",
    "maintenance_work_mem": "32MB",
    "autovacuum_worker_slots": "1",
    "autovacuum_max_workers": "1",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "jit": "off",
    # one server, no copies of it
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    # an answer means durable
    "synchronous_commit": "on",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
}
_BUFFERS_MB: Final = (32, 512)
"""Least and most of the memory for pages; between them a thirty-second of the machine's. A month of a symbol's minutes
lies on as many pages as it has minutes, so that reading it back is slow unless they are held."""
_TIMESCALE: Final = {name: value for name, value in _SETTINGS.items() if name not in _SINCE_18} | {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "4",
}


class EmbeddedPostgres:
    """The server of one data folder. `start` and `stop` may be called from any thread, one at a time."""

    def __init__(
        self, data_dir: Path, dbname: str = "stockdb", *, durable: bool = True, programs: Path | None = None
    ) -> None:
        """``durable=False`` skips fsync: for tests, which lose nothing with the machine.

        ``programs`` is the bin folder of a PostgreSQL with TimescaleDB, to be run instead of the wheel's.
        """
        self._files = ClusterFiles(data_dir)
        self._dbname = dbname
        self._durable = durable
        self._programs = programs
        self._lock: int | None = None
        self._server: Server | None = None
        self._adopted: psutil.Process | None = None
        self._identity: Identity | None = None

    def start(self) -> Dsn:
        """Make the cluster if there is none, start or take over its server, and make the database and its users.

        Raises:
            MachineError: the folder cannot be used, another process uses it, or the server does not start.
        """
        files = self._files
        with _sentences(files.data_dir):
            files.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = files.lock()
            try:
                self._identity = files.identity(self._dbname)
                runner = Runner(files.cluster, self._programs)
                if not files.cluster.exists():
                    self._make_cluster(runner)
                files.check_version(self._programs)
                runner.own(files.cluster)
                if not self._adopt():
                    self._launch(runner)
                self._make_database()
                files.save(self._identity)
            except BaseException:
                self.stop()
                raise
        return self.dsn

    @property
    def dsn(self) -> Dsn:
        """The owner's access, after `start`."""
        assert self._identity is not None, "start() comes first"
        return dsn_of(self._identity)

    @property
    def reader(self) -> Dsn:
        """A user that may only read, after `start`."""
        assert self._identity is not None, "start() comes first"
        return dsn_of(self._identity, reader=True)

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        process = self._files.running()
        return process.pid if process else None

    def revive(self) -> bool:
        """Start the server again if it has ended by itself (killed, full disk); False if it runs.

        The address stays the same unless the port was taken meanwhile: see `dsn`.

        Raises:
            MachineError: it does not start; try again later.
        """
        assert self._lock is not None, "start() comes first"
        with _sentences(self._files.data_dir):
            if self._files.running() is not None:
                return False
            self._server = self._adopted = None
            self._launch(Runner(self._files.cluster, self._programs))
        return True

    def stop(self) -> None:
        """Stop the server and wait for its end. Safe to repeat.

        Raises:
            MachineError: it does not end.
        """
        server, adopted = self._server, self._adopted
        self._server = self._adopted = None
        try:
            ended = server.stop() if server else _end(adopted) if adopted else True
            if not ended:
                raise MachineError(
                    f"The database in {self._files.cluster} does not stop: end process {self.pid} by hand."
                )
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _make_cluster(self, runner: Runner) -> None:
        assert self._identity is not None
        files = self._files
        unfinished = files.new_unfinished()
        password_file = files.data_dir / "postgres.password"
        try:
            write_private(password_file, self._identity.password.encode())
            for path in (unfinished, password_file):
                runner.own(path)
            command: list[str | Path] = [
                program("initdb", self._programs),
                "-D",
                unfinished,
                "-U",
                USER,
                f"--pwfile={password_file}",
            ]
            command += ["--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
            if not self._durable:
                command += ["--no-sync"]
            elif sys.platform == "linux" and self._programs is None:
                command += ["--sync-method=syncfs"]  # one call, instead of one for each of its thousand files
            done = subprocess.run(
                runner.command(command, ends_with_us=True), cwd="/", capture_output=True, text=True, check=False
            )
        finally:
            password_file.unlink(missing_ok=True)
        if done.returncode:
            raise MachineError(f"Cannot make the database in {files.data_dir}: {_last_line(done.stderr)}.")
        files.save(self._identity)  # first: a cluster without its password would be lost
        unfinished.rename(files.cluster)
        sync_folder(files.data_dir)

    def _adopt(self) -> bool:
        """Take over a server that outlived its owner; wait for one that is just ending."""
        deadline = time.monotonic() + START_S_MAX
        while (process := self._files.running()) is not None:
            if self._answers(self._files.running_port()):
                self._adopted = process
                return True
            if time.monotonic() > deadline:
                raise MachineError(
                    f"Process {process.pid} holds the database in {self._files.cluster} and does not answer: end it."
                )
            threading.Event().wait(_POLL_S)
        self._files.pid_file.unlink(missing_ok=True)  # nobody's: its process id may be somebody else's by now
        return False

    def _launch(self, runner: Runner) -> None:
        assert self._identity is not None
        files = self._files
        files.rotate_log()
        tries, deadline = 0, time.monotonic() + START_S_MAX
        while tries < _PORT_TRIES:
            self._identity.port = free_port(self._identity.port)
            settings = (_SETTINGS if self._programs is None else _TIMESCALE) | {
                "shared_buffers": f"{_buffers_mb(psutil.virtual_memory().total)}MB",
                "port": str(self._identity.port),
                "fsync": "on" if self._durable else "off",
            }
            command: list[str | Path] = [program("postgres", self._programs), "-D", files.cluster]
            command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            said_before = files.log.stat().st_size if files.log.exists() else 0
            self._server = Server(runner.command(command, ends_with_us=True), files.log)
            if self._wait_for_answer(self._server):
                return
            said = files.log.read_bytes()[said_before:].decode(errors="replace")
            self._server = None
            if "Address already in use" in said:
                tries, self._identity.port = tries + 1, 0
            elif "is still in use" not in said or time.monotonic() > deadline:  # by the last processes of a killed one
                raise MachineError(f"The database in {files.cluster} does not start: {_last_line(said)} ({files.log}).")
        raise MachineError("Every port tried for the database was taken in the moment between choosing and using it.")

    def _wait_for_answer(self, server: Server) -> bool:
        """True once it answers, False if it has ended."""
        assert self._identity is not None
        deadline = time.monotonic() + START_S_MAX
        while not server.exited.wait(_POLL_S):
            if self._answers(self._identity.port):
                return True
            if time.monotonic() > deadline:
                raise MachineError(
                    f"The database in {self._files.cluster} did not answer within {START_S_MAX:.0f} s: "
                    f"see {self._files.log}."
                )
        return False

    def _answers(self, port: int) -> bool:
        """Whether a server listens there that knows our password."""
        assert self._identity is not None
        if not port:
            return False
        dsn = dsn_of(msgspec.structs.replace(self._identity, port=port, dbname="postgres"))
        try:
            psycopg.connect(dsn.conninfo, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise MachineError(
                    f"The database in {self._files.cluster} does not know the password in {self._files.secrets}: "
                    "bring that file back, or move both away and run tapewatch again (rows come anew from the log)."
                ) from None
            return False
        self._identity.port = port
        return True

    def _make_database(self) -> None:
        """The database, and a user who may read everything and change nothing."""
        assert self._identity is not None
        admin = dsn_of(msgspec.structs.replace(self._identity, dbname="postgres"))
        with psycopg.connect(admin.conninfo, autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (self._dbname,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._dbname)))
            reader = sql.Identifier(READER)
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (READER,)).fetchone() is None:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE pg_read_all_data").format(
                        reader, sql.Literal(self._identity.reader_password)
                    )
                )
                connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(reader))
                connection.execute(
                    sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(
                        reader, sql.Literal(STATEMENT_TIMEOUT_MS)
                    )
                )


def saved_dsn(data_dir: Path, *, reader: bool = False) -> Dsn | None:
    """Access to the folder's database as saved, whether it runs or not; None if there is none."""
    path = ClusterFiles(data_dir).secrets
    return dsn_of(read_identity(path), reader=reader) if path.exists() else None


def stop_orphan(data_dir: Path) -> bool:
    """Stop a server whose owner is gone. False if there is none, or its owner lives.

    Raises:
        MachineError: it does not end.
    """
    files = ClusterFiles(data_dir)
    process = files.running()
    if process is None:
        return False
    try:
        lock = files.lock()
    except MachineError:
        return False
    try:
        if not _end(process):
            raise MachineError(f"The database in {files.cluster} does not stop: end process {process.pid} by hand.")
    finally:
        os.close(lock)
    return True


@contextlib.contextmanager
def _sentences(data_dir: Path) -> Iterator[None]:
    """What the file system refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else data_dir
        raise MachineError(
            f"Cannot keep the database in {data_dir}: {error.strerror} ({named}); make room or rights, or choose "
            "another DATA_DIR."
        ) from error


def _end(process: psutil.Process) -> bool:
    """Fast stop of a process that is not our child; then, if it does not end, without goodbye."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        deadline = time.monotonic() + 20
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            while time.monotonic() < deadline:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    return True
                threading.Event().wait(_POLL_S)
            continue
        return True
    return False


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if any(sign in line for sign in ("FATAL", "PANIC", "error:"))]
    return (telling or lines or ["it said nothing"])[-1].rstrip(".")


def _buffers_mb(memory_bytes: int) -> int:
    """What a server may take of a machine's memory for pages.

    >>> _buffers_mb(8 * 2**30), _buffers_mb(2**29), _buffers_mb(2**40)
    (256, 32, 512)
    """
    least, most = _BUFFERS_MB
    return max(least, min(most, memory_bytes // 32 // 2**20))
