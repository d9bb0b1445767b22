"""Fixtures: a real PostgreSQL with the real TimescaleDB, where this machine has one.

    TAPEWATCH_TEST_PGBIN=/…/bin     the programs of an installation with TimescaleDB; else pg_config and the usual
                                    folders are looked through

Without one these tests are skipped, with the reason. `timescale` is the access to a new, empty database.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tapewatch.ports import free_port
from tapewatch.store.connect import Dsn
from tapewatch.store.launch import Runner, Server

USUAL = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin")
NONE = (
    "TimescaleDB is on no PostgreSQL of this machine, so its branches of init_db.sql are not run: "
    "set TAPEWATCH_TEST_PGBIN to the bin folder of an installation that has it"
)
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "0",  # tests run the policies themselves
    "shared_buffers": "32MB",
    "fsync": "off",
}
_numbers = count(1)


def installation() -> Path | None:
    """The bin folder of a PostgreSQL that has TimescaleDB; None if there is none."""
    named = os.environ.get("TAPEWATCH_TEST_PGBIN")
    found = shutil.which("pg_config")
    folders = [Path(named)] if named else []
    if not named:
        folders += [Path(found).resolve().parent] if found else []
        folders += sorted((path for usual in USUAL for path in Path("/").glob(usual[1:])), reverse=True)
    for folder in folders:
        done = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and (Path(done.stdout.strip()) / "extension" / "timescaledb.control").exists():
            return folder
    assert not named, f"TAPEWATCH_TEST_PGBIN={named}: there is no PostgreSQL with TimescaleDB"
    return None


@pytest.fixture(scope="session")
def timescale_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dsn]:
    """The server's superuser."""
    programs = installation()
    if programs is None:
        pytest.skip(NONE)
    folder = tmp_path_factory.mktemp("timescale")
    cluster = folder / "data"
    cluster.mkdir(mode=0o700)
    runner = Runner(cluster)
    runner.own(cluster)
    command = [programs / "initdb", "-D", cluster, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
    command += ["--locale=C.UTF-8", "--no-sync"]
    done = subprocess.run(runner.command(command), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    port = free_port()
    settings = [part for pair in (SETTINGS | {"port": str(port)}).items() for part in ("-c", "=".join(pair))]
    server = Server(
        runner.command([programs / "postgres", "-D", cluster, *settings], ends_with_us=True), folder / "log"
    )
    dsn = Dsn(host="127.0.0.1", port=port, user="postgres", password="", dbname="postgres")
    try:
        while not _answers(dsn):
            assert not server.exited.wait(0.05), (folder / "log").read_text()
        yield dsn
    finally:
        if not server.exited.is_set():
            server.stop()


def _answers(dsn: Dsn) -> bool:
    try:
        psycopg.connect(dsn.conninfo, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def timescale(timescale_server: Dsn) -> Dsn:
    """A new database without anything in it."""
    name = f"stockdb{next(_numbers)}"
    with psycopg.connect(timescale_server.conninfo, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    return Dsn(timescale_server.host, timescale_server.port, timescale_server.user, "", name)
