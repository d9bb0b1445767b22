"""What the feed brought, to records for the log: decoded, without repeats, with ticks and gaps, in order of arrival.

The result depends on the items and on what `recover` was given, never on how the items are cut into steps.

A gap begins `GAP_MARGIN_MS` before the last moment up to which everything had come, since trades may come a little out
of order, and ends where the feed was live again. That moment is the last trade's; or, when trades are rare, the last
tick's less `TICK_HEARD_MS`, for so long a dead connection goes unnoticed. Trades stamped far in the future say nothing.

In a replay (``event_time=True``) the recording's own time is the only clock: ticks are made from it (`ticks.py`),
``received_ns`` of every record is its event time, and a gap ends at the first new trade after it.

No clock, no socket. Moves the feed's metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from tapewatch import metrics
from tapewatch.feed.conditions import ConditionTable
from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.lag import Lag
from tapewatch.feed.protocol import Cause
from tapewatch.feed.queue import Frame, GapEnd, Item, TickDue, Wanted
from tapewatch.feed.ticks import tick_row, with_ticks
from tapewatch.feed.unknown import UnknownCodes
from tapewatch.records import Batch, Gap, GapState, Kind, Market, Refused, Tables
from tapewatch.settings import GAP_MARGIN_MS, TICK_HEARD_MS

__all__ = ["Ingest"]

_MS_NS: Final = 1_000_000


class Ingest:
    """Turns items of the `FrameQueue` into record batches. One thread's: the one that owns ``tables``.

    ``wanted`` are product symbols (None: all). ``future_limit_ms`` is the setting `FUTURE_LIMIT`. Codes mean what
    ``conditions`` says. Bars of the markets in ``aside`` are no records; ``on_bars`` gets them, and says how many are
    none. ``refused`` counts what became no record, by reason, since the start.
    """

    def __init__(
        self,
        tables: Tables,
        seen: Seen,
        wanted: Collection[str] | None = None,
        *,
        event_time: bool = False,
        future_limit_ms: int = 60_000,
        conditions: ConditionTable | None = None,
        aside: set[Market] | None = None,
        on_bars: Callable[[list[tuple[Market, dict[str, Any]]]], int] | None = None,
    ) -> None:
        self.refused: Counter[Refused] = Counter()
        self.unknown_codes: Final = UnknownCodes(tables)
        self.lag: Final = Lag()
        """How old what the streams bring is."""
        self._decoder = Decoder(tables, wanted, conditions)
        self._decoder.aside = set() if aside is None else aside
        self._judge_by: ConditionTable | None = None
        self._on_bars = on_bars
        self._seen = seen
        self._event_time = event_time
        self._future_limit_ms = future_limit_ms
        self._last_ms: dict[Market, int] = {}
        self._heard_ms: dict[Market, int] = {}
        self._gap_open: dict[Market, GapEnd] = {}
        self._unfilled: dict[Market, list[Gap]] = {}
        self._told: dict[tuple[Market, int, int], tuple[Gap, int]] = {}

    def judge_by(self, conditions: ConditionTable) -> None:
        """From the next step on codes mean what this table says. For any thread."""
        self._judge_by = conditions

    def last_ms(self, market: Market) -> int | None:
        """The last event time known of a market: of a trade, of a tick, or of a gap's end."""
        return self._last_ms.get(market)

    def newest_ms(self) -> int | None:
        """The last event time known of any market."""
        return max(self._last_ms.values(), default=None)

    def unfilled(self, market: Market) -> list[Gap]:
        """The gaps whose trades were not fetched yet, oldest first."""
        return list(self._unfilled.get(market, ()))

    def to_repeat(self) -> list[Gap]:
        """After `recover`: gaps that were told of once only, so what REST showed later was not asked for."""
        return [gap for gap, times in self._told.values() if times == 1]

    def fetched(self, asked: Gap, batch: Batch, missing: Collection[str], received_ns: int) -> Batch:
        """The records of what REST gave for a market's unfilled gaps: that it did, the new trades, each gap's fate.

        ``asked`` says what was asked for (`GapState.ASKED`); what a gap has beyond it is missing too.
        """
        market = asked.market
        new = self._new(batch)
        fates = []
        for gap in self._unfilled.pop(market, []):
            is_short = gap.from_ms < asked.from_ms
            lacking = sorted({*gap.symbols, *asked.symbols} if is_short else missing)
            state = GapState.PARTIAL if lacking or is_short else GapState.FILLED
            fate = replace(gap, state=state, trades=_inside(new, gap), missing=lacking)
            fates.append(_word_row(fate, received_ns))
            metrics.FEED_FILLS.labels(market.name.lower(), state.value).inc()
        metrics.FEED_FETCHED.labels(market.name.lower(), "at once").inc(len(new))
        rows = [_word_row(asked, received_ns)] if len(new) else []
        return Batch.join([part for part in (Batch.of(rows), new, Batch.of(fates)) if len(part)])

    def fetched_for(self, asked: Gap, batch: Batch, received_ns: int) -> Batch:
        """The records of what REST gave to make symbols warm."""
        new = self._new(batch)
        return Batch.join([Batch.of([_word_row(asked, received_ns)]), new]) if len(new) else new

    def fetched_later(self, gap: Gap, batch: Batch, received_ns: int) -> tuple[Batch, Gap]:
        """The records of what REST showed later of a gap of which `fetched` has told, and what is known of it now."""
        new = self._new(batch)
        metrics.FEED_FETCHED.labels(gap.market.name.lower(), "later").inc(len(new))
        known = replace(gap, later=gap.later + len(new))
        return Batch.join([part for part in (new, Batch.of([_word_row(known, received_ns)])) if len(part)]), known

    def recover(self, batches: Iterable[Batch], upto: Callable[[], Mapping[Market, int]] | None = None) -> None:
        """After a restart: learn from the log, oldest first, what was there before.

        ``upto`` is asked after the last batch, and gives the event time of each market (Unix ms) up to which the log
        has all that was given to it. A log of several lanes may hold more: parts of a batch that a crash has torn.
        Those are known as repeats, but what is known ends there, so that the rest of that batch lies in the gap.
        """
        for batch in batches:
            self._seen.add(batch)
            for market in Market:
                self._note(market, batch)
            self._note_gaps(batch)
        for market, whole_ms in upto().items() if upto is not None else ():
            for last_ms in (self._last_ms, self._heard_ms):
                if market in last_ms:
                    last_ms[market] = min(last_ms[market], whole_ms)

    def step(self, items: Sequence[Item]) -> Batch:
        """The records of some items, in order. Never raises on what the exchange sent."""
        parts: list[Batch] = []
        for kind, run in groupby(items, type):
            if kind is Frame:
                parts += self._frames([item for item in run if isinstance(item, Frame)])
                continue
            rows = []
            for item in run:
                if isinstance(item, Wanted):
                    self._decoder.want(item.symbols)
                elif not isinstance(item, Frame) and (row := self._row(item)) is not None:
                    rows.append(row)
            parts.append(Batch.of(rows))
        return Batch.join([part for part in parts if len(part)])

    def _frames(self, frames: Sequence[Frame]) -> list[Batch]:
        for market in Market:
            sizes = [len(frame.data) for frame in frames if frame.market is market]
            if sizes:
                metrics.FEED_FRAMES.labels(market.name.lower()).inc(len(sizes))
                metrics.FEED_BYTES.labels(market.name.lower()).inc(sum(sizes))
        if self._judge_by is not None:
            self._decoder.judge_by(self._judge_by)
            self.unknown_codes.table, self._judge_by = self._judge_by, None
        decoded = self._decoder.decode([(frame.market, frame.data, frame.received_ns) for frame in frames])
        self._count(decoded.refused)
        if decoded.aside and self._on_bars is not None and (bad := self._on_bars(decoded.aside)):
            self._count(Counter({Refused.BAD_VALUE: bad}))
        if not self._event_time:
            self.lag.note(decoded.batch)
            return [self._new(decoded.batch)]
        decoded.batch.received_ns = decoded.batch.time_ms * _MS_NS
        return [part for stretch in _by_market(decoded.batch) for part in self._replayed(stretch)]

    def _replayed(self, stretch: Batch) -> list[Batch]:
        """The new trades of one market with their ticks, and before them the gap that they end."""
        market = Market(int(stretch.market[0]))
        before_ms = self.last_ms(market)
        new = self._new(stretch)
        if not len(new):
            return []
        parts = [with_ticks(new, before_ms)]
        end = self._gap_open.pop(market, None)
        if end is not None and before_ms is not None:
            to_ms = int(new.time_ms[0])
            parts.insert(0, Batch.of([_gap_row(end, before_ms, to_ms, to_ms * _MS_NS)]))
        return parts

    def _row(self, item: TickDue | GapEnd) -> tuple[Any, ...] | None:
        """The record of a tick or of a gap's end, if it makes one."""
        last_ms = self.last_ms(item.market)
        if isinstance(item, TickDue):
            row = tick_row(item.market, item.time_ms, item.received_ns)
        elif last_ms is None:
            return None  # nothing was ever known, so nothing is missing
        elif self._event_time:
            # A recording that is played from its start again misses nothing; what a drop skipped does.
            if item.cause != Cause.RESTART:
                self._gap_open[item.market] = item
            return None
        else:
            known_ms = max(last_ms - TICK_HEARD_MS, self._heard_ms.get(item.market, 0))
            if item.from_ms is not None:
                known_ms = item.from_ms + GAP_MARGIN_MS
            row = _gap_row(item, known_ms, item.to_ms, item.received_ns)
            self._unfilled.setdefault(item.market, []).append(Gap.decode(row[-1]))
            self._heard_ms[item.market] = max(item.to_ms, known_ms)
        self._last_ms[item.market] = max(int(row[3]), last_ms or 0)
        return row

    def _new(self, batch: Batch) -> Batch:
        """The rows that are no repeats."""
        new = self._seen.filter(batch)
        if not new.all():
            self._count(Counter({Refused.REPEATED: int(np.count_nonzero(~new))}))
            batch = batch.take(np.flatnonzero(new))
        self.unknown_codes.count(batch)
        for market in Market:
            if trades := self._note(market, batch):
                metrics.FEED_TRADES.labels(market.name.lower()).inc(trades)
        if len(batch):
            lag_ns = int(batch.received_ns[-1]) - int(batch.time_ms[-1]) * _MS_NS
            metrics.FEED_LAG.labels(Market(int(batch.market[-1])).name.lower()).set(lag_ns / 1e9)
        return batch

    def _note(self, market: Market, batch: Batch) -> int:
        """Move the last time known of ``market``; return how many of the rows are its."""
        mine = np.flatnonzero((batch.market == market) & (batch.kind != Kind.RULES))
        if not len(mine):
            return 0
        time_ms, received_ms = batch.time_ms[mine], batch.received_ns[mine] // _MS_NS
        kind = batch.kind[mine]
        known = (kind != Kind.TRADE) | (time_ms <= received_ms + self._future_limit_ms)
        # What a clock that is ahead stamped has not been waited for: up to its receipt everything is known.
        time_ms = np.where(kind == Kind.TRADE, np.minimum(time_ms, received_ms), time_ms)
        for last_ms, rows in ((self._last_ms, known), (self._heard_ms, known & (kind != Kind.TICK))):
            if rows.any():
                last_ms[market] = max(int(time_ms[rows].max()), last_ms.get(market, 0))
        return len(mine)

    def _note_gaps(self, batch: Batch) -> None:
        """A gap is open until its fate is told, or until a tick: then nobody was to fetch it, or the log is old."""
        for i in np.flatnonzero((batch.kind == Kind.TICK) | (batch.kind == Kind.GAP)).tolist():
            market = Market(int(batch.market[i]))
            if batch.kind[i] == Kind.TICK:
                self._unfilled.pop(market, None)
                continue
            gap = Gap.decode(batch.ids[i])
            if gap.is_open:
                self._unfilled.setdefault(market, []).append(gap)
            elif gap.state is not GapState.ASKED:
                key = (market, gap.from_ms, gap.to_ms)
                self._told[key] = (gap, self._told.get(key, (gap, 0))[1] + 1)
                waiting = [g for g in self._unfilled.get(market, ()) if (market, g.from_ms, g.to_ms) != key]
                self._unfilled[market] = waiting

    def _count(self, refused: Counter[Refused]) -> None:
        self.refused += refused
        for reason, number in refused.items():
            metrics.FEED_REFUSED.labels(reason).inc(number)


