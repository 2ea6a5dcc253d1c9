-- The scan.

CREATE OR REPLACE FUNCTION _ml_scan(device uuid, as_of timestamptz, counted boolean) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].scan(device, as_of, counted)
$$;
COMMENT ON FUNCTION _ml_scan(uuid, timestamptz, boolean) IS 'The Python side of _ml_scan_device. counted: late rows are found by counting.';

CREATE OR REPLACE FUNCTION _ml_scan_device(device uuid, as_of timestamptz, begun timestamptz, counted boolean) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    code text;
    words text;
BEGIN
    -- Another session is scanning the device, or has done so since this scan began.
    IF NOT _ml_try_lock('scan', device::text)
       OR EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = device AND s.scanned_at > begun)
          AND NOT EXISTS (SELECT FROM ml_late l WHERE l.device_uuid = device) THEN
        RETURN 'passed over';
    END IF;
    BEGIN
        RETURN _ml_answer(_ml_scan(device, as_of, counted)) ->> 'outcome';
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
COMMENT ON FUNCTION _ml_scan_device(uuid, timestamptz, timestamptz, boolean) IS 'Scans one device; an error is recorded and undoes that device''s work alone.';

CREATE OR REPLACE FUNCTION _ml_find_late(as_of timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    id CONSTANT text := _ml_history_id();
    ends CONSTANT timestamptz := greatest(coalesce(as_of, now()), '4500-01-01 BC'); -- time begins in 4713
    h record;
    place text;
    recent text;
    oldest timestamptz;
    late_minutes int;
    before ml_arrival;
    beyond bigint;
    newest bigint;
    gaps int8multirange;
    late record;
BEGIN
    IF id IS NULL THEN
        RETURN false;
    ELSIF NOT _ml_try_lock('late', '') THEN -- another session is at it, and what it finds is found
        RETURN true;
    END IF;
    SELECT * INTO h FROM _ml_history();
    place := h.source || ', ' || id;
    PERFORM _ml_settle_arrivals(place);
    SELECT * INTO before FROM ml_arrival a WHERE a.history = place;
    -- Rows older than anomaly_days are not looked at: the old partitions of a history are not opened.
    SELECT ends - make_interval(days => d.value::int), m.value::int INTO oldest, late_minutes
    FROM ml_setting d, ml_setting m WHERE d.name = 'anomaly_days' AND m.name = 'scan_late_minutes';
    recent := h.moment || ' > ' || format(h.bound, '$1');
    EXECUTE format('SELECT max(%s) FROM %s WHERE %s', id, h.source, recent) INTO newest USING oldest;
    IF before IS NULL THEN -- what is there is what was looked at, or will be from scan_first_hours on
        PERFORM _ml_put_arrivals(place, coalesce(newest, 0), '{}', '{}', '{}', '{}');
        RETURN true;
    END IF;
    beyond := coalesce(lower(before.missing) - 1, before.last_id);
    IF newest IS NULL OR newest < before.last_id THEN -- rows were deleted
        PERFORM _ml_put_arrivals(place, coalesce(newest, 0), before.missing * int8multirange(int8range(NULL, newest)), '{}', '{}', '{}');
        RETURN true;
    ELSIF newest = beyond THEN
        RETURN true;
    END IF;
    -- The ids first, then the rows: a row that comes in between is found by the next scan.
    EXECUTE format($query$
        SELECT coalesce(range_agg(g.missing), '{}') FROM (
            SELECT int8range(s.before + 1, s.id) AS missing FROM (
                SELECT %1$s::bigint AS id, lag(%1$s::bigint, 1, $2) OVER (ORDER BY %1$s) AS before FROM %2$s WHERE %1$s > $2 AND %1$s <= $3 AND %3$s) AS s
            WHERE s.id > s.before + 1 ORDER BY s.id DESC LIMIT 10000) AS g$query$, id, h.source, recent)
    INTO gaps USING oldest, beyond, newest;
    EXECUTE format($query$
        SELECT array_agg(%1$s) AS devices, array_agg(date_part('epoch', d.first_at)) AS first_at, array_agg(date_part('epoch', d.last_at)) AS last_at FROM (
            SELECT r.device, min(r.t) AS first_at, max(r.t) AS last_at
            FROM (SELECT %2$s AS device, %3$s AS t FROM %4$s WHERE %5$s > $2 AND %5$s <= $3 AND (%5$s > $4 OR %5$s::bigint <@ $5) AND %6$s AND %7$s) AS r
            WHERE r.t <= $6 AND r.device IS NOT NULL GROUP BY r.device) AS d$query$, _ml_uuid_sql(h.device_type), h.device, h.at, h.source, id, recent, h.shadow)
    INTO late USING oldest, beyond, newest, before.last_id, before.missing, ends - make_interval(mins => late_minutes);
    PERFORM _ml_put_arrivals(place, newest, gaps, coalesce(late.devices, '{}'), coalesce(late.first_at, '{}'), coalesce(late.last_at, '{}'));
    RETURN true;
END
$$;
COMMENT ON FUNCTION _ml_find_late(timestamptz) IS 'Notes in ml_late where rows came late: those that have arrived since the last call, by their ids, and lie more than scan_late_minutes back. Reads those rows alone, by the index on the id. False where no id tells.';

CREATE OR REPLACE FUNCTION _ml_retain(as_of timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    ends CONSTANT timestamptz := greatest(least(as_of, now()), '4500-01-01 BC'); -- time begins in 4713
    setting jsonb;
BEGIN
    @PYML_AT_HOME@
    IF NOT _ml_try_lock('retain', '') THEN
        RETURN;
    END IF;
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s WHERE s.name ~ '_days$';
    DELETE FROM ml_anomaly a WHERE a."timestamp" < ends - make_interval(days => (setting ->> 'anomaly_days')::int);
    DELETE FROM ml_finding f WHERE f.last_at < ends - make_interval(days => (setting ->> 'anomaly_days')::int);
    DELETE FROM ml_incident i WHERE i.state = 'resolved' AND i.ended_at < ends - make_interval(days => (setting ->> 'incident_days')::int);
    DELETE FROM ml_event e WHERE e.happened_at < ends - make_interval(days => (setting ->> 'incident_days')::int)
      AND NOT EXISTS (SELECT FROM ml_incident i WHERE i.incident_id = e.incident_id);
    DELETE FROM ml_late l WHERE l.last_at < ends - make_interval(days => (setting ->> 'anomaly_days')::int);
    DELETE FROM ml_run r WHERE r.started_at < ends - make_interval(days => (setting ->> 'run_days')::int);
    DELETE FROM ml_job j WHERE j.started_at < ends - make_interval(days => (setting ->> 'run_days')::int);
    -- Each scan clears its own device's forecasts; these are of devices that are no longer scanned.
    DELETE FROM ml_forecast_point p USING ml_scan_state s
    WHERE s.scanned_at < ends - make_interval(days => (setting ->> 'forecast_days')::int)
      AND p.device_uuid = s.device_uuid AND p."timestamp" < ends - make_interval(days => (setting ->> 'forecast_days')::int);
END
$$;
COMMENT ON FUNCTION _ml_retain(timestamptz) IS 'Deletes what is older than the settings keep, as of a time.';

CREATE OR REPLACE FUNCTION _ml_poor_signals(device_uuids uuid[]) RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
SELECT format('%s signals of %s devices were no measurement for more than a tenth of a day, such as %s', count(*), count(DISTINCT g.device_uuid),
    (array_agg(format('%s of %s', g.metric, g.device_name) ORDER BY g.last_at DESC NULLS LAST))[1])
FROM ml_signals g
WHERE g.missing_share + g.out_of_range_share + g.junk_share > 0.1 AND g.device_uuid = ANY (device_uuids)
HAVING count(*) > 0
$$;
COMMENT ON FUNCTION _ml_poor_signals(uuid[]) IS 'How many signals of these devices were no measurement for more than a tenth of a day, in words; NULL where none was.';

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
    by_id pg_catalog.bool;
    poor pg_catalog.text;
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
            HINT = 'CALL @extschema@.ml_scan(); -- or with as_of => a moment of the past';
    END IF;
    IF NOT _ml_slot_is_free('scan', slot) THEN
        RAISE NOTICE 'ml_scan: passed over, since the last run of worker % was still going', slot;
        RETURN;
    END IF;
    IF device IS NOT NULL THEN
        PERFORM _ml_name_device(device);
    END IF;
    devices := CASE WHEN device IS NULL THEN ARRAY(SELECT _ml_fleet()) ELSE ARRAY[device] END;
    IF as_of IS NOT NULL AND EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = ANY (devices) AND s.watermark > as_of) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('scans are past %s already', as_of),
            DETAIL = 'A replay goes forward, from an empty ml_scan_state: on a copy of the database, since it takes the place of what scans have noted.',
            HINT = 'CALL @extschema@.ml_scan(); -- or with as_of => a moment after the latest watermark in ml_scan_state';
    END IF;
    PERFORM _ml_meet(devices);
    by_id := _ml_find_late(as_of);
    job := _ml_begin_job('scan', slot, cardinality(devices));
    COMMIT;
    FOREACH one IN ARRAY devices LOOP
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
        @PYML_AT_HOME@
        -- A crash may lose the last few devices' scans, whole; the next scan makes them again.
        PERFORM set_config('synchronous_commit', 'off', true);
        PERFORM slot IS NULL OR _ml_try_lock('scan slot', slot::text);
        job := _ml_count_job(job, _ml_scan_device(one, as_of, begun, NOT by_id));
        COMMIT;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, @extschema@, pg_temp', true);
    @PYML_AT_HOME@
    IF device IS NULL THEN
        PERFORM _ml_retire_absent();
    END IF;
    PERFORM _ml_retain(as_of);
    PERFORM _ml_note_job(job, true);
    IF device IS NULL THEN
        poor := _ml_poor_signals(devices);
        IF poor IS NOT NULL THEN
            RAISE NOTICE '%', poor
                USING HINT = 'SELECT * FROM @extschema@.ml_signals WHERE missing_share + out_of_range_share + junk_share > 0.1;';
        END IF;
    END IF;
    COMMIT;
END
$$;
COMMENT ON PROCEDURE ml_scan(uuid, timestamptz, int) IS 'Looks at what is new, of all devices or of one: anomalies, findings, incidents, forecasts.';
