-- Rules and quiet windows: what people know.

CREATE OR REPLACE FUNCTION _ml_check_said() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    said CONSTANT jsonb := to_jsonb(NEW);
    windows CONSTANT boolean := TG_TABLE_NAME = 'ml_quiet';
    zone text;
    wanted text;
    hint text;
BEGIN
    @PYML_AT_HOME@
    NEW.metric := nullif(NEW.metric, '');
    IF NEW.device_uuid IS NOT NULL AND NOT EXISTS (SELECT FROM ml_device d WHERE d.device_uuid = NEW.device_uuid) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no device %s', NEW.device_uuid),
            DETAIL = 'No scan and no training has met it.',
            HINT = format('SELECT device_id, device_name, device_uuid FROM %I.ml_device ORDER BY device_name;', TG_TABLE_SCHEMA);
    END IF;
    IF NEW.metric IS NOT NULL AND NOT EXISTS (SELECT FROM ml_metric m WHERE m.name = NEW.metric) THEN
        wanted := format('a metric of ml_metric, by its name; there is none called %L', NEW.metric);
        hint := format('SELECT name, path, unit FROM %I.ml_metric ORDER BY name;', TG_TABLE_SCHEMA);
    ELSIF length(NEW.reason) > 4000 THEN
        wanted := format('a reason of at most 4000 characters, not %s', length(NEW.reason));
    ELSIF windows THEN
        SELECT z.name INTO zone FROM pg_timezone_names z WHERE lower(z.name) = lower(said ->> 'zone') ORDER BY z.name <> said ->> 'zone' LIMIT 1;
        IF zone IS NULL THEN
            wanted := format('the name of a time zone; there is none called %L', said ->> 'zone');
            hint := format('SELECT name FROM pg_timezone_names WHERE name ILIKE %L;', '%' || split_part(coalesce(said ->> 'zone', ''), '/', 2) || '%');
        ELSIF NOT coalesce(isfinite((said ->> 'starts_at')::timestamptz) AND isfinite((said ->> 'ends_at')::timestamptz), false) THEN
            wanted := 'a begin and an end';
        ELSIF (said ->> 'starts_at')::timestamptz >= (said ->> 'ends_at')::timestamptz THEN
            wanted := 'an end that comes after the begin';
        ELSIF coalesce(said ->> 'repeat', 'daily') NOT IN ('daily', 'weekly') THEN
            wanted := 'repeat is daily, weekly or NULL';
        ELSIF (said ->> 'ends_at')::timestamptz AT TIME ZONE zone - (said ->> 'starts_at')::timestamptz AT TIME ZONE zone
              >= (CASE said ->> 'repeat' WHEN 'daily' THEN interval '1 day' WHEN 'weekly' THEN interval '7 days' END) THEN
            wanted := format('a window that is over before it comes again, %s', said ->> 'repeat');
        ELSE
            NEW := jsonb_populate_record(NEW, jsonb_build_object('zone', zone));
        END IF;
    ELSIF NOT isfinite((said ->> 'until')::timestamptz) THEN
        wanted := 'until is a moment, or NULL: for ever';
    ELSE
        wanted := _ml_wrong_rule(said);
    END IF;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('a %s cannot be as it is given', CASE WHEN windows THEN 'quiet window' ELSE 'rule' END),
            DETAIL = format('Wanted: %s.', wanted),
            HINT = coalesce(hint, CASE WHEN windows THEN format('INSERT INTO %I.ml_quiet (starts_at, ends_at, reason) VALUES (now(), now() + interval ''2 hours'', ''maintenance'');', TG_TABLE_SCHEMA)
                ELSE format('INSERT INTO %I.ml_rule (metric, direction, reason) VALUES (''disk_usage_percent'', ''up'', ''space that comes free is no trouble'');', TG_TABLE_SCHEMA) END);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_check_said() IS 'Refuses a rule or a quiet window that says nothing that can be followed (ML004), and one of a device that pyml does not know (ML002).';

