#!/usr/bin/env python3
"""How the index keeps itself in shape while rows come, go and change their kind. Started by benches/growth.sh.

What an index has become is compared with one that was made on the same rows just now, as REINDEX would: both are there,
and rounds of queries in turn see one of them alone. Recall is that of the ten nearest of 300 held-out queries, in the part
targets of 1000 (while rows are inserted, among the rows that a search's snapshot has), by the default settings if no
others are named. Figures of rates are medians, queries/s those of one client that does not wait between its queries.
Tables are printed, and written as Markdown into bench/ below the private tree. Commits do not wait for the disk, and
settings of memory are Postgres's defaults but shared_buffers, so that a training in vacuum has what CREATE INDEX has.
"""

import argparse
import functools
import os
import re
import statistics
import time

import growth_clients
import ivf_data
import numpy
from cluster import (CLUSTER, Report, answers, copy, figure, load_queries, make_database, pgbench, seconds, size_buffers,
                     smallest, sql, tps)
from growth_clients import FORK, LOADED, Client
from ivf_data import NEIGHBOURS, Data

PARTS = {  # and how many rows they have
    "fill-empty": ("an index on an empty table, two clients that insert, one that searches, autovacuum", 100_000),
    "fill-grown": ("the same from an index on a 200th of the rows", 200_000),
    "drift": ("rows sorted by cluster, the index made on the first tenth, VACUUM after each tenth", 100_000),
    "churn": ("a random tenth deleted and as many others inserted, VACUUM, --cycles times", 50_000),
    "shrink": ("nine tenths deleted, VACUUM three times", 100_000),
    "inserts": ("single rows, and searches, beside a training and without; inserts into hnsw", 50_000),
    "targets": ("recall by ivf.target_recall, at a 100th, a 10th and all of the rows, with conditions", 100_000),
}
HELD_OUT = 300
SETTINGS = "-c enable_seqscan=off"  # tables without statistics, or of few rows, too
TARGETS = (0.8, 0.9, 0.95, 0.99, 0.999)
SHARES = (0.5, 0.1, 0.01)  # of rows whose f is 0, 1 and 2, in the part targets
PIPELINE = 20
WINDOWS = 10  # of the time that a filling takes
CHECKED = 4000  # searches beside inserts whose recall is computed, at most
SINGLE_ROWS = 1000  # inserted in a round of the part inserts


