"""The newest batches between two threads: order, waiting, and what is kept no longer."""

from __future__ import annotations

import threading

import pytest

from log_making import trades
from tapewatch.profiles.tail import TAIL_RECORDS_MAX, Tail
from tapewatch.records import Batch


def logged(count: int, offset: int) -> Batch:
    batch = trades(count, start=offset)
    batch.offset = offset
    return batch


def test_batches_come_once_and_in_order() -> None:
    tail = Tail(0)
    assert tail.take(0) == []
    tail.add(logged(3, 0))
    tail.add(logged(2, 3))
    assert tail.end == 5
    taken = tail.take(0)
    assert taken is not None
    assert [(batch.offset, len(batch)) for batch in taken] == [(0, 3), (3, 2)]
    assert tail.take(5) == []


def test_a_batch_that_was_partly_read_elsewhere_is_cut() -> None:
    tail = Tail(0)
    tail.add(logged(3, 0))
    tail.add(logged(4, 3))
    taken = tail.take(5)
    assert taken is not None
    assert [(batch.offset, batch.ids) for batch in taken] == [(5, ["5", "6"])]


def test_what_is_not_kept_is_to_be_read_from_the_log() -> None:
    tail = Tail(10)
    assert tail.take(4) is None, "it was there before this tail"
    tail.add(logged(2, 10))
    assert tail.take(4) is None
    assert tail.take(10) is not None


@pytest.mark.slow
def test_only_so_many_records_are_kept() -> None:
    tail = Tail(0)
    third = TAIL_RECORDS_MAX // 3
    one = trades(third)
    for number in range(4):
        one.offset = number * third
        tail.add(one.slice(0, third))
    assert tail.take(0) is None
    assert tail.end == 4 * third


def test_a_reader_sleeps_until_the_log_reaches_what_it_waits_for() -> None:
    tail = Tail(0)
    reached: list[tuple[bool, int]] = []
    thread = threading.Thread(target=lambda: reached.append((tail.wait(4, 60), tail.end)))
    thread.start()
    tail.add(logged(3, 0))
    tail.add(logged(1, 3))
    thread.join()
    assert reached == [(True, 4)]
    assert not tail.wait(5, 0)
