//! Vectorizers: what they keep in step, by workers and by hand.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::backend::Backend;
use crate::cluster::{Cluster, duration, refused, rows, value, wait_until};

const DOCS: &str =
    "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, note text, embedding vector(32));
    SELECT vectorizer_create('docs', '{title,body}', target => 'embedding')";

/// Rows whose vector is not that of their text.
const WRONG: &str = "SELECT count(*) FROM docs
    WHERE embedding IS DISTINCT FROM embed(concat_ws(E'\\n', title, body))";

/// Likewise for the table of chunks: those that it has and should not, and the other way round.
const WRONG_CHUNKS: &str = "WITH should AS (
        SELECT d.id, c.ordinal, c.content, c.start_offset, c.end_offset, embed(c.content) AS embedding
        FROM docs AS d, chunk(concat_ws(E'\\n', d.title, d.body), 20, 4) AS c)
    SELECT count(*) FROM (
        (TABLE should EXCEPT TABLE docs_chunks) UNION ALL (TABLE docs_chunks EXCEPT TABLE should)) AS wrong";

/// A cluster where vectorizers run only by hand.
pub fn without_workers() -> (Cluster, Client) {
    let cluster = Cluster::with_settings(&["pg_embed.max_workers = 0"]);
    let client = cluster.client();
    (cluster, client)
}

fn pending(client: &mut Client) -> String {
    value(client, "SELECT sum(pending) FROM vectorizer_status")
}

/// Waits until nothing is queued.
#[track_caller]
pub fn wait_for(client: &mut Client) {
    wait_until("the queue is empty", || pending(client) == "0");
}

pub fn run(client: &mut Client) {
    client.batch_execute("CALL vectorizer_run()").unwrap();
}

#[test]
fn a_column_is_in_step_after_every_kind_of_statement() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    let queued = |client: &mut Client| {
        let keys = value(
            client,
            "SELECT coalesce(string_agg(key[1], ',' ORDER BY key[1]::int), '') FROM vectorizer_queue",
        );
        run(client);
        assert_eq!(value(client, WRONG), "0");
        assert_eq!(pending(client), "0");
        keys
    };
    for (statement, keys) in [
        ("INSERT INTO docs (id, title, body) SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 5) i", "1,2,3,4,5"),
        ("COPY docs (id, title) FROM PROGRAM 'printf \"6\\tsix\\n7\\tseven\\n\"'", "6,7"),
        // Nothing to embed, and a vector of the statement's own.
        ("INSERT INTO docs (id, note) VALUES (8, 'no text')", ""),
        ("INSERT INTO docs (id, title, embedding) VALUES (9, 'nine', embed('nine'))", ""),
        ("UPDATE docs SET note = 'other'", ""),
        ("UPDATE docs SET title = title, body = body", ""),
        ("UPDATE docs SET title = 'changed' WHERE id IN (1, 3)", "1,3"),
        ("UPDATE docs SET title = 'changed' WHERE id IN (1, 3)", ""),
        ("UPDATE docs SET embedding = NULL WHERE id = 2", "2"),
        ("UPDATE docs SET title = NULL, body = ' ' WHERE id = 4", "4"),
        ("UPDATE docs SET id = 50 WHERE id = 5", "50"),
        ("INSERT INTO docs (id, title) VALUES (70, 'x'); UPDATE docs SET id = 71 WHERE id = 70", "70,71"),
        ("UPDATE docs SET id = 51, title = 'moved' WHERE id = 50", "51"),
        (
            "INSERT INTO docs (id, title) VALUES (6, 'again'), (10, 'ten')
             ON CONFLICT (id) DO UPDATE SET title = excluded.title",
            "6,10",
        ),
        ("INSERT INTO docs (id, title) VALUES (6, 'again') ON CONFLICT (id) DO UPDATE SET title = excluded.title", ""),
        (
            "MERGE INTO docs USING (VALUES (7, 'merged'), (11, 'eleven')) AS v (id, t) ON docs.id = v.id
             WHEN MATCHED THEN UPDATE SET title = v.t WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.t)",
            "7,11",
        ),
        ("DELETE FROM docs WHERE id = 11", ""),
        ("BEGIN; UPDATE docs SET title = 'rolled back'; ROLLBACK", ""),
        // Once, however often it changed.
        ("UPDATE docs SET title = 'a' WHERE id = 1; UPDATE docs SET title = 'b' WHERE id = 1", "1"),
        ("INSERT INTO docs (id, title) SELECT i, 'many ' || i FROM generate_series(100, 101) i; TRUNCATE docs", ""),
    ] {
        client.batch_execute(statement).unwrap();
        assert_eq!(queued(&mut client), keys, "{statement}");
    }
    // What is there already.
    client.batch_execute("SELECT vectorizer_drop('docs_embedding'); INSERT INTO docs (id, title) VALUES (1, 'old'), (2, '')").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), "0");
    client.batch_execute("SELECT vectorizer_create('docs', '{title}', target => 'embedding', name => 'mine', backfill => false)").unwrap();
    assert_eq!(queued_of(&mut client), "0");
    client.batch_execute("SELECT vectorizer_drop('mine'); SELECT vectorizer_create('docs', '{title}', target => 'embedding')").unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

