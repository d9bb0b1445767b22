"""The indicators against TA-Lib's, on a day as it was and on made series: the same SQL that page and dashboards ask.

TA-Lib computes over whole columns, the database bar after bar; where TA-Lib has a value, ours is within 1e-9 of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from tapewatch.store.connect import Dsn

if TYPE_CHECKING:  # pandas and TA-Lib take a second: only of who runs these tests
    import pandas as pd

DAY = Path(__file__).parents[2] / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"
WITHIN = 1e-9
MINUTE = 60_000
START = 1_772_461_800_000  # 2026-03-02 14:30:00 UTC
WARM_UP = 1_000
"""Bars read before the first that is shown."""

Columns = dict[str, NDArray[np.float64]]


def made(bars: int, seed: int) -> pd.DataFrame:
    """A walk of ``bars`` minutes, some of them missing, with a jump and a flat hour."""
    import pandas as pd

    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    close = 170 * np.exp(np.cumsum(random.normal(0, 5e-4, bars)))
    close[bars // 2 :] *= 1.07
    close[bars // 3 : bars // 3 + 60] = close[bars // 3]
    spread = np.abs(random.normal(0, 0.05, (2, bars)))
    start = START + MINUTE * np.cumsum(random.integers(1, 4, bars))
    volume = random.integers(1, 10_000, bars).astype(float)
    return pd.DataFrame(
        {"start": start, "high": close + spread[0], "low": close - spread[1], "close": close, "volume": volume}
    )


def minutes_of_the_day() -> dict[str, pd.DataFrame]:
    """The minute bars of each symbol of the shared day."""
    import pandas as pd

    trades = pd.read_csv(DAY, usecols=["ticker", "sip_timestamp", "price", "size"])
    trades["start"] = trades["sip_timestamp"] // 60_000_000_000 * MINUTE
    found = {}
    for symbol, mine in trades.groupby("ticker"):
        price, size = mine.groupby("start")["price"], mine.groupby("start")["size"].sum()
        bars = pd.DataFrame(
            {"high": price.max(), "low": price.min(), "close": price.last(), "volume": size.astype(float)}
        )
        found[str(symbol)] = bars.reset_index()
    return found


def fill(dsn: Dsn, symbol: str, bars: pd.DataFrame) -> None:
    with psycopg.connect(dsn.conninfo) as connection:
        copy = (
            "COPY price_bars (symbol, bar_start, open, high, low, close, volume, vwap, trade_count, is_final, revision)"
        )
        with connection.cursor().copy(copy.encode() + b" FROM STDIN") as rows:
            for bar in bars.itertuples():
                at = datetime.fromtimestamp(bar.start / 1000, UTC)
                rows.write_row((symbol, at, bar.close, bar.high, bar.low, bar.close, bar.volume, bar.close, 1, True, 1))


def ask(dsn: Dsn, symbol: str, from_ms: int = 0, most: int = 20_000) -> pd.DataFrame:
    """What the database says, by the start of the bar in Unix ms."""
    import pandas as pd

    query = "SELECT * FROM get_indicators(%s, to_timestamp(%s), 'infinity', %s)"
    with psycopg.connect(dsn.conninfo) as connection:
        cursor = connection.execute(query, (symbol, from_ms / 1000, most))
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = pd.DataFrame(cursor.fetchall(), columns=names)
    rows["start"] = [round(at.timestamp() * 1000) for at in rows["bar_start"]]
    return rows.set_index("start").drop(columns=["symbol", "bar_start", "is_final"]).astype(float)


def of_talib(bars: pd.DataFrame) -> pd.DataFrame:
    """TA-Lib's values; relative volume, which it does not know, from pandas."""
    import pandas as pd
    import talib

    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    macd, signal, histogram = talib.MACD(close, 12, 26, 9)
    upper, middle, lower = talib.BBANDS(close, 20, 2, 2, 0)
    before = bars["volume"].shift(1).rolling(20, min_periods=5).mean().to_numpy()
    columns = {
        "rsi_14": talib.RSI(close, 14), "macd": macd, "macd_signal": signal, "macd_histogram": histogram,
        "bollinger_middle": middle, "bollinger_upper": upper, "bollinger_lower": lower,
        "atr_14": talib.ATR(high, low, close, 14), "relative_volume": bars["volume"].to_numpy() / before,
    }  # fmt: skip
    return pd.DataFrame(columns, index=bars["start"])


