"""What the log holds, and what the engine makes of it: the words every room shares.

A *record* is a trade, a tick, a gap, or a change of the alert rules (of every market, whatever its row says). Records
travel as a `Batch`: one NumPy column per field, one row per record, in log order. Symbols and condition lists are
interned once per process (`Interner`), so that a column of them is one of small integers.

    kind    TRADE                          TICK                       GAP                       RULES
    time    event time                     the feed's time            end of the gap            the feed's time
    ids     trade id, "" without one       ""                         the `Gap`, as JSON        the `RuleChange`

Rows for the database (`WINDOW_ROW` …) are NumPy structured arrays; NaN there is null in the database.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # rules read settings, and not every process that knows a record does
    from tapewatch.rules.change import RuleVersion

E8: Final = 100_000_000  # sizes are counted in units of 1e-8, so that fractional sizes add up exactly
SIZE_E8_MAX: Final = 9_000_000_000_000_000_000
"""The largest size of one record, in 1e-8 units (ninety thousand million); larger is refused as input."""


class Kind(IntEnum):
    """What a row of a batch is."""

    TRADE = 0
    TICK = 1
    GAP = 2
    RULES = 3


class Market(IntEnum):
    """The cluster a record came from. Each has its own connection, clock delay, ticks and sessions."""

    STOCKS = 0
    CRYPTO = 1
    OPTIONS = 2
    FUTURES = 3
    FOREX = 4
    INDICES = 5


class Origin(StrEnum):
    """Where the data came from. Shown wherever a number is shown; never mixed in one log or database."""

    SIMULATED = "SIMULATED"
    REPLAYED = "REPLAYED"
    LIVE = "LIVE"


class Refused(StrEnum):
    """Why a piece of input became no record. Counted by reason; nothing stops."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_EVENT = "unknown_event"
    UNKNOWN_SYMBOL = "unknown_symbol"
    BAD_VALUE = "bad_value"
    REPEATED = "repeated"


class Decision(IntEnum):
    """What the engine did with a trade."""

    APPLIED = 0
    INELIGIBLE = 1
    """Its conditions allow neither price, high/low nor volume; it only moves the watermark."""
    LATE = 2
    """Its pane ended at or before the symbol's watermark: kept in the log, counted, not in the windows."""
    FUTURE = 3
    """Stamped more than `FUTURE_LIMIT` ahead of its receipt: quarantined, moves no watermark."""


