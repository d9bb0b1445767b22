"""One connection to the exchange, without the connection: what to say, and what an answer means.

Bytes from the exchange go in; messages to send and the connection's phase come out. The caller owns the socket and
the clock, so every rule here is tested by calling it. What an ending means is `endings.py`'s affair.

    CONNECTING ──"connected"──► AUTHENTICATING ──"auth_success"──► SUBSCRIBING ──first ack, or data──► LIVE
         │                            │                                 │                               │
         └────────────────────────────┴────── overdue, or a status ─────┴───────────────────────────────┤
                                              that ends it                                              ▼
                                                                    STALE (nothing heard)  CLOSED (everything else)

    each topic   SENT ──its ack──► ACKED
                  └──10 s without──► UNCONFIRMED, or REFUSED when the exchange said "not authorized" meanwhile
                                     and has confirmed no topic of that channel

What is promised: a topic is *acked* only by its own acknowledgement. One without an answer is *unconfirmed* and
reported; it may still bring data, since the exchange answers neither a topic it already sends nor an unknown channel.
A topic that is held is therefore never asked for again. The refusal of a topic names none, so *refused* is concluded.

Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Final

import msgspec

from tapewatch.feed.endings import Cause, Ending, cause_of_close, delays, ending
from tapewatch.feed.subscriptions import chunks
from tapewatch.feed.wire import Phase, SessionLife
from tapewatch.records import Market

__all__ = ["Cause", "Ending", "Phase", "Session", "TopicState", "cause_of_close", "delays", "ending"]

HANDSHAKE_LIMIT_NS: Final = 15_000_000_000
"""How long the greeting, and then the answer to the key, may take."""
ACK_LIMIT_NS: Final = 10_000_000_000
"""How long a topic may wait for its acknowledgement before it is called unconfirmed."""


class TopicState(Enum):
    """What is known of one topic's subscription."""

    SENT = "sent"
    ACKED = "acked"
    UNCONFIRMED = "unconfirmed"
    REFUSED = "refused"


_ENDING_STATUS: Final = {
    "auth_failed": Cause.AUTH_FAILED,
    "auth_timeout": Cause.AUTH_TIMEOUT,
    "auth_required": Cause.AUTH_REQUIRED,
    "max_connections": Cause.MAX_CONNECTIONS,
    "slow_consumer": Cause.SLOW_CONSUMER,
    "force_disconnect": Cause.FORCE_DISCONNECT,
}
_ACK: Final = "subscribed to: "


class _Event(msgspec.Struct):
    ev: Any = None
    status: Any = None
    message: Any = None


_DECODER: Final = msgspec.json.Decoder(list[_Event])


