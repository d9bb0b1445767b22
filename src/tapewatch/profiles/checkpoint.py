"""The Spark job's checkpoint folder: of which log and of which settings it is, so that no other is mixed in.

    CHECKPOINT_DIR/lock               held while a job runs on it
    CHECKPOINT_DIR/tapewatch.json     what the checkpoint was made with
    CHECKPOINT_DIR/spark/             Spark's own: offsets, commits and the lanes' states

The database holds snapshots of every lane's state too, so a checkpoint can always be forgotten: the job then begins at
those snapshots, and comes to the same rows.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tapewatch.errors import LogBusy, LogError, MachineError

__all__ = ["Checkpoint", "Made"]

LAYOUT = 2
"""To be raised when an older checkpoint could not be read any more."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint depends on."""

    layout: int = LAYOUT
    spark: str
    """Spark's version, without its last part: state may not be read by another one."""
    log_id: str
    partitions: int
    engine: str
    """The engine's window, delays and layout of state, as its `fingerprint` says them."""


_WORDS = {
    "layout": "a layout of state of another version of Tapewatch",
    "spark": "another version of Spark",
    "log_id": "another topic, or one that was deleted and made anew",
    "partitions": "another number of partitions",
    "engine": "other window or delay settings, or by another version of Tapewatch",
}


class Checkpoint:
    """The folder. But for the lock, nothing is written before `claim`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = folder / "tapewatch.json"

    @property
    def spark_folder(self) -> Path:
        """Where Spark keeps its part."""
        return self.folder / "spark"

    @property
    def exists(self) -> bool:
        """Whether a query has begun here: it has an offset written."""
        return any((self.spark_folder / "offsets").glob("[0-9]*"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other jobs away inside the block; a process that is killed keeps nobody away.

        Raises:
            LogBusy: another one runs on it.
            MachineError: it cannot be used.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise LogBusy(
                f"CHECKPOINT_DIR={self.folder}: another tapewatch spark runs on it; end that first, or choose another"
            ) from None
        try:
            yield
        finally:
            os.close(lock)

    def claim(self, made: Made) -> None:
        """Use the folder for this job, or refuse it.

        Raises:
            LogError: it belongs to a job of another kind; the sentence says which and what to do.
            MachineError: it cannot be used.
        """
        try:
            if self.exists and (before := self._read()) != made:
                raise LogError(self._refusal(before, made))
            self.folder.mkdir(parents=True, exist_ok=True)
            new = self._made.with_suffix(".new")
            new.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
            new.replace(self._made)
        except OSError as error:
            raise self._unusable(error) from None

    def forget(self) -> None:
        """Delete it: the next start begins at the database's snapshots."""
        try:
            shutil.rmtree(self.spark_folder, ignore_errors=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise MachineError(f"CHECKPOINT_DIR={self.folder}: cannot be deleted: {error.strerror}") from None
        self._made.unlink(missing_ok=True)

    def _unusable(self, error: OSError) -> MachineError:
        return MachineError(
            f"CHECKPOINT_DIR={self.folder}: cannot be used: {error.strerror}; choose another, or make room"
        )

    def _read(self) -> Made | None:
        try:
            return msgspec.json.decode(self._made.read_bytes(), type=Made)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _refusal(self, before: Made | None, made: Made) -> str:
        if before is None:
            what = "by something else"
        else:
            names = [name for name in _WORDS if getattr(before, name) != getattr(made, name)]
            what = f"with {' and '.join(_WORDS[name] for name in names)}"
            if names == ["spark"]:
                what += f" ({before.spark}, now {made.spark})"
            elif names == ["partitions"]:
                what += f" ({before.partitions}, now {made.partitions})"
        if before is not None and before.engine != made.engine:
            todo = "put the settings back, or compute every row anew from Kafka: tapewatch spark --rebuild"
        elif before is not None and (before.log_id, before.partitions) != (made.log_id, made.partitions):
            todo = "choose another CHECKPOINT_DIR and DB_NAME for it, or begin anew: tapewatch spark --rebuild"
        else:
            todo = "go on from the database's own snapshots: tapewatch spark --forget-checkpoint"
        return f"The checkpoint in {self.folder} was made {what}: {todo}"
