"""Messages for the topic `raw-trades`, as fast as wanted: those of `tape.Tape` as `KafkaLogWriter` writes them.

    python bench/kafka_load.py --servers HOST:PORT --topic NAME --symbols 50 --rate 10000 --seconds 20

Each trade of the tape is encoded once; then only its times and its id are written anew, so that making a message costs
less than sending it. Event time goes at the rate of the load, from `START_MS` on, in a regular session; every second
has its tick in every partition, as the feed writes them. Append times are the broker's.

As a program it prints `ready`, sends when it is given a line, at the rate and evenly, and then prints what it sent.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from tape import Tape, names
from tapewatch.feed.decode import Decoder
from tapewatch.feed.symbols import wire_symbol
from tapewatch.log.messages import encode_messages
from tapewatch.records import Market, Origin, Tables

START_MS = 1_788_877_080_000
"""A minute of a regular session."""
PARTITIONS = 3
EVERY_S = 0.005
_TICK = b'{"kind":"tick","market":"stocks","timestamp":%d,"received_at":%d000000,"source":"massive"}'
_CHANGED = re.compile(rb'("timestamp":)\d+|("trade_id":)"\d+"|("received_at":)\d+')
_DELAY_MS = 20
"""From the exchange's time to our receipt."""


class Sent(msgspec.Struct):
    """What was sent, in how long."""

    trades: int
    seconds: float
    late_ms_max: float
    """The most that a message was sent after its time."""


@dataclass
class Load:
    """An endless load of so many symbols; ``start_ms`` is the event time of its first trade."""

    symbols: int
    rate: float
    start_ms: int = START_MS
    given: int = 0
    _made: list[tuple[str, bytes, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tables = Tables()
        tape = Tape(names(self.symbols), 100)
        frames = [(Market.STOCKS, tape.next_frame(START_MS), 1) for _ in range(400)]
        batch = Decoder(tables).decode(frames).batch
        encoded = encode_messages(batch, tables, Origin.LIVE, wire_symbol)
        for (key, value), time_ms in zip(encoded, batch.time_ms.tolist(), strict=True):
            assert key is not None, "the tape has trades only"
            self._made.append((key, _template(value), START_MS - time_ms))

    def time_ms(self) -> int:
        """Event time of the next trade."""
        return self.start_ms + int(self.given * 1e3 / self.rate)

    def next(self) -> tuple[str, bytes]:
        """Key and value of the next trade."""
        key, template, back_ms = self._made[self.given % len(self._made)]
        time_ms = self.time_ms()
        self.given += 1
        return key, template % (time_ms - back_ms, self.given, time_ms + _DELAY_MS)

    def tick(self) -> bytes:
        """A tick of now."""
        return _TICK % (self.time_ms(), self.time_ms() + _DELAY_MS)


def _template(value: bytes) -> bytes:
    """A message with places for its time, its id and its receipt in ms."""

    def place(found: re.Match[bytes]) -> bytes:
        time_name, id_name, receipt_name = found.groups()
        if time_name:
            return time_name + b"%d"
        return id_name + b'"%014d"' if id_name else receipt_name + b"%d000000"

    return _CHANGED.sub(place, value.replace(b"%", b"%%"))


class Feeder:
    """Puts a load into a topic."""

    def __init__(self, servers: str, topic: str, load: Load, partitions: int = PARTITIONS) -> None:
        self._topic = topic
        self._load = load
        self._partitions = partitions
        self._ticked_ms = load.time_ms()
        self._producer = Producer(
            {
                "bootstrap.servers": servers, "compression.type": "lz4", "linger.ms": 5, "acks": "all",
                "enable.idempotence": True, "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 500_000,
            }
        )  # fmt: skip

    def put(self, trades: int) -> None:
        """The next trades, and the ticks between them."""
        for _ in range(trades):
            if self._load.time_ms() >= self._ticked_ms + 1_000:
                self._ticked_ms += 1_000
                for partition in range(self._partitions):
                    self._produce(None, self._load.tick(), partition)
            self._produce(*self._load.next(), -1)
        self._producer.poll(0)

    def flush(self) -> None:
        """Until all are acknowledged."""
        left = self._producer.flush(60)
        assert left == 0, f"{left} messages were not acknowledged"

    def _produce(self, key: str | None, value: bytes, partition: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, partition)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def pace(self, seconds: float) -> Sent:
        """At the load's rate for so long."""
        started, sent, late_s = time.monotonic(), 0, 0.0
        total = int(seconds * self._load.rate)
        while sent < total:
            due = min(total, int((time.monotonic() - started) * self._load.rate))
            if due > sent:
                late_s = max(late_s, time.monotonic() - started - (sent + 1) / self._load.rate)
                self.put(due - sent)
                sent = due
            time.sleep(EVERY_S)
        self.flush()
        return Sent(sent, time.monotonic() - started, 1e3 * late_s)


def preload(servers: str, topic: str, load: Load, trades: int) -> None:
    """Put so many trades into the topic, as fast as they go."""
    feeder = Feeder(servers, topic, load)
    for at in range(0, trades, 10_000):
        feeder.put(min(10_000, trades - at))
    feeder.flush()


def ends(servers: str, topic: str, partitions: int = PARTITIONS) -> dict[str, int]:
    """The next offset of each lane."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench"})
    try:
        return {
            str(lane): consumer.get_watermark_offsets(TopicPartition(topic, lane), 10)[1] for lane in range(partitions)
        }
    finally:
        consumer.close()


def append_times(servers: str, topic: str, lane: int, stop: int) -> NDArray[np.int64]:
    """When Kafka appended the messages of a lane up to ``stop``, Unix ms, by offset."""
    settings: dict[str, Any] = {"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False}
    consumer = Consumer(settings)
    times = np.zeros(stop, np.int64)
    try:
        consumer.assign([TopicPartition(topic, lane, 0)])
        at = 0
        while at < stop:
            messages = consumer.consume(10_000, 10)
            assert messages, f"lane {lane} ends at {at}, not at {stop}"
            for message in messages:
                if message.offset() < stop:
                    times[message.offset()] = message.timestamp()[1]
            at = messages[-1].offset() + 1
    finally:
        consumer.close()
    return times


def late_ms(appended_ms: NDArray[np.int64], told: list[tuple[int, float]]) -> NDArray[np.float64]:
    """From append to commit of each offset; ``told`` has position and time of each commit, in order."""
    positions, times = (np.array(column) for column in zip(*told, strict=True))
    commit = np.searchsorted(positions, np.arange(len(appended_ms)), side="right")
    found: NDArray[np.float64] = times[commit] - appended_ms
    return found


def main() -> None:
    """Send at a rate, when told to."""
    parser = argparse.ArgumentParser(description="Send trades to a topic.")
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--start-ms", type=int, default=START_MS)
    chosen = parser.parse_args()
    feeder = Feeder(chosen.servers, chosen.topic, Load(chosen.symbols, chosen.rate, chosen.start_ms))
    print("ready", flush=True)
    sys.stdin.readline()
    print(msgspec.json.encode(feeder.pace(chosen.seconds)).decode(), flush=True)


if __name__ == "__main__":
    main()
