"""Messages that could not be read, to the topic of rejected ones: there a person finds them, with the reason."""

from __future__ import annotations

from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, Message

from tapewatch import metrics
from tapewatch.errors import LogUnavailable
from tapewatch.log.clients import KafkaPlace, away, new_producer
from tapewatch.settings import MESSAGE_BYTES_MAX

__all__ = ["RejectedWriter"]

_log = structlog.get_logger(__name__)
_KEY_BYTES_MAX: Final = 1_024


class RejectedWriter:
    """Puts them there. The same one may be put there more than once, after a crash of whoever reads them."""

    def __init__(self, place: KafkaPlace) -> None:
        self._place = place
        self._begin()

    def put(self, lane: int, offset: int, key: bytes | None, value: bytes | None, reason: str) -> None:
        """Of a message at ``offset`` of ``lane``: as it was, its reason and place in the headers. `flush` comes next.

        Of a very large value the beginning is kept.
        """
        headers = {"reason": reason, "partition": str(lane), "offset": str(offset), "bytes": str(len(value or b""))}
        fields: Any = {name: text.encode() for name, text in headers.items()}
        kept = None if value is None else value[:MESSAGE_BYTES_MAX]
        while True:
            try:
                self._waiting += 1
                self._producer.produce(
                    self._place.rejected, kept, (key or b"")[:_KEY_BYTES_MAX], headers=fields, on_delivery=self._done
                )
                return
            except BufferError:
                self._waiting -= 1
                self.flush()

    def flush(self) -> None:
        """Return when all are acknowledged.

        Raises:
            LogUnavailable: they are not within `KAFKA_DEADLINE`. Those that wait are then given up: put them again.
        """
        self._producer.flush(self._place.deadline_ms / 1_000)
        if self._waiting:
            sentence = away(self._place, f"{self._waiting} rejected messages wait")
            self._producer.purge()
            self._begin()  # anew: the old one may have lost all brokers (`clients.py`)
            raise LogUnavailable(sentence)

    def _begin(self) -> None:
        self._producer = new_producer(self._place, lambda error: None)
        self._waiting = 0

    def _done(self, error: KafkaError | None, message: Message) -> None:
        self._waiting -= 1
        if error is None:
            metrics.KAFKA_REJECTED.inc()
        else:
            metrics.KAFKA_FAILED.labels(error.name()).inc()
            _log.error("a rejected message was refused", topic=self._place.rejected, why=error.str())
