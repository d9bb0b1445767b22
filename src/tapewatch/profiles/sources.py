"""Which source the feeds read, and what stands between one market's client and the queue.

    live        client ─► [capture] ─► [Coinbase in Massive's words] ─► queue
    a capture   client ─► recorded stamps ─► [Coinbase in Massive's words] ─► queue
    record      client ─► capture

Data of two sources is never mixed in one folder: both have a BTC, and one's volume is not the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tapewatch.capturefile import MARK, FeedHead, Head, captures_in_order, is_capture
from tapewatch.errors import SettingsError
from tapewatch.feed.capture import Capture, CapturingSink
from tapewatch.feed.client import FeedState, MakeSession
from tapewatch.feed.coinbase import CoinbaseSession
from tapewatch.feed.coinbase_trades import CoinbaseSink
from tapewatch.feed.endings import Cause, ending
from tapewatch.feed.queue import Frame, Sink
from tapewatch.feed.recorded import RecordedSink
from tapewatch.feed.symbols import market_of, product_symbol
from tapewatch.feed.wire import Phase
from tapewatch.profiles.market import KEY, SimulatorProcess
from tapewatch.records import Market, Origin
from tapewatch.settings import Settings

__all__ = [
    "COINBASE",
    "MASSIVE",
    "Plumbing",
    "address_of",
    "check_symbols",
    "claim",
    "head_of",
    "plumbing",
    "recorded_topics",
    "shown_source",
]

MASSIVE: Final = "massive"
COINBASE: Final = "coinbase"
_NAMES: Final = {MASSIVE: "Massive", COINBASE: "Coinbase"}
_MARK_FILE: Final = "source"


@dataclass(frozen=True, slots=True)
class Plumbing:
    """What a `FeedClient` is given beside its market and address."""

    sink: Sink
    session: MakeSession | None = None
    on_status: Callable[[Frame], None] | None = None
    on_state: Callable[[FeedState], None] | None = None


def plumbing(
    market: Market, queue: Sink | None, source: str, *, capture: Capture | None = None, recorded: Head | None = None
) -> Plumbing:
    """Of one market's client: ``queue`` None records only; ``recorded`` is the head of a capture that is played."""
    session: MakeSession | None = None
    sink = queue
    if source == COINBASE:
        session = partial(CoinbaseSession, marked=recorded is not None)
        sink = None if queue is None else CoinbaseSink(queue)
    if recorded is not None:
        assert sink is not None
        player = RecordedSink(sink, recorded.feeds[market.name.lower()].delay_ms)
        return Plumbing(player, session, player.told)
    if capture is None:
        assert sink is not None
        return Plumbing(sink, session)
    return Plumbing(CapturingSink(capture, sink), session, capture.told, _Endings(capture))


def address_of(settings: Settings, simulator: SimulatorProcess | None) -> tuple[str, str]:
    """Where a client connects to, and with which key; ``simulator`` is the one that is running for it."""
    if simulator is not None:
        return simulator.ws_url, KEY
    if settings.feed == COINBASE:
        return settings.coinbase_ws_url, ""
    key = settings.massive_api_key
    return settings.massive_ws_url, KEY if key is None else key.get_secret_value()


def head_of(paths: Sequence[Path]) -> Head | None:
    """What captures that are to be played hold, taken together; None for other files.

    Raises:
        InputError: a file is no capture, though the first one is, or they are of different sources.
    """
    if not paths or not is_capture(paths[0]):
        return None
    readers = captures_in_order(paths)
    feeds: dict[str, FeedHead] = {}
    for reader in readers:
        feeds |= reader.head.feeds
        reader.close()
    first = readers[0].head
    return Head(source=first.source, origin=first.origin, started_ns=first.started_ns, feeds=feeds)


def recorded_topics(head: Head) -> dict[Market, list[str]]:
    """What to ask the simulator for, so that it plays a capture with its marks."""
    if head.source == COINBASE:
        return {Market[name.upper()]: feed.topics for name, feed in head.feeds.items()}
    return {Market[name.upper()]: [f"{MARK}.*"] for name in head.feeds}


def check_symbols(settings: Settings, symbols: Sequence[str]) -> None:
    """Raises SettingsError when the source does not have the market of a symbol."""
    if settings.feed != COINBASE:
        return
    wrong = [product_symbol(symbol) for symbol in symbols if market_of(symbol) is not Market.CRYPTO]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SettingsError(
            f"FEED=coinbase has coins only, and SYMBOLS names {', '.join(wrong[:5])}{more}: name coins, as in "
            "SYMBOLS=BTC,ETH,LINK-USD, or leave SYMBOLS out"
        )


def shown_source(settings: Settings, recorded: Head | None, origin: Origin) -> str | None:
    """Whose data it is, as the page says it; None where it is nobody's (simulated), or not known (a day's trades)."""
    if recorded is not None:
        return None if recorded.origin is Origin.SIMULATED else _NAMES.get(recorded.source)
    return _NAMES[settings.feed] if origin is Origin.LIVE else None


def claim(folder: Path, settings: Settings) -> None:
    """Mark a folder of live data as this source's; it is then no other's.

    Raises:
        SettingsError: it holds another source's data.
    """
    mark = folder / _MARK_FILE
    if mark.exists():
        owner = mark.read_text(encoding="utf-8").strip()
    else:
        owner = MASSIVE if (folder / "log").exists() else settings.feed
        mark.write_text(f"{owner}\n", encoding="utf-8")
    if owner != settings.feed:
        raise SettingsError(
            f"{folder} holds live data of {_NAMES.get(owner, owner)}, and FEED={settings.feed} would be mixed into "
            f"it: give each its own folder, as in DATA_DIR=var-{settings.feed}"
        )


class _Endings:
    """Notes how one market's connections end. One that was stopped counts as no reconnect."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._seen = 0

    def __call__(self, state: FeedState) -> None:
        if state.phase in (Phase.CLOSED, Phase.STALE):
            has_ended, self._seen = state.reconnects > self._seen, state.reconnects
            self._capture.ended(state.market, state.last_ending if has_ended else ending(Cause.STOPPED).sentence)
