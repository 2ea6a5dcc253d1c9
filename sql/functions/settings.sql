-- Checks of what people write: settings, metrics, and the forecast fields of devices.

CREATE OR REPLACE FUNCTION _ml_check_setting() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
    number float8;
    document jsonb;
    zone text;
BEGIN
    @PYML_AT_HOME@
    IF TG_OP IN ('DELETE', 'TRUNCATE') OR TG_OP = 'UPDATE' AND (NEW.name, NEW.kind, NEW.minimum, NEW.maximum)
       IS DISTINCT FROM (OLD.name, OLD.kind, OLD.minimum, OLD.maximum) THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'a setting is given another value, and nothing else',
            DETAIL = 'Each function relies on all settings, and on their kinds and ranges.',
            HINT = CASE TG_OP WHEN 'TRUNCATE' THEN format('UPDATE %I.ml_setting SET value = default_value;', TG_TABLE_SCHEMA)
                ELSE format('UPDATE %I.ml_setting SET value = default_value WHERE name = %L;', TG_TABLE_SCHEMA, OLD.name) END;
    END IF;
    IF TG_OP = 'INSERT' AND EXISTS (SELECT FROM ml_setting s WHERE s.name = NEW.name) THEN
        -- A restored dump brings rows that CREATE EXTENSION has already made.
        UPDATE ml_setting s SET value = NEW.value WHERE s.name = NEW.name;
        RETURN NULL;
    END IF;
    BEGIN
        CASE NEW.kind
            -- Kept as Python reads it too: PostgreSQL takes ' 1 ', and some servers 0x1p-6 and 1_000.
            WHEN 'integer' THEN number := NEW.value::bigint; NEW.value := NEW.value::bigint;
            WHEN 'number' THEN number := NEW.value::float8; NEW.value := number::numeric;
            WHEN 'json' THEN document := NEW.value::jsonb;
            WHEN 'table' THEN
                IF array_length(parse_ident(NEW.value), 1) IS DISTINCT FROM 2 THEN
                    wanted := 'a table as schema.name';
                END IF;
            WHEN 'zone' THEN
                PERFORM now() AT TIME ZONE NEW.value;
                IF NEW.name = 'calendar_time_zone' THEN
                    -- Python looks it up too, and knows neither abbreviations nor POSIX' own zones.
                    SELECT z.name INTO zone FROM pg_timezone_names z WHERE lower(z.name) = lower(NEW.value) ORDER BY z.name <> NEW.value LIMIT 1;
                    wanted := CASE WHEN zone IS NULL THEN 'the name of a time zone, as pg_timezone_names has it' END;
                    NEW.value := coalesce(zone, NEW.value);
                END IF;
            WHEN 'identifier' THEN
                IF length(NEW.value) > 63 OR (NEW.value = '' AND NEW.name NOT IN ('history_shadow_column', 'history_id_column')) THEN
                    wanted := 'a column name';
                END IF;
            ELSE NULL;
        END CASE;
    EXCEPTION WHEN data_exception THEN
        wanted := CASE NEW.kind WHEN 'integer' THEN 'a whole number' WHEN 'number' THEN 'a number'
            WHEN 'json' THEN 'a JSON document' WHEN 'table' THEN 'a table as schema.name'
            ELSE 'the name of a time zone' END;
    END;
    IF NEW.name = 'forecast_fields' AND (jsonb_typeof(document) <> 'array' OR document @? 'strict $[*] ? (@.type() != "string")') THEN
        wanted := 'a JSON array of fields';
    ELSIF NEW.name = 'forecast_fields' THEN
        SELECT format('a JSON array of fields, each a path or the name of a metric; in %s, %s', to_json(f.field), p.fault) INTO wanted
        FROM jsonb_array_elements_text(document) WITH ORDINALITY AS f (field, n), _ml_parts(f.field) AS p
        WHERE p.fault IS NOT NULL ORDER BY f.n LIMIT 1;
    END IF;
    IF NEW.name = 'history_time_unit' AND NEW.value NOT IN ('', 'seconds', 'milliseconds') THEN
        wanted := 'seconds, milliseconds or empty';
    END IF;
    IF number IS NOT NULL AND (number = 'NaN' OR NOT number BETWEEN NEW.minimum AND NEW.maximum) THEN
        wanted := format('from %s to %s', NEW.minimum, NEW.maximum);
    END IF;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004',
            MESSAGE = format('setting %I cannot be %L', NEW.name, NEW.value),
            DETAIL = format('It has to be %s. %s', wanted, NEW.meaning),
            HINT = format('UPDATE %I.ml_setting SET value = %L WHERE name = %L;', TG_TABLE_SCHEMA, NEW.default_value, NEW.name)
                || CASE NEW.name WHEN 'forecast_horizon' THEN ' -- ml_outlook(device, field, days => 7) looks days ahead' ELSE '' END;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_check_setting() IS 'Refuses a setting''s value that is of the wrong kind or out of range (ML004), and that a setting goes.';

