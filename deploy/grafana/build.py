"""Writes what is checked in: the dashboards' JSON and the provisioning files that hold nothing of one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from .alerts import alerts
from .health import health
from .overview import overview
from .rules import DATABASE, FOLDER, PROMETHEUS, rules
from .technical import technical

HERE: Final = Path(__file__).parent
_MADE: Final = "# Made by deploy/grafana/build.py; what is in ${…} comes from the environment (docs/grafana.md).\n"


def files() -> dict[str, str]:
    """Text of each file, by its path in this folder."""
    made = {
        f"dashboards/{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"
        for board in (overview(), technical(), health(), alerts())
    }
    made["provisioning/datasources/tapewatch.yaml"] = _yaml(_data_sources())
    made["provisioning/dashboards/tapewatch.yaml"] = _yaml(_provider())
    made["provisioning/alerting/rules.yaml"] = _yaml(rules())
    return made


def _yaml(content: dict[str, Any]) -> str:
    return _MADE + yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1000)


class _Plain(yaml.SafeDumper):
    """Texts of several lines are written as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def _data_sources() -> dict[str, Any]:
    database = {
        "name": "Tapewatch database",
        "uid": DATABASE,
        "type": "postgres",
        "access": "proxy",
        "url": "${TAPEWATCH_GRAFANA_DB_ADDRESS}",
        "user": "${TAPEWATCH_GRAFANA_DB_USER}",
        "database": "${TAPEWATCH_GRAFANA_DB_NAME}",
        "jsonData": {
            "database": "${TAPEWATCH_GRAFANA_DB_NAME}",
            "sslmode": "${TAPEWATCH_GRAFANA_DB_SSLMODE}",
            "postgresVersion": 1400,
            "timescaledb": False,
            "maxOpenConns": 5,
            "maxIdleConns": 2,
            "connMaxLifetime": 14400,
            "timeInterval": "1m",
        },
        "secureJsonData": {"password": "${TAPEWATCH_GRAFANA_DB_PASSWORD}"},
        "isDefault": True,
        "editable": False,
    }
    prometheus = {
        "name": "Tapewatch Prometheus",
        "uid": PROMETHEUS,
        "type": "prometheus",
        "access": "proxy",
        "url": "${TAPEWATCH_PROMETHEUS_URL}",
        "jsonData": {"httpMethod": "POST", "timeInterval": "5s", "manageAlerts": False},
        "editable": False,
    }
    return {"apiVersion": 1, "datasources": [database, prometheus]}


def _provider() -> dict[str, Any]:
    provider = {
        "name": "Tapewatch",
        "orgId": 1,
        "folder": FOLDER,
        "folderUid": "tapewatch",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": "${TAPEWATCH_GRAFANA_DASHBOARDS}", "foldersFromFilesStructure": False},
    }
    return {"apiVersion": 1, "providers": [provider]}


def main() -> None:
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
