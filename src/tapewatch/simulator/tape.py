"""What the simulator's server plays: trades of one symbol as columns (`Prints`), and where they come from (`Tape`).

Symbols here are the wire's own: ``AAPL``, ``BTC-USD``. Times are Unix nanoseconds, sizes 1e-8 units; the stream shows
milliseconds (rounded down) and decimal strings, REST nanoseconds. Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapewatch.records import E8, Market

NS_PER_MS: Final = 1_000_000


class StockTrade(msgspec.Struct, omit_defaults=True, tag_field="ev", tag="T"):
    """The stream's `T` event. Absent means empty or unknown."""

    sym: str
    x: int
    i: str
    z: int
    p: float
    s: int
    ds: str
    t: int
    pt: int
    q: int
    c: tuple[int, ...] = ()
    trfi: int | None = None
    trft: int | None = None


class CryptoTrade(msgspec.Struct, omit_defaults=True, tag_field="ev", tag="XT"):
    """The stream's `XT` event."""

    pair: str
    p: float
    t: int
    s: float
    i: str
    x: int
    r: int
    c: tuple[int, ...] = ()


@dataclass(slots=True)
class Prints:
    """Trades of one symbol, sorted by (``time_ns``, ``sequence``), which no two of them share.

    ``conditions`` are numbers of rows of ``condition_table``. ``trf`` is 0 for a trade on an exchange.
    """

    time_ns: NDArray[np.int64]
    participant_ns: NDArray[np.int64]
    trf_ns: NDArray[np.int64]
    price: NDArray[np.float64]
    size_e8: NDArray[np.int64]
    exchange: NDArray[np.int64]
    trf: NDArray[np.int64]
    tape: NDArray[np.int64]
    sequence: NDArray[np.int64]
    conditions: NDArray[np.int32]
    ids: Sequence[str]
    condition_table: Sequence[tuple[int, ...]]

    @staticmethod
    def plain(
        time_ns: NDArray[np.int64],
        price: NDArray[np.float64],
        size_e8: NDArray[np.int64],
        exchange: NDArray[np.int64],
        sequence: NDArray[np.int64],
        conditions: NDArray[np.int32],
        condition_table: Sequence[tuple[int, ...]],
    ) -> Prints:
        """Trades on exchanges of no tape, each with one time, and yet without ids."""
        none = np.zeros(len(time_ns), np.int64)
        return Prints(
            time_ns, time_ns, none, price, size_e8, exchange, none, none, sequence, conditions, [], condition_table
        )

    def __len__(self) -> int:
        return len(self.time_ns)

    def slice(self, start: int, stop: int) -> Prints:
        """Rows [start, stop), sharing memory."""
        columns: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in _COLUMNS}
        return Prints(**columns, condition_table=self.condition_table)

    def between(self, from_ns: int, to_ns: int) -> Prints:
        """Rows with ``from_ns <= time_ns < to_ns``."""
        start, stop = np.searchsorted(self.time_ns, [from_ns, to_ns]).tolist()
        return self.slice(start, stop)

    @staticmethod
    def join(parts: Sequence[Prints]) -> Prints:
        """All rows in order. The parts must follow one another in time and share their condition table."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Prints.empty()
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS if name != "ids"
        }
        ids = [trade_id for part in parts for trade_id in part.ids]
        return Prints(**columns, ids=ids, condition_table=parts[0].condition_table)

    @staticmethod
    def empty() -> Prints:
        """No trade."""
        columns: dict[str, Any] = {name: np.empty(0, np.int64) for name in _COLUMNS if name not in ("ids", "price")}
        return Prints(**columns, price=np.empty(0), ids=[], condition_table=[()])


_COLUMNS: Final = tuple(f.name for f in fields(Prints) if f.name != "condition_table")


class Due(NamedTuple):
    """One event that is to be sent, with what routes it. Compares by time."""

    time_ns: int
    order: int
    symbol: str
    event: Any
    """A `StockTrade` and the like; after some faults a plain JSON value."""


class Tape(Protocol):
    """Where trades come from: the seeded market, or a recording."""

    def universe(self, market: Market) -> Collection[str]:
        """What ``*`` stands for."""

    def trades(self, market: Market, symbol: str, from_ns: int, to_ns: int) -> Prints:
        """Trades with ``from_ns <= time < to_ns``; none for a symbol that is not traded here."""

    def pieces(
        self, market: Market, symbol: str, from_ns: int, to_ns: int, backwards: bool
    ) -> Iterator[tuple[int, int]]:
        """[from, to), as far as there is history, cut into stretches of a moderate size, in the order asked."""

    def due(self, market: Market, symbols: Collection[str], after_ns: int, upto_ns: int) -> list[Due]:
        """Events of trades with ``after_ns < time <= upto_ns``, in the order of time."""

    def step_end(self, after_ns: int, upto_ns: int) -> int:
        """Where to stop on the way from ``after_ns`` to ``upto_ns``, so that no step sends too much at once."""

    def prepare(self, market: Market, symbols: Collection[str], at_ns: int) -> bool:
        """Use an idle moment for what is needed soon after ``at_ns``; False if there is nothing to do."""


_CONTRACT: Final = re.compile(r"[A-Z0-9]{1,4}[FGHJKMNQUVXZ][0-9]{1,2}")


def listed(ticker: str) -> tuple[Market, str]:
    """Where REST and flat files' ``ticker`` is traded, and what the stream calls it.

    >>> listed("AAPL"), listed("X:BTC-USD") == listed("X:BTCUSD"), listed("C:EURUSD"), listed("ESZ5")
    ((<Market.STOCKS: 0>, 'AAPL'), True, (<Market.FOREX: 4>, 'EUR/USD'), (<Market.FUTURES: 3>, 'ESZ5'))
    """
    prefix, _, rest = ticker.rpartition(":")
    match prefix:
        case "X":
            return Market.CRYPTO, rest if "-" in rest else f"{rest[:-3]}-{rest[-3:]}"
        case "C":
            return Market.FOREX, rest.replace("-", "/") if "-" in rest else f"{rest[:-3]}/{rest[-3:]}"
        case "O":
            return Market.OPTIONS, ticker
        case "I":
            return Market.INDICES, ticker
    return (Market.FUTURES if _CONTRACT.fullmatch(ticker) else Market.STOCKS), ticker


def ticker_of(market: Market, symbol: str) -> str:
    """What REST calls the stream's ``symbol``.

    >>> ticker_of(Market.CRYPTO, "BTC-USD"), ticker_of(Market.FOREX, "EUR/USD"), ticker_of(Market.STOCKS, "A")
    ('X:BTCUSD', 'C:EURUSD', 'A')
    """
    if market is Market.CRYPTO:
        return f"X:{symbol.replace('-', '')}"
    return f"C:{symbol.replace('/', '')}" if market is Market.FOREX else symbol


@lru_cache(maxsize=4096)
def decimal_text(size_e8: int) -> str:
    """A size as the stream writes it.

    >>> decimal_text(100 * E8), decimal_text(25_000_000), decimal_text(0)
    ('100.0', '0.25', '0.0')
    """
    whole, part = divmod(size_e8, E8)
    return f"{whole}.{f'{part:08d}'.rstrip('0') or '0'}"


def stock_events(symbol: str, prints: Prints) -> list[StockTrade]:
    """The `T` events of ``prints``, row by row."""
    table = prints.condition_table
    return [
        StockTrade(
            sym=symbol,
            x=x,
            i=i,
            z=z,
            p=p,
            s=size_e8 // E8,
            ds=decimal_text(size_e8),
            t=time_ns // NS_PER_MS,
            pt=participant_ns // NS_PER_MS,
            q=q,
            c=table[conditions],
            trfi=trf or None,
            trft=trf_ns // NS_PER_MS if trf else None,
        )
        for time_ns, participant_ns, trf_ns, p, size_e8, x, trf, z, q, conditions, i in rows(prints)
    ]


def crypto_events(symbol: str, prints: Prints) -> list[CryptoTrade]:
    """The `XT` events of ``prints``, row by row."""
    table = prints.condition_table
    return [
        CryptoTrade(
            pair=symbol,
            p=p,
            t=time_ns // NS_PER_MS,
            s=size_e8 / E8,
            i=i,
            x=x,
            r=max(time_ns, participant_ns) // NS_PER_MS,
            c=table[conditions],
        )
        for time_ns, participant_ns, _, p, size_e8, x, _, _, _, conditions, i in rows(prints)
    ]


def rows(prints: Prints) -> Iterator[tuple[Any, ...]]:
    """One tuple per trade, in the order of the fields of `Prints`, without the condition table."""
    columns = [getattr(prints, name).tolist() for name in _COLUMNS if name != "ids"]
    return zip(*columns, prints.ids, strict=True)
