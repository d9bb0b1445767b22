"""Trading days: the table of moments, the real calendar of the exchange, and its file."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.calendar import CHICAGO, NEW_YORK, forex_sessions, load_calendar
from tapewatch.errors import MachineError
from tapewatch.records import Market
from tapewatch.sessions import Calendar, Sessions, sessions_of


def column(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


#             day 0                     day 1
#   ....[40  95    160  200).....[340  395  430  470)....
TWO_DAYS = Sessions(column(40, 340), column(95, 395), column(160, 430), column(200, 470))


@pytest.mark.parametrize(
    ("time_ms", "stretch", "state"),
    [
        (0, -1, "closed"),
        (39, -1, "closed"),
        (40, 0, "pre"),
        (94, 0, "pre"),
        (95, 0, "regular"),
        (159, 0, "regular"),
        (160, 0, "post"),
        (199, 0, "post"),
        (200, -2, "closed"),
        (339, -2, "closed"),
        (340, 1, "pre"),
        (429, 1, "regular"),
        (430, 1, "post"),
        (470, -3, "closed"),
        (10**15, -3, "closed"),
    ],
)
def test_every_moment_has_one_state_and_one_stretch(time_ms: int, stretch: int, state: str) -> None:
    assert TWO_DAYS.stretch(time_ms) == stretch
    assert TWO_DAYS.state(time_ms) == state
    assert TWO_DAYS.regular(time_ms) == (state == "regular")
    assert TWO_DAYS.is_open(time_ms) == (state != "closed")


@given(st.integers(-(2**62), 2**62))
def test_a_market_that_never_closes_is_one_regular_stretch(time_ms: int) -> None:
    always = Sessions.always()
    assert (always.state(time_ms), always.stretch(time_ms)) == ("regular", -1)
    assert always.is_open(time_ms)


@given(st.integers(0, 600), st.integers(0, 600))
def test_moments_share_a_stretch_when_no_opening_or_closing_lies_between(a: int, b: int) -> None:
    a, b = sorted((a, b))
    edges = [*TWO_DAYS.day_open.tolist(), *TWO_DAYS.day_close.tolist()]
    assert (TWO_DAYS.stretch(a) == TWO_DAYS.stretch(b)) == (not any(a < edge <= b for edge in edges))


@pytest.mark.parametrize(
    "columns",
    [
        (column(40), column(95), column(95), column(200)),  # a session without length
        (column(40), column(95), column(160), column(159)),
        (column(40, 150), column(95, 395), column(160, 430), column(200, 470)),  # opens before the day before ended
        (column(40), column(95), column(160), column(200, 210)),
        (np.array([40.0]), column(95), column(160), column(200)),
    ],
)
def test_impossible_days_are_refused(columns: tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Sessions(*columns)


def new_york(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


@pytest.fixture(scope="module")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> Calendar:
    return load_calendar(tmp_path_factory.mktemp("calendar"), 2027)


@pytest.fixture(scope="module")
def days(calendar: Calendar) -> Sessions:
    return calendar[Market.STOCKS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("day", "close", "post_close"),
    [
        ("2000-01-03", "16:00", "20:00"),
        ("2013-11-29", "13:00", "17:00"),  # the day after Thanksgiving
        ("2024-03-08", "16:00", "20:00"),  # the last day of winter time
        ("2024-03-11", "16:00", "20:00"),  # the first of summer time
        ("2024-11-04", "16:00", "20:00"),
        ("2026-11-27", "13:00", "17:00"),
        ("2026-12-24", "13:00", "17:00"),
    ],
)
def test_a_trading_day_by_the_clocks_of_new_york(days: Sessions, day: str, close: str, post_close: str) -> None:
    edges = [f"{day} 04:00", f"{day} 09:30", f"{day} {close}", f"{day} {post_close}"]
    for edge, before, after in zip(
        edges, ("closed", "pre", "regular", "post"), ("pre", "regular", "post", "closed"), strict=True
    ):
        assert (days.state(new_york(edge) - 1), days.state(new_york(edge))) == (before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    "day",
    ["2001-09-12", "2012-10-29", "2018-12-05", "2025-01-09", "2025-07-04", "2026-04-03", "2026-07-25", "2027-07-05"],
)
def test_a_holiday_is_closed_all_day(days: Sessions, day: str) -> None:
    assert {days.state(new_york(f"{day} {hour:02}:15")) for hour in range(24)} == {"closed"}


@pytest.mark.slow
def test_changing_the_clocks_moves_the_opening_bell_in_utc(days: Sessions) -> None:
    opens = {datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d %H:%M") for ms in days.regular_open.tolist()[-500:]}
    assert {"03-06 14:30", "03-09 13:30", "10-30 13:30", "11-02 14:30"} <= opens


@pytest.mark.slow
def test_every_day_equals_the_library(days: Sessions) -> None:
    # Asked in a process of its own too, so that pandas (and its warnings) stay out of the other tests.
    script = """if True:
        import exchange_calendars
        schedule = exchange_calendars.get_calendar("XNYS", start="2000-01-01", end="2027-12-31").schedule
        for row in schedule.itertuples():
            print(row.Index.date(), int(row.open.timestamp()) * 1000, int(row.close.timestamp()) * 1000)
    """
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    expected = [line.split() for line in printed.splitlines()]
    assert len(expected) == len(days.day_open) > 7_000
    assert days.regular_open.tolist() == [int(opens) for _, opens, _ in expected]
    assert days.regular_close.tolist() == [int(closes) for _, _, closes in expected]
    assert days.day_open.tolist() == [new_york(f"{day} 04:00") for day, _, _ in expected]
    half = [new_york(f"{day} 13:00") == int(closes) for day, _, closes in expected]
    assert days.day_close.tolist() == [
        new_york(f"{day} {'17' if is_half else '20'}:00") for (day, _, _), is_half in zip(expected, half, strict=True)
    ]
    assert 50 < sum(half) < 80


@pytest.mark.slow
def test_the_file_is_kept_and_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "calendar"
    made = load_calendar(folder, 2001)[Market.STOCKS]
    names = [f"sessions-{name}-{version('exchange-calendars')}-2001.days" for name in ("CMES", "XNYS")]
    assert sorted(path.name for path in folder.iterdir()) == names  # and nothing half-made beside them
    path = folder / names[1]
    good = path.read_bytes()
    stamp = path.stat().st_mtime_ns

    assert np.array_equal(load_calendar(folder, 2001)[Market.STOCKS].day_close, made.day_close)
    assert path.stat().st_mtime_ns == stamp, "the second start must not make it again"

    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (b"", good[:31], good[:-32], bytes(flipped)):
        path.write_bytes(damaged)
        assert np.array_equal(load_calendar(folder, 2001)[Market.STOCKS].day_close, made.day_close)
        assert path.read_bytes() == good

    (folder / names[0]).unlink()
    assert load_calendar(folder, 2001)[Market.FUTURES].day_open.size > 500
    assert path.read_bytes() == good

    assert load_calendar(folder, 2002)[Market.STOCKS].day_open.size > made.day_open.size
    assert len(list(folder.iterdir())) == 4


@pytest.mark.slow
def test_without_a_folder_nothing_is_kept_and_pandas_stays_out() -> None:
    script = """if True:
        import sys
        from tapewatch.calendar import load_calendar
        from tapewatch.records import Market
        days = load_calendar(None)[Market.STOCKS]
        print(len(days.day_open), "pandas" in sys.modules, "exchange_calendars" in sys.modules)
    """
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert int(printed[0]) > 6_500
    assert printed[1:] == ["False", "False"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match=r"calendar cannot be kept in .*file"):
        load_calendar(tmp_path / "file" / "calendar", 2001)


@pytest.mark.slow
def test_a_library_that_cannot_answer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"calendar could not be made: .*1999"):
        load_calendar(tmp_path, 1999)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_days_follow_one_another(days: Sessions) -> None:
    gaps = [later - earlier for earlier, later in pairwise(days.day_open.tolist())]
    assert min(gaps) >= 23 * 3_600_000
    assert max(gaps) <= 8 * 86_400_000  # September 2001


# --- the other markets -----------------------------------------------------------------------------------------


def at(text: str, zone: ZoneInfo = NEW_YORK) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def test_a_day_that_begins_where_the_day_before_ends_goes_on_with_its_stretch() -> None:
    week = Sessions(column(0, 10, 20, 40), column(0, 10, 20, 40), column(10, 20, 30, 50), column(10, 20, 30, 50))
    moments = (-1, 0, 9, 10, 25, 29, 30, 39, 40, 50)
    assert [week.day(time_ms) for time_ms in moments] == [-1, 0, 0, 1, 2, 2, -4, -4, 3, -5]
    assert [week.stretch(time_ms) for time_ms in moments] == [-1, 0, 0, 0, 0, 0, -4, -4, 3, -5]


def test_a_market_that_is_not_in_the_calendar_never_closes() -> None:
    assert sessions_of({}, Market.FUTURES).is_open(0)
    assert sessions_of({Market.FUTURES: TWO_DAYS}, Market.FUTURES) is TWO_DAYS


def test_currencies_trade_five_days_without_a_break() -> None:
    forex = forex_sessions(2026)
    assert [forex.is_open(at(text)) for text in ("2026-11-20 16:59", "2026-11-20 17:00", "2026-11-22 16:59")] == [
        True, False, False,
    ]  # fmt: skip
    week = [forex.stretch(at(text)) for text in ("2026-11-22 17:00", "2026-11-25 03:00", "2026-11-27 16:59")]
    assert len(set(week)) == 1
    assert week[0] >= 0
    assert forex.stretch(at("2026-11-20 16:59")) < week[0] < forex.stretch(at("2026-11-29 17:00"))
    # A day begins at five in the evening, in summer and in winter.
    turns = ["2026-03-06 16:59", "2026-03-08 17:00", "2026-03-09 16:59", "2026-03-09 17:00"]
    first, second, third, fourth = (forex.day(at(text)) for text in turns)
    assert (second - first, third - second, fourth - third) == (1, 0, 1)
    assert forex.state(at("2026-12-25 12:00")) == "regular"


@pytest.mark.slow
@pytest.mark.parametrize("market", [Market.OPTIONS, Market.INDICES])
def test_options_and_indices_keep_the_stock_exchanges_days(calendar: Calendar, market: Market) -> None:
    sessions = calendar[market]
    moments = ["09:29", "09:30", "15:59", "16:00", "16:14", "16:15"]
    assert [sessions.state(at(f"2026-11-25 {clock}")) for clock in moments] == [
        "closed", "regular", "regular", "post", "post", "closed",
    ]  # fmt: skip
    half = [sessions.state(at(f"2026-11-27 {clock}")) for clock in ("12:59", "13:00", "13:14", "13:15")]
    assert half == ["regular", "post", "post", "closed"]
    assert not sessions.is_open(at("2026-11-26 12:00"))  # Thanksgiving
    assert sessions.regular_open.tolist() == calendar[Market.STOCKS].regular_open.tolist()


@pytest.mark.slow
def test_futures_trade_from_evening_to_afternoon(calendar: Calendar) -> None:
    futures = calendar[Market.FUTURES]
    moments = {
        "2026-11-22 17:59": "closed",  # a Sunday
        "2026-11-22 18:00": "regular",
        "2026-11-23 03:00": "regular",
        "2026-11-23 16:59": "regular",
        "2026-11-23 17:00": "closed",  # an hour's break
        "2026-11-23 17:59": "closed",
        "2026-11-23 18:00": "regular",
        "2026-11-26 12:59": "regular",  # Thanksgiving
        "2026-11-26 13:00": "closed",
        "2026-11-26 18:00": "regular",
        "2026-11-28 12:00": "closed",  # a Saturday
        "2026-12-25 12:00": "closed",
        "2026-03-08 18:00": "regular",  # the clocks changed that morning
        "2026-03-08 17:59": "closed",
    }
    assert {text: futures.state(at(text)) for text in moments} == moments
    monday, tuesday = futures.stretch(at("2026-11-23 16:59")), futures.stretch(at("2026-11-23 18:00"))
    assert futures.stretch(at("2026-11-22 18:00")) == monday != tuesday
    opens = {datetime.fromtimestamp(ms / 1000, CHICAGO).strftime("%H:%M") for ms in futures.day_open.tolist()[-1000:]}
    assert opens == {"17:00"}


@pytest.mark.slow
def test_crypto_has_no_days(calendar: Calendar) -> None:
    assert set(calendar) == set(Market) - {Market.CRYPTO}
