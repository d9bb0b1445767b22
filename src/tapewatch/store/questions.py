"""The SQL of the readers: every statement is a constant, every value a parameter."""

from __future__ import annotations

from typing import Final

SESSION: Final = """
SELECT set_config('default_transaction_read_only', 'on', false), set_config('statement_timeout', %s, false),
       set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false),
       set_config('plan_cache_mode', 'force_custom_plan', false)
"""
"""Each question is planned for its own values, in half a millisecond. One plan for all values, which the server takes
after five times, needed ten times as long for alerts: most filters are off."""

PING: Final = "SELECT 1 AS one"

STOCKS: Final = """
SELECT p.symbol, p.market, p."timestamp", p.received_at, p.price, p.ma_5min, p.total_volume, p.side, d.trend,
       p.day_open, p.day_high, p.day_low, p.day_volume, p.previous_close, p.watermark,
       p.trades, p.ineligible, p.late, p.future, p.unknown_conditions
FROM latest_prices p JOIN latest_stock_data d USING (symbol)
WHERE %(symbol)s::text IS NULL OR p.symbol = %(symbol)s
ORDER BY p.symbol
"""

_GAPS_OF_SYMBOL: Final = """
place AS (
  SELECT COALESCE(max(market), 'stocks') AS market, max(watermark) AS watermark,
         CASE WHEN max(market) = 'crypto' THEN 'UTC' ELSE 'America/New_York' END AS zone
  FROM latest_prices WHERE symbol = %(symbol)s
), gaps AS MATERIALIZED (
  SELECT g.gap_from, g.gap_to FROM place JOIN feed_gaps g USING (market)
  WHERE NOT g.backfilled AND (g.symbols = '{}' OR %(symbol)s = ANY (g.symbols))
    AND (g.missing = '{}' OR %(symbol)s = ANY (g.missing))
)
"""
_BARS_BETWEEN: Final = """
  b.symbol = %(symbol)s
    AND b.bar_start >= to_timestamp(%(from_ms)s / 1000.0) AND b.bar_start < to_timestamp(%(to_ms)s / 1000.0)
"""

HISTORY_OF_PANES: Final = f"""
WITH {_GAPS_OF_SYMBOL}
SELECT b.bar_start AS "time", b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trade_count, a.ma_5min, b.is_final,
       EXISTS (SELECT FROM gaps g WHERE g.gap_from < b.bar_start + %(slide_ms)s * INTERVAL '1 ms'
                                    AND g.gap_to > b.bar_start) AS partial
FROM (SELECT * FROM price_bars b WHERE {_BARS_BETWEEN} ORDER BY b.bar_start DESC LIMIT %(limit)s) b
LEFT JOIN stock_aggregates a ON a.symbol = %(symbol)s
  AND a.window_start = b.bar_start + (%(slide_ms)s - %(window_ms)s::int8) * INTERVAL '1 ms'
ORDER BY b.bar_start
"""  # noqa: S608 - constants
"""The bars as they are stored."""

_HISTORY: Final = f"""
WITH {_GAPS_OF_SYMBOL}, buckets AS (
  SELECT CASE WHEN %(is_day)s THEN date_trunc('day', b.bar_start, place.zone)
              ELSE date_bin(%(step_ms)s * INTERVAL '1 ms', b.bar_start, TIMESTAMPTZ '1970-01-01 00:00+00')
         END AS bucket,
         (array_agg(b.open ORDER BY b.bar_start))[1] AS open, max(b.high) AS high, min(b.low) AS low,
         (array_agg(b.close ORDER BY b.bar_start))[count(*)] AS close, max(b.bar_start) AS last_start,
         sum(b.volume) AS volume,
         CASE WHEN count(*) = 1 THEN max(b.vwap) ELSE sum(b.vwap * b.volume) / NULLIF(sum(b.volume), 0) END AS vwap,
         sum(b.trade_count)::int8 AS trade_count, bool_and(b.is_final) AS is_final
  FROM place, (SELECT * FROM price_bars b WHERE {_BARS_BETWEEN} NEWEST) b
  GROUP BY 1
), spans AS (
  SELECT buckets.*, place.watermark,
         CASE WHEN %(is_day)s THEN (bucket AT TIME ZONE place.zone + INTERVAL '1 day') AT TIME ZONE place.zone
              ELSE bucket + %(step_ms)s * INTERVAL '1 ms' END AS bucket_end
  FROM buckets, place ORDER BY bucket DESC LIMIT %(limit)s
)
SELECT s.bucket AS "time", s.open, s.high, s.low, s.close, s.volume, s.vwap, s.trade_count,
       (SELECT a.ma_5min FROM stock_aggregates a WHERE a.symbol = %(symbol)s AND a.window_start
          = s.last_start + (%(slide_ms)s - %(window_ms)s::int8) * INTERVAL '1 ms') AS ma_5min,
       s.is_final AND COALESCE(watermark >= bucket_end, false) AS is_final,
       EXISTS (SELECT FROM gaps g WHERE g.gap_from < bucket_end AND g.gap_to > s.bucket) AS partial
FROM spans s ORDER BY s.bucket
"""  # noqa: S608 - the same
"""The bars are read once and summed up as they come. The average at each end is looked up by key: the server cannot
guess how few intervals there are, and would join the whole table with them."""
HISTORY_OF_SPAN: Final = _HISTORY.replace("NEWEST", "")
"""Intervals of several bars, all of a span of time: to be asked where no more than ``limit`` intervals fit into it."""
HISTORY_OF_NEWEST: Final = _HISTORY.replace("NEWEST", "ORDER BY b.bar_start DESC LIMIT %(bars_max)s")
"""The same where more may be there than are wanted: no more bars are read than ``limit`` intervals can have."""

