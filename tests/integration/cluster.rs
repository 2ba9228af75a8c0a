//! A private cluster on a Unix socket, gone when the test ends.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// A directory or file that `make test` names in the environment.
pub fn from_environment(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set; run these tests with `make test`"),
    }
}

/// The models that the private Postgres has.
pub fn installed_models() -> PathBuf {
    from_environment("PG_EMBED_TEST_MODELS")
}

/// A folder of tests/data.
pub fn test_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub struct Cluster {
    directory: tempfile::TempDir,
    server: Option<Child>,
}

impl Cluster {
    /// Makes and starts a cluster whose model directory holds copies of the tiny models; `tiny-bert` is the default.
    pub fn start() -> Cluster {
        Cluster::with_settings(&[])
    }

    /// Likewise, with lines for postgresql.conf.
    pub fn with_settings(settings: &[&str]) -> Cluster {
        Cluster::with_options(&[], settings)
    }

    /// Likewise, with options of initdb.
    pub fn with_options(initdb: &[&str], settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::in_new_directory();
        let data = cluster.data();
        let options = ["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D"];
        cluster.run("initdb", &[initdb, &options, &[data.to_str().unwrap()]].concat());
        for model in ["tiny-bert", "tiny-pooled", "tiny-int8", "tiny-q8", "tiny-cross"] {
            copy_folder(&test_data(model), &cluster.models().join(model));
        }
        let mut conf = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n\
             pg_embed.model_path = '{}'\npg_embed.default_model = 'tiny-bert'\n",
            cluster.directory.path().display(),
            cluster.models().display(),
        );
        for line in settings {
            conf.push_str(line);
            conf.push('\n');
        }
        let file = cluster.data().join("postgresql.auto.conf");
        std::fs::write(&file, conf).unwrap();
        open_to_server(&file);
        cluster.boot();
        cluster
    }

    /// Makes and starts a standby that streams from this cluster, with lines for postgresql.conf.
    pub fn standby(&self, settings: &[&str]) -> Cluster {
        let mut standby = Cluster::in_new_directory();
        let data = standby.data();
        let (from, to) = (self.host().to_str().unwrap(), data.to_str().unwrap());
        self.run(
            "pg_basebackup",
            &["-h", from, "-U", "postgres", "-D", to, "-c", "fast", "-X", "stream", "-R", "-N"],
        );
        let mut conf = format!("unix_socket_directories = '{}'\n", standby.host().display());
        for line in settings {
            conf.push_str(line);
            conf.push('\n');
        }
        let file = data.join("postgresql.auto.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(conf.as_bytes()).unwrap();
        standby.boot();
        standby
    }

    fn in_new_directory() -> Cluster {
        let directory = tempfile::Builder::new().prefix("pg_embed-test-").tempdir().unwrap();
        open_to_server(directory.path());
        Cluster { directory, server: None }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A model directory of the test's own.
    pub fn models(&self) -> PathBuf {
        self.directory.path().join("models")
    }

    /// Where the Unix socket is: what libpq calls the host.
    pub fn host(&self) -> &Path {
        self.directory.path()
    }

    /// Where the private Postgres is installed.
    pub fn postgres(&self) -> String {
        let directory = from_environment("PG_EMBED_TEST_BINDIR").canonicalize().unwrap();
        // DIRECTORY/lib/postgresql/15/bin
        directory.ancestors().nth(4).unwrap().display().to_string()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A superuser's connection to database `postgres`.
    pub fn connect(&self) -> Client {
        self.connect_as("postgres", "postgres")
    }

    pub fn connect_as(&self, user: &str, database: &str) -> Client {
        self.config(user, database).connect(NoTls).unwrap()
    }

    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.host()).user(user).dbname(database);
        config
    }

    /// A superuser's connection with the extension created.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        client
            .batch_execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_embed")
            .unwrap();
        client
    }

    /// Links a model of real size into the model directory, if one is installed, and says its name.
    pub fn real_model(&self) -> Option<&'static str> {
        let name = ["all-minilm-l6-v2", "gte-small"]
            .into_iter()
            .find(|name| installed_models().join(name).is_dir())?;
        std::os::unix::fs::symlink(installed_models().join(name), self.models().join(name)).unwrap();
        Some(name)
    }

    /// Runs a Postgres program as the server's user; it must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = server_command(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{program}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// An empty directory of the server's user, for a tablespace.
    pub fn new_directory(&self, name: &str) -> PathBuf {
        let directory = self.directory.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        open_to_server(&directory);
        directory
    }

    /// Stops the server as pg_ctl's mode says.
    pub fn stop(&mut self, mode: &str) {
        let mut server = self.server.take().expect("the server runs");
        self.run("pg_ctl", &["-D", self.data().to_str().unwrap(), "-m", mode, "-w", "stop"]);
        server.wait().unwrap();
    }

    /// Kills every process of the server with SIGKILL, as the end of the machine would.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let postmaster: i32 = file.lines().next().unwrap().parse().unwrap();
        signal(postmaster, libc::SIGKILL);
        wait_until("the killed processes end", || {
            let processes = processes_in(&self.data());
            for &pid in &processes {
                signal(pid, libc::SIGKILL);
            }
            processes.is_empty()
        });
        server.wait().unwrap();
    }

    /// Starts the server that was stopped or killed, and waits until it takes connections.
    pub fn boot(&mut self) {
        let path = self.directory.path().join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let server = server_command("postgres")
            .args(["-D", self.data().to_str().unwrap()])
            // No error shows a backtrace for it.
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.config("postgres", "postgres").connect(NoTls).is_err() {
            assert!(Instant::now() < deadline, "the server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let data = self.data();
            let _ = server_command("pg_ctl")
                .args(["-D", data.to_str().unwrap(), "-m", "immediate", "-w", "stop"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            let _ = server.wait();
        }
    }
}

/// Waits until the server has restarted by itself after one of its processes was killed, and takes connections again.
pub fn wait_for_recovery(cluster: &Cluster, restarts_before: usize) {
    wait_until("the server notices", || restarts(cluster) > restarts_before);
    wait_until("the server recovers", || {
        let connected = cluster.config("postgres", "postgres").connect(NoTls);
        connected.is_ok_and(|mut client| client.simple_query("SELECT 1").is_ok())
    });
}

/// How often the server has restarted by itself.
pub fn restarts(cluster: &Cluster) -> usize {
    cluster.log().matches("all server processes terminated").count()
}

/// Sends a signal to a process of a test's own server; false if it is gone.
pub fn signal(pid: i32, signal: i32) -> bool {
    // SAFETY: kill takes any numbers, and this pid is that of a server of this test.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// The processes that run in a directory: those of a server run in its data directory.
fn processes_in(directory: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
        .collect()
}

/// Postgres refuses to run as root: root runs it as the user `postgres`.
fn server_command(program: &str) -> Command {
    let program = from_environment("PG_EMBED_TEST_BINDIR").join(program);
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
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

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// How long a test under load goes on: as many seconds as PG_EMBED_TEST_SECONDS says.
pub fn duration(otherwise: u64) -> Duration {
    let seconds = std::env::var("PG_EMBED_TEST_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("PG_EMBED_TEST_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(otherwise))
}

/// Waits for a condition that another process brings about.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not after a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The fenced blocks of a kind in a page of the documentation, in order.
pub fn blocks(page: &str, kind: &str) -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let fence = format!("```{kind}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect()
}

/// A plan in the words of PostgreSQL 17 and newer.
pub fn in_newer_words(plan: &str) -> String {
    plan.replace("InitPlan 1 (returns $0)", "InitPlan 1").replace("$0", "(InitPlan 1).col1")
}

/// Says that something was not tested. Not with println!, which the test harness swallows.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}");
}

/// The rows of a query as text, NULL as "NULL".
#[track_caller]
pub fn rows(client: &mut Client, sql: &str) -> Vec<Vec<String>> {
    let text =
        |row: &SimpleQueryRow| (0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_string()).collect();
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(text(row)),
            _ => None,
        })
        .collect()
}

/// The one value of a query, as text.
#[track_caller]
pub fn value(client: &mut Client, sql: &str) -> String {
    let mut rows = rows(client, sql);
    assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
    rows.remove(0).remove(0)
}

/// An error as a user sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

/// Runs a statement that must be refused, and sees that the session is usable afterwards.
#[track_caller]
pub fn refused(client: &mut Client, sql: &str) -> Refusal {
    let answer = client.simple_query(sql).map(|messages| messages.len());
    let error = answer.expect_err("the statement must be refused, and gave as many messages");
    let error = error.as_db_error().unwrap_or_else(|| panic!("the connection broke: {error}"));
    let refusal = Refusal {
        sqlstate: error.code().code().to_string(),
        message: error.message().to_string(),
        detail: error.detail().unwrap_or_default().to_string(),
        hint: error.hint().unwrap_or_default().to_string(),
    };
    client.simple_query("SELECT 1").expect("the session must stay usable");
    refusal
}
