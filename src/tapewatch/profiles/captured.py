"""The log of a raw capture, without sockets: the records that the feed's log had, and that a live replay of it has.

captures ─► items as the client had put them ─► [Coinbase in Massive's words] ─► the feed's own ingest ─► records
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tapewatch.capturefile import captures_in_order, lines_of
from tapewatch.errors import InputError
from tapewatch.feed.coinbase_trades import CoinbaseTape
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, Item
from tapewatch.feed.recorded import items
from tapewatch.profiles.sources import COINBASE
from tapewatch.records import Batch, Market, Refused, Tables
from tapewatch.settings import DECODE_EVENTS_MAX

__all__ = ["CapturedLog", "captured_log"]


@dataclass(frozen=True, slots=True)
class CapturedLog:
    """What captures gave. ``said`` are sentences about captures that could not be read to their end."""

    batch: Batch
    last_ms: dict[Market, int]
    """The last event time known of each market."""
    refused: Counter[Refused]
    said: tuple[str, ...]


def captured_log(paths: Sequence[Path], tables: Tables, future_limit_ms: int) -> CapturedLog:
    """The records of captures that belong together.

    Raises:
        InputError: a file is no capture, they are of different sources, or they hold no record.
    """
    readers = captures_in_order(paths)
    delays = {Market[name.upper()]: feed.delay_ms for reader in readers for name, feed in reader.head.feeds.items()}
    ingest = Ingest(tables, Seen(), future_limit_ms=future_limit_ms)
    played: Iterator[Item] = items(lines_of(readers), delays)
    if readers[0].head.source == COINBASE:
        played = _translated(played)
    batches = []
    while some := list(islice(played, DECODE_EVENTS_MAX)):
        batches.append(ingest.step(some))
    batch = Batch.join([one for one in batches if len(one)])
    if not len(batch):
        raise InputError(f"{', '.join(map(str, paths))}: no trades to replay")
    last_ms = {market: at_ms for market in Market if (at_ms := ingest.last_ms(market)) is not None}
    return CapturedLog(batch, last_ms, ingest.refused, tuple(reader.stopped for reader in readers if reader.stopped))


def _translated(played: Iterable[Item]) -> Iterator[Item]:
    tape = CoinbaseTape()
    for item in played:
        if isinstance(item, Frame):
            yield from tape.items(item)
        else:
            yield item
