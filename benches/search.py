#!/usr/bin/env python3
"""From a text to its ten nearest rows, in SQL: milliseconds a query, with the model that embedded the rows and with its twin.

Usage: search.py MODEL TWIN LIBPQ_CONNECTION VECTORS [SECONDS]

VECTORS: an .npy of the rows' vectors by MODEL, float32 [rows, dimensions], which benches/ivf.sh leaves in its directory.
Makes the table `bench_search` with an ivf index. Needs numpy, psycopg and pgbench. Prints p50 and p99 of prepared queries from
one client of pgbench (one of Python would cool the processor's caches: it doubles the time of a short text); the first row is the
search without a model, by a row's vector.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy
import psycopg

MODEL, TWIN, CONNECTION, VECTORS = sys.argv[1:5]
SECONDS = sys.argv[5] if len(sys.argv) > 5 else "15"
# A different text for each query, so that no cache answers: 8 to 10 tokens.
TEXT = "'how do people find ' || :number::int || ' again'"
NEAREST = "SELECT id FROM bench_search ORDER BY embedding <=> {} LIMIT 10;"


def load(connection: psycopg.Connection) -> int:
    vectors = numpy.load(VECTORS, mmap_mode="r")
    connection.execute("DROP TABLE IF EXISTS bench_search")
    connection.execute(f"CREATE TABLE bench_search (id int PRIMARY KEY, embedding vector({vectors.shape[1]}))")
    with connection.cursor().copy("COPY bench_search FROM STDIN") as copy:
        for i, vector in enumerate(vectors):
            copy.write_row((i, str(vector.tolist())))
    connection.execute("CREATE INDEX ON bench_search USING ivf (embedding vector_cosine_ops)")
    connection.execute("VACUUM ANALYZE bench_search")
    return len(vectors)


def milliseconds(rows: int, query: str, query_model: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        script, log = pathlib.Path(scratch, "script"), pathlib.Path(scratch, "log")
        script.write_text(f"\\set number random(0, {rows - 1})\n{query}\n")
        options = f"options='-c pg_embed.default_model={MODEL} -c pg_embed.query_model={query_model}'"
        subprocess.run(["pgbench", "-n", "-M", "prepared", "-T", SECONDS, "-f", script, "-l", f"--log-prefix={log}",
                        f"{CONNECTION} {options}"], check=True, stdout=subprocess.DEVNULL)
        file, = pathlib.Path(scratch).glob("log.*")
        # Its third column is a transaction's time in microseconds.
        times = [int(line.split()[2]) / 1000 for line in file.read_text().splitlines()]
    p50, p99 = numpy.percentile(times[50:], [50, 99])
    return f"p50 {p50:6.2f} ms, p99 {p99:6.2f}, {len(times)} queries"


def main():
    with psycopg.connect(CONNECTION, autocommit=True) as connection:
        rows = load(connection)
        print(f"{rows} rows", flush=True)
        known = NEAREST.format("(SELECT embedding FROM bench_search WHERE id = :number)")
        print("search alone     ", milliseconds(rows, known, ""), flush=True)
        for query_model in ("", TWIN):
            print(f"with {query_model or MODEL:12}", milliseconds(rows, NEAREST.format(f"embed_query({TEXT})"), query_model), flush=True)
        connection.execute("DROP TABLE bench_search")


main()
