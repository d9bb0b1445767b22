"""The format of raw captures: what goes in comes out byte for byte, and a file that ends anywhere says what it has."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch import capturefile
from tapewatch.capturefile import (
    CaptureReader,
    CaptureWriter,
    Ended,
    FeedHead,
    Framed,
    GapEnded,
    Head,
    Line,
    Lost,
    Status,
    Ticked,
    captures_in_order,
    is_capture,
    lines_of,
    mark,
    marked,
)
from tapewatch.errors import InputError, MachineError
from tapewatch.records import Market, Origin
from tapewatch.settings import FRAME_BYTES_MAX

HEAD = Head(
    source="massive",
    origin=Origin.LIVE,
    started_ns=1,
    feeds={"stocks": FeedHead(topics=["T.AAPL"]), "crypto": FeedHead(topics=["XT.BTC-USD"], delay_ms=900_000)},
)
TIMES = st.integers(0, 2**63 - 1)
NAMES = st.sampled_from(["stocks", "crypto"])
LINES = st.one_of(
    st.builds(
        Framed.of,
        st.sampled_from([Market.STOCKS, Market.CRYPTO]),
        TIMES,
        st.binary(max_size=200) | st.text().map(str.encode),
    ),
    st.builds(Status.of, st.just(Market.STOCKS), TIMES, st.binary(max_size=50)),
    st.builds(Ticked, m=NAMES, r=TIMES, t=TIMES),
    st.builds(
        GapEnded, m=NAMES, r=TIMES, to=TIMES, cause=st.text(), symbols=st.lists(st.text()), since=st.none() | TIMES
    ),
    st.builds(Ended, m=NAMES, r=TIMES, why=st.text()),
    st.builds(Lost, m=NAMES, r=TIMES, frames=st.integers(1, 9)),
)


def written(path: Path, lines: list[Line], *, close: bool = True) -> Path:
    path.unlink(missing_ok=True)
    writer = CaptureWriter(path, HEAD)
    for line in lines:
        writer.write([line])
    if close:
        writer.close()
    else:
        writer.flush()
        writer._file.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@given(st.lists(LINES, max_size=20))
def test_every_line_comes_out_as_it_went_in(folder: Path, lines: list[Line]) -> None:
    reader = CaptureReader(written(folder / "all.gz", lines))
    read = list(reader)
    assert read == lines
    assert [line.data for line in read if isinstance(line, Framed)] == [
        line.data for line in lines if isinstance(line, Framed)
    ]
    assert (reader.head, reader.stopped) == (HEAD, "")


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_a_frame_keeps_its_bytes(data: bytes) -> None:
    assert Framed.of(Market.CRYPTO, 1, data).data == data


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [Framed.of(Market.STOCKS, 7, b'[{"ev":"T"}]')])
    shown = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert len(shown) == 2
    assert shown[1] == r'{"k":"f","m":"stocks","r":7,"d":"[{\"ev\":\"T\"}]"}'


FRAMES: list[Line] = [Framed.of(Market.STOCKS, number, b"[%d]" % number * 50) for number in range(40)]


@given(st.data())
def test_a_file_that_ends_anywhere_gives_whole_lines_and_says_so(folder: Path, data: st.DataObject) -> None:
    whole = written(folder / "whole.gz", FRAMES).read_bytes()
    begins = len(written(folder / "begun.gz", [], close=False).read_bytes())
    cut = folder / "cut.gz"
    cut.write_bytes(whole[: data.draw(st.integers(begins, len(whole) - 1))])
    reader = CaptureReader(cut)
    read = list(reader)
    assert read == FRAMES[: len(read)]
    assert reader.stopped.startswith(f"{cut} was not finished"), reader.stopped
    assert f"its {len(read) + 1} whole lines" in reader.stopped


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "killed.gz"
    program = f"""
import os, signal
from pathlib import Path
from tapewatch.capturefile import *
from tapewatch.records import Market, Origin
head = Head(source="massive", origin=Origin.LIVE, started_ns=1, feeds={{"stocks": FeedHead(topics=[])}})
writer = CaptureWriter(Path({str(path)!r}), head)
writer.write([Framed.of(Market.STOCKS, n, b"[%d]" % n) for n in range(1000)])
writer.flush()
writer.write([Framed.of(Market.STOCKS, 1000, b"[1000]")])
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert ended.returncode == -9
    reader = CaptureReader(path)
    assert [line.r for line in reader] == list(range(1000))
    assert "was not finished, as after a kill; its 1001 whole lines are read" in reader.stopped


@given(st.integers(0, 2_000), st.integers(1, 255))
def test_damage_stops_the_reading_and_never_makes_a_line(folder: Path, at: int, flip: int) -> None:
    whole = bytearray(written(folder / "damaged.gz", FRAMES).read_bytes())
    whole[at % len(whole)] ^= flip
    path = folder / "damaged.gz"
    path.write_bytes(whole)
    try:
        reader = CaptureReader(path)
    except InputError as error:
        assert "is no capture" in str(error) or "format" in str(error)  # noqa: PT017 - either is right
        return
    read = list(reader)
    # A flip inside the text of a block is found at the file's end, by gzip's checksum; none goes unnoticed.
    assert reader.stopped or (read == FRAMES and reader.head == HEAD)


