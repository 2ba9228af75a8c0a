-- The access method ivf, as users see it.

-- Its own operator classes are valid; others are told what they lack.
SELECT opcname, opcdefault, amvalidate(oid) FROM pg_opclass
WHERE opcmethod = (SELECT oid FROM pg_am WHERE amname = 'ivf') ORDER BY opcname;
CREATE OPERATOR CLASS bad_ops FOR TYPE vector USING ivf AS
    OPERATOR 1 = (vector, vector), OPERATOR 2 <-> (vector, vector) FOR ORDER BY float_ops, OPERATOR 3 < (vector, vector), FUNCTION 1 vector_dims(vector);
SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'bad_ops';
DROP OPERATOR FAMILY bad_ops USING ivf CASCADE;
CREATE OPERATOR CLASS bad_ops FOR TYPE vector USING ivf AS OPERATOR 1 <+> (vector, vector) FOR ORDER BY float_ops;
SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'bad_ops';
CREATE TABLE t (val vector(3));
SELECT error_of('CREATE INDEX ON t USING ivf (val bad_ops)');
DROP OPERATOR FAMILY bad_ops USING ivf CASCADE;
SELECT error_of('CREATE OPERATOR CLASS bad_ops FOR TYPE vector USING ivf AS OPERATOR 1 <-> (vector, vector)');
SELECT amname, error_of(format('CREATE %s INDEX ON t USING %s (val) %s', kind, amname, suffix))
FROM (VALUES ('UNIQUE', ''), ('', 'INCLUDE (val)')) kinds (kind, suffix), pg_am WHERE amname = 'ivf';
SELECT error_of('CREATE INDEX ON t USING ivf (val, (val + val))');
DROP TABLE t;

-- Options.
CREATE TABLE t (val vector(3));
SELECT option, error_of(format('CREATE INDEX ON t USING ivf (val) WITH (%s)', option)) FROM unnest(ARRAY[
    'lists = 0', 'lists = 32769', 'bits = 0', 'bits = 9', 'rerank = maybe', 'probes = 1', 'fillfactor = 90'
]) option;
CREATE INDEX i ON t USING ivf (val) WITH (lists = 32768, bits = 1, rerank = off);
SELECT reloptions FROM pg_class WHERE relname = 'i';
SELECT dimensions, bits, lists, "rows" FROM ivf_info('i');
ALTER INDEX i SET (bits = 5);
ALTER INDEX i RESET (lists, rerank);
REINDEX INDEX i;
SELECT dimensions, bits, lists, "rows" FROM ivf_info('i');
DROP TABLE t;

-- Settings.
SELECT name, setting, min_val, max_val, enumvals, context FROM pg_settings WHERE name ~ '^ivf\.' ORDER BY name;
SELECT setting, error_of('SET ' || setting) FROM unnest(ARRAY[
    'ivf.probes = -1', 'ivf.probes = 0', 'ivf.probes = 32769', 'ivf.iterative_scan = on', 'ivf.iterative_scan = off',
    'ivf.iterative_scan = relaxed_order', 'ivf.max_probes = 0', 'ivf.max_probes = 32769', 'ivf.lists = 1',
    'ivf.target_recall = 0.4', 'ivf.target_recall = 1.1', 'ivf.target_recall = 0.8'
]) setting;
RESET ivf.probes;
RESET ivf.target_recall;
RESET ivf.iterative_scan;

-- Recall.
CREATE TABLE t (id int, val vector(4), most vector(4));
SELECT setseed(0.25);
INSERT INTO t SELECT n, v, v FROM (SELECT n, ARRAY[random(), random(), random(), random()]::vector(4) FROM generate_series(1, 2000) n) r (n, v);
CREATE INDEX i ON t USING ivf (val) WITH (lists = 20);
CREATE INDEX one ON t USING ivf (most) WITH (lists = 1);
SELECT probes_at_90 < probes_at_95 AND probes_at_95 < probes_at_99 AND probes_at_99 < lists AS more_for_more, calibrated FROM ivf_info('i');
SELECT round(probes_at_95) = automatic_probes AS by_default, (SELECT automatic_probes FROM ivf_info('one')) AS of_one FROM ivf_info('i');
SET ivf.target_recall = 1;
SELECT ivf_recall('i'), automatic_probes FROM ivf_info('i');
SET ivf.target_recall = 0.9;
SELECT ivf_recall('i') BETWEEN 0.8 AND 0.98 AS about, automatic_probes = round(probes_at_90) AS chosen FROM ivf_info('i');
RESET ivf.target_recall;
SELECT ivf_calibrate('i', (SELECT array_agg(val) FROM t WHERE id <= 200)), ivf_calibrate('one', (SELECT array_agg(val) FROM t WHERE id <= 200));
SELECT calibrated FROM ivf_info('i');
SELECT ivf_calibrate('i', NULL), ivf_calibrate(NULL, '{}');
SELECT queries, error_of(format('SELECT ivf_calibrate(''i'', %L)', queries)) FROM (VALUES
    ('{}'::vector[]), ('{"[1,2,3,4]",NULL}'), ('{"[1,2]"}')) v (queries);
