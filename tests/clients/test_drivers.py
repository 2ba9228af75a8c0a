"""psycopg 3, asyncpg, SQLAlchemy and Django with pgvector's adapters: each inserts, searches and makes its index."""

import asyncio

import asyncpg
import django
import numpy as np
import pgvector.asyncpg
import pgvector.django
import pgvector.psycopg
import pgvector.sqlalchemy
import pytest
import sqlalchemy as sa
from conftest import HOST, PORT, TEXTS, connect, url, uses
from django.conf import settings
from django.contrib.postgres.indexes import PostgresIndex
from django.db import connections, migrations, models
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

TABLE = "CREATE TABLE docs (id int, body text, embedding vector(32))"


@pytest.mark.parametrize("binary", [False, True])
def test_psycopg(database, binary):
    with connect(database) as connection:
        pgvector.psycopg.register_vector(connection)
        connection.execute(TABLE)
        texts = {text: connection.execute("SELECT embed(%s)", [text], binary=binary).fetchone()[0] for text in TEXTS}
        for number, (text, vector) in enumerate(texts.items()):
            assert vector.shape == (32,) and vector.dtype == np.float32
            connection.execute("INSERT INTO docs VALUES (%s, %s, %s)", [number, text, vector], binary=binary)
        connection.execute("CREATE INDEX docs_ivf ON docs USING ivf (embedding vector_cosine_ops)")
        for text, vector in texts.items():
            for sql, value in [("%s", vector), ("embed(%s)", text)]:
                nearest = f"SELECT body, embedding FROM docs ORDER BY embedding <=> {sql} LIMIT 1"
                found = connection.execute(nearest, [value], binary=binary, prepare=True).fetchone()
                assert found[0] == text and (found[1] == vector).all()
        uses(connection, "docs_ivf", "docs")


def test_psycopg_copy(database):
    with connect(database) as connection:
        pgvector.psycopg.register_vector(connection)
        connection.execute(TABLE)
        rows = np.random.default_rng(1).standard_normal((500, 32)).astype(np.float32)
        with connection.cursor().copy("COPY docs (id, embedding) FROM STDIN WITH (FORMAT binary)") as copy:
            copy.set_types(["int4", "vector"])
            for number, row in enumerate(rows):
                copy.write_row([number, row])
        stored = connection.execute("SELECT embedding FROM docs ORDER BY id", binary=True).fetchall()
        assert (np.array([row[0] for row in stored]) == rows).all()


def test_asyncpg(database):
    async def run():
        connection = await asyncpg.connect(host=HOST, port=int(PORT), user="postgres", database=database)
        await pgvector.asyncpg.register_vector(connection)
        await connection.execute(TABLE)
        for number, text in enumerate(TEXTS):
            vector = await connection.fetchval("SELECT embed($1)", text)
            await connection.execute("INSERT INTO docs VALUES ($1, $2, $3)", number, text, vector)
        await connection.execute("CREATE INDEX docs_ivf ON docs USING ivf (embedding vector_cosine_ops)")
        for text in TEXTS:
            vector = await connection.fetchval("SELECT embed($1)", text)
            for sql, value in [("$1", vector), ("embed($1)", text)]:
                nearest = f"SELECT body FROM docs ORDER BY embedding <=> {sql} LIMIT 1"
                assert await connection.fetchval(nearest, value) == text
        await connection.close()

    asyncio.run(run())


def test_sqlalchemy(database):
    class Base(DeclarativeBase):
        pass

    class Doc(Base):
        __tablename__ = "docs"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]
        embedding = mapped_column(pgvector.sqlalchemy.Vector(32))
        __table_args__ = (
            sa.Index(
                "docs_ivf", "embedding", postgresql_using="ivf",
                postgresql_with={"lists": 1}, postgresql_ops={"embedding": "vector_cosine_ops"},
            ),
        )

    engine = sa.create_engine(url("postgresql+psycopg", database))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Doc(body=text, embedding=sa.func.embed(text)) for text in TEXTS)
        session.commit()
        for text in TEXTS:
            vector = session.scalar(sa.select(Doc.embedding).where(Doc.body == text))
            for target in [vector, sa.func.embed(text)]:
                distance = Doc.embedding.cosine_distance(target)
                assert session.scalar(sa.select(Doc.body).order_by(distance).limit(1)) == text
                assert session.scalar(sa.select(sa.func.count()).where(distance < 0.0001)) == 1
    engine.dispose()
    with connect(database) as connection:
        uses(connection, "docs_ivf", "docs")


class IvfIndex(PostgresIndex):
    """What a Django project writes down to have ivf among its indexes."""

    suffix = "ivf"


class Embed(models.Func):
    function = "embed"


def use_django(database):
    # Django's settings are made once; its connections are by name.
    if not settings.configured:
        settings.configure(DATABASES={"default": {}}, INSTALLED_APPS=["django.contrib.postgres"], USE_TZ=True)
        django.setup()
    connections.settings[database] = {
        **connections.settings["default"], "ENGINE": "django.db.backends.postgresql", "NAME": database,
        "USER": "postgres", "HOST": HOST, "PORT": PORT,
    }
    return connections[database]


def check_django(database, indexes):
    connection = use_django(database)

    class Doc(models.Model):
        body = models.TextField()
        embedding = pgvector.django.VectorField(dimensions=32)

        class Meta:
            app_label = f"app_{database}"
            db_table = "docs"

    Doc._meta.indexes = indexes
    with connection.schema_editor() as editor:
        editor.create_model(Doc)
    docs = Doc.objects.using(database)
    for text in TEXTS:
        docs.create(body=text, embedding=Embed(models.Value(text)))
    for text in TEXTS:
        vector = docs.get(body=text).embedding
        for target in [vector, Embed(models.Value(text))]:
            distance = pgvector.django.CosineDistance("embedding", target)
            assert docs.order_by(distance).first().body == text
            assert docs.alias(distance=distance).filter(distance__lt=0.0001).count() == 1
    connection.close()
    with connect(database) as connection:
        # The planner prefers the last one.
        for index in reversed(indexes):
            uses(connection, index.name, "docs")
            connection.execute(f"DROP INDEX {index.name}")


def ivf():
    return IvfIndex(name="docs_ivf", fields=["embedding"], opclasses=["vector_cosine_ops"])


def test_django(database):
    check_django(database, [ivf()])


def test_django_migration_makes_pgvector(empty_database):
    connection = use_django(empty_database)
    operation = pgvector.django.VectorExtension()
    with connection.schema_editor() as editor:
        operation.database_forwards("app", editor, migrations.state.ProjectState(), migrations.state.ProjectState())
    connection.close()
    with connect(empty_database) as admin:
        admin.execute("CREATE EXTENSION pg_embed_pgvector")
    hnsw = pgvector.django.HnswIndex(
        name="docs_hnsw", fields=["embedding"], m=8, ef_construction=32, opclasses=["vector_cosine_ops"]
    )
    check_django(empty_database, [hnsw, ivf()])


def test_django_migration_says_what_is_wrong_beside_pg_embed(own_database):
    """docs/clients.md says to leave the operation out there."""
    connection = use_django(own_database)
    with pytest.raises(django.db.utils.Error, match='type "vector" already exists|extension "vector" is not available'):
        with connection.schema_editor() as editor:
            pgvector.django.VectorExtension().database_forwards(
                "app", editor, migrations.state.ProjectState(), migrations.state.ProjectState()
            )
    connection.close()
