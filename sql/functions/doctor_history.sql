-- The doctor's checks of the history: its index, and a small sample of its rows.

CREATE OR REPLACE FUNCTION _ml_history_index(history regclass, device name, moment name,
    OUT place text, OUT is_view boolean, OUT partitioned boolean, OUT known boolean, OUT leads boolean, OUT opposite boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    below oid[];
    device_column smallint;
    time_column smallint;
BEGIN
    WITH RECURSIVE found (relation) AS (
        SELECT history::oid
        UNION
        SELECT d.refobjid FROM found f JOIN pg_class v ON v.oid = f.relation AND v.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = v.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    )
    SELECT array_agg(c.oid) FILTER (WHERE c.relkind IN ('r', 'p', 'm')), bool_or(c.oid = history AND c.relkind NOT IN ('r', 'p', 'm'))
    INTO below, is_view FROM found f JOIN pg_class c ON c.oid = f.relation;
    SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'p' INTO place, partitioned
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = CASE WHEN is_view AND (cardinality(below) <> 1 OR below IS NULL) THEN history ELSE below[1] END;
    SELECT min(a.attnum) FILTER (WHERE a.attname = device), min(a.attnum) FILTER (WHERE a.attname = moment)
    INTO device_column, time_column FROM pg_attribute a
    WHERE a.attrelid = below[1] AND cardinality(below) = 1 AND NOT a.attisdropped;
    known := coalesce(device_column IS NOT NULL AND time_column IS NOT NULL, false);
    SELECT count(*) > 0, bool_or((i.indoption[0] & 1) <> (i.indoption[1] & 1)) FILTER (WHERE i.indkey[1] = time_column)
    INTO leads, opposite FROM pg_index i
    WHERE i.indrelid = below[1] AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = device_column AND time_column = ANY (i.indkey);
END
$$;
COMMENT ON FUNCTION _ml_history_index(regclass, name, name) IS 'Whether an index of the history, or of the table (place) below a view, leads with the device and has the time; known is false where that cannot be found out. opposite: one of its two columns descends and the other does not.';

CREATE OR REPLACE FUNCTION _ml_doctor_index(history regclass, device name, moment name)
RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    index record;
BEGIN
    check_name := 'index';
    IF history IS NULL OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = history AND a.attname = device)
       OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = history AND a.attname = moment) THEN
        ok := false;
        detail := 'not looked for: there is no such table, or it lacks a column';
        fix := 'SELECT name, value FROM @extschema@.ml_setting WHERE name LIKE ''history%'';';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT * INTO index FROM _ml_history_index(history, device, moment);
    ok := index.leads OR NOT index.known;
    detail := CASE WHEN NOT index.known THEN format('cannot be told, since %s is no table: EXPLAIN SELECT FROM %s WHERE %I = (a device) AND %I > (a time) tells', history, history, device, moment)
        WHEN ok THEN format('an index%s leads with the device and has the time', CASE WHEN index.is_view THEN ' of ' || index.place END)
        ELSE format('no index of %s on the device and the time: every call would read the whole table', index.place) END;
    fix := CASE WHEN NOT ok AND index.partitioned THEN
            format('CREATE INDEX ON %s (%I, %I DESC); -- writes wait for it: there is no CONCURRENTLY for a partitioned table', index.place, device, moment)
        WHEN NOT ok THEN format('CREATE INDEX CONCURRENTLY ON %s (%I, %I DESC);', index.place, device, moment) END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_index(regclass, name, name) IS 'The doctor''s row on the index of the history, or of the table below where it is a view.';

