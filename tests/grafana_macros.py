"""Grafana's part in a query, for tests and measurements: finds every query that is checked in, and fills it.

for name, text in filled_sql(Fill(...)):     what the database is asked by panels, variables, marks and rules
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "grafana"
if str(FOLDER.parent) not in sys.path:
    sys.path.insert(0, str(FOLDER.parent))

STEPS_MS = [
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000),
    *(300_000, 600_000, 900_000, 1_200_000, 1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000),
    *(86_400_000, 604_800_000, 2_592_000_000),
]
"""The lengths that Grafana rounds an interval to."""


@dataclass(frozen=True)
class Fill:
    """What a person has chosen in the dashboard: the range of time, and the variables, one or several values each."""

    since: datetime
    until: datetime
    variables: dict[str, list[str]] = field(default_factory=dict)
    points_max: int = 500
    shortest: timedelta = timedelta(minutes=1)

    @property
    def interval(self) -> timedelta:
        """Grafana's: the range by the points, rounded to a usual length, no shorter than the panel allows."""
        exact = (self.until - self.since) / self.points_max / timedelta(milliseconds=1)
        step = min(STEPS_MS, key=lambda step: (abs(step - exact), step))
        return max(self.shortest, timedelta(milliseconds=step))

    def __call__(self, text: str) -> str:
        """Fill variables, then macros.

        Raises:
            KeyError: it names a variable that has no value.
            ValueError: something with a dollar sign is left.
        """
        text = re.sub(r"\$\{(\w+)(?::(\w+))?\}", self._variable, text)
        ms = int(self.interval / timedelta(milliseconds=1))
        since, until = (f"'{_instant(time)}'" for time in (self.since, self.until))
        text = re.sub(r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN {since} AND {until}", text)
        text = text.replace("$__timeFrom()", since).replace("$__timeTo()", until)
        text = text.replace("$__interval_ms", str(ms)).replace("$__rate_interval", f"{max(60, ms // 1000)}s")
        text = text.replace("$__interval", f"{ms // 1000}s")
        if "$" in text:
            raise ValueError(f"not filled: {text[text.index('$') :][:40]}")
        return text

    def _variable(self, match: re.Match[str]) -> str:
        name, shape = match.groups()
        values = self.variables[name]
        if shape == "sqlstring":
            return ",".join("'" + value.replace("'", "''") + "'" for value in values)
        assert shape is None, shape
        (value,) = values
        return value.replace("'", "''")


def _instant(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dashboards() -> dict[str, dict[str, Any]]:
    """The checked-in dashboards by their file's name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("dashboards/*.json"))
    }


def provisioning(name: str) -> dict[str, Any]:
    """A checked-in provisioning file, such as ``alerting/rules``."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "provisioning" / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = board["panels"]
    return found


def queries(key: str) -> Iterator[tuple[str, str]]:
    """Name and text of every target with ``key`` (`rawSql` or `expr`): panels, marks, variables and alert rules."""
    for name, board in dashboards().items():
        for panel in panels(board):
            for target in panel["targets"]:
                if key in target:
                    yield f"{name}: {panel['title']} {target['refId']}", target[key]
        for mark in board.get("annotations", {}).get("list", []):
            if key in mark.get("target", {}):
                yield f"{name}: mark {mark['name']}", mark["target"][key]
        for variable in board["templating"]["list"]:
            if key == "rawSql" and variable["type"] == "query":
                yield f"{name}: variable {variable['name']}", variable["query"]
    for group in provisioning("alerting/rules")["groups"]:
        for rule in group["rules"]:
            for part in rule["data"]:
                if key in part["model"]:
                    yield f"rule {rule['title']} {part['refId']}", part["model"][key]


def filled_sql(fill: Fill) -> Iterator[tuple[str, str]]:
    """Name and SQL, as the database gets it, of every panel, mark, variable and alert rule."""
    for name, text in queries("rawSql"):
        yield name, fill(text)


def chosen(symbols: list[str], symbol: str, interval: str = "1m", lead: str = "240s") -> dict[str, list[str]]:
    """Values of every variable, for one symbol; the Alerts dashboard's "All" is all ``symbols``."""
    kinds, statuses = (
        next(v for v in dashboards()["tapewatch-alerts"]["templating"]["list"] if v["name"] == name)["query"].split(",")
        for name in ("kind", "status")
    )
    return {"symbol": [symbol], "interval": [interval], "lead": [lead], "kind": kinds, "status": statuses}
