"""A broker, a database and a Spark session that are made for one piece of work and gone after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from tapewatch.profiles.broker import Broker
from tapewatch.profiles.jars import ensure_jars
from tapewatch.profiles.spark_job import spark_session
from tapewatch.settings import Settings
from tapewatch.store.embedded import EmbeddedPostgres

__all__ = ["Workshop", "open_workshop"]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What is there: a session, a broker's address, an empty database, a folder for checkpoints."""

    session: SparkSession
    servers: str
    conninfo: str
    folder: Path


@contextmanager
def open_workshop(settings: Settings) -> Iterator[Workshop]:
    """Start all of it; leaving the block ends and removes it.

    Raises:
        MachineError: Java, or the jars, or room is missing.
    """
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tapewatch-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # the database may run as another user
        postgres = EmbeddedPostgres(folder / "database", durable=False)
        dsn = postgres.start()
        undo.callback(postgres.stop)
        broker = Broker(folder / "broker")
        undo.callback(broker.stop)
        servers = broker.start()
        session = spark_session(settings, 1, ensure_jars("spark"))
        undo.callback(session.stop)
        yield Workshop(session, servers, dsn.conninfo, folder)
