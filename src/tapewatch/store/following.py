"""What others have committed since the last look: for a process that shows the database but does not write it.

    state()    how far each lane is, and a few totals: one short query, whatever has happened
    changes()  the rows that were written since the `changes` before, the newest value of each

Nothing is missed: a row counts as new unless the transaction that wrote it had ended before the last look began. A few
rows are read twice, and are given out only if they differ. Whoever commits says so (`NOTIFY tapewatch_commit`), and
`wait` returns at once; without that word, ask now and then. One connection, for one thread; a lost one is opened again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import psycopg

from tapewatch.errors import StoreError, StoreUnavailable
from tapewatch.records import Alert, AlertStatus, Market
from tapewatch.settings import STATEMENT_TIMEOUT_MS, STREAM_ALERTS_MAX, STREAM_BARS_MAX
from tapewatch.store import questions
from tapewatch.store.connect import open_connection, place

__all__ = ["Following", "Found", "State"]

_OVERLAP_S: Final = 30.0
"""An alert's row says when it was written, not when that was committed: a transaction may take so long in between."""
_NEW_S: Final = 2.0
"""The first look gives out alerts that are younger than this: older ones are in the answer a page begins with."""
_SEEN_MAX: Final = 4 * STREAM_ALERTS_MAX
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class State:
    """How the database is. Positions are next offsets of the log, by lane; the times of trades are Unix ns."""

    lanes: dict[str, int]
    log_id: str
    """Of the log that the rows were computed from; empty when there are none."""
    origin: str
    """Of those rows, as `records.Origin` spells it."""
    trades: int
    """Trades of the whole log, whatever was decided about them."""
    gaps: int
    last_trade_ns: dict[Market, int]
    alerted_us: int
    """When the newest state of an alert was written, Unix µs; 0 without any."""
    mark: str
    """The oldest transaction that had not ended."""

    @property
    def position(self) -> int:
        """Records consumed, over all lanes."""
        return sum(self.lanes.values())


