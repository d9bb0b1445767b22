"""`tapewatch spark` with a real Kafka, a real Spark and a real PostgreSQL, killed at every place and misused.

After each ordeal every row of the database has to be what the engine, and what the plain oracle, make of the very
messages that the topic holds. (Killed between two commits: `test_spark_commit.py`.) TAPEWATCH_KILLS kills every part
more often, TAPEWATCH_SEED at other moments.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from random import Random

import httpx
import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from pipeline_runs import ANSWER_S, until
from spark_runs import TOPIC, WITHIN_S, Cluster, messages
from tapewatch.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = int(os.environ.get("TAPEWATCH_KILLS", "1"))
SEED = int(os.environ.get("TAPEWATCH_SEED", "0")) or Random().randrange(1, 2**31)
KINDS = ("driver", "worker", "broker", "database", "producer")
NOISE = re.compile(
    r"Traceback \(most recent call last\):\n(?:  File \"[^\"]*pyspark/daemon\.py\".*\n(?:    .*\n)*)+"
    r"(?:BrokenPipeError|ConnectionResetError): .*\n"
)
"""What Spark's own Python daemon says where Java gave a task up just then, after a kill of anything."""


def check(cluster: Cluster) -> None:
    """All rows are those of the engine and of the oracle, each once."""
    assert cluster.rows().sha256() == cluster.expected().sha256()
    verdict = cluster.verdict()
    assert verdict.lost + verdict.doubled + verdict.wrong == {}, verdict
    alerts, notes = cluster.check_unique()
    print(
        dict(verdict.rows), f"records {verdict.records}, alerts {alerts}, outbox {notes}, repeated {verdict.repeated}"
    )
    assert alerts > 0


def moment(random: Random) -> None:
    """A random moment: at any place of a batch."""
    threading.Event().wait(random.uniform(0.0, 1.5))


def strike(cluster: Cluster, kind: str, random: Random) -> None:
    """kill -9 of that part; what does not come again by itself is started again."""
    if kind == "driver":
        cluster.kill_driver()
        cluster.wait_gone_but_producer()
        cluster.start()
    elif kind == "worker":
        cluster.kill_worker(random.randrange(8))
    elif kind == "broker":
        cluster.restart_broker()
    elif kind == "database":
        cluster.restart_database()
    else:
        cluster.kill_producer()
        cluster.resume_producer()


def check_metrics(cluster: Cluster, port: int) -> None:
    """What Prometheus gets of the job, of all its processes together."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_S, trust_env=False).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {sample.name: sample.value for sample in samples}
    assert found["tapewatch_store_commit_seconds_count"] > 0, text
    assert found["tapewatch_spark_batch_seconds_count"] > 0, text
    assert found["tapewatch_spark_state_rows"] == cluster.partitions, "the engine's state of each lane"
    assert found["tapewatch_store_up"] == 1
    lags = {sample.labels["lane"]: sample.value for sample in samples if sample.name == "tapewatch_kafka_lag_records"}
    assert set(lags) <= {str(lane) for lane in range(cluster.partitions)}


def test_every_part_is_killed_under_load_and_no_row_differs(tmp_path: Path) -> None:
    print(f"TAPEWATCH_SEED={SEED}")
    random = Random(SEED)
    port = free_port()
    with Cluster(tmp_path, METRICS_PORT=str(port)) as cluster:
        seconds = 4_000 + 25_000 * KILLS
        cluster.produce(SEED, seconds=seconds, piece=60, pause_s=0.2)
        cluster.start()
        cluster.wait_messages(1)
        kinds = [kind for kind in KINDS for _ in range(KILLS)]
        random.shuffle(kinds)
        for kind in kinds:
            assert cluster.producer is not None
            assert cluster.producer.poll() is None, "nothing is produced any more: that is no load"
            moment(random)
            started = time.monotonic()
            strike(cluster, kind, random)
            cluster.wait_messages(1)
            print(f"{kind}: computed again after {time.monotonic() - started:.1f} s")
        cluster.kill_producer()
        cluster.wait_caught_up()
        check(cluster)
        check_metrics(cluster, port)
        cluster.stop()
        said = NOISE.sub("", cluster.words())
        assert "Traceback" not in said, said[-3_000:]
        assert "\tat " not in said, said[-3_000:]


def lose(cluster: Cluster, lane: int) -> None:
    """Kafka's retention takes all that the lane has."""
    admin = AdminClient({"bootstrap.servers": cluster.place.servers})
    end = cluster.extents()[lane][1]
    for future in admin.delete_records([TopicPartition(TOPIC, lane, end)]).values():
        future.result()


