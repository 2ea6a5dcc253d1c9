-- Models are immutable rows: a training adds one and moves the is_current mark.

CREATE TABLE ml_model (
    model_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid       uuid NOT NULL,
    kind              text NOT NULL,
    field             text NOT NULL DEFAULT '',
    is_current        boolean NOT NULL,
    trained_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    window_start      timestamptz NOT NULL,
    window_end        timestamptz NOT NULL,
    readings_used     integer NOT NULL,
    readings_rejected integer NOT NULL,
    parameters        jsonb NOT NULL,
    figures           jsonb NOT NULL,
    versions          jsonb NOT NULL,
    seconds           float8 NOT NULL,
    sha256            text NOT NULL,
    blob              bytea NOT NULL,
    trained_with      bigint,
    CHECK (isfinite(trained_at) AND isfinite(window_start) AND isfinite(window_end)),
    -- Everybody who reads the models pays for them.
    CHECK (octet_length(parameters::text) <= 1048576),
    CHECK (octet_length(figures::text) <= 65536),
    CHECK (octet_length(versions::text) <= 65536)
);
COMMENT ON TABLE ml_model IS 'Trained models, one immutable row each; is_current marks the one in force for a device, kind and field.';
COMMENT ON COLUMN ml_model.model_id IS 'The model''s number; later trainings have greater ones.';
COMMENT ON COLUMN ml_model.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_model.kind IS 'forest (Isolation Forest), lstm (a forecast), or a finder that was trained with the forest: level, stuck, presence, junk.';
COMMENT ON COLUMN ml_model.is_current IS 'Whether it is the model in force for its device, kind and field.';
COMMENT ON COLUMN ml_model.trained_at IS 'When it was stored.';
COMMENT ON COLUMN ml_model.field IS 'The forecast field of an LSTM; empty for a forest.';
COMMENT ON COLUMN ml_model.window_start IS 'Time of the first reading trained on.';
COMMENT ON COLUMN ml_model.window_end IS 'Time of the last reading trained on.';
COMMENT ON COLUMN ml_model.readings_used IS 'Readings trained on.';
COMMENT ON COLUMN ml_model.readings_rejected IS 'Rows of the window without one usable number.';
COMMENT ON COLUMN ml_model.parameters IS 'Settings, metrics and seed of the training.';
COMMENT ON COLUMN ml_model.figures IS 'What was measured on data held out from the fit.';
COMMENT ON COLUMN ml_model.versions IS 'Versions of the libraries that trained it.';
COMMENT ON COLUMN ml_model.seconds IS 'How long the training took.';
COMMENT ON COLUMN ml_model.sha256 IS 'Checksum of blob, in hexadecimal.';
COMMENT ON COLUMN ml_model.trained_with IS 'Of a finder the model_id of the forest of the same training: it is in force while that is, and goes when that goes. NULL for a model that was trained by itself.';
COMMENT ON COLUMN ml_model.blob IS 'The model as one ONNX file, with features and calibration in its metadata.';

-- A model is packed at each training and unpacked at each scan: lz4 takes a quarter of the time.
DO $$
BEGIN
    ALTER TABLE ml_model ALTER COLUMN blob SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN -- of a server built without it
END
$$;

CREATE UNIQUE INDEX ml_model_current ON ml_model (device_uuid, kind, field) WHERE is_current;
CREATE INDEX ml_model_with ON ml_model (trained_with) WHERE trained_with IS NOT NULL;
CREATE INDEX ml_model_history ON ml_model (device_uuid, kind, field, model_id DESC);

-- A table of its own: these belong to no device.
CREATE TABLE ml_fleet_model (
    kind    text NOT NULL,
    field   text NOT NULL DEFAULT '',
    made_at timestamptz NOT NULL DEFAULT now(),
    devices integer NOT NULL,
    sha256  text NOT NULL,
    blob    bytea NOT NULL,
    PRIMARY KEY (kind, field)
);
COMMENT ON TABLE ml_fleet_model IS 'What stands in for the models of a device that has none of its own yet, one row a kind. ml_retrain makes it of the models in force. It holds what is ordinary on most devices, and nothing of a single one.';
COMMENT ON COLUMN ml_fleet_model.kind IS 'As in ml_model.kind.';
COMMENT ON COLUMN ml_fleet_model.field IS 'The forecast field; empty for a finder.';
COMMENT ON COLUMN ml_fleet_model.made_at IS 'When it was made.';
COMMENT ON COLUMN ml_fleet_model.devices IS 'Devices of whose models it was made.';
COMMENT ON COLUMN ml_fleet_model.sha256 IS 'Checksum of blob, in hexadecimal.';
COMMENT ON COLUMN ml_fleet_model.blob IS 'The model, as in ml_model.blob.';

CREATE TABLE ml_run (
    run_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_uuid uuid NOT NULL,
    kind        text NOT NULL,
    field       text NOT NULL DEFAULT '',
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seconds     float8 NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('trained', 'kept', 'failed', 'absent')),
    model_id    bigint,
    sqlstate    text,
    error       text,
    figures     jsonb CHECK (octet_length(figures::text) <= 65536),
    asked       text
);
COMMENT ON TABLE ml_run IS 'Each training attempt that was committed: device, outcome, error, seconds. Outcome kept: the new model was worse than the one in force, which stays. Outcome absent: a field of the setting forecast_fields that the device does not report.';
COMMENT ON COLUMN ml_run.run_id IS 'The attempt''s number.';
COMMENT ON COLUMN ml_run.device_uuid IS 'The device.';
COMMENT ON COLUMN ml_run.kind IS 'forest or lstm.';
COMMENT ON COLUMN ml_run.field IS 'The forecast field of an LSTM; empty for a forest.';
COMMENT ON COLUMN ml_run.started_at IS 'When it began.';
COMMENT ON COLUMN ml_run.seconds IS 'How long it took.';
COMMENT ON COLUMN ml_run.outcome IS 'trained, kept (the model in force was better), failed, or absent (the device does not report the field, and nobody asked for it by the device).';
COMMENT ON COLUMN ml_run.sqlstate IS 'SQLSTATE of the error; NULL where there was none.';
COMMENT ON COLUMN ml_run.error IS 'The error''s message.';
COMMENT ON COLUMN ml_run.model_id IS 'The model that came of it.';
COMMENT ON COLUMN ml_run.figures IS 'What was measured on held-out data.';
COMMENT ON COLUMN ml_run.asked IS 'Of a failed or absent attempt a digest of the settings and metrics then: one for others does not have to wait.';

CREATE INDEX ml_run_device ON ml_run (device_uuid, kind, field, started_at DESC);
CREATE INDEX ml_run_recent ON ml_run (started_at DESC);
CREATE INDEX ml_run_failed ON ml_run (started_at DESC) WHERE outcome = 'failed';

SELECT pg_catalog.pg_extension_config_dump('ml_model', '');
SELECT pg_catalog.pg_extension_config_dump('ml_model_model_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ml_fleet_model', '');
SELECT pg_catalog.pg_extension_config_dump('ml_run', '');
SELECT pg_catalog.pg_extension_config_dump('ml_run_run_id_seq', '');
