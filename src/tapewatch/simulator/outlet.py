"""What goes out: the events that are due, to the connections that are subscribed to them, with or without trouble.

tape ──due──► trouble (if any) ──► by subscription ──► frames ──► buffer of each connection
  └──trades──► bars ─────────────────┘                              └──► witness
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tapewatch.records import Market
from tapewatch.simulator.bars import BAR_DELAY_MS, bar_units, bars
from tapewatch.simulator.connection import Connection
from tapewatch.simulator.plans import DELAY_NS
from tapewatch.simulator.sent import Witness, sent_trades
from tapewatch.simulator.session import TRADE_CHANNEL
from tapewatch.simulator.tape import NS_PER_MS, Due, Tape
from tapewatch.simulator.trouble import Trouble

__all__ = ["Audience", "Outlet"]


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is subscribed to anything on one host of one market, and whose trades they want, sorted."""

    market: Market
    is_delayed: bool
    listeners: list[Connection]
    symbols: list[str]

    @property
    def delay_ns(self) -> int:
        """How far behind the tape's time this audience is."""
        return DELAY_NS if self.is_delayed else 0


class Outlet:
    """Sends. ``overflow`` is called with a connection that has more than ``buffer_bytes_max`` unread."""

    def __init__(
        self,
        tape: Tape,
        *,
        frame_events_max: int,
        buffer_bytes_max: int | None,
        overflow: Callable[[Connection], None],
        trouble: Trouble | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._tape = tape
        self._frame_events_max = frame_events_max
        self._buffer_bytes_max = buffer_bytes_max
        self._overflow = overflow
        self._trouble = trouble
        self._witness = witness

    def audiences(self, connections: Sequence[Connection]) -> list[Audience]:
        """One for each host and market that anybody listens to."""
        found = []
        for place in sorted({c.place for c in connections if c.session.listens()}):
            listeners = [c for c in connections if c.place == place and c.session.listens()]
            symbols = self._wanted(place[0], TRADE_CHANNEL[place[0]], listeners)
            found.append(Audience(*place, listeners, symbols))
        return found

    def step(self, audience: Audience, after_ns: int, upto_ns: int) -> None:
        """Send an audience what falls due in (after, upto] of the tape's time."""
        after_ns, upto_ns = after_ns - audience.delay_ns, upto_ns - audience.delay_ns
        self._send_trades(audience, after_ns, upto_ns)
        self._send_bars(audience, after_ns, upto_ns)

    def _send_trades(self, audience: Audience, after_ns: int, upto_ns: int) -> None:
        channel = TRADE_CHANNEL[audience.market]
        due = self._tape.due(audience.market, audience.symbols, after_ns, upto_ns)
        frames: Sequence[bytes] = ()
        if self._trouble is not None:
            place, now_ns = (audience.market, audience.is_delayed), upto_ns + audience.delay_ns
            due, frames = self._trouble.pass_on(place, due, now_ns, audience.listeners)
        for connection in audience.listeners if due or frames else ():
            symbols = connection.session.symbols(channel)
            mine = [one for one in due if one.symbol in symbols or not one.symbol or "*" in symbols]
            if self._trouble is not None and self._trouble.spoil(connection, [one.event for one in mine], now_ns):
                self._note(audience.market, channel, mine)
                continue
            connection.send(frames)
            if self._send_events(connection, [one.event for one in mine]):
                self._note(audience.market, channel, mine)
        if self._trouble is not None and due:
            self._trouble.spoiled(place)

    def _send_bars(self, audience: Audience, after_ns: int, upto_ns: int) -> None:
        market, delay_ns = audience.market, BAR_DELAY_MS * NS_PER_MS
        for channel, unit_ms in bar_units(market).items():
            unit_ns = unit_ms * NS_PER_MS
            from_ns, to_ns = ((edge - delay_ns) // unit_ns * unit_ns for edge in (after_ns, upto_ns))
            if from_ns == to_ns:
                continue
            for symbol in self._wanted(market, channel, audience.listeners):
                made: list[Any] = list(bars(channel, market, symbol, self._tape.trades(market, symbol, from_ns, to_ns)))
                if self._trouble is not None:
                    made = self._trouble.bars((market, audience.is_delayed), made, upto_ns + audience.delay_ns)
                for connection in audience.listeners:
                    if connection.session.symbols(channel) & {symbol, "*"}:
                        self._send_events(connection, made)

    def _send_events(self, connection: Connection, events: Sequence[Any]) -> bool:
        """Whether they were written."""
        if not events or not connection.is_open:
            return False
        size = self._frame_events_max
        connection.send(msgspec.json.encode(events[i : i + size]) for i in range(0, len(events), size))
        if self._buffer_bytes_max is not None and connection.unread_bytes() > self._buffer_bytes_max:
            self._overflow(connection)
        return True

    def _note(self, market: Market, channel: str, due: Iterable[Due]) -> None:
        if self._witness is not None:
            self._witness(sent_trades(market, channel, due))

    def _wanted(self, market: Market, channel: str, listeners: Collection[Connection]) -> list[str]:
        """The symbols of ``channel`` that ``listeners`` want, sorted; ``*`` stands for all of the tape."""
        symbols = set().union(*(connection.session.symbols(channel) for connection in listeners))
        if "*" in symbols:
            symbols |= set(self._tape.universe(market))
        return sorted(symbols - {"*"})
