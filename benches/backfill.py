#!/usr/bin/env python3
"""CALL embed_backfill(...) against the obvious Python program, in one server: rows a second.

Usage: backfill.py MODEL_DIR LIBPQ_CONNECTION TEXTS SHORT LONG

TEXTS has a text a line; SHORT of them are rows, and as long ones LONG rows of twelve each. The Python program reads the rows,
sorts their texts by length, runs onnxruntime in batches, and writes the vectors back by COPY into a temporary table and an
UPDATE. It has one thread, then one for each core; embed_backfill runs in one session, then in as many as there are cores.
Each in turn, the same rows, and the vectors are compared.

Needs numpy, tokenizers, onnxruntime==1.28.0 and psycopg.
"""

import os
import pathlib
import sys
import threading
import time

import numpy
import onnxruntime
import psycopg
import tokenizers

MODEL, CONNECTION, TEXTS = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
SHORT, LONG = int(sys.argv[4]), int(sys.argv[5])
MAX_TOKENS = 256
CORES = os.cpu_count()
BATCH_TOKENS = 1024  # padded; the fastest of 256 to 8192 here


def python(threads: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = onnxruntime.InferenceSession(MODEL / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    with psycopg.connect(CONNECTION) as connection:
        rows = connection.execute("SELECT id, body FROM docs WHERE embedding IS NULL AND body IS NOT NULL").fetchall()
        encoded = sorted(zip([e.ids for e in tokenizer.encode_batch([body for _, body in rows])],
                             [row for row, _ in rows]), key=lambda pair: len(pair[0]))
        connection.execute("CREATE TEMPORARY TABLE vectors (id int, v vector) ON COMMIT DROP")
        with connection.cursor().copy("COPY vectors FROM STDIN") as copy:
            at = 0
            while at < len(encoded):
                end = at + 1
                while end < len(encoded) and len(encoded[end][0]) * (end + 1 - at) <= BATCH_TOKENS:
                    end += 1
                part, at = encoded[at:end], end
                longest = max(len(ids) for ids, _ in part)
                ids = numpy.zeros((len(part), longest), dtype=numpy.int64)
                mask = numpy.zeros_like(ids)
                for i, (tokens, _) in enumerate(part):
                    ids[i, :len(tokens)], mask[i, :len(tokens)] = tokens, 1
                hidden = model.run(None, {"input_ids": ids, "attention_mask": mask,
                                          "token_type_ids": numpy.zeros_like(ids)})[0]
                vectors = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
                vectors /= numpy.linalg.norm(vectors, axis=1)[:, None]
                for (_, row), vector in zip(part, vectors):
                    copy.write_row((row, "[" + ",".join(map(str, vector.tolist())) + "]"))
        connection.execute("UPDATE docs SET embedding = v FROM vectors WHERE vectors.id = docs.id")


def backfill(sessions: int) -> None:
    def call() -> None:
        with psycopg.connect(CONNECTION, autocommit=True) as connection:
            connection.execute("CALL embed_backfill('docs', 'embedding', '{body}', model => %s)" % repr(MODEL.name))

    threads = [threading.Thread(target=call) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    lines = TEXTS.read_text().splitlines()
    kinds = {f"{SHORT} short": lines[:SHORT], f"{LONG} long": [" ".join(lines[i * 12:i * 12 + 12]) for i in range(LONG)]}
    ways = [("Python, one thread", lambda: python(1)), ("one session", lambda: backfill(1)),
            (f"Python, {CORES} threads", lambda: python(CORES)), (f"{CORES} sessions", lambda: backfill(CORES))]
    for kind, texts in kinds.items():
        with psycopg.connect(CONNECTION, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS docs")
            connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector, reference vector)")
            with connection.cursor().copy("COPY docs (id, body) FROM STDIN") as copy:
                for row in enumerate(texts):
                    copy.write_row(row)
            rates = {}
            for name, run in ways:
                connection.execute("UPDATE docs SET embedding = NULL")
                connection.execute("VACUUM ANALYZE docs")
                start = time.perf_counter()
                run()
                rates[name] = len(texts) / (time.perf_counter() - start)
                if name == ways[0][0]:
                    connection.execute("UPDATE docs SET reference = embedding")
                left, farthest = connection.execute("SELECT count(*) FILTER (WHERE embedding IS NULL), "
                                                    "max(embedding <-> reference) FROM docs").fetchone()
                print(f"{kind}: {name}: {rates[name]:.0f} rows/s; {left} left, farthest from Python's {farthest:.1e}",
                      flush=True)
            first, second, third, fourth = rates.values()
            print(f"{kind}: one session {second / first:.2f} times Python with one thread; "
                  f"{CORES} sessions {fourth / second:.2f} times one, {fourth / third:.2f} times Python with {CORES} threads")


main()
