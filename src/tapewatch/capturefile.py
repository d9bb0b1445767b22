"""A raw capture: what an exchange said, frame by frame as it came, with the moment each frame was received.

The feed writes captures and the simulator plays them; both use this module, so both mean the same. A capture is gzip of
JSON lines, which `zcat` shows; the first line says what it is, and each other line is one thing that happened:

    {"k":"head","format":1,"source":"massive","origin":"LIVE","started_ns":…,"feeds":{"stocks":{"topics":…,"delay_ms":0}}}
    {"k":"s", "m":"stocks","r":…,"d":"[{\\"ev\\":\\"status\\" …"}   a frame that holds nothing but statuses
    {"k":"f", "m":"stocks","r":…,"d":"[{\\"ev\\":\\"T\\" …"}        any other frame
    {"k":"t", "m":"stocks","r":…,"t":1788877046000}            a tick of the feed
    {"k":"g", "m":"stocks","r":…,"to":…,"cause":"cut" …}       the feed is live (again): what it missed ends here
    {"k":"e", "m":"stocks","r":…,"why":"…"}                    the connection ended
    {"k":"lost", "m":"stocks","r":…,"frames":3}                the capture could not keep pace, and left these out

``m`` is the market, ``r`` the receipt in Unix ns. A frame is in ``d`` as text; one that is no text, in ``b`` as base64.

What is promised: a frame comes out byte for byte as it went in, and everything that was flushed can be read after the
writer was killed. The reader stops at the first thing that it cannot read, and says so in `CaptureReader.stopped`.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

import msgspec

from tapewatch.errors import InputError, MachineError
from tapewatch.records import Market, Origin

__all__ = [
    "MARK",
    "CaptureReader",
    "CaptureWriter",
    "Ended",
    "FeedHead",
    "Framed",
    "GapEnded",
    "Head",
    "Line",
    "Lost",
    "Status",
    "Ticked",
    "captures_in_order",
    "is_capture",
    "lines_of",
    "mark",
    "marked",
    "markets_of",
]

FORMAT: Final = 1
MARK: Final = "recorded"
"""Where a capture is played: the status (Coinbase: the type) of the message that says when the next frame was received,
and what one subscribes to in order to get these."""
LINE_BYTES_MAX: Final = 32 * 1024 * 1024 + 4_096
"""Twice the largest frame (`FRAME_BYTES_MAX`) and its stamps. A longer line is neither written nor read; a frame whose
text would make one is written as base64."""
LEVEL: Final = 3
"""Of compression: some 80 MB/s here, at a sixth of the size."""
_GZIP: Final = 31  # zlib's number for a gzip stream with the largest window
_READ_BYTES: Final = 1 << 18
_FIRST: Final = b'{"k":"head",'


class FeedHead(msgspec.Struct, frozen=True, kw_only=True):
    """What one market's feed had asked for, and how late its data was."""

    topics: list[str]
    delay_ms: int = 0


class Head(msgspec.Struct, frozen=True, kw_only=True, tag_field="k", tag="head"):
    """The first line. ``feeds`` has a market's name as its key, in small letters."""

    format: int = FORMAT
    source: str
    origin: Origin
    started_ns: int
    feeds: dict[str, FeedHead]


class _Noted(msgspec.Struct, frozen=True, kw_only=True, tag_field="k"):
    m: str
    r: int

    @property
    def market(self) -> Market:
        """The market it is of."""
        return Market[self.m.upper()]


class _Frame(_Noted, frozen=True, kw_only=True, omit_defaults=True):
    d: str | None = None
    b: str | None = None

    @property
    def data(self) -> bytes:
        """The frame, byte for byte."""
        if self.d is not None:
            return self.d.encode()
        return b64decode(self.b or "", validate=True)

    @classmethod
    def of(cls, market: Market, received_ns: int, data: bytes) -> Self:
        """The line of a frame."""
        name = market.name.lower()
        try:
            return cls(m=name, r=received_ns, d=data.decode())
        except UnicodeDecodeError:
            return cls(m=name, r=received_ns, b=b64encode(data).decode())


class Framed(_Frame, frozen=True, kw_only=True, tag="f"):
    """A frame with data."""


class Status(_Frame, frozen=True, kw_only=True, tag="s"):
    """A frame that only told of the connection."""


class Ticked(_Noted, frozen=True, kw_only=True, tag="t"):
    """The feed's clock had reached ``t`` (event time, Unix ms) and the feed was live."""

    t: int


class GapEnded(_Noted, frozen=True, kw_only=True, omit_defaults=True, tag="g"):
    """The feed was live (again) from ``to`` (event time, Unix ms) on."""

    to: int
    cause: str
    symbols: list[str] = []
    since: int | None = None


class Ended(_Noted, frozen=True, kw_only=True, tag="e"):
    """The connection ended, for this reason."""

    why: str


class Lost(_Noted, frozen=True, kw_only=True, tag="lost"):
    """So many frames before this moment are not in the capture."""

    frames: int


Line = Framed | Status | Ticked | GapEnded | Ended | Lost
_DECODER: Final = msgspec.json.Decoder(Head | Line)
_MARK_DECODER: Final = msgspec.json.Decoder(Line)


