-- pg_embed brings a type and an access method of its own: what makes them cannot be there twice.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_embed_pgvector') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = 'pg_embed and pg_embed_pgvector cannot be in one database',
            DETAIL = 'Both make the access method ivf. pg_embed_pgvector works on the vectors of pgvector.',
            HINT = 'To change over, DROP EXTENSION pg_embed_pgvector first.';
    ELSIF pg_catalog.to_regtype(pg_catalog.quote_ident(pg_catalog.current_schema()) || '.vector') IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = pg_catalog.format('there is a type "vector" in schema %I already', pg_catalog.current_schema()),
            DETAIL = 'pg_embed has a vector type of its own.',
            HINT = 'If it is pgvector''s, CREATE EXTENSION pg_embed_pgvector works with it. Else create pg_embed in another schema.';
    END IF;
END
$$;
