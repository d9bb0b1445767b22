"""What the plan allows of a market: asked of the exchange itself, since nothing else tells.

    host by host ─► connect, key, subscribe to T, A and AM of one symbol ─► which are confirmed, which are refused
                                                                        │
      trades anywhere?  T      real time before 15 minutes late ────────┤
      else second bars? A      the same                                 ├─► Terms: host, channel, delay, notices
      else minute bars? AM     the same ────────────────────────────────┘
      else: refused, with the exchange's own words

A refusal names no topic and comes before the confirmations of the others, so a channel is allowed when it is
confirmed, and otherwise not. Asking takes a second or so on each host, and one connection at a time: an account has one
for each market. It is closed with a close frame, which frees the place at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from websockets.exceptions import WebSocketException

from tapewatch.feed.endings import Cause, Ending, ending
from tapewatch.feed.protocol import Session
from tapewatch.feed.sockets import ending_of, open_socket
from tapewatch.feed.symbols import CHANNELS, wire_symbol
from tapewatch.feed.wire import Phase
from tapewatch.records import Market

__all__ = ["INPUTS", "Answer", "Entitlement", "Host", "ask", "choose", "find"]

INPUTS: Final = ("T", "A", "AM")
"""What prices may come from, the best first: trades, second bars, minute bars."""
BEHIND_MS: Final = {"T": 0, "A": 3_000, "AM": 62_000}
"""How much later than its beginning a bar comes: its length, and what the exchange waits for late trades."""
QUIET_S: Final = 1.0
"""After the last answer, so much longer is waited for another one."""
ANSWER_S_MAX: Final = 12.0
"""Asking one host takes no longer."""

_INSTEAD: Final = {
    "A": "the plan has no trades of {market}; second bars (A) are taken instead, so single trades are not seen",
    "AM": "the plan has no trades of {market}; minute bars (AM) are taken instead, so prices come once a minute, and "
    "alerts up to a minute later",
}


@dataclass(frozen=True, slots=True)
class Host:
    """Where a market may be had, and how late it is there."""

    url: str
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one host said: the channels it confirmed, or why it could not be asked."""

    host: Host
    allowed: tuple[str, ...] = ()
    ended: Ending | None = None


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What is taken of a market, and what is allowed there beside it."""

    host: Host
    channel: str
    allowed: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def behind_ms(self) -> int:
        """How much later than its beginning a bar comes, where bars are taken."""
        return BEHIND_MS[self.channel]


def choose(market: Market, answers: Sequence[Answer]) -> Entitlement | Ending:
    """The best of what the hosts allow, in their order; or, if that is nothing, why.

    A host that could not be asked for a passing reason may allow more: then the reason is returned, unless trades are
    allowed elsewhere.
    """
    for channel in INPUTS:
        if channel != INPUTS[0] and (passing := _passing(answers)) is not None:
            return passing
        for answer in answers:
            if channel in answer.allowed:
                notices = _notices(market, channel, answer.host)
                return Entitlement(answer.host, channel, answer.allowed, notices)
    refusals = [answer.ended for answer in answers if answer.ended is not None]
    return refusals[0] if refusals else ending(Cause.NOT_AUTHORIZED, ", ".join(_topics(market, "*")))


async def find(
    market: Market, hosts: Sequence[Host], key: str, symbol: str, tls: ssl.SSLContext | None = None
) -> Entitlement | Ending:
    """Ask the hosts, best first, until one allows trades; what to take, or why nothing can be had (now, or at all)."""
    answers: list[Answer] = []
    for host in hosts:
        answers.append(await ask(market, host, key, symbol, tls))
        if INPUTS[0] in answers[-1].allowed:
            break
    return choose(market, answers)


async def ask(market: Market, host: Host, key: str, symbol: str, tls: ssl.SSLContext | None = None) -> Answer:
    """Ask one host which channels it allows of ``symbol``."""
    clock = asyncio.get_running_loop()

    def now_ns() -> int:
        return int(clock.time() * 1e9)

    topics = _topics(market, wire_symbol(symbol))
    session = Session(market, key, list(topics), now_ns())
    try:
        async with open_socket(f"{host.url.rstrip('/')}/{market.name.lower()}", tls) as socket:
            until_s = clock.time() + ANSWER_S_MAX
            while session.ended is None and len(session.acked) < len(topics):
                heard = session.acked or session.not_authorized
                wait_s = QUIET_S if heard and session.phase in (Phase.SUBSCRIBING, Phase.LIVE) else ANSWER_S_MAX
                try:
                    async with asyncio.timeout(min(wait_s, until_s - clock.time())):
                        data = await socket.recv(decode=False)
                except TimeoutError:
                    break
                for reply in session.received(data, now_ns())[0]:
                    await socket.send(reply)
    except (OSError, WebSocketException) as error:
        session.end(ending_of(error))
    allowed = tuple(topics[topic] for topic in session.acked)
    if session.ended is None and not allowed and not session.not_authorized:
        cause = Cause.NO_ACK if session.phase is Phase.SUBSCRIBING else Cause.HANDSHAKE
        session.end(ending(cause))
    return Answer(host, allowed, None if allowed else session.ended)


def _topics(market: Market, name: str) -> dict[str, str]:
    """The topics that are asked for, and the input that each stands for."""
    found: dict[str, str] = {}
    for channel in INPUTS:
        with suppress(KeyError):
            found.setdefault(f"{CHANNELS[market][channel]}.{name}", channel)
    return found


def _passing(answers: Sequence[Answer]) -> Ending | None:
    return next((a.ended for a in answers if a.ended is not None and not a.ended.fatal), None)


def _notices(market: Market, channel: str, host: Host) -> tuple[str, ...]:
    said = []
    if channel in _INSTEAD:
        said.append(_INSTEAD[channel].format(market=market.name.lower()))
    if host.delay_ms:
        minutes = f"{host.delay_ms / 60_000:g} minutes"
        said.append(f"the plan has {market.name.lower()} {minutes} late, and so are all prices and alerts of it")
    return tuple(said)
