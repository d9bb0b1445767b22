"""The SQL of the writer: every statement is a constant, every value a parameter.

Row arrays come as one binary array per column (`arrays`). NaN and -infinity there mean "unknown" and become null; a
null in a key is refused by the table, which is how a row with a nonsensical time is found.
"""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 5
"""What `schema_version()` says of a database that this program can use."""
FIND_VERSION: Final = """
SELECT pg_has_role(p.proowner, 'USAGE') FROM pg_proc p WHERE p.oid = to_regprocedure('schema_version()')
"""
READ_VERSION: Final = "SELECT schema_version()"

BEGIN: Final = "BEGIN"
COMMIT: Final = "COMMIT"

UPSERT_WINDOWS: Final = """
INSERT INTO stock_aggregates AS t
  (symbol, window_start, avg_price, ma_5min, vwap, max_price, min_price, open_price, close_price,
   total_volume, trade_count, is_final, revision)
SELECT symbol, NULLIF(window_start, '-infinity'), NULLIF(avg_price, 'NaN'), NULLIF(ma_5min, 'NaN'), NULLIF(vwap, 'NaN'),
       NULLIF(max_price, 'NaN'), NULLIF(min_price, 'NaN'), NULLIF(open_price, 'NaN'), NULLIF(close_price, 'NaN'),
       NULLIF(total_volume, 'NaN'), trade_count, is_final, revision
FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
  AS n (symbol, window_start, avg_price, ma_5min, vwap, max_price, min_price, open_price, close_price,
        total_volume, trade_count, is_final, revision)
ON CONFLICT (symbol, window_start) DO UPDATE SET
  avg_price = excluded.avg_price, ma_5min = excluded.ma_5min, vwap = excluded.vwap, max_price = excluded.max_price,
  min_price = excluded.min_price, open_price = excluded.open_price, close_price = excluded.close_price,
  total_volume = excluded.total_volume, trade_count = excluded.trade_count, is_final = excluded.is_final,
  revision = excluded.revision
WHERE (excluded.revision, excluded.is_final) >= (t.revision, t.is_final)
"""

UPSERT_BARS: Final = """
INSERT INTO price_bars AS t
  (symbol, bar_start, open, high, low, close, volume, vwap, trade_count, is_final, revision)
SELECT symbol, NULLIF(bar_start, '-infinity'), NULLIF(open, 'NaN'), NULLIF(high, 'NaN'), NULLIF(low, 'NaN'),
       NULLIF(close, 'NaN'), NULLIF(volume, 'NaN'), NULLIF(vwap, 'NaN'), trade_count, is_final, revision
FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
  AS n (symbol, bar_start, open, high, low, close, volume, vwap, trade_count, is_final, revision)
ON CONFLICT (symbol, bar_start) DO UPDATE SET
  open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
  vwap = excluded.vwap, trade_count = excluded.trade_count, is_final = excluded.is_final, revision = excluded.revision
WHERE (excluded.revision, excluded.is_final) >= (t.revision, t.is_final)
"""

UPSERT_LATEST: Final = """
INSERT INTO latest_prices
  (symbol, market, "timestamp", received_at, price, ma_5min, total_volume, side, day_open, day_high, day_low,
   day_volume, previous_close, watermark, trades, ineligible, late, future, unknown_conditions)
SELECT symbol, market, NULLIF(event_time, '-infinity'), NULLIF(received_at, '-infinity'), NULLIF(price, 'NaN'),
       NULLIF(ma_5min, 'NaN'), NULLIF(total_volume, 'NaN'), side, NULLIF(day_open, 'NaN'), NULLIF(day_high, 'NaN'),
       NULLIF(day_low, 'NaN'), NULLIF(day_volume, 'NaN'), NULLIF(previous_close, 'NaN'),
       NULLIF(watermark, '-infinity'), trades, ineligible, late, future, unknown_conditions
FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
  AS n (symbol, market, event_time, received_at, price, ma_5min, total_volume, side, day_open, day_high, day_low,
        day_volume, previous_close, watermark, trades, ineligible, late, future, unknown_conditions)
ON CONFLICT (symbol) DO UPDATE SET
  market = excluded.market, "timestamp" = excluded."timestamp", received_at = excluded.received_at,
  price = excluded.price, ma_5min = excluded.ma_5min, total_volume = excluded.total_volume, side = excluded.side,
  day_open = excluded.day_open, day_high = excluded.day_high, day_low = excluded.day_low,
  day_volume = excluded.day_volume, previous_close = excluded.previous_close, watermark = excluded.watermark,
  trades = excluded.trades, ineligible = excluded.ineligible, late = excluded.late, future = excluded.future,
  unknown_conditions = excluded.unknown_conditions
"""