fn queued_of(client: &mut Client) -> String {
    value(client, "SELECT count(*) FROM vectorizer_queue")
}

#[test]
fn chunks_are_in_step_after_every_kind_of_statement() {
    let (_cluster, mut client) = without_workers();
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, title text, body text);
             INSERT INTO docs SELECT i, 'title ' || i, repeat('a sentence of document ' || i || '. ', i)
                FROM generate_series(0, 30) i;
             SELECT vectorizer_create('docs', '{title,body}', destination => 'docs_chunks',
                chunk => '{\"max_tokens\": 20, \"overlap\": 4}')",
        )
        .unwrap();
    let check = |client: &mut Client| {
        run(client);
        assert_eq!(value(client, WRONG_CHUNKS), "0");
        assert_eq!(pending(client), "0");
    };
    check(&mut client);
    assert!(value(&mut client, "SELECT count(*) FROM docs_chunks").parse::<i32>().unwrap() > 100);
    let shown = "SELECT bool_and(substr(concat_ws(E'\\n', title, body), start_offset, end_offset - start_offset) = content)
        FROM docs_chunks_view";
    assert_eq!(value(&mut client, shown), "t");
    for statement in [
        "UPDATE docs SET body = 'short now' WHERE id = 30",
        "UPDATE docs SET body = body || ' More of it. And more.' WHERE id < 10",
        "UPDATE docs SET title = NULL, body = '' WHERE id = 11",
        "DELETE FROM docs WHERE id = 12",
        "UPDATE docs SET id = 100 + id WHERE id = 13",
        "UPDATE docs SET id = 100 + id, title = 'moved' WHERE id = 14",
        "INSERT INTO docs VALUES (200, 'new', repeat('word ', 300))",
        "TRUNCATE docs CASCADE",
        "INSERT INTO docs VALUES (1, 'after', 'all')",
    ] {
        client.batch_execute(statement).unwrap();
        check(&mut client);
    }
    let status = "SELECT state, rows, embedded, pending, failed, of_other_models FROM vectorizer_status";
    assert_eq!(rows(&mut client, status), [["in step", "1", "1", "0", "0", "0"]]);
    client.batch_execute("SELECT vectorizer_drop('docs_chunks', drop_destination => true)").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_class WHERE relname ~ 'docs_'"), "1");
}

