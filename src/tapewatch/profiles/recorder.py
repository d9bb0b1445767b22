"""From the feed's queue into the durable log: one thread, which alone writes the log.

    queue ─► decode, drop repeats, ticks, gaps, rules ─► append (at once, but one LOG_COMMIT_INTERVAL apart) ─► tail

When a market's feed is live again, what it missed is asked for by REST before anything newer is recorded; frames
wait in the queue meanwhile, but no longer than BACKFILL_DEADLINE. What REST shows later comes beside (`refill.py`). A
full disk, or a Kafka that does not answer, pauses the recording, and so, through the queue and TCP, the sender.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import numpy as np
import structlog

from tapewatch import metrics
from tapewatch.errors import LogFull, LogUnavailable
from tapewatch.feed.backfill import Fill
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.lag import Lag
from tapewatch.feed.queue import EVENT_BYTES, FrameQueue, GapEnd, Item
from tapewatch.feed.ticks import closing_ticks
from tapewatch.profiles.refill import Found, Past, Refill
from tapewatch.profiles.replay import settled_ms
from tapewatch.profiles.said import RulesSaid
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Gap, GapState, Kind, Market
from tapewatch.rules.change import Who
from tapewatch.rules.model import Rules
from tapewatch.settings import BATCH_RECORDS_MAX, DECODE_EVENTS_MAX, Settings

_log = structlog.get_logger(__name__)
_RETRY_FULL_S: Final = 1.0
_RETAIN_EVERY_S: Final = 3_600.0
_WAIT_S: Final = 0.2


class RecordLog(Protocol):
    """What the recorder needs of a durable log: `log.local.LogWriter` or `log.kafka.KafkaLogWriter`."""

    @property
    def is_waiting(self) -> bool:
        """`append` has been waiting for long, for something that may come back."""

    def append(self, batch: Batch) -> Batch:
        """Make all records durable. Raises LogFull (nothing was written), LogUnavailable and LogError."""

    def stop_waiting(self) -> None:
        """From another thread: let an `append` that waits raise LogUnavailable."""

    def size_bytes(self) -> int:
        """What the log's files take on this machine."""

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        """Drop what was logged before that; returns how many records."""


