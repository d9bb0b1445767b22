-- The database of Tapewatch: PostgreSQL >= 14, with or without TimescaleDB (>= 2.18). Safe to run again.
--
--   psql -X -v ON_ERROR_STOP=1 -f init_db.sql
--
-- Times are timestamptz; prices, averages and volumes are float8, bit for bit what the engine computed.
-- A null number means "unknown", never zero. What every number means: docs/tables.md.

SET client_min_messages = warning;
SELECT pg_advisory_lock(hashtext('tapewatch init_db'));  -- two starters at once; a session lock, freed at the end

-- 0. The extension, only where it is installed and preloaded: without the preload CREATE EXTENSION is FATAL,
--    and no EXCEPTION block can catch that. The loader's own setting tells, without privileges.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
     AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
     AND current_setting('timescaledb.disable_load', true) IS NOT NULL
  THEN
    CREATE EXTENSION IF NOT EXISTS timescaledb;
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE WARNING 'timescaledb is available, but this role may not create it; plain tables are used';
END $$;

-- 0b. Roles without login, for a person to grant: least rights for each kind of user (docs/tables.md). They belong to
--     the whole server, so another database's starter may be making them at this moment. A role's settings hold only
--     where it logs in itself. PUBLIC may create nothing here (PostgreSQL 14 allowed that).
DO $$
DECLARE
  role_name   text;
  missing     text[]  := '{}';
  here        text    := current_schema();
  owns_schema boolean := pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = here), 'USAGE');
BEGIN
  FOREACH role_name IN ARRAY ARRAY['tapewatch_owner', 'tapewatch_writer', 'tapewatch_reader', 'tapewatch_grafana'] LOOP
    IF to_regrole(role_name) IS NULL THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        IF role_name IN ('tapewatch_reader', 'tapewatch_grafana') THEN
          EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', role_name);
          EXECUTE format('ALTER ROLE %I SET statement_timeout = ''10s''', role_name);
        END IF;
      EXCEPTION
        WHEN duplicate_object OR unique_violation THEN NULL;
        WHEN insufficient_privilege THEN missing := missing || role_name;
      END;
    END IF;
    IF to_regrole(role_name) IS NOT NULL AND owns_schema AND NOT has_schema_privilege(role_name, here, 'USAGE') THEN
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', here, role_name);
    END IF;
  END LOOP;
  IF missing <> '{}' THEN
    RAISE WARNING 'this role may not create roles; without % only the owner of these tables can use them',
      array_to_string(missing, ', ');
  END IF;
  IF owns_schema THEN
    IF has_schema_privilege('public', here, 'CREATE') THEN
      EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', here);
    END IF;
    IF to_regrole('tapewatch_owner') IS NOT NULL AND NOT has_schema_privilege('tapewatch_owner', here, 'CREATE') THEN
      EXECUTE format('GRANT CREATE ON SCHEMA %I TO tapewatch_owner', here);
    END IF;
  END IF;
END $$;

-- 0c. Whoever was granted tapewatch_owner gives it what is here and goes on as it, so that its other members can
--     migrate too. TimescaleDB runs its policies as the owner of the tables, who must be allowed to log in for that.
DO $$
DECLARE relation record;
BEGIN
  IF to_regrole('tapewatch_owner') IS NULL OR current_user = 'tapewatch_owner'
     OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
     OR NOT pg_has_role('tapewatch_owner', 'USAGE')
     OR NOT (CASE WHEN current_setting('server_version_num')::int < 160000 THEN true
                  ELSE pg_has_role('tapewatch_owner', 'SET') END) THEN RETURN; END IF;
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
     AND NOT (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'tapewatch_owner') THEN
    RAISE WARNING 'TimescaleDB needs an owner that may log in: ALTER ROLE tapewatch_owner LOGIN (a password is not needed)';
    RETURN;
  END IF;
  FOR relation IN
    SELECT c.relname, c.relkind,
           c.relkind = 'v' AND c.relname IN ('price_bars_1h', 'price_bars_1d')
             AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS is_aggregate
    FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relowner = current_user::regrole AND c.relkind IN ('r', 'v')
      AND c.relname IN ('stock_aggregates', 'price_bars', 'breakout_alerts', 'latest_prices', 'feed_gaps', 'minute_quality',
                        'notifications', 'engine_state', 'refused_rows', 'row_revisions', 'price_bars_1h', 'price_bars_1d',
                        'latest_stock_data', 'quality_grades', 'alert_rules', 'alert_marks', 'alert_mutes',
                        'channel_health', 'system_alerts')
    ORDER BY c.relname DESC
  LOOP
    EXECUTE format('ALTER %s %I OWNER TO tapewatch_owner',
                   CASE WHEN relation.is_aggregate THEN 'MATERIALIZED VIEW' WHEN relation.relkind = 'v' THEN 'VIEW' ELSE 'TABLE' END,
                   relation.relname);
  END LOOP;
  FOR relation IN
    SELECT p.oid::regprocedure AS name, p.prokind FROM pg_proc p
    WHERE p.pronamespace = current_schema()::regnamespace AND p.proowner = current_user::regrole
      AND p.proname IN ('keep_rows', 'prune_old_rows', 'advance_position', 'get_golden_crosses', 'get_death_crosses',
                        'get_indicators', 'smooth_average', 'smooth_step', 'smooth_value', 'schema_version')
  LOOP
    EXECUTE format('ALTER ROUTINE %s OWNER TO tapewatch_owner', relation.name);
  END LOOP;
  PERFORM set_config('role', 'tapewatch_owner', false);
EXCEPTION WHEN insufficient_privilege THEN  -- a hypertable's chunks lie in a schema where tapewatch_owner may create nothing
  RAISE WARNING 'tables of % cannot be given to tapewatch_owner (%): a superuser can, by REASSIGN OWNED', current_user, SQLERRM;
END $$;

-- 1. Tables, the same on both. Rows of the last minutes are rewritten many times a second: a fill factor below
--    100 lets PostgreSQL do that in the page (HOT). Time is indexed by BRIN: small, and rows arrive in its order.
CREATE TABLE IF NOT EXISTS stock_aggregates (
  symbol       text        NOT NULL,
  window_start timestamptz NOT NULL,
  avg_price    float8,
  ma_5min      float8,
  vwap         float8,
  max_price    float8,
  min_price    float8,
  open_price   float8,
  close_price  float8,
  total_volume float8      NOT NULL,
  trade_count  bigint      NOT NULL,
  is_final     boolean     NOT NULL,
  revision     bigint      NOT NULL,
  PRIMARY KEY (symbol, window_start)
) WITH (fillfactor = 90);
CREATE INDEX IF NOT EXISTS stock_aggregates_time_idx ON stock_aggregates USING brin (window_start);

