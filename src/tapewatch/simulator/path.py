"""The price of a symbol at any moment: fractal noise around its level. Pure.

The noise of octave k joins random values, one for each whole multiple of 2^k seconds, by straight lines; the values
are hashes, so nothing is stored and any moment costs the same. With amplitudes growing as the square root of the
period, increments over a time d have a variance in proportion to d, as a random walk's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tapewatch.simulator.listing import Listing

_OCTAVES: Final = np.arange(1, 21, dtype=np.int64)
_PERIOD_NS: Final[NDArray[np.int64]] = ((1 << _OCTAVES) * 1_000_000_000)[:, None]
_AMPLITUDE: Final[NDArray[np.float64]] = np.sqrt(2.0**_OCTAVES)[:, None]
_OCTAVE_KEYS: Final = _OCTAVES.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
_BELL: Final = 3.0**0.5
"""Makes the variance of a value in [-1, 1) one."""


def mid_price(listing: Listing, time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """The price between bid and ask at each moment, in dollars; continuous and positive."""
    index = time_ns // _PERIOD_NS
    weight = (time_ns - index * _PERIOD_NS) / _PERIOD_NS
    keys = _OCTAVE_KEYS ^ np.uint64(listing.key)
    nodes = index.astype(np.uint64)
    before, after = _value(keys, nodes), _value(keys, nodes + np.uint64(1))
    noise = np.sum(_AMPLITUDE * (before + weight * (after - before)), axis=0)
    return np.asarray(listing.level * np.exp(listing.sigma * noise))


def _value(keys: NDArray[np.uint64], nodes: NDArray[np.uint64]) -> NDArray[Any]:
    """Random values of variance one that depend on (key, node) alone: splitmix64."""
    mixed = (nodes + np.uint64(1)) * np.uint64(0xD1342543DE82EF95) + keys
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0) * _BELL
