#!/usr/bin/env python3
"""How well hybrid_search answers: nDCG@10 of words, of vectors and of both on collections with judgements, and its time.

    hybrid.py COLLECTIONS CONNECTION

COLLECTIONS is a directory with any of these, as the Glasgow IR group publishes them (https://ir.dcs.gla.ac.uk/resources/test_collections):
    cran.all.1400, cran.qry, cranqrel     Cranfield: aeronautics, 1,400 abstracts, 225 questions
    CISI.ALL, CISI.QRY, CISI.REL          CISI: library science, 1,460 abstracts, 76 questions with judgements
    doc-text, query-text, rlv-ass         NPL: physics, 11,429 titles and abstracts (copies differ by a few), 93 questions
Beside these three stand what other guides take for words (all of them by websearch_to_tsquery, ts_rank_cd), any word by ts_rank, and BM25
(k1 1.2, b .75), with both by each of the two it is compared with.

CONNECTION is a libpq connection string of a database with pg_embed, whose default model embeds. Tables of this script's own are
made in it, and dropped. Relevance is binary: what a collection lists is relevant.

Needs psycopg (pip install "psycopg[binary]").
"""

import math
import re
import statistics
import sys
import time
from pathlib import Path

import psycopg

RANKS = 10


def smart(path, numbered=True):
    """-> {number: text} of a file in SMART's format: fields .T and .W. Cranfield's questions are known by their order."""
    texts, number, field = {}, None, None
    for line in path.read_text(errors="replace").splitlines():
        if match := re.match(r"\.([A-Z])\b\s*(\d*)", line):
            field = match[1]
            if field == "I":
                number = int(match[2]) if numbered else len(texts) + 1
                texts[number] = {}
        elif field in ("T", "W"):
            texts[number].setdefault(field, []).append(line.strip())
    return {number: joined(" ".join(fields.get("T", [])), " ".join(fields.get("W", []))) for number, fields in texts.items()}


def joined(title, text):
    # Cranfield's abstracts begin with their title.
    return text if text.startswith(title) else f"{title}\n{text}"


def blocks(path):
    """-> {number: rest} of a file of NPL: blocks that end with a slash."""
    entries = (entry.split() for entry in re.split(r"^ *\/$", path.read_text(errors="replace"), flags=re.M))
    return {int(words[0]): " ".join(words[1:]).lower() for words in entries if words and words[0].isdigit()}


def pairs(path):
    for line in path.read_text().splitlines():
        question, document = line.split()[:2]
        yield int(question), int(document)


def cranfield(folder):
    return smart(folder / "cran.all.1400"), smart(folder / "cran.qry", numbered=False), pairs(folder / "cranqrel")


def cisi(folder):
    return smart(folder / "CISI.ALL"), smart(folder / "CISI.QRY"), pairs(folder / "CISI.REL")


def npl(folder):
    judged = blocks(folder / "rlv-ass")
    return (blocks(folder / "doc-text"), blocks(folder / "query-text"),
            ((question, int(document)) for question, documents in judged.items() for document in documents.split()))


COLLECTIONS = {"Cranfield": ("cranqrel", cranfield), "CISI": ("CISI.REL", cisi), "NPL": ("rlv-ass", npl)}


def ndcg(found, relevant):
    gain = sum(1 / math.log2(rank + 2) for rank, document in enumerate(found[:RANKS]) if document in relevant)
    return gain / sum(1 / math.log2(rank + 2) for rank in range(min(RANKS, len(relevant))))


def load(connection, documents):
    connection.execute("""
        DROP TABLE IF EXISTS hybrid_bench;
        CREATE TABLE hybrid_bench (id int PRIMARY KEY, body text);
        SELECT vectorizer_create('hybrid_bench', '{body}', target => 'embedding', name => 'hybrid_bench', index => true)""")
    with connection.cursor().copy("COPY hybrid_bench (id, body) FROM STDIN") as copy:
        for row in documents.items():
            copy.write_row(row)
    connection.execute("CALL vectorizer_run('hybrid_bench')")
    while connection.execute("SELECT pending FROM vectorizer_status WHERE name = 'hybrid_bench'").fetchone()[0]:
        time.sleep(1)
    connection.execute("""
        ALTER TABLE hybrid_bench ADD words tsvector GENERATED ALWAYS AS (to_tsvector('english', body)) STORED;
        CREATE INDEX ON hybrid_bench USING gin (words)""")
    connection.execute("REINDEX TABLE hybrid_bench")
    connection.execute("VACUUM ANALYZE hybrid_bench")


# Of the list that hybrid_search gives: those with words by their ranks, those by vectors, all.
SEARCH = "SELECT key[1]::int, vector_rank, word_rank FROM hybrid_search('hybrid_bench', %s, 200, config => 'english')"


