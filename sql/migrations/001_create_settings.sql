-- Settings, and the metrics to look at.

CREATE TABLE ml_setting (
    name        text PRIMARY KEY,
    value       text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('integer', 'number', 'text', 'identifier', 'table', 'zone', 'json')),
    minimum     float8,
    maximum     float8,
    default_value text NOT NULL,
    meaning     text NOT NULL
);
COMMENT ON TABLE ml_setting IS 'One row a setting: name, value and what it means. Change one with UPDATE ml_setting SET value = ''...'' WHERE name = ''...''; a value out of range is refused (ML004).';
COMMENT ON COLUMN ml_setting.name IS 'What the setting is called.';
COMMENT ON COLUMN ml_setting.value IS 'The value in force, as text.';
COMMENT ON COLUMN ml_setting.kind IS 'How the value is read and checked.';
COMMENT ON COLUMN ml_setting.minimum IS 'Smallest value allowed, for numbers.';
COMMENT ON COLUMN ml_setting.maximum IS 'Largest value allowed, for numbers.';
COMMENT ON COLUMN ml_setting.default_value IS 'The value as installed.';
COMMENT ON COLUMN ml_setting.meaning IS 'What it does.';

INSERT INTO ml_setting (name, kind, minimum, maximum, default_value, value, meaning)
SELECT name, kind, minimum, maximum, default_value, default_value, meaning
FROM (VALUES
    ('history_table', 'table', NULL::float8, NULL::float8, 'public.device_shadow_history', 'Table or view with the readings, as schema.name.'),
    ('history_device_column', 'identifier', NULL, NULL, 'device_uuid', 'Its column with the device''s id: uuid, text or a whole number.'),
    ('history_time_column', 'identifier', NULL, NULL, 'timestamp', 'Its column with the time of the reading: timestamp, timestamptz, or a number since 1970.'),
    ('history_state_column', 'identifier', NULL, NULL, 'reported_state', 'Its column with the reported state: jsonb, json, or text that is JSON.'),
    ('history_id_column', 'identifier', NULL, NULL, 'id', 'Its column with a whole number that grows from row to row and leads an index, by which rows that come late are found; empty, or not there: they are counted hourly.'),
    ('history_shadow_column', 'identifier', NULL, NULL, 'shadow_name', 'Its column with the shadow''s name; empty where it has none.'),
    ('history_shadow', 'text', NULL, NULL, 'device-state', 'The shadow whose rows are readings.'),
    ('history_time_unit', 'text', NULL, NULL, '', 'Unit of a time column that is a number since 1970: seconds or milliseconds; empty where the rows tell.'),
    ('device_table', 'text', NULL, NULL, '', 'Table with the devices'' names, as schema.name; empty where there is none.'),
    ('device_id_column', 'text', NULL, NULL, '', 'Its column with the id that the history has.'),
    ('device_name_column', 'text', NULL, NULL, '', 'Its column with the name.'),
    ('history_time_zone', 'zone', NULL, NULL, 'UTC', 'Zone of the wall clock in a time column without time zone.'),
    ('contamination', 'number', 0.0001, 0.2, '0.01', 'Share of readings that an Isolation Forest may flag on ordinary days.'),
    ('n_estimators', 'integer', 10, 1000, '100', 'Trees of an Isolation Forest.'),
    ('min_training_samples', 'integer', 50, 1000000, '100', 'Usable readings that a training needs.'),
    ('sequence_length', 'integer', 8, 500, '50', 'Readings that a forecast looks back over.'),
    ('forecast_horizon', 'integer', 1, 288, '12', 'Steps that a forecast looks ahead.'),
    ('epochs', 'integer', 1, 1000, '50', 'Most passes over the data in a training of an LSTM.'),
    ('row_security', 'text', NULL, NULL, '', 'Which devices a role sees in pyml''s tables, as an SQL condition on device_uuid; empty for all. SELECT ml_row_security() applies it.'),
    ('calendar_time_zone', 'zone', NULL, NULL, 'UTC', 'Zone by whose clock a forecast knows the time of day and of week, by its name in pg_timezone_names.'),
    ('seed', 'integer', 0, 2147483647, '0', 'Seed of everything random in a training.')
) AS setting (name, kind, minimum, maximum, default_value, meaning);

