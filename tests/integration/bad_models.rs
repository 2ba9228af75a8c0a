//! Model folders that cannot be used: one clear ERROR each, and the next call works once it is mended.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cluster::{Cluster, copy_folder, refused, rows, test_data, value};

#[test]
fn unknown_and_invalid_names() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let refusal = refused(&mut client, "SELECT embed('no-such-model', 'text')");
    assert_eq!(refusal.sqlstate, "42704");
    assert_eq!(refusal.message, "model \"no-such-model\" does not exist");
    let models = cluster.models();
    assert_eq!(
        refusal.detail,
        format!("Installed in \"{}\": tiny-bert, tiny-int8, tiny-pooled, tiny-q8.", models.display())
    );
    assert!(refusal.hint.contains("make model MODEL=no-such-model"), "{}", refusal.hint);
    for name in ["../tiny-bert", "a/b", "..", ".", "", "/etc", "tiny-bert/"] {
        let refusal = refused(&mut client, &format!("SELECT embed('{name}', 'text')"));
        assert_eq!(refusal.sqlstate, "42602", "{name}");
    }
}

#[test]
fn a_broken_file_is_an_error_and_works_once_mended() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let folder = cluster.models().join("tiny-bert");
    let onnx = fs::read(test_data("tiny-bert/model.onnx")).unwrap();
    let config = fs::read_to_string(test_data("tiny-bert/config.json")).unwrap();
    let no_dimensions = config.replace(": 32,", ": 0,");
    // (file, what it holds or None for no file, SQLSTATE, what the detail says)
    let cases: &[(&str, Option<&[u8]>, &str, &str)] = &[
        ("tokenizer.json", None, "58P01", ""),
        ("tokenizer.json", Some(b"{ broken"), "F0000", "line 1"),
        ("config.json", None, "58P01", ""),
        ("config.json", Some(b"[]"), "F0000", ""),
        ("config.json", Some(no_dimensions.as_bytes()), "F0000", "hidden_size is 0"),
        ("modules.json", Some(b"{}"), "F0000", ""),
        ("model.onnx", None, "58P01", ""),
        ("model.onnx", Some(b""), "F0000", "not an ONNX model"),
        ("model.onnx", Some(&onnx[..1]), "F0000", "not a whole ONNX file"),
        ("model.onnx", Some(&onnx[..onnx.len() / 2]), "F0000", "not a whole ONNX file"),
        ("model.onnx", Some(&onnx[..onnx.len() - 1]), "F0000", "not a whole ONNX file"),
        ("model.onnx", Some(b"{\"hello\": 1}"), "F0000", ""),
    ];
    for (name, content, sqlstate, detail) in cases {
        let file = folder.join(name);
        fs::remove_file(&file).unwrap();
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let refusal = refused(&mut client, "SELECT embed('hello')");
        assert_eq!(refusal.sqlstate, *sqlstate, "{name} {refusal:?}");
        assert!(refusal.message.contains(file.to_str().unwrap()), "{refusal:?}");
        assert!(refusal.detail.contains(detail), "{refusal:?}");
        fs::copy(test_data("tiny-bert").join(name), &file).unwrap();
    }
    // The session that met all of this.
    assert_eq!(value(&mut client, "SELECT vector_dims(embed('hello'))"), "32");
}

#[test]
fn an_onnx_file_of_another_shape_than_config_json_says() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    for model in ["tiny-bert", "tiny-pooled"] {
        let file = cluster.models().join(model).join("config.json");
        let config = fs::read_to_string(&file).unwrap();
        assert!(config.contains("\"hidden_size\": 32"));
        fs::write(&file, config.replace("\"hidden_size\": 32", "\"hidden_size\": 48")).unwrap();
        let refusal = refused(&mut client, &format!("SELECT embed('{model}', 'hello')"));
        assert_eq!(refusal.sqlstate, "F0000", "{refusal:?}");
        assert!(refusal.message.contains("model.onnx"), "{refusal:?}");
        assert!(refusal.detail.contains("config.json promises 48 dimensions"), "{refusal:?}");
        fs::write(&file, config).unwrap();
        client.simple_query(&format!("SELECT embed('{model}', 'hello')")).unwrap();
    }
}

