"""Every PromQL query of the dashboards and alert rules, once. The metrics: src/tapewatch/metrics.py."""

from __future__ import annotations

from typing import Final


def p99(histogram: str) -> str:
    """Seconds that 99 of 100 stay below."""
    return f"histogram_quantile(0.99, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


FEED_CONNECTED: Final = "min by (market) (tapewatch_feed_connected)"
STORE_UP: Final = "min(tapewatch_store_up)"
TRADES: Final = "sum by (market) (rate(tapewatch_feed_trades_total[$__rate_interval]))"
DECISIONS: Final = "sum by (decision) (rate(tapewatch_engine_trades_total[$__rate_interval]))"
REFUSED: Final = "sum(rate(tapewatch_feed_refused_total[$__rate_interval])) or vector(0)"
FEED_LAG: Final = "max by (market) (tapewatch_feed_lag_seconds)"
STORE_LAG: Final = "max(tapewatch_store_lag_seconds)"
BEHIND: Final = (
    "sum(max by (lane) (tapewatch_kafka_lag_records)) "
    "or max(tapewatch_log_end_offset) - max(tapewatch_engine_position_offset)"
)
"""Of all lanes where the log is Kafka, else of the one log."""
KAFKA_LAG: Final = "max by (lane) (tapewatch_kafka_lag_records)"
SPARK_RECORDS: Final = "max(tapewatch_spark_batch_records)"
SPARK_ROWS: Final = "max(tapewatch_spark_state_rows)"
SPARK_P99: Final = p99("tapewatch_spark_batch_seconds")
COMMIT_P99: Final = p99("tapewatch_store_commit_seconds")
APPEND_P99: Final = p99("tapewatch_log_append_seconds")
HTTP_P99: Final = p99("tapewatch_http_request_seconds")
QUEUE_BYTES: Final = "max(tapewatch_feed_queue_bytes)"
LOG_BYTES: Final = "max(tapewatch_log_bytes)"
NOTIFY_WAITING: Final = "max(tapewatch_notify_waiting)"
NOTIFY_DEAD: Final = "max(tapewatch_notify_dead)"
STREAMS: Final = "sum(tapewatch_stream_clients)"


def _named(expression: str, what: str) -> str:
    return f'label_replace({expression}, "what", "{what}", "", "")'


_STANDS: Final = (
    "max((sum by (instance, job) (increase(tapewatch_log_records_total[2m])) == bool 0) "
    "and on (instance, job) (max by (instance, job) (tapewatch_feed_connected) == 1))"
)
"""A connected feed records a tick each second, also when nobody trades."""
SYSTEM_DOWN: Final = "\nor ".join(
    (
        _named('max(1 - up{job=~"tapewatch.*"})', "a process does not answer"),
        _named("max(1 - tapewatch_store_up)", "the database does not answer"),
        _named("max(1 - tapewatch_feed_connected)", "a feed is not live"),
        _named(_STANDS, "nothing is recorded"),
        _named("max(tapewatch_kafka_waiting)", "Kafka does not answer"),
        _named("max(tapewatch_disk_free_bytes < bool tapewatch_disk_free_limit_bytes)", "the disk is nearly full"),
    )
)
"""1 for each thing that is down, else 0, with the label ``what``; nothing at all when nothing is measured."""
