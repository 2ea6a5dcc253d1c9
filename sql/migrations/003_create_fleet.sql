-- What scans find, and where each device's scan stands.

INSERT INTO ml_setting (name, kind, minimum, maximum, default_value, value, meaning)
SELECT name, kind, minimum, maximum, default_value, default_value, meaning
FROM (VALUES
    ('training_hours', 'integer', 1::float8, 87840::float8, '168', 'Hours of history that trainings use where none are given.'),
    ('retrain_hours', 'integer', 1, 8760, '24', 'Age in hours after which ml_retrain trains a model anew.'),
    ('models_kept', 'integer', 1, 1000, '3', 'Models kept for a device, kind and field; ml_retrain prunes older ones, never the one in force.'),
    ('forecast_fields', 'json', NULL, NULL, '["system.cpuUsage"]', 'Fields with a forecast of their own, for each device without a row in ml_device_forecast.'),
    ('forecast_level', 'number', 0.5, 0.999, '0.99', 'Share of the values that a stored forecast''s interval shall cover; a value outside is an anomaly of the tier lstm.'),
    ('fleet_training_seconds', 'integer', 0, 86400, '300', 'Seconds that the training of a forecast model of the fleet may take; 0: there is none, and each device has its own alone.'),
    ('forecast_trainings', 'integer', 1, 1000000, '80', 'Forecasts of single devices, of fields that the fleet has a model of, that are trained in retrain_hours at most.'),
    ('scan_first_hours', 'integer', 1, 8760, '24', 'Hours that the first scan of a device goes back.'),
    ('scan_late_minutes', 'integer', 0, 10080, '15', 'Minutes before the newest reading that each scan looks at again. Rows that come later than that are found by their id, or counted hourly.'),
    ('incident_gap_minutes', 'integer', 1, 1440, '10', 'Anomalies of a device nearer to each other than this are one finding.'),
    ('anomaly_days', 'integer', 1, 36500, '90', 'Days that ml_anomaly and ml_finding keep.'),
    ('forecast_days', 'integer', 1, 3650, '3', 'Days that ml_forecast_point keeps.'),
    ('run_days', 'integer', 7, 36500, '90', 'Days that ml_run and ml_job keep.')
) AS setting (name, kind, minimum, maximum, default_value, meaning);

CREATE TABLE ml_device (
    device_uuid uuid PRIMARY KEY,
    device_id   text NOT NULL UNIQUE CHECK (octet_length(device_id) BETWEEN 1 AND 2000),
    device_name text CHECK (length(device_name) <= 200),
    false_alarms_per_week float8,
    contamination         float8,
    training_hours        int
);
COMMENT ON TABLE ml_device IS 'The devices that scans and trainings have met, by the id and the name under which people know them.';
COMMENT ON COLUMN ml_device.device_uuid IS 'The uuid by which the other tables know it: its id, where that is a uuid.';
COMMENT ON COLUMN ml_device.device_id IS 'Its id in the history.';
COMMENT ON COLUMN ml_device.false_alarms_per_week IS 'In place of the setting of that name; NULL: the setting.';
COMMENT ON COLUMN ml_device.contamination IS 'In place of the setting of that name; NULL: the setting. The next training takes it.';
COMMENT ON COLUMN ml_device.training_hours IS 'In place of the setting of that name; NULL: the setting. The next training takes it.';
COMMENT ON COLUMN ml_device.device_name IS 'Its name, from the table in the setting device_table; NULL where there is none.';

CREATE TABLE ml_device_forecast (
    device_uuid uuid PRIMARY KEY,
    fields      text[] NOT NULL CHECK (array_position(fields, NULL) IS NULL AND '' <> ALL (fields))
);
COMMENT ON TABLE ml_device_forecast IS 'Forecast fields of single devices, in place of the setting forecast_fields; an empty array means none.';
COMMENT ON COLUMN ml_device_forecast.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_device_forecast.fields IS 'Paths or names of metrics.';

