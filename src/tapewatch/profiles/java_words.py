"""What Spark's Java process says on standard error: passed on, but for what it says at every start.

Our Python workers speak through it too, so it cannot be silenced. A pipe takes its place while Java is started; it ends
with us, and Java does not mind.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["listening", "telling"]

_CHATTER: Final = re.compile(
    r"\s*$|WARNING: Using incubator modules|Using Spark's default log4j|Setting default log level to|"
    r"To adjust logging level use|.* WARN NativeCodeLoader: |.*Streaming TransformWithStateInPandas Python worker"
)
_THREADS: Final = re.compile(
    r'Exception in thread "(stateConnectionListenerThread" '
    r".*(Broken pipe|Connection reset|ClosedChannel|ClosedByInterrupt|AsynchronousClose)|"
    r"stream execution thread for tapewatch .*StackOverflowError)"
)
"""A thread that talked with a worker which is dead now; and one that is ending, whose error is raised elsewhere."""
_TRACE: Final = re.compile(r"\s+at |\s+\.\.\. |Caused by: ")
_TRACEBACK: Final = "Traceback (most recent call last):"
_DAEMON: Final = re.compile(r'\s+File ".*pyspark/daemon\.py", ')
_GOODBYE: Final = re.compile(r"BrokenPipeError|ConnectionResetError")


def telling(lines: Iterable[str]) -> Iterator[str]:
    """Without what nobody could act on: greetings, and that a Python worker could not say goodbye, or Java to it.

    >>> list(telling(['Setting default log level to "WARN".', "java.lang.OutOfMemoryError: Java heap space"]))
    ['java.lang.OutOfMemoryError: Java heap space']
    """
    held: list[str] = []
    is_in_trace = False
    for line in lines:
        if is_in_trace and _TRACE.match(line):
            continue
        is_in_trace = _THREADS.match(line) is not None
        if is_in_trace:
            yield from held
            held = []
        elif line.startswith(_TRACEBACK):
            yield from held
            held = [line]
        elif held and line.startswith(" "):
            held.append(line)
        elif held:
            if not (_GOODBYE.match(line) and all(_DAEMON.match(part) for part in held[1:])):
                yield from held
                yield line
            held = []
        elif not _CHATTER.match(line):
            yield line
    yield from held


@contextmanager
def listening() -> Iterator[None]:
    """Processes that are started inside the block get a standard error that we listen to, as long as they live."""
    listen, speak = os.pipe()
    kept = os.dup(2)
    sys.stderr.flush()
    threading.Thread(target=_pass_on, args=(listen, kept), name="java-words", daemon=True).start()
    os.dup2(speak, 2)
    os.close(speak)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)


def _pass_on(listen: int, speak: int) -> None:
    with os.fdopen(listen, errors="replace") as lines, os.fdopen(speak, "w") as out:
        for line in telling(lines):
            out.write(line)
            out.flush()
