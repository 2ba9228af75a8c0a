-- Casts between vector and arrays.

SELECT ARRAY[1,2,3]::vector, ARRAY[1.5,2.25,-3]::vector, ARRAY[1,2,3]::real[]::vector, ARRAY[1,2,3]::float8[]::vector, '{1,2e3,0.1}'::numeric[]::vector;
SELECT '[1,2.5,-3]'::vector::real[], array_lower('[1,2]'::vector::real[], 1), ('[1,2,3]'::vector::real[])[2:3];
SELECT '{1,2,3}'::real[]::vector(3), '[2:3]={1,2}'::real[]::vector, array_remove(ARRAY[1,NULL,2], NULL)::vector;
SELECT '{1e-46,-1e-46}'::float8[]::vector, '{0.1,1e-45}'::numeric[]::vector, '{2147483647,16777217}'::int[]::vector;
SELECT statement, error_of('SELECT ' || statement) FROM (VALUES
    ($$'{1,2,3}'::real[]::vector(2)$$), ($$'{1,2,3}'::float8[]::vector(2)$$), ($$'[1,2,3]'::vector::vector(2)$$),
    ($$'{}'::real[]::vector$$), ($$'{}'::int[]::vector$$), ($$'{{1},{2}}'::real[]::vector$$),
    ($$'{1,NULL}'::real[]::vector$$), ($$'{NULL}'::int[]::vector$$), ($$'{NULL,1}'::float8[]::vector$$), ($$'{1,NULL}'::numeric[]::vector$$),
    ($$'{NaN}'::real[]::vector$$), ($$'{Infinity}'::real[]::vector$$), ($$'{-Infinity}'::float8[]::vector$$), ($$'{4e38,-4e38}'::float8[]::vector$$),
    ($$'{NaN}'::numeric[]::vector$$), ($$'{1e39}'::numeric[]::vector$$), ($$'{1e-50}'::numeric[]::vector$$), ($$'{a}'::text[]::vector$$),
    ($$array_fill(1, ARRAY[16001])::vector$$), ($$array_to_vector(array_fill(1, ARRAY[16001]), 16001, false)$$),
    ($$array_fill(1::numeric, ARRAY[16001])::vector$$)
) AS t(statement);

-- an array type that has no cast
CREATE FUNCTION bigint_to_vector(bigint[], int, bool) RETURNS vector AS 'pg_embed', 'array_to_vector_wrapper' LANGUAGE C STRICT;
SELECT error_of('SELECT bigint_to_vector(ARRAY[1,2], -1, false)');
DROP FUNCTION bigint_to_vector;

-- vector to real[] and vector(n) are implicit, from arrays only in assignments
CREATE TABLE casts (v vector(2), r real[]);
INSERT INTO casts VALUES (ARRAY[1,2], '[3,4]'::vector), (ARRAY[1.5,2], NULL);
SELECT *, array_length(v::real[], 1) FROM casts;
SELECT error_of('INSERT INTO casts (v) VALUES (ARRAY[1,2,3])'), error_of($$SELECT '[1,2]'::vector <-> ARRAY[1,2]$$);
DROP TABLE casts;
-- and do not get in the way of arrays
SELECT ARRAY[1,2,3] = ARRAY[1,2,3], ARRAY[1.5] || ARRAY[2.5];

-- stored arrays with short headers, out of line and compressed
CREATE TABLE arrays (a real[], b int[]);
INSERT INTO arrays VALUES ('{1,2}', '{3}'), (array_fill(1, ARRAY[3000])::real[], array_fill(2, ARRAY[3000]));
SELECT vector_dims(a::vector), a::vector <-> a::vector AS l2, vector_norm(b::vector)::int FROM arrays;
DROP TABLE arrays;
