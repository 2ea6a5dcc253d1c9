-- Events, and who is told of them: what scans and people write, and what the notifiers do.
--
-- A notifier has no right on the tables: it reads and writes through these functions.

CREATE OR REPLACE FUNCTION _ml_put_event(incident bigint, device uuid, event text, at timestamptz, replayed boolean) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp SET jit = off -- whose compiling takes longer than the statements
AS $$
DECLARE
    made bigint;
BEGIN
    INSERT INTO ml_event AS e (incident_id, device_uuid, event, happened_at, replayed)
    VALUES (incident, device, event, at, replayed) RETURNING e.event_id INTO made;
    IF replayed THEN
        RETURN;
    END IF;
    INSERT INTO ml_delivery (event_id, target, device_uuid)
    SELECT made, t.target, device FROM ml_target t
    LEFT JOIN ml_incident i ON i.incident_id = incident
    LEFT JOIN ml_device k ON k.device_uuid = device
    WHERE CASE WHEN incident IS NULL THEN t.devices IS NULL
        ELSE (t.severity = 'warning' OR i.severity = 'critical') AND (t.kinds IS NULL OR i.kind = ANY (t.kinds))
            AND (t.devices IS NULL OR EXISTS (
                SELECT FROM unnest(t.devices) AS d (pattern), unnest(ARRAY[device::text, k.device_id, k.device_name]) AS n (name)
                WHERE n.name LIKE replace(replace(replace(replace(d.pattern, '!', '!!'), '%', '!%'), '_', '!_'), '*', '%') ESCAPE '!'))
            -- Who was told of an incident hears what becomes of it, though its kind may change.
            OR EXISTS (SELECT FROM ml_event f JOIN ml_delivery d ON d.event_id = f.event_id WHERE f.incident_id = incident AND d.target = t.target) END
    FOR KEY SHARE OF t; -- a target that is deleted just now is told no more, and no error
    -- Who is told has to find it after a crash.
    PERFORM set_config('synchronous_commit', s.reset_val, true) FROM pg_settings s WHERE s.name = 'synchronous_commit';
    PERFORM pg_notify('pyml', json_build_object('event_id', made)::text);
END
$$;
COMMENT ON FUNCTION _ml_put_event(bigint, uuid, text, timestamptz, boolean) IS 'Writes what happened, with a delivery for each target that is to be told, and wakes the notifiers when the transaction commits; of a replay nobody is told.';

