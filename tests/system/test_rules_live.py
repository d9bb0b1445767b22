"""Alert rules changed while a whole pipeline runs: by API, by command, by file; and what the log says of it later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from pipeline_runs import ANSWER_S, Pipeline, until
from tapewatch.records import Kind
from tapewatch.rules.change import RuleChange

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = {
    "SLIDE_DURATION": "5s",
    "WINDOW_DURATION": "25s",
    "WATERMARK_DELAY": "5s",
    "WARMUP": "0s",
    "SIMULATOR_RATE": "20",
}


def rules(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {rule["rule"]: rule for rule in pipeline.ask("api/v1/rules")["rules"]}


def said(pipeline: Pipeline) -> list[RuleChange]:
    batches, _ = pipeline.records("simulated")
    return [
        RuleChange.decode(batch.ids[i], int(batch.time_ms[i]), batch.offset + i)
        for batch in batches
        for i in (batch.kind == Kind.RULES).nonzero()[0].tolist()
    ]


def alerts(pipeline: Pipeline, rule: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pipeline.ask(f"api/v1/alerts?rule={rule}")
    return found


def stored(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    with psycopg.connect(pipeline.conninfo("simulated")) as connection:
        query = "SELECT alert_id, rule, rule_version, status FROM breakout_alerts ORDER BY alert_id"
        return connection.execute(query).fetchall()


def test_rules_change_while_all_runs_and_the_log_remembers_which_held_when(tmp_path: Path) -> None:
    with Pipeline(tmp_path, SYMBOLS="AAPL", ALERTS_FILE=str(tmp_path / "alerts.toml"), **QUICK) as pipeline:
        pipeline.start()
        until(lambda: pipeline.ask("api/v1/stocks"), "there is a price")
        near: dict[str, Any] = {"rule": "near", "kind": "cross", "right": "sma(3)", "symbols": ["AAPL"]}
        near |= {"direction": "either", "cooldown": "0ms", "band_bps": 0}
        answer = httpx.post(f"{pipeline.url}api/v1/rules", json=near, timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text
        version = rules(pipeline)["near"]["version"]
        until(lambda: alerts(pipeline, "near"), "the new rule makes an alert")
        assert {alert["rule_version"] for alert in alerts(pipeline, "near")} == {version}

        done = pipeline.command("rules", "off", "near")
        assert done.returncode == 0, done.stderr
        until(lambda: not rules(pipeline)["near"]["enabled"], "the command is followed")
        text = (tmp_path / "alerts.toml").read_text()
        (tmp_path / "alerts.toml").write_text(text + "\n[golden_cross]\nband_bps = 'wide'\n")
        until(lambda: pipeline.ask("api/v1/rules")["problem"], "a mistake is told")
        assert rules(pipeline)["golden_cross"]["version"] == "c6abd647"
        (tmp_path / "alerts.toml").write_text(text + "\n[golden_cross]\nband_bps = 8\n")
        until(lambda: rules(pipeline)["golden_cross"]["version"] != "c6abd647", "the file is followed")
        until(
            lambda: [change.who for change in said(pipeline)] == ["start", "api", "command", "file"], "the log says it"
        )
        pipeline.stop()

        (tmp_path / "alerts.toml").unlink()
        changes = said(pipeline)
        assert [change.rules.get("near") is None for change in changes] == [True, False, False, False]
        assert changes[0].offset == 0
        verdict = pipeline.verify()
        assert verdict.is_good, verdict
        rebuilt = pipeline.command("rebuild")
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert pipeline.verify().is_good
        pipeline.start()
        before = stored(pipeline)
        assert version in {row[2] for row in before if row[1] == "near"}
        until(lambda: len(said(pipeline)) > len(changes), "the next start says the rules of the file")
        assert said(pipeline)[-1].rules.golden_cross.band_bps == 5.0
        with psycopg.connect(pipeline.conninfo("simulated")) as connection:
            known = connection.execute("SELECT rule, changed_by FROM alert_rules WHERE rule_version = %s", (version,))
            assert known.fetchall() == [("near", "api")]
        pipeline.stop()
