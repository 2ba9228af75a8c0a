-- Both: rrf_score makes 1 / (60 + place) of a section's place in each of the two orders; it is found by the sum.
WITH nearest AS (
    SELECT part, id, embedding <=> vectorizer_embed('passage', $1) AS distance
    FROM passage WHERE length(content) > 30{and_part}  -- a line of output says little by itself
    ORDER BY embedding <=> vectorizer_embed('passage', $1)
    LIMIT $2 * 5                 -- as a section may have several
), by_meaning AS (
    SELECT part, id, rank() OVER (ORDER BY min(distance)) AS place
    FROM nearest WHERE distance IS NOT NULL GROUP BY part, id
), asked AS (
    SELECT quote_literal(lexeme)::tsquery AS query, told AS weight
    FROM unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme
        LEFT JOIN word USING (lexeme)
        CROSS JOIN coalesce(weight, 9) AS told  -- 9: new since the words were counted
    WHERE told > 1               -- a word that every third section has tells nothing
    ORDER BY told DESC LIMIT 6
), by_words AS (
    SELECT part, id, rank() OVER (ORDER BY score DESC) AS place
    FROM (
        SELECT part, id, sum(weight * ts_rank('{0.3, 0, 0, 1}', words, query, 1)) AS score
        FROM asked JOIN section ON words @@ query{and_part}
        GROUP BY part, id ORDER BY score DESC LIMIT $2 * 5) AS found
), best AS (
    SELECT part, id, rrf_score(m.place) + rrf_score(w.place) AS score
    FROM by_meaning AS m FULL JOIN by_words AS w USING (part, id)
    ORDER BY score DESC, part, id LIMIT $2
)
SELECT best.part, best.id, title, path, breadcrumb, before, passage, after, score
FROM best
    LEFT JOIN LATERAL (
        SELECT ordinal FROM passage WHERE passage.part = best.part AND passage.id = best.id
        ORDER BY embedding <=> vectorizer_embed('passage', $1) LIMIT 1) AS of_each ON true
    JOIN shown ON shown.part = best.part AND shown.id = best.id
        AND shown.ordinal IS NOT DISTINCT FROM of_each.ordinal
ORDER BY score DESC, best.part, best.id
