-- embed and its kin, with tests/data/tiny-bert (32 dimensions, 64 tokens) as the default model.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_embed;
RESET client_min_messages;
SHOW pg_embed.default_model;

-- One text: values as Python's onnxruntime computes them, in tests/data/tiny-bert.expected.json.
SELECT vector_dims(embed('hello world')), round(vector_norm(embed('hello world'))::numeric, 5) AS norm;
SELECT array_agg(round(x::numeric, 3)) FROM unnest(subvector(embed('hello world'), 1, 4)::real[]) AS x;
SELECT embed('hello world') = embed('tiny-bert', 'hello world') AS same;
SELECT embed('Hello  WORLD') = embed('hello world') AS lower_cased_by_the_model;

-- NULL and blank texts have no vector.
SELECT embed(NULL::text) IS NULL, embed('tiny-bert', NULL::text) IS NULL, embed(NULL, 'text') IS NULL;
SELECT embed('') IS NULL AS empty, embed(E' \t\n') IS NULL AS blank, embed(E'\u0001\u200b') IS NULL AS control;

-- Many texts: order, duplicates, NULLs, dimensions and bounds are kept.
SELECT i, v IS NULL AS is_null, v <-> embed(t) < 1e-5 AS same
FROM unnest(ARRAY['one', NULL, 'a much longer text than the others are', 'one', '', 'two'],
            embed(ARRAY['one', NULL, 'a much longer text than the others are', 'one', '', 'two']))
     WITH ORDINALITY AS u(t, v, i);
SELECT embed('{}'::text[]), embed(NULL::text[]);
SELECT array_dims(embed('[5:6][0:1]={{a,b},{c,d}}'::text[])), array_dims(embed('tiny-bert', ARRAY['a', NULL]));
SELECT pg_typeof(embed(ARRAY['a']));

-- A dynamically quantised model runs one text at a time: bit for bit the same alone and in company.
SELECT (embed('tiny-int8', ARRAY['hello world', 'the quick brown fox', 'a']))[1] = embed('tiny-int8', 'hello world') AS same;
-- A model that pools by itself.
SELECT embed('tiny-pooled', 'hello world') <-> embed('tiny-bert', 'hello world') < 1e-5 AS same;

-- These models have no prefixes.
SELECT embed_query('hello world') = embed('hello world') AS same, embed_query('tiny-int8', 'a') = embed('tiny-int8', 'a') AS same;

-- Search texts by the quantised twin of the model that embeds the documents.
SELECT (embed('tiny-q8', ARRAY['hello world', 'the quick brown fox', 'a']))[1] = embed('tiny-q8', 'hello world') AS same;
SET pg_embed.query_model = 'tiny-q8';
SELECT embed_query('hello world') = embed('tiny-q8', 'hello world') AS by_the_twin, embed_query('hello world') <=> embed('hello world') < 0.001 AS near,
       embed_query('tiny-bert', 'a') = embed('tiny-bert', 'a') AS as_named;
SET pg_embed.query_model = 'no-such-model';
\set VERBOSITY terse
SELECT embed_query('hello world');
\set VERBOSITY default
RESET pg_embed.query_model;

SELECT token_count('hello world'), token_count(''), token_count('tiny-bert', repeat('word ', 1000)) > 64 AS more_than_it_sees;

