"""Recorded days through the engine, without sockets or database: the same records, rows and alerts as a live replay.

    files ─► one order by event time ─► without repeats ─► with ticks ─► engine ─► three CSV files, one hash

A pipeline's own log (`log.db`) is taken as it is: it holds all of that already.

The result depends on the files, the settings and the rules; not on the batch size, the machine or the day.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from tapewatch.capturefile import is_capture
from tapewatch.errors import InputError
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.flatfile import read_flatfile
from tapewatch.feed.ticks import SECOND_MS, closing_ticks, with_ticks
from tapewatch.log.reader import LogReader
from tapewatch.profiles.captured import captured_log
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rows import RunRows, alerts_sha256
from tapewatch.records import Batch, Changes, Decision, Kind, Market, Refused, Tables
from tapewatch.rules.model import Rules

__all__ = ["RecordedLog", "Replayed", "no_trades", "read_log", "recorded", "replay_files", "settled_ms"]

_SQLITE: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay gave. ``seconds`` is the engine's time alone, from records in memory to rows."""

    records: int
    decisions: dict[str, int]
    repeated: int
    skipped: dict[str, int]
    windows: int
    bars: int
    alerts: dict[str, int]
    seconds: float
    sha256: str
    alerts_sha256: str
    said: tuple[str, ...] = ()
    """Sentences about files that could not be read to their end."""

    @property
    def trades(self) -> int:
        """Trades that went into the engine."""
        return sum(self.decisions.values())


@dataclass(frozen=True, slots=True)
class RecordedLog:
    """The records of some files, as a pipeline's log holds them.

    ``said`` are sentences about files that could not be read to their end.
    """

    batch: Batch
    repeated: int
    skipped: dict[str, int]
    """How many rows were left out, by reason."""
    said: tuple[str, ...] = ()
    rules: Rules | None = None
    """The rules that held at its beginning, where it says so."""


def read_log(
    paths: Sequence[Path], tables: Tables, parts: Parts, symbols: Collection[str] | None = None
) -> RecordedLog:
    """The log of trades flat files, of raw captures, or of one pipeline (`log.db`); the first file says which.

    With ``symbols`` (product symbols), only their trades: everything else is as if nobody had watched the others.

    Raises:
        InputError: a file cannot be used, or they hold no trade (of these symbols).
        LogError, LogCorrupt: the log cannot be read.
    """
    read = _captured if is_capture(paths[0]) else _logged if _is_log(paths[0]) else _day
    found = read(paths, tables, parts, symbols)
    found.batch.offset = 0
    return found


def recorded(
    paths: Sequence[Path], tables: Tables, symbols: Collection[str] | None = None
) -> tuple[Batch, dict[str, int]]:
    """The trades of all files in event order, and how many rows were skipped, by reason.

    Raises:
        InputError: a file cannot be used, or none holds a trade.
    """
    skipped: dict[str, int] = {}
    batches = []
    for path in paths:
        file = read_flatfile(path, tables, symbols)
        batches.append(file.batch)
        for reason, number in file.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + number
    batch = Batch.join(batches)
    if not len(batch):
        raise no_trades(paths, symbols or ())
    return (batch if len(paths) == 1 else batch.take(np.argsort(batch.received_ns, kind="stable"))), skipped


def no_trades(paths: Sequence[Path], symbols: Collection[str] = ()) -> InputError:
    """What is said of files that hold no trade; of these symbols, if any are named."""
    of = f" of {', '.join(sorted(symbols))}" if symbols else ""
    return InputError(f"{', '.join(map(str, paths))}: no trades{of} to replay")


