"""The budget: it is kept to, nothing is quieter than it must be, and what is lost is named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapes import write_tape
from tapewatch.errors import InputError
from tapewatch.profiles.backtest import Made, Recording
from tapewatch.profiles.knobs import WAYS, ladder, turned
from tapewatch.profiles.noise import LATER_MS_MAX, Proposal, compare, propose, read_budget
from tapewatch.profiles.parts import Parts
from tapewatch.records import Alert, AlertStatus
from tapewatch.rules.model import VolumeRule
from tapewatch.rules.parse import parse_rules
from tapewatch.settings import Settings
from trading_days import give_days

MINUTE = 60_000
NOON = 1_763_658_000_000
BUDGET = 8.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("noise")
    give_days(folder)
    parts = Parts.load(Settings(_env_file=None, data_dir=folder, alerts_file=folder / "none.toml"))
    return Recording.read(write_tape(folder, minutes=120, trades=12_000), parts)


@pytest.fixture(scope="module")
def proposals(recording: Recording) -> list[Proposal]:
    return propose(recording, BUDGET, "confirmed")


# --- the budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "budget"), [("5/day", 5.0), (" 0.5/DAY ", 0.5), ("1000/day", 1000.0)])
def test_a_budget(text: str, budget: float) -> None:
    assert read_budget(text) == budget


@pytest.mark.parametrize("text", ["5", "0/day", "-1/day", "5/week", "five/day", "5 / day", "1e3/day", "", "nan/day"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(InputError, match="expected alerts a day, such as 5/day"):
        read_budget(text)


# --- the search -------------------------------------------------------------------------------------------------


def test_every_proposal_keeps_to_it(recording: Recording, proposals: list[Proposal]) -> None:
    assert len(recording.present.told) > 3 * BUDGET
    assert [proposal.way for proposal in proposals] == list(WAYS)
    for proposal in proposals:
        assert proposal.is_enough is (len(proposal.outcome.told) <= BUDGET), proposal.way
    assert [p.way for p in proposals if p.is_enough][:2] == ["both", "size"]


def test_its_lines_in_alerts_toml_give_just_that(recording: Recording, proposals: list[Proposal]) -> None:
    for proposal in proposals:
        again = recording.run(parse_rules("\n".join(proposal.toml())))
        assert again.sha256 == proposal.outcome.sha256


def test_no_rule_is_tighter_than_it_must_be(recording: Recording, proposals: list[Proposal]) -> None:
    for proposal in (p for p in proposals if p.is_enough):
        for i, (before, after) in enumerate(zip(proposal.before, proposal.after, strict=True)):
            steps = ladder(before, proposal.way)
            if at := steps.index(after):
                looser = [*proposal.after[:i], steps[at - 1], *proposal.after[i + 1 :]]
                told = len(recording.run(turned(recording.present.rules, looser)).told)
                assert told > BUDGET, f"{proposal.way}: {after} need not be so tight"


def test_the_same_again(recording: Recording, proposals: list[Proposal]) -> None:
    again = propose(recording, BUDGET, "confirmed")
    assert [p.after for p in again] == [p.after for p in proposals]
    assert [p.fates() for p in again] == [p.fates() for p in proposals]


def test_what_no_way_can_do_is_said(recording: Recording) -> None:
    alone = propose(recording, 0.001, "confirmed")[2]
    assert (alone.way, alone.is_enough) == ("cooldown", False)
    assert len(alone.outcome.told) > 0
    assert {knob.cooldown_ms for knob in alone.after} == {86_400_000}


def test_a_rule_that_is_not_told_is_left_as_it_is(recording: Recording) -> None:
    rules = recording.present.rules.changed(high_volume=VolumeRule(notify="never"))
    try:
        before, recording.present = recording.present, recording.run(rules)
        for proposal in propose(recording, BUDGET, "confirmed"):
            assert [knob.rule for knob in proposal.after] == ["golden_cross", "death_cross"]
            assert len(proposal.outcome.told) <= BUDGET or not proposal.is_enough
    finally:
        recording.present = before


# --- what becomes of the alerts -----------------------------------------------------------------------------------


def test_every_alert_told_before_has_one_fate(recording: Recording, proposals: list[Proposal]) -> None:
    before = {one.alert.alert_id for one in recording.present.told}
    for proposal in proposals:
        assert proposal.fates().keys() == before
        old = len(proposal.kept) + len(proposal.later) + len(proposal.lost)
        assert old == len(before)
        assert len(proposal.kept) + len(proposal.later) + len(proposal.new) == len(proposal.outcome.told)


numbers = count()


def made(minute: float, *, rule: str = "golden_cross", symbol: str = "X", delay: float = 1.0) -> Made:
    """An alert of the pane of ``minute``, told ``delay`` minutes later."""
    at = NOON + int(minute * MINUTE)
    alert = Alert(
        alert_id=str(next(numbers)), rule=rule, rule_version="v", kind=rule, symbol=symbol, direction=1,
        status=AlertStatus.CONFIRMED, pane_start_ms=at - at % MINUTE, triggered_ms=at, decided_ms=at, price=1.0,
        line=1.0, late=False, offset=0, evidence={},
    )  # fmt: skip
    return Made(alert, datetime.fromtimestamp(at / 1_000, UTC), at + int(delay * MINUTE), (None, None, None))


def fates(before: Sequence[Made], after: Sequence[Made]) -> list[int]:
    return [len(some) for some in compare(before, after)]


def test_the_same_pane_is_the_same_alert_though_another_version_made_it() -> None:
    assert fates([made(1), made(9)], [made(1.5), made(9)]) == [2, 0, 0, 0]


def test_one_that_comes_a_little_later_is_told_later() -> None:
    first, second, then = made(1), made(5), made(7)
    kept, later, lost, new = compare([first, second], [then])
    assert (kept, later, lost, new) == ([], [(second, then)], [first], [])


@pytest.mark.parametrize(
    ("why", "after"),
    [
        ("too late", made(1 + LATER_MS_MAX / MINUTE + 1)),
        ("earlier", made(0)),
        ("of another rule", made(3, rule="death_cross")),
        ("of another symbol", made(3, symbol="Y")),
    ],
)
def test_one_that_is_another_is_new_and_the_old_one_is_lost(why: str, after: Made) -> None:
    assert fates([made(1)], [after]) == [0, 0, 1, 1], why


def test_one_stands_for_one_only() -> None:
    assert fates([made(1)], [made(3), made(5)]) == [0, 1, 0, 1]


minutes = st.lists(st.integers(0, 200), max_size=12, unique=True)


@given(minutes, minutes)
def test_none_is_counted_twice_or_forgotten(before: list[int], after: list[int]) -> None:
    old, now = [made(m) for m in before], [made(m) for m in after]
    kept, later, lost, new = compare(old, now)
    olds = [*kept, *(one for one, _ in later), *lost]
    assert sorted(one.alert.alert_id for one in olds) == sorted(one.alert.alert_id for one in old)
    assert len(kept) + len(later) + len(new) == len(now)
    assert len(kept) == len(set(before) & set(after))
    for first, then in later:
        assert first.told_ms is not None
        assert then.told_ms is not None
        assert 0 < then.told_ms - first.told_ms <= LATER_MS_MAX
