"""Rows as the engine would give them, for the tests of the store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import (
    BAR_ROW,
    LATEST_ROW,
    QUALITY_ROW,
    WINDOW_ROW,
    Alert,
    AlertStatus,
    Changes,
    Gap,
    Market,
    Notification,
)

MINUTE = 60_000
START = 1_772_461_800_000  # 2026-03-02 14:30:00 UTC, 09:30 in New York
SYMBOLS = ["AAPL", "BTC", "MSFT"]


def rows(dtype: np.dtype[Any], *given: dict[str, Any]) -> NDArray[Any]:
    """One row per dictionary; what it does not name is zero."""
    array = np.zeros(len(given), dtype)
    for i, values in enumerate(given):
        for name, value in values.items():
            array[name][i] = value
    return array


def window(symbol: int = 0, start: int = START, **values: Any) -> dict[str, Any]:
    defaults = {"avg_price": 100.0, "ma_5min": np.nan, "total_volume": 1.0, "trade_count": 1, "revision": 1}
    return defaults | {"symbol": symbol, "window_start_ms": start} | values


def bar(symbol: int = 0, start: int = START, **values: Any) -> dict[str, Any]:
    prices = {"open": 100.0, "high": 102.0, "low": 99.0, "close": 101.0, "volume": 10.0, "vwap": 100.5}
    return (
        prices | {"symbol": symbol, "bar_start_ms": start, "trade_count": 3, "is_final": True, "revision": 3} | values
    )


def latest(symbol: int = 0, **values: Any) -> dict[str, Any]:
    defaults = {"price": 101.0, "ma_5min": 100.0, "market": Market.STOCKS, "previous_close": np.nan}
    times = {"time_ms": START, "received_ns": (START + 5) * 1_000_000 + 123_456, "watermark_ms": START - MINUTE}
    return defaults | times | {"symbol": symbol} | values


def quality(symbol: int = 0, minute: int = START, **values: Any) -> dict[str, Any]:
    return {"symbol": symbol, "minute_ms": minute, "trades": 100} | values


def alert(status: AlertStatus = AlertStatus.PROVISIONAL, alert_id: str = "a1", **values: Any) -> Alert:
    defaults: dict[str, Any] = {
        "rule": "golden",
        "rule_version": "1",
        "kind": "golden_cross",
        "symbol": "AAPL",
        "direction": 1,
        "pane_start_ms": START,
        "triggered_ms": START + 1_234,
        "decided_ms": START + 1_234,
        "price": 101.25,
        "line": 101.0,
        "late": False,
        "offset": 7,
        "evidence": {"before": 1},
    }
    return Alert(alert_id=alert_id, status=status, **(defaults | values))


def notification(alert_id: str = "a1", event: str = "confirmed", **values: Any) -> Notification:
    defaults: dict[str, Any] = {"channel": "log", "payload": {"text": "crossed"}}
    return Notification(id=f"{alert_id}:log:{event}", alert_id=alert_id, event=event, **(defaults | values))


def gap(from_ms: int = START, to_ms: int = START + 10_000, **values: Any) -> Gap:
    defaults: dict[str, Any] = {"market": Market.STOCKS, "cause": "disconnected", "symbols": ["AAPL", "MSFT"]}
    return Gap(from_ms=from_ms, to_ms=to_ms, **(defaults | values))


def changes(
    *,
    symbols: list[str] = SYMBOLS,
    windows: list[dict[str, Any]] | None = None,
    bars: list[dict[str, Any]] | None = None,
    latest: list[dict[str, Any]] | None = None,
    quality: list[dict[str, Any]] | None = None,
    alerts: list[Alert] | None = None,
    gaps: list[Gap] | None = None,
) -> Changes:
    """Only what is named."""
    return Changes(
        symbols=symbols,
        windows=rows(WINDOW_ROW, *(windows or [])),
        bars=rows(BAR_ROW, *(bars or [])),
        latest=rows(LATEST_ROW, *(latest or [])),
        quality=rows(QUALITY_ROW, *(quality or [])),
        alerts=alerts or [],
        gaps=gaps or [],
    )
