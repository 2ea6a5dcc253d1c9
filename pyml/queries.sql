-- The statements that the module sends: each a name, what it is for, and its parameters' types.
-- Tables of the extension need no schema here: each function pins search_path to it. What varies
-- with the history's table, columns and paths is put together in queries.py.
-- @name@ stands for the part of that name.

-- part: context
-- What every call needs, in one row: the settings, the metrics that a model may read, the history
-- as pieces of SQL, those of its columns that it lacks, and what is wrong with the others.
(SELECT s.settings::text,
        (SELECT json_agg(json_build_array(name, path, divisor_path, scale, kind))::text
         FROM ml_metric) AS metrics,
        t.absent, t.fault, to_jsonb(t)::text AS history
 FROM (SELECT jsonb_object_agg(name, value) AS settings FROM ml_setting) AS s
 CROSS JOIN _ml_history_parts() AS t) AS c

-- part: figures
-- Of a model's figures what a forecast's document has.
jsonb_build_object('mae', m.figures -> 'mae', 'mase', m.figures -> 'mase',
    'beats_naive', m.figures -> 'beats_naive', 'coverage', m.figures -> 'coverage')::text

-- part: model
-- What a call needs of a model.
m.model_id, m.sha256, date_part('epoch', m.trained_at) AS trained_at, m.readings_used,
    @figures@ AS figures, date_part('epoch', now()) AS now

-- part: forecast_fields
ARRAY(SELECT jsonb_array_elements_text(f.value::jsonb) FROM ml_setting f WHERE f.name = 'forecast_fields')

-- part: rules
-- The rules that are about a device, the broadest first.
(SELECT json_agg(json_build_object('rule_id', r.rule_id, 'names', r.names, 'direction', r.direction,
     'least', r.least_deviation, 'mute', r.mute, 'until', date_part('epoch', r.until)))::text
 FROM _ml_rules_of($1) AS r)

-- part: false_alarms
coalesce(_ml_device_settings($1) ->> 'false_alarms_per_week',
         (SELECT t.value FROM ml_setting t WHERE t.name = 'false_alarms_per_week'))::float8

-- part: fleets
(n.device_uuid = _ml_whole_fleet()
    AND (SELECT g.value::int FROM ml_setting g WHERE g.name = 'fleet_training_seconds') > 0)

-- query: context()
-- The context of a call that needs no model.
SELECT c.* FROM @context@

-- query: metrics()
-- In the order of "C", whatever the database's collation: models are compared by it.
SELECT name, path, divisor_path, scale, kind, enabled, lower_bound AS lower, upper_bound AS upper,
    direction, least_deviation
FROM ml_metric ORDER BY name COLLATE "C"

-- query: unit(text)
-- The unit of a field, which is a metric's name or its path.
SELECT unit FROM _ml_metric_of($1)

-- query: units(text[])
-- The units of metrics that have one.
SELECT name, unit FROM ml_metric WHERE name = ANY ($1) AND unit IS NOT NULL
ORDER BY name COLLATE "C"

-- query: current_model(uuid, text, text)
-- The context, and the model in force of a device, kind and field.
SELECT c.*, @model@
FROM @context@
LEFT JOIN ml_model m ON m.device_uuid = $1 AND m.kind = $2 AND m.field = $3 AND m.is_current

-- query: forecast_model(uuid, text, text)
-- The same of a forecast; the fleet's, where the device has none of its own.
SELECT c.*, @model@, m.device_uuid <> $1 AS fleets
FROM @context@
LEFT JOIN LATERAL (
    SELECT n.* FROM ml_model n WHERE n.kind = $2 AND n.field = $3 AND n.is_current
        AND (n.device_uuid = $1 OR @fleets@)
    ORDER BY n.device_uuid <> $1 LIMIT 1) AS m ON true

