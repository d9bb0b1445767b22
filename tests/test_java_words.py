"""profiles/java_words.py: what matters is passed on as it is; greetings are not."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tapewatch.profiles.java_words import listening, telling

FAREWELL = [
    "Traceback (most recent call last):\n",
    '  File "/x/pyspark.zip/pyspark/daemon.py", line 262, in manager\n',
    '  File "/x/pyspark.zip/pyspark/daemon.py", line 95, in worker\n',
    "BrokenPipeError: [Errno 32] Broken pipe\n",
]
BUG = ["Traceback (most recent call last):\n", '  File "/x/ours.py", line 1, in f\n', "ValueError: no\n"]


def test_what_java_says_at_every_start_is_left_out() -> None:
    said = [
        "WARNING: Using incubator modules: jdk.incubator.vector\n",
        "Using Spark's default log4j profile: org/apache/spark/log4j2-defaults.properties\n",
        'Setting default log level to "WARN".\n',
        "To adjust logging level use sc.setLogLevel(newLevel). For SparkR, use setLogLevel(newLevel).\n",
        "26/11/25 23:20:27 WARN NativeCodeLoader: Unable to load native-hadoop library for your platform...\n",
        "Starting Streaming TransformWithStateInPandas Python worker.\n",
        "\n",
    ]
    assert list(telling(said)) == []


def test_workers_that_cannot_say_goodbye_are_left_out_and_no_other_traceback() -> None:
    after = ["database away\n"]
    assert list(telling([*FAREWELL, *FAREWELL, *BUG, *FAREWELL, *after])) == [*BUG, *after]
    assert list(telling([*BUG[:2], "BrokenPipeError: [Errno 32]\n"])) == [*BUG[:2], "BrokenPipeError: [Errno 32]\n"]
    assert list(telling(FAREWELL[:2])) == FAREWELL[:2], "one that was cut off is passed on"
    assert list(telling([*BUG[:2], *BUG])) == [*BUG[:2], *BUG]


def test_threads_that_spoke_with_a_dead_worker_are_left_out_and_no_other_exception() -> None:
    trace = ["\tat java.base/sun.nio.ch.IOUtil.write(IOUtil.java:97)\n", "Caused by: some\n", "\t... 5 more\n"]
    broken = 'Exception in thread "stateConnectionListenerThread" java.io.IOException: Broken pipe\n'
    closed = 'Exception in thread "stateConnectionListenerThread" java.nio.channels.AsynchronousCloseException\n'
    deep = 'Exception in thread "stream execution thread for tapewatch [id = 1]" java.lang.StackOverflowError\n'
    other = 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space\n'
    said = [closed, *trace, broken, *trace, "database away\n", deep, *trace, other, *trace]
    assert list(telling(said)) == ["database away\n", other, *trace]


def test_a_process_that_is_started_inside_is_listened_to_and_we_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; sys.stderr.write('Setting default log level to WARN\\nout of memory\\n')"
    before = set(threading.enumerate())
    with listening():
        (listener,) = (thread for thread in set(threading.enumerate()) - before if thread.name == "java-words")
        process = subprocess.Popen([sys.executable, "-c", code])
    print("ours", file=sys.stderr)
    process.wait()
    listener.join()  # it ends with the process; who reads while it writes loses what it says
    said = capfd.readouterr().err
    assert "log level" not in said
    assert "out of memory\n" in said
    assert "ours\n" in said
