"""One screen of the running pipeline, asked through its own API: what `./monitor_pipeline.sh` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tapewatch.profiles.instance import Role, RunInfo, running
from tapewatch.settings import Settings, duration_text

__all__ = ["show_status"]

NEW_YORK: Final = ZoneInfo("America/New_York")
_ANSWER_S: Final = 3.0
_REFRESH_S: Final = 1.0
_ALERTS_SHOWN: Final = 8
_GOOD: Final = frozenset({"ok", "live", "closed"})


def show_status(settings: Settings, *, watch: bool) -> int:
    """Print the screen once, or every second until Ctrl-C. Exit code: 0 all is well, 1 not all is, 3 not running."""
    console = Console()
    found = running(settings.data_dir, Role.RUN, Role.SERVE)
    feeds = [info for _, info in running(settings.data_dir, Role.FEED)]
    for info in feeds:
        console.print(f"{info.origin} feed, process {info.pid}: records into Kafka")
    if not found and feeds:
        console.print("The page is not here: it belongs to `tapewatch serve`, wherever that runs.")
        return 0
    if not found:
        console.print("Tapewatch is not running here; start it with ./start_pipeline.sh")
        return 3
    code = 0
    try:
        with Live(console=console, screen=watch, auto_refresh=False) as live:
            while True:
                screens = [_screen(settings, info) for _, info in found]
                code = max(bad for _, bad in screens)
                live.update(Group(*(screen for screen, _ in screens)), refresh=True)
                if not watch:
                    return code
                time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        return code


def _screen(settings: Settings, info: RunInfo) -> tuple[RenderableType, int]:
    token = settings.api_token.get_secret_value() if settings.api_token else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=info.url, headers=headers, timeout=_ANSWER_S, trust_env=False) as client:
            status = client.get("/api/v1/status").raise_for_status().json()
            tables = _tables(client)
    except httpx.HTTPError as error:
        return Text(f"{info.origin} pipeline, process {info.pid}, {info.url}: does not answer ({error})", "bold red"), 1
    rooms = [("feed " + f["market"], f) for f in status["feeds"]]
    rooms += [(name, status[name]) for name in ("log", "engine", "store")]
    bad = int(tables is None or any(room["state"] not in _GOOD for _, room in rooms))
    delay_ms = max([0, *(feed.get("delay_ms") or 0 for feed in status["feeds"])])
    delay = f", delayed {duration_text(delay_ms)}" if delay_ms else ""
    title = f"Tapewatch  {info.origin}{delay}  {info.url}  process {info.pid}"
    away = [Text("Prices, alerts and gaps cannot be shown: the database does not answer.", "bold red")]
    return Group(Text(title, "bold"), _rooms_table(rooms, status), *(away if tables is None else tables)), bad


def _tables(client: httpx.Client) -> list[RenderableType] | None:
    """What the database tells; None while it does not answer."""
    answers = []
    for path in ("stocks", f"alerts?limit={_ALERTS_SHOWN}", "gaps?limit=5"):
        answer = client.get(f"/api/v1/{path}")
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return None
        answers.append(answer.raise_for_status().json())
    stocks, alerts, gaps = answers
    return [
        _stocks_table(stocks),
        _lines("Alerts (New York time)", alerts, _alert_line),
        _lines("Gaps", gaps, _gap_line),
    ]


def _rooms_table(rooms: list[tuple[str, dict[str, Any]]], status: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("room", "state", "", ""):
        table.add_column(column)
    replayed = status["origin"] == "REPLAYED"
    log, engine = status["log"], status["engine"]
    kept = log["end"] - log["first"]
    lag = status["lag_ms"]
    size = f"disk free {log['disk_free_bytes'] / 2**30:.1f} GiB"
    size = f"{log['bytes'] / 2**20:.1f} MiB, {size}" if log["bytes"] is not None else size
    waiting = "" if engine["behind"] is None else f"{engine['behind']:,} records behind, "
    facts = {
        "log": f"{kept:,} records, {size}",
        "engine": f"{waiting}{status['trades_per_second'] or 0:g} trades/s",
        "store": "" if lag is None else f"newest row {lag:,.0f} ms after its trade came",
    }
    for name, room in rooms:
        style = "green" if room["state"] in _GOOD else "bold red"
        if name.startswith("feed"):
            age = room.get("age_s")
            fact = f"last trade {age:g} s ago" if age is not None else "no trade yet" if not replayed else "recording"
            fact += f", {room['reconnects']} reconnects"
        else:
            fact = facts[name]
        table.add_row(name, Text(room["state"], style), fact, room.get("detail") or "")
    return table


def _stocks_table(stocks: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("symbol")
    for column in ("last", "change", "average", "volume", "trades", "late"):
        table.add_column(column, justify="right")
    table.add_column("at (New York)", no_wrap=True)
    for row in stocks:
        percent = row["change_percent"]
        change = Text("-") if percent is None else Text(f"{percent:+.2f} %", "green" if percent >= 0 else "red")
        average = "-" if row["ma_5min"] is None else f"{row['ma_5min']:,.2f}"
        table.add_row(
            row["symbol"], f"{row['price']:,.2f}", change, average, f"{row['total_volume']:,.0f}",
            f"{row['trades']:,}", str(row["late"]), _new_york(row["timestamp"]),
        )  # fmt: skip
    return table


def _lines(title: str, rows: list[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> Text:
    text = Text(f"{title}\n", "dim")
    text.append("".join(f"  {line(row)}\n" for row in rows) or "  none\n", "default")
    return text


def _alert_line(row: dict[str, Any]) -> str:
    line = f"average {row['line']:,.2f}"
    if row["kind"] not in ("golden_cross", "death_cross"):
        line = f"volume over {row['line']:,.0f}" if row["direction"] == 0 else f"{row['rule']} {row['line']:,.2f}"
    start = f"{_new_york(row['triggered_at'])[5:]} {row['symbol']:5} {row['kind']:12} {row['status']:11}"
    return f"{start} {row['price']:,.2f}, {line}"


def _gap_line(row: dict[str, Any]) -> str:
    return f"{row['market']:7} {_new_york(row['gap_from'])} to {_new_york(row['gap_to'])}  {row['cause']}"


def _new_york(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S")
