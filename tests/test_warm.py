"""What is compiled ahead is all that is ever compiled: no start, no recovery and no replay waits for the compiler."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

from log_making import some_tables, trades
from tapewatch.engine.engine import Engine, engine_params
from tapewatch.feed.conditions import eligibility
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ticks import with_ticks
from tapewatch.log.local import LogWriter
from tapewatch.log.reader import LogReader
from tapewatch.records import Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.rules.model import Rules
from tapewatch.warm import warm


def compiled() -> dict[str, int]:
    """How many kinds of arguments each function is compiled for in this process."""
    return {
        f"{module}.{name}": len(function.signatures)
        for module in list(sys.modules)
        if module.startswith("tapewatch.")
        for name, function in vars(sys.modules[module]).items()
        if isinstance(function, Dispatcher)
    }


def new_engine(tables: Tables) -> Engine:
    # Other numbers than `warm` has, of the same kinds.
    params = engine_params(
        Rules(), window_ms=20_000, slide_ms=1_000, watermark_delay_ms=0, confirm_delay_ms=0, future_limit_ms=1_000
    )  # fmt: skip
    return Engine(params, Rules(), {}, tables, eligibility)


def take(engine: Engine, seen: Seen, batch: Batch) -> None:
    seen.add(batch)
    engine.step(batch)
    engine.drain()


@pytest.fixture(scope="module")
def warmed() -> None:
    warm()


@pytest.fixture
def read_back(tmp_path: Path) -> tuple[Tables, list[Batch]]:
    """What a log gives back: columns that have been bytes on a disk."""
    tables = some_tables()
    gap = Gap(market=Market.STOCKS, from_ms=0, to_ms=10**6, cause="cut", symbols=[])
    with LogWriter.open(tmp_path / "log.db", tables, origin=Origin.SIMULATED) as log:
        log.append(trades(500))
        log.append(Batch.of([(Kind.GAP, Market.STOCKS, -1, 10**6, 10**15, 0.0, 0, 0, 0, 0, gap.encode())]))
        log.append(trades(7, start=500))
    reader = LogReader.open(tmp_path / "log.db", tables)
    batches = [reader.read(at, 100) for at in (0, 3, 500, 503)]
    reader.close()
    return tables, batches


@pytest.mark.usefixtures("warmed")
def test_what_comes_from_the_log_needs_nothing_new(read_back: tuple[Tables, list[Batch]]) -> None:
    before = compiled()
    tables, batches = read_back
    for batch in batches:
        take(new_engine(tables), Seen(), batch)
    assert compiled() == before


@pytest.mark.usefixtures("warmed")
def test_what_a_replay_makes_needs_nothing_new() -> None:
    before = compiled()
    batch = trades(90)
    batch.market[:] = Market.STOCKS
    tables = some_tables()
    for made in (with_ticks(batch, None), batch.take(batch.time_ms.argsort()), batch.slice(3, 80)):
        take(new_engine(tables), Seen(), made)
    assert compiled() == before


@pytest.mark.usefixtures("warmed")
def test_a_new_kind_of_argument_would_be_seen() -> None:
    before = compiled()
    batch = trades(9)
    batch.trf.flags.writeable = False
    Seen().filter(batch)
    assert compiled() != before
