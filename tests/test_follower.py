"""The follower: what a live page gets from the database alone is what the engine's own process would have told it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import psycopg
import pytest

import store_rows as row
from tapes import write_tape
from tapewatch.errors import StoreUnavailable
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ticks import with_ticks
from tapewatch.profiles.follower import Follower
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import recorded
from tapewatch.records import AlertStatus, Batch, Changes, Market, Origin, Tables
from tapewatch.serve.stream import Client, StreamHub
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres
from tapewatch.store.following import Following, Found
from tapewatch.store.writer import StoreWriter
from test_serve_stream import events
from trading_days import give_days

MINUTE = 60_000
SETTINGS = Settings(_env_file=None)
PERIODS = {"window_ms": SETTINGS.window_ms, "slide_ms": SETTINGS.slide_ms}


@contextmanager
def written(dsn: Dsn, lane: str = "0") -> Iterator[Callable[[Changes], None]]:
    """A lane's writer; each call commits changes and moves the position by ten."""
    writer = StoreWriter.connect(dsn.conninfo, lane)
    at = writer.recover("log", Origin.SIMULATED).position

    def commit(changes: Changes) -> None:
        nonlocal at
        writer.commit(changes, at, at + 10)
        at += 10

    try:
        yield commit
    finally:
        writer.close()


@pytest.fixture
def following(postgres: Dsn) -> Iterator[Following]:
    following = Following(postgres.conninfo, watermark_delay_ms=SETTINGS.watermark_delay_ms, **PERIODS)
    yield following
    following.close()


