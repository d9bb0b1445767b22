"""The engine's whole state as bytes, and back.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import msgspec
import numpy as np
import zstandard

from tapewatch.engine.state import MARKET, NEVER, Params, Shape, State, fingerprint, new_state, shape_of
from tapewatch.errors import LogError
from tapewatch.records import Gap, Interner

_OF_SYMBOLS = ("symbols", "panes", "legs", "marks", "pending", "bases")
_OTHERS = ("deep", "bars", "ranges", "same", "same_days")


class Remembered(msgspec.Struct, kw_only=True):
    """What the engine remembers beside its arrays."""

    rules: str
    """As they are now: `Rules.encode`."""
    since: dict[str, int]
    """Of rules that were given or changed while it ran, by id: the pane from which on they know the past."""
    gaps: list[Gap]


class _Snapshot(msgspec.Struct, kw_only=True):
    """Bytes of the arrays, with what is needed to know them again."""

    fingerprint: str
    names: list[str]
    shape: tuple[int, ...]
    arrays: dict[str, bytes]
    markets: bytes
    remembered: Remembered


def dump(state: State, names: list[str], params: Params, remembered: Remembered) -> bytes:
    """The state as bytes: zstandard over msgpack; no code is ever loaded from it."""
    used = len(names)
    arrays = {name: getattr(state, name)[:used].tobytes() for name in _OF_SYMBOLS}
    snapshot = _Snapshot(
        fingerprint=fingerprint(params),
        names=names,
        shape=tuple(shape_of(state)),
        arrays=arrays | {name: getattr(state, name).tobytes() for name in _OTHERS},
        markets=state.markets.tobytes(),
        remembered=remembered,
    )
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(snapshot))


def load(data: bytes, interner: Interner, params: Params) -> tuple[State, list[str], Remembered]:
    """Inverse of `dump`: state, the symbols in it, and the rest. They get the numbers that ``interner`` has or gives.

    Raises:
        LogError: the snapshot was made with other parameters, so its rows mean something else.
    """
    try:
        snapshot = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data), type=_Snapshot)
    except msgspec.ValidationError:  # of a version that had other fields
        raise LogError(_OTHER) from None
    if snapshot.fingerprint != fingerprint(params):
        raise LogError(_OTHER)
    rows = [interner.index(name) for name in snapshot.names]
    state = new_state(max(64, len(interner)), Shape(*snapshot.shape))
    for name in _OF_SYMBOLS:
        array = getattr(state, name)
        array[rows] = np.frombuffer(snapshot.arrays[name], array.dtype).reshape(len(rows), *array.shape[1:])
    for name in _OTHERS:
        array = getattr(state, name)
        array[...] = np.frombuffer(snapshot.arrays[name], array.dtype).reshape(array.shape)
    state.counts[1] = np.count_nonzero(state.pending["pane_ms"] != NEVER)
    markets = np.frombuffer(snapshot.markets, MARKET)
    state.markets[: len(markets)] = markets  # an older version knew fewer
    return state, snapshot.names, snapshot.remembered


_OTHER = (
    "the stored engine state was made with other window or delay settings, or by another version; "
    "put the old settings back, or run `tapewatch rebuild` to compute every row anew from the log"
)
