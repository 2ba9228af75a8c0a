-- Passages of a sentence or two, each with its vector: the one that is found is what the page shows. Workers embed what is
-- there, in the order of the key, and whatever changes later. The index comes when there is something to train it on.
SELECT vectorizer_create('section', '{title,body}', destination => 'passage', chunk => '{"max_tokens": 64}', index => false);

-- Which of a section's passages has most of the words. Sections are found by their own `words`.
ALTER TABLE passage ADD words tsvector GENERATED ALWAYS AS (to_tsvector('english', content)) STORED;

-- One for each section that is embedded, to count them.
CREATE INDEX passage_first_idx ON passage (part, id) WHERE ordinal = 1;

-- What the page shows of a passage: 160 characters around it, too. A section that no worker has come to yet begins with its body.
CREATE VIEW shown AS
SELECT part, id, ordinal, title, path, breadcrumb,
    substr(body, starts - 160, 160) AS before,
    coalesce(content, left(body, 320)) AS passage,
    substr(body, ends, 160) AS after
FROM section
    LEFT JOIN passage USING (part, id)
    -- Offsets count from the title on, which is joined to the body by a newline.
    CROSS JOIN LATERAL (
        SELECT start_offset - length(title) - 1 AS starts, end_offset - length(title) - 1 AS ends) AS in_body;

INSERT INTO word (lexeme, weight)
SELECT word, ln((SELECT count(*) + 1 FROM section) / ndoc::double precision) ^ 2 FROM ts_stat('SELECT words FROM section');

-- The page's server may read, for two seconds at a time.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'search_reader') THEN
        CREATE ROLE search_reader LOGIN;
    END IF;
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;
ALTER ROLE search_reader SET default_transaction_read_only = on;
ALTER ROLE search_reader SET statement_timeout = '2s';
ALTER ROLE search_reader SET idle_in_transaction_session_timeout = '10s';
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT SELECT ON part, section, passage, section_map, topic, word, shown TO search_reader;
