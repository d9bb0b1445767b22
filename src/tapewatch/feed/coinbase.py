"""One connection to Coinbase Exchange, without the connection: public trades, for which nobody needs a key.

    CONNECTING ──opened: subscribe──► SUBSCRIBING ──"subscriptions", or a trade──► LIVE ──► STALE, CLOSED

The channels are `matches` (each trade once, numbered without holes by product) and `heartbeat` (each second, with the
number of the last trade), so that silence is noticed soon. Holes in the numbers are found behind this, where their
bounds are known (`coinbase_trades.py`). A topic is written ``matches.BTC-USD``. The exchange refuses a whole request
for one product that it does not trade, and names it: that one is given up, and the others are asked for again.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from tapewatch.capturefile import MARK
from tapewatch.feed.endings import Cause, ending
from tapewatch.feed.protocol import ACK_LIMIT_NS
from tapewatch.feed.symbols import wire_symbol
from tapewatch.feed.wire import Phase, SessionLife

__all__ = ["CHANNEL", "CoinbaseSession", "product_of", "topic_of"]

CHANNEL: Final = "matches"
CHANNELS: Final = (CHANNEL, "heartbeat")
_DATA: Final = ("match", "last_match", "heartbeat")
_DATA_STARTS: Final = tuple(f'{{"type":"{name}"'.encode() for name in _DATA)
_PRODUCT: Final = re.compile(r"[A-Z0-9]+-[A-Z0-9]+")


class _Channel(msgspec.Struct):
    name: Any = None
    product_ids: Any = None


class _Message(msgspec.Struct):
    type: Any = None
    message: Any = None
    reason: Any = None
    channels: list[_Channel | str] | None = None


_DECODER: Final = msgspec.json.Decoder(_Message)


def topic_of(symbol: str) -> str:
    """The topic of a product symbol's trades.

    >>> topic_of("BTC"), topic_of("BTC-EUR")
    ('matches.BTC-USD', 'matches.BTC-EUR')
    """
    return f"{CHANNEL}.{wire_symbol(symbol)}"


def product_of(topic: str) -> str:
    """What Coinbase calls a topic's product."""
    return topic.partition(".")[2]


class CoinbaseSession(SessionLife):
    """A `wire.WireSession` of Coinbase. ``marked`` asks the simulator, which plays a capture, for its marks too."""

    def __init__(self, topics: Sequence[str], now_ns: int, *, marked: bool = False) -> None:
        super().__init__()
        self.not_authorized = 0
        self._products = dict.fromkeys(map(product_of, topics))
        self._channels = [*CHANNELS, *([MARK] if marked else [])]
        self._acked: set[str] = set()
        self._refused: dict[str, None] = {}
        self._late: set[str] = set()
        self._deadline_ns: int | None = now_ns + ACK_LIMIT_NS

    @property
    def acked(self) -> list[str]:
        """Topics the exchange has confirmed."""
        return [f"{CHANNEL}.{name}" for name in self._products if name in self._acked]

    @property
    def unconfirmed(self) -> list[str]:
        """Topics that got no answer in time."""
        return [f"{CHANNEL}.{name}" for name in self._products if name in self._late]

    @property
    def refused(self) -> list[str]:
        """Topics of products that the exchange does not trade."""
        return [f"{CHANNEL}.{name}" for name in self._refused]

    def opened(self, now_ns: int) -> list[str]:
        """Subscribe at once: the exchange demands it within five seconds."""
        self.phase = Phase.SUBSCRIBING
        self._deadline_ns = now_ns + ACK_LIMIT_NS
        return [self._request("subscribe", self._products)]

    def is_status(self, data: bytes) -> bool:
        """Whatever does not begin as a trade or a heartbeat does."""
        return not data.startswith(_DATA_STARTS)

    def received(self, data: bytes, now_ns: int) -> tuple[list[str], bool]:
        """Take a frame: what to answer, and whether it is a trade or a heartbeat."""
        try:
            told = _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [], True  # nothing that we understand: the decoder's to count
        if told.type == "error":
            return self._error(f"{told.message}: {told.reason}" if told.reason else str(told.message), now_ns), False
        if told.type == "subscriptions":
            self._subscribed(told.channels or [], now_ns)
            return [], False
        if told.type not in _DATA:
            return [], False
        self._live(now_ns)
        return [], True

    def change(self, topics: Sequence[str], now_ns: int) -> list[str]:
        """These are the topics from now on: the messages that bring the difference."""
        names = dict.fromkeys(map(product_of, topics))
        gone = [name for name in self._products if name not in names]
        new = [name for name in names if name not in self._products and name not in self._refused]
        self._products = {name: None for name in names if name not in self._refused}
        self._acked -= set(gone)
        self._late -= set(gone)
        if self.phase not in (Phase.SUBSCRIBING, Phase.LIVE):
            return []
        if new:
            self._deadline_ns = now_ns + ACK_LIMIT_NS
        requests = [("unsubscribe", gone), ("subscribe", new)]
        return [self._request(action, names) for action, names in requests if names]

    def overdue(self, now_ns: int) -> None:
        """Look whether the subscriptions have been waited for too long."""
        if self.ended is not None or self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        self._deadline_ns = None
        self._late = {name for name in self._products if name not in self._acked}
        if not self.was_live:
            self.end(ending(Cause.NO_ACK, ", ".join(list(self._products)[:5])))

    def _error(self, words: str, now_ns: int) -> list[str]:
        """A product that is not traded is left out, and the rest asked for again; any other error ends it all."""
        unknown = [name for name in _PRODUCT.findall(words.upper()) if name in self._products]
        if not unknown:
            self.end(ending(Cause.FORCE_DISCONNECT, words))
            return []
        for name in unknown:
            self._refused[name] = self._products.pop(name)
            self._acked.discard(name)
        self.not_authorized += len(unknown)
        if not self._products:
            self.end(ending(Cause.NOT_TRADED, ", ".join(self._refused)))
            return []
        self._deadline_ns = now_ns + ACK_LIMIT_NS
        return [self._request("subscribe", [name for name in self._products if name not in self._acked])]

    def _subscribed(self, channels: Iterable[_Channel | str], now_ns: int) -> None:
        """The answer names all that is held now."""
        names = {
            name
            for channel in channels
            if isinstance(channel, _Channel) and channel.name == CHANNEL and isinstance(channel.product_ids, list)
            for name in channel.product_ids
            if name in self._products
        }
        self._acked = names
        self._late -= names
        if names:
            self._live(now_ns)

    def _request(self, action: str, names: Iterable[str]) -> str:
        request = {"type": action, "product_ids": list(names), "channels": self._channels}
        return msgspec.json.encode(request).decode()
