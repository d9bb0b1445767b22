"""Waiting for what nobody tells of: looked at again and again, until a limit that no slow machine reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WAIT_S: Final = 120.0
_POLL_S: Final = 0.01


def until(happened: Callable[[], object], seconds: float = WAIT_S) -> None:
    """Return when it has happened. Raises AssertionError when it has not in this time."""
    deadline_s = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline_s, f"it did not happen within {seconds:g} s"
        time.sleep(_POLL_S)
