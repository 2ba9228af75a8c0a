//! `CALL embed_backfill(...)`: rows that are there already, by one session or several, to the end or not.

use std::time::Duration;

use postgres::Client;

use crate::cluster::{Cluster, refused, restarts, rows, value, wait_for_recovery, wait_until};

const CALL: &str = "CALL embed_backfill('docs', 'embedding', '{title,body}')";
const WRONG: &str = "SELECT count(*) FROM docs
    WHERE embedding IS DISTINCT FROM embed(concat_ws(E'\\n', title, body))";

fn with_rows(rows: usize) -> (Cluster, Client) {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(&format!(
            "CREATE TABLE docs (id int, title text, body varchar, embedding vector(32));
             INSERT INTO docs SELECT i, 'title ' || i, CASE WHEN i % 3 = 0 THEN NULL ELSE repeat('body ', i % 50) END
                FROM generate_series(1, {rows}) i;
             INSERT INTO docs VALUES (0, NULL, NULL), (-1, ' ', '')"
        ))
        .unwrap();
    (cluster, client)
}

#[test]
fn rows_without_a_vector_get_one() {
    let (_cluster, mut client) = with_rows(3000);
    client.batch_execute("UPDATE docs SET embedding = embed('mine') WHERE id = 5").unwrap();
    client
        .batch_execute("CALL embed_backfill('docs', 'embedding', '{title,body}', max_rows => 700)")
        .unwrap();
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "701");
    client
        .batch_execute("CALL embed_backfill('docs', 'embedding', '{title,body}', batch_size => 7)")
        .unwrap();
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "3000");
    assert_eq!(value(&mut client, "SELECT embedding = embed('mine') FROM docs WHERE id = 5"), "t");
    client.batch_execute("UPDATE docs SET embedding = NULL WHERE id = 5").unwrap();
    client
        .batch_execute(
            "SET default_transaction_isolation = serializable; SET search_path = pg_catalog, public",
        )
        .unwrap();
    client.batch_execute(CALL).unwrap();
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, "SELECT count(*) FROM embed_backfills"), "0");
}

#[test]
fn partitions_share_their_addresses() {
    let (_cluster, mut client) = with_rows(0);
    client
        .batch_execute(
            "DROP TABLE docs;
             CREATE TABLE docs (id int, title text, body text, embedding vector(32)) PARTITION BY LIST (id);
             CREATE TABLE a PARTITION OF docs FOR VALUES IN (0);
             CREATE TABLE b (note text, embedding vector(32), body text, title text, id int); ALTER TABLE b DROP note;
             ALTER TABLE docs ATTACH PARTITION b DEFAULT;
             INSERT INTO docs SELECT i % 2, 'title ' || i, 'body' FROM generate_series(1, 1000) i",
        )
        .unwrap();
    client.batch_execute(CALL).unwrap();
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn sessions_share_the_rows_and_others_write_meanwhile() {
    let (cluster, mut client) = with_rows(4000);
    client
        .batch_execute(
            "CREATE TABLE written (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF OLD.title = NEW.title THEN INSERT INTO written VALUES (NEW.id); END IF; RETURN NEW; END $$;
             CREATE TRIGGER note BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut client = cluster.connect();
            scope.spawn(move || client.batch_execute(CALL).unwrap());
        }
        let mut writer = cluster.connect();
        scope.spawn(move || {
            for id in 1..200 {
                writer
                    .batch_execute(&format!(
                        "UPDATE docs SET title = 'changed', embedding = NULL WHERE id = {id} * 20;
                         INSERT INTO docs (id, title) VALUES (10000 + {id}, 'new')"
                    ))
                    .unwrap();
            }
        });
    });
    client.batch_execute(CALL).unwrap();
    assert_eq!(value(&mut client, WRONG), "0");
    let twice = "SELECT count(*) FROM (SELECT id FROM written WHERE id <= 4000 AND id % 20 > 0 GROUP BY id HAVING count(*) > 1) AS t";
    assert_eq!(value(&mut client, twice), "0");
}