def trade(symbol: str, price: float, time_ms: int) -> bytes:
    return b'{"symbol":"%s","price":%g,"volume":100,"timestamp":%d}' % (symbol.encode(), price, time_ms)


def type_by_hand(cluster: Cluster, lane: int, now_ms: int) -> None:
    """Coins as they happen beside stocks of fifteen minutes ago, in one lane."""
    values = []
    for second in range(120):
        values.append(trade("BTC", 90_000 + second, now_ms + 1_000 * second))
        values.append(trade("AAPL", 190 + second / 100, now_ms + 1_000 * second - 15 * 60_000))
    cluster.publish(*values, lane=lane)


def rejected(cluster: Cluster) -> list[dict[str, bytes | None]]:
    found = messages(cluster.place.servers, cluster.place.rejected, 0, 0, 1)
    return [dict(message.headers()) | {"value": message.value()} for message in found]


def rows_of(cluster: Cluster, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(cluster.conninfo) as connection:
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]


def test_a_topic_written_by_hand_that_loses_messages_and_gets_other_settings(tmp_path: Path) -> None:
    now_ms = int(time.time()) * 1_000 - 600_000
    with Cluster(tmp_path) as cluster:
        type_by_hand(cluster, 1, now_ms)
        cluster.publish(b'{"symbol":"AAPL"}', lane=1)
        done = cluster.run("--once")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "The Spark job is running.\n"
        assert rows_of(cluster, "SELECT symbol, trades, late, future FROM latest_prices ORDER BY symbol") == [
            ("AAPL", 120, 0, 0), ("BTC", 120, 0, 0),
        ]  # fmt: skip
        assert rows_of(cluster, "SELECT DISTINCT symbol FROM stock_aggregates ORDER BY 1") == [("AAPL",), ("BTC",)]
        (one,) = rejected(cluster)
        assert one["reason"] == b"price=None: expected a number above 0"
        assert (one["partition"], one["offset"], one["value"]) == (b"1", b"240", b'{"symbol":"AAPL"}')

        # lost while the job was down: with its checkpoint, and without
        type_by_hand(cluster, 1, now_ms + 200_000)
        lose(cluster, 1)
        type_by_hand(cluster, 1, now_ms + 400_000)
        done = cluster.run("--once")
        assert done.returncode == 4, done.stderr[-3_000:]
        assert "To record them as a gap and go on: tapewatch spark --accept-loss" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr[-3_000:]
        cluster.settings["CHECKPOINT_DIR"] = str(tmp_path / "another")
        done = cluster.run("--once")
        assert done.returncode == 4
        assert done.stderr == (
            "tapewatch: Lane 1: the messages from offset 241 to 481 are no longer kept by Kafka, and were never "
            "computed. To record them as a gap and go on: tapewatch spark --accept-loss\n"
        )
        done = cluster.run("--accept-loss", "--once")
        assert (done.returncode, done.stderr) == (0, "")
        gaps = rows_of(cluster, "SELECT market, cause FROM feed_gaps ORDER BY market")
        assert gaps == [("crypto", "lost in Kafka"), ("stocks", "lost in Kafka")]
        assert cluster.positions() == {1: 721}

        # other settings
        other = {"WINDOW_DURATION": "10m"}
        done = cluster.run("--once", **other)
        assert done.returncode == 4
        assert done.stderr == (
            f"tapewatch: The checkpoint in {tmp_path / 'another'} was made with other window or delay "
            "settings, or by another version of Tapewatch: "
            "put the settings back, or compute every row anew from Kafka: tapewatch spark --rebuild\n"
        )
        cluster.settings |= other
        done = cluster.run("--rebuild", "--once")
        assert (done.returncode, done.stderr) == (0, "")
        assert cluster.rows().sha256() == cluster.expected().sha256()

        # the packaged job, which goes on from the database alone
        type_by_hand(cluster, 1, now_ms + 520_000)
        done = cluster.submit("--forget-checkpoint", "--once")
        assert done.returncode == 0, done.stderr[-3_000:]
        assert cluster.positions() == {1: 961}
        assert cluster.rows().sha256() == cluster.expected().sha256()
        until(lambda: not cluster.left(), "nothing is left", WITHIN_S)