SELECT error_of('SELECT ivf_calibrate(''t'', ''{}'')');
CREATE ROLE somebody;
GRANT ALL ON t TO somebody;
SET ROLE somebody;
SELECT ivf_calibrate('i', '{}');
RESET ROLE;
DROP TABLE t;
DROP ROLE somebody;

-- Dimensions.
CREATE TABLE t (plain vector, most vector(2000), more vector(2001));
SELECT error_of('CREATE INDEX ON t USING ivf (plain)');
SELECT error_of('CREATE INDEX ON t USING ivf (more)');
CREATE INDEX first_row_tells ON t USING ivf ((plain + plain));
SELECT dimensions, lists, "rows", trained_at FROM ivf_info('first_row_tells');
SELECT ivf_check('first_row_tells');
INSERT INTO t (plain) VALUES ('[1,2,3]');
SELECT dimensions, lists, "rows" FROM ivf_info('first_row_tells');
TRUNCATE t;
SELECT dimensions FROM ivf_info('first_row_tells');
DROP INDEX first_row_tells;
CREATE INDEX ON t USING ivf ((plain::vector(2)));
SELECT error_of('INSERT INTO t (plain) VALUES (''[1,2,3]'')');
INSERT INTO t (plain) VALUES ('[1,2]'), ('[3,4]'), (NULL);
CREATE INDEX i ON t USING ivf ((plain + plain));
SELECT dimensions, "rows" FROM ivf_info('i');
DROP INDEX t_plain_idx;
SELECT error_of('INSERT INTO t (plain) VALUES (''[1,2,3]'')');
SET enable_seqscan = off;
SELECT error_of('SELECT * FROM t ORDER BY plain + plain <-> ''[1,2,3]''');
DROP TABLE t;

-- Rows in the order of their distances, NULL and what was inserted later too.
CREATE TABLE t (val vector(3));
INSERT INTO t VALUES ('[0,0,0]'), ('[1,2,3]'), ('[1,1,1]'), (NULL);
CREATE INDEX l2 ON t USING ivf (val vector_l2_ops);
CREATE INDEX ip ON t USING ivf (val vector_ip_ops) WITH (lists = 3);
CREATE INDEX cosine ON t USING ivf (val vector_cosine_ops);
INSERT INTO t VALUES ('[1,2,4]'), (NULL);
EXPLAIN (COSTS OFF) SELECT * FROM t ORDER BY val <-> '[3,3,3]';
SELECT * FROM t ORDER BY val <-> '[3,3,3]';
EXPLAIN (COSTS OFF) SELECT * FROM t ORDER BY val <#> '[3,3,3]' LIMIT 2;
SELECT * FROM t ORDER BY val <#> '[3,3,3]' LIMIT 2;
EXPLAIN (COSTS OFF) SELECT * FROM t ORDER BY val <=> '[3,3,3]';
SELECT * FROM t ORDER BY val <=> '[3,3,3]';
SELECT count(*) FROM (SELECT * FROM t ORDER BY val <=> '[0,0,0]') s;
SELECT count(*) FROM (SELECT * FROM t ORDER BY val <-> (SELECT NULL::vector)) s;
SELECT q.val AS query, found.val FROM t q CROSS JOIN LATERAL (SELECT * FROM t ORDER BY val <-> q.val LIMIT 1) found ORDER BY 1;
-- Not for another operator, another direction, or no order at all. (Since PostgreSQL 18 a plan says what was disabled.)
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS
$$DECLARE line text; BEGIN
  FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF line !~ 'Disabled: true' THEN RETURN NEXT line; END IF;
  END LOOP; END$$;
SELECT plan_of($$SELECT * FROM t ORDER BY val <+> '[3,3,3]'$$);
SELECT plan_of($$SELECT * FROM t ORDER BY val <-> '[3,3,3]' DESC$$);
SELECT plan_of($$SELECT * FROM t WHERE val <-> '[3,3,3]' < 2$$);
SELECT error_of('SELECT * FROM t ORDER BY val <-> ''[1,2]''');
DELETE FROM t WHERE val = '[1,1,1]';
VACUUM t;
SELECT * FROM t ORDER BY val <-> '[3,3,3]';
SELECT indexrelname, metric, "rows", ivf_recall(indexrelid), (SELECT count(*) FROM ivf_check(indexrelid)) AS problems
FROM pg_stat_user_indexes, ivf_info(indexrelid) WHERE relname = 't' ORDER BY 1;
TRUNCATE t;
SELECT * FROM t ORDER BY val <-> '[3,3,3]';
SELECT ivf_recall('l2');
DROP TABLE t;

