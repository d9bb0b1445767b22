"""The quick way through a frame: one pass over its bytes, straight into columns, compiled by numba.

It knows trades alone (of stocks, crypto, options and futures), written as the exchange normally writes them: ASCII
without escapes, any order of fields, unread fields that hold a string, a number, a literal or a flat list. A frame that
holds anything else, even once, is left to `events.py` whole; so is a symbol or a condition list that is not in its
table yet. Whatever it takes, it takes exactly as `events.py` would: a test holds the two together.

Numbers are exact. A price of at most 2^53 and a power of ten of at most 22 are both exact as floats, so their quotient
is the nearest float (Clinger 1990); a size is whole 1e-8 units from its digits. Others are left to `events.py`.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapewatch.compiled import compiled, inlined
from tapewatch.feed.names import CODES_MAX, MARKET_SHIFT, NUMBER, SYMBOL_BYTES_MAX, NameTable, find, word
from tapewatch.feed.tokens import EXPONENT, FAIL, MANTISSA, name_at, number, packed, skip, space, string
from tapewatch.records import SIZE_E8_MAX, Market
from tapewatch.values import ID_LENGTH_MAX, PRICE_MAX, TIME_MS_MAX, TIME_MS_MIN

__all__ = ["Scanned", "scan"]

EVENT_BYTES_MIN: Final = 40
"""No event that is taken is shorter: it needs an `ev`, a symbol, a price, a size and a time of 12 digits."""
_EXACT: Final = 2**53
_SHORTEST: Final = 10**15
"""A number with fewer digits is printed again as it was read."""
_POWERS: Final = np.array([10.0**n for n in range(23)])
_POWERS_INT: Final = np.array([10**n for n in range(19)], np.int64)
_STOCKS, _CRYPTO = int(Market.STOCKS), int(Market.CRYPTO)
_OPTIONS, _FUTURES = int(Market.OPTIONS), int(Market.FUTURES)
_INT16_MAX: Final = 2**15 - 1
_NEWLINE, _QUOTE, _COMMA, _COLON, _LETTER_Q = 10, 34, 44, 58, 113
_OPEN_LIST, _CLOSE_LIST, _OPEN_MAP, _CLOSE_MAP = 91, 93, 123, 125
_Array = Any  # whose elements are plain numbers in compiled code
# Where the values of an event stand in its row of `fields`; the first two and the last six are notes made reading it.
_SYMBOL, _TIME_MS, _SIZE, _EXCHANGE, _TRF, _CODES = range(2, 8)
_KIND, _ROUNDED, _ID, _ID_STOP, _Q, _Q_STOP = range(8, 14)
_FIELDS: Final = 14
_UNKNOWN: Final = -(2**31)

_EV, _T, _XT, _SYM, _PAIR = word("ev"), word("T"), word("XT"), word("sym"), word("pair")
_P, _S, _DS, _C, _X, _I, _TRFI = word("p"), word("s"), word("ds"), word("c"), word("x"), word("i"), word("trfi")
_TIME, _SEQUENCE = word("t"), word("q")


class Scanned(NamedTuple):
    """The trades of the frames that were taken, in order: columns as in `records.Batch`.

    ``rows`` has the number of rows of each frame, -1 for one that is left to `events.py`.
    """

    rows: NDArray[np.int64]
    symbol: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    price: NDArray[np.float64]
    size_e8: NDArray[np.int64]
    exchange: NDArray[np.int16]
    trf: NDArray[np.int16]
    conditions: NDArray[np.int32]
    ids: list[str]


def scan(
    data: NDArray[np.uint8],
    stops: NDArray[np.int64],
    markets: NDArray[np.uint8],
    symbols: NameTable,
    codes: NameTable,
) -> Scanned:
    """Read the frames in ``data``, each ended by a NUL byte at its ``stops``."""
    rows_max = len(data) // EVENT_BYTES_MIN + 1
    fields = np.empty((rows_max, _FIELDS), np.int64)
    prices = np.empty(rows_max)
    ids = np.empty(len(data) + rows_max, np.uint8)
    rows = np.empty(len(stops), np.int64)
    count, id_bytes = _scan(data, stops, markets, symbols.rows, codes.rows, fields, prices, ids, rows)
    return Scanned(
        rows=rows,
        symbol=fields[:count, _SYMBOL].astype(np.int32),
        time_ms=fields[:count, _TIME_MS].copy(),
        price=prices[:count].copy(),
        size_e8=fields[:count, _SIZE].copy(),
        exchange=fields[:count, _EXCHANGE].astype(np.int16),
        trf=fields[:count, _TRF].astype(np.int16),
        conditions=fields[:count, _CODES].astype(np.int32),
        ids=ids[:id_bytes].tobytes().decode().split("\n")[:-1],
    )


# --- compiled. A position of -1 means: not one of ours. Reading never passes a NUL, so it stays in its frame. ------


@compiled
def _scan(
    data: _Array, stops: _Array, markets: _Array, symbols: _Array, codes: _Array, fields: _Array,
    prices: _Array, ids: _Array, rows: _Array,
) -> tuple[int, int]:  # fmt: skip
    row = id_stop = start = 0
    for frame in range(len(stops)):
        market = markets[frame]
        row_before, id_before = row, id_stop
        pos = space(data, start)
        pos = space(data, pos + 1) if data[pos] == _OPEN_LIST and market <= _FUTURES else FAIL
        while pos >= 0 and data[pos] != _CLOSE_LIST:
            pos = _event(data, pos, market, symbols, codes, fields, prices, row)
            if pos < 0:
                break
            first, stop = fields[row, _ID], fields[row, _ID_STOP]
            if market >= _OPTIONS and first == stop:
                first, stop = fields[row, _Q], fields[row, _Q_STOP]
                if first < stop:
                    id_stop = _write_time(ids, id_stop, fields[row, _TIME_MS])
            for at in range(first, stop):
                ids[id_stop] = data[at]
                id_stop += 1
            ids[id_stop] = _NEWLINE
            id_stop += 1
            row += 1
            pos = space(data, pos)
            if data[pos] == _COMMA:
                pos = space(data, pos + 1)
                if data[pos] == _CLOSE_LIST:
                    pos = FAIL
            elif data[pos] != _CLOSE_LIST:
                pos = FAIL
        if pos >= 0 and space(data, pos + 1) == stops[frame]:
            rows[frame] = row - row_before
        else:
            rows[frame] = FAIL
            row, id_stop = row_before, id_before
        start = stops[frame] + 1
    return row, id_stop


@inlined
def _event(
    data: _Array, pos: int, market: int, symbols: _Array, codes: _Array, fields: _Array, prices: _Array, row: int,
) -> int:  # fmt: skip
    """From an event's opening brace to behind its closing one; its values are then in their row."""
    if data[pos] != _OPEN_MAP:
        return FAIL
    for place in range(_FIELDS):
        fields[row, place] = 0
    fields[row, _SYMBOL] = _UNKNOWN
    fields[row, _SIZE] = fields[row, _ROUNDED] = -1
    prices[row] = 0.0
    while data[pos] != _CLOSE_MAP:
        name, pos = name_at(data, space(data, pos + 1))
        if pos < 0:
            return FAIL
        pos = space(data, pos)
        if data[pos] != _COLON:
            return FAIL
        pos = space(data, pos + 1)
        if name == (_PAIR if market == _CRYPTO else _SYM):
            pos = _symbol(data, pos, market, symbols, fields, row)
        elif name == _C and market == _STOCKS:
            pos = _codes(data, pos, codes, fields, row)
        elif name == _SEQUENCE and market >= _OPTIONS:
            pos = _sequence(data, pos, fields, row)
        else:
            pos = _field(data, pos, name, fields, prices, row)
        if pos < 0:
            return FAIL
        pos = space(data, pos)
        if data[pos] != _COMMA and data[pos] != _CLOSE_MAP:
            return FAIL
    if fields[row, _SIZE] < 0:
        fields[row, _SIZE] = fields[row, _ROUNDED]
    is_trade = (
        fields[row, _KIND] == (_XT if market == _CRYPTO else _T)
        and fields[row, _SYMBOL] != _UNKNOWN
        and TIME_MS_MIN <= fields[row, _TIME_MS] <= TIME_MS_MAX
        and 0 < prices[row] <= PRICE_MAX
        and fields[row, _SIZE] >= 0
    )
    return pos + 1 if is_trade else FAIL


