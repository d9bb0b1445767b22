"""Gaps from the queue into the log: filled before anything newer, in time or partially, and asked for once more."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapewatch.feed.backfill import Fill
from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, FrameQueue, GapEnd, TickDue
from tapewatch.notify.outbox import notifications_for
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.refill import REPEATS_MAX, Found
from tapewatch.profiles.tail import Tail
from tapewatch.records import AlertStatus, Batch, Gap, GapState, Kind, Market, Origin, Tables
from tapewatch.rules.model import Rules
from tapewatch.settings import load_settings

STOCKS = Market.STOCKS
NOW_MS = 1_788_877_080_000 - 1_788_877_080_000 % 60_000
SECOND = 1_000
MINUTE = 60_000


def event(number: int, time_ms: int, price: float = 100.0, symbol: str = "AAPL") -> dict[str, Any]:
    return {"ev": "T", "sym": symbol, "p": price, "ds": "1.0", "t": time_ms, "x": 4, "i": str(number)}


class MemoryLog:
    """A log in memory, whose appends can be waited for."""

    is_waiting = False

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._changed = threading.Condition()

    def append(self, batch: Batch) -> Batch:
        with self._changed:
            appended = replace(batch, offset=sum(map(len, self.batches)), logged_ns=1)
            self.batches.append(appended)
            self._changed.notify_all()
        return appended

    def stop_waiting(self) -> None: ...

    def size_bytes(self) -> int:
        return 0

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        return 0

    def lines(self) -> list[str]:
        """A word for each record: the trade's id, "tick", or what is said of a gap."""
        words = []
        for batch in list(self.batches):
            for kind, one in zip(batch.kind.tolist(), batch.ids, strict=True):
                gap = Gap.decode(one) if kind == Kind.GAP else None
                words.append("tick" if kind == Kind.TICK else one if gap is None else gap.state.value)
        return words

    def fates(self) -> list[Gap]:
        """Words about gaps that are no news of one."""
        gaps = [
            Gap.decode(i) for b in self.batches for k, i in zip(b.kind.tolist(), b.ids, strict=True) if k == Kind.GAP
        ]
        return [gap for gap in gaps if gap.state in (GapState.FILLED, GapState.PARTIAL)]

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_there, 120), self.lines()


class Past:
    """What REST says, by the number of the call; remembers what was asked."""

    def __init__(self, *answers: tuple[list[dict[str, Any]], list[str]]) -> None:
        self.answers = answers
        self.asked: list[tuple[list[str], int, int, float]] = []
        self.tables: Tables | None = None

    async def __call__(self, market: Market, symbols: Sequence[str], from_ms: int, to_ms: int, within_s: float) -> Fill:
        self.asked.append((list(symbols), from_ms, to_ms, within_s))
        assert self.tables is not None
        events, missing = self.answers[min(len(self.asked), len(self.answers)) - 1]
        batch = Decoder(self.tables).decode_events(market, events, (NOW_MS + MINUTE) * 10**6).batch
        return Fill(batch.take(np.argsort(batch.time_ms, kind="stable")), missing, "scripted" if missing else "")


class Recording:
    def __init__(self, past: Past, **settings: Any) -> None:
        self.log = MemoryLog()
        self.queue = FrameQueue()
        self.tables = past.tables = Tables()
        self.ended = threading.Event()
        self.ends: list[BaseException | None] = []
        given = {"log_commit_ms": 1, "backfill_repeat_ms": 0} | settings
        self.settings = load_settings(_env_file=None, **given)
        self.recorder = Recorder(
            self.settings, self.queue, Ingest(self.tables, Seen()), self.log, Tail(0), past=past,
            consumed=lambda: 0, on_end=self._end,
        )  # fmt: skip

    def _end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        self.ended.set()

    def frame(self, *events: dict[str, Any]) -> None:
        self.queue.put(Frame(STOCKS, json.dumps(events).encode(), int(events[-1]["t"]) * 10**6 + 10**7))

    def tick(self, time_ms: int) -> None:
        self.queue.put(TickDue(STOCKS, time_ms, time_ms * 10**6))

    def gap(self, to_ms: int, cause: str = "cut") -> None:
        self.queue.put(GapEnd(STOCKS, to_ms, cause, ("AAPL", "TSLA"), to_ms * 10**6))