CREATE TABLE ml_anomaly (
    device_uuid uuid NOT NULL,
    "timestamp" timestamptz NOT NULL,
    tier        text NOT NULL,
    score       float8 NOT NULL,
    severity    text NOT NULL CHECK (severity IN ('warning', 'critical')),
    metrics     jsonb NOT NULL,
    reasons     jsonb NOT NULL,
    model_id    bigint NOT NULL,
    rarity      float8,
    detected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    foretold    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_uuid, "timestamp", tier)
);
COMMENT ON TABLE ml_anomaly IS 'The log of anomalies that ml_scan found, one row a device, time and tier.';
COMMENT ON COLUMN ml_anomaly.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_anomaly."timestamp" IS 'Time of the reading.';
COMMENT ON COLUMN ml_anomaly.severity IS 'warning or critical.';
COMMENT ON COLUMN ml_anomaly.model_id IS 'The model that judged it.';
COMMENT ON COLUMN ml_anomaly.detected_at IS 'When a scan found it.';
COMMENT ON COLUMN ml_anomaly.tier IS 'Who spoke, by kind: forest (Isolation Forest), lstm (the value lies outside the interval that was forecast), or another detector or forecaster.';
COMMENT ON COLUMN ml_anomaly.foretold IS 'Whether the value was compared with a stored forecast.';
COMMENT ON COLUMN ml_anomaly.score IS 'Lower is more anomalous. Of a detector: as ml_score gives it. Of a forecast: minus the distance from it, in half widths of its interval.';
COMMENT ON COLUMN ml_anomaly.metrics IS 'The values at that time.';
COMMENT ON COLUMN ml_anomaly.reasons IS 'Why, the most important first: metric, kind (what is unusual: high, fell, restless, together, ...), sentence (the same in words), value, usual_low, usual_high, contribution; of a forecast also predicted.';
COMMENT ON COLUMN ml_anomaly.rarity IS 'Hours between two like it, on ordinary days; NULL where that is not known.';

CREATE INDEX ml_anomaly_recent ON ml_anomaly ("timestamp" DESC, device_uuid);

CREATE TABLE ml_finding (
    finding_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid uuid NOT NULL,
    detector    text NOT NULL,
    kind        text NOT NULL,
    metric      text NOT NULL,
    started_at  timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    severity    text NOT NULL CHECK (severity IN ('warning', 'critical')),
    score       float8 NOT NULL,
    rarity      float8,
    brief       boolean NOT NULL,
    incident_id bigint,
    rule_id     bigint,
    quiet_id    bigint,
    evidence    jsonb NOT NULL CHECK (octet_length(evidence::text) <= 65536),
    sentence    text NOT NULL CHECK (length(sentence) <= 4000),
    model_id    bigint,
    found_at    timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CHECK (started_at <= last_at)
);
COMMENT ON TABLE ml_finding IS 'What ml_scan found wrong over spans of time, one row a device, detector, metric and span. While it lasts, scans bring the row up to date.';
COMMENT ON COLUMN ml_finding.finding_id IS 'The finding''s number.';
COMMENT ON COLUMN ml_finding.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_finding.detector IS 'Which detector found it, as in ml_model.kind: level, stuck, presence, junk; forest and lstm, where anomalies of the log make it; capacity, where an outlook does.';
COMMENT ON COLUMN ml_finding.kind IS 'What is wrong, as far as is known: level (a metric has moved and stays where it is not usual), drift (a metric moves slowly in one direction), stuck (a metric stands still for longer than it ever does), missing (a metric has no measurement while the device reports), junk (only values come that are no measurement), silent (the device reports nothing), value (readings at which one metric is where it never is), combination (metrics that are not together as usual), forecast (readings outside the forecast), breach (a metric reaches its limit within days).';
COMMENT ON COLUMN ml_finding.metric IS 'The metric''s name; empty where it is the device.';
COMMENT ON COLUMN ml_finding.started_at IS 'When it began.';
COMMENT ON COLUMN ml_finding.last_at IS 'When it was last seen. It goes on while this is the time of the device''s last reading (of a silence: of the last scan).';
COMMENT ON COLUMN ml_finding.severity IS 'warning or critical: the worst so far.';
COMMENT ON COLUMN ml_finding.score IS 'How far beyond what is ordinary it is, in what the detector allows: 1 is just beyond; of a run of anomalies, minus the lowest score. The greatest so far.';
COMMENT ON COLUMN ml_finding.brief IS 'Whether it is made of single readings that are anomalies (rows of ml_anomaly), one after the other.';
COMMENT ON COLUMN ml_finding.incident_id IS 'The incident that it belongs to; NULL where it makes none.';
COMMENT ON COLUMN ml_finding.rule_id IS 'The rule (ml_rule) that keeps it from being told; NULL where none does, or where it is not rare enough to be told.';
COMMENT ON COLUMN ml_finding.quiet_id IS 'The quiet window (ml_quiet) that keeps it from being told; likewise.';
COMMENT ON COLUMN ml_finding.rarity IS 'Hours between two such findings on ordinary days; NULL where not known. By this device or by all together, whichever is less.';
COMMENT ON COLUMN ml_finding.evidence IS 'The numbers that make the case, as last seen. Spans of time are in seconds. scope is fleet where a model of ml_fleet_model found it.';
COMMENT ON COLUMN ml_finding.sentence IS 'The same in words, as last seen.';
COMMENT ON COLUMN ml_finding.model_id IS 'The model that found it, as last seen; NULL where none was needed (capacity), or one of ml_fleet_model stood in.';
COMMENT ON COLUMN ml_finding.found_at IS 'As of which time a scan first found it.';
COMMENT ON COLUMN ml_finding.updated_at IS 'As of which time a scan last changed it.';

