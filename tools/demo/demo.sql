-- The demo, run by `make demo` in the new database `demo`, from the top of the repository.

CREATE EXTENSION IF NOT EXISTS pg_embed;

CREATE TABLE docs (
    id bigserial PRIMARY KEY,
    body text,
    embedding vector(384)
);

-- Every new or changed text gets its vector.
CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
    FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');

\echo '==> Loading the texts of tools/demo/texts.txt, each embedded by the trigger'
\timing on
\set QUIET off
\copy docs (body) FROM 'tools/demo/texts.txt'
\set QUIET on

\echo '==> Indexing the vectors'
\set QUIET off
CREATE INDEX ON docs USING ivf (embedding vector_cosine_ops);
\set QUIET on
\timing off
ANALYZE docs;
\timing on

\echo '==> Asking'
\set ECHO queries
SELECT body, embedding <=> embed('how do I get my money back?') AS distance
FROM docs
ORDER BY distance
LIMIT 5;

EXPLAIN (COSTS OFF)
SELECT body FROM docs ORDER BY embedding <=> embed('how do I get my money back?') LIMIT 5;
