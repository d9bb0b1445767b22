"""The Kafka log, on a real broker: what is acknowledged is there once and in order, also when the broker is killed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

import kafka_writing
from tapewatch.errors import LogError, LogUnavailable
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.protocol import Cause
from tapewatch.feed.queue import GapEnd
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace, ensure_topic, open_lanes
from tapewatch.log.messages import encode_messages
from tapewatch.metrics import KAFKA_QUEUE_FULL
from tapewatch.profiles.broker import Broker
from tapewatch.records import Batch, Gap, GapState, Kind, Market, Origin, Tables
from waiting import WAIT_S, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CODEC = Codec(wire_symbol, market_of)
T0 = 1_763_658_000_000
SYMBOLS = [f"S{i}" for i in range(40)]


def trades(tables: Tables, count: int, start: int = 0) -> Batch:
    """One trade a millisecond, numbered by their ids, over `SYMBOLS`."""
    numbers = [tables.symbols.index(symbol) for symbol in SYMBOLS]
    rows = []
    for i in range(start, start + count):
        time_ms = T0 + i
        symbol = numbers[i % len(numbers)]
        rows.append((Kind.TRADE, 0, symbol, time_ms, time_ms * 10**6, 10 + i / 8, 10**8, 4, 0, 0, str(i)))
    return Batch.of(rows)


def tick(time_ms: int, market: Market = Market.STOCKS) -> Batch:
    return Batch.of([(Kind.TICK, market, -1, time_ms, time_ms * 10**6, 0.0, 0, 0, 0, 0, "")])


def gap(from_ms: int, to_ms: int) -> Batch:
    text = Gap(market=Market.STOCKS, from_ms=from_ms, to_ms=to_ms, cause="drop", symbols=["S1"]).encode()
    return Batch.of([(Kind.GAP, 0, -1, to_ms, to_ms * 10**6, 0.0, 0, 0, 0, 0, text)])


@contextmanager
def writing(place: KafkaPlace, tables: Tables, origin: Origin = Origin.LIVE) -> Iterator[KafkaLogWriter]:
    writer = KafkaLogWriter.open(place, tables, origin=origin, codec=CODEC)
    try:
        yield writer
    finally:
        writer.close()


def messages(place: KafkaPlace, topic: str = "") -> dict[int, list[Message]]:
    """All of a topic, by lane, in order."""
    topic = topic or place.topic
    reader = Consumer({"bootstrap.servers": place.servers, "group.id": "test", "enable.partition.eof": True})
    lanes = list(reader.list_topics(topic, timeout=60).topics[topic].partitions)
    reader.assign([TopicPartition(topic, lane, 0) for lane in lanes])
    found: dict[int, list[Message]] = {lane: [] for lane in lanes}
    ended = 0
    while ended < len(lanes):
        message = reader.poll(60)
        assert message is not None, "nothing comes any more"
        if message.error():
            ended += 1
        else:
            found[message.partition() or 0].append(message)
    reader.close()
    return found


def ids(batches: list[Batch]) -> list[str]:
    return [text for batch in batches for kind, text in zip(batch.kind, batch.ids, strict=True) if kind == Kind.TRADE]


def test_trades_go_to_their_lane_in_order_and_ticks_and_gaps_to_all(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    with writing(kafka_place, tables) as log:
        whole = Batch.join([trades(tables, 500), tick(T0 + 500), trades(tables, 500, 500), gap(T0, T0 + 1)])
        done = log.append(whole)
        assert (len(done), done.offset) == (1002, -1)
        assert done.logged_ns > 0
        assert sum(log.ends().values()) == 1000 + 2 * 3
    found = messages(kafka_place)
    sent = dict(enumerate(encode_messages(whole, tables, Origin.LIVE, wire_symbol)))
    place_of = {value: i for i, (_, value) in sent.items()}
    lane_of = defaultdict(set)
    for lane, received in found.items():
        places = [place_of[message.value()] for message in received]
        assert places == sorted(places)
        assert {500, 1001} < set(places)
        for message in received:
            if message.key() is not None:
                lane_of[message.key()].add(lane)
    assert len(lane_of) == len(SYMBOLS)
    assert all(len(lanes) == 1 for lanes in lane_of.values())
    assert len({lane for lanes in lane_of.values() for lane in lanes}) == 3


def test_a_symbols_lane_is_the_one_that_java_clients_take(kafka_place: KafkaPlace) -> None:
    """Kafka's own documented examples of murmur2, modulo three."""
    tables = Tables()
    names = ["foobar", "21", "a-little-bit-long-string"]
    hashes = [-790332482, -973932308, -985981536]
    row = [(Kind.TRADE, 0, tables.symbols.index(n), T0, T0 * 10**6, 1.0, 1, 0, 0, 0, "") for n in names]
    with writing(kafka_place, tables) as log:
        log.append(Batch.of(row))
    found = {m.key(): lane for lane, received in messages(kafka_place).items() for m in received}
    assert found == {n.encode(): (h & 0x7FFFFFFF) % 3 for n, h in zip(names, hashes, strict=True)}