#[test]
fn rows_of_partitions_and_children_are_seen_whoever_writes_them() {
    let (_cluster, mut client) = without_workers();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, title text, body text, embedding vector(32), PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (100);
             SELECT vectorizer_create('docs', '{title}', target => 'embedding');
             CREATE TABLE high PARTITION OF docs FOR VALUES FROM (100) TO (200);
             CREATE TABLE later (LIKE docs INCLUDING ALL);
             INSERT INTO docs SELECT i, 'by the parent ' || i FROM generate_series(90, 110) i;
             INSERT INTO low (id, title) VALUES (1, 'into a partition');
             INSERT INTO high (id, title) VALUES (150, 'into a newer one')",
        )
        .unwrap();
    assert_eq!(queued_of(&mut client), "23");
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    client
        .batch_execute(
            "ALTER TABLE docs ATTACH PARTITION later FOR VALUES FROM (200) TO (300);
             UPDATE docs SET id = 250, title = 'into another' WHERE id = 1;
             UPDATE high SET title = 'changed' WHERE id = 150;
             INSERT INTO later (id, title) VALUES (251, 'attached')",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "24");
    // A child by inheritance that has one of its own.
    client
        .batch_execute(
            "CREATE TABLE parent (id int, title text, embedding vector(32));
             CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
             SELECT vectorizer_create('child', '{title}', target => 'embedding');
             INSERT INTO child VALUES (1, 'x'); UPDATE parent SET title = 'by the parent'",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, "SELECT embedding = embed('by the parent') FROM child"), "t");
}

#[test]
fn rows_that_cannot_be_embedded_do_not_stand_in_the_way() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.title ~ 'poison' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'P0042'; END IF;
                RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION refuse();
             INSERT INTO docs (id, title)
                SELECT i, CASE WHEN i % 500 = 250 THEN 'poison ' ELSE 'good ' END || i FROM generate_series(1, 10000) i",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "9980");
    let errors = "SELECT count(*), min(sqlstate), max(sqlstate), min(message), min(attempts), count(retry_at) FROM vectorizer_error";
    assert_eq!(rows(&mut client, errors), [["20", "P0042", "P0042", "not this one", "1", "20"]]);
    let status = "SELECT state, embedded, pending, failed, last_error, last_sqlstate FROM vectorizer_status";
    assert_eq!(rows(&mut client, status), [["waiting", "9980", "20", "0", "not this one", "P0042"]]);
    // They are tried again, less and less often, and then no more.
    for attempts in 2..=6 {
        client.batch_execute("UPDATE vectorizer_failure SET not_before = '-infinity'").unwrap();
        run(&mut client);
        let retry = if attempts < 6 { "20" } else { "0" };
        assert_eq!(
            rows(&mut client, errors),
            [["20", "P0042", "P0042", "not this one", &attempts.to_string(), retry]]
        );
    }
    assert_eq!(rows(&mut client, status), [["in step", "9980", "0", "20", "not this one", "P0042"]]);
    // Another text, or whoever has mended it, gives them another chance.
    client
        .batch_execute(
            "ALTER TABLE docs DISABLE TRIGGER refuse; UPDATE docs SET title = 'cured' WHERE id = 250",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, "SELECT failed FROM vectorizer_status"), "19");
    assert_eq!(value(&mut client, "SELECT vectorizer_retry('docs_embedding')"), "19");
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, "SELECT failed FROM vectorizer_status"), "0");
}

#[test]
fn what_stops_all_rows_is_said_and_holds_up_no_writer() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client.batch_execute("CREATE TABLE vectorizer_hash AS SELECT model_hash FROM vectorizer").unwrap();
    let mut fails = |change: &str, undo: &str, sqlstate: &str| {
        client.batch_execute(change).unwrap();
        client
            .batch_execute("INSERT INTO docs (id, title) SELECT coalesce(max(id), 0) + 1, 'text' FROM docs")
            .unwrap();
        assert_eq!(refused(&mut client, "CALL vectorizer_run()").sqlstate, sqlstate, "{change}");
        let status = rows(&mut client, "SELECT state, pending, last_sqlstate FROM vectorizer_status");
        assert_eq!(status, [["failing", "1", sqlstate]], "{change}");
        client.batch_execute(undo).unwrap();
        run(&mut client);
        assert_eq!(value(&mut client, "SELECT state FROM vectorizer_status"), "in step");
        assert_eq!(value(&mut client, WRONG), "0");
    };
    fails("ALTER TABLE docs RENAME body TO text", "ALTER TABLE docs RENAME text TO body", "42703");
    fails("ALTER TABLE docs RENAME embedding TO v", "ALTER TABLE docs RENAME v TO embedding", "42703");
    fails(
        "UPDATE vectorizer SET model = 'no-such-model'",
        "UPDATE vectorizer SET model = 'tiny-bert'",
        "42704",
    );
    fails(
        "UPDATE vectorizer SET model_hash = 'another'",
        "UPDATE vectorizer SET model_hash = (SELECT model_hash FROM vectorizer_hash)",
        "55000",
    );
}