CREATE OR REPLACE TRIGGER ml_setting_check BEFORE INSERT OR UPDATE OR DELETE ON ml_setting
    FOR EACH ROW EXECUTE FUNCTION _ml_check_setting();
CREATE OR REPLACE TRIGGER ml_setting_stay BEFORE TRUNCATE ON ml_setting
    FOR EACH STATEMENT EXECUTE FUNCTION _ml_check_setting();
COMMENT ON TRIGGER ml_setting_stay ON ml_setting IS 'Keeps the settings: each is needed (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_setting ENABLE ALWAYS TRIGGER ml_setting_check;
ALTER TABLE ml_setting ENABLE ALWAYS TRIGGER ml_setting_stay;
COMMENT ON TRIGGER ml_setting_check ON ml_setting IS 'Checks each value (ML004).';

CREATE OR REPLACE FUNCTION _ml_keep_metric() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
BEGIN
    @PYML_AT_HOME@
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = 'metrics that come with the extension cannot be deleted',
            DETAIL = 'They would come back with the next upgrade.',
            HINT = format('DELETE FROM %I.ml_metric WHERE NOT built_in;', TG_TABLE_SCHEMA);
    ELSIF TG_OP = 'DELETE' THEN
        IF OLD.built_in THEN
            RAISE EXCEPTION USING ERRCODE = 'ML004',
                MESSAGE = format('metric %I comes with the extension and cannot be deleted', OLD.name),
                DETAIL = 'It would come back with the next upgrade.',
                HINT = format('UPDATE %I.ml_metric SET enabled = false WHERE name = %L;',
                              TG_TABLE_SCHEMA, OLD.name);
        END IF;
        RETURN OLD;
    END IF;
    wanted := CASE
        WHEN NEW.name !~ '^[a-z][a-z0-9_]{0,62}$' THEN 'name has 1 to 63 of a to z, 0 to 9 and _, a letter first'
        WHEN NEW.name = ANY ('{timestamp,is_anomaly,anomaly_score,severity,rarity,reasons}') THEN 'each anomaly in the answer of ml_detect has that key already'
        WHEN (_ml_parts(NEW.path)).fault IS NOT NULL THEN 'a path such as system.cpuUsage, "my.key".value or sensors[name=t1].value; here, ' || (_ml_parts(NEW.path)).fault
        WHEN (_ml_parts(NEW.divisor_path)).fault IS NOT NULL THEN 'a divisor_path such as system.memoryTotal; here, ' || (_ml_parts(NEW.divisor_path)).fault
        WHEN NEW.scale = 0 OR NOT abs(NEW.scale) <= 1e12 THEN 'scale is not 0, and from -1e12 to 1e12'
        WHEN NEW.kind NOT IN ('gauge', 'counter') THEN 'kind is gauge or counter'
        WHEN NEW.kind = 'counter' AND NEW.divisor_path IS NOT NULL THEN 'a counter has no divisor_path'
        WHEN NOT (abs(NEW.lower_bound) <= 1e15 AND abs(NEW.upper_bound) <= 1e15) THEN 'bounds are from -1e15 to 1e15'
        WHEN NEW.lower_bound >= NEW.upper_bound THEN 'lower_bound is less than upper_bound'
        WHEN NOT length(NEW.unit) BETWEEN 1 AND 20 OR NEW.unit ~ '[[:cntrl:]]' THEN 'unit has 1 to 20 characters, none of them a control character'
        WHEN NOT (abs(NEW.limit_low) <= 1e15 AND abs(NEW.limit_high) <= 1e15) THEN 'limits are from -1e15 to 1e15'
        WHEN NEW.limit_low >= NEW.limit_high THEN 'limit_low is less than limit_high'
        WHEN NEW.direction IS NULL OR NEW.direction NOT IN ('both', 'up', 'down') THEN 'direction is both, up or down'
        WHEN NOT NEW.least_deviation BETWEEN 0 AND 1e15 THEN 'least_deviation is from 0 to 1e15' END;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('metric %L cannot be as it is given', NEW.name),
            DETAIL = format('Wanted: %s.', wanted),
            HINT = format('INSERT INTO %I.ml_metric (name, path) VALUES (''room_temperature'', ''sensors.room.temperature'');', TG_TABLE_SCHEMA);
    END IF;
    IF TG_OP = 'INSERT' AND NEW.built_in AND EXISTS (SELECT FROM ml_metric m WHERE m.name = NEW.name) THEN
        -- A restored dump brings rows that CREATE EXTENSION has already made.
        UPDATE ml_metric m SET path = NEW.path, divisor_path = NEW.divisor_path,
            scale = NEW.scale, kind = NEW.kind, unit = NEW.unit, lower_bound = NEW.lower_bound, upper_bound = NEW.upper_bound,
            limit_low = NEW.limit_low, limit_high = NEW.limit_high, direction = NEW.direction,
            least_deviation = NEW.least_deviation, enabled = NEW.enabled
        WHERE m.name = NEW.name;
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_keep_metric() IS 'Refuses a metric that cannot be read (ML004), and keeps those that come with the extension: they are disabled, not deleted.';