@inlined
def _field(data: _Array, pos: int, name: int, fields: _Array, prices: _Array, row: int) -> int:
    """A field's value, from its first byte to behind its last, into its place."""
    if name == _P:
        return _price(data, pos, fields, prices, row)
    if name == _TIME:
        return _whole(data, pos, fields, row, _TIME_MS, TIME_MS_MAX)
    if name == _X:
        return _whole(data, pos, fields, row, _EXCHANGE, _INT16_MAX)
    if name == _TRFI:
        return _whole(data, pos, fields, row, _TRF, _INT16_MAX)
    if name == _I:
        stop = string(data, pos)
        fields[row, _ID], fields[row, _ID_STOP] = pos + 1, stop
        return stop + 1 if 0 <= stop <= pos + 1 + ID_LENGTH_MAX else FAIL
    if name == _EV:
        fields[row, _KIND], stop = name_at(data, pos)
        return stop
    if name == _DS:
        if data[pos] != _QUOTE:
            return FAIL
        pos = _size(data, pos + 1, fields, row, _SIZE)
        return pos + 1 if pos >= 0 and data[pos] == _QUOTE else FAIL
    if name == _S:
        pos = _size(data, pos, fields, row, _ROUNDED)
        return pos if fields[row, MANTISSA] < _SHORTEST else FAIL
    return skip(data, pos, fields, row)


