"""Thirty days of fifty symbols, made in the database: what dashboards are tried and measured on."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg

from tapewatch.store.connect import Dsn

DAYS = 30
HOURS = 16
SYMBOLS = 50

BARS = """
INSERT INTO price_bars
SELECT 'S' || lpad(s::text, 2, '0'), minute, price, price + 0.5, price - 0.5, price + 0.2 * sin(n),
       100 + 50 * sin(n / 7.0), price, 20, true, 20
FROM generate_series(1, %(symbols)s) AS s,
     LATERAL (SELECT %(since)s::timestamptz + day * INTERVAL '1 day' + m * INTERVAL '1 minute' AS minute,
                     day * %(minutes)s + m AS n
              FROM generate_series(0, %(days)s - 1) AS day, generate_series(0, %(minutes)s - 1) AS m) AS t,
     LATERAL (SELECT 100 + s + 5 * sin(n / 200.0) AS price) AS p
"""
WINDOWS = """
INSERT INTO stock_aggregates
SELECT symbol, bar_start - INTERVAL '4 minutes', close, close, vwap, high, low, open, close, volume * 5, 100, true, 100
FROM price_bars
"""
QUALITY = """
INSERT INTO minute_quality
SELECT symbol, bar_start, 20, 2, (bar_start = date_trunc('hour', bar_start))::int, 0,
       CASE WHEN extract(epoch FROM bar_start)::int8 %% 21600 = 0 THEN 12000 ELSE 0 END
FROM price_bars
"""
LATEST = """
INSERT INTO latest_prices
SELECT DISTINCT ON (symbol) symbol, 'stocks', bar_start, bar_start, close, close - 0.1, volume, 1, open, high, low,
       volume, close, bar_start, 1000, 10, 5, 0, 0
FROM price_bars ORDER BY symbol, bar_start DESC
"""
ALERTS = """
INSERT INTO breakout_alerts (alert_id, rule, rule_version, kind, symbol, direction, status, pane_start, triggered_at,
                             decided_at, confirmed_at, price, line, late, log_offset, evidence)
SELECT 'a' || s || '-' || n, kind, '1', kind, 'S' || lpad(s::text, 2, '0'), 1,
       (ARRAY['confirmed', 'retracted', 'provisional', 'confirmed'])[n %% 4 + 1], at, at + INTERVAL '20 s',
       at + INTERVAL '62 s', at + INTERVAL '62 s', 101, 100, false, n, '{"band_bps": 5}'
FROM generate_series(1, %(symbols)s) AS s, generate_series(1, 600) AS n,
     LATERAL (SELECT %(until)s::timestamptz - n * INTERVAL '1 hour' + INTERVAL '59 minutes' AS at,
                     (ARRAY['golden_cross', 'death_cross', 'high_volume'])[n / 4 %% 3 + 1] AS kind) AS x
"""
FRESH = """
INSERT INTO breakout_alerts (alert_id, rule, rule_version, kind, symbol, direction, status, pane_start, triggered_at,
                             decided_at, confirmed_at, price, line, late, log_offset)
SELECT 'fresh-' || kind, kind, '1', kind, 'S01', 1, 'confirmed', at, at, at, at, 101, 100, false, 1
FROM unnest(ARRAY['golden_cross', 'death_cross', 'high_volume']) AS kind,
     LATERAL (SELECT now() - INTERVAL '1 minute' AS at) AS x
"""
GAPS = """
INSERT INTO feed_gaps
SELECT 'stocks', at, at + INTERVAL '12 s', 'disconnected', ARRAY['S01'], false, n
FROM generate_series(1, 120) AS n, LATERAL (SELECT %(until)s::timestamptz - n * INTERVAL '6 hours' AS at) AS x
"""


def symbols(count: int = SYMBOLS) -> list[str]:
    return [f"S{number:02}" for number in range(1, count + 1)]


def freshen(owner: Dsn) -> None:
    """Let the alerts of a minute ago be of a minute ago again: on a busy machine much time may have passed."""
    with psycopg.connect(owner.conninfo) as connection:
        connection.execute("DELETE FROM breakout_alerts WHERE alert_id LIKE 'fresh-%'")
        connection.execute(FRESH)


def fill_days(owner: Dsn, until: datetime, *, days: int = DAYS, hours: int = HOURS, count: int = SYMBOLS) -> datetime:
    """Fill the empty tables with ``days`` days of ``hours`` hours before ``until``; gives their first instant."""
    since = until - timedelta(days=days - 1, hours=hours)
    values = {"since": since, "until": until, "days": days, "minutes": hours * 60, "symbols": count}
    with psycopg.connect(owner.conninfo) as connection:
        for statement in (BARS, WINDOWS, QUALITY, LATEST, ALERTS, FRESH, GAPS):
            connection.execute(statement.encode(), values)
        connection.commit()
        connection.autocommit = True
        connection.execute(
            "VACUUM (ANALYZE) price_bars, stock_aggregates, minute_quality, breakout_alerts, latest_prices"
        )
    return since
