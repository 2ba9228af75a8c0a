//! Everything at once: nothing lost, nothing twice.

use std::time::Duration;

use postgres::Client;
use postgres::error::SqlState;

use crate::cluster::{Cluster, duration, refused, rows, value, wait_until};
use crate::ivf::{
    BY_INDEX, BY_WHOLE_INDEX, COSINE, Clusters, L2, assert_sound, copy, found, make_index, make_table,
    problems, search, text,
};
use crate::ivf_load::{self, DIMS, Load, assert_committed};

#[test]
fn everything_at_once() {
    let cluster = Cluster::with_settings(&["max_wal_size = 256MB", "shared_buffers = 4MB"]);
    let mut client = cluster.client();
    let anchors = 1_000;
    ivf_load::make_table(&mut client, anchors, L2, 10);
    let mut load = Load::start(&cluster, 3, 1);
    load.repeat(&cluster, |client| client.batch_execute("VACUUM t"));
    load.repeat(&cluster, ivf_load::train);
    load.repeat(&cluster, |client| {
        std::thread::sleep(Duration::from_millis(200));
        match client.batch_execute("REINDEX INDEX CONCURRENTLY i") {
            // Postgres's own: two of VACUUM, REINDEX CONCURRENTLY and writers may wait for each other.
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => Ok(()),
            other => other,
        }
    });
    for number in 0..2 {
        load.repeat(&cluster, ivf_load::search_near(anchors, number));
    }
    load.repeat(&cluster, ivf_load::compare_whole);
    std::thread::sleep(duration(20));
    let (journal, times) = load.stop();
    assert!(journal.len() > 300, "{}", journal.len());
    assert!(
        times.iter().all(|times| *times >= 5),
        "too few of VACUUM, REINDEX, searches, comparisons: {times:?}"
    );
    assert_committed(&mut client, &journal);
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"), "0");
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn create_index_concurrently_under_load() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let anchors = 5_000;
    ivf_load::make_table(&mut client, anchors, L2, 10);
    let mut load = Load::start(&cluster, 3, 1);
    load.repeat(&cluster, |client| client.batch_execute("VACUUM t"));
    load.repeat(&cluster, ivf_load::train);
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(300));
        let sql =
            format!("CREATE INDEX CONCURRENTLY i{round} ON t USING ivf (v vector_l2_ops) WITH (lists = 40)");
        client.batch_execute(&sql).unwrap();
    }
    client.batch_execute("DROP INDEX CONCURRENTLY i0").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (journal, _) = load.stop();
    assert_committed(&mut client, &journal);
    for round in 1..4 {
        // The others out of the way, so that this one is used.
        let others: Vec<String> =
            (1..4).filter(|other| *other != round).map(|i| format!("DROP INDEX i{i}")).collect();
        client.batch_execute(&format!("BEGIN; DROP INDEX i; {}", others.join("; "))).unwrap();
        assert_eq!(problems(&mut client, &format!("i{round}")), [""; 0]);
        let sql = format!("SELECT id FROM t ORDER BY v <-> '{}'", text(&[0.0; DIMS]));
        let of = |client: &mut Client, settings: &str| {
            let mut ids = rows(client, &format!("{settings}; {sql}")).concat();
            ids.sort();
            ids
        };
        let index = of(&mut client, BY_WHOLE_INDEX);
        let table = of(&mut client, "SET LOCAL enable_indexscan = off; SET LOCAL enable_sort = on");
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(index, table, "i{round}");
    }
}

/// A build that must look at rows which other transactions delete and change meanwhile.
#[test]
fn a_snapshot_keeps_what_it_sees() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let vectors = Clusters::new(31, 20, 16).vectors(1_000);
    make_table(&mut client, "t", &vectors);
    make_index(&mut client, "i", "t", L2, "lists = 10");
    let sql = search("t", L2, &vectors[0], "");
    let mut old = cluster.connect();
    old.batch_execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET enable_seqscan = off; SET ivf.probes = 32768",
    )
    .unwrap();
    let before = rows(&mut old, &sql);
    assert_eq!(before.len(), 1_000);
    client
        .batch_execute(
            "DELETE FROM t WHERE id % 2 = 0;
             UPDATE t SET v = (v + v)::vector(16) WHERE id % 2 = 1;
             INSERT INTO t SELECT id + 5000, v FROM t",
        )
        .unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert!(rows(&mut old, &sql) == before, "the old snapshot lost or found rows");
    old.batch_execute("COMMIT").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('i')"), "1000");
}

