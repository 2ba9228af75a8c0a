-- What is made of many vectors: clusters, directions; and of the ranks of several searches.

CREATE FUNCTION kmeans(v vector, k integer, seed integer DEFAULT 0) RETURNS integer
    AS 'MODULE_PATHNAME', 'kmeans_wrapper' LANGUAGE C STABLE PARALLEL SAFE WINDOW COST 100;
COMMENT ON FUNCTION kmeans(vector, integer, integer) IS 'window function: which of k clusters of the partition''s vectors a row is in, from 0; of a sample that fits into work_mem';

CREATE FUNCTION pca(v vector, n integer) RETURNS vector
    AS 'MODULE_PATHNAME', 'pca_wrapper' LANGUAGE C STABLE PARALLEL SAFE WINDOW COST 100;
COMMENT ON FUNCTION pca(vector, integer) IS 'window function: a row''s vector along the n directions in which the partition''s vectors differ most; of a sample that fits into work_mem';

CREATE FUNCTION rrf_score(rank bigint, k integer DEFAULT 60) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(1::double precision / (k + rank)::double precision, 0::double precision);
COMMENT ON FUNCTION rrf_score(bigint, integer) IS 'what a rank from 1 adds to a row''s score in reciprocal rank fusion: 1 / (k + rank), 0 for NULL';

CREATE FUNCTION hybrid_search(
    vectorizer text, query text, k integer DEFAULT 10, filter jsonb DEFAULT '{}', config regconfig DEFAULT NULL, words text DEFAULT NULL,
    word_weight double precision DEFAULT 1, candidates integer DEFAULT 100, rrf_k integer DEFAULT 60,
    OUT key text[], OUT ordinal integer, OUT content text, OUT score double precision,
    OUT vector_rank bigint, OUT word_rank bigint, OUT distance double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'hybrid_search_wrapper' LANGUAGE C STABLE PARALLEL SAFE COST 10000 ROWS 10;
COMMENT ON FUNCTION hybrid_search(text, text, integer, jsonb, regconfig, text, double precision, integer, integer) IS 'what a vectorizer has nearest to a search text or with its words, by reciprocal rank fusion';