INDICATORS: Final = """
SELECT symbol, bar_start AS "time", close, rsi_14, macd, macd_signal, macd_histogram, bollinger_middle, bollinger_upper,
       bollinger_lower, atr_14, relative_volume, is_final
FROM get_indicators(%(symbol)s, to_timestamp(%(from_ms)s / 1000.0), to_timestamp(%(to_ms)s / 1000.0), %(limit)s::int)
"""

OVERVIEW: Final = """
SELECT p.symbol, p.market, newest.bar_start - (%(panes)s - 1) * %(slide_ms)s::int8 * INTERVAL '1 ms' AS "from",
       closes.places, closes.closes, quality.*
FROM latest_prices p
LEFT JOIN LATERAL (
  SELECT bar_start FROM price_bars WHERE symbol = p.symbol ORDER BY bar_start DESC LIMIT 1
) newest ON true
LEFT JOIN LATERAL (
  SELECT array_agg((%(panes)s - 1 - extract(epoch FROM newest.bar_start - b.bar_start) * 1000 / %(slide_ms)s)::int4)
           AS places, array_agg(b.close) AS closes
  FROM price_bars b
  WHERE b.symbol = p.symbol AND b.bar_start > newest.bar_start - %(panes)s * %(slide_ms)s::int8 * INTERVAL '1 ms'
) closes ON true
LEFT JOIN LATERAL (
  SELECT max(q.grade) AS grade, sum(q.trades)::int8 AS trades, sum(q.excluded)::int8 AS excluded,
         sum(q.late)::int8 AS late, sum(q.future)::int8 AS future, sum(q.gap_ms)::int8 AS gap_ms
  FROM quality_grades q
  WHERE q.symbol = p.symbol AND q.minute > (SELECT max(minute) FROM minute_quality m WHERE m.symbol = p.symbol)
                                           - %(window_ms)s::int8 * INTERVAL '1 ms'
) quality ON true
ORDER BY p.symbol
"""
"""The closes of the last panes, by their place among them, and the worst grade of the minutes in the window."""

ALERTS: Final = """
SELECT a.alert_id, a.rule, a.rule_version, a.kind, a.symbol, a.direction, a.status, a.pane_start, a.triggered_at,
       a.decided_at, a.confirmed_at, a.retracted_at, a.price, a.line, a.late, a.log_offset, a.evidence, a.stored_at,
       a.changed_at, m.acknowledged_at, m.acknowledged_by, m.note, COALESCE(d.deliveries, '[]') AS deliveries
FROM breakout_alerts a
LEFT JOIN alert_marks m ON m.alert_id = a.alert_id AND m.acknowledged_at IS NOT NULL
LEFT JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_object('channel', n.channel, 'event', n.event, 'state', n.state,
                                      'attempts', n.attempts, 'last_error', n.last_error,
                                      'delivered_at', n.delivered_at, 'reason', n.reason,
                                      'held_until', n.held_until, 'told_by', n.told_by)
                   ORDER BY n.created_at, n.id) AS deliveries
  FROM notifications n WHERE n.alert_id = a.alert_id
) d ON true
WHERE (%(alert_id)s::text IS NULL OR a.alert_id = %(alert_id)s)
  AND (%(symbol)s::text IS NULL OR a.symbol = %(symbol)s)
  AND (%(kind)s::text IS NULL OR a.kind = %(kind)s)
  AND (%(rule)s::text IS NULL OR a.rule = %(rule)s)
  AND (%(status)s::text IS NULL OR a.status = %(status)s)
  AND a.triggered_at >= to_timestamp(%(from_ms)s / 1000.0) AND a.triggered_at < to_timestamp(%(before_ms)s / 1000.0)
ORDER BY a.triggered_at DESC, a.alert_id LIMIT %(limit)s
"""