def is_capture(path: Path) -> bool:
    """Whether a file begins as a capture does; a file that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return zlib.decompressobj(_GZIP).decompress(file.read(4_096), len(_FIRST)) == _FIRST
    except (OSError, zlib.error):
        return False


class CaptureWriter:
    """Writes one capture. What was flushed survives the end of this process, however it ends."""

    def __init__(self, path: Path, head: Head) -> None:
        """Begin a new file.

        Raises:
            InputError: the file is there already, or cannot be made.
        """
        self.path = path
        self.bytes_written = 0
        """Of the file, so far."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("xb", buffering=0)
        except FileExistsError:
            raise InputError(f"{path} is there already, and a capture is never written over; name another") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        self._packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
        self._write(msgspec.json.encode(head) + b"\n")
        self.flush()

    def write(self, lines: Iterable[Line]) -> None:
        """Add lines. Raises MachineError when the file cannot be written, as when the disk is full."""
        self._write(b"".join(map(_line_bytes, lines)))

    def flush(self) -> None:
        """Hand all that was written to the system. Raises as `write`."""
        self._put(self._packer.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> None:
        """End the file; after that it is whole. Raises as `write`."""
        if not self._file.closed:
            try:
                self._put(self._packer.flush(zlib.Z_FINISH))
            finally:
                self._file.close()

    def _write(self, text: bytes) -> None:
        self._put(self._packer.compress(text))

    def _put(self, packed: bytes) -> None:
        left = memoryview(packed)
        try:
            while len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            raise MachineError(f"The capture {self.path} cannot be written: {error.strerror}.") from None
        self.bytes_written += len(packed)


class CaptureReader:
    """The lines of one capture after its head, in order; to be gone through once. Leaving them closes the file.

    ``stopped`` is empty while all could be read; else it is the sentence that says what could not.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: it cannot be opened, or is no capture.
        """
        self.path = path
        self.stopped = ""
        self._line = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        self._texts = self._read()
        head = self._decoded(next(self._texts, b""))
        if not isinstance(head, Head):
            self.close()
            raise InputError(f"{path} is no capture: expected a file that `tapewatch record` has written")
        if head.format != FORMAT:
            self.close()
            raise InputError(f"{path} is a capture of format {head.format}; this program reads format {FORMAT}")
        self.head = head

    def __iter__(self) -> Iterator[Line]:
        try:
            for text in self._texts:
                line = self._decoded(text)
                if line is None or isinstance(line, Head):
                    sentence = f"{self.path}: line {self._line} cannot be read; what follows it is left"
                    self.stopped = self.stopped or sentence
                    break
                yield line
        finally:
            self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _decoded(self, text: bytes) -> Head | Line | None:
        self._line += 1
        try:
            line: Head | Line = _DECODER.decode(text)
            if isinstance(line, Head):
                markets_of(line)
            else:
                _ = line.market
                if isinstance(line, Framed | Status):
                    _ = line.data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, binascii.Error):
            return None
        return line

    def _read(self) -> Iterator[bytes]:
        """The lines that are whole."""
        rest = bytearray()
        for piece in self._unpacked():
            start = len(rest)
            rest += piece
            while (end := rest.find(b"\n", start)) >= 0:
                yield bytes(rest[:end])
                del rest[: end + 1]
                start = 0
            if len(rest) > LINE_BYTES_MAX:
                self.stopped = f"{self.path}: line {self._line + 1} is longer than {LINE_BYTES_MAX} bytes"
                return
        if rest and not self.stopped:
            self.stopped = self._unfinished()

    def _unpacked(self) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(_GZIP)
        while packed := self._file.read(_READ_BYTES):
            while packed:
                try:
                    piece = unpacker.decompress(packed, _READ_BYTES)
                except zlib.error as error:
                    self.stopped = f"{self.path}: damaged after line {self._line}; what follows it is left ({error})"
                    return
                if piece:
                    yield piece
                packed = unpacker.unconsumed_tail
                if unpacker.eof and (packed := unpacker.unused_data):
                    unpacker = zlib.decompressobj(_GZIP)
        if not unpacker.eof:
            self.stopped = self._unfinished()

    def _unfinished(self) -> str:
        return f"{self.path} was not finished, as after a kill; its {self._line} whole lines are read"


def captures_in_order(paths: Iterable[Path]) -> list[CaptureReader]:
    """Open captures that belong together, the oldest first.

    Raises:
        InputError: one is no capture, or they are of different sources.
    """
    readers: list[CaptureReader] = []
    try:
        for path in paths:
            readers.append(CaptureReader(path))
        readers.sort(key=lambda reader: reader.head.started_ns)
        sources = sorted({reader.head.source for reader in readers})
        if len(sources) > 1:
            raise InputError(f"captures of {' and '.join(sources)} cannot be played together; name those of one source")
    except InputError:
        for reader in readers:
            reader.close()
        raise
    return readers


def lines_of(readers: Iterable[CaptureReader]) -> Iterator[Line]:
    """The lines of all of them, one capture after the other."""
    for reader in readers:
        yield from reader


def markets_of(head: Head) -> list[Market]:
    """The markets of a capture. Raises KeyError for a name that is none."""
    return sorted(Market[name.upper()] for name in head.feeds)


def _line_bytes(line: Line) -> bytes:
    text = msgspec.json.encode(line)
    if len(text) >= LINE_BYTES_MAX and isinstance(line, _Frame):
        text = msgspec.json.encode(msgspec.structs.replace(line, d=None, b=b64encode(line.data).decode()))
    return text + b"\n"


def mark(line: Line) -> str:
    """A line without the text of its frame, for whoever gets the frame by itself."""
    if isinstance(line, _Frame):
        line = msgspec.structs.replace(line, d=None, b=None)
    return msgspec.json.encode(line).decode()


def marked(text: str) -> Line:
    """The line of a mark. Raises ValueError for anything else."""
    line: Line = _MARK_DECODER.decode(text)
    return line
