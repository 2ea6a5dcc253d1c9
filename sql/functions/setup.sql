-- Points pyml at a table of any shape.

CREATE OR REPLACE FUNCTION _ml_device_table(history regclass, device name, device_name text, device_name_key name, OUT place text, OUT id_column text, OUT name_column text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    parts text[] := parse_ident(device_name);
    names regclass;
BEGIN
    IF cardinality(parts) = 3 THEN
        place := format('%I.%I', parts[1], parts[2]);
        names := to_regclass(place);
        name_column := parts[3];
    END IF;
    -- The history's device column refers to the table, or the id is its primary key.
    id_column := coalesce(device_name_key, (
        SELECT a.attname FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = names AND a.attnum = CASE c.contype WHEN 'f' THEN c.confkey[1] ELSE c.conkey[1] END
        WHERE c.contype = 'f' AND c.conrelid = history AND c.confrelid = names AND cardinality(c.conkey) = 1
              AND c.conkey[1] = (SELECT d.attnum FROM pg_attribute d WHERE d.attrelid = history AND d.attname = device)
           OR c.contype = 'p' AND c.conrelid = names AND cardinality(c.conkey) = 1
        ORDER BY c.contype LIMIT 1));
    IF names IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = names AND a.attname = name_column) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('there is no column %s', device_name),
            DETAIL = 'The column with the devices'' names is given as schema.table.column.',
            HINT = format('Pass device_name => %L.', 'public.devices.name');
    ELSIF id_column IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = names AND a.attname = id_column) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('%s has no column with the devices'' ids that could be told', names),
            DETAIL = format('It has %s.', _ml_columns_of(names)), HINT = 'Pass device_name_key => the column of it that has what the history has.';
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_device_table(regclass, name, text, name) IS 'The table with the devices'' names, its column with their ids and that with the names, of a column as schema.table.column.';

