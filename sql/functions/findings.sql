-- Finders and findings: what a training and a scan write of them, as writes.sql does.

CREATE OR REPLACE FUNCTION _ml_lock_finders(device uuid, kinds text[]) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT _ml_lock_model(device, f.kind, '') FROM (
        SELECT k.kind FROM unnest(kinds) AS k (kind)
        UNION SELECT m.kind FROM ml_model m WHERE m.device_uuid = device AND m.trained_with IS NOT NULL ORDER BY 1) AS f
$$;
COMMENT ON FUNCTION _ml_lock_finders(uuid, text[]) IS 'Makes those who move the is_current marks of a device''s finders, and of more kinds, take turns, until the transaction ends. A forest''s turn comes before.';

CREATE OR REPLACE FUNCTION _ml_put_finders(forest bigint, kinds text[], parameters jsonb[], figures jsonb[], seconds float8[], blobs bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    beside ml_model;
BEGIN
    @PYML_AT_HOME@
    SELECT * INTO beside FROM ml_model m WHERE m.model_id = forest AND m.kind = 'forest' AND m.is_current;
    PERFORM _ml_well_formed(FOUND AND cardinality(kinds) <= 100 AND cardinality(kinds) = ALL (ARRAY[cardinality(parameters), cardinality(figures), cardinality(seconds), cardinality(blobs)])
        AND NOT EXISTS (SELECT FROM unnest(kinds, parameters, figures, seconds, blobs) AS f (kind, parameters, figures, seconds, blob)
            WHERE (f.kind ~ '^[a-z][a-z0-9_]{0,30}$' AND f.kind NOT IN ('forest', 'lstm') AND jsonb_typeof(f.parameters) = 'object' AND jsonb_typeof(f.figures) = 'object'
                AND octet_length(concat(f.parameters, f.figures)) <= 2000000 AND f.seconds BETWEEN 0 AND 1e9 AND octet_length(f.blob) BETWEEN 1 AND 8388608) IS NOT TRUE), 'finder');
    PERFORM _ml_lock_finders(beside.device_uuid, kinds);
    UPDATE ml_model m SET is_current = false
    WHERE m.device_uuid = beside.device_uuid AND m.field = '' AND m.is_current AND (m.trained_with IS NOT NULL OR m.kind = ANY (kinds));
    INSERT INTO ml_model (device_uuid, kind, field, is_current, trained_at, window_start, window_end, readings_used, readings_rejected,
        parameters, figures, versions, seconds, sha256, blob, trained_with)
    SELECT beside.device_uuid, f.kind, '', true, beside.trained_at, beside.window_start, beside.window_end, beside.readings_used, beside.readings_rejected,
        f.parameters, f.figures, beside.versions, f.seconds, encode(sha256(f.blob), 'hex'), f.blob, forest
    FROM unnest(kinds, parameters, figures, seconds, blobs) AS f (kind, parameters, figures, seconds, blob);
END
$$;
COMMENT ON FUNCTION _ml_put_finders(bigint, text[], jsonb[], jsonb[], float8[], bytea[]) IS 'Adds the finders that were trained with a forest, which is in force, and puts them in force in place of those of earlier trainings.';

CREATE OR REPLACE FUNCTION _ml_put_fleet_models(kinds text[], devices int[], blobs bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(cardinality(kinds) <= 100 AND cardinality(kinds) = ALL (ARRAY[cardinality(devices), cardinality(blobs)])
        AND NOT EXISTS (SELECT FROM unnest(kinds, devices, blobs) AS f (kind, devices, blob)
            WHERE (f.kind ~ '^[a-z][a-z0-9_]{0,30}$' AND f.devices > 0 AND octet_length(f.blob) BETWEEN 1 AND 8388608) IS NOT TRUE), 'fleet model');
    DELETE FROM ml_fleet_model m WHERE m.field = '' AND m.kind <> ALL (kinds);
    INSERT INTO ml_fleet_model AS m (kind, devices, sha256, blob)
    SELECT f.kind, f.devices, encode(sha256(f.blob), 'hex'), f.blob FROM unnest(kinds, devices, blobs) AS f (kind, devices, blob)
    ON CONFLICT (kind, field) DO UPDATE SET made_at = EXCLUDED.made_at, devices = EXCLUDED.devices, sha256 = EXCLUDED.sha256, blob = EXCLUDED.blob;
END
$$;
COMMENT ON FUNCTION _ml_put_fleet_models(text[], int[], bytea[]) IS 'Replaces what stands in for the finders of devices that have none of their own.';

CREATE OR REPLACE FUNCTION _ml_put_findings(device uuid, detector text, brief boolean, at float8, gap float8, kinds text[], metrics text[], first_at float8[], last_at float8[], severities text[], scores float8[], rarities float8[], evidence text[], sentences text[], model_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    f record;
    same bigint[];
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND detector ~ '^[a-z][a-z0-9_]{0,30}$' AND brief IS NOT NULL AND at BETWEEN -2e11 AND 9e12 AND gap BETWEEN 0 AND 1e9 AND coalesce(model_id > 0, true)
        AND cardinality(kinds) <= 100000 AND NOT EXISTS (
            SELECT FROM unnest(kinds, metrics, first_at, last_at, severities, scores, rarities, evidence, sentences) AS n (kind, metric, first_at, last_at, severity, score, rarity, evidence, sentence)
            WHERE (n.kind ~ '^[a-z][a-z0-9_]{0,30}$' AND length(n.metric) <= 1000 AND n.first_at BETWEEN -2e11 AND n.last_at AND n.last_at <= 9e12
                AND n.severity IN ('warning', 'critical') AND n.score BETWEEN 0 AND 1e300 AND coalesce(n.rarity BETWEEN 0 AND 1e6, true) AND jsonb_typeof(n.evidence::jsonb) = 'object' AND length(n.sentence) <= 4000) IS NOT TRUE), 'finding');
    FOR f IN
        SELECT n.kind, n.metric, to_timestamp(n.first_at) AS started_at, to_timestamp(n.last_at) AS last_at, n.severity, n.score, n.rarity, n.evidence::jsonb AS evidence, n.sentence
        FROM unnest(kinds, metrics, first_at, last_at, severities, scores, rarities, evidence, sentences) AS n (kind, metric, first_at, last_at, severity, score, rarity, evidence, sentence)
    LOOP
        -- One that overlaps or touches it is the same one; what lay between two of them joins these.
        same := ARRAY(SELECT b.finding_id FROM ml_finding b WHERE b.device_uuid = device AND b.detector = _ml_put_findings.detector
            AND (b.metric = f.metric OR _ml_put_findings.brief) AND b.last_at >= f.started_at - make_interval(secs => gap)
            AND b.started_at <= f.last_at + make_interval(secs => gap) ORDER BY b.finding_id);
        IF same = '{}' THEN
            INSERT INTO ml_finding (device_uuid, detector, brief, kind, metric, started_at, last_at, severity, score, rarity, evidence, sentence, model_id, found_at, updated_at)
            VALUES (device, detector, brief, f.kind, f.metric, f.started_at, f.last_at, f.severity, f.score, f.rarity, f.evidence, f.sentence, model_id, to_timestamp(at), to_timestamp(at));
            CONTINUE;
        END IF;
        UPDATE ml_finding b SET incident_id = (SELECT min(o.incident_id) FROM ml_finding o WHERE o.finding_id = ANY (same))
        WHERE b.finding_id = same[1] AND b.incident_id IS NULL AND cardinality(same) > 1;
        DELETE FROM ml_finding b WHERE b.finding_id = ANY (same[2:]);
        UPDATE ml_finding b SET kind = f.kind, metric = f.metric, started_at = f.started_at, last_at = f.last_at, severity = f.severity, score = f.score,
            rarity = f.rarity, evidence = f.evidence, sentence = f.sentence, model_id = _ml_put_findings.model_id, updated_at = to_timestamp(at)
        WHERE b.finding_id = same[1] AND (b.kind, b.metric, b.started_at, b.last_at, b.severity, b.score, b.rarity, b.evidence, b.sentence)
            IS DISTINCT FROM (f.kind, f.metric, f.started_at, f.last_at, f.severity, f.score, f.rarity, f.evidence, f.sentence);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _ml_put_findings(uuid, text, boolean, float8, float8, text[], text[], float8[], float8[], text[], float8[], float8[], text[], text[], bigint) IS 'Writes a scan''s findings, as of a time (at), each joined by its caller to those that it overlaps or touches (nearer than gap seconds), whose place it takes. Of single readings (brief) it is one whatever metric leads it.';

CREATE OR REPLACE FUNCTION _ml_put_capacity(device uuid, limits jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND jsonb_typeof(limits) = 'array', 'list of limits');
    PERFORM _ml_well_formed(coalesce(bool_and((length(l.metric) BETWEEN 1 AND 63 AND l.side IN ('high', 'low') AND abs(l."limit") <= 1e15
        AND coalesce(abs(l.value), 0) <= 1e300 AND coalesce(abs(l.slope), 0) <= 1e300 AND coalesce(l.earliest, 0) BETWEEN -2e11 AND 9e12 AND coalesce(l.probably, 0) BETWEEN -2e11 AND 9e12
        AND coalesce(l.latest, 0) BETWEEN -2e11 AND 9e12 AND l.days BETWEEN 1 AND 366 AND l.looked_at BETWEEN -2e11 AND 9e12 AND (l.value IS NULL) = (l.why_not IS NOT NULL) AND coalesce(length(l.why_not), 0) <= 1000) IS TRUE), true), 'limit')
    FROM jsonb_to_recordset(limits) AS l (metric text, side text, "limit" float8, value float8, slope float8, earliest float8, probably float8, latest float8, days int, looked_at float8, why_not text);
    DELETE FROM ml_capacity_state s WHERE s.device_uuid = device;
    INSERT INTO ml_capacity_state (device_uuid, metric, side, limit_value, value, slope, earliest, probably, latest, days, looked_at, why_not)
    SELECT device, l.metric, l.side, l."limit", l.value, l.slope, to_timestamp(l.earliest), to_timestamp(l.probably), to_timestamp(l.latest), l.days, to_timestamp(l.looked_at), l.why_not
    FROM jsonb_to_recordset(limits) AS l (metric text, side text, "limit" float8, value float8, slope float8, earliest float8, probably float8, latest float8, days int, looked_at float8, why_not text);
END
$$;
COMMENT ON FUNCTION _ml_put_capacity(uuid, jsonb) IS 'Replaces when a device''s signals reach their limits, as a scan found it.';
