"""Raw capture: what the sockets bring is noted in the event loop and written by a thread of its own.

    client ─► CapturingSink ─► the next sink (queue)         captures what that has accepted, in the same order
                   └─► Capture ─► thread ─► gzip JSON lines, flushed every `FLUSH_S`

Beside a pipeline the capture is never in the way of the data: when it cannot keep pace, or the disk has no room, frames
are left out, counted, and named by a line of their own. By itself (`tapewatch record`, without a next sink) it holds
the sender back instead, and an error ends it. A kill loses what came in the last `FLUSH_S`.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from tapewatch import metrics
from tapewatch.capturefile import CaptureWriter, Ended, Framed, GapEnded, Head, Line, Lost, Status, Ticked
from tapewatch.errors import InputError, MachineError
from tapewatch.feed.queue import Frame, GapEnd, Item, Sink, TickDue, Wanted
from tapewatch.records import Market
from tapewatch.settings import CAPTURE_WAITING_BYTES_MAX, DISK_FREE_BYTES_MIN

__all__ = ["Capture", "CaptureFolder", "CapturingSink", "OneFile", "Place"]

FLUSH_S: Final = 0.5
"""How often what was noted is written and handed to the system."""
PIECES: Final = 8
"""A folder's captures are cut into files of this part of the room they may take."""
_NOTE_BYTES: Final = 100
_SUFFIX: Final = ".jsonl.gz"

_log = structlog.get_logger(__name__)


class Place(Protocol):
    """Where captures are written."""

    @property
    def folder(self) -> Path:
        """On whose disk."""

    def next(self, now_ns: int) -> Path:
        """The file to begin now. Raises MachineError."""

    def is_full(self, bytes_written: int) -> bool:
        """A file of this size is to be followed by another."""


@dataclass(frozen=True, slots=True)
class OneFile:
    """All goes into one file, whatever its size."""

    path: Path

    @property
    def folder(self) -> Path:
        """The file's."""
        return self.path.parent

    def next(self, now_ns: int) -> Path:
        """The file."""
        return self.path

    def is_full(self, bytes_written: int) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, slots=True)
