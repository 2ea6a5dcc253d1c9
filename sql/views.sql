-- Every view and its COMMENT. Re-runnable: replaced whole at each upgrade.
--
-- Plain reads: no model runs behind a view, and a condition on the device or the
-- time reaches an index of the table below. They read as whoever asks, so that row-level
-- security on the tables holds for them too.

CREATE OR REPLACE VIEW ml_models WITH (security_invoker = true) AS
SELECT m.model_id, m.device_uuid, m.kind, nullif(m.field, '') AS field, m.is_current, m.trained_at,
       m.window_start, m.window_end, m.readings_used, m.readings_rejected, m.parameters, m.figures,
       m.versions, m.seconds, octet_length(m.blob) AS bytes,
       refused.started_at AS refused_at,
       CASE refused.outcome WHEN 'kept' THEN format('held-out error %s, of the model in force %s',
            coalesce(refused.figures ->> 'candidate_mae', refused.figures ->> 'mae'), coalesce(refused.figures ->> 'previous_mae', refused.figures ->> 'fleet_mae'))
            ELSE refused.error END AS refused_why,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = m.device_uuid), m.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = m.device_uuid),
           CASE WHEN m.device_uuid = _ml_whole_fleet() THEN 'the fleet' ELSE m.device_uuid::text END) AS device_name,
       CASE WHEN m.device_uuid = _ml_whole_fleet() THEN 'fleet' ELSE 'device' END AS scope,
       CASE WHEN jsonb_typeof(m.figures -> 'mae') = 'number' AND jsonb_typeof(m.figures -> 'fleet_mae') = 'number'
            THEN (m.figures ->> 'mae')::float8 / nullif((m.figures ->> 'fleet_mae')::float8, 0) END AS error_by_fleets
FROM ml_model m
LEFT JOIN LATERAL (
    SELECT r.started_at, r.outcome, r.error, r.figures FROM ml_run r
    WHERE r.device_uuid = m.device_uuid AND r.kind = m.kind AND r.field = m.field
      AND r.started_at > m.trained_at AND r.outcome <> 'trained'
    ORDER BY r.started_at DESC LIMIT 1) AS refused ON m.is_current;
COMMENT ON VIEW ml_models IS 'Each stored model without its blob: what it was trained on, what was measured, whether it is in force, and the last attempt to replace it that came to nothing, with the reason.';
COMMENT ON COLUMN ml_models.model_id IS 'The model''s number.';
COMMENT ON COLUMN ml_models.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_models.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_models.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_models.scope IS 'device, or fleet: trained on many devices, and in force for those that have no model of their own of the field.';
COMMENT ON COLUMN ml_models.error_by_fleets IS 'Error of a device''s own forecast on what was held out of its training, divided by that of the fleet''s model there: less than 1, or it would not be in force. NULL where the fleet had none.';
COMMENT ON COLUMN ml_models.kind IS 'forest (Isolation Forest), lstm (a forecast), or a finder that was trained with the forest: level, stuck, presence, junk.';
COMMENT ON COLUMN ml_models.field IS 'The forecast field; NULL for a forest.';
COMMENT ON COLUMN ml_models.is_current IS 'Whether it is the model in force.';
COMMENT ON COLUMN ml_models.trained_at IS 'When it was stored.';
COMMENT ON COLUMN ml_models.window_start IS 'Time of the first reading trained on.';
COMMENT ON COLUMN ml_models.window_end IS 'Time of the last reading trained on.';
COMMENT ON COLUMN ml_models.readings_used IS 'Readings trained on.';
COMMENT ON COLUMN ml_models.readings_rejected IS 'Rows of the window without one usable number.';
COMMENT ON COLUMN ml_models.parameters IS 'Settings, metrics and seed of the training.';
COMMENT ON COLUMN ml_models.figures IS 'What was measured on data held out from the fit.';
COMMENT ON COLUMN ml_models.versions IS 'Versions of the libraries that trained it.';
COMMENT ON COLUMN ml_models.seconds IS 'How long the training took.';
COMMENT ON COLUMN ml_models.bytes IS 'Size of the stored model.';
COMMENT ON COLUMN ml_models.refused_at IS 'When the last attempt to replace it began, if that came to nothing.';
COMMENT ON COLUMN ml_models.refused_why IS 'Why it came to nothing.';

-- Ordered as the index has them, so that for the latest few no others are read.
CREATE OR REPLACE VIEW ml_anomalies WITH (security_invoker = true) AS
SELECT a.device_uuid, a."timestamp", array_agg(a.tier ORDER BY a.tier) AS tiers,
       CASE WHEN bool_or(a.severity = 'critical') THEN 'critical' ELSE 'warning' END AS severity,
       min(a.score) FILTER (WHERE NOT a.foretold) AS anomaly_score,
       min(a.score) FILTER (WHERE a.foretold) AS forecast_score,
       coalesce((array_agg(a.metrics) FILTER (WHERE a.foretold))[1], '{}')
           || coalesce((array_agg(a.metrics) FILTER (WHERE NOT a.foretold))[1], '{}') AS metrics,
       coalesce((array_agg(a.reasons) FILTER (WHERE NOT a.foretold))[1], '[]')
           || coalesce((array_agg(a.reasons) FILTER (WHERE a.foretold))[1], '[]') AS reasons,
       (SELECT min(i.started_at) FROM ml_incident i WHERE i.device_uuid = a.device_uuid AND i.ended_at >= a."timestamp" AND i.started_at <= a."timestamp") AS incident_at,
       min(a.detected_at) AS detected_at,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = a.device_uuid), a.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = a.device_uuid), a.device_uuid::text) AS device_name,
       max(a.rarity) AS rarity
