-- Trouble, told once: incidents, and what happened to them.

INSERT INTO ml_setting (name, kind, minimum, maximum, default_value, value, meaning)
VALUES
    ('false_alarms_per_week', 'number', 0.01, 100, '1', '1', 'Incidents of a device in a week in which nothing is wrong: how often pyml may speak for nothing. What comes more often on ordinary days makes no incident.'),
    ('incident_days', 'integer', 1, 36500, '365', '365', 'Days that ml_incident and ml_event keep what is resolved.');

CREATE TABLE ml_incident (
    incident_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid     uuid NOT NULL,
    kind            text NOT NULL CHECK (length(kind) BETWEEN 1 AND 31),
    state           text NOT NULL CHECK (state IN ('open', 'acknowledged', 'resolved')),
    severity        text NOT NULL CHECK (severity IN ('warning', 'critical')),
    leading_metric  text NOT NULL,
    started_at      timestamptz NOT NULL,
    opened_at       timestamptz NOT NULL,
    ended_at        timestamptz NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text,
    resolved_at     timestamptz,
    resolved_by     text,
    why             text CHECK (why IN ('over', 'became usual', 'joined', 'a person', 'a rule', 'retired')),
    note            text CHECK (length(note) <= 4000),
    rarity          float8,
    summary         text NOT NULL CHECK (length(summary) <= 8000),
    evidence        jsonb NOT NULL CHECK (jsonb_typeof(evidence) = 'object' AND octet_length(evidence::text) <= 262144),
    updated_at      timestamptz NOT NULL,
    CHECK (started_at <= ended_at),
    CHECK ((state = 'resolved') = (resolved_at IS NOT NULL) AND (state = 'resolved') = (why IS NOT NULL))
);
COMMENT ON TABLE ml_incident IS 'Trouble of devices, one row a trouble, made of findings by ml_scan. The view ml_incidents shows it.';
COMMENT ON COLUMN ml_incident.incident_id IS 'The incident''s number.';
COMMENT ON COLUMN ml_incident.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_incident.kind IS 'What is wrong, as far as is known: value (one metric is where it never is), combination (metrics are not together as usual), forecast, level, drift, breach, stuck, missing, junk, silent (as in ml_finding).';
COMMENT ON COLUMN ml_incident.state IS 'open, acknowledged (somebody knows of it) or resolved.';
COMMENT ON COLUMN ml_incident.severity IS 'warning or critical: the worst so far. Critical is what comes once in three months on ordinary days.';
COMMENT ON COLUMN ml_incident.leading_metric IS 'The metric that it is chiefly about; empty where it is the device.';
COMMENT ON COLUMN ml_incident.started_at IS 'When the trouble began.';
COMMENT ON COLUMN ml_incident.opened_at IS 'When a scan could first tell of it.';
COMMENT ON COLUMN ml_incident.ended_at IS 'When it was last seen.';
COMMENT ON COLUMN ml_incident.acknowledged_at IS 'When somebody acknowledged it; NULL where nobody has.';
COMMENT ON COLUMN ml_incident.acknowledged_by IS 'Which role did.';
COMMENT ON COLUMN ml_incident.resolved_at IS 'When it was found to be over; NULL while it is not.';
COMMENT ON COLUMN ml_incident.resolved_by IS 'Which role resolved it; NULL where it is over by itself.';
COMMENT ON COLUMN ml_incident.why IS 'Why it is resolved: over, became usual (it lasted for three days), joined (it turned out to be part of another incident), a person, a rule (or a quiet window, which says that it is no trouble), retired (the device).';
COMMENT ON COLUMN ml_incident.note IS 'What somebody said of it.';
COMMENT ON COLUMN ml_incident.rarity IS 'Hours between two such findings on ordinary days: of its rarest one; NULL where not known.';
COMMENT ON COLUMN ml_incident.summary IS 'The trouble in words.';
COMMENT ON COLUMN ml_incident.evidence IS 'What makes the case: detector and evidence of the leading finding, metrics, and the findings; how many readings were anomalous (readings), the lowest score (worst_score) and who spoke (detectors).';
COMMENT ON COLUMN ml_incident.updated_at IS 'As of which time it was last written.';

CREATE INDEX ml_incident_recent ON ml_incident (started_at DESC, device_uuid);
CREATE INDEX ml_incident_device ON ml_incident (device_uuid, ended_at DESC);
CREATE INDEX ml_incident_unresolved ON ml_incident (device_uuid) WHERE state <> 'resolved';
CREATE INDEX ml_incident_ended ON ml_incident (ended_at DESC);

CREATE TABLE ml_event (
    event_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id bigint,
    device_uuid uuid,
    event       text NOT NULL CHECK (event IN ('opened', 'escalated', 'acknowledged', 'resolved', 'stalled', 'resumed')),
    happened_at timestamptz NOT NULL,
    replayed    boolean NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nulls(incident_id, device_uuid) = CASE WHEN event IN ('stalled', 'resumed') THEN 2 ELSE 0 END)
);
COMMENT ON TABLE ml_event IS 'What happened to incidents, and to scans, in order: what is to be told.';
COMMENT ON COLUMN ml_event.event_id IS 'The event''s number; events of one incident happened in the order of theirs.';
COMMENT ON COLUMN ml_event.incident_id IS 'The incident; NULL where it is about scans.';
COMMENT ON COLUMN ml_event.device_uuid IS 'Its device.';
COMMENT ON COLUMN ml_event.event IS 'Of an incident: opened, escalated (from warning to critical), acknowledged or resolved. Of the fleet''s scans: stalled (none came for three of their intervals) or resumed.';
COMMENT ON COLUMN ml_event.happened_at IS 'When: now, or the time that is replayed.';
COMMENT ON COLUMN ml_event.replayed IS 'Whether a replay (as_of) made it, of which nobody is to be told.';
COMMENT ON COLUMN ml_event.written_at IS 'When it was written.';

CREATE INDEX ml_event_incident ON ml_event (incident_id, event_id);
CREATE INDEX ml_event_device ON ml_event (device_uuid);

SELECT pg_catalog.pg_extension_config_dump('ml_incident', '');
SELECT pg_catalog.pg_extension_config_dump('ml_incident_incident_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ml_event', '');
SELECT pg_catalog.pg_extension_config_dump('ml_event_event_id_seq', '');