def test_a_line_that_is_none_stops_the_reading(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", FRAMES[:2])
    for junk in (b"{}", b"{", b'{"k":"f","m":"moon","r":1,"d":""}', b'{"k":"f","m":"stocks","r":1,"b":"!"}', b"\xff"):
        other = tmp_path / "b.gz"
        other.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + junk + b"\n"))
        reader = CaptureReader(other)
        assert list(reader) == FRAMES[:2]
        assert reader.stopped == f"{other}: line 4 cannot be read; what follows it is left"


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    one = written(tmp_path / "a.gz", FRAMES[:2]).read_bytes()
    text = gzip.decompress(written(tmp_path / "b.gz", FRAMES[2:4]).read_bytes()).split(b"\n", 1)[1]
    path = tmp_path / "c.gz"
    path.write_bytes(one + gzip.compress(text))
    assert list(CaptureReader(path)) == FRAMES[:4]


def test_leaving_the_lines_early_closes_the_file(tmp_path: Path) -> None:
    reader = CaptureReader(written(tmp_path / "a.gz", FRAMES))
    assert next(iter(reader)) == FRAMES[0]
    assert reader._file.closed


def test_a_frame_whose_text_would_be_too_long_is_written_as_base64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturefile, "LINE_BYTES_MAX", 1_000)
    long = Framed.of(Market.STOCKS, 1, b"\x01" * 300)
    reader = CaptureReader(written(tmp_path / "a.gz", [long]))
    (line,) = reader
    assert isinstance(line, Framed)
    assert (line.data, line.d) == (long.data, None)


def test_the_largest_frame_has_a_line_even_if_all_of_it_must_be_escaped() -> None:
    assert 2 * FRAME_BYTES_MAX + 1_000 < capturefile.LINE_BYTES_MAX < 2 * FRAME_BYTES_MAX + 10_000


def test_a_line_without_end_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.gz", FRAMES[:1])
    other = tmp_path / "b.gz"
    other.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"x" * 5_000_000))
    monkeypatch.setattr(capturefile, "LINE_BYTES_MAX", 1_000_000)
    reader = CaptureReader(other)
    assert list(reader) == FRAMES[:1]
    assert reader.stopped == f"{other}: line 3 is longer than 1000000 bytes"


def test_a_capture_is_never_written_over(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [])
    with pytest.raises(InputError, match=r"a\.gz is there already, and a capture is never written over"):
        CaptureWriter(path, HEAD)


def test_a_disk_without_room_is_said() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    writer = CaptureWriter.__new__(CaptureWriter)
    writer.path, writer.bytes_written, writer._file = full, 0, full.open("wb", buffering=0)
    with pytest.raises(MachineError, match=r"The capture /dev/full cannot be written: No space left on device"):
        writer._put(b"x")
    writer._file.close()


@pytest.mark.parametrize("content", [b"", b"ticker,price\n", gzip.compress(b"ticker,price\n", mtime=0), b"\x1f\x8b"])
def test_what_is_no_capture_is_known(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert not is_capture(path)
    with pytest.raises(InputError, match="is no capture"):
        CaptureReader(path)
    assert not is_capture(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        CaptureReader(tmp_path / "missing")


def test_a_capture_of_another_format_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", [])
    other = tmp_path / "b.gz"
    other.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"format":1', b'"format":2')))
    assert is_capture(other)
    with pytest.raises(InputError, match="format 2; this program reads format 1"):
        CaptureReader(other)


def test_captures_that_belong_together_are_played_the_oldest_first(tmp_path: Path) -> None:
    paths = []
    for started, frames in ((2, FRAMES[2:]), (1, FRAMES[:2])):
        head = Head(source="massive", origin=Origin.LIVE, started_ns=started, feeds=HEAD.feeds)
        writer = CaptureWriter(tmp_path / f"{started}.gz", head)
        writer.write(frames)
        writer.close()
        paths.append(writer.path)
    assert is_capture(paths[0])
    assert list(lines_of(captures_in_order(paths))) == FRAMES


def test_captures_of_two_exchanges_are_not_mixed(tmp_path: Path) -> None:
    one = written(tmp_path / "a.gz", [])
    CaptureWriter(tmp_path / "b.gz", Head(source="coinbase", origin=Origin.LIVE, started_ns=3, feeds={})).close()
    with pytest.raises(InputError, match="captures of coinbase and massive cannot be played together"):
        captures_in_order([one, tmp_path / "b.gz"])


@given(LINES)
def test_a_mark_is_the_line_without_its_frame(line: Line) -> None:
    again = marked(mark(line))
    assert (type(again), again.m, again.r) == (type(line), line.m, line.r)
    if isinstance(again, Framed | Status):
        assert again.data == b""
    else:
        assert again == line
