"""A process that writes to Kafka until it is killed: `python tests/kafka_writing.py SERVERS TOPIC`.

Batches of `SIZE` trades, numbered by their ids and event times, each with a tick at its end; the number of trades that
were acknowledged is printed after each.
"""

from __future__ import annotations

import sys
from typing import Final

from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace
from tapewatch.records import Batch, Kind, Origin, Tables

T0: Final = 1_763_658_000_000
SIZE: Final = 5_000


def main(servers: str, topic: str) -> None:
    tables = Tables()
    symbols = [tables.symbols.index(f"S{i}") for i in range(40)]
    log = KafkaLogWriter.open(
        KafkaPlace(servers, topic, 3, deadline_ms=60_000),
        tables,
        origin=Origin.LIVE,
        codec=Codec(wire_symbol, market_of),
    )
    start = 0
    while True:
        rows = []
        for i in range(start, start + SIZE):
            rows.append((Kind.TRADE, 0, symbols[i % 40], T0 + i, (T0 + i) * 10**6, 1.0, 10**8, 4, 0, 0, str(i)))
        end_ms = T0 + start + SIZE - 1
        rows.append((Kind.TICK, 0, -1, end_ms, end_ms * 10**6, 0.0, 0, 0, 0, 0, ""))
        log.append(Batch.of(rows))
        start += SIZE
        print(start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
