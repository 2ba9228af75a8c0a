//! The extension's files in a directory of their own, as in an extension image of CloudNativePG: PostgreSQL 18 finds them by
//! extension_control_path and dynamic_library_path, and pg_embed its own by where its library is.
#![cfg(feature = "pg18")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, copy_folder, from_environment, test_data, value};

#[test]
fn files_of_an_image() {
    let image = tempfile::Builder::new().prefix("pg_embed-image-").tempdir().unwrap();
    let (lib, share) = (image.path().join("lib"), image.path().join("share"));
    fs::create_dir_all(lib.join("pg_embed")).unwrap();
    fs::create_dir_all(share.join("extension")).unwrap();
    let of_server = |option: &str| {
        let program = from_environment("PG_EMBED_TEST_BINDIR").join("pg_config");
        let output = Command::new(program).arg(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let library = Path::new(&of_server("--pkglibdir")).join("pg_embed.so");
    fs::copy(library, lib.join("pg_embed.so")).unwrap();
    let onnxruntime = from_environment("PG_EMBED_TEST_ONNXRUNTIME");
    let name = onnxruntime.file_name().unwrap();
    std::os::unix::fs::symlink(&onnxruntime, lib.join("pg_embed").join(name)).unwrap();
    let extension = Path::new(&of_server("--sharedir")).join("extension");
    for file in ["pg_embed.control", concat!("pg_embed--", env!("CARGO_PKG_VERSION"), ".sql")] {
        fs::copy(extension.join(file), share.join("extension").join(file)).unwrap();
    }
    copy_folder(&test_data("tiny-bert"), &share.join("pg_embed/models/tiny-bert"));
    for directory in [image.path(), &lib, &share] {
        fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    // The last ones win over those of every cluster of these tests: the model path of the library's own choice.
    let cluster = Cluster::with_settings(&[
        &format!("extension_control_path = '{}:$system'", share.display()),
        &format!("dynamic_library_path = '{}:$libdir'", lib.display()),
        &format!("pg_embed.model_path = '{}'", share.join("pg_embed/models").display()),
    ]);
    let mut client = cluster.client();
    assert_eq!(value(&mut client, "SELECT vector_dims(embed('hello'))"), "32");
    for (setting, expected) in [
        ("pg_embed.model_path", share.join("pg_embed/models")),
        ("pg_embed.onnxruntime_path", lib.join("pg_embed").join(name)),
    ] {
        let sql = format!("SELECT boot_val FROM pg_settings WHERE name = '{setting}'");
        assert_eq!(value(&mut client, &sql), expected.to_str().unwrap());
    }
}
