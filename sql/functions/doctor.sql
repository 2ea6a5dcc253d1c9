-- ml_doctor: one row a check.

CREATE OR REPLACE FUNCTION _ml_environment() RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].environment()
$$;
COMMENT ON FUNCTION _ml_environment() IS 'Interpreter, package path and library versions of this session''s Python.';

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
    clocks bigint;
BEGIN
    check_name := 'schedule';
    fix := 'SELECT * FROM @extschema@.ml_schedule();';
    BEGIN
        IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
            EXECUTE $query$
                SELECT string_agg(format('%s, %s', coalesce(j.jobname, j.command), j.schedule), '; ' ORDER BY j.jobid) AS list,
                       bool_or(j.command LIKE E'%ml\\_scan(%') AND bool_or(j.command LIKE E'%ml\\_retrain(%') AS whole
                FROM cron.job j WHERE j.active AND j.database = current_database()
                  AND (j.command LIKE E'%ml\\_scan(%' OR j.command LIKE E'%ml\\_retrain(%')$query$ INTO jobs;
            -- How the last run of each ended, among the server's last thousand.
            EXECUTE $query$
                SELECT min(r.return_message) FROM (
                    SELECT DISTINCT ON (d.jobid) d.status, d.return_message FROM cron.job_run_details d
                    WHERE d.runid > (SELECT max(m.runid) - 1000 FROM cron.job_run_details m) AND d.status IN ('succeeded', 'failed')
                      AND d.jobid IN (SELECT j.jobid FROM cron.job j WHERE j.active AND j.database = current_database()
                                      AND (j.command LIKE E'%ml\\_scan(%' OR j.command LIKE E'%ml\\_retrain(%'))
                    ORDER BY d.jobid, d.runid DESC) AS r WHERE r.status = 'failed'$query$ INTO words;
            IF words IS NOT NULL THEN
                ok := false;
                detail := format('the last run of a job failed: %s', words);
                fix := 'SELECT command, status, return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 10;';
                RETURN NEXT;
            ELSIF jobs.whole THEN
                ok := true;
                detail := jobs.list;
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
    SELECT format('%s of %s fail; the last: %s: %s', failed, total, coalesce(d.device_name, d.device_id, s.device_uuid::text), s.error) INTO detail
    FROM ml_scan_state s LEFT JOIN ml_device d USING (device_uuid) WHERE s.retired_at IS NULL AND s.outcome = 'failed' ORDER BY s.scanned_at DESC LIMIT 1;
    detail := coalesce(detail, format('%s scanned, none fails', total));
    fix := CASE WHEN ok THEN NULL WHEN untrained THEN 'CALL @extschema@.ml_retrain();'
        ELSE 'SELECT device_name, sqlstate, error FROM @extschema@.ml_device_status WHERE scan_outcome = ''failed'';' END;
    RETURN NEXT;

    check_name := 'signals';
    words := _ml_poor_signals(ARRAY(SELECT s.device_uuid FROM ml_signal_state s));
    SELECT count(*) INTO clocks FROM ml_signal_state s WHERE s.bad_clock > 0;
    ok := words IS NULL AND clocks = 0;
    detail := concat_ws('; ', words,
        CASE WHEN clocks > 0 THEN format('%s devices have messages of an impossible time', clocks) END,
        CASE WHEN ok THEN 'each was measured well within a day' END);
    fix := CASE WHEN NOT ok THEN 'SELECT * FROM @extschema@.ml_signals WHERE missing_share + out_of_range_share + junk_share > 0.1 OR bad_clock_share > 0;' END;
    RETURN NEXT;

    check_name := 'trainings';
    SELECT count(*), (array_agg(format('%s: %s', coalesce(d.device_name, d.device_id, r.device_uuid::text), r.error) ORDER BY r.started_at DESC))[1] INTO failed, words
    FROM ml_run r LEFT JOIN ml_device d USING (device_uuid) WHERE r.outcome = 'failed' AND r.started_at > now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM ml_run l WHERE l.device_uuid = r.device_uuid AND l.kind = r.kind AND l.field = r.field AND l.started_at > r.started_at);
    ok := failed = 0;
    SELECT nullif(count(DISTINCT r.device_uuid), 0) INTO total FROM ml_run r WHERE r.outcome = 'absent' AND r.started_at > now() - interval '1 day' AND r.device_uuid <> _ml_whole_fleet();
    detail := CASE WHEN ok THEN concat('none failed within a day', '; ' || total || ' devices do not report a field of forecast_fields') ELSE format('%s models could not be trained; the last: %s', failed, words) END;
    fix := CASE WHEN NOT ok THEN 'SELECT device_name, kind, field, error FROM @extschema@.ml_runs WHERE outcome = ''failed'' LIMIT 20;' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_work() IS 'The doctor''s rows on what shall go on by itself: the schedule, scans, failing devices and trainings.';

