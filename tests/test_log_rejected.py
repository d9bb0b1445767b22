"""The topic of messages that could not be read, on a real broker."""

from __future__ import annotations

import pytest

from tapewatch.errors import LogUnavailable
from tapewatch.log.kafka import KafkaPlace, ensure_topic
from tapewatch.log.rejected import RejectedWriter
from test_log_kafka import messages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_rejected_messages_are_kept_as_they_were_with_their_reason(kafka_place: KafkaPlace) -> None:
    ensure_topic(kafka_place)
    hostile = b"\x00\xff{not json"
    writer = RejectedWriter(kafka_place)
    writer.put(2, 41, b"AAPL", hostile, "it is no JSON: surprising")
    writer.put(1, 7, None, None, "it has no value")
    writer.put(0, 1, b"k" * 5_000, b"x" * 900_000, "it has 900000 bytes")
    writer.flush()
    first, second, third = messages(kafka_place, kafka_place.rejected)[0]
    assert first.value() == hostile
    headers = dict(first.headers() or [])
    assert headers["reason"] == b"it is no JSON: surprising"
    assert (headers["partition"], headers["offset"], headers["bytes"]) == (b"2", b"41", b"11")
    assert (second.value(), third.key()) == (None, b"k" * 1_024)
    assert dict(third.headers() or [])["bytes"] == b"900000"


def test_what_was_not_acknowledged_is_given_up_and_can_be_put_again() -> None:
    writer = RejectedWriter(KafkaPlace("127.0.0.1:1", "raw-trades", 3, deadline_ms=100))
    for _ in range(2):
        writer.put(0, 1, None, b"{", "it is no JSON")
        with pytest.raises(LogUnavailable, match=r"has not answered for 0\.1 s \(1 rejected messages wait\)"):
            writer.flush()
