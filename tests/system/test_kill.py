"""kill -9 of the pipeline under load, at random moments: nothing acknowledged is lost, nothing is doubled.

The market is a process of its own and a pure function of its seed, so the truth is known to the last trade:

    sent by the market   ####################################################
    pipeline             runs......X     runs........X   runs.............stop
    log                  ##########      #############   ################
    recorded gaps                 [-----]            [--]

TAPEWATCH_KILLS kills it more often (100 take about a quarter of an hour), TAPEWATCH_SEED at other moments.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline_runs import Pipeline, market, until
from tapewatch.errors import LogError
from tapewatch.feed.symbols import market_of, product_symbol, wire_symbol
from tapewatch.log.reader import LogReader
from tapewatch.profiles.verify import Verdict
from tapewatch.records import Batch, Gap, Kind, Market, Tables
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.tape import NS_PER_MS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

KILLS = int(os.environ.get("TAPEWATCH_KILLS", "6"))
SEED = int(os.environ.get("TAPEWATCH_SEED", "0")) or Random().randrange(1, 2**31)
CHECK_EVERY = 10
TORN_STORE = Path(__file__).parents[1] / "torn_store.py"
SYMBOLS = ("AAPL", "TSLA", "GOOGL", "MSFT", "BTC")
RATE = 300.0
"""Trades a second of each symbol, at midday."""
SHORT = {
    "SYMBOLS": ",".join(SYMBOLS),
    # Short windows: many rows become final, and many alerts live and end, between two kills.
    "WINDOW_DURATION": "5s",
    "SLIDE_DURATION": "1s",
    "WATERMARK_DELAY": "2s",
    "CONFIRM_DELAY": "1s",
    "SNAPSHOT_INTERVAL": "1s",
    "BACKFILL_DEADLINE": "10m",  # a busy machine may take as long as it needs
}

NERVOUS = """
golden_cross = { band_bps = 1, cooldown = "1s" }
death_cross = { band_bps = 1, cooldown = "1s" }
high_volume = { multiple = 1.5, panes_min = 2 }
"""

Trade = tuple[str, int, str, float, int, int, int, tuple[int, ...]]
"""Symbol, time in ms, id, price, size, exchange, TRF, conditions."""


def trades_in(batches: list[Batch], tables: Tables) -> list[Trade]:
    """All trades of the log, in its order, with names spelled out."""
    found: list[Trade] = []
    for batch in batches:
        names = ("kind", "symbol", "time_ms", "price", "size_e8", "exchange", "trf", "conditions")
        columns = [getattr(batch, name).tolist() for name in names]
        for kind, symbol, time_ms, price, size, exchange, trf, conditions, trade_id in zip(
            *columns, batch.ids, strict=True
        ):
            if kind == Kind.TRADE:
                name, codes = tables.symbols.values[symbol], tables.conditions.values[conditions]
                found.append((name, time_ms, trade_id, price, size, exchange, trf, codes))
    return found


def truth(seed: int, from_ms: int, to_ms: int, rate: float = RATE, symbols: Sequence[str] = SYMBOLS) -> set[Trade]:
    """All trades that the exchange makes in [from_ms, to_ms)."""
    made = SeededMarket(seed, rate)
    found: set[Trade] = set()
    for symbol in symbols:
        prints = made.trades(market_of(symbol), wire_symbol(symbol), from_ms * NS_PER_MS, to_ms * NS_PER_MS)
        codes = [() if market_of(symbol) is Market.CRYPTO else c for c in prints.condition_table]
        columns = (prints.time_ns, prints.price, prints.size_e8, prints.exchange, prints.trf, prints.conditions)
        for time_ns, price, size, exchange, trf, conditions, trade_id in zip(
            *(column.tolist() for column in columns), prints.ids, strict=True
        ):
            name = product_symbol(symbol)
            found.add((name, time_ns // NS_PER_MS, trade_id, price, size, exchange, trf, codes[conditions]))
    return found


def sent(batches: list[Batch], seed: int, rate: float = RATE) -> set[Trade]:
    """All that was sent from each market's second second to its last but one.

    Each market has a connection of its own, and is owed nothing before that is subscribed for the first time: its first
    tick says when, and may come seconds after another market's.
    """
    found: set[Trade] = set()
    for venue in {market_of(symbol) for symbol in SYMBOLS}:
        ticks = [b.time_ms[(b.kind == Kind.TICK) & (b.market == venue)] for b in batches]
        times = np.concatenate(ticks).tolist()
        assert times, f"{venue.name} was never live"
        mine = [symbol for symbol in SYMBOLS if market_of(symbol) is venue]
        found |= truth(seed, min(times) + 1_000, max(times) - 1_000, rate, mine)
    return found


def is_within(trade: Trade, gaps: list[Gap]) -> bool:
    return any(gap.market is market_of(trade[0]) and gap.from_ms <= trade[1] <= gap.to_ms for gap in gaps)


@dataclass
class Witness:
    """Reads the log beside the pipeline, and remembers all that was acknowledged."""

    path: Path
    hashes: list[int] = field(default_factory=list)

    def look(self, seconds: float) -> None:
        """Follow the log for a while."""
        deadline = time.monotonic() + seconds
        try:
            with LogReader.open(self.path, tables := Tables()) as reader:
                while time.monotonic() < deadline:
                    self.hashes += record_hashes(reader.read(len(self.hashes)), tables)
                    time.sleep(0.01)
        except LogError as error:  # it was not begun yet
            if self.hashes or "no log here yet" not in str(error):
                raise
            time.sleep(max(0.0, deadline - time.monotonic()))

    def check(self, batches: list[Batch], tables: Tables) -> None:
        """What it saw is in the log, at the same place."""
        now = [value for batch in batches for value in record_hashes(batch, tables)]
        assert now[: len(self.hashes)] == self.hashes, "acknowledged records are gone, or others"


def record_hashes(batch: Batch, tables: Tables) -> list[int]:
    names = ("kind", "market", "time_ms", "received_ns", "price", "size_e8", "exchange", "trf")
    columns = [getattr(batch, name).tolist() for name in names]
    symbols = [tables.symbols.values[i] if i >= 0 else "" for i in batch.symbol.tolist()]
    return [hash(values) for values in zip(symbols, *columns, batch.ids, strict=True)]


@dataclass
class Ordeal:
    """A pipeline that is killed again and again, and what must be true of it."""

    pipeline: Pipeline
    exchange: psutil.Process
    seed: int
    witness: Witness
    verdict: Verdict | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def suffer(self, kills: int) -> None:
        """Kill it that often: at work, while it starts, or when nothing has come for a while; then let it end."""
        random = Random(self.seed)
        for number in range(1, kills + 1):
            self.pipeline.spawn()
            how = random.random() if number % 3 else random.uniform(0.2, 1.0)
            if how < 0.2:
                self.witness.look(random.uniform(0.0, 3.0))
            else:
                self.pipeline.wait_announced()
                # In every third life all is fetched, or what is missing might become older than WARMUP.
                until(self.pipeline.is_live if number % 3 else self.pipeline.is_filled, "the feeds are live")
                self.witness.look(random.uniform(0.05, 3.0))
            if how > 0.8:
                self.kill_in_a_stall(random.uniform(1.5, 3.0))
            else:
                self.pipeline.kill()
            if number % CHECK_EVERY == 0 or number == 1:
                self.check_database()
        self.pipeline.start()
        until(self.pipeline.is_filled, "all that was missed is in the log")
        self.witness.look(2.5)
        self.pipeline.stop()
        self.check_database()

    def kill_in_a_stall(self, seconds: float) -> None:
        """Nothing comes from the exchange, as when the network hangs; it goes on when the pipeline is dead."""
        self.exchange.suspend()
        try:
            self.witness.look(seconds)
            self.pipeline.kill()
        finally:
            self.exchange.resume()

    def check_database(self) -> None:
        """`verify` finds nothing, as often as it is asked; between a kill and the next start too."""
        if not (self.pipeline.origin_folder("live") / "log" / "log.db").exists():
            return
        self.verdict = self.pipeline.verify("live")
        assert self.verdict.is_good, self.verdict

    def check_log(self, *, gaps_are_filled: bool) -> None:
        """The log holds what the market has sent, each trade once; or says in which gap it is missing."""
        batches, tables = self.pipeline.records("live")
        self.witness.check(batches, tables)
        logged = trades_in(batches, tables)
        assert [trade for trade, times in Counter(logged).items() if times > 1] == []
        gaps = [Gap.decode(text) for b in batches for k, text in zip(b.kind, b.ids, strict=True) if k == Kind.GAP]
        known, times = set(logged), [trade[1] for trade in logged]
        assert known - truth(self.seed, min(times), max(times) + 1) == set(), "trades that were never made"
        missing = [trade for trade in sent(batches, self.seed) if trade not in known]
        unexplained = [trade for trade in missing if gaps_are_filled or not is_within(trade, gaps)]
        assert unexplained == [], (len(unexplained), sorted(unexplained, key=lambda t: t[1])[:5], gaps)
        self.report = {
            "seed": self.seed, "trades": len(logged), "acknowledged and seen": len(self.witness.hashes),
            "gaps": len(gaps), "missing, all in gaps": len(missing),
            "in gaps, s": sum(gap.to_ms - gap.from_ms for gap in gaps) / 1e3,
        }  # fmt: skip


@contextmanager
def under_load(folder: Path, warmup: str) -> Iterator[tuple[Pipeline, psutil.Process]]:
    """A pipeline that is told to listen to a market of ours, and not yet started; and that market's process."""
    print(f"TAPEWATCH_SEED={SEED}")
    (folder / "alerts.toml").write_text(NERVOUS)
    with market(folder, SEED, RATE) as exchange:
        live = {
            "MASSIVE_API_KEY": "anything",
            "MASSIVE_WS_URL": exchange.ws_url,
            "MASSIVE_REST_URL": exchange.rest_url,
            "WARMUP": warmup,
            "ALERTS_FILE": str(folder / "alerts.toml"),
        }
        with Pipeline(folder, **SHORT, **live) as pipeline:
            yield pipeline, psutil.Process(exchange.pid)


