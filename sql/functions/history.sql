-- The user's table as SQL reads it: its columns, whatever their types, and its devices' ids.

CREATE OR REPLACE FUNCTION _ml_history_columns() RETURNS TABLE (setting text, name text, type text, fault text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT s.name, s.value, CASE base.oid WHEN 'bpchar'::regtype THEN 'bpchar' ELSE format_type(base.oid, NULL) END,
        CASE WHEN base.oid = ANY (w.types) OR w.text_too AND (SELECT t.typcategory = 'S' FROM pg_type t WHERE t.oid = base.oid) THEN NULL
        ELSE format('column %I is of type %s and has to be %s', s.value, format_type(base.oid, NULL), w.wanted) END
    FROM ml_setting s
    JOIN (VALUES ('history_device_column', '{uuid,int2,int4,int8,numeric}'::regtype[], true, 'uuid, text or a whole number'),
                 ('history_time_column', '{timestamp,timestamptz,int4,int8,float8,numeric}', false, 'timestamp, timestamptz or a number'),
                 ('history_state_column', '{jsonb,json}', true, 'jsonb, json or text'),
                 ('history_shadow_column', '{}', true, 'text')) AS w (name, types, text_too, wanted) ON w.name = s.name
    LEFT JOIN pg_attribute a ON a.attname = s.value AND NOT a.attisdropped
        AND a.attrelid = to_regclass((SELECT t.value FROM ml_setting t WHERE t.name = 'history_table'))
    LEFT JOIN pg_type d ON d.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT CASE WHEN d.typtype <> 'd' THEN d.oid WHEN d.typtype = 'd' THEN ( -- a domain, or one over one
        WITH RECURSIVE made_of (oid, kind, below) AS (
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = d.typbasetype
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM made_of m JOIN pg_type t ON t.oid = m.below
        ) SELECT m.oid FROM made_of m WHERE m.kind <> 'd') END AS oid) AS base
    WHERE s.value <> '';
END
$$;
COMMENT ON FUNCTION _ml_history_columns() IS 'The history''s columns, one row a setting: the name, the type (of a domain its base type; NULL where the table lacks the column), and what is wrong with the type.';

