#!/usr/bin/env python3
"""How well the nearest labelled texts tell a text's label: accuracy of the recipes of docs/uses.md on a set of intents.

    classify.py TRAIN.csv TEST.csv CONNECTION

The files have columns `text` and `category`, as those of Banking77 do (https://github.com/PolyAI-LDN/task-specific-datasets,
banking_data: 10,003 and 3,080 texts, 77 intents). CONNECTION is a libpq connection string of a database with pg_embed, whose default
model embeds. Tables of this script's own are made in it, and dropped. Needs psycopg.
"""

import csv
import sys
import time

import psycopg

BY_NEAREST = """
    SELECT avg((label = guess)::int)::float8 FROM test, LATERAL (
        SELECT label AS guess FROM (
            SELECT label, embedding <=> test.embedding AS distance FROM train ORDER BY embedding <=> test.embedding LIMIT {k}) AS nearest
        GROUP BY label ORDER BY sum(1 - distance) DESC LIMIT 1) AS guessed"""
BY_CENTROID = """
    WITH centroids AS MATERIALIZED (SELECT label, l2_normalize(avg(embedding)) AS centroid FROM train GROUP BY label)
    SELECT avg((label = guess)::int)::float8 FROM test, LATERAL (
        SELECT label AS guess FROM centroids ORDER BY centroid <=> test.embedding LIMIT 1) AS guessed"""
ZERO_SHOT = """
    WITH labels AS MATERIALIZED (SELECT label, embed({words}) AS v FROM (SELECT DISTINCT label FROM test) AS l)
    SELECT avg((label = guess)::int)::float8 FROM test, LATERAL (
        SELECT label AS guess FROM labels ORDER BY v <=> test.embedding LIMIT 1) AS guessed"""


def load(connection, table, path):
    connection.execute(f"CREATE TEMP TABLE {table} (id int, text text, label text, embedding vector)")
    with open(path, newline="", encoding="utf-8") as file, connection.cursor().copy(f"COPY {table} (id, text, label) FROM STDIN") as copy:
        for number, row in enumerate(csv.DictReader(file)):
            copy.write_row((number, row["text"], row["category"]))
    connection.execute(f"""
        UPDATE {table} AS t SET embedding = e.v
        FROM (SELECT array_agg(id ORDER BY id) AS ids, embed(array_agg(text ORDER BY id)) AS vs FROM {table}) AS a, unnest(ids, vs) AS e (id, v)
        WHERE t.id = e.id""")


def show(connection, name, query):
    start = time.perf_counter()
    accuracy = connection.execute(query).fetchone()[0]
    print(f"| {name} | {accuracy:.3f} | {(time.perf_counter() - start):.1f} s |", flush=True)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: classify.py TRAIN.csv TEST.csv CONNECTION")
    with psycopg.connect(sys.argv[3], autocommit=True) as connection:
        load(connection, "labelled", sys.argv[1])
        load(connection, "test", sys.argv[2])
        print("| | accuracy | time |\n|---|---|---|")
        show(connection, "the label's name, as it is", ZERO_SHOT.format(words="replace(label, '_', ' ')"))
        for each in (5, 10, None):
            # The first ones of each label.
            connection.execute("CREATE TEMP TABLE train AS SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY label ORDER BY id) AS n "
                               "FROM labelled) AS numbered WHERE n <= coalesce(%s, n)", [each])
            name = f"{each} texts a label" if each else "all texts"
            connection.execute("ANALYZE train")
            for k in (1, 5, 10):
                show(connection, f"{name}: the nearest {k}", BY_NEAREST.format(k=k))
            show(connection, f"{name}: the nearest mean", BY_CENTROID)
            connection.execute("DROP TABLE train")


if __name__ == "__main__":
    main()
