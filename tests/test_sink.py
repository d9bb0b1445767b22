"""profiles/sink.py: a lane's commits into a real database, each once, whatever happened to the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import store_rows as row
from pipeline_runs import until
from tapewatch.errors import LogUnavailable, StoreMismatch
from tapewatch.profiles.commit import Commit, RejectedMessage
from tapewatch.profiles.sink import LANES_MAX, Sink
from tapewatch.records import Origin
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.writer import StoreWriter

pytestmark = pytest.mark.slow


class Told:
    """Where rejected messages go, and what the database held at that moment."""

    def __init__(self, dsn: Dsn | None = None) -> None:
        self.put_: list[tuple[int, int, str]] = []
        self.flushed: list[tuple[int, int | None]] = []
        self._dsn = dsn

    def put(self, lane: int, offset: int, key: bytes | None, value: bytes | None, reason: str) -> None:
        self.put_.append((lane, offset, reason))

    def flush(self) -> None:
        self.flushed.append((len(self.put_), position(self._dsn) if self._dsn else None))


class Away(Told):
    def flush(self) -> None:
        raise LogUnavailable("Kafka is away")


def position(dsn: Dsn, lane: str = "0") -> int | None:
    with psycopg.connect(dsn.conninfo) as connection:
        found = connection.execute("SELECT position FROM engine_state WHERE lane = %s", (lane,)).fetchone()
    return None if found is None else int(found[0])


def revisions(dsn: Dsn) -> list[int]:
    with psycopg.connect(dsn.conninfo) as connection:
        return [n for (n,) in connection.execute("SELECT revision FROM price_bars ORDER BY bar_start")]


def commit(old: int, new: int, *, lane: str = "0", rejected: int = 0, origin: Origin | None = Origin.LIVE) -> Commit:
    """Of one bar, whose revision is where it ends."""
    bar = row.bar(0, row.START + 60_000 * int(lane), revision=new)
    return Commit.of(
        row.changes(bars=[bar]), lane=lane, old=old, new=new, origin=origin, notifications=[],
        rejected=[RejectedMessage(old + i, f"reason {i}", b"?") for i in range(rejected)],
        decisions=[new - old, 0, 0, 0], appended_ms=1,
    )  # fmt: skip


@pytest.fixture
def sink(postgres: Dsn) -> Iterator[Sink]:
    with closing(Sink(postgres.conninfo, "log", Told())) as sink:
        yield sink


def test_commits_that_follow_one_another_are_written(postgres: Dsn, sink: Sink) -> None:
    assert sink.write(commit(0, 5))
    assert sink.write(commit(5, 9))
    assert (position(postgres), revisions(postgres)) == (9, [9])


def test_what_spark_repeats_is_passed_over_by_the_same_sink_and_by_another(postgres: Dsn, sink: Sink) -> None:
    assert sink.write(commit(0, 5))
    assert not sink.write(commit(0, 5))
    assert sink.write(commit(5, 9))
    with closing(Sink(postgres.conninfo, "log", Told())) as other:
        assert not other.write(commit(0, 5))
        assert not other.write(commit(5, 9))
        assert other.write(commit(9, 11))
    assert (position(postgres), revisions(postgres)) == (11, [11])


@pytest.mark.parametrize(("old", "new"), [(4, 9), (6, 9)])
def test_a_commit_that_begins_elsewhere_is_refused_with_what_to_do(
    postgres: Dsn, sink: Sink, old: int, new: int
) -> None:
    sink.write(commit(0, 5))
    with pytest.raises(
        StoreMismatch,
        match=rf"has lane 0 at 5, but the checkpoint goes on at {old}: one of them was put back to an older state\. "
        "To go on from the database: tapewatch spark --forget-checkpoint",
    ):
        sink.write(commit(old, new))
    assert (position(postgres), revisions(postgres)) == (5, [5])


def test_a_second_worker_that_has_written_it_meanwhile_has_written_it(postgres: Dsn, sink: Sink) -> None:
    sink.write(commit(0, 5))
    with closing(Sink(postgres.conninfo, "log", Told())) as other:
        other.write(commit(5, 9))
    assert not sink.write(commit(5, 9))
    assert sink.write(commit(9, 12))


def test_a_second_worker_that_has_written_something_else_stops_the_first(postgres: Dsn, sink: Sink) -> None:
    sink.write(commit(0, 5))
    with closing(Sink(postgres.conninfo, "log", Told())) as other:
        other.write(commit(5, 7))
    with pytest.raises(StoreMismatch):
        sink.write(commit(5, 9))
    assert (position(postgres), revisions(postgres)) == (7, [7])


def test_another_logs_database_is_refused(postgres: Dsn, sink: Sink) -> None:
    sink.write(commit(0, 5))
    with (
        closing(Sink(postgres.conninfo, "another", Told())) as other,
        pytest.raises(StoreMismatch, match="holds LIVE data of log log, but this run reads LIVE data of log another"),
    ):
        other.write(commit(0, 5))


def test_messages_without_a_source_are_of_the_origin_that_is_there(postgres: Dsn, sink: Sink) -> None:
    assert sink.write(commit(0, 5, origin=Origin.SIMULATED))
    assert sink.write(commit(0, 5, lane="1", origin=None))
    with closing(Sink(postgres.conninfo, "log", Told())) as other, pytest.raises(StoreMismatch):
        other.write(commit(0, 5, lane="2", origin=Origin.LIVE))


def test_rejected_messages_are_told_before_the_position_moves(postgres: Dsn) -> None:
    told = Told(postgres)
    with closing(Sink(postgres.conninfo, "log", told)) as sink:
        sink.write(commit(0, 5, rejected=2))
        assert told.put_ == [(0, 0, "reason 0"), (0, 1, "reason 1")]
        assert told.flushed == [(2, None)]
        sink.write(commit(5, 6))
        assert len(told.flushed) == 1, "without any there is nothing to wait for"


def test_without_their_topic_nothing_is_written(postgres: Dsn) -> None:
    with closing(Sink(postgres.conninfo, "log", Away())) as sink:
        with pytest.raises(LogUnavailable):
            sink.write(commit(0, 5, rejected=1))
        assert position(postgres) is None


def test_it_keeps_few_connections_however_many_lanes_there_are(postgres: Dsn, sink: Sink) -> None:
    for batch in range(2):
        for lane in range(3 * LANES_MAX):
            assert sink.write(commit(5 * batch, 5 * batch + 5, lane=str(lane)))
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^tapewatch [0-9]+$'"
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        # Those that were closed are still ending for a moment.
        until(lambda: connection.execute(question).fetchone() == (LANES_MAX,), "only the kept ones are open")


@pytest.mark.parametrize("has_written", [False, True])
def test_a_database_that_is_away_is_waited_for(tmp_path: Path, has_written: bool) -> None:
    tmp_path.chmod(0o755)
    server = EmbeddedPostgres(tmp_path / "database", durable=False)
    dsn = server.start()
    try:
        with closing(StoreWriter.connect(dsn.conninfo)) as store:
            store.initialise()
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 6:
                server.start()
                assert server.dsn == dsn, "the port was taken"

        with closing(Sink(dsn.conninfo, "log", Told(), sleep)) as sink:
            if has_written:
                sink.write(commit(0, 5))
            at = 5 if has_written else 0
            server.stop()
            assert sink.write(commit(at, 9))
            assert waits[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
            assert set(waits[6:]) <= {2.0}, "a busy machine's database may be slow to answer"
            assert (position(dsn), revisions(dsn)) == (9, [9])
    finally:
        server.stop()
