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
END
$$;
