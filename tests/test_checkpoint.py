"""profiles/checkpoint.py: a checkpoint is used for the job that made it; every refusal says what to do."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tapewatch.errors import LogBusy, LogError, MachineError
from tapewatch.profiles.checkpoint import Checkpoint, Made

MADE = Made(spark="4.2", log_id="log", partitions=3, engine="settings")
FORGET = "go on from the database's own snapshots: tapewatch spark --forget-checkpoint"
OTHER = "choose another CHECKPOINT_DIR and DB_NAME for it, or begin anew: tapewatch spark --rebuild"
REBUILD = "put the settings back, or compute every row anew from Kafka: tapewatch spark --rebuild"


def begun(folder: Path) -> Checkpoint:
    """As Spark leaves it behind."""
    checkpoint = Checkpoint(folder / "checkpoint")
    checkpoint.claim(MADE)
    offsets = checkpoint.spark_folder / "offsets"
    offsets.mkdir(parents=True)
    (offsets / "0").write_text("v1")
    return checkpoint


def test_the_same_job_goes_on_with_it(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path)
    assert checkpoint.exists
    checkpoint.claim(MADE)
    assert [path.name for path in checkpoint.folder.iterdir() if path.suffix == ".new"] == []


def test_one_that_no_query_has_begun_with_is_anybodys(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.claim(MADE)
    assert not checkpoint.exists
    checkpoint.claim(msgspec.structs.replace(MADE, engine="others"))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"spark": "4.3"}, f"with another version of Spark (4.2, now 4.3): {FORGET}"),
        ({"layout": 9}, f"with a layout of state of another version of Tapewatch: {FORGET}"),
        ({"log_id": "new"}, f"with another topic, or one that was deleted and made anew: {OTHER}"),
        ({"partitions": 8}, f"with another number of partitions (3, now 8): {OTHER}"),
        ({"engine": "others"}, f"with other window or delay settings, or by another version of Tapewatch: {REBUILD}"),
        (
            {"engine": "others", "spark": "4.3"},
            "with another version of Spark and other window or delay settings, or by another version of Tapewatch: "
            + REBUILD,
        ),
    ],
)
def test_one_of_another_job_is_refused(tmp_path: Path, made: dict[str, str], sentence: str) -> None:
    checkpoint = begun(tmp_path)
    with pytest.raises(LogError, match=f"{re.escape(f'The checkpoint in {checkpoint.folder} was made {sentence}')}$"):
        checkpoint.claim(msgspec.structs.replace(MADE, **made))
    checkpoint.claim(MADE)  # nothing was changed


@pytest.mark.parametrize("content", [None, b"", b"{}", b"no json"])
def test_one_that_does_not_say_what_it_is_is_refused(tmp_path: Path, content: bytes | None) -> None:
    checkpoint = begun(tmp_path)
    (checkpoint.folder / "tapewatch.json").unlink()
    if content is not None:
        (checkpoint.folder / "tapewatch.json").write_bytes(content)
    with pytest.raises(LogError, match=f"was made by something else: {FORGET}"):
        checkpoint.claim(MADE)


def test_a_forgotten_one_is_as_none(tmp_path: Path) -> None:
    checkpoint = begun(tmp_path)
    checkpoint.forget()
    checkpoint.forget()
    assert not checkpoint.exists
    checkpoint.claim(msgspec.structs.replace(MADE, partitions=8))


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checkpoint = Checkpoint(tmp_path / "file" / "checkpoint")
    with pytest.raises(MachineError, match=r"CHECKPOINT_DIR=.*: cannot be used: Not a directory; choose another"):
        checkpoint.claim(MADE)
    with pytest.raises(MachineError, match="Not a directory"), checkpoint.held():
        pass


def test_two_jobs_never_share_it_and_a_killed_one_keeps_nobody_away(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    code = (
        "import sys, signal, pathlib; from tapewatch.profiles.checkpoint import Checkpoint\n"
        "with Checkpoint(pathlib.Path(sys.argv[1])).held(): print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LogBusy, match=r"CHECKPOINT_DIR=.*: another tapewatch spark runs on it"), checkpoint.held():
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with checkpoint.held():
        pass
    with checkpoint.held():
        pass
