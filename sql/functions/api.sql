-- The functions that need Python: train, score, forecast, draw.

CREATE OR REPLACE FUNCTION ml_train_forest(device uuid, hours int DEFAULT NULL, as_of timestamptz DEFAULT now(), contamination float8 DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ train_forest $python$;
COMMENT ON FUNCTION ml_train_forest IS 'Trains a device''s Isolation Forest and puts it in force. Too few readings: ML001.';

CREATE OR REPLACE FUNCTION ml_detect(device uuid, hours int DEFAULT 24, max_anomalies int DEFAULT 1000) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ detect $python$;
COMMENT ON FUNCTION ml_detect IS 'The anomalies of the last hours with their reasons, newest first, as one document. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_score(device uuid, since timestamptz, until timestamptz) RETURNS TABLE ("timestamp" timestamptz, anomaly_score float8, is_anomaly boolean, severity text, metrics jsonb, reasons jsonb)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ score $python$;
COMMENT ON FUNCTION ml_score IS 'Score, severity and reasons of each reading, as rows; a lower score is more anomalous. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_train_lstm(device uuid, field text DEFAULT NULL, hours int DEFAULT NULL, as_of timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ train_lstm $python$;
COMMENT ON FUNCTION ml_train_lstm IS 'Trains a forecast of a field and measures it. Too little data: ML001; no number there: ML003.';

CREATE OR REPLACE FUNCTION ml_forecast(device uuid, field text DEFAULT NULL, horizon int DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ forecast $python$;
COMMENT ON FUNCTION ml_forecast IS 'What comes next of a field, with 90 % intervals, as one document. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_predict(device uuid, field text, horizon int DEFAULT NULL, level float8 DEFAULT 0.9, as_of timestamptz DEFAULT now()) RETURNS TABLE ("timestamp" timestamptz, predicted_value float8, confidence_lower float8, confidence_upper float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ predict $python$;
COMMENT ON FUNCTION ml_predict IS 'What comes next of a field, as rows, at any level and as of any past time. No model: ML002.';

CREATE OR REPLACE FUNCTION ml_outlook(device uuid, field text, days int DEFAULT 7) RETURNS TABLE ("timestamp" timestamptz, predicted_value float8, lower_80 float8, upper_80 float8, lower_90 float8, upper_90 float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ look_ahead $python$;
COMMENT ON FUNCTION ml_outlook IS 'The next days of a field, hour by hour, with 80 and 90 % bands. Needs no model.';

CREATE OR REPLACE FUNCTION ml_history(device uuid, field text, since timestamptz DEFAULT now() - interval '1 day', until timestamptz DEFAULT now(), points int DEFAULT 1000) RETURNS TABLE ("timestamp" timestamptz, value float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ history $python$;
COMMENT ON FUNCTION ml_history IS 'Values of a field between two times, thinned to so many points with their extremes kept.';

CREATE OR REPLACE FUNCTION ml_histories(device uuid, since timestamptz DEFAULT now() - interval '1 day', until timestamptz DEFAULT now(), points int DEFAULT 200) RETURNS TABLE (metric text, "timestamp" timestamptz, value float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ histories $python$;
COMMENT ON FUNCTION ml_histories IS 'Values of every metric that a device reports between two times, each thinned like ml_history.';

CREATE OR REPLACE FUNCTION ml_usual(device uuid, metric text, since timestamptz DEFAULT now() - interval '1 day', until timestamptz DEFAULT now(), points int DEFAULT 1000) RETURNS TABLE ("timestamp" timestamptz, low float8, high float8)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ usual $python$;
COMMENT ON FUNCTION ml_usual IS 'Between what a metric usually is at each time: means of 15 minutes stay there on ordinary days.';

CREATE OR REPLACE FUNCTION ml_zscore(device uuid, field text, hours int DEFAULT 168, threshold float8 DEFAULT 2.5) RETURNS TABLE ("timestamp" timestamptz, value float8, z_score float8, is_anomaly boolean, severity text)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ zscore $python$;
COMMENT ON FUNCTION ml_zscore IS 'How many standard deviations each value of a field lies from the mean. Needs no model.';

CREATE OR REPLACE FUNCTION ml_store_model(device uuid, kind text, field text, blob bytea, about jsonb, replaces bigint DEFAULT NULL) RETURNS jsonb
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ store_model $python$;
COMMENT ON FUNCTION ml_store_model IS 'Puts a model in force that pyml.workers.fleet has trained outside the server.';

CREATE OR REPLACE FUNCTION ml_chart(device uuid, field text DEFAULT NULL, hours int DEFAULT 24) RETURNS text
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY INVOKER
AS $python$ draw -> svg $python$;
COMMENT ON FUNCTION ml_chart IS 'A picture (SVG) of a field: history, incidents, anomalies and forecast.';
