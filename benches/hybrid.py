#!/usr/bin/env python3
"""How well hybrid_search answers: nDCG@10 of words, of vectors and of both on collections with judgements, and its time.

    hybrid.py COLLECTIONS CONNECTION

COLLECTIONS is a directory with any of these, as the Glasgow IR group publishes them (https://ir.dcs.gla.ac.uk/resources/test_collections):
    cran.all.1400, cran.qry, cranqrel     Cranfield: aeronautics, 1,400 abstracts, 225 questions
    CISI.ALL, CISI.QRY, CISI.REL          CISI: library science, 1,460 abstracts, 76 questions with judgements
    doc-text, query-text, rlv-ass         NPL: physics, 11,429 titles and abstracts, 93 questions
CONNECTION is a libpq connection string of a database with pg_embed, whose default model embeds. Tables of this script's own are
made in it, and dropped. Relevance is binary: what a collection lists is relevant.

Needs psycopg (tools/requirements-servers.txt has none: pip install "psycopg[binary]").
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


def measure(connection, name, collection):
    documents, questions, judgements = collection
    relevant = {}
    for question, document in judgements:
        relevant.setdefault(question, set()).add(document)
    load(connection, documents)
    scores = {"words": [], "vectors": [], "both": []}
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
        for kind, found in lists.items():
            scores[kind].append(ndcg(found, relevant[question]))
    means = " | ".join(f"{statistics.mean(scores[kind]):.3f}" for kind in ("words", "vectors", "both"))
    milliseconds = statistics.median(times) * 1000
    print(f"| {name} ({len(documents):,} documents, {len(relevant)} questions) | {means} | {milliseconds:.1f} |", flush=True)
    connection.execute("SELECT vectorizer_drop('hybrid_bench'); DROP TABLE hybrid_bench")


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hybrid.py COLLECTIONS CONNECTION")
    folder = Path(sys.argv[1])
    with psycopg.connect(sys.argv[2], autocommit=True) as connection:
        print("| nDCG@10 | words | vectors | both | ms |\n|---|---|---|---|---|")
        for name, (needed, read) in COLLECTIONS.items():
            if (folder / needed).exists():
                measure(connection, name, read(folder))


if __name__ == "__main__":
    main()