CREATE INDEX ml_finding_incident ON ml_finding (incident_id) WHERE incident_id IS NOT NULL;
CREATE INDEX ml_finding_device ON ml_finding (device_uuid, last_at DESC);
CREATE INDEX ml_finding_recent ON ml_finding (last_at DESC, device_uuid);
CREATE INDEX ml_finding_rule ON ml_finding (rule_id) WHERE rule_id IS NOT NULL;
CREATE INDEX ml_finding_quiet ON ml_finding (quiet_id) WHERE quiet_id IS NOT NULL;

CREATE TABLE ml_rarity (
    detector  text PRIMARY KEY,
    devices   integer NOT NULL,
    hours     float8 NOT NULL,
    heights   float8[] NOT NULL,
    counts    float8[] NOT NULL,
    pooled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ml_rarity IS 'How often scores come on ordinary days, of all devices together, one row a detector. ml_retrain writes it of the models in force.';
COMMENT ON COLUMN ml_rarity.detector IS 'The detector, as in ml_model.kind.';
COMMENT ON COLUMN ml_rarity.devices IS 'Devices that it is of.';
COMMENT ON COLUMN ml_rarity.hours IS 'Hours of ordinary telemetry that it is of, of all models together.';
COMMENT ON COLUMN ml_rarity.heights IS 'Highest peaks that trainings found in them, highest first: of minus a reading''s score, of a finding''s score, of the distance from a forecast. Of lower ones fewer and fewer are kept.';
COMMENT ON COLUMN ml_rarity.counts IS 'How many peaks are at least as high as each of heights.';
COMMENT ON COLUMN ml_rarity.pooled_at IS 'When it was last written.';

CREATE TABLE ml_forecast_point (
    device_uuid uuid NOT NULL,
    "timestamp" timestamptz NOT NULL,
    field       text NOT NULL,
    kind        text NOT NULL,
    predicted   float8 NOT NULL,
    lower       float8 NOT NULL,
    upper       float8 NOT NULL,
    level       float8 NOT NULL,
    breach      float8,
    model_id    bigint NOT NULL,
    made_at     timestamptz NOT NULL,
    PRIMARY KEY (device_uuid, "timestamp", field, kind),
    -- This refuses NaN too: it compares as greater than any number.
    CHECK (abs(predicted) < 'Infinity' AND abs(lower) < 'Infinity' AND abs(upper) < 'Infinity')
);
COMMENT ON TABLE ml_forecast_point IS 'Forecasts as ml_scan made them. A scan replaces those beyond the device''s last reading; what was forecast before a value came stands.';
COMMENT ON COLUMN ml_forecast_point.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_forecast_point."timestamp" IS 'The time that is forecast.';
COMMENT ON COLUMN ml_forecast_point.field IS 'What is forecast: a path or a metric''s name.';
COMMENT ON COLUMN ml_forecast_point.kind IS 'The forecaster that made the forecast, as in ml_model.kind.';
COMMENT ON COLUMN ml_forecast_point.predicted IS 'The forecast value.';
COMMENT ON COLUMN ml_forecast_point.lower IS 'Lower end of the interval.';
COMMENT ON COLUMN ml_forecast_point.upper IS 'Upper end of the interval.';
COMMENT ON COLUMN ml_forecast_point.model_id IS 'The model that made the forecast.';
COMMENT ON COLUMN ml_forecast_point.made_at IS 'When it was made.';
COMMENT ON COLUMN ml_forecast_point.level IS 'Share of the values that lower to upper shall cover; more where the field stood still, and may move.';
COMMENT ON COLUMN ml_forecast_point.breach IS 'The limit that predicted reaches, NULL where it reaches none.';

CREATE INDEX ml_forecast_point_breach ON ml_forecast_point (device_uuid, "timestamp") WHERE breach IS NOT NULL;

CREATE TABLE ml_scan_state (
    device_uuid uuid PRIMARY KEY,
    scanned_at  timestamptz NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('scanned', 'unchanged', 'failed')),
    sqlstate    text,
    error       text,
    last_reading timestamptz,
    watermark   timestamptz,
    late_rows   integer NOT NULL DEFAULT 0,
    readings    integer NOT NULL DEFAULT 0,
    anomalies   integer NOT NULL DEFAULT 0,
    unreadable  bigint[] NOT NULL DEFAULT '{}',
    retired_at  timestamptz,
    hour_rows   integer[] CHECK (cardinality(hour_rows) = 48 AND array_position(hour_rows, NULL) IS NULL),
    counted_to  timestamptz,
    counted_at  timestamptz,
    silent_from timestamptz,
    scanned_from timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE ml_scan_state IS 'Where the scan of each device stands, one row a device.';
COMMENT ON COLUMN ml_scan_state.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_scan_state.scanned_at IS 'When the device was last scanned.';
COMMENT ON COLUMN ml_scan_state.sqlstate IS 'SQLSTATE of the last scan''s error; NULL where there was none.';
COMMENT ON COLUMN ml_scan_state.error IS 'The error''s message.';
COMMENT ON COLUMN ml_scan_state.outcome IS 'Of the last scan: scanned, unchanged (nothing new came) or failed.';
COMMENT ON COLUMN ml_scan_state.last_reading IS 'Time of the newest row.';
COMMENT ON COLUMN ml_scan_state.watermark IS 'Time of the newest reading that was scored.';
COMMENT ON COLUMN ml_scan_state.late_rows IS 'Rows within the look-back before the watermark: one more of them came late.';
COMMENT ON COLUMN ml_scan_state.readings IS 'Readings that the last scan scored, those in the look-back included.';
COMMENT ON COLUMN ml_scan_state.anomalies IS 'New anomalies of the last scan.';
COMMENT ON COLUMN ml_scan_state.unreadable IS 'Models (their model_id) that the last scan could not score (ML005): they are due for training.';
COMMENT ON COLUMN ml_scan_state.retired_at IS 'Not NULL for a retired device: when ml_forget was called, or -infinity where the history no longer had it. It is left out until the history holds a later reading.';
COMMENT ON COLUMN ml_scan_state.hour_rows IS 'Where late rows are found by counting: how many rows scans have looked at in each of 48 hours (in UTC), newest first, of which the first ends at counted_to. More of them now came late.';
COMMENT ON COLUMN ml_scan_state.counted_to IS 'Up to which time hour_rows counts.';
COMMENT ON COLUMN ml_scan_state.silent_from IS 'From when on the device is silent if nothing comes; NULL where no model says.';
COMMENT ON COLUMN ml_scan_state.scanned_from IS 'From when on the device has been scanned: of what came before there are no anomalies, findings and incidents.';
COMMENT ON COLUMN ml_scan_state.counted_at IS 'As of which time the rows were last counted and compared.';

CREATE TABLE ml_late (
    late_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid uuid NOT NULL,
    first_at    timestamptz NOT NULL,
    last_at     timestamptz NOT NULL,
    CHECK (first_at <= last_at)
);
COMMENT ON TABLE ml_late IS 'Spans of time in which rows came late, until a scan has looked at them.';
COMMENT ON COLUMN ml_late.late_id IS 'The note''s number: a scan takes away those that it has seen.';
COMMENT ON COLUMN ml_late.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_late.first_at IS 'Time of the first of the rows, or when their hour began.';
COMMENT ON COLUMN ml_late.last_at IS 'Time of the last of the rows, or when their hour ended.';

CREATE INDEX ml_late_device ON ml_late (device_uuid);

CREATE TABLE ml_arrival (
    history  text PRIMARY KEY,
    last_id  bigint NOT NULL,
    missing  int8multirange NOT NULL,
    mark_id  bigint NOT NULL,
    mark_xid xid8 NOT NULL,
    mark_at  timestamptz NOT NULL
);
COMMENT ON TABLE ml_arrival IS 'Which rows of the history have arrived, by their ids. Ids become visible out of order, so that those which are missing are waited for.';
COMMENT ON COLUMN ml_arrival.history IS 'The table, and its column with the id.';
COMMENT ON COLUMN ml_arrival.last_id IS 'The greatest id seen.';
COMMENT ON COLUMN ml_arrival.missing IS 'Lesser ids that were not there, at most 10000 spans of them: rows of transactions that may still commit.';
COMMENT ON COLUMN ml_arrival.mark_id IS 'The greatest id at mark_at. Lesser ones are no longer waited for when scan_late_minutes have gone by and all transactions of then have ended, or after a day.';
COMMENT ON COLUMN ml_arrival.mark_xid IS 'The transactions of then are those before this one.';
COMMENT ON COLUMN ml_arrival.mark_at IS 'When mark_id was noted.';

CREATE TABLE ml_signal_state (
    device_uuid  uuid PRIMARY KEY,
    metrics      text[] NOT NULL,
    rhythm       float8[] NOT NULL,
    last_value   float8[] NOT NULL,
    last_at      timestamptz[] NOT NULL,
    quality      text[] NOT NULL,
    since        timestamptz[] NOT NULL,
    missing      integer[] NOT NULL,
    out_of_range integer[] NOT NULL,
    junk         integer[] NOT NULL,
    reset        integer[] NOT NULL,
    messages     integer[] NOT NULL,
    bad_clock    integer NOT NULL,
    hours        jsonb NOT NULL CHECK (octet_length(hours::text) <= 1048576)
) WITH (fillfactor = 80);
COMMENT ON TABLE ml_signal_state IS 'How the signals of each device are measured, one row a device: an element a metric of its forest, as the last scan left it. The counts are of the last 24 hours before its last reading. The view ml_signals shows it.';
COMMENT ON COLUMN ml_signal_state.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_signal_state.metrics IS 'The metrics'' names, in the order of all other arrays.';
COMMENT ON COLUMN ml_signal_state.rhythm IS 'Usual seconds between two samples.';
COMMENT ON COLUMN ml_signal_state.last_value IS 'Last value; NULL where no scan has seen one.';
COMMENT ON COLUMN ml_signal_state.last_at IS 'Time of the last reading that had it.';
COMMENT ON COLUMN ml_signal_state.quality IS 'Of the last sample: ok, or why it is no measurement: missing, out of range, junk, reset.';
COMMENT ON COLUMN ml_signal_state.since IS 'From when on it has been of that quality.';
COMMENT ON COLUMN ml_signal_state.missing IS 'Readings without a value that still holds.';
COMMENT ON COLUMN ml_signal_state.out_of_range IS 'Samples outside the metric''s bounds.';
COMMENT ON COLUMN ml_signal_state.junk IS 'Samples that are a sensor''s way to say nothing, or a single impossible jump.';
COMMENT ON COLUMN ml_signal_state.reset IS 'Samples at which a counter fell.';
COMMENT ON COLUMN ml_signal_state.messages IS 'What became of the device''s messages: used as readings, merged into one, without a usable number, of a collection that failed.';
COMMENT ON COLUMN ml_signal_state.bad_clock IS 'Messages whose time is before 2010 or more than a day ahead, 10000 at most.';
COMMENT ON COLUMN ml_signal_state.hours IS 'The same counts by the hour, from which the next scan goes on.';

CREATE TABLE ml_job (
    job_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('scan', 'retrain')),
    slot        integer,
    pid         integer NOT NULL DEFAULT pg_backend_pid(),
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    total       integer NOT NULL,
    done        integer NOT NULL DEFAULT 0,
    failed      integer NOT NULL DEFAULT 0,
    passed_over integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE ml_job IS 'Each call of ml_scan and ml_retrain and how far it has come, about a second behind.';
COMMENT ON COLUMN ml_job.job_id IS 'The call''s number.';
COMMENT ON COLUMN ml_job.kind IS 'scan or retrain.';
COMMENT ON COLUMN ml_job.pid IS 'The backend''s process id.';
COMMENT ON COLUMN ml_job.started_at IS 'When the call began.';
COMMENT ON COLUMN ml_job.updated_at IS 'When this row was last written.';
COMMENT ON COLUMN ml_job.finished_at IS 'When it ended; NULL while it goes on, or where it was cut short.';
COMMENT ON COLUMN ml_job.total IS 'Devices (of a scan) or models (of a retraining) to treat.';
COMMENT ON COLUMN ml_job.done IS 'Treated without an error.';
COMMENT ON COLUMN ml_job.failed IS 'Treated with an error.';
COMMENT ON COLUMN ml_job.slot IS 'Which scheduled worker it is.';
COMMENT ON COLUMN ml_job.passed_over IS 'Left to another caller, who has done it or is at it.';

CREATE INDEX ml_job_recent ON ml_job (started_at DESC);
CREATE INDEX ml_job_slot ON ml_job (kind, slot, started_at DESC);

-- Advisory locks would not do: any role of the database may take those.
CREATE TABLE ml_lock (
    task text NOT NULL CHECK (task IN ('scan', 'scan slot', 'retrain', 'retrain slot', 'retain', 'retire', 'late', 'model', 'flood', 'watch')),
    what text NOT NULL CHECK (length(what) <= 1100),
    device_uuid uuid GENERATED ALWAYS AS (CASE WHEN task IN ('scan', 'retrain', 'model') THEN left(what, 36)::uuid END) STORED,
    PRIMARY KEY (task, what)
);
COMMENT ON TABLE ml_lock IS 'What scans, trainings and notifiers take, one at a time: whoever is at a task holds its row locked until the transaction ends. Only functions that a role may call with ml_grant(role, ''train'') or ml_grant(role, ''notify'') lock a row.';
COMMENT ON COLUMN ml_lock.task IS 'scan: of a device; retrain: of a device, kind and field; model: who moves the is_current mark; scan slot, retrain slot: a scheduled worker; retain: who deletes what is too old; retire: who looks for devices that have left the history; late: who looks for rows that came late; flood: which notifier tells a target of many devices at once; watch: which notifier looks whether scans come.';
COMMENT ON COLUMN ml_lock.what IS 'Which device, model or worker.';
COMMENT ON COLUMN ml_lock.device_uuid IS 'The device; NULL where it is a worker''s place or the fleet''s.';

CREATE INDEX ml_lock_device ON ml_lock (device_uuid);

SELECT pg_catalog.pg_extension_config_dump('ml_lock', 'WHERE false'); -- made anew where it is missing
SELECT pg_catalog.pg_extension_config_dump('ml_device', '');
SELECT pg_catalog.pg_extension_config_dump('ml_device_forecast', '');
SELECT pg_catalog.pg_extension_config_dump('ml_anomaly', '');
SELECT pg_catalog.pg_extension_config_dump('ml_finding', '');
SELECT pg_catalog.pg_extension_config_dump('ml_finding_finding_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ml_rarity', '');
SELECT pg_catalog.pg_extension_config_dump('ml_forecast_point', '');
SELECT pg_catalog.pg_extension_config_dump('ml_scan_state', '');
SELECT pg_catalog.pg_extension_config_dump('ml_signal_state', '');
SELECT pg_catalog.pg_extension_config_dump('ml_late', '');
SELECT pg_catalog.pg_extension_config_dump('ml_late_late_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ml_arrival', '');
SELECT pg_catalog.pg_extension_config_dump('ml_job', '');
SELECT pg_catalog.pg_extension_config_dump('ml_job_job_id_seq', '');