@inlined
def _price(data: _Array, pos: int, fields: _Array, prices: _Array, row: int) -> int:
    pos = number(data, pos, fields, row)
    mantissa, exponent = fields[row, MANTISSA], fields[row, EXPONENT]
    if pos < 0 or mantissa > _EXACT or not -22 <= exponent <= 22:
        return FAIL
    prices[row] = mantissa / _POWERS[-exponent] if exponent < 0 else mantissa * _POWERS[exponent]
    return pos


@inlined
def _size(data: _Array, pos: int, fields: _Array, row: int, place: int) -> int:
    """A number in 1e-8 units, if it is neither finer than that nor too large."""
    pos = number(data, pos, fields, row)
    shift = fields[row, EXPONENT] + 8
    if pos < 0 or not 0 <= shift <= 18 or fields[row, MANTISSA] > SIZE_E8_MAX // _POWERS_INT[shift]:
        return FAIL
    fields[row, place] = fields[row, MANTISSA] * _POWERS_INT[shift]
    return pos


@inlined
def _symbol(data: _Array, pos: int, market: int, known: _Array, fields: _Array, row: int) -> int:
    stop = string(data, pos)
    if stop < 0 or not 1 <= stop - pos - 1 <= SYMBOL_BYTES_MAX:
        return FAIL
    middle, last = min(pos + 9, stop), min(pos + 17, stop)
    third: Any = np.int64(market) << MARKET_SHIFT | packed(data, last, stop)
    slot = find(known, packed(data, pos + 1, middle), packed(data, middle, last), third)
    if known[slot, 0] == 0:
        return FAIL
    fields[row, _SYMBOL] = known[slot, NUMBER]
    return stop + 1


@inlined
def _codes(data: _Array, pos: int, known: _Array, fields: _Array, row: int) -> int:
    """A list of condition codes."""
    if data[pos] != _OPEN_LIST:
        return FAIL
    pos = space(data, pos + 1)
    fields[row, _CODES] = 0
    if data[pos] == _CLOSE_LIST:
        return pos + 1
    key = 0
    for at in range(CODES_MAX):
        pos = _whole(data, pos, fields, row, _CODES, _INT16_MAX - 1)
        if pos < 0:
            return FAIL
        key |= (fields[row, _CODES] + 1) << 16 * at
        pos = space(data, pos)
        if data[pos] == _CLOSE_LIST:
            slot = find(known, key, 0, 0)
            fields[row, _CODES] = known[slot, NUMBER]
            return pos + 1 if known[slot, 0] != 0 else FAIL
        if data[pos] != _COMMA:
            return FAIL
        pos = space(data, pos + 1)
    return FAIL


@inlined
def _whole(data: _Array, pos: int, fields: _Array, row: int, place: int, most: int) -> int:
    pos = number(data, pos, fields, row)
    if pos < 0 or fields[row, EXPONENT] != 0 or fields[row, MANTISSA] > most:
        return FAIL
    fields[row, place] = fields[row, MANTISSA]
    return pos


@inlined
def _sequence(data: _Array, pos: int, fields: _Array, row: int) -> int:
    """A number of plain digits, of which a trade without an id makes one, if it is not 0."""
    stop = number(data, pos, fields, row)
    if stop < 0:
        return FAIL
    for at in range(pos, stop):
        if not 48 <= data[at] <= 57:
            return FAIL
    fields[row, _Q], fields[row, _Q_STOP] = pos, stop if fields[row, MANTISSA] > 0 else pos
    return stop


@inlined
def _write_time(ids: _Array, at: int, time_ms: int) -> int:
    """The digits of a time and a q, as `events.sequence_id` puts them before the digits of the sequence number."""
    stop = at + (13 if time_ms >= 10**12 else 12)
    ids[stop] = _LETTER_Q
    for place in range(stop - 1, at - 1, -1):
        ids[place] = 48 + time_ms % 10
        time_ms //= 10
    return stop + 1
