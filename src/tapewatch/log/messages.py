"""Records as messages of the Kafka topic `raw-trades`, and back. See docs/deployment.md for the format.

    trade   key = symbol   {"symbol":"AAPL","price":190.12,"volume":100,"timestamp":1763658000123, …}
    tick    no key         {"kind":"tick","market":"stocks","timestamp":…,"received_at":…, …}             in every lane
    gap     no key         {"kind":"gap","market":"stocks","from":…,"to":…,"cause":…,"symbols":[…], …}     in every lane
    rules   no key         {"kind":"rules","timestamp":…,"who":"file","rules":{…}, …}                     in every lane

A *lane* is one partition. The four fields of the trade are enough, as when a person types one; the others are optional:
``exchange``, ``trf``, ``trade_id``, ``conditions``, ``received_at`` (Unix ns), ``source``, ``raw``. A trade that does
not say when it was received was received when Kafka appended it. Volumes are exact to 1e-8: a number where that can say
it, else a decimal string. Condition codes are those of stocks; other markets have no rules, so theirs are dropped.

Messages are untrusted input: nothing here raises on what a message holds. One that cannot be read is a `Rejected`, with
a reason for people, and costs its neighbours nothing.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapewatch.log.outgoing import SOURCES, encode_messages
from tapewatch.log.words import SYMBOL, TIME_EXPECTED, shown, word_row
from tapewatch.records import Batch, Kind, Market, Origin, Tables
from tapewatch.settings import CONDITION_LISTS_MAX, MESSAGE_BYTES_MAX, SYMBOLS_MAX
from tapewatch.values import (
    ID_LENGTH_MAX,
    OWN_CODES,
    condition_codes,
    parse_size_e8,
    price_of,
    size_e8_of,
    small_of,
    time_ms_of,
    trade_id_of,
)

__all__ = ["SOURCES", "Decoded", "MessageDecoder", "Rejected", "encode_messages", "origin_of"]

_ORIGINS: Final = {source: origin for origin, source in SOURCES.items()}
_CACHE_MAX: Final = 65_536
_OPEN, _CLOSE = b"{}"
_ALONE_MAX: Final = 32
"""So few messages, one of which is no plain trade, are read one by one."""
_TOGETHER_MAX: Final = 4000
"""So many are read together: what they become stays in the processor's cache."""
_NO_TRADE: Final = b'{"kind":'
"""How our own ticks, gaps and rules begin."""
_NS_MIN, _NS_MAX = 10**17, 10**19 // 2
_ANY: Final = msgspec.json.Decoder(Any)
_PARSE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def origin_of(source: str) -> Origin:
    """The origin that a message's ``source`` means; a source of nobody's knowing is somebody's own live feed."""
    return _ORIGINS.get(source, Origin.LIVE)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is no record. ``row`` is its place among those given; the reason is a sentence for people."""

    row: int
    reason: str


@dataclass(slots=True)
class Decoded:
    """What some messages hold: the records of ``rows`` (places among those given), in order, and the rejected ones."""

    batch: Batch
    rows: NDArray[np.int64]
    rejected: list[Rejected]
    source: str
    """Of the last message that names one; empty without any."""


class _Found:
    """What was read so far."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.rows: list[int] = []
        self.rejected: list[Rejected] = []
        self.source = ""

    def add(self, batch: Batch, rows: Iterable[int], source: str) -> None:
        self.batches.append(batch)
        self.rows += rows
        self.source = source or self.source


class _Message(msgspec.Struct, gc=False):
    """A trade as `encode_messages` writes it. Anything else is read with more care."""

    symbol: str
    price: float
    volume: int | float | str
    timestamp: int
    exchange: int = 0
    trf: int = 0
    trade_id: str = ""
    conditions: tuple[int, ...] = ()
    received_at: int = 0
    source: str = ""
    kind: str = "trade"


_QUICK: Final = msgspec.json.Decoder(_Message)
_SYMBOL_OF, _PRICE_OF, _VOLUME_OF, _TIME_OF = map(attrgetter, ("symbol", "price", "volume", "timestamp"))
_EXCHANGE_OF, _TRF_OF, _ID_OF, _CODES_OF = map(attrgetter, ("exchange", "trf", "trade_id", "conditions"))
_RECEIPT_OF, _KIND_OF = map(attrgetter, ("received_at", "kind"))
_TRADES_ONLY: Final = {"trade"}
_Row = tuple[Any, ...]