def ordeal(folder: Path, kills: int, warmup: str) -> Ordeal:
    with under_load(folder, warmup) as (pipeline, exchange):
        it = Ordeal(pipeline, exchange, SEED, Witness(pipeline.origin_folder("live") / "log" / "log.db"))
        it.suffer(kills)
        it.check_log(gaps_are_filled=warmup != "0s")
        assert it.verdict is not None
        print(f"kills {kills}", it.report, dict(it.verdict.rows))
        return it


def test_kill_9_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    it = ordeal(tmp_path, KILLS, "0s")
    assert it.report["trades"] > 500 * KILLS
    assert it.report["missing, all in gaps"] > 0, "a kill that nothing was sent after proves nothing"
    assert it.verdict is not None
    assert it.verdict.rows["breakout_alerts"] > 0


def test_kill_9_with_a_history_to_ask_leaves_no_gap_open(tmp_path: Path) -> None:
    it = ordeal(tmp_path, max(2, KILLS // 2), "60s")
    assert it.report["trades"] > 500 * KILLS
    assert it.report["missing, all in gaps"] == 0


def test_canary_a_store_that_commits_the_position_before_the_rows_is_caught(tmp_path: Path) -> None:
    with under_load(tmp_path, "0s") as (pipeline, _):
        pipeline.spawn("run", program=(str(TORN_STORE),))
        assert pipeline.process is not None
        pipeline.process.wait(600)
        assert pipeline.process.returncode == -signal.SIGKILL, pipeline.last_words()
        verdict = pipeline.verify("live")
        assert not verdict.is_good
        assert verdict.lost["breakout_alerts"] > 0, verdict
        pipeline.start()  # a correct one that goes on from there does not heal it
        until(pipeline.is_live, "the feeds are live")
        pipeline.stop()
        verdict = pipeline.verify("live")
        assert not verdict.is_good
        assert verdict.wrong["minute_quality"] > 0, verdict
