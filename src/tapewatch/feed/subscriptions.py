"""Which topics are asked for, in how many messages, and which symbols they bring.

    symbols of a market ─► channel of the plan ─► topics        few: T.AAPL, T.TSLA ...
                                                                many: T.*, and the decoder keeps the wanted ones

`*` instead of thousands of topics is what the exchange advises; what nobody asked for is left out after decoding.
A message holds at most `SUBSCRIBE_TOPICS_MAX` topics and `SUBSCRIBE_BYTES_MAX` bytes.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tapewatch.feed.state import Topics
from tapewatch.feed.symbols import CHANNELS, every_topic, market_of, product_symbol, topics
from tapewatch.records import Market
from tapewatch.settings import SUBSCRIBE_BYTES_MAX, SUBSCRIBE_TOPICS_MAX

__all__ = ["Coverage", "chunks", "coverage", "of_market", "topics_of"]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is known of each watched symbol of a market, each in exactly one of these."""

    effective: tuple[str, ...] = ()
    """The exchange has confirmed it."""
    waiting: tuple[str, ...] = ()
    """It was asked for, and no answer is overdue."""
    unconfirmed: tuple[str, ...] = ()
    """It got no answer; it may still bring trades."""
    refused: tuple[str, ...] = ()
    """The plan lacks its channel, as far as that is known."""


def of_market(symbols: Iterable[str], market: Market) -> list[str]:
    """Those of ``symbols`` that ``market`` trades, under the product's names, without repeats."""
    return [name for name in dict.fromkeys(map(product_symbol, symbols)) if market_of(name) is market]


def topics_of(
    symbols: Iterable[str], market: Market, channel: str = "T", *, beside: Sequence[str] = (), wildcard_above: int
) -> list[str]:
    """The topics of a market's symbols: of ``channel``, the input, and of the channels ``beside`` it.

    More symbols than ``wildcard_above`` are asked for as the whole market.

    >>> topics_of(["AAPL", "BTC"], Market.STOCKS, beside=["AM"], wildcard_above=1_000)
    ['T.AAPL', 'AM.AAPL']
    >>> topics_of(["AAPL", "TSLA"], Market.STOCKS, wildcard_above=1)
    ['T.*']
    """
    mine = of_market(symbols, market)
    channels = [channel, *(other for other in beside if CHANNELS[market][other] != CHANNELS[market][channel])]
    if len(mine) > wildcard_above:
        return [every_topic(market, one) for one in channels]
    return [topic for one in channels for topic in topics(mine, one).get(market, [])]


def chunks(names: Iterable[str]) -> Iterator[Sequence[str]]:
    """The topics in order, as many at a time as one message may hold.

    >>> [len(part) for part in chunks(f"T.S{n}" for n in range(1_001))]
    [500, 500, 1]
    """
    part: list[str] = []
    length = 0
    for name in names:
        if part and (len(part) == SUBSCRIBE_TOPICS_MAX or length + len(name) >= SUBSCRIBE_BYTES_MAX):
            yield part
            part, length = [], 0
        part.append(name)
        length += len(name) + 1
    if part:
        yield part


def coverage(symbols: Iterable[str], market: Market, known: Topics) -> Coverage:
    """What the topics of one connection say of each watched symbol. Those beside the input's channel say nothing."""
    channel = known.asked[0].partition(".")[0] if known.asked else ""
    states = {"effective": known.acked, "refused": known.refused, "unconfirmed": known.unconfirmed}
    held = {
        state: {_symbol(topic) for topic in topics if topic.startswith(f"{channel}.")}
        for state, topics in states.items()
    }
    sorted_out: dict[str, list[str]] = {"effective": [], "waiting": [], "unconfirmed": [], "refused": []}
    for symbol in of_market(symbols, market):
        state = next((state for state, names in held.items() if symbol in names or "*" in names), "waiting")
        sorted_out[state].append(symbol)
    return Coverage(**{state: tuple(names) for state, names in sorted_out.items()})


def _symbol(topic: str) -> str:
    return product_symbol(topic.partition(".")[2])