#[test]
fn workers_come_by_themselves_and_sleep_when_there_is_nothing_to_do() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute("INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 3000) i")
        .unwrap();
    wait_for(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    // One that is awake is told at once.
    let mut slowest = Duration::ZERO;
    for id in 10_000..10_020 {
        let start = Instant::now();
        client.batch_execute(&format!("INSERT INTO docs (id, title) VALUES ({id}, 'one more')")).unwrap();
        wait_until("it is embedded", || {
            value(&mut client, &format!("SELECT embedding IS NOT NULL FROM docs WHERE id = {id}")) == "t"
        });
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let pid = value(&mut client, "SELECT worker FROM vectorizer_status").parse().unwrap();
    let worker = Backend { pid };
    std::thread::sleep(Duration::from_millis(500));
    let before = worker.cpu();
    std::thread::sleep(Duration::from_secs(5));
    let spent = worker.cpu() - before;
    assert!(spent <= Duration::from_millis(20), "{spent:?} in five seconds without work");
}

/// The trigger compares values of whatever type a column has become.
#[test]
fn a_source_that_becomes_another_type_does_no_harm() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    for kind in ["int", "bigint", "float8", "name", "numeric", "uuid", "text[]"] {
        client
            .batch_execute(&format!(
                "ALTER TABLE docs DROP body; ALTER TABLE docs ADD body {kind};
                 INSERT INTO docs (id, title) VALUES (1, 'x') ON CONFLICT DO NOTHING"
            ))
            .unwrap();
        let value_of = match kind {
            "uuid" => "gen_random_uuid()".to_string(),
            "text[]" => "ARRAY['a', random()::text]".to_string(),
            _ => format!("'7'::text::{kind}"),
        };
        client.batch_execute(&format!("UPDATE docs SET body = {value_of}")).unwrap();
        client.batch_execute("UPDATE docs SET body = body").unwrap();
        client.batch_execute("UPDATE docs SET body = NULL").unwrap();
    }
    assert_eq!(refused(&mut client, "CALL vectorizer_run()").sqlstate, "42804");
    client.batch_execute("ALTER TABLE docs ALTER body TYPE text").unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

/// Every change finds its way, whatever writers, workers and calls by hand do at the same time.
#[test]
fn nothing_is_lost_while_all_write_at_once() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute(
            "SELECT vectorizer_create('docs', '{title,body}', destination => 'docs_chunks',
                chunk => '{\"max_tokens\": 20, \"overlap\": 4}', name => 'chunks');
             INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 2000) i",
        )
        .unwrap();
    let deadline = Instant::now() + duration(8);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let mut client = cluster.connect();
            scope.spawn(move || {
                let mut i = 0_u32;
                while Instant::now() < deadline {
                    i += 1;
                    let id = (i * 7919 + writer * 131) % 2200;
                    let statement = match i % 7 {
                        0 => format!("DELETE FROM docs WHERE id = {id}"),
                        1 | 2 => format!(
                            "INSERT INTO docs (id, title, body) VALUES ({id}, 'new {i}', 'of writer {writer}')
                             ON CONFLICT (id) DO UPDATE SET title = excluded.title"
                        ),
                        3 => format!("UPDATE docs SET note = 'unrelated {i}' WHERE id BETWEEN {id} AND {id} + 20"),
                        4 => format!("BEGIN; UPDATE docs SET body = 'gone' WHERE id = {id}; ROLLBACK"),
                        5 => format!("BEGIN; UPDATE docs SET body = 'slow {i}' WHERE id = {id}; SELECT pg_sleep(0.02); COMMIT"),
                        _ => format!("UPDATE docs SET body = repeat('changed {i} ', {i} % 9) WHERE id = {id}"),
                    };
                    client.batch_execute(&statement).unwrap();
                }
            });
        }
        let mut by_hand = cluster.connect();
        scope.spawn(move || {
            while Instant::now() < deadline {
                by_hand.batch_execute("CALL vectorizer_run(max_rows => 50)").unwrap();
            }
        });
    });
    wait_for(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_failure"), "0");
}

