"""A seeded market: every trade of every moment, as a pure function of (seed, rate, symbol, time).

So history exists for any moment, REST and the stream cannot disagree, and a simulator that is started again sends the
very same trades, ids included. Nothing here reads a clock or draws from a shared random number generator.

Time is cut into *chunks* (a minute, or less when trades come fast). A chunk's trades come from a generator seeded with
the chunk's number; the price comes from noise that is defined at every moment (path.py), so it has no seams:

    chunk        |      k       |     k + 1     |
    generator    seeded with k    seeded with k+1
    price        ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~

What is realistic: sessions, a U-shaped day, surges, odd and fractional lots, sweeps, blocks, off-exchange prints, the
spread's bounce, the codes of conditions that spoil a naive average. What is not: news, jumps over night, holidays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from tapewatch.records import Market
from tapewatch.simulator import listing, orders
from tapewatch.simulator.events import events
from tapewatch.simulator.hours import (
    CLOSE_MINUTE,
    OPEN_MINUTE,
    Hours,
    day_of,
    hours_at,
    market_hours,
    minute_of_day,
)
from tapewatch.simulator.listing import Listing, listing_of, number
from tapewatch.simulator.others import plain_prints
from tapewatch.simulator.tape import NS_PER_MS, Due, Prints

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
HISTORY_START_MS: Final = 1_704_067_200_000
"""2024-01-01 UTC. There are no trades before it."""
CHUNK_TRADES: Final = 4_000
"""A chunk is a minute, or shorter if more trades than this are to be expected in it at midday."""
KEPT_TRADES_MAX: Final = 20_000
"""Beyond this many trades made ready for the stream, over all symbols, those of past chunks are dropped."""
_SEQUENCES_PER_CHUNK: Final = 1 << 20
_EXTENDED_ACTIVITY: Final = 0.15
_SURGE_EVERY_MINUTES: Final = 45

Sessions = Literal["always", "real"]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A chunk as the stream needs it: times and events, row by row."""

    times_ns: list[int]
    events: Sequence[Any]