-- query: any_model(uuid, text, text)
-- The same where no field is named: of the usual field (by its path, or by its metric's name), or
-- else of one that has a model, enabled metrics first; of a field that the device has one of, if any.
SELECT c.*, m.field, @model@, m.device_uuid <> $1 AS fleets
FROM @context@
LEFT JOIN LATERAL (
    SELECT n.* FROM ml_model n WHERE n.kind = $2 AND n.is_current AND (n.device_uuid = $1 OR @fleets@)
    ORDER BY n.device_uuid <> $1, n.field = $3 DESC,
        EXISTS (SELECT FROM ml_metric k WHERE k.name = n.field AND k.path = $3
            AND k.divisor_path IS NULL AND k.scale = 1 AND k.kind = 'gauge') DESC,
        EXISTS (SELECT FROM ml_metric k WHERE k.name = n.field AND k.enabled) DESC,
        n.field COLLATE "C" LIMIT 1) AS m ON true

-- query: device_id(uuid)
-- The id by which the history knows a device; NULL where it knows none.
SELECT _ml_device_id($1) AS id

-- query: which_devices()
-- The statement for a person to type who has named a device that there is not.
SELECT _ml_which_devices() AS hint

-- query: met(uuid)
-- Whether a scan or a training has met a device.
SELECT EXISTS (SELECT FROM ml_device d WHERE d.device_uuid = $1) AS met

-- query: device_settings(uuid)
-- What is said of a device in place of settings.
SELECT _ml_device_settings($1)::text AS settings

-- query: meet(uuid)
-- Sees to it that ml_device has the device.
SELECT _ml_meet(ARRAY[$1])

-- query: blob(bigint)
-- A model's bytes, and their digest.
SELECT blob, encode(sha256(blob), 'hex') AS sha256 FROM ml_model WHERE model_id = $1

-- query: fleet_finders()
-- The finders in force of some devices of the fleet, always the same; 16 MB at most.
SELECT f.kind, f.model_id, f.sha256 FROM (
    SELECT m.kind, m.model_id, m.sha256, sum(octet_length(m.blob)) OVER (ORDER BY d.place, m.kind COLLATE "C") AS bytes
    FROM (SELECT DISTINCT ON (place) o.device_uuid, md5(o.device_uuid::text) COLLATE "C" AS place FROM ml_model o
          WHERE o.is_current AND o.trained_with IS NOT NULL AND NOT EXISTS (
              SELECT FROM ml_scan_state s WHERE s.device_uuid = o.device_uuid AND s.retired_at IS NOT NULL)
          ORDER BY place LIMIT 200) AS d
    JOIN ml_model m ON m.device_uuid = d.device_uuid AND m.is_current AND m.trained_with IS NOT NULL) AS f
WHERE f.bytes <= 16777216 ORDER BY f.bytes

-- query: fleet_sample()
-- Some devices of the fleet, always the same.
SELECT d.device_uuid::text AS device FROM ml_device d
WHERE NOT EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = d.device_uuid AND s.retired_at IS NOT NULL)
ORDER BY md5(d.device_uuid::text) COLLATE "C" LIMIT 200

-- query: fleet_model(text, text)
-- The forecast model of the fleet for a kind and a field, where one is in force.
SELECT c.*, @model@
FROM @context@
JOIN ml_model m ON m.kind = $1 AND m.field = $2 AND m.is_current
CROSS JOIN LATERAL (SELECT m.device_uuid) AS n WHERE @fleets@

-- query: pool()
-- Makes of the models in force what holds for the whole fleet.
SELECT _ml_pool()

-- query: put_fleet_models(text[], int[], bytea[])
-- Replaces what stands in for the finders of devices that have none of their own.
SELECT _ml_put_fleet_models($1, $2, $3)

-- query: fleet_models()
-- What stands in for the finders of devices that have none of their own.
SELECT kind, sha256, date_part('epoch', made_at) AS made_at FROM ml_fleet_model
WHERE field = '' ORDER BY kind COLLATE "C"

-- query: fleet_blob(text)
-- The bytes of one of these, and their digest.
SELECT blob, encode(sha256(blob), 'hex') AS sha256 FROM ml_fleet_model WHERE kind = $1 AND field = ''

-- query: lock_model(uuid, text, text)
-- Waits for whoever moves the is_current mark.
SELECT _ml_lock_model($1, $2, $3)

