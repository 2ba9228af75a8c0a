//! Vectorizers that are altered: what they embed, and by which model.

use std::time::{Duration, Instant};

use postgres::Client;

use crate::cluster::{Cluster, copy_folder, refused, rows, skipped, test_data, value, wait_until};
use crate::vectorizer::{run, wait_for, without_workers};

/// Rows whose vector is not the one that the vectorizer's model makes of their text; both as one statement sees them.
const WRONG: &str = "SELECT count(*) FROM docs AS d, vectorizer AS v
    WHERE v.target = 'embedding' AND d.embedding IS DISTINCT FROM embed(v.model, d.body)";
const WRONG_CHUNKS: &str = "WITH should AS (
        SELECT d.id, c.ordinal, c.content, embed(v.model, c.content)::text AS embedding
        FROM docs AS d, vectorizer AS v,
            chunk(d.body, (v.chunk ->> 'max_tokens')::int, (v.chunk ->> 'overlap')::int, model => v.model) AS c
        WHERE v.name = 'docs_chunks'),
        found AS (SELECT id, ordinal, content, embedding::text FROM docs_chunks)
    SELECT count(*) FROM ((TABLE should EXCEPT TABLE found) UNION ALL (TABLE found EXCEPT TABLE should)) AS wrong";

/// Another model of as many dimensions, whose vectors are others.
fn add_model(cluster: &Cluster, name: &str) {
    copy_folder(&test_data("tiny-bert"), &cluster.models().join(name));
    let pooling = cluster.models().join(name).join("1_Pooling/config.json");
    let config = std::fs::read_to_string(&pooling).unwrap();
    let config = config
        .replace("\"pooling_mode_cls_token\": false", "\"pooling_mode_cls_token\": true")
        .replace("\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false");
    std::fs::write(pooling, config).unwrap();
}

fn with_docs(client: &mut Client) {
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, title text, body text);
             INSERT INTO docs SELECT i, 'title ' || i, repeat('a sentence of document ' || i || '. ', i % 20 + 1)
                FROM generate_series(1, 60) i;
             SELECT vectorizer_create('docs', '{body}', target => 'embedding', index => true);
             SELECT vectorizer_create('docs', '{body}', destination => 'docs_chunks',
                chunk => '{\"max_tokens\": 20, \"overlap\": 4}')",
        )
        .unwrap();
    run(client);
    // What workers have in hand.
    wait_for(client);
    assert_eq!(value(client, WRONG), "0");
    assert_eq!(value(client, WRONG_CHUNKS), "0");
}

#[test]
fn sources_and_chunks_change_where_they_are() {
    let (_cluster, mut client) = without_workers();
    with_docs(&mut client);
    client.batch_execute("UPDATE docs SET title = NULL WHERE id = 7").unwrap();
    client.batch_execute("SELECT vectorizer_alter('docs_embedding', sources => '{title}')").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_queue"), "60");
    // Until then the vectors are those of before.
    assert_eq!(value(&mut client, WRONG), "0");
    let wrong = "SELECT count(*) FROM docs WHERE embedding IS DISTINCT FROM embed(title)";
    run(&mut client);
    assert_eq!(value(&mut client, wrong), "0");
    assert_eq!(value(&mut client, "SELECT embedding IS NULL FROM docs WHERE id = 7"), "t");
    client
        .batch_execute(
            "UPDATE docs SET body = 'not a source of it any more'; UPDATE docs SET title = 'x' WHERE id = 7",
        )
        .unwrap();
    let queued = "SELECT vectorizer, count(*) FROM vectorizer_queue GROUP BY 1 ORDER BY 1";
    assert_eq!(rows(&mut client, queued), [["docs_chunks", "60"], ["docs_embedding", "1"]]);
    run(&mut client);
    assert_eq!(value(&mut client, wrong), "0");
    // What it is already.
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_embedding', sources => '{title}', model => 'tiny-bert');
             SELECT vectorizer_alter('docs_chunks', chunk => '{\"overlap\": 4, \"max_tokens\": 20}')",
        )
        .unwrap();
    assert!(rows(&mut client, queued).is_empty());
    client.batch_execute("UPDATE docs SET body = repeat('word ', 100) WHERE id < 10").unwrap();
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_chunks', chunk => '{\"max_tokens\": 10, \"overlap\": 0}')",
        )
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
}

