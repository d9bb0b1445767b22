"""Power cuts, full disks and failing syncs: what was acknowledged is there, and the rest is whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import apsw
import pytest

from log_faults import Disk, disk_full, sync_failed
from log_making import some_tables, trades
from tapewatch.errors import LogError, LogFull
from tapewatch.log.local import CHECKPOINT_BYTES, LogReader, LogWriter
from tapewatch.records import Origin, Tables
from trials import examples

Fail = Callable[[str, str], apsw.Error | None]


def ids_in(path: Path) -> list[str]:
    """Ids of all records the log holds, verified; none if no log was begun."""
    try:
        reader = LogReader.open(path, Tables())
    except LogError as error:
        if "no log here yet" in str(error):
            return []
        raise
    found: list[str] = []
    with reader:
        while len(batch := reader.read(len(found), 1_000)):
            found += batch.ids
    return found


class Life:
    """A log over several power cuts: what it acknowledged, and what was in flight when the power went."""

    def __init__(self, folder: Path, seed: int, *, honest: bool = True) -> None:
        self.path = folder / "log.db"
        self.random = Random(seed)
        self.honest = honest
        self.acknowledged = 0
        self.in_flight = 0

    def run(self, crash_at: int) -> None:
        """Append until the disk's operation number ``crash_at``, then cut the power."""
        disk = Disk(self.path.parent, self.random, crash_at=crash_at, honest=self.honest)
        self.in_flight = 0
        try:
            with LogWriter.open(
                self.path, some_tables(), origin=Origin.LIVE, expect_end=self.acknowledged, connect=disk.connect
            ) as writer:
                self.append_until_death(writer, disk)
        except LogError:
            assert disk.dead, "it failed without a cause"
        disk.crash()

    def append_until_death(self, writer: LogWriter, disk: Disk) -> None:
        """Batches of any size, with checkpoints and merging between them."""
        assert writer.end == self.acknowledged
        while not disk.dead:
            self.in_flight = self.random.choice([1, 5, 40, 400])
            writer.append(trades(self.in_flight, self.acknowledged))
            if not disk.dead:
                self.acknowledged, self.in_flight = self.acknowledged + self.in_flight, 0
                self.random.choice([lambda: 0, lambda: 0, writer.compact, writer._checkpoint])()

    def verify(self) -> None:
        """All acknowledged records are there; those in flight are too, or none of them is."""
        found = ids_in(self.path)
        assert found == [str(i) for i in range(len(found))]
        assert len(found) in (self.acknowledged, self.acknowledged + self.in_flight)
        self.acknowledged = len(found)


def live(seed: int, *, honest: bool = True, cuts: int = 4) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder), seed, honest=honest)
        for _ in range(cuts):
            life.run(life.random.randint(1, life.random.choice([15, 60, 250])))
            life.verify()


every = pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
"""Every eighth place of an error, and among the slow tests each."""


@pytest.mark.parametrize("seeds", [range(0, 10)])
def test_power_cuts_lose_nothing_acknowledged(seeds: range) -> None:
    for seed in seeds:
        live(seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [range(i, i + examples(250)) for i in (100_000, 200_000)])
def test_power_cuts_lose_nothing_acknowledged_in_many_lives(seeds: range) -> None:
    for seed in seeds:
        live(seed)


@every
def test_a_power_cut_at_every_operation(step: int) -> None:
    for crash_at in range(1, 90, step):
        with tempfile.TemporaryDirectory() as folder:
            life = Life(Path(folder), crash_at)
            life.run(crash_at)
            life.verify()


def test_canary_a_disk_that_ignores_syncs_is_caught() -> None:
    caught = 0
    for seed in range(10):
        try:
            live(seed, honest=False)
        except (AssertionError, LogError):
            caught += 1
    assert caught >= 6


# --- full disks and failing syncs ------------------------------------------------------------------------------


def nth(n: int, operation: str, error: Callable[[], apsw.Error], times: int = 1) -> Fail:
    """Fail the n-th ``operation`` and the ``times - 1`` after it."""
    numbers = count(1)

    def fail(happening: str, name: str) -> apsw.Error | None:
        return error() if happening == operation and n <= next(numbers) < n + times else None

    return fail


def append_some(path: Path, disk: Disk, retry: bool) -> tuple[int, bool]:
    """Append ten batches, retrying after LogFull if ``retry``. Returns records acknowledged, and whether any failed."""
    acknowledged = 0
    failed = False
    with LogWriter.open(path, some_tables(), origin=Origin.LIVE, connect=disk.connect) as writer:
        for size in (3, 400, 1, 30, 500, 7, 2, 300, 1, 1):
            for _ in range(20):
                try:
                    writer.append(trades(size, acknowledged))
                    break
                except LogFull:
                    failed = True
                    assert writer.end == acknowledged
                    if not retry:
                        return acknowledged, True
            acknowledged += size
            writer._checkpoint()
    return acknowledged, failed


