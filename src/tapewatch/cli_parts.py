"""What the commands share: their options, and the sentences they begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from tapewatch.errors import InputError, SettingsError
from tapewatch.logs import start_logging as start_logging
from tapewatch.records import Origin
from tapewatch.settings import Settings

ORIGIN_SENTENCES: Final = {
    Origin.SIMULATED: "Data is SIMULATED: set MASSIVE_API_KEY in .env for the real market.",
    Origin.REPLAYED: "Data is REPLAYED from a recording.",
    Origin.LIVE: "Data is LIVE.",
}
OriginName = Annotated[
    str,
    typer.Option("--origin", metavar="KIND", help="live, simulated or replayed; default: what runs, or ran last"),
]

ReplayFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--replay",
        metavar="FILE",
        help="play this trades flat file (csv.gz) or raw capture instead; may be given several times",
    ),
]
ReplaySpeed = Annotated[
    str, typer.Option("--speed", metavar="N", help="pace of a replay: times the recording's own, or max")
]


def recordings(replay: list[Path] | None, speed: str) -> list[Path]:
    """The files to play, as the caller's folder has them.

    Raises:
        InputError: one is missing, or the speed is none.
    """
    _check_speed(speed)
    called_from = Path(os.environ.get("TAPEWATCH_CALLED_FROM", "."))
    files = [called_from / path for path in replay or []]
    for path in files:
        if not path.is_file():
            raise InputError(f"--replay {path}: there is no such file")
    return files


def _check_speed(speed: str) -> None:
    try:
        good = speed == "max" or 0 < float(speed) <= 1e6
    except ValueError:
        good = False
    if not good:
        raise InputError(f"--speed {speed}: expected a number above 0, such as 1 or 60, or max")


def say(url: str, origin: Origin) -> None:
    """Tell where the page is."""
    print(f"Tapewatch is running: {url}\n{ORIGIN_SENTENCES[origin]}", flush=True)


def expect_distributed(settings: Settings) -> None:
    """Raises SettingsError unless Kafka and a database are named."""
    names = {"KAFKA_BOOTSTRAP_SERVERS": settings.kafka_servers, "DB_HOST": settings.db_host}
    if missing := [name for name, value in names.items() if value is None]:
        raise SettingsError(
            f"{' and '.join(missing)} not set: the log is in Kafka, and the database is one that others reach too; "
            "set it, or start all parts on this machine: tapewatch cluster up"
        )