FROM ml_anomaly a
GROUP BY a."timestamp", a.device_uuid
ORDER BY a."timestamp" DESC, a.device_uuid;
COMMENT ON VIEW ml_anomalies IS 'The log of anomalies, one row a device and time, whichever tiers spoke. anomaly_score is the forest''s (lower is more anomalous); forecast_score minus the distance from the forecast in half widths of its interval.';
COMMENT ON COLUMN ml_anomalies.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_anomalies.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_anomalies.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_anomalies."timestamp" IS 'Time of the reading.';
COMMENT ON COLUMN ml_anomalies.tiers IS 'Who spoke: forest, lstm or both.';
COMMENT ON COLUMN ml_anomalies.severity IS 'The worse of what they said: warning or critical.';
COMMENT ON COLUMN ml_anomalies.anomaly_score IS 'The forest''s score, lower is more anomalous; NULL where it did not speak.';
COMMENT ON COLUMN ml_anomalies.forecast_score IS 'Minus the distance from the forecast in half widths of its interval; NULL where the value lay inside.';
COMMENT ON COLUMN ml_anomalies.rarity IS 'Hours between two like it, on ordinary days; NULL where that is not known.';
COMMENT ON COLUMN ml_anomalies.metrics IS 'The values at that time.';
COMMENT ON COLUMN ml_anomalies.reasons IS 'Why, the most important first: metric, kind, sentence, value, usual_low, usual_high, contribution; of a forecast also predicted.';
COMMENT ON COLUMN ml_anomalies.incident_at IS 'When the incident began within which it lies; NULL where there is none: it is not rare enough.';
COMMENT ON COLUMN ml_anomalies.detected_at IS 'When a scan first found it.';

CREATE OR REPLACE VIEW ml_incidents WITH (security_invoker = true) AS
SELECT i.incident_id, i.device_uuid,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = i.device_uuid), i.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = i.device_uuid), i.device_uuid::text) AS device_name,
       i.state, i.severity, i.kind, i.summary, nullif(i.leading_metric, '') AS leading_metric,
       i.started_at, i.opened_at, i.ended_at, i.acknowledged_at, i.acknowledged_by, i.resolved_at, i.resolved_by, i.why, i.note, i.rarity,
       (i.evidence ->> 'worst_score')::float8 AS worst_score, (i.evidence ->> 'readings')::bigint AS readings,
       ARRAY(SELECT jsonb_array_elements_text(i.evidence -> 'detectors')) AS tiers, i.evidence
FROM ml_incident i
WHERE i.why IS DISTINCT FROM 'joined'
ORDER BY i.started_at DESC, i.device_uuid;
COMMENT ON VIEW ml_incidents IS 'Trouble of devices, one row a trouble, the latest first: what it is in words, since when, how bad, and whether it is over. What turned out to be part of another incident is left out.';
COMMENT ON COLUMN ml_incidents.incident_id IS 'The incident''s number, as ml_acknowledge, ml_resolve and ml_not_a_fault take it.';
COMMENT ON COLUMN ml_incidents.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_incidents.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_incidents.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_incidents.state IS 'open, acknowledged (somebody knows of it) or resolved.';
COMMENT ON COLUMN ml_incidents.severity IS 'warning or critical: the worst so far.';
COMMENT ON COLUMN ml_incidents.kind IS 'What is wrong: value, combination, forecast, level, drift, breach, stuck, missing, junk or silent.';
COMMENT ON COLUMN ml_incidents.summary IS 'The trouble in words.';
COMMENT ON COLUMN ml_incidents.leading_metric IS 'The metric that it is chiefly about; NULL where it is the device.';
COMMENT ON COLUMN ml_incidents.started_at IS 'When the trouble began.';
COMMENT ON COLUMN ml_incidents.opened_at IS 'When a scan could first tell of it.';
COMMENT ON COLUMN ml_incidents.ended_at IS 'When it was last seen.';
COMMENT ON COLUMN ml_incidents.acknowledged_at IS 'When somebody acknowledged it.';
COMMENT ON COLUMN ml_incidents.acknowledged_by IS 'Which role did.';
COMMENT ON COLUMN ml_incidents.resolved_at IS 'When it was found to be over; NULL while it is not.';
COMMENT ON COLUMN ml_incidents.resolved_by IS 'Which role resolved it; NULL where it is over by itself.';
COMMENT ON COLUMN ml_incidents.why IS 'Why it is resolved: over, became usual (it lasted for three days), a person, a rule (or a quiet window, which says that it is no trouble), retired (the device).';
COMMENT ON COLUMN ml_incidents.note IS 'What somebody said of it.';
COMMENT ON COLUMN ml_incidents.rarity IS 'Hours between two such on ordinary days; NULL where not known.';
COMMENT ON COLUMN ml_incidents.worst_score IS 'The lowest score of its anomalies, of the forest where that spoke; NULL where it has none.';
COMMENT ON COLUMN ml_incidents.readings IS 'How many readings were anomalous.';
COMMENT ON COLUMN ml_incidents.tiers IS 'Who spoke: forest, lstm, level, stuck, presence or another detector.';
COMMENT ON COLUMN ml_incidents.evidence IS 'What makes the case, for pages: detector and evidence of the leading finding, metrics, and the findings.';

CREATE OR REPLACE VIEW ml_rules WITH (security_invoker = true) AS
SELECT r.rule_id, NULL::bigint AS quiet_id, r.device_uuid, r.metric,
       CASE WHEN r.mute THEN 'nothing is told' ELSE concat_ws('; ',
           CASE r.direction WHEN 'up' THEN 'trouble only above the usual' WHEN 'down' THEN 'trouble only below the usual' WHEN 'both' THEN 'trouble above and below the usual' END,
           'no trouble within ' || r.least_deviation || coalesce(' ' || CASE m.unit WHEN '%' THEN 'points' ELSE m.unit END, '') || ' of the usual',
           'limit_low is ' || r.limit_low || coalesce(' ' || m.unit, ''), 'limit_high is ' || r.limit_high || coalesce(' ' || m.unit, '')) END AS says,
       r.reason, NULL::timestamptz AS starts_at, r.until AS ends_at, r.created_at, r.created_by, k.kept_quiet_7d, k.last_kept_quiet_at,
       d.device_id, coalesce(d.device_name, d.device_id) AS device_name
