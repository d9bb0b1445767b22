"""The distributed profile as a person runs it: feed and page in processes of their own, with a real Kafka between.

The engine is not among them (tests/system/test_spark.py): where a test needs one, it moves the lanes itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest
from test_kill import RATE, SEED, SHORT, is_within, sent, trades_in, truth

from pipeline_runs import END_S, START_S, Pipeline, market, until
from store_rows import changes, latest
from tapes import write_tape
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import KafkaPlace, ensure_topic, open_lanes
from tapewatch.profiles.broker import Broker
from tapewatch.profiles.instance import Role, running
from tapewatch.profiles.replay import recorded
from tapewatch.records import Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.store.connect import Dsn
from tapewatch.store.writer import StoreWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEED = ("-m", "tapewatch", "feed")
SERVE = ("-m", "tapewatch", "serve")


def kafka_settings(place: KafkaPlace) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": place.servers, "KAFKA_TOPIC_RAW_TRADES": place.topic}


def database_settings(dsn: Dsn) -> dict[str, str]:
    return {
        "DB_HOST": dsn.host, "DB_PORT": str(dsn.port), "DB_NAME": dsn.dbname, "DB_USER": dsn.user,
        "DB_PASSWORD": dsn.password,
    }  # fmt: skip


def records(place: KafkaPlace) -> int:
    """How many records the topic has got."""
    with closing(open_lanes(place, market_of)) as lanes:
        return sum(lanes.ends().values())


def ticks(place: KafkaPlace) -> int:
    """How many ticks the topic has got, over all lanes."""
    with closing(open_lanes(place, market_of)) as lanes:
        return sum(int((batch.kind == Kind.TICK).sum()) for batch in lanes.recent(0, Tables(), Origin.LIVE))


@contextmanager
def feeding(folder: Path, place: KafkaPlace, warmup: str) -> Iterator[Pipeline]:
    """A feed that listens to a market of ours, not yet started."""
    print(f"TAPEWATCH_SEED={SEED}")
    with market(folder, SEED, RATE) as exchange:
        live = {
            "MASSIVE_API_KEY": "anything", "MASSIVE_WS_URL": exchange.ws_url, "MASSIVE_REST_URL": exchange.rest_url,
            "WARMUP": warmup,
        }  # fmt: skip
        with Pipeline(folder, **SHORT, **live, **kafka_settings(place)) as pipeline:
            yield pipeline


def started(pipeline: Pipeline, role: Role) -> str:
    """Wait until the process that was spawned last has announced itself; where it answers."""
    process = pipeline.process
    assert process is not None

    def url() -> list[str]:
        assert process.poll() is None, pipeline.last_words()
        return [info.url for _, info in running(pipeline.data_dir, role) if info.pid == process.pid]

    return until(url, f"the {role} has started", START_S)[0]


@pytest.mark.parametrize("warmup", ["0s", "60s"])
def test_a_feed_killed_with_kill_9_loses_and_doubles_nothing(
    tmp_path: Path, kafka_place: KafkaPlace, warmup: str
) -> None:
    random = Random(SEED)
    ensure_topic(kafka_place)
    with feeding(tmp_path, kafka_place, warmup) as pipeline:
        for life in range(4):
            before = records(kafka_place)
            pipeline.spawn(program=FEED)
            wanted = before + random.randrange(500, 4_000)
            until(lambda at=wanted: records(kafka_place) > at, "it records", START_S)
            if life in (0, 3):  # what lies between the first tick and the last is judged
                before_ticks = ticks(kafka_place)
                until(lambda at=before_ticks: ticks(kafka_place) > at + 3 * kafka_place.partitions, "it ticks", START_S)
            if life < 3:
                pipeline.kill()
            else:
                pipeline.stop()
    tables = Tables()
    with closing(open_lanes(kafka_place, market_of)) as lanes:
        batches = list(lanes.recent(0, tables, Origin.LIVE))
    check(batches, tables, gaps_are_filled=warmup != "0s")


def check(batches: list[Batch], tables: Tables, *, gaps_are_filled: bool) -> None:
    """Every trade that the market has sent is in the topic once, or in a gap."""
    logged = trades_in(batches, tables)
    assert [trade for trade, times in Counter(logged).items() if times > 1] == []
    gaps = [Gap.decode(text) for b in batches for k, text in zip(b.kind, b.ids, strict=True) if k == Kind.GAP]
    known, times = set(logged), [trade[1] for trade in logged]
    assert known - truth(SEED, min(times), max(times) + 1) == set(), "trades that were never made"
    missing = sent(batches, SEED) - known
    unexplained = sorted((t for t in missing if gaps_are_filled or not is_within(t, gaps)), key=lambda t: t[1])
    assert unexplained == [], (len(unexplained), unexplained[:5], gaps)
    assert gaps, "a kill that leaves no gap proves nothing"
    assert gaps_are_filled or missing
    print(f"trades {len(logged)}  gaps {len(gaps)}  missing, all in gaps {len(missing)}")


def test_feed_and_page_side_by_side(tmp_path: Path, kafka_place: KafkaPlace, postgres: Dsn) -> None:
    settings = kafka_settings(kafka_place) | database_settings(postgres)
    with Pipeline(tmp_path, **settings) as feed, Pipeline(tmp_path, **settings) as page:
        feed.spawn(program=FEED)
        assert started(feed, Role.FEED) == ""
        until(lambda: records(kafka_place) > 50, "it records", START_S)
        again = feed.command("feed")
        assert again.returncode == 6
        assert "already running" in again.stderr
        page.spawn(program=SERVE)
        page.url = started(page, Role.SERVE)
        until(lambda: (page.status()["engine"]["behind"] or 0) > 50, "the page knows what waits")
        status = page.status()
        assert (status["origin"], status["store"]["state"], status["log"]["state"]) == ("SIMULATED", "ok", "ok")
        with closing(StoreWriter.connect(postgres.conninfo, "0")) as lane:
            lane.recover(ensure_topic(kafka_place).log_id, Origin.SIMULATED)
            lane.commit(changes(latest=[latest(1, market=Market.CRYPTO)]), 0, 10)
        until(lambda: page.status()["engine"]["position"] == 10, "the page sees the engine")
        assert page.status()["feeds"][0]["market"] == "crypto"
        shown = page.command("status")
        assert "feed, process" in shown.stdout
        assert shown.returncode == 1, "a trade of long ago: the feed is said to be stale"
        stopped = page.command("stop")
        said = stopped.stdout
        assert stopped.returncode == 0, stopped.stderr
        assert "Stopped the SIMULATED feed" in said
        assert "Stopped the SIMULATED server" in said
        for process in (feed.process, page.process):
            assert process is not None
            assert process.wait(END_S) == 0


def test_run_is_both_and_refuses_what_belongs_to_another_log(
    tmp_path: Path, kafka_place: KafkaPlace, postgres: Dsn
) -> None:
    settings = kafka_settings(kafka_place) | database_settings(postgres)
    with Pipeline(tmp_path, **settings) as pipeline:
        pipeline.start()
        until(pipeline.is_live, "the feeds are live")
        until(lambda: pipeline.status()["engine"]["behind"] > 50, "records wait for the engine")
        assert pipeline.command("feed").returncode == 6, "it is the feed too"
        assert pipeline.ask("readyz")["ready"]
        pipeline.stop()
        with closing(StoreWriter.connect(postgres.conninfo, "0")) as lane:
            lane.recover("another log", Origin.SIMULATED)
        refused = pipeline.command("run")
        assert refused.returncode == 5
        assert "holds SIMULATED data of log another log" in refused.stderr


def test_without_a_database_or_a_broker_it_says_what_to_set(tmp_path: Path) -> None:
    with Pipeline(tmp_path) as pipeline:
        refused = pipeline.command("run", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert refused.returncode == 2
        assert "DB_HOST" in refused.stderr
        assert "tapewatch cluster up" in refused.stderr
        assert "KAFKA_BOOTSTRAP_SERVERS" in pipeline.command("feed").stderr
        away = pipeline.command("feed", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", KAFKA_DEADLINE="1s")
        assert away.returncode == 4
        assert "Kafka at 127.0.0.1:1 has not answered for 1 s" in away.stderr


def test_a_recording_is_replayed_into_the_topic_once(tmp_path: Path, kafka_place: KafkaPlace, postgres: Dsn) -> None:
    files = [str(path) for path in write_tape(tmp_path, trades=2_000, minutes=20)]
    arguments = [word for path in files for word in ("--replay", path)]
    tables = Tables()
    found = []
    for _ in range(2):
        with Pipeline(tmp_path, **kafka_settings(kafka_place), **database_settings(postgres)) as pipeline:
            pipeline.start("--speed", "max", *arguments)
            assert pipeline.status()["origin"] == "REPLAYED"
            until(lambda p=pipeline: all("is finished" in (f["detail"] or "") for f in p.status()["feeds"]), "its end")
            pipeline.stop()
        with closing(open_lanes(kafka_place, market_of)) as lanes:
            found.append(trades_in(list(lanes.recent(0, tables, Origin.REPLAYED)), tables))
    made, _ = recorded([Path(name) for name in files], new := Tables())
    expected = trades_in([made.take(np.flatnonzero(Seen().filter(made)))], new)
    assert sorted(found[0]) == sorted(expected)
    assert len(found[1]) == len(found[0]), "the second time everything is known"


def test_a_broker_that_is_killed_is_said_and_the_recording_goes_on_when_it_is_back(
    tmp_path: Path, postgres: Dsn
) -> None:
    broker = Broker(tmp_path / "kafka")
    place = KafkaPlace(broker.start(), "raw-trades", 3, deadline_ms=60_000)
    settings = kafka_settings(place) | database_settings(postgres) | {"KAFKA_DEADLINE": "10s"}
    try:
        ensure_topic(place)
        with Pipeline(tmp_path, **settings) as pipeline:
            pipeline.start()
            until(lambda: pipeline.status()["log"]["end"] > 50, "it records")
            broker.kill()
            said = f"Kafka at {place.servers} has not answered for"
            until(lambda: said in (pipeline.status()["log"].get("detail") or ""), "it is said")
            assert pipeline.status()["log"]["state"] == "waiting"
            assert pipeline.get("readyz").status_code == 503
            broker.start()
            until(lambda: pipeline.status()["log"]["state"] == "ok", "it is found again")
            end = pipeline.status()["log"]["end"]
            until(lambda: pipeline.status()["log"]["end"] > end + 20, "the recording goes on")
            broker.kill()
            until(lambda: pipeline.status()["log"]["state"] == "waiting", "it is said again")
            pipeline.stop()  # in order, though what waits cannot be recorded
            assert "were not acknowledged" in pipeline.last_words()
    finally:
        broker.stop()
