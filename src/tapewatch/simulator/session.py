"""One connection's side of Massive's protocol, without the connection: messages in, frames out.

    OPENED --auth good--> AUTHENTICATED
       |  \\--auth bad---> ENDED            (auth_failed, then a close; without a plan: cut off)
       \\---no auth------> ENDED            (auth_timeout; the caller owns the clock)

The statuses are the real service's, byte for byte; where its text is not known, ours says so here. What is silent there
is silent here: an unknown channel, a topic that is held already, and one that is not held when it is given up.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol

import msgspec

from tapewatch.records import Market
from tapewatch.simulator.plans import PLANS, Plan

CHANNELS: Final = {
    Market.STOCKS: frozenset(["T", "Q", "A", "AM", "LULD", "NOI", "FMV", "LV"]),
    Market.CRYPTO: frozenset(["XT", "XQ", "XAS", "XA", "XL2", "FMV", "LV"]),
    Market.OPTIONS: frozenset(["T", "Q", "A", "AM", "FMV", "LV"]),
    Market.FUTURES: frozenset(["T", "Q", "A", "AM"]),
    Market.FOREX: frozenset(["C", "CAS", "CA", "FMV", "LV"]),
    Market.INDICES: frozenset(["V", "A", "AM"]),
}
TRADE_CHANNEL: Final = {
    Market.STOCKS: "T",
    Market.CRYPTO: "XT",
    Market.OPTIONS: "T",
    Market.FUTURES: "T",
    Market.FOREX: "C",
    Market.INDICES: "V",
}
"""The channel of trades, or of what there is in their place: quotes, values."""

POLICY_VIOLATION: Final = 1008
NO_PLAN: Final = "Your plan doesn't include websocket access. Visit https://massive.com/pricing to upgrade."
TOO_MANY: Final = (
    "Maximum number of websocket connections exceeded. You have reached the connection limit for your account."
)
NO_AUTH: Final = "No authentication request received."
# Texts that are not known of the real service.
AUTH_FIRST: Final = "authentication required"
TOO_SLOW: Final = "Slow consumer: the buffer of this connection is full."
FORCED_OFF: Final = "The connection is ended by the service."
NOT_UNDERSTOOD: Final = "message not understood"


class _Status(msgspec.Struct, tag_field="ev", tag="status"):
    status: str
    message: str


class _Control(msgspec.Struct):
    action: str
    params: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may connect, and what they may have.

    Args:
        keys: the good keys; None takes any that is not empty.
        no_plan_keys: keys of a plan without streams.
        channels: the channels the plan has; None is all.
        single_acks: one acknowledgement a frame, instead of all of a request in one frame.
        plan: what was bought.
    """

    keys: frozenset[str] | None = None
    no_plan_keys: frozenset[str] = frozenset()
    channels: frozenset[str] | None = None
    single_acks: bool = False
    plan: Plan = PLANS["advanced"]

    def accepts(self, key: str) -> bool:
        """Whether ``key`` is a good one."""
        return bool(key) and key not in self.no_plan_keys and (self.keys is None or key in self.keys)

    def has_streams(self, key: str) -> bool:
        """Whether the plan of ``key`` has streams at all."""
        return key not in self.no_plan_keys and self.plan.has_streams

    def allows(self, channel: str, is_delayed: bool) -> bool:
        """Whether the plan has ``channel`` on that host."""
        return (self.channels is None or channel in self.channels) and self.plan.allows(channel, is_delayed)


class State(Enum):
    """Where a session is."""

    OPENED = "opened"
    AUTHENTICATED = "authenticated"
    ENDED = "ended"


class End(NamedTuple):
    """How the caller is to end the connection: with this close code, or abruptly (None)."""

    code: int | None
    reason: str = ""


class Answer(NamedTuple):
    """Frames to send, in order, and then perhaps the end."""

    frames: list[bytes]
    end: End | None = None


def status_frame(*statuses: tuple[str, str]) -> bytes:
    """One frame of (status, message) pairs.

    >>> status_frame(("auth_success", "authenticated"))
    b'[{"ev":"status","status":"auth_success","message":"authenticated"}]'
    """
    return msgspec.json.encode([_Status(status, message) for status, message in statuses])


