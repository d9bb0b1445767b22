"""The hand-off: order, bounds, waiting on both sides, with a real loop and a real thread."""

from __future__ import annotations

import asyncio
import threading
import time

from tapewatch.feed.queue import EVENT_BYTES, Frame, FrameQueue, GapEnd, Item, TickDue, Wanted
from tapewatch.records import Market

GAP = GapEnd(Market.STOCKS, 5, "cut", ("AAPL",), 5)
TICK = TickDue(Market.STOCKS, 1_000, 1)


DEADLINE_S = 120.0


def frame(number: int, size: int = 10) -> Frame:
    return Frame(Market.STOCKS, bytes(size), number)


def test_first_in_first_out() -> None:
    queue = FrameQueue()
    items: list[Item] = [frame(1), TICK, GAP, frame(2)]
    assert all(queue.put(item) for item in items)
    assert len(queue) == 4
    assert queue.take(1_000, 0) == items
    assert queue.take(1_000, 0) == []
    assert queue.bytes_waiting == 0


def test_take_stops_at_about_so_many_events_but_gives_one_item_at_least() -> None:
    queue = FrameQueue()
    for number in range(4):
        queue.put(frame(number, 10 * EVENT_BYTES))
    assert len(queue.take(1, 0)) == 1
    assert len(queue.take(20, 0)) == 2
    assert len(queue.take(20, 0)) == 1


def test_a_full_queue_takes_no_frame_and_no_tick_but_a_gap_and_a_wish() -> None:
    queue = FrameQueue(bytes_max=100)
    wanted = Wanted(frozenset({"AAPL"}), 1)
    assert queue.put(frame(1, 90))
    assert not queue.put(frame(2, 11))
    assert not queue.put(TICK)
    assert queue.put(GAP)
    assert queue.put(wanted)
    assert queue.take(1_000, 0) == [frame(1, 90), GAP, wanted]
    assert queue.put(frame(3, 1_000)), "an empty queue takes any item"
    assert queue.bytes_waiting == 1_000


def test_the_peak_and_the_times_it_was_full_are_counted() -> None:
    queue = FrameQueue(bytes_max=100)
    for _ in range(2):
        queue.put(frame(1, 60))
        queue.put(frame(2, 30))
        assert not queue.put(frame(3, 50))
        assert not queue.put(frame(3, 50)), "the same waiting is counted once"
        queue.take(1_000, 0)
    assert (queue.bytes_peak, queue.times_full, queue.bytes_waiting) == (90, 2, 0)


def test_take_waits_for_an_item() -> None:
    queue = FrameQueue()
    taken: list[Item] = []
    thread = threading.Thread(target=lambda: taken.extend(queue.take(1, DEADLINE_S)))
    thread.start()
    queue.put(frame(1))
    thread.join(DEADLINE_S)
    assert taken == [frame(1)]


def test_what_comes_before_it_is_due_is_taken_together() -> None:
    """A machine that was too slow to put all of them in before is given more time."""
    for wait_s in (0.2, 2.0, 20.0, DEADLINE_S):
        queue = FrameQueue()
        taken: list[Item] = []
        due_s = time.monotonic() + wait_s
        thread = threading.Thread(target=lambda: taken.extend(queue.take(100, DEADLINE_S, due_s)))  # noqa: B023 - joined
        thread.start()
        for number in range(5):
            queue.put(frame(number))
        is_in_time = time.monotonic() < due_s
        thread.join(2 * DEADLINE_S)
        if is_in_time:
            break
    assert taken == [frame(number) for number in range(5)]


def test_enough_events_are_taken_before_they_are_due() -> None:
    queue = FrameQueue()
    queue.put(frame(1, 50 * EVENT_BYTES))
    taken: list[Item] = []
    thread = threading.Thread(target=lambda: taken.extend(queue.take(100, 10, time.monotonic() + 2 * DEADLINE_S)))
    thread.start()
    queue.put(frame(2, 50 * EVENT_BYTES))
    thread.join(DEADLINE_S)
    assert [item.received_ns for item in taken] == [1, 2]


def test_a_reader_waits_for_room_and_nothing_is_lost_or_reordered() -> None:
    queue = FrameQueue(bytes_max=50)
    total = 2_000
    taken: list[Item] = []

    def consume() -> None:
        while len(taken) < total:
            taken.extend(queue.take(1, DEADLINE_S))
            assert queue.bytes_waiting <= 50

    async def read() -> None:
        for number in range(total):
            while not queue.put(frame(number)):
                await queue.wait_room()

    thread = threading.Thread(target=consume)
    thread.start()
    asyncio.run(asyncio.wait_for(read(), DEADLINE_S))
    thread.join(DEADLINE_S)
    assert [item.received_ns for item in taken] == list(range(total))


def test_waiting_for_room_in_an_empty_queue_ends_at_once() -> None:
    asyncio.run(asyncio.wait_for(FrameQueue().wait_room(), DEADLINE_S))


def test_a_reader_that_was_cancelled_or_whose_loop_ended_disturbs_no_one() -> None:
    queue = FrameQueue(bytes_max=10)
    queue.put(frame(1))

    async def give_up() -> None:
        waiting = asyncio.create_task(queue.wait_room())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(give_up())
    assert queue.take(1, 0) == [frame(1)]