CREATE TABLE IF NOT EXISTS price_bars (
  symbol      text        NOT NULL,
  bar_start   timestamptz NOT NULL,
  open        float8,
  high        float8,
  low         float8,
  close       float8,
  volume      float8      NOT NULL,
  vwap        float8,
  trade_count bigint      NOT NULL,
  is_final    boolean     NOT NULL,
  revision    bigint      NOT NULL,
  PRIMARY KEY (symbol, bar_start)
) WITH (fillfactor = 90);
CREATE INDEX IF NOT EXISTS price_bars_time_idx ON price_bars USING brin (bar_start);

CREATE TABLE IF NOT EXISTS breakout_alerts (
  alert_id     text        NOT NULL,
  rule         text        NOT NULL,
  rule_version text        NOT NULL,
  kind         text        NOT NULL,
  symbol       text        NOT NULL,
  direction    smallint    NOT NULL,
  status       text        NOT NULL CHECK (status IN ('provisional', 'confirmed', 'retracted')),
  pane_start   timestamptz NOT NULL,
  triggered_at timestamptz NOT NULL,
  decided_at   timestamptz NOT NULL,
  confirmed_at timestamptz,
  retracted_at timestamptz,
  price        float8,
  line         float8,
  late         boolean     NOT NULL,
  log_offset   bigint      NOT NULL,
  evidence     jsonb       NOT NULL DEFAULT '{}',
  stored_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (alert_id, pane_start)              -- a hypertable's unique key must hold the partition column
);
ALTER TABLE breakout_alerts ADD COLUMN IF NOT EXISTS changed_at timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE INDEX IF NOT EXISTS breakout_alerts_time_idx ON breakout_alerts (triggered_at DESC);
CREATE INDEX IF NOT EXISTS breakout_alerts_changed_idx ON breakout_alerts (changed_at);
CREATE INDEX IF NOT EXISTS breakout_alerts_symbol_time_idx ON breakout_alerts (symbol, triggered_at DESC);

CREATE TABLE IF NOT EXISTS latest_prices (
  symbol             text PRIMARY KEY,
  market             text     NOT NULL,
  "timestamp"        timestamptz,
  received_at        timestamptz,
  price              float8,
  ma_5min            float8,
  total_volume       float8,
  side               smallint NOT NULL,
  day_open           float8,
  day_high           float8,
  day_low            float8,
  day_volume         float8,
  previous_close     float8,
  watermark          timestamptz,
  trades             bigint   NOT NULL,
  ineligible         bigint   NOT NULL,
  late               bigint   NOT NULL,
  future             bigint   NOT NULL,
  unknown_conditions bigint   NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS feed_gaps (
  market       text        NOT NULL,
  gap_from     timestamptz NOT NULL,
  gap_to       timestamptz NOT NULL,
  cause        text        NOT NULL,
  symbols      text[]      NOT NULL,
  backfilled   boolean     NOT NULL DEFAULT false,
  log_position bigint      NOT NULL,
  PRIMARY KEY (market, gap_from, gap_to)
);
ALTER TABLE feed_gaps ADD COLUMN IF NOT EXISTS state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'filled', 'partial'));
ALTER TABLE feed_gaps ADD COLUMN IF NOT EXISTS trades bigint NOT NULL DEFAULT 0;
ALTER TABLE feed_gaps ADD COLUMN IF NOT EXISTS later bigint NOT NULL DEFAULT 0;
ALTER TABLE feed_gaps ADD COLUMN IF NOT EXISTS missing text[] NOT NULL DEFAULT '{}';

CREATE TABLE IF NOT EXISTS minute_quality (
  symbol   text        NOT NULL,
  minute   timestamptz NOT NULL,
  trades   bigint      NOT NULL,
  excluded bigint      NOT NULL,
  late     bigint      NOT NULL,
  future   bigint      NOT NULL,
  gap_ms   bigint      NOT NULL,
  PRIMARY KEY (symbol, minute)
) WITH (fillfactor = 90);
CREATE INDEX IF NOT EXISTS minute_quality_time_idx ON minute_quality USING brin (minute);

CREATE TABLE IF NOT EXISTS notifications (
  id              text        PRIMARY KEY,
  alert_id        text        NOT NULL,
  channel         text        NOT NULL,
  event           text        NOT NULL,
  payload         jsonb       NOT NULL,
  state           text        NOT NULL DEFAULT 'waiting' 
                  CHECK (state IN ('new', 'held', 'folded', 'muted', 'waiting', 'delivered', 'dead')),
  attempts        integer     NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  delivered_at    timestamptz,
  last_error      text
);
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS rule text NOT NULL DEFAULT '';
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT '';
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS symbol text NOT NULL DEFAULT '';
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS reason text;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS held_until timestamptz;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS told_by text;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS passed_at timestamptz;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS first_attempt_at timestamptz;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS receipt jsonb;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS resent integer NOT NULL DEFAULT 0;
DO $$
BEGIN  -- the states of version 4 were three
  IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'notifications'::regclass AND conname = 'notifications_state_check'
             AND pg_get_constraintdef(oid) NOT LIKE '%folded%') THEN
    ALTER TABLE notifications DROP CONSTRAINT notifications_state_check, ADD CONSTRAINT notifications_state_check
      CHECK (state IN ('new', 'held', 'folded', 'muted', 'waiting', 'delivered', 'dead'));
  END IF;
END $$;
CREATE INDEX IF NOT EXISTS notifications_gate_idx ON notifications (created_at) WHERE state IN ('new', 'held');
CREATE INDEX IF NOT EXISTS notifications_passed_idx ON notifications (passed_at) WHERE passed_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS notifications_waiting_idx ON notifications (next_attempt_at) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS notifications_alert_idx ON notifications (alert_id);

CREATE TABLE IF NOT EXISTS engine_state (
  lane              text        PRIMARY KEY,
  log_id            text        NOT NULL,
  origin            text        NOT NULL,
  position          bigint      NOT NULL,
  snapshot          bytea,
  snapshot_position bigint,
  updated_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);
ALTER TABLE engine_state ALTER COLUMN snapshot SET STORAGE EXTERNAL;  -- compressed before it comes here