/// Statements that writers run while a model is being changed.
const MEANWHILE: &str = "INSERT INTO docs VALUES (100, 'new', 'new');
    UPDATE docs SET body = 'changed' WHERE id = 1;
    UPDATE docs SET body = ' ' WHERE id = 2;
    UPDATE docs SET body = NULL WHERE id = 3;
    DELETE FROM docs WHERE id IN (4, 5, 6);
    INSERT INTO docs VALUES (5, 'again', 'came back'), (6, 'without', NULL);
    UPDATE docs SET id = 107 WHERE id = 7;
    UPDATE docs SET title = 'unrelated' WHERE id = 8;
    UPDATE docs SET embedding = NULL WHERE id = 9;
    INSERT INTO docs (id, body, embedding) SELECT 110, 'brings one', embed('tiny-bert', 'brings one')";

#[test]
fn another_model_takes_over_when_all_is_embedded() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client
        .batch_execute(
            "CREATE TABLE audit_log (id int);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO audit_log VALUES (new.id); RETURN new; END $$;
             CREATE TRIGGER audit BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION audit()",
        )
        .unwrap();
    let columns = "SELECT name, model, rows, embedded, pending FROM vectorizer_status ORDER BY name";
    let index = "SELECT pg_relation_filenode('docs_embedding_idx'), pg_relation_filenode('docs_chunks_embedding_idx')";
    let before = rows(&mut client, index).remove(0);
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls');
             SELECT vectorizer_alter('docs_chunks', chunk => '{\"max_tokens\": 12, \"overlap\": 2}', model => 'tiny-cls')",
        )
        .unwrap();
    for (id, step) in [(1, 10), (2, 55), (3, 1000)] {
        client.batch_execute("CALL vectorizer_run('docs_embedding', max_rows => 30)").unwrap();
        client.batch_execute(&format!("CALL vectorizer_run('docs_chunks', max_rows => {step})")).unwrap();
        if id < 3 {
            assert_eq!(
                value(
                    &mut client,
                    "SELECT string_agg(DISTINCT model, ',') FROM vectorizer WHERE replaces IS NULL"
                ),
                "tiny-bert"
            );
            assert_eq!(value(&mut client, WRONG), "0");
            assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
            assert_eq!(
                value(
                    &mut client,
                    "SELECT vectorizer_embed('docs_embedding', 'x') = embed('tiny-bert', 'x')"
                ),
                "t"
            );
        }
        if id == 1 {
            assert_eq!(
                rows(&mut client, columns),
                [
                    ["docs_chunks", "tiny-bert", "60", "60", "0"],
                    ["docs_chunks (next)", "tiny-cls", "60", "10", "50"],
                    ["docs_embedding", "tiny-bert", "60", "60", "0"],
                    ["docs_embedding (next)", "tiny-cls", "60", "30", "30"],
                ]
            );
            client.batch_execute(MEANWHILE).unwrap();
        }
    }
    run(&mut client);
    assert_eq!(
        rows(&mut client, "SELECT name, model, pending, failed FROM vectorizer_status ORDER BY name"),
        [["docs_chunks", "tiny-cls", "0", "0"], ["docs_embedding", "tiny-cls", "0", "0"]]
    );
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
    assert_eq!(
        value(&mut client, "SELECT vectorizer_embed('docs_embedding', 'x') = embed('tiny-cls', 'x')"),
        "t"
    );
    let others = "SELECT count(*) FROM docs WHERE embedding <> embed('tiny-bert', body)";
    assert!(value(&mut client, others).parse::<i32>().unwrap() > 50);
    let left = "SELECT string_agg(relname, ',') FROM pg_class WHERE relname LIKE '%\\_next%'";
    assert_eq!(value(&mut client, left), "NULL");
    let after = rows(&mut client, index).remove(0);
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    client
        .batch_execute(
            "UPDATE docs SET body = 'later' WHERE id = 1; INSERT INTO docs VALUES (200, '', 'later')",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_log"), "4");
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
}

