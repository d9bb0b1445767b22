"""`engine.days`: the kernel's trading day of a moment is that of `sessions`, whatever day is guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.engine import days
from tapewatch.engine.days import DAY_MS, days_of
from tapewatch.engine.state import NEVER
from tapewatch.records import Market
from tapewatch.sessions import Sessions

SESSIONS = Sessions(
    *(np.array(column, np.int64) for column in ([40, 340, 470], [95, 395, 480], [160, 430, 490], [200, 470, 500]))
)
CALENDAR = {Market.STOCKS: SESSIONS, Market.OPTIONS: SESSIONS}
DAYS = days_of(CALENDAR)
plain: Callable[..., Any] = days.day_of.py_func  # type: ignore[attr-defined]
moments = st.integers(-1, 600)
guesses = st.integers(-6, 6) | st.just(NEVER)


@given(moments, guesses, st.sampled_from(list(CALENDAR)))
def test_a_day_is_found_whatever_is_guessed(time_ms: int, guess: int, market: Market) -> None:
    assert plain(DAYS, int(market), time_ms, guess) == SESSIONS.day(time_ms)


@given(st.integers(0, 10 * DAY_MS), guesses)
def test_a_market_that_never_closes_has_days_of_utc(time_ms: int, guess: int) -> None:
    assert plain(DAYS, int(Market.CRYPTO), time_ms, guess) == time_ms // DAY_MS
