"""`tapewatch spark`, killed with kill -9 right after a worker has written, before Spark knows of it.

    python tests/killed_sink.py sound|broken COMMITS [options of tapewatch spark]

After so many commits of one worker the driver is killed (0: never). The broken one appends whatever it is given, though
the database has it: the canary of tests/system/test_spark_commit.py.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from typing import Any

import psycopg

from tapewatch.cli import execute
from tapewatch.profiles import spark
from tapewatch.profiles.commit import Commit
from tapewatch.profiles.spark import LanePlan, LaneProcessor
from tapewatch.records import Origin
from tapewatch.store.writer import StoreWriter

DRIVER, MODE, AFTER = os.getpid(), *sys.argv[1:3]


def append(plan: LanePlan, commit: Commit) -> None:
    """What a sink without a fence does."""
    with psycopg.connect(plan.conninfo) as connection:
        connection.execute("UPDATE engine_state SET position = %s WHERE lane = %s", (commit.old, commit.lane))
    with closing(StoreWriter.connect(plan.conninfo, commit.lane)) as store:
        at = store.recover(plan.log_id, commit.origin or Origin.LIVE).position
        store.commit(commit.changes(), at, commit.new, snapshot=commit.snapshot, notifications=commit.notifications)


class KilledProcessor(LaneProcessor):
    """Of the main module, so it travels to the workers by value."""

    def __init__(self, plan: LanePlan) -> None:
        super().__init__(plan)
        self._driver, self._is_broken, self._after = DRIVER, MODE == "broken", int(AFTER)

    def write(self, commit: Commit) -> None:
        """As the real one, or without its fence; and then perhaps the end."""
        if self._is_broken:
            append(self._plan, commit)
        else:
            super().write(commit)
        counted: dict[str, int] = spark.__dict__.setdefault("_commits_seen", {"n": 0})
        counted["n"] += 1
        if self._after and counted["n"] >= self._after:
            os.kill(self._driver, signal.SIGKILL)
            signal.pause()


def main() -> None:
    wrong: Any = KilledProcessor
    spark.LaneProcessor = wrong
    sys.exit(execute(["spark", *sys.argv[3:]]))


if __name__ == "__main__":
    main()