FROM ml_rule r
LEFT JOIN ml_device d ON d.device_uuid = r.device_uuid
LEFT JOIN ml_metric m ON m.name = r.metric
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE f.last_at > now() - interval '7 days') AS kept_quiet_7d, max(f.last_at) AS last_kept_quiet_at
    FROM ml_finding f WHERE f.rule_id = r.rule_id) AS k
WHERE coalesce(r.until > now(), true)
UNION ALL
SELECT NULL, q.quiet_id, q.device_uuid, q.metric,
       concat_ws(', ', 'nothing is told and nothing is learned', CASE q.repeat WHEN 'daily' THEN to_char(q.starts_at AT TIME ZONE q.zone, 'HH24:MI') || to_char(q.ends_at AT TIME ZONE q.zone, ' "to" HH24:MI ')
           || q.zone || ' each day' WHEN 'weekly' THEN to_char(q.starts_at AT TIME ZONE q.zone, 'FMDay HH24:MI') || to_char(q.ends_at AT TIME ZONE q.zone, ' "to" FMDay HH24:MI ') || q.zone || ' each week' END),
       q.reason, q.starts_at, CASE WHEN q.repeat IS NULL THEN q.ends_at END, q.created_at, q.created_by, k.kept_quiet_7d, k.last_kept_quiet_at,
       d.device_id, coalesce(d.device_name, d.device_id)
FROM ml_quiet q
LEFT JOIN ml_device d ON d.device_uuid = q.device_uuid
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE f.last_at > now() - interval '7 days') AS kept_quiet_7d, max(f.last_at) AS last_kept_quiet_at
    FROM ml_finding f WHERE f.quiet_id = q.quiet_id) AS k
WHERE q.ends_at > now() OR q.repeat IS NOT NULL;
COMMENT ON VIEW ml_rules IS 'What people have said and what still holds, rules and quiet windows, one row each, and how much it kept from being told lately. What has ended is left out.';
COMMENT ON COLUMN ml_rules.rule_id IS 'The rule''s number in ml_rule; NULL of a window.';
COMMENT ON COLUMN ml_rules.quiet_id IS 'The window''s number in ml_quiet; NULL of a rule.';
COMMENT ON COLUMN ml_rules.device_uuid IS 'The device, by the uuid that pyml''s tables have; NULL: all.';
COMMENT ON COLUMN ml_rules.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_rules.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_rules.metric IS 'The metric; NULL: all.';
COMMENT ON COLUMN ml_rules.says IS 'What it says, in words.';
COMMENT ON COLUMN ml_rules.reason IS 'Why, as whoever made it says.';
COMMENT ON COLUMN ml_rules.starts_at IS 'When a window begins, the first time; NULL of a rule.';
COMMENT ON COLUMN ml_rules.ends_at IS 'When it ends; NULL: never.';
COMMENT ON COLUMN ml_rules.created_at IS 'When it was made.';
COMMENT ON COLUMN ml_rules.created_by IS 'Which role made it.';
COMMENT ON COLUMN ml_rules.kept_quiet_7d IS 'Findings of the last seven days that it kept from being told.';
COMMENT ON COLUMN ml_rules.last_kept_quiet_at IS 'When the last of all these was last seen; NULL where it has kept none.';

CREATE OR REPLACE VIEW ml_forecasts WITH (security_invoker = true) AS
SELECT p.device_uuid, p.field, p."timestamp", p.predicted AS predicted_value, p.lower AS confidence_lower,
       p.upper AS confidence_upper, p.level, p.model_id, p.made_at, p.kind,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = p.device_uuid), p.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = p.device_uuid), p.device_uuid::text) AS device_name
FROM ml_scan_state s
JOIN ml_forecast_point p ON p.device_uuid = s.device_uuid AND p."timestamp" > s.last_reading
WHERE s.retired_at IS NULL;
COMMENT ON VIEW ml_forecasts IS 'The latest forecast of each device and field: what is expected after its last reading. Earlier ones stay in ml_forecast_point, beside what came.';
COMMENT ON COLUMN ml_forecasts.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_forecasts.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_forecasts.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_forecasts.field IS 'What is forecast: a path or a metric''s name.';
COMMENT ON COLUMN ml_forecasts."timestamp" IS 'The time that is forecast.';
COMMENT ON COLUMN ml_forecasts.predicted_value IS 'The forecast value.';
COMMENT ON COLUMN ml_forecasts.confidence_lower IS 'Lower end of the interval.';
COMMENT ON COLUMN ml_forecasts.confidence_upper IS 'Upper end of the interval.';
COMMENT ON COLUMN ml_forecasts.level IS 'Share of the values that the interval shall cover; more where the field stood still, and may move.';
COMMENT ON COLUMN ml_forecasts.model_id IS 'The model that made the forecast.';
COMMENT ON COLUMN ml_forecasts.made_at IS 'When it was made.';
COMMENT ON COLUMN ml_forecasts.kind IS 'The forecaster that made it.';

CREATE OR REPLACE VIEW ml_breaches WITH (security_invoker = true) AS
SELECT p.device_uuid, p.field, p.breach AS limit_value, min(p."timestamp") AS breach_at,
       CASE WHEN max(p.predicted) > p.breach THEN max(p.predicted) ELSE min(p.predicted) END AS worst_predicted,
       max(p.made_at) AS made_at,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = p.device_uuid), p.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = p.device_uuid), p.device_uuid::text) AS device_name,
       (SELECT k.unit FROM _ml_metric_of(p.field) AS k) AS unit