/// By its name they are the same. Sessions, workers and the postmaster may have the old one in memory.
#[test]
fn a_model_whose_files_have_changed() {
    let preloaded = ["shared_preload_libraries = 'pg_embed'", "pg_embed.preload_models = 'tiny-bert'"];
    for settings in [&["pg_embed.max_workers = 0"][..], &preloaded, &[]] {
        let cluster = Cluster::with_settings(settings);
        let mut client = cluster.client();
        with_docs(&mut client);
        let old = "SELECT embedding FROM docs WHERE id = 1";
        let before = value(&mut client, old);
        std::fs::remove_dir_all(cluster.models().join("tiny-bert")).unwrap();
        add_model(&cluster, "tiny-bert");
        // What has it in memory goes on with it; no vector of the other one gets in.
        let mut other = cluster.connect();
        other
            .batch_execute("SELECT vectorizer_pause('docs_embedding'), vectorizer_pause('docs_chunks')")
            .unwrap();
        other
            .batch_execute(
                "SELECT vectorizer_alter('docs_embedding', model => 'tiny-bert');
                 SELECT vectorizer_alter('docs_chunks', model => 'tiny-bert')",
            )
            .unwrap();
        // Only who has the old model can ask what compares with its vectors.
        let same =
            "SELECT vectorizer_embed('docs_embedding', body) <=> embedding < 1e-6 FROM docs WHERE id = 1";
        assert_eq!(value(&mut client, same), "t");
        if settings == preloaded {
            assert_eq!(value(&mut other, same), "t");
        } else {
            assert_eq!(refused(&mut other, same).sqlstate, "55000");
        }
        assert_eq!(value(&mut client, old), before);
        client
            .batch_execute("SELECT vectorizer_resume('docs_embedding'), vectorizer_resume('docs_chunks')")
            .unwrap();
        if settings.contains(&"pg_embed.max_workers = 0") {
            for name in ["docs_embedding (next)", "docs_chunks (next)"] {
                client.batch_execute(&format!("CALL vectorizer_run('{name}')")).unwrap();
            }
        }
        wait_until("the models have changed", || {
            value(&mut other, "SELECT count(*) FROM vectorizer WHERE replaces IS NOT NULL") == "0"
        });
        let status = "SELECT name, state, pending, of_other_models FROM vectorizer_status ORDER BY name";
        let in_step = [["docs_chunks", "in step", "0", "0"], ["docs_embedding", "in step", "0", "0"]];
        assert_eq!(rows(&mut other, status), in_step);
        // A new process has the new model in any case, but not one of a server that has preloaded the old one.
        if settings != preloaded {
            let mut new = cluster.connect();
            assert_eq!(value(&mut new, WRONG), "0");
            assert_eq!(value(&mut new, WRONG_CHUNKS), "0");
        }
        assert_ne!(value(&mut other, old), before);
        let same =
            "SELECT vectorizer_embed('docs_embedding', body) <=> embedding < 1e-6 FROM docs WHERE id = 1";
        assert_eq!(value(&mut client, same), "t");
        assert_eq!(value(&mut other, same), "t");
    }
}

