"""The files of the embedded database's folder: where they are, whose they are, and who holds them."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import psutil

from tapewatch.errors import MachineError
from tapewatch.store.connect import Dsn
from tapewatch.store.launch import program

__all__ = ["READER", "USER", "ClusterFiles", "Identity", "dsn_of", "read_identity", "sync_folder", "write_private"]

LOG_BYTES_MAX: Final = 1_000_000
USER: Final = "tapewatch"
READER: Final = "tapewatch_reader"


class Identity(msgspec.Struct, kw_only=True):
    """What `postgres.json` holds."""

    host: str = "127.0.0.1"
    port: int = 0
    user: str = USER
    password: str
    dbname: str
    reader: str = READER
    reader_password: str


class ClusterFiles:
    """The files of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.cluster = self.data_dir / "postgres"
        self.secrets = self.data_dir / "postgres.json"
        self.log = self.data_dir / "postgres.log"
        self.pid_file = self.cluster / "postmaster.pid"

    def new_unfinished(self) -> Path:
        """A new empty folder to make the cluster in; those of starts that were cut short are removed.

        Each start has its own: what a killed one had begun may still be writing into the other.
        """
        for left in self.data_dir.glob("postgres.new*"):
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="postgres.new.", dir=self.data_dir))

    def lock(self) -> int:
        """Hold the folder; the lock ends with the returned file descriptor, so with the process at the latest."""
        path = self.data_dir / "postgres.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise MachineError(
                f"Another tapewatch runs the database in {self.data_dir}: stop it (tapewatch stop), "
                "or choose another DATA_DIR."
            ) from None
        return descriptor

    def identity(self, dbname: str) -> Identity:
        """As saved, or newly made when there is no cluster yet."""
        if self.secrets.exists():
            return msgspec.structs.replace(read_identity(self.secrets), dbname=dbname)
        if self.cluster.exists():
            raise MachineError(
                f"{self.secrets} is missing, so the password of the database in {self.cluster} is lost: bring it back, "
                "or move that folder away and run tapewatch again (rows come anew from the log)."
            )
        return Identity(password=secrets.token_urlsafe(32), reader_password=secrets.token_urlsafe(32), dbname=dbname)

    def save(self, identity: Identity) -> None:
        """Replace `postgres.json` as a whole, readable by the owner alone."""
        unfinished = self.secrets.with_suffix(".json.new")
        write_private(unfinished, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
        unfinished.rename(self.secrets)

    def check_version(self, programs: Path | None = None) -> None:
        """The cluster was made by this PostgreSQL's major version."""
        made_by = (self.cluster / "PG_VERSION").read_text().strip()
        ours = subprocess.run(
            [program("postgres", programs), "--version"], capture_output=True, text=True, check=True
        ).stdout
        ours = ours.split()[-1].split(".")[0]
        if made_by != ours:
            raise MachineError(
                f"The database in {self.cluster} was made by PostgreSQL {made_by}, but PostgreSQL {ours} is installed: "
                "move that folder and postgres.json away and run tapewatch again (rows come anew from the log)."
            )

    def running(self) -> psutil.Process | None:
        """The server process of this folder, if it lives."""
        try:
            process = psutil.Process(int(self.pid_file.read_text().split("\n", 1)[0]))
            is_ours = str(self.cluster) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return None
        return process if is_ours else None

    def running_port(self) -> int:
        """The port that process wrote down; 0 as long as it has not."""
        try:
            return int(self.pid_file.read_text().split("\n")[3])
        except (OSError, ValueError, IndexError):
            return 0

    def rotate_log(self) -> None:
        """Keep the log bounded: one old file."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.rename(self.log.with_suffix(".log.1"))


def dsn_of(identity: Identity, *, reader: bool = False) -> Dsn:
    """Access for the owner, or for the user who may only read."""
    user, password = (identity.reader, identity.reader_password) if reader else (identity.user, identity.password)
    return Dsn(host=identity.host, port=identity.port, user=user, password=password, dbname=identity.dbname)


def read_identity(path: Path) -> Identity:
    """What `postgres.json` holds."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except msgspec.MsgspecError as error:
        raise MachineError(f"{path} is damaged ({error}): bring it back from a backup.") from None


def write_private(path: Path, data: bytes) -> None:
    """A file that its owner alone may read, durable before this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
