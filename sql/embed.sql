-- Text to vector. The functions that name a model are IMMUTABLE: a model's files are part of its name. Those that do
-- not are STABLE, as they depend on pg_embed.default_model, pg_embed.query_model and pg_embed.rerank_model.

CREATE FUNCTION embed_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'embed_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embed_support(internal) IS 'planner support function: what a call of embed costs';

CREATE FUNCTION embed(input text) RETURNS vector
    AS 'MODULE_PATHNAME', 'embed_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed(text) IS 'vector of a text by the model pg_embed.default_model names; NULL for a blank text';

CREATE FUNCTION embed(model text, input text) RETURNS vector
    AS 'MODULE_PATHNAME', 'embed_model_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed(text, text) IS 'vector of a text by the named model; NULL for a blank text';

CREATE FUNCTION embed(input text[]) RETURNS vector[]
    AS 'MODULE_PATHNAME', 'embed_array_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed(text[]) IS 'vectors of many texts in one batch, in order, by the model pg_embed.default_model names';

CREATE FUNCTION embed(model text, input text[]) RETURNS vector[]
    AS 'MODULE_PATHNAME', 'embed_model_array_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed(text, text[]) IS 'vectors of many texts in one batch, in order, by the named model';

CREATE FUNCTION embed_query(input text) RETURNS vector
    AS 'MODULE_PATHNAME', 'embed_query_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed_query(text) IS 'vector of a search text: like embed, by the model pg_embed.query_model names, if any, and with the model''s query prefix, if it has one';

CREATE FUNCTION embed_query(model text, input text) RETURNS vector
    AS 'MODULE_PATHNAME', 'embed_query_model_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION embed_query(text, text) IS 'vector of a search text: like embed, with the query prefix of the named model, if it has one';

CREATE FUNCTION rerank(query text, documents text[]) RETURNS real[]
    AS 'MODULE_PATHNAME', 'rerank_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION rerank(text, text[]) IS 'how well each document answers a query, in order, by the cross-encoder pg_embed.rerank_model names; more is better';

CREATE FUNCTION rerank(model text, query text, documents text[]) RETURNS real[]
    AS 'MODULE_PATHNAME', 'rerank_model_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SUPPORT embed_support;
COMMENT ON FUNCTION rerank(text, text, text[]) IS 'how well each document answers a query, in order, by the named cross-encoder; more is better';

CREATE FUNCTION token_count(input text) RETURNS integer
    AS 'MODULE_PATHNAME', 'token_count_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION token_count(text) IS 'tokens of a text as the default model would see it without truncation, special tokens included';

CREATE FUNCTION token_count(model text, input text) RETURNS integer
    AS 'MODULE_PATHNAME', 'token_count_model_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION token_count(text, text) IS 'tokens of a text as the named model would see it without truncation, special tokens included';

CREATE FUNCTION chunk(
    input text, max_tokens integer DEFAULT NULL, overlap integer DEFAULT 0, format text DEFAULT 'plain', model text DEFAULT NULL,
    OUT ordinal integer, OUT content text, OUT start_offset integer, OUT end_offset integer, OUT tokens integer
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'chunk_wrapper' LANGUAGE C STABLE PARALLEL SAFE COST 1000 ROWS 10;
COMMENT ON FUNCTION chunk(text, integer, integer, text, text) IS 'a text as parts that a model can see whole: paragraphs, sentences, words; format is plain or markdown';

CREATE FUNCTION embed_models(
    OUT name text, OUT task text, OUT dimensions integer, OUT max_tokens integer, OUT pooling text, OUT document_prefix text,
    OUT query_prefix text, OUT "precision" text, OUT twin_of text, OUT loaded boolean, OUT path text, OUT error text
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'embed_models_wrapper' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION embed_models() IS 'models installed in pg_embed.model_path; task is embed or rerank; twin_of is what a model was quantised from; path is shown to superusers';

CREATE FUNCTION embed_stats(
    OUT model text, OUT calls bigint, OUT texts bigint, OUT tokens bigint, OUT truncations bigint,
    OUT cache_hits bigint, OUT seconds double precision
) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'embed_stats_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION embed_stats() IS 'what each model has done: since the server started where it preloads pg_embed, else in this session';

CREATE FUNCTION embed_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME', 'embed_trigger_wrapper' LANGUAGE C;
COMMENT ON FUNCTION embed_trigger() IS 'keeps a vector column in step: embed_trigger(target, model or ''default'', source, ...), BEFORE INSERT OR UPDATE FOR EACH ROW';
