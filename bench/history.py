"""Reading back: what the page asks the API, and what Grafana asks the database, with 30 days of 50 symbols.

    python bench/history.py [--quick]

    API      over HTTP on loopback, one question after the other, by the standard library's client, which costs little;
             server, database and asker share the machine
    Grafana  every SQL of panels, marks, variables and alert rules, filled as Grafana fills it, over the last 30 days

The rows are made in the database (16 hours a day). Each question is asked often, and the middle of its times counts;
of Grafana's queries the 95th percentile of all times counts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta
from http.client import HTTPConnection

import msgspec
import numpy as np
import psycopg

from filled import filled_database
from report import ROOT, Figure, main
from tapewatch.records import Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.server import HttpServer
from tapewatch.serve.stream import StreamHub
from tapewatch.store.connect import Dsn
from tapewatch.store.queries import Queries

sys.path.insert(0, str(ROOT / "tests"))
from grafana_fill import symbols
from grafana_macros import Fill, chosen, filled_sql

SYMBOL = "S07"
DAY_MS = 86_400_000


def questions(until_ms: int) -> list[tuple[str, str, float | None]]:
    """Name, path and target in ms."""
    path = f"/api/v1/stocks/{SYMBOL}"
    day = f"from={until_ms - DAY_MS}&limit=2000"
    month = f"from={until_ms - 30 * DAY_MS}&limit=20000"
    return [
        ("history of a symbol's day, by the minute", f"{path}/history?{day}", 20.0),
        ("history of 30 days, by the hour", f"{path}/history?interval=1h&{month}", 100.0),
        ("history of 30 days, by the minute: 20,000 bars", f"{path}/history?{month}", None),
        ("indicators of 500 minutes", f"{path}/indicators?limit=500", None),
        ("quality of a symbol's day", f"{path}/quality?from={until_ms - DAY_MS}", None),
        ("overview of 50 symbols", "/api/v1/overview", None),
        ("200 alerts of all symbols", "/api/v1/alerts?limit=200", None),
    ]


def time_answers(url: str, path: str, times: int) -> tuple[list[float], bytes]:
    """What each answer took, in ms, and the last one."""
    taken: list[float] = []
    with closing(HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=60)) as client:
        for _ in range(times):
            started = time.perf_counter()
            client.request("GET", path)
            answer = client.getresponse()
            body = answer.read()
            taken.append(1_000 * (time.perf_counter() - started))
            assert answer.status == 200, body
    return taken, body


async def ask(dsn: Dsn, until_ms: int, times: int) -> list[Figure]:
    """Every question, ``times`` times."""
    queries = Queries(dsn.conninfo)
    status = {"origin": "REPLAYED", "feeds": [], "log": {"state": "ok"}, "store": {"state": "ok"}}
    server = HttpServer(create_app(queries, StreamHub(), lambda: status, origin=Origin.REPLAYED), "127.0.0.1", 0)
    await server.start()
    figures = []
    try:
        for name, path, target in questions(until_ms):
            taken, body = await asyncio.to_thread(time_answers, server.url, path, times + 1)
            assert len(msgspec.json.decode(body)) > 10, (name, "few rows prove nothing")
            figures.append(Figure(name=name, unit="ms", values=taken[1:], target=target))  # the first one connects
    finally:
        await server.stop()
        await queries.close()
    return figures


def grafana(dsn: Dsn, until: datetime, times: int) -> list[Figure]:
    """Every query of the dashboards over 30 days."""
    fill = Fill(until - timedelta(days=30), until, chosen(symbols(), SYMBOL))
    every = Fill(fill.since, until, fill.variables | {"symbol": symbols()})
    texts = dict(filled_sql(fill))
    texts |= {name: text for name, text in filled_sql(every) if name.startswith("tapewatch-alerts")}
    taken: dict[str, list[float]] = {name: [] for name in texts}
    with psycopg.connect(dsn.conninfo, autocommit=True) as connection:
        for _ in range(times):
            for name, text in texts.items():
                started = time.perf_counter()
                connection.execute(text.encode()).fetchall()
                taken[name].append(1_000 * (time.perf_counter() - started))
    slowest = max(taken, key=lambda name: float(np.median(taken[name])))
    p95 = float(np.percentile(np.concatenate(list(taken.values())), 95))
    return [
        Figure(name=f"Grafana's {len(texts)} queries over 30 days, p95", unit="ms", values=[p95], target=300.0),
        Figure(name=f"the slowest of them: {slowest}", unit="ms", values=taken[slowest]),
    ]


def measure(quick: bool) -> list[Figure]:
    """Fill, ask, and stop."""
    times = 3 if quick else 30
    with filled_database() as (dsn, until):
        figures = asyncio.run(ask(dsn, int(until.timestamp() * 1_000), times))
        return figures + grafana(dsn, until, max(1, times // 3))


if __name__ == "__main__":
    main("Reading back: API and dashboards", measure)
