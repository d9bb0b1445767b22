"""Ports of the loopback device for the servers that Tapewatch starts itself."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

from tapewatch.errors import MachineError

__all__ = ["free_port"]

_PORTS: Final = range(20_000, 32_000)
"""Below those that a system gives to connections that go out: one could take the port of a server that restarts."""
_TRIES: Final = 50


def free_port(wanted: int = 0) -> int:
    """``wanted`` if it is free, else one that is. Raises `MachineError` where there is none."""
    for port in (*([wanted] if wanted else []), *random.SystemRandom().sample(_PORTS, _TRIES), 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise MachineError("There is no free port on this machine for a server of our own.")
