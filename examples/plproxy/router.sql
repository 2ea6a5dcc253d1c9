-- Makes a database stand for a fleet sharded by device: calls are routed, views gathered.
--
--     psql -d router -v shards='host=a dbname=fleet, host=b dbname=fleet, host=c dbname=fleet' \
--          -v role=api -v password=secret -f router.sql
--
-- Each shard has pyml in its schema public and a role of that name and password with ml_grant.
-- What they offer is asked of the first one: run this again after an upgrade, as a superuser.
\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS plproxy;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;

CREATE TEMP TABLE shard ON COMMIT DROP AS
SELECT n - 1 AS n, 'shard_' || n - 1 AS name, trim(dsn) AS dsn
FROM string_to_table(:'shards', ',') WITH ORDINALITY AS s (dsn, n);

-- md5 is the same on every version, platform and client, so whoever writes readings can ask it too.
CREATE OR REPLACE FUNCTION shard_of(device uuid) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ('x' || left(md5(device::text), 7))::bit(28)::int;
CREATE OR REPLACE FUNCTION shard_of(device text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ('x' || left(md5(device), 7))::bit(28)::int;
COMMENT ON FUNCTION shard_of(text) IS 'The same of an id; of a uuid as PostgreSQL writes it, that of the uuid.';
COMMENT ON FUNCTION shard_of(uuid) IS 'A number whose remainder by the number of shards says which one holds the device.';

-- The servers: PL/Proxy sends calls, postgres_fdw reads views -----------------------

DROP SERVER IF EXISTS pyml CASCADE;
SELECT format('DROP SCHEMA IF EXISTS %1$I CASCADE; DROP SERVER IF EXISTS %1$I CASCADE', name) FROM shard \gexec
SELECT format('CREATE SERVER pyml FOREIGN DATA WRAPPER plproxy OPTIONS (modular_mapping ''1'', %s)',
    string_agg(format('%I %L', 'p' || n, dsn), ', ' ORDER BY n)) FROM shard \gexec
SELECT format('CREATE SERVER %I FOREIGN DATA WRAPPER postgres_fdw OPTIONS (async_capable ''true'', %s)', name,
    (SELECT string_agg(format('%I %L', split_part(part, '=', 1), split_part(part, '=', 2)), ', ')
     FROM regexp_split_to_table(dsn, '\s+') AS part)) FROM shard \gexec
SELECT format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user %L, password %L)', who, server, :'role', :'password')
FROM unnest(ARRAY[:'role', current_user]) AS who, (SELECT name FROM shard UNION SELECT 'pyml') AS s (server) \gexec
GRANT USAGE ON FOREIGN SERVER pyml TO :"role";

-- What takes a device runs where the device is ---------------------------

CREATE FUNCTION pg_temp.routed() RETURNS TABLE (name text, arguments text, result text)
LANGUAGE plproxy AS $$
    CLUSTER 'pyml';
    RUN ON 0;
    SELECT p.proname::text AS name, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
    FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pyml'
    WHERE p.prokind = 'f' AND p.proname ~ '^ml_' AND p.proargnames[1] = 'device';
$$;
-- With its schema: postgres_fdw evaluates what it sends with a search_path of its own.
SELECT format('CREATE OR REPLACE FUNCTION %I(%s) RETURNS %s LANGUAGE plproxy AS %L', name, arguments, result,
    'CLUSTER ''pyml''; RUN ON public.shard_of(device);') FROM pg_temp.routed() \gexec

CREATE OR REPLACE FUNCTION ml_doctor() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plproxy AS $$ CLUSTER 'pyml'; RUN ON ALL; $$;

-- The views: the shards' rows under one another -------------------------------------

CREATE FUNCTION pg_temp.views() RETURNS SETOF text
LANGUAGE plproxy AS $$
    CLUSTER 'pyml';
    RUN ON 0;
    SELECT c.relname::text FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pyml' WHERE c.relkind = 'v';
$$;
CREATE TEMP TABLE gathered ON COMMIT DROP AS
SELECT name FROM pg_temp.views() AS v (name) UNION VALUES ('devices'), ('ml_device');

SELECT format('CREATE SCHEMA %1$I; IMPORT FOREIGN SCHEMA public LIMIT TO (ml_setting, ml_metric, %2$s) FROM SERVER %1$I INTO %1$I;'
    'GRANT USAGE ON SCHEMA %1$I TO %3$I; GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO %3$I', s.name,
    (SELECT string_agg(quote_ident(name), ', ') FROM gathered), :'role') FROM shard s \gexec
SELECT format('CREATE VIEW %1$I WITH (security_invoker) AS %2$s; GRANT SELECT ON %1$I TO %3$I', g.name,
    (SELECT string_agg(format('TABLE %I.%I', s.name, g.name), ' UNION ALL ') FROM shard s), :'role')
FROM gathered g WHERE g.name <> 'ml_fleet_health' \gexec
-- Settings and metrics are set on each shard alike.
SELECT format('CREATE VIEW %1$I WITH (security_invoker) AS TABLE shard_0.%1$I; GRANT SELECT ON %1$I TO %2$I', name, :'role')
FROM (VALUES ('ml_setting'), ('ml_metric')) AS one (name) \gexec
SELECT format('CREATE VIEW ml_fleet_health WITH (security_invoker) AS SELECT %s FROM (%s) AS shards',
    (SELECT string_agg(format('%s(%I)::%s AS %2$I', CASE attname WHEN 'oldest_scan_at' THEN 'min' WHEN 'last_reading_at' THEN 'max' ELSE 'sum' END,
        attname, format_type(atttypid, NULL)), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'shard_0.ml_fleet_health'::regclass AND attnum > 0),
    string_agg(format('TABLE %I.ml_fleet_health', name), ' UNION ALL ')) FROM shard \gexec
GRANT SELECT ON ml_fleet_health TO :"role";
COMMIT;
