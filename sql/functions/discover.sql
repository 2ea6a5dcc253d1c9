-- What the history holds: its numbers, and the metrics that would read them.

CREATE OR REPLACE FUNCTION _ml_spread_rows(id text, since timestamptz, until timestamptz,
    OUT states jsonb[], OUT devices int[], OUT slices int[], OUT left_out bigint)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off -- its plan looks dear, and compiling it is what would take the time
AS $$
DECLARE
    h record;
    newest record;
    rows_of text;
BEGIN
    SELECT * INTO h FROM _ml_history();
    SELECT * INTO newest FROM _ml_newest_first();
    IF newest.ordered IS NOT NULL THEN
        -- 100 of up to 1000 devices that have rows in the window; for each, the newest rows of up to 20 parts of the
        -- window. So there are successive rows, and rows of all hours. Rows of other shadows are bounded too.
        rows_of := format($part$%1$s, alive AS MATERIALIZED (
                SELECT f.device, row_number() OVER (ORDER BY f.n) AS n, count(*) OVER () AS total
                FROM found f CROSS JOIN LATERAL (SELECT FROM %2$s WHERE %3$s AND %5$s > %6$s AND %5$s <= %7$s %4$s LIMIT 1) AS r
                WHERE f.device IS NOT NULL
            ), chosen AS ( -- spread over the ids, which may go by kind
                SELECT a.device, greatest(5, 100 / least(a.total, 100)) AS size, 20 / greatest(1, 5 * least(a.total, 100) / 100) AS parts
                FROM alive a WHERE a.total <= 100 OR a.n * 100 / a.total <> (a.n - 1) * 100 / a.total
            ), taken AS MATERIALIZED (
                SELECT f.device, r.t, part AS slice, r.state
                FROM chosen f CROSS JOIN generate_series(1, f.parts) AS part CROSS JOIN LATERAL (
                    SELECT %8$s AS t, %9$s AS state FROM (
                        SELECT h.* FROM %2$s WHERE %3$s AND %5$s > %10$s AND %5$s <= %11$s %4$s LIMIT f.size * 10) AS h
                    WHERE %12$s LIMIT f.size) AS r
            )$part$, _ml_walk(CASE WHEN id IS NULL THEN 1000 ELSE 1 END, CASE WHEN id IS NOT NULL THEN format('%s = $1::%s', h.device, h.device_type) END),
            h.source, newest.of_device, newest.ordered, h.moment, format(h.bound, '$2'), format(h.bound, '$3'), h.at, h.state,
            format(h.bound, '($2 + ($3 - $2) * ((part - 1)::float8 / f.parts))'), format(h.bound, '($2 + ($3 - $2) * (part::float8 / f.parts))'), h.shadow);
    ELSE
        rows_of := format('taken AS MATERIALIZED (SELECT %s AS device, %s AS t, 1::bigint AS slice, %s AS state FROM %s WHERE %s AND %s AND %s > %s AND %s <= %s ORDER BY %s DESC LIMIT 2000)',
            h.device, h.at, h.state, h.source, CASE WHEN id IS NULL THEN '$1::text IS NULL' ELSE format('%s = $1::%s', h.device, h.device_type) END,
            h.shadow, h.moment, format(h.bound, '$2'), h.moment, format(h.bound, '$3'), h.moment);
    END IF;
    EXECUTE format($query$
        WITH RECURSIVE %s, sized AS (
            SELECT t.*, pg_column_size(jsonb_build_array(t.state)) AS size, row_number() OVER (PARTITION BY t.device ORDER BY t.t DESC, t.state) AS rank
            FROM taken t WHERE pg_column_size(t.state) <= 1000000
        ), kept AS ( -- each device's newest first
            SELECT s.*, sum(s.size) OVER (ORDER BY s.rank, s.device, s.t, s.state ROWS UNBOUNDED PRECEDING) AS total
            FROM sized s WHERE s.size <= 1000000
        ), numbered AS (
            SELECT k.*, dense_rank() OVER (ORDER BY k.device) AS number FROM kept k WHERE k.total <= 8000000
        )
        SELECT array_agg(n.state ORDER BY n.number, n.t, n.state), array_agg(n.number ORDER BY n.number, n.t, n.state),
               array_agg(n.slice ORDER BY n.number, n.t, n.state), (SELECT count(*) FROM taken) - count(*) FROM numbered n$query$, rows_of)
    INTO states, devices, slices, left_out USING id, since, until;
