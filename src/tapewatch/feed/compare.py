"""Our minute bars beside the exchange's own of the same feed: how often, and in which number, they disagree.

    AM, XA from the stream ──► theirs ─┐
                                       ├─ 16 minutes after the bar began ─► equal, or different: counted by field
    final bars of the engine ─► ours ──┘

The exchange sends a bar again when a late trade changes it, for 15 minutes; the last one counts. Open, high, low and
close must be the same to the last digit, the volume exactly where it is told exactly (``dv``) and to less than a share
where it is not, the average to 1e-4 of it. Minutes in a gap are not compared: why they differ is known.

Time is that of the bars alone. For several threads. Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from tapewatch.feed.symbols import market_of, product_symbol
from tapewatch.records import Changes, Gap, Market
from tapewatch.values import price_of, size_e8_of, time_ms_of

__all__ = ["BAR_FIELDS", "Comparison", "MinuteBar"]

MINUTE_MS: Final = 60_000
WAIT_MS: Final = 16 * MINUTE_MS
"""A bar is compared when one that began so much later is known: no bar is sent again after 15 minutes."""
BARS_MAX: Final = 400_000
"""Bars that wait, ours and theirs; when there are more, the oldest are left out, and counted."""
EXAMPLES_MAX: Final = 20
VWAP_SHARE: Final = 1e-4
VOLUME_SHARE: Final = 1e-12
"""Exact volumes may differ by what a float cannot say."""
COMPARED: Final = frozenset([Market.STOCKS, Market.CRYPTO, Market.OPTIONS, Market.FUTURES])
"""Markets whose bars are made of trades."""
BAR_FIELDS: Final = ("open", "high", "low", "close", "volume", "vwap", "missing", "extra")
"""What may differ: a number; or the exchange has a bar where we have none (missing), or the other way round (extra)."""
_PRICES: Final = {"open": "o", "high": "h", "low": "l", "close": "c"}


@dataclass(frozen=True, slots=True)
class MinuteBar:
    """One minute. ``is_exact`` says that fractions of a share are in the volume. A `vwap` of 0 is not known."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float
    is_exact: bool = True


@dataclass(slots=True)
class _Agreement:
    """What was compared of one market."""

    compared: int = 0
    different: int = 0
    in_gaps: int = 0
    sent_again: int = 0
    left_out: int = 0