class MessageDecoder:
    """Messages to records. ``market_of`` says where a symbol trades."""

    def __init__(self, tables: Tables, market_of: Callable[[str], Market]) -> None:
        self._tables = tables
        self._market_of = market_of
        self._symbols: dict[str, tuple[int, int] | None] = {}
        self._codes: dict[tuple[int, ...], int | None] = {}
        self._sizes: dict[int | float | str, int] = {}

    def decode(self, values: Sequence[bytes | None], appended_ms: Sequence[int]) -> Decoded:
        """The records of messages that Kafka appended at ``appended_ms`` (Unix ms), in order. Never raises on them."""
        out = _Found()
        start = 0
        for stop in [i for i, value in enumerate(values) if value is None or value.startswith(_NO_TRADE)]:
            self._runs(values, appended_ms, start, stop, out)
            self._one(values, appended_ms, stop, out)
            start = stop + 1
        self._runs(values, appended_ms, start, len(values), out)
        return Decoded(Batch.join(out.batches), np.array(out.rows, np.int64), out.rejected, out.source)

    def _runs(
        self, values: Sequence[bytes | None], appended_ms: Sequence[int], start: int, stop: int, out: _Found
    ) -> None:
        for first in range(start, stop, _TOGETHER_MAX):
            self._run(values, appended_ms, first, min(first + _TOGETHER_MAX, stop), out)

    def _run(
        self, values: Sequence[bytes | None], appended_ms: Sequence[int], start: int, stop: int, out: _Found
    ) -> None:
        """Messages [start, stop): together if they are plain trades, else in halves, the last few one by one."""
        if start == stop:
            return
        if (batch := self._quick(values[start:stop], appended_ms[start:stop])) is not None:
            out.add(batch[0], range(start, stop), batch[1])
        elif stop - start > _ALONE_MAX:
            middle = (start + stop) // 2
            self._run(values, appended_ms, start, middle, out)
            self._run(values, appended_ms, middle, stop, out)
        else:
            for place in range(start, stop):
                self._one(values, appended_ms, place, out)

    def _one(self, values: Sequence[bytes | None], appended_ms: Sequence[int], place: int, out: _Found) -> None:
        found = self._careful(values[place], appended_ms[place])
        if isinstance(found, str):
            out.rejected.append(Rejected(place, found))
        else:
            out.add(Batch.of([found[0]]), (place,), found[1])

    def _quick(self, values: Sequence[bytes | None], appended_ms: Sequence[int]) -> tuple[Batch, str] | None:
        """All of them as plain trades; None unless each is one beyond doubt."""
        lengths = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
        if lengths.max() > MESSAGE_BYTES_MAX:
            return None
        # As lines, each from { to }, without a line's end inside: else parts of messages could make up for one another.
        lines = b"\n".join(values)  # type: ignore[arg-type]
        if lines.count(b"\n") != len(values) - 1 or not _are_objects(lines, lengths):
            return None
        try:
            found = _QUICK.decode_lines(lines)
        except _PARSE_ERRORS:
            return None
        if len(found) != len(values):
            return None
        n = len(found)
        numbers = _looked_up(self._symbols, list(map(_SYMBOL_OF, found)), self._learn_symbol)
        codes = _looked_up(self._codes, list(map(_CODES_OF, found)), self._learn_codes)
        if None in numbers or None in codes or not _TRADES_ONLY.issuperset(map(_KIND_OF, found)):
            return None
        sizes = _looked_up(self._sizes, list(map(_VOLUME_OF, found)), self._learn_size)
        try:
            columns: dict[str, Any] = {
                "price": np.fromiter(map(_PRICE_OF, found), np.float64, n),
                "time_ms": np.fromiter(map(_TIME_OF, found), np.int64, n),
                "received_ns": np.fromiter(map(_RECEIPT_OF, found), np.int64, n),
                "size_e8": np.fromiter(sizes, np.int64, n),
                "exchange": np.fromiter(map(_EXCHANGE_OF, found), np.int16, n),
                "trf": np.fromiter(map(_TRF_OF, found), np.int16, n),
            }
        except OverflowError:
            return None
        ids = list(map(_ID_OF, found))
        received_ns = columns["received_ns"]
        if not received_ns.all():
            received_ns[:] = np.where(received_ns == 0, np.asarray(appended_ms, np.int64) * 1_000_000, received_ns)
        market, conditions = np.fromiter(map(itemgetter(1), numbers), np.uint8, n), np.fromiter(codes, np.int32, n)
        if not _is_plain(columns, ids) or conditions[market != Market.STOCKS].any():
            return None
        batch = Batch(
            kind=np.full(n, Kind.TRADE, np.uint8),
            market=market,
            symbol=np.fromiter(map(itemgetter(0), numbers), np.int32, n),
            conditions=conditions,
            ids=ids,
            **columns,
        )
        return batch, next((m.source for m in reversed(found) if m.source), "")

    def _careful(self, value: bytes | None, appended_ms: int) -> tuple[_Row, str] | str:
        """One message, field by field: its record and its source, or why it is none."""
        if value is None:
            return "it has no value"
        if len(value) > MESSAGE_BYTES_MAX:
            return f"it has {len(value)} bytes; at most {MESSAGE_BYTES_MAX} are read"
        try:
            fields = _ANY.decode(value)
        except _PARSE_ERRORS as error:
            return f"it is no JSON: {str(error)[:100]}"
        if not isinstance(fields, dict):
            return "it is no JSON object"
        kind = fields.get("kind", "trade")
        received_ns = fields.get("received_at") or appended_ms * 1_000_000
        if isinstance(received_ns, bool) or not isinstance(received_ns, int) or not _NS_MIN <= received_ns <= _NS_MAX:
            return f"received_at={shown(fields.get('received_at'))}: expected Unix nanoseconds"
        source = str(fields.get("source") or "")
        if kind == "trade":
            row = self._trade(fields, received_ns)
            return row if isinstance(row, str) else (row, source)
        row = word_row(kind, fields, received_ns)
        return row if isinstance(row, str) else (row, source)

    def _trade(self, fields: dict[str, Any], received_ns: int) -> _Row | str:
        symbol = self._symbol(fields.get("symbol"))
        read: dict[str, Any] = {
            "symbol": symbol,
            "price": price_of(fields.get("price")),
            "volume": size_e8_of(None, fields.get("volume")),
            "timestamp": time_ms_of(fields.get("timestamp")),
            "exchange": small_of(fields.get("exchange")),
            "trf": small_of(fields.get("trf")),
            "trade_id": trade_id_of(fields.get("trade_id")),
            "conditions": self._codes_of(fields.get("conditions"), symbol is None or symbol[1] == Market.STOCKS),
        }
        for name, value in read.items():
            if value is None:
                return f"{name}={shown(fields.get(name))}: {_EXPECTED[name]}"
        number, market = read["symbol"]
        return (
            Kind.TRADE, market, number, read["timestamp"], received_ns, read["price"], read["volume"],
            read["exchange"], read["trf"], read["conditions"], read["trade_id"],
        )  # fmt: skip

    def _symbol(self, name: Any) -> tuple[int, int] | None:
        if not isinstance(name, str):
            return None
        number: tuple[int, int] | None = _looked_up(self._symbols, [name], self._learn_symbol)[0]
        return number

    def _codes_of(self, value: Any, has_rules: bool) -> int | None:
        codes = condition_codes(value, OWN_CODES)
        if codes is None:
            return None
        kept = codes if has_rules else tuple(code for code in codes if code in OWN_CODES)
        number: int | None = _looked_up(self._codes, [kept], self._learn_codes)[0]
        return number

    def _learn_symbol(self, name: str) -> None:
        known = self._tables.symbols.find(name)
        has_room = known is not None or len(self._tables.symbols) < SYMBOLS_MAX
        is_good = SYMBOL.fullmatch(name) is not None and has_room
        self._symbols[name] = (self._tables.symbols.index(name), int(self._market_of(name))) if is_good else None

    def _learn_codes(self, codes: tuple[int, ...]) -> None:
        known = self._tables.conditions.find(codes)
        is_good = condition_codes(list(codes), OWN_CODES) == codes and (
            known is not None or len(self._tables.conditions) < CONDITION_LISTS_MAX
        )
        self._codes[codes] = self._tables.conditions.index(codes) if is_good else None

    def _learn_size(self, volume: int | float | str) -> None:
        self._sizes[volume] = parse_size_e8(volume)


