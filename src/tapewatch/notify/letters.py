"""Dead letters and the channels' health, as the database holds them: looked at, and sent again.

A dead letter is a notification that was given up: too many failures, too old, or nothing left to say. It stays, with
its reason, until the retention takes it. Sent again it waits as if it were new, with the same id, and its age is no
hindrance any more; its text then says how late it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import dict_row

from tapewatch.errors import StoreMismatch, StoreUnavailable

__all__ = ["ChannelRow", "Letter", "channel_rows", "dead_letters", "resend"]

LETTERS_MAX: Final = 1_000
_ANSWER_S_MAX: Final = 5

_DEAD: Final = """
    SELECT id, channel, event, symbol, created_at, attempts, COALESCE(last_error, reason, '') AS reason,
           COALESCE(payload->>'text', '') AS text
      FROM notifications WHERE state = 'dead' ORDER BY created_at DESC, id LIMIT %(limit)s"""
_RESEND: Final = """
    UPDATE notifications
       SET state = 'waiting', attempts = 0, next_attempt_at = clock_timestamp(), resent = resent + 1
     WHERE state = 'dead' AND (%(ids)s::text[] IS NULL OR id = ANY (%(ids)s))
       AND (%(channel)s::text IS NULL OR channel = %(channel)s)
 RETURNING id"""
_CHANNELS: Final = """
    SELECT COALESCE(h.channel, n.channel) AS channel, h.accepted_at, h.failed_at, h.last_error,
           COALESCE(h.failures, 0) AS failures, h.paused_until, COALESCE(n.waiting, 0) AS waiting,
           COALESCE(n.dead, 0) AS dead, COALESCE(n.delivered, 0) AS delivered
      FROM channel_health h
      FULL JOIN (SELECT channel,
                        count(*) FILTER (WHERE state IN ('new', 'held', 'waiting') AND event <> 'expired') AS waiting,
                        count(*) FILTER (WHERE state = 'dead') AS dead,
                        count(*) FILTER (WHERE delivered_at > now() - INTERVAL '1 day') AS delivered
                   FROM notifications GROUP BY channel) n ON n.channel = h.channel
     ORDER BY 1"""


class Letter(msgspec.Struct, frozen=True):
    """One that was given up."""

    id: str
    channel: str
    event: str
    symbol: str
    created_at: datetime
    attempts: int
    reason: str
    text: str


class ChannelRow(msgspec.Struct, frozen=True):
    """How one channel does."""

    channel: str
    accepted_at: datetime | None
    failed_at: datetime | None
    last_error: str | None
    failures: int
    """In a row."""
    paused_until: datetime | None
    waiting: int
    dead: int
    delivered: int
    """In the last 24 hours."""


def dead_letters(conninfo: str, limit: int = 100) -> list[Letter]:
    """The newest of them. Raises StoreUnavailable."""
    return [Letter(**row) for row in _rows(conninfo, _DEAD, {"limit": min(max(limit, 1), LETTERS_MAX)})]


def resend(conninfo: str, ids: Sequence[str] | None, channel: str | None = None) -> list[str]:
    """Let these dead letters wait again, or all with None; those of one channel only if it is named.

    Gives the ids of those that were dead. Raises StoreUnavailable.
    """
    values = {"ids": None if ids is None else list(ids), "channel": channel}
    return [row["id"] for row in _rows(conninfo, _RESEND, values)]


def channel_rows(conninfo: str) -> list[ChannelRow]:
    """Every channel that ever had a message. Raises StoreUnavailable."""
    return [ChannelRow(**row) for row in _rows(conninfo, _CHANNELS, {})]


def _rows(conninfo: str, statement: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        with psycopg.connect(conninfo, connect_timeout=_ANSWER_S_MAX, row_factory=dict_row) as connection:
            return connection.execute(statement, values).fetchall()
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"The database with the notifications does not answer: {error}") from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        told = "The database has no notifications as this version keeps them; run the pipeline on it first."
        raise StoreMismatch(told) from None