#[test]
fn a_paused_one_only_queues() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute(
            "SELECT vectorizer_pause('docs_embedding');
             INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 1000) i",
        )
        .unwrap();
    run(&mut client);
    std::thread::sleep(Duration::from_millis(500));
    let status = "SELECT state, embedded, pending FROM vectorizer_status";
    assert_eq!(rows(&mut client, status), [["paused", "0", "1000"]]);
    client.batch_execute("SELECT vectorizer_resume('docs_embedding')").unwrap();
    wait_for(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn by_hand_it_does_as_many_rows_as_it_is_told() {
    let (cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute("INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 1000) i")
        .unwrap();
    client.batch_execute("CALL vectorizer_run('docs_embedding', 300)").unwrap();
    assert_eq!(rows(&mut client, "SELECT embedded, pending FROM vectorizer_status"), [["300", "700"]]);
    assert_eq!(refused(&mut client, "SELECT 1; CALL vectorizer_run()").sqlstate, "25001");
    // Also where transactions are serializable by default.
    client.batch_execute("SET default_transaction_isolation = serializable").unwrap();
    let mut other = cluster.connect();
    std::thread::scope(|scope| {
        scope.spawn(|| run(&mut client));
        scope.spawn(|| run(&mut other));
    });
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

/// Whatever isolation level writers have, and whenever they began.
#[test]
fn writers_that_began_before_are_seen() {
    let (cluster, mut client) = without_workers();
    client
        .batch_execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text, embedding vector(32))")
        .unwrap();
    let mut early = cluster.connect();
    early.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM docs").unwrap();
    let mut late = cluster.connect();
    late.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1 FROM pg_class").unwrap();
    client.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'there')").unwrap();
    let creating = std::thread::spawn(move || {
        client
            .batch_execute(
                "SET default_transaction_isolation = 'repeatable read';
                 SELECT vectorizer_create('docs', '{title,body}', target => 'embedding')",
            )
            .unwrap();
        client
    });
    std::thread::sleep(Duration::from_millis(300));
    early.batch_execute("COMMIT").unwrap();
    let mut client = creating.join().unwrap();
    late.batch_execute("INSERT INTO docs (id, title) VALUES (2, 'late'); COMMIT").unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "2");
}

