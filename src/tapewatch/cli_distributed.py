"""The commands of the distributed profile: its parts, each as a process of its own."""

from __future__ import annotations

import asyncio

import typer

from tapewatch import metrics_server
from tapewatch.cli_parts import ORIGIN_SENTENCES, OriginName, ReplayFiles, ReplaySpeed, recordings, say, start_logging
from tapewatch.errors import InputError
from tapewatch.records import Origin
from tapewatch.settings import load_settings

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.command(short_help="Distributed: record the feed into Kafka.")(feed)
    app.command(short_help="Distributed: page, API and notifications.")(serve)


def feed(replay: ReplayFiles = None, speed: ReplaySpeed = "60") -> None:
    """Record the feed into the Kafka topic of KAFKA_BOOTSTRAP_SERVERS, as a process of its own."""
    settings = load_settings()
    files = recordings(replay, speed)
    start_logging(settings)
    from tapewatch.profiles.distributed import run_feed
    from tapewatch.profiles.front import Replay

    with metrics_server.served(settings.metrics_port):
        asyncio.run(run_feed(settings, Replay(files, speed) if files else None, _say_feed))


def serve(origin: OriginName = "") -> None:
    """Show the database of DB_HOST: page, API and live stream; and deliver its notifications.

    The feed and the engine are processes of their own: tapewatch feed, tapewatch spark.
    """
    settings = load_settings()
    wanted = None
    if origin:
        try:
            wanted = Origin(origin.upper())
        except ValueError:
            kinds = ", ".join(o.value.lower() for o in Origin)
            raise InputError(f"--origin {origin}: expected one of {kinds}") from None
    start_logging(settings)
    from tapewatch.profiles.distributed import run_serve

    asyncio.run(run_serve(settings, wanted, say))


def _say_feed(place: str, origin: Origin) -> None:
    print(f"Tapewatch's feed is running: into {place}\n{ORIGIN_SENTENCES[origin]}", flush=True)