FROM ml_scan_state s
JOIN ml_forecast_point p ON p.device_uuid = s.device_uuid AND p."timestamp" > s.last_reading
WHERE p.breach IS NOT NULL AND s.retired_at IS NULL
GROUP BY p.device_uuid, p.field, p.breach;
COMMENT ON VIEW ml_breaches IS 'Which forecast reaches a limit of its metric (limit_low, limit_high in ml_metric), and when it first does: one row a device, field and limit.';
COMMENT ON COLUMN ml_breaches.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_breaches.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_breaches.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_breaches.field IS 'What is forecast: a path or a metric''s name.';
COMMENT ON COLUMN ml_breaches.limit_value IS 'The limit that is reached: limit_low where worst_predicted lies below it, else limit_high.';
COMMENT ON COLUMN ml_breaches.breach_at IS 'When the forecast first reaches it.';
COMMENT ON COLUMN ml_breaches.worst_predicted IS 'The value that is forecast furthest beyond the limit.';
COMMENT ON COLUMN ml_breaches.made_at IS 'When the forecast was made.';
COMMENT ON COLUMN ml_breaches.unit IS 'Unit of both values; NULL where none is known.';

CREATE OR REPLACE VIEW ml_device_status WITH (security_invoker = true) AS
SELECT d.device_uuid, m.forest_model_id, m.forest_trained_at, m.forecast_models, m.oldest_model_at,
       d.last_reading_at, d.scanned_at, d.scan_outcome, d.sqlstate, d.error,
       (SELECT max(a."timestamp") FROM ml_anomaly a WHERE a.device_uuid = d.device_uuid) AS last_anomaly_at,
       (SELECT count(DISTINCT a."timestamp") FROM ml_anomaly a
        WHERE a.device_uuid = d.device_uuid AND a."timestamp" > now() - interval '24 hours') AS anomalies_24h,
       d.silent,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = d.device_uuid), d.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = d.device_uuid), d.device_uuid::text) AS device_name,
       CASE WHEN i.critical THEN 'critical'
            WHEN d.scan_outcome = 'failed' AND d.sqlstate <> 'ML002' THEN 'failing'
            WHEN i.incidents > 0 OR EXISTS (SELECT FROM ml_forecast_point p
                WHERE p.device_uuid = d.device_uuid AND p.breach IS NOT NULL AND p."timestamp" > d.last_reading_at) THEN 'warning'
            WHEN d.silent THEN 'silent'
            WHEN m.forest_model_id IS NULL THEN CASE WHEN d.scan_outcome <> 'failed' THEN 'learning' ELSE 'untrained' END
            ELSE 'ok' END AS status,
       i.incidents AS open_incidents, d.scanned_from
FROM (
    SELECT s.device_uuid, s.last_reading AS last_reading_at, s.scanned_at, s.outcome AS scan_outcome, s.sqlstate, s.error,
           coalesce(coalesce(s.silent_from, s.last_reading + interval '1 hour') < now(), false) AS silent, s.scanned_from
    FROM ml_scan_state s WHERE s.retired_at IS NULL
    UNION ALL
    SELECT DISTINCT o.device_uuid, NULL::timestamptz, NULL::timestamptz, NULL, NULL, NULL, false, NULL::timestamptz
    FROM ml_model o WHERE o.is_current AND o.device_uuid <> _ml_whole_fleet()
      AND NOT EXISTS (SELECT FROM ml_scan_state s WHERE s.device_uuid = o.device_uuid)
) AS d
CROSS JOIN LATERAL (
    SELECT min(c.model_id) FILTER (WHERE c.kind = 'forest') AS forest_model_id,
           min(c.trained_at) FILTER (WHERE c.kind = 'forest') AS forest_trained_at,
           count(*) FILTER (WHERE c.field <> '') AS forecast_models, min(c.trained_at) AS oldest_model_at
    FROM ml_model c WHERE c.device_uuid = d.device_uuid AND c.is_current) AS m
CROSS JOIN LATERAL (
    SELECT count(*) AS incidents, coalesce(bool_or(n.severity = 'critical'), false) AS critical
    FROM ml_incident n WHERE n.device_uuid = d.device_uuid AND n.state <> 'resolved') AS i;
COMMENT ON VIEW ml_device_status IS 'One row a device that has a model in force or was scanned: its status, its models and their age, the last reading and scan, open incidents and the last day''s anomalies. Retired devices are left out.';
COMMENT ON COLUMN ml_device_status.status IS 'In a word, the first that holds: critical (an unresolved incident is), failing (its scan fails, as error says), warning (an unresolved incident, or a limit that the forecast reaches), silent, learning (no forest in force yet: what is ordinary on other devices stands in), untrained (no forest, and nothing stands in), ok.';
COMMENT ON COLUMN ml_device_status.scanned_from IS 'From when on it has been scanned: of what came before there are no anomalies and incidents.';
COMMENT ON COLUMN ml_device_status.open_incidents IS 'Incidents that are not resolved.';
COMMENT ON COLUMN ml_device_status.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_device_status.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_device_status.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_device_status.forest_model_id IS 'The forest in force; NULL where there is none.';
COMMENT ON COLUMN ml_device_status.forest_trained_at IS 'When that was trained.';
COMMENT ON COLUMN ml_device_status.forecast_models IS 'How many fields have a forecast model of the device''s own in force.';
COMMENT ON COLUMN ml_device_status.oldest_model_at IS 'When the oldest of all these was trained.';
COMMENT ON COLUMN ml_device_status.last_reading_at IS 'Time of the last reading that a scan saw.';
COMMENT ON COLUMN ml_device_status.scanned_at IS 'When the device was last scanned.';
COMMENT ON COLUMN ml_device_status.scan_outcome IS 'Of the last scan: scanned, unchanged (nothing new came) or failed.';
COMMENT ON COLUMN ml_device_status.sqlstate IS 'SQLSTATE of the last scan''s error; NULL where there was none.';
COMMENT ON COLUMN ml_device_status.error IS 'The error''s message.';
COMMENT ON COLUMN ml_device_status.last_anomaly_at IS 'Time of the last anomaly.';
COMMENT ON COLUMN ml_device_status.anomalies_24h IS 'Anomalous readings within 24 hours.';
COMMENT ON COLUMN ml_device_status.silent IS 'Whether it has sent nothing for longer than it ever pauses; for more than an hour, where that is not known.';

