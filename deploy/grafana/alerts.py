"""Alerts History: what fired, how it ended, and where."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from . import board as b
from . import panels as p
from . import sql

UID: Final = "tapewatch-alerts"
KINDS: Final = ("golden_cross", "death_cross", "high_volume")
STATUSES: Final = ("provisional", "confirmed", "retracted")
COLORS: Final = {
    "golden_cross": "green",
    "death_cross": "red",
    "high_volume": "blue",
    "provisional": "yellow",
    "confirmed": "green",
    "retracted": "gray",
}


def alerts() -> Dashboard:
    return b.board(
        UID,
        "Alerts History",
        "Golden and death crosses and high volume: when they fired, and whether the minute's close confirmed them.",
        [_by_kind(), _statuses(), _symbols(), _table()],
        [b.symbol(several=True), b.choice("kind", "Kind", KINDS), b.choice("status", "Status", STATUSES)],
        route="alerts",
        since="now-24h",
    )


def _colored(panel: p.Panel, names: tuple[str, ...]) -> p.Panel:
    for name in names:
        panel = panel.override_by_name(name, p.props(displayName=name.replace("_", " "), color=p.paint(COLORS[name])))
    return panel


def _by_kind() -> p.Panel:
    panel = p.dress(
        p.lines(bars=True, stacked=True),
        1,
        "Alerts by kind",
        "Alerts that fired, by the event time of the trade that triggered them.",
        (0, 0, 16, 8),
        [p.sql(sql.ALERT_COUNTS, series=True)],
    )
    return _colored(panel.with_transformation(p.only("time", *KINDS)), KINDS)


def _statuses() -> p.Panel:
    panel = p.dress(
        p.number("sum"),
        2,
        "How they ended",
        "Provisional: the minute is not over. Confirmed: its close was still on the new side. Retracted: it was not.",
        (16, 0, 8, 8),
        [p.rows_of(1)],
    )
    return _colored(panel.with_transformation(p.only("time", *STATUSES)), STATUSES)


def _symbols() -> p.Panel:
    panel = p.dress(
        p.listing(),
        3,
        "Symbols with the most alerts",
        "100 at most. A click on a symbol shows its candles.",
        (0, 8, 24, 7),
        [p.sql(sql.ALERT_SYMBOLS)],
    )
    return panel.override_by_name("symbol", _candles()).override_by_name("last_alert", p.props(displayName="last"))


def _table() -> p.Panel:
    panel = p.dress(
        p.listing(),
        4,
        "Alerts",
        "The newest 500 of the range. Line: the average that was crossed, for volume the threshold. Late: the trade "
        "was old when it came, so nobody was told. The number leads to the evidence on Tapewatch's page.",
        (0, 15, 24, 14),
        [p.sql(sql.ALERTS)],
        unit="none",
    )
    panel = panel.override_by_name("triggered_at", p.props(displayName="time"))
    panel = panel.override_by_name("symbol", _candles())
    panel = panel.override_by_name("kind", p.props(mappings=[p.KINDS], custom__displayMode="color-text"))
    panel = panel.override_by_name("status", p.props(mappings=[p.STATUSES], custom__displayMode="color-text"))
    panel = panel.override_by_name("price", p.props(decimals=4)).override_by_name("line", p.props(decimals=4))
    panel = panel.override_by_name("distance", p.props(unit="percent", decimals=3))
    panel = panel.override_by_name("decided_after", p.props(displayName="decided after", unit="s", decimals=1))
    link = {"title": "Evidence", "url": "${page}/#/alerts/${__value.raw}", "targetBlank": True}
    return panel.override_by_name("alert_id", p.props(displayName="number", links=[link]))


def _candles() -> list[p.DynamicConfigValue]:
    url = "/d/tapewatch-overview?var-symbol=${__value.raw}&${__url_time_range}"
    return p.props(links=[{"title": "Candles", "url": url}])
