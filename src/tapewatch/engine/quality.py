"""Quality of a symbol's minute: what came, and what of it was excluded, late or stamped too far ahead.

Counted in the symbol's row, and given out when the minute is left or the engine is drained.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from tapewatch.compiled import inlined
from tapewatch.engine.state import FUTURE, LATE, QUALITY, Output, State

MINUTE_MS = 60_000


@inlined
def count_quality(state: State, s: int, time_ms: int, decision: int, priced: bool, out: Output) -> None:
    """Count the trade in its minute; a minute that is left goes to ``out``."""
    symbol = state.symbols[s]
    minute = time_ms - time_ms % MINUTE_MS
    if minute != symbol["q_minute_ms"]:
        give_quality(state, s, out)
        symbol["q_minute_ms"] = minute
    symbol["q_trades"] += 1
    if decision == LATE:
        symbol["q_late"] += 1
    elif decision == FUTURE:
        symbol["q_future"] += 1
    elif not priced:
        symbol["q_excluded"] += 1


@inlined
def give_quality(state: State, s: int, out: Output) -> None:
    """Put what was counted for the symbol's minute into ``out``."""
    symbol = state.symbols[s]
    if symbol["q_trades"] == 0:
        return
    row = out.quality[out.counts[QUALITY]]
    out.counts[QUALITY] += 1
    row["symbol"] = s
    row["minute_ms"] = symbol["q_minute_ms"]
    row["trades"] = symbol["q_trades"]
    row["excluded"] = symbol["q_excluded"]
    row["late"] = symbol["q_late"]
    row["future"] = symbol["q_future"]
    row["gap_ms"] = 0
    symbol["q_trades"] = 0
    symbol["q_excluded"] = 0
    symbol["q_late"] = 0
    symbol["q_future"] = 0
