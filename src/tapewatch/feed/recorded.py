"""A raw capture played back: its lines become the items that the feed had put into its queue, stamps and all.

So the log of a replay holds the records that the log of the feed held, trades, ticks and gaps alike. Only what REST had
fetched into gaps is missing: it was no frame.

From a file that is `items`. From the simulator's socket each frame comes as it was, and before it a *mark*: the
capture's line without the frame's text, which says when the frame was received. A tick or a gap's end is a mark alone.

    {"k":"f","m":"stocks","r":…}  ─►  [{"ev":"T", …}]  ─►  Frame, received at r
    {"k":"t","m":"stocks","r":…,"t":…}                 ─►  TickDue
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
import structlog

from tapewatch.capturefile import MARK, Ended, Framed, GapEnded, Line, Lost, Ticked, marked
from tapewatch.feed.protocol import Cause
from tapewatch.feed.queue import Frame, GapEnd, Item, Sink, TickDue
from tapewatch.records import Market

__all__ = ["RecordedSink", "item_of", "items"]

_MS_NS: Final = 1_000_000
_log = structlog.get_logger(__name__)


class _Told(msgspec.Struct):
    status: Any = None
    type: Any = None
    message: Any = None


_TOLD: Final = msgspec.json.Decoder(list[_Told] | _Told)


def item_of(line: Line, delay_ms: int) -> Item | None:
    """The item of a line; None for what the feed did not queue. ``delay_ms`` is how late the feed's data was."""
    match line:
        case Framed():
            return Frame(line.market, line.data, line.r)
        case Ticked():
            return TickDue(line.market, line.t, line.r)
        case GapEnded():
            return GapEnd(line.market, line.to, line.cause, tuple(line.symbols), line.r, from_ms=line.since)
        case Lost():
            # Frames that the capture left out are missing from the replay, and the log says so.
            return GapEnd(line.market, line.r // _MS_NS - delay_ms, Cause.CAPTURE, (), line.r)
    return None


def items(lines: Iterable[Line], delays_ms: Mapping[Market, int]) -> Iterator[Item]:
    """The items of a capture, in order."""
    for line in lines:
        if (item := item_of(line, delays_ms.get(line.market, 0))) is not None:
            yield item


class RecordedSink:
    """Between one market's client and the next sink: frames get their recorded receipt, marks become ticks and gaps.

    The client's own gap at its start is not passed on, since the recording has its own. A connection to the simulator
    that broke off may have lost frames: that is a gap up to the next mark.
    """

    def __init__(self, then: Sink, delay_ms: int) -> None:
        self._then = then
        self._delay_ms = delay_ms
        self._received_ns: int | None = None
        self._due: deque[Item] = deque()
        self._broken: GapEnd | None = None

    def told(self, frame: Frame) -> None:
        """A frame that only told of the connection: if it is a mark, it counts."""
        for line in _marks(frame.data):
            if isinstance(line, Ended):
                _log.warning("the recorded connection ended", market=line.m, why=line.why)
                continue
            if self._broken is not None:
                broken, self._broken = self._broken, None
                to_ms = line.r // _MS_NS - self._delay_ms
                self._due.append(GapEnd(broken.market, to_ms, broken.cause, broken.symbols, line.r))
            if isinstance(line, Framed):
                self._received_ns = line.r
            elif (item := item_of(line, self._delay_ms)) is not None:
                self._due.append(item)
        self._pass_on()

    def put(self, item: Item) -> bool:
        """Take what the client puts. Of a frame: False while what comes before it, or it, has no room."""
        if isinstance(item, GapEnd):
            if item.cause != Cause.RESTART:
                self._broken = item
            return True
        if not isinstance(item, Frame):
            return isinstance(item, TickDue) or self._then.put(item)
        assert self._received_ns is not None, "a frame of a recording came without its mark"
        return self._pass_on() and self._then.put(Frame(item.market, item.data, self._received_ns))

    async def wait_room(self) -> None:
        """Until `put` may be tried again."""
        await self._then.wait_room()

    def _pass_on(self) -> bool:
        """Hand on what is due, as far as there is room."""
        while self._due:
            if not self._then.put(self._due[0]):
                return False
            self._due.popleft()
        return True


def _marks(data: bytes) -> Iterator[Line]:
    try:
        told = _TOLD.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    for one in told if isinstance(told, list) else [told]:
        if MARK in (one.status, one.type) and isinstance(one.message, str):
            yield marked(one.message)
