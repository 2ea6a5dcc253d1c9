-- Incidents: what a scan writes of them, and what people say of them.

CREATE OR REPLACE FUNCTION _ml_put_incidents(device uuid, at float8, replayed boolean, changes jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    c record;
    was ml_incident;
    event text;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_well_formed(device IS NOT NULL AND at BETWEEN -2e11 AND 9e12 AND replayed IS NOT NULL AND jsonb_typeof(changes) = 'array', 'list of incidents');
    FOR c IN
        SELECT * FROM jsonb_to_recordset(changes) AS i (incident_id bigint, kind text, state text, why text, severity text, leading_metric text,
            started_at float8, ended_at float8, opened_at float8, resolved_at float8, rarity float8, summary text, evidence jsonb, members bigint[], events text[])
    LOOP
        PERFORM _ml_well_formed(length(c.kind) BETWEEN 1 AND 31 AND c.state IN ('open', 'acknowledged', 'resolved') AND (c.state = 'resolved') = (c.resolved_at IS NOT NULL)
            AND (c.state = 'resolved') = (c.why IS NOT NULL) AND c.severity IN ('warning', 'critical') AND length(c.leading_metric) <= 1000
            AND c.started_at BETWEEN -2e11 AND c.ended_at AND c.ended_at <= 9e12 AND c.opened_at BETWEEN -2e11 AND 9e12 AND coalesce(c.resolved_at, 0) BETWEEN -2e11 AND 9e12
            AND coalesce(c.rarity, 0) BETWEEN 0 AND 1e9 AND length(c.summary) <= 8000 AND jsonb_typeof(c.evidence) = 'object' AND cardinality(c.members) <= 100000
            AND c.events <@ '{opened,escalated,resolved}', 'incident');
        SELECT * INTO was FROM ml_incident b WHERE b.incident_id = c.incident_id AND b.device_uuid = device FOR UPDATE;
        IF was.incident_id IS NULL THEN
            INSERT INTO ml_incident AS b (device_uuid, kind, state, severity, leading_metric, started_at, opened_at, ended_at, resolved_at, why, rarity, summary, evidence, updated_at)
            VALUES (device, c.kind, c.state, c.severity, c.leading_metric, to_timestamp(c.started_at), to_timestamp(c.opened_at), to_timestamp(c.ended_at),
                to_timestamp(c.resolved_at), c.why, c.rarity, c.summary, c.evidence, to_timestamp(at))
            RETURNING b.* INTO was;
        ELSE
            -- What a person said since this scan has looked stands.
            IF was.why = 'a person' THEN
                c.state := was.state; c.why := was.why; c.resolved_at := date_part('epoch', was.resolved_at); c.events := '{}';
            ELSIF c.state = 'open' AND was.state = 'acknowledged' THEN
                c.state := was.state;
            END IF;
            UPDATE ml_incident b SET kind = c.kind, state = c.state, severity = CASE WHEN b.severity = 'critical' THEN b.severity ELSE c.severity END,
                leading_metric = c.leading_metric, started_at = to_timestamp(c.started_at), ended_at = to_timestamp(c.ended_at), resolved_at = to_timestamp(c.resolved_at),
                why = c.why, rarity = c.rarity, summary = c.summary, evidence = c.evidence, updated_at = to_timestamp(at)
            WHERE b.incident_id = was.incident_id;
        END IF;
        UPDATE ml_finding f SET incident_id = NULL WHERE f.incident_id = was.incident_id AND f.finding_id <> ALL (c.members);
        UPDATE ml_finding f SET incident_id = was.incident_id
        WHERE f.device_uuid = device AND f.finding_id = ANY (c.members) AND f.incident_id IS DISTINCT FROM was.incident_id;
        FOREACH event IN ARRAY c.events LOOP
            PERFORM _ml_put_event(was.incident_id, device, event, to_timestamp(at), replayed);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _ml_put_incidents(uuid, float8, boolean, jsonb) IS 'Writes a scan''s incidents, as of a time (at), with the findings that each is made of and what happened to it.';

CREATE OR REPLACE FUNCTION _ml_resolve_retired(devices uuid[]) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    WITH over AS (
        UPDATE ml_incident i SET state = 'resolved', why = 'retired', resolved_at = now(), updated_at = now()
        WHERE i.device_uuid = ANY (devices) AND i.state <> 'resolved' RETURNING i.incident_id, i.device_uuid)
    SELECT _ml_put_event(o.incident_id, o.device_uuid, 'resolved', now(), false) FROM over o ORDER BY o.incident_id
$$;
COMMENT ON FUNCTION _ml_resolve_retired(uuid[]) IS 'Ends the incidents of devices that are retired.';

CREATE OR REPLACE FUNCTION _ml_refuse_incident(incident_id bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no incident %s', coalesce(incident_id::text, 'NULL')),
        DETAIL = 'Either there never was one, or it is older than incident_days.',
        HINT = 'SELECT incident_id, device_name, state, summary FROM @extschema@.ml_incidents ORDER BY incident_id DESC LIMIT 20;';
END
$$;
COMMENT ON FUNCTION _ml_refuse_incident(bigint) IS 'Refuses an incident that there is not (ML002).';

CREATE OR REPLACE FUNCTION _ml_check_note(note text, call text, incident_id bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF length(note) > 4000 THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'note is too long', DETAIL = format('It has %s characters; 4000 are allowed.', length(note)),
            HINT = 'SELECT @extschema@.' || format('%s(%s, ''a short note'');', call, incident_id);
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_check_note(text, text, bigint) IS 'Refuses a note that is too long (ML004).';

CREATE OR REPLACE FUNCTION _ml_say(seen bigint, incident_id bigint, wanted text, note text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    was ml_incident;
    told text;
    changed boolean;
BEGIN
    @PYML_AT_HOME@
    PERFORM _ml_check_note(note, CASE wanted WHEN 'acknowledged' THEN 'ml_acknowledge' ELSE 'ml_resolve' END, incident_id);
    SELECT * INTO was FROM ml_incident i WHERE i.incident_id = seen FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _ml_refuse_incident(incident_id);
    END IF;
    changed := was.state <> 'resolved' AND was.state <> wanted;
    told := CASE was.state
        WHEN 'resolved' THEN concat('it was resolved at ', to_char(was.resolved_at, 'YYYY-MM-DD HH24:MI TZ'), ' (', was.why, ' ' || was.resolved_by, ')')
        WHEN wanted THEN format('%s acknowledged it at %s', was.acknowledged_by, to_char(was.acknowledged_at, 'YYYY-MM-DD HH24:MI TZ')) END;
    IF changed THEN
        UPDATE ml_incident i SET state = wanted, note = coalesce(_ml_say.note, i.note), updated_at = now(),
            acknowledged_at = CASE wanted WHEN 'acknowledged' THEN now() ELSE i.acknowledged_at END,
            acknowledged_by = CASE wanted WHEN 'acknowledged' THEN session_user ELSE i.acknowledged_by END,
            resolved_at = CASE wanted WHEN 'resolved' THEN now() END, why = CASE wanted WHEN 'resolved' THEN 'a person' END,
            resolved_by = CASE wanted WHEN 'resolved' THEN session_user END
        WHERE i.incident_id = seen RETURNING i.* INTO was;
        PERFORM _ml_put_event(seen, was.device_uuid, wanted, now(), false);
    ELSIF note IS NOT NULL THEN
        UPDATE ml_incident i SET note = _ml_say.note, updated_at = now() WHERE i.incident_id = seen RETURNING i.* INTO was;
    END IF;
    RETURN jsonb_build_object('incident_id', seen, 'state', was.state, 'changed', changed, 'note', was.note, 'told', told);
END
$$;
COMMENT ON FUNCTION _ml_say(bigint, bigint, text, text) IS 'What ml_acknowledge and ml_resolve do once their caller has seen the incident.';

CREATE OR REPLACE FUNCTION ml_acknowledge(incident_id bigint, note text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    -- An incident that row-level security hides from the caller is refused like one that does not exist.
    RETURN _ml_say((SELECT i.incident_id FROM ml_incident i WHERE i.incident_id = ml_acknowledge.incident_id), incident_id, 'acknowledged', note);
END
$$;
COMMENT ON FUNCTION ml_acknowledge(bigint, text) IS 'Says that somebody knows of an incident. Unknown incident: ML002.';

CREATE OR REPLACE FUNCTION ml_resolve(incident_id bigint, note text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    RETURN _ml_say((SELECT i.incident_id FROM ml_incident i WHERE i.incident_id = ml_resolve.incident_id), incident_id, 'resolved', note);
END
$$;
COMMENT ON FUNCTION ml_resolve(bigint, text) IS 'Ends an incident: what goes on of it is not told again. Unknown incident: ML002.';

CREATE OR REPLACE FUNCTION _ml_propose(device uuid, incident_id bigint) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].propose(device, incident_id)
$$;
COMMENT ON FUNCTION _ml_propose(uuid, bigint) IS 'The Python side of ml_not_a_fault: the rows that would have kept a device''s incident quiet, and what they say in words.';

CREATE OR REPLACE FUNCTION ml_not_a_fault(incident_id bigint, note text DEFAULT NULL, apply boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    seen record; -- whose type is not looked up before the schema is known to be ours
    best jsonb;
    statement text;
    answer jsonb;
BEGIN
    @PYML_AT_HOME@
    SELECT * INTO seen FROM ml_incident i WHERE i.incident_id = ml_not_a_fault.incident_id;
    IF NOT FOUND THEN
        PERFORM _ml_refuse_incident(incident_id);
    END IF;
    PERFORM _ml_check_note(note, 'ml_not_a_fault', incident_id);
    best := _ml_answer(_ml_propose(seen.device_uuid, incident_id));
    IF best ? 'table' THEN
        SELECT format('INSERT INTO %s.%I (device_uuid, reason, %s) VALUES %s;', '@extschema@', best ->> 'table', min(r.columns),
            string_agg(format('(%L, %L, %s)', seen.device_uuid, coalesce(note, format('incident %s is not a fault', incident_id)), r.cells), ', ' ORDER BY r.place))
        INTO statement
        FROM (SELECT n.place, string_agg(quote_ident(c.key), ', ' ORDER BY c.key) AS columns,
                     string_agg(CASE jsonb_typeof(c.value) WHEN 'string' THEN quote_literal(c.value #>> '{}') WHEN 'null' THEN 'NULL' ELSE c.value::text END, ', ' ORDER BY c.key) AS cells
              FROM jsonb_array_elements(best -> 'rows') WITH ORDINALITY AS n (entry, place), jsonb_each(n.entry) AS c GROUP BY n.place) AS r;
    END IF;
    IF apply THEN
        IF statement IS NOT NULL THEN
            EXECUTE statement;
        END IF;
        answer := _ml_say(seen.incident_id, incident_id, 'resolved', note);
    ELSE
        answer := jsonb_build_object('incident_id', incident_id, 'state', seen.state, 'changed', false, 'note', seen.note, 'told', NULL);
    END IF;
    RETURN answer || jsonb_build_object('statement', statement, 'words', best ->> 'words', 'applied', coalesce(apply, false) AND statement IS NOT NULL);
END
$$;
COMMENT ON FUNCTION ml_not_a_fault(bigint, text, boolean) IS 'The rule that would have kept an incident and its like quiet; with apply it is made.';
