"""Reading the topic `raw-trades` back: what its lanes hold since some time, as one stream in the order of appending.

The feed reads so at its start, to know what it recorded before: repeats, gaps, and the moment up to which every lane
has all that it should have.

A lane that is far ahead of the others is paused, so memory stays bounded however unequal they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from tapewatch.errors import LogError, LogUnavailable
from tapewatch.log.messages import SOURCES, MessageDecoder, origin_of
from tapewatch.records import Batch, Kind, Market, Origin, Tables
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["LanesReader"]

_ASK_S: Final = 2.0
_WAIT_S: Final = 0.1
_AHEAD_MAX: Final = 2 * BATCH_RECORDS_MAX
"""Messages of one lane that wait for those of others; with more it is paused."""
_CONSUME_MAX: Final = 10_000

_Part = tuple[Batch, NDArray[np.int64]]
"""Records of one lane, and when each was appended (Unix ms), never falling."""


class LanesReader:
    """Reads all lanes of a topic. For one thread at a time."""

    def __init__(
        self,
        client: dict[str, Any],
        topic: str,
        lanes: int,
        deadline_ms: int,
        market_of: Callable[[str], Market],
    ) -> None:
        """``client`` is what the Kafka client is told of the connection."""
        self._topic = topic
        self._lanes = lanes
        self._deadline_s = deadline_ms / 1_000
        self._market_of = market_of
        self._servers = client["bootstrap.servers"]
        self._client = client
        self._consumer = self._new_consumer()
        self._last_tick_ms: dict[tuple[int, Market], int] = {}
        self._earliest_ms: dict[Market, int] = {}
        self._ends: dict[int, int] = {}

    def _new_consumer(self) -> Consumer:
        return Consumer(
            self._client
            | {
                "group.id": "tapewatch-recover",  # demanded, but no group is joined: lanes are assigned by hand
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "check.crcs": True,
                "queued.max.messages.kbytes": 65_536,
            }
        )

    def extents(self) -> dict[int, tuple[int, int]]:
        """The first offset kept and the next one of each lane. Raises LogUnavailable."""
        return {lane: self._ask(self._extent, lane) for lane in range(self._lanes)}

    def ends(self) -> dict[int, int]:
        """The next offset of each lane. Raises LogUnavailable."""
        return {lane: end for lane, (_, end) in self.extents().items()}

    def recent(self, since_ms: int, tables: Tables, origin: Origin) -> Iterator[Batch]:
        """See `KafkaLogWriter.recent`."""
        self._last_tick_ms, self._earliest_ms = {}, {}
        ends = self._ends = self.ends()
        begin = self._begin(since_ms, ends)
        run = _Run(self._consumer, self._topic, begin, ends, self._late)
        decoder = MessageDecoder(tables, self._market_of)
        try:
            parts = {lane: self._parts(run, lane, decoder, origin) for lane in begin}
            yield from _merged(parts)
        finally:
            self._consumer.unassign()

    def lane(
        self, lane: int, tables: Tables, stop: int | None = None, *, since_ms: int | None = None
    ) -> Iterator[Batch]:
        """The records of one lane in order, from its first one to that before ``stop`` (None: to its present end).

        With ``since_ms`` from the first one that was appended at that time (Unix ms) or later. Raises LogUnavailable.
        """
        first, end = self._ask(self._extent, lane)
        stop = end if stop is None else stop
        if since_ms is not None:
            begin = self._begin(max(since_ms, 0), {lane: stop})
        else:
            begin = {lane: first} if first < stop else {}
        run = _Run(self._consumer, self._topic, begin, {lane: stop}, self._late)
        try:
            for batch, _ in self._parts(run, lane, MessageDecoder(tables, self._market_of), None) if begin else ():
                yield batch
        finally:
            self._consumer.unassign()

    def since(self, offsets: dict[int, int]) -> Iterator[Message]:
        """All messages as they are, lane by lane, from these offsets to the present ends. Raises LogUnavailable.

        A lane without an offset is read from where `recent` has ended; else from its first message.
        """
        extents = self.extents()
        begin = {lane: max(first, offsets.get(lane, self._ends.get(lane, 0))) for lane, (first, _) in extents.items()}
        begin = {lane: offset for lane, offset in begin.items() if offset < extents[lane][1]}
        run = _Run(self._consumer, self._topic, begin, {lane: end for lane, (_, end) in extents.items()}, self._late)
        try:
            for lane in begin:
                while messages := run.take(lane, self._deadline_s):
                    yield from messages
        finally:
            self._consumer.unassign()

    def known_ms(self) -> dict[Market, int]:
        """See `KafkaLogWriter.known_ms`."""
        known = {}
        for market, earliest_ms in self._earliest_ms.items():
            ticks = [self._last_tick_ms.get((lane, market)) for lane in range(self._lanes)]
            known[market] = min(earliest_ms if tick is None else tick for tick in ticks)
        return known

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _begin(self, since_ms: int, ends: dict[int, int]) -> dict[int, int]:
        """The first offset appended at ``since_ms`` or later, of each of these lanes that has one before its end."""
        asked = [TopicPartition(self._topic, lane, since_ms) for lane in ends]
        found = self._ask(lambda: self._consumer.offsets_for_times(asked, timeout=_ASK_S))
        return {p.partition: p.offset for p in found if p.offset != OFFSET_END and p.offset < ends[p.partition]}

    def _extent(self, lane: int) -> tuple[int, int]:
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, lane), timeout=_ASK_S)
        if found is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return int(found[0]), int(found[1])

    def _ask(self, question: Callable[..., Any], *values: Any) -> Any:
        """The answer to a question; asked again until the deadline.

        A broker that refuses connections is told at once, and librdkafka keeps something of each question until one
        answers: so we wait before asking again.
        """
        started_s = time.monotonic()
        while True:
            try:
                return question(*values)
            except KafkaException as error:
                if time.monotonic() - started_s > self._deadline_s:
                    self._late(error.args[0].str())
            self._consumer.poll(_WAIT_S)  # no lane is assigned: this takes what librdkafka has to say

    def _late(self, why: str) -> None:
        """Not answered until the deadline. The next question is a new client's: this one may never connect again."""
        self._consumer.close()
        self._consumer = self._new_consumer()
        raise LogUnavailable(
            f"Kafka at {self._servers} has not answered for {self._deadline_s:g} s ({why}): start it "
            "(`tapewatch cluster up`), or correct KAFKA_BOOTSTRAP_SERVERS"
        )

    def _parts(self, run: _Run, lane: int, decoder: MessageDecoder, origin: Origin | None) -> Iterator[_Part]:
        reached_ms = 0
        while messages := run.take(lane, self._deadline_s):
            appended_ms = np.array([message.timestamp()[1] for message in messages], np.int64)
            decoded = decoder.decode([message.value() for message in messages], appended_ms.tolist())
            if origin is not None and decoded.source and origin_of(decoded.source) is not origin:
                raise LogError(
                    f"Kafka at {self._servers}: topic {self._topic} holds {origin_of(decoded.source)} data (source "
                    f"{decoded.source}), and this feed writes {origin} data (source {SOURCES[origin]}): choose another "
                    "KAFKA_TOPIC_RAW_TRADES, since the two are never mixed"
                )
            self._note(lane, decoded.batch)
            if len(decoded.batch):
                rows_ms = np.maximum.accumulate(np.maximum(appended_ms[decoded.rows], reached_ms))
                reached_ms = int(rows_ms[-1])
                yield decoded.batch, rows_ms

    def _note(self, lane: int, batch: Batch) -> None:
        for market in Market:
            mine = (batch.market == market) & (batch.kind != Kind.RULES)
            if not mine.any():
                continue
            earliest_ms = int(batch.time_ms[mine].min())
            self._earliest_ms[market] = min(earliest_ms, self._earliest_ms.get(market, earliest_ms))
            ticks_ms = batch.time_ms[mine & (batch.kind == Kind.TICK)]
            if len(ticks_ms):
                last_ms = self._last_tick_ms.get((lane, market), 0)
                self._last_tick_ms[lane, market] = max(int(ticks_ms.max()), last_ms)