CREATE OR REPLACE VIEW ml_signals WITH (security_invoker = true) AS
SELECT m.device_uuid, e.metric, k.unit, s.last_value[p.at] AS last_value, s.last_at[p.at] AS last_at,
       make_interval(secs => s.rhythm[p.at]) AS rhythm, s.quality[p.at] AS quality, s.since[p.at] AS since,
       e.why_not IS NULL AS in_model, e.why_not, n.samples,
       s.missing[p.at] / n.of AS missing_share, s.out_of_range[p.at] / n.of AS out_of_range_share,
       s.junk[p.at] / n.of AS junk_share, s.reset[p.at] / n.of AS reset_share,
       s.bad_clock / nullif(s.bad_clock + s.messages[1] + s.messages[2] + s.messages[3] + s.messages[4], 0)::float8 AS bad_clock_share,
       coalesce(d.device_id, m.device_uuid::text) AS device_id, coalesce(d.device_name, d.device_id, m.device_uuid::text) AS device_name
FROM ml_model m
CROSS JOIN LATERAL jsonb_each_text(CASE jsonb_typeof(m.parameters -> 'signals') WHEN 'object' THEN m.parameters -> 'signals' ELSE '{}' END) AS e (metric, why_not)
LEFT JOIN ml_signal_state s ON s.device_uuid = m.device_uuid
LEFT JOIN ml_device d ON d.device_uuid = m.device_uuid
LEFT JOIN ml_metric k ON k.name = e.metric
CROSS JOIN LATERAL (SELECT array_position(s.metrics, e.metric) AS at) AS p
CROSS JOIN LATERAL (SELECT CASE WHEN p.at IS NOT NULL THEN s.messages[1] END AS samples, CASE WHEN p.at IS NOT NULL THEN nullif(s.messages[1], 0)::float8 END AS of) AS n
WHERE m.is_current AND m.kind = 'forest' AND m.field = ''
  AND NOT EXISTS (SELECT FROM ml_scan_state t WHERE t.device_uuid = m.device_uuid AND t.retired_at IS NOT NULL);
COMMENT ON VIEW ml_signals IS 'One row a device and enabled metric: its last value, whether it is measured well, and whether detection uses it, or why not. Shares are of the samples of the last 24 hours before the device''s last reading, as the last scan left them; NULL before the first scan. Retired devices, and those without a forest, are left out.';
COMMENT ON COLUMN ml_signals.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_signals.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_signals.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_signals.metric IS 'The metric''s name.';
COMMENT ON COLUMN ml_signals.unit IS 'Its unit, where known.';
COMMENT ON COLUMN ml_signals.last_value IS 'Its last value.';
COMMENT ON COLUMN ml_signals.last_at IS 'Time of the last reading that had it.';
COMMENT ON COLUMN ml_signals.rhythm IS 'Usual time between two samples, as the training saw it.';
COMMENT ON COLUMN ml_signals.quality IS 'Of the last sample: ok, or why it is no measurement: missing, out of range (of the metric''s bounds), junk (a sensor''s way to say nothing, or a single impossible jump), reset (a counter fell).';
COMMENT ON COLUMN ml_signals.since IS 'From when on it has been of that quality.';
COMMENT ON COLUMN ml_signals.in_model IS 'Whether the forest in force uses it.';
COMMENT ON COLUMN ml_signals.why_not IS 'Why it does not: what the training found.';
COMMENT ON COLUMN ml_signals.samples IS 'Readings of the last 24 hours, each with a sample of it, be it missing.';
COMMENT ON COLUMN ml_signals.missing_share IS 'Share of them without a value that still holds.';
COMMENT ON COLUMN ml_signals.out_of_range_share IS 'Share of them outside the metric''s bounds.';
COMMENT ON COLUMN ml_signals.junk_share IS 'Share of them that are junk.';
COMMENT ON COLUMN ml_signals.reset_share IS 'Share of them at which a counter fell.';
COMMENT ON COLUMN ml_signals.bad_clock_share IS 'Of the device''s messages of the last 24 hours and those of an impossible time (before 2010, or more than a day ahead), the share of the latter.';

CREATE OR REPLACE VIEW ml_capacity WITH (security_invoker = true) AS
SELECT c.device_uuid, c.metric, k.unit, c.side, c.limit_value, c.value, c.slope, c.earliest, c.probably, c.latest, c.days, c.looked_at, c.why_not,
       coalesce(d.device_id, c.device_uuid::text) AS device_id, coalesce(d.device_name, d.device_id, c.device_uuid::text) AS device_name
