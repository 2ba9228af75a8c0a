//! What the operating system knows of the server process behind a connection.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::{Client, NoTls};

use crate::cluster::wait_until;

/// The process of a connection.
#[derive(Clone, Copy)]
pub struct Backend {
    pub pid: i32,
}

impl Backend {
    pub fn of(client: &mut Client) -> Backend {
        Backend { pid: client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0) }
    }

    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    /// A number of kilobytes in /proc/PID/status.
    pub fn kilobytes(&self, field: &str) -> u64 {
        let value = status_field(self.proc("status"), field);
        value.trim_end_matches(" kB").parse().unwrap()
    }

    /// CPU time of all threads since the process started: unlike the clock on the wall, not a matter of how busy the
    /// machine is.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        // After the command in parentheses, which may hold spaces: utime and stime are fields 14 and 15, from 1.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        // SAFETY: asks for a constant of the system.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
        Duration::from_millis(ticks * 1000 / per_second)
    }

    /// The parallel workers that help with its statement now.
    pub fn workers(&self) -> Vec<Backend> {
        let title = format!("parallel worker for PID {}", self.pid);
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(&title).then_some(Backend { pid })
        });
        processes.collect()
    }

    /// Private memory in bytes, 0 if the process is gone.
    fn anonymous(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        value.map_or(0, |value| value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
    }

    /// Folders in /proc of the threads, the main thread's among them.
    pub fn threads(&self) -> Vec<PathBuf> {
        fs::read_dir(self.proc("task")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Descriptors and names of the open sockets.
    pub fn sockets(&self) -> BTreeSet<(String, PathBuf)> {
        fs::read_dir(self.proc("fd"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter_map(|entry| {
                let name = fs::read_link(entry.path()).ok()?;
                name.to_string_lossy()
                    .starts_with("socket:")
                    .then(|| (entry.file_name().into_string().unwrap(), name))
            })
            .collect()
    }
}

/// A field of a /proc/.../status file.
pub fn status_field(file: PathBuf, field: &str) -> String {
    let status = fs::read_to_string(file).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_string()
}

/// The most private memory that a process and its parallel workers have while a statement runs, beyond what it had
/// before, in bytes.
#[track_caller]
pub fn peak_of(client: &mut Client, sql: &str) -> u64 {
    let backend = Backend::of(client);
    let before = backend.anonymous();
    let done = AtomicBool::new(false);
    let (result, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = before;
            while !done.load(Ordering::Relaxed) {
                let workers = backend.workers().iter().map(Backend::anonymous).sum::<u64>();
                peak = peak.max(backend.anonymous() + workers);
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let result = client.batch_execute(sql);
        done.store(true, Ordering::Relaxed);
        (result, sampler.join().unwrap())
    });
    result.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    peak - before
}

/// A statement that embeds texts longer than the model's maximum, for minutes if nothing stops it.
pub fn endless_embedding(real_model: Option<&str>) -> String {
    let (model, texts) = match real_model {
        Some(model) => (model, 1_000),
        None => ("tiny-bert", 1_000_000),
    };
    format!(
        "SELECT count(*) FROM unnest(embed('{model}', \
         ARRAY(SELECT i || repeat(' word', 300) FROM generate_series(1, {texts}) i)))"
    )
}

/// Cancels a statement once it computes, and sees that it ends as cancelled. Returns the CPU time between the two.
#[track_caller]
pub fn cancel(client: &mut Client, sql: &str) -> Duration {
    let backend = Backend::of(client);
    let token = client.cancel_token();
    let before = backend.cpu();
    let canceller = std::thread::spawn(move || {
        wait_until("the statement computes", || backend.cpu() > before + Duration::from_millis(700));
        let cancelled_at = backend.cpu();
        token.cancel_query(NoTls).unwrap();
        cancelled_at
    });
    let error = client.simple_query(sql).expect_err("the statement must be cancelled");
    let ended_at = backend.cpu();
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    ended_at.saturating_sub(canceller.join().unwrap())
}
