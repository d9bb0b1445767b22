"""Stock Overview: what every symbol costs, and the candles of one."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from . import board as b
from . import panels as p
from . import sql

UID: Final = "tapewatch-overview"


def overview() -> Dashboard:
    panels = [_candles(), _price(), _volume(), _range(), _trends(), _watchlist()]
    return b.board(
        UID,
        "Stock Overview",
        "Every symbol's newest price against its moving average, and the candles of one symbol with its alerts.",
        panels,
        [b.symbol(), b.interval(), b.constant("lead", b.LEAD)],
        route="overview/${symbol}/1m",
        marked=True,
    )


def _candles() -> p.Panel:
    panel = p.dress(
        p.candles(),
        1,
        "$symbol: candles, moving average, VWAP, volume",
        "Bars of the chosen length, or longer ones where more than 500 would be shown. The average is that of the "
        "window that ends with the bar's last minute. Marks are alerts: provisional, confirmed or retracted.",
        (0, 0, 24, 12),
        [p.sql(sql.CANDLES, series=True)],
        unit="none",
    )
    panel = panel.override_by_name("ma_5min", p.props(displayName="moving average", color=p.paint("orange")))
    panel = panel.override_by_name("vwap", p.props(displayName="VWAP", color=p.paint("purple")))
    return panel.override_by_name("volume", p.props(unit="short"))


def _price() -> p.Panel:
    return p.dress(
        p.number("lastNotNull", fields="/^close$/").decimals(2),
        2,
        "Last close",
        "Close of the newest bar in the range.",
        (0, 12, 6, 4),
        [p.rows_of(1)],
        unit="none",
    )


def _volume() -> p.Panel:
    return p.dress(
        p.number("sum", fields="/^volume$/"),
        3,
        "Volume",
        "Volume of all bars in the range.",
        (6, 12, 6, 4),
        [p.rows_of(1)],
    )


def _range() -> p.Panel:
    return p.dress(
        p.number("diffperc", fields="/^close$/").decimals(2).thresholds(p.steps((None, "red"), (0, "green"))),
        4,
        "Change",
        "The newest bar's close against the close of the first bar in the range.",
        (12, 12, 6, 4),
        [p.rows_of(1)],
        unit="percentunit",
    )


def _trends() -> p.Panel:
    return p.dress(
        p.rows_as_numbers().mappings([p.TRENDS]).with_transformation(p.counted("symbol", by="trend")),
        5,
        "Trends",
        "How many symbols are above their moving average (bullish), below it, or neither.",
        (18, 12, 6, 4),
        [p.rows_of(6)],
    )


def _watchlist() -> p.Panel:
    panel = p.dress(
        p.listing("symbol", descending=False),
        6,
        "Watchlist",
        "The newest price of each symbol, whatever the range; at most one commit old. Distance: the price above or "
        "below its moving average. A click on a symbol shows its candles.",
        (0, 16, 24, 10),
        [p.sql(sql.WATCHLIST)],
        unit="none",
    )
    link = {"title": "Candles", "url": f"/d/{UID}?var-symbol=${{__value.raw}}&${{__url_time_range}}"}
    panel = panel.override_by_name("symbol", p.props(links=[link]))
    panel = panel.override_by_name("current_price", p.props(displayName="price", decimals=4))
    panel = panel.override_by_name("ma_5min", p.props(displayName="moving average", decimals=4))
    panel = panel.override_by_name("distance", p.props(unit="percent", decimals=2))
    panel = panel.override_by_name("total_volume", p.props(displayName="volume of the window", unit="short"))
    panel = panel.override_by_name("last_trade", p.props(displayName="last trade", unit="dateTimeFromNow"))
    return panel.override_by_name("trend", p.props(mappings=[p.TRENDS], custom__displayMode="color-text"))
