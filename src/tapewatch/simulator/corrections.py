"""Trades that REST takes back later: cancelled, or corrected in price. The stream never shows it. Pure.

    correction   8   cancelled                     1   corrected since; the next row, with the same id, is the right one
                12   the corrected row             absent: as it was

Which trades, and how, depends on the trade alone, so every page of every answer agrees. What is known of a trade is
known `KNOWN_AFTER_NS` after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tapewatch.records import Market
from tapewatch.simulator.listing import number

__all__ = ["NO_CORRECTIONS", "Corrections", "Row"]

KNOWN_AFTER_NS: Final = 5 * 60 * 1_000_000_000
NORMAL, WRONG, CANCELLED, RIGHT = 0, 1, 8, 12
_SCALE: Final = 2**64

Row = tuple[tuple[Any, ...], int, float]
"""A row of `tape.rows`, its correction, and its price."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """``share`` of the stocks' trades are taken back: two in three cancelled, the others corrected."""

    share: float = 0.0

    def of(self, market: Market, symbol: str, row: tuple[Any, ...], now_ns: int) -> list[Row]:
        """The row, or the two rows, that REST shows of one trade at ``now_ns``."""
        time_ns, price, trade_id = row[0], row[3], row[10]
        if self.share <= 0 or market is not Market.STOCKS or now_ns - time_ns < KNOWN_AFTER_NS:
            return [(row, NORMAL, price)]
        chance = number("correction", symbol, trade_id)
        if chance >= self.share * _SCALE:
            return [(row, NORMAL, price)]
        if chance % 3:
            return [(row, CANCELLED, price)]
        return [(row, WRONG, price), (row, RIGHT, round(price * (1.0 + (chance % 7 - 3.5) * 1e-4), 2))]


NO_CORRECTIONS: Final = Corrections()
