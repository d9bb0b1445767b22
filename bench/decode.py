"""What it costs to turn frames of trades into columns, and where the time goes.

    python bench/decode.py

CPU nanoseconds per trade, the least of several repetitions, so that other work on the machine disturbs little; compare
figures of one run only. The trades are synthetic, with all fields the exchange sends; waiting frames are decoded
together up to `DECODE_EVENTS_MAX` events, as the feed does. Then other ways are measured beside it.
"""

from __future__ import annotations

import operator
import platform
import random
import string
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.records import Batch, Market, Tables
from tapewatch.settings import DECODE_EVENTS_MAX

TRADES = 40_000
REPETITIONS = 7
CONDITIONS: tuple[list[int], ...] = ([], [], [37], [14, 41], [12, 37], [12, 14, 37, 41])
SIZES = ("100.0", "100.0", "1.0", "5.0", "37.0", "200.0", "0.25", "1000.0")


def make_frames(symbols: int, events: int, seed: int = 1) -> list[tuple[Market, bytes, int]]:
    """About `TRADES` trades of ``symbols`` symbols with skewed weights, in frames of ``events``."""
    rng = random.Random(seed)
    letters = string.ascii_uppercase  # with a digit, some would be futures
    names = ["".join(letters[n // 26**place % 26] for place in range(3)) for n in range(symbols)]
    picked = rng.choices(names, [1 / (n + 1) for n in range(symbols)], k=TRADES)
    trades = [_trade(name, number, rng) for number, name in enumerate(picked)]
    return [
        (Market.STOCKS, msgspec.json.encode(trades[start : start + events]), 1_788_877_046_400_000_000)
        for start in range(0, TRADES, events)
    ]


def _trade(name: str, number: int, rng: random.Random) -> dict[str, Any]:
    time_ms = 1_788_877_046_310 + number // 10
    size = rng.choice(SIZES)
    trade: dict[str, Any] = {"ev": "T", "sym": name, "x": rng.randint(1, 20), "i": str(52_983_525 + number), "z": 3}
    trade |= {"p": round(rng.uniform(10, 500), 2), "s": int(float(size)), "ds": size}
    if codes := rng.choice(CONDITIONS):
        trade["c"] = codes
    trade |= {"t": time_ms, "pt": time_ms - 1, "q": 3_000_000 + number}
    return trade | ({"x": 4, "trfi": 202, "trft": time_ms} if rng.random() < 0.4 else {})


def cost_ns(work: Callable[[], object]) -> float:
    """CPU nanoseconds per trade of ``work``, which handles `TRADES` of them."""
    best = float("inf")
    for _ in range(REPETITIONS):
        started = time.process_time_ns()
        work()
        best = min(best, time.process_time_ns() - started)
    return best / TRADES


def decode_all(decoder: Decoder, frames: Sequence[tuple[Market, bytes, int]], together: int) -> Iterator[Batch]:
    """Decode ``together`` frames at a time. Nothing is kept, as in the feed: memory in the cache is used again."""
    for at in range(0, len(frames), together):
        yield decoder.decode(frames[at : at + together]).batch


def consume(batches: Iterable[object]) -> None:
    """Run through, keeping nothing."""
    deque(batches, maxlen=0)


def print_decoding() -> None:
    """The whole step, by symbols and events per frame."""
    print(f"{'frames of':>12}{'alone':>10}{'together':>10}   (ns per trade)")
    for symbols in (3, 500, 11_000):
        for events in (1, 10, 100, 1_000):
            frames = make_frames(symbols, events)
            decoder = Decoder(Tables())
            together = max(1, DECODE_EVENTS_MAX // events)
            consume(decode_all(decoder, frames, together))
            alone = cost_ns(lambda d=decoder, f=frames: consume(decode_all(d, f, 1)))
            joined = cost_ns(lambda d=decoder, f=frames, n=together: consume(decode_all(d, f, n)))
            print(f"{events:>12}{alone:>10.0f}{joined:>10.0f}   {symbols} symbols, {1_000 / joined:.2f} M/s")


class Typed(msgspec.Struct, tag_field="ev", tag="T", gc=False):
    """A trade as msgspec would read it, for comparison: fields in the order of the wire, which is quickest."""

    sym: str
    x: int
    i: str
    p: float
    ds: str
    t: int
    c: tuple[int, ...] = ()
    trfi: int = 0


def print_parts() -> None:
    """The test for repeats, and beside `scan.py` the ways it was chosen over."""
    frames = make_frames(500, 100)
    parser = msgspec.json.Decoder(list[Typed])
    anything = msgspec.json.Decoder()
    print(f"\nparts and other ways (500 symbols, frames of 100, {len(frames[0][1]) / 100:.0f} bytes a trade)")
    trades = [trade for _, data, _ in frames for trade in parser.decode(data)]
    chunks = [trades[at : at + 1_000] for at in range(0, TRADES, 1_000)]
    batches = list(decode_all(Decoder(Tables()), frames, DECODE_EVENTS_MAX // 100))
    Seen().filter(batches[0])  # compiles
    odd = [(market, data.replace(b'"z":3', b'"z":{}'), now_ns) for market, data, now_ns in frames]
    read_field = operator.attrgetter("p")
    ways: dict[str, Callable[[], object]] = {
        "test for repeats": lambda: consume(map(Seen().filter, batches)),
        "frames that scan.py leaves to events.py": lambda: consume(decode_all(Decoder(Tables()), odd, 10)),
        "msgspec, any JSON": lambda: consume(anything.decode(data) for _, data, _ in frames),
        "msgspec, typed, without columns": lambda: consume(parser.decode(data) for _, data, _ in frames),
        "one column: np.fromiter of a comprehension": lambda: consume(
            np.fromiter([t.p for t in chunk], np.float64, len(chunk)) for chunk in chunks
        ),
        "one column: np.array of a comprehension": lambda: consume(
            np.array([t.p for t in chunk], np.float64) for chunk in chunks
        ),
        "one column: np.fromiter of map(attrgetter)": lambda: consume(
            np.fromiter(map(read_field, chunk), np.float64, len(chunk)) for chunk in chunks
        ),
        "eight columns: zip of astuple": lambda: consume(
            zip(*map(msgspec.structs.astuple, chunk), strict=True) for chunk in chunks
        ),
    }
    for name, way in ways.items():
        print(f"  {name:<44}{cost_ns(way):6.0f}")


if __name__ == "__main__":
    print(
        f"{platform.machine()}, CPython {platform.python_version()}, "
        f"msgspec {msgspec.__version__}, NumPy {np.__version__}"
    )
    print_decoding()
    print_parts()
