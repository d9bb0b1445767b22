"""The connection to one market of the exchange: kept for ever, read at once, handed on untouched.

The reader only reads, stamps and enqueues; what the bytes mean is `protocol.py`'s and `ingest.py`'s affair. What every
ending leads to is in one table (`endings.py`): nearly all to a new connection after a jittered wait; a recording that
is finished ends `run`, and a key, plan or address that is refused raises `FeedRefused`. A watcher beside the reader
looks about once a second for what did *not* happen: silence, a missing answer, a second without a tick.

    run ─► terms ─► connect ─► read ... LIVE: GapEnd, then frames ─► ending ─► wait ─┐
                     ▲           watch: TickDue each second, ping, silence            │
                     └────────────────────────────────────────────────────────────────┘

The wish, what the person wants to watch, is kept here, apart from what the exchange has confirmed, which is the
session's: so no drop, wherever it comes, loses a subscription. The wish may change at any time (`watch`), and the
connection is kept. ``terms`` are what the plan allows (`entitlement.py`): asked for before the first connection.

Any byte counts as life, an answer to our ping too; while the queue is full we do not listen, and that is no silence.
A tick says that nothing was sent, so none is made once nothing at all was heard for `TICK_HEARD_MS`.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from tapewatch import metrics
from tapewatch.errors import FeedRefused
from tapewatch.feed.endings import Cause, Ending, Notice, Patience, ending, notice
from tapewatch.feed.protocol import Session
from tapewatch.feed.queue import Frame, GapEnd, Sink, TickDue
from tapewatch.feed.sockets import ending_of, open_socket
from tapewatch.feed.state import FeedState, Terms, Topics
from tapewatch.feed.symbols import product_symbol
from tapewatch.feed.wire import Phase, WireSession
from tapewatch.records import Market
from tapewatch.settings import TICK_HEARD_MS

__all__ = ["FeedClient", "FeedState", "MakeSession", "Terms", "Topics"]

TOPICS_NAMED_MAX: Final = 5
"""In a sentence so many topics are named, and the others counted."""
_SECOND_NS: Final = 1_000_000_000
_MS_NS: Final = 1_000_000

_log = structlog.get_logger(__name__)
MakeSession = Callable[[Sequence[str], int], WireSession]
"""Of the topics and the loop's time in ns: the session of one connection."""


