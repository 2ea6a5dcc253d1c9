-- Every view and its COMMENT. Re-runnable: replaced whole at each upgrade.

CREATE OR REPLACE VIEW ml_models AS
SELECT m.model_id, m.device_uuid, m.kind, nullif(m.field, '') AS field, m.is_current, m.trained_at,
       m.window_start, m.window_end, m.readings_used, m.readings_rejected, m.parameters, m.figures,
       m.versions, m.seconds, octet_length(m.blob) AS bytes
FROM ml_model m;
COMMENT ON VIEW ml_models IS 'Each stored model without its blob: what it was trained on, what was measured, and whether it is in force.';

CREATE OR REPLACE VIEW ml_device_status AS
SELECT m.device_uuid,
       max(m.model_id) FILTER (WHERE m.kind = 'forest') AS forest_model_id,
       max(m.trained_at) FILTER (WHERE m.kind = 'forest') AS forest_trained_at,
       count(*) FILTER (WHERE m.kind = 'lstm') AS forecast_models,
       min(m.trained_at) AS oldest_model_at
FROM ml_model m
WHERE m.is_current
GROUP BY m.device_uuid;
COMMENT ON VIEW ml_device_status IS 'One row a device with a model in force: which, and how old.';