@contextmanager
def recording(past: Past, **settings: Any) -> Iterator[Recording]:
    made = Recording(past, **settings)
    made.recorder.start()
    try:
        yield made
    finally:
        made.recorder.stop()
    assert made.ended.is_set()
    assert made.ends == [None]


def test_a_gap_is_filled_before_anything_newer_and_its_fate_follows() -> None:
    past = Past(([event(1, NOW_MS), event(2, NOW_MS + 5_000), event(3, NOW_MS + 7_000)], []))
    with recording(past) as r:
        r.frame(event(1, NOW_MS))
        r.gap(NOW_MS + 10_000)
        r.frame(event(4, NOW_MS + 11_000), event(3, NOW_MS + 7_000))
        r.log.wait_for(lambda: "4" in r.log.lines())
    assert r.log.lines() == ["1", "open", "asked", "2", "3", "filled", "4"]
    assert past.asked == [(["AAPL", "TSLA"], NOW_MS - 1_000, NOW_MS + 10_000, 30.0)]
    (fate,) = r.log.fates()
    assert (fate.from_ms, fate.to_ms, fate.trades, fate.cause) == (NOW_MS - 1_000, NOW_MS + 10_000, 2, "cut")


def test_what_is_missing_leaves_the_gap_partial() -> None:
    past = Past(([event(2, NOW_MS + 5_000)], ["TSLA"]))
    with recording(past, backfill_deadline_ms=2_000) as r:
        r.frame(event(1, NOW_MS))
        r.gap(NOW_MS + 10_000)
        r.log.wait_for(lambda: bool(r.log.fates()))
    (fate,) = r.log.fates()
    assert (fate.state, fate.trades, fate.missing) == (GapState.PARTIAL, 1, ["TSLA"])
    assert past.asked[0][3] == 2.0


def test_of_a_longer_gap_only_the_last_is_fetched_at_once() -> None:
    past = Past(([], []))
    with recording(past, warmup_ms=60_000, backfill_max_ms=300_000) as r:
        r.frame(event(1, NOW_MS))
        r.gap(NOW_MS + 3_600_000)
        r.log.wait_for(lambda: bool(r.log.fates()))
    assert past.asked[0][1:3] == (NOW_MS + 3_300_000, NOW_MS + 3_600_000)
    assert [(f.state, f.missing) for f in r.log.fates()] == [(GapState.PARTIAL, ["AAPL", "TSLA"])]


def test_what_rest_shows_later_is_recorded_once_and_counted() -> None:
    past = Past(([event(2, NOW_MS + 5_000)], []), ([event(2, NOW_MS + 5_000), event(9, NOW_MS + 6_000)], []))
    with recording(past, backfill_repeat_ms=1) as r:
        r.frame(event(1, NOW_MS))
        r.gap(NOW_MS + 10_000)
        r.log.wait_for(lambda: len(r.log.fates()) == 2)
    assert r.log.lines() == ["1", "open", "asked", "2", "filled", "9", "filled"]
    assert [(f.trades, f.later) for f in r.log.fates()] == [(1, 0), (1, 1)]
    assert past.asked[0][:3] == past.asked[1][:3]
    assert past.asked[1][3] > past.asked[0][3], "nothing newer waits for the repeat, so it may take its time"


@pytest.mark.slow
def test_what_stays_away_is_asked_for_again_but_not_for_ever() -> None:
    past = Past(([], ["TSLA"]), ([], ["TSLA"]))
    with recording(past, backfill_repeat_ms=1) as r:
        r.frame(event(1, NOW_MS))
        r.gap(NOW_MS + 10_000)
        r.log.wait_for(lambda: len(r.log.fates()) == 1 + REPEATS_MAX)
    assert len(past.asked) == 1 + REPEATS_MAX
    assert {f.state for f in r.log.fates()} == {GapState.PARTIAL}