CREATE OR REPLACE FUNCTION ml_doctor() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    environment jsonb;
    setting jsonb;
    history regclass;
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
    SELECT string_agg(c.name, ', ' ORDER BY c.name) FILTER (WHERE c.type IS NULL),
           string_agg(c.fault, ', ' ORDER BY c.name) FILTER (WHERE c.type IS NOT NULL),
           string_agg(format('ALTER COLUMN %1$I TYPE %2$s USING %1$I::%2$s', c.name, CASE c.setting WHEN 'history_time_column' THEN 'timestamptz' WHEN 'history_state_column' THEN 'jsonb' ELSE 'text' END), ', ' ORDER BY c.name) FILTER (WHERE c.type IS NOT NULL AND c.fault IS NOT NULL)
    INTO missing, mistyped, cast_it FROM _ml_history_columns() AS c;
    IF history IS NULL THEN
        ok := false;
        detail := format('%s does not exist', setting ->> 'history_table');
        fix := $fix$SELECT * FROM @extschema@.ml_setup('schema.table', 'device', 'time', 'state'); -- yours, with its columns of these$fix$;
    ELSIF missing IS NOT NULL THEN
        ok := false;
        detail := format('%s has no column %s', history, missing);
        fix := $fix$SELECT name, value FROM @extschema@.ml_setting WHERE name LIKE 'history%column';$fix$;
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

    RETURN QUERY SELECT * FROM _ml_doctor_index(history, setting ->> 'history_device_column', setting ->> 'history_time_column');

    IF ok THEN
        check_name := 'late rows';
        detail := coalesce('found by ' || substr(_ml_history_id(), 3) || ', however late they come', 'counted hourly, up to 48 hours back');
        RETURN NEXT;
    END IF;

    IF setting ->> 'device_table' <> '' THEN
        check_name := 'names';
        SELECT string_agg(c.name, ', ') INTO missing
        FROM (VALUES (setting ->> 'device_id_column'), (setting ->> 'device_name_column')) AS c (name)
        WHERE NOT coalesce(has_column_privilege(to_regclass(setting ->> 'device_table'),
            (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = to_regclass(setting ->> 'device_table') AND a.attname = c.name AND NOT a.attisdropped), 'SELECT'), false);
        ok := missing IS NULL;
        detail := CASE WHEN ok THEN format('from %s', setting ->> 'device_table')
            ELSE format('%s has no column %s that %s may read', setting ->> 'device_table', missing, current_user) END;
        fix := CASE WHEN ok THEN NULL WHEN to_regclass(setting ->> 'device_table') IS NULL THEN 'UPDATE @extschema@.ml_setting SET value = default_value WHERE name = ''device_table'';'
            ELSE format('GRANT SELECT ON %s TO %I;', to_regclass(setting ->> 'device_table'), current_user) END;
        RETURN NEXT;
    END IF;

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
    FROM (VALUES ('ml_model'), ('ml_setting'), ('ml_metric'), ('ml_run'), ('ml_scan_state'), ('ml_job'), ('ml_delivery'), ('ml_rule')) AS d (name)
    WHERE NOT has_table_privilege(format('%s.%I', '@extschema@', d.name), 'SELECT');
    ok := missing IS NULL;
    detail := CASE WHEN ok THEN format('%s may read models and settings', current_user)
        ELSE format('%s may not read %s', current_user, missing) END;
    fix := CASE WHEN NOT ok THEN 'SELECT @extschema@.ml_grant(' || quote_literal(current_user) || ', ''read'');' END;
    RETURN NEXT;

    IF ok THEN
        RETURN QUERY SELECT * FROM _ml_doctor_history();
        RETURN QUERY SELECT * FROM _ml_doctor_work();
        RETURN QUERY SELECT * FROM _ml_doctor_deliveries();
        RETURN QUERY SELECT * FROM _ml_doctor_rules();
    END IF;
    check_name := 'row security';
    SELECT string_agg(t.relation::text, ', ') INTO missing FROM _ml_device_tables() AS t
    WHERE t.secured_by IS DISTINCT FROM nullif(setting ->> 'row_security', '');
    ok := missing IS NULL;
    detail := CASE WHEN NOT ok THEN format('the condition in setting row_security is not the one on %s: a restored dump brings no policies', missing)
        WHEN setting ->> 'row_security' = '' THEN 'not asked for: who may read a table reads the rows of every device'
        ELSE 'each role sees the devices that the setting row_security gives it' END;
    fix := CASE WHEN NOT ok THEN 'SELECT @extschema@.ml_row_security();' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ml_doctor() IS 'Checks installation, data and operation; fix is the statement or command that helps.';
