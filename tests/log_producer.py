"""A feed of a known log, as a process: publishes a chaos log in pieces, and after a kill goes on where the topic ends.

    python tests/log_producer.py SERVERS TOPIC PARTITIONS SEED SECONDS RECORDS_PER_PIECE PAUSE_S

It goes on after the last piece of which the topic shows all; a piece that a kill has torn comes again, and some of its
records twice: what came twice is part of the log like anything else.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter

import numpy as np

from chaos_log import chaos, ruled
from tapewatch.feed.symbols import market_of, wire_symbol
from tapewatch.log.kafka import Codec, KafkaLogWriter, KafkaPlace
from tapewatch.records import Batch, Kind, Origin, Tables


def first_missing(writer: KafkaLogWriter, batch: Batch) -> int:
    """The first record of which the topic shows nothing: by the names of trades, the only ones that are named."""
    shown = Counter(name for part in writer.recent(0) for name in part.ids if name.startswith("t"))
    named = [i for i, name in enumerate(batch.ids) if batch.kind[i] == Kind.TRADE and name]
    missing = next((i for i in named if not shown[batch.ids[i]]), len(batch))
    return max((i for i in named if i < missing), default=-1) + 1


def main() -> None:
    servers, topic, partitions, seed, seconds, piece, pause_s = sys.argv[1:]
    tables = Tables()
    batch = ruled(chaos(int(seed), tables, seconds=int(seconds)))
    place = KafkaPlace(servers, topic, int(partitions), deadline_ms=60_000)
    with KafkaLogWriter.open(place, tables, origin=Origin.REPLAYED, codec=Codec(wire_symbol, market_of)) as writer:
        start = first_missing(writer, batch)
        print("publishing from", start, flush=True)
        for at in np.arange(start, len(batch), int(piece)).tolist():
            writer.append(batch.slice(at, min(at + int(piece), len(batch))))
            threading.Event().wait(float(pause_s))
    print("published", flush=True)


if __name__ == "__main__":
    main()
