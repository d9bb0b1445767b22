"""What the log's file holds: blocks of records and the log's state, as bytes. Batches in, bytes out, and back.

    block.data     version byte · zstd( lengths · names · columns · ids )
    names          the symbols and condition lists this block uses (MessagePack); the columns hold their places in it
    columns        one per field of `records.RECORD`, as they are in memory (little-endian), one after the other
    ids            joined by newlines

Measured on a real day, plain columns compress about as well as delta-coded or byte-shuffled ones at level 1
(docs/log.md), so there is no further coding.

A block's checksum covers its data and every other field of its row, the offset among them: a block that was moved,
swapped, shortened or altered is `Damage`. Bytes are checked before they are believed, so decoding damaged bytes
raises `Damage` and nothing else.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import zstandard

from tapewatch.errors import LogError
from tapewatch.records import COLUMNS, RECORD, Batch, Kind, Market, Origin, Tables
from tapewatch.settings import LOG_BLOCK_BYTES_MAX

FORMAT: Final = 1
"""Version of a block's and of the state's bytes: the first byte of both."""
CHECKSUM_BYTES: Final = 16

_FIELDS: Final = struct.Struct("<qqqq")
_LENGTHS: Final = struct.Struct("<III")  # records, bytes of names, bytes of ids


class Damage(ValueError):
    """Bytes are not what was written. The text says what was expected and got, to be put into a `LogCorrupt`."""


class Block(NamedTuple):
    """One row of the table of blocks. The values are as the database gave them: nothing is known before `verify`."""

    first: int
    """Offset of the first record."""
    records: int
    reached_ms: int
    """Greatest event time of any record of the log up to the end of this block. It never falls from block to block."""
    logged_ns: int
    """When the block's last record was logged."""
    checksum: bytes
    data: bytes

    @property
    def stop(self) -> int:
        """Offset after the last record."""
        return self.first + self.records

    def verify(self) -> None:
        """Raise `Damage` unless every field is what was written."""
        numbers = self[:4]
        if not (all(isinstance(n, int) for n in numbers) and isinstance(self.data, bytes)) or self.records < 1:
            raise Damage("its row is not one the log wrote")
        if _checksum(_FIELDS.pack(*numbers), self.data) != self.checksum:
            raise Damage("its checksum does not match its bytes")


class State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the log is and how far it goes; rewritten in the transaction of every append."""

    log_id: str
    origin: Origin
    first: int
    """Offset of the first record kept."""
    end: int
    """Offset after the last record."""
    reached_ms: int
    compacted: int
    """Small blocks before this offset have been merged."""
    lost: tuple[tuple[int, int], ...] = ()
    """Offset ranges [from, to) that a repair could not bring back, in order."""

    def encode(self) -> bytes:
        """Version, checksum and content."""
        content = msgspec.msgpack.encode(self)
        return bytes([FORMAT]) + _checksum(b"state", content) + content

    @staticmethod
    def decode(data: Any) -> State:
        """Inverse of `encode`; raises `Damage`."""
        if not isinstance(data, bytes) or len(data) <= CHECKSUM_BYTES:
            raise Damage("the log's state is not one the log wrote")
        content = data[1 + CHECKSUM_BYTES :]
        if _checksum(b"state", content) != data[1 : 1 + CHECKSUM_BYTES]:
            raise Damage("the checksum of the log's state does not match its bytes")
        _expect_version(data)
        try:
            return msgspec.msgpack.decode(content, type=State)
        except msgspec.MsgspecError as error:
            raise Damage(f"the log's state cannot be read: {error}") from None


class _Names(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The names a block uses, and its ids if one of them holds a newline."""

    symbols: list[str]
    conditions: list[tuple[int, ...]]
    ids: list[str] | None