#[test]
fn it_can_be_ended_and_goes_on_where_it_was() {
    let (cluster, mut client) = with_rows(60_000);
    let done = "SELECT count(embedding) FROM docs";
    let mut calling = cluster.connect();
    let cancel = calling.cancel_token();
    let call = std::thread::spawn(move || calling.batch_execute(CALL).unwrap_err().code().cloned());
    wait_until("it has begun", || {
        value(&mut client, "SELECT count(*) FROM embed_progress WHERE rows_done > 0") == "1"
    });
    let progress = "SELECT relation, target, model, rows_total, rows_failed, rows_per_second > 0, time_left > '0' FROM embed_progress";
    assert_eq!(rows(&mut client, progress), [["docs", "embedding", "tiny-bert", "60001", "0", "t", "t"]]);
    client.batch_execute("CREATE ROLE stranger LOGIN").unwrap();
    let mut stranger = cluster.connect_as("stranger", "postgres");
    assert_eq!(value(&mut stranger, "SELECT count(*) FROM embed_progress"), "0");
    cancel.cancel_query(postgres::NoTls).unwrap();
    assert_eq!(call.join().unwrap().unwrap().code(), "57014");
    let cancelled: i64 = value(&mut client, done).parse().unwrap();
    assert!(0 < cancelled && cancelled < 60_000, "{cancelled}");
    assert_eq!(value(&mut client, "SELECT count(*) FROM embed_progress"), "0");
    // And by the end of its process.
    let mut calling = cluster.connect();
    let pid = value(&mut calling, "SELECT pg_backend_pid()").parse().unwrap();
    let call = std::thread::spawn(move || calling.batch_execute(CALL).is_err());
    wait_until("it goes on", || value(&mut client, done).parse::<i64>().unwrap() > cancelled);
    let before = restarts(&cluster);
    assert!(crate::cluster::signal(pid, libc::SIGKILL));
    assert!(call.join().unwrap());
    wait_for_recovery(&cluster, before);
    let mut client = cluster.connect();
    assert!(value(&mut client, done).parse::<i64>().unwrap() > cancelled);
    client.batch_execute(CALL).unwrap();
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn rows_that_cannot_be_written_do_not_stop_it() {
    let (_cluster, mut client) = with_rows(2000);
    client.batch_execute("ALTER TABLE docs ADD CHECK (id % 100 <> 7 OR embedding IS NULL)").unwrap();
    client.batch_execute(CALL).unwrap();
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "1980");
}

#[test]
fn a_user_embeds_what_he_may_update() {
    let (cluster, mut client) = with_rows(500);
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
             CREATE POLICY even ON docs TO app USING (id % 2 = 0)",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    for grant in ["SELECT (title, body, embedding)", "UPDATE (embedding)"] {
        assert_eq!(refused(&mut app, CALL).sqlstate, "42501");
        client.batch_execute(&format!("GRANT {grant} ON docs TO app")).unwrap();
    }
    assert_eq!(refused(&mut app, CALL).sqlstate, "42501");
    client.batch_execute("GRANT SELECT ON docs TO app").unwrap();
    app.batch_execute(CALL).unwrap();
    let filled = "SELECT count(embedding), count(embedding) FILTER (WHERE id % 2 = 1) FROM docs";
    assert_eq!(rows(&mut client, filled), [["250", "0"]]);
}

/// Memory does not grow with the rows.
#[test]
fn memory_stays_flat() {
    let (_cluster, mut client) = with_rows(60_000);
    client.batch_execute("SELECT embed('loads the model')").unwrap();
    let backend = crate::backend::Backend::of(&mut client);
    client
        .batch_execute("CALL embed_backfill('docs', 'embedding', '{title,body}', max_rows => 10000)")
        .unwrap();
    let before = backend.kilobytes("RssAnon");
    client.batch_execute(CALL).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let after = backend.kilobytes("RssAnon");
    assert!(after < before + 8192, "{before} kB, then {after} kB");
}
