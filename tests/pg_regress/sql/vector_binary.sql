-- The binary format: vector_send, and vector_recv by way of COPY.

SELECT vector_send('[1,-2.5]');
SELECT vector_send('[1,2]') = vector_send('[1,2]'::vector(2)), octet_length(vector_send(array_fill(1, ARRAY[16000])::vector));

-- A COPY file of one vector with these bytes, read back.
CREATE FUNCTION received(message bytea, dimensions text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    path text := current_setting('data_directory') || '/pg_embed_regress.bin';
    file oid := lo_from_bytea(0, '\x5047434f50590aff0d0a00'::bytea || '\x00000000' || '\x00000000'
        || '\x0001' || int4send(octet_length(message)) || message || '\xffff');
    result text;
BEGIN
    PERFORM lo_export(file, path), lo_unlink(file);
    EXECUTE 'CREATE TEMP TABLE received (v vector' || dimensions || ')';
    EXECUTE format('COPY received FROM %L (FORMAT binary)', path);
    SELECT v INTO result FROM received;
    DROP TABLE received;
    RETURN result;
END
$$;

SELECT received(vector_send('[1,-2.5,1e-45]')), received(vector_send('[1,2]'), '(2)');
SELECT message, error_of(format('SELECT received(%L, %L)', message, dimensions)) FROM (VALUES
    ('\x0000 0000'::bytea, ''),
    ('\xffff 0000', ''),
    ('\x3e81 0000', ''),
    ('\x0002 0000 3f800000 40000000', '(3)'),
    ('\x0002 0001 3f800000 40000000', ''),
    ('\x0002 ffff 3f800000 40000000', ''),
    ('\x0002 0000 3f800000 7fc00000', ''),
    ('\x0002 0000 ff800000 7fc00000', ''),
    ('\x0003 0000 7fc00000', ''),
    ('\x0002 0000 3f800000', ''),
    ('\x0002 0000 3f800000 4000', ''),
    ('\x0001 0000 3f800000 40000000', ''),
    ('\x0001', ''),
    ('\x', '')
) AS t(message, dimensions);

-- tables of vectors, of binary and of text
SELECT current_setting('data_directory') || '/pg_embed_regress.bin' AS path \gset
CREATE TABLE source (id int, v vector(3));
INSERT INTO source VALUES (1, '[0,0,0]'), (2, '[1,2,3]'), (3, '[1.5,-1e-45,3.4028235e38]'), (4, NULL);
CREATE TABLE target (LIKE source);
COPY source TO :'path' (FORMAT binary);
COPY target FROM :'path' (FORMAT binary);
COPY source TO :'path';
COPY target FROM :'path';
COPY source TO :'path' (FORMAT csv);
COPY target FROM :'path' (FORMAT csv);
SELECT * FROM target ORDER BY id;
COPY (SELECT WHERE false) TO :'path';
COPY source TO STDOUT;
DROP TABLE source, target;
DROP FUNCTION received;