CREATE OR REPLACE FUNCTION _ml_flood_summary(devices bigint, fleet bigint, metric text, kind text, began timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT format('%s of %s devices: %s since %s', devices, fleet, concat_ws(' ', nullif(metric, ''), kind), to_char(began, 'YYYY-MM-DD HH24:MI TZ'))
$$;
COMMENT ON FUNCTION _ml_flood_summary(bigint, bigint, text, text, timestamptz) IS 'The same trouble of many devices in words.';

CREATE OR REPLACE FUNCTION _ml_scan_rhythm(at timestamptz) RETURNS TABLE (last_at timestamptz, every interval)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    WITH scan AS (
        -- Of a single device is no scan of the fleet.
        SELECT least(j.updated_at, at) AS seen_at, j.started_at - lag(j.started_at) OVER (PARTITION BY j.slot ORDER BY j.started_at) AS gap
        FROM ml_job j
        WHERE j.kind = 'scan' AND j.started_at > at - interval '7 days' AND j.started_at <= at
          AND 2 * j.total >= (SELECT count(*) FROM ml_scan_state s WHERE s.retired_at IS NULL)
    ), gaps AS (
        SELECT s.gap, sum(s.gap) OVER (ORDER BY s.gap) AS upto, sum(s.gap) OVER () AS every FROM scan s WHERE s.gap IS NOT NULL
    )
    -- The gap in which half of the time lies: a replay's many calls in a minute weigh that minute.
    SELECT (SELECT max(s.seen_at) FROM scan s), greatest(min(g.gap), interval '1 minute')
    FROM gaps g WHERE g.upto >= g.every / 2 HAVING (SELECT count(*) FROM gaps) >= 3
$$;
COMMENT ON FUNCTION _ml_scan_rhythm(timestamptz) IS 'When the last scan of the fleet before a time was at work, and how far apart scans usually begin; no row where fewer than four scans tell.';

CREATE OR REPLACE FUNCTION _ml_telling(number bigint) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT CASE WHEN e.incident_id IS NULL THEN
        jsonb_build_object('event', e.event, 'event_id', e.event_id, 'happened_at', e.happened_at, 'last_scan_at', r.last_at, 'scan_every', date_part('epoch', r.every))
    ELSE
        jsonb_build_object('event', e.event, 'event_id', e.event_id, 'happened_at', e.happened_at, 'incident_id', e.incident_id,
            'device_uuid', e.device_uuid, 'device_id', coalesce(k.device_id, e.device_uuid::text), 'device_name', coalesce(k.device_name, k.device_id, e.device_uuid::text),
            'kind', i.kind, 'severity', i.severity, 'state', i.state, 'leading_metric', nullif(i.leading_metric, ''),
            'started_at', i.started_at, 'ended_at', i.ended_at, 'acknowledged_at', i.acknowledged_at, 'acknowledged_by', i.acknowledged_by,
            'resolved_at', i.resolved_at, 'resolved_by', i.resolved_by, 'why', i.why, 'part_of', i.evidence -> 'part_of', 'summary', i.summary)
    END
    FROM ml_event e
    LEFT JOIN ml_incident i ON i.incident_id = e.incident_id
    LEFT JOIN ml_device k ON k.device_uuid = e.device_uuid
    LEFT JOIN LATERAL _ml_scan_rhythm(e.happened_at) AS r ON e.incident_id IS NULL
    WHERE e.event_id = number
$$;
COMMENT ON FUNCTION _ml_telling(bigint) IS 'What is told of an event: the incident as it is now, or how scans come.';

CREATE OR REPLACE FUNCTION _ml_put_targets(targets jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    INSERT INTO ml_target AS t (target, severity, kinds, devices)
    SELECT g.target, g.severity, g.kinds, g.devices FROM jsonb_to_recordset(targets) AS g (target text, severity text, kinds text[], devices text[])
    ORDER BY g.target -- two notifiers that start at once take turns
    ON CONFLICT (target) DO UPDATE SET severity = EXCLUDED.severity, kinds = EXCLUDED.kinds, devices = EXCLUDED.devices, seen_at = EXCLUDED.seen_at;
END
$$;
COMMENT ON FUNCTION _ml_put_targets(jsonb) IS 'Makes a notifier''s targets known, with what they are told of, and notes that it is at work.';

CREATE OR REPLACE FUNCTION _ml_many(head bigint, target text) RETURNS TABLE (flood bigint, event_ids bigint[], speaks boolean, message jsonb)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    first ml_event;
    members bigint[];
    alone boolean;
BEGIN
    SELECT * INTO first FROM ml_event e WHERE e.event_id = head;
    IF first.event = 'opened' THEN
        -- The view looks at every incident: only where four more like it began within an hour is there a flood.
        SELECT count(*) < 4 INTO alone FROM (
            SELECT FROM ml_incident i JOIN ml_incident o ON o.kind = i.kind AND o.leading_metric = i.leading_metric AND o.incident_id <> i.incident_id
                AND o.started_at BETWEEN i.started_at - interval '1 hour' AND i.started_at + interval '1 hour'
            WHERE i.incident_id = first.incident_id LIMIT 4) AS near;
        IF alone THEN
            RETURN;
        END IF;
        SELECT max(d.flood), array_agg(e.incident_id), count(DISTINCT e.device_uuid) >= 5 INTO flood, members, speaks
        FROM ml_event e JOIN ml_delivery d ON d.event_id = e.event_id AND d.target = _ml_many.target
        WHERE e.event = 'opened' AND e.incident_id = ANY (
            (SELECT w.incident_ids FROM ml_fleet_incidents w WHERE first.incident_id = ANY (w.incident_ids))::bigint[]);
        flood := coalesce(flood, head);
    ELSE
        SELECT max(d.flood) INTO flood FROM ml_event e JOIN ml_delivery d ON d.event_id = e.event_id AND d.target = _ml_many.target
        WHERE e.incident_id = first.incident_id;
        speaks := flood IS NOT NULL;
    END IF;
    IF speaks IS NOT TRUE THEN
        RETURN;
    END IF;
    members := members || ARRAY(SELECT DISTINCT e.incident_id FROM ml_delivery d JOIN ml_event e ON e.event_id = d.event_id
        WHERE d.flood = _ml_many.flood AND d.target = _ml_many.target);
    event_ids := ARRAY(
        SELECT d.event_id FROM ml_delivery d JOIN ml_event e ON e.event_id = d.event_id
        WHERE d.target = _ml_many.target AND d.next_at IS NOT NULL AND e.event = first.event AND e.incident_id = ANY (members)
          AND NOT EXISTS (SELECT FROM ml_event f JOIN ml_delivery w ON w.event_id = f.event_id AND w.target = d.target
              WHERE f.incident_id = e.incident_id AND f.event_id < e.event_id AND w.next_at IS NOT NULL)
        ORDER BY d.event_id FOR UPDATE OF d SKIP LOCKED);
    -- What opens and escalates is told when the first does; the rest when it holds for all of them.
    speaks := CASE first.event
        WHEN 'acknowledged' THEN NOT EXISTS (SELECT FROM ml_incident i WHERE i.incident_id = ANY (members) AND i.state = 'open')
        WHEN 'resolved' THEN NOT EXISTS (SELECT FROM ml_incident i WHERE i.incident_id = ANY (members) AND i.state <> 'resolved')
        ELSE NOT EXISTS (SELECT FROM ml_delivery d JOIN ml_event e ON e.event_id = d.event_id
            WHERE d.flood = _ml_many.flood AND d.target = _ml_many.target AND e.event = first.event) END;
    SELECT _ml_telling(head) || jsonb_build_object('incident_id', NULL, 'device_uuid', NULL, 'device_id', NULL, 'device_name', NULL,
            'severity', min(i.severity), 'started_at', min(i.started_at), 'ended_at', max(i.ended_at),
            'devices', count(DISTINCT i.device_uuid), 'fleet', f.devices, 'incident_ids', array_agg(DISTINCT i.incident_id),
            'summary', _ml_flood_summary(count(DISTINCT i.device_uuid), f.devices, min(i.leading_metric), min(i.kind), min(i.started_at)))
    INTO message
    FROM ml_incident i, (SELECT count(*) AS devices FROM ml_scan_state s WHERE s.retired_at IS NULL) AS f
    WHERE i.incident_id = ANY (members) GROUP BY f.devices;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_many(bigint, text) IS 'Whether an event that is to be told is part of a flood (the same trouble on many devices, as in ml_fleet_incidents, of which the target is told of five or more): the flood, the events like it that wait too, whether the target is to be told, and what. No row where it is not.';

CREATE OR REPLACE FUNCTION _ml_claim_delivery(target text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp SET jit = off -- whose compiling takes longer than the statements
AS $$
DECLARE
    head record;
    many record;
BEGIN
    @PYML_AT_HOME@
    LOOP
        SELECT d.event_id, e.incident_id INTO head
        FROM ml_delivery d JOIN ml_event e ON e.event_id = d.event_id
        WHERE d.target = _ml_claim_delivery.target AND d.next_at <= clock_timestamp()
          -- Events of one incident are told in order.
          AND NOT EXISTS (SELECT FROM ml_event f JOIN ml_delivery w ON w.event_id = f.event_id AND w.target = d.target
              WHERE (f.incident_id = e.incident_id OR f.incident_id IS NULL AND e.incident_id IS NULL) AND f.event_id < e.event_id AND w.next_at IS NOT NULL)
          -- While a scan goes on, what it opens may turn out to be a flood.
          AND (e.event <> 'opened' OR e.written_at < clock_timestamp() - interval '25 seconds' OR NOT EXISTS (
              SELECT FROM ml_job j WHERE j.kind = 'scan' AND j.finished_at IS NULL AND j.started_at <= e.written_at AND j.updated_at > clock_timestamp() - interval '1 minute'))
        ORDER BY d.next_at, d.event_id LIMIT 1 FOR UPDATE OF d SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN jsonb_build_object('due_in', (SELECT date_part('epoch', min(d.next_at) - clock_timestamp()) FROM ml_delivery d WHERE d.target = _ml_claim_delivery.target AND d.next_at IS NOT NULL));
        ELSIF head.incident_id IS NULL THEN
            EXIT;
        END IF;
        SELECT * INTO many FROM _ml_many(head.event_id, target);
        EXIT WHEN NOT FOUND;
        IF NOT _ml_try_lock('flood', target) THEN -- another notifier is about to tell of it
            RETURN jsonb_build_object('due_in', 1);
        END IF;
        SELECT * INTO many FROM _ml_many(head.event_id, target); -- as things stand with the lock
        EXIT WHEN NOT FOUND;
        IF many.speaks THEN
            RETURN jsonb_build_object('event_ids', many.event_ids, 'flood', many.flood, 'message', many.message);
        END IF;
        PERFORM _ml_confirm(many.event_ids, target, many.flood);
    END LOOP;
    RETURN jsonb_build_object('event_ids', ARRAY[head.event_id], 'message', _ml_telling(head.event_id));
END
$$;
COMMENT ON FUNCTION _ml_claim_delivery(text) IS 'The next message to a target (message) and the events that it tells of (event_ids), which no other notifier gets until the transaction ends; of a flood also its number (flood). Where none is due: in how many seconds the next one is (due_in).';

CREATE OR REPLACE FUNCTION _ml_confirm(event_ids bigint[], target text, flood bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_delivery d SET confirmed_at = clock_timestamp(), next_at = NULL, attempts = d.attempts + 1, error = NULL, flood = _ml_confirm.flood
    WHERE d.event_id = ANY (event_ids) AND d.target = _ml_confirm.target AND d.next_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _ml_confirm(bigint[], text, bigint) IS 'Notes that a target has been told of events.';

CREATE OR REPLACE FUNCTION _ml_postpone(event_ids bigint[], target text, error text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
    UPDATE ml_delivery d SET attempts = d.attempts + 1, error = left(_ml_postpone.error, 1000),
        next_at = CASE WHEN d.waits_since > clock_timestamp() - interval '1 day'
            THEN clock_timestamp() + least(300, 2.0 ^ least(d.attempts + 1, 10)) * (0.8 + 0.4 * random()) * interval '1 second' END
    WHERE d.event_id = ANY (event_ids) AND d.target = _ml_postpone.target AND d.next_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _ml_postpone(bigint[], text, text) IS 'Notes that a target could not be told of events: they are tried again after 2, 4, 8 seconds and so on, at most 5 minutes; after a day they are dead letters.';

CREATE OR REPLACE FUNCTION _ml_watch_scans() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp SET jit = off -- whose compiling takes longer than the statements
AS $$
DECLARE
    stalled_at timestamptz;
    rhythm record;
BEGIN
    @PYML_AT_HOME@
    IF NOT _ml_try_lock('watch', '') THEN
        RETURN;
    END IF;
    SELECT CASE e.event WHEN 'stalled' THEN e.happened_at END INTO stalled_at FROM ml_event e WHERE e.incident_id IS NULL ORDER BY e.event_id DESC LIMIT 1;
    SELECT * INTO rhythm FROM _ml_scan_rhythm(clock_timestamp());
    IF stalled_at IS NULL AND rhythm.last_at + 3 * rhythm.every < clock_timestamp() THEN
        PERFORM _ml_put_event(NULL, NULL, 'stalled', clock_timestamp(), false);
    ELSIF rhythm.last_at > stalled_at THEN
        PERFORM _ml_put_event(NULL, NULL, 'resumed', clock_timestamp(), false);
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_watch_scans() IS 'Writes an event where no scan of the fleet has come for three of their intervals, and where they come again.';

CREATE OR REPLACE FUNCTION ml_resend(target text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    again bigint;
BEGIN
    @PYML_AT_HOME@
    IF target IS NOT NULL AND NOT EXISTS (SELECT FROM ml_target t WHERE t.target = ml_resend.target) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML002', MESSAGE = format('there is no target %L', target),
            DETAIL = format('The targets are %s.', coalesce((SELECT string_agg(t.target, ', ' ORDER BY t.target) FROM ml_target t), 'made known by a notifier, of which none has been here')),
            HINT = 'SELECT target, seen_at FROM @extschema@.ml_target;';
    END IF;
    UPDATE ml_delivery d SET next_at = clock_timestamp(), waits_since = clock_timestamp(), attempts = 0
    WHERE num_nulls(d.next_at, d.confirmed_at) = 2 AND (ml_resend.target IS NULL OR d.target = ml_resend.target);
    GET DIAGNOSTICS again = ROW_COUNT;
    PERFORM pg_notify('pyml', '{}');
    RETURN again;
END
$$;
COMMENT ON FUNCTION ml_resend(text) IS 'Lets the notifiers try dead letters again, of all targets or of one, for another day.';

CREATE OR REPLACE FUNCTION _ml_doctor_deliveries() RETURNS TABLE (check_name text, ok boolean, detail text, fix text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    targets bigint;
    absent text;
    late bigint;
    dead bigint;
BEGIN
    check_name := 'deliveries';
    SELECT count(*), min(t.target) FILTER (WHERE t.seen_at < now() - interval '1 hour') INTO targets, absent FROM ml_target t;
    SELECT count(*) FILTER (WHERE d.next_at IS NULL), count(*) FILTER (WHERE d.waits_since < now() - interval '15 minutes' AND d.next_at IS NOT NULL)
    INTO dead, late FROM ml_delivery d WHERE d.confirmed_at IS NULL;
    ok := dead = 0 AND late = 0 AND absent IS NULL;
    IF dead > 0 THEN
        detail := format('%s dead letters; the last: %s', dead,
            (SELECT concat_ws(': ', d.target, d.error) FROM ml_delivery d WHERE d.confirmed_at IS NULL AND d.next_at IS NULL ORDER BY d.event_id DESC LIMIT 1));
        fix := 'SELECT @extschema@.ml_resend(); -- once the target answers';
    ELSIF absent IS NOT NULL THEN
        detail := format('no notifier has been at work for target %s for an hour', absent);
        fix := format('python3 -m pyml.workers.notify; or, if it is gone, DELETE FROM @extschema@.ml_target WHERE target = %L;', absent);
    ELSIF late > 0 THEN
        detail := format('%s messages have waited for more than 15 minutes', late);
        fix := 'SELECT target, attempts, next_at, error FROM @extschema@.ml_deliveries WHERE state = ''waiting'';';
    ELSE
        detail := CASE targets WHEN 0 THEN 'no target is known: nobody is told of incidents' ELSE format('%s targets, nothing waits for long', targets) END;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION _ml_doctor_deliveries() IS 'The doctor''s row on messages that wait for long or were given up.';
