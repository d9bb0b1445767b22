"""The few kinds of panels, variables and marks that the dashboards are made of.

Only what Grafana 9.4 knows too: the newest forms are left to Grafana's own migration (see SCHEMA_VERSION).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import candlestick, common, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    GridPos,
    Threshold,
    ThresholdsMode,
)

SCHEMA_VERSION: Final = 37
"""Of Grafana 9.4. Newer ones migrate it when they load it."""
DATABASE: Final = DataSourceRef(type_val="postgres", uid="tapewatch-database")
"""`postgres` is the type's name until 10.1, and an alias of grafana-postgresql-datasource since."""
PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="tapewatch-prometheus")
DASHBOARD: Final = DataSourceRef(type_val="datasource", uid="-- Dashboard --")
"""The rows that another panel of the same dashboard has fetched."""
POINTS_MAX: Final = 500
LEGEND: Final = (
    common.VizLegendOptions()
    .show_legend(True)
    .display_mode(LegendDisplayMode.LIST)
    .placement(LegendPlacement.BOTTOM)
    .calcs([])
)

Panel = Any
"""A builder of the SDK for one kind of panel; they share no base class with their common methods."""
Place = tuple[int, int, int, int]
"""x, y, width and height in Grafana's grid of 24 columns."""


@dataclass
class Query(Dataquery, Builder[Dataquery]):
    """One target, as Grafana stores it."""

    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.values

    def build(self) -> Dataquery:
        return self


def sql(text: str, *, series: bool = False, ref: str = "A") -> Query:
    """Rows of the database; ``series`` if one of the columns is the time and all others are numbers."""
    shape = "time_series" if series else "table"
    return Query(
        {"refId": ref, "datasource": DATABASE, "format": shape, "rawQuery": True, "editorMode": "code", "rawSql": text}
    )


def prometheus(text: str, name: str, ref: str = "A", *, instant: bool = False) -> Query:
    return Query(
        {
            "refId": ref,
            "datasource": PROMETHEUS,
            "expr": text,
            "legendFormat": name,
            "editorMode": "code",
            "instant": instant,
            "range": not instant,
        }
    )


def rows_of(panel_id: int) -> Query:
    return Query({"refId": "A", "datasource": DASHBOARD, "panelId": panel_id})


def dress(
    panel: Panel, ident: int, title: str, text: str, place: Place, targets: Sequence[Query], *, unit: str = "short"
) -> Panel:
    """What every panel has: number, title, description, place, unit and queries bounded in points."""
    x, y, width, height = place
    panel = panel.id(ident).title(title).description(text).grid_pos(GridPos(x=x, y=y, w=width, h=height)).unit(unit)
    panel = panel.datasource(targets[0].values["datasource"]).max_data_points(POINTS_MAX).interval("1m")
    for target in targets:
        panel = panel.with_target(target)
    return panel


def lines(*, bars: bool = False, stacked: bool = False, fill: int = 0) -> timeseries.Panel:
    panel = timeseries.Panel().legend(LEGEND).tooltip(_tooltip()).show_points(VisibilityMode.NEVER).line_width(1)
    panel = panel.fill_opacity(60 if bars else fill).span_nulls(False)
    if bars:
        panel = panel.draw_style(GraphDrawStyle.BARS)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return panel


def candles() -> candlestick.Panel:
    return candlestick.Panel().legend(LEGEND).tooltip(_tooltip()).include_all_fields(True)


def number(calculation: str, *, fields: str = "") -> stat.Panel:
    """A number of each field: its last, sum, greatest, …; ``fields`` is a pattern for those that are meant."""
    return stat.Panel().reduce_options(common.ReduceDataOptions().calcs([calculation]).fields(fields).values(False))


def rows_as_numbers() -> Panel:
    """A number of each row, its color and name by the row's text."""
    return stat.Panel().reduce_options(common.ReduceDataOptions().calcs([]).values(True).fields(""))


def counted(of: str, by: str) -> DataTransformerConfig:
    """One row for each value of ``by``, with the number of ``of``."""
    fields = {
        by: {"aggregations": [], "operation": "groupby"},
        of: {"aggregations": ["count"], "operation": "aggregate"},
    }
    return DataTransformerConfig(id_val="groupBy", options={"fields": fields})


def listing(sort_by: str = "", *, descending: bool = True) -> table.Panel:
    panel = table.Panel().show_header(True)
    if sort_by:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(descending)])
    return panel


def states() -> statetimeline.Panel:
    return statetimeline.Panel().legend(LEGEND).tooltip(_tooltip()).show_value(VisibilityMode.NEVER).merge_values(True)


def shade(panel: Panel) -> Panel:
    """Fill the background between the thresholds."""
    return panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.AREA))


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.NONE)


def only(*fields: str) -> DataTransformerConfig:
    return DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(fields)}})


def steps(*pairs: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Colors from a value upwards; the first pair's value is None."""
    levels = [Threshold(value=value, color=color) for value, color in pairs]
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(levels)


def words(**pairs: tuple[str, str]) -> dashboard.ValueMap:
    """What a value is shown as, and its color."""
    texts = {
        key.lstrip("_"): dashboard.ValueMappingResult(text=text, color=color, index=index)
        for index, (key, (text, color)) in enumerate(pairs.items())
    }
    return dashboard.ValueMap(options=texts)


def props(**values: Any) -> list[DynamicConfigValue]:
    """Properties of one field; `custom__x` stands for `custom.x`."""
    return [DynamicConfigValue(id_val=name.replace("__", "."), value=value) for name, value in values.items()]


def paint(color: str) -> dict[str, str]:
    return {"mode": "fixed", "fixedColor": color}


GRADES: Final = words(A=("A", "green"), B=("B", "yellow"), C=("C", "orange"), D=("D", "red"))
TRENDS: Final = words(BULLISH=("bullish", "green"), BEARISH=("bearish", "red"), NEUTRAL=("neutral", "gray"))
STATUSES: Final = words(
    confirmed=("confirmed", "green"), provisional=("provisional", "yellow"), retracted=("retracted", "gray")
)
KINDS: Final = words(
    golden_cross=("golden cross", "green"), death_cross=("death cross", "red"), high_volume=("high volume", "blue")
)
UP_DOWN: Final = words(_1=("up", "green"), _0=("down", "red"))
