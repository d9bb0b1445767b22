"""The live stream: what has just changed, to every open browser, as server-sent events.

The engine's thread publishes; each client takes at its own pace. The hub keeps, for each key, only the newest
value and the number of the change that made it. A client is nothing but the number it has seen up to:

    published   AAPL=1  BTC=2  AAPL=3  AAPL=4
    kept                BTC=2          AAPL=4        newest value wins
    client seen 1 gets  BTC=2, AAPL=4                however slow it was

So a client that does not read costs the server nothing, and clients that have seen equally much share one encoded
frame. Alerts and bars have a key for each state and are bounded: a client that is further behind than what is kept
gets `resync` and fetches them again.

Publish what is committed, after it is committed: a new client's snapshot comes from the store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from tapewatch.metrics import STREAM_CLIENTS
from tapewatch.records import Alert, Changes
from tapewatch.serve import shapes
from tapewatch.settings import STREAM_ALERTS_MAX, STREAM_BARS_MAX, STREAM_CLIENTS_MAX, SYMBOLS_MAX

__all__ = ["Client", "StreamFull", "StreamHub", "encode_event"]

Value = Mapping[str, Any] | tuple[Any, ...]
"""A row as it will be shown, or the raw values of one, shaped only if a client is there to see it."""
_SHAPES: Final[dict[str, Callable[[str, tuple[Any, ...]], dict[str, Any]]]] = {
    "price": shapes.live_price,
    "bar": shapes.bar_row,
}
_FRAMES_MAX: Final = 64


class StreamFull(Exception):
    """As many clients as `STREAM_CLIENTS_MAX` allows are connected."""


class Client:
    """One open stream. ``seen`` is the number of the last change it was sent."""

    def __init__(self, seen: int, symbols: frozenset[str] | None, bars: frozenset[str] | None) -> None:
        self.seen = seen
        self.symbols = symbols
        self.bars = bars
        self.closed = False
        self.wake = asyncio.Event()

    def close(self) -> None:
        """End the stream as soon as its writer looks."""
        self.closed = True
        self.wake.set()

    def wants(self, event: str, symbol: str) -> bool:
        """Whether this client asked for that symbol's events."""
        wanted = self.bars if event == "bar" else self.symbols
        return wanted is None or symbol in wanted