class FeedClient:
    """Keeps one market's feed connected and puts what arrives into a queue.

    ``url`` is the exchange's address without the market; ``delay_ms`` how far the feed's data lags by its plan;
    ``silence_ms`` how long nothing at all may be heard. ``replay`` means a recording: no ticks by the clock.
    ``on_state`` is called, in the loop, at every change of phase. ``sleep`` waits between connections.
    ``session`` makes the sessions of another exchange, whose ``url`` is then used as it is. ``on_status`` is given
    every frame that does not go into the queue. ``terms`` is asked before the first connection, again and again
    while it answers with an ending that is not fatal; the terms take the place of ``url``, ``topics`` and ``delay_ms``.
    """

    def __init__(
        self,
        market: Market,
        url: str,
        key: str,
        topics: Sequence[str],
        queue: Sink,
        *,
        delay_ms: int = 0,
        behind_ms: int = 0,
        silence_ms: int = 40_000,
        replay: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        on_state: Callable[[FeedState], None] | None = None,
        tls: ssl.SSLContext | None = None,
        session: MakeSession | None = None,
        on_status: Callable[[Frame], None] | None = None,
        terms: Callable[[], Awaitable[Terms | Ending]] | None = None,
    ) -> None:
        self._market = market
        self._path = "" if session is not None else f"/{market.name.lower()}"
        self._url = url
        self._key = key
        self._topics = list(dict.fromkeys(topics))
        self._queue = queue
        self._delay_ns = delay_ms * _MS_NS
        self._behind_ms = behind_ms
        self._silence_s = silence_ms / 1_000
        self._sure_ns = min(TICK_HEARD_MS, silence_ms // 2) * _MS_NS
        self._replay = replay
        self._clock_ns = clock_ns
        self._patience = Patience(rng or random.Random())
        self._sleep = sleep
        self._on_state = on_state
        self._tls = tls
        self._make_session = session or self._massive_session
        self._on_status = on_status
        self._terms = terms
        self._notices: tuple[str, ...] = ()
        self._label = market.name.lower()
        self._task: asyncio.Task[object] | None = None
        self._stopping = False
        self._socket: ClientConnection | None = None
        self._session = self._make_session(self._topics, 0)
        self._gap_cause = Cause.RESTART
        self._last_ending = ""
        self._reconnects = 0
        self._since_ns = clock_ns()
        self._last_frame_ns = 0
        self._heard_ns = 0
        self._is_full = False
        self._tick_ms = 0

    @property
    def state(self) -> FeedState:
        """The state now; to be asked in the loop that runs the client."""
        session = self._session
        return FeedState(
            market=self._market,
            phase=session.phase,
            since_ns=self._since_ns,
            last_ending=self._last_ending,
            reconnects=self._reconnects,
            acked=len(session.acked),
            unconfirmed=tuple(session.unconfirmed),
            not_authorized=session.not_authorized,
            last_frame_ns=self._last_frame_ns,
            delay_ms=self._delay_ns // _MS_NS,
            behind_ms=self._behind_ms,
            refused=tuple(session.refused),
            notices=self._all_notices(),
        )

    @property
    def topics(self) -> Topics:
        """What is wanted and what is known of it; to be asked in the loop that runs the client."""
        session = self._session
        known = session.acked, session.unconfirmed, session.refused
        return Topics(tuple(self._topics), *map(tuple, known))

    async def watch(self, topics: Sequence[str]) -> None:
        """Want these topics from now on. Returns when the exchange was told, or will be on the next connection."""
        self._topics = list(dict.fromkeys(topics))
        socket, session = self._socket, self._session
        messages = session.change(self._topics, self._now_ns()) if session.ended is None else []
        if socket is not None:
            with suppress(ConnectionClosed):
                for message in messages:
                    await socket.send(message)
        self._publish()

    async def run(self) -> None:
        """Stay connected until `stop`, or until the recording is finished.

        Raises:
            FeedRefused: the exchange refused the key, the plan or the address; trying again changes nothing.
        """
        self._task = asyncio.current_task()
        try:
            await self._stay_connected()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        if self._stopping:
            self._session.end(ending(Cause.STOPPED))
            self._phase_changed()

    async def stop(self) -> None:
        """Say good-bye with a close frame, so that the exchange frees the place, and end `run`, begun or not."""
        self._stopping = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _stay_connected(self) -> None:
        if self._terms is not None and not self._stopping:
            await self._agree(self._terms)
        while not self._stopping:
            was_live = await self._connection()
            how = self._session.ended
            assert how is not None, "a connection ended without a reason"
            if how.cause is Cause.FINISHED:
                return
            self._check(how)
            if was_live:
                self._gap_cause = how.cause
            await self._wait(how, self._session.is_stable(self._heard_ns))

    async def _agree(self, ask: Callable[[], Awaitable[Terms | Ending]]) -> None:
        """Take the terms of the plan, once they are known."""
        while isinstance(terms := await ask(), Ending):
            self._check(terms)
            self._last_ending = terms.sentence
            self._reconnects += 1
            self._publish()
            await self._wait(terms, was_stable=False)
        self._url, self._topics, self._notices = terms.url, list(dict.fromkeys(terms.topics)), terms.notices
        self._delay_ns, self._behind_ms = terms.delay_ms * _MS_NS, terms.behind_ms
        for sentence in terms.notices:
            _log.warning("plan", market=self._label, says=sentence)

    def _check(self, how: Ending) -> None:
        """Raises FeedRefused when trying again changes nothing."""
        if how.fatal:
            raise FeedRefused(f"The feed of {self._label} was refused: {how.sentence}.")

    async def _wait(self, how: Ending, was_stable: bool) -> None:
        wait_s = self._patience.wait_s(how, was_stable)
        _log.warning("feed ended", market=self._label, why=how.sentence, retry_in_s=round(wait_s, 1))
        await self._sleep(wait_s)

    async def _connection(self) -> bool:
        """One connection from its opening to its end, which is then in the session; whether it was ever live."""
        self._session = session = self._make_session(self._topics, self._now_ns())
        self._heard()
        self._phase_changed()
        try:
            async with open_socket(f"{self._url.rstrip('/')}{self._path}", self._tls) as socket:
                self._socket = socket
                watcher = asyncio.create_task(self._watch(socket, session))
                try:
                    for message in session.opened(self._now_ns()):
                        await socket.send(message)
                    await self._read(socket, session)
                finally:
                    await socket.close()  # here, since leaving the block by an exception would say 1011
                    watcher.cancel()
                    await asyncio.wait([watcher])  # not the watcher itself: its end would hide that we are stopped
                    if not watcher.cancelled():
                        watcher.result()
        except (OSError, WebSocketException) as error:
            session.end(ending_of(error))
        finally:
            self._socket = None
            metrics.FEED_CONNECTED.labels(self._label).set(0)
        how = session.ended
        assert how is not None
        self._reconnects += 1
        self._last_ending = how.sentence
        metrics.FEED_RECONNECTS.labels(self._label, how.cause).inc()
        self._phase_changed()
        return session.was_live

    async def _read(self, socket: ClientConnection, session: WireSession) -> None:
        while session.ended is None:
            data = await socket.recv(decode=False)
            now_ns = self._clock_ns()
            self._last_frame_ns = now_ns
            self._heard()
            if session.phase is Phase.LIVE and not session.is_status(data):
                await self._enqueue(Frame(self._market, data, now_ns))
            else:
                await self._read_status(socket, session, data, now_ns)

    async def _read_status(self, socket: ClientConnection, session: WireSession, data: bytes, now_ns: int) -> None:
        before = session.phase
        replies, has_data = session.received(data, self._now_ns())
        for reply in replies:
            await socket.send(reply)
        if session.phase is not before:
            if session.phase is Phase.LIVE:
                self._went_live(now_ns)
            self._phase_changed()
        frame = Frame(self._market, data, now_ns)
        if has_data and session.was_live:
            await self._enqueue(frame)
        elif self._on_status is not None:
            self._on_status(frame)

    def _went_live(self, now_ns: int) -> None:
        """What was missed ends here, before the first frame of this connection."""
        to_ms = (now_ns - self._delay_ns) // _MS_NS
        names = dict.fromkeys(product_symbol(topic.partition(".")[2]) for topic in self._topics)
        symbols = () if "*" in names else tuple(names)
        self._queue.put(GapEnd(self._market, to_ms, self._gap_cause, symbols, now_ns))
        metrics.FEED_CONNECTED.labels(self._label).set(1)
        metrics.FEED_DELAY.labels(self._label).set(self._delay_ns / _SECOND_NS)
        _log.info("feed live", market=self._label, topics=len(self._topics))

    async def _enqueue(self, frame: Frame) -> None:
        while not self._queue.put(frame):
            self._is_full = True
            await self._queue.wait_room()
        if self._is_full:
            self._is_full = False
            self._heard()

    async def _watch(self, socket: ClientConnection, session: WireSession) -> None:
        """Beside the reader; ends the connection by breaking it, and also if there is a bug in here."""
        try:
            await self._look_after(socket, session)
        except asyncio.CancelledError:
            raise
        except BaseException:
            socket.transport.abort()
            raise
        socket.transport.abort()

    async def _look_after(self, socket: ClientConnection, session: WireSession) -> None:
        """Ticks, pings, and what is overdue, until the connection has to end."""
        pinged_ns = self._heard_ns
        known = self.topics
        while session.ended is None:
            await asyncio.sleep(min(self._until_next_second_s(), self._silence_s / 4))
            now_ns = self._now_ns()
            session.overdue(now_ns)
            if not self._is_full and now_ns - self._heard_ns >= self._silence_s * _SECOND_NS:
                session.end(ending(Cause.SILENCE, f"for {self._silence_s:g} s"))
            if self.topics != known:
                if unanswered := set(self.topics.unconfirmed) - set(known.unconfirmed):
                    _log.warning("topics unconfirmed", market=self._label, topics=sorted(unanswered)[:20])
                known = self.topics
                self._publish()
            if session.phase is Phase.LIVE and not self._replay and now_ns - self._heard_ns <= self._sure_ns:
                self._tick()
            if now_ns - max(pinged_ns, self._heard_ns) >= self._sure_ns // 2:
                pinged_ns = now_ns
                with suppress(ConnectionClosed):
                    asyncio.ensure_future(await socket.ping()).add_done_callback(self._answered)

    def _tick(self) -> None:
        now_ns = self._clock_ns()
        tick_ms = (now_ns - self._delay_ns) // _SECOND_NS * 1_000
        if tick_ms != self._tick_ms and self._queue.put(TickDue(self._market, tick_ms, now_ns)):
            self._tick_ms = tick_ms

    def _until_next_second_s(self) -> float:
        """To just after the next whole second of the feed's clock."""
        return (_SECOND_NS - (self._clock_ns() - self._delay_ns) % _SECOND_NS) / _SECOND_NS + 0.001

    def _answered(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._heard()

    def _heard(self) -> None:
        self._heard_ns = self._now_ns()

    def _now_ns(self) -> int:
        """The loop's own time: what is waited for and what is overdue are of one clock."""
        return int(asyncio.get_running_loop().time() * _SECOND_NS)

    def _phase_changed(self) -> None:
        self._since_ns = self._clock_ns()
        self._publish()

    def _publish(self) -> None:
        self._count_topics()
        if self._on_state is not None:
            self._on_state(self.state)

    def _count_topics(self) -> None:
        known = self.topics
        counts = {"acked": known.acked, "unconfirmed": known.unconfirmed, "refused": known.refused}
        for state, topics in counts.items():
            metrics.FEED_TOPICS.labels(self._label, state).set(len(topics))

    def _all_notices(self) -> tuple[str, ...]:
        known, said = self._session, []
        if known.refused:
            said.append(notice(Notice.PARTLY_REFUSED, _some(known.refused)))
        if known.unconfirmed:
            said.append(notice(Notice.UNCONFIRMED, _some(known.unconfirmed)))
        if self._is_full:
            said.append(notice(Notice.QUEUE_FULL))
        return (*self._notices, *said)

    def _massive_session(self, topics: Sequence[str], now_ns: int) -> WireSession:
        return Session(self._market, self._key, topics, now_ns)


def _some(topics: Sequence[str]) -> str:
    more = len(topics) - TOPICS_NAMED_MAX
    return ", ".join(topics[:TOPICS_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
