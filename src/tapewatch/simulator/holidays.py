"""Days on which New York's stock market is closed, or closes at 13:00. By the rules of 2022 and later. Pure."""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from typing import Final

__all__ = ["EARLY_CLOSE_MINUTE", "early_closes", "holidays"]

EARLY_CLOSE_MINUTE: Final = 13 * 60
_SATURDAY, _SUNDAY = 5, 6


@lru_cache(maxsize=64)
def holidays(year: int) -> dict[date, str]:
    """The days without trading in ``year``, with their names.

    >>> holidays(2025)[date(2025, 11, 27)], len(holidays(2025)), date(2022, 1, 1) in holidays(2022)
    ('Thanksgiving', 10, False)
    """
    found = {
        _nth_monday(year, 1, 3): "Martin Luther King, Jr. Day",
        _nth_monday(year, 2, 3): "Washington's Birthday",
        _easter(year) - timedelta(days=2): "Good Friday",
        _last_monday_of_may(year): "Memorial Day",
        _observed(date(year, 6, 19)): "Juneteenth",
        _observed(date(year, 7, 4)): "Independence Day",
        _nth_monday(year, 9, 1): "Labor Day",
        _thanksgiving(year): "Thanksgiving",
        _observed(date(year, 12, 25)): "Christmas",
    }
    # A Saturday's New Year is not made up for: the Friday before is in another year.
    if date(year, 1, 1).weekday() != _SATURDAY:
        found[_observed(date(year, 1, 1))] = "New Years Day"
    return found


@lru_cache(maxsize=64)
def early_closes(year: int) -> dict[date, str]:
    """The days of ``year`` on which trading ends at 13:00.

    >>> sorted(d.isoformat() for d in early_closes(2025))
    ['2025-07-03', '2025-11-28', '2025-12-24']
    """
    candidates = {
        date(year, 7, 3): "Independence Day",
        _thanksgiving(year) + timedelta(days=1): "Thanksgiving",
        date(year, 12, 24): "Christmas",
    }
    closed = holidays(year)
    return {day: name for day, name in candidates.items() if day.weekday() < _SATURDAY and day not in closed}


def _observed(day: date) -> date:
    """A Saturday's holiday is kept on Friday, a Sunday's on Monday."""
    return day + timedelta(days={_SATURDAY: -1, _SUNDAY: 1}.get(day.weekday(), 0))


def _nth_monday(year: int, month: int, number: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(-first.weekday()) % 7 + 7 * (number - 1))


def _last_monday_of_may(year: int) -> date:
    last = date(year, 5, 31)
    return last - timedelta(days=last.weekday())


def _thanksgiving(year: int) -> date:
    first = date(year, 11, 1)
    return first + timedelta(days=(3 - first.weekday()) % 7 + 21)


def _easter(year: int) -> date:
    """Sunday of Easter, by the anonymous Gregorian rule."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return date(year, month, day + 1)