class BlockCodec:
    """Batches to blocks and back, with the numbers of one `Tables`. For one thread at a time.

    Decoding adds names the tables do not hold yet.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()
        self._names = msgspec.msgpack.Decoder(_Names)

    def encode(self, batch: Batch, *, first: int, reached_ms: int, logged_ns: int) -> Block:
        """The block of ``batch`` (at least one record) at offset ``first``. ``reached_ms`` is the log's before it.

        Raises LogError when it is larger than LOG_BLOCK_BYTES_MAX, uncompressed.
        """
        count = len(batch)
        assert count > 0
        reached_ms = max(reached_ms, int(batch.time_ms.max()))
        payload = self._pack(batch)
        if len(payload) > LOG_BLOCK_BYTES_MAX:
            raise LogError(f"{count} records take {len(payload)} bytes, at most {LOG_BLOCK_BYTES_MAX} fit in a block")
        data = bytes([FORMAT]) + self._compressor.compress(payload)
        checksum = _checksum(_FIELDS.pack(first, count, reached_ms, logged_ns), data)
        return Block(first, count, reached_ms, logged_ns, checksum, data)

    def decode(self, block: Block) -> Batch:
        """The records of ``block``, with its offset and time; raises `Damage`."""
        block.verify()
        _expect_version(block.data)
        try:
            batch = self._unpack(self._decompress(block.data[1:]))
        except (zstandard.ZstdError, msgspec.MsgspecError, struct.error, UnicodeDecodeError) as error:
            raise Damage(f"its data cannot be read: {error}") from None
        if len(batch) != block.records:
            raise Damage(f"it should hold {block.records} records and holds {len(batch)}")
        batch.offset, batch.logged_ns = block.first, block.logged_ns
        return batch

    def _pack(self, batch: Batch) -> bytes:
        used_symbols = np.array(sorted({-1, *batch.symbol.tolist()}), np.int32)  # place 0 is "none"
        used_conditions = np.array(sorted(set(batch.conditions.tolist())), np.int32)
        ids = "\n".join(batch.ids)
        plain = len(batch.ids) == len(batch) and ids.count("\n") == len(batch) - 1
        names = msgspec.msgpack.encode(
            _Names(
                [self._tables.symbols.values[i] for i in used_symbols[1:]],
                [self._tables.conditions.values[i] for i in used_conditions],
                None if plain else list(batch.ids),
            )
        )
        places = {
            "symbol": np.searchsorted(used_symbols, batch.symbol),
            "conditions": np.searchsorted(used_conditions, batch.conditions),
        }
        columns = [np.asarray(places.get(c, getattr(batch, c)), RECORD[c]).tobytes() for c in COLUMNS]
        text = ids.encode() if plain else b""
        return b"".join([_LENGTHS.pack(len(batch), len(names), len(text)), names, *columns, text])

    def _decompress(self, data: bytes) -> bytes:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= LOG_BLOCK_BYTES_MAX:
            raise Damage(f"it claims to hold {size} bytes, at most {LOG_BLOCK_BYTES_MAX} are allowed")
        return self._decompressor.decompress(data)

    def _unpack(self, payload: bytes) -> Batch:
        count, names_bytes, ids_bytes = _LENGTHS.unpack_from(payload)
        at = _LENGTHS.size + names_bytes
        expected = at + count * RECORD.itemsize + ids_bytes
        if len(payload) != expected:
            raise Damage(f"its data should be {expected} bytes and is {len(payload)}")
        names = self._names.decode(payload[_LENGTHS.size : at])
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            # A copy: to compiled code, columns that are read-only or not aligned are another kind of argument.
            columns[name] = np.frombuffer(payload, RECORD[name], count, at).copy()
            at += count * RECORD[name].itemsize
        ids = payload[at:].decode().split("\n") if names.ids is None else names.ids
        if len(ids) != count:
            raise Damage(f"it should hold {count} ids and holds {len(ids)}")
        if count and (columns["kind"].max() > max(Kind) or columns["market"].max() > max(Market)):
            raise Damage("it holds a record of an unknown kind or market")
        symbols = self._tables.symbols
        conditions = self._tables.conditions
        columns["symbol"] = _renumber(columns["symbol"], [-1, *map(symbols.index, names.symbols)])
        columns["conditions"] = _renumber(columns["conditions"], [conditions.index(c) for c in names.conditions])
        return Batch(**columns, ids=ids)


def _renumber(places: Any, numbers: list[int]) -> Any:
    """Places in the block's names to numbers in the process's tables."""
    if len(places) and not 0 <= places.min() <= places.max() < len(numbers):
        raise Damage("it refers to a name it does not hold")
    return np.array(numbers, np.int32)[places]


def _checksum(head: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=CHECKSUM_BYTES, person=b"tapewatch", key=head).digest()


def _expect_version(data: bytes) -> None:
    if data[:1] != bytes([FORMAT]):
        raise Damage(f"it has format version {data[0] if data else None}, this Tapewatch reads version {FORMAT}")