class Comparison:
    """The running comparison. ``on_compared`` is told of each bar: its market, and the fields that differ."""

    def __init__(self, on_compared: Callable[[Market, list[str]], object] | None = None) -> None:
        self._on_compared = on_compared
        self._lock = Lock()
        self._bars: dict[Market, dict[int, dict[str, list[MinuteBar | None]]]] = defaultdict(dict)
        self._count = 0
        self._since_ms: dict[Market, int] = {}
        self._newest_ms: dict[Market, int] = {}
        self._gaps: deque[Gap] = deque(maxlen=1_000)
        self._agreements: dict[Market, _Agreement] = defaultdict(_Agreement)
        self._fields: Counter[tuple[Market, str]] = Counter()
        self._examples: deque[dict[str, Any]] = deque(maxlen=EXAMPLES_MAX)

    def theirs(self, bars: Sequence[tuple[Market, Mapping[str, Any]]]) -> int:
        """Minute bars of the stream; how many could not be read (second bars are passed over)."""
        bad = 0
        with self._lock:
            for market, event in bars:
                if event.get("ev") not in ("AM", "XA") or market not in COMPARED:
                    continue
                start_ms, bar = time_ms_of(event.get("s")), _bar(event)
                name = event.get("pair" if market is Market.CRYPTO else "sym")
                if start_ms is None or bar is None or not isinstance(name, str) or len(name) > 40:
                    bad += 1
                    continue
                self._since_ms.setdefault(market, start_ms)
                self._put(market, product_symbol(name), start_ms, 1, bar)
        return bad

    def ours(self, changes: Changes) -> None:
        """What the engine gave out: its final bars of the markets whose bars are sent."""
        final = changes.bars[changes.bars["is_final"]]
        with self._lock:
            self._gaps.extend(gap for gap in changes.gaps if gap.is_open)
            for row in final.tolist() if self._since_ms else ():
                symbol, start_ms, opened, high, low, close, volume, vwap = row[:8]
                name = changes.symbols[symbol]
                if (market := market_of(name)) in self._since_ms:
                    average = vwap if vwap == vwap else 0.0
                    self._put(market, name, start_ms, 0, MinuteBar(opened, high, low, close, volume, average))

    def report(self) -> list[dict[str, Any]]:
        """For each market: how many were compared, and the share of them that differs, by field."""
        with self._lock:
            return [
                {
                    "market": market.name.lower(),
                    "compared": found.compared,
                    "different": found.different,
                    "in_gaps": found.in_gaps,
                    "sent_again": found.sent_again,
                    "left_out": found.left_out,
                    "rates": {
                        name: round(self._fields[market, name] / found.compared, 6) if found.compared else 0.0
                        for name in BAR_FIELDS
                    },
                    "examples": [one for one in self._examples if one["market"] == market.name.lower()],
                }
                for market, found in sorted(self._agreements.items())
            ]

    def _put(self, market: Market, symbol: str, start_ms: int, side: int, bar: MinuteBar) -> None:
        newest_ms = self._newest_ms.get(market, start_ms)
        if start_ms < self._since_ms[market] or start_ms <= newest_ms - WAIT_MS:
            return  # of before the exchange sent bars, or compared already
        pair = self._bars[market].setdefault(start_ms, {}).setdefault(symbol, [None, None])
        self._agreements[market].sent_again += side == 1 and pair[1] is not None
        self._count += pair == [None, None]
        pair[side] = bar
        if start_ms > newest_ms or market not in self._newest_ms:
            self._newest_ms[market] = max(start_ms, newest_ms)
            for due_ms in sorted(at for at in self._bars[market] if at <= start_ms - WAIT_MS):
                for name, both in self._bars[market].pop(due_ms).items():
                    self._compare(market, name, due_ms, *both)
        while self._count > BARS_MAX:
            oldest_ms = min(self._bars[market])
            left_out = self._bars[market].pop(oldest_ms)
            self._count -= len(left_out)
            self._agreements[market].left_out += len(left_out)

    def _compare(
        self, market: Market, symbol: str, start_ms: int, mine: MinuteBar | None, theirs: MinuteBar | None
    ) -> None:
        self._count -= 1
        found = self._agreements[market]
        if any(g.market is market and g.from_ms < start_ms + MINUTE_MS and g.to_ms > start_ms for g in self._gaps):
            found.in_gaps += 1
            return
        fields = _differences(mine, theirs)
        found.compared += 1
        found.different += bool(fields)
        self._fields.update((market, name) for name in fields)
        if fields:
            example = {"market": market.name.lower(), "symbol": symbol, "start_ms": start_ms, "fields": fields}
            self._examples.append(example | {"ours": _said(mine), "theirs": _said(theirs)})
        if self._on_compared is not None:
            self._on_compared(market, fields)


def _bar(event: Mapping[str, Any]) -> MinuteBar | None:
    prices = {name: price_of(event.get(key)) for name, key in _PRICES.items()}
    exact = isinstance(event.get("dv"), str)
    volume = size_e8_of(event.get("dv") if exact else None, event.get("v"))
    if None in prices.values() or volume is None:
        return None
    opened, high, low, close = (price for price in prices.values() if price is not None)
    is_exact = exact or isinstance(event.get("v"), float)
    return MinuteBar(opened, high, low, close, volume / 1e8, price_of(event.get("vw")) or 0.0, is_exact)


def _said(bar: MinuteBar | None) -> dict[str, float] | None:
    return None if bar is None else {name: getattr(bar, name) for name in BAR_FIELDS[:6]}


def _differences(mine: MinuteBar | None, theirs: MinuteBar | None) -> list[str]:
    if mine is None:
        return ["missing"]
    if theirs is None:
        return ["extra"]
    fields = [name for name in _PRICES if getattr(mine, name) != getattr(theirs, name)]
    more = mine.volume - theirs.volume
    if abs(more) > VOLUME_SHARE * theirs.volume + 5e-9 if theirs.is_exact else not -5e-9 <= more < 1:
        fields.append("volume")
    if mine.vwap and theirs.vwap and abs(mine.vwap / theirs.vwap - 1) > VWAP_SHARE:
        fields.append("vwap")
    return fields
