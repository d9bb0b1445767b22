"""Quiet hours, over midnight and over the days on which clocks are moved."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.notify.quiet import parse_quiet, quiet_until

NIGHT = "22:00-07:00 America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("quiet", "now", "until"),
    [
        (NIGHT, "2026-03-02T21:59:59-05:00", None),
        (NIGHT, "2026-03-02T22:00:00-05:00", "2026-03-03T07:00:00-05:00"),
        (NIGHT, "2026-03-03T06:59:59-05:00", "2026-03-03T07:00:00-05:00"),
        (NIGHT, "2026-03-03T07:00:00-05:00", None),
        ("12:00-13:00 Europe/Berlin", "2026-07-01T10:30:00+00:00", "2026-07-01T11:00:00+00:00"),
        ("12:00-13:00 UTC", "2026-07-01T11:59:00+00:00", None),
        (NIGHT, "2026-03-07T23:00:00-05:00", "2026-03-08T07:00:00-04:00"),  # clocks are put forward that night
        ("00:30-01:30 America/New_York", "2026-11-01T01:10:00-05:00", "2026-11-01T01:30:00-05:00"),  # the second 01:10
        ("", "2026-07-01T11:59:00+00:00", None),
    ],
)
def test_when_it_is_quiet_and_until_when(quiet: str, now: str, until: str | None) -> None:
    assert quiet_until(quiet, at(now)) == (None if until is None else at(until))


@pytest.mark.parametrize(
    "text",
    ["22:00", "24:00-07:00 UTC", "22:00-07:00", "22:00-07:00 Mars/Base", "07:00-07:00 UTC", "22:00-07:00 ../UTC"],
)
def test_what_are_no_quiet_hours_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected hours and a time zone, such as 22:00-07:00 America/New_York"):
        parse_quiet(text)


@given(
    start=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    end=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    now=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
    zone=st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
)
def test_quiet_hours_end_in_the_future_within_a_day_and_an_hour(
    start: time, end: time, now: datetime, zone: str
) -> None:
    if start == end:
        return
    until = quiet_until(f"{start:%H:%M}-{end:%H:%M} {zone}", now)
    assert until is None or timedelta(0) < until - now <= timedelta(hours=25)
