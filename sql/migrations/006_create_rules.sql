-- What people know: rules, and quiet windows.

CREATE TABLE ml_rule (
    rule_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid     uuid REFERENCES ml_device ON DELETE CASCADE,
    metric          text REFERENCES ml_metric ON DELETE CASCADE ON UPDATE CASCADE,
    direction       text CHECK (direction IN ('up', 'down', 'both')),
    least_deviation float8 CHECK (least_deviation BETWEEN 0 AND 1e15),
    limit_low       float8 CHECK (abs(limit_low) <= 1e15),
    limit_high      float8 CHECK (abs(limit_high) <= 1e15),
    mute            boolean NOT NULL DEFAULT false,
    reason          text CHECK (length(reason) <= 4000),
    until           timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text NOT NULL DEFAULT session_user,
    CHECK (limit_low < limit_high),
    CHECK (mute = (num_nonnulls(direction, least_deviation, limit_low, limit_high) = 0)),
    CHECK (metric IS NOT NULL OR num_nonnulls(least_deviation, limit_low, limit_high) = 0)
);
COMMENT ON TABLE ml_rule IS 'What is no trouble, one row a rule: of a metric, or all, of a device, or all. It mutes, or says in place of ml_metric which way, from how far on and from which limit on there is trouble. Add, change and delete rows; scans follow at once. What a rule keeps quiet stays in ml_finding. The view ml_rules shows it. ml_forget deletes its device''s.';
COMMENT ON COLUMN ml_rule.rule_id IS 'The rule''s number.';
COMMENT ON COLUMN ml_rule.device_uuid IS 'The device, as ml_uuid gives it; NULL: all.';
COMMENT ON COLUMN ml_rule.metric IS 'The metric''s name in ml_metric; NULL: all, and the device''s silence too.';
COMMENT ON COLUMN ml_rule.direction IS 'Which way of leaving the usual is trouble: up, down or both. NULL: as another rule or ml_metric says.';
COMMENT ON COLUMN ml_rule.least_deviation IS 'What differs from the usual by less is no trouble. NULL: as another rule or ml_metric says.';
COMMENT ON COLUMN ml_rule.limit_low IS 'Limit from below: a forecast that falls to it is a breach. NULL: as another rule or ml_metric says.';
COMMENT ON COLUMN ml_rule.limit_high IS 'Limit from above: a forecast that rises to it is a breach. NULL: as another rule or ml_metric says.';
COMMENT ON COLUMN ml_rule.mute IS 'Whether nothing is told. Such a rule says nothing else.';
COMMENT ON COLUMN ml_rule.reason IS 'Why, for those who come later.';
COMMENT ON COLUMN ml_rule.until IS 'What is still seen after this is told again; NULL: for ever.';
COMMENT ON COLUMN ml_rule.created_at IS 'When it was made.';
COMMENT ON COLUMN ml_rule.created_by IS 'Which role made it.';

CREATE TABLE ml_quiet (
    quiet_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid uuid REFERENCES ml_device ON DELETE CASCADE,
    metric      text REFERENCES ml_metric ON DELETE CASCADE ON UPDATE CASCADE,
    starts_at   timestamptz NOT NULL CHECK (isfinite(starts_at)),
    ends_at     timestamptz NOT NULL CHECK (isfinite(ends_at)),
    repeat      text CHECK (repeat IN ('daily', 'weekly')),
    zone        text NOT NULL DEFAULT 'UTC',
    reason      text CHECK (length(reason) <= 4000),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL DEFAULT session_user,
    CHECK (starts_at < ends_at)
);
COMMENT ON TABLE ml_quiet IS 'Quiet windows, one row a window: times in which nothing is told, and of which no training learns, of a metric, or all, of a device, or all. Add, change and delete rows; scans follow at once. What is found in one stays in ml_finding. The view ml_rules shows it. ml_forget deletes its device''s.';
COMMENT ON COLUMN ml_quiet.quiet_id IS 'The window''s number.';
COMMENT ON COLUMN ml_quiet.device_uuid IS 'The device, as ml_uuid gives it; NULL: all.';
COMMENT ON COLUMN ml_quiet.metric IS 'The metric''s name in ml_metric; NULL: all, and the device''s silence too.';
COMMENT ON COLUMN ml_quiet.starts_at IS 'When it begins, the first time.';
COMMENT ON COLUMN ml_quiet.ends_at IS 'When it ends, the first time.';
COMMENT ON COLUMN ml_quiet.repeat IS 'daily or weekly: it comes again at the same hour of the clock in zone; NULL: once.';
COMMENT ON COLUMN ml_quiet.zone IS 'Time zone of a window that comes again, by its name in pg_timezone_names.';
COMMENT ON COLUMN ml_quiet.reason IS 'Why, for those who come later.';
COMMENT ON COLUMN ml_quiet.created_at IS 'When it was made.';
COMMENT ON COLUMN ml_quiet.created_by IS 'Which role made it.';

CREATE INDEX ml_rule_device ON ml_rule (device_uuid);
CREATE INDEX ml_quiet_device ON ml_quiet (device_uuid);

SELECT pg_catalog.pg_extension_config_dump('ml_rule', '');
SELECT pg_catalog.pg_extension_config_dump('ml_rule_rule_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ml_quiet', '');
SELECT pg_catalog.pg_extension_config_dump('ml_quiet_quiet_id_seq', '');
