-- Models: look, roll back, forget.

CREATE OR REPLACE FUNCTION ml_model_info(device uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    models jsonb;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_given(device);
    SELECT jsonb_agg(jsonb_build_object('model_id', m.model_id, 'kind', m.kind,
            'field', nullif(m.field, ''), 'is_current', m.is_current, 'trained_at', m.trained_at,
            'window_start', m.window_start, 'window_end', m.window_end,
            'readings_used', m.readings_used, 'readings_rejected', m.readings_rejected,
            'parameters', m.parameters, 'figures', m.figures, 'versions', m.versions, 'trained_with', m.trained_with,
            'seconds', m.seconds, 'bytes', octet_length(m.blob), 'sha256', m.sha256)
        ORDER BY m.is_current DESC, m.kind COLLATE "C", m.field COLLATE "C", m.model_id DESC)
    INTO models FROM ml_model m WHERE m.device_uuid = device;
    IF models IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('device %s has no model', coalesce(_ml_device_id(device), device::text)),
            DETAIL = 'None was trained for it, or they were dropped.',
            HINT = 'SELECT @extschema@.ml_train_forest(' || quote_literal(coalesce(_ml_device_id(device), device::text)) || ');';
    END IF;
    RETURN jsonb_build_object('device_uuid', device, 'device_id', coalesce((SELECT d.device_id FROM ml_device d WHERE d.device_uuid = device), device::text), 'models', models);
END
$$;
COMMENT ON FUNCTION ml_model_info(uuid) IS 'The models of a device and their figures, those in force first. None: ML002.';

CREATE OR REPLACE FUNCTION _ml_rollback(seen bigint, model_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted record;
    before bigint;
BEGIN
    @PYML_AT_HOME@
    SELECT m.device_uuid, m.kind, m.field INTO wanted FROM ml_model m WHERE m.model_id = seen;
    IF FOUND THEN
        PERFORM _ml_lock_model(wanted.device_uuid, wanted.kind, wanted.field);
        UPDATE ml_model m SET is_current = false
        WHERE m.device_uuid = wanted.device_uuid AND m.kind = wanted.kind AND m.field = wanted.field AND m.is_current
        RETURNING m.model_id INTO before;
        IF wanted.kind = 'forest' THEN -- the finders of that training come back with it
            PERFORM _ml_lock_finders(wanted.device_uuid, '{}');
            UPDATE ml_model m SET is_current = false
            WHERE m.device_uuid = wanted.device_uuid AND m.is_current AND m.field = ''
              AND (m.trained_with IS NOT NULL OR m.kind IN (SELECT f.kind FROM ml_model f WHERE f.trained_with = seen));
            UPDATE ml_model m SET is_current = true WHERE m.trained_with = seen;
        END IF;
        UPDATE ml_model m SET is_current = true WHERE m.model_id = seen;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no model %s', coalesce(model_id::text, 'NULL')),
            DETAIL = 'Either there never was one, or it was pruned.',
            HINT = 'SELECT model_id, device_uuid, kind, field, trained_at FROM @extschema@.ml_models ORDER BY model_id DESC;';
    END IF;
    RETURN jsonb_build_object('model_id', model_id, 'replaced_model_id', nullif(before, _ml_rollback.model_id),
        'device_uuid', wanted.device_uuid, 'device_id', coalesce((SELECT d.device_id FROM ml_device d WHERE d.device_uuid = wanted.device_uuid), wanted.device_uuid::text), 'kind', wanted.kind, 'field', nullif(wanted.field, ''));
END
$$;
COMMENT ON FUNCTION _ml_rollback(bigint, bigint) IS 'What ml_rollback does once its caller has seen the model.';

CREATE OR REPLACE FUNCTION ml_rollback(model_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    -- A model that row-level security hides from the caller is refused like one that does not exist.
    RETURN _ml_rollback((SELECT m.model_id FROM ml_model m WHERE m.model_id = ml_rollback.model_id), model_id);
END
$$;
COMMENT ON FUNCTION ml_rollback(bigint) IS 'Puts an earlier model of a device back in force. Unknown model: ML002.';

CREATE OR REPLACE FUNCTION _ml_forget(device uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    models bigint;
    runs bigint;
    anomalies bigint;
    findings bigint;
    points bigint;
BEGIN
    @PYML_AT_HOME@
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
    DELETE FROM ml_finding f WHERE f.device_uuid = device;
    GET DIAGNOSTICS findings = ROW_COUNT;
    PERFORM _ml_resolve_retired(ARRAY[device]);
    DELETE FROM ml_forecast_point p WHERE p.device_uuid = device;
    GET DIAGNOSTICS points = ROW_COUNT;
    DELETE FROM ml_scan_state s WHERE s.device_uuid = device;
    DELETE FROM ml_signal_state s WHERE s.device_uuid = device;
    DELETE FROM ml_capacity_state c WHERE c.device_uuid = device;
    DELETE FROM ml_late l WHERE l.device_uuid = device;
    DELETE FROM ml_device_forecast f WHERE f.device_uuid = device;
    DELETE FROM ml_device d WHERE d.device_uuid = device;
    -- A lock that a training holds now stays: this does not wait for it.
    DELETE FROM ml_lock l USING (
        SELECT k.task, k.what FROM ml_lock k WHERE k.device_uuid = device FOR UPDATE SKIP LOCKED) AS free
    WHERE l.task = free.task AND l.what = free.what;
    INSERT INTO ml_scan_state (device_uuid, scanned_at, outcome, retired_at)
    SELECT device, clock_timestamp(), 'unchanged', clock_timestamp() WHERE device <> _ml_whole_fleet();
    RETURN jsonb_build_object('device_uuid', device, 'models', models, 'runs', runs,
        'anomalies', anomalies, 'findings', findings, 'forecast_points', points);
END
$$;
COMMENT ON FUNCTION _ml_forget(uuid) IS 'What ml_forget does once its caller has seen the device.';

CREATE OR REPLACE FUNCTION ml_forget(device uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_given(device);
    -- A device that row-level security hides from the caller counts as one without data.
    IF row_security_active('ml_model') AND NOT EXISTS (SELECT FROM ml_model m WHERE m.device_uuid = device)
       AND NOT EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = device) THEN
        RETURN jsonb_build_object('device_uuid', device, 'models', 0, 'runs', 0, 'anomalies', 0, 'findings', 0, 'forecast_points', 0);
    END IF;
    RETURN _ml_forget(device);
END
$$;
COMMENT ON FUNCTION ml_forget(uuid) IS 'Retires a device: drops what was learned and noted of it. Its history stays.';
