"""What all four dashboards share: time zone, refreshing, links to each other and to the page, variables, marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableType,
)

from . import panels as p
from . import sql

TAG: Final = "tapewatch"
PAGE: Final = "http://127.0.0.1:8787"
LEAD: Final = "240s"
"""Of the default settings; `provision` puts in those of this machine."""
MARKS: Final = (
    ("golden_cross", "Golden crosses", "green"),
    ("death_cross", "Death crosses", "red"),
    ("high_volume", "High volume", "blue"),
)


def board(
    uid: str,
    title: str,
    text: str,
    panels: Sequence[Any],
    variables: Sequence[Any],
    *,
    route: str,
    since: str = "now-6h",
    marked: bool = False,
) -> Dashboard:
    """A dashboard that asks anew each minute, which is no faster than any of its queries needs to be."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .time(since, "now")
        .refresh("1m")
        .timepicker(build.TimePicker().refresh_intervals(["30s", "1m", "5m", "15m", "1h"]))
        .link(_dashboards())
        .link(_page(route))
    )
    for variable in variables:
        made = made.with_variable(variable)
    for panel in panels:
        made = made.with_panel(panel)
    built = made.with_variable(_Constant("page", PAGE)).build()
    built.schema_version = p.SCHEMA_VERSION
    assert built.annotations is not None
    built.annotations.list_val = [_mark(*mark) for mark in MARKS] if marked else []
    return built


def _dashboards() -> build.DashboardLink:
    link = build.DashboardLink("Tapewatch").type(DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    return link.icon("external link").tooltip("").url("").target_blank(False).include_vars(True).keep_time(True)


def _page(route: str) -> build.DashboardLink:
    link = build.DashboardLink("Live page").type(DashboardLinkType.LINK).icon("external link").tags([])
    link = link.tooltip("Tapewatch's own page").url(f"${{page}}/#/{route}").target_blank(True)
    return link.as_dropdown(False).include_vars(False).keep_time(False)


def _mark(kind: str, name: str, color: str) -> AnnotationQuery:
    target: Any = p.Query({**p.sql(sql.marks(kind)).values, "refId": "Anno"})
    return AnnotationQuery(name=name, datasource=p.DATABASE, enable=True, hide=False, icon_color=color, target=target)


class _Constant(Builder[VariableModel]):
    """A value that panels name and nobody chooses; `provision` may put another in its place."""

    def __init__(self, name: str, value: str) -> None:
        option = VariableOption(selected=True, text=value, value=value)
        self._built = VariableModel(
            type_val=VariableType.CONSTANT, name=name, query=value, current=option, options=[option]
        )
        self._built.hide = VariableHide.HIDE_VARIABLE

    def build(self) -> VariableModel:
        return self._built


def constant(name: str, value: str) -> Any:
    return _Constant(name, value)


def symbol(*, several: bool = False) -> build.QueryVariable:
    """The symbol, or with ``several`` any number of them."""
    made = build.QueryVariable("symbol").label("Symbol").datasource(p.DATABASE).query(sql.SYMBOLS)
    made = made.refresh(VariableRefresh.ON_DASHBOARD_LOAD).description("What the database has prices of")
    return _several(made) if several else made.multi(False).include_all(False)


def interval() -> build.CustomVariable:
    """Length of a bar; a range too long for it is shown in longer ones."""
    choices = ("1m", "5m", "15m", "1h", "1d")
    made = build.CustomVariable("interval").label("Bars").values(",".join(choices)).multi(False).include_all(False)
    made = made.description("Length of a bar, at least: more than 500 are never shown")
    return made.options(_options(choices, chosen="1m")).current(VariableOption(True, "1m", "1m"))


def choice(name: str, label: str, choices: Sequence[str]) -> build.CustomVariable:
    made = build.CustomVariable(name).label(label).values(",".join(choices))
    every = VariableOption(selected=True, text="All", value="$__all")
    return _several(made).options([every, *_options(choices)])


def _several(made: Any) -> Any:
    return made.multi(True).include_all(True).current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def _options(choices: Sequence[str], chosen: str = "") -> list[VariableOption]:
    return [VariableOption(selected=one == chosen, text=one, value=one) for one in choices]
