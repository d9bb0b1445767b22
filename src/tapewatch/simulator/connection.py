"""A client's connection, seen from the server: what may be done to it, politely and otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.frames import Frame, Opcode
from websockets.protocol import State as SocketState

from tapewatch.records import Market
from tapewatch.simulator.session import Answer, End, Session

__all__ = ["Connection", "Socket"]

FLUSH_POLL_S: Final = 0.005


class Socket(ServerConnection):
    """A server's connection that can go half open: nothing is sent any more, or pings are not answered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.is_mute = False
        self.answers_pings = True
        send_frame = self.protocol.send_frame

        def send_unless_pong(frame: Frame) -> None:
            if self.answers_pings or frame.opcode is not Opcode.PONG:
                send_frame(frame)

        setattr(self.protocol, "send_frame", send_unless_pong)  # noqa: B010 - a method of that one object

    def send_data(self) -> None:
        """Send what the protocol has ready, or drop it."""
        if self.is_mute:
            self.protocol.data_to_send()
        else:
            super().send_data()


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection and its session. ``is_delayed``: it came to the host of delayed data."""

    socket: Socket
    session: Session
    is_delayed: bool = False
    ending: asyncio.Task[None] | None = None
    withholds_acks: bool = False
    """The answers to the next subscription are not sent."""

    @property
    def place(self) -> tuple[Market, bool]:
        """The market, and whether it is the delayed one."""
        return self.session.market, self.is_delayed

    @property
    def is_open(self) -> bool:
        """What is sent now goes onto the wire, as far as the server can know."""
        return self.ending is None and self.socket.state is SocketState.OPEN

    def unread_bytes(self) -> int:
        """What the client has not taken yet."""
        return self.socket.transport.get_write_buffer_size()

    def send(self, frames: Iterable[bytes]) -> None:
        """Never waits; what the client does not take stays in the buffer."""
        for frame in frames:
            broadcast((self.socket,), frame, text=True)

    def ping(self, data: bytes) -> None:
        """Send a ping, whatever becomes of its answer."""
        if self.is_open:
            self.socket.protocol.send_ping(data)
            self.socket.send_data()

    def carry_out(self, answer: Answer) -> None:
        """Send the frames of an answer, and end the connection if it says so."""
        self.send(answer.frames)
        if answer.end is not None:
            self.end(answer.end)

    def end(self, end: End) -> None:
        """Close after what was written, or cut the connection off; only the first call counts."""
        if self.ending is None:
            self.session.over()
            self.ending = asyncio.create_task(self._end(end))

    def drop(self) -> None:
        """Cut it off at once; what is in the buffer is lost."""
        self.session.over()
        self.socket.transport.abort()

    def cut_within(self, frame: bytes) -> None:
        """Send the first half of a frame, and no more."""
        data = Frame(Opcode.TEXT, frame).serialize(mask=False)
        self.socket.transport.write(data[: max(3, len(data) // 2)])
        self.drop()

    def go_silent(self) -> None:
        """Half open: nothing is read and nothing is sent, and neither side is told."""
        self.socket.is_mute = True
        self.socket.transport.pause_reading()

    async def _end(self, end: End) -> None:
        if end.code is not None:
            await self.socket.close(end.code, end.reason)
            return
        # The last status is to arrive, but no close frame: the real service just drops the connection.
        while self.unread_bytes() and not self.socket.transport.is_closing():
            await asyncio.sleep(FLUSH_POLL_S)
        self.socket.transport.abort()