GAPS: Final = """
SELECT market, gap_from, gap_to, cause, symbols, state, backfilled, trades, later, missing, log_position
FROM feed_gaps ORDER BY gap_to DESC, market, gap_from LIMIT %(limit)s
"""

QUALITY: Final = """
SELECT * FROM (
  SELECT symbol, minute, trades, excluded, late, future, gap_ms, grade FROM quality_grades
  WHERE symbol = %(symbol)s
    AND minute >= to_timestamp(%(from_ms)s / 1000.0) AND minute < to_timestamp(%(to_ms)s / 1000.0)
  ORDER BY minute DESC LIMIT %(limit)s
) newest ORDER BY minute
"""

NOTIFICATIONS: Final = """
SELECT id, alert_id, channel, event, payload, state, attempts, next_attempt_at, created_at, delivered_at, last_error,
       reason, held_until, told_by, passed_at, resent
FROM notifications WHERE %(state)s::text IS NULL OR state = %(state)s
ORDER BY created_at DESC, id LIMIT %(limit)s
"""

MUTES: Final = """
SELECT mute_id, rule, symbol, channel, muted_from, muted_to, muted_by, note
FROM alert_mutes WHERE muted_to > clock_timestamp() ORDER BY muted_to, mute_id LIMIT %(limit)s
"""

CHANNELS: Final = """
SELECT h.channel, h.kind, h.accepted_at, h.failed_at, h.last_error, h.failures, h.paused_until, h.updated_at,
       COALESCE(n.waiting, 0) AS waiting, COALESCE(n.held, 0) AS held, COALESCE(n.dead, 0) AS dead,
       COALESCE(n.delivered_24h, 0) AS delivered_24h
FROM channel_health h LEFT JOIN (
  SELECT channel, count(*) FILTER (WHERE state IN ('new', 'waiting') AND event <> 'expired') AS waiting,
         count(*) FILTER (WHERE state = 'held') AS held, count(*) FILTER (WHERE state = 'dead') AS dead,
         count(*) FILTER (WHERE delivered_at > now() - INTERVAL '1 day') AS delivered_24h
  FROM notifications GROUP BY channel
) n USING (channel)
ORDER BY h.channel
"""

SYSTEM_ALERTS: Final = """
SELECT s.system_id, s.rule, s.room, s.state, s.began_at, s.announced_at, s.recovered_at, s.detail,
       m.acknowledged_at, m.acknowledged_by, m.note
FROM system_alerts s LEFT JOIN alert_marks m ON m.alert_id = s.system_id AND m.acknowledged_at IS NOT NULL
ORDER BY s.state = 'down' DESC, s.began_at DESC, s.system_id LIMIT %(limit)s
"""

LANES: Final = "SELECT lane, log_id, origin, position, snapshot_position, updated_at FROM engine_state ORDER BY lane"

VITALS: Final = """
SELECT pg_database_size(current_database()) AS bytes, current_setting('server_version') AS postgres,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb,
       (SELECT count(*) FROM notifications WHERE state IN ('new', 'waiting') AND event <> 'expired') AS waiting,
       (SELECT count(*) FROM notifications WHERE state = 'held') AS held,
       (SELECT count(*) FROM notifications WHERE state = 'dead') AS dead,
       (SELECT count(*) FROM notifications WHERE delivered_at > now() - INTERVAL '1 day') AS delivered_24h,
       (SELECT min(COALESCE(passed_at, created_at)) FROM notifications
         WHERE state IN ('new', 'waiting') AND event <> 'expired') AS oldest_waiting_at
"""

