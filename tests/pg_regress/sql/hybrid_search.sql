-- Search by vectors and by words at once.
CREATE TABLE docs (tenant int, id int, lang varchar(2), title text, body text, tags text[], meta json, PRIMARY KEY (tenant, id));
INSERT INTO docs VALUES
  (1, 1, 'en', 'cats', 'the cat can see a tree. it can eat a fish.', '{a}', '{}'),
  (1, 2, 'en', 'dogs', 'a dog can run fast in the city.', '{a,b}', '{}'),
  (1, 3, 'de', 'tea', 'drink milk and tea in the morning.', NULL, '{}'),
  (2, 1, NULL, 'trees', 'a tree is an old friend of the river.', '{}', '{}'),
  (2, 2, 'en', 'database', 'read the pages of a database; it''s a file, and a table \ row.', '{b}', '{}');
SELECT vectorizer_create('docs', '{title,body}', destination => 'passages', chunk => '{"max_tokens": 12}');
CALL vectorizer_run();
SELECT * FROM hybrid_search('passages', 'a cat in a tree');
ALTER TABLE passages ADD words tsvector GENERATED ALWAYS AS (to_tsvector('english', content)) STORED;
CREATE INDEX ON passages USING gin (words);

SELECT key, ordinal, content, round(score::numeric, 4) AS score, vector_rank, word_rank, distance IS NOT NULL AS distance
FROM hybrid_search('passages', 'cats in a tree', 4);
-- Words alone, vectors alone, and how the score is made.
SELECT key, content, word_rank FROM hybrid_search('passages', 'cats in a tree', 10, candidates => 10, word_weight => 1e6) WHERE word_rank IS NOT NULL;
SELECT bool_and(score = rrf_score(vector_rank)) AS by_vectors, count(*) = (SELECT count(*) FROM passages) AS all_of_them
FROM hybrid_search('passages', 'the', 100);
SELECT bool_and(abs(score - rrf_score(vector_rank, 7) - 2 * rrf_score(word_rank, 7)) < 1e-15) AS same
FROM hybrid_search('passages', 'a cat in a tree', 100, word_weight => 2, rrf_k => 7);
SELECT array_agg(vector_rank ORDER BY distance) = array_agg(vector_rank ORDER BY vector_rank) AS in_order
FROM hybrid_search('passages', 'a cat in a tree', 100);
SELECT count(*), bool_and(vector_rank <= 2 OR word_rank <= 2) AS candidates FROM hybrid_search('passages', 'a cat in a tree', 2, candidates => 2);
-- What makes an index worth while: the same rows as by hand.
SELECT bool_and(h.distance = p.embedding <=> vectorizer_embed('passages', 'a cat')) AS same
FROM hybrid_search('passages', 'a cat') AS h JOIN passages AS p ON p.tenant = h.key[1]::int AND p.id = h.key[2]::int AND p.ordinal = h.ordinal;
-- Rarer words tell more, once ANALYZE has counted; nothing is left out that was found before.
INSERT INTO docs SELECT 3, i, 'en', 'tea', 'milk', NULL, '{}' FROM generate_series(1, 30) AS i;
CALL vectorizer_run();
ANALYZE passages;
SELECT key, word_rank FROM hybrid_search('passages', 'milk for the cat', 50) WHERE word_rank <= 2 ORDER BY word_rank;

-- Filters: by the key's columns, by those of the source, lists, NULL, none that matches.
SELECT key, ordinal FROM hybrid_search('passages', 'tree', 10, '{"tenant": 2}') ORDER BY key, ordinal;
SELECT DISTINCT key FROM hybrid_search('passages', 'tree', 100, '{"lang": ["de", "fr"], "tenant": [1, 2]}') ORDER BY key;
SELECT DISTINCT key FROM hybrid_search('passages', 'tree', 100, '{"lang": null}') ORDER BY key;
SELECT DISTINCT key FROM hybrid_search('passages', 'tree', 100, '{"tags": "{a,b}"}') ORDER BY key;
SELECT count(*) FROM hybrid_search('passages', 'tree', 100, '{"lang": "english"}');
SELECT count(*) FROM hybrid_search('passages', 'tree', 100, '{"title": "x'' OR ''1''=''1"}');
SELECT count(*) FROM hybrid_search('passages', 'tree', 100, filter => NULL) AS without_filter;
SELECT hybrid_search('passages', 'tree', filter => '{"no_column": 1}');
SELECT hybrid_search('passages', 'tree', filter => '{"tenant": {"gt": 1}}');
SELECT hybrid_search('passages', 'tree', filter => '{"tenant": "one"}');
SELECT hybrid_search('passages', 'tree', filter => '{"meta": "{}"}');
SELECT hybrid_search('passages', 'tree', filter => '[1]');
SELECT DISTINCT key FROM hybrid_search('passages', 'tree', 100, '{"lang": ["de", null]}') ORDER BY key;
SELECT count(*) FROM hybrid_search('passages', 'tree', 100, '{"lang": []}');
SELECT hybrid_search('passages', 'tree', filter => '{"tenant": [1, {"a": 1}]}');
SELECT hybrid_search('passages', 'tree', filter => '{"tags": ["{a}"]}');

