#!/usr/bin/env python3
"""The index ivf against pgvector's and VectorChord's, in one cluster and one run. Started by benches/ivf.sh.

Peers that are not installed for this Postgres are left out. Each competitor has a table of its own with the same rows,
is built as its documentation recommends, and answers with the smallest value of its knob (lists to probe, candidates to
keep) that gives recall@10 of 0.95 over 1000 held-out queries. Rounds of the competitors alternate; figures are medians.
Tables are printed, and written as Markdown into bench/ below the private tree.
"""

import argparse
import dataclasses
import datetime
import functools
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

import ivf_data
from ivf_data import NEIGHBOURS, QUERIES, Data

PARTS = {
    "real": "WordNet's glosses, embedded by the extension (about 8 minutes on two cores, once), with writes",
    "filters": "the same, with conditions that half to 0.01 % of the rows satisfy, and within a distance",
    "small-buffers": "the same, with shared_buffers an eighth of the table",
    "writers": "the same, 6 readers beside 2 writers",
    "synthetic": "the same as real, on --rows rows made from the real ones",
    "tight-clusters": "--rows rows by Euclidean distance, in tight clusters far from the origin",
    "dims": "--rows rows of 128 and of 1536 dimensions",
}
TARGET_RECALL = 0.95
OPERATORS = {"cosine": "<=>", "l2": "<->"}
# What is expected of queries/s, build time and size, against each peer (design/ivf.md of this project).
BARS = {"ivfflat": (12, 1 / 5, 0.3), "hnsw": (2.5, 1 / 12, 0.3), "vchordrq": (1.5, 1 / 3, 0.3)}
CLUSTER = pathlib.Path(os.environ.get("BENCH_CLUSTER", "."))
WORKERS = 2  # max_parallel_maintenance_workers, for all alike
SINGLE_ROWS = 2000  # rows inserted one by one


