"""When the simulated markets trade. Times are New York's; stocks know holidays and half days. Pure.

stocks            04:00 to 20:00 on weekdays; regular 09:30 to 16:00, to 13:00 on half days
options, indices  stocks' regular session
futures           Sunday 18:00 to Friday 17:00, but for the hour from 17:00 each day
forex             Sunday 17:00 to Friday 17:00
crypto            always
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from tapewatch.records import Market
from tapewatch.simulator.holidays import EARLY_CLOSE_MINUTE, early_closes, holidays

NEW_YORK: Final = ZoneInfo("America/New_York")
OPEN_MINUTE: Final = 9 * 60 + 30
CLOSE_MINUTE: Final = 16 * 60
_PRE_MINUTE: Final = 4 * 60
_POST_MINUTE: Final = 20 * 60
_POST_SHORT_MINUTE: Final = 17 * 60
_EVENING_MINUTE: Final = 17 * 60
_FRIDAY, _SATURDAY, _SUNDAY = 4, 5, 6


class Hours(StrEnum):
    """The part of the day a moment is in."""

    CLOSED = "closed"
    PRE = "pre"
    REGULAR = "regular"
    POST = "post"


@lru_cache(maxsize=4096)
def minute_of_day(minute_start_ms: int) -> int:
    """Minutes since midnight on New York's clock."""
    local = datetime.fromtimestamp(minute_start_ms / 1000, NEW_YORK)
    return local.hour * 60 + local.minute


@lru_cache(maxsize=4096)
def hours_at(minute_start_ms: int) -> Hours:
    """The session of the minute that starts at ``minute_start_ms`` (Unix ms)."""
    day = datetime.fromtimestamp(minute_start_ms / 1000, NEW_YORK).date()
    if day.weekday() >= 5 or day in holidays(day.year):
        return Hours.CLOSED
    minute = minute_of_day(minute_start_ms)
    is_short = day in early_closes(day.year)
    close, last = (EARLY_CLOSE_MINUTE, _POST_SHORT_MINUTE) if is_short else (CLOSE_MINUTE, _POST_MINUTE)
    if OPEN_MINUTE <= minute < close:
        return Hours.REGULAR
    if _PRE_MINUTE <= minute < OPEN_MINUTE:
        return Hours.PRE
    return Hours.POST if close <= minute < last else Hours.CLOSED


@lru_cache(maxsize=4096)
def market_hours(market: Market, minute_start_ms: int) -> Hours:
    """The session of a market; those without a pre and a post session are open or closed."""
    if market is Market.STOCKS:
        return hours_at(minute_start_ms)
    if market is Market.CRYPTO:
        return Hours.REGULAR
    if market in (Market.OPTIONS, Market.INDICES):
        return Hours.REGULAR if hours_at(minute_start_ms) is Hours.REGULAR else Hours.CLOSED
    weekday = datetime.fromtimestamp(minute_start_ms / 1000, NEW_YORK).weekday()
    minute = minute_of_day(minute_start_ms)
    opens = _EVENING_MINUTE + 60 if market is Market.FUTURES else _EVENING_MINUTE
    if weekday == _SUNDAY:
        is_open = minute >= opens
    elif weekday == _SATURDAY:
        is_open = False
    elif weekday == _FRIDAY:
        is_open = minute < _EVENING_MINUTE
    else:
        is_open = not _EVENING_MINUTE <= minute < opens
    return Hours.REGULAR if is_open else Hours.CLOSED


@lru_cache(maxsize=64)
def day_start_ms(year: int, month: int, day: int) -> int:
    """Midnight in New York, Unix ms."""
    return int(datetime(year, month, day, tzinfo=NEW_YORK).timestamp() * 1000)


def day_of(ms: int) -> tuple[int, int]:
    """[start, end) of New York's day that holds the moment ``ms``, Unix ms."""
    local = datetime.fromtimestamp(ms / 1000, NEW_YORK).date()
    following = local + timedelta(days=1)
    return (
        day_start_ms(local.year, local.month, local.day),
        day_start_ms(following.year, following.month, following.day),
    )
