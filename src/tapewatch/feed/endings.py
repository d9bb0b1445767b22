"""Everything that can end or trouble a connection, and the one rule for each: what is done, and what is said.

    a status, a close frame, an exception ─► Cause ─► `ending` ─► sentence, and: again / after a minute / never again

`RULES` is the table; `docs/feed.md` shows the same table to people, and a test compares the two. What does not end the
connection is a `Notice`: it is said, and the connection stays.

    Patience: 0.2..1 s, 1..2 s, 2..4 s ... 30..60 s     from the start again only after a stable connection
              evicted: 60 s more, then 120 s, 240 s ... 600 s, so that two programs with one key never fight

Pure: no I/O and no clock; the random numbers come from the caller.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

__all__ = [
    "RULES",
    "Action",
    "Cause",
    "Ending",
    "Notice",
    "Patience",
    "Rule",
    "cause_of_close",
    "cause_of_error",
    "cause_of_http",
    "delays",
    "ending",
    "notice",
]

FIRST_DELAY_S: Final = (0.2, 1.0)
DELAY_MAX_S: Final = 60.0
EVICTED_WAIT_S: Final = 60.0
"""After `max_connections`, at least: two clients that return at once evict each other for ever."""
EVICTED_WAIT_S_MAX: Final = 600.0
"""Evicted again and again, the wait doubles up to this."""
RETRY_AFTER_S_MAX: Final = 300.0
"""A server that asks for a longer pause (Retry-After) gets this one."""
DETAIL_CHARS_MAX: Final = 200
"""Of the exchange's own words so many are repeated."""
REPLAY_FINISHED: Final = "replay finished"
"""The close reason with which the simulator says that a recording has come to its end."""


class Cause(StrEnum):
    """Why a connection ended; the label of the reconnect metric and the cause of a gap."""

    AUTH_FAILED = "auth_failed"
    AUTH_TIMEOUT = "auth_timeout"
    AUTH_REQUIRED = "auth_required"
    NOT_AUTHORIZED = "not_authorized"
    MAX_CONNECTIONS = "max_connections"
    SLOW_CONSUMER = "slow_consumer"
    FORCE_DISCONNECT = "force_disconnect"
    HANDSHAKE = "handshake"
    NO_ACK = "no_ack"
    SILENCE = "silence"
    PING_TIMEOUT = "ping_timeout"
    CLOSED = "closed"
    CUT = "cut"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    UNREACHABLE = "unreachable"
    NAME = "name"
    REFUSED = "refused"
    TLS = "tls"
    CERTIFICATE = "certificate"
    HTTP = "http"
    HTTP_REFUSED = "http_refused"
    NOT_TRADED = "not_traded"
    SEQUENCE = "sequence"
    CAPTURE = "capture"
    FINISHED = "finished"
    STOPPED = "stopped"
    RESTART = "restart"


class Notice(StrEnum):
    """What troubles a connection without ending it."""

    PARTLY_REFUSED = "partly_refused"
    UNCONFIRMED = "unconfirmed"
    QUEUE_FULL = "queue_full"
    LAGGING = "lagging"


class Action(Enum):
    """What the client does. The value is the wording of the table in docs/feed.md."""

    RETRY = "connects again after a growing, random wait"
    WAIT = "connects again after 60 s or more, longer each time"
    GIVE_UP = "gives this market up: trying again changes nothing"
    FINISH = "ends: nothing more will come"
    STAY = "stays connected"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table. ``sentence`` has a place `({})` for the details."""

    when: str
    action: Action
    sentence: str


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ended, in one sentence, and what follows: nothing (``fatal``), or a retry after a wait."""

    cause: Cause
    sentence: str
    wait_min_s: float = 0.0
    fatal: bool = False


