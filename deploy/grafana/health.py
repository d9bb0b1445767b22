"""System Health: is it well? Prometheus for the processes, the database for gaps and quality."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from . import board as b
from . import panels as p
from . import promql, sql

UID: Final = "tapewatch-health"
_COUNTS: Final = ("excluded", "late", "future")


def health() -> Dashboard:
    processes = [
        _state(),
        _notifications(),
        _behind(),
        _trades(),
        _lag(),
        _durations(),
        _decisions(),
        _sizes(),
        _kafka(),
    ]
    return b.board(
        UID,
        "System Health",
        "Rates, lags, commit times and sizes of Tapewatch's processes; gaps of the feeds and quality of the minutes.",
        [*processes, _grades(), _counts(), _gaps(), _quality()],
        [b.symbol()],
        route="health",
    )


def _state() -> p.Panel:
    return p.dress(
        p.number("lastNotNull").mappings([p.UP_DOWN]).thresholds(p.steps((None, "red"), (1, "green"))),
        1,
        "Feeds and database",
        "Whether each market's feed is live and the database answers. Nothing here: Prometheus reaches no process.",
        (0, 0, 10, 4),
        [
            p.prometheus(promql.FEED_CONNECTED, "feed {{market}}"),
            p.prometheus(promql.STORE_UP, "database", "B"),
        ],
        unit="none",
    )


def _notifications() -> p.Panel:
    panel = p.dress(
        p.number("lastNotNull").thresholds(p.steps((None, "green"), (20, "yellow"), (100, "red"))),
        2,
        "Notifications",
        "Waiting for delivery, and given up: the latter are in the table notifications with their last error.",
        (10, 0, 8, 4),
        [p.prometheus(promql.NOTIFY_WAITING, "waiting"), p.prometheus(promql.NOTIFY_DEAD, "given up", "B")],
    )
    dead = {"mode": "absolute", "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1}]}
    return panel.override_by_name("given up", p.props(thresholds=dead))


def _behind() -> p.Panel:
    return p.dress(
        p.number("lastNotNull").thresholds(p.steps((None, "green"), (10_000, "yellow"), (100_000, "red"))),
        3,
        "Records behind",
        "Records in the log, or in Kafka's topic, that the engine has not consumed yet.",
        (18, 0, 6, 4),
        [p.prometheus(promql.BEHIND, "records")],
    )


def _trades() -> p.Panel:
    return p.dress(
        p.lines(fill=10),
        4,
        "Trades received",
        "New trades of each market per second, and events that became no record.",
        (0, 4, 12, 7),
        [p.prometheus(promql.TRADES, "{{market}}"), p.prometheus(promql.REFUSED, "refused", "B")],
        unit="cps",
    )


def _lag() -> p.Panel:
    return p.dress(
        p.lines(),
        5,
        "Lag",
        "Feed: receipt less event time of the newest trade (15 minutes on delayed plans). Database: age of the newest "
        "committed record, from its receipt.",
        (12, 4, 12, 7),
        [p.prometheus(promql.FEED_LAG, "feed {{market}}"), p.prometheus(promql.STORE_LAG, "database", "B")],
        unit="s",
    )


def _durations() -> p.Panel:
    return p.dress(
        p.lines(),
        6,
        "Durations (99 of 100 are below)",
        "One durable append to the log, one commit to the database, one request to the API, one batch of Spark.",
        (0, 11, 12, 7),
        [
            p.prometheus(promql.APPEND_P99, "log append"),
            p.prometheus(promql.COMMIT_P99, "commit", "B"),
            p.prometheus(promql.HTTP_P99, "request", "C"),
            p.prometheus(promql.SPARK_P99, "Spark batch", "D"),
        ],
        unit="s",
    )


def _decisions() -> p.Panel:
    return p.dress(
        p.lines(stacked=True, fill=30),
        7,
        "What the engine decided",
        "Trades per second by decision: those that count, the late, those from the future, those that may set nothing.",
        (12, 11, 12, 7),
        [p.prometheus(promql.DECISIONS, "{{decision}}")],
        unit="cps",
    )


def _sizes() -> p.Panel:
    panel = p.dress(
        p.lines(),
        8,
        "Queue, log and open pages",
        "Frames that wait to be decoded, the size of the log's files, and open live streams (right axis).",
        (0, 18, 12, 7),
        [
            p.prometheus(promql.QUEUE_BYTES, "queue"),
            p.prometheus(promql.LOG_BYTES, "log", "B"),
            p.prometheus(promql.STREAMS, "streams", "C"),
        ],
        unit="bytes",
    )
    return panel.override_by_name("streams", p.props(unit="short", custom__axisPlacement="right"))


def _kafka() -> p.Panel:
    panel = p.dress(
        p.lines(),
        13,
        "Kafka and Spark",
        "Records of each lane that the engine has not taken, messages of the newest batch, and rows of Spark's state "
        "(right axis). Empty where the log is a file: see Records behind.",
        (0, 25, 24, 6),
        [
            p.prometheus(promql.KAFKA_LAG, "lag of lane {{lane}}"),
            p.prometheus(promql.SPARK_RECORDS, "batch", "B"),
            p.prometheus(promql.SPARK_ROWS, "state rows", "C"),
        ],
    )
    return panel.override_by_name("state rows", p.props(custom__axisPlacement="right"))


def _grades() -> p.Panel:
    return p.dress(
        p.states().mappings([p.GRADES]),
        9,
        "$symbol: grade of the minutes",
        "A: no gap and at most 1 % late. B: more late. C: gap under 10 s. D: gap of 10 s or more. The worst of each "
        "point.",
        (12, 18, 12, 3),
        [p.sql(sql.GRADES)],
    ).with_transformation(p.only("time", "grade"))


def _counts() -> p.Panel:
    return p.dress(
        p.lines(bars=True, stacked=True),
        10,
        "$symbol: trades that are in no bar, or set no price",
        "Late and future trades are in no bar; excluded ones may set no price.",
        (12, 21, 12, 4),
        [p.rows_of(9)],
    ).with_transformation(p.only("time", *_COUNTS))


def _gaps() -> p.Panel:
    panel = p.dress(
        p.listing(),
        11,
        "Gaps of the feeds",
        "Stretches of event time in which trades may be missing, newest first, 200 at most. Backfilled: fetched since.",
        (0, 31, 12, 8),
        [p.sql(sql.GAPS)],
        unit="none",
    )
    panel = panel.override_by_name("gap_from", p.props(displayName="from"))
    panel = panel.override_by_name("gap_to", p.props(displayName="to"))
    return panel.override_by_name("seconds", p.props(displayName="length", unit="s"))


def _quality() -> p.Panel:
    panel = p.dress(
        p.listing(),
        12,
        "Quality of each symbol",
        "The worst first, 100 at most. Of the last 6 hours of the range, so that a long range stays fast.",
        (12, 31, 12, 8),
        [p.sql(sql.QUALITY)],
    )
    panel = panel.override_by_name("worst", p.props(mappings=[p.GRADES], custom__displayMode="color-text"))
    return panel.override_by_name("gap_ms", p.props(displayName="gap", unit="ms"))
