"""A real Prometheus beside a real pipeline: its numbers are the database's, and each alert fires when it has to.

Prometheus is Debian's package, which ./run_tests.sh installs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from grafana_macros import Fill, queries
from pipeline_runs import Pipeline, clean_environment, until
from prometheus import ROOT, Prometheus
from tapes import write_tape

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

USER = "tapewatch_grafana_user"
FOLDER = ROOT / "deploy" / "prometheus"


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False)


def test_configuration_and_rules_are_well_formed_and_each_alert_fires_when_it_has_to(tmp_path: Path) -> None:
    for what, name in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        checked = promtool("check", what, FOLDER / name)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    proved = promtool("test", "rules", FOLDER / "tests" / "rules_test.yml")
    assert proved.returncode == 0, proved.stdout + proved.stderr
    # The canary: alerts that can never fire fail their tests, every one.
    rules = (FOLDER / "rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) > 10
    shutil.copytree(FOLDER / "tests", tmp_path / "tests")
    (tmp_path / "rules.yml").write_text(re.sub(r"(- alert: \w+\n\s+expr: ).*", r'\1"absent(vector(1))"', rules))
    found = promtool("test", "rules", tmp_path / "tests" / "rules_test.yml")
    assert found.returncode != 0
    said = found.stdout + found.stderr
    assert [alert for alert in alerts if f'alertname=\\"{alert}\\"' not in said] == [], said


def check_panels(prometheus: Prometheus) -> None:
    """Every PromQL of Grafana's dashboards and alert rules is understood, and gives what a replay has."""
    now = datetime.now(UTC)
    fill = Fill(now - timedelta(hours=1), now)
    prometheus.wait_rates()
    # The log of this replay is a file; and its feeds have ended, so that none is said to be down.
    wanted = {n: text for n, text in queries("expr") if not re.search("Kafka and Spark|Feeds and database A$", n)}
    # A rate needs two samples with something between them: after a recording most have none.
    rates = {name for name, text in wanted.items() if "rate(" in text}
    for name in wanted.keys() - rates:
        until(lambda name=name: prometheus.ask(fill(wanted[name])), f"{name} gives something")
    silent = [name for name in rates if not prometheus.ask(fill(wanted[name]))]
    assert len(silent) < 6, silent


def check_grafanas_user(pipeline: Pipeline) -> None:
    """What scripts/start_grafana.sh runs makes a user in the embedded database, who may read and nothing else."""
    ran = subprocess.run(
        [sys.executable, "-m", "grafana.provision", "--render"], cwd=pipeline.folder, capture_output=True, text=True,
        env=clean_environment(**pipeline.settings, PYTHONPATH=str(ROOT / "deploy")), check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "nothing was started" in ran.stdout
    password = (pipeline.data_dir / "grafana" / "database.password").read_text().strip()
    dsn = conninfo_to_dict(pipeline.conninfo("replayed")) | {"user": USER, "password": password}
    with psycopg.connect(**dsn) as database:
        assert database.execute("SELECT count(*) FROM price_bars").fetchone() != (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute("SELECT * FROM engine_state")


def test_prometheus_has_the_numbers_of_the_database(tmp_path: Path) -> None:
    files = write_tape(tmp_path, trades=3_000, minutes=20)
    arguments = [word for path in files for word in ("--replay", str(path))]
    with Pipeline(tmp_path) as pipeline:
        pipeline.start("--speed", "max", *arguments)
        until(pipeline.is_finished, "its end, stored")
        linted = promtool("check", "metrics", stdin=pipeline.get("metrics").text)
        assert linted.returncode == 0, linted.stdout + linted.stderr
        with Prometheus(tmp_path / "prometheus", {"tapewatch": [pipeline.url[7:].rstrip("/")]}) as prometheus:
            prometheus.wait_scraped()
            with psycopg.connect(pipeline.conninfo("replayed")) as database:
                query = "SELECT sum(trades), sum(late), sum(future), sum(ineligible) FROM latest_prices"
                (decided,) = database.execute(query).fetchall()
                alerts = dict(database.execute("SELECT kind, count(*) FROM breakout_alerts GROUP BY 1").fetchall())
                (position,) = database.execute("SELECT position FROM engine_state").fetchone() or (0,)
            assert sum(decided) > 1_000
            for decision, number in zip(("applied", "late", "future", "ineligible"), decided, strict=True):
                asked = f'sum(tapewatch_engine_trades_total{{decision="{decision}"}}) or vector(0)'
                assert prometheus.value(asked) == number, decision
            for kind, number in alerts.items():
                # Each alert was provisional once.
                asked = f'tapewatch_engine_alerts_total{{kind="{kind}", status="provisional"}}'
                assert prometheus.value(asked) == number
            assert prometheus.value("tapewatch_engine_position_offset") == position
            assert prometheus.value("tapewatch_log_end_offset") == position
            assert prometheus.value("tapewatch_store_commit_seconds_count") > 1
            assert prometheus.value("tapewatch:log_behind_records") == 0
            assert prometheus.value("tapewatch_disk_free_bytes") > prometheus.value("tapewatch_disk_free_limit_bytes")
            until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), "each rule was evaluated")
            check_panels(prometheus)
            check_grafanas_user(pipeline)
            firing = [one["metric"]["alertname"] for one in prometheus.ask('ALERTS{alertstate="firing"}')]
            assert firing == [], firing
