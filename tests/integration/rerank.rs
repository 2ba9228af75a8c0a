//! `rerank`: a cross-encoder is loaded, preloaded, counted, cached and cancelled as other models are.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, refused, rows, value};

/// By Python, as tests/data/tiny-cross.expected.json has it.
const IS_RIGHT: &str = "SELECT abs((rerank('tiny-cross', 'red apple', '{hello world}'))[1] + 3.513) < 0.001";

#[test]
fn a_cross_encoder_is_preloaded_and_shares_its_weights() {
    let cluster = Cluster::with_settings(&[
        "shared_preload_libraries = 'pg_embed'",
        "pg_embed.preload_models = 'tiny-bert, tiny-cross'",
        "pg_embed.rerank_model = 'tiny-cross'",
    ]);
    let mut client = cluster.client();
    let loaded = "SELECT name, task FROM embed_models() WHERE loaded ORDER BY name";
    assert_eq!(rows(&mut client, loaded), [["tiny-bert", "embed"], ["tiny-cross", "rerank"]]);
    assert_eq!(value(&mut client, IS_RIGHT), "t");
    // By way of the weight cache, in a session that loads it for itself, the scores are the same bit by bit.
    let scores = "SELECT rerank('red apple', ARRAY['hello world', 'a', repeat('tea ', 100)])";
    let preloaded = value(&mut client, scores);
    client.batch_execute("SET pg_embed.threads = 2; SET pg_embed.cache_size = 0").unwrap();
    assert_eq!(value(&mut client, scores), preloaded);
}

#[test]
fn pairs_are_counted_and_kept() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let stats =
        "SELECT calls, texts, tokens, truncations, cache_hits FROM embed_stats() WHERE model = 'tiny-cross'";
    let score = "SELECT rerank('tiny-cross', 'red apple', '{hello world,NULL,a,hello world}')";
    let first = value(&mut client, score);
    // [CLS] red apple [SEP] hello world [SEP], [CLS] red apple [SEP] a [SEP]
    assert_eq!(rows(&mut client, stats), [["1", "3", "13", "0", "0"]]);
    assert_eq!(value(&mut client, score), first);
    assert_eq!(rows(&mut client, stats), [["2", "6", "13", "0", "3"]]);
    // Another query, and another cut between query and document, are other pairs.
    client.simple_query("SELECT rerank('tiny-cross', 'red', ARRAY['apple' || E'\\n' || 'a'])").unwrap();
    client.simple_query("SELECT rerank('tiny-cross', 'red apple', ARRAY[repeat('tea ', 100)])").unwrap();
    assert_eq!(rows(&mut client, stats), [["4", "8", "83", "1", "3"]]);
}

#[test]
fn a_long_list_of_documents_is_cancelled_at_once() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute("SET statement_timeout = '300ms'; SET pg_embed.cache_size = 0").unwrap();
    let start = Instant::now();
    let many = "SELECT rerank('tiny-cross', 'red apple', array_agg(i || repeat(' tea', 60))) FROM generate_series(1, 100000) AS i";
    assert_eq!(refused(&mut client, many).sqlstate, "57014");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(value(&mut client, IS_RIGHT), "t");
}
