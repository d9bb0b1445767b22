"""The proof of the feed with a history to ask: whatever the exchange does, each trade is in the log once.

The same runs as those of `test_feed_chaos.py`; a file of their own, so that another worker can take them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_feed import SEEDS, faults_of, judge, open_gaps, run_chaos
from feed_canary import Forgetful

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", SEEDS)
def test_with_backfill_every_trade_is_in_the_log_once(seed: int, tmp_path: Path) -> None:
    run = run_chaos(seed, tmp_path, backfill=True)
    judge(run, backfill=True)
    assert open_gaps(run)


def test_canary_a_feed_without_deduplication_is_caught_with_backfill(tmp_path: Path) -> None:
    run = run_chaos(1, tmp_path, seen=Forgetful(), backfill=True)
    assert any("times in the log" in sentence for sentence in faults_of(run, backfill=True))