#[test]
fn other_dimensions() {
    let (cluster, mut client) = without_workers();
    let Some(model) = cluster.real_model() else {
        return skipped("a model of other dimensions: none is installed");
    };
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) i;
             SELECT vectorizer_create('docs', '{body}', destination => 'docs_chunks',
                chunk => '{\"max_tokens\": 20, \"overlap\": 4}');
             SELECT vectorizer_create('docs', '{body}', target => 'embedding', index => true)",
        )
        .unwrap();
    run(&mut client);
    client
        .batch_execute(
            "CREATE ROLE reader; CREATE ROLE lender;
             GRANT SELECT ON docs_chunks_view TO reader; GRANT SELECT ON docs_chunks_view TO lender WITH GRANT OPTION;
             ALTER VIEW docs_chunks_view SET (security_barrier = true);
             CREATE VIEW mine AS SELECT embedding FROM docs; CREATE VIEW yours AS SELECT * FROM docs_chunks_view",
        )
        .unwrap();
    let alter = |name: &str| format!("SELECT vectorizer_alter('{name}', model => '{model}')");
    for (name, view) in [("docs_embedding", "public.mine"), ("docs_chunks", "public.yours")] {
        let refusal = refused(&mut client, &alter(name));
        assert_eq!(refusal.sqlstate, "2BP01");
        let message = format!(
            "column \"embedding\" cannot have 384 dimensions instead of 32: view {view} depends on it"
        );
        assert_eq!(refusal.message, message);
    }
    let view = "SELECT pg_get_viewdef('docs_chunks_view'), reloptions, relacl::text[] FROM pg_class WHERE relname = 'docs_chunks_view'";
    let before = rows(&mut client, view);
    client
        .batch_execute(&format!(
            "DROP VIEW mine, yours; {}; {}",
            alter("docs_embedding"),
            alter("docs_chunks")
        ))
        .unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
    assert_eq!(rows(&mut client, view), before);
    let types = "SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid IN ('docs'::regclass, 'docs_chunks'::regclass) AND attname = 'embedding'";
    assert_eq!(value(&mut client, types), "vector(384)");
    client.batch_execute("SET enable_seqscan = off").unwrap();
    for table in ["docs", "docs_chunks"] {
        let plan = rows(
            &mut client,
            &format!("EXPLAIN SELECT * FROM {table} ORDER BY embedding <=> embed('{model}', 'x') LIMIT 1"),
        );
        assert!(plan.iter().any(|line| line[0].contains("Index Scan using")), "{plan:?}");
    }
}

