"""The trading days of every market, from the exchange-calendars library, kept in small files.

The library knows every holiday and half day, but it brings pandas: about 80 MB and a second of every start. So
it runs in a child process of its own, which writes the days to files and ends; this process reads the files.

    first start, new year, or new library     child ──► sessions-XNYS-<library version>-<last year>.days ──► Calendar
                                                        sessions-CMES-…
    every other start                                   the same files ────────────────────────────────────► Calendar

    XNYS     New York's exchanges: stocks, options and indices
    CMES     CME Globex: futures; the library's days last until the next one begins, here they end an hour earlier
    forex    every weekday, without holidays: no library is asked

A file is a SHA-256 followed by what it is of: four little-endian int64 a day, in the order of `Sessions`. It
appears whole or not at all, and a damaged one is made anew.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from datetime import date, datetime, timedelta
from datetime import time as clock
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tapewatch.errors import MachineError
from tapewatch.records import Market
from tapewatch.sessions import COLUMNS, Calendar, Sessions

__all__ = ["CHICAGO", "NEW_YORK", "load_calendar"]

STOCK_EXCHANGES: Final = "XNYS"
FUTURES_EXCHANGES: Final = "CMES"
NEW_YORK: Final = ZoneInfo("America/New_York")
CHICAGO: Final = ZoneInfo("America/Chicago")
FIRST_YEAR: Final = 2000
CHILD_S_MAX: Final = 60.0
"""The child takes about two seconds; one that takes this long is ended."""
OPTIONS_POST_MS: Final = 15 * 60_000
"""So long after the closing bell some options still trade, and indices get their closing values."""

_EXCHANGES: Final = (STOCK_EXCHANGES, FUTURES_EXCHANGES)
_DIGEST_BYTES: Final = 32
_PRE_OPEN: Final = clock(4, 0)
_POST_CLOSE: Final = clock(20, 0)
_HALF_DAY_POST_CLOSE: Final = clock(17, 0)
_FULL_DAY_CLOSE: Final = clock(16, 0)
_FUTURES_CLOSE: Final = clock(16, 0)  # of Chicago; an hour later the next day opens
_FOREX_CLOSE: Final = clock(17, 0)  # of New York; at once the next day opens
_SATURDAY: Final = 5


def load_calendar(cache_dir: Path | None, last_year: int | None = None) -> Calendar:
    """The trading days from 2000 to the end of ``last_year`` (the year after this one, if None). Crypto has none.

    ``cache_dir`` is made when missing; with None nothing is kept.

    Raises:
        MachineError: the library cannot be run, or a file cannot be written.
    """
    year = time.gmtime().tm_year + 1 if last_year is None else last_year
    try:
        if cache_dir is None:
            with tempfile.TemporaryDirectory(prefix="tapewatch-") as folder:
                stocks, futures = _made(Path(folder), year)
        else:
            stem, library = "sessions", version("exchange-calendars")
            paths = [cache_dir / f"{stem}-{name}-{library}-{year}.days" for name in _EXCHANGES]
            kept = [_read(path) for path in paths]
            stocks, futures = (one for one in (kept if None not in kept else _cached(paths, year)) if one is not None)
    except OSError as error:
        raise MachineError(f"The trading calendar cannot be kept in {cache_dir}: {error.strerror or error}") from error
    listed = _listed(stocks)
    return {
        Market.STOCKS: stocks,
        Market.OPTIONS: listed,
        Market.FUTURES: futures,
        Market.FOREX: forex_sessions(year),
        Market.INDICES: listed,
    }


@cache
def forex_sessions(last_year: int) -> Sessions:
    """The weekdays of ``FIRST_YEAR`` to ``last_year``, each from 17:00 of the evening before to 17:00 in New York."""
    first, days = date(FIRST_YEAR, 1, 1), (date(last_year, 12, 31) - date(FIRST_YEAR, 1, 1)).days + 1
    every = [first + timedelta(n) for n in range(-1, days)]
    ends = [_unix_ms(day, _FOREX_CLOSE, NEW_YORK) for day in every]
    rows = [
        [opens, opens, closes, closes]
        for day, opens, closes in zip(every[1:], ends, ends[1:], strict=False)
        if day.weekday() < _SATURDAY
    ]
    return _sessions(np.array(rows, np.int64))


def _listed(stocks: Sessions) -> Sessions:
    """What trades on the stock exchanges' days, but is made of stocks: no pre, and a little post."""
    post_close = stocks.regular_close + OPTIONS_POST_MS
    return Sessions(stocks.regular_open, stocks.regular_open, stocks.regular_close, post_close)