def test_a_restart_asks_again_for_a_gap_that_was_told_of_once() -> None:
    past = Past(([event(2, NOW_MS + 5_000)], []))
    with recording(past) as first:
        first.frame(event(1, NOW_MS))
        first.gap(NOW_MS + 10_000)
        first.log.wait_for(lambda: bool(first.log.fates()))
    again = Past(([event(2, NOW_MS + 5_000), event(3, NOW_MS + 6_000)], []))
    made = Recording(again, backfill_repeat_ms=1)
    again.tables = past.tables
    assert past.tables is not None
    ingest = Ingest(past.tables, Seen())
    ingest.recover(first.log.batches)
    made.recorder = Recorder(
        made.settings, made.queue, ingest, made.log, Tail(0), past=again, consumed=lambda: 0, on_end=made._end
    )
    made.recorder.start()
    made.log.wait_for(lambda: bool(made.log.fates()))
    made.recorder.stop()
    assert made.log.lines() == ["3", "filled"]


def test_symbols_made_warm_come_before_their_first_trade() -> None:
    past = Past(([], []))
    with recording(past) as r:
        r.frame(event(1, NOW_MS))
        batch = Decoder(r.tables).decode_events(STOCKS, [event(7, NOW_MS - MINUTE, symbol="MSFT")], 10**18).batch
        found = Found(STOCKS, ("MSFT",), NOW_MS - 2 * MINUTE, NOW_MS, Fill(batch))
        r.recorder.offer(found)
        assert found.recorded.wait(120)
        r.frame(event(8, NOW_MS + 1, symbol="MSFT"))
        r.log.wait_for(lambda: "8" in r.log.lines())
    assert [word for word in r.log.lines() if word != "1"] == ["asked", "7", "8"]


def test_whoever_waits_for_a_recorder_that_has_ended_does_not_wait() -> None:
    past = Past(([], []))
    with recording(past) as r:
        r.frame(event(1, NOW_MS))
        r.log.wait_for(lambda: "1" in r.log.lines())
    found = Found(STOCKS, ("MSFT",), NOW_MS - MINUTE, NOW_MS, Fill())
    r.recorder.offer(found)
    assert found.recorded.is_set()


# --- what the engine makes of it ---------------------------------------------------------------------------------


def hour(until_ms: int) -> list[dict[str, Any]]:
    """A trade every ten seconds of the hour before, falling slowly."""
    times = range(until_ms - 60 * MINUTE, until_ms, 10_000)
    return [event(10_000 + n, t, price=110 - n / 100) for n, t in enumerate(times)]


def computed(r: Recording) -> Any:
    parts = Parts(r.settings, Rules(), {})
    engine = parts.engine(r.tables)
    for batch in r.log.batches:
        engine.step(batch)
    return engine.drain()


def test_at_the_first_start_the_averages_are_warm_at_once() -> None:
    past = Past((hour(NOW_MS), []))
    with recording(past) as r:
        r.gap(NOW_MS, "restart")
        r.frame(event(1, NOW_MS + 500, price=106.0))
        r.log.wait_for(lambda: "1" in r.log.lines())
    assert past.asked[0][1:3] == (NOW_MS - 60 * MINUTE, NOW_MS)
    assert r.log.lines()[0] == "asked", "nothing was known, so nothing is a gap"
    changes = computed(r)
    assert changes.gaps == []
    windows = {int(row["window_start_ms"]): row for row in changes.windows}
    newest = windows[NOW_MS - 4 * MINUTE]
    closes = [next(e["p"] for e in reversed(hour(NOW_MS)) if e["t"] < NOW_MS - n * MINUTE) for n in range(4)]
    assert newest["ma_5min"] == pytest.approx((sum(closes) + 106.0) / 5)
    (latest,) = changes.latest
    assert latest["side"] != 0 or abs(latest["price"] / latest["ma_5min"] - 1) < 5e-4


