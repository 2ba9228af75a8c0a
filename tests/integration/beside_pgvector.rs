//! pg_embed_pgvector: on the type, the data and the indexes of pgvector, where the server has it.

use postgres::Client;

use crate::cluster::{Cluster, refused, rows, skipped, value, wait_until};
use crate::ivf::{BY_SORTING, Clusters, METRICS, assert_sound, make_index, make_table, rows_under};

/// A database with pgvector, and a superuser's connection to it.
fn with_pgvector(what: &str) -> Option<(Cluster, Client)> {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    if value(&mut client, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == "0" {
        skipped(&format!("{what}: this server has no pgvector"));
        return None;
    }
    client.batch_execute("SET client_min_messages = warning; CREATE EXTENSION vector").unwrap();
    Some((cluster, client))
}

const DOCS: &str = "
    CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector(32));
    CREATE INDEX docs_hnsw ON docs USING hnsw (embedding vector_cosine_ops);
    INSERT INTO docs SELECT i, 'text number ' || i, ('[1' || repeat(',0', 31) || ']')::vector FROM generate_series(1, 50) i;";

const PIPELINE: &str = "
    CREATE EXTENSION pg_embed_pgvector;
    CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
        FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
    INSERT INTO docs VALUES (51, 'a text that comes later');
    UPDATE docs SET embedding = embed(body) WHERE id <= 50;
    ALTER TABLE docs ADD pinned vector(32) GENERATED ALWAYS AS (embed('tiny-bert', body)) STORED;
    CREATE INDEX docs_ivf ON docs USING ivf (pinned vector_cosine_ops);";

fn assert_pipeline(client: &mut Client) {
    let wrong = "SELECT count(*) FROM docs WHERE embedding <> embed(body) OR pinned <> embedding";
    assert_eq!(value(client, wrong), "0");
    for (column, index) in [("embedding", "docs_hnsw"), ("pinned", "docs_ivf")] {
        let search =
            format!("SELECT id FROM docs ORDER BY {column} <=> embed('a text that comes later') LIMIT 1");
        let by_index = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
        let plan = rows_under(client, by_index, &format!("EXPLAIN (COSTS OFF) {search}")).concat().join("\n");
        assert!(plan.contains(&format!("Index Scan using {index} ")), "{plan}");
        assert_eq!(rows_under(client, by_index, &search), [["51"]]);
        assert_eq!(rows_under(client, BY_SORTING, &search), [["51"]]);
    }
}

#[test]
fn what_is_there_gets_the_pipeline() {
    let Some((cluster, mut client)) = with_pgvector("a database with pgvector's data") else { return };
    client.batch_execute(DOCS).unwrap();
    client.batch_execute(PIPELINE).unwrap();
    let types = "SELECT pg_typeof(embed('x')), pg_typeof(embed(ARRAY['x'])), pg_typeof(embed_query('x'))";
    assert_eq!(rows(&mut client, types), [["vector", "vector[]", "vector"]]);
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_type WHERE typname = 'vector'"), "1");
    assert_pipeline(&mut client);
    assert_eq!(refused(&mut client, "DROP EXTENSION vector").sqlstate, "2BP01");

    // pgvector comes before pg_embed_pgvector, and both before what is made of them.
    let host = cluster.host().to_str().unwrap();
    let dump = cluster.host().join("dump.sql");
    let dump = dump.to_str().unwrap();
    cluster.run("pg_dump", &["-h", host, "-U", "postgres", "-f", dump, "postgres"]);
    client.batch_execute("CREATE DATABASE restored").unwrap();
    let stop = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump];
    cluster.run("psql", &[&["-h", host, "-U", "postgres", "-d", "restored"][..], &stop].concat());
    assert_pipeline(&mut cluster.connect_as("postgres", "restored"));

    client.batch_execute("DROP EXTENSION pg_embed_pgvector CASCADE").unwrap();
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "51");
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_class WHERE relname = 'docs_hnsw'"), "1");
}

/// The executor computes distances with pgvector's operators, which round in their own way.
#[test]
fn answers_of_every_metric_are_exact() {
    let Some((_cluster, mut client)) = with_pgvector("ivf on pgvector's type") else { return };
    client.batch_execute("CREATE EXTENSION pg_embed_pgvector").unwrap();
    for (number, dims) in [(1, 3), (2, 384), (3, 1000)] {
        let mut source = Clusters::new(70 + number, 20, dims);
        let mut vectors = source.vectors(2_000);
        // Rows that are equal, and others that hardly differ: rounding decides there.
        vectors.extend_from_within(..200);
        for vector in &mut vectors[1_000..1_200] {
            vector[0] = vector[0].next_up();
        }
        let table = format!("t{number}");
        make_table(&mut client, &table, &vectors);
        for metric in METRICS {
            for bits in [1, 4, 8] {
                make_index(&mut client, "i", &table, metric, &format!("lists = 20, bits = {bits}"));
                assert_sound(&mut client, "i", &table, metric, "true");
                client.batch_execute("DROP INDEX i").unwrap();
            }
        }
    }
    assert_eq!(
        rows(
            &mut client,
            "SELECT amvalidate(oid) FROM pg_opclass WHERE opcname LIKE 'vector_%'
        AND opcmethod = (SELECT oid FROM pg_am WHERE amname = 'ivf')"
        ),
        [["t"], ["t"], ["t"]]
    );
}

