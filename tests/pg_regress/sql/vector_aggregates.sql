-- avg and sum.

SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::vector[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL]::vector[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[-0,1e-45]']::vector[]) v;
SELECT avg(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;
SELECT statement, error_of('SELECT ' || statement) FROM (VALUES
    ($$avg(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v$$), ($$sum(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v$$),
    ($$sum(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v$$),
    ($$vector_avg('{1}')$$), ($$vector_avg('{{2,2,4,6}}')$$), ($$vector_avg('{NULL,2}')$$), ($$vector_avg('{}')$$), ($$vector_avg('{1,Infinity}')$$),
    ($$vector_avg('{1,NaN}')$$), ($$vector_avg('{1,1e39}')$$), ($$vector_avg(array_fill(1, ARRAY[16002]))$$),
    ($$vector_accum('{{0}}', '[1]')$$), ($$vector_accum('{NULL}', '[1]')$$), ($$vector_accum('{}', '[1]')$$), ($$vector_accum('{0,0}', '[1,2]')$$),
    ($$vector_accum('{1,Infinity}', '[1]')$$),
    ($$vector_combine('{1,2}', '{3,4,5}')$$), ($$vector_combine('{{1,2}}', '{3,4}')$$), ($$vector_combine('{1,2}', '{{3,4}}')$$),
    ($$vector_combine('{NULL,2}', '{3,4}')$$), ($$vector_combine('{1,2}', '{3,NULL}')$$), ($$vector_combine('{}', '{0}')$$),
    ($$vector_combine('{0}', '{}')$$), ($$vector_combine('{1,1e308}', '{1,1e308}')$$),
    ($$vector_combine('{0}', array_fill(1, ARRAY[16002]))$$), ($$vector_combine(array_fill(1, ARRAY[16002]), '{0}')$$)
) AS t(statement);
SELECT vector_avg('{2,2,4,6}'), vector_avg('{0}'), vector_avg('{0,1}');
SELECT vector_accum('{0}', '[1,2,3]'), vector_accum('{0,0,0,0}', '[1,2,3]'), vector_accum('{2,1,1}', '[1,2]');
SELECT vector_combine('{1,2}', '{3,4}'), vector_combine('{0}', '{0}'), vector_combine('{0}', '{1,2}'), vector_combine('{1,2}', '{0}');

-- Called outside an aggregate, the functions leave their arguments as they are.
CREATE TABLE states (s float8[], v vector);
INSERT INTO states VALUES ('{1,2,3}', '[1,2]');
SELECT vector_accum(s, '[1,1]'), vector_combine(s, s), v + '[1,1]' FROM states;
SELECT * FROM states;

-- Groups, each with its own state, hashed or sorted, and rows that are stored out of line.
CREATE TABLE groups (g int, v vector);
INSERT INTO groups SELECT i % 3, ARRAY[i, 2 * i, -i]::vector FROM generate_series(1, 300) i;
INSERT INTO groups SELECT 3, array_fill(i, ARRAY[3000])::vector FROM generate_series(1, 9) i;
SET enable_sort = off;
SELECT g, count(*), left(avg(v)::text, 20), left(sum(v)::text, 20) FROM groups GROUP BY g ORDER BY g;
RESET enable_sort;
SET enable_hashagg = off;
SELECT g, count(*), left(avg(v)::text, 20), left(sum(v)::text, 20) FROM groups GROUP BY g ORDER BY g;
RESET enable_hashagg;
SELECT * FROM (SELECT g, avg(v) OVER w AS mean, sum(v) OVER w AS total FROM groups WHERE g = 1 WINDOW w AS (ORDER BY v)) s LIMIT 3;
-- The table is as it was: no state was changed in it.
SELECT g, min(v) AS least FROM (SELECT g, subvector(v, 1, 3)::real[] AS v FROM groups) s GROUP BY g ORDER BY g;

-- In parallel.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS off) SELECT avg(v), sum(v) FROM groups WHERE g < 3;
SELECT avg(v), sum(v) FROM groups WHERE g < 3;
SELECT g, count(*), left(avg(v)::text, 20), left(sum(v)::text, 20) FROM groups GROUP BY g ORDER BY g;
SELECT avg(v), sum(v) FROM groups WHERE g = 4;
DROP TABLE states, groups;
