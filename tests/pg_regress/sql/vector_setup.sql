-- What the other tests use.

-- SQLSTATE, message and detail of the error that a statement ends in.
CREATE FUNCTION error_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', SQLSTATE, message, '(' || nullif(detail, '') || ')');
END
$$;

-- The error of reading a vector, else the vector.
CREATE FUNCTION vector_or_error(input text, dimensions text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT %L::vector%s', input, dimensions) INTO result;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    RETURN error_of(format('SELECT %L::vector%s', input, dimensions));
END
$$;