#[test]
fn a_row_that_somebody_has_locked_waits_for_its_turn() {
    let (cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute("INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 5) i")
        .unwrap();
    let mut other = cluster.connect();
    other.batch_execute("BEGIN; SELECT FROM docs WHERE id = 3 FOR UPDATE").unwrap();
    run(&mut client);
    assert_eq!(
        rows(&mut client, "SELECT embedded, pending, failed FROM vectorizer_status"),
        [["4", "1", "0"]]
    );
    other.batch_execute("COMMIT").unwrap();
    wait_until("its turn comes", || {
        run(&mut client);
        pending(&mut client) == "0"
    });
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn a_row_that_is_kept_from_being_written_is_not_called_done() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RETURN CASE WHEN NEW.id = 2 THEN NULL ELSE NEW END; END $$;
             CREATE TRIGGER keep BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION keep();
             CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON docs DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION keep();
             INSERT INTO docs (id, title) VALUES (1, 'one'), (2, 'two'), (3, 'three')",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(rows(&mut client, "SELECT embedded, pending FROM vectorizer_status"), [["2", "1"]]);
    assert_eq!(rows(&mut client, "SELECT key[1], sqlstate FROM vectorizer_error"), [["2", "09000"]]);
}

#[test]
fn more_databases_than_workers_all_get_their_turn() {
    let settings = ["shared_preload_libraries = 'pg_embed'", "pg_embed.max_workers = 1"];
    let cluster = Cluster::with_settings(&settings);
    let mut client = cluster.connect();
    let names = ["one", "two", "three", "four"];
    let mut clients: Vec<Client> = names
        .iter()
        .map(|name| {
            client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
            let mut client = cluster.connect_as("postgres", name);
            client.batch_execute("SET client_min_messages = warning; CREATE EXTENSION pg_embed").unwrap();
            client.batch_execute(DOCS).unwrap();
            client
        })
        .collect();
    for client in &mut clients {
        client
            .batch_execute(
                "INSERT INTO docs (id, title) SELECT i, 'text ' || i FROM generate_series(1, 20000) i",
            )
            .unwrap();
    }
    for client in &mut clients {
        wait_for(client);
        assert_eq!(value(client, "SELECT count(embedding) FROM docs"), "20000");
    }
}

#[test]
fn a_subscriber_embeds_what_arrives_if_it_is_told_to() {
    let publisher = Cluster::with_settings(&["wal_level = logical"]);
    let mut from = publisher.client();
    from.batch_execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, embedding vector(32));
         INSERT INTO docs VALUES (1, 'before'); CREATE PUBLICATION p FOR TABLE docs (id, title, body)",
    )
    .unwrap();
    let subscriber = Cluster::start();
    let mut to = subscriber.client();
    let connection = format!("host={} user=postgres dbname=postgres", publisher.host().display());
    to.batch_execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, embedding vector(32));
         SELECT vectorizer_create('docs', '{title,body}', target => 'embedding', replicated => true)",
    )
    .unwrap();
    to.batch_execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p")).unwrap();
    from.batch_execute(
        "INSERT INTO docs VALUES (2, 'after'); UPDATE docs SET title = 'changed' WHERE id = 1",
    )
    .unwrap();
    wait_until("the rows arrive and are embedded", || {
        value(&mut to, "SELECT count(embedding) = 2 AND bool_or(title = 'changed') FROM docs") == "t"
            && value(&mut to, WRONG) == "0"
    });
    to.batch_execute("DROP SUBSCRIPTION s").unwrap();
}

#[test]
fn nothing_runs_on_a_standby() {
    let cluster =
        Cluster::with_settings(&["shared_preload_libraries = 'pg_embed'", "pg_embed.max_workers = 0"]);
    let mut client = cluster.client();
    client.batch_execute(DOCS).unwrap();
    client.batch_execute("INSERT INTO docs (id, title) VALUES (1, 'waits')").unwrap();
    let standby = cluster.standby(&["pg_embed.max_workers = 2"]);
    let mut reader = standby.connect();
    assert_eq!(value(&mut reader, "SELECT pending FROM vectorizer_status"), "1");
    assert_eq!(refused(&mut reader, "CALL vectorizer_run()").sqlstate, "25006");
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_embed%'";
    assert_eq!(value(&mut reader, workers), "0");
    // Promoted, it does by itself what was left.
    reader.batch_execute("SELECT pg_promote()").unwrap();
    wait_for(&mut reader);
    assert_eq!(value(&mut reader, WRONG), "0");
}

