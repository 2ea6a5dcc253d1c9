-- Z scores: what needs no model.

CREATE OR REPLACE FUNCTION ml_zscore(device uuid, field text, hours int DEFAULT 168, threshold float8 DEFAULT 2.5)
RETURNS TABLE ("timestamp" timestamptz, value float8, z_score float8, is_anomaly boolean, severity text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    h record;
    id text;
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
    id := _ml_device_id(device, h.device_type);
    IF id IS NULL THEN
        PERFORM _ml_refuse_device(device::text);
    END IF;
    SELECT m.path, m.divisor_path, m.scale, m.kind INTO metric FROM ml_metric m WHERE m.name = field;
    IF NOT FOUND THEN
        SELECT field AS path, NULL::text AS divisor_path, 1::float8 AS scale, 'gauge' AS kind INTO metric;
    END IF;
    -- A value of 0 beside a total of 0 says that the whole collection failed.
    SELECT coalesce(string_agg(DISTINCT format($total$%s IS DISTINCT FROM '0'$total$, _ml_at_sql(h.state, m.divisor_path)), ' AND '), 'true')
    INTO complete FROM ml_metric m WHERE m.divisor_path IS NOT NULL;
    -- The window's bounds are converted to the column's type, so that its index is used.
    RETURN QUERY EXECUTE format($query$
        WITH found AS MATERIALIZED ( -- so that each value is looked for once
            SELECT %1$s AS t, %9$s AS value, %13$s AS total
            FROM %3$s
            WHERE %4$s = $1::%12$s AND %5$s AND %6$s > %7$s AND %6$s <= %8$s AND (%9$s IS DISTINCT FROM '0' OR %2$s)
        ), number AS MATERIALIZED (
            SELECT t, %10$s AS value, %11$s AS total FROM found
        ), reading AS ( -- of a total that is next to nothing, no share
            SELECT t, CASE WHEN $3 THEN value WHEN total > 0 AND abs(value) <= 1e15 * total THEN value / total END AS v FROM number
        ), measured AS (
            SELECT t, $5 * CASE WHEN $4 = 'gauge' THEN v
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
        SELECT t, v, z, coalesce(abs(z) > $6, false),
               CASE WHEN abs(z) > $6 AND abs(z) > 3 THEN 'critical' WHEN abs(z) > $6 THEN 'warning' ELSE 'none' END
        FROM judged ORDER BY t
        $query$,
        h.at, complete, h.source, h.device, h.shadow, h.moment,
        format(h.bound, '(now() - make_interval(hours => $2))'), format(h.bound, 'now()'),
        _ml_at_sql(h.state, metric.path), format(number, 'value'), format(number, 'total'), h.device_type,
        coalesce(_ml_at_sql(h.state, metric.divisor_path), 'NULL::jsonb'))
    USING id, hours, metric.divisor_path IS NULL, metric.kind, metric.scale, threshold;
    IF FOUND THEN
        RETURN;
    END IF;
    since := now() - make_interval(hours => hours);
    EXECUTE format($query$
        SELECT string_agg(format('%%s in %%s rows', t.type, t.rows), ', ' ORDER BY t.rows DESC, t.type COLLATE "C")
        FROM (SELECT coalesce(jsonb_typeof(%1$s), 'missing') AS type, count(*) AS rows
              FROM %2$s WHERE %3$s = $1::%8$s AND %4$s AND %5$s > %6$s AND %5$s <= %7$s GROUP BY 1) AS t$query$,
        _ml_at_sql(h.state, metric.path), h.source, h.device, h.shadow, h.moment,
        format(h.bound, '$2'), format(h.bound, 'now()'), h.device_type)
    INTO types USING id, since;
    RAISE EXCEPTION USING
        ERRCODE = CASE WHEN types IS NULL THEN 'ML001' ELSE 'ML003' END,
        MESSAGE = CASE WHEN types IS NULL THEN format('device %s has no readings in the window', id)
            ELSE format('field %s holds no usable number', metric.path) END,
        DETAIL = coalesce('Found: ' || types || '.',
            format('Looked in %s from %s to %s.', split_part(h.source, ' AS h', 1), since, now())),
        HINT = format('SELECT jsonb_pretty(%s) FROM %s WHERE %s = %L AND %s ORDER BY %s DESC LIMIT 1;',
            h.state, h.source, h.device, id, h.shadow, h.moment);
END
$$;
COMMENT ON FUNCTION ml_zscore(uuid, text, int, float8) IS 'Needs no model: how many standard deviations each value of a field (a path or a metric''s name) lies from the mean of the window. Beyond threshold it is an anomaly, beyond 3 a critical one. Fewer than ten values: no judgement; a constant: none is anomalous. No number there: ML003; no readings: ML001.';
