-- Every function and its COMMENT. Re-runnable: replaced whole at each upgrade.
--
-- A door is a thin plpgsql function over a PL/Python one whose name begins with
-- an underscore. The Python side hands a user's mistake over as data and the door
-- raises it, so that the user reads the error and not a Python traceback.

-- Two texts of sql/snippets stand in many bodies, where a function would have to be looked up
-- by its name. PYML_LOAD loads the Python package into the session, once. It is found at one
-- path, fixed when the extension is installed: a path that a user could set would be a way to
-- run code as the server. It is loaded without a statement: plpy.execute opens a
-- subtransaction, and in parallel mode its error would jump over Python's frames.
-- PYML_AT_HOME raises ML006 where the schema that this extension's functions look things
-- up in is not the extension's: it was renamed, and may be anybody's by now.

CREATE OR REPLACE FUNCTION _ml_raise(error jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF error ->> 'hint' IS NULL THEN -- an error of PostgreSQL's own, such as a cancel
        RAISE EXCEPTION USING ERRCODE = error ->> 'sqlstate', MESSAGE = error ->> 'message';
    END IF;
    RAISE EXCEPTION USING ERRCODE = error ->> 'sqlstate', MESSAGE = error ->> 'message',
        DETAIL = coalesce(error ->> 'detail', ''), HINT = error ->> 'hint';
END
$$;
COMMENT ON FUNCTION _ml_raise(jsonb) IS 'Raises the error that the Python side handed over.';

CREATE OR REPLACE FUNCTION _ml_at_home() RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
END
$$;
COMMENT ON FUNCTION _ml_at_home() IS 'Raises ML006 where the extension''s schema was renamed; for workers outside the server, which call inner functions.';

CREATE OR REPLACE FUNCTION _ml_answer(answer jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF answer ? 'error' THEN
        PERFORM _ml_raise(answer -> 'error');
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION _ml_answer(jsonb) IS 'The answer itself, or the error that it carries, raised.';

CREATE OR REPLACE FUNCTION _ml_notice(words text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN RAISE NOTICE '%', words; END $$;
COMMENT ON FUNCTION _ml_notice(text) IS 'Tells the caller of the Python side something beside the answer.';

-- Settings and metrics -------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_check_setting() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
    number float8;
    held jsonb;
BEGIN
    @PYML_AT_HOME@
    IF TG_OP IN ('DELETE', 'TRUNCATE') OR TG_OP = 'UPDATE' AND (NEW.name, NEW.kind, NEW.minimum, NEW.maximum)
       IS DISTINCT FROM (OLD.name, OLD.kind, OLD.minimum, OLD.maximum) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'a setting is given another value, and nothing else',
            DETAIL = 'Each function relies on all settings, and on their kinds and ranges.',
            HINT = CASE TG_OP WHEN 'TRUNCATE' THEN format('UPDATE %I.ml_setting SET value = default_value;', TG_TABLE_SCHEMA)
                ELSE format('UPDATE %I.ml_setting SET value = default_value WHERE name = %L;', TG_TABLE_SCHEMA, OLD.name) END;
    END IF;
    IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM ml_setting s WHERE s.name = NEW.name) THEN
        -- A restored dump brings rows that CREATE EXTENSION has already made.
        UPDATE ml_setting s SET value = NEW.value WHERE s.name = NEW.name;
        RETURN NULL;
    END IF;
    BEGIN
        CASE NEW.kind
            -- Kept as Python reads it too: PostgreSQL takes ' 1 ', and some servers 0x1p-6 and 1_000.
            WHEN 'integer' THEN number := NEW.value::bigint; NEW.value := NEW.value::bigint;
            WHEN 'number' THEN number := NEW.value::float8; NEW.value := number::numeric;
            WHEN 'json' THEN held := NEW.value::jsonb;
            WHEN 'table' THEN
                IF array_length(parse_ident(NEW.value), 1) IS DISTINCT FROM 2 THEN
                    wanted := 'a table as schema.name';
                END IF;
            WHEN 'zone' THEN PERFORM now() AT TIME ZONE NEW.value;
            WHEN 'identifier' THEN
                IF length(NEW.value) > 63 OR (NEW.value = '' AND NEW.name <> 'history_shadow_column') THEN
                    wanted := 'a column name';
                END IF;
            ELSE NULL;
        END CASE;
    EXCEPTION WHEN data_exception THEN
        wanted := CASE NEW.kind WHEN 'integer' THEN 'a whole number' WHEN 'number' THEN 'a number'
            WHEN 'json' THEN 'a JSON document' WHEN 'table' THEN 'a table as schema.name'
            ELSE 'the name of a time zone' END;
    END;
    IF NEW.name = 'forecast_fields' AND (jsonb_typeof(held) <> 'array' OR held @? 'strict $[*] ? (@.type() != "string")') THEN
        wanted := 'a JSON array of fields';
    ELSIF NEW.name = 'forecast_fields' AND EXISTS (SELECT FROM jsonb_array_elements_text(held) AS f (field)
            WHERE f.field !~ '^[^.]+([.][^.]+)*$' OR length(f.field) > 1000) THEN
        wanted := 'a JSON array of fields, each a dotted path or the name of a metric';
    ELSIF NEW.name = 'forecast_limits' AND held @? 'strict $.* ? (@ > 1e15 || @ < -1e15)' THEN
        wanted := 'a JSON object with a number from -1e15 to 1e15 for each field';
    ELSIF NEW.name = 'forecast_limits' AND (jsonb_typeof(held) <> 'object' OR held @? 'strict $.* ? (@.type() != "number")') THEN
        wanted := 'a JSON object with a number for each field';
    END IF;
    IF number IS NOT NULL AND (number = 'NaN' OR NOT number BETWEEN NEW.minimum AND NEW.maximum) THEN
        wanted := format('from %s to %s', NEW.minimum, NEW.maximum);
    END IF;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004',
            MESSAGE = format('setting %I cannot be %L', NEW.name, NEW.value),
            DETAIL = format('It has to be %s. %s', wanted, NEW.meaning),
            HINT = format('UPDATE %I.ml_setting SET value = %L WHERE name = %L;',
                          TG_TABLE_SCHEMA, NEW.default_value, NEW.name);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_check_setting() IS 'Refuses a setting''s value that is of the wrong kind or out of range (ML004), and that a setting goes.';

CREATE OR REPLACE TRIGGER ml_setting_check BEFORE INSERT OR UPDATE OR DELETE ON ml_setting
    FOR EACH ROW EXECUTE FUNCTION _ml_check_setting();
CREATE OR REPLACE TRIGGER ml_setting_stay BEFORE TRUNCATE ON ml_setting
    FOR EACH STATEMENT EXECUTE FUNCTION _ml_check_setting();
COMMENT ON TRIGGER ml_setting_stay ON ml_setting IS 'Keeps the settings: each is needed (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_setting ENABLE ALWAYS TRIGGER ml_setting_check;
ALTER TABLE ml_setting ENABLE ALWAYS TRIGGER ml_setting_stay;
COMMENT ON TRIGGER ml_setting_check ON ml_setting IS 'Checks each value (ML004).';

CREATE OR REPLACE FUNCTION _ml_keep_metric() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
BEGIN
    @PYML_AT_HOME@
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'metrics that come with the extension cannot be deleted',
            DETAIL = 'They would come back with the next upgrade.',
            HINT = format('DELETE FROM %I.ml_metric WHERE NOT built_in;', TG_TABLE_SCHEMA);
    ELSIF TG_OP = 'DELETE' THEN
        IF OLD.built_in THEN
            RAISE EXCEPTION USING ERRCODE = 'ML004',
                MESSAGE = format('metric %I comes with the extension and cannot be deleted', OLD.name),
                DETAIL = 'It would come back with the next upgrade.',
                HINT = format('UPDATE %I.ml_metric SET enabled = false WHERE name = %L;',
                              TG_TABLE_SCHEMA, OLD.name);
        END IF;
        RETURN OLD;
    END IF;
    wanted := CASE
        WHEN NEW.name !~ '^[a-z][a-z0-9_]{0,62}$' THEN 'name has 1 to 63 of a to z, 0 to 9 and _, a letter first'
        WHEN NEW.name = ANY ('{timestamp,is_anomaly,anomaly_score,severity,rarity,reasons}') THEN 'each anomaly in the answer of ml_detect has that key already'
        WHEN NEW.path !~ '^[^.]+([.][^.]+)*$' OR length(NEW.path) > 1000 THEN 'path has 1 to 1000 characters and no empty part between its dots'
        WHEN NEW.divisor_path !~ '^[^.]+([.][^.]+)*$' OR length(NEW.divisor_path) > 1000 THEN 'divisor_path has 1 to 1000 characters and no empty part between its dots'
        WHEN NEW.scale = 0 OR NOT abs(NEW.scale) <= 1e12 THEN 'scale is not 0, and from -1e12 to 1e12'
        WHEN NEW.kind NOT IN ('gauge', 'counter') THEN 'kind is gauge or counter'
        WHEN NEW.kind = 'counter' AND NEW.divisor_path IS NOT NULL THEN 'a counter has no divisor_path'
        WHEN NOT (abs(NEW.lower_bound) <= 1e15 AND abs(NEW.upper_bound) <= 1e15) THEN 'bounds are from -1e15 to 1e15'
        WHEN NEW.lower_bound >= NEW.upper_bound THEN 'lower_bound is less than upper_bound' END;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('metric %L cannot be as it is given', NEW.name),
            DETAIL = format('Wanted: %s.', wanted),
            HINT = format('INSERT INTO %I.ml_metric (name, path) VALUES (''room_temperature'', ''sensors.room.temperature'');', TG_TABLE_SCHEMA);
    END IF;
    IF TG_OP = 'INSERT' AND NEW.built_in AND EXISTS (SELECT FROM ml_metric m WHERE m.name = NEW.name) THEN
        -- A restored dump brings rows that CREATE EXTENSION has already made.
        UPDATE ml_metric m SET path = NEW.path, divisor_path = NEW.divisor_path,
            scale = NEW.scale, kind = NEW.kind, lower_bound = NEW.lower_bound,
            upper_bound = NEW.upper_bound, enabled = NEW.enabled
        WHERE m.name = NEW.name;
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_keep_metric() IS 'Refuses a metric that cannot be read (ML004), and keeps those that come with the extension: they are disabled, not deleted.';

CREATE OR REPLACE TRIGGER ml_metric_keep BEFORE INSERT OR UPDATE OR DELETE ON ml_metric
    FOR EACH ROW EXECUTE FUNCTION _ml_keep_metric();
CREATE OR REPLACE TRIGGER ml_metric_stay BEFORE TRUNCATE ON ml_metric
    FOR EACH STATEMENT EXECUTE FUNCTION _ml_keep_metric();
COMMENT ON TRIGGER ml_metric_stay ON ml_metric IS 'Keeps the metrics that come with the extension (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_metric ENABLE ALWAYS TRIGGER ml_metric_keep;
ALTER TABLE ml_metric ENABLE ALWAYS TRIGGER ml_metric_stay;

-- What trainings and scans write ----------------------------------------------
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
            HINT = 'CALL ml_retrain(); CALL ml_scan(); -- which write what is right';
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
        -- Waits, but not for long, where another session has made the same row and not yet ended.
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

CREATE OR REPLACE FUNCTION _ml_put_run(device uuid, kind text, field text, seconds float8, outcome text, model_id bigint, figures jsonb, sqlstate text, error text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND kind ~ '^[a-z][a-z0-9_]{0,30}$' AND length(field) <= 1000
        AND seconds BETWEEN 0 AND 1e9 AND CASE outcome WHEN 'kept' THEN jsonb_typeof(figures) = 'object' AND octet_length(figures::text) <= 2000000
            WHEN 'failed' THEN sqlstate ~ '^[0-9A-Z]{5}$' AND length(error) <= 100000 END, 'run');
    INSERT INTO ml_run (device_uuid, kind, field, started_at, seconds, outcome, model_id, figures, sqlstate, error)
    VALUES (device, kind, field, clock_timestamp() - make_interval(secs => CASE outcome WHEN 'failed' THEN seconds ELSE 0 END),
        seconds, outcome, model_id, figures, sqlstate, error);
END
$$;
COMMENT ON FUNCTION _ml_put_run(uuid, text, text, float8, text, bigint, jsonb, text, text) IS 'Records a training of which no model came: kept (the one in force was better) or failed.';

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
END
$$;
COMMENT ON FUNCTION _ml_prune(uuid, text, text) IS 'Drops all but the newest models_kept models of a device, kind and field, and the one in force.';

CREATE OR REPLACE FUNCTION _ml_put_anomalies(device uuid, tier text, foretold boolean, times float8[], scores float8[], severities text[], metrics text[], reasons text[], models bigint[]) RETURNS SETOF float8
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND tier ~ '^[a-z][a-z0-9_]{0,30}$' AND foretold IS NOT NULL AND bool_and((f.epoch BETWEEN -2e11 AND 9e12
        AND f.score BETWEEN -1e300 AND 1e300 AND f.severity IN ('warning', 'critical') AND jsonb_typeof(f.metrics::jsonb) = 'object'
        AND jsonb_typeof(f.reasons::jsonb) = 'array' AND f.model_id > 0) IS TRUE), 'anomaly')
    FROM unnest(times, scores, severities, metrics, reasons, models) AS f (epoch, score, severity, metrics, reasons, model_id);
    -- What was found before stands: a reading in the look-back is judged once.
    RETURN QUERY INSERT INTO ml_anomaly AS a (device_uuid, "timestamp", tier, foretold, score, severity, metrics, reasons, model_id, incident_at)
    SELECT device, to_timestamp(f.epoch), _ml_put_anomalies.tier, _ml_put_anomalies.foretold, f.score, f.severity, f.metrics::jsonb, f.reasons::jsonb, f.model_id, to_timestamp(f.epoch)
    FROM unnest(times, scores, severities, metrics, reasons, models) AS f (epoch, score, severity, metrics, reasons, model_id)
    ON CONFLICT DO NOTHING RETURNING date_part('epoch', a."timestamp");
END
$$;
COMMENT ON FUNCTION _ml_put_anomalies(uuid, text, boolean, float8[], float8[], text[], text[], text[], bigint[]) IS 'Adds a scan''s anomalies to the log; gives the times of those that are new.';

CREATE OR REPLACE FUNCTION _ml_join_incidents(device uuid, since float8, gap float8) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    -- The incidents of the earliest new anomaly and of those after it: the first goes on with the
    -- incident before it, where that is near enough. Joined by the place of a row, since by its key
    -- the planner, where it expects few, would go through all of one side for each of the other.
    UPDATE ml_anomaly a SET incident_at = w.began FROM (
      SELECT e.place, max(e.opens) OVER (ORDER BY e.timestamp) AS began FROM (
        SELECT b.ctid AS place, b.timestamp, CASE
          WHEN lag(b.timestamp) OVER later IS NULL THEN coalesce(
            (SELECT p.incident_at FROM ml_anomaly p WHERE p.device_uuid = $1
               AND p.timestamp < to_timestamp($2) AND p.timestamp >= to_timestamp($2 - $3)
             ORDER BY p.timestamp DESC LIMIT 1), b.timestamp)
          WHEN b.timestamp - lag(b.timestamp) OVER later > make_interval(secs => $3)
            THEN b.timestamp END AS opens
        FROM ml_anomaly b WHERE b.device_uuid = $1 AND b.timestamp >= to_timestamp($2)
        WINDOW later AS (ORDER BY b.timestamp)) AS e) AS w
     WHERE a.ctid = w.place AND a.incident_at <> w.began;
END
$$;
COMMENT ON FUNCTION _ml_join_incidents(uuid, float8, float8) IS 'Makes one incident of a device''s neighbouring anomalies, from a time on; gap is in seconds.';

CREATE OR REPLACE FUNCTION _ml_put_forecast(device uuid, field text, level float8, breach float8, model_id bigint, last_reading float8, times float8[], predicted float8[], lower float8[], upper float8[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND length(field) BETWEEN 1 AND 1000 AND level > 0 AND level < 1 AND model_id > 0
        AND cardinality(times) <= 1000 AND bool_and((f.epoch > last_reading AND f.epoch <= 9e12 AND f.predicted BETWEEN -1e300 AND 1e300
        AND f.lower BETWEEN -1e300 AND 1e300 AND f.upper BETWEEN -1e300 AND 1e300) IS TRUE), 'forecast')
    FROM unnest(times, predicted, lower, upper) AS f (epoch, predicted, lower, upper);
    -- Beyond the last reading only the newest forecast counts; what lies before it stands.
    DELETE FROM ml_forecast_point p WHERE p.device_uuid = device AND p.field = _ml_put_forecast.field
      AND (p."timestamp" > to_timestamp(last_reading)
           OR p."timestamp" < now() - make_interval(days => (SELECT s.value::int FROM ml_setting s WHERE s.name = 'forecast_days')));
    INSERT INTO ml_forecast_point (device_uuid, field, "timestamp", predicted, lower, upper, level, breach, model_id, made_at)
    SELECT device, _ml_put_forecast.field, to_timestamp(f.epoch), f.predicted, f.lower, f.upper, _ml_put_forecast.level,
        CASE WHEN f.predicted >= _ml_put_forecast.breach THEN _ml_put_forecast.breach END, _ml_put_forecast.model_id, now()
    FROM unnest(times, predicted, lower, upper) AS f (epoch, predicted, lower, upper);
END
$$;
COMMENT ON FUNCTION _ml_put_forecast(uuid, text, float8, float8, bigint, float8, float8[], float8[], float8[], float8[]) IS 'Replaces what was forecast of a field after its device''s last reading; breach is the field''s limit.';

CREATE OR REPLACE FUNCTION _ml_put_scan(device uuid, sqlstate text, error text, watermark float8, late_rows int, readings int, anomalies int, seen jsonb, drift jsonb, forecast_drift jsonb, drifted bigint[], unreadable bigint[], last_reading float8) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND jsonb_typeof(seen) = 'object' AND jsonb_typeof(coalesce(drift, '{}')) = 'object'
        AND jsonb_typeof(coalesce(forecast_drift, '{}')) = 'object' AND octet_length(concat(seen, drift, forecast_drift)) <= 10000000
        AND length(coalesce(error, '')) <= 100000 AND coalesce(sqlstate, '00000') ~ '^[0-9A-Z]{5}$'
        AND coalesce(watermark, 0) <> 'NaN' AND coalesce(last_reading, 0) <> 'NaN'
        AND late_rows >= 0 AND readings >= 0 AND anomalies >= 0 AND cardinality(drifted) <= 1000 AND cardinality(unreadable) <= 1000, 'scan');
    INSERT INTO ml_scan_state AS s (device_uuid, scanned_at, outcome, sqlstate, error, watermark, late_rows, readings, anomalies,
        seen, drift, forecast_drift, drifted, unreadable, last_reading)
    VALUES (device, clock_timestamp(), CASE WHEN sqlstate IS NULL THEN 'scanned' ELSE 'failed' END, sqlstate, error, to_timestamp(watermark),
        late_rows, readings, anomalies, seen, drift, forecast_drift, drifted, unreadable, to_timestamp(last_reading))
    ON CONFLICT (device_uuid) DO UPDATE SET scanned_at = EXCLUDED.scanned_at, outcome = EXCLUDED.outcome, sqlstate = EXCLUDED.sqlstate,
        error = EXCLUDED.error, watermark = EXCLUDED.watermark, late_rows = EXCLUDED.late_rows, readings = EXCLUDED.readings,
        anomalies = EXCLUDED.anomalies, seen = EXCLUDED.seen, drift = EXCLUDED.drift, forecast_drift = EXCLUDED.forecast_drift,
        drifted = EXCLUDED.drifted, unreadable = EXCLUDED.unreadable, last_reading = EXCLUDED.last_reading, retired_at = NULL;
END
$$;
COMMENT ON FUNCTION _ml_put_scan(uuid, text, text, float8, int, int, int, jsonb, jsonb, jsonb, bigint[], bigint[], float8) IS 'Writes where the scan of a device stands.';

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
COMMENT ON TRIGGER ml_metric_keep ON ml_metric IS 'Keeps the metrics that come with the extension.';

CREATE OR REPLACE FUNCTION _ml_put_retired(devices uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
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

-- Isolation Forest -----------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_train_forest(device uuid, hours int, as_of timestamptz, contamination float8) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].train_forest(device, hours, as_of, contamination)
$$;
COMMENT ON FUNCTION _ml_train_forest(uuid, int, timestamptz, float8) IS 'The Python side of ml_train_forest.';

CREATE OR REPLACE FUNCTION ml_train_forest(device uuid, hours int DEFAULT NULL, as_of timestamptz DEFAULT now(), contamination float8 DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_train_forest(device, hours, as_of, contamination)); END $$;
COMMENT ON FUNCTION ml_train_forest(uuid, int, timestamptz, float8) IS 'Trains an Isolation Forest on the readings of the last hours up to as_of and puts it in force. hours and contamination are those of the settings (training_hours, contamination) where they are not given; those given stay, also for ml_retrain, until the next call without them (ml_model_info: parameters, given). Gives model_id, training_samples, features, contamination, held-out figures and seconds. Too few readings: ML001.';

CREATE OR REPLACE FUNCTION _ml_detect(device uuid, hours int, max_anomalies int) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].detect(device, hours, max_anomalies)
$$;
COMMENT ON FUNCTION _ml_detect(uuid, int, int) IS 'The Python side of ml_detect.';

