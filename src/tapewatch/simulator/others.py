"""Trading in options, futures, forex and indices, print by print: without conditions, in whole contracts. Pure.

Forex rows are quotes and index rows are values: both have a size of 1 for counting alone, which their events lack.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator

from tapewatch.records import E8, Market
from tapewatch.simulator.listing import Listing
from tapewatch.simulator.path import mid_price
from tapewatch.simulator.tape import NS_PER_MS, Prints

__all__ = ["plain_prints"]

_VENUES: Final = {
    Market.OPTIONS: np.array([302, 303, 304, 309, 312, 313, 316, 323]),
    Market.FUTURES: np.array([4]),
    Market.FOREX: np.array([44, 48]),
    Market.INDICES: np.array([0]),
}
_WHOLE: Final = frozenset([Market.OPTIONS, Market.FUTURES])


def plain_prints(
    listing: Listing, random: Generator, start_ms: int, duration_ms: int, orders: int, size_factor: float
) -> Prints:
    """The prints of ``orders`` orders that arrive in [start, start + duration), sorted by time, a millisecond apart.

    Sequence numbers start near 0; the caller moves them to the day's.
    """
    # Quotes and values have no number: two of one millisecond and price would be the same one.
    count = min(orders, duration_ms)
    ms = np.sort(random.choice(duration_ms, count, replace=False)) + start_ms
    time_ns = ms.astype(np.int64) * NS_PER_MS + random.integers(0, NS_PER_MS, count)
    side = random.choice(np.array([-1.0, 0.0, 1.0]), count)
    price = mid_price(listing, time_ns) + side * 0.5 * listing.spread
    price = np.round(np.maximum(np.round(price / listing.tick), 1) * listing.tick, listing.decimals)
    contracts = np.ones(count)
    if listing.market in _WHOLE:
        contracts = np.maximum(1, np.exp(random.normal(0.7, 1.0, count)) * size_factor)
    return Prints.plain(
        time_ns=time_ns,
        price=price,
        size_e8=contracts.astype(np.int64) * E8,
        exchange=random.choice(_VENUES[listing.market], count),
        sequence=np.cumsum(random.integers(1, 4, count)),
        conditions=np.zeros(count, np.int32),
        condition_table=[()],
    )
