"""Carries a script of faults out: on the connections of one market at a time, and on what they are sent.

script ──due──► a market that somebody listens to ──► its connections: closed, cut, half open ...
                                                 └──► its stream's `Disturber`
                                                 └──► whoever connects to it next
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from tapewatch.records import Market
from tapewatch.simulator.chaos import DATA_FAULTS, Act, Fault, Script
from tapewatch.simulator.connection import Connection
from tapewatch.simulator.disturb import Disturber, Outgoing
from tapewatch.simulator.plans import DELAY_NS
from tapewatch.simulator.session import End
from tapewatch.simulator.tape import Due

__all__ = ["Trouble"]

OVERSIZED_BYTES: Final = 17 << 20
"""More than a careful client takes."""
LOSSY_AFTER_OVERSIZED_S: Final = 5.0
NO_GREETING_S: Final = 60.0
PINGS: Final = 50
_SECOND_NS: Final = 1_000_000_000
_GOING_AWAY: Final = 1001
_NEXT: Final = frozenset([Fault.REFUSE, Fault.NO_GREETING, Fault.AUTH_TIMEOUT, Fault.NO_ACKS])
_SPOILS: Final = frozenset([Fault.CUT_FRAME, Fault.OVERSIZED_FRAME])

Place = tuple[Market, bool]
"""A market, and whether its data is the delayed one."""


def place_ns(place: Place, now_ns: int) -> int:
    """The event time that is sent at ``place`` now."""
    return now_ns - DELAY_NS if place[1] else now_ns


class Trouble:
    """The faults of one simulator. ``rng`` draws the details; ``repeats`` sends again after many a resume."""

    def __init__(self, script: Script, rng: random.Random, *, repeats: bool) -> None:
        self._script = script
        self._rng = rng
        self._repeats = repeats
        self._started_ns: int | None = None
        self._waiting: list[Act] = []
        self._disturbers: dict[Place, Disturber] = {}
        self._listened: set[Place] = set()
        self._next: dict[Place, list[Fault]] = {}
        self._refused_until_ns: dict[Place, int] = {}
        self._spoils: dict[Place, Fault] = {}
        self._lossy_until_ns: dict[Place, int] = {}
        self._lasting = 0
        self.done: list[tuple[int, Fault, Market]] = []
        """What was carried out, when (Unix ns) and on which market."""

    @property
    def is_over(self) -> bool:
        """The script is at its end, and so is everything that it began."""
        owed = any(one.is_holding for one in self._disturbers.values())
        return self._script.is_over and not (self._waiting or self._lasting or self._spoils or owed)

    def step(self, now_ns: int, connections: Sequence[Connection]) -> None:
        """Carry out what is due by now. To be called before anything is sent."""
        if self._script.is_over and not self._waiting:
            return
        listening = [c for c in connections if c.session.listens() and c.is_open and not c.socket.is_mute]
        if not listening:
            return
        if self._started_ns is None:
            self._started_ns = now_ns
        self._waiting += self._script.due((now_ns - self._started_ns) / _SECOND_NS)
        while self._waiting and listening:
            act = self._waiting.pop(0)
            place = self._rng.choice(sorted({c.place for c in listening}))
            self._carry_out(act, place, [c for c in listening if c.place == place], now_ns)
            self.done.append((now_ns, act.fault, place[0]))
            listening = [c for c in listening if c.session.listens() and c.is_open and not c.socket.is_mute]

    def listens(self, places: set[Place], now_ns: int) -> None:
        """Who is listened to now; one that was not before has resumed."""
        if self._repeats:
            for place in sorted(places - self._listened):
                if place in self._disturbers:
                    self._disturbers[place].resumed(place_ns(place, now_ns))
        self._listened = set(places)

    def pass_on(self, place: Place, due: Sequence[Due], now_ns: int, listeners: Sequence[Connection]) -> Outgoing:
        """What of ``due``, and of what was held back before, is to be sent now."""
        lossy = (
            place in self._spoils
            or self._lossy_until_ns.get(place, 0) > now_ns
            or any(c.socket.is_mute for c in listeners)
        )
        return self._disturber(place).pass_on(due, place_ns(place, now_ns), lossy=lossy)

    def bars(self, place: Place, made: Sequence[object], now_ns: int) -> list[object]:
        """What is sent of the bars that are due."""
        return self._disturber(place).bars(made, place_ns(place, now_ns))

    def spoil(self, connection: Connection, events: Sequence[object], now_ns: int) -> bool:
        """Send ``events`` in a frame that does not arrive, if that is the fault of the moment; whether it was."""
        fault = self._spoils.get(connection.place)
        if fault is None or not events:
            return False
        if fault is Fault.CUT_FRAME:
            connection.cut_within(msgspec.json.encode(events))
        else:
            padding = {"ev": "ZZ", "padding": "x" * OVERSIZED_BYTES}
            connection.send([msgspec.json.encode([*events, padding])])
            self._lossy_until_ns[connection.place] = now_ns + int(LOSSY_AFTER_OVERSIZED_S * _SECOND_NS)
        return True

    def spoiled(self, place: Place) -> None:
        """The fault has been carried out on all connections of the place."""
        self._spoils.pop(place, None)

    def refuses(self, place: Place, now_ns: int) -> bool:
        """New connections are answered with an error now."""
        return self._refused_until_ns.get(place, 0) > now_ns

    def of_newcomer(self, connection: Connection) -> Fault | None:
        """What befalls a new connection from its beginning."""
        waiting = self._next.get(connection.place)
        fault = waiting.pop(0) if waiting else None
        if fault is Fault.NO_GREETING:
            self._after(NO_GREETING_S, connection.drop)
        connection.withholds_acks = fault is Fault.NO_ACKS
        return fault

    def _disturber(self, place: Place) -> Disturber:
        if place not in self._disturbers:
            self._disturbers[place] = Disturber(self._rng)
        return self._disturbers[place]

    def _carry_out(self, act: Act, place: Place, connections: Sequence[Connection], now_ns: int) -> None:
        fault = act.fault
        if fault in _SPOILS:
            self._spoils[place] = fault
        elif fault in DATA_FAULTS or fault is Fault.STATUS:
            self._disturber(place).begin(act, place_ns(place, now_ns))
        elif fault in _NEXT:
            if fault is Fault.REFUSE:
                self._refused_until_ns[place] = now_ns + int(act.seconds * _SECOND_NS)
            else:
                self._next.setdefault(place, []).append(fault)
            fault = Fault.CUT
        for connection in connections:
            self._befall(connection, fault, act.seconds)

    def _befall(self, connection: Connection, fault: Fault, seconds: float) -> None:
        match fault:
            case Fault.CLOSE:
                connection.end(End(1000))
            case Fault.GOING_AWAY:
                connection.end(End(_GOING_AWAY, "going away"))
            case Fault.CUT:
                connection.drop()
            case Fault.SLOW_CONSUMER:
                connection.carry_out(connection.session.overflowed())
            case Fault.FORCE_DISCONNECT:
                connection.carry_out(connection.session.forced_off())
            case Fault.MAX_CONNECTIONS:
                connection.carry_out(connection.session.evicted())
            case Fault.SILENCE:
                connection.go_silent()
                self._after(seconds, connection.drop)
            case Fault.NO_PONGS:
                connection.socket.answers_pings = False
                self._after(seconds, partial(setattr, connection.socket, "answers_pings", True))
            case Fault.PING:
                for number in range(PINGS):
                    connection.ping(b"%d" % number)
            case _:
                pass

    def _after(self, seconds: float, undo: Callable[[], object]) -> None:
        """End a fault of a connection when its time is over, whether anybody listens or not."""
        self._lasting += 1
        asyncio.get_running_loop().call_later(seconds, self._undo, undo)

    def _undo(self, undo: Callable[[], object]) -> None:
        self._lasting -= 1
        undo()