/// Rows that vacuum removes while a cursor is in the middle of the index, and others that take their places.
#[test]
fn vacuum_under_an_open_scan() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let vectors = Clusters::new(32, 20, 16).vectors(4_000);
    make_table(&mut client, "t", &vectors);
    make_index(&mut client, "i", "t", L2, "lists = 20");
    // Dead before the cursor opens, so that vacuum may take them.
    client.batch_execute("DELETE FROM t WHERE id % 2 = 0").unwrap();
    let mut reader = cluster.connect();
    reader.batch_execute("SET enable_seqscan = off; SET ivf.probes = 2").unwrap();
    reader
        .batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {}", search("t", L2, &vectors[0], "")))
        .unwrap();
    let mut seen: Vec<i32> = vec![];
    for step in 0..100 {
        let part = rows(&mut reader, "FETCH 50 FROM c");
        if part.is_empty() {
            break;
        }
        seen.extend(part.iter().map(|row| row[0].parse::<i32>().unwrap()));
        if step < 5 {
            client.batch_execute("VACUUM t").unwrap();
            let first = 100_000 + 1_000 * step;
            copy(&mut client, "t", first, &Clusters::new(33 + step as u64, 20, 16).vectors(500));
            client.batch_execute(&format!("DELETE FROM t WHERE id >= {first} AND id % 3 = 0")).unwrap();
        }
    }
    seen.sort();
    let expected: Vec<i32> = (1..=4_000).filter(|id| id % 2 == 1).collect();
    assert_eq!(seen, expected);
    reader.batch_execute("COMMIT").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn hot_updates_touch_nothing() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    ivf_load::make_table(&mut client, 500, L2, 5);
    client.batch_execute("ALTER TABLE t DROP CONSTRAINT t_pkey").unwrap();
    let rows_in_index = |client: &mut Client| {
        client.batch_execute("VACUUM (INDEX_CLEANUP on) t").unwrap();
        value(client, "SELECT rows FROM ivf_info('i')")
    };
    assert_eq!(rows_in_index(&mut client), "500");
    for _ in 0..20 {
        client.batch_execute("UPDATE t SET note = note + 1 WHERE id <= 250").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
    }
    wait_until("the statistics arrive", || {
        value(&mut client, "SELECT n_tup_hot_upd > 0 FROM pg_stat_user_tables WHERE relname = 't'") == "t"
    });
    assert_eq!(rows_in_index(&mut client), "500");
    assert_sound(&mut client, "i", "t", L2, "true");
    // A vector that changes is found by the new one, and once.
    let new = text(&[9.0; DIMS]);
    client
        .batch_execute(&format!("UPDATE t SET v = '{new}' WHERE id = 7; UPDATE t SET note = 1 WHERE id = 7"))
        .unwrap();
    let answer = found(&mut client, BY_INDEX, &search("t", L2, &[9.0; DIMS], "LIMIT 2"));
    assert!(answer[0].id == 7 && answer[1].id != 7 && answer[0].distance == 0.0, "{answer:?}");
    assert_sound(&mut client, "i", "t", L2, "true");
    // An index made over chains of HOT updates that another transaction may still look into.
    let mut old = cluster.connect();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_am").unwrap();
    client
        .batch_execute("UPDATE t SET note = note + 1 WHERE id <= 100; DELETE FROM t WHERE id > 450")
        .unwrap();
    client
        .batch_execute("DROP INDEX i; CREATE INDEX i ON t USING ivf (v vector_l2_ops) WITH (lists = 5)")
        .unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    old.batch_execute("COMMIT").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn savepoints_and_aborts() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(34, 10, 16);
    make_table(&mut client, "t", &source.vectors(200));
    make_index(&mut client, "i", "t", L2, "lists = 4");
    let lost = source.vectors(300);
    let near_lost = |client: &mut Client| {
        let sql = search("t", L2, &lost[0], "LIMIT 1");
        rows(client, &format!("SET LOCAL enable_seqscan = off; {sql}")).remove(0).remove(0)
    };
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    copy(&mut client, "t", 1_000, &lost);
    assert_eq!(near_lost(&mut client), "1000", "a transaction sees its own rows");
    client.batch_execute("SAVEPOINT b; DELETE FROM t WHERE id = 1000").unwrap();
    assert_ne!(near_lost(&mut client), "1000");
    client.batch_execute("ROLLBACK TO b").unwrap();
    assert_eq!(near_lost(&mut client), "1000");
    client.batch_execute("ROLLBACK TO a").unwrap();
    assert_ne!(near_lost(&mut client), "1000");
    copy(&mut client, "t", 2_000, &source.vectors(100));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "300");
    assert_sound(&mut client, "i", "t", L2, "true");
    // An index that is made, filled and undone with its transaction; and a failed statement in one.
    client.batch_execute("BEGIN; SAVEPOINT a; CREATE INDEX j ON t USING ivf (v vector_ip_ops)").unwrap();
    copy(&mut client, "t", 3_000, &source.vectors(100));
    client.batch_execute("INSERT INTO t VALUES (1, '[1]')").unwrap_err();
    client.batch_execute("ROLLBACK TO a").unwrap();
    copy(&mut client, "t", 4_000, &source.vectors(100));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "400");
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('i')"), "400", "vacuum takes what was undone");
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// Two transactions that each look for a neighbour and, as there is none, add a row that would be the other's.
#[test]
fn serializable_transactions_see_each_other() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(35, 10, 16).vectors(2_000));
    make_index(&mut client, "i", "t", L2, "lists = 20");
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL enable_seqscan = off";
    let look = search("t", L2, &[7.0; 16], "LIMIT 1");
    let (mut one, mut other) = (cluster.connect(), cluster.connect());
    for session in [&mut one, &mut other] {
        session.batch_execute(begin).unwrap();
        assert_ne!(rows(session, &look)[0][1], "0");
    }
    for (session, id) in [(&mut one, 10_001), (&mut other, 10_002)] {
        session.batch_execute(&format!("INSERT INTO t VALUES ({id}, '{}')", text(&[7.0; 16]))).unwrap();
    }
    one.batch_execute("COMMIT").unwrap();
    assert_eq!(refused(&mut other, "COMMIT").sqlstate, "40001");
}

