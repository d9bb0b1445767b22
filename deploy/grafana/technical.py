"""Technical Analysis: indicators of one symbol's 1-minute bars. One query feeds all five panels."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from . import board as b
from . import panels as p
from . import sql

UID: Final = "tapewatch-technical"
_MANY: Final = " Where the range holds more bars than points, the last bar of each point is shown."


def technical() -> Dashboard:
    return b.board(
        UID,
        "Technical Analysis",
        "RSI(14), MACD(12,26,9), Bollinger(20,2), ATR(14) and relative volume of 1-minute bars, as the function "
        "get_indicators computes them (docs/indicators.md). The newest 5,000 bars of the range, or fewer.",
        [_price(), _rsi(), _macd(), _atr(), _relative_volume()],
        [b.symbol()],
        route="technical/${symbol}",
        marked=True,
    )


def _price() -> p.Panel:
    panel = p.dress(
        p.lines(),
        1,
        "$symbol: close and Bollinger bands",
        "Close of 1-minute bars, the mean of the last 20 closes, and 2 standard deviations above and below it." + _MANY,
        (0, 0, 24, 10),
        [p.sql(sql.INDICATORS, series=True)],
        unit="none",
    ).with_transformation(p.only("time", "close", "bollinger_middle", "bollinger_upper", "bollinger_lower"))
    panel = panel.override_by_name("close", p.props(color=p.paint("text"), custom__lineWidth=2))
    panel = panel.override_by_name("bollinger_middle", p.props(displayName="mean of 20", color=p.paint("orange")))
    band = {"color": p.paint("blue"), "custom__lineWidth": 1}
    panel = panel.override_by_name("bollinger_lower", p.props(displayName="lower band", **band))
    return panel.override_by_name(
        "bollinger_upper",
        p.props(displayName="upper band", custom__fillBelowTo="lower band", custom__fillOpacity=8, **band),
    )


def _rsi() -> p.Panel:
    panel = p.dress(
        p.lines().min(0).max(100).thresholds(p.steps((None, "blue"), (30, "transparent"), (70, "red"))),
        2,
        "RSI(14)",
        "Wilder's relative strength index: above 70 is called overbought, below 30 oversold." + _MANY,
        (0, 10, 12, 8),
        [p.rows_of(1)],
        unit="none",
    )
    return (
        p.shade(panel)
        .decimals(1)
        .with_transformation(p.only("time", "rsi_14"))
        .override_by_name("rsi_14", p.props(displayName="RSI", color=p.paint("purple")))
    )


def _macd() -> p.Panel:
    panel = p.dress(
        p.lines(),
        3,
        "MACD(12, 26, 9)",
        "Fast less slow exponential average of the close, its signal line, and what is between them." + _MANY,
        (12, 10, 12, 8),
        [p.rows_of(1)],
        unit="none",
    ).with_transformation(p.only("time", "macd", "macd_signal", "macd_histogram"))
    panel = panel.override_by_name("macd", p.props(displayName="MACD", color=p.paint("blue")))
    panel = panel.override_by_name("macd_signal", p.props(displayName="signal", color=p.paint("orange")))
    bars = p.props(displayName="histogram", color=p.paint("gray"), custom__drawStyle="bars", custom__fillOpacity=50)
    return panel.override_by_name("macd_histogram", bars)


def _atr() -> p.Panel:
    panel = p.dress(
        p.lines(),
        4,
        "ATR(14)",
        "Wilder's average true range of 1-minute bars, in the unit of the price." + _MANY,
        (0, 18, 12, 8),
        [p.rows_of(1)],
        unit="none",
    )
    return panel.with_transformation(p.only("time", "atr_14")).override_by_name(
        "atr_14", p.props(displayName="ATR", color=p.paint("yellow"))
    )


def _relative_volume() -> p.Panel:
    panel = p.dress(
        p.lines(bars=True).min(0),
        5,
        "Relative volume",
        "Volume of the bar divided by the mean of the 20 bars before it (5 at least): 1 is usual." + _MANY,
        (12, 18, 12, 8),
        [p.rows_of(1)],
        unit="none",
    )
    return panel.with_transformation(p.only("time", "relative_volume")).override_by_name(
        "relative_volume", p.props(displayName="relative volume", color=p.paint("blue"))
    )
