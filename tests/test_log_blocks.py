"""Blocks and state: what goes in comes out, and nothing else is ever believed."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from log_making import any_batch, rows, some_tables, trades
from tapewatch.log import blocks
from tapewatch.log.blocks import Block, BlockCodec, Damage, State
from tapewatch.records import Batch, Origin, Tables
from tapewatch.settings import LOG_BLOCK_BYTES_MAX
from trials import examples

WRITER = Tables()
STATE = State("ab" * 16, Origin.LIVE, 3, 40, -5, 3, ((7, 9), (20, 30)))


def encoded(batch: Batch, tables: Tables, first: int = 7) -> Block:
    return BlockCodec(tables).encode(batch, first=first, reached_ms=0, logged_ns=99)


@given(any_batch(WRITER), st.integers(0, 2**62))
def test_any_batch_comes_back_in_another_process(batch: Batch, first: int) -> None:
    elsewhere = Tables()
    decoded = BlockCodec(elsewhere).decode(encoded(batch, WRITER, first))
    batch.offset = first
    assert rows([decoded], elsewhere) == rows([batch], WRITER)
    assert decoded.logged_ns == 99


def test_names_already_known_keep_their_numbers() -> None:
    tables = some_tables()
    batch = trades(50)
    decoded = BlockCodec(tables).decode(encoded(batch, tables))
    assert np.array_equal(decoded.symbol, batch.symbol)
    assert np.array_equal(decoded.conditions, batch.conditions)
    assert len(tables.symbols) == 3


def test_reached_is_the_greatest_event_time_so_far() -> None:
    codec = BlockCodec(some_tables())
    assert codec.encode(trades(5), first=0, reached_ms=0, logged_ns=0).reached_ms == 1_004
    assert codec.encode(trades(5), first=0, reached_ms=9_999, logged_ns=0).reached_ms == 9_999


def test_a_bit_flipped_anywhere_is_damage() -> None:
    tables = some_tables()
    block = encoded(trades(3), tables)
    for name in ("checksum", "data"):
        value = getattr(block, name)
        for bit in range(8 * len(value)):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Damage):
                BlockCodec(tables).decode(block._replace(**{name: bytes(flipped)}))
    for name in ("first", "records", "reached_ms", "logged_ns"):
        for bit in range(63):
            with pytest.raises(Damage):
                BlockCodec(tables).decode(block._replace(**{name: getattr(block, name) ^ 1 << bit}))


def test_a_swapped_or_shortened_block_is_damage() -> None:
    codec = BlockCodec(some_tables())
    one = codec.encode(trades(4), first=0, reached_ms=0, logged_ns=1)
    two = codec.encode(trades(4, 4), first=4, reached_ms=0, logged_ns=1)
    for bad in (one._replace(first=4), one._replace(data=two.data), one._replace(data=b""), one._replace(records=None)):
        with pytest.raises(Damage):
            codec.decode(bad)


@given(st.binary(max_size=400))
def test_any_bytes_with_a_right_checksum_are_damage_or_a_batch(data: bytes) -> None:
    """Even what no checksum can catch, such as another program's bytes, ends in `Damage`."""
    codec = BlockCodec(some_tables())
    for body in (data, b"\x01" + data, b"\x01" + zstandard.compress(data)):
        checksum = blocks._checksum(blocks._FIELDS.pack(0, 2, 0, 0), body)
        with pytest.raises(Damage):
            codec.decode(Block(0, 2, 0, 0, checksum, body))


@settings(max_examples=examples(60))
@given(st.data())
def test_an_altered_payload_with_a_right_checksum_never_crashes(data: st.DataObject) -> None:
    tables = some_tables()
    codec = BlockCodec(tables)
    payload = bytearray(codec._pack(trades(3)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    body = b"\x01" + zstandard.compress(bytes(payload))
    block = Block(0, 3, 0, 0, blocks._checksum(blocks._FIELDS.pack(0, 3, 0, 0), body), body)
    try:
        decoded = codec.decode(block)
    except Damage:
        return
    assert len(decoded) == 3
    assert decoded.symbol.max() < len(tables.symbols)
    assert decoded.conditions.max() < len(tables.conditions)


def test_an_unknown_version_says_so() -> None:
    block = encoded(trades(1), some_tables())
    data = b"\x02" + block.data[1:]
    newer = block._replace(data=data, checksum=blocks._checksum(blocks._FIELDS.pack(*block[:4]), data))
    with pytest.raises(Damage, match="format version 2, this Tapewatch reads version 1"):
        BlockCodec(some_tables()).decode(newer)


def test_a_bomb_is_refused() -> None:
    bomb = b"\x01" + zstandard.compress(bytes(LOG_BLOCK_BYTES_MAX + 1))
    block = Block(0, 1, 0, 0, blocks._checksum(blocks._FIELDS.pack(0, 1, 0, 0), bomb), bomb)
    with pytest.raises(Damage, match="claims to hold"):
        BlockCodec(Tables()).decode(block)


def test_the_state_comes_back_and_every_flip_in_it_is_noticed() -> None:
    data = STATE.encode()
    assert State.decode(data) == STATE
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damage):
            State.decode(bytes(flipped))
    for bad in (None, 5, b"", data[:-1], data + b"\0"):
        with pytest.raises(Damage):
            State.decode(bad)
