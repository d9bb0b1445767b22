"""A Kafka client that has lost all brokers is noticed and replaced, and nothing is lost or doubled by it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import pytest

from tapewatch.errors import LogUnavailable
from tapewatch.feed.symbols import market_of
from tapewatch.log.clients import LOST_LOOKS, BrokersKnown, KafkaPlace, new_producer
from tapewatch.log.kafka import KafkaLogWriter, ensure_topic, open_lanes
from tapewatch.log.rejected import RejectedWriter
from tapewatch.records import Batch, Tables
from test_log_kafka import T0, Appending, messages, tick, trades, writing
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def statistics(*sources: str) -> str:
    """As librdkafka words them, as far as they matter."""
    return json.dumps(
        {"name": "x", "brokers": {f"127.0.0.1:9092/{s}": {"source": s, "state": "INIT"} for s in sources}}
    )


def lose_brokers(log: KafkaLogWriter) -> None:
    for _ in range(LOST_LOOKS):
        log._known.note(statistics("internal"))


def test_one_that_names_no_broker_again_and_again_has_lost_them() -> None:
    known = BrokersKnown()
    for source in ("configured", "learned"):
        for _ in range(LOST_LOOKS - 1):
            known.note(statistics("internal", "logical"))
            assert not known.are_lost
        known.note(statistics("internal", source))
        assert not known.are_lost
    for _ in range(LOST_LOOKS):
        known.note(statistics())
    assert known.are_lost


def test_brokers_that_are_away_or_answer_are_not_lost(kafka_place: KafkaPlace) -> None:
    """What the real client says of them."""
    for servers in (kafka_place.servers, "127.0.0.1:1"):
        said: list[str] = []
        known = BrokersKnown()
        known.note = said.append  # type: ignore[method-assign]
        producer = new_producer(replace(kafka_place, servers=servers), lambda error: None, known)
        until(lambda p=producer, s=said: p.poll(0.05) + len(s) > LOST_LOOKS)  # type: ignore[misc]
        heard = BrokersKnown()
        for text in said:
            heard.note(text)
            assert not heard._none


def test_what_an_idle_client_says_does_not_pile_up(kafka_place: KafkaPlace) -> None:
    """One that is never polled says nothing; one that says something is polled, also by a writer with nothing to do."""
    silent = RejectedWriter(kafka_place)
    with writing(kafka_place, Tables()) as log:
        until(lambda: len(log._producer) > 0)  # it has said what brokers it knows
        assert len(silent._producer) == 0
        until(lambda: log.retain(0) == len(log._producer) == 0)


@pytest.mark.parametrize("written", [0, 2_500, 4_000, 5_003])
def test_its_successor_writes_the_rest_of_the_batch(kafka_place: KafkaPlace, written: int) -> None:
    """Of equal messages too: each is there as often as it was given, and each lane is in order."""
    tables = Tables()
    before = Batch.join([trades(tables, 100), tick(T0 + 100)])
    half = trades(tables, 2_500, 100)
    batch = Batch.join([half, half, tick(T0 + 2_600)])
    undisturbed = replace(kafka_place, topic=f"{kafka_place.topic}-undisturbed")
    with writing(undisturbed, tables) as log:
        log.append(before)
        log.append(batch)
    with writing(kafka_place, tables) as log:
        log.append(before)
        lost = new_producer(kafka_place, lambda error: None, BrokersKnown())
        for key, value, lane in [*log._messages(batch)][:written]:
            lost.produce(kafka_place.topic, value, key, lane)
        assert lost.flush(60) == 0
        lose_brokers(log)
        log.append(batch)
        assert not log._known.are_lost
        log.append(tick_after := tick(T0 + 3_000))
    with writing(undisturbed, tables) as log:
        log.append(tick_after)
    found, expected = messages(kafka_place), messages(undisturbed)
    for lane in expected:
        assert [m.value() for m in found[lane]] == [m.value() for m in expected[lane]]


def test_one_that_wrote_nothing_in_this_life_goes_on_from_what_was_read(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    batch = trades(tables, 50)
    with writing(kafka_place, tables) as log:
        log.append(batch)
    with writing(kafka_place, tables) as log:
        assert len(Batch.join([*log.recent(0)])) == 50
        lose_brokers(log)
        log.append(batch)  # equal to what was there before
        assert sum(log.ends().values()) == 100


def test_a_successor_waits_for_the_brokers_and_can_be_told_to_stop(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    with writing(kafka_place, tables) as log:
        log._lanes.close()
        log._lanes = open_lanes(replace(kafka_place, servers="127.0.0.1:1", deadline_ms=100), market_of)
        lose_brokers(log)
        appending = Appending(log, tables)
        until(lambda: log.is_waiting)
        log.stop_waiting()
        appending.stop()
        assert isinstance(appending.failure, LogUnavailable)


def test_a_reader_that_was_not_answered_asks_next_by_a_new_client(kafka_place: KafkaPlace) -> None:
    """The old one may have lost all brokers."""
    ensure_topic(kafka_place)
    with closing(open_lanes(replace(kafka_place, servers="127.0.0.1:1", deadline_ms=100), market_of)) as reader:
        for _ in range(2):
            with pytest.raises(LogUnavailable):
                reader.ends()
            reader._client["bootstrap.servers"] = kafka_place.servers
        reader._deadline_s = 60
        assert reader.ends() == {0: 0, 1: 0, 2: 0}
