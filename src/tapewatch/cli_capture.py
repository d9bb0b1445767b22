"""The command that records raw captures."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from tapewatch.cli_parts import ORIGIN_SENTENCES, start_logging
from tapewatch.records import Origin
from tapewatch.settings import load_settings

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add it to the program."""
    app.command(short_help="Record the feed's frames as they come, into one file.")(record)


def record(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="the file to make (gzip); default: named by source and moment"),
    ] = None,
) -> None:
    """Record what the exchange sends, frame by frame with the moment of each, until Ctrl-C; nothing else runs.

    To play it: tapewatch run --replay FILE; to compute its rows: tapewatch replay FILE --out FOLDER. To capture beside
    a running pipeline instead, set CAPTURE_DIR. The file holds neither the key nor anything else that was sent.
    """
    settings = load_settings()
    start_logging(settings)
    from tapewatch.profiles.capture import record as record_feeds
    from tapewatch.profiles.capture import record_place

    called_from = Path(os.environ.get("TAPEWATCH_CALLED_FROM", "."))
    place = record_place(None if out is None else called_from / out, settings.feed)
    done = asyncio.run(record_feeds(settings, place, _say))
    print(f"{done.path}: {done.frames:,} frames, {done.bytes:,} bytes.")


def _say(path: Path, origin: Origin) -> None:
    print(f"Recording into {path}; Ctrl-C ends it.\n{ORIGIN_SENTENCES[origin]}", flush=True)
