"""The distributed log: the Kafka topic `raw-trades`, written by one feed, read by Spark. See docs/deployment.md.

    trade            ──► the lane (partition) of its symbol: the same partitioner as the Java clients'
    tick, gap        ──► every lane

What `KafkaLogWriter.append` promises: when it returns, the brokers have acknowledged every one of its records
(``acks=all``), each once (idempotent producer), and in each lane in the order of the batch. A broker that is away, or a
queue that is full, is waited for: nothing is dropped, and so the feed, and through TCP the sender, waits too.
What it does not promise: that a batch is whole. A crash may leave parts of the last one in some lanes;
`KafkaLogWriter.known_ms` says up to where all lanes are whole. What one broker acknowledges survives `kill -9`, but not
a power cut: for that it takes three brokers, and `min.insync.replicas=2`.

A client that has lost all brokers for good (`clients.py`) is replaced. What it has written of the batch is looked up in
the lanes before the rest is written, so that promise holds. For that, nobody else may write the same messages.

The connection is plain: neither encrypted nor with a password.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tapewatch import metrics
from tapewatch.errors import LogError, LogUnavailable
from tapewatch.log.clients import BrokersKnown, KafkaPlace, away, common, new_producer
from tapewatch.log.lanes import LanesReader
from tapewatch.log.messages import encode_messages
from tapewatch.records import Batch, Market, Origin, Tables

__all__ = ["Codec", "KafkaLogWriter", "KafkaPlace", "TopicInfo", "ensure_topic", "open_lanes"]

_log = structlog.get_logger(__name__)
_POLL_S: Final = 0.05
_ASK_S: Final = 2.0
"""One question to the brokers; asked again until the deadline."""
_AGAIN: Final = {
    *(KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE),
    *(KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.REQUEST_TIMED_OUT),
    *(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_CONTROLLER),
    KafkaError.BROKER_NOT_AVAILABLE,
}
"""Errors that pass: a broker that starts, or a topic that not all of them know yet."""


_Sent = tuple[str | None, bytes, int]
"""Key, value and lane of a message. The lane of one with a key is its key's, and is -1 here."""


class TopicInfo(NamedTuple):
    """What the brokers say of the topic. ``log_id`` is another one when it was deleted and made anew."""

    log_id: str
    partitions: int


class Codec(NamedTuple):
    """What the messages need to know of symbols: what the exchange calls one, and where it trades."""

    wire_symbol: Callable[[str], str]
    market_of: Callable[[str], Market]


def ensure_topic(place: KafkaPlace) -> TopicInfo:
    """Make both topics if they are missing, and say what `raw-trades` is. Brokers that are starting are waited for.

    Raises:
        LogUnavailable: they do not answer within `KAFKA_DEADLINE`.
        LogError: the topic has another number of partitions, or cannot be made.
    """
    admin = AdminClient(common(place))
    deadline = time.monotonic() + place.deadline_ms / 1_000
    while True:
        try:
            return _ensured(admin, place)
        except KafkaException as error:
            failure = error.args[0]
            if failure.code() not in _AGAIN:
                raise LogError(f"Kafka at {place.servers}: topic {place.topic}: {failure.str()}") from error
            if time.monotonic() > deadline:
                raise LogUnavailable(away(place, failure.str())) from error
            threading.Event().wait(_POLL_S)


def _ensured(admin: AdminClient, place: KafkaPlace) -> TopicInfo:
    known = admin.list_topics(timeout=_ASK_S).topics
    wanted = []
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(place.retention_ms)}
    for topic, partitions in ((place.topic, place.partitions), (place.rejected, 1)):
        if topic not in known:
            wanted.append(NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=config))
    for future in (admin.create_topics(wanted, request_timeout=_ASK_S) if wanted else {}).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # made by another process just now
                raise
    asked = admin.describe_topics(TopicCollection([place.topic]), request_timeout=_ASK_S)
    found = asked[place.topic].result()
    if len(found.partitions) != place.partitions:
        raise LogError(
            f"Kafka at {place.servers}: topic {place.topic} has {len(found.partitions)} partitions, and "
            f"KAFKA_PARTITIONS is {place.partitions}: set that to {len(found.partitions)}, or choose another "
            "KAFKA_TOPIC_RAW_TRADES. A topic's symbols cannot be spread anew without losing their order."
        )
    return TopicInfo(str(found.topic_id), len(found.partitions))