_RETRY, _STAY, _GIVE_UP = Action.RETRY, Action.STAY, Action.GIVE_UP
RULES: Final[dict[Cause | Notice, Rule]] = {
    Cause.AUTH_FAILED: Rule(
        "status `auth_failed`",
        _GIVE_UP,
        "the exchange refused the key ({}); check MASSIVE_API_KEY and the plan",
    ),
    Cause.AUTH_TIMEOUT: Rule("status `auth_timeout`", _RETRY, "the exchange did not get the key in time ({})"),
    Cause.AUTH_REQUIRED: Rule("status `auth_required`", _RETRY, "the exchange asked for the key again ({})"),
    Cause.NOT_AUTHORIZED: Rule(
        "status `error`, which names no topic, and no topic is confirmed",
        _GIVE_UP,
        "the plan includes none of the topics asked for ({}); change the plan or SYMBOLS",
    ),
    Cause.MAX_CONNECTIONS: Rule(
        "status `max_connections`, or close 1008 that says so",
        Action.WAIT,
        "another connection with the same key took this one's place ({}); stop the other program: it may run on "
        "another machine, in a notebook, or in a container that was left running",
    ),
    Cause.SLOW_CONSUMER: Rule(
        "status `slow_consumer`", _RETRY, "the exchange says that this machine reads too slowly ({})"
    ),
    Cause.FORCE_DISCONNECT: Rule("status `force_disconnect`", _RETRY, "the exchange ended the connection ({})"),
    Cause.HANDSHAKE: Rule(
        "no greeting, or no answer to the key, within 15 s", _RETRY, "the exchange did not answer in time ({})"
    ),
    Cause.NO_ACK: Rule(
        "no topic confirmed and no data within 10 s", _RETRY, "the exchange confirmed no topic and sent no data ({})"
    ),
    Cause.SILENCE: Rule(
        "not a byte within FEED_SILENCE, the socket being open",
        _RETRY,
        "nothing was heard from the exchange, not even an answer to a ping ({})",
    ),
    Cause.PING_TIMEOUT: Rule(
        "close 1011 that speaks of a ping", _RETRY, "the exchange waited in vain for an answer to its ping ({})"
    ),
    Cause.CLOSED: Rule("any other close frame: 1000 and 1001 too", _RETRY, "the exchange closed the connection ({})"),
    Cause.CUT: Rule("an end without a close frame (1006)", _RETRY, "the connection broke off ({})"),
    Cause.TOO_LARGE: Rule(
        "a frame of more than 16 MiB, or close 1009", _RETRY, "the exchange sent a larger frame than is accepted ({})"
    ),
    Cause.UNREADABLE: Rule(
        "bytes that are no WebSocket frame", _RETRY, "what the exchange sent breaks the rules of WebSocket ({})"
    ),
    Cause.UNREACHABLE: Rule("any other error of the network", _RETRY, "the exchange cannot be reached ({})"),
    Cause.NAME: Rule(
        "the host's name is not found",
        _RETRY,
        "the exchange's name cannot be looked up ({}); check the network's DNS and MASSIVE_WS_URL",
    ),
    Cause.REFUSED: Rule(
        "the connection is refused", _RETRY, "nothing listens at the exchange's address ({}); check MASSIVE_WS_URL"
    ),
    Cause.TLS: Rule(
        "TLS fails, but not for the certificate", _RETRY, "no encrypted connection to the exchange came about ({})"
    ),
    Cause.CERTIFICATE: Rule(
        "the certificate is not of that host, or of nobody trusted",
        _GIVE_UP,
        "the exchange's certificate is not genuine ({}); check MASSIVE_WS_URL",
    ),
    Cause.HTTP: Rule(
        "an HTTP answer instead of the upgrade; Retry-After is obeyed, up to 5 minutes",
        _RETRY,
        "the exchange answered the connection request with an error ({})",
    ),
    Cause.HTTP_REFUSED: Rule(
        "HTTP 401 or 403",
        _GIVE_UP,
        "the exchange refused the connection request ({}); check MASSIVE_WS_URL and MASSIVE_API_KEY",
    ),
    Cause.NOT_TRADED: Rule(
        "Coinbase knows none of the symbols",
        _GIVE_UP,
        "the exchange trades none of what was asked for ({}); correct SYMBOLS",
    ),
    Cause.SEQUENCE: Rule(
        "Coinbase's trade numbers have a hole", _STAY, "the exchange's own numbers show that trades were skipped ({})"
    ),
    Cause.CAPTURE: Rule(
        "a raw capture that is played lacks frames", _STAY, "the raw capture had to leave frames out ({})"
    ),
    Cause.FINISHED: Rule("close 1000 of a replay at its end", Action.FINISH, "the recording has come to its end ({})"),
    Cause.STOPPED: Rule("a person stops the program", Action.FINISH, "the feed was stopped ({})"),
    Cause.RESTART: Rule("the program starts", _STAY, "the program was started ({})"),
    Notice.PARTLY_REFUSED: Rule(
        "status `error`, which names no topic, while others are confirmed",
        _STAY,
        "the plan lacks some of the topics asked for; the exchange does not say which ({})",
    ),
    Notice.UNCONFIRMED: Rule(
        "a topic without an answer within 10 s, such as one of an unknown channel",
        _STAY,
        "topics got no answer: their channel may be unknown, but they may still bring data ({})",
    ),
    Notice.QUEUE_FULL: Rule(
        "frames come faster than they are recorded",
        _STAY,
        "the recording is behind, so reading waits; nothing is dropped ({})",
    ),
    Notice.LAGGING: Rule(
        "even the freshest trade of the last seconds is older than FEED_LAG_MAX",
        _STAY,
        "what arrives is old ({}): this machine, or the exchange, is too slow",
    ),
}


