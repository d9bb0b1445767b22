"""Coinbase's messages in the words of Massive's stream, and the holes in their numbers as gaps.

    {"type":"match","trade_id":7,"product_id":"BTC-USD","price":"60000.10","size":"0.010","time":"…", …}
        ─►  [{"ev":"XT","pair":"BTC-USD","p":60000.10,"ds":"0.010","t":…,"i":"7","x":1}]

So all that comes behind reads one language. Exchange 1 is Coinbase in Massive's numbering, and the trade's number is
the id that Massive gives it too.

A product's trades are numbered without holes. A number that is missing becomes a gap of that product alone, from the
last trade before the hole to the first one after it; at the end of what came, a heartbeat tells of it, and the next one
proves it (trade and heartbeat may cross).

    trades       5   6       9           gap [time of 6, time of 9], cause `sequence`
    heartbeats         9  9              gap [time of 6, time of the second heartbeat], if 9 did not come

The newest trade, which comes first on each connection (`last_match`), proves nothing: what a connection's ending cost
is a gap already.

The decisions (`CoinbaseTape`) read no clock and no socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from tapewatch.feed.endings import Cause
from tapewatch.feed.queue import Frame, GapEnd, Item, Sink
from tapewatch.feed.symbols import product_symbol
from tapewatch.records import Market

__all__ = ["EXCHANGE", "CoinbaseSink", "CoinbaseTape", "stream_event"]

EXCHANGE: Final = 1
"""Coinbase in Massive's list of crypto exchanges."""
_NUMBER: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class _Message(msgspec.Struct):
    """A match or a heartbeat. Types are narrow: whatever does not fit is left as it came, for the decoder to count."""

    type: str
    product_id: str
    time: datetime
    trade_id: int | None = None
    last_trade_id: int | None = None
    price: str | None = None
    size: str | None = None


class _Event(msgspec.Struct, tag_field="ev", tag="XT"):
    pair: str
    p: msgspec.Raw
    ds: str
    t: int
    i: str
    x: int = EXCHANGE


_DECODER: Final = msgspec.json.Decoder(_Message)


def stream_event(product: str, trade_id: Any, time: Any, price: Any, size: Any) -> dict[str, Any] | None:
    """The stream's event of a trade as Coinbase's REST writes it; None if it is none."""
    try:
        row = {"type": "match", "product_id": product, "time": time, "trade_id": trade_id, "price": price, "size": size}
        message = msgspec.convert(row, _Message)
    except msgspec.ValidationError:
        return None
    event = _event(message)
    return None if event is None else dict(msgspec.json.decode(msgspec.json.encode(event)))


@dataclass(slots=True)
class _Known:
    """The newest trade of a product, and the number that a heartbeat has told of but that has not come."""

    trade_id: int
    time_ms: int
    told_id: int = 0


class CoinbaseTape:
    """What Coinbase's frames say, in order: one connection after the other.

    ``products`` limits it to these; None takes all.
    """

    def __init__(self, products: Iterable[str] | None = None) -> None:
        self._products = None if products is None else frozenset(products)
        self._known: dict[str, _Known] = {}

    def items(self, frame: Frame) -> list[Item]:
        """The frame for the decoder, and before it the gap that it shows; nothing for a heartbeat."""
        try:
            message = _DECODER.decode(frame.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [frame]
        if self._products is not None and message.product_id not in self._products:
            return [frame]
        if message.type == "heartbeat":
            return self._heartbeat(message, frame)
        event = _event(message) if message.type in ("match", "last_match") else None
        if event is None:
            return [frame]
        gap = self._trade(message, frame)
        return [*gap, Frame(frame.market, msgspec.json.encode([event]), frame.received_ns)]

    def _trade(self, message: _Message, frame: Frame) -> list[Item]:
        assert message.trade_id is not None
        time_ms, known = _ms(message.time), self._known.get(message.product_id)
        if known is not None and message.trade_id <= known.trade_id:
            return []  # a repeat, or one that comes late: its number is no news
        self._known[message.product_id] = _Known(message.trade_id, time_ms)
        if known is None or message.trade_id == known.trade_id + 1 or message.type == "last_match":
            return []
        return [_gap(message.product_id, known.time_ms, time_ms, frame.received_ns)]

    def _heartbeat(self, message: _Message, frame: Frame) -> list[Item]:
        known, last_id = self._known.get(message.product_id), message.last_trade_id
        if known is None or last_id is None or last_id <= known.trade_id:
            return []
        if not known.told_id:
            known.told_id = last_id
            return []
        time_ms = max(_ms(message.time), known.time_ms)
        self._known[message.product_id] = _Known(known.told_id, time_ms, last_id if last_id > known.told_id else 0)
        return [_gap(message.product_id, known.time_ms, time_ms, frame.received_ns)]


class CoinbaseSink:
    """In front of the queue: takes Coinbase's frames as they came and hands them on as `CoinbaseTape` says."""

    def __init__(self, then: Sink, tape: CoinbaseTape | None = None) -> None:
        self._then = then
        self._tape = tape or CoinbaseTape()
        self._frame: Frame | None = None
        self._left: list[Item] = []

    def put(self, item: Item) -> bool:
        """False while there is no room; then the same frame is put again, and not read twice."""
        if not isinstance(item, Frame):
            return self._then.put(item)
        if item != self._frame:
            self._frame, self._left = item, self._tape.items(item)
        while self._left:
            if not self._then.put(self._left[0]):
                return False
            self._left.pop(0)
        self._frame = None
        return True

    async def wait_room(self) -> None:
        """Until `put` may be tried again."""
        await self._then.wait_room()


def _event(message: _Message) -> _Event | None:
    price, size = message.price or "", message.size or ""
    if message.trade_id is None or not _NUMBER.fullmatch(price) or not _NUMBER.fullmatch(size):
        return None
    number = price.lstrip("0") or "0"
    return _Event(
        pair=message.product_id,
        p=msgspec.Raw((f"0{number}" if number.startswith(".") else number).encode()),
        ds=size,
        t=_ms(message.time),
        i=str(message.trade_id),
    )


def _ms(time: datetime) -> int:
    """Unix ms, cut."""
    return ((time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - _EPOCH) // _MS


def _gap(product: str, from_ms: int, to_ms: int, received_ns: int) -> GapEnd:
    symbols = (product_symbol(product),)
    return GapEnd(Market.CRYPTO, to_ms + 1, Cause.SEQUENCE, symbols, received_ns, from_ms=from_ms)
