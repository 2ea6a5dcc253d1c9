-- What is due, and retraining.

CREATE OR REPLACE FUNCTION _ml_kinds() RETURNS TABLE (kind text, detects boolean, pools boolean, settings jsonb, error jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].kinds()
$$;
COMMENT ON FUNCTION _ml_kinds() IS 'The registered kinds of models that are trained by themselves: detectors that judge readings, and forecasters, each with the settings that its parameters follow, and whether the fleet can have one. Finders are trained with the forest.';

CREATE OR REPLACE FUNCTION _ml_train(device uuid, kind text, field text) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].train(device, kind, field)
$$;
COMMENT ON FUNCTION _ml_train(uuid, text, text) IS 'Trains one model of any kind, with the arguments that a person gave to the current one.';

CREATE OR REPLACE FUNCTION _ml_pool_models() RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].pool()
$$;
COMMENT ON FUNCTION _ml_pool_models() IS 'Writes ml_fleet_model anew, of the finders in force of up to 200 devices.';

CREATE OR REPLACE FUNCTION _ml_pool() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    PERFORM _ml_pool_peaks();
    IF NOT row_security_active('ml_model') THEN -- who sees some devices alone makes nothing of the fleet
        PERFORM _ml_answer(_ml_pool_models());
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_pool() IS 'Makes of the models in force what holds for the whole fleet, after trainings: ml_rarity and ml_fleet_model.';

CREATE OR REPLACE FUNCTION _ml_due(devices uuid[]) RETURNS TABLE (device_uuid uuid, kind text, field text, reason text, since timestamptz)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET jit = off -- as in _ml_pool_peaks
AS $$
DECLARE
    s jsonb;
    metrics jsonb; -- each by its name
    detected jsonb; -- those that are enabled, in the order in which a forest has them
    kinds jsonb; -- by kind, whether it detects, and its parameters: which setting each follows, and its value
    longest interval;
    digest CONSTANT text := _ml_asked();
