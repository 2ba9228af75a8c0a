-- The access method ivf: an inverted file with quantised codes. An index serves ORDER BY column <operator> value.

CREATE FUNCTION ivfhandler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME', 'ivfhandler_wrapper' LANGUAGE C;
COMMENT ON FUNCTION ivfhandler(internal) IS 'handler of access method ivf';

CREATE ACCESS METHOD ivf TYPE INDEX HANDLER ivfhandler;
COMMENT ON ACCESS METHOD ivf IS 'nearest vectors: inverted file with quantised codes';

-- What an operator class orders by.

CREATE FUNCTION ivf_metric_l2() RETURNS integer
    AS 'MODULE_PATHNAME', 'ivf_metric_l2_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ivf_metric_l2() IS 'support function 1 of ivf operator classes: Euclidean distance';

CREATE FUNCTION ivf_metric_inner_product() RETURNS integer
    AS 'MODULE_PATHNAME', 'ivf_metric_inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ivf_metric_inner_product() IS 'support function 1 of ivf operator classes: negative inner product';

CREATE FUNCTION ivf_metric_cosine() RETURNS integer
    AS 'MODULE_PATHNAME', 'ivf_metric_cosine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION ivf_metric_cosine() IS 'support function 1 of ivf operator classes: cosine distance';

-- What the planner makes of "distance < number" for an index that is ordered by that distance. `checked` says that the
-- condition itself is checked, too, so that there is nothing left to do here.

CREATE TYPE vector_sphere AS (center vector, radius double precision, checked boolean);
COMMENT ON TYPE vector_sphere IS 'the vectors within a distance of one; for conditions of index scans';

CREATE FUNCTION within_l2_distance(vector, vector_sphere) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN ($2).checked THEN true ELSE $1 <-> ($2).center <= ($2).radius END;
COMMENT ON FUNCTION within_l2_distance(vector, vector_sphere) IS 'whether a vector is within a sphere, by Euclidean distance';
CREATE OPERATOR <<->> (LEFTARG = vector, RIGHTARG = vector_sphere, FUNCTION = within_l2_distance);
COMMENT ON OPERATOR <<->> (vector, vector_sphere) IS 'within a sphere, by Euclidean distance';

CREATE FUNCTION within_negative_inner_product(vector, vector_sphere) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN ($2).checked THEN true ELSE $1 <#> ($2).center <= ($2).radius END;
COMMENT ON FUNCTION within_negative_inner_product(vector, vector_sphere) IS 'whether a vector is within a sphere, by negative inner product';
CREATE OPERATOR <<#>> (LEFTARG = vector, RIGHTARG = vector_sphere, FUNCTION = within_negative_inner_product);
COMMENT ON OPERATOR <<#>> (vector, vector_sphere) IS 'within a sphere, by negative inner product';

CREATE FUNCTION within_cosine_distance(vector, vector_sphere) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN ($2).checked THEN true ELSE $1 <=> ($2).center <= ($2).radius END;
COMMENT ON FUNCTION within_cosine_distance(vector, vector_sphere) IS 'whether a vector is within a sphere, by cosine distance';
CREATE OPERATOR <<=>> (LEFTARG = vector, RIGHTARG = vector_sphere, FUNCTION = within_cosine_distance);
COMMENT ON OPERATOR <<=>> (vector, vector_sphere) IS 'within a sphere, by cosine distance';

CREATE OPERATOR FAMILY vector_l2_ops USING ivf;
COMMENT ON OPERATOR FAMILY vector_l2_ops USING ivf IS 'nearest by Euclidean distance';
CREATE OPERATOR CLASS vector_l2_ops DEFAULT FOR TYPE vector USING ivf FAMILY vector_l2_ops AS
    OPERATOR 1 <-> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    OPERATOR 2 <<->> (vector, vector_sphere),
    FUNCTION 1 ivf_metric_l2();
COMMENT ON OPERATOR CLASS vector_l2_ops USING ivf IS 'nearest by Euclidean distance';

CREATE OPERATOR FAMILY vector_ip_ops USING ivf;
COMMENT ON OPERATOR FAMILY vector_ip_ops USING ivf IS 'nearest by inner product';
CREATE OPERATOR CLASS vector_ip_ops FOR TYPE vector USING ivf FAMILY vector_ip_ops AS
    OPERATOR 1 <#> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    OPERATOR 2 <<#>> (vector, vector_sphere),
    FUNCTION 1 ivf_metric_inner_product();
COMMENT ON OPERATOR CLASS vector_ip_ops USING ivf IS 'nearest by inner product';

CREATE OPERATOR FAMILY vector_cosine_ops USING ivf;
COMMENT ON OPERATOR FAMILY vector_cosine_ops USING ivf IS 'nearest by cosine distance';
CREATE OPERATOR CLASS vector_cosine_ops FOR TYPE vector USING ivf FAMILY vector_cosine_ops AS
    OPERATOR 1 <=> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    OPERATOR 2 <<=>> (vector, vector_sphere),
    FUNCTION 1 ivf_metric_cosine();
COMMENT ON OPERATOR CLASS vector_cosine_ops USING ivf IS 'nearest by cosine distance';

-- Inspection.

CREATE FUNCTION ivf_info(
    index regclass, OUT metric text, OUT dimensions integer, OUT bits integer, OUT lists integer, OUT "rows" bigint,
    OUT longest_list bigint, OUT empty_lists bigint, OUT imbalance double precision, OUT bytes bigint,
    OUT free_bytes bigint, OUT trained_rows bigint, OUT trained_at timestamptz, OUT automatic_probes integer,
    OUT columns text[], OUT fresh_rows bigint, OUT training_due boolean, OUT probes_at_90 double precision,
    OUT probes_at_95 double precision, OUT probes_at_99 double precision, OUT calibrated boolean
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ivf_info_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION ivf_info(regclass) IS 'what an ivf index is like: lists, rows, size, training';

CREATE FUNCTION ivf_maintain(index regclass, force boolean DEFAULT false) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ivf_maintain_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION ivf_maintain(regclass, boolean) IS 'trains an ivf index again if its rows have become more, fewer or others, or at once; for the owner of its table. VACUUM does it by itself';

CREATE FUNCTION ivf_calibrate(index regclass, queries vector[]) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ivf_calibrate_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION ivf_calibrate(regclass, vector[]) IS 'measures with given queries how far scans of an ivf index have to read for ivf.target_recall, in place of its own rows; for the owner of its table';

CREATE FUNCTION ivf_check(index regclass, heapallindexed boolean DEFAULT false) RETURNS SETOF text
    AS 'MODULE_PATHNAME', 'ivf_check_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION ivf_check(regclass, boolean) IS 'what is wrong with an ivf index, one row a problem; for the owner of its table, whose vacuum waits';

CREATE FUNCTION ivf_recall(
    index regclass, k integer DEFAULT 10, sample integer DEFAULT 100, condition text DEFAULT NULL
) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ivf_recall_wrapper' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION ivf_recall(regclass, integer, integer, text) IS 'recall of the first k rows with the current settings, measured on sampled rows against an exact scan; of the rows that satisfy a condition';
