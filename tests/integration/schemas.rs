//! The extension in a schema that is not on the search_path, moved, dropped, and beside another type named vector.

use crate::cluster::{Cluster, refused, rows, value};

#[test]
fn in_a_schema_off_the_search_path() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE SCHEMA embed; CREATE EXTENSION pg_embed SCHEMA embed;
             CREATE TABLE docs (id int, body text, embedding embed.vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed.embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs VALUES (1, 'hello world');
             SET search_path = '';
             INSERT INTO public.docs VALUES (2, 'the quick brown fox')",
        )
        .unwrap();
    let search = "SELECT id FROM public.docs
                  ORDER BY embedding OPERATOR(embed.<=>) embed.embed('the quick brown fox') LIMIT 1";
    assert_eq!(rows(&mut client, search), [["2"]]);
    let names = ["embed.embed('tiny-bert', 'x')", "embed.embed_query('x')", "(embed.embed(ARRAY['x']))[1]"];
    for name in names {
        assert_eq!(value(&mut client, &format!("SELECT embed.vector_dims({name})")), "32", "{name}");
    }
    assert_eq!(value(&mut client, "SELECT embed.token_count('the')"), "3");
    assert_eq!(value(&mut client, "SELECT count(*) FROM embed.embed_models()"), "5");
    assert_eq!(value(&mut client, "SELECT embed.avg(embedding) IS NULL FROM public.docs"), "f");
    let casts = "SELECT '[1,2]'::embed.vector::real[]::embed.vector OPERATOR(embed.=) '[1,2]'";
    assert_eq!(value(&mut client, casts), "t");
    assert_eq!(refused(&mut client, "SELECT embed('x')").sqlstate, "42883");
}

#[test]
fn moved_to_another_schema() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, body text, embedding vector(32),
               generated vector(32) GENERATED ALWAYS AS (embed('tiny-bert', body)) STORED);
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             CREATE INDEX ON docs (embedding);
             INSERT INTO docs VALUES (1, 'before');
             CREATE SCHEMA other; ALTER EXTENSION pg_embed SET SCHEMA other;
             INSERT INTO docs VALUES (2, 'after');
             UPDATE docs SET body = 'changed' WHERE id = 1",
        )
        .unwrap();
    let same = "SELECT id FROM docs WHERE embedding OPERATOR(other.=) other.embed(body)
                AND generated OPERATOR(other.=) embedding ORDER BY id";
    assert_eq!(rows(&mut client, same), [["1"], ["2"]]);
    assert_eq!(value(&mut client, "SELECT pg_typeof(other.embed(ARRAY['x']))"), "other.vector[]");
    assert_eq!(refused(&mut client, "SELECT embed('x')").sqlstate, "42883");
    // A session that begins now.
    let mut client = cluster.connect();
    client.batch_execute("INSERT INTO docs VALUES (3, 'new session')").unwrap();
    assert_eq!(rows(&mut client, same), [["1"], ["2"], ["3"]]);
}

#[test]
fn dropped_and_created_again() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs VALUES (1, 'hello')",
        )
        .unwrap();
    let vector = value(&mut client, "SELECT embedding FROM docs");
    assert_eq!(refused(&mut client, "DROP EXTENSION pg_embed").sqlstate, "2BP01");
    assert_eq!(value(&mut client, "SELECT embedding FROM docs"), vector);
    client.batch_execute("DROP EXTENSION pg_embed CASCADE").unwrap();
    assert_eq!(rows(&mut client, "SELECT * FROM docs"), [["1", "hello"]]);
    let left = "SELECT count(*) FROM pg_proc WHERE probin LIKE '%pg_embed%'";
    assert_eq!(value(&mut client, left), "0");
    client.batch_execute("INSERT INTO docs VALUES (2, 'no trigger'); CREATE EXTENSION pg_embed").unwrap();
    assert_eq!(value(&mut client, "SELECT embed('hello')"), vector);
    client
        .batch_execute(
            "ALTER TABLE docs ADD embedding vector(32);
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs VALUES (3, 'hello')",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT embedding FROM docs WHERE id = 3"), vector);
}

#[test]
fn beside_another_type_named_vector() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE SCHEMA embed; CREATE EXTENSION pg_embed SCHEMA embed;
             CREATE TYPE public.vector AS (x int);
             SET search_path = public, embed;
             CREATE TABLE wrong (body text, embedding vector);
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON wrong
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             CREATE TABLE good (body text, embedding embed.vector(32));
             CREATE TRIGGER t BEFORE INSERT OR UPDATE ON good
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO good VALUES ('hello')",
        )
        .unwrap();
    let refusal = refused(&mut client, "INSERT INTO wrong VALUES ('hello')");
    assert_eq!(refusal.sqlstate, "42804", "{refusal:?}");
    assert_eq!(value(&mut client, "SELECT count(*) FROM wrong"), "0");
    assert_eq!(value(&mut client, "SELECT embedding = embed('hello') FROM good"), "t");
    assert_eq!(value(&mut client, "SELECT pg_typeof(embed(ARRAY['x']))"), "embed.vector[]");
    assert_eq!(value(&mut client, "SELECT vector_dims((embed(ARRAY['x']))[1])"), "32");
}