class Subject:
    """A table of some of the data's rows, and its index."""

    def __init__(self, data: Data, method: str = "ivf", database: str = "ours"):
        self.data, self.method, self.database = data, method, database
        self.table, self.index = f"{method}_rows", f"{method}_index"
        self.f = numpy.zeros(len(data.rows), int)
        self.present = numpy.zeros(len(data.rows), bool)
        sql(database, f"DROP TABLE IF EXISTS {self.table}",
            f"CREATE TABLE {self.table} (id int, f int, v vector({data.dims}))")
        load_queries(database, data)

    def insert(self, ids: numpy.ndarray):
        copy(self.database, self.table, ids, self.f[ids], self.data.rows[ids])
        self.present[ids] = True

    def delete(self, ids: numpy.ndarray):
        with growth_clients.connect(self.database) as connection:
            connection.execute(f"DELETE FROM {self.table} WHERE id = ANY(%b)", (ids.tolist(),))
        self.present[ids] = False

    def build(self, index: str = "", columns: str = "v vector_cosine_ops", *settings: str) -> float:
        return seconds(self.database, f"CREATE INDEX {index or self.index} ON {self.table} USING {self.method} ({columns})",
                       *settings)

    def vacuum(self) -> float:
        return seconds(self.database, f"VACUUM (ANALYZE) {self.table}")

    def query(self, vector: str, condition: str) -> str:
        return f"SELECT id FROM {self.table} {condition} ORDER BY v <=> {vector} LIMIT {NEIGHBOURS}"

    def recall(self, index: str = "", settings: str = "", condition: str = "", truth: tuple | None = None) -> float:
        """`truth`: of the rows that satisfy the condition, as `truth` gives it."""
        found = answers(self.database, index or self.index, self.query("q.v", condition), f"{SETTINGS} {settings}")
        return self.data.recall(found, *(truth or self.truth()))

    def truth(self, mask: numpy.ndarray | None = None) -> tuple[numpy.ndarray, int]:
        mask = self.present if mask is None else self.present & mask
        return self.data.farthest(mask), min(NEIGHBOURS, int(mask.sum()))

    def rate(self, arguments: argparse.Namespace, seed: int, settings: str = "", condition: str = "") -> float:
        """Queries a second of one client, which sends PIPELINE of them at once: between one query and the next the processor
        would sleep, and in a virtual machine take as long as a query to wake up, unless something else keeps it awake."""
        one = f"\\set i random(0, {len(self.data.queries) - 1})\n{self.query('(SELECT v FROM queries WHERE id = :i)', condition)};\n"
        script = "\\startpipeline\n" + one * PIPELINE + "\\endpipeline\n"
        return PIPELINE * tps(pgbench(self.database, script, "-c", "1", "--random-seed", str(seed), "-T",
                                      str(arguments.seconds), settings=f"{SETTINGS} {settings}"))

    def warm_rate(self, arguments: argparse.Namespace) -> float:
        sql(self.database, f"SELECT pg_prewarm('{self.index}')")
        return statistics.median(self.rate(arguments, turn) for turn in range(arguments.rounds))

    def info(self, index: str = "") -> dict:
        """What a line of every table tells of the index."""
        index = index or self.index
        lists, trained, size = sql(self.database, "SELECT lists, trained_rows, pg_relation_size("
                                   f"'{index}') FROM ivf_info('{index}')").split("|")
        return {"lists": lists, "trained on": trained, "MB": figure(int(size) / 1e6)}

    def only(self, index: str):
        """Hides the table's other index from the planner; both go on being written to."""
        sql(self.database, f"UPDATE pg_index SET indisvalid = indexrelid = '{index}'::regclass"
                           f" WHERE indexrelid IN ('{self.index}'::regclass, 'fresh'::regclass)")

    def against_fresh(self, report: Report, arguments: argparse.Namespace) -> float:
        """The index as it has become against a new one. How long the latter took to build."""
        built = self.build("fresh")
        rates, lines = {}, []
        both = (self.index, "fresh")
        truth = self.truth()
        sql(self.database, *(f"SELECT pg_prewarm('{index}')" for index in both))
        for turn in range(arguments.rounds):
            for index in both:
                self.only(index)
                rates.setdefault(index, []).append(self.rate(arguments, turn))
        for index, label in zip(both, ("as it has become", "made anew")):
            self.only(index)
            lines.append({"index": label, "queries/s": statistics.median(rates[index]),
                          "recall": self.recall(index, truth=truth),
                          "MB": int(sql(self.database, f"SELECT pg_relation_size('{index}')")) / 1e6})
            lines[-1] |= {name: value for name, value in self.info(index).items() if name not in lines[-1]}
        old, new = lines
        ratios = {name: f"{old[name] / new[name]:.2f}" for name in ("queries/s", "MB")}
        ratios["recall"] = f"{old['recall'] - new['recall']:+.3f}"
        for line in lines:
            line |= {"queries/s": figure(line["queries/s"]), "recall": f"{line['recall']:.3f}", "MB": figure(line["MB"])}
        report.table(f"Against an index made anew, which took {figure(built)} s",
                     lines + [{"index": "ratio; difference of recall"} | ratios])
        self.only(self.index)
        sql(self.database, "DROP INDEX fresh")
        return built


def held_out(data: Data) -> Data:
    return Data(data.name, data.rows, data.queries[:HELD_OUT])


def begin(part: str, data: Data) -> Report:
    report = Report(f"growth-{part}")
    databases = {"pg_embed": "ours"} | ({"vector": "peers"} if part == "inserts" and has_peer() else {})
    report.head(f"{part}: {len(data.rows):,} rows of {data.dims} dimensions", databases)
    report.line(f"shared_buffers {size_buffers(data)}")
    return report


@functools.cache
def has_peer() -> bool:
    if sql("postgres", "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'") == "":
        print("hnsw is left out: the extension vector is not installed")
        return False
    make_database("peers", ["vector", "pg_prewarm"])
    return True


def autovacuum(on: bool):
    # What it does, and trainings, is then in the log.
    sql("postgres", f"ALTER SYSTEM SET autovacuum = {'on' if on else 'off'}", "SELECT pg_reload_conf()")
    while not on and sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'") != "0":
        time.sleep(0.5)


