//! embed_trigger under every way to write a row. How it is misused is in the golden tests.

use std::fs;
use std::io::Write;

use postgres::Client;

use crate::cluster::{Cluster, copy_folder, refused, rows, skipped, test_data, value};

/// A table `docs (id, title, body, note, embedding)` whose trigger joins title and body.
fn with_docs(cluster: &Cluster) -> Client {
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, title text, body text, note text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'title', 'body')",
        )
        .unwrap();
    client
}

/// Ids of the rows whose vector is not that of their text.
const WRONG: &str = "SELECT id FROM docs
    WHERE embedding IS DISTINCT FROM embed('tiny-bert', concat_ws(E'\\n', title, body)) ORDER BY id";

fn none() -> Vec<Vec<String>> {
    vec![]
}

#[test]
fn several_sessions_at_once() {
    let cluster = Cluster::start();
    let mut client = with_docs(&cluster);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut client = cluster.connect();
            std::thread::spawn(move || {
                for i in 0..50 {
                    let id = writer * 50 + i;
                    let text = format!("text {i} of writer {writer}");
                    client.execute("INSERT INTO docs (id, body) VALUES ($1, $2)", &[&id, &text]).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(value(&mut client, "SELECT count(*) FROM docs"), "200");
    assert_eq!(rows(&mut client, WRONG), none());
}

#[test]
fn only_a_changed_source_is_embedded_again() {
    let cluster = Cluster::start();
    let mut client = with_docs(&cluster);
    client.batch_execute("INSERT INTO docs VALUES (1, 'a title', 'a body')").unwrap();
    client.batch_execute("ALTER TABLE docs DISABLE TRIGGER docs_embed").unwrap();
    client.batch_execute("UPDATE docs SET embedding = embedding + embedding").unwrap();
    client.batch_execute("ALTER TABLE docs ENABLE TRIGGER docs_embed").unwrap();
    let by_hand = value(&mut client, "SELECT embedding FROM docs");
    for unrelated in ["note = 'new'", "id = 1", "title = title, body = body", "body = 'a ' || 'body'"] {
        client.batch_execute(&format!("UPDATE docs SET {unrelated}")).unwrap();
        assert_eq!(value(&mut client, "SELECT embedding FROM docs"), by_hand, "{unrelated}");
    }
    // Also set by hand in an UPDATE that the trigger sees.
    client.batch_execute("UPDATE docs SET embedding = embedding - embedding").unwrap();
    assert_eq!(value(&mut client, "SELECT vector_norm(embedding) FROM docs"), "0");
    // A vector that is not there is made, whether it was taken away or the row is older than the trigger.
    for (set, is_there) in [("embedding = NULL", "t"), ("body = body", "t"), ("note = 'newer'", "f")] {
        client
            .batch_execute(
                "ALTER TABLE docs DISABLE TRIGGER docs_embed; UPDATE docs SET embedding = NULL;
                 ALTER TABLE docs ENABLE TRIGGER docs_embed",
            )
            .unwrap();
        client.batch_execute(&format!("UPDATE docs SET {set}")).unwrap();
        let right = "SELECT embedding IS NOT DISTINCT FROM embed(title || E'\\n' || body) FROM docs";
        assert_eq!(value(&mut client, right), is_there, "{set}");
    }
    for related in ["body = 'another body'", "title = NULL", "title = ''", "title = 'x', body = NULL"] {
        client.batch_execute(&format!("UPDATE docs SET embedding = NULL, {related}")).unwrap();
        assert_eq!(rows(&mut client, WRONG), none(), "{related}");
    }
}

#[test]
fn sources_are_joined_by_a_newline() {
    let cluster = Cluster::start();
    let mut client = with_docs(&cluster);
    client
        .batch_execute(
            "INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'a', NULL), (3, NULL, 'b'), (4, NULL, NULL), (5, '', ' '),
               (6, E'\\t', NULL)",
        )
        .unwrap();
    let expected = [
        "embedding = embed('a' || E'\\n' || 'b')",
        "embedding = embed('a')",
        "embedding = embed('b')",
        "embedding IS NULL",
        "embedding IS NULL",
        "embedding IS NULL",
    ];
    for (id, condition) in (1..).zip(expected) {
        let sql = format!("SELECT {condition} FROM docs WHERE id = {id}");
        assert_eq!(value(&mut client, &sql), "t", "{sql}");
    }
    // BERT's tokenizers take a newline for a space. This one takes it for a word.
    let folder = cluster.models().join("newline");
    copy_folder(&test_data("tiny-bert"), &folder);
    let tokenizer = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let (before, normalizer) = tokenizer.split_once("\"normalizer\": ").unwrap();
    let (normalizer, after) = normalizer.split_once("},").unwrap();
    let newline = r#"{"type": "Replace", "pattern": {"String": "\n"}, "content": " the "}"#;
    let sequence = format!(r#"{{"type": "Sequence", "normalizers": [{newline}, {normalizer}}}]}}"#);
    fs::write(folder.join("tokenizer.json"), format!("{before}\"normalizer\": {sequence},{after}")).unwrap();
    client
        .batch_execute("SET pg_embed.default_model = 'newline'; INSERT INTO docs VALUES (7, 'a', 'b')")
        .unwrap();
    let joined = "SELECT embedding = embed('tiny-bert', 'a the b') FROM docs WHERE id = 7";
    assert_eq!(value(&mut client, joined), "t");
    // A text that becomes blank loses its vector.
    client.batch_execute("UPDATE docs SET title = NULL, body = ' ' WHERE id = 1").unwrap();
    assert_eq!(value(&mut client, "SELECT embedding IS NULL FROM docs WHERE id = 1"), "t");
}

#[test]
fn partitioned_tables() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, title text, body text, embedding vector(32)) PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (100);
             -- Other column numbers than the parent's.
             CREATE TABLE high (gone int, embedding vector(32), body text, also_gone text, title text, id int);
             ALTER TABLE high DROP gone, DROP also_gone;
             ALTER TABLE docs ATTACH PARTITION high FOR VALUES FROM (100) TO (200);
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'title', 'body');
             INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i FROM generate_series(90, 110) i;
             UPDATE docs SET body = 'changed' WHERE id IN (90, 110);
             UPDATE docs SET id = id + 100, body = 'moved' WHERE id = 91",
        )
        .unwrap();
    assert_eq!(rows(&mut client, WRONG), none());
    assert_eq!(value(&mut client, "SELECT count(*) FROM high"), "12");
}

