//! Indexes built by parallel workers: the same as those of one process, and no trouble when a worker has some.

use std::time::Duration;

use postgres::{Client, NoTls};

use crate::backend::{Backend, peak_of};
use crate::cluster::{Cluster, refused, rows, signal, skipped, value, wait_until};
use crate::ivf::{
    COSINE, Clusters, INNER_PRODUCT, L2, METRICS, assert_same_answer, assert_sound, copy, found, make_index,
    make_table, problems, search,
};

/// A cluster whose log says how many workers an index was built with.
fn cluster_with(settings: &[&str]) -> Cluster {
    Cluster::with_settings(&[settings, &["log_min_messages = debug1", "max_parallel_workers = 8"]].concat())
}

/// A table that any build asks two workers for.
fn make_parallel_table(client: &mut Client, table: &str, vectors: &[Vec<f32>]) {
    make_table(client, table, vectors);
    client.batch_execute(&format!("ALTER TABLE {table} SET (parallel_workers = 2)")).unwrap();
}

/// Runs a statement, and says how many workers each index was built with that was not built by one process from the
/// start.
#[track_caller]
fn workers_of(cluster: &Cluster, client: &mut Client, sql: &str) -> Vec<String> {
    let before = cluster.log().len();
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let log = cluster.log();
    said_of_workers(&log[before..]).map(str::to_string).collect()
}

/// What our messages in a log say of workers: "2 of 3". Postgres's own, since 17, end with the same word.
fn said_of_workers(log: &str) -> impl Iterator<Item = &str> {
    let said = log.lines().filter_map(|line| line.split_once("\" with ")?.1.strip_suffix(" workers"));
    said.filter(|said| said.contains(" of "))
}

#[test]
fn the_index_does_not_depend_on_the_number_of_workers() {
    let cluster = cluster_with(&[]);
    let mut client = cluster.client();
    let mut source = Clusters::new(71, 200, 64);
    make_parallel_table(&mut client, "t", &source.vectors(30_000));
    let queries = source.vectors(20);
    for (metric, options) in METRICS.into_iter().zip(["lists = 60", "lists = 7, bits = 3", "bits = 1"]) {
        client.batch_execute("SET max_parallel_maintenance_workers = 0").unwrap();
        make_index(&mut client, "serial", "t", metric, options);
        let facts = |index: &str| format!("SELECT rows, lists, longest_list, bytes FROM ivf_info('{index}')");
        let built = rows(&mut client, &facts("serial"));
        let few = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL ivf.probes = 3;
                   SET LOCAL ivf.iterative_scan = off";
        let sql: Vec<String> = queries.iter().map(|query| search("t", metric, query, "LIMIT 50")).collect();
        let answers: Vec<_> = sql.iter().map(|sql| found(&mut client, few, sql)).collect();
        client.batch_execute("DROP INDEX serial").unwrap();
        for (workers, said) in [(1, "1 of 1"), (2, "2 of 2")] {
            client.batch_execute(&format!("SET max_parallel_maintenance_workers = {workers}")).unwrap();
            let create = format!("CREATE INDEX p ON t USING ivf (v {}) WITH ({options})", metric.opclass);
            assert_eq!(workers_of(&cluster, &mut client, &create), [said]);
            assert_sound(&mut client, "p", "t", metric, "true");
            assert_eq!(rows(&mut client, &facts("p")), built, "{metric:?} {workers}");
            for (sql, answer) in sql.iter().zip(&answers) {
                assert_same_answer(answer, &found(&mut client, few, sql), true, "as one process built it");
            }
            client.batch_execute("DROP INDEX p").unwrap();
        }
    }
}

