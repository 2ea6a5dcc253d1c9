-- What trainings and scans write.
--
-- A role that may train has no right on the tables: it writes through these functions, which run
-- with their owner's rights. None of them reads the history, or runs anything of the caller's. A
-- blob is not looked into here but each time that a session loads it.

CREATE OR REPLACE FUNCTION _ml_well_formed(ok boolean, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF ok IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('that is no %s', what),
            DETAIL = 'A value is missing, of another form or out of range.',
            HINT = 'CALL @extschema@.ml_retrain(); CALL @extschema@.ml_scan(); -- which write what is right';
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_well_formed(boolean, text) IS 'Refuses to write what no training and no scan writes (ML004).';

CREATE OR REPLACE FUNCTION _ml_lock(task text, what text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    LOOP -- until whoever makes or drops the row has ended
        PERFORM FROM ml_lock l WHERE l.task = _ml_lock.task AND l.what = _ml_lock.what FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO ml_lock (task, what) VALUES (task, what) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _ml_lock(text, text) IS 'Waits for a task and takes it until the transaction ends.';

CREATE OR REPLACE FUNCTION _ml_try_lock(task text, what text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp SET lock_timeout = '100ms'
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM FROM ml_lock l WHERE l.task = _ml_try_lock.task AND l.what = _ml_try_lock.what FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN true;
    ELSIF EXISTS (SELECT FROM ml_lock l WHERE l.task = _ml_try_lock.task AND l.what = _ml_try_lock.what) THEN
        RETURN false;
    END IF;
    BEGIN
        -- Waits a short time where another open transaction has inserted the same row.
        INSERT INTO ml_lock (task, what) VALUES (task, what) ON CONFLICT DO NOTHING;
        RETURN FOUND;
    EXCEPTION WHEN lock_not_available OR serialization_failure THEN
        RETURN false;
    END;
END
$$;
COMMENT ON FUNCTION _ml_try_lock(text, text) IS 'Takes a task until the transaction ends; false where another session has it.';

CREATE OR REPLACE FUNCTION _ml_lock_model(device uuid, kind text, field text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ SELECT _ml_lock('model', concat_ws('/', device, kind, field)) $$;
COMMENT ON FUNCTION _ml_lock_model(uuid, text, text) IS 'Makes those who move the is_current mark of one device, kind and field take turns, until the transaction ends.';

CREATE OR REPLACE FUNCTION _ml_put_model(device uuid, kind text, field text, window_start float8, window_end float8, used int, rejected int, parameters jsonb, figures jsonb, versions jsonb, seconds float8, blob bytea) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    made bigint;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND kind ~ '^[a-z][a-z0-9_]{0,30}$' AND length(field) <= 1000
        AND window_start BETWEEN -2e11 AND 9e12 AND window_end BETWEEN -2e11 AND 9e12 AND used >= 0 AND rejected >= 0
        AND jsonb_typeof(parameters) = 'object' AND jsonb_typeof(figures) = 'object' AND jsonb_typeof(versions) = 'object'
        AND octet_length(concat(parameters, figures, versions)) <= 2000000
        AND seconds BETWEEN 0 AND 1e9 AND octet_length(blob) BETWEEN 1 AND 8388608, 'model');
    PERFORM _ml_lock_model(device, kind, field);
    UPDATE ml_model m SET is_current = false
    WHERE m.device_uuid = device AND m.kind = _ml_put_model.kind AND m.field = _ml_put_model.field AND m.is_current;
    INSERT INTO ml_model AS m (device_uuid, kind, field, is_current, window_start, window_end, readings_used, readings_rejected,
        parameters, figures, versions, seconds, sha256, blob)
    VALUES (device, kind, field, true, to_timestamp(window_start), to_timestamp(window_end), used, rejected,
        parameters, figures, versions, seconds, encode(sha256(blob), 'hex'), blob) RETURNING m.model_id INTO made;
    INSERT INTO ml_run (device_uuid, kind, field, seconds, outcome, model_id, figures)
    VALUES (device, kind, field, seconds, 'trained', made, figures);
    RETURN made;
END
$$;
COMMENT ON FUNCTION _ml_put_model(uuid, text, text, float8, float8, int, int, jsonb, jsonb, jsonb, float8, bytea) IS 'Adds a model, puts it in force and records the training; gives its model_id.';

CREATE OR REPLACE FUNCTION _ml_put_run(device uuid, kind text, field text, seconds float8, outcome text, model_id bigint, figures jsonb, sqlstate text, error text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND kind ~ '^[a-z][a-z0-9_]{0,30}$' AND length(field) <= 1000
        AND seconds BETWEEN 0 AND 1e9 AND CASE outcome WHEN 'kept' THEN jsonb_typeof(figures) = 'object' AND octet_length(figures::text) <= 2000000
            WHEN 'failed' THEN sqlstate ~ '^[0-9A-Z]{5}$' AND length(error) <= 100000 END, 'run');
    -- The setting names fields for a whole fleet, and no device has to report them all.
    IF outcome = 'failed' AND sqlstate = 'ML003' AND field <> ''
       AND NOT EXISTS (SELECT FROM ml_device_forecast o WHERE o.device_uuid = device)
       AND NOT EXISTS (SELECT FROM ml_model m WHERE m.device_uuid = device AND m.kind = _ml_put_run.kind AND m.field = _ml_put_run.field AND m.is_current) THEN
        outcome := 'absent';
    END IF;
    -- Where the fleet's model does as well, it is in force, and the device's own no longer.
    IF outcome = 'kept' AND EXISTS (SELECT FROM ml_model f WHERE f.model_id = _ml_put_run.model_id AND f.device_uuid = _ml_whole_fleet()) THEN
        PERFORM _ml_lock_model(device, kind, field);
        UPDATE ml_model m SET is_current = false
        WHERE m.device_uuid = device AND m.kind = _ml_put_run.kind AND m.field = _ml_put_run.field AND m.is_current;
    END IF;
    INSERT INTO ml_run (device_uuid, kind, field, started_at, seconds, outcome, model_id, figures, sqlstate, error)
    VALUES (device, kind, field, clock_timestamp() - make_interval(secs => CASE outcome WHEN 'kept' THEN 0 ELSE seconds END),
        seconds, outcome, model_id, figures, sqlstate, error);
    RETURN outcome;
END
$$;
COMMENT ON FUNCTION _ml_put_run(uuid, text, text, float8, text, bigint, jsonb, text, text) IS 'Records a training of which no model came: kept (the one in force was better) or failed. Gives the outcome: absent for a field of the setting that the device does not report.';

CREATE OR REPLACE FUNCTION _ml_prune(device uuid, kind text, field text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    DELETE FROM ml_model m
    WHERE m.device_uuid = $1 AND m.kind = $2 AND m.field = $3 AND NOT m.is_current
      AND m.model_id NOT IN (SELECT n.model_id FROM ml_model n WHERE n.device_uuid = $1 AND n.kind = $2
          AND n.field = $3 ORDER BY n.model_id DESC LIMIT (SELECT s.value::int FROM ml_setting s WHERE s.name = 'models_kept'));
    DELETE FROM ml_model m
    WHERE m.device_uuid = $1 AND m.trained_with IS NOT NULL AND NOT m.is_current
      AND NOT EXISTS (SELECT FROM ml_model n WHERE n.model_id = m.trained_with);
END
$$;
COMMENT ON FUNCTION _ml_prune(uuid, text, text) IS 'Drops all but the newest models_kept models of a device, kind and field, and the one in force; with a forest go the finders that were trained with it.';

CREATE OR REPLACE FUNCTION _ml_put_anomalies(device uuid, tier text, foretold boolean, times float8[], scores float8[], severities text[], metrics text[], reasons text[], models bigint[], rarities float8[]) RETURNS SETOF float8
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND tier ~ '^[a-z][a-z0-9_]{0,30}$' AND foretold IS NOT NULL AND bool_and((f.epoch BETWEEN -2e11 AND 9e12
        AND f.score BETWEEN -1e300 AND 1e300 AND f.severity IN ('warning', 'critical') AND jsonb_typeof(f.metrics::jsonb) = 'object'
        AND jsonb_typeof(f.reasons::jsonb) = 'array' AND f.model_id > 0 AND coalesce(f.rarity BETWEEN 0 AND 1e6, true)) IS TRUE), 'anomaly')
    FROM unnest(times, scores, severities, metrics, reasons, models, rarities) AS f (epoch, score, severity, metrics, reasons, model_id, rarity);
    -- An anomaly that was logged before stays as it is: each reading is judged once.
    RETURN QUERY INSERT INTO ml_anomaly AS a (device_uuid, "timestamp", tier, foretold, score, severity, metrics, reasons, model_id, rarity)
    SELECT device, to_timestamp(f.epoch), _ml_put_anomalies.tier, _ml_put_anomalies.foretold, f.score, f.severity, f.metrics::jsonb, f.reasons::jsonb, f.model_id, f.rarity
    FROM unnest(times, scores, severities, metrics, reasons, models, rarities) AS f (epoch, score, severity, metrics, reasons, model_id, rarity)
    ON CONFLICT DO NOTHING RETURNING date_part('epoch', a."timestamp");
END
$$;
COMMENT ON FUNCTION _ml_put_anomalies(uuid, text, boolean, float8[], float8[], text[], text[], text[], bigint[], float8[]) IS 'Adds a scan''s anomalies to the log; gives the times of those that are new.';

CREATE OR REPLACE FUNCTION _ml_pool_peaks() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp SET jit = off -- whose compiling takes longer than the statement
AS $$
BEGIN
    @PYML_AT_HOME@
    -- Figures are what a training says: one that says more than it can have seen is left out.
    WITH model AS MATERIALIZED (
        SELECT m.kind, m.device_uuid, m.figures -> 'ordinary_hours' AS hours, m.figures -> 'peaks' AS peaks
        FROM ml_model m WHERE m.is_current
    ), said AS MATERIALIZED (
        SELECT m.kind, m.device_uuid, m.peaks, CASE WHEN jsonb_typeof(m.hours) = 'number' AND jsonb_typeof(m.peaks) = 'array' THEN
            CASE WHEN (m.hours #>> '{}')::numeric BETWEEN 0 AND 87840 AND jsonb_array_length(m.peaks) <= 100 THEN (m.hours #>> '{}')::float8 END END AS hours
        FROM model m
    ), peak AS (
        SELECT p.kind, p.height, row_number() OVER (PARTITION BY p.kind ORDER BY p.height DESC) AS count
        FROM (SELECT s.kind, CASE WHEN jsonb_typeof(e.value) = 'number' THEN
                CASE WHEN (e.value #>> '{}')::numeric BETWEEN 0 AND 1000 THEN (e.value #>> '{}')::float8 END END AS height
              FROM said s, jsonb_array_elements(CASE WHEN s.hours > 0 THEN s.peaks END) AS e) AS p
        WHERE p.height IS NOT NULL
    ), kept AS MATERIALIZED (
        SELECT p.kind, p.height, p.count FROM peak p
        WHERE p.count <= 20 OR floor(20 * ln(p.count)) > floor(20 * ln(p.count - 1))
    )
    INSERT INTO ml_rarity AS r (detector, devices, hours, heights, counts)
    SELECT s.kind, count(DISTINCT s.device_uuid), sum(s.hours),
        ARRAY(SELECT k.height FROM kept k WHERE k.kind = s.kind ORDER BY k.count),
        ARRAY(SELECT k.count FROM kept k WHERE k.kind = s.kind ORDER BY k.count)
    FROM said s WHERE s.hours > 0 GROUP BY s.kind
    ON CONFLICT (detector) DO UPDATE SET devices = EXCLUDED.devices, hours = EXCLUDED.hours, heights = EXCLUDED.heights,
        counts = EXCLUDED.counts, pooled_at = now();
END
$$;
COMMENT ON FUNCTION _ml_pool_peaks() IS 'Writes ml_rarity anew, of the models in force.';

CREATE OR REPLACE FUNCTION _ml_put_forecast(device uuid, kind text, field text, level float8, model_id bigint, last_reading float8, times float8[], predicted float8[], lower float8[], upper float8[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND kind ~ '^[a-z][a-z0-9_]{0,30}$' AND length(field) BETWEEN 1 AND 1000 AND level > 0 AND level < 1 AND model_id > 0
        AND cardinality(times) <= 1000 AND bool_and((f.epoch > last_reading AND f.epoch <= 9e12 AND f.predicted BETWEEN -1e300 AND 1e300
        AND f.lower BETWEEN -1e300 AND 1e300 AND f.upper BETWEEN -1e300 AND 1e300) IS TRUE), 'forecast')
    FROM unnest(times, predicted, lower, upper) AS f (epoch, predicted, lower, upper);
    -- The newest forecast replaces those after the last reading; earlier ones stay.
    DELETE FROM ml_forecast_point p WHERE p.device_uuid = device AND p.kind = _ml_put_forecast.kind AND p.field = _ml_put_forecast.field
      AND (p."timestamp" > to_timestamp(last_reading)
           OR p."timestamp" < now() - make_interval(days => (SELECT s.value::int FROM ml_setting s WHERE s.name = 'forecast_days')));
    WITH quiet AS MATERIALIZED (
        SELECT q.starts_at, q.ends_at FROM _ml_quiet_spans(device, to_timestamp(last_reading), (SELECT max(to_timestamp(t)) FROM unnest(times) AS t)) AS q
        WHERE q.names IS NULL OR _ml_put_forecast.field = ANY (q.names)
    )
    INSERT INTO ml_forecast_point (device_uuid, kind, field, "timestamp", predicted, lower, upper, level, breach, model_id, made_at)
    SELECT device, _ml_put_forecast.kind, _ml_put_forecast.field, to_timestamp(f.epoch), f.predicted, f.lower, f.upper, _ml_put_forecast.level,
        CASE WHEN EXISTS (SELECT FROM quiet q WHERE to_timestamp(f.epoch) >= q.starts_at AND to_timestamp(f.epoch) < q.ends_at) THEN NULL
            WHEN f.predicted >= k.limit_high THEN k.limit_high WHEN f.predicted <= k.limit_low THEN k.limit_low END,
        _ml_put_forecast.model_id, now()
    FROM unnest(times, predicted, lower, upper) AS f (epoch, predicted, lower, upper)
    CROSS JOIN _ml_limits_of(device, _ml_put_forecast.field) AS k;
END
$$;
COMMENT ON FUNCTION _ml_put_forecast(uuid, text, text, float8, bigint, float8, float8[], float8[], float8[], float8[]) IS 'Replaces what a forecaster said of a field after its device''s last reading, and marks what reaches a limit of its metric, or of a rule, outside of quiet windows.';

CREATE OR REPLACE FUNCTION _ml_put_scan(device uuid, sqlstate text, error text, watermark float8, late_rows int, readings int, anomalies int, unreadable bigint[], last_reading float8, late_id bigint, hour_rows int[], counted_to float8, counted_at float8, silent_from float8, scanned_from float8) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL
        AND length(coalesce(error, '')) <= 100000 AND coalesce(sqlstate, '00000') ~ '^[0-9A-Z]{5}$'
        AND coalesce(watermark, 0) <> 'NaN' AND coalesce(last_reading, 0) <> 'NaN' AND coalesce(silent_from, 0) BETWEEN -2e11 AND 9e12 AND coalesce(scanned_from, 0) BETWEEN -2.2e11 AND 9e12
        AND late_rows >= 0 AND readings >= 0 AND anomalies >= 0 AND cardinality(unreadable) <= 1000
        AND num_nulls(hour_rows, counted_to, counted_at) IN (0, 3) AND coalesce(counted_to + counted_at, 0) <> 'NaN'
        AND coalesce(cardinality(hour_rows), 48) = 48 AND array_position(coalesce(hour_rows, '{}'), NULL) IS NULL, 'scan');
    DELETE FROM ml_late l WHERE l.device_uuid = device AND l.late_id <= _ml_put_scan.late_id;
    INSERT INTO ml_scan_state AS s (device_uuid, scanned_at, outcome, sqlstate, error, watermark, late_rows, readings, anomalies,
        unreadable, last_reading, hour_rows, counted_to, counted_at, silent_from, scanned_from)
    VALUES (device, clock_timestamp(), CASE WHEN sqlstate IS NULL THEN 'scanned' ELSE 'failed' END, sqlstate, error, to_timestamp(watermark),
        late_rows, readings, anomalies, unreadable, to_timestamp(last_reading),
        hour_rows, to_timestamp(counted_to), to_timestamp(counted_at), to_timestamp(silent_from), to_timestamp(scanned_from))
    ON CONFLICT (device_uuid) DO UPDATE SET scanned_at = EXCLUDED.scanned_at, outcome = EXCLUDED.outcome, sqlstate = EXCLUDED.sqlstate,
        error = EXCLUDED.error, watermark = EXCLUDED.watermark, late_rows = EXCLUDED.late_rows, readings = EXCLUDED.readings,
        anomalies = EXCLUDED.anomalies, unreadable = EXCLUDED.unreadable, last_reading = EXCLUDED.last_reading,
        hour_rows = EXCLUDED.hour_rows, counted_to = EXCLUDED.counted_to, counted_at = EXCLUDED.counted_at, silent_from = EXCLUDED.silent_from,
        scanned_from = least(s.scanned_from, EXCLUDED.scanned_from), retired_at = NULL;
END
$$;
COMMENT ON FUNCTION _ml_put_scan(uuid, text, text, float8, int, int, int, bigint[], float8, bigint, int[], float8, float8, float8, float8) IS 'Writes where the scan of a device stands, and that it has looked at what came late, up to the note late_id.';

CREATE OR REPLACE FUNCTION _ml_put_counts(device uuid, hour_rows int[], counted_at float8, first_at float8, last_at float8) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    noted bigint;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(cardinality(hour_rows) = 48 AND array_position(hour_rows, NULL) IS NULL AND counted_at BETWEEN -2e11 AND 9e12
        AND (num_nulls(first_at, last_at) = 2 OR first_at BETWEEN -2e11 AND last_at AND last_at <= 9e12), 'count of rows');
    UPDATE ml_scan_state s SET hour_rows = _ml_put_counts.hour_rows, counted_at = to_timestamp(_ml_put_counts.counted_at)
    WHERE s.device_uuid = device AND s.counted_to IS NOT NULL;
    IF FOUND AND first_at IS NOT NULL THEN
        INSERT INTO ml_late AS l (device_uuid, first_at, last_at) VALUES (device, to_timestamp(first_at), to_timestamp(last_at))
        RETURNING l.late_id INTO noted;
    END IF;
    RETURN noted;
END
$$;
COMMENT ON FUNCTION _ml_put_counts(uuid, int[], float8, float8, float8) IS 'Writes how many rows a device has in each of the last 48 hours, and in which of them rows came late; gives the number of that note.';

CREATE OR REPLACE FUNCTION _ml_put_arrivals(history text, last_id bigint, missing int8multirange, devices uuid[], first_at float8[], last_at float8[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(length(history) BETWEEN 1 AND 1000 AND last_id IS NOT NULL AND octet_length(missing::text) <= 1000000
        AND NOT EXISTS (SELECT FROM unnest(devices, first_at, last_at) AS f (device, first_at, last_at)
            WHERE (f.device IS NOT NULL AND f.first_at BETWEEN -2e11 AND f.last_at AND f.last_at <= 9e12) IS NOT TRUE), 'arrival');
    DELETE FROM ml_arrival a WHERE a.history <> _ml_put_arrivals.history;
    INSERT INTO ml_arrival AS a (history, last_id, missing, mark_id, mark_xid, mark_at)
    VALUES (history, last_id, missing, last_id, pg_snapshot_xmax(pg_current_snapshot()), clock_timestamp())
    ON CONFLICT ON CONSTRAINT ml_arrival_pkey DO UPDATE SET last_id = EXCLUDED.last_id, missing = EXCLUDED.missing;
    -- A device that was never scanned is looked at from scan_first_hours on.
    INSERT INTO ml_late (device_uuid, first_at, last_at)
    SELECT f.device, to_timestamp(f.first_at), to_timestamp(f.last_at) FROM unnest(devices, first_at, last_at) AS f (device, first_at, last_at)
    JOIN ml_scan_state s ON s.device_uuid = f.device AND s.watermark IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _ml_put_arrivals(text, bigint, int8multirange, uuid[], float8[], float8[]) IS 'Writes which rows of the history have arrived, by their ids, and in which spans of time the devices'' late ones lie.';

CREATE OR REPLACE FUNCTION _ml_settle_arrivals(history text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_arrival a SET missing = a.missing * int8multirange(int8range(a.mark_id, NULL, '()')),
        mark_id = a.last_id, mark_xid = pg_snapshot_xmax(pg_current_snapshot()), mark_at = clock_timestamp()
    WHERE a.history = _ml_settle_arrivals.history AND (a.mark_at < clock_timestamp() - interval '1 day'
       OR a.mark_at < clock_timestamp() - make_interval(mins => (SELECT s.value::int FROM ml_setting s WHERE s.name = 'scan_late_minutes'))
          AND a.mark_xid <= pg_snapshot_xmin(pg_current_snapshot()));
END
$$;
COMMENT ON FUNCTION _ml_settle_arrivals(text) IS 'Waits no longer for ids whose transactions have all ended, or that have been missing for a day.';

CREATE OR REPLACE FUNCTION _ml_put_signals(device uuid, metrics text[], rhythm float8[], last_value float8[], last_at float8[], quality text[], since float8[], missing int[], out_of_range int[], junk int[], reset int[], messages int[], bad_clock int, hours jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND cardinality(messages) = 4 AND 0 <= ALL (messages) AND bad_clock >= 0 AND jsonb_typeof(hours) = 'array' AND count(*) BETWEEN 1 AND 200
        AND bool_and((f.metric <> '' AND length(f.metric) <= 1000 AND f.rhythm BETWEEN 0 AND 1e9 AND coalesce(abs(f.last_value), 0) <= 1e300 AND coalesce(f.last_at, 0) BETWEEN -2e11 AND 9e12
            AND f.since BETWEEN -2e11 AND 9e12 AND f.quality IN ('ok', 'missing', 'out of range', 'junk', 'reset') AND least(f.missing, f.out_of_range, f.junk, f.reset) >= 0) IS TRUE), 'state of signals')
    FROM unnest(metrics, rhythm, last_value, last_at, quality, since, missing, out_of_range, junk, reset) AS f (metric, rhythm, last_value, last_at, quality, since, missing, out_of_range, junk, reset);
    INSERT INTO ml_signal_state
    VALUES (device, metrics, rhythm, last_value, ARRAY(SELECT to_timestamp(t) FROM unnest(last_at) WITH ORDINALITY AS u (t, place) ORDER BY place), quality,
        ARRAY(SELECT to_timestamp(t) FROM unnest(since) WITH ORDINALITY AS u (t, place) ORDER BY place), missing, out_of_range, junk, reset, messages, bad_clock, hours)
    ON CONFLICT (device_uuid) DO UPDATE SET metrics = EXCLUDED.metrics, rhythm = EXCLUDED.rhythm, last_value = EXCLUDED.last_value, last_at = EXCLUDED.last_at,
        quality = EXCLUDED.quality, since = EXCLUDED.since, missing = EXCLUDED.missing, out_of_range = EXCLUDED.out_of_range, junk = EXCLUDED.junk, reset = EXCLUDED.reset,
        messages = EXCLUDED.messages, bad_clock = EXCLUDED.bad_clock, hours = EXCLUDED.hours;
END
$$;
COMMENT ON FUNCTION _ml_put_signals(uuid, text[], float8[], float8[], float8[], text[], float8[], int[], int[], int[], int[], int[], int, jsonb) IS 'Writes how a device''s signals are measured.';

CREATE OR REPLACE FUNCTION _ml_note_scan(device uuid, outcome text, code text, words text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    IF outcome = 'unchanged' THEN
        UPDATE ml_scan_state s SET scanned_at = clock_timestamp(), readings = 0, anomalies = 0, outcome = 'unchanged', retired_at = NULL
        WHERE s.device_uuid = device;
        RETURN;
    END IF;
    PERFORM _ml_well_formed(device IS NOT NULL AND outcome = 'failed' AND code ~ '^[0-9A-Z]{5}$' AND length(words) <= 100000, 'scan');
    INSERT INTO ml_scan_state AS s (device_uuid, scanned_at, outcome, sqlstate, error)
    VALUES (device, clock_timestamp(), 'failed', code, words)
    ON CONFLICT (device_uuid) DO UPDATE SET scanned_at = EXCLUDED.scanned_at, outcome = 'failed',
        sqlstate = EXCLUDED.sqlstate, error = EXCLUDED.error, readings = 0, anomalies = 0, retired_at = NULL;
END
$$;
COMMENT ON FUNCTION _ml_note_scan(uuid, text, text, text) IS 'Writes that a scan found nothing new (unchanged) or came to nothing (failed).';

CREATE OR REPLACE FUNCTION _ml_put_retired(devices uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    DELETE FROM ml_signal_state s WHERE s.device_uuid = ANY (devices);
    DELETE FROM ml_capacity_state c WHERE c.device_uuid = ANY (devices);
    DELETE FROM ml_late l WHERE l.device_uuid = ANY (devices);
    PERFORM _ml_resolve_retired(devices);
    DELETE FROM ml_scan_state s WHERE s.device_uuid = ANY (devices)
        AND NOT EXISTS (SELECT FROM ml_model m WHERE m.device_uuid = s.device_uuid AND m.is_current);
    INSERT INTO ml_scan_state AS s (device_uuid, scanned_at, outcome, retired_at)
    SELECT g.device, clock_timestamp(), 'unchanged', '-infinity' FROM unnest(devices) AS g (device)
    WHERE EXISTS (SELECT FROM ml_model m WHERE m.device_uuid = g.device AND m.is_current)
    ON CONFLICT (device_uuid) DO UPDATE SET retired_at = '-infinity' WHERE s.retired_at IS DISTINCT FROM '-infinity';
END
$$;
COMMENT ON FUNCTION _ml_put_retired(uuid[]) IS 'Retires devices that the history no longer holds.';

CREATE OR REPLACE FUNCTION _ml_put_unretired(device uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_scan_state s SET retired_at = NULL WHERE s.device_uuid = device AND s.retired_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _ml_put_unretired(uuid) IS 'Ends the retirement of a device.';
