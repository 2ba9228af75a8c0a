-- By words: of the question's rarest words, how often each is in a section, and how much it tells.
WITH asked AS (
    SELECT quote_literal(lexeme)::tsquery AS query, told AS weight
    FROM unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme
        LEFT JOIN word USING (lexeme)
        CROSS JOIN coalesce(weight, 9) AS told  -- 9: new since the words were counted
    WHERE told > 1               -- a word that every third section has tells nothing
    ORDER BY told DESC LIMIT 6
), best AS (
    SELECT part, id, sum(weight * ts_rank('{0.3, 0, 0, 1}', words, query, 1)) AS score
    FROM asked JOIN section ON words @@ query{and_part}
    GROUP BY part, id ORDER BY score DESC, part, id LIMIT $2
)
SELECT best.part, best.id, title, path, breadcrumb, before, passage, after, score
FROM best
    LEFT JOIN LATERAL (
        SELECT ordinal FROM passage WHERE passage.part = best.part AND passage.id = best.id
        ORDER BY (SELECT sum(weight * ts_rank(words, query)) FROM asked) DESC, ordinal LIMIT 1) AS of_each ON true
    JOIN shown ON shown.part = best.part AND shown.id = best.id
        AND shown.ordinal IS NOT DISTINCT FROM of_each.ordinal
ORDER BY score DESC, best.part, best.id
