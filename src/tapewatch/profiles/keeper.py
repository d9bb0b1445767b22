"""A process that keeps the cluster's PostgreSQL: starts it, starts it again when it dies, and stops it on SIGTERM.

    python -m tapewatch.profiles.keeper FOLDER DBNAME [PROGRAMS]

PostgreSQL ends with the process that started it, and so a command that returns cannot start one by itself. Its address
is in FOLDER/postgres.json; what goes wrong is said on standard error, as one sentence.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from tapewatch.errors import MachineError
from tapewatch.store.embedded import EmbeddedPostgres

__all__ = ["main"]

_LOOK_S: Final = 0.5
_log = structlog.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Keep it until SIGTERM or SIGINT; the exit code."""
    folder, dbname, *programs = arguments
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    server = EmbeddedPostgres(Path(folder), dbname, programs=Path(programs[0]) if programs else None)
    try:
        server.start()
        while not stopping.wait(_LOOK_S):
            _revive(server)
        server.stop()
    except MachineError as error:
        print(f"tapewatch: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _revive(server: EmbeddedPostgres) -> None:
    try:
        if server.revive():
            _log.warning("the database had ended, and was started again")
    except MachineError as error:
        _log.error("the database does not start; tried again", why=str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
