"""profiles/lane.py: one partition's engine, cut and restarted anyhow, comes to the rows of the whole."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from chaos_log import CHANGES, chaos, ruled
from tapewatch.errors import LogError, LogLost
from tapewatch.feed.symbols import wire_symbol
from tapewatch.log.messages import encode_messages
from tapewatch.profiles.commit import Commit
from tapewatch.profiles.lane import Lane, LaneState, Start
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rows import RunRows, alerts_sha256
from tapewatch.records import Alert, Batch, Changes, Kind, Origin, Tables
from tapewatch.rules.model import Rules
from tapewatch.sessions import Calendar
from tapewatch.settings import Settings

SETTINGS = Settings(_env_file=None)


@pytest.fixture(scope="module")
def parts(days: Calendar) -> Parts:
    return Parts(SETTINGS, Rules(), days)


class Partition:
    """The messages of one partition that gets everything, as Spark gives them: offset, append time, value."""

    def __init__(self, batch: Batch, tables: Tables) -> None:
        self.values: list[bytes | None] = [
            value for _, value in encode_messages(batch, tables, Origin.REPLAYED, wire_symbol)
        ]
        self.times = np.arange(len(self.values), dtype=np.int64) + 1_769_100_000_000

    def __len__(self) -> int:
        return len(self.values)

    def give(self, lane: Lane, start: int, stop: int, random: Random | None = None) -> tuple[Commit | None, LaneState]:
        order = list(range(start, stop))
        if random is not None:
            random.shuffle(order)  # Spark promises no order
        values = [self.values[i] for i in order]
        taken = lane.take(np.array(order, np.int64), self.times[order], values)
        commit = None if taken.commit is None else Commit.decode(taken.commit.encode())
        return commit, taken.state


def whole(parts: Parts, batch: Batch, tables: Tables) -> RunRows:
    engine = parts.engine(tables)
    engine.step(batch)
    return RunRows.of_changes([engine.drain()], tables)


def rows_of(commits: list[Commit]) -> RunRows:
    """The newest rows of all commits, whose symbols are numbered anew in each."""
    tables, results = Tables(), list[Changes]()
    for commit in commits:
        changes = commit.changes()
        numbers = np.array([tables.symbols.index(name) for name in changes.symbols], np.int32)
        for name in ("windows", "bars", "latest", "quality"):
            rows = getattr(changes, name).copy()
            rows["symbol"] = numbers[rows["symbol"]] if len(rows) else rows["symbol"]
            setattr(changes, name, rows)
        results.append(changes)
    return RunRows.of_changes(results, tables)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_any_cut_any_order_and_any_restart_give_the_rows_of_the_whole(parts: Parts, seed: int) -> None:
    tables, random = Tables(), Random(seed)
    batch = ruled(chaos(seed, tables, seconds=400))
    partition = Partition(batch, tables)
    lane, state, commits, at = Lane("0", parts, ("log",)), None, list[Commit](), 0
    while at < len(partition):
        stop = min(len(partition), at + random.choice((1, 7, 400, 3_000)))
        if state is not None and random.random() < 0.5:
            lane = Lane("0", parts, ("log",))
            lane.load(state)
        commit, state = partition.give(lane, at, stop, random)
        assert commit is not None
        assert (commit.old, commit.new, commit.origin) == (at, stop, Origin.REPLAYED)
        commits.append(commit)
        at = stop
    assert rows_of(commits).sha256() == whole(parts, batch, tables).sha256()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_however_symbols_are_spread_over_lanes_the_alerts_of_changing_rules_are_those_of_the_whole(
    parts: Parts, seed: int
) -> None:
    """A lane is told of every change, and whether the symbol itself has traded before is all that counts."""
    tables = Tables()
    batch = ruled(chaos(seed, tables, seconds=300))
    expected = whole(parts, batch, tables)
    for lanes in (3, len(tables.symbols)):
        alerts, commits = list[Alert](), list[Commit]()
        for name in range(lanes):
            is_mine = (batch.kind != Kind.TRADE) | (batch.symbol % lanes == name)
            partition = Partition(batch.take(np.flatnonzero(is_mine)), tables)
            commit, _ = partition.give(Lane(str(name), parts, ()), 0, len(partition))
            assert commit is not None
            commits.append(commit)
            assert len(commit.rules) == sum(len(rules) for _, rules in CHANGES)
            alerts += rows_of([commit]).alerts
        found = rows_of(commits)
        assert (found.windows, found.bars) == (expected.windows, expected.bars)
        assert alerts_sha256(alerts) == alerts_sha256(expected.alerts)


def test_a_batch_that_comes_again_from_the_state_before_it_gives_the_same_commit(parts: Parts) -> None:
    tables = Tables()
    partition = Partition(chaos(1, tables, seconds=300), tables)
    first = Lane("0", parts, ())
    _, state = partition.give(first, 0, 500)
    commit, _ = partition.give(first, 500, len(partition))
    again = Lane("0", parts, ())
    again.load(state)
    repeated, _ = partition.give(again, 500, len(partition))
    assert commit is not None
    assert repeated is not None
    assert (repeated.rows, repeated.old, repeated.new, repeated.symbols) == (
        commit.rows, commit.old, commit.new, commit.symbols,
    )  # fmt: skip
    assert [(a.alert_id, a.status) for a in repeated.alerts] == [(a.alert_id, a.status) for a in commit.alerts]


@pytest.mark.parametrize("stored", [0, 300, 650, pytest.param(800, marks=pytest.mark.slow)])
def test_from_the_databases_snapshot_nothing_is_given_out_that_is_stored(parts: Parts, stored: int) -> None:
    tables = Tables()
    batch = chaos(2, tables, seconds=400)
    partition = Partition(batch, tables)
    lane = Lane("0", parts, ())
    _, state = partition.give(lane, 0, 300)
    kept = [partition.give(Lane("0", parts, ()), 0, stored)[0]] if stored else []
    again = Lane("0", parts, ())
    again.begin(Start(state.engine if stored else None, 300 if stored else 0, stored, Origin.REPLAYED))
    at, later = (300 if stored else 0), list[Commit]()
    while at < len(partition):
        commit, _ = partition.give(again, at, min(at + 250, len(partition)))
        if commit is not None:
            later.append(commit)
        at = min(at + 250, len(partition))
    assert later[0].old == stored
    assert rows_of([c for c in kept if c] + later).sha256() == whole(parts, batch, tables).sha256()


def test_messages_that_cannot_be_read_take_their_offset_and_are_told(parts: Parts) -> None:
    tables = Tables()
    batch = chaos(3, tables, seconds=200)
    clean, dirty = Partition(batch, tables), Partition(batch, tables)
    places = (0, 10, 11, len(batch) - 1)
    for at in places:
        dirty.values.insert(at, b'{"symbol":"AAPL"}')
    dirty.times = np.arange(len(dirty.values), dtype=np.int64) + 1_769_100_000_000
    commit, state = dirty.give(Lane("0", parts, ()), 0, len(dirty))
    assert commit is not None
    assert [one.offset for one in commit.rejected] == list(places)
    assert {one.reason for one in commit.rejected} == {"price=None: expected a number above 0"}
    assert state.position == len(dirty)
    expected, _ = clean.give(Lane("0", parts, ()), 0, len(clean))
    assert expected is not None
    assert rows_of([commit]).sha256() == rows_of([expected]).sha256()


def test_lost_messages_stop_the_lane_until_a_person_accepts_a_gap(parts: Parts) -> None:
    tables = Tables()
    partition = Partition(chaos(4, tables, seconds=400), tables)
    lane = Lane("0", parts, ())
    _, state = partition.give(lane, 0, 400)
    with pytest.raises(LogLost, match=r"Lane 0: the messages from offset 400 to 700 .* tapewatch spark --accept-loss"):
        partition.give(lane, 700, 900)
    again = Lane("0", parts, ())
    again.begin(Start(state.engine, 400, 400, Origin.REPLAYED, accepts_loss=True))
    commit, _ = partition.give(again, 700, 900)
    assert commit is not None
    assert (commit.old, commit.new) == (400, 900)
    assert {gap.cause for gap in commit.gaps} >= {"lost in Kafka"}


@pytest.mark.parametrize(
    ("stored", "given"), [(300, 300), (650, 300), (300, 500), pytest.param(650, 650, marks=pytest.mark.slow)]
)
def test_the_first_batch_that_comes_again_is_passed_over_as_far_as_the_snapshot_knows_it(
    parts: Parts, stored: int, given: int
) -> None:
    """The sink has written a lane's first batch with its snapshot; then all was killed before Spark kept a state."""
    tables = Tables()
    batch = chaos(6, tables, seconds=400)
    partition = Partition(batch, tables)
    first, state = partition.give(Lane("0", parts, ()), 0, stored)
    again = Lane("0", parts, ())
    again.begin(Start(state.engine, stored, stored, Origin.REPLAYED))
    commit, found = partition.give(again, 0, given)
    assert (commit is None) == (given <= stored)
    assert found.position == max(stored, given)
    loaded = Lane("0", parts, ())
    loaded.load(found)
    at = min(stored, given)  # and even batches that end before it
    later = partition.give(loaded, at if given < stored else given, len(partition))[0]
    assert first is not None
    assert later is not None
    assert rows_of([c for c in (first, commit, later) if c]).sha256() == whole(parts, batch, tables).sha256()


