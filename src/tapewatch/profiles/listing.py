"""Looking at the log: its records, newest last, and what it holds altogether.

The log says what came; what was done with a trade (late, stamped in the future, ineligible) is decided by the engine,
which is therefore run over the log again when that is asked for. After retention has dropped the beginning, the first
minutes that are left may be decided otherwise than they once were.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.errors import InputError
from tapewatch.log.reader import LogReader
from tapewatch.profiles.parts import Parts
from tapewatch.records import E8, Batch, Decision, Gap, GapState, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import Rules
from tapewatch.serve.models import parse_time_ms
from tapewatch.settings import BATCH_RECORDS_MAX

__all__ = ["HEADER", "Listing", "Totals", "Wanted", "describe", "list_records", "read_time_ms", "totals"]

HEADER: Final = (
    f"{'offset':>10}  {'time (UTC)':<23}  {'received':>9}  {'symbol':<8} {'price':>12} {'size':>14}  "
    "conditions  exchange  id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records are asked for; None asks for all. Times are event times in Unix ms, ``to_ms`` excluded."""

    symbol: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    kind: Kind | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest matching records as lines, oldest first. ``matching`` counts all, if all were looked at."""

    lines: list[str]
    matching: int | None


@dataclass(frozen=True, slots=True)
class Totals:
    """What a log holds. ``lost`` are offset ranges that a repair could not bring back."""

    log_id: str
    origin: Origin
    first: int
    end: int
    kinds: dict[str, int]
    trades: dict[str, int]
    """By symbol."""
    from_ms: int | None
    to_ms: int | None
    """Least and greatest event time of the trades."""
    size_bytes: int
    lost: tuple[tuple[int, int], ...]


def list_records(log_path: Path, parts: Parts, wanted: Wanted, limit: int) -> Listing:
    """The newest ``limit`` records that are ``wanted``.

    Raises:
        LogError, LogCorrupt, LogLost: see `LogReader`.
    """
    tables = Tables()
    with closing(LogReader.open(log_path, tables)) as reader:
        if wanted.decision is not None:
            return _decided(reader, parts, tables, wanted, limit)
        lines: deque[str] = deque()
        for batch in _backwards(reader, wanted.from_ms):
            rows = np.flatnonzero(_matching(batch, tables, wanted))[len(lines) - limit :]
            lines.extendleft(_line(batch, tables, i) for i in reversed(rows.tolist()))
            if len(lines) >= limit:
                break
    return Listing(list(lines), None)


def totals(log_path: Path) -> Totals:
    """Count the whole log. Raises as `list_records`."""
    tables = Tables()
    kinds: Counter[str] = Counter({kind.name.lower(): 0 for kind in Kind})
    trades: Counter[int] = Counter()
    times: list[int] = []
    with closing(LogReader.open(log_path, tables)) as reader:
        state = reader.state()
        for batch in reader.batches(state.first, state.end):
            for kind in Kind:
                kinds[kind.name.lower()] += int((batch.kind == kind).sum())
            traded = batch.kind == Kind.TRADE
            if traded.any():
                found, counts = np.unique(batch.symbol[traded], return_counts=True)
                trades.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
                times += [int(batch.time_ms[traded].min()), int(batch.time_ms[traded].max())]
        size = reader.size_bytes()
    return Totals(
        log_id=state.log_id,
        origin=state.origin,
        first=state.first,
        end=state.end,
        kinds=dict(kinds),
        trades={tables.symbols.values[s]: number for s, number in trades.most_common()},
        from_ms=min(times, default=None),
        to_ms=max(times, default=None),
        size_bytes=size,
        lost=state.lost,
    )


def _decided(reader: LogReader, parts: Parts, tables: Tables, wanted: Wanted, limit: int) -> Listing:
    engine = parts.of_log(reader).engine(tables)
    lines: deque[str] = deque(maxlen=limit)
    matching = 0
    for batch in reader.batches(reader.first):
        if engine.position is not None and batch.offset > engine.position:
            engine.skip_to(batch.offset)
        decisions = engine.step(batch)
        engine.drain()
        rows = np.flatnonzero(_matching(batch, tables, wanted) & (decisions == wanted.decision))
        matching += len(rows)
        lines.extend(_line(batch, tables, i) for i in rows[-limit:].tolist())
    return Listing(list(lines), matching)


def _backwards(reader: LogReader, from_ms: int | None) -> Iterator[Batch]:
    """Stretches of the log from its end to its beginning, or to where event time ``from_ms`` is reached."""
    end = reader.end
    first = reader.first if from_ms is None else reader.find_time(from_ms)
    while end > first:
        start = max(first, end - BATCH_RECORDS_MAX)
        yield from reversed(list(reader.batches(start, end)))
        end = start


def _matching(batch: Batch, tables: Tables, wanted: Wanted) -> NDArray[np.bool_]:
    match = np.ones(len(batch), np.bool_)
    if wanted.kind is not None:
        match &= batch.kind == wanted.kind
    if wanted.symbol is not None:
        number = tables.symbols.find(wanted.symbol)
        match &= batch.symbol == (-2 if number is None else number)
    if wanted.from_ms is not None:
        match &= batch.time_ms >= wanted.from_ms
    if wanted.to_ms is not None:
        match &= batch.time_ms < wanted.to_ms
    return match


def _line(batch: Batch, tables: Tables, i: int) -> str:
    """One record. ``received`` is how long after its event time it came."""
    time_ms = int(batch.time_ms[i])
    delay_s = int(batch.received_ns[i]) / 1e9 - time_ms / 1e3
    start = f"{batch.offset + i:>10}  {_utc(time_ms):<23}  {delay_s:>+8.3f}s  "
    if batch.kind[i] == Kind.TICK:
        return f"{start}-- tick of {Market(int(batch.market[i])).name.lower()}"
    if batch.kind[i] == Kind.GAP:
        gap = Gap.decode(batch.ids[i])
        what = f"{start}-- gap of {gap.market.name.lower()} from {_utc(gap.from_ms)}: {gap.cause}"
        return what if gap.is_open else what + gap_fate(gap)
    if batch.kind[i] == Kind.RULES:
        change = RuleChange.decode(batch.ids[i])
        return f"{start}-- rules ({change.who}): {_versions(change.rules)}"
    symbol = tables.symbols.values[batch.symbol[i]]
    codes = ",".join(map(str, tables.conditions.values[batch.conditions[i]])) or "-"
    size = f"{int(batch.size_e8[i]) / E8:,.8f}".rstrip("0").rstrip(".")
    price = _price(float(batch.price[i]))
    return f"{start}{symbol:<8} {price:>12} {size:>14}  {codes:<10}  {int(batch.exchange[i]):>8}  {batch.ids[i] or '-'}"


def _versions(rules: Rules) -> str:
    return ", ".join(f"{name} {rules.version(name)}{'' if rules[name].enabled else ' (off)'}" for name in rules)


def gap_fate(gap: Gap) -> str:
    """What became of a gap, as the end of a line about it."""
    if gap.state is GapState.ASKED:
        return "; the trades of this stretch that follow came by REST"
    later = f", {gap.later:,} more later" if gap.later else ""
    missing = f"; not all of {', '.join(gap.missing[:5])}" if gap.missing else ""
    more = f" and {len(gap.missing) - 5} more" if len(gap.missing) > 5 else ""
    return f"; {gap.state.value}: {gap.trades:,} trades fetched{later}{missing}{more}"


def _price(price: float) -> str:
    return f"{price:,.2f}" if round(price, 2) == price else f"{price:,}"


def _utc(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)
    return moment.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def describe(found: Totals) -> Iterator[str]:
    """The totals as lines."""
    records = sum(found.kinds.values())
    yield f"log {found.log_id}, {found.origin}: records {found.first:,} to {found.end:,}"
    yield "  ".join(f"{name.removesuffix('s')}s {number:,}" for name, number in found.kinds.items())
    if found.from_ms is not None and found.to_ms is not None:
        yield f"trades from {_utc(found.from_ms)} to {_utc(found.to_ms)} (UTC)"
    yield "  ".join(f"{symbol} {number:,}" for symbol, number in list(found.trades.items())[:20])
    per = f", {found.size_bytes / records:.1f} bytes a record" if records else ""
    trades = found.kinds["trade"]
    per += f", {found.size_bytes / trades:.1f} a trade" if trades else ""
    yield f"{found.size_bytes / 2**20:,.1f} MiB on disk{per} (its write-ahead log included)"
    for start, stop in found.lost:
        yield f"lost by damage: records {start:,} to {stop:,}"


def read_time_ms(name: str, text: str | None) -> int | None:
    """Unix ms of what option ``name`` was given; None without it.

    Raises:
        InputError: it is no time.
    """
    if text is None:
        return None
    try:
        return parse_time_ms(text)
    except ValueError as error:
        raise InputError(f"{name} {text}: {error}") from None