-- Parts that the model sees whole: at most as long as asked, split at paragraphs, then sentences, then words; offsets are substr's.
CREATE TABLE manual (body text);
INSERT INTO manual VALUES ('# Returns

Send it back within ten days. The label is in the box; naïve wörds and 日本語 count, too.

# Refunds

They take five days.

');
SELECT c.* FROM manual, chunk(body, 20) AS c;
SELECT ordinal, start_offset, tokens, substr(body, start_offset, end_offset - start_offset) = content AS same, token_count(content) = tokens AS counted
FROM manual, chunk(body, max_tokens => 16, overlap => 4, format => 'markdown', model => 'tiny-int8');
SELECT ordinal, tokens FROM chunk(repeat('word ', 100));
SELECT count(*) FROM chunk(NULL);
SELECT count(*) FROM chunk(E' \n\u0001');
SELECT * FROM chunk('text', NULL, NULL, NULL, NULL);
SELECT * FROM chunk('text', 5);
SELECT * FROM chunk('text', 65);
SELECT * FROM chunk('text', -1);
SELECT * FROM chunk('text', 10, 8);
SELECT * FROM chunk('text', 10, -1);
SELECT * FROM chunk('text', format => 'html');
\set VERBOSITY terse
SELECT * FROM chunk('text', model => 'no-such-model');
\set VERBOSITY default
DROP TABLE manual;

SELECT name, task, dimensions, max_tokens, pooling, document_prefix, query_prefix, precision, twin_of, path IS NOT NULL AS path, error
FROM embed_models() WHERE name LIKE 'tiny%' ORDER BY name;

-- Volatility: what a generated column and an index need, and what only a query may use.
SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, provolatile, proisstrict, proparallel, prosupport
FROM pg_proc WHERE proname IN ('embed', 'embed_query', 'token_count', 'chunk', 'embed_models', 'embed_stats', 'embed_trigger') ORDER BY 1, 2;
CREATE TABLE generated (body text, embedding vector(32) GENERATED ALWAYS AS (embed('tiny-bert', body)) STORED);
INSERT INTO generated VALUES ('hello world'), (NULL), ('the quick brown fox');
SELECT body, embedding <=> embed('hello world') < 1e-6 AS same FROM generated;
CREATE INDEX ON generated ((embed('tiny-bert', body)));
SET enable_seqscan = off;
SET plan_cache_mode = force_generic_plan;
PREPARE same (vector) AS SELECT body FROM generated WHERE embed('tiny-bert', body) = $1;
EXPLAIN (COSTS off) EXECUTE same (NULL);
DEALLOCATE same;
RESET plan_cache_mode;
SELECT body FROM generated WHERE embed('tiny-bert', body) = embed('tiny-bert', 'hello world');
RESET enable_seqscan;
CREATE TABLE refused (body text, embedding vector GENERATED ALWAYS AS (embed(body)) STORED);
DROP TABLE generated;

-- The planner: a column costs a run of the model a row, a constant one run in all.
CREATE TABLE texts AS SELECT 'text ' || i AS body, embed('tiny-bert', 'x') AS v FROM generate_series(1, 100) AS i;
ANALYZE texts;
CREATE FUNCTION total_cost(query text) RETURNS numeric LANGUAGE plpgsql AS
$$DECLARE plan json; BEGIN EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
  RETURN round((plan -> 0 -> 'Plan' ->> 'Total Cost')::numeric / 250, 1); END$$;
SET max_parallel_workers_per_gather = 0;
SELECT total_cost('SELECT embed(body) FROM texts') AS runs, total_cost('SELECT v <=> embed(''constant'') FROM texts') AS runs;
RESET max_parallel_workers_per_gather;
DROP FUNCTION total_cost(text);

-- Names
SELECT embed('../tiny-bert', 'text');
SELECT embed('tiny/bert', 'text');
SELECT embed('..', 'text');
SELECT embed('', 'text');
SELECT token_count('../tiny-bert', 'text');
BEGIN;
SET LOCAL pg_embed.model_path = '/nonexistent';
SELECT embed('no-such-model', 'text');
ROLLBACK;
SELECT embed('tiny-bert', 'text') IS NOT NULL AS usable;

-- Settings
SET pg_embed.threads = 0;
SET pg_embed.cache_size = -1;
SET pg_embed.on_truncate = 'sometimes';
SET pg_embed.no_such_setting = 1;
SET pg_embed.threads = 2;
SELECT embed('hello world') <-> embed('tiny-pooled', 'hello world') < 1e-5 AS same;
RESET pg_embed.threads;
SET pg_embed.default_model = 'tiny-int8';
SELECT embed('hello world') = embed('tiny-int8', 'hello world') AS same;
RESET pg_embed.default_model;
SET pg_embed.cache_size = 0;
SELECT embed('hello world') = embed('hello world') AS same;
RESET pg_embed.cache_size;

-- Longer than the model sees
SELECT embed(repeat('word ', 1000)) = embed(repeat('word ', 62)) AS cut;
SET pg_embed.on_truncate = notice;
SELECT embed(repeat('word ', 1000)) IS NOT NULL AS embedded;
SELECT array_length(embed(ARRAY['short', repeat('word ', 1000), repeat('long ', 1000)]), 1);
-- once a statement, whatever the number of rows
SELECT count(embed(repeat('row ', 1000) || i)) FROM generate_series(1, 3) AS i;
SET pg_embed.on_truncate = error;
SELECT embed(repeat('word ', 1000));
SELECT embed(ARRAY['short', repeat('word ', 1000)]);
SELECT embed(repeat('word ', 62)) IS NOT NULL AS fits;
RESET pg_embed.on_truncate;

-- What each model has done in this session
\c -
SELECT count(*) AS models FROM embed_stats();
SELECT embed('hello world') IS NOT NULL AS computed;
SELECT embed('hello world') IS NOT NULL AS from_the_cache;
SELECT array_length(embed(ARRAY['one', 'one', NULL, '', 'two']), 1);
SELECT embed('tiny-int8', repeat('word ', 1000)) IS NOT NULL AS cut;
SELECT token_count('not counted');
SELECT model, calls, texts, tokens, truncations, cache_hits, seconds > 0 AS timed FROM embed_stats();

-- SQLSTATEs
DO $$
DECLARE statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY['SELECT embed(''no-such-model'', ''x'')', 'SELECT embed(''a/b'', ''x'')',
      'SET pg_embed.on_truncate = error; SELECT embed(repeat(''word '', 1000))'] LOOP
    BEGIN
      EXECUTE statement;
    EXCEPTION WHEN OTHERS THEN RAISE INFO '% %', SQLSTATE, SQLERRM;
    END;
  END LOOP;
END $$;

-- Every object of the extension says what it is for.
SELECT pg_describe_object(classid, objid, objsubid) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_embed')
  AND obj_description(objid, classid::regclass::name) IS NULL
  -- Since PostgreSQL 18 the types of tables and of arrays are members, too.
  AND NOT (classid = 'pg_type'::regclass AND EXISTS (
    SELECT FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid LEFT JOIN pg_type AS e ON e.oid = t.typelem
      LEFT JOIN pg_class AS d ON d.oid = e.typrelid
    WHERE t.oid = objid AND (t.typcategory = 'A' OR c.relkind <> 'c' OR d.relkind <> 'c')))
ORDER BY 1;
DROP TABLE texts;
