"""Flat files as a tape: the trades of recordings, played in the order and at the times of the recording.

The play has a position in the recording's own time. It starts when the first client has subscribed, and moves on at
``speed`` times the recording's pace whoever is connected; at full speed it waits while nobody is, or while one is slow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import Market
from tapewatch.simulator.events import events
from tapewatch.simulator.tape import Due, Prints, listed
from tapewatch.tapefile import TapeFile

STEP_ROWS: Final = 2_000
"""Trades sent in one step."""


class RecordedTape:
    """A `Tape` over the trades of flat files. Tickers that start with ``X:`` are crypto pairs."""

    def __init__(self, tape: TapeFile) -> None:
        self._tape = tape
        self._listed = [listed(ticker) for ticker in tape.tickers.values]
        self._rows: dict[tuple[Market, str], NDArray[np.intp]] = {}
        for number, name in enumerate(self._listed):
            rows = np.flatnonzero(tape.ticker == number)
            known = self._rows.get(name)
            self._rows[name] = rows if known is None else np.union1d(known, rows)

    def __len__(self) -> int:
        return len(self._tape)

    @property
    def first_ns(self) -> int:
        """Time of the first trade; 0 without any."""
        return int(self._tape.time_ns[0]) if len(self) else 0

    @property
    def last_ns(self) -> int:
        """Time of the last trade; 0 without any."""
        return int(self._tape.time_ns[-1]) if len(self) else 0

    def universe(self, market: Market) -> Collection[str]:
        """All symbols of the files."""
        return [symbol for where, symbol in self._rows if where is market]

    def trades(self, market: Market, symbol: str, from_ns: int, to_ns: int) -> Prints:
        """Trades with ``from_ns <= time < to_ns``; none for a symbol that is not in the files."""
        rows = self._rows.get((market, symbol))
        if rows is None:
            return Prints.empty()
        start, stop = np.searchsorted(self._tape.time_ns[rows], [from_ns, to_ns]).tolist()
        return self._prints(rows[start:stop])

    def pieces(
        self, market: Market, symbol: str, from_ns: int, to_ns: int, backwards: bool
    ) -> Iterator[tuple[int, int]]:
        """All of it at once."""
        if from_ns < to_ns:
            yield from_ns, to_ns

    def due(self, market: Market, symbols: Collection[str], after_ns: int, upto_ns: int) -> list[Due]:
        """Events of trades with ``after_ns < time <= upto_ns``, in the order of the recording."""
        start, stop = np.searchsorted(self._tape.time_ns, [after_ns, upto_ns], side="right").tolist()
        tickers = self._tape.ticker[start:stop]
        found: list[Due] = []
        for symbol in symbols:
            numbers = [n for n, name in enumerate(self._listed) if name == (market, symbol)]
            rows = np.flatnonzero(np.isin(tickers, numbers)) + start
            made = events(market, symbol, self._prints(rows))
            times = self._tape.time_ns[rows].tolist()
            found += map(Due, times, rows.tolist(), [symbol] * len(times), made)
        found.sort()
        return found

    def step_end(self, after_ns: int, upto_ns: int) -> int:
        """The moment after which `STEP_ROWS` more trades have been sent, at most ``upto_ns``."""
        row = int(np.searchsorted(self._tape.time_ns, after_ns, side="right")) + STEP_ROWS - 1
        return min(upto_ns, int(self._tape.time_ns[row])) if row < len(self) else upto_ns

    def prepare(self, market: Market, symbols: Collection[str], at_ns: int) -> bool:
        """Nothing to make: the recording is there."""
        return False

    def _prints(self, rows: NDArray[np.intp]) -> Prints:
        tape = self._tape
        columns: dict[str, Any] = {
            name: getattr(tape, name)[rows]
            for name in ("time_ns", "participant_ns", "trf_ns", "price", "size_e8", "exchange", "trf", "tape")
        }
        return Prints(
            **columns,
            sequence=tape.sequence[rows],
            conditions=tape.conditions[rows],
            ids=[tape.ids[row] for row in rows.tolist()],
            condition_table=tape.condition_sets.values,
        )


@dataclass(slots=True)
class Play:
    """The position of a replay in its recording's time.

        clock      ----|started-------------------------------->
        position    first trade ... (now - started) * speed ... the end

    ``speed`` None is as fast as the clients can take it.
    """

    first_ns: int
    end_ns: int
    speed: float | None
    started_ns: int | None = None

    def start(self, now_ns: int) -> None:
        """Begin, unless it has begun."""
        if self.started_ns is None:
            self.started_ns = now_ns

    def position(self, now_ns: int) -> int:
        """Everything up to and including this moment of the recording is to be sent by now."""
        if self.started_ns is None:
            return self.first_ns - 1
        if self.speed is None:
            return self.end_ns
        return min(self.end_ns, self.first_ns + int((now_ns - self.started_ns) * self.speed))
