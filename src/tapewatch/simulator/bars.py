"""Second and minute bars made from the very trades the stream sends, so that both agree. Pure.

The recipe: bucket by the SIP time; a trade counts for high and low, for open and close, and for the volume only if
each of its conditions allows it; Form T sets prices outside the regular session only; a window without a trade that may
set the price has no bar. Numbers of the whole day (op, av, a) are left out: they would need the day from its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np

from tapewatch.records import E8, Market
from tapewatch.simulator.hours import Hours, hours_at
from tapewatch.simulator.tape import NS_PER_MS, Prints, decimal_text

UNIT_MS: Final = {"A": 1_000, "AM": 60_000, "XAS": 1_000, "XA": 60_000, "CAS": 1_000, "CA": 60_000}
"""The bar channels and their windows' length."""
_BAR_CHANNELS: Final = {Market.CRYPTO: ("XAS", "XA"), Market.FOREX: ("CAS", "CA")}
BAR_DELAY_MS: Final = 2_000
"""A bar is sent this long after its window's end."""
_NO_PRICE: Final = frozenset([2, 7, 13, 15, 16, 20, 21, 29, 37, 52, 53])
_NO_OPEN_CLOSE: Final = _NO_PRICE | {5, 10, 17, 22, 32, 33}
_NO_VOLUME: Final = frozenset([15, 16, 38])
_FORM_T: Final = 12


class StockBar(msgspec.Struct):
    """The `A` and `AM` events of stocks and options."""

    ev: str
    sym: str
    v: int
    dv: str
    vw: float
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    z: int
    s: int
    e: int


class CryptoBar(msgspec.Struct):
    """The stream's `XAS` and `XA` events."""

    ev: str
    pair: str
    v: float
    vw: float
    z: int
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    s: int
    e: int


class FutureBar(msgspec.Struct):
    """The futures' `A` and `AM` events: here ``dv`` is the volume in dollars, and ``n`` the number of trades."""

    ev: str
    sym: str
    v: int
    dv: float
    n: int
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    s: int
    e: int


class ForexBar(msgspec.Struct):
    """The `CAS` and `CA` events: made from quotes, whose number is ``v``."""

    ev: str
    pair: str
    v: int
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    s: int
    e: int


class IndexBar(msgspec.Struct):
    """The indices' `A` and `AM` events."""

    ev: str
    sym: str
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    s: int
    e: int


Bar = StockBar | CryptoBar | FutureBar | ForexBar | IndexBar


class Window(NamedTuple):
    """What the trades of one window come to. ``notional_e8``: the sum of price times size."""

    start_ms: int
    end_ms: int
    open: float
    close: float
    high: float
    low: float
    size_e8: int
    notional_e8: float
    trades: int
    """Those that count for the volume."""

    @property
    def vwap(self) -> float:
        """The average price by volume; 0 without volume."""
        return round(self.notional_e8 / self.size_e8, 6) if self.size_e8 else 0.0


def bar_units(market: Market) -> dict[str, int]:
    """The bar channels of a market with their windows' length, ms."""
    return {channel: UNIT_MS[channel] for channel in _BAR_CHANNELS.get(market, ("A", "AM"))}


def bars(channel: str, market: Market, symbol: str, prints: Prints) -> Iterator[Bar]:
    """The bars of all windows that ``prints`` touches, which must hold all trades of each, in the order of time."""
    for window in windows(market, prints, UNIT_MS[channel]):
        yield _bar(channel, market, symbol, window)


def windows(market: Market, prints: Prints, unit_ms: int) -> Iterator[Window]:
    """The windows of ``unit_ms`` with a price that ``prints`` touches, which must hold all trades of each, in order."""
    numbers = prints.time_ns // (unit_ms * NS_PER_MS)
    for start in np.flatnonzero(np.diff(numbers, prepend=-1)).tolist():
        number = int(numbers[start])
        stop = int(np.searchsorted(numbers, number, side="right"))
        window = _window(market, prints.slice(start, stop), number * unit_ms, unit_ms)
        if window is not None:
            yield window


def merged(parts: Iterable[Window], unit_ms: int) -> Iterator[Window]:
    """Windows of a longer unit from those of a shorter one that divides it, in order."""
    whole: Window | None = None
    for part in parts:
        start_ms = part.start_ms // unit_ms * unit_ms
        if whole is not None and whole.start_ms == start_ms:
            whole = Window(
                start_ms, start_ms + unit_ms, whole.open, part.close, max(whole.high, part.high),
                min(whole.low, part.low), whole.size_e8 + part.size_e8, whole.notional_e8 + part.notional_e8,
                whole.trades + part.trades,
            )  # fmt: skip
            continue
        if whole is not None:
            yield whole
        whole = part._replace(start_ms=start_ms, end_ms=start_ms + unit_ms)
    if whole is not None:
        yield whole


def _window(market: Market, prints: Prints, start_ms: int, unit_ms: int) -> Window | None:
    regular = market is not Market.STOCKS or hours_at(start_ms // 60_000 * 60_000) is Hours.REGULAR
    barred = {_FORM_T} if regular else set()
    codes = [set(prints.condition_table[number]) if market is Market.STOCKS else set() for number in prints.conditions]
    price = prints.price.tolist()
    last = [p for p, c in zip(price, codes, strict=True) if not c & (_NO_OPEN_CLOSE | barred)]
    extreme = [p for p, c in zip(price, codes, strict=True) if not c & (_NO_PRICE | barred)]
    volume = [(p, s) for p, s, c in zip(price, prints.size_e8.tolist(), codes, strict=True) if not c & _NO_VOLUME]
    if not last:
        return None
    size_e8, notional_e8 = sum(size for _, size in volume), sum(p * s for p, s in volume)
    return Window(
        start_ms, start_ms + unit_ms, last[0], last[-1], max(extreme), min(extreme), size_e8, notional_e8, len(volume)
    )


def _bar(channel: str, market: Market, symbol: str, window: Window) -> Bar:
    start_ms, end_ms, o, c, h, low, size_e8, notional_e8, trades = window
    mean = size_e8 // (trades * E8) if trades else 0
    match market:
        case Market.CRYPTO:
            return CryptoBar(channel, symbol, size_e8 / E8, window.vwap, mean, o, c, h, low, start_ms, end_ms)
        case Market.FUTURES:
            dollars = round(notional_e8 / E8, 2)
            return FutureBar(channel, symbol, size_e8 // E8, dollars, trades, o, c, h, low, start_ms, end_ms)
        case Market.FOREX:
            return ForexBar(channel, symbol, trades, o, c, h, low, start_ms, end_ms)
        case Market.INDICES:
            return IndexBar(channel, symbol, o, c, h, low, start_ms, end_ms)
        case _:
            text = decimal_text(size_e8)
            return StockBar(channel, symbol, size_e8 // E8, text, window.vwap, o, c, h, low, mean, start_ms, end_ms)
