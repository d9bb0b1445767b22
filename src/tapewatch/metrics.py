"""Every metric: once, named after Prometheus conventions (`tapewatch_` first, unit last), with its help text.

Rooms import the metric they move; `serve` prints them all at `/metrics`.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from tapewatch.settings import DISK_FREE_BYTES_MIN, QUEUE_BYTES_MAX


class Told(Gauge):
    """A gauge that is shown once it was set: `tapewatch feed` has no database, and must not say that it is down.

    Of several processes that share their metrics the newest value is shown.
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._is_told = False
        super().__init__(name, documentation, multiprocess_mode="mostrecent")

    def set(self, value: float) -> None:
        """Set, and show from now on."""
        super().set(value)
        self._is_told = True

    def collect(self) -> Iterable[Metric]:
        """Nothing before the first value."""
        return super().collect() if self._is_told else []


BUILD = Gauge("tapewatch_build_info", "The program's version", ["version"], multiprocess_mode="mostrecent")
BUILD.labels(version("tapewatch")).set(1)
_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# feed
FEED_CONNECTED = Gauge(
    "tapewatch_feed_connected", "1 while the market's feed is live, else 0; none at a replay's end", ["market"]
)
FEED_FRAMES = Counter("tapewatch_feed_frames_total", "WebSocket frames received", ["market"])
FEED_BYTES = Counter("tapewatch_feed_bytes_total", "Bytes of WebSocket frames received", ["market"])
FEED_TRADES = Counter("tapewatch_feed_trades_total", "Trades decoded and new", ["market"])
FEED_REFUSED = Counter("tapewatch_feed_refused_total", "Events that became no record, by reason", ["reason"])
FEED_RECONNECTS = Counter("tapewatch_feed_reconnects_total", "Connections that ended, by cause", ["market", "cause"])
FEED_GAPS = Counter("tapewatch_feed_gaps_total", "Gaps recorded", ["market"])
FEED_FILLS = Counter("tapewatch_feed_gap_fills_total", "Gaps that were filled, or partially", ["market", "state"])
FEED_FETCHED = Counter("tapewatch_feed_fetched_trades_total", "New trades that came by REST", ["market", "when"])
FEED_UNKNOWN_CONDITIONS = Counter(
    "tapewatch_feed_unknown_conditions_total", "Trades with a condition code that no table knows, by code", ["code"]
)
BARS_COMPARED = Counter("tapewatch_bars_compared_total", "Our minute bars held against the exchange's", ["market"])
BARS_DIFFERENT = Counter(
    "tapewatch_bars_different_total", "Those that differ, by the number that does", ["market", "field"]
)
FEED_LAG = Gauge("tapewatch_feed_lag_seconds", "Receive time less event time of the newest trade", ["market"])
FEED_LAGGING = Gauge("tapewatch_feed_lagging", "1 while what the feed brings is older than allowed", ["market"])
FEED_DELAY = Gauge("tapewatch_feed_delay_seconds", "How late the market's data is by the plan", ["market"])
FEED_TOPICS = Gauge("tapewatch_feed_topics", "Topics by what is known of their subscription", ["market", "state"])
FEED_QUEUE_BYTES = Told("tapewatch_feed_queue_bytes", "Frames waiting to be decoded")
FEED_QUEUE_PEAK = Told("tapewatch_feed_queue_peak_bytes", "The most that waited at once since the start")
FEED_QUEUE_FULL = Counter("tapewatch_feed_queue_full_total", "Times the queue became full, so that reading waited")
FEED_QUEUE_LIMIT = Told("tapewatch_feed_queue_limit_bytes", "How much may wait; then the exchange's sender is slowed")
FEED_QUEUE_LIMIT.set(QUEUE_BYTES_MAX)
CAPTURE_FRAMES = Counter("tapewatch_capture_frames_total", "Frames written to a raw capture")
CAPTURE_BYTES = Counter("tapewatch_capture_bytes_total", "Bytes of raw captures, as they lie on the disk")
CAPTURE_LOST = Counter("tapewatch_capture_lost_frames_total", "Frames that a raw capture had to leave out")
# log
LOG_RECORDS = Counter("tapewatch_log_records_total", "Records made durable in the log")
LOG_APPEND_SECONDS = Histogram("tapewatch_log_append_seconds", "One durable append", buckets=_LATENCY_S)
LOG_BYTES = Told("tapewatch_log_bytes", "Size of the log's files")
LOG_END = Told("tapewatch_log_end_offset", "Offset after the log's last record")
LOG_OLDEST = Told("tapewatch_log_oldest_timestamp_seconds", "Event time of the oldest record of a log that is here")
DISK_FREE = Told("tapewatch_disk_free_bytes", "Room left on the disk of DATA_DIR")
DISK_FREE_LIMIT = Told("tapewatch_disk_free_limit_bytes", "With less room than this the log is said to be low")
DISK_FREE_LIMIT.set(DISK_FREE_BYTES_MIN)
KAFKA_DELIVERED = Counter("tapewatch_kafka_delivered_total", "Messages that Kafka has acknowledged")
KAFKA_FAILED = Counter("tapewatch_kafka_failed_total", "Messages that Kafka has refused, by its reason", ["reason"])
KAFKA_QUEUE = Told("tapewatch_kafka_queue_messages", "Messages waiting for Kafka's acknowledgement")
KAFKA_QUEUE_FULL = Counter("tapewatch_kafka_queue_full_total", "Times the recording waited since that queue was full")
KAFKA_WAITING = Told("tapewatch_kafka_waiting", "1 while the recording waits for Kafka longer than KAFKA_DEADLINE")
KAFKA_REJECTED = Counter("tapewatch_kafka_rejected_total", "Messages of the topic that could not be read")
KAFKA_LAG = Gauge(
    "tapewatch_kafka_lag_records",
    "Records of a lane that the engine has not taken",
    ["lane"],
    multiprocess_mode="mostrecent",
)
# engine
ENGINE_POSITION = Told("tapewatch_engine_position_offset", "Offset up to which the engine has consumed the log")
LANE_POSITION = Gauge(
    "tapewatch_lane_position_offset",
    "Offset up to which a lane is in the database",
    ["lane"],
    multiprocess_mode="mostrecent",
)
SPARK_BATCH_SECONDS = Histogram(
    "tapewatch_spark_batch_seconds", "One batch of the Spark job", buckets=(*_LATENCY_S, 30.0, 60.0)
)
SPARK_BATCH_RECORDS = Told("tapewatch_spark_batch_records", "Messages of the newest batch")
SPARK_STATE_ROWS = Told("tapewatch_spark_state_rows", "Rows of Spark's state store")
SPARK_STATE_BYTES = Told("tapewatch_spark_state_bytes", "Memory of Spark's state store")
ENGINE_DECISIONS = Counter("tapewatch_engine_trades_total", "Trades by what the engine decided", ["decision"])
ENGINE_ALERTS = Counter("tapewatch_engine_alerts_total", "Alerts by kind and status", ["kind", "status"])
# store
STORE_COMMIT_SECONDS = Histogram("tapewatch_store_commit_seconds", "One commit to the database", buckets=_LATENCY_S)
STORE_ROWS = Counter("tapewatch_store_rows_total", "Rows written, by table", ["table"])
STORE_REFUSED = Counter("tapewatch_store_refused_rows_total", "Rows the database refused, set aside", ["table"])
STORE_UP = Told("tapewatch_store_up", "1 while the database answers, else 0")
STORE_LAG = Told("tapewatch_store_lag_seconds", "Age of the newest committed record, from its receipt")
# serve
STREAM_CLIENTS = Told("tapewatch_stream_clients", "Open live streams")
HTTP_SECONDS = Histogram(
    "tapewatch_http_request_seconds", "HTTP requests, by route and status", ["route", "status"], buckets=_LATENCY_S
)
# notify
NOTIFY_SENT = Counter(
    "tapewatch_notify_deliveries_total", "Deliveries tried, by channel and result", ["channel", "result"]
)
NOTIFY_GATE = Counter(
    "tapewatch_notify_gate_total", "Notifications by what became of them before they are sent", ["state"]
)
NOTIFY_STARTS = Counter("tapewatch_notify_starts_total", "Times the sender's process was started")
NOTIFY_WAITING = Told("tapewatch_notify_waiting", "Notifications waiting for delivery")
NOTIFY_OLDEST = Told(
    "tapewatch_notify_oldest_waiting_timestamp_seconds", "When the oldest notification that waits was written, else 0"
)
NOTIFY_DEAD = Told("tapewatch_notify_dead", "Notifications given up: see the table notifications")
SYSTEM_DOWN = Told("tapewatch_system_down", "Rooms that are down, and were told of")
PINGS = Counter("tapewatch_pings_total", "Pings of the dead man's switch, by result", ["result"])


