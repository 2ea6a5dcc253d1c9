-- The history as SQL reads it, and z scores.

CREATE OR REPLACE FUNCTION _ml_history_columns() RETURNS TABLE (setting text, name text, type text, fault text)
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT s.name, s.value, format_type(base.oid, NULL), CASE WHEN CASE s.name
            WHEN 'history_device_column' THEN base.oid = 'uuid'::regtype
            WHEN 'history_time_column' THEN base.oid IN ('timestamp'::regtype, 'timestamptz'::regtype)
            WHEN 'history_state_column' THEN base.oid = 'jsonb'::regtype
            ELSE (SELECT t.typcategory = 'S' FROM pg_type t WHERE t.oid = base.oid) END THEN NULL
        ELSE format('column %I is of type %s and has to be %s', s.value, format_type(base.oid, NULL), CASE s.name
            WHEN 'history_device_column' THEN 'uuid' WHEN 'history_time_column' THEN 'timestamp or timestamptz'
            WHEN 'history_state_column' THEN 'jsonb' ELSE 'text' END) END
    FROM ml_setting s
    LEFT JOIN pg_attribute a ON a.attname = s.value AND NOT a.attisdropped
        AND a.attrelid = to_regclass((SELECT t.value FROM ml_setting t WHERE t.name = 'history_table'))
    LEFT JOIN pg_type d ON d.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT CASE WHEN d.typtype <> 'd' THEN d.oid WHEN d.typtype = 'd' THEN ( -- a domain, or one over one
        WITH RECURSIVE made_of (oid, kind, below) AS (
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = d.typbasetype
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM made_of m JOIN pg_type t ON t.oid = m.below
        ) SELECT m.oid FROM made_of m WHERE m.kind <> 'd') END AS oid) AS base
    WHERE s.name ~ '^history_.*_column$' AND s.value <> '';
END
$$;
COMMENT ON FUNCTION _ml_history_columns() IS 'The history''s columns, one row a setting: the name, the type (of a domain its base type; NULL where the table lacks the column), and what is wrong with the type.';

CREATE OR REPLACE FUNCTION _ml_history() RETURNS TABLE (source text, device text, moment text, shadow text, state text, zone text, zoned boolean)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    setting jsonb;
    absent text;
    fault text;
    kind text;
BEGIN
    SELECT jsonb_object_agg(s.name, s.value) INTO setting FROM ml_setting s;
    SELECT string_agg(c.name, ', ' ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NULL),
           string_agg(c.fault, ', ' ORDER BY c.name COLLATE "C") FILTER (WHERE c.type IS NOT NULL),
           min(c.type) FILTER (WHERE c.setting = 'history_time_column')
    INTO absent, fault, kind FROM _ml_history_columns() AS c;
    IF absent IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('there is no history in %s', setting ->> 'history_table'),
            DETAIL = format('The table does not exist, or has no column %s.', absent),
            HINT = 'SELECT * FROM ml_doctor();';
    ELSIF fault IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = format('the history in %s cannot be read', setting ->> 'history_table'),
            DETAIL = format('There, %s.', fault), HINT = 'SELECT * FROM ml_doctor();';
    END IF;
    RETURN QUERY SELECT
        (SELECT string_agg(quote_ident(p), '.') FROM unnest(parse_ident(setting ->> 'history_table')) AS p) || ' AS h',
        'h.' || quote_ident(setting ->> 'history_device_column'), 'h.' || quote_ident(setting ->> 'history_time_column'),
        CASE WHEN setting ->> 'history_shadow_column' = '' THEN 'true' ELSE
            format('h.%I = %L', setting ->> 'history_shadow_column', setting ->> 'history_shadow') END,
        'h.' || quote_ident(setting ->> 'history_state_column'), setting ->> 'history_time_zone',
        kind = 'timestamp with time zone';
END
$$;
COMMENT ON FUNCTION _ml_history() IS 'The history table as pieces of SQL, quoted, made of the settings.';