def settled_ms(last_ms: int, slide_ms: int, delay_ms: int, confirm_ms: int) -> int:
    """The whole second at which nothing of a market whose last trade was at ``last_ms`` is open any more."""
    end = last_ms - last_ms % slide_ms + slide_ms + max(delay_ms, confirm_ms)
    return -(-end // SECOND_MS) * SECOND_MS


def replay_files(paths: Sequence[Path], out: Path, parts: Parts, *, batch_size: int) -> Replayed:
    """Replay trades flat files, raw captures, or a pipeline's log, and write the rows to ``out``.

    Raises:
        InputError: a file cannot be read, or the folder cannot be written.
        LogError, LogCorrupt: the log cannot be read.
    """
    tables = Tables()
    found = read_log(paths, tables, parts)
    log = found.batch
    engine = replace(parts, rules=found.rules or parts.rules).engine(tables)
    results: list[Changes] = []
    counts = np.zeros(len(Decision), np.int64)
    started = time.perf_counter()
    for start in range(0, len(log), batch_size):
        decisions = engine.step(log.slice(start, min(start + batch_size, len(log))))
        counts += np.bincount(decisions[decisions < len(Decision)], minlength=len(Decision))
        results.append(engine.drain())
    seconds = time.perf_counter() - started
    rows = RunRows.of_changes(results, tables)
    try:
        out.mkdir(parents=True, exist_ok=True)
        sha256 = rows.write(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
    kinds: dict[str, int] = {}
    for alert in rows.alerts:
        name = f"{alert.kind} {alert.status}"
        kinds[name] = kinds.get(name, 0) + 1
    return Replayed(
        records=len(log),
        decisions={d.name.lower(): int(counts[d]) for d in Decision},
        repeated=found.repeated,
        skipped=found.skipped,
        windows=len(rows.windows),
        bars=len(rows.bars),
        alerts=dict(sorted(kinds.items())),
        seconds=seconds,
        sha256=sha256,
        alerts_sha256=alerts_sha256(rows.alerts),
        said=found.said,
    )


_Symbols = Collection[str] | None


def _day(paths: Sequence[Path], tables: Tables, parts: Parts, symbols: _Symbols) -> RecordedLog:
    """The log of trades flat files."""
    trades, skipped = recorded(paths, tables, symbols)
    new = Seen().filter(trades)
    repeated = int(np.count_nonzero(~new))
    if repeated:
        trades = trades.take(np.flatnonzero(new))
    return RecordedLog(Batch.join(list(_with_ticks(trades, parts))), repeated, skipped)


def _captured(paths: Sequence[Path], tables: Tables, parts: Parts, symbols: _Symbols) -> RecordedLog:
    """The log of raw captures."""
    found = captured_log(paths, tables, parts.settings.future_limit_ms)
    skipped = {str(reason): number for reason, number in found.refused.items() if reason is not Refused.REPEATED}
    log = Batch.join([_of_symbols(found.batch, tables, symbols), *_closing(found.last_ms, parts)])
    return RecordedLog(log, found.refused[Refused.REPEATED], skipped, found.said)


def _logged(paths: Sequence[Path], tables: Tables, parts: Parts, symbols: _Symbols) -> RecordedLog:
    """A pipeline's log."""
    if len(paths) > 1:
        raise InputError(f"{paths[0]}: is a pipeline's log, which is replayed alone; leave out {paths[1]}")
    batches = []
    with closing(LogReader.open(paths[0], tables)) as reader:
        rules = parts.of_log(reader).rules
        at = reader.first
        while len(batch := reader.read(at)):
            batches.append(batch)
            at = batch.offset + len(batch)
    log = _of_symbols(Batch.join(batches), tables, symbols)
    if not np.any(log.kind == Kind.TRADE):
        raise no_trades(paths, symbols or ())
    return RecordedLog(log, 0, {}, rules=rules)


def _is_log(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _of_symbols(log: Batch, tables: Tables, symbols: _Symbols) -> Batch:
    """Without the trades of other symbols; ticks and gaps stay."""
    if symbols is None:
        return log
    wanted = [number for name in symbols if (number := tables.symbols.find(name)) is not None]
    return log.take(np.flatnonzero((log.kind != Kind.TRADE) | np.isin(log.symbol, wanted)))


def _with_ticks(trades: Batch, parts: Parts) -> Iterator[Batch]:
    """The log that a live replay of the same trades would write."""
    cuts = [0, *(np.flatnonzero(np.diff(trades.market)) + 1).tolist(), len(trades)]
    last: dict[Market, int] = {}
    for start, stop in pairwise(cuts):
        stretch = trades.slice(start, stop)
        market = Market(int(stretch.market[0]))
        yield with_ticks(stretch, last.get(market))
        last[market] = max(last.get(market, 0), int(stretch.time_ms.max()))
    yield from _closing(last, parts)


def _closing(last: dict[Market, int], parts: Parts) -> Iterator[Batch]:
    """The ticks that end the last panes of each market and make its last rows final."""
    s = parts.settings
    for market, last_ms in sorted(last.items()):
        yield closing_ticks(market, last_ms, settled_ms(last_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms))
