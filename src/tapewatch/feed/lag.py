"""How old what arrives is: receive time less event time, by market, and when that is an alarm.

A single late print says nothing: the exchange reports some trades seconds after they happened. So the *freshest* trade
of the last `LAG_SPAN_S` seconds counts: if even that one is old, everything is, and the reader or the exchange is slow.

    lag of trades   9 s   0.2 s   12 s   0.1 s  ...   freshest 0.1 s: well, two late prints
                    9 s   9.4 s   12 s   9.1 s  ...   freshest 9 s: all of it is old

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.records import Batch, Kind, Market

__all__ = ["Lag"]

LAG_SPAN_S: Final = 5
"""Seconds of receipt over which the freshest trade counts."""
FORGET_S: Final = 60
"""A market that brought nothing for so long has no lag: nobody knows it."""
AHEAD_NS_MAX: Final = 1_000_000_000
"""A trade stamped further ahead of its receipt says nothing of the lag, as long as there are others."""
_SECOND_NS: Final = 1_000_000_000
_MS_NS: Final = 1_000_000


class Lag:
    """The lag of every market, from the records as they come. Noted by one thread; may be asked by others."""

    def __init__(self) -> None:
        self._seconds: dict[Market, deque[tuple[int, int]]] = {}
        """The seconds of receipt (Unix s), and the least lag (ns) of each."""

    def note(self, batch: Batch) -> None:
        """Take trades into account, in order of receipt."""
        trades = batch.kind == Kind.TRADE
        markets, received_ns = batch.market[trades], batch.received_ns[trades]
        lag_ns = received_ns - batch.time_ms[trades] * _MS_NS
        for number in np.unique(markets).tolist():
            mine = markets == number
            self._note(Market(number), lag_ns[mine], int(received_ns[mine][-1]) // _SECOND_NS)

    def _note(self, market: Market, lag_ns: NDArray[np.int64], second: int) -> None:
        plausible = lag_ns[lag_ns >= -AHEAD_NS_MAX]
        least_ns = int((plausible if len(plausible) else lag_ns).min())
        seconds = self._seconds.setdefault(market, deque())
        if seconds and seconds[-1][0] >= second:
            seconds[-1] = (seconds[-1][0], min(seconds[-1][1], least_ns))
        else:
            seconds.append((second, least_ns))
        while seconds[0][0] <= seconds[-1][0] - LAG_SPAN_S:
            seconds.popleft()

    def freshest_ns(self, market: Market, now_ns: int) -> int | None:
        """The lag of the freshest trade of the market's last seconds; None if nothing came lately, or nothing ever.

        Negative where the exchange's clock is ahead of ours.
        """
        seconds = list(self._seconds.get(market, ()))
        if not seconds or now_ns // _SECOND_NS - seconds[-1][0] > FORGET_S:
            return None
        return min(lag_ns for _, lag_ns in seconds)
