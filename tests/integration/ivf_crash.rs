//! Crashes, failed writes and ended statements: nothing that was committed is lost, and the index stays sound.

use std::time::Duration;

use postgres::Client;
use postgres::error::SqlState;

use crate::backend::Backend;
use crate::cluster::{Cluster, refused, restarts, rows, signal, value, wait_for_recovery, wait_until};
use crate::ivf::{
    BY_INDEX, BY_WHOLE_INDEX, COSINE, Clusters, L2, Random, assert_complete, assert_sound, copy, make_index,
    make_table, plan_under, problems, rows_under, search, text,
};
use crate::ivf_load::{self, DIMS, Load, assert_committed, is_lost};

/// Starts a statement in a thread of its own; the connection may be lost meanwhile. The thread's result is the
/// connection if the statement succeeded: while nobody has taken it, the backend lives, and a signal meets it.
fn in_background(cluster: &Cluster, sql: &str) -> (Backend, std::thread::JoinHandle<Option<Client>>) {
    let mut client = cluster.connect();
    let backend = Backend::of(&mut client);
    let sql = sql.to_string();
    let thread = std::thread::spawn(move || match client.batch_execute(&sql) {
        Ok(()) => Some(client),
        Err(error) => {
            assert!(is_lost(&error), "{sql}: {error:?}");
            None
        }
    });
    (backend, thread)
}

/// The phase of the build that is going on, without "building index: "; empty if there is none.
fn phase(client: &mut Client) -> String {
    let sql = "SELECT coalesce(max(phase), '') FROM pg_stat_progress_create_index";
    value(client, sql).replace("building index: ", "")
}