-- Search texts that are strange.
SELECT count(*) FROM hybrid_search('passages', NULL);
SELECT count(*) FROM hybrid_search('passages', '');
SELECT count(*) FROM hybrid_search('passages', E' \n ');
SELECT count(*) > 0 AS found FROM hybrid_search('passages', E'it''s \\ a <-> "file" & | ! :* http://a.b/c?d=1&e=''2''');
SELECT count(*) FROM hybrid_search('passages', 'tree', 0);
SELECT hybrid_search('passages', 'tree', -1);
SELECT hybrid_search('passages', 'tree', candidates => 10001);
SELECT hybrid_search('passages', 'tree', NULL);
SELECT hybrid_search('passages', 'tree', rrf_k => -1);
SELECT hybrid_search('passages', 'tree', word_weight => 'NaN');
SET standard_conforming_strings = off;
SELECT count(*) > 0 AS found FROM hybrid_search('passages', 'it is a tree');
RESET standard_conforming_strings;
SELECT hybrid_search('no such vectorizer', 'tree');
SELECT count(*) FROM hybrid_search('passages', 'cat', config => 'simple') WHERE word_rank IS NOT NULL;

-- Several columns of words: one must be named. One in the table of the texts will do.
ALTER TABLE passages ADD simple tsvector GENERATED ALWAYS AS (to_tsvector('simple', content)) STORED;
SELECT hybrid_search('passages', 'tree');
SELECT key, content FROM hybrid_search('passages', 'the pages', 100, words => 'simple', config => 'simple') WHERE word_rank = 1;
SELECT hybrid_search('passages', 'tree', words => 'content');
ALTER TABLE passages DROP words, DROP simple;
ALTER TABLE docs ADD of_title tsvector GENERATED ALWAYS AS (to_tsvector('english', title)) STORED;
SELECT DISTINCT key FROM hybrid_search('passages', 'dogs', 100) WHERE word_rank IS NOT NULL;
ALTER TABLE docs DROP of_title;
-- Whoever owns the chunks may have made something else of them.
ALTER TABLE passages ADD words tsvector;
DROP VIEW passages_view;
ALTER TABLE passages ALTER content TYPE int USING 1, ALTER ordinal TYPE bigint;
SELECT key, ordinal, content FROM hybrid_search('passages', 'tree', 1);
SELECT vectorizer_drop('passages', drop_destination => true);

-- Vectors in a column: rows, not chunks.
SELECT vectorizer_create('docs', '{title,body}', target => 'embedding', name => 'docs');
INSERT INTO docs VALUES (4, 1, 'en', NULL, NULL, NULL, '{}');
CALL vectorizer_run();
SELECT hybrid_search('docs', 'tree');
ALTER TABLE docs ADD words tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce(title, '') || ' ' || coalesce(body, ''))) STORED;
SELECT key, ordinal, content, vector_rank IS NOT NULL AS v, word_rank AS w FROM hybrid_search('docs', 'old trees', 2, '{"lang": null}');
-- With the rights of who searches.
CREATE ROLE searcher;
SET ROLE searcher;
SELECT hybrid_search('docs', 'tree');
RESET ROLE;
GRANT SELECT ON docs TO searcher;
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON docs USING (tenant = 2);
SET ROLE searcher;
SELECT key FROM hybrid_search('docs', 'tree') ORDER BY key;
RESET ROLE;
DROP POLICY of_tenant ON docs;
-- A policy's own functions see the search_path of who searches.
CREATE TABLE members (name text, tenant int);
INSERT INTO members VALUES ('searcher', 1);
GRANT SELECT ON members TO searcher;
CREATE FUNCTION my_tenant() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT tenant FROM members WHERE name = current_user); END';
CREATE POLICY of_tenant ON docs USING (tenant = my_tenant());
SET ROLE searcher;
SELECT key FROM hybrid_search('docs', 'tree') ORDER BY key;
RESET ROLE;
DROP TABLE docs, members;
DROP FUNCTION my_tenant();
DROP ROLE searcher;

-- Names and types that want care, in a partitioned table.
CREATE DOMAIN short AS varchar(2);
CREATE TABLE "Odd Docs" ("The Id" char(4), "k'" uuid, kind short, "select" text, bits bit(3), PRIMARY KEY ("The Id", "k'")) PARTITION BY HASH ("The Id");
CREATE TABLE odd_0 PARTITION OF "Odd Docs" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE odd_1 PARTITION OF "Odd Docs" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO "Odd Docs" VALUES ('acme', '00000000-0000-0000-0000-000000000001', 'en', 'a cat in a tree', '101'),
  ('a', '00000000-0000-0000-0000-000000000002', 'de', 'a tree', '100');
SELECT vectorizer_create('"Odd Docs"', '{select}', target => 'The Vector', name => 'odd');
ALTER TABLE "Odd Docs" ADD "The Words" tsvector GENERATED ALWAYS AS (to_tsvector('english', "select")) STORED;
CALL vectorizer_run();
SELECT key, ordinal, content, vector_rank, word_rank FROM hybrid_search('odd', 'trees and cats');
SELECT key FROM hybrid_search('odd', 'tree', filter => '{"The Id": "acme"}');
SELECT key FROM hybrid_search('odd', 'tree', filter => '{"The Id": ["acme", "b"], "k''": "00000000-0000-0000-0000-000000000001"}');
SELECT key FROM hybrid_search('odd', 'tree', filter => '{"kind": "english"}');
SELECT key FROM hybrid_search('odd', 'tree', filter => '{"kind": "en", "bits": "101"}');
DROP TABLE "Odd Docs";
DROP DOMAIN short;
