"""Where the records of an explained minute are read from: the embedded log, or the symbol's lane of the Kafka topic.

Both give batches in log order, and find from where to read so that no record of an event time is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from tapewatch.errors import LogError
from tapewatch.log.kafka import KafkaPlace, ensure_topic, open_lanes
from tapewatch.log.lanes import LanesReader
from tapewatch.log.reader import LogReader
from tapewatch.profiles.said import SEARCH_MS, first_of, rules_before
from tapewatch.records import Batch, Kind, Market, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import Rules

__all__ = ["OpenSources", "Source", "kafka_source", "lane_of", "local_source"]

_FIRST_RECORDS: Final = 1_000
_SEED: Final = 0x9747B28C
_MIX: Final = 0x5BD1E995


class Source(Protocol):
    """The records among which a symbol's are. Every method may raise LogError."""

    tables: Tables

    def first_ms(self) -> int | None:
        """Least event time of the first records; None without any."""

    def since(self, time_ms: int | None) -> Iterator[Batch]:
        """All records from ``time_ms`` (event time, Unix ms) to the present end, and maybe some before; None: all."""

    def rules_before(self, time_ms: int | None, otherwise: Rules) -> Rules:
        """The rules that hold where `since` of that time begins; ``otherwise`` if the records do not say."""


OpenSources = Callable[[str], AbstractContextManager[Sequence[Source]]]
"""Opens where a symbol's records may be, one at least, likeliest first. Raises LogError."""


class _Embedded:
    def __init__(self, reader: LogReader, tables: Tables) -> None:
        self.tables = tables
        self._reader = reader

    def first_ms(self) -> int | None:
        batch = self._reader.read(self._reader.first, _FIRST_RECORDS)
        return int(batch.time_ms.min()) if len(batch) else None

    def since(self, time_ms: int | None) -> Iterator[Batch]:
        return self._reader.batches(self._reader.first if time_ms is None else self._reader.find_time(time_ms))

    def rules_before(self, time_ms: int | None, otherwise: Rules) -> Rules:
        at = self._reader.first if time_ms is None else self._reader.find_time(time_ms)
        return rules_before(self._reader, at, otherwise)


def local_source(log_path: Path) -> OpenSources:
    """The embedded log of a folder; it may be written at the same time."""

    @contextmanager
    def opened(symbol: str) -> Iterator[Sequence[Source]]:
        tables = Tables()
        with closing(LogReader.open(log_path, tables)) as reader:
            yield [_Embedded(reader, tables)]

    return opened


class _Lane:
    def __init__(self, reader: LanesReader, lane: int, early_ms: int) -> None:
        self.tables = Tables()
        self._reader = reader
        self._lane = lane
        self._early_ms = early_ms

    def first_ms(self) -> int | None:
        for batch in self._reader.lane(self._lane, self.tables):
            return int(batch.time_ms.min())
        return None

    def since(self, time_ms: int | None) -> Iterator[Batch]:
        # What happened at a time was appended later, but for what is stamped ahead: that is kept out beyond a limit.
        appended_ms = None if time_ms is None else time_ms - self._early_ms
        return self._reader.lane(self._lane, self.tables, since_ms=appended_ms)

    def rules_before(self, time_ms: int | None, otherwise: Rules) -> Rules:
        if time_ms is not None:
            said = ""
            for batch in self.since(time_ms - SEARCH_MS):
                before = np.flatnonzero((batch.kind == Kind.RULES) & (batch.time_ms < time_ms))
                said = batch.ids[before[-1]] if len(before) else said
                if int(batch.time_ms.max()) >= time_ms:
                    break
            if said:
                return RuleChange.decode(said).rules
        return first_of(self.since(None), otherwise)


def kafka_source(place: KafkaPlace, market_of: Callable[[str], Market], future_limit_ms: int) -> OpenSources:
    """The symbol's lane, to which its key leads; then the others, for trades that were typed without a key."""

    @contextmanager
    def opened(symbol: str) -> Iterator[Sequence[Source]]:
        partitions = ensure_topic(place).partitions
        mine = lane_of(symbol, partitions)
        with closing(open_lanes(place, market_of)) as reader:
            yield [
                _Lane(reader, lane, future_limit_ms) for lane in (mine, *(n for n in range(partitions) if n != mine))
            ]

    return opened


def lane_of(key: str, partitions: int) -> int:
    """The partition that Kafka's Java clients, and our producer, choose for a key: positive murmur2 of its bytes.

    Source: `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`.

    >>> [lane_of(key, 3) for key in ("AAPL", "TSLA", "BTC")]
    [0, 0, 0]
    """
    if partitions < 1:
        raise LogError(f"a topic has at least one partition, got {partitions}")
    data = key.encode()
    mixed = (_SEED ^ len(data)) & 0xFFFFFFFF
    whole = len(data) - len(data) % 4
    for k in np.frombuffer(data[:whole], "<u4").tolist():
        k = k * _MIX & 0xFFFFFFFF
        k = (k ^ k >> 24) * _MIX & 0xFFFFFFFF
        mixed = (mixed * _MIX & 0xFFFFFFFF) ^ k
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _MIX & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * _MIX & 0xFFFFFFFF
    mixed ^= mixed >> 15
    return (mixed & 0x7FFFFFFF) % partitions
