//! Vectors that leave and come back: dumps, COPY, replication, crashes.

use postgres::Client;

use crate::backend::{Backend, endless_embedding};
use crate::cluster::{Cluster, restarts, rows, signal, value, wait_for_recovery, wait_until};

const DOCS: &str = "
    CREATE TABLE docs (
        id int PRIMARY KEY, body text, by_trigger vector(32), note text,
        generated vector(32) GENERATED ALWAYS AS (embed('tiny-bert', body)) STORED
    );
    CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
        FOR EACH ROW EXECUTE FUNCTION embed_trigger('by_trigger', 'tiny-bert', 'body');
    CREATE INDEX docs_expression ON docs ((embed('tiny-bert', body)) vector_ops);
    INSERT INTO docs SELECT i, 'text number ' || i FROM generate_series(1, 100) i;
    INSERT INTO docs VALUES (101, NULL), (102, ''), (103, 'set by hand');
    -- What a trigger would compute again must survive as it is.
    UPDATE docs SET by_trigger = generated * generated, note = 'by hand' WHERE id = 103;";

fn contents(client: &mut Client) -> Vec<Vec<String>> {
    rows(client, "SELECT id, body, by_trigger, note, generated FROM docs ORDER BY id")
}

#[test]
fn dump_and_restore() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    let original = contents(&mut client);
    assert_eq!(original.len(), 103);
    assert_ne!(original[102][2], original[102][4]);
    let host = cluster.host().to_str().unwrap();
    let connection = |database| ["-h", host, "-U", "postgres", "-d", database];
    let (plain, custom) = (cluster.host().join("dump.sql"), cluster.host().join("dump.custom"));
    let (plain, custom) = (plain.to_str().unwrap(), custom.to_str().unwrap());
    cluster.run("pg_dump", &[&connection("postgres")[..], &["-f", plain]].concat());
    cluster.run("pg_dump", &[&connection("postgres")[..], &["-Fc", "-f", custom]].concat());
    client.batch_execute("CREATE DATABASE from_plain").unwrap();
    client.batch_execute("CREATE DATABASE from_custom").unwrap();
    let stop = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", plain];
    cluster.run("psql", &[&connection("from_plain")[..], &stop].concat());
    cluster.run("pg_restore", &[&connection("from_custom")[..], &["-e", "-j", "2", custom]].concat());

    for database in ["from_plain", "from_custom"] {
        let mut restored = cluster.connect_as("postgres", database);
        assert_eq!(contents(&mut restored), original, "{database}");
        // The index answers, and the trigger and the generated column go on.
        restored.batch_execute("SET enable_seqscan = off").unwrap();
        let search =
            "SELECT id FROM docs WHERE embed('tiny-bert', body) = embed('tiny-bert', 'text number 7')";
        let plan = rows(&mut restored, &format!("EXPLAIN {search}")).concat().join("\n");
        assert!(plan.contains("docs_expression"), "{plan}");
        assert_eq!(rows(&mut restored, search), [["7"]]);
        restored.batch_execute("INSERT INTO docs VALUES (200, 'new')").unwrap();
        let same = "SELECT by_trigger = embed('new') AND generated = embed('new') FROM docs WHERE id = 200";
        assert_eq!(value(&mut restored, same), "t");
    }
}

#[test]
fn copy_keeps_every_bit() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE v (id int, embedding vector, list vector[]);
             INSERT INTO v SELECT i, embed('text ' || i), embed(ARRAY['a' || i, NULL, 'b' || i])
               FROM generate_series(1, 50) i;
             INSERT INTO v VALUES (51, NULL, NULL), (52, '[1e-45,3.4028235e38,-0]', '{}')",
        )
        .unwrap();
    for format in ["text", "csv", "binary"] {
        let file = cluster.host().join(format);
        client
            .batch_execute(&format!(
                "COPY v TO '{0}' (FORMAT {format}); CREATE TABLE {format}_copy (LIKE v);
                 COPY {format}_copy FROM '{0}' (FORMAT {format})",
                file.display()
            ))
            .unwrap();
        let bits = |table: &str| {
            format!(
                "SELECT id, vector_send(embedding), array_send(list), embedding, list FROM {table} ORDER BY id"
            )
        };
        let copied = rows(&mut client, &bits(&format!("{format}_copy")));
        assert_eq!(copied.len(), 52);
        assert_eq!(copied, rows(&mut client, &bits("v")), "{format}");
    }
}

