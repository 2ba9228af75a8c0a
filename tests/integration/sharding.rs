//! docs/sharding.md, run as it stands, with two shards; a replica in place of one, and one that is down.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::cluster::{Cluster, blocks, in_newer_words, refused, rows, skipped, value, wait_until};

/// The page's SQL of a kind, in order, and what it shows as the plan.
fn page(kind: &str) -> Vec<String> {
    let blocks = blocks("docs/sharding.md", kind).into_iter();
    // The tiny model of the tests has other dimensions.
    blocks.map(|block| block.replace("vector(384)", "vector(32)")).collect()
}

fn plan(client: &mut Client, sql: &str) -> String {
    in_newer_words(&rows(client, sql).concat().join("\n"))
}

/// The shards, the coordinator, and a connection to it.
type Sharded = ([Cluster; 2], Cluster, Client);

fn sharded(what: &str) -> Option<Sharded> {
    let shards = [Cluster::start(), Cluster::start()];
    let coordinator = Cluster::start();
    let mut client = coordinator.connect();
    if value(&mut client, "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'") == "0" {
        skipped(&format!("{what}: this server has no postgres_fdw"));
        return None;
    }
    let [schema, index] = page("sql shard").try_into().unwrap();
    let [servers, data] = page("sql coordinator").try_into().unwrap();
    let here = |text: &str| {
        let mut text = text.replace("'search'", "'postgres'").replace("user 'app'", "user 'postgres'");
        for (number, shard) in (1..).zip(&shards) {
            text = text.replace(&format!("shard{number}.example"), shard.host().to_str().unwrap());
        }
        text
    };
    for shard in &shards {
        shard.connect().batch_execute(&schema).unwrap();
    }
    client.batch_execute(&here(&servers)).unwrap();
    client.batch_execute(&data).unwrap();
    for shard in &shards {
        shard.connect().batch_execute(&index).unwrap();
        let count: i32 = value(&mut shard.connect(), "SELECT count(*) FROM docs").parse().unwrap();
        assert!((1_800..2_200).contains(&count), "{count}");
    }
    Some((shards, coordinator, client))
}

const NEAREST: &str = "SELECT id FROM docs ORDER BY embedding <=> embed('text number 7') LIMIT 5";

#[test]
fn the_page_does_what_it_says() {
    let Some((shards, _coordinator, mut client)) = sharded("docs/sharding.md") else { return };
    let [ask] = page("sql ask").try_into().unwrap();
    let [shown] = page("text plan").try_into().unwrap();
    assert_eq!(plan(&mut client, &ask), shown.trim_end().replace("vector(384)", "vector(32)"));

    // The same rows as sorted here, of which each was embedded where it is.
    let found = rows(&mut client, NEAREST);
    let mut all = vec![];
    for shard in &shards {
        let mut shard = shard.connect();
        assert_eq!(value(&mut shard, "SELECT count(*) FROM docs WHERE embedding <> embed(body)"), "0");
        let nearest = NEAREST.replace("SELECT id", "SELECT id, embedding <=> embed('text number 7')");
        all.extend(rows(&mut shard, &format!("SET enable_indexscan = off; {nearest}")));
    }
    all.sort_by(|a, b| a[1].parse::<f64>().unwrap().total_cmp(&b[1].parse().unwrap()));
    let ids: Vec<_> = all.iter().take(5).map(|row| vec![row[0].clone()]).collect();
    assert_eq!((found[0][0].as_str(), &found), ("7", &ids));
}

