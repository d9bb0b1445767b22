"""The four alert rules, as Grafana's provisioning wants them.

No dollar sign in any of them: provisioning replaces what looks like a variable of the environment.
"""

from __future__ import annotations

from typing import Any, Final

from . import promql, sql

DATABASE: Final = "tapewatch-database"
PROMETHEUS: Final = "tapewatch-prometheus"
FOLDER: Final = "Tapewatch"


def rules() -> dict[str, Any]:
    crosses = "The close of the minute confirmed it. Evidence: the live page, Alerts."
    group = {
        "orgId": 1,
        "name": "Tapewatch",
        "folder": FOLDER,
        "interval": "1m",
        "rules": [
            _market("tapewatch-golden-cross", "Golden Cross", "golden_cross", "rose above its moving average", crosses),
            _market("tapewatch-death-cross", "Death Cross", "death_cross", "fell below its moving average", crosses),
            _market(
                "tapewatch-high-volume",
                "High Volume",
                "high_volume",
                "trades far more than usual",
                "The volume of one minute is a multiple of the mean of the minutes before.",
            ),
            _system_down(),
        ],
    }
    return {"apiVersion": 1, "groups": [group]}


def _market(uid: str, title: str, kind: str, what: str, more: str) -> dict[str, Any]:
    """Fires for each symbol with a fresh alert; when the database is away it is quiet, for System Down tells that."""
    question = {"refId": "A", "format": "table", "rawQuery": True, "editorMode": "code", "rawSql": sql.fresh(kind)}
    return {
        "uid": uid,
        "title": title,
        "condition": "C",
        "data": [_query("A", DATABASE, question), _above("C", "A", 0)],
        "noDataState": "OK",
        "execErrState": "OK",
        "for": "0s",
        "annotations": {"summary": f"{{{{ .Labels.symbol }}}} {what}", "description": more},
        "labels": {"severity": "info", "source": "tapewatch"},
        "isPaused": False,
    }


def _system_down() -> dict[str, Any]:
    """Fires for each thing that is down for two minutes, and when Prometheus knows of nothing or does not answer."""
    question = {"refId": "A", "expr": promql.SYSTEM_DOWN, "instant": True, "range": False, "editorMode": "code"}
    last = {"refId": "B", "type": "reduce", "reducer": "last", "expression": "A", "datasource": _EXPRESSION}
    return {
        "uid": "tapewatch-system-down",
        "title": "System Down",
        "condition": "C",
        "data": [_query("A", PROMETHEUS, question), _query("B", "__expr__", last), _above("C", "B", 0)],
        "noDataState": "Alerting",
        "execErrState": "Alerting",
        "for": "2m",
        "annotations": {
            "summary": "Tapewatch: {{ with .Labels.what }}{{ . }}{{ else }}nothing is measured{{ end }}",
            "description": "What to do is said on the live page, Health, and by: tapewatch doctor",
        },
        "labels": {"severity": "critical", "source": "tapewatch"},
        "isPaused": False,
    }


_EXPRESSION: Final = {"type": "__expr__", "uid": "__expr__"}


def _query(ref: str, source: str, model: dict[str, Any]) -> dict[str, Any]:
    span = {"from": 0, "to": 0} if source == "__expr__" else {"from": 600, "to": 0}
    bounds = {"intervalMs": 60_000, "maxDataPoints": 100}
    return {"refId": ref, "relativeTimeRange": span, "datasourceUid": source, "model": model | bounds}


def _above(ref: str, of: str, limit: float) -> dict[str, Any]:
    condition = {"evaluator": {"type": "gt", "params": [limit]}}
    model = {"refId": ref, "type": "threshold", "expression": of, "conditions": [condition], "datasource": _EXPRESSION}
    return _query(ref, "__expr__", model)
