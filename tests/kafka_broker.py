"""Fixtures: a real Kafka broker, started once for all tests, and a new topic for each.

`kafka` is the running broker; `kafka_place` a place on it whose topic nobody else uses. A test that kills or stops a
broker makes one of its own (`Broker`). Tests that use these are `slow`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tapewatch.log.kafka import KafkaPlace
from tapewatch.profiles.broker import Broker

_numbers = count(1)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker; it ends with the tests."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def kafka_place(kafka: Broker) -> KafkaPlace:
    """Three partitions on the broker, in a topic that does not exist yet; a busy machine is waited for."""
    return KafkaPlace(kafka.servers, f"raw-trades-{next(_numbers)}", 3, deadline_ms=60_000)
