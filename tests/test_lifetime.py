"""How long a program runs: signals, errors, and a start that is cut between two of its steps."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

import pytest

from tapewatch.errors import MachineError, StoreError
from tapewatch.profiles.lifetime import Lifetime

Step = Callable[[Lifetime], object]


def lived(*steps: Step, then: Step = lambda life: None) -> list[int]:
    """Start in these steps, and do ``then`` when all are done; how many were done."""
    done: list[int] = []

    async def main() -> None:
        life = Lifetime()

        async def start() -> None:
            for number, step in enumerate(steps):
                step(life)
                done.append(number)
                for _ in range(5):  # a signal comes through a socket of the loop's
                    await asyncio.sleep(0)
                life._go_on()
            then(life)

        await asyncio.wait_for(life.run(start()), 60)

    asyncio.run(main())
    return done


def signalled(number: signal.Signals) -> Step:
    return lambda life: signal.raise_signal(number)


def nothing(life: Lifetime) -> None:
    pass


def failing(error: Exception) -> Step:
    def fail(life: Lifetime) -> None:
        raise error

    return fail


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_it_is_at_work(number: signal.Signals) -> None:
    assert lived(nothing, nothing, then=signalled(number)) == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_start_before_the_next_step(number: signal.Signals) -> None:
    assert lived(nothing, signalled(number), nothing, nothing) == [0, 1]


def test_a_start_that_fails_says_why() -> None:
    with pytest.raises(MachineError, match="no room"):
        lived(nothing, failing(MachineError("no room")), nothing)


def test_what_a_start_does_not_finish_after_a_signal_is_no_error() -> None:
    """Ctrl-C has ended a program that was started for it, say."""

    def both(life: Lifetime) -> None:
        signal.raise_signal(signal.SIGINT)  # its socket is read only after this
        raise MachineError("the simulator ended")

    assert lived(nothing, both, nothing) == [0]


def test_a_bug_is_told_whenever_it_comes() -> None:
    def both(life: Lifetime) -> None:
        life._end(None)
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        lived(both)


def test_an_error_of_a_thread_ends_it_and_its_start() -> None:
    def broken(life: Lifetime) -> None:
        thread = threading.Thread(target=life._thread_ended, args=[StoreError("gone")])
        thread.start()
        thread.join()

    with pytest.raises(StoreError, match="gone"):
        lived(nothing, then=broken)
    done: list[str] = []
    with pytest.raises(StoreError, match="gone"):
        lived(broken, lambda life: done.append("the step after"))
    assert done == []


def test_the_orderly_end_of_a_thread_ends_nothing_else() -> None:
    assert lived(lambda life: life._thread_ended(None), nothing, then=signalled(signal.SIGTERM)) == [0, 1]


def test_the_first_end_counts() -> None:
    def twice(life: Lifetime) -> None:
        life._end(None)
        life._end(StoreError("its consequence"))

    assert lived(then=twice) == []


def test_a_long_step_is_cut_between_two_of_its_items() -> None:
    taken: list[int] = []

    async def main() -> None:
        life = Lifetime()

        async def start() -> None:
            for item in life._each(range(5)):
                taken.append(item)
                if item == 2:
                    life._end(None)

        await asyncio.wait_for(life.run(start()), 60)

    asyncio.run(main())
    assert taken == [0, 1, 2]