@dataclass(slots=True)
class Session:
    """What the server knows of one connection. ``topics`` holds, by channel, the symbols it is subscribed to."""

    market: Market
    rules: Rules
    is_delayed: bool = False
    state: State = State.OPENED
    key: str = ""
    topics: dict[str, set[str]] = field(default_factory=dict)

    def opened(self) -> bytes:
        """The first frame."""
        return status_frame(("connected", "Connected Successfully"))

    def received(self, message: str | bytes) -> Answer:
        """Answer one message of the client. Never raises on what it holds."""
        assert self.state is not State.ENDED
        try:
            control = msgspec.json.decode(message, type=_Control)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Answer([status_frame(("error", NOT_UNDERSTOOD))])
        match control.action:
            case "auth":
                return self._authenticate(control.params.strip())
            case "subscribe" | "unsubscribe" if self.state is State.OPENED:
                return Answer([status_frame(("auth_required", AUTH_FIRST))])
            case "subscribe":
                return self._change(control.params, self._subscribe, "subscribed to")
            case "unsubscribe":
                return self._change(control.params, self._unsubscribe, "unsubscribed to")
            case _:
                return Answer([status_frame(("error", NOT_UNDERSTOOD))])

    def timed_out(self) -> Answer:
        """No authentication came in time."""
        assert self.state is State.OPENED
        return self._ended("auth_timeout", NO_AUTH, End(POLICY_VIOLATION, NO_AUTH))

    def evicted(self) -> Answer:
        """Another connection took the account's place."""
        return self._ended("max_connections", TOO_MANY, End(POLICY_VIOLATION, "max_connections"))

    def overflowed(self) -> Answer:
        """The client reads too slowly."""
        return self._ended("slow_consumer", TOO_SLOW, End(POLICY_VIOLATION, "slow_consumer"))

    def forced_off(self) -> Answer:
        """The service ends the connection."""
        return self._ended("force_disconnect", FORCED_OFF, End(POLICY_VIOLATION, "force_disconnect"))

    def over(self) -> None:
        """The connection is gone, or as good as gone: nothing more is owed."""
        self.state = State.ENDED
        self.topics.clear()

    def listens(self) -> bool:
        """Whether it is subscribed to anything."""
        return any(self.topics.values())

    def symbols(self, channel: str) -> set[str]:
        """What it is subscribed to on ``channel``; ``*`` is one of them if it wants all."""
        return self.topics.get(channel, set())

    def _authenticate(self, key: str) -> Answer:
        if self.state is State.AUTHENTICATED:
            return Answer([])
        if key in self.rules.no_plan_keys:
            return self._ended("auth_failed", NO_PLAN, End(None))
        if not self.rules.accepts(key):
            return self._ended("auth_failed", "authentication failed", End(POLICY_VIOLATION, "authentication failed"))
        if not self.rules.has_streams(key):
            return self._ended("auth_failed", NO_PLAN, End(None))
        self.state, self.key = State.AUTHENTICATED, key
        return Answer([status_frame(("auth_success", "authenticated"))])

    def _ended(self, status: str, message: str, end: End) -> Answer:
        self.over()
        return Answer([status_frame((status, message))], end)

    def _change(self, params: str, change: _Change, verb: str) -> Answer:
        done: list[tuple[str, str]] = []
        refused: dict[str, None] = {}
        for topic in map(str.strip, params.split(",")):
            channel, dot, symbol = topic.partition(".")
            if self.market is Market.FOREX:
                symbol = symbol.replace("-", "/")
            if not (dot and symbol) or channel not in CHANNELS[self.market]:
                continue
            if not self.rules.allows(channel, self.is_delayed):
                refused[channel] = None
            elif change(channel, symbol):
                done.append(("success", f"{verb}: {topic}"))
        # The real service names no topic in a refusal, and sends it before the acknowledgements.
        statuses = [("error", "not authorized") for _ in refused] + done
        if self.rules.single_acks:
            return Answer([status_frame(status) for status in statuses])
        return Answer([status_frame(*statuses)] if statuses else [])

    def _subscribe(self, channel: str, symbol: str) -> bool:
        held = self.topics.setdefault(channel, set())
        new = symbol not in held
        held.add(symbol)
        return new

    def _unsubscribe(self, channel: str, symbol: str) -> bool:
        held = self.symbols(channel)
        if symbol not in held:
            return False
        held.discard(symbol)
        return True


class _Change(Protocol):
    def __call__(self, channel: str, symbol: str) -> bool: ...
