"""The commands for what people do with alerts: `tapewatch alerts`. They ask the running pipeline, through its API."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tapewatch.errors import InputError, MachineError
from tapewatch.settings import load_settings

__all__ = ["add_commands"]

_alerts = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
By = Annotated[str, typer.Option("--by", help="who says so")]
Note = Annotated[str, typer.Option("--note", help="a few words about why")]


def add_commands(app: typer.Typer) -> None:
    """Add them to the program, as `alerts`."""
    app.add_typer(_alerts, name="alerts", short_help="Alerts: list, acknowledge, mute, send a test.")


@_alerts.callback()
def _about() -> None:
    """What people do with alerts. A pipeline must be running: it is asked through its API."""


@_alerts.command("list", short_help="The newest alerts, and what is not well.")
def list_alerts(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="how many")] = 20,
    symbol: Annotated[str, typer.Option("--symbol", help="only of this symbol")] = "",
) -> None:
    """The newest alerts, and before them what of the system is not well."""
    for row in _ask("GET", "/system-alerts?limit=20"):
        if row["state"] == "down":
            print(f"{_time(row['began_at'])}  SYSTEM DOWN  {row['detail']}  ({row['system_id']})")
    wanted = f"/alerts?limit={limit}" + (f"&symbol={symbol.upper()}" if symbol else "")
    for row in _ask("GET", wanted):
        seen = f", seen by {row['acknowledged_by']}" if row["acknowledged_at"] else ""
        what = f"{row['symbol']:<6} {row['rule']:<16} {row['status']:<11}"
        print(f"{_time(row['triggered_at'])}  {what} {_number(row['price'])}{seen}  ({row['alert_id']})")


@_alerts.command(short_help="Say that an alert is seen.")
def ack(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="its id: see tapewatch alerts list")],
    by: By = "command",
    note: Note = "",
) -> None:
    """Say that somebody has seen an alert: what waits of its messages is not sent any more."""
    _ask("POST", f"/alerts/{alert}/acknowledgement", {"by": by, "note": note})
    print(f"{alert} is acknowledged.")


@_alerts.command(short_help="Take an acknowledgement back.")
def unack(alert: Annotated[str, typer.Argument(metavar="ALERT", help="its id")]) -> None:
    """Take an acknowledgement back."""
    _ask("DELETE", f"/alerts/{alert}/acknowledgement")
    print(f"{alert} is not acknowledged any more.")


@_alerts.command(short_help="Tell nobody of some alerts for a while.")
def mute(
    duration: Annotated[str, typer.Option("--for", help="how long, such as 30m or 8h")],
    rule: Annotated[str, typer.Option("--rule", help="only of this rule")] = "",
    symbol: Annotated[str, typer.Option("--symbol", help="only of this symbol")] = "",
    channel: Annotated[str, typer.Option("--channel", help="only on this channel")] = "",
    everything: Annotated[bool, typer.Option("--all", help="every alert on every channel")] = False,
    by: By = "command",
    note: Note = "",
) -> None:
    """Tell nobody of some alerts for a while. They are made, stored and shown all the same."""
    named = {name: value for name, value in (("rule", rule), ("symbol", symbol), ("channel", channel)) if value}
    _show(_ask("POST", "/mutes", {**named, "all": everything, "for": duration, "by": by, "note": note}))


@_alerts.command(short_help="What is muted now.")
def mutes() -> None:
    """What is muted now."""
    _show(_ask("GET", "/mutes"))


@_alerts.command(short_help="End a mute.")
def unmute(mute_id: Annotated[str, typer.Argument(metavar="MUTE", help="its id: see tapewatch alerts mutes")]) -> None:
    """End a mute."""
    _show(_ask("DELETE", f"/mutes/{mute_id}"))


@_alerts.command("test", short_help="Send a test alert the whole way.")
def send_test(
    channels: Annotated[list[str] | None, typer.Argument(metavar="CHANNEL", help="default: every channel")] = None,
) -> None:
    """Send a test alert the whole way: outbox, gate, sender, channel. `tapewatch notify test` goes straight there."""
    sent = _ask("POST", "/system-alerts/test", {"channels": channels or None})
    print(f"{sent['system_id']} is on its way. If a channel does not get it within a minute, System Down says so.")


def _show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        named = [row[name] for name in ("rule", "symbol", "channel") if row[name]]
        until = _time(row["muted_to"])
        why = f": {row['note']}" if row["note"] else ""
        print(f"{row['mute_id']}  {', '.join(named) or 'everything'} until {until}, by {row['muted_by']}{why}")
    if not rows:
        print("Nothing is muted.")


def _ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the running pipeline answers. Raises InputError with its words when it refuses."""
    import httpx

    from tapewatch.profiles.instance import Role, running

    settings = load_settings()
    found = running(settings.data_dir, Role.RUN, Role.SERVE)
    if not found:
        raise InputError("Tapewatch is not running here; start it with ./start_pipeline.sh")
    token = settings.api_token.get_secret_value() if settings.api_token else ""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{found[0][1].url.rstrip('/')}/api/v1{path}"
    try:
        answer = httpx.request(method, url, headers=headers, json=body, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        raise MachineError(f"the pipeline at {found[0][1].url} does not answer: {error}") from None
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError):
        detail = f"it answered {answer.status_code}"
    raise (InputError if answer.status_code in (404, 409, 422) else MachineError)(str(detail).rstrip("."))


def _time(text: str) -> str:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    return f"{datetime.fromisoformat(text).astimezone(ZoneInfo('America/New_York')):%m-%d %H:%M:%S} ET"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
