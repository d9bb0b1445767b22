"""What makes a rule quieter, step by step, and that it comes out of alerts.toml again as it went in."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tapewatch.profiles.knobs import WAYS, Knob, knobs_of, ladder, told_as, turned
from tapewatch.rules.model import CrossRule, LevelRule, MoveRule, Rules, SystemRule, VolumeRule
from tapewatch.rules.parse import parse_rules

RULES = Rules(
    golden_cross=CrossRule(band_bps=7.0, cooldown_ms=90_000),
    fast_move=MoveRule(percent=2.0, within_ms=300_000),
    over_200=LevelRule(level=200.0),
    pager=SystemRule(),
)


def test_every_rule_of_the_market_has_a_size_and_a_cooldown() -> None:
    assert [(k.rule, k.size_name, k.size, k.cooldown_ms) for k in knobs_of(RULES)] == [
        ("golden_cross", "band_bps", 7.0, 90_000),
        ("death_cross", "band_bps", 5.0, 300_000),
        ("high_volume", "multiple", 3.0, 0),
        ("fast_move", "percent", 2.0, 900_000),
        ("over_200", "band_bps", 0.0, 300_000),
    ]


def test_turned_changes_these_numbers_and_nothing_else() -> None:
    assert turned(RULES, knobs_of(RULES)) == RULES
    louder = Knob("fast_move", "percent", 9.0, 1_000)
    assert turned(RULES, [louder]) == RULES.changed(
        fast_move=MoveRule(percent=9.0, within_ms=300_000, cooldown_ms=1_000)
    )


@pytest.mark.parametrize("knob", list(knobs_of(RULES)), ids=lambda knob: knob.rule)
@pytest.mark.parametrize("way", WAYS)
def test_a_ladder_begins_with_what_is_and_only_tightens(knob: Knob, way: str) -> None:
    steps = ladder(knob, way)
    assert steps[0] == knob
    assert len(steps) > 5
    for before, after in pairwise(steps):
        moved = [after.size > before.size, after.cooldown_ms > before.cooldown_ms]
        assert moved in {"size": [[True, False]], "cooldown": [[False, True]]}.get(way, [[True, False], [False, True]])
        assert after.size >= before.size
        assert after.cooldown_ms >= before.cooldown_ms
    assert steps[-1].size <= 1_000
    assert steps[-1].cooldown_ms <= 86_400_000


def test_both_turns_one_and_then_the_other() -> None:
    steps = ladder(Knob("golden_cross", "band_bps", 5.0, 300_000), "both")
    assert [(step.size, step.cooldown_ms // 60_000) for step in steps[:6]] == [
        (5, 5), (7.5, 5), (7.5, 10), (10, 10), (10, 15), (12.5, 15),
    ]  # fmt: skip
    assert (steps[-1].size, steps[-1].cooldown_ms) == (1_000, 86_400_000)


def test_a_rule_at_its_limit_has_nowhere_to_go() -> None:
    full = Knob("golden_cross", "band_bps", 1_000.0, 86_400_000)
    assert [ladder(full, way) for way in WAYS] == [[full]] * 3


def test_its_lines_are_what_differs() -> None:
    before, after = Knob("high_volume", "multiple", 3.0, 0), Knob("high_volume", "multiple", 4.5, 5_400_000)
    assert before.toml(before) == []
    assert after.toml(before) == ["[high_volume]", "multiple = 4.5  # was 3", 'cooldown = "90m"  # was "0ms"']
    read = parse_rules("\n".join(after.toml(before)))
    assert list(knobs_of(read))[2] == after


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "confirmed"),
        ({"notify": "provisional"}, "provisional"),
        ({"notify": "never"}, "never"),
        ({"enabled": False, "notify": "provisional"}, "never"),
    ],
)
def test_when_a_rule_is_told(rule: dict[str, Any], said: str) -> None:
    assert told_as(VolumeRule(**rule), "confirmed") == said
