-- pg_embed_pgvector: what pg_embed does, on the type vector of the extension of that name, pgvector's. The search_path has
-- its schema while this runs.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_embed') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = 'pg_embed_pgvector and pg_embed cannot be in one database',
            DETAIL = 'Both make the access method ivf. pg_embed has a vector type of its own.',
            HINT = 'To change over, DROP EXTENSION pg_embed first.';
    END IF;
    -- What follows is about pgvector's objects, not others of the same names in the schema of this extension.
    IF (SELECT count(*) FROM pg_catalog.pg_depend
        WHERE deptype = 'e' AND refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
            AND refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'vector')
            AND (classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND objid = 'vector'::pg_catalog.regtype
                OR classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND objid IN (
                    '<->(vector,vector)'::pg_catalog.regoperator, '<#>(vector,vector)'::pg_catalog.regoperator,
                    '<=>(vector,vector)'::pg_catalog.regoperator))) <> 4
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = pg_catalog.format('schema %I hides the type or the operators of pgvector', pg_catalog.current_schema()),
            DETAIL = 'It has objects of the same names.',
            HINT = 'Create pg_embed_pgvector in another schema.';
    END IF;
END
$$;
