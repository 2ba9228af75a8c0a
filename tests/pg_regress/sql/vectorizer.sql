-- embed_backfill and vectorizers, as their users see them. Background workers are turned off here.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_embed;
RESET client_min_messages;
SHOW pg_embed.max_workers;

-- Rows that are there already.
CREATE TABLE docs (id int PRIMARY KEY, title text, body text, embedding vector(32));
INSERT INTO docs VALUES (1, 'Returns', 'Send it back.'), (2, 'Refunds', NULL), (3, NULL, NULL), (4, '', ' ');
CALL embed_backfill('docs', 'embedding', '{title,body}');
SELECT id, embedding = embed(concat_ws(E'\n', title, body)) AS same FROM docs ORDER BY id;
SELECT * FROM embed_progress;
CREATE VIEW docs_view AS SELECT * FROM docs;
CREATE TABLE others (id int, made text GENERATED ALWAYS AS ('x') STORED, small vector(3),
    computed vector(32) GENERATED ALWAYS AS (embed('tiny-bert', 'x')) STORED);
CALL embed_backfill(NULL, 'embedding', '{title}');
CALL embed_backfill('docs', NULL, '{title}');
CALL embed_backfill('docs', 'embedding', NULL);
CALL embed_backfill('docs', 'embedding', '{}');
CALL embed_backfill('no_such_table', 'embedding', '{title}');
CALL embed_backfill('docs_view', 'embedding', '{title}');
CALL embed_backfill('docs', 'no_such_column', '{title}');
CALL embed_backfill('docs', 'embedding', '{no_such_column}');
CALL embed_backfill('docs', 'title', '{title}');
CALL embed_backfill('docs', 'embedding', '{id}');
CALL embed_backfill('others', 'small', '{made}');
CALL embed_backfill('others', 'computed', '{made}');
\set VERBOSITY terse
CALL embed_backfill('docs', 'embedding', '{title}', model => 'no-such-model');
\set VERBOSITY default
CALL embed_backfill('docs', 'embedding', '{title}', batch_size => 0);
BEGIN;
CALL embed_backfill('docs', 'embedding', '{title}');
ROLLBACK;
DO $$ BEGIN CALL embed_backfill('docs', 'embedding', '{title}'); END $$;
ALTER TABLE docs ADD CHECK (id <> 2 OR embedding IS NULL) NOT VALID;
UPDATE docs SET embedding = NULL WHERE id < 3;
UPDATE docs SET embedding = NULL WHERE id = 1;
CALL embed_backfill('docs', 'embedding', '{title,body}');
ALTER TABLE docs DROP CONSTRAINT docs_check;

-- Rows that change, in a column of the same table.
SELECT vectorizer_create('docs', '{title,body}', target => 'embedding');
INSERT INTO docs (id, title) VALUES (5, 'New');
UPDATE docs SET body = 'With more of it.' WHERE id = 5;
SELECT vectorizer, key, attempts, not_before FROM vectorizer_queue ORDER BY key;
SELECT name, relation, target, destination, model, state, rows, embedded, pending, failed, of_other_models, worker, last_error
FROM vectorizer_status;
CALL vectorizer_run();
SELECT id, embedding = embed(concat_ws(E'\n', title, body)) AS same FROM docs ORDER BY id;
SELECT state, rows, embedded, pending, failed FROM vectorizer_status;

-- In a table of chunks.
SELECT vectorizer_create('docs', '{body}', destination => 'docs_chunks', chunk => '{"max_tokens": 12, "overlap": 2}');
\d docs_chunks
SELECT view_definition FROM information_schema.views WHERE table_name = 'docs_chunks_view';
UPDATE docs SET body = 'Send it back within ten days. The label is in the box.' WHERE id = 1;
CALL vectorizer_run('docs_chunks');
SELECT id, ordinal, content, start_offset, end_offset, embedding = embed(content) AS same FROM docs_chunks ORDER BY id, ordinal;
SELECT id, title, ordinal, content FROM docs_chunks_view ORDER BY embedding <=> embed('where is the label?') LIMIT 1;
SELECT tgname, tgtype, tgenabled FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND NOT tgisinternal ORDER BY 1;

