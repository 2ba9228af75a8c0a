-- Passages of a sentence or two, each with its vector: the one that is found is what the page shows. Workers embed what is
-- there, in the order of the key, and whatever changes later. The index comes when there is something to train it on.
SELECT vectorizer_create('section', '{title,body}', destination => 'passage', chunk => '{"max_tokens": 64}', index => false);

-- One for each section that is embedded, to count them.
CREATE INDEX passage_first_idx ON passage (part, id) WHERE ordinal = 1;

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
GRANT SELECT ON part, section, passage, section_map, topic TO search_reader;
