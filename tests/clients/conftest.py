"""Databases of the server whose socket is in the directory PG_EMBED_CLIENTS_HOST; see tests/clients.sh.

The model is the tests' tiny one, with 32 dimensions.
"""

import itertools
import os

import psycopg
import pytest

HOST = os.environ["PG_EMBED_CLIENTS_HOST"]
PORT = os.environ["PG_EMBED_CLIENTS_PORT"]
# The extension, and what is created before it.
EXTENSIONS = {"pg_embed": [], "pg_embed_pgvector": ["vector"]}

numbers = itertools.count(1)


def available(extension):
    with connect("postgres") as admin:
        return admin.execute("SELECT name FROM pg_available_extensions WHERE name = %s", [extension]).fetchone()


def connect(name):
    return psycopg.connect(host=HOST, port=PORT, user="postgres", dbname=name, autocommit=True)


def url(scheme, name):
    return f"{scheme}://postgres@/{name}?host={HOST}&port={PORT}"


def new_database(extensions):
    name = f"clients_{next(numbers)}"
    with connect("postgres") as admin:
        admin.execute(f"CREATE DATABASE {name}")
    with connect(name) as connection:
        for extension in extensions:
            connection.execute(f"CREATE EXTENSION {extension}")
    return name


@pytest.fixture(params=EXTENSIONS)
def database(request):
    """A database with pg_embed, and one with pgvector and pg_embed_pgvector."""
    for needed in EXTENSIONS[request.param]:
        if not available(needed):
            pytest.skip(f"this server has no {needed}")
    return new_database([*EXTENSIONS[request.param], request.param])


@pytest.fixture
def own_database():
    return new_database(["pg_embed"])


@pytest.fixture
def empty_database():
    """For what creates pgvector's extension itself."""
    if not available("vector"):
        pytest.skip("this server has no vector")
    return new_database([])


TEXTS = ["hello world", "the quick brown fox", "text number 7", "vectors are numbers"]


def uses(connection, index, table, column="embedding"):
    """Whether a search by that index is planned and answers."""
    connection.execute("SET enable_seqscan = off")
    search = f"SELECT * FROM {table} ORDER BY {column} <=> embed('hello world') LIMIT 1"
    plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {search}"))
    assert f"Index Scan using {index}" in plan, plan
    assert len(connection.execute(search).fetchall()) == 1
