"""The table of trade conditions that is known today: a dated file in the package, or a newer one from the exchange.

    feed/conditions.json          written with the program, and dated
    DATA_DIR/conditions.json      what the exchange said by REST, where there is a key; asked for once a day at most

The newer one holds, for the trades that come from then on: what was logged keeps its meaning (`conditions.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from tapewatch.feed.conditions import ALL, ConditionTable, table_of
from tapewatch.feed.rest import Rest

__all__ = ["FILE_NAME", "built_in", "load_conditions", "refresh_conditions", "write_conditions"]

FILE_NAME: Final = "conditions.json"
_PACKAGED: Final = files("tapewatch.feed") / FILE_NAME
_BYTES_MAX: Final = 1 << 20
_PATH: Final = "/v3/reference/conditions"
_QUERY: Final = {"asset_class": "stocks", "data_type": "trade", "limit": "1000"}
_log = structlog.get_logger(__name__)


class _Code(msgspec.Struct, omit_defaults=True):
    """One code: its name, and the bits of what it allows inside the regular session."""

    allows: int
    name: str = ""


class _File(msgspec.Struct):
    date: date
    source: str
    codes: dict[int, _Code]


def built_in() -> ConditionTable:
    """The table that came with the program."""
    return _decoded(_PACKAGED.read_bytes())


def load_conditions(folder: Path) -> ConditionTable:
    """The newest table known: of ``folder``, if it is younger than the program's own, and can be read."""
    ours = built_in()
    path = folder / FILE_NAME
    try:
        kept = _decoded(path.read_bytes()[:_BYTES_MAX])
    except (FileNotFoundError, NotADirectoryError):
        return ours  # that the folder is none is told by whoever writes there first
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        _log.warning("the kept table of conditions cannot be used", path=str(path), why=str(error)[:200])
        return ours
    return kept if kept.date >= ours.date else ours


async def refresh_conditions(
    rest: Rest, folder: Path, known: ConditionTable, *, clock_ns: Callable[[], int] = time.time_ns
) -> ConditionTable:
    """Ask the exchange for today's table and keep it in ``folder``; ``known`` where that is one of today.

    Raises:
        FeedError: no answer, or none that is a table.
    """
    today = datetime.fromtimestamp(clock_ns() // 1_000_000_000, UTC).date().isoformat()
    if known.date >= today:
        return known
    rows: list[dict[str, Any]] = []
    async for page in rest.pages(_PATH, _QUERY, "the table of conditions", rest.deadline_s(60)):
        rows += page.results
    table = table_of(rows, today, rest.host)
    for code, (before, after) in known.differences(table).items():
        _log.warning("the exchange's rule of a condition has changed", code=code, before=before, after=after)
    try:
        write_conditions(table, folder)
    except OSError as error:
        _log.warning("the table of conditions cannot be kept", folder=str(folder), why=str(error))
    return table


def write_conditions(table: ConditionTable, folder: Path) -> None:
    """Keep a table, whole or not at all."""
    codes = {code: _Code(allows, table.names.get(code, "")) for code, allows in sorted(table.inside.items())}
    data = msgspec.json.encode(_File(date.fromisoformat(table.date), table.source, codes))
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".{FILE_NAME}.{os.getpid()}"
    made.write_bytes(msgspec.json.format(data, indent=1) + b"\n")
    made.replace(folder / FILE_NAME)


def _decoded(data: bytes) -> ConditionTable:
    found = msgspec.json.decode(data, type=_File)
    if bad := [code for code, rule in found.codes.items() if code < 0 or not 0 <= rule.allows <= ALL]:
        raise ValueError(f"code {bad[0]}: expected a whole number, and what it allows from 0 to {ALL}")
    allows = {code: rule.allows for code, rule in found.codes.items()}
    names = {code: rule.name for code, rule in found.codes.items() if rule.name}
    return ConditionTable(found.date.isoformat(), found.source, allows, names)
