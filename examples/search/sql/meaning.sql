-- By meaning: the passages nearest to the question, of each section the nearest of its own.
WITH nearest AS (
    SELECT part, id, ordinal, embedding <=> vectorizer_embed('passage', $1) AS distance
    FROM passage WHERE length(content) > 30{and_part}  -- a line of output says little by itself
    ORDER BY embedding <=> vectorizer_embed('passage', $1)
    LIMIT $2 * 5                 -- as a section may have several
), of_each AS (
    SELECT DISTINCT ON (part, id) part, id, ordinal, distance
    FROM nearest WHERE distance IS NOT NULL ORDER BY part, id, distance
), best AS (
    SELECT part, id, ordinal, 1 - distance AS score FROM of_each ORDER BY distance LIMIT $2
)
SELECT part, id, title, path, breadcrumb, before, passage, after, score
FROM best JOIN shown USING (part, id, ordinal)
ORDER BY score DESC, part, id
