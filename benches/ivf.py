#!/usr/bin/env python3
"""The index ivf against pgvector's and VectorChord's, in one cluster and one run. Started by benches/ivf.sh.

Peers that are not installed for this Postgres are left out. Each competitor has a table of its own with the same rows,
is built as its documentation recommends, and answers with the smallest value of its knob (lists to probe, candidates to
keep) that gives recall@10 of 0.95 over 1000 held-out queries. Rounds of the competitors alternate; figures are medians.
Tables are printed, and written as Markdown into bench/ below the private tree.
"""

import argparse
import dataclasses
import functools
import os
import re
import statistics
import subprocess

import ivf_data
from cluster import (Report, answers, copy, figure, load_queries, make_database, pgbench, restart, seconds, size_buffers,
                     smallest, sql, tps)
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
WORKERS = 2  # max_parallel_maintenance_workers, for all alike
SINGLE_ROWS = 2000  # rows inserted one by one


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
        make_database(database, extensions)
    return every


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
        self.report.head(f"{self.data.name}: {len(self.data.rows):,} rows of {self.data.dims} dimensions,"
                         f" {self.data.metric} distance", {c.extension: c.database for c in self.competitors})

    def load(self):
        """Fills each competitor's table, and a table of the queries for each database."""
        self.buffers = size_buffers(self.data)
        self.report.line(f"shared_buffers {self.buffers}, maintenance_work_mem 2GB, {WORKERS} parallel workers")
        self.report.line()
        ids = range(len(self.data.rows))
        for database in {c.database for c in self.competitors}:
            load_queries(database, self.data)
        for c in self.competitors:
            sql(c.database, f"DROP TABLE IF EXISTS {c.table}",
                f"CREATE TABLE {c.table} (id int, f int, v vector({self.data.dims}))")
            copy(c.database, c.table, ids, self.data.selector, self.data.rows)
            sql(c.database, f"VACUUM (ANALYZE) {c.table}")

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
        return answers(c.database, c.index, self.query(c, "q.v", condition), settings)

    def recall(self, c: Competitor, value: int) -> float:
        if value not in c.recalls:
            c.recalls[value] = self.data.recall(self.answers(c, c.settings(value)), self.data.truth)
        return c.recalls[value]

    def tune(self, c: Competitor):
        """Sets the knob to the smallest value that reaches the target."""
        low = NEIGHBOURS - 1 if c.name == "hnsw" else 0
        c.value = smallest(lambda value: self.recall(c, value) >= TARGET_RECALL, low, c.largest)
        if self.recall(c, c.value) < TARGET_RECALL:
            print(f"{c.name} does not reach recall {TARGET_RECALL}: {self.recall(c, c.value):.3f}")

    def pgbench(self, c: Competitor, script: str, *options: str, settings: str | None = None) -> subprocess.Popen:
        return pgbench(c.database, script, *options, settings=c.settings() if settings is None else settings)

    def search_script(self, c: Competitor, condition: str = "") -> str:
        query = self.query(c, "(SELECT v FROM queries WHERE id = :i)", condition)
        return f"\\set i random(0, {QUERIES - 1})\n{query};\n"

    def search(self, c: Competitor, clients: int, seed: int, condition: str = "", settings: str | None = None) -> float:
        """Queries per second. A seed gives everybody the same queries."""
        return tps(self.pgbench(
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
                c.found.setdefault("cold", []).append(tps(pgbench))
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
            rate = tps(self.pgbench(c, script, "-c", "1", "-t", str(single), "-D", "n=0", settings=""))
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
                rates = [tps(self.pgbench(c, script, "-c", "1", "--random-seed", str(turn), "-T",
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
            rates = [tps(reading), tps(writing)]
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
