"""A database with 30 days of 50 symbols, 16 hours a day, as long as the block lasts."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from report import ROOT
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.writer import StoreWriter

sys.path.insert(0, str(ROOT / "tests"))
from grafana_fill import fill_days


@contextmanager
def filled_database() -> Iterator[tuple[Dsn, datetime]]:
    """Its access, and the instant after its last minute. Without fsync."""
    until = datetime.now(UTC).replace(second=0, microsecond=0)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the database may run as another user
        server = EmbeddedPostgres(Path(folder) / "database", durable=False)
        dsn = server.start()
        try:
            with closing(StoreWriter.connect(dsn.conninfo)) as store:
                store.initialise()
            fill_days(dsn, until, hours=16)
            yield dsn, until
        finally:
            server.stop()