CREATE OR REPLACE FUNCTION ml_detect(device uuid, hours int DEFAULT 24, max_anomalies int DEFAULT 1000) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_detect(device, hours, max_anomalies)); END $$;
COMMENT ON FUNCTION ml_detect(uuid, int, int) IS 'Scores the last hours of readings with the device''s forest: one document with the anomalies, newest first (at most max_anomalies of them; anomalies_detected counts all), each with its score (lower is more anomalous), severity and reasons. Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION _ml_score(device uuid, since timestamptz, until timestamptz)
RETURNS TABLE (epoch float8, anomaly_score float8, is_anomaly boolean, severity text, metrics jsonb, reasons jsonb, error jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].score(device, since, until)
$$;
COMMENT ON FUNCTION _ml_score(uuid, timestamptz, timestamptz) IS 'The Python side of ml_score.';

CREATE OR REPLACE FUNCTION ml_score(device uuid, since timestamptz, until timestamptz)
RETURNS TABLE ("timestamp" timestamptz, anomaly_score float8, is_anomaly boolean, severity text, metrics jsonb, reasons jsonb)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    RETURN QUERY SELECT to_timestamp(s.epoch), s.anomaly_score, s.is_anomaly, s.severity, s.metrics, s.reasons
    FROM _ml_score(device, since, until) AS s WHERE s.error IS NULL OR _ml_raise(s.error);
END
$$;
COMMENT ON FUNCTION ml_score(uuid, timestamptz, timestamptz) IS 'Scores each reading with since < timestamp <= until with the device''s forest, one row each in time order. Score: lower is more anomalous; severity: none, warning or critical. Writes nothing. No model: ML002.';

-- Forecasts ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_train_lstm(device uuid, field text, hours int, as_of timestamptz) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].train_lstm(device, field, hours, as_of)
$$;
COMMENT ON FUNCTION _ml_train_lstm(uuid, text, int, timestamptz) IS 'The Python side of ml_train_lstm.';

CREATE OR REPLACE FUNCTION ml_train_lstm(device uuid, field text DEFAULT 'system.cpuUsage', hours int DEFAULT NULL, as_of timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_train_lstm(device, field, hours, as_of)); END $$;
COMMENT ON FUNCTION ml_train_lstm(uuid, text, int, timestamptz) IS 'Trains an LSTM that forecasts a numeric field, given as a dotted path or as a metric''s name, on the last hours up to as_of. It is put in force unless the one in force is better on held-out data. hours are those of the setting training_hours where they are not given; those given stay, also for ml_retrain, until the next call without them (ml_model_info: parameters, given). Scans follow it if the field is in forecast_fields or ml_device_forecast, or a name or path in ml_metric. Gives model_id, sequence_length, forecast_horizon, held-out error beside the naive forecasts'', coverage and seconds. Too little data: ML001; no number there: ML003.';

CREATE OR REPLACE FUNCTION _ml_forecast(device uuid, field text, horizon int) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].forecast(device, field, horizon)
$$;
COMMENT ON FUNCTION _ml_forecast(uuid, text, int) IS 'The Python side of ml_forecast.';

CREATE OR REPLACE FUNCTION ml_forecast(device uuid, field text DEFAULT 'system.cpuUsage', horizon int DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_forecast(device, field, horizon)); END $$;
COMMENT ON FUNCTION ml_forecast(uuid, text, int) IS 'Forecasts a field from the device''s last reading: one document with the predictions, each with its 90 % interval, and the model''s measured coverage and error. Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION _ml_predict(device uuid, field text, horizon int, level float8, as_of timestamptz)
RETURNS TABLE (epoch float8, predicted_value float8, confidence_lower float8, confidence_upper float8, error jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].predict(device, field, horizon, level, as_of)
$$;
COMMENT ON FUNCTION _ml_predict(uuid, text, int, float8, timestamptz) IS 'The Python side of ml_predict.';

