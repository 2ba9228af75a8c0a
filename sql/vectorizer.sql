-- Vectors for the rows of a table: those that are there already, and those that change.

CREATE PROCEDURE embed_backfill(
    relation regclass, target text, sources text[], model text DEFAULT NULL, batch_size integer DEFAULT 256,
    max_rows bigint DEFAULT NULL
)
    AS 'MODULE_PATHNAME', 'embed_backfill_wrapper' LANGUAGE C;
COMMENT ON PROCEDURE embed_backfill(regclass, text, text[], text, integer, bigint) IS 'fills a column of vectors where it is NULL and the sources have text; commits after each batch';

-- One row for each backfill that runs, and for those that were ended by an error until the next one begins. Unlogged: after a
-- crash none is running.
CREATE UNLOGGED TABLE embed_backfills (
    pid integer PRIMARY KEY,
    role oid NOT NULL,
    relation oid NOT NULL,
    target text NOT NULL,
    model text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    rows_total bigint NOT NULL DEFAULT 0,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_failed bigint NOT NULL DEFAULT 0,
    rows_skipped bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE embed_backfills IS 'how far each session''s embed_backfill is; see the view embed_progress';

-- A backfill that runs has a lock, whose numbers are this table and the process.
CREATE VIEW embed_progress WITH (security_barrier) AS
SELECT b.pid, b.relation::regclass AS relation, b.target, b.model, b.started_at,
    b.rows_total, b.rows_done, b.rows_skipped, b.rows_failed,
    round((b.rows_done / seconds)::numeric, 1) AS rows_per_second,
    make_interval(secs => (b.rows_total - seen) * seconds / nullif(seen, 0)) AS time_left
FROM embed_backfills AS b,
    greatest(extract(epoch FROM b.updated_at - b.started_at)::double precision, 0.001) AS seconds,
    CAST(b.rows_done + b.rows_skipped + b.rows_failed AS bigint) AS seen
WHERE EXISTS (
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.pid = b.pid AND l.classid = b.tableoid AND l.objsubid = 2
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
    AND (pg_has_role(b.role, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE'));
COMMENT ON VIEW embed_progress IS 'each embed_backfill that runs: rows of its present round, of which done, in need of nothing, failed; rows a second';
GRANT SELECT ON embed_progress TO PUBLIC;
