"""From what the engine and the store give to what the API shows: one place where each derived number is made.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tapewatch.records import BAR_ROW, LATEST_ROW, Alert, Changes, Market
from tapewatch.sessions import COLUMNS, Sessions

__all__ = [
    "alert_row",
    "bar_row",
    "bar_values",
    "iso",
    "live_price",
    "price_values",
    "stock_row",
    "trading_days",
    "trend",
]

TRADING_DAYS_MAX: Final = 400
_LATEST: Final = LATEST_ROW.names or ()
_BAR: Final = (*(BAR_ROW.names or ()), "ma_5min")


def iso(ms: int) -> str:
    """``1700000000123`` -> ``"2023-11-14T22:13:20.123Z"``."""
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1000:03}Z"


def stock_row(latest: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `latest_prices` with its change: against the previous close, or the day's open where none was seen."""
    row = dict(latest)
    price = _number(row.get("price"))
    base, name = _number(row.get("previous_close")), "previous_close"
    if not base:
        base, name = _number(row.get("day_open")), "day_open"
    known = price is not None and bool(base)
    row["change"] = price - base if known else None  # type: ignore[operator]
    row["change_percent"] = 100 * (price - base) / base if known else None  # type: ignore[operator]
    row["change_from"] = name if known else None
    return row


def price_values(changes: Changes) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(symbol, values of a `LATEST_ROW`) of each changed price; cheap, for the engine's thread."""
    for values in changes.latest.tolist():
        yield changes.symbols[values[0]], values


def live_price(symbol: str, values: tuple[Any, ...]) -> dict[str, Any]:
    """The row of ``stocks`` for one changed price; the same as the store would give."""
    row = dict(zip(_LATEST, values, strict=True))
    row["symbol"] = symbol
    row["market"] = Market(row["market"]).name.lower()
    row["timestamp"] = _time(row.pop("time_ms"))
    row["received_at"] = _time(row.pop("received_ns") // 1_000_000)
    row["watermark"] = _time(row.pop("watermark_ms"))
    row = {name: _number(v) if isinstance(v, float) else v for name, v in row.items()}
    row["trend"] = trend(row["price"], row["ma_5min"])
    return stock_row(row)


def trend(price: float | None, average: float | None) -> str:
    """As the view `latest_stock_data` has it: NEUTRAL when equal, or while either is not known."""
    if price is None or average is None or price == average:
        return "NEUTRAL"
    return "BULLISH" if price > average else "BEARISH"


def bar_values(changes: Changes, window_ms: int, slide_ms: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(symbol, values of a `BAR_ROW` and the average of the window that ends with it) of each changed bar."""
    ends = changes.windows["window_start_ms"] + window_ms
    averages = dict(
        zip(
            zip(changes.windows["symbol"].tolist(), ends.tolist(), strict=True),
            changes.windows["ma_5min"].tolist(),
            strict=True,
        )
    )
    for values in changes.bars.tolist():
        yield changes.symbols[values[0]], (*values, averages.get((values[0], values[1] + slide_ms)))


def bar_row(symbol: str, values: tuple[Any, ...]) -> dict[str, Any]:
    """A bar as ``history`` shows it."""
    row = dict(zip(_BAR, values, strict=True))
    row["symbol"] = symbol
    row["time"] = iso(row.pop("bar_start_ms"))
    del row["revision"]
    return {name: _number(v) if isinstance(v, float) else v for name, v in row.items()}


def alert_row(alert: Alert) -> dict[str, Any]:
    """An alert as ``alerts`` shows it."""
    return {
        "alert_id": alert.alert_id,
        "rule": alert.rule,
        "rule_version": alert.rule_version,
        "kind": alert.kind,
        "symbol": alert.symbol,
        "direction": alert.direction,
        "status": alert.status.value,
        "pane_start": iso(alert.pane_start_ms),
        "triggered_at": iso(alert.triggered_ms),
        "decided_at": iso(alert.decided_ms),
        "price": _number(alert.price),
        "line": _number(alert.line),
        "late": alert.late,
        "evidence": alert.evidence,
    }


def trading_days(sessions: Sessions, from_ms: int, to_ms: int) -> list[dict[str, str]]:
    """The days that lie partly in [from_ms, to_ms), oldest first; of more than `TRADING_DAYS_MAX` the newest."""
    first = int(sessions.day_close.searchsorted(from_ms, side="right"))
    last = int(sessions.day_open.searchsorted(to_ms, side="left"))
    days = range(max(first, last - TRADING_DAYS_MAX), last)
    return [{name: iso(int(getattr(sessions, name)[day])) for name in COLUMNS} for day in days]


def _time(ms: int) -> str | None:
    """None for a time that has never been."""
    return iso(ms) if ms > 0 else None


def _number(value: Any) -> float | None:
    """None for null, NaN and infinities: JSON has no word for them."""
    return float(value) if value is not None and math.isfinite(value) else None
