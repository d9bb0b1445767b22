"""The trading days, made once and kept: the library that knows them takes seconds of every process that asks it.

`days` is the calendar. `give_days` puts its files where a pipeline looks for them before its first start.
"""

from __future__ import annotations

import fcntl
import shutil
from functools import cache
from pathlib import Path

import pytest

from tapewatch.calendar import load_calendar
from tapewatch.sessions import Calendar

KEPT = Path(__file__).parent / "__pycache__" / "days"


@cache
def calendar() -> Calendar:
    """The days as a pipeline of today reads them."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two workers one makes them
        return load_calendar(KEPT)


def give_days(data_dir: Path) -> None:
    """Let the days be there already, so that no process has to make them."""
    calendar()
    data_dir.mkdir(parents=True, exist_ok=True)
    for path in KEPT.glob("*.days"):
        shutil.copy(path, data_dir)


@pytest.fixture(scope="session")
def days() -> Calendar:
    """The trading days from 2000 on."""
    return calendar()
