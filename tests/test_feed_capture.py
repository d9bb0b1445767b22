"""Writing raw captures: what is noted is written in order, what has no room is named, and a disk is not filled."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapewatch import metrics
from tapewatch.capturefile import (
    CaptureReader,
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
    lines_of,
)
from tapewatch.errors import InputError, MachineError
from tapewatch.feed.capture import PIECES, Capture, CaptureFolder, CapturingSink, OneFile
from tapewatch.feed.queue import Frame, FrameQueue, GapEnd, Item, TickDue, Wanted
from tapewatch.records import Market, Origin
from waiting import WAIT_S, until

HEAD = Head(source="massive", origin=Origin.LIVE, started_ns=0, feeds={"stocks": FeedHead(topics=["T.*"])})
GAP = GapEnd(Market.STOCKS, 5, "cut", ("AAPL",), 6, from_ms=1)
TICK = TickDue(Market.STOCKS, 1_000, 7)


def frame(number: int, size: int = 10) -> Frame:
    return Frame(Market.STOCKS, b"%0*d" % (size, number), number)


def lines(path: Path) -> list[Line]:
    reader = CaptureReader(path)
    found = list(reader)
    assert reader.stopped == ""
    return found


@contextmanager
def captured(capture: Capture) -> Iterator[Capture]:
    capture.start()
    try:
        yield capture
    finally:
        capture.stop()


def test_everything_is_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    frames = metrics.CAPTURE_FRAMES._value.get()
    with captured(Capture(HEAD, OneFile(path), clock_ns=lambda: 9)) as capture:
        capture.told(frame(1))
        for item in (GAP, frame(2), TICK, Wanted(frozenset(["AAPL"]), 8), frame(3)):
            assert capture.note(item)
        capture.ended(Market.STOCKS, "the connection broke off")
    assert lines(path) == [
        Status.of(Market.STOCKS, 1, frame(1).data),
        GapEnded(m="stocks", r=6, to=5, cause="cut", symbols=["AAPL"], since=1),
        Framed.of(Market.STOCKS, 2, frame(2).data),
        Ticked(m="stocks", r=7, t=1_000),
        Framed.of(Market.STOCKS, 3, frame(3).data),
        Ended(m="stocks", r=9, why="the connection broke off"),
    ]
    assert (capture.frames, capture.bytes_written) == (3, path.stat().st_size)
    assert metrics.CAPTURE_FRAMES._value.get() - frames == 3


def test_it_is_on_the_disk_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    with captured(Capture(HEAD, OneFile(path))) as capture:
        capture.note(frame(1))
        until(lambda: capture.frames == 1)
        reader = CaptureReader(path)
        assert [line.r for line in reader] == [1]
        assert "was not finished" in reader.stopped


def test_what_the_queue_refuses_is_not_captured_and_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    queue = FrameQueue(bytes_max=15)
    with captured(Capture(HEAD, OneFile(path))) as capture:
        sink = CapturingSink(capture, queue)
        assert [sink.put(frame(n)) for n in (1, 2)] == [True, False]
        queue.take(1, 0)
        assert sink.put(frame(2))
    assert [line.r for line in lines(path)] == [1, 2]


def test_beside_a_pipeline_what_has_no_room_is_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    queue = FrameQueue()
    lost = metrics.CAPTURE_LOST._value.get()
    capture = Capture(HEAD, OneFile(path), clock_ns=lambda: 99, bytes_max=25)
    sink = CapturingSink(capture, queue)
    items: list[Item] = [frame(1), frame(2), frame(3), frame(4), TICK, frame(5)]
    assert all(sink.put(item) for item in items), "the pipeline does not wait for its capture"
    assert queue.take(1_000, 0) == items
    with captured(capture):
        until(lambda: capture.frames == 2)
        assert sink.put(frame(6))
    assert lines(path) == [
        Framed.of(Market.STOCKS, 1, frame(1).data),
        Framed.of(Market.STOCKS, 2, frame(2).data),
        Lost(m="stocks", r=99, frames=3),
        Framed.of(Market.STOCKS, 6, frame(6).data),
    ]
    assert metrics.CAPTURE_LOST._value.get() - lost == 3


def test_by_itself_it_holds_the_sender_back_instead(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    capture = Capture(HEAD, OneFile(path), bytes_max=25, flush_s=0.01)
    sink = CapturingSink(capture)

    async def send() -> int:
        waits = 0
        for number in range(20):
            while not sink.put(frame(number)):
                waits += 1
                async with asyncio.timeout(WAIT_S):
                    await sink.wait_room()
        return waits

    with captured(capture):
        assert asyncio.run(send()) > 0
    assert [line.r for line in lines(path)] == list(range(20))


def test_nobody_waits_for_room_that_is_there(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(Capture(HEAD, OneFile(tmp_path / "a.gz")).wait_room(), WAIT_S))


def test_a_folder_is_cut_into_files_that_are_one_capture_together(tmp_path: Path) -> None:
    ticking = iter(range(10**18, 10**19, 10**9))
    place = CaptureFolder(tmp_path / "raw", 300 * PIECES)  # a file is full with its first frame
    with captured(Capture(HEAD, place, clock_ns=lambda: next(ticking), flush_s=0.01)) as capture:
        for number in range(3):
            capture.note(Frame(Market.STOCKS, random.Random(number).randbytes(300), number))
            until(lambda number=number: capture.frames == number + 1)
    files = sorted(place.folder.iterdir())
    assert len(files) >= 3
    assert [line.r for line in lines_of(captures_in_order(files))] == [0, 1, 2]


def test_the_oldest_files_of_a_folder_go(tmp_path: Path) -> None:
    place = CaptureFolder(tmp_path, 800)
    for day in range(1, 10):
        (tmp_path / f"capture-2026010{day}T000000.000000Z.jsonl.gz").write_bytes(bytes(100))
    (tmp_path / "notes.txt").write_bytes(bytes(1_000))
    new = place.next(1_800_000_000_123_456_789)
    assert new.name == "capture-20270115T080000.123456Z.jsonl.gz"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name[8:16] for name in left if name != "notes.txt"] == [f"2026010{day}" for day in range(3, 10)]
    assert "notes.txt" in left, "only captures are touched"
    assert not place.is_full(99)
    assert place.is_full(100)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"The folder of captures .*file/raw cannot be used: Not a directory"):
        CaptureFolder(tmp_path / "file" / "raw", 1_000).next(0)


def test_a_nearly_full_disk_pauses_a_capture_and_is_said(tmp_path: Path) -> None:
    place = CaptureFolder(tmp_path, 10**9)
    capture = Capture(HEAD, place, disk_free_min=2**62, flush_s=0.05)
    capture.note(frame(1))
    with captured(capture):
        until(lambda: capture.problem != "")
        assert f"Nothing is captured: the disk of {tmp_path} has only" in capture.problem
        capture._disk_free_min = 0
        until(lambda: capture.problem == "")
        capture.note(frame(2))
    found = list(lines_of(captures_in_order(sorted(tmp_path.iterdir()))))
    assert [line.frames for line in found if isinstance(line, Lost)] == [1]
    assert [line.r for line in found if isinstance(line, Framed)] == [2]


def test_by_itself_an_error_ends_it_and_somebody_hears_of_it(tmp_path: Path) -> None:
    heard: list[MachineError] = []
    capture = Capture(HEAD, OneFile(tmp_path / "a.gz"), disk_free_min=2**62, on_fail=heard.append)
    capture.start()
    until(lambda: bool(heard))
    capture.stop()
    assert "Nothing is captured" in str(heard[0])
    assert capture.problem == str(heard[0])
    assert lines(tmp_path / "a.gz") == [], "the file is whole"


def test_a_file_that_is_there_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_text("")
    with pytest.raises(InputError, match="is there already"):
        Capture(HEAD, OneFile(tmp_path / "a.gz")).start()
    assert not any(thread.name == "capture" for thread in threading.enumerate())
