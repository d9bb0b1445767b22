"""A day's rows against what the exchange says afterwards, on a real log, a real database and a real HTTP server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from rest_server import Answer, Server
from tapewatch.cli_reconcile import report_lines
from tapewatch.errors import InputError, StoreError
from tapewatch.feed.decode import Decoder
from tapewatch.feed.ticks import tick_row
from tapewatch.log.local import LogWriter
from tapewatch.oracle_alerts import AlertKey
from tapewatch.profiles.market import KEY, SimulatorProcess
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.reconcile import DayReport, bounds_ms, day_of, reconcile, revise
from tapewatch.profiles.rooms import Rooms, rebuild_rows
from tapewatch.profiles.verify import verify
from tapewatch.records import E8, Batch, Kind, Market, Origin, Tables
from tapewatch.rules.model import Rules
from tapewatch.settings import load_settings
from tapewatch.simulator.corrections import Corrections
from tapewatch.simulator.events import events
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.tape import rows as rows_of
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import EmbeddedPostgres

DAY = date(2026, 11, 20)
OPEN_MS = int(datetime(2026, 11, 20, 14, 30, tzinfo=UTC).timestamp()) * 1_000
MINUTE = 60_000
pytestmark = pytest.mark.slow


def ms(second: int) -> int:
    return OPEN_MS + second * 1_000


@dataclass(frozen=True)
class Print:
    """A trade as it was."""

    number: int
    second: int
    price: float = 100.0
    size: int = 10
    codes: tuple[int, ...] = ()

    def row(self, tables: Tables, received_second: int | None = None) -> tuple[Any, ...]:
        at = self.second if received_second is None else received_second
        symbol, conditions = tables.symbols.index("AAPL"), tables.conditions.index(self.codes)
        numbers = (self.price, self.size * E8, 12, 0, conditions, str(self.number))
        return (Kind.TRADE, Market.STOCKS, symbol, ms(self.second), (ms(at) + 5) * 1_000_000, *numbers)

    def told(self, **changed: Any) -> dict[str, Any]:
        row = {"id": str(self.number), "sip_timestamp": ms(self.second) * 1_000_000, "price": self.price}
        return row | {"size": self.size, "exchange": 12, "conditions": list(self.codes)} | changed


def quiet_day() -> list[Print]:
    """Every ten seconds a trade, for twelve minutes, but none in the eighth."""
    numbers = [n for n in range(72) if not 42 <= n < 48]
    return [Print(n, 10 * n, price=100 + (n % 7) / 10) for n in numbers]


class World:
    """A log with its rows, and an exchange that says ``rows`` of the day."""

    def __init__(self, folder: Path, dsn: Dsn) -> None:
        self.dsn = dsn
        self.rows: list[dict[str, Any]] = []
        self.server = Server(self._reply)
        self.rooms = Rooms(Origin.LIVE, folder, folder / "log.db", dsn.conninfo, False)
        settings = load_settings(_env_file=None, data_dir=folder, massive_api_key="k" * 20)
        self.parts = Parts(settings, Rules(), {})

    def _reply(self, path: str, query: dict[str, str], number: int) -> Answer:
        start, stop = int(query["timestamp.gte"]), int(query["timestamp.lt"])
        return 200, {}, {"results": [row for row in self.rows if start <= row["sip_timestamp"] < stop]}

    def record(self, trades: list[Print], late: list[Print] = [], closes_second: int = 60_000) -> None:  # noqa: B006
        tables = Tables()
        rows = [one.row(tables) for one in trades] + [one.row(tables, 1_000) for one in late]
        end = tick_row(Market.STOCKS, ms(closes_second), ms(closes_second) * 1_000_000)
        with closing(LogWriter.open(self.rooms.log_path, tables, origin=Origin.LIVE)) as log:
            log.append(Batch.of([*rows, end]))
        rebuild_rows(self.rooms, self.parts)

    def compare(self, *symbols: str) -> DayReport:
        with self.server.running():
            settings = self.parts.settings.model_copy(update={"massive_rest_url": self.server.url})
            return reconcile(settings, self.rooms, self.parts, DAY, symbols)

    def bar(self, minute: int) -> tuple[Any, ...] | None:
        with psycopg.connect(self.dsn.conninfo) as connection:
            return connection.execute(
                "SELECT open, high, low, close, volume, trade_count, revision FROM price_bars WHERE bar_start = %s",
                (datetime.fromtimestamp((OPEN_MS + minute * MINUTE) / 1_000, UTC),),
            ).fetchone()

    def is_proved(self) -> bool:
        return verify(self.rooms.log_path, self.dsn.conninfo, self.parts).is_good

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn.conninfo) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def world(tmp_path: Path, postgres: Dsn) -> Iterator[World]:
    return World(tmp_path, postgres)  # type: ignore[return-value]


def whats(report: DayReport) -> list[tuple[str, str]]:
    return [(d.what.value, d.trade_id) for one in report.symbols for d in one.compared.differences]


def test_a_day_that_the_exchange_tells_alike(world: World) -> None:
    day = quiet_day()
    world.record(day)
    world.rows = [one.told() for one in day]
    report = world.compare()
    assert (whats(report), [*report.rows()], report.differs) == ([], [], False)
    assert [*report_lines(report, 9)][-1] == "The log holds what the exchange says, trade by trade."
    path, query, key = world.server.asked[0]
    assert (path, key) == ("/v3/trades/AAPL", "Bearer " + "k" * 20)
    # the whole day in New York, with no overlap
    assert int(query["timestamp.lt"]) - int(query["timestamp.gte"]) == 86_400 * 10**9


def test_every_difference_is_named_and_its_rows_are_corrected_and_proved(world: World) -> None:
    day = quiet_day()
    late = Print(300, 5, price=99.0)
    world.record(day, late=[late])
    assert world.is_proved()
    told = {one.number: one.told() for one in [*day, late]}
    told[8] |= {"correction": 8}
    told[14] |= {"correction": 1}
    del told[20]
    world.rows = [*told.values(), day[14].told(correction=12, price=103.0)]
    world.rows += [Print(100, 33, price=104.0).told(), Print(200, 7 * 60 + 30, price=101.5, size=3).told()]
    report = world.compare()
    assert sorted(whats(report)) == [
        ("cancelled", "8"), ("corrected", "14"), ("extra", "20"), ("late", "300"), ("missing", "100"),
        ("missing", "200"),
    ]  # fmt: skip
    lines = [*report_lines(report, 9)]
    assert any("corrected  logged 100 x 10; told 103 x 10  id 14" in line for line in lines)
    before = {minute: world.bar(minute) for minute in range(12)}
    assert before[7] is None
    assert revise(world.rooms, report)[1] == 0
    after = {minute: world.bar(minute) for minute in range(12)}
    assert after[0] == (100.0, 104.0, 99.0, 100.5, 80.0, 8, 7), "late and missing trades are in, at a higher revision"
    assert after[1] == (100.6, 100.6, 100.0, 100.4, 50.0, 5, 7), "the cancelled one is out"
    assert after[2] is not None
    assert before[2] is not None
    assert (after[2][1], after[2][4]) == (103.0, before[2][4])
    assert after[7] == (101.5, 101.5, 101.5, 101.5, 3.0, 1, 1), "a bar where there was none"
    assert [after[n] for n in (3, 4, 5, 6, 8, 9)] == [before[n] for n in (3, 4, 5, 6, 8, 9)]
    assert world.is_proved(), "from what the log says to what they are now"
    # a second time there is nothing to do
    assert revise(world.rooms, world.compare()) == (0, 0)
    assert world.is_proved()
    kept = world.sql("SELECT count(*), max(number) FROM row_revisions")
    assert kept == [(len([*report.rows()]), 1)]


def test_a_minute_whose_trades_were_all_cancelled_has_no_bar_any_more(world: World) -> None:
    day = quiet_day()
    world.record(day)
    world.rows = [one.told(correction=8 if 18 <= one.number < 24 else 0) for one in day]
    assert world.bar(3) is not None
    revise(world.rooms, world.compare())
    assert world.bar(3) is None
    assert world.is_proved()
    # what was cancelled by mistake comes back
    world.rows = [one.told() for one in day]
    assert whats(world.compare()) == []


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE price_bars SET close = close + 1 WHERE revision = 7",
        "UPDATE row_revisions SET old_row = old_row || '{\"close\": 1.5}' WHERE table_name = 'price_bars'",
        "UPDATE row_revisions SET new_row = new_row || '{\"close\": 1.5}' WHERE table_name = 'price_bars'",
        "DELETE FROM row_revisions WHERE table_name = 'stock_aggregates'",
        "DELETE FROM price_bars WHERE revision = 7",
    ],
)
def test_a_row_that_is_neither_what_the_log_nor_what_its_correction_says_is_found(world: World, tampering: str) -> None:
    day = quiet_day()
    world.record(day)
    world.rows = [one.told(correction=8 if one.number == 3 else 0) for one in day]
    revise(world.rooms, world.compare())
    assert world.is_proved()
    world.sql(tampering)
    assert not world.is_proved()


def test_rows_computed_anew_are_the_log_s_again(world: World) -> None:
    day = quiet_day()
    world.record(day)
    world.rows = [one.told(correction=8 if one.number == 3 else 0) for one in day]
    revise(world.rooms, world.compare())
    rebuild_rows(world.rooms, world.parts)
    assert world.is_proved()
    assert world.sql("SELECT count(*) FROM row_revisions") == [(0,)]


def test_alerts_that_would_not_have_come_are_named(world: World) -> None:
    flat = [Print(n, 10 * n, price=100.0 if n < 54 else 99.0) for n in range(72)]
    spike = Print(500, 601, price=120.0, size=1)
    world.record([*flat[:61], spike, *flat[61:]])
    world.rows = [one.told() for one in flat] + [spike.told(correction=8)]
    report = world.compare()
    key = AlertKey("golden_cross", "AAPL", OPEN_MS + 10 * MINUTE, 1)
    assert key in report.symbols[0].vanished
    assert report.symbols[0].appeared == []
    assert any(
        "golden cross of the minute 2026-11-20 14:40:00.000 would not have come" in x for x in report_lines(report, 3)
    )


def test_rows_of_a_day_that_goes_on_are_left(world: World) -> None:
    day = quiet_day()
    world.record(day, closes_second=720)
    world.rows = [one.told(correction=8 if one.number == 3 else 0) for one in day]
    report = world.compare()
    assert whats(report) == [], "of the last twenty minutes REST does not tell everything yet"


def test_what_cannot_be_asked_is_said(world: World) -> None:
    world.record(quiet_day())
    with pytest.raises(InputError, match=r"2026-11-20: the log holds no trade of this day of TSLA"):
        world.compare("TSLA")
    world.server.reply = lambda *_: (403, {}, {"message": "You are not entitled"})
    report = world.compare()
    assert report.differs
    assert "not compared: The exchange refused the trades of AAPL by REST" in [*report_lines(report, 3)][1]


def test_a_user_who_may_not_is_told_and_nothing_is_changed(world: World, postgres_server: EmbeddedPostgres) -> None:
    day = quiet_day()
    world.record(day)
    world.rows = [one.told(correction=8 if one.number == 3 else 0) for one in day]
    report = world.compare()
    writing = make_conninfo(postgres_server.reader.conninfo, options="-c default_transaction_read_only=off")
    with pytest.raises(StoreError, match="as the owner of the tables; nothing was changed"):
        revise(replace(world.rooms, conninfo=writing), report)
    assert world.sql("SELECT count(*) FROM row_revisions") == [(0,)]
    assert revise(world.rooms, report)[0] > 0


@pytest.mark.parametrize("text", ["2026-13-01", "today", "", "2999-01-01"])
def test_a_wrong_day(text: str) -> None:
    with pytest.raises(InputError):
        day_of(text)


def test_a_simulated_day_with_corrections_is_reconciled_to_the_trade(tmp_path: Path, postgres: Dsn) -> None:
    """The stream's whole day in the log, the simulator's REST beside it: it takes back one trade in ten."""
    seed, rate, share = 3, 0.05, 0.1
    start_ms, end_ms = bounds_ms(DAY, Market.STOCKS)
    prints = SeededMarket(seed, rate).trades(Market.STOCKS, "AAPL", start_ms * 10**6, end_ms * 10**6)
    world = World(tmp_path, postgres)
    tables = Tables()
    sent = msgspec.json.decode(msgspec.json.encode(list(events(Market.STOCKS, "AAPL", prints))))
    trades = Decoder(tables).decode_events(Market.STOCKS, sent, 0).batch
    assert len(trades) == len(prints)
    trades.received_ns = trades.time_ms * 10**6 + 10**7
    end = tick_row(Market.STOCKS, end_ms + 3_600_000, (end_ms + 3_600_000) * 10**6)
    with closing(LogWriter.open(world.rooms.log_path, tables, origin=Origin.LIVE)) as log:
        log.append(Batch.join([trades, Batch.of([end])]))
    rebuild_rows(world.rooms, world.parts)
    taken_back = Counter[str]()
    for row in rows_of(prints):
        fates = [fate for _, fate, _ in Corrections(share).of(Market.STOCKS, "AAPL", row, 2**62)]
        taken_back["cancelled" if 8 in fates else "corrected" if 12 in fates else "normal"] += 1
    simulator = SimulatorProcess(
        ["--seed", str(seed), "--rate", str(rate), "--corrections", str(share)], tmp_path / "simulator.log"
    )
    try:
        simulator.wait_ready()
        settings = world.parts.settings.model_copy(
            update={"massive_rest_url": simulator.rest_url, "massive_api_key": SecretStr(KEY)}
        )
        report = reconcile(settings, world.rooms, world.parts, DAY, ())
    finally:
        simulator.stop()
    found = Counter(what for what, _ in whats(report))
    assert found["cancelled"] == taken_back["cancelled"] > 50
    # A price that comes out as it was is no difference.
    assert taken_back["corrected"] >= found["corrected"] > taken_back["corrected"] * 0.6
    assert set(found) == {"cancelled", "corrected"}
    revised, left = revise(world.rooms, report)
    assert revised == len([*report.rows()])
    assert left == 0
    assert world.is_proved()