_EXPECTED: Final = {
    "symbol": "expected a name such as AAPL or BTC, and not more of them than are watched",
    "price": "expected a number above 0",
    "volume": "expected a number of 0 or more, or one as text",
    "timestamp": TIME_EXPECTED,
    "exchange": "expected a whole number from 0 to 32767",
    "trf": "expected a whole number from 0 to 32767",
    "trade_id": "expected a text of at most 64 characters, or a whole number",
    "conditions": "expected at most 16 whole numbers",
}


def _looked_up(known: dict[Any, Any], keys: list[Any], learn: Callable[[Any], None]) -> list[Any]:
    """What is known of each key; what is not is learned first, and too much of it makes room by forgetting all.

    So much at a time as there are keys, so that nothing is forgotten between learning and looking up.
    """
    new = [key for key in dict.fromkeys(keys) if key not in known]  # in their order, on which numbers depend
    if len(known) + len(new) > _CACHE_MAX:
        known.clear()
        new = list(dict.fromkeys(keys))
    for key in new:
        learn(key)
    return list(map(known.__getitem__, keys))


def _are_objects(lines: bytes, lengths: NDArray[np.int64]) -> bool:
    """Whether lines of these lengths, each of its own, begin with { and end with }."""
    if not lengths.all():
        return False
    text = np.frombuffer(lines, np.uint8)
    stops = np.cumsum(lengths + 1) - 1
    return bool((text[stops - 1] == _CLOSE).all() and (text[stops - lengths] == _OPEN).all())


def _is_plain(columns: dict[str, NDArray[Any]], ids: Sequence[str]) -> bool:
    """Whether every value is one that the careful way would take as it stands."""
    price, time_ms, received_ns = columns["price"], columns["time_ms"], columns["received_ns"]
    return bool(
        (price > 0).all() and (price <= 1e15).all()
        and (time_ms >= 10**11).all() and (time_ms < 10**13).all()
        and (received_ns >= _NS_MIN).all() and (received_ns <= _NS_MAX).all()
        and all((columns[name] >= 0).all() for name in ("size_e8", "exchange", "trf"))
        and max(map(len, ids)) <= ID_LENGTH_MAX and "".join(ids).isprintable()
    )  # fmt: skip
