"""Ticks made from a recording's own time, for replays: from sockets and from files alike.

    trades   10.2   10.9   11.1   13.4   12.7   14.0
    ticks                 ▲11    ▲13           ▲14      each before the trade that first passed a whole second

One tick for each passage, not for each second passed; `closing_ticks` gives the seconds after the last trade.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tapewatch.records import COLUMNS, RECORD, Batch, Kind, Market

__all__ = ["SECOND_MS", "closing_ticks", "tick_row", "with_ticks"]

SECOND_MS: Final = 1_000
_MS_NS: Final = 1_000_000


def tick_row(market: Market, time_ms: int, received_ns: int) -> tuple[Any, ...]:
    """A tick as `Batch.of` takes it."""
    return (Kind.TICK, market, -1, time_ms, received_ns, 0.0, 0, 0, 0, 0, "")


def with_ticks(batch: Batch, last_ms: int | None) -> Batch:
    """The batch with its ticks put in; every row's receipt is its event time.

    ``batch`` holds trades of one market, in order of arrival, possibly out of order in time. ``last_ms`` is the
    greatest event time of the market before it; None if there was none, and the first trade then passes nothing.
    The result does not depend on how a recording is cut into batches.
    """
    if len(batch) == 0:
        return batch
    first = batch.time_ms[0] if last_ms is None else last_ms
    seconds = np.maximum.accumulate(np.concatenate(([first], batch.time_ms))) // SECOND_MS
    at = np.flatnonzero(seconds[1:] > seconds[:-1])
    tick_ms = seconds[at + 1] * SECOND_MS
    columns: dict[str, Any] = {
        name: np.insert(getattr(batch, name), at, RECORD[name].type(value))
        for name, value in zip(COLUMNS, tick_row(Market(int(batch.market[0])), 0, 0), strict=False)
    }
    columns["time_ms"] = np.insert(batch.time_ms, at, tick_ms)
    columns["received_ns"] = columns["time_ms"] * _MS_NS
    ids: list[str] = []
    before = 0
    for row in at.tolist():
        ids += batch.ids[before:row]
        ids.append("")
        before = row
    ids += batch.ids[before:]
    return Batch(**columns, ids=ids)


def closing_ticks(market: Market, last_ms: int, until_ms: int) -> Batch:
    """One tick for each whole second after ``last_ms`` up to ``until_ms``, which may itself be one."""
    times = range((last_ms // SECOND_MS + 1) * SECOND_MS, until_ms + 1, SECOND_MS)
    return Batch.of([tick_row(market, time_ms, time_ms * _MS_NS) for time_ms in times])
