"""Take every figure, keep it, and write it into docs/performance.md.

    python bench/run.py [--quick] [NAME ...]      NAME: one of those in NAMES, such as engine, latency, notify

Each measurement is a process of its own. The figures go to bench/results/, as JSON, and their sections of
docs/performance.md are written anew, and README's table from that page. A quick run only shows that everything works.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

import readme
from report import ROOT, Figure, between, commit, load, machine, put
from tapewatch.warm import warm

BENCH = Path(__file__).parent
NAMES = {
    "engine": "Decode, columns, windows and crosses, on one core",
    "feed": "The feed: a burst, a steady load, reconnects",
    "path": "The whole path: socket, log, engine, database",
    "latency": "Latency",
    "notify": "Notifications",
    "memory": "Memory, and bytes a trade",
    "start": "Start",
    "spark": "Kafka, Spark and the database",
    "history": "Reading back: API and dashboards",
    "streams": "Many open streams",
    "page": "The page in a browser",
}
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by bench/run.py -->", "<!-- end of figures -->"


class Results(msgspec.Struct):
    """One run."""

    when: str
    machine: str
    commit: str
    load: str
    """Before it began: what else the machine was doing."""
    quick: bool
    figures: dict[str, list[Figure]]


def take(name: str, quick: bool) -> list[Figure]:
    """Run one measurement."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, str(BENCH / f"{name}.py"), "--out", str(out)] + ["--quick"] * quick
        subprocess.run(command, check=True)
        return msgspec.json.decode(out.read_bytes(), type=list[Figure])


def section(name: str, results: Results) -> str:
    """The figures of one measurement as Markdown, with the machine, the state of the sources and the load."""
    heading = f"{results.machine}; commit {results.commit}, {results.when[:10]}; {results.load} from other work."
    figures = results.figures[name]
    if not figures:
        return f"### {NAMES[name]}\n\nNot measured: there is no Java on this machine.\n"
    lines = [f"### {NAMES[name]}", "", heading, "", "| what | median | best | target | met |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(figure.cells())} |" for figure in figures), ""])


def renewed(page: str, results: Results) -> str:
    """The part of the page between the markers with these measurements' sections in the place of the old ones."""
    found = {part.partition("\n")[0]: part for part in re.split(r"^### ", page, flags=re.MULTILINE)[1:]}
    sections = []
    for name, title in NAMES.items():
        if name in results.figures:
            sections.append(section(name, results))
        elif title in found:
            sections.append(f"### {found[title].rstrip()}\n")
    return "\n".join(sections).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take every figure.")
    parser.add_argument("--quick", action="store_true", help="measure less: to see that it works")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"of {', '.join(NAMES)}")
    arguments = parser.parse_args()
    warm()
    names = arguments.names or list(NAMES)
    results = Results(
        when=time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()),
        machine=machine(),
        commit=commit(),
        load=load(),
        quick=arguments.quick,
        figures={name: take(name, arguments.quick) for name in names},
    )
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{results.when}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    print("\n" + "\n".join(section(name, results) for name in names) + f"\nkept in {path.relative_to(ROOT)}")
    if not arguments.quick:
        put(PAGE, BEGIN, END, renewed(between(PAGE, BEGIN, END), results))
        put(readme.PAGE, readme.BEGIN, readme.END, readme.table(between(PAGE, BEGIN, END)))


if __name__ == "__main__":
    main()
