"""For the tests of the notify room: alerts to tell, an outbox in memory, a clock moved by hand, an HTTP endpoint."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec

from tapewatch.notify.outbox import notifications_for
from tapewatch.notify.outlet import Outlet
from tapewatch.notify.sender import Counts, Delivered, Waiting
from tapewatch.notify.target import Outcome, Receipt, Target
from tapewatch.records import Alert, AlertStatus, Notification, Origin

START = datetime(2024, 1, 2, 15, 31, 5, tzinfo=UTC)


def alert(alert_id: str = "a1", status: AlertStatus = AlertStatus.CONFIRMED, **changes: Any) -> Alert:
    """A golden cross of AAPL."""
    first = Alert(
        alert_id=alert_id,
        rule="golden",
        rule_version="1",
        kind="golden_cross",
        symbol="AAPL",
        direction=1,
        status=status,
        pane_start_ms=1_704_209_460_000,
        triggered_ms=1_704_209_465_250,
        decided_ms=1_704_209_522_000,
        price=190.12,
        line=190.0,
        late=False,
        offset=7,
        evidence={},
    )
    return msgspec.structs.replace(first, **changes)


def message(
    alert_id: str = "a1", status: AlertStatus = AlertStatus.CONFIRMED, channel: str = "webhook"
) -> Notification:
    """What `alert` becomes for one channel."""
    (found,) = notifications_for(alert(alert_id, status), [channel], "provisional", Origin.SIMULATED)
    return found


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Row:
    """A row of `notifications`."""

    notification: Notification
    created_at: datetime
    next_attempt_at: datetime
    state: str = "waiting"
    attempts: int = 0
    receipt: Receipt | None = None
    resent: bool = False
    delivered_at: datetime | None = None
    last_error: str | None = None


@dataclass
class MemoryOutbox:
    """The outbox without a database: the same methods, over a dictionary."""

    rows: dict[str, Row] = field(default_factory=dict)
    fail: BaseException | None = None
    """Raised by every method while set."""

    def add(self, notification: Notification, at: datetime) -> None:
        self.rows[notification.id] = Row(notification, at, at)

    async def claim(self, channel: str, limit: int, now: datetime, *, in_order: bool = False) -> list[Waiting]:
        self._answer()
        waiting = [r for r in self.rows.values() if r.state == "waiting" and r.notification.channel == channel]
        waiting.sort(key=lambda r: (r.created_at, r.notification.id))
        if in_order and any(behind := [r.attempts > 0 and r.next_attempt_at > now for r in waiting]):
            del waiting[behind.index(True) :]
        due = [r for r in waiting if r.next_attempt_at <= now and self._provisional(r) != "waiting"]
        return [self._waiting(row) for row in due[:limit]]

    def _waiting(self, row: Row) -> Waiting:
        mine = [r for r in self.rows.values() if r is not row and r.state == "delivered" and r.receipt is not None]
        mine = [r for r in mine if r.notification.channel == row.notification.channel]
        over = row.notification.event == "expired" and any(
            r.notification.payload.get("incident") == row.notification.payload["resolves"][0]
            for r in self.rows.values()
            if r.created_at > row.created_at
        )
        return Waiting(
            row.notification,
            row.attempts,
            row.created_at,
            self._provisional(row) == "delivered",
            resent=row.resent,
            superseded=over,
            earlier=next((r.receipt for r in mine if r.notification.alert_id == row.notification.alert_id), None),
        )

    async def delivered(self, told: Delivered) -> None:
        self._answer()
        row = self.rows[told.notification_id]
        row.state, row.attempts, row.delivered_at, row.last_error = "delivered", told.attempts, told.at, None
        row.receipt = told.outcome.receipt
        if (following := told.outcome.follow_up) is not None:
            due = told.at + timedelta(seconds=following.after_s)
            self.rows.setdefault(following.notification.id, Row(following.notification, told.at, due))

    async def failed(self, notification_id: str, attempts: int, error: str, next_attempt_at: datetime) -> None:
        self._answer()
        row = self.rows[notification_id]
        row.attempts, row.last_error, row.next_attempt_at = attempts, error, next_attempt_at

    async def dead(self, notification_id: str, attempts: int, error: str) -> None:
        self._answer()
        row = self.rows[notification_id]
        row.state, row.attempts, row.last_error = "dead", attempts, error

    async def needless(self, notification_id: str, reason: str) -> None:
        self._answer()
        row = self.rows[notification_id]
        row.state, row.last_error = "folded", reason

    async def sent_since(self, channel: str, since: datetime) -> list[datetime]:
        self._answer()
        times = [r.delivered_at for r in self.rows.values() if r.notification.channel == channel]
        return sorted(time for time in times if time is not None and time > since)

    async def counts(self) -> Counts:
        self._answer()
        states = [row.state for row in self.rows.values()]
        waiting = [row.created_at.timestamp() for row in self.rows.values() if row.state == "waiting"]
        return Counts(len(waiting), states.count("dead"), min(waiting, default=0.0))

    def _answer(self) -> None:
        if self.fail is not None:
            raise self.fail

    def _provisional(self, row: Row) -> str | None:
        """The state of the provisional message that ``row`` follows up, if there is one."""
        if row.notification.event == AlertStatus.PROVISIONAL:
            return None
        key = f"{row.notification.alert_id}:{row.notification.channel}:provisional"
        return self.rows[key].state if key in self.rows else None


@dataclass
class Receiver:
    """A target that keeps what it is given. ``outcomes`` are used up first; then everything is accepted."""

    outcomes: list[Outcome] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Of every attempt, in order."""
    closed: bool = False
    before: Callable[[Notification], Awaitable[None]] | None = None
    after: Callable[[Notification], None] | None = None
    in_order: bool = False
    parallel: int = 1
    earlier: list[Receipt | None] = field(default_factory=list)

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        self.earlier.append(earlier)
        if self.before is not None:
            await self.before(notification)
        self.ids.append(notification.id)
        if self.after is not None:
            self.after(notification)
        return self.outcomes.pop(0) if self.outcomes else Outcome()

    async def close(self) -> None:
        self.closed = True


def outlets(**targets: Target) -> dict[str, Outlet]:
    """Channels with these targets and no limit."""
    return {name: Outlet(name, "webhook", target) for name, target in targets.items()}


@dataclass
class Request:
    """What an endpoint was sent."""

    line: str
    headers: dict[str, str]
    """Names and values in small letters."""
    body: bytes
    signed_headers: dict[str, str] = field(default_factory=dict)
    """Names in small letters, values as they are."""


Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]
RespondTo = Callable[[asyncio.StreamWriter, str, dict[str, str], bytes], Awaitable[None]]
"""Is also given the request: its first line, its headers as they are (names in small letters) and its body."""


@asynccontextmanager
async def endpoint(
    respond: Respond | RespondTo, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[Request]]]:
    """A real HTTP server on a free port. It reads each request whole, then lets ``respond`` write what it likes."""
    requests: list[Request] = []
    open_writers: set[asyncio.StreamWriter] = set()
    asks = len(inspect.signature(respond).parameters) > 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            exact = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            requests.append(Request(head[0], headers, body, exact))
            if asks:
                await cast(RespondTo, respond)(writer, head[0], exact, body)
            else:
                await cast(Respond, respond)(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        for writer in open_writers:
            writer.transport.abort()


def answer(status: int, body: bytes = b"", **headers: str) -> Respond:
    """Respond with this, at once."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        named = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in named.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return respond