#[test]
fn in_schemas_of_their_own() {
    let Some((_cluster, mut client)) = with_pgvector("the extensions in other schemas") else { return };
    client
        .batch_execute(
            "CREATE SCHEMA types; ALTER EXTENSION vector SET SCHEMA types;
             CREATE SCHEMA embed; CREATE EXTENSION pg_embed_pgvector SCHEMA embed;
             CREATE TABLE docs (id int, body text, embedding types.vector(32));
             CREATE INDEX ON docs USING ivf (embedding embed.vector_cosine_ops);
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed.embed_trigger('embedding', 'default', 'body');
             SET search_path = '';
             INSERT INTO public.docs VALUES (1, 'hello world'), (2, 'the quick brown fox');
             CREATE SCHEMA other; ALTER EXTENSION pg_embed_pgvector SET SCHEMA other;
             ALTER EXTENSION vector SET SCHEMA public;
             INSERT INTO public.docs VALUES (3, 'another text')",
        )
        .unwrap();
    let search = "SELECT id FROM public.docs
                  ORDER BY embedding OPERATOR(public.<=>) other.embed('another text') LIMIT 1";
    assert_eq!(rows(&mut client, search), [["3"]]);
    client
        .batch_execute(
            "CREATE TABLE public.texts (id int PRIMARY KEY, body text,
                words tsvector GENERATED ALWAYS AS (to_tsvector('simple', body)) STORED);
             INSERT INTO public.texts VALUES (1, 'hello world'), (2, 'the quick brown fox');
             SELECT other.vectorizer_create('public.texts', '{body}', target => 'embedding', name => 'texts')",
        )
        .unwrap();
    client.batch_execute("CALL other.vectorizer_run()").unwrap();
    let found = "SELECT key, word_rank, distance IS NOT NULL FROM other.hybrid_search('texts', 'fox', 1, config => 'simple')";
    wait_until("the rows have vectors", || {
        rows(&mut client, found) == [["{2}".to_string(), "1".to_string(), "t".to_string()]]
    });
    // Types and operators of the same names in its schema are not pgvector's.
    client.batch_execute("DROP EXTENSION pg_embed_pgvector CASCADE; SET search_path = public").unwrap();
    for object in [
        "CREATE DOMAIN evil.vector AS bigint",
        "CREATE TABLE evil.vector (x int)",
        "CREATE FUNCTION evil.f(vector, vector) RETURNS float8 LANGUAGE sql RETURN 1;
         CREATE OPERATOR evil.<=> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = evil.f)",
    ] {
        client.batch_execute(&format!("CREATE SCHEMA evil; {object}")).unwrap();
        let refusal = refused(&mut client, "CREATE EXTENSION pg_embed_pgvector SCHEMA evil");
        assert!(
            refusal.message.starts_with("schema evil hides the type") || refusal.sqlstate == "42883",
            "{refusal:?}"
        );
        client.batch_execute("SET client_min_messages = warning; DROP SCHEMA evil CASCADE").unwrap();
    }
    client.batch_execute("CREATE EXTENSION pg_embed_pgvector SCHEMA other").unwrap();
    // Neither text nor a type of the same name is pgvector's.
    client
        .batch_execute(
            "CREATE SCHEMA mine; CREATE TYPE mine.vector AS (x int);
             CREATE TABLE public.wrong (body text, embedding mine.vector);
             CREATE TRIGGER t BEFORE INSERT ON public.wrong
               FOR EACH ROW EXECUTE FUNCTION other.embed_trigger('embedding', 'default', 'body')",
        )
        .unwrap();
    assert_eq!(refused(&mut client, "INSERT INTO public.wrong VALUES ('hello')").sqlstate, "42804");
}

#[test]
fn the_two_extensions_refuse_each_other() {
    let Some((cluster, mut client)) = with_pgvector("pg_embed and pg_embed_pgvector") else { return };
    let refusal = refused(&mut client, "CREATE EXTENSION pg_embed");
    assert_eq!(refusal.message, "there is a type \"vector\" in schema public already");
    assert!(refusal.hint.contains("CREATE EXTENSION pg_embed_pgvector"), "{refusal:?}");

    client.batch_execute("CREATE SCHEMA embed; CREATE EXTENSION pg_embed SCHEMA embed").unwrap();
    let refusal = refused(&mut client, "CREATE EXTENSION pg_embed_pgvector");
    assert_eq!(refusal.message, "pg_embed_pgvector and pg_embed cannot be in one database");
    assert!(refusal.hint.contains("DROP EXTENSION pg_embed first"), "{refusal:?}");

    client.batch_execute("DROP EXTENSION pg_embed; CREATE EXTENSION pg_embed_pgvector").unwrap();
    let refusal = refused(&mut client, "CREATE EXTENSION pg_embed SCHEMA embed");
    assert_eq!(refusal.message, "pg_embed and pg_embed_pgvector cannot be in one database");
    assert!(refusal.hint.contains("DROP EXTENSION pg_embed_pgvector first"), "{refusal:?}");

    // Without pgvector there is nothing to build on, and CASCADE brings it.
    client.batch_execute("CREATE DATABASE empty").unwrap();
    let mut client = cluster.connect_as("postgres", "empty");
    assert_eq!(refused(&mut client, "CREATE EXTENSION pg_embed_pgvector").sqlstate, "42704");
    client
        .batch_execute("SET client_min_messages = warning; CREATE EXTENSION pg_embed_pgvector CASCADE")
        .unwrap();
    assert_eq!(value(&mut client, "SELECT vector_dims(embed('x'))"), "32");
}