def _by_market(batch: Batch) -> list[Batch]:
    """Stretches of rows of one market each, in order."""
    cuts = [0, *(np.flatnonzero(np.diff(batch.market)) + 1).tolist(), len(batch)]
    return [batch.slice(start, stop) for start, stop in pairwise(cuts) if stop > start]


def _inside(batch: Batch, gap: Gap) -> int:
    return int(np.count_nonzero((batch.time_ms >= gap.from_ms) & (batch.time_ms < gap.to_ms)))


def _word_row(gap: Gap, received_ns: int) -> tuple[Any, ...]:
    """The record of a word about a gap."""
    return (Kind.GAP, gap.market, -1, gap.to_ms, received_ns, 0.0, 0, 0, 0, 0, gap.encode())


def _gap_row(end: GapEnd, known_ms: int, to_ms: int, received_ns: int) -> tuple[Any, ...]:
    gap = Gap(
        market=end.market,
        from_ms=min(known_ms - GAP_MARGIN_MS, to_ms),
        to_ms=to_ms,
        cause=end.cause,
        symbols=list(end.symbols),
    )
    metrics.FEED_GAPS.labels(end.market.name.lower()).inc()
    return (Kind.GAP, end.market, -1, to_ms, received_ns, 0.0, 0, 0, 0, 0, gap.encode())
