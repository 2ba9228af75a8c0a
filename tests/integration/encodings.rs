//! Databases that are not UTF-8: the model sees the same characters.

use postgres::Client;

use crate::cluster::{Cluster, copy_folder, refused, rows, test_data, value};

const TEXTS: [&str; 3] = ["café", "naïve façade", "the quick ÿ fox"];

/// Connections to a database with the extension, and to one in LATIN1 without.
fn utf8_and_latin1(cluster: &Cluster) -> (Client, Client) {
    let mut utf8 = cluster.client();
    utf8.batch_execute("CREATE DATABASE l1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0").unwrap();
    (utf8, cluster.connect_as("postgres", "l1"))
}

/// What `chunk` makes of a text six times, and whether its offsets are those of substr.
fn chunks_of(text: &str) -> String {
    format!(
        "SELECT c.*, substr(t, start_offset, end_offset - start_offset) = content
         FROM repeat(E'{text}. ', 6) AS t, chunk(t, 12) AS c"
    )
}

#[test]
fn latin1_gives_the_vectors_of_utf8() {
    let cluster = Cluster::start();
    let (mut utf8, mut latin1) = utf8_and_latin1(&cluster);
    latin1
        .batch_execute(
            "CREATE EXTENSION pg_embed;
             CREATE TABLE docs (\"tëxt\" text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'tëxt')",
        )
        .unwrap();
    assert_eq!(value(&mut latin1, "SHOW server_encoding"), "LATIN1");
    assert_eq!(value(&mut latin1, "SELECT octet_length('café')"), "4");
    for text in TEXTS {
        let expected = value(&mut utf8, &format!("SELECT embed('{text}')"));
        assert_eq!(value(&mut latin1, &format!("SELECT embed('{text}')")), expected, "{text}");
        assert_eq!(value(&mut latin1, &format!("SELECT (embed(ARRAY['{text}']))[1]")), expected, "{text}");
        let inserted = format!("INSERT INTO docs VALUES ('{text}') RETURNING embedding");
        assert_eq!(value(&mut latin1, &inserted), expected, "{text}");
        let tokens = format!("SELECT token_count('{text}')");
        assert_eq!(value(&mut latin1, &tokens), value(&mut utf8, &tokens));
        assert_eq!(rows(&mut latin1, &chunks_of(text)), rows(&mut utf8, &chunks_of(text)));
    }
}

/// Messages quote names of files, which are UTF-8, and of SQL objects, which are in the database's encoding.
#[test]
fn messages_and_names_outside_utf8_are_escaped() {
    let cluster = Cluster::start();
    let (mut utf8, mut latin1) = utf8_and_latin1(&cluster);
    latin1
        .batch_execute(
            "CREATE EXTENSION pg_embed;
             CREATE TABLE docs (body text, \"vectör\" vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('vectör', 'default', 'bödy')",
        )
        .unwrap();
    std::fs::create_dir(cluster.models().join("模型")).unwrap();
    for (client, unknown, installed) in
        [(&mut utf8, "modèle", "模型"), (&mut latin1, r"mod\u00e8le", r"\u6a21\u578b")]
    {
        let refusal = refused(client, "SELECT embed('modèle', 'text')");
        assert_eq!(refusal.message, format!("model \"{unknown}\" does not exist"));
        assert!(refusal.detail.ends_with(&format!("tiny-q8, {installed}.")), "{refusal:?}");
        client.batch_execute("SET pg_embed.default_model = 'modèle'").unwrap();
        assert_eq!(refused(client, "SELECT embed('text')"), refusal);
        client.batch_execute("RESET pg_embed.default_model").unwrap();
        let listed = "SELECT name, position(name IN error) > 0 FROM embed_models() WHERE error IS NOT NULL";
        assert_eq!(rows(client, listed), [[installed, "t"]]);
    }
    let refusal = refused(&mut latin1, "INSERT INTO docs VALUES ('x')");
    assert_eq!(refusal.message, r#"column "b\u00f6dy" of embed_trigger does not exist"#);
    // A name that the database can hold names the folder.
    copy_folder(&test_data("tiny-bert"), &cluster.models().join("modèle"));
    let same = "SELECT embed('modèle', 'hello') = embed('tiny-bert', 'hello')";
    for client in [&mut utf8, &mut latin1] {
        client.batch_execute("SET pg_embed.default_model = 'modèle'").unwrap();
        assert_eq!(value(client, same), "t");
        assert_eq!(value(client, "SELECT vector_dims(embed('hello'))"), "32");
    }
}

#[test]
fn sql_ascii_refuses_what_is_not_utf8() {
    let cluster = Cluster::start();
    let mut utf8 = cluster.client();
    utf8.batch_execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").unwrap();
    let mut ascii = cluster.connect_as("postgres", "ascii");
    ascii
        .batch_execute(
            "CREATE EXTENSION pg_embed;
             CREATE TABLE docs (body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body')",
        )
        .unwrap();
    for sql in [
        r"SELECT embed(E'caf\xe9')",
        r"SELECT embed('tiny-bert', E'caf\xe9')",
        r"SELECT embed(E'tiny\xff', 'text')",
        r"SELECT embed(ARRAY['a', E'caf\xe9'])",
        r"SELECT embed_query(E'caf\xe9')",
        r"SELECT token_count(E'caf\xe9')",
        r"SELECT chunk(E'caf\xe9')",
        r"INSERT INTO docs VALUES (E'caf\xe9')",
    ] {
        assert_eq!(refused(&mut ascii, sql).sqlstate, "22021", "{sql}");
    }
    assert_eq!(value(&mut ascii, "SELECT count(*) FROM docs"), "0");
    // Bytes that are UTF-8 are taken for it.
    let expected = value(&mut utf8, "SELECT embed('café')");
    assert_eq!(value(&mut ascii, r"SELECT embed(E'caf\xc3\xa9')"), expected);
    assert_eq!(value(&mut ascii, "INSERT INTO docs VALUES ('café') RETURNING embedding"), expected);
    let chunks = rows(&mut ascii, &chunks_of("café naïve"));
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk[5] == "t"), "{chunks:?}");
}