#[test]
fn logical_replication() {
    let publisher = Cluster::with_settings(&["wal_level = logical"]);
    let subscriber = Cluster::start();
    let (mut from, mut to) = (publisher.client(), subscriber.client());
    from.batch_execute(DOCS).unwrap();
    // A generated column is not replicated: the subscriber computes it, or stores what it likes.
    to.batch_execute("CREATE TABLE docs (id int PRIMARY KEY, body text, by_trigger vector(32), note text, generated vector)")
        .unwrap();
    from.batch_execute("CREATE PUBLICATION p FOR TABLE docs").unwrap();
    to.batch_execute(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={} user=postgres dbname=postgres' PUBLICATION p
           WITH (binary = true)",
        publisher.host().display()
    ))
    .unwrap();
    let sql = "SELECT id, body, vector_send(by_trigger), note FROM docs ORDER BY id";
    let arrived = |from: &mut Client, to: &mut Client, what: &str| {
        let expected = rows(from, sql);
        wait_until(what, || rows(to, sql) == expected);
    };
    arrived(&mut from, &mut to, "the initial copy");
    from.batch_execute(
        "INSERT INTO docs SELECT i, 'later ' || i FROM generate_series(1000, 1050) i;
         UPDATE docs SET body = 'changed ' || id WHERE id < 20;
         UPDATE docs SET note = 'the vector stays' WHERE id BETWEEN 20 AND 30;
         DELETE FROM docs WHERE id BETWEEN 40 AND 50",
    )
    .unwrap();
    arrived(&mut from, &mut to, "the changes");
    let same = "SELECT count(*) FROM docs WHERE by_trigger = embed('tiny-bert', body)";
    assert_eq!(value(&mut to, same), value(&mut from, same));
    assert_eq!(value(&mut from, "SELECT count(*) FROM docs"), "143");
}

/// The publisher knows nothing of vectors; a trigger fires for replicated rows where it is told to.
#[test]
fn a_subscriber_that_embeds() {
    let publisher = Cluster::with_settings(&["wal_level = logical"]);
    let subscriber = Cluster::start();
    let (mut from, mut to) = (publisher.connect(), subscriber.client());
    from.batch_execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text);
         INSERT INTO docs SELECT i, 'text number ' || i FROM generate_series(1, 100) i;
         CREATE PUBLICATION p FOR TABLE docs",
    )
    .unwrap();
    to.batch_execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector(32));
         CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
             FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'tiny-bert', 'body');
         ALTER TABLE docs ENABLE ALWAYS TRIGGER docs_embed;
         CREATE INDEX ON docs USING ivf (embedding vector_cosine_ops)",
    )
    .unwrap();
    to.batch_execute(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={} user=postgres dbname=postgres' PUBLICATION p",
        publisher.host().display()
    ))
    .unwrap();
    let arrived = |from: &mut Client, to: &mut Client, what: &str| {
        let texts = "SELECT id, body FROM docs ORDER BY id";
        let expected = rows(from, texts);
        wait_until(what, || rows(to, texts) == expected);
        let right = "SELECT bool_and(embedding = embed('tiny-bert', body)) FROM docs";
        assert_eq!(value(to, right), "t", "{what}");
    };
    arrived(&mut from, &mut to, "the initial copy");
    from.batch_execute(
        "INSERT INTO docs SELECT i, 'later ' || i FROM generate_series(1000, 1050) i;
         UPDATE docs SET body = 'changed ' || id WHERE id < 20;
         DELETE FROM docs WHERE id BETWEEN 40 AND 50",
    )
    .unwrap();
    arrived(&mut from, &mut to, "the changes");
    to.batch_execute("SET enable_seqscan = off").unwrap();
    let nearest = "SELECT id FROM docs ORDER BY embedding <=> embed('tiny-bert', 'changed 7') LIMIT 1";
    assert_eq!(value(&mut to, nearest), "7");
}

#[test]
fn a_backend_killed_while_embedding() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    let before = contents(&mut client);
    let sql =
        format!("BEGIN; UPDATE docs SET body = body || ' lost'; {}", endless_embedding(cluster.real_model()));
    let mut victim = cluster.connect();
    let backend = Backend::of(&mut victim);
    let start = backend.cpu();
    let statement = std::thread::spawn(move || victim.simple_query(&sql).map(|_| ()));
    wait_until("the statement computes", || backend.cpu() > start + std::time::Duration::from_millis(700));
    let restarts = restarts(&cluster);
    assert!(signal(backend.pid, libc::SIGKILL));
    statement.join().unwrap().expect_err("the server is gone");
    wait_for_recovery(&cluster, restarts);
    let mut client = cluster.connect();
    assert_eq!(contents(&mut client), before);
    client.batch_execute("INSERT INTO docs VALUES (200, 'after')").unwrap();
    let same = "SELECT by_trigger = embed('tiny-bert', 'after') FROM docs WHERE id = 200";
    assert_eq!(value(&mut client, same), "t");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}