def ending(cause: Cause, detail: str = "", retry_after_s: float = 0.0) -> Ending:
    """What an ending means: the one place that decides it. ``retry_after_s`` is what the server asked for.

    >>> ending(Cause.CLOSED, "1001 going away").sentence
    'the exchange closed the connection (1001 going away)'
    """
    wait_min_s = min(max(retry_after_s, 0.0), RETRY_AFTER_S_MAX)
    action = RULES[cause].action
    if action is Action.WAIT:
        wait_min_s = max(wait_min_s, EVICTED_WAIT_S)
    return Ending(cause, _filled(cause, detail), wait_min_s, action is Action.GIVE_UP)


def notice(what: Notice, detail: str = "") -> str:
    """The sentence of what troubles the connection without ending it."""
    return _filled(what, detail)


def _filled(what: Cause | Notice, detail: str) -> str:
    detail = detail[:DETAIL_CHARS_MAX]
    return RULES[what].sentence.replace(" ({})", f" ({detail})" if detail else "")


def cause_of_close(code: int | None, reason: str) -> Cause:
    """The cause told by a close frame; no code means that the connection broke off without one."""
    words = reason.lower()
    if code == 1000 and reason == REPLAY_FINISHED:
        return Cause.FINISHED
    if code is None or code == 1006:
        return Cause.CUT
    if code == 1009:
        return Cause.TOO_LARGE
    if code in (1002, 1007):
        return Cause.UNREADABLE
    if code == 1008 and "connection" in words and "exceeded" in words:
        return Cause.MAX_CONNECTIONS
    if code == 1011 and "ping" in words:
        return Cause.PING_TIMEOUT
    return Cause.CLOSED


_ERRORS: Final = {  # by the name of the exception's class
    "SSLCertVerificationError": Cause.CERTIFICATE,
    "SSLError": Cause.TLS,
    "gaierror": Cause.NAME,
    "ConnectionRefusedError": Cause.REFUSED,
    "ConnectionResetError": Cause.CUT,
    "BrokenPipeError": Cause.CUT,
    "ProtocolError": Cause.UNREADABLE,
    "InvalidHandshake": Cause.HTTP,
}


def cause_of_error(names: Iterable[str], text: str = "") -> Cause:
    """The cause told by an exception of the socket: the names of its class and its bases, nearest first, and its text.

    >>> str(cause_of_error(["ConnectionRefusedError", "ConnectionError", "OSError"]))
    'refused'
    """
    found = next((_ERRORS[name] for name in names if name in _ERRORS), Cause.UNREACHABLE)
    if found is Cause.UNREACHABLE and f"[Errno {errno.ECONNREFUSED}]" in text:
        return Cause.REFUSED  # a name with several addresses: the errors of all come as one
    return found


def cause_of_http(status: int) -> Cause:
    """The cause told by an HTTP answer that is no upgrade."""
    return Cause.HTTP_REFUSED if status in (401, 403) else Cause.HTTP


def delays(rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each retry: exponential with jitter, so that many clients never return together."""
    yield rng.uniform(*FIRST_DELAY_S)
    ceiling = 2.0
    while True:
        yield rng.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, DELAY_MAX_S)


class Patience:
    """How long to wait after each ending. Stable connections shorten the waits again; evictions do not."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._waits = delays(rng)
        self._evictions = 0

    def wait_s(self, how: Ending, was_stable: bool) -> float:
        """Seconds until the next attempt after ``how``, which ended a connection that was stable or not."""
        if was_stable:
            self._waits = delays(self._rng)
        evicted_s = 0.0
        if RULES[how.cause].action is Action.WAIT:
            evicted_s = min(EVICTED_WAIT_S * 2**self._evictions, EVICTED_WAIT_S_MAX)
            self._evictions += 1
        elif was_stable:
            self._evictions = 0
        return max(how.wait_min_s, evicted_s) + next(self._waits)
