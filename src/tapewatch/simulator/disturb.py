"""What a fault does to the events of one market on their way out: held back, repeated, altered, mixed with rubbish.

    due ──► hold back (burst, late, reorder) ──► alter (future, floats ...) ──► mix (bad events) ──► out
                 └── given out when their time has come, unless what goes out now is going to be lost

No trade is ever lost or invented here: whatever was due goes out, once at least, sooner or later. While the caller says
that what goes out is *lossy* (half open, cut in the middle), only trades in their right order go out: one that is late
*and* lost would be in no gap that any client can name, since a gap is a stretch of time.

Pure: no I/O and no clock; the random numbers come from the caller.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec

from tapewatch.simulator.chaos import Act, Fault
from tapewatch.simulator.tape import NS_PER_MS, Due

__all__ = ["Disturber", "Outgoing"]

REORDER_S_MAX: Final = 0.9
LATE_S: Final = (2.0, 90.0)
LATE_SHARE: Final = 0.2
FUTURE_S: Final = (5.0, 600.0)
FUTURE_SHARE: Final = 0.3
REPEAT_S_MAX: Final = 10.0
REPEAT_TRADES_MAX: Final = 20_000
RESUME_REPEAT_SHARE: Final = 0.5
LARGE_BYTES: Final = 2 << 20
SEQUENCE_BACK: Final = 1_000
DEEP: Final = 100_000
_SECOND_NS: Final = 1_000_000_000

_MALFORMED: Final = (
    b"not json",
    b"",
    b"{}",
    b'"[]"',
    b'[{"ev":"T","sym":"AAPL","p":1',
    b'[{"ev":"T"},,]',
    b'[{"ev":"T","sym":"\xff\xfe"}]',
    b"\x00\x01\x02",
    b"[" * DEEP,
    b'{"ev":"status"}',
)
_BAD_EVENTS: Final[tuple[Any, ...]] = (
    17,
    None,
    "T",
    [],
    {},
    {"ev": None},
    {"ev": "T"},
    {"ev": "T", "sym": "AAPL", "p": "high", "t": 1},
    {"ev": "T", "sym": 5, "p": 1.0, "s": 1, "t": 1},
    {"ev": "T", "sym": "AAPL", "p": -1.0, "s": 1, "t": 1, "i": "1"},
    {"ev": "T", "sym": "AAPL", "p": 1.0, "s": 1, "t": -5, "i": "1"},
    {"ev": "XT", "pair": "BTC-USD", "p": 1.0, "s": 10**30, "t": 1, "i": "1"},
    {"ev": "T", "sym": "A" * 300, "p": 1.0, "s": 1, "t": 1},
    {"ev": "T", "sym": "AAPL", "p": 1.0, "s": 1, "t": 1, "c": [2**70]},
)
_UNKNOWN_EVENTS: Final[tuple[Any, ...]] = (
    {"ev": "ZZ", "sym": "AAPL", "p": 1.0},
    {"ev": "LULD", "T": "AAPL", "h": 300.0, "l": 200.0, "t": 1788877046310003385},
    {"ev": "", "sym": "AAPL"},
)
_STATUSES: Final[tuple[Any, ...]] = (
    {"ev": "status", "status": "maintenance", "message": "soon"},
    {"ev": "status", "status": "", "message": ""},
    {"ev": "status", "message": 7},
    {"ev": "status"},
)
_ODD_CODES: Final = ((99,), (255, 201), (0,), (9_999,), tuple(range(100, 112)))


class Outgoing(NamedTuple):
    """What is to be sent: events, whose ``symbol`` is empty when they are rubbish for everybody, and whole frames."""

    events: list[Due]
    frames: list[bytes]


class Disturber:
    """The faults of one market's stream. ``rng`` draws all details."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._until_ns: dict[Fault, int] = {}
        self._held: list[tuple[int, int, Due]] = []
        self._numbers = count()
        self._recent: deque[Due] = deque(maxlen=REPEAT_TRADES_MAX)
        self._repeat_since_ns: int | None = None
        self._frames: list[bytes] = []
        self._rubbish: list[Any] = []

    @property
    def is_holding(self) -> bool:
        """Trades are held back that are still to go out."""
        return bool(self._held)

    def begin(self, act: Act, now_ns: int) -> None:
        """A fault of what is sent begins."""
        match act.fault:
            case Fault.REPEAT:
                self._repeat(act.seconds, now_ns)
            case Fault.MALFORMED:
                self._frames += self._rng.sample(_MALFORMED, self._rng.randint(1, 4))
            case Fault.BAD_EVENT:
                self._rubbish += self._rng.sample(_BAD_EVENTS, self._rng.randint(1, 6))
            case Fault.UNKNOWN_EVENT:
                self._rubbish += _UNKNOWN_EVENTS
            case Fault.STATUS:
                self._rubbish += self._rng.sample(_STATUSES, 2)
                self._frames.append(msgspec.json.encode([self._rng.choice(_STATUSES)]))
            case Fault.LARGE_FRAME:
                self._rubbish.append({"ev": "ZZ", "padding": "x" * LARGE_BYTES})
            case _:
                self._until_ns[act.fault] = now_ns + int(act.seconds * _SECOND_NS)

    def resumed(self, now_ns: int) -> None:
        """Somebody listens again after nobody did: the service may send once more what it has sent already."""
        if self._rng.random() < RESUME_REPEAT_SHARE:
            self._repeat(self._rng.uniform(0.5, REPEAT_S_MAX), now_ns)

    def pass_on(self, due: Sequence[Due], now_ns: int, *, lossy: bool = False) -> Outgoing:
        """What goes out now that ``due`` is due. With ``lossy`` it will not arrive, or not all of it."""
        out: list[Due] = []
        for one in due:
            self._recent.append(one)
            release_ns = self._release_ns(now_ns)
            if release_ns is None:
                out.append(one)
            else:
                heapq.heappush(self._held, (release_ns, next(self._numbers), one))
        if lossy:
            return Outgoing([self._altered(one, now_ns) for one in out], [])
        while self._held and self._held[0][0] <= now_ns:
            out.append(heapq.heappop(self._held)[2])
        if self._repeat_since_ns is not None:
            since_ns, self._repeat_since_ns = self._repeat_since_ns, None
            out += [one for one in self._recent if one.time_ns >= since_ns]
        out = [self._altered(one, now_ns) for one in out]
        if out and self._rubbish:
            for event in self._rubbish:
                out.insert(self._rng.randint(0, len(out)), Due(now_ns, 0, "", event))
            self._rubbish = []
        frames, self._frames = self._frames, []
        return Outgoing(out, frames)

    def bars(self, made: Sequence[Any], now_ns: int) -> list[Any]:
        """Bars that are due, and perhaps each once more with another volume, as the service corrects them."""
        if not self._is_on(Fault.REPEAT_BARS, now_ns):
            return list(made)
        again: list[Any] = [msgspec.to_builtins(bar) for bar in made]
        for bar in again:
            if "v" in bar:
                bar["v"] += 1
        return [*made, *again]

    def _repeat(self, seconds: float, now_ns: int) -> None:
        self._repeat_since_ns = now_ns - int(seconds * _SECOND_NS)

    def _is_on(self, fault: Fault, now_ns: int) -> bool:
        return self._until_ns.get(fault, 0) > now_ns

    def _release_ns(self, now_ns: int) -> int | None:
        """Until when the next trade is held back; None lets it go."""
        if self._is_on(Fault.BURST, now_ns):
            return self._until_ns[Fault.BURST]
        if self._is_on(Fault.LATE, now_ns) and self._rng.random() < LATE_SHARE:
            return now_ns + int(self._rng.uniform(*LATE_S) * _SECOND_NS)
        if self._is_on(Fault.REORDER, now_ns):
            return now_ns + int(self._rng.uniform(0.0, REORDER_S_MAX) * _SECOND_NS)
        return None

    def _altered(self, one: Due, now_ns: int) -> Due:
        """The same trade with another look. Its identity is never touched."""
        on = [fault for fault in _LOOKS if self._is_on(fault, now_ns)]
        if not on:
            return one
        event: dict[str, Any] = dict(msgspec.to_builtins(one.event))
        for fault in on:
            _LOOKS[fault](self._rng, event)
        return one._replace(event=event)


