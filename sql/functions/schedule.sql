-- Jobs on pg_cron.

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
            HINT = coalesce(_ml_cron_fix(), 'SELECT * FROM @extschema@.ml_doctor();');
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
            HINT = 'SELECT * FROM @extschema@.ml_schedule(scan => ''*/5 * * * *'', retrain => ''7 * * * *'');';
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
        HINT = 'SELECT * FROM @extschema@.ml_schedule(scan => ''*/5 * * * *'', retrain => ''7 * * * *'');';
END
$$;
COMMENT ON FUNCTION ml_schedule(text, text, int) IS 'Puts ml_scan and ml_retrain on pg_cron. No pg_cron in this database: ML006.';

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