CREATE TABLE IF NOT EXISTS refused_rows (
  lane         text        NOT NULL,
  log_position bigint      NOT NULL,
  symbol       text        NOT NULL,
  table_name   text        NOT NULL,
  reason       text        NOT NULL,
  row_data     jsonb       NOT NULL,
  refused_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS row_revisions (
  table_name text        NOT NULL CHECK (table_name IN ('stock_aggregates', 'price_bars')),
  symbol     text        NOT NULL,
  row_start  timestamptz NOT NULL,
  number     integer     NOT NULL,
  reason     text        NOT NULL,
  old_row    jsonb,
  new_row    jsonb,
  revised_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (table_name, symbol, row_start, number)
);

CREATE TABLE IF NOT EXISTS alert_rules (
  rule         text        NOT NULL,
  rule_version text        NOT NULL,
  kind         text        NOT NULL,
  definition   jsonb       NOT NULL,
  since        timestamptz NOT NULL,
  changed_by   text        NOT NULL,
  log_offset   bigint      NOT NULL,
  PRIMARY KEY (rule, rule_version)
);

CREATE TABLE IF NOT EXISTS alert_marks (
  alert_id        text PRIMARY KEY,
  acknowledged_at timestamptz,
  acknowledged_by text NOT NULL DEFAULT '',
  note            text NOT NULL DEFAULT ''
);

CREATE TABLE IF NOT EXISTS alert_mutes (
  mute_id    text        PRIMARY KEY,
  rule       text,
  symbol     text,
  channel    text,
  muted_from timestamptz NOT NULL DEFAULT clock_timestamp(),
  muted_to   timestamptz NOT NULL,
  muted_by   text        NOT NULL DEFAULT '',
  note       text        NOT NULL DEFAULT ''
);

CREATE TABLE IF NOT EXISTS channel_health (
  channel      text        PRIMARY KEY,
  kind         text        NOT NULL,
  accepted_at  timestamptz,
  failed_at    timestamptz,
  last_error   text,
  failures     integer     NOT NULL DEFAULT 0,
  paused_until timestamptz,
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS system_alerts (
  system_id    text        PRIMARY KEY,
  rule         text        NOT NULL,
  room         text        NOT NULL,
  state        text        NOT NULL CHECK (state IN ('down', 'recovered', 'test')),
  began_at     timestamptz NOT NULL,
  announced_at timestamptz,
  recovered_at timestamptz,
  detail       text        NOT NULL
);
CREATE INDEX IF NOT EXISTS system_alerts_time_idx ON system_alerts (began_at DESC);

-- 2. TimescaleDB: hypertables, columnstore, continuous aggregates. Or the plain views of the same names.
--    There is no such view over stock_aggregates: its windows overlap, so their sums would count trades five times.
DO $$
DECLARE
  has_ts  boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
  has_tsl boolean := current_setting('timescaledb.license', true) = 'timescale';
  v text;
BEGIN
  IF has_ts THEN
    PERFORM create_hypertable('stock_aggregates', by_range('window_start', INTERVAL '1 day'),  if_not_exists => true, create_default_indexes => false, migrate_data => true);
    PERFORM create_hypertable('price_bars',       by_range('bar_start',    INTERVAL '1 day'),  if_not_exists => true, create_default_indexes => false, migrate_data => true);
    PERFORM create_hypertable('minute_quality',   by_range('minute',       INTERVAL '1 day'),  if_not_exists => true, create_default_indexes => false, migrate_data => true);
    PERFORM create_hypertable('breakout_alerts',  by_range('pane_start',   INTERVAL '7 days'), if_not_exists => true, create_default_indexes => false, migrate_data => true);
  END IF;

  IF has_ts AND has_tsl THEN
    ALTER TABLE stock_aggregates SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'window_start DESC');
    ALTER TABLE price_bars       SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'bar_start DESC');
    ALTER TABLE minute_quality   SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol', timescaledb.orderby = 'minute DESC');
    CALL add_columnstore_policy('stock_aggregates', after => INTERVAL '7 days', if_not_exists => true);
    CALL add_columnstore_policy('price_bars',       after => INTERVAL '7 days', if_not_exists => true);
    CALL add_columnstore_policy('minute_quality',   after => INTERVAL '7 days', if_not_exists => true);
    -- a plain view left by an earlier run without the extension gives way to the continuous aggregate
    FOREACH v IN ARRAY ARRAY['price_bars_1d', 'price_bars_1h'] LOOP
      IF to_regclass(v) IS NOT NULL AND NOT EXISTS (
           SELECT FROM timescaledb_information.continuous_aggregates WHERE view_name = v AND view_schema = current_schema())
      THEN EXECUTE format('DROP VIEW %I', v); END IF;
    END LOOP;
    CREATE MATERIALIZED VIEW IF NOT EXISTS price_bars_1h
      WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
      SELECT symbol, time_bucket(INTERVAL '1 hour', bar_start) AS bucket,
             first(open, bar_start) AS open, max(high) AS high, min(low) AS low, last(close, bar_start) AS close,
             sum(volume) AS volume, sum(vwap * volume) / NULLIF(sum(volume), 0) AS vwap,
             sum(trade_count)::int8 AS trade_count
      FROM price_bars GROUP BY symbol, time_bucket(INTERVAL '1 hour', bar_start)
      WITH NO DATA;
    CREATE MATERIALIZED VIEW IF NOT EXISTS price_bars_1d
      WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
      SELECT symbol, time_bucket(INTERVAL '1 day', bucket, 'America/New_York') AS bucket,
             first(open, bucket) AS open, max(high) AS high, min(low) AS low, last(close, bucket) AS close,
             sum(volume) AS volume, sum(vwap * volume) / NULLIF(sum(volume), 0) AS vwap,
             sum(trade_count)::int8 AS trade_count
      FROM price_bars_1h GROUP BY symbol, time_bucket(INTERVAL '1 day', bucket, 'America/New_York')
      WITH NO DATA;
  ELSE
    CREATE OR REPLACE VIEW price_bars_1h AS
      SELECT symbol, date_bin(INTERVAL '1 hour', bar_start, TIMESTAMPTZ '2000-01-03 00:00+00') AS bucket,
             (array_agg(open ORDER BY bar_start))[1] AS open, max(high) AS high, min(low) AS low,
             (array_agg(close ORDER BY bar_start DESC))[1] AS close,
             sum(volume) AS volume, sum(vwap * volume) / NULLIF(sum(volume), 0) AS vwap,
             sum(trade_count)::int8 AS trade_count
      FROM price_bars GROUP BY 1, 2;
    CREATE OR REPLACE VIEW price_bars_1d AS
      SELECT symbol, date_trunc('day', bucket, 'America/New_York') AS bucket,
             (array_agg(open ORDER BY bucket))[1] AS open, max(high) AS high, min(low) AS low,
             (array_agg(close ORDER BY bucket DESC))[1] AS close,
             sum(volume) AS volume, sum(vwap * volume) / NULLIF(sum(volume), 0) AS vwap,
             sum(trade_count)::int8 AS trade_count
      FROM price_bars_1h GROUP BY 1, 2;
  END IF;
END $$;

