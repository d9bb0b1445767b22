"""What was really written to a socket: one line of JSON per trade, for proofs.

    {"market":"stocks","channel":"T","symbol":"AAPL","id":"52","t":1763658000310,"x":12,"trf":0}

``t`` is the trade's own event time, also where a fault stamped the event otherwise. A trade that is sent to two
connections, or twice, has several lines. Written is not received: what a broken connection lost is listed too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from tapewatch.errors import MachineError
from tapewatch.records import Market
from tapewatch.simulator.tape import NS_PER_MS, Due

__all__ = ["SentFile", "SentTrade", "Witness", "sent_trades"]


class SentTrade(msgspec.Struct, frozen=True):
    """One trade that was sent. ``symbol`` is the wire's, ``t`` Unix ms."""

    market: str
    channel: str
    symbol: str
    id: str
    t: int
    x: int = 0
    trf: int = 0


class Witness(Protocol):
    """Sees what is sent."""

    def __call__(self, trades: Iterable[SentTrade]) -> None:
        """These were written to one connection just now."""


def sent_trades(market: Market, channel: str, due: Iterable[Due]) -> list[SentTrade]:
    """Those of some events that are trades."""
    return [
        SentTrade(
            market.name.lower(),
            channel,
            one.symbol,
            str(_field(one.event, "i") or ""),
            one.time_ns // NS_PER_MS,
            int(_field(one.event, "x") or 0),
            int(_field(one.event, "trfi") or 0),
        )
        for one in due
        if one.symbol
    ]


def _field(event: Any, name: str) -> Any:
    return event.get(name) if isinstance(event, dict) else getattr(event, name, None)


class SentFile:
    """A `Witness` that writes a file, a batch of lines at a time, so that a reader sees whole lines."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise MachineError(f"--sent {path}: cannot be written ({error.strerror})") from None

    def __call__(self, trades: Iterable[SentTrade]) -> None:
        self._file.write(b"".join(msgspec.json.encode(trade) + b"\n" for trade in trades))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