def _cached(paths: list[Path], year: int) -> list[Sessions]:
    """Make the days in a folder beside ``paths``, and put each file in its place in one step."""
    folder_of = paths[0].parent
    folder_of.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sessions-", dir=folder_of) as folder:
        made = _made(Path(folder), year)
        for name, path in zip(_EXCHANGES, paths, strict=True):
            _file_of(Path(folder), name).replace(path)
    return made


def _made(folder: Path, year: int) -> list[Sessions]:
    """Have the child write the days into ``folder``, and read them."""
    command = [sys.executable, "-m", "tapewatch.calendar", str(folder), str(year)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=CHILD_S_MAX)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise MachineError(f"The trading calendar could not be made: {last[:300]}") from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"The trading calendar was not made within {CHILD_S_MAX:.0f} seconds; try again.") from error
    made = [found for name in _EXCHANGES if (found := _read(_file_of(folder, name))) is not None]
    if len(made) != len(_EXCHANGES):
        raise MachineError(f"The trading calendar was just written to {folder}, but cannot be read; check the disk.")
    return made


def _file_of(folder: Path, exchange: str) -> Path:
    """Where the child writes an exchange's days."""
    return folder / f"{exchange}.days"


def _read(path: Path) -> Sessions | None:
    """The days in ``path``; None when it is missing or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    days = content[_DIGEST_BYTES:]
    if not days or content[:_DIGEST_BYTES] != hashlib.sha256(days).digest():
        return None
    return _sessions(np.frombuffer(days, "<i8"))


def _sessions(days: NDArray[np.int64]) -> Sessions:
    return Sessions(*np.ascontiguousarray(days.astype(np.int64).reshape(-1, len(COLUMNS)).T))


def _unix_ms(day: date, at: clock, zone: ZoneInfo) -> int:
    return round(datetime.combine(day, at, zone).timestamp() * 1000)


# --- in the child ------------------------------------------------------------------------------------------------


def _write(folder: Path, last_year: int) -> None:
    """Ask the library, and write what it says."""
    import exchange_calendars

    for name, day_of in ((STOCK_EXCHANGES, _stock_day), (FUTURES_EXCHANGES, _futures_day)):
        calendar = exchange_calendars.get_calendar(name, start=f"{FIRST_YEAR}-01-01", end=f"{last_year}-12-31")
        hours = zip(calendar.schedule["open"], calendar.schedule["close"], strict=True)
        days = np.array([day_of(opens, closes) for opens, closes in hours], "<i8")
        _sessions(days)  # an impossible day is refused here, before it is written
        _file_of(folder, name).write_bytes(hashlib.sha256(days.tobytes()).digest() + days.tobytes())


def _stock_day(opens: Any, closes: Any) -> list[int]:
    opens, closes = opens.tz_convert(NEW_YORK), closes.tz_convert(NEW_YORK)
    post_close = _POST_CLOSE if closes.time() >= _FULL_DAY_CLOSE else _HALF_DAY_POST_CLOSE
    return [_unix_ms(opens.date(), at, NEW_YORK) for at in (_PRE_OPEN, opens.time(), closes.time(), post_close)]


def _futures_day(opens: Any, closes: Any) -> list[int]:
    opens, closes = opens.tz_convert(CHICAGO), closes.tz_convert(CHICAGO)
    opened = _unix_ms(opens.date(), opens.time(), CHICAGO)
    closed = _unix_ms(closes.date(), min(closes.time(), _FUTURES_CLOSE), CHICAGO)
    return [opened, opened, closed, closed]


if __name__ == "__main__":
    _write(Path(sys.argv[1]), int(sys.argv[2]))