CREATE OR REPLACE FUNCTION ml_predict(device uuid, field text, horizon int DEFAULT NULL, level float8 DEFAULT 0.9, as_of timestamptz DEFAULT now())
RETURNS TABLE ("timestamp" timestamptz, predicted_value float8, confidence_lower float8, confidence_upper float8)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    RETURN QUERY SELECT to_timestamp(p.epoch), p.predicted_value, p.confidence_lower, p.confidence_upper
    FROM _ml_predict(device, field, horizon, level, as_of) AS p WHERE p.error IS NULL OR _ml_raise(p.error);
END
$$;
COMMENT ON FUNCTION ml_predict(uuid, text, int, float8, timestamptz) IS 'The forecast as rows, with the interval that covers the given share (level), made with only the readings up to as_of. Writes nothing. No model: ML002.';

-- A model trained elsewhere ---------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_store_model(device uuid, kind text, field text, blob bytea, about jsonb, replaces bigint) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].store_model(device, kind, field, blob, about, replaces)
$$;
COMMENT ON FUNCTION _ml_store_model(uuid, text, text, bytea, jsonb, bigint) IS 'The Python side of ml_store_model.';

CREATE OR REPLACE FUNCTION ml_store_model(device uuid, kind text, field text, blob bytea, about jsonb, replaces bigint DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_store_model(device, kind, field, blob, about, replaces)); END $$;
COMMENT ON FUNCTION ml_store_model(uuid, text, text, bytea, jsonb, bigint) IS 'Puts a model in force that pyml.workers.fleet has trained outside the server, if the one in force is still replaces (NULL: none). field is empty for a forest; about is what else a row of ml_model holds: window_start and window_end in seconds since 1970, readings_used, readings_rejected, parameters, figures, versions, seconds. Gives model_id, of the model now in force, and accepted. A blob that no training writes: ML005.';

-- The picture ----------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_chart(device uuid, field text, hours int) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].draw(device, field, hours)
$$;
COMMENT ON FUNCTION _ml_chart(uuid, text, int) IS 'The Python side of ml_chart.';

CREATE OR REPLACE FUNCTION ml_chart(device uuid, field text DEFAULT 'system.cpuUsage', hours int DEFAULT 24) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN @PYML_AT_HOME@ RETURN _ml_answer(_ml_chart(device, field, hours)) ->> 'svg'; END $$;
COMMENT ON FUNCTION ml_chart(uuid, text, int) IS 'A picture (SVG) of a field''s last hours: the readings, what the device''s forest finds anomalous, and the forecast with its 90 % interval; a missing model is said in it. Times are in the session''s time zone. Save it with psql -At -o chart.svg and open it in a browser. Writes nothing. No number there: ML003.';

-- Models ---------------------------------------------------------------------