def test_an_accepted_loss_before_what_is_stored_is_told_too(parts: Parts) -> None:
    tables = Tables()
    partition = Partition(chaos(4, tables, seconds=400), tables)
    _, state = partition.give(Lane("0", parts, ()), 0, 400)
    lane = Lane("0", parts, ())
    lane.begin(Start(state.engine, 400, 800, Origin.REPLAYED, accepts_loss=True))
    assert partition.give(lane, 600, 700)[0] is None
    commit, _ = partition.give(lane, 700, 900)
    assert commit is not None
    assert (commit.old, commit.new) == (800, 900)
    assert {gap.cause for gap in commit.gaps} >= {"lost in Kafka"}


def test_a_hole_between_messages_is_told_with_what_to_do(parts: Parts) -> None:
    tables = Tables()
    partition = Partition(chaos(4, tables, seconds=60), tables)
    offsets = np.array([0, 1, 3, 4])
    with pytest.raises(LogError, match=r"Lane 0: offset 2 is no message, though there are later ones: the topic is"):
        Lane("0", parts, ()).take(offsets, partition.times[:4], partition.values[:4])


def test_a_state_of_other_settings_is_refused(parts: Parts) -> None:
    tables = Tables()
    partition = Partition(chaos(5, tables, seconds=60), tables)
    _, state = partition.give(Lane("0", parts, ()), 0, len(partition))
    others = replace(parts, settings=SETTINGS.model_copy(update={"window_ms": 600_000}))
    with pytest.raises(LogError, match="made with other window"):
        Lane("0", others, ()).load(state)


