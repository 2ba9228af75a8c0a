"""The vectors that ivf.py and growth.py measure with: real ones, and synthetic ones that are as hard."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy

QUERIES = 1000
NEIGHBOURS = 10
# Texts in one call of embed(text[]): enough to sort them into batches of like length.
BATCH = 512
DIRECTORY = pathlib.Path(os.environ.get("BENCH_DIR", "."))


@dataclasses.dataclass
class Data:
    """`rows` and `queries` are float32, one vector a row; the queries are not among the rows."""

    name: str
    rows: numpy.ndarray
    queries: numpy.ndarray
    metric: str = "cosine"  # or l2; vectors for cosine have length 1

    @property
    def dims(self) -> int:
        return self.rows.shape[1]

    @functools.cached_property
    def selector(self) -> numpy.ndarray:
        """A number from 0 to 9999 for each row, independent of its vector: what filters choose by."""
        return numpy.random.default_rng(7).integers(0, 10_000, len(self.rows))

    def distances(self, query: int, ids: list[int]) -> numpy.ndarray:
        rows = self.rows[ids].astype(numpy.float64)
        if self.metric == "cosine":
            return -(rows @ self.queries[query])
        return numpy.linalg.norm(rows - self.queries[query], axis=1)

    @functools.cached_property
    def truth(self) -> numpy.ndarray:
        return self.farthest(None)

    def farthest(self, mask: numpy.ndarray | None) -> numpy.ndarray:
        """The distance of each query's tenth nearest row, of those in the mask; of the last one if they are fewer."""
        # Far from the origin, and near each other, single precision would confuse neighbours.
        kind = numpy.float32 if self.metric == "cosine" else numpy.float64
        best = numpy.full((len(self.queries), 0), 0, kind)
        queries = self.queries.astype(kind)
        for start in range(0, len(self.rows), 50_000):
            part = self.rows[start:start + 50_000]
            if mask is not None:
                part = part[mask[start:start + 50_000]]
            part = part.astype(kind)
            distance = -(queries @ part.T)
            if self.metric == "l2":
                distance = 2 * distance + (part ** 2).sum(1) + (queries ** 2).sum(1)[:, None]
            best = numpy.concatenate([best, distance], axis=1)
            if best.shape[1] > NEIGHBOURS:
                best = numpy.partition(best, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        last = best.max(axis=1)
        return last if self.metric == "cosine" else numpy.sqrt(numpy.maximum(last, 0))

    def recall(self, answers: list[list[int]], farthest: numpy.ndarray, available: int = NEIGHBOURS) -> float:
        """The share of the nearest rows that the answers have. Rows at the same distance count alike."""
        found = 0
        for query, ids in enumerate(answers):
            if ids:
                limit = farthest[query] + 1e-6 * max(1.0, abs(farthest[query]))
                found += min(int((self.distances(query, ids) <= limit).sum()), available)
        return found / (len(answers) * min(NEIGHBOURS, available))


def glosses() -> list[str]:
    """WordNet's definitions with their examples, each once, in an order that is random but always the same."""
    texts = {}
    for part in ("noun", "verb", "adj", "adv"):
        path = pathlib.Path(os.environ["BENCH_WORDNET"]) / f"data.{part}"
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            # Lines that begin with two blanks are the licence.
            if not line.startswith("  ") and "|" in line:
                texts[line.split("|", 1)[1].strip()] = None
    texts = list(texts)
    random.Random(1).shuffle(texts)
    return texts


def copy_records(names: str, dims: int) -> numpy.dtype:
    """A row of COPY's binary format: an integer for each of the names, then a vector."""
    fields = [("columns", ">i2")]
    for name in names:
        fields += [(f"{name}_bytes", ">i4"), (name, ">i4")]
    return numpy.dtype(fields + [("v_bytes", ">i4"), ("dims", ">i2"), ("unused", ">i2"), ("v", ">f4", (dims,))])


COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"


def embed(texts: list[str], database: str, model: str) -> numpy.ndarray:
    """The texts' vectors, by embed(text[]) in one connection for each processor."""
    quoted = (text.replace("\\", "\\\\").replace("\t", "\\t") for text in texts)
    lines = "".join(f"{n}\t{text}\n" for n, text in enumerate(quoted))
    script = f"CREATE TABLE texts (n int PRIMARY KEY, body text);\nCOPY texts FROM STDIN;\n{lines}\\.\nANALYZE texts;"
    subprocess.run(["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database], input=script, text=True, check=True)
    connections = os.cpu_count() or 1
    print(f"Embedding {len(texts)} texts with {model} in {connections} connections, once", flush=True)
    running = []
    for first in range(connections):
        query = f"""COPY (
            SELECT u.n, u.v
            FROM generate_series({first}, {len(texts) // BATCH}, {connections}) AS batch,
                LATERAL (SELECT array_agg(n) AS ns, embed('{model}', array_agg(body)) AS vs FROM texts
                    WHERE n >= batch * {BATCH} AND n < (batch + 1) * {BATCH}) AS b,
                unnest(b.ns, b.vs) AS u(n, v)
            WHERE u.v IS NOT NULL) TO STDOUT (FORMAT binary)"""
        output = tempfile.TemporaryFile()
        psql = subprocess.Popen(["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", query], stdout=output)
        running.append((psql, output))
    while any(psql.poll() is None for psql, _ in running):
        time.sleep(1)
        if sys.stdout.isatty():
            print(f"\r{sum(os.fstat(output.fileno()).st_size for _, output in running) >> 20} MB", end="", flush=True)
    if sys.stdout.isatty():
        print()
    parts = []
    for psql, output in running:
        if psql.returncode != 0:
            sys.exit("embedding failed")
        output.seek(0)
        copied = output.read()[len(COPY_HEADER):-len(COPY_END)]
        # The vector's dimensions come after the columns' number, the integer, and its own length.
        dims = int.from_bytes(copied[14:16], "big")
        parts.append(numpy.frombuffer(copied, copy_records("n", dims)))
    records = numpy.concatenate(parts)
    return records["v"][numpy.argsort(records["n"])].astype(numpy.float32)


def real(database: str, model: str, limit: int | None = None) -> Data:
    """The glosses' vectors. They are kept, and computed again for another model or other texts."""
    texts = glosses()[:limit]
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    path = DIRECTORY / f"glosses-{model}-{key}.npy"
    if not path.exists():
        vectors = embed(texts, database, model)
        with open(f"{path}.new", "wb") as file:
            numpy.save(file, vectors)
        os.rename(f"{path}.new", path)
    vectors = numpy.load(path)
    return Data("real", vectors[:-QUERIES], vectors[-QUERIES:])


def normalised(rows: numpy.ndarray) -> numpy.ndarray:
    return (rows / numpy.linalg.norm(rows, axis=1, keepdims=True)).astype(numpy.float32)


def nearest(rows: numpy.ndarray, centroids: numpy.ndarray) -> numpy.ndarray:
    """For each row the number of the nearest centroid; all of length 1."""
    return numpy.concatenate([numpy.argmax(rows[start:start + 20_000] @ centroids.T, axis=1)
                              for start in range(0, len(rows), 20_000)])


def kmeans(rows: numpy.ndarray, clusters: int, rng: numpy.random.Generator) -> numpy.ndarray:
    sample = rows[rng.choice(len(rows), min(len(rows), 48 * clusters), replace=False)]
    centroids = sample[:clusters].copy()
    for _ in range(8):
        belongs = nearest(sample, centroids)
        sums = numpy.zeros_like(centroids)
        numpy.add.at(sums, belongs, sample)
        empty = numpy.bincount(belongs, minlength=clusters) == 0
        sums[empty] = sample[rng.choice(len(sample), empty.sum())]
        centroids = normalised(sums)
    return centroids


# How far a synthetic row is from the real one that it is made of. Measured against the 116,033 real rows in lists of
# 500: recall@10 with 2, 5, 9 and 19 lists probed is .67 .83 .90 .95 for the real rows, .65 .81 .89 .95 for as many
# synthetic ones (with 0.6 .57 .75 .84 .92: harder). With more lists of that length it falls slowly for both: 9 lists,
# real 29,000 rows .94, 58,000 .91, 116,000 .90; synthetic 116,000 .89, 464,000 .86; and 20 lists of 1,000,000 .92.
SPREAD = 0.3


def synthetic(source: Data, rows: int, seed: int = 1) -> Data:
    """Rows like the real ones, in any number.

    The real rows are clustered by k-means, about 500 to a cluster. A synthetic row is a real one, drawn at random, plus
    SPREAD times the difference of two others of its cluster, made of length 1: the clusters, and each cluster's
    covariance, are those of the real rows. A query is made alike of a held-out row, so that it has no row in the table
    that was made of the same one.
    """
    rng = numpy.random.default_rng(seed)
    clusters = max(1, len(source.rows) // 500)
    centroids = kmeans(source.rows, clusters, rng)
    belongs = nearest(source.rows, centroids)
    members = numpy.argsort(belongs, kind="stable")
    starts = numpy.searchsorted(belongs[members], numpy.arange(clusters + 1))

    def make(origins: numpy.ndarray, number: int) -> numpy.ndarray:
        made = numpy.empty((number, source.dims), numpy.float32)
        cluster_of = nearest(origins, centroids)
        for start in range(0, number, 50_000):
            part = made[start:start + 50_000]
            chosen = rng.integers(0, len(origins), len(part)) if number != len(origins) else numpy.arange(number)
            cluster = cluster_of[chosen]
            size = starts[cluster + 1] - starts[cluster]
            one, other = (members[starts[cluster] + (rng.random(len(part)) * size).astype(int)] for _ in range(2))
            part[:] = normalised(origins[chosen] + SPREAD * (source.rows[one] - source.rows[other]))
        return made

    return Data(f"synthetic-{rows}", make(source.rows, rows), make(source.queries, QUERIES))


def repeated(source: Data, rows: int, seed: int = 1) -> Data:
    """The first rows; where the source ends, the same ones again, each a tenth of its length away in a random direction."""
    rng = numpy.random.default_rng(seed)
    parts = [source.rows[:rows]]
    while (missing := rows - sum(map(len, parts))) > 0:
        part = source.rows[:missing]
        noise = rng.standard_normal(part.shape, numpy.float32) * (0.1 / source.dims ** 0.5)
        parts.append(normalised(part + noise))
    return Data(f"repeated-{rows}", numpy.concatenate(parts), source.queries)


def broad_clusters(rows: int, dims: int = 96, clusters: int = 100, seed: int = 1) -> Data:
    """Clusters that reach over one another: centres in the unit cube, and rows three times as far from their centre as
    the centre is from 0. A query's neighbours are in many lists."""
    rng = numpy.random.default_rng(seed)
    centres = rng.random((clusters, dims), numpy.float32)

    def make(number: int) -> numpy.ndarray:
        noise = rng.standard_normal((number, dims), numpy.float32)
        return normalised(centres[rng.integers(0, clusters, number)] + 1.6 * noise)

    return Data("broad-clusters", make(rows), make(QUERIES))


def other_dimensions(source: Data, dims: int, rows: int, seed: int = 1) -> Data:
    """Fewer dimensions: the leading principal components. More: a random rotation into them, which keeps all distances,
    plus noise of a tenth of the length, so that every dimension counts."""
    rng = numpy.random.default_rng(seed)

    def change(x: numpy.ndarray) -> numpy.ndarray:
        if dims <= source.dims:
            return normalised(x @ axes[:, ::-1][:, :dims])
        noise = rng.standard_normal((len(x), dims), numpy.float32) * (0.1 / dims ** 0.5)
        return normalised(x @ rotation + noise)

    if dims <= source.dims:
        axes = numpy.linalg.eigh(source.rows.T @ source.rows)[1]  # in ascending order
    else:
        rotation = numpy.linalg.qr(rng.standard_normal((dims, source.dims)))[0].T.astype(numpy.float32)
    return Data(f"{dims}-dims", change(source.rows[:rows]), change(source.queries))


def tight_clusters(rows: int, dims: int = 384, seed: int = 1) -> Data:
    """Clusters of 100 rows, a hundred times closer to each other than the clusters are, far from length 1: what codes
    relative to one global mean resolve worst."""
    rng = numpy.random.default_rng(seed)
    centres = 10 * rng.standard_normal((rows // 100, dims), numpy.float32)

    def make(number: int) -> numpy.ndarray:
        chosen = rng.integers(0, len(centres), number)
        return centres[chosen] + 0.1 * rng.standard_normal((number, dims), numpy.float32)

    return Data("tight-clusters", make(rows), make(QUERIES), "l2")
