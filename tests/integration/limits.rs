//! Very long texts, very many texts: bounded time and memory, and a cancel that is heard.

use std::time::{Duration, Instant};

use crate::backend::{Backend, cancel, endless_embedding};
use crate::cluster::{Cluster, refused, rows, skipped, value};

#[test]
fn ten_million_characters() {
    let cluster = Cluster::start();
    cluster
        .client()
        .batch_execute(
            "CREATE TABLE texts (kind text, body text);
             INSERT INTO texts VALUES ('words', repeat('word ', 2000000)), ('giant word', repeat('a', 10000000)),
               ('spaces', repeat(' ', 10000000)), ('cjk', repeat('漢', 10000000))",
        )
        .unwrap();
    let mut client = cluster.connect();
    let backend = Backend::of(&mut client);
    let before = backend.kilobytes("VmHWM");
    let word = value(&mut client, "SELECT token_count('word') - 2").parse::<u64>().unwrap();
    let cases = [
        ("words", "f", 2_000_000 * word + 2),
        ("giant word", "f", 3),
        ("spaces", "t", 2),
        ("cjk", "f", 10_000_002),
    ];
    for (kind, is_null, tokens) in cases {
        let (start, cpu) = (Instant::now(), backend.cpu());
        let embed = format!("SELECT embed(body) IS NULL FROM texts WHERE kind = '{kind}'");
        assert_eq!(value(&mut client, &embed), is_null, "{kind}");
        let (elapsed, cpu) = (start.elapsed(), backend.cpu() - cpu);
        assert!(
            cpu < Duration::from_secs(2) && elapsed < Duration::from_secs(6),
            "{kind}: {elapsed:?} {cpu:?}"
        );
        let count = format!("SELECT token_count(body) FROM texts WHERE kind = '{kind}'");
        assert_eq!(value(&mut client, &count), tokens.to_string(), "{kind}");
    }
    let grown = (backend.kilobytes("VmHWM") - before) / 1024;
    assert!(grown < 150, "the backend grew by {grown} MB");
}

#[test]
fn a_cancel_and_a_timeout_end_a_large_batch() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let model = cluster.real_model();
    if model.is_none() {
        skipped("cancelling a model of real size: none is installed; tiny-bert stands in for it");
    }
    client.simple_query(&format!("SELECT embed('{}', 'warm')", model.unwrap_or("tiny-bert"))).unwrap();
    let sql = endless_embedding(model);

    let late = cancel(&mut client, &sql);
    assert!(late < Duration::from_millis(500), "{late:?} after the cancel");

    let backend = Backend::of(&mut client);
    let before = backend.cpu();
    client.batch_execute("SET statement_timeout = '1s'").unwrap();
    assert_eq!(refused(&mut client, &sql).sqlstate, "57014");
    let cpu = backend.cpu() - before;
    assert!(cpu < Duration::from_millis(1_500), "{cpu:?} with a timeout of 1 s");
    client.batch_execute("RESET statement_timeout").unwrap();

    // Also within one long text.
    client.batch_execute("SET statement_timeout = '50ms'").unwrap();
    let before = backend.cpu();
    let count = "SELECT token_count(repeat('word ', 20000000))";
    assert_eq!(refused(&mut client, count).sqlstate, "57014");
    let cpu = backend.cpu() - before;
    assert!(cpu < Duration::from_millis(550), "{cpu:?} with a timeout of 50 ms");
    client.batch_execute("RESET statement_timeout").unwrap();

    assert_eq!(value(&mut client, "SELECT embed('hello') = embed('tiny-bert', 'hello')"), "t");
}

#[test]
fn on_truncate_in_arrays() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let sql = "SELECT embed(ARRAY['short', repeat('word ', 100), NULL, 'also short'])";
    let ignored = value(&mut client, sql);
    client.batch_execute("SET pg_embed.on_truncate = error").unwrap();
    // Twice: the second time the text is in the cache.
    for _ in 0..2 {
        let refusal = refused(&mut client, sql);
        assert_eq!(refusal.sqlstate, "22001");
        assert!(
            refusal.message.contains("64 tokens") && refusal.message.contains("tiny-bert"),
            "{refusal:?}"
        );
    }
    client.batch_execute("SET pg_embed.on_truncate = notice").unwrap();
    assert_eq!(value(&mut client, sql), ignored);
    // 62 words and two special tokens fit; one word more does not.
    client.batch_execute("SET pg_embed.on_truncate = error").unwrap();
    let words = |n| format!("SELECT embed(ARRAY[trim(repeat('the ', {n}))])");
    assert_eq!(value(&mut client, "SELECT token_count('the')"), "3");
    client.simple_query(&words(62)).unwrap();
    assert_eq!(refused(&mut client, &words(63)).sqlstate, "22001");
}

#[test]
fn memory_does_not_keep_growing() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let backend = Backend::of(&mut client);
    let mut embed = |from: u32, to: u32| {
        rows(
            &mut client,
            &format!(
                "SELECT count(embed(i || repeat(' word', i * 37 % 200))), \
                 count(embed(ARRAY[i || 'a', i || repeat(' b', i * 7 % 100)])) FROM generate_series({from}, {to}) i"
            ),
        );
        backend.kilobytes("VmRSS")
    };
    // The allocator keeps what the longest text needed: it has met enough of them by then.
    let early = embed(1, 2_500);
    let late = embed(2_501, 8_000);
    assert!(late < early + 8 * 1024, "{early} kB after 2,500 rounds, {late} kB after 8,000");
}
