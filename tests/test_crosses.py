"""The truth tables of docs/crosses.md, read from the page, against `side_of`, the engine and the oracle."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tapewatch.engine.crosses import side_of
from tapewatch.records import Market
from tapewatch.rules.model import Rules
from test_engine import MINUTE, START, Spec, gap, run_both, tick, trade

PAGE = Path(__file__).parent.parent / "docs" / "crosses.md"
DAY_MINUTES = 24 * 60
MAY_NOT_SET_A_PRICE = 1  # a code of test_engine.BITS

Side = Callable[[float, float, float, int], int]


def table(first_column: str) -> list[list[str]]:
    """The rows of the page's table with that first column."""
    found: list[list[str]] = []
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in line.replace("\\|", "\0").strip("|").split("|")]
        cells = [cell.replace("\0", "|") for cell in cells]
        if inside and not line.startswith("|"):
            return found
        if inside and not cells[0].startswith("---"):
            found.append(cells)
        inside = inside or (line.startswith("|") and cells == first_column.split(", "))
    return found


SIDES = table("case, price, line, band_bps, from −1, from 0, from +1")
CROSSES = table("from, to, cross")
STORIES = table("case, minutes, alerts")


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def disagreements(side: Side) -> list[str]:
    """The cases of the first table in which ``side`` says anything else."""
    wrong = []
    for case, price, line, band_bps, *expected in SIDES:
        for before, after in zip((-1, 0, 1), expected, strict=True):
            if side(number(price), number(line), number(band_bps) / 1e4, before) != number(after):
                wrong.append(f"{case}, from {before}")
    return wrong


def test_the_tables_were_found() -> None:
    assert (len(SIDES), len(CROSSES), len(STORIES)) == (13, 7, 23)


def test_sides_are_what_the_page_says() -> None:
    assert disagreements(side_of) == []


@pytest.mark.parametrize(
    ("broken", "notices"),
    [
        (lambda p, m, b, before: 1 if p > m * (1 + b) else -1 if p < m * (1 - b) else before, "exactly on"),
        (lambda p, m, b, before: 1 if p >= m * (1 + b) else -1 if p <= m * (1 - b) else before, "no band, equal"),
        (lambda p, m, b, before: 1 if p > m else -1 if p < m else before, "inside the band"),
        (lambda p, m, b, before: 1 if p >= m * (1 + b) and p > m else -1, "no price"),
        (lambda p, m, b, before: 1 if p >= m * (1 + b) and p > m else -1 if p <= m * (1 - b) and p < m else 0, "equal"),
    ],
    ids=["edge left out", "equality counts", "no band", "no memory of unknown", "forgets inside the band"],
)
def test_canary_a_broken_side_is_noticed(broken: Side, notices: str) -> None:
    assert any(notices in case for case in disagreements(broken))


@pytest.mark.parametrize(("before", "after", "cross"), CROSSES)
def test_a_cross_is_a_known_side_that_flips(before: str, after: str, cross: str) -> None:
    """Brought about in the engine: a side by a first price, then a price on the other."""
    prices = {"−1": "9", "+1": "11", "0": "."}
    minutes = f"10 10 10 10 10 {prices[before]} {prices[after]}"
    if before == "0":  # the line is warm from the fifth minute on, so that all four may be before it
        minutes = f"10 10 10 10 {prices[after]}"
    elif after == before:
        minutes = f"10 10 10 10 10 {prices[before]} {prices[before]}"
    assert [name.split()[1] for name in alerts_of(minutes)] == ([] if cross == "none" else [cross])


@pytest.mark.parametrize(("minutes", "alerts"), [row[1:] for row in STORIES], ids=[row[0] for row in STORIES])
def test_alerts_are_what_the_page_says(minutes: str, alerts: str) -> None:
    assert sorted(alerts_of(minutes)) == sorted([] if alerts == "none" else alerts.split(", "))


class Days:
    """Trading days of three hours, whose first minute is the page's first."""

    day_open = START + np.arange(3) * DAY_MINUTES * MINUTE
    regular_open = day_open
    regular_close = day_open + 180 * MINUTE
    day_close = regular_close
    first_of_stretch = np.arange(3)


def alerts_of(minutes: str) -> list[str]:
    """What engine and oracle, which must agree, make of the minutes: ``7 golden confirmed``."""
    specs: list[Spec] = []
    symbol, number_of = "AAPL", {}
    day = minute = count = 0
    for word in minutes.split():
        if word == "BTC:":
            symbol = "BTC"
        elif word == "|":
            day, minute = day + 1, 0
        elif word.startswith("gap"):
            length = int(word.removeprefix("gap"))
            specs.append(gap(minute * MINUTE, (minute + length) * MINUTE))
            minute, count = minute + length, count + length
        else:
            count += 1
            number_of[START + (day * DAY_MINUTES + minute) * MINUTE] = count
            specs += trades(symbol, (day * DAY_MINUTES + minute) * MINUTE + 30_000, word)
            minute += 1
    specs.append(tick((day * DAY_MINUTES + minute + 10) * MINUTE, Market.CRYPTO if symbol == "BTC" else Market.STOCKS))
    found = run_both(specs, Rules(), {Market.STOCKS: Days}, random.Random(1)).alerts
    crosses = {key: state for key, state in found.items() if key.rule != "high_volume"}
    return [f"{number_of[key.pane]} {key.rule.split('_')[0]} {state.status}" for key, state in crosses.items()]


def trades(symbol: str, at_ms: int, word: str) -> list[Spec]:
    """The trades of one minute, from ``at_ms`` on."""
    specs: list[Spec] = []
    for i, price in enumerate(word.split(",") if word != "." else []):
        before_ms = 11_000 if price.startswith("<") else 0
        code = MAY_NOT_SET_A_PRICE if price.endswith("*") else 0
        specs.append(trade(symbol, at_ms + 10_000 * i - before_ms, float(price.strip("<*")), code=code))
    return specs
