-- By words: of the question's rarest words, how often each is in a section, and how much it tells.
WITH asked AS (
    SELECT quote_literal(lexeme)::tsquery AS query, coalesce(weight, 9) AS weight  -- 9: new since they were counted
    FROM unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme LEFT JOIN word USING (lexeme)
    ORDER BY weight DESC LIMIT 8
), best AS (
    SELECT part, id, sum(weight * ts_rank('{0.3, 0, 0, 1}', words, query, 1)) AS score
    FROM asked JOIN section ON words @@ query{and_part}
    GROUP BY part, id ORDER BY score DESC, part, id LIMIT $2
)
SELECT part, id, title, path, breadcrumb, before, passage, after, score
FROM best CROSS JOIN LATERAL (
    SELECT title, path, breadcrumb, before, passage, after
    FROM shown WHERE shown.part = best.part AND shown.id = best.id
    ORDER BY (SELECT sum(weight * ts_rank(shown.words, query)) FROM asked) DESC NULLS LAST, ordinal LIMIT 1) AS of_each
ORDER BY score DESC, part, id