class GapState(StrEnum):
    """What a gap record says. Only `OPEN` is news to the engine: a stretch that may lack trades."""

    OPEN = "open"
    ASKED = "asked"
    """The market's next trades of this stretch came by REST, not by the stream."""
    FILLED = "filled"
    """The gap of this stretch has its trades."""
    PARTIAL = "partial"
    """Some of its trades could not be had in time; ``missing`` says whose."""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a market's event time in which trades may be missing, or (same stretch) what became of it."""

    market: Market
    from_ms: int
    to_ms: int
    cause: str
    symbols: list[str]
    state: GapState = GapState.OPEN
    trades: int = 0
    """Trades fetched for it before anything newer was recorded."""
    later: int = 0
    """Trades that were fetched afterwards; those of ended panes are late."""
    missing: list[str] = []
    """Symbols whose trades could not be had; some of them may have come all the same."""

    @property
    def is_open(self) -> bool:
        """A new gap, and no word about an older one."""
        return self.state is GapState.OPEN

    def encode(self) -> str:
        """As kept in ``Batch.ids``."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def decode(text: str) -> Gap:
        """Inverse of `encode`."""
        return msgspec.json.decode(text, type=Gap)


class Interner:
    """Gives equal values one small number each, in order of first sight. Grows only; any thread may add.

    >>> names = Interner()
    >>> names.index("AAPL"), names.index("BTC"), names.index("AAPL")
    (0, 1, 0)
    >>> names.values
    ['AAPL', 'BTC']
    """

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.values: list[Any] = []
        self._lock = Lock()
        self._index: dict[Any, int] = {}
        for value in values:
            self.index(value)

    def index(self, value: Any) -> int:
        """The number of ``value``; a new one if it was never seen."""
        found = self._index.get(value)
        if found is None:
            with self._lock:
                found = self._index.get(value)
                if found is None:
                    found = len(self.values)
                    self.values.append(value)
                    self._index[value] = found
        return found

    def find(self, value: Any) -> int | None:
        """The number of ``value``, or None if it was never seen."""
        return self._index.get(value)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(slots=True)
class Tables:
    """The two interners that give a batch's ``symbols`` and ``conditions`` columns their meaning.

    ``symbols`` holds product symbols (``AAPL``, ``BTC``); ``conditions`` holds tuples of codes, number 0 being the
    empty one. All batches of one process share one `Tables`; adding never changes a number already given.
    """

    symbols: Interner = field(default_factory=Interner)
    conditions: Interner = field(default_factory=lambda: Interner([()]))


RECORD: Final = np.dtype(
    [
        ("kind", "u1"),
        ("market", "u1"),
        ("symbol", "i4"),  # number in Tables.symbols; -1 for what is no trade
        ("time_ms", "i8"),  # event time, Unix ms
        ("received_ns", "i8"),  # stamped by the feed, Unix ns
        ("price", "f8"),
        ("size_e8", "i8"),
        ("exchange", "i2"),
        ("trf", "i2"),
        ("conditions", "i4"),  # number in Tables.conditions
    ]
)
COLUMNS: Final[tuple[str, ...]] = RECORD.names or ()


@dataclass(slots=True)
class Batch:
    """Records in log order, column by column. All columns have the same length, ``len(batch)``.

    ``offset`` is the log offset of row 0 (rows have consecutive offsets), -1 before the log has it.
    ``logged_ns`` is when the log had made it durable (Unix ns), 0 before.
    """

    kind: NDArray[np.uint8]
    market: NDArray[np.uint8]
    symbol: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    received_ns: NDArray[np.int64]
    price: NDArray[np.float64]
    size_e8: NDArray[np.int64]
    exchange: NDArray[np.int16]
    trf: NDArray[np.int16]
    conditions: NDArray[np.int32]
    ids: Sequence[str]
    offset: int = -1
    logged_ns: int = 0

    def __len__(self) -> int:
        return len(self.kind)

    @staticmethod
    def empty() -> Batch:
        """A batch without records."""
        return Batch.of([])

    @staticmethod
    def of(rows: Sequence[tuple[Any, ...]]) -> Batch:
        """Build from one tuple per record, in the order of `COLUMNS` with the id last. For few rows."""
        columns: dict[str, Any] = {
            name: np.array([row[i] for row in rows], dtype=RECORD[name]) for i, name in enumerate(COLUMNS)
        }
        return Batch(**columns, ids=[row[len(COLUMNS)] for row in rows])

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """One batch of all rows, in order. Offset and logging time are the first one's."""
        if len(batches) == 1:
            return batches[0]
        if not batches:
            return Batch.empty()
        columns = {name: np.concatenate([getattr(b, name) for b in batches]) for name in COLUMNS}
        ids = [trade_id for b in batches for trade_id in b.ids]
        return Batch(**columns, ids=ids, offset=batches[0].offset, logged_ns=batches[0].logged_ns)

    def slice(self, start: int, stop: int) -> Batch:
        """Rows [start, stop), sharing memory; the offset moves along."""
        columns = {name: getattr(self, name)[start:stop] for name in COLUMNS}
        offset = self.offset + start if self.offset >= 0 else -1
        return Batch(**columns, ids=self.ids[start:stop], offset=offset, logged_ns=self.logged_ns)

    def take(self, rows: NDArray[np.intp]) -> Batch:
        """The given rows, in the given order, as a new batch without an offset."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return Batch(**columns, ids=[self.ids[i] for i in rows.tolist()])


# --- what the engine gives to the store ------------------------------------------------------------------------

WINDOW_ROW: Final = np.dtype(
    [
        ("symbol", "i4"),
        ("window_start_ms", "i8"),
        ("avg_price", "f8"),
        ("ma_5min", "f8"),
        ("vwap", "f8"),
        ("max_price", "f8"),
        ("min_price", "f8"),
        ("open_price", "f8"),
        ("close_price", "f8"),
        ("total_volume", "f8"),
        ("trade_count", "i8"),
        ("is_final", "?"),
        ("revision", "i8"),
    ]
)
"""A row of `stock_aggregates`, key (symbol, window_start). Meanings: docs/numbers.md."""

BAR_ROW: Final = np.dtype(
    [
        ("symbol", "i4"),
        ("bar_start_ms", "i8"),
        ("open", "f8"),
        ("high", "f8"),
        ("low", "f8"),
        ("close", "f8"),
        ("volume", "f8"),
        ("vwap", "f8"),
        ("trade_count", "i8"),
        ("is_final", "?"),
        ("revision", "i8"),
    ]
)
"""A row of `price_bars`, key (symbol, bar_start): one pane. A pane without a price-eligible trade has none."""

LATEST_ROW: Final = np.dtype(
    [
        ("symbol", "i4"),
        ("market", "u1"),
        ("time_ms", "i8"),  # event time of the last price-eligible trade
        ("received_ns", "i8"),
        ("price", "f8"),
        ("ma_5min", "f8"),  # of the window in progress
        ("total_volume", "f8"),  # of the window in progress
        ("side", "i1"),  # -1 below, +1 above the line by the band, 0 unknown
        ("day_open", "f8"),  # first price of the trading day
        ("day_high", "f8"),
        ("day_low", "f8"),
        ("day_volume", "f8"),
        ("previous_close", "f8"),  # last regular-session price of the trading day before; NaN if not seen
        ("watermark_ms", "i8"),
        ("trades", "i8"),  # counters over the whole log: applied, and the decisions below
        ("ineligible", "i8"),
        ("late", "i8"),
        ("future", "i8"),
        ("unknown_conditions", "i8"),
    ]
)
"""A row of `latest_prices`, key symbol."""

QUALITY_ROW: Final = np.dtype(
    [
        ("symbol", "i4"),
        ("minute_ms", "i8"),
        ("trades", "i8"),  # all five counts are what this commit adds
        ("excluded", "i8"),  # trades that may not set a price
        ("late", "i8"),
        ("future", "i8"),
        ("gap_ms", "i8"),  # time of this minute inside a gap
    ]
)
"""A change to a row of `minute_quality`, key (symbol, minute): every number is an increment."""


class AlertStatus(StrEnum):
    """The life of an alert: provisional, then either confirmed or retracted."""

    PROVISIONAL = "provisional"
    CONFIRMED = "confirmed"
    RETRACTED = "retracted"


class Alert(msgspec.Struct, kw_only=True):
    """One state of one alert; the same ``alert_id`` comes again when its status changes.

    ``offset`` is the log offset of the record that decided this state. ``late`` is true when that trade was
    more than `NEWS_AGE_MAX` old when received, or came by REST (warm-up, backfill): stored and shown, never sent as
    news.
    """

    alert_id: str
    rule: str
    rule_version: str
    kind: str  # golden_cross | death_cross | high_volume
    symbol: str
    direction: int  # +1 above, -1 below, 0 for volume
    status: AlertStatus
    pane_start_ms: int
    triggered_ms: int  # event time of the trade that made it provisional
    decided_ms: int  # event time of the record that decided this status
    price: float
    line: float  # the average, or for volume the threshold
    late: bool
    offset: int
    evidence: dict[str, Any]
    """Plain JSON values: lines before and after, the trade, the band, the quality of the window, the passport."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One message about one state of an alert, for one channel: a row of `notifications`.

    ``id`` is the same however often it is made or sent, so that a receiver can tell a repeat.
    """

    id: str
    alert_id: str
    channel: str  # log | webhook
    event: str  # the alert's status
    payload: dict[str, Any]  # plain JSON values: all that a channel shows


@dataclass(slots=True)
class Changes:
    """All that a commit writes, beside the position: rows whose numbers changed since the commit before.

    ``symbols`` gives the ``symbol`` column of every row array its names. No key comes twice in one array.
    """

    symbols: Sequence[str]
    windows: NDArray[Any]
    bars: NDArray[Any]
    latest: NDArray[Any]
    quality: NDArray[Any]
    alerts: list[Alert]
    gaps: list[Gap]
    rules: list[RuleVersion] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Nothing to write."""
        arrays = (self.windows, self.bars, self.latest, self.quality)
        return not (any(len(a) for a in arrays) or self.alerts or self.gaps or self.rules)