COUNTS: Final = """
WITH estimate AS (
  SELECT relname, reltuples::int8 AS rows FROM pg_class
  WHERE oid IN ('stock_aggregates'::regclass, 'price_bars'::regclass, 'minute_quality'::regclass) AND reltuples > 200000
)
SELECT COALESCE((SELECT rows FROM estimate WHERE relname = 'stock_aggregates'),
                (SELECT count(*) FROM stock_aggregates)) AS stock_aggregates,
       COALESCE((SELECT rows FROM estimate WHERE relname = 'price_bars'),
                (SELECT count(*) FROM price_bars)) AS price_bars,
       COALESCE((SELECT rows FROM estimate WHERE relname = 'minute_quality'),
                (SELECT count(*) FROM minute_quality)) AS minute_quality,
       (SELECT count(*) FROM breakout_alerts) AS breakout_alerts,
       (SELECT count(*) FROM latest_prices) AS latest_prices,
       (SELECT count(*) FROM feed_gaps) AS feed_gaps,
       (SELECT count(*) FROM notifications) AS notifications,
       (SELECT count(*) FROM notifications
         WHERE state IN ('new', 'waiting') AND event <> 'expired') AS notifications_waiting,
       (SELECT count(*) FROM notifications WHERE state = 'dead') AS notifications_dead,
       (SELECT count(*) FROM refused_rows) AS refused_rows
"""
"""A table of more than 200,000 rows is not counted but estimated, as of the last vacuum."""

# --- following what others commit (`following.py`) ---------------------------------------------------------------

FOLLOW: Final = "LISTEN tapewatch_commit"

FOLLOW_STATE: Final = """
SELECT (SELECT array_agg(lane ORDER BY lane) FROM engine_state),
       (SELECT array_agg(position ORDER BY lane) FROM engine_state),
       (SELECT min(log_id) FROM engine_state), (SELECT min(origin) FROM engine_state),
       p.trades, (SELECT count(*) FROM feed_gaps), p.markets, p.newest_us,
       (SELECT (extract(epoch FROM max(changed_at)) * 1000000)::int8 FROM breakout_alerts),
       pg_snapshot_xmin(pg_current_snapshot())::text
FROM (SELECT COALESCE(sum(taken), 0)::int8 AS trades, array_agg(market ORDER BY market) AS markets,
             array_agg((extract(epoch FROM received_at) * 1000000)::int8 ORDER BY market) AS newest_us
      FROM (SELECT market, sum(trades + ineligible + late + future) AS taken, max(received_at) AS received_at
            FROM latest_prices GROUP BY market) m) p
"""

FOLLOW_PRICES: Final = """
SELECT symbol, array_position('{stocks,crypto,options,futures,forex,indices}'::text[], market) - 1,
       COALESCE((extract(epoch FROM "timestamp") * 1000)::int8, 0),
       COALESCE((extract(epoch FROM received_at) * 1000000)::int8, 0) * 1000, price, ma_5min, total_volume, side::int4,
       day_open, day_high, day_low, day_volume, previous_close,
       COALESCE((extract(epoch FROM watermark) * 1000)::int8, 0), trades, ineligible, late, future, unknown_conditions
FROM latest_prices WHERE %(all)s::bool OR age(xmin) <= age(%(mark)s::text::xid)
"""
"""Rows of `records.LATEST_ROW` written by transactions that had not ended when ``mark`` was the oldest of them.

The place of a market's name among the six is its number in `records.Market`.
"""

FOLLOW_BARS: Final = """
SELECT b.symbol, (extract(epoch FROM b.bar_start) * 1000)::int8, b.open, b.high, b.low, b.close, b.volume, b.vwap,
       b.trade_count, b.is_final, b.revision, a.ma_5min
FROM unnest(%(symbols)s::text[], %(from_ms)s::int8[]) AS w (symbol, from_ms)
JOIN price_bars b ON b.symbol = w.symbol AND b.bar_start >= to_timestamp(w.from_ms / 1000.0)
LEFT JOIN stock_aggregates a ON a.symbol = b.symbol
  AND a.window_start = b.bar_start - %(window_less_slide_ms)s::int8 * INTERVAL '1 ms'
WHERE b.bar_start >= to_timestamp(%(oldest_ms)s::int8 / 1000.0)
ORDER BY b.bar_start DESC LIMIT %(limit)s
"""
"""Rows of `records.BAR_ROW`, and the average of the window that ends with the bar."""

FOLLOW_ALERTS: Final = """
SELECT alert_id, rule, rule_version, kind, symbol, direction::int4, status,
       (extract(epoch FROM pane_start) * 1000)::int8, (extract(epoch FROM triggered_at) * 1000)::int8,
       (extract(epoch FROM decided_at) * 1000)::int8, COALESCE(price, 'NaN'), COALESCE(line, 'NaN'), late, log_offset,
       evidence::text, extract(epoch FROM clock_timestamp() - changed_at)::float8,
       extract(epoch FROM clock_timestamp() - stored_at)::float8
FROM (SELECT * FROM breakout_alerts
      WHERE changed_at > clock_timestamp() - %(age_s)s::float8 * INTERVAL '1 s'
      ORDER BY changed_at DESC LIMIT %(limit)s) newest
ORDER BY changed_at, alert_id
"""
