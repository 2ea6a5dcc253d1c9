-- The functions that need Python: train, score, forecast, draw.

CREATE OR REPLACE FUNCTION ml_train_forest(device uuid, hours int DEFAULT NULL, as_of timestamptz DEFAULT now(), contamination float8 DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ train_forest $python$;
COMMENT ON FUNCTION ml_train_forest IS 'Trains an Isolation Forest on the readings of the last hours up to as_of and puts it in force. hours and contamination are those of the settings (training_hours, contamination) where they are not given; those given stay, also for ml_retrain, until the next call without them (ml_model_info: parameters, given). Gives model_id, training_samples, features, contamination, held-out figures and seconds. Too few readings: ML001.';

CREATE OR REPLACE FUNCTION ml_detect(device uuid, hours int DEFAULT 24, max_anomalies int DEFAULT 1000) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ detect $python$;
COMMENT ON FUNCTION ml_detect IS 'Scores the last hours of readings with the device''s forest: one document with the anomalies, newest first (at most max_anomalies of them; anomalies_detected counts all), each with its score (lower is more anomalous), severity, rarity (hours between two like it, on ordinary days) and reasons (metric, kind, sentence, value, usual_low, usual_high, contribution). Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_score(device uuid, since timestamptz, until timestamptz) RETURNS TABLE ("timestamp" timestamptz, anomaly_score float8, is_anomaly boolean, severity text, metrics jsonb, reasons jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ score $python$;
COMMENT ON FUNCTION ml_score IS 'Scores each reading with since < timestamp <= until with the device''s forest, one row each in time order. Score: lower is more anomalous; severity: none, warning or critical. Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_train_lstm(device uuid, field text DEFAULT NULL, hours int DEFAULT NULL, as_of timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ train_lstm $python$;
COMMENT ON FUNCTION ml_train_lstm IS 'Trains an LSTM that forecasts a numeric field, given as a path or as a metric''s name, on the last hours up to as_of. Without a field: system.cpuUsage where the device reports it, else its first enabled metric by name that it reports. It is put in force unless the one in force is better on held-out data. hours are those of the setting training_hours where they are not given; those given stay, also for ml_retrain, until the next call without them (ml_model_info: parameters, given). Scans follow it if the field is in forecast_fields or ml_device_forecast, or a name or path in ml_metric. Gives model_id, sequence_length, forecast_horizon, held-out error beside the naive forecasts'', coverage and seconds. Too little data: ML001; no number there: ML003.';

CREATE OR REPLACE FUNCTION ml_forecast(device uuid, field text DEFAULT NULL, horizon int DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ forecast $python$;
COMMENT ON FUNCTION ml_forecast IS 'Forecasts a field from the device''s last reading: one document with the predictions, each with its 90 % interval, and the model''s measured coverage and error. Without a field: system.cpuUsage where it has a model, else the first that has one, enabled metrics first; the document says which (field). Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_predict(device uuid, field text, horizon int DEFAULT NULL, level float8 DEFAULT 0.9, as_of timestamptz DEFAULT now()) RETURNS TABLE ("timestamp" timestamptz, predicted_value float8, confidence_lower float8, confidence_upper float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ predict $python$;
COMMENT ON FUNCTION ml_predict IS 'The forecast as rows, with the interval that covers the given share (level), made with only the readings up to as_of. Writes nothing. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_outlook(device uuid, field text, days int DEFAULT 7) RETURNS TABLE ("timestamp" timestamptz, predicted_value float8, lower_80 float8, upper_80 float8, lower_90 float8, upper_90 float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ look_ahead $python$;
COMMENT ON FUNCTION ml_outlook IS 'The next days of a field (a path or a metric''s name), a row an hour, or as often as the field comes where that is more seldom: the mean of that time from timestamp on, with the bands that hold it in 80 and in 90 of 100 cases, as far as the field''s own past tells. Needs no model: of the last outlook_days it tries rhythms, slopes and levels, and uses what would have erred least. Goes on from the last value. Writes nothing. Less than three days of values: ML001; no number there: ML003.';

CREATE OR REPLACE FUNCTION ml_history(device uuid, field text, since timestamptz DEFAULT now() - interval '1 day', until timestamptz DEFAULT now(), points int DEFAULT 1000) RETURNS TABLE ("timestamp" timestamptz, value float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ history $python$;
COMMENT ON FUNCTION ml_history IS 'Values of a field (a path or a metric''s name) with since < timestamp <= until, in time order. Where there are more than points, the least and the greatest of each of points/2 parts of the span stand for all: extremes are kept. What is no measurement (out of the metric''s bounds, junk) is left out. No number there: ML003; no readings: ML001; no such device: ML002.';

CREATE OR REPLACE FUNCTION ml_zscore(device uuid, field text, hours int DEFAULT 168, threshold float8 DEFAULT 2.5) RETURNS TABLE ("timestamp" timestamptz, value float8, z_score float8, is_anomaly boolean, severity text)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ zscore $python$;
COMMENT ON FUNCTION ml_zscore IS 'Needs no model: how many standard deviations each value of a field (a path or a metric''s name) lies from the mean of the window. Beyond threshold it is an anomaly, beyond 3 a critical one. Fewer than ten values: no judgement; a constant: none is anomalous. What is no measurement (out of the metric''s bounds, junk) is left out. No number there: ML003; no readings: ML001; no such device: ML002.';

CREATE OR REPLACE FUNCTION ml_store_model(device uuid, kind text, field text, blob bytea, about jsonb, replaces bigint DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ store_model $python$;
COMMENT ON FUNCTION ml_store_model IS 'Puts a model in force that pyml.workers.fleet has trained outside the server, if the one in force is still replaces (NULL: none). field is empty for a forest; about is what else a row of ml_model holds: window_start and window_end in seconds since 1970, readings_used, readings_rejected, parameters, figures, versions, seconds. Gives model_id, of the model now in force, and accepted. A blob that no training writes: ML005.';

CREATE OR REPLACE FUNCTION ml_chart(device uuid, field text DEFAULT NULL, hours int DEFAULT 24) RETURNS text
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ draw -> svg $python$;
COMMENT ON FUNCTION ml_chart IS 'A picture (SVG) of a field''s last hours: the readings, the device''s incidents, what its forest finds anomalous, and the forecast with its 90 % interval (from 72 hours on the outlook, of days); a missing model is said in it. Without a field: system.cpuUsage where the device reports it, else its first enabled metric by name that it reports. Times are in the session''s time zone. Save it with psql -At -o chart.svg and open it in a browser. Writes nothing. No number there: ML003.';
