"""Quiet hours: ``22:00-07:00 America/New_York``, by the clock on the wall of that zone.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["Quiet", "parse_quiet", "quiet_until"]

HELP: Final = "hours and a time zone, such as 22:00-07:00 America/New_York"
_FORM: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) ([A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*)")


class Quiet(NamedTuple):
    """From ``start`` to ``end``, which is on the next day where it is earlier."""

    start: time
    end: time
    zone: ZoneInfo


@lru_cache(maxsize=256)
def parse_quiet(text: str) -> Quiet:
    """The hours that ``text`` says. Raises ValueError with what is allowed."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"expected {HELP}")
    try:
        zone = ZoneInfo(found[5])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"expected {HELP}; there is no time zone {found[5]}") from None
    start, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    if start == end:
        raise ValueError(f"expected {HELP}: these begin and end at the same time")
    return Quiet(start, end, zone)


def quiet_until(text: str, now: datetime) -> datetime | None:
    """When the quiet hours end in which ``now`` lies; None if it lies in none.

    >>> quiet_until("22:00-07:00 America/New_York", datetime.fromisoformat("2026-03-03T04:30:00+00:00")).isoformat()
    '2026-03-03T12:00:00+00:00'
    """
    if not text:
        return None
    quiet = parse_quiet(text)
    local = now.astimezone(quiet.zone)
    clock = local.time().replace(tzinfo=None)
    if quiet.start < quiet.end:
        inside, days = quiet.start <= clock < quiet.end, 0
    else:
        inside, days = clock >= quiet.start or clock < quiet.end, int(clock >= quiet.start)
    if not inside:
        return None
    end = datetime.combine(local.date() + timedelta(days=days), quiet.end, tzinfo=quiet.zone)
    # Where clocks are put back the same time comes twice: what would end in the past ends the second time.
    end_utc = end.astimezone(now.tzinfo)
    return end_utc if end_utc > now else end.replace(fold=1).astimezone(now.tzinfo)