class CaptureFolder:
    """Files of one folder, named by their start; the oldest go when all take more than ``bytes_max``."""

    folder: Path
    bytes_max: int

    def next(self, now_ns: int) -> Path:
        """A new file, for which there is room. Raises MachineError."""
        name = datetime.fromtimestamp(now_ns // 1_000 / 1e6, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            left = self.bytes_max - self.bytes_max // PIECES
            for file in sorted(self.folder.glob(f"capture-*{_SUFFIX}"), reverse=True):
                left -= file.stat().st_size
                if left < 0:
                    file.unlink()
        except OSError as error:
            raise MachineError(f"The folder of captures {self.folder} cannot be used: {error.strerror}.") from None
        return self.folder / f"capture-{name}{_SUFFIX}"

    def is_full(self, bytes_written: int) -> bool:
        """Beyond its part of the room."""
        return bytes_written >= self.bytes_max // PIECES


@dataclass(frozen=True, slots=True)
class _Told:
    """A frame that only told of the connection."""

    frame: Frame


_Noted = Frame | TickDue | GapEnd | _Told | Ended


@dataclass(slots=True)
class _Waiting:
    """What was noted and not yet written. ``lost`` counts the frames that had no room, by market."""

    noted: deque[_Noted] = field(default_factory=deque)
    bytes: int = 0
    lost: Counter[Market] = field(default_factory=Counter)


class Capture:
    """A capture that is being written: `start`, then notes from any event loop, then `stop`.

    ``head`` is the first line of each file; its ``started_ns`` is set for each. ``on_fail`` is called, in the capture's
    thread, when it cannot be written, and the thread ends; without it the capture pauses until it can be again.
    """

    def __init__(
        self,
        head: Head,
        place: Place,
        *,
        on_fail: Callable[[MachineError], None] | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        bytes_max: int = CAPTURE_WAITING_BYTES_MAX,
        disk_free_min: int = DISK_FREE_BYTES_MIN,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._head = head
        self._place = place
        self._on_fail = on_fail
        self._clock_ns = clock_ns
        self._bytes_max = bytes_max
        self._disk_free_min = disk_free_min
        self._flush_s = flush_s
        self._waiting = _Waiting()
        self._lock = threading.Lock()
        self._room: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._writer: CaptureWriter | None = None
        self.frames = 0
        """Written so far."""
        self._bytes_before = 0
        self._bytes_counted = 0
        self.problem = ""
        """Why nothing is written at the moment, in a sentence; empty while it is."""

    def start(self) -> None:
        """Begin the first file, and the thread.

        Raises:
            InputError, MachineError: the file cannot be made.
        """
        self._begin()
        self._thread.start()

    def stop(self) -> None:
        """Write what was noted, and end the file."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def bytes_written(self) -> int:
        """Of all files so far."""
        return self._bytes_before + (0 if self._writer is None else self._writer.bytes_written)

    # --- from the event loops ----------------------------------------------------------------------------------------

    def note(self, item: Item) -> bool:
        """Take what goes into the queue; False when there is no room: the caller then calls `leave_out` or waits."""
        if isinstance(item, Wanted):
            return True  # frames are captured whole, whatever is wanted of them
        size = len(item.data) if isinstance(item, Frame) else _NOTE_BYTES
        return self._take(item, size, always=isinstance(item, GapEnd))

    def told(self, frame: Frame) -> None:
        """Take a frame that only told of the connection. These are few, and there is always room for them."""
        if not self._take(_Told(frame), len(frame.data), always=True):
            self.leave_out(frame.market)

    def ended(self, market: Market, why: str) -> None:
        """A connection ended, for this reason."""
        self._take(Ended(m=market.name.lower(), r=self._clock_ns(), why=why), _NOTE_BYTES, always=True)

    def leave_out(self, market: Market) -> None:
        """A frame for which there was no room is not in the capture: count it, and say so in its place."""
        metrics.CAPTURE_LOST.inc()
        with self._lock:
            self._waiting.lost[market] += 1

    async def wait_room(self) -> None:
        """Until something was written."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if not self._waiting.noted:
                return
            self._room.append((loop, written))
        await written

    def _take(self, what: _Noted, size: int, *, always: bool = False) -> bool:
        with self._lock:
            waiting = self._waiting
            if waiting.lost:  # what was left out is said before anything newer, and that needs the thread
                return False
            if waiting.noted and waiting.bytes + size > self._bytes_max and not always:
                return False
            waiting.noted.append(what)
            waiting.bytes += size
        return True

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._flush_s):
                self._write_all()
            self._write_all()
            self._end()
        except MachineError as error:
            self.problem = str(error)
            assert self._on_fail is not None
            self._on_fail(error)

    def _write_all(self) -> None:
        """One round. Raises MachineError only where somebody wants to hear of it."""
        with self._lock:
            taken, self._waiting = self._waiting, _Waiting()
            room, self._room = self._room, []
        now_ns = self._clock_ns()
        lines: list[Line] = [*map(_line, taken.noted), *(_lost(market, now_ns, n) for market, n in taken.lost.items())]
        try:
            self._check_disk()
            if self._writer is None:
                self._begin()
            assert self._writer is not None
            self._writer.write(lines)
            self._writer.flush()
            if self._place.is_full(self._writer.bytes_written):
                self._end()
            self.problem = ""
        except (InputError, MachineError) as error:
            self._pause(str(error), lines)
        else:
            self._count(lines)
        for loop, future in room:
            with suppress(RuntimeError):  # that loop has ended, and who waited with it
                loop.call_soon_threadsafe(_wake, future)

    def _check_disk(self) -> None:
        folder = self._place.folder
        free = shutil.disk_usage(folder).free
        if free < self._disk_free_min:
            raise MachineError(
                f"Nothing is captured: the disk of {folder} has only {free // 2**20} MiB left, less than the "
                f"{self._disk_free_min // 2**20} MiB that are kept free."
            )

    def _begin(self) -> None:
        now_ns = self._clock_ns()
        self._writer = CaptureWriter(self._place.next(now_ns), msgspec.structs.replace(self._head, started_ns=now_ns))

    def _end(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            finally:
                self._bytes_before += writer.bytes_written

    def _pause(self, why: str, lines: list[Line]) -> None:
        """Nothing of ``lines`` was written for certain: they count as left out."""
        with suppress(MachineError):
            self._end()
        if self._on_fail is not None:
            raise MachineError(why)
        if not self.problem:
            _log.error("capture paused", why=why)
        self.problem = why
        with self._lock:
            for line in lines:
                if isinstance(line, Framed | Lost):
                    frames = line.frames if isinstance(line, Lost) else 1
                    self._waiting.lost[line.market] += frames
        metrics.CAPTURE_LOST.inc(sum(isinstance(line, Framed) for line in lines))

    def _count(self, lines: Iterable[Line]) -> None:
        frames = [line for line in lines if isinstance(line, Framed | Status)]
        self.frames += len(frames)
        metrics.CAPTURE_FRAMES.inc(len(frames))
        metrics.CAPTURE_BYTES.inc(self.bytes_written - self._bytes_counted)
        self._bytes_counted = self.bytes_written


class CapturingSink:
    """A sink that captures what the next one has accepted; without a next one, all that comes."""

    def __init__(self, capture: Capture, then: Sink | None = None) -> None:
        self._capture = capture
        self._then = then

    def put(self, item: Item) -> bool:
        """As the next sink says; without one, False while the capture has no room."""
        if self._then is None:
            return self._capture.note(item)
        if not self._then.put(item):
            return False
        if not self._capture.note(item) and isinstance(item, Frame):
            self._capture.leave_out(item.market)
        return True

    async def wait_room(self) -> None:
        """Until `put` may be tried again."""
        await (self._capture if self._then is None else self._then).wait_room()


def _line(noted: _Noted) -> Line:
    match noted:
        case Frame(market, data, received_ns):
            return Framed.of(market, received_ns, data)
        case _Told(frame):
            return Status.of(frame.market, frame.received_ns, frame.data)
        case TickDue(market, time_ms, received_ns):
            return Ticked(m=market.name.lower(), r=received_ns, t=time_ms)
        case GapEnd():
            return GapEnded(
                m=noted.market.name.lower(),
                r=noted.received_ns,
                to=noted.to_ms,
                cause=str(noted.cause),
                symbols=list(noted.symbols),
                since=noted.from_ms,
            )
        case Ended():
            return noted


def _lost(market: Market, now_ns: int, frames: int) -> Lost:
    return Lost(m=market.name.lower(), r=now_ns, frames=frames)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
