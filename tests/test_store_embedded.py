"""The embedded PostgreSQL, really started: twice in a row, after kills, and refusing what it must."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import psycopg
import pytest

from tapewatch.errors import MachineError
from tapewatch.store import launch
from tapewatch.store.cluster import LOG_BYTES_MAX, ClusterFiles
from tapewatch.store.embedded import EmbeddedPostgres, saved_dsn, stop_orphan
from tapewatch.store.launch import Runner, program, psql_path
from waiting import until

OWNER = """
import sys, threading
from pathlib import Path
from tapewatch.store.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
server.start()
print(server.pid, flush=True)
threading.Event().wait()
"""

pytestmark = pytest.mark.slow  # the fast tests start one such server for all: tests/postgres.py
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder that is not there yet; a server left in it is ended."""
    yield tmp_path / "var"
    process = ClusterFiles(tmp_path / "var").running()
    if process is not None:
        process.send_signal(signal.SIGQUIT)
        gone(process)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was used and left in order."""
    folder = tmp_path_factory.mktemp("first") / "var"
    server = embedded(folder)
    server.start()
    server.stop()
    return folder


@pytest.fixture
def made(folder: Path, first_start: Path) -> Path:
    """A copy of such a folder."""
    shutil.copytree(first_start, folder)
    return folder


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, durable=False)


def gone(process: psutil.Process, seconds: float = 100.0) -> None:
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, seconds)


def remember(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")


def remembered(conninfo: str) -> bool:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_it_starts_stops_and_starts_again_at_the_same_address(folder: Path) -> None:
    server = embedded(folder)
    first = server.start()
    remember(first.conninfo)
    server.stop()
    server.stop()
    assert server.pid is None
    assert server.start() == first == saved_dsn(folder)
    assert remembered(first.conninfo)
    server.stop()


def test_only_the_owner_gets_in(made: Path) -> None:
    server = embedded(made)
    dsn = server.start()
    try:
        assert dsn.password not in repr(dsn)
        assert len(dsn.password) >= 43  # 256 bits
        assert (made / "postgres.json").stat().st_mode & 0o777 == 0o600
        assert (made / "postgres").stat().st_mode & 0o777 == 0o700
        for wrong in (replace(dsn, password="guess"), replace(dsn, user="postgres")):
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                psycopg.connect(wrong.conninfo)
        process = psutil.Process(server.pid)
        assert {c.laddr.ip for c in process.net_connections("inet")} == {"127.0.0.1"}
        assert [c for c in process.net_connections("unix") if c.laddr] == []
    finally:
        server.stop()


def test_psql_of_the_wheel_speaks_to_it(made: Path) -> None:
    server = embedded(made)
    dsn = server.start()
    try:
        done = subprocess.run(
            [psql_path(), "-X", "-At", "-c", "SELECT current_database()", dsn.conninfo],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "stockdb\n"
    finally:
        server.stop()


def test_a_second_owner_is_refused_and_leaves_the_first_alone(made: Path) -> None:
    server = embedded(made)
    dsn = server.start()
    try:
        with pytest.raises(MachineError, match="Another tapewatch runs the database"):
            embedded(made).start()
        assert stop_orphan(made) is False
        remember(dsn.conninfo)
    finally:
        server.stop()


def test_a_taken_port_is_replaced(made: Path) -> None:
    server = embedded(made)
    first = server.start()
    server.stop()
    with socket.create_server(("127.0.0.1", first.port)):
        second = server.start()
    assert second.port != first.port
    assert saved_dsn(made) == second
    server.stop()


def test_an_interrupted_making_is_repeated(folder: Path) -> None:
    unfinished = folder / "postgres.new.cut"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = embedded(folder)
    server.start()
    server.stop()
    assert not unfinished.exists()


def test_killed_at_any_moment_of_the_first_start_it_starts_the_next_time(folder: Path) -> None:
    for delay_s in (0.1, 0.2, 0.3, 0.5, 0.7):
        owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            owner.wait(delay_s)
        owner.kill()
        owner.wait()
    server = embedded(folder)
    remember(server.start().conninfo)
    server.stop()


def test_it_ends_with_its_owner_and_what_was_written_stays(folder: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    process = psutil.Process(int(owner.stdout.readline()))
    dsn = saved_dsn(folder)
    assert dsn is not None
    remember(dsn.conninfo)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    gone(process)
    server = embedded(folder)
    assert remembered(server.start().conninfo)
    server.stop()


def test_a_start_that_meets_the_ending_server_of_a_killed_owner_waits_for_it(folder: Path) -> None:
    server = embedded(folder)
    for _ in range(3):
        owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()
        owner.wait()
        owner.stdout.close()
        with psycopg.connect(server.start().conninfo) as connection:
            connection.execute("SELECT 1")
        server.stop()


def orphan(made: Path) -> psutil.Process:
    """A server without a leash, as on a system that has none, whose owner is gone."""
    server = embedded(made)
    dsn = server.start()
    server.stop()
    files = ClusterFiles(made)
    command = Runner(files.cluster).command(
        [program("postgres"), "-D", files.cluster, *["-h", "127.0.0.1", "-p", f"{dsn.port}", "-k", ""]]
    )
    with files.log.open("ab") as log:
        subprocess.Popen(["sh", "-c", '"$@" & exit 0', "sh", *command], stdout=log, stderr=log).wait()

    def answers() -> bool:
        try:
            psycopg.connect(dsn.conninfo).close()
        except psycopg.OperationalError:
            return False
        return True

    until(answers)
    process = files.running()
    assert process is not None
    return process


def test_an_orphan_is_taken_over_not_doubled(made: Path) -> None:
    left = orphan(made)
    server = embedded(made)
    dsn = server.start()
    assert server.pid == left.pid
    remember(dsn.conninfo)
    server.stop()
    gone(left)


def test_an_orphan_can_be_stopped(made: Path) -> None:
    left = orphan(made)
    assert stop_orphan(made) is True
    gone(left)
    assert stop_orphan(made) is False


def test_a_stale_pid_file_of_somebody_elses_process_is_no_obstacle(made: Path) -> None:
    server = embedded(made)
    server.start()
    server.stop()
    (made / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{made}\n0\n5432\n\n\n")
    assert ClusterFiles(made).running() is None
    server.start()
    server.stop()


def test_a_killed_server_is_revived_with_what_was_written(made: Path) -> None:
    server = embedded(made)
    dsn = server.start()
    assert server.revive() is False
    remember(dsn.conninfo)
    assert server.pid is not None
    killed = psutil.Process(server.pid)
    killed.kill()
    gone(killed)
    assert server.revive() is True
    assert server.dsn == dsn
    assert remembered(dsn.conninfo)
    server.stop()


def test_what_a_killed_server_leaves_for_a_moment_is_waited_for(made: Path) -> None:
    server = embedded(made)
    server.start()
    killed = psutil.Process(server.pid)
    left = killed.children()
    for process in left:
        process.suspend()
    killed.kill()
    gone(killed)
    with ThreadPoolExecutor(1) as threads:
        revived = threads.submit(server.revive)
        until(lambda: revived.done() or "is still in use" in (made / "postgres.log").read_text())
        for process in left:
            process.resume()
        assert revived.result() is True
    server.stop()


def test_the_log_stays_bounded(folder: Path) -> None:
    folder.mkdir()
    log = folder / "postgres.log"
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    server = embedded(folder)
    server.start()
    server.stop()
    assert log.stat().st_size < 10_000
    assert (folder / "postgres.log.1").stat().st_size == LOG_BYTES_MAX + 1


# --- what it refuses, in a sentence -----------------------------------------------------------------------------


def refuses(folder: Path, sentence: str) -> None:
    with pytest.raises(MachineError, match=sentence):
        embedded(folder).start()
    assert ClusterFiles(folder).running() is None


def test_a_lost_password_is_told(made: Path) -> None:
    (made / "postgres.json").unlink()
    refuses(made, r"postgres\.json is missing, so the password .* is lost")


def test_a_changed_password_is_told(made: Path) -> None:
    path = made / "postgres.json"
    saved = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(saved | {"password": "another"}))
    refuses(made, r"does not know the password in .*postgres\.json")


def test_a_damaged_password_file_is_told(made: Path) -> None:
    (made / "postgres.json").write_text("{")
    refuses(made, r"postgres\.json is damaged")


def test_another_version_is_told(made: Path) -> None:
    (made / "postgres" / "PG_VERSION").write_text("12\n")
    refuses(made, r"was made by PostgreSQL 12, but PostgreSQL 18 is installed")


def test_a_server_that_does_not_start_says_why(made: Path) -> None:
    (made / "postgres" / "global" / "pg_control").unlink()
    refuses(made, r"does not start: .*pg_control")


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    refuses(tmp_path / "var", r"Cannot keep the database in .*var: File exists")


def test_a_full_disk_is_told(folder: Path) -> None:
    full = Path("/dev/full")
    folder.mkdir()
    (folder / "postgres.json.new").symlink_to(full)
    refuses(folder, r"Cannot keep the database in .*: No space left on device")


# --- as whom ----------------------------------------------------------------------------------------------------


@as_root
def test_root_keeps_the_files(made: Path) -> None:
    assert (made / "postgres").stat().st_uid == 0


@as_root
def test_where_there_are_no_user_namespaces_it_runs_as_nobody(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "bin"
    refusing.mkdir()
    (refusing / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (refusing / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing}:{os.environ['PATH']}")
    with pytest.raises(MachineError, match="user nobody cannot reach"):
        embedded(tmp_path / "var").start()  # pytest's folders are closed to others

    opened = tmp_path_factory.mktemp("opened")
    for parent in (opened, *opened.parents):
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    server = embedded(opened)
    remember(server.start().conninfo)
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().real == 65_534
    server.stop()
    monkeypatch.undo()
    assert remembered(server.start().conninfo)  # its files are nobody's, so nobody runs it from now on
    server.stop()


@as_root
def test_an_ordinary_user_needs_nothing(folder: Path) -> None:
    script = "import os\nassert os.geteuid() == 1000\n" + OWNER.replace("threading.Event().wait()", "server.stop()")
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    for _ in range(2):
        done = subprocess.run(
            [*as_user, sys.executable, "-c", script, str(folder)], check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


@as_root
def test_an_ordinary_user_is_told_that_the_folder_is_anothers(made: Path) -> None:
    script = OWNER.replace("threading.Event().wait()", "server.stop()")
    os.chown(made / "postgres", 65_534, 65_534)
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    done = subprocess.run(
        [*as_user, sys.executable, "-c", script, str(made)], check=False, capture_output=True, text=True
    )
    assert re.search("belongs to user nobody, but tapewatch runs as user .*: run it as that user", done.stderr)


def test_a_missing_program_is_told() -> None:
    with pytest.raises(MachineError, match="nothing-of-ours is missing: install"):
        launch.program("nothing-of-ours")
