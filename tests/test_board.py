"""What a distributed pipeline says of itself, with Kafka and the database made up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapewatch.errors import LogUnavailable
from tapewatch.profiles.board import STALLED_S, Board, LaneWatch, SeenFeeds
from tapewatch.records import Market, Origin
from tapewatch.serve.models import Status
from tapewatch.serve.problems import problems
from tapewatch.sessions import Sessions
from tapewatch.settings import Settings

SETTINGS = Settings(_env_file=None, KAFKA_BOOTSTRAP_SERVERS="kafka-1:9092", DB_HOST="db")
_DAYS = [np.array([t], np.int64) for t in (1, 2, 3, 4)]
NEVER_OPEN = {Market.STOCKS: Sessions(*_DAYS)}
"""Since a moment of the year 1970."""


@dataclass
class Seen:
    """A follower that says what it is told to."""

    lanes: dict[str, int] = field(default_factory=dict)
    log_id: str = ""
    origin: str = ""
    trades: int = 0
    gaps: int = 0
    lag_ms: float | None = None
    last_trade_ns: dict[Market, int] = field(default_factory=dict)
    store_problem: str = ""

    @property
    def position(self) -> int:
        return sum(self.lanes.values())


class Lanes:
    """Kafka; away while ``found`` is None."""

    def __init__(self, *extents: tuple[int, int]) -> None:
        self.found: dict[int, tuple[int, int]] | None = dict(enumerate(extents))

    def extents(self) -> dict[int, tuple[int, int]]:
        if self.found is None:
            raise LogUnavailable("Kafka does not answer")
        return self.found

    def close(self) -> None:
        pass


class Place:
    """A board over made-up rooms, with a clock that is moved by hand."""

    def __init__(self, folder: Path, seen: Seen, lanes: Lanes | None, **options: Any) -> None:
        self.now_s = 1_000.0
        self.watch = None if lanes is None else LaneWatch(lanes, seen, lambda error: None, lambda: self.now_s)
        feeds = SeenFeeds(SETTINGS, Origin.LIVE, NEVER_OPEN, seen)
        origin = options.pop("origin", Origin.LIVE)
        self.board = Board(SETTINGS, origin, folder, feeds=feeds, shown=seen, watch=self.watch, **options)

    def later(self, seconds: float) -> dict[str, Any]:
        """The status after so long, with Kafka asked again."""
        self.now_s += seconds
        if self.watch is not None:
            self.watch.look()
        status = self.board()
        Status.model_validate(status)
        return status


def test_positions_and_ends_are_summed_over_the_lanes(tmp_path: Path) -> None:
    place = Place(tmp_path, Seen({"0": 40, "2": 7}), Lanes((0, 50), (100, 130), (0, 7)))
    status = place.later(0)
    assert status["log"] | {"disk_free_bytes": 0} == {
        "state": "ok", "bytes": None, "disk_free_bytes": 0, "first": 100, "end": 187, "kafka": "kafka-1:9092",
        "topic": "raw-trades", "lanes": {"0": 50, "1": 130, "2": 7},
    }  # fmt: skip
    assert status["engine"] == {"state": "ok", "position": 47, "behind": 10 + 30, "lanes": {"0": 40, "2": 7}}
    assert problems(status) == []


def test_kafka_that_does_not_answer_is_said_with_its_address(tmp_path: Path) -> None:
    lanes = Lanes((0, 50))
    place = Place(tmp_path, Seen(), lanes)
    place.later(0)
    lanes.found = None
    assert place.later(3)["log"]["state"] == "ok"
    status = place.later(9)
    assert status["log"]["end"] == 50, "the last that is known"
    assert [found["sentence"] for found in problems(status)] == [
        "The log is waiting: Kafka at kafka-1:9092 has not answered for 12 s: recording waits.",
    ]
    lanes.found = {0: (0, 60)}
    assert place.later(1)["log"]["state"] == "ok"


def test_records_that_kafka_does_not_take_are_said(tmp_path: Path) -> None:
    status = Place(tmp_path, Seen(), Lanes((0, 50)), is_waiting=lambda: True).later(0)
    assert status["log"]["detail"] == "Kafka at kafka-1:9092 acknowledges nothing: recording waits."


def test_an_engine_that_stands_while_records_wait_is_said_after_a_while(tmp_path: Path) -> None:
    seen, lanes = Seen({"0": 40}), Lanes((0, 40))
    place = Place(tmp_path, seen, lanes)
    assert place.later(0)["engine"]["state"] == "ok"
    assert place.later(10 * STALLED_S)["engine"]["state"] == "ok", "nothing waits"
    lanes.found = {0: (0, 1_240)}
    assert place.later(STALLED_S)["engine"]["state"] == "ok"
    status = place.later(5)
    assert status["engine"]["detail"] == (
        "The Spark job does not advance: 1,200 records have waited for 35 s. Nothing is lost; start it with "
        "`tapewatch spark`, or look at what it says."
    )
    assert [found["sentence"] for found in problems(status)] == [f"The engine is stalled: {status['engine']['detail']}"]
    seen.lanes["0"] += 1
    assert place.later(1)["engine"]["state"] == "ok", "it moves again"


def test_a_database_that_is_away_is_no_fault_of_the_engine(tmp_path: Path) -> None:
    seen = Seen({"0": 40}, store_problem="The database at db:5432/stockdb does not answer: gone.")
    status = Place(tmp_path, seen, Lanes((0, 100))).later(10 * STALLED_S)
    assert status["engine"]["state"] == "ok"
    assert status["store"] == {
        "state": "down",
        "detail": f"{seen.store_problem} New trades are kept in Kafka until it is back.",
    }


@pytest.mark.parametrize(("log_id", "origin"), [("other", "LIVE"), ("mine", "REPLAYED")])
def test_rows_of_another_log_are_said(tmp_path: Path, log_id: str, origin: str) -> None:
    status = Place(tmp_path, Seen(log_id=log_id, origin=origin), Lanes((0, 1)), log_id="mine").later(0)
    assert status["store"]["state"] == "mismatch"
    assert (
        f"holds {origin} data of log {log_id}, but this process is for LIVE data of log mine."
        in (status["store"]["detail"])
    )
    assert Place(tmp_path, Seen(log_id="mine", origin="LIVE"), None).later(0)["store"] == {"state": "ok"}


def test_a_page_without_kafka_shows_what_the_database_says(tmp_path: Path) -> None:
    seen = Seen({"0": 40, "1": 2}, trades=42, gaps=1, lag_ms=12.5)
    status = Place(tmp_path, seen, None).later(0)
    assert (status["log"]["end"], status["engine"]["position"], status["engine"]["behind"]) == (42, 42, None)
    assert (status["lag_ms"], status["gaps"], status["feeds"]) == (12.5, 1, [])


def test_feeds_of_another_process_are_judged_by_their_newest_trade(tmp_path: Path) -> None:
    now_ns = time.time_ns()
    old_ns = now_ns - 2 * SETTINGS.feed_stall_ms * 1_000_000
    seen = Seen(last_trade_ns={Market.STOCKS: old_ns, Market.CRYPTO: now_ns})
    stocks, crypto = Place(tmp_path, seen, None).later(0)["feeds"]
    assert (stocks["market"], stocks["state"], stocks["detail"]) == ("stocks", "closed", "The market is closed.")
    assert (crypto["market"], crypto["state"]) == ("crypto", "live")
    seen.last_trade_ns[Market.CRYPTO] = old_ns
    assert "longer than 1m (FEED_STALL)" in Place(tmp_path, seen, None).later(0)["feeds"][1]["detail"]