class Recorder:
    """Runs in its own thread: `run` until `stop`. An error that ends it is in ``failure``, and ``on_end`` is called."""

    def __init__(
        self,
        settings: Settings,
        queue: FrameQueue,
        ingest: Ingest,
        log: RecordLog,
        tail: Tail,
        *,
        past: Past | None,
        rules: Rules | None = None,
        consumed: Callable[[], int],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._ingest = ingest
        self._log = log
        self._tail = tail
        self._past = past
        self._fetches = past is not None and settings.warmup_ms > 0
        self._consumed = consumed
        self._on_end = on_end
        self._stopping = threading.Event()
        self._due_s = 0.0
        self._retained_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._finished: list[tuple[Market, Callable[[], object]]] = []
        self._found: SimpleQueue[Found] = SimpleQueue()
        self._rules = RulesSaid(rules)
        self._refill = None if past is None else Refill(past, self.offer, settings.backfill_repeat_ms / 1_000)
        self._is_cut_short = False
        self.is_full = False
        """The disk has no room, and recording waits for it."""
        self.warming = False
        """Missed trades are being fetched, or not in the log yet."""
        self.last_trade_ns: dict[Market, int] = {}
        """Receipt of the newest trade of each market."""

    @property
    def lag(self) -> Lag:
        """How old what the streams bring is."""
        return self._ingest.lag

    def start(self) -> None:
        """Begin to record. What was told of gaps before a restart is asked for again too."""
        self._thread.start()
        self._ask_later(self._ingest.to_repeat())

    def offer(self, found: Found) -> None:
        """Record what was fetched beside the stream; from any thread. After the end nobody waits for it in vain."""
        self._found.put(found)
        if self._stopping.is_set():
            found.recorded.set()

    def say_rules(self, rules: Rules, who: Who) -> None:
        """From here on these alert rules hold; from any thread."""
        self._rules.say(rules, who)

    def finish(self, market: Market, then: Callable[[], object]) -> None:
        """The recording of this market is over: after the queue, let its time run on until all is settled.

        ``then`` is called when all of that is in the log, in the recorder's thread.
        """
        self._finished.append((market, then))

    def stop(self) -> None:
        """Record what is in the queue, and end.

        Missed trades that are just being fetched are given up, and with them what came after: the next start fetches
        both. So the gap that the log names stays the last thing it knows. The same holds for records that wait for
        Kafka when it is away.
        """
        self._stopping.set()
        if self._refill is not None:
            self._refill.stop()
        while self._thread.is_alive():
            if self._log.is_waiting:
                self._log.stop_waiting()
            self._thread.join(_WAIT_S)

    def _run(self) -> None:
        try:
            while not (self._stopping.is_set() and (self._is_cut_short or not len(self._queue))):
                self._step()
        except BaseException as error:
            _log.error("recording stopped", why=str(error), exc_info=not isinstance(error, Exception))
            self._on_end(error)
            raise
        finally:
            for found in self._take_found():  # it is asked for again at the next start
                found.recorded.set()
        self._on_end(None)

    def _step(self) -> None:
        """Take what has come since the append before, wait until the next is due, and append it all."""
        items = self._queue.take(DECODE_EVENTS_MAX, _WAIT_S, self._due_s)
        found = self._take_found()
        if not items and not found and not self._rules.is_waiting:
            self._settle()
            self._maintain()
            return
        known_ms = self._ingest.newest_ms()
        batches = [*(self._record_found(one) for one in found), *self._batches(items)]
        records = sum(map(len, batches))
        enough = DECODE_EVENTS_MAX * EVENT_BYTES
        while not self._is_cut_short and records < BATCH_RECORDS_MAX and self._queue.bytes_waiting >= enough:
            more = self._batches(self._queue.take(DECODE_EVENTS_MAX, 0))
            batches += more
            records += sum(map(len, more))
        self._due_s = time.monotonic() + self._settings.log_commit_ms / 1_000
        said = self._rules.batch(batches, known_ms, time.time_ns())
        self._append(Batch.join([batch for batch in (said, *batches) if len(batch)]))
        self.warming = False
        for one in found:
            one.recorded.set()

    def _take_found(self) -> list[Found]:
        found = []
        with suppress(Empty):
            while True:
                found.append(self._found.get_nowait())
        return found

    def _record_found(self, found: Found) -> Batch:
        """The records of what was fetched beside the stream."""
        now_ns = time.time_ns()
        if found.gap is None:
            asked = _asked(found.market, found.from_ms, found.to_ms, found.symbols)
            return self._ingest.fetched_for(asked, found.fill.batch, now_ns)
        batch, known = self._ingest.fetched_later(found.gap, found.fill.batch, now_ns)
        if found.fill.missing and not found.fill.vain and self._refill is not None:
            self._refill.later(known, found.tries)
        return batch

    def _batches(self, items: list[Item]) -> list[Batch]:
        """Records of the items; after a gap's end come the trades that were missed."""
        batches: list[Batch] = []
        start = 0
        self.warming |= self._fetches and any(isinstance(item, GapEnd) for item in items)
        for i, item in enumerate(items):
            if isinstance(item, GapEnd):
                batches.append(self._ingest.step(items[start : i + 1]))
                batches.append(self._missed(item))
                start = i + 1
                if self._is_cut_short:
                    return [b for b in batches if len(b)]
        batches.append(self._ingest.step(items[start:]))
        return [b for b in batches if len(b)]

    def _missed(self, end: GapEnd) -> Batch:
        """What the market's stream did not show, and what became of its gaps."""
        if self._past is None or not self._fetches:
            return Batch.empty()
        gaps, since_ms = self._ingest.unfilled(end.market), end.to_ms - self._settings.warmup_ms
        if gaps:
            longest_ms = max(self._settings.backfill_max_ms, self._settings.warmup_ms)
            since_ms = max(end.to_ms - longest_ms, min(gap.from_ms for gap in gaps))
        within_s = self._settings.backfill_deadline_ms / 1_000
        try:
            asking = self._past(end.market, end.symbols, since_ms, end.to_ms, within_s)
            fill = asyncio.run(self._unless_stopped(asking))
        except asyncio.CancelledError:
            self._is_cut_short = True
            return Batch.empty()
        asked = _asked(end.market, since_ms, end.to_ms, end.symbols)
        batch = self._ingest.fetched(asked, fill.batch, fill.missing, time.time_ns())
        market = end.market.name.lower()
        if fill.missing:
            _log.warning("not all missed trades could be fetched", market=market, missing=fill.missing, why=fill.why)
        _log.info("missed trades fetched", market=market, trades=len(fill.batch), gaps=len(gaps))
        self._ask_later(_told_of(batch))
        return batch

    def _ask_later(self, gaps: Iterable[Gap]) -> None:
        if self._refill is not None:
            for gap in gaps:
                self._refill.later(gap)

    async def _unless_stopped(self, past: Coroutine[Any, Any, Fill]) -> Fill:
        """Wait for ``past``. Raises CancelledError when the recorder is to stop meanwhile."""
        asking = asyncio.create_task(past)
        while not asking.done():
            await asyncio.wait({asking}, timeout=_WAIT_S)
            if self._stopping.is_set():
                asking.cancel()
        return await asking

    def _append(self, batch: Batch) -> None:
        for start in range(0, len(batch), BATCH_RECORDS_MAX):
            part = batch.slice(start, min(start + BATCH_RECORDS_MAX, len(batch)))
            appended = self._append_when_there_is_room(part)
            if appended is None:
                return
            self._note(appended)
            self._tail.add(appended)

    def _append_when_there_is_room(self, batch: Batch) -> Batch | None:
        while True:
            try:
                appended = self._log.append(batch)
            except LogFull as error:
                if not self.is_full:
                    _log.error("recording paused", why=str(error))
                self.is_full = True
                if self._stopping.wait(_RETRY_FULL_S):
                    return None  # the last records were never acknowledged
            except LogUnavailable as error:
                if not self._stopping.is_set():
                    raise
                _log.warning("the newest records were not acknowledged", records=len(batch), why=str(error))
                self._is_cut_short = True
                return None
            else:
                self.is_full = False
                return appended

    def _note(self, batch: Batch) -> None:
        is_trade = batch.kind == Kind.TRADE
        for market in Market:
            received_ns = batch.received_ns[is_trade & (batch.market == market)]
            if len(received_ns):
                self.last_trade_ns[market] = int(received_ns[-1])

    def _settle(self) -> None:
        """After a recording: the ticks that end its last panes and make its last rows final."""
        s = self._settings
        while self._finished:
            market, then = self._finished.pop()
            last_ms = self._ingest.last_ms(market)
            if last_ms is not None:
                until_ms = settled_ms(last_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms)
                self._append(closing_ticks(market, last_ms, until_ms))
            then()

    def _maintain(self) -> None:
        metrics.LOG_BYTES.set(self._log.size_bytes())
        if time.monotonic() - self._retained_s >= _RETAIN_EVERY_S:
            self._retained_s = time.monotonic()
            before_ms = time.time_ns() // 1_000_000 - self._settings.log_retention_ms
            self._log.retain(before_ms, keep_from=self._consumed())


def _asked(market: Market, from_ms: int, to_ms: int, symbols: Sequence[str]) -> Gap:
    """The word that what follows of this stretch came by REST."""
    return Gap(market=market, from_ms=from_ms, to_ms=to_ms, cause="", symbols=list(symbols), state=GapState.ASKED)


def _told_of(batch: Batch) -> Iterator[Gap]:
    """The gaps of whose fate a batch tells."""
    for i in np.flatnonzero(batch.kind == Kind.GAP).tolist():
        if (gap := Gap.decode(batch.ids[i])).state in (GapState.FILLED, GapState.PARTIAL):
            yield gap
