"""The trading days of each market: when it is open, and which moments belong together.

    stocks       04:00        09:30            16:00         20:00         (New York; half days: 13:00 and 17:00)
                   |   pre      |    regular     |    post     |   closed
                day_open   regular_open    regular_close   day_close

Pre, regular and post session of one trading day are one *stretch*: a side (above or below the average) known
before the opening bell is still known after it, and forgotten overnight. A day that begins the moment the day before
ends goes on with its stretch: five days of currencies are one. Every interval holds its start and not its end.

    options, indices     regular as stocks, and post 15 minutes longer; no pre
    futures              regular from 18:00 of the evening before to 17:00
    forex                regular from 17:00 of the evening before to 17:00; Monday's begins on Sunday
    crypto               always open

`tapewatch.calendar` makes the days.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import Market

State = Literal["pre", "regular", "post", "closed"]

COLUMNS: Final = ("day_open", "regular_open", "regular_close", "day_close")


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """One row per trading day, earliest first; every column is Unix ms.

    Without rows the market never closes (`always`). With rows, every moment before the first day and after the
    last one counts as closed.

    Raises:
        ValueError: the columns are not one-dimensional int64 of one length, or a time comes before the one before
            it (within a day, and from day to day), or a regular session has no length.
    """

    day_open: NDArray[np.int64]
    regular_open: NDArray[np.int64]
    regular_close: NDArray[np.int64]
    day_close: NDArray[np.int64]
    first_of_stretch: NDArray[np.int64] = field(init=False)
    """Of each day, the day its stretch begins with."""

    def __post_init__(self) -> None:
        columns = [getattr(self, name) for name in COLUMNS]
        for name, column in zip(COLUMNS, columns, strict=True):
            if column.dtype != np.int64 or column.shape != (len(self.day_open),):
                raise ValueError(
                    f"{name}: expected {len(self.day_open)} int64 values, got {column.dtype} {column.shape}"
                )
        steps = np.diff(np.stack(columns, axis=1).ravel())
        if np.any(steps < 0) or np.any(steps[1 :: len(COLUMNS)] == 0):
            raise ValueError("expected days in order, each with day_open <= regular_open < regular_close <= day_close")
        rows = np.arange(len(self.day_open))
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = self.day_open[1:] > self.day_close[:-1]
        object.__setattr__(self, "first_of_stretch", np.maximum.accumulate(np.where(begins, rows, 0)))

    @staticmethod
    def always() -> Sessions:
        """A market that never closes, such as crypto: every moment is regular, and all are one stretch."""
        return Sessions(*(np.empty(0, np.int64) for _ in COLUMNS))

    def stretch(self, time_ms: int) -> int:
        """The number of the stretch ``time_ms`` lies in; two moments belong together when these are equal.

        It is `day`, but for a day that goes on with the stretch of the days before it: then it is the first one's.
        """
        day = self.day(time_ms)
        return day if day < 0 else int(self.first_of_stretch[day])

    def day(self, time_ms: int) -> int:
        """The trading day ``time_ms`` lies in: its row, 0 and up.

        A closed time's is -(i + 1), where i days have opened before it.
        """
        opened = int(np.searchsorted(self.day_open, time_ms, side="right"))
        if opened and time_ms < self.day_close[opened - 1]:
            return opened - 1
        return -(opened + 1)

    def state(self, time_ms: int) -> State:
        """Which part of the trading day ``time_ms`` lies in."""
        if not len(self.day_open):
            return "regular"
        day = self.day(time_ms)
        if day < 0:
            return "closed"
        if time_ms < self.regular_open[day]:
            return "pre"
        return "regular" if time_ms < self.regular_close[day] else "post"

    def opened_ms(self, time_ms: int) -> int:
        """When the trading day that ``time_ms`` lies in began; 0 where the market is closed or never closes."""
        day = self.day(time_ms) if len(self.day_open) else -1
        return int(self.day_open[day]) if day >= 0 else 0

    def regular(self, time_ms: int) -> bool:
        """Whether ``time_ms`` lies in the regular session."""
        return self.state(time_ms) == "regular"

    def is_open(self, time_ms: int) -> bool:
        """Whether trades are expected at ``time_ms``: pre, regular or post session."""
        return self.state(time_ms) != "closed"


_ALWAYS: Final = Sessions.always()
Calendar = Mapping[Market, Sessions]
"""The sessions of each market; one that is not in it never closes."""


def sessions_of(calendar: Calendar, market: Market) -> Sessions:
    """Those of one market.

    >>> sessions_of({}, Market.CRYPTO).state(0)
    'regular'
    """
    return calendar.get(market, _ALWAYS)