-- Iterative scans: a condition that few rows satisfy, and a bound on the lists.
CREATE TABLE t (id int, val vector(2));
INSERT INTO t SELECT i, ARRAY[cos(i), sin(i)]::vector FROM generate_series(1, 2000) i;
CREATE INDEX i ON t USING ivf (val) WITH (lists = 40);
SET ivf.probes = 1;
SELECT count(*) FROM (SELECT FROM t WHERE id % 100 = 0 ORDER BY val <-> '[1,0]' LIMIT 10) s;
SET ivf.max_probes = 1;
SELECT count(*) < 10 AS short FROM (SELECT FROM t WHERE id % 100 = 0 ORDER BY val <-> '[1,0]' LIMIT 10) s;
RESET ivf.max_probes;
SET ivf.iterative_scan = off;
SELECT count(*) < 10 AS short FROM (SELECT FROM t WHERE id % 100 = 0 ORDER BY val <-> '[1,0]' LIMIT 10) s;
RESET ivf.iterative_scan;
SET ivf.probes = 40;
SELECT id FROM t ORDER BY val <-> '[1,0]', id LIMIT 5;
SELECT ivf_recall('i', 5, 20);
RESET ivf.probes;
-- The planner's own choice.
RESET enable_seqscan;
ANALYZE t;
EXPLAIN (COSTS OFF) SELECT * FROM t ORDER BY val <-> '[1,0]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT * FROM t ORDER BY val <-> '[1,0]';
-- A partial index.
CREATE INDEX partial ON t USING ivf (val) WHERE id <= 3;
SELECT "rows" FROM ivf_info('partial');
SET enable_seqscan = off;
DROP INDEX i;
EXPLAIN (COSTS OFF) SELECT id FROM t WHERE id <= 3 ORDER BY val <-> '[1,0]';
SELECT id FROM t WHERE id <= 3 ORDER BY val <-> '[1,0]';
SELECT plan_of($$SELECT id FROM t WHERE id <= 4 ORDER BY val <-> '[1,0]'$$);
DROP TABLE t;

-- An index on an expression: with a model, and with a function that tells when it is called. The executor calls it for a row
-- that is returned, as the sort column is part of the result; with rerank also for each row that the index finds.
CREATE TABLE t (id int, body text, val vector(2));
INSERT INTO t SELECT i, format('text number %s', i), ARRAY[i, 1]::vector FROM generate_series(1, 50) i;
CREATE INDEX i ON t USING ivf (embed('tiny-bert', body) vector_cosine_ops);
SET plan_cache_mode = force_generic_plan;
PREPARE search (vector) AS SELECT id FROM t ORDER BY embed('tiny-bert', body) <=> $1 LIMIT 1;
EXPLAIN (COSTS OFF) EXECUTE search (NULL);
EXECUTE search (embed('tiny-bert', 'text number 7'));
SELECT ivf_recall('i', 1);
RESET enable_seqscan;
EXPLAIN (COSTS OFF) EXECUTE search (NULL);
DEALLOCATE search;
RESET plan_cache_mode;
CREATE FUNCTION told(vector) RETURNS vector(2) IMMUTABLE STRICT LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'postgres' THEN
        RAISE EXCEPTION 'called by %', current_user;
    END IF;
    IF current_setting('regress.tell', true) = 'on' THEN
        RAISE NOTICE 'computed for %', $1;
    END IF;
    RETURN $1;
END
$$;
CREATE INDEX told ON t USING ivf (told(val)) WITH (rerank = off);
SET enable_seqscan = off;
SET regress.tell = on;
SELECT id FROM t ORDER BY told(val) <-> '[3,1]' LIMIT 1;
ALTER INDEX told RESET (rerank);
SELECT id FROM t ORDER BY told(val) <-> '[3,1]' LIMIT 1;
ALTER INDEX told SET (rerank = on);
SELECT id FROM t ORDER BY told(val) <-> '[3,1]' LIMIT 1;
RESET regress.tell;
RESET enable_seqscan;

-- Inspection is for ivf indexes, and for those who may.
SELECT call, error_of('SELECT * FROM ' || call) FROM unnest(ARRAY[
    'ivf_info(''t'')', 'ivf_check(''pg_class_oid_index'')', 'ivf_recall(''t'')', 'ivf_recall(''i'', 0)', 'ivf_recall(''i'', 1, 20000)'
]) call;
SELECT ivf_info(NULL), ivf_check(NULL), ivf_recall(NULL);
CREATE ROLE ivf_reader;
GRANT SELECT ON t TO ivf_reader;
GRANT EXECUTE ON FUNCTION error_of TO ivf_reader;
SET ROLE ivf_reader;
SELECT "rows" FROM ivf_info('i');
-- The expression is the table's owner's affair.
SELECT ivf_recall('told');
SELECT error_of('SELECT ivf_check(''i'')');
RESET ROLE;
REVOKE SELECT ON t FROM ivf_reader;
SET ROLE ivf_reader;
SELECT error_of('SELECT ivf_info(''i'')');
SELECT error_of('SELECT ivf_recall(''i'')');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION error_of FROM ivf_reader;
DROP ROLE ivf_reader;
DROP TABLE t;
DROP FUNCTION told;

-- Every object has a comment.
SELECT pg_describe_object(classid, objid, objsubid) AS without_comment FROM pg_depend
WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_embed') AND deptype = 'e'
    AND obj_description(objid, classid::regclass::name) IS NULL
    AND pg_describe_object(classid, objid, objsubid) ~ 'ivf' ORDER BY 1;
