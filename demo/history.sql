-- The tables that pyml reads, as their owner has them: devices, and what each one reported.
-- Statements may be repeated; existing tables are left as they are.

CREATE TABLE IF NOT EXISTS devices (
    uuid uuid PRIMARY KEY,
    name varchar(255) NOT NULL
);

CREATE TABLE IF NOT EXISTS device_shadow_history (
    id             bigserial PRIMARY KEY,
    device_uuid    uuid NOT NULL REFERENCES devices (uuid) ON DELETE CASCADE,
    shadow_name    varchar(255) NOT NULL DEFAULT 'device-state',
    reported_state jsonb NOT NULL,
    version        integer DEFAULT 0,
    "timestamp"    timestamp NOT NULL, -- UTC wall clock
    created_at     timestamp DEFAULT CURRENT_TIMESTAMP
);

CREATE INDEX IF NOT EXISTS device_shadow_history_device_idx
    ON device_shadow_history (device_uuid);
CREATE INDEX IF NOT EXISTS device_shadow_history_timestamp_idx
    ON device_shadow_history ("timestamp" DESC);
CREATE INDEX IF NOT EXISTS device_shadow_history_device_timestamp_idx
    ON device_shadow_history (device_uuid, "timestamp" DESC);
CREATE INDEX IF NOT EXISTS device_shadow_history_device_shadow_timestamp_idx
    ON device_shadow_history (device_uuid, shadow_name, "timestamp" DESC);
CREATE INDEX IF NOT EXISTS device_shadow_history_state_idx
    ON device_shadow_history USING gin (reported_state);