class StreamHub:
    """Takes changes from any thread; gives each client the newest of what it has not seen."""

    def __init__(self, clients_max: int = STREAM_CLIENTS_MAX) -> None:
        self._lock = threading.Lock()
        self._kept = {
            "price": _Kept(SYMBOLS_MAX),
            "bar": _Kept(STREAM_BARS_MAX),
            "alert": _Kept(STREAM_ALERTS_MAX),
        }
        self._sequence = 0
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: set[Client] = set()
        STREAM_CLIENTS.set(0)
        self._clients_max = clients_max
        self._frames: dict[tuple[Any, ...], bytes] = {}
        self.closed = False

    # --- any thread -------------------------------------------------------------------------------------------
    def publish(self, event: str, key: str, data: Value, symbol: str | None = None) -> None:
        """Tell every client that ``key`` (of ``symbol``, by default the same) is now ``data``."""
        self.publish_many(event, ((key, symbol or _symbol(key, data), data),))

    def publish_many(self, event: str, changes: Iterable[tuple[str, str, Value]]) -> None:
        """The same for many (key, symbol, data), in order. ``event`` is ``price``, ``bar`` or ``alert``."""
        loop = self._loop
        if loop is None:
            return  # Nobody listens; a client that comes now starts from the store.
        with self._lock:
            kept, before = self._kept[event], self._sequence
            for key, symbol, data in changes:
                self._sequence += 1
                kept.put(key, self._sequence, symbol, data)
            if self._woken or self._sequence == before:
                return
            self._woken = True
        try:
            loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # The loop was closed: the server has stopped, and nobody listens.
            self._loop, self._woken = None, False

    def publish_changes(self, changes: Changes, window_ms: int, slide_ms: int) -> None:
        """All that a commit changed, as the engine gave it. Costs next to nothing while nobody listens."""
        if self._loop is None:
            return
        self.publish_rows(shapes.price_values(changes), shapes.bar_values(changes, window_ms, slide_ms), changes.alerts)

    def publish_rows(
        self,
        prices: Iterable[tuple[str, tuple[Any, ...]]],
        bars: Iterable[tuple[str, tuple[Any, ...]]],
        alerts: Iterable[Alert],
    ) -> None:
        """The same as (symbol, values) of `shapes.live_price` and `shapes.bar_row`, and alerts."""
        self.publish_many("price", ((s, s, values) for s, values in prices))
        self.publish_many("bar", ((f"{s} {values[1]}", s, values) for s, values in bars))
        self.publish_many("alert", ((f"{a.alert_id} {a.status}", a.symbol, shapes.alert_row(a)) for a in alerts))

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens: without that, nothing needs to be published."""
        return self._loop is not None

    # --- the server's loop ------------------------------------------------------------------------------------
    def join(self, symbols: frozenset[str] | None = None, bars: frozenset[str] | None = None) -> Client:
        """Open a stream that sees everything published from now on. Raises `StreamFull`."""
        if len(self._clients) >= self._clients_max:
            raise StreamFull
        self._loop = asyncio.get_running_loop()
        client = Client(self._sequence, symbols, bars)
        client.closed = self.closed
        self._clients.add(client)
        STREAM_CLIENTS.set(len(self._clients))
        return client

    def leave(self, client: Client) -> None:
        """Forget a stream; with the last one, everything kept for slow readers."""
        self._clients.discard(client)
        STREAM_CLIENTS.set(len(self._clients))
        if not self._clients:
            self._loop = None
            self._frames.clear()
            with self._lock:
                self._woken = False
                for kept in self._kept.values():
                    kept.clear(self._sequence)

    def close(self) -> None:
        """End all streams at once; later ones end at once too."""
        self.closed = True
        for client in self._clients:
            client.close()

    def frame(self, client: Client) -> bytes:
        """Events for all that ``client`` has not seen, newest values only; empty if there is nothing. Marks it seen."""
        with self._lock:
            upto = self._sequence
            if upto == client.seen:
                return b""
            known = (client.seen, upto, client.symbols, client.bars)
            client.seen = upto
            if (shared := self._frames.get(known)) is not None:
                return shared
            lost = any(kept.floor > known[0] for kept in self._kept.values())
            news = {event: kept.since(known[0]) for event, kept in self._kept.items()}
        body = bytearray(encode_event("resync", {}) if lost else b"")
        for event, changed in news.items():
            rows = [_shaped(event, symbol, data) for symbol, data in changed if client.wants(event, symbol)]
            if event == "alert":
                body += b"".join(encode_event(event, row) for row in rows)
            elif rows:
                body += encode_event(event, rows)
        if len(self._frames) >= _FRAMES_MAX:
            self._frames.clear()
        self._frames[known] = bytes(body)
        return self._frames[known]

    def _wake(self) -> None:
        with self._lock:
            self._woken = False
        for client in self._clients:
            client.wake.set()


class _Kept:
    """Newest value by key, in the order of change, at most ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.floor = 0  # the number of the last change that was forgotten
        self._most = most
        self._rows: dict[str, tuple[int, str, Value]] = {}

    def put(self, key: str, sequence: int, symbol: str, data: Value) -> None:
        self._rows.pop(key, None)
        self._rows[key] = (sequence, symbol, data)
        if len(self._rows) > self._most:
            self.floor = self._rows.pop(next(iter(self._rows)))[0]

    def since(self, seen: int) -> list[tuple[str, Value]]:
        """(symbol, data) of all changed after ``seen``, oldest change first."""
        changed = []
        for sequence, symbol, data in reversed(self._rows.values()):
            if sequence <= seen:
                break
            changed.append((symbol, data))
        return changed[::-1]

    def clear(self, sequence: int) -> None:
        self._rows.clear()
        self.floor = sequence


def encode_event(event: str, data: Any) -> bytes:
    """One server-sent event. JSON has no line breaks, so one data line is enough; NaN becomes null."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(data))


def _shaped(event: str, symbol: str, data: Value) -> Mapping[str, Any]:
    return _SHAPES[event](symbol, data) if isinstance(data, tuple) else data


def _symbol(key: str, data: Value) -> str:
    return str(data.get("symbol", key)) if isinstance(data, Mapping) else key
