"""profiles/spark.py: what a worker is sent, and when it goes on with a lane that it has; a fake state, no Java."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.serializers import CPickleSerializer

from chaos_log import chaos
from tapewatch.feed.symbols import wire_symbol
from tapewatch.log.kafka import KafkaPlace
from tapewatch.log.messages import encode_messages
from tapewatch.profiles import spark
from tapewatch.profiles.commit import Commit
from tapewatch.profiles.lane import Start
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.spark import LanePlan, LaneProcessor
from tapewatch.records import Origin, Tables
from tapewatch.rules.model import Rules
from tapewatch.sessions import COLUMNS, Calendar
from tapewatch.settings import Settings

SETTINGS = Settings(_env_file=None)


class State:
    """Spark's state of one lane, and its handle. ``reads`` says how often it was asked for."""

    def __init__(self) -> None:
        self.value: tuple[bytes] | None = None
        self.reads = 0

    def getValueState(self, name: str, schema: Any) -> State:
        assert name == "lane"
        return self

    def get(self) -> tuple[bytes] | None:
        self.reads += 1
        return self.value

    def update(self, value: tuple[bytes]) -> None:
        self.value = value


class Processor(LaneProcessor):
    """Writes nowhere."""

    def __init__(self, plan: LanePlan, *, is_broken: bool = False) -> None:
        super().__init__(plan)
        self.commits: list[Commit] = []
        self.is_broken = is_broken

    def write(self, commit: Commit) -> None:
        if self.is_broken:
            raise ConnectionError
        self.commits.append(commit)


@pytest.fixture
def plan(days: Calendar) -> LanePlan:
    parts = Parts(SETTINGS, Rules(), days)
    return LanePlan(parts, ("log",), KafkaPlace("kafka:9092", "raw-trades", 1), "log", "dbname=x", query="one")


@pytest.fixture(autouse=True)
def _as_a_new_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spark, "_lanes", {})
    monkeypatch.setattr(spark, "_start", lambda plan, lane: Start())
    spark._settle.cache_clear()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    tables = Tables()
    batch = chaos(3, tables, seconds=200)
    return [value for _, value in encode_messages(batch, tables, Origin.REPLAYED, wire_symbol)]


def take(processor: LaneProcessor, state: State, messages: list[bytes], start: int, stop: int) -> None:
    """One batch, in two pieces and not in order, as Spark may give it."""
    frame = pd.DataFrame(
        {
            "partition": np.zeros(stop - start, np.int32),
            "offset": np.arange(start, stop),
            "appended_ms": 1_769_100_000_000 + np.arange(start, stop),
            "value": messages[start:stop],
        }
    )
    middle = (stop - start) // 2
    rows: Iterator[pd.DataFrame] = iter([frame.iloc[middle:], frame.iloc[:middle]])
    processor.init(state)  # type: ignore[arg-type]
    assert list(processor.handleInputRows((0,), rows, None)) == []


def test_a_plan_comes_whole_in_few_bytes(plan: LanePlan) -> None:
    data = CPickleSerializer().dumps(plan)
    size = sum(getattr(days, name).nbytes for days in plan.parts.calendar.values() for name in COLUMNS)
    assert len(data) < size / 10
    found = CPickleSerializer().loads(data)
    assert CPickleSerializer().loads(data).parts.calendar is found.parts.calendar, "once in a worker"
    assert found.parts.calendar.keys() == plan.parts.calendar.keys()
    for market, days in plan.parts.calendar.items():
        for name in COLUMNS:
            assert np.array_equal(getattr(found.parts.calendar[market], name), getattr(days, name))
    assert (found.parts.settings, found.parts.rules) == (plan.parts.settings, plan.parts.rules)
    assert replace(found, parts=plan.parts) == plan


def test_a_worker_goes_on_with_the_lane_it_has(plan: LanePlan, messages: list[bytes]) -> None:
    state, processor = State(), Processor(plan)
    for start in range(0, 300, 100):
        take(processor, state, messages, start, start + 100)
    assert state.reads == 1
    assert [(commit.old, commit.new) for commit in processor.commits] == [(0, 100), (100, 200), (200, 300)]


def test_a_lane_that_another_worker_had_meanwhile_is_read_from_the_state(
    plan: LanePlan, messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, processor = State(), Processor(plan)
    take(processor, state, messages, 0, 100)
    mine = spark._lanes
    monkeypatch.setattr(spark, "_lanes", {})
    take(processor, state, messages, 100, 200)
    monkeypatch.setattr(spark, "_lanes", mine)
    take(processor, state, messages, 200, 300)
    assert state.reads == 3
    whole, other = Processor(plan), State()
    monkeypatch.setattr(spark, "_lanes", {})
    for start in range(0, 300, 100):
        take(whole, other, messages, start, start + 100)
    assert [commit.rows for commit in processor.commits] == [commit.rows for commit in whole.commits]


def test_a_batch_that_comes_again_begins_at_the_state_before_it(plan: LanePlan, messages: list[bytes]) -> None:
    state, processor = State(), Processor(plan)
    take(processor, state, messages, 0, 100)
    before = state.value
    take(processor, state, messages, 100, 200)
    state.value = before  # Spark has lost the second batch
    take(processor, state, messages, 100, 250)
    assert state.reads == 2
    assert [(commit.old, commit.new) for commit in processor.commits] == [(0, 100), (100, 200), (100, 250)]


def test_a_lane_whose_batch_failed_is_not_used_again(plan: LanePlan, messages: list[bytes]) -> None:
    state, processor = State(), Processor(plan)
    take(processor, state, messages, 0, 100)
    with pytest.raises(ConnectionError):
        take(Processor(plan, is_broken=True), state, messages, 100, 200)
    assert spark._lanes == {}


def test_a_lane_of_another_query_is_not_used(plan: LanePlan, messages: list[bytes]) -> None:
    state = State()
    take(Processor(plan), state, messages, 0, 100)
    other = replace(plan, query="two")
    take(Processor(other), state, messages, 100, 200)
    assert state.reads == 2
    assert list(spark._lanes) == [("two", "0")]


def test_what_a_worker_has_loaded_is_not_looked_through_after_every_task(plan: LanePlan, messages: list[bytes]) -> None:
    state, processor = State(), Processor(plan)
    take(processor, state, messages, 0, 100)
    frozen = gc.get_freeze_count()
    assert frozen > len(gc.get_objects())
    take(processor, state, messages, 100, 200)
    assert gc.get_freeze_count() <= frozen, "once"