def test_delayed_stocks_beside_live_coins_are_not_late(parts: Parts) -> None:
    """Spark's one watermark for the query would drop every one of them."""
    now_ms = 1_769_100_000_000
    values: list[bytes | None] = []
    for second in range(120):
        at_ms = now_ms + second * 1_000
        values.append(b'{"symbol":"BTC","price":90000,"volume":1,"timestamp":%d}' % at_ms)
        values.append(b'{"symbol":"AAPL","price":190,"volume":100,"timestamp":%d}' % (at_ms - 15 * 60_000))
    taken = Lane("0", parts, ()).take(np.arange(240), np.full(240, now_ms + 120_000), values)
    assert taken.commit is not None
    assert taken.commit.decisions == [240, 0, 0, 0]
    latest = taken.commit.changes().latest
    assert latest["late"].tolist() == [0, 0]
    assert latest["trades"].tolist() == [120, 120]


@pytest.mark.slow
def test_the_state_of_a_lane_does_not_grow_with_the_days(parts: Parts) -> None:
    """A simulated week of the same symbols: what is remembered is a window, not a history."""
    tables, sizes = Tables(), list[int]()
    lane, at = Lane("0", parts, ()), 0
    for day in range(7):
        batch = chaos(day, tables, seconds=900)
        batch.time_ms += day * 86_400_000
        batch.received_ns += day * 86_400_000_000_000
        partition = Partition(batch, tables)
        offsets = np.arange(at, at + len(partition))
        state = lane.take(offsets, partition.times, partition.values).state
        sizes.append(len(state.engine))
        at += len(partition)
    print(f"bytes of state by day: {sizes}")
    assert max(sizes[2:]) <= 1.2 * sizes[1], sizes  # the last 64 gaps are remembered too


@pytest.mark.slow
def test_the_state_of_a_thousand_symbols(parts: Parts) -> None:
    lane, now_ms = Lane("0", parts, ()), 1_769_100_000_000
    random = Random(1)
    sizes = list[int]()
    for part in range(3):
        values: list[bytes | None] = [
            b'{"symbol":"S%d","price":%.2f,"volume":%d,"timestamp":%d}'
            % (i % 1_000, random.uniform(5, 500), random.randrange(1, 900), now_ms + 900_000 * part + i * 30)
            for i in range(30_000)
        ]
        offsets = np.arange(30_000 * part, 30_000 * (part + 1))
        taken = lane.take(offsets, now_ms + 900_000 * part + np.arange(30_000) * 30, values)
        assert taken.commit is not None
        assert taken.commit.decisions == [30_000, 0, 0, 0]
        sizes.append(len(taken.state.engine))
    print(f"bytes of state for each of 1,000 symbols: {[size / 1_000 for size in sizes]}")
    assert sizes[2] <= 1.1 * sizes[1], sizes