CREATE OR REPLACE FUNCTION _ml_newest_first(OUT of_device text, OUT ordered text, OUT oldest_first text, OUT last_day text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    index record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    SELECT i.* INTO index FROM ml_setting s, ml_setting d, ml_setting t, _ml_history_index(to_regclass(s.value), d.value, t.value) AS i
    WHERE s.name = 'history_table' AND d.name = 'history_device_column' AND t.name = 'history_time_column';
    IF NOT coalesce(index.leads, false) THEN
        RETURN;
    END IF;
    -- ORDER BY as the index has it, and the device as a range: otherwise the planner may take an index
    -- on the time alone, and read all of it for a silent device.
    of_device := format('%s BETWEEN f.device AND f.device', h.device);
    ordered := format('ORDER BY %s %s, %s DESC', h.device, CASE WHEN index.opposite THEN 'ASC' ELSE 'DESC' END, h.moment);
    oldest_first := format('ORDER BY %s %s, %s', h.device, CASE WHEN index.opposite THEN 'DESC' ELSE 'ASC' END, h.moment);
    last_day := format('%s AND %s > %s', of_device, h.moment, format(h.bound,
        format('((SELECT %s FROM %s WHERE %s AND %s < now() + interval ''100 years'' %s LIMIT 1) - interval ''1 day'')',
            h.at, h.source, of_device, h.at, ordered)));
END
$$;
COMMENT ON FUNCTION _ml_newest_first() IS 'Pieces of SQL that give the rows of the device f.device, the newest or the oldest of them first, and the day up to the newest of them; NULL where no index leads to them.';

CREATE OR REPLACE FUNCTION _ml_some_rows(days boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    newest record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    SELECT * INTO newest FROM _ml_newest_first();
    IF newest.ordered IS NULL THEN
        RETURN format('SELECT h.* FROM %s LIMIT 1000', h.source);
    END IF;
    RETURN format('WITH RECURSIVE %s SELECT r.* FROM found f CROSS JOIN LATERAL (SELECT h.* FROM %s WHERE %s %s LIMIT %s) AS r WHERE f.device IS NOT NULL',
        _ml_walk(CASE WHEN days THEN 2000 ELSE 100 END), h.source,
        CASE WHEN days THEN newest.last_day ELSE newest.of_device END, newest.ordered,
        CASE WHEN days THEN '(SELECT 10000 / count(*) FROM found c WHERE c.device IS NOT NULL)' ELSE '10' END);
END
$$;
COMMENT ON FUNCTION _ml_some_rows(boolean) IS 'A query that gives a small sample of the history''s rows: the newest 10 of 100 devices, or (days) at most 10000 of the last day of 2000 devices, or any 1000 where no index leads to them.';

CREATE OR REPLACE FUNCTION _ml_sample(OUT devices int, OUT rows_read int, OUT readings int, OUT absent text[], OUT ahead interval[], OUT zone text, OUT error text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    newest record;
BEGIN
    SELECT * INTO h FROM _ml_history();
    SELECT * INTO newest FROM _ml_newest_first();
    zone := h.zone;
    FOR look IN 1 .. 2 LOOP
        -- A metric that the sample lacks may come once an hour, or from other devices.
        EXIT WHEN look = 2 AND (absent = '{}' OR newest.ordered IS NULL OR rows_read = 0);
        EXECUTE format($query$
            WITH h AS MATERIALIZED (%1$s), reading AS MATERIALIZED (
                SELECT %2$s AS device, %3$s AS t, %4$s AS state FROM h WHERE %5$s
            ), wanted AS MATERIALIZED ( -- so that no path is cut up for each row
                SELECT m.name, m.path, CASE WHEN m.path !~ '["[]' THEN string_to_array(m.path, '.') END AS parts FROM ml_metric m WHERE m.enabled AND ($1 IS NULL OR m.name = ANY ($1))
            )
            SELECT (SELECT count(DISTINCT %2$s) FROM h), (SELECT count(*) FROM h), (SELECT count(*) FROM reading),
                ARRAY(SELECT w.name FROM wanted w WHERE NOT EXISTS (
                    SELECT FROM reading r WHERE jsonb_typeof(CASE WHEN w.parts IS NULL THEN _ml_at(r.state, w.path) ELSE r.state #> w.parts END) = 'number') ORDER BY w.name),
                ARRAY(SELECT least(max(r.t), now() + interval '100 years') - now() FROM reading r GROUP BY r.device
                      HAVING max(r.t) > now() + interval '5 minutes' ORDER BY 1)$query$,
            _ml_some_rows(look = 2), h.device, h.at, h.state, h.shadow)
        INTO devices, rows_read, readings, absent, ahead USING absent;
    END LOOP;
    -- The devices whose models use such a metric may not be in the sample. What they have not reported for a day counts as gone.
    EXECUTE format($query$
        SELECT ARRAY(SELECT m.name FROM ml_metric m WHERE m.name = ANY ($1) AND NOT EXISTS (
            SELECT FROM (SELECT _ml_device_id(s.device_uuid)::%1$s AS device, s.last_reading FROM ml_signal_state g
                JOIN ml_scan_state s ON s.device_uuid = g.device_uuid WHERE m.name = ANY (g.metrics) ORDER BY s.last_reading DESC LIMIT 10) AS f
            WHERE f.last_reading IS NULL OR %2$s) ORDER BY m.name)$query$, h.device_type,
        CASE WHEN newest.last_day IS NULL THEN 'true' ELSE format($part$EXISTS (
            SELECT FROM %s WHERE %s AND %s AND jsonb_typeof(_ml_at(%s, m.path)) = 'number')$part$,
            h.source, newest.last_day, h.shadow, h.state) END)
    INTO absent USING absent;
EXCEPTION WHEN OTHERS THEN -- which a cancel is not among
    error := SQLERRM;
END
$$;
COMMENT ON FUNCTION _ml_sample() IS 'What the doctor sees in a small sample of the history. Where a metric has no number there, it looks at more: at the last day of many devices, and of 10 devices whose models have it.';

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
            ELSE 'SELECT path, kind, unit, statement FROM @extschema@.ml_discover(); -- apply => true takes them in' END;
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
            -- Most devices are ahead by the same hours: a time zone, and no wrong clock.
            fix := format('UPDATE @extschema@.ml_setting SET value = ''Etc/GMT-%s'' WHERE name = ''history_time_zone''; -- or by its name, such as Europe/Berlin', hours);
        ELSE
            fix := format('SELECT %1$s, max(%2$s) FROM %3$s WHERE %2$s > %4$s GROUP BY 1; -- set these clocks right', h.device, h.moment, h.source,
                format(h.bound, 'now()'));
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_history() IS 'The doctor''s rows on what the history holds: metrics that find no number, clocks that are ahead.';
