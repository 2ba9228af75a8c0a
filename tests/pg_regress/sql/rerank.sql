-- Scores of documents for a query by a cross-encoder. The values are Python's (tests/data/tiny-cross.expected.json).
SET extra_float_digits = -2;
SELECT rerank('tiny-cross', 'how does the database search a table?', ARRAY['hello world', 'a', 'Hello, World!']);
SET pg_embed.rerank_model = 'tiny-cross';
-- Order, shape and NULLs are kept; equal documents are computed once.
SELECT rerank('red apple', '[0:1][3:4]={{a,NULL},{hello world,a}}');
SELECT rerank('red apple', '{}'), rerank(NULL, '{a}') IS NULL AS no_query, rerank('red apple', NULL) IS NULL AS no_documents;
-- A query, a document of white space: what the model makes of them.
SELECT array_position(rerank('', '{"", "hello world"}'), NULL) IS NULL AS scored;
-- A query that is too long to be kept is scored all the same.
SELECT rerank(repeat('red apple ', 200), '{hello world,NULL,a}');

-- The nearest by vectors, in the order of the cross-encoder.
CREATE TABLE docs AS SELECT i AS id, body, embed(body) AS embedding
FROM unnest('{the red apple,a green tree,the milk is cold,red and blue,how does a database work}'::text[]) WITH ORDINALITY AS t (body, i);
SELECT body, score FROM
  (SELECT array_agg(body ORDER BY id) AS bodies FROM (SELECT * FROM docs ORDER BY embedding <=> embed('red apple') LIMIT 3) AS nearest) AS n,
  unnest(bodies, rerank('red apple', bodies)) AS r (body, score) ORDER BY score DESC;
SELECT bool_and((rerank('red apple', ARRAY[docs.body]))[1] = together.score) AS alone_as_together
FROM docs, (SELECT unnest(array_agg(body)) AS body, unnest(rerank('red apple', array_agg(body))) AS score FROM docs) AS together
WHERE together.body = docs.body;
DROP TABLE docs;

-- What is longer than the model sees, both texts together.
SET pg_embed.on_truncate = notice;
SELECT cardinality(rerank('red apple', ARRAY[repeat('word ', 100)]));
SET pg_embed.on_truncate = error;
SELECT rerank('red apple', ARRAY[repeat('word ', 100)]);
RESET pg_embed.on_truncate;

-- Each model for its own task.
SELECT rerank('tiny-bert', 'query', '{document}');
SELECT embed('tiny-cross', 'text');
SELECT embed('tiny-cross', '{text}'::text[]);
SELECT embed_query('tiny-cross', 'text');
CREATE TABLE docs (id int PRIMARY KEY, body text);
SELECT vectorizer_create('docs', '{body}', target => 'embedding', model => 'tiny-cross');
ALTER TABLE docs ADD embedding vector;
CALL embed_backfill('docs', 'embedding', '{body}', model => 'tiny-cross');
DROP TABLE docs;
\set VERBOSITY terse
SELECT rerank('no-such-model', 'query', '{document}');
RESET pg_embed.rerank_model;
SELECT rerank('query', '{document}');
\set VERBOSITY default

SELECT proname, pg_get_function_arguments(oid) AS arguments, provolatile, proisstrict, proparallel, prosupport
FROM pg_proc WHERE proname = 'rerank' ORDER BY 2;
