#!/usr/bin/env python3
"""embed() in SQL against Python onnxruntime on the same texts: paired rounds, one thread each, as a ratio.

Usage: embed_vs_python.py MODEL_DIR LIBPQ_CONNECTION [ROUNDS]

Needs numpy, tokenizers and onnxruntime==1.28.0; and psql. The Python side runs a session with the options that
pg_embed's has (no arena, no memory pattern), and one with Python's defaults. Both sides tokenise, run the model,
mean-pool and normalise. Texts are the demo's, so short ones, their first words, and several joined, so long ones.

First one text at a time. Then all texts at once: embed(text[]) against embed(text), and against a Python program that
sorts the texts by length and runs them in batches, of whatever size is the fastest here.
"""

import itertools
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
MANY = {"few words": [" ".join(line.split()[:5]) for line in LINES], "short": LINES,
        "long": [" ".join(LINES[i:i + 10]) for i in range(0, 320, 5)]}

# What Python's batches are bounded by: texts, or padded tokens.
BATCH_TEXTS = (4, 8, 16, 32, 64)
BATCH_TOKENS = (64, 128, 256, 512, 1024)


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


def batches(encodings: list[tokenizers.Encoding], texts: int, tokens: int) -> list[list[int]]:
    """Indices by length, as many together as have at most `texts` and, padded, `tokens`; at least one."""
    groups = []
    for i in sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids)):
        if groups and len(groups[-1]) < texts and (len(groups[-1]) + 1) * len(encodings[i].ids) <= tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def python_batch_seconds(model: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer, all_texts: list[str],
                         texts: int, tokens: int) -> float:
    """Seconds for all texts, sorted and in batches."""
    start = time.perf_counter()
    encodings = [tokenizer.encode(text) for text in all_texts]
    vectors = [None] * len(all_texts)
    for group in batches(encodings, texts, tokens):
        longest = len(encodings[group[-1]].ids)
        ids = numpy.zeros((len(group), longest), dtype=numpy.int64)
        mask = numpy.zeros_like(ids)
        for row, i in enumerate(group):
            length = len(encodings[i].ids)
            ids[row, :length] = encodings[i].ids
            mask[row, :length] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        hidden = model.run(None, inputs)[0]
        for row, i in enumerate(group):
            vector = hidden[row, :len(encodings[i].ids)].mean(axis=0)
            vectors[i] = vector / numpy.linalg.norm(vector)
    return time.perf_counter() - start


def fastest_batches(model: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer,
                    texts: list[str]) -> tuple[int, int]:
    """The bounds, in texts and in tokens, of the batches that take Python the least time; best of two each."""
    unbounded = 1 << 30
    bounds = [(n, unbounded) for n in BATCH_TEXTS] + [(unbounded, n) for n in BATCH_TOKENS]
    return min(bounds, key=lambda bound: min(python_batch_seconds(model, tokenizer, texts, *bound) for _ in range(2)))


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
        """Seconds for all texts, one by one, by the server's clock."""
        return self.time("count(embed(body)) FROM t, a")

    def array_seconds(self) -> float:
        """Seconds for all texts in one array."""
        return self.time("cardinality(embed(array_agg(body))) FROM t, a")

    def time(self, query: str) -> float:
        return float(self.ask(
            "WITH a AS MATERIALIZED (SELECT clock_timestamp() AS t),"
            f" b AS MATERIALIZED (SELECT {query})"
            " SELECT extract(epoch FROM clock_timestamp() - a.t) FROM b, a;"))


def compare(rounds: int, texts: int, ours, theirs) -> tuple[float, float, float]:
    """Milliseconds a text of each side, and the median ratio of paired runs."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    milliseconds = (statistics.median(side) * 1000 / texts for side in zip(*pairs))
    return (*milliseconds, statistics.median(a / b for a, b in pairs))


def main():
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    models = {"same options": session(arena=False), "Python's defaults": session(arena=True)}
    for (name, texts), (label, model) in itertools.product(TEXTS.items(), models.items()):
        sql = Sql(texts)
        sql.seconds()
        python_seconds(model, tokenizer, texts)
        ours, theirs, ratio = compare(ROUNDS, len(texts), sql.seconds,
                                      lambda: python_seconds(model, tokenizer, texts))
        print(f"{name} texts, {label}: SQL {ours:.2f} ms a text, Python {theirs:.2f}, ratio {ratio:.3f}")
    for name, texts in MANY.items():
        sql = Sql(texts)
        tokens = statistics.mean(len(tokenizer.encode(text).ids) for text in texts)
        sql.seconds()
        array, single, ratio = compare(ROUNDS, len(texts), sql.array_seconds, sql.seconds)
        print(f"{len(texts)} texts of {tokens:.1f} tokens ({name}): embed(text[]) {array:.2f} ms a text, "
              f"one by one {single:.2f}, {1 / ratio:.2f} times the rate")
        for label, model in models.items():
            bound = fastest_batches(model, tokenizer, texts)
            ours, theirs, ratio = compare(ROUNDS, len(texts), sql.array_seconds,
                                          lambda: python_batch_seconds(model, tokenizer, texts, *bound))
            unit = f"{bound[0]} texts" if bound[0] in BATCH_TEXTS else f"{bound[1]} tokens"
            print(f"    Python's batches of {unit}, {label}: SQL {ours:.2f}, Python {theirs:.2f}, ratio {ratio:.3f}")


main()