ADD_QUALITY: Final = """
INSERT INTO minute_quality AS t (symbol, minute, trades, excluded, late, future, gap_ms)
SELECT symbol, NULLIF(minute, '-infinity'), trades, not_priced, late, future, gap_ms
FROM unnest(%b, %b, %b, %b, %b, %b, %b) AS n (symbol, minute, trades, not_priced, late, future, gap_ms)
ON CONFLICT (symbol, minute) DO UPDATE SET
  trades = t.trades + excluded.trades, excluded = t.excluded + excluded.excluded, late = t.late + excluded.late,
  future = t.future + excluded.future, gap_ms = t.gap_ms + excluded.gap_ms
"""

UPSERT_ALERTS: Final = """
INSERT INTO breakout_alerts AS t
  (alert_id, rule, rule_version, kind, symbol, direction, status, pane_start, triggered_at, decided_at,
   confirmed_at, retracted_at, price, line, late, log_offset, evidence)
SELECT n.alert_id, n.rule, n.rule_version, n.kind, n.symbol, n.direction, n.status, n.pane_start, n.triggered_at,
       n.decided_at, CASE n.status WHEN 'confirmed' THEN n.decided_at END,
       CASE n.status WHEN 'retracted' THEN n.decided_at END,
       NULLIF(n.price, 'NaN'), NULLIF(n.line, 'NaN'), n.late, n.log_offset, n.evidence
FROM (SELECT a.alert_id, a.rule, a.rule_version, a.kind, a.symbol, a.direction::int2 AS direction, a.status,
             to_timestamp(a.pane_start_ms / 1000.0) AS pane_start,
             to_timestamp(a.triggered_ms / 1000.0) AS triggered_at,
             to_timestamp(a.decided_ms / 1000.0) AS decided_at, a.price, a.line, a.late, a.log_offset,
             a.evidence::jsonb AS evidence
        FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
          AS a (alert_id, rule, rule_version, kind, symbol, direction, status, pane_start_ms, triggered_ms, decided_ms,
                price, line, late, log_offset, evidence)) AS n
ON CONFLICT (alert_id, pane_start) DO UPDATE SET
  status = excluded.status, decided_at = excluded.decided_at, confirmed_at = excluded.confirmed_at,
  retracted_at = excluded.retracted_at, log_offset = excluded.log_offset, evidence = t.evidence || excluded.evidence,
  changed_at = clock_timestamp()
WHERE t.status = 'provisional'
"""
"""Each alert at most once: a statement may not update a row that it has just written."""

INSERT_GAP: Final = """
INSERT INTO feed_gaps AS t
  (market, gap_from, gap_to, cause, symbols, state, backfilled, trades, later, missing, log_position)
SELECT n.market, to_timestamp(n.from_ms / 1000.0), to_timestamp(n.to_ms / 1000.0), n.cause, n.symbols, n.state,
       n.state = 'filled', n.trades, n.later, n.missing, n.log_position
FROM (SELECT %s::text AS market, %s::int8 AS from_ms, %s::int8 AS to_ms, %s::text AS cause, %s::text[] AS symbols,
             %s::text AS state, %s::int8 AS trades, %s::int8 AS later, %s::text[] AS missing,
             %s::int8 AS log_position) AS n
ON CONFLICT (market, gap_from, gap_to) DO UPDATE SET
  state = excluded.state, backfilled = excluded.backfilled, trades = excluded.trades, later = excluded.later,
  missing = excluded.missing
WHERE excluded.state <> 'open' AND excluded.later >= t.later
"""
"""A gap, or what became of it: every lane tells both, and one that is behind takes nothing back."""

