"""The command that explains a minute: why an alert fired, or why nothing did."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tapewatch.cli_parts import OriginName, expect_distributed
from tapewatch.settings import load_settings

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add it to the program."""
    app.command(short_help="Say why an alert fired, or why nothing did.")(explain)


def explain(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="such as AAPL or BTC")],
    minute: Annotated[
        str,
        typer.Argument(
            metavar="MINUTE", help="such as 2026-11-20T15:42, in the exchange's time (New York; for crypto UTC)"
        ),
    ],
    origin: OriginName = "",
) -> None:
    """Say for one symbol and minute what each rule decided and why, computed anew from the log.

    Exit code: 0 the database has stored the same, 1 it has not.
    """
    settings = load_settings()
    from tapewatch.profiles.explain import explain_here, explain_lines, read_minute

    read_minute(symbol.upper(), minute)
    if settings.kafka_servers is not None:
        expect_distributed(settings)
    found = asyncio.run(explain_here(settings, origin, symbol, minute))
    print("\n".join(explain_lines(found)))
    raise typer.Exit(0 if found["agrees"] is not False else 1)
