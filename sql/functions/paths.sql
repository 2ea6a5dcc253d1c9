-- Paths: where in a reported state a value stands, as people write it. pyml/paths.py reads them the same.

CREATE OR REPLACE FUNCTION _ml_parts(path text, OUT keys text[], OUT elements jsonpath[], OUT fault text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    quoted CONSTANT text := '"((?:[^"]|"")*)"';
    called CONSTANT text := '(?:' || quoted || '|([^]=."[]+))';
    rest text := path;
    found text[];
    value text;
    same text;
BEGIN
    IF path IS NULL THEN
        RETURN;
    END IF;
    keys := '{}';
    elements := '{}';
    LOOP
        -- The state itself may be an array.
        IF cardinality(keys) > 0 OR rest !~ (E'^\\[' || called || '=') THEN
            -- A bracket that begins no element is a character like others.
            found := coalesce(regexp_match(rest, '^' || quoted || '(.*)$'),
                regexp_match(rest, E'^((?!")(?:[^.[]|\\[(?!' || called || '=))+)(.*)$'));
            IF found IS NULL THEN
                fault := CASE WHEN rest ~ '^"' THEN 'a key in double quotes does not end'
                    WHEN rest ~ E'^\\[' THEN 'an element of an array is written [key=value], after what the array is called'
                    ELSE 'a part is empty: an empty key is written as ""' END;
                EXIT;
            END IF;
            keys := keys || CASE WHEN rest ~ '^"' THEN replace(found[1], '""', '"') ELSE found[1] END;
            elements := elements || NULL::jsonpath;
            rest := found[cardinality(found)];
        END IF;
        WHILE rest ~ E'^\\[' LOOP
            found := regexp_match(rest, E'^\\[' || called || '=(?:' || quoted || E'|([^]"][^]]*))\\](.*)$');
            IF found IS NULL THEN
                fault := 'an element of an array is written [key=value]';
                EXIT;
            END IF;
            same := '@.' || to_json(coalesce(replace(found[1], '""', '"'), found[2]))::text || ' == ';
            value := coalesce(replace(found[3], '""', '"'), found[4]);
            same := same || to_json(value)::text
                || CASE WHEN value ~ E'^-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?$' THEN ' || ' || same || value ELSE '' END;
            keys := keys || NULL::text;
            -- Strict: a lax one would also look into what is no array, and into arrays of arrays. JSON's way to quote a text is one of jsonpath's.
            elements := elements || ('strict $[*] ? (' || same || ')')::jsonpath;
            rest := found[5];
        END LOOP;
        EXIT WHEN fault IS NOT NULL OR rest = '';
        IF rest !~ E'^\\.' THEN
            fault := 'a part ends before a dot, a bracket or the end';
            EXIT;
        END IF;
        rest := substr(rest, 2);
    END LOOP;
    IF fault IS NOT NULL THEN
        keys := string_to_array(path, '.');
        elements := array_fill(NULL::jsonpath, ARRAY[cardinality(keys)]);
    ELSIF cardinality(keys) > 32 THEN -- each is a parameter of the statement that reads the history
        fault := 'it has more than 32 parts';
    ELSIF length(path) > 1000 THEN
        fault := 'it has more than 1000 characters';
    END IF;
END
$$;
COMMENT ON FUNCTION _ml_parts(text) IS 'The parts of a path, each a key (or the number of an element) or an element of an array by what one of its keys says; and what is wrong with the path, which is then parted at its dots.';

CREATE OR REPLACE FUNCTION _ml_at(state jsonb, path text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    parts record;
BEGIN
    IF path !~ '["[]' THEN
        RETURN state #> string_to_array(path, '.');
    END IF;
    parts := _ml_parts(path);
    FOR i IN 1 .. coalesce(cardinality(parts.keys), 0) LOOP
        state := CASE WHEN parts.elements[i] IS NULL THEN state #> parts.keys[i:i]
            ELSE jsonb_path_query_first(state, parts.elements[i], '{}', true) END;
    END LOOP;
    RETURN CASE WHEN path IS NOT NULL THEN state END;
END
$$;
COMMENT ON FUNCTION _ml_at(jsonb, text) IS 'What stands at a path of a state; NULL where nothing does.';