INSERT_RULE: Final = """
INSERT INTO alert_rules (rule, rule_version, kind, definition, since, changed_by, log_offset)
SELECT n.rule, n.version, n.kind, n.definition, to_timestamp(n.since_ms / 1000.0), n.changed_by, n.log_offset
FROM (SELECT %s::text AS rule, %s::text AS version, %s::text AS kind, %s::jsonb AS definition, %s::int8 AS since_ms,
             %s::text AS changed_by, %s::int8 AS log_offset) AS n
ON CONFLICT (rule, rule_version) DO NOTHING
"""
"""A version of a rule that holds again is known already."""

INSERT_NOTIFICATIONS: Final = """
INSERT INTO notifications (id, alert_id, channel, event, payload, rule, kind, symbol, state)
SELECT n.id, n.alert_id, n.channel, n.event, n.payload, COALESCE(n.payload->>'rule', ''),
       COALESCE(n.payload->>'kind', ''), COALESCE(n.payload->>'symbol', ''), 'new'
FROM (SELECT m.id, m.alert_id, m.channel, m.event, m.payload::jsonb AS payload
        FROM unnest(%b, %b, %b, %b, %b) AS m (id, alert_id, channel, event, payload) OFFSET 0) AS n
ON CONFLICT (id) DO NOTHING
"""
"""The gate looks at them first: see `notify.gate`. ``OFFSET 0`` lets each payload be read once."""

ADVANCE: Final = "SELECT advance_position(%s, %s, %s, %s, %b)"

INSERT_REFUSED: Final = """
INSERT INTO refused_rows (lane, log_position, symbol, table_name, reason, row_data)
VALUES (%s, %s, %s, %s, %s, %s::jsonb)
"""

READ_LANE: Final = "SELECT position, snapshot, snapshot_position FROM engine_state WHERE lane = %s"
READ_LANE_LOG: Final = "SELECT log_id FROM engine_state WHERE lane = %s"
READ_OWNER: Final = "SELECT log_id, origin FROM engine_state ORDER BY lane LIMIT 1"
CLAIM_LANE: Final = """
INSERT INTO engine_state (lane, log_id, origin, position) VALUES (%s, %s, %s, 0) ON CONFLICT (lane) DO NOTHING
"""
READ_POSITION: Final = "SELECT position FROM engine_state WHERE lane = %s AND log_id = %s"

SESSION: Final = """
SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       set_config('plan_cache_mode', 'force_generic_plan', false), set_config('timezone', 'UTC', false)
"""
"""A waiting lock or a stuck statement ends as an error that is tried again; an engine that was stopped in the middle of
a commit loses its session, so that it holds up nobody."""
SESSION_TIMESCALE: Final = "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
"""A late correction may touch any number of compressed rows."""
KEEP_ROWS: Final = "CALL keep_rows(%s)"

HAS_TIMESCALE: Final = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"
EMPTY_DERIVED: Final = """
TRUNCATE stock_aggregates, price_bars, breakout_alerts, latest_prices, feed_gaps, minute_quality, refused_rows,
         row_revisions, alert_rules, engine_state
"""
EMPTY_AGGREGATES: Final = "TRUNCATE price_bars_1h, price_bars_1d"
EMPTY_OUTBOX: Final = "TRUNCATE notifications, alert_marks, alert_mutes, channel_health, system_alerts"

PRUNE: Final = "CALL prune_old_rows(%s::int4)"