class _Run:
    """One reading of some lanes, from where they begin to where they ended when it started."""

    def __init__(
        self, consumer: Consumer, topic: str, begin: dict[int, int], ends: dict[int, int], late: Callable[[str], None]
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._ends = ends
        self._late = late
        self._waiting: dict[int, list[Message]] = {lane: [] for lane in begin}
        self._unfinished = set(begin)
        self._paused: set[int] = set()
        if begin:
            consumer.assign([TopicPartition(topic, lane, offset) for lane, offset in begin.items()])

    def take(self, lane: int, deadline_s: float) -> list[Message]:
        """The next messages of the lane, in order; none at its end."""
        heard_s = time.monotonic()
        while not self._waiting[lane] and lane in self._unfinished:
            messages = self._consumer.consume(_CONSUME_MAX, _WAIT_S)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > deadline_s:
                self._late("nothing more could be read")
            for message in messages:
                self._sort(message)
            self._pause(
                {n for n in self._unfinished - self._paused if len(self._waiting[n]) > _AHEAD_MAX and n != lane}
            )
        taken, self._waiting[lane] = self._waiting[lane], []
        if lane in self._paused:
            self._paused.discard(lane)
            self._consumer.resume([TopicPartition(self._topic, lane)])
        return taken

    def _sort(self, message: Message) -> None:
        error, lane = message.error(), message.partition()
        assert lane is not None
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            self._unfinished.discard(lane)
        elif error is not None:
            if not error.retriable() and error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise LogError(f"Kafka: topic {self._topic}, partition {lane} cannot be read: {error.str()}")
        elif lane in self._unfinished:
            offset = message.offset()
            assert offset is not None
            if offset < self._ends[lane]:
                self._waiting[lane].append(message)
            if offset + 1 >= self._ends[lane]:
                self._unfinished.discard(lane)

    def _pause(self, lanes: set[int]) -> None:
        if lanes:
            self._paused |= lanes
            self._consumer.pause([TopicPartition(self._topic, lane) for lane in lanes])


def _merged(lanes: dict[int, Iterator[_Part]]) -> Iterator[Batch]:
    """The records of all lanes in the order of their append times; of those of one time, gaps last."""
    heads: dict[int, _Part] = {}
    for lane, parts in lanes.items():
        if (part := next(parts, None)) is not None:
            heads[lane] = part
    while heads:
        upto_ms = min(int(appended_ms[-1]) for _, appended_ms in heads.values())  # so far, all lanes are known
        taken: list[_Part] = []
        for lane, (batch, appended_ms) in list(heads.items()):
            count = int(np.searchsorted(appended_ms, upto_ms, side="right"))
            if count:
                taken.append((batch.slice(0, count), appended_ms[:count]))
            if count < len(batch):
                heads[lane] = (batch.slice(count, len(batch)), appended_ms[count:])
            elif (part := next(lanes[lane], None)) is not None:
                heads[lane] = part
            else:
                del heads[lane]
        joined = Batch.join([batch for batch, _ in taken])
        order = np.lexsort((joined.kind == Kind.GAP, np.concatenate([ms for _, ms in taken])))
        yield joined.take(order)