class Session(SessionLife):
    """Massive's `WireSession`. ``ended`` is set once and says why; the caller then closes the socket."""

    def __init__(self, market: Market, key: str, topics: Sequence[str], now_ns: int) -> None:
        super().__init__()
        self.market = market
        self.topics = dict.fromkeys(topics, TopicState.SENT)
        self.not_authorized = 0
        """Times the exchange said that the plan lacks a topic; it does not say which."""
        self._key = key
        self._deadline_ns: int | None = now_ns + HANDSHAKE_LIMIT_NS
        self._asked: list[tuple[int, tuple[str, ...]]] = []
        """Topics that wait for their acknowledgement, each with the time until which they do."""

    @property
    def acked(self) -> list[str]:
        """Topics the exchange has confirmed."""
        return self._in_state(TopicState.ACKED)

    @property
    def unconfirmed(self) -> list[str]:
        """Topics that got no answer in time."""
        return self._in_state(TopicState.UNCONFIRMED)

    @property
    def refused(self) -> list[str]:
        """Topics that got no answer while the exchange said that something is not in the plan."""
        return self._in_state(TopicState.REFUSED)

    def opened(self, now_ns: int) -> list[str]:
        """Nothing: the exchange speaks first."""
        return []

    def is_status(self, data: bytes) -> bool:
        """While `LIVE`: the frame may hold a status, so that `received` must see it."""
        return b'"status"' in data

    def received(self, data: bytes, now_ns: int) -> tuple[list[str], bool]:
        """Take a frame: the messages to send in answer, and whether it holds anything but statuses.

        Never raises on what the exchange sent. While `LIVE`, only frames with a status need to come here.
        """
        try:
            events = _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [], True  # no status that we understand: the decoder's to count
        replies: list[str] = []
        for event in events:
            if event.ev == "status" and isinstance(event.status, str):
                replies += self._status(event.status, str(event.message), now_ns)
        has_data = any(event.ev != "status" for event in events)
        if has_data:
            self._live(now_ns)
        return replies, has_data

    def change(self, topics: Sequence[str], now_ns: int) -> list[str]:
        """These are the topics from now on: the messages that say so. One that is held is not asked for again."""
        wanted = dict.fromkeys(topics)
        added = [topic for topic in wanted if topic not in self.topics]
        removed = [topic for topic in self.topics if topic not in wanted]
        self.topics = {topic: self.topics.get(topic, TopicState.SENT) for topic in wanted}
        if self.phase not in (Phase.SUBSCRIBING, Phase.LIVE):
            return []  # they are asked for when the key was accepted
        # Added first: a topic that the exchange holds by `*` must not be lost in between.
        return [*self._ask(added, now_ns), *(_message("unsubscribe", chunk) for chunk in chunks(removed))]

    def overdue(self, now_ns: int) -> None:
        """Look whether an answer has been waited for too long. To be called about once a second."""
        if self.ended is not None:
            return
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            missing = "no greeting" if self.phase is Phase.CONNECTING else "no answer to the key"
            self.end(ending(Cause.HANDSHAKE, missing))
            return
        while self._asked and now_ns >= self._asked[0][0]:
            self._unanswered(self._asked.pop(0)[1])
            if self.phase is Phase.SUBSCRIBING and not self._asked:
                cause = Cause.NOT_AUTHORIZED if self.not_authorized else Cause.NO_ACK
                self.end(ending(cause, ", ".join(list(self.topics)[:5])))

    def _in_state(self, state: TopicState) -> list[str]:
        return [topic for topic, its in self.topics.items() if its is state]

    def _status(self, status: str, message: str, now_ns: int) -> list[str]:
        if status in _ENDING_STATUS:
            self.end(ending(_ENDING_STATUS[status], message))
        elif self.phase is Phase.CONNECTING and status in ("connected", "success"):
            self.phase = Phase.AUTHENTICATING
            self._deadline_ns = now_ns + HANDSHAKE_LIMIT_NS
            return [_message("auth", [self._key])]
        elif self.phase is Phase.AUTHENTICATING and status == "auth_success":
            self.phase = Phase.SUBSCRIBING
            self._deadline_ns = None
            return self._ask(list(self.topics), now_ns)
        elif status == "success" and message.startswith(_ACK):
            self._acknowledged(message.removeprefix(_ACK), now_ns)
        elif status == "error":
            self.not_authorized += 1
        return []

    def _ask(self, topics: Sequence[str], now_ns: int) -> list[str]:
        if topics:
            self._asked.append((now_ns + ACK_LIMIT_NS, tuple(topics)))
        return [_message("subscribe", chunk) for chunk in chunks(topics)]

    def _acknowledged(self, names: str, now_ns: int) -> None:
        for name in names.split(","):
            if (topic := name.strip()) in self.topics:
                self.topics[topic] = TopicState.ACKED
                self._live(now_ns)

    def _unanswered(self, topics: Iterable[str]) -> None:
        allowed = {_channel(topic) for topic in self.acked}
        for topic in topics:
            if self.topics.get(topic) is TopicState.SENT:
                is_refused = self.not_authorized > 0 and _channel(topic) not in allowed
                self.topics[topic] = TopicState.REFUSED if is_refused else TopicState.UNCONFIRMED


def _channel(topic: str) -> str:
    return topic.partition(".")[0]


def _message(action: str, params: Sequence[str]) -> str:
    return msgspec.json.encode({"action": action, "params": ",".join(params)}).decode()
