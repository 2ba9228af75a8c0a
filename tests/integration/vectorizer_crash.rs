//! Vectorizers whose workers, server, table, extension or database end in the middle of the work: it is done then, or in the queue
//! as it was.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::cluster::{Cluster, restarts, rows, signal, value, wait_for_recovery, wait_until};
use crate::vectorizer::wait_for;

const ROWS: usize = 20_000;
const PRELOADED: [&str; 1] = ["shared_preload_libraries = 'pg_embed'"];

/// A table with a column and with chunks that are kept in step, and rows that keep workers busy for seconds.
fn busy(cluster: &Cluster) -> Client {
    let mut client = cluster.client();
    client
        .batch_execute(&format!(
            "CREATE TABLE docs (id int PRIMARY KEY, body text, embedding vector(32));
             SELECT vectorizer_create('docs', '{{body}}', target => 'embedding');
             SELECT vectorizer_create('docs', '{{body}}', destination => 'docs_chunks');
             INSERT INTO docs SELECT i, 'text number ' || i FROM generate_series(1, {ROWS}) i"
        ))
        .unwrap();
    wait_until("the work has begun", || value(&mut client, "SELECT count(embedding) > 100 FROM docs") == "t");
    client
}

/// How many rows are done, and that the others are queued.
#[track_caller]
fn nothing_is_missing(client: &mut Client) -> i64 {
    let accounted = "SELECT count(*) FILTER (WHERE d.embedding IS NOT NULL),
            count(*) FILTER (WHERE d.embedding IS NULL AND q.key IS NULL),
            (SELECT count(*) FROM docs AS e WHERE NOT EXISTS (SELECT FROM docs_chunks AS c WHERE c.id = e.id)
                AND NOT EXISTS (SELECT FROM vectorizer_queue AS r WHERE r.vectorizer = 'docs_chunks' AND r.key = ARRAY[e.id::text]))
        FROM docs AS d LEFT JOIN vectorizer_queue AS q
            ON q.vectorizer = 'docs_embedding' AND q.key = ARRAY[d.id::text]";
    let found = rows(client, accounted).remove(0);
    assert_eq!(found[1..], ["0", "0"], "{found:?}");
    found[0].parse().unwrap()
}

#[track_caller]
fn all_is_done(client: &mut Client) {
    wait_for(client);
    let right = "SELECT count(*) FROM docs AS d JOIN docs_chunks AS c USING (id)
        WHERE d.embedding = embed(d.body) AND c.embedding = d.embedding AND c.content = d.body";
    assert_eq!(value(client, right), ROWS.to_string());
}

#[test]
fn a_worker_that_is_killed() {
    let cluster = Cluster::with_settings(&PRELOADED);
    let mut client = busy(&cluster);
    let worker: i32 = value(&mut client, "SELECT max(worker) FROM vectorizer_status").parse().unwrap();
    let before = restarts(&cluster);
    assert!(signal(worker, libc::SIGKILL));
    wait_for_recovery(&cluster, before);
    let mut client = cluster.connect();
    assert!(nothing_is_missing(&mut client) < ROWS as i64);
    all_is_done(&mut client);
}

#[test]
fn a_worker_that_is_terminated_is_followed_by_another_with_the_next_commit() {
    let cluster = Cluster::start();
    let mut client = busy(&cluster);
    client
        .batch_execute(
            "SELECT pg_terminate_backend(worker, 5000) FROM vectorizer_status WHERE worker IS NOT NULL",
        )
        .unwrap();
    nothing_is_missing(&mut client);
    wait_until("others have gone, too", || {
        client
            .batch_execute(
                "SELECT pg_terminate_backend(worker) FROM vectorizer_status WHERE worker IS NOT NULL",
            )
            .unwrap();
        value(&mut client, "SELECT count(worker) FROM vectorizer_status") == "0"
    });
    std::thread::sleep(Duration::from_secs(1));
    client.batch_execute("UPDATE docs SET body = body || '!' WHERE id = 1").unwrap();
    all_is_done(&mut client);
}

#[test]
fn a_server_that_is_killed() {
    let mut cluster = Cluster::with_settings(&PRELOADED);
    drop(busy(&cluster));
    for _ in 0..3 {
        cluster.kill();
        cluster.boot();
        let mut client = cluster.connect();
        nothing_is_missing(&mut client);
        std::thread::sleep(Duration::from_millis(300));
    }
    all_is_done(&mut cluster.connect());
}

#[test]
fn a_table_that_is_dropped() {
    let cluster = Cluster::start();
    let mut client = busy(&cluster);
    let start = Instant::now();
    client.batch_execute("DROP TABLE docs CASCADE").unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(rows(&mut client, "SELECT * FROM vectorizer_status").len(), 0);
    wait_until("the vectorizers are forgotten", || {
        value(&mut client, "SELECT (SELECT count(*) FROM vectorizer) + (SELECT count(*) FROM vectorizer_log)")
            == "0"
    });
    // Another one of the same name.
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT vectorizer_create('docs', '{body}', target => 'embedding'); INSERT INTO docs VALUES (1, 'new')",
        )
        .unwrap();
    wait_for(&mut client);
    assert_eq!(value(&mut client, "SELECT embedding = embed('new') FROM docs"), "t");
}