CREATE TABLE ml_metric (
    name         text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    path         text NOT NULL CHECK (length(path) BETWEEN 1 AND 1000),
    divisor_path text CHECK (length(divisor_path) BETWEEN 1 AND 1000),
    scale        float8 NOT NULL DEFAULT 1 CHECK (scale <> 0 AND abs(scale) <= 1e12),
    kind         text NOT NULL DEFAULT 'gauge' CHECK (kind IN ('gauge', 'counter')),
    unit         text CHECK (length(unit) BETWEEN 1 AND 20),
    lower_bound  float8,
    upper_bound  float8,
    limit_low    float8 CHECK (abs(limit_low) <= 1e15),
    limit_high   float8 CHECK (abs(limit_high) <= 1e15),
    direction    text NOT NULL DEFAULT 'both' CHECK (direction IN ('both', 'up', 'down')),
    least_deviation float8 CHECK (least_deviation BETWEEN 0 AND 1e15),
    enabled      boolean NOT NULL DEFAULT true,
    built_in     boolean NOT NULL DEFAULT false,
    CHECK (lower_bound < upper_bound),
    CHECK (limit_low < limit_high),
    CHECK (divisor_path IS NULL OR kind = 'gauge')
);
COMMENT ON TABLE ml_metric IS 'What detection looks at, and what forecasts and z scores may be asked for by name, one row a metric: value at path (over the value at divisor_path) times scale, or the rate per second of a counter. Add rows for fields of your own; models follow at their next training.';
COMMENT ON COLUMN ml_metric.name IS 'What the metric is called in answers.';
COMMENT ON COLUMN ml_metric.path IS 'Path in the reported state, for instance system.cpuUsage, "my.key".value or sensors[name=t1].value.';
COMMENT ON COLUMN ml_metric.divisor_path IS 'Path of the total that the value is divided by; a total of 0 marks a failed collection.';
COMMENT ON COLUMN ml_metric.scale IS 'Factor on the value, for instance 100 for a percentage.';
COMMENT ON COLUMN ml_metric.kind IS 'gauge: the value itself; counter: it grows until it resets, and its rate per second is used.';
COMMENT ON COLUMN ml_metric.unit IS 'Unit of the value (of a counter: of its rate), for documents and pictures: %, B/s.';
COMMENT ON COLUMN ml_metric.lower_bound IS 'Lower end of the range of possible values (of a counter: of its rate), where known: what lies below is no measurement, and forecasts are clipped to it.';
COMMENT ON COLUMN ml_metric.upper_bound IS 'Upper end of the range of possible values (of a counter: of its rate), where known: what lies above is no measurement, and forecasts are clipped to it.';
COMMENT ON COLUMN ml_metric.limit_low IS 'Limit from below: a forecast that falls to it is a breach. NULL: none.';
COMMENT ON COLUMN ml_metric.limit_high IS 'Limit from above: a forecast that rises to it is a breach. NULL: none.';
COMMENT ON COLUMN ml_metric.direction IS 'Which way of leaving the usual is trouble: up, down or both. Findings of the detector level follow it, from the next training on; the Isolation Forest does not.';
COMMENT ON COLUMN ml_metric.least_deviation IS 'What differs from the usual by less is no trouble; NULL: no such floor. Findings of the detector level follow it, from the next training on; the Isolation Forest does not.';
COMMENT ON COLUMN ml_metric.enabled IS 'Whether detection (the Isolation Forest) uses it. Forecasts and z scores may name any metric, enabled or not.';
COMMENT ON COLUMN ml_metric.built_in IS 'Comes with the extension; disable rather than delete it.';

INSERT INTO ml_metric (name, path, divisor_path, scale, kind, unit, lower_bound, upper_bound, limit_high, built_in) VALUES
    ('cpu_usage', 'system.cpuUsage', NULL, 1, 'gauge', '%', 0, 100, 80, true),
    ('memory_usage_percent', 'system.memoryUsage', 'system.memoryTotal', 100, 'gauge', '%', 0, 100, 90, true),
    ('disk_usage_percent', 'system.diskUsage', 'system.diskTotal', 100, 'gauge', '%', 0, 100, 90, true),
    ('temperature', 'system.temperature', NULL, 1, 'gauge', NULL, NULL, NULL, NULL, true),
    ('network_receive_rate', 'system.network.rxBytes', NULL, 1, 'counter', 'B/s', 0, NULL, NULL, true),
    ('network_transmit_rate', 'system.network.txBytes', NULL, 1, 'counter', 'B/s', 0, NULL, NULL, true);

-- The degree sign is not in every database's encoding, and this file is read in any.
DO $$
BEGIN
    UPDATE ml_metric SET unit = convert_from(decode('c2b043', 'hex'), 'UTF8') WHERE name = 'temperature';
EXCEPTION WHEN untranslatable_character THEN
    UPDATE ml_metric SET unit = 'C' WHERE name = 'temperature';
END
$$;

SELECT pg_catalog.pg_extension_config_dump('ml_setting', '');
SELECT pg_catalog.pg_extension_config_dump('ml_metric', '');
