"""On which side of a line a price is, and so what a cross is. The truth table is in docs/crosses.md.

    price p, line m, band b (a fraction)                                    side
    p >= m * (1 + b)  and  p > m                                             +1
    p <= m * (1 - b)  and  p < m                                             -1
    otherwise (inside the band, touching, equal, p or m not a number)        as before

A line below zero (a MACD) has its band to both sides too: b of its absolute value.

A cross is a known side that flips. The first decided side after "unknown" (0) is no cross.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from tapewatch.compiled import inlined


@inlined
def side_of(price: float, line: float, band: float, before: int) -> int:
    """The side of ``price`` against ``line``: +1, -1, or ``before`` when it is not decided.

    >>> side_of(100.06, 100.0, 0.0005, -1), side_of(100.04, 100.0, 0.0005, -1), side_of(100.0, 100.0, 0.0, 1)
    (1, -1, 1)
    """
    width = band if line >= 0.0 else -band
    if price > line and price >= line * (1.0 + width):
        return 1
    if price < line and price <= line * (1.0 - width):
        return -1
    return before