/// Under the name of a model that the session has in memory.
#[test]
fn files_of_other_dimensions() {
    let (cluster, mut client) = without_workers();
    let Some(model) = cluster.real_model() else {
        return skipped("a model of other dimensions: none is installed");
    };
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 5) i;
             SELECT vectorizer_create('docs', '{body}', target => 'embedding')",
        )
        .unwrap();
    run(&mut client);
    let folder = cluster.models().join("tiny-bert");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(cluster.models().join(model), &folder).unwrap();
    client.batch_execute("SELECT vectorizer_alter('docs_embedding', model => 'tiny-bert')").unwrap();
    run(&mut client);
    assert_eq!(
        value(&mut client, "SELECT string_agg(DISTINCT vector_dims(embedding)::text, ',') FROM docs"),
        "384"
    );
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn partitions_change_their_model_too() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    client
        .batch_execute(
            "CREATE TABLE docs (body text, id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (50);
             CREATE TABLE docs_2 (id int NOT NULL, body text);
             ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES FROM (50) TO (1000);
             INSERT INTO docs (id, body) SELECT i, 'text ' || i FROM generate_series(1, 99) i;
             SELECT vectorizer_create('docs', '{body}', target => 'embedding', index => true)",
        )
        .unwrap();
    run(&mut client);
    client.batch_execute("SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls')").unwrap();
    client.batch_execute("CALL vectorizer_run(max_rows => 40)").unwrap();
    client
        .batch_execute(
            "INSERT INTO docs_2 (id, body) VALUES (200, 'direct'); INSERT INTO docs (id, body) VALUES (201, 'by the parent');
             UPDATE docs SET id = 300 WHERE id = 10; UPDATE docs_1 SET body = 'changed' WHERE id = 11",
        )
        .unwrap();
    assert_eq!(value(&mut client, WRONG), "3");
    // Nothing has told the next vectorizer of these.
    client
        .batch_execute(
            "CREATE TABLE docs_3 (LIKE docs); INSERT INTO docs_3 VALUES ('attached', 1001, embed('tiny-bert', 'attached'));
             ALTER TABLE docs ATTACH PARTITION docs_3 FOR VALUES FROM (1000) TO (2000);
             CREATE INDEX docs_1_only ON docs_1 USING ivf (embedding vector_cosine_ops)",
        )
        .unwrap();
    let index = "SELECT pg_relation_filenode('docs_1_only')";
    let before = value(&mut client, index);
    run(&mut client);
    assert_eq!(value(&mut client, "SELECT model FROM vectorizer"), "tiny-cls");
    assert_ne!(value(&mut client, index), before);
    assert_eq!(value(&mut client, "SELECT stale_indexes FROM vectorizer"), "{}");
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn a_change_can_be_called_off() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls'), vectorizer_alter('docs_chunks', model => 'tiny-cls')",
        )
        .unwrap();
    let refusal = refused(&mut client, "SELECT vectorizer_alter('docs_embedding', sources => '{title}')");
    assert_eq!(refusal.sqlstate, "55006");
    assert_eq!(
        refused(&mut client, "SELECT vectorizer_alter('docs_embedding (next)', sources => '{title}')")
            .sqlstate,
        "55006"
    );
    client.batch_execute("CALL vectorizer_run(max_rows => 20)").unwrap();
    client
        .batch_execute(
            "SELECT vectorizer_drop('docs_embedding (next)'); UPDATE docs SET body = 'changed' WHERE id = 1",
        )
        .unwrap();
    // With what it was to replace.
    client.batch_execute("SELECT vectorizer_drop('docs_chunks', drop_destination => true)").unwrap();
    assert_eq!(rows(&mut client, "SELECT name, pending FROM vectorizer_status"), [["docs_embedding", "1"]]);
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_next%' OR relname LIKE '%chunks%'";
    assert_eq!(value(&mut client, left), "0");
    assert_eq!(value(&mut client, "SELECT count(DISTINCT vectorizer) FROM vectorizer_log"), "1");
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    // A paused one stays so.
    client.batch_execute("SELECT vectorizer_pause('docs_embedding'), vectorizer_alter('docs_embedding', model => 'tiny-cls')").unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, "SELECT string_agg(DISTINCT state, ',') FROM vectorizer_status"), "paused");
    client.batch_execute("SELECT vectorizer_resume('docs_embedding')").unwrap();
    run(&mut client);
    assert_eq!(
        rows(&mut client, "SELECT name, model FROM vectorizer_status"),
        [["docs_embedding", "tiny-cls"]]
    );
    assert_eq!(value(&mut client, WRONG), "0");
}

/// What could not be embedded is known by the new one, and has no vector of the old model.
#[test]
fn rows_that_the_next_model_cannot_embed() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT vectorizer_create('docs', '{body}', target => 'embedding');
             INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 9) i;
             INSERT INTO docs VALUES (10, repeat('word ', 100))",
        )
        .unwrap();
    run(&mut client);
    client.batch_execute("SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls')").unwrap();
    client.batch_execute("SET pg_embed.on_truncate = 'error'").unwrap();
    run(&mut client);
    // It is tried again before all is called done.
    assert_eq!(value(&mut client, "SELECT model FROM vectorizer WHERE replaces IS NULL"), "tiny-bert");
    client.batch_execute("UPDATE vectorizer_failure SET attempts = 5, not_before = '-infinity'").unwrap();
    run(&mut client);
    let found = "SELECT model, embedded, failed FROM vectorizer_status";
    assert_eq!(rows(&mut client, found), [["tiny-cls", "9", "1"]]);
    assert_eq!(
        rows(&mut client, "SELECT vectorizer, key FROM vectorizer_error"),
        [["docs_embedding", "{10}"]]
    );
    client.batch_execute("RESET pg_embed.on_truncate; SELECT vectorizer_retry('docs_embedding')").unwrap();
    run(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
}