CREATE OR REPLACE TRIGGER ml_metric_keep BEFORE INSERT OR UPDATE OR DELETE ON ml_metric
    FOR EACH ROW EXECUTE FUNCTION _ml_keep_metric();
CREATE OR REPLACE TRIGGER ml_metric_stay BEFORE TRUNCATE ON ml_metric
    FOR EACH STATEMENT EXECUTE FUNCTION _ml_keep_metric();
COMMENT ON TRIGGER ml_metric_stay ON ml_metric IS 'Keeps the metrics that come with the extension (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_metric ENABLE ALWAYS TRIGGER ml_metric_keep;
ALTER TABLE ml_metric ENABLE ALWAYS TRIGGER ml_metric_stay;
COMMENT ON TRIGGER ml_metric_keep ON ml_metric IS 'Checks each metric, and keeps those that come with the extension (ML004).';

CREATE OR REPLACE FUNCTION _ml_check_fields() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted text;
BEGIN
    @PYML_AT_HOME@
    SELECT CASE WHEN f.field IS NULL THEN 'none of them NULL' ELSE format('in %s, %s', to_json(f.field), (_ml_parts(f.field)).fault) END INTO wanted
    FROM unnest(NEW.fields) WITH ORDINALITY AS f (field, n)
    WHERE f.field IS NULL OR (_ml_parts(f.field)).fault IS NOT NULL ORDER BY f.n LIMIT 1;
    IF wanted IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('forecast fields of device %s cannot be %L', NEW.device_uuid, NEW.fields),
            DETAIL = format('Wanted: fields, each a path or the name of a metric; %s.', wanted),
            HINT = format('INSERT INTO %1$I.ml_device_forecast VALUES (%2$L, ''{system.cpuUsage}'') ON CONFLICT (device_uuid) DO UPDATE SET fields = EXCLUDED.fields;',
                          TG_TABLE_SCHEMA, NEW.device_uuid);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_check_fields() IS 'Refuses a forecast field of a device that is no path and no metric''s name (ML004).';

CREATE OR REPLACE TRIGGER ml_device_forecast_check BEFORE INSERT OR UPDATE ON ml_device_forecast
    FOR EACH ROW EXECUTE FUNCTION _ml_check_fields();
COMMENT ON TRIGGER ml_device_forecast_check ON ml_device_forecast IS 'Checks each field (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_device_forecast ENABLE ALWAYS TRIGGER ml_device_forecast_check;

CREATE OR REPLACE FUNCTION _ml_device_settings(device uuid) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT coalesce((SELECT jsonb_strip_nulls(to_jsonb(d) - '{device_uuid,device_id,device_name}'::text[])
                     FROM ml_device d WHERE d.device_uuid = $1), '{}')
$$;
COMMENT ON FUNCTION _ml_device_settings(uuid) IS 'What ml_device says of a device in place of settings, by their names.';

CREATE OR REPLACE FUNCTION _ml_check_device() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    @PYML_AT_HOME@
    SELECT s.name, s.minimum, s.maximum, s.meaning, g.value INTO wrong
    FROM jsonb_each_text(to_jsonb(NEW)) AS g JOIN ml_setting s ON s.name = g.key
    WHERE g.value IS NOT NULL AND NOT g.value::float8 BETWEEN s.minimum AND s.maximum ORDER BY s.name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'ML004', MESSAGE = format('%s of device %s cannot be %L', wrong.name, NEW.device_id, wrong.value),
            DETAIL = format('It has to be from %s to %s. %s', wrong.minimum, wrong.maximum, wrong.meaning),
            HINT = format('UPDATE %I.ml_device SET %I = NULL WHERE device_id = %L;', TG_TABLE_SCHEMA, wrong.name, NEW.device_id);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _ml_check_device() IS 'Refuses what no setting of that name could be (ML004).';

CREATE OR REPLACE TRIGGER ml_device_check BEFORE INSERT OR UPDATE OF false_alarms_per_week, contamination, training_hours ON ml_device
    FOR EACH ROW EXECUTE FUNCTION _ml_check_device();
COMMENT ON TRIGGER ml_device_check ON ml_device IS 'Checks what stands in place of settings (ML004).';
-- Also where rows come by replication.
ALTER TABLE ml_device ENABLE ALWAYS TRIGGER ml_device_check;

CREATE OR REPLACE FUNCTION _ml_metric_of(field text) RETURNS SETOF ml_metric
LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER ROWS 1
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
    SELECT m.* FROM ml_metric m
    WHERE m.name = $1 OR m.path = $1 AND m.divisor_path IS NULL AND m.scale = 1 AND m.kind = 'gauge'
    ORDER BY m.name = $1 DESC, m.name COLLATE "C" LIMIT 1
$$;
COMMENT ON FUNCTION _ml_metric_of(text) IS 'The metric that a field names: by its name, or by its path where it is the plain value there.';
