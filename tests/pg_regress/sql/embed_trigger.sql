-- embed_trigger: keeps a vector column in step with its sources.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_embed;
RESET client_min_messages;

CREATE TABLE docs (id int PRIMARY KEY, title varchar(50), body text, views int DEFAULT 0, embedding vector(32));
CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
  FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'title', 'body');

INSERT INTO docs (id, title, body) VALUES
  (1, 'hello', 'world'), (2, 'hello', NULL), (3, NULL, NULL), (4, '', ' '), (5, NULL, 'the quick brown fox');
SELECT id, embedding IS NULL AS is_null,
       embedding = embed(concat_ws(E'\n', title, body)) AS same
FROM docs ORDER BY id;

-- On UPDATE only when a source changed: a vector set by hand stays until then.
UPDATE docs SET views = views + 1, embedding = embed('by hand') WHERE id = 1;
SELECT embedding = embed('by hand') AS by_hand FROM docs WHERE id = 1;
UPDATE docs SET title = 'hello' WHERE id = 1;
SELECT embedding = embed('by hand') AS by_hand FROM docs WHERE id = 1;
UPDATE docs SET title = 'bye' WHERE id = 1;
SELECT embedding = embed(E'bye\nworld') AS recomputed FROM docs WHERE id = 1;
UPDATE docs SET body = NULL WHERE id = 1;
SELECT embedding = embed('bye') AS recomputed FROM docs WHERE id = 1;
UPDATE docs SET title = NULL WHERE id = 1;
SELECT embedding IS NULL AS is_null FROM docs WHERE id = 1;
-- A source can be the key, and a named model another one than the default.
CREATE TABLE named (name text PRIMARY KEY, embedding vector);
CREATE TRIGGER named_embed BEFORE INSERT OR UPDATE ON named
  FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'tiny-int8', 'name');
INSERT INTO named VALUES ('hello world') ON CONFLICT (name) DO NOTHING;
INSERT INTO named VALUES ('hello world') ON CONFLICT (name) DO UPDATE SET name = 'the quick brown fox';
SELECT name, embedding = embed('tiny-int8', name) AS same FROM named;

-- Misuse
SELECT embed_trigger();
CREATE TABLE misuse (id int, body text, embedding vector(32), small vector(3), flags text[],
  upper_body text GENERATED ALWAYS AS (upper(body)) STORED);
CREATE FUNCTION misuse(trigger_clause text, arguments text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text; hint text;
BEGIN
  EXECUTE format('CREATE TRIGGER t %s EXECUTE FUNCTION embed_trigger(%s)', trigger_clause, arguments);
  INSERT INTO misuse (id, body) VALUES (1, 'hello world');
  RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN format('%s: %s%s%s', SQLSTATE, SQLERRM, E'\n  ' || nullif(detail, ''), E'\n  HINT: ' || nullif(hint, ''));
END $$;
\t on
\pset format unaligned
SELECT misuse('BEFORE INSERT ON misuse FOR EACH STATEMENT', $$'embedding', 'default', 'body'$$);
SELECT misuse('AFTER INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', '');
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'no_such_column', 'default', 'body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'no_such_column'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'ctid'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'body', 'default', 'body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'id'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'flags'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'upper_body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'small', 'default', 'body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', '../x', 'body'$$);
SELECT misuse('BEFORE INSERT ON misuse FOR EACH ROW', $$'embedding', 'default', 'body'$$);
\t off
\pset format aligned
CREATE TRIGGER on_delete BEFORE DELETE ON misuse FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
DELETE FROM misuse;
DROP TABLE docs, named, misuse;
DROP FUNCTION misuse(text, text);
