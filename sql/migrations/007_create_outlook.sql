-- Days ahead: the outlook of a signal, and when it reaches a limit.

INSERT INTO ml_setting (name, kind, minimum, maximum, default_value, value, meaning)
VALUES
    ('outlook_days', 'integer', 3, 90, '28', '28', 'Days of history that an outlook is made of.'),
    ('capacity_days', 'integer', 1, 15, '7', '7', 'Days ahead in which a signal that reaches its limit (ml_metric.limit_high, limit_low) makes an incident; ml_capacity looks twice as far.');

CREATE TABLE ml_capacity_state (
    device_uuid uuid NOT NULL,
    metric      text NOT NULL CHECK (length(metric) BETWEEN 1 AND 63),
    side        text NOT NULL CHECK (side IN ('high', 'low')),
    limit_value float8 NOT NULL,
    value       float8,
    slope       float8,
    earliest    timestamptz,
    probably    timestamptz,
    latest      timestamptz,
    days        integer NOT NULL,
    looked_at   timestamptz NOT NULL,
    why_not     text CHECK (length(why_not) <= 1000),
    PRIMARY KEY (device_uuid, metric, side),
    CHECK ((value IS NULL) = (why_not IS NOT NULL))
) WITH (fillfactor = 80);
COMMENT ON TABLE ml_capacity_state IS 'When each device''s signals reach their limits, one row a limit, as a scan found it once a day. The view ml_capacity shows it.';
COMMENT ON COLUMN ml_capacity_state.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_capacity_state.metric IS 'The metric''s name.';
COMMENT ON COLUMN ml_capacity_state.side IS 'high: limit_high of ml_metric, or of a rule, reached from below; low: limit_low, reached from above.';
COMMENT ON COLUMN ml_capacity_state.limit_value IS 'The limit.';
COMMENT ON COLUMN ml_capacity_state.value IS 'The metric''s last mean of an hour; NULL where there is no outlook.';
COMMENT ON COLUMN ml_capacity_state.slope IS 'How far it goes in a day; 0 where the outlook has no slope.';
COMMENT ON COLUMN ml_capacity_state.earliest IS 'When the 80 % band reaches the limit; NULL: not within days.';
COMMENT ON COLUMN ml_capacity_state.probably IS 'When the median reaches it; NULL: not within days.';
COMMENT ON COLUMN ml_capacity_state.latest IS 'When the whole 80 % band has reached it once; NULL: not within days.';
COMMENT ON COLUMN ml_capacity_state.days IS 'Days that were looked ahead.';
COMMENT ON COLUMN ml_capacity_state.looked_at IS 'Time of the newest reading of that look.';
COMMENT ON COLUMN ml_capacity_state.why_not IS 'Why there is no outlook; NULL where there is one.';

SELECT pg_catalog.pg_extension_config_dump('ml_capacity_state', '');
