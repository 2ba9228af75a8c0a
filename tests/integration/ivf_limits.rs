//! Cancels and timeouts that are heard, and memory that is what the settings allow.

use std::time::Duration;

use postgres::NoTls;

use crate::backend::{Backend, peak_of};
use crate::cluster::{Cluster, refused, rows, value, wait_until};
use crate::ivf::{COSINE, Clusters, L2, assert_sound, make_index, make_table, text};

/// How late a statement may end, in CPU time of its process: on a busy machine the clock on the wall says nothing.
const LATE: Duration = Duration::from_millis(500);

/// Runs a statement until `reached`, cancels it a moment later, and returns the CPU time that it went on for.
fn cancelled_after(
    cluster: &Cluster,
    sql: &str,
    mut reached: impl FnMut(Backend) -> bool + Send,
) -> Duration {
    let mut client = cluster.connect();
    client.batch_execute("SET enable_seqscan = off; SET maintenance_work_mem = '1GB'").unwrap();
    let backend = Backend::of(&mut client);
    let token = client.cancel_token();
    let (ended, cancelled_at) = std::thread::scope(|scope| {
        let statement = scope.spawn(|| {
            let error = client.simple_query(sql).expect_err("the statement must be cancelled");
            assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
            backend.cpu()
        });
        wait_until("the statement is where it is to be", || statement.is_finished() || reached(backend));
        std::thread::sleep(Duration::from_millis(50));
        let at = backend.cpu();
        token.cancel_query(NoTls).unwrap();
        (statement.join().unwrap(), at)
    });
    client.simple_query("SELECT 1").expect("the session must stay usable");
    ended.saturating_sub(cancelled_at)
}

