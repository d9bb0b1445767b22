"""What one lane has to write in one transaction: compact, and with a form as bytes.

Spark's job writes a commit in the worker that computed it, so only tests make it bytes and read it back. No code is
ever loaded from them: MessagePack with a schema, rows as the bytes of their NumPy arrays.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tapewatch.records import (
    BAR_ROW,
    LATEST_ROW,
    QUALITY_ROW,
    WINDOW_ROW,
    Alert,
    Changes,
    Gap,
    Notification,
    Origin,
)
from tapewatch.rules.change import RuleVersion

__all__ = ["Commit", "RejectedMessage"]

_ROWS: Final = {"windows": WINDOW_ROW, "bars": BAR_ROW, "latest": LATEST_ROW, "quality": QUALITY_ROW}


class RejectedMessage(msgspec.Struct, frozen=True):
    """A message that could not be read: where it stands, what it holds, and why it is no record."""

    offset: int
    reason: str
    value: bytes


class Commit(msgspec.Struct, kw_only=True):
    """Rows, alerts and outbox of one lane, and the move of its position from ``old`` to ``new``."""

    lane: str
    old: int
    new: int
    origin: Origin | None
    """Where the data comes from; None while no message has said it."""
    symbols: list[str]
    rows: dict[str, bytes]
    alerts: list[Alert]
    gaps: list[Gap]
    rules: list[RuleVersion] = []
    notifications: list[Notification]
    rejected: list[RejectedMessage]
    decisions: list[int]
    """Trades by `records.Decision`."""
    appended_ms: int
    """When Kafka appended the newest message."""
    snapshot: bytes | None = None

    @classmethod
    def of(cls, changes: Changes, **others: Any) -> Commit:
        """From the engine's changes; only the names that a row uses are kept."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(changes, name) for name in _ROWS}
        used = np.unique(np.concatenate([array["symbol"] for array in arrays.values()]))
        for name, array in arrays.items():
            if len(array):
                arrays[name] = array = array.copy()
                array["symbol"] = np.searchsorted(used, array["symbol"])
        return cls(
            symbols=[changes.symbols[i] for i in used.tolist()],
            rows={name: array.tobytes() for name, array in arrays.items() if len(array)},
            alerts=changes.alerts,
            gaps=changes.gaps,
            rules=changes.rules,
            **others,
        )

    def changes(self) -> Changes:
        """The engine's changes again."""
        return Changes(
            symbols=self.symbols,
            alerts=self.alerts,
            gaps=self.gaps,
            rules=self.rules,
            **{name: np.frombuffer(self.rows.get(name, b""), dtype) for name, dtype in _ROWS.items()},
        )

    def encode(self) -> bytes:
        """As bytes."""
        return _ENCODER.encode(self)

    @staticmethod
    def decode(data: bytes) -> Commit:
        """Inverse of `encode`."""
        return _DECODER.decode(data)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Commit)
