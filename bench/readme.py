"""README's table of figures, read off docs/performance.md: the few that a newcomer asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from report import ROOT

PAGE = ROOT / "README.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
ROWS: Sequence[tuple[str, Sequence[str], str]] = (
    (
        "decode → windows → crosses on one core, 3 / 500 / 11,000 symbols",
        ("decode to rows (3 symbols)", "decode to rows (500 symbols)", "decode to rows (11,000 symbols)"),
        "1,500,000 each",
    ),
    (
        "socket → log → engine → database, 240,000 trades/s offered, nothing lost",
        ("sustained, nothing lost (240,000 trades/s offered)",),
        "200,000",
    ),
    ("CPU of the pipeline at 10,000 trades/s", ("pipeline's CPU (10,000 trades/s)",), "under 15 %"),
    (
        "socket → database row at 10,000 trades/s, p50 / p99 / max",
        tuple(f"socket to database row, {n} (10,000 trades/s)" for n in ("p50", "p99", "max")),
        "p99 under 100 ms",
    ),
    (
        "socket → browser event at 10,000 trades/s, p50 / p99 / max",
        tuple(f"socket to browser event, {n} (10,000 trades/s)" for n in ("p50", "p99", "max")),
        "p99 under 100 ms",
    ),
    (
        "alert decided → accepted by a webhook at 10 alerts/s, p50 / p99 / max",
        tuple(f"decision to accepted by a webhook, {n} (10 alerts/s" for n in ("p50", "p99", "max")),
        "p99 under 200 ms",
    ),
    ("memory without PostgreSQL, 5 symbols: PSS / RSS", ("memory, PSS (5 symbols", "memory, RSS (5 symbols"), "300 MB"),
    (
        "memory without PostgreSQL, 11,000 symbols: PSS / RSS",
        ("memory, PSS (11,000 symbols", "memory, RSS (11,000 symbols"),
        "600 MB",
    ),
    ("log and database, a real day", ("log (real day", "database (real day"), ""),
    (
        "start to the first live row, once installed",
        ("start to the first live row (once installed)",),
        "under 5 s",
    ),
    ("first chart of the page, over 30 days", ("first chart painted",), "under 1 s"),
    ("frames a second with 500 symbols and 1,000 updates/s", ("frames a second",), "50"),
    (
        "history of a symbol's day / of 30 days by the hour",
        ("history of a symbol's day, by the minute", "history of 30 days, by the hour"),
        "20 / 100 ms",
    ),
    ("push to 2,000 open streams, p99", ("receipt of a trade to its arrival, p99",), "under 1 s"),
    (
        "Kafka → Spark → database, 50 / 10,000 symbols",
        ("Kafka to database (50 symbols)", "Kafka to database (10,000 symbols)"),
        "100,000 with 50",
    ),
    (
        "Kafka append → database row through Spark at 1,000/s, p50 / p99 / max",
        tuple(f"Kafka append to committed row, {n} (1,000 messages/s" for n in ("p50", "p99", "max")),
        "p50 400, p99 1,000 ms",
    ),
)
"""What, the figures it shows (each by the beginning of its name), and what was asked for."""


def medians(page: str) -> dict[str, str]:
    """Name and median, with its unit, of every figure in the tables of docs/performance.md."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    return {row[0].strip(): row[1].strip() for row in rows if row[0].strip() != "what"}


def values(found: Mapping[str, str], names: Sequence[str]) -> str:
    """The figures of those names, with the unit once; empty if one was not taken."""
    texts = [next((text for name, text in found.items() if name.startswith(wanted)), "") for wanted in names]
    if not all(texts):
        return ""
    numbers = [text.partition(" ")[0] for text in texts]
    return f"{' / '.join(numbers)} {texts[0].partition(' ')[2]}"


def table(page: str) -> str:
    """README's part between the markers, from that of docs/performance.md. Rows without figures are left out."""
    found = medians(page)
    machines = dict.fromkeys(line.partition(";")[0] for line in page.splitlines() if "; commit " in line)
    rows = [(what, values(found, names), asked) for what, names, asked in ROWS]
    lines = [
        f"On {' and on '.join(machines)}. All figures, which of them on which machine, and how",
        "they are taken: [docs/performance.md](docs/performance.md). `.venv/bin/python bench/run.py` writes both anew.",
        "",
        "| what | measured | asked for |",
        "|---|---|---|",
        *(f"| {what} | {value} | {asked} |" for what, value, asked in rows if value),
    ]
    return "\n".join(lines)
