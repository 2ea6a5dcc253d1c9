-- The current state of each device, beside the history of demo/history.sql.
-- Statements may be repeated; an existing table is left as it is.

CREATE TABLE IF NOT EXISTS device_shadows (
    device_uuid    uuid NOT NULL REFERENCES devices (uuid) ON DELETE CASCADE,
    shadow_name    varchar(255) NOT NULL,
    reported_state jsonb NOT NULL DEFAULT '{}',
    version        integer NOT NULL DEFAULT 0,
    "timestamp"    timestamp NOT NULL DEFAULT 'epoch', -- UTC wall clock
    PRIMARY KEY (device_uuid, shadow_name)
) WITH (fillfactor = 50); -- each message writes a row anew: on the same page, without its index
COMMENT ON TABLE device_shadows IS 'The current state of each device under each name, merged of what it reports.';
COMMENT ON COLUMN device_shadows.device_uuid IS 'The device.';
COMMENT ON COLUMN device_shadows.shadow_name IS 'Under which name it reports this state.';
COMMENT ON COLUMN device_shadows.reported_state IS 'What it has reported, merged: objects deep, null deletes.';
COMMENT ON COLUMN device_shadows.version IS 'The version of the newest message; 0 if none had one.';
COMMENT ON COLUMN device_shadows."timestamp" IS 'UTC wall clock of the newest message: its own, or when it came where that is later or its clock is bad.';