#[test]
fn cancels_take_effect() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(51, 300, 128).vectors(100_000));
    make_index(&mut client, "i", "t", L2, "lists = 20");
    let build = "CREATE INDEX j ON t USING ivf (v vector_l2_ops) WITH (lists = 2000)";
    let quick = "CREATE INDEX j ON t USING ivf (v vector_cosine_ops) WITH (lists = 50)";
    for (sql, phase) in
        [(build, "training"), (build, "assigning tuples"), (quick, "sampling"), (quick, "loading tuples")]
    {
        let mut observer = cluster.connect();
        let mut met = false;
        let mut client = cluster.connect();
        client.batch_execute("SET maintenance_work_mem = '1GB'").unwrap();
        // Short phases may be over before anybody looks: then the build is done, and there is nothing to cancel.
        let token = client.cancel_token();
        let backend = Backend::of(&mut client);
        let (result, ended, at) = std::thread::scope(|scope| {
            let statement = scope.spawn(|| {
                let result = client.batch_execute(sql);
                (result, backend.cpu())
            });
            let wanted = format!("building index: {phase}");
            wait_until("the phase is reached", || {
                let now = value(
                    &mut observer,
                    "SELECT coalesce(max(phase), '') FROM pg_stat_progress_create_index",
                );
                met = now == wanted;
                met || statement.is_finished()
            });
            let at = backend.cpu();
            token.cancel_query(NoTls).unwrap();
            let (result, ended) = statement.join().unwrap();
            (result, ended, at)
        });
        if let Err(error) = result {
            assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{phase}: {error:?}");
            let late = ended.saturating_sub(at);
            assert!(late < LATE, "{phase}: {late:?} after the cancel");
            assert_eq!(value(&mut client, "SELECT count(*) FROM pg_class WHERE relname = 'j'"), "0");
        } else {
            assert!(!met || phase == "loading tuples" || phase == "sampling", "{phase} was not cancelled");
            client.batch_execute("DROP INDEX j").unwrap();
        }
        assert!(met || !["training", "assigning tuples"].contains(&phase), "{phase} was never met");
    }
    // Scans: of everything for a filter that nothing passes, and one after the other.
    let computing =
        |start: Duration| move |backend: Backend| backend.cpu() > start + Duration::from_millis(300);
    let query = text(&[0.5; 128]);
    for sql in [
        format!(
            "SELECT count(*) FROM generate_series(1, 100000) i,
               LATERAL (SELECT id FROM t WHERE id < -i ORDER BY v <-> '{query}' LIMIT 1) s"
        ),
        "SET ivf.probes = 32768; SELECT sum(s.id) FROM t a,
           LATERAL (SELECT id FROM t WHERE id <> a.id ORDER BY v <-> a.v LIMIT 1) s"
            .to_string(),
        "SELECT ivf_recall('i', 100, 10000)".to_string(),
        "DO $$ BEGIN FOR i IN 1..1000000 LOOP PERFORM * FROM ivf_check('i'); END LOOP; END $$".to_string(),
    ] {
        let late = cancelled_after(&cluster, &sql, computing(Duration::ZERO));
        assert!(late < LATE, "{sql}: {late:?} after the cancel");
    }
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn timeouts_take_effect() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(52, 300, 128).vectors(60_000));
    make_index(&mut client, "i", "t", L2, "lists = 20");
    let backend = Backend::of(&mut client);
    client.batch_execute("SET maintenance_work_mem = '1GB'; SET enable_seqscan = off").unwrap();
    let query = text(&[0.5; 128]);
    let scan = format!(
        "SELECT count(*) FROM generate_series(1, 100000) i,
           LATERAL (SELECT id FROM t WHERE id < -i ORDER BY v <-> '{query}' LIMIT 1) s"
    );
    let build = "CREATE INDEX j ON t USING ivf (v vector_l2_ops) WITH (lists = 2000)";
    for (sql, timeout) in [(build, 100), (build, 600), (build, 1200), (&scan, 300), ("REINDEX INDEX i", 60)] {
        let start = backend.cpu();
        client.batch_execute(&format!("SET statement_timeout = {timeout}")).unwrap();
        match client.batch_execute(sql) {
            Err(error) => {
                assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
                let spent = backend.cpu() - start;
                assert!(spent < Duration::from_millis(timeout) + LATE, "{sql}: {spent:?} with {timeout} ms");
            }
            // This machine is fast.
            Ok(()) => assert!(sql != scan, "the scan was not to end"),
        }
        client.batch_execute("SET statement_timeout = 0; DROP INDEX IF EXISTS j").unwrap();
    }
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn a_build_stays_within_maintenance_work_mem() {
    let cluster = Cluster::with_settings(&["max_parallel_maintenance_workers = 0"]);
    let mut client = cluster.client();
    // 92 MB of vectors.
    make_table(&mut client, "t", &Clusters::new(53, 300, 384).vectors(60_000));
    for (megabytes, options) in [(8, "lists = 50"), (24, "lists = 100"), (24, ""), (64, "lists = 300")] {
        let mut client = cluster.connect();
        client
            .batch_execute(&format!("SET maintenance_work_mem = '{megabytes}MB'; SELECT '[1]'::vector"))
            .unwrap();
        let build = |name: &str| {
            let with = if options.is_empty() { String::new() } else { format!("WITH ({options})") };
            format!("CREATE INDEX {name} ON t USING ivf (v vector_l2_ops) {with}")
        };
        // Once for what any first build brings along: caches, code.
        client
            .batch_execute(
                "CREATE TEMP TABLE one AS SELECT * FROM t LIMIT 10; CREATE INDEX ON one USING ivf (v)",
            )
            .unwrap();
        let peak = peak_of(&mut client, &build("i")) as f64 / 1024.0 / 1024.0;
        // The allocator's own overhead and a write buffer. Measured: 11.0, 28.5, 25.1 and 34.4 MB.
        assert!(peak < megabytes as f64 * 1.1 + 4.0, "{options}: {peak:.1} MB with {megabytes} MB allowed");
        assert_sound(&mut client, "i", "t", L2, "id % 50 = 0 OR true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
    // Inserting, scanning and vacuuming take little, however long a session goes on.
    make_index(&mut client, "i", "t", COSINE, "lists = 100");
    let mut session = cluster.connect();
    session.batch_execute("SET enable_seqscan = off; SELECT '[1]'::vector").unwrap();
    let near = "SELECT id FROM t ORDER BY v <=> (SELECT v FROM t WHERE id = 5 LIMIT 1) LIMIT 10";
    session.batch_execute(near).unwrap();
    let scans = "SELECT count(*) FROM (SELECT v FROM t LIMIT 2000) q,
                   LATERAL (SELECT id FROM t ORDER BY t.v <=> q.v LIMIT 10) s";
    let peak = peak_of(&mut session, scans) / 1024 / 1024;
    assert!(peak < 16, "2000 scans in one statement took {peak} MB");
    let inserts = "INSERT INTO t SELECT id + 100000, v FROM t WHERE id <= 10000";
    let peak = peak_of(&mut session, inserts) / 1024 / 1024;
    assert!(peak < 16, "10000 inserts in one statement took {peak} MB");
    session.batch_execute("SET maintenance_work_mem = '16MB'; DELETE FROM t WHERE id % 2 = 0").unwrap();
    let peak = peak_of(&mut session, "VACUUM t") / 1024 / 1024;
    // It trains the index again: as for a build.
    assert_eq!(value(&mut session, "SELECT trained_rows FROM ivf_info('i')"), "35000");
    assert!(peak < 22, "vacuum took {peak} MB");
}

/// The error says how much is needed, and with that much it works.
#[test]
fn too_little_memory_is_an_error_that_says_what_is_needed() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(54, 50, 512).vectors(5_000));
    client.batch_execute("SET maintenance_work_mem = '1MB'").unwrap();
    let build = "CREATE INDEX i ON t USING ivf (v vector_l2_ops) WITH (lists = 2000)";
    let refusal = refused(&mut client, build);
    let words: Vec<&str> = refusal.message.split(' ').collect();
    assert!(
        refusal.message.starts_with("memory required is ")
            && refusal.message.ends_with(" MB, maintenance_work_mem is 1 MB"),
        "{refusal:?}"
    );
    let needed: u64 = words[3].parse().unwrap();
    assert!((4..100).contains(&needed), "{refusal:?}");
    client.batch_execute(&format!("SET maintenance_work_mem = '{}MB'", needed - 1)).unwrap();
    refused(&mut client, build);
    client.batch_execute(&format!("SET maintenance_work_mem = '{needed}MB'")).unwrap();
    client.batch_execute(build).unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    // The smallest that can be set is enough for a small index.
    client.batch_execute("SET maintenance_work_mem = '1MB'; DROP INDEX i").unwrap();
    make_index(&mut client, "i", "t", L2, "lists = 5");
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_eq!(rows(&mut client, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").len(), 0);
}
