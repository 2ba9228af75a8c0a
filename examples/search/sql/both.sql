-- Both: a section's score is the sum of what rrf_score makes of its place in the two orders, 1 / (60 + place).
WITH nearest AS (
    SELECT part, id, embedding <=> vectorizer_embed('passage', $1) AS distance
    FROM passage WHERE length(content) > 30{and_part}  -- a line of output says little by itself
    ORDER BY embedding <=> vectorizer_embed('passage', $1)
    LIMIT $2 * 5                                -- as a section may have several
), by_meaning AS (
    SELECT part, id, rank() OVER (ORDER BY min(distance)) AS place
    FROM nearest WHERE distance IS NOT NULL GROUP BY part, id
), asked AS (
    SELECT quote_literal(lexeme)::tsquery AS query, coalesce(weight, 9) AS weight  -- 9: new since they were counted
    FROM unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme LEFT JOIN word USING (lexeme)
    ORDER BY weight DESC LIMIT 8
), by_words AS (
    SELECT part, id, rank() OVER (ORDER BY sum(weight * ts_rank('{0.3, 0, 0, 1}', words, query, 1)) DESC) AS place
    FROM asked JOIN section ON words @@ query{and_part}
    GROUP BY part, id ORDER BY place LIMIT $2 * 5
), best AS (
    SELECT part, id, rrf_score(m.place) + rrf_score(w.place) AS score
    FROM by_meaning AS m FULL JOIN by_words AS w USING (part, id)
    ORDER BY score DESC, part, id LIMIT $2
)
SELECT part, id, title, path, breadcrumb, before, passage, after, score
FROM best CROSS JOIN LATERAL (
    SELECT title, path, breadcrumb, before, passage, after
    FROM shown WHERE shown.part = best.part AND shown.id = best.id
    ORDER BY embedding <=> vectorizer_embed('passage', $1) LIMIT 1) AS of_each
ORDER BY score DESC, part, id