class Log:
    """What the server writes from now on."""

    def __init__(self):
        self.start = (CLUSTER / "log").stat().st_size

    def text(self) -> str:
        with (CLUSTER / "log").open(errors="replace") as file:
            file.seek(self.start)
            return file.read()

    def trainings(self) -> list[float]:
        """Seconds of each, if this version of the extension tells them."""
        times = re.findall(r"ivf training.*?([0-9.]+) ?(ms|s)\b", self.text())
        return [float(value) / (1000 if unit == "ms" else 1) for value, unit in times]

    def autovacuums(self, table: str) -> list[float]:
        """Seconds of each of the table."""
        return [float(value) for value in re.findall(self.vacuum(table) + "elapsed: ([0-9.]+) s", self.text(), re.DOTALL)]

    def autovacuum_work(self, table: str) -> float:
        """Seconds of a processor that they took."""
        used = re.findall(self.vacuum(table) + r"CPU: user: ([0-9.]+) s, system: ([0-9.]+) s", self.text(), re.DOTALL)
        return sum(float(user) + float(system) for user, system in used)

    @staticmethod
    def vacuum(table: str) -> str:
        return rf'automatic vacuum of table "[^"]*\.{table}".*?'

    def tell(self, report: Report, table: str, built: float):
        trainings, vacuums = self.trainings(), self.autovacuums(table)
        report.line(f"\nAutovacuum: {len(vacuums)} times, {figure(sum(vacuums))} s, the longest"
                    f" {figure(max(vacuums, default=0))} s, {figure(self.autovacuum_work(table))} s of a processor. " + (
                        f"Trainings: {len(trainings)}, {figure(sum(trainings))} s, {sum(trainings) / built:.2f} times a"
                        " CREATE INDEX afterwards." if trainings else "The log tells of no training."))


def latencies(statements: numpy.ndarray) -> dict:
    """Of the seconds that statements took."""
    values = 1000 * numpy.percentile(statements, [50, 99, 100])
    return dict(zip(("p50 ms", "p99 ms", "max ms"), map(figure, values)))


# The parts.


def fill(part: str, first: int, source: Data, arguments: argparse.Namespace):
    data = held_out(ivf_data.repeated(source, arguments.rows or PARTS[part][1]))
    report = begin(part, data)
    subject = Subject(data)
    # Finds the last row that a snapshot has of each client.
    sql("ours", f"CREATE UNIQUE INDEX ON {subject.table} (f, id)")
    subject.f[:first] = LOADED
    subject.insert(numpy.arange(first))
    subject.build()
    log = Log()
    autovacuum(True)

    stop = FORK.Event()
    halves = numpy.array_split(numpy.arange(first, len(data.rows)), 2)
    for f, ids in enumerate(halves):
        subject.f[ids] = f
    searching = Client(growth_clients.search, "ours", subject.table, data, SETTINGS, stop)
    inserting = [Client(growth_clients.insert, "ours", subject.table, data, f, halves[f], batch, arguments.pace / 2)
                 for f, batch in enumerate((1, 100))]
    inserted = [client.result() for client in inserting]
    subject.present[:] = True
    ended = time.monotonic()
    stop.set()
    searches, checks = searching.result()
    found = at_rest(subject, ended, arguments)
    autovacuum(False)

    tell_filling(report, subject, first, inserted, searches, checks)
    report.table("After the last insert", found)
    log.tell(report, subject.table, subject.against_fresh(report, arguments))


def at_rest(subject: Subject, ended: float, arguments: argparse.Namespace) -> list[dict]:
    lines = []
    for wait in arguments.waits:
        time.sleep(max(0, ended + wait - time.monotonic()))
        lines.append({"seconds after": wait, "queries/s": figure(subject.warm_rate(arguments)),
                      "recall": f"{subject.recall():.3f}"} | subject.info())
    return lines


