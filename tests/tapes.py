"""Flat files made for tests, and what they mean in plain Python: the records of a replay, as the oracle takes them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tapewatch.feed.conditions import eligibility
from tapewatch.feed.symbols import product_symbol
from tapewatch.oracle import Row
from tapewatch.profiles.parts import Parts
from tapewatch.records import Market
from tapewatch.sessions import sessions_of

STOCK_COLUMNS = (
    "ticker", "conditions", "correction", "exchange", "id", "participant_timestamp", "price", "sequence_number",
    "sip_timestamp", "size", "tape", "trf_id", "trf_timestamp",
)  # fmt: skip
CRYPTO_COLUMNS = ("ticker", "conditions", "correction", "exchange", "id", "participant_timestamp", "price", "size")
BELL_NS = 1_769_092_200_000_000_000
"""2026-01-22 09:30 in New York, a Thursday."""
_MS_NS = 1_000_000
_DAY_MS = 86_400_000
_DAY_NS = _DAY_MS * _MS_NS
_ODDITIES = (
    ("", 60), ("14", 15), ("37", 12), ("14,41", 4), ("12", 3), ("12,37", 2), ("15", 1), ("10", 1), ("99", 1), ("53", 1),
)  # fmt: skip
"""Condition codes: none, sweep, odd lot, trade-through exempt, Form T, official close, derived, unknown, contingent."""


def write_days(folder: Path, days: int, **options: int) -> list[Path]:
    """The tapes of so many days in a row, the newest that of `write_tape`."""
    paths = []
    for back in reversed(range(days)):
        (folder / f"day-{back}").mkdir()
        bell_ns = BELL_NS - back * _DAY_NS
        paths += write_tape(folder / f"day-{back}", seed=1 + back, bell_ns=bell_ns, **options)
    return paths


def write_tape(
    folder: Path, *, seed: int = 1, trades: int = 6_000, minutes: int = 40, bell_ns: int = BELL_NS
) -> list[Path]:
    """Two files around the opening bell, stocks and crypto, with everything that makes a tape a bad average.

    Odd lots and fractions, trades off the exchange, Form T on both sides of the bell, official prices, unknown codes,
    cancelled and corrected rows, rows without a price, repeats (whole, and with another time), one moment for many
    trades, quiet minutes, ids used by two exchanges, and rows that are not in order.
    """
    random = Random(seed)
    start = bell_ns - minutes // 4 * 60_000 * _MS_NS
    times = sorted(random.choices(_busy_ms(random, minutes), k=trades))
    stocks, prices = [], {"AAPL": 250.0, "MSFT": 410.0, "BRK.B": 505.0}
    for number, time_ms in enumerate(times):
        ticker = random.choices(list(prices), (6, 4, 1))[0]
        prices[ticker] *= 1 + random.gauss(0, 3e-4)
        sip = start + time_ms * _MS_NS + random.randrange(_MS_NS)
        codes = random.choices([c for c, _ in _ODDITIES], [w for _, w in _ODDITIES])[0]
        size = random.choice(["100", "200", "1", "37", "0.25", "1000.00000001"])
        trf = random.choice((0, 0, 201))
        correction = random.choices((0, 1, 8, 12), (200, 1, 1, 1))[0]
        price = 0 if random.random() < 0.002 else round(prices[ticker], 2)
        exchange = 4 if trf else random.choice((10, 11, 12))
        row = (ticker, codes, correction, exchange, number // 2, sip - 40_000, price, number, sip, size, 1, trf, 0)
        stocks.append(row)
        if random.random() < 0.02:
            later = sip + random.choice((0, 3_000)) * _MS_NS
            stocks.append((*row[:7], number, later, *row[9:]))
    random.shuffle(stocks)
    crypto, price = [], 90_000.0
    for number in range(trades // 6):
        price *= 1 + random.gauss(0, 3e-4)
        time_ns = start + random.choice(times) * _MS_NS
        crypto.append(("X:BTC-USD", "2", 0, 1, f"c{number}", time_ns, round(price, 2), f"{random.random():.8f}"))
    paths = [folder / "stocks.csv.gz", folder / "crypto.csv"]
    with gzip.open(paths[0], "wt", newline="") as file:
        csv.writer(file).writerows([STOCK_COLUMNS, *stocks])
    with paths[1].open("w", newline="") as file:
        csv.writer(file).writerows([CRYPTO_COLUMNS, *crypto])
    return paths


def _busy_ms(random: Random, minutes: int) -> list[int]:
    """Moments at which trades happen: one crowded minute, and some in which nothing does."""
    quiet = set(random.sample(range(minutes), minutes // 8))
    busy = [m for m in range(minutes) if m not in quiet]
    busy += [busy[-4]] * (len(busy) // 4)
    return [60_000 * random.choice(busy) + random.randrange(60_000) for _ in range(60 * minutes)]


def plain_records(paths: Sequence[Path], parts: Parts) -> Iterator[Row]:
    """The files' records as a replay logs them, each with what it may set: read, sorted and counted by hand."""
    s = parts.settings
    rows, known = [], set()
    for path in paths:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for place, cells in enumerate(csv.DictReader(file)):
                if cells["correction"] in ("0", "12") and float(cells["price"]) > 0:
                    time_ns = int(cells.get("sip_timestamp") or cells["participant_timestamp"])
                    rows.append((time_ns, int(cells.get("sequence_number") or 0), place, cells))
    last: dict[int, int] = {}
    for time_ns, _, _, cells in sorted(rows, key=lambda row: row[:3]):
        market, time = int(cells["ticker"].startswith("X:")), time_ns // _MS_NS
        day = (time - 5 * 3_600_000 * (1 - market)) // _DAY_MS
        key = (day, cells["ticker"], cells["exchange"], cells.get("trf_id"), cells["id"])
        if key in known:
            continue
        known.add(key)
        if time // 1_000 > last.setdefault(market, time) // 1_000:
            yield tick(market, time // 1_000 * 1_000)
        last[market] = max(time, last[market])
        codes = () if market else tuple(int(c) for c in cells["conditions"].split(",") if c)
        bits = eligibility(codes)
        sessions = sessions_of(parts.calendar, Market(market))
        session = {"regular": 1, "pre": 2, "post": 2, "closed": 4}[sessions.state(time)]
        # Coins trade round the clock: their days are those of UTC.
        trading, opened = (
            (time // _DAY_MS, time - time % _DAY_MS) if market else (sessions.day(time), sessions.opened_ms(time))
        )
        bits = bits if session == 1 else bits >> 3
        whole, _, part = cells["size"].partition(".")
        size_e8 = int(whole) * 10**8 + int(part.ljust(8, "0")[:8])
        name = product_symbol(cells["ticker"])
        price, stretch = float(cells["price"]), sessions.stretch(time)
        yield Row(0, market, name, time, time, price, size_e8, bits & 7, stretch, session, trading, opened)
    for market, newest in last.items():
        settled = newest - newest % s.slide_ms + s.slide_ms + max(s.watermark_delay_ms, s.confirm_delay_ms)
        for second in range(newest // 1_000 + 1, -(-settled // 1_000) + 1):
            yield tick(market, second * 1_000)


def tick(market: int, time_ms: int) -> Row:
    """The feed's clock has reached this second."""
    return Row(1, market, "", time_ms, time_ms, 0.0, 0, 0, 0)
