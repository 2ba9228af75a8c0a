-- The map and the topics, from the passages that are there. In one transaction: readers see the old map or the new one.

DELETE FROM topic;
DELETE FROM section_map;

-- A section's vector is the mean of its passages'. kmeans puts near ones into the same topic, pca finds the two directions in
-- which they differ most.
INSERT INTO section_map (part, id, topic, x, y, embedding)
SELECT part, id, topic, (xy::real[])[1], (xy::real[])[2], embedding
FROM (
    SELECT part, id, embedding,
        kmeans(embedding, (SELECT least(12, count(*) / 4 + 1)::integer FROM passage WHERE ordinal = 1)) OVER () AS topic,
        pca(embedding, 2) OVER () AS xy
    FROM (SELECT part, id, l2_normalize(avg(embedding)) AS embedding FROM passage GROUP BY part, id) AS mean) AS placed;

INSERT INTO topic (topic, centroid, sections, words)
SELECT topic, avg(embedding), count(*), '{}' FROM section_map GROUP BY topic;

-- The words that tell a topic from the others: those that many of its sections have, and few of all. Forms of a word count as
-- one, shown in the most frequent form.
WITH word AS (
    SELECT m.topic, w.lexeme AS form, (ts_lexize('english_stem', w.lexeme))[1] AS stem
    FROM section_map AS m
        JOIN section AS s USING (part, id)
        CROSS JOIN unnest(to_tsvector('simple', s.title || ' ' || s.body)) AS w
    WHERE w.lexeme ~ '^[a-z]{3,20}$'
), of_topic AS (
    SELECT topic, stem, mode() WITHIN GROUP (ORDER BY form) AS form, count(*)::double precision AS sections
    FROM word WHERE stem IS NOT NULL GROUP BY topic, stem
), told AS (
    SELECT o.topic, o.form, row_number() OVER (PARTITION BY o.topic ORDER BY
        o.sections / t.sections * ln(o.sections / t.sections / (a.sections / n.sections)) DESC, o.form) AS place
    FROM of_topic AS o
        JOIN topic AS t USING (topic)
        JOIN (SELECT stem, sum(sections) AS sections FROM of_topic GROUP BY stem) AS a USING (stem)
        CROSS JOIN (SELECT count(*)::double precision AS sections FROM section_map) AS n
)
UPDATE topic AS t SET words = w.words
FROM (SELECT topic, array_agg(form ORDER BY place) AS words FROM told WHERE place <= 6 GROUP BY topic) AS w
WHERE w.topic = t.topic;
