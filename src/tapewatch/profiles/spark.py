"""The distributed engine: Kafka through Spark Structured Streaming into the database.

    Kafka ─► rows grouped by lane ─► LaneProcessor: one `Lane` each ─┬─► `Sink`: one transaction a lane and batch
                                                                     └─► its state, in Spark's state store

Spark gives parallelism, state that survives and moves between machines, and batches that come again after a crash. What
the numbers are is the engine's affair alone: Spark's own watermark, windows and order of rows are not used, so a market
that is 15 minutes behind is never late because of another, and both profiles write the same rows.

A commit is written where it was computed, by the worker that has it: a second worker for it, and a query of
`foreachBatch` to plan, doubled the time of a small batch. So Spark's own sink gets nothing. A batch is given at least
once, and its state is kept after its rows are; a commit that the database holds already is skipped. So every row is
there once.

Each lane has a key that Spark's hash sends to a task of its own (`lane_keys`).

State is one value a lane: the engine's snapshot. A Python worker keeps the lanes it had, and reads a state only when
the lane was computed elsewhere meanwhile: its batch does not begin where this worker's lane ends.

What a worker needs goes to it with every task of every batch, so it goes in few bytes.
"""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle
from pyspark.sql.types import BinaryType, StructField, StructType

from tapewatch.log.kafka import KafkaPlace
from tapewatch.log.rejected import RejectedWriter
from tapewatch.logs import start_logging
from tapewatch.profiles import spark_days
from tapewatch.profiles.commit import Commit
from tapewatch.profiles.lane import Lane, LaneState, Start
from tapewatch.profiles.lane_keys import lane_keys
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.sink import Sink
from tapewatch.store.writer import StoreWriter

__all__ = ["Job", "LanePlan", "LaneProcessor"]

STATE_SCHEMA: Final = StructType([StructField("state", BinaryType())])
"""Not as text, which Java would be asked to parse in every batch."""
NO_ROWS: Final = "lane INT"
"""What Spark's own sink gets none of."""
_ENCODE: Final = msgspec.msgpack.Encoder().encode
_STATE: Final = msgspec.msgpack.Decoder(LaneState)


@dataclass(frozen=True, slots=True)
class LanePlan:
    """All that a worker needs to compute a lane or to write its commits; travels with the query."""

    parts: Parts
    channels: tuple[str, ...]
    place: KafkaPlace
    log_id: str
    conninfo: str
    accepts_loss: bool = False
    confirmed_only: frozenset[str] = frozenset()
    query: str = ""
    """Whose lanes a worker keeps: of no other query, whose checkpoint may be another."""

    def __reduce__(self) -> tuple[Callable[..., LanePlan], tuple[Any, ...]]:
        """In few bytes: Spark serialises, hashes and sends it anew for every batch."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["parts"] = replace(self.parts, calendar={})
        return _plan_of, (spark_days.packed(self.parts.calendar), *values.values())


def _plan_of(days: bytes, parts: Parts, *others: Any) -> LanePlan:
    return LanePlan(replace(parts, calendar=spark_days.unpacked(days)), *others)


_lanes: dict[tuple[str, str], Lane] = {}
"""Of this worker, by query and lane: what it computed last. Used again only if the next batch begins where it ends."""
_sinks: dict[tuple[str, str], Sink] = {}


class LaneProcessor(StatefulProcessor):
    """Steps the lane of a Kafka partition through its messages of a batch, in the order of their offsets."""

    def __init__(self, plan: LanePlan) -> None:
        self._plan = plan

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Called by Spark in the worker, before the first batch it is given there."""
        start_logging(self._plan.parts.settings)
        self._state = handle.getValueState("lane", STATE_SCHEMA)

    def handleInputRows(self, key: Any, rows: Iterator[pd.DataFrame], timerValues: Any) -> Iterator[pd.DataFrame]:
        """Compute and write what is new, and keep the state. Spark's own sink gets no rows."""
        frames = list(rows)
        name = str(frames[0]["partition"].iloc[0])
        assert all((frame["partition"] == frames[0]["partition"].iloc[0]).all() for frame in frames), f"key {key[0]}"
        offsets = np.concatenate([frame["offset"].to_numpy(np.int64) for frame in frames])
        times = np.concatenate([frame["appended_ms"].to_numpy(np.int64) for frame in frames])
        values = [value for frame in frames for value in frame["value"].tolist()]
        lane = self._lane(name, int(offsets.min()))
        taken = lane.take(offsets, times, values)
        self._state.update((_ENCODE(taken.state),))
        if taken.commit is not None:
            self.write(taken.commit)
        _lanes[self._plan.query, name] = lane
        _settle()
        yield from ()

    def write(self, commit: Commit) -> None:
        """Into the database, from here: one transaction, and none if it was there already."""
        _sink(self._plan).write(commit)

    def close(self) -> None:
        """Nothing is held that Spark would have to free."""

    def _lane(self, name: str, first: int) -> Lane:
        """The lane as it is before offset ``first``: this worker's, or as Spark's state or else the database says it.

        It is out of `_lanes` until its batch is done: one that failed on the way is not used again.
        """
        known = _lanes.pop((self._plan.query, name), None)
        if known is not None and known.position == first:
            return known
        for other in [key for key in _lanes if key[0] != self._plan.query]:
            del _lanes[other]  # of a query that is over
        lane = Lane(name, self._plan.parts, self._plan.channels, self._plan.confirmed_only)
        state = self._state.get()
        if state is None:
            lane.begin(_start(self._plan, name))
        else:
            lane.load(_STATE.decode(bytes(state[0])))
        return lane


