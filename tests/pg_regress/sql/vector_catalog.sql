-- Every function is IMMUTABLE STRICT PARALLEL SAFE, and every object has a comment.
SELECT count(*) >= 39 AS many, count(*) FILTER (WHERE provolatile <> 'i' OR proparallel <> 's' OR prokind = 'f' AND NOT proisstrict) AS otherwise
FROM pg_proc WHERE oid IN (
    SELECT objid FROM pg_depend WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_embed')
) AND (proname ~ 'vector|l1|l2|inner_product|cosine|binary_quantize' OR prokind = 'a') AND proname !~ 'vectorizer';
SELECT pg_describe_object(classid, objid, objsubid) AS without_comment FROM pg_depend
WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_embed') AND deptype = 'e'
    AND obj_description(objid, classid::regclass::name) IS NULL
    AND pg_describe_object(classid, objid, objsubid) ~ 'vector' AND pg_describe_object(classid, objid, objsubid) !~ 'vectorizer'
    -- Since PostgreSQL 18 a type's array is a member, too.
    AND pg_describe_object(classid, objid, objsubid) NOT LIKE 'type vector%[]' ORDER BY 1;

-- Beside another type of the same name, moved to another schema, and without any search_path.
CREATE SCHEMA elsewhere;
CREATE TYPE elsewhere.vector AS (x int);
ALTER EXTENSION pg_embed SET SCHEMA elsewhere;
DROP TYPE elsewhere.vector;
ALTER EXTENSION pg_embed SET SCHEMA elsewhere;
SET search_path = '';
SELECT '[1,2]'::elsewhere.vector(2) OPERATOR(elsewhere.<->) ARRAY[3,4]::elsewhere.vector AS l2, elsewhere.avg(v), elsewhere.sum(v)
FROM unnest('{"[1,2]","[3,4]"}'::elsewhere.vector[]) v;
SELECT v FROM unnest('{"[3]","[1,2]"}'::elsewhere.vector[]) v ORDER BY v;
ALTER EXTENSION pg_embed SET SCHEMA public;
RESET search_path;
DROP SCHEMA elsewhere;
SELECT '[1,2]'::vector;
