-- Order: btree indexes, ORDER BY, DISTINCT, GROUP BY and joins.

CREATE TABLE points (id int, v vector);
INSERT INTO points VALUES (1, '[1,2,3]'), (2, '[0,0,0]'), (3, '[1,1,1]'), (4, NULL), (5, '[1,2]'), (6, '[1,2,3]'), (7, '[-1]');
SELECT * FROM points ORDER BY v, id;
SELECT * FROM points ORDER BY v DESC NULLS LAST, id;
SELECT DISTINCT v FROM points ORDER BY v;
SELECT v, count(*) FROM points GROUP BY v ORDER BY v;
SELECT count(DISTINCT v), mode() WITHIN GROUP (ORDER BY v) FROM points;

CREATE INDEX points_v ON points (v);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS off) SELECT * FROM points WHERE v = '[1,2,3]';
SELECT * FROM points WHERE v = '[1,2,3]' ORDER BY id;
SELECT * FROM points WHERE v < '[1,2]' ORDER BY v;
SELECT * FROM points WHERE v >= '[1,1,1]' AND v <= '[1,2]' ORDER BY v;
EXPLAIN (COSTS off) SELECT v FROM points ORDER BY v LIMIT 2;
SELECT v FROM points ORDER BY v LIMIT 2;
SELECT v FROM points ORDER BY v DESC NULLS LAST LIMIT 2;
RESET enable_seqscan;
RESET enable_bitmapscan;

CREATE UNIQUE INDEX unique_v ON points (v) WHERE id < 6;
SELECT error_of($$INSERT INTO points VALUES (0, '[1,2]')$$);
SELECT a.id, b.id FROM points a JOIN points b USING (v) WHERE a.id < b.id;

-- As in pgvector, no hash support: neither hashed joins nor hashed groups.
SELECT oprcanhash, oprcanmerge FROM pg_operator WHERE oid = '=(vector,vector)'::regoperator;

-- More than fits a page: an index of vectors up to its limit, sorted on disk and checked against ORDER BY.
CREATE TABLE many AS SELECT i AS id, ARRAY[(i * 7919) % 1000, i % 10, (i * 31) % 100]::vector AS v FROM generate_series(1, 5000) i;
CREATE INDEX ON many (v);
SET work_mem = '64kB';
SELECT count(*), count(*) FILTER (WHERE v >= previous) FROM (SELECT v, lag(v) OVER (ORDER BY v) AS previous FROM many) s;
RESET work_mem;
SET enable_seqscan = off;
SELECT count(*) FROM many WHERE v < '[500]';
SET enable_seqscan = on;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
SELECT count(*) FROM many WHERE v < '[500]';
RESET ALL;
ANALYZE many;
DROP TABLE points, many;
