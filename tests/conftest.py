"""Fixtures that every test may use: real servers (`postgres`, `timescale`, `kafka`)."""

import gc
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from trials import TIMES, examples

pytest_plugins = ["postgres", "timescale", "kafka_broker", "trading_days"]

# A slow or busy machine is no defect: neither the first example's imports nor a slow one fail a test. The examples are
# the same in every run, so that two runs say the same; who asks for more of them gets others each time.
settings.register_profile(
    "any machine",
    max_examples=examples(25),
    deadline=None,
    derandomize=TIMES == 1,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")

LONG = (
    "test_scripts.py",
    "test_spark.py",
    "test_spark_commit.py",
    "test_feed_chaos.py",
    "test_feed_chaos_backfill.py",
    "test_parity.py",
    "test_notify_proof.py",
    "test_pipeline.py",
    "test_distributed.py",
    "test_kill.py",
    "test_outage.py",
    "test_log_damage.py",
    "test_replay_parity.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported for the tests stays: to look through it for garbage again and again took a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: each belongs to one of two workers, and none shall be left to one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