/// The executor looks again at a row that changed while it waited for it.
#[test]
fn rows_locked_by_others() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let vectors = Clusters::new(36, 10, 16).vectors(500);
    make_table(&mut client, "t", &vectors);
    make_index(&mut client, "i", "t", L2, "lists = 5");
    let mut other = cluster.connect();
    other.batch_execute("BEGIN; UPDATE t SET id = 9000 WHERE id = 1").unwrap();
    let sql = search("t", L2, &vectors[0], "LIMIT 1");
    let skipping = format!("BEGIN; {BY_INDEX}; {sql} FOR UPDATE SKIP LOCKED; COMMIT");
    assert_ne!(rows(&mut client, &skipping)[0][0], "1");
    let mut waiting = cluster.connect();
    let waiter = std::thread::spawn(move || {
        rows(&mut waiting, &format!("BEGIN; {BY_INDEX}; {sql} FOR UPDATE; COMMIT"))
    });
    wait_until("it waits", || {
        value(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "1"
    });
    other.batch_execute("COMMIT").unwrap();
    let answer = waiter.join().unwrap();
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0], ["9000", "0"]);
}

/// Each of ten times everything is replaced, a quarter at a time.
#[test]
fn vacuum_reuses_space() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    for (metric, dims, options) in [(L2, 64, "lists = 20"), (COSINE, 16, "lists = 40, bits = 4")] {
        let mut source = Clusters::new(37, 30, dims);
        make_table(&mut client, "t", &source.vectors(4_000));
        make_index(&mut client, "i", "t", metric, options);
        let size =
            |client: &mut Client| value(client, "SELECT pg_relation_size('i')").parse::<f64>().unwrap();
        let built = size(&mut client);
        let mut sizes = vec![built];
        for round in 0..40 {
            let (first, last) = (1 + 1_000 * round, 1_000 + 1_000 * round);
            client.batch_execute(&format!("DELETE FROM t WHERE id BETWEEN {first} AND {last}")).unwrap();
            client.batch_execute("VACUUM t").unwrap();
            copy(&mut client, "t", 4_001 + 1_000 * round, &source.vectors(1_000));
            sizes.push(size(&mut client));
        }
        let largest = sizes.iter().fold(0.0, |a: f64, b| a.max(*b));
        assert!(largest <= 1.3 * built, "{metric:?}: {:.2} times the size: {sizes:?}", largest / built);
        assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "4000");
        assert_sound(&mut client, "i", "t", metric, "true");
        // Everything goes and as much comes.
        client.batch_execute("DELETE FROM t").unwrap();
        client.batch_execute("VACUUM t").unwrap();
        copy(&mut client, "t", 1, &source.vectors(4_000));
        assert!(size(&mut client) <= 1.3 * built);
        assert_sound(&mut client, "i", "t", metric, "true");
        client.batch_execute("DROP TABLE t").unwrap();
    }
}
