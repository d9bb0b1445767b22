"""Log and database of a pipeline for the commands that look at them while it does not run, or beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tapewatch.errors import InputError, StoreMismatch
from tapewatch.log.reader import LogReader
from tapewatch.profiles.instance import Instance, folder_of, running
from tapewatch.profiles.parts import Parts
from tapewatch.records import Origin, Tables
from tapewatch.settings import Settings
from tapewatch.store.connect import conninfo as external_conninfo
from tapewatch.store.embedded import EmbeddedPostgres, psql_path, saved_dsn
from tapewatch.store.writer import StoreWriter

__all__ = ["Rooms", "find_origin", "open_rooms", "psql_command", "rebuild_rows"]


@dataclass(frozen=True, slots=True)
class Rooms:
    """Where one pipeline keeps what it knows."""

    origin: Origin
    folder: Path
    log_path: Path
    conninfo: str
    is_running: bool


def find_origin(settings: Settings, wanted: str) -> Origin:
    """The data meant: the named kind, else what runs, else what this folder was last used for.

    Raises:
        InputError: no such kind, or nothing is there.
    """
    if wanted:
        try:
            return Origin(wanted.upper())
        except ValueError:
            kinds = ", ".join(o.value.lower() for o in Origin)
            raise InputError(f"--origin {wanted}: expected one of {kinds}") from None
    if found := running(settings.data_dir):
        return found[0][1].origin
    logs = {o: folder_of(settings.data_dir, o) / "log" / "log.db" for o in Origin}
    used = [(path.stat().st_mtime, origin) for origin, path in logs.items() if path.exists()]
    if not used:
        raise InputError(f"{settings.data_dir}: nothing was recorded here yet; start with ./start_pipeline.sh")
    return max(used)[1]


@contextmanager
def open_rooms(settings: Settings, wanted: str) -> Iterator[Rooms]:
    """Log and database of one pipeline; starts the embedded database for the time being if it does not run.

    Raises:
        InputError, MachineError: see `find_origin`, `EmbeddedPostgres.start`.
    """
    origin = find_origin(settings, wanted)
    folder = folder_of(settings.data_dir, origin)
    log_path = folder / "log" / "log.db"
    is_running = any(found == folder for found, _ in running(settings.data_dir))
    if settings.db_host is not None:
        yield Rooms(origin, folder, log_path, external_conninfo(settings), is_running)
        return
    saved = saved_dsn(folder)
    if is_running and saved is not None:
        yield Rooms(origin, folder, log_path, saved.conninfo, is_running)
        return
    if saved is None and not log_path.exists():
        raise InputError(
            f"--origin {origin.value.lower()}: nothing of that kind was recorded in {settings.data_dir} yet"
        )
    with Instance(folder, origin):
        postgres = EmbeddedPostgres(folder, settings.db_name)
        info = postgres.start().conninfo
        try:
            yield Rooms(origin, folder, log_path, info, is_running)
        finally:
            postgres.stop()


def rebuild_rows(rooms: Rooms, parts: Parts) -> int:
    """Empty the computed tables and compute them anew from the whole log; how many records that took.

    Raises:
        StoreMismatch: a pipeline runs on it.
    """
    if rooms.is_running:
        raise StoreMismatch("a pipeline runs on this database; stop it first: ./stop_pipeline.sh")
    tables = Tables()
    with (
        closing(LogReader.open(rooms.log_path, tables)) as reader,
        closing(StoreWriter.connect(rooms.conninfo)) as store,
    ):
        engine = parts.of_log(reader).engine(tables)
        store.initialise()
        store.reset()
        at = store.recover(reader.log_id, reader.origin).position
        start = position = reader.first
        for batch in reader.batches(start):
            engine.step(batch)
            position = batch.offset + len(batch)
            changes = engine.drain()
            store.commit(changes, at, position, snapshot=engine.snapshot())
            at = position
    return position - start


def psql_command(settings: Settings, wanted: str, arguments: Sequence[str]) -> tuple[Path, list[str], dict[str, str]]:
    """Program, arguments and environment of psql on the database of a running pipeline, or on DB_HOST.

    Raises:
        InputError: the embedded database does not run.
    """
    if settings.db_host is not None:
        info = external_conninfo(settings)
    else:
        origin = find_origin(settings, wanted)
        folder = folder_of(settings.data_dir, origin)
        saved = saved_dsn(folder)
        if saved is None or not any(found == folder for found, _ in running(settings.data_dir)):
            raise InputError("the embedded database runs only beside the pipeline; start it with ./start_pipeline.sh")
        info = saved.conninfo
    # By environment: arguments can be seen by every user of the machine.
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
    values = {names[key]: str(value) for key, value in conninfo_to_dict(info).items() if key in names and value}
    program = psql_path()
    return program, [str(program), *arguments], {**os.environ, **values}
