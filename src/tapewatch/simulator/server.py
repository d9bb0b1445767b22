"""The simulator's port: Massive's WebSocket clusters and REST on one address, played from a tape.

One task plays: every few milliseconds it takes from the tape what has become due and writes it to the connections that
are subscribed to it. Writing never waits. What a client has not read yet stays in its connection's buffer, which is
bounded: beyond that a live client is told ``slow_consumer`` and closed, as the real service does; a replay waits.

    tape --due(after, upto)--> frames --> buffer of each connection --> client
                 ^
           clock, or the replay's position
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tapewatch.records import Market
from tapewatch.simulator.chaos import Fault
from tapewatch.simulator.connection import Connection, Socket
from tapewatch.simulator.corrections import NO_CORRECTIONS, Corrections
from tapewatch.simulator.hours import Hours, hours_at
from tapewatch.simulator.listening import listen, port_of
from tapewatch.simulator.outlet import Audience, Outlet
from tapewatch.simulator.replay import Play
from tapewatch.simulator.rest import RestSide
from tapewatch.simulator.sent import Witness
from tapewatch.simulator.session import CHANNELS, Answer, End, Rules, Session, State
from tapewatch.simulator.tape import Tape
from tapewatch.simulator.trouble import Trouble

DELAYED: Final = "/delayed"
"""Paths below it are the delayed host's."""
CLUSTERS: Final = {
    f"{host}/{market.name.lower()}": (market, bool(host)) for host in ("", DELAYED) for market in CHANNELS
} | {
    f"{host}/futures/{exchange}": (Market.FUTURES, bool(host))
    for host in ("", DELAYED)
    for exchange in ("cme", "cbot", "nymex", "comex")
}
"""Paths of the stream, each with its market and whether it is delayed."""
CATCH_UP_NS: Final = 600 * 1_000_000_000
"""After a stall (a laptop asleep), older trades than this are not sent any more."""
CLOCK_BACK_NS: Final = 10 * 1_000_000_000
"""A clock set back by more than this is followed; less is waited out."""
REPLAY_BUFFER_BYTES: Final = 1 << 20
"""A replay waits while a client has this much unread."""
REPLAY_SETTLE_S: Final = 0.25
"""A replay starts when no subscription has come for this long, so that all of a client's connections see its start."""
CLOSE_TIMEOUT_S: Final = 10.0
REPLAY_CLOSE_TIMEOUT_S: Final = 300.0
"""How long a client may take to read what is on the way when a replay has ended; then it is cut off."""
STOP_TIMEOUT_S: Final = 2.0

Evict = Literal["oldest", "newest", "random"]


@dataclass(frozen=True, slots=True)
class Options:
    """How the server behaves. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 0
    rules: Rules = field(default_factory=Rules)
    evict: Evict = "oldest"
    connections_max: int = 1
    """Connections one key may have to one cluster; 0 is any number."""
    auth_deadline_s: float = 10.0
    buffer_bytes_max: int = 16 << 20
    frame_events_max: int = 500
    compression: bool = False
    tick_s: float = 0.005
    """Trades that fall due within one tick go out together."""
    ping_interval_s: float | None = 20.0
    """How often the server pings; None is never."""
    answers_pings: bool = True
    corrections: Corrections = NO_CORRECTIONS
    """What REST takes back of the trades."""
    hours: Callable[[int], Hours] = hours_at
    """The session of a minute (Unix ms), for the market's status."""