/// Wherever the call stands, and however its text comes.
#[test]
fn every_form_of_a_query_is_answered_alike() {
    let Some((_shards, _coordinator, mut client)) = sharded("searches over shards") else { return };
    let expected = rows(&mut client, NEAREST);
    let pushed = |client: &mut Client, sql: &str| {
        let plan = rows(client, &format!("EXPLAIN (VERBOSE, COSTS OFF) {sql}")).concat().join("\n");
        assert_eq!(plan.matches("ORDER BY (embedding OPERATOR(public.<=>) $").count(), 2, "{sql}: {plan}");
    };
    for sql in [
        NEAREST.replace("embed('text number 7')", "embed('tiny-bert', 'text number 7')"),
        NEAREST.replace("embed('text number 7')", "(SELECT embed('text number 7'))"),
        NEAREST.replace("embed('text number 7')", "embed_query('text number 7')"),
        NEAREST.replace("SELECT id", "SELECT id, embedding <=> embed('text number 7') AS distance"),
        NEAREST.replace("ORDER", "WHERE embedding <=> embed('text number 7') < 2 ORDER"),
        "SELECT id FROM (SELECT id, embedding <=> embed('text number 7') AS d FROM docs) AS s ORDER BY d LIMIT 5"
            .to_string(),
    ] {
        let ids: Vec<_> = rows(&mut client, &sql).into_iter().map(|row| vec![row[0].clone()]).collect();
        assert_eq!(ids, expected, "{sql}");
        if !sql.contains("'tiny-bert'") {
            pushed(&mut client, &sql);
        }
    }
    // A prepared statement, with a plan for its parameter and with one for all.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}; DEALLOCATE ALL")).unwrap();
        let prepare = NEAREST.replace("'text number 7'", "$1");
        client.batch_execute(&format!("PREPARE nearest(text) AS {prepare}")).unwrap();
        assert_eq!(rows(&mut client, "EXECUTE nearest('text number 7')"), expected, "{mode}");
        assert_eq!(rows(&mut client, "EXECUTE nearest('text number 8')")[0], ["8"], "{mode}");
        pushed(&mut client, "EXECUTE nearest('text number 7')");
        assert_eq!(rows(&mut client, "EXECUTE nearest(NULL)").len(), 5);
    }
    client.batch_execute("RESET plan_cache_mode").unwrap();
    // Where the planner compares expressions the call stays, and the query works.
    let distance = "embedding <=> embed('text number 7')";
    for sql in [
        format!(
            "SELECT {distance} AS d FROM docs GROUP BY {distance} HAVING {distance} < 2 ORDER BY {distance} LIMIT 5"
        ),
        format!("SELECT DISTINCT {distance} FROM docs ORDER BY {distance} LIMIT 5"),
        format!("SELECT min({distance}) FROM docs GROUP BY id ORDER BY min({distance}) LIMIT 5"),
        format!("SELECT rank() OVER (ORDER BY {distance}) FROM docs ORDER BY {distance} LIMIT 5"),
    ] {
        assert_eq!(rows(&mut client, &sql).len(), 5, "{sql}");
    }
    client
        .batch_execute("UPDATE docs SET body = 'changed', embedding = embed('changed') WHERE id = 7")
        .unwrap();
    assert_eq!(value(&mut client, "SELECT embedding = embed('changed') FROM docs WHERE id = 7"), "t");
    assert_eq!(
        value(&mut client, "SELECT id FROM docs ORDER BY embedding <=> embed('changed') LIMIT 1"),
        "7"
    );
}

#[test]
fn a_replica_answers_and_a_shard_that_is_down_is_an_error() {
    let Some((mut shards, _coordinator, mut client)) = sharded("a shard that is down") else { return };
    let expected = rows(&mut client, NEAREST);
    let replica = shards[0].standby(&[]);
    let host = replica.host().display().to_string();
    let behind = "SELECT pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn()";
    wait_until("the replica is there", || value(&mut replica.connect(), behind) == "f");
    shards[0].stop("immediate");
    // The connection of before is found broken first, a new one is refused then.
    for _ in 0..2 {
        let start = Instant::now();
        let refusal = refused(&mut client, NEAREST);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(refusal.sqlstate.starts_with("08") || refusal.sqlstate == "57P01", "{refusal:?}");
    }
    let refusal = refused(&mut client, NEAREST);
    assert_eq!(refusal.message, "could not connect to server \"shard1\"");
    client.batch_execute(&format!("ALTER SERVER shard1 OPTIONS (SET host '{host}')")).unwrap();
    assert_eq!(rows(&mut client, NEAREST), expected);
}