/// A worker does nothing that the table's owner may not do.
#[test]
fn a_worker_has_the_rights_of_the_owner() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE other LOGIN;
             CREATE TABLE secret (t text); INSERT INTO secret VALUES ('hidden');
             GRANT CREATE ON SCHEMA public TO app",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, note text, embedding vector(32));
         CREATE TABLE seen (who text, path text);
         CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (current_user, current_setting('search_path'));
            PERFORM set_config('search_path', 'evil, public', false), pg_advisory_unlock_all();
            IF NEW.title = 'role' THEN EXECUTE 'RESET ROLE'; END IF;
            IF NEW.title = 'session' THEN EXECUTE 'RESET SESSION AUTHORIZATION'; EXECUTE 'SET ROLE postgres'; END IF;
            IF NEW.title = 'read' THEN NEW.note := (SELECT t FROM secret); END IF;
            IF NEW.title = 'queue' THEN DELETE FROM vectorizer_log; END IF;
            RETURN NEW; END $$;
         CREATE TRIGGER spy BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION spy();
         SELECT vectorizer_create('docs', '{title,body}', target => 'embedding');
         GRANT INSERT ON docs TO writer",
    )
    .unwrap();
    let mut writer = cluster.connect_as("writer", "postgres");
    writer
        .batch_execute(
            "INSERT INTO docs (id, title) VALUES (1, 'good'), (2, 'role'), (3, 'session'), (4, 'read'), (5, 'queue')",
        )
        .unwrap();
    wait_until("all have been looked at", || {
        value(&mut app, "SELECT embedded + (SELECT count(*) FROM vectorizer_error) FROM vectorizer_status")
            == "5"
    });
    // What its triggers set and unlock is forgotten with the batch.
    app.batch_execute("UPDATE docs SET title = 'again' WHERE id = 1").unwrap();
    wait_until("it is embedded again", || {
        value(&mut app, "SELECT embedding = embed('again') FROM docs WHERE id = 1") == "t"
    });
    let batches = "SELECT who, path FROM seen WHERE path !~ 'evil' GROUP BY 1, 2";
    assert_eq!(rows(&mut app, batches), [["app", "\"$user\", public"]]);
    assert_eq!(value(&mut client, "SELECT count(*) > 1 FROM seen WHERE path !~ 'evil'"), "t");
    let errors = rows(&mut app, "SELECT key[1], sqlstate FROM vectorizer_error ORDER BY key");
    assert_eq!(errors, [["2", "42501"], ["3", "42501"], ["4", "42501"], ["5", "42501"]]);
    assert_eq!(value(&mut app, "SELECT count(*) FROM docs WHERE note IS NOT NULL"), "0");

    // Who may only write sees nothing of it and can change nothing.
    for sql in [
        "SELECT * FROM vectorizer",
        "SELECT * FROM vectorizer_log",
        "SELECT * FROM vectorizer_failure",
        "SELECT * FROM vectorizer_queue",
        "SELECT * FROM vectorizer_activity",
        "SELECT * FROM docs",
        "DELETE FROM vectorizer_log",
        "INSERT INTO vectorizer_log (vectorizer, keys, key_columns) VALUES (1, '{1}', 1)",
        "UPDATE vectorizer SET model = 'x'",
        "SELECT vectorizer_drop('docs_embedding')",
        "SELECT vectorizer_pause('docs_embedding')",
        "SELECT vectorizer_resume('docs_embedding')",
        "SELECT vectorizer_retry('docs_embedding')",
        "CALL vectorizer_run('docs_embedding')",
        "SELECT vectorizer_create('docs', '{title}', target => 'embedding', name => 'x')",
        "CALL embed_backfill('docs', 'embedding', '{title}')",
    ] {
        assert_eq!(refused(&mut writer, sql).sqlstate, "42501", "{sql}");
    }
    for sql in ["SELECT * FROM vectorizer_status", "SELECT * FROM vectorizer_error"] {
        assert_eq!(rows(&mut writer, sql).len(), 0, "{sql}");
    }
    assert_eq!(rows(&mut writer, "SELECT * FROM vectorizer_coverage(1)"), [["NULL", "NULL", "NULL"]]);
    // Nor does somebody's trigger on a table of his own reach another's queue.
    client.batch_execute("GRANT CREATE ON SCHEMA public TO other").unwrap();
    let mut other = cluster.connect_as("other", "postgres");
    other
        .batch_execute(
            "CREATE TABLE bait (id int PRIMARY KEY, title text);
             CREATE TRIGGER t AFTER INSERT ON bait FOR EACH ROW EXECUTE FUNCTION vectorizer_enqueue('1', '', 'title');
             CREATE TRIGGER u AFTER TRUNCATE ON bait FOR EACH STATEMENT EXECUTE FUNCTION vectorizer_enqueue('1', '', 'title');
             INSERT INTO bait VALUES (99, 'x')",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_queue WHERE key = '{99}'"), "0");
    client
        .batch_execute(
            "UPDATE vectorizer SET paused = true; INSERT INTO docs (id, title) VALUES (7, 'stays')",
        )
        .unwrap();
    other.batch_execute("TRUNCATE bait").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_queue WHERE key = '{7}'"), "1");
}

