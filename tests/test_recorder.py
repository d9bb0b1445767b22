"""The recorder with a log that waits, as Kafka's does when no broker answers: it can be stopped, and loses no order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tapewatch.errors import LogUnavailable
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame, FrameQueue
from tapewatch.profiles.recorder import Recorder
from tapewatch.profiles.tail import Tail
from tapewatch.records import Batch, Market, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, Rules
from tapewatch.settings import load_settings

T_MS = 1_788_877_046_300


class WaitingLog:
    """Takes batches until told to wait; then `append` waits until `stop_waiting`, and raises."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.is_waiting = False
        self.is_away = False
        self.asked = threading.Semaphore(0)
        self._stop = threading.Event()

    def append(self, batch: Batch) -> Batch:
        if self.is_away:
            self.is_waiting = True
            self.asked.release()
            assert self._stop.wait(120)
            raise LogUnavailable("it was told to wait no longer")
        self.taken += batch.ids
        self.asked.release()
        return replace(batch, offset=len(self.taken) - len(batch), logged_ns=1)

    def stop_waiting(self) -> None:
        self._stop.set()

    def size_bytes(self) -> int:
        return 0

    def retain(self, before_ms: int, *, keep_from: int | None = None) -> int:
        return 0


class Recording:
    def __init__(self, rules: Rules | None = None) -> None:
        self.log = WaitingLog()
        self.ends: list[BaseException | None] = []
        self.ended = threading.Event()
        self.queue = FrameQueue()
        ingest = Ingest(Tables(), Seen())
        settings = load_settings(_env_file=None, log_commit_ms=1)
        self.recorder = Recorder(
            settings, self.queue, ingest, self.log, Tail(0), past=None, rules=rules, consumed=lambda: 0,
            on_end=self._end,
        )  # fmt: skip
        self.recorder.start()

    def put(self, number: int) -> None:
        event = {"ev": "T", "sym": "AAPL", "p": 210.5, "ds": "1.0", "t": T_MS + number, "x": 4, "i": str(number)}
        self.queue.put(Frame(Market.STOCKS, json.dumps(event).encode(), (T_MS + number) * 10**6))

    def _end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        self.ended.set()


@pytest.fixture
def recording() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.log.stop_waiting()
    recording.recorder.stop()


def test_a_stop_while_the_log_waits_gives_up_what_was_not_acknowledged_and_all_after_it(recording: Recording) -> None:
    recording.put(1)
    assert recording.log.asked.acquire(timeout=120)
    recording.log.is_away = True
    recording.put(2)
    assert recording.log.asked.acquire(timeout=120)
    recording.put(3)
    recording.recorder.stop()
    assert recording.log.taken == ["1"]
    assert recording.ends == [None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_that_gives_up_by_itself_ends_the_recording(recording: Recording) -> None:
    """Trying again would write what may be there already: the process ends, and the next start knows."""
    recording.log.is_away = True
    recording.put(1)
    assert recording.log.asked.acquire(timeout=120)
    recording.log.stop_waiting()
    assert recording.ended.wait(120)
    assert isinstance(recording.ends[0], LogUnavailable)


def test_the_rules_come_before_the_first_record_and_a_change_needs_none() -> None:
    recording = Recording(Rules())
    try:
        recording.put(1)
        assert recording.log.asked.acquire(timeout=120)
        changed = Rules(golden_cross=CrossRule(band_bps=7.0))
        recording.recorder.say_rules(changed, "api")
        assert recording.log.asked.acquire(timeout=120)
        first, trade, second = recording.log.taken
        assert trade == "1"
        assert [RuleChange.decode(text)[:2] for text in (first, second)] == [(Rules(), "start"), (changed, "api")]
    finally:
        recording.recorder.stop()
