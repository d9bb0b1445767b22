"""Which trades came before: the same (day, symbol, exchange, TRF, trade id) is the same trade.

A day ends where no US session crosses it: at 00:00 UTC-5 for stocks, at 00:00 UTC for all others, whose ids do not
begin anew with a day.

Each identity is kept as one 64-bit key, so two different trades may be taken for one. With n keys held, a new trade is
wrongly dropped with probability n / 2^64: with 32 million held 1.7e-12 a trade, so about once in twelve thousand days
of fifty million trades each. Keys come from Python's string hash and differ from process to process; the set is
therefore rebuilt from the log at the start (`add`) and never stored.

Two generations bound the memory. When the current one holds `keys_max` keys, or a new day of receipt begins, it becomes
the older one and the one before it is forgotten: a repeat within a day is always found unless the bound is reached.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined
from tapewatch.records import Batch, Kind, Market
from tapewatch.settings import DEDUPE_KEYS_MAX

__all__ = ["Seen"]

_DAY_MS: Final = 86_400_000
_DAY_NS: Final = _DAY_MS * 1_000_000
_STOCKS_DAY_SHIFT_MS: Final = 5 * 3_600_000
_SLOTS_MIN: Final = 1 << 14
_FILL_MAX: Final = 0.75
_TRADE: Final = int(Kind.TRADE)
_STOCKS: Final = int(Market.STOCKS)
_MARKETS: Final = len(Market)


class Seen:
    """The identities of the trades that came before. Starts small, grows by doubling, forgets the oldest."""

    def __init__(self, keys_max: int = DEDUPE_KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._day = -1
        self._older = _table(0)
        self._current = _table(0)
        self._count = 0

    @property
    def slots(self) -> int:
        """Slots of both generations' tables, of 8 bytes each."""
        return len(self._current) + len(self._older)

    def filter(self, batch: Batch) -> NDArray[np.bool_]:
        """True for each row that is new, and remember it; repeats inside the batch are found too.

        Ticks, gaps and trades without an id are always new.
        """
        new = np.ones(len(batch), np.bool_)
        if len(batch) == 0:
            return new
        day = int(batch.received_ns.max()) // _DAY_NS
        if day > self._day:
            if self._day >= 0:
                self._turn()
            self._day = day
        keys = _keys(batch)
        at = 0
        while at < len(keys):
            # As many keys as there is certainly room for; then room is made.
            stop = min(len(keys), at + self._room())
            self._count += _insert(self._current, self._older, keys[at:stop], new[at:stop])
            at = stop
        return new

    def add(self, batch: Batch) -> None:
        """Remember the trades of a batch that the log holds already."""
        self.filter(batch)

    def _room(self) -> int:
        if self._count >= self._keys_max:
            self._turn()
        slots = len(self._current)
        room = int(slots * _FILL_MAX) - self._count
        if room <= 0:
            grown = _table(min(slots * 2, int(self._keys_max / _FILL_MAX) + 2))
            _insert(grown, _table(0), self._current[self._current != 0], np.ones(self._count, np.bool_))
            self._current = grown
            room = int(len(grown) * _FILL_MAX) - self._count
        return min(room, self._keys_max - self._count)

    def _turn(self) -> None:
        self._older, self._current, self._count = self._current, _table(0), 0


def _table(slots: int) -> NDArray[np.uint64]:
    return np.zeros(max(slots, _SLOTS_MIN), np.uint64)


def _keys(batch: Batch) -> NDArray[np.uint64]:
    """One key per row; 0 for a row that is never a repeat."""
    # The empty string is the only one whose hash is 0, but for one in 2^64.
    hashes = np.fromiter(map(hash, batch.ids), np.int64, len(batch)).view(np.uint64)
    keys = np.empty(len(batch), np.uint64)
    _mix_all(batch.kind, batch.market, batch.symbol, batch.time_ms, batch.exchange, batch.trf, hashes, keys)
    return keys


@compiled
def _mix_all(
    kind: NDArray[np.uint8],
    market: NDArray[np.uint8],
    symbol: NDArray[np.int32],
    time_ms: NDArray[np.int64],
    exchange: NDArray[np.int16],
    trf: NDArray[np.int16],
    hashes: NDArray[np.uint64],
    keys: NDArray[np.uint64],
) -> None:
    for row in range(len(keys)):
        if kind[row] != _TRADE or hashes[row] == 0:
            keys[row] = 0
            continue
        shift = _STOCKS_DAY_SHIFT_MS if market[row] == _STOCKS else 0
        day = (time_ms[row] - shift) // _DAY_MS
        place = (
            (np.int64(symbol[row]) << 32) | ((np.int64(exchange[row]) & 0xFFFF) << 16) | (np.int64(trf[row]) & 0xFFFF)
        )
        key = _mix(hashes[row])
        key = _mix(key ^ np.uint64(place))
        key = _mix(key ^ np.uint64(day * _MARKETS + market[row]))
        keys[row] = key if key != 0 else np.uint64(1)


@inlined
def _mix(word: np.uint64) -> np.uint64:
    """Steele's splitmix64: every bit of the word moves every bit of the result, and no two words become one."""
    word = np.uint64(word + np.uint64(0x9E3779B97F4A7C15))
    word = np.uint64((word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    word = np.uint64((word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(word ^ (word >> np.uint64(31)))


@inlined
def _slot(table: NDArray[np.uint64], key: np.uint64) -> int:
    """Where the key is, or the free slot where it would go. The table is never full."""
    slots = len(table)
    # The upper half of the key, scaled to the number of slots: any number of slots will do.
    slot: int = np.int64(((key >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32))  # type: ignore[assignment]
    while table[slot] != 0 and table[slot] != key:
        slot += 1
        if slot == slots:
            slot = 0
    return slot


@compiled
def _insert(
    table: NDArray[np.uint64], older: NDArray[np.uint64], keys: NDArray[np.uint64], new: NDArray[np.bool_]
) -> int:
    """Put the keys that neither table holds into ``table``, mark the others as not new, return how many went in."""
    count = 0
    for row in range(len(keys)):
        key = keys[row]
        if key == 0:
            continue
        slot = _slot(table, key)
        if table[slot] == key or older[_slot(older, key)] == key:
            new[row] = False
        else:
            table[slot] = key
            count += 1
    return count