#[test]
fn killed_while_building() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(11, 100, 64).vectors(40_000));
    client.batch_execute("CREATE TABLE small AS SELECT * FROM t WHERE id <= 500").unwrap();
    client.batch_execute("CREATE INDEX s ON small USING ivf (v vector_l2_ops)").unwrap();
    let build = "CREATE INDEX i ON t USING ivf (v vector_l2_ops) WITH (lists = 400)";
    let mut seen = vec![];
    for at in ["sampling", "training", "assigning tuples", "loading tuples", ""] {
        let restarts = restarts(&cluster);
        let (backend, thread) = in_background(&cluster, build);
        wait_until("the phase is reached, or the build is done", || {
            let phase = phase(&mut client);
            !phase.is_empty() && phase == at || thread.is_finished() || at.is_empty() && !phase.is_empty()
        });
        seen.push(phase(&mut client));
        assert!(signal(backend.pid, libc::SIGKILL));
        wait_for_recovery(&cluster, restarts);
        thread.join().unwrap();
        client = cluster.connect();
        // Either all of it or nothing.
        if value(&mut client, "SELECT count(*) FROM pg_class WHERE relname = 'i'") == "1" {
            assert_sound(&mut client, "i", "t", L2, "true");
            client.batch_execute("DROP INDEX i").unwrap();
        }
    }
    // Fast phases may be over before anybody looks; some must have been met.
    assert!(seen.iter().any(|phase| phase == "training"), "{seen:?}");

    // A whole machine's end in the middle of a rebuild: the index is the one from before.
    client.batch_execute(build).unwrap();
    let size = value(&mut client, "SELECT pg_relation_size('i')");
    let (_, thread) = in_background(&cluster, "REINDEX INDEX i");
    wait_until("the rebuild runs", || phase(&mut client) == "training");
    cluster.kill();
    assert!(thread.join().unwrap().is_none());
    cluster.boot();
    client = cluster.connect();
    assert_eq!(value(&mut client, "SELECT pg_relation_size('i')"), size);
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_sound(&mut client, "s", "small", L2, "true");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// The end of the server just after a build and some inserts: what was logged is all that there is.
#[test]
fn a_finished_build_survives_without_a_checkpoint() {
    let mut cluster = Cluster::with_settings(&["checkpoint_timeout = 1h", "max_wal_size = 4GB"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(12, 50, 32);
    make_table(&mut client, "t", &source.vectors(5_000));
    make_index(&mut client, "i", "t", L2, "lists = 50");
    make_index(&mut client, "c", "t", COSINE, "lists = 20, bits = 3");
    client
        .batch_execute("CREATE TABLE e (id int, v vector(32)); CREATE INDEX ei ON e USING ivf (v)")
        .unwrap();
    copy(&mut client, "e", 1, &source.vectors(300));
    copy(&mut client, "t", 5_001, &source.vectors(500));
    client.batch_execute("DELETE FROM t WHERE id % 10 = 0").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    copy(&mut client, "t", 10_001, &source.vectors(500));
    let info = rows(&mut client, "SELECT lists, longest_list FROM ivf_info('i')");
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    for (index, table, metric) in [("i", "t", L2), ("c", "t", COSINE), ("ei", "e", L2)] {
        assert_sound(&mut client, index, table, metric, "true");
    }
    assert_eq!(rows(&mut client, "SELECT lists, longest_list FROM ivf_info('i')"), info);
    // And it goes on.
    copy(&mut client, "t", 20_001, &source.vectors(500));
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// With wal_level = minimal a transaction that makes the table writes no log for it.
#[test]
fn unlogged_within_one_transaction() {
    let mut cluster =
        Cluster::with_settings(&["wal_level = minimal", "max_wal_senders = 0", "wal_skip_threshold = 0"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(13, 20, 16);
    let vectors = source.vectors(2_000);
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("CREATE TABLE t (id int, v vector(16))").unwrap();
    transaction
        .batch_execute(
            "INSERT INTO t SELECT i, ARRAY(SELECT random() FROM generate_series(1, 16) WHERE i > 0)
               FROM generate_series(1, 2000) i;
             CREATE INDEX i ON t USING ivf (v vector_l2_ops) WITH (lists = 20);
             INSERT INTO t SELECT i, ARRAY(SELECT random() FROM generate_series(1, 16) WHERE i > 0)
               FROM generate_series(2001, 3000) i;
             DELETE FROM t WHERE id % 7 = 0",
        )
        .unwrap();
    transaction.commit().unwrap();
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    assert_sound(&mut client, "i", "t", L2, "true");
    copy(&mut client, "t", 10_000, &vectors);
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn killed_while_inserting_and_vacuuming() {
    // Few buffers, so that pages are written and read back; a checkpoint in between now and then.
    let mut cluster =
        Cluster::with_settings(&["shared_buffers = 2MB", "autovacuum = off", "max_wal_size = 32MB"]);
    let mut client = cluster.client();
    ivf_load::make_table(&mut client, 2_000, L2, 20);
    let mut random = Random(14);
    let mut known = ivf_load::Journal::new();
    for round in 1..=6 {
        let restarts = restarts(&cluster);
        let mut load = Load::start(&cluster, 3, round);
        load.repeat(&cluster, |client| client.batch_execute("VACUUM t"));
        load.repeat(&cluster, ivf_load::train);
        std::thread::sleep(Duration::from_millis(600 + random.below(900) as u64));
        let vacuuming = "SELECT pid FROM pg_stat_activity WHERE query = 'VACUUM t' AND state = 'active'";
        let writing = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT%' LIMIT 1";
        match round % 3 {
            0 => cluster.kill(),
            kind => {
                let sql = if kind == 1 { vacuuming } else { writing };
                let mut victim = None;
                wait_until("there is a victim", || {
                    victim = rows(&mut client, sql).pop();
                    victim.is_some()
                });
                signal(victim.unwrap()[0].parse().unwrap(), libc::SIGKILL);
                wait_for_recovery(&cluster, restarts);
            }
        }
        let (mut journal, _) = load.stop();
        assert!(journal.len() > 20, "round {round}: {}", journal.len());
        known.append(&mut journal);
        if round % 3 == 0 {
            cluster.boot();
        }
        client = cluster.connect();
        assert_committed(&mut client, &known);
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("VACUUM t").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DELETE FROM t WHERE id >= 1000000 AND id % 2 = 0").unwrap();
        known.extend(known.clone().keys().filter(|id| **id % 2 == 0).map(|id| (*id, ivf_load::Row::Absent)));
    }
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

/// Single statements ended at random points, by cancel, by timeout and by the end of their process: no restart, nothing
/// half done, no lock or pin left.
#[test]
fn statements_ended_at_random_points() {
    let cluster =
        Cluster::with_settings(&["autovacuum = off", "shared_buffers = 2MB", "max_wal_size = 64MB"]);
    let mut client = cluster.client();
    ivf_load::make_table(&mut client, 2_000, L2, 20);
    let mut load = Load::start(&cluster, 2, 1);
    // Ends itself by a timeout of a few milliseconds.
    let mut random = Random(15);
    let mut first = 900_000_000;
    load.repeat(&cluster, move |client| {
        let milliseconds = 1 + random.below(12);
        first += 100;
        let sql = match random.below(5) {
            0 => "VACUUM t".to_string(),
            1 => "REINDEX INDEX i".to_string(),
            3 => "SELECT ivf_maintain('i', true)".to_string(),
            2 => {
                let query = text(&random.vector(DIMS));
                format!("SELECT count(*) FROM (SELECT FROM t ORDER BY v <-> '{query}' LIMIT 1000) s")
            }
            _ => format!(
                "INSERT INTO t (id, v) SELECT {first} + i, t.v FROM generate_series(1, 99) i JOIN t ON t.id = i"
            ),
        };
        let timeout = format!("SET enable_seqscan = off; SET statement_timeout = {milliseconds}");
        match client.batch_execute(&timeout).and_then(|()| client.batch_execute(&sql)) {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(()),
            other => other,
        }
    });
    let mut random = Random(16);
    let mut ended = 0;
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(20 + random.below(60) as u64));
        // Whichever client is at work: a cancel for most, the end of the process for none of the load's own, which
        // stop at it; so one of this test's.
        let cancelled = rows(
            &mut client,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
               WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%t %' LIMIT 1",
        );
        ended += cancelled.len();
        let (backend, thread) = in_background(
            &cluster,
            "INSERT INTO t (id, v) SELECT -id, v FROM t WHERE id BETWEEN 1 AND 2000; DELETE FROM t WHERE id < 0",
        );
        std::thread::sleep(Duration::from_millis(random.below(40) as u64));
        signal(backend.pid, libc::SIGTERM);
        if thread.join().unwrap().is_some() {
            continue;
        }
        ended += 1;
    }
    let (mut journal, _) = load.stop();
    assert!(ended > 40, "{ended}");
    assert_eq!(restarts(&cluster), 0, "{}", cluster.log());
    // The rows of the client with the timeouts, which keeps no journal.
    let others = rows(&mut client, "SELECT id FROM t WHERE id >= 900000000").concat();
    journal.extend(others.iter().map(|id| (id.parse().unwrap(), ivf_load::Row::Unknown)));
    assert_committed(&mut client, &journal);
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    // What comes of the clients' ROLLBACK after a cancel.
    let log = cluster.log().replace("WARNING:  there is no transaction in progress", "");
    for bad in ["PANIC", "WARNING", "buffer refcount leak", "is not locked", "TRAP"] {
        assert!(!log.contains(bad), "{bad}: {log}");
    }
}

/// Sets how large a file a process may write, in bytes or `unlimited`. The server ignores the signal and sees EFBIG.
fn limit_files(cluster: &Cluster, backend: Backend, bytes: &str) {
    // As the server's user, who may do so to his processes; root without CAP_SYS_RESOURCE may not.
    cluster
        .run("/usr/bin/prlimit", &[&format!("--pid={}", backend.pid), &format!("--fsize={bytes}:unlimited")]);
}

/// Writes that fail, as on a full disk: at each of the next pages that the index would take.
#[test]
fn writes_that_fail() {
    // A segment of the log must fit below the limit, or a failed write of it would be the end of the server.
    let mut cluster = Cluster::with_options(&["--wal-segsize=1"], &["autovacuum = off"]);
    let mut client = cluster.client();
    // Nearly all of a row is in the index: the vector is computed from the number.
    client
        .batch_execute(
            "CREATE FUNCTION pseudo(int) RETURNS vector(200) IMMUTABLE LANGUAGE sql AS
               $$ SELECT array_agg(sin($1 * 1.7 + i * (1 + $1 % 5)))::public.vector(200) FROM generate_series(1, 200) i $$;
             CREATE TABLE t (id int);
             INSERT INTO t SELECT generate_series(1, 5000);
             CREATE INDEX i ON t USING ivf ((pseudo(id)::vector(200)) vector_l2_ops) WITH (lists = 3);",
        )
        .unwrap();
    let size = |client: &mut Client| value(client, "SELECT pg_relation_size('i')").parse::<u64>().unwrap();
    let all = |client: &mut Client| {
        assert_eq!(problems(client, "i"), [""; 0]);
        let sql = "SELECT id FROM t ORDER BY pseudo(id)::vector(200) <-> array_fill(0, ARRAY[200])::vector";
        assert!(plan_under(client, BY_WHOLE_INDEX, sql).contains("Index Scan using i "));
        let mut ids = rows_under(client, BY_WHOLE_INDEX, sql).concat();
        let mut expected = rows(client, "SELECT id FROM t").concat();
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected);
    };
    let built = size(&mut client);
    assert!(built > 1 << 20, "{built}: the index must be larger than a segment of the log");
    for pages in 0..8 {
        let mut victim = cluster.connect();
        let backend = Backend::of(&mut victim);
        limit_files(&cluster, backend, &(size(&mut client) + pages * 8192).to_string());
        let sql = format!(
            "INSERT INTO t SELECT generate_series(10000 + {pages} * 1000, 10000 + {pages} * 1000 + 399)"
        );
        let refusal = refused(&mut victim, &sql);
        assert!(refusal.message.ends_with("File too large"), "{refusal:?}");
        // The same session, rid of the limit.
        limit_files(&cluster, backend, "unlimited");
        victim.batch_execute(&format!("INSERT INTO t VALUES (900000 + {pages})")).unwrap();
        all(&mut client);
    }
    client.batch_execute("VACUUM t").unwrap();
    all(&mut client);

    // A build fails at the page, and leaves nothing.
    let files = |client: &mut Client| value(client, "SELECT count(*) FROM pg_class WHERE relname LIKE 'j%'");
    for bytes in [1 << 20, built / 8192 * 2 / 3 * 8192] {
        let mut victim = cluster.connect();
        limit_files(&cluster, Backend::of(&mut victim), &bytes.to_string());
        let build =
            "CREATE INDEX j ON t USING ivf ((pseudo(id)::vector(200)) vector_l2_ops) WITH (lists = 3)";
        let refusal = refused(&mut victim, build);
        assert!(refusal.message.ends_with("File too large"), "{refusal:?}");
        assert_eq!(files(&mut client), "0");
        // An index that fails to be rebuilt is the one that it was.
        let refusal = refused(&mut victim, "REINDEX INDEX i");
        assert!(refusal.message.ends_with("File too large"), "{refusal:?}");
        all(&mut client);
    }
    // What is on the disk is what was seen.
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    all(&mut client);
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

#[test]
fn unlogged_tables() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(17, 20, 16);
    client.batch_execute("CREATE UNLOGGED TABLE t (id int, v vector(16))").unwrap();
    copy(&mut client, "t", 1, &source.vectors(1_000));
    make_index(&mut client, "i", "t", L2, "lists = 10");
    copy(&mut client, "t", 1_001, &source.vectors(1_000));
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("CHECKPOINT").unwrap();
    drop(client);
    // An orderly end loses nothing.
    cluster.stop("fast");
    cluster.boot();
    let mut client = cluster.connect();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "2000");
    assert_sound(&mut client, "i", "t", L2, "true");
    // A crash leaves an empty table, and an index that is empty and works.
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "0");
    assert_eq!(problems(&mut client, "i"), [""; 0]);
    let query = source.vector();
    assert_eq!(rows_under(&mut client, BY_INDEX, &search("t", L2, &query, "LIMIT 10")).len(), 0);
    copy(&mut client, "t", 1, &source.vectors(500));
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("DELETE FROM t WHERE id < 300").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("REINDEX INDEX i; ALTER TABLE t SET LOGGED").unwrap();
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "201");
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("ALTER TABLE t SET UNLOGGED").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    copy(&mut client, "t", 1, &source.vectors(100));
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn prepared_transactions_over_a_crash() {
    let mut cluster = Cluster::with_settings(&["max_prepared_transactions = 5"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(18, 20, 16);
    make_table(&mut client, "t", &source.vectors(500));
    make_index(&mut client, "i", "t", L2, "lists = 5");
    for (name, first) in [("kept", 1_000), ("undone", 2_000)] {
        client.batch_execute("BEGIN").unwrap();
        copy(&mut client, "t", first, &source.vectors(100));
        client
            .batch_execute(&format!(
                "DELETE FROM t WHERE id BETWEEN {0} AND {0} + 9; PREPARE TRANSACTION '{name}'",
                first / 10
            ))
            .unwrap();
    }
    assert_complete(&mut client, "i", "t", L2, "true");
    client.batch_execute("VACUUM t").unwrap();
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "500");
    assert_complete(&mut client, "i", "t", L2, "true");
    client.batch_execute("VACUUM t").unwrap();
    client.batch_execute("COMMIT PREPARED 'kept'").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "590");
    assert_complete(&mut client, "i", "t", L2, "true");
    client.batch_execute("ROLLBACK PREPARED 'undone'").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "590");
    assert_sound(&mut client, "i", "t", L2, "true");
}
