-- Who may do what.

CREATE OR REPLACE FUNCTION _ml_device_tables() RETURNS TABLE (relation regclass, secured_by text)
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

CREATE OR REPLACE FUNCTION ml_grant(role name, level text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    trains CONSTANT boolean := level = 'train';
    acts CONSTANT boolean := level IN ('act', 'train');
    notifies CONSTANT boolean := level = 'notify';
    member record;
BEGIN
    @PYML_AT_HOME@
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'role is null',
            DETAIL = 'It has to be given.', HINT = 'SELECT rolname FROM pg_roles ORDER BY rolname;';
    END IF;
    IF level IS NULL OR level NOT IN ('read', 'act', 'train', 'notify') THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('there is no level %L to grant', level),
            DETAIL = 'The levels are read (score, forecast, look), act (the same, and acknowledge and resolve incidents, and make rules and quiet windows), train (the same, and train, scan, roll back, forget) and notify (what a notifier needs, and no more).',
            HINT = 'SELECT @extschema@.ml_grant(' || quote_literal(role) || ', ''read'');';
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
                     AND CASE WHEN notifies
                         THEN p.proname IN ('_ml_at_home', '_ml_put_targets', '_ml_claim_delivery', '_ml_confirm', '_ml_postpone', '_ml_watch_scans', 'ml_resend')
                         ELSE trains OR acts AND p.proname IN ('ml_acknowledge', 'ml_resolve', 'ml_not_a_fault', '_ml_say') OR p.proname = 'ml_discover' OR p.provolatile <> 'v' AND p.prokind = 'f' AND p.proname NOT IN ('_ml_fleet', '_ml_due') END
                    THEN 'EXECUTE' END AS needed
        FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
        WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'pyml')
        UNION ALL
        SELECT c.oid::regclass::text, 'TABLE', CASE WHEN acts AND c.relname IN ('ml_rule', 'ml_quiet') THEN
            (SELECT format('SELECT, DELETE, INSERT (%1$s), UPDATE (%1$s)', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum))
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = '' AND a.attname NOT IN ('created_at', 'created_by'))
            WHEN NOT notifies THEN 'SELECT' END -- what else is written goes through functions
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
COMMENT ON FUNCTION ml_grant(name, text) IS 'Gives a role what it needs to read, to act, to train, or to be a notifier (notify).';

CREATE OR REPLACE FUNCTION ml_row_security(condition text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    example CONSTANT text := 'SELECT @extschema@.ml_row_security(''device_uuid IN (SELECT t.device_uuid FROM public.tenant_device t WHERE t.tenant = current_user)'');';
    wanted text;
    relation regclass;
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_setting s SET value = condition WHERE s.name = 'row_security' AND condition IS NOT NULL;
    SELECT s.value INTO wanted FROM ml_setting s WHERE s.name = 'row_security';
    FOR relation IN SELECT t.relation FROM _ml_device_tables() AS t LOOP
        IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = relation AND p.polname = 'pyml_devices') THEN
            EXECUTE format('DROP POLICY pyml_devices ON %s', relation);
        END IF;
        IF wanted <> '' THEN
            -- Who may see a device may see the fleet's models, which forecast it.
            EXECUTE format(E'CREATE POLICY pyml_devices ON %s USING ((%s\n)%s)', relation, wanted,
                CASE WHEN relation = 'ml_model'::regclass THEN format(' OR device_uuid = %L', _ml_whole_fleet()) END);
            EXECUTE format('COMMENT ON POLICY pyml_devices ON %s IS %L', relation, wanted);
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
            RETURN NEXT relation::text;
        ELSIF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = relation) THEN
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', relation);
        END IF;
    END LOOP;
    SELECT string_agg(DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0), ', ') INTO wanted
    FROM pg_policy p JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refobjid <> p.polrelid
    WHERE p.polname = 'pyml_devices' AND (d.refobjid IN (SELECT t.relation FROM _ml_device_tables() AS t)
        OR d.refclassid = 'pg_proc'::regclass AND EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'
            AND e.refobjid = (SELECT x.oid FROM pg_extension x WHERE x.extname = 'pyml')));
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'a condition cannot look at what it is put on',
            DETAIL = format('It uses %s. Keep the uuids, which ml_uuid gives, in a table of your own.', wanted), HINT = example;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN RAISE;
    WHEN syntax_error_or_access_rule_violation OR data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'that is no condition on device_uuid',
            DETAIL = format('PostgreSQL says: %s. Tables and functions have to be named with their schema.', SQLERRM),
            HINT = example;
END
$$;
COMMENT ON FUNCTION ml_row_security(text) IS 'Shows each role only the devices for which a condition holds.';

-- No function is for everybody; ml_grant gives them. Only what PUBLIC still has is touched: what a
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
