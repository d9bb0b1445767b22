"""The simulator's port: opened with a sentence when it cannot be, and found when any free one was asked for."""

from __future__ import annotations

from typing import Any, Final

from websockets.asyncio.server import Server, serve

from tapewatch.errors import MachineError

__all__ = ["listen", "port_of"]

CONTROL_BYTES_MAX: Final = 1 << 20
"""What a client may send in one message."""


async def listen(handle: Any, host: str, port: int, **options: Any) -> Server:
    """A server of WebSocket connections, which ``handle`` takes; ``options`` are those of `websockets`.

    Raises:
        MachineError: the port cannot be listened on.
    """
    try:
        return await serve(handle, host, port, ping_timeout=None, max_size=CONTROL_BYTES_MAX, **options)
    except OSError as error:
        raise MachineError(
            f"the simulator cannot listen on {host}:{port} ({error.strerror}); "
            "choose another with --port, or 0 for a free one"
        ) from None


def port_of(server: Server | None) -> int:
    """The port it listens on."""
    assert server is not None
    return int(next(iter(server.sockets)).getsockname()[1])