@dataclass(slots=True)
class Found:
    """Rows that are new: of prices and bars (symbol, values) as `records` orders them, bars with their average."""

    prices: list[tuple[str, Values]] = field(default_factory=list)
    bars: list[tuple[str, Values]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


class Following:
    """Follows one database. `close` it; it may be used again afterwards."""

    def __init__(self, conninfo: str, *, window_ms: int, slide_ms: int, watermark_delay_ms: int) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection | None = None
        self._window_ms = window_ms
        self._slide_ms = slide_ms
        self._open_ms = watermark_delay_ms + slide_ms
        """A bar may change while a trade so much before the symbol's last one is still taken."""
        self.forget()

    def forget(self) -> None:
        """The next `changes` gives everything as it is, and only alerts of the last moment."""
        self._mark = ""
        self._prices: dict[str, Values] = {}
        self._bars: dict[str, dict[int, Values]] = {}
        self._alerts: dict[tuple[str, str], None] = {}
        self._since_s = time.monotonic() - _NEW_S
        self._looked_s = self._since_s

    def wait(self, timeout_s: float) -> bool:
        """Whether somebody has committed; waits for it for a while.

        Raises:
            StoreUnavailable, StoreError: the connection is gone, or cannot be opened.
        """
        with self._answering() as connection:
            return any(True for _ in connection.notifies(timeout=timeout_s, stop_after=1))

    def state(self) -> State:
        """How the database is now.

        Raises:
            StoreUnavailable, StoreError: no answer.
        """
        with self._answering() as connection:
            row = connection.execute(questions.FOLLOW_STATE, prepare=True, binary=True).fetchone()
        assert row is not None, "a query without FROM has one row"
        lanes, positions, log_id, origin, trades, gaps, markets, newest_us, alerted_us, mark = row
        newest = zip(markets or [], newest_us or [], strict=True)
        return State(
            lanes=dict(zip(lanes or [], positions or [], strict=True)),
            log_id=log_id or "",
            origin=origin or "",
            trades=trades,
            gaps=gaps,
            last_trade_ns={Market[name.upper()]: us * 1_000 for name, us in newest if us},
            alerted_us=alerted_us or 0,
            mark=str(int(mark) % 2**32),
        )

    def changes(self, state: State) -> Found:
        """What is new since the call before; ``state`` was read just now.

        Raises:
            StoreUnavailable, StoreError: no answer; the next call gives it all.
        """
        found = Found()
        looked_s = time.monotonic()
        with self._answering() as connection:
            mark = self._mark
            values = {"mark": mark or state.mark, "all": not mark}
            rows = connection.execute(questions.FOLLOW_PRICES, values, prepare=True, binary=True).fetchall()
            bars = self._read_bars(connection, rows)
            values = {"age_s": looked_s - self._looked_s + _OVERLAP_S, "limit": STREAM_ALERTS_MAX}
            alerts = connection.execute(questions.FOLLOW_ALERTS, values, prepare=True, binary=True).fetchall()
        found.prices = [(row[0], row) for row in rows if self._prices.get(row[0]) != row]
        self._prices.update(found.prices)
        found.bars = list(self._new_bars(bars))
        found.alerts = list(self._new_alerts(alerts, looked_s))
        self._mark, self._looked_s = state.mark, looked_s
        return found

    def _read_bars(self, connection: psycopg.Connection, prices: list[Values]) -> list[Values]:
        """The bars that may have changed with these prices, newest first."""
        symbols, from_ms = [], []
        for row in prices:
            symbol, before = row[0], self._prices.get(row[0])
            since_ms = int(before[2] if before is not None else row[2])
            open_ms = (start for start, bar in self._bars.get(symbol, {}).items() if not bar[9])
            symbols.append(symbol)
            from_ms.append(min([since_ms, *open_ms]) - self._open_ms)
        if not symbols:
            return []
        values = {
            "symbols": symbols,
            "from_ms": from_ms,
            "oldest_ms": min(from_ms),
            "window_less_slide_ms": self._window_ms - self._slide_ms,
            "limit": STREAM_BARS_MAX,
        }
        return connection.execute(questions.FOLLOW_BARS, values, prepare=True, binary=True).fetchall()

    def _new_bars(self, rows: list[Values]) -> Iterator[tuple[str, Values]]:
        """Those not given out before, oldest first. Known ones that cannot change any more are forgotten."""
        given: dict[str, dict[int, Values]] = {}
        for row in reversed(rows):
            symbol, start_ms = row[0], row[1]
            given.setdefault(symbol, {})[start_ms] = row
            if self._bars.get(symbol, {}).get(start_ms) != row:
                yield symbol, row
        self._bars.update(given)

    def _new_alerts(self, rows: list[Values], now_s: float) -> Iterator[Alert]:
        """States not given out before. One that went by between two looks is made from what the row says of it."""
        for *values, evidence, changed_s, stored_s in rows:
            alert = Alert(**dict(zip(_ALERT, values, strict=True)), evidence={})
            alert.status = AlertStatus(alert.status)
            said = msgspec.json.decode(evidence)
            first = msgspec.structs.replace(alert, status=AlertStatus.PROVISIONAL, decided_ms=alert.triggered_ms)
            states = [(alert, changed_s)] if alert.status == first.status else [(first, stored_s), (alert, changed_s)]
            for state, age_s in states:
                key = (state.alert_id, str(state.status))
                if key in self._alerts:
                    continue
                self._alerts[key] = None
                if age_s <= now_s - self._since_s and (state is alert or key[1] in said):
                    state.evidence = {key[1]: said[key[1]]} if key[1] in said else said
                    yield state
        while len(self._alerts) > _SEEN_MAX:
            del self._alerts[next(iter(self._alerts))]

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            connection = open_connection(self._conninfo, "tapewatch follower")
            connection.execute(questions.SESSION, (str(STATEMENT_TIMEOUT_MS),))
            connection.execute(questions.FOLLOW)
            self._connection = connection
        return self._connection

    @contextmanager
    def _answering(self) -> Iterator[psycopg.Connection]:
        try:
            yield self._connected()
        except psycopg.Error as error:
            self.close()
            if error.sqlstate is not None and error.sqlstate[:2] == "42":
                raise self._incomplete(error) from None
            said = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            raise StoreUnavailable(f"The database at {place(self._conninfo)} does not answer: {said}.") from None

    def _incomplete(self, error: psycopg.Error) -> StoreError:
        said = str(error).strip().split("\n")[0].rstrip(".")
        return StoreError(
            f"The database at {place(self._conninfo)} lacks something of ours: {said}. "
            "Complete its tables: tapewatch init-db."
        )


_ALERT: Final = [name for name in Alert.__struct_fields__ if name != "evidence"]