-- 3. Keeping. TimescaleDB drops old chunks by its own clock, which would empty a replay of an old day at once:
--    so the policies exist only while the data is of today. Elsewhere the application calls prune_old_rows hourly.
--    Both run as the owner of the tables, so that a writer needs neither DELETE nor a policy's rights; see 7.
CREATE OR REPLACE PROCEDURE keep_rows(drops_old boolean) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  t text;
  -- Only what has changed is computed anew, so a refresh may reach as far back as a correction can. But where old rows
  -- are dropped it stays inside their 30 days, or it would empty old buckets.
  since interval := CASE WHEN drops_old THEN INTERVAL '29 days' END;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
     OR current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtext('tapewatch keep_rows'));  -- every lane calls this when it starts
  FOREACH t IN ARRAY ARRAY['stock_aggregates', 'price_bars', 'minute_quality', 'breakout_alerts'] LOOP
    IF drops_old THEN PERFORM add_retention_policy(t::regclass, INTERVAL '30 days', if_not_exists => true);
    ELSE PERFORM remove_retention_policy(t::regclass, if_exists => true);
    END IF;
  END LOOP;
  FOR t IN
    SELECT c.view_name FROM timescaledb_information.jobs j
    JOIN timescaledb_information.continuous_aggregates c ON c.view_schema = current_schema()
      AND c.materialization_hypertable_name = format('_materialized_hypertable_%s', j.config->>'mat_hypertable_id')
    WHERE j.proc_name = 'policy_refresh_continuous_aggregate' AND c.view_name IN ('price_bars_1h', 'price_bars_1d')
      AND (j.config->>'start_offset')::interval IS DISTINCT FROM since
  LOOP
    PERFORM remove_continuous_aggregate_policy(t::regclass);
  END LOOP;
  PERFORM add_continuous_aggregate_policy('price_bars_1h', start_offset => since, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '15 minutes', if_not_exists => true);
  PERFORM add_continuous_aggregate_policy('price_bars_1d', start_offset => since, end_offset => INTERVAL '1 day',  schedule_interval => INTERVAL '1 hour',     if_not_exists => true);
END $$;
COMMENT ON PROCEDURE keep_rows IS 'Switches TimescaleDB''s 30-day retention on or off, and how far back its views of hours and days are refreshed; does nothing on plain PostgreSQL.';

CREATE OR REPLACE PROCEDURE prune_old_rows(days integer) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE oldest timestamptz := now() - make_interval(days => days);
BEGIN
  IF days IS NULL OR days < 1 THEN
    RAISE EXCEPTION 'prune_old_rows: expected 1 day or more, got %', days USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM feed_gaps     WHERE gap_to < oldest;
  DELETE FROM notifications WHERE state NOT IN ('new', 'held', 'waiting') AND created_at < oldest;
  DELETE FROM alert_marks   WHERE acknowledged_at IS NULL OR acknowledged_at < oldest;
  DELETE FROM alert_mutes   WHERE muted_to < oldest;
  DELETE FROM system_alerts WHERE state <> 'down' AND began_at < oldest;
  DELETE FROM refused_rows  WHERE refused_at < oldest;
  DELETE FROM row_revisions WHERE row_start < oldest;
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
     AND current_setting('timescaledb.license', true) = 'timescale' THEN RETURN; END IF;  -- keep_rows sees to the rest
  DELETE FROM stock_aggregates WHERE window_start < oldest;
  DELETE FROM price_bars       WHERE bar_start    < oldest;
  DELETE FROM minute_quality   WHERE minute       < oldest;
  DELETE FROM breakout_alerts  WHERE pane_start   < oldest;
END $$;
COMMENT ON PROCEDURE prune_old_rows IS 'Deletes what is older than so many days. Never for replayed data, which is old on purpose.';

