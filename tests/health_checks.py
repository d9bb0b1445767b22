"""The numbers of `/api/v1/health` of a pipeline at work, against what log, database and system say for themselves."""

from __future__ import annotations

from typing import Any

import psycopg

from pipeline_runs import Pipeline, until
from tapewatch.log.reader import LogReader
from tapewatch.records import Tables
from tapewatch.serve.shapes import iso

_COUNTERS = ("trades", "late", "future", "ineligible", "unknown_conditions")
_TABLES = ("stock_aggregates", "price_bars", "minute_quality", "breakout_alerts", "latest_prices", "feed_gaps")


def check_health(pipeline: Pipeline, origin: str) -> None:
    """What only grows lies between two looks of our own, one before and one after the answer."""
    before = _look(pipeline, origin)
    health = until(lambda: _fresh(pipeline, before), "an answer that is newer than our look, and all is well")
    after = _look(pipeline, origin)
    found = {f"rows {name}": health["database"]["rows"][name] for name in _TABLES}
    found |= {"log end": health["log"]["end"], "delivered": health["notifications"]["delivered_24h"]}
    found |= {f"{row['symbol']} {name}": row[name] for row in health["symbols"] for name in _COUNTERS}
    assert found.keys() == before.keys() == after.keys()
    assert {
        name: (before[name], found[name], after[name])
        for name in found
        if not before[name] <= found[name] <= after[name]
    } == {}
    with psycopg.connect(pipeline.conninfo(origin)) as connection:
        size = (connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0]
        version = (connection.execute("SHOW server_version").fetchone() or ("",))[0]
    assert abs(health["database"]["bytes"] - size) < 0.3 * size
    assert health["database"]["postgres"] == version
    log = pipeline.origin_folder(origin) / "log" / "log.db"
    with LogReader.open(log, Tables()) as reader:
        assert health["log"]["oldest_at"] == iso(int(reader.read(reader.first, 1).time_ms[0]))
        assert health["log"]["first"] == reader.first
    assert health["log"]["bytes"] >= log.stat().st_size / 2
    assert health["commit"]["count"] > 0


def _fresh(pipeline: Pipeline, before: dict[str, int]) -> dict[str, Any] | None:
    """An answer whose counts were asked for after ``before``: they are kept for some seconds.

    And by which all is well: on a busy machine something may be late for a moment.
    """
    health: dict[str, Any] = pipeline.ask("api/v1/health")
    now = {(c["market"], c["state"]) for c in health["connections"] if c["to"] is None}
    is_well = (health["sentence"], health["problems"]) == ("Everything is well.", [])
    if not is_well or now != {("stocks", "live"), ("crypto", "live")}:
        return None
    rows = health["database"]["rows"] if health["database"] else {}
    is_newer = all(rows.get(name, -1) >= before[f"rows {name}"] for name in _TABLES)
    counts = {f"{row['symbol']} {name}": row[name] for row in health["symbols"] for name in _COUNTERS}
    if health["log"]["oldest_at"] is None:
        return None
    return health if is_newer and all(counts[name] >= before[name] for name in counts) else None


def _look(pipeline: Pipeline, origin: str) -> dict[str, int]:
    with psycopg.connect(pipeline.conninfo(origin), autocommit=True) as connection:
        found = {}
        for name in _TABLES:
            found[f"rows {name}"] = connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]  # noqa: S608
        for symbol, *counts in connection.execute(f"SELECT symbol, {', '.join(_COUNTERS)} FROM latest_prices"):  # noqa: S608
            found |= {f"{symbol} {name}": count for name, count in zip(_COUNTERS, counts, strict=True)}
        delivered = "SELECT count(*) FROM notifications WHERE delivered_at > now() - INTERVAL '1 day'"
        found["delivered"] = connection.execute(delivered).fetchall()[0][0]
    with LogReader.open(pipeline.origin_folder(origin) / "log" / "log.db", Tables()) as reader:
        found["log end"] = reader.end
    return found
