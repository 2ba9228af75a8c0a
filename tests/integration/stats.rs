//! `embed_stats()` and what the log says of a model that was loaded.

use postgres::Client;

use crate::backend::{Backend, cancel, endless_embedding};
use crate::cluster::{Cluster, refused, restarts, rows, signal, value, wait_for_recovery};

const PRELOAD: [&str; 2] = ["shared_preload_libraries = 'pg_embed'", "pg_embed.preload_models = 'tiny-bert'"];
/// No row.
const NOTHING: [[&str; 7]; 0] = [];
const STATS: &str =
    "SELECT model, calls, texts, tokens, truncations, cache_hits, seconds > 0 FROM embed_stats()";

fn stats(client: &mut Client) -> Vec<Vec<String>> {
    rows(client, STATS)
}

#[test]
fn a_session_counts_its_own() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    assert_eq!(stats(&mut client), NOTHING);
    // 'hello world' has four tokens with the special ones; the second time it is in the cache.
    for _ in 0..2 {
        value(&mut client, "SELECT embed('hello world') IS NULL");
    }
    value(&mut client, "SELECT embed(ARRAY['hello world', 'hello world', NULL, '']) IS NULL");
    value(&mut client, "SELECT embed('tiny-pooled', repeat('word ', 1000)) IS NULL");
    value(&mut client, "SELECT token_count('hello') IS NULL");
    let expected =
        [["tiny-bert", "3", "5", "8", "0", "1", "t"], ["tiny-pooled", "1", "1", "64", "1", "0", "t"]];
    assert_eq!(stats(&mut client), expected);
    // A text that is refused is counted; a call that the model did not finish is not.
    client.batch_execute("SET pg_embed.on_truncate = error").unwrap();
    refused(&mut client, "SELECT embed(repeat('word ', 1000))");
    cancel(&mut client, &endless_embedding(None));
    assert_eq!(stats(&mut client)[0], ["tiny-bert", "4", "6", "72", "1", "1", "t"]);
    assert_eq!(stats(&mut cluster.connect()), NOTHING);
}

#[test]
fn a_preloaded_library_counts_for_the_whole_cluster() {
    let cluster = Cluster::with_settings(&PRELOAD);
    let mut observer = cluster.client();
    observer.batch_execute("CREATE ROLE somebody LOGIN").unwrap();
    assert_eq!(stats(&mut observer), NOTHING);
    // Both models are new to the table, and eight sessions come at once.
    let mut clients: Vec<Client> = (0..8).map(|_| cluster.connect()).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                for i in 0..50 {
                    value(client, &format!("SELECT embed('hello {i}') IS NULL"));
                    value(client, "SELECT embed('tiny-pooled', 'hello world') IS NULL");
                }
            });
        }
    });
    let found = stats(&mut cluster.connect_as("somebody", "postgres"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0][..3], ["tiny-bert", "400", "400"]);
    assert_eq!(found[0][4..], ["0", "0", "t"]);
    // Each session has computed it once, and found it in its cache then.
    assert_eq!(found[1], ["tiny-pooled", "400", "400", "32", "0", "392", "t"]);
    // What was embedded stays counted when the transaction is rolled back, and when the session has ended.
    let mut client = clients.remove(0);
    client.batch_execute("BEGIN; SELECT embed('tiny-pooled', 'hello world'); ROLLBACK").unwrap();
    drop(clients);
    assert_eq!(stats(&mut observer)[1], ["tiny-pooled", "401", "401", "32", "0", "393", "t"]);
    // A crash of the cluster begins anew.
    let before = restarts(&cluster);
    assert!(signal(Backend::of(&mut client).pid, libc::SIGKILL));
    wait_for_recovery(&cluster, before);
    let mut client = cluster.connect();
    assert_eq!(stats(&mut client), NOTHING);
    value(&mut client, "SELECT embed('hello world') IS NULL");
    assert_eq!(stats(&mut cluster.connect()), [["tiny-bert", "1", "1", "4", "0", "0", "t"]]);
}

#[test]
fn parallel_workers_count() {
    let cluster = Cluster::with_settings(&[&PRELOAD[..], &["max_parallel_workers = 4"]].concat());
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs AS SELECT 'text ' || i AS body FROM generate_series(1, 3000) i; ANALYZE docs;
             SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let plan = rows(
        &mut client,
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(embed(body)), count(embed('once')) FROM docs",
    );
    assert!(plan.iter().any(|line| line[0].contains("Workers Launched: 2")), "{plan:?}");
    let found = stats(&mut client).remove(0);
    assert_eq!(found[2], "6000");
    // Each process that has had a row has computed 'once' once.
    assert!(["2997", "2998", "2999"].contains(&&found[5][..]), "{found:?}");
}

#[test]
fn more_models_than_the_table_holds() {
    let cluster = Cluster::with_settings(&PRELOAD);
    let mut client = cluster.client();
    client.batch_execute("SET pg_embed.weight_cache = off").unwrap();
    for i in 0..70 {
        std::os::unix::fs::symlink("tiny-bert", cluster.models().join(format!("other-{i:02}"))).unwrap();
        value(&mut client, &format!("SELECT embed('other-{i:02}', 'hello') IS NULL"));
    }
    let found = stats(&mut client);
    assert_eq!(found.len(), 64);
    assert!(found.iter().all(|row| row[1..3] == ["1", "1"]), "{found:?}");
}

#[test]
fn the_log_tells_what_a_model_takes_to_load() {
    let cluster = Cluster::with_settings(&PRELOAD);
    cluster.client().simple_query("SELECT embed('tiny-pooled', 'hello')").unwrap();
    let within = "DO $$ BEGIN PERFORM embed('tiny-pooled', 'what I look for'); END $$";
    cluster.connect().simple_query(within).unwrap();
    let log = cluster.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("loaded model")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    let weights = "its weights are those of the weight cache";
    for (line, verb, model, weights) in [
        (lines[0], "preloaded", "tiny-bert", "wrote its weights to the weight cache"),
        (lines[1], " loaded", "tiny-pooled", "wrote its weights to the weight cache"),
        (lines[2], " loaded", "tiny-pooled", weights),
    ] {
        assert!(line.contains(&format!("{verb} model \"{model}\" in ")), "{line}");
        assert!(
            line.contains("LOG: ") && line.contains(" ms, ") && line.contains(" MB of private memory"),
            "{line}"
        );
        assert!(line.ends_with(weights), "{line}");
    }
    assert!(!log.contains("what I look for"), "{log}");
}
