"""What Spark says of the newest batch, as metrics: how long, how many messages, what is kept, what waits in Kafka."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from tapewatch import metrics

__all__ = ["BatchWatch"]


class Batches(Protocol):
    """What is asked of a `Job`."""

    def newest(self) -> dict[str, Any] | None:
        """Spark's progress of the newest batch."""


class BatchWatch:
    """Looks at each new batch once. It asks nothing while nobody reads the metrics: asking costs Java time."""

    def __init__(self, is_read: bool) -> None:
        self._is_read = is_read
        self._batch: int | None = None

    def note(self, job: Batches) -> None:
        """Look; a batch that was seen is not counted again."""
        if not self._is_read or (found := job.newest()) is None or found["batchId"] == self._batch:
            return
        self._batch = found["batchId"]
        metrics.SPARK_BATCH_SECONDS.observe(found["durationMs"].get("triggerExecution", 0) / 1_000)
        metrics.SPARK_BATCH_RECORDS.set(found["numInputRows"])
        for state in found["stateOperators"]:
            metrics.SPARK_STATE_ROWS.set(state["numRowsTotal"])
            metrics.SPARK_STATE_BYTES.set(state["memoryUsedBytes"])
        for source in found["sources"]:
            ends, latest = _offsets(source["endOffset"]), _offsets(source["latestOffset"])
            for lane, offset in latest.items():
                metrics.KAFKA_LAG.labels(lane).set(max(0, offset - ends.get(lane, 0)))


def _offsets(text: Any) -> dict[str, int]:
    """``{"raw-trades": {"0": 17}}``, as text or not, as lane -> offset; none of what is null (Kafka is away)."""
    found = msgspec.json.decode(text) if isinstance(text, str) else text
    return {lane: int(offset) for lanes in (found or {}).values() for lane, offset in (lanes or {}).items()}
