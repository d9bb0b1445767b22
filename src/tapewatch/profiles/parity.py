"""The parity certificate: one recorded log through both profiles, and one hash of all rows and alerts for each.

    log.db ──► engine in this process ───────────────────────────────────────► rows ──► hash
       └─────► a new topic ──► Spark, by so many partitions and batches ──► a new database ──► rows ──► hash

The broker, the topic and the database are made for it and thrown away after it; no running pipeline is touched.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from tapewatch.errors import InputError
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace
from tapewatch.log.reader import LogReader
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rows import RunRows
from tapewatch.profiles.spark import Job, LanePlan
from tapewatch.profiles.spark_job import EARLIEST
from tapewatch.profiles.workshop import Workshop
from tapewatch.records import Batch, Changes, Tables
from tapewatch.settings import BATCH_RECORDS_MAX
from tapewatch.store.writer import StoreWriter

__all__ = ["Certificate", "Run", "certify", "differences", "embedded_rows", "spark_rows"]

DIFFERENCES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Run:
    """One way through, and what it came to."""

    name: str
    sha256: str
    seconds: float
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Certificate:
    """All runs over one log; the first is the embedded one."""

    records: int
    windows: int
    bars: int
    alerts: int
    runs: list[Run]

    @property
    def is_good(self) -> bool:
        """Whether all came to the same."""
        return len({run.sha256 for run in self.runs}) == 1


def certify(
    log: Path, parts: Parts, workshop: Workshop, partitions: Sequence[int], batches: Sequence[int]
) -> Iterator[Run | Certificate]:
    """Each run as it is done, and at last the certificate.

    Raises:
        InputError: the log is empty.
        LogError, LogCorrupt: it cannot be read.
    """
    started = time.perf_counter()
    expected, records = embedded_rows(log, parts, batches[0])
    if not records:
        raise InputError(f"{log}: holds no records")
    runs = [Run(f"embedded, {batches[0]:,} records a batch", expected.sha256(), time.perf_counter() - started)]
    yield runs[0]
    for count in partitions:
        for batch in batches:
            started = time.perf_counter()
            found = spark_rows(log, parts, workshop, count, batch)
            name = f"Kafka and Spark, {count} partition{'s' * (count != 1)}, {batch:,} messages a batch"
            run = Run(name, found.sha256(), time.perf_counter() - started, differences(expected, found))
            runs.append(run)
            yield run
    yield Certificate(records, len(expected.windows), len(expected.bars), len(expected.alerts), runs)


def _batches(log: Path, tables: Tables, size: int) -> Iterator[Batch]:
    with closing(LogReader.open(log, tables)) as reader:
        yield from reader.batches(reader.first, size=min(size, BATCH_RECORDS_MAX))


def embedded_rows(log: Path, parts: Parts, batch_size: int) -> tuple[RunRows, int]:
    """What the engine makes of the log in this process; and the number of its records."""
    tables = Tables()
    engine = parts.engine(tables)
    results: list[Changes] = []
    records = 0
    for batch in _batches(log, tables, batch_size):
        if engine.position is not None:
            engine.skip_to(batch.offset)
        engine.step(batch)
        results.append(engine.drain())
        records += len(batch)
    return RunRows.of_changes(results, tables), records


def spark_rows(log: Path, parts: Parts, workshop: Workshop, partitions: int, batch_size: int) -> RunRows:
    """What Kafka and Spark make of it, read back from the database."""
    name = f"tapewatch-parity-{uuid.uuid4().hex[:12]}"
    place = KafkaPlace(workshop.servers, name, partitions)
    log_id = publish(log, place)
    with closing(StoreWriter.connect(workshop.conninfo)) as store:
        store.initialise()
        store.reset(outbox=True)
    workshop.session.conf.set("spark.sql.shuffle.partitions", str(partitions))
    job = Job(
        workshop.session, LanePlan(parts, (), place, log_id, workshop.conninfo),
        checkpoint=str(workshop.folder / name), starting={str(lane): EARLIEST for lane in range(partitions)},
        batch_records_max=batch_size, interval_ms=0, once=True,
    )  # fmt: skip
    job.start()
    job.wait()
    return RunRows.of_database(workshop.conninfo)


def publish(log: Path, place: KafkaPlace) -> str:
    """Put all records of the log into a new topic; its log id."""
    tables = Tables()
    with closing(LogReader.open(log, Tables())) as reader:
        origin = reader.origin
    with KafkaLogWriter.open(place, tables, origin=origin, codec=Codec(wire_symbol, market_of)) as writer:
        for batch in _batches(log, tables, BATCH_RECORDS_MAX):
            writer.append(batch)
        return writer.log_id


def differences(expected: RunRows, found: RunRows) -> list[str]:
    """The first rows that differ, each as a line for people."""
    said: list[str] = []
    for (table, columns, rows), (_, _, others) in zip(expected.tables(), found.tables(), strict=True):
        key_length = 1 if table == "breakout_alerts" else 2
        wanted = {row[:key_length]: row for row in rows}
        for row in others:
            mine = wanted.pop(row[:key_length], None)
            if mine != row and len(said) < DIFFERENCES_MAX:
                said.append(_difference(table, columns, row[:key_length], mine, row))
        for key in list(wanted)[: DIFFERENCES_MAX - len(said)]:
            said.append(f"{table} {_key(key)}: missing in Kafka and Spark")
    return said


def _difference(
    table: str, columns: Sequence[str], key: tuple[Any, ...], mine: tuple[Any, ...] | None, other: tuple[Any, ...]
) -> str:
    if mine is None:
        return f"{table} {_key(key)}: only in Kafka and Spark"
    pairs = zip(columns, mine, other, strict=True)
    return f"{table} {_key(key)}: " + "; ".join(f"{name} {a!r}, with Spark {b!r}" for name, a, b in pairs if a != b)


def _key(key: tuple[Any, ...]) -> str:
    return msgspec.json.encode(key).decode()