@dataclass(slots=True)
class SeededMarket:
    """A `Tape` that never ends.

    Args:
        seed: another seed is another market.
        rate: trades per second and symbol at midday.
        sessions: ``real`` is silent while the stock market is closed; ``always`` then trades as at midday.
    """

    seed: int
    rate: float
    sessions: Sessions = "always"
    chunk_ms: int = field(init=False)
    _ready: OrderedDict[tuple[Market, str, int], _Ready] = field(init=False, default_factory=OrderedDict)
    _ready_trades: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        fitting = (ms for ms in (60_000, 10_000, 1_000) if self.rate * ms / 1000 <= CHUNK_TRADES)
        self.chunk_ms = next(fitting, 250)

    # --- Tape -----------------------------------------------------------------------------------------------

    def universe(self, market: Market) -> Collection[str]:
        """The well-known symbols. Any other well-formed one is traded as well, but ``*`` does not mean it."""
        return listing.UNIVERSE[market]

    def trades(self, market: Market, symbol: str, from_ns: int, to_ns: int) -> Prints:
        """Trades with ``from_ns <= time < to_ns``; none if ``symbol`` is not well formed."""
        parts = [self.chunk(market, symbol, index) for index in self._indexes(from_ns, to_ns)]
        return Prints.join([part for part in parts if len(part)]).between(from_ns, to_ns)

    def pieces(
        self, market: Market, symbol: str, from_ns: int, to_ns: int, backwards: bool
    ) -> Iterator[tuple[int, int]]:
        """One chunk after the other; none if ``symbol`` is not well formed."""
        if not listing.is_listed(market, symbol):
            return
        step = self.chunk_ms * NS_PER_MS
        indexes = self._indexes(from_ns, to_ns)
        for index in reversed(indexes) if backwards else indexes:
            yield max(from_ns, index * step), min(to_ns, (index + 1) * step)

    def due(self, market: Market, symbols: Collection[str], after_ns: int, upto_ns: int) -> list[Due]:
        """Events of trades with ``after_ns < time <= upto_ns``, in the order of time."""
        found: list[Due] = []
        indexes = self._indexes(after_ns + 1, upto_ns + 1)
        for symbol in symbols:
            for index in indexes:
                ready = self._ready_chunk(market, symbol, index)
                start, stop = bisect_right(ready.times_ns, after_ns), bisect_right(ready.times_ns, upto_ns)
                for row in range(start, stop):
                    found.append(Due(ready.times_ns[row], len(found), symbol, ready.events[row]))
        found.sort()
        return found

    def step_end(self, after_ns: int, upto_ns: int) -> int:
        """One second further, at most ``upto_ns``: what is sent in one step stays small after a stall."""
        return min(upto_ns, after_ns + 1_000 * NS_PER_MS)

    def prepare(self, market: Market, symbols: Collection[str], at_ns: int) -> bool:
        """Make one chunk that is due soon after ``at_ns`` beforehand; False if all are ready.

        Without it, all symbols' next chunks would be made in the moment the minute changes, and be late.
        """
        index = at_ns // (self.chunk_ms * NS_PER_MS) + 1
        missing = next((s for s in symbols if (market, s, index) not in self._ready), None)
        if missing is not None:
            self._ready_chunk(market, missing, index)
        return missing is not None

    # --- chunks ---------------------------------------------------------------------------------------------

    def chunk(self, market: Market, symbol: str, index: int) -> Prints:
        """All trades of the chunk ``[index, index + 1) * chunk_ms``."""
        if not listing.is_listed(market, symbol):
            return Prints.empty()
        start_ms = index * self.chunk_ms
        minute_ms = start_ms // MINUTE_MS * MINUTE_MS
        hours = self._hours(market, minute_ms)
        if hours is Hours.CLOSED:
            return Prints.empty()
        listed = listing_of(self.seed, market, symbol)
        counts, sizes = _activity(listed, minute_ms, hours)
        random = np.random.Generator(np.random.PCG64([listed.key, index]))
        expected = self.rate * counts * self.chunk_ms / 1000
        day_ms = start_ms // DAY_MS * DAY_MS
        if market is Market.STOCKS:
            count = int(random.poisson(expected / orders.PRINTS_PER_ORDER))
            made = orders.stock_prints(listed, random, start_ms, self.chunk_ms, count, sizes, hours)
            day_ms = day_of(minute_ms)[0]
            if start_ms == minute_ms and hours_at(minute_ms) is not Hours.CLOSED:
                minute = minute_of_day(minute_ms)
                if minute in (OPEN_MINUTE, CLOSE_MINUTE):
                    orders.cross(listed, made, opening=minute == OPEN_MINUTE)
        else:
            make = orders.crypto_prints if market is Market.CRYPTO else plain_prints
            made = make(listed, random, start_ms, self.chunk_ms, int(random.poisson(expected)), sizes)
        made.sequence += (start_ms - day_ms) // self.chunk_ms * _SEQUENCES_PER_CHUNK
        made.ids = list(map(str, made.sequence.tolist()))
        return made

    def _hours(self, market: Market, minute_ms: int) -> Hours:
        hours = market_hours(market, minute_ms)
        return Hours.REGULAR if hours is Hours.CLOSED and self.sessions == "always" else hours

    def _indexes(self, from_ns: int, to_ns: int) -> range:
        step = self.chunk_ms * NS_PER_MS
        return range(max(from_ns // step, HISTORY_START_MS // self.chunk_ms), -(-to_ns // step))

    def _ready_chunk(self, market: Market, symbol: str, index: int) -> _Ready:
        key = (market, symbol, index)
        found = self._ready.get(key)
        if found is None:
            made = self.chunk(market, symbol, index)
            found = self._ready[key] = _Ready(made.time_ns.tolist(), events(market, symbol, made))
            self._ready_trades += len(made)
            # Never the last two chunks: of many symbols they are all needed at every moment.
            while self._ready_trades > KEPT_TRADES_MAX and next(iter(self._ready))[2] < index - 1:
                _, oldest = self._ready.popitem(last=False)
                self._ready_trades -= len(oldest.times_ns)
        return found


def _activity(listed: Listing, minute_ms: int, hours: Hours) -> tuple[float, float]:
    """How many trades, and how large, the minute has, as factors of a usual minute at midday."""
    chance = number(listed.key, "surge", minute_ms)
    counts = 0.85 + 0.3 * (chance >> 32) / 2**32
    sizes = 1.0
    if (chance & 0xFFFF) % _SURGE_EVERY_MINUTES == 0:
        surge = 4.0 + (chance >> 16 & 0xFFFF) / 2**14  # 4 to 8 times the volume
        sizes = surge**0.5
        counts *= surge / sizes
    if listed.market not in (Market.STOCKS, Market.OPTIONS, Market.INDICES):
        return counts, sizes
    if hours in (Hours.PRE, Hours.POST):
        return counts * _EXTENDED_ACTIVITY, sizes
    minute = minute_of_day(minute_ms)
    if hours_at(minute_ms) is Hours.REGULAR:
        from_noon = 2 * (minute - OPEN_MINUTE) / (CLOSE_MINUTE - OPEN_MINUTE) - 1
        counts *= 1.0 + 1.8 * from_noon**4
    return counts, sizes