CREATE OR REPLACE FUNCTION _ml_wrong_rule(said jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT CASE
        WHEN r.mute IS NULL THEN 'mute is true or false'
        WHEN r.mute AND r.words > 0 THEN 'a rule that mutes says nothing else'
        WHEN NOT r.mute AND r.words = 0 THEN 'mute, direction, least_deviation, limit_low or limit_high'
        WHEN r.direction NOT IN ('both', 'up', 'down') THEN 'direction is both, up or down'
        WHEN r.metric IS NULL AND r.words > num_nonnulls(r.direction) THEN 'a metric, whose unit least_deviation and limits are in'
        WHEN NOT r.least_deviation BETWEEN 0 AND 1e15 THEN 'least_deviation is from 0 to 1e15'
        WHEN NOT (abs(r.limit_low) <= 1e15 AND abs(r.limit_high) <= 1e15) THEN 'limits are from -1e15 to 1e15'
        WHEN r.limit_low >= r.limit_high THEN 'limit_low is less than limit_high' END
    FROM (SELECT w.*, num_nonnulls(w.direction, w.least_deviation, w.limit_low, w.limit_high) AS words
          FROM jsonb_to_record(said) AS w (metric text, direction text, least_deviation float8, limit_low float8, limit_high float8, mute boolean)) AS r
$$;
COMMENT ON FUNCTION _ml_wrong_rule(jsonb) IS 'What is wanted of a row of ml_rule that is not as it is given; NULL where nothing is wrong.';

CREATE OR REPLACE TRIGGER ml_rule_check BEFORE INSERT OR UPDATE ON ml_rule
    FOR EACH ROW EXECUTE FUNCTION _ml_check_said();
COMMENT ON TRIGGER ml_rule_check ON ml_rule IS 'Checks each rule (ML002, ML004).';
CREATE OR REPLACE TRIGGER ml_quiet_check BEFORE INSERT OR UPDATE ON ml_quiet
    FOR EACH ROW EXECUTE FUNCTION _ml_check_said();
COMMENT ON TRIGGER ml_quiet_check ON ml_quiet IS 'Checks each window (ML002, ML004), and writes its zone as pg_timezone_names does.';

CREATE OR REPLACE FUNCTION _ml_names_of(metric text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT array_remove(ARRAY[m.name, CASE WHEN m.divisor_path IS NULL AND m.scale = 1 AND m.kind = 'gauge' THEN m.path END], NULL)
    FROM ml_metric m WHERE m.name = $1
$$;
COMMENT ON FUNCTION _ml_names_of(text) IS 'What findings call a metric: its name, and its path where that has the plain value; NULL for NULL.';

CREATE OR REPLACE FUNCTION _ml_rules_of(device uuid) RETURNS TABLE (rule_id bigint, names text[], direction text, least_deviation float8, limit_low float8, limit_high float8, mute boolean, until timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT r.rule_id, _ml_names_of(r.metric), r.direction, r.least_deviation, r.limit_low, r.limit_high, r.mute, r.until
    FROM ml_rule r WHERE r.device_uuid = device OR r.device_uuid IS NULL
    ORDER BY r.device_uuid IS NOT NULL, r.metric IS NOT NULL, r.rule_id
$$;
COMMENT ON FUNCTION _ml_rules_of(uuid) IS 'The rules that are about a device, the broadest first: of several that say a thing of a metric the last decides. names as _ml_names_of has them; NULL: of all metrics.';

CREATE OR REPLACE FUNCTION _ml_quiet_spans(device uuid, since timestamptz, until timestamptz) RETURNS TABLE (quiet_id bigint, names text[], starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    WITH shown AS (
        SELECT q.*, q.starts_at AT TIME ZONE q.zone AS first_at, q.ends_at AT TIME ZONE q.zone AS last_at,
               CASE q.repeat WHEN 'daily' THEN 1 WHEN 'weekly' THEN 7 END AS days
        FROM ml_quiet q WHERE q.device_uuid = device OR q.device_uuid IS NULL
    ), span AS (
        SELECT s.quiet_id, s.metric, s.starts_at, s.ends_at FROM shown s WHERE s.days IS NULL
        UNION ALL
        -- By the clock on the wall. An hour that it shows twice is quiet both times; one that it leaps over is none.
        SELECT s.quiet_id, s.metric, CASE WHEN (w.begin_at - interval '1 hour') AT TIME ZONE s.zone = c.begin_at THEN w.begin_at - interval '1 hour' ELSE w.begin_at END, w.end_at
        FROM shown s
        CROSS JOIN LATERAL generate_series(
            greatest(0, floor(extract(epoch FROM greatest(since, '4000-01-01 BC') AT TIME ZONE s.zone - s.last_at) / 86400 / s.days)::int - 1),
            floor(extract(epoch FROM least(until, '290000-01-01') AT TIME ZONE s.zone - s.first_at) / 86400 / s.days)::int + 1) AS n (turn)
        CROSS JOIN LATERAL (SELECT s.first_at + make_interval(days => n.turn * s.days) AS begin_at, s.last_at + make_interval(days => n.turn * s.days) AS end_at) AS c
        CROSS JOIN LATERAL (SELECT c.begin_at AT TIME ZONE s.zone AS begin_at, c.end_at AT TIME ZONE s.zone AS end_at) AS w
        WHERE s.days IS NOT NULL
    )
    SELECT s.quiet_id, _ml_names_of(s.metric), s.starts_at, s.ends_at
    FROM span s WHERE s.starts_at < s.ends_at AND s.starts_at <= until AND s.ends_at > since ORDER BY s.starts_at, s.quiet_id
$$;
COMMENT ON FUNCTION _ml_quiet_spans(uuid, timestamptz, timestamptz) IS 'The quiet windows of a device that have a part in a span of time, each as often as it comes in it, whole. names as _ml_names_of has them; NULL: of all metrics.';

CREATE OR REPLACE FUNCTION _ml_limits(device uuid) RETURNS TABLE (metric text, limit_low float8, limit_high float8)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    WITH said AS MATERIALIZED (
        SELECT n.* FROM _ml_rules_of(device) WITH ORDINALITY AS n (rule_id, names, direction, least_deviation, limit_low, limit_high, mute, until, place)
        WHERE coalesce(n.until > now(), true))
    SELECT m.name, CASE WHEN NOT r.muted THEN coalesce(r.low, m.limit_low) END, CASE WHEN NOT r.muted THEN coalesce(r.high, m.limit_high) END
    FROM ml_metric m CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(n.mute), false) AS muted,
               (array_agg(n.limit_low ORDER BY n.place DESC) FILTER (WHERE n.limit_low IS NOT NULL))[1] AS low,
               (array_agg(n.limit_high ORDER BY n.place DESC) FILTER (WHERE n.limit_high IS NOT NULL))[1] AS high
        FROM said n WHERE n.names IS NULL OR m.name = ANY (n.names)) AS r
$$;
COMMENT ON FUNCTION _ml_limits(uuid) IS 'The limits of each metric of a device: those of the narrowest rule in force that has one, else of the metric; none where it is muted.';

CREATE OR REPLACE FUNCTION ml_limits(device uuid) RETURNS TABLE (metric text, limit_low float8, limit_high float8)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    RETURN QUERY SELECT l.metric, l.limit_low, l.limit_high FROM _ml_limits(device) AS l;
END
$$;
COMMENT ON FUNCTION ml_limits(uuid) IS 'The limits of each metric of a device: of the narrowest rule that has one, else of the metric.';

CREATE OR REPLACE FUNCTION _ml_limits_of(device uuid, field text, OUT limit_low float8, OUT limit_high float8)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ SELECT l.limit_low, l.limit_high FROM _ml_limits(device) AS l JOIN _ml_metric_of(field) AS k ON k.name = l.metric $$;
COMMENT ON FUNCTION _ml_limits_of(uuid, text) IS 'The limits of a field of a device, which is a metric''s name or its path.';

CREATE OR REPLACE FUNCTION _ml_put_kept(device uuid, findings bigint[], rules bigint[], windows bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND cardinality(findings) <= 100000 AND cardinality(findings) = ALL (ARRAY[cardinality(rules), cardinality(windows)]), 'list of findings');
    UPDATE ml_finding f SET rule_id = k.rule_id, quiet_id = k.quiet_id
    FROM unnest(findings, rules, windows) AS k (finding_id, rule_id, quiet_id)
    WHERE f.device_uuid = device AND f.finding_id = k.finding_id;
END
$$;
COMMENT ON FUNCTION _ml_put_kept(uuid, bigint[], bigint[], bigint[]) IS 'Writes which rule, or which quiet window, keeps each of some findings from being told; NULL where none does.';

CREATE OR REPLACE FUNCTION _ml_doctor_rules() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT 'rules', count(*) FILTER (WHERE r.deaf) = 0,
        CASE WHEN count(*) FILTER (WHERE r.deaf) = 0 THEN format('%s rules in force; none mutes all devices without an end', count(*))
            ELSE format('rule %s mutes everything of all devices without an end: nothing is told', min(r.rule_id) FILTER (WHERE r.deaf)) END,
        'UPDATE @extschema@.ml_rule SET until = now() + interval ''1 day'' WHERE rule_id = ' || min(r.rule_id) FILTER (WHERE r.deaf) || ';'
    FROM (SELECT l.rule_id, l.mute AND num_nonnulls(l.device_uuid, l.metric, l.until) = 0 AS deaf FROM ml_rule l WHERE coalesce(l.until > now(), true)) AS r
$$;
COMMENT ON FUNCTION _ml_doctor_rules() IS 'The doctor''s row on rules: whether one mutes everything for ever.';