CREATE OR REPLACE FUNCTION _ml_json(document text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RETURN document::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _ml_json(text) IS 'A JSON document of a text or json column; NULL where it is none that jsonb can take.';

CREATE OR REPLACE FUNCTION _ml_history_parts(OUT source text, OUT device text, OUT device_type text, OUT moment text, OUT at text,
    OUT plain boolean, OUT bound text, OUT shadow text, OUT state text, OUT zone text, OUT unit text, OUT absent text[], OUT fault text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    setting jsonb;
    types jsonb;
    largest float8;
    a_second text;
BEGIN
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s WHERE s.name ~ '^history_';
    SELECT jsonb_object_agg(c.setting, c.type), array_agg(c.name ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NULL),
           string_agg(c.fault, ', ' ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NOT NULL)
    INTO types, absent, fault FROM _ml_history_columns() AS c;
    IF absent IS NOT NULL OR fault IS NOT NULL THEN
        RETURN;
    END IF;
    source := (SELECT string_agg(quote_ident(p), '.') FROM unnest(parse_ident(setting ->> 'history_table')) AS p) || ' AS h';
    device := 'h.' || quote_ident(setting ->> 'history_device_column');
    device_type := types ->> 'history_device_column';
    moment := 'h.' || quote_ident(setting ->> 'history_time_column');
    shadow := CASE WHEN setting ->> 'history_shadow_column' = '' THEN 'true'
        ELSE format('h.%I = %L', setting ->> 'history_shadow_column', setting ->> 'history_shadow') END;
    state := 'h.' || quote_ident(setting ->> 'history_state_column');
    IF types ->> 'history_state_column' <> 'jsonb' THEN
        state := '@extschema@._ml_json(' || state || '::text)';
    END IF;
    CASE types ->> 'history_time_column'
        WHEN 'timestamp with time zone' THEN
            plain := true;
            at := moment || '::timestamptz';
            bound := '%s';
        WHEN 'timestamp without time zone' THEN
            zone := setting ->> 'history_time_zone';
            -- In UTC a time without zone can be compared as it is, without a conversion a row.
            plain := zone = 'UTC';
            -- A time near the ends of PostgreSQL's range cannot be converted in every zone.
            at := format('(least(greatest(%s, ''4000-01-01 BC''), ''290000-01-01'') AT TIME ZONE %L)', moment, zone);
            bound := format('(%%s AT TIME ZONE %s)', replace(quote_literal(zone), '%', '%%'));
        ELSE
            plain := false;
            unit := setting ->> 'history_time_unit';
            IF unit = '' THEN -- whichever of them makes the rows' times lie in this age
                EXECUTE format('SELECT max(r.t) FROM (SELECT %s AS t FROM %s LIMIT 100) AS r WHERE r.t BETWEEN 0 AND 1e300', moment, source) INTO largest;
                unit := CASE WHEN largest >= 1e14 THEN NULL WHEN largest < 1e11 THEN 'seconds' ELSE 'milliseconds' END;
            END IF;
            IF unit IS NULL THEN
                fault := format('column %I has times such as %s, which are neither seconds nor milliseconds since 1970', setting ->> 'history_time_column', largest::numeric);
                RETURN;
            END IF;
            a_second := CASE unit WHEN 'seconds' THEN '1' ELSE '1000' END;
            at := format('to_timestamp(least(greatest(%s::float8, -1.2e11 * %s), 9e12 * %s) / %s)', moment, a_second, a_second, a_second);
            bound := format('least(greatest(date_part(''epoch'', %%s), -2e11), 9e12) * %s', a_second);
            bound := CASE types ->> 'history_time_column' WHEN 'double precision' THEN format('(%s)', bound) WHEN 'numeric' THEN format('(%s)::numeric', bound)
                ELSE format('floor(%s + 0.01)::bigint', bound) END; -- a hundredth, since a float64 may be that little less
    END CASE;
END
$$;
COMMENT ON FUNCTION _ml_history_parts() IS 'The history table as pieces of SQL, quoted, made of the settings: at is a row''s time as timestamptz (plain: moment says the same), bound the template that makes a timestamptz of the time column''s type, state is jsonb. absent names the columns that there are not, fault says what is wrong with the others.';

CREATE OR REPLACE FUNCTION _ml_history() RETURNS TABLE (source text, device text, device_type text, moment text, at text, plain boolean, bound text, shadow text, state text, zone text, unit text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    history CONSTANT text := (SELECT s.value FROM ml_setting s WHERE s.name = 'history_table');
BEGIN
    SELECT * INTO h FROM _ml_history_parts();
    IF h.absent IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('there is no history in %s', history),
            DETAIL = format('The table does not exist, or has no column %s.', array_to_string(h.absent, ', ')), HINT = 'SELECT * FROM @extschema@.ml_doctor();';
    ELSIF h.fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('the history in %s cannot be read', history),
            DETAIL = format('There, %s.', h.fault), HINT = 'SELECT * FROM @extschema@.ml_doctor();';
    END IF;
    RETURN QUERY SELECT h.source, h.device, h.device_type, h.moment, h.at, h.plain, h.bound, h.shadow, h.state, h.zone, h.unit;
END
$$;
COMMENT ON FUNCTION _ml_history() IS 'The history table as pieces of SQL, as _ml_history_parts gives them; ML006 where it cannot be read.';

CREATE OR REPLACE FUNCTION _ml_history_id() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    WITH RECURSIVE history AS (
        SELECT to_regclass(t.value)::oid AS relation, i.value AS id FROM ml_setting t, ml_setting i
        WHERE t.name = 'history_table' AND i.name = 'history_id_column'
    ), part (relation) AS (
        SELECT h.relation FROM history h
        UNION ALL
        SELECT i.inhrelid FROM part p JOIN pg_inherits i ON i.inhparent = p.relation
    )
    SELECT 'h.' || quote_ident(h.id) FROM history h
    JOIN pg_attribute a ON a.attrelid = h.relation AND a.attname = h.id AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    -- A role that sees some rows only would mark rows as seen that it cannot see.
    WHERE NOT row_security_active(h.relation) AND has_column_privilege(h.relation, a.attnum, 'SELECT')
      AND NOT EXISTS (
        SELECT FROM part p JOIN pg_class c ON c.oid = p.relation AND c.relkind <> 'p'
        WHERE c.relkind <> 'r' OR NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid AND x.relam = (SELECT m.oid FROM pg_am m WHERE m.amname = 'btree')
            JOIN pg_attribute b ON b.attrelid = c.oid AND b.attname = h.id AND b.attnum = i.indkey[0]
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL))
$$;
COMMENT ON FUNCTION _ml_history_id() IS 'The history''s column with the id by which late rows are found, as h.name; NULL where the table, or a part of it, has no such whole number with an index that begins with it, or where row-level security hides rows from the caller.';

CREATE OR REPLACE FUNCTION _ml_uuid_of(id text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN id::uuid ELSE md5('pyml/' || id)::uuid END;
END
$$;
COMMENT ON FUNCTION _ml_uuid_of(text) IS 'The uuid by which pyml''s tables know the device of that id: the id itself, where it is a uuid as PostgreSQL writes it.';

CREATE OR REPLACE FUNCTION _ml_which_devices() RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    -- Of a large history a list takes long, and has no names.
    SELECT CASE WHEN EXISTS (SELECT FROM ml_device) THEN 'SELECT device_id, device_name FROM @extschema@.ml_device ORDER BY device_name, device_id;'
        ELSE format('SELECT DISTINCT %s FROM %s;', h.device, h.source) END
    FROM _ml_history() AS h
$$;
COMMENT ON FUNCTION _ml_which_devices() IS 'The statement for a person to type who has named a device that there is not.';

CREATE OR REPLACE FUNCTION _ml_refuse_device(id text, beside text DEFAULT '') RETURNS void
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no device %s', id),
        DETAIL = format('The history (%s) has no row of it%s.', split_part(h.source, ' AS h', 1), beside),
        HINT = _ml_which_devices();
END
$$;
COMMENT ON FUNCTION _ml_refuse_device(text, text) IS 'Refuses a device that the history does not hold (ML002).';

CREATE OR REPLACE FUNCTION ml_uuid(device text) RETURNS uuid
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    found CONSTANT uuid := _ml_uuid_of(device);
    id text := device;
    h record;
    known boolean;
BEGIN
    @PYML_AT_HOME@
    IF device IS NULL OR found::text = device THEN
        RETURN found;
    END IF;
    SELECT * INTO h FROM _ml_history();
    BEGIN
        IF h.device_type = 'uuid' THEN
            RETURN device::uuid; -- which takes capitals and braces, too
        ELSIF h.device_type IN ('smallint', 'integer', 'bigint', 'numeric') THEN
            id := trim_scale(device::numeric);
        END IF;
        known := EXISTS (SELECT FROM ml_device d WHERE d.device_id = id);
        IF NOT known THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s = $1::%s)', h.source, h.device, h.device_type) INTO known USING id;
        END IF;
    EXCEPTION WHEN data_exception THEN
        known := false;
    END;
    IF NOT known THEN
        PERFORM _ml_refuse_device(left(device, 200), format('; there, devices have ids of type %s', h.device_type));
    END IF;
    RETURN _ml_uuid_of(id);
END
$$;
COMMENT ON FUNCTION ml_uuid(text) IS 'The uuid by which pyml''s tables and views know the device of an id. No such device: ML002.';

CREATE OR REPLACE FUNCTION _ml_device_id(device uuid, device_type text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF coalesce(device_type, (SELECT c.type FROM _ml_history_columns() AS c WHERE c.setting = 'history_device_column')) = 'uuid' THEN
        RETURN device;
    END IF;
    RETURN coalesce(
        (SELECT d.device_id FROM ml_device d WHERE d.device_uuid = device),
        -- A device that no scan and no training has met yet is looked up in the history.
        (SELECT d.id FROM _ml_devices() AS d WHERE d.device = _ml_device_id.device LIMIT 1));
END
$$;
COMMENT ON FUNCTION _ml_device_id(uuid, text) IS 'The id by which the history knows a device; NULL where it knows none. device_type is that of the history''s column, for whoever has looked.';

CREATE OR REPLACE FUNCTION _ml_given(device uuid) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF device IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'device is null',
            DETAIL = 'It has to be given.', HINT = 'SELECT device_id FROM @extschema@.ml_device_status;';
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_given(uuid) IS 'Refuses a device that is NULL (ML004).';

CREATE OR REPLACE FUNCTION ml_state(device uuid) RETURNS TABLE ("timestamp" timestamptz, state jsonb)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    id text;
    h record;
    newest record;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_given(device);
    id := _ml_known_id(device);
    SELECT * INTO h FROM _ml_history();
    SELECT * INTO newest FROM _ml_newest_first();
    RETURN QUERY EXECUTE format('SELECT %s, %s FROM (SELECT $1::%s AS device) AS f CROSS JOIN LATERAL (SELECT h.* FROM %s WHERE %s AND %s AND %s <= %s %s LIMIT 1) AS h',
        h.at, h.state, h.device_type, h.source, coalesce(newest.of_device, format('%s = f.device', h.device)), h.shadow,
        -- A clock that runs far ahead tells nothing of now.
        h.moment, format(h.bound, '(now() + interval ''1 day'')'), coalesce(newest.ordered, format('ORDER BY %s DESC', h.moment)))
    USING id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ML001', MESSAGE = format('device %s has reported no state', id),
            DETAIL = 'Its rows are of another shadow, or of a time that is still to come.', HINT = 'SELECT * FROM @extschema@.ml_setting WHERE name ~ ''^history_'';';
    END IF;
END
$$;
COMMENT ON FUNCTION ml_state(uuid) IS 'What a device reported last, whole, and when.';
