//! ALTER EXTENSION UPDATE from every released version leads to what CREATE EXTENSION makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::Client;

use crate::cluster::{Cluster, from_environment, rows, value};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the private Postgres looks for extensions.
fn extension_directory() -> PathBuf {
    let program = from_environment("PG_EMBED_TEST_BINDIR").join("pg_config");
    let output = Command::new(program).arg("--sharedir").output().unwrap();
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("extension")
}

/// Every object of the extension as SQL, in no particular order, and the extension's own row.
fn members(cluster: &Cluster, database: &str) -> Vec<String> {
    let host = cluster.host().to_str().unwrap();
    // This dumps what belongs to an extension, too, and the addresses that it is to have.
    let options = ["--binary-upgrade", "--schema-only", "-h", host, "-U", "postgres", database];
    let dump = cluster.run("pg_dump", &options);
    let lines =
        dump.lines().filter(|line| !line.starts_with("--") && !line.contains("binary_upgrade_set_next"));
    let mut statements: Vec<String> = lines
        .collect::<Vec<_>>()
        .join("\n")
        .split(";\n")
        .map(|statement| without_numbers(statement.trim()))
        .collect();
    // psql's own commands have a key that is another each time, and tables an age.
    statements.retain(|statement| {
        !statement.is_empty() && !statement.contains("restrict ") && !statement.contains("SET relfrozenxid")
    });
    statements.sort();
    statements
}

/// The extension's own statement has the numbers of its tables.
fn without_numbers(statement: &str) -> String {
    if !statement.contains("binary_upgrade_create_empty_extension") {
        return statement.to_string();
    }
    let words = statement.split_inclusive([',', '{', '}']);
    let is_number = |word: &str| word.len() > 1 && word[..word.len() - 1].bytes().all(|b| b.is_ascii_digit());
    words.map(|word| if is_number(word) { "table," } else { word }).collect()
}

/// The extensions that this server can have, each with what must be there before.
fn extensions(cluster: &Cluster) -> Vec<(&'static str, &'static str)> {
    let pgvector = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'";
    let mut extensions = vec![("pg_embed", "")];
    if value(&mut cluster.connect(), pgvector) == "1" {
        extensions.push(("pg_embed_pgvector", "CREATE EXTENSION vector"));
    }
    extensions
}

fn new_database(cluster: &Cluster, database: &str, before: &str) -> Client {
    cluster.connect().batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
    let mut client = cluster.connect_as("postgres", database);
    client.batch_execute(before).unwrap();
    client
}

/// The members of what an update from `old` leads to. Data and an index from before are there afterwards.
fn updated(cluster: &Cluster, (extension, before): (&str, &str), old: &str) -> Vec<String> {
    let database = format!("{extension}_{}", old.replace('.', "_"));
    let mut client = new_database(cluster, &database, before);
    client
        .batch_execute(&format!(
            "CREATE EXTENSION {extension} VERSION '{old}';
             CREATE TABLE docs (id int, body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs SELECT i, 'text number ' || i FROM generate_series(1, 20) i;
             CREATE INDEX docs_ivf ON docs USING ivf (embedding vector_cosine_ops);
             SET enable_seqscan = off"
        ))
        .unwrap();
    let contents = "SELECT id, body, embedding FROM docs ORDER BY id";
    let search = "SELECT id FROM docs ORDER BY embedding <=> embed('text number 7') LIMIT 5";
    let before = (rows(&mut client, contents), rows(&mut client, search));
    client.batch_execute(&format!("ALTER EXTENSION {extension} UPDATE")).unwrap();
    assert_eq!((rows(&mut client, contents), rows(&mut client, search)), before, "{old}");
    assert_eq!(rows(&mut client, "SELECT * FROM ivf_check('docs_ivf')"), [[""; 0]; 0]);
    client.batch_execute("INSERT INTO docs VALUES (21, 'new')").unwrap();
    assert_eq!(value(&mut client, "SELECT embedding = embed('new') FROM docs WHERE id = 21"), "t");
    client.batch_execute("DROP TABLE docs").unwrap();
    drop(client);
    members(cluster, &database)
}

fn created(cluster: &Cluster, (extension, before): (&str, &str)) -> Vec<String> {
    let database = format!("{extension}_created");
    let mut client = new_database(cluster, &database, before);
    client.batch_execute(&format!("CREATE EXTENSION {extension}")).unwrap();
    members(cluster, &database)
}

#[test]
fn every_released_version() {
    let cluster = Cluster::start();
    for extension in extensions(&cluster) {
        let created = created(&cluster, extension);
        let prefix = format!("{}--", extension.0);
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/released")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if let Some(version) = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".sql")) {
                assert_eq!(updated(&cluster, extension, version), created, "{name}");
            }
        }
    }
}

/// Scripts of versions that never were, gone when the test ends.
struct MadeUp(Vec<PathBuf>);

impl MadeUp {
    fn write(&mut self, name: &str, content: &str) {
        let file = extension_directory().join(name);
        fs::write(&file, content).unwrap();
        self.0.push(file);
    }
}

impl Drop for MadeUp {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}

/// The comparison above sees what an upgrade script forgets.
#[test]
fn a_made_up_older_version() {
    let cluster = Cluster::start();
    let mut scripts = MadeUp(vec![]);
    for extension in extensions(&cluster) {
        let name = extension.0;
        let present = extension_directory().join(format!("{name}--{VERSION}.sql"));
        let present = fs::read_to_string(present).unwrap();
        let added = present.find("CREATE FUNCTION ivf_recall").expect("the last function of the script");
        let comment = present.find("COMMENT ON FUNCTION ivf_recall").unwrap();
        let versions = [("0.0.1", &present[added..]), ("0.0.2", &present[added..comment]), ("0.0.3", "")];
        for (version, upgrade) in versions {
            scripts.write(&format!("{name}--{version}.sql"), &present[..added]);
            scripts.write(&format!("{name}--{version}--{VERSION}.sql"), upgrade);
        }
        let created = created(&cluster, extension);
        assert!(created.iter().any(|member| member.contains("ACCESS METHOD ivf")), "{created:?}");
        assert_eq!(updated(&cluster, extension, "0.0.1"), created);
        for incomplete in ["0.0.2", "0.0.3"] {
            assert_ne!(updated(&cluster, extension, incomplete), created, "{incomplete}");
        }
    }
}