def run(command: list[str], **options) -> str:
    """A program's standard output. What else it says is shown if it fails: VectorChord tells much while it builds."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"failed: {shlex.join(command)[:500]}\n{done.stderr[-2000:]}")
    return done.stdout


def sql(database: str, *statements: str, settings: str = "", **options) -> str:
    """Runs statements one by one in a session; `settings` are those of the session, as `-c name=value ...`."""
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database]
    for statement in statements:
        command += ["-c", statement]
    return run(command, env=os.environ | {"PGOPTIONS": settings}, **options).strip()


def seconds(database: str, statement: str, *settings: str) -> float:
    """How long the statement takes."""
    output = sql(database, *settings, "\\timing on", statement)
    return float(re.findall(r"^Time: ([0-9.]+) ms", output, re.MULTILINE)[-1]) / 1000


def server(verb: str):
    """Starts or stops it, by tools/common.sh."""
    run([str(pathlib.Path(__file__).with_name("ivf.sh")), f"--{verb}"])


def restart(cold: bool = False):
    """Cold: without the cluster's files in the operating system's cache."""
    server("stop")
    if cold:
        for path in (CLUSTER / "data").rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())  # what is not written yet stays in the cache
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    server("start")


@dataclasses.dataclass
class Competitor:
    """An access method, and the index of it that is measured."""

    name: str  # of the access method, of its table (NAME_rows), and of its index (NAME_index)
    extension: str
    knob: str
    database: str
    filtering: str = ""  # settings that its documentation recommends for queries with a condition
    with_options: str = ""
    column: str = ""  # beside the vector
    value: int = 0  # of the knob, for TARGET_RECALL
    largest: int = 1  # value that the knob can take
    recalls: dict = dataclasses.field(default_factory=dict)  # by the knob's value
    found: dict = dataclasses.field(default_factory=dict)  # what is reported

    @property
    def table(self) -> str:
        return f"{self.name}{self.column}_rows"

    @property
    def index(self) -> str:
        return f"{self.name}{self.column}_index"

    def settings(self, value: int | None = None, more: str = "") -> str:
        return f"-c enable_seqscan=off -c {self.knob}={self.value if value is None else value} {more}"

    def choices(self, data: Data, ivf_lists: int) -> list[str]:
        """Options to build with. Of several, the one that answers fastest counts. `ivf_lists`: as many as ivf has."""
        rows = len(data.rows)
        if self.name == "ivf":
            return [""]
        if self.name == "hnsw":  # pgvector's README: the defaults, which it recommends to begin with
            return ["m = 16, ef_construction = 64"]
        if self.name == "ivfflat":  # likewise rows/1000 up to a million, then the square root; and as many as ivf's
            recommended = round(rows / 1000 if rows <= 1e6 else rows ** 0.5)
            return [f"lists = {lists}" for lists in sorted({max(1, recommended), ivf_lists})]
        # docs.vectorchord.ai, Indexing: rows/500 up to two millions, then 4 to 8 times the square root; residuals, and
        # for the cosine spherical centroids.
        lists = max(1, round(rows / 500 if rows < 2e6 else 6 * rows ** 0.5))
        cosine = str(data.metric == "cosine").lower()
        return [f"options = 'residual_quantization = true\n[build.internal]\nlists = [{lists}]\n"
                f"spherical_centroids = {cosine}\nbuild_threads = {{threads}}'"]


def competitors(peers: list[str]) -> list[Competitor]:
    """ivf, and those of the peers that this cluster offers. pg_embed's type is named as pgvector's, so it gets a
    database of its own."""
    offered = set(sql("postgres", "SELECT name FROM pg_available_extensions").splitlines())
    every = [
        Competitor("ivf", "pg_embed", "ivf.probes", "ours"),
        Competitor("ivfflat", "vector", "ivfflat.probes", "peers", "-c ivfflat.iterative_scan=relaxed_order"),
        Competitor("hnsw", "vector", "hnsw.ef_search", "peers", "-c hnsw.iterative_scan=relaxed_order"),
        Competitor("vchordrq", "vchord", "vchordrq.probes", "peers", "-c vchordrq.prefilter=on"),
    ]
    every = [every[0]] + [competitor for competitor in every[1:] if competitor.name in peers]
    for competitor in every[1:]:
        if competitor.extension not in offered:
            print(f"{competitor.name} is left out: the extension {competitor.extension} is not installed")
    every = [every[0]] + [competitor for competitor in every[1:] if competitor.extension in offered]
    for database in sorted({competitor.database for competitor in every}):
        extensions = sorted({c.extension for c in every if c.database == database} | {"pg_prewarm"})
        sql("postgres", f"CREATE DATABASE {database}")
        # CASCADE: VectorChord wants pgvector.
        sql(database, "SET client_min_messages = warning",
            *(f"CREATE EXTENSION IF NOT EXISTS {extension} CASCADE" for extension in extensions))
    return every


class Report:
    """Prints tables, and keeps them as Markdown."""

    def __init__(self, name: str):
        self.path = ivf_data.DIRECTORY / f"{name}.md"
        self.path.write_text("")

    def line(self, text: str = ""):
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(f"{text}\n")

    def table(self, title: str, rows: list[dict]):
        header = list(rows[0])
        cells = [header] + [[str(row.get(name, "")) for name in header] for row in rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        lines = ["  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                           for i, (text, width) in enumerate(zip(line, widths))) for line in cells]
        print(f"\n{title}\n" + "\n".join(lines), flush=True)
        with self.path.open("a") as file:
            file.write(f"\n{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in
                                                  [header, ["---"] + ["---:"] * (len(header) - 1)] + cells[1:]))


def figure(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


class Bench:
    """The measurements on one set of rows."""

    def __init__(self, data: Data, everyone: list[Competitor], arguments: argparse.Namespace, report: str = ""):
        self.data = data
        self.arguments = arguments
        self.report = Report(report or data.name)
        self.competitors = [dataclasses.replace(c, recalls={}, found={}) for c in everyone]
        self.operator = OPERATORS[data.metric]
        self.header()
        self.load()

    def header(self):
        cpu = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()) or [platform.machine()]
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        versions = ", ".join(sorted({sql(c.database, f"SELECT extname || ' ' || extversion FROM pg_extension"
                                                     f" WHERE extname = '{c.extension}'") for c in self.competitors}))
        commit = run(["git", "-c", "safe.directory=*", "describe", "--always", "--dirty"])
        self.report.line()
        self.report.line(f"## {self.data.name}: {len(self.data.rows):,} rows of {self.data.dims} dimensions,"
                         f" {self.data.metric} distance")
        self.report.line()
        self.report.line(f"{datetime.date.today()}, benches/ivf.sh {shlex.join(sys.argv[1:])}, commit {commit.strip()}")
        self.report.line(f"PostgreSQL {sql('postgres', 'SHOW server_version')}, {versions}")
        self.report.line(f"{os.cpu_count()} processors ({cpu[0]}), {memory / 2**30:.0f} GB, Linux"
                         f" {platform.release()}, load before the run {os.getloadavg()[0]:.1f}")

    def load(self):
        """Fills each competitor's table, and a table of the queries for each database."""
        # Room for every index and the rows that are looked at; half of the memory at most.
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self.buffers = f"{int(min(memory / 2, max(2 ** 30, 8 * self.data.rows.nbytes))) >> 20}MB"
        sql("postgres", f"ALTER SYSTEM SET shared_buffers = '{self.buffers}'")
        restart()
        self.report.line(f"shared_buffers {self.buffers}, maintenance_work_mem 2GB, {WORKERS} parallel workers")
        self.report.line()
        ids = range(len(self.data.rows))
        for database in {c.database for c in self.competitors}:
            sql(database, "DROP TABLE IF EXISTS queries",
                f"CREATE TABLE queries (id int PRIMARY KEY, f int, v vector({self.data.dims}))")
            self.copy(database, "queries", range(QUERIES), [0] * QUERIES, self.data.queries)
        for c in self.competitors:
            sql(c.database, f"DROP TABLE IF EXISTS {c.table}",
                f"CREATE TABLE {c.table} (id int, f int, v vector({self.data.dims}))")
            self.copy(c.database, c.table, ids, self.data.selector, self.data.rows)

    def copy(self, database: str, table: str, ids, selector, vectors):
        command = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database,
                   "-c", f"COPY {table} FROM STDIN (FORMAT binary)", "-c", f"VACUUM (ANALYZE) {table}"]
        psql = subprocess.Popen(command, stdin=subprocess.PIPE)
        psql.stdin.write(ivf_data.COPY_HEADER)
        for start in range(0, len(vectors), 10_000):
            part = vectors[start:start + 10_000]
            records = ivf_data.numpy.zeros(len(part), ivf_data.copy_records(("id", "f"), self.data.dims))
            records["columns"], records["id_bytes"], records["f_bytes"] = 3, 4, 4
            records["v_bytes"], records["dims"] = 4 + 4 * self.data.dims, self.data.dims
            records["id"], records["f"] = ids[start:start + 10_000], selector[start:start + 10_000]
            records["v"] = part
            psql.stdin.write(records.tobytes())
        psql.stdin.write(ivf_data.COPY_END)
        psql.stdin.close()
        if psql.wait() != 0:
            sys.exit("loading failed")

    # What is asked of one competitor.

    def build(self, c: Competitor, workers: int) -> float:
        """Builds the index anew; in seconds."""
        sql(c.database, f"DROP INDEX IF EXISTS {c.index}", "CHECKPOINT")
        options = c.with_options.format(threads=max(1, workers))
        options = f" WITH ({options})" if options else ""
        operators = "vector_cosine_ops" if self.data.metric == "cosine" else "vector_l2_ops"
        columns = f"v {operators}, {c.column}" if c.column else f"v {operators}"
        return seconds(c.database, f"CREATE INDEX {c.index} ON {c.table} USING {c.name} ({columns}){options}",
                       "SET maintenance_work_mem = '2GB'", f"SET max_parallel_maintenance_workers = {workers}")

    def build_time(self, c: Competitor, workers: int) -> float:
        """The median of three builds; of fewer if they take longer than half a minute."""
        times = []
        while len(times) < 3 and sum(times) < 30:
            times.append(self.build(c, workers))
        return statistics.median(times)

    def query(self, c: Competitor, query: str, condition: str = "") -> str:
        return f"SELECT id FROM {c.table} {condition} ORDER BY v {self.operator} {query} LIMIT {NEIGHBOURS}"

    def answers(self, c: Competitor, settings: str, condition: str = "") -> list[list[int]]:
        """The ids that each query returns."""
        statement = f"SELECT id, ARRAY({self.query(c, 'q.v', condition)}) FROM queries q ORDER BY q.id"
        if c.index not in sql(c.database, f"EXPLAIN {statement}", settings=settings):
            sys.exit(f"{c.name}'s index is not used: {statement}")
        lines = sql(c.database, statement, settings=settings).splitlines()
        return [[int(i) for i in re.findall(r"\d+", line.split("|")[1])] for line in lines]

    def recall(self, c: Competitor, value: int) -> float:
        if value not in c.recalls:
            c.recalls[value] = self.data.recall(self.answers(c, c.settings(value)), self.data.truth)
        return c.recalls[value]

    def tune(self, c: Competitor):
        """Sets the knob to the smallest value that reaches the target."""
        low = NEIGHBOURS - 1 if c.name == "hnsw" else 0
        high = low + 1
        while self.recall(c, high) < TARGET_RECALL:
            if high == c.largest:
                print(f"{c.name} does not reach recall {TARGET_RECALL}: {self.recall(c, high):.3f}")
                break
            low, high = high, min(2 * high, c.largest)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.recall(c, middle) >= TARGET_RECALL else (middle, high)
        c.value = high

    def pgbench(self, c: Competitor, script: str, *options: str, settings: str | None = None) -> subprocess.Popen:
        """Starts it, with as many threads as clients."""
        clients = options[options.index("-c") + 1]
        command = ["pgbench", "-n", "-M", "prepared", "-j", clients, *options, "-f", "-", c.database]
        environment = os.environ | {"PGOPTIONS": c.settings() if settings is None else settings}
        with tempfile.TemporaryFile("w+") as file:
            file.write(script)
            file.seek(0)
            return subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    env=environment)

    def rate(self, pgbench: subprocess.Popen) -> float:
        """Transactions per second, connecting not counted."""
        output, errors = pgbench.communicate()
        if pgbench.returncode != 0:
            sys.exit(f"pgbench failed: {errors}")
        return float(re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)[1])

    def search_script(self, c: Competitor, condition: str = "") -> str:
        query = self.query(c, "(SELECT v FROM queries WHERE id = :i)", condition)
        return f"\\set i random(0, {QUERIES - 1})\n{query};\n"

    def search(self, c: Competitor, clients: int, seed: int, condition: str = "", settings: str | None = None) -> float:
        """Queries per second. A seed gives everybody the same queries."""
        return self.rate(self.pgbench(
            c, self.search_script(c, condition), "-c", str(clients), "--random-seed", str(seed),
            "-T", str(self.arguments.seconds), settings=settings))

    def rounds(self, *clients: int, condition: str = "") -> dict[tuple[str, int], list[float]]:
        """Queries per second by index and number of clients, each competitor in turn in every round."""
        rates = {}
        for turn in range(self.arguments.rounds):
            for c in self.competitors:
                for number in clients:
                    settings = c.settings(more=c.filtering if condition else "")
                    rate = self.search(c, number, turn, condition, settings)
                    rates.setdefault((c.index, number), []).append(rate)
        return rates

    def prewarm(self):
        for c in self.competitors:
            sql(c.database, f"SELECT pg_prewarm('{c.index}')")

    def statistic(self, c: Competitor) -> list[int]:
        """Rows that the index has returned, which are read from the table, and pages of it that were read."""
        return [int(value) for value in sql(
            c.database, "SELECT idx_tup_read, idx_blks_hit + idx_blks_read FROM pg_stat_user_indexes"
            f" JOIN pg_statio_user_indexes USING (indexrelid) WHERE pg_stat_user_indexes.indexrelname = '{c.index}'",
        ).split("|")]

    # The parts.

    def prepare(self, thorough: bool = True):
        """Builds every index and sets its knob; `thorough`: builds several times, in one process and in parallel."""
        for c in self.competitors:
            results = []
            choices = c.choices(self.data, self.lists(self.competitors[0]) if c.name != "ivf" else 0)
            for c.with_options in choices:
                c.recalls = {}
                serial = self.build_time(c, 0) if thorough else None
                parallel = self.build_time(c, WORKERS) if thorough else self.build(c, WORKERS)
                c.largest = self.largest(c)
                sql(c.database, f"SELECT pg_prewarm('{c.index}')")
                self.tune(c)
                rate = self.search(c, 1, 0) if len(choices) > 1 else 0
                results.append((rate, c.with_options, serial, parallel, c.value, c.recalls))
                self.report.line(f"- {c.name} {self.label(c)}: built in {figure(parallel)} s, {c.knob} {c.value},"
                                 f" recall {c.recalls[c.value]:.3f}" + (f", {figure(rate)} queries/s" * bool(rate)))
            best = max(results)
            built = c.with_options
            _, c.with_options, c.found["serial"], c.found["parallel"], c.value, c.recalls = best
            c.largest = self.largest(c)
            if c.with_options != built:
                self.build(c, WORKERS)
                c.recalls = {}  # of the index that is there no longer
                self.tune(c)
            c.found["bytes"] = int(sql(c.database, f"SELECT pg_relation_size('{c.index}')"))

    def lists(self, c: Competitor) -> int:
        if c.name == "ivf":
            return int(sql(c.database, f"SELECT lists FROM ivf_info('{c.index}')"))
        return int(re.search(r"lists = \[?(\d+)", c.with_options)[1])

    def largest(self, c: Competitor) -> int:
        """The largest value of the knob that makes sense."""
        return 1000 if c.name == "hnsw" else self.lists(c)

    def label(self, c: Competitor) -> str:
        return "m=16 ef_construction=64" if c.name == "hnsw" else f"lists={self.lists(c)}"

    def measure(self, thorough: bool = True):
        """Recall, speed, build time and size; `thorough`: also without caches, and the build in one process."""
        self.prewarm()
        for c in self.competitors:
            before = self.statistic(c)
            self.answers(c, c.settings())
            c.found["read"] = [(after - b) / QUERIES for after, b in zip(self.statistic(c), before)]
        rates = self.rounds(1, 2)
        if thorough:
            self.cold()
        self.report.table("Recall@10 at values of the knob", [
            {"index": f"{c.name} {self.label(c)}", "knob": c.knob} | {
                f"{name} of it": f"{value}: {self.recall(c, value):.3f}"
                for name, value in [("1/4", self.share(c, 0.25)), ("1/2", self.share(c, 0.5)), ("1", c.value),
                                    ("2", self.share(c, 2)), ("4", self.share(c, 4))]}
            for c in self.competitors])
        answers = self.answers(self.competitors[0], self.competitors[0].settings(0))
        self.report.line(f"\nivf.probes = 0 (automatic): recall {self.data.recall(answers, self.data.truth):.3f}")
        table = []
        for c in self.competitors:
            one, two = rates[c.index, 1], rates[c.index, 2]
            c.found["rate"] = statistics.median(one)
            table.append({
                "index": f"{c.name} {self.label(c)}", "knob": c.value,
                "recall": f"{self.recall(c, c.value):.3f}", "queries/s": figure(c.found["rate"]),
                "+-": f"{50 * (max(one) - min(one)) / c.found['rate']:.0f} %",
                "2 clients": figure(statistics.median(two)),
                "rows read": figure(c.found["read"][0]), "index pages": figure(c.found["read"][1]),
                "MB": figure(c.found["bytes"] / 1e6), "bytes a row": figure(c.found["bytes"] / len(self.data.rows)),
                "build (s)": figure(c.found["parallel"]),
            })
            if thorough:
                table[-1] |= {"one process": figure(c.found["serial"]),
                              "cold": figure(statistics.median(c.found["cold"]))}
        self.report.table(f"At recall@{NEIGHBOURS} >= {TARGET_RECALL}. Rows and pages are a query's; cold: queries/s of"
                          " the first 100 after a start without caches", table)
        self.ratios()

    def share(self, c: Competitor, factor: float) -> int:
        """A multiple of the knob's value, within its bounds."""
        return min(max(NEIGHBOURS if c.name == "hnsw" else 1, round(c.value * factor)), c.largest)

    def cold(self):
        for turn in range(3):
            for c in self.competitors:
                restart(cold=True)
                pgbench = self.pgbench(c, self.search_script(c), "-c", "1", "-t", "100", "--random-seed", str(turn))
                c.found.setdefault("cold", []).append(self.rate(pgbench))
        restart()

    def ratios(self):
        """ivf against each peer, beside what is expected at 384 dimensions by cosine."""
        ours = self.competitors[0]
        barred = self.data.dims == 384 and self.data.metric == "cosine"
        table = []
        for c in self.competitors[1:]:
            values = [ours.found[what] / c.found[what] for what in ("rate", "parallel", "bytes")]
            line = {"ivf against": c.name}
            for name, value, bar, better in zip(("queries/s", "build", "size"), values, BARS[c.name], (1, -1, -1)):
                line[name] = f"{value:.2f}"
                if barred:
                    missed = (bar / value) ** better
                    line[f"{name}: bar"] = f"{bar:.3g}"
                    line[f"{name}: is"] = "held" if missed <= 1 else f"missed by {missed:.2f}x"
            table.append(line)
        if table:
            self.report.table("Ratios (parallel builds, one client, warm)", table)

    def take_out(self, c: Competitor):
        """Moves a tenth of the rows into a table of their own, numbered, to be inserted again."""
        sql(c.database, "DROP TABLE IF EXISTS spare",
            f"CREATE TABLE spare AS SELECT row_number() OVER (ORDER BY id) AS n, * FROM {c.table} WHERE id % 10 = 0",
            "CREATE UNIQUE INDEX ON spare (n)", "ANALYZE spare", f"DELETE FROM {c.table} WHERE id % 10 = 0",
            "CHECKPOINT")

    def writes(self):
        """Vacuum after deleting a tenth, then those rows inserted again: some one by one, the others at once."""
        table = []
        single = min(SINGLE_ROWS, len(self.data.rows) // 20)
        for c in self.competitors:
            self.take_out(c)
            vacuum = seconds(c.database, f"VACUUM {c.table}", "SET maintenance_work_mem = '2GB'")
            script = f"\\set n :n + 1\nINSERT INTO {c.table} SELECT id, f, v FROM spare WHERE n = :n;\n"
            rate = self.rate(self.pgbench(c, script, "-c", "1", "-t", str(single), "-D", "n=0", settings=""))
            bulk = seconds(c.database, f"INSERT INTO {c.table} SELECT id, f, v FROM spare WHERE n > {single}")
            rest = len(range(0, len(self.data.rows), 10)) - single
            sql(c.database, f"VACUUM (ANALYZE) {c.table}")
            table.append({
                "index": f"{c.name} {self.label(c)}", "vacuum (s)": figure(vacuum), "single rows/s": figure(rate),
                "bulk rows/s": figure(rest / bulk), "recall before": f"{self.recall(c, c.value):.3f}",
                "after": f"{self.data.recall(self.answers(c, c.settings()), self.data.truth):.3f}",
                "MB after": figure(int(sql(c.database, f"SELECT pg_relation_size('{c.index}')")) / 1e6),
            })
        self.report.table("A tenth deleted, vacuumed, and inserted again; commits do not wait for the disk", table)

    def filters(self):
        """Conditions that few rows satisfy, also with their column in the index of ivf."""
        plain = self.competitors[0]
        ours = dataclasses.replace(plain, column="f", value=0, recalls={})  # 0: the default
        sql(ours.database, f"DROP TABLE IF EXISTS {ours.table}",
            f"CREATE TABLE {ours.table} (LIKE {plain.table})", f"INSERT INTO {ours.table} SELECT * FROM {plain.table}",
            f"VACUUM (ANALYZE) {ours.table}")
        times = {c.column: [] for c in (plain, ours)}
        for _ in range(3):
            for c in (plain, ours):
                times[c.column].append(self.build(c, WORKERS))
        self.competitors.insert(1, ours)
        self.prewarm()
        rates = self.rounds(1)
        self.report.table("A column in the index, and no condition on it", [{
            "index": f"ivf (v{', f' if c.column else ''})", "build (s)": figure(statistics.median(times[c.column])),
            "bytes a row": figure(int(sql(c.database, f"SELECT pg_relation_size('{c.index}')")) / len(self.data.rows)),
            "ms": f"{1000 / statistics.median(rates[c.index, 1]):.3f}",
        } for c in (plain, ours)])
        for percent, most in [("50 %", 5000), ("10 %", 1000), ("1 %", 100), ("0.1 %", 10), ("0.01 %", 1)]:
            condition, mask = f"WHERE f < {most}", self.data.selector < most
            if not mask.any():
                continue
            table = []
            farthest = self.data.farthest(mask)
            rates = self.rounds(1, condition=condition)
            for c in self.competitors:
                answers = self.answers(c, c.settings(more=c.filtering), condition)
                table.append({
                    "index": f"{c.name}{' (v, f)' if c.column else ''} {self.label(c)}", "knob": c.value,
                    "settings": c.filtering[3:], "rows of 10": figure(statistics.mean(map(len, answers))),
                    "recall": f"{self.data.recall(answers, farthest, int(mask.sum())):.3f}",
                    "ms": figure(1000 / statistics.median(rates[c.index, 1])),
                })
            self.report.table(f"A condition that {percent} of the rows satisfy ({int(mask.sum()):,} rows)", table)
        self.competitors.remove(ours)

    def thresholds(self):
        """A distance that fewer rows are below than are asked for."""
        limit, below = 50, 23
        table = []
        for c in self.competitors:
            # Without the index, so that these are the true ones.
            sql(c.database, "ALTER TABLE queries ADD COLUMN IF NOT EXISTS r float8",
                f"UPDATE queries q SET r = (SELECT t.v {self.operator} q.v FROM {c.table} t ORDER BY 1 OFFSET {below} LIMIT 1)",
                settings="-c enable_indexscan=off")
            vector, r = ("(SELECT v FROM queries WHERE id = :i)", "(SELECT r FROM queries WHERE id = :i)")
            order = f"ORDER BY v {self.operator} {vector}"
            bounded = f"SELECT id FROM {c.table} WHERE v {self.operator} {vector} < {r} {order}"
            times = []
            for query in [f"SELECT id FROM {c.table} {order} LIMIT {limit}", f"{bounded} LIMIT {limit}", bounded]:
                script = f"\\set i random(0, {QUERIES - 1})\n{query};\n"
                settings = c.settings(more=c.filtering)
                rates = [self.rate(self.pgbench(c, script, "-c", "1", "--random-seed", str(turn), "-T",
                                                str(self.arguments.seconds), settings=settings))
                         for turn in range(self.arguments.rounds)]
                times.append(1000 / statistics.median(rates))
            statement = (f"SELECT sum((SELECT count(*) FROM (SELECT id FROM {c.table} t WHERE t.v {self.operator} q.v < q.r"
                         f" ORDER BY t.v {self.operator} q.v LIMIT {limit}) s)) FROM queries q")
            found = int(sql(c.database, statement, settings=c.settings(more=c.filtering)))
            table.append({
                "index": f"{c.name} {self.label(c)}", "ms without": figure(times[0]), "with": figure(times[1]),
                "and no LIMIT": figure(times[2]), "recall": f"{found / (below * QUERIES):.3f}",
            })
        self.report.table(f"LIMIT {limit} within a distance that {below} rows are below", table)

    def small_buffers(self):
        """With a cache that holds an eighth of the table."""
        buffers = f"{max(1, self.data.rows.nbytes // 8 >> 20)}MB"
        sql("postgres", f"ALTER SYSTEM SET shared_buffers = '{buffers}'")
        restart()
        for c in self.competitors:
            self.answers(c, c.settings())  # into the operating system's cache
        rates = self.rounds(1, 2)
        self.report.table(f"shared_buffers {buffers}: the files are in the operating system's cache", [
            {"index": f"{c.name} {self.label(c)}", "queries/s": figure(statistics.median(rates[c.index, 1])),
             "2 clients": figure(statistics.median(rates[c.index, 2]))} for c in self.competitors])
        sql("postgres", f"ALTER SYSTEM SET shared_buffers = '{self.buffers}'")
        restart()
        self.prewarm()

    def writers(self):
        """Six clients that search beside two that insert 200 rows a second together."""
        table = []
        for c in self.competitors:
            self.take_out(c)
            sql(c.database, f"VACUUM {c.table}")
            insert = f"INSERT INTO {c.table} SELECT id, f, v FROM spare"
            script = f"\\set n :n + 2\n\\set i :n + :client_id - 1\n{insert} WHERE n = :i;\n"
            length = str(max(10, self.arguments.seconds))
            writing = self.pgbench(c, script, "-c", "2", "-T", length, "-R", "200", "-D", "n=0", settings="")
            reading = self.pgbench(c, self.search_script(c), "-c", "6", "-T", length)
            rates = [self.rate(reading), self.rate(writing)]
            sql(c.database, f"{insert} WHERE id NOT IN (SELECT id FROM {c.table})", f"VACUUM (ANALYZE) {c.table}")
            problems = sql(c.database, f"SELECT count(*) FROM ivf_check('{c.index}')") if c.name == "ivf" else ""
            table.append({
                "index": f"{c.name} {self.label(c)}", "queries/s": figure(rates[0]), "inserts/s": figure(rates[1]),
                "recall after": f"{self.data.recall(self.answers(c, c.settings()), self.data.truth):.3f}",
                "problems (ivf_check)": problems,
            })
        self.report.table(f"6 clients search while 2 insert, 200 rows/s asked for, {os.cpu_count()} processors", table)


def main():
    parser = argparse.ArgumentParser(
        prog="benches/ivf.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:<15} {what}" for name, what in PARTS.items())
        + "\n  all             every one of them (hours)")
    parser.add_argument("part", nargs="*", default=["real"], metavar="PART", help="real, if none is named")
    parser.add_argument("--rows", type=int, help="of synthetic (default: 1000000), tight-clusters and dims (100000)")
    parser.add_argument("--brief", action="store_true",
                        help="real and synthetic: build once, in parallel; no cold start, no writes (hnsw's take an hour"
                        " with a million rows)")
    parser.add_argument("--peers", nargs="*", default=list(BARS), choices=list(BARS), help="only these of the peers")
    parser.add_argument("--limit", type=int, help="take this many of the real texts only, to try the benchmark")
    parser.add_argument("--rounds", type=int, default=5, help="of each rate, of which the median counts (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="of a round (default: 3)")
    arguments = parser.parse_args()
    parts = set(PARTS) if arguments.part == ["all"] else set(arguments.part)
    if parts - set(PARTS):
        parser.error(f"no such part: {', '.join(parts - set(PARTS))}")

    everyone = competitors(arguments.peers)
    source = functools.cache(lambda: ivf_data.real("ours", os.environ["BENCH_MODEL"], arguments.limit))

    on_real = [part for part in ("real", "filters", "small-buffers", "writers") if part in parts]
    if on_real:
        bench = Bench(source(), everyone, arguments, "-".join(on_real))
        thorough = "real" in parts and not arguments.brief
        bench.prepare(thorough)
        if "real" in parts:
            bench.measure(thorough)
        if "filters" in parts:
            bench.filters()
            bench.thresholds()
        if "small-buffers" in parts:
            bench.small_buffers()
        if thorough:
            bench.writes()
        if "writers" in parts:
            bench.writers()
    if "synthetic" in parts:
        bench = Bench(ivf_data.synthetic(source(), arguments.rows or 1_000_000), everyone, arguments)
        bench.prepare(not arguments.brief)
        bench.measure(not arguments.brief)
        if not arguments.brief:
            bench.writes()
    rows, others = arguments.rows or 100_000, []
    if "tight-clusters" in parts:
        others.append(lambda: ivf_data.tight_clusters(rows))
    if "dims" in parts:
        others += [lambda dims=dims: ivf_data.other_dimensions(source(), dims, rows) for dims in (128, 1536)]
    for make in others:
        bench = Bench(make(), everyone, arguments)
        bench.prepare(thorough=False)
        bench.measure(thorough=False)


main()