BEGIN
    SELECT jsonb_object_agg(t.name, t.value) INTO s FROM ml_setting t;
    SELECT jsonb_object_agg(m.name, m.entry), jsonb_agg(m.entry ORDER BY m.name COLLATE "C") FILTER (WHERE m.enabled)
    INTO metrics, detected
    FROM (SELECT k.name, k.enabled, jsonb_build_object('name', k.name, 'path', k.path, 'divisor_path', k.divisor_path,
              'scale', k.scale, 'kind', k.kind, 'lower', k.lower_bound, 'upper', k.upper_bound,
              'direction', k.direction, 'least_deviation', k.least_deviation) AS entry FROM ml_metric k) AS m;
    SELECT jsonb_object_agg(k.kind, jsonb_build_object('detects', k.detects, 'pools', k.pools, 'settings', k.settings, 'parameters', coalesce(
        (SELECT jsonb_object_agg(p.key, CASE WHEN g.kind IN ('integer', 'number') THEN to_jsonb(g.value::float8) ELSE to_jsonb(g.value) END)
         FROM jsonb_each_text(k.settings) AS p JOIN ml_setting g ON g.name = p.value), '{}')))
    INTO kinds FROM _ml_kinds() AS k WHERE k.error IS NULL OR _ml_raise(k.error);
    longest := make_interval(hours => (s ->> 'retrain_hours')::int);
    RETURN QUERY
    WITH wanted AS (
        SELECT d.device, k.kind, '' AS field, true AS asked_for
        FROM unnest(devices) AS d (device), jsonb_each(kinds) AS k (kind, known)
        WHERE k.known @> '{"detects": true}' AND detected IS NOT NULL AND d.device <> _ml_whole_fleet()
        UNION ALL
        SELECT d.device, k.kind, f.name, o.device_uuid IS NOT NULL
        FROM jsonb_each(kinds) AS k (kind, known) JOIN unnest(devices) AS d (device) ON NOT k.known @> '{"detects": true}'
        LEFT JOIN ml_device_forecast o ON o.device_uuid = d.device
        CROSS JOIN LATERAL unnest(coalesce(o.fields, ARRAY(SELECT jsonb_array_elements_text((s ->> 'forecast_fields')::jsonb)))) AS f (name)
        WHERE d.device <> _ml_whole_fleet() OR k.known @> '{"pools": true}' AND (s ->> 'fleet_training_seconds')::int > 0
            -- Of fewer devices there is nothing in common.
            AND (SELECT count(*) FROM (SELECT FROM ml_device e LEFT JOIN ml_scan_state t ON t.device_uuid = e.device_uuid
                 WHERE t.retired_at IS NULL LIMIT 3) AS three) = 3
    ), pooled AS MATERIALIZED (
        SELECT m.kind, m.field FROM ml_model m
        WHERE m.device_uuid = _ml_whole_fleet() AND m.is_current AND (s ->> 'fleet_training_seconds')::int > 0
    ), judged AS (
        SELECT w.device, w.kind, w.field, greatest(m.trained_at, done.started_at) AS since, failed.times, failed.last, absent.last AS absent_at,
            w.device <> _ml_whole_fleet() AND EXISTS (SELECT FROM pooled p WHERE p.kind = w.kind AND p.field = w.field) AS stood_in,
            CASE WHEN m.model_id IS NULL AND (done.outcome IS DISTINCT FROM 'kept' -- or the fleet's did as well
                     OR NOT EXISTS (SELECT FROM pooled p WHERE p.kind = w.kind AND p.field = w.field)) THEN 'never trained'
                 WHEN done.outcome IS DISTINCT FROM 'kept' AND (
                    NOT m.parameters @> ((kinds -> w.kind -> 'parameters') || own.parameters
                        || CASE WHEN m.parameters -> 'given' <> '{}' THEN _ml_given(m.parameters, kinds -> w.kind -> 'settings') ELSE '{}' END)
                    OR w.field = '' AND m.parameters -> 'metrics' IS DISTINCT FROM detected
                    OR metrics ? w.field AND m.parameters -> 'metric' IS DISTINCT FROM metrics -> w.field) THEN 'changed'
                 WHEN m.model_id = ANY (state.unreadable) OR w.kind = 'forest' AND EXISTS ( -- or one that was trained with it
                    SELECT FROM ml_model f WHERE f.trained_with = m.model_id AND f.is_current AND f.model_id = ANY (state.unreadable)) THEN 'unreadable'
                 -- Where the fleet's did as well, its own is tried more seldom.
                 WHEN greatest(m.trained_at, done.started_at) < clock_timestamp() - longest * CASE WHEN m.model_id IS NULL THEN 7 ELSE 1 END THEN 'aged'
                 WHEN EXISTS (
                    SELECT FROM ml_incident i WHERE i.device_uuid = w.device AND i.why = 'became usual'
                      AND i.resolved_at > greatest(m.trained_at, done.started_at)) THEN 'became usual' END AS reason
        FROM wanted w
        LEFT JOIN ml_model m ON m.device_uuid = w.device AND m.kind = w.kind AND m.field = w.field AND m.is_current
        LEFT JOIN ml_scan_state state ON state.device_uuid = w.device
        LEFT JOIN ml_device k ON k.device_uuid = w.device
        CROSS JOIN LATERAL (
            SELECT coalesce(jsonb_object_agg(p.key, to_jsonb(k) -> p.value) FILTER (WHERE to_jsonb(k) ->> p.value IS NOT NULL), '{}') AS parameters
            FROM jsonb_each_text(kinds -> w.kind -> 'settings') AS p) AS own
        LEFT JOIN LATERAL (
            SELECT r.started_at, r.outcome FROM ml_run r
            WHERE r.device_uuid = w.device AND r.kind = w.kind AND r.field = w.field AND r.outcome IN ('trained', 'kept')
            ORDER BY r.started_at DESC LIMIT 1) AS done ON true
        CROSS JOIN LATERAL (
            SELECT count(*)::int AS times, max(r.started_at) AS last FROM ml_run r
            WHERE r.device_uuid = w.device AND r.kind = w.kind AND r.field = w.field AND r.outcome = 'failed'
              AND r.started_at > coalesce(done.started_at, '-infinity')
              AND r.asked IS NOT DISTINCT FROM _ml_asked_of(digest, w.device)) AS failed
        LEFT JOIN LATERAL (
            SELECT max(r.started_at) AS last FROM ml_run r
            WHERE m.model_id IS NULL AND NOT w.asked_for AND r.device_uuid = w.device AND r.kind = w.kind AND r.field = w.field
              AND r.outcome = 'absent' AND r.asked IS NOT DISTINCT FROM _ml_asked_of(digest, w.device)) AS absent ON true
    ), waiting AS (
        SELECT j.*, rank() OVER (PARTITION BY j.stood_in ORDER BY j.since NULLS FIRST, j.device, j.kind COLLATE "C", j.field COLLATE "C") AS place
        FROM judged j WHERE j.reason IS NOT NULL
      -- After a failure a quarter of an hour's wait, twice as long after each further one.
      AND (j.times = 0 OR j.last + least(interval '15 minutes' * 2 ^ least(j.times - 1, 20), greatest(longest, interval '1 day')) < clock_timestamp())
      -- A field that the device does not report is tried again after retrain_hours.
      AND (j.absent_at IS NULL OR j.absent_at < clock_timestamp() - longest)
    )
    -- Where the fleet's model stands in, a night's trainings are counted: those of the last one are not in the way.
    SELECT w.device, w.kind, w.field, w.reason, w.since FROM waiting w
    WHERE NOT w.stood_in OR w.place <= (s ->> 'forecast_trainings')::int - (
        SELECT count(*) FROM ml_run r JOIN pooled p ON p.kind = r.kind AND p.field = r.field
        WHERE r.started_at > clock_timestamp() - 0.9 * longest AND r.outcome IN ('trained', 'kept') AND r.device_uuid <> _ml_whole_fleet())
    ORDER BY w.device <> _ml_whole_fleet(), w.since NULLS FIRST, w.device, w.kind COLLATE "C", w.field COLLATE "C";