-- 4. Writing: the fence. Whoever moves a lane's position must know where it stood; raising undoes the transaction.
CREATE OR REPLACE FUNCTION advance_position(of_lane text, of_log text, old_position bigint, new_position bigint,
                                            new_snapshot bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE engine_state s SET
    position = new_position,
    snapshot = COALESCE(new_snapshot, s.snapshot),
    snapshot_position = CASE WHEN new_snapshot IS NULL THEN s.snapshot_position ELSE new_position END,
    updated_at = clock_timestamp()
  WHERE s.lane = of_lane AND s.log_id = of_log AND s.position = old_position;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lane % is not at position % of log %', of_lane, old_position, of_log USING ERRCODE = 'TW001';
  END IF;
  -- For pages that only read the database. The embedded engine tells its own page, and is spared the fifth of a ms.
  IF of_lane <> 'embedded' THEN
    PERFORM pg_notify('tapewatch_commit', of_lane || ' ' || new_position);
  END IF;
END $$;
COMMENT ON FUNCTION advance_position IS 'Compares and moves a lane''s position; raises TW001 if another engine has moved it. Notifies tapewatch_commit, except of lane embedded.';

-- 5. Reading
CREATE OR REPLACE VIEW latest_stock_data AS
  SELECT p.symbol, p."timestamp", p.price AS current_price, p.ma_5min, p.total_volume,
         CASE WHEN p.price > p.ma_5min THEN 'BULLISH' WHEN p.price < p.ma_5min THEN 'BEARISH' ELSE 'NEUTRAL' END AS trend
  FROM latest_prices p;

CREATE OR REPLACE VIEW quality_grades AS
  SELECT q.symbol, q.minute, q.trades, q.excluded, q.late, q.future, q.gap_ms,
         CASE WHEN q.gap_ms >= 10000 THEN 'D' WHEN q.gap_ms > 0 THEN 'C'
              WHEN q.late * 100 > q.trades THEN 'B' ELSE 'A' END AS grade
  FROM minute_quality q;

-- A body written as BEGIN ATOMIC is bound to these tables here and now, whatever search_path a caller has.
CREATE OR REPLACE FUNCTION get_golden_crosses(of_symbol text, within_hours integer, as_of timestamptz DEFAULT now())
RETURNS TABLE (symbol text, crossed_at timestamptz, price float8, ma_5min float8, status text,
               confirmed_at timestamptz, retracted_at timestamptz, late boolean, rule text, alert_id text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT a.symbol, a.triggered_at, a.price, a.line, a.status, a.confirmed_at, a.retracted_at, a.late, a.rule, a.alert_id
  FROM breakout_alerts a
  WHERE a.kind = 'golden_cross' AND a.symbol = upper(of_symbol)
    AND a.triggered_at > as_of - make_interval(hours => within_hours) AND a.triggered_at <= as_of
  ORDER BY a.triggered_at DESC, a.alert_id;
END;

CREATE OR REPLACE FUNCTION get_death_crosses(of_symbol text, within_hours integer, as_of timestamptz DEFAULT now())
RETURNS TABLE (symbol text, crossed_at timestamptz, price float8, ma_5min float8, status text,
               confirmed_at timestamptz, retracted_at timestamptz, late boolean, rule text, alert_id text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT a.symbol, a.triggered_at, a.price, a.line, a.status, a.confirmed_at, a.retracted_at, a.late, a.rule, a.alert_id
  FROM breakout_alerts a
  WHERE a.kind = 'death_cross' AND a.symbol = upper(of_symbol)
    AND a.triggered_at > as_of - make_interval(hours => within_hours) AND a.triggered_at <= as_of
  ORDER BY a.triggered_at DESC, a.alert_id;
END;
-- Exponential averages of the kinds that technical analysis knows: the mean of the first values, then each value by its
-- weight. 2 / (period + 1) makes the EMA of MACD, 1 / period the average of Wilder's RSI and ATR (docs/indicators.md).
CREATE OR REPLACE FUNCTION smooth_step(state float8[], value float8, period integer, weight float8) RETURNS float8[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
  IF state[1] >= period THEN RETURN ARRAY[state[1], state[2] + weight * (value - state[2])]; END IF;
  IF state[1] + 1 = period THEN RETURN ARRAY[state[1] + 1, (state[2] + value) / period]; END IF;
  RETURN ARRAY[state[1] + 1, state[2] + value, period];
END $$;
CREATE OR REPLACE FUNCTION smooth_value(state float8[]) RETURNS float8 LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  AS 'SELECT CASE WHEN cardinality(state) = 2 THEN state[2] END';
CREATE OR REPLACE AGGREGATE smooth_average(float8, integer, float8) (
  SFUNC = smooth_step, STYPE = float8[], INITCOND = '{0,0,0}', FINALFUNC = smooth_value
);

CREATE OR REPLACE FUNCTION get_indicators(of_symbol text, from_time timestamptz, to_time timestamptz,
                                          most integer DEFAULT 20000)
RETURNS TABLE (symbol text, bar_start timestamptz, close float8, rsi_14 float8, macd float8, macd_signal float8,
               macd_histogram float8, bollinger_middle float8, bollinger_upper float8, bollinger_lower float8,
               atr_14 float8, relative_volume float8, is_final boolean)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  WITH bars AS (
    SELECT b.bar_start, b.high, b.low, b.close, b.volume, b.is_final,
           row_number() OVER w AS n, lag(b.close) OVER w AS before, b.close - lag(b.close) OVER w AS moved
    FROM (SELECT p.* FROM price_bars p
          WHERE p.symbol = of_symbol AND p.bar_start < to_time AND p.close IS NOT NULL
          ORDER BY p.bar_start DESC
          LIMIT (SELECT 1000 + LEAST(most, count(*)) FROM price_bars c
                 WHERE c.symbol = of_symbol AND c.bar_start >= from_time AND c.bar_start < to_time)) b
    WINDOW w AS (ORDER BY b.bar_start)
  ), averages AS (
    SELECT bars.*,
           smooth_average((abs(bars.moved) + bars.moved) / 2, 14, 1.0 / 14) OVER w AS gain,
           smooth_average((abs(bars.moved) - bars.moved) / 2, 14, 1.0 / 14) OVER w AS loss,
           -- the fast average begins as late as the slow one: then both are known from the same bar on
           smooth_average(CASE WHEN bars.n > 14 THEN bars.close END, 12, 2.0 / 13) OVER w
             - smooth_average(bars.close, 26, 2.0 / 27) OVER w AS macd,
           smooth_average(CASE WHEN bars.before IS NOT NULL
                               THEN GREATEST(bars.high, bars.before) - LEAST(bars.low, bars.before) END,
                          14, 1.0 / 14) OVER w AS atr,
           CASE WHEN bars.n >= 20 THEN avg(bars.close) OVER last_20 END AS middle,
           CASE WHEN bars.n >= 20 THEN stddev_pop(bars.close) OVER last_20 END AS deviation,
           CASE WHEN bars.n > 5 THEN bars.volume / NULLIF(avg(bars.volume) OVER before_20, 0) END AS relative_volume
    FROM bars
    WINDOW w AS (ORDER BY bars.bar_start), last_20 AS (ORDER BY bars.bar_start ROWS 19 PRECEDING),
           before_20 AS (ORDER BY bars.bar_start ROWS BETWEEN 20 PRECEDING AND 1 PRECEDING)
  ), signals AS (
    SELECT averages.*, smooth_average(averages.macd, 9, 2.0 / 10) OVER (ORDER BY averages.bar_start) AS signal
    FROM averages
  )
  SELECT of_symbol, s.bar_start, s.close, 100 * s.gain / NULLIF(s.gain + s.loss, 0), s.macd, s.signal, s.macd - s.signal,
         s.middle, s.middle + 2 * s.deviation, s.middle - 2 * s.deviation, s.atr, s.relative_volume, s.is_final
  FROM (SELECT * FROM signals WHERE signals.bar_start >= from_time ORDER BY signals.bar_start DESC LIMIT most) s
  ORDER BY s.bar_start;
END;
COMMENT ON FUNCTION get_indicators IS 'RSI(14), MACD(12,26,9), Bollinger(20,2), ATR(14) and relative volume of the newest bars of a symbol that start in [from_time, to_time), as its bars are now. What each means: docs/indicators.md.';
COMMENT ON FUNCTION smooth_step IS 'One value into smooth_average: state is {count, sum, period} until there are so many, then {period, average}.';
COMMENT ON FUNCTION smooth_value IS 'The average of a state of smooth_average; null until there are so many values.';
COMMENT ON AGGREGATE smooth_average(float8, integer, float8) IS 'Exponential average of (value, period, weight): the mean of the first values, then each by its weight; null until there are so many.';
COMMENT ON FUNCTION get_golden_crosses IS 'Crosses above the moving average in the hours before as_of, newest first; retracted ones too, see status.';
COMMENT ON FUNCTION get_death_crosses IS 'Crosses below the moving average in the hours before as_of, newest first; retracted ones too, see status.';

-- 6. What everything means, for psql's \d+ and for Grafana
COMMENT ON TABLE stock_aggregates IS 'One sliding window of one symbol: WINDOW_DURATION long, one for each SLIDE_DURATION.';
COMMENT ON COLUMN stock_aggregates.symbol IS 'Product symbol, such as AAPL or BTC.';
COMMENT ON COLUMN stock_aggregates.window_start IS 'First instant of the window, event time.';
COMMENT ON COLUMN stock_aggregates.avg_price IS 'Mean price of the window''s price-eligible trades; null without any.';
COMMENT ON COLUMN stock_aggregates.ma_5min IS 'Mean of the closes of the window''s panes, an empty pane taking the close before it; null until warm.';
COMMENT ON COLUMN stock_aggregates.vwap IS 'Price weighted by size: notional / volume; null without volume.';
COMMENT ON COLUMN stock_aggregates.max_price IS 'Highest price of the trades that may set it.';
COMMENT ON COLUMN stock_aggregates.min_price IS 'Lowest price of the trades that may set it.';
COMMENT ON COLUMN stock_aggregates.open_price IS 'Price of the window''s first price-eligible trade.';
COMMENT ON COLUMN stock_aggregates.close_price IS 'Price of the window''s last price-eligible trade.';
COMMENT ON COLUMN stock_aggregates.total_volume IS 'Size of the volume-eligible trades.';
COMMENT ON COLUMN stock_aggregates.trade_count IS 'Number of the volume-eligible trades.';
COMMENT ON COLUMN stock_aggregates.is_final IS 'The window''s end is past the watermark: only a backfill can still change it.';
COMMENT ON COLUMN stock_aggregates.revision IS 'Number of log records that have changed this row; a lower one never overwrites a higher one.';

COMMENT ON TABLE price_bars IS 'One closed or running pane of one symbol: SLIDE_DURATION long. No row without a price-eligible trade.';
COMMENT ON COLUMN price_bars.symbol IS 'Product symbol.';
COMMENT ON COLUMN price_bars.bar_start IS 'First instant of the bar, event time.';
COMMENT ON COLUMN price_bars.open IS 'First price.';
COMMENT ON COLUMN price_bars.high IS 'Highest price.';
COMMENT ON COLUMN price_bars.low IS 'Lowest price.';
COMMENT ON COLUMN price_bars.close IS 'Last price.';
COMMENT ON COLUMN price_bars.volume IS 'Size of the volume-eligible trades.';
COMMENT ON COLUMN price_bars.vwap IS 'Notional / volume; null without volume.';
COMMENT ON COLUMN price_bars.trade_count IS 'Number of the volume-eligible trades.';
COMMENT ON COLUMN price_bars.is_final IS 'The bar''s end is past the watermark: only a backfill can still change it.';
COMMENT ON COLUMN price_bars.revision IS 'Number of log records that have changed this row; a lower one never overwrites a higher one.';
COMMENT ON VIEW price_bars_1h IS 'Bars of one hour, from price_bars.';
COMMENT ON VIEW price_bars_1d IS 'Bars of one day of New York, from price_bars_1h; so a session of the stock market is never cut in two.';

COMMENT ON TABLE breakout_alerts IS 'One alert: provisional when a trade crossed, then confirmed or retracted when its pane had ended.';
COMMENT ON COLUMN breakout_alerts.alert_id IS 'Hash of rule, version, symbol, pane start and direction: the same in every replay.';
COMMENT ON COLUMN breakout_alerts.rule IS 'Name of the rule in alerts.toml.';
COMMENT ON COLUMN breakout_alerts.rule_version IS 'Version of the rule: changes with its parameters.';
COMMENT ON COLUMN breakout_alerts.kind IS 'golden_cross, death_cross, high_volume, or the kind of the rule: cross, volume, level, move, extreme, threshold.';
COMMENT ON COLUMN breakout_alerts.symbol IS 'Product symbol.';
COMMENT ON COLUMN breakout_alerts.direction IS '+1 above the line, -1 below, 0 for volume.';
COMMENT ON COLUMN breakout_alerts.status IS 'provisional, confirmed or retracted; never goes back.';
COMMENT ON COLUMN breakout_alerts.pane_start IS 'Start of the pane in which it was triggered.';
COMMENT ON COLUMN breakout_alerts.triggered_at IS 'Event time of the trade that triggered it.';
COMMENT ON COLUMN breakout_alerts.decided_at IS 'Event time of the record that decided the present status.';
COMMENT ON COLUMN breakout_alerts.confirmed_at IS 'Event time of the confirmation; null if there was none.';
COMMENT ON COLUMN breakout_alerts.retracted_at IS 'Event time of the retraction; null if there was none.';
COMMENT ON COLUMN breakout_alerts.price IS 'Price of the triggering trade.';
COMMENT ON COLUMN breakout_alerts.line IS 'The line that was crossed, such as an average; for volume, the threshold.';
COMMENT ON COLUMN breakout_alerts.late IS 'The trade was old when it was received, or came by REST (warm-up, backfill): stored and shown, never sent as news.';
COMMENT ON COLUMN breakout_alerts.log_offset IS 'Log offset of the record that decided the present status.';
COMMENT ON COLUMN breakout_alerts.evidence IS 'Lines before and after, the trade, the band, the quality of the window, the latency passport.';
COMMENT ON COLUMN breakout_alerts.stored_at IS 'When its first state was written here, by this server''s clock.';
COMMENT ON COLUMN breakout_alerts.changed_at IS 'When its present state was written here, by this server''s clock.';

COMMENT ON TABLE latest_prices IS 'The newest numbers of each symbol, at most one commit old.';
COMMENT ON COLUMN latest_prices.symbol IS 'Product symbol.';
COMMENT ON COLUMN latest_prices.market IS 'stocks, crypto, options, futures, forex or indices.';
COMMENT ON COLUMN latest_prices."timestamp" IS 'Event time of the last price-eligible trade.';
COMMENT ON COLUMN latest_prices.received_at IS 'When the feed received that trade (µs).';
COMMENT ON COLUMN latest_prices.price IS 'Its price.';
COMMENT ON COLUMN latest_prices.ma_5min IS 'Moving average of the window in progress; null until warm.';
COMMENT ON COLUMN latest_prices.total_volume IS 'Volume of the window in progress.';
COMMENT ON COLUMN latest_prices.side IS '-1 below, +1 above the line by the band, 0 unknown.';
COMMENT ON COLUMN latest_prices.day_open IS 'First price of the trading day.';
COMMENT ON COLUMN latest_prices.day_high IS 'Highest price of the trading day.';
COMMENT ON COLUMN latest_prices.day_low IS 'Lowest price of the trading day.';
COMMENT ON COLUMN latest_prices.day_volume IS 'Volume of the trading day.';
COMMENT ON COLUMN latest_prices.previous_close IS 'Last regular-session price of the trading day before; null if not seen.';
COMMENT ON COLUMN latest_prices.watermark IS 'Greatest event time seen less WATERMARK_DELAY: what is older comes late.';
COMMENT ON COLUMN latest_prices.trades IS 'Trades applied, over the whole log.';
COMMENT ON COLUMN latest_prices.ineligible IS 'Trades whose conditions allow nothing, over the whole log.';
COMMENT ON COLUMN latest_prices.late IS 'Late trades, over the whole log.';
COMMENT ON COLUMN latest_prices.future IS 'Trades from the future, over the whole log.';
COMMENT ON COLUMN latest_prices.unknown_conditions IS 'Trades with an unknown condition code, over the whole log.';
COMMENT ON VIEW latest_stock_data IS 'The newest price of each symbol against its moving average. NEUTRAL: equal, or the average is not known yet.';

COMMENT ON TABLE feed_gaps IS 'Stretches of a market''s event time in which trades may be missing.';
COMMENT ON COLUMN feed_gaps.market IS 'stocks, crypto, options, futures, forex or indices.';
COMMENT ON COLUMN feed_gaps.gap_from IS 'First instant that may lack trades.';
COMMENT ON COLUMN feed_gaps.gap_to IS 'End of the gap.';
COMMENT ON COLUMN feed_gaps.cause IS 'Why: disconnected, silent, stopped, …';
COMMENT ON COLUMN feed_gaps.symbols IS 'Symbols subscribed then; empty means every symbol of the market.';
COMMENT ON COLUMN feed_gaps.backfilled IS 'Its trades were fetched afterwards, so bars over it are whole.';
COMMENT ON COLUMN feed_gaps.state IS 'open: not fetched (yet). filled: all its trades were. partial: not those of the symbols in missing.';
COMMENT ON COLUMN feed_gaps.trades IS 'Trades fetched for it at once: in bars and windows like any other.';
COMMENT ON COLUMN feed_gaps.later IS 'Trades that were fetched later: in the log, and late where their bar had ended.';
COMMENT ON COLUMN feed_gaps.missing IS 'Symbols whose bars over it may lack trades; empty unless it is partial.';
COMMENT ON COLUMN feed_gaps.log_position IS 'Position after the commit that wrote it.';

COMMENT ON TABLE minute_quality IS 'What a minute of a symbol is made of. Graded in quality_grades.';
COMMENT ON COLUMN minute_quality.symbol IS 'Product symbol.';
COMMENT ON COLUMN minute_quality.minute IS 'First instant of the minute, event time.';
COMMENT ON COLUMN minute_quality.trades IS 'Trades of this minute, all of them.';
COMMENT ON COLUMN minute_quality.excluded IS 'Trades that may not set a price.';
COMMENT ON COLUMN minute_quality.late IS 'Late trades: not in bar or window.';
COMMENT ON COLUMN minute_quality.future IS 'Trades stamped from the future: not in bar or window.';
COMMENT ON COLUMN minute_quality.gap_ms IS 'Milliseconds of this minute inside a gap.';
COMMENT ON VIEW quality_grades IS 'A: no gap and at most 1 % late. B: no gap, more late. C: gap under 10 s. D: gap of 10 s or more.';

COMMENT ON TABLE notifications IS 'Outbox: written with the alert in one transaction, sent afterwards, at least once.';
COMMENT ON COLUMN notifications.id IS 'Alert, channel and event: the same message is never written twice.';
COMMENT ON COLUMN notifications.alert_id IS 'The alert it tells of; of a digest or a message about the system, its own id.';
COMMENT ON COLUMN notifications.channel IS 'Where it goes: a channel of alerts.toml, webhook, log, …';
COMMENT ON COLUMN notifications.event IS 'The status it tells: provisional, confirmed or retracted; or burst, digest, expired, held, down, recovered, test.';
COMMENT ON COLUMN notifications.payload IS 'What is sent.';
COMMENT ON COLUMN notifications.state IS 'new (nobody has looked at it), held, folded (another message tells it), muted, waiting (to be sent), delivered, or dead (given up).';
COMMENT ON COLUMN notifications.attempts IS 'Deliveries tried.';
COMMENT ON COLUMN notifications.next_attempt_at IS 'Not tried before this time.';
COMMENT ON COLUMN notifications.created_at IS 'When it was written.';
COMMENT ON COLUMN notifications.delivered_at IS 'When the receiver accepted it.';
COMMENT ON COLUMN notifications.last_error IS 'Why the last try failed.';
COMMENT ON COLUMN notifications.rule IS 'Rule of the alert; empty where there is none.';
COMMENT ON COLUMN notifications.kind IS 'Kind of the alert.';
COMMENT ON COLUMN notifications.symbol IS 'Symbol of the alert; empty where there is none.';
COMMENT ON COLUMN notifications.reason IS 'Why it is or was held (grade D, quiet hours), folded (burst, limit), muted, or given up unsent.';
COMMENT ON COLUMN notifications.held_until IS 'A held one is looked at again at this time.';
COMMENT ON COLUMN notifications.told_by IS 'The id of the message that told this one too; null if none did.';
COMMENT ON COLUMN notifications.passed_at IS 'When it was let through to be sent.';
COMMENT ON COLUMN notifications.first_attempt_at IS 'When it was tried first.';
COMMENT ON COLUMN notifications.receipt IS 'What the receiver gave back, by which a follow-up finds its message again.';
COMMENT ON COLUMN notifications.resent IS 'How often a person has sent it again.';

COMMENT ON TABLE alert_rules IS 'Every version of every rule that was in force, so that an alert''s rule_version can be looked up.';
COMMENT ON COLUMN alert_rules.rule IS 'Name of the rule in alerts.toml.';
COMMENT ON COLUMN alert_rules.rule_version IS 'Its version, as alerts name it.';
COMMENT ON COLUMN alert_rules.kind IS 'cross, volume, level, move, extreme, threshold or system.';
COMMENT ON COLUMN alert_rules.definition IS 'All that the rule says.';
COMMENT ON COLUMN alert_rules.since IS 'Event time from which this version held first.';
COMMENT ON COLUMN alert_rules.changed_by IS 'Who changed it: file, api or command.';
COMMENT ON COLUMN alert_rules.log_offset IS 'Log offset of the record that says so.';

COMMENT ON TABLE alert_marks IS 'What people did with alerts: kept when everything else is computed anew.';
COMMENT ON COLUMN alert_marks.alert_id IS 'An alert_id, or a system_id.';
COMMENT ON COLUMN alert_marks.acknowledged_at IS 'When somebody said that it is seen; null if that was taken back.';
COMMENT ON COLUMN alert_marks.acknowledged_by IS 'Who: page, api, command, or the name that was given.';
COMMENT ON COLUMN alert_marks.note IS 'What the person wrote.';

COMMENT ON TABLE alert_mutes IS 'What is not to be sent for a while. Alerts are made, stored and shown all the same.';
COMMENT ON COLUMN alert_mutes.mute_id IS 'Names it, to end it.';
COMMENT ON COLUMN alert_mutes.rule IS 'Only alerts of this rule; null means of every one.';
COMMENT ON COLUMN alert_mutes.symbol IS 'Only alerts of this symbol; null means of every one.';
COMMENT ON COLUMN alert_mutes.channel IS 'Only on this channel; null means on every one.';
COMMENT ON COLUMN alert_mutes.muted_from IS 'From when.';
COMMENT ON COLUMN alert_mutes.muted_to IS 'Until when.';
COMMENT ON COLUMN alert_mutes.muted_by IS 'Who: page, api, command, or the name that was given.';
COMMENT ON COLUMN alert_mutes.note IS 'Why.';

COMMENT ON TABLE channel_health IS 'How each channel for messages does: one row per channel, written by the sender.';
COMMENT ON COLUMN channel_health.channel IS 'Its name in alerts.toml.';
COMMENT ON COLUMN channel_health.kind IS 'slack, email, webhook, …';
COMMENT ON COLUMN channel_health.accepted_at IS 'When it accepted a message last.';
COMMENT ON COLUMN channel_health.failed_at IS 'When it failed last.';
COMMENT ON COLUMN channel_health.last_error IS 'Why it failed last.';
COMMENT ON COLUMN channel_health.failures IS 'Failures in a row; 0 after a success.';
COMMENT ON COLUMN channel_health.paused_until IS 'It asked to be left alone until then.';
COMMENT ON COLUMN channel_health.updated_at IS 'When this row was written.';

COMMENT ON TABLE system_alerts IS 'System Down: what of the system was not well, from when to when.';
COMMENT ON COLUMN system_alerts.system_id IS 'Names it.';
COMMENT ON COLUMN system_alerts.rule IS 'The rule of kind system that said so; system_down by default.';
COMMENT ON COLUMN system_alerts.room IS 'feed and its market, log, engine, store, disk, notify; or all.';
COMMENT ON COLUMN system_alerts.state IS 'down, recovered, or test (nothing was wrong).';
COMMENT ON COLUMN system_alerts.began_at IS 'Since when it was not well.';
COMMENT ON COLUMN system_alerts.announced_at IS 'When it was told; null if it was over sooner than the rule waits.';
COMMENT ON COLUMN system_alerts.recovered_at IS 'When it was well again; null while it is not.';
COMMENT ON COLUMN system_alerts.detail IS 'What was wrong, as a sentence.';

COMMENT ON TABLE engine_state IS 'How far each lane has consumed its log. Moved in the transaction that writes the rows.';
COMMENT ON COLUMN engine_state.lane IS 'embedded, or one Kafka partition.';
COMMENT ON COLUMN engine_state.log_id IS 'The log these rows come from.';
COMMENT ON COLUMN engine_state.origin IS 'SIMULATED, REPLAYED or LIVE; never mixed in one database.';
COMMENT ON COLUMN engine_state.position IS 'Offset of the next log record to consume.';
COMMENT ON COLUMN engine_state.snapshot IS 'The engine''s state as of snapshot_position.';
COMMENT ON COLUMN engine_state.snapshot_position IS 'Position at which the snapshot was taken: at or before position.';
COMMENT ON COLUMN engine_state.updated_at IS 'When the position last moved.';

COMMENT ON TABLE refused_rows IS 'Rows that the database refused, kept aside so that they hold up nothing. Normally empty.';
COMMENT ON COLUMN refused_rows.lane IS 'The lane that wrote it.';
COMMENT ON COLUMN refused_rows.log_position IS 'Position after the commit it belongs to.';
COMMENT ON COLUMN refused_rows.symbol IS 'Product symbol, unprintable characters replaced.';
COMMENT ON COLUMN refused_rows.table_name IS 'The table it was meant for.';
COMMENT ON COLUMN refused_rows.reason IS 'What the database said.';
COMMENT ON COLUMN refused_rows.row_data IS 'The row, as far as JSON can hold it.';
COMMENT ON COLUMN refused_rows.refused_at IS 'When it was refused.';

COMMENT ON TABLE row_revisions IS 'Rows that were corrected by what the exchange said afterwards (tapewatch reconcile DAY --revise), before and after.';
COMMENT ON COLUMN row_revisions.table_name IS 'stock_aggregates or price_bars.';
COMMENT ON COLUMN row_revisions.symbol IS 'Product symbol.';
COMMENT ON COLUMN row_revisions.row_start IS 'window_start or bar_start of the row.';
COMMENT ON COLUMN row_revisions.number IS '1 for the first correction of that row, then 2, ...';
COMMENT ON COLUMN row_revisions.reason IS 'What was different: trades missing, cancelled, corrected or late.';
COMMENT ON COLUMN row_revisions.old_row IS 'The row before, by column; null if there was none.';
COMMENT ON COLUMN row_revisions.new_row IS 'The row after, by column; null if there is none any more.';
COMMENT ON COLUMN row_revisions.revised_at IS 'When it was corrected.';

-- 7. Rights. What runs as its owner looks for its tables here alone, and is for the writer only.
DO $$
DECLARE
  here text := current_schema();
  path text := concat_ws(', ', quote_ident(here),
                         (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                          WHERE e.extname = 'timescaledb' AND n.nspname <> here), 'pg_temp');
BEGIN
  EXECUTE format('ALTER PROCEDURE keep_rows(boolean) SET search_path = %s', path);
  EXECUTE format('ALTER PROCEDURE prune_old_rows(integer) SET search_path = %s', path);
  REVOKE EXECUTE ON PROCEDURE keep_rows(boolean), prune_old_rows(integer) FROM PUBLIC;
  REVOKE EXECUTE ON FUNCTION advance_position(text, text, bigint, bigint, bytea) FROM PUBLIC;

  IF to_regrole('tapewatch_writer') IS NOT NULL THEN
    GRANT SELECT, INSERT, UPDATE, TRUNCATE ON stock_aggregates, price_bars, breakout_alerts, latest_prices, feed_gaps,
      minute_quality, notifications, engine_state, refused_rows, row_revisions, alert_rules, alert_marks, alert_mutes,
      channel_health, system_alerts TO tapewatch_writer;
    GRANT SELECT ON latest_stock_data, quality_grades TO tapewatch_writer;
    GRANT SELECT, TRUNCATE ON price_bars_1h, price_bars_1d TO tapewatch_writer;
    GRANT EXECUTE ON PROCEDURE keep_rows(boolean), prune_old_rows(integer) TO tapewatch_writer;
    GRANT EXECUTE ON FUNCTION advance_position(text, text, bigint, bigint, bytea),
      get_golden_crosses(text, integer, timestamptz), get_death_crosses(text, integer, timestamptz),
      get_indicators(text, timestamptz, timestamptz, integer) TO tapewatch_writer;
  END IF;
  IF to_regrole('tapewatch_reader') IS NOT NULL THEN
    GRANT SELECT ON stock_aggregates, price_bars, breakout_alerts, latest_prices, feed_gaps, minute_quality, notifications,
      engine_state, refused_rows, row_revisions, price_bars_1h, price_bars_1d, latest_stock_data, quality_grades,
      alert_rules, alert_marks, alert_mutes, channel_health, system_alerts TO tapewatch_reader;
    GRANT EXECUTE ON FUNCTION get_golden_crosses(text, integer, timestamptz),
      get_death_crosses(text, integer, timestamptz), get_indicators(text, timestamptz, timestamptz, integer)
      TO tapewatch_reader;
  END IF;
  IF to_regrole('tapewatch_grafana') IS NOT NULL THEN
    GRANT SELECT ON stock_aggregates, price_bars, breakout_alerts, feed_gaps, minute_quality, price_bars_1h, price_bars_1d,
      latest_stock_data, quality_grades TO tapewatch_grafana;
    GRANT EXECUTE ON FUNCTION get_golden_crosses(text, integer, timestamptz),
      get_death_crosses(text, integer, timestamptz), get_indicators(text, timestamptz, timestamptz, integer)
      TO tapewatch_grafana;
  END IF;
END $$;

-- 8. What a role that may not create anything looks at: are these tables as its program expects them? Last of all that is
-- made, so that it is true. To be raised with every change of this file; a test holds that.
CREATE OR REPLACE FUNCTION schema_version() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 5';
COMMENT ON FUNCTION schema_version IS 'Number of the tables'' version: SCHEMA_VERSION of the program that made them.';

RESET ROLE;
SELECT pg_advisory_unlock(hashtext('tapewatch init_db'));
RESET client_min_messages;