#[test]
fn rows_that_a_trigger_keeps_from_being_written() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client.batch_execute("SELECT vectorizer_drop('docs_chunks', drop_destination => true)").unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER keep BEFORE UPDATE ON docs FOR EACH ROW WHEN (old.id = 7) EXECUTE FUNCTION keep();
             SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls')",
        )
        .unwrap();
    run(&mut client);
    run(&mut client);
    assert_eq!(
        rows(&mut client, "SELECT vectorizer, key FROM vectorizer_error"),
        [["docs_embedding", "{7}"]]
    );
    assert_eq!(value(&mut client, WRONG), "1");
}

#[test]
fn what_goes_meanwhile_leaves_nothing_behind() {
    let (cluster, mut client) = without_workers();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls'), vectorizer_alter('docs_chunks', model => 'tiny-cls');
             DROP TABLE docs CASCADE",
        )
        .unwrap();
    run(&mut client);
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT vectorizer_create('docs', '{body}', target => 'embedding');
             SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls')",
        )
        .unwrap();
    run(&mut client);
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_next'";
    assert_eq!(value(&mut client, left), "0");
    assert_eq!(
        rows(&mut client, "SELECT name, model FROM vectorizer_status"),
        [["docs_embedding", "tiny-cls"]]
    );
    // Of a transaction that does not see what there is.
    let mut old = cluster.connect();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    client.batch_execute("INSERT INTO docs VALUES (1, 'x'); SELECT vectorizer_alter('docs_embedding', model => 'tiny-bert')").unwrap();
    assert_eq!(refused_in_block(&mut old, "SELECT vectorizer_drop('docs_embedding')"), "40001");
    run(&mut client);
    assert_eq!(
        rows(&mut client, "SELECT name, model, embedded FROM vectorizer_status"),
        [["docs_embedding", "tiny-bert", "1"]]
    );
}

/// The SQLSTATE of what ends a transaction.
fn refused_in_block(client: &mut Client, sql: &str) -> String {
    let error = client.simple_query(sql).expect_err("the statement must be refused");
    client.batch_execute("ROLLBACK").unwrap();
    error.code().expect("an ERROR of the server's").code().to_string()
}