FROM ml_capacity_state c
JOIN ml_metric k ON k.name = c.metric
LEFT JOIN ml_device d ON d.device_uuid = c.device_uuid;
COMMENT ON VIEW ml_capacity IS 'When each device''s signals reach their limits (limit_high, limit_low of ml_metric, or of a rule), one row a limit, by the outlook that a scan makes once a day (ml_outlook). A limit that has changed waits for the next scan with new readings.';
COMMENT ON COLUMN ml_capacity.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_capacity.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_capacity.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_capacity.metric IS 'The metric''s name.';
COMMENT ON COLUMN ml_capacity.unit IS 'Its unit, where known.';
COMMENT ON COLUMN ml_capacity.side IS 'high: reached from below; low: from above.';
COMMENT ON COLUMN ml_capacity.limit_value IS 'The limit.';
COMMENT ON COLUMN ml_capacity.value IS 'The metric''s last mean of an hour.';
COMMENT ON COLUMN ml_capacity.slope IS 'How far it goes in a day; 0 where the outlook has no slope.';
COMMENT ON COLUMN ml_capacity.earliest IS 'When it is reached at the earliest: the 80 % band is there; NULL: not within days.';
COMMENT ON COLUMN ml_capacity.probably IS 'When it is probably reached: the median is there; NULL: not within days.';
COMMENT ON COLUMN ml_capacity.latest IS 'When it is reached at the latest: the other end of the 80 % band is there; NULL: not within days.';
COMMENT ON COLUMN ml_capacity.days IS 'Days that were looked ahead.';
COMMENT ON COLUMN ml_capacity.looked_at IS 'Time of the newest reading of that look.';
COMMENT ON COLUMN ml_capacity.why_not IS 'Why there is no outlook, such as too little history; NULL where there is one.';

CREATE OR REPLACE VIEW ml_fleet_health WITH (security_invoker = true) AS
SELECT s.devices, s.critical, s.failing, s.warning, s.silent, s.untrained, s.ok, s.without_model, s.oldest_scan_at, s.last_reading_at,
       s.open_incidents, i.incidents_7d, s.expected_7d, a.anomalies_24h, a.critical_24h, a.devices_with_anomalies_24h,
       (SELECT count(*) FROM ml_run r WHERE r.started_at > now() - interval '24 hours' AND r.outcome IN ('trained', 'kept')) AS trainings_24h,
       (SELECT count(*) FROM ml_run r WHERE r.started_at > now() - interval '24 hours' AND r.outcome = 'failed') AS failed_trainings_24h, s.learning
FROM (
    SELECT count(*) AS devices, count(*) FILTER (WHERE t.status = 'critical') AS critical, count(*) FILTER (WHERE t.status = 'failing') AS failing,
           count(*) FILTER (WHERE t.status = 'warning') AS warning, count(*) FILTER (WHERE t.status = 'silent') AS silent,
           count(*) FILTER (WHERE t.status = 'learning') AS learning, count(*) FILTER (WHERE t.status = 'untrained') AS untrained, count(*) FILTER (WHERE t.status = 'ok') AS ok,
           count(*) FILTER (WHERE t.forest_model_id IS NULL) AS without_model,
           min(t.scanned_at) AS oldest_scan_at, max(t.last_reading_at) AS last_reading_at, coalesce(sum(t.open_incidents), 0)::bigint AS open_incidents,
           coalesce(sum(coalesce(k.false_alarms_per_week, g.value::float8)) FILTER (WHERE t.forest_model_id IS NOT NULL), 0) AS expected_7d
    FROM ml_device_status t LEFT JOIN ml_device k ON k.device_uuid = t.device_uuid, ml_setting g WHERE g.name = 'false_alarms_per_week') AS s,
(
    SELECT count(*) AS incidents_7d FROM ml_incident n WHERE n.opened_at > now() - interval '7 days' AND n.why IS DISTINCT FROM 'joined') AS i,
(
    SELECT coalesce(sum(d.readings), 0)::bigint AS anomalies_24h, coalesce(sum(d.critical), 0)::bigint AS critical_24h,
           count(*) AS devices_with_anomalies_24h
    FROM (SELECT r.device_uuid, count(*) AS readings, count(*) FILTER (WHERE r.critical) AS critical
          FROM (SELECT l.device_uuid, bool_or(l.severity = 'critical') AS critical -- whichever tiers spoke
                FROM ml_anomaly l WHERE l."timestamp" > now() - interval '24 hours'
                GROUP BY l.device_uuid, l."timestamp") AS r
          GROUP BY r.device_uuid) AS d) AS a;
COMMENT ON VIEW ml_fleet_health IS 'The fleet in one row: how many devices there are of each status (critical to ok add up to devices), how many incidents, and how many to expect; the last day''s anomalies and trainings. Retired devices are left out.';
COMMENT ON COLUMN ml_fleet_health.devices IS 'Devices that have a model or were scanned.';
COMMENT ON COLUMN ml_fleet_health.critical IS 'Those whose status (ml_device_status) is critical.';
COMMENT ON COLUMN ml_fleet_health.failing IS 'Those whose status is failing: the last scan failed, and not for want of a model.';
COMMENT ON COLUMN ml_fleet_health.warning IS 'Those whose status is warning.';
COMMENT ON COLUMN ml_fleet_health.silent IS 'Those whose status is silent.';
COMMENT ON COLUMN ml_fleet_health.untrained IS 'Those whose status is untrained.';
COMMENT ON COLUMN ml_fleet_health.learning IS 'Those whose status is learning.';
COMMENT ON COLUMN ml_fleet_health.ok IS 'Those whose status is ok.';
COMMENT ON COLUMN ml_fleet_health.without_model IS 'Those that have no forest, whatever their status.';
COMMENT ON COLUMN ml_fleet_health.oldest_scan_at IS 'When the device was scanned that has waited longest.';
COMMENT ON COLUMN ml_fleet_health.last_reading_at IS 'Time of the latest reading of all.';
COMMENT ON COLUMN ml_fleet_health.open_incidents IS 'Incidents that are not resolved.';
COMMENT ON COLUMN ml_fleet_health.incidents_7d IS 'Incidents that opened within seven days.';
COMMENT ON COLUMN ml_fleet_health.expected_7d IS 'How many would open in a week in which nothing is wrong, as false_alarms_per_week allows.';
COMMENT ON COLUMN ml_fleet_health.anomalies_24h IS 'Anomalous readings within 24 hours.';
COMMENT ON COLUMN ml_fleet_health.critical_24h IS 'Critical ones among them.';
COMMENT ON COLUMN ml_fleet_health.devices_with_anomalies_24h IS 'Devices that they are of.';
COMMENT ON COLUMN ml_fleet_health.trainings_24h IS 'Trainings within 24 hours that did not fail.';
COMMENT ON COLUMN ml_fleet_health.failed_trainings_24h IS 'Trainings within 24 hours that failed.';

