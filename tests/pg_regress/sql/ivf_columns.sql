-- Columns beside the vector: what users see.
CREATE TABLE docs (id int, embedding vector(3), tenant_id int, made date, tags text[]);
INSERT INTO docs
    SELECT i, ARRAY[cos(i), sin(i), i % 7], i % 10, date '2026-01-01' + i % 100, ARRAY['t' || i % 3]
    FROM generate_series(1, 5000) i;
CREATE FUNCTION shard(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 % 4; END';
SELECT error_of('CREATE INDEX ON docs USING ivf (tenant_id, embedding vector_cosine_ops)');
SELECT error_of('CREATE INDEX ON docs USING ivf (tenant_id)');
SELECT error_of('CREATE INDEX ON docs USING ivf (embedding, embedding)');
SELECT error_of('CREATE INDEX ON docs USING ivf (embedding, tags)');
CREATE INDEX docs_index ON docs USING ivf (embedding vector_cosine_ops, tenant_id, made, shard(id));
SELECT columns FROM ivf_info('docs_index');
ANALYZE docs;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM docs
    WHERE tenant_id IN (3, 4) AND made >= '2026-03-01' AND embedding <=> '[1,2,3]' < 0.1
    ORDER BY embedding <=> '[1,2,3]' LIMIT 3;
SELECT id FROM docs
    WHERE tenant_id IN (3, 4) AND made >= '2026-03-01' AND embedding <=> '[1,2,3]' < 0.1
    ORDER BY embedding <=> '[1,2,3]', id LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM docs WHERE tenant_id IS NULL AND shard(id) > 2 ORDER BY embedding <=> '[1,2,3]';
RESET enable_seqscan;
-- Recall under a condition, which is an expression and nothing else.
SELECT ivf_recall('docs_index', 10, 200, 'tenant_id = 7') > 0.9 AS good;
SELECT ivf_recall('docs_index', condition => 'made < ''2026-02-01'' AND shard(id) = 1') > 0.9 AS good;
SELECT ivf_recall('docs_index', condition => 'tenant_id = 77'), ivf_recall('docs_index', condition => 'false');
SELECT condition, error_of(format('SELECT ivf_recall(''docs_index'', condition => %L)', condition)) FROM unnest(ARRAY[
    '', '*', 'docs.*', 'true; DROP TABLE docs', 'true) OR (true', 'true LIMIT 1', 'true FROM docs', 'true, false', 'true AS x',
    'tenant_id', 'nothing = 1', 'count(*) > 1', '$1'
]) condition;
-- The index against its table.
SELECT * FROM ivf_check('docs_index', heapallindexed => true);
CREATE OR REPLACE FUNCTION shard(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
    AS 'BEGIN RETURN CASE WHEN $1 < 3 THEN 0 ELSE $1 % 4 END; END';
SELECT * FROM ivf_check('docs_index', true);
SELECT * FROM ivf_check('docs_index');
DROP TABLE docs;
DROP FUNCTION shard;
