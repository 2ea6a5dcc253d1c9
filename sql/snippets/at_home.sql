IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'pyml'
        AND e.extnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('@extschema@')::pg_catalog.oid) THEN
    RAISE EXCEPTION USING ERRCODE = 'ML006', MESSAGE = 'the schema of extension pyml was renamed',
        DETAIL = 'It was created as @extschema@, and its functions look for each other and for its tables there.',
        HINT = (SELECT pg_catalog.concat(CASE WHEN pg_catalog.to_regnamespace('@extschema@') IS NOT NULL
                    THEN 'ALTER SCHEMA @extschema@ RENAME TO not_pyml; ' END,
                'ALTER SCHEMA ', e.extnamespace::pg_catalog.regnamespace, ' RENAME TO @extschema@;')
            FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'pyml');
END IF;
