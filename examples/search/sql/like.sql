-- More like this: the passages nearest to the mean of a section's own.
WITH nearest AS (
    SELECT part, id, ordinal,
        embedding <=> (SELECT avg(embedding) FROM passage WHERE part = $1 AND id = $2) AS distance
    FROM passage
    ORDER BY embedding <=> (SELECT avg(embedding) FROM passage WHERE part = $1 AND id = $2)
    LIMIT $3 * 5 + (SELECT count(*) FROM passage WHERE part = $1 AND id = $2)
), of_each AS (
    SELECT DISTINCT ON (part, id) part, id, ordinal, distance
    FROM nearest WHERE (part, id) <> ($1, $2) AND distance IS NOT NULL ORDER BY part, id, distance
), best AS (
    SELECT part, id, ordinal, 1 - distance AS score FROM of_each ORDER BY distance LIMIT $3
)
SELECT part, id, title, path, breadcrumb, before, passage, after, score
FROM best JOIN shown USING (part, id, ordinal)
ORDER BY score DESC, part, id
