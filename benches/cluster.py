"""What ivf.py and growth.py share: the cluster that ivf.sh makes, statements and pgbench in it, and reports."""

import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable

import ivf_data

CLUSTER = pathlib.Path(os.environ.get("BENCH_CLUSTER", "."))


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


def memory() -> int:
    """The machine's, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def make_database(name: str, extensions: list[str]):
    sql("postgres", f"CREATE DATABASE {name}")
    # CASCADE: VectorChord wants pgvector.
    sql(name, "SET client_min_messages = warning",
        *(f"CREATE EXTENSION IF NOT EXISTS {extension} CASCADE" for extension in extensions))


def size_buffers(data: ivf_data.Data) -> str:
    """Restarts the server with room for every index and the rows that are looked at; half of the memory at most."""
    buffers = f"{int(min(memory() / 2, max(2 ** 30, 8 * data.rows.nbytes))) >> 20}MB"
    sql("postgres", f"ALTER SYSTEM SET shared_buffers = '{buffers}'")
    restart()
    return buffers


def load_queries(database: str, data: ivf_data.Data):
    sql(database, "DROP TABLE IF EXISTS queries",
        f"CREATE TABLE queries (id int PRIMARY KEY, f int, v vector({data.dims}))")
    copy(database, "queries", range(len(data.queries)), [0] * len(data.queries), data.queries)
    sql(database, "VACUUM (ANALYZE) queries")


def copy(database: str, table: str, ids, selector, vectors):
    """Rows into the columns id, f, v."""
    dims = vectors.shape[1]
    command = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", database,
               "-c", f"COPY {table} FROM STDIN (FORMAT binary)"]
    psql = subprocess.Popen(command, stdin=subprocess.PIPE)
    psql.stdin.write(ivf_data.COPY_HEADER)
    for start in range(0, len(vectors), 10_000):
        part = vectors[start:start + 10_000]
        records = ivf_data.numpy.zeros(len(part), ivf_data.copy_records(("id", "f"), dims))
        records["columns"], records["id_bytes"], records["f_bytes"] = 3, 4, 4
        records["v_bytes"], records["dims"] = 4 + 4 * dims, dims
        records["id"], records["f"] = ids[start:start + 10_000], selector[start:start + 10_000]
        records["v"] = part
        psql.stdin.write(records.tobytes())
    psql.stdin.write(ivf_data.COPY_END)
    psql.stdin.close()
    if psql.wait() != 0:
        sys.exit("loading failed")


def answers(database: str, index: str, query: str, settings: str) -> list[list[int]]:
    """The ids that the query returns, of `q.v`, for each of the queries."""
    statement = f"SELECT id, ARRAY({query}) FROM queries q ORDER BY q.id"
    if index not in sql(database, f"EXPLAIN {statement}", settings=settings):
        sys.exit(f"{index} is not used: {statement}")
    lines = sql(database, statement, settings=settings).splitlines()
    return [[int(i) for i in re.findall(r"\d+", line.split("|")[1])] for line in lines]


def smallest(reaches: Callable[[int], bool], low: int, largest: int) -> int:
    """The smallest value above `low` that reaches what is wanted; `largest` if that does not either."""
    high = low + 1
    while high < largest and not reaches(high):
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def pgbench(database: str, script: str, *options: str, settings: str) -> subprocess.Popen:
    """Starts it, with as many threads as clients."""
    clients = options[options.index("-c") + 1]
    command = ["pgbench", "-n", "-M", "prepared", "-j", clients, *options, "-f", "-", database]
    with tempfile.TemporaryFile("w+") as file:
        file.write(script)
        file.seek(0)
        return subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=os.environ | {"PGOPTIONS": settings})


def tps(pgbench: subprocess.Popen) -> float:
    """Transactions per second, connecting not counted."""
    output, errors = pgbench.communicate()
    if pgbench.returncode != 0:
        sys.exit(f"pgbench failed: {errors}")
    return float(re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)[1])


class Report:
    """Prints tables, and keeps them as Markdown."""

    def __init__(self, name: str):
        self.path = ivf_data.DIRECTORY / f"{name}.md"
        self.path.write_text("")

    def head(self, title: str, databases: dict[str, str]):
        """What the figures are of. `databases`: one for each extension, whose versions are told."""
        cpu = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()) or [platform.machine()]
        versions = ", ".join(sorted(sql(database, "SELECT extname || ' ' || extversion FROM pg_extension"
                                        f" WHERE extname = '{extension}'") for extension, database in databases.items()))
        commit = run(["git", "-c", "safe.directory=*", "describe", "--always", "--dirty"])
        program = pathlib.Path(sys.argv[0]).with_suffix(".sh").name
        self.line()
        self.line(f"## {title}")
        self.line()
        self.line(f"{datetime.date.today()}, benches/{program} {shlex.join(sys.argv[1:])}, commit {commit.strip()}")
        self.line(f"PostgreSQL {sql('postgres', 'SHOW server_version')}, {versions}")
        self.line(f"{os.cpu_count()} processors ({cpu[0]}), {memory() / 2**30:.0f} GB, Linux {platform.release()}, load"
                  f" before the run {os.getloadavg()[0]:.1f}")

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