@cache
def _settle() -> None:
    """Once in a worker, when all is loaded. Spark collects garbage after every task, and looked at it all: 90 ms."""
    gc.collect()
    gc.freeze()


def _start(plan: LanePlan, lane: str) -> Start:
    """Where a lane begins that Spark has no state of."""
    store = StoreWriter.connect(plan.conninfo, lane)
    try:
        owner = store.owner()
        if (found := store.peek(plan.log_id)) is None:
            return Start(accepts_loss=plan.accepts_loss)
        return Start(
            snapshot=found.snapshot, snapshot_position=found.snapshot_position, stored=found.position,
            origin=None if owner is None else owner[1], accepts_loss=plan.accepts_loss,
        )  # fmt: skip
    finally:
        store.close()


def _sink(plan: LanePlan) -> Sink:
    key = plan.conninfo, plan.log_id
    if key not in _sinks:
        for other in list(_sinks):
            _sinks.pop(other).close()  # of a query that is over
        _sinks[key] = Sink(plan.conninfo, plan.log_id, RejectedWriter(plan.place))
    return _sinks[key]


class Job:
    """The streaming query: `start`, then `wait` until it is told to stop or fails."""

    def __init__(
        self, session: SparkSession, plan: LanePlan, *, checkpoint: str, starting: dict[str, int],
        batch_records_max: int, interval_ms: int, once: bool = False,
    ) -> None:  # fmt: skip
        """``starting`` is the first offset of each partition for a query without a checkpoint (-2: the earliest).

        ``once``: end when all that is there now is computed.
        """
        self._session = session
        self._plan = replace(plan, query=uuid.uuid4().hex)
        self._checkpoint = checkpoint
        self._starting = starting
        self._batch_records_max = batch_records_max
        self._interval_ms = interval_ms
        self._once = once
        self._query: StreamingQuery | None = None

    def start(self) -> None:
        """Begin."""
        frame = (
            self._messages()
            .groupBy("key")
            .transformWithStateInPandas(LaneProcessor(self._plan), NO_ROWS, "Update", "None")
        )
        writer = frame.writeStream.format("noop").outputMode("update")
        writer = writer.option("checkpointLocation", self._checkpoint).queryName("tapewatch")
        trigger: dict[str, Any] = (
            {"availableNow": True} if self._once else {"processingTime": f"{self._interval_ms} milliseconds"}
        )
        self._query = writer.trigger(**trigger).start()

    def wait(self, seconds: float | None = None) -> bool:
        """Until the query ends, or so long; whether it has. Raises Spark's exception if it failed."""
        assert self._query is not None, "start() comes first"
        has_ended = self._query.awaitTermination(seconds)  # type: ignore[arg-type]  # it takes a float too
        return seconds is None or bool(has_ended)

    def progress(self) -> list[dict[str, Any]]:
        """What Spark says of the newest batches, oldest first: `numInputRows`, `durationMs`, …"""
        assert self._query is not None, "start() comes first"
        return [dict(batch) for batch in self._query.recentProgress]

    def newest(self) -> dict[str, Any] | None:
        """The same of the newest batch alone; None before the first."""
        found = self._query.lastProgress if self._query is not None else None
        return None if found is None else dict(found)

    def stop(self) -> None:
        """End the query; what it has not written comes again at the next start."""
        if self._query is not None:
            self._query.stop()

    def _messages(self) -> DataFrame:
        place = self._plan.place
        reader = self._session.readStream.format("kafka").option("kafka.bootstrap.servers", place.servers)
        reader = reader.option("subscribe", place.topic).option("failOnDataLoss", "true")
        reader = reader.option("startingOffsets", msgspec.json.encode({place.topic: self._starting}).decode())
        reader = reader.option("maxOffsetsPerTrigger", str(self._batch_records_max))
        keys = ", ".join(map(str, lane_keys(place.partitions)))
        key = f"element_at(array({keys}), partition + 1) AS key"
        return reader.load().selectExpr(key, "partition", "offset", "unix_millis(timestamp) AS appended_ms", "value")