CREATE OR REPLACE VIEW ml_fleet_incidents WITH (security_invoker = true) AS
SELECT w.kind, nullif(w.leading_metric, '') AS leading_metric, min(w.severity) AS severity, -- critical comes before warning
       CASE WHEN bool_or(w.state = 'open') THEN 'open' WHEN bool_or(w.state = 'acknowledged') THEN 'acknowledged' ELSE 'resolved' END AS state,
       count(DISTINCT w.device_uuid) AS devices, min(w.started_at) AS started_at, max(w.ended_at) AS ended_at,
       _ml_flood_summary(count(DISTINCT w.device_uuid), max(f.devices), w.leading_metric, w.kind, min(w.started_at)) AS summary,
       array_agg(w.incident_id ORDER BY w.started_at, w.incident_id) AS incident_ids,
       array_agg(DISTINCT w.device_uuid) AS device_uuids
FROM (
    SELECT j.*, sum(CASE WHEN j.apart THEN 1 ELSE 0 END) OVER (PARTITION BY j.kind, j.leading_metric ORDER BY j.started_at, j.incident_id) AS wave
    FROM (SELECT i.incident_id, i.device_uuid, i.kind, i.leading_metric, i.severity, i.state, i.started_at, i.ended_at,
                 i.started_at > lag(i.started_at) OVER (PARTITION BY i.kind, i.leading_metric ORDER BY i.started_at, i.incident_id) + interval '15 minutes' AS apart
          FROM ml_incident i
          WHERE (i.state <> 'resolved' OR i.ended_at > now() - interval '24 hours') AND i.why IS DISTINCT FROM 'joined') AS j) AS w,
    (SELECT count(*) AS devices FROM ml_scan_state s WHERE s.retired_at IS NULL) AS f
GROUP BY w.kind, w.leading_metric, w.wave
HAVING count(DISTINCT w.device_uuid) >= greatest(5, 0.1 * max(f.devices))
ORDER BY min(w.started_at) DESC;
COMMENT ON VIEW ml_fleet_incidents IS 'The same trouble on many devices as one row: incidents of one kind and metric that are not resolved or ended within 24 hours, each of which began within 15 minutes of the one before it, on at least five devices and a tenth of the fleet.';
COMMENT ON COLUMN ml_fleet_incidents.kind IS 'What is wrong, as in ml_incidents.';
COMMENT ON COLUMN ml_fleet_incidents.leading_metric IS 'The metric; NULL where it is the device.';
COMMENT ON COLUMN ml_fleet_incidents.severity IS 'The worst of them.';
COMMENT ON COLUMN ml_fleet_incidents.state IS 'open while any is, then acknowledged while any is, then resolved.';
COMMENT ON COLUMN ml_fleet_incidents.devices IS 'How many devices.';
COMMENT ON COLUMN ml_fleet_incidents.started_at IS 'When the first began.';
COMMENT ON COLUMN ml_fleet_incidents.ended_at IS 'When any was last seen.';
COMMENT ON COLUMN ml_fleet_incidents.summary IS 'The trouble in words.';
COMMENT ON COLUMN ml_fleet_incidents.incident_ids IS 'The incidents, as ml_incidents has them.';
COMMENT ON COLUMN ml_fleet_incidents.device_uuids IS 'Their devices.';

CREATE OR REPLACE VIEW ml_deliveries WITH (security_invoker = true) AS
SELECT d.event_id, d.target, CASE WHEN d.confirmed_at IS NOT NULL THEN 'confirmed' WHEN d.next_at IS NOT NULL THEN 'waiting' ELSE 'dead' END AS state,
       e.event, e.incident_id, e.device_uuid, coalesce(k.device_id, e.device_uuid::text) AS device_id,
       coalesce(k.device_name, k.device_id, e.device_uuid::text) AS device_name, e.happened_at, d.attempts, d.waits_since, d.next_at, d.confirmed_at, d.flood, d.error
FROM ml_delivery d
JOIN ml_event e ON e.event_id = d.event_id
LEFT JOIN ml_device k ON k.device_uuid = e.device_uuid
ORDER BY d.event_id DESC, d.target;
COMMENT ON VIEW ml_deliveries IS 'Which target is told of which event, one row each, the latest first: what waits, what was confirmed, and dead letters, which ml_resend lets go again.';
COMMENT ON COLUMN ml_deliveries.event_id IS 'The event.';
COMMENT ON COLUMN ml_deliveries.target IS 'Who is told: the target''s name in the notifier''s file.';
COMMENT ON COLUMN ml_deliveries.state IS 'waiting, confirmed (the target took it) or dead (given up after a day of attempts).';
COMMENT ON COLUMN ml_deliveries.event IS 'What happened: opened, escalated, acknowledged, resolved; of the fleet''s scans, stalled or resumed.';
COMMENT ON COLUMN ml_deliveries.incident_id IS 'The incident; NULL where it is about scans.';
COMMENT ON COLUMN ml_deliveries.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_deliveries.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_deliveries.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_deliveries.happened_at IS 'When it happened.';
COMMENT ON COLUMN ml_deliveries.attempts IS 'How often a notifier has tried to tell it.';
COMMENT ON COLUMN ml_deliveries.waits_since IS 'From when on it has waited to be told.';
COMMENT ON COLUMN ml_deliveries.next_at IS 'When it is tried next.';
COMMENT ON COLUMN ml_deliveries.confirmed_at IS 'When the target confirmed it.';
COMMENT ON COLUMN ml_deliveries.flood IS 'The first event of the flood that was told as one message with this one in it; NULL where it was told alone.';
COMMENT ON COLUMN ml_deliveries.error IS 'Why the last attempt failed.';