def tell_filling(report: Report, subject: Subject, first: int, inserted: list, searches: numpy.ndarray, checks: numpy.ndarray):
    """The inserts, and windows of the time they took."""
    everything = numpy.concatenate(inserted)
    began, ended = everything[:, 0].min(), everything[:, :2].sum(1).max()
    report.table(f"Inserts: {int(everything[:, 2].sum()):,} rows in {figure(ended - began)} s", [
        {"client": name, "rows": f"{int(statements[:, 2].sum()):,}",
         "rows/s": figure(statements[:, 2].sum() / (statements[-1, :2].sum() - statements[0, 0])),
         "statements": len(statements)} | latencies(statements[:, 1])
        for name, statements in zip(("one a statement", "100 a statement"), inserted) if len(statements)])
    checks = checks[numpy.linspace(0, len(checks) - 1, min(len(checks), CHECKED)).astype(int)]
    recalls = growth_clients.recalls(subject.data, checks, subject.f)
    edges = numpy.linspace(began, ended, WINDOWS + 1)
    table, lowest = [], []
    for start, end in zip(edges, edges[1:]):
        rates = [statements[(statements[:, 0] >= start) & (statements[:, 0] < end), 2].sum() / (end - start)
                 for statements in inserted]
        of_window = recalls[(checks[:, 0] >= start) & (checks[:, 0] < end)]
        of_window = of_window[~numpy.isnan(of_window)]
        lowest += [of_window.mean()] if len(of_window) else []
        table.append({
            "until (s)": figure(end - began), "rows": f"{first + int(everything[everything[:, 0] < end, 2].sum()):,}",
            "one a statement: rows/s": figure(rates[0]), "100": figure(rates[1]),
            "searches/s": figure(((searches >= start) & (searches < end)).sum() / (end - start)),
            "compared": len(of_window), "recall": f"{of_window.mean():.3f}" if len(of_window) else "",
        })
    report.table("Meanwhile", table)
    report.line(f"\nLowest recall of a window: {min(lowest, default=numpy.nan):.3f}")


def fill_empty(source: Data, arguments: argparse.Namespace):
    fill("fill-empty", 0, source, arguments)


