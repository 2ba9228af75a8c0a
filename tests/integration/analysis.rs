//! Window functions over vectors, and `hybrid_search`, on tables of some size.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, refused, rows, value};

/// Learning is ended while it counts, and while it reads.
#[test]
fn clusters_and_components_are_cancelled_at_once() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE points AS SELECT i AS id, (SELECT array_agg(random() + 0 * i * j) FROM generate_series(1, 200) AS j)::vector AS v
                FROM generate_series(1, 20000) AS i;
             SET work_mem = '1GB'; SET statement_timeout = '400ms'",
        )
        .unwrap();
    for slow in [
        "SELECT kmeans(v, 1000) OVER () FROM points",
        "SELECT pca(v, 150) OVER () FROM points",
        // Sleeps for each row, as its argument depends on the row.
        "SELECT kmeans((SELECT v FROM pg_sleep(0.0005 + 0 * points.id)), 2) OVER () FROM points",
    ] {
        let start = Instant::now();
        assert_eq!(refused(&mut client, slow).sqlstate, "57014", "{slow}");
        assert!(start.elapsed() < Duration::from_secs(3), "{slow}: {:?}", start.elapsed());
    }
    client.batch_execute("SET statement_timeout = 0").unwrap();
    let few =
        "SELECT count(DISTINCT c) FROM (SELECT kmeans(v, 2) OVER () AS c FROM points WHERE id < 100) AS k";
    assert_eq!(value(&mut client, few), "2");
}

#[test]
fn a_hybrid_search_uses_both_indexes() {
    let cluster = Cluster::with_settings(&["pg_embed.max_workers = 0"]);
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (tenant int, id int, body text, PRIMARY KEY (tenant, id));
             INSERT INTO docs SELECT i % 10, i, 'text number ' || i || ' of the tenant ' || i % 10 FROM generate_series(1, 3000) AS i;
             SELECT vectorizer_create('docs', '{body}', destination => 'passages', index => false)",
        )
        .unwrap();
    client.batch_execute("CALL vectorizer_run()").unwrap();
    client
        .batch_execute(
            "ALTER TABLE passages ADD words tsvector GENERATED ALWAYS AS (to_tsvector('simple', content)) STORED;
             CREATE INDEX by_words ON passages USING gin (words);
             CREATE INDEX by_vectors ON passages USING ivf (embedding vector_cosine_ops, tenant)",
        )
        .unwrap();
    client.batch_execute("VACUUM ANALYZE passages").unwrap();
    let search = "SELECT key, word_rank FROM hybrid_search('passages', 'number 1234', 5, '{\"tenant\": 4}', config => 'simple', candidates => 10)";
    let found = rows(&mut client, search);
    assert_eq!(found.len(), 5);
    assert!(found.contains(&vec!["{4,1234}".to_string(), "1".to_string()]), "{found:?}");
    assert!(found.iter().all(|row| row[0].starts_with("{4,")), "{found:?}");
    client.batch_execute("SELECT pg_stat_force_next_flush()").unwrap();
    let scans = "SELECT indexrelname, idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname LIKE 'by_%' ORDER BY 1";
    assert_eq!(rows(&mut client, scans), [["by_vectors", "t"], ["by_words", "t"]]);
    // A change of model leaves the column of words and its index as they are.
    client.batch_execute("SELECT vectorizer_alter('passages', model => 'tiny-pooled')").unwrap();
    client.batch_execute("CALL vectorizer_run()").unwrap();
    assert_eq!(value(&mut client, "SELECT model FROM vectorizer_status"), "tiny-pooled");
    assert_eq!(rows(&mut client, search).len(), 5);
    assert_eq!(value(&mut client, "SELECT count(*) FROM passages WHERE words @@ '1234'"), "1");
}