CREATE OR REPLACE FUNCTION ml_zscore(device uuid, field text, hours int DEFAULT 168, threshold float8 DEFAULT 2.5)
RETURNS TABLE ("timestamp" timestamptz, value float8, z_score float8, is_anomaly boolean, severity text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    metric record;
    complete text;
    since timestamptz;
    types text;
    -- A number as float8; NULL for anything else and for what no sensor measured. Objects,
    -- arrays and booleans are greater than any number, strings and null are less.
    number CONSTANT text := $number$CASE WHEN %1$s BETWEEN '-1e-300' AND '1e-300' THEN 0 WHEN %1$s BETWEEN '-1e15' AND '1e15' THEN (%1$s)::float8 END$number$;
BEGIN
    @PYML_AT_HOME@
    IF device IS NULL OR field IS NULL OR hours IS NULL OR hours NOT BETWEEN 1 AND 87840
       OR threshold IS NULL OR NOT threshold BETWEEN 0.1 AND 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'an argument is null or out of range',
            DETAIL = format('device %s, field %s, hours %s (1 to 87840), threshold %s (0.1 to 100).',
                            device, field, hours, threshold),
            HINT = format('SELECT * FROM ml_zscore(%L, %L);', coalesce(device::text, 'uuid'), coalesce(field, 'system.cpuUsage'));
    END IF;
    SELECT * INTO h FROM _ml_history();
    SELECT m.path, m.divisor_path, m.scale, m.kind INTO metric FROM ml_metric m WHERE m.name = field;
    IF NOT FOUND THEN
        SELECT field AS path, NULL::text AS divisor_path, 1::float8 AS scale, 'gauge' AS kind INTO metric;
    END IF;
    -- A value of 0 beside a total of 0 says that the whole collection failed.
    SELECT coalesce(string_agg(DISTINCT format($total$%s #> %L IS DISTINCT FROM '0'$total$, h.state, string_to_array(m.divisor_path, '.')), ' AND '), 'true')
    INTO complete FROM ml_metric m WHERE m.divisor_path IS NOT NULL;
    -- The window's bounds are converted to the column's type, so that its index is used.
    RETURN QUERY EXECUTE format($query$
        WITH found AS MATERIALIZED ( -- so that each value is looked for once
            SELECT %1$s AS t, %9$s #> $3 AS value, %9$s #> $4 AS total
            FROM %3$s
            WHERE %4$s = $1 AND %5$s AND %6$s > %7$s AND %6$s <= %8$s AND (%9$s #> $3 IS DISTINCT FROM '0' OR %2$s)
        ), number AS MATERIALIZED (
            SELECT t, %10$s AS value, %11$s AS total FROM found
        ), reading AS ( -- of a total that is next to nothing, no share
            SELECT t, CASE WHEN $4 IS NULL THEN value WHEN total > 0 AND abs(value) <= 1e15 * total THEN value / total END AS v FROM number
        ), measured AS (
            SELECT t, $6 * CASE WHEN $5 = 'gauge' THEN v
                WHEN v >= lag(v) OVER w AND t > lag(t) OVER w
                THEN (v - lag(v) OVER w) / extract(epoch FROM t - lag(t) OVER w)::float8 END AS v
            FROM reading WHERE v IS NOT NULL WINDOW w AS (ORDER BY t)
        ), spread AS MATERIALIZED ( -- not once for each row, where there are no statistics
            SELECT count(*) AS n, avg(v) AS mean, stddev_pop(v) AS deviation, min(v) = max(v) AS constant
            FROM measured WHERE abs(v) <= 1e15
        ), judged AS (
            SELECT m.t, m.v, CASE WHEN s.n < 10 THEN NULL WHEN s.constant OR s.deviation = 0 THEN 0
                                  ELSE (m.v - s.mean) / s.deviation END AS z
            FROM measured m, spread s WHERE abs(m.v) <= 1e15
        )
        SELECT t, v, z, coalesce(abs(z) > $7, false),
               CASE WHEN abs(z) > $7 AND abs(z) > 3 THEN 'critical' WHEN abs(z) > $7 THEN 'warning' ELSE 'none' END
        FROM judged ORDER BY t
        $query$,
        CASE WHEN h.zoned THEN h.moment || '::timestamptz' ELSE format('(%s AT TIME ZONE %L)', h.moment, h.zone) END, complete, h.source, h.device, h.shadow, h.moment,
        CASE WHEN h.zoned THEN '(now() - make_interval(hours => $2))' ELSE format('((now() - make_interval(hours => $2)) AT TIME ZONE %L)', h.zone) END,
        CASE WHEN h.zoned THEN 'now()' ELSE format('(now() AT TIME ZONE %L)', h.zone) END,
        h.state, format(number, 'value'), format(number, 'total'))
    USING device, hours, string_to_array(metric.path, '.'), string_to_array(metric.divisor_path, '.'), metric.kind, metric.scale, threshold;
    IF FOUND THEN
        RETURN;
    END IF;
    since := now() - make_interval(hours => hours);
    EXECUTE format($query$
        SELECT string_agg(format('%%s in %%s rows', t.type, t.rows), ', ' ORDER BY t.rows DESC, t.type COLLATE "C")
        FROM (SELECT coalesce(jsonb_typeof(%1$s #> $2), 'missing') AS type, count(*) AS rows
              FROM %2$s WHERE %3$s = $1 AND %4$s AND %5$s > %6$s AND %5$s <= %7$s GROUP BY 1) AS t$query$,
        h.state, h.source, h.device, h.shadow, h.moment,
        CASE WHEN h.zoned THEN '$3' ELSE format('($3 AT TIME ZONE %L)', h.zone) END,
        CASE WHEN h.zoned THEN 'now()' ELSE format('(now() AT TIME ZONE %L)', h.zone) END)
    INTO types USING device, string_to_array(metric.path, '.'), since;
    RAISE EXCEPTION USING
        ERRCODE = CASE WHEN types IS NULL THEN 'ML001' ELSE 'ML003' END,
        MESSAGE = CASE WHEN types IS NULL THEN format('device %s has no readings in the window', device)
            ELSE format('field %s holds no usable number', metric.path) END,
        DETAIL = coalesce('Found: ' || types || '.',
            format('Looked in %s from %s to %s.', split_part(h.source, ' AS h', 1), since, now())),
        HINT = format('SELECT jsonb_pretty(%s) FROM %s WHERE %s = %L AND %s ORDER BY %s DESC LIMIT 1;',
            h.state, h.source, h.device, device, h.shadow, h.moment);
END
$$;
COMMENT ON FUNCTION ml_zscore(uuid, text, int, float8) IS 'Needs no model: how many standard deviations each value of a field (a dotted path or a metric''s name) lies from the mean of the window. Beyond threshold it is an anomaly, beyond 3 a critical one. Fewer than ten values: no judgement; a constant: none is anomalous. No number there: ML003; no readings: ML001.';
