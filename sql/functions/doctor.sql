-- Is all well: one row a check.

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
                SELECT string_agg(format('%s, %s', coalesce(j.jobname, j.command), j.schedule), '; ' ORDER BY j.jobid) AS told,
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
