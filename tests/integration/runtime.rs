//! pg_embed.onnxruntime_path naming what is not ONNX Runtime 1.28: a clear ERROR, and the session works once it is set right.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use postgres::Client;

use crate::cluster::{Cluster, Refusal, refused, skipped, value};

/// Points a session at `library`, sees that embedding is refused twice, and that the session embeds with the right one.
/// Fails when the server hangs, which no statement_timeout ends while a library is loading.
fn refused_with(mut client: Client, library: &Path) -> Refusal {
    let library = library.display().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        client.batch_execute("LOAD 'pg_embed'").unwrap();
        let right = value(&mut client, "SHOW pg_embed.onnxruntime_path");
        client.batch_execute(&format!("SET pg_embed.onnxruntime_path = '{library}'")).unwrap();
        let first = refused(&mut client, "SELECT embed('hello')");
        let second = refused(&mut client, "SELECT embed('hello')");
        assert_eq!(first, second);
        client.batch_execute(&format!("SET pg_embed.onnxruntime_path = '{right}'")).unwrap();
        assert_eq!(value(&mut client, "SELECT vector_dims(embed('hello'))"), "32");
        sender.send(first).unwrap();
    });
    receiver.recv_timeout(Duration::from_secs(60)).expect("see the panic above; else the server hangs")
}

#[test]
fn a_missing_library() {
    let cluster = Cluster::start();
    cluster.client();
    let library = cluster.host().join("nowhere/libonnxruntime.so");
    let refusal = refused_with(cluster.connect(), &library);
    assert_eq!(refusal.sqlstate, "58P01");
    assert_eq!(refusal.message, format!("could not load ONNX Runtime from \"{}\"", library.display()));
    assert!(refusal.hint.contains("pg_embed.onnxruntime_path"), "{refusal:?}");
    // Nothing is looked for beside the path, nor in the loader's default directories.
    for name in ["", "libonnxruntime.so", "libm.so.6"] {
        let refusal = refused_with(cluster.connect(), Path::new(name));
        assert_eq!(&refusal.sqlstate[..3], "58P", "{name} {refusal:?}");
    }
}

#[test]
fn a_file_that_is_not_a_library() {
    let cluster = Cluster::start();
    cluster.client();
    let file = cluster.host().join("text.so");
    fs::write(&file, "this is no library").unwrap();
    for path in [file.as_path(), cluster.host()] {
        let refusal = refused_with(cluster.connect(), path);
        assert_eq!(refusal.sqlstate, "58000", "{refusal:?}");
        assert!(refusal.message.contains(path.to_str().unwrap()), "{refusal:?}");
        assert!(!refusal.detail.is_empty() && refusal.hint.contains("1.28"), "{refusal:?}");
    }
}

#[test]
fn a_library_of_another_version_or_kind() {
    let cluster = Cluster::start();
    cluster.client();
    let old = "
        struct base { const void *(*api)(unsigned); const char *(*version)(void); };
        static const void *api(unsigned version) { return 0; }
        static const char *version(void) { return \"1.10.0\"; }
        static const struct base base = { api, version };
        const struct base *OrtGetApiBase(void) { return &base; }";
    let no_api = old.replace("1.10.0", "1.28.0");
    let null_base = "const void *OrtGetApiBase(void) { return 0; }";
    let other = "int something_else(void) { return 0; }";
    let cases = [
        ("old", old, "1.10.0"),
        ("no-api", &no_api, ""),
        ("null-base", null_base, ""),
        ("other", other, "OrtGetApiBase"),
    ];
    for (name, source, detail) in cases {
        let file = cluster.host().join(name).with_extension("c");
        let library = file.with_extension("so");
        fs::write(&file, source).unwrap();
        match Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &file]).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => return skipped(&format!("a library of another version: cc: {error}")),
        }
        let refusal = refused_with(cluster.connect(), &library);
        assert_eq!(refusal.sqlstate, "58000", "{name} {refusal:?}");
        assert!(refusal.message.contains(library.to_str().unwrap()), "{name} {refusal:?}");
        assert!(refusal.detail.contains(detail) && !refusal.detail.is_empty(), "{name} {refusal:?}");
        assert!(refusal.hint.contains("1.28"), "{name} {refusal:?}");
    }
}