def fill_grown(source: Data, arguments: argparse.Namespace):
    fill("fill-grown", max(1, (arguments.rows or PARTS["fill-grown"][1]) // 200), source, arguments)


def drift(source: Data, arguments: argparse.Namespace):
    data = held_out(ivf_data.repeated(source, arguments.rows or PARTS["drift"][1]))
    centroids = ivf_data.kmeans(data.rows, 100, numpy.random.default_rng(1))
    data.rows = data.rows[numpy.argsort(ivf_data.nearest(data.rows, centroids), kind="stable")]
    report = begin("drift", data)
    subject = Subject(data)
    log, table = Log(), []
    for tenth, ids in enumerate(numpy.array_split(numpy.arange(len(data.rows)), 10)):
        subject.insert(ids)
        if tenth == 0:
            subject.build()
        took = subject.vacuum()
        table.append({"rows": f"{ids[-1] + 1:,}", "vacuum (s)": figure(took), "recall": f"{subject.recall():.3f}"}
                     | subject.info())
    report.table("Rows sorted by cluster", table)
    log.tell(report, subject.table, subject.against_fresh(report, arguments))


def churn(source: Data, arguments: argparse.Namespace):
    rows = arguments.rows or PARTS["churn"][1]
    data = held_out(ivf_data.repeated(source, 2 * rows))  # half of them are in the table
    report = begin("churn", data)
    subject = Subject(data)
    rng = numpy.random.default_rng(1)
    subject.insert(numpy.arange(rows))
    subject.build()
    log, table, times = Log(), [], []
    for cycle in range(arguments.cycles + 1):
        if cycle > 0:
            inside, outside = numpy.flatnonzero(subject.present), numpy.flatnonzero(~subject.present)
            subject.delete(rng.choice(inside, rows // 10, replace=False))
            subject.insert(rng.choice(outside, rows // 10, replace=False))
            times.append(subject.vacuum())
        if cycle % 5 == 0 or cycle == arguments.cycles:
            table.append({"cycles": cycle, "recall": f"{subject.recall():.3f}",
                          "vacuum (s)": figure(statistics.median(times)) if times else ""} | subject.info())
            times = []
    report.table("A tenth deleted and as many others inserted", table)
    log.tell(report, subject.table, subject.against_fresh(report, arguments))


def shrink(source: Data, arguments: argparse.Namespace):
    data = held_out(ivf_data.repeated(source, arguments.rows or PARTS["shrink"][1]))
    report = begin("shrink", data)
    subject = Subject(data)
    subject.insert(numpy.arange(len(data.rows)))
    subject.build()
    log, table = Log(), []
    took = subject.vacuum()
    for step in ("full", "deleted", "vacuum 1", "vacuum 2", "vacuum 3"):
        if step == "deleted":
            subject.delete(numpy.flatnonzero(numpy.arange(len(data.rows)) % 10))
        elif step.startswith("vacuum"):
            took = subject.vacuum()
        table.append({"after": step, "seconds": figure(took) if step.startswith("vacuum") else "",
                      "queries/s": figure(subject.warm_rate(arguments)), "recall": f"{subject.recall():.3f}"} | subject.info())
    report.table("Nine tenths deleted", table)
    log.tell(report, subject.table, subject.against_fresh(report, arguments))


def inserts(source: Data, arguments: argparse.Namespace):
    loaded = arguments.rows or PARTS["inserts"][1]
    single = min(SINGLE_ROWS, max(1, loaded // 10))
    data = held_out(ivf_data.repeated(source, loaded + 2 * single * arguments.rounds))
    report = begin("inserts", data)
    ivf = Subject(data)
    train = f"VACUUM {ivf.table}"
    if sql("ours", "SELECT count(*) FROM pg_proc WHERE proname = 'ivf_maintain'") != "0":
        train = f"SELECT ivf_maintain('{ivf.index}', true)"
    contenders = {"ivf": (ivf, False), "ivf beside trainings": (ivf, True)}
    if has_peer():
        contenders["hnsw"] = (Subject(data, "hnsw", "peers"), False)
    subjects = {subject.method: subject for subject, _ in contenders.values()}
    for subject in subjects.values():
        subject.insert(numpy.arange(loaded))
        subject.build("", "v vector_cosine_ops", "SET maintenance_work_mem = '2GB'")
        subject.vacuum()
    left = {method: numpy.arange(loaded, len(data.rows)) for method in subjects}
    found = {name: [] for name in contenders}
    trainings = []

    def beside(training: bool, work):
        stop = FORK.Event()
        trainer = Client(growth_clients.repeat, "ours", train, stop) if training else None
        result = work()
        stop.set()
        trainings.extend(trainer.result() if trainer else [])
        return result

    for _ in range(arguments.rounds):
        for name, (subject, training) in contenders.items():
            ids, left[subject.method] = numpy.split(left[subject.method], [single])
            found[name].append(beside(training, lambda: Client(
                growth_clients.insert, subject.database, subject.table, data, 0, ids, 1).result()))
    together = {name: numpy.concatenate(rounds)[:, 1] for name, rounds in found.items()}
    rates = {name: statistics.median(len(r) / r[:, 1].sum() for r in rounds) for name, rounds in found.items()}
    report.table(f"Single rows into a table of {loaded:,}, as a client sees them; trainings: {train}", [
        {"index": name, "rows/s": figure(rates[name])} | latencies(times)
        | {"rows/s against ivf": f"{rates[name] / rates['ivf']:.2f}"} for name, times in together.items()])

    sql("ours", f"SELECT pg_prewarm('{ivf.index}')")
    searches = {False: [], True: []}
    for turn in range(arguments.rounds):
        for training in (False, True):
            searches[training].append(beside(training, lambda: ivf.rate(arguments, turn)))
    alone, busy = (statistics.median(searches[training]) for training in (False, True))
    report.table("Searches", [{"beside": "nothing", "queries/s": figure(alone)},
                              {"beside": "trainings", "queries/s": figure(busy)},
                              {"beside": "ratio", "queries/s": f"{busy / alone:.2f}"}])
    report.line(f"\n{len(trainings)} trainings of {figure(statistics.mean(trainings))} s; {os.cpu_count()} processors")


def targets(source: Data, arguments: argparse.Namespace):
    rows = arguments.rows or PARTS["targets"][1]
    sets = [ivf_data.repeated(source, max(NEIGHBOURS, rows // part)) for part in (100, 10)]
    # Rows that are real ones again, or nearly, would be too easy.
    sets.append((ivf_data.repeated if rows <= len(source.rows) else ivf_data.synthetic)(source, rows))
    sets.append(ivf_data.broad_clusters(min(80_000, rows)))
    report = begin("targets", sets[2])
    for data in sets:
        subject = Subject(data)
        subject.f = numpy.searchsorted(numpy.cumsum(SHARES), numpy.random.default_rng(7).random(len(data.rows)), "right")
        subject.insert(numpy.arange(len(data.rows)))
        table = []
        for f, share in [(None, 1)] + list(enumerate(SHARES)):
            if f is None or f == 0:  # for the conditions with their column
                sql("ours", f"DROP INDEX IF EXISTS {subject.index}")
                subject.build("", "v vector_cosine_ops" + ("" if f is None else ", f"))
                subject.vacuum()
            mask = numpy.ones(len(data.rows), bool) if f is None else subject.f == f
            if mask.any():
                table += of_targets(subject, "" if f is None else f"WHERE f = {f}", share, mask, arguments)
        report.table(f"{data.name}: {len(data.rows):,} rows of {data.dims} dimensions, {subject.info()['lists']} lists", table)


def of_targets(subject: Subject, condition: str, share: float, mask: numpy.ndarray,
               arguments: argparse.Namespace) -> list[dict]:
    """A line for each target, one for the defaults, and one for the fewest probes that reach 0.95."""
    truth = subject.truth(mask)
    recall = functools.cache(lambda settings: subject.recall("", settings, condition, truth))
    lists = int(subject.info()["lists"])
    probes = smallest(lambda value: recall(f"-c ivf.probes={value}") >= 0.95, 0, lists)
    choices = {"default": ("", 0.95), f"{probes} probes": (f"-c ivf.probes={probes}", 0.95)}
    choices |= {f"target {target}": (f"-c ivf.target_recall={target}", target) for target in TARGETS}
    sql("ours", f"SELECT pg_prewarm('{subject.index}')")
    rates = {name: [] for name in choices}
    for turn in range(arguments.rounds):
        for name, (settings, _) in choices.items():
            rates[name].append(subject.rate(arguments, turn, settings, condition))
    fixed = statistics.median(rates[f"{probes} probes"])
    return [{"condition": "none" if not condition else f"{share:.0%} of the rows", "by": name,
             "recall": f"{recall(settings):.3f}", "less the target": f"{recall(settings) - target:+.3f}",
             "queries/s": figure(statistics.median(rates[name])),
             "against fixed": f"{statistics.median(rates[name]) / fixed:.2f}"}
            for name, (settings, target) in choices.items()]


def main():
    parser = argparse.ArgumentParser(
        prog="benches/growth.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:<12} {what} ({rows:,} rows)" for name, (what, rows) in PARTS.items())
        + "\n  all          every one of them")
    parser.add_argument("part", nargs="*", default=["fill-empty"], metavar="PART", help="fill-empty, if none is named")
    parser.add_argument("--rows", type=int, help="of each part, instead of its own number")
    parser.add_argument("--pace", type=float, default=0, help="rows a second that the clients of a filling insert together; as"
                        " many as they can without it, which may be done before autovacuum looks, once a minute")
    parser.add_argument("--waits", type=int, nargs="*", default=[0, 30, 60, 120],
                        help="seconds after the last insert at which a filled index is measured (default: 0 30 60 120)")
    parser.add_argument("--cycles", type=int, default=50, help="of churn (default: 50)")
    parser.add_argument("--rounds", type=int, default=3, help="of each rate, of which the median counts (default: 3)")
    parser.add_argument("--seconds", type=int, default=3, help="of a round (default: 3)")
    arguments = parser.parse_args()
    parts = list(PARTS) if arguments.part == ["all"] else arguments.part
    if set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(set(parts) - set(PARTS))}")

    make_database("ours", ["pg_embed", "pg_prewarm"])
    for setting, value in [("log_min_messages", "debug1"), ("log_autovacuum_min_duration", "0")]:
        sql("postgres", f"ALTER SYSTEM SET {setting} = '{value}'")
    source = ivf_data.real("ours", os.environ["BENCH_MODEL"])
    functions = {"fill-empty": fill_empty, "fill-grown": fill_grown, "drift": drift, "churn": churn, "shrink": shrink,
                 "inserts": inserts, "targets": targets}
    for part in parts:
        functions[part](source, arguments)


if __name__ == "__main__":
    main()
