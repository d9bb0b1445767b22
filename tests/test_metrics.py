"""What every process tells Prometheus: named by its conventions, explained, bounded, and listed in docs/metrics.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from ports import held_port
from tapewatch import metrics
from tapewatch.errors import MachineError
from tapewatch.metrics_server import served
from tapewatch.profiles.spark_watch import BatchWatch

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
UNITS = ("_seconds", "_bytes", "_total", "_offset", "_records", "_messages", "_rows", "_clients", "_info")
STATES = {"tapewatch_feed_connected", "tapewatch_feed_lagging", "tapewatch_store_up", "tapewatch_kafka_waiting"}
"""1 or 0."""
COUNTS = {"tapewatch_feed_topics", "tapewatch_notify_waiting", "tapewatch_notify_dead", "tapewatch_system_down"}
LABELS = {"market", "reason", "cause", "lane", "decision", "kind", "status", "table", "route", "channel", "result",
          "version", "state", "code", "field", "when"}  # fmt: skip
"""None of them grows with the symbols."""


MADE = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]


def test_names_end_in_their_unit_and_say_what_they_are() -> None:
    for one in MADE:
        (family,) = one.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        assert re.fullmatch(r"tapewatch_[a-z][a-z_]*[a-z]", name)
        assert name.endswith(UNITS) or name in STATES | COUNTS, name
        assert len(family.documentation) > 10, name
        assert set(one._labelnames) <= LABELS, name


def test_the_page_lists_every_metric_with_its_labels_and_nothing_else() -> None:
    listed = dict(re.findall(r"^\| `(tapewatch_\w+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE))
    names = {one._name + ("_total" if one._type == "counter" else ""): one for one in MADE}
    assert set(listed) == set(names)
    for name, one in names.items():
        assert listed[name] == ", ".join(f"`{label}`" for label in one._labelnames), name


def test_a_process_without_a_page_serves_its_metrics_on_loopback() -> None:
    with held_port() as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with served(port):
            found = httpx.get(url, trust_env=False, timeout=60)
            families = {family.name for family in text_string_to_metric_families(found.text)}
            assert "tapewatch_build_info" in families
            with pytest.raises(MachineError, match=f"METRICS_PORT={port}: .*choose a port of its own"), served(port):
                pass
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False, timeout=60)
    with served(None):
        pass


@pytest.mark.slow
def test_what_children_count_is_in_the_parents_answer() -> None:
    """Spark's workers: forked, ended, and counted all the same."""
    script = """
import os, httpx
from ports import held_port
from tapewatch.metrics_server import shared
with held_port() as port, shared(port):
    from tapewatch import metrics
    metrics.STORE_COMMIT_SECONDS.observe(0.1)
    if os.fork() == 0:
        metrics.STORE_COMMIT_SECONDS.observe(0.2)
        metrics.STORE_UP.set(1)
        os._exit(0)
    os.wait()
    metrics.SPARK_STATE_ROWS.set(3)
    print(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=60).text)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert "tapewatch_store_commit_seconds_count 2.0" in ran.stdout
    assert "tapewatch_spark_state_rows 3.0" in ran.stdout
    assert "tapewatch_store_up 1.0" in ran.stdout
    assert "tapewatch_build_info{version=" in ran.stdout
    assert "tapewatch_disk_free_bytes" not in re.sub("#.*", "", ran.stdout)  # nobody there looked
    assert "pid=" not in ran.stdout


@pytest.mark.slow
def test_what_a_process_does_not_know_it_does_not_say() -> None:
    """No database is not a database that is down: `tapewatch feed` would alarm for ever."""
    script = (
        "from prometheus_client import generate_latest; import tapewatch.metrics; print(generate_latest().decode())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    samples = set(re.findall(r"^(tapewatch_\w+)", ran.stdout, re.MULTILINE))
    gauges = {one._name for one in MADE if one._type == "gauge"}
    assert samples & gauges == {
        "tapewatch_build_info", "tapewatch_feed_queue_limit_bytes", "tapewatch_disk_free_limit_bytes"
    }  # fmt: skip
    one = metrics.Told("tapewatch_made_for_a_test_bytes", "Bytes of a test")
    assert list(one.collect()) == []
    one.set(0)
    assert [sample.value for family in one.collect() for sample in family.samples] == [0]
    REGISTRY.unregister(one)


def test_each_batch_of_spark_is_noted_once() -> None:
    class Job:
        asked = 0

        def newest(self) -> dict[str, object]:
            self.asked += 1
            operator = {"numRowsTotal": 6, "memoryUsedBytes": 1_000}
            source = {"endOffset": '{"raw-trades":{"0":7,"1":9}}', "latestOffset": '{"raw-trades":{"0":10,"1":9}}'}
            return {"batchId": 4, "durationMs": {"triggerExecution": 250}, "numInputRows": 16,
                    "stateOperators": [operator], "sources": [source]}  # fmt: skip

    def seen(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"tapewatch_{name}", labels) or 0.0

    before, job, watch = seen("spark_batch_seconds_count"), Job(), BatchWatch(is_read=True)
    for _ in range(3):
        watch.note(job)
    assert seen("spark_batch_seconds_count") == before + 1
    assert (seen("spark_batch_records"), seen("spark_state_rows"), seen("spark_state_bytes")) == (16, 6, 1_000)
    assert (seen("kafka_lag_records", lane="0"), seen("kafka_lag_records", lane="1")) == (3, 0)
    BatchWatch(is_read=False).note(job)
    assert job.asked == 3


@pytest.mark.parametrize("nothing", ["null", None, '{"raw-trades":null}', "{}"])
def test_a_batch_of_which_spark_knows_no_newest_offset_ends_nothing(nothing: str | None) -> None:
    """So it says while it has not heard from a broker that came back."""

    class Job:
        def newest(self) -> dict[str, object]:
            source = {"endOffset": '{"raw-trades":{"nobodys":7}}', "latestOffset": nothing}
            return {"batchId": 1, "durationMs": {}, "numInputRows": 21, "stateOperators": [], "sources": [source]}

    BatchWatch(is_read=True).note(Job())
    assert REGISTRY.get_sample_value("tapewatch_spark_batch_records") == 21
    assert REGISTRY.get_sample_value("tapewatch_kafka_lag_records", {"lane": "nobodys"}) is None