def compare(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Every value that TA-Lib has is ours."""
    assert list(ours.index) == list(theirs.index)
    for name in theirs.columns:
        known = theirs[name].notna()
        assert known.any(), name
        assert ours[name][known].notna().all(), f"{name} is not known where TA-Lib knows it"
        difference = (ours[name] - theirs[name])[known].abs()
        assert difference.max() <= WITHIN, (name, difference.idxmax(), difference.max())


@pytest.mark.slow
def test_a_real_day_is_as_talib_has_it(postgres: Dsn) -> None:
    if not DAY.exists():
        pytest.skip("the shared day of real trades is not beside this folder")
    days = minutes_of_the_day()
    assert len(days) == 4
    for symbol, bars in days.items():
        assert len(bars) > 300
        fill(postgres, symbol, bars)
        compare(ask(postgres, symbol), of_talib(bars))


@pytest.mark.parametrize(("seed", "minutes"), [(1, 900), pytest.param(2, 3_000, marks=pytest.mark.slow)])
def test_a_made_series_is_too_and_a_part_of_it_is_the_same_as_the_whole(postgres: Dsn, seed: int, minutes: int) -> None:
    bars = made(minutes, seed)
    fill(postgres, "AAPL", bars)
    whole, theirs = ask(postgres, "AAPL"), of_talib(bars)
    compare(whole, theirs)
    since = int(bars["start"].iloc[-400])
    part = ask(postgres, "AAPL", from_ms=since)
    assert len(part) == 400
    compare(part, theirs.loc[since:])
    newest = ask(postgres, "AAPL", most=5)
    assert list(newest.index) == list(whole.index[-5:])
    compare(newest, theirs.iloc[-5:])


def test_a_wrong_smoothing_would_be_found(postgres: Dsn) -> None:
    """The canary: plain moving averages in the place of Wilder's differ by far more than is allowed."""
    bars = made(200, 3)
    fill(postgres, "AAPL", bars)
    theirs = of_talib(bars)
    theirs["rsi_14"] += 1e-6
    with pytest.raises(AssertionError, match="rsi_14"):
        compare(ask(postgres, "AAPL"), theirs)


def test_each_is_known_from_its_bar_on_and_null_before(postgres: Dsn) -> None:
    bars = made(40, 4)
    fill(postgres, "AAPL", bars)
    ours = ask(postgres, "AAPL")
    first = {name: int(ours[name].notna().to_numpy().argmax()) + 1 for name in ours.columns if name != "close"}
    assert first == {
        "rsi_14": 15, "macd": 26, "macd_signal": 34, "macd_histogram": 34, "bollinger_middle": 20,
        "bollinger_upper": 20, "bollinger_lower": 20, "atr_14": 15, "relative_volume": 6,
    }  # fmt: skip


def test_a_price_that_never_moves_has_no_rsi(postgres: Dsn) -> None:
    bars = made(40, 5).assign(close=100.0, high=100.0, low=100.0)
    fill(postgres, "AAPL", bars)
    ours = ask(postgres, "AAPL").iloc[-1]
    assert np.isnan(ours["rsi_14"])
    assert (ours["macd"], ours["atr_14"], ours["bollinger_upper"]) == (0, 0, 100)


def test_a_minute_without_a_close_is_no_bar(postgres: Dsn) -> None:
    """Its trades may not set a price, and so it has a volume alone."""
    bars = made(100, 7).assign(start=lambda rows: START + 2 * MINUTE * np.arange(len(rows)))
    fill(postgres, "AAPL", bars)
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute(
            "INSERT INTO price_bars (symbol, bar_start, volume, trade_count, is_final, revision) "
            "SELECT symbol, bar_start + INTERVAL '1 minute', 5000, 1, true, 1 FROM price_bars"
        )
    compare(ask(postgres, "AAPL"), of_talib(bars))


def test_a_bar_that_is_revised_revises_what_follows(postgres: Dsn) -> None:
    bars = made(100, 6)
    fill(postgres, "AAPL", bars)
    revised = bars.copy()
    revised.loc[50, ["high", "close"]] = 500.0
    with psycopg.connect(postgres.conninfo) as connection:
        at = datetime.fromtimestamp(int(bars["start"][50]) / 1000, UTC)
        connection.execute("UPDATE price_bars SET high = 500, close = 500 WHERE bar_start = %s", (at,))
    compare(ask(postgres, "AAPL"), of_talib(revised))
