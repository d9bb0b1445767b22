"""Where the database is, how a connection to it is opened, and why it cannot be, in one sentence.

A server that does not answer (not there, starting, full) is `StoreUnavailable`: trying again may help. A server that
refuses us (password, database, rights, version) is `StoreError`: a person must change something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.settings import STORE_CONNECT_S, Settings

__all__ = ["Dsn", "connect_error", "conninfo", "open_connection", "place"]

VERSION_MIN: Final = 14
_REFUSED_HELP: Final = (
    ("password authentication failed", "the password of user {user} is wrong: set DB_PASSWORD"),
    ("no password supplied", "user {user} needs a password: set DB_PASSWORD"),
    ("database {quoted} does not exist", "it has no database {dbname}: create it (CREATE DATABASE) or set DB_NAME"),
    ("role {role} does not exist", "it has no user {user}: create it (CREATE ROLE … LOGIN) or set DB_USER"),
    ("no pg_hba.conf entry", "its pg_hba.conf does not let user {user} into {dbname} from here"),
    ("permission denied for database", "user {user} may not connect to {dbname}: GRANT CONNECT"),
    ("is not permitted to log in", "user {user} may not log in: ALTER ROLE {user} LOGIN"),
)


@dataclass(frozen=True, slots=True)
class Dsn:
    """An embedded database and a user of it; the password is never printed."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str

    @property
    def conninfo(self) -> str:
        """As libpq and psycopg take it. Holds the password."""
        return make_conninfo(host=self.host, port=self.port, user=self.user, password=self.password, dbname=self.dbname)


def conninfo(settings: Settings) -> str:
    """The database that DB_HOST and its companions name, as libpq takes it. Holds the password."""
    assert settings.db_host is not None, "without DB_HOST the database is the embedded one"
    password = settings.db_password.get_secret_value() if settings.db_password else None
    return make_conninfo(
        host=settings.db_host,
        port=settings.db_port,
        dbname=settings.db_name,
        user=settings.db_user,
        password=password,
    )


def open_connection(conninfo: str, application_name: str) -> psycopg.Connection:
    """A connection in autocommit mode.

    Raises:
        StoreUnavailable: nothing answers, or not within `STORE_CONNECT_S`.
        StoreError: the server refuses us, or is older than PostgreSQL 14.
    """
    try:
        connection = psycopg.connect(
            conninfo,
            autocommit=True,
            connect_timeout=STORE_CONNECT_S,
            application_name=application_name,
            keepalives_idle=10,
            tcp_user_timeout=30_000,
        )
    except psycopg.OperationalError as error:
        raise connect_error(error, conninfo) from None
    try:
        check_version(connection.info.server_version, place(conninfo))
    except StoreError:
        connection.close()
        raise
    return connection


def check_version(version: int, where: str) -> None:
    """Refuse a server older than PostgreSQL 14 (``version`` as libpq gives it: 140005 is 14.5)."""
    if version < VERSION_MIN * 10_000:
        raise StoreError(f"The database at {where} is PostgreSQL {version // 10_000}; expected {VERSION_MIN} or newer.")


def connect_error(error: psycopg.OperationalError, conninfo: str) -> StoreError:
    """What a failed connection means, with what to do."""
    names = {"user": "", "dbname": ""} | {k: str(v) for k, v in conninfo_to_dict(conninfo).items()}
    names |= {"quoted": f'"{names["dbname"]}"', "role": f'"{names["user"]}"'}
    said = str(error)
    for sign, help_text in _REFUSED_HELP:
        if sign.format(**names) in said:
            return StoreError(f"The database at {place(conninfo)} refuses us: {help_text.format(**names)}.")
    return StoreUnavailable(f"Cannot reach the database at {place(conninfo)}: {_reason(said)}.")


def place(conninfo: str) -> str:
    """``host:port/dbname``, for messages."""
    names = conninfo_to_dict(conninfo)
    return f"{names.get('host', 'localhost')}:{names.get('port', 5432)}/{names.get('dbname', '')}"


def _reason(said: str) -> str:
    first = said.strip().splitlines()[0] if said.strip() else "no reason given"
    return first.split("failed: ")[-1].removeprefix("FATAL:").strip().rstrip(".")