END
$$;
COMMENT ON FUNCTION _ml_spread_rows(text, timestamptz, timestamptz) IS 'Up to 2000 messages of up to 100 devices, or of one, spread over a window: states in the order of devices and times, and the part of the window that each is of. Without an index that leads with the device, the newest. Beyond 8 MB they are left out, and counted.';

CREATE OR REPLACE FUNCTION _ml_numbers_in(states jsonb[], devices int[], slices int[])
RETURNS TABLE (path text, parts int, share float8, most float8, "least" float8, "greatest" float8, changes float8, kind text)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off -- its plan looks dear, and compiling it is what would take the time
AS $$
    WITH RECURSIVE message AS (
        SELECT m.n, m.device, m.slice, m.state FROM unnest(states, devices, slices) WITH ORDINALITY AS m (state, device, slice, n)
    ), node (n, path, parts, value) AS (
        SELECT m.n, '', 0, m.state FROM message m
        UNION ALL
        SELECT p.n, c.path, p.parts + c.parts, c.value
        FROM node p CROSS JOIN LATERAL (
            SELECT p.path || CASE WHEN p.parts = 0 THEN '' ELSE '.' END
                || CASE WHEN e.key ~ '^[^][:space:].="[]+$' THEN e.key ELSE '"' || replace(e.key, '"', '""') || '"' END, 1, e.value
            FROM jsonb_each(CASE jsonb_typeof(p.value) WHEN 'object' THEN p.value ELSE '{}' END) AS e
            WHERE jsonb_typeof(p.value) = 'object'
            UNION ALL
            -- An element goes by its name, if all elements have one and no two share it.
            SELECT CASE WHEN called.key IS NULL THEN p.path || CASE WHEN p.parts = 0 THEN '' ELSE '.' END || (e.i - 1)
                ELSE format('%s[%s=%s]', p.path, called.key, CASE WHEN e.value ->> called.key ~ '^[^][:space:].="[]+$' THEN e.value ->> called.key
                    ELSE '"' || replace(e.value ->> called.key, '"', '""') || '"' END) END, 1, e.value
            FROM (SELECT min(k.key) AS key FROM (
                    SELECT k.key FROM unnest('{name,id,key,type}'::text[]) WITH ORDINALITY AS k (key, n)
                    WHERE (SELECT count(*) = count(DISTINCT CASE WHEN jsonb_typeof(a -> k.key) = 'string' AND length(a ->> k.key) BETWEEN 1 AND 100 THEN a ->> k.key END)
                           FROM jsonb_array_elements(CASE jsonb_typeof(p.value) WHEN 'array' THEN p.value ELSE '[]' END) AS a)
                    ORDER BY k.n LIMIT 1) AS k) AS called,
                jsonb_array_elements(CASE jsonb_typeof(p.value) WHEN 'array' THEN p.value ELSE '[]' END) WITH ORDINALITY AS e (value, i)
            WHERE jsonb_typeof(p.value) = 'array'
        ) AS c (path, parts, value)
        WHERE jsonb_typeof(p.value) IN ('object', 'array') AND p.parts < 32
    ), leaf AS (
        SELECT l.n, l.path, l.parts, l.value, false AS is_text FROM node l
        WHERE jsonb_typeof(l.value) = 'number' AND l.value BETWEEN '-1e15' AND '1e15' AND l.parts > 0 AND length(l.path) <= 1000
        UNION ALL
        SELECT l.n, l.path, l.parts, to_jsonb((l.value #>> '{}')::numeric), true FROM node l
        WHERE CASE WHEN jsonb_typeof(l.value) = 'string' AND l.parts > 0 AND length(l.path) <= 1000
            THEN l.value #>> '{}' ~ '^ *[-+]?[0-9]{1,15}([.][0-9]{1,20})?([eE]-?[0-9])? *$' END
    ), valued AS (
        SELECT m.device, m.slice, m.n, l.path, l.parts, l.is_text, v.x, l.value = to_jsonb(trunc(l.value::numeric)) AS whole,
               v.x - lag(v.x) OVER w AS step, m.slice = lag(m.slice) OVER w AS near
        FROM leaf l JOIN message m ON m.n = l.n
        CROSS JOIN LATERAL (SELECT CASE WHEN l.value BETWEEN '-1e-300' AND '1e-300' THEN 0 ELSE l.value::float8 END AS x) AS v
        WINDOW w AS (PARTITION BY l.path, l.is_text, m.device ORDER BY m.n)
    ), by_device AS (
        SELECT v.path, v.is_text, v.device, max(v.parts) AS parts, count(*) AS n, min(v.x) AS low, max(v.x) AS high, bool_and(v.whole) AS whole,
               -- Zeros aside: a failed collection sets even a constant to 0.
               min(v.x) = max(v.x) OR 100 * count(*) FILTER (WHERE v.x = 0) <= count(*) AND min(v.x) FILTER (WHERE v.x <> 0) = max(v.x) FILTER (WHERE v.x <> 0) AS constant,
               count(v.step) AS steps, count(*) FILTER (WHERE v.step > 0) AS rises, count(*) FILTER (WHERE v.step < 0) AS falls,
               count(v.step) FILTER (WHERE v.near) AS near, count(*) FILTER (WHERE v.near AND v.step <> 0) AS near_changes,
               count(*) FILTER (WHERE v.near AND v.step < 0 AND 2 * v.x > v.x - v.step) AS slips -- falls that are no reset
        FROM valued v GROUP BY v.path, v.is_text, v.device
    ), by_path AS (
        SELECT d.path, d.is_text, max(d.parts) AS parts, sum(d.n) AS n, max(d.n::float8 / t.n) AS most, min(d.low) AS low, max(d.high) AS high,
               bool_and(d.whole) AS whole, bool_and(d.constant) AS constant, sum(d.steps) AS steps, sum(d.rises) AS rises, sum(d.falls) AS falls, sum(d.near) AS near, sum(d.near_changes) AS near_changes, sum(d.slips) AS slips
        FROM by_device d JOIN (SELECT m.device, count(*) AS n FROM message m GROUP BY m.device) AS t ON t.device = d.device
        GROUP BY d.path, d.is_text
    )
    SELECT DISTINCT ON (p.path) p.path, p.parts, p.n::float8 / cardinality(states), p.most, p.low, p.high,
           CASE WHEN p.near > 0 THEN p.near_changes::float8 / p.near::float8 WHEN p.steps > 0 THEN (p.rises + p.falls)::float8 / p.steps::float8 END,
           CASE WHEN p.is_text THEN 'text' WHEN p.steps > 0 AND p.constant THEN 'constant'
                WHEN p.whole AND p.steps >= 5 AND 2 * p.rises >= p.steps AND 10 * p.falls <= p.rises AND 50 * p.slips <= p.rises THEN 'counter' ELSE 'gauge' END
    FROM by_path p ORDER BY p.path, p.is_text
$$;
COMMENT ON FUNCTION _ml_numbers_in(jsonb[], int[], int[]) IS 'The paths at which states (in the order of devices and times) hold numbers, or text that is one: of how many they hold it, of the device that has it most often too, and what kind of number it looks like.';

CREATE OR REPLACE FUNCTION _ml_words_of(path text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT coalesce(array_agg(w.words ORDER BY w.n) FILTER (WHERE w.words <> ''), '{}')
    FROM (SELECT p.n, trim('_' FROM regexp_replace(lower(regexp_replace(l.letters, '([a-z0-9])([A-Z])', E'\\1_\\2', 'g') COLLATE "C"), '[^a-z0-9]+', '_', 'g')) AS words
          FROM regexp_matches(path, E'(\\[?)(?:"((?:[^"]|"")*)"|([^].="[]+))', 'g') WITH ORDINALITY AS p (part, n)
          CROSS JOIN LATERAL (SELECT coalesce(p.part[2], p.part[3]) AS part) AS k
          CROSS JOIN LATERAL (SELECT CASE getdatabaseencoding() WHEN 'UTF8' THEN regexp_replace(normalize(k.part, NFKD), E'[\\u0300-\\u036f]+', '', 'g') ELSE k.part END AS letters) AS l
          WHERE p.part[1] = '') AS w
$$;
COMMENT ON FUNCTION _ml_words_of(text) IS 'The parts of a path as a metric''s name has them: cpuUsage becomes cpu_usage. Of an element of an array, what it is called.';

CREATE OR REPLACE FUNCTION _ml_unit_of(path text, words text[], low float8, high float8) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    name text;
    unit text;
BEGIN
    -- The last part's name, or that of the part before where the last says nothing.
    FOR i IN REVERSE cardinality(words) .. greatest(1, cardinality(words) - 1) LOOP
        name := '_' || words[i] || '_';
        EXIT WHEN name !~ '^_(value|val|v|reading|raw|now|last|avg|average|mean|min|max|data|[0-9]+)_$';
    END LOOP;
    name := regexp_replace(name, '_([dghkm])_(a|b|bm|bar|hz|pa|v|w|wh)_$', E'_\\1\\2_'); -- kWh has become k_wh
    IF path ~ '%[^.[]*$' THEN
        RETURN '%';
    END IF;
    SELECT u.unit INTO unit FROM (VALUES
        (1, '_(percent|percentage|pct|perc|humidity|hum|rh|soc)_$', '%', 0, 100),
        (2, '_(cpu|memory|mem|ram|disk|gpu|swap)_(usage|utilization|utilisation|util)_$', '%', 0, 100),
        (3, '_battery_(level|charge)_$', '%', 0, 100),
        (4, '_(temp|temperature|deg)_f_$|_fahrenheit_$', 'degF', -200, 2000),
        (5, '_(temp|temperature|deg)_c_$|_celsius_$', 'degC', -200, 2000),
        (6, '_kelvin_$', 'K', 0, 1e6),
        (7, '_(temp|temperature|dew_point|dewpoint)_$', 'degC', -90, 150),
        (8, '_(mv|millivolts?)_$', 'mV', -1e9, 1e9),
        (9, '_(volts?|voltage|vbat|vcc|vin|vout)_$', 'V', -1e6, 1e6),
        (10, '_(ma|milliamps?)_$', 'mA', -1e9, 1e9),
        (11, '_(amps?|amperes?|amperage|(motor|battery|charge|charging|load|phase|line|coil|pump|input|output)_current)_$', 'A', -1e6, 1e6),
        (12, '_kwh_$', 'kWh', -1e15, 1e15),
        (13, '_wh_$', 'Wh', -1e15, 1e15),
        (14, '_(kw|kilowatts?)_$', 'kW', -1e9, 1e9),
        (15, '_(watts?|(active|load|input|output|solar|pv|battery)_power)_$|^_power_$', 'W', -1e9, 1e9),
        (16, '_(bytes|octets)_$', 'B', -1e15, 1e15),
        (17, '_(kb|kilobytes)_$', 'kB', -1e15, 1e15), (18, '_kib_$', 'KiB', -1e15, 1e15),
        (19, '_(mb|megabytes)_$', 'MB', -1e15, 1e15), (20, '_mib_$', 'MiB', -1e15, 1e15),
        (21, '_(gb|gigabytes)_$', 'GB', -1e15, 1e15), (22, '_gib_$', 'GiB', -1e15, 1e15),
        (23, '_(uptime|seconds?|secs?)_$', 's', 0, 1e15),
        (24, '_(ms|msecs?|millis|milliseconds)_$', 'ms', -1e15, 1e15),
        (25, '_(minutes|mins)_$', 'min', -1e15, 1e15),
        (26, '_hpa_$', 'hPa', -1e9, 1e9), (27, '_kpa_$', 'kPa', -1e9, 1e9), (28, '_mbar_$', 'mbar', -1e9, 1e9),
        (29, '_psi_$', 'psi', -1e9, 1e9), (30, '_(pressure|barometer|barometric)_$', 'hPa', 300, 1200),
        (31, '_(rssi|dbm)_$', 'dBm', -200, 100), (32, '_(snr|db)_$', 'dB', -200, 200),
        (33, '_rpm_$', 'rpm', -1e9, 1e9), (34, '_(lux|lx|illuminance)_$', 'lx', 0, 1e9),
        (35, '_(ppm|co2|eco2)_$', 'ppm', 0, 1e6), (36, '_(ppb|tvoc)_$', 'ppb', 0, 1e9),
        (37, '_khz_$', 'kHz', 0, 1e15), (38, '_mhz_$', 'MHz', 0, 1e15), (39, '_ghz_$', 'GHz', 0, 1e15), (40, '_(hz|hertz)_$', 'Hz', 0, 1e15)
    ) AS u (n, called, unit, lowest, highest)
    WHERE name ~ u.called AND low >= u.lowest AND high <= u.highest ORDER BY u.n LIMIT 1;
    IF unit ~ '^deg' THEN -- the sign is not in every encoding
        BEGIN
            unit := convert_from(decode('c2b0', 'hex'), 'UTF8') || substr(unit, 4);
        EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
            unit := substr(unit, 4);
        END;
    END IF;
    RETURN unit;
END
$$;
COMMENT ON FUNCTION _ml_unit_of(text, text[], float8, float8) IS 'The unit that a number''s name and range suggest; NULL where they do not.';

CREATE OR REPLACE FUNCTION _ml_name_metrics(paths text[]) RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    taken text[] := ARRAY(SELECT m.name FROM ml_metric m) || '{timestamp,is_anomaly,anomaly_score,severity,rarity,reasons}'::text[];
    names text[] := '{}';
    possible jsonb;
    firsts jsonb;
    name text;
    own text[];
BEGIN
    -- The last two parts of each path, or the last three, and so on.
    SELECT jsonb_agg(coalesce(n.names, '[]') ORDER BY p.i) INTO possible
    FROM unnest(paths) WITH ORDINALITY AS p (path, i), LATERAL (SELECT _ml_words_of(p.path) AS words) AS w,
        LATERAL (SELECT jsonb_agg(left(c.name, 63) ORDER BY c.first DESC) AS names
                 FROM (SELECT k AS first, array_to_string(w.words[k:], '_') AS name FROM generate_series(1, greatest(1, cardinality(w.words) - 1)) AS k) AS c
                 WHERE c.name ~ '^[a-z]') AS n;
    SELECT jsonb_object_agg(f.name, f.n) INTO firsts
    FROM (SELECT p.names ->> 0 AS name, count(*) AS n FROM jsonb_array_elements(possible) AS p (names) WHERE p.names <> '[]' GROUP BY 1) AS f;
    FOR i IN 1 .. coalesce(cardinality(paths), 0) LOOP
        own := ARRAY(SELECT jsonb_array_elements_text(possible -> (i - 1)));
        name := (SELECT o.name FROM unnest(own) WITH ORDINALITY AS o (name, n)
                 WHERE o.name <> ALL (taken) AND coalesce((firsts ->> o.name)::int, 0) <= CASE WHEN o.n = 1 THEN 1 ELSE 0 END ORDER BY o.n LIMIT 1);
        IF name IS NULL THEN
            name := coalesce(own[cardinality(own)], 'value');
            name := (SELECT t.name FROM (SELECT n, CASE n WHEN 1 THEN name ELSE left(name, 58) || '_' || n END AS name
                                         FROM generate_series(1, cardinality(taken) + 1) AS n) AS t WHERE t.name <> ALL (taken) ORDER BY t.n LIMIT 1);
        END IF;
        names := names || name;
        taken := taken || name;
    END LOOP;
    RETURN names;
END
$$;
COMMENT ON FUNCTION _ml_name_metrics(text[]) IS 'A name for a metric of each path: its last two parts, or as many as it takes to be the only one.';

CREATE OR REPLACE FUNCTION ml_discover(device uuid DEFAULT NULL, hours int DEFAULT 24, apply boolean DEFAULT false)
RETURNS TABLE (path text, share float8, "least" float8, "greatest" float8, changes float8, kind text, unit text, metric text, statement text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    id text;
    history CONSTANT text := (SELECT s.value FROM ml_setting s WHERE s.name = 'history_table');
    seen record;
    found_rows jsonb;
    paths bigint;
    silent text[];
    forecast text;
    added bigint;
    wanted bigint;
BEGIN
    @PYML_AT_HOME@
    IF hours IS NULL OR hours NOT BETWEEN 1 AND 87840 OR apply IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'an argument is null or out of range',
            DETAIL = format('hours %s (1 to 87840), apply %s (true or false).', hours, apply), HINT = 'SELECT * FROM @extschema@.ml_discover(hours => 24);';
    END IF;
    IF device IS NOT NULL THEN
        id := _ml_known_id(device);
    END IF;
    IF apply THEN
        IF NOT has_table_privilege('@extschema@.ml_metric', 'INSERT') THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('role %I may not add metrics', current_user),
                DETAIL = 'With apply => true, rows are added to ml_metric, with the rights of whoever asks.',
                HINT = format('GRANT INSERT, UPDATE ON @extschema@.ml_metric TO %I; -- or without apply, which only shows them', current_user);
        END IF;
    END IF;
    SELECT * INTO seen FROM _ml_spread_rows(id, now() - make_interval(hours => hours), now());
    IF seen.states IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML001', MESSAGE = concat(coalesce('device ' || id, 'the history'), ' has no readings in the window'),
            DETAIL = format('Looked in %s from %s to %s.', history, now() - make_interval(hours => hours), now())
                || CASE WHEN seen.left_out > 0 THEN format(' %s messages are too large, or no JSON.', seen.left_out) ELSE '' END,
            HINT = 'SELECT * FROM @extschema@.ml_discover(' || format('%shours => %s);', CASE WHEN device IS NOT NULL THEN quote_literal(device) || ', ' END, least(87840, hours::bigint * 30));
    END IF;

    SELECT count(*), jsonb_agg(to_jsonb(f) ORDER BY f.parts, f.share DESC, f.path COLLATE "C") INTO paths, found_rows
    FROM _ml_numbers_in(seen.states, seen.devices, seen.slices) AS f;
    RAISE NOTICE USING MESSAGE = format('looked at %s messages of %s devices', cardinality(seen.states), (SELECT max(d) FROM unnest(seen.devices) AS d))
        || CASE WHEN seen.left_out > 0 THEN format(', left out %s that are too large, or no JSON', seen.left_out) ELSE '' END
        || CASE WHEN paths > 2000 THEN format(', and %s paths beyond 2000', paths - 2000) ELSE '' END;

    SELECT coalesce(jsonb_agg(to_jsonb(r)), '[]') INTO found_rows FROM (
        WITH known AS MATERIALIZED ( -- however a path is written, its parts are the same
            SELECT DISTINCT ON (k.parts) k.parts, k.name FROM (
                SELECT (_ml_parts(m.path))::text AS parts, m.name, m.enabled, 1 AS n FROM ml_metric m
                UNION ALL
                SELECT (_ml_parts(m.divisor_path))::text, m.name, m.enabled, 2 FROM ml_metric m WHERE m.divisor_path IS NOT NULL) AS k
            ORDER BY k.parts, k.n, k.enabled DESC, k.name COLLATE "C"
        ), new AS (
            SELECT f.*, k.name AS metric, w.words,
                   k.name IS NULL AND f.kind IN ('gauge', 'counter') AS takes
            FROM (SELECT e.n, x.* FROM jsonb_array_elements(found_rows) WITH ORDINALITY AS e (value, n),
                      jsonb_to_record(e.value) AS x (path text, share float8, most float8, "least" float8, "greatest" float8, changes float8, kind text) WHERE e.n <= 2000) AS f
            LEFT JOIN known k ON k.parts = (_ml_parts(f.path))::text
            CROSS JOIN LATERAL (SELECT _ml_words_of(f.path) AS words) AS w
        ), named AS (
            SELECT t.path, t.name FROM (SELECT array_agg(n.path ORDER BY n.path COLLATE "C") AS paths FROM new n WHERE n.takes) AS p,
                unnest(p.paths, _ml_name_metrics(p.paths)) AS t (path, name)
        )
        SELECT n.path, n.share, n.most, n."least", n."greatest", n.changes, n.kind, n.metric, n.takes, u.unit, d.name
        FROM new n
        LEFT JOIN named d ON d.path = n.path
        CROSS JOIN LATERAL (SELECT CASE WHEN n.kind <> 'text' THEN _ml_unit_of(n.path, n.words, n."least", n."greatest") END AS plain) AS p
        -- The values of a counter are its rates.
        CROSS JOIN LATERAL (SELECT CASE WHEN n.kind <> 'counter' THEN p.plain WHEN p.plain ~ 'B$' THEN p.plain || '/s' END AS unit) AS u
        ORDER BY n.path COLLATE "C") AS r;

    IF apply THEN
        -- And that no scan has found either.
        silent := ARRAY(SELECT m.name FROM ml_metric m
            WHERE device IS NULL AND m.built_in AND m.enabled
              AND NOT EXISTS (SELECT FROM jsonb_array_elements(found_rows) AS r WHERE r ->> 'kind' <> 'text' AND (_ml_parts(r ->> 'path'))::text = (_ml_parts(m.path))::text)
              AND NOT EXISTS (SELECT FROM ml_signal_state s WHERE m.name = ANY (s.metrics))
              AND EXISTS (SELECT FROM jsonb_array_elements(found_rows) AS r WHERE (r ->> 'takes')::boolean AND (r ->> 'most')::float8 >= 0.01
                          OR r ->> 'kind' <> 'text' AND EXISTS (SELECT FROM ml_metric o WHERE o.name = r ->> 'metric' AND o.enabled))
            ORDER BY m.name COLLATE "C");
        IF silent <> '{}' AND has_table_privilege('@extschema@.ml_metric', 'UPDATE') THEN
            UPDATE ml_metric m SET enabled = false WHERE m.name = ANY (silent);
            RAISE NOTICE USING MESSAGE = format('disabled, since nothing reports them: %s', array_to_string(silent, ', '));
        ELSIF silent <> '{}' THEN
            RAISE NOTICE USING MESSAGE = format('nothing reports %s, and role %I may not disable them', array_to_string(silent, ', '), current_user);
        END IF;
        SELECT count(*) INTO wanted FROM jsonb_array_elements(found_rows) AS r WHERE (r ->> 'takes')::boolean AND (r ->> 'most')::float8 >= 0.01;
        WITH room AS (
            SELECT greatest(0, 200 - count(*)) AS n FROM ml_metric m WHERE m.enabled
        ), inserted AS (
            INSERT INTO ml_metric (name, path, kind, unit)
            SELECT r.name, r.path, r.kind, r.unit FROM jsonb_to_recordset(found_rows) AS r (name text, path text, kind text, unit text, takes boolean, share float8, most float8)
            WHERE r.takes AND r.most >= 0.01 ORDER BY r.share DESC, r.path COLLATE "C" LIMIT (SELECT n FROM room)
            ON CONFLICT DO NOTHING -- somebody else applies just now
            RETURNING ml_metric.name, ml_metric.path
        )
        SELECT jsonb_agg(CASE WHEN i.name IS NULL THEN e.value ELSE jsonb_set(e.value, '{metric}', to_jsonb(i.name)) END ORDER BY e.n), count(i.name)
        INTO found_rows, added FROM jsonb_array_elements(found_rows) WITH ORDINALITY AS e (value, n) LEFT JOIN inserted i ON i.path = e.value ->> 'path';
        -- Forecasts are of the CPU, unless nothing reports it.
        IF 'cpu_usage' = ANY (silent) AND has_table_privilege('@extschema@.ml_setting', 'UPDATE') THEN
            UPDATE ml_setting s SET value = jsonb_build_array(m.name)
            FROM (SELECT o.name FROM ml_metric o WHERE o.enabled ORDER BY o.name COLLATE "C" LIMIT 1) AS m
            WHERE s.name = 'forecast_fields' AND s.value = s.default_value
            RETURNING m.name INTO forecast;
            IF FOUND THEN
                RAISE NOTICE USING MESSAGE = format('forecasts are of %s: it is in the setting forecast_fields now', forecast);
            END IF;
        END IF;
        RAISE NOTICE USING MESSAGE = format('added %s metrics', added)
            || CASE WHEN wanted > added THEN format(', left out %s: a forest takes 200', wanted - added) ELSE '' END;
    END IF;
    RETURN QUERY
    SELECT r.path, r.share, r."least", r."greatest", r.changes, r.kind, r.unit, r.metric,
           CASE WHEN r.takes THEN format('INSERT INTO @extschema@.ml_metric (name, path, kind%s) VALUES (%L, %L, %L%s);', CASE WHEN r.unit IS NOT NULL THEN ', unit' END,
               r.name, r.path, r.kind, ', ' || quote_literal(r.unit)) END
    FROM jsonb_to_recordset(found_rows) AS r (path text, share float8, "least" float8, "greatest" float8, changes float8, kind text, unit text, metric text, takes boolean, name text);
END
$$;
COMMENT ON FUNCTION ml_discover(uuid, int, boolean) IS 'The numbers that the history holds; with apply the sensible ones are taken in as metrics.';