def _future(rng: random.Random, event: dict[str, Any]) -> None:
    if rng.random() < FUTURE_SHARE and "t" in event:
        event["t"] += int(rng.uniform(*FUTURE_S) * _SECOND_NS / NS_PER_MS)


def _conditions(rng: random.Random, event: dict[str, Any]) -> None:
    event["c"] = [*event.get("c", ()), *rng.choice(_ODD_CODES)]


def _sequence(rng: random.Random, event: dict[str, Any]) -> None:
    if "q" in event:
        event["q"] = max(0, event["q"] - rng.randint(1, SEQUENCE_BACK))


def _floats(rng: random.Random, event: dict[str, Any]) -> None:
    for name in ("t", "s", "x", "z", "q", "pt", "trfi"):
        if isinstance(event.get(name), int) and rng.random() < 0.7:
            event[name] = float(event[name])


def _unknown_fields(rng: random.Random, event: dict[str, Any]) -> None:
    event["zz"] = {"deep": [[1, {"sym": "ZZZ"}]], "text": '}],"'}
    event["p2"] = rng.random()


_LOOKS: Final = {
    Fault.FUTURE: _future,
    Fault.CONDITIONS: _conditions,
    Fault.SEQUENCE: _sequence,
    Fault.UNKNOWN_FIELDS: _unknown_fields,
    Fault.FLOATS: _floats,
}
"""The faults that alter single events, in this order."""
