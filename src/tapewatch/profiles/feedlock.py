"""One feed of a key, market and host on this machine: a second one would throw the first one out, again and again.

The exchange gives an account one connection for each market, and a newcomer takes the place of the older one. So a
program takes a lock before it connects: a file of the user's runtime folder (`XDG_RUNTIME_DIR`, else the folder for
temporary files), named by a hash of key, market and host, so that it tells nothing of the key. The lock ends with the
process, however that ends; the file stays, and says nothing then.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from tapewatch.errors import MachineError
from tapewatch.records import Market

__all__ = ["FeedLock"]

_MODE: Final = 0o700


class FeedLock:
    """The lock of one feed. A context manager."""

    def __init__(self, key: str, market: Market, url: str, folder: Path | None = None) -> None:
        """``folder`` is where the locks of this user are; by default the usual one."""
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        self._what = f"the {market.name.lower()} feed of {host}"
        name = hashlib.sha256(f"tapewatch feed\0{key}\0{market.name}\0{host}".encode()).hexdigest()[:32]
        self._path = (folder or _folder()) / f"feed-{name}.lock"
        self._lock = -1

    def __enter__(self) -> Self:
        """
        Raises:
            MachineError: another process of this user has the feed, or the folder cannot be used.
        """
        try:
            self._path.parent.mkdir(mode=_MODE, exist_ok=True)
            if not _is_ours(self._path.parent):
                raise MachineError(f"{self._path.parent} is not a folder of this user alone; remove it, or set TMPDIR")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise MachineError(
                f"{self._path.parent} cannot be written ({error.strerror}); set TMPDIR to a folder that can"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = self._holder()
            os.close(self._lock)
            self._lock = -1
            raise MachineError(
                f"Another program on this machine has {self._what} with the same key{who}: the exchange allows one, "
                "and they would throw each other out. Stop it, or use another key."
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()} {Path.cwd()}".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _holder(self) -> str:
        pid, _, folder = os.pread(self._lock, 4_096, 0).decode(errors="replace").partition(" ")
        return f" (process {pid}, started in {folder})" if pid.isdigit() and folder else ""


def _folder() -> Path:
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        with contextlib.suppress(OSError):
            if _is_ours(Path(runtime)) and os.access(runtime, os.W_OK):
                return Path(runtime) / "tapewatch"
    return Path(tempfile.gettempdir()) / f"tapewatch-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """A folder, no link, that belongs to this user, and that nobody else may write."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
