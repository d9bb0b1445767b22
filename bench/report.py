"""Figures: how they are held, printed, judged and kept, and on which machine they were taken."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent


class Figure(msgspec.Struct, kw_only=True):
    """One measured thing. ``values`` are its repetitions; the median is the figure."""

    name: str
    unit: str
    values: list[float]
    target: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The middle one of the repetitions."""
        return statistics.median(self.values)

    @property
    def best(self) -> float:
        """What other work on the machine disturbed least."""
        return max(self.values) if self.more_is_better else min(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached by the median; None without a target."""
        if self.target is None:
            return None
        return self.median >= self.target if self.more_is_better else self.median <= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, median, best, target, and whether it is met, as texts."""
        sign = "≥" if self.more_is_better else "≤"
        target = "" if self.target is None else f"{sign} {_number(self.target)} {self.unit}"
        met = {None: "", True: "yes", False: "**no**"}[self.is_met]
        name = f"{self.name} ({self.note})" if self.note else self.name
        best = _number(self.best) if len(self.values) > 1 else ""
        return name, f"{_number(self.median)} {self.unit}", best, target, met


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Processor, cores, memory and versions, in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    system = f"Linux {platform.release().partition('-')[0]}"
    return f"{model}, {cores} cores, {memory_gib:.0f} GiB, {system}, CPython {platform.python_version()}"


def commit() -> str:
    """The state of the sources."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "no commit"


def load() -> str:
    """How busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f}"


def between(page: Path, begin: str, end: str) -> str:
    """What stands between two markers of a page."""
    _, _, rest = page.read_text(encoding="utf-8").partition(begin)
    found, marker, _ = rest.partition(end)
    assert marker, f"{page} lacks its markers"
    return found.strip("\n")


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Write ``text`` between two markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    assert after, f"{page} lacks its markers"
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def print_figures(figures: Sequence[Figure]) -> None:
    """One line each."""
    for figure in figures:
        name, median, best, target, met = figure.cells()
        best = f"(best {best})" if best else ""
        verdict = f"{target}: {'NOT MET' if met == '**no**' else 'met'}" if target else ""
        print(f"  {name:<66} {median:>18} {best:<18} {verdict}", flush=True)


def main(title: str, measure: Callable[[bool], list[Figure]]) -> None:
    """A measurement as a program: ``--quick`` measures less, ``--out FILE`` keeps the figures as JSON."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="measure less: to see that it works")
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    arguments = parser.parse_args()
    print(f"{title}\n{machine()}; commit {commit()}; {load()}", flush=True)
    figures = measure(arguments.quick)
    if arguments.out is not None:
        arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    else:
        print()
        print_figures(figures)
    sys.stdout.flush()
