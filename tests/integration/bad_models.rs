//! Model folders and libraries that cannot be used: one clear ERROR each, and the next call works once it is mended.

use crate::cluster::{Cluster, refused, test_data};

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
        format!("Installed in \"{}\": tiny-bert, tiny-int8, tiny-pooled.", models.display())
    );
    assert!(refusal.hint.contains("make model MODEL=no-such-model"), "{}", refusal.hint);
    for name in ["../tiny-bert", "a/b", "..", ".", "", "/etc", "tiny-bert/"] {
        let refusal = refused(&mut client, &format!("SELECT embed('{name}', 'text')"));
        assert_eq!(refusal.sqlstate, "42602", "{name}");
    }
}

#[test]
fn a_broken_folder_is_an_error_and_works_once_mended() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let file = cluster.models().join("tiny-bert/tokenizer.json");
    for (content, sqlstate) in [(None, "58P01"), (Some("{ broken"), "F0000")] {
        std::fs::remove_file(&file).unwrap();
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let refusal = refused(&mut client, "SELECT embed('hello')");
        assert_eq!(refusal.sqlstate, sqlstate, "{refusal:?}");
        assert!(refusal.message.contains("tokenizer.json"), "{refusal:?}");
        std::fs::copy(test_data("tiny-bert/tokenizer.json"), &file).unwrap();
    }
    client.query_one("SELECT embed('hello')", &[]).unwrap();
}
