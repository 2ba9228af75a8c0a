-- Text input and output, and the type modifier.

SELECT input, vector_or_error(input) FROM (VALUES
    ('[1,2,3]'), ('[-1,+2,.5,5.]'), (E' \t\n\r\x0b\f[ 1 ,\t2\n,  3 ] \n'), ('[1.5e38,-1.5E-38,1e2]'),
    ('[0x10,0X1.8p1,-0x.8]'),                     -- hexadecimal, as strtof reads it
    ('[1e-46,-1e-46,1e-45,1e-400]'),              -- underflow is silent
    ('[0.1,16777217,3.4028235e38,3.40282356e38]'),
    ('[00000000000000000000001.50000000000000000000000000000000000000000000000]'),
    ('[123456789012345678901234567890]')
) AS t(input);

SELECT input, vector_or_error(input) FROM (VALUES
    -- no vector
    (''), ('1,2,3'), (' 1'), ('{1,2}'), ('('),
    -- no numbers
    ('['), ('[ '), ('[]'), ('[ ]'), ('[,'), ('[,]'), ('[1,'), ('[1, '), ('[1,]'), ('[1,,3]'), ('[1, ,3]'), ('[hello,1]'),
    ('[1a]'), ('[1 2]'), ('[1e]'), ('[1e+]'), ('[--1]'), ('[.]'), ('[0x]'), ('[1_000]'), ('[+]'),
    -- no end, or something after it
    ('[1,2,3'), ('[1,2,3 '), ('[1,2,3}'), ('[1,2,3]9'), ('[1,2,3]]'), ('[1],'),
    -- not finite
    ('[NaN,1]'), ('[nan(123)]'), ('[-nan]'), ('[Infinity,1]'), ('[-inf]'), ('[inf'), ('[infinit]'),
    ('[4e38,1]'), ('[-4e38,1]'), ('[1, 1e400 ]'), ('[0x1p128]'), ('[3.5e38'),
    -- the first thing that is wrong decides
    ('[NaN,x]'), ('[x,NaN]'), ('[1e39,NaN]')
) AS t(input);

-- 16000 dimensions and no more
SELECT vector_dims(('[' || repeat('1,', 15999) || '1]')::vector);
SELECT left(vector_or_error('[' || repeat('1,', 16000) || '1]'), 80);
SELECT left(vector_or_error('[' || repeat('1,', 16000) || 'x'), 80);
SELECT left(vector_or_error('[' || repeat('1,', 15999) || 'x'), 80);
SELECT left(vector_or_error('[' || repeat(',', 100000)), 60);

-- where in the statement, as psql shows it
SELECT '[1,2,3]9'::vector;
\set VERBOSITY sqlstate
SELECT '[1,2,3]9'::vector;
\set VERBOSITY default

-- type modifier
SELECT '[1,2,3]'::vector(3), '[1,2,3]'::vector::vector(3);
SELECT format_type('vector'::regtype, 3);
SELECT dimensions, vector_or_error('[1,2,3]', dimensions) FROM (VALUES
    ('(2)'), ('(4)'), ('(3,2)'), ('(0)'), ('(-1)'), ('(16000)'), ('(16001)'), ('(2147483648)'), ('(''a'')'), ('(NULL)')
) AS t(dimensions);

-- output is the shortest that reads back, also beyond what float4's fast paths cover
SET extra_float_digits = 0;
SELECT '[0.1,1.23456789,1e-45,3.4028235e38,-0,1e15,123456792,1e-5]'::vector;
RESET extra_float_digits;
SELECT count(*), bool_and(v::text::vector::text = v::text), bool_and(v = ARRAY[x]::vector) FROM (
    SELECT (i || 'e' || (i % 75 - 42))::float4 AS x FROM generate_series(1, 20000) i
) s, LATERAL (SELECT ('[' || x::text || ']')::vector AS v) t;
-- and decimal numbers are read as float4 reads them
SELECT count(*) FROM (
    SELECT ('x' || md5(i::text))::bit(60)::bigint::text || 'e' || (i % 60 - 45) AS number
    FROM generate_series(1, 20000) i
) s WHERE ARRAY[number::float8::numeric::text::float4]::vector IS DISTINCT FROM ('[' || number::float8::numeric::text || ']')::vector;

-- columns: values are checked, and kept when they are stored out of line
CREATE TABLE items (id int PRIMARY KEY, v vector(3), w vector);
INSERT INTO items VALUES (1, '[1,2,3]', '[1]'), (2, NULL, NULL), (3, '[4,5,6]', '[1,2]');
SELECT error_of($$INSERT INTO items VALUES (4, '[1,2]')$$), error_of($$UPDATE items SET v = w$$);
ALTER TABLE items ALTER w TYPE vector(2) USING CASE WHEN id = 3 THEN w END;
SELECT error_of('ALTER TABLE items ALTER v TYPE vector(2)');
SELECT attname, format_type(atttypid, atttypmod), attstorage FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 1;
INSERT INTO items SELECT 5, NULL, NULL;
ALTER TABLE items ALTER v TYPE vector;
UPDATE items SET v = (SELECT array_agg(i) FROM generate_series(1, 16000) i)::vector WHERE id = 5;
SELECT id, vector_dims(v), (v::real[])[16000], v <-> v AS self FROM items ORDER BY id;
DROP TABLE items;

-- arrays of vectors
SELECT '{"[1,2,3]","[4,5,6]",NULL}'::vector[];
SELECT unnest('{"[1,2,3]","[4,5,6]"}'::vector(3)[]);
SELECT error_of($$SELECT '{"[1,2,3]"}'::vector(2)[]$$);
SELECT array_agg(v ORDER BY v DESC) FROM (VALUES ('[1,2]'::vector), ('[2]'), ('[1]')) t(v);
