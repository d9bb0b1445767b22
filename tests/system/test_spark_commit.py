"""`tapewatch spark` killed between the database's commit and Spark's own: the batch comes again, and changes nothing.

A file of its own, so that another worker can take it while `test_spark.py` runs.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from test_spark import check

from chaos_log import chaos, ruled
from spark_runs import WITHIN_S, Cluster
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter
from tapewatch.records import Origin, Tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLED_SINK = str(Path(__file__).parents[1] / "killed_sink.py")


def publish_chaos(cluster: Cluster, seed: int, seconds: int) -> None:
    tables = Tables()
    batch = ruled(chaos(seed, tables, seconds=seconds))
    codec = Codec(wire_symbol, market_of)
    with KafkaLogWriter.open(cluster.place, tables, origin=Origin.REPLAYED, codec=codec) as writer:
        for start in range(0, len(batch), 2_000):
            writer.append(batch.slice(start, min(start + 2_000, len(batch))))


@pytest.mark.parametrize(("mode", "kills"), [("sound", (4,)), ("broken", (4,))])
def test_killed_between_the_database_and_sparks_own_commit(tmp_path: Path, mode: str, kills: tuple[int, ...]) -> None:
    """The batch comes again, the first one too. A sink that appends is the canary: the same check finds its doubles."""
    with Cluster(tmp_path, SPARK_BATCH_RECORDS_MAX="1500") as cluster:
        publish_chaos(cluster, 7, 900)
        for after in kills:
            cluster.spawn("--once", program=(KILLED_SINK, mode, str(after)))
            assert cluster.process is not None
            assert cluster.process.wait(WITHIN_S) == -signal.SIGKILL, cluster.words()[-3_000:]
            cluster.wait_gone()
            assert sum(cluster.positions().values()) > 0
        cluster.spawn("--once", program=(KILLED_SINK, mode, "0"))
        assert cluster.process is not None
        assert cluster.process.wait(WITHIN_S) == 0, cluster.words()[-3_000:]
        if mode == "sound":
            check(cluster)
        else:
            verdict = cluster.verdict()
            assert verdict.wrong["minute_quality"] > 0, verdict