END
$$;
COMMENT ON FUNCTION _ml_due(uuid[]) IS 'What ml_retrain would train of the given devices, in its order, and why: the fleet''s models first, then the longest due. Failed attempts make a device wait, longer each time, until settings or metrics change. A field of the setting forecast_fields that a device does not report is looked for again after retrain_hours. Of fields that the fleet has a model of, as many as forecast_trainings says.';

CREATE OR REPLACE FUNCTION _ml_given(parameters jsonb, settings jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    -- A model may come from elsewhere: arguments that no training takes are left out.
    SELECT coalesce(jsonb_object_agg(g.key, g.value), '{}')
    FROM jsonb_each(CASE jsonb_typeof($1 -> 'given') WHEN 'object' THEN $1 -> 'given' END) AS g
    JOIN jsonb_each_text('{"hours": "training_hours"}' || coalesce($2, '{}')) AS p ON p.key = g.key
    JOIN ml_setting s ON s.name = p.value
    WHERE g.value BETWEEN to_jsonb(s.minimum) AND to_jsonb(s.maximum)
$$;
COMMENT ON FUNCTION _ml_given(jsonb, jsonb) IS 'Of a model''s parameters the arguments that a person gave to its training, which are not those of the settings. settings names the setting that each parameter of its kind follows, as _ml_kinds does; an argument has the range of that setting.';

CREATE OR REPLACE FUNCTION _ml_asked() RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT md5(concat(
        (SELECT string_agg(format('%L %L', s.name, s.value), ' ' ORDER BY s.name COLLATE "C") FROM ml_setting s
         WHERE s.name ~ '^history_' OR s.name IN ('training_hours', 'min_training_samples') -- of every training
            OR s.name IN (SELECT p.value FROM _ml_kinds() AS k, jsonb_each_text(k.settings) AS p)),
        -- Of a metric the columns that a training reads: after a change of a limit it would fail again.
        (SELECT string_agg((to_jsonb(m) - '{unit,limit_low,limit_high,direction,least_deviation}'::text[])::text, ' ' ORDER BY m.name COLLATE "C") FROM ml_metric m)))
$$;
COMMENT ON FUNCTION _ml_asked() IS 'A digest of the settings and the metrics that trainings go by: those of the history and of every kind.';

CREATE OR REPLACE FUNCTION _ml_asked_of(digest text, device uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ SELECT md5($1 || _ml_device_settings($2)::text) $$;
COMMENT ON FUNCTION _ml_asked_of(text, uuid) IS 'The same of a device: of _ml_asked() and of what ml_device says in place of settings.';

CREATE OR REPLACE FUNCTION _ml_note_asked() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    NEW.asked := coalesce(NEW.asked, _ml_asked_of(_ml_asked(), NEW.device_uuid)); -- a restored dump brings its own
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_note_asked() IS 'Notes of a failed training what it was asked for.';

CREATE OR REPLACE TRIGGER ml_run_asked BEFORE INSERT ON ml_run
    FOR EACH ROW WHEN (NEW.outcome IN ('failed', 'absent')) EXECUTE FUNCTION _ml_note_asked();
COMMENT ON TRIGGER ml_run_asked ON ml_run IS 'Notes what a failed training was asked for.';

CREATE OR REPLACE FUNCTION _ml_claim(device uuid, kind text, field text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF NOT _ml_try_lock('retrain', concat_ws('/', device, kind, field)) THEN
        RETURN false;
    END IF;
    -- A statement of its own: it sees what the lock's last holder has committed.
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
    RETURN _ml_put_run(device, kind, field, extract(epoch FROM clock_timestamp() - begun), 'failed', NULL, NULL, code, left(words, 10000));
END
$$;
COMMENT ON FUNCTION _ml_retrain_one(uuid, text, text) IS 'Trains one model if it is still due and nobody else is at it; a failure is recorded in ml_run. Gives trained, kept, failed, absent or passed over.';

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
            HINT = 'CALL @extschema@.ml_retrain(minutes => 60);';
    END IF;
    IF NOT _ml_slot_is_free('retrain', slot) THEN
        RAISE NOTICE 'ml_retrain: passed over, since the last run of worker % was still going', slot;
        RETURN;
    END IF;
    IF device IS NOT NULL THEN
        PERFORM _ml_name_device(device);
    END IF;
    devices := CASE WHEN device IS NULL THEN ARRAY(SELECT _ml_fleet()) ELSE ARRAY[device] END;
    PERFORM _ml_meet(devices);
    IF device IS NULL AND NOT row_security_active('ml_model') THEN -- as in _ml_pool
        devices := _ml_whole_fleet() || devices;
    END IF;
    SELECT coalesce(array_agg(d.device_uuid ORDER BY d.place), '{}'), array_agg(d.kind ORDER BY d.place), array_agg(d.field ORDER BY d.place)
    INTO devices, kinds, fields FROM _ml_due(devices) WITH ORDINALITY AS d (device_uuid, kind, field, reason, since, place);
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
    IF job.done > 0 THEN
        PERFORM _ml_pool();
    END IF;
    PERFORM _ml_note_job(job, true);
    COMMIT;
END
$$;
COMMENT ON PROCEDURE ml_retrain(uuid, int, int) IS 'Trains the models that are due, of all devices or of one.';
