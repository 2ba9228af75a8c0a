#!/usr/bin/env python3
"""A quantised twin beside the model that it is made from, in one session of a server: pairs, as ratios.

Usage: twin.py MODEL TWIN LIBPQ_CONNECTION TEXTS [ROUNDS]

TEXTS: a file with a text a line (benches/ivf_data.py has WordNet's glosses), of which the tokens are taken that are
wanted. Needs psycopg. Prints, by the server's clock and with one thread:
    embed_query of a text of 8, 16, 32, 128 and 256 tokens
    embed(text[]) of 64 such texts, and as many in two sessions at once
    the mean and the least cosine between the two vectors of 10,000 texts
    the first embed_query of a session, and a session's private memory after it and after 1,000 texts
"""

import pathlib
import random
import statistics
import sys
import threading
import time

import psycopg

MODEL, TWIN, CONNECTION, TEXTS = sys.argv[1:5]
ROUNDS = int(sys.argv[5]) if len(sys.argv) > 5 else 15
TOKENS = (8, 16, 32, 128, 256)
MANY = 64
COSINES = 10_000

LINES = [line for line in pathlib.Path(TEXTS).read_text().splitlines() if line.strip()]
RANDOM = random.Random(1)


def connect() -> psycopg.Connection:
    connection = psycopg.connect(CONNECTION, autocommit=True)
    connection.execute("SET pg_embed.cache_size = 0")
    return connection


def one(connection: psycopg.Connection, query: str, *arguments):
    return connection.execute(query, arguments).fetchone()[0]


def texts_of(connection: psycopg.Connection, tokens: int, count: int) -> list[str]:
    """Different texts of about so many tokens, special ones included: words are added until they are enough."""
    words = " ".join(RANDOM.sample(LINES, 200)).split()
    texts = []
    for _ in range(count):
        text = []
        while one(connection, "SELECT token_count(%s, %s)", MODEL, " ".join(text)) < tokens:
            missing = tokens - one(connection, "SELECT token_count(%s, %s)", MODEL, " ".join(text))
            text += RANDOM.choices(words, k=max(1, missing * 2 // 3))
        texts.append(" ".join(text))
    return texts


def one_by_one(connection: psycopg.Connection, model: str, texts: list[str]) -> float:
    """Seconds a text, by the server's clock."""
    query = """WITH a AS MATERIALIZED (SELECT clock_timestamp() AS t),
                    b AS MATERIALIZED (SELECT count(embed_query(%s, x)) FROM unnest(%s::text[]) AS x, a)
               SELECT extract(epoch FROM clock_timestamp() - a.t)::float8 FROM b, a"""
    return one(connection, query, model, texts) / len(texts)


def array(connection: psycopg.Connection, model: str, texts: list[str]) -> float:
    """Seconds a text."""
    start = time.perf_counter()
    connection.execute("SELECT cardinality(embed(%s, %s::text[]))", (model, texts)).fetchone()
    return (time.perf_counter() - start) / len(texts)


def two_arrays(connections: list[psycopg.Connection], model: str, texts: list[str]) -> float:
    """Seconds a text, where two sessions embed all of them each."""
    start = time.perf_counter()
    threads = [threading.Thread(target=array, args=(connection, model, texts)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / (2 * len(texts))


def compare(measure) -> str:
    """`measure(model)` in pairs, whose order alternates."""
    measure(MODEL), measure(TWIN)
    pairs = []
    for round_number in range(ROUNDS):
        order = (MODEL, TWIN) if round_number % 2 else (TWIN, MODEL)
        seconds = {model: measure(model) for model in order}
        pairs.append((seconds[MODEL], seconds[TWIN]))
    model, twin = (1000 * statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(twin / model for model, twin in pairs)
    return f"{model:8.2f} ms, twin {twin:8.2f} ms, ratio {ratio:.3f}"


def cosines(connection: psycopg.Connection) -> str:
    sample = RANDOM.sample(LINES, min(COSINES, len(LINES)))
    found = connection.execute(
        "SELECT avg(1 - d), min(1 - d) FROM (SELECT a <=> b AS d FROM unnest(embed(%s, %s::text[]), embed(%s, %s::text[])) AS u(a, b)) AS x",
        (MODEL, sample, TWIN, sample)).fetchone()
    return f"{len(sample)} texts: mean cosine {found[0]:.5f}, least {found[1]:.4f}"


def private_kb(pid: int) -> int:
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty"))


def new_sessions(model: str, texts: list[str]) -> tuple[float, float, float]:
    """Milliseconds of a session's first embed; MB of its private memory after it, and after 1,000 texts. Medians of seven."""
    results = []
    for _ in range(7):
        with connect() as connection:
            start = time.perf_counter()
            one(connection, "SELECT embed_query(%s, 'the first text of a session') IS NOT NULL", model)
            milliseconds = 1000 * (time.perf_counter() - start)
            pid = connection.info.backend_pid
            first = private_kb(pid)
            for text in texts:
                one(connection, "SELECT embed_query(%s, %s) IS NOT NULL", model, text)
            results.append((milliseconds, first / 1024, private_kb(pid) / 1024))
    return tuple(statistics.median(column) for column in zip(*results))


def main():
    connections = [connect(), connect()]
    connection = connections[0]
    for tokens in TOKENS:
        texts = texts_of(connection, tokens, MANY)
        few = texts[:max(4, 512 // tokens)]
        print(f"{tokens:4} tokens, one at a time   ", compare(lambda model: one_by_one(connection, model, few)), flush=True)
        print(f"{tokens:4} tokens, {MANY} in an array  ", compare(lambda model: array(connection, model, texts)), flush=True)
        print(f"{tokens:4} tokens, in two sessions  ", compare(lambda model: two_arrays(connections, model, texts)), flush=True)
    print(cosines(connection), flush=True)
    try:
        for model in (MODEL, TWIN):
            first, memory, later = new_sessions(model, RANDOM.sample(LINES, 1000))
            print(f"{model}: first embed of a session {first:.1f} ms, private memory {memory:.1f} MB, then {later:.1f} MB")
    except PermissionError:
        print("private memory: only for the server's user")


main()