/// Workers, writers and searches go on all the time; no statement ever sees vectors of two models.
#[test]
fn models_change_while_all_write_and_read() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client
        .batch_execute("INSERT INTO docs SELECT i, 'title', 'text ' || i FROM generate_series(1001, 2500) i")
        .unwrap();
    wait_for(&mut client);
    let deadline = Instant::now() + Duration::from_secs(8);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let mut client = cluster.connect();
            scope.spawn(move || {
                let mut i = 0_u32;
                while Instant::now() < deadline {
                    i += 1;
                    let id = (i * 7919 + writer * 131) % 60;
                    let statement = match i % 5 {
                        0 => format!("DELETE FROM docs WHERE id = {id}"),
                        1 | 2 => format!(
                            "INSERT INTO docs VALUES ({id}, 'new {i}', 'of writer {writer}, {i}')
                             ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                        ),
                        3 => format!(
                            "BEGIN; SELECT count(*) FROM docs WHERE id = {id}; SELECT pg_sleep(0.02);
                             UPDATE docs SET body = 'slow {i}' WHERE id = {id}; COMMIT"
                        ),
                        _ => {
                            format!("UPDATE docs SET body = repeat('changed {i} ', {i} % 9) WHERE id = {id}")
                        }
                    };
                    client.batch_execute(&statement).unwrap();
                }
            });
        }
        let mut reader = cluster.connect();
        scope.spawn(move || {
            // Rows that nobody changes; the last column asks what searches ask.
            let mixed = "SELECT count(*) FILTER (WHERE d.embedding IS DISTINCT FROM embed(v.model, d.body)),
                    count(*) FILTER (WHERE c.embedding IS DISTINCT FROM embed(w.model, d.body)),
                    count(*) FILTER (WHERE vectorizer_embed('docs_embedding', d.body) IS DISTINCT FROM d.embedding)
                FROM docs AS d LEFT JOIN docs_chunks AS c USING (id),
                    vectorizer AS v, vectorizer AS w
                WHERE d.id BETWEEN 1001 AND 1200 AND v.name = 'docs_embedding' AND w.name = 'docs_chunks'";
            while Instant::now() < deadline {
                assert_eq!(rows(&mut reader, mixed), [["0", "0", "0"]]);
            }
        });
        let mut changes = 0;
        for model in ["tiny-cls", "tiny-bert"].iter().cycle() {
            if Instant::now() > deadline {
                break;
            }
            for name in ["docs_embedding", "docs_chunks"] {
                client
                    .batch_execute(&format!("SELECT vectorizer_alter('{name}', model => '{model}')"))
                    .unwrap();
            }
            wait_until("the models have changed", || {
                value(&mut client, "SELECT count(*) FILTER (WHERE replaces IS NOT NULL) FROM vectorizer")
                    == "0"
            });
            changes += 1;
        }
        assert!(changes > 1, "{changes} changes");
    });
    wait_for(&mut client);
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
    assert_eq!(value(&mut client, "SELECT count(*) FROM vectorizer_failure"), "0");
}

#[test]
fn a_server_that_is_killed_meanwhile() {
    let mut cluster = Cluster::with_settings(&["shared_preload_libraries = 'pg_embed'"]);
    let mut client = cluster.client();
    add_model(&cluster, "tiny-cls");
    with_docs(&mut client);
    client
        .batch_execute("INSERT INTO docs SELECT i, 'title', 'text ' || i FROM generate_series(1001, 9000) i")
        .unwrap();
    wait_for(&mut client);
    client
        .batch_execute(
            "SELECT vectorizer_alter('docs_embedding', model => 'tiny-cls'), vectorizer_alter('docs_chunks', model => 'tiny-cls')",
        )
        .unwrap();
    drop(client);
    for _ in 0..4 {
        cluster.kill();
        cluster.boot();
        let mut client = cluster.connect();
        assert_eq!(value(&mut client, WRONG), "0");
        std::thread::sleep(Duration::from_millis(400));
    }
    let mut client = cluster.connect();
    wait_until("the models have changed", || {
        value(&mut client, "SELECT string_agg(DISTINCT model, ',') FROM vectorizer") == "tiny-cls"
    });
    assert_eq!(value(&mut client, WRONG), "0");
    assert_eq!(value(&mut client, WRONG_CHUNKS), "0");
}

#[test]
fn only_the_owner_may() {
    let (cluster, mut client) = without_workers();
    with_docs(&mut client);
    client.batch_execute("CREATE ROLE stranger LOGIN; GRANT ALL ON docs, docs_chunks TO stranger").unwrap();
    let mut stranger = cluster.connect_as("stranger", "postgres");
    for call in [
        "vectorizer_alter('docs_embedding', sources => '{title}')",
        "vectorizer_alter('docs_embedding', model => 'tiny-pooled')",
        "vectorizer_drop('docs_embedding')",
    ] {
        let refusal = refused(&mut stranger, &format!("SELECT {call}"));
        assert_eq!(
            (refusal.sqlstate.as_str(), refusal.message.as_str()),
            ("42501", "must be owner of table docs"),
            "{call}"
        );
    }
    // The vector of a search text is no secret.
    assert_eq!(value(&mut stranger, "SELECT vectorizer_embed('docs_embedding', 'x') = embed('x')"), "t");
}
