"""Frames of the exchange to columns: the only place that reads what the exchange wrote.

The exchange is untrusted input. Nothing it sends can raise here: every event becomes a record or one count of a
`Refused` reason, and one bad event never costs its neighbours. A frame is read in the first way that takes it:

1. *scan*: trades as they normally come, in one pass over the bytes of all waiting frames (`scan.py`)
2. *read*: any JSON; each event is read field by field (`events.py`), so odd but readable values are taken
3. *split*: bytes that are no JSON as a whole are cut at their brackets, and each piece is read alone

Symbols that are not wanted or no names, and condition lists beyond what `Tables` may hold, are refused last.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapewatch.feed.conditions import VERDICT, ConditionTable
from tapewatch.feed.events import Trade, read_event
from tapewatch.feed.names import NameTable, codes_key, symbol_key
from tapewatch.feed.scan import scan
from tapewatch.feed.symbols import market_of, product_symbol, wire_symbol
from tapewatch.records import Batch, Kind, Market, Refused, Tables
from tapewatch.settings import CONDITION_LISTS_MAX, FRAME_BYTES_MAX, SYMBOLS_MAX

__all__ = ["Decoded", "Decoder"]

_CACHE_MAX: Final = 65_536
"""Distinct symbols, or condition lists, whose number is remembered between calls."""
_LOOSE_BYTES_MAX: Final = 1 << 20
"""A larger frame that is not all trades is read piece by piece, so that it is never held whole as Python objects."""
_BARS: Final = frozenset({"A", "AM", "XAS", "XA", "CAS", "CA"})
_BAD: Final = -1
_UNWANTED: Final = -2
_REASON: Final = {_BAD: Refused.BAD_VALUE, _UNWANTED: Refused.UNKNOWN_SYMBOL}
"""What the negative numbers among symbols and condition lists mean."""

_WIRE_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Za-z0-9._/:-]{0,31}")
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]++|[\]}]++', re.DOTALL)
_SPACE_AND_COMMAS: Final = b" \t\r\n,"
_ANY: Final = msgspec.json.Decoder(Any)
_PARSE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Decoded:
    """What came out of some frames: the records in order of arrival, and the count of what became none."""

    batch: Batch
    refused: Counter[Refused] = field(default_factory=Counter)
    aside: list[tuple[Market, dict[str, Any]]] = field(default_factory=list)
    """Bars that are only to be compared."""


class Decoder:
    """Decodes frames; remembers the numbers of symbols and condition lists it has seen.

    ``wanted`` are product symbols (None: all); trades of others are refused as `UNKNOWN_SYMBOL`. Only one thread may
    use it, the one that owns ``tables``.
    """

    def __init__(
        self, tables: Tables, wanted: Collection[str] | None = None, conditions: ConditionTable | None = None
    ) -> None:
        self.aside: set[Market] = set()
        """Markets whose bars are put aside: they say again what the trades have said."""
        self._conditions = conditions
        self._aside: list[tuple[Market, dict[str, Any]]] = []
        self._tables = tables
        self._wanted = None if wanted is None else frozenset(wanted)
        self._symbols: dict[tuple[int, str], int] = {}
        self._codes: dict[tuple[int, ...], int] = {}
        # The same for compiled code.
        self._symbol_table = NameTable()
        self._codes_table = NameTable()
        for name in dict.fromkeys(wanted or ()):
            # Or each one's first frame would have to be read the slow way.
            self._learn_symbol(market_of(name), wire_symbol(name))

    def want(self, wanted: Collection[str] | None) -> None:
        """From now on these product symbols are wanted, and no others (None: all)."""
        self._wanted = None if wanted is None else frozenset(wanted)
        self._symbols, self._symbol_table = {}, NameTable()
        for name in sorted(self._wanted or ()):
            self._learn_symbol(market_of(name), wire_symbol(name))

    def judge_by(self, conditions: ConditionTable) -> None:
        """From now on condition codes mean what this table says."""
        self._conditions = conditions
        self._codes, self._codes_table = {}, NameTable()

    def decode(self, frames: Sequence[tuple[Market, bytes, int]]) -> Decoded:
        """All records of some frames ``(market, data, received_ns)``, in order. Never raises on what they hold."""
        refused: Counter[Refused] = Counter()
        kept = [data if len(data) <= FRAME_BYTES_MAX else b"" for _, data, _ in frames]
        data = np.frombuffer(b"\0".join([*kept, b""]), np.uint8)
        stops = np.cumsum(np.array([len(one) + 1 for one in kept], np.int64)) - 1
        markets = np.array([market for market, _, _ in frames], np.uint8)
        received_ns = np.array([at_ns for _, _, at_ns in frames], np.int64)
        found = scan(data, stops, markets, self._symbol_table, self._codes_table)
        scanned, left = np.flatnonzero(found.rows >= 0), np.flatnonzero(found.rows < 0)
        frame = np.repeat(scanned, found.rows[scanned])  # of each row
        batch = Batch(
            kind=np.full(len(frame), Kind.TRADE, np.uint8),
            market=markets[frame],
            symbol=found.symbol,
            time_ms=found.time_ms,
            received_ns=received_ns[frame],
            price=found.price,
            size_e8=found.size_e8,
            exchange=found.exchange,
            trf=found.trf,
            conditions=found.conditions,
            ids=found.ids,
        )
        if len(left):
            read = [list(self._read(frames[at][0], _events(frames[at][1]), refused)) for at in left.tolist()]
            others = np.repeat(left, [len(trades) for trades in read])
            trades = [trade for one in read for trade in one]
            batch = Batch.join([batch, self._batch(trades, markets[others], received_ns[others])])
            batch = batch.take(np.argsort(np.concatenate([frame, others]), kind="stable"))
        aside, self._aside = self._aside, []
        return Decoded(_allowed(batch, refused), refused, aside)

    def decode_events(self, market: Market, events: Iterable[Any], received_ns: int) -> Decoded:
        """The same for events that are Python objects already (REST results in the stream's field names)."""
        refused: Counter[Refused] = Counter()
        trades = list(self._read(market, events, refused))
        n = len(trades)
        batch = self._batch(trades, np.full(n, market, np.uint8), np.full(n, received_ns, np.int64))
        return Decoded(_allowed(batch, refused), refused)

    def _read(self, market: Market, events: Iterable[Any], refused: Counter[Refused]) -> Iterator[Trade]:
        """The trades of events that are any JSON value, or the reason why they are none."""
        for event in events:
            if market in self.aside and isinstance(event, dict) and str(event.get("ev")) in _BARS:
                self._aside.append((market, event))
                continue
            found = event if isinstance(event, Refused) else read_event(market, event)
            if not isinstance(found, Refused) and len(found) > 1:
                # A bar that is refused for its symbol is refused once and not part by part.
                self._learn([market], found[:1])
                if (symbol := self._symbols[market, found[0].symbol]) < 0:
                    found = _REASON[symbol]
            if isinstance(found, Refused):
                refused[found] += 1
            else:
                yield from found

    def _batch(self, trades: Sequence[Trade], markets: NDArray[np.uint8], received_ns: NDArray[np.int64]) -> Batch:
        n = len(trades)
        of = markets.tolist()
        self._learn(of, trades)
        return Batch(
            kind=np.full(n, Kind.TRADE, np.uint8),
            market=markets,
            symbol=np.fromiter([self._symbols[key, t.symbol] for key, t in zip(of, trades, strict=True)], np.int32, n),
            time_ms=np.fromiter([t.time_ms for t in trades], np.int64, n),
            received_ns=received_ns,
            price=np.fromiter([t.price for t in trades], np.float64, n),
            size_e8=np.fromiter([t.size_e8 for t in trades], np.int64, n),
            exchange=np.fromiter([t.exchange for t in trades], np.int16, n),
            trf=np.fromiter([t.trf for t in trades], np.int16, n),
            conditions=np.fromiter([self._codes[t.conditions] for t in trades], np.int32, n),
            ids=[t.trade_id for t in trades],
        )

    def _learn(self, markets: Iterable[int], trades: Iterable[Trade]) -> None:
        """Give every symbol and condition list of ``trades`` its number; a negative one means refused."""
        if len(self._symbols) > _CACHE_MAX:
            self._symbols, self._symbol_table = {}, NameTable()
        if len(self._codes) > _CACHE_MAX:
            self._codes, self._codes_table = {}, NameTable()
        for market, trade in zip(markets, trades, strict=True):  # in order of first sight: equal input, equal numbers
            self._learn_symbol(market, trade.symbol)
            if trade.conditions not in self._codes:
                number = self._codes[trade.conditions] = self._codes_number(trade.conditions)
                if (key := codes_key(trade.conditions)) is not None:
                    self._codes_table.add(key, number)

    def _learn_symbol(self, market: int, wire: str) -> None:
        if (market, wire) not in self._symbols:
            number = self._symbols[market, wire] = self._symbol_number(market, wire)
            if (key := symbol_key(market, wire)) is not None:
                self._symbol_table.add(key, number)

    def _symbol_number(self, market: int, wire: str) -> int:
        if _WIRE_SYMBOL.fullmatch(wire) is None:
            return _BAD
        name = product_symbol(wire)
        if self._wanted is not None and name not in self._wanted:
            return _UNWANTED
        if market_of(name) != market:
            return _UNWANTED  # such as a stock with the name of a coin, which is the coin's here
        known = self._tables.symbols.find(name)
        if known is None and len(self._tables.symbols) >= SYMBOLS_MAX:
            return _UNWANTED
        return self._tables.symbols.index(name)

    def _codes_number(self, codes: tuple[int, ...]) -> int:
        if codes and max(codes) >= VERDICT:
            return _BAD  # these are ours
        codes = codes if self._conditions is None else self._conditions.stamped(codes)
        known = self._tables.conditions.find(codes)
        if known is None and len(self._tables.conditions) >= CONDITION_LISTS_MAX:
            return _BAD
        return self._tables.conditions.index(codes)


def _allowed(batch: Batch, refused: Counter[Refused]) -> Batch:
    """The rows whose symbol and condition list are not refused; the others are counted."""
    if len(batch) == 0 or min(batch.symbol.min(), batch.conditions.min()) >= 0:
        return batch
    reason = np.where(batch.symbol < 0, batch.symbol, np.minimum(batch.conditions, 0))
    refused.update(_REASON[number] for number in reason[reason < 0].tolist())
    return batch.take(np.flatnonzero(reason == 0))


def _events(data: bytes) -> Iterable[Any]:
    """The events of any frame, each as any JSON value, or as the `Refused` reason why it is none."""
    if len(data) > FRAME_BYTES_MAX:
        return [Refused.TOO_LARGE]
    if len(data) <= _LOOSE_BYTES_MAX:
        try:
            events = _ANY.decode(data)
        except _PARSE_ERRORS:
            pass  # no JSON as a whole: cut it
        else:
            return events if isinstance(events, list) else [events]
    return map(_event, _pieces(data))


def _event(piece: bytes) -> Any:
    try:
        return _ANY.decode(piece)
    except _PARSE_ERRORS:
        return Refused.MALFORMED


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut ``data`` into the elements of its outermost array, whatever is inside them; what is left over comes too.

    >>> list(_pieces(b'[{"a": NaN}, oops, {"b": [1, "]"]}, {"c"'))
    [b'{"a": NaN}', b'oops', b'{"b": [1, "]"]}', b'{"c"']
    """
    array = data.lstrip().startswith(b"[")  # else the whole is one piece
    start = data.find(b"[") + 1 if array else 0
    depth, begin = 0, start
    for token in _TOKEN.finditer(data, start):
        first = data[token.start()]
        if first in b"[{":
            if depth == 0:
                yield from _left_over(data[begin : token.start()])
                begin = token.start()
            depth += token.end() - token.start()
        elif first in b"]}":
            # A run of closers may close the event and the array at once.
            closed = token.end() - token.start()
            if closed >= depth > 0:
                end = token.start() + depth
                yield data[begin:end]
                begin = end
            depth = max(0, depth - closed)
    rest = data[begin:].strip(_SPACE_AND_COMMAS)
    if begin == start:
        yield rest or data  # nothing but junk, which is the one piece
    elif rest != b"]":
        yield from _left_over(rest)


def _left_over(between: bytes) -> Iterator[bytes]:
    rest = between.strip(_SPACE_AND_COMMAS)
    if rest:
        yield rest
