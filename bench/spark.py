"""The distributed engine: Kafka, Spark and the database, each a real one, on this machine.

    python bench/spark.py [--quick]

    throughput  a topic is filled, then computed by the job, and by the plain Spark design (`spark_plain.py`); both in
                one session. The first batch is apart, since it compiles; the median of the others counts
    latency     a `tapewatch spark` of its own; for each message from its append time in Kafka to the moment that the
                database tells of the commit that holds it
    backlog     the same, stopped for two minutes at 10,000 messages/s and started while they go on: until it is level
    memory      of its processes; and the state of a lane
    producer    `KafkaLogWriter.append`: encoded, sent and acknowledged

The broker, PostgreSQL and the sender share the machine. The database is the embedded one without fsync, and the broker
acknowledges without it too, as `tapewatch cluster` has them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

from kafka_load import START_MS, Load, ends, preload
from report import Figure, main, print_figures
from spark_parts import Arrivals, SenderProcess, SparkProcess, spark_cpu_s
from spark_plain import start_plain
from tape import Tape, names
from tapewatch.errors import MachineError
from tapewatch.feed.decode import Decoder
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace, ensure_topic
from tapewatch.log.messages import encode_messages
from tapewatch.profiles.jars import ensure_jars, java
from tapewatch.profiles.lane import Lane
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.spark import Job, LanePlan
from tapewatch.profiles.workshop import Workshop, open_workshop
from tapewatch.records import Market, Origin, Tables
from tapewatch.settings import Settings
from tapewatch.store.writer import StoreWriter

LANES = 3
BATCH_RECORDS_MAX = 300_000
EVENT_RATE = 10_000
MIB = 2**20
Batches = list[float]


def new_topic(workshop: Workshop) -> KafkaPlace:
    """An empty topic, and an empty database for it."""
    place = KafkaPlace(workshop.servers, f"bench-{uuid.uuid4().hex[:12]}", LANES)
    ensure_topic(place)
    with closing(StoreWriter.connect(workshop.conninfo)) as store:
        store.initialise()
        store.reset(outbox=True)
    return place


# --- throughput -------------------------------------------------------------------------------------------------


def ours(workshop: Workshop, parts: Parts, place: KafkaPlace) -> tuple[Batches, float]:
    """Messages/s of each full batch after the first, and CPU seconds of Java and Python."""
    plan = LanePlan(parts, ("log",), place, ensure_topic(place).log_id, workshop.conninfo)
    before = spark_cpu_s(workshop.session)
    job = Job(
        workshop.session, plan, checkpoint=str(workshop.folder / uuid.uuid4().hex),
        starting={str(lane): -2 for lane in range(LANES)}, batch_records_max=BATCH_RECORDS_MAX, interval_ms=0,
        once=True,
    )  # fmt: skip
    job.start()
    job.wait()
    full = [batch for batch in job.progress() if batch["numInputRows"] > 0.9 * BATCH_RECORDS_MAX]
    rates = [1e3 * batch["numInputRows"] / batch["durationMs"]["triggerExecution"] for batch in full[1:]]
    positions = {}
    with closing(StoreWriter.connect(workshop.conninfo)):
        for lane in range(LANES):
            with closing(StoreWriter.connect(workshop.conninfo, str(lane))) as store:
                found = store.peek(plan.log_id)
                positions[str(lane)] = 0 if found is None else found.position
    assert positions == ends(place.servers, place.topic), f"computed up to {positions}"
    return rates, spark_cpu_s(workshop.session) - before


def plain(workshop: Workshop, place: KafkaPlace) -> tuple[Batches, float]:
    """The same of the plain design."""
    times = [time.perf_counter()]
    before = spark_cpu_s(workshop.session)
    start_plain(
        workshop.session, place.servers, place.topic, workshop.conninfo, str(workshop.folder / uuid.uuid4().hex),
        BATCH_RECORDS_MAX, lambda: times.append(time.perf_counter()),
    ).awaitTermination()  # fmt: skip
    return _rates(times), spark_cpu_s(workshop.session) - before


def _rates(times: list[float]) -> Batches:
    """Of all batches but the first and the rest that is left at the end."""
    rates = [BATCH_RECORDS_MAX / (end - begin) for begin, end in pairwise(times)]
    return rates[1:-1]


def throughput(workshop: Workshop, parts: Parts, symbols: int, messages: int) -> list[Figure]:
    """Ours and the plain design, over the same topic."""
    place = new_topic(workshop)
    preload(place.servers, place.topic, Load(symbols, EVENT_RATE), messages)
    workshop.session.conf.set("spark.sql.shuffle.partitions", str(LANES))
    found, cpu_s = ours(workshop, parts, place)
    others, others_cpu_s = plain(workshop, place)
    note = f"{symbols:,} symbols"
    return [
        Figure(
            name="Kafka to database", note=note, unit="messages/s", values=found, more_is_better=True,
            target=100_000 if symbols == 50 else None,
        ),
        Figure(name="CPU of Java and Python, first batch included", note=note, unit="µs/message",
               values=[1e6 * cpu_s / messages]),
        Figure(name="the plain design", note=note, unit="messages/s", values=others, more_is_better=True),
        Figure(name="CPU of the plain design", note=note, unit="µs/message", values=[1e6 * others_cpu_s / messages]),
        Figure(name="ours against the plain design", note=note, unit="times", more_is_better=True,
               values=[statistics.median(found) / statistics.median(others)]),
    ]  # fmt: skip


# --- latency, backlog, memory -------------------------------------------------------------------------------------


def latency(workshop: Workshop, rate: int, trigger: str, warm_s: float, seconds: float) -> list[Figure]:
    """From the append to the commit, of every message after a time in which the job warms up."""
    place = new_topic(workshop)
    with SparkProcess(workshop, place, TRIGGER_INTERVAL=trigger) as job, Arrivals(workshop.conninfo) as arrivals:
        job.wait_ready()
        with SenderProcess(place, 50, rate, warm_s) as sender:
            sender.run()
        arrivals.wait_level(place, 120)  # Java has compiled, and the workers have loaded, what the first batches need
        with SenderProcess(place, 50, rate, 2 + seconds, START_MS + int(1e3 * warm_s)) as sender:
            before, began = job.cpu_s(), time.monotonic()
            since_ms = 1e3 * (time.time() + 2)
            sent = sender.run()
            cpu = 100 * (job.cpu_s() - before) / (time.monotonic() - began)
        arrivals.wait_level(place, 120)
        late_ms = arrivals.latencies_ms(place, since_ms)
        memory = job.memory_mib()
    note = f"{rate:,} messages/s, TRIGGER_INTERVAL={trigger}"
    figures = [
        Figure(name=f"Kafka append to committed row, {words}", note=note, unit="ms",
               values=[float(np.percentile(late_ms, percent))])
        for words, percent in (("p50", 50), ("p99", 99), ("max", 100))
    ]  # fmt: skip
    if (rate, trigger) == (1_000, "0s"):
        figures[0].target, figures[1].target = 400, 1_000
    figures.append(Figure(name="CPU of Java and Python", note=note, unit="% of a core", values=[cpu]))
    figures += [Figure(name=f"memory of {name}", note=note, unit="MiB", values=[mib]) for name, mib in memory.items()]
    print(f"  {sent.trades:,} sent, at most {sent.late_ms_max:.0f} ms after their time; {len(late_ms):,} measured")
    return figures


def backlog(workshop: Workshop, messages: int, seconds: float) -> list[Figure]:
    """The job finds so many messages, and 10,000 more each second, and comes level with them."""
    place = new_topic(workshop)
    checkpoint = workshop.folder / uuid.uuid4().hex
    job = SparkProcess(workshop, place, CHECKPOINT_DIR=str(checkpoint))
    with job, SenderProcess(place, 50, EVENT_RATE, 5) as sender:
        job.wait_ready()
        sender.run()
    load = Load(50, EVENT_RATE, START_MS + 5_000)
    preload(place.servers, place.topic, load, messages)
    with (
        SenderProcess(place, 50, EVENT_RATE, seconds, load.time_ms()) as sender,
        Arrivals(workshop.conninfo) as arrivals,
    ):
        sender.begin()
        began = time.time()
        with SparkProcess(workshop, place, CHECKPOINT_DIR=str(checkpoint)) as job:
            job.wait_ready()
            ready_s = time.time() - began
            sender.end()
            arrivals.wait_level(place, 300)
            level_s = arrivals.level_after_s(place, began)
    note = f"{messages:,} messages waiting, 10,000/s go on"
    return [
        Figure(name="backlog is gone, start of Spark included", note=note, unit="s", values=[level_s], target=60),
        Figure(name="of it until the job runs", note=note, unit="s", values=[ready_s]),
    ]


def state(parts: Parts, symbols: int) -> list[Figure]:
    """What a lane keeps that has seen so many symbols over ten minutes."""
    lane, load, at = Lane("0", parts, ()), Load(symbols, 2_000), 0
    for _ in range(12):
        values = [load.next()[1] for _ in range(100_000)]
        times = np.full(len(values), load.time_ms(), np.int64)
        taken = lane.take(np.arange(at, at + len(values)), times, values)
        at += len(values)
    size, note = len(taken.state.engine), f"{symbols:,} symbols in one lane"
    return [
        Figure(name="state of a lane", note=note, unit="bytes", values=[size]),
        Figure(name="state of a symbol", note=note, unit="bytes", values=[size / symbols]),
    ]


# --- the producer -------------------------------------------------------------------------------------------------


def producer(workshop: Workshop, batches: int) -> list[Figure]:
    """Batches of 2,000 trades, each acknowledged before the next, as the feed writes them."""
    place, tables = new_topic(workshop), Tables()
    tape = Tape(names(50), 100)
    decoded = Decoder(tables).decode([(Market.STOCKS, tape.next_frame(START_MS + n), 1) for n in range(20)]).batch
    rates, cpu_us = [], []
    codec = Codec(wire_symbol, market_of)
    with KafkaLogWriter.open(place, tables, origin=Origin.LIVE, codec=codec) as writer:
        for _ in range(batches):
            wall, cpu = time.perf_counter(), psutil.Process().cpu_times()
            writer.append(decoded)
            now = psutil.Process().cpu_times()
            rates.append(len(decoded) / (time.perf_counter() - wall))
            cpu_us.append(1e6 * (now.user + now.system - cpu.user - cpu.system) / len(decoded))
    encode_s = []
    for _ in range(5):
        began = time.process_time()
        size = sum(len(value) for _, value in encode_messages(decoded, tables, Origin.LIVE, wire_symbol))
        encode_s.append(time.process_time() - began)
    return [
        Figure(
            name="appended and acknowledged", note="2,000 a batch", unit="trades/s", values=rates, more_is_better=True
        ),
        Figure(name="CPU of appending", unit="µs/trade", values=[statistics.mean(cpu_us)]),
        Figure(name="of it encoding", unit="µs/trade", values=[1e6 * s / len(decoded) for s in encode_s]),
        Figure(name="a message, before compression", unit="bytes", values=[size / len(decoded)]),
    ]


def measure(quick: bool) -> list[Figure]:
    """All figures of this file; none, and a sentence why, without Java."""
    figures: list[Figure] = []
    try:
        java()
        ensure_jars("kafka")
        ensure_jars("spark")
    except MachineError as error:
        print(f"Not measured: {error}")
        return figures

    def add(mine: list[Figure]) -> None:
        print_figures(mine)
        figures.extend(mine)

    with tempfile.TemporaryDirectory(prefix="tapewatch-bench-") as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder))
        parts = Parts.load(settings)
        with open_workshop(settings) as workshop:
            if not quick:
                throughput(workshop, parts, 50, 4 * BATCH_RECORDS_MAX)  # Java is warm for both then
            for symbols in (50, 10_000):
                add(throughput(workshop, parts, symbols, 1_200_000 if quick else 4_500_000))
            add(producer(workshop, 20 if quick else 200))
            workshop.session.stop()  # its memory and its pauses are not the job's that follows
            warm_s, seconds = (20.0, 10.0) if quick else (90.0, 60.0)
            for rate, trigger in ((1_000, "0s"), (10_000, "0s"), (1_000, "10s")):
                add(latency(workshop, rate, trigger, warm_s, seconds))
            add(backlog(workshop, 100_000 if quick else 1_200_000, 60.0 if quick else 120.0))
        for symbols in (50, 10_000):
            add(state(parts, symbols))
    return figures


if __name__ == "__main__":
    main("Kafka, Spark and the database", measure)