def test_what_was_appended_comes_back_in_the_order_of_appending(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    parts = [trades(tables, 30), tick(T0 + 30), gap(T0 + 30, T0 + 40), trades(tables, 30, 30), tick(T0 + 60)]
    with writing(kafka_place, tables) as log:
        assert list(log.recent(0)) == []
        assert log.known_ms() == {}
        for part in parts:
            log.append(part)
    other = Tables()
    with writing(kafka_place, other) as log:
        found = Batch.join(list(log.recent(0)))
        assert log.known_ms() == {Market.STOCKS: T0 + 60}
        assert list(log.recent(T0 * 100)) == []
    assert sorted(map(int, ids([found]))) == list(range(60))
    assert [kind for kind in found.kind if kind != Kind.TRADE] == [Kind.TICK] * 3 + [Kind.GAP] * 3 + [Kind.TICK] * 3
    for name in SYMBOLS:
        mine = found.take((found.symbol == other.symbols.index(name)).nonzero()[0])
        assert mine.time_ms.tolist() == sorted(mine.time_ms.tolist())


def test_lanes_of_unequal_length_are_read_whole(kafka_place: KafkaPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lane far ahead of the others is paused, and loses nothing."""
    monkeypatch.setattr("tapewatch.log.lanes._AHEAD_MAX", 500)
    monkeypatch.setattr("tapewatch.log.lanes._CONSUME_MAX", 100)
    tables = Tables()
    heavy = trades(tables, 20_000)
    heavy.symbol[:] = heavy.symbol[0]
    with writing(kafka_place, tables) as log:
        log.append(heavy)
        log.append(Batch.join([trades(tables, 400, 20_000), tick(T0)]))
        found = list(log.recent(0))
    assert sorted(map(int, ids(found))) == list(range(20_400))


def test_a_torn_batch_lies_in_the_gap(kafka_place: KafkaPlace) -> None:
    """Of the last batch, a crash left only some lanes' parts: what is known ends where all lanes are whole."""
    tables = Tables()
    with writing(kafka_place, tables) as log:
        log.append(Batch.join([trades(tables, 1000), tick(T0 + 1_000)]))
        torn = Batch.join([trades(tables, 5_000, 1_000), tick(T0 + 6_000)])
        one_lane = [m for m in encode_messages(torn, tables, Origin.LIVE, wire_symbol) if m[0] in ("S1", None)]
        for key, value in one_lane:
            log._put(key, value, 0)
        log._producer.flush()
    again = Tables()
    ingest = Ingest(again, Seen())
    with writing(kafka_place, again) as log:
        batches = list(log.recent(0))
        assert max(int(batch.time_ms.max()) for batch in batches) == T0 + 6_000
        ingest.recover(batches, upto=log.known_ms)
    assert ingest.last_ms(Market.STOCKS) == T0 + 1_000
    end = GapEnd(
        market=Market.STOCKS,
        to_ms=T0 + 9_000,
        received_ns=(T0 + 9_000) * 10**6,
        cause=Cause.RESTART,
        symbols=("S1",),
    )
    named = Gap.decode(ingest.step([end]).ids[0])
    assert named.from_ms < T0 + 1_000
    assert named.to_ms == T0 + 9_000
    told = ingest.fetched(replace(named, state=GapState.ASKED), trades(again, 6_000), [], (T0 + 9_000) * 10**6)
    torn_away = [i for i in range(1_000, 6_000) if i % len(SYMBOLS) != 1]
    assert sorted(map(int, ids([told]))) == torn_away, "what is there is a repeat"
    assert Gap.decode(told.ids[-1]) == replace(named, state=GapState.FILLED, trades=len(torn_away))


def test_a_lane_that_never_had_a_tick_knows_nothing(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    with writing(kafka_place, tables) as log:
        log.append(trades(tables, 100))
        log._put(None, b'{"kind":"tick","market":"stocks","timestamp":%d,"received_at":%d}' % (T0, T0 * 10**6), 0)
        log._producer.flush()
        assert len(list(log.recent(0))) > 0
        assert log.known_ms() == {Market.STOCKS: T0}


def test_a_full_queue_is_waited_for(kafka_place: KafkaPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapewatch.log.clients.KAFKA_QUEUE_MESSAGES_MAX", 100)
    tables = Tables()
    before = KAFKA_QUEUE_FULL._value.get()
    with writing(kafka_place, tables) as log:
        log.append(trades(tables, 5_000))
        assert KAFKA_QUEUE_FULL._value.get() > before
        assert sorted(map(int, ids(list(log.recent(0))))) == list(range(5_000))


def test_a_topic_of_other_partitions_is_refused(kafka: Broker, kafka_place: KafkaPlace) -> None:
    info = ensure_topic(kafka_place)
    assert info.partitions == 3
    assert ensure_topic(kafka_place) == info
    other = KafkaPlace(kafka.servers, kafka_place.topic, 4)
    with pytest.raises(LogError, match=r"has 3 partitions, and KAFKA_PARTITIONS is 4: set that to 3"):
        ensure_topic(other)


def test_a_topic_made_anew_is_another_log(kafka_place: KafkaPlace) -> None:
    before = ensure_topic(kafka_place).log_id
    admin = AdminClient({"bootstrap.servers": kafka_place.servers})
    admin.delete_topics([kafka_place.topic])[kafka_place.topic].result()
    until(lambda: kafka_place.topic not in admin.list_topics(timeout=60).topics)  # the broker forgets it a little later
    assert ensure_topic(kafka_place).log_id != before


def test_data_of_another_origin_is_refused(kafka_place: KafkaPlace) -> None:
    tables = Tables()
    with writing(kafka_place, tables, Origin.SIMULATED) as log:
        log.append(trades(tables, 10))
    with (
        writing(kafka_place, tables, Origin.LIVE) as log,
        pytest.raises(LogError, match=r"holds SIMULATED data .* this feed writes LIVE data"),
    ):
        list(log.recent(0))


def test_a_broker_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match=r"Kafka at 127.0.0.1:1 has not answered for 0.5 s .*cluster up"):
        ensure_topic(KafkaPlace("127.0.0.1:1", "raw-trades", 3, deadline_ms=500))


def test_a_broker_that_refuses_is_not_asked_in_a_hurry() -> None:
    """Each question that nobody answers stays in librdkafka's memory: thousands a second would fill the machine."""
    asked = []

    def question() -> None:
        asked.append(1)
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    place = KafkaPlace("127.0.0.1:1", "raw-trades", 1, deadline_ms=300)
    with (
        closing(open_lanes(place, market_of)) as lanes,
        pytest.raises(LogUnavailable, match=r"not answered for 0\.3 s"),
    ):
        lanes._ask(question)
    assert 0 < len(asked) < 50


class Appending:
    """Batches appended by a thread of their own until told to stop; ``done`` holds the ids that are acknowledged."""

    def __init__(self, log: KafkaLogWriter, tables: Tables) -> None:
        self.done: list[str] = []
        self.failure: BaseException | None = None
        self._log = log
        self._tables = tables
        self._changed = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S)

    def stop(self) -> None:
        self._stop = True
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop:
                batch = self._log.append(trades(self._tables, 200, len(self.done)))
                with self._changed:
                    self.done += batch.ids
                    self._changed.notify()
        except LogError as error:
            self.failure = error


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_feed_that_is_killed_leaves_whole_what_is_known(kafka_place: KafkaPlace, after: int) -> None:
    """All that was acknowledged is there, nothing is there twice, and up to `known_ms` every lane has everything."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("kafka_writing.py")),
        kafka_place.servers,
        kafka_place.topic,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as feed:
        assert feed.stdout is not None
        printed = (int(line) for line in feed.stdout if line.strip().isdigit())  # beside it, what is logged
        acknowledged = [*islice(printed, after)][-1]
        feed.kill()
    with writing(kafka_place, Tables()) as log:
        found = ids(list(log.recent(0)))
        known_ms = log.known_ms()[Market.STOCKS]
    assert len(found) == len(set(found))
    assert known_ms - kafka_writing.T0 >= acknowledged - 1
    assert set(map(str, range(known_ms - kafka_writing.T0 + 1))) <= set(found)


def impatient(log: KafkaLogWriter) -> KafkaLogWriter:
    """It says after so short a time that it waits. To be made, and to read, it takes the time that it needs."""
    log._place = dataclasses.replace(log._place, deadline_ms=200)
    return log


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker to be killed."""
    broker = Broker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(own_broker: Broker) -> None:
    place = KafkaPlace(own_broker.servers, "raw-trades", 3, deadline_ms=60_000)
    tables = Tables()
    with writing(place, tables) as log:
        appending = Appending(impatient(log), tables)
        for end in (own_broker.kill, own_broker.stop, own_broker.kill):
            before = len(appending.done)
            appending.wait(lambda before=before: len(appending.done) > before + 2_000)  # type: ignore[misc]
            end()
            until(lambda: log.is_waiting)
            own_broker.start()
            until(lambda: not log.is_waiting)
        appending.stop()
        assert appending.failure is None
        found = ids(list(log.recent(0)))
    assert len(found) == len(set(found))
    assert set(found) == set(appending.done)
    for lane in messages(place).values():
        numbers = [int(str(m.value()).partition('"trade_id":"')[2].partition('"')[0]) for m in lane]
        assert numbers == sorted(numbers)


def test_one_that_waits_can_be_told_to_stop(own_broker: Broker) -> None:
    place = KafkaPlace(own_broker.servers, "raw-trades", 3, deadline_ms=60_000)
    tables = Tables()
    with writing(place, tables) as log:
        appending = Appending(impatient(log), tables)
        appending.wait(lambda: len(appending.done) > 0)
        own_broker.kill()
        until(lambda: log.is_waiting)
        log.stop_waiting()
        appending.stop()
        assert isinstance(appending.failure, LogUnavailable)
        with pytest.raises(LogError, match="takes no more until the process is started again"):
            log.append(trades(tables, 1))
    own_broker.start()
    with writing(place, tables) as log:
        assert set(appending.done) <= set(ids(list(log.recent(0))))
