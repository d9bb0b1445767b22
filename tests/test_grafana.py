"""Grafana's dashboards, alert rules and provisioning, as far as they can be held without a Grafana.

Not checked here, since nobody here has one: that Grafana loads them. What the Foundation SDK (of Grafana 11.0) knows of
their shape is checked; their queries are run by tests/system/test_grafana_sql.py and tests/system/test_prometheus.py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.alerting import Rule
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana_macros import FOLDER, ROOT, Fill, chosen, dashboards, filled_sql, panels, provisioning, queries
from tapewatch import metrics
from tapewatch.errors import MachineError, SettingsError, StoreError
from tapewatch.settings import load_settings

from grafana import build, provision  # isort: skip  (grafana_macros puts deploy/ on the path)

KINDS = {"timeseries", "stat", "table", "candlestick", "state-timeline", "text"}
"""Panels that Grafana 9.4 and 11 both have."""
SOURCES = {"tapewatch-database": "postgres", "tapewatch-prometheus": "prometheus", "-- Dashboard --": "datasource"}
SECONDS = {"s": 1, "m": 60, "h": 3600}
BOARDS = pytest.mark.parametrize(
    "name", ["tapewatch-alerts", "tapewatch-health", "tapewatch-overview", "tapewatch-technical"]
)
CHOICES = [
    {name: f"secret-{channel}" for channel, name in some}
    for count in range(5)
    for some in itertools.combinations(provision.CHANNELS.items(), count)
]


# --- what is checked in -------------------------------------------------------------------------------------------


def test_the_checked_in_files_are_what_the_code_makes() -> None:
    made = build.files()
    there = {str(path.relative_to(FOLDER)) for kind in ("json", "yaml") for path in FOLDER.rglob(f"*.{kind}")}
    assert there == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, "run: PYTHONPATH=deploy python -m grafana.build"


def test_the_four_dashboards_have_their_own_fixed_uid_and_title() -> None:
    assert {board["uid"]: board["title"] for board in dashboards().values()} == {
        "tapewatch-overview": "Stock Overview",
        "tapewatch-technical": "Technical Analysis",
        "tapewatch-health": "System Health",
        "tapewatch-alerts": "Alerts History",
    }
    assert all(name == board["uid"] for name, board in dashboards().items())


@BOARDS
def test_the_sdk_reads_a_dashboard_and_writes_it_again(name: str) -> None:
    register_default_plugins()
    board = dashboards()[name]
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    for one, other in zip(panels(board), panels(again), strict=True):
        assert other["type"] == one["type"]
        assert other["gridPos"] == one["gridPos"]
        assert other.get("options") == one.get("options")
        assert other["fieldConfig"]["overrides"] == one["fieldConfig"]["overrides"]
        assert other["fieldConfig"]["defaults"].items() >= one["fieldConfig"]["defaults"].items()
    assert [v["name"] for v in again["templating"]["list"]] == [v["name"] for v in board["templating"]["list"]]


@BOARDS
def test_every_panel_says_what_it_is_and_is_of_a_kind_that_old_grafana_has(name: str) -> None:
    board = dashboards()[name]
    assert board["schemaVersion"] == 37
    assert 0 < len(panels(board)) <= 13
    assert len({panel["id"] for panel in panels(board)}) == len(panels(board))
    for panel in panels(board):
        assert panel["type"] in KINDS
        assert panel["title"]
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["maxDataPoints"] <= 500
        assert panel["interval"] == "1m"


@BOARDS
def test_no_panel_lies_on_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboards()[name]):
        x, y, width, height = (panel["gridPos"][side] for side in "xywh")
        cells = set(itertools.product(range(x, x + width), range(y, y + height)))
        assert x + width <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@BOARDS
def test_every_data_source_is_one_that_is_provisioned(name: str) -> None:
    made = {source["uid"]: source["type"] for source in provisioning("datasources/tapewatch")["datasources"]}
    assert made | {"-- Dashboard --": "datasource"} == SOURCES
    board = dashboards()[name]
    asked = [panel["datasource"] for panel in panels(board)]
    asked += [target["datasource"] for panel in panels(board) for target in panel["targets"]]
    asked += [variable["datasource"] for variable in board["templating"]["list"] if "datasource" in variable]
    asked += [mark["datasource"] for mark in board["annotations"]["list"]]
    assert [source for source in asked if SOURCES.get(source["uid"]) != source["type"]] == []


@BOARDS
def test_what_takes_another_panels_rows_names_one_that_asks_itself(name: str) -> None:
    found = {panel["id"]: panel for panel in panels(dashboards()[name])}
    for panel in found.values():
        for target in panel["targets"]:
            if "panelId" in target:
                assert "rawSql" in found[target["panelId"]]["targets"][0]


@BOARDS
def test_the_fields_that_a_panel_names_are_columns_of_its_query(name: str) -> None:
    found = {panel["id"]: panel for panel in panels(dashboards()[name])}
    for panel in found.values():
        target = panel["targets"][0]
        text = found[target["panelId"]]["targets"][0]["rawSql"] if "panelId" in target else target.get("rawSql")
        if text is None:
            continue
        named = [one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]]
        for step in panel.get("transformations", []):
            if step["id"] == "filterFieldsByName":
                named += step["options"]["include"]["names"]
        named += re.findall(r"\w+", panel.get("options", {}).get("reduceOptions", {}).get("fields", ""))
        assert [field for field in named if not re.search(rf"\b{field}\b", text)] == []


@BOARDS
def test_nothing_is_asked_more_often_than_twice_a_minute(name: str) -> None:
    board = dashboards()[name]
    for every in [board["refresh"], *board["timepicker"]["refresh_intervals"]]:
        assert int(every[:-1]) * SECONDS[every[-1]] >= 30
    assert int(board["refresh"][:-1]) * SECONDS[board["refresh"][-1]] >= 60


@BOARDS
def test_every_dashboard_leads_to_the_others_and_to_the_page(name: str) -> None:
    board = dashboards()[name]
    assert board["tags"] == ["tapewatch"]
    others, page = board["links"]
    assert (others["type"], others["tags"], others["keepTime"]) == ("dashboards", ["tapewatch"], True)
    assert re.fullmatch(r"\$\{page\}/#/(overview/\$\{symbol\}/1m|technical/\$\{symbol\}|health|alerts)", page["url"])


@BOARDS
def test_every_variable_that_is_named_is_one(name: str) -> None:
    board = dashboards()[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps(board)
    named = set(re.findall(r"\$\{?([A-Za-z]\w*)", text)) - {"page"}
    assert named <= known, named - known
    unused = {variable for variable in known - {"page"} if not re.search(rf"\${{?{variable}\b", text)}
    assert unused == set()


def test_every_query_is_bounded() -> None:
    for name, text in queries("rawSql"):
        if name.startswith("rule"):
            assert "INTERVAL '5 minutes'" in text
        elif "variable" not in name and "latest_stock_data" not in text:
            assert "$__timeFilter(" in text or "$__timeTo()" in text, name
            assert "$__interval_ms" in text or "LIMIT " in text, name


def test_every_metric_that_is_asked_for_is_one() -> None:
    kinds = ("_bucket", "_total", "")
    known = {name + kind for name in metric_names() for kind in kinds}
    asked = {name for _, text in queries("expr") for name in re.findall(r"tapewatch_\w+", text)}
    assert asked - known == set()
    assert len(asked) > 15


def metric_names() -> set[str]:
    kind = prometheus_client.metrics.MetricWrapperBase
    return {metric._name for metric in vars(metrics).values() if isinstance(metric, kind)}


def test_price_panels_show_the_alerts() -> None:
    for name in ("tapewatch-overview", "tapewatch-technical"):
        marks = dashboards()[name]["annotations"]["list"]
        assert [mark["name"] for mark in marks] == ["Golden crosses", "Death crosses", "High volume"]


# --- alert rules --------------------------------------------------------------------------------------------------


def rules() -> list[dict[str, Any]]:
    (group,) = provisioning("alerting/rules")["groups"]
    assert (group["folder"], group["interval"]) == ("Tapewatch", "1m")
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_there_are_the_four_alert_rules() -> None:
    assert [rule["title"] for rule in rules()] == ["Golden Cross", "Death Cross", "High Volume", "System Down"]
    assert len({rule["uid"] for rule in rules()}) == 4
    for rule in rules():
        asked = {part["refId"]: part for part in rule["data"]}
        assert rule["condition"] in asked
        for ref, part in asked.items():
            assert part["model"]["refId"] == ref
            assert part["datasourceUid"] in {"tapewatch-database", "tapewatch-prometheus", "__expr__"}
            assert part["model"].get("expression", "A") in asked
        made = Rule.from_json({**rule, "data": [], "folderUID": "tapewatch", "orgID": 1, "ruleGroup": "Tapewatch"})
        assert made.title == rule["title"]


def test_an_outage_of_the_database_or_of_prometheus_is_told_once() -> None:
    states = {rule["title"]: (rule["noDataState"], rule["execErrState"]) for rule in rules()}
    assert states.pop("System Down") == ("Alerting", "Alerting")
    assert set(states.values()) == {("OK", "OK")}


def test_alert_rules_hold_nothing_that_provisioning_would_replace() -> None:
    text = (FOLDER / "provisioning" / "alerting" / "rules.yaml").read_text(encoding="utf-8")
    assert "$" not in "".join(text.splitlines(keepends=True)[1:])


def test_system_down_names_each_thing_that_can_be_down() -> None:
    (text,) = (text for name, text in queries("expr") if name.startswith("rule System Down"))
    assert re.findall(r'"what", "([^"]+)"', text) == [
        *("a process does not answer", "the database does not answer", "a feed is not live", "nothing is recorded"),
        *("Kafka does not answer", "the disk is nearly full"),
    ]


# --- filling of queries -------------------------------------------------------------------------------------------


def test_filling_is_as_grafana_does_it() -> None:
    until = datetime(2026, 3, 2, 21, tzinfo=UTC)
    fill = Fill(until - timedelta(hours=6), until, {"symbol": ["O'X", "B"], "interval": ["5m"]})
    assert fill("a IN (${symbol:sqlstring}) '${interval}'") == "a IN ('O''X','B') '5m'"
    assert fill("$__timeFilter(t)") == "t BETWEEN '2026-03-02T15:00:00.000Z' AND '2026-03-02T21:00:00.000Z'"
    assert fill("$__interval_ms") == "60000"
    assert replace(fill, since=until - timedelta(days=30)).interval == timedelta(hours=1)
    with pytest.raises(ValueError, match=r"not filled: \$__unknown"):
        fill("$__unknown(x)")
    assert len(list(filled_sql(replace(fill, variables=chosen(["A"], "A"))))) == len(list(queries("rawSql"))) > 15


# --- what is rendered ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return load_settings(data_dir=tmp_path / "my data", db_host="db.example.org", db_port=5433, window_ms=600_000)


GIVEN = {"TAPEWATCH_GRAFANA_DB_USER": "grafana", "TAPEWATCH_GRAFANA_DB_PASSWORD": "secret-password", "PATH": "/usr/bin"}


@pytest.mark.parametrize("some", CHOICES, ids=lambda some: "+".join(some) or "none")
def test_contact_points_are_those_whose_variables_are_set(settings: Any, some: dict[str, str]) -> None:
    given = GIVEN | some | {"GF_SMTP_HOST": "mail.example.org:587"}
    plan = provision.prepared(settings, given, 3001)
    made = yaml.safe_load((plan.folder / "provisioning" / "alerting" / "contact_points.yaml").read_text("utf-8"))
    receivers = made.get("contactPoints", [{"receivers": []}])[0]["receivers"]
    wanted = [channel for channel, name in provision.CHANNELS.items() if name in some]
    assert [receiver["type"] for receiver in receivers] == wanted
    assert [one["uid"] for one in made.get("deleteContactPoints", [])] == [
        f"tapewatch-{channel}" for channel in provision.CHANNELS if channel not in wanted
    ]
    if some:
        assert made["policies"][0]["receiver"] == made["contactPoints"][0]["name"]
    else:
        assert made["resetPolicies"] == [1]
    ini = (plan.folder / "grafana.ini").read_text("utf-8")
    assert f"[smtp]\nenabled = {str('email' in wanted).lower()}" in ini
    for path in plan.folder.rglob("*"):
        assert not path.is_file() or "secret-" not in path.read_text("utf-8"), path
    assert plan.environment.items() >= given.items()


def test_a_machines_own_values_are_put_in(settings: Any) -> None:
    plan = provision.prepared(settings, GIVEN | {"TAPEWATCH_PAGE_URL": "https://tape.example.org/"}, 3001)
    board = json.loads((plan.folder / "dashboards" / "tapewatch-overview.json").read_text("utf-8"))
    constants = {one["name"]: one["query"] for one in board["templating"]["list"] if one["type"] == "constant"}
    assert constants == {"page": "https://tape.example.org", "lead": "540s"}
    named = set()
    for path in plan.folder.rglob("*.yaml"):
        named |= set(re.findall(r"\$\{(\w+)\}", path.read_text("utf-8")))
    assert named <= set(plan.environment)
    assert plan.environment["TAPEWATCH_GRAFANA_DB_ADDRESS"] == "db.example.org:5433"
    assert plan.environment["TAPEWATCH_GRAFANA_DB_SSLMODE"] == "require"


def test_grafana_listens_here_alone_and_tells_nobody(settings: Any) -> None:
    plan = provision.prepared(settings, GIVEN, 3001)
    ini = (plan.folder / "grafana.ini").read_text("utf-8")
    assert "http_addr = 127.0.0.1\nhttp_port = 3001" in ini
    assert "[auth.anonymous]\nenabled = false" in ini
    for switch in ("reporting_enabled", "check_for_updates", "news_feed_enabled", "allow_sign_up", "external_enabled"):
        assert f"{switch} = false" in ini


def test_passwords_are_made_once_and_are_for_their_owner_alone(settings: Any) -> None:
    folder = provision.prepared(settings, GIVEN, 3001).folder
    made = {name: (folder / name).read_text("utf-8") for name in ("admin.password", "secret.key")}
    provision.prepared(settings, GIVEN, 3001)
    ini = (folder / "grafana.ini").read_text("utf-8")
    for name, password in made.items():
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert (folder / name).read_text("utf-8") == password
        assert len(password) >= 32
        assert f"$__file{{{folder / name}}}" in ini
        assert password not in ini
    assert len(set(made.values())) == 2


def test_what_is_missing_is_said(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set TAPEWATCH_GRAFANA_DB_USER and TAPEWATCH_GRAFANA_DB_PASSWORD"):
        provision.prepared(settings, {}, 3001)
    with pytest.raises(SettingsError, match="set GF_SMTP_HOST"):
        provision.prepared(settings, GIVEN | {"TAPEWATCH_ALERT_EMAIL": "a@example.org"}, 3001)
    with pytest.raises(StoreError, match=r"No pipeline runs .*start it with \./start_pipeline\.sh"):
        provision.prepared(load_settings(data_dir=tmp_path / "nothing"), {}, 3001)
    with pytest.raises(MachineError, match=r"grafana\.com/grafana/download"):
        provision.find_grafana({"PATH": str(tmp_path)})


def test_grafana_is_found_by_its_home_or_on_the_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "grafana"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(MachineError, match=r"not its conf/defaults\.ini"):
        provision.find_grafana({"GRAFANA_HOME": str(tmp_path)})
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "defaults.ini").touch()
    for environment in ({"GRAFANA_HOME": str(tmp_path)}, {"PATH": str(program.parent)}):
        assert provision.find_grafana(environment) == (program, tmp_path)


@pytest.mark.slow
def test_the_script_becomes_grafana_with_no_secret_on_its_command_line(tmp_path: Path) -> None:
    program = tmp_path / "home" / "bin" / "grafana"
    program.parent.mkdir(parents=True)
    (tmp_path / "home" / "conf").mkdir()
    (tmp_path / "home" / "conf" / "defaults.ini").touch()
    program.write_text('#!/bin/sh\necho "$@"\necho "[$TAPEWATCH_GRAFANA_DB_PASSWORD]"\n')
    program.chmod(0o755)
    given = {"GRAFANA_HOME": str(tmp_path / "home"), "DB_HOST": "127.0.0.1", "DATA_DIR": str(tmp_path / "var")}
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", "-m", "grafana.provision", "--port", "3999"],
        env={**os.environ, **GIVEN, **given, "PYTHONPATH": str(FOLDER.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said, arguments, password = done.stdout.splitlines()
    folder = tmp_path / "var" / "grafana"
    assert said == f"Grafana: http://127.0.0.1:3999/ (user admin, password in {folder / 'admin.password'})"
    assert arguments == f"server --homepath={tmp_path / 'home'} --config={folder / 'grafana.ini'}"
    assert password == "[secret-password]"
