"""Records to messages of the Kafka topic `raw-trades`: the other direction of messages.py, which has the format.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from tapewatch.records import E8, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.values import parse_size_e8

__all__ = ["SOURCES", "encode_messages", "volume_json"]

SOURCES: Final = {Origin.LIVE: "massive", Origin.SIMULATED: "simulator", Origin.REPLAYED: "replay"}
"""How a message's ``source`` names each origin."""
_TRADE: Final = (
    b'%b,"price":%b,"volume":%b,"timestamp":%d,"exchange":%d%b,"trade_id":%b%b,"received_at":%d,"source":%b%b}'
)


def encode_messages(
    batch: Batch, tables: Tables, origin: Origin, wire_symbol: Callable[[str], str]
) -> Iterator[tuple[str | None, bytes]]:
    """Key and value of every record, in order. A key of None means: into every lane.

    ``wire_symbol`` gives what the exchange calls a symbol; it is kept as ``raw`` where it differs.
    """
    heads: dict[int, tuple[str, bytes, bytes]] = {}
    tails: dict[int, bytes] = {}
    source = msgspec.json.encode(SOURCES[origin])
    columns = (
        batch.kind.tolist(), batch.market.tolist(), batch.symbol.tolist(), batch.time_ms.tolist(),
        batch.received_ns.tolist(), batch.price.tolist(), batch.size_e8.tolist(), batch.exchange.tolist(),
        batch.trf.tolist(), batch.conditions.tolist(), batch.ids,
    )  # fmt: skip
    for kind, market, symbol, time_ms, received_ns, price, size_e8, exchange, trf, codes, text in zip(
        *columns, strict=True
    ):
        if kind != Kind.TRADE:
            yield None, _encode_other(kind, market, time_ms, received_ns, text, source)
            continue
        if symbol not in heads:
            heads[symbol] = _names(tables.symbols.values[symbol], wire_symbol)
        if codes not in tails:
            tails[codes] = _codes_json(tables.conditions.values[codes])
        key, head, raw = heads[symbol]
        yield key, _TRADE % (
            head, repr(price).encode(), volume_json(size_e8), time_ms, exchange, b',"trf":%d' % trf if trf else b"",
            msgspec.json.encode(text), tails[codes], received_ns, source, raw,
        )  # fmt: skip


def _names(symbol: str, wire_symbol: Callable[[str], str]) -> tuple[str, bytes, bytes]:
    wire = wire_symbol(symbol)
    raw = b"" if wire == symbol else b',"raw":' + msgspec.json.encode(wire)
    return symbol, b'{"symbol":' + msgspec.json.encode(symbol), raw


def _codes_json(codes: tuple[int, ...]) -> bytes:
    return b',"conditions":' + msgspec.json.encode(codes) if codes else b""


def volume_json(size_e8: int) -> bytes:
    """A size in 1e-8 units as JSON that `MessageDecoder` reads back exactly.

    >>> volume_json(10_000_000_000), volume_json(12_345), volume_json(9_007_199_254_740_993)
    (b'100', b'0.00012345', b'"90071992.54740993"')
    """
    whole, rest = divmod(size_e8, E8)
    if rest == 0:
        return b"%d" % whole
    text = f"{whole}.{rest:08d}".rstrip("0")
    return text.encode() if parse_size_e8(float(text)) == size_e8 else b'"%b"' % text.encode()


def _encode_other(kind: int, market: int, time_ms: int, received_ns: int, text: str, source: bytes) -> bytes:
    name = Market(market).name.lower()
    if kind == Kind.TICK:
        tick = b'{"kind":"tick","market":"%b","timestamp":%d,"received_at":%d,"source":%b}'
        return tick % (name.encode(), time_ms, received_ns, source)
    if kind == Kind.RULES:
        said = b'{"kind":"rules","timestamp":%d,"received_at":%d,"source":%b,%b'
        return said % (time_ms, received_ns, source, text.encode().removeprefix(b"{"))
    gap = Gap.decode(text)
    fate = {} if gap.is_open else {name: getattr(gap, name) for name in ("state", "trades", "later", "missing")}
    return msgspec.json.encode(
        {
            "kind": "gap", "market": name, "from": gap.from_ms, "to": gap.to_ms, "cause": gap.cause,
            "symbols": gap.symbols, **fate, "received_at": received_ns, "source": msgspec.Raw(source),
        }
    )  # fmt: skip
