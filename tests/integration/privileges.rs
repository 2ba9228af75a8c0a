//! What a user who is no superuser may do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use postgres::{Client, NoTls};

use crate::cluster::{Cluster, refused, rows, value, wait_until};

/// A cluster with the extension and a user `app` who may create tables.
fn cluster_with_app() -> Cluster {
    let cluster = Cluster::start();
    cluster.client().batch_execute("CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app").unwrap();
    cluster
}

fn app(cluster: &Cluster) -> Client {
    cluster.connect_as("app", "postgres")
}

#[test]
fn paths_are_the_superusers() {
    let cluster = cluster_with_app();
    let mut client = app(&cluster);
    client.simple_query("SELECT embed('hello')").unwrap();
    for setting in ["pg_embed.model_path", "pg_embed.onnxruntime_path"] {
        let before = value(&mut client, &format!("SHOW {setting}"));
        for sql in [
            format!("SET {setting} = '/tmp'"),
            format!("SET SESSION {setting} TO DEFAULT"),
            format!("SELECT set_config('{setting}', '/tmp', false)"),
            format!("ALTER ROLE app SET {setting} = '/tmp'"),
        ] {
            assert_eq!(refused(&mut client, &sql).sqlstate, "42501", "{sql}");
        }
        assert_eq!(value(&mut client, &format!("SHOW {setting}")), before);
        client.simple_query("SELECT embed('other text')").unwrap();
    }
}

/// Who may create objects in a database may have the extension there; what only superusers may do stays theirs.
#[test]
fn the_extension_is_trusted() {
    let cluster = Cluster::start();
    cluster.connect().batch_execute("CREATE ROLE app LOGIN").unwrap();
    cluster.connect().batch_execute("CREATE DATABASE apps OWNER app").unwrap();
    let mut client = cluster.connect_as("app", "apps");
    client
        .batch_execute(
            "CREATE EXTENSION pg_embed;
             CREATE TABLE docs (id int, body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs SELECT i, 'text number ' || i FROM generate_series(1, 20) i;
             CREATE INDEX ON docs USING ivf (embedding vector_cosine_ops)",
        )
        .unwrap();
    let search = "SELECT id FROM docs ORDER BY embedding <=> embed('text number 7') LIMIT 1";
    assert_eq!(value(&mut client, search), "7");
    for refused_to_them in ["SET pg_embed.model_path = '/tmp'", "ALTER FUNCTION embed(text) OWNER TO app"] {
        assert_eq!(refused(&mut client, refused_to_them).sqlstate, "42501", "{refused_to_them}");
    }
    client.batch_execute("DROP EXTENSION pg_embed CASCADE").unwrap();
}

/// Before the library is loaded, Postgres takes a setting's name for a placeholder that anyone may set.
#[test]
fn paths_set_before_the_library_is_loaded_do_not_count() {
    let cluster = cluster_with_app();
    let settings = ["pg_embed.model_path", "pg_embed.onnxruntime_path"];
    let expected = settings.map(|setting| {
        let mut client = app(&cluster);
        client.simple_query("SELECT embed('hello')").unwrap();
        value(&mut client, &format!("SHOW {setting}"))
    });
    for (setting, expected) in settings.iter().zip(&expected) {
        let mut placeholder = app(&cluster);
        placeholder.batch_execute(&format!("SET {setting} = '/nowhere'")).unwrap();
        assert_eq!(value(&mut placeholder, &format!("SHOW {setting}")), "/nowhere");
        let mut options = cluster
            .config("app", "postgres")
            .options(&format!("-c {setting}=/nowhere"))
            .connect(NoTls)
            .unwrap();
        placeholder.simple_query("SELECT embed('hello')").unwrap();
        assert_eq!(value(&mut placeholder, &format!("SHOW {setting}")), *expected);
        // Postgres forgets postgresql.conf's value for the one of the connection before it refuses that: the default is left.
        options.simple_query("SELECT embed('hello')").unwrap();
        assert!(value(&mut options, &format!("SHOW {setting}")).starts_with(&cluster.postgres()));
        // In a transaction, and rolled back across the load.
        let mut client = app(&cluster);
        client.batch_execute(&format!("BEGIN; SET LOCAL {setting} = '/nowhere'")).unwrap();
        client.simple_query("SELECT embed('hello')").unwrap();
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(value(&mut client, &format!("SHOW {setting}")), *expected);
        let sql = format!("ALTER ROLE app SET {setting} = '/nowhere'");
        assert_eq!(refused(&mut app(&cluster), &sql).sqlstate, "42501");
    }
    // A superuser's placeholder does count.
    let mut client = cluster.connect();
    client.batch_execute("SET pg_embed.model_path = '/nowhere'").unwrap();
    assert_eq!(refused(&mut client, "SELECT embed('hello')").sqlstate, "42704");
}

#[test]
fn a_user_embeds_and_chooses_the_model() {
    let cluster = cluster_with_app();
    let mut client = app(&cluster);
    client
        .batch_execute(
            "SET pg_embed.default_model = 'tiny-pooled'; SET pg_embed.on_truncate = 'error';
             SET pg_embed.threads = 2; SET pg_embed.cache_size = 10;
             CREATE TABLE docs (body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs VALUES ('hello')",
        )
        .unwrap();
    let same = "SELECT embedding = embed('tiny-pooled', 'hello') AND embedding = embed('hello') FROM docs";
    assert_eq!(value(&mut client, same), "t");
    assert_eq!(value(&mut client, "SELECT token_count('hello') = token_count('tiny-bert', 'hello')"), "t");
    client.simple_query("SELECT embed_query('hello'), embed(ARRAY['a', 'b'])").unwrap();
}

#[test]
fn embed_models_shows_paths_to_superusers() {
    let cluster = cluster_with_app();
    let sql = "SELECT name, path FROM embed_models() ORDER BY name";
    let names = ["tiny-bert", "tiny-cross", "tiny-int8", "tiny-pooled", "tiny-q8"];
    let path = |name| cluster.models().join(name).display().to_string();
    assert_eq!(rows(&mut app(&cluster), sql), names.map(|name| [name.to_string(), "NULL".to_string()]));
    assert_eq!(rows(&mut cluster.connect(), sql), names.map(|name| [name.to_string(), path(name)]));
    // As who the user is now, not as who connected.
    let mut client = cluster.connect();
    client.batch_execute("SET ROLE app").unwrap();
    assert_eq!(rows(&mut client, sql)[0][1], "NULL");
}

#[test]
fn an_unreadable_model_directory() {
    let cluster = cluster_with_app();
    let mut client = app(&cluster);
    fs::set_permissions(cluster.models(), Permissions::from_mode(0o000)).unwrap();
    assert_eq!(rows(&mut client, "SELECT * FROM embed_models()").len(), 0);
    refused(&mut client, "SELECT embed('hello')");
    fs::set_permissions(cluster.models(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(rows(&mut client, "SELECT * FROM embed_models()").len(), 5);
    client.simple_query("SELECT embed('hello')").unwrap();
}

#[test]
fn a_reset_path_is_the_default_again() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let default = value(&mut client, "SELECT boot_val FROM pg_settings WHERE name = 'pg_embed.model_path'");
    assert!(default.ends_with("/pg_embed/models"), "{default}");
    client.batch_execute("ALTER SYSTEM RESET pg_embed.model_path").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until("the reload", || value(&mut client, "SHOW pg_embed.model_path") == default);
}
