//! A private cluster on a Unix socket, gone when the test ends. `make test-search` sets the environment that it needs.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio_postgres::{Client, Config, NoTls};

pub struct Cluster {
    directory: tempfile::TempDir,
}

fn from_environment(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set; run these tests with `make test-search`"),
    }
}

/// The best model that the private Postgres has; the last one knows no meanings.
pub fn model() -> &'static str {
    let models = from_environment("PG_EMBED_TEST_MODELS");
    ["gte-small", "all-minilm-l6-v2"]
        .into_iter()
        .find(|name| models.join(name).is_dir())
        .unwrap_or("tiny-bert")
}

impl Cluster {
    /// Makes and starts a cluster with an empty database `search`.
    pub async fn start() -> Cluster {
        let model = model();
        from_environment("PG_EMBED_TEST_BINDIR");
        let directory = tempfile::Builder::new().prefix("pg_embed-search-").tempdir().unwrap();
        open_to_server(directory.path());
        let cluster = Cluster { directory };
        let data = cluster.data();
        cluster.run(
            "initdb",
            &["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D", &data],
        );
        let conf = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_preload_libraries = 'pg_embed'\npg_embed.preload_models = '{model}'\npg_embed.default_model = '{model}'\n",
            cluster.directory.path().display(),
        );
        let file = Path::new(&data).join("postgresql.auto.conf");
        std::fs::write(&file, conf).unwrap();
        open_to_server(&file);
        cluster.boot();
        cluster.client("postgres", "postgres").await.batch_execute("CREATE DATABASE search").await.unwrap();
        cluster
    }

    fn data(&self) -> String {
        self.directory.path().join("data").display().to_string()
    }

    /// How the program is told of the database.
    pub fn database(&self, user: &str) -> String {
        format!("host={} dbname=search user={user}", self.directory.path().display())
    }

    pub async fn client(&self, user: &str, database: &str) -> Client {
        let mut config: Config = self.database(user).parse().unwrap();
        let (client, connection) = config.dbname(database).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn boot(&self) {
        let log = self.directory.path().join("data/log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"]);
    }

    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Runs a Postgres program as the server's user; it must succeed.
    fn run(&self, program: &str, arguments: &[&str]) {
        // pg_ctl's server would hold a pipe open.
        let status = server_command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let log = || std::fs::read_to_string(self.directory.path().join("data/log")).unwrap_or_default();
        assert!(status.success(), "{program} failed: {}", log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = server_command("pg_ctl")
            .args(["-D", &self.data(), "-m", "immediate", "-w", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Postgres refuses to run as root: root runs it as the user `postgres`.
fn server_command(program: &str) -> Command {
    let program = from_environment("PG_EMBED_TEST_BINDIR").join(program);
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Gives a file or directory to the server's user.
fn open_to_server(path: &Path) {
    if path.is_dir() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    if is_root() {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let entry = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user named postgres");
        let mut numbers = entry.split(':').skip(2).map(|number| number.parse().unwrap());
        chown(path, numbers.next(), numbers.next()).unwrap();
    }
}