def test_without_rest_the_log_alone_keeps_the_averages_warm_over_a_restart() -> None:
    past = Past(([], []))
    with recording(past, warmup_ms=0) as r:
        r.frame(*hour(NOW_MS))
        r.gap(NOW_MS + 20_000, "restart")
        r.frame(event(1, NOW_MS + 21_000, price=106.0))
        r.log.wait_for(lambda: "1" in r.log.lines())
    assert past.asked == []
    parts = Parts(r.settings, Rules(), {})
    first, second = parts.engine(r.tables), parts.engine(r.tables)
    records = Batch.join(r.log.batches)
    first.step(records.slice(0, len(records) - 2))
    first.drain()
    second.restore(first.snapshot(), len(records) - 2)
    second.step(records.slice(len(records) - 2, len(records)))
    changes = second.drain()
    assert [gap.state for gap in changes.gaps] == [GapState.OPEN], "nobody was asked, so it stays open"
    (row,) = (row for row in changes.windows if row["window_start_ms"] == NOW_MS - 4 * MINUTE)
    closes = [next(e["p"] for e in reversed(hour(NOW_MS)) if e["t"] < NOW_MS - n * MINUTE) for n in range(4)]
    assert row["ma_5min"] == pytest.approx((sum(closes) + 106.0) / 5)


def test_a_cross_that_only_the_backfill_shows_is_late_and_no_news_and_the_next_one_is() -> None:
    live = hour(NOW_MS)
    missed = [event(1, NOW_MS + 5_000, price=115.0), event(2, NOW_MS + 50_000, price=115.0)]
    with recording(Past((live, []), (missed, []))) as r:
        r.gap(NOW_MS - 60 * MINUTE)
        r.frame(*live)
        r.gap(NOW_MS + 55_000)
        # the cross of the missed minute is confirmed by the stream; the next one comes by the stream alone
        r.frame(event(3, NOW_MS + MINUTE + 3_000, price=115.0))
        for minute in range(2, 9):
            r.frame(event(20 + minute, NOW_MS + minute * MINUTE + 1_000, price=115.0))
        r.frame(event(4, NOW_MS + 9 * MINUTE, price=90.0))
        r.tick(NOW_MS + 10 * MINUTE + 5_000)
        r.log.wait_for(lambda: "tick" in r.log.lines())
    alerts = [a for a in computed(r).alerts if a.kind != "high_volume"]
    golden = [a for a in alerts if a.kind == "golden_cross" and a.pane_start_ms == NOW_MS]
    assert [(a.status, a.late) for a in golden] == [(AlertStatus.PROVISIONAL, True), (AlertStatus.CONFIRMED, True)]
    assert all(a.evidence[str(a.status)]["backfilled"] for a in golden)
    assert [notifications_for(a, ["log"], "provisional", Origin.LIVE) for a in golden] == [[], []]
    death = [a for a in alerts if a.kind == "death_cross" and a.pane_start_ms == NOW_MS + 9 * MINUTE]
    assert [(a.status, a.late) for a in death] == [(AlertStatus.PROVISIONAL, False), (AlertStatus.CONFIRMED, False)]
    assert all("backfilled" not in a.evidence[str(a.status)] for a in death)
    assert all(notifications_for(a, ["log"], "provisional", Origin.LIVE) for a in death)


def test_a_snapshot_in_the_gap_s_middle_changes_nothing() -> None:
    live = hour(NOW_MS)
    missed = [event(1, NOW_MS + 5_000, price=115.0), event(2, NOW_MS + 50_000, price=115.0)]
    with recording(Past((live, []), (missed, []))) as r:
        r.gap(NOW_MS - 60 * MINUTE)
        r.frame(*live)
        r.gap(NOW_MS + 55_000)
        r.tick(NOW_MS + MINUTE + 5_000)
        r.log.wait_for(lambda: "tick" in r.log.lines())
    records = Batch.join(r.log.batches)
    parts = Parts(r.settings, Rules(), {})
    whole = parts.engine(r.tables)
    whole.step(records)
    expected = {(a.alert_id, a.status): a.late for a in whole.drain().alerts}
    assert any(expected.values())
    for cut in range(len(records) - 8, len(records)):
        first, second = parts.engine(r.tables), parts.engine(r.tables)
        first.step(records.slice(0, cut))
        alerts = first.drain().alerts
        second.restore(first.snapshot(), cut)
        second.step(records.slice(cut, len(records)))
        assert {(a.alert_id, a.status): a.late for a in [*alerts, *second.drain().alerts]} == expected
