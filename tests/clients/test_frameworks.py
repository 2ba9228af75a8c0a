"""langchain-postgres and llama-index's Postgres store, whose vectors come from embed()."""

import pytest
from conftest import TEXTS, connect, url, uses
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.indexes import HNSWIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.vector_stores.postgres import PGVectorStore as LlamaStore


class PgEmbed(Embeddings):
    """What an application writes down to have its database embed."""

    def __init__(self, connection):
        self.connection = connection

    def embed_documents(self, texts):
        sql = "SELECT array_agg(e::real[] ORDER BY n) FROM unnest(embed(%s::text[])) WITH ORDINALITY AS t (e, n)"
        return self.connection.execute(sql, [texts]).fetchone()[0]

    def embed_query(self, text):
        return self.connection.execute("SELECT embed_query(%s)::real[]", [text]).fetchone()[0]


def make_pgvector(database):
    """What the frameworks do in an empty database, if they are let."""
    with connect(database) as admin:
        admin.execute("CREATE EXTENSION pg_embed_pgvector")


def check_langchain(store):
    store.add_texts(TEXTS)
    for text in TEXTS:
        (found, distance), *_ = store.similarity_search_with_score(text, k=2)
        assert found.page_content == text and distance == pytest.approx(0, abs=1e-6)


def test_langchain(database):
    with connect(database) as connection:
        check_langchain(
            PGVector(
                embeddings=PgEmbed(connection), embedding_length=32, collection_name="docs",
                connection=url("postgresql+psycopg", database), create_extension=False,
            )
        )
        connection.execute("CREATE INDEX docs_ivf ON langchain_pg_embedding USING ivf (embedding vector_cosine_ops)")
        uses(connection, "docs_ivf", "langchain_pg_embedding")


def test_langchain_with_its_defaults(empty_database):
    with connect(empty_database) as connection:
        embeddings = PgEmbed(connection)
        store = PGVector(
            embeddings=embeddings, embedding_length=32, collection_name="docs",
            connection=url("postgresql+psycopg", empty_database),
        )
        connection.execute("CREATE EXTENSION pg_embed_pgvector")
        check_langchain(store)
        for method in ["ivf", "hnsw"]:
            connection.execute(
                f"CREATE INDEX docs_{method} ON langchain_pg_embedding USING {method} (embedding vector_cosine_ops)"
            )
            uses(connection, f"docs_{method}", "langchain_pg_embedding")
            connection.execute(f"DROP INDEX docs_{method}")


def test_langchain_store_with_its_defaults(empty_database):
    engine = PGEngine.from_connection_string(url("postgresql+asyncpg", empty_database))
    engine.init_vectorstore_table(table_name="docs", vector_size=32)
    with connect(empty_database) as connection:
        connection.execute("CREATE EXTENSION pg_embed_pgvector")
        store = PGVectorStore.create_sync(engine, table_name="docs", embedding_service=PgEmbed(connection))
        check_langchain(store)
        store.apply_vector_index(HNSWIndex(name="docs_hnsw"))
        check = store.similarity_search(TEXTS[0], k=1)
        assert check[0].page_content == TEXTS[0]
        uses(connection, "docs_hnsw", "docs")
        connection.execute("DROP INDEX docs_hnsw; CREATE INDEX docs_ivf ON docs USING ivf (embedding vector_cosine_ops)")
        uses(connection, "docs_ivf", "docs")


def check_llama_index(database, connection, **options):
    store = LlamaStore.from_params(
        connection_string=url("postgresql+psycopg2", database),
        async_connection_string=url("postgresql+asyncpg", database),
        table_name="docs", embed_dim=32, **options,
    )
    embeddings = PgEmbed(connection)
    nodes = [TextNode(text=text, embedding=vector) for text, vector in zip(TEXTS, embeddings.embed_documents(TEXTS))]
    store.add(nodes)
    for text in TEXTS:
        found = store.query(VectorStoreQuery(query_embedding=embeddings.embed_query(text), similarity_top_k=1))
        assert found.nodes[0].text == text
    connection.execute("CREATE INDEX docs_ivf ON data_docs USING ivf (embedding vector_cosine_ops)")
    if "hnsw_kwargs" not in options:
        uses(connection, "docs_ivf", "data_docs")


def test_llama_index_with_its_defaults(empty_database):
    with connect(empty_database) as connection:
        connection.execute("CREATE EXTENSION vector; CREATE EXTENSION pg_embed_pgvector")
        check_llama_index(
            empty_database, connection,
            hnsw_kwargs={"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_dist_method": "vector_cosine_ops"},
        )


def test_llama_index_on_a_table_of_ones_own(own_database):
    """Its set-up would create pgvector's extension; with perform_setup=False the table is the application's."""
    with connect(own_database) as connection:
        connection.execute(
            "CREATE TABLE data_docs (id bigserial PRIMARY KEY, text varchar NOT NULL, metadata_ json, node_id varchar,"
            " embedding vector(32))"
        )
        check_llama_index(own_database, connection, perform_setup=False)