def open_lanes(place: KafkaPlace, market_of: Callable[[str], Market]) -> LanesReader:
    """A reader of the topic, which has to be there. Close it."""
    return LanesReader(common(place), place.topic, place.partitions, place.deadline_ms, market_of)


class KafkaLogWriter:
    """The one writer of the topic. For one thread at a time, but for `stop_waiting` and `is_waiting`."""

    def __init__(self, place: KafkaPlace, info: TopicInfo, tables: Tables, origin: Origin, codec: Codec) -> None:
        self._place = place
        self._tables = tables
        self._codec = codec
        self._stop = threading.Event()
        self._broken: str | None = None
        self._sent = self._done = 0
        self._failure: KafkaError | None = None
        self._next: dict[int, int] = {}
        self._lanes = open_lanes(place, codec.market_of)
        self._begin()
        self.log_id = info.log_id
        """Identity of the topic, made with it."""
        self.origin = origin
        """Where the data comes from."""
        self.is_waiting = False
        """The brokers have acknowledged nothing for longer than `KAFKA_DEADLINE`, and `append` waits for them."""

    @classmethod
    def open(cls, place: KafkaPlace, tables: Tables, *, origin: Origin, codec: Codec) -> Self:
        """Make the topic if it is missing, and be ready to write it. Raises as `ensure_topic` does."""
        return cls(place, ensure_topic(place), tables, origin, codec)

    def append(self, batch: Batch) -> Batch:
        """Write all records of ``batch``; acknowledged when it returns. Gives them back, ``logged_ns`` the clock then.

        Raises:
            LogUnavailable: `stop_waiting` was called while the brokers were away. Parts of the batch may be in the
                log; this writer takes no more.
            LogError: they refused a record, or the producer has failed for good. The same holds.
        """
        if self._broken is not None:
            raise LogError(f"{self._where}: takes no more until the process is started again: {self._broken}")
        with metrics.timed(metrics.LOG_APPEND_SECONDS, "append"):
            begin = dict(self._next)
            written = Counter[_Sent]()
            while not self._send(batch, written):
                written = self._begin_anew(begin)
        if self.is_waiting:
            _log.warning("Kafka answers again", servers=self._place.servers)
        self._set_waiting(False)
        metrics.KAFKA_QUEUE.set(0)
        metrics.LOG_RECORDS.inc(len(batch))
        return replace(batch, offset=-1, logged_ns=time.time_ns())

    def stop_waiting(self) -> None:
        """From another thread: an `append` that waits gives up, now and later."""
        self._stop.set()

    def size_bytes(self) -> int:
        """Nothing: the log is on the brokers."""
        return 0

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        """Nothing to drop: the brokers do, what is older than the topic's ``retention.ms``.

        What the producer has said while there was nothing to append is heard now; until then it is kept.
        """
        self._producer.poll(0)
        return 0

    def ends(self) -> dict[int, int]:
        """The next offset of each lane. Raises LogUnavailable."""
        return self._lanes.ends()

    def recent(self, since_ms: int) -> Iterator[Batch]:
        """All records that were appended since then (Unix ms), of all lanes, in the order of their append times.

        In each lane the order is the lane's, but a gap comes after the ticks of the same millisecond. Messages that
        cannot be read are left out. Raises LogUnavailable, and LogError if the topic holds data of another origin.
        """
        return self._lanes.recent(since_ms, self._tables, self.origin)

    def known_ms(self) -> dict[Market, int]:
        """After `recent`: the event time of each market up to which every lane has all that was appended.

        That is the least, over the lanes, of the lane's last tick; where a lane has none, the earliest record.
        """
        return self._lanes.known_ms()

    def close(self) -> None:
        """Give up what was not acknowledged, and disconnect."""
        self._broken = self._broken or "it was closed"
        self._producer.purge()
        self._producer.flush(_ASK_S)
        self._lanes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _where(self) -> str:
        return f"Kafka at {self._place.servers}, topic {self._place.topic}"

    def _begin(self) -> None:
        self._known = BrokersKnown()
        self._producer = new_producer(self._place, self._heard, self._known)

    def _send(self, batch: Batch, written: Counter[_Sent]) -> bool:
        """Write the records but those in ``written``, each as often as it is there; False if all brokers were lost."""
        self._sent = self._done = 0
        self._failure = None
        self._last_s, self._last_done = time.monotonic(), 0
        try:
            self._expect_brokers()
            for message in self._messages(batch):
                if written and written[message]:
                    written[message] -= 1
                else:
                    self._put(*message)
            while self._done < self._sent:
                self._wait()
        except _BrokersLost:
            return False
        self._expect_no_failure()
        return True

    def _messages(self, batch: Batch) -> Iterator[_Sent]:
        for key, value in encode_messages(batch, self._tables, self.origin, self._codec.wire_symbol):
            if key is None:
                for lane in range(self._place.partitions):
                    yield None, value, lane
            else:
                yield key, value, -1

    def _begin_anew(self, begin: dict[int, int]) -> Counter[_Sent]:
        """Replace the producer, which has lost all brokers; what it has written from these offsets on."""
        _log.warning("Kafka's client has lost all brokers and is replaced", servers=self._place.servers)
        self._producer.purge()
        self._begin()
        while True:
            try:
                return Counter(map(_sent, self._lanes.since(begin)))
            except LogUnavailable as error:
                self._give_up_if_told()
                if not self.is_waiting:
                    self._set_waiting(True)
                    _log.error("recording paused", why=str(error))

    def _put(self, key: str | None, value: bytes, lane: int) -> None:
        while True:
            try:
                self._producer.produce(self._place.topic, value, key, lane, on_delivery=self._delivered)
            except BufferError:  # back-pressure: the queue is full
                metrics.KAFKA_QUEUE_FULL.inc()
                self._wait()
            except KafkaException as error:
                self._failure = error.args[0]
                self._expect_no_failure()
            else:
                self._sent += 1
                return

    def _wait(self) -> None:
        """Wait a little for acknowledgements; notice when there are none for long."""
        self._producer.poll(_POLL_S)
        self._expect_no_failure()
        self._expect_brokers()
        metrics.KAFKA_QUEUE.set(len(self._producer))
        now_s = time.monotonic()
        if self._done != self._last_done:
            self._last_s, self._last_done = now_s, self._done
        elif now_s - self._last_s > self._place.deadline_ms / 1_000 and not self.is_waiting:
            self._set_waiting(True)
            _log.error("recording paused", why=away(self._place, f"nothing acknowledged, {len(self._producer)} wait"))
        if self._done < self._sent:
            self._give_up_if_told()

    def _give_up_if_told(self) -> None:
        if self._stop.is_set():
            self._broken = "it was told to wait no longer"
            raise LogUnavailable(
                f"{self._where}: {self._sent - self._done} records were not acknowledged; they may be in the log or not"
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._done += 1
        if error is None:
            lane, offset = message.partition(), message.offset()
            assert lane is not None
            assert offset is not None
            self._next[lane] = offset + 1
            metrics.KAFKA_DELIVERED.inc()
        else:
            metrics.KAFKA_FAILED.labels(error.name()).inc()
            self._failure = self._failure or error

    def _heard(self, error: KafkaError) -> None:
        """What the producer says beside the reports: brokers that are away, which it tries again, and its own end."""
        if error.fatal():
            self._failure = error

    def _expect_no_failure(self) -> None:
        if self._failure is not None:
            self._broken = self._failure.str()
            raise LogError(f"{self._where}: a record was refused: {self._broken}; what came before it is safe")

    def _expect_brokers(self) -> None:
        if self._known.are_lost:
            raise _BrokersLost

    def _set_waiting(self, is_waiting: bool) -> None:
        self.is_waiting = is_waiting
        metrics.KAFKA_WAITING.set(is_waiting)


class _BrokersLost(Exception):
    """The producer will never connect again."""


def _sent(message: Message) -> _Sent:
    key, value, lane = message.key(), message.value() or b"", message.partition()
    assert lane is not None
    return (None, value, lane) if key is None else (key.decode(errors="replace"), value, -1)