#[test]
fn an_extension_that_is_dropped() {
    let cluster = Cluster::start();
    let mut client = busy(&cluster);
    client.batch_execute("DROP EXTENSION pg_embed CASCADE").unwrap();
    let columns = "SELECT string_agg(attname, ',') FROM pg_attribute
        WHERE attrelid = 'docs'::regclass AND attnum > 0 AND NOT attisdropped";
    assert_eq!(value(&mut client, columns), "id,body");
    client.batch_execute("INSERT INTO docs VALUES (0, 'no trigger is left')").unwrap();
    wait_until("the workers leave", || {
        value(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_embed vectorizer'")
            == "0"
    });
    assert_eq!(restarts(&cluster), 0);
    client.batch_execute("CREATE EXTENSION pg_embed; DROP TABLE docs, docs_chunks").unwrap();
    drop(client);
    all_is_done(&mut busy(&cluster));
}

#[test]
fn a_database_that_is_dropped() {
    for settings in [&[][..], &PRELOADED] {
        let cluster = Cluster::with_settings(settings);
        let mut client = cluster.client();
        for (database, work, how) in [
            ("busy", 50_000, "DROP DATABASE busy"),
            ("forced", 50_000, "DROP DATABASE forced WITH (FORCE)"),
            ("idle", 10, "DROP DATABASE idle"),
        ] {
            client.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
            let mut inside = cluster.connect_as("postgres", database);
            inside
                .batch_execute(&format!(
                    "CREATE EXTENSION pg_embed;
                     CREATE TABLE docs (id int PRIMARY KEY, body text);
                     SELECT vectorizer_create('docs', '{{body}}', target => 'embedding');
                     INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, {work}) i"
                ))
                .unwrap();
            wait_until("the work has begun", || {
                value(&mut inside, "SELECT count(embedding) > 5 FROM docs") == "t"
            });
            drop(inside);
            let start = Instant::now();
            client.batch_execute(how).unwrap();
            assert!(start.elapsed() < Duration::from_secs(6), "{how}: {:?}", start.elapsed());
        }
        assert_eq!(restarts(&cluster), 0);
    }
}

/// A server that restarts finds by itself what was left, in whatever database it is.
#[test]
fn what_was_left_is_found_after_a_restart() {
    let mut cluster = Cluster::with_settings(&PRELOADED);
    let mut client = cluster.client();
    client.batch_execute("CREATE DATABASE elsewhere").unwrap();
    let mut inside = cluster.connect_as("postgres", "elsewhere");
    inside
        .batch_execute(
            "CREATE EXTENSION pg_embed; CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT vectorizer_create('docs', '{body}', target => 'embedding');
             INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 30000) i",
        )
        .unwrap();
    cluster.stop("fast");
    cluster.boot();
    let mut inside = cluster.connect_as("postgres", "elsewhere");
    wait_for(&mut inside);
    assert_eq!(value(&mut inside, "SELECT count(embedding) FROM docs"), "30000");
}

#[test]
fn dump_and_restore() {
    let cluster = Cluster::with_settings(&["pg_embed.max_workers = 0"]);
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE SCHEMA ext; DROP EXTENSION pg_embed; CREATE EXTENSION pg_embed SCHEMA ext;
             CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT ext.vectorizer_create('docs', '{body}', target => 'embedding');
             SELECT ext.vectorizer_create('docs', '{body}', destination => 'docs_chunks');
             INSERT INTO docs VALUES (1, 'done')",
        )
        .unwrap();
    client.batch_execute("CALL ext.vectorizer_run()").unwrap();
    client.batch_execute("INSERT INTO docs VALUES (2, 'waits')").unwrap();
    let host = cluster.host().to_str().unwrap();
    let file = cluster.host().join("dump");
    let file = file.to_str().unwrap();
    cluster.run("pg_dump", &["-h", host, "-U", "postgres", "-d", "postgres", "-Fc", "-f", file]);
    client.batch_execute("CREATE DATABASE restored").unwrap();
    cluster.run("pg_restore", &["-h", host, "-U", "postgres", "-d", "restored", "-e", file]);
    let mut restored = cluster.connect_as("postgres", "restored");
    let status = "SELECT name, rows, embedded, pending FROM ext.vectorizer_status ORDER BY name";
    let waits = [["docs_chunks", "2", "1", "1"], ["docs_embedding", "2", "1", "1"]];
    assert_eq!(rows(&mut restored, status), waits);
    restored.batch_execute("INSERT INTO docs VALUES (3, 'new')").unwrap();
    restored.batch_execute("CALL ext.vectorizer_run()").unwrap();
    restored.batch_execute("SELECT ext.vectorizer_create('docs', '{body}', target => 'other')").unwrap();
    let done =
        [["docs_chunks", "3", "3", "0"], ["docs_embedding", "3", "3", "0"], ["docs_other", "3", "0", "3"]];
    assert_eq!(rows(&mut restored, status), done);
    // Without the extension's own rows the triggers are of no vectorizer, and hold up nobody.
    client.batch_execute("CREATE DATABASE schema_only").unwrap();
    let schema = cluster.host().join("schema");
    let schema = schema.to_str().unwrap();
    cluster.run("pg_dump", &["-h", host, "-U", "postgres", "-d", "postgres", "-s", "-f", schema]);
    cluster.run(
        "psql",
        &["-Xq", "-h", host, "-U", "postgres", "-d", "schema_only", "-v", "ON_ERROR_STOP=1", "-f", schema],
    );
    let mut schema_only = cluster.connect_as("postgres", "schema_only");
    schema_only
        .batch_execute("INSERT INTO docs VALUES (1, 'x'); UPDATE docs SET body = 'y'; TRUNCATE docs CASCADE")
        .unwrap();
    assert_eq!(value(&mut schema_only, "SELECT count(*) FROM ext.vectorizer_log"), "0");
}
