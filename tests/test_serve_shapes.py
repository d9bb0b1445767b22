"""Rows made from what the engine gives are the rows the store gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapewatch.records import BAR_ROW, LATEST_ROW, QUALITY_ROW, WINDOW_ROW, Alert, AlertStatus, Changes
from tapewatch.serve import models, shapes

MINUTE = 60_000
START = 1_795_186_800_000
NAN = math.nan


def changes() -> Changes:
    latest = np.zeros(1, LATEST_ROW)
    latest[0] = (
        1,
        1,
        START,
        START * 10**6 + 7,
        101.5,
        100.0,
        3.0,
        1,
        99.0,
        102.0,
        98.0,
        50.0,
        NAN,
        START,
        9,
        1,
        2,
        3,
        4,
    )
    bars = np.zeros(2, BAR_ROW)
    bars[0] = (1, START - MINUTE, 1, 2, 0.5, 1.5, 10, 1.2, 4, True, 4)
    bars[1] = (1, START, 1.5, 1.6, 1.4, 1.5, 1, NAN, 1, False, 1)
    windows = np.zeros(1, WINDOW_ROW)
    windows["symbol"], windows["window_start_ms"], windows["ma_5min"] = 1, START - 4 * MINUTE, 1.23
    alert = Alert(
        alert_id="x", rule="golden", rule_version="1", kind="golden_cross", symbol="BTC", direction=1,
        status=AlertStatus.PROVISIONAL, pane_start_ms=START, triggered_ms=START + 5, decided_ms=START + 5, price=101.5,
        line=NAN, late=False, offset=8, evidence={},
    )  # fmt: skip
    return Changes(["AAPL", "BTC"], windows, bars, latest, np.zeros(0, QUALITY_ROW), [alert], [])


def test_a_live_price_is_a_row_of_stocks() -> None:
    [(symbol, values)] = shapes.price_values(changes())
    row = shapes.live_price(symbol, values)
    assert models.Stock.model_validate(row)
    assert set(row) == set(models.Stock.model_fields)
    assert (row["symbol"], row["market"], row["trend"]) == ("BTC", "crypto", "BULLISH")
    assert (row["timestamp"], row["received_at"]) == ("2026-11-20T15:00:00.000Z", "2026-11-20T15:00:00.000Z")
    assert row["previous_close"] is None
    assert (row["change"], row["change_from"]) == (2.5, "day_open")


def test_a_price_that_was_never_seen_has_no_time() -> None:
    given = changes()
    given.latest["time_ms"], given.latest["received_ns"], given.latest["price"] = -(2**62), 0, NAN
    row = shapes.live_price(*next(iter(shapes.price_values(given))))
    assert (row["timestamp"], row["received_at"], row["price"], row["change"]) == (None, None, None, None)
    assert row["trend"] == "NEUTRAL"


def test_a_live_bar_has_the_average_of_the_window_that_ends_with_it() -> None:
    rows = [shapes.bar_row(s, v) for s, v in shapes.bar_values(changes(), 5 * MINUTE, MINUTE)]
    assert [(r["time"], r["ma_5min"]) for r in rows] == [
        ("2026-11-20T14:59:00.000Z", None),
        ("2026-11-20T15:00:00.000Z", 1.23),
    ]
    assert rows[1]["vwap"] is None
    for row in rows:
        assert models.Bar.model_validate(row)
        assert set(row) <= set(models.Bar.model_fields)


def test_a_live_alert_is_a_row_of_alerts() -> None:
    row = shapes.alert_row(changes().alerts[0])
    assert models.Alert.model_validate(row)
    assert set(row) <= set(models.Alert.model_fields)
    assert (row["status"], row["triggered_at"], row["line"]) == ("provisional", "2026-11-20T15:00:00.005Z", None)


@pytest.mark.parametrize(
    ("price", "average", "expected"),
    [(2, 1, "BULLISH"), (1, 2, "BEARISH"), (1, 1, "NEUTRAL"), (None, 1, "NEUTRAL"), (1, None, "NEUTRAL")],
)
def test_trend(price: float | None, average: float | None, expected: str) -> None:
    assert shapes.trend(price, average) == expected


@pytest.mark.parametrize(
    ("price", "previous", "opened", "expected"),
    [
        (110.0, 100.0, 105.0, (10.0, 10.0, "previous_close")),
        (110.0, None, 100.0, (10.0, 10.0, "day_open")),
        (110.0, 0.0, 100.0, (10.0, 10.0, "day_open")),
        (110.0, None, None, (None, None, None)),
        (None, 100.0, 100.0, (None, None, None)),
        (NAN, 100.0, 100.0, (None, None, None)),
    ],
)
def test_change(
    price: float | None, previous: float | None, opened: float | None, expected: tuple[object, ...]
) -> None:
    row = shapes.stock_row({"price": price, "previous_close": previous, "day_open": opened})
    assert (row["change"], row["change_percent"], row["change_from"]) == expected
