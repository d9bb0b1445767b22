"""When each market's feed was connected during the last day, and when not: from the gaps, the calendar and the feeds.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from tapewatch.records import Market
from tapewatch.serve.models import parse_time_ms
from tapewatch.serve.shapes import iso
from tapewatch.sessions import Calendar, Sessions

__all__ = ["connections"]

_DAY_MS: Final = 86_400_000
_CALM: Final = ("live", "closed")
Row = dict[str, Any]
Stretch = tuple[int, int, str, str | None]
"""From and to in Unix ms, state, cause."""


def connections(
    feeds: Sequence[Row], gaps: Sequence[Row], now_ms: int, known_ms: int | None, calendar: Calendar | None
) -> list[Row]:
    """The stretches of the last day of each market, oldest first; the last one is how its feed is now.

    ``known_ms`` is when the log began: from then on, what is no gap was received. None where that is not known: then
    only gaps are told, and the feeds since they are as they are. ``calendar`` says when each market was closed; None
    where the markets of the feed never are. States: live, gap, filled (a gap whose trades were fetched later), closed,
    or the state of a feed that is not well.
    """
    found = []
    for feed in feeds:
        market, since_ms = feed["market"], now_ms - _DAY_MS
        breaks = sorted(_breaks(market, gaps, since_ms, now_ms))
        since = feed.get("since") or feed.get("last_trade_at")
        started_ms = min(max(since_ms, parse_time_ms(since)), now_ms) if since else since_ms
        days = calendar.get(Market[market.upper()]) if calendar else None
        # One that lags is connected: this is not about how old things are.
        word = "live" if feed["state"] == "lagging" else feed["state"]
        if word not in _CALM:
            stretches = _between(breaks, known_ms, since_ms, started_ms, days)
            stretches.append((started_ms, now_ms, word, feed.get("detail")))
        else:
            stretches = _between(breaks, started_ms if known_ms is None else known_ms, since_ms, now_ms, days)
            if not stretches or stretches[-1][2] != word:
                start_ms = max(started_ms, stretches[-1][1]) if stretches else started_ms
                stretches.append((start_ms, now_ms, word, feed.get("detail")))
        found += [
            {"market": market, "from": iso(start), "to": iso(end), "state": state, "cause": cause}
            for start, end, state, cause in stretches
        ]
        found[-1]["to"] = None
    return found


def _breaks(market: str, gaps: Sequence[Row], since_ms: int, now_ms: int) -> list[Stretch]:
    """The market's gaps, as far as they lie in the day."""
    found = []
    for gap in gaps:
        start_ms, end_ms = parse_time_ms(gap["gap_from"]), parse_time_ms(gap["gap_to"])
        if gap["market"] == market and end_ms > since_ms and start_ms < now_ms:
            state = "filled" if gap["backfilled"] else "gap"
            found.append((max(start_ms, since_ms), min(end_ms, now_ms), state, gap["cause"]))
    return found


def _between(
    breaks: Sequence[Stretch], known_ms: int | None, since_ms: int, until_ms: int, days: Sessions | None
) -> list[Stretch]:
    """The breaks, and between them what was received or closed, from ``known_ms`` on."""
    found: list[Stretch] = []
    at_ms = until_ms if known_ms is None else max(known_ms, since_ms)
    for one in breaks:
        found += _open_and_closed(at_ms, min(one[0], until_ms), days)
        found.append(one)
        at_ms = max(at_ms, one[1])
    return found + _open_and_closed(at_ms, until_ms, days)


def _open_and_closed(start_ms: int, end_ms: int, days: Sessions | None) -> list[Stretch]:
    """[start_ms, end_ms), cut where the market opened and closed."""
    if start_ms >= end_ms:
        return []
    if days is None:
        return [(start_ms, end_ms, "live", None)]
    turns = sorted({*days.day_open.tolist(), *days.day_close.tolist()})
    cuts = [start_ms, *(turn for turn in turns if start_ms < turn < end_ms), end_ms]
    return [(start, end, "live" if days.is_open(start) else "closed", None) for start, end in pairwise(cuts)]