CREATE OR REPLACE FUNCTION _ml_columns_of(relation regclass) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT string_agg(format('%I (%s)', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION _ml_columns_of(regclass) IS 'A table''s columns, for a person to read.';

CREATE OR REPLACE FUNCTION _ml_set_history(history regclass, device name, "time" name, state name, shadow name, shadow_value text, time_zone text, time_unit text, device_name text, device_name_key name) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    place CONSTANT text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = history);
    names record;
    h record;
BEGIN
    IF history IS NULL OR device IS NULL OR "time" IS NULL OR state IS NULL OR place IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'an argument is null, or no table',
            DETAIL = 'The history is a table or a view, with the columns that hold a device''s id, a time and the state that it reported.',
            HINT = 'SELECT * FROM @extschema@.ml_setup(''public.device_shadow_history'', ''device_uuid'', ''timestamp'', ''reported_state'', ''shadow_name'', ''device-state'');';
    END IF;
    IF (shadow IS NULL) <> (shadow_value IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'shadow and shadow_value go together',
            DETAIL = 'Readings are the rows in which the column shadow has the value shadow_value; of the two one is null.',
            HINT = CASE WHEN shadow IS NULL THEN 'Pass shadow => the column that has that value.' ELSE format('SELECT DISTINCT %I FROM %s;', shadow, place) END;
    END IF;
    IF device_name IS NOT NULL THEN
        SELECT * INTO names FROM _ml_device_table(history, device, device_name, device_name_key);
    ELSE
        SELECT '' AS place, '' AS id_column, '' AS name_column INTO names;
    END IF;
    UPDATE ml_setting s SET value = v.value
    FROM (VALUES ('history_table', place), ('history_device_column', device), ('history_time_column', "time"), ('history_state_column', state),
                 ('history_shadow_column', coalesce(shadow, '')), ('history_shadow', coalesce(shadow_value, '')),
                 ('history_time_zone', time_zone), ('history_time_unit', coalesce(time_unit, '')),
                 ('device_table', names.place), ('device_id_column', names.id_column), ('device_name_column', names.name_column)) AS v (name, value)
    WHERE s.name = v.name;
    SELECT * INTO h FROM _ml_history_parts();
    IF h.absent IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('%s has no column %s', history, array_to_string(h.absent, ', ')),
            DETAIL = format('It has %s.', _ml_columns_of(history)), HINT = 'SELECT * FROM @extschema@.ml_setup(' || quote_literal(place) || ', device, time, state); -- with the columns'' names in quotes';
    ELSIF h.fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('%s cannot be read', history), DETAIL = format('There, %s.', h.fault),
            HINT = format('CREATE VIEW %I.%I AS SELECT * FROM %s; -- with that column cast to such a type, and then ml_setup on the view',
                (parse_ident(place))[1], (parse_ident(place))[2] || '_for_pyml', place);
    ELSIF NOT has_table_privilege(history, 'SELECT') THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('%s may not read %s', current_user, history), DETAIL = 'Whoever calls pyml reads the history as themselves.',
            HINT = format('GRANT SELECT ON %s TO %I;', history, current_user);
    ELSIF h.unit IS NOT NULL THEN -- so that no call has to look at rows for it
        EXECUTE format('UPDATE ml_setting s SET value = %L WHERE s.name = ''history_time_unit'' AND EXISTS (SELECT FROM %s)', h.unit, h.source);
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_set_history(regclass, name, name, name, name, text, text, text, text, name) IS 'Sets what ml_setup is given, or refuses it (ML004, ML006).';

CREATE OR REPLACE FUNCTION ml_setup(history regclass, device name, "time" name, state name, shadow name DEFAULT NULL, shadow_value text DEFAULT NULL,
    time_zone text DEFAULT 'UTC', time_unit text DEFAULT NULL, device_name text DEFAULT NULL, device_name_key name DEFAULT NULL)
RETURNS TABLE (what text, detail text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    seen record;
    index record;
    plan json;
    counted bigint;
    ends record;
    newest record;
    few boolean;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_set_history(history, device, "time", state, shadow, shadow_value, time_zone, time_unit, device_name, device_name_key);
    SELECT * INTO h FROM _ml_history();
    SELECT * INTO index FROM _ml_doctor_index(history, device, "time");
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s LIMIT 100001) AS part', h.source) INTO counted;
    few := counted <= 100000;
    IF NOT few THEN
        EXECUTE format('EXPLAIN (FORMAT json) SELECT FROM %s', h.source) INTO plan;
    END IF;
    what := 'rows';
    detail := CASE WHEN few THEN counted::text ELSE format('about %s', greatest((plan #>> '{0,Plan,Plan Rows}')::float8, counted)::bigint) END;
    RETURN NEXT;

    EXECUTE format($query$
        WITH h AS MATERIALIZED (%1$s), reading AS (
            SELECT %2$s AS device, %3$s AS t, %4$s AS state FROM h WHERE %5$s
        ), step AS (SELECT r.t - lag(r.t) OVER (PARTITION BY r.device ORDER BY r.t) AS long FROM reading r)
        SELECT (SELECT count(*) FROM h) AS read, count(*) AS readings, count(*) FILTER (WHERE jsonb_typeof(r.state) = 'object') AS documents,
               min(r.device::text) AS example, min(r.t) AS oldest, max(r.t) AS newest,
               (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY s.long) FROM step s WHERE s.long > '0') AS rhythm
        FROM reading r$query$, _ml_some_rows(), h.device, h.at, h.state, h.shadow) INTO seen;
    what := 'devices';
    IF index.ok OR few THEN
        detail := concat((SELECT count(*) FROM _ml_devices()), ', with ids of type ', h.device_type, ', such as ' || seen.example);
    ELSE
        detail := concat('with ids of type ', h.device_type, ', such as ' || seen.example, '; how many, only an index could tell');
    END IF;
    RETURN NEXT;

    what := 'time';
    detail := CASE WHEN h.unit IS NOT NULL THEN format('%s since 1970', h.unit) WHEN h.zone IS NOT NULL THEN format('wall clock of zone %s', h.zone) ELSE 'with time zone' END;
    RETURN NEXT;

    what := 'span';
    IF few THEN
        EXECUTE format('SELECT min(%1$s) AS oldest, max(%1$s) AS newest FROM %2$s', h.at, h.source) INTO ends;
    ELSE -- of the oldest, each device's first row, where an index leads to it
        SELECT NULL::timestamptz AS oldest, seen.newest AS newest INTO ends;
        SELECT * INTO newest FROM _ml_newest_first();
        IF newest.oldest_first IS NOT NULL THEN
            EXECUTE format('WITH RECURSIVE %s SELECT min(r.t) FROM found f CROSS JOIN LATERAL (SELECT %s AS t FROM %s WHERE %s %s LIMIT 1) AS r',
                _ml_walk(100), h.at, h.source, newest.of_device, newest.oldest_first) INTO ends.oldest;
        END IF;
    END IF;
    detail := CASE WHEN seen.read = 0 THEN 'there are no rows' ELSE concat('from ' || ends.oldest || ' ', 'to ', ends.newest,
        CASE WHEN NOT few THEN ', by the rows of some devices' END) END;
    RETURN NEXT;

    what := 'rhythm';
    detail := coalesce('a row every ' || CASE WHEN seen.rhythm < '10 seconds' THEN seen.rhythm ELSE date_trunc('second', seen.rhythm + interval '0.5 seconds') END || ', as a rule', 'too few rows to tell');
    RETURN NEXT;

    what := 'readings';
    detail := CASE WHEN seen.read = 0 THEN 'there are no rows'
        WHEN seen.readings = 0 THEN format('none of %s rows looked at: %s is wanted', seen.read, h.shadow)
        ELSE format('%s of %s rows looked at; %s of them hold a JSON object', seen.readings, seen.read, seen.documents) END;
    RETURN NEXT;

    what := 'fields';
    BEGIN
        SELECT format('%s numbers%s; SELECT * FROM ml_discover(); tells of each', count(*), ': ' || string_agg(d.path, ', ') FILTER (WHERE d.n <= 20) || CASE WHEN count(*) > 20 THEN ', ...' ELSE '' END)
        INTO detail FROM (SELECT f.path, row_number() OVER () AS n FROM ml_discover() AS f WHERE f.kind IN ('gauge', 'counter')) AS d;
    EXCEPTION WHEN SQLSTATE 'ML001' THEN
        detail := 'no messages within a day: SELECT * FROM ml_discover(hours => 720); looks further back';
    END;
    RETURN NEXT;

    what := 'index';
    detail := concat_ws(E'\n', index.detail, index.fix);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ml_setup(regclass, name, name, name, name, text, text, text, text, name) IS 'Points pyml at a history, a table or view and its columns, and says what it has found.';
