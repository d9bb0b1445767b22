"""profiles/lane_keys.py: each lane has a key, and so a task, of its own."""

from __future__ import annotations

import pytest

from tapewatch.profiles.lane_keys import _hash, lane_keys


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 50])
def test_each_lane_has_a_task_of_its_own(lanes: int) -> None:
    keys = lane_keys(lanes)
    assert len(set(keys)) == len(keys) == lanes
    assert sorted(_hash(key) % lanes for key in keys) == list(range(lanes))


def test_the_hash_is_sparks() -> None:
    """As `SELECT hash(0), hash(1), hash(-1)` gives them."""
    assert [_hash(key) for key in (0, 1)] == [933211791, -559580957]
