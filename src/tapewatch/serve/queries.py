"""What `serve` needs from the store, and how it waits for it.

Every method answers with plain dicts of JSON-ready values: times as ISO 8601 UTC text, NaN as None. All raise
`StoreUnavailable` when the database does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from tapewatch.errors import StoreUnavailable
from tapewatch.settings import STATEMENT_TIMEOUT_MS, STORE_PATIENCE_S

__all__ = ["Queries", "Row", "ask"]

Row = dict[str, Any]
T = TypeVar("T")


class Queries(Protocol):
    """Bounded reads. Rows have the column names of the tables they come from."""

    async def stocks(self) -> list[Row]:
        """Every row of `latest_prices` with its ``trend``, ordered by symbol."""

    async def latest(self, symbol: str) -> Row | None:
        """One such row; None for an unknown symbol."""

    async def history(
        self, symbol: str, from_ms: int, to_ms: int, interval: str, limit: int, window_ms: int, slide_ms: int
    ) -> list[Row]:
        """The newest ``limit`` bars that start in [from_ms, to_ms), oldest first. Times of days are the market's."""

    async def indicators(self, symbol: str, from_ms: int, to_ms: int, limit: int) -> list[Row]:
        """RSI, MACD and others of the newest ``limit`` bars that start in [from_ms, to_ms), oldest first."""

    async def overview(self, window_ms: int, slide_ms: int) -> list[Row]:
        """Every symbol's last closes, and the quality of its window."""

    async def alerts(
        self,
        symbol: str | None,
        kind: str | None,
        status: str | None,
        limit: int,
        before_ms: int | None,
        rule: str | None,
        from_ms: int | None,
    ) -> list[Row]:
        """Alerts triggered in [from_ms, before_ms), newest first."""

    async def alert(self, alert_id: str) -> Row | None:
        """One alert with its evidence; None if there is none."""

    async def gaps(self, limit: int) -> list[Row]:
        """Gaps, newest first."""

    async def quality(self, symbol: str, from_ms: int, to_ms: int) -> list[Row]:
        """Minutes in [from_ms, to_ms), oldest first."""

    async def notifications(self, state: str | None, limit: int) -> list[Row]:
        """The outbox, newest first."""

    async def mutes(self, limit: int) -> list[Row]:
        """What is muted now."""

    async def channels(self) -> list[Row]:
        """How each channel for messages does."""

    async def system_alerts(self, limit: int) -> list[Row]:
        """What of the system is or was not well: that which is first, then the newest."""

    async def counts(self) -> Row:
        """Rows in each table."""

    async def vitals(self) -> Row:
        """The database's size and version, the rows of its tables, and what waits in the outbox."""

    async def lanes(self) -> list[Row]:
        """How far each lane is: lane, log_id, origin, position, updated_at."""

    async def ping(self) -> Any:
        """Returns if the database answers."""


async def ask(queries: Queries, query: Awaitable[T]) -> T:
    """Wait for ``query``: as long as a statement may take if the database answers, and under a second if it does not.

    Raises:
        StoreUnavailable: no answer; the query is cancelled.
    """
    task = asyncio.ensure_future(query)
    task.add_done_callback(lambda t: t.cancelled() or t.exception())  # Seen, even if nobody waits any longer.
    try:
        done, _ = await asyncio.wait({task}, timeout=STORE_PATIENCE_S)
        if not done:
            await asyncio.wait_for(queries.ping(), STORE_PATIENCE_S)
            done, _ = await asyncio.wait({task}, timeout=STATEMENT_TIMEOUT_MS / 1000)
        if done:
            return task.result()
    except TimeoutError:
        pass
    finally:
        task.cancel()
    raise StoreUnavailable("The database does not answer; the data is kept in the log and will be shown once it does.")
