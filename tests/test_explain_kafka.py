"""`tapewatch explain` where the log is Kafka: the same answers as from the embedded log of the same records."""

from __future__ import annotations

import asyncio
import random
import string
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer

from chaos_log import chaos
from tapewatch.errors import LogUnavailable, UnknownSymbol
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace, open_lanes
from tapewatch.profiles import explain_log
from tapewatch.profiles.explain import Explainer
from tapewatch.profiles.explain_source import kafka_source, lane_of, local_source
from tapewatch.records import Origin, Tables
from tapewatch.serve.shapes import iso
from test_explain import EAGER, MINUTE, engine_alerts, parts_of, stored, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SYMBOLS = ("AAPL", "TSLA", "BTC", "ETH")
FUTURE_MS = 60_000


@pytest.fixture(autouse=True)
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take as long as it needs for an answer."""
    monkeypatch.setattr(explain_log, "EXPLAIN_S_MAX", 600.0)


def test_it_answers_as_from_the_embedded_log(tmp_path: Path, kafka_place: KafkaPlace) -> None:
    tables, parts = Tables(), parts_of(tmp_path, EAGER)
    batch = chaos(3, tables, seconds=420)
    path = write(tmp_path / "log.db", batch, tables)
    codec = Codec(wire_symbol, market_of)
    with closing(KafkaLogWriter.open(kafka_place, tables, origin=Origin.REPLAYED, codec=codec)) as log:
        log.append(batch)
    alerts = stored(engine_alerts(batch, tables, parts))
    here = Explainer(local_source(path), parts, alerts)
    there = Explainer(kafka_source(kafka_place, market_of, FUTURE_MS), parts, alerts)
    # From where every lane has a record, so that each knows as much of what was before.
    first, fired = int(batch.time_ms.min()) + 4 * MINUTE, 0

    async def everything() -> None:
        nonlocal fired
        for symbol in SYMBOLS:
            for minute in range(first - first % MINUTE, int(batch.time_ms.max()) + MINUTE, MINUTE):
                wanted, found = await here.explain(symbol, iso(minute)), await there.explain(symbol, iso(minute))
                # Each lane begins with its own first record.
                for answer in (wanted, found):
                    del answer["computed_from"]
                assert found == wanted
                assert found["agrees"] is True
                fired += sum(rule["outcome"] == "fired" for rule in found["rules"])

    asyncio.run(everything())
    assert fired > 10, "too few alerts prove nothing"


def test_a_trade_that_was_typed_without_a_key_is_found_and_an_unknown_symbol_is_named(
    tmp_path: Path, kafka_place: KafkaPlace
) -> None:
    codec = Codec(wire_symbol, market_of)
    with closing(KafkaLogWriter.open(kafka_place, Tables(), origin=Origin.LIVE, codec=codec)):
        pass
    elsewhere = (lane_of("AAPL", 3) + 1) % 3
    producer = Producer({"bootstrap.servers": kafka_place.servers})
    value = '{"symbol":"AAPL","price":190.5,"volume":100,"timestamp":1769092205000}'
    producer.produce(kafka_place.topic, value, partition=elsewhere)
    assert producer.flush(300) == 0
    explainer = Explainer(kafka_source(kafka_place, market_of, FUTURE_MS), parts_of(tmp_path), stored([]))
    found = asyncio.run(explainer.explain("AAPL", "2026-01-22T14:30:00Z"))
    assert (found["trades"], found["bar"]["close"]) == (1, 190.5)
    with pytest.raises(UnknownSymbol, match="ZZZ: the log holds no trade of it"):
        asyncio.run(explainer.explain("ZZZ", "2026-01-22T14:30:00Z"))


def test_a_broker_that_is_away_is_said(tmp_path: Path) -> None:
    place = KafkaPlace("127.0.0.1:9", "raw-trades", 3, deadline_ms=200)
    explainer = Explainer(kafka_source(place, market_of, FUTURE_MS), parts_of(tmp_path), stored([]))
    with pytest.raises(LogUnavailable, match=r"Kafka at 127\.0\.0\.1:9 has not answered"):
        asyncio.run(explainer.explain("AAPL", "2026-01-22T14:30:00Z"))


def test_a_symbol_has_the_lane_that_our_producer_gives_it(kafka_place: KafkaPlace) -> None:
    chance = random.Random(5)
    letters = string.ascii_uppercase + string.digits + ".:/-"
    tables = Tables()
    keys = {"".join(chance.choices(letters, k=chance.randint(1, 25))) for _ in range(300)} | {"ÄÖ", "€"}
    with closing(KafkaLogWriter.open(kafka_place, tables, origin=Origin.LIVE, codec=Codec(wire_symbol, market_of))):
        pass
    found: dict[str, int] = {}
    producer = Producer({"bootstrap.servers": kafka_place.servers, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(
            kafka_place.topic, b"{}", key.encode(),
            on_delivery=lambda error, message: found.__setitem__(message.key().decode(), message.partition()),
        )  # fmt: skip
    assert producer.flush(300) == 0
    assert found == {key: lane_of(key, 3) for key in keys}
    assert len(set(found.values())) == 3
    with closing(open_lanes(kafka_place, market_of)) as reader:
        assert sum(end for _, end in reader.extents().values()) == len(keys)