#[test]
fn copy_upsert_and_merge() {
    let cluster = Cluster::start();
    let mut client = with_docs(&cluster);
    let mut copy = client.copy_in("COPY docs (id, title, body) FROM STDIN").unwrap();
    for i in 1..=100 {
        writeln!(copy, "{i}\ttitle {i}\tbody {i}").unwrap();
    }
    copy.finish().unwrap();
    assert_eq!(value(&mut client, "SELECT count(embedding) FROM docs"), "100");
    assert_eq!(rows(&mut client, WRONG), none());

    client
        .batch_execute(
            "INSERT INTO docs (id, title, body) VALUES (1, 'new title', 'new body'), (101, 'brand', 'new')
               ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT title FROM docs WHERE id = 1"), "new title");
    assert_eq!(rows(&mut client, WRONG), none());

    if value(&mut client, "SHOW server_version_num").parse::<u32>().unwrap() < 150_000 {
        return skipped("MERGE: this Postgres has none");
    }
    client
        .batch_execute(
            "MERGE INTO docs USING (VALUES (2, 'merged'), (102, 'merged anew')) AS source (id, body)
               ON docs.id = source.id
               WHEN MATCHED THEN UPDATE SET body = source.body
               WHEN NOT MATCHED THEN INSERT (id, body) VALUES (source.id, source.body)",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM docs WHERE body LIKE 'merged%'"), "2");
    assert_eq!(rows(&mut client, WRONG), none());
}

#[test]
fn columns_of_every_sort() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE DOMAIN title AS varchar(200) CHECK (value <> 'forbidden');
             CREATE DOMAIN unit_vector AS vector(32) CHECK (vector_norm(value) < 1.001);
             CREATE TABLE docs (gone text, id int, gone_too vector(3), title title, body varchar(100),
               \"Padded Text\" char(20), embedding vector, \"Domain\" unit_vector);
             ALTER TABLE docs DROP gone;
             CREATE TRIGGER one BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'title', 'body');
             CREATE TRIGGER two BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('Domain', 'tiny-bert', 'Padded Text');
             INSERT INTO docs (id, title, body, \"Padded Text\") VALUES (1, 'a title', 'a body', 'padded');
             -- While the session has the trigger in use.
             ALTER TABLE docs DROP gone_too;
             INSERT INTO docs (id, title, body, \"Padded Text\") VALUES (2, 'a title', 'a body', 'padded')",
        )
        .unwrap();
    assert_eq!(rows(&mut client, WRONG), none());
    let padded = "SELECT id FROM docs WHERE \"Domain\" = embed('padded') ORDER BY id";
    assert_eq!(rows(&mut client, padded), [["1"], ["2"]]);
    // A model of other dimensions suits a column without a number, not one with.
    client.batch_execute("ALTER TABLE docs ADD narrow vector(16)").unwrap();
    client
        .batch_execute(
            "CREATE TRIGGER three BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('narrow', 'default', 'title')",
        )
        .unwrap();
    let refusal = refused(&mut client, "INSERT INTO docs (id, title) VALUES (3, 'x')");
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("22000", "expected 16 dimensions, not 32")
    );
}

#[test]
fn rollbacks_leave_nothing_behind() {
    let cluster = Cluster::start();
    let mut client = with_docs(&cluster);
    client
        .batch_execute(
            "BEGIN;
             INSERT INTO docs (id, body) VALUES (1, 'kept');
             SAVEPOINT s;
             INSERT INTO docs (id, body) VALUES (2, 'lost');
             UPDATE docs SET body = 'lost' WHERE id = 1;
             ROLLBACK TO s;
             INSERT INTO docs (id, body) VALUES (3, 'kept too')",
        )
        .unwrap();
    client.batch_execute("SAVEPOINT s; SET LOCAL pg_embed.default_model = 'none'").unwrap();
    let error = client.batch_execute("INSERT INTO docs (id, body) VALUES (4, 'never')").unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42704"));
    client
        .batch_execute("ROLLBACK TO s; INSERT INTO docs (id, body) VALUES (5, 'after an error'); COMMIT")
        .unwrap();
    assert_eq!(rows(&mut client, "SELECT id FROM docs ORDER BY id"), [["1"], ["3"], ["5"]]);
    assert_eq!(rows(&mut client, WRONG), none());
}