CREATE OR REPLACE VIEW ml_runs WITH (security_invoker = true) AS
SELECT r.run_id, r.device_uuid, r.kind, nullif(r.field, '') AS field, r.started_at, r.seconds, r.outcome,
       r.model_id, r.sqlstate, r.error, r.figures,
       coalesce((SELECT k.device_id FROM ml_device k WHERE k.device_uuid = r.device_uuid), r.device_uuid::text) AS device_id,
       coalesce((SELECT coalesce(k.device_name, k.device_id) FROM ml_device k WHERE k.device_uuid = r.device_uuid),
           CASE WHEN r.device_uuid = _ml_whole_fleet() THEN 'the fleet' ELSE r.device_uuid::text END) AS device_name
FROM ml_run r
ORDER BY r.started_at DESC;
COMMENT ON VIEW ml_runs IS 'Training attempts, the latest first.';
COMMENT ON COLUMN ml_runs.run_id IS 'The attempt''s number.';
COMMENT ON COLUMN ml_runs.device_uuid IS 'The device, by the uuid that pyml''s tables have.';
COMMENT ON COLUMN ml_runs.device_id IS 'The device, by its id in the history.';
COMMENT ON COLUMN ml_runs.device_name IS 'The device''s name; its id where it has none.';
COMMENT ON COLUMN ml_runs.kind IS 'forest or lstm.';
COMMENT ON COLUMN ml_runs.field IS 'The forecast field; NULL for a forest.';
COMMENT ON COLUMN ml_runs.started_at IS 'When it began.';
COMMENT ON COLUMN ml_runs.seconds IS 'How long it took.';
COMMENT ON COLUMN ml_runs.outcome IS 'trained, kept (the model in force was better, or the fleet''s as good), failed, or absent (the device does not report this field of the setting forecast_fields).';
COMMENT ON COLUMN ml_runs.model_id IS 'The model that came of it, or was kept.';
COMMENT ON COLUMN ml_runs.sqlstate IS 'SQLSTATE of the error; NULL where there was none.';
COMMENT ON COLUMN ml_runs.error IS 'The error''s message.';
COMMENT ON COLUMN ml_runs.figures IS 'What was measured on held-out data.';

CREATE OR REPLACE VIEW ml_jobs WITH (security_invoker = true) AS
SELECT j.job_id, j.kind, j.slot, j.pid, j.started_at, j.updated_at, j.finished_at, j.total, j.done, j.failed, j.passed_over,
       round(((j.done + j.failed) / greatest(extract(epoch FROM j.updated_at - j.started_at), 0.001))::numeric, 2) AS per_second,
       CASE WHEN j.finished_at IS NULL AND j.done + j.failed > 0 THEN
            (j.total - j.done - j.failed - j.passed_over) * (j.updated_at - j.started_at) / (j.done + j.failed) END AS time_left
FROM ml_job j
ORDER BY j.started_at DESC;
COMMENT ON VIEW ml_jobs IS 'Calls of ml_scan and ml_retrain, the latest first: how far each has come, how fast, and about how long it still takes.';
COMMENT ON COLUMN ml_jobs.job_id IS 'The call''s number.';
COMMENT ON COLUMN ml_jobs.kind IS 'scan or retrain.';
COMMENT ON COLUMN ml_jobs.slot IS 'Which scheduled worker it is; NULL for a call by hand.';
COMMENT ON COLUMN ml_jobs.pid IS 'The backend''s process id.';
COMMENT ON COLUMN ml_jobs.started_at IS 'When the call began.';
COMMENT ON COLUMN ml_jobs.updated_at IS 'When this row was last brought up to date.';
COMMENT ON COLUMN ml_jobs.finished_at IS 'When it ended; NULL while it goes on, or where it was cut short.';
COMMENT ON COLUMN ml_jobs.total IS 'Devices (of a scan) or models (of a retraining) to treat.';
COMMENT ON COLUMN ml_jobs.done IS 'Treated without an error.';
COMMENT ON COLUMN ml_jobs.failed IS 'Treated with an error.';
COMMENT ON COLUMN ml_jobs.passed_over IS 'Left to another caller, who has done it or is at it.';
COMMENT ON COLUMN ml_jobs.per_second IS 'Treated each second.';
COMMENT ON COLUMN ml_jobs.time_left IS 'About how long it still takes.';

-- A lock of a row is no row of pg_locks; but it names the transaction that took it.
CREATE OR REPLACE VIEW ml_locks WITH (security_invoker = true) AS
SELECT l.task, l.what, l.device_uuid, k.pid, a.usename AS role, a.application_name, a.xact_start AS since
FROM ml_lock l
JOIN pg_locks k ON k.locktype = 'transactionid' AND k.granted AND k.mode = 'ExclusiveLock' AND k.transactionid = l.xmax
LEFT JOIN pg_stat_activity a ON a.pid = k.pid
ORDER BY l.task, l.what;
COMMENT ON VIEW ml_locks IS 'The locks that scans and trainings hold just now, and which session (pid) holds each; since is shown to roles that may see that session. A lock that is taken for the first time ever is not shown.';
COMMENT ON COLUMN ml_locks.task IS 'scan, retrain, model, or another task.';
COMMENT ON COLUMN ml_locks.what IS 'What the task is done on: a device, or a device, kind and field.';
COMMENT ON COLUMN ml_locks.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_locks.pid IS 'The backend that holds it.';
COMMENT ON COLUMN ml_locks.role IS 'Whose session it is.';
COMMENT ON COLUMN ml_locks.application_name IS 'What the session calls itself.';
COMMENT ON COLUMN ml_locks.since IS 'When its transaction began.';
