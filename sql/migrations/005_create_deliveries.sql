-- Who is told of what happened: targets, and the delivery of each event to each.

CREATE TABLE ml_target (
    target        text PRIMARY KEY CHECK (target ~ '^[a-z][a-z0-9_-]{0,62}$'),
    severity      text NOT NULL CHECK (severity IN ('warning', 'critical')),
    kinds         text[],
    devices       text[],
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ml_target IS 'Who is told of events: one row a target of the notifiers. Each notifier writes its own; address and secret stay in its file. DELETE a row to tell a target no more.';
COMMENT ON COLUMN ml_target.target IS 'The target''s name in the notifier''s file.';
COMMENT ON COLUMN ml_target.severity IS 'The least severity that it is told of: warning or critical.';
COMMENT ON COLUMN ml_target.kinds IS 'The kinds of incidents that it is told of; NULL: all.';
COMMENT ON COLUMN ml_target.devices IS 'The devices that it is told of, by id or name, where * stands for anything; NULL: all.';
COMMENT ON COLUMN ml_target.registered_at IS 'From when on it is told.';
COMMENT ON COLUMN ml_target.seen_at IS 'When a notifier was last at work for it.';

CREATE TABLE ml_delivery (
    event_id     bigint NOT NULL REFERENCES ml_event ON DELETE CASCADE,
    target       text NOT NULL REFERENCES ml_target ON DELETE CASCADE,
    device_uuid  uuid,
    attempts     integer NOT NULL DEFAULT 0,
    waits_since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at      timestamptz DEFAULT clock_timestamp(),
    confirmed_at timestamptz,
    flood        bigint,
    error        text CHECK (length(error) <= 1000),
    PRIMARY KEY (event_id, target),
    CHECK (num_nulls(next_at, confirmed_at) >= 1)
);
COMMENT ON TABLE ml_delivery IS 'One row an event and target that is to be told of it, written with the event. The view ml_deliveries shows it.';
COMMENT ON COLUMN ml_delivery.event_id IS 'The event, a row of ml_event.';
COMMENT ON COLUMN ml_delivery.target IS 'Who is told.';
COMMENT ON COLUMN ml_delivery.device_uuid IS 'The event''s device; NULL where it is about scans.';
COMMENT ON COLUMN ml_delivery.attempts IS 'How often a notifier has tried to tell it.';
COMMENT ON COLUMN ml_delivery.waits_since IS 'From when on it has waited to be told.';
COMMENT ON COLUMN ml_delivery.next_at IS 'When it is tried next; NULL where it is not tried any more.';
COMMENT ON COLUMN ml_delivery.confirmed_at IS 'When the target has confirmed it; NULL where it has not. With next_at NULL too, it is a dead letter.';
COMMENT ON COLUMN ml_delivery.flood IS 'The event whose message was the first of a flood of which this one is part; NULL where it was told alone.';
COMMENT ON COLUMN ml_delivery.error IS 'Why the last attempt failed, without the target''s address.';

CREATE INDEX ml_delivery_waiting ON ml_delivery (target, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX ml_delivery_flood ON ml_delivery (flood) WHERE flood IS NOT NULL;

SELECT pg_catalog.pg_extension_config_dump('ml_target', '');
SELECT pg_catalog.pg_extension_config_dump('ml_delivery', '');
