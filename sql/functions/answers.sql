-- How a function that needs Python answers, and what each function does first.

-- It is a thin plpgsql function over a PL/Python one whose name begins with
-- an underscore. The Python side hands a user's mistake over as data, and this
-- raises it, so that the user reads the error and not a Python traceback.

-- Two texts of sql/snippets stand in many bodies, where a function would have to be looked up
-- by its name. PYML_LOAD loads the Python package into the session, once. It is found at one
-- path, fixed when the extension is installed: a path that a user could set would be a way to
-- run code as the server. It is loaded without a statement: plpy.execute opens a
-- subtransaction, and in parallel mode its error would jump over Python's frames.
-- PYML_AT_HOME raises ML006 where the schema that this extension's functions look things
-- up in is not the extension's: it was renamed, and may be anybody's by now.

CREATE OR REPLACE FUNCTION _ml_raise(error jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    hint text := error ->> 'hint';
    verb text;
BEGIN
    IF hint IS NULL THEN -- an error of PostgreSQL's own, such as a cancel
        RAISE EXCEPTION USING ERRCODE = error ->> 'sqlstate', MESSAGE = error ->> 'message';
    END IF;
    -- As a person has to type it whose search_path lacks the extension's schema. No pattern: there
    -- may be no room left on the stack to compile one.
    FOREACH verb IN ARRAY '{SELECT,FROM,CALL,UPDATE,INTO}'::text[] LOOP
        hint := replace(hint, verb || ' ml_', verb || ' @extschema@.ml_');
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = error ->> 'sqlstate', MESSAGE = error ->> 'message',
        DETAIL = coalesce(error ->> 'detail', ''),
        HINT = hint;
END
$$;
COMMENT ON FUNCTION _ml_raise(jsonb) IS 'Raises the error that the Python side handed over.';

CREATE OR REPLACE FUNCTION _ml_at_home() RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    @PYML_AT_HOME@
END
$$;
COMMENT ON FUNCTION _ml_at_home() IS 'Raises ML006 where the extension''s schema was renamed; for workers outside the server, which call inner functions.';

CREATE OR REPLACE FUNCTION _ml_answer(answer jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF answer ? 'error' THEN
        PERFORM _ml_raise(answer -> 'error');
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION _ml_answer(jsonb) IS 'The answer itself, or the error that it carries, raised.';

CREATE OR REPLACE FUNCTION _ml_notice(words text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$ BEGIN RAISE NOTICE '%', words; END $$;
COMMENT ON FUNCTION _ml_notice(text) IS 'Sends the client a NOTICE from the Python side.';