-- What cannot be.
CREATE TABLE keyless (body text, embedding vector(32));
CREATE TEMP TABLE temporary (id int PRIMARY KEY, body text);
CREATE TABLE parent (id int PRIMARY KEY, body text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE taken (ordinal int PRIMARY KEY, body text);
SELECT vectorizer_create(NULL, '{body}', target => 'embedding');
SELECT vectorizer_create('docs', '{}', target => 'embedding');
SELECT vectorizer_create('docs', '{body}');
SELECT vectorizer_create('docs', '{body}', target => 'embedding', destination => 'd');
SELECT vectorizer_create('docs', '{body}', target => 'embedding');
SELECT vectorizer_create('docs', '{body}', target => 'title');
SELECT vectorizer_create('docs', '{body}', target => 'e', chunk => '{}');
SELECT vectorizer_create('docs', '{id}', target => 'e');
\set VERBOSITY terse
SELECT vectorizer_create('docs', '{body}', target => 'e', model => 'no-such-model');
\set VERBOSITY default
SELECT vectorizer_create('docs', '{body}', destination => 'docs_chunks');
SELECT vectorizer_create('docs', '{body}', destination => 'no_such_schema.d');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '{"max_tokens": "many"}');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '{"max_tokens": 3}');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '{"max_tokens": 20, "overlap": 18}');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '{"format": "html"}');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '{"size": 7}');
SELECT vectorizer_create('docs', '{body}', destination => 'd', chunk => '[]');
SELECT vectorizer_create('keyless', '{body}', target => 'embedding');
SELECT vectorizer_create('temporary', '{body}', target => 'e');
SELECT vectorizer_create('parent', '{body}', target => 'e');
SELECT vectorizer_create('taken', '{body}', destination => 'd');
SELECT vectorizer_create('docs_view', '{body}', target => 'e');
SELECT vectorizer_pause('no-such-vectorizer');
SELECT vectorizer_drop('no-such-vectorizer');
CALL vectorizer_run('no-such-vectorizer');
BEGIN;
CALL vectorizer_run();
ROLLBACK;
SELECT vectorizer_enqueue();
CREATE TRIGGER wrong BEFORE INSERT ON taken FOR EACH ROW EXECUTE FUNCTION vectorizer_enqueue('1', '', 'body');
INSERT INTO taken VALUES (1);
DROP TRIGGER wrong ON taken;
SELECT count(*) FROM vectorizer;

-- Other chunks, other sources, another model.
SELECT vectorizer_alter('docs_chunks', chunk => '{"max_tokens": 20}');
SELECT vectorizer_alter('docs_embedding', sources => '{title}');
SELECT vectorizer, count(*) FROM vectorizer_queue GROUP BY 1 ORDER BY 1;
CALL vectorizer_run();
SELECT id, embedding = embed(title) AS same FROM docs ORDER BY id;
SELECT id, ordinal, content FROM docs_chunks ORDER BY id, ordinal;
SELECT vectorizer_alter('docs_chunks', chunk => '{"max_tokens": 20}', model => 'tiny-bert');
SELECT vectorizer_alter('docs_chunks', model => 'tiny-pooled');
SELECT destination FROM vectorizer WHERE replaces IS NOT NULL \gset
\d :destination
SELECT vectorizer_embed('docs_chunks', 'label') = embed('tiny-bert', 'label') AS old;
SELECT name, model, state, rows, embedded, pending FROM vectorizer_status ORDER BY name;
SELECT vectorizer_alter('docs_chunks', sources => '{title}');
CALL vectorizer_run();
SELECT name, model, state, rows, embedded, pending FROM vectorizer_status ORDER BY name;
SELECT id, ordinal, embedding <=> embed('tiny-pooled', content) < 1e-6 AS same FROM docs_chunks ORDER BY id, ordinal;
SELECT vectorizer_alter(NULL, sources => '{title}');
SELECT vectorizer_alter('no-such-vectorizer', sources => '{title}');
SELECT vectorizer_alter('docs_chunks', sources => '{}');
SELECT vectorizer_alter('docs_chunks', sources => '{id}');
SELECT vectorizer_alter('docs_chunks', chunk => '{"size": 7}');
SELECT vectorizer_alter('docs_chunks', chunk => '{"max_tokens": 3}');
SELECT vectorizer_alter('docs_embedding', chunk => '{}');
\set VERBOSITY terse
SELECT vectorizer_alter('docs_embedding', model => 'no-such-model');
\set VERBOSITY default
SELECT vectorizer_embed('no-such-vectorizer', 'text');
SELECT vectorizer_embed('docs_chunks', ' ');

SELECT vectorizer_pause('docs_chunks');
SELECT name, state FROM vectorizer_status ORDER BY name;
SELECT vectorizer_resume('docs_chunks'), vectorizer_retry('docs_chunks');
SELECT vectorizer_drop('docs_chunks', drop_destination => true), vectorizer_drop('docs_embedding');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass AND NOT tgisinternal;
SELECT * FROM vectorizer_status;
DROP TABLE docs, others, keyless, parent, taken CASCADE;
