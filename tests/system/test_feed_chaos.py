"""The proof of the feed: whatever the exchange does, each trade is in the log once, or in a gap that says so.

After each run, for every trade of the market from the first subscription on, sent or withheld:

* it is in the log exactly once, with its price and size; or it is not, and lies in a recorded gap
* a gap begins no more than its margin before the last trade known, and ends when the feed was live again

With backfill, that without exception: `test_feed_chaos_backfill.py`. Twenty seeds by default;
``TAPEWATCH_CHAOS_SEEDS=500`` for more, ``TAPEWATCH_CHAOS_FIRST`` says where they begin.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_feed import SEEDS, Run, faults_of, judge, open_gaps, run_chaos
from feed_canary import Careless, Forgetful, Proud
from tapewatch.simulator.chaos import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = (1, 3)
"""Seeds whose runs more than one test looks at."""
_kept: dict[int, Run] = {}


def ran(seed: int, folder: Path) -> Run:
    """The run of that seed."""
    run = _kept.get(seed) or run_chaos(seed, folder)
    if seed in SHARED:
        _kept[seed] = run
    return run


@pytest.mark.parametrize("seed", SEEDS)
def test_every_trade_is_in_the_log_once_or_in_a_gap(seed: int, tmp_path: Path) -> None:
    run = ran(seed, tmp_path)
    judge(run, backfill=False)
    # A run in which nothing was ever lost, repeated or refused would prove nothing.
    assert len(run.market) > 1_000
    assert open_gaps(run)
    assert run.refused


def test_one_run_has_nearly_every_fault(tmp_path: Path) -> None:
    run = ran(1, tmp_path)
    assert len(run.faults) >= len(Fault) * 0.9
    assert len(run.sent) < len(run.market), "nothing was withheld"


def test_the_same_seed_is_the_same_trouble(tmp_path: Path) -> None:
    first, second = ran(3, folder(tmp_path, "first")), run_chaos(3, folder(tmp_path, "second"))
    assert first.faults == second.faults


def folder(above: Path, name: str) -> Path:
    (above / name).mkdir()
    return above / name


# --- canaries: a feed with one defect is caught ------------------------------------------------------------------


def test_canary_a_feed_without_deduplication_is_caught(tmp_path: Path) -> None:
    run = run_chaos(1, tmp_path, seen=Forgetful())
    assert any("times in the log" in sentence for sentence in faults_of(run, backfill=False))


def test_canary_a_feed_that_conceals_its_gaps_is_caught(tmp_path: Path) -> None:
    run = run_chaos(1, tmp_path, queue=Proud())
    assert any("not in the log" in sentence for sentence in faults_of(run, backfill=False))


def test_canary_a_feed_that_loses_frames_is_caught(tmp_path: Path) -> None:
    run = run_chaos(1, tmp_path, queue=Careless())
    assert any("not in the log" in sentence for sentence in faults_of(run, backfill=False))