/// Every statement that builds, and everything that a table can hold.
#[test]
fn workers_build_whatever_one_process_builds() {
    let cluster = cluster_with(&["autovacuum = off", "max_parallel_maintenance_workers = 2"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(72, 20, 32);
    make_parallel_table(&mut client, "t", &source.vectors(4_000));
    client
        .batch_execute(
            "ALTER TABLE t ALTER v SET STORAGE external;
             INSERT INTO t SELECT -id, NULL FROM t WHERE id % 10 = 0;
             INSERT INTO t VALUES (0, array_fill(0, ARRAY[32])::vector);
             DELETE FROM t WHERE id % 7 = 0; UPDATE t SET id = id WHERE id % 5 = 0",
        )
        .unwrap();
    let both = ["2 of 2"];
    let create = "CREATE INDEX i ON t USING ivf (v) WITH (lists = 8)";
    assert_eq!(workers_of(&cluster, &mut client, create), both);
    for sql in [
        "REINDEX INDEX i",
        "REINDEX INDEX CONCURRENTLY i",
        "VACUUM FULL t",
        "ALTER TABLE t SET UNLOGGED",
        "REINDEX TABLE t",
        "ALTER TABLE t SET LOGGED",
        "DROP INDEX i; CREATE INDEX CONCURRENTLY i ON t USING ivf (v)",
        "BEGIN; DELETE FROM t WHERE id % 11 = 0; REINDEX INDEX i; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SAVEPOINT s; DELETE FROM t; REINDEX INDEX i; ROLLBACK TO s;
         REINDEX INDEX i; COMMIT",
        "DO $$ BEGIN PERFORM 1; REINDEX INDEX i; END $$",
    ] {
        let mut used = vec![];
        // Statements that refuse to be in a transaction are not, one by one.
        for sql in if sql.contains("CONCURRENTLY") { sql.split("; ").collect() } else { vec![sql] } {
            used.extend(workers_of(&cluster, &mut client, sql));
        }
        used.dedup();
        assert_eq!(used, both, "{sql}");
        assert_sound(&mut client, "i", "t", L2, "v IS NOT NULL");
    }
    client.batch_execute("DROP INDEX i").unwrap();
    // The zero vector has no direction.
    make_index(&mut client, "c", "t", COSINE, "lists = 8");
    assert_sound(&mut client, "c", "t", COSINE, "v IS NOT NULL AND id <> 0");
    client.batch_execute("DROP INDEX c").unwrap();
    let partial = "CREATE INDEX i ON t USING ivf (v vector_ip_ops) WHERE id % 2 = 1";
    assert_eq!(workers_of(&cluster, &mut client, partial), both);
    assert_sound(&mut client, "i", "t", INNER_PRODUCT, "v IS NOT NULL AND id % 2 = 1");

    client.batch_execute("CREATE TABLE d (id int, body text) WITH (parallel_workers = 2)").unwrap();
    client
        .batch_execute("INSERT INTO d SELECT i, 'word number ' || i FROM generate_series(1, 500) i")
        .unwrap();
    let embed = "CREATE INDEX e ON d USING ivf ((embed('tiny-bert', body)::vector(32)))";
    assert_eq!(workers_of(&cluster, &mut client, embed), both);
    assert_eq!(problems(&mut client, "e"), [""; 0]);
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('e')"), "500");
    // Who must not: the workers would not see the rows, or the function is not for them.
    client
        .batch_execute(
            "CREATE TEMP TABLE own AS SELECT * FROM t; ALTER TABLE own SET (parallel_workers = 2);
             CREATE FUNCTION alone(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN v; END';
             CREATE TABLE empty (v vector(3)) WITH (parallel_workers = 2)",
        )
        .unwrap();
    for sql in [
        "CREATE INDEX ON own USING ivf (v)",
        "CREATE INDEX ON t USING ivf ((alone(v)::vector(32)))",
        "CREATE INDEX ON empty USING ivf (v)",
        "SET max_parallel_maintenance_workers = 0; REINDEX INDEX i; RESET max_parallel_maintenance_workers",
    ] {
        assert_eq!(workers_of(&cluster, &mut client, sql), [""; 0], "{sql}");
    }
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

/// Rows that are changed while the index is built concurrently.
#[test]
fn a_concurrent_build_misses_no_row() {
    let cluster = cluster_with(&["max_parallel_maintenance_workers = 2"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(73, 50, 32);
    make_parallel_table(&mut client, "t", &source.vectors(20_000));
    let mut writer = cluster.connect();
    for round in 1..=3 {
        let more = source.vectors(1_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (number, vectors) in more.chunks(50).enumerate() {
                    copy(&mut writer, "t", 100_000 * round + 50 * number as i32, vectors);
                    let id = round as usize + 300 * number;
                    let sql = format!(
                        "DELETE FROM t WHERE id = {id} + 10; UPDATE t SET v = (v * v)::vector(32) WHERE id = {id}"
                    );
                    writer.batch_execute(&sql).unwrap();
                }
            });
            let create = "CREATE INDEX CONCURRENTLY i ON t USING ivf (v) WITH (lists = 30)";
            assert_eq!(workers_of(&cluster, &mut client, create), ["2 of 2"]);
        });
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

/// With fewer processes than were asked for, the index is built by those there are.
#[test]
fn a_build_makes_do_with_the_workers_there_are() {
    let cluster = cluster_with(&["max_worker_processes = 2", "max_parallel_maintenance_workers = 4"]);
    let mut client = cluster.client();
    make_parallel_table(&mut client, "t", &Clusters::new(74, 50, 32).vectors(5_000));
    client.batch_execute("ALTER TABLE t SET (parallel_workers = 4)").unwrap();
    for (setting, said) in [("8", "1 of 4"), ("0", "0 of 4")] {
        // The launcher of logical replication has one place of the two.
        client.batch_execute(&format!("SET max_parallel_workers = {setting}")).unwrap();
        let create = "CREATE INDEX i ON t USING ivf (v) WITH (lists = 10)";
        assert_eq!(workers_of(&cluster, &mut client, create), [said]);
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

/// Whatever a worker dies of, the statement ends with an error, the workers end, and the session goes on.
#[test]
fn an_error_of_a_worker_is_the_statements() {
    let cluster = cluster_with(&["max_parallel_maintenance_workers = 2"]);
    let mut client = cluster.client();
    make_parallel_table(&mut client, "t", &Clusters::new(75, 50, 32).vectors(20_000));
    let backend = Backend::of(&mut client);
    client
        .batch_execute(&format!(
            "CREATE FUNCTION leaders(v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN
               IF pg_backend_pid() <> {} THEN RAISE 'not in a worker' USING ERRCODE = '22012'; END IF;
               -- On a busy machine the leader would have all the rows before a worker has one.
               IF random() < 0.001 THEN PERFORM pg_sleep(0.05); END IF;
               RETURN v; END $$;
             CREATE FUNCTION narrow(v vector, id int) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE sql AS
               'SELECT CASE WHEN id = 19999 THEN public.subvector(v, 1, 5) ELSE v END'",
            backend.pid
        ))
        .unwrap();
    for concurrently in ["", "CONCURRENTLY"] {
        for (expression, sqlstate, message) in [
            ("leaders(v)::vector(32)", "22012", "not in a worker"),
            ("narrow(v, id)::vector", "22000", "expected 32 dimensions, not 5"),
        ] {
            let sql = format!("CREATE INDEX {concurrently} i ON t USING ivf (({expression}))");
            let refusal = refused(&mut client, &sql);
            assert_eq!((&*refusal.sqlstate, &*refusal.message), (sqlstate, message), "{sql}");
            wait_until("the workers are gone", || backend.workers().is_empty());
            client.batch_execute("DROP INDEX IF EXISTS i").unwrap();
        }
    }
    assert_eq!(workers_of(&cluster, &mut client, "CREATE INDEX i ON t USING ivf (v)"), ["2 of 2"]);
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// A cancel of the statement, a timeout, and an administrator that ends a worker, all of them while workers work.
#[test]
fn workers_end_with_the_statement() {
    let cluster = cluster_with(&["max_parallel_maintenance_workers = 2"]);
    let mut client = cluster.client();
    make_parallel_table(&mut client, "t", &Clusters::new(76, 50, 32).vectors(5_000));
    client
        .batch_execute(
            "CREATE FUNCTION slow(v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(0.002); RETURN v; END $$",
        )
        .unwrap();
    let sql = "CREATE INDEX i ON t USING ivf ((slow(v)::vector(32))) WITH (lists = 2)";
    let backend = Backend::of(&mut client);
    let token = client.cancel_token();
    let ends: [(&str, &dyn Fn()); 2] = [
        ("57014", &|| token.cancel_query(NoTls).unwrap()),
        ("57P01", &|| {
            let worker = backend.workers()[0];
            assert!(signal(worker.pid, libc::SIGTERM));
        }),
    ];
    for (sqlstate, end) in ends {
        let refusal = std::thread::scope(|scope| {
            let statement = scope.spawn(|| refused(&mut client, sql));
            wait_until("two workers work", || backend.workers().len() == 2 || statement.is_finished());
            std::thread::sleep(Duration::from_millis(100));
            end();
            statement.join().unwrap()
        });
        assert_eq!(refusal.sqlstate, sqlstate, "{}", refusal.message);
        wait_until("the workers are gone", || backend.workers().is_empty());
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_class WHERE relname = 'i'"), "0");
    make_index(&mut client, "i", "t", L2, "lists = 2");
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// Workers and leader together, and not each of them, have `maintenance_work_mem`.
#[test]
fn a_parallel_build_stays_within_maintenance_work_mem() {
    let cluster = cluster_with(&["max_parallel_maintenance_workers = 2"]);
    let mut client = cluster.client();
    // 92 MB of vectors.
    make_parallel_table(&mut client, "t", &Clusters::new(77, 300, 384).vectors(60_000));
    client.batch_execute("CREATE TABLE one AS SELECT * FROM t LIMIT 10").unwrap();
    for (megabytes, options, said) in
        [(24, "lists = 50", "2 of 2"), (64, "lists = 300", "2 of 2"), (12, "lists = 500", "")]
    {
        let mut client = cluster.connect();
        client.batch_execute("CREATE INDEX o ON one USING ivf (v); DROP INDEX o").unwrap();
        client.batch_execute(&format!("SET maintenance_work_mem = '{megabytes}MB'")).unwrap();
        let before = cluster.log().len();
        let create = format!("CREATE INDEX i ON t USING ivf (v) WITH ({options})");
        let peak = peak_of(&mut client, &create) as f64 / 1024.0 / 1024.0;
        let log = cluster.log();
        assert_eq!(
            said_of_workers(&log[before..]).next().unwrap_or_default(),
            said,
            "{options} {megabytes} MB"
        );
        // The allocators' own overhead and write buffers, and what a process has before it does anything. Measured with
        // workers: 30.0 and 53.1 MB.
        let allowed = megabytes as f64 * 1.1 + 4.0 + if said.is_empty() { 0.0 } else { 2.0 * 8.0 };
        assert!(peak < allowed, "{options}: {peak:.1} MB with {megabytes} MB allowed");
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

/// What the workers read and wrote is the statement's, and so are the rows that they count.
#[test]
fn what_workers_do_is_counted() {
    let mut cluster = cluster_with(&["max_parallel_maintenance_workers = 2", "autovacuum_naptime = '1d'"]);
    let mut client = cluster.client();
    let contrib = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    let has_statements = value(&mut client, contrib) == "1";
    if has_statements {
        client.batch_execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").unwrap();
        drop(client);
        cluster.stop("fast");
        cluster.boot();
        client = cluster.client();
        client.batch_execute("CREATE EXTENSION pg_stat_statements").unwrap();
    } else {
        skipped("what a parallel build reads is counted: this Postgres came without pg_stat_statements");
    }
    make_parallel_table(&mut client, "t", &Clusters::new(78, 50, 64).vectors(20_000));
    // Since PostgreSQL 18 a build leaves the counts of a table alone that autovacuum is not to touch.
    client.batch_execute("ALTER TABLE t RESET (autovacuum_enabled)").unwrap();
    client.batch_execute("INSERT INTO t SELECT id, NULL FROM t WHERE id < 1000").unwrap();
    let pages: f64 = value(&mut client, "SELECT pg_relation_size('t') / 8192").parse().unwrap();
    for (workers, said) in [(0, vec![]), (2, vec!["2 of 2"])] {
        client.batch_execute(&format!("SET max_parallel_maintenance_workers = {workers}")).unwrap();
        if has_statements {
            client.batch_execute("SELECT pg_stat_statements_reset()").unwrap();
        }
        let create = "CREATE INDEX i ON t USING ivf (v) WITH (lists = 10)";
        assert_eq!(workers_of(&cluster, &mut client, create), said);
        if has_statements {
            let used = "SELECT shared_blks_hit + shared_blks_read FROM pg_stat_statements
                        WHERE query LIKE 'CREATE INDEX i %'";
            let used: f64 = value(&mut client, used).parse().unwrap();
            assert!(used > pages, "{workers} workers: {used} of {pages} pages");
        }
        // The statement knows exactly how many rows there are.
        let counts = "SELECT reltuples FROM pg_class WHERE relname IN ('t', 'i') ORDER BY relname";
        assert_eq!(rows(&mut client, counts).concat(), ["20000", "20999"], "{workers} workers");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}
