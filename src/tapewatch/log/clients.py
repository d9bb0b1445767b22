"""What every Kafka client of ours is told of its connection, and how one is noticed that will never connect again.

A broker that is stopped in order may answer, with its last words, that there is no broker. librdkafka then forgets the
one it knew, and may begin no new search: it waits for ever, also after the broker has come back (librdkafka issue
5301). Such a client names no broker in its statistics. It has no connection either, so nothing of it is on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import structlog
from confluent_kafka import KafkaError, Producer

from tapewatch.settings import KAFKA_QUEUE_KBYTES_MAX, KAFKA_QUEUE_MESSAGES_MAX, Settings

__all__ = ["BrokersKnown", "KafkaPlace", "away", "common", "new_producer"]

_log = structlog.get_logger(__name__)
_DAYS_30_MS: Final = 30 * 86_400_000
_LOOK_MS: Final = 2_000
"""How often a producer says what brokers it knows."""
LOST_LOOKS: Final = 2
"""It has lost them when it says so many times, one after the other, that it knows none."""


@dataclass(frozen=True, slots=True)
class KafkaPlace:
    """Where the log is, and what it should be like."""

    servers: str
    topic: str
    partitions: int
    retention_ms: int = _DAYS_30_MS
    deadline_ms: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say; `KAFKA_BOOTSTRAP_SERVERS` must be one of them."""
        assert settings.kafka_servers is not None
        return cls(
            settings.kafka_servers,
            settings.kafka_topic,
            settings.kafka_partitions,
            settings.log_retention_ms,
            settings.kafka_deadline_ms,
        )

    @property
    def rejected(self) -> str:
        """The topic of messages that could not be read."""
        return f"{self.topic}-rejected"


def away(place: KafkaPlace, why: str) -> str:
    """The sentence for brokers that do not answer."""
    return (
        f"Kafka at {place.servers} has not answered for {place.deadline_ms / 1_000:g} s ({why}): start it "
        "(`tapewatch cluster up`), or correct KAFKA_BOOTSTRAP_SERVERS"
    )


class _Says:
    """What librdkafka says of its connections, for those who debug: the sentences that matter are ours."""

    def log(self, level: int, text: str, *values: object) -> None:
        _log.debug("librdkafka", says=text % values)


def common(place: KafkaPlace) -> dict[str, Any]:
    """What every kind of client is told."""
    return {
        "bootstrap.servers": place.servers,
        "client.id": "tapewatch",
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "allow.auto.create.topics": False,
        "logger": _Says(),
    }


class _Broker(msgspec.Struct):
    source: str


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker]


class BrokersKnown:
    """Whether a producer knows any broker, reachable or not: `note` takes its statistics."""

    def __init__(self) -> None:
        self._none = 0

    @property
    def are_lost(self) -> bool:
        """It knows none any more, and will not look for one."""
        return self._none >= LOST_LOOKS

    def note(self, statistics: str) -> None:
        """What the producer has just said."""
        brokers = msgspec.json.decode(statistics, type=_Statistics).brokers.values()
        is_any = any(broker.source in ("configured", "learned") for broker in brokers)
        self._none = 0 if is_any else self._none + 1


def new_producer(place: KafkaPlace, heard: Callable[[KafkaError], None], known: BrokersKnown | None = None) -> Producer:
    """A producer of each message once, in order; ``heard`` and ``known`` get what it says beside the reports.

    What it says is kept until somebody polls: one that is not polled now and then has to be made without ``known``.
    """
    telling = {} if known is None else {"statistics.interval.ms": _LOOK_MS, "stats_cb": known.note}
    return Producer(
        common(place)
        | {
            "enable.idempotence": True,  # each once, in order
            "acks": "all",
            "message.timeout.ms": 0,  # a message is tried until it is there
            "linger.ms": 1,  # a lone record is there in 2 ms; batches are as fast as with 5
            "compression.type": "lz4",
            "partitioner": "murmur2_random",  # as the Java clients', so that all producers agree on a symbol's lane
            "queue.buffering.max.messages": KAFKA_QUEUE_MESSAGES_MAX,
            "queue.buffering.max.kbytes": KAFKA_QUEUE_KBYTES_MAX,
            "retry.backoff.max.ms": 1_000,
            "topic.metadata.refresh.interval.ms": 30_000,
            "error_cb": heard,
        }
        | telling
    )