class Simulator:
    """The server. ``async with Simulator(tape) as simulator: ... simulator.port``.

    Args:
        tape: what is played.
        options: how the server behaves.
        play: the position of a replay; None plays the tape as the clock goes.
        clock: Unix time in ns.
        trouble: what goes wrong; None is nothing.
        witness: sees every trade that is written to a connection.
    """

    def __init__(
        self,
        tape: Tape,
        options: Options | None = None,
        play: Play | None = None,
        clock: Callable[[], int] = time.time_ns,
        *,
        trouble: Trouble | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._tape = tape
        self._options = options or Options()
        self._play = play
        self._clock = clock
        self._trouble = trouble
        self._connections: list[Connection] = []
        self._changed = asyncio.Event()
        self._changed_ns = 0
        self._known_audiences: list[Audience] | None = None
        self._sent_ns = clock() if play is None else play.first_ns - 1
        self._random = random.Random(0)
        self._server: Server | None = None
        self._player: asyncio.Task[None] | None = None
        self._rest = RestSide(tape, self._options.rules, self._position, self._options.hours, self._options.corrections)
        self._outlet = Outlet(
            tape,
            frame_events_max=self._options.frame_events_max,
            buffer_bytes_max=self._options.buffer_bytes_max if play is None else None,
            overflow=lambda connection: self._carry_out(connection, connection.session.overflowed()),
            trouble=trouble,
            witness=witness,
        )

    async def __aenter__(self) -> Simulator:
        options = self._options
        self._server = await listen(
            self._handle, options.host, options.port, process_request=self._process_request,
            compression="deflate" if options.compression else None, create_connection=Socket,
            ping_interval=options.ping_interval_s,
            close_timeout=CLOSE_TIMEOUT_S if self._play is None else REPLAY_CLOSE_TIMEOUT_S,
        )  # fmt: skip
        self._player = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections (1001) and the port."""
        assert self._server is not None
        assert self._player is not None
        self._player.cancel()
        self._server.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._server.wait_closed()
        except TimeoutError:
            for connection in self._connections:
                connection.socket.transport.abort()
        await asyncio.gather(self._player, *(c.ending for c in self._connections if c.ending), return_exceptions=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return port_of(self._server)

    @property
    def sent_ns(self) -> int:
        """The tape's time up to which everything has been sent."""
        return self._sent_ns

    async def failed(self) -> None:
        """Wait for the player; it only ever ends by a bug, which is raised here."""
        assert self._player is not None
        await self._player

    # --- connections ----------------------------------------------------------------------------------------

    async def _process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        place = CLUSTERS.get(urlsplit(request.path).path)
        if place is not None and "upgrade" in request.headers.get("Connection", "").lower():
            if self._trouble is not None and self._trouble.refuses(place, self._position()):
                return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "try again later\n")
            return None
        origin = f"http://{request.headers.get('Host', self._options.host)}"
        reply = await self._rest.answer(request.path, request.headers, origin)
        headers = Headers([("Content-Type", "application/json"), ("Content-Length", str(len(reply.body)))])
        headers.update((*reply.headers, ("Connection", "close")))
        return Response(int(reply.status), reply.status.phrase, headers, reply.body)

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        assert isinstance(socket, Socket)
        market, is_delayed = CLUSTERS[urlsplit(socket.request.path).path]
        connection = Connection(socket, Session(market, self._options.rules, is_delayed), is_delayed)
        socket.answers_pings = self._options.answers_pings
        self._connections.append(connection)
        fault = None if self._trouble is None else self._trouble.of_newcomer(connection)
        if fault is not Fault.NO_GREETING:
            connection.send([connection.session.opened()])
        deadline = asyncio.get_running_loop().call_later(
            self._options.auth_deadline_s, self._auth_deadline_passed, connection
        )
        if fault is Fault.NO_GREETING:
            deadline.cancel()
        try:
            async for message in socket:
                if connection.session.state is State.ENDED:
                    break
                if fault is Fault.AUTH_TIMEOUT:
                    self._auth_deadline_passed(connection)
                elif fault is not Fault.NO_GREETING:
                    self._received(connection, message)
            if connection.ending is not None:
                await connection.ending
        except ConnectionClosed:
            pass
        finally:
            deadline.cancel()
            connection.session.over()
            self._connections.remove(connection)
            self._known_audiences = None

    def _received(self, connection: Connection, message: str | bytes) -> None:
        session = connection.session
        before, now_ns = session.state, self._clock()
        answer = session.received(message)
        if connection.withholds_acks and session.listens():
            answer, connection.withholds_acks = Answer([], answer.end), False
        self._carry_out(connection, answer)
        if before is State.OPENED and session.state is State.AUTHENTICATED:
            self._evict(connection)
        self._known_audiences = None
        if session.listens():
            if not self._changed.is_set():
                self._changed_ns = now_ns
            self._changed.set()

    def _auth_deadline_passed(self, connection: Connection) -> None:
        if connection.session.state is State.OPENED:
            self._carry_out(connection, connection.session.timed_out())

    def _evict(self, newcomer: Connection) -> None:
        session = newcomer.session
        rivals = [
            c
            for c in self._connections
            if c.session.state is State.AUTHENTICATED
            and (c.session.key, c.session.market) == (session.key, session.market)
        ]
        if 0 < self._options.connections_max < len(rivals):
            rivals.sort(key=lambda c: c is newcomer)
            match self._options.evict:
                case "oldest":
                    victim = rivals[0]
                case "newest":
                    victim = newcomer
                case "random":
                    victim = self._random.choice(rivals)
            self._carry_out(victim, victim.session.evicted())

    def _carry_out(self, connection: Connection, answer: Answer) -> None:
        connection.carry_out(answer)
        if answer.end is not None:
            self._known_audiences = None

    # --- the play -------------------------------------------------------------------------------------------

    def _position(self) -> int:
        """The tape's time now: for REST, what has happened."""
        return self._clock() if self._play is None else min(self._sent_ns, self._play.position(self._clock()))

    async def _run(self) -> None:
        while True:
            if not self._audiences():
                await self._wait_for_audience()
            now_ns = self._clock()
            if self._trouble is not None:
                self._cause_trouble(self._trouble, self._position())
            await (self._live(now_ns) if self._play is None else self._replay(self._play, now_ns))
            await asyncio.sleep(self._options.tick_s)

    def _cause_trouble(self, trouble: Trouble, now_ns: int) -> None:
        trouble.listens({(a.market, a.is_delayed) for a in self._audiences()}, now_ns)
        trouble.step(now_ns, self._connections)
        self._known_audiences = None

    def _audiences(self) -> list[Audience]:
        """Made afresh when a subscription has changed."""
        if self._known_audiences is None:
            self._known_audiences = self._outlet.audiences(self._connections)
        return self._known_audiences

    async def _wait_for_audience(self) -> None:
        play = self._play
        if play is not None and play.started_ns is not None and play.speed is not None:
            return
        self._changed.clear()
        await self._changed.wait()
        if play is None:
            self._sent_ns = self._changed_ns  # what was acknowledged then is owed from then on
        elif play.started_ns is None:
            while self._changed.is_set():
                self._changed.clear()
                await asyncio.sleep(REPLAY_SETTLE_S)
            play.start(self._clock())

    async def _live(self, now_ns: int) -> None:
        if not now_ns - CATCH_UP_NS <= self._sent_ns <= now_ns + CLOCK_BACK_NS:
            self._sent_ns = now_ns - int(self._options.tick_s * 1e9)
        while self._sent_ns < now_ns:
            self._step(now_ns)
            if self._sent_ns < now_ns:
                await asyncio.sleep(0)
        for audience in self._audiences():
            if self._tape.prepare(audience.market, audience.symbols, now_ns - audience.delay_ns):
                break

    async def _replay(self, play: Play, now_ns: int) -> None:
        until_ns = play.position(now_ns)
        while self._sent_ns < until_ns:
            if any(c.unread_bytes() > REPLAY_BUFFER_BYTES for c in self._connections):
                return
            self._step(until_ns)
            await asyncio.sleep(0)
            if play.speed is None and not self._audiences():
                return
        if until_ns == play.end_ns:
            for audience in self._audiences():
                for connection in audience.listeners:
                    if not connection.unread_bytes():
                        connection.end(End(1000, "replay finished"))

    def _step(self, until_ns: int) -> None:
        """Send what is due up to the next stop on the way to ``until_ns``."""
        after_ns = self._sent_ns
        upto_ns = self._tape.step_end(after_ns, until_ns)
        for audience in self._audiences():
            self._outlet.step(audience, after_ns, upto_ns)
        self._sent_ns = upto_ns