/// Names that SQL has to quote, and objects that lie in wait for statements that name none of Postgres's schema.
#[test]
fn hostile_names_and_search_paths() {
    let (_cluster, mut client) = without_workers();
    client
        .batch_execute(
            r#"CREATE SCHEMA "Sch é""; DROP"; SET search_path = "Sch é""; DROP", public;
            CREATE TABLE "Dö'c$s" ("K 1" text, "k'2" timestamptz, "Bo""dy" text, content text, PRIMARY KEY ("K 1", "k'2"));
            INSERT INTO "Dö'c$s" VALUES ('a''b\c,{}"', '2020-01-02 03:04:05.678901+00', 'text', 'one'), ('', 'infinity', 'text', NULL);
            SELECT vectorizer_create('"Dö''c$s"', '{"Bo\"dy",content}', destination => '"Chünk''s"', name => 'ö''"');
            SELECT vectorizer_create('"Dö''c$s"', '{"Bo\"dy"}', target => 'V "e');
            CREATE SCHEMA evil;
            CREATE FUNCTION evil.spring() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'sprung'; END $$;
            CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.spring() IS NULL';
            CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
            CREATE FUNCTION evil.eq(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT evil.spring() IS NULL';
            CREATE OPERATOR evil.= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.eq);
            CREATE FUNCTION evil.eq(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT evil.spring() IS NULL';
            CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.eq);
            CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql AS 'SELECT evil.spring(); SELECT $1[1]';
            CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.spring(); SELECT now()';
            CREATE FUNCTION evil.concat_ws(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.spring(); SELECT $1';
            CREATE FUNCTION evil.concat_ws(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.spring(); SELECT $1';
            CREATE TABLE evil.vectorizer_log (x int); CREATE TABLE evil.vectorizer (x int);
            SET search_path = evil, pg_catalog, "Sch é""; DROP", public;
            SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo';
            UPDATE "Dö'c$s" SET content = 'two'"#,
        )
        .unwrap();
    run(&mut client);
    client
        .batch_execute(r#"INSERT INTO "Dö'c$s" VALUES ('c', now(), 'text', 'three'); SET timezone = 'UTC'"#)
        .unwrap();
    run(&mut client);
    client.batch_execute(r#"UPDATE "Dö'c$s" SET "V ""e" = NULL"#).unwrap();
    client.batch_execute(r#"CALL embed_backfill('"Dö''c$s"', 'V "e', '{"Bo\"dy"}')"#).unwrap();
    run(&mut client);
    client.batch_execute(r#"SET search_path = "Sch é""; DROP", public"#).unwrap();
    assert_eq!(value(&mut client, r#"SELECT count(*) FROM "Dö'c$s" WHERE "V ""e" = embed("Bo""dy")"#), "3");
    let chunks = r#"SELECT content, chunk_content, embedding = embed(chunk_content) FROM "Chünk's_view" ORDER BY content"#;
    assert_eq!(
        rows(&mut client, chunks),
        [["three", "text\nthree", "t"], ["two", "text\ntwo", "t"], ["two", "text\ntwo", "t"]]
    );
    assert_eq!(rows(&mut client, "SELECT pending, failed FROM vectorizer_status"), [["0", "0"], ["0", "0"]]);
    client.batch_execute(r#"SELECT vectorizer_drop('ö''"', true)"#).unwrap();
}

#[test]
fn a_small_work_mem_bounds_what_is_in_memory_at_once() {
    let (_cluster, mut client) = without_workers();
    client.batch_execute(DOCS).unwrap();
    client
        .batch_execute(
            "SET work_mem = '64kB';
             SELECT vectorizer_create('docs', '{body}', destination => 'docs_chunks', name => 'chunks');
             INSERT INTO docs (id, body) SELECT i, repeat('some words of ' || i || ' ', 3000) FROM generate_series(1, 20) i",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, "SELECT count(DISTINCT id) FROM docs_chunks"), "20");
    assert_eq!(pending(&mut client), "0");
}
