"""profiles/spark_job.py: what Spark's exceptions mean, and what the driver does then; a fake query, no Java."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from pyspark.errors import PySparkException

from tapewatch.errors import LogLost, LogUnavailable, MachineBusy, StoreMismatch, StoreUnavailable, TapewatchError
from tapewatch.log.kafka import KafkaPlace
from tapewatch.profiles.spark_job import _configuration, _ours, _run, _told_to_stop
from tapewatch.settings import Settings

PLACE = KafkaPlace("kafka:9092", "raw-trades", 3)
WORKER = "Job aborted.\npyspark.errors: Traceback\n  File x\ntapewatch.errors.{}: {}\n\tat java.lang.Thread.run"
GONE = 'Current Committed Offsets: {"failOnDataLoss": "true"}'


class Query:
    """A job whose lives end as ``ends`` say: an exception, or None for its own end. Without more it goes on."""

    def __init__(self, *ends: PySparkException | None) -> None:
        self._ends = list(ends)
        self.starts = self.stops = 0

    def start(self) -> None:
        self.starts += 1

    def wait(self, seconds: float) -> bool:
        if not self._ends:
            return False
        end = self._ends.pop(0)
        if end is not None:
            raise end
        return True

    def stop(self) -> None:
        self.stops += 1


class Clock(threading.Event):
    """An event that is not waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def run(query: Query, stop: threading.Event) -> None:
    job: Any = query
    _run(job, PLACE, stop)


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (WORKER.format("StoreMismatch", "They differ."), StoreMismatch, "They differ."),
        (WORKER.format("LogLost", "Lane 0: gone."), LogLost, "Lane 0: gone."),
        (WORKER.format("StoreUnavailable", "Away."), StoreUnavailable, "Away."),
        ("[KAFKA_DATA_LOSS.COULD_NOT_READ] Some data may have been lost", LogLost, "tapewatch spark --accept-loss"),
        ("org.apache.kafka.common.errors.TimeoutException: Call(callName=x)", LogUnavailable, "kafka:9092 does not"),
        ("java.util.concurrent.TimeoutException: Cannot fetch record for offset 7", LogUnavailable, "kafka:9092"),
        ("[STREAM_FAILED] Query [id = 1] terminated: Python worker failed to connect back.", MachineBusy, "much to do"),
    ],
)
def test_an_exception_of_spark_is_the_sentence_at_its_bottom(
    text: str, kind: type[TapewatchError], sentence: str
) -> None:
    error = _ours(PySparkException(f"{text}\n{GONE}"), PLACE)
    assert type(error) is kind
    assert sentence in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["AssertionError: a bug", f"ValueError\n{GONE}", "tapewatch.errors.Nothing: x"])
def test_any_other_is_a_bug_and_stays_as_it_is(text: str) -> None:
    error = PySparkException(text)
    assert _ours(error, PLACE) is error
    with pytest.raises(PySparkException) as raised:
        run(Query(error), Clock())
    assert raised.value is error


def test_while_kafka_or_the_database_is_away_or_the_machine_busy_the_query_begins_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = [PySparkException(WORKER.format(kind, "Away.")) for kind in ("LogUnavailable", "StoreUnavailable")]
    query, clock = Query(*away, PySparkException("Python worker failed to connect back."), None), Clock()
    run(query, clock)
    assert (query.starts, len(clock.waits)) == (4, 3)
    assert capsys.readouterr().out.count("The Spark job is running.") == 1


def test_one_that_is_told_to_stop_stops_in_order() -> None:
    with _told_to_stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        early = Query()
        run(early, stop)
        assert (early.starts, early.stops) == (0, 0), "it was told while Spark started"
    with _told_to_stop() as stop:
        running = Query()
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        run(running, stop)
        timer.join()
        assert (running.starts, running.stops) == (1, 1)


def test_an_exception_while_it_stops_is_no_news() -> None:
    stop = Clock()

    class Cancelled(Query):
        def wait(self, seconds: float) -> bool:
            stop.set()
            raise PySparkException("cancelled")

    run(Cancelled(), stop)


def test_without_jars_whoever_submits_the_job_has_named_them() -> None:
    settings = Settings(_env_file=None)
    assert not {"spark.driver.extraClassPath", "spark.jars", "spark.hadoop.fs.file.impl"} & set(
        _configuration(settings, 3, (), is_local=True)
    )
    assert "spark.jars" not in _configuration(settings, 3, (), is_local=False)
