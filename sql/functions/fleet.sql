-- The devices, and the calls that go through them.

CREATE OR REPLACE FUNCTION _ml_walk(most int DEFAULT NULL, begins text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    -- From each device straight to the next in the index: a probe a device, however long the history.
    RETURN format($part$found (device, n) AS (
            SELECT * FROM (SELECT %1$s, 1 FROM %2$s WHERE %3$s ORDER BY 1 LIMIT 1) AS least
            UNION ALL
            SELECT (SELECT %1$s FROM %2$s WHERE %1$s > f.device ORDER BY 1 LIMIT 1), f.n + 1
            FROM found f WHERE f.device IS NOT NULL%4$s
        )$part$, h.device, h.source, coalesce(begins, h.device || ' IS NOT NULL'), ' AND f.n < ' || most);
END
$$;
COMMENT ON FUNCTION _ml_walk(int, text) IS 'A recursive query, found (device, n), that goes through the history''s devices in their order, to most of them at most, from the first for which the condition begins holds. A last row may have no device.';

CREATE OR REPLACE FUNCTION _ml_uuid_sql(device_type text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT CASE device_type WHEN 'uuid' THEN 'device::uuid' WHEN 'numeric' THEN '_ml_uuid_of(trim_scale(device)::text)'
        ELSE '_ml_uuid_of(device::text)' END
$$;
COMMENT ON FUNCTION _ml_uuid_sql(text) IS 'A piece of SQL: the uuid by which pyml''s tables know the device whose id, of that type, is in a column device.';

CREATE OR REPLACE FUNCTION _ml_devices() RETURNS TABLE (device uuid, id text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    RETURN QUERY EXECUTE format('WITH RECURSIVE %s SELECT %s, %s FROM found WHERE device IS NOT NULL', _ml_walk(),
        _ml_uuid_sql(h.device_type), CASE h.device_type WHEN 'numeric' THEN 'trim_scale(device)::text' ELSE 'device::text' END);
END
$$;
COMMENT ON FUNCTION _ml_devices() IS 'The devices that the history holds: the uuid by which pyml''s tables know each, and its id there.';

CREATE OR REPLACE FUNCTION _ml_whole_fleet() RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ SELECT '00000000-0000-0000-0000-000000000000'::uuid $$;
COMMENT ON FUNCTION _ml_whole_fleet() IS 'The device under which models stand that belong to no single one.';

CREATE OR REPLACE FUNCTION _ml_fleet() RETURNS SETOF uuid
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    RETURN QUERY EXECUTE format($query$
        SELECT d.device FROM _ml_devices() AS d
        LEFT JOIN ml_scan_state s ON s.device_uuid = d.device AND s.retired_at IS NOT NULL
        -- A clock that runs far ahead does not tell that it reports again.
        WHERE s.device_uuid IS NULL OR EXISTS (SELECT FROM %1$s WHERE %2$s = d.id::%3$s AND %4$s > %5$s AND %4$s <= %6$s)
        ORDER BY 1$query$, h.source, h.device, h.device_type, h.moment, format(h.bound, 's.retired_at'), format(h.bound, '(now() + interval ''1 day'')'));
END
$$;
COMMENT ON FUNCTION _ml_fleet() IS 'The devices to scan and to train: those that the history holds, but for retired ones that have not reported since.';

CREATE OR REPLACE FUNCTION _ml_known_id(device uuid) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    id text;
    known boolean := false;
BEGIN
    SELECT * INTO h FROM _ml_history();
    id := _ml_device_id(device, h.device_type);
    IF id IS NOT NULL THEN
        -- The last day first: then the older partitions of a history are not opened.
        EXECUTE format('SELECT EXISTS (SELECT FROM %1$s WHERE %2$s = $1::%3$s AND %4$s > %5$s) OR EXISTS (SELECT FROM %1$s WHERE %2$s = $1::%3$s)',
            h.source, h.device, h.device_type, h.moment, format(h.bound, '(now() - interval ''1 day'')'))
        INTO known USING id;
    END IF;
    IF NOT known THEN
        PERFORM _ml_refuse_device(coalesce(id, device::text));
    END IF;
    RETURN id;
END
$$;
COMMENT ON FUNCTION _ml_known_id(uuid) IS 'The id by which the history knows a device; refuses one that it does not hold (ML002).';

CREATE OR REPLACE FUNCTION _ml_name_device(device uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    PERFORM _ml_known_id(device);
    PERFORM _ml_put_unretired(device);
END
$$;
COMMENT ON FUNCTION _ml_name_device(uuid) IS 'Refuses a device that the history does not hold (ML002); ends the retirement of one that it holds.';

CREATE OR REPLACE FUNCTION _ml_put_devices(ids text[], names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    -- Without a target it waits on both unique indexes: a scan and a training that meet a device at once both go on.
    INSERT INTO ml_device (device_uuid, device_id, device_name)
    SELECT _ml_uuid_of(n.id), n.id, left(n.name, 200) FROM unnest(ids, names) AS n (id, name)
    WHERE octet_length(n.id) BETWEEN 1 AND 2000 ORDER BY n.id
    ON CONFLICT DO NOTHING;
    UPDATE ml_device d SET device_name = left(n.name, 200) FROM unnest(ids, names) AS n (id, name)
    WHERE d.device_uuid = _ml_uuid_of(n.id) AND d.device_name IS DISTINCT FROM left(n.name, 200);
END
$$;
COMMENT ON FUNCTION _ml_put_devices(text[], text[]) IS 'Writes the ids and names of devices; the uuid follows from the id.';

CREATE OR REPLACE FUNCTION _ml_meet(devices uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    setting jsonb;
    new_ones uuid[];
    ids text[];
    names text[];
BEGIN
    new_ones := ARRAY(SELECT n.device FROM unnest(devices) AS n (device) WHERE NOT EXISTS (SELECT FROM ml_device d WHERE d.device_uuid = n.device));
    ids := CASE WHEN cardinality(new_ones) = 0 THEN '{}'
        WHEN EXISTS (SELECT FROM _ml_history_columns() AS c WHERE c.setting = 'history_device_column' AND c.type = 'uuid') THEN new_ones::text[]
        WHEN cardinality(new_ones) = 1 THEN ARRAY[_ml_device_id(new_ones[1])]
        ELSE ARRAY(SELECT d.id FROM _ml_devices() AS d WHERE d.device = ANY (new_ones)) END;
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s WHERE s.name ~ '^device_';
    IF setting ->> 'device_table' <> '' THEN
        BEGIN
            EXECUTE format($query$
                SELECT array_agg(m.id), array_agg(m.name) FROM (
                    SELECT k.id, left(min(n.%1$I::text), 200) AS name, k.known
                    FROM (SELECT unnest($1) AS id, NULL AS known UNION ALL SELECT d.device_id, d.device_name FROM ml_device d WHERE d.device_uuid = ANY ($2)) AS k
                    LEFT JOIN %2$s AS n ON n.%3$I::text = k.id GROUP BY k.id, k.known) AS m
                WHERE m.id = ANY ($1) OR m.name IS DISTINCT FROM m.known$query$,
                setting ->> 'device_name_column', to_regclass(setting ->> 'device_table'), setting ->> 'device_id_column')
            INTO ids, names USING ids, devices;
        EXCEPTION WHEN insufficient_privilege OR syntax_error_or_access_rule_violation THEN -- ml_doctor says so
        END;
    END IF;
    IF cardinality(ids) > 0 THEN
        PERFORM _ml_put_devices(ids, names);
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_meet(uuid[]) IS 'Sees to it that ml_device has these devices, with their names as they are now.';

CREATE OR REPLACE FUNCTION _ml_retire_absent() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    -- A role that sees only some rows does not know which devices are gone.
    IF row_security_active((SELECT s.value FROM ml_setting s WHERE s.name = 'history_table'))
       OR NOT _ml_try_lock('retire', '') THEN -- or another worker is at it
        RETURN;
    END IF;
    PERFORM _ml_put_retired(ARRAY(
        SELECT s.device_uuid FROM ml_scan_state s
        UNION
        SELECT m.device_uuid FROM ml_model m WHERE m.is_current
        EXCEPT
        SELECT d.device FROM _ml_devices() AS d
        EXCEPT
        SELECT _ml_whole_fleet()));
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
COMMENT ON FUNCTION _ml_begin_job(text, int, int) IS 'Opens the row of ml_job that shows how far a procedure has come.';

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
COMMENT ON FUNCTION _ml_note_job(ml_job, boolean) IS 'Notes how far a procedure has come for other sessions, and every ten seconds for the caller, by NOTICE.';

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
