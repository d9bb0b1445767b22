"""A tape to measure with: trades as the exchange writes them, encoded once and then only stamped anew.

    {"ev":"T","sym":…,"x":…,"i":…,"z":…,"p":…,"s":…,"ds":…,"c":[…],"t":…,"q":…,"trfi":…,"trft":…}

Of the trades 45 % are odd lots (code 37, mostly with a decimal size), 30 % have another condition, 40 % are reported by
a trade reporting facility, and 5 % come out of order by up to 300 ms. Symbols are skewed as 1 / rank. Prices walk, and
end where they began, since the tape is played again and again. Every id is new for ever, so that nothing is a repeat.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

SEED = 1
_ID_DIGITS, _TIME_DIGITS = 14, 13
_ID, _TIME = "1" * _ID_DIGITS, 1_111_111_111_111
_OTHER_CODES = ((14,), (41,), (14, 41), (12,), (12, 14), (52,), (9,), (10,))
_TENS = {digits: 10 ** np.arange(digits - 1, -1, -1, dtype=np.int64) for digits in (_ID_DIGITS, _TIME_DIGITS)}


def names(symbols: int) -> list[str]:
    """So many different symbols that look like stocks."""
    letters = string.ascii_uppercase  # with a digit, some would be futures
    return ["".join(letters[n // 26**place % 26] for place in range(4)) for n in range(symbols)]


class Tape:
    """An endless tape; ``next_frame`` gives one frame after the other."""

    def __init__(self, symbols: Sequence[str], per_frame: int, *, trades: int = 40_000, seed: int = SEED) -> None:
        rng = random.Random(seed)
        self.per_frame = per_frame
        self.trades_given = 0
        self._next = 0
        weights = [1 / (n + 1) for n in range(len(symbols))]
        order = rng.choices(symbols, weights, k=max(trades // per_frame, 1) * per_frame)
        prices = _walks(order, rng)
        events = [_trade(name, price, rng) for name, price in zip(order, prices, strict=True)]
        self._frames = [_Template(events[at : at + per_frame], rng) for at in range(0, len(events), per_frame)]

    def next_frame(self, time_ms: int) -> bytes:
        """The next frame, of trades that happened at ``time_ms``, but for those out of order."""
        template = self._frames[self._next % len(self._frames)]
        self._next += 1
        data = template.stamped(self.trades_given, time_ms)
        self.trades_given += self.per_frame
        return data


class _Template:
    def __init__(self, events: list[dict[str, Any]], rng: random.Random) -> None:
        data = msgspec.json.encode(events)
        self._data = np.frombuffer(bytearray(data), np.uint8)
        self._ids = _places(data, b'"i":"', _ID_DIGITS)
        self._times = _places(data, b'"t":', _TIME_DIGITS)
        self._numbers = np.arange(len(events))
        self._back_ms = np.array([rng.randint(1, 300) if rng.random() < 0.05 else 0 for _ in events])

    def stamped(self, first_id: int, time_ms: int) -> bytes:
        self._data[self._ids] = _digits(first_id + self._numbers, _ID_DIGITS)
        self._data[self._times] = _digits(time_ms - self._back_ms, _TIME_DIGITS)
        return self._data.tobytes()


def _places(data: bytes, before: bytes, digits: int) -> Any:
    """Where the digits after each ``before`` are: one row of positions for each."""
    starts = []
    at = data.find(before)
    while at >= 0:
        starts.append(at + len(before))
        at = data.find(before, at + 1)
    return np.array(starts)[:, None] + np.arange(digits)


def _digits(numbers: Any, digits: int) -> Any:
    return (numbers[:, None] // _TENS[digits] % 10 + 48).astype(np.uint8)


def _walks(order: Sequence[str], rng: random.Random) -> list[float]:
    """A price for each trade: a walk for each symbol, of about 1 basis point a trade, back to where it began."""
    last = dict.fromkeys(order, 0.0)
    steps = []
    for name in order:
        last[name] += rng.gauss(0, 1e-4)
        steps.append(last[name])
    count = dict.fromkeys(order, 0)
    total = Counter(order)
    base = {name: rng.uniform(10, 500) for name in count}
    prices = []
    for name, step in zip(order, steps, strict=True):
        count[name] += 1
        prices.append(round(base[name] * (1 + step - last[name] * count[name] / total[name]), 2))
    return prices


def _trade(name: str, price: float, rng: random.Random) -> dict[str, Any]:
    is_odd = rng.random() < 0.45
    size = rng.choice(("0.25", "1.5", "7.125", "12.0", "40.0")) if is_odd else rng.choice(("100.0", "200.0", "1000.0"))
    codes = [*rng.choice(_OTHER_CODES)] if rng.random() < 0.3 else []
    exchange = 4 if rng.random() < 0.4 else rng.randint(5, 20)
    trade: dict[str, Any] = {"ev": "T", "sym": name, "x": exchange, "i": _ID, "z": rng.randint(1, 3), "p": price}
    trade |= {"s": int(float(size)), "ds": size}
    if codes or is_odd:
        trade["c"] = codes + [37] * is_odd
    trade |= {"t": _TIME, "q": rng.randint(1_000_000, 9_999_999)}
    return trade | ({"trfi": 202, "trft": _TIME} if exchange == 4 else {})