# What the words of a search text could be ranked by instead: the first hundred.
ANY_WORD = "(SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery FROM unnest(to_tsvector('english', %(text)s)))"
OTHERS = {
    "all words": """
        SELECT id FROM hybrid_bench, websearch_to_tsquery('english', %(text)s) AS query WHERE words @@ query
        ORDER BY ts_rank_cd(words, query) DESC, id LIMIT 100""",
    "any word": f"""
        WITH asked AS MATERIALIZED (SELECT {ANY_WORD} AS query)
        SELECT id FROM hybrid_bench, asked WHERE words @@ query ORDER BY ts_rank(words, query) DESC, id LIMIT 100""",
    "BM25": f"""
        WITH asked AS MATERIALIZED (
            SELECT lexeme, ln(1 + (size - rows + 0.5) / (rows + 0.5)) AS weight, length
            FROM unnest(to_tsvector('english', %(text)s)) JOIN hybrid_bench_word USING (lexeme), hybrid_bench_size)
        SELECT id FROM hybrid_bench,
            LATERAL (SELECT sum(cardinality(positions)) AS own FROM unnest(words)) AS l,
            LATERAL (SELECT sum(weight * n * 2.2 / (n + 1.2 * (0.25 + 0.75 * own / length))) AS score
                FROM unnest(words) JOIN asked USING (lexeme), LATERAL (SELECT cardinality(positions)::float8 AS n) AS c) AS s
        WHERE words @@ {ANY_WORD} ORDER BY score DESC NULLS LAST, id LIMIT 100"""}
COUNTS = """
    CREATE TEMP TABLE hybrid_bench_word AS
        SELECT lexeme, count(*)::float8 AS rows FROM hybrid_bench, unnest(words) GROUP BY lexeme;
    CREATE TEMP TABLE hybrid_bench_size AS
        SELECT count(*)::float8 AS size, avg((SELECT sum(cardinality(positions)) FROM unnest(words)))::float8 AS length FROM hybrid_bench;
    ANALYZE hybrid_bench_word"""


COLUMNS = ["words", "vectors", "both", *OTHERS, *(f"both by {other}" for other in OTHERS)]


def fused(*lists):
    """By reciprocal rank fusion, as hybrid_search does it."""
    scores = {}
    for found in lists:
        for rank, document in enumerate(found, 1):
            scores[document] = scores.get(document, 0) + 1 / (60 + rank)
    return sorted(scores, key=lambda document: -scores[document])


def measure(connection, name, collection):
    documents, questions, judgements = collection
    relevant = {}
    for question, document in judgements:
        relevant.setdefault(question, set()).add(document)
    load(connection, documents)
    connection.execute(COUNTS)
    # All lists of the index, so that runs compare.
    connection.execute("SET ivf.probes = 32768")
    scores = {column: [] for column in COLUMNS}
    times = []
    for question in sorted(relevant):
        rows = connection.execute(SEARCH, [questions[question]]).fetchall()
        start = time.perf_counter()
        connection.execute("SELECT * FROM hybrid_search('hybrid_bench', %s, config => 'english')", [questions[question]]).fetchall()
        times.append(time.perf_counter() - start)
        lists = {
            "words": [row[0] for row in sorted((row for row in rows if row[2]), key=lambda row: row[2])],
            "vectors": [row[0] for row in sorted((row for row in rows if row[1]), key=lambda row: row[1])],
            "both": [row[0] for row in rows]}
        for other, query in OTHERS.items():
            lists[other] = [row[0] for row in connection.execute(query, {"text": questions[question]})]
            lists[f"both by {other}"] = fused(lists["vectors"][:100], lists[other])
        for kind, found in lists.items():
            scores[kind].append(ndcg(found, relevant[question]))
    means = " | ".join(f"{statistics.mean(scores[kind]):.3f}" for kind in COLUMNS)
    milliseconds = statistics.median(times) * 1000
    print(f"| {name} ({len(documents):,} documents, {len(relevant)} questions) | {means} | {milliseconds:.1f} |", flush=True)
    connection.execute("SELECT vectorizer_drop('hybrid_bench'); DROP TABLE hybrid_bench, hybrid_bench_word, hybrid_bench_size")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hybrid.py COLLECTIONS CONNECTION")
    folder = Path(sys.argv[1])
    with psycopg.connect(sys.argv[2], autocommit=True) as connection:
        print(f"| nDCG@10 | {' | '.join(COLUMNS)} | ms |\n|{'---|' * (len(COLUMNS) + 2)}")
        for name, (needed, read) in COLLECTIONS.items():
            if (folder / needed).exists():
                measure(connection, name, read(folder))


if __name__ == "__main__":
    main()
