"""Every SQL query of the dashboards and alert rules, once. They run as a member of the role tapewatch_grafana.

Each is bounded: by $__timeFilter and a bucket no shorter than Grafana's $__interval (the range divided by the panel's
greatest number of points), or by a LIMIT. `date_bin` instead of Grafana's $__timeGroup, since it gives the same on
plain PostgreSQL and on TimescaleDB, whatever the data source's TimescaleDB switch says.
"""

# ruff: noqa: S608 - parts of these texts are constants of this file; what people choose, Grafana quotes (:sqlstring)

from __future__ import annotations

from typing import Final

SYMBOL: Final = "${symbol:sqlstring}"
_SPAN: Final = "GREATEST('${interval}'::interval, $__interval_ms * INTERVAL '1 ms')"
_POINT: Final = "$__interval_ms * INTERVAL '1 ms'"
_ORIGIN: Final = "TIMESTAMPTZ '2000-01-03 00:00+00'"

SYMBOLS: Final = "SELECT symbol FROM latest_stock_data ORDER BY symbol"

WATCHLIST: Final = """\
SELECT symbol, current_price, ma_5min, 100 * (current_price / NULLIF(ma_5min, 0) - 1) AS distance, total_volume, trend,
       "timestamp" AS last_trade
FROM latest_stock_data
ORDER BY symbol
LIMIT 500"""

CANDLES: Final = f"""\
WITH bars AS (
  SELECT date_bin({_SPAN}, bar_start, {_ORIGIN}) AS "time", max(high) AS high, min(low) AS low, sum(volume) AS volume,
         sum(vwap * volume) / NULLIF(sum(volume), 0) AS vwap,
         min(bar_start) FILTER (WHERE open IS NOT NULL) AS first,
         max(bar_start) FILTER (WHERE close IS NOT NULL) AS last
  FROM price_bars
  WHERE symbol = {SYMBOL} AND $__timeFilter(bar_start)
  GROUP BY 1
)
SELECT bars."time",
       (SELECT open FROM price_bars WHERE symbol = {SYMBOL} AND bar_start = bars.first) AS open, bars.high, bars.low,
       (SELECT close FROM price_bars WHERE symbol = {SYMBOL} AND bar_start = bars.last) AS close,
       bars.volume, bars.vwap,
       (SELECT ma_5min FROM stock_aggregates
        WHERE symbol = {SYMBOL} AND window_start = bars.last - INTERVAL '${{lead}}') AS ma_5min
FROM bars
ORDER BY bars."time\""""
"""Bars of the chosen length. The average is that of the window that ends with the bar's last pane, and begins ``lead``
before that pane."""

INDICATORS: Final = f"""\
SELECT DISTINCT ON ("time") date_bin({_POINT}, bar_start, {_ORIGIN}) AS "time", close, bollinger_middle,
       bollinger_upper, bollinger_lower, rsi_14, macd, macd_signal, macd_histogram, atr_14, relative_volume
FROM get_indicators({SYMBOL}, $__timeFrom()::timestamptz, $__timeTo()::timestamptz, 5000)
ORDER BY "time", bar_start DESC"""
"""Indicators of the newest 5,000 bars of the range (more cost too much time): the last bar of each point."""

GRADES: Final = f"""\
SELECT date_bin({_POINT}, minute, {_ORIGIN}) AS "time", max(grade) AS grade, sum(excluded)::float8 AS excluded,
       sum(late)::float8 AS late, sum(future)::float8 AS future, sum(gap_ms)::float8 AS gap_ms
FROM quality_grades
WHERE symbol = {SYMBOL} AND $__timeFilter(minute)
GROUP BY 1
ORDER BY 1"""
"""The worst grade of each point ('D' is greater than 'A'), and what it comes from."""

