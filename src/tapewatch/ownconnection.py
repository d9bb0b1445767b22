"""A database connection that belongs to one object: opened when needed, and again after it was lost."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

__all__ = ["OwnConnection"]


class OwnConnection:
    """For one event loop; each statement is committed by itself, and rows are dictionaries."""

    def __init__(self, conninfo: str, name: str, connect_s: int) -> None:
        """``name`` is how the database lists it; ``connect_s`` how long opening it may take."""
        self._conninfo = conninfo
        self._name = name
        self._connect_s = connect_s
        self._connection: psycopg.AsyncConnection[dict[str, Any]] | None = None

    async def close(self) -> None:
        """Close the connection; the next call would open another."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connected(self) -> psycopg.AsyncConnection[dict[str, Any]]:
        """Raises `psycopg.OperationalError`."""
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, row_factory=dict_row, connect_timeout=self._connect_s,
                application_name=f"tapewatch {self._name}",
            )  # fmt: skip
            await self._opened(self._connection)
        return self._connection

    async def _opened(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        """What a new connection needs, and what was true only of the one before."""
