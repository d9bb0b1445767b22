"""What the measurements measure with: the tape is what it says, and a figure is judged by its median."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.symbols import market_of
from tapewatch.log.messages import MessageDecoder
from tapewatch.records import Batch, Market, Tables

START_MS = 1_788_877_040_000


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))


@pytest.fixture
def tape(bench: None) -> ModuleType:
    return importlib.import_module("tape")


@pytest.fixture
def report(bench: None) -> ModuleType:
    return importlib.import_module("report")


def played(tape: ModuleType, tables: Tables, frames: int) -> Batch:
    """Three rounds of a small tape, decoded."""
    one = tape.Tape(tape.names(500), 100, trades=4_000)
    given = [(Market.STOCKS, one.next_frame(START_MS + n), 1) for n in range(frames)]
    decoded = Decoder(tables).decode(given)
    assert not decoded.refused
    assert one.trades_given == len(decoded.batch) == 100 * frames
    return decoded.batch


def test_no_trade_is_a_repeat_though_the_tape_is_played_again(tape: ModuleType) -> None:
    batch = played(tape, Tables(), frames=120)
    assert len(set(batch.ids)) == len(batch)
    assert Seen().filter(batch).all()


def test_the_tape_is_mixed_as_it_says(tape: ModuleType) -> None:
    tables = Tables()
    batch = played(tape, tables, frames=40)
    codes = [tables.conditions.values[number] for number in batch.conditions]
    assert np.mean([37 in some for some in codes]) == pytest.approx(0.45, abs=0.03)
    assert np.mean([bool(set(some) - {37}) for some in codes]) == pytest.approx(0.30, abs=0.03)
    assert np.mean(batch.trf > 0) == pytest.approx(0.40, abs=0.03)
    behind_ms = np.repeat(START_MS + np.arange(40), 100) - batch.time_ms
    assert np.mean(behind_ms > 0) == pytest.approx(0.05, abs=0.01)
    assert 0 <= behind_ms.min() <= behind_ms.max() <= 300
    assert np.any(batch.size_e8 % 10**8 != 0), "no decimal size"


def test_the_same_seed_gives_the_same_tape(tape: ModuleType) -> None:
    one, other, third = (tape.Tape(["AAPL"], 10, trades=100, seed=seed) for seed in (1, 1, 2))
    frame = one.next_frame(START_MS)
    assert frame == other.next_frame(START_MS)
    assert frame != third.next_frame(START_MS)


@pytest.mark.parametrize(
    ("values", "target", "more_is_better", "is_met"),
    [
        ([1.0, 2.0, 9.0], 2.0, True, True),
        ([1.0, 1.9, 9.0], 2.0, True, False),
        ([1.0, 2.0, 9.0], 2.0, False, True),
        ([1.0, 2.1, 9.0], 2.0, False, False),
        ([1.0], None, True, None),
    ],
)
def test_a_figure_is_judged_by_its_median(
    report: ModuleType, values: list[float], target: float | None, more_is_better: bool, is_met: bool | None
) -> None:
    figure = report.Figure(name="it", unit="ms", values=values, target=target, more_is_better=more_is_better)
    assert figure.is_met is is_met


@pytest.fixture
def kafka_load(bench: None) -> ModuleType:
    return importlib.import_module("kafka_load")


@pytest.mark.slow
def test_messages_of_the_load_are_trades_that_move_on(kafka_load: ModuleType) -> None:
    load = kafka_load.Load(500, 1_000)
    found = [load.next() for _ in range(2_500)]
    tables = Tables()
    decoded = MessageDecoder(tables, market_of).decode([value for _, value in found], [0] * len(found))
    assert not decoded.rejected
    batch = decoded.batch
    assert [tables.symbols.values[number] for number in batch.symbol] == [key for key, _ in found]
    assert len(set(batch.ids)) == len(batch)
    assert batch.received_ns[-1] - batch.received_ns[0] == 2_499 * 10**6
    behind_ms = kafka_load.START_MS + np.arange(2_500) - batch.time_ms
    assert np.mean(behind_ms > 0) == pytest.approx(0.05, abs=0.02)
    assert decoded.source == "massive"


def test_a_message_is_late_until_the_commit_that_holds_it(kafka_load: ModuleType) -> None:
    appended = np.array([100, 100, 110, 120])
    late = kafka_load.late_ms(appended, [(1, 130.0), (3, 150.0), (4, 151.5)])
    assert late.tolist() == [30.0, 50.0, 40.0, 31.5]


@pytest.fixture
def readme(bench: None) -> ModuleType:
    return importlib.import_module("readme")


@pytest.fixture
def run(bench: None) -> ModuleType:
    return importlib.import_module("run")


def test_readme_shows_the_figures_of_the_page(readme: ModuleType, run: ModuleType, report: ModuleType) -> None:
    page = report.between(run.PAGE, run.BEGIN, run.END)
    assert report.between(readme.PAGE, readme.BEGIN, readme.END) == readme.table(page)


def test_a_measurement_renews_its_own_section_alone(run: ModuleType, report: ModuleType) -> None:
    def results(value: float, *names: str) -> object:
        figure = report.Figure(name="some", unit="ms", values=[value])
        return run.Results("2026-01-01", "a machine", "abc", "load 0.1", False, {name: [figure] for name in names})

    page = run.renewed("", results(1, "engine", "spark"))
    assert page.count("| some | 1 ms |") == 2
    page = run.renewed(page, results(2, "spark"))
    assert [line for line in page.splitlines() if line.startswith("| some")] == [
        "| some | 1 ms |  |  |  |", "| some | 2 ms |  |  |  |",
    ]  # fmt: skip
    assert run.renewed(page, results(2, "spark")) == page
