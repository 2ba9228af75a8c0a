"""The clients of growth.py: each a process with a connection, which returns what it saw of each statement."""

import multiprocessing
import sys
import time
from collections.abc import Callable

import numpy
import psycopg
from pgvector.psycopg import register_vector

from ivf_data import NEIGHBOURS, Data

# Started by fork, clients have the rows without a copy.
FORK = multiprocessing.get_context("fork")
PAUSE = 0.02  # seconds after which another search is compared with what it should have found
LOADED = 2  # f of rows that were there before the clients, whose f is 0 and 1


class Client:
    """A function's run in a process of its own: threads would wait for each other's Python."""

    def __init__(self, function: Callable, *arguments):
        self.receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=lambda: sender.send(function(*arguments)))
        self.process.start()
        sender.close()  # so that the end of the process is the end of the pipe

    def result(self):
        try:
            result = self.receiver.recv()
        except EOFError:
            sys.exit("a client failed")
        self.process.join()
        return result


def connect(database: str, settings: str = "") -> psycopg.Connection:
    connection = psycopg.connect(dbname=database, autocommit=True, options=settings)
    register_vector(connection)
    return connection


def insert(database: str, table: str, data: Data, f: int, ids: numpy.ndarray, batch: int, pace: float = 0) -> numpy.ndarray:
    """Inserts these rows, `batch` a statement, at a pace of rows a second or as fast as it goes. A line for each statement:
    when it began, seconds, rows."""
    statements = []
    with connect(database) as connection:
        start = time.perf_counter()
        for done in range(0, len(ids), batch):
            part = ids[done:done + batch]
            values = [value for i in part.tolist() for value in (i, data.rows[i])]
            statement = f"INSERT INTO {table} (f, id, v) VALUES " + ", ".join([f"({f}, %b, %b)"] * len(part))
            if pace:
                time.sleep(max(0, start + done / pace - time.perf_counter()))
            began = time.perf_counter()
            connection.execute(statement, values, prepare=True)
            statements.append((began, time.perf_counter() - began, len(part)))
    return numpy.array(statements)


def search(database: str, table: str, data: Data, settings: str, stop) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Searches until it is told to stop. When each search began; and of one every PAUSE: when, the query's number, the last
    rows of f 0 and 1 that its snapshot had, and the rows it found, -1 for those it did not."""
    nearest = f"SELECT id FROM {table} ORDER BY v <=> %b LIMIT {NEIGHBOURS}"
    # A client inserts in ascending order, so that its last row tells all that the snapshot has of it.
    last = ", ".join(f"coalesce((SELECT max(id) FROM {table} WHERE f = {f}), -1)" for f in (0, 1))
    rng = numpy.random.default_rng(1)
    began, checks = [], []
    with connect(database, settings) as connection:
        while not stop.is_set():
            query = int(rng.integers(len(data.queries)))
            began.append(time.perf_counter())
            check = not checks or began[-1] - checks[-1][0] >= PAUSE
            if check:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                snapshot = connection.execute(f"SELECT {last}", prepare=True).fetchone()
            found = [row[0] for row in connection.execute(nearest, (data.queries[query],), prepare=True)]
            if check:
                connection.execute("COMMIT")
                checks.append((began[-1], query, *snapshot, *found, *[-1] * (NEIGHBOURS - len(found))))
    return numpy.array(began), numpy.array(checks).reshape(-1, 4 + NEIGHBOURS)


def repeat(database: str, statement: str, stop) -> list[float]:
    """Runs it again and again until it is told to stop; the seconds of each."""
    times = []
    with connect(database) as connection:
        while not stop.is_set():
            began = time.perf_counter()
            connection.execute(statement)
            times.append(time.perf_counter() - began)
    return times


def recalls(data: Data, checks: numpy.ndarray, f: numpy.ndarray) -> numpy.ndarray:
    """The recall of each search that `search` noted, among the rows its snapshot had. `f`: each row's."""
    similar = data.queries @ data.rows.T
    ids = numpy.arange(len(data.rows))
    result = []
    for check in checks[:, 1:].astype(int):
        last = numpy.array([check[1], check[2], len(ids)])  # of f 0, 1 and LOADED
        nearness = similar[check[0]]
        seen = nearness[ids <= last[f]]
        wanted = min(NEIGHBOURS, len(seen))
        if wanted == 0:
            result.append(numpy.nan)
            continue
        farthest = numpy.partition(seen, -wanted)[-wanted]
        found = check[3:][check[3:] >= 0]
        result.append(min(wanted, int((nearness[found] >= farthest - 1e-6).sum())) / wanted)
    return numpy.array(result)
