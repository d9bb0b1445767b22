"""What goes wrong, and when: a seeded script of faults for the simulator.

    seed ──► rounds of all faults, each round in another order, about `every_s` apart, for ever
    NAME@S ► this fault, S seconds after the first subscription

The same seed gives the same script. Time is the tape's, counted from the first subscription; a fault that is due while
nobody listens waits until somebody does. What a fault does to events is `disturb.py`'s affair, what it does to
connections `trouble.py`'s.

Pure: no I/O and no clock; the random numbers come from the caller.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["DATA_FAULTS", "FAULTS", "Act", "Fault", "Script", "read_act"]

EVERY_S: Final = 20.0
"""Seconds between two faults of a seeded script, about."""


class Fault(StrEnum):
    """What can go wrong; `FAULTS` says what each one is."""

    # the connection ends
    CLOSE = "close"
    GOING_AWAY = "going-away"
    CUT = "cut"
    CUT_FRAME = "cut-frame"
    SILENCE = "silence"
    SLOW_CONSUMER = "slow-consumer"
    FORCE_DISCONNECT = "force-disconnect"
    MAX_CONNECTIONS = "max-connections"
    OVERSIZED_FRAME = "oversized-frame"
    # and the next one does not begin as it should
    REFUSE = "refuse"
    NO_GREETING = "no-greeting"
    AUTH_TIMEOUT = "auth-timeout"
    NO_ACKS = "no-acks"
    # the connection lives on
    NO_PONGS = "no-pongs"
    PING = "ping"
    STATUS = "status"
    # what is sent is not as it should be
    REPEAT = "repeat"
    REORDER = "reorder"
    LATE = "late"
    FUTURE = "future"
    BURST = "burst"
    CONDITIONS = "conditions"
    SEQUENCE = "sequence"
    FLOATS = "floats"
    UNKNOWN_FIELDS = "unknown-fields"
    UNKNOWN_EVENT = "unknown-event"
    BAD_EVENT = "bad-event"
    MALFORMED = "malformed"
    LARGE_FRAME = "large-frame"
    REPEAT_BARS = "repeat-bars"


FAULTS: Final = {
    Fault.CLOSE: "a clean close, 1000, without a word",
    Fault.GOING_AWAY: "a clean close, 1001, as of a server that is stopped",
    Fault.CUT: "the connection drops without a close frame",
    Fault.CUT_FRAME: "the connection drops in the middle of a frame of trades",
    Fault.SILENCE: "half open: what is sent is lost, nothing is answered; dropped at last",
    Fault.SLOW_CONSUMER: "status slow_consumer, then 1008",
    Fault.FORCE_DISCONNECT: "status force_disconnect, then 1008",
    Fault.MAX_CONNECTIONS: "status max_connections, then 1008, as if another program had taken the place",
    Fault.OVERSIZED_FRAME: "a frame of 17 MiB that holds trades",
    Fault.REFUSE: "dropped, and new connections get HTTP 503 for some seconds",
    Fault.NO_GREETING: "dropped, and the next connection is never greeted",
    Fault.AUTH_TIMEOUT: "dropped, and the next connection's key gets auth_timeout",
    Fault.NO_ACKS: "dropped, and the next subscription brings data without an acknowledgement",
    Fault.NO_PONGS: "pings are not answered for some seconds, while data goes on",
    Fault.PING: "many pings at once",
    Fault.STATUS: "statuses of no known kind, alone and among trades",
    Fault.REPEAT: "the trades of the last seconds once more; also after many a resume",
    Fault.REORDER: "trades overtake one another by up to 0.9 s",
    Fault.LATE: "some trades come 2 to 90 s after their time",
    Fault.FUTURE: "some trades are stamped 5 to 600 s ahead",
    Fault.BURST: "nothing for 2 s, and then all of it at once",
    Fault.CONDITIONS: "condition codes that nobody knows, and very many of them",
    Fault.SEQUENCE: "sequence numbers step back",
    Fault.FLOATS: "whole numbers written as 12.0",
    Fault.UNKNOWN_FIELDS: "events with fields of no known name",
    Fault.UNKNOWN_EVENT: "events of no known kind among trades",
    Fault.BAD_EVENT: "broken events among good ones, in one frame",
    Fault.MALFORMED: "frames that are no JSON, or no array, or 100,000 brackets deep",
    Fault.LARGE_FRAME: "trades in a frame of 2 MiB",
    Fault.REPEAT_BARS: "bars are sent once more, with other volumes",
}
"""What each fault is, for the person."""

DATA_FAULTS: Final = frozenset(
    [
        Fault.REPEAT,
        Fault.REORDER,
        Fault.LATE,
        Fault.FUTURE,
        Fault.BURST,
        Fault.CONDITIONS,
        Fault.SEQUENCE,
        Fault.FLOATS,
        Fault.UNKNOWN_FIELDS,
        Fault.UNKNOWN_EVENT,
        Fault.BAD_EVENT,
        Fault.MALFORMED,
        Fault.LARGE_FRAME,
        Fault.REPEAT_BARS,
    ]
)
"""Faults of what is sent; the others are of the connection."""

_SECONDS: Final = {
    Fault.SILENCE: (5.0, 90.0),
    Fault.REFUSE: (1.0, 20.0),
    Fault.NO_PONGS: (20.0, 60.0),
    Fault.REPEAT: (1.0, 10.0),
    Fault.BURST: (2.0, 2.0),
}
"""How long a fault lasts; of `REPEAT`, how far back it goes."""
_SECONDS_DEFAULT: Final = (1.0, 6.0)


class Act(NamedTuple):
    """One fault of a script: when (seconds after the start), and for how long."""

    at_s: float
    fault: Fault
    seconds: float


@dataclass(slots=True)
class Script:
    """The faults to come, in the order of time.

    Args:
        rng: None is a script of the ``fixed`` acts alone.
        every_s: seconds between two drawn faults, about.
        faults: those that are drawn.
        until_s: after this nothing more is drawn.
    """

    rng: random.Random | None
    fixed: Sequence[Act] = ()
    every_s: float = EVERY_S
    faults: Collection[Fault] = tuple(Fault)
    until_s: float = float("inf")
    _waiting: list[Act] = field(init=False)
    _drawn: list[Fault] = field(init=False, default_factory=list)
    _next: Act | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._waiting = sorted(self.fixed)
        self._next = self._draw(0.0)

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return not self._waiting and self._next is None

    def due(self, elapsed_s: float) -> list[Act]:
        """Those whose time has come since the last call."""
        found = [act for act in self._waiting if act.at_s <= elapsed_s]
        self._waiting = self._waiting[len(found) :]
        while self._next is not None and self._next.at_s <= elapsed_s:
            found.append(self._next)
            self._next = self._draw(self._next.at_s)
        return sorted(found)

    def _draw(self, after_s: float) -> Act | None:
        if self.rng is None or not self.faults:
            return None
        if not self._drawn:
            self._drawn = sorted(self.faults)
            self.rng.shuffle(self._drawn)
        fault = self._drawn.pop()
        at_s = after_s + self.rng.uniform(0.25, 1.75) * self.every_s
        seconds = self.rng.uniform(*seconds_of(fault))
        return Act(at_s, fault, seconds) if at_s <= self.until_s else None


def seconds_of(fault: Fault) -> tuple[float, float]:
    """The least and the longest time that ``fault`` lasts."""
    return _SECONDS.get(fault, _SECONDS_DEFAULT)


def read_act(text: str) -> Act:
    """``NAME@SECONDS``, or ``NAME@SECONDS+SECONDS`` with how long it lasts.

    >>> read_act("cut@12.5").fault, read_act("silence@3+40")
    (<Fault.CUT: 'cut'>, Act(at_s=3.0, fault=<Fault.SILENCE: 'silence'>, seconds=40.0))

    Raises:
        ValueError: with a sentence that says what is allowed.
    """
    name, _, rest = text.partition("@")
    at, _, lasting = rest.partition("+")
    if name not in set(Fault):
        raise ValueError(f"{text}: {name!r} is no fault; expected one of {', '.join(Fault)}")
    try:
        at_s, seconds = float(at), float(lasting or sum(seconds_of(Fault(name))) / 2)
    except ValueError:
        at_s = seconds = -1.0
    if not (0 <= at_s < 1e9 and 0 <= seconds < 1e9):
        raise ValueError(f"{text}: expected NAME@SECONDS or NAME@SECONDS+SECONDS, such as cut@12.5 or silence@3+40")
    return Act(at_s, Fault(name), seconds)