CREATE OR REPLACE FUNCTION ml_model_info(device uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    models jsonb;
BEGIN
    @PYML_AT_HOME@
    SELECT jsonb_agg(jsonb_build_object('model_id', m.model_id, 'kind', m.kind,
            'field', nullif(m.field, ''), 'is_current', m.is_current, 'trained_at', m.trained_at,
            'window_start', m.window_start, 'window_end', m.window_end,
            'readings_used', m.readings_used, 'readings_rejected', m.readings_rejected,
            'parameters', m.parameters, 'figures', m.figures, 'versions', m.versions,
            'seconds', m.seconds, 'bytes', octet_length(m.blob), 'sha256', m.sha256)
        ORDER BY m.is_current DESC, m.kind COLLATE "C", m.field COLLATE "C", m.model_id DESC)
    INTO models FROM ml_model m WHERE m.device_uuid = device;
    IF models IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('device %s has no model', device),
            DETAIL = 'None was trained for it, or they were dropped.',
            HINT = format('SELECT ml_train_forest(%L);', device);
    END IF;
    RETURN jsonb_build_object('device_uuid', device, 'models', models);
END
$$;
COMMENT ON FUNCTION ml_model_info(uuid) IS 'The device''s models, those in force first, with what they were trained on and what was measured. parameters.given holds the arguments that were given to the training, by which ml_retrain trains again; the others follow the settings. None: ML002.';

CREATE OR REPLACE FUNCTION ml_rollback(model_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted record;
    before bigint;
BEGIN
    @PYML_AT_HOME@
    SELECT m.device_uuid, m.kind, m.field INTO wanted FROM ml_model m WHERE m.model_id = ml_rollback.model_id;
    IF FOUND THEN
        PERFORM _ml_lock_model(wanted.device_uuid, wanted.kind, wanted.field);
        UPDATE ml_model m SET is_current = false
        WHERE m.device_uuid = wanted.device_uuid AND m.kind = wanted.kind AND m.field = wanted.field AND m.is_current
        RETURNING m.model_id INTO before;
        UPDATE ml_model m SET is_current = true WHERE m.model_id = ml_rollback.model_id;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no model %s', model_id),
            DETAIL = 'Either there never was one, or it was pruned.',
            HINT = 'SELECT model_id, device_uuid, kind, field, trained_at FROM ml_models ORDER BY model_id DESC;';
    END IF;
    RETURN jsonb_build_object('model_id', model_id, 'replaced_model_id', nullif(before, ml_rollback.model_id),
        'device_uuid', wanted.device_uuid, 'kind', wanted.kind, 'field', nullif(wanted.field, ''));
END
$$;
COMMENT ON FUNCTION ml_rollback(bigint) IS 'Puts an earlier model of a device back in force. Gives it and the one that it replaced. Unknown model: ML002.';

CREATE OR REPLACE FUNCTION ml_forget(device uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    models bigint;
    runs bigint;
    anomalies bigint;
    points bigint;
BEGIN
    @PYML_AT_HOME@
    IF device IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'device is null',
            DETAIL = 'It has to be given.', HINT = 'SELECT device_uuid FROM ml_device_status;';
    END IF;
    -- Those who write rows of this device take turns before any row is locked.
    PERFORM _ml_lock('scan', device::text);
    PERFORM _ml_lock_model(device, m.kind, m.field)
    FROM (SELECT DISTINCT n.kind, n.field FROM ml_model n WHERE n.device_uuid = device ORDER BY n.kind, n.field) AS m;
    DELETE FROM ml_model m WHERE m.device_uuid = device;
    GET DIAGNOSTICS models = ROW_COUNT;
    DELETE FROM ml_run r WHERE r.device_uuid = device;
    GET DIAGNOSTICS runs = ROW_COUNT;
    DELETE FROM ml_anomaly a WHERE a.device_uuid = device;
    GET DIAGNOSTICS anomalies = ROW_COUNT;
    DELETE FROM ml_forecast_point p WHERE p.device_uuid = device;
    GET DIAGNOSTICS points = ROW_COUNT;
    DELETE FROM ml_scan_state s WHERE s.device_uuid = device;
    DELETE FROM ml_device_forecast f WHERE f.device_uuid = device;
    -- But for what a training holds just now, which is not waited for.
    DELETE FROM ml_lock l USING (
        SELECT k.task, k.what FROM ml_lock k WHERE k.device_uuid = device FOR UPDATE SKIP LOCKED) AS free
    WHERE l.task = free.task AND l.what = free.what;
    INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, retired_at)
    VALUES (device, clock_timestamp(), 'unchanged', clock_timestamp());
    RETURN jsonb_build_object('device_uuid', device, 'models', models, 'runs', runs,
        'anomalies', anomalies, 'forecast_points', points);
END
$$;
COMMENT ON FUNCTION ml_forget(uuid) IS 'Retires a device: drops its models, training runs, anomalies and forecasts, and leaves it out of scans, trainings and views until it reports again (a reading later than this call) or is named in ml_scan or ml_retrain. Gives how many of each were dropped. The history stays.';

-- Z scores -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_history_columns() RETURNS TABLE (setting text, name text, type text, fault text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT s.name, s.value, format_type(base.oid, NULL), CASE WHEN CASE s.name
            WHEN 'history_device_column' THEN base.oid = 'uuid'::regtype
            WHEN 'history_time_column' THEN base.oid IN ('timestamp'::regtype, 'timestamptz'::regtype)
            WHEN 'history_state_column' THEN base.oid = 'jsonb'::regtype
            ELSE (SELECT t.typcategory = 'S' FROM pg_type t WHERE t.oid = base.oid) END THEN NULL
        ELSE format('column %I is of type %s and has to be %s', s.value, format_type(base.oid, NULL), CASE s.name
            WHEN 'history_device_column' THEN 'uuid' WHEN 'history_time_column' THEN 'timestamp or timestamptz'
            WHEN 'history_state_column' THEN 'jsonb' ELSE 'text' END) END
    FROM ml_setting s
    LEFT JOIN pg_attribute a ON a.attname = s.value AND NOT a.attisdropped
        AND a.attrelid = to_regclass((SELECT t.value FROM ml_setting t WHERE t.name = 'history_table'))
    LEFT JOIN pg_type d ON d.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT CASE WHEN d.typtype <> 'd' THEN d.oid WHEN d.typtype = 'd' THEN ( -- a domain, or one over one
        WITH RECURSIVE made_of (oid, kind, below) AS (
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = d.typbasetype
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM made_of m JOIN pg_type t ON t.oid = m.below
        ) SELECT m.oid FROM made_of m WHERE m.kind <> 'd') END AS oid) AS base
    WHERE s.name ~ '^history_.*_column$' AND s.value <> '';
END
$$;
COMMENT ON FUNCTION _ml_history_columns() IS 'The history''s columns, one row a setting: the name, the type (of a domain its base type; NULL where the table lacks the column), and what is wrong with the type.';

CREATE OR REPLACE FUNCTION _ml_history() RETURNS TABLE (source text, device text, moment text, shadow text, state text, zone text, zoned boolean)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    setting jsonb;
    absent text;
    fault text;
    kind text;
BEGIN
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s;
    SELECT string_agg(c.name, ', ' ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NULL),
           string_agg(c.fault, ', ' ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NOT NULL),
           min(c.type) FILTER (WHERE c.setting = 'history_time_column')
    INTO absent, fault, kind FROM _ml_history_columns() AS c;
    IF absent IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('there is no history in %s', setting ->> 'history_table'),
            DETAIL = format('The table does not exist, or has no column %s.', absent),
            HINT = 'SELECT * FROM ml_doctor();';
    ELSIF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('the history in %s cannot be read', setting ->> 'history_table'),
            DETAIL = format('There, %s.', fault), HINT = 'SELECT * FROM ml_doctor();';
    END IF;
    RETURN QUERY SELECT
        (SELECT string_agg(quote_ident(p), '.') FROM unnest(parse_ident(setting ->> 'history_table')) AS p) || ' AS h',
        'h.' || quote_ident(setting ->> 'history_device_column'), 'h.' || quote_ident(setting ->> 'history_time_column'),
        CASE WHEN setting ->> 'history_shadow_column' = '' THEN 'true' ELSE
            format('h.%I = %L', setting ->> 'history_shadow_column', setting ->> 'history_shadow') END,
        'h.' || quote_ident(setting ->> 'history_state_column'), setting ->> 'history_time_zone',
        kind = 'timestamp with time zone';
END
$$;
COMMENT ON FUNCTION _ml_history() IS 'The history table as pieces of SQL, quoted, made of the settings.';

CREATE OR REPLACE FUNCTION ml_zscore(device uuid, field text, hours int DEFAULT 168, threshold float8 DEFAULT 2.5)
RETURNS TABLE ("timestamp" timestamptz, value float8, z_score float8, is_anomaly boolean, severity text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    metric record;
    complete text;
    since timestamptz;
    types text;
    -- A number as float8; NULL for anything else and for what no sensor measured. Objects,
    -- arrays and booleans are greater than any number, strings and null are less.
    number CONSTANT text := $number$CASE WHEN %1$s BETWEEN '-1e-300' AND '1e-300' THEN 0 WHEN %1$s BETWEEN '-1e15' AND '1e15' THEN (%1$s)::float8 END$number$;
BEGIN
    @PYML_AT_HOME@
    IF device IS NULL OR field IS NULL OR hours IS NULL OR hours NOT BETWEEN 1 AND 87840
       OR threshold IS NULL OR NOT threshold BETWEEN 0.1 AND 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'an argument is null or out of range',
            DETAIL = format('device %s, field %s, hours %s (1 to 87840), threshold %s (0.1 to 100).',
                            device, field, hours, threshold),
            HINT = format('SELECT * FROM ml_zscore(%L, %L);', coalesce(device::text, 'uuid'), coalesce(field, 'system.cpuUsage'));
    END IF;
    SELECT * INTO h FROM _ml_history();
    SELECT m.path, m.divisor_path, m.scale, m.kind INTO metric FROM ml_metric m WHERE m.name = field;
    IF NOT FOUND THEN
        SELECT field AS path, NULL::text AS divisor_path, 1::float8 AS scale, 'gauge' AS kind INTO metric;
    END IF;
    -- A value of 0 beside a total of 0 says that the whole collection failed.
    SELECT coalesce(string_agg(DISTINCT format($total$%s #> %L IS DISTINCT FROM '0'$total$, h.state, string_to_array(m.divisor_path, '.')), ' AND '), 'true')
    INTO complete FROM ml_metric m WHERE m.divisor_path IS NOT NULL;
    -- The window's bounds are converted to the column's type, so that its index is used.
    RETURN QUERY EXECUTE format($query$
        WITH found AS MATERIALIZED ( -- so that each value is looked for once
            SELECT %1$s AS t, %9$s #> $3 AS value, %9$s #> $4 AS total
            FROM %3$s
            WHERE %4$s = $1 AND %5$s AND %6$s > %7$s AND %6$s <= %8$s AND (%9$s #> $3 IS DISTINCT FROM '0' OR %2$s)
        ), number AS MATERIALIZED (
            SELECT t, %10$s AS value, %11$s AS total FROM found
        ), reading AS ( -- of a total that is next to nothing, no share
            SELECT t, CASE WHEN $4 IS NULL THEN value WHEN total > 0 AND abs(value) <= 1e15 * total THEN value / total END AS v FROM number
        ), measured AS (
            SELECT t, $6 * CASE WHEN $5 = 'gauge' THEN v
                WHEN v >= lag(v) OVER w AND t > lag(t) OVER w
                THEN (v - lag(v) OVER w) / extract(epoch FROM t - lag(t) OVER w)::float8 END AS v
            FROM reading WHERE v IS NOT NULL WINDOW w AS (ORDER BY t)
        ), spread AS MATERIALIZED ( -- not once for each row, where there are no statistics
            SELECT count(*) AS n, avg(v) AS mean, stddev_pop(v) AS deviation, min(v) = max(v) AS constant
            FROM measured WHERE abs(v) <= 1e15
        ), judged AS (
            SELECT m.t, m.v, CASE WHEN s.n < 10 THEN NULL WHEN s.constant OR s.deviation = 0 THEN 0
                                  ELSE (m.v - s.mean) / s.deviation END AS z
            FROM measured m, spread s WHERE abs(m.v) <= 1e15
        )
        SELECT t, v, z, coalesce(abs(z) > $7, false),
               CASE WHEN abs(z) > $7 AND abs(z) > 3 THEN 'critical' WHEN abs(z) > $7 THEN 'warning' ELSE 'none' END
        FROM judged ORDER BY t
        $query$,
        CASE WHEN h.zoned THEN h.moment || '::timestamptz' ELSE format('(%s AT TIME ZONE %L)', h.moment, h.zone) END, complete, h.source, h.device, h.shadow, h.moment,
        CASE WHEN h.zoned THEN '(now() - make_interval(hours => $2))' ELSE format('((now() - make_interval(hours => $2)) AT TIME ZONE %L)', h.zone) END,
        CASE WHEN h.zoned THEN 'now()' ELSE format('(now() AT TIME ZONE %L)', h.zone) END,
        h.state, format(number, 'value'), format(number, 'total'))
    USING device, hours, string_to_array(metric.path, '.'), string_to_array(metric.divisor_path, '.'), metric.kind, metric.scale, threshold;
    IF FOUND THEN
        RETURN;
    END IF;
    since := now() - make_interval(hours => hours);
    EXECUTE format($query$
        SELECT string_agg(format('%%s in %%s rows', t.type, t.rows), ', ' ORDER BY t.rows DESC, t.type COLLATE "C")
        FROM (SELECT coalesce(jsonb_typeof(%1$s #> $2), 'missing') AS type, count(*) AS rows
              FROM %2$s WHERE %3$s = $1 AND %4$s AND %5$s > %6$s AND %5$s <= %7$s GROUP BY 1) AS t$query$,
        h.state, h.source, h.device, h.shadow, h.moment,
        CASE WHEN h.zoned THEN '$3' ELSE format('($3 AT TIME ZONE %L)', h.zone) END,
        CASE WHEN h.zoned THEN 'now()' ELSE format('(now() AT TIME ZONE %L)', h.zone) END)
    INTO types USING device, string_to_array(metric.path, '.'), since;
    RAISE EXCEPTION USING
        ERRCODE = CASE WHEN types IS NULL THEN 'ML001' ELSE 'ML003' END,
        MESSAGE = CASE WHEN types IS NULL THEN format('device %s has no readings in the window', device)
            ELSE format('field %s holds no usable number', metric.path) END,
        DETAIL = coalesce('Found: ' || types || '.',
            format('Looked in %s from %s to %s.', split_part(h.source, ' AS h', 1), since, now())),
        HINT = format('SELECT jsonb_pretty(%s) FROM %s WHERE %s = %L AND %s ORDER BY %s DESC LIMIT 1;',
            h.state, h.source, h.device, device, h.shadow, h.moment);
END
$$;
COMMENT ON FUNCTION ml_zscore(uuid, text, int, float8) IS 'Needs no model: how many standard deviations each value of a field (a dotted path or a metric''s name) lies from the mean of the window. Beyond threshold it is an anomaly, beyond 3 a critical one. Fewer than ten values: no judgement; a constant: none is anomalous. No number there: ML003; no readings: ML001.';

-- The fleet ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_devices() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    -- From each device straight to the next in the index: a probe a device, however long the history.
    RETURN QUERY EXECUTE format($query$
        WITH RECURSIVE found (device) AS (
            (SELECT %1$s FROM %2$s WHERE %1$s IS NOT NULL ORDER BY 1 LIMIT 1)
            UNION ALL
            SELECT (SELECT %1$s FROM %2$s WHERE %1$s > found.device ORDER BY 1 LIMIT 1)
            FROM found WHERE found.device IS NOT NULL
        ) SELECT device::uuid FROM found WHERE device IS NOT NULL$query$, h.device, h.source);
END
$$;
COMMENT ON FUNCTION _ml_devices() IS 'The devices that the history holds.';

CREATE OR REPLACE FUNCTION _ml_fleet() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    RETURN QUERY EXECUTE format($query$
        SELECT d.device FROM _ml_devices() AS d (device)
        LEFT JOIN ml_scan_state s ON s.device_uuid = d.device AND s.retired_at IS NOT NULL
        WHERE s.device_uuid IS NULL OR EXISTS (SELECT FROM %1$s WHERE %2$s = d.device AND %3$s > %4$s)
        ORDER BY 1$query$, h.source, h.device, h.moment,
        CASE WHEN h.zoned THEN 's.retired_at' ELSE format('(s.retired_at AT TIME ZONE %L)', h.zone) END);
END
$$;
COMMENT ON FUNCTION _ml_fleet() IS 'The devices to scan and to train: those that the history holds, but for retired ones that have not reported since.';

CREATE OR REPLACE FUNCTION _ml_name_device(device uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    known boolean;
BEGIN
    SELECT * INTO h FROM _ml_history();
    -- Among the last day's first: of a history by month the older parts then stay closed.
    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s = $1 AND %s > %s)', h.source, h.device, h.moment,
        CASE WHEN h.zoned THEN 'now() - interval ''1 day''' ELSE format('(now() - interval ''1 day'') AT TIME ZONE %L', h.zone) END)
    INTO known USING device;
    IF NOT known THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s = $1)', h.source, h.device) INTO known USING device;
    END IF;
    IF NOT known THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no device %s', device),
            DETAIL = format('The history (%s) has no row of it.', (SELECT s.value FROM ml_setting s WHERE s.name = 'history_table')),
            HINT = format('SELECT DISTINCT %s FROM %s;', h.device, h.source);
    END IF;
    PERFORM _ml_put_unretired(device);
END
$$;
COMMENT ON FUNCTION _ml_name_device(uuid) IS 'Refuses a device that the history does not hold (ML002); ends the retirement of one that it holds.';

CREATE OR REPLACE FUNCTION _ml_retire_absent() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    -- A role that sees only some rows cannot tell which devices are gone.
    IF row_security_active((SELECT s.value FROM ml_setting s WHERE s.name = 'history_table'))
       OR NOT _ml_try_lock('retire', '') THEN -- or another worker is at it
        RETURN;
    END IF;
    PERFORM _ml_put_retired(ARRAY(
        SELECT s.device_uuid FROM ml_scan_state s
        UNION
        SELECT m.device_uuid FROM ml_model m WHERE m.is_current
        EXCEPT
        SELECT d.device FROM _ml_devices() AS d (device)));
END
$$;
COMMENT ON FUNCTION _ml_retire_absent() IS 'Retires the devices that the history no longer holds: they leave the views at once, their models wait for them to come back until ml_forget drops them.';

CREATE OR REPLACE PROCEDURE _ml_commit(INOUT refused boolean)
LANGUAGE plpython3u SECURITY INVOKER
AS $$
    try: plpy.commit()
    except plpy.spiexceptions.InvalidTransactionTermination: return (True,)
    return (False,)
$$;
COMMENT ON PROCEDURE _ml_commit(boolean) IS 'Commits, or gives true where the call runs inside a transaction block. PL/pgSQL has no way to catch that.';

CREATE OR REPLACE FUNCTION _ml_refuse_block(task text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction', MESSAGE = format('%s cannot run inside a transaction block', task),
        DETAIL = 'It commits as it goes, so that a statement that is sent along with others, or a function that calls it, cannot hold it.',
        HINT = format('ROLLBACK; -- then, as a statement of its own: CALL %s.%s();', '@extschema@', task);
END
$$;
COMMENT ON FUNCTION _ml_refuse_block(text) IS 'Refuses a procedure that commits inside a transaction block (25001).';

CREATE OR REPLACE FUNCTION _ml_begin_job(kind text, slot int, total int) RETURNS ml_job
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    job ml_job;
BEGIN
    @PYML_AT_HOME@
    INSERT INTO ml_job AS j (kind, slot, total) VALUES (kind, slot, total) RETURNING j.* INTO job;
    RETURN job;
END
$$;
COMMENT ON FUNCTION _ml_begin_job(text, int, int) IS 'Opens the row of ml_job that tells how far a procedure has come.';

CREATE OR REPLACE FUNCTION _ml_slot_is_free(kind text, slot int) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    -- pg_cron starts the runs that fell due meanwhile as soon as one ends. It starts
    -- due ones as a minute begins, so that a run in the minute of the last one's end was queued.
    RETURN slot IS NULL OR _ml_try_lock(kind || ' slot', slot::text) AND NOT EXISTS (
        SELECT FROM ml_job j WHERE j.kind = _ml_slot_is_free.kind AND j.slot = _ml_slot_is_free.slot
          AND j.started_at > now() - interval '7 days'
          AND date_trunc('minute', j.finished_at) = date_trunc('minute', clock_timestamp())
          AND date_trunc('minute', j.started_at) < date_trunc('minute', j.finished_at));
END
$$;
COMMENT ON FUNCTION _ml_slot_is_free(text, int) IS 'Whether a scheduled worker may start: its last run has ended, and this one was not queued behind it.';

CREATE OR REPLACE FUNCTION _ml_note_job(job ml_job, finished boolean) RETURNS ml_job
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    before CONSTANT interval := job.updated_at - job.started_at;
    elapsed interval;
    treated CONSTANT int := job.done + job.failed;
BEGIN
    @PYML_AT_HOME@
    job.updated_at := clock_timestamp();
    job.finished_at := CASE WHEN finished THEN job.updated_at END;
    UPDATE ml_job j SET done = job.done, failed = job.failed, passed_over = job.passed_over, updated_at = job.updated_at, finished_at = job.finished_at
    WHERE j.job_id = job.job_id AND j.pid = pg_backend_pid(); -- nobody else's
    elapsed := job.updated_at - job.started_at;
    IF finished OR floor(extract(epoch FROM elapsed) / 10) > floor(extract(epoch FROM before) / 10) THEN
        RAISE NOTICE 'ml_%: % of %, % failed, % left to others, %/s, %', job.kind, treated + job.passed_over, job.total, job.failed, job.passed_over,
            round(treated / greatest(extract(epoch FROM elapsed), 0.001), 1),
            CASE WHEN finished THEN format('took %s', justify_interval(date_trunc('second', elapsed)))
                 WHEN treated = 0 THEN 'just begun'
                 ELSE format('about %s left', justify_interval(date_trunc('second', (job.total - treated - job.passed_over) * elapsed / treated))) END;
    END IF;
    RETURN job;
END
$$;
COMMENT ON FUNCTION _ml_note_job(ml_job, boolean) IS 'Notes how far a procedure has come for other sessions, and every ten seconds tells the caller by NOTICE.';

CREATE OR REPLACE FUNCTION _ml_count_job(job ml_job, outcome text) RETURNS ml_job
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    CASE outcome
        WHEN 'failed' THEN job.failed := job.failed + 1;
        WHEN 'passed over' THEN job.passed_over := job.passed_over + 1;
        ELSE job.done := job.done + 1;
    END CASE;
    IF clock_timestamp() > job.updated_at + interval '1 second' THEN
        RETURN _ml_note_job(job, false);
    END IF;
    RETURN job;
END
$$;
COMMENT ON FUNCTION _ml_count_job(ml_job, text) IS 'Counts what came of one device; notes it in ml_job once a second.';

-- The scan -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_scan(device uuid, as_of timestamptz) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].scan(device, as_of)
$$;
COMMENT ON FUNCTION _ml_scan(uuid, timestamptz) IS 'The Python side of _ml_scan_device.';

CREATE OR REPLACE FUNCTION _ml_scan_device(device uuid, as_of timestamptz, begun timestamptz) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    code text;
    words text;
BEGIN
    -- Another session has it, or has done it since this scan began.
    IF NOT _ml_try_lock('scan', device::text)
       OR EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = device AND s.scanned_at > begun) THEN
        RETURN 'passed over';
    END IF;
    BEGIN
        RETURN _ml_answer(_ml_scan(device, as_of)) ->> 'outcome';
    EXCEPTION WHEN OTHERS THEN -- which a cancel is not among
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, words = MESSAGE_TEXT;
        IF code = 'ML006' THEN -- nothing that the next device would not meet as well
            RAISE;
        END IF;
    END;
    PERFORM _ml_note_scan(device, 'failed', code, left(words, 10000));
    RETURN 'failed';
END
$$;
COMMENT ON FUNCTION _ml_scan_device(uuid, timestamptz, timestamptz) IS 'Scans one device; an error is recorded and undoes that device''s work alone.';

CREATE OR REPLACE FUNCTION _ml_retain() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    setting jsonb;
BEGIN
    @PYML_AT_HOME@
    IF NOT _ml_try_lock('retain', '') THEN
        RETURN;
    END IF;
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s WHERE s.name ~ '_days$';
    DELETE FROM ml_anomaly a WHERE a."timestamp" < now() - make_interval(days => (setting ->> 'anomaly_days')::int);
    DELETE FROM ml_run r WHERE r.started_at < now() - make_interval(days => (setting ->> 'run_days')::int);
    DELETE FROM ml_job j WHERE j.started_at < now() - make_interval(days => (setting ->> 'run_days')::int);
    -- Each scan clears its own device's forecasts; these are of devices that are no longer scanned.
    DELETE FROM ml_forecast_point p USING ml_scan_state s
    WHERE s.scanned_at < now() - make_interval(days => (setting ->> 'forecast_days')::int)
      AND p.device_uuid = s.device_uuid AND p."timestamp" < now() - make_interval(days => (setting ->> 'forecast_days')::int);
END
$$;
COMMENT ON FUNCTION _ml_retain() IS 'Deletes what is older than the settings keep.';

CREATE OR REPLACE PROCEDURE ml_scan(device uuid DEFAULT NULL, as_of timestamptz DEFAULT NULL, slot int DEFAULT NULL)
LANGUAGE plpgsql SECURITY INVOKER
AS $$
DECLARE
    -- Types too are looked up on the caller's path, which is not pinned yet.
    begun CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    devices pg_catalog.uuid[];
    one pg_catalog.uuid;
    job pg_catalog.record;
    refused pg_catalog.bool;
BEGIN
    @PYML_AT_HOME@
    CALL @extschema@._ml_commit(refused); -- at once: inside a transaction block there is no work
    -- A procedure that commits cannot carry a SET clause: each transaction pins its own path.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
    @PYML_AT_HOME@
    IF refused THEN
        PERFORM _ml_refuse_block('ml_scan');
    END IF;
    IF NOT isfinite(as_of) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'as_of is infinite', DETAIL = 'It has to be a moment in time.',
            HINT = 'CALL ml_scan(); -- or with as_of => a moment of the past';
    END IF;
    IF NOT _ml_slot_is_free('scan', slot) THEN
        RAISE NOTICE 'ml_scan: passed over, since the last run of worker % was still going', slot;
        RETURN;
    END IF;
    IF device IS NOT NULL THEN
        PERFORM _ml_name_device(device);
    END IF;
    devices := CASE WHEN device IS NULL THEN ARRAY(SELECT _ml_fleet()) ELSE ARRAY[device] END;
    job := _ml_begin_job('scan', slot, cardinality(devices));
    COMMIT;
    FOREACH one IN ARRAY devices LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
        @PYML_AT_HOME@
        -- A crash may lose the last few devices' scans, whole; the next scan makes them again.
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM slot IS NULL OR _ml_try_lock('scan slot', slot::text);
        job := _ml_count_job(job, _ml_scan_device(one, as_of, begun));
        COMMIT;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
    @PYML_AT_HOME@
    IF device IS NULL THEN
        PERFORM _ml_retire_absent();
    END IF;
    PERFORM _ml_retain();
    PERFORM _ml_note_job(job, true);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE ml_scan(uuid, timestamptz, int) IS 'Scores what came since the last scan of each device (or of one) into ml_anomaly, compares it with the stored forecasts and stores fresh ones; commits device by device. A device without a model is recorded in ml_scan_state and passed over; one that the history does not hold is refused (ML002). Devices that have left the history leave the views. Several sessions share the work. as_of replays the past. slot numbers a scheduled worker.';

-- Retraining -----------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_kinds() RETURNS TABLE (kind text, detects boolean, settings jsonb, error jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].kinds()
$$;
COMMENT ON FUNCTION _ml_kinds() IS 'The registered kinds of models: detectors and forecasters, each with the settings that its parameters follow.';

CREATE OR REPLACE FUNCTION _ml_train(device uuid, kind text, field text) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].train(device, kind, field)
$$;
COMMENT ON FUNCTION _ml_train(uuid, text, text) IS 'Trains one model of any kind, with the arguments that a person gave to the current one.';

CREATE OR REPLACE FUNCTION _ml_due(devices uuid[]) RETURNS TABLE (device_uuid uuid, kind text, field text, reason text, since timestamptz)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    s jsonb;
    metrics jsonb; -- each by its name
    detected jsonb; -- those that are enabled, in the order in which a forest has them
    kinds jsonb; -- by kind, whether it detects and what its parameters shall be
    longest interval;
    digest CONSTANT text := _ml_asked();
BEGIN
    SELECT jsonb_object_agg(t.name, t.value) INTO s FROM ml_setting t;
    SELECT jsonb_object_agg(m.name, m.entry), jsonb_agg(m.entry ORDER BY m.name COLLATE "C") FILTER (WHERE m.enabled)
    INTO metrics, detected
    FROM (SELECT k.name, k.enabled, jsonb_build_object('name', k.name, 'path', k.path, 'divisor_path', k.divisor_path,
              'scale', k.scale, 'kind', k.kind) AS entry FROM ml_metric k) AS m;
    SELECT jsonb_object_agg(k.kind, jsonb_build_object('detects', k.detects, 'parameters', coalesce(
        (SELECT jsonb_object_agg(p.key, (s ->> p.value)::float8) FROM jsonb_each_text(k.settings) AS p), '{}')))
    INTO kinds FROM _ml_kinds() AS k WHERE k.error IS NULL OR _ml_raise(k.error);
    longest := make_interval(hours => (s ->> 'retrain_hours')::int);
    RETURN QUERY
    WITH wanted AS (
        SELECT d.device, k.kind, '' AS field
        FROM unnest(devices) AS d (device), jsonb_each(kinds) AS k (kind, known) WHERE k.known @> '{"detects": true}' AND detected IS NOT NULL
        UNION ALL
        SELECT d.device, k.kind, f.name
        FROM jsonb_each(kinds) AS k (kind, known) JOIN unnest(devices) AS d (device) ON NOT k.known @> '{"detects": true}'
        LEFT JOIN ml_device_forecast o ON o.device_uuid = d.device
        CROSS JOIN LATERAL unnest(coalesce(o.fields, ARRAY(SELECT jsonb_array_elements_text((s ->> 'forecast_fields')::jsonb)))) AS f (name)
    ), judged AS (
        SELECT w.device, w.kind, w.field, greatest(m.trained_at, done.started_at) AS since, failed.times, failed.last,
            CASE WHEN m.model_id IS NULL THEN 'never trained'
                 WHEN done.outcome IS DISTINCT FROM 'kept' AND (
                    NOT m.parameters @> CASE WHEN m.parameters -> 'given' <> '{}' THEN (kinds -> w.kind -> 'parameters') || _ml_given(m.parameters)
                        ELSE kinds -> w.kind -> 'parameters' END
                    OR w.field = '' AND m.parameters -> 'metrics' IS DISTINCT FROM detected
                    OR metrics ? w.field AND m.parameters -> 'metric' IS DISTINCT FROM metrics -> w.field) THEN 'changed'
                 WHEN m.model_id = ANY (state.unreadable) THEN 'unreadable'
                 WHEN greatest(m.trained_at, done.started_at) < clock_timestamp() - longest THEN 'aged'
                 -- Found no better than the one in force, the next one waits its time.
                 WHEN done.outcome IS DISTINCT FROM 'kept' AND m.model_id = ANY (state.drifted) THEN 'drifted' END AS reason
        FROM wanted w
        LEFT JOIN ml_model m ON m.device_uuid = w.device AND m.kind = w.kind AND m.field = w.field AND m.is_current
        LEFT JOIN ml_scan_state state ON state.device_uuid = w.device
        LEFT JOIN LATERAL (
            SELECT r.started_at, r.outcome FROM ml_run r
            WHERE r.device_uuid = w.device AND r.kind = w.kind AND r.field = w.field AND r.outcome <> 'failed'
            ORDER BY r.started_at DESC LIMIT 1) AS done ON true
        CROSS JOIN LATERAL (
            SELECT count(*)::int AS times, max(r.started_at) AS last FROM ml_run r
            WHERE r.device_uuid = w.device AND r.kind = w.kind AND r.field = w.field AND r.outcome = 'failed'
              AND r.started_at > coalesce(done.started_at, '-infinity')
              AND r.asked IS NOT DISTINCT FROM digest) AS failed
    )
    SELECT j.device, j.kind, j.field, j.reason, j.since FROM judged j
    WHERE j.reason IS NOT NULL
      -- After a failure a quarter of an hour's wait, twice as long after each further one.
      AND (j.times = 0 OR j.last + least(interval '15 minutes' * 2 ^ least(j.times - 1, 20), greatest(longest, interval '1 day')) < clock_timestamp());
END
$$;
COMMENT ON FUNCTION _ml_due(uuid[]) IS 'What ml_retrain would train of the given devices, and why. Failed attempts make a device wait, longer each time, until settings or metrics change.';

CREATE OR REPLACE FUNCTION _ml_given(parameters jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    -- A model may come from elsewhere: what no training would take is not there.
    SELECT coalesce(jsonb_object_agg(g.key, g.value), '{}')
    FROM jsonb_each(CASE jsonb_typeof($1 -> 'given') WHEN 'object' THEN $1 -> 'given' END) AS g
    WHERE g.key = 'hours' AND g.value BETWEEN '1' AND '87840' OR g.key = 'contamination' AND g.value BETWEEN '0.0001' AND '0.2'
$$;
COMMENT ON FUNCTION _ml_given(jsonb) IS 'Of a model''s parameters the arguments that a person gave to its training, which are not those of the settings.';

CREATE OR REPLACE FUNCTION _ml_asked() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT md5(concat(
        (SELECT string_agg(format('%L %L', s.name, s.value), ' ' ORDER BY s.name COLLATE "C") FROM ml_setting s
         WHERE s.name ~ '^history_' OR s.name = ANY ('{contamination,n_estimators,min_training_samples,sequence_length,forecast_horizon,epochs,seed,training_hours}')),
        (SELECT string_agg(to_jsonb(m)::text, ' ' ORDER BY m.name COLLATE "C") FROM ml_metric m)))
$$;
COMMENT ON FUNCTION _ml_asked() IS 'A digest of the settings and the metrics that trainings go by.';

CREATE OR REPLACE FUNCTION _ml_note_asked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    NEW.asked := coalesce(NEW.asked, _ml_asked()); -- a restored dump brings its own
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_note_asked() IS 'Notes of a failed training what it was asked for.';

CREATE OR REPLACE TRIGGER ml_run_asked BEFORE INSERT ON ml_run
    FOR EACH ROW WHEN (NEW.outcome = 'failed') EXECUTE FUNCTION _ml_note_asked();
COMMENT ON TRIGGER ml_run_asked ON ml_run IS 'Notes what a failed training was asked for.';

CREATE OR REPLACE FUNCTION _ml_claim(device uuid, kind text, field text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF NOT _ml_try_lock('retrain', concat_ws('/', device, kind, field)) THEN
        RETURN false;
    END IF;
    -- A statement of its own, which sees what whoever had it last has committed.
    RETURN EXISTS (SELECT FROM _ml_due(ARRAY[device]) AS d WHERE d.kind = _ml_claim.kind AND d.field = _ml_claim.field);
END
$$;
COMMENT ON FUNCTION _ml_claim(uuid, text, text) IS 'Takes the training of one model until the transaction ends, if it is still due and nobody else is at it.';

CREATE OR REPLACE FUNCTION _ml_retrain_one(device uuid, kind text, field text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    begun CONSTANT timestamptz := clock_timestamp();
    answer jsonb;
    code text;
    words text;
BEGIN
    IF NOT _ml_claim(device, kind, field) THEN
        RETURN 'passed over';
    END IF;
    BEGIN
        answer := _ml_answer(_ml_train(device, kind, field));
        PERFORM _ml_prune(device, kind, field);
        RETURN CASE WHEN answer -> 'accepted' = 'false' THEN 'kept' ELSE 'trained' END;
    EXCEPTION WHEN OTHERS THEN -- which a cancel is not among
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, words = MESSAGE_TEXT;
        IF code = 'ML006' THEN -- nothing that the next device would not meet as well
            RAISE;
        END IF;
    END;
    PERFORM _ml_put_run(device, kind, field, extract(epoch FROM clock_timestamp() - begun), 'failed', NULL, NULL, code, left(words, 10000));
    RETURN 'failed';
END
$$;
COMMENT ON FUNCTION _ml_retrain_one(uuid, text, text) IS 'Trains one model if it is still due and nobody else is at it; a failure is recorded in ml_run. Gives trained, kept, failed or passed over.';

CREATE OR REPLACE PROCEDURE ml_retrain(device uuid DEFAULT NULL, minutes int DEFAULT NULL, slot int DEFAULT NULL)
LANGUAGE plpgsql SECURITY INVOKER
AS $$
DECLARE
    -- Types too are looked up on the caller's path, which is not pinned yet.
    begun CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp();
    devices pg_catalog.uuid[];
    kinds pg_catalog.text[];
    fields pg_catalog.text[];
    job pg_catalog.record;
    refused pg_catalog.bool;
BEGIN
    @PYML_AT_HOME@
    CALL @extschema@._ml_commit(refused); -- at once: inside a transaction block there is no work
    -- A procedure that commits cannot carry a SET clause: each transaction pins its own path.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
    @PYML_AT_HOME@
    IF refused THEN
        PERFORM _ml_refuse_block('ml_retrain');
    END IF;
    IF minutes < 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('minutes %s is out of range', minutes),
            DETAIL = 'It has to be 0 or more; no training is begun after so many minutes.',
            HINT = 'CALL ml_retrain(minutes => 60);';
    END IF;
    IF NOT _ml_slot_is_free('retrain', slot) THEN
        RAISE NOTICE 'ml_retrain: passed over, since the last run of worker % was still going', slot;
        RETURN;
    END IF;
    IF device IS NOT NULL THEN
        PERFORM _ml_name_device(device);
    END IF;
    devices := CASE WHEN device IS NULL THEN ARRAY(SELECT _ml_fleet()) ELSE ARRAY[device] END;
    SELECT coalesce(array_agg(d.device_uuid ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind COLLATE "C", d.field COLLATE "C"), '{}'),
           array_agg(d.kind ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind COLLATE "C", d.field COLLATE "C"),
           array_agg(d.field ORDER BY d.since NULLS FIRST, d.device_uuid, d.kind COLLATE "C", d.field COLLATE "C")
    INTO devices, kinds, fields FROM _ml_due(devices) AS d;
    job := _ml_begin_job('retrain', slot, cardinality(devices));
    COMMIT;
    FOR i IN 1 .. pg_catalog.cardinality(devices) LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
        @PYML_AT_HOME@
        EXIT WHEN clock_timestamp() > begun + make_interval(mins => minutes);
        PERFORM slot IS NULL OR _ml_try_lock('retrain slot', slot::text);
        job := _ml_count_job(job, _ml_retrain_one(devices[i], kinds[i], fields[i]));
        COMMIT;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
    @PYML_AT_HOME@
    PERFORM _ml_note_job(job, true);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE ml_retrain(uuid, int, int) IS 'Trains what is due, of all devices or of one: never trained, older than retrain_hours, settings or metrics changed, drifted, or not to be scored (ML005) in the last scan; the oldest first. Arguments that a person gave to the training of the model in force are kept. Commits model by model; several sessions share the work; failures are recorded in ml_run and wait longer each time, or until settings or metrics change. Begins no training after the given minutes. slot numbers a scheduled worker.';

-- The schedule ---------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_jobs(scan text, retrain text, workers int) RETURNS TABLE (job text, schedule text, command text)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $body$
    -- A job outlives a rename of the schema: it too calls nothing that is not the extension's.
    SELECT format('pyml %s %s (%s)', t.task, w.slot, current_database()), t.schedule,
           concat($job$DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'pyml' AND e.extnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('@extschema@')::pg_catalog.oid) THEN RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = '@extschema@ is not the schema of extension pyml'; END IF; CALL @extschema@.ml_$job$,
                  t.task, '(slot => ', w.slot, '); END $$')
    FROM (VALUES ('scan', scan), ('retrain', retrain)) AS t (task, schedule), generate_series(1, workers) AS w (slot)
    ORDER BY t.task DESC, w.slot
$body$;
COMMENT ON FUNCTION _ml_jobs(text, text, int) IS 'The jobs that ml_schedule puts on pg_cron.';

CREATE OR REPLACE FUNCTION _ml_cron_fix() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    loaded text[];
BEGIN
    IF NOT pg_has_role('pg_read_all_settings', 'USAGE') THEN
        RETURN format('GRANT pg_read_all_settings TO %I;', current_user);
    END IF;
    loaded := ARRAY(SELECT trim(' "' FROM l.name) FROM unnest(string_to_array(current_setting('shared_preload_libraries'), ','))
                    WITH ORDINALITY AS l (name, place) WHERE trim(l.name) <> '' ORDER BY l.place);
    IF 'pg_cron' = ANY (loaded) THEN
        RETURN NULL;
    ELSIF NOT EXISTS (SELECT FROM pg_available_extensions e WHERE e.name = 'pg_cron') THEN
        -- To preload what is not installed would keep the server from starting.
        RETURN format('sudo apt-get install postgresql-%s-cron', current_setting('server_version_num')::int / 10000);
    END IF;
    RETURN format('ALTER SYSTEM SET shared_preload_libraries = %s; -- then restart the server',
        (SELECT string_agg(quote_literal(l.name), ', ' ORDER BY l.place)
         FROM unnest(loaded || 'pg_cron'::text) WITH ORDINALITY AS l (name, place)));
END
$$;
COMMENT ON FUNCTION _ml_cron_fix() IS 'The next step to load pg_cron: its package, then its place among the libraries that the server preloads already; NULL where it is loaded.';

CREATE OR REPLACE FUNCTION _ml_require_cron(instead text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    home CONSTANT text := current_setting('cron.database_name', true);
BEGIN
    IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        RETURN;
    ELSIF home IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = 'pg_cron is not loaded',
            DETAIL = 'It has to be among shared_preload_libraries; a systemd timer or cron can call ml_scan and ml_retrain instead.',
            HINT = coalesce(_ml_cron_fix(), 'SELECT * FROM ml_doctor();');
    ELSIF home = current_database() THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = 'pg_cron is loaded, but its extension is not created',
            DETAIL = 'It belongs into this database.', HINT = 'CREATE EXTENSION pg_cron;';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('pg_cron lives in database %s', home),
        DETAIL = format('A statement in database %s cannot reach it. In %s the extension pg_cron has to be created.', current_database(), home),
        HINT = format(E'-- in database %I:\n%s', home, instead);
END
$$;
COMMENT ON FUNCTION _ml_require_cron(text) IS 'Says what is missing, or what to run where (ML006), unless pg_cron is in this database.';

CREATE OR REPLACE FUNCTION ml_schedule(scan text DEFAULT '*/5 * * * *', retrain text DEFAULT '7 * * * *', workers int DEFAULT 1)
RETURNS TABLE (job text, schedule text, command text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    cron CONSTANT text := '^[[:space:]]*([^[:space:]]+[[:space:]]+){4}[^[:space:]]+[[:space:]]*$';
BEGIN
    @PYML_AT_HOME@
    IF scan IS NULL OR retrain IS NULL OR workers IS NULL OR workers NOT BETWEEN 1 AND 64
       -- No backslashes: what they mean in a literal is up to standard_conforming_strings.
       OR NOT (scan ~ cron AND retrain ~ cron) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'that is no schedule',
            DETAIL = format('scan %L and retrain %L have to be five fields, as in cron; workers (%s) from 1 to 64.', scan, retrain, workers),
            HINT = 'SELECT * FROM ml_schedule(scan => ''*/5 * * * *'', retrain => ''7 * * * *'');';
    END IF;
    PERFORM _ml_require_cron((SELECT 'SELECT ' || string_agg(format('cron.schedule_in_database(%L, %L, %L, %L)',
        j.job, j.schedule, j.command, current_database()), E',\n       ') || ';' FROM _ml_jobs(scan, retrain, workers) AS j));
    PERFORM ml_unschedule();
    FOR job, schedule, command IN SELECT * FROM _ml_jobs(scan, retrain, workers) LOOP
        EXECUTE 'SELECT cron.schedule($1, $2, $3)' USING job, schedule, command;
        RETURN NEXT;
    END LOOP;
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'that is no schedule', DETAIL = format('pg_cron says: %s.', SQLERRM),
        HINT = 'SELECT * FROM ml_schedule(scan => ''*/5 * * * *'', retrain => ''7 * * * *'');';
END
$$;
COMMENT ON FUNCTION ml_schedule(text, text, int) IS 'Puts ml_scan and ml_retrain on pg_cron, each as that many workers which share the work; replaces an earlier schedule. A run is passed over while the last one is going. Schedules are cron''s, in UTC unless cron.timezone says otherwise. Without pg_cron in this database: ML006, with the statement to run where it is.';

CREATE OR REPLACE FUNCTION ml_unschedule() RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_require_cron(format('SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE ''pyml %%'' AND database = %L AND username = current_user;',
                                    current_database()));
    RETURN QUERY EXECUTE $query$
        WITH gone AS MATERIALIZED (SELECT j.jobname::text AS name, cron.unschedule(j.jobid) AS done FROM cron.job j
            WHERE j.jobname LIKE 'pyml %' AND j.database = current_database() AND j.username = current_user)
        SELECT name FROM gone WHERE done ORDER BY name$query$;
END
$$;
COMMENT ON FUNCTION ml_unschedule() IS 'Takes this database''s jobs off pg_cron; gives their names.';

-- Health ---------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _ml_environment() RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].environment()
$$;
COMMENT ON FUNCTION _ml_environment() IS 'Interpreter, package path and library versions of this session''s Python.';

CREATE OR REPLACE FUNCTION _ml_doctor_index(history regclass, device_column smallint, time_column smallint)
RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    device name;
    moment name;
    views boolean;
    below oid[];
    place text;
    partitioned boolean;
BEGIN
    check_name := 'index';
    SELECT a.attname INTO device FROM pg_attribute a WHERE a.attrelid = history AND a.attnum = device_column;
    SELECT a.attname INTO moment FROM pg_attribute a WHERE a.attrelid = history AND a.attnum = time_column;
    IF device IS NULL OR moment IS NULL THEN
        ok := false;
        detail := 'not looked for: there is no such table, or it lacks a column';
        fix := 'SELECT name, value FROM @extschema@.ml_setting WHERE name LIKE ''history%'';';
        RETURN NEXT;
        RETURN;
    END IF;
    WITH RECURSIVE found (relation) AS (
        SELECT history::oid
        UNION
        SELECT d.refobjid FROM found f JOIN pg_class v ON v.oid = f.relation AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    )
    SELECT array_agg(c.oid) FILTER (WHERE c.relkind IN ('r', 'p', 'm')), bool_or(c.oid = history AND c.relkind NOT IN ('r', 'p', 'm'))
    INTO below, views FROM found f JOIN pg_class c ON c.oid = f.relation;
    SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'p' INTO place, partitioned
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = CASE WHEN views AND (cardinality(below) <> 1 OR below IS NULL) THEN history ELSE below[1] END;
    IF views THEN
        SELECT min(a.attnum) FILTER (WHERE a.attname = device), min(a.attnum) FILTER (WHERE a.attname = moment)
        INTO device_column, time_column FROM pg_attribute a
        WHERE a.attrelid = below[1] AND cardinality(below) = 1 AND NOT a.attisdropped;
        IF device_column IS NULL OR time_column IS NULL THEN
            ok := true;
            detail := format('cannot be told, since %s is no table: EXPLAIN SELECT FROM %s WHERE %I = (a device) AND %I > (a time) tells', history, history, device, moment);
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    ok := EXISTS (SELECT FROM pg_index i WHERE i.indrelid = below[1] AND i.indisvalid AND i.indpred IS NULL
        AND i.indkey[0] = device_column AND time_column = ANY (i.indkey));
    detail := CASE WHEN ok THEN format('an index%s leads with the device and has the time', CASE WHEN views THEN ' of ' || place END)
        ELSE format('no index of %s on the device and the time: every call would read the whole table', place) END;
    fix := CASE WHEN NOT ok AND partitioned THEN
            format('CREATE INDEX ON %s (%I, %I DESC); -- writes wait for it: there is no CONCURRENTLY for a partitioned table', place, device, moment)
        WHEN NOT ok THEN format('CREATE INDEX CONCURRENTLY ON %s (%I, %I DESC);', place, device, moment) END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_index(regclass, smallint, smallint) IS 'The doctor''s row on the index of the history, or of the table below where it is a view.';

CREATE OR REPLACE FUNCTION _ml_sample(OUT devices int, OUT rows_read int, OUT readings int, OUT absent text[], OUT ahead interval[], OUT zone text, OUT error text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    rows_of text;
BEGIN
    SELECT * INTO h FROM _ml_history();
    zone := CASE WHEN NOT h.zoned THEN h.zone END;
    -- With the index the newest rows of some devices; without it, any rows.
    rows_of := CASE WHEN (SELECT i.ok AND i.detail LIKE 'an index%' FROM ml_setting s, to_regclass(s.value) AS t (oid),
            _ml_doctor_index(t.oid, (SELECT a.attnum FROM pg_attribute a JOIN ml_setting c ON c.name = 'history_device_column' AND c.value = a.attname WHERE a.attrelid = t.oid),
                                    (SELECT a.attnum FROM pg_attribute a JOIN ml_setting c ON c.name = 'history_time_column' AND c.value = a.attname WHERE a.attrelid = t.oid)) AS i
            WHERE s.name = 'history_table')
        THEN format($part$
            WITH RECURSIVE found (device, n) AS (
                SELECT * FROM (SELECT %1$s, 1 FROM %2$s WHERE %1$s IS NOT NULL ORDER BY 1 LIMIT 1) AS least
                UNION ALL
                SELECT (SELECT %1$s FROM %2$s WHERE %1$s > f.device ORDER BY 1 LIMIT 1), f.n + 1
                FROM found f WHERE f.device IS NOT NULL AND f.n < 100
            ) SELECT r.* FROM found f CROSS JOIN LATERAL (
                SELECT h.* FROM %2$s WHERE %1$s = f.device ORDER BY %3$s DESC LIMIT 10) AS r$part$, h.device, h.source, h.moment)
        ELSE format('SELECT h.* FROM %s LIMIT 1000', h.source) END;
    EXECUTE format($query$
        WITH h AS MATERIALIZED (%1$s), reading AS MATERIALIZED (
            SELECT %2$s AS device, %3$s AS t, %4$s::jsonb AS state FROM h WHERE %5$s
        )
        SELECT (SELECT count(DISTINCT %2$s) FROM h), (SELECT count(*) FROM h), (SELECT count(*) FROM reading),
            ARRAY(SELECT m.name FROM ml_metric m WHERE m.enabled AND NOT EXISTS (
                SELECT FROM reading r WHERE jsonb_typeof(r.state #> string_to_array(m.path, '.')) = 'number')
                AND NOT EXISTS (SELECT FROM ml_scan_state s WHERE s.drift ? m.name AND s.retired_at IS NULL) ORDER BY m.name),
            ARRAY(SELECT least(max(r.t), now() + interval '100 years') - now() FROM reading r GROUP BY r.device
                  HAVING max(r.t) > now() + interval '5 minutes' ORDER BY 1)$query$,
        rows_of, h.device, CASE WHEN h.zoned THEN h.moment ELSE format('(%s AT TIME ZONE %L)', h.moment, h.zone) END, h.state, h.shadow)
    INTO devices, rows_read, readings, absent, ahead;
EXCEPTION WHEN OTHERS THEN -- which a cancel is not among
    error := SQLERRM;
END
$$;
COMMENT ON FUNCTION _ml_sample() IS 'What the doctor sees in a small sample of the history: the newest 10 rows of 100 devices, or any 1000 rows where no index leads to them.';

CREATE OR REPLACE FUNCTION _ml_doctor_history() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    seen record;
    h record;
    enabled bigint;
    hours int;
BEGIN
    SELECT count(*) INTO enabled FROM ml_metric m WHERE m.enabled;
    SELECT * INTO seen FROM _ml_sample();
    IF seen.error IS NULL THEN
        SELECT * INTO h FROM _ml_history();
    END IF;

    check_name := 'metrics';
    ok := false;
    IF enabled = 0 THEN
        detail := 'every metric is disabled: no forest can be trained';
        fix := 'UPDATE @extschema@.ml_metric SET enabled = true WHERE built_in;';
    ELSIF seen.error IS NOT NULL THEN
        detail := format('the history cannot be looked at: %s', seen.error);
        fix := 'SELECT name, value FROM @extschema@.ml_setting WHERE name LIKE ''history%'';';
    ELSIF seen.rows_read = 0 THEN
        ok := true;
        detail := format('%s enabled; the history has no rows yet', enabled);
        fix := NULL;
    ELSIF seen.readings = 0 THEN
        detail := format('none of %s rows looked at is a reading: %s', seen.rows_read, h.shadow);
        fix := format('SELECT %s, count(*) FROM (SELECT * FROM %s LIMIT 1000) AS h GROUP BY 1;',
            (SELECT 'h.' || quote_ident(s.value) FROM ml_setting s WHERE s.name = 'history_shadow_column'), h.source);
    ELSIF seen.absent <> '{}' THEN
        detail := format('no number in %s readings of %s devices: %s', seen.readings, seen.devices,
            (SELECT string_agg(format('%s (%s)', m.name, m.path), ', ' ORDER BY m.name) FROM ml_metric m WHERE m.name = ANY (seen.absent)));
        fix := CASE WHEN cardinality(seen.absent) < enabled THEN format('UPDATE @extschema@.ml_metric SET enabled = false WHERE name IN (%s);',
                (SELECT string_agg(quote_literal(a.name), ', ') FROM unnest(seen.absent) AS a (name)))
            ELSE format('SELECT %s FROM %s LIMIT 1; -- then, for each field that counts: INSERT INTO @extschema@.ml_metric (name, path) VALUES (''its_name'', ''its.path'');',
                h.state, h.source) END;
    ELSE
        ok := true;
        detail := format('%s enabled, each with numbers in %s readings of %s devices', enabled, seen.readings, seen.devices);
        fix := NULL;
    END IF;
    RETURN NEXT;

    check_name := 'clock';
    ok := true;
    fix := NULL;
    IF seen.error IS NOT NULL THEN
        detail := 'not looked at, since the history cannot be';
    ELSIF seen.ahead = '{}' THEN
        detail := 'no reading lies in the future';
    ELSE
        ok := false;
        detail := format('%s of %s devices have readings in the future, up to %s ahead', cardinality(seen.ahead), seen.devices,
            date_trunc('minute', seen.ahead[cardinality(seen.ahead)]));
        hours := round(extract(epoch FROM seen.ahead[(cardinality(seen.ahead) + 1) / 2]) / 3600);
        IF seen.zone = 'UTC' AND 2 * cardinality(seen.ahead) > seen.devices AND hours BETWEEN 1 AND 14 THEN
            -- Most of them, by as many hours: that is a zone, not a clock.
            fix := format('UPDATE @extschema@.ml_setting SET value = ''Etc/GMT-%s'' WHERE name = ''history_time_zone''; -- or by its name, such as Europe/Berlin', hours);
        ELSE
            fix := format('SELECT %1$s, max(%2$s) FROM %3$s WHERE %2$s > %4$s GROUP BY 1; -- set these clocks right', h.device, h.moment, h.source,
                CASE WHEN h.zoned THEN 'now()' ELSE format('now() AT TIME ZONE %L', h.zone) END);
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_history() IS 'The doctor''s rows on what the history holds: metrics that find no number, clocks that are ahead.';

CREATE OR REPLACE FUNCTION _ml_doctor_work() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    jobs record;
    seen record;
    words text;
    failed bigint;
    total bigint;
    oldest timestamptz;
    newest timestamptz;
    untrained boolean;
BEGIN
    check_name := 'schedule';
    fix := 'SELECT * FROM @extschema@.ml_schedule();';
    BEGIN
        IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
            EXECUTE $query$
                SELECT string_agg(format('%s (%s)', j.command, j.schedule), ', ' ORDER BY j.jobid) AS told,
                       bool_or(j.command LIKE '%ml\_scan(%') AND bool_or(j.command LIKE '%ml\_retrain(%') AS whole
                FROM cron.job j WHERE j.active AND j.database = current_database()
                  AND (j.command LIKE '%ml\_scan(%' OR j.command LIKE '%ml\_retrain(%')$query$ INTO jobs;
            -- How the last run of each ended, among the server's last thousand.
            EXECUTE $query$
                SELECT min(r.return_message) FROM (
                    SELECT DISTINCT ON (d.jobid) d.status, d.return_message FROM cron.job_run_details d
                    WHERE d.runid > (SELECT max(m.runid) - 1000 FROM cron.job_run_details m) AND d.status IN ('succeeded', 'failed')
                      AND d.jobid IN (SELECT j.jobid FROM cron.job j WHERE j.active AND j.database = current_database()
                                      AND (j.command LIKE '%ml\_scan(%' OR j.command LIKE '%ml\_retrain(%'))
                    ORDER BY d.jobid, d.runid DESC) AS r WHERE r.status = 'failed'$query$ INTO words;
            IF words IS NOT NULL THEN
                ok := false;
                detail := format('the last run of a job failed: %s', words);
                fix := 'SELECT command, status, return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 10;';
                RETURN NEXT;
            ELSIF jobs.whole THEN
                ok := true;
                detail := jobs.told;
                fix := NULL;
                RETURN NEXT;
            END IF;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN -- whoever may not see the jobs sees their calls
    END;
    IF detail IS NULL THEN -- what calls them is known by its calls
        SELECT count(DISTINCT j.kind) = 2, string_agg(DISTINCT 'ml_' || j.kind, ', ') INTO ok, detail
        FROM ml_job j WHERE j.started_at > now() - interval '1 day';
        detail := CASE WHEN ok THEN 'ml_scan and ml_retrain were called within a day'
            ELSE format('within a day nobody has called %s', CASE detail WHEN 'ml_scan' THEN 'ml_retrain' WHEN 'ml_retrain' THEN 'ml_scan' ELSE 'ml_scan or ml_retrain' END) END;
        fix := CASE WHEN NOT ok THEN fix END;
        RETURN NEXT;
    END IF;

    check_name := 'scans';
    SELECT count(*), count(*) FILTER (WHERE s.outcome = 'failed'), min(s.scanned_at), max(s.scanned_at), bool_and(s.sqlstate = 'ML002') FILTER (WHERE s.outcome = 'failed')
    INTO total, failed, oldest, newest, untrained FROM ml_scan_state s WHERE s.retired_at IS NULL;
    ok := total > 0 AND newest > now() - interval '1 hour' AND oldest > now() - interval '1 day';
    detail := CASE WHEN total = 0 THEN 'no device was ever scanned'
        ELSE format('%s devices, the latest %s ago, the oldest %s ago', total, date_trunc('second', now() - newest), date_trunc('second', now() - oldest)) END;
    fix := CASE WHEN NOT ok THEN 'CALL @extschema@.ml_scan();' END;
    IF total = 0 THEN
        SELECT * INTO seen FROM _ml_sample();
        IF seen.error IS NOT NULL THEN
            fix := 'SELECT name, value FROM @extschema@.ml_setting WHERE name LIKE ''history%'';';
        ELSIF seen.rows_read = 0 THEN
            ok := true;
            detail := 'the history has no rows yet';
            fix := NULL;
        ELSIF seen.devices <= (SELECT count(*) FROM ml_scan_state s WHERE s.retired_at IS NOT NULL) THEN
            ok := true;
            detail := 'every device is retired';
            fix := NULL;
        END IF;
    END IF;
    RETURN NEXT;

    check_name := 'devices';
    ok := failed = 0;
    SELECT format('%s of %s fail; the last: %s: %s', failed, total, s.device_uuid, s.error) INTO detail
    FROM ml_scan_state s WHERE s.retired_at IS NULL AND s.outcome = 'failed' ORDER BY s.scanned_at DESC LIMIT 1;
    detail := coalesce(detail, format('%s scanned, none fails', total));
    fix := CASE WHEN ok THEN NULL WHEN untrained THEN 'CALL @extschema@.ml_retrain();'
        ELSE 'SELECT device_uuid, sqlstate, error FROM @extschema@.ml_device_status WHERE scan_outcome = ''failed'';' END;
    RETURN NEXT;

    check_name := 'trainings';
    SELECT count(*), (array_agg(format('%s: %s', r.device_uuid, r.error) ORDER BY r.started_at DESC))[1] INTO failed, words
    FROM ml_run r WHERE r.outcome = 'failed' AND r.started_at > now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM ml_run l WHERE l.device_uuid = r.device_uuid AND l.kind = r.kind AND l.field = r.field AND l.started_at > r.started_at);
    ok := failed = 0;
    detail := CASE WHEN ok THEN 'none failed within a day' ELSE format('%s models could not be trained; the last: %s', failed, words) END;
    fix := CASE WHEN NOT ok THEN 'SELECT device_uuid, kind, field, error FROM @extschema@.ml_runs WHERE outcome = ''failed'' LIMIT 20;' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_work() IS 'The doctor''s rows on what shall go on by itself: the schedule, scans, failing devices and trainings.';
CREATE OR REPLACE FUNCTION _ml_device_tables() RETURNS TABLE (held regclass, secured_by text)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT c.oid::regclass, CASE WHEN c.relrowsecurity THEN obj_description(p.oid, 'pg_policy') END
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r'
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'device_uuid' AND NOT a.attisdropped
    LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polname = 'pyml_devices'
    WHERE e.extname = 'pyml' ORDER BY c.relname
$$;
COMMENT ON FUNCTION _ml_device_tables() IS 'The extension''s tables that name a device, and the condition that ml_row_security has put on each.';

CREATE OR REPLACE FUNCTION ml_doctor() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    environment jsonb;
    setting jsonb;
    history regclass;
    device_column smallint;
    time_column smallint;
    missing text;
    mistyped text;
    cast_it text;
BEGIN
    @PYML_AT_HOME@
    check_name := 'python';
    BEGIN
        environment := _ml_answer(_ml_environment());
        ok := true;
        detail := format('Python %s, package %s in %s', environment ->> 'python', environment ->> 'version', environment ->> 'site');
        fix := NULL;
    EXCEPTION WHEN OTHERS THEN
        ok := false;
        detail := SQLERRM;
        fix := 'python3 install.py install';
    END;
    RETURN NEXT;

    check_name := 'libraries';
    ok := coalesce(environment -> 'missing' = '[]', false);
    SELECT string_agg(concat_ws(' ', l.key, coalesce(l.value #>> '{}', 'is missing')), ', ' ORDER BY l.key)
    INTO detail FROM jsonb_each(environment -> 'libraries') AS l;
    detail := coalesce(detail, 'Python does not start');
    fix := CASE WHEN NOT ok THEN 'python3 install.py install' END;
    RETURN NEXT;

    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s;
    check_name := 'history table';
    history := to_regclass(setting ->> 'history_table');
    SELECT string_agg(w.name, ', '), min(w.number) FILTER (WHERE w.role = 'device'), min(w.number) FILTER (WHERE w.role = 'time')
    INTO missing, device_column, time_column
    FROM (
        SELECT CASE WHEN a.attnum IS NULL THEN c.name END AS name, c.role, a.attnum AS number
        FROM (VALUES ('device', setting ->> 'history_device_column'), ('time', setting ->> 'history_time_column'),
                     ('state', setting ->> 'history_state_column'), ('shadow', nullif(setting ->> 'history_shadow_column', '')))
             AS c (role, name)
        LEFT JOIN pg_attribute a ON a.attrelid = history AND a.attname = c.name AND NOT a.attisdropped
        WHERE c.name IS NOT NULL
    ) AS w;
    SELECT string_agg(c.fault, ', ' ORDER BY c.name),
           string_agg(format('ALTER COLUMN %1$I TYPE %2$s USING %1$I::%2$s', c.name, CASE c.setting WHEN 'history_device_column' THEN 'uuid'
               WHEN 'history_time_column' THEN 'timestamptz' WHEN 'history_state_column' THEN 'jsonb' ELSE 'text' END), ', ' ORDER BY c.name)
    INTO mistyped, cast_it FROM _ml_history_columns() AS c WHERE c.type IS NOT NULL AND c.fault IS NOT NULL;
    IF history IS NULL THEN
        ok := false;
        detail := format('%s does not exist', setting ->> 'history_table');
        fix := $fix$UPDATE ml_setting SET value = 'schema.name' WHERE name = 'history_table';$fix$;
    ELSIF missing IS NOT NULL THEN
        ok := false;
        detail := format('%s has no column %s', history, missing);
        fix := $fix$SELECT name, value FROM ml_setting WHERE name LIKE 'history%column';$fix$;
    ELSIF mistyped IS NOT NULL THEN
        ok := false;
        detail := format('in %s, %s', history, mistyped);
        fix := format('ALTER TABLE %s %s; -- or let history_table name a view that casts', history, cast_it);
    ELSIF NOT has_table_privilege(history, 'SELECT') THEN
        ok := false;
        detail := format('%s may not read %s', current_user, history);
        fix := format('GRANT SELECT ON %s TO %I;', history, current_user);
    ELSE
        ok := true;
        detail := format('%s, readable', history);
        fix := NULL;
    END IF;
    RETURN NEXT;

    RETURN QUERY SELECT * FROM _ml_doctor_index(history, device_column, time_column);

    check_name := 'pg_cron';
    IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
        ok := true;
        detail := 'runs in this database';
        fix := NULL;
    ELSIF NOT pg_has_role('pg_read_all_settings', 'USAGE') THEN
        ok := false;
        detail := format('not in this database, and %s may not see whether it is in another', current_user);
        fix := format('GRANT pg_read_all_settings TO %I;', current_user);
    ELSE
        fix := _ml_cron_fix();
        ok := fix IS NULL AND current_setting('cron.database_name', true) <> current_database();
        detail := CASE WHEN ok THEN format('runs in database %s', current_setting('cron.database_name'))
            WHEN fix IS NULL THEN 'loaded, but its extension is not created'
            ELSE 'not loaded: nothing is scanned or retrained by itself' END;
        fix := CASE WHEN NOT ok THEN coalesce(fix, 'CREATE EXTENSION pg_cron;') END;
    END IF;
    RETURN NEXT;

    check_name := 'schema';
    SELECT string_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, ', ') INTO missing
    FROM pg_namespace n, aclexplode(n.nspacl) AS a LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.oid = '@extschema@'::regnamespace AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND r.rolsuper IS NOT TRUE;
    ok := missing IS NULL;
    detail := CASE WHEN ok THEN format('only its owner and superusers may create objects in %s', '@extschema@'::regnamespace)
        ELSE format('%s may create objects in %s, which could be called in place of others by whoever uses pyml', missing, '@extschema@'::regnamespace) END;
    fix := CASE WHEN NOT ok THEN format('REVOKE CREATE ON SCHEMA %s FROM %s;', '@extschema@'::regnamespace, missing) END;
    RETURN NEXT;

    check_name := 'privileges';
    SELECT string_agg(d.name, ', ') INTO missing
    FROM (VALUES ('ml_model'), ('ml_setting'), ('ml_metric'), ('ml_run'), ('ml_scan_state'), ('ml_job')) AS d (name)
    WHERE NOT has_table_privilege(format('%s.%I', '@extschema@', d.name), 'SELECT');
    ok := missing IS NULL;
    detail := CASE WHEN ok THEN format('%s may read models and settings', current_user)
        ELSE format('%s may not read %s', current_user, missing) END;
    fix := CASE WHEN NOT ok THEN format('SELECT ml_grant(%L, ''read'');', current_user) END;
    RETURN NEXT;

    IF ok THEN
        RETURN QUERY SELECT * FROM _ml_doctor_history();
        RETURN QUERY SELECT * FROM _ml_doctor_work();
    END IF;
    check_name := 'row security';
    SELECT string_agg(t.held::text, ', ') INTO missing FROM _ml_device_tables() AS t
    WHERE t.secured_by IS DISTINCT FROM nullif(setting ->> 'row_security', '');
    ok := missing IS NULL;
    detail := CASE WHEN NOT ok THEN format('the condition in setting row_security is not the one on %s: a restored dump brings no policies', missing)
        WHEN setting ->> 'row_security' = '' THEN 'not asked for: who may read a table reads the rows of every device'
        ELSE 'each role sees the devices that the setting row_security gives it' END;
    fix := CASE WHEN NOT ok THEN 'SELECT ml_row_security();' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ml_doctor() IS 'One row a check: Python, its libraries, the history table, its index, pg_cron, the schema, privileges, metrics that find nothing, clocks that are ahead, the schedule, scans, failing devices and trainings. fix is the statement or command that helps. Of the history it reads a small sample.';

CREATE OR REPLACE FUNCTION ml_grant(role name, level text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    trains CONSTANT boolean := level = 'train';
    member record;
BEGIN
    @PYML_AT_HOME@
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'role is null',
            DETAIL = 'It has to be given.', HINT = 'SELECT rolname FROM pg_roles ORDER BY rolname;';
    END IF;
    IF level IS NULL OR level NOT IN ('read', 'train') THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('there is no level %L to grant', level),
            DETAIL = 'The levels are read (score, forecast, look) and train (the same, and train, scan, roll back, forget).',
            HINT = format('SELECT ml_grant(%L, ''read'');', role);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('there is no role %L', role),
            DETAIL = 'The extension creates no roles.', HINT = format('CREATE ROLE %I LOGIN;', role);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', '@extschema@', role);
    FOR member IN
        SELECT p.oid::regprocedure::text AS name, 'ROUTINE' AS kind,
               CASE WHEN p.prorettype <> 'trigger'::regtype
                     AND p.proname NOT IN ('ml_grant', 'ml_row_security', 'ml_schedule', 'ml_unschedule', '_ml_jobs', '_ml_require_cron')
                     AND (trains OR p.provolatile <> 'v' AND p.prokind = 'f' AND p.proname NOT IN ('_ml_devices', '_ml_fleet', '_ml_due'))
                    THEN 'EXECUTE' END AS needed
        FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
        WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'pyml')
        UNION ALL
        SELECT c.oid::regclass::text, 'TABLE', 'SELECT' -- what a training writes goes through functions
        FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
        WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND c.relkind IN ('r', 'v')
          AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'pyml')
    LOOP
        -- What an earlier level gave beyond this one is taken back.
        EXECUTE format('REVOKE ALL ON %s %s FROM %I', member.kind, member.name, role);
        IF member.needed IS NOT NULL THEN
            EXECUTE format('GRANT %s ON %s %s TO %I', member.needed, member.kind, member.name, role);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION ml_grant(name, text) IS 'Gives a role what it needs to read (score, forecast, look at views) or to train (that, and train, scan, roll back, forget), and takes back what an earlier level gave beyond it. The history table''s own privileges stay the business of its owner.';

CREATE OR REPLACE FUNCTION ml_row_security(condition text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
    held regclass;
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_setting s SET value = condition WHERE s.name = 'row_security' AND condition IS NOT NULL;
    SELECT s.value INTO wanted FROM ml_setting s WHERE s.name = 'row_security';
    FOR held IN SELECT t.held FROM _ml_device_tables() AS t LOOP
        EXECUTE format('DROP POLICY IF EXISTS pyml_devices ON %s', held);
        IF wanted <> '' THEN
            EXECUTE format(E'CREATE POLICY pyml_devices ON %s USING (%s\n)', held, wanted);
            EXECUTE format('COMMENT ON POLICY pyml_devices ON %s IS %L', held, wanted);
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', held);
            RETURN NEXT held::text;
        ELSIF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = held) THEN
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', held);
        END IF;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE;
    WHEN syntax_error_or_access_rule_violation OR data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'that is no condition on device_uuid',
            DETAIL = format('PostgreSQL says: %s. Tables and functions have to be named with their schema.', SQLERRM),
            HINT = 'SELECT ml_row_security(''device_uuid IN (SELECT t.device_uuid FROM public.tenant_device t WHERE t.tenant = current_user)'');';
END
$$;
COMMENT ON FUNCTION ml_row_security(text) IS 'Shows each role only the rows of pyml''s tables and views for which the condition on device_uuid holds: one policy, pyml_devices, on each table that names a device. The condition is kept in the setting row_security; without an argument it is applied again, as after a restore, since pg_dump leaves out policies on an extension''s tables. An empty one takes the policies away. Gives the tables. No such condition: ML004.';

-- No door is open to everybody; ml_grant opens them. Only what is still open is touched: what a
-- script of the extension changes counts as the extension's own, and pg_dump would
-- then leave out what ml_grant has given.
DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN
        SELECT p.oid::regprocedure
        FROM pg_depend d
        JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
        JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
        WHERE e.extname = 'pyml' AND d.deptype = 'e'
          AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine);
    END LOOP;
END
$$;
