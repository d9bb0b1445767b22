"""How a stretch of trading looks, print by print: sizes, venues, conditions, sweeps, the spread's bounce. Pure.

The caller gives a random number generator of its own, so the same generator gives the same prints.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tapewatch.records import E8
from tapewatch.simulator.hours import Hours
from tapewatch.simulator.listing import Listing
from tapewatch.simulator.path import mid_price
from tapewatch.simulator.tape import NS_PER_MS, Prints

SWEEP_SHARE: Final = 0.08
PRINTS_PER_ORDER: Final = 1.0 + SWEEP_SHARE * 2.5
"""A sweep has two to five prints."""
_SEQUENCE_STEP_MAX: Final = 4
_FINRA: Final = 4
_LIT: Final = np.array([12, 11, 10, 19, 8, 21, 15, 7, 18, 2, 17, 20, 9, 3, 1, 14])
_LIT_SHARE: Final = np.cumsum(
    [0.27, 0.14, 0.12, 0.12, 0.12, 0.07, 0.06, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.004]
)
_CRYPTO_VENUES: Final = np.array([1, 1, 1, 2, 6, 23])

# Numbers 0 to 15 of the table are sets of these four, as bits; the special ones follow.
_SWEEP, _ODD, _FORM_T, _EXEMPT = 1, 2, 4, 8
_BITS: Final = ((_FORM_T, 12), (_SWEEP, 14), (_ODD, 37), (_EXEMPT, 41))
STOCK_CONDITIONS: Final[list[tuple[int, ...]]] = [
    *(tuple(code for bit, code in _BITS if number & bit) for number in range(16)),
    (2,), (4,), (10,), (53,), (8,), (15,), (16,), (17,),
]  # fmt: skip
_AVERAGE, _BUNCHED, _DERIVED, _CONTINGENT, _CLOSING, _OFFICIAL_CLOSE, _OFFICIAL_OPEN, _OPENING = range(16, 24)
CRYPTO_CONDITIONS: Final[list[tuple[int, ...]]] = [(1,), (2,)]


def stock_prints(
    listing: Listing, random: Generator, start_ms: int, duration_ms: int, orders: int, size_factor: float, hours: Hours
) -> Prints:
    """The prints of ``orders`` orders that arrive in [start, start + duration), sorted by time.

    ``hours`` says whether they are Form T. Sequence numbers start near 0; the caller moves them to the day's.
    """
    arrival_ns = _arrivals(random, start_ms, duration_ms, orders)
    legs = np.where(random.random(orders) < SWEEP_SHARE, random.integers(2, 6, orders), 1)
    order = np.repeat(np.arange(orders), legs)
    count = len(order)
    leg = np.arange(count) - np.repeat(np.cumsum(legs) - legs, legs)
    sweep = legs[order] > 1
    time_ns = np.maximum.accumulate(arrival_ns[order] + leg * 9_000)

    draw = random.random((5, count))
    lit = np.minimum(np.searchsorted(_LIT_SHARE, draw[0]), len(_LIT) - 1)
    lit = np.where(sweep, (lit[np.maximum(np.arange(count) - leg, 0)] + leg) % len(_LIT), lit)
    finra = ~sweep & (draw[1] < 0.40)
    size_e8, conditions = _stock_sizes(random, draw[2], finra, size_factor)
    conditions[sweep] |= _SWEEP
    conditions[sweep & (draw[3] < 0.3)] |= _EXEMPT
    offset = np.zeros(count)
    if hours in (Hours.PRE, Hours.POST):
        conditions |= _FORM_T
    else:
        offset = _specials(random, draw[4], finra, conditions)

    side = random.choice(np.array([-1.0, 1.0]), orders)[order]
    bounce = side * (0.5 * listing.spread * np.where(finra & (draw[3] < 0.3), 0.0, 1.0) + listing.tick * (leg // 2))
    price = np.round(mid_price(listing, arrival_ns)[order] * (1.0 + offset) + bounce, listing.decimals)
    delay_ns = random.integers(15_000, 400_000, count)
    trf_delay_ns = delay_ns + np.where(finra, (random.random(count) ** 12 * 9e9).astype(np.int64), 0)
    return Prints(
        time_ns=time_ns,
        participant_ns=time_ns - trf_delay_ns,
        trf_ns=np.where(finra, time_ns - delay_ns // 2, 0),
        price=np.maximum(price, listing.tick),
        size_e8=size_e8,
        exchange=np.where(finra, _FINRA, _LIT[lit]),
        trf=np.where(finra, 201 + (draw[0] * 3).astype(np.int64), 0),
        tape=np.full(count, listing.tape),
        sequence=np.cumsum(random.integers(1, _SEQUENCE_STEP_MAX + 1, count)),
        conditions=conditions.astype(np.int32),
        ids=[],
        condition_table=STOCK_CONDITIONS,
    )


def _arrivals(random: Generator, start_ms: int, duration_ms: int, orders: int) -> NDArray[np.int64]:
    """Times in ns, sorted, in the first 0.9 of their millisecond, so that all prints of a sweep share it."""
    ms = np.sort(random.integers(0, duration_ms, orders)) + start_ms
    return np.maximum.accumulate(ms * NS_PER_MS + random.integers(0, 900_000, orders))


def _stock_sizes(
    random: Generator, draw: NDArray[np.float64], finra: NDArray[np.bool_], factor: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sizes in 1e-8 shares, and the odd-lot mark. More than half are odd lots, many of those fractional."""
    count = len(draw)
    spread = random.random(count)
    odd = draw < 0.55
    shares = np.where(odd, 1 + (98 * spread**2).astype(np.int64), 100 * random.geometric(0.62, count))
    block = draw > 0.9985
    shares = np.where(block, 1_000 + 100 * (60 * spread**2).astype(np.int64), shares)
    shares = np.where(odd, shares, np.round(shares * factor / 100).astype(np.int64) * 100)
    size_e8 = np.maximum(shares, 1) * E8
    fractional = odd & finra & (draw < 0.3)
    pieces = 1 + (19_998 * spread**3 * np.where(draw < 0.2, 0.5, 3.0)).astype(np.int64)
    size_e8 = np.where(fractional, pieces * (E8 // 10_000), size_e8)
    return size_e8, np.where(odd, _ODD, 0)


def _specials(
    random: Generator, draw: NDArray[np.float64], finra: NDArray[np.bool_], conditions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Give a few plain round lots a special condition (in place); return how far off the market their prices are."""
    plain = conditions == 0
    off = random.normal(0.0, 0.0012, len(draw))
    offset = np.zeros(len(draw))
    for low, high, number, elsewhere in (
        (0.000, 0.012, _AVERAGE, True),
        (0.012, 0.017, _DERIVED, True),
        (0.017, 0.020, _CONTINGENT, True),
        (0.020, 0.024, _BUNCHED, False),
    ):
        chosen = plain & (draw >= low) & (draw < high) & (finra if elsewhere else True)
        conditions[chosen] = number
        if elsewhere:
            offset = np.where(chosen, off, offset)
    return offset


def cross(listing: Listing, prints: Prints, *, opening: bool) -> None:
    """Turn the first two prints into the primary exchange's auction and its official price, in place."""
    if len(prints) < 2:
        return
    prints.conditions[:2] = (_OPENING, _OFFICIAL_OPEN) if opening else (_CLOSING, _OFFICIAL_CLOSE)
    prints.size_e8[:2] = 100 * (30 + listing.key % 40) * E8
    prints.exchange[:2] = listing.primary
    prints.price[:2] = np.round(mid_price(listing, prints.time_ns[:1]), listing.decimals)[0]
    prints.trf[:2] = prints.trf_ns[:2] = 0
    prints.participant_ns[:2] = prints.time_ns[:2] - 100_000


def crypto_prints(
    listing: Listing, random: Generator, start_ms: int, duration_ms: int, orders: int, size_factor: float
) -> Prints:
    """The prints of a pair: one an order, in fractions of a coin, marked with the side that was hit."""
    time_ns = _arrivals(random, start_ms, duration_ms, orders)
    side = random.choice(np.array([-1.0, 1.0]), orders)
    dollars = np.exp(random.normal(5.5, 1.4, orders)) * size_factor
    price = np.round(mid_price(listing, time_ns) + side * 0.5 * listing.spread, listing.decimals)
    price = np.maximum(price, listing.tick)
    return Prints.plain(
        time_ns=time_ns,
        price=price,
        size_e8=np.maximum((dollars / price * E8).astype(np.int64), 1),
        exchange=random.choice(_CRYPTO_VENUES, orders),
        sequence=np.cumsum(random.integers(1, _SEQUENCE_STEP_MAX + 1, orders)),
        conditions=(side > 0).astype(np.int32),
        condition_table=CRYPTO_CONDITIONS,
    )