class Page:
    """What a page shows: the newest row of each thing, and every state of every alert in its order."""

    def __init__(self, hub: StreamHub, client: Client) -> None:
        self._hub, self._client = hub, client
        self.prices: dict[str, Any] = {}
        self.bars: dict[tuple[str, str], Any] = {}
        self.alerts: list[Any] = []

    def read(self) -> None:
        for event, data in events(self._hub.frame(self._client)):
            assert event in ("price", "bar", "alert"), event
            if event == "price":
                self.prices |= {shown["symbol"]: shown for shown in data}
            elif event == "bar":
                self.bars |= {(shown["symbol"], shown["time"]): shown for shown in data}
            else:
                self.alerts.append(data)

    def by_alert(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for alert in self.alerts:
            found.setdefault(alert["alert_id"], []).append(alert)
        return found


def engine_commits(folder: Path, parts: Parts, records: int) -> Iterator[Changes]:
    """What the engine gives out for a difficult tape, so many records at a time."""
    tables = Tables()
    trades, _ = recorded(write_tape(folder, trades=3_000, minutes=30), tables)
    trades = trades.take(np.flatnonzero(Seen().filter(trades)))
    stocks = trades.take(np.flatnonzero(trades.market == Market.STOCKS))
    log = Batch.join([with_ticks(stocks, None)])
    log.offset = 0
    engine = parts.engine(tables)
    for start in range(0, len(log), records):
        engine.step(log.slice(start, min(start + records, len(log))))
        yield engine.drain()


@pytest.mark.slow
@pytest.mark.parametrize("commits_a_look", [1, 7])
def test_a_page_sees_what_the_engine_would_have_told_it(
    postgres: Dsn, following: Following, tmp_path: Path, commits_a_look: int
) -> None:
    give_days(tmp_path)
    parts = Parts.load(SETTINGS.model_copy(update={"data_dir": tmp_path, "alerts_file": tmp_path / "none.toml"}))

    async def scenario() -> tuple[Page, Page]:
        told_hub, read_hub = StreamHub(), StreamHub()
        told, read = Page(told_hub, told_hub.join()), Page(read_hub, read_hub.join())
        with written(postgres) as commit:
            for number, changes in enumerate(engine_commits(tmp_path, parts, 40)):
                commit(changes)
                told_hub.publish_changes(changes, **PERIODS)
                told.read()
                if number % commits_a_look == 0:
                    found = following.changes(following.state())
                    read_hub.publish_rows(found.prices, found.bars, found.alerts)
                    read.read()
                    assert read.prices == told.prices
                    assert read.bars == told.bars
        found = following.changes(following.state())
        read_hub.publish_rows(found.prices, found.bars, found.alerts)
        read.read()
        return told, read

    told, read = asyncio.run(scenario())
    assert read.prices == told.prices
    assert read.bars == told.bars
    assert len(told.bars) > 40
    assert read.by_alert() == told.by_alert()
    assert {alert["status"] for alert in told.alerts} == {"provisional", "confirmed", "retracted"}


def test_a_row_that_was_written_again_unchanged_is_not_told_again(postgres: Dsn, following: Following) -> None:
    with written(postgres) as commit:
        commit(row.changes(latest=[row.latest(0), row.latest(1)], bars=[row.bar(0)], windows=[row.window(0)]))
        assert [symbol for symbol, _ in following.changes(following.state()).prices] == ["AAPL", "BTC"]
        commit(row.changes(latest=[row.latest(0), row.latest(1, price=2.0)], bars=[row.bar(0)]))
        found = following.changes(following.state())
    assert [symbol for symbol, _ in found.prices] == ["BTC"]
    assert found.bars == []


def test_what_a_slow_transaction_of_another_lane_wrote_is_not_missed(postgres: Dsn, following: Following) -> None:
    """It began before a look, and ended after that."""
    with written(postgres) as commit, psycopg.connect(postgres.conninfo) as slow:
        commit(row.changes(latest=[row.latest(0), row.latest(1)], alerts=[row.alert()]))
        slow.execute("UPDATE latest_prices SET price = 7 WHERE symbol = 'BTC'")
        slow.execute("UPDATE breakout_alerts SET status = 'confirmed', changed_at = clock_timestamp()")
        following.changes(following.state())
        commit(row.changes(latest=[row.latest(0, price=8.0)]))
        assert len(following.changes(following.state()).prices) == 1
        slow.commit()
        commit(row.changes(latest=[row.latest(0, price=9.0)]))
        found = following.changes(following.state())
    assert {symbol: values[4] for symbol, values in found.prices} == {"AAPL": 9.0, "BTC": 7.0}
    assert [alert.status for alert in found.alerts] == [AlertStatus.CONFIRMED]


def test_canary_a_look_that_forgets_who_was_still_writing_misses_it(postgres: Dsn, following: Following) -> None:
    with written(postgres) as commit, psycopg.connect(postgres.conninfo) as slow:
        commit(row.changes(latest=[row.latest(0), row.latest(1)]))
        slow.execute("UPDATE latest_prices SET price = 7 WHERE symbol = 'BTC'")
        newest = slow.execute("SELECT (pg_current_xact_id()::text::int8 + 1)::text").fetchone()
        assert newest is not None
        following.changes(replace(following.state(), mark=newest[0]))
        slow.commit()
        commit(row.changes(latest=[row.latest(0, price=9.0)]))
        found = following.changes(following.state())
    assert [symbol for symbol, _ in found.prices] == ["AAPL"]


def test_both_states_of_an_alert_are_told_once_also_when_they_come_together(
    postgres: Dsn, following: Following
) -> None:
    both = [
        row.alert(alert_id="b", evidence={"provisional": {"x": 1}}),
        row.alert(AlertStatus.RETRACTED, "b", decided_ms=row.START + MINUTE, evidence={"retracted": {"x": 2}}),
    ]
    with written(postgres) as commit:
        following.changes(following.state())
        commit(row.changes(alerts=both))
        found = following.changes(following.state()).alerts
        commit(row.changes(alerts=[row.alert(alert_id="c", evidence={"provisional": {}})]))
        found += following.changes(following.state()).alerts
        commit(row.changes(alerts=[row.alert(AlertStatus.CONFIRMED, "c", evidence={"confirmed": {}})]))
        found += following.changes(following.state()).alerts
    assert [(a.alert_id, str(a.status), a.evidence) for a in found] == [
        ("b", "provisional", {"provisional": {"x": 1}}),
        ("b", "retracted", {"retracted": {"x": 2}}),
        ("c", "provisional", {"provisional": {}}),
        ("c", "confirmed", {"confirmed": {}}),
    ]
    assert found[0].decided_ms == both[0].decided_ms


def test_old_alerts_are_not_told_to_a_page_that_opens_later(postgres: Dsn, following: Following) -> None:
    with written(postgres) as commit, psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        commit(row.changes(latest=[row.latest(0)], alerts=[row.alert(evidence={"provisional": {}})]))
        connection.execute("UPDATE breakout_alerts SET changed_at = changed_at - INTERVAL '20 s'")
        connection.execute("UPDATE breakout_alerts SET stored_at = stored_at - INTERVAL '20 s'")
        following.forget()  # the page opens now, however long all this took
        assert following.changes(following.state()).alerts == []
        commit(row.changes(alerts=[row.alert(AlertStatus.CONFIRMED, evidence={"confirmed": {}})]))
        found = following.changes(following.state()).alerts
    assert [alert.status for alert in found] == [AlertStatus.CONFIRMED]


def counted(work: Callable[[], Found]) -> tuple[Found, int]:
    """What ``work`` finds, and how many functions it calls: what it takes, whatever else the machine does."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        found = work()
    finally:
        sys.setprofile(None)
    return found, count


@pytest.mark.slow
def test_one_look_at_five_hundred_symbols_takes_little(postgres: Dsn, following: Following) -> None:
    symbols = [f"S{number:03}" for number in range(500)]
    with written(postgres) as commit:
        for number in range(10):
            start = row.START + number * 20_000 // MINUTE * MINUTE
            everything = row.changes(
                symbols=symbols,
                latest=[row.latest(i, price=100.0 + number, time_ms=start) for i in range(500)],
                bars=[row.bar(i, start, is_final=False, revision=number + 1) for i in range(500)],
                windows=[row.window(i, start - 4 * MINUTE, revision=number + 1) for i in range(500)],
            )
            commit(everything)
            found, calls = counted(lambda: following.changes(following.state()))
            assert (len(found.prices), len(found.bars)) == (500, 500)
            assert calls < 25 * 1_000, "so many for each price and bar"


def test_a_commit_wakes_whoever_waits(postgres: Dsn, following: Following) -> None:
    assert not following.wait(0.01)
    with written(postgres) as commit:
        commit(row.changes())
        assert following.wait(60)
    state = following.state()
    assert (state.position, state.lanes, state.log_id, state.origin) == (10, {"0": 10}, "log", "SIMULATED")


# --- the thread ------------------------------------------------------------------------------------------------


class Watching:
    """A follower at work on a database, in a loop of its own; ``told`` counts the calls of ``on_alerts``."""

    def __init__(self, dsn: Dsn) -> None:
        self.hub = StreamHub()
        self.alerted = threading.Event()
        self.ended: list[BaseException | None] = []
        self.follower = Follower(SETTINGS, dsn.conninfo, self.hub, on_alerts=self.alerted.set, on_end=self.ended.append)

    async def __aenter__(self) -> Watching:
        self.follower.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.follower.stop)
        await until(lambda: self.ended, "it has ended")  # `stop` does not wait for long
        assert self.ended == [None]


async def until(condition: Callable[[], Any], what: str, within_s: float = 60.0) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.01)


async def shown(page: Page, client: Client, condition: Callable[[], bool]) -> None:
    """Read whenever there is something, until the page shows it."""
    async with asyncio.timeout(60):
        page.read()
        while not condition():
            await client.wake.wait()
            client.wake.clear()
            page.read()


def test_a_live_page_is_told_within_a_moment_and_nothing_is_read_for_nobody(postgres: Dsn) -> None:
    async def scenario() -> None:
        async with Watching(postgres) as watching:
            follower, hub = watching.follower, watching.hub
            with written(postgres) as commit:
                commit(row.changes(latest=[row.latest(0)]))
                await until(lambda: follower.position == 10, "the position is known")
                assert follower.looks == 0, "rows are read only for somebody"
                client = hub.join()
                page = Page(hub, client)
                await shown(page, client, lambda: "AAPL" in page.prices)
                now_ns = time.time_ns()
                new = row.latest(1, price=9.0, market=Market.CRYPTO, received_ns=now_ns)
                alert = row.alert(evidence={"provisional": {}})
                commit(row.changes(latest=[new], alerts=[alert], gaps=[row.gap()]))
                await shown(page, client, lambda: "BTC" in page.prices and bool(page.alerts))
                await until(lambda: follower.gaps == 1, "the gap is counted")
                hub.leave(client)
                looks = follower.looks
                commit(row.changes(latest=[row.latest(0, price=9.5)]))
                await until(lambda: follower.position == 30, "the position is known")
                assert follower.looks == looks
            assert watching.alerted.wait(60)
            assert follower.last_trade_ns[Market.CRYPTO] == now_ns // 1_000 * 1_000
            assert follower.lag_ms is not None
            assert 0 < follower.lag_ms <= (time.time_ns() - now_ns) / 1e6
            await until(lambda: follower.store_problem == "", "no problem is said")

    asyncio.run(scenario())


def test_with_no_commit_there_are_no_looks(postgres: Dsn) -> None:
    async def scenario() -> None:
        with written(postgres) as commit:  # before the first look, which a lane that is claimed later would repeat
            async with Watching(postgres) as watching:
                client = watching.hub.join()
                await until(lambda: watching.follower.looks == 1, "the first look")
                commit(row.changes(latest=[row.latest(0)]))
                await until(lambda: watching.follower.position == 10, "the position is known")
                assert watching.follower.looks == 2
                watching.hub.leave(client)

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_database_that_is_killed_is_said_and_found_again(tmp_path: Path) -> None:
    async def scenario(server: EmbeddedPostgres) -> None:
        dsn = server.dsn
        async with Watching(dsn) as watching:
            follower, hub = watching.follower, watching.hub
            client = hub.join()
            page = Page(hub, client)
            with written(dsn) as commit:
                commit(row.changes(latest=[row.latest(0)]))
                await shown(page, client, lambda: "AAPL" in page.prices)
                psutil.Process(server.pid).kill()
                await until(lambda: "does not answer" in follower.store_problem or
                            "Cannot reach" in follower.store_problem, "the problem is said")  # fmt: skip
                assert await asyncio.to_thread(server.revive)
                assert server.dsn == dsn
                await until(lambda: follower.store_problem == "", "it is found again")
                with pytest.raises(StoreUnavailable):
                    commit(row.changes())  # its connection is gone too
                commit(row.changes(latest=[row.latest(1)], alerts=[row.alert(evidence={"provisional": {}})]))
                await shown(page, client, lambda: "BTC" in page.prices and len(page.alerts) == 1)

    server = EmbeddedPostgres(tmp_path, durable=False)
    try:
        writer = StoreWriter.connect(server.start().conninfo)
        writer.initialise()
        writer.close()
        asyncio.run(scenario(server))
    finally:
        server.stop()