QUALITY: Final = """\
SELECT symbol, max(grade) AS worst, sum(trades)::float8 AS trades, sum(excluded)::float8 AS excluded,
       sum(late)::float8 AS late, sum(future)::float8 AS future, sum(gap_ms)::float8 AS gap_ms
FROM quality_grades
WHERE minute >= GREATEST($__timeFrom()::timestamptz, $__timeTo()::timestamptz - INTERVAL '6 hours')
  AND minute <= $__timeTo()
GROUP BY symbol
ORDER BY worst DESC, gap_ms DESC, late DESC, symbol
LIMIT 100"""

GAPS: Final = """\
SELECT gap_from, gap_to, market, extract(epoch FROM gap_to - gap_from)::float8 AS seconds, cause, backfilled,
       CASE WHEN cardinality(symbols) = 0 THEN 'all' ELSE array_to_string(symbols[1:10], ', ') END AS symbols
FROM feed_gaps
WHERE gap_from <= $__timeTo() AND gap_to >= $__timeFrom()
ORDER BY gap_from DESC
LIMIT 200"""

_CHOSEN: Final = """\
WHERE $__timeFilter(triggered_at) AND symbol IN (${symbol:sqlstring}) AND kind IN (${kind:sqlstring})
  AND status IN (${status:sqlstring})"""

ALERTS: Final = f"""\
SELECT triggered_at, symbol, kind, status, price, line,
       CASE WHEN kind <> 'high_volume' THEN 100 * (price / NULLIF(line, 0) - 1) END AS distance,
       extract(epoch FROM decided_at - triggered_at)::float8 AS decided_after, late, rule, alert_id
FROM breakout_alerts
{_CHOSEN}
ORDER BY triggered_at DESC
LIMIT 500"""

ALERT_COUNTS: Final = f"""\
SELECT date_bin({_POINT}, triggered_at, {_ORIGIN}) AS "time",
       (count(*) FILTER (WHERE kind = 'golden_cross'))::float8 AS golden_cross,
       (count(*) FILTER (WHERE kind = 'death_cross'))::float8 AS death_cross,
       (count(*) FILTER (WHERE kind = 'high_volume'))::float8 AS high_volume,
       (count(*) FILTER (WHERE status = 'provisional'))::float8 AS provisional,
       (count(*) FILTER (WHERE status = 'confirmed'))::float8 AS confirmed,
       (count(*) FILTER (WHERE status = 'retracted'))::float8 AS retracted
FROM breakout_alerts
{_CHOSEN}
GROUP BY 1
ORDER BY 1"""

ALERT_SYMBOLS: Final = f"""\
SELECT symbol, count(*)::float8 AS alerts, (count(*) FILTER (WHERE status = 'confirmed'))::float8 AS confirmed,
       (count(*) FILTER (WHERE status = 'retracted'))::float8 AS retracted, max(triggered_at) AS last_alert
FROM breakout_alerts
{_CHOSEN}
GROUP BY symbol
ORDER BY alerts DESC, symbol
LIMIT 100"""


def marks(kind: str) -> str:
    """Annotations: the alerts of one kind of the chosen symbol."""
    return f"""\
SELECT triggered_at AS "time", concat_ws(' ', replace(kind, '_', ' '), status, 'at', round(price::numeric, 4)) AS text,
       concat_ws(',', kind, status) AS tags
FROM breakout_alerts
WHERE symbol = {SYMBOL} AND kind = '{kind}' AND $__timeFilter(triggered_at)
ORDER BY triggered_at DESC
LIMIT 200"""


def fresh(kind: str) -> str:
    """For an alert rule: symbols with a confirmed alert of this kind that was written in the last 5 minutes.

    Not what was late when it came, nor what a replay of an older day brings: that is no news.
    """
    return f"""\
SELECT symbol, count(*)::float8 AS alerts
FROM breakout_alerts
WHERE kind = '{kind}' AND status = 'confirmed' AND NOT late AND changed_at > now() - INTERVAL '5 minutes'
  AND triggered_at > now() - INTERVAL '1 hour'
GROUP BY symbol"""