-- query: put_model(uuid, text, text, float8, float8, int, int, jsonb, jsonb, jsonb, float8, bytea)
-- Adds a model and puts it in force.
SELECT _ml_put_model($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS model_id

-- query: put_finders(bigint, text[], jsonb[], jsonb[], float8[], bytea[])
-- Adds the finders of a forest's training, and puts them in force.
SELECT _ml_put_finders($1, $2, $3, $4, $5, $6)

-- query: put_run(uuid, text, text, float8, text, bigint, jsonb, text, text)
-- Records a training of which no model came.
SELECT _ml_put_run($1, $2, $3, $4, $5, $6, $7, $8, $9) AS outcome

-- query: epochs(text, text)
-- Two moments as seconds since the epoch.
SELECT date_part('epoch', $1::timestamptz) AS since, date_part('epoch', $2::timestamptz) AS until

-- query: pulse()
-- Nothing but a moment at which a cancel or a timeout is heard.
SELECT true AS going_on

-- query: encoding()
-- The database's encoding.
SELECT getdatabaseencoding() AS encoding

-- query: session()
-- The moment, and the zone in which a picture's axis is labelled.
SELECT date_part('epoch', now()) AS until, current_setting('TimeZone') AS zone

-- query: notice(text)
-- Sends the client a NOTICE.
SELECT _ml_notice($1)

-- query: progress(text)
-- What a poll shows to other sessions, in pg_stat_activity; put back when the call ends.
SELECT set_config('application_name', $1, true)

-- query: at_home()
-- Begins a training outside the server: names are found as the extension's functions find them. The
-- claim goes with the connection: where a machine vanishes without a word, the server finds out
-- within a minute.
SELECT e.extversion AS version,
       set_config('search_path', format('pg_catalog, %I, pg_temp', n.nspname), true),
       set_config('tcp_keepalives_idle', '30', true),
       set_config('tcp_keepalives_interval', '10', true),
       set_config('tcp_keepalives_count', '3', true),
       set_config('idle_in_transaction_session_timeout', '1h', true)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pyml'

-- query: unmoved()
-- The inner functions that a worker calls look things up where the extension was created.
SELECT _ml_at_home()

-- query: read_only()
-- For a connection that reads the history alone.
SELECT set_config('search_path', 'pg_catalog, pg_temp', true)

-- query: due()
-- The models of the fleet that are due for training, in that order.
SELECT d.device_uuid::text AS device, d.kind, d.field
FROM _ml_due(ARRAY(SELECT _ml_fleet()) || _ml_whole_fleet()) WITH ORDINALITY AS d (device_uuid, kind, field, reason, since, place)
ORDER BY d.place

-- query: given(uuid, text, text)
-- The arguments that a person gave to the training of the model in force.
SELECT _ml_given((SELECT m.parameters FROM ml_model m WHERE m.device_uuid = $1
                  AND m.kind = $2 AND m.field = $3 AND m.is_current),
                 (SELECT k.settings FROM _ml_kinds() AS k WHERE k.kind = $2))::text AS given

-- query: claim(uuid, text, text)
-- Takes a training, where nobody else has it.
SELECT _ml_claim($1, $2, $3) AS claimed

-- query: store_model(uuid, text, text, bytea, jsonb, bigint)
-- Hands in a model that was trained elsewhere.
SELECT (a.answer ->> 'accepted')::boolean AS accepted, (a.answer ->> 'model_id')::bigint AS model_id
FROM (SELECT ml_store_model($1, $2, $3, $4, $5, $6) AS answer) AS a

-- query: prune(uuid, text, text)
-- Drops the oldest models beyond those that are kept.
SELECT _ml_prune($1, $2, $3)

-- query: scan_state(uuid, timestamptz)
-- The context, how far a device's last scan came, and its current models. A field that nobody has
-- configured is read by no one but who asks for it by name.
SELECT c.*, date_part('epoch', coalesce($2, now())) AS until, s.outcome,
       date_part('epoch', now()) AS now,
       date_part('epoch', s.watermark) AS watermark, s.late_rows,
       (SELECT json_build_object('metrics', g.metrics, 'value', g.last_value,
            'at', ARRAY(SELECT date_part('epoch', t) FROM unnest(g.last_at) WITH ORDINALITY AS u (t, place) ORDER BY place),
            'quality', g.quality,
            'since', ARRAY(SELECT date_part('epoch', t) FROM unnest(g.since) WITH ORDINALITY AS u (t, place) ORDER BY place),
            'hours', g.hours)::text
        FROM ml_signal_state g WHERE g.device_uuid = $1) AS signals,
       s.hour_rows, date_part('epoch', s.counted_to) AS counted_to,
       date_part('epoch', s.counted_at) AS counted_at, l.late_id,
       date_part('epoch', s.silent_from) AS silent_from,
       @false_alarms@ AS false_alarms,
       EXISTS (SELECT FROM ml_incident i WHERE i.device_uuid = $1 AND i.state <> 'resolved') AS troubled,
       @rules@ AS rules,
       date_part('epoch', l.first_at) AS late_first, date_part('epoch', l.last_at) AS late_last,
       (SELECT coalesce(json_agg(json_build_object('kind', m.kind, 'field', m.field,
                   'model_id', m.model_id, 'sha256', m.sha256,
                   'trained_at', date_part('epoch', m.trained_at),
                   'readings_used', m.readings_used, 'figures', @figures@,
                   'fleets', m.device_uuid <> $1)
                   ORDER BY m.field COLLATE "C", m.kind COLLATE "C"), '[]')::text
        FROM ml_model m CROSS JOIN LATERAL (SELECT m.device_uuid) AS n
        WHERE m.is_current AND (@fleets@ AND m.field <> ''
            AND m.field = ANY (coalesce((SELECT o.fields FROM ml_device_forecast o WHERE o.device_uuid = $1), @forecast_fields@))
            AND NOT EXISTS (SELECT FROM ml_model n WHERE n.device_uuid = $1 AND n.kind = m.kind AND n.field = m.field AND n.is_current)
          OR m.device_uuid = $1 AND (m.field = ''
            OR m.field = ANY (@forecast_fields@)
            OR m.field IN (SELECT unnest(o.fields) FROM ml_device_forecast o
                           WHERE o.device_uuid = $1)
            OR EXISTS (SELECT FROM ml_metric k
                       WHERE m.field IN (k.name, k.path, k.divisor_path))))) AS models
FROM @context@
LEFT JOIN ml_scan_state s ON s.device_uuid = $1
CROSS JOIN (SELECT max(n.late_id) AS late_id, min(n.first_at) AS first_at, max(n.last_at) AS last_at
            FROM ml_late n WHERE n.device_uuid = $1) AS l

-- query: put_capacity(uuid, jsonb)
-- Replaces when a device's signals reach their limits.
SELECT _ml_put_capacity($1, $2)

-- query: limits(uuid)
-- The limits of a device's metrics, and when each was looked at last. A row without a metric is one
-- that was looked at and is no limit any more.
SELECT e.metric, e.side, e.reached AS limit, e.unit, date_part('epoch', t.looked_at) AS looked_at
FROM (SELECT m.name AS metric, s.side, s.reached, m.unit
      FROM _ml_limits($1) AS l JOIN ml_metric m ON m.name = l.metric
      CROSS JOIN LATERAL (VALUES ('high', l.limit_high), ('low', l.limit_low)) AS s (side, reached)
      WHERE s.reached IS NOT NULL) AS e
FULL JOIN (SELECT c.* FROM ml_capacity_state c WHERE c.device_uuid = $1) AS t
    ON t.metric = e.metric AND t.side = e.side AND t.limit_value = e.reached
ORDER BY e.metric COLLATE "C", e.side

-- query: scan_unchanged(uuid)
-- Records a scan that found nothing new.
SELECT _ml_note_scan($1, 'unchanged', NULL, NULL)

-- query: scan_done(uuid, text, text, float8, int, int, int, bigint[], float8, bigint, int[], float8, float8, float8, float8)
-- Records a scan, and how far it came.
SELECT _ml_put_scan($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- query: put_counts(uuid, int[], float8, float8, float8)
-- Records how many rows a device has in each hour, and when those came that were not there; gives
-- the number of that note.
SELECT _ml_put_counts($1, $2, $3, $4, $5) AS late_id

-- query: put_signals(uuid, text[], float8[], float8[], float8[], text[], float8[], int[], int[], int[], int[], int[], int, jsonb)
-- Records how a device's signals are measured.
SELECT _ml_put_signals($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- query: put_anomalies(uuid, text, boolean, float8[], float8[], text[], text[], text[], bigint[], float8[])
-- Adds to the log of anomalies; gives the times of those that are new.
SELECT t FROM _ml_put_anomalies($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS t

-- query: incidents(uuid, float8)
-- A device's incidents that are not resolved, and those that were still seen after a time.
SELECT i.incident_id, i.kind, i.state, i.why, i.severity, i.leading_metric,
       date_part('epoch', i.started_at) AS started_at, date_part('epoch', i.ended_at) AS ended_at,
       date_part('epoch', i.opened_at) AS opened_at, date_part('epoch', i.resolved_at) AS resolved_at,
       i.rarity, i.summary, i.evidence::text AS evidence,
       ARRAY(SELECT f.finding_id FROM ml_finding f WHERE f.incident_id = i.incident_id ORDER BY f.finding_id) AS members
FROM ml_incident i
WHERE i.device_uuid = $1 AND (i.state <> 'resolved' OR i.ended_at >= to_timestamp($2) AND i.why <> 'joined')
ORDER BY i.incident_id

-- query: incident_findings(uuid, float8, bigint[])
-- A device's findings that were still seen after a time, and those of some incidents.
SELECT f.finding_id, f.incident_id, f.detector, f.kind, f.metric, f.brief,
       date_part('epoch', f.started_at) AS started_at, date_part('epoch', f.last_at) AS last_at,
       f.severity, f.score, f.rarity, f.evidence::text AS evidence, f.sentence, f.rule_id, f.quiet_id
FROM ml_finding f WHERE f.device_uuid = $1 AND (f.last_at >= to_timestamp($2) OR f.incident_id = ANY ($3))

-- query: incident(uuid, bigint)
-- An incident of a device, what people say of that, and the moment and the zone of the session.
SELECT i.incident_id, date_part('epoch', i.started_at) AS started_at, @rules@ AS rules,
       @false_alarms@ AS false_alarms, date_part('epoch', now()) AS now,
       current_setting('TimeZone') AS zone
FROM ml_incident i WHERE i.device_uuid = $1 AND i.incident_id = $2

-- query: scanned_from(uuid)
-- From when on a device has been scanned.
SELECT date_part('epoch', s.scanned_from) AS scanned_from FROM ml_scan_state s WHERE s.device_uuid = $1

-- query: incident_spans(uuid, float8, float8)
-- A device's incidents in a window, in words.
SELECT date_part('epoch', i.started_at) AS started_at, date_part('epoch', i.ended_at) AS ended_at,
       i.severity, i.summary
FROM ml_incident i WHERE i.device_uuid = $1 AND i.why IS DISTINCT FROM 'joined'
AND i.ended_at >= to_timestamp($2) AND i.started_at <= to_timestamp($3) ORDER BY i.started_at

-- query: quiet_spans(uuid, float8, float8)
-- The quiet windows of a device that have a part in a span of time, in order.
SELECT q.quiet_id, q.names, date_part('epoch', q.starts_at) AS since,
       date_part('epoch', q.ends_at) AS until
FROM _ml_quiet_spans($1, to_timestamp($2), to_timestamp($3)) AS q

-- query: put_kept(uuid, bigint[], bigint[], bigint[])
-- Writes which rule, or which window, keeps each of some findings from being told.
SELECT _ml_put_kept($1, $2, $3, $4)

-- query: put_incidents(uuid, float8, boolean, jsonb)
-- Writes incidents that have changed, and what happened to them.
SELECT _ml_put_incidents($1, $2, $3, $4)

-- query: findings(uuid, text, float8)
-- What a detector has found of a device that was still seen after a time.
SELECT f.kind, f.metric, date_part('epoch', f.started_at) AS started_at,
       date_part('epoch', f.last_at) AS last_at, f.severity, f.score, f.rarity,
       f.evidence::text AS evidence, f.sentence
FROM ml_finding f WHERE f.device_uuid = $1 AND f.detector = $2 AND f.last_at >= to_timestamp($3)
ORDER BY f.started_at, f.finding_id

-- query: put_findings(uuid, text, boolean, float8, float8, text[], text[], float8[], float8[], text[], float8[], float8[], text[], text[], bigint)
-- Writes findings, each joined to those that it touches.
SELECT _ml_put_findings($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- query: points(uuid, text, text, float8, float8)
-- What a forecaster has said of a field in a window.
SELECT date_part('epoch', p.timestamp) AS t, p.predicted, p.lower, p.upper, p.model_id
FROM ml_forecast_point p WHERE p.device_uuid = $1 AND p.kind = $2 AND p.field = $3
AND p.timestamp > to_timestamp($4) AND p.timestamp <= to_timestamp($5) ORDER BY p.timestamp

-- query: put_forecast(uuid, text, text, float8, bigint, float8, float8[], float8[], float8[], float8[])
-- Replaces what a forecaster said of a field after the device's last reading.
SELECT _ml_put_forecast($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- query: rarity(text, bigint)
-- How often a detector's scores come: of all devices together, and in the training of one model.
SELECT r.devices, r.hours, r.heights, r.counts,
    jsonb_build_object('ordinary_hours', m.figures -> 'ordinary_hours', 'peaks', m.figures -> 'peaks')::text AS own
FROM (VALUES ($1)) AS asked (detector)
LEFT JOIN ml_rarity r ON r.detector = asked.detector
LEFT JOIN ml_model m ON m.model_id = $2

-- query: put_targets(jsonb)
-- Makes a notifier's targets known, with what they are told of.
SELECT _ml_put_targets($1)

-- query: claim_delivery(text)
-- The next message to a target, which no other notifier gets until the transaction ends.
SELECT _ml_claim_delivery($1)::text AS claimed

-- query: confirm_delivery(bigint[], text, bigint)
-- A target has been told of events, alone or as a flood.
SELECT _ml_confirm($1, $2, $3)

-- query: postpone_delivery(bigint[], text, text)
-- A target could not be told of events.
SELECT _ml_postpone($1, $2, $3)

-- query: watch_scans()
-- Whether scans come, to be told where they do not.
SELECT _ml_watch_scans()

-- query: listen()
-- Hears of events from now on.
LISTEN pyml
