"""Seeded logs with everything in them that a feed may bring: late, future, repeated, out of order, ineligible, gaps.

And, where one asks for it (`ruled`), changes of the alert rules on the way.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from tapewatch.feed.symbols import market_of
from tapewatch.log.local import LogWriter
from tapewatch.records import E8, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, ExtremeRule, LevelRule, MoveRule, Rules, VolumeRule

START_MS = 1_769_092_200_000 - 600_000
"""Ten minutes before 2026-01-22 09:30 in New York, a Thursday."""
SYMBOLS = (
    "AAPL", "MSFT", "BRK.B", "TSLA", "GOOGL", "NVDA", "BTC", "ETH", "O:SPY260220C00650000", "ESH6", "C:EURUSD", "I:SPX",
)  # fmt: skip
WITHOUT_VOLUME = (Market.FOREX, Market.INDICES)
CODES = ((), (), (), (14,), (37,), (12,), (12, 37), (15,), (10,), (99,), (53,), (14, 41))

_FIRST = Rules(
    golden_cross=CrossRule(cooldown_ms=0, band_bps=1.0),
    a=CrossRule(right="sma(3)", direction="either", cooldown_ms=0),
    b=MoveRule(percent=0.05, within_ms=120_000, direction="either", cooldown_ms=0),
    c=VolumeRule(multiple=1.2, panes=3, panes_min=1, cooldown_ms=0),
)
CHANGES = (
    (0.01, _FIRST),
    (0.03, Rules()),
    (0.1, _FIRST),
    (0.3, _FIRST.changed(a=CrossRule(right="ema(2)", cooldown_ms=0), d=ExtremeRule(of="2", cooldown_ms=0))),
    (0.5, _FIRST.changed(a=CrossRule(right="ema(3)", symbols=("!BTC",)), e=LevelRule(level=100, symbols=("MSFT",)))),
    (0.8, _FIRST),
)
"""From so much of the log on, these rules hold."""


def ruled(batch: Batch) -> Batch:
    """The same log with `CHANGES`; the first ones come while some symbols have not traded yet."""
    pieces, at = list[Batch](), 0
    for part, rules in CHANGES:
        stop = int(part * len(batch))
        change = RuleChange(rules, "file", int(batch.time_ms[max(stop - 1, 0)]))
        pieces += [batch.slice(at, stop), Batch.of([change.row(Kind.RULES, int(batch.received_ns[stop]))])]
        at = stop
    whole = Batch.join([piece for piece in (*pieces, batch.slice(at, len(batch))) if len(piece)])
    whole.offset = 0
    return whole


def chaos(seed: int, tables: Tables, *, seconds: int = 1_500, a_second: float = 3.0) -> Batch:
    """All records of such a log, in its order."""
    random = Random(seed)
    prices = {name: random.uniform(20, 500) for name in SYMBOLS}
    rows: list[tuple[object, ...]] = []
    ids = 0
    for second in range(seconds):
        now_ms = START_MS + 1_000 * second
        for market in Market:
            if random.random() < 0.97:
                rows.append((Kind.TICK, market, -1, now_ms, now_ms * 1_000_000, 0.0, 0, 0, 0, 0, ""))
        if random.random() < 0.004:
            rows.append(_gap(random, now_ms))
        burst = 40 if random.random() < 0.01 else 1
        for _ in range(round(random.expovariate(1 / a_second)) * burst):
            name = random.choices(SYMBOLS, (8, 5, 1, 5, 2, 1, 6, 1, 1, 2, 2, 1))[0]
            prices[name] *= 1 + random.gauss(0, 6e-4)
            time_ms = now_ms + random.randrange(1_000) + _shift_ms(random)
            ids += 1
            market = market_of(name)
            size = random.choice((100 * E8, E8, 37 * E8, 25_000_000, 1))
            row = (
                Kind.TRADE, market, tables.symbols.index(name), time_ms, (now_ms + 1_500) * 1_000_000,
                round(prices[name], 2), 0 if market in WITHOUT_VOLUME else size,
                random.choice((4, 11, 12)), random.choice((0, 201)),
                tables.conditions.index(random.choice(CODES) if market is Market.STOCKS else ()),
                f"t{ids}" if random.random() < 0.95 else "",
            )  # fmt: skip
            rows.append(row)
            if row[-1] == "" and random.random() < 0.3:
                rows.append(row)  # without an id nobody knows a repeat
    batch = Batch.of(rows)
    batch.offset = 0
    return batch


def _shift_ms(random: Random) -> int:
    """Most trades come as they happen; some a little late, some very, some from the future."""
    return random.choices((0, -random.randrange(3_000), -random.randrange(200_000), 60_000 + random.randrange(90_000)),
                          (80, 14, 4, 2))[0]  # fmt: skip


def _gap(random: Random, now_ms: int) -> tuple[object, ...]:
    market = random.choice(list(Market))
    length_ms = random.choice((500, 4_000, 90_000, 400_000))
    gap = Gap(market=market, from_ms=now_ms - length_ms, to_ms=now_ms, cause="cut", symbols=["AAPL"])
    return (Kind.GAP, market, -1, now_ms, now_ms * 1_000_000, 0.0, 0, 0, 0, 0, gap.encode())


def write_chaos(path: Path, seed: int, **size: float) -> Path:
    """The same as a log on disk, with changes of the rules."""
    tables = Tables()
    batch = ruled(chaos(seed, tables, **size))  # type: ignore[arg-type]
    with LogWriter.open(path, tables, origin=Origin.REPLAYED) as writer:
        for start in range(0, len(batch), 777):
            writer.append(batch.slice(start, min(start + 777, len(batch))))
    return path
