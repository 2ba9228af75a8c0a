#!/usr/bin/env python3
"""embed() in SQL against Python onnxruntime on the same texts: paired rounds, one thread each, as a ratio.

Usage: embed_vs_python.py MODEL_DIR LIBPQ_CONNECTION [ROUNDS]

Needs numpy, tokenizers and onnxruntime==1.28.0; and psql. The Python side runs a session with the options that
pg_embed's has (no arena, no memory pattern), and one with Python's defaults. Both sides tokenise, run one text at a
time, mean-pool and normalise. Texts are the demo's, so short ones, and the same joined by tens, so long ones.
"""

import pathlib
import statistics
import subprocess
import sys
import time

import numpy
import onnxruntime
import tokenizers

MODEL = pathlib.Path(sys.argv[1])
CONNECTION = sys.argv[2]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 15
MAX_TOKENS = 256

LINES = (pathlib.Path(__file__).parent.parent / "tools/demo/texts.txt").read_text().splitlines()
TEXTS = {"short": LINES[:100], "long": [" ".join(LINES[i:i + 10]) for i in range(0, 200, 10)]}


def session(arena: bool) -> onnxruntime.InferenceSession:
    """One thread; `arena` False: the options of crates/embedder/src/session.rs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = arena
    return onnxruntime.InferenceSession(MODEL / "model.onnx", options, providers=["CPUExecutionProvider"])


def python_seconds(model: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer, texts: list[str]) -> float:
    """Seconds for all texts, one at a time."""
    start = time.perf_counter()
    for text in texts:
        encoding = tokenizer.encode(text)
        ids = numpy.array([encoding.ids], dtype=numpy.int64)
        inputs = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
        vector = model.run(None, inputs)[0][0].mean(axis=0)
        vector /= numpy.linalg.norm(vector)
    return time.perf_counter() - start


class Sql:
    """A psql session that stays open, as a backend does."""

    def __init__(self, texts: list[str]):
        self.psql = subprocess.Popen(["psql", "-XqAt", "-d", CONNECTION], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self.ask(f"SET pg_embed.default_model = '{MODEL.name}'; SET pg_embed.cache_size = 0;"
                 "CREATE TEMP TABLE t (body text); SELECT 0;")
        for text in texts:
            self.ask("INSERT INTO t VALUES ('" + text.replace("'", "''") + "'); SELECT 0;")

    def ask(self, sql: str) -> str:
        """Sends statements of which the last returns one value."""
        self.psql.stdin.write(sql + "\n")
        self.psql.stdin.flush()
        return self.psql.stdout.readline().strip()

    def seconds(self) -> float:
        """Seconds for all texts, by the server's clock."""
        return float(self.ask(
            "WITH a AS MATERIALIZED (SELECT clock_timestamp() AS t),"
            " b AS MATERIALIZED (SELECT count(embed(body)) FROM t, a)"
            " SELECT extract(epoch FROM clock_timestamp() - a.t) FROM b, a;"))


def main():
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    models = {"same options": session(arena=False), "Python's defaults": session(arena=True)}
    for name, texts in TEXTS.items():
        sql = Sql(texts)
        sql.seconds()
        for label, model in models.items():
            python_seconds(model, tokenizer, texts)
            pairs = [(sql.seconds(), python_seconds(model, tokenizer, texts)) for _ in range(ROUNDS)]
            ours, theirs = (statistics.median(side) * 1000 / len(texts) for side in zip(*pairs))
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"{name} texts, {label}: SQL {ours:.2f} ms a text, Python {theirs:.2f}, ratio {ratio:.3f}")


main()
