-- What the page searches. Run once, by the owner of the database.

CREATE EXTENSION IF NOT EXISTS pg_embed;

CREATE TABLE part (part smallint PRIMARY KEY, title text NOT NULL);

-- `words` is of the whole section, so that words which are far apart in it still find it; a title's words count more.
CREATE TABLE section (
    part smallint REFERENCES part,
    id integer,
    title text NOT NULL,
    path text NOT NULL,
    breadcrumb text NOT NULL,
    body text NOT NULL,
    words tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('english', title), 'A') || to_tsvector('english', body)) STORED,
    PRIMARY KEY (part, id)
);
-- Both are read in nearly every search: not compressed, they cost less to read.
ALTER TABLE section ALTER words SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
CREATE INDEX ON section USING gin (words);

-- The words of the manual and how much each tells: a word that few sections have tells more.
CREATE TABLE word (lexeme text PRIMARY KEY, weight double precision NOT NULL);

-- Where each section lies among the others: filled by map.sql.
CREATE TABLE section_map (
    part smallint,
    id integer,
    topic integer NOT NULL,
    x real NOT NULL,
    y real NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (part, id),
    FOREIGN KEY (part, id) REFERENCES section ON DELETE CASCADE
);
CREATE TABLE topic (topic integer PRIMARY KEY, centroid vector NOT NULL, sections bigint NOT NULL, words text[] NOT NULL);