@every
@pytest.mark.parametrize("times", [1, 6])
def test_a_full_disk_at_every_write_pauses_and_goes_on(tmp_path: Path, times: int, step: int) -> None:
    paused = 0
    for n in count(1, step):
        folder = tmp_path / str(n)
        folder.mkdir()
        disk = Disk(folder, Random(n), fail=nth(n, "write", disk_full, times))
        acknowledged, failed = 0, True
        with suppress(LogFull):
            acknowledged, failed = append_some(folder / "log.db", disk, retry=True)
        paused += failed
        ended = disk.failures == 0
        disk.crash()
        found = ids_in(folder / "log.db")
        assert found == [str(i) for i in range(acknowledged)]
        if ended:
            break
    assert paused > 30 // step


@every
def test_nothing_of_a_batch_refused_by_a_full_disk_survives_a_power_cut(tmp_path: Path, step: int) -> None:
    for n in count(1, step):
        folder = tmp_path / str(n)
        folder.mkdir()
        disk = Disk(folder, Random(n), fail=nth(n, "write", disk_full, 10**9))
        acknowledged = 0
        with suppress(LogFull):
            acknowledged, _ = append_some(folder / "log.db", disk, retry=False)
        ended = disk.failures == 0
        disk.crash()
        assert ids_in(folder / "log.db") == [str(i) for i in range(acknowledged)]
        if ended:
            break
    assert n > 30


@every
def test_a_failing_sync_stops_the_writer_for_good_and_loses_nothing(tmp_path: Path, step: int) -> None:
    stopped = 0
    for n in count(1, step):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = folder / "log.db"
        disk = Disk(folder, Random(n), fail=nth(n, "sync", sync_failed))
        acknowledged = in_flight = 0
        with (
            suppress(LogError),
            LogWriter.open(path, some_tables(), origin=Origin.LIVE, connect=disk.connect) as writer,
        ):
            for i in range(20):
                in_flight = 1 + 7 * i
                try:
                    writer.append(trades(in_flight, acknowledged))
                except LogFull:
                    pytest.fail("a failed sync is no full disk")
                except LogError:
                    stopped += 1
                    with pytest.raises(LogError, match="takes no more until the process is started again"):
                        writer.append(trades(1))
                    break
                acknowledged, in_flight = acknowledged + in_flight, 0
                if i % 5 == 4:
                    writer._wal_bytes = CHECKPOINT_BYTES  # the next append begins with a checkpoint
        ended = disk.failures == 0
        disk.crash()
        assert len(ids_in(path)) in (acknowledged, acknowledged + in_flight)
        if ended:
            break
    assert stopped >= 20 // step


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_really_full_disk_pauses_and_goes_on(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        path = tmp_path / "log.db"
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(512 * 1024))
        with LogWriter.open(path, some_tables(), origin=Origin.LIVE) as writer:
            with pytest.raises(LogFull, match="no room left"):  # noqa: PT012
                while True:
                    writer.append(trades(50, writer.end))
            acknowledged = writer.end
            with pytest.raises(LogFull):
                writer.append(trades(500, acknowledged))
            assert ids_in(path) == [str(i) for i in range(acknowledged)]
            ballast.unlink()
            for _ in range(50):
                writer.append(trades(50, writer.end))
        assert ids_in(path) == [str(i) for i in range(acknowledged + 2_500)]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- kill -9 ---------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tapewatch.log.local import LogWriter
from tapewatch.records import Batch, Origin, Tables
with LogWriter.open(Path(sys.argv[1]), Tables(), origin=Origin.LIVE) as writer:
    writer._wal_bytes = 4 << 20
    while True:
        end = writer.end
        writer.append(Batch.of([(0, 0, -1, i, 0, 1.0, 1, 0, 0, 0, str(i)) for i in range(end, end + 1 + end % 50)]))
        sys.stdout.write(f"{writer.end}\\n")
        sys.stdout.flush()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_of_a_writing_process_loses_nothing_acknowledged(tmp_path: Path) -> None:
    random = Random(9)
    path = tmp_path / "log.db"
    for _ in range(examples(15)):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(random.randint(1, 300))]
            process.kill()
            lines += process.stdout.readlines()
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
        found = ids_in(path)
        assert found == [str(i) for i in range(len(found))]
        assert len(found) >= acknowledged[-1]
        with LogWriter.open(path, Tables(), origin=Origin.LIVE, expect_end=acknowledged[-1]) as writer:
            assert writer.end == len(found)
