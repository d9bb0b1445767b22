"""The parity certificate: seeded logs full of everything, through Kafka and Spark, come to the embedded engine's rows.

The alert rules change on the way, some of them before all symbols have traded.

In CI one log; TAPEWATCH_PARITY_SEEDS=20 by hand. The shared real day is taken too, where it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from chaos_log import chaos, write_chaos
from spark_runs import JAVA
from tapewatch.feed.ticks import with_ticks
from tapewatch.log.local import LogWriter
from tapewatch.log.reader import LogReader
from tapewatch.oracle_alerts import AlertKey
from tapewatch.profiles import parity
from tapewatch.profiles.parity import Certificate, Run, certify, differences, embedded_rows, spark_rows
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import recorded
from tapewatch.profiles.verify import Expected
from tapewatch.profiles.workshop import Workshop, open_workshop
from tapewatch.records import Kind, Origin, Tables
from tapewatch.settings import Settings
from trading_days import give_days

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7_200)]

SEEDS = int(os.environ.get("TAPEWATCH_PARITY_SEEDS", "1"))
IS_QUICK = SEEDS <= 2
PARTITIONS = (1, 3, 8)
QUICK = [((1,), (20_000,)), ((3,), (700,)), ((8,), (2_000,))]
"""In CI each number of partitions with one size of batch; by hand each with each."""
SHARED_DAY = Path(__file__).parents[3] / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("parity")
    give_days(folder)
    return Settings(_env_file=None, data_dir=folder, spark_master="local[2]", spark_driver_memory="512m")


@pytest.fixture(scope="module")
def workshop(settings: Settings) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in JAVA.items():
            patch.setenv(name, value)
        with open_workshop(settings) as workshop:
            yield workshop


def certificate(
    log: Path, settings: Settings, workshop: Workshop, partitions: Sequence[int], batches: Sequence[int]
) -> Certificate:
    found = list(certify(log, Parts.load(settings), workshop, partitions, batches))
    for run in found:
        if isinstance(run, Run):
            print(run.sha256[:16], run.name, f"{run.seconds:.1f} s", *run.differences, sep="\n  ")
    last = found[-1]
    assert isinstance(last, Certificate)
    assert len(last.runs) == 1 + len(partitions) * len(batches)
    return last


def assert_as_oracle(log: Path, parts: Parts) -> None:
    """The alerts, by every rule that held on the way, are the plain oracle's too."""
    tables = Tables()
    expected = Expected(parts)
    with closing(LogReader.open(log, tables)) as reader:
        for batch in reader.batches(reader.first):
            expected.add(batch, tables)
    rows, _ = embedded_rows(log, parts, 1_000)
    found = {
        AlertKey(a.rule, a.symbol, a.pane_start_ms, a.direction): (a.triggered_ms, a.price, str(a.status))
        for a in rows.alerts
    }
    assert found == {key: (a.triggered, a.price, a.status) for key, a in expected.oracle.alerts.items()}
    assert len({alert.rule_version for alert in rows.alerts if alert.rule == "a"}) > 1


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_number_of_partitions_and_any_batches_come_to_the_same(
    tmp_path: Path, settings: Settings, workshop: Workshop, seed: int
) -> None:
    log = write_chaos(tmp_path / "log.db", seed, seconds=500 if IS_QUICK else 1_500)
    for partitions, batches in QUICK if IS_QUICK else [(PARTITIONS, (700, 5_000, 20_000))]:
        found = certificate(log, settings, workshop, partitions, batches)
        assert found.is_good, [run for run in found.runs if run.differences]
        assert min(found.windows, found.bars, found.alerts) > 0
    assert_as_oracle(log, Parts.load(settings))


def test_the_shared_day_comes_to_the_same(tmp_path: Path, settings: Settings, workshop: Workshop) -> None:
    if not SHARED_DAY.exists():
        pytest.skip(f"{SHARED_DAY} is not here")
    tables = Tables()
    with LogWriter.open(tmp_path / "log.db", tables, origin=Origin.REPLAYED) as writer:
        trades, _ = recorded([SHARED_DAY], tables)
        trades = with_ticks(trades.slice(0, 40_000 if IS_QUICK else len(trades)), None)
        for start in range(0, len(trades), 5_000):
            writer.append(trades.slice(start, min(start + 5_000, len(trades))))
    found = certificate(tmp_path / "log.db", settings, workshop, (3,), (20_000,))
    assert found.is_good, [run for run in found.runs if run.differences]


def test_canary_a_topic_whose_lanes_are_out_of_order_is_found(
    tmp_path: Path, settings: Settings, workshop: Workshop
) -> None:
    tables = Tables()
    batch = chaos(1, tables, seconds=300)
    is_apple = (batch.kind == Kind.TRADE) & (batch.symbol == tables.symbols.index("AAPL"))
    trades = np.flatnonzero(is_apple).tolist()
    order = list(range(len(batch)))
    for first, second in zip(trades[20:-20:2], trades[30:-10:2], strict=False):
        order[first], order[second] = order[second], order[first]
    swapped = batch.take(np.array(order))
    paths = []
    for name, rows in (("right", batch), ("wrong", swapped)):
        rows.offset = 0
        with LogWriter.open(tmp_path / f"{name}.db", tables, origin=Origin.REPLAYED) as writer:
            for start in range(0, len(rows), 777):
                writer.append(rows.slice(start, min(start + 777, len(rows))))
        paths.append(tmp_path / f"{name}.db")
    parts = Parts.load(settings)
    expected, _ = embedded_rows(paths[0], parts, 1_000)
    found = spark_rows(paths[1], parts, workshop, 3, 1_000)
    assert found.sha256() != expected.sha256()
    said = differences(expected, found)
    assert said
    assert len(said) <= parity.DIFFERENCES_MAX
    assert any('["AAPL"' in line and ", with Spark " in line for line in said), said
