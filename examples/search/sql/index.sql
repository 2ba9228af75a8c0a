-- The part is a column of the index, so that a search in one part is as fast as one in all of them.
CREATE INDEX IF NOT EXISTS passage_embedding_idx ON passage USING ivf (embedding vector_cosine_ops, part);