class Recent:
    """The newest durations of each kind, for percentiles that histograms are too coarse for. For any thread."""

    def __init__(self, most: int = 1_000) -> None:
        self._newest: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=most))
        self._counts: defaultdict[str, int] = defaultdict(int)

    def note(self, kind: str, seconds: float) -> None:
        """One more of that kind."""
        self._newest[kind].append(seconds)
        self._counts[kind] += 1

    def summary(self, kind: str) -> dict[str, float | int | str | None]:
        """name, count since the start, and p50_ms, p99_ms, last_ms of the newest ones; None where there was none."""
        newest = list(self._newest.get(kind, ()))
        ordered = sorted(newest)

        def ms(values: list[float], share: float) -> float | None:
            return round(1_000 * values[min(len(values) - 1, int(share * len(values)))], 3) if values else None

        return {
            "name": kind,
            "count": self._counts.get(kind, 0),
            "p50_ms": ms(ordered, 0.5),
            "p99_ms": ms(ordered, 0.99),
            "last_ms": ms(newest, 1.0),
        }

    def kinds(self, prefix: str) -> list[str]:
        """Those that were noted and begin so, in order."""
        return sorted(kind for kind in list(self._newest) if kind.startswith(prefix))


RECENT: Final = Recent()


@contextmanager
def timed(histogram: Histogram, kind: str) -> Iterator[None]:
    """Time the block for both: the histogram always, the newest of its kind when it was done."""
    started_s = time.perf_counter()
    with histogram.time():
        yield
        RECENT.note(kind, time.perf_counter() - started_s)
