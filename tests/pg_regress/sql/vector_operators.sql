-- Distances, arithmetic, comparison and the other functions.

SELECT '[0,0]'::vector <-> '[3,4]' AS l2, '[1,2]'::vector <#> '[3,4]' AS ip, '[1,2]'::vector <=> '[2,4]' AS cosine, '[0,0]'::vector <+> '[3,-4]' AS l1;
SELECT l2_distance('[0,0]'::vector, '[3,4]'), inner_product('[1,2]'::vector, '[3,4]'), cosine_distance('[1,0]'::vector, '[0,2]'), l1_distance('[0,0]'::vector, '[3,4]');
SELECT vector_l2_squared_distance('[0,0]', '[3,4]'), vector_negative_inner_product('[1,2]', '[3,4]'),
    vector_spherical_distance('[1,0]', '[0,1]'), vector_spherical_distance('[1,1]', '[1,1]'), vector_spherical_distance('[1,1]', '[-1,-1]');

-- cosine: parallel vectors are at exactly 0, opposite ones at 2, a zero vector has no direction
SELECT a, b, a::vector <=> b::vector AS cosine FROM (VALUES
    ('[1,1]', '[1,1]'), ('[1,1]', '[1.1,1.1]'), ('[1,1]', '[-1.1,-1.1]'), ('[1,2,3,4,5,6,7,8,9]', '[1,2,3,4,5,6,7,8,9]'),
    ('[1,2,3,4,5,6,7,8,9]', '[-1,-2,-3,-4,-5,-6,-7,-8,-9]'), ('[1,2]', '[0,0]'), ('[0,0]', '[0,0]'), ('[3e38]', '[3e38]'),
    ('[1e-30]', '[1e-30]')
) AS t(a, b);

-- sums beyond float4 are infinite
SELECT '[3e38]'::vector <-> '[-3e38]' AS l2, '[3e38]'::vector <#> '[3e38]' AS ip, '[3e38]'::vector <+> '[-3e38]' AS l1;

-- every length has its own tail after the SIMD registers are full
SELECT count(*), max(abs((a <-> b) - sqrt(n))) < 1e-5 AS l2, bool_and((a <#> b) = -2 * n) AS ip, bool_and((a <+> b) = n) AS l1,
    bool_and((a <=> b) = 0) AS cosine
FROM generate_series(1, 300) n, LATERAL (SELECT array_fill(1, ARRAY[n])::vector AS a, array_fill(2, ARRAY[n])::vector AS b) v;

SELECT '[1,2,3]'::vector + '[4,5,6]' AS sum, '[1,2,3]'::vector - '[4,5,6]' AS difference, '[1,2,3]'::vector * '[4,0,-6]' AS product,
    '[1,2,3]'::vector || '[4,5]' AS both;
SELECT statement, error_of('SELECT ' || statement) FROM (VALUES
    ($$'[1,2]'::vector <-> '[3]'$$), ($$'[1,2]'::vector <#> '[3]'$$), ($$'[1,2]'::vector <=> '[3]'$$), ($$'[1,2]'::vector <+> '[3]'$$),
    ($$inner_product('[1,2]'::vector, '[3]')$$), ($$vector_l2_squared_distance('[1,2]', '[3]')$$), ($$vector_spherical_distance('[1]', '[3,4]')$$),
    ($$'[1,2]'::vector + '[3]'$$), ($$'[1,2]'::vector - '[3]'$$), ($$'[1]'::vector * '[3,4]'$$),
    ($$'[1,3e38]'::vector + '[1,3e38]'$$), ($$'[-3e38]'::vector - '[3e38]'$$), ($$'[1e37]'::vector * '[1e37]'$$),
    ($$'[1e-37]'::vector * '[1e-37]'$$), ($$'[1e-37,1e37]'::vector * '[1e-37,1e37]'$$), ($$'[1e37,1e-37]'::vector * '[1e37,1e-37]'$$),
    ($$array_fill(0, ARRAY[16000])::vector || '[1]'$$),
    ($$subvector('[1,2,3]'::vector, 1, 0)$$), ($$subvector('[1,2,3]'::vector, 3, -1)$$), ($$subvector('[1,2,3]'::vector, -1, 2)$$), ($$subvector('[1,2,3]'::vector, 4, 1)$$),
    ($$subvector('[1,2,3]'::vector, 2147483647, 10)$$), ($$subvector('[1,2,3]'::vector, 2147483647, 2147483647)$$),
    ($$subvector('[1,2,3]'::vector, -2147483648, -2147483648)$$)
) AS t(statement);

SELECT vector_dims('[1,2,3]'::vector), vector_norm('[3,4]'::vector), vector_norm('[0,0]'::vector), vector_norm('[3e37,4e37]'::vector)::real;
SELECT l2_normalize('[3,4]'::vector), l2_normalize('[0,0.1]'::vector), l2_normalize('[0,0]'::vector), l2_normalize('[3e38]'::vector), l2_normalize('[1e-45]'::vector);
SELECT subvector('[1,2,3,4,5]'::vector, 1, 3), subvector('[1,2,3,4,5]'::vector, 3, 9), subvector('[1,2,3,4,5]'::vector, -1, 3),
    subvector('[1,2,3,4,5]'::vector, 3, 2147483647), subvector('[1,2,3,4,5]'::vector, -2147483644, 2147483647);
SELECT binary_quantize('[1,0,-1]'::vector), binary_quantize('[0,0.1,-0.2,-0.3,0.4,0.5,0.6,-0.7,0.8,-0.9,1]'::vector), binary_quantize('[1,1,1,1,1,1,1,1]'::vector),
    length(binary_quantize(array_fill(1, ARRAY[16000])::vector));

-- values first, then dimensions
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, vector_cmp(a, b)
FROM (VALUES ('[1,2,3]'::vector, '[1,2,3]'::vector), ('[1,2]', '[1,2,3]'), ('[1,2,3]', '[1,2]'), ('[1,2]', '[2,3,4]'), ('[2,3]', '[1,2,3]'), ('[0]', '[-0]'))
AS t(a, b);

-- NULL in, NULL out
SELECT NULL::vector <-> '[1]', '[1]'::vector + NULL, vector_dims(NULL::vector), NULL::vector < '[1]', l2_normalize(NULL::vector);
