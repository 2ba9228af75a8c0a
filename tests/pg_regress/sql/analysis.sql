-- Clusters
CREATE TABLE points AS SELECT i AS id, i % 3 AS cloud, format('[%s,%s]', (i % 3) * 10 + (i * 7 % 10) / 10.0, i % 2)::vector AS v
FROM generate_series(1, 60) AS i;
-- A cluster is a cloud, whatever its number.
SELECT count(DISTINCT cloud) AS clouds, count(*) FROM (SELECT cloud, kmeans(v, 3) OVER () AS cluster FROM points) AS c GROUP BY cluster ORDER BY min(cloud);
SELECT min(cluster), max(cluster) FROM (SELECT kmeans(v, 3) OVER () AS cluster FROM points) AS c;
-- The same rows give the same clusters; the seed may give them other numbers.
SELECT bool_and(a = b) AS same FROM (SELECT kmeans(v, 3) OVER (ORDER BY id) AS a, kmeans(v, 3, 0) OVER (ORDER BY id) AS b FROM points) AS c;
SELECT count(DISTINCT (cloud, cluster)) FROM (SELECT cloud, kmeans(v, 3, seed => 7) OVER () AS cluster FROM points) AS c;
-- Each partition by itself, with a filter, a frame that does not matter, and ranks beside it.
SELECT id % 2 AS half, count(DISTINCT cluster), count(DISTINCT (cloud, cluster)) FROM
  (SELECT id, cloud, kmeans(v, 3) OVER (PARTITION BY id % 2) AS cluster FROM points) AS c GROUP BY 1 ORDER BY 1;
SELECT id, kmeans(v, 1) OVER (ORDER BY id ROWS CURRENT ROW), row_number() OVER (ORDER BY id) FROM points WHERE id <= 3 ORDER BY id;
-- The middle of each cluster
SELECT cluster, avg(v) FROM (SELECT v, kmeans(v, 3) OVER () AS cluster FROM points WHERE id <= 30) AS c GROUP BY cluster ORDER BY avg(v);
-- NULLs have none; fewer different vectors than clusters; none at all.
SELECT v, kmeans(v, 5) OVER () IS NULL AS none FROM (VALUES ('[1]'::vector), (NULL), ('[1]')) AS t (v);
SELECT count(DISTINCT kmeans) FROM (SELECT kmeans(v, 5) OVER () FROM (VALUES ('[1]'::vector), ('[2]'), ('[1]')) AS t (v)) AS c;
SELECT kmeans(v, 5) OVER () FROM (VALUES (NULL::vector), (NULL)) AS t (v);
SELECT kmeans(v, 2) OVER () FROM points WHERE false;
SELECT kmeans(v, NULL) OVER (), kmeans(v, 1, NULL) OVER () FROM points LIMIT 1;
SELECT kmeans(v, 0) OVER () FROM points;
SELECT kmeans(v, 32769) OVER () FROM points;
SELECT kmeans(v, 2) OVER () FROM (VALUES ('[1]'::vector), ('[1,2]')) AS t (v);
SELECT kmeans(v, 2) FROM points;
-- More rows than fit into work_mem: a sample of them.
CREATE TABLE many AS SELECT i % 4 AS cloud, (SELECT array_agg((i % 4) * 10 + (i * j) % 7) FROM generate_series(1, 64) AS j)::vector AS v FROM generate_series(1, 4000) AS i;
SET work_mem = '256kB';
SELECT count(DISTINCT (cloud, cluster)) FROM (SELECT cloud, kmeans(v, 4) OVER () AS cluster FROM many) AS c;
SELECT kmeans(v, 400) OVER () FROM many;
-- NULLs take no room: one row in ten has a vector, and nearly all of those fit.
SELECT count(DISTINCT (cloud, cluster)), count(DISTINCT cluster) FROM
  (SELECT cloud, kmeans(CASE WHEN ctid::text ~ '7\)$' THEN v END, 20) OVER () AS cluster FROM many) AS c WHERE cluster IS NOT NULL;
RESET work_mem;

-- Principal components: a line in space has one.
SELECT id, pca(v, 1) OVER () FROM (SELECT i AS id, ARRAY[1, 2 + 3 * i, 5 + 4 * i]::vector AS v FROM generate_series(1, 5) AS i) AS line;
SELECT vector_dims(pca) AS dims, count(*) FROM (SELECT pca(v, 2) OVER (PARTITION BY cloud) FROM many) AS p GROUP BY 1;
-- Of a sample they are nearly those of all.
CREATE TABLE of_all AS SELECT ctid AS row, pca(v, 1) OVER () FROM many;
SET work_mem = '256kB';
CREATE TABLE of_sample AS SELECT ctid AS row, pca(v, 1) OVER () FROM many;
RESET work_mem;
SELECT abs(corr((a.pca::real[])[1], (s.pca::real[])[1])) > 0.999 AS alike, count(*) FILTER (WHERE a.pca <> s.pca) > 0 AS others
FROM of_all AS a JOIN of_sample AS s USING (row);
DROP TABLE of_all, of_sample;
SELECT pca(v, 1) OVER () FROM (VALUES (NULL::vector), ('[1,2]')) AS t (v);
-- A partition has nothing of the one before.
SELECT part, pca(v, 1) OVER (PARTITION BY part ORDER BY v) FROM
  (VALUES (1, '[0,0]'::vector), (1, '[2,0]'), (2, '[0,0,0]'), (2, '[0,0,4]'), (3, '[0,0]'), (3, '[0,6]')) AS t (part, v);
SELECT pca(v, 1) OVER () FROM (VALUES ('[3e38,3e38]'::vector), ('[-3e38,-3e38]')) AS t (v);
SELECT pca(v, i) OVER (ORDER BY i) FROM (VALUES (1, '[1,2]'::vector), (2, '[3,4]')) AS t (i, v);
SELECT kmeans(v, i) OVER (ORDER BY i) FROM (VALUES (1, '[1,2]'::vector), (2, '[3,4]')) AS t (i, v);
SELECT pca(v, 513) OVER () FROM points;
SELECT pca(v, 0) OVER () FROM points;
SELECT pca(v, 3) OVER () FROM points;
SELECT pca(v, NULL) OVER () FROM points LIMIT 1;
SELECT pca(v, 1) OVER () FROM (VALUES ('[1]'::vector), ('[1,2]')) AS t (v);
DROP TABLE points, many;

-- Reciprocal rank fusion
SELECT rank, rrf_score(rank) = 1.0::float8 / (60 + rank) AS by_60, rrf_score(rank, 1), rrf_score(NULL) AS absent FROM generate_series(1, 3) AS rank;

SELECT proname, pg_get_function_arguments(oid) AS arguments, prokind, provolatile, proparallel
FROM pg_proc WHERE proname IN ('kmeans', 'pca', 'rrf_score') ORDER BY 1;
