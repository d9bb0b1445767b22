"""Compile everything that `@compiled` marks, with the very kinds of arguments the pipeline uses.

    python -m tapewatch.warm

To be run once after an installation: then every start loads the machine code from the cache (`compiled.py`), and the
first trade does not wait for the compiler. A test holds that the pipeline needs nothing beyond what is compiled here.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from tapewatch.engine.engine import Engine, engine_params
from tapewatch.feed.conditions import eligibility
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.protocol import Cause
from tapewatch.feed.queue import Frame, GapEnd, Item, TickDue
from tapewatch.records import Batch, Kind, Market, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, Rules

_START_MS: Final = 1_700_000_040_000
_SYMBOLS: Final = 600  # more than a table of names holds before it grows


def warm() -> None:
    """Take a few trades, a tick and a gap from their frames to rows, and change the rules."""
    tables = Tables()
    ingest = Ingest(tables, Seen())
    params = engine_params(
        Rules(), window_ms=300_000, slide_ms=60_000, watermark_delay_ms=60_000, confirm_delay_ms=2_000,
        future_limit_ms=60_000,
    )  # fmt: skip
    engine = Engine(params, Rules(), {}, tables, eligibility)
    for minute in range(3):
        batch = ingest.step(_items(_START_MS + minute * 600_000))
        batch.offset = engine.position or 0
        engine.step(batch)
        engine.drain()
    engine.restore(engine.snapshot(), batch.offset + len(batch))
    change = RuleChange(Rules(golden_cross=CrossRule(enabled=False)), "api", _START_MS + 1_800_000)
    engine.step(Batch.of([change.row(Kind.RULES, 0)]))


def _items(time_ms: int) -> list[Item]:
    trades = [
        {"ev": "T", "sym": f"S{n}", "i": f"{time_ms}{n}", "x": 4, "p": 100.0 + n, "s": 1, "ds": "1.0", "t": time_ms}
        for n in range(_SYMBOLS)
    ]
    at_ns = time_ms * 1_000_000
    return [
        Frame(Market.STOCKS, msgspec.json.encode(trades), at_ns),
        TickDue(Market.STOCKS, time_ms + 1_000, at_ns),
        GapEnd(Market.STOCKS, time_ms + 599_000, Cause.CUT, (), at_ns),
    ]


if __name__ == "__main__":
    started = time.perf_counter()
    warm()
    print(f"Compiled, or found compiled, in {time.perf_counter() - started:.1f} s.")
