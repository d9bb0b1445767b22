"""`tapewatch run` with a broken store: it commits the position first, the rows after, and dies in between.

The canary of tests/system/test_kill.py. What a correct store writes in one transaction is here two, and the process
ends between them: at the first commit, after some good ones, that holds a new alert.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapewatch.cli import main
from tapewatch.profiles import front
from tapewatch.records import AlertStatus, Changes, Notification
from tapewatch.store.writer import StoreWriter

COMMITS_BEFORE = 20


class TornStore(StoreWriter):
    """A `StoreWriter` whose commits are torn in two."""

    commits = 0

    def commit(
        self,
        changes: Changes,
        old_position: int,
        new_position: int,
        *,
        snapshot: bytes | None = None,
        notifications: Sequence[Notification] = (),
    ) -> None:
        self.commits += 1
        has_news = any(alert.status is AlertStatus.PROVISIONAL for alert in changes.alerts)
        if self.commits <= COMMITS_BEFORE or not has_news:
            super().commit(changes, old_position, new_position, snapshot=snapshot, notifications=notifications)
            return
        super().commit(nothing_of(changes), old_position, new_position, snapshot=snapshot)
        os.kill(os.getpid(), signal.SIGKILL)


def nothing_of(changes: Changes) -> Changes:
    """The same without any row."""
    empty: dict[str, Any] = {
        name: np.empty(0, getattr(changes, name).dtype) for name in ("windows", "bars", "latest", "quality")
    }
    return Changes(symbols=changes.symbols, alerts=[], gaps=[], **empty)


if __name__ == "__main__":
    front.StoreWriter = TornStore  # type: ignore[misc]
    main()