#[test]
fn an_unreadable_file_or_folder() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let folder = cluster.models().join("tiny-bert");
    let set_mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for name in ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.onnx"] {
        let file = folder.join(name);
        set_mode(&file, 0o000);
        let refusal = refused(&mut client, "SELECT embed('hello')");
        assert_eq!(refusal.sqlstate, "42501", "{name} {refusal:?}");
        assert!(refusal.message.contains(file.to_str().unwrap()), "{refusal:?}");
        assert!(refusal.message.contains("Permission denied"), "{refusal:?}");
        set_mode(&file, 0o644);
    }
    // A file that may not even be seen is not one that is not there.
    fs::remove_file(folder.join("modules.json")).unwrap();
    for (directory, file) in [("", "config.json"), ("1_Pooling", "1_Pooling/config.json")] {
        set_mode(&folder.join(directory), 0o000);
        let refusal = refused(&mut client, "SELECT embed('hello')");
        assert_eq!(refusal.sqlstate, "42501", "{directory} {refusal:?}");
        assert!(refusal.message.contains(file), "{refusal:?}");
        set_mode(&folder.join(directory), 0o755);
    }
    client.simple_query("SELECT embed('hello')").unwrap();
}

#[test]
fn an_insert_through_the_trigger_fails_whole_and_works_once_mended() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, body text, embedding vector(32));
             INSERT INTO docs VALUES (0, 'before', NULL);
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'tiny-bert', 'body')",
        )
        .unwrap();
    let file = cluster.models().join("tiny-bert/model.onnx");
    fs::write(&file, "broken").unwrap();
    let refusal = refused(&mut client, "INSERT INTO docs VALUES (1, 'hello'), (2, 'world')");
    assert_eq!(refusal.sqlstate, "F0000", "{refusal:?}");
    assert_eq!(rows(&mut client, "SELECT id FROM docs"), [["0"]]);
    // What needs no model works all the while.
    client.batch_execute("UPDATE docs SET id = 7; DELETE FROM docs").unwrap();
    fs::copy(test_data("tiny-bert/model.onnx"), &file).unwrap();
    client.batch_execute("INSERT INTO docs VALUES (1, 'hello')").unwrap();
    let same = "SELECT embedding = embed('tiny-bert', 'hello') FROM docs";
    assert_eq!(rows(&mut client, same), [["t"]]);
}

#[test]
fn embed_models_lists_broken_folders_with_their_error() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    copy_folder(&test_data("tiny-bert"), &cluster.models().join("broken"));
    fs::write(cluster.models().join("broken/config.json"), "{").unwrap();
    fs::create_dir(cluster.models().join("empty")).unwrap();
    copy_folder(&test_data("encoders/distilbert"), &cluster.models().join("no-weights"));
    fs::remove_file(cluster.models().join("no-weights/model.onnx_data")).unwrap();
    fs::create_dir(cluster.models().join(".hidden")).unwrap();
    fs::write(cluster.models().join("README"), "not a folder").unwrap();
    client.simple_query("SELECT embed('hello')").unwrap();
    let listed = rows(
        &mut client,
        "SELECT name, dimensions, max_tokens, loaded, error IS NULL FROM embed_models() ORDER BY name",
    );
    assert_eq!(
        listed,
        [
            ["broken", "NULL", "NULL", "f", "f"],
            ["empty", "NULL", "NULL", "f", "f"],
            ["no-weights", "NULL", "NULL", "f", "f"],
            ["tiny-bert", "32", "64", "t", "t"],
            ["tiny-cross", "NULL", "64", "f", "t"],
            ["tiny-int8", "32", "64", "f", "t"],
            ["tiny-pooled", "32", "64", "f", "t"],
            ["tiny-q8", "32", "64", "f", "t"],
        ]
    );
    let error = |client: &mut _, name| {
        value(client, &format!("SELECT error FROM embed_models() WHERE name = '{name}'"))
    };
    assert!(error(&mut client, "broken").contains("broken/config.json"));
    assert!(error(&mut client, "empty").contains("empty/config.json"));
    assert!(error(&mut client, "no-weights").contains("no-weights/model.onnx_data"));
}
